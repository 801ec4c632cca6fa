//! Windows of bases with a class each (fine-tuning, evaluation) or a name each (prediction), and batches of them.

use std::ops::Range;
use std::path::Path;

use clap::ValueEnum;
use flate2::Crc;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::sequences::{self, Named};
use super::table::{Answers, Table, read_table};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Class numbers stay below this: a larger one is another column taken for the label.
pub(super) const MOST_CLASSES: u32 = 256;

/// A, C, G, T and the IUPAC codes of unknown bases.
const BASE_LETTERS: &[u8] = b"ACGTNRYSWKMBDHV";

/// A window of bases (or two, where pairs are classified) and what should be said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelledWindow {
    /// Bases as ASCII letters, as the file has them: lower case and IUPAC codes are kept.
    pub bases: Vec<u8>,
    /// The second sequence of a pair.
    pub second: Option<Vec<u8>>,
    /// The class, from 0; 0 where there are targets.
    pub label: i32,
    /// A number for every output: of a regression, or 0 and 1 for every class of multi-label data. Else none.
    pub targets: Vec<f32>,
    /// The places inside a long window that have a class each, ascending; then there is no `label`. Else none.
    pub places: Vec<Place>,
}

/// A place inside a window and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The boundary before this base, counted from 0.
    pub at: u32,
    /// The class, from 0.
    pub class: u8,
}

impl AsRef<[u8]> for LabelledWindow {
    fn as_ref(&self) -> &[u8] {
        &self.bases
    }
}

impl LabelledWindow {
    /// The classes that a model is asked for, in the order of its answers: one, or that of each place.
    pub fn classes(&self) -> impl Iterator<Item = i32> + '_ {
        let whole = self.places.is_empty().then_some(self.label);
        whole.into_iter().chain(self.places.iter().map(|place| i32::from(place.class)))
    }

    /// Gives each of these classes the number that `number` has for it.
    pub(super) fn renumber(&mut self, number: impl Fn(usize) -> Result<usize>) -> Result<()> {
        if self.places.is_empty() {
            self.label = number(self.label as usize)? as i32;
        }
        for place in &mut self.places {
            place.class = number(place.class.into())? as u8;
        }
        Ok(())
    }

    /// A single sequence of class `label`.
    pub fn new(bases: impl Into<Vec<u8>>, label: i32) -> Self {
        Self { bases: bases.into(), label, ..Self::default() }
    }
}

/// Reads labelled windows in DNABERT's or GUE's format, plain or gzip: a [table](read_table) whose classes are numbers. A sequence is
/// written as bases, or as k-mers (any k) separated by spaces, which are joined: each must continue the one before.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] with the line number for a missing header, a missing column, letters that are no
/// bases, k-mers that do not overlap, a label that is no class number; and for a file without windows.
pub fn read_labelled(path: impl AsRef<Path>) -> Result<Vec<LabelledWindow>> {
    let path = path.as_ref();
    let Table { windows, names, .. } = read_table(path, Answers::Class, false, &[])?;
    if names.is_empty() {
        return Ok(windows);
    }
    let found = format!("classes by name ({}), where numbers are needed", names.join(", "));
    Err(Error::input(path, "line 2", found, "number the classes from 0, or read the file with `read_table`"))
}

/// Number of classes of `windows`: the largest label plus one.
pub fn classes(windows: &[LabelledWindow]) -> usize {
    windows.iter().flat_map(LabelledWindow::classes).map(|label| label as usize + 1).max().unwrap_or(0)
}

/// The fewest bases that a place of `windows` has before it or behind it: what a model that learnt from them was always shown. `None` where
/// none has places.
pub fn margin(windows: &[LabelledWindow]) -> Option<usize> {
    let of = |window: &LabelledWindow| {
        let [first, last] = [window.places.first()?, window.places.last()?].map(|place| place.at as usize);
        Some(first.min(window.bases.len() - last))
    };
    windows.iter().filter_map(of).min()
}

/// CRC-32 of windows and what should be said of them, each with a number (the part that it is put into).
pub fn checksum<'a>(windows: impl Iterator<Item = (&'a LabelledWindow, usize)>) -> String {
    let mut crc = Crc::new();
    for (window, number) in windows {
        let second = window.second.as_deref().unwrap_or_default();
        crc.update(format!("{number} {} {:?} ", window.label, window.targets).as_bytes());
        window.places.iter().for_each(|place| crc.update(&[&place.at.to_le_bytes()[..], &[place.class]].concat()));
        [&window.bases, &b" "[..], second, b"\n"].into_iter().for_each(|part| crc.update(part));
    }
    format!("{:08x}", crc.sum())
}

/// Reads the records of a FASTA file, plain, gzip or bgzip: name (up to the first white space) and bases.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] with the record for letters that are no bases, a record without any, damaged files,
/// and files without records.
pub fn read_fasta(path: impl AsRef<Path>) -> Result<Vec<(String, Vec<u8>)>> {
    sequences::fasta(path.as_ref())?.map(|record| record.map(|Named { name, bases, .. }| (name, bases))).collect()
}

/// Which token of a window the classifier reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// The `[CLS]` token, through the pooler (DNABERT).
    #[default]
    Cls,
    /// The k-mer on the site in the middle of the window (BioNeMo).
    Site,
    /// The k-mers on all places of a long window that have a class: one pass over it answers for each of them.
    Tokens,
}

/// Makes one batch of `windows` (bases and class each; any class where there is none to learn).
///
/// With `window`, the middle `window` bases of each are taken: those from `len / 2 - window / 2` on, so that base
/// `len / 2`, which follows the site, becomes base `window / 2`. The batch's rows are the `[CLS]` tokens, or with
/// [`Head::Site`] the k-mer that starts k / 2 bases before the site (base `W / 2 - k / 2` of the W bases taken) and so
/// has it in its middle: for k = 6 three bases on either side. Where tokens do not overlap it is the one over the first base behind the site.
///
/// # Errors
/// [`Error::Usage`] for a window shorter than asked for, or than a token.
pub fn classification_batch(
    windows: &[(&[u8], i32)],
    tokenizer: &dyn Tokenizer,
    window: Option<usize>,
    head: Head,
) -> Result<Batch> {
    let mut batch = Batch::new();
    for (number, &(bases, label)) in (1..).zip(windows) {
        push(&mut batch, number, bases, None, tokenizer, window, head)?;
        batch.labels.push(label);
    }
    Ok(batch)
}

/// As [`classification_batch`], of windows as they were read: pairs become `[CLS] first [SEP] second [SEP]`, the second
/// sequence and its `[SEP]` of token type 1, as BERT takes them.
///
/// # Errors
/// As [`classification_batch`]; [`Error::Usage`] for a pair where the head reads a site.
pub fn example_batch(
    windows: &[&LabelledWindow],
    tokenizer: &dyn Tokenizer,
    window: Option<usize>,
    head: Head,
) -> Result<Batch> {
    let mut batch = Batch::new();
    for (number, example) in (1..).zip(windows) {
        if !example.places.is_empty() {
            push_places(&mut batch, number, example, tokenizer)?;
            continue;
        }
        push(&mut batch, number, &example.bases, example.second.as_deref(), tokenizer, window, head)?;
        batch.labels.push(example.label);
    }
    Ok(batch)
}

/// Appends a long window, whole, with a row for each of its places: the k-mer that has the place in its middle, as [`Head::Site`] has it.
fn push_places(batch: &mut Batch, number: usize, example: &LabelledWindow, tokenizer: &dyn Tokenizer) -> Result<()> {
    let k = tokenizer
        .k_mers()
        .ok_or_else(|| {
            let found = format!("classes at places of a window, where tokens are {}", tokenizer.describe());
            Error::usage(found, "use a model over overlapping k-mers, which has a token for every place")
        })?
        .k();
    let specials = tokenizer.specials();
    let mut tokens = vec![specials.cls];
    tokenizer.encode(&example.bases, &mut tokens);
    tokens.extend(specials.sep);
    let first_row = batch.push(&tokens);
    for place in &example.places {
        let at = place.at as usize;
        if at < k / 2 || at + k - k / 2 > example.bases.len() {
            let found = format!("window {number} has a class at base {}, {} bases long", at + 1, example.bases.len());
            return Err(Error::usage(found, format!("a place needs {} bases around it", k)));
        }
        batch.rows.push(first_row + 1 + (at - k / 2) as i32);
        batch.labels.push(i32::from(place.class));
    }
    Ok(())
}

/// What is read of a sequence of so many bases: all, or the window in its middle.
pub fn middle(bases: usize, window: Option<usize>) -> Range<usize> {
    let width = window.unwrap_or(bases).min(bases);
    let start = bases / 2 - width / 2;
    start..start + width
}

/// Appends a sequence or a pair to a batch, with the row that the head reads.
fn push(
    batch: &mut Batch,
    number: usize,
    bases: &[u8],
    second: Option<&[u8]>,
    tokenizer: &dyn Tokenizer,
    window: Option<usize>,
    head: Head,
) -> Result<()> {
    let shortest = tokenizer.shortest();
    let specials = tokenizer.specials();
    let mut tokens = vec![specials.cls];
    let mut add = |bases: &[u8]| -> Result<(usize, usize)> {
        let width = window.unwrap_or(bases.len());
        if width < shortest || bases.len() < width {
            let found = format!("window {number} has {} bases", bases.len());
            return Err(Error::usage(found, format!("give windows of {} bases or more", width.max(shortest))));
        }
        tokenizer.encode(&bases[middle(bases.len(), Some(width))], &mut tokens);
        tokens.extend(specials.sep);
        Ok((width, tokens.len()))
    };
    let (width, end) = add(bases)?;
    if let Some(second) = second {
        if specials.sep.is_none() {
            return Err(Error::usage(
                "pairs of sequences, where the model's tokenizer has nothing to put between them",
                "use single sequences with this model, or a family with [SEP] for pairs",
            ));
        }
        if head != Head::Cls {
            return Err(Error::usage(
                "a pair of sequences, which has no site in its middle",
                "use --head cls for pairs",
            ));
        }
        add(second)?;
    }
    let first_row = batch.push(&tokens);
    batch.token_types[first_row as usize + end..].fill(1);
    batch.rows.push(match head {
        Head::Cls => first_row,
        Head::Site | Head::Tokens => first_row + 1 + site(tokenizer, &bases[middle(bases.len(), Some(width))]) as i32,
    });
    Ok(())
}

/// The token at the site in the middle of `bases`: the k-mer that has the site in its middle, or the token over the first base behind it.
fn site(tokenizer: &dyn Tokenizer, bases: &[u8]) -> usize {
    let behind = bases.len() / 2;
    if let Some(k_mers) = tokenizer.k_mers() {
        return behind - k_mers.k() / 2;
    }
    let (mut ids, mut spans) = (Vec::new(), Vec::new());
    tokenizer.encode_with_spans(bases, &mut ids, &mut spans);
    spans.partition_point(|span| span.end as usize <= behind)
}

/// What was found and what to do about it; the caller knows the file and the line.
pub(super) type Finding = (String, String);

pub(super) fn parse_label(text: &str) -> Result<i32, Finding> {
    match text.parse::<u32>() {
        Ok(label) if label < MOST_CLASSES => Ok(label as i32),
        _ => {
            let found = format!("label {:?}", excerpt(text));
            Err((found, format!("give a class number from 0 to {}, or names in all rows", MOST_CLASSES - 1)))
        }
    }
}

/// Bases, or k-mers that overlap; U is read as T, and counted in `uracils`.
pub(super) fn parse_sequence(text: &str, uracils: &mut u64) -> Result<Vec<u8>, Finding> {
    let mut k_mers = text.split_ascii_whitespace().map(str::as_bytes);
    let Some(first) = k_mers.next() else {
        return Err(("an empty sequence".into(), "remove the line, or write its sequence".into()));
    };
    let overlap = first.len() - 1;
    let mut bases = first.to_vec();
    for (number, k_mer) in (2..).zip(k_mers) {
        let continues = k_mer.len() == first.len()
            && overlap > 0
            && bases[bases.len() - overlap..].eq_ignore_ascii_case(&k_mer[..overlap]);
        if !continues {
            let found = format!("k-mer {number} ({:?}) does not continue the one before", excerpt_bytes(k_mer));
            let remedy = "write overlapping k-mers of one length, each a base further, or plain bases without spaces";
            return Err((found, remedy.into()));
        }
        bases.push(k_mer[overlap]);
    }
    *uracils += replace_uracils(&mut bases);
    check_bases(&bases)?;
    Ok(bases)
}

/// Writes T for U, as RNA has it, and returns how many there were.
pub(super) fn replace_uracils(bases: &mut [u8]) -> u64 {
    let mut count = 0;
    for base in bases.iter_mut().filter(|base| base.eq_ignore_ascii_case(&b'U')) {
        *base -= b'U' - b'T';
        count += 1;
    }
    count
}

/// Letters in lower case: soft-masked bases.
pub(super) fn lower_case(bases: &[u8]) -> u64 {
    bases.iter().filter(|base| base.is_ascii_lowercase()).count() as u64
}

/// Says how many letters were in lower case, if any were: every tokenizer here reads them as upper case, where other programs make
/// unknown tokens of them.
pub(super) fn tell_lower_case(path: &Path, count: u64) {
    if count > 0 {
        tracing::info!("{}: {count} bases in lower case (soft-masked) were read as upper case", path.display());
    }
}

/// Says how many U were read as T, if there were any.
pub(super) fn tell_uracils(path: &Path, count: u64) {
    if count > 0 {
        tracing::info!("{}: {count} U were read as T", path.display());
    }
}

pub(super) fn check_bases(bases: &[u8]) -> Result<(), Finding> {
    match bases.iter().position(|base| !BASE_LETTERS.contains(&base.to_ascii_uppercase())) {
        None => Ok(()),
        Some(place) => {
            let found = format!("{:?} at base {}, which is no base", char::from(bases[place]), place + 1);
            Err((found, "use A, C, G, T (or U), and N or the other IUPAC codes for unknown bases".into()))
        }
    }
}

pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(20).collect()
}

fn excerpt_bytes(text: &[u8]) -> String {
    excerpt(&String::from_utf8_lossy(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmer::vocabulary::{BaseOrder, CLS, SEP, Vocabulary};
    use crate::tokenizer::blocks::{Blocks, Version};

    fn with_file<T>(contents: &[u8], read: impl FnOnce(&Path) -> T) -> T {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), contents).unwrap();
        read(file.path())
    }

    fn labelled(text: &str) -> Result<Vec<LabelledWindow>> {
        with_file(text.as_bytes(), |path| read_labelled(path))
    }

    fn window(bases: &str, label: i32) -> LabelledWindow {
        LabelledWindow { bases: bases.into(), label, ..LabelledWindow::default() }
    }

    #[test]
    fn both_formats() {
        let expected = [window("ACGTN", 1), window("acg", 0)];
        assert_eq!(labelled("sequence\tlabel\nACG CGT GTN\t1\r\n\nacg\t0").unwrap(), expected);
        assert_eq!(labelled("sequence,label,note\nACGTN,1,x\n\"acg\",0,\"y\"\n").unwrap(), expected);
        assert_eq!(classes(&expected), 2);
        assert_eq!(classes(&[]), 0);
    }

    #[test]
    fn faults_are_told_with_the_line() {
        let error = |line: &str| labelled(&format!("sequence\tlabel\nACG\t0\n{line}")).unwrap_err().to_string();
        assert!(error("ACGT").contains("line 3: 1 columns, where the header has 2"));
        assert!(error("ACGT\tx").contains("line 3: label \"x\""));
        assert!(labelled("sequence\tlabel\nACG\tsite\n").unwrap_err().to_string().contains("classes by name (site)"));
        assert!(error("ACGT\t-1").contains("label \"-1\""));
        assert!(error("ACGT\t65536").contains("label"));
        assert!(error("ACG CGT TTT\t1").contains("k-mer 3 (\"TTT\") does not continue"));
        assert!(error("ACG CGT GT\t1").contains("k-mer 3"));
        assert!(error("A C G\t1").contains("k-mer 2"));
        assert_eq!(labelled("sequence\tlabel\nACGU\t1\n").unwrap()[0].bases, b"ACGT");
        assert!(error("ACX CXT\t1").contains("'X' at base 3"));
        assert!(error("\t1").contains("empty sequence"));
        assert!(labelled("ACG\t1\nACG\t0\n").unwrap_err().to_string().contains("line 1: a row where the header"));
        assert!(labelled("").unwrap_err().to_string().contains("line 1: no header"));
        assert!(labelled("sequence\nACG\n").unwrap_err().to_string().contains("a header of 1 columns"));
        assert!(labelled("sequence,label\n").unwrap_err().to_string().contains("no rows after the header"));
    }

    #[test]
    fn fasta_records() {
        let fasta = |text: &[u8]| with_file(text, |path| read_fasta(path));
        let records = fasta(b">one first\r\nACG\r\nTn\r\n\r\n>two\nGG\n").unwrap();
        assert_eq!(records, [("one".to_owned(), b"ACGTn".to_vec()), ("two".to_owned(), b"GG".to_vec())]);
        let error = |text: &[u8]| fasta(text).unwrap_err().to_string();
        assert!(error(b"").contains("no FASTA records"));
        assert!(error(b"ACGT\n").contains("record 1"));
        assert!(error(b">a\nACG\n>b\nA-C\n").contains("record 2: \"b\": '-' at base 2"));
        assert!(error(b">a\n>b\nACC\n").contains("record 1: \"a\" has no bases"));
        assert!(error(b">a\xff\nACG\n").contains("not UTF-8"));
    }

    fn with_places(bases: &str, places: &[(u32, u8)]) -> LabelledWindow {
        let places = places.iter().map(|&(at, class)| Place { at, class }).collect();
        LabelledWindow { bases: bases.into(), places, ..LabelledWindow::default() }
    }

    #[test]
    fn each_place_is_read_at_the_k_mer_that_has_it_in_its_middle() {
        let bases = "AACCGGTTACGTACCA";
        for k in 3..=6 {
            let vocabulary = Vocabulary::new(k, BaseOrder::Atcg).unwrap();
            let (long, window) = (with_places(bases, &[(4, 2), (5, 0), (11, 1)]), window("ACGTACGT", 3));
            let batch = example_batch(&[&window, &long], &vocabulary, Some(8), Head::Site).unwrap();
            assert_eq!(batch.labels, [3, 2, 0, 1]);
            // The window of 8 bases comes first, with [CLS] and [SEP]; the long one is read whole.
            assert_eq!(batch.cu_seqlens, [0, 8 - k as i32 + 3, 8 + 16 - 2 * (k as i32 - 3)]);
            for (row, at) in batch.rows[1..].iter().zip([4, 5, 11]) {
                let token = vocabulary.token(batch.tokens[*row as usize]).unwrap();
                assert_eq!(token, bases[at - k / 2..at - k / 2 + k], "{k} {at}");
            }
            let near_the_end = with_places(bases, &[(14, 0)]);
            let error = example_batch(&[&near_the_end], &vocabulary, None, Head::Site).map(|_| ());
            assert_eq!(error.is_err(), k > 4, "{k}");
        }
        let error = example_batch(&[&with_places(bases, &[(8, 0)])], &Blocks::new(Version::Two), None, Head::Site);
        assert!(error.unwrap_err().to_string().contains("a model over overlapping k-mers"));
    }

    #[test]
    fn a_margin_is_what_every_place_has() {
        let windows = [with_places("AACCGGTTAC", &[(3, 0), (6, 1)]), with_places("AACCGGTTAC", &[(5, 0), (8, 1)])];
        assert_eq!((margin(&windows), margin(&windows[..1])), (Some(2), Some(3)));
        assert_eq!(margin(&[window("ACGT", 0)]), None);
        assert_eq!((classes(&windows), windows[1].classes().collect::<Vec<_>>()), (2, vec![0, 1]));
        // Where they lie and what they are is part of what is compared when a run is resumed.
        let sum = |places: &[(u32, u8)]| checksum([(&with_places("AACC", places), 0)].into_iter());
        assert!(sum(&[(1, 0)]) != sum(&[(2, 0)]) && sum(&[(1, 0)]) != sum(&[(1, 1)]));
    }

    #[test]
    fn blocks_have_a_site_too_and_no_pairs() {
        let blocks = Blocks::new(Version::One);
        for (bases, site) in [(&b"ACGTACGTACGTACG"[..], 2), (b"ACGTACGTACG", 1), (b"A", 1), (b"ACNGT", 3)] {
            let batch = classification_batch(&[(bases, 0)], &blocks, None, Head::Site).unwrap();
            assert_eq!((batch.rows[0], batch.tokens[0]), (site, 3), "<cls>, and no token at the end");
            assert_eq!(classification_batch(&[(bases, 0)], &blocks, None, Head::Cls).unwrap().rows, [0]);
        }
        let pair = LabelledWindow { bases: b"ACG".into(), second: Some(b"ACG".into()), ..LabelledWindow::default() };
        let error = example_batch(&[&pair], &blocks, None, Head::Cls).unwrap_err().to_string();
        assert!(error.contains("nothing to put between"), "{error}");
    }

    #[test]
    fn the_site_stays_in_the_middle() {
        let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
        // The site lies before base len / 2.
        for length in [40, 41, 400, 401] {
            let mut bases = vec![b'A'; length];
            bases[length / 2 - 1..=length / 2 + 1].copy_from_slice(b"CGT");
            for crop in [None, Some(length), Some(20), Some(21), Some(3), Some(4)] {
                let windows = [(bases.as_slice(), 2), (bases.as_slice(), 0)];
                let batch = classification_batch(&windows, &vocabulary, crop, Head::Site).unwrap();
                let tokens = crop.unwrap_or(length) - 2 + 2;
                assert_eq!(batch.cu_seqlens, [0, tokens as i32, 2 * tokens as i32]);
                for row in &batch.rows {
                    assert_eq!(vocabulary.token(batch.tokens[*row as usize]).unwrap(), "CGT", "{length} {crop:?}");
                }
                assert_eq!(batch.labels, [2, 0]);
                let batch = classification_batch(&windows, &vocabulary, crop, Head::Cls).unwrap();
                assert_eq!(batch.rows, [0, tokens as i32]);
                assert_eq!((batch.tokens[0], batch.tokens[tokens - 1]), (CLS, SEP));
            }
            for crop in [Some(length + 1), Some(2), Some(0)] {
                assert!(classification_batch(&[(&bases, 0)], &vocabulary, crop, Head::Cls).is_err());
            }
        }
        assert!(classification_batch(&[(b"AC", 0)], &vocabulary, None, Head::Cls).is_err());
    }
}
