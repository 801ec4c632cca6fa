//! `helixgrad finetune`: a classifier from labelled windows.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::model::ModelArgs;
use super::{Common, config, run_folder};
use crate::device::DType;
use crate::kmer::labelled::{self, LabelledWindow, read_labelled};
use crate::kmer::vocabulary::Vocabulary;
use crate::model::{Head, Model, Recompute};
use crate::optim::{AdamWConfig, Decay};
use crate::report::format;
use crate::train::checkpoint::{self, Classification};
use crate::train::finetune::{FinetuneOptions, FinetuneSummary, finetune};
use crate::{Error, Result};

/// Options of `helixgrad finetune`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// A folder with train.tsv and dev.tsv (as `helixgrad splice dataset` writes), or a training file.
    #[arg(long, value_name = "DIR|FILE")]
    data: PathBuf,
    /// The dev file (default: dev.tsv in the folder, if it is there).
    #[arg(long, value_name = "FILE")]
    dev: Option<PathBuf>,
    /// Start from this checkpoint; without it a model of --preset learns from scratch.
    #[arg(long, value_name = "DIR")]
    init: Option<PathBuf>,
    /// The folder of the run: checkpoints, metrics, and the finished model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from the newest checkpoint in --out, with the options in its config.toml.
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    #[command(flatten)]
    #[serde(flatten)]
    model: ModelArgs,
    /// What the classifier reads: the token at the site, or `[CLS]` through the pooler.
    #[arg(long, value_enum, default_value = "cls")]
    head: labelled::Head,
    /// Width of a hidden layer in the site head (BioNeMo: 64).
    #[arg(long, value_name = "N")]
    head_hidden: Option<usize>,
    /// Use the middle so many bases of each window (default: all; the model remembers what it was).
    #[arg(long, value_name = "BASES")]
    window: Option<usize>,
    /// Names of the classes 0, 1, ..., separated by commas (default: those in the folder's dataset.json, or numbers).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    labels: Vec<String>,
    /// Passes over the training windows.
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    /// Windows in an update.
    #[arg(long, default_value_t = 32, value_name = "WINDOWS")]
    batch: usize,
    /// The highest learning rate.
    #[arg(long, default_value_t = 2e-4, value_name = "RATE")]
    learning_rate: f64,
    /// Share of the updates in which it rises.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    warmup: f64,
    /// How it falls afterwards.
    #[arg(long, value_enum, default_value = "linear")]
    decay: Decay,
    /// Decoupled weight decay of matrices.
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    /// AdamW's decay of the second moment.
    #[arg(long, default_value_t = 0.999)]
    beta2: f64,
    /// Activations that are computed again on the way back, not kept: none, or those inside each layer. Takes less memory and
    /// a third more time; the result has the same bits.
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
}

/// Runs the command.
///
/// # Errors
/// Those of reading, training and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    run_folder::check(&args.out, args.resume)?;
    let options = options(args, common)?;
    let (train_path, dev_path) = data_files(args);
    let train = read_labelled(&train_path)?;
    let dev = dev_path.map(read_labelled).transpose()?.unwrap_or_default();
    let classes = labelled::classes(&train).max(labelled::classes(&dev)).max(2);
    let labels = label_names(args, classes)?;
    let window = args.window.or_else(|| common_length(&train, &dev));
    let classification = Classification { labels, window, ..Classification::default() };
    let (mut model, vocabulary) = model(args, common, &train, &dev, classification.labels.len())?;
    model.recompute = args.recompute;
    tracing::info!(
        "{} training and {} dev windows, {} classes; {} parameters",
        format::count(train.len() as u64),
        format::count(dev.len() as u64),
        classes,
        format::count(model.parameter_count() as u64)
    );
    let (_, summary) = finetune(model, &vocabulary, &classification, &train, &dev, &options, args.resume)?;
    common.print(&summary, |summary| human(summary, args))
}

/// Class names become columns of tables.
fn printable(names: Vec<String>) -> Result<Vec<String>> {
    match names.iter().find(|name| name.is_empty() || name.contains(char::is_control)) {
        Some(name) => Err(Error::usage(format!("a class called {name:?}"), "use names without tabs and line breaks")),
        None => Ok(names),
    }
}

/// The length of all windows, if it is one: longer sequences are cut to it when the model is applied.
fn common_length(train: &[LabelledWindow], dev: &[LabelledWindow]) -> Option<usize> {
    let length = train.first()?.bases.len();
    train.iter().chain(dev).all(|window| window.bases.len() == length).then_some(length)
}

fn options(args: &Args, common: &Common) -> Result<FinetuneOptions> {
    if args.epochs > 1_000_000 {
        return Err(Error::usage(format!("--epochs {}", args.epochs), "give at most a million"));
    }
    let counts = [args.epochs, args.batch as u64, args.save_every, args.keep as u64];
    if counts.contains(&0) {
        return Err(Error::usage("--epochs, --batch, --save-every or --keep is 0", "give at least 1"));
    }
    let rates = [args.learning_rate, args.weight_decay, args.max_gradient_norm];
    if rates.iter().any(|rate| !(rate.is_finite() && *rate >= 0.0))
        || !(0.0..=1.0).contains(&args.warmup)
        || !(0.0..1.0).contains(&args.beta2)
    {
        return Err(Error::usage(
            "a learning rate, decay, norm, warm-up share or beta is out of its range",
            "rates are 0 or more, the warm-up from 0 to 1, beta2 from 0 up to, not including, 1",
        ));
    }
    let optimizer = AdamWConfig {
        beta1: 0.9,
        beta2: args.beta2,
        eps: 1e-8,
        weight_decay: args.weight_decay,
        max_gradient_norm: args.max_gradient_norm,
    };
    let (device, dtype) = common.device()?;
    Ok(FinetuneOptions {
        device,
        dtype,
        seed: common.seed,
        epochs: args.epochs,
        batch: args.batch,
        learning_rate: args.learning_rate,
        warmup: args.warmup,
        decay: args.decay,
        optimizer,
        save_every: args.save_every,
        keep: args.keep,
        out: args.out.clone(),
        config: Some(config::resolved(args, common)?),
        quiet: common.quiet,
    })
}

fn data_files(args: &Args) -> (PathBuf, Option<PathBuf>) {
    if !args.data.is_dir() {
        return (args.data.clone(), args.dev.clone());
    }
    let dev = args.data.join("dev.tsv");
    (args.data.join("train.tsv"), args.dev.clone().or_else(|| dev.is_file().then_some(dev)))
}

/// The names of the classes: those given, those in the dataset.json of the data folder, or numbers.
fn label_names(args: &Args, classes: usize) -> Result<Vec<String>> {
    if args.labels.len() >= classes {
        return printable(args.labels.clone());
    }
    if !args.labels.is_empty() {
        let found = format!("--labels names {} classes, but the windows have {classes}", args.labels.len());
        return Err(Error::usage(found, "name them all"));
    }
    let path = args.data.join("dataset.json");
    let numbers = (0..classes).map(|label| label.to_string()).collect();
    if !path.is_file() {
        return Ok(numbers);
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let names = serde_json::from_str::<Value>(&text).ok().and_then(|json| {
        let names = json.get("label_names")?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    match names {
        Some(names) if names.len() >= classes => printable(names),
        Some(names) => Err(Error::input(
            &path,
            "label names",
            format!("{} names, but the windows have {classes} classes", names.len()),
            "use the dataset.json that belongs to these files",
        )),
        None => Ok(numbers),
    }
}

fn model(
    args: &Args,
    common: &Common,
    train: &[LabelledWindow],
    dev: &[LabelledWindow],
    labels: usize,
) -> Result<(Model, Vocabulary)> {
    let head = match args.head {
        labelled::Head::Cls => Head::Cls { labels },
        labelled::Head::Site => Head::Site { labels, hidden: args.head_hidden },
    };
    if let Some(init) = &args.init {
        args.model.refuse("--init")?;
        return checkpoint::load_encoder(init, head, common.seed);
    }
    let longest = train.iter().chain(dev).map(|window| window.bases.len()).max().unwrap_or(0);
    let bases = args.window.unwrap_or(longest);
    let k = args.model.resolve("splice-small", 1)?.0.k();
    let (vocabulary, config) = args.model.resolve("splice-small", (bases + 3).saturating_sub(k).max(1))?;
    Ok((Model::initialise(config, head, DType::F32, common.seed)?, vocabulary))
}

fn human(summary: &FinetuneSummary, args: &Args) -> String {
    let mut text = format!(
        "{} steps, {} tokens, {} tokens/s; training loss {:.4}",
        format::count(summary.steps),
        format::count(summary.tokens),
        format::count(summary.tokens_per_second as u64),
        summary.loss_last,
    );
    if let (Some(accuracy), Some(mcc)) = (summary.dev_accuracy, summary.dev_mcc) {
        text += &format!("\ndev: accuracy {accuracy:.4}, MCC {mcc:.4}");
    }
    text + &format!("\nthe model is in {}", args.out.display())
}
