//! The UCSC `.2bit` format, mapped into memory: every count, offset and block is checked when the file is opened, so
//! that reading bases afterwards cannot fail.
//!
//! The format (genome.ucsc.edu/FAQ/FAQformat.html#format7): a header of four 32-bit words (signature, version,
//! sequence count, reserved), an index of names and offsets, then per sequence its length, the N blocks, the mask
//! (lower-case) blocks, a reserved word and the bases, four to a byte, the first in the high bits, T=0 C=1 A=2 G=3.
//! Version 0 has 32-bit offsets, version 1 has 64-bit ones. The signature tells the byte order.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::mapped::MappedFile;
use crate::{Error, Result};

/// The first word of every `.2bit` file.
pub const SIGNATURE: u32 = 0x1A41_2743;

/// The letters of the four codes.
const LETTERS: [u8; 4] = *b"TCAG";

/// The four letters of each packed byte.
const DECODED: [[u8; 4]; 256] = {
    let mut table = [[0; 4]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut base = 0;
        while base < 4 {
            table[byte][base] = LETTERS[(byte >> (6 - 2 * base)) & 3];
            base += 1;
        }
        byte += 1;
    }
    table
};

/// A `.2bit` file, mapped into memory and validated. It is `Sync`: threads share one.
pub struct Genome {
    path: PathBuf,
    map: MappedFile,
    sequences: Vec<Sequence>,
    /// Indices of sequences in the order of their names.
    by_name: Vec<u32>,
}

/// One sequence (chromosome, scaffold) of a [`Genome`].
#[derive(Debug)]
pub struct Sequence {
    /// The name in the file.
    pub name: String,
    /// Length in bases.
    pub length: u32,
    /// Runs of N, sorted, disjoint and not touching, 0-based half-open.
    pub n_blocks: Vec<Range<u32>>,
    /// Lower-case runs, sorted, disjoint and not touching, 0-based half-open.
    pub mask_blocks: Vec<Range<u32>>,
    /// Where the packed bases lie in the file, in bytes.
    packed: Range<usize>,
}

impl Genome {
    /// Maps and validates a file; the bases themselves are not read. What is kept takes at most ten times the file's bytes, and that
    /// only if the file is all names.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened; [`Error::Input`], with the byte offset, if it is no `.2bit` file, is
    /// cut short, has a block outside its sequence, overlapping blocks, a name twice, or a name that is not UTF-8.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let map = MappedFile::open(&path, ".2bit")?;
        let sequences = parse(&path, &map)?;
        map.check()?;
        let mut by_name: Vec<u32> = (0..sequences.len() as u32).collect();
        by_name.sort_unstable_by(|&a, &b| sequences[a as usize].name.cmp(&sequences[b as usize].name));
        Ok(Self { path, map, sequences, by_name })
    }

    /// Whether everything that was read so far is what lay in the file when it was opened: to be asked before results are
    /// written.
    ///
    /// # Errors
    /// [`Error::Input`] if the file was changed or cut short since; [`Error::Io`].
    pub fn check(&self) -> Result<()> {
        self.map.check()
    }

    /// The file this genome was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sequences in file order.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// The index of the sequence called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        let found = self.by_name.binary_search_by(|&index| self.sequences[index as usize].name.as_str().cmp(name));
        found.ok().map(|at| self.by_name[at] as usize)
    }

    /// The packed bases of sequence `index`: base i is `(packed[i / 4] >> (6 - 2 * (i % 4))) & 3`, T=0 C=1 A=2 G=3.
    /// Bases inside N blocks hold an arbitrary code.
    ///
    /// # Panics
    /// If there is no sequence `index`.
    pub fn packed(&self, index: usize) -> &[u8] {
        &self.map[self.sequences[index].packed.clone()]
    }

    /// Writes bases `range` of sequence `index` to `out` as upper-case ASCII, N where unknown. `out` is cleared first.
    ///
    /// # Panics
    /// If there is no sequence `index` or `range` is not inside it.
    pub fn decode(&self, index: usize, range: Range<u32>, out: &mut Vec<u8>) {
        let sequence = &self.sequences[index];
        assert!(range.start <= range.end && range.end <= sequence.length, "{range:?} is outside {}", sequence.name);
        out.clear();
        if range.is_empty() {
            return;
        }
        let (start, end) = (range.start as usize, range.end as usize);
        let bytes = &self.packed(index)[start / 4..end.div_ceil(4)];
        out.reserve(bytes.len() * 4);
        out.extend(bytes.iter().flat_map(|&byte| DECODED[usize::from(byte)]));
        out.drain(..start % 4);
        out.truncate(end - start);
        for run in clipped(&sequence.n_blocks, &range) {
            out[run].fill(b'N');
        }
    }

    /// As [`Genome::decode`], with the bases of mask blocks in lower case.
    ///
    /// # Panics
    /// As [`Genome::decode`].
    pub fn decode_soft_masked(&self, index: usize, range: Range<u32>, out: &mut Vec<u8>) {
        self.decode(index, range.clone(), out);
        for run in clipped(&self.sequences[index].mask_blocks, &range) {
            out[run].make_ascii_lowercase();
        }
    }

    /// The runs of known bases of sequence `index`: what the N blocks leave. Sorted, disjoint, 0-based half-open.
    ///
    /// # Panics
    /// If there is no sequence `index`.
    pub fn acgt_runs(&self, index: usize) -> Vec<Range<u32>> {
        let sequence = &self.sequences[index];
        let mut runs = Vec::with_capacity(sequence.n_blocks.len() + 1);
        let mut start = 0;
        for block in &sequence.n_blocks {
            if block.start > start {
                runs.push(start..block.start);
            }
            start = block.end;
        }
        if start < sequence.length {
            runs.push(start..sequence.length);
        }
        runs
    }
}

impl Sequence {
    /// Whether any base of `range` (0-based half-open) is N.
    pub fn has_n(&self, range: &Range<u32>) -> bool {
        clipped(&self.n_blocks, range).next().is_some()
    }
}

impl fmt::Debug for Genome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Genome").field("path", &self.path).field("sequences", &self.sequences.len()).finish()
    }
}

/// The parts of sorted `blocks` inside `range`, as positions relative to the start of `range`.
fn clipped<'a>(blocks: &'a [Range<u32>], range: &Range<u32>) -> impl Iterator<Item = Range<usize>> + use<'a> {
    let Range { start, end } = *range;
    let first = blocks.partition_point(|block| block.end <= start);
    blocks[first..].iter().take_while(move |block| block.start < end && start < end).map(move |block| {
        let (from, to) = (block.start.max(start), block.end.min(end));
        (from - start) as usize..(to - start) as usize
    })
}

/// Reads the header, the index and every record's blocks.
fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Sequence>> {
    let mut cursor = Cursor::new(path, bytes)?;
    let wide_offsets = match cursor.word("the version")? {
        0 => false,
        1 => true,
        other => return Err(cursor.wrong(4, format!("version {other}; only 0 and 1 exist"))),
    };
    let count = cursor.word("the sequence count")? as usize;
    cursor.reserved()?;

    // An entry takes at least a length byte, one letter and an offset.
    let smallest_entry = if wide_offsets { 10 } else { 6 };
    if count > bytes.len() / smallest_entry {
        return Err(cursor.wrong(8, format!("{count} sequences, which cannot fit in a file of {} bytes", bytes.len())));
    }
    // Grown by what is really there, not by what the count claims.
    let mut entries = Vec::new();
    for _ in 0..count {
        let at = cursor.position;
        let name = cursor.name()?;
        let offset = cursor.offset(wide_offsets)?;
        entries.push((name, offset, at));
    }
    let mut by_name: Vec<u32> = (0..entries.len() as u32).collect();
    by_name.sort_by(|&a, &b| entries[a as usize].0.cmp(&entries[b as usize].0));
    if let Some(pair) = by_name.windows(2).find(|pair| entries[pair[0] as usize].0 == entries[pair[1] as usize].0) {
        let [(name, _, first), (_, _, second)] = [pair[0], pair[1]].map(|index| &entries[index as usize]);
        return Err(cursor.wrong(*second, format!("the name {name:?} a second time (first at byte {first})")));
    }
    drop(by_name);

    let index_end = cursor.position;
    let mut claimed = index_end;
    let mut sequences = Vec::with_capacity(entries.len());
    for (name, offset, at) in entries {
        cursor.position = match usize::try_from(offset) {
            Ok(offset) if offset >= index_end && offset < bytes.len() => offset,
            _ => {
                let found = format!(
                    "sequence {name:?} is said to start at byte {offset}, outside {index_end}..{}",
                    bytes.len()
                );
                return Err(cursor.wrong(at, found));
            }
        };
        let start = cursor.position;
        let sequence = record(&mut cursor, name)?;
        // Records that share bytes are corrupt, and many entries that share one large record would multiply the
        // memory that its blocks take. (By sums, so a small overlap beside a gap passes; it does no harm.)
        claimed += cursor.position - start;
        if claimed > bytes.len() {
            return Err(cursor.wrong(start, format!("the record of {:?} overlaps another one", sequence.name)));
        }
        sequences.push(sequence);
    }
    Ok(sequences)
}

/// Reads one sequence record at the cursor.
fn record(cursor: &mut Cursor<'_>, name: String) -> Result<Sequence> {
    let length = cursor.word("a sequence length")?;
    let n_blocks = cursor.blocks("N", &name, length)?;
    let mask_blocks = cursor.blocks("mask", &name, length)?;
    cursor.reserved()?;
    let start = cursor.position;
    cursor.take(length.div_ceil(4) as usize, "packed bases")?;
    Ok(Sequence { name, length, n_blocks, mask_blocks, packed: start..cursor.position })
}

/// A position in the file, and the file's byte order.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
    big_endian: bool,
}

impl<'a> Cursor<'a> {
    /// Reads the signature.
    fn new(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let mut cursor = Self { path, bytes, position: 0, big_endian: false };
        let Some(first) = bytes.first_chunk::<4>() else {
            return Err(cursor.wrong(0, format!("a file of {} bytes, too short for a .2bit", bytes.len())));
        };
        cursor.position = 4;
        cursor.big_endian = match u32::from_le_bytes(*first) {
            SIGNATURE => false,
            word if word.swap_bytes() == SIGNATURE => true,
            _ if first[0] == b'>' || first.starts_with(&[0x1F, 0x8B]) => {
                let found = if first[0] == b'>' { "a FASTA file" } else { "a gzip file" };
                return Err(Error::input(
                    path,
                    "",
                    format!("{found} where a .2bit is needed"),
                    "if it is a FASTA file, pack it once: `helixgrad genome pack IN.fa.gz OUT.2bit`",
                ));
            }
            word => {
                return Err(cursor.wrong(0, format!("the signature {word:#010x} is not {SIGNATURE:#010x} (.2bit)")));
            }
        };
        Ok(cursor)
    }

    fn wrong(&self, at: usize, found: impl Into<String>) -> Error {
        let remedy = "get the file again, or make it anew with `helixgrad genome pack IN.fa.gz OUT.2bit`";
        Error::input(self.path, format!("byte {at}"), found, remedy)
    }

    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8]> {
        let at = self.position;
        let taken = self.bytes[at..].get(..count).ok_or_else(|| {
            let left = self.bytes.len() - at;
            self.wrong(at, format!("the file ends too early: {what} of {count} bytes, but {left} are left"))
        })?;
        self.position += count;
        Ok(taken)
    }

    fn word(&mut self, what: &str) -> Result<u32> {
        let bytes = self.take(4, what)?;
        Ok(self.to_word(bytes))
    }

    fn to_word(&self, bytes: &[u8]) -> u32 {
        let value = bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte));
        if self.big_endian { value } else { value.swap_bytes() }
    }

    fn reserved(&mut self) -> Result<()> {
        let at = self.position;
        match self.word("a reserved word")? {
            0 => Ok(()),
            other => Err(self.wrong(at, format!("a reserved word is {other}, not 0"))),
        }
    }

    fn name(&mut self) -> Result<String> {
        let at = self.position;
        let length = usize::from(self.take(1, "the length of a name")?[0]);
        let name = self.take(length, "a sequence name")?;
        match str::from_utf8(name) {
            Ok("") => Err(self.wrong(at, "a sequence without a name")),
            Ok(name) => Ok(name.to_owned()),
            Err(_) => {
                let shown = String::from_utf8_lossy(name);
                Err(self.wrong(at, format!("the sequence name {shown:?} is not valid UTF-8")))
            }
        }
    }

    fn offset(&mut self, wide: bool) -> Result<u64> {
        let first = self.word("a record's offset")?;
        if !wide {
            return Ok(first.into());
        }
        let second = self.word("a record's offset")?;
        let (high, low) = if self.big_endian { (first, second) } else { (second, first) };
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    /// Reads a block list and brings it into order: sorted, empty blocks dropped, touching ones joined.
    fn blocks(&mut self, kind: &str, name: &str, length: u32) -> Result<Vec<Range<u32>>> {
        let at = self.position;
        let count = self.word("a block count")? as usize;
        // Both lists are taken before anything is allocated, so a corrupt count ends here.
        let starts = self.take(count.saturating_mul(4), &format!("the starts of {count} {kind} blocks"))?;
        let sizes = self.take(count.saturating_mul(4), &format!("the sizes of {count} {kind} blocks"))?;
        let mut blocks: Vec<Range<u32>> = Vec::with_capacity(count);
        for (index, (start, size)) in starts.chunks_exact(4).zip(sizes.chunks_exact(4)).enumerate() {
            let (start, size) = (self.to_word(start), self.to_word(size));
            match start.checked_add(size) {
                Some(end) if end <= length && size > 0 => blocks.push(start..end),
                Some(end) if end <= length => {}
                _ => {
                    let found = format!("{kind} block {start}+{size} of {name:?} passes its length {length}");
                    return Err(self.wrong(at + 4 + 4 * index, found));
                }
            }
        }
        blocks.sort_unstable_by_key(|block| block.start);
        if let Some(pair) = blocks.windows(2).find(|pair| pair[0].end > pair[1].start) {
            let found = format!("{kind} blocks {:?} and {:?} of {name:?} overlap", pair[0], pair[1]);
            return Err(self.wrong(at, found));
        }
        blocks.dedup_by(|next, block| {
            let touches = block.end == next.start;
            if touches {
                block.end = next.end;
            }
            touches
        });
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::genome::pack::{PackedSequence, TwoBitWriter};

    /// 4 known, 3 N, 6 known of which 3 in lower case.
    const BASES: &[u8] = b"ACGTNNNGGtacA";

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("g.2bit");
        let mut writer = TwoBitWriter::create(&path).unwrap();
        writer.add("empty", &PackedSequence::default()).unwrap();
        writer.add("s", &PackedSequence::from_ascii(BASES).unwrap()).unwrap();
        writer.finish().unwrap();
        path
    }

    #[test]
    fn every_window_decodes() {
        let folder = tempfile::tempdir().unwrap();
        let genome = Genome::open(written(folder.path())).unwrap();
        let index = genome.find("s").unwrap();
        let mut out = b"left over".to_vec();
        for start in 0..=BASES.len() {
            for end in start..=BASES.len() {
                let range = start as u32..end as u32;
                genome.decode_soft_masked(index, range.clone(), &mut out);
                assert_eq!(out, &BASES[start..end]);
                genome.decode(index, range.clone(), &mut out);
                assert_eq!(out, BASES[start..end].to_ascii_uppercase());
                assert_eq!(genome.sequences()[index].has_n(&range), out.contains(&b'N'), "{range:?}");
            }
        }
        assert_eq!(genome.acgt_runs(index), [0..4, 7..13]);
        assert!(genome.acgt_runs(0).is_empty());
        assert_eq!(genome.find("S"), None);
    }

    /// Overwrites the word at `at` and returns what the reader says.
    fn with_word(at: usize, word: u32) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        Genome::open(&path).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        // Header 16, index (1+5+4) + (1+1+4) = 16, the record "empty" 16: "s" begins at 48.
        let cases = [
            (0, 7, "byte 0: the signature 0x00000007"),
            (4, 2, "byte 4: version 2"),
            (8, 3, "byte 32: a sequence without a name"),
            (8, u32::MAX, "byte 8: 4294967295 sequences"),
            (12, 1, "byte 12: a reserved word is 1"),
            (22, 31, "byte 16: sequence \"empty\" is said to start at byte 31"),
            (22, 48, "byte 48: the record of"),
            (28, 4000, "byte 26: sequence \"s\""),
            (48, 4000, "byte 80: the file ends too early: packed bases of 1000 bytes, but 4 are left"),
            (48, 11, "byte 68: mask block 9+3"),
            (52, u32::MAX, "byte 56: the file ends too early"),
            (56, 11, "byte 56: N block 11+3"),
            (56, u32::MAX, "byte 56: N block 4294967295+3"),
        ];
        for (at, word, expected) in cases {
            let message = with_word(at, word);
            assert!(message.contains(expected), "word {word} at {at}: {message}");
        }
    }

    #[test]
    fn names_are_unique_and_utf8() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.2bit");
        let mut writer = TwoBitWriter::create(&path).unwrap();
        writer.add("aa", &PackedSequence::default()).unwrap();
        writer.add("ab", &PackedSequence::default()).unwrap();
        writer.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        // The last letter of the second name: header 16, first entry 7, length byte 1, "a".
        for (letter, expected) in [
            (b'a', "byte 23: the name \"aa\" a second time (first at byte 16)"),
            (0xFF, "byte 23: the sequence name \"a\u{FFFD}\" is not valid UTF-8"),
        ] {
            let mut changed = bytes.clone();
            assert_eq!(std::mem::replace(&mut changed[25], letter), b'b');
            fs::write(&path, changed).unwrap();
            let message = Genome::open(&path).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn blocks_out_of_order_are_sorted_and_overlaps_refused() {
        let read = |words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let mut cursor = Cursor { path: Path::new("x"), bytes: &bytes, position: 0, big_endian: true };
            cursor.blocks("N", "s", 100)
        };
        assert_eq!(read(&[4, 50, 10, 13, 70, 5, 3, 2, 0]).unwrap(), [10..15, 50..55]);
        assert!(read(&[2, 50, 10, 5, 41]).unwrap_err().to_string().contains("overlap"));
        assert_eq!(read(&[0]).unwrap(), []);
    }

    #[test]
    fn a_fasta_file_is_told_from_a_corrupt_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.fa");
        fs::write(&path, ">x\nACGT\n").unwrap();
        assert!(Genome::open(&path).unwrap_err().to_string().contains("helixgrad genome pack"));
        assert!(Genome::open(folder.path()).unwrap_err().to_string().contains("not a regular file"));
        assert!(matches!(Genome::open(folder.path().join("none")), Err(Error::Io { .. })));
    }
}
