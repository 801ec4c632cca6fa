//! The container that nvcc writes: a header, then PTX and machine code for several chips.

use std::io::Read;

use crate::cubin::{self, Resources};

const MAGIC: u32 = 0xBA55_ED50;
/// Kind of an entry that holds machine code.
const MACHINE_CODE: u16 = 2;
/// In an entry's flags: compressed with Zstandard, and with LZ4.
const ZSTANDARD: u64 = 0x8000;
const LZ4: u64 = 0x2000;

/// What is in an image for one chip.
pub enum Image {
    /// Nothing that it can run.
    NoBinary,
    /// PTX, which a driver compiles: what its kernels need is not known.
    Ptx,
    /// Machine code, with what its kernels need.
    Code(Vec<Resources>),
}

/// Finds the code for a chip of compute capability `(major, minor)` in the fat binary at `image`, as a driver chooses it:
/// machine code of the same major version and no newer minor, else PTX of no newer version.
///
/// # Errors
/// What is wrong with the image, in words.
///
/// # Safety
/// `image` points to a fat binary whose header tells its size truly.
pub unsafe fn choose(image: *const u8, (major, minor): (u32, u32)) -> Result<Image, String> {
    // SAFETY: a fat binary has a header of 16 bytes.
    let header = unsafe { std::slice::from_raw_parts(image, 16) };
    if u32_at(header, 0) != MAGIC {
        return Err("the image is no fat binary".into());
    }
    let (start, length) = (u16_at(header, 6) as usize, u64_at(header, 8) as usize);
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(image, start + length) };
    let mut best: Option<(u32, &[u8], &[u8])> = None;
    let (mut at, mut ptx) = (start, false);
    while at < bytes.len() {
        let entry = bytes.get(at..at + 64).ok_or("an entry of the fat binary is cut off")?;
        let (header, payload) = (u32_at(entry, 4) as usize, u64_at(entry, 8) as usize);
        let body = bytes.get(at + header..at + header + payload).ok_or("the fat binary is cut off")?;
        let version = u32_at(entry, 28);
        let (of_major, of_minor) = (version / 10, version % 10);
        if u16_at(entry, 0) == MACHINE_CODE {
            if of_major == major && of_minor <= minor && best.is_none_or(|(other, ..)| other < version) {
                best = Some((version, entry, body));
            }
        } else {
            ptx |= (of_major, of_minor) <= (major, minor);
        }
        at += header + payload;
    }
    match best {
        Some((_, entry, body)) => cubin::read(&unpack(entry, body)?).map(Image::Code),
        None if ptx => Ok(Image::Ptx),
        None => Ok(Image::NoBinary),
    }
}

/// The machine code of an entry; `body` may have padding behind it.
fn unpack(entry: &[u8], body: &[u8]) -> Result<Vec<u8>, String> {
    let flags = u64_at(entry, 40);
    if flags & LZ4 != 0 {
        return Err(
            "an entry is compressed with LZ4, which is not read here; nvcc's --compress-mode=size uses Zstandard"
                .into(),
        );
    }
    if flags & ZSTANDARD == 0 {
        return Ok(body.to_vec());
    }
    let cannot = |error: &dyn std::fmt::Display| format!("an entry cannot be decompressed: {error}");
    let mut bytes = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(body).map_err(|error| cannot(&error))?;
    decoder.read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    Ok(bytes)
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
