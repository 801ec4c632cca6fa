//! The tensors of a checkpoint file, by name, decoded when they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::torch;
use crate::{Error, Result, small_file};

/// The weights in a Hugging Face directory, the better format first; whole, or as the list of the files that large models are cut into.
pub const WEIGHT_FILES: [&str; 4] =
    ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// How the file stores its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Hugging Face's safetensors.
    Safetensors,
    /// PyTorch's zip archive around a pickle (1.6 and later).
    TorchZip,
    /// PyTorch's pickles end to end (before 1.6): what DNABERT was trained with.
    TorchLegacy,
}

impl Format {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "PyTorch pickle in a zip archive",
            Self::TorchLegacy => "PyTorch pickle of before 1.6",
        }
    }
}

/// The type of stored elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// Integers and booleans, of so many bytes: position ids and counters, never weights.
    Other(usize),
}

impl ElementType {
    /// Size of an element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(size) => size,
        }
    }

    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Other(_) => "integer",
        }
    }
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Type of the elements.
    pub element: ElementType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How many elements apart neighbours along each axis lie.
    pub strides: Vec<usize>,
    /// First byte of its first element.
    pub start: usize,
}

impl Stored {
    /// A tensor whose last axis is contiguous, and every other one around it.
    pub fn contiguous(element: ElementType, shape: Vec<usize>, start: usize) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        Self { element, shape, strides, start }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().fold(1, |product, &size| product.saturating_mul(size))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The byte behind the last element, or `None` if that number does not exist.
    pub(super) fn end(&self) -> Option<usize> {
        if self.is_empty() {
            return Some(self.start);
        }
        let mut last = 0usize;
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
        }
        last.checked_add(1)?.checked_mul(self.element.size())?.checked_add(self.start)
    }
}

/// A checkpoint file in memory, with what lies where.
#[derive(Debug)]
pub struct Weights {
    /// The file; the list of files, where there are several.
    pub path: PathBuf,
    /// How it stores its tensors.
    pub format: Format,
    /// Its tensors by name.
    pub tensors: BTreeMap<String, Stored>,
    bytes: Vec<u8>,
}

impl Weights {
    /// Reads a file of tensors: safetensors, or what `torch.save` wrote; the contents decide which, not the name. Or all files that a
    /// `.index.json` lists.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for a file that is neither, is cut short or damaged, or needs code to be read; for a list that names
    /// files elsewhere, or tensors that its files lack.
    pub fn read(path: &Path) -> Result<Self> {
        match path.to_str() {
            Some(name) if name.ends_with(".index.json") => Self::read_listed(path),
            _ => Self::read_one(path),
        }
    }

    /// The files in which a list has the tensors of a model, end to end.
    fn read_listed(path: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct List {
            weight_map: BTreeMap<String, String>,
        }
        let wrong = |place: String, found: String| {
            Error::input(path, place, found, "copy the model's files again: the list, and all that it names")
        };
        let List { weight_map } = serde_json::from_str(&small_file::read(path)?)
            .map_err(|error| wrong(format!("line {}", error.line()), error.to_string()))?;
        let files: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
        let mut all: Option<Self> = None;
        for name in files {
            if Path::new(name).file_name() != Some(OsStr::new(name)) {
                return Err(wrong("weight_map".into(), format!("{name:?} is no file in its own folder")));
            }
            let part = Self::read_one(&path.with_file_name(name))?;
            all = Some(match all {
                None => part,
                Some(mut all) => {
                    let before = all.bytes.len();
                    all.bytes.extend(part.bytes);
                    for (name, mut stored) in part.tensors {
                        stored.start += before;
                        if all.tensors.insert(name.clone(), stored).is_some() {
                            return Err(wrong(format!("tensor {name}"), "it is in two files".into()));
                        }
                    }
                    all
                }
            });
        }
        let Some(all) = all else { return Err(wrong("weight_map".into(), "no file".into())) };
        match weight_map.keys().find(|name| !all.tensors.contains_key(*name)) {
            Some(name) => Err(wrong(format!("tensor {name}"), "none of the files has it".into())),
            None => Ok(Self { path: path.to_owned(), ..all }),
        }
    }

    fn read_one(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        let (format, tensors) = if bytes.starts_with(b"PK\x03\x04") {
            (Format::TorchZip, torch::parse_zip(path, &bytes)?)
        } else if torch::is_legacy(&bytes) {
            (Format::TorchLegacy, torch::parse_legacy(path, &bytes)?)
        } else {
            (Format::Safetensors, parse_safetensors(path, &bytes)?)
        };
        // What follows relies on this, whoever parsed.
        for (name, stored) in &tensors {
            if stored.strides.len() != stored.shape.len() || stored.end().is_none_or(|end| end > bytes.len()) {
                let found = format!("its {:?} elements pass the end of the file", stored.shape);
                return Err(Error::input(path, format!("tensor {name}"), found, "copy or make the checkpoint again"));
            }
        }
        Ok(Self { path: path.to_owned(), format, tensors, bytes })
    }

    /// The elements of tensor `name` as 32-bit floats, row-major, if it has this shape; `Ok(None)` if there is no such
    /// tensor.
    ///
    /// # Errors
    /// [`Error::Input`] for another shape, for integers, and for an element that is not a finite number.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        let Some(stored) = self.tensors.get(name) else { return Ok(None) };
        let wrong = |found: String| {
            let remedy = "use the weights and the config.json of the same model, as floats";
            Err(Error::input(&self.path, format!("tensor {name}"), found, remedy))
        };
        if stored.shape != shape {
            return wrong(format!("shape {:?}, expected {shape:?}", stored.shape));
        }
        let read: fn(&[u8]) -> f32 = match stored.element {
            ElementType::F32 => |bytes| bytes.try_into().map_or(f32::NAN, f32::from_le_bytes),
            ElementType::F64 => |bytes| bytes.try_into().map_or(f32::NAN, |bytes| f64::from_le_bytes(bytes) as f32),
            ElementType::F16 => |bytes| bytes.try_into().map_or(f32::NAN, |bytes| f16::from_le_bytes(bytes).to_f32()),
            ElementType::Bf16 => |bytes| bytes.try_into().map_or(f32::NAN, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            ElementType::Other(_) => return wrong("integers".into()),
        };
        let values = self.decode(stored, read);
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(Some(values)),
            false => wrong("a value that is not a finite number".into()),
        }
    }

    fn decode(&self, stored: &Stored, read: fn(&[u8]) -> f32) -> Vec<f32> {
        let size = stored.element.size();
        let contiguous = Stored::contiguous(stored.element, stored.shape.clone(), stored.start);
        if contiguous.strides == stored.strides {
            return self.bytes[stored.start..][..stored.len() * size].chunks_exact(size).map(read).collect();
        }
        // A counter over the axes, the last one fastest.
        let mut place = vec![0; stored.shape.len()];
        let element = |place: &[usize]| {
            let index: usize = place.iter().zip(&stored.strides).map(|(at, stride)| at * stride).sum();
            read(&self.bytes[stored.start + index * size..][..size])
        };
        (0..stored.len())
            .map(|_| {
                let value = element(&place);
                for axis in (0..place.len()).rev() {
                    place[axis] += 1;
                    if place[axis] < stored.shape[axis] {
                        break;
                    }
                    place[axis] = 0;
                }
                value
            })
            .collect()
    }
}

fn parse_safetensors(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Stored>> {
    let wrong = |found: String| Error::input(path, "", found, "copy or make the checkpoint again");
    let (header, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|error| wrong(format!("not a complete safetensors file: {error}")))?;
    let data = header + 8;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let element = match info.dtype {
            Dtype::F64 => ElementType::F64,
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::Bf16,
            other => ElementType::Other(other.bitsize().div_ceil(8)),
        };
        let (start, end) = (data + info.data_offsets.0, data + info.data_offsets.1);
        if end > bytes.len() {
            return Err(wrong(format!("not a complete safetensors file: it ends inside {name:?}")));
        }
        tensors.insert(name, Stored::contiguous(element, info.shape.clone(), start));
    }
    Ok(tensors)
}
