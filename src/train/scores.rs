//! What predictions of numbers and of several classes at once are worth, and bootstrap intervals of any figure.

use rayon::prelude::*;
use serde::Serialize;

use super::apply::largest;
use super::metrics::{Confusion, Interval, RESAMPLES};
use crate::philox::{Philox, Purpose, below};

/// A figure and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, serde::Deserialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Where it would fall on other examples of the same kind, 95 of 100 times.
    pub interval: Interval,
}

/// `figures` of all examples, each with its interval: the 2.5th and 97.5th percentile over [`RESAMPLES`] resamples of the
/// examples with replacement (Efron, 1979), drawn under `seed`. `figures` gets the indices of a resample, and returns as many numbers
/// for each; NaN is a figure that a resample does not have, and is left out of its interval.
pub fn estimate(examples: usize, seed: u64, figures: impl Fn(&[usize]) -> Vec<f64> + Sync) -> Vec<Estimate> {
    let all: Vec<usize> = (0..examples).collect();
    let values = figures(&all);
    let resamples: Vec<Vec<f64>> = (0..RESAMPLES)
        .into_par_iter()
        .map(|step| {
            let philox = Philox::of(seed, step, Purpose::Bootstrap);
            let draw = |index: usize| below(philox.block(index as u64 / 4)[index % 4], examples as u32) as usize;
            let drawn: Vec<usize> = (0..examples).map(draw).collect();
            figures(&drawn)
        })
        .collect();
    let of = |(figure, value): (usize, f64)| {
        let mut sorted: Vec<f64> = resamples.iter().map(|of| of[figure]).filter(|value| !value.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1) as f64;
        let at = |share: f64| sorted.get((last * share).round() as usize).copied().unwrap_or(value);
        Estimate { value, interval: [at(0.025), at(0.975)] }
    };
    values.into_iter().enumerate().map(of).collect()
}

/// The next of these estimates; nothing if it is of a figure that all examples together do not have.
fn next(estimates: &mut impl Iterator<Item = Estimate>) -> Option<Estimate> {
    estimates.next().filter(|estimate| !estimate.value.is_nan())
}

/// As [`next`], of a figure that is always there.
fn known(estimates: &mut impl Iterator<Item = Estimate>) -> Estimate {
    estimates.next().unwrap_or(Estimate { value: 0.0, interval: [0.0; 2] })
}

/// Pearson's correlation; 0 where one side does not vary.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let count = x.len().max(1) as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / count, y.iter().sum::<f64>() / count);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        (xy, xx, yy) = (xy + x * y, xx + x * x, yy + y * y);
    }
    if xx > 0.0 && yy > 0.0 { (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0) } else { 0.0 }
}

/// Spearman's correlation: Pearson's of the ranks, equal values sharing the mean of theirs.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    pearson(&ranks(x), &ranks(y))
}

/// Ranks from 1; equal values share the mean of theirs.
pub(crate) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let end = start + order[start..].iter().take_while(|&&index| values[index] == value).count().max(1);
        for &index in &order[start..end] {
            ranks[index] = (start + end + 1) as f64 / 2.0;
        }
        start = end;
    }
    ranks
}

/// Examples by their score, for the areas of any resample of them: sorted once, for all.
struct Ranking {
    scores: Vec<f64>,
    /// Indices, by falling score.
    order: Vec<usize>,
}

impl Ranking {
    fn of(scores: Vec<f64>) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        Self { scores, order }
    }

    /// The area under the ROC curve, which is how often a positive example scores above a negative one, ties counting half (Mann and
    /// Whitney, 1947), and the area under the precision-recall curve as average precision: the sum over thresholds of precision times the
    /// recall gained, equal scores being one threshold. Each example counts as often as `times` says; NaN where an area is not defined.
    fn areas(&self, is_positive: &[bool], times: &[u32]) -> [f64; 2] {
        let (mut positives, mut negatives, mut won, mut gained) = (0.0, 0.0, 0.0, 0.0);
        for equal in self.order.chunk_by(|&a, &b| self.scores[a] == self.scores[b]) {
            let (mut hits, mut misses) = (0.0, 0.0);
            for &index in equal {
                *(if is_positive[index] { &mut hits } else { &mut misses }) += f64::from(times[index]);
            }
            won += misses * (positives + hits / 2.0);
            (positives, negatives) = (positives + hits, negatives + misses);
            if hits > 0.0 {
                gained += positives / (positives + negatives) * hits;
            }
        }
        [won / (positives * negatives), gained / positives]
    }
}

/// How often each of so many examples is among `indices`.
fn times(examples: usize, indices: &[usize]) -> Vec<u32> {
    let mut times = vec![0; examples];
    indices.iter().for_each(|&index| times[index] += 1);
    times
}

/// Figures of one of a regression's numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NumberFigures {
    /// What it is called.
    pub label: String,
    /// Mean squared error.
    pub mse: Estimate,
    /// Pearson's correlation; none of a number that does not vary, as the next two.
    pub pearson: Option<Estimate>,
    /// Spearman's correlation.
    pub spearman: Option<Estimate>,
    /// Coefficient of determination.
    pub r2: Option<Estimate>,
}

/// Figures of a regression over all its numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegressionScores {
    /// Mean squared error.
    pub mse: Estimate,
    /// Pearson's correlation, averaged over the numbers that vary.
    pub pearson: Estimate,
    /// Spearman's correlation, likewise.
    pub spearman: Estimate,
    /// Coefficient of determination, likewise: the share of the variance that the predictions explain.
    pub r2: Estimate,
    /// Of each number.
    pub numbers: Vec<NumberFigures>,
}

impl RegressionScores {
    /// Compares predictions with targets, both `[examples][numbers]`, of numbers called `labels`.
    pub fn of(labels: &[String], predictions: &[Vec<f64>], targets: &[&[f32]], seed: u64) -> Self {
        let estimates = estimate(predictions.len(), seed, |indices| {
            let each = number_figures(predictions, targets, indices);
            regression_means(&each).into_iter().chain(each.into_iter().flatten()).collect()
        });
        let mut estimates = estimates.into_iter();
        let [mse, pearson, spearman, r2] = std::array::from_fn(|_| known(&mut estimates));
        let of = |label: &String| {
            let mse = known(&mut estimates);
            let [pearson, spearman, r2] = std::array::from_fn(|_| next(&mut estimates));
            NumberFigures { label: label.clone(), mse, pearson, spearman, r2 }
        };
        Self { mse, pearson, spearman, r2, numbers: labels.iter().map(of).collect() }
    }
}

/// Mean squared error, and mean Pearson, Spearman and coefficient of determination of the numbers that vary, over the examples `indices`.
pub fn regression_figures(predictions: &[Vec<f64>], targets: &[&[f32]], indices: &[usize]) -> [f64; 4] {
    regression_means(&number_figures(predictions, targets, indices))
}

/// Mean squared error, Pearson, Spearman and coefficient of determination of each number; the last three NaN where it does not vary.
fn number_figures(predictions: &[Vec<f64>], targets: &[&[f32]], indices: &[usize]) -> Vec<[f64; 4]> {
    let figures = |number: usize| {
        let x: Vec<f64> = indices.iter().map(|&index| predictions[index][number]).collect();
        let y: Vec<f64> = indices.iter().map(|&index| f64::from(targets[index][number])).collect();
        let count = indices.len().max(1) as f64;
        let error = x.iter().zip(&y).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / count;
        if y.iter().all(|value| *value == y[0]) {
            return [error, f64::NAN, f64::NAN, f64::NAN];
        }
        let mean = y.iter().sum::<f64>() / count;
        let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / count;
        [error, pearson(&x, &y), spearman(&x, &y), 1.0 - error / variance]
    };
    (0..targets.first().map_or(0, |row| row.len())).map(figures).collect()
}

fn regression_means(each: &[[f64; 4]]) -> [f64; 4] {
    std::array::from_fn(|figure| mean(each.iter().map(|figures| figures[figure])))
}

/// The mean of those that are numbers; 0 without any.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Figures of one class against the rest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassFigures {
    /// What it is called.
    pub label: String,
    /// Examples of it.
    pub examples: u64,
    /// F1 of what is predicted; none of a class that occurs neither in truth nor in prediction.
    pub f1: Option<Estimate>,
    /// Area under the ROC curve; none unless there are examples of both kinds.
    pub auroc: Option<Estimate>,
    /// Average precision; none without an example.
    pub auprc: Option<Estimate>,
}

impl ClassFigures {
    fn of(label: &str, examples: usize, estimates: &mut impl Iterator<Item = Estimate>) -> Self {
        let [f1, auroc, auprc] = std::array::from_fn(|_| next(estimates));
        Self { label: label.to_owned(), examples: examples as u64, f1, auroc, auprc }
    }
}

/// A class against the rest: what is said of each example, and what it is.
struct OneClass {
    ranking: Ranking,
    is_predicted: Vec<bool>,
    is_true: Vec<bool>,
}

impl OneClass {
    /// F1, AUROC and average precision of a resample; NaN where they are not defined.
    fn figures(&self, times: &[u32]) -> [f64; 3] {
        let (mut hits, mut wrong) = (0, 0);
        for ((said, is), times) in self.is_predicted.iter().zip(&self.is_true).zip(times) {
            hits += if *said && *is { *times } else { 0 };
            wrong += if said != is { *times } else { 0 };
        }
        let [roc, precision] = self.ranking.areas(&self.is_true, times);
        [f64::from(2 * hits) / f64::from(2 * hits + wrong), roc, precision]
    }

    fn examples(&self) -> usize {
        self.is_true.iter().filter(|is| **is).count()
    }
}

/// The figures `whole` of the examples with these indices, which has those of each class at hand, and the figures of each class.
fn with_columns(
    names: &[String],
    columns: &[OneClass],
    seed: u64,
    whole: impl Fn(&[usize], &[[f64; 3]]) -> [f64; 3] + Sync,
) -> ([Estimate; 3], Vec<ClassFigures>) {
    let examples = columns.first().map_or(0, |column| column.is_true.len());
    let estimates = estimate(examples, seed, |indices| {
        let times = times(examples, indices);
        let each: Vec<[f64; 3]> = columns.iter().map(|column| column.figures(&times)).collect();
        whole(indices, &each).into_iter().chain(each.into_iter().flatten()).collect()
    });
    let mut estimates = estimates.into_iter();
    let together = std::array::from_fn(|_| known(&mut estimates));
    let named = names.iter().zip(columns);
    let each = named.map(|(name, column)| ClassFigures::of(name, column.examples(), &mut estimates));
    (together, each.collect())
}

/// Figures of multi-label predictions, averaged over the classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MultiLabelScores {
    /// Area under the ROC curve, over the classes that have examples of both kinds.
    pub macro_auroc: Estimate,
    /// Average precision, over the classes that have positive examples.
    pub macro_auprc: Estimate,
    /// F1 at a probability of 1/2; a class that occurs neither in truth nor in prediction counts as 0.
    pub macro_f1: Estimate,
    /// Of each class.
    pub classes: Vec<ClassFigures>,
}

impl MultiLabelScores {
    /// Compares probabilities with targets (0 or 1), both `[examples][classes]`, of classes called `labels`.
    pub fn of(labels: &[String], probabilities: &[Vec<f64>], targets: &[&[f32]], seed: u64) -> Self {
        let columns = one_by_one(probabilities, targets);
        let whole = |_: &[usize], each: &[[f64; 3]]| multi_label_means(each);
        let ([macro_auroc, macro_auprc, macro_f1], classes) = with_columns(labels, &columns, seed, whole);
        Self { macro_auroc, macro_auprc, macro_f1, classes }
    }
}

/// The columns of multi-label data.
fn one_by_one(probabilities: &[Vec<f64>], targets: &[&[f32]]) -> Vec<OneClass> {
    let column = |class: usize| {
        let scores: Vec<f64> = probabilities.iter().map(|row| row[class]).collect();
        OneClass {
            is_predicted: scores.iter().map(|score| *score > 0.5).collect(),
            is_true: targets.iter().map(|row| row[class] > 0.5).collect(),
            ranking: Ranking::of(scores),
        }
    };
    (0..targets.first().map_or(0, |row| row.len())).map(column).collect()
}

/// Macro AUROC, macro AUPRC and macro F1 from what each class has.
fn multi_label_means(each: &[[f64; 3]]) -> [f64; 3] {
    let or_0 = |f1: f64| if f1.is_nan() { 0.0 } else { f1 };
    [mean(each.iter().map(|of| of[1])), mean(each.iter().map(|of| of[2])), mean(each.iter().map(|of| or_0(of[0])))]
}

/// Macro AUROC, macro AUPRC and macro F1.
pub fn multi_label_figures(probabilities: &[Vec<f64>], targets: &[&[f32]]) -> [f64; 3] {
    let times = vec![1; probabilities.len()];
    let each: Vec<[f64; 3]> = one_by_one(probabilities, targets).iter().map(|column| column.figures(&times)).collect();
    multi_label_means(&each)
}

/// Figures of a classifier of any number of classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScores {
    /// Share of examples classified right.
    pub accuracy: Estimate,
    /// F1, averaged over the classes that occur in truth or prediction.
    pub macro_f1: Estimate,
    /// Multi-class Matthews correlation (GUE's figure).
    pub mcc: Estimate,
    /// Of each class against the rest.
    pub classes: Vec<ClassFigures>,
}

impl ClassScores {
    /// Compares probabilities, `[examples][classes]`, with the classes of the examples, which are called `names`. The likeliest
    /// class is the predicted one.
    pub fn of(names: &[String], labels: &[u8], probabilities: &[Vec<f64>], seed: u64) -> Self {
        let predictions: Vec<u8> = probabilities.iter().map(|row| largest(row) as u8).collect();
        let column = |class: usize| OneClass {
            ranking: Ranking::of(probabilities.iter().map(|row| row[class]).collect()),
            is_predicted: predictions.iter().map(|of| usize::from(*of) == class).collect(),
            is_true: labels.iter().map(|of| usize::from(*of) == class).collect(),
        };
        let columns: Vec<OneClass> = (0..names.len()).map(column).collect();
        let whole = |indices: &[usize], _: &[[f64; 3]]| {
            let mut confusion = Confusion::new(names.len());
            indices.iter().for_each(|&i| confusion.add(labels[i].into(), predictions[i].into()));
            [confusion.accuracy(), confusion.macro_f1(), confusion.mcc()]
        };
        let ([accuracy, macro_f1, mcc], classes) = with_columns(names, &columns, seed, whole);
        Self { accuracy, macro_f1, mcc, classes }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    #[test]
    fn correlations_by_hand() {
        let (x, y) = ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 9.0]);
        // Deviations -1.5 -.5 .5 1.5 and -2.75 -.75 -1.75 5.25.
        assert_relative_eq!(pearson(&x, &y), 11.5 / (5.0f64 * 38.75).sqrt(), epsilon = 1e-12);
        assert_relative_eq!(spearman(&x, &y), 0.8, epsilon = 1e-12);
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 0.0]), [3.5, 2.0, 3.5, 1.0]);
        assert_eq!(pearson(&x, &[2.0; 4]), 0.0);
        assert_eq!(pearson(&[], &[]), 0.0);
        assert_relative_eq!(spearman(&x, &[1.0, 10.0, 100.0, 1000.0]), 1.0);
    }

    /// Every pair of a positive and a negative example; every threshold.
    #[test]
    fn areas_against_their_definitions() {
        let philox = Philox::of(1, 0, Purpose::Bootstrap);
        for round in 0..50 {
            let word = |index: u64| philox.block(round * 100 + index)[0];
            let count = 2 + word(99) as usize % 30;
            let scores: Vec<f64> = (0..count as u64).map(|index| f64::from(word(index) % 8)).collect();
            let positive: Vec<bool> = (0..count as u64).map(|index| word(index) >> 8 & 3 == 0).collect();
            let (mut pairs, mut won) = (0.0, 0.0);
            for (a, _) in scores.iter().zip(&positive).filter(|(_, p)| **p) {
                for (b, _) in scores.iter().zip(&positive).filter(|(_, p)| !**p) {
                    pairs += 1.0;
                    won += if a > b {
                        1.0
                    } else if a == b {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
            let [roc, precision] = Ranking::of(scores.clone()).areas(&positive, &vec![1; count]);
            match roc.is_nan() {
                true => assert_eq!(pairs, 0.0),
                false => assert_relative_eq!(roc, won / pairs, epsilon = 1e-12),
            }
            let total = positive.iter().filter(|p| **p).count() as f64;
            let (mut area, mut last) = (0.0, 0.0);
            for threshold in (0..8).rev().map(f64::from) {
                let said = scores.iter().filter(|score| **score >= threshold).count() as f64;
                let hits = scores.iter().zip(&positive).filter(|(s, p)| **s >= threshold && **p).count() as f64;
                if said > 0.0 {
                    area += hits / said * (hits - last) / total;
                    last = hits;
                }
            }
            match precision.is_nan() {
                true => assert_eq!(total, 0.0),
                false => assert_relative_eq!(precision, area, epsilon = 1e-12),
            }
        }
    }

    /// An example that counts several times is as many examples.
    #[test]
    fn areas_count_examples_as_often_as_they_are_drawn() {
        let (scores, positive) = ([0.9, 0.7, 0.7, 0.4, 0.1], [true, false, true, false, true]);
        for times in [[1, 1, 1, 1, 1], [2, 0, 1, 3, 1], [0, 5, 1, 0, 2]] {
            let repeated = || times.iter().enumerate().flat_map(|(index, times)| vec![index; *times as usize]);
            let ranking = Ranking::of(repeated().map(|index| scores[index]).collect());
            let is_positive: Vec<bool> = repeated().map(|index| positive[index]).collect();
            let expected = ranking.areas(&is_positive, &vec![1; is_positive.len()]);
            let found = Ranking::of(scores.to_vec()).areas(&positive, &times);
            found
                .iter()
                .zip(expected)
                .for_each(|(found, expected)| assert_relative_eq!(*found, expected, epsilon = 1e-12));
        }
    }

    #[test]
    fn resamples_draw_every_example() {
        let counted = estimate(5, 3, |drawn| {
            assert_eq!(drawn.len(), 5);
            (0..5).map(|example| drawn.iter().filter(|of| **of == example).count() as f64).collect()
        });
        for Estimate { interval: [low, high], .. } in counted {
            assert_eq!((low, high), (0.0, 3.0), "binomial, of 5 draws with probability 1/5");
        }
    }

    #[test]
    fn intervals_enclose_and_repeat() {
        let predictions: Vec<Vec<f64>> = (0..200).map(|i| vec![f64::from(i % 17), f64::from(i % 5)]).collect();
        let targets: Vec<Vec<f32>> = (0..200).map(|i| vec![(i % 17) as f32 + (i % 3) as f32, (i % 7) as f32]).collect();
        let targets: Vec<&[f32]> = targets.iter().map(Vec::as_slice).collect();
        let names = ["one", "other", "third"].map(str::to_owned);
        let scores = RegressionScores::of(&names[..2], &predictions, &targets, 3);
        assert_eq!(scores, RegressionScores::of(&names[..2], &predictions, &targets, 3));
        // Each number has what it would have alone.
        let alone: Vec<Vec<f64>> = predictions.iter().map(|row| vec![row[1]]).collect();
        let targets_alone: Vec<&[f32]> = targets.iter().map(|row| &row[1..]).collect();
        let alone = RegressionScores::of(&names[..1], &alone, &targets_alone, 3);
        let other = &scores.numbers[1];
        assert_eq!((other.label.as_str(), other.mse, other.pearson), ("other", alone.mse, Some(alone.pearson)));
        assert_eq!((other.spearman, other.r2), (Some(alone.spearman), Some(alone.r2)));
        for Estimate { value, interval: [low, high] } in [scores.mse, scores.pearson, scores.spearman, scores.r2] {
            assert!(low < value && value < high && high - low < 1.5, "{low} {value} {high}");
        }
        // A number that is the same everywhere has no correlation to count.
        let targets: [&[f32]; 2] = [&[1.0, 7.0], &[3.0, 7.0]];
        let [mse, others @ ..] = regression_figures(&[vec![1.0, 4.0], vec![3.0, 4.0]], &targets, &[0, 1]);
        assert_eq!((mse, others), (4.5, [1.0; 3]));
        let sure = |class: usize| (0..3).map(|of| if of == class { 0.8 } else { 0.1 }).collect::<Vec<f64>>();
        let same = ClassScores::of(&names, &[0, 1, 2, 2], &[sure(0), sure(1), sure(2), sure(2)], 1);
        assert_eq!((same.accuracy.value, same.mcc.value), (1.0, 1.0));
        let flags: Vec<&[f32]> = vec![&[1.0, 0.0], &[0.0, 0.0], &[1.0, 0.0]];
        let sure = vec![vec![0.9, 0.1], vec![0.2, 0.3], vec![0.8, 0.4]];
        let [roc, precision, f1] = multi_label_figures(&sure, &flags);
        // The second class has no positive example: it counts in F1 only, as 0.
        assert_eq!((roc, precision, f1), (1.0, 1.0, 0.5));
        let scores = MultiLabelScores::of(&names[..2], &sure, &flags, 1);
        let [one, other] = &scores.classes[..] else { panic!() };
        assert_eq!((one.examples, one.auroc.unwrap().value, one.f1.unwrap().value), (2, 1.0, 1.0));
        assert_eq!((other.examples, other.f1, other.auroc, other.auprc), (0, None, None, None));
    }

    /// A model that is right everywhere is worth 1, whichever classes its windows happen to have, and so it is in every resample
    /// (scikit-learn averages over the labels that occur in truth or prediction).
    #[test]
    fn classes_that_do_not_occur_take_nothing_away() {
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        let sure = |class: u8| (0..4).map(|of| if of == class { 0.7 } else { 0.1 }).collect::<Vec<f64>>();
        for labels in [[0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 3]] {
            let answers: Vec<_> = labels.iter().map(|class| sure(*class)).collect();
            let scores = ClassScores::of(&names, &labels, &answers, 3);
            assert_eq!((scores.macro_f1.value, scores.macro_f1.interval), (1.0, [1.0, 1.0]), "{labels:?}");
            for (class, figures) in (0..).zip(&scores.classes) {
                let occurs = labels.contains(&class);
                assert_eq!(figures.f1.map(|f1| (f1.value, f1.interval)), occurs.then_some((1.0, [1.0, 1.0])));
            }
        }
        // scikit-learn: f1_score([0, 0, 1, 1, 2, 0], [0, 1, 1, 1, 2, 3], average="macro") = 0.575.
        let answers: Vec<_> = [0, 1, 1, 1, 2, 3].map(sure).to_vec();
        let scores = ClassScores::of(&names, &[0, 0, 1, 1, 2, 0], &answers, 3);
        assert_relative_eq!(scores.macro_f1.value, (0.5 + 0.8 + 1.0 + 0.0) / 4.0, epsilon = 1e-12);
        // roc_auc_score(y == 0, p[:, 0]) and average_precision_score: 1 of 3 above all others, 2 among three negatives.
        let class = &scores.classes[0];
        assert_relative_eq!(class.auroc.unwrap().value, (3.0 + 1.5 + 1.5) / 9.0, epsilon = 1e-12);
        assert_relative_eq!(class.auprc.unwrap().value, 1.0 / 3.0 + 2.0 / 3.0 * 0.5, epsilon = 1e-12);
    }
}
