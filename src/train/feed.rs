//! Where the masked batches of a pretraining come from, to train on and to evaluate: the host, or the device itself.

use std::rc::Rc;

use super::pretrain::PretrainOptions;
use super::step::Trainer;
use crate::Result;
use crate::autograd::{DeviceBatch, Tape};
use crate::device::Device;
use crate::kmer::batch::{Batch, BatchShape};
use crate::kmer::corpus::{Corpus, PretrainingData};
use crate::kmer::hiding::Plan;
use crate::kmer::key::BatchKey;
use crate::model::Model;
use crate::ops::Sampler;
use crate::tokenizer::Tokenizer;

/// The training data of a run, or those that it is evaluated on. On a device with kernels a genome is uploaded once and its
/// batches are made there; the bits are the same either way.
pub struct Feed<'a> {
    data: &'a PretrainingData,
    vocabulary: &'a dyn Tokenizer,
    options: &'a PretrainOptions,
    sampler: Option<(Sampler, &'a Corpus)>,
}

/// A batch that has been drawn, and is yet to be put on the device: whole, or its shape alone where the device makes it.
pub enum Drawn<'a> {
    /// All of it.
    Whole(Batch),
    /// What the device needs to make it.
    Shape(&'a Sampler, BatchKey, Plan, BatchShape),
}

impl Drawn<'_> {
    /// Its labelled rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Whole(batch) => batch.rows.len(),
            Self::Shape(.., shape) => shape.rows,
        }
    }

    /// Puts it on the device, into memory of the tape's pool.
    ///
    /// # Errors
    /// Those of [`Model::upload`].
    pub fn place(&self, model: &Model, tape: &mut Tape) -> Result<Rc<DeviceBatch>> {
        match self {
            Self::Whole(batch) => model.upload(tape, batch),
            Self::Shape(sampler, key, plan, shape) => sampler.batch(tape, key, shape, *plan),
        }
    }
}

impl<'a> Feed<'a> {
    /// Prepares `data` for a training of `trainer`'s model.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if the corpus' sequences are too long for the model; those of the device.
    pub fn new(
        data: &'a PretrainingData,
        vocabulary: &'a dyn Tokenizer,
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
    pub fn budget(&self) -> usize {
        self.options.tokens_per_step / self.options.micro_batches
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.budget() * self.options.micro_batches
    }

    /// Draws the batch of `key`.
    ///
    /// # Errors
    /// Those of the data.
    pub fn draw(&self, key: BatchKey) -> Result<Drawn<'_>> {
        let (masking, steps) = (&self.options.masking, self.options.steps as u32);
        if let Some((sampler, corpus)) = &self.sampler {
            let plan = masking.plan_of(corpus.vocabulary().k(), &key, steps);
            return Ok(Drawn::Shape(sampler, key, plan, corpus.shape(&key, self.budget(), &plan)?));
        }
        let mut batch = self.data.batch(&key, self.budget())?;
        masking.apply(&mut batch, self.vocabulary, &key, steps);
        Ok(Drawn::Whole(batch))
    }

    /// Makes step `step` (from 0): its batches, and one update. Waits for nothing that a device computes. `part` hears how many of this
    /// rank's micro-batches are done, where they are computed as they come.
    ///
    /// # Errors
    /// Those of [`Trainer::advance`] and of the data.
    pub fn advance(
        &self,
        trainer: &mut Trainer,
        step: u64,
        learning_rate: f64,
        part: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let key = |micro_batch| BatchKey::training(self.options.seed, step as u32, micro_batch as u32);
        let ranks = &trainer.ranks;
        let share = ranks.share(self.options.micro_batches);
        let drawn: Vec<Drawn> = share.clone().map(|micro_batch| self.draw(key(micro_batch))).collect::<Result<_>>()?;
        let rows: usize = drawn.iter().map(Drawn::rows).sum();
        let rows = ranks.gather_values("rows", rows)?.into_iter().sum();
        trainer.advance_on(self.options.micro_batches, rows, learning_rate, |model, tape, micro_batch| {
            let number = micro_batch - share.start;
            part(number)?;
            drawn[number].place(model, tape)
        })
    }
}
