//! Text files line by line, with line numbers, plain or gzip.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use crate::gunzip;
use crate::small_file::BYTE_ORDER_MARK;
use crate::{Error, Result};

/// The longest line that is read, in bytes: longer than any window of bases, short enough for memory.
const LONGEST_LINE: usize = 64 << 20;

/// Opens `path` (`-` is standard input) for reading; gzip (and bgzip) is recognised by its first bytes, not by the name. A byte order
/// mark is passed over.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened or read.
pub fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    Ok(without_mark(gunzip::open_text(path)?))
}

/// The text behind the byte order mark, if there is one. An error will come again where it is read.
fn without_mark(mut reader: Box<dyn BufRead>) -> Box<dyn BufRead> {
    if reader.fill_buf().is_ok_and(|start| start.starts_with(BYTE_ORDER_MARK)) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    reader
}

/// Tells what a failed read of `path` means: content that cannot be understood is bad input, the rest is the system's.
pub fn read_error(path: &Path, place: String) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| match gunzip::finding(&error) {
        Some((found, remedy)) => Error::input(path, place, found, remedy),
        None => Error::io("read", path)(error),
    }
}

/// Reads the lines of a file one after the other into one buffer.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    buffer: Vec<u8>,
    number: usize,
}

impl Lines {
    /// Opens `path`, plain or gzip.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), reader: open(path)?, buffer: Vec::new(), number: 0 })
    }

    /// The number of the line read last, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The next line without its end (LF or CRLF), whatever its bytes are; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Input`] with the line number for an overlong line and for damaged gzip data.
    pub fn next_bytes(&mut self) -> Result<Option<&[u8]>> {
        self.number += 1;
        let place = || format!("line {}", self.number);
        self.buffer.clear();
        let mut limited = self.reader.by_ref().take(LONGEST_LINE as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.buffer).map_err(read_error(&self.path, place()))?;
        if read == 0 {
            return Ok(None);
        }
        if read > LONGEST_LINE {
            let found = format!("a line of more than {} MiB", LONGEST_LINE >> 20);
            return Err(Error::input(&self.path, place(), found, "is this a text file? break its lines"));
        }
        for end in [b'\n', b'\r'] {
            self.buffer.pop_if(|last| *last == end);
        }
        Ok(Some(&self.buffer))
    }

    /// The next line as text.
    ///
    /// # Errors
    /// As [`Lines::next_bytes`], and [`Error::Input`] for text that is not UTF-8.
    pub fn next_line(&mut self) -> Result<Option<&str>> {
        if self.next_bytes()?.is_none() {
            return Ok(None);
        }
        std::str::from_utf8(&self.buffer).map(Some).map_err(|error| {
            let found = format!("byte {} of the line is not UTF-8", error.valid_up_to() + 1);
            Error::input(&self.path, format!("line {}", self.number), found, "is this a text file? save it as UTF-8")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gunzip::tests::containers;

    fn lines(contents: &[u8]) -> Result<Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), contents).unwrap();
        let mut lines = Lines::open(file.path())?;
        let mut all = Vec::new();
        while let Some(line) = lines.next_line()? {
            all.push(line.to_owned());
        }
        Ok(all)
    }

    #[test]
    fn line_ends_and_gzip() {
        let text = b"one\r\ntwo\n\nfour";
        assert_eq!(lines(text).unwrap(), ["one", "two", "", "four"]);
        assert_eq!(lines(&[BYTE_ORDER_MARK, text].concat()).unwrap(), ["one", "two", "", "four"]);
        for (what, bytes, is_whole) in containers(text) {
            match lines(&bytes) {
                Ok(lines) => assert!(is_whole && lines == ["one", "two", "", "four"], "{what}"),
                Err(error) => assert!(!is_whole && error.exit_code() == 2, "{what}: {error}"),
            }
        }
        assert!(lines(b"").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_text_is_told_with_its_line() {
        assert!(lines(b"one\nt\xffo\n").unwrap_err().to_string().contains("line 2: byte 2"));
    }
}
