//! Training and test tables of all kinds: classes, numbers, several classes at once; one sequence a line or two.
//!
//! | task | columns beside the sequence (or the two sequences of a pair) |
//! | --- | --- |
//! | classes | the class, as a number from 0 or by its name; further columns are ignored |
//! | numbers | one or more numbers |
//! | several classes at once | one 0 or 1 for each class |
//! | a class for each of many places | `labels`: a digit or a point under each base |
//!
//! The header says which column is which, wherever they stand: `sequence` and `label`, or other usual names. A guess among several
//! columns is refused.
//!
//! GUE's CSV and DNABERT's TSV are tables of classes, DNABERT's `dnapair` one of pairs.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::header::{Columns, Wanted, is_name};
use super::labelled::{
    Finding, LabelledWindow, MOST_CLASSES, Place, excerpt, lower_case, middle, parse_label, parse_sequence,
    tell_lower_case, tell_uracils,
};
use super::lines::Lines;
use super::row::columns;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What stands behind the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// A class: its number or its name.
    Class,
    /// Numbers.
    Numbers,
    /// 0 or 1 for each class.
    Flags,
    /// A class for each place of a long sequence: a column `labels` as long as the sequence, with the class' digit under the base that
    /// the place stands before, and a point where nothing is asked.
    Places,
}

/// A table, read.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its rows.
    pub windows: Vec<LabelledWindow>,
    /// What the rows are called: by a column `name` or `id`, or `window_1` and so on.
    pub rows: Vec<String>,
    /// The line of the file that each row is, from 1.
    pub lines: Vec<usize>,
    /// The header's names of the numbers or flags; the classes, where rows name theirs; none for class numbers.
    pub names: Vec<String>,
    /// The smallest and the largest of each number.
    pub ranges: Vec<(f64, f64)>,
    /// U that were read as T.
    pub uracils: u64,
}

/// What a model can read of a row.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What makes its tokens.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Bases of the window that is read, the middle of longer sequences; none: all of them.
    pub window: Option<usize>,
    /// Tokens of the longest input.
    pub positions: usize,
}

impl Limits {
    /// The fewest bases of a sequence.
    pub fn least(&self) -> usize {
        self.window.unwrap_or(self.tokenizer.shortest())
    }

    /// Tokens of what is read of a sequence, without special ones.
    pub fn tokens(&self, bases: &[u8]) -> usize {
        let read = &bases[middle(bases.len(), self.window)];
        if let Some(k_mers) = self.tokenizer.k_mers() {
            return read.len() + 1 - k_mers.k();
        }
        let mut ids = Vec::new();
        self.tokenizer.encode(read, &mut ids);
        ids.len()
    }

    /// A sequence, or two, can be read.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(&self, bases: &[u8], second: Option<&[u8]>) -> Result<(), (String, String)> {
        let sequences = [Some(bases), second].into_iter().flatten();
        let shortest = self.tokenizer.shortest();
        let remedy =
            |limit: String| format!("the model reads {limit}: leave such rows out, or choose another --window");
        if let Some(window) = self.window.filter(|window| *window < shortest) {
            let found = format!("the middle {window} bases of a sequence");
            return Err((found, format!("give --window {shortest} or more: a token has {shortest} bases")));
        }
        if let Some(short) = sequences.clone().map(<[u8]>::len).find(|length| *length < self.least()) {
            let found = format!("a sequence of {short} bases");
            return Err((found, remedy(format!("sequences of {} bases or more", self.least()))));
        }
        // The one at the beginning, and for each sequence its tokens and the one behind them.
        let ends = self.tokenizer.specials().frame() - 1;
        let tokens: usize = 1 + sequences.map(|sequence| self.tokens(sequence) + ends).sum::<usize>();
        if tokens > self.positions {
            let bases = bases.len() + second.map_or(0, <[u8]>::len);
            let found = format!("{bases} bases, which make {tokens} tokens");
            return Err((found, remedy(format!("{} tokens at most", self.positions))));
        }
        Ok(())
    }
}

impl Table {
    /// Every row can be read; `path` is the file that it comes from.
    ///
    /// # Errors
    /// [`Error::Input`] with the first line that cannot.
    pub fn check_lengths(&self, path: &Path, limits: &Limits) -> Result<()> {
        for (window, line) in self.windows.iter().zip(&self.lines) {
            let checked = limits.check(&window.bases, window.second.as_deref());
            checked.map_err(|(found, remedy)| Error::input(path, format!("line {line}"), found, remedy))?;
        }
        Ok(())
    }
}

/// Reads a table, plain or gzip. The header comes first; its separator, tab or comma, is the file's. Sequences are bases, or
/// k-mers (any k) separated by spaces; U is read as T. Names of classes are looked up in `classes`, those 0, 1, ... that a model has or that
/// another table had; where there are none yet, the file's names become the classes, in alphabetical order.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] with the line number for a missing header or column, letters that are no bases, an
/// answer that is no class, no finite number, or neither 0 nor 1, and for a file without rows.
pub fn read_table(path: &Path, answers: Answers, pairs: bool, classes: &[String]) -> Result<Table> {
    let mut lines = Lines::open(path)?;
    let header = lines.next_line()?.unwrap_or_default().to_owned();
    let at = |line: usize, (found, remedy): Finding| Error::input(path, format!("line {line}"), found, remedy);
    let layout = Layout::of(&header, answers, pairs).map_err(|finding| at(1, finding))?;
    let mut seen = Seen { classes: classes.to_vec(), are_known: !classes.is_empty(), ..Seen::default() };
    let (mut windows, mut rows, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(line) = lines.next_line()? {
        if line.trim().is_empty() {
            continue;
        }
        let columns = columns(line, layout.separator);
        let name = layout.name.and_then(|column| columns.get(column)).filter(|name| !name.is_empty());
        rows.push(name.map_or_else(|| format!("window_{}", rows.len() + 1), |name| name.to_string()));
        let window = layout.parse(&columns, &mut seen);
        windows.push(window.map_err(|finding| at(lines.number(), finding))?);
        numbers.push(lines.number());
    }
    tell_uracils(path, seen.uracils);
    let in_lower_case =
        |window: &LabelledWindow| lower_case(&window.bases) + window.second.as_deref().map_or(0, lower_case);
    tell_lower_case(path, windows.iter().map(in_lower_case).sum());
    if windows.is_empty() {
        let remedy = format!("write one line each: {}", shape(answers, pairs, layout.separator));
        return Err(Error::input(path, "", "no rows after the header", remedy));
    }
    let (ranges, uracils) = (std::mem::take(&mut seen.ranges), seen.uracils);
    let classes = seen.settle(&mut windows);
    let names = if answers == Answers::Class { classes } else { layout.names };
    Ok(Table { windows, rows, lines: numbers, names, ranges, uracils })
}

/// Whether a table has a class for each of many places: a column `labels`, and none called `label`. Standard input has not.
///
/// # Errors
/// [`Error::Io`].
pub fn has_places(path: &Path) -> Result<bool> {
    if path == Path::new("-") {
        return Ok(false);
    }
    let mut lines = Lines::open(path)?;
    let header = lines.next_line()?.unwrap_or_default();
    let separator = if header.contains('\t') { '\t' } else { ',' };
    let columns = columns(header, separator);
    let has = |name: &str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    Ok(has("labels") && !has("label"))
}

struct Layout {
    separator: char,
    answers: Answers,
    /// Columns of the header.
    columns: usize,
    /// Those of the sequence, or of the two of a pair.
    sequences: Vec<usize>,
    /// Those of the answers: of a class the one.
    answers_at: Vec<usize>,
    /// That of the rows' names.
    name: Option<usize>,
    names: Vec<String>,
}

impl Layout {
    fn of(header: &str, answers: Answers, pairs: bool) -> Result<Self, Finding> {
        let separator = if header.contains('\t') { '\t' } else { ',' };
        let columns = columns(header, separator);
        let is_class = matches!(answers, Answers::Class | Answers::Places);
        let wanted = if is_class { Wanted::Class } else { Wanted::Others };
        let found = Columns::of(&columns, pairs, wanted).map_err(|(found, remedy)| match remedy.is_empty() {
            true => {
                (found, format!("begin with a header that names the columns: {}", shape(answers, pairs, separator)))
            }
            false => (found, remedy),
        })?;
        if found.is_row(&columns) {
            return Err((
                "a row where the header should be".into(),
                "put a line that names the columns above it".into(),
            ));
        }
        let answers_at: Vec<usize> = match found.label {
            Some(label) => vec![label],
            None => {
                let is_other = |column: &usize| !found.sequences.contains(column) && !is_name(&columns[*column]);
                (0..columns.len()).filter(is_other).collect()
            }
        };
        let mut names = Vec::new();
        if !is_class {
            names = answers_at.iter().map(|&column| columns[column].to_string()).collect();
            if let Some(name) = names.iter().find(|name| name.is_empty()) {
                return Err((format!("a column called {name:?}"), "name every column".into()));
            }
        }
        let Columns { sequences, name, .. } = found;
        Ok(Self { separator, answers, columns: columns.len(), sequences, answers_at, name, names })
    }

    fn parse(&self, columns: &[Cow<str>], seen: &mut Seen) -> Result<LabelledWindow, Finding> {
        // What stands behind a class is not looked at; of numbers and flags each has its column.
        let least = self.answers_at.iter().chain(&self.sequences).max().map_or(0, |last| last + 1);
        let (expected, fits) = match self.answers {
            Answers::Class | Answers::Places => (least, columns.len() >= least),
            _ => (self.columns, columns.len() == self.columns),
        };
        if !fits {
            let found = format!("{} columns, where the header has {expected}", columns.len());
            let pairs = self.sequences.len() > 1;
            return Err((found, format!("write {}", shape(self.answers, pairs, self.separator))));
        }
        let mut sequences = self.sequences.iter().map(|&column| parse_sequence(&columns[column], &mut seen.uracils));
        let bases = sequences.next().transpose()?.unwrap_or_default();
        let mut window = LabelledWindow { bases, second: sequences.next().transpose()?, ..LabelledWindow::default() };
        let mut answers = self.answers_at.iter().map(|&column| columns[column].as_ref());
        match self.answers {
            Answers::Class => {
                let class = answers.next().unwrap_or_default();
                if class.len() == window.bases.len() && class.contains('.') && places(class, class.len()).is_ok() {
                    let remedy = "train with --head tokens on such a table, and evaluate a model that was";
                    return Err(("a class for each of many places, where one is needed".into(), remedy.into()));
                }
                window.label = seen.class(class)?;
            }
            Answers::Numbers => {
                let numbers = answers.map(number).collect::<Result<Vec<f64>, _>>()?;
                seen.widen(&numbers);
                window.targets = numbers.iter().map(|number| *number as f32).collect();
            }
            Answers::Flags => window.targets = answers.map(flag).collect::<Result<_, _>>()?,
            Answers::Places => window.places = places(answers.next().unwrap_or_default(), window.bases.len())?,
        }
        Ok(window)
    }
}

/// The columns that a table of this kind has, in words.
fn shape(answers: Answers, pairs: bool, separator: char) -> String {
    let sequences = if pairs { "sequence1, sequence2" } else { "sequence" };
    let answers = match answers {
        Answers::Class => "label",
        Answers::Numbers => "one or more numbers",
        Answers::Flags => "0 or 1 for each class",
        Answers::Places => "labels (a digit or a point for each base)",
    };
    let separator = if separator == '\t' { "tabs" } else { "commas" };
    format!("{sequences}, {answers}, with {separator} between")
}

/// The places that have a class, of a sequence of so many bases.
fn places(text: &str, bases: usize) -> Result<Vec<Place>, Finding> {
    if text.len() != bases {
        let found = format!("{} labels for {bases} bases", text.chars().count());
        return Err((found, "write one for each base: the digit of a class, or a point".into()));
    }
    let mut places = Vec::new();
    for (at, label) in (0..).zip(text.bytes()) {
        match label {
            b'.' => {}
            b'0'..=b'9' => places.push(Place { at, class: label - b'0' }),
            _ => {
                let label = text[at as usize..].chars().next().unwrap_or('?');
                return Err((
                    format!("label {label:?} at base {}", at + 1),
                    "write a digit from 0 to 9, or a point".into(),
                ));
            }
        }
    }
    if places.is_empty() {
        return Err(("no place that has a class".into(), "leave such rows out".into()));
    }
    Ok(places)
}

/// What the rows so far have in their columns.
#[derive(Default)]
struct Seen {
    /// Names of class 0, 1, ...; of unknown ones in the order of their appearance.
    classes: Vec<String>,
    are_known: bool,
    /// Whether classes have names, or numbers: whichever the first row has.
    are_names: Option<bool>,
    /// The smallest and the largest of each number.
    ranges: Vec<(f64, f64)>,
    /// U that were read as T.
    uracils: u64,
}

impl Seen {
    fn widen(&mut self, numbers: &[f64]) {
        self.ranges.resize(numbers.len(), (f64::INFINITY, f64::NEG_INFINITY));
        for ((low, high), number) in self.ranges.iter_mut().zip(numbers) {
            (*low, *high) = (low.min(*number), high.max(*number));
        }
    }

    fn class(&mut self, text: &str) -> Result<i32, Finding> {
        // A negative number, a fraction or nothing is a slip, not a name.
        let is_name = !text.is_empty() && text.parse::<f64>().is_err();
        if !*self.are_names.get_or_insert(is_name) {
            return parse_label(text);
        }
        let found = format!("class {:?}", excerpt(text));
        if !is_name {
            let remedy = "name the class in every row, by a word that is no number; or number all";
            return Err((format!("{found} among names of classes"), remedy.into()));
        }
        match self.classes.iter().position(|name| name == text) {
            Some(class) => Ok(class as i32),
            None if self.are_known => Err((
                format!("{found}, which is none of {}", self.classes.join(", ")),
                "use names of these classes".into(),
            )),
            None if self.classes.len() >= MOST_CLASSES as usize => {
                let remedy = format!("is this the column of classes? at most {MOST_CLASSES} can be told apart");
                Err((format!("{found}, another one after {MOST_CLASSES}"), remedy))
            }
            None => {
                self.classes.push(text.to_owned());
                Ok(self.classes.len() as i32 - 1)
            }
        }
    }

    /// Numbers classes that were not known by the alphabet; returns the names, none where rows have numbers.
    fn settle(self, windows: &mut [LabelledWindow]) -> Vec<String> {
        if self.are_names != Some(true) {
            return Vec::new();
        }
        if self.are_known {
            return self.classes;
        }
        let mut sorted = self.classes.clone();
        sorted.sort();
        let number = |name: &String| sorted.binary_search(name).unwrap_or_default() as i32;
        let numbers: Vec<i32> = self.classes.iter().map(number).collect();
        windows.iter_mut().for_each(|window| window.label = numbers[window.label as usize]);
        sorted
    }
}

/// A model's answers are 32-bit floats, which end at 3.4e38 and begin to lose digits at 1.2e-38.
const NUMBERS: RangeInclusive<f64> = 1e-30..=1e30;

fn number(text: &str) -> Result<f64, Finding> {
    match text.parse::<f64>() {
        Ok(number) if number == 0.0 || NUMBERS.contains(&number.abs()) => Ok(number),
        Ok(number) if number.is_finite() => Err((
            format!("{number:e}, which is beyond 32-bit floats"),
            "scale the column, best to numbers around 1".into(),
        )),
        _ => Err((
            format!("{:?} is no finite number", excerpt(text)),
            "write a number in every column, with a point before decimals".into(),
        )),
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
        read_table(file.path(), answers, pairs, &[])
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
    fn places_have_a_digit_under_their_base() {
        let table = read("name\tsequence\tlabels\nx\tACGUA\t.2.0.\n", Answers::Places, false).unwrap();
        let place = |at, class| Place { at, class };
        assert_eq!(table.windows[0].places, [place(1, 2), place(3, 0)]);
        assert_eq!((table.windows[0].bases.as_slice(), table.rows[0].as_str()), (&b"ACGTA"[..], "x"));
        let error = |row: &str| {
            read(&format!("sequence,labels\nAC,.1\n{row}\n"), Answers::Places, false).unwrap_err().to_string()
        };
        assert!(error("ACG,.1").contains("line 3: 2 labels for 3 bases"));
        assert!(error("ACG,.1.1").contains("4 labels for 3 bases"));
        assert!(error("ACG,.a1").contains("label 'a' at base 2"));
        assert!(error("ACG,1\u{e9}").contains("label '\u{e9}' at base 2"));
        assert!(error("ACG,...").contains("no place that has a class"));
        assert!(error("ACG").contains("1 columns, where the header has 2"));
        let one = read("sequence,labels\nACGT,.1..\n", Answers::Class, false).unwrap_err().to_string();
        assert!(one.contains("a class for each of many places") && one.contains("--head tokens"), "{one}");
    }

    #[test]
    fn names_of_rows_are_no_answers() {
        let table = read("sequence,name,y,ID,z\nACG,one,3,x,-1\nACG,,-2,x,-1\n", Answers::Numbers, false).unwrap();
        assert_eq!(
            (&table.rows[..], &table.names[..]),
            (&["one", "window_2"].map(String::from)[..], &["y", "z"].map(String::from)[..])
        );
        assert_eq!(table.ranges, [(-2.0, 3.0), (-1.0, -1.0)]);
        assert_eq!(table.windows[1].targets, [-2.0, -1.0]);
        let table =
            read("sequence\tid\tkind\nACG\tx0\tdonor, plus\nACG\tx1\t\"acceptor\"\n", Answers::Class, false).unwrap();
        assert_eq!(table.names, ["acceptor", "donor, plus"]);
        assert_eq!((table.windows[0].label, table.rows[0].as_str()), (1, "x0"));
        let table = read("sequence,label\nACG,\"a,b\"\nACG,c\n", Answers::Class, false).unwrap();
        assert_eq!(table.names, ["a,b", "c"]);
        assert!(
            read("sequence,name\nACG,x\n", Answers::Class, false).unwrap_err().to_string().contains("a header of 2")
        );
    }

    #[test]
    fn classes_have_names() {
        let text = "dna,label\nACGT,silencer\nACC,\"enhancer\"\nACT,silencer\nAAA,promoter\n";
        let table = read(text, Answers::Class, false).unwrap();
        let labels = |table: &Table| table.windows.iter().map(|window| window.label).collect::<Vec<_>>();
        assert_eq!(
            (labels(&table), &table.names[..]),
            (vec![2, 0, 2, 1], ["enhancer", "promoter", "silencer"].map(Into::into).as_slice())
        );
        // As another table, or a model, has them.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "dna,label\nACGT,silencer\nACC,enhancer\n").unwrap();
        let known = ["silencer", "promoter", "enhancer"].map(str::to_owned);
        let table = read_table(file.path(), Answers::Class, false, &known).unwrap();
        assert_eq!((labels(&table), &table.names[..]), (vec![0, 2], &known[..]));
        let message = read_table(file.path(), Answers::Class, false, &known[..2]).unwrap_err().to_string();
        assert!(message.contains("line 3: class \"enhancer\", which is none of silencer, promoter"), "{message}");
        std::fs::write(file.path(), "dna,label\nACGT,1\nACC,0\n").unwrap();
        let table = read_table(file.path(), Answers::Class, false, &known).unwrap();
        assert_eq!((labels(&table), table.names.len()), (vec![1, 0], 0), "numbers are numbers");
        let error = |text: &str| read(text, Answers::Class, false).unwrap_err().to_string();
        assert!(error("s,y\nACG,one\nACG,1\n").contains("line 3: class \"1\" among names"));
        assert!(error("s,y\nACG,1\nACG,one\n").contains("line 3: label \"one\""));
        assert!(error("s,y\nACG,-1\n").contains("line 2: label \"-1\""));
        assert!(error("s,y\nACG,\n").contains("line 2: label \"\""));
        assert!(error("ACGTACGTACGT,one\nACG,one\n").contains("line 1: a row where"));
        let many: String = (0..300).map(|number| format!("ACG,name_{number}\n")).collect();
        assert!(error(&format!("s,y\n{many}")).contains("line 258: class \"name_256\", another one after 256"));
    }

    #[test]
    fn faults_are_told_with_the_line() {
        let error = |text: &str, answers, pairs| read(text, answers, pairs).unwrap_err().to_string();
        assert!(error("", Answers::Class, false).contains("line 1: no header"));
        assert!(error("sequence\nACG\n", Answers::Numbers, false).contains("a header of 1 columns (sequence)"));
        assert!(error("ACG,1\nACG,1\n", Answers::Class, false).contains("line 1: a row where"));
        assert!(error("a,b\nACG,1\nACG,1\n", Answers::Class, true).contains("a header of 2 columns"));
        assert!(error("s,y\nACG,1\nACG,x\n", Answers::Numbers, false).contains("line 3: \"x\" is no finite number"));
        assert!(error("s,y\nACG,inf\n", Answers::Numbers, false).contains("\"inf\""));
        assert!(error("s,y\nACG,1e-40\n", Answers::Numbers, false).contains("line 2: 1e-40, which is beyond"));
        assert!(error("s,y\nACG,1\nACG,-3e38\n", Answers::Numbers, false).contains("line 3: -3e38, which is beyond"));
        assert!(error("s,y\nACG,2\n", Answers::Flags, false).contains("neither 0 nor 1"));
        assert!(error("s,y,z\nACG,1\n", Answers::Flags, false).contains("2 columns, where the header has 3"));
        assert!(error("s,y\nACG,1,1\n", Answers::Flags, false).contains("3 columns"));
        assert!(error("s,,\nACG,1,1\n", Answers::Flags, false).contains("called \"\""));
        assert!(error("s,y\nAC-,1\n", Answers::Numbers, false).contains("'-' at base 3"));
        assert!(error("s,t,y\nACG,,1\n", Answers::Class, true).contains("empty sequence"));
        assert!(error("s,y\n", Answers::Class, false).contains("no rows after the header"));
    }
}
