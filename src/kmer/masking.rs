//! Masked-language modelling: the recipes that decide which tokens are hidden. [`super::hiding`] says, draw by draw,
//! how.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::hiding::{CERTAIN, Plan};
use super::key::{BatchKey, Split};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The share of tokens that DNABERT aims to hide.
const DEFAULT_SHARE: f64 = 0.15;

/// Where a masking recipe comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// DNABERT's (Ji et al. 2021 and its `run_pretrain.py`): random centres with their k - 1 neighbours; 80 % become
    /// `[MASK]`, 10 % a random token, 10 % stay.
    #[default]
    Dnabert,
    /// BioNeMo's DNABERT: a fixed number of seeds with their neighbours, all become `[MASK]`. It hides 36 % of the
    /// tokens for k = 3, and may hide `[CLS]` and `[SEP]`.
    Bionemo,
    /// RandomMask (Liang et al., arXiv 2310.07644): spans whose largest width grows over the training.
    RandomMask,
}

/// A masking recipe with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "recipe", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Masking {
    /// [`Recipe::Dnabert`].
    Dnabert {
        /// Probability that a k-mer is a centre; 0.15 / k if not given, which hides 14 % of the tokens
        /// (`1 - (1 - p)^k`). DNABERT's own commands give .025 for k = 6.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mlm_probability: Option<f64>,
    },
    /// [`Recipe::Bionemo`].
    Bionemo {
        /// Seeds per token.
        #[serde(default = "default_share")]
        seed_probability: f64,
    },
    /// [`Recipe::RandomMask`], as we read it: the paper describes a mask boundary that is expanded in steps as the
    /// training goes on. Here the training is cut into `stages` of equal length; in stage s (from 0) every span has a
    /// width drawn uniformly from k ..= k + s * `widen_by`, and the centres are as dense as it takes to hide
    /// `masked_share` of the tokens in each stage. For k = 6 the defaults give the largest widths 6, 8, 10, 12, 14; the
    /// stages, widths and the fixed share are our choice, not figures taken from the paper. The first stage is
    /// DNABERT's recipe.
    RandomMask {
        /// Stages of the training.
        #[serde(default = "default_stages")]
        stages: u32,
        /// Tokens by which each stage widens the largest span.
        #[serde(default = "default_widening")]
        widen_by: u32,
        /// Expected share of hidden tokens, away from the ends of a sequence.
        #[serde(default = "default_share")]
        masked_share: f64,
    },
}

impl Default for Masking {
    fn default() -> Self {
        Self::of(Recipe::default(), None)
    }
}

impl Masking {
    /// `recipe` with its default parameters, or with another density: the centre probability for DNABERT, the seeds
    /// per token for BioNeMo, the masked share for RandomMask.
    pub fn of(recipe: Recipe, density: Option<f64>) -> Self {
        match recipe {
            Recipe::Dnabert => Self::Dnabert { mlm_probability: density },
            Recipe::Bionemo => Self::Bionemo { seed_probability: density.unwrap_or(DEFAULT_SHARE) },
            Recipe::RandomMask => Self::RandomMask {
                stages: default_stages(),
                widen_by: default_widening(),
                masked_share: density.unwrap_or(DEFAULT_SHARE),
            },
        }
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::Usage`] for a probability outside (0, 1), no stages, or spans that would grow beyond 512 tokens.
    pub fn check(&self) -> Result<()> {
        let (name, probability) = match *self {
            Self::Dnabert { mlm_probability } => ("mlm probability", mlm_probability.unwrap_or(DEFAULT_SHARE)),
            Self::Bionemo { seed_probability } => ("seed probability", seed_probability),
            Self::RandomMask { masked_share, .. } => ("masked share", masked_share),
        };
        if !(probability > 0.0 && probability < 1.0) {
            return Err(Error::usage(format!("{name} {probability}"), "choose one between 0 and 1"));
        }
        if let Self::RandomMask { stages, widen_by, .. } = *self {
            let widening = u64::from(stages.saturating_sub(1)) * u64::from(widen_by);
            if stages == 0 || widening > 512 {
                let found = format!("{stages} masking stages that widen spans by {widen_by} tokens each");
                return Err(Error::usage(found, "choose at least one stage, and 512 tokens of widening at most"));
            }
        }
        Ok(())
    }

    /// The integers of `step` (from 0) of `total_steps`, where `k` tokens cover a base. The probabilities become thresholds here, once, on the host.
    pub fn plan(&self, k: usize, step: u32, total_steps: u32) -> Plan {
        let k = k as u32;
        match *self {
            Self::Dnabert { mlm_probability } => Plan::Spans {
                centre_threshold: threshold(mlm_probability.unwrap_or(DEFAULT_SHARE / f64::from(k))),
                narrowest: k,
                widest: k,
            },
            Self::Bionemo { seed_probability } => Plan::Seeds {
                // Rounded up, so that .15 * 20 is 3 seeds and not 2.
                seed_threshold: ((seed_probability * CERTAIN as f64).ceil() as u64).min(CERTAIN),
                reach: (k - 1) / 2,
            },
            Self::RandomMask { stages, widen_by, masked_share } => {
                let last = u64::from(stages.saturating_sub(1));
                let stage = (u64::from(step) * u64::from(stages) / u64::from(total_steps.max(1))).min(last) as u32;
                let widest = k.saturating_add(stage.saturating_mul(widen_by)).min(k + 512);
                Plan::Spans { centre_threshold: threshold_for_share(masked_share, k, widest), narrowest: k, widest }
            }
        }
    }

    /// Hides tokens of `batch`: replaces them and fills `rows` and `labels`. `total_steps` is the length of the
    /// training, for recipes that change over it. Evaluation batches are always masked as in the first step, so that
    /// their losses can be compared.
    pub fn apply(&self, batch: &mut Batch, tokenizer: &dyn Tokenizer, key: &BatchKey, total_steps: u32) {
        self.plan_of(tokenizer.shortest(), key, total_steps).apply(batch, tokenizer, key);
    }

    /// The integers of the batch of `key`, as [`Masking::apply`] uses them.
    pub fn plan_of(&self, k: usize, key: &BatchKey, total_steps: u32) -> Plan {
        let step = match key.split {
            Split::Training => key.step,
            Split::Evaluation => 0,
        };
        self.plan(k, step, total_steps)
    }
}

/// `round(probability * 2^32)`, at most 2^32.
fn threshold(probability: f64) -> u64 {
    ((probability * CERTAIN as f64).round() as u64).min(CERTAIN)
}

/// The largest centre threshold with which at most `share` of the tokens are hidden, far from the ends of a sequence,
/// by spans of widths drawn uniformly from `narrowest..=widest`. A token stays visible if no token around it is a
/// centre of a span that reaches it. Only products are taken, so that every machine finds the same bits.
fn threshold_for_share(share: f64, narrowest: u32, widest: u32) -> u64 {
    let widths = f64::from(widest - narrowest + 1);
    let reaching: Vec<f64> = (-i64::from(widest / 2)..=i64::from(widest))
        .map(|offset| {
            let reaches = |width: &i64| (-(width - 1) / 2..=width / 2).contains(&offset);
            (i64::from(narrowest)..=i64::from(widest)).filter(reaches).count() as f64 / widths
        })
        .collect();
    let hidden = |threshold: u64| {
        let probability = threshold as f64 / CERTAIN as f64;
        1.0 - reaching.iter().map(|reaches| 1.0 - probability * reaches).product::<f64>()
    };
    let (mut low, mut high) = (0, CERTAIN);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if hidden(middle) <= share { low = middle } else { high = middle - 1 }
    }
    low
}

fn default_share() -> f64 {
    DEFAULT_SHARE
}

fn default_stages() -> u32 {
    5
}

fn default_widening() -> u32 {
    2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmer::hiding::tests::batch;
    use crate::kmer::vocabulary::{BaseOrder, CLS, SEP, Vocabulary};

    fn vocabulary(k: usize) -> Vocabulary {
        Vocabulary::new(k, BaseOrder::Atcg).unwrap()
    }

    fn masked_share(masking: Masking, k: usize, step: u32, length: usize) -> f64 {
        let mut batch = batch(200_000 / length, length);
        masking.apply(&mut batch, &vocabulary(k), &BatchKey::training(3, step, 0), 100);
        batch.rows.len() as f64 / batch.total_tokens() as f64
    }

    #[test]
    fn each_recipe_hides_its_share() {
        for k in 3..=6 {
            let p = 0.15 / k as f64;
            let share = masked_share(Masking::default(), k, 0, 2_000);
            let expected = 1.0 - (1.0 - p).powi(k as i32);
            assert!((share - expected).abs() < 0.005, "k={k}: {share} {expected}");
        }
        let share = masked_share(Masking::of(Recipe::Bionemo, None), 3, 0, 2_000);
        assert!((share - (1.0 - (-0.45f64).exp())).abs() < 0.005, "{share}");
        for step in [0, 20, 40, 60, 80] {
            let share = masked_share(Masking::of(Recipe::RandomMask, None), 6, step, 2_000);
            assert!((share - 0.15).abs() < 0.008, "step {step}: {share}");
        }
    }

    #[test]
    fn random_mask_widens_in_stages_and_starts_as_dnabert() {
        let masking = Masking::of(Recipe::RandomMask, None);
        let widest = |step| match masking.plan(6, step, 100) {
            Plan::Spans { widest, .. } => widest,
            Plan::Seeds { .. } => 0,
        };
        assert_eq!([0, 19, 20, 40, 60, 80, 99, 100, 1000].map(widest), [6, 6, 8, 10, 12, 14, 14, 14, 14]);
        let Plan::Spans { centre_threshold, .. } = masking.plan(6, 0, 100) else { panic!() };
        let p = centre_threshold as f64 / CERTAIN as f64;
        assert!((1.0 - (1.0 - p).powi(6) - 0.15).abs() < 1e-8);
    }

    #[test]
    fn bionemo_seeds_count_as_in_python() {
        let Plan::Seeds { seed_threshold, reach } = Masking::of(Recipe::Bionemo, None).plan(6, 0, 1) else { panic!() };
        assert_eq!(reach, 2);
        for length in 0..4096u64 {
            assert_eq!((length * seed_threshold) >> 32, length * 15 / 100);
        }
    }

    #[test]
    fn evaluation_stays_in_the_first_stage() {
        let vocabulary = vocabulary(6);
        let masking = Masking::of(Recipe::RandomMask, None);
        let rows_of = |plan_step: u32| {
            let mut batch = batch(10, 500);
            masking.plan(6, plan_step, 100).apply(&mut batch, &vocabulary, &BatchKey::evaluation(3, 99));
            batch.rows
        };
        let mut evaluated = batch(10, 500);
        masking.apply(&mut evaluated, &vocabulary, &BatchKey::evaluation(3, 99), 100);
        assert_eq!(evaluated.rows, rows_of(0));
        assert_ne!(evaluated.rows, rows_of(99));
    }

    #[test]
    fn nothing_to_hide_is_no_panic() {
        for recipe in [Recipe::Dnabert, Recipe::Bionemo, Recipe::RandomMask] {
            let mut batch = Batch::new();
            Masking::of(recipe, Some(f64::NAN)).apply(&mut batch, &vocabulary(3), &BatchKey::training(1, 0, 0), 0);
            batch.push(&[]);
            batch.push(&[CLS]);
            batch.push(&[CLS, SEP]);
            Masking::of(recipe, Some(7.0)).apply(&mut batch, &vocabulary(3), &BatchKey::training(1, 0, 0), 0);
        }
    }

    #[test]
    fn parameters_are_checked() {
        for recipe in [Recipe::Dnabert, Recipe::Bionemo, Recipe::RandomMask] {
            assert!(Masking::of(recipe, None).check().is_ok());
            for density in [0.0, 1.0, -1.0, f64::NAN, f64::INFINITY] {
                assert!(Masking::of(recipe, Some(density)).check().is_err(), "{recipe:?} {density}");
            }
        }
        assert!(Masking::RandomMask { stages: 0, widen_by: 2, masked_share: 0.15 }.check().is_err());
        assert!(Masking::RandomMask { stages: u32::MAX, widen_by: u32::MAX, masked_share: 0.15 }.check().is_err());
    }

    #[test]
    fn configurations_have_kebab_case_names() {
        let parse = |text: &str| toml::from_str::<Masking>(text);
        assert_eq!(parse("recipe = \"dnabert\"").unwrap(), Masking::default());
        assert_eq!(parse("recipe = \"bionemo\"").unwrap(), Masking::of(Recipe::Bionemo, None));
        let random = parse("recipe = \"random-mask\"\nwiden-by = 4").unwrap();
        assert_eq!(random, Masking::RandomMask { stages: 5, widen_by: 4, masked_share: 0.15 });
        assert_eq!(parse(&toml::to_string(&random).unwrap()).unwrap(), random);
        assert!(parse("recipe = \"dnabert\"\nmlm-probabilty = 0.1").is_err());
    }
}
