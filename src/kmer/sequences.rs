//! Sequences with a name each, one after the other: the records of a FASTA file, the rows of a table.

use std::path::{Path, PathBuf};

use noodles_fasta::io::Reader;

use super::labelled::{Finding, check_bases, parse_sequence};
use super::lines::{self, Lines, read_error};
use crate::{Error, Result};

/// A sequence and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name; for a table, `window_1` and so on.
    pub name: String,
    /// Bases as ASCII letters, as the file has them: lower case and IUPAC codes are kept.
    pub bases: Vec<u8>,
}

impl AsRef<[u8]> for Named {
    fn as_ref(&self) -> &[u8] {
        &self.bases
    }
}

/// The records of a FASTA file, plain, gzip or bgzip: name (up to the first white space) and bases. One record is held at
/// a time.
///
/// # Errors
/// [`Error::Io`]; in the items [`Error::Input`] with the record for letters that are no bases, a record without any,
/// damaged files, and files without records.
pub fn fasta(path: &Path) -> Result<impl Iterator<Item = Result<Named>> + use<>> {
    let mut reader = Reader::new(lines::open(path)?);
    let path = path.to_owned();
    let mut count = 0;
    Ok(std::iter::from_fn(move || {
        let record = reader.records().next();
        if record.is_none() && count == 0 {
            count = 1;
            let remedy = "give a file with `>name` lines and bases below them";
            return Some(Err(Error::input(&path, "", "no FASTA records", remedy)));
        }
        count += 1;
        record.map(|record| fasta_record(&path, count, record))
    }))
}

fn fasta_record(path: &Path, number: usize, record: std::io::Result<noodles_fasta::Record>) -> Result<Named> {
    let place = format!("record {number}");
    let record = record.map_err(read_error(path, place.clone()))?;
    let wrong = |found: String, remedy: &str| Error::input(path, place.clone(), found, remedy);
    let name = record.name().to_vec();
    let name = String::from_utf8(name).map_err(|_| wrong("the name is not UTF-8".into(), "rename the record"))?;
    let bases = record.sequence().as_ref().to_vec();
    if bases.is_empty() {
        return Err(wrong(format!("{name:?} has no bases"), "remove the record, or fetch the file again"));
    }
    check_bases(&bases).map_err(|(found, remedy)| wrong(format!("{name:?}: {found}"), &remedy))?;
    Ok(Named { name, bases })
}

/// The sequences of a table, plain or gzip: the first column of every line after the header, as bases or as k-mers (see
/// [`read_labelled`](super::labelled::read_labelled)). The header's separator, tab or comma, is the file's; with neither
/// there is one column. Further columns are not looked at.
///
/// # Errors
/// [`Error::Io`], or [`Error::Input`] for a file without a header; in the items [`Error::Input`] with the line number for
/// what is no sequence, and for a file without any.
pub fn table(path: &Path) -> Result<impl Iterator<Item = Result<Named>> + use<>> {
    let mut lines = Lines::open(path)?;
    let header = lines.next_line()?.unwrap_or_default();
    let separator = separator_of(header).map_err(|(found, remedy)| Error::input(path, "line 1", found, remedy))?;
    let mut table = Table { path: path.to_owned(), lines, separator, count: 0 };
    Ok(std::iter::from_fn(move || table.next().transpose()))
}

struct Table {
    path: PathBuf,
    lines: Lines,
    separator: char,
    count: usize,
}

impl Table {
    fn next(&mut self) -> Result<Option<Named>> {
        while let Some(line) = self.lines.next_line()? {
            if line.trim().is_empty() {
                continue;
            }
            let bases = parse_sequence(first_column(line, self.separator));
            let place = format!("line {}", self.lines.number());
            let bases = bases.map_err(|(found, remedy)| Error::input(&self.path, place, found, remedy))?;
            self.count += 1;
            return Ok(Some(Named { name: format!("window_{}", self.count), bases }));
        }
        if self.count == 0 {
            self.count = 1;
            let remedy = "write one sequence a line, in the first column";
            return Err(Error::input(&self.path, "", "no windows after the header", remedy));
        }
        Ok(None)
    }
}

fn first_column(line: &str, separator: char) -> &str {
    line.split(separator).next().unwrap_or_default().trim().trim_matches('"')
}

/// A header's first word may be made of bases' letters ("DNA" is), so only what is as long as a k-mer counts as one.
fn separator_of(header: &str) -> Result<char, Finding> {
    const SHORTEST: usize = 6;
    let separator = if !header.contains('\t') && header.contains(',') { ',' } else { '\t' };
    let first = first_column(header, separator);
    if first.is_empty() {
        return Err(("no header".into(), "begin with a header line: sequence".into()));
    }
    if first.len() >= SHORTEST && parse_sequence(first).is_ok() {
        return Err(("a window where the header should be".into(), "put a first line `sequence` above it".into()));
    }
    Ok(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_table(text: &str) -> Result<Vec<Named>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        table(file.path())?.collect()
    }

    #[test]
    fn tables_with_and_without_labels() {
        let expected = ["ACGT", "acgn"].map(|bases| bases.as_bytes().to_vec());
        for text in [
            "sequence\nACGT\nacgn\n",
            "DNA\r\nACGT\r\n\r\nacgn",
            "sequence\tlabel\nACGT\t1\nacgn\tnot a label\n",
            "sequence,label\n\"ACG CGT\",1\nacgn,\n",
            "sequence\tlabel\nACG CGT\t1\nacgn\n",
        ] {
            let read = read_table(text).unwrap();
            assert_eq!(read.iter().map(|named| named.bases.clone()).collect::<Vec<_>>(), expected, "{text:?}");
            assert_eq!(read[1].name, "window_2");
        }
    }

    #[test]
    fn tables_that_are_none() {
        let error = |text: &str| read_table(text).unwrap_err().to_string();
        assert!(error("").contains("line 1: no header"));
        assert!(error("sequence\n\n").contains("no windows after the header"));
        assert!(error("ACGTACGT\nACGTACGT\n").contains("a window where the header should be"));
        assert!(error("ACGTACGT\t1\nACGTACGT\t0\n").contains("a window where the header should be"));
        assert!(error("sequence\nACGT\nAC-T\n").contains("line 3: '-' at base 3"));
    }
}
