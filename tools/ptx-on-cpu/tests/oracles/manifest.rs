//! `oracles/fixtures/manifest.json`: how each oracle is launched and what it computes (`oracles/build.py` says what the fields mean).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub struct Oracle {
    pub name: String,
    pub file: String,
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub shared: usize,
    pub buffers: BTreeMap<String, Buffer>,
    pub parameters: Vec<Parameter>,
    pub formula: String,
    pub sizes: serde_json::Map<String, serde_json::Value>,
    /// Output to the parts of the value and of the magnitude by which it may be off.
    pub tolerance: BTreeMap<String, [f64; 2]>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Buffer {
    #[serde(rename = "type")]
    pub element: Element,
    pub shape: Vec<usize>,
    pub role: Role,
    /// What is in an input that is not drawn at random.
    #[serde(default)]
    pub values: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    Bf16,
    F32,
    F64,
    I32,
    I64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Input,
    Output,
    #[serde(rename = "zeroed output")]
    ZeroedOutput,
    Scratch,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Parameter {
    Pointer { pointer: String },
    I32 { i32: i32 },
    I64 { i64: i64 },
    F32 { f32: f32 },
    Map(Map),
    Struct { bytes: String, places: Vec<Place> },
}

#[derive(Clone, Debug, Deserialize)]
pub struct Map {
    /// The buffer that it is of.
    pub map: String,
    /// Elements, innermost first.
    pub dims: Vec<u64>,
    /// Bytes from one to the next, of all dimensions but the innermost.
    pub strides: Vec<u64>,
    #[serde(rename = "box")]
    pub tile: Vec<u32>,
    /// Bytes: 0, 32, 64 or 128.
    pub swizzle: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Place {
    pub at: usize,
    #[serde(flatten)]
    pub what: Parameter,
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Element::Bf16 => 2,
            Element::F32 | Element::I32 => 4,
            Element::F64 | Element::I64 => 8,
        }
    }

    /// The nearest number of this type, as bytes. i64 is exact up to 2^53, which no oracle passes.
    pub fn encode(self, value: f64) -> Vec<u8> {
        match self {
            Element::Bf16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
            Element::F32 => (value as f32).to_le_bytes().to_vec(),
            Element::F64 => value.to_le_bytes().to_vec(),
            Element::I32 => (value as i32).to_le_bytes().to_vec(),
            Element::I64 => (value as i64).to_le_bytes().to_vec(),
        }
    }

    pub fn decode(self, bytes: &[u8]) -> f64 {
        match self {
            Element::Bf16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
            Element::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
            Element::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
            Element::I32 => i32::from_le_bytes(bytes.try_into().unwrap()).into(),
            Element::I64 => i64::from_le_bytes(bytes.try_into().unwrap()) as f64,
        }
    }
}

impl Oracle {
    pub fn size(&self, name: &str) -> usize {
        self.sizes.get(name).and_then(|v| v.as_u64()).unwrap_or_else(|| panic!("{}: sizes has no {name}", self.name))
            as usize
    }

    pub fn number(&self, name: &str) -> f64 {
        self.sizes.get(name).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("{}: sizes has no {name}", self.name))
    }

    /// False where it is not said.
    pub fn flag(&self, name: &str) -> bool {
        self.sizes.get(name).is_some_and(|v| v.as_bool() == Some(true))
    }

    pub fn ptx(&self) -> String {
        let path = folder().join(&self.file);
        let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut text = String::new();
        flate2::read::GzDecoder::new(file)
            .read_to_string(&mut text)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text
    }
}

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("oracles/fixtures")
}

pub fn read() -> Vec<Oracle> {
    read_from(&folder().join("manifest.json"))
}

pub fn read_from(path: &Path) -> Vec<Oracle> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
