//! Settings, lists and descriptions: text files that are read whole, and that a larger file can only be by mistake.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// Bytes of the largest.
const LARGEST: u64 = 64 << 20;

/// What some programs put before UTF-8 text.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the text of `path`, without a byte order mark.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] for a file (or a device without an end) of more than 64 MiB, and for what is no UTF-8.
pub fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > LARGEST {
        let found = format!("more than {} MiB, where a small text file is needed", LARGEST >> 20);
        return Err(Error::input(path, "", found, "check the path: this is another file"));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = format!("byte {}", error.utf8_error().valid_up_to() + 1);
        Error::input(path, place, "not UTF-8, where a text file is needed", "check the path, or save it as UTF-8")
    })
}
