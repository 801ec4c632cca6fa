//! What predictions of numbers and of several classes at once are worth, and bootstrap intervals of any figure.

use rayon::prelude::*;
use serde::Serialize;

use super::metrics::{Confusion, Interval, RESAMPLES};
use crate::philox::{Philox, Purpose, below};

/// A figure and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Where it would fall on other examples of the same kind, 95 of 100 times.
    pub interval: Interval,
}

/// `figures` of all examples, each with its interval: the 2.5th and 97.5th percentile over [`RESAMPLES`] resamples of the
/// examples with replacement (Efron, 1979), drawn under `seed`. `figures` gets the indices of a resample.
pub fn estimate<const N: usize>(
    examples: usize,
    seed: u64,
    figures: impl Fn(&[usize]) -> [f64; N] + Sync,
) -> [Estimate; N] {
    let all: Vec<usize> = (0..examples).collect();
    let values = figures(&all);
    let resamples: Vec<[f64; N]> = (0..RESAMPLES)
        .into_par_iter()
        .map(|step| {
            let philox = Philox::of(seed, step, Purpose::Bootstrap);
            let draw = |index: usize| below(philox.block(index as u64 / 4)[index % 4], examples as u32) as usize;
            let drawn: Vec<usize> = (0..examples).map(draw).collect();
            figures(&drawn)
        })
        .collect();
    std::array::from_fn(|figure| {
        let mut sorted: Vec<f64> = resamples.iter().map(|figures| figures[figure]).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Estimate { value: values[figure], interval: [at(0.025), at(0.975)] }
    })
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
fn ranks(values: &[f64]) -> Vec<f64> {
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

/// Area under the ROC curve: how often a positive example scores above a negative one, ties counting half (Mann and
/// Whitney, 1947). `None` if all examples are of one kind.
pub fn auroc(scores: &[f64], is_positive: &[bool]) -> Option<f64> {
    let positives = is_positive.iter().filter(|&&positive| positive).count() as f64;
    let negatives = is_positive.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let ranks = ranks(scores);
    let sum: f64 = ranks.iter().zip(is_positive).filter(|(_, positive)| **positive).map(|(rank, _)| rank).sum();
    Some((sum - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

/// Area under the precision-recall curve as average precision: the sum over thresholds of precision times the recall
/// gained, equal scores being one threshold. `None` without positive examples.
pub fn average_precision(scores: &[f64], is_positive: &[bool]) -> Option<f64> {
    let positives = is_positive.iter().filter(|&&positive| positive).count() as f64;
    if positives == 0.0 {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut found, mut seen, mut sum, mut start) = (0.0, 0.0, 0.0, 0);
    while start < order.len() {
        let score = scores[order[start]];
        let equal = order[start..].iter().take_while(|&&index| scores[index] == score).count().max(1);
        let gained = order[start..start + equal].iter().filter(|&&index| is_positive[index]).count() as f64;
        (found, seen) = (found + gained, seen + equal as f64);
        sum += found / seen * gained / positives;
        start += equal;
    }
    Some(sum)
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
}

impl RegressionScores {
    /// Compares predictions with targets, both `[examples][numbers]`.
    pub fn of(predictions: &[Vec<f64>], targets: &[&[f32]], seed: u64) -> Self {
        let [mse, pearson, spearman, r2] =
            estimate(predictions.len(), seed, |indices| regression_figures(predictions, targets, indices));
        Self { mse, pearson, spearman, r2 }
    }
}

/// Mean squared error, and mean Pearson, Spearman and coefficient of determination of the numbers that vary, over the examples `indices`.
pub fn regression_figures(predictions: &[Vec<f64>], targets: &[&[f32]], indices: &[usize]) -> [f64; 4] {
    let numbers = targets.first().map_or(0, |row| row.len());
    let (mut mse, mut others, mut varying) = (0.0, [0.0; 3], 0.0);
    for number in 0..numbers {
        let x: Vec<f64> = indices.iter().map(|&index| predictions[index][number]).collect();
        let y: Vec<f64> = indices.iter().map(|&index| f64::from(targets[index][number])).collect();
        let count = indices.len().max(1) as f64;
        let error = x.iter().zip(&y).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / count;
        let mean = y.iter().sum::<f64>() / count;
        let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / count;
        mse += error / numbers as f64;
        if y.iter().any(|value| *value != y[0]) {
            varying += 1.0;
            let parts = [pearson(&x, &y), spearman(&x, &y), 1.0 - error / variance];
            others.iter_mut().zip(parts).for_each(|(figure, part)| *figure += part);
        }
    }
    let [pearson, spearman, r2] = others.map(|sum| sum / f64::max(varying, 1.0));
    [mse, pearson, spearman, r2]
}

/// Figures of multi-label predictions, averaged over the classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MultiLabelScores {
    /// Area under the ROC curve, over the classes that have examples of both kinds.
    pub macro_auroc: Estimate,
    /// Average precision, over the classes that have positive examples.
    pub macro_auprc: Estimate,
    /// F1 at a probability of 1/2.
    pub macro_f1: Estimate,
}

impl MultiLabelScores {
    /// Compares probabilities with targets (0 or 1), both `[examples][classes]`.
    pub fn of(probabilities: &[Vec<f64>], targets: &[&[f32]], seed: u64) -> Self {
        let [macro_auroc, macro_auprc, macro_f1] =
            estimate(probabilities.len(), seed, |indices| multi_label_figures(probabilities, targets, indices));
        Self { macro_auroc, macro_auprc, macro_f1 }
    }
}

/// Macro AUROC, macro AUPRC and macro F1 over the examples `indices`.
pub fn multi_label_figures(probabilities: &[Vec<f64>], targets: &[&[f32]], indices: &[usize]) -> [f64; 3] {
    let classes = targets.first().map_or(0, |row| row.len());
    let (mut roc, mut precision, mut f1) = (Vec::new(), Vec::new(), Vec::new());
    for class in 0..classes {
        let scores: Vec<f64> = indices.iter().map(|&index| probabilities[index][class]).collect();
        let positive: Vec<bool> = indices.iter().map(|&index| targets[index][class] > 0.5).collect();
        roc.extend(auroc(&scores, &positive));
        precision.extend(average_precision(&scores, &positive));
        let count = |holds: &dyn Fn(bool, bool) -> bool| {
            scores.iter().zip(&positive).filter(|(score, positive)| holds(**score > 0.5, **positive)).count() as f64
        };
        let (hits, wrong) = (count(&|said, is| said && is), count(&|said, is| said != is));
        f1.push(if hits + wrong > 0.0 { 2.0 * hits / (2.0 * hits + wrong) } else { 0.0 });
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    [mean(roc), mean(precision), mean(f1)]
}

/// Figures of a classifier of any number of classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScores {
    /// Share of examples classified right.
    pub accuracy: Estimate,
    /// F1, averaged over the classes.
    pub macro_f1: Estimate,
    /// Multi-class Matthews correlation (GUE's figure).
    pub mcc: Estimate,
}

impl ClassScores {
    /// Compares predicted classes with labels, both `[examples]` of numbers below `classes`.
    pub fn of(labels: &[u8], predictions: &[u8], classes: usize, seed: u64) -> Self {
        let [accuracy, macro_f1, mcc] = estimate(labels.len(), seed, |indices| {
            let mut confusion = Confusion::new(classes);
            indices.iter().for_each(|&i| confusion.add(labels[i].into(), predictions[i].into()));
            [confusion.accuracy(), confusion.macro_f1(), confusion.mcc()]
        });
        Self { accuracy, macro_f1, mcc }
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
            match auroc(&scores, &positive) {
                None => assert_eq!(pairs, 0.0),
                Some(area) => assert_relative_eq!(area, won / pairs, epsilon = 1e-12),
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
            match average_precision(&scores, &positive) {
                None => assert_eq!(total, 0.0),
                Some(found) => assert_relative_eq!(found, area, epsilon = 1e-12),
            }
        }
    }

    #[test]
    fn intervals_enclose_and_repeat() {
        let predictions: Vec<Vec<f64>> = (0..200).map(|i| vec![f64::from(i % 17), f64::from(i % 5)]).collect();
        let targets: Vec<Vec<f32>> = (0..200).map(|i| vec![(i % 17) as f32 + (i % 3) as f32, (i % 7) as f32]).collect();
        let targets: Vec<&[f32]> = targets.iter().map(Vec::as_slice).collect();
        let scores = RegressionScores::of(&predictions, &targets, 3);
        assert_eq!(scores, RegressionScores::of(&predictions, &targets, 3));
        for Estimate { value, interval: [low, high] } in [scores.mse, scores.pearson, scores.spearman, scores.r2] {
            assert!(low < value && value < high && high - low < 1.5, "{low} {value} {high}");
        }
        // A number that is the same everywhere has no correlation to count.
        let targets: [&[f32]; 2] = [&[1.0, 7.0], &[3.0, 7.0]];
        let [mse, others @ ..] = regression_figures(&[vec![1.0, 4.0], vec![3.0, 4.0]], &targets, &[0, 1]);
        assert_eq!((mse, others), (4.5, [1.0; 3]));
        let same = ClassScores::of(&[0, 1, 2, 2], &[0, 1, 2, 2], 3, 1);
        assert_eq!((same.accuracy.value, same.mcc.value), (1.0, 1.0));
        let flags: Vec<&[f32]> = vec![&[1.0, 0.0], &[0.0, 0.0], &[1.0, 0.0]];
        let sure = vec![vec![0.9, 0.1], vec![0.2, 0.3], vec![0.8, 0.4]];
        let [roc, precision, f1] = multi_label_figures(&sure, &flags, &[0, 1, 2]);
        // The second class has no positive example: it counts in F1 only, as 0.
        assert_eq!((roc, precision, f1), (1.0, 1.0, 0.5));
    }
}
