//! How far a classifier's probabilities can be believed, and one number that mends most of it: a temperature by which all logits are
//! divided (Guo et al., "On calibration of modern neural networks", ICML 2017). The likeliest class stays the likeliest.

use serde::Serialize;

use super::apply::largest;

/// Bins of the reliability curve, equal in width (Guo et al. have as many).
const BINS: usize = 15;
/// Temperatures that are tried lie between one over this and this.
const WIDEST: f64 = 10.0;

/// The windows whose likeliest class has a probability in one range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bin {
    /// From which probability to which, the end not included but in the last one.
    pub range: [f64; 2],
    /// How many.
    pub windows: u64,
    /// Mean probability of the likeliest class.
    pub confidence: f64,
    /// Share of them that are of this class.
    pub accuracy: f64,
}

/// How often the likeliest class is right, beside the probability that it has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reliability {
    /// Expected calibration error: the mean distance between probability and share, over bins, by their windows.
    pub ece: f64,
    /// Mean of minus the logarithm of the true class' probability, in nats.
    pub nll: f64,
    /// The curve: ranges of equal width from 0 to 1, those without windows left out.
    pub bins: Vec<Bin>,
}

impl Reliability {
    /// Compares probabilities, `[windows][classes]`, with the windows' classes.
    pub fn of(probabilities: &[Vec<f64>], labels: &[u8]) -> Self {
        let end = |bin: usize| bin as f64 / BINS as f64;
        let mut bins: [Bin; BINS] =
            std::array::from_fn(|bin| Bin { range: [end(bin), end(bin + 1)], ..Bin::default() });
        let mut nll = 0.0;
        for (row, &label) in probabilities.iter().zip(labels) {
            let class = largest(row);
            let bin = &mut bins[((row[class] * BINS as f64) as usize).min(BINS - 1)];
            bin.windows += 1;
            bin.confidence += row[class];
            bin.accuracy += f64::from(u8::from(class == usize::from(label)));
            nll -= logarithm(row[usize::from(label)]);
        }
        let count = labels.len().max(1) as f64;
        // The bins hold sums until here.
        let ece = bins.iter().map(|bin| (bin.confidence - bin.accuracy).abs()).sum::<f64>() / count;
        let filled = bins.into_iter().filter(|bin| bin.windows > 0).map(|bin| {
            let windows = bin.windows as f64;
            Bin { confidence: bin.confidence / windows, accuracy: bin.accuracy / windows, ..bin }
        });
        Self { ece, nll: nll / count, bins: filled.collect() }
    }
}

/// A classifier's temperature, and what it does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// By which logits are divided: over 1 for a model that was too sure.
    pub temperature: f64,
    /// Windows that it was fitted to.
    pub windows: u64,
    /// The model as it was trained, on these windows.
    pub before: Reliability,
    /// The same with the temperature.
    pub after: Reliability,
}

impl Calibration {
    /// The temperature under which windows' classes are likeliest, given a model's probabilities. Each counts as certain only as far as
    /// the number of its class allows (Platt, 1999), so that a model which is right everywhere is not made infinitely sure.
    pub fn of(probabilities: &[Vec<f64>], labels: &[u8]) -> Self {
        let logits: Vec<Vec<f64>> =
            probabilities.iter().map(|row| row.iter().map(|&probability| logarithm(probability)).collect()).collect();
        let classes = probabilities.first().map_or(0, Vec::len);
        let mut counts = vec![0.0; classes];
        labels.iter().for_each(|&label| counts[usize::from(label)] += 1.0);
        let loss = |temperature: f64| -> f64 {
            logits
                .iter()
                .zip(labels)
                .map(|(row, &label)| {
                    let row = tempered(row, temperature);
                    let certain = (counts[usize::from(label)] + 1.0) / (counts[usize::from(label)] + 2.0);
                    let other = (1.0 - certain) / (classes as f64 - 1.0).max(1.0);
                    let weight = |class: usize| if class == usize::from(label) { certain } else { other };
                    row.iter()
                        .enumerate()
                        .map(|(class, &probability)| -weight(class) * logarithm(probability))
                        .sum::<f64>()
                })
                .sum()
        };
        let temperature = minimum(&|logarithm: f64| loss(logarithm.exp()), WIDEST.ln()).exp();
        let after: Vec<Vec<f64>> = logits.iter().map(|row| tempered(row, temperature)).collect();
        Self {
            temperature,
            windows: labels.len() as u64,
            before: Reliability::of(probabilities, labels),
            after: Reliability::of(&after, labels),
        }
    }
}

/// Of 0, that of the least number there is.
fn logarithm(probability: f64) -> f64 {
    probability.max(f64::MIN_POSITIVE).ln()
}

/// The softmax of logits over a temperature.
fn tempered(logits: &[f64], temperature: f64) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - largest) / temperature).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Where a function with one minimum between `-bound` and `bound` has it, by golden sections.
fn minimum(function: &dyn Fn(f64) -> f64, bound: f64) -> f64 {
    let golden = (5.0f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-bound, bound);
    let [mut left, mut right] = [high - golden * (high - low), low + golden * (high - low)];
    let [mut at_left, mut at_right] = [function(left), function(right)];
    for _ in 0..60 {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - golden * (high - low);
            at_left = function(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + golden * (high - low);
            at_right = function(right);
        }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{Philox, Purpose};

    /// Windows whose classes are drawn with the probabilities that `truth` gives, told by a model whose logits are `sureness` times as
    /// large as they should be.
    fn drawn(sureness: f64) -> (Vec<Vec<f64>>, Vec<u8>) {
        let philox = Philox::of(5, 0, Purpose::Bootstrap);
        let share = |index: u64, word: usize| f64::from(philox.block(index)[word]) / f64::from(u32::MAX);
        (0..8000_u64)
            .map(|index| {
                let logits = [4.0 * share(index, 0) - 2.0, 4.0 * share(index, 1) - 2.0, 0.0];
                let truth = tempered(&logits, 1.0);
                let at = share(index, 2);
                let label = if at < truth[0] {
                    0
                } else {
                    u8::from(at < truth[0] + truth[1]) + u8::from(at >= truth[0] + truth[1]) * 2
                };
                (tempered(&logits.map(|logit| sureness * logit), 1.0), label)
            })
            .unzip()
    }

    #[test]
    fn a_model_that_is_too_sure_gets_the_temperature_that_it_needs() {
        for sureness in [0.5, 1.0, 3.0] {
            let (probabilities, labels) = drawn(sureness);
            let found = Calibration::of(&probabilities, &labels);
            assert!((found.temperature / sureness - 1.0).abs() < 0.06, "{sureness}: {}", found.temperature);
            assert!(found.after.ece < 0.02 && found.after.nll <= found.before.nll + 1e-9, "{found:?}");
            if sureness == 3.0 {
                assert!(found.before.ece > 0.1, "{}", found.before.ece);
            }
        }
    }

    #[test]
    fn the_error_by_hand() {
        let rows = [vec![0.9, 0.1], vec![0.9, 0.1], vec![0.4, 0.6], vec![0.4, 0.6]];
        let found = Reliability::of(&rows, &[0, 1, 1, 1]);
        // Two of .9, of which half are right, and two of .6, both right.
        assert!((found.ece - (2.0 * 0.4 + 2.0 * 0.4) / 4.0).abs() < 1e-12, "{}", found.ece);
        assert_eq!(found.bins.iter().map(|bin| (bin.windows, bin.accuracy)).collect::<Vec<_>>(), [(2, 1.0), (2, 0.5)]);
        let ranges: Vec<[f64; 2]> = found.bins.iter().map(|bin| bin.range).collect();
        assert_eq!(ranges, [[9.0 / 15.0, 10.0 / 15.0], [13.0 / 15.0, 14.0 / 15.0]]);
        let nll = -(0.9f64.ln() + 0.1f64.ln() + 2.0 * 0.6f64.ln()) / 4.0;
        assert!((found.nll - nll).abs() < 1e-12);
    }

    #[test]
    fn a_model_that_is_right_everywhere_stays_finite() {
        let rows: Vec<Vec<f64>> =
            (0..40).map(|index| if index % 2 == 0 { vec![0.8, 0.2] } else { vec![0.2, 0.8] }).collect();
        let labels: Vec<u8> = (0..40).map(|index| index % 2).collect();
        let found = Calibration::of(&rows, &labels);
        // Surer, but no surer than 21 of 22.
        let sure = tempered(&[0.8f64.ln(), 0.2f64.ln()], found.temperature)[0];
        assert!((sure - 21.0 / 22.0).abs() < 1e-6, "{sure}");
    }
}
