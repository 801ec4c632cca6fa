//! One training step: micro-batches forward and backward, then one update.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::run_state::RunState;
use crate::autograd::{DeviceBatch, Tape};
use crate::crc32;
use crate::device::{DType, Device, nvtx};
use crate::kmer::batch::Batch;
use crate::model::{Model, Task};
use crate::ops::{self, Loss, Losses, Weighting};
use crate::optim::{AdamW, AdamWConfig};
use crate::parallel::tree::GradientTree;
use crate::parallel::{Ranks, facts};
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
    /// Whether somebody has asked to stop: a step that has taken [`LONG_STEP`] by then is given up, and leaves the weights as they
    /// were; a shorter one is finished.
    pub stops: Option<fn() -> bool>,
    /// What rows count, where they count unequally: class weights and a focal loss of single labels; of several labels at once, what a
    /// class that holds counts.
    pub weighting: Option<Weighting>,
    /// The processes that train together: each computes its share of a step's micro-batches, and all have the same weights.
    pub ranks: Ranks,
    /// The sums of a step's gradients so far.
    sums: GradientTree,
    /// Whether some rank's user wants to stop after the step that was made.
    stopping: bool,
    /// Losses that nobody has asked for yet, and the micro-batches of each step that they are of.
    losses: Losses,
    unreported: Vec<usize>,
    /// Arithmetic of those steps.
    flops: f64,
}

/// What a step may take before it is given up for somebody who wants to stop.
pub const LONG_STEP: Duration = Duration::from_secs(2);

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
        Ok(Self {
            model,
            optimizer,
            tape,
            seed,
            collected: None,
            stops: None,
            weighting: None,
            ranks: Ranks::alone(),
            sums: GradientTree::default(),
            stopping: false,
            losses,
            unreported: Vec::new(),
            flops: 0.0,
        })
    }

    /// Goes on with another model of the same shape: one that was loaded from a checkpoint.
    ///
    /// # Errors
    /// Those of the device.
    pub fn replace_model(&mut self, mut model: Model) -> Result<()> {
        match self.model.lora() {
            Some(lora) if model.lora() == Some(lora) => {}
            Some(lora) => model.adapt(lora, self.seed)?,
            None => model.freeze(self.model.frozen())?,
        }
        place(&mut model, &self.optimizer.config, self.tape.device(), self.tape.dtype())?;
        model.recompute = self.model.recompute;
        self.model = model;
        Ok(())
    }

    /// Refuses ranks that would not train the same model, on the same data, in the same way, from the same step. Alone nobody differs.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the rank and what differs.
    pub(super) fn agree(&self, state: &RunState, config: Option<&str>) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        let weights = crc32::of(bytemuck::cast_slice(&self.model.parameters.host_values()?));
        let own = [
            ("step to go on from", state.step.to_string()),
            ("last step", state.total_steps.to_string()),
            ("seed", state.seed.to_string()),
            ("type of weights", self.tape.dtype().name().to_owned()),
            ("model", format!("{} parameters, checksum {:08x}", self.model.parameter_count(), weights)),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let options = config.map(facts::options).unwrap_or_default();
        let all = [facts::build()?, facts::chip(self.tape.device()), options, facts::settings(&state.settings), own];
        self.ranks.agree(&all.concat())
    }

    /// One update from the mean loss over the labelled rows of all `batches`, by their weights: the same as one large batch would give.
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
        let weight = |batch: &Batch| match &self.weighting {
            Some(weighting) => weighting.of(&batch.labels),
            None => batch.rows.len() as f64,
        };
        let weights: Vec<f64> = batches.iter().map(weight).collect();
        let upload =
            |model: &Model, tape: &mut Tape, index: usize| Ok((model.upload(tape, &batches[index])?, weights[index]));
        self.advance_over(batches.len(), weights.iter().sum(), learning_rate, upload)
    }

    /// As [`Trainer::advance`], from `micro_batches` batches, of which `batch` puts those of this rank's share on the device when their
    /// turn comes. All of them have `rows` labelled rows together, which all count the same.
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
        self.advance_over(micro_batches, rows as f64, learning_rate, |model, tape, micro_batch| {
            let batch = batch(model, tape, micro_batch)?;
            let rows = batch.rows.len() as f64;
            Ok((batch, rows))
        })
    }

    /// One update from batches that come with what their rows weigh, which is `weight` together.
    fn advance_over(
        &mut self,
        micro_batches: usize,
        weight: f64,
        learning_rate: f64,
        mut batch: impl FnMut(&Model, &mut Tape, usize) -> Result<(Rc<DeviceBatch>, f64)>,
    ) -> Result<()> {
        self.parts(micro_batches, learning_rate, |trainer, part| trainer.micro_batch(part, weight, &mut batch))
    }

    /// As [`Trainer::advance`], from batches whose rows each have a number for every logit: the targets beside a batch are
    /// `[rows, classes]`, and `task` says how the logits are compared with them.
    ///
    /// # Errors
    /// As [`Trainer::step`]; [`Error::Usage`] if there are not as many targets as logits.
    pub fn advance_towards(&mut self, batches: &[(Batch, Vec<f32>)], task: Task, learning_rate: f64) -> Result<()> {
        let rows: usize = batches.iter().map(|(batch, _)| batch.rows.len()).sum();
        self.parts(batches.len(), learning_rate, |trainer, part| trainer.towards(part, &batches[part], task, rows))
    }

    /// One update from the gradients of `count` micro-batches over all ranks; `part` computes one of them.
    fn parts(
        &mut self,
        count: usize,
        learning_rate: f64,
        mut part: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        let _step = self.begin()?;
        self.sums.clear();
        let share = self.ranks.share(count);
        let own = share.len();
        let parts = share.into_iter().try_for_each(|number| {
            part(self, number)?;
            if own == 1 { Ok(()) } else { self.sums.join(&mut self.tape, &mut self.model.parameters.gradients) }
        });
        self.tape.stop_when(None);
        let parts = self.all_made(parts);
        parts.map_err(|error| self.beside_what_is_held(error))?;
        let gradients = &mut self.model.parameters.gradients;
        self.sums.finish(&mut self.tape, gradients)?;
        self.ranks.sum(&mut self.tape, gradients)?;
        self.unreported.push(own);
        self.update(learning_rate)
    }

    /// Whether every rank has made its part of the step: if one has given it up, all do. Hears, too, who wants to stop behind it.
    fn all_made(&mut self, parts: Result<()>) -> Result<()> {
        let wants = self.stops.is_some_and(|stops| stops());
        if self.ranks.size() == 1 {
            self.stopping = wants;
            return parts;
        }
        let given_up = match &parts {
            Ok(()) => false,
            Err(Error::Interrupted(_)) => true,
            Err(_) => return parts,
        };
        let said = self.ranks.gather("a step", vec![u8::from(given_up), u8::from(wants)])?;
        self.stopping = said.iter().any(|said| said[1] == 1);
        match (parts, said.iter().any(|said| said[0] == 1)) {
            (Ok(()), true) => Err(Error::Interrupted(String::new())),
            (parts, _) => parts,
        }
    }

    /// Whether this process, or another rank, was asked to stop when the last step was made: the same answer on every rank.
    pub fn stopping(&self) -> bool {
        self.stopping
    }

    fn towards(&mut self, part: usize, (batch, targets): &(Batch, Vec<f32>), task: Task, rows: usize) -> Result<()> {
        self.tape.start_training(self.seed, self.optimizer.steps as u32, part as u32);
        let batch = self.model.upload(&mut self.tape, batch)?;
        if batch.rows.is_empty() {
            self.tape.recycle_batch(batch);
            return self.losses.add_nothing();
        }
        self.flops += self.model.training_flops(&batch);
        let logits = self.model.forward(&mut self.tape, &batch)?;
        if targets.len() != logits.rows * logits.columns {
            let found = format!("{} targets for {} x {} logits", targets.len(), logits.rows, logits.columns);
            return Err(Error::usage(found, "give a number for every output of the model"));
        }
        let mut on_device = self.tape.allocate_as(targets.len(), DType::F32)?;
        on_device.write(targets)?;
        // Of the whole step, not of the part.
        let scale = 1.0 / rows.max(1) as f64;
        let (tape, losses) = (&mut self.tape, &mut self.losses);
        match task {
            Task::SingleLabel => ops::cross_entropy_into(tape, &batch, logits, scale, losses)?,
            Task::MultiLabel => {
                let positive = self.weighting.as_ref().map(Weighting::weights);
                ops::binary_cross_entropy_into(tape, logits, &on_device, positive, scale, losses)?;
            }
            Task::Regression => ops::mean_squared_error_into(tape, logits, &on_device, scale, losses)?,
        }
        self.tape.recycle(on_device);
        self.tape.backward(&mut self.model.parameters)?;
        self.tape.recycle_batch(batch);
        Ok(())
    }

    /// Tells profilers that a step begins; its range ends with what is returned. From now on a stop is heeded.
    fn begin(&mut self) -> Result<nvtx::Range> {
        let started = Instant::now();
        let stop =
            self.stops.map(|stops| Box::new(move || started.elapsed() > LONG_STEP && stops()) as Box<dyn Fn() -> bool>);
        self.tape.stop_when(stop);
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
        weight: f64,
        batch: &mut impl FnMut(&Model, &mut Tape, usize) -> Result<(Rc<DeviceBatch>, f64)>,
    ) -> Result<()> {
        self.tape.start_training(self.seed, self.optimizer.steps as u32, micro_batch as u32);
        let (batch, own_weight) = batch(&self.model, &mut self.tape, micro_batch)?;
        if batch.rows.is_empty() {
            // A small batch may come out without a masked token: then it has neither loss nor gradient.
            self.tape.recycle_batch(batch);
            return self.losses.add_nothing();
        }
        self.flops += self.model.training_flops(&batch);
        let logits = self.model.forward(&mut self.tape, &batch)?;
        // Of the whole step, not of the part.
        let scale = 1.0 / weight;
        let (tape, losses) = (&mut self.tape, &mut self.losses);
        match &self.weighting {
            None => ops::cross_entropy_into(tape, &batch, logits, scale, losses)?,
            Some(weighting) => {
                let weighting = (weighting, own_weight);
                ops::weighted_cross_entropy_into(tape, &batch, logits, weighting, scale, losses)?;
            }
        }
        self.tape.backward(&mut self.model.parameters)?;
        self.tape.recycle_batch(batch);
        Ok(())
    }

    /// Whether losses are known as soon as they are computed, so that a report waits for nothing.
    pub fn knows_losses(&self) -> bool {
        matches!(self.tape.device(), Device::Cpu)
    }

    /// The figures of the steps since the last report, over all ranks. Waits until they are computed.
    ///
    /// # Errors
    /// [`Error::Failed`] when a loss or the gradient norm is no number; the failure of an earlier launch may show here.
    pub fn report(&mut self) -> Result<Report> {
        let said = gather_losses(&self.ranks, "losses", self.losses.take()?)?;
        let mut micro_batches: Vec<_> = said.into_iter().map(Vec::into_iter).collect();
        let flops = self.ranks.gather_values("arithmetic", std::mem::take(&mut self.flops))?.into_iter().sum();
        let steps = std::mem::take(&mut self.unreported);
        let first = self.optimizer.steps + 1 - steps.len() as u64;
        let mut losses = Vec::with_capacity(steps.len());
        for (step, parts) in (first..).zip(steps) {
            let mut loss = Loss::default();
            // In the order of micro-batches: rank by rank.
            micro_batches.iter_mut().flat_map(|of_rank| of_rank.take(parts)).for_each(|part| loss += part);
            check(loss, step)?;
            losses.push(loss);
        }
        Ok(Report { losses, gradient_norm: self.optimizer.norm()?, flops })
    }

    /// Bytes of what lies on the device: weights, gradients, moments, and activations with the batch.
    pub fn memory(&self) -> Vec<(&'static str, usize)> {
        let [weights, gradients] = self.model.parameters.memory_bytes();
        let (moments, activations) = (self.optimizer.memory_bytes(), self.tape.memory_bytes());
        let gradients = gradients + self.sums.memory_bytes();
        vec![("weights", weights), ("gradients", gradients), ("moments", moments), ("activations", activations)]
    }

    fn beside_what_is_held(&self, error: Error) -> Error {
        error.beside(|| self.memory())
    }
}

/// The losses of every rank, in the order of ranks. As bits: one that is no number is told as it is.
pub(super) fn gather_losses(ranks: &Ranks, what: &str, own: Vec<Loss>) -> Result<Vec<Vec<Loss>>> {
    if ranks.size() == 1 {
        return Ok(vec![own]);
    }
    let bits = |loss: Loss| [loss.sum.to_bits(), loss.weight.to_bits(), loss.hits, loss.rows];
    let said = ranks.gather_values(what, own.into_iter().map(bits).collect::<Vec<_>>())?;
    let loss = |[sum, weight, hits, rows]: [u64; 4]| Loss {
        sum: f64::from_bits(sum),
        weight: f64::from_bits(weight),
        hits,
        rows,
    };
    Ok(said.into_iter().map(|of_rank| of_rank.into_iter().map(loss).collect()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Pass;
    use crate::kmer::labelled::{Head as Reads, classification_batch};
    use crate::kmer::vocabulary::{BaseOrder, Vocabulary};
    use crate::model::{Head, Lora, Recompute, Target, Trained, preset};

    /// A model without dropout, and a batch of so many windows of different bases.
    fn trainer() -> Trainer {
        let mut config = preset("splice-small").unwrap().config(16);
        (config.hidden_dropout_prob, config.attention_probs_dropout_prob) = (0.0, 0.0);
        let model = Model::initialise(config, Head::Cls { labels: 3 }, DType::F32, 1).unwrap();
        Trainer::new(model, AdamWConfig::default(), &Device::Cpu, DType::F32, 1).unwrap()
    }

    fn batch(windows: std::ops::Range<usize>) -> Batch {
        let bases = |window: usize| (0..12).map(|at| b"ACGT"[(window * 7 + at * at) % 4]).collect::<Vec<u8>>();
        let windows: Vec<(Vec<u8>, i32)> = windows.map(|window| (bases(window), (window % 3) as i32)).collect();
        let windows: Vec<(&[u8], i32)> = windows.iter().map(|(bases, label)| (bases.as_slice(), *label)).collect();
        classification_batch(&windows, &Vocabulary::new(3, BaseOrder::Atcg).unwrap(), None, Reads::Cls).unwrap()
    }

    #[test]
    fn micro_batches_of_any_size_are_one_large_batch() {
        let step = |batches: &[Batch], weighs: bool| {
            let mut trainer = trainer();
            let weighting = || Weighting::new(&Device::Cpu, vec![0.2, 1.0, 6.0], 2.0).unwrap();
            trainer.weighting = weighs.then(weighting);
            let report = trainer.step(batches, 1e-3).unwrap();
            (report.loss.mean(), report.gradient_norm, trainer.model.parameters.host_values().unwrap())
        };
        for weighs in [false, true] {
            let (loss, norm, weights) = step(&[batch(0..7)], weighs);
            for parts in [vec![batch(0..1), batch(1..7)], vec![batch(0..5), batch(5..6), batch(6..7)]] {
                let (parts_loss, parts_norm, parts_weights) = step(&parts, weighs);
                assert!((loss - parts_loss).abs() < 1e-6 * loss, "{loss} {parts_loss}");
                assert!((norm - parts_norm).abs() < 1e-5 * norm, "{norm} {parts_norm}");
                let far = weights.iter().zip(&parts_weights).filter(|(one, other)| (**one - **other).abs() > 1e-5);
                let far = far.count();
                assert!(far * 1000 < weights.len(), "{far} weights of {} differ", weights.len());
            }
        }
    }

    #[test]
    fn gradients_beyond_the_limit_are_scaled_to_it_and_shorter_ones_stay() {
        let moments = |limit: f64| {
            let mut trainer = trainer();
            trainer.optimizer.config.max_gradient_norm = limit;
            let norm = trainer.step(&[batch(0..7)], 1e-3).unwrap().gradient_norm;
            (norm, trainer.optimizer.first.slice::<f32>().to_vec())
        };
        let (norm, free) = moments(0.0);
        assert!(moments(2.0 * norm) == (norm, free.clone()));
        let (same, clipped) = moments(norm / 2.0);
        assert_eq!(same, norm);
        let is_half = |(half, whole): (&f32, &f32)| (2.0 * half - whole).abs() <= 1e-4 * whole.abs() + 1e-12;
        assert!(clipped.iter().zip(&free).all(is_half));
    }

    /// The gradients of what is trained have the bits that they have where nothing is frozen, dropout and all; nothing goes back below, and
    /// the products are counted as they are made.
    #[test]
    fn nothing_goes_back_through_what_is_frozen() {
        let config = preset("splice-small").unwrap().config(16);
        let step = |head: &Head, frozen: Option<usize>, recompute| {
            let mut model = Model::initialise(config.clone(), head.clone(), DType::F32, 1).unwrap();
            model.freeze(frozen).unwrap();
            model.recompute = recompute;
            let mut trainer = Trainer::new(model, AdamWConfig::default(), &Device::Cpu, DType::F32, 1).unwrap();
            trainer.tape.start_profile();
            trainer.micro_batch(0, 7.0, &mut |model, tape, _| Ok((model.upload(tape, &batch(0..7))?, 7.0))).unwrap();
            let profile = trainer.tape.take_profile().unwrap();
            let flops = trainer.flops;
            (trainer.model, profile, flops, trainer.tape.memory_bytes())
        };
        let of = |model: &Model, name: &str| {
            let spec = model.parameters.find(name).unwrap();
            let gradients = model.parameters.gradients.slice::<f32>();
            gradients.get(spec.range()).map(<[f32]>::to_vec)
        };
        for head in
            [Head::Cls { labels: 3 }, Head::Site { labels: 3, hidden: None }, Head::Site { labels: 3, hidden: Some(8) }]
        {
            let (whole, profile, flops, memory) = step(&head, None, Recompute::None);
            let products = |profile: &crate::autograd::Profile, pass| {
                let of_pass = profile.calls.iter().filter(|call| call.pass == pass);
                of_pass.map(|call| call.work.flops).sum::<f64>()
            };
            for (frozen, recompute) in
                [(0, Recompute::None), (1, Recompute::Layer), (2, Recompute::Gelu), (3, Recompute::None)]
            {
                let (model, part, part_flops, part_memory) = step(&head, Some(frozen), recompute);
                let mut without = 0;
                for spec in &whole.parameters.specs {
                    match of(&model, &spec.name) {
                        Some(gradient) => {
                            assert!(of(&whole, &spec.name) == Some(gradient), "{} of {frozen}", spec.name)
                        }
                        None => without += 1,
                    }
                }
                assert_eq!(without, 5 + 16 * frozen, "embeddings, their norm, and the layers");
                let back =
                    |layer| part.calls.iter().filter(|call| call.pass == Pass::Backward && call.layer == layer).count();
                assert!((0..frozen).all(|layer| back(Some(layer)) == 0), "{frozen}");
                assert!((frozen..3).all(|layer| back(Some(layer)) > 0), "{frozen}");
                assert!(part.calls.iter().all(|call| call.pass == Pass::Forward || call.op != "embedding"));
                // The lowest layer that is trained, or the head, needs no gradient of its input.
                let lowest = |of: &crate::autograd::Profile| {
                    let layer = Some(frozen).filter(|layer| *layer < 3);
                    let calls = of.calls.iter().filter(|call| call.pass == Pass::Backward && call.layer == layer);
                    calls.filter(|call| call.op.starts_with("linear")).map(|call| call.work.flops).sum::<f64>()
                };
                assert!(lowest(&part) < 0.8 * lowest(&profile), "{frozen}: {} {}", lowest(&part), lowest(&profile));
                let (less, all) = (products(&part, Pass::Backward), products(&profile, Pass::Backward));
                assert!(less < all, "{frozen}: {less} of {all}");
                assert!(
                    part_flops < flops && part_memory < memory,
                    "{frozen}: {part_flops} {flops}, {part_memory} {memory}"
                );
            }
        }
        let mut model = Model::initialise(config, Head::MaskedLm, DType::F32, 1).unwrap();
        assert!(model.freeze(Some(1)).is_err(), "its decoder is the embeddings");
    }

    /// Frozen weights keep their bits, gradients and moments are of the adapters and the head alone, layers that are computed again give the
    /// same bits, and there is less arithmetic than in training all, but more than in training the head.
    #[test]
    fn adapters_and_the_head_are_all_that_is_trained() {
        let config = preset("splice-small").unwrap().config(16);
        let all = vec![Target::Query, Target::Key, Target::Value, Target::Dense];
        for targets in [vec![Target::Query, Target::Value], all] {
            let lora = Lora { rank: 2, alpha: 4.0, dropout: 0.2, targets };
            let step = |trained: &Trained, recompute| {
                let head = Head::Cls { labels: 3 };
                let mut model = Model::initialise(config.clone(), head, DType::F32, 1).unwrap();
                model.freeze(trained.unrecorded().filter(|_| trained.lora().is_none())).unwrap();
                trained.lora().map(|lora| model.adapt(lora, 1)).transpose().unwrap();
                model.recompute = recompute;
                let before = model.parameters.host_values().unwrap();
                let mut trainer = Trainer::new(model, AdamWConfig::default(), &Device::Cpu, DType::F32, 1).unwrap();
                trainer.tape.start_profile();
                // B is 0 in the first step, so that A learns in the second.
                let flops = (0..2).map(|_| trainer.step(&[batch(0..7)], 1e-3).unwrap().flops).sum::<f64>();
                let calls = trainer.tape.take_profile().unwrap().calls;
                assert!(calls.iter().all(|call| call.pass != Pass::Backward || call.op != "embedding"));
                (trainer, before, flops)
            };
            let adapters = Trained::Adapters(lora.clone());
            let (trainer, before, flops) = step(&adapters, Recompute::None);
            let after = trainer.model.parameters.host_values().unwrap();
            let trained = trainer.model.parameters.trained();
            for spec in &trainer.model.parameters.specs {
                let is_trained = spec.name.contains(".lora_") || !spec.name.starts_with("bert.e");
                assert_eq!(spec.offset < trained, is_trained, "{}", spec.name);
                let is_same = before[spec.range()] == after[spec.range()];
                assert_eq!(is_same, !is_trained, "{}", spec.name);
            }
            let [_, gradients] = trainer.model.parameters.memory_bytes();
            // Memory is rounded up to a line of the cache.
            let held = gradients + trainer.optimizer.memory_bytes();
            assert!((12 * trained..12 * trained + 3 * 128).contains(&held), "{held} bytes for {trained} elements");
            let head = config.hidden_size * (config.hidden_size + 1) + 3 * (config.hidden_size + 1);
            assert_eq!(trainer.model.trained_count(), 3 * lora.layer_weights(&config) + head);
            let (again, ..) = step(&adapters, Recompute::Layer);
            assert!(again.model.parameters.host_values().unwrap() == after);
            let (.., more) = step(&Trained::Above(0), Recompute::None);
            let (.., less) = step(&Trained::Above(3), Recompute::None);
            assert!(less < flops && flops < more, "{less} {flops} {more}");
        }
    }

    #[test]
    fn a_long_step_that_is_given_up_leaves_the_weights_as_they_were() {
        let mut trainer = trainer();
        let before = trainer.model.parameters.host_values().unwrap();
        let step = |trainer: &mut Trainer, wait: Duration| {
            trainer.advance_on(2, 4, 1e-3, |model, tape, part| {
                if part == 1 {
                    std::thread::sleep(wait);
                }
                model.upload(tape, &batch(2 * part..2 * part + 2))
            })
        };
        trainer.stops = Some(|| true);
        let error = step(&mut trainer, LONG_STEP + Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Error::Interrupted(_)), "{error}");
        assert_eq!((before, 0), (trainer.model.parameters.host_values().unwrap(), trainer.optimizer.steps));
        assert!(trainer.report().unwrap().losses.is_empty());
        // A short one is finished.
        step(&mut self::trainer(), Duration::ZERO).unwrap();
    }
}
