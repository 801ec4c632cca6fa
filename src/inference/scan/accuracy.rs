//! How well the calls of a scan agree with an annotation: precision and recall at every threshold, average precision, and
//! the top-k accuracy of SpliceAI.
//!
//! Scores are counted, not kept, so memory does not depend on the genome; since they are rounded before anything is done
//! with them ([`Score`]), the counts lose nothing.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::inference::splice::Score;
use crate::philox::{Philox, Purpose, below};

/// Multiples of k at which SpliceAI's evaluation counts (Jaganathan et al., Cell 2019, and its code).
const MULTIPLES: [f64; 4] = [0.5, 1.0, 2.0, 4.0];

/// How many calls have each score: `[annotated, others]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(BTreeMap<u32, [u64; 2]>);

/// A threshold and what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Calls with this score or a higher one count as predicted.
    pub threshold: f64,
    /// Share of the predicted calls that are annotated.
    pub precision: f64,
    /// Share of the annotated sites that are predicted.
    pub recall: f64,
    /// Predicted calls.
    pub predicted: u64,
}

/// Top-k accuracy for one multiple of the number of sites.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TopK {
    /// How many times the number of annotated sites are predicted: those with the highest scores.
    pub multiple: f64,
    /// Annotated ones among them, over the smaller of their number and the number of annotated sites.
    pub accuracy: f64,
    /// The lowest score among them.
    pub threshold: f64,
}

/// Thresholds that give what one may want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Suggested {
    /// The lowest one at which half of the calls are annotated; none if no threshold gives that, as for the others.
    pub precision_50: Option<Point>,
    /// The lowest one at which four of five calls are annotated.
    pub precision_80: Option<Point>,
    /// The highest one at which nine of ten annotated sites are called.
    pub recall_90: Option<Point>,
}

impl Suggested {
    /// From a curve that falls from the highest threshold.
    fn of(curve: &[Point]) -> Self {
        let precise = |least: f64| curve.iter().rev().find(|point| point.precision >= least).copied();
        Self {
            precision_50: precise(0.5),
            precision_80: precise(0.8),
            recall_90: curve.iter().find(|point| point.recall >= 0.9).copied(),
        }
    }
}

/// What the counts say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Annotated sites, those that were not scored included.
    pub sites: u64,
    /// Annotated sites that were scored.
    pub scored_sites: u64,
    /// Positions that were scored.
    pub scored: u64,
    /// Area under the precision-recall curve as the sum of precision times gain in recall (average precision).
    pub average_precision: f64,
    /// Top-k accuracy for half, one, two and four times the number of sites.
    pub top_k: Vec<TopK>,
    /// Precision at the highest threshold that half of the annotated sites reach; none if as many were not scored.
    pub precision_at_recall_50: Option<f64>,
    /// The same for nine of ten.
    pub precision_at_recall_90: Option<f64>,
    /// The point with the highest F1.
    pub best_f1: Option<Point>,
    /// F1 there.
    pub f1: f64,
    /// Thresholds for other wishes.
    pub suggested: Suggested,
}

impl Counts {
    /// Counts a call.
    pub fn add(&mut self, score: Score, annotated: bool) {
        self.0.entry(score.0).or_default()[usize::from(!annotated)] += 1;
    }

    /// Adds those of other calls.
    pub fn merge(&mut self, others: &Self) {
        for (score, counts) in &others.0 {
            let sum = self.0.entry(*score).or_default();
            *sum = [sum[0] + counts[0], sum[1] + counts[1]];
        }
    }

    /// The curve from the highest threshold down, one point for each score that an annotated site has; `sites` is the
    /// number of annotated sites, scored or not.
    pub fn curve(&self, sites: u64) -> Vec<Point> {
        let (mut annotated, mut predicted) = (0, 0);
        let mut points = Vec::new();
        for (&score, counts) in self.0.iter().rev() {
            annotated += counts[0];
            predicted += counts[0] + counts[1];
            if counts[0] > 0 {
                points.push(Point {
                    threshold: Score(score).value(),
                    precision: annotated as f64 / predicted as f64,
                    recall: annotated as f64 / sites.max(1) as f64,
                    predicted,
                });
            }
        }
        points
    }

    /// Annotated ones among the `count` calls with the highest scores, and the lowest score among them. Of calls with one
    /// score, as many are taken as fit, and the same share of the annotated ones.
    fn top(&self, count: f64) -> (f64, f64) {
        let (mut annotated, mut predicted) = (0.0, 0.0);
        let mut threshold = 1.0;
        for (&score, &[positives, negatives]) in self.0.iter().rev() {
            let tied = (positives + negatives) as f64;
            let share = ((count - predicted) / tied).min(1.0);
            if share <= 0.0 {
                break;
            }
            annotated += share * positives as f64;
            predicted += share * tied;
            threshold = Score(score).value();
        }
        (annotated, threshold)
    }

    /// Average precision where calls of one score are taken to be mixed evenly, as those of a coarse step are.
    fn precision_over_gains(&self, sites: u64) -> f64 {
        let (mut annotated, mut predicted, mut sum) = (0.0, 0.0, 0.0);
        for &[positives, negatives] in self.0.values().rev() {
            let [positives, tied] = [positives, positives + negatives].map(|count| count as f64);
            sum += positives * (annotated + positives / 2.0) / (predicted + tied / 2.0);
            annotated += positives;
            predicted += tied;
        }
        sum / sites.max(1) as f64
    }

    /// Precision where so many annotated sites are predicted, of calls of one score as many as that takes; 0 if there are not as many.
    fn precision_within(&self, wanted: f64) -> f64 {
        let (mut annotated, mut predicted) = (0.0, 0.0);
        for &[positives, negatives] in self.0.values().rev() {
            let [positives, tied] = [positives, positives + negatives].map(|count| count as f64);
            if positives > 0.0 && annotated + positives >= wanted {
                return wanted / (predicted + tied * (wanted - annotated) / positives).max(1.0);
            }
            annotated += positives;
            predicted += tied;
        }
        0.0
    }

    /// All figures; `sites` as in [`Counts::curve`].
    pub fn accuracy(&self, sites: u64) -> Accuracy {
        let curve = self.curve(sites);
        let gains = curve.iter().scan(0.0, |before, point| {
            let gain = point.recall - *before;
            *before = point.recall;
            Some(gain * point.precision)
        });
        let precision_at = |recall: f64| curve.iter().find(|point| point.recall >= recall).map(|point| point.precision);
        let f1 = |point: &Point| 2.0 * point.precision * point.recall / (point.precision + point.recall);
        let best = curve.iter().copied().max_by(|one, other| f1(one).total_cmp(&f1(other)));
        let top_k = |multiple: f64| {
            let count = (multiple * sites as f64).floor();
            let (annotated, threshold) = self.top(count);
            let accuracy = if sites == 0 { 0.0 } else { annotated / count.min(sites as f64).max(1.0) };
            TopK { multiple, accuracy, threshold }
        };
        Accuracy {
            sites,
            scored_sites: self.0.values().map(|counts| counts[0]).sum(),
            scored: self.0.values().map(|counts| counts[0] + counts[1]).sum(),
            average_precision: gains.sum(),
            top_k: MULTIPLES.into_iter().map(top_k).collect(),
            precision_at_recall_50: precision_at(0.5),
            precision_at_recall_90: precision_at(0.9),
            suggested: Suggested::of(&curve),
            best_f1: best,
            f1: best.as_ref().map_or(0.0, f1),
        }
    }
}

/// The same counts of each locus, in coarser steps: what intervals are drawn from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocusCounts(BTreeMap<u32, BTreeMap<u32, [u64; 2]>>);

/// Intervals that hold 95 % of the figures of resampled loci.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Intervals {
    /// Of [`Accuracy::average_precision`].
    pub average_precision: [f64; 2],
    /// Of the top-k accuracy for as many as there are sites.
    pub top_k: [f64; 2],
    /// Of [`Accuracy::precision_at_recall_50`], 0 where it is none.
    pub precision_at_recall_50: [f64; 2],
    /// Of [`Accuracy::precision_at_recall_90`], 0 where it is none.
    pub precision_at_recall_90: [f64; 2],
}

impl LocusCounts {
    /// Doublings of the odds below one to one that are told apart in fine steps, as all above are; farther below, where nearly all calls
    /// are, a doubling is a step.
    const FINE_BELOW: f64 = 6.0;
    const STEPS_PER_DOUBLING: f64 = 8.0;
    /// What is below or above so many doublings is in the last step.
    const DOUBLINGS: f64 = 20.0;
    const RESAMPLES: u32 = 500;

    /// Counts a call.
    pub fn add(&mut self, locus: u32, score: Score, annotated: bool) {
        let odds = score.value() / (1.0 - score.value());
        let above = odds.log2().clamp(-Self::DOUBLINGS, Self::DOUBLINGS) + Self::FINE_BELOW;
        let fine = if above < 0.0 { above } else { above * Self::STEPS_PER_DOUBLING };
        let step = (fine + Self::DOUBLINGS - Self::FINE_BELOW).round() as u32;
        self.0.entry(locus).or_default().entry(step).or_default()[usize::from(!annotated)] += 1;
    }

    /// Adds those of other calls.
    pub fn merge(&mut self, others: &Self) {
        for (locus, steps) in &others.0 {
            let sums = self.0.entry(*locus).or_default();
            for (step, counts) in steps {
                let sum = sums.entry(*step).or_default();
                *sum = [sum[0] + counts[0], sum[1] + counts[1]];
            }
        }
    }

    /// Intervals from resamples of whole loci, with replacement (Efron, 1979): sites and calls of a gene are no independent examples.
    /// `sites` are the numbers of annotated sites of the loci that have any. `None` with fewer than two loci.
    pub fn intervals(&self, sites: &BTreeMap<u32, u64>, seed: u64) -> Option<Intervals> {
        let loci: BTreeSet<u32> = self.0.keys().chain(sites.keys()).copied().collect();
        let loci: Vec<_> = loci.iter().map(|l| (self.0.get(l), sites.get(l).copied().unwrap_or(0))).collect();
        if loci.len() < 2 {
            return None;
        }
        let resample = |step: u32| {
            let philox = Philox::of(seed, step, Purpose::Bootstrap);
            let (mut counts, mut sites) = (Counts::default(), 0);
            for index in 0..loci.len() {
                let [drawn, ..] = philox.block(index as u64);
                let (of_locus, of_sites) = loci[below(drawn, loci.len() as u32) as usize];
                sites += of_sites;
                for (step, [annotated, others]) in of_locus.into_iter().flatten() {
                    let sum = counts.0.entry(*step).or_default();
                    *sum = [sum[0] + annotated, sum[1] + others];
                }
            }
            let [at_50, at_90] = [0.5, 0.9].map(|recall| counts.precision_within(recall * sites as f64));
            [counts.precision_over_gains(sites), counts.top(sites as f64).0 / sites.max(1) as f64, at_50, at_90]
        };
        let figures: Vec<[f64; 4]> = (0..Self::RESAMPLES).into_par_iter().map(resample).collect();
        let [average_precision, top_k, precision_at_recall_50, precision_at_recall_90] = [0, 1, 2, 3].map(|figure| {
            let mut values: Vec<f64> = figures.iter().map(|of| of[figure]).collect();
            values.sort_by(f64::total_cmp);
            [0.025, 0.975].map(|share| values[((values.len() - 1) as f64 * share).round() as usize])
        });
        Some(Intervals { average_precision, top_k, precision_at_recall_50, precision_at_recall_90 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn thresholds_for_what_one_may_want() {
        let mut counts = Counts::default();
        // From the top: 4 of 4, 8 of 10, 9 of 18, 10 of 40.
        for (score, annotated, others) in [(900_000, 4, 0), (700_000, 4, 2), (500_000, 1, 7), (100_000, 1, 21)] {
            (0..annotated).for_each(|_| counts.add(Score(score), true));
            (0..others).for_each(|_| counts.add(Score(score), false));
        }
        let threshold = |point: Option<Point>| point.map(|point| point.threshold);
        let found = counts.accuracy(10).suggested;
        assert_eq!(
            [found.precision_50, found.precision_80, found.recall_90].map(threshold),
            [Some(0.5), Some(0.7), Some(0.5)]
        );
        assert_eq!(threshold(counts.accuracy(20).suggested.recall_90), None, "half of the sites were not scored");
    }

    /// Average precision and top-k from sorted lists, ties in the worst and in the best order.
    fn by_sorting(calls: &[(u32, bool)], unscored: usize, multiple: f64, annotated_first: bool) -> (f64, f64) {
        let mut calls = calls.to_vec();
        calls.sort_by_key(|&(score, annotated)| (std::cmp::Reverse(score), annotated != annotated_first));
        let sites = calls.iter().filter(|call| call.1).count() + unscored;
        let (mut found, mut sum) = (0, 0.0);
        for (index, &(_, annotated)) in calls.iter().enumerate() {
            if annotated {
                found += 1;
                sum += f64::from(found) / (index + 1) as f64;
            }
        }
        let count = (multiple * sites as f64) as usize;
        let top = calls.iter().take(count).filter(|call| call.1).count();
        (sum / sites.max(1) as f64, top as f64 / count.min(sites).max(1) as f64)
    }

    proptest! {
        #[test]
        fn against_sorted_lists(
            calls in prop::collection::vec((0..60_u32, any::<bool>()), 1..80),
            unscored in 0..4_usize,
            distinct in any::<bool>(),
        ) {
            // Without ties both orders agree and the counts must, too; with ties they lie between.
            let calls: Vec<(u32, bool)> = if distinct {
                calls.iter().enumerate().map(|(index, call)| (index as u32 * 7919 % 100_003, call.1)).collect()
            } else {
                calls
            };
            let mut counts = Counts::default();
            calls.iter().for_each(|&(score, annotated)| counts.add(Score(score), annotated));
            let sites = calls.iter().filter(|call| call.1).count() + unscored;
            let accuracy = counts.accuracy(sites as u64);
            for top in &accuracy.top_k {
                let (best_ap, best) = by_sorting(&calls, unscored, top.multiple, true);
                let (worst_ap, worst) = by_sorting(&calls, unscored, top.multiple, false);
                if sites > 0 {
                    prop_assert!(worst - 1e-9 <= top.accuracy && top.accuracy <= best + 1e-9);
                }
                if distinct {
                    prop_assert!((accuracy.average_precision - best_ap).abs() < 1e-9);
                } else {
                    prop_assert!(worst_ap - 1e-9 <= accuracy.average_precision);
                }
            }
        }
    }

    /// Loci of 20 sites and 180 others each, whose scores overlap; what is drawn in a locus depends on its number.
    fn loci(count: u32) -> (LocusCounts, Counts, BTreeMap<u32, u64>) {
        let (mut by_locus, mut all) = (LocusCounts::default(), Counts::default());
        for locus in 0..count {
            for call in 0..200 {
                let annotated = call < 20;
                let drawn = Philox::of(3, locus, Purpose::Splice).uniform(call) + if annotated { 0.4 } else { 0.0 };
                let score = Score::of((drawn + f64::from(locus % 5) * 0.1) / 2.0);
                by_locus.add(locus, score, annotated);
                all.add(score, annotated);
            }
        }
        (by_locus, all, (0..count).map(|locus| (locus, 20)).collect())
    }

    #[test]
    fn intervals_over_loci_hold_the_figure_and_narrow_with_loci() {
        let width = |count: u32| {
            let (by_locus, all, sites) = loci(count);
            let whole = all.accuracy(20 * u64::from(count));
            let found = by_locus.intervals(&sites, 1).unwrap();
            let top = whole.top_k.iter().find(|top| top.multiple == 1.0).unwrap().accuracy;
            let at = whole.precision_at_recall_50.unwrap();
            for (value, [low, high]) in [
                (whole.average_precision, found.average_precision),
                (top, found.top_k),
                (at, found.precision_at_recall_50),
            ] {
                assert!(low <= value && value <= high, "{value} {low} {high}");
            }
            assert_eq!(by_locus.intervals(&sites, 1), Some(found));
            found.average_precision[1] - found.average_precision[0]
        };
        let factor = width(20) / width(320);
        assert!((2.5..6.0).contains(&factor), "four times narrower with 16 times as many: {factor}");
        let (by_locus, _, sites) = loci(1);
        assert_eq!(by_locus.intervals(&sites, 1), None);
        // Sites of a locus without a call are missed: half of all here.
        let (by_locus, _, mut sites) = loci(20);
        let before = by_locus.intervals(&sites, 1).unwrap().average_precision;
        sites.extend((20..40).map(|locus| (locus, 20)));
        let after = by_locus.intervals(&sites, 1).unwrap().average_precision;
        assert!(after[1] < 0.8 * before[1], "{before:?} {after:?}");
    }

    #[test]
    fn ends_of_the_scale_are_counted() {
        let mut counts = LocusCounts::default();
        [0, 1, Score::ONE - 1, Score::ONE].iter().for_each(|&score| counts.add(7, Score(score), score > 1));
        assert_eq!(counts.0[&7].values().flatten().sum::<u64>(), 4);
        // Nearly 2^-20 and 0 are one step at the bottom; from a half on a step is an eighth of a doubling.
        assert_eq!(counts.0[&7].keys().copied().collect::<Vec<_>>(), [0, 14 + 207, 14 + 208]);
        counts.add(7, Score(500_000), true);
        assert!(counts.0[&7].contains_key(&(14 + 8 * 6)));
    }

    #[test]
    fn precision_at_a_recall_is_that_of_the_highest_threshold_that_has_it() {
        let mut counts = Counts::default();
        // From the top: 1 of 1, 2 of 4, 4 of 8.
        for (score, annotated, others) in [(900_000, 1, 0), (700_000, 1, 2), (500_000, 2, 2)] {
            (0..annotated).for_each(|_| counts.add(Score(score), true));
            (0..others).for_each(|_| counts.add(Score(score), false));
        }
        let of = |sites| counts.accuracy(sites);
        assert_eq!((of(4).precision_at_recall_50, of(4).precision_at_recall_90), (Some(0.5), Some(0.5)));
        assert_eq!((of(2).precision_at_recall_50, of(5).precision_at_recall_90), (Some(1.0), None));
    }

    #[test]
    fn ties_are_one_threshold() {
        // Two annotated sites and two others on one score: precision 1/2 at recall 2/3, as scikit-learn has it.
        let mut counts = Counts::default();
        [true, true, false, false].iter().for_each(|&annotated| counts.add(Score(500_000), annotated));
        let accuracy = counts.accuracy(3);
        assert!((accuracy.average_precision - 1.0 / 3.0).abs() < 1e-12);
        assert!((accuracy.top_k[1].accuracy - 0.5).abs() < 1e-12);
        assert_eq!(accuracy.best_f1.unwrap().threshold, 0.5);
    }
}
