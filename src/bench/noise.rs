//! How far the median of a few times can be trusted, and whether two of them differ.

use std::f64::consts::LN_2;

use serde::Serialize;

/// The 95 % interval of the median, from sorted samples: two of them, between which it lies with at least that probability whatever
/// the distribution is (the sign test turned round; Conover, Practical Nonparametric Statistics, section 3.2). Fewer than six samples
/// have none.
pub fn median_interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let count = sorted.len();
    // The chance that exactly so many samples lie below the median, as its logarithm; and that at most so many do.
    let (mut chance, mut below, mut outside) = (-(count as f64) * LN_2, 0.0, 0);
    while below + chance.exp() <= 0.025 {
        below += chance.exp();
        chance += ((count - outside) as f64 / (outside + 1) as f64).ln();
        outside += 1;
    }
    (outside > 0).then(|| (sorted[outside - 1], sorted[count - outside]))
}

/// What two intervals say of two medians of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// The intervals overlap: another run of either may turn the order round.
    #[serde(rename = "within noise")]
    WithinNoise,
    /// The later one is shorter.
    #[serde(rename = "faster")]
    Faster,
    /// The later one is longer.
    #[serde(rename = "slower")]
    Slower,
    /// One of them has no interval.
    #[serde(rename = "unknown")]
    Unknown,
}

impl Verdict {
    /// From the intervals of an earlier and a later time.
    pub fn of(then: Option<(f64, f64)>, now: Option<(f64, f64)>) -> Self {
        match (then, now) {
            (Some(then), Some(now)) if now.1 < then.0 => Self::Faster,
            (Some(then), Some(now)) if now.0 > then.1 => Self::Slower,
            (Some(_), Some(_)) => Self::WithinNoise,
            _ => Self::Unknown,
        }
    }

    /// As a report has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WithinNoise => "within noise",
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranks in Conover's table A3 (binomial with one half) for at least 95 %.
    #[test]
    fn ranks_are_those_of_the_binomial_distribution() {
        let interval = |count: usize| {
            let samples: Vec<f64> = (1..=count).map(|rank| rank as f64).collect();
            median_interval(&samples)
        };
        assert_eq!([0, 1, 5].map(interval), [None; 3]);
        for (count, low, high) in
            [(6, 1, 6), (8, 1, 8), (9, 2, 8), (11, 2, 10), (12, 3, 10), (20, 6, 15), (100, 40, 61)]
        {
            assert_eq!(interval(count), Some((f64::from(low), f64::from(high))), "{count}");
        }
        // No number underflows to an interval of all.
        let (low, high) = interval(10_000).unwrap();
        assert!((4_895.0..4_910.0).contains(&low) && low + high == 10_001.0, "{low} {high}");
    }

    #[test]
    fn overlapping_intervals_say_nothing() {
        let of = |then, now| Verdict::of(Some(then), Some(now)).name();
        assert_eq!(of((1.0, 2.0), (2.0, 3.0)), "within noise");
        assert_eq!(of((1.0, 4.0), (2.0, 3.0)), "within noise");
        assert_eq!(of((1.0, 2.0), (2.1, 3.0)), "slower");
        assert_eq!(of((2.1, 3.0), (1.0, 2.0)), "faster");
        assert_eq!(Verdict::of(None, Some((1.0, 2.0))), Verdict::Unknown);
        assert_eq!(serde_json::to_value(Verdict::WithinNoise).unwrap(), "within noise");
    }
}
