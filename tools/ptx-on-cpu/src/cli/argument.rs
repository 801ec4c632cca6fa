//! A kernel's arguments as a command line has them.

use std::path::PathBuf;

use half::{bf16, f16};
use ptx_on_cpu::{Memory, Swizzle, TensorMap};

use super::npy;

/// Type of a buffer's elements or of a scalar.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F64,
    F32,
    F16,
    Bf16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
}

impl Kind {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "f64" => Self::F64,
            "f32" => Self::F32,
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "i8" => Self::I8,
            "i16" => Self::I16,
            "i32" => Self::I32,
            "i64" => Self::I64,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            _ => return Err(format!("type {text} is not known")),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// A value rounded to this type.
    fn encode(self, value: f64) -> Vec<u8> {
        match self {
            Self::F64 => value.to_le_bytes().to_vec(),
            Self::F32 => (value as f32).to_le_bytes().to_vec(),
            Self::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Self::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Self::I8 => (value as i8).to_le_bytes().to_vec(),
            Self::I16 => (value as i16).to_le_bytes().to_vec(),
            Self::I32 => (value as i32).to_le_bytes().to_vec(),
            Self::I64 => (value as i64).to_le_bytes().to_vec(),
            Self::U8 => (value as u8).to_le_bytes().to_vec(),
            Self::U16 => (value as u16).to_le_bytes().to_vec(),
            Self::U32 => (value as u32).to_le_bytes().to_vec(),
            Self::U64 => (value as u64).to_le_bytes().to_vec(),
        }
    }

    /// NumPy's type, and the bytes in it: NumPy has no bf16.
    fn numpy(self, bytes: Vec<u8>) -> (&'static str, Vec<u8>) {
        let kind = match self {
            Self::F64 => "<f8",
            Self::F32 => "<f4",
            Self::F16 => "<f2",
            Self::Bf16 => {
                let wide = bytes.chunks_exact(2).flat_map(|bytes| [0, 0, bytes[0], bytes[1]]);
                return ("<f4", wide.collect());
            }
            Self::I8 => "|i1",
            Self::I16 => "<i2",
            Self::I32 => "<i4",
            Self::I64 => "<i8",
            Self::U8 => "|u1",
            Self::U16 => "<u2",
            Self::U32 => "<u4",
            Self::U64 => "<u8",
        };
        (kind, bytes)
    }
}

/// Where a buffer's content comes from.
enum Content {
    File(PathBuf),
    New(Vec<usize>),
}

/// A parameter of a kernel.
pub enum Argument {
    Buffer { kind: BufferKind, content: BufferContent, save: Option<PathBuf>, map: Option<Map> },
    Scalar(Vec<u8>),
}

/// Opaque to the command.
pub struct BufferKind(Kind);
/// Opaque to the command.
pub struct BufferContent(Content);

/// Tile and swizzle of a map, the tile's outermost size first.
pub struct Map {
    tile: Vec<u32>,
    swizzle: Swizzle,
}

/// An argument that has its place in memory.
pub struct Placed {
    /// Bytes of the parameter.
    pub value: Vec<u8>,
    address: u64,
    shape: Vec<usize>,
}

/// `128x64`
fn shape(text: &str) -> Result<Vec<usize>, String> {
    let sizes: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    let sizes = sizes.map_err(|why| format!("{text} is no shape: {why}"))?;
    let count = sizes.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    // So that no absurd number is asked of the machine.
    count.filter(|count| *count <= 1 << 34).ok_or(format!("{text} is too large"))?;
    Ok(sizes)
}

fn is_file(text: &str) -> bool {
    text.ends_with(".npy")
}

impl Argument {
    /// What stands behind `--buffer`, `--scalar` or `--tensormap`.
    ///
    /// # Errors
    /// What is not understood.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [kind, rest @ ..] = &parts[..] else { return Err("nothing stands here".into()) };
        let kind = Kind::parse(kind)?;
        match (name, rest) {
            ("scalar", [value]) => scalar(kind, value).map(Self::Scalar),
            ("buffer", [source, rest @ ..]) if rest.len() < 2 => {
                let content = if is_file(source) { Content::File(source.into()) } else { Content::New(shape(source)?) };
                Ok(Self::Buffer {
                    kind: BufferKind(kind),
                    content: BufferContent(content),
                    save: rest.first().map(PathBuf::from),
                    map: None,
                })
            }
            ("tensormap", [source, tile, rest @ ..]) if rest.len() < 3 => {
                let content = if is_file(source) { Content::File(source.into()) } else { Content::New(shape(source)?) };
                let swizzle = match rest.first() {
                    None | Some(&"0") => Swizzle::None,
                    Some(&"32") => Swizzle::Bytes32,
                    Some(&"64") => Swizzle::Bytes64,
                    Some(&"128") => Swizzle::Bytes128,
                    Some(other) => return Err(format!("the swizzle {other} is not known")),
                };
                let tile = shape(tile)?.iter().map(|size| *size as u32).collect();
                Ok(Self::Buffer {
                    kind: BufferKind(kind),
                    content: BufferContent(content),
                    save: rest.get(1).map(PathBuf::from),
                    map: Some(Map { tile, swizzle }),
                })
            }
            _ => Err("too few or too many parts between the colons".into()),
        }
    }

    /// Puts it into memory.
    ///
    /// # Errors
    /// A file that cannot be read, or a map that the driver would refuse.
    pub fn place(&self, memory: &Memory) -> Result<Placed, String> {
        let Self::Buffer { kind: BufferKind(kind), content: BufferContent(content), map, .. } = self else {
            let Self::Scalar(value) = self else { return Err("no argument".into()) };
            return Ok(Placed { value: value.clone(), address: 0, shape: Vec::new() });
        };
        let (address, shape) = match content {
            Content::File(path) => {
                let array = npy::read(path)?;
                let bytes: Vec<u8> = array.values.iter().flat_map(|value| kind.encode(*value)).collect();
                (memory.upload(&bytes), array.shape)
            }
            Content::New(shape) => (memory.allocate(shape.iter().product::<usize>() * kind.bytes()), shape.clone()),
        };
        let value = match map {
            None => address.to_le_bytes().to_vec(),
            Some(map) => map.encode(*kind, address, &shape)?,
        };
        Ok(Placed { value, address, shape })
    }

    /// Writes the buffer's file, if it has one.
    ///
    /// # Errors
    /// The file that cannot be written.
    pub fn save(&self, memory: &Memory, placed: &Placed) -> Result<(), String> {
        let Self::Buffer { kind: BufferKind(kind), save: Some(path), .. } = self else { return Ok(()) };
        let count: usize = placed.shape.iter().product();
        let (numpy, bytes) = kind.numpy(memory.read(placed.address, count * kind.bytes())?);
        let unwritten = memory.unwritten(placed.address, count * kind.bytes())?;
        if unwritten > 0 {
            super::tell(&format!("{}: {unwritten} bytes were never written", path.display()));
        }
        npy::write(path, numpy, &placed.shape, &bytes)
    }
}

impl Map {
    fn encode(&self, kind: Kind, address: u64, shape: &[usize]) -> Result<Vec<u8>, String> {
        let dims: Vec<u64> = shape.iter().rev().map(|size| *size as u64).collect();
        let mut strides = Vec::new();
        let mut stride = kind.bytes() as u64;
        for dim in dims.iter().take(dims.len().saturating_sub(1)) {
            stride *= dim;
            strides.push(stride);
        }
        let tile = self.tile.iter().rev().copied().collect();
        let element_bytes = kind.bytes() as u32;
        let map = TensorMap { address, element_bytes, dims, strides, tile, swizzle: self.swizzle };
        Ok(map.encode()?.to_vec())
    }
}

/// Integers keep all their bits.
fn scalar(kind: Kind, text: &str) -> Result<Vec<u8>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{text}: {why}");
    macro_rules! integer {
        ($type:ty) => {
            text.parse::<$type>().map(|value| value.to_le_bytes().to_vec()).map_err(|why| wrong(&why))
        };
    }
    match kind {
        Kind::I8 => integer!(i8),
        Kind::I16 => integer!(i16),
        Kind::I32 => integer!(i32),
        Kind::I64 => integer!(i64),
        Kind::U8 => integer!(u8),
        Kind::U16 => integer!(u16),
        Kind::U32 => integer!(u32),
        Kind::U64 => integer!(u64),
        _ => text.parse::<f64>().map(|value| kind.encode(value)).map_err(|why| wrong(&why)),
    }
}
