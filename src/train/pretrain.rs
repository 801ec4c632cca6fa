//! Pretraining by masked-language modelling.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checkpoint::save_model;
use super::feed::Feed;
use super::interrupt;
use super::peak::Utilisation;
use super::run::{Run, add_tokens};
use super::run_state::{RunState, resume_from};
use super::snapshot::CheckpointWriter;
use super::step::{self, ProfileSteps, Trainer};
use crate::device::{DType, Device};
use crate::kmer::corpus::PretrainingData;
use crate::kmer::key::BatchKey;
use crate::kmer::masking::Masking;
use crate::model::Model;
use crate::ops::{self, Loss};
use crate::optim::{AdamWConfig, Schedule};
use crate::parallel::Ranks;
use crate::report::format::duration;
use crate::report::progress::Progress;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How to pretrain.
#[derive(Clone, Debug)]
pub struct PretrainOptions {
    /// Where to compute.
    pub device: Device,
    /// The processes that train together.
    pub ranks: Ranks,
    /// The steps that a profiler attached from outside collects.
    pub collected: Option<ProfileSteps>,
    /// The type of weights and activations.
    pub dtype: DType,
    /// Seed of every random choice.
    pub seed: u64,
    /// Updates.
    pub steps: u64,
    /// Tokens of an update, over all its micro-batches.
    pub tokens_per_step: usize,
    /// Parts that an update is computed in, over all ranks; more of them take less memory.
    pub micro_batches: usize,
    /// Learning rates.
    pub schedule: Schedule,
    /// The optimizer's constants.
    pub optimizer: AdamWConfig,
    /// What is masked.
    pub masking: Masking,
    /// Evaluate every so many steps, and at the end.
    pub eval_every: u64,
    /// Batches of an evaluation, of `tokens_per_step / micro_batches` tokens each.
    pub eval_batches: u32,
    /// Log every so many steps.
    pub log_every: u64,
    /// Write a checkpoint every so many steps, and at the end.
    pub save_every: u64,
    /// Checkpoints to keep.
    pub keep: usize,
    /// The folder of the run. Nothing is written to it before the first step has succeeded.
    pub out: PathBuf,
    /// The resolved options, for the folder's `config.toml`.
    pub config: Option<String>,
    /// No progress, no log.
    pub quiet: bool,
    /// Asked whether a run that would take longer than [`LONG_RUN`] is meant, with its estimated time; `None`: it is only warned of.
    pub confirm: Option<fn(Duration) -> bool>,
}

/// A run that would take longer is worth a question.
pub const LONG_RUN: Duration = Duration::from_secs(30 * 86_400);

/// Masked-LM quality on held-out sequences.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean loss of a masked token, in nats.
    pub loss: f64,
    /// Share of masked tokens whose k-mer got the largest logit.
    pub masked_accuracy: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// Masked tokens that were counted.
    pub masked_tokens: u64,
}

/// A logged point of a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Updates made.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Mean loss of a masked token since the last point, in nats.
    pub loss: f64,
    /// Share of masked tokens predicted right since the last point.
    pub masked_accuracy: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Global gradient norm of the last step, before clipping.
    pub gradient_norm: f64,
    /// Tokens a second since the last point.
    pub tokens_per_second: f64,
    /// Share of the device's peak that the products reached since the last point.
    pub mfu: f64,
    /// On held-out sequences, if it was time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
}

/// What a pretraining came to.
#[derive(Clone, Debug, Serialize)]
pub struct PretrainSummary {
    /// Updates made.
    pub steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens a second from start to end, evaluations and checkpoints included, pauses between sessions not.
    pub tokens_per_second: f64,
    /// Seconds spent in training.
    pub seconds: f64,
    /// Loss of the first step.
    pub loss_first: f64,
    /// Loss over the last logging interval.
    pub loss_last: f64,
    /// Which attention ran.
    pub attention: String,
    /// Which processes trained in this session, and who added their gradients, where there were several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<String>,
    /// On held-out sequences, at the end.
    pub evaluation: Option<Evaluation>,
    /// The logged points of this session (those before a resume are in the log).
    #[serde(skip)]
    pub points: Vec<Point>,
}

/// Trains `model` and leaves the result, a Hugging Face directory, in `options.out`. With `resume`, goes on from the
/// newest checkpoint there: the result has the same bits as that of an unbroken run.
///
/// # Errors
/// [`Error::Usage`] if the folder holds another run, or nothing to resume; [`Error::Interrupted`] after Ctrl-C, when a
/// checkpoint has been written; those of training and of files.
pub fn pretrain(
    model: Model,
    vocabulary: &dyn Tokenizer,
    data: &PretrainingData,
    held_out: Option<&PretrainingData>,
    options: &PretrainOptions,
    resume: bool,
) -> Result<PretrainSummary> {
    let attention = model.attention_path(&options.device, options.dtype)?;
    let mut trainer = Trainer::new(model, options.optimizer, &options.device, options.dtype, options.seed)?;
    trainer.collected = options.collected;
    trainer.ranks = options.ranks.clone();
    let writes = trainer.ranks.writes();
    let settings = settings(vocabulary, data, options);
    let mut state = RunState::new(options.steps, options.seed, options.optimizer, settings);
    if resume {
        state = resume_from(&options.out, &mut trainer, state, false)?;
        tracing::info!("resuming after step {} of {}", state.step, options.steps);
    }
    trainer.agree(&state, options.config.as_deref())?;
    let feed = Feed::new(data, vocabulary, options, &trainer)?;
    let tokens = feed.tokens();
    let held_out = held_out.map(|data| Feed::new(data, vocabulary, options, &trainer)).transpose()?;
    let mut run: Option<Run> = None;
    let mut progress = Progress::new("pretraining", options.steps, options.quiet).unit("tokens").resume_at(state.step);
    let mut writer = CheckpointWriter::new(&options.out, options.keep).unless(!writes);
    let mut points = Vec::new();
    let (mut evaluation, mut gradient_norm) = (None, 0.0);
    let (mut interval_tokens, mut interval_start) = (0, Instant::now());
    let mut utilisation = Utilisation::new(&options.device, options.dtype);
    let (seconds_before, session) = (state.seconds, Instant::now());
    let tokens_before = state.tokens;
    let _saving = interrupt::saving();

    if let Some(point) = state.unevaluated.take() {
        // The last session was told to stop while it evaluated this point.
        let mut point: Point = serde_json::from_value(point).map_err(|error| Error::Failed(error.to_string()))?;
        if let Some(held_out) = &held_out {
            evaluation = Some(evaluate(&mut trainer, held_out, options)?);
            point.evaluation = evaluation;
        }
        started(&mut run, &options.out, options.config.as_deref(), state.step - 1, writes)?.write(&point)?;
        points.push(point);
        writer.save(&trainer, vocabulary, None, &state)?;
    }
    trainer.stops = Some(interrupt::requested);
    let mut estimate = Estimate::new(&trainer, options, state.step);
    // Elsewhere a part that was launched is not yet done.
    let computes_as_it_goes = trainer.knows_losses();
    while state.step < options.steps {
        let learning_rate = options.schedule.at(state.step);
        let step_before = state.step;
        let advanced = feed.advance(&mut trainer, state.step, learning_rate, &mut |parts| {
            estimate.tell(parts)?;
            if parts > 0 && computes_as_it_goes {
                let parts = parts * options.ranks.size();
                let tokens = state.tokens - tokens_before + (parts * feed.budget()) as u64;
                let of = format!("step {}: part {parts} of {} done", step_before + 1, options.micro_batches);
                progress.update(step_before, tokens, &of);
            }
            Ok(())
        });
        if let Err(Error::Interrupted(why)) = advanced {
            progress.finish("interrupted");
            if run.is_none() {
                return Err(Error::Interrupted(format!("{why} before the first one of this session was done")));
            }
            hear(&mut trainer, &mut state, &mut gradient_norm, &mut utilisation)?;
            writer.save(&trainer, vocabulary, None, &state)?;
            return Err(writer.interrupted(state.step));
        }
        if let Err(error) = advanced.and_then(|()| estimate.tell(options.ranks.share(options.micro_batches).len())) {
            progress.finish("stopped");
            return Err(error);
        }
        state.step += 1;
        state.tokens += tokens as u64;
        interval_tokens += tokens;

        let last = state.step == options.steps;
        let stops = trainer.stopping() && !last;
        let evaluates = held_out.as_ref().filter(|_| last || state.step.is_multiple_of(options.eval_every));
        let logs = last || evaluates.is_some() || state.step.is_multiple_of(options.log_every);
        let saves = last || stops || state.step.is_multiple_of(options.save_every);
        // Losses cost nothing where they are; asking a device for them makes it and the host wait for each other. So nobody
        // asks between two points, but for the first step of a session, which shows whether all is well.
        if trainer.knows_losses() || run.is_none() || logs || saves {
            hear(&mut trainer, &mut state, &mut gradient_norm, &mut utilisation)?;
        }
        state.seconds = seconds_before + session.elapsed().as_secs_f64();
        let run = started(&mut run, &options.out, options.config.as_deref(), state.step - 1, writes)?;
        if logs {
            let seconds = interval_start.elapsed().as_secs_f64();
            let mut point = Point {
                step: state.step,
                tokens: state.tokens,
                loss: state.interval.mean(),
                masked_accuracy: state.interval.accuracy(),
                learning_rate,
                gradient_norm,
                tokens_per_second: interval_tokens as f64 / seconds,
                mfu: utilisation.take(seconds, &mut state.peak)? / options.ranks.size() as f64,
                evaluation: None,
            };
            state.loss_last = point.loss;
            state.interval = Loss::default();
            if let Some(held_out) = evaluates {
                match evaluate(&mut trainer, held_out, options) {
                    Ok(found) => evaluation = Some(found),
                    Err(Error::Interrupted(_)) => {
                        let point = serde_json::to_value(point).map_err(|error| Error::Failed(error.to_string()))?;
                        state.unevaluated = Some(point);
                        writer.save(&trainer, vocabulary, None, &state)?;
                        progress.finish("interrupted");
                        return Err(writer.interrupted(state.step));
                    }
                    Err(error) => return Err(error),
                }
                point.evaluation = evaluation;
            }
            run.write(&point)?;
            points.push(point);
            (interval_tokens, interval_start) = (0, Instant::now());
        }
        progress.update(state.step, state.tokens - tokens_before, &format!("loss {:.4}", state.loss_last));

        if saves {
            writer.save(&trainer, vocabulary, None, &state)?;
        }
        if stops {
            progress.finish("interrupted");
            return Err(writer.interrupted(state.step));
        }
    }
    writer.finish()?;
    state.seconds = seconds_before + session.elapsed().as_secs_f64();
    progress.finish(&format!("loss {:.4}", state.loss_last));
    step::check_end(state.loss_last, (vocabulary.len() as f64).ln())?;
    // A run that was killed after its last step has none to make, but debris to clear away.
    started(&mut run, &options.out, options.config.as_deref(), state.step, writes)?;
    if writes {
        save_model(&options.out, &trainer.model, vocabulary, None)?;
    }
    Ok(PretrainSummary {
        steps: state.step,
        tokens: state.tokens,
        tokens_per_second: state.tokens_per_second(),
        seconds: state.seconds,
        loss_first: state.loss_first,
        loss_last: state.loss_last,
        attention,
        ranks: options.ranks.describe(),
        evaluation,
        points,
    })
}

/// Takes what the trainer has to tell of the steps since the last time.
pub(super) fn hear(
    trainer: &mut Trainer,
    state: &mut RunState,
    gradient_norm: &mut f64,
    utilisation: &mut Utilisation,
) -> Result<()> {
    let report = trainer.report()?;
    for (step, loss) in (state.step - report.losses.len() as u64..).zip(report.losses) {
        if step == 0 {
            state.loss_first = loss.mean();
        }
        state.loss_last = loss.mean();
        state.interval += loss;
    }
    *gradient_norm = report.gradient_norm;
    utilisation.add(report.flops);
    Ok(())
}

/// How long the whole run will take, by its first part: told once, and asked about where it is months.
struct Estimate {
    /// Asked about months; `None`: nobody is.
    confirm: Option<fn(Duration) -> bool>,
    started: Instant,
    /// Micro-batches that are still to be computed; 0 once everything is told, and where losses come late: there the first part is not
    /// done when the next one begins.
    parts: f64,
    /// Whether a run is gone on with, whose folder holds what was written before.
    resumed: bool,
}

impl Estimate {
    fn new(trainer: &Trainer, options: &PretrainOptions, step: u64) -> Self {
        let steps = options.steps.saturating_sub(step) as f64;
        let share = options.ranks.share(options.micro_batches).len();
        let parts = if trainer.knows_losses() { steps * share as f64 } else { 0.0 };
        Self { confirm: options.confirm, started: Instant::now(), parts, resumed: step > 0 }
    }

    /// Hears that so many parts of the first step are done.
    fn tell(&mut self, done: usize) -> Result<()> {
        if done == 0 || self.parts == 0.0 {
            return Ok(());
        }
        let seconds = self.started.elapsed().as_secs_f64() / done as f64 * std::mem::take(&mut self.parts);
        let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let text = format!("the whole run will take about {} at the speed of its first part", duration(time));
        if time < LONG_RUN {
            tracing::info!("{text}");
            return Ok(());
        }
        tracing::warn!("{text}: lower --steps or --tokens-per-step, or choose a smaller model, unless this is meant");
        match self.confirm {
            Some(confirm) if !confirm(time) => Err(Error::usage(
                text,
                match self.resumed {
                    false => "give --steps, --tokens-per-step or a model that are meant; nothing was written",
                    true => "the run is as it was; go on with it where it takes less time",
                },
            )),
            _ => Ok(()),
        }
    }
}

/// What the batches and updates of a run depend on.
fn settings(vocabulary: &dyn Tokenizer, data: &PretrainingData, options: &PretrainOptions) -> Value {
    let Schedule { peak, minimum, warmup, decay_steps, decay } = options.schedule;
    let mut settings = json!({
        "training data": data.checksum(),
        "masking": options.masking,
        "tokens-per-step": options.tokens_per_step,
        "micro-batches": options.micro_batches,
        "learning-rate": peak,
        "minimum-learning-rate": minimum,
        "decay": decay,
        "warmup-steps": warmup,
        "decay-steps": decay_steps,
    });
    add_tokens(&mut settings, vocabulary);
    settings
}

/// The run's folder, taken on first use: a run that fails before its first step leaves nothing behind. A rank that does not write
/// has none.
pub(super) fn started<'a>(
    run: &'a mut Option<Run>,
    folder: &Path,
    config: Option<&str>,
    step: u64,
    writes: bool,
) -> Result<&'a mut Run> {
    match run {
        Some(run) => Ok(run),
        None if writes => Ok(run.insert(Run::start(folder, config, step)?)),
        None => Ok(run.insert(Run::elsewhere())),
    }
}

/// Loss on the held-out batches: the same ones at every evaluation. May take longer than all steps, so it heeds Ctrl-C.
fn evaluate(trainer: &mut Trainer, held_out: &Feed, options: &PretrainOptions) -> Result<Evaluation> {
    let (ranks, count) = (options.ranks.clone(), options.eval_batches as usize);
    let mut own = Vec::new();
    for number in (0..count).filter(|number| ranks.deals(*number)) {
        if interrupt::requested() {
            break;
        }
        own.push(evaluate_batch(trainer, held_out, BatchKey::evaluation(options.seed, number as u32))?);
    }
    if ranks.any("an evaluation", interrupt::requested())? {
        return Err(interrupt::stopped());
    }
    let losses = step::gather_losses(&ranks, "losses of an evaluation", own)?;
    let mut loss = Loss::default();
    (0..count).for_each(|number| loss += losses[number % ranks.size()][number / ranks.size()]);
    Ok(Evaluation {
        loss: loss.mean(),
        masked_accuracy: loss.accuracy(),
        perplexity: loss.mean().exp(),
        masked_tokens: loss.rows,
    })
}

/// Loss on one of them.
fn evaluate_batch(trainer: &mut Trainer, held_out: &Feed, key: BatchKey) -> Result<Loss> {
    let drawn = held_out.draw(key)?;
    trainer.tape.start_inference();
    if drawn.rows() == 0 {
        return Ok(Loss::default());
    }
    let batch = drawn.place(&trainer.model, &mut trainer.tape)?;
    let logits = trainer.model.forward(&mut trainer.tape, &batch)?;
    let loss = ops::cross_entropy(&mut trainer.tape, &batch, logits, 1.0)?;
    trainer.tape.recycle_batch(batch);
    Ok(loss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_months_that_nobody_means_says_what_was_written() {
        for (resumed, says) in [(false, "nothing was written"), (true, "the run is as it was")] {
            let started = Instant::now() - Duration::from_secs(1);
            let mut estimate = Estimate { confirm: Some(|_| false), started, parts: 1e8, resumed };
            let message = estimate.tell(1).unwrap_err().to_string();
            assert!(message.contains("the whole run will take about 1157 d") && message.contains(says), "{message}");
            // It is told once.
            estimate.tell(2).unwrap();
        }
    }
}
