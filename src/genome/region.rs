//! Regions of a genome, `NAME:START-END` as samtools writes them, and their bases as FASTA.

use std::io::{self, Write};
use std::ops::Range;

use serde::Serialize;

use super::alias::Aliases;
use super::twobit::{Genome, Sequence};
use crate::{Error, Result};

/// Bases on a line of the FASTA that [`Region::write_fasta`] writes.
const LINE: u32 = 60;

/// Part of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// The sequence's index in the genome.
    pub index: usize,
    /// 0-based and half-open, inside the sequence.
    pub range: Range<u32>,
}

/// How the bases of a region are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spelling {
    /// Mask blocks in lower case.
    pub soft_mask: bool,
    /// The other strand.
    pub reverse_complement: bool,
}

impl Region {
    /// Whether some base lies in both.
    pub fn touches(&self, other: &Self) -> bool {
        self.index == other.index && self.range.start < other.range.end && other.range.start < self.range.end
    }

    /// Understands `NAME` (all of it), `NAME:START` (to the end) and `NAME:START-END`, 1-based and inclusive; commas
    /// in numbers are skipped. A sequence whose whole name is `text` comes first, since names may hold colons.
    ///
    /// # Errors
    /// [`Error::Input`] for a name that is not in the genome (with the closest ones) and for a range that is none or
    /// passes the sequence (with its length).
    pub fn parse(genome: &Genome, text: &str) -> Result<Self> {
        Self::parse_with(genome, &Aliases::default(), text)
    }

    /// As [`Region::parse`], of a sequence that may be called by another name.
    ///
    /// # Errors
    /// As [`Region::parse`].
    pub fn parse_with(genome: &Genome, aliases: &Aliases, text: &str) -> Result<Self> {
        if let Some(index) = aliases.resolve(genome, text) {
            return Ok(Self { index, range: 0..genome.sequences()[index].length });
        }
        let (name, numbers) = text.rsplit_once(':').unwrap_or((text, ""));
        let Some(index) = aliases.resolve(genome, name) else {
            return Err(Error::input(
                genome.path(),
                "",
                format!("there is no sequence {name:?}"),
                format!(
                    "{}; `helixgrad genome info` lists all; --alias pairs names",
                    close_names(genome.sequences(), name)
                ),
            ));
        };
        let length = genome.sequences()[index].length;
        let wrong = |found: String| {
            let remedy = format!("{name} has {length} bases: write {name}:START-END, 1-based and inclusive");
            Error::input(genome.path(), format!("region {text:?}"), found, remedy)
        };
        let number = |digits: &str| {
            let plain = digits.replace(',', "");
            let is_number = !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number {
                return Err(wrong(format!("{digits:?} is no position")));
            }
            // Too many digits for u64 is past the end of any sequence, as u64::MAX is.
            Ok(plain.parse().unwrap_or(u64::MAX))
        };
        let (start, end) = match numbers.split_once('-') {
            Some((start, end)) => (number(start)?, number(end)?),
            None => (number(numbers)?, length.into()),
        };
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) if start >= 1 && start <= end && end <= length => {
                Ok(Self { index, range: start - 1..end })
            }
            _ if start == 0 => Err(wrong("position 0".into())),
            _ if start > length.into() || end > length.into() => Err(wrong("it passes the end of the sequence".into())),
            _ => Err(wrong("it ends before it starts".into())),
        }
    }

    /// The record's name in FASTA: the sequence's name, with 1-based inclusive positions unless it is all of it, and
    /// `/rc` for the other strand, as samtools faidx has it.
    pub fn label(&self, genome: &Genome, spelling: Spelling) -> String {
        let sequence = &genome.sequences()[self.index];
        let range = match self.range == (0..sequence.length) {
            true => String::new(),
            false => format!(":{}-{}", self.range.start + 1, self.range.end),
        };
        format!("{}{range}{}", sequence.name, if spelling.reverse_complement { "/rc" } else { "" })
    }

    /// Writes the region as one FASTA record under its [`Region::label`].
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_fasta(&self, genome: &Genome, spelling: Spelling, out: &mut dyn Write) -> io::Result<()> {
        self.write_record(genome, &self.label(genome, spelling), spelling, out)
    }

    /// Writes the region as one FASTA record, a piece at a time, so that a chromosome needs little memory.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_record(&self, genome: &Genome, name: &str, spelling: Spelling, out: &mut dyn Write) -> io::Result<()> {
        const PIECE: u32 = LINE << 14;
        writeln!(out, ">{name}")?;
        let mut bases = Vec::new();
        let mut left = self.range.clone();
        while !left.is_empty() {
            // Pieces are whole lines of the output, so on the other strand they are counted from the end.
            let size = PIECE.min(left.end - left.start);
            let piece = match spelling.reverse_complement {
                false => left.start..left.start + size,
                true => left.end - size..left.end,
            };
            left = if spelling.reverse_complement { left.start..piece.start } else { piece.end..left.end };
            match spelling.soft_mask {
                false => genome.decode(self.index, piece, &mut bases),
                true => genome.decode_soft_masked(self.index, piece, &mut bases),
            }
            if spelling.reverse_complement {
                reverse_complement(&mut bases);
            }
            for line in bases.chunks(LINE as usize) {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }
}

/// Turns ASCII bases into those of the other strand, read in its direction. Case is kept; N, and whatever else is no
/// base, stays as it is.
pub fn reverse_complement(bases: &mut [u8]) {
    bases.reverse();
    for base in bases {
        *base = match *base {
            b'A' => b'T',
            b'C' => b'G',
            b'G' => b'C',
            b'T' => b'A',
            b'a' => b't',
            b'c' => b'g',
            b'g' => b'c',
            b't' => b'a',
            other => other,
        };
    }
}

/// Says which names a genome has that `name` may have been meant to be.
fn close_names(sequences: &[Sequence], name: &str) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<(usize, &str)> =
        sequences.iter().map(|sequence| (distance(&sequence.name, name), sequence.name.as_str())).collect();
    if names.is_empty() {
        return "the file has no sequences".into();
    }
    // Stable, so that equally close names keep the order of the file.
    names.sort_by_key(|(distance, _)| *distance);
    let shown: Vec<_> = names.iter().take(SHOWN).map(|(_, name)| *name).collect();
    let what = if names.len() > SHOWN { "the closest names are" } else { "its sequences are" };
    format!("{what} {}", shown.join(", "))
}

/// The edit distance of two names, in bytes and regardless of case (Levenshtein 1966).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(!a.eq_ignore_ascii_case(&b));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::genome::pack::{PackedSequence, TwoBitWriter};

    fn genome(folder: &tempfile::TempDir) -> Genome {
        let path = folder.path().join("g.2bit");
        let mut writer = TwoBitWriter::create(&path).unwrap();
        for (name, bases) in [("chr1", &b"ACGTNacgta"[..]), ("chr2", b"GG"), ("chr1:2", b"TTT"), ("chrX", b"A")] {
            writer.add(name, &PackedSequence::from_ascii(bases).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        Genome::open(&path).unwrap()
    }

    #[test]
    fn regions_are_one_based_and_inclusive() {
        let folder = tempfile::tempdir().unwrap();
        let genome = genome(&folder);
        let region = |text| Region::parse(&genome, text);
        assert_eq!(region("chr1").unwrap(), Region { index: 0, range: 0..10 });
        assert_eq!(region("chr1:1-1").unwrap(), Region { index: 0, range: 0..1 });
        assert_eq!(region("chr1:3-0,010").unwrap(), Region { index: 0, range: 2..10 });
        assert_eq!(region("chr1:4").unwrap(), Region { index: 0, range: 3..10 });
        assert_eq!(region("chr1:2").unwrap(), Region { index: 2, range: 0..3 });
        assert_eq!(region("chr1:2:2-3").unwrap(), Region { index: 2, range: 1..3 });
    }

    #[test]
    fn wrong_regions_say_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let genome = genome(&folder);
        let message = |text| Region::parse(&genome, text).unwrap_err().to_string();
        assert!(message("chr1:0-5").contains("position 0"));
        assert!(message("chr1:5-4").contains("ends before it starts"));
        for text in ["chr1:1-11", "chr1:11", "chr1:1-99999999999", "chr1:1-999999999999999999999999"] {
            assert!(message(text).contains("passes the end"), "{text}");
            assert!(message(text).contains("chr1 has 10 bases"), "{text}");
        }
        for text in ["chr1:", "chr1:a-b", "chr1:+1-5", "chr1:1-", "chr1:-5", "chr1:1-2-3"] {
            assert!(message(text).contains("is no position"), "{text}: {}", message(text));
        }
        let unknown = message("x:1-2");
        assert!(unknown.contains("no sequence \"x\"") && unknown.contains("its sequences are chrX, chr1"), "{unknown}");
        assert_eq!(distance("chr10", "CHR1"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn regions_that_meet_have_no_base_in_common() {
        let region = |index, range| Region { index, range };
        let touch = |one: Region, other: Region| [one.touches(&other), other.touches(&one)];
        assert_eq!(touch(region(0, 3..7), region(0, 7..9)), [false; 2]);
        assert_eq!(touch(region(0, 3..7), region(0, 6..9)), [true; 2]);
        assert_eq!(touch(region(0, 3..7), region(1, 3..7)), [false; 2]);
    }

    #[test]
    fn both_strands_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let genome = genome(&folder);
        let region = Region::parse(&genome, "chr1:2-8").unwrap();
        let written = |soft_mask, reverse_complement| {
            let mut out = Vec::new();
            region.write_fasta(&genome, Spelling { soft_mask, reverse_complement }, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(false, false), ">chr1:2-8\nCGTNACG\n");
        assert_eq!(written(true, true), ">chr1:2-8/rc\ncgtNACG\n");
    }

    #[test]
    fn pieces_of_a_long_region_join_on_both_strands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.2bit");
        let mut bases: Vec<u8> = (0..2_000_003_u64).map(|i| b"ACGT"[(i * i / 7 % 4) as usize]).collect();
        let mut writer = TwoBitWriter::create(&path).unwrap();
        writer.add("s", &PackedSequence::from_ascii(&bases).unwrap()).unwrap();
        writer.finish().unwrap();
        let genome = Genome::open(&path).unwrap();
        let region = Region::parse(&genome, "s").unwrap();
        for strand in [false, true] {
            let mut out = Vec::new();
            let spelling = Spelling { reverse_complement: strand, ..Spelling::default() };
            region.write_fasta(&genome, spelling, &mut out).unwrap();
            let lines: Vec<_> = out.split(|&byte| byte == b'\n').skip(1).collect();
            let (last, whole) = lines[..lines.len() - 1].split_last().unwrap();
            assert!(whole.iter().all(|line| line.len() == 60) && !last.is_empty());
            assert!(lines.concat() == bases);
            reverse_complement(&mut bases);
        }
    }
}
