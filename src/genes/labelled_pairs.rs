//! Pairs of genes that are known to interact or not, and how they are divided into those to learn from and those to test on.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::kmer::lines::Lines;
use crate::philox::{Philox, Purpose, shuffle};
use crate::{Error, Result};

/// Names of genes, each once, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct GeneNames {
    /// The names.
    pub names: Vec<String>,
    index: HashMap<String, u32>,
}

impl GeneNames {
    /// The number of a gene, which is a new one if the name is new.
    pub fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.index.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), number);
        number
    }

    /// The number of a gene that is known.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.index.get(name).copied()
    }
}

impl FromIterator<String> for GeneNames {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let mut all = Self::default();
        for name in names {
            all.number(&name);
        }
        all
    }
}

/// Two genes, and whether they interact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelledPair {
    /// Their numbers.
    pub genes: [u32; 2],
    /// 1 if they do, else 0.
    pub label: u8,
}

impl LabelledPair {
    /// The genes, whichever came first.
    fn unordered(self) -> [u32; 2] {
        let [one, other] = self.genes;
        [one.min(other), one.max(other)]
    }
}

/// Reads a table `GENEA GENEB 0|1`, separated by tabs or blanks; or, with `labels`, GGIPNN's two files: two genes a line here, a label a line
/// there. Plain or gzipped.
///
/// # Errors
/// [`Error::Input`] with the line for another number of columns, for a label other than 0 and 1, and for files of different lengths.
pub fn read(path: &Path, labels: Option<&Path>, names: &mut GeneNames) -> Result<Vec<LabelledPair>> {
    let mut lines = Lines::open(path)?;
    let mut labels = labels.map(|path| Ok::<_, Error>((path, Lines::open(path)?))).transpose()?;
    let mut pairs = Vec::new();
    while let Some(line) = lines.next_line()? {
        if line.trim().is_empty() {
            continue;
        }
        let line = line.to_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        let (genes, place, label) = match (&words[..], &mut labels) {
            ([one, other, label], None) => ([one, other], (path, lines.number()), (*label).to_owned()),
            ([one, other], Some((label_path, labels))) => {
                let label = next_label(labels)?.ok_or_else(|| {
                    let found = format!("{} labels, and more pairs in {}", pairs.len(), path.display());
                    Error::input(*label_path, "", found, "give the labels of these pairs, one a line")
                })?;
                ([one, other], (*label_path, labels.number()), label)
            }
            (_, labels) => {
                let (needed, remedy) = match labels {
                    None => {
                        ("two genes and 0 or 1", "give a table of three columns, or the labels' file with --labels")
                    }
                    Some(_) => ("two genes", "give the file of pairs without labels, or leave --labels out"),
                };
                let found = format!("{} columns, where {needed} are needed", words.len());
                return Err(Error::input(path, format!("line {}", lines.number()), found, remedy));
            }
        };
        let genes = genes.map(|gene| names.number(gene));
        let label = label_of(place.0, place.1, label.trim())?;
        pairs.push(LabelledPair { genes, label });
    }
    if let Some((label_path, labels)) = &mut labels
        && next_label(labels)?.is_some()
    {
        let found = format!("a label behind the {} of the pairs in {}", pairs.len(), path.display());
        let place = format!("line {}", labels.number());
        return Err(Error::input(*label_path, place, found, "give the labels of these pairs, one a line"));
    }
    if pairs.is_empty() {
        return Err(Error::input(path, "", "no pair of genes", "check the path, or write the file again"));
    }
    Ok(pairs)
}

fn next_label(lines: &mut Lines) -> Result<Option<String>> {
    loop {
        match lines.next_line()? {
            Some(line) if line.trim().is_empty() => {}
            line => return Ok(line.map(str::to_owned)),
        }
    }
}

fn label_of(path: &Path, line: usize, text: &str) -> Result<u8> {
    match text {
        "0" => Ok(0),
        "1" => Ok(1),
        _ => {
            let remedy = "a pair that interacts has label 1, another one 0; a header has to go";
            Err(Error::input(path, format!("line {line}"), format!("the label {text:?}"), remedy))
        }
    }
}

/// Pairs to learn from, and pairs to test on.
#[derive(Clone, Debug)]
pub struct Split {
    /// Pairs to learn from.
    pub train: Vec<LabelledPair>,
    /// Pairs to test on.
    pub test: Vec<LabelledPair>,
    /// Pairs in neither, as each part has one of their genes.
    pub dropped: u64,
}

impl Split {
    /// A share of the pairs, drawn at random, is tested on: the published way. Most genes of a test are then known from training.
    pub fn of_pairs(pairs: &[LabelledPair], share: f64, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        shuffle(&mut order, Philox::of(seed, 0, Purpose::PairSplit));
        let (test, train) = order.split_at(((pairs.len() as f64 * share).round() as usize).min(pairs.len()));
        let of = |order: &[usize]| order.iter().map(|&index| pairs[index]).collect();
        Self { train: of(train), test: of(test), dropped: 0 }
    }

    /// A share of the `genes`, drawn at random, is tested on: no gene is in both parts, and pairs across are dropped.
    pub fn of_genes(pairs: &[LabelledPair], genes: usize, share: f64, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..genes).collect();
        shuffle(&mut order, Philox::of(seed, 1, Purpose::PairSplit));
        let mut is_tested = vec![false; genes];
        let tested = ((genes as f64 * share).round() as usize).min(genes);
        order[..tested].iter().for_each(|&gene| is_tested[gene] = true);
        let mut split = Self { train: Vec::new(), test: Vec::new(), dropped: 0 };
        for pair in pairs {
            match pair.genes.map(|gene| is_tested[gene as usize]) {
                [true, true] => split.test.push(*pair),
                [false, false] => split.train.push(*pair),
                _ => split.dropped += 1,
            }
        }
        split
    }

    /// Pairs of the test that are in training, too, whichever gene comes first.
    pub fn repeated(&self) -> u64 {
        let known: HashSet<[u32; 2]> = self.train.iter().map(|pair| pair.unordered()).collect();
        self.test.iter().filter(|pair| known.contains(&pair.unordered())).count() as u64
    }

    /// # Errors
    /// [`Error::Usage`] if a part lacks pairs of either label.
    pub fn check(&self, name: &str) -> Result<()> {
        for (part, pairs) in [("training", &self.train), ("test", &self.test)] {
            let ones = pairs.iter().filter(|pair| pair.label == 1).count();
            if ones == 0 || ones == pairs.len() {
                let zeros = pairs.len() - ones;
                let found = format!("{name}: the {part} part has {ones} pairs that interact and {zeros} others");
                return Err(Error::usage(
                    found,
                    "give more pairs of both labels, or another --test-share, --gene-share or --seed",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: u32) -> Vec<LabelledPair> {
        (0..count).map(|at| LabelledPair { genes: [at % 31, (at * 7 + 3) % 40], label: (at % 2) as u8 }).collect()
    }

    #[test]
    fn a_split_of_pairs_has_each_once() {
        let split = Split::of_pairs(&pairs(500), 0.1, 3);
        assert_eq!((split.train.len(), split.test.len(), split.dropped), (450, 50, 0));
        let key = |pair: &LabelledPair| (pair.genes, pair.label);
        let mut all: Vec<_> = split.train.iter().chain(&split.test).map(key).collect();
        let mut expected: Vec<_> = pairs(500).iter().map(key).collect();
        all.sort_unstable();
        expected.sort_unstable();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_split_of_genes_shares_none() {
        let all = pairs(500);
        let split = Split::of_genes(&all, 40, 0.3, 3);
        let genes = |pairs: &[LabelledPair]| pairs.iter().flat_map(|pair| pair.genes).collect::<HashSet<_>>();
        assert!(genes(&split.train).is_disjoint(&genes(&split.test)));
        assert!(!split.test.is_empty() && split.dropped > 0);
        assert_eq!(split.train.len() + split.test.len() + split.dropped as usize, 500);
        assert_eq!(split.repeated(), 0);
    }

    #[test]
    fn repeated_pairs_are_counted_whichever_gene_comes_first() {
        let pair = |one, other| LabelledPair { genes: [one, other], label: 1 };
        let split =
            Split { train: vec![pair(1, 2), pair(3, 4)], test: vec![pair(2, 1), pair(3, 4), pair(1, 3)], dropped: 0 };
        assert_eq!(split.repeated(), 2);
        assert!(split.check("x").unwrap_err().to_string().contains("2 pairs that interact and 0 others"));
    }
}
