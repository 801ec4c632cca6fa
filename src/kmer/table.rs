//! Training and test tables of all kinds: classes, numbers, several classes at once; one sequence a line or two.
//!
//! | task | columns after the sequence (or the two sequences of a pair) |
//! | --- | --- |
//! | classes | one class number; further columns are ignored |
//! | numbers | one or more numbers |
//! | several classes at once | one 0 or 1 for each class |
//!
//! GUE's CSV and DNABERT's TSV are tables of classes, DNABERT's `dnapair` one of pairs.

use std::path::Path;

use super::labelled::{Finding, LabelledWindow, excerpt, parse_label, parse_sequence};
use super::lines::Lines;
use crate::{Error, Result};

/// What stands behind the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// A class number.
    Class,
    /// Numbers.
    Numbers,
    /// 0 or 1 for each class.
    Flags,
}

/// A table, read.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its rows.
    pub windows: Vec<LabelledWindow>,
    /// The header's names of the numbers or flags; none for class numbers.
    pub names: Vec<String>,
}

/// Reads a table, plain or gzip. The header comes first; its separator, tab or comma, is the file's. Sequences are bases, or
/// k-mers (any k) separated by spaces.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] with the line number for a missing header or column, letters that are no bases, an
/// answer that is no class number, no finite number, or neither 0 nor 1, and for a file without rows.
pub fn read_table(path: &Path, answers: Answers, pairs: bool) -> Result<Table> {
    let mut lines = Lines::open(path)?;
    let header = lines.next_line()?.unwrap_or_default().to_owned();
    let at = |line: usize, (found, remedy): Finding| Error::input(path, format!("line {line}"), found, remedy);
    let layout = Layout::of(&header, answers, pairs).map_err(|finding| at(1, finding))?;
    let mut windows = Vec::new();
    while let Some(line) = lines.next_line()? {
        if line.trim().is_empty() {
            continue;
        }
        let window = layout.parse(line);
        windows.push(window.map_err(|finding| at(lines.number(), finding))?);
    }
    match windows.is_empty() {
        true => {
            Err(Error::input(path, "", "no rows after the header", format!("write one line each: {}", layout.shape())))
        }
        false => Ok(Table { windows, names: layout.names }),
    }
}

struct Layout {
    separator: char,
    answers: Answers,
    pairs: bool,
    names: Vec<String>,
}

impl Layout {
    fn of(header: &str, answers: Answers, pairs: bool) -> Result<Self, Finding> {
        let separator = if header.contains('\t') { '\t' } else { ',' };
        let mut layout = Self { separator, answers, pairs, names: Vec::new() };
        let columns = columns(header, separator);
        let needed = if pairs { 3 } else { 2 };
        if columns.len() < needed {
            let found =
                if header.is_empty() { "no header".into() } else { format!("a header of {} columns", columns.len()) };
            return Err((found, format!("begin with a header that names the columns: {}", layout.shape())));
        }
        if answers != Answers::Class {
            layout.names = columns[needed - 1..].iter().map(|name| (*name).to_owned()).collect();
            if let Some(name) = layout.names.iter().find(|name| name.is_empty()) {
                return Err((format!("a column called {name:?}"), "name every column".into()));
            }
        }
        if layout.parse(header).is_ok() {
            return Err((
                "a row where the header should be".into(),
                "put a line that names the columns above it".into(),
            ));
        }
        Ok(layout)
    }

    fn shape(&self) -> String {
        let sequences = if self.pairs { "sequence, second sequence" } else { "sequence" };
        let answers = match self.answers {
            Answers::Class => "class number",
            Answers::Numbers => "one or more numbers",
            Answers::Flags => "0 or 1 for each class",
        };
        let separator = if self.separator == '\t' { "tabs" } else { "commas" };
        format!("{sequences}, {answers}, with {separator} between")
    }

    fn parse(&self, line: &str) -> Result<LabelledWindow, Finding> {
        let columns = columns(line, self.separator);
        let first = if self.pairs { 2 } else { 1 };
        let answers = columns.get(first..).unwrap_or_default();
        let expected = if self.answers == Answers::Class { 1 } else { self.names.len() };
        if answers.len() < expected || (self.answers != Answers::Class && answers.len() > expected) {
            let found = format!("{} columns, where the header has {}", columns.len(), first + expected);
            return Err((found, format!("write {}", self.shape())));
        }
        let mut window = LabelledWindow { bases: parse_sequence(columns[0])?, ..LabelledWindow::default() };
        if self.pairs {
            window.second = Some(parse_sequence(columns[1])?);
        }
        match self.answers {
            Answers::Class => window.label = parse_label(answers[0])?,
            Answers::Numbers => window.targets = answers.iter().map(|text| number(text)).collect::<Result<_, _>>()?,
            Answers::Flags => window.targets = answers.iter().map(|text| flag(text)).collect::<Result<_, _>>()?,
        }
        Ok(window)
    }
}

fn columns(line: &str, separator: char) -> Vec<&str> {
    line.split(separator).map(|column| column.trim().trim_matches('"')).collect()
}

/// Squared errors are added in 32-bit floats, which end at 3.4e38.
const LARGEST_NUMBER: f32 = 1e15;

fn number(text: &str) -> Result<f32, Finding> {
    match text.parse::<f32>() {
        Ok(number) if number.abs() <= LARGEST_NUMBER => Ok(number),
        Ok(number) if number.is_finite() => {
            let found = format!("{number:e}, whose square is beyond what the loss can count");
            Err((found, "scale the column, best to numbers around 1".into()))
        }
        _ => Err((format!("{:?} is no finite number", excerpt(text)), "write a number in every column".into())),
    }
}

fn flag(text: &str) -> Result<f32, Finding> {
    match text.parse::<f32>() {
        Ok(flag) if flag == 0.0 || flag == 1.0 => Ok(flag),
        _ => Err((
            format!("{:?} is neither 0 nor 1", excerpt(text)),
            "write 1 for a class that holds, 0 for others".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, answers: Answers, pairs: bool) -> Result<Table> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_table(file.path(), answers, pairs)
    }

    #[test]
    fn every_kind() {
        let classes = read("sequence,label,note\nACGT,2,x\n\nAC CG,0,y\n", Answers::Class, false).unwrap();
        assert_eq!((classes.windows[0].label, classes.windows[1].bases.as_slice()), (2, &b"ACG"[..]));
        let numbers = read("sequence\tone\ttwo\nACGT\t1.5\t-2e3\n", Answers::Numbers, false).unwrap();
        assert_eq!(
            (numbers.windows[0].targets.clone(), numbers.names),
            (vec![1.5, -2000.0], vec!["one".into(), "two".into()])
        );
        let flags = read("sequence,a,b,c\nACGT,1,0,1\n", Answers::Flags, false).unwrap();
        assert_eq!((flags.windows[0].targets.clone(), flags.names.len()), (vec![1.0, 0.0, 1.0], 3));
        let pairs = read("a\tb\tlabel\nACG CGT\tTTT\t1\n", Answers::Class, true).unwrap();
        assert_eq!(pairs.windows[0].second.as_deref(), Some(&b"TTT"[..]));
    }

    #[test]
    fn faults_are_told_with_the_line() {
        let error = |text: &str, answers, pairs| read(text, answers, pairs).unwrap_err().to_string();
        assert!(error("", Answers::Class, false).contains("line 1: no header"));
        assert!(error("sequence\nACG\n", Answers::Numbers, false).contains("a header of 1 columns"));
        assert!(error("ACG,1\nACG,1\n", Answers::Class, false).contains("line 1: a row where"));
        assert!(error("a,b\nACG,1\nACG,1\n", Answers::Class, true).contains("a header of 2 columns"));
        assert!(error("s,y\nACG,1\nACG,x\n", Answers::Numbers, false).contains("line 3: \"x\" is no finite number"));
        assert!(error("s,y\nACG,inf\n", Answers::Numbers, false).contains("\"inf\""));
        assert!(error("s,y\nACG,1\nACG,-3e38\n", Answers::Numbers, false).contains("line 3: -3e38, whose square"));
        assert!(error("s,y\nACG,2\n", Answers::Flags, false).contains("neither 0 nor 1"));
        assert!(error("s,y,z\nACG,1\n", Answers::Flags, false).contains("2 columns, where the header has 3"));
        assert!(error("s,y\nACG,1,1\n", Answers::Flags, false).contains("3 columns"));
        assert!(error("s,,\nACG,1,1\n", Answers::Flags, false).contains("called \"\""));
        assert!(error("s,y\nAC-,1\n", Answers::Numbers, false).contains("'-' at base 3"));
        assert!(error("s,t,y\nACG,,1\n", Answers::Class, true).contains("empty sequence"));
        assert!(error("s,y\n", Answers::Class, false).contains("no rows after the header"));
    }
}
