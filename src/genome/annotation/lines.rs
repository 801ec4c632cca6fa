//! Numbered lines of a plain or gzipped file.

use std::io::{self, BufRead, Read};
use std::path::Path;

use crate::gunzip;
use crate::small_file::BYTE_ORDER_MARK;
use crate::{Error, Result};

/// No annotation line comes near this; a longer one means that the file is something else, and reading on would only
/// fill the memory.
const LONGEST_LINE: u64 = 1 << 20;

/// Reads line by line, counting from 1.
pub(super) struct Lines<'a> {
    path: &'a Path,
    reader: Box<dyn BufRead + 'a>,
    number: u64,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// Looks at the first two bytes to see whether the data is gzipped.
    pub(super) fn new(path: &'a Path, mut reader: impl BufRead + 'a) -> Result<Self> {
        let failure = |error: io::Error| match gunzip::finding(&error) {
            Some((found, remedy)) => Error::input(path, "line 1", found, remedy),
            None => Error::io("read", path)(error),
        };
        if reader.fill_buf().map_err(failure)?.is_empty() {
            return Err(Error::input(path, "", "the file is empty", "give a GFF3 or GTF file (plain or .gz)"));
        }
        let reader = gunzip::text(reader).map_err(failure)?;
        Ok(Self { path, reader, number: 0, line: Vec::new() })
    }

    /// The next line's number and its bytes without the line end; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.reader).take(LONGEST_LINE).read_until(b'\n', &mut self.line);
        let length = read.map_err(|error| self.failure(error))?;
        if length == 0 {
            return Ok(None);
        }
        if length as u64 == LONGEST_LINE {
            return Err(self.error(
                format!("the line is longer than {LONGEST_LINE} bytes"),
                "give a GFF3 or GTF file (plain or .gz); this seems to be something else",
            ));
        }
        if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
        }
        if self.line.ends_with(b"\n") {
            self.line.pop();
        }
        if self.line.ends_with(b"\r") {
            self.line.pop();
        }
        Ok(Some((self.number, &self.line)))
    }

    /// Damage in compressed data is the file's fault, other failures are the system's.
    fn failure(&self, error: io::Error) -> Error {
        match gunzip::finding(&error) {
            Some((found, remedy)) => self.error(found, remedy),
            None => Error::io("read", self.path)(error),
        }
    }

    fn error(&self, found: String, remedy: &str) -> Error {
        Error::input(self.path, format!("line {}", self.number), found, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gunzip::tests::{containers, gzip};

    fn numbered(bytes: &[u8]) -> Result<Vec<(u64, String)>> {
        let path = Path::new("x.gff3");
        let mut lines = Lines::new(path, bytes)?;
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next()? {
            all.push((number, String::from_utf8_lossy(line).into_owned()));
        }
        Ok(all)
    }

    #[test]
    fn plain_and_gzip_members_read_alike() {
        let expected = [(1, "a".to_owned()), (2, String::new()), (3, "b".to_owned())];
        assert_eq!(numbered(b"a\r\n\nb").unwrap(), expected);
        assert_eq!(numbered(&[gzip(b"a\n"), gzip(b"\nb\n")].concat()).unwrap(), expected);
    }

    #[test]
    fn damage_and_foreign_files_are_told() {
        let expected = [(1, "a".to_owned()), (2, "b".to_owned())];
        for (what, bytes, is_whole) in containers(b"a\nb\n") {
            match numbered(&bytes) {
                Ok(lines) => assert!(is_whole && lines == expected, "{what}"),
                Err(error) => assert!(!is_whole && error.exit_code() == 2, "{what}: {error}"),
            }
        }
        let text = numbered(&vec![7; 2 << 20]).unwrap_err().to_string();
        assert!(text.contains("line 1: the line is longer"), "{text}");
    }
}
