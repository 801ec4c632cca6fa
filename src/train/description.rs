//! What a model's folder holds, without loading it into a model.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::checkpoint::{Source, model_folder};
use super::run_state::{RunState, run_state};
use crate::Result;
use crate::autograd::Spec;
use crate::interop::config::Writer;
use crate::interop::family::idle;
use crate::interop::names::is_redundant;
use crate::kmer::vocabulary::{BaseOrder, Vocabulary};
use crate::lossy;
use crate::model::{Classification, Config, Head, Model};

/// A model's folder, described.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// The folder: the newest checkpoint of a run, where a run was named.
    #[serde(serialize_with = "lossy::serialize")]
    pub folder: PathBuf,
    /// The file with the weights.
    #[serde(serialize_with = "lossy::serialize")]
    pub weights: PathBuf,
    /// How it stores them.
    pub format: &'static str,
    /// Who wrote config.json.
    pub written_by: String,
    /// What stands on the encoder.
    pub head: Head,
    /// The class of transformers that loads it, if there is one.
    pub architecture: Option<&'static str>,
    /// What it classifies.
    pub classification: Option<Classification>,
    /// Sizes and rates.
    pub config: Config,
    /// What its tokens are.
    pub tokens: String,
    /// Bases in a token, where tokens are overlapping k-mers.
    pub k: Option<usize>,
    /// The order of the vocabulary of k-mers.
    pub base_order: Option<BaseOrder>,
    /// Weights in the model, shared ones once.
    pub parameters: usize,
    /// Tensors in the file, and elements in them.
    pub tensors: usize,
    /// Elements in all tensors.
    pub elements: usize,
    /// The types of their elements.
    pub element_types: Vec<&'static str>,
    /// Parameters that the file lacks, or has in another shape.
    pub missing: Vec<String>,
    /// Tensors that the model has no use for.
    pub unused: Vec<String>,
    /// What has to be done to understand the names.
    pub notes: Vec<String>,
    /// How far the training came, where it can be resumed.
    pub training: Option<RunState>,
}

/// Describes the model that `path` means: a Hugging Face directory, a run's folder, or DNABERT's.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) for files that cannot be understood. Missing tensors are no error here.
pub fn describe(path: &Path) -> Result<Description> {
    let folder = model_folder(path)?;
    let Source { vocabulary, config, weights, notes } = Source::open(path)?;
    let head = config.head(&weights);
    let mut specs = Model::parameter_specs(&config.config, &head)?;
    if let Some(lora) = &config.lora {
        specs.extend(lora.specs(&config.config));
    }
    // The bias of a masked-LM head may have either name.
    let other_name = |name: &str| (name == "cls.predictions.bias").then_some("cls.predictions.decoder.bias");
    let find = |name: &str| weights.tensors.get(name).or_else(|| weights.tensors.get(other_name(name)?));
    let fault = |spec: &Spec| match find(&spec.name) {
        None => Some(spec.name.clone()),
        Some(found) if found.shape != spec.shape => {
            Some(format!("{} (shape {:?}, but config.json means {:?})", spec.name, found.shape, spec.shape))
        }
        Some(_) => None,
    };
    let sizes = config.config.clone();
    let known = |name: &String| {
        is_redundant(&sizes, name) || idle(&sizes, name).is_some() || specs.iter().any(|spec| spec.name == *name)
    };
    let mut element_types: Vec<_> = weights.tensors.values().map(|tensor| tensor.element.name()).collect();
    element_types.sort_unstable();
    element_types.dedup();
    Ok(Description {
        training: run_state(&folder)?,
        folder,
        weights: weights.path.clone(),
        format: weights.format.name(),
        written_by: match &config.writer {
            Writer::Helixgrad => "helixgrad".into(),
            Writer::Transformers(version) => format!("transformers {version}"),
            Writer::Unversioned => "a program that leaves no version (transformers before 4, DNABERT)".into(),
        },
        architecture: config.config.architecture.family.class(&head),
        classification: config.classification_of(&head),
        config: sizes.clone(),
        tokens: vocabulary.describe(),
        k: vocabulary.k_mers().map(Vocabulary::k),
        base_order: vocabulary.k_mers().map(Vocabulary::order),
        parameters: specs.iter().map(|spec| spec.len()).sum(),
        tensors: weights.tensors.len(),
        elements: weights.tensors.values().fold(0, |sum: usize, tensor| sum.saturating_add(tensor.len())),
        element_types,
        missing: specs.iter().filter_map(fault).collect(),
        unused: weights.tensors.keys().filter(|name| !known(name)).cloned().collect(),
        head,
        notes,
    })
}
