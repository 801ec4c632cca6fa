//! One training step: micro-batches forward and backward, then one update.

use std::rc::Rc;

use crate::autograd::{DeviceBatch, Tape};
use crate::device::{Buffer, DType, Device, nvtx};
use crate::kmer::batch::Batch;
use crate::model::{Model, Task};
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
    /// The steps, from 1, that a profiler attached from outside collects.
    pub collected: Option<ProfileSteps>,
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

impl Trainer {
    /// Starts training `model` on `device`, with weights and activations of type `dtype`.
    ///
    /// # Errors
    /// Those of the device, out of memory among them.
    pub fn new(mut model: Model, optimizer: AdamWConfig, device: &Device, dtype: DType, seed: u64) -> Result<Self> {
        model.parameters.move_to(device, dtype)?;
        let optimizer = AdamW::new(optimizer, &model.parameters, device)?;
        Ok(Self { model, optimizer, tape: Tape::new(device.clone(), dtype), seed, collected: None })
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
        let _step = self.begin()?;
        let mut flops = 0.0;
        let mut loss = Loss::default();
        for micro_batch in 0..micro_batches {
            self.tape.start_training(self.seed, self.optimizer.steps as u32, micro_batch as u32);
            let batch = batch(&self.model, &mut self.tape, micro_batch)?;
            flops += self.model.training_flops(&batch);
            let logits = self.model.forward(&mut self.tape, &batch)?;
            loss += ops::cross_entropy(&mut self.tape, &batch, logits, 1.0 / rows.max(1) as f64)?;
            self.tape.backward(&mut self.model.parameters)?;
            self.tape.recycle_batch(batch);
        }
        self.update(loss, flops, learning_rate)
    }

    /// One update from one batch whose rows each have a number for every logit: `targets` is `[rows, classes]`, and `task`
    /// says how the logits are compared with it.
    ///
    /// # Errors
    /// As [`Trainer::step`]; [`Error::Usage`] if there are not as many targets as logits.
    pub fn step_towards(
        &mut self,
        batch: &Batch,
        targets: &[f32],
        task: Task,
        learning_rate: f64,
    ) -> Result<StepReport> {
        let _step = self.begin()?;
        self.tape.start_training(self.seed, self.optimizer.steps as u32, 0);
        let batch = self.model.upload(&mut self.tape, batch)?;
        let flops = self.model.training_flops(&batch);
        let logits = self.model.forward(&mut self.tape, &batch)?;
        if targets.len() != logits.rows * logits.columns {
            let found = format!("{} targets for {} x {} logits", targets.len(), logits.rows, logits.columns);
            return Err(Error::usage(found, "give a number for every output of the model"));
        }
        let targets = Buffer::upload(self.tape.device(), targets)?;
        let scale = 1.0 / logits.rows.max(1) as f64;
        let loss = match task {
            Task::SingleLabel => ops::cross_entropy(&mut self.tape, &batch, logits, scale)?,
            Task::MultiLabel => ops::binary_cross_entropy(&mut self.tape, logits, &targets, scale)?,
            Task::Regression => ops::mean_squared_error(&mut self.tape, logits, &targets, scale)?,
        };
        self.tape.backward(&mut self.model.parameters)?;
        self.tape.recycle_batch(batch);
        self.update(loss, flops, learning_rate)
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
    fn update(&mut self, loss: Loss, flops: f64, learning_rate: f64) -> Result<StepReport> {
        if !loss.sum.is_finite() {
            let step = self.optimizer.steps + 1;
            return Err(Error::Failed(format!(
                "the loss is {} in step {step}: training has diverged; lower the learning rate, or lengthen the warm-up",
                loss.sum
            )));
        }
        let gradient_norm = self.optimizer.update(&mut self.tape, &mut self.model.parameters, learning_rate)?;
        if self.collected.is_some_and(|steps| steps.last == self.optimizer.steps) {
            self.tape.device().collect_profile(false)?;
        }
        Ok(StepReport { loss, gradient_norm, flops })
    }
}
