//! One training step: micro-batches forward and backward, then one update.

use std::rc::Rc;

use crate::autograd::{DeviceBatch, Tape};
use crate::device::{DType, Device};
use crate::kmer::batch::Batch;
use crate::model::Model;
use crate::ops::{self, Loss};
use crate::optim::{AdamW, AdamWConfig};
use crate::{Error, Result};

/// A model in training: with its optimizer, its tape and the seed of its dropout.
pub struct Trainer {
    /// The model.
    pub model: Model,
    /// Its optimizer.
    pub optimizer: AdamW,
    /// Its tape.
    pub tape: Tape,
    /// Seed of dropout.
    pub seed: u64,
}

/// What a step amounts to.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Loss over all micro-batches.
    pub loss: Loss,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
}

impl Trainer {
    /// Starts training `model` on `device`, with weights and activations of type `dtype`.
    ///
    /// # Errors
    /// Those of the device, out of memory among them.
    pub fn new(mut model: Model, optimizer: AdamWConfig, device: &Device, dtype: DType, seed: u64) -> Result<Self> {
        model.parameters.move_to(device, dtype)?;
        let optimizer = AdamW::new(optimizer, &model.parameters, device)?;
        Ok(Self { model, optimizer, tape: Tape::new(device.clone(), dtype), seed })
    }

    /// Goes on with another model of the same shape: one that was loaded from a checkpoint.
    ///
    /// # Errors
    /// Those of the device.
    pub fn replace_model(&mut self, mut model: Model) -> Result<()> {
        model.parameters.move_to(self.tape.device(), self.tape.dtype())?;
        self.model = model;
        Ok(())
    }

    /// One update from the mean loss over the labelled rows of all `batches`: the same as one large batch would give.
    ///
    /// # Errors
    /// [`Error::Failed`] when the loss is no number; those of [`Model::upload`].
    pub fn step(&mut self, batches: &[Batch], learning_rate: f64) -> Result<StepReport> {
        let rows = batches.iter().map(|batch| batch.rows.len()).sum();
        self.step_on(batches.len(), rows, learning_rate, |model, tape, index| model.upload(tape, &batches[index]))
    }

    /// As [`Trainer::step`], from `micro_batches` batches that `batch` puts on the device when their turn comes. They have
    /// `rows` labelled rows together.
    ///
    /// # Errors
    /// As [`Trainer::step`], and those of `batch`.
    pub fn step_on(
        &mut self,
        micro_batches: usize,
        rows: usize,
        learning_rate: f64,
        mut batch: impl FnMut(&Model, &mut Tape, usize) -> Result<Rc<DeviceBatch>>,
    ) -> Result<StepReport> {
        let mut loss = Loss::default();
        for micro_batch in 0..micro_batches {
            self.tape.start_training(self.seed, self.optimizer.steps as u32, micro_batch as u32);
            let batch = batch(&self.model, &mut self.tape, micro_batch)?;
            let logits = self.model.forward(&mut self.tape, &batch)?;
            loss += ops::cross_entropy(&mut self.tape, &batch, logits, 1.0 / rows.max(1) as f64)?;
            self.tape.backward(&mut self.model.parameters)?;
            self.tape.recycle_batch(batch);
        }
        if !loss.sum.is_finite() {
            let step = self.optimizer.steps + 1;
            return Err(Error::Failed(format!(
                "the loss is {} in step {step}: training has diverged; lower the learning rate, or lengthen the warm-up",
                loss.sum
            )));
        }
        let gradient_norm = self.optimizer.update(&mut self.tape, &mut self.model.parameters, learning_rate)?;
        Ok(StepReport { loss, gradient_norm })
    }
}
