//! `helixgrad finetune`: a classifier from labelled windows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::evaluate::{answers_of, part, scores_text};
use super::lora::LoraArgs;
use super::model::ModelArgs;
use super::{Common, Told, config, run_folder};
use crate::device::DType;
use crate::kmer::classes::{names_beside, renumber};
use crate::kmer::labelled::{self, LabelledWindow};
use crate::kmer::table::{Answers, Limits, Table, read_table};
use crate::lossy;
use crate::model::{Freeze, Head, Lora, Model, Positions, Recompute, Task, Trained};
use crate::optim::{AdamWConfig, Decay, Warmup};
use crate::parallel::tree::GradientTree;
use crate::parallel::{Ranks, Reduction};
use crate::report::format;
use crate::tokenizer::Tokenizer;
use crate::train::calibration::Calibration;
use crate::train::checkpoint::{self, Classification};
use crate::train::class_weights::ClassWeights;
use crate::train::cross_validation::{CrossValidation, PLAN_FILE, cross_validate};
use crate::train::evaluation::DevScores;
use crate::train::finetune::{FinetuneOptions, FinetuneSummary, finetune};
use crate::train::model_image::ADAPTER_FOLDER;
use crate::train::step::ProfileSteps;
use crate::{Error, Result};

/// Options of `helixgrad finetune`.
#[derive(clap::Args, Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// A folder with train.tsv and dev.tsv (as `helixgrad splice dataset` writes; GUE's train.csv and dev.csv), or a training
    /// file. After a header, a line has a sequence (bases or k-mers), or two with --pairs, and what --task says.
    #[arg(long, value_name = "DIR|FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    data: PathBuf,
    /// The dev file (default: dev.tsv or dev.csv in the folder, if it is there).
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    dev: Option<PathBuf>,
    /// Start from this checkpoint; without it a model of --preset learns from scratch.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    init: Option<PathBuf>,
    /// The folder of the run: checkpoints, metrics, and the finished model.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Go on from the newest checkpoint in --out, with the options in its config.toml.
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    #[command(flatten)]
    #[serde(flatten)]
    model: ModelArgs,
    /// What of the encoder stays as --init has it: encoder (the head alone is trained: with --head site a linear probe, with --head cls the
    /// pooler and a linear layer), embeddings, or a number: the embeddings and so many of the first layers.
    #[arg(long, value_name = "encoder|embeddings|LAYERS", requires = "init")]
    #[serde(skip_serializing_if = "Option::is_none")]
    freeze: Option<Freeze>,
    #[command(flatten)]
    #[serde(flatten)]
    lora: LoraArgs,
    /// What is learnt: one class of several (its number or name a line), several at once (0 or 1 for each class), or numbers.
    #[arg(long, value_enum, default_value = "single-label")]
    task: Task,
    /// Every line has two sequences; the model reads both, with `[SEP]` between.
    #[arg(long)]
    pairs: bool,
    /// Stop after so many epochs without a better figure on the dev windows (MCC, macro AUROC, or the share of variance explained), and
    /// keep the best epoch's model.
    #[arg(long, value_name = "EPOCHS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    early_stop: Option<u64>,
    /// Cross-validation: train so many models, each on all training windows but a part that it then predicts.
    #[arg(long, value_name = "N", conflicts_with = "dev")]
    #[serde(skip_serializing_if = "Option::is_none")]
    folds: Option<usize>,
    /// What the classifier reads: the token at the site, or `[CLS]` through the pooler; or tokens: those at all places of long windows that
    /// have a class (column labels, as `helixgrad splice stretches` writes), so that one pass answers for many places.
    #[arg(long, value_enum, default_value = "cls")]
    head: labelled::Head,
    /// Width of a hidden layer in the site head (BioNeMo: 64).
    #[arg(long, value_name = "N")]
    head_hidden: Option<usize>,
    /// Use the middle so many bases of each window (default: all; the model remembers what it was).
    #[arg(long, value_name = "BASES")]
    window: Option<usize>,
    /// Names of the classes 0, 1, ..., separated by commas (default: those in the folder's dataset.json, those in the label column, or
    /// numbers).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    labels: Vec<String>,
    /// What windows of a class count in the loss: balanced (all windows over classes times the class' windows), or numbers by name, as in
    /// donor=2,none=0.5, and 1 for the others. With --task multi-label: what a class counts where it holds (balanced: the windows
    /// without it over those with it). The model then takes the classes for as frequent as they counted.
    #[arg(long, value_name = "balanced|NAME=W,...")]
    #[serde(skip_serializing_if = "Option::is_none")]
    class_weights: Option<ClassWeights>,
    /// Focal loss: a window counts (1 - p)^GAMMA times, where p is the probability of its class (Lin et al., 2017, take 2), on top of
    /// --class-weights.
    #[arg(long, value_name = "GAMMA")]
    #[serde(skip_serializing_if = "Option::is_none")]
    focal_loss: Option<f64>,
    /// Passes over the training windows.
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    /// Windows in an update.
    #[arg(long, default_value_t = 32, value_name = "WINDOWS")]
    batch: usize,
    /// Compute an update in this many parts, to save memory; several processes share them (default: one for each process).
    #[arg(long, value_name = "N")]
    micro_batches: Option<usize>,
    /// Who adds up the gradients of several processes (mpirun, srun): exact has the bits of one process, library is MPI's or NCCL's own
    /// all-reduce, whose bits depend on its version and on how many there are.
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    reduce: Reduction,
    /// The highest learning rate.
    #[arg(long, default_value_t = 2e-4, value_name = "RATE")]
    learning_rate: f64,
    /// Updates in which it rises: a share of all, or a number of them as in 100.
    #[arg(long, default_value = "0.1", value_name = "STEPS|SHARE")]
    warmup: Warmup,
    /// How it falls afterwards.
    #[arg(long, value_enum, default_value = "linear")]
    decay: Decay,
    /// Decoupled weight decay of matrices.
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    /// AdamW's decay of the second moment.
    #[arg(long, default_value_t = 0.999)]
    beta2: f64,
    /// On a GPU, keep weights in bf16 alone, without f32 copies, and round each update up or down at random, right on average: 4 bytes a
    /// parameter less memory.
    #[arg(long)]
    stochastic_rounding: bool,
    /// Activations that are computed again on the way back, not kept: none; GELU's output in each layer, a quarter of the memory for a
    /// few percent of the time; or all inside each layer, most of the memory for a third more time. The result has the same bits.
    #[arg(long, value_enum, default_value = "none")]
    recompute: Recompute,
    /// Scale gradients down to this global norm; 0: never.
    #[arg(long, default_value_t = 1.0)]
    max_gradient_norm: f64,
    /// Write a checkpoint every so many epochs.
    #[arg(long, default_value_t = 1, value_name = "EPOCHS")]
    save_every: u64,
    /// Checkpoints to keep.
    #[arg(long, default_value_t = 1, value_name = "N")]
    keep: usize,
    /// Leave the model's probabilities as they are. Otherwise, where there are dev windows, classes' logits are divided by the
    /// temperature that fits these best, and calibration.json says what it does; the likeliest class stays the same.
    #[arg(long)]
    no_calibration: bool,
    /// On a GPU: have an attached profiler (nsys, ncu) collect these steps, from 1, as in 10..12; with --folds of each model.
    #[arg(long, value_name = "A..B")]
    #[serde(skip)]
    profile_steps: Option<ProfileSteps>,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, training and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let (ranks, common) = common.join(args.reduce)?;
    let result = run_on(args, &common, &ranks);
    ranks.leave(result)
}

fn run_on(args: &Args, common: &Common, ranks: &Ranks) -> Result<()> {
    check_tokens(args)?;
    if args.folds.is_some() && ranks.size() > 1 {
        return Err(Error::usage(
            format!("--folds by {} ranks", ranks.size()),
            "cross-validate in one process: its models are trained one after the other",
        ));
    }
    let resume = check_out(args)?;
    let options = options(args, common, ranks)?;
    let (train_path, dev_path) = data_files(args);
    let answers = if args.head == labelled::Head::Tokens { Answers::Places } else { answers_of(args.task) };
    let read = |path: &PathBuf, classes: &[String]| read_table(path, answers, args.pairs, classes);
    let given = if args.task == Task::SingleLabel { given_names(args, &train_path)? } else { Vec::new() };
    let train_table = read(&train_path, &given)?;
    let names = &train_table.names;
    let dev_path = dev_path.filter(|_| args.folds.is_none());
    let classes = if names.is_empty() { &given } else { names };
    let mut dev_table = dev_path.as_ref().map(|path| read(path, classes)).transpose()?;
    if let (Some(dev), Some(path)) = (&mut dev_table, &dev_path) {
        check_dev(args, dev, path, names, classes)?;
    }
    let dev = dev_table.as_ref().map_or(&[][..], |table| &table.windows[..]);
    let uracils = train_table.uracils + dev_table.as_ref().map_or(0, |table| table.uracils);
    let Table { windows: train, rows, names, ranges, .. } = &train_table;
    let labels = match args.task {
        Task::SingleLabel => {
            let classes = labelled::classes(train).max(labelled::classes(dev)).max(2);
            label_names(args, classes, given, names.clone())?
        }
        _ => printable(named_columns(&args.labels, names)?.to_vec())?,
    };
    check_digits(&train_path, &labels, ranges)?;
    if args.task == Task::SingleLabel {
        let what = if args.head == labelled::Head::Tokens { "places" } else { "windows" };
        tracing::info!("classes of the training {what}: {}", counts(&labels, train));
    }
    let window = args.window.or_else(|| if args.pairs { None } else { common_length(train, dev) });
    let margin = labelled::margin(train).into_iter().chain(labelled::margin(dev)).min();
    let mut classification =
        Classification { labels, window, margin, task: args.task, pairs: args.pairs, ..Classification::default() };
    let outputs = classification.labels.len();
    let (mut model, vocabulary) = model(args, common, train, dev, &classification)?;
    // A place is as far from both ends as its token reaches on the longer side.
    classification.margin = margin.map(|margin| margin.max(vocabulary.shortest().div_ceil(2)));
    let limits = Limits { tokenizer: Arc::clone(&vocabulary), window, positions: model.config.max_position_embeddings };
    train_table.check_lengths(&train_path, &limits)?;
    if let (Some(dev), Some(path)) = (&dev_table, &dev_path) {
        dev.check_lengths(path, &limits)?;
    }
    model.recompute = args.recompute;
    let mean = train.iter().map(|window| window.bases.len()).sum::<usize>() / train.len().max(1);
    let tokens = args.batch.min(train.len()).div_ceil(options.micro_batches) * mean.min(window.unwrap_or(mean));
    let trained = match (options.lora.clone(), args.freeze) {
        (Some(lora), _) => Trained::Adapters(lora),
        (None, Some(freeze)) => Trained::Above(freeze.layers(&model.config)),
        (None, None) => Trained::Everything,
    };
    model.config.check_training(
        &options.device,
        tokens,
        GradientTree::buffers(ranks.share(options.micro_batches).len()),
        args.recompute,
        &trained,
    )?;
    tracing::info!(
        "{} training and {} dev windows, {outputs} outputs; {} parameters",
        format::count(train.len() as u64),
        format::count(dev.len() as u64),
        format::count(model.parameter_count() as u64)
    );
    if let Some(folds) = args.folds {
        let new_model = || {
            let (mut model, _) = self::model(args, common, train, dev, &classification)?;
            model.recompute = args.recompute;
            Ok(model)
        };
        drop(model);
        let result = cross_validate(&new_model, &*vocabulary, &classification, train, rows, folds, &options)?;
        return common.print(&Told { found: result, uracils }, |told| folds_text(&told.found, args));
    }
    let (_, summary) = finetune(model, &*vocabulary, &classification, train, dev, &options, resume)?;
    common.print(&Told { found: summary, uracils }, |told| human(&told.found, args))
}

/// What has no meaning where many places of a window have a class each.
fn check_tokens(args: &Args) -> Result<()> {
    if args.head != labelled::Head::Tokens {
        return Ok(());
    }
    let given = [
        (args.task != Task::SingleLabel, "--task"),
        (args.pairs, "--pairs"),
        (args.folds.is_some(), "--folds"),
        (args.window.is_some(), "--window"),
    ];
    match given.iter().find(|(is_given, _)| *is_given) {
        Some((_, option)) => Err(Error::usage(
            format!("--head tokens with {option}"),
            "leave it out: each place of a window has one class, and windows are read whole (`helixgrad splice stretches` makes them)",
        )),
        None => Ok(()),
    }
}

/// The dev table has the columns of the training file, whose `names` these are, and the same `classes`: where they have another order
/// there, their names decide.
fn check_dev(args: &Args, dev: &mut Table, path: &Path, names: &[String], classes: &[String]) -> Result<()> {
    let is_numbered = args.task == Task::SingleLabel && dev.names.is_empty();
    let is_elsewhere = path.parent() != data_files(args).0.parent();
    let own = if is_numbered && is_elsewhere && !classes.is_empty() { names_beside(path)? } else { Vec::new() };
    if !own.is_empty() {
        return renumber(dev, path, &own, classes);
    }
    // Rows that name their classes were looked up.
    if dev.names == names || args.task == Task::SingleLabel && !dev.names.is_empty() && dev.names == classes {
        return Ok(());
    }
    let found = match args.task {
        Task::SingleLabel => "names of classes in one of it and the training file, numbers in the other".to_owned(),
        _ => format!("columns {}, where the training file has {}", dev.names.join(", "), names.join(", ")),
    };
    Err(Error::input(path, "line 1", found, "use files with the same columns"))
}

/// The folder of a run, or of the runs of a cross-validation.
fn check_out(args: &Args) -> Result<bool> {
    let (first, plan) = (args.out.join("fold-1"), args.out.join(PLAN_FILE));
    match args.folds {
        Some(_) if args.resume => Ok(true),
        Some(_) if plan.is_file() && !first.exists() => {
            // Killed before its first fold.
            let belongs = |name: &str, is_folder: bool| !is_folder && matches!(name, PLAN_FILE | "config.toml");
            run_folder::check_begun(&args.out, "a cross-validation that was just begun", belongs).map(|()| false)
        }
        Some(_) if first.exists() => Err(Error::usage(
            format!("{} already holds a cross-validation", args.out.display()),
            "go on with it (--resume), name another folder, or remove it",
        )),
        _ => run_folder::check(&args.out, args.resume),
    }
}

/// The names of numbers or of classes that hold at once: those given, or the header's.
pub(super) fn named_columns<'a>(given: &'a [String], names: &'a [String]) -> Result<&'a [String]> {
    match given.len() {
        0 => Ok(names),
        all if all == names.len() => Ok(given),
        some => {
            let found = format!("--labels names {some} columns, but the file has {}", names.len());
            Err(Error::usage(found, "name them all, or leave --labels out: the header names them"))
        }
    }
}

fn folds_text(result: &CrossValidation, args: &Args) -> String {
    let each: Vec<String> = result.headline.iter().map(|value| format!("{value:.4}")).collect();
    format!(
        "{} windows, each predicted by the one of {} models that had not seen it\n\n{}\nby fold: {} (mean {:.4}, deviation {:.4})\nthe models are in {out}/fold-1 to fold-{}, the predictions in {out}/predictions.tsv",
        format::count(result.windows as u64),
        result.folds,
        scores_text(&result.pooled),
        each.join(" "),
        result.headline_mean,
        result.headline_deviation,
        result.folds,
        out = args.out.display()
    )
}

/// Numbers that differ in digits that a model's answers, 32-bit floats, do not have.
fn check_digits(path: &Path, names: &[String], ranges: &[(f64, f64)]) -> Result<()> {
    const LEAST: f64 = 1e-4;
    for (name, &(low, high)) in names.iter().zip(ranges) {
        if low < high && high - low < LEAST * low.abs().max(high.abs()) {
            let found = format!(
                "numbers from {low} to {high}: a model answers with seven digits, and they differ in the last of them"
            );
            let remedy = format!("subtract {low} from all of them, and add it to what is predicted");
            return Err(Error::input(path, format!("column {name}"), found, remedy));
        }
    }
    Ok(())
}

/// The classes with the number of their windows: what was mistyped shows here.
fn counts(labels: &[String], windows: &[LabelledWindow]) -> String {
    const SHOWN: usize = 20;
    let of = |(class, label): (i32, &String)| {
        format!("{label} {}", windows.iter().flat_map(LabelledWindow::classes).filter(|of| *of == class).count())
    };
    let mut counts: Vec<String> = (0..).zip(labels).map(of).collect();
    if counts.len() > SHOWN {
        counts.truncate(SHOWN);
        counts.push("...".into());
    }
    counts.join(", ")
}

/// Class names become columns of tables.
fn printable(names: Vec<String>) -> Result<Vec<String>> {
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    if let Some((_, twice)) = (0..).zip(&names).find(|(index, name)| names[..*index].contains(name)) {
        return Err(Error::usage(format!("two classes called {twice:?}"), "give each a name of its own"));
    }
    match names.iter().find(|name| name.is_empty() || name.contains(char::is_control)) {
        Some(name) => Err(Error::usage(format!("a class called {name:?}"), "use words, without tabs and line breaks")),
        None => Ok(names),
    }
}

/// The length of all windows, if it is one: longer sequences are cut to it when the model is applied.
fn common_length(train: &[LabelledWindow], dev: &[LabelledWindow]) -> Option<usize> {
    let length = train.first()?.bases.len();
    train.iter().chain(dev).all(|window| window.bases.len() == length).then_some(length)
}

fn options(args: &Args, common: &Common, ranks: &Ranks) -> Result<FinetuneOptions> {
    let micro_batches = args.micro_batches.unwrap_or(ranks.size());
    if !(1..=args.batch).contains(&micro_batches) {
        let found = format!("{} windows an update in {micro_batches} micro-batches", args.batch);
        return Err(Error::usage(
            found,
            "give --micro-batches from 1 to as many as --batch, and no more ranks than that",
        ));
    }
    ranks.check_micro_batches(micro_batches)?;
    if args.epochs > 1_000_000 {
        return Err(Error::usage(format!("--epochs {}", args.epochs), "give at most a million"));
    }
    let counts = [args.epochs, args.batch as u64, args.save_every, args.keep as u64, args.early_stop.unwrap_or(1)];
    if counts.contains(&0) {
        return Err(Error::usage("--epochs, --batch, --save-every, --keep or --early-stop is 0", "give at least 1"));
    }
    let rates = [args.learning_rate, args.weight_decay, args.max_gradient_norm];
    if rates.iter().any(|rate| !(rate.is_finite() && *rate >= 0.0)) || !(0.0..1.0).contains(&args.beta2) {
        return Err(Error::usage(
            "a learning rate, decay, norm or beta is out of its range",
            "rates are 0 or more, beta2 from 0 up to, not including, 1",
        ));
    }
    if let Some(gamma) = args.focal_loss.filter(|gamma| !(*gamma > 0.0 && *gamma <= 100.0)) {
        return Err(Error::usage(format!("--focal-loss {gamma}"), "give a number over 0 and up to 100, such as 2"));
    }
    let optimizer = AdamWConfig {
        beta1: 0.9,
        beta2: args.beta2,
        eps: 1e-8,
        weight_decay: args.weight_decay,
        max_gradient_norm: args.max_gradient_norm,
        stochastic_rounding: args.stochastic_rounding,
    };
    let (device, dtype) = common.device()?;
    Ok(FinetuneOptions {
        device,
        ranks: ranks.clone(),
        collected: args.profile_steps,
        dtype,
        seed: common.seed,
        epochs: args.epochs,
        batch: args.batch,
        micro_batches,
        learning_rate: args.learning_rate,
        warmup: args.warmup,
        decay: args.decay,
        optimizer,
        save_every: args.save_every,
        keep: args.keep,
        patience: args.early_stop,
        freeze: args.freeze,
        lora: args.lora.adapters(),
        class_weights: args.class_weights.clone(),
        focal_loss: args.focal_loss,
        calibrate: !args.no_calibration,
        out: args.out.clone(),
        config: Some(config::resolved(&Args { micro_batches: Some(micro_batches), ..args.clone() }, common)?),
        quiet: common.quiet,
    })
}

fn data_files(args: &Args) -> (PathBuf, Option<PathBuf>) {
    if !args.data.is_dir() {
        return (args.data.clone(), args.dev.clone());
    }
    let dev = part(&args.data, "dev");
    (part(&args.data, "train"), args.dev.clone().or_else(|| dev.is_file().then_some(dev)))
}

/// The names of the classes: those given, or those in the dataset.json beside the training file; none if there are neither.
fn given_names(args: &Args, train: &Path) -> Result<Vec<String>> {
    printable(if args.labels.is_empty() { names_beside(train)? } else { args.labels.clone() })
}

/// The names of the `classes` that the windows have: those `given`, those that the windows name, or numbers.
fn label_names(args: &Args, classes: usize, given: Vec<String>, named: Vec<String>) -> Result<Vec<String>> {
    match given.len() {
        0 if named.is_empty() => Ok((0..classes).map(|label| label.to_string()).collect()),
        0 if named.len() < classes => {
            let found = format!("every window is of the class {}", named.join(", "));
            Err(Error::input(&args.data, "", found, "give windows of at least two classes"))
        }
        0 => printable(named),
        names if names >= classes => {
            let differs = |(number, name): &(usize, &String)| name.parse::<usize>().is_ok_and(|named| named != *number);
            match given.iter().enumerate().find(differs) {
                Some((number, name)) if named.is_empty() => Err(Error::usage(
                    format!("class {number} of the file called {name:?}"),
                    "leave --labels out where classes have numbers, or give names that are none",
                )),
                _ => Ok(given),
            }
        }
        names if args.labels.is_empty() => Err(Error::input(
            data_files(args).0.with_file_name("dataset.json"),
            "label names",
            format!("{names} names, but the windows have {classes} classes"),
            "use the dataset.json that belongs to these files",
        )),
        names => {
            let found = format!("--labels names {names} classes, but the windows have {classes}");
            Err(Error::usage(found, "name them all"))
        }
    }
}

fn model(
    args: &Args,
    common: &Common,
    train: &[LabelledWindow],
    dev: &[LabelledWindow],
    classification: &Classification,
) -> Result<(Model, Arc<dyn Tokenizer>)> {
    let labels = classification.labels.len();
    let head = match args.head {
        labelled::Head::Cls => Head::Cls { labels },
        labelled::Head::Site | labelled::Head::Tokens => Head::Site { labels, hidden: args.head_hidden },
    };
    let loaded = args.init.as_ref().map(|init| {
        args.model.refuse("--init")?;
        checkpoint::load_encoder(init, head.clone(), Some(classification), common.seed)
    });
    let loaded = loaded.transpose()?;
    let tokenizer = match &loaded {
        Some((_, tokenizer)) => Arc::clone(tokenizer),
        None => args.model.tokenizer("splice-small")?,
    };
    let ends = tokenizer.specials().frame() - 1;
    // The token at the beginning, and for each sequence its tokens and the one behind them.
    let tokens = |bases: &[u8]| {
        let read = &bases[labelled::middle(bases.len(), args.window)];
        ends + match tokenizer.k_mers() {
            Some(k_mers) => (read.len() + 1).saturating_sub(k_mers.k()),
            None => {
                let mut ids = Vec::new();
                tokenizer.encode(read, &mut ids);
                ids.len()
            }
        }
    };
    let of = |window: &LabelledWindow| 1 + tokens(&window.bases) + window.second.as_deref().map_or(0, tokens);
    let longest = train.iter().chain(dev).map(of).max().unwrap_or(1);
    if let Some((mut model, tokenizer)) = loaded {
        let before = model.config.max_position_embeddings;
        // Only a table of positions has an end.
        if longest > before && !matches!(model.config.architecture.positions, Positions::Learned { .. }) {
            tracing::info!("sequences of up to {longest} tokens, where --init had {before}");
            model.config.max_position_embeddings = longest;
        }
        return Ok((model, tokenizer));
    }
    let config = args.model.config("splice-small", longest)?;
    Ok((Model::initialise(config, head, DType::F32, common.seed)?, tokenizer))
}

fn human(summary: &FinetuneSummary, args: &Args) -> String {
    let mut text = format!(
        "{} steps, {} tokens, {} tokens/s over the whole run; training loss {:.4}",
        format::count(summary.steps),
        format::count(summary.tokens),
        format::count(summary.tokens_per_second as u64),
        summary.loss_last,
    );
    let DevScores { dev_accuracy, dev_mcc, dev_pearson, dev_r2, dev_macro_auroc } = summary.dev;
    let figures = [
        ("accuracy", dev_accuracy),
        ("MCC", dev_mcc),
        ("Pearson", dev_pearson),
        ("R²", dev_r2),
        ("macro AUROC", dev_macro_auroc),
    ];
    let told: Vec<String> =
        figures.iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value:.4}"))).collect();
    if !told.is_empty() {
        text += &format!("\ndev: {}", told.join(", "));
    }
    if let Some(epoch) = summary.best_epoch {
        text += &format!("; the best epoch was number {epoch}, whose model was kept");
    }
    if let Some(Calibration { temperature, windows, before, after }) = &summary.calibration {
        text += &format!(
            "\nprobabilities, calibrated on {windows} dev windows: temperature {temperature:.3}, expected calibration error {:.4} before and {:.4} after",
            before.ece, after.ece
        );
    }
    if let Some(Lora { rank, alpha, .. }) = summary.lora {
        text += &format!(
            "\n{} weights were trained: the head, and adapters of rank {rank} and alpha {alpha}, which are added to the model's weights, and \
             lie beside them in {}/{ADAPTER_FOLDER}, as peft reads them",
            format::count(summary.trained_parameters as u64),
            args.out.display()
        );
    }
    if let Some(ranks) = &summary.ranks {
        text += &format!("\n{ranks}");
    }
    text + &format!("\nthe model is in {}", args.out.display())
}
