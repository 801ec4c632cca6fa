//! What needs no network: the GT/AG rule and a position weight matrix. Every result is printed beside these two.
//!
//! Windows are upper-case bases with the boundary in the middle, as [`crate::genome::splice`] makes them. Classes are 0
//! (donor), 1 (acceptor) and 2 (neither).

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::metrics::SpliceMetrics;
use crate::genome::splice::dataset::{SpliceDataset, Window};
use crate::kmer::labelled::LabelledWindow;
use crate::{Error, Result, small_file};

const DONOR: u8 = 0;
const ACCEPTOR: u8 = 1;
const NEITHER: u8 = 2;

/// The GT/AG rule: GT behind the boundary is a donor, AG before it an acceptor, anything else neither. With both (AG|GT,
/// the most frequent surroundings of a donor), donor: three donors in five have AG before them, one acceptor in eight
/// has GT behind it.
pub fn gt_ag_rule(window: &[u8]) -> u8 {
    let (before, after) = window.split_at(window.len() / 2);
    if after.starts_with(b"GT") {
        DONOR
    } else if before.ends_with(b"AG") {
        ACCEPTOR
    } else {
        NEITHER
    }
}

/// Columns of the matrices around the boundary, in bases before and behind it: 3 exon and 6 intron bases of a donor, 20
/// intron and 3 exon bases of an acceptor (the classical extents; Shapiro and Senapathy, Nucleic Acids Res. 15, 1987,
/// and the ones of MaxEntScan's models).
const DONOR_COLUMNS: [usize; 2] = [3, 6];
const ACCEPTOR_COLUMNS: [usize; 2] = [20, 3];

/// Added to every count, so that a base never seen in a column is unlikely rather than impossible.
const PSEUDO_COUNT: f64 = 0.5;

/// Thresholds tried for each matrix: quantiles of its training scores.
const THRESHOLDS: usize = 200;

/// Log-odds of each base in each column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Matrix {
    before: usize,
    columns: Vec<[f64; 4]>,
}

impl Matrix {
    /// `log2(frequency at the sites / background)` for each of the columns.
    fn of<'a>(extent: [usize; 2], sites: impl Iterator<Item = &'a [u8]>, background: [f64; 4]) -> Self {
        let [before, after] = extent;
        let mut counts = vec![[PSEUDO_COUNT; 4]; before + after];
        for window in sites {
            for (count, base) in counts.iter_mut().zip(&window[around(window, extent)]) {
                if let Some(code) = code(*base) {
                    count[code] += 1.0;
                }
            }
        }
        let log_odds = |count: [f64; 4]| {
            let total: f64 = count.iter().sum();
            std::array::from_fn(|base| (count[base] / total / background[base]).log2())
        };
        Self { before, columns: counts.into_iter().map(log_odds).collect() }
    }

    /// Sum of the log-odds over the columns, in bits; an N adds nothing.
    fn score(&self, window: &[u8]) -> f64 {
        let columns = &window[around(window, [self.before, self.columns.len() - self.before])];
        columns.iter().zip(&self.columns).filter_map(|(base, column)| code(*base).map(|code| column[code])).sum()
    }
}

fn around(window: &[u8], [before, after]: [usize; 2]) -> Range<usize> {
    window.len() / 2 - before..window.len() / 2 + after
}

fn code(base: u8) -> Option<usize> {
    b"ACGT".iter().position(|&letter| letter == base)
}

/// Two position weight matrices (Stormo, Bioinformatics 16, 2000), one for donors and one for acceptors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteMatrices {
    donor: Matrix,
    acceptor: Matrix,
}

impl SiteMatrices {
    /// The file in a model's folder that holds those of the sites that the model learnt from.
    pub const FILE: &'static str = "weight_matrix.json";
    /// Bases that are read before and behind a boundary.
    pub const REACH: usize = ACCEPTOR_COLUMNS[0];
    /// A score is told as a probability under this share of sites, `2^-8`; no share changes an order.
    const PRIOR_BITS: f64 = 8.0;

    /// Counts bases at the sites of `train`, windows with the boundary in the middle or with places; `order` is the place of each of their
    /// classes among donor, acceptor and neither. `None` where one of these has no example with enough bases around it.
    pub fn learn(train: &[LabelledWindow], order: [u8; 3]) -> Option<Self> {
        let mut by_class: [Vec<Vec<u8>>; 3] = Default::default();
        for window in train {
            let middle = (window.bases.len() / 2, window.label as u8);
            let whole = window.places.is_empty().then_some(middle);
            let places = window.places.iter().map(|place| (place.at as usize, place.class));
            for (at, class) in whole.into_iter().chain(places) {
                let around = at.checked_sub(Self::REACH).and_then(|start| window.bases.get(start..at + Self::REACH));
                let of_class = &mut by_class[usize::from(*order.get(usize::from(class))?)];
                // Composition needs some of the many.
                if let Some(around) = around.filter(|_| class_is_wanted(of_class.len(), class, order)) {
                    of_class.push(around.to_ascii_uppercase());
                }
            }
        }
        let has_all = by_class.iter().all(|of_class| !of_class.is_empty());
        has_all.then(|| Self::of(by_class.each_ref().map(|of_class| of_class.iter().map(Vec::as_slice).collect())))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for anything but what [`SiteMatrices::learn`] makes.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong =
            |place: String, found: String| Error::input(path, place, found, "remove the file: a scan goes without it");
        let found: Self = serde_json::from_str(&small_file::read(path)?)
            .map_err(|error| wrong(format!("line {}", error.line()), error.to_string()))?;
        for (name, matrix, [before, after]) in
            [("donor", &found.donor, DONOR_COLUMNS), ("acceptor", &found.acceptor, ACCEPTOR_COLUMNS)]
        {
            let is_finite = matrix.columns.as_flattened().iter().all(|bits| bits.is_finite());
            if matrix.before != before || matrix.columns.len() != before + after || !is_finite {
                let columns = matrix.columns.len();
                let found =
                    format!("{columns} columns, {} of them before the site, not {before} and {after}", matrix.before);
                return Err(wrong(name.into(), if is_finite { found } else { "numbers that are none".into() }));
            }
        }
        Ok(found)
    }

    /// From windows by class: donors, acceptors, and neither, whose composition is the background.
    fn of([donors, acceptors, neither]: [Vec<&[u8]>; 3]) -> Self {
        let background = composition(neither.into_iter());
        let donor = Matrix::of(DONOR_COLUMNS, donors.into_iter(), background);
        Self { donor, acceptor: Matrix::of(ACCEPTOR_COLUMNS, acceptors.into_iter(), background) }
    }

    /// Sums of log-odds around the middle of a window of at least twice [`SiteMatrices::REACH`] bases, in bits: donor, acceptor.
    pub fn score(&self, window: &[u8]) -> [f64; 2] {
        [self.donor.score(window), self.acceptor.score(window)]
    }

    /// The same as probabilities.
    pub fn probabilities(&self, window: &[u8]) -> [f64; 2] {
        self.score(window).map(|bits| 1.0 / (1.0 + (Self::PRIOR_BITS - bits).exp2()))
    }
}

/// All sites are counted; of what is neither, enough for a composition.
fn class_is_wanted(count: usize, class: u8, order: [u8; 3]) -> bool {
    const ENOUGH: usize = 100_000;
    order[usize::from(class)] != NEITHER || count < ENOUGH
}

/// [`SiteMatrices`] with thresholds. A window gets the class whose score lies further above that class's threshold, and "neither" if both
/// lie below.
#[derive(Clone, Debug)]
pub struct WeightMatrix {
    matrices: SiteMatrices,
    thresholds: [f64; 2],
}

impl WeightMatrix {
    /// Counts bases at the training part's sites. The background is the base composition of the training part's
    /// negatives; the thresholds are those with the highest 3-class MCC on the training part.
    ///
    /// # Errors
    /// [`Error::Failed`] if a class has no example, or if a window has fewer than 40 bases.
    pub fn train(windows: &[&[u8]], labels: &[u8]) -> Result<Self> {
        if windows.len() != labels.len() {
            return Err(Error::Failed(format!("{} windows but {} labels", windows.len(), labels.len())));
        }
        if let Some(short) = windows.iter().find(|window| window.len() < 2 * ACCEPTOR_COLUMNS[0]) {
            let needed = 2 * ACCEPTOR_COLUMNS[0];
            return Err(Error::Failed(format!(
                "the weight matrix needs windows of {needed} bases; one has {}",
                short.len()
            )));
        }
        for class in [DONOR, ACCEPTOR, NEITHER] {
            if !labels.contains(&class) {
                return Err(Error::Failed(format!("the weight matrix has no training example of class {class}")));
            }
        }
        let of_class =
            |class| windows.iter().zip(labels).filter(|(_, l)| **l == class).map(|(window, _)| *window).collect();
        let matrices = SiteMatrices::of([DONOR, ACCEPTOR, NEITHER].map(of_class));
        let scores: Vec<[f64; 2]> = windows.iter().map(|window| matrices.score(window)).collect();
        let thresholds = best_thresholds(&scores, labels);
        Ok(Self { matrices, thresholds })
    }

    /// The class of a window of at least 40 bases; "neither" for a shorter one.
    pub fn predict(&self, window: &[u8]) -> u8 {
        if window.len() < 2 * ACCEPTOR_COLUMNS[0] {
            return NEITHER;
        }
        decide(self.matrices.score(window), self.thresholds)
    }
}

fn decide(scores: [f64; 2], thresholds: [f64; 2]) -> u8 {
    let [donor, acceptor] = [scores[0] - thresholds[0], scores[1] - thresholds[1]];
    if donor.max(acceptor) < 0.0 {
        NEITHER
    } else if donor >= acceptor {
        DONOR
    } else {
        ACCEPTOR
    }
}

fn composition<'a>(windows: impl Iterator<Item = &'a [u8]>) -> [f64; 4] {
    let mut counts = [PSEUDO_COUNT; 4];
    for code in windows.flatten().filter_map(|base| code(*base)) {
        counts[code] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    counts.map(|count| count / total)
}

/// Each threshold in turn takes its best value given the other, until neither changes (at most four rounds).
fn best_thresholds(scores: &[[f64; 2]], labels: &[u8]) -> [f64; 2] {
    let candidates = [0, 1].map(|kind| quantiles(scores.iter().map(|score| score[kind]).collect()));
    let quality = |thresholds| {
        let mut confusion = super::metrics::Confusion::new(3);
        for (score, label) in scores.iter().zip(labels) {
            confusion.add((*label).into(), decide(*score, thresholds).into());
        }
        confusion.mcc()
    };
    let mut best = [0.0; 2];
    let mut highest = quality(best);
    for _ in 0..4 {
        let before = best;
        for kind in [0, 1] {
            for &candidate in &candidates[kind] {
                let mut tried = best;
                tried[kind] = candidate;
                let reached = quality(tried);
                if reached > highest {
                    (highest, best) = (reached, tried);
                }
            }
        }
        if best == before {
            break;
        }
    }
    best
}

fn quantiles(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    (0..=THRESHOLDS).map(|index| values[last * index / THRESHOLDS]).collect()
}

/// Results of the two baselines on the same windows.
#[derive(Clone, Debug, Serialize)]
pub struct Baselines {
    /// Of [`gt_ag_rule`].
    pub rule: SpliceMetrics,
    /// Of a [`WeightMatrix`] made from the training part.
    pub pwm: SpliceMetrics,
}

impl Baselines {
    /// Trains on the training part of `dataset` and reports on its test part.
    ///
    /// # Errors
    /// As [`Baselines::evaluate`].
    pub fn of_dataset(dataset: &SpliceDataset) -> Result<Self> {
        let [train, test] = [&dataset.train, &dataset.test].map(|rows| {
            let windows: Vec<&[u8]> = rows.iter().map(|row| row.bases.as_slice()).collect();
            (windows, rows.iter().map(Window::label).collect::<Vec<_>>())
        });
        Self::evaluate((&train.0, &train.1), (&test.0, &test.1), dataset.options.seed)
    }

    /// Trains on `train` and reports on `test`, both (windows, labels); `seed` is the bootstrap's.
    ///
    /// # Errors
    /// As [`WeightMatrix::train`] and [`SpliceMetrics::of`].
    pub fn evaluate(train: (&[&[u8]], &[u8]), test: (&[&[u8]], &[u8]), seed: u64) -> Result<Self> {
        let matrix = WeightMatrix::train(train.0, train.1)?;
        let predict = |classify: &dyn Fn(&[u8]) -> u8| test.0.iter().map(|window| classify(window)).collect::<Vec<_>>();
        Ok(Self {
            rule: SpliceMetrics::of(test.1, &predict(&gt_ag_rule), seed)?,
            pwm: SpliceMetrics::of(test.1, &predict(&|window| matrix.predict(window)), seed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{Philox, Purpose, below};

    #[test]
    fn the_rule_reads_the_middle() {
        assert_eq!(gt_ag_rule(b"CCCCGTCC"), DONOR);
        assert_eq!(gt_ag_rule(b"CCAGCCCC"), ACCEPTOR);
        assert_eq!(gt_ag_rule(b"CCAGGTCC"), DONOR);
        assert_eq!(gt_ag_rule(b"GTCCCCAG"), NEITHER);
        assert_eq!(gt_ag_rule(b"CCCGTAGC"), NEITHER);
        assert_eq!(gt_ag_rule(b""), NEITHER);
    }

    /// Random windows of 60 bases; donors get CAG|GTAAGT and acceptors TTTTTTTTTTTTTTTTNCAG|G, decoys only GT or AG.
    fn examples(count: u64) -> (Vec<Vec<u8>>, Vec<u8>) {
        let philox = Philox::of(3, 0, Purpose::Splice);
        let letter = |example: u64, column: u64| b"ACGT"[below(philox.block(example * 64 + column)[0], 4) as usize];
        let window = |example: u64| {
            let mut bases: Vec<u8> = (0..60).map(|column| letter(example, column)).collect();
            let (at, motif): (usize, &[u8]) = match example % 4 {
                0 => (27, b"CAGGTAAGT"),
                1 => (11, b"TTTTTTTTTTTTTTTTCCAGG"),
                2 => (30, b"GT"),
                _ => (28, b"AG"),
            };
            bases[at..at + motif.len()].copy_from_slice(motif);
            bases
        };
        let labels = (0..count).map(|example| [DONOR, ACCEPTOR, NEITHER, NEITHER][example as usize % 4]).collect();
        ((0..count).map(window).collect(), labels)
    }

    #[test]
    fn the_matrix_tells_sites_from_decoys_where_the_rule_cannot() {
        let (windows, labels) = examples(800);
        let windows: Vec<&[u8]> = windows.iter().map(Vec::as_slice).collect();
        let baselines =
            Baselines::evaluate((&windows[..600], &labels[..600]), (&windows[600..], &labels[600..]), 1).unwrap();
        // The rule sees every site and takes every decoy for one (half of the windows): 100 of 200 are right.
        assert!(baselines.rule.accuracy_3class < 0.55, "{:?}", baselines.rule);
        assert!(baselines.pwm.mcc_3class > 0.97, "{:?}", baselines.pwm);
    }

    #[test]
    fn places_and_windows_teach_the_same_matrices() {
        use crate::kmer::labelled::Place;
        let (windows, labels) = examples(400);
        let labels: Vec<u8> = labels.iter().map(|label| [2, 0, 1][usize::from(*label)]).collect();
        let single = |(bases, label): (&Vec<u8>, &u8)| LabelledWindow::new(bases.clone(), i32::from(*label));
        let single: Vec<LabelledWindow> = windows.iter().zip(&labels).map(single).collect();
        let with_place = |window: &LabelledWindow| LabelledWindow {
            bases: [&b"ACGTA"[..], &window.bases].concat(),
            places: vec![Place { at: 1, class: 0 }, Place { at: 35, class: window.label as u8 }],
            ..LabelledWindow::default()
        };
        let places: Vec<LabelledWindow> = single.iter().map(with_place).collect();
        // The model's classes are acceptor, neither, donor; the place near the end has too few bases around it.
        let order = [1, 2, 0];
        let (one, other) = (SiteMatrices::learn(&single, order).unwrap(), SiteMatrices::learn(&places, order).unwrap());
        assert_eq!(one, other);
        let score = |bases: &[u8]| one.probabilities(&bases[10..50]);
        let sites: Vec<[f64; 2]> = windows.iter().map(|bases| score(bases)).collect();
        assert!(sites[0][0] > 0.5 && sites[1][1] > 0.5 && sites[2][0] < 0.5, "{:?}", &sites[..4]);
        assert!(SiteMatrices::learn(&single[..1], order).is_none());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SiteMatrices::FILE);
        std::fs::write(&path, serde_json::to_string(&one).unwrap()).unwrap();
        assert_eq!(SiteMatrices::read(&path).unwrap(), one);
        std::fs::write(&path, "{\"donor\": 1").unwrap();
        assert!(SiteMatrices::read(&path).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn what_was_never_seen_is_unlikely_not_impossible() {
        let sites: [&[u8]; 3] = [b"AAAA", b"AAAA", b"CAAA"];
        let background = composition([&b"AAAC"[..]].into_iter());
        // Three A and one C, and half a count for each base.
        assert_eq!(background, [3.5, 1.5, 0.5, 0.5].map(|count| count / 6.0));
        let matrix = Matrix::of([2, 2], sites.into_iter(), background);
        let odds = |count: f64, base: usize| (count / 5.0 / background[base]).log2();
        assert_eq!(matrix.columns[0], [odds(2.5, 0), odds(1.5, 1), odds(0.5, 2), odds(0.5, 3)]);
        assert_eq!(matrix.columns[3], [odds(3.5, 0), odds(0.5, 1), odds(0.5, 2), odds(0.5, 3)]);
        assert_eq!(matrix.score(b"ANNA"), odds(2.5, 0) + odds(3.5, 0));
    }

    #[test]
    fn what_it_cannot_learn_from_is_told() {
        let window: &[u8] = &[b'A'; 60];
        assert!(WeightMatrix::train(&[window; 2], &[0, 1]).unwrap_err().to_string().contains("class 2"));
        assert!(WeightMatrix::train(&[&window[..39]; 3], &[0, 1, 2]).is_err());
        assert!(WeightMatrix::train(&[window; 2], &[0, 1, 2]).is_err());
    }
}
