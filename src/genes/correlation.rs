//! Which genes go up and down together: Pearson's or Spearman's correlation of all pairs, as products of blocks of standardised rows.

use std::io::Write;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::expression::Expression;
use crate::device::cpu::gemm::{Threads, View, Write as Into, gemm};
use crate::output::AtomicFile;
use crate::report::Progress;
use crate::train::scores::ranks;
use crate::{Error, Result};

/// Genes of a block: a tile of correlations (512 KiB) stays in a core's cache.
pub const BLOCK: usize = 256;
/// Bins of the histogram, from -1 to 1.
const BINS: usize = 40;

/// Which correlation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Of the values.
    #[default]
    Pearson,
    /// Of their ranks, equal values sharing the mean of theirs.
    Spearman,
}

/// What becomes of genes with missing values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// A pair is correlated over the samples that have both, as pandas does it.
    #[default]
    Pairwise,
    /// They are left out.
    LeaveOut,
}

/// Which pairs are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which correlation.
    pub method: Method,
    /// The least that is a pair.
    pub threshold: f64,
    /// Whether correlations below minus the threshold are pairs as well.
    pub absolute: bool,
    /// Samples that a gene and a pair must have at least.
    pub min_samples: usize,
    /// What becomes of genes with missing values.
    pub missing: Missing,
}

/// What became of the genes and pairs of a study.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Account {
    /// Genes with a name of their own.
    pub genes: u64,
    /// Samples.
    pub samples: u64,
    /// Genes left out because their name had been there before.
    pub repeated: u64,
    /// Genes left out because they have the same value in all samples.
    pub constant: Vec<String>,
    /// Missing values.
    pub missing_values: u64,
    /// Genes with missing values.
    pub genes_with_missing: u64,
    /// Genes left out because of missing values: all of them, or those with too few samples.
    pub left_out: u64,
    /// Pairs that were not correlated, as too few samples have both genes.
    pub too_few_samples: u64,
    /// Pairs without a correlation, as one of them does not vary in the samples that have both.
    pub undefined: u64,
    /// Pairs that were correlated.
    pub tested: u64,
    /// Pairs that were written.
    pub pairs: u64,
    /// How many pairs were in each of 40 bins of the correlation, of equal width, from -1 to 1; the upper end belongs to the last.
    pub histogram: Vec<u64>,
}

/// A pair of genes and its correlation.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    one: usize,
    other: usize,
}

/// What a tile of correlations amounts to.
struct Tile {
    pairs: Vec<Pair>,
    tested: u64,
    too_few_samples: u64,
    undefined: u64,
    histogram: [u64; BINS],
}

/// Where pairs are written: a line a pair, the genes separated by a blank, as Gene2vec reads them.
pub struct PairFile(AtomicFile);

impl PairFile {
    /// Starts the file, which appears when it is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self(AtomicFile::create(path)?))
    }

    fn write(&mut self, one: &str, other: &str) -> Result<()> {
        writeln!(self.0, "{one} {other}").map_err(Error::io("write", self.0.path()))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(self) -> Result<()> {
        self.0.commit()
    }
}

/// Writes the pairs of `study` that `options` want, in the order of its genes, the second behind the first. The memory of `study` is that of
/// its standardised rows; beside it there are tiles, one a thread, and the pairs of 256 genes. The number of threads changes nothing.
///
/// # Errors
/// [`Error::Io`].
pub fn correlate(study: Expression, options: &Options, out: &mut PairFile, progress: &mut Progress) -> Result<Account> {
    let mut account = Account {
        genes: (study.genes.len() + study.silent.len()) as u64,
        samples: study.samples as u64,
        repeated: study.repeated,
        histogram: vec![0; BINS],
        ..Account::default()
    };
    let Expression { genes, samples, mut values, silent, .. } = study;
    let (kept, is_complete) = sort_out(&genes, samples, &values, options, &mut account);
    account.constant.extend(silent);
    let rows = compacted(&mut values, samples, &kept);
    values.par_chunks_mut(samples.max(1)).zip(&is_complete).for_each(|(row, is_complete)| {
        if *is_complete {
            standardise(row, options.method);
        }
    });
    let matrix = Matrix { values, samples, is_complete };
    let blocks = rows.div_ceil(BLOCK);
    for block in 0..blocks {
        let tiles: Vec<Tile> =
            (block..blocks).into_par_iter().map(|other| matrix.tile(block * BLOCK, other * BLOCK, options)).collect();
        let mut pairs = Vec::new();
        for tile in tiles {
            pairs.extend(tile.pairs);
            account.tested += tile.tested;
            account.too_few_samples += tile.too_few_samples;
            account.undefined += tile.undefined;
            account.histogram.iter_mut().zip(tile.histogram).for_each(|(all, tile)| *all += tile);
        }
        pairs.sort_unstable_by_key(|pair: &Pair| (pair.one, pair.other));
        for Pair { one, other } in &pairs {
            out.write(&genes[kept[*one]], &genes[kept[*other]])?;
        }
        account.pairs += pairs.len() as u64;
        progress.update(block as u64 + 1, account.tested, "");
    }
    Ok(account)
}

/// The genes that are correlated, and whether each has all its values.
fn sort_out(
    genes: &[String],
    samples: usize,
    values: &[f64],
    options: &Options,
    account: &mut Account,
) -> (Vec<usize>, Vec<bool>) {
    let (mut kept, mut is_complete) = (Vec::new(), Vec::new());
    for (gene, row) in values.chunks_exact(samples.max(1)).enumerate() {
        let missing = row.iter().filter(|value| value.is_nan()).count();
        account.missing_values += missing as u64;
        account.genes_with_missing += u64::from(missing > 0);
        if samples - missing < options.min_samples || missing > 0 && options.missing == Missing::LeaveOut {
            account.left_out += 1;
        } else if !varies(row.iter().copied()) {
            account.constant.push(genes[gene].clone());
        } else {
            kept.push(gene);
            is_complete.push(missing == 0);
        }
    }
    (kept, is_complete)
}

/// Whether there are two different values among those that are not missing.
fn varies(values: impl Iterator<Item = f64>) -> bool {
    let mut present = values.filter(|value| !value.is_nan());
    let first = present.next();
    first.is_some_and(|first| present.any(|value| value != first))
}

/// Moves the rows that are kept to the front, and lets go of the others. Returns how many they are.
fn compacted(values: &mut Vec<f64>, samples: usize, kept: &[usize]) -> usize {
    for (to, &from) in kept.iter().enumerate() {
        values.copy_within(from * samples..(from + 1) * samples, to * samples);
    }
    values.truncate(kept.len() * samples);
    values.shrink_to_fit();
    kept.len()
}

/// Makes the values (or their ranks) a vector of mean 0 and length 1, so that correlations are scalar products; false, and unspecified
/// values, if they do not vary.
fn standardise(row: &mut [f64], method: Method) -> bool {
    if method == Method::Spearman {
        let ranked = ranks(row);
        row.copy_from_slice(&ranked);
    }
    // Divided by the largest first and last: no sum of squares is too large or too small for a double.
    scale(row);
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    row.iter_mut().for_each(|value| *value -= mean);
    if !scale(row) {
        return false;
    }
    let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
    row.iter_mut().for_each(|value| *value /= norm);
    true
}

/// Divides by the largest magnitude; false if that is 0.
fn scale(row: &mut [f64]) -> bool {
    let largest = row.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    if largest > 0.0 {
        row.iter_mut().for_each(|value| *value /= largest);
    }
    largest > 0.0
}

/// Rows that are kept: standardised, or with their missing values as they were read.
struct Matrix {
    values: Vec<f64>,
    samples: usize,
    is_complete: Vec<bool>,
}

impl Matrix {
    fn row(&self, gene: usize) -> &[f64] {
        &self.values[gene * self.samples..(gene + 1) * self.samples]
    }

    /// The correlations of the genes of two blocks, which begin at `first` and `second`, each pair of genes once.
    fn tile(&self, first: usize, second: usize, options: &Options) -> Tile {
        let all = self.is_complete.len();
        let (rows, columns) = (BLOCK.min(all - first), BLOCK.min(all - second));
        let view = |start: usize, count: usize| {
            View::new(&self.values[start * self.samples..(start + count) * self.samples], count, self.samples)
        };
        let mut products = vec![0.0; rows * columns];
        let (left, right) = (view(first, rows), view(second, columns).transposed());
        gemm(&mut products, columns, Into::Replace, left, right, 1.0, Threads::One);
        let mut tile = Tile { pairs: Vec::new(), tested: 0, too_few_samples: 0, undefined: 0, histogram: [0; BINS] };
        for (row, products) in products.chunks_exact(columns).enumerate() {
            let one = first + row;
            for (column, &product) in products.iter().enumerate() {
                let other = second + column;
                if other <= one {
                    continue;
                }
                let correlation = match self.is_complete[one] && self.is_complete[other] {
                    true => Ok(product),
                    // The product is of no use: somewhere in it is a missing value.
                    false => over_common_samples(self.row(one), self.row(other), options),
                };
                match correlation {
                    Ok(correlation) => tile.add(Pair { one, other }, correlation.clamp(-1.0, 1.0), options),
                    Err(Without::Samples) => tile.too_few_samples += 1,
                    Err(Without::Variation) => tile.undefined += 1,
                }
            }
        }
        tile
    }
}

impl Tile {
    fn add(&mut self, pair: Pair, correlation: f64, options: &Options) {
        self.tested += 1;
        let bin = ((correlation + 1.0) / 2.0 * BINS as f64) as usize;
        self.histogram[bin.min(BINS - 1)] += 1;
        if correlation >= options.threshold || options.absolute && -correlation >= options.threshold {
            self.pairs.push(pair);
        }
    }
}

/// What a pair lacks.
enum Without {
    Samples,
    Variation,
}

/// The correlation over the samples that have both. One side may have been standardised over all of its samples before, which changes
/// neither its ranks in a part of them nor a correlation.
fn over_common_samples(one: &[f64], other: &[f64], options: &Options) -> Result<f64, Without> {
    let common = one.iter().zip(other).filter(|(one, other)| !one.is_nan() && !other.is_nan());
    let (mut one, mut other): (Vec<f64>, Vec<f64>) = common.map(|(one, other)| (*one, *other)).unzip();
    if one.len() < options.min_samples {
        return Err(Without::Samples);
    }
    let vary = varies(one.iter().copied()) && varies(other.iter().copied());
    if !vary || !standardise(&mut one, options.method) || !standardise(&mut other, options.method) {
        return Err(Without::Variation);
    }
    Ok(one.iter().zip(&other).map(|(one, other)| one * other).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Philox;
    use crate::train::scores::{pearson, spearman};

    /// Genes of which every third has missing values, and one is constant.
    fn study(genes: usize, samples: usize) -> Expression {
        let value = |gene: usize, sample: usize| {
            let noise = |stream: usize| Philox::new(3, stream as u32, 0).normal(sample as u64);
            match () {
                () if gene == 5 => 2.5,
                () if gene % 3 == 1 && (sample + gene).is_multiple_of(7) => f64::NAN,
                // Six groups that share a signal, with ties.
                () => ((noise(gene % 6) + 0.7 * noise(100 + gene)) * 4.0).round() * 1e3 - 7.0,
            }
        };
        Expression {
            genes: (0..genes).map(|gene| format!("G{gene}")).collect(),
            samples,
            values: (0..genes * samples).map(|at| value(at / samples, at % samples)).collect(),
            ..Expression::default()
        }
    }

    fn run(study: Expression, options: &Options) -> (Account, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.txt");
        let mut out = PairFile::create(&path).unwrap();
        let account = correlate(study, options, &mut out, &mut Progress::new("pairs", 0, true)).unwrap();
        out.commit().unwrap();
        (account, std::fs::read_to_string(path).unwrap())
    }

    #[test]
    fn pairs_are_those_of_one_correlation_after_the_other() {
        // More genes than a block has, and not whole blocks.
        let (genes, samples) = (BLOCK + 70, 33);
        let study = study(genes, samples);
        for (method, of) in [(Method::Pearson, pearson as fn(&[f64], &[f64]) -> f64), (Method::Spearman, spearman)] {
            for absolute in [false, true] {
                let options =
                    Options { method, threshold: 0.45, absolute, min_samples: 24, missing: Missing::Pairwise };
                let (account, written) = run(study.clone(), &options);
                let (mut expected, mut tested, mut few) = (String::new(), 0, 0);
                for one in (0..genes).filter(|&gene| gene != 5) {
                    for other in (one + 1..genes).filter(|&gene| gene != 5) {
                        let common = study.row(one).iter().zip(study.row(other)).filter(|(a, b)| !(**a + **b).is_nan());
                        let (a, b): (Vec<f64>, Vec<f64>) = common.unzip();
                        if a.len() < 24 {
                            few += 1;
                            continue;
                        }
                        tested += 1;
                        let r = of(&a, &b);
                        assert!((r.abs() - 0.45).abs() > 1e-9, "a threshold that rounding decides");
                        if r >= 0.45 || absolute && r <= -0.45 {
                            expected += &format!("G{one} G{other}\n");
                        }
                    }
                }
                assert!(few > 0 && expected.lines().count() > 100);
                assert_eq!(written, expected, "{method:?} {absolute}");
                assert_eq!((account.tested, account.too_few_samples), (tested, few));
                assert_eq!(account.constant, ["G5"]);
                assert_eq!(account.pairs, expected.lines().count() as u64);
                assert_eq!(account.histogram.iter().sum::<u64>(), tested);
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        let options = Options {
            method: Method::Spearman,
            threshold: 0.3,
            absolute: true,
            min_samples: 3,
            missing: Missing::LeaveOut,
        };
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(study(2 * BLOCK + 9, 21), &options).1)
        };
        assert_eq!(on(1), on(3));
    }

    #[test]
    fn sizes_of_values_change_nothing() {
        let options = Options {
            method: Method::Pearson,
            threshold: 0.5,
            absolute: false,
            min_samples: 3,
            missing: Missing::Pairwise,
        };
        let expected = run(study(40, 12), &options).1;
        for factor in [1e-300, 1e290] {
            let mut scaled = study(40, 12);
            scaled.values.iter_mut().for_each(|value| *value *= factor);
            assert_eq!(run(scaled, &options).1, expected, "{factor}");
        }
    }
}
