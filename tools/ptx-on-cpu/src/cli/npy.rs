//! NumPy's array files (NEP 1), as far as a kernel's arguments need them: little-endian numbers in C order.

use std::path::Path;

/// An array of numbers, whatever their type was.
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// The text behind `'key':` in the header's dictionary.
fn entry<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    let at = header.find(&format!("'{key}'"))?;
    Some(header[at..].split_once(':')?.1.trim_start())
}

fn shape(header: &str) -> Option<Vec<usize>> {
    let (inside, _) = entry(header, "shape")?.strip_prefix('(')?.split_once(')')?;
    inside.split(',').map(str::trim).filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect()
}

/// A number of this type.
fn value(kind: &str, bytes: &[u8]) -> Option<f64> {
    macro_rules! of {
        ($type:ty) => {
            <$type>::from_le_bytes(bytes.try_into().ok()?) as f64
        };
    }
    Some(match kind {
        "<f8" => of!(f64),
        "<f4" => of!(f32),
        "<f2" => half::f16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        "<i8" => of!(i64),
        "<i4" => of!(i32),
        "<i2" => of!(i16),
        "|i1" => of!(i8),
        "<u8" => of!(u64),
        "<u4" => of!(u32),
        "<u2" => of!(u16),
        "|u1" | "|b1" => of!(u8),
        _ => return None,
    })
}

/// Reads a file.
///
/// # Errors
/// The file with what is wrong in it.
pub fn read(path: &Path) -> Result<Array, String> {
    let bytes = std::fs::read(path).map_err(|why| format!("{}: {why}", path.display()))?;
    parse(&bytes).map_err(|why| format!("{}: {why}", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Array, String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("this is no .npy file")?;
    let (length, skip) = match rest {
        [1, _, low, high, ..] => (usize::from(u16::from_le_bytes([*low, *high])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
        _ => return Err("a version of .npy that is not known".into()),
    };
    let header = rest.get(skip..skip + length).and_then(|header| std::str::from_utf8(header).ok());
    let header = header.ok_or("the header is cut off")?;
    let kind = entry(header, "descr").and_then(|kind| kind.split('\'').nth(1)).ok_or("the header names no type")?;
    if entry(header, "fortran_order").is_some_and(|order| order.starts_with("True")) {
        return Err("the array is in Fortran's order; save numpy.ascontiguousarray of it".into());
    }
    let shape = shape(header).ok_or("the header has no shape")?;
    let width: usize = kind.get(2..).and_then(|width| width.parse().ok()).ok_or(format!("type {kind} is not known"))?;
    let count =
        shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).ok_or("the shape is too large")?;
    let content = &rest[skip + length..];
    if count.checked_mul(width) != Some(content.len()) {
        return Err(format!("{} bytes of values, where the shape {shape:?} of {kind} has others", content.len()));
    }
    let values = content.chunks_exact(width.max(1)).map(|bytes| value(kind, bytes)).collect::<Option<Vec<f64>>>();
    Ok(Array { shape, values: values.ok_or(format!("type {kind} is not known"))? })
}

/// Writes values of this NumPy type.
///
/// # Errors
/// The file that cannot be written.
pub fn write(path: &Path, kind: &str, shape: &[usize], values: &[u8]) -> Result<(), String> {
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // The values begin at a multiple of 64 bytes.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values);
    std::fs::write(path, bytes).map_err(|why| format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = std::env::temp_dir().join(format!("ptx-on-cpu-npy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.npy");
        write(&path, "<f4", &[2, 1], &[1.5f32, -2.0].map(f32::to_le_bytes).concat()).unwrap();
        let array = read(&path).unwrap();
        assert_eq!((array.shape, array.values), (vec![2, 1], vec![1.5, -2.0]));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn damaged_files_are_refused() {
        let whole =
            b"\x93NUMPY\x01\x00\x3b\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }  \x00\x00\x80?";
        assert_eq!(parse(whole).unwrap().values, [1.0]);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{length}");
        }
        let text = String::from_utf8_lossy(whole).replace("<f4", "<c8");
        assert!(parse(text.as_bytes()).is_err());
    }
}
