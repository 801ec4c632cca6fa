//! Sequences with a name each, one after the other: the records of a FASTA file, the rows of a table.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::header::{Columns, Wanted};
use super::labelled::{
    Finding, check_bases, lower_case, parse_sequence, replace_uracils, tell_lower_case, tell_uracils,
};
use super::lines::{self, Lines, read_error};
use super::row::columns;
use crate::{Error, Result};

/// A sequence and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name; for a table without names, `window_1` and so on.
    pub name: String,
    /// Bases as ASCII letters, as the file has them: lower case and IUPAC codes are kept, U is T.
    pub bases: Vec<u8>,
    /// The line of the file, from 1, if it is a table.
    pub line: Option<usize>,
    /// U that were read as T, in both sequences of a pair.
    pub uracils: u64,
}

impl Named {
    /// From text that came by itself: bases, or k-mers that overlap.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn parse(name: String, text: &str) -> Result<Self, (String, String)> {
        let mut uracils = 0;
        let bases = parse_sequence(text, &mut uracils)?;
        Ok(Self { name, bases, line: None, uracils })
    }

    /// Where it stands in its file, for a message.
    pub fn place(&self) -> String {
        self.line.map_or_else(|| self.name.clone(), |line| format!("line {line} ({})", self.name))
    }
}

impl AsRef<[u8]> for Named {
    fn as_ref(&self) -> &[u8] {
        &self.bases
    }
}

/// Bases of the longest record that is read: several times those of a human chromosome, and yet short enough for memory.
const LONGEST_RECORD: usize = 1 << 30;
/// Bytes of the longest header line.
const LONGEST_HEADER: u64 = 64 << 10;

/// The records of a FASTA file, plain, gzip or bgzip: name (up to the first white space) and bases. One record is held at
/// a time.
///
/// # Errors
/// [`Error::Io`]; in the items [`Error::Input`] with the record for letters that are no bases, a record without any or of
/// more than a billion, damaged files, and files without records.
pub fn fasta(path: &Path) -> Result<impl Iterator<Item = Result<Named>> + use<>> {
    let mut records = Fasta { path: path.to_owned(), reader: lines::open(path)?, count: 0, uracils: 0, lower_case: 0 };
    Ok(std::iter::from_fn(move || {
        let record = records.next().transpose();
        if record.is_none() && records.count == 0 {
            records.count = 1;
            let remedy = "give a file with `>name` lines and bases below them";
            return Some(Err(Error::input(&records.path, "", "no FASTA records", remedy)));
        }
        if record.is_none() {
            tell_uracils(&records.path, std::mem::take(&mut records.uracils));
            tell_lower_case(&records.path, std::mem::take(&mut records.lower_case));
        }
        record
    }))
}

struct Fasta {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    /// Records that were begun.
    count: usize,
    /// U that were read as T.
    uracils: u64,
    /// Letters in lower case.
    lower_case: u64,
}

impl Fasta {
    fn next(&mut self) -> Result<Option<Named>> {
        let Some(name) = self.header()? else { return Ok(None) };
        let before = self.uracils;
        let bases = self.bases(&name)?;
        if bases.is_empty() {
            return Err(self.wrong(format!("{name:?} has no bases"), "remove the record, or fetch the file again"));
        }
        self.lower_case += lower_case(&bases);
        Ok(Some(Named { name, bases, line: None, uracils: self.uracils - before }))
    }

    /// The line that begins the next record: its name.
    fn header(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        while line.trim_ascii().is_empty() {
            line.clear();
            let read = self.reader.by_ref().take(LONGEST_HEADER).read_until(b'\n', &mut line);
            if read.map_err(read_error(&self.path, format!("record {}", self.count + 1)))? == 0 {
                return Ok(None);
            }
        }
        self.count += 1;
        let wrong =
            |found: &str, remedy: &str| Error::input(&self.path, format!("record {}", self.count), found, remedy);
        let remedy = "give a file with `>name` lines and bases below them";
        let Some(text) = line.strip_prefix(b">") else { return Err(wrong("no `>` where it should begin", remedy)) };
        if line.len() as u64 == LONGEST_HEADER {
            return Err(wrong("a header line of more than 64 KiB", remedy));
        }
        let name = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        if name.is_empty() {
            return Err(wrong("no name", "write a name directly behind the `>`"));
        }
        let name = str::from_utf8(name).map_err(|_| wrong("the name is not UTF-8", "rename the record"))?;
        Ok(Some(name.to_owned()))
    }

    /// The lines up to the next header, without their ends.
    fn bases(&mut self, name: &str) -> Result<Vec<u8>> {
        let (mut bases, mut begins_line) = (Vec::new(), true);
        loop {
            let text = self.reader.fill_buf().map_err(read_error(&self.path, format!("record {}", self.count)))?;
            if text.is_empty() || begins_line && text[0] == b'>' {
                bases.pop_if(|last| *last == b'\r');
                return Ok(bases);
            }
            let end = text.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(text.len(), |end| end + 1);
            // A CR that ended the last piece is one of a line's end only if this one begins with LF.
            let checked = bases.len() - usize::from(bases.last() == Some(&b'\r'));
            bases.extend_from_slice(&text[..end.unwrap_or(used)]);
            self.reader.consume(used);
            begins_line = end.is_some();
            if begins_line {
                bases.pop_if(|last| *last == b'\r');
            }
            self.uracils += replace_uracils(&mut bases[checked..]);
            // What is no base ends the work here, not after the gigabytes that may follow.
            let new = &bases[checked..];
            if check_bases(new.strip_suffix(b"\r").unwrap_or(new)).is_err() {
                let (found, remedy) = check_bases(&bases).err().unwrap_or_default();
                return Err(self.wrong(format!("{name:?}: {found}"), &remedy));
            }
            if bases.len() > LONGEST_RECORD {
                let remedy = "cut it into pieces; or `helixgrad genome pack` it, and name regions in a BED file";
                return Err(self.wrong(format!("{name:?} has more than {LONGEST_RECORD} bases"), remedy));
            }
        }
    }

    fn wrong(&self, found: String, remedy: &str) -> Error {
        Error::input(&self.path, format!("record {}", self.count), found, remedy)
    }
}

/// The sequences of a table, plain or gzip, as bases or as k-mers (see [`read_labelled`](super::labelled::read_labelled)): the column
/// that the header calls so, or the only one but names and labels. The header's separator, tab or comma, is the file's; with neither
/// there is one column. A further column called `name` or `id` has the names; others are not looked at.
///
/// # Errors
/// [`Error::Io`], or [`Error::Input`] for a file without a header; in the items [`Error::Input`] with the line number for
/// what is no sequence, and for a file without any.
pub fn table(path: &Path) -> Result<impl Iterator<Item = Result<Named>> + use<>> {
    let mut table = Table::open(path, false)?;
    Ok(std::iter::from_fn(move || table.next().transpose()).map(|row| row.map(|(first, _)| first)))
}

/// As [`table`], of two sequences a line.
///
/// # Errors
/// As [`table`].
pub fn pairs(path: &Path) -> Result<impl Iterator<Item = Result<(Named, Vec<u8>)>> + use<>> {
    let mut table = Table::open(path, true)?;
    Ok(std::iter::from_fn(move || table.next().transpose()))
}

struct Table {
    path: PathBuf,
    lines: Lines,
    separator: char,
    columns: Columns,
    count: usize,
    /// U that were read as T.
    uracils: u64,
    /// Letters in lower case.
    lower_case: u64,
}

impl Table {
    fn open(path: &Path, pairs: bool) -> Result<Self> {
        let mut lines = Lines::open(path)?;
        let header = lines.next_line()?.unwrap_or_default();
        let wrong = |(found, remedy)| Error::input(path, "line 1", found, remedy);
        let (separator, columns) = columns_of(header, pairs).map_err(wrong)?;
        Ok(Self { path: path.to_owned(), lines, separator, columns, count: 0, uracils: 0, lower_case: 0 })
    }

    /// A row: its name and sequence, and the second sequence, empty where rows are no pairs.
    fn next(&mut self) -> Result<Option<(Named, Vec<u8>)>> {
        while let Some(line) = self.lines.next_line()? {
            if line.trim().is_empty() {
                continue;
            }
            let columns = columns(line, self.separator);
            let before = self.uracils;
            let column = |index: usize| columns.get(index).map(|column| column.as_ref()).unwrap_or_default();
            let name = self.columns.name.map(column).filter(|name| !name.is_empty()).map(str::to_owned);
            let parsed: Result<Vec<_>, Finding> =
                self.columns.sequences.iter().map(|&index| parse_sequence(column(index), &mut self.uracils)).collect();
            let line = self.lines.number();
            let wrong = |(found, remedy)| Error::input(&self.path, format!("line {line}"), found, remedy);
            let mut sequences = parsed.map_err(wrong)?.into_iter();
            let (bases, second) = (sequences.next().unwrap_or_default(), sequences.next().unwrap_or_default());
            self.count += 1;
            let name = name.unwrap_or_else(|| format!("window_{}", self.count));
            let uracils = self.uracils - before;
            self.lower_case += lower_case(&bases) + lower_case(&second);
            return Ok(Some((Named { name, bases, line: Some(line), uracils }, second)));
        }
        tell_uracils(&self.path, std::mem::take(&mut self.uracils));
        tell_lower_case(&self.path, std::mem::take(&mut self.lower_case));
        if self.count == 0 {
            self.count = 1;
            let remedy = "write one sequence a line";
            return Err(Error::input(&self.path, "", "no windows after the header", remedy));
        }
        Ok(None)
    }
}

/// The separator and the columns of a header.
fn columns_of(header: &str, pairs: bool) -> Result<(char, Columns), Finding> {
    let separator = if !header.contains('\t') && header.contains(',') { ',' } else { '\t' };
    let columns = columns(header, separator);
    let wanted = if pairs { "sequence1 and sequence2" } else { "sequence" };
    let found = Columns::of(&columns, pairs, Wanted::Nothing).map_err(|(found, remedy)| match remedy.is_empty() {
        true => (found, format!("begin with a header line that names the columns: {wanted}")),
        false => (found, remedy),
    })?;
    if found.is_row(&columns) {
        return Err(("a window where the header should be".into(), format!("put a first line `{wanted}` above it")));
    }
    Ok((separator, found))
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
    fn a_column_of_names_names_the_rows() {
        for text in [
            "sequence\tlabel\tName\nACGT\t1\tBRCA1 exon 2\nACG CGT\t0\t\nAAAA\t0\tx\n",
            "sequence,id\r\nACGT,\"BRCA1 exon 2\"\r\nACGT\r\nAAAA,x\r\n",
        ] {
            let names: Vec<String> = read_table(text).unwrap().into_iter().map(|named| named.name).collect();
            assert_eq!(names, ["BRCA1 exon 2", "window_2", "x"], "{text:?}");
        }
        let table = read_table("name\tx\none\tacgu\n").unwrap();
        assert_eq!(
            (table[0].name.as_str(), table[0].bases.as_slice(), table[0].place()),
            ("one", &b"acgt"[..], "line 2 (one)".into())
        );
    }

    #[test]
    fn tables_that_are_none() {
        let error = |text: &str| read_table(text).unwrap_err().to_string();
        assert!(error("").contains("line 1: no header"));
        assert!(error("sequence\n\n").contains("no windows after the header"));
        assert!(error("ACGTACGT\nACGTACGT\n").contains("a window where the header should be"));
        assert!(error("ACGTACGT\t1\nACGTACGT\t0\n").contains("a window where the header should be"));
        assert!(error("sequence\nACGT\nAC-T\n").contains("line 3: '-' at base 3"));
        assert!(
            error("ref\talt\nACGT\tACGA\n").contains("line 1: several columns that could be the sequence: ref, alt")
        );
    }
}
