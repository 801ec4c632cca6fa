//! One training step: micro-batches forward and backward, then one update.

use std::rc::Rc;

use crate::autograd::{DeviceBatch, Tape};
use crate::device::{DType, Device};
use crate::kmer::batch::Batch;
use crate::model::Model;
use crate::ops::{self, Loss, Losses};
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
    /// Losses that nobody has asked for yet, and the micro-batches of each step that they are of.
    losses: Losses,
    unreported: Vec<usize>,
}

/// What a step amounts to.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Loss over all micro-batches.
    pub loss: Loss,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
}

/// What the steps since the last report amount to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The loss of each of them, over all its micro-batches.
    pub losses: Vec<Loss>,
    /// Global gradient norm of the last step, before clipping.
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
        let (tape, losses) = (Tape::new(device.clone(), dtype), Losses::new(device)?);
        Ok(Self { model, optimizer, tape, seed, losses, unreported: Vec::new() })
    }

    /// Goes on with another model of the same shape: one that was loaded from a checkpoint.
    ///
    /// # Errors
    /// Those of the device.
    pub fn replace_model(&mut self, mut model: Model) -> Result<()> {
        model.parameters.move_to(self.tape.device(), self.tape.dtype())?;
        model.recompute = self.model.recompute;
        self.model = model;
        Ok(())
    }

    /// One update from the mean loss over the labelled rows of all `batches`: the same as one large batch would give.
    /// Waits for its figures.
    ///
    /// # Errors
    /// [`Error::Failed`] when the loss is no number; those of [`Model::upload`].
    pub fn step(&mut self, batches: &[Batch], learning_rate: f64) -> Result<StepReport> {
        self.advance(batches, learning_rate)?;
        let report = self.report()?;
        Ok(StepReport { loss: report.losses.last().copied().unwrap_or_default(), gradient_norm: report.gradient_norm })
    }

    /// As [`Trainer::step`], but waits for nothing that a device computes: [`Trainer::report`] does, and tells then if the
    /// training has diverged. Since it did, a device has left the weights as they were.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn advance(&mut self, batches: &[Batch], learning_rate: f64) -> Result<()> {
        let rows = batches.iter().map(|batch| batch.rows.len()).sum();
        self.advance_on(batches.len(), rows, learning_rate, |model, tape, index| model.upload(tape, &batches[index]))
    }

    /// As [`Trainer::advance`], from `micro_batches` batches that `batch` puts on the device when their turn comes. They
    /// have `rows` labelled rows together.
    ///
    /// # Errors
    /// As [`Trainer::step`], and those of `batch`.
    pub fn advance_on(
        &mut self,
        micro_batches: usize,
        rows: usize,
        learning_rate: f64,
        mut batch: impl FnMut(&Model, &mut Tape, usize) -> Result<Rc<DeviceBatch>>,
    ) -> Result<()> {
        for micro_batch in 0..micro_batches {
            self.micro_batch(micro_batch, rows, &mut batch).map_err(|error| self.beside_what_is_held(error))?;
        }
        self.unreported.push(micro_batches);
        if let Some(loss) = self.losses.last_known() {
            check(loss, self.optimizer.steps + 1)?;
        }
        self.optimizer
            .update(&mut self.tape, &mut self.model.parameters, learning_rate)
            .map_err(|error| self.beside_what_is_held(error))
    }

    fn micro_batch(
        &mut self,
        micro_batch: usize,
        rows: usize,
        batch: &mut impl FnMut(&Model, &mut Tape, usize) -> Result<Rc<DeviceBatch>>,
    ) -> Result<()> {
        self.tape.start_training(self.seed, self.optimizer.steps as u32, micro_batch as u32);
        let batch = batch(&self.model, &mut self.tape, micro_batch)?;
        if batch.rows.is_empty() {
            // A small batch may come out without a masked token: then it has neither loss nor gradient.
            self.tape.recycle_batch(batch);
            return self.losses.add_nothing();
        }
        let logits = self.model.forward(&mut self.tape, &batch)?;
        let scale = 1.0 / rows.max(1) as f64;
        ops::cross_entropy_into(&mut self.tape, &batch, logits, scale, &mut self.losses)?;
        self.tape.backward(&mut self.model.parameters)?;
        self.tape.recycle_batch(batch);
        Ok(())
    }

    /// Whether losses are known as soon as they are computed, so that a report waits for nothing.
    pub fn knows_losses(&self) -> bool {
        matches!(self.tape.device(), Device::Cpu)
    }

    /// The figures of the steps since the last report. Waits until they are computed.
    ///
    /// # Errors
    /// [`Error::Failed`] when a loss or the gradient norm is no number; the failure of an earlier launch may show here.
    pub fn report(&mut self) -> Result<Report> {
        let mut micro_batches = self.losses.take()?.into_iter();
        let steps = std::mem::take(&mut self.unreported);
        let first = self.optimizer.steps + 1 - steps.len() as u64;
        let mut losses = Vec::with_capacity(steps.len());
        for (step, parts) in (first..).zip(steps) {
            let mut loss = Loss::default();
            micro_batches.by_ref().take(parts).for_each(|part| loss += part);
            check(loss, step)?;
            losses.push(loss);
        }
        Ok(Report { losses, gradient_norm: self.optimizer.norm()? })
    }

    /// Bytes of what lies on the device: weights, gradients, moments, and activations with the batch.
    pub fn memory(&self) -> Vec<(&'static str, usize)> {
        let [weights, gradients] = self.model.parameters.memory_bytes();
        let (moments, activations) = (self.optimizer.memory_bytes(), self.tape.memory_bytes());
        vec![("weights", weights), ("gradients", gradients), ("moments", moments), ("activations", activations)]
    }

    fn beside_what_is_held(&self, error: Error) -> Error {
        error.beside(|| self.memory())
    }
}

/// An error if the loss of update `step` is not a finite number.
fn check(loss: Loss, step: u64) -> Result<()> {
    if loss.sum.is_finite() {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "the loss is {} in step {step}: training has diverged; lower the learning rate, or lengthen the warm-up",
        loss.sum
    )))
}
