//! Which column of a table is which: by what its header calls them, wherever they stand.

use std::borrow::Cow;

use super::labelled::Finding;

/// What the column of sequences is called; the first name goes before the others.
const SEQUENCE: &[&str] =
    &["sequence", "seq", "dna", "dna_sequence", "dna_seq", "cdna", "rna", "bases", "kmers", "k_mers", "window"];
/// What the column of classes is called, likewise.
const LABEL: &[&str] = &["label", "class", "labels", "target", "category", "y"];
/// What ends the name of the first and of the second sequence of a pair.
const OF_PAIR: [[&str; 3]; 2] = [["1", "a", "first"], ["2", "b", "second"]];

/// Where a table has what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// The sequence, or the two of a pair.
    pub(super) sequences: Vec<usize>,
    /// The class, where there is one to be found.
    pub(super) label: Option<usize>,
    /// The rows' names.
    pub(super) name: Option<usize>,
}

/// What is to be found behind the sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One column of classes.
    Class,
    /// All other columns.
    Others,
    /// Nothing: a column of classes is only told from the sequences.
    Nothing,
}

impl Columns {
    /// Finds the columns by their names. What has no name that is known is taken where only one column is left for it, or,
    /// where all others are answers, the first.
    pub(super) fn of(header: &[Cow<str>], pairs: bool, wanted: Wanted) -> Result<Self, Finding> {
        let name = header.iter().position(|column| is_name(column));
        let mut sequences = if pairs { pair(header) } else { find(header, SEQUENCE)?.into_iter().collect() };
        let label = if wanted == Wanted::Others { None } else { find(header, LABEL)? };
        let count = if pairs { 2 } else { 1 };
        // A column without a name is an index that pandas wrote, or what a separator at the end makes.
        let is_left = |column: &usize| {
            let text = &header[*column];
            !is_name(text) && !text.is_empty() && label != Some(*column) && !sequences.contains(column)
        };
        let left: Vec<usize> = (0..header.len()).filter(is_left).collect();
        let missing = count * usize::from(sequences.is_empty());
        let classes = usize::from(wanted == Wanted::Class && label.is_none());
        let others =
            (0..header.len()).filter(|column| !is_name(&header[*column]) && !sequences.contains(column)).count();
        if left.len() < missing + classes || wanted == Wanted::Others && others <= missing {
            let found = match header {
                [only] if only.is_empty() => "no header".to_owned(),
                _ => format!("a header of {} columns ({})", header.len(), header.join(", ")),
            };
            return Err((found, String::new()));
        }
        let is_guess = left.len() > missing + classes && wanted != Wanted::Others && missing + classes > 0;
        if let (true, Some(&row)) = (is_guess, left.iter().find(|&&column| is_bases(&header[column]))) {
            // No header at all: whoever asks finds that it is a row.
            return Ok(Self { sequences: vec![row; count], label, name });
        }
        if is_guess {
            let names: Vec<&str> = left.iter().map(|column| header[*column].as_ref()).collect();
            let sequence = if pairs { "`sequence1` and `sequence2`" } else { "`sequence`" };
            let (what, remedy) = match (missing > 0, classes > 0) {
                (true, true) => {
                    ("sequence and the class", format!("call those of the sequences {sequence}, the other `label`"))
                }
                (true, false) => ("sequence", format!("call that of the sequences {sequence}")),
                _ => ("class", "call it `label`".to_owned()),
            };
            return Err((format!("several columns that could be the {what}: {}", names.join(", ")), remedy));
        }
        if missing > 0 {
            sequences = left[..missing].to_vec();
        }
        let label = label.or_else(|| (classes > 0).then(|| left[missing]));
        Ok(Self { sequences, label, name })
    }

    /// Whether a header is none but a row: its sequence is one of bases, which no column is called.
    pub(super) fn is_row(&self, header: &[Cow<str>]) -> bool {
        self.sequences.iter().all(|&column| is_bases(&header[column]))
    }
}

/// Whether this is a sequence, and no name of a column.
fn is_bases(text: &str) -> bool {
    // Longer than a word of these letters, as `strand` is.
    const LONGEST_WORD: usize = 8;
    let is_known = SEQUENCE.contains(&plain(text).as_str());
    let is_of = |letters: &str| text.chars().all(|letter| letters.contains(letter.to_ascii_uppercase()));
    let first = text.split(' ').next().unwrap_or_default();
    !is_known && first.len() >= 3 && (is_of("ACGTUN ") || text.len() > LONGEST_WORD && is_of("ACGTUNRYSWKMBDHV "))
}

/// Whether the column of this header has the rows' names.
pub(super) fn is_name(header: &str) -> bool {
    ["name", "id"].iter().any(|name| header.eq_ignore_ascii_case(name))
}

/// A column's name as it is compared: `DNA sequence` is `dna_sequence`.
fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-', '.'], "_")
}

/// The column that has the first of these names, or else the one that has another of them.
fn find(header: &[Cow<str>], names: &[&str]) -> Result<Option<usize>, Finding> {
    let called = |names: &[&str]| -> Vec<usize> {
        (0..header.len()).filter(|&column| names.contains(&plain(&header[column]).as_str())).collect()
    };
    let found = [called(&names[..1]), called(&names[1..])].into_iter().find(|found| !found.is_empty());
    match found.as_deref() {
        None => Ok(None),
        Some([column]) => Ok(Some(*column)),
        Some(several) => {
            let several: Vec<&str> = several.iter().map(|column| header[*column].as_ref()).collect();
            let found = format!("several columns that could be the {}: {}", names[0], several.join(", "));
            Err((found, format!("call one of them `{}`", names[0])))
        }
    }
}

/// The columns that a header calls the first and the second sequence; none if it does not.
fn pair(header: &[Cow<str>]) -> Vec<usize> {
    let numbered = |number: usize| {
        header.iter().position(|column| {
            let name = plain(column);
            OF_PAIR[number].iter().any(|of| {
                let stem = name.strip_suffix(of).or_else(|| name.strip_prefix(of));
                stem.is_some_and(|stem| SEQUENCE.contains(&stem.trim_matches('_')))
            })
        })
    };
    match [numbered(0), numbered(1)] {
        [Some(first), Some(second)] => vec![first, second],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::columns;
    use super::*;

    fn of(header: &str, pairs: bool, wanted: Wanted) -> Result<(Vec<usize>, Option<usize>), String> {
        let found = Columns::of(&columns(header, ','), pairs, wanted);
        found.map(|found| (found.sequences, found.label)).map_err(|(found, remedy)| format!("{found}; {remedy}"))
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let class = |header: &str| of(header, false, Wanted::Class).unwrap();
        assert_eq!(class("sequence,label"), (vec![0], Some(1)));
        assert_eq!(class("label,sequence"), (vec![1], Some(0)));
        assert_eq!(class("sequence,split,label"), (vec![0], Some(2)));
        assert_eq!(class(",sequence,label"), (vec![1], Some(2)));
        assert_eq!(class("sequence,label,"), (vec![0], Some(1)));
        assert_eq!(class("chrom,start,DNA Sequence,length,Class"), (vec![2], Some(4)));
        assert_eq!(class("seq,class,sequence,label"), (vec![2], Some(3)), "the first names go before their aliases");
        assert_eq!(class("id,text,kind"), (vec![1], Some(2)), "one column is left for each");
        assert_eq!(class("kind,seq"), (vec![1], Some(0)));
        let pair = |header: &str| of(header, true, Wanted::Class).unwrap();
        assert_eq!(pair("label,seq_2,seq_1"), (vec![2, 1], Some(0)));
        assert_eq!(pair("first_sequence,note,second sequence,label"), (vec![0, 2], Some(3)));
        assert_eq!(pair("promoter,enhancer,label"), (vec![0, 1], Some(2)));
        assert_eq!(of("split,y,sequence", false, Wanted::Others).unwrap(), (vec![2], None));
        assert_eq!(of("a,b,c", false, Wanted::Others).unwrap(), (vec![0], None));
        assert_eq!(of("label,x", false, Wanted::Nothing).unwrap(), (vec![1], Some(0)));
    }

    #[test]
    fn a_guess_among_several_is_refused_with_their_names() {
        let error = |header: &str, wanted| of(header, false, wanted).unwrap_err();
        assert!(
            error("sequence,split,length", Wanted::Class)
                .contains("could be the class: split, length; call it `label`")
        );
        assert!(error("ref,alt,label", Wanted::Class).contains("could be the sequence: ref, alt"));
        assert!(error("a,b,c", Wanted::Class).contains("the sequence and the class: a, b, c"));
        assert!(error("sequence,label,label", Wanted::Class).contains("could be the label: label, label"));
        assert!(error("ref,alt", Wanted::Nothing).contains("could be the sequence: ref, alt"));
        assert!(error("sequence", Wanted::Class).contains("a header of 1 columns (sequence)"));
        assert!(error("", Wanted::Class).contains("no header"));
    }

    #[test]
    fn rows_are_no_headers() {
        let is_row = |text: &str| {
            let header = columns(text, ',');
            Columns::of(&header, false, Wanted::Class).unwrap().is_row(&header)
        };
        for row in ["ACGTACGTACGT,one", "TCCCCCT,neg", "acg cgt,1", "ACGNNNNNRYACGT,1", "ACGT,0"] {
            assert!(is_row(row), "{row}");
        }
        for header in ["dna,label", "cdna,x", "s,y", "strand,x", "sequence,label"] {
            assert!(!is_row(header), "{header}");
        }
    }
}
