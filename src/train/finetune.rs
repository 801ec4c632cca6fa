//! Fine-tuning a classifier on labelled windows, and applying one.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::checkpoint::{Classification, RunState, save_checkpoint, save_model};
use super::interrupt;
use super::pretrain::{resume_from, started};
use super::run::Run;
use super::step::Trainer;
use crate::autograd::Tape;
use crate::device::{DType, Device};
use crate::kmer::batch::Batch;
use crate::kmer::labelled::{self, LabelledWindow, classification_batch};
use crate::kmer::vocabulary::Vocabulary;
use crate::model::{Head, Model};
use crate::ops::Loss;
use crate::optim::{AdamWConfig, Decay, Schedule};
use crate::philox::{Philox, Purpose, shuffle};
use crate::report::progress::Progress;
use crate::train::metrics::Confusion;
use crate::{Error, Result};

/// How to fine-tune.
#[derive(Clone, Debug)]
pub struct FinetuneOptions {
    /// Where to compute.
    pub device: Device,
    /// The type of weights and activations.
    pub dtype: DType,
    /// Seed of every random choice.
    pub seed: u64,
    /// Passes over the training windows.
    pub epochs: u64,
    /// Windows in an update.
    pub batch: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Share of the updates in which the rate rises.
    pub warmup: f64,
    /// How it falls afterwards.
    pub decay: Decay,
    /// The optimizer's constants.
    pub optimizer: AdamWConfig,
    /// Write a checkpoint every so many epochs, and at the end.
    pub save_every: u64,
    /// Checkpoints to keep.
    pub keep: usize,
    /// The folder of the run. Nothing is written to it before the first step has succeeded.
    pub out: PathBuf,
    /// The resolved options, for the folder's `config.toml`.
    pub config: Option<String>,
    /// No progress, no log.
    pub quiet: bool,
}

/// A logged point: the end of an epoch.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EpochPoint {
    /// Updates made.
    pub step: u64,
    /// Passes made.
    pub epoch: u64,
    /// Mean training loss of the epoch, in nats.
    pub loss: f64,
    /// Share of training windows classified right during the epoch.
    pub accuracy: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Accuracy on the dev windows, if there are any.
    pub dev_accuracy: Option<f64>,
    /// Multi-class MCC on the dev windows, if there are any.
    pub dev_mcc: Option<f64>,
}

/// What a fine-tuning came to.
#[derive(Clone, Debug, Serialize)]
pub struct FinetuneSummary {
    /// Updates made.
    pub steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens a second of training time.
    pub tokens_per_second: f64,
    /// Seconds spent in training.
    pub seconds: f64,
    /// Mean training loss of the last epoch.
    pub loss_last: f64,
    /// Accuracy on the dev windows at the end.
    pub dev_accuracy: Option<f64>,
    /// Multi-class MCC on the dev windows at the end.
    pub dev_mcc: Option<f64>,
    /// Which attention ran.
    pub attention: String,
    /// The epochs of this session.
    #[serde(skip)]
    pub points: Vec<EpochPoint>,
}

/// Trains `model` on `train` and leaves the result, a Hugging Face directory, in `options.out`. Returns the trained
/// model too. With `resume`, goes on from the newest checkpoint there, bit for bit.
///
/// # Errors
/// [`Error::Usage`] for windows that do not fit the model or labels it has no class for; [`Error::Interrupted`] after
/// Ctrl-C; those of training and of files.
pub fn finetune(
    model: Model,
    vocabulary: &Vocabulary,
    classification: &Classification,
    train: &[LabelledWindow],
    dev: &[LabelledWindow],
    options: &FinetuneOptions,
    resume: bool,
) -> Result<(Model, FinetuneSummary)> {
    check_labels(train.iter().chain(dev), &model)?;
    let steps_per_epoch = train.len().div_ceil(options.batch) as u64;
    let total_steps = steps_per_epoch * options.epochs;
    let warmup = (total_steps as f64 * options.warmup).round() as u64;
    let schedule = Schedule {
        peak: options.learning_rate,
        minimum: 0.0,
        warmup,
        decay_steps: total_steps.saturating_sub(warmup),
        decay: options.decay,
    };
    let attention = model.attention_path(&options.device, options.dtype)?;
    let mut trainer = Trainer::new(model, options.optimizer, &options.device, options.dtype, options.seed)?;
    let mut state = RunState::new(total_steps, options.seed, options.optimizer);
    if resume {
        state = resume_from(&options.out, &mut trainer, state)?;
        tracing::info!("resuming after step {} of {total_steps}", state.step);
    }
    let mut run: Option<Run> = None;
    let mut progress = Progress::new("fine-tuning", total_steps, options.quiet).unit("tokens").resume_at(state.step);
    let mut points: Vec<EpochPoint> = Vec::new();
    let (seconds_before, tokens_before, session) = (state.seconds, state.tokens, Instant::now());
    interrupt::watch();

    for epoch in state.step / steps_per_epoch.max(1)..options.epochs {
        let order = epoch_order(train.len(), options.seed, epoch);
        let (mut sum, mut epoch_tokens, epoch_start) = (Loss::default(), 0, Instant::now());
        let done = (state.step - epoch * steps_per_epoch) as usize;
        let mut learning_rate = 0.0;
        for chunk in order.chunks(options.batch).skip(done) {
            let windows: Vec<_> = chunk.iter().map(|&i| (train[i].bases.as_slice(), train[i].label)).collect();
            let batch = classification_batch(&windows, vocabulary, classification.window, rows_of(&trainer.model))?;
            let tokens = batch.total_tokens() as u64;
            learning_rate = schedule.at(state.step);
            let report = trainer.step(&[batch], learning_rate)?;
            started(&mut run, &options.out, options.config.as_deref(), state.step)?;
            if state.step == 0 {
                state.loss_first = report.loss.mean();
            }
            state.step += 1;
            state.tokens += tokens;
            state.seconds = seconds_before + session.elapsed().as_secs_f64();
            state.loss_last = report.loss.mean();
            sum += report.loss;
            epoch_tokens += tokens;
            let message = format!("epoch {}, loss {:.4}", epoch + 1, report.loss.mean());
            progress.update(state.step, state.tokens - tokens_before, &message);
            if interrupt::requested() && state.step < total_steps {
                let Trainer { model, optimizer, .. } = &trainer;
                let classification = Some(classification);
                let (out, keep) = (&options.out, options.keep);
                let path = save_checkpoint(out, model, vocabulary, classification, optimizer, &state, keep)?;
                progress.finish("interrupted");
                let saved = format!(" after step {}; saved {}, go on with --resume", state.step, path.display());
                return Err(Error::Interrupted(saved));
            }
        }
        let tokens_per_second = epoch_tokens as f64 / epoch_start.elapsed().as_secs_f64();
        let scores = if dev.is_empty() {
            None
        } else {
            Some(score(&mut trainer.tape, &trainer.model, vocabulary, classification, dev)?)
        };
        let point = EpochPoint {
            step: state.step,
            epoch: epoch + 1,
            loss: sum.mean(),
            accuracy: sum.accuracy(),
            learning_rate,
            tokens_per_second,
            dev_accuracy: scores.map(|scores| scores.0),
            dev_mcc: scores.map(|scores| scores.1),
        };
        started(&mut run, &options.out, options.config.as_deref(), state.step)?.write(&point)?;
        points.push(point);
        if epoch + 1 == options.epochs || (epoch + 1).is_multiple_of(options.save_every) {
            let Trainer { model, optimizer, .. } = &trainer;
            let (out, keep) = (&options.out, options.keep);
            save_checkpoint(out, model, vocabulary, Some(classification), optimizer, &state, keep)?;
        }
    }
    let last = points.last().copied();
    progress.finish(&format!("loss {:.4}", last.map_or(state.loss_last, |point| point.loss)));
    save_model(&options.out, &trainer.model, vocabulary, Some(classification))?;
    let summary = FinetuneSummary {
        steps: state.step,
        tokens: state.tokens,
        tokens_per_second: state.tokens_per_second(),
        seconds: state.seconds,
        loss_last: last.map_or(state.loss_last, |point| point.loss),
        dev_accuracy: last.and_then(|point| point.dev_accuracy),
        dev_mcc: last.and_then(|point| point.dev_mcc),
        attention,
        points,
    };
    Ok((trainer.model, summary))
}

/// The rows that the model's head reads.
fn rows_of(model: &Model) -> labelled::Head {
    match model.head {
        Head::Site { .. } => labelled::Head::Site,
        Head::Cls { .. } | Head::MaskedLm | Head::Encoder { .. } => labelled::Head::Cls,
    }
}

fn check_labels<'a>(windows: impl Iterator<Item = &'a LabelledWindow>, model: &Model) -> Result<()> {
    let classes = model.head.classes(&model.config) as i32;
    let mut count = 0;
    for window in windows {
        count += 1;
        if !(0..classes).contains(&window.label) {
            return Err(Error::usage(
                format!("a window has label {}, but the model has {classes} classes", window.label),
                "use data with the classes that the model was trained for",
            ));
        }
    }
    if count == 0 {
        return Err(Error::usage("no windows to train on", "give a training file with at least one window"));
    }
    Ok(())
}

/// The order of the windows in an epoch.
fn epoch_order(windows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..windows).collect();
    shuffle(&mut order, Philox::of(seed, epoch as u32, Purpose::Shuffle));
    order
}

/// Accuracy and multi-class MCC.
fn score(
    tape: &mut Tape,
    model: &Model,
    vocabulary: &Vocabulary,
    classification: &Classification,
    windows: &[LabelledWindow],
) -> Result<(f64, f64)> {
    let bases: Vec<&[u8]> = windows.iter().map(|window| window.bases.as_slice()).collect();
    let probabilities = classify(tape, model, vocabulary, classification, &bases, &mut |_| ())?;
    let predictions: Vec<u8> = probabilities.iter().map(|row| largest(row) as u8).collect();
    let labels: Vec<u8> = windows.iter().map(|window| window.label as u8).collect();
    let confusion = Confusion::of(&labels, &predictions, model.head.classes(&model.config))?;
    Ok((confusion.accuracy(), confusion.mcc()))
}

/// Index of the largest value, the first of equals.
pub fn largest(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, index| if row[index] > row[best] { index } else { best })
}

/// Class probabilities of windows, `[windows][classes]`. `progress` hears the number of windows done.
///
/// # Errors
/// [`Error::Usage`] for windows that do not fit the model.
pub fn classify(
    tape: &mut Tape,
    model: &Model,
    vocabulary: &Vocabulary,
    classification: &Classification,
    windows: &[&[u8]],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f64>>> {
    /// Bases in a batch: enough to keep all cores busy, few enough for any memory.
    const BASES_PER_BATCH: usize = 1 << 14;
    let mut probabilities = Vec::with_capacity(windows.len());
    let mut first = 0;
    while first < windows.len() {
        let mut bases = 0;
        let fits = windows[first..].iter().take_while(|window| {
            bases += classification.window.unwrap_or(window.len());
            bases <= BASES_PER_BATCH
        });
        let count = fits.count().max(1);
        let labelled: Vec<_> = windows[first..first + count].iter().map(|&window| (window, 0)).collect();
        let batch = classification_batch(&labelled, vocabulary, classification.window, rows_of(model))
            .map_err(|error| number_windows(error, first))?;
        probabilities.extend(probabilities_of(tape, model, &batch)?);
        first += count;
        progress(first);
    }
    Ok(probabilities)
}

/// A batch counts its windows from 1; the caller's first one has another number.
fn number_windows(error: Error, first: usize) -> Error {
    match error {
        Error::Usage { found, remedy } if first > 0 => {
            Error::Usage { found: format!("in the batch that starts at window {}: {found}", first + 1), remedy }
        }
        other => other,
    }
}

/// Softmax of the logits of one batch.
fn probabilities_of(tape: &mut Tape, model: &Model, batch: &Batch) -> Result<Vec<Vec<f64>>> {
    tape.start_inference();
    let batch = model.upload(tape, batch)?;
    let logits = model.forward(tape, &batch)?;
    tape.recycle_batch(batch);
    let softmax = |row: &[f64]| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = row.iter().map(|logit| (logit - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    };
    Ok(tape.to_f64(logits)?.chunks_exact(logits.columns).map(softmax).collect())
}
