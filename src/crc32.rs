//! CRC-32, which tells one content from another, not from a forged one.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use flate2::{Crc, CrcReader};

use crate::{Error, Result};

/// Of bytes.
pub fn of(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Of a file, whatever its size.
///
/// # Errors
/// [`Error::Io`].
pub fn of_file(path: &Path) -> Result<u32> {
    let mut crc = CrcReader::new(BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::io("read", path))?));
    io::copy(&mut crc, &mut io::sink()).map_err(Error::io("read", path))?;
    Ok(crc.crc().sum())
}
