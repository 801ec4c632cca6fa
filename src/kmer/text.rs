//! DNABERT's text corpus: one sequence a line, its k-mers separated by spaces.
//!
//! The file is checked from end to end when it is opened, and only an index stays in memory (16 bytes a sequence); a
//! batch reads the lines that it draws. What a line may be:
//!
//! - k-mers of the vocabulary's k, separated by white space; any other length is an error with its line number. A k-mer
//!   with anything but A, C, G, T (lower case allowed) becomes `[UNK]`. LF and CRLF end a line.
//! - Blank lines are passed over, as DNABERT does.
//! - A line of more than `max_length - 2` k-mers is split into pieces of that many, one after the other. (DNABERT
//!   splits it as well, but then keeps the first piece only.)
//! - A line, or a last piece, of less than 5 k-mers is passed over and counted.
//!
//! **Draws.** Sequence i (from 0) of a batch takes Philox block i of the batch for [`Purpose::Corpus`], `[a, b, ..]`
//! ([`BatchKey`] lays out the counter), and is piece `below_u64([a, b], pieces)`, with replacement. Sequences are
//! taken in turn until the budget is full to the last token. One that would leave 1 or 2 tokens is shortened so that
//! 3 remain (`[CLS]`, one k-mer, `[SEP]`), and the last one is cut to fit; both lose k-mers at their end.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::batch::Batch;
use super::corpus::{SHORTEST_SEQUENCE, SPECIALS_PER_SEQUENCE};
use super::fill::{self, Filling};
use super::key::BatchKey;
use super::labelled::tell_uracils;
use super::vocabulary::{UNK, Vocabulary};
use crate::philox::{Purpose, below_u64};
use crate::small_file::BYTE_ORDER_MARK;
use crate::{Error, Result};

/// Bytes that are read at once while the file is indexed.
const BLOCK: usize = 1 << 20;

/// Bytes of the longest sequence: beyond any model, and what a batch may have to read for one sequence.
const LONGEST_SEQUENCE: u64 = 64 << 20;

/// Sequences of k-mers in a text file.
pub struct TextCorpus {
    path: PathBuf,
    file: File,
    vocabulary: Vocabulary,
    pieces: Vec<Piece>,
    skipped: u64,
    uracils: u64,
    checksum: u32,
}

/// A sequence in the file.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Byte offset of its first k-mer.
    start: u64,
    /// Bytes up to the end of its last k-mer.
    bytes: u32,
    k_mers: u32,
}

impl TextCorpus {
    /// Opens and checks a text corpus whose sequences are to have at most `max_length` tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] for a `max_length` below 7; [`Error::Io`]; [`Error::Input`] with the line for a k-mer of the
    /// wrong length and for bytes that are not text, and for a file without a sequence of 5 k-mers.
    pub fn open(path: impl AsRef<Path>, vocabulary: Vocabulary, max_length: usize) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let shortest = SHORTEST_SEQUENCE + SPECIALS_PER_SEQUENCE;
        if max_length < shortest {
            let found = format!("sequences of at most {max_length} tokens");
            return Err(Error::usage(found, format!("choose a maximum length of {shortest} or more")));
        }
        // Lines are read again and again, where they stand; opening a pipe would wait for a writer.
        if std::fs::metadata(&path).is_ok_and(|of| !of.is_file() && !of.is_dir()) {
            let remedy = "write the text to a file first: its lines are read in random order";
            return Err(Error::input(&path, "", "a pipe or a device", remedy));
        }
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let mut index = Index::new(&path, vocabulary.k(), max_length - SPECIALS_PER_SEQUENCE);
        let (mut block, mut crc, mut uracils) = (vec![0; BLOCK], Crc::new(), 0);
        loop {
            let read = match file.read(&mut block) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", &path)(error)),
            };
            crc.update(&block[..read]);
            uracils += block[..read].iter().filter(|byte| byte.eq_ignore_ascii_case(&b'U')).count() as u64;
            let mark = index.offset == 0 && block[..read].starts_with(BYTE_ORDER_MARK);
            let start = if mark { BYTE_ORDER_MARK.len() } else { 0 };
            index.offset += start as u64;
            index.push(&block[start..read])?;
        }
        index.end_line()?;
        if index.pieces.is_empty() {
            let found = format!("no sequence of {SHORTEST_SEQUENCE} or more k-mers ({} are shorter)", index.skipped);
            return Err(Error::input(&path, "", found, "write one sequence a line, its k-mers separated by spaces"));
        }
        let Index { mut pieces, skipped, .. } = index;
        pieces.shrink_to_fit();
        tell_uracils(&path, uracils);
        Ok(Self { path, file, vocabulary, pieces, skipped, uracils, checksum: crc.sum() })
    }

    /// Sequences to draw from.
    pub fn sequences(&self) -> usize {
        self.pieces.len()
    }

    /// CRC-32 of the file.
    pub fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Lines and ends of split lines that have less than 5 k-mers.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// U, in all k-mers of the file, that are read as T.
    pub fn uracils(&self) -> u64 {
        self.uracils
    }

    /// The vocabulary of the tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The unmasked batch of `key`, with exactly `budget` tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] for a budget below 3 tokens or above what 32 bits count; [`Error::Io`] or [`Error::Input`] if
    /// the file has changed since it was opened.
    pub fn batch(&self, key: &BatchKey, budget: usize) -> Result<Batch> {
        let filling = Filling { shortest: 1 + SPECIALS_PER_SEQUENCE, may_grow_to: None };
        filling.check(budget)?;
        let draws = key.draws(Purpose::Corpus);
        let piece = |i: u32| {
            let [high, low, ..] = draws.block(i);
            self.pieces[below_u64([high, low], self.pieces.len() as u64) as usize]
        };
        let lengths = filling.lengths(budget, |i| piece(i).k_mers as usize + SPECIALS_PER_SEQUENCE);
        fill::pack(&lengths, |i, k_mers| self.read(piece(i), k_mers))
    }

    /// Reads the first k-mers of `piece`.
    fn read(&self, piece: Piece, k_mers: &mut [i32]) -> Result<()> {
        let mut text = vec![0; piece.bytes as usize];
        read_at(&self.file, &mut text, piece.start).map_err(Error::io("read", &self.path))?;
        let changed = || {
            let place = format!("byte {}", piece.start);
            Error::input(&self.path, place, "the file has changed since it was opened", "start again")
        };
        let text = std::str::from_utf8(&text).map_err(|_| changed())?;
        let mut words = text.split_ascii_whitespace();
        for id in k_mers {
            let word = words.next().filter(|word| word.len() == self.vocabulary.k()).ok_or_else(changed)?;
            *id = self.vocabulary.id(word);
            debug_assert!(*id >= UNK);
        }
        Ok(())
    }
}

/// Reads at an offset without moving a cursor, so that threads can share the file.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < buffer.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut buffer[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}

/// Finds the sequences of a file that is handed over block by block; no line needs to fit into memory.
struct Index<'a> {
    path: &'a Path,
    k: usize,
    /// k-mers of the longest piece.
    longest: u32,
    pieces: Vec<Piece>,
    skipped: u64,
    line: u64,
    /// Offset of the next byte.
    offset: u64,
    /// The k-mer that is being read, in bytes so far.
    word: usize,
    /// Where the current piece starts and the k-mers it has.
    start: u64,
    k_mers: u32,
    /// Where the last whole k-mer ends.
    end: u64,
}

impl<'a> Index<'a> {
    fn new(path: &'a Path, k: usize, longest: usize) -> Self {
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        Self {
            path,
            k,
            longest,
            pieces: Vec::new(),
            skipped: 0,
            line: 1,
            offset: 0,
            word: 0,
            start: 0,
            k_mers: 0,
            end: 0,
        }
    }

    fn push(&mut self, block: &[u8]) -> Result<()> {
        for &byte in block {
            match byte {
                b'\n' => self.end_line()?,
                b' ' | b'\t' | b'\r' => self.end_word()?,
                b'!'..=b'~' => {
                    self.word += 1;
                    if self.word > self.k {
                        return Err(self.wrong_length("more than"));
                    }
                }
                other => {
                    let found = format!("byte 0x{other:02x}, which no k-mer has");
                    return Err(self.wrong(found));
                }
            }
            self.offset += 1;
        }
        Ok(())
    }

    fn end_word(&mut self) -> Result<()> {
        if self.word == 0 {
            return Ok(());
        }
        if self.word < self.k {
            return Err(self.wrong_length(&format!("{} instead of", self.word)));
        }
        if self.k_mers == self.longest {
            self.end_piece()?;
        }
        if self.k_mers == 0 {
            self.start = self.offset - self.word as u64;
        }
        self.k_mers += 1;
        self.end = self.offset;
        self.word = 0;
        Ok(())
    }

    fn end_piece(&mut self) -> Result<()> {
        if self.k_mers as usize >= SHORTEST_SEQUENCE {
            let bytes = self.end - self.start;
            if bytes > LONGEST_SEQUENCE {
                return Err(self.wrong(format!("a sequence of {bytes} bytes")));
            }
            let bytes = bytes as u32;
            self.pieces.push(Piece { start: self.start, bytes, k_mers: self.k_mers });
        } else if self.k_mers > 0 {
            self.skipped += 1;
        }
        self.k_mers = 0;
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        self.end_word()?;
        self.end_piece()?;
        self.line += 1;
        Ok(())
    }

    fn wrong_length(&self, found: &str) -> Error {
        self.wrong(format!("a k-mer of {found} {} bases", self.k))
    }

    fn wrong(&self, found: String) -> Error {
        let remedy = format!(
            "write one sequence a line, its {}-mers separated by spaces, or choose the k that the file has",
            self.k
        );
        Error::input(self.path, format!("line {}", self.line), found, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmer::vocabulary::{BaseOrder, CLS, SEP};

    fn corpus(text: &[u8], max_length: usize) -> Result<TextCorpus> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        TextCorpus::open(file.path(), Vocabulary::new(3, BaseOrder::Atcg).unwrap(), max_length)
    }

    #[test]
    fn lines_become_sequences() {
        let corpus = corpus(b"AAA AAT ATC TCG CGN\r\n\nAAA\n \n", 512).unwrap();
        assert_eq!((corpus.sequences(), corpus.skipped()), (1, 1));
        let batch = corpus.batch(&BatchKey::training(1, 1, 1), 17).unwrap();
        assert_eq!(batch.cu_seqlens, [0, 7, 14, 17]);
        assert_eq!(batch.tokens[..7], [CLS, 5, 6, 11, 32, UNK, SEP]);
        assert_eq!(batch.tokens[14..], [CLS, 5, SEP]);
        let marked = self::corpus(b"\xef\xbb\xbfAAA AAT ATC TCG CGN\n", 512).unwrap();
        assert_eq!(marked.batch(&BatchKey::training(1, 1, 1), 17).unwrap(), batch);
        let batch = corpus.batch(&BatchKey::training(1, 1, 1), 8).unwrap();
        assert_eq!(batch.cu_seqlens, [0, 5, 8]);
        assert_eq!(corpus.batch(&BatchKey::training(1, 1, 1), 2).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn long_lines_are_split() {
        let text = "AAA  ".repeat(5) + &"CCC ".repeat(5) + "GGG GGG\n" + &"TTT ".repeat(6);
        let corpus = corpus(text.as_bytes(), 7).unwrap();
        assert_eq!((corpus.sequences(), corpus.skipped()), (3, 2));
        assert_eq!(corpus.pieces.iter().map(|piece| piece.start).collect::<Vec<_>>(), [0, 25, 53]);
        let mut ids = vec![0; 5];
        corpus.read(corpus.pieces[1], &mut ids).unwrap();
        assert_eq!(ids, [corpus.vocabulary.id("CCC"); 5]);
    }

    #[test]
    fn other_files_are_refused_with_the_line() {
        let error = |text: &[u8]| corpus(text, 512).err().unwrap().to_string();
        let good = "AAA AAA AAA AAA AAA\n";
        assert!(error(b"").contains("no sequence of 5"));
        assert!(error(b"AAA AAA\n\n").contains("(1 are shorter)"));
        assert!(error(format!("{good}AAA AAAA").as_bytes()).contains("line 2: a k-mer of more than 3"));
        assert!(error(format!("{good}\nAAA AA").as_bytes()).contains("line 3: a k-mer of 2 instead of 3"));
        assert!(error(b"AAA\nA\xffA").contains("line 2: byte 0xff"));
        assert!(error(&[0x1f, 0x8b, 8, 0]).contains("line 1"));
        assert!(corpus(good.as_bytes(), 6).is_err());
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ACG ".repeat(20)).unwrap();
        let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
        let corpus = TextCorpus::open(file.path(), vocabulary, 512).unwrap();
        std::fs::write(file.path(), "ACG").unwrap();
        assert_eq!(corpus.batch(&BatchKey::training(0, 0, 0), 100).unwrap_err().exit_code(), 2);
        std::fs::write(file.path(), "  ".repeat(50)).unwrap();
        assert_eq!(corpus.batch(&BatchKey::training(0, 0, 0), 100).unwrap_err().exit_code(), 2);
    }
}
