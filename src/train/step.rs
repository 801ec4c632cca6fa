//! One training step: micro-batches forward and backward, then one update.

use std::rc::Rc;

use crate::autograd::{DeviceBatch, Tape};
use crate::device::{DType, Device, nvtx};
use crate::kmer::batch::Batch;
use crate::model::{Model, Task};
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
    /// The steps, from 1, that a profiler attached from outside collects.
    pub collected: Option<ProfileSteps>,
    /// Losses that nobody has asked for yet, and the micro-batches of each step that they are of.
    losses: Losses,
    unreported: Vec<usize>,
    /// Arithmetic of those steps.
    flops: f64,
}

/// A range of steps, from 1, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileSteps {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl std::str::FromStr for ProfileSteps {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let ends = text.split_once("..").map(|(first, last)| (first.parse(), last.parse()));
        match ends {
            Some((Ok(first), Ok(last))) if (1..=last).contains(&first) => Ok(Self { first, last }),
            _ => Err("give the first and the last step, counted from 1, as in 4..6".into()),
        }
    }
}

impl std::fmt::Display for ProfileSteps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}", self.first, self.last)
    }
}

impl serde::Serialize for ProfileSteps {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a step amounts to.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Loss over all micro-batches.
    pub loss: Loss,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// Arithmetic of the products that the step needs ([`Model::training_flops`]).
    pub flops: f64,
}

impl AsMut<Tape> for Trainer {
    fn as_mut(&mut self) -> &mut Tape {
        &mut self.tape
    }
}

/// What the steps since the last report amount to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The loss of each of them, over all its micro-batches.
    pub losses: Vec<Loss>,
    /// Global gradient norm of the last step, before clipping.
    pub gradient_norm: f64,
    /// Arithmetic of the products that these steps need ([`Model::training_flops`]).
    pub flops: f64,
}

/// Moves the weights to where they are trained.
fn place(model: &mut Model, optimizer: &AdamWConfig, device: &Device, dtype: DType) -> Result<()> {
    model.parameters.move_to(device, dtype)?;
    if optimizer.stochastic_rounding {
        model.parameters.master = None;
    }
    Ok(())
}

impl Trainer {
    /// Starts training `model` on `device`, with weights and activations of type `dtype`.
    ///
    /// # Errors
    /// [`Error::Usage`] for stochastic rounding of weights that are not bf16; those of the device, out of memory among them.
    pub fn new(mut model: Model, optimizer: AdamWConfig, device: &Device, dtype: DType, seed: u64) -> Result<Self> {
        if optimizer.stochastic_rounding && dtype != DType::Bf16 {
            return Err(Error::usage(
                format!("--stochastic-rounding with {} weights on {device}", dtype.name()),
                "it is for bf16 weights on a GPU; leave it out, or choose --device cuda --dtype bf16",
            ));
        }
        place(&mut model, &optimizer, device, dtype)?;
        let mut optimizer = AdamW::new(optimizer, &model.parameters, device)?;
        optimizer.seed = seed;
        let (tape, losses) = (Tape::new(device.clone(), dtype), Losses::new(device)?);
        Ok(Self { model, optimizer, tape, seed, collected: None, losses, unreported: Vec::new(), flops: 0.0 })
    }

    /// Goes on with another model of the same shape: one that was loaded from a checkpoint.
    ///
    /// # Errors
    /// Those of the device.
    pub fn replace_model(&mut self, mut model: Model) -> Result<()> {
        place(&mut model, &self.optimizer.config, self.tape.device(), self.tape.dtype())?;
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
        let Report { losses, gradient_norm, flops } = report;
        Ok(StepReport { loss: losses.last().copied().unwrap_or_default(), gradient_norm, flops })
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
        let _step = self.begin()?;
        for micro_batch in 0..micro_batches {
            self.micro_batch(micro_batch, rows, &mut batch).map_err(|error| self.beside_what_is_held(error))?;
        }
        self.unreported.push(micro_batches);
        self.update(learning_rate)
    }

    /// As [`Trainer::advance`], from one batch whose rows each have a number for every logit: `targets` is `[rows, classes]`,
    /// and `task` says how the logits are compared with it.
    ///
    /// # Errors
    /// As [`Trainer::step`]; [`Error::Usage`] if there are not as many targets as logits.
    pub fn advance_towards(&mut self, batch: &Batch, targets: &[f32], task: Task, learning_rate: f64) -> Result<()> {
        let _step = self.begin()?;
        self.tape.start_training(self.seed, self.optimizer.steps as u32, 0);
        let batch = self.model.upload(&mut self.tape, batch)?;
        self.flops += self.model.training_flops(&batch);
        let logits = self.model.forward(&mut self.tape, &batch)?;
        if targets.len() != logits.rows * logits.columns {
            let found = format!("{} targets for {} x {} logits", targets.len(), logits.rows, logits.columns);
            return Err(Error::usage(found, "give a number for every output of the model"));
        }
        let mut on_device = self.tape.allocate_as(targets.len(), DType::F32)?;
        on_device.write(targets)?;
        let scale = 1.0 / logits.rows.max(1) as f64;
        let (tape, losses) = (&mut self.tape, &mut self.losses);
        match task {
            Task::SingleLabel => ops::cross_entropy_into(tape, &batch, logits, scale, losses)?,
            Task::MultiLabel => ops::binary_cross_entropy_into(tape, logits, &on_device, scale, losses)?,
            Task::Regression => ops::mean_squared_error_into(tape, logits, &on_device, scale, losses)?,
        }
        self.tape.recycle(on_device);
        self.tape.backward(&mut self.model.parameters)?;
        self.tape.recycle_batch(batch);
        self.unreported.push(1);
        self.update(learning_rate)
    }

    /// Tells profilers that a step begins; its range ends with what is returned.
    fn begin(&self) -> Result<nvtx::Range> {
        let number = self.optimizer.steps + 1;
        if self.collected.is_some_and(|steps| steps.first == number) {
            self.tape.device().collect_profile(true)?;
        }
        Ok(nvtx::range(|| format!("step {number}")))
    }

    /// Updates the weights from the gradients that have been added up.
    fn update(&mut self, learning_rate: f64) -> Result<()> {
        if let Some(loss) = self.losses.last_known() {
            check(loss, self.optimizer.steps + 1)?;
        }
        self.optimizer
            .update(&mut self.tape, &mut self.model.parameters, learning_rate)
            .map_err(|error| self.beside_what_is_held(error))?;
        self.tape.device().submit()?;
        if self.collected.is_some_and(|steps| steps.last == self.optimizer.steps) {
            self.tape.device().collect_profile(false)?;
        }
        Ok(())
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
        self.flops += self.model.training_flops(&batch);
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
        Ok(Report { losses, gradient_norm: self.optimizer.norm()?, flops: std::mem::take(&mut self.flops) })
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

/// An error if a training ends with a loss that no model has that has learnt anything, however little: ten times that of
/// `guessing`. Its weights are numbers, but of no use.
pub(super) fn check_end(loss: f64, guessing: f64) -> Result<()> {
    if loss < 10.0 * guessing {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "the loss is {loss:.4} at the end, where guessing has {guessing:.4}: training has diverged, and no model was written but \
         the checkpoints; lower the learning rate, or lengthen the warm-up"
    )))
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
