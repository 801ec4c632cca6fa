//! gzip and bgzip, as every reader of text takes them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use crate::Error;

/// How gzip data begins.
pub const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Bytes that are read at a time.
const CAPACITY: usize = 1 << 16;

/// The text of a file, or of standard input where `path` is `-`: gzip and bgzip are recognised by their first bytes, not by the name.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened or read.
pub fn open_text(path: &Path) -> crate::Result<Box<dyn BufRead>> {
    text(open(path)?).map_err(Error::io("read", path))
}

/// The bytes of a file as they are, or of standard input where `path` is `-`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened.
pub fn open(path: &Path) -> crate::Result<impl BufRead + use<>> {
    let raw: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(Error::io("open", path))?),
    };
    Ok(BufReader::with_capacity(CAPACITY, raw))
}

/// The text behind `raw`, compressed or not, as its first bytes say.
///
/// # Errors
/// Those of reading them.
pub fn text<'a>(mut raw: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    Ok(match raw.fill_buf()?.starts_with(&GZIP_MAGIC) {
        true => Box::new(BufReader::with_capacity(CAPACITY, Gunzip::new(raw))),
        false => Box::new(raw),
    })
}

/// Decompresses members one after the other. A bgzip file that was cut between two of its blocks is a sound gzip file, but lacks the
/// empty block at its end (SAM specification, section 4.1.2): that is an error, as any other cut is. Zeros behind the last member,
/// with which tapes and some servers fill up, are passed over as gzip passes over them.
pub struct Gunzip<R> {
    /// `None` behind the end.
    member: Option<GzDecoder<R>>,
    /// Bytes that came out of this member.
    bytes: u64,
}

impl<R: BufRead> Gunzip<R> {
    /// `reader` stands at the first byte of gzip data.
    pub fn new(reader: R) -> Self {
        Self { member: Some(GzDecoder::new(reader)), bytes: 0 }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            self.bytes += count as u64;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let is_block = member.header().and_then(|header| header.extra()).is_some_and(is_bgzip_field);
            let is_cut = is_block && self.bytes > 0;
            let rest = self.member.take().map(GzDecoder::into_inner);
            self.bytes = 0;
            if let Some(mut rest) = rest {
                if is_end(&mut rest)? {
                    return if is_cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(0) };
                }
                self.member = Some(GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

/// Whether a member's extra field is that of a bgzip block.
fn is_bgzip_field(mut extra: &[u8]) -> bool {
    while let [a, b, low, high, rest @ ..] = extra {
        if [*a, *b] == *b"BC" {
            return true;
        }
        extra = rest.get(usize::from(u16::from_le_bytes([*low, *high]))..).unwrap_or_default();
    }
    false
}

/// Whether nothing but zeros is left; an error if that is no gzip.
fn is_end(reader: &mut impl BufRead) -> io::Result<bool> {
    let mut skipped = false;
    loop {
        let rest = reader.fill_buf()?;
        match rest.iter().position(|&byte| byte != 0) {
            _ if rest.is_empty() => return Ok(true),
            Some(0) if !skipped && rest[0] == GZIP_MAGIC[0] => return Ok(false),
            Some(_) => {
                let found = "bytes that are no gzip data lie behind the compressed data";
                return Err(io::Error::new(io::ErrorKind::InvalidData, found));
            }
            None => {
                let zeros = rest.len();
                reader.consume(zeros);
                skipped = true;
            }
        }
    }
}

/// What a failed read of compressed data means, and what to do; `None` if it is the system's failure.
pub fn finding(error: &io::Error) -> Option<(String, &'static str)> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Some((
            "the compressed data ends too early".into(),
            "get the file again, or compress it again: it is cut off",
        )),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Some((
            format!("the compressed data is damaged ({error})"),
            "get the file again, or compress it again; `gzip -t` checks it",
        )),
        _ => None,
    }
}

/// Made-up gzip data for tests.
#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// The empty block that ends every bgzip file.
    pub(crate) const BGZIP_END: [u8; 28] =
        [0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 0, 0xFF, 6, 0, 0x42, 0x43, 2, 0, 0x1B, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// A bgzip block: a gzip member whose extra field "BC" holds the size of the block less one.
    pub(crate) fn bgzip_block(text: &[u8]) -> Vec<u8> {
        let member = gzip(text);
        let mut block = member[..10].to_vec();
        block[3] = 4;
        block.extend([6, 0, b'B', b'C', 2, 0]);
        block.extend((member.len() as u16 + 8 - 1).to_le_bytes());
        block.extend(&member[10..]);
        block
    }

    /// Files with one text and whether they are whole: what every reader has to make of them.
    pub(crate) fn containers(text: &[u8]) -> Vec<(&'static str, Vec<u8>, bool)> {
        let (first, second) = text.split_at(text.len() / 2);
        let whole = gzip(text);
        let blocks = [bgzip_block(first), bgzip_block(second)].concat();
        let bgzip = [&blocks[..], &BGZIP_END].concat();
        let zeros = [0; 512];
        vec![
            ("gzip", whole.clone(), true),
            ("two members", [gzip(first), gzip(second)].concat(), true),
            ("bgzip", bgzip.clone(), true),
            (
                "bgzip files end to end",
                [&bgzip_block(first)[..], &BGZIP_END, &bgzip_block(second), &BGZIP_END].concat(),
                true,
            ),
            ("gzip and zeros", [&whole[..], &zeros].concat(), true),
            ("bgzip and zeros", [&bgzip[..], &zeros].concat(), true),
            ("bgzip without its end", blocks.clone(), false),
            ("bgzip without its end, and zeros", [&blocks[..], &zeros].concat(), false),
            ("cut between blocks", bgzip_block(first), false),
            ("cut in a block", blocks[..blocks.len() - 9].to_vec(), false),
            ("cut in its end", bgzip[..bgzip.len() - 5].to_vec(), false),
            ("cut in a member's head", [&whole[..], &whole[..5]].concat(), false),
            ("gzip and something else", [&whole[..], b"something else"].concat(), false),
            ("zeros and something else", [&whole[..], &zeros, &whole].concat(), false),
        ]
    }

    #[test]
    fn whole_files_are_read_and_cut_ones_are_not() {
        let text = b"some lines\nof text\n".repeat(5000);
        for (what, bytes, is_whole) in containers(&text) {
            for capacity in [1, 3, 1 << 16] {
                let mut out = Vec::new();
                let mut reader = Gunzip::new(io::BufReader::with_capacity(capacity, bytes.as_slice()));
                match reader.read_to_end(&mut out) {
                    Ok(_) => assert!(is_whole && out == text, "{what} {capacity}"),
                    Err(error) => assert!(!is_whole && finding(&error).is_some(), "{what} {capacity}: {error}"),
                }
            }
        }
        let whole = gzip(b"text");
        for length in 2..whole.len() {
            let error = Gunzip::new(&whole[..length]).read_to_end(&mut Vec::new()).unwrap_err();
            assert!(finding(&error).unwrap().0.contains("ends too early"), "{length}: {error}");
        }
        let mut damaged = whole.clone();
        damaged[whole.len() - 6] ^= 1;
        let error = Gunzip::new(damaged.as_slice()).read_to_end(&mut Vec::new()).unwrap_err();
        assert!(finding(&error).unwrap().0.contains("is damaged"), "{error}");
    }
}
