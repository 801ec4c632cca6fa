//! What `torch.save` writes: a state dict, pickled, with the tensors' memory beside it.
//!
//! Since PyTorch 1.6 it is a zip archive (`NAME/data.pkl`, and `NAME/data/KEY` for each storage). Before, it was five
//! parts end to end: a magic number, a protocol version and facts about the writer, one pickle each; the state dict; a
//! list of storage keys; then each storage as a count and its elements.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use super::pickle::{self, Pickle, StorageType, Tensor, Value};
use super::weights::{ElementType, Stored};
use super::zip;
use crate::{Error, Result};

/// The magic number of the old format.
const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

const REMEDY: &str = "copy the file again; or convert it with transformers, where it came from a program you trust: \
                      MODEL.save_pretrained(DIR, safe_serialization=True)";

type Tensors = BTreeMap<String, Stored>;
/// Where the storages lie in the file, by their keys.
type Storages = HashMap<String, Range<usize>>;

/// Whether `bytes` begin like a file of PyTorch before 1.6.
pub fn is_legacy(bytes: &[u8]) -> bool {
    // PROTO 2, LONG1 of ten bytes: the magic number.
    bytes.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.")
}

/// The tensors of a zip archive.
///
/// # Errors
/// [`Error::Input`] that names the file and what is wrong in it.
pub fn parse_zip(path: &Path, bytes: &[u8]) -> Result<Tensors> {
    tensors_of_zip(bytes).map_err(|found| Error::input(path, "", found, REMEDY))
}

/// The tensors of a file of PyTorch before 1.6.
///
/// # Errors
/// [`Error::Input`] that names the file and what is wrong in it.
pub fn parse_legacy(path: &Path, bytes: &[u8]) -> Result<Tensors> {
    tensors_of_legacy(bytes).map_err(|found| Error::input(path, "", found, REMEDY))
}

fn tensors_of_zip(bytes: &[u8]) -> Result<Tensors, String> {
    let entries = zip::entries(bytes)?;
    let (name, data) = entries
        .iter()
        .find(|(name, _)| name.ends_with("/data.pkl"))
        .ok_or("a zip archive, but not one of torch.save: it has no data.pkl")?;
    let folder = &name[..name.len() - "data.pkl".len()];
    if let Some(order) = entries.get(&format!("{folder}byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err("written on a big-endian machine".into());
    }
    let pickle = pickle::read(&bytes[data.clone()])?;
    let storage = |(name, data): (&'_ String, &Range<usize>)| {
        Some((name.strip_prefix(folder)?.strip_prefix("data/")?.to_owned(), data.clone()))
    };
    state_dict(&pickle, &entries.iter().filter_map(storage).collect())
}

fn tensors_of_legacy(bytes: &[u8]) -> Result<Tensors, String> {
    let mut rest = bytes;
    let mut next = || {
        let pickle = pickle::read(rest)?;
        rest = &rest[pickle.length..];
        Ok::<_, String>(pickle)
    };
    match next()?.value {
        Value::Int(LEGACY_MAGIC) => {}
        _ => return Err("not a file of torch.save".into()),
    }
    // The protocol version, and the writer's byte order and sizes: all machines in use are little-endian.
    next()?;
    next()?;
    let (pickle, keys) = (next()?, next()?);
    let keys = keys.sequence(&keys.value).ok_or("no list of storages after the state dict")?;

    // The file does not say how large an element is; the tensors do.
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    let entries = pickle.dictionary(&pickle.value).unwrap_or_default();
    for (_, value) in entries {
        if let Value::Tensor(tensor) = value {
            sizes.insert(&tensor.storage.key, element(tensor.storage.kind).size());
        }
    }
    let mut ranges = Storages::new();
    let mut at = bytes.len() - rest.len();
    for key in keys {
        let Value::Text(key) = key else { return Err("a storage key that is no text".into()) };
        if ranges.contains_key(&**key) {
            return Err(format!("storage {key:?} is there twice"));
        }
        let count = bytes.get(at..at + 8).and_then(|count| count.try_into().ok()).map(u64::from_le_bytes);
        let count = count.ok_or("the file ends inside a storage")?;
        let size = *sizes.get(&**key).ok_or_else(|| format!("storage {key:?} belongs to no tensor"))?;
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(size));
        let end = length.and_then(|length| (at + 8).checked_add(length)).filter(|&end| end <= bytes.len());
        let end = end.ok_or("the file ends inside a storage")?;
        ranges.insert(key.to_string(), at + 8..end);
        at = end;
    }
    state_dict(&pickle, &ranges)
}

/// The tensors of a state dict; those of `{"state_dict": {...}}`, as training programs write it, too.
fn state_dict(pickle: &Pickle, storages: &Storages) -> Result<Tensors, String> {
    let mut entries = pickle.dictionary(&pickle.value).ok_or("the file holds no state dict")?;
    for key in ["state_dict", "model_state_dict"] {
        let is_key = |found: &Value| matches!(found, Value::Text(text) if &**text == key);
        if let Some((_, inner)) = entries.iter().find(|(found, _)| is_key(found)) {
            entries = pickle.dictionary(inner).ok_or("the file holds no state dict")?;
        }
    }
    let mut tensors = Tensors::new();
    for (key, value) in entries {
        if let (Value::Text(name), Value::Tensor(tensor)) = (key, value) {
            if tensors.contains_key(&**name) {
                return Err(format!("tensor {name} is there twice"));
            }
            tensors.insert(name.to_string(), place(name, tensor, storages)?);
        }
    }
    match tensors.is_empty() {
        true => Err("the file holds no state dict with tensors in it".into()),
        false => Ok(tensors),
    }
}

fn place(name: &str, tensor: &Tensor, storages: &Storages) -> Result<Stored, String> {
    let Tensor { storage, offset, shape, strides } = tensor;
    let lacks = || format!("tensor {name}: the file lacks its storage {:?}", storage.key);
    let memory = storages.get(&*storage.key).ok_or_else(lacks)?;
    let element = element(storage.kind);
    let outside = || format!("tensor {name}: it lies outside its storage of {} bytes", memory.len());
    if shape.len() != strides.len() {
        return Err(format!("tensor {name}: {} sizes but {} strides", shape.len(), strides.len()));
    }
    let first = offset.checked_add(storage.view_offset).and_then(|first| first.checked_mul(element.size()));
    let start = first.and_then(|first| first.checked_add(memory.start)).ok_or_else(outside)?;
    let stored = Stored { element, shape: shape.clone(), strides: strides.clone(), start };
    // Strides of 0 make any number of elements of one: no weights are stored so, and no memory would be enough.
    if stored.len().saturating_mul(element.size()) > memory.len() {
        return Err(format!("tensor {name}: {shape:?} elements in a storage of {} bytes", memory.len()));
    }
    match stored.end() {
        Some(end) if end <= memory.end => Ok(stored),
        _ => Err(outside()),
    }
}

fn element(kind: StorageType) -> ElementType {
    match kind {
        StorageType::Double => ElementType::F64,
        StorageType::Float => ElementType::F32,
        StorageType::Half => ElementType::F16,
        StorageType::Bfloat16 => ElementType::Bf16,
        StorageType::Integer(size) => ElementType::Other(size),
    }
}
