//! What is measured: a model and a batch of random tokens, which no step's time depends on.

use serde::{Deserialize, Serialize};

use crate::device::{DType, Device};
use crate::kmer::batch::Batch;
use crate::kmer::corpus::SHORTEST_SEQUENCE;
use crate::model::{Config, Head, Model, Recompute, Trained};
use crate::optim::AdamWConfig;
use crate::philox::{Philox, Purpose, below};
use crate::train::step::{ProfileSteps, Trainer};
use crate::{Error, Result};

/// The lengths of the sequences in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mix {
    /// All of full length.
    Full,
    /// DNABERT's pretraining: half of full length, half uniform from 5 k-mers up.
    Dnabert,
}

/// A training step to measure.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The model.
    pub config: Config,
    /// Its head.
    pub head: Head,
    /// Sequences of full length that a step has the tokens of.
    pub batch: usize,
    /// Tokens of a sequence of full length.
    pub length: usize,
    /// The lengths of the sequences.
    pub mix: Mix,
    /// Share of tokens that are masked (masked-LM head).
    pub masked: f64,
    /// What of the activations is computed again on the way back.
    pub recompute: Recompute,
    /// Steps that are measured; some that are not come first.
    pub steps: usize,
    /// The steps, from 1 and with the unmeasured ones, that a profiler attached from outside collects.
    pub collected: Option<ProfileSteps>,
}

impl Workload {
    /// Steps before the measured ones: they fill the tape's pool and wake the machine.
    pub const WARM_UP: usize = 2;
    const MOST_STEPS: usize = 1_000_000;

    /// A model in training on `device`.
    ///
    /// # Errors
    /// [`Error::Usage`] for numbers that make no step; those of the device.
    pub fn trainer(&self, device: &Device, dtype: DType, seed: u64) -> Result<Trainer> {
        if !(1..=1 << 20).contains(&self.length)
            || !(1..=1 << 16).contains(&self.batch)
            || self.batch * self.length >= 1 << 31
            || !(1..=Self::MOST_STEPS).contains(&self.steps)
            || !(0.0..=1.0).contains(&self.masked)
            || (self.mix == Mix::Dnabert && self.length < SHORTEST_SEQUENCE + 2)
        {
            return Err(Error::usage(
                format!(
                    "--batch {} --length {} --steps {} --masked {}",
                    self.batch, self.length, self.steps, self.masked
                ),
                "give 1 to 1,000,000 steps of at least one sequence of at least one token (7 with --mix dnabert), fewer than 2^31 \
                 tokens a step, and a share from 0 to 1",
            ));
        }
        self.config.check_training(device, self.batch * self.length, 0, self.recompute, &Trained::Everything)?;
        let mut model = Model::initialise(self.config.clone(), self.head.clone(), DType::F32, seed)?;
        model.recompute = self.recompute;
        let mut trainer = Trainer::new(model, AdamWConfig::default(), device, dtype, seed)?;
        trainer.collected = self.collected;
        Ok(trainer)
    }

    /// Sequences of random k-mers; every head reads the rows that it would read in earnest.
    pub fn batch(&self, seed: u64) -> Batch {
        let draws = Philox::of(seed, 0, Purpose::Corpus);
        let mut batch = Batch::new();
        for length in self.lengths(&draws) {
            let start = batch.total_tokens();
            let token = |position: usize| {
                let [word, ..] = draws.block((start + position) as u64);
                5 + below(word, self.config.vocab_size as u32 - 5) as i32
            };
            let tokens: Vec<i32> = (0..length).map(token).collect();
            batch.push(&tokens);
        }
        let threshold = (self.masked * f64::from(u32::MAX)) as u32;
        let masked = |row: &usize| draws.block(*row as u64)[1] < threshold;
        let starts = &batch.cu_seqlens[..batch.sequences()];
        batch.rows = match self.head {
            Head::MaskedLm => (0..batch.total_tokens()).filter(masked).map(|row| row as i32).collect(),
            Head::Cls { .. } | Head::Encoder { .. } => starts.to_vec(),
            Head::Site { .. } => batch.cu_seqlens.windows(2).map(|pair| pair[0] + (pair[1] - pair[0]) / 2).collect(),
        };
        let classes = self.head.classes(&self.config) as i32;
        batch.labels = batch.rows.iter().map(|&row| batch.tokens[row as usize] % classes).collect();
        batch
    }

    /// Lengths in tokens; with any mix a step has `batch * length` tokens.
    fn lengths(&self, draws: &Philox) -> Vec<usize> {
        if self.mix == Mix::Full {
            return vec![self.length; self.batch];
        }
        let shortest = SHORTEST_SEQUENCE + 2;
        let mut rest = self.batch * self.length;
        let mut lengths = Vec::new();
        while rest > 0 {
            let [.., kind, length] = draws.block(lengths.len() as u64);
            let drawn = match kind {
                0..0x8000_0000 => self.length,
                _ => shortest + below(length, (self.length - shortest + 1) as u32) as usize,
            };
            lengths.push(drawn.min(rest));
            rest -= lengths[lengths.len() - 1];
        }
        lengths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset;

    fn workload(mix: Mix, head: Head) -> Workload {
        let config = preset("splice-small").unwrap().config(512);
        let recompute = Recompute::None;
        Workload { config, head, batch: 64, length: 512, mix, masked: 0.15, recompute, steps: 1, collected: None }
    }

    #[test]
    fn every_mix_has_its_tokens_and_lengths() {
        for mix in [Mix::Full, Mix::Dnabert] {
            let batch = workload(mix, Head::MaskedLm).batch(7);
            assert_eq!(batch.total_tokens(), 64 * 512);
            let share = batch.rows.len() as f64 / batch.total_tokens() as f64;
            assert!((share - 0.15).abs() < 0.01, "{share}");
            let lengths: Vec<i32> = batch.cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let full = lengths.iter().filter(|&&length| length == 512).count();
            match mix {
                Mix::Full => assert_eq!(full, 64),
                Mix::Dnabert => {
                    // 64 sequences' tokens make some 85 sequences of 385 tokens in the mean, half of them full.
                    assert!((75..100).contains(&lengths.len()), "{}", lengths.len());
                    assert!((0.35..0.65).contains(&(full as f64 / lengths.len() as f64)), "{full}");
                }
            }
        }
    }

    #[test]
    fn heads_read_rows_of_their_sequences() {
        let batch = workload(Mix::Dnabert, Head::Site { labels: 3, hidden: None }).batch(1);
        assert_eq!(batch.rows.len(), batch.sequences());
        for (row, pair) in batch.rows.iter().zip(batch.cu_seqlens.windows(2)) {
            assert!((pair[0]..pair[1]).contains(row));
        }
        assert!(batch.labels.iter().all(|label| (0..3).contains(label)));
    }

    #[test]
    fn impossible_steps_are_refused() {
        let good = workload(Mix::Full, Head::MaskedLm);
        for bad in [
            Workload { batch: 0, ..good.clone() },
            Workload { length: 0, ..good.clone() },
            Workload { length: 6, mix: Mix::Dnabert, ..good.clone() },
            Workload { batch: 1 << 16, length: 1 << 20, ..good.clone() },
            Workload { masked: f64::NAN, ..good.clone() },
            Workload { steps: 0, ..good.clone() },
            Workload { steps: usize::MAX, ..good.clone() },
            Workload { batch: 1 << 16, length: 1 << 14, ..good.clone() },
        ] {
            assert!(bad.trainer(&Device::Cpu, DType::F32, 1).is_err(), "{bad:?}");
        }
    }
}
