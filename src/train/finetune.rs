//! Fine-tuning a classifier on labelled windows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::apply::{check_answers, rows_of, shared_answers};
use super::baselines::SiteMatrices;
use super::calibration::Calibration;
use super::checkpoint::{Classification, import_as_trained, load, load_encoder};
use super::class_weights::ClassWeights;
use super::evaluation::{DevScores, labels_of, splice_order};
use super::interrupt;
use super::model_image::{ModelImage, to_json};
use super::peak::Utilisation;
use super::pretrain::{hear, started};
use super::run::{BEST_FOLDER, Run, add_tokens};
use super::run_state::{Best, RunState, resume_from};
use super::snapshot::CheckpointWriter;
use super::standardise::Standard;
use super::step::{self, ProfileSteps, Trainer};
use crate::autograd::Tape;
use crate::device::{DType, Device};
use crate::interop::names::DecoderBias;
use crate::kmer::labelled::{LabelledWindow, checksum, example_batch};
use crate::kmer::vocabulary::{BaseOrder, Vocabulary};
use crate::model::{Freeze, Head, Lora, Model, Task, preset};
use crate::ops::{Loss, Weighting};
use crate::optim::{AdamWConfig, Decay, Schedule, Warmup};
use crate::output::{write_atomic, write_folder_atomic};
use crate::parallel::Ranks;
use crate::philox::{Philox, Purpose, shuffle};
use crate::report::progress::Progress;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What calibration found, in a run's folder.
const CALIBRATION_FILE: &str = "calibration.json";
/// Steps after which a device is asked for its losses, so that a training that has diverged is noticed.
const STEPS_UNASKED: u64 = 50;

/// How to fine-tune.
#[derive(Clone, Debug)]
pub struct FinetuneOptions {
    /// Where to compute.
    pub device: Device,
    /// The processes that train together.
    pub ranks: Ranks,
    /// Steps that a profiler attached from outside collects.
    pub collected: Option<ProfileSteps>,
    /// The type of weights and activations.
    pub dtype: DType,
    /// Seed of every random choice.
    pub seed: u64,
    /// Passes over the training windows.
    pub epochs: u64,
    /// Windows in an update.
    pub batch: usize,
    /// Parts that an update is computed in, over all ranks; more of them take less memory.
    pub micro_batches: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Updates in which the rate rises.
    pub warmup: Warmup,
    /// How it falls afterwards.
    pub decay: Decay,
    /// The optimizer's constants.
    pub optimizer: AdamWConfig,
    /// Write a checkpoint every so many epochs, and at the end.
    pub save_every: u64,
    /// Checkpoints to keep.
    pub keep: usize,
    /// Stop when so many epochs in a row have brought no better figure on the dev windows, and keep the best epoch's model;
    /// `None`: make all epochs and keep the last one's.
    pub patience: Option<u64>,
    /// What of the encoder stays as it is.
    pub freeze: Option<Freeze>,
    /// Adapters, which are trained with the head, and nothing else.
    pub lora: Option<Lora>,
    /// What windows of a class count: as PyTorch's `CrossEntropyLoss(weight=...)`, and of several labels at once as `pos_weight`.
    pub class_weights: Option<ClassWeights>,
    /// The exponent of the focal loss (Lin et al., ICCV 2017), of single labels.
    pub focal_loss: Option<f64>,
    /// Divide classes' logits by the temperature that fits the dev windows best, where there are any.
    pub calibrate: bool,
    /// The folder of the run. Nothing is written to it before the first step has succeeded.
    pub out: PathBuf,
    /// The resolved options, for the folder's `config.toml`.
    pub config: Option<String>,
    /// No progress, no log.
    pub quiet: bool,
}

impl FinetuneOptions {
    /// DNABERT's constants on the CPU: five epochs of batches of 32, AdamW at 2e-4 with a tenth of warm-up and linear decay.
    pub fn new(out: PathBuf) -> Self {
        Self {
            device: Device::Cpu,
            ranks: Ranks::alone(),
            collected: None,
            dtype: DType::F32,
            seed: 42,
            epochs: 5,
            batch: 32,
            micro_batches: 1,
            learning_rate: 2e-4,
            warmup: Warmup::Share(0.1),
            decay: Decay::Linear,
            optimizer: AdamWConfig { beta2: 0.999, eps: 1e-8, ..AdamWConfig::default() },
            save_every: 1,
            keep: 1,
            patience: None,
            freeze: None,
            lora: None,
            class_weights: None,
            focal_loss: None,
            calibrate: true,
            out,
            config: None,
            quiet: false,
        }
    }
}

/// A logged point: the end of an epoch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct EpochPoint {
    /// Updates made.
    pub step: u64,
    /// Passes made.
    pub epoch: u64,
    /// Mean training loss of the epoch, by the classes' weights and with the focal loss where there are such: in nats; of a regression, the squared error of numbers standardised over the training
    /// windows, so that 1 is what the mean would have.
    pub loss: f64,
    /// Share of training windows classified right during the epoch (multi-label: right in every class; regression: 0).
    pub accuracy: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Global gradient norm of the last step, before clipping.
    pub gradient_norm: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Share of the device's peak that the products reached.
    pub mfu: f64,
    /// On the dev windows, if there are any.
    #[serde(flatten)]
    pub dev: DevScores,
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
    /// Mean training loss of the last epoch, as [`EpochPoint::loss`].
    pub loss_last: f64,
    /// On the dev windows, by the model that was kept.
    #[serde(flatten)]
    pub dev: DevScores,
    /// Weights that were trained; the others were frozen.
    pub trained_parameters: usize,
    /// Adapters that were trained, and added to the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// The epoch whose model was kept, where the best is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<u64>,
    /// What windows of each class counted in training, where classes have weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<BTreeMap<String, f64>>,
    /// How the probabilities were calibrated on the dev windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Which attention ran.
    pub attention: String,
    /// Which processes trained in this session, and who added their gradients, where there were several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<String>,
    /// The epochs of this session.
    #[serde(skip)]
    pub points: Vec<EpochPoint>,
}

/// Trains a classifier on `train` and leaves the result, a Hugging Face directory, in `options.out`. It starts from the encoder
/// in `init`, or from random weights of the preset splice-small, which reads 3-mers; `labels` names the classes 0, 1, ... For
/// anything else there is [`finetune`].
///
/// # Errors
/// As [`finetune`] and [`load_encoder`].
pub fn finetune_classes(
    init: Option<&Path>,
    labels: &[&str],
    train: &[LabelledWindow],
    dev: &[LabelledWindow],
    options: &FinetuneOptions,
) -> Result<(Model, FinetuneSummary)> {
    let head = Head::Cls { labels: labels.len() };
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let classification = Classification { labels, ..Classification::default() };
    let (model, vocabulary) = match init {
        Some(path) => load_encoder(path, head, Some(&classification), options.seed)?,
        None => {
            let longest = train.iter().chain(dev).map(|window| window.bases.len()).max().unwrap_or_default();
            // A k-mer fewer than bases, and [CLS] and [SEP].
            let config = preset("splice-small")?.config(longest.max(3));
            (Model::initialise(config, head, DType::F32, options.seed)?, Vocabulary::new(3, BaseOrder::Atcg)?.shared())
        }
    };
    finetune(model, &*vocabulary, &classification, train, dev, options, false)
}

/// Trains `model` on `train` and leaves the result, a Hugging Face directory, in `options.out`. Returns the trained
/// model too. With `resume`, goes on from the newest checkpoint there, bit for bit. Of a regression the head of `model` answers in numbers
/// standardised over `train`, as a new one and that of [`load_encoder`] do; what is returned and written answers in their own units.
///
/// # Errors
/// [`Error::Usage`] for windows that do not fit the model or labels it has no class for; [`Error::Interrupted`] after
/// Ctrl-C; those of training and of files.
pub fn finetune(
    mut model: Model,
    vocabulary: &dyn Tokenizer,
    classification: &Classification,
    train: &[LabelledWindow],
    dev: &[LabelledWindow],
    options: &FinetuneOptions,
    resume: bool,
) -> Result<(Model, FinetuneSummary)> {
    check_answers(train.iter().chain(dev), &model, classification)?;
    if options.focal_loss.is_some() && classification.task != Task::SingleLabel {
        return Err(Error::usage(
            "--focal-loss with several labels at once, or with numbers",
            "leave it out: it is for one class of several",
        ));
    }
    let class_weights = options.class_weights.as_ref().map(|weights| weights.of(classification, train)).transpose()?;
    let counts = class_counts(classification, train, class_weights.as_deref());
    let classification = &Classification { counts, ..classification.clone() };
    if options.patience.is_some() && dev.is_empty() {
        return Err(Error::usage("early stopping without dev windows", "give some (--dev), or leave --early-stop out"));
    }
    let best_folder = options.out.join(BEST_FOLDER);
    let image = |model: &Model| ModelImage::of(model, vocabulary, Some(classification));
    let steps_per_epoch = train.len().div_ceil(options.batch) as u64;
    let total_steps = steps_per_epoch * options.epochs;
    let warmup = options.warmup.steps(total_steps);
    let schedule = Schedule {
        peak: options.learning_rate,
        minimum: 0.0,
        warmup,
        decay_steps: total_steps.saturating_sub(warmup),
        decay: options.decay,
    };
    let standard = (classification.task == Task::Regression).then(|| Standard::of(train));
    let standardised = standard.as_ref().map(|standard| standard.windows(dev));
    let dev_seen = standardised.as_deref().unwrap_or(dev);
    match (&options.lora, options.freeze) {
        (Some(_), Some(_)) => {
            let remedy = "leave --freeze out: all but the adapters and the head is frozen anyway";
            return Err(Error::usage("--lora with --freeze", remedy));
        }
        (Some(lora), None) => model.adapt(lora, options.seed)?,
        (None, freeze) => model.freeze(freeze.map(|freeze| freeze.layers(&model.config)))?,
    }
    let trained_parameters = model.trained_count();
    let attention = model.attention_path(&options.device, options.dtype)?;
    let mut trainer = Trainer::new(model, options.optimizer, &options.device, options.dtype, options.seed)?;
    trainer.collected = options.collected;
    trainer.ranks = options.ranks.clone();
    let ranks = &options.ranks;
    let writes = ranks.writes();
    trainer.stops = Some(interrupt::requested);
    if class_weights.is_some() || options.focal_loss.is_some() {
        let classes = classification.labels.len();
        let weights = class_weights.as_ref().map_or(vec![1.0; classes], |all| all.iter().map(|w| *w as f32).collect());
        trainer.weighting = Some(Weighting::new(&options.device, weights, options.focal_loss.unwrap_or(0.0))?);
    }
    if let Some(weights) = &class_weights {
        let told: Vec<String> =
            classification.labels.iter().zip(weights).map(|(label, weight)| format!("{label} {weight:.4}")).collect();
        tracing::info!("weights of the classes: {}", told.join(", "));
    }
    let settings = settings(vocabulary, classification, train, options);
    let mut state = RunState::new(total_steps, options.seed, options.optimizer, settings);
    if resume {
        state = resume_from(&options.out, &mut trainer, state, standard.is_some())?;
        tracing::info!("resuming after step {} of {total_steps}", state.step);
    }
    trainer.agree(&state, options.config.as_deref())?;
    let mut run: Option<Run> = None;
    let mut progress = Progress::new("fine-tuning", total_steps, options.quiet).unit("tokens").resume_at(state.step);
    let mut writer = CheckpointWriter::new(&options.out, options.keep);
    writer = writer.in_units_of(standard.clone()).unless(!writes);
    let mut points: Vec<EpochPoint> = Vec::new();
    let mut utilisation = Utilisation::new(&options.device, options.dtype);
    let (seconds_before, tokens_before, session) = (state.seconds, state.tokens, Instant::now());
    let _saving = interrupt::saving();
    let unevaluated = state.unevaluated.take().map(serde_json::from_value::<EpochPoint>).transpose();
    let mut unevaluated = unevaluated.map_err(|error| Error::Failed(error.to_string()))?;

    // An epoch that the last session trained, but could not evaluate to the end, is gone through again without a step.
    let first = state.step / steps_per_epoch.max(1) - u64::from(unevaluated.is_some());
    for epoch in first..options.epochs {
        if let (Some(patience), Some(best)) = (options.patience, state.best)
            && epoch >= best.epoch + patience
        {
            tracing::info!("no better epoch since number {}: stopping after {epoch}", best.epoch);
            break;
        }
        let order = epoch_order(train.len(), options.seed, epoch);
        let (mut epoch_tokens, epoch_start) = (0, Instant::now());
        let done = (state.step - epoch * steps_per_epoch) as usize;
        // What an interrupted session has seen of the epoch counts.
        if done == 0 {
            state.interval = Loss::default();
        }
        let (mut learning_rate, mut gradient_norm) = (0.0, 0.0);
        for chunk in order.chunks(options.batch).skip(done) {
            let examples: Vec<_> = chunk.iter().map(|&i| &train[i]).collect();
            let parts = (0..options.micro_batches).map(|part| {
                &examples
                    [examples.len() * part / options.micro_batches..examples.len() * (part + 1) / options.micro_batches]
            });
            let batch = |part: &[&LabelledWindow]| {
                example_batch(part, vocabulary, classification.window, rows_of(&trainer.model))
            };
            let batches = parts.clone().map(batch).collect::<Result<Vec<_>>>()?;
            let tokens = batches.iter().map(|batch| batch.total_tokens() as u64).sum::<u64>();
            learning_rate = schedule.at(state.step);
            let advanced = match classification.task {
                Task::SingleLabel => trainer.advance(&batches, learning_rate),
                task => {
                    let targets = |part: &[&LabelledWindow]| {
                        let mut targets = Vec::with_capacity(part.len() * classification.labels.len());
                        part.iter().for_each(|example| match &standard {
                            Some(standard) => targets.extend(standard.standardised(&example.targets)),
                            None => targets.extend(&example.targets),
                        });
                        targets
                    };
                    let batches: Vec<_> = batches.into_iter().zip(parts.map(targets)).collect();
                    trainer.advance_towards(&batches, task, learning_rate)
                }
            };
            if let Err(Error::Interrupted(why)) = advanced {
                progress.finish("interrupted");
                if run.is_none() {
                    return Err(Error::Interrupted(format!("{why} before the first one of this session was done")));
                }
                hear(&mut trainer, &mut state, &mut gradient_norm, &mut utilisation)?;
                writer.save(&trainer, vocabulary, Some(classification), &state)?;
                return Err(writer.interrupted(state.step));
            }
            advanced?;
            state.step += 1;
            state.tokens += tokens;
            epoch_tokens += tokens;
            let epoch_ends = state.step.is_multiple_of(steps_per_epoch);
            // An epoch that is complete is evaluated, or told to be evaluated later.
            let stops = trainer.stopping() && !epoch_ends;
            let asks = epoch_ends || stops || state.step.is_multiple_of(STEPS_UNASKED);
            if trainer.knows_losses() || run.is_none() || asks {
                hear(&mut trainer, &mut state, &mut gradient_norm, &mut utilisation)?;
            }
            state.seconds = seconds_before + session.elapsed().as_secs_f64();
            started(&mut run, &options.out, options.config.as_deref(), state.step - 1, writes)?;
            let message = format!("epoch {}, loss {:.4}", epoch + 1, state.loss_last);
            progress.update(state.step, state.tokens - tokens_before, &message);
            if stops {
                writer.save(&trainer, vocabulary, Some(classification), &state)?;
                progress.finish("interrupted");
                return Err(writer.interrupted(state.step));
            }
        }
        let mut point = match unevaluated.take() {
            Some(point) => point,
            None => {
                let seconds = epoch_start.elapsed().as_secs_f64();
                EpochPoint {
                    step: state.step,
                    epoch: epoch + 1,
                    loss: state.interval.mean(),
                    accuracy: state.interval.accuracy(),
                    learning_rate,
                    gradient_norm,
                    tokens_per_second: epoch_tokens as f64 / seconds,
                    mfu: utilisation.take(seconds, &mut state.peak)? / ranks.size() as f64,
                    dev: DevScores::default(),
                }
            }
        };
        let dev_scores = match dev.is_empty() {
            true => Ok(DevScores::default()),
            false => score(&mut trainer.tape, &trainer.model, vocabulary, classification, dev_seen, ranks),
        };
        match dev_scores {
            Ok(scores) => point.dev = scores,
            Err(Error::Interrupted(_)) => {
                let point = serde_json::to_value(point).map_err(|error| Error::Failed(error.to_string()))?;
                state.unevaluated = Some(point);
                writer.save(&trainer, vocabulary, Some(classification), &state)?;
                progress.finish("interrupted");
                return Err(writer.interrupted(state.step));
            }
            Err(error) => return Err(error),
        }
        started(&mut run, &options.out, options.config.as_deref(), state.step - 1, writes)?.write(&point)?;
        points.push(point);
        state.loss_last = point.loss;
        if let (Some(_), Some(score)) = (options.patience, point.dev.headline())
            && state.best.is_none_or(|best| score > best.score)
        {
            if writes {
                write_folder_atomic(&best_folder, |folder| {
                    image(&trainer.model)?.in_units_of(standard.as_ref())?.write(folder)
                })?;
            }
            state.best = Some(Best { epoch: epoch + 1, score });
        }
        if ranks.any("the end of an epoch", interrupt::requested())? && epoch + 1 < options.epochs {
            writer.save(&trainer, vocabulary, Some(classification), &state)?;
            progress.finish("interrupted");
            return Err(writer.interrupted(state.step));
        }
        if epoch + 1 == options.epochs || (epoch + 1).is_multiple_of(options.save_every) {
            writer.save(&trainer, vocabulary, Some(classification), &state)?;
        }
    }
    writer.finish()?;
    let mut dev_scores = points.last().map_or(DevScores::default(), |point| point.dev);
    let best_epoch = options.patience.and(state.best).map(|best| best.epoch);
    let calibrates = classification.task == Task::SingleLabel && options.calibrate && !dev.is_empty();
    let (mut model, mut in_units) = (trainer.model, standard.is_none());
    if best_epoch.is_some_and(|best| best * steps_per_epoch != state.step) {
        let dtype = classification.answers_dtype(options.dtype);
        (model, in_units) = (import_as_trained(&best_folder, DecoderBias::Auto)?.0.model, true);
        model.parameters.move_to(&options.device, dtype)?;
        if !calibrates {
            let mut tape = Tape::new(options.device.clone(), dtype);
            dev_scores = score(&mut tape, &model, vocabulary, classification, dev, ranks)?;
        }
    }
    let last = points.last().copied();
    state.seconds = seconds_before + session.elapsed().as_secs_f64();
    progress.finish(&format!("loss {:.4}", last.map_or(state.loss_last, |point| point.loss)));
    // A head that answers with the mean has a squared error of 1 of standardised numbers.
    let guessing = if standard.is_some() { 1.0 } else { (classification.labels.len().max(2) as f64).ln() };
    step::check_end(last.map_or(state.loss_last, |point| point.loss), guessing)?;
    // A run that was killed after its last step has none to make, but debris to clear away.
    started(&mut run, &options.out, options.config.as_deref(), state.step, writes)?;
    let mut written = image(&model)?.in_units_of(standard.as_ref().filter(|_| !in_units))?;
    let mut calibration = None;
    if calibrates {
        let mut tape = Tape::new(options.device.clone(), options.dtype);
        let answers = shared_answers(&mut tape, &model, vocabulary, classification, dev, ranks, &mut |_| ())?;
        dev_scores = DevScores::of(classification, &answers, dev)?;
        calibration = Some(Calibration::of(&answers, &labels_of(dev)));
    }
    if let Some(calibration) = &calibration {
        written = written.at_temperature(calibration.temperature, classification.labels.len())?;
        if writes {
            write_atomic(options.out.join(CALIBRATION_FILE), to_json(calibration)?)?;
        }
    }
    if let Some(matrices) = splice_order(&classification.labels).and_then(|order| SiteMatrices::learn(train, order))
        && writes
    {
        write_atomic(options.out.join(SiteMatrices::FILE), to_json(&matrices)?)?;
    }
    if writes {
        written.merged_beside(&options.out)?.write(&options.out)?;
    }
    ranks.gather("the model", Vec::new())?;
    if !in_units || calibration.is_some() || options.lora.is_some() {
        model = load(&options.out)?.model;
    }
    let summary = FinetuneSummary {
        steps: state.step,
        tokens: state.tokens,
        tokens_per_second: state.tokens_per_second(),
        seconds: state.seconds,
        loss_last: last.map_or(state.loss_last, |point| point.loss),
        dev: dev_scores,
        trained_parameters,
        lora: options.lora.clone(),
        best_epoch,
        class_weights: class_weights.map(|weights| classification.labels.iter().cloned().zip(weights).collect()),
        calibration,
        attention,
        ranks: options.ranks.describe(),
        points,
    };
    Ok((model, summary))
}

/// What the batches and updates of a run depend on.
pub(super) fn settings(
    vocabulary: &dyn Tokenizer,
    classification: &Classification,
    train: &[LabelledWindow],
    options: &FinetuneOptions,
) -> Value {
    let Classification { labels, window, task, pairs, .. } = classification;
    let mut settings = json!({
        "training windows": checksum(train.iter().map(|window| (window, 0))),
        "labels": labels,
        "window": window,
        "task": task,
        "pairs": pairs,
        "batch": options.batch,
        "learning-rate": options.learning_rate,
        "warmup": options.warmup,
        "decay": options.decay,
        "freeze": options.freeze,
        "lora": options.lora,
        "class-weights": options.class_weights,
        "focal-loss": options.focal_loss,
    });
    // Runs that were begun before there was a choice have one.
    if options.micro_batches != 1 {
        settings["micro-batches"] = json!(options.micro_batches);
    }
    add_tokens(&mut settings, vocabulary);
    settings
}

/// Training windows of each class, in thousandths where they have weights; none of other tasks.
fn class_counts(classification: &Classification, train: &[LabelledWindow], weights: Option<&[f64]>) -> Vec<u64> {
    if classification.task != Task::SingleLabel {
        return Vec::new();
    }
    let mut counts = vec![0; classification.labels.len()];
    train.iter().flat_map(LabelledWindow::classes).for_each(|label| counts[label as usize] += 1);
    match weights {
        Some(weights) => {
            counts.iter().zip(weights).map(|(&n, w)| ((1e3 * n as f64 * w).round() as u64).max(n.min(1))).collect()
        }
        None => counts,
    }
}

/// The order of the windows in an epoch.
fn epoch_order(windows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..windows).collect();
    shuffle(&mut order, Philox::of(seed, epoch as u32, Purpose::Shuffle));
    order
}

/// The figures on the dev windows.
fn score(
    tape: &mut Tape,
    model: &Model,
    vocabulary: &dyn Tokenizer,
    classification: &Classification,
    dev: &[LabelledWindow],
    ranks: &Ranks,
) -> Result<DevScores> {
    let answers = shared_answers(tape, model, vocabulary, classification, dev, ranks, &mut |_| ())?;
    DevScores::of(classification, &answers, dev)
}
