//! Windows of a genome that a BED file names.
//!
//! The format (genome.ucsc.edu/FAQ/FAQformat.html#format1): sequence, start, end (0-based, half-open), then optionally
//! name, score and strand, separated by tabs or blanks; further columns do not matter here. Lines that begin with `#`,
//! `track` or `browser` are no windows.

use std::path::{Path, PathBuf};

use crate::genome::alias::Aliases;
use crate::genome::annotation::Strand;
use crate::genome::region::reverse_complement;
use crate::genome::twobit::Genome;
use crate::kmer::lines::Lines;
use crate::kmer::sequences::Named;
use crate::{Error, Result};

/// A line of a BED file, placed on a genome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The sequence's index in the genome.
    pub sequence: usize,
    /// First base, 0-based.
    pub start: u32,
    /// Behind the last base.
    pub end: u32,
    /// The fourth column, if there is one.
    pub name: Option<String>,
    /// The sixth column; [`Strand::Plus`] where it is missing or `.`.
    pub strand: Strand,
}

impl Interval {
    /// `sequence:start-end(strand)`, 0-based as in the file: what bedtools getfasta calls it.
    pub fn place(&self, genome: &Genome) -> String {
        let sequence = &genome.sequences()[self.sequence].name;
        format!("{sequence}:{}-{}({})", self.start, self.end, self.strand)
    }

    /// The bases on the interval's strand, upper case, N where unknown. Without a name it is called as its place.
    pub fn read(&self, genome: &Genome) -> Named {
        let mut bases = Vec::new();
        genome.decode(self.sequence, self.start..self.end, &mut bases);
        if self.strand == Strand::Minus {
            reverse_complement(&mut bases);
        }
        Named { name: self.name.clone().unwrap_or_else(|| self.place(genome)), bases, line: None, uracils: 0 }
    }
}

/// The intervals of a BED file, one after the other, plain or gzip.
pub struct BedReader<'a> {
    path: PathBuf,
    lines: Lines,
    genome: &'a Genome,
    aliases: &'a Aliases,
    found: bool,
    finished: bool,
}

impl<'a> BedReader<'a> {
    /// Opens a BED file whose sequences are those of `genome`, under the same names or under `aliases`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, genome: &'a Genome, aliases: &'a Aliases) -> Result<Self> {
        let lines = Lines::open(path)?;
        Ok(Self { path: path.to_owned(), lines, genome, aliases, found: false, finished: false })
    }

    /// The number of the line read last, from 1.
    pub fn line(&self) -> usize {
        self.lines.number()
    }

    fn read(&mut self) -> Result<Option<Interval>> {
        while let Some(line) = self.lines.next_line()? {
            let first = line.split_ascii_whitespace().next();
            if first.is_none_or(|first| first.starts_with('#') || ["track", "browser"].contains(&first)) {
                continue;
            }
            let interval = parse(line, self.genome, self.aliases);
            let place = format!("line {}", self.lines.number());
            let interval = interval.map_err(|(found, remedy)| Error::input(&self.path, place, found, remedy))?;
            self.found = true;
            return Ok(Some(interval));
        }
        if !self.found {
            let remedy = "write sequence, start and end (0-based, half-open), with tabs between them";
            return Err(Error::input(&self.path, "", "no interval in it", remedy));
        }
        Ok(None)
    }
}

impl Iterator for BedReader<'_> {
    type Item = Result<Interval>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.read().transpose();
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}

fn parse(line: &str, genome: &Genome, aliases: &Aliases) -> Result<Interval, (String, String)> {
    // Names may hold blanks where tabs separate.
    let columns: Vec<&str> =
        if line.contains('\t') { line.split('\t').collect() } else { line.split_ascii_whitespace().collect() };
    let [sequence, start, end, rest @ ..] = columns.as_slice() else {
        let remedy = "write sequence, start and end (0-based, half-open), with tabs between them";
        return Err((format!("{} columns, where BED has at least 3", columns.len()), remedy.into()));
    };
    let Some(index) = aliases.resolve(genome, sequence) else {
        let found = format!("there is no sequence {sequence:?} in {}", genome.path().display());
        let remedy =
            format!("`helixgrad genome info` lists all; say which names mean the same with --alias {sequence}=NAME");
        return Err((found, remedy));
    };
    let number = |what: &str, text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // Too many digits are past the end of any sequence.
        let value = digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX));
        value.ok_or_else(|| (format!("{what} {text:?} is no position"), "write a number, 0-based".to_owned()))
    };
    let (start, end) = (number("start", start)?, number("end", end)?);
    let length = genome.sequences()[index].length;
    if end > length.into() {
        let found = format!("the interval {start}-{end} passes the end of {sequence}, which has {length} bases");
        return Err((found, "use the genome of the same assembly".into()));
    }
    if start >= end {
        let found = format!("the interval {start}-{end} has no bases");
        return Err((found, "starts are 0-based and ends lie behind the last base".into()));
    }
    let strand = match rest.get(2).copied() {
        None | Some("." | "+" | "") => Strand::Plus,
        Some("-") => Strand::Minus,
        Some(other) => return Err((format!("strand {other:?}"), "write +, - or . in the sixth column".into())),
    };
    let name = rest.first().filter(|name| !name.is_empty() && **name != ".").map(|name| (*name).to_owned());
    Ok(Interval { sequence: index, start: start as u32, end: end as u32, name, strand })
}
