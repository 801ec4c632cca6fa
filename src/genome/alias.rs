//! Names of one sequence in two files. Genomes and annotations of the same assembly often disagree (`NC_000023.10`,
//! `X`, `chrX`); nothing is guessed, the user says which names mean the same.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use flate2::Crc;

use super::twobit::Genome;
use crate::small_file;
use crate::{Error, Result};

/// Pairs of names that mean the same sequence, usable in either direction.
#[derive(Clone, Debug, Default)]
pub struct Aliases {
    others: HashMap<String, Vec<String>>,
}

impl Aliases {
    /// Reads pairs given as `ONE=OTHER`, and those of a file with two columns, separated by tabs or blanks, where empty
    /// lines and lines that begin with `#` are skipped. A name may have several others.
    ///
    /// # Errors
    /// [`Error::Usage`] for a pair without `=` or with an empty side; [`Error::Input`], with the line, for a line
    /// without exactly two columns; [`Error::Io`] if the file cannot be read.
    pub fn parse(pairs: &[String], file: Option<&Path>) -> Result<Self> {
        let mut aliases = Self::default();
        for pair in pairs {
            match pair.split_once('=').map(|(one, other)| (one.trim(), other.trim())) {
                Some((one, other)) if !one.is_empty() && !other.is_empty() => aliases.add(one, other),
                _ => {
                    let found = format!("--alias {pair:?} is no pair of names");
                    return Err(Error::usage(found, "write --alias NC_000023.10=X"));
                }
            }
        }
        if let Some(path) = file {
            aliases.add_file(path)?;
        }
        Ok(aliases)
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let text = small_file::read(path)?;
        let remedy = "write two names a line, with a tab or blanks between them";
        for (index, line) in text.split('\n').map(str::trim).enumerate() {
            let wrong = |found: String| Error::input(path, format!("line {}", index + 1), found, remedy);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let columns: Vec<_> = line.split_whitespace().collect();
            let [one, other] = columns[..] else {
                return Err(wrong(format!("{} columns, where two names are needed", columns.len())));
            };
            self.add(one, other);
        }
        Ok(())
    }

    fn add(&mut self, one: &str, other: &str) {
        for (name, alias) in [(one, other), (other, one)] {
            let aliases = self.others.entry(name.to_owned()).or_default();
            if !aliases.iter().any(|known| known == alias) {
                aliases.push(alias.to_owned());
            }
        }
    }

    /// What tells these pairs from others.
    pub fn fingerprint(&self) -> String {
        let pairs: BTreeMap<_, _> = self.others.iter().collect();
        let mut crc = Crc::new();
        crc.update(format!("{pairs:?}").as_bytes());
        format!("{:08x}", crc.sum())
    }

    /// The index of the sequence of `genome` that another file calls `name`: the one with that very name, or else the
    /// first of its aliases that the genome has.
    pub fn resolve(&self, genome: &Genome, name: &str) -> Option<usize> {
        genome.find(name).or_else(|| self.others.get(name)?.iter().find_map(|alias| genome.find(alias)))
    }

    /// The error for a file of which no sequence name is in the genome, even through the aliases; it shows the names of
    /// both, `names` being those of the file `path`, and how to pair them.
    pub fn no_match_error(&self, genome: &Genome, path: &Path, names: &[&str]) -> Error {
        let of_genome: Vec<&str> = genome.sequences().iter().map(|sequence| sequence.name.as_str()).collect();
        let found = format!(
            "none of its sequence names is in the genome {}\n  names here: {}\n  names in the genome: {}",
            genome.path().display(),
            shortened(names),
            shortened(&of_genome)
        );
        let (one, other) = likely_pair(&of_genome, names);
        let remedy = format!(
            "say which names mean the same, as in `--alias {one}={other}` (once a pair), or in a file of two columns with \
             --alias-file"
        );
        Error::input(path, "", found, remedy)
    }
}

/// A list for a message: the first names, and how many there are.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    match names.len() {
        0 => "none".into(),
        count if count > SHOWN => format!("{}, ... ({count} in all)", names[..SHOWN].join(", ")),
        _ => names.join(", "),
    }
}

/// Two names for the example in the message: a pair that differs by `chr` alone where there is one, or else the first of
/// each file.
fn likely_pair<'a>(of_genome: &[&'a str], names: &[&'a str]) -> (&'a str, &'a str) {
    let bare = |name: &'a str| name.strip_prefix("chr").unwrap_or(name);
    let by_bare_name: HashMap<_, _> = of_genome.iter().map(|name| (bare(name), *name)).collect();
    let pair = names.iter().find_map(|name| Some((*by_bare_name.get(bare(name))?, *name)));
    pair.unwrap_or_else(|| {
        (of_genome.first().unwrap_or(&"NAME_IN_GENOME"), names.first().unwrap_or(&"NAME_IN_ANNOTATION"))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::genome::pack::{PackedSequence, TwoBitWriter};

    fn genome(names: &[&str]) -> (tempfile::TempDir, Genome) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.2bit");
        let mut writer = TwoBitWriter::create(&path).unwrap();
        for name in names {
            writer.add(name, &PackedSequence::from_ascii(b"ACGT").unwrap()).unwrap();
        }
        writer.finish().unwrap();
        let genome = Genome::open(&path).unwrap();
        (folder, genome)
    }

    #[test]
    fn names_resolve_in_either_direction() {
        let (_folder, genome) = genome(&["NC_000023.10", "1"]);
        let pairs = ["NC_000023.10=X".to_owned(), "chr1=1".to_owned(), "X=1".to_owned()];
        let aliases = Aliases::parse(&pairs, None).unwrap();
        assert_eq!(aliases.resolve(&genome, "X"), Some(0));
        assert_eq!(aliases.resolve(&genome, "chr1"), Some(1));
        assert_eq!(aliases.resolve(&genome, "1"), Some(1), "the genome's own names come first");
        assert_eq!(aliases.resolve(&genome, "chrX"), None);
        assert_eq!(Aliases::default().resolve(&genome, "chr1"), None);
    }

    #[test]
    fn a_file_has_two_columns() {
        let (folder, genome) = genome(&["NC_000023.10"]);
        let path = folder.path().join("aliases.tsv");
        fs::write(&path, "# RefSeq\tEnsembl\r\n\r\nNC_000023.10\tX\r\n  a   b  ").unwrap();
        assert_eq!(Aliases::parse(&[], Some(&path)).unwrap().resolve(&genome, "X"), Some(0));
        for (text, expected) in
            [(&b"a b\na b c\n"[..], "line 2: 3 columns"), (b"a\n", "line 1: 1 col"), (b"\xFF b", "UTF-8")]
        {
            fs::write(&path, text).unwrap();
            let message = Aliases::parse(&[], Some(&path)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        for pair in ["X", "=X", "X= ", ""] {
            assert!(matches!(Aliases::parse(&[pair.to_owned()], None), Err(Error::Usage { .. })), "{pair:?}");
        }
    }

    #[test]
    fn no_match_shows_both_lists_and_a_pair() {
        let names: Vec<String> = (1..=30).map(|number| format!("chr{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (_folder, genome) = genome(&names);
        let message = Aliases::default().no_match_error(&genome, Path::new("a.gff3"), &["MT", "9"]).to_string();
        assert!(message.starts_with("a.gff3: "), "{message}");
        for part in ["names here: MT, 9\n", "chr1, chr2, ", "(30 in all)", "--alias chr9=9", "--alias-file"] {
            assert!(message.contains(part), "{part:?} in {message}");
        }
        let message = Aliases::default().no_match_error(&genome, Path::new("a.gff3"), &[]).to_string();
        assert!(message.contains("names here: none"), "{message}");
    }
}
