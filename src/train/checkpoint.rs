//! A checkpoint is a Hugging Face directory: `config.json`, `vocab.txt`, `tokenizer_config.json`, `model.safetensors`; with
//! `training_state.safetensors` and `state.json` beside them where a run can be resumed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::model_image::save_model;
use super::model_image::{CONFIG_FILE, MODEL_FILE};
use super::run_state::{RunState, STATE_FILE, newest_checkpoint, parse_json};
use super::standardise::{Standard, choose_outputs};
use crate::device::DType;
use crate::interop::config::{ModelConfig, Writer};
use crate::interop::family::idle;
use crate::interop::names::{DecoderBias, check_decoder, decoder_bias, is_redundant, modernise, untie};
use crate::interop::weights::{ElementType, WEIGHT_FILES, Weights};
use crate::kmer::table::Limits;
pub use crate::model::Classification;
use crate::model::{Family, Head, Model, Task};
use crate::tokenizer::{self, Tokenizer};
use crate::{Error, Result};

/// A model on disk, in memory.
pub struct Checkpoint {
    /// The model.
    pub model: Model,
    /// Its tokenizer: the vocabulary of k-mers, or that of another family.
    pub vocabulary: Arc<dyn Tokenizer>,
    /// What it classifies, if it is a classifier.
    pub classification: Option<Classification>,
}

impl Checkpoint {
    /// What its model reads of a row.
    pub fn limits(&self) -> Limits {
        Limits {
            tokenizer: Arc::clone(&self.vocabulary),
            window: self.classification.as_ref().and_then(|classification| classification.window),
            positions: self.model.config.max_position_embeddings,
        }
    }
}

/// The file of weights in a model's folder, if there is one.
pub(super) fn weights_file(folder: &Path) -> Option<PathBuf> {
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
    pub(super) vocabulary: Arc<dyn Tokenizer>,
    pub(super) config: ModelConfig,
    pub(super) weights: Weights,
    /// What had to be done to understand the files, in words.
    pub(super) notes: Vec<String>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let folder = model_folder(path)?;
        let vocabulary = tokenizer::read(&folder)?;
        let config_path = folder.join(CONFIG_FILE);
        let config = ModelConfig::read(&config_path)?;
        // Tables of byte-pair encodings may have rows that no token uses; others fit exactly.
        let (rows, entries) = (config.config.vocab_size, vocabulary.len());
        if rows < entries || (rows > entries && vocabulary.most_bases(1).is_some()) {
            return Err(Error::input(
                &config_path,
                "vocab_size",
                format!("{rows}, but {} has {entries} entries", vocabulary.files(None)[0].0),
                "use the two files of the same model",
            ));
        }
        let mut weights = Weights::read(&weights_file(&folder).unwrap_or_else(|| folder.join(MODEL_FILE)))?;
        let notes = modernise(&mut weights, config.config.architecture.family)?;
        untie(&mut weights, &config.config);
        let source = Self { vocabulary, config, weights, notes };
        source.check_sizes()?;
        source.check_classification(&config_path)?;
        Ok(source)
    }

    /// The weights are of the sizes that config.json names; so a damaged one cannot ask for memory beyond them.
    fn check_sizes(&self) -> Result<()> {
        for (name, shape) in self.config.config.landmarks() {
            let Some(tensor) = self.weights.tensors.get(&name) else {
                return Err(missing(&self.weights.path, &name));
            };
            if tensor.shape != shape {
                return Err(Error::input(
                    &self.weights.path,
                    format!("tensor {name}"),
                    format!("shape {:?}, but config.json means {shape:?}", tensor.shape),
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
        if !classification.counts.is_empty() && classification.counts.len() != classes {
            return wrong(format!("{} counts of {classes} classes", classification.counts.len()));
        }
        let tokens = config.max_position_embeddings.saturating_sub(self.vocabulary.specials().frame());
        let shortest = self.vocabulary.shortest();
        let longest = self.vocabulary.most_bases(tokens).unwrap_or(usize::MAX);
        if let Some(margin) = classification.margin.filter(|margin| *margin < shortest.div_ceil(2) || *margin > longest)
        {
            return wrong(format!("margins of {margin} bases around places, where a token has {shortest}"));
        }
        match classification.window {
            Some(window) if !(shortest..=longest).contains(&window) => {
                wrong(format!("windows of {window} bases, where the model reads {shortest} to {longest}"))
            }
            _ => Ok(()),
        }
    }

    /// Where the outputs of a classifier that `model` is to be are among those of the one in the files: the same classes for the same
    /// task, and for numbers the scale of each.
    fn outputs_for(&self, wanted: &Classification, model: &Model) -> Option<Vec<usize>> {
        let before = self.config.classification_of(&self.config.head(&self.weights))?;
        let count = wanted.labels.len();
        let is_scaled = self.config.standard.as_ref().is_some_and(|standard| standard.len() == count);
        let mut head = model.parameters.specs.iter().filter(|spec| spec.name.starts_with("classifier."));
        let fits = head.all(|spec| self.weights.tensors.get(&spec.name).is_some_and(|of| of.shape == spec.shape));
        let is_same = before.task == wanted.task && before.labels.len() == count && before.pairs == wanted.pairs;
        if !fits || !is_same || (wanted.task == Task::Regression && !is_scaled) {
            return None;
        }
        wanted.labels.iter().map(|label| before.labels.iter().position(|known| known == label)).collect()
    }

    /// Copies the tensors that the model knows by name into it; returns their names and what was done to them.
    fn fill(&self, model: &mut Model, rule: DecoderBias) -> Result<(Vec<String>, Vec<String>)> {
        let (mut loaded, mut notes) = (Vec::new(), Vec::new());
        let config = &self.config.config;
        for spec in &model.parameters.specs {
            let family = config.architecture.family;
            let is_decoder_bias = spec.name == family.decoder_bias();
            if is_decoder_bias {
                check_decoder(&self.weights, config)?;
            }
            let values = if family.prefix() == "bert." && is_decoder_bias {
                let (bias, done) = decoder_bias(&self.weights, config.vocab_size, rule, &self.config.writer)?;
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

pub(super) fn missing(path: &Path, name: &str) -> Error {
    let remedy = "this architecture needs it; start from a complete checkpoint whose config.json is its own";
    Error::input(path, format!("tensor {name}"), "missing", remedy)
}

/// What there is to say of the model in `path` if it is a checkpoint of a run that has not come to its end. A `state.json` that is no run's
/// of ours says nothing of the model; resuming looks at it closely.
///
/// # Errors
/// There is nothing at `path`, or no model.
pub fn unfinished(path: &Path) -> Result<Option<String>> {
    let state = model_folder(path)?.join(STATE_FILE);
    if !state.is_file() {
        return Ok(None);
    }
    let Ok(RunState { step, total_steps, .. }) = parse_json(&state) else { return Ok(None) };
    Ok((step < total_steps)
        .then(|| format!("an unfinished run: step {step} of {total_steps} (--resume goes on with it)")))
}

fn tell_unfinished(path: &Path) -> Result<()> {
    unfinished(path)?.iter().for_each(|note| tracing::warn!("{} is of {note}", path.display()));
    Ok(())
}

/// Reads a model. The log says if it is of an unfinished run.
///
/// # Errors
/// [`Error::Input`] that names the file and what is wrong in it.
pub fn load(path: &Path) -> Result<Checkpoint> {
    tell_unfinished(path)?;
    let (checkpoint, notes) = import(path, DecoderBias::Auto)?;
    notes.iter().for_each(|note| tracing::info!("{}: {note}", path.display()));
    Ok(checkpoint)
}

/// Reads a model of any of the layouts that [`modernise`] and [`decoder_bias`] know, and returns what was done to it. Adapters that lie
/// beside the weights of a run's checkpoint are added to them.
///
/// # Errors
/// As [`load`].
pub fn import(path: &Path, rule: DecoderBias) -> Result<(Checkpoint, Vec<String>)> {
    let (mut checkpoint, notes) = import_as_trained(path, rule)?;
    checkpoint.model.merge()?;
    Ok((checkpoint, notes))
}

/// As [`import`], with adapters as they are, for a training that goes on.
pub(super) fn import_as_trained(path: &Path, rule: DecoderBias) -> Result<(Checkpoint, Vec<String>)> {
    let mut source = Source::open(path)?;
    let head = source.config.head(&source.weights);
    let classification = source.config.classification_of(&head);
    let mut model = Model::zeros(source.config.config.clone(), head, DType::F32)?;
    if let Some(lora) = &source.config.lora {
        model.adapt(lora, 0)?;
    }
    let (loaded, done) = source.fill(&mut model, rule)?;
    if let Some(absent) = model.parameters.specs.iter().find(|spec| !loaded.contains(&spec.name)) {
        return Err(missing(&source.weights.path, &absent.name));
    }
    let mut notes = std::mem::take(&mut source.notes);
    notes.extend(done);
    let tensors = &source.weights.tensors;
    if let Some(other) = loaded.iter().filter_map(|name| tensors.get(name)).find(|t| t.element != ElementType::F32) {
        notes.push(format!("weights were {}; they are f32 now", other.element.name()));
    }
    let mut unused: Vec<&str> = tensors
        .keys()
        .map(String::as_str)
        .filter(|name| !is_redundant(&source.config.config, name) && !loaded.iter().any(|l| l == name))
        .collect();
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    unused.retain(|name| match idle(&source.config.config, name) {
        Some(reason) => {
            reasons.entry(reason).or_default().push(name);
            false
        }
        None => true,
    });
    for (reason, names) in reasons {
        notes.push(format!("left out: {} ({reason})", shortened(&names)));
    }
    if !unused.is_empty() {
        notes.push(format!(
            "{} tensors that this model has no use for were left out: {}",
            unused.len(),
            shortened(&unused)
        ));
    }
    if is_released_without_a_pooler(&source, &model.head) {
        notes.push("there is no pooler in the file, as in DNABERT-2's release, whose program draws one at random: a classifier begins with a new one".into());
    }
    Ok((Checkpoint { model, vocabulary: source.vocabulary, classification }, notes))
}

/// What answers with the released program's "pooled output" would miss.
fn is_released_without_a_pooler(source: &Source, head: &Head) -> bool {
    let family = source.config.config.architecture.family;
    family == Family::Dnabert2
        && source.config.writer != Writer::Helixgrad
        && !matches!(head, Head::Cls { .. } | Head::Site { .. })
        && !source.weights.tensors.contains_key(&format!("{}.weight", family.pooler()))
}

/// The first few of many names.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    let dots = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{dots}", names[..names.len().min(SHOWN)].join(", "))
}

/// Starts a model with another head from the encoder in `path`: parameters of the same name and shape are copied, the
/// others keep their initial weights. A classifier's head is copied where it is one for the same task and the same classes or
/// numbers as `classification`, in any order; of numbers it then answers in standardised ones, as training wants it.
///
/// # Errors
/// As [`load`]; [`Error::Input`] if the encoder is of another shape.
pub fn load_encoder(
    path: &Path,
    head: Head,
    classification: Option<&Classification>,
    seed: u64,
) -> Result<(Model, Arc<dyn Tokenizer>)> {
    tell_unfinished(path)?;
    let mut source = Source::open(path)?;
    let mut model = Model::initialise(source.config.config.clone(), head, DType::F32, seed)?;
    if let Some(lora) = &source.config.lora {
        model.adapt(lora, 0)?;
    }
    let outputs = classification.and_then(|wanted| source.outputs_for(wanted, &model));
    if outputs.is_none() {
        let had = source.weights.tensors.len();
        source.weights.tensors.retain(|name, _| !name.starts_with("classifier."));
        if classification.is_some() && source.weights.tensors.len() < had {
            tracing::info!(
                "{}: its classifier is for another task or other classes; a new one is trained",
                path.display()
            );
        }
    }
    let (loaded, _) = source.fill(&mut model, DecoderBias::Auto)?;
    // The tables and the layers.
    let family = model.config.architecture.family;
    let mut encoder = model.parameters.specs.iter().filter(|spec| family.is_of_encoder(&spec.name));
    if let Some(absent) = encoder.find(|spec| !loaded.contains(&spec.name)) {
        return Err(missing(&source.weights.path, &absent.name));
    }
    model.merge()?;
    if let Some(outputs) = outputs {
        tracing::info!("{}: its classifier is for these classes, too, and is trained on", path.display());
        if let Some(standard) = source.config.standard.take() {
            Standard(standard).unfold(&mut model)?;
        }
        choose_outputs(&mut model, &outputs)?;
    }
    Ok((model, source.vocabulary))
}
