//! What a classifier is worth: accuracy, F1 and Matthews correlation, for splice sites and for any number of classes.
//!
//! The class order of a splice confusion matrix is donor, acceptor, neither (0, 1, 2), rows are the truth and columns
//! the prediction.
//!
//! Three-class figures (the ones of DNABERT and GUE): plain accuracy, F1 averaged over the classes, and the correlation
//! of Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", Comput. Biol. Chem.
//! 28 (2004), in the closed form over row and column sums.
//!
//! Donor/acceptor figures (the ones of BioNeMo's DNABERT model card): a binary matrix for donors, another for acceptors,
//! and the mean of the two. The card says in words that predictions across the two kinds are false positives; that
//! leaves three readings, all of which are computed. With C the confusion matrix, for donors (D; A and D change places
//! for acceptors):
//!
//! | | TP | FP | FN | TN |
//! | --- | --- | --- | --- | --- |
//! | literal (the headline) | C\[D\]\[D\] | C\[N\]\[D\] + C\[D\]\[A\] + C\[A\]\[D\] | C\[D\]\[N\] | C\[N\]\[N\] |
//! | row-restricted | C\[D\]\[D\] | C\[N\]\[D\] + C\[D\]\[A\] | C\[D\]\[N\] | C\[N\]\[N\] |
//! | predicted-as | C\[D\]\[D\] | C\[N\]\[D\] + C\[A\]\[D\] | C\[D\]\[N\] + C\[D\]\[A\] | C\[N\]\[N\] |
//!
//! TN is C\[N\]\[N\] alone. One could count C\[N\]\[A\] too, as "not a donor". The first is meant here: it is the one under
//! which the GT/AG rule, which never answers "neither" to a GT or AG decoy, scores an MCC near zero on decoys (-0.06
//! measured; the other reading would give it over 0.4 and hide that it cannot tell a site from a decoy).

use rayon::prelude::*;
use serde::Serialize;

use crate::philox::{Philox, Purpose, below};
use crate::{Error, Result};

/// Resamples behind a bootstrap interval.
pub const RESAMPLES: u32 = 1_000;

/// Counts of (true class, predicted class) for any number of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

impl Confusion {
    /// A matrix of zeros for `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts the pairs of `labels` and `predictions`, both `[examples]`.
    ///
    /// # Errors
    /// [`Error::Failed`] if the two differ in length or hold a class that is not below `classes`.
    pub fn of(labels: &[u8], predictions: &[u8], classes: usize) -> Result<Self> {
        check(labels, predictions, classes)?;
        let mut confusion = Self::new(classes);
        for (&label, &prediction) in labels.iter().zip(predictions) {
            confusion.add(label.into(), prediction.into());
        }
        Ok(confusion)
    }

    /// Counts one example. Both classes must be below the number of classes.
    pub(crate) fn add(&mut self, label: usize, prediction: usize) {
        self.counts[label * self.classes + prediction] += 1;
    }

    /// How many examples of class `label` were predicted as `prediction`.
    pub fn count(&self, label: usize, prediction: usize) -> u64 {
        self.counts[label * self.classes + prediction]
    }

    /// The matrix as rows, `[true class][predicted class]`.
    pub fn rows(&self) -> Vec<Vec<u64>> {
        self.counts.chunks(self.classes.max(1)).map(<[u64]>::to_vec).collect()
    }

    /// All examples.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The share of examples on the diagonal; 0 without examples.
    pub fn accuracy(&self) -> f64 {
        ratio(self.correct(), self.total() as f64)
    }

    /// F1 of each class against the rest, averaged over the classes that occur in truth or prediction, as scikit-learn does it.
    pub fn macro_f1(&self) -> f64 {
        let occurrences = |class| self.row_sum(class) + self.column_sum(class);
        let occurring: Vec<usize> = (0..self.classes).filter(|&class| occurrences(class) > 0.0).collect();
        let f1 = |&class: &usize| 2.0 * self.count(class, class) as f64 / occurrences(class);
        ratio(occurring.iter().map(f1).sum(), occurring.len() as f64)
    }

    /// Gorodkin's R_K, which is Matthews' coefficient for two classes; 0 where it is undefined (one class only).
    pub fn mcc(&self) -> f64 {
        let total = self.total() as f64;
        let sum = |term: &dyn Fn(usize) -> f64| (0..self.classes).map(term).sum::<f64>();
        let covariance = self.correct() * total - sum(&|k| self.row_sum(k) * self.column_sum(k));
        let truth = total * total - sum(&|k| self.row_sum(k).powi(2));
        let predicted = total * total - sum(&|k| self.column_sum(k).powi(2));
        ratio(covariance, (truth * predicted).sqrt())
    }

    fn correct(&self) -> f64 {
        (0..self.classes).map(|class| self.count(class, class)).sum::<u64>() as f64
    }

    fn row_sum(&self, class: usize) -> f64 {
        (0..self.classes).map(|other| self.count(class, other)).sum::<u64>() as f64
    }

    fn column_sum(&self, class: usize) -> f64 {
        (0..self.classes).map(|other| self.count(other, class)).sum::<u64>() as f64
    }
}

/// Figures of a binary matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// (TP + TN) / all.
    pub accuracy: f64,
    /// 2 TP / (2 TP + FP + FN).
    pub f1: f64,
    /// Matthews correlation; 0 where a margin is empty.
    pub mcc: f64,
}

impl Scores {
    fn of(tp: u64, fp: u64, fn_: u64, tn: u64) -> Self {
        let [tp, fp, fn_, tn] = [tp, fp, fn_, tn].map(|count| count as f64);
        Self {
            accuracy: ratio(tp + tn, tp + tn + fp + fn_),
            f1: ratio(2.0 * tp, 2.0 * tp + fp + fn_),
            mcc: ratio(tp * tn - fp * fn_, ((tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_)).sqrt()),
        }
    }

    fn mean(a: Self, b: Self) -> Self {
        let mean = |get: fn(&Self) -> f64| (get(&a) + get(&b)) / 2.0;
        Self { accuracy: mean(|s| s.accuracy), f1: mean(|s| s.f1), mcc: mean(|s| s.mcc) }
    }
}

/// One reading of the model card's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Reading {
    /// Of the donor matrix.
    pub donor: Scores,
    /// Of the acceptor matrix.
    pub acceptor: Scores,
    /// Mean of the two.
    pub mean: Scores,
}

/// The three readings that the module's table defines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Readings {
    /// L: every cross prediction is a false positive of both kinds.
    pub literal: Reading,
    /// P: cross predictions count against the kind that they truly are.
    pub row_restricted: Reading,
    /// O: cross predictions count against the kind that they were taken for, and as missed by their own.
    pub predicted_as: Reading,
}

impl Readings {
    /// From a matrix in the order donor, acceptor, neither.
    pub fn of(c: &[[u64; 3]; 3]) -> Self {
        let reading = |scores: fn(&[[u64; 3]; 3], usize, usize) -> Scores| {
            let (donor, acceptor) = (scores(c, 0, 1), scores(c, 1, 0));
            Reading { donor, acceptor, mean: Scores::mean(donor, acceptor) }
        };
        Self {
            literal: reading(|c, own, other| {
                Scores::of(c[own][own], c[2][own] + c[own][other] + c[other][own], c[own][2], c[2][2])
            }),
            row_restricted: reading(|c, own, other| {
                Scores::of(c[own][own], c[2][own] + c[own][other], c[own][2], c[2][2])
            }),
            predicted_as: reading(|c, own, other| {
                Scores::of(c[own][own], c[2][own] + c[other][own], c[own][2] + c[own][other], c[2][2])
            }),
        }
    }
}

/// A 95 % interval: the 2.5th and the 97.5th percentile of the resamples.
pub type Interval = [f64; 2];

/// Bootstrap intervals of the headline figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Intervals {
    /// Of [`SpliceMetrics::accuracy`].
    pub accuracy: Interval,
    /// Of [`SpliceMetrics::f1`].
    pub f1: Interval,
    /// Of [`SpliceMetrics::mcc`].
    pub mcc: Interval,
    /// Of [`SpliceMetrics::mcc_3class`].
    pub mcc_3class: Interval,
}

/// Everything that is reported about a splice-site classifier on one set of windows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpliceMetrics {
    /// Windows classified.
    pub examples: u64,
    /// Model card, literal reading, mean of donor and acceptor.
    pub accuracy: f64,
    /// Likewise.
    pub f1: f64,
    /// Likewise.
    pub mcc: f64,
    /// Gorodkin's R_K over donor, acceptor, neither.
    pub mcc_3class: f64,
    /// Share of windows classified correctly.
    pub accuracy_3class: f64,
    /// F1 averaged over the three classes.
    pub macro_f1_3class: f64,
    /// Where the headline figures would fall on other windows of the same kind, 95 of 100 times.
    pub intervals: Intervals,
    /// The three readings of the model card's figures, donor and acceptor apart.
    pub readings: Readings,
    /// `[true class][predicted class]`, in the order donor, acceptor, neither.
    pub confusion: [[u64; 3]; 3],
}

impl SpliceMetrics {
    /// What the headline figures are, for whoever reads them in a table.
    pub const READING: &'static str = "accuracy, F1, MCC: the mean of a table for donors and one for acceptors (BioNeMo's model card, literally)\n\
         3-class MCC: donor, acceptor and neither at once";

    /// Compares `predictions` with `labels`, both `[examples]` of 0 (donor), 1 (acceptor) or 2 (neither). The intervals
    /// come from [`RESAMPLES`] resamples of the examples with replacement (Efron, 1979), drawn under `seed`.
    ///
    /// # Errors
    /// [`Error::Failed`] if the two differ in length, are empty, or hold another class.
    pub fn of(labels: &[u8], predictions: &[u8], seed: u64) -> Result<Self> {
        let confusion = splice_matrix(&Confusion::of(labels, predictions, 3)?);
        if labels.is_empty() {
            return Err(Error::Failed("there is no example to compute metrics from".into()));
        }
        let [accuracy, f1, mcc, mcc_3class] = headline(&confusion);
        let whole = general(&confusion);
        Ok(Self {
            examples: labels.len() as u64,
            accuracy,
            f1,
            mcc,
            mcc_3class,
            accuracy_3class: whole.accuracy(),
            macro_f1_3class: whole.macro_f1(),
            intervals: bootstrap(labels, predictions, seed),
            readings: Readings::of(&confusion),
            confusion,
        })
    }
}

/// Model-card accuracy, F1 and MCC (literal reading, mean), then the 3-class MCC.
fn headline(confusion: &[[u64; 3]; 3]) -> [f64; 4] {
    let mean = Readings::of(confusion).literal.mean;
    [mean.accuracy, mean.f1, mean.mcc, general(confusion).mcc()]
}

fn bootstrap(labels: &[u8], predictions: &[u8], seed: u64) -> Intervals {
    // A resample only needs the cell of the matrix that an example falls into.
    let cells: Vec<u8> = labels.iter().zip(predictions).map(|(label, prediction)| label * 3 + prediction).collect();
    let resamples: Vec<[f64; 4]> =
        (0..RESAMPLES).into_par_iter().map(|step| headline(&resample(&cells, seed, step))).collect();
    let interval = |index: usize| {
        let mut values: Vec<f64> = resamples.iter().map(|figures| figures[index]).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        [at(0.025), at(0.975)]
    };
    Intervals { accuracy: interval(0), f1: interval(1), mcc: interval(2), mcc_3class: interval(3) }
}

fn resample(cells: &[u8], seed: u64, step: u32) -> [[u64; 3]; 3] {
    let philox = Philox::of(seed, step, Purpose::Bootstrap);
    let mut counts = [[0; 3]; 3];
    for index in 0..cells.len().div_ceil(4) {
        let drawn = cells.len() - 4 * index;
        for word in philox.block(index as u64).into_iter().take(drawn) {
            let cell = cells[below(word, cells.len() as u32) as usize];
            counts[usize::from(cell / 3)][usize::from(cell % 3)] += 1;
        }
    }
    counts
}

fn splice_matrix(confusion: &Confusion) -> [[u64; 3]; 3] {
    std::array::from_fn(|label| std::array::from_fn(|prediction| confusion.count(label, prediction)))
}

fn general(matrix: &[[u64; 3]; 3]) -> Confusion {
    Confusion { classes: 3, counts: matrix.as_flattened().to_vec() }
}

fn check(labels: &[u8], predictions: &[u8], classes: usize) -> Result<()> {
    if labels.len() != predictions.len() {
        return Err(Error::Failed(format!("{} labels but {} predictions", labels.len(), predictions.len())));
    }
    match labels.iter().chain(predictions).find(|&&class| usize::from(class) >= classes) {
        Some(class) => Err(Error::Failed(format!("class {class} where there are {classes} classes, counted from 0"))),
        None => Ok(()),
    }
}

/// `numerator / denominator`, and 0 for an empty denominator: the usual convention for figures of empty classes, and it
/// keeps NaN out of reports.
fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 { numerator / denominator } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    /// Rows: donor, acceptor, neither.
    const C: [[u64; 3]; 3] = [[80, 6, 14], [3, 70, 27], [10, 20, 170]];

    #[test]
    fn readings_by_hand() {
        let readings = Readings::of(&C);
        // Donor, literal: TP 80, FP 10 + 6 + 3, FN 14, TN 170.
        let donor = readings.literal.donor;
        assert_relative_eq!(donor.accuracy, 250.0 / 283.0);
        assert_relative_eq!(donor.f1, 160.0 / 193.0);
        let mcc = (80.0 * 170.0 - 19.0 * 14.0) / (99.0 * 94.0 * 189.0 * 184.0_f64).sqrt();
        assert_relative_eq!(donor.mcc, mcc, epsilon = 1e-12);
        // Acceptor, literal: TP 70, FP 20 + 3 + 6, FN 27, TN 170.
        assert_relative_eq!(readings.literal.acceptor.accuracy, 240.0 / 296.0);
        assert_relative_eq!(readings.literal.mean.accuracy, (250.0 / 283.0 + 240.0 / 296.0) / 2.0);
        // Donor, row-restricted: FP 10 + 6. Donor, predicted-as: FP 10 + 3, FN 14 + 6.
        assert_relative_eq!(readings.row_restricted.donor.accuracy, 250.0 / 280.0);
        assert_relative_eq!(readings.predicted_as.donor.f1, 160.0 / (160.0 + 13.0 + 20.0));
    }

    #[test]
    fn three_class_figures_by_hand() {
        let confusion = general(&C);
        assert_relative_eq!(confusion.accuracy(), 320.0 / 400.0);
        assert_relative_eq!(confusion.macro_f1(), (160.0 / 193.0 + 140.0 / 196.0 + 340.0 / 411.0) / 3.0);
        let covariance = 320.0 * 400.0 - (100.0 * 93.0 + 100.0 * 96.0 + 200.0 * 211.0);
        let spread = (160_000.0 - 60_000.0) * (160_000.0 - (93.0 * 93.0 + 96.0 * 96.0 + 211.0 * 211.0));
        assert_relative_eq!(confusion.mcc(), covariance / f64::sqrt(spread), epsilon = 1e-12);
    }

    /// The GT/AG rule on decoys, half of them GT and half AG: it cannot tell them from sites, and the figure says so.
    #[test]
    fn true_negatives_are_the_ones_that_were_called_neither() {
        let rule = [[970, 5, 25], [120, 850, 30], [510, 490, 0]];
        let donor = Readings::of(&rule).literal.donor;
        assert!((-0.2..0.0).contains(&donor.mcc), "{donor:?}");
        let generous = Scores::of(970, 510 + 5 + 120, 25, 490);
        assert!(generous.mcc > 0.4, "{generous:?}");
    }

    #[test]
    fn gorodkin_is_matthews_for_two_classes() {
        let two = Confusion { classes: 2, counts: vec![50, 7, 11, 90] };
        assert_relative_eq!(two.mcc(), Scores::of(50, 11, 7, 90).mcc, epsilon = 1e-12);
    }

    #[test]
    fn extremes_are_finite() {
        let perfect = SpliceMetrics::of(&[0, 1, 2, 2], &[0, 1, 2, 2], 1).unwrap();
        assert_eq!((perfect.accuracy, perfect.f1, perfect.mcc, perfect.mcc_3class), (1.0, 1.0, 1.0, 1.0));
        let constant = SpliceMetrics::of(&[0, 1, 2, 2], &[2, 2, 2, 2], 1).unwrap();
        assert_eq!((constant.f1, constant.mcc, constant.mcc_3class), (0.0, 0.0, 0.0));
        assert_eq!(constant.accuracy_3class, 0.5);
        assert!(SpliceMetrics::of(&[0], &[3], 1).is_err());
        assert!(SpliceMetrics::of(&[0, 1], &[0], 1).is_err());
        assert!(SpliceMetrics::of(&[], &[], 1).is_err());
    }

    /// Every example is drawn as often as any other, the last one too, and as many are drawn as there are.
    #[test]
    fn resamples_draw_every_example() {
        for examples in [1_usize, 4, 5, 7] {
            let mut drawn = [0_u64; 9];
            for step in 0..RESAMPLES {
                let cells: Vec<u8> = (0..examples as u8).collect();
                let counts = resample(&cells, 3, step);
                assert_eq!(counts.as_flattened().iter().sum::<u64>(), examples as u64);
                drawn.iter_mut().zip(counts.as_flattened()).for_each(|(sum, count)| *sum += count);
            }
            // Once a resample on average; five standard deviations.
            let spread = 5.0 * f64::from(RESAMPLES).sqrt();
            for count in &drawn[..examples] {
                assert!((*count as f64 - f64::from(RESAMPLES)).abs() < spread, "{drawn:?}");
            }
        }
    }

    #[test]
    fn a_fortieth_of_the_resamples_lies_on_either_side_of_an_interval() {
        let (labels, predictions): (Vec<u8>, Vec<u8>) =
            (0..500_u32).map(|index| ((index % 3) as u8, (index * index / 5 % 3) as u8)).unzip();
        let cells: Vec<u8> =
            labels.iter().zip(&predictions).map(|(label, prediction)| label * 3 + prediction).collect();
        let resamples: Vec<f64> = (0..RESAMPLES).map(|step| headline(&resample(&cells, 7, step))[3]).collect();
        let [low, high] = SpliceMetrics::of(&labels, &predictions, 7).unwrap().intervals.mcc_3class;
        let outside =
            [resamples.iter().filter(|of| **of < low).count(), resamples.iter().filter(|of| **of > high).count()];
        // Equal figures may lie on the end itself.
        assert!(outside.iter().all(|count| (20..=25).contains(count)), "{outside:?}");
    }

    #[test]
    fn intervals_enclose_the_figure_and_narrow_with_examples() {
        let examples = |times: usize| {
            let mut pairs = Vec::new();
            for (label, row) in C.iter().enumerate() {
                for (prediction, &count) in row.iter().enumerate() {
                    pairs.extend(std::iter::repeat_n((label as u8, prediction as u8), count as usize * times));
                }
            }
            let (labels, predictions): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            SpliceMetrics::of(&labels, &predictions, 5).unwrap()
        };
        let (few, many) = (examples(1), examples(16));
        assert_eq!(few, examples(1));
        let width = |metrics: &SpliceMetrics| {
            let [low, high] = metrics.intervals.accuracy;
            assert!(low < metrics.accuracy && metrics.accuracy < high, "{low} {high}");
            high - low
        };
        // The width falls with the square root of the number of examples.
        let factor = width(&few) / width(&many);
        assert!((3.0..5.0).contains(&factor), "{factor}");
        // Accuracy's own standard error is known in closed form for the three-class accuracy: sqrt(p q / n) = 0.02.
        let [low, high] = few.intervals.mcc_3class;
        assert!((0.05..0.14).contains(&(high - low)), "{low} {high}");
    }
}
