//! Packing bases into `.2bit` (the format is described in [`twobit`](super::twobit)).
//!
//! One sequence at a time is in memory, at two bits a base; finished records go to a nameless temporary file beside the
//! output, because the header that precedes them is known only at the end.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::fasta;
use super::twobit::SIGNATURE;
use crate::output::{AtomicFile, keep_inputs};
use crate::{Error, Result};

/// The most bytes in a sequence name: its length is stored in one byte.
pub const MAX_NAME: usize = 255;

/// Bits of a [`CLASSES`] entry: the two-bit code, then what kind of byte it is.
const CODE: u8 = 0b0011;
const UNKNOWN: u8 = 0b0100;
const LOWER: u8 = 0b1000;
const FOREIGN: u8 = 0b1_0000;
/// Everything but the code: a run of bases of one kind has the same kind bits.
const KIND: u8 = !CODE;

/// What each byte of a sequence line means.
const CLASSES: [u8; 256] = {
    let mut table = [FOREIGN; 256];
    // U is T; the ambiguity codes of IUPAC (Nomenclature Committee 1984) are all unknown to a .2bit.
    let letters = *b"TCAGURYSWKMBDHVN";
    let mut index = 0;
    while index < letters.len() {
        let class = match index {
            0..4 => index as u8,
            4 => 0,
            _ => UNKNOWN,
        };
        table[letters[index] as usize] = class;
        table[letters[index].to_ascii_lowercase() as usize] = class | LOWER;
        index += 1;
    }
    table
};

/// One sequence at two bits a base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedSequence {
    /// Length in bases.
    pub length: u32,
    /// The bases as [`Genome::packed`](super::twobit::Genome::packed) describes them, `length / 4` bytes rounded up.
    pub packed: Vec<u8>,
    /// Runs of N, sorted and disjoint, 0-based half-open.
    pub n_blocks: Vec<Range<u32>>,
    /// Runs of lower case, sorted and disjoint, 0-based half-open.
    pub mask_blocks: Vec<Range<u32>>,
    /// How many bases were given as an ambiguity code other than N.
    pub ambiguous: u64,
}

impl PackedSequence {
    /// Packs ASCII bases, as [`Packer::push`] understands them.
    ///
    /// # Errors
    /// The index of the first byte that is no base.
    pub fn from_ascii(bases: &[u8]) -> Result<Self, usize> {
        let mut packer = Packer::default();
        let taken = packer.push(bases);
        if taken == bases.len() { Ok(packer.finish()) } else { Err(taken) }
    }
}

/// Builds a [`PackedSequence`] from pieces of text.
#[derive(Default)]
pub struct Packer {
    done: PackedSequence,
    /// The bases after the last whole byte.
    pending: u8,
    /// The kind bits of the last base, and where its runs began.
    kind: u8,
    n_start: u32,
    mask_start: u32,
}

impl Packer {
    /// Bases so far.
    pub fn length(&self) -> u32 {
        self.done.length
    }

    /// Appends bases up to the first byte that is none, or until the sequence has 2^32 - 1, the most that a `.2bit`
    /// can hold; returns how many were taken. Bases are the letters ACGT, U (stored as T) and IUPAC's ambiguity codes
    /// (stored as N), in either case; lower case is kept as mask blocks.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let room = (u32::MAX - self.done.length) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        let mut taken = 0;
        while taken < bytes.len() {
            taken += self.push_known(&bytes[taken..]);
            let Some(&byte) = bytes.get(taken) else { break };
            if !self.push_one(byte) {
                break;
            }
            taken += 1;
        }
        taken
    }

    /// The short path: whole bytes of four known bases in the case of the run that is open. Returns the bases taken.
    fn push_known(&mut self, bytes: &[u8]) -> usize {
        if !self.done.length.is_multiple_of(4) || self.kind & UNKNOWN != 0 {
            return 0;
        }
        let before = self.done.packed.len();
        for four in bytes.as_chunks::<4>().0 {
            let [a, b, c, d] = four.map(|byte| CLASSES[usize::from(byte)]);
            if (a | b | c | d) & KIND != self.kind || a & b & c & d & KIND != self.kind {
                break;
            }
            self.done.packed.push((a & CODE) << 6 | (b & CODE) << 4 | (c & CODE) << 2 | d & CODE);
        }
        let taken = 4 * (self.done.packed.len() - before);
        self.done.length += taken as u32;
        taken
    }

    /// Appends one base; false if `byte` is none.
    fn push_one(&mut self, byte: u8) -> bool {
        let class = CLASSES[usize::from(byte)];
        if class & FOREIGN != 0 {
            return false;
        }
        if class & KIND != self.kind {
            self.change_kind(class & KIND);
        }
        self.done.ambiguous += u64::from(class & UNKNOWN != 0 && !byte.eq_ignore_ascii_case(&b'N'));
        self.pending = self.pending << 2 | class & CODE;
        self.done.length += 1;
        if self.done.length.is_multiple_of(4) {
            self.done.packed.push(self.pending);
        }
        true
    }

    /// Ends the runs that do not go on and begins the new ones.
    fn change_kind(&mut self, kind: u8) {
        let (changed, here) = (self.kind ^ kind, self.done.length);
        if changed & UNKNOWN != 0 {
            match kind & UNKNOWN {
                0 => self.done.n_blocks.push(self.n_start..here),
                _ => self.n_start = here,
            }
        }
        if changed & LOWER != 0 {
            match kind & LOWER {
                0 => self.done.mask_blocks.push(self.mask_start..here),
                _ => self.mask_start = here,
            }
        }
        self.kind = kind;
    }

    /// Ends the open runs and the last byte.
    pub fn finish(mut self) -> PackedSequence {
        self.change_kind(0);
        let rest = self.done.length % 4;
        if rest != 0 {
            self.done.packed.push(self.pending << (8 - 2 * rest));
        }
        self.done
    }
}

/// Writes a `.2bit` file, record by record.
pub struct TwoBitWriter {
    path: PathBuf,
    body: BufWriter<File>,
    body_length: u64,
    /// Names, and where their records begin in the body.
    entries: Vec<(String, u64)>,
    /// The largest offset that version 0 can hold; lower in a test of version 1.
    narrow_limit: u64,
}

impl TwoBitWriter {
    /// Starts a file that will appear as `path` when it is finished. Until then a nameless file in the same folder, which
    /// is created where it is missing, takes the records.
    ///
    /// # Errors
    /// [`Error::Usage`] if `path` is a folder, [`Error::Io`] if the folder cannot be created or written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        // Creates the folder, and refuses an output that cannot be written before hours of reading and not after.
        drop(AtomicFile::create(&path)?);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let body = tempfile::tempfile_in(folder).map_err(Error::io("write beside", &path))?;
        Ok(Self {
            path,
            body: BufWriter::with_capacity(1 << 20, body),
            body_length: 0,
            entries: Vec::new(),
            narrow_limit: u32::MAX.into(),
        })
    }

    /// Appends one sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is empty or longer than 255 bytes (the format's limit);
    /// [`Error::Io`] if the disk is full.
    pub fn add(&mut self, name: &str, sequence: &PackedSequence) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME {
            let found = format!("a sequence name of {} bytes", name.len());
            return Err(Error::usage(found, format!("a .2bit holds names of 1 to {MAX_NAME} bytes")));
        }
        self.entries.push((name.to_owned(), self.body_length));
        self.write_record(sequence).map_err(Error::io("write", &self.path))
    }

    fn write_record(&mut self, sequence: &PackedSequence) -> io::Result<()> {
        self.body.write_all(&sequence.length.to_le_bytes())?;
        for blocks in [&sequence.n_blocks, &sequence.mask_blocks] {
            // A sequence has fewer than 2^32 bases, so it has fewer than 2^31 runs.
            self.body.write_all(&(blocks.len() as u32).to_le_bytes())?;
            for block in blocks {
                self.body.write_all(&block.start.to_le_bytes())?;
            }
            for block in blocks {
                self.body.write_all(&(block.end - block.start).to_le_bytes())?;
            }
        }
        self.body.write_all(&[0; 4])?;
        self.body.write_all(&sequence.packed)?;
        let blocks = sequence.n_blocks.len() + sequence.mask_blocks.len();
        self.body_length += 16 + 8 * blocks as u64 + sequence.packed.len() as u64;
        Ok(())
    }

    /// Writes the header and the index, copies the records behind them and gives the file its name. Version 1 (64-bit
    /// offsets) is written only when an offset needs it, because few other programs read it.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that two sequences have; [`Error::Io`], a full disk among the causes. Nothing remains under the
    /// final name then.
    pub fn finish(self) -> Result<()> {
        let mut names: Vec<&str> = self.entries.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(name) = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]) {
            return Err(Error::usage(format!("the sequence name {name:?} twice"), "give every sequence its own name"));
        }
        let mut output = AtomicFile::create(&self.path)?;
        let mut header = self.header(false);
        let last = self.entries.last().map_or(0, |(_, offset)| *offset);
        if header.len() as u64 + last > self.narrow_limit {
            header = self.header(true);
        }
        output.write_all(&header).map_err(Error::io("write", &self.path))?;
        let mut body = self.body.into_inner().map_err(|error| Error::io("write", &self.path)(error.into_error()))?;
        body.rewind().map_err(Error::io("read back", &self.path))?;
        io::copy(&mut body, &mut output).map_err(Error::io("write", &self.path))?;
        output.commit()
    }

    fn header(&self, wide: bool) -> Vec<u8> {
        let offset_bytes = if wide { 8 } else { 4 };
        let length = 16 + self.entries.iter().map(|(name, _)| 1 + name.len() + offset_bytes).sum::<usize>();
        let mut header = Vec::with_capacity(length);
        for word in [SIGNATURE, wide.into(), self.entries.len() as u32, 0] {
            header.extend(word.to_le_bytes());
        }
        for (name, offset) in &self.entries {
            header.push(name.len() as u8);
            header.extend(name.as_bytes());
            header.extend(&(offset + length as u64).to_le_bytes()[..offset_bytes]);
        }
        header
    }
}

/// What [`pack_fasta`] packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PackSummary {
    /// Sequences.
    pub sequences: u64,
    /// Bases, N included.
    pub bases: u64,
    /// Bases stored as N.
    pub n: u64,
    /// Those of them that were another ambiguity code.
    pub ambiguous: u64,
    /// Bases in lower case.
    pub masked: u64,
}

/// Packs the FASTA file `input` (`-` is stdin; gzip and bgzip are recognised) into the `.2bit` file `output`.
/// `progress` is told from time to time how many bytes of `input` have been read. One packed sequence is in memory at a
/// time.
///
/// # Errors
/// As [`fasta::read`] and [`TwoBitWriter`]; there is no output then, and a file already there stays as it was.
/// [`Error::Usage`] if both are the same file, or if `output` is `-`.
pub fn pack_fasta(input: &Path, output: &Path, progress: &mut dyn FnMut(u64)) -> Result<PackSummary> {
    if output == Path::new("-") {
        return Err(Error::usage("a .2bit file cannot go to stdout", "name the file to write"));
    }
    keep_inputs(output, [input])?;
    let mut summary = PackSummary::default();
    let mut writer = TwoBitWriter::create(output)?;
    fasta::read(input, progress, &mut |name, sequence| {
        summary.sequences += 1;
        summary.bases += u64::from(sequence.length);
        summary.n += total(&sequence.n_blocks);
        summary.ambiguous += sequence.ambiguous;
        summary.masked += total(&sequence.mask_blocks);
        writer.add(name, &sequence)
    })?;
    writer.finish()?;
    Ok(summary)
}

/// The bases in a list of disjoint blocks.
pub(super) fn total(blocks: &[Range<u32>]) -> u64 {
    blocks.iter().map(|block| u64::from(block.end - block.start)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::twobit::Genome;
    use super::*;

    #[test]
    fn kinds_of_bases_become_codes_and_blocks() {
        let packed = PackedSequence::from_ascii(b"TCAGuUacRnNNnyACG").unwrap();
        assert_eq!(packed.length, 17);
        assert_eq!(packed.n_blocks, vec![8..14]);
        assert_eq!(packed.mask_blocks, [4..5, 6..8, 9..10, 12..14]);
        assert_eq!(packed.packed, [0b0001_1011, 0b0000_1001, 0, 0b0000_1001, 0b1100_0000]);
        assert_eq!(packed.ambiguous, 2);
        assert_eq!(PackedSequence::from_ascii(b"ACGTA>"), Err(5));
        assert_eq!(PackedSequence::from_ascii(b"ACGTACGE"), Err(7));
    }

    #[test]
    fn pieces_of_any_size_pack_alike() {
        let bases = b"ACGTACGTNNNNNNNNNacgtacgtacgtACGTnnnnACGTTGCARYACGTTT";
        let whole = PackedSequence::from_ascii(bases).unwrap();
        for size in 1..bases.len() {
            let mut packer = Packer::default();
            for piece in bases.chunks(size) {
                assert_eq!(packer.push(piece), piece.len());
            }
            assert_eq!(packer.finish(), whole, "pieces of {size}");
        }
    }

    #[test]
    fn a_full_sequence_takes_no_more() {
        let mut packer = Packer::default();
        packer.done.length = u32::MAX - 2;
        assert_eq!(packer.push(b"ACGT"), 2);
        assert_eq!(packer.push(b"ACGT"), 0);
    }

    #[test]
    fn both_versions_hold_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for (version, limit) in [(0, u64::from(u32::MAX)), (1, 50)] {
            let path = folder.path().join(format!("{version}.2bit"));
            let mut writer = TwoBitWriter::create(&path).unwrap();
            writer.narrow_limit = limit;
            writer.add("one", &PackedSequence::from_ascii(b"ACGTNNacgtA").unwrap()).unwrap();
            writer.add("two", &PackedSequence::from_ascii(b"GATTACA").unwrap()).unwrap();
            writer.finish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap()[4], version);
            let genome = Genome::open(&path).unwrap();
            let mut bases = Vec::new();
            genome.decode_soft_masked(0, 0..11, &mut bases);
            assert_eq!(bases, b"ACGTNNacgtA");
            genome.decode(genome.find("two").unwrap(), 1..7, &mut bases);
            assert_eq!(bases, b"ATTACA");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn names_the_format_cannot_hold_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TwoBitWriter::create(folder.path().join("g.2bit")).unwrap();
        assert!(writer.add(&"x".repeat(256), &PackedSequence::default()).is_err());
        assert!(writer.add("", &PackedSequence::default()).is_err());
        writer.add(&"x".repeat(255), &PackedSequence::default()).unwrap();
        writer.add("two", &PackedSequence::default()).unwrap();
        writer.add("one", &PackedSequence::default()).unwrap();
        writer.add("two", &PackedSequence::default()).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("\"two\" twice"));
    }
}
