//! Where the masked micro-batches of a pretraining step come from: the host, or the device itself.

use super::pretrain::PretrainOptions;
use super::step::Trainer;
use crate::Result;
use crate::device::Device;
use crate::kmer::batch::{Batch, BatchShape};
use crate::kmer::corpus::{Corpus, PretrainingData};
use crate::kmer::hiding::Plan;
use crate::kmer::key::BatchKey;
use crate::kmer::vocabulary::Vocabulary;
use crate::ops::Sampler;

/// The training data of a run. On a device with kernels a genome is uploaded once and its batches are made there; the
/// bits are the same either way.
pub struct Feed<'a> {
    data: &'a PretrainingData,
    vocabulary: &'a Vocabulary,
    options: &'a PretrainOptions,
    sampler: Option<(Sampler, &'a Corpus)>,
}

impl<'a> Feed<'a> {
    /// Prepares `data` for the steps of a training of `trainer`'s model.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if the corpus' sequences are too long for the model; those of the device.
    pub fn new(
        data: &'a PretrainingData,
        vocabulary: &'a Vocabulary,
        options: &'a PretrainOptions,
        trainer: &Trainer,
    ) -> Result<Self> {
        let sampler = match (data, trainer.tape.device()) {
            (PretrainingData::Genome(corpus), device @ Device::Kernels(_)) => {
                trainer.model.check_length(corpus.longest() + 2)?;
                trainer.model.check_vocabulary(corpus.vocabulary().len())?;
                Some((Sampler::new(device, corpus)?, corpus))
            }
            _ => None,
        };
        Ok(Self { data, vocabulary, options, sampler })
    }

    /// Tokens of a micro-batch: those of the step are shared out evenly.
    fn budget(&self) -> usize {
        self.options.tokens_per_step / self.options.micro_batches
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.budget() * self.options.micro_batches
    }

    fn keys(&self, step: u64) -> Vec<BatchKey> {
        let key = |micro_batch| BatchKey::training(self.options.seed, step as u32, micro_batch as u32);
        (0..self.options.micro_batches).map(key).collect()
    }

    /// Makes step `step` (from 0): its batches, and one update. Waits for nothing that a device computes.
    ///
    /// # Errors
    /// Those of [`Trainer::advance`] and of the data.
    pub fn advance(&self, trainer: &mut Trainer, step: u64, learning_rate: f64) -> Result<()> {
        let Some((sampler, corpus)) = &self.sampler else {
            return trainer.advance(&self.host_batches(step)?, learning_rate);
        };
        let drawn: Vec<(BatchKey, Plan, BatchShape)> = self
            .keys(step)
            .into_iter()
            .map(|key| {
                let plan = self.options.masking.plan_of(self.vocabulary.k(), &key, self.options.steps as u32);
                Ok((key, plan, corpus.shape(&key, self.budget(), &plan)?))
            })
            .collect::<Result<_>>()?;
        let rows = drawn.iter().map(|(_, _, shape)| shape.rows).sum();
        trainer.advance_on(drawn.len(), rows, learning_rate, |_, tape, micro_batch| {
            let (key, plan, shape) = &drawn[micro_batch];
            sampler.batch(tape, key, shape, *plan)
        })
    }

    /// The micro-batches of a step, made by the CPU.
    fn host_batches(&self, step: u64) -> Result<Vec<Batch>> {
        let batch = |key: BatchKey| {
            let mut batch = self.data.batch(&key, self.budget())?;
            self.options.masking.apply(&mut batch, self.vocabulary, &key, self.options.steps as u32);
            Ok(batch)
        };
        self.keys(step).into_iter().map(batch).collect()
    }
}
