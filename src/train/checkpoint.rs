//! A checkpoint is a Hugging Face directory: `config.json`, `vocab.txt`, `tokenizer_config.json`, `model.safetensors`; with
//! `training_state.safetensors` and `state.json` beside them where a run can be resumed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use flate2::CrcReader;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::peak::Peak;
use crate::autograd::Spec;
use crate::device::DType;
use crate::interop::config::{self, ModelConfig, Writer};
use crate::interop::names::{DecoderBias, decoder_bias, is_redundant, modernise};
use crate::interop::weights::{ElementType, WEIGHT_FILES, Weights};
use crate::kmer::vocabulary::Vocabulary;
pub use crate::model::Classification;
use crate::model::{Head, Model};
use crate::ops::Loss;
use crate::optim::{AdamW, AdamWConfig};
use crate::output::{AtomicFile, write_atomic};
use crate::small_file;
use crate::{Error, Result};

pub(super) const MODEL_FILE: &str = "model.safetensors";
const CONFIG_FILE: &str = "config.json";
const VOCABULARY_FILE: &str = "vocab.txt";
const TOKENIZER_FILE: &str = "tokenizer_config.json";
pub(super) const TRAINING_FILE: &str = "training_state.safetensors";
pub(super) const STATE_FILE: &str = "state.json";
pub(super) const CHECKPOINT_PREFIX: &str = "checkpoint-";

/// A model on disk, in memory.
pub struct Checkpoint {
    /// The model.
    pub model: Model,
    /// Its vocabulary.
    pub vocabulary: Vocabulary,
    /// What it classifies, if it is a classifier.
    pub classification: Option<Classification>,
}

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Updates made.
    pub step: u64,
    /// Updates that the run will make; learning rates depend on it.
    pub total_steps: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds spent in training.
    pub seconds: f64,
    /// Loss of the first step.
    pub loss_first: f64,
    /// Loss of the last logging interval, or of a step after it.
    pub loss_last: f64,
    /// Losses since the last logged point.
    pub interval: Loss,
    /// The optimizer's constants.
    pub optimizer: AdamWConfig,
    /// The best epoch so far, where the best is kept.
    #[serde(default)]
    pub best: Option<Best>,
    /// What the run's MFU is a share of, once it is known.
    #[serde(default)]
    pub peak: Option<Peak>,
    /// The last point of the log, where Ctrl-C came while it was evaluated: it is not in the log yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unevaluated: Option<Value>,
    /// CRC-32 of the files beside this state, by their names; older checkpoints have none.
    #[serde(default)]
    pub checksums: BTreeMap<String, u32>,
}

/// The best epoch of a fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its number, from 1.
    pub epoch: u64,
    /// Its figure on the dev windows; larger is better.
    pub score: f64,
}

impl RunState {
    /// The state before the first update.
    pub fn new(total_steps: u64, seed: u64, optimizer: AdamWConfig) -> Self {
        let interval = Loss::default();
        Self {
            step: 0,
            total_steps,
            seed,
            tokens: 0,
            seconds: 0.0,
            loss_first: 0.0,
            loss_last: 0.0,
            interval,
            optimizer,
            best: None,
            peak: None,
            unevaluated: None,
            checksums: BTreeMap::new(),
        }
    }

    /// Tokens a second from start to end, evaluations and checkpoints included, pauses between sessions not.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

/// A model as it is written to a folder: everything on the host, so that training may go on meanwhile.
pub struct ModelImage {
    config: String,
    tokenizer: String,
    vocabulary: Vocabulary,
    specs: Vec<Spec>,
    values: Vec<f32>,
}

impl ModelImage {
    /// Copies what will be written.
    ///
    /// # Errors
    /// [`Error::Failed`] if a weight is no finite number; those of the device.
    pub fn of(model: &Model, vocabulary: &Vocabulary, classification: Option<&Classification>) -> Result<Self> {
        let values = model.parameters.host_values()?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::Failed(
                "a weight is no longer a finite number: training has diverged; lower the learning rate, or lengthen the warm-up".into(),
            ));
        }
        let config = to_json(&config::to_json(model, vocabulary, classification)?)?;
        let tokenizer = to_json(&config::tokenizer_to_json(&model.config))?;
        Ok(Self { config, tokenizer, vocabulary: vocabulary.clone(), specs: model.parameters.specs.clone(), values })
    }

    /// Writes `vocab.txt`, `config.json` and `tokenizer_config.json` into `folder`, then the weights.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        self.vocabulary.write(folder.join(VOCABULARY_FILE))?;
        write_atomic(folder.join(CONFIG_FILE), &self.config)?;
        write_atomic(folder.join(TOKENIZER_FILE), &self.tokenizer)?;
        let bytes: &[u8] = bytemuck::cast_slice(&self.values);
        let mut tensors = Vec::with_capacity(self.specs.len());
        for spec in &self.specs {
            let range = spec.range();
            tensors.push((spec.name.as_str(), view(&spec.shape, &bytes[range.start * 4..range.end * 4])?));
        }
        save_tensors(&folder.join(MODEL_FILE), tensors)
    }
}

/// Writes the model into `folder`, the weights last.
///
/// # Errors
/// As [`ModelImage::of`], and [`Error::Io`].
pub fn save_model(
    folder: &Path,
    model: &Model,
    vocabulary: &Vocabulary,
    classification: Option<&Classification>,
) -> Result<()> {
    ModelImage::of(model, vocabulary, classification)?.write(folder)
}

/// The checkpoints of a run, by step.
pub(super) fn checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(Error::io("read the folder", run))? {
        let path = entry.map_err(Error::io("read the folder", run))?.path();
        let step = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(CHECKPOINT_PREFIX)?.parse().ok())
            .filter(|_| weights_file(&path).is_some());
        if let Some(step) = step {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint of a run, if there is one.
///
/// # Errors
/// [`Error::Io`].
pub fn newest_checkpoint(run: &Path) -> Result<Option<PathBuf>> {
    if !run.is_dir() {
        return Ok(None);
    }
    Ok(checkpoints(run)?.pop().map(|(_, path)| path))
}

/// The error for `--resume` without a checkpoint.
pub fn nothing_to_resume(run: &Path) -> Error {
    Error::usage(
        format!("--resume, but {} has no checkpoint", run.display()),
        "leave --resume out to start the run, or name the folder of an interrupted one",
    )
}

/// The file of weights in a model's folder, if there is one.
fn weights_file(folder: &Path) -> Option<PathBuf> {
    WEIGHT_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// The model folder that `path` means: itself, or the newest checkpoint of an unfinished run.
pub(super) fn model_folder(path: &Path) -> Result<PathBuf> {
    if weights_file(path).is_some() {
        return Ok(path.to_owned());
    }
    if let Some(newest) = newest_checkpoint(path)? {
        return Ok(newest);
    }
    let inside = models_in(path);
    let (found, remedy) = if !path.exists() {
        ("no such folder", "check the path")
    } else if !inside.is_empty() {
        ("models in folders, but none of its own", &*format!("name one of them: {}", inside.join(", ")))
    } else if WEIGHT_FILES.iter().any(|name| path.join(format!("{name}.index.json")).is_file()) {
        (
            "weights in several files, which only models far larger than DNABERT need",
            "write one file with transformers: MODEL.save_pretrained(DIR, max_shard_size=\"50GB\")",
        )
    } else {
        (
            "no model.safetensors, no pytorch_model.bin and no checkpoint",
            "name the folder of a Hugging Face checkpoint or of a run",
        )
    };
    Err(Error::input(path, "", found, remedy))
}

/// The folders in `path` that hold a model or a run of their own, as they are to be named; none if it cannot be read.
fn models_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_model =
        |path: &PathBuf| weights_file(path).is_some() || newest_checkpoint(path).is_ok_and(|found| found.is_some());
    let mut found: Vec<String> = entries.filter(is_model).map(|path| path.display().to_string()).collect();
    found.sort();
    found
}

/// The files of a model, read and understood, before any memory is set aside for it.
pub(super) struct Source {
    pub(super) vocabulary: Vocabulary,
    pub(super) config: ModelConfig,
    pub(super) weights: Weights,
    /// What had to be done to understand the files, in words.
    pub(super) notes: Vec<String>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let folder = model_folder(path)?;
        let vocabulary_path = folder.join(VOCABULARY_FILE);
        if !vocabulary_path.exists() {
            return Err(Error::input(
                &folder,
                "",
                "no vocab.txt, which says what each token means",
                "copy the one that the model was trained with into the folder (DNABERT has one for each k)",
            ));
        }
        let vocabulary = Vocabulary::read(vocabulary_path)?;
        let config_path = folder.join(CONFIG_FILE);
        let config = ModelConfig::read(&config_path)?;
        if config.config.vocab_size != vocabulary.len() {
            return Err(Error::input(
                &config_path,
                "vocab_size",
                format!("{}, but {VOCABULARY_FILE} has {} entries", config.config.vocab_size, vocabulary.len()),
                "use the two files of the same model",
            ));
        }
        let mut weights = Weights::read(&weights_file(&folder).unwrap_or_else(|| folder.join(MODEL_FILE)))?;
        let notes = modernise(&mut weights)?;
        let source = Self { vocabulary, config, weights, notes };
        source.check_sizes()?;
        source.check_classification(&config_path)?;
        Ok(source)
    }

    /// The weights are of the sizes that config.json names; so a damaged one cannot ask for memory beyond them.
    fn check_sizes(&self) -> Result<()> {
        let config = &self.config.config;
        let (hidden, last) = (config.hidden_size, config.num_hidden_layers - 1);
        let tensors = [
            ("bert.embeddings.word_embeddings.weight".to_owned(), config.vocab_size),
            ("bert.embeddings.position_embeddings.weight".to_owned(), config.max_position_embeddings),
            ("bert.embeddings.token_type_embeddings.weight".to_owned(), config.type_vocab_size),
            (format!("bert.encoder.layer.{last}.intermediate.dense.weight"), config.intermediate_size),
        ];
        for (name, rows) in tensors {
            let Some(tensor) = self.weights.tensors.get(&name) else {
                return Err(missing(&self.weights.path, &name));
            };
            if tensor.shape != [rows, hidden] {
                return Err(Error::input(
                    &self.weights.path,
                    format!("tensor {name}"),
                    format!("shape {:?}, but config.json means {:?}", tensor.shape, [rows, hidden]),
                    "use the weights and the config.json of the same model",
                ));
            }
        }
        Ok(())
    }

    /// What a classifier of ours says of its classes and its window is what a model of these sizes can have.
    fn check_classification(&self, path: &Path) -> Result<()> {
        let config = &self.config.config;
        let (Some(head), Some(classification)) = (&self.config.head, &self.config.classification) else {
            return Ok(());
        };
        let (names, classes) = (classification.labels.len(), head.classes(config));
        let wrong = |found: String| {
            let remedy = "copy the config.json of this model again; it was changed by hand, or is damaged";
            Err(Error::input(path, "helixgrad.classification", found, remedy))
        };
        if self.config.writer == Writer::Helixgrad && names != classes {
            return wrong(format!("{names} labels of {classes} classes"));
        }
        let k = self.vocabulary.k();
        let longest = config.max_position_embeddings.saturating_sub(2) + k - 1;
        match classification.window {
            Some(window) if !(k..=longest).contains(&window) => {
                wrong(format!("windows of {window} bases, where the model reads {k} to {longest}"))
            }
            _ => Ok(()),
        }
    }

    /// Copies the tensors that the model knows by name into it; returns their names and what was done to them.
    fn fill(&self, model: &mut Model, rule: DecoderBias) -> Result<(Vec<String>, Vec<String>)> {
        let (mut loaded, mut notes) = (Vec::new(), Vec::new());
        let config = &self.config.config;
        for spec in &model.parameters.specs {
            let values = if spec.name == "cls.predictions.bias" {
                let (vocabulary, hidden) = (config.vocab_size, config.hidden_size);
                let (bias, done) = decoder_bias(&self.weights, vocabulary, hidden, rule, &self.config.writer)?;
                notes.extend(done);
                bias
            } else {
                self.weights.values(&spec.name, &spec.shape)?
            };
            if let Some(values) = values {
                model.parameters.values.slice_mut::<f32>()[spec.range()].copy_from_slice(&values);
                loaded.push(spec.name.clone());
            }
        }
        Ok((loaded, notes))
    }
}

fn missing(path: &Path, name: &str) -> Error {
    let remedy = "this architecture needs it; start from a complete checkpoint whose config.json is its own";
    Error::input(path, format!("tensor {name}"), "missing", remedy)
}

/// Reads a model.
///
/// # Errors
/// [`Error::Input`] that names the file and what is wrong in it.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let (checkpoint, notes) = import(path, DecoderBias::Auto)?;
    notes.iter().for_each(|note| tracing::info!("{}: {note}", path.display()));
    Ok(checkpoint)
}

/// Reads a model of any of the layouts that [`modernise`] and [`decoder_bias`] know, and returns what was done to it.
///
/// # Errors
/// As [`load`].
pub fn import(path: &Path, rule: DecoderBias) -> Result<(Checkpoint, Vec<String>)> {
    let source = Source::open(path)?;
    let head = source.config.head(&source.weights);
    let classification = source.config.classification_of(&head);
    let mut model = Model::zeros(source.config.config.clone(), head, DType::F32)?;
    let (loaded, done) = source.fill(&mut model, rule)?;
    if let Some(absent) = model.parameters.specs.iter().find(|spec| !loaded.contains(&spec.name)) {
        return Err(missing(&source.weights.path, &absent.name));
    }
    let mut notes = source.notes;
    notes.extend(done);
    let tensors = &source.weights.tensors;
    if let Some(other) = loaded.iter().filter_map(|name| tensors.get(name)).find(|t| t.element != ElementType::F32) {
        notes.push(format!("weights were {}; they are f32 now", other.element.name()));
    }
    let unused: Vec<&str> = tensors
        .keys()
        .map(String::as_str)
        .filter(|name| !is_redundant(name) && !loaded.iter().any(|l| l == name))
        .collect();
    if !unused.is_empty() {
        notes.push(format!(
            "{} tensors that this model has no use for were left out: {}",
            unused.len(),
            shortened(&unused)
        ));
    }
    Ok((Checkpoint { model, vocabulary: source.vocabulary, classification }, notes))
}

/// The first few of many names.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    let dots = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{dots}", names[..names.len().min(SHOWN)].join(", "))
}

/// Starts a model with another head from the encoder in `path`: parameters of the same name and shape are copied, the
/// others keep their initial weights. Returns the vocabulary and the number of parameters (tensors) that were copied.
///
/// # Errors
/// As [`load`]; [`Error::Input`] if the encoder is of another shape.
pub fn load_encoder(path: &Path, head: Head, seed: u64) -> Result<(Model, Vocabulary)> {
    let mut source = Source::open(path)?;
    if let Some(classifier) = source.weights.tensors.get("classifier.weight")
        && classifier.shape.first() != Some(&head.classes(&source.config.config))
    {
        // A head for other classes starts anew.
        source.weights.tensors.retain(|name, _| !name.starts_with("classifier."));
    }
    let mut model = Model::initialise(source.config.config.clone(), head, DType::F32, seed)?;
    let (loaded, _) = source.fill(&mut model, DecoderBias::Auto)?;
    let mut encoder = model.parameters.specs.iter().filter(|spec| spec.name.starts_with("bert.e"));
    match encoder.find(|spec| !loaded.contains(&spec.name)) {
        Some(absent) => Err(missing(&source.weights.path, &absent.name)),
        None => Ok((model, source.vocabulary)),
    }
}

/// The state of the run that `folder` is, or is a checkpoint of, if it can be resumed from.
pub(super) fn run_state(folder: &Path) -> Result<Option<RunState>> {
    let newest = newest_checkpoint(folder)?.unwrap_or_else(|| folder.to_owned());
    let path = newest.join(STATE_FILE);
    if path.is_file() { parse_json(&path).map(Some) } else { Ok(None) }
}

/// Reads what a run needs to go on from one of its checkpoints.
///
/// # Errors
/// [`Error::Input`] that names the file and what is wrong in it.
pub fn load_training_state(folder: &Path, optimizer: &mut AdamW) -> Result<RunState> {
    let path = folder.join(STATE_FILE);
    let state: RunState = parse_json(&path)?;
    for (name, expected) in &state.checksums {
        let path = folder.join(name);
        if checksum(&path)? != *expected {
            let remedy = "resume from an older checkpoint: remove this one's folder; or copy it again";
            return Err(Error::input(
                path,
                "",
                "the checksum in state.json does not hold: the file is damaged",
                remedy,
            ));
        }
    }
    let moments = Weights::read(&folder.join(TRAINING_FILE))?;
    for (name, moment) in [("first_moment", &mut optimizer.first), ("second_moment", &mut optimizer.second)] {
        let values = moments.values(name, &[moment.len()])?;
        moment.write(&values.ok_or_else(|| missing(&moments.path, name))?)?;
    }
    optimizer.steps = state.step;
    optimizer.config = state.optimizer;
    Ok(state)
}

/// CRC-32 of a file.
pub(super) fn checksum(path: &Path) -> Result<u32> {
    let mut crc = CrcReader::new(BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::io("read", path))?));
    io::copy(&mut crc, &mut io::sink()).map_err(Error::io("read", path))?;
    Ok(crc.crc().sum())
}

pub(super) fn view<'a>(shape: &[usize], bytes: &'a [u8]) -> Result<TensorView<'a>> {
    TensorView::new(Dtype::F32, shape.to_vec(), bytes).map_err(|error| Error::Failed(error.to_string()))
}

pub(super) fn save_tensors(path: &Path, tensors: Vec<(&str, TensorView)>) -> Result<()> {
    // The crate writes to a path: reserve one beside the final name, then sync and rename.
    let file = AtomicFile::create(path)?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(tensors, Some(metadata), file.staging_path()).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::io("write", path)(source),
        other => Error::Failed(format!("cannot write {}: {other}", path.display())),
    })?;
    // The crate makes files that only their owner may read.
    readable_by_all(file.staging_path()).map_err(Error::io("set permissions of", path))?;
    File::open(file.staging_path()).and_then(|file| file.sync_all()).map_err(Error::io("write", path))?;
    file.commit()
}

#[cfg(unix)]
fn readable_by_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_all(_: &Path) -> std::io::Result<()> {
    Ok(())
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Error::Failed(error.to_string()))?;
    text.push('\n');
    Ok(text)
}

fn parse_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = small_file::read(path)?;
    serde_json::from_str(&text).map_err(|error| {
        Error::input(path, format!("line {}", error.line()), error.to_string(), "copy or make the checkpoint again")
    })
}
