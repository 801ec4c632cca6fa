//! The learning rate of a step.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// On a straight line to the minimum at the last step (DNABERT).
    Linear,
    /// On half a cosine to the minimum at the last step (BioNeMo).
    Cosine,
    /// Not at all.
    Constant,
}

/// A linear warm-up followed by a decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest rate, reached at the end of the warm-up.
    pub peak: f64,
    /// The rate at the end.
    pub minimum: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Steps of decay, between the warm-up and the final constant part.
    pub decay_steps: u64,
    /// The shape of the decay.
    pub decay: Decay,
}

impl Schedule {
    /// The rate of step `step`, counted from 0. The first step already learns: it has the rate `peak / warmup`.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let progress = ((step - self.warmup) as f64 / self.decay_steps.max(1) as f64).min(1.0);
        let left = match self.decay {
            Decay::Linear => 1.0 - progress,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Decay::Constant => 1.0,
        };
        self.minimum + (self.peak - self.minimum) * left
    }
}

/// How many updates the learning rate rises in: so many, or a share of all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Warmup {
    /// A number of updates, written without a point.
    Steps(u64),
    /// A share of all, from 0 to 1, written with a point.
    Share(f64),
}

impl Warmup {
    /// The updates of a training of `total`. The log says so if they are more than all.
    pub fn steps(self, total: u64) -> u64 {
        let steps = match self {
            Self::Steps(steps) => steps,
            Self::Share(share) => (total as f64 * share).round() as u64,
        };
        if steps > total {
            tracing::warn!("{steps} updates of warm-up, but {total} in all: the learning rate never gets to its peak");
        }
        steps
    }
}

impl std::str::FromStr for Warmup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse::<u64>(), text.parse::<f64>()) {
            (Ok(steps), _) => Ok(Self::Steps(steps)),
            (_, Ok(share)) if (0.0..=1.0).contains(&share) => Ok(Self::Share(share)),
            _ => Err("give a number of updates as in 100, or a share of all from 0.0 to 1.0".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn warms_up_then_decays_to_the_minimum() {
        let mut schedule = Schedule { peak: 1.0, minimum: 0.1, warmup: 10, decay_steps: 100, decay: Decay::Linear };
        assert_abs_diff_eq!(schedule.at(0), 0.1, epsilon = 1e-12);
        assert_abs_diff_eq!(schedule.at(9), 1.0, epsilon = 1e-12);
        assert_abs_diff_eq!(schedule.at(10), 1.0, epsilon = 1e-12);
        assert_abs_diff_eq!(schedule.at(60), 0.55, epsilon = 1e-12);
        assert_abs_diff_eq!(schedule.at(110), 0.1, epsilon = 1e-12);
        assert_abs_diff_eq!(schedule.at(10_000), 0.1, epsilon = 1e-12);
        schedule.decay = Decay::Cosine;
        assert_abs_diff_eq!(schedule.at(60), 0.55, epsilon = 1e-12);
        assert!(schedule.at(30) > 0.9);
        schedule.decay = Decay::Constant;
        assert_eq!(schedule.at(1000), 1.0);
    }

    #[test]
    fn a_warm_up_is_a_number_or_a_share() {
        let steps = |text: &str| text.parse::<Warmup>().map(|warmup| warmup.steps(200));
        assert_eq!(
            [steps("7"), steps("0.1"), steps("1.0"), steps("1"), steps("0")],
            [Ok(7), Ok(20), Ok(200), Ok(1), Ok(0)]
        );
        assert!(steps("1.5").is_err() && steps("-1").is_err() && steps("x").is_err());
    }
}
