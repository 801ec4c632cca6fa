//! Streams FASTA, plain or gzip (bgzip and other multi-member files included), into packed sequences.
//!
//! The calling thread parses and packs while another one reads and decompresses.

use std::collections::HashMap;
use std::path::Path;

use super::pack::{MAX_NAME, PackedSequence, Packer};
use super::source::Source;
use crate::small_file::BYTE_ORDER_MARK;
use crate::{Error, Result};

/// A header line longer than this is no header: the file is something else.
const LONGEST_HEADER: usize = 64 << 10;

/// Reads the FASTA file `path` (`-` is stdin) and hands each record to `take` as its name and its packed bases.
/// `progress` is told from time to time how many bytes of the file, as it lies on the disk, have been read.
///
/// The name of a record is the first word behind its `>`. Lines may have any length and end in LF or CRLF; empty lines
/// and blanks are skipped. What a base is, [`Packer::push`] says.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Input`], with record and line, for anything that is not DNA in
/// FASTA: another format, a foreign byte, a record without a name or without bases (a file that is cut off behind a
/// header looks like that), a name twice or longer than a `.2bit` can hold, no record at all, a damaged or truncated
/// gzip stream; and whatever `take` returns.
pub fn read(
    path: &Path,
    progress: &mut dyn FnMut(u64),
    take: &mut dyn FnMut(&str, PackedSequence) -> Result<()>,
) -> Result<()> {
    let source = Source::open(path)?;
    let mut parser = Parser::new(source.name(), take);
    loop {
        let chunk = source.next(parser.line)?;
        if chunk.is_empty() {
            break;
        }
        let is_first = parser.line == 1 && parser.column == 0 && parser.header.is_empty();
        let mark = if is_first && chunk.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        parser.feed(&chunk[mark..])?;
        progress(source.bytes_read());
        source.give_back(chunk);
    }
    parser.finish()
}

enum State {
    LineStart,
    Header,
    Bases,
}

/// The record that is being read.
struct Record {
    name: String,
    line: u64,
    packer: Packer,
}

struct Parser<'a> {
    path: &'a Path,
    line: u64,
    /// Bytes of the current sequence line that were read before.
    column: u64,
    state: State,
    /// The header line so far, without its `>`.
    header: Vec<u8>,
    record: Option<Record>,
    /// Names, and the lines of their headers.
    seen: HashMap<String, u64>,
    take: &'a mut dyn FnMut(&str, PackedSequence) -> Result<()>,
}

impl<'a> Parser<'a> {
    fn new(path: &'a Path, take: &'a mut dyn FnMut(&str, PackedSequence) -> Result<()>) -> Self {
        Self {
            path,
            line: 1,
            column: 0,
            state: State::LineStart,
            header: Vec::new(),
            record: None,
            seen: HashMap::new(),
            take,
        }
    }

    /// Parses the next piece of the file; it may end anywhere.
    fn feed(&mut self, mut text: &[u8]) -> Result<()> {
        while let Some(&first) = text.first() {
            let used = match self.state {
                State::LineStart if first == b'>' => {
                    self.end_record()?;
                    self.header.clear();
                    self.state = State::Header;
                    1
                }
                State::LineStart => {
                    self.column = 0;
                    self.state = State::Bases;
                    0
                }
                State::Header => self.feed_header(text)?,
                State::Bases => self.feed_bases(text)?,
            };
            text = &text[used..];
        }
        Ok(())
    }

    fn feed_header(&mut self, text: &[u8]) -> Result<usize> {
        let end = text.iter().position(|&byte| byte == b'\n');
        self.header.extend(&text[..end.unwrap_or(text.len())]);
        if self.header.len() > LONGEST_HEADER {
            let found = format!("a header line of more than {LONGEST_HEADER} bytes");
            return Err(self.wrong(found, "give a FASTA file whose lines end in LF or CRLF"));
        }
        let Some(end) = end else { return Ok(text.len()) };
        self.begin_record()?;
        self.line += 1;
        self.state = State::LineStart;
        Ok(end + 1)
    }

    fn feed_bases(&mut self, text: &[u8]) -> Result<usize> {
        let taken = self.record.as_mut().map_or(0, |record| record.packer.push(text));
        self.column += taken as u64;
        match text.get(taken) {
            None => Ok(taken),
            Some(b'\n') => {
                self.line += 1;
                self.state = State::LineStart;
                Ok(taken + 1)
            }
            Some(b' ' | b'\t' | b'\r') => {
                self.column += 1;
                Ok(taken + 1)
            }
            Some(&byte) => Err(self.foreign(byte)),
        }
    }

    fn begin_record(&mut self) -> Result<()> {
        let word = self.header.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default();
        let Ok(name) = str::from_utf8(word) else {
            let shown = String::from_utf8_lossy(word).into_owned();
            return Err(self.wrong(format!("the name {shown:?} is not valid UTF-8"), "rename the record"));
        };
        let name = name.to_owned();
        if name.is_empty() {
            return Err(self.wrong("a record without a name", "write a name directly behind the `>`"));
        }
        if name.len() > MAX_NAME {
            let start: String = name.chars().take(40).collect();
            let found = format!("a name of {} bytes ({start:?}...); a .2bit holds at most {MAX_NAME}", name.len());
            return Err(self.wrong(found, "shorten the name"));
        }
        if let Some(first) = self.seen.insert(name.clone(), self.line) {
            let found = format!("a second record named {name:?}; the first is on line {first}");
            return Err(self.wrong(found, "rename or remove one of them"));
        }
        self.record = Some(Record { name, line: self.line, packer: Packer::default() });
        Ok(())
    }

    fn end_record(&mut self) -> Result<()> {
        let Some(record) = self.record.take() else {
            return Ok(());
        };
        if record.packer.length() == 0 {
            let place = format!("record {:?}, line {}", record.name, record.line);
            let remedy = "remove the record, or get the file again if it was cut off";
            return Err(Error::input(self.path, place, "a record without bases", remedy));
        }
        (self.take)(&record.name, record.packer.finish())
    }

    fn finish(mut self) -> Result<()> {
        if matches!(self.state, State::Header) {
            self.begin_record()?;
        }
        self.end_record()?;
        if self.seen.is_empty() {
            return Err(Error::input(self.path, "", "no record in it", "give a FASTA file: `>name`, then bases"));
        }
        Ok(())
    }

    /// An error at the current line.
    fn wrong(&self, found: impl Into<String>, remedy: &str) -> Error {
        let place = match &self.record {
            Some(record) => format!("record {:?}, line {}", record.name, self.line),
            None => format!("line {}", self.line),
        };
        Error::input(self.path, place, found, remedy)
    }

    /// The error for a byte that is no base.
    fn foreign(&self, byte: u8) -> Error {
        let shown = match byte {
            b'!'..=b'~' => format!("'{}'", char::from(byte)),
            _ => format!("byte {byte:#04x}"),
        };
        let Some(record) = &self.record else {
            let found = format!("{shown} where the first record should begin with '>'");
            return self.wrong(found, "give a FASTA file: `>name`, then bases");
        };
        if record.packer.length() == u32::MAX {
            return self.wrong("more than 4294967295 bases, the most a .2bit holds", "split the sequence");
        }
        let remedy = match byte.to_ascii_uppercase() {
            b'E' | b'F' | b'I' | b'L' | b'P' | b'Q' | b'X' | b'Z' | b'J' | b'O' | b'*' => {
                "this looks like a protein; give the genome's DNA (an unknown base is N)"
            }
            b'-' | b'.' => "gaps belong to alignments: remove them, or write N for unknown bases",
            b'>' => "put every header on a line of its own",
            _ => "bases are A, C, G, T, U, N and IUPAC's R Y S W K M B D H V, in either case",
        };
        self.wrong(format!("{shown} in column {} is no base", self.column + 1), remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Records = Vec<(String, PackedSequence)>;

    fn read_text(text: &[u8]) -> Result<Records> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.fa");
        std::fs::write(&path, text).unwrap();
        let mut records = Vec::new();
        read(&path, &mut |_| {}, &mut |name, sequence| {
            records.push((name.to_owned(), sequence));
            Ok(())
        })?;
        Ok(records)
    }

    #[test]
    fn lines_of_all_kinds_make_the_same_records() {
        let expected = [
            ("a".to_owned(), PackedSequence::from_ascii(b"ACGTNacgt").unwrap()),
            ("b".to_owned(), PackedSequence::from_ascii(b"GATT").unwrap()),
        ];
        for text in [
            ">a first\nACGTNacgt\n>b\nGATT\n",
            ">a\tfirst\r\nACGTN\r\nacgt\r\n\r\n>b\r\nGATT",
            "\n\n> a\nACG\nTNa \n\n\ncgt\n>b\nGA TT",
            "\u{feff}>a\nACGTNacgt\n>b\nGATT\n",
        ] {
            assert_eq!(read_text(text.as_bytes()).unwrap(), expected, "{text:?}");
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut packed, text.as_bytes()).unwrap();
            assert_eq!(read_text(&packed.finish().unwrap()).unwrap(), expected, "gzipped {text:?}");
        }
    }

    #[test]
    fn a_piece_may_end_anywhere() {
        let text = b">one x\r\nACGTacgt\r\nNN\r\n>two\r\nG\r\n";
        for size in 1..text.len() {
            let mut records = Vec::new();
            let mut take = |name: &str, sequence: PackedSequence| {
                records.push((name.to_owned(), sequence.length));
                Ok(())
            };
            let mut parser = Parser::new(Path::new("x"), &mut take);
            for piece in text.chunks(size) {
                parser.feed(piece).unwrap();
            }
            parser.finish().unwrap();
            assert_eq!(records, [("one".to_owned(), 10), ("two".to_owned(), 1)]);
        }
    }

    #[test]
    fn what_is_no_dna_is_refused_with_its_place() {
        let long = format!(">{}\nA\n", "n".repeat(256));
        let header = format!(">a {}", "x".repeat(70_000));
        let cases: [(&[u8], &str); 16] = [
            (b"", "no record in it"),
            (b"\n \n", "no record in it"),
            (b"ACGT\n", "line 1: 'A' where the first record should begin"),
            (b">a\nAC\nACXT\n", "record \"a\", line 3: 'X' in column 3"),
            (b">a\nMKVLE\n", "this looks like a protein"),
            (b">a\nAC-T\n", "gaps"),
            (b">a\nAC>b\nA\n", "a line of its own"),
            (b">a\nAC\x00T\n", "byte 0x00 in column 3"),
            (b">a\nA\n>b\n>c\nA\n", "record \"b\", line 3: a record without bases"),
            (b">a\nA\n>b", "record \"b\", line 3: a record without bases"),
            (b">a\nA\n\n>a\nC\n", "line 4: a second record named \"a\"; the first is on line 1"),
            (b">\nA\n", "line 1: a record without a name"),
            (b">\xFF\nA\n", "is not valid UTF-8"),
            (long.as_bytes(), "a name of 256 bytes"),
            (header.as_bytes(), "a header line of more than"),
            (b"@read\nACGT\n+\n!!!!\n", "a FASTQ file"),
        ];
        for (text, expected) in cases {
            let error = read_text(text).unwrap_err();
            assert!(matches!(error, Error::Input { .. }));
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
