//! Models on their way to a folder.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::Serialize;
use serde_json::{Value, json};

use super::checkpoint::Classification;
use super::peft::{self, Adapted};
use super::standardise::{Standard, head_values};
use crate::autograd::Spec;
use crate::interop::config;
use crate::model::{Model, Positions};
use crate::output::{AtomicFile, write_atomic, write_folder_atomic};
use crate::tokenizer::{self, Tokenizer};
use crate::{Error, Result};

pub(super) const MODEL_FILE: &str = "model.safetensors";
pub(super) const CONFIG_FILE: &str = "config.json";
/// Where the adapters are, in a finished model's folder.
pub const ADAPTER_FOLDER: &str = "adapter";

/// A model as it is written to a folder: everything on the host, so that training may go on meanwhile.
pub struct ModelImage {
    config: String,
    tokenizer: Arc<dyn Tokenizer>,
    /// Tokens of the longest sequence; none where any length will do.
    longest: Option<usize>,
    specs: Vec<Spec>,
    values: Vec<f32>,
    /// The sizes of a model with adapters.
    adapted: Option<Adapted>,
    /// The values of a head that is trained on standardised numbers, where `values` has them in their own units.
    standardised: Vec<f32>,
}

impl ModelImage {
    /// Copies what will be written.
    ///
    /// # Errors
    /// [`Error::Failed`] if a weight is no finite number; those of the device.
    pub fn of(model: &Model, vocabulary: &dyn Tokenizer, classification: Option<&Classification>) -> Result<Self> {
        Self::over(Vec::new(), model, vocabulary, classification)
    }

    /// As [`ModelImage::of`], in the memory of an earlier one's weights.
    ///
    /// # Errors
    /// As [`ModelImage::of`].
    pub fn over(
        old: Vec<f32>,
        model: &Model,
        vocabulary: &dyn Tokenizer,
        classification: Option<&Classification>,
    ) -> Result<Self> {
        let values = model.parameters.host_values_over(old)?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::Failed(
                "a weight is no longer a finite number: training has diverged; lower the learning rate, or lengthen the warm-up".into(),
            ));
        }
        let config = to_json(&config::to_json(model, vocabulary, classification)?)?;
        let has_end = model.config.architecture.positions != Positions::Alibi;
        let longest = has_end.then_some(model.config.max_position_embeddings);
        let (tokenizer, specs) = (vocabulary.shared(), model.parameters.specs.clone());
        let adapted = model.lora().cloned();
        let adapted = adapted.map(|lora| Adapted { lora, config: model.config.clone(), head: model.head.clone() });
        Ok(Self { config, tokenizer, longest, specs, values, adapted, standardised: Vec::new() })
    }

    /// The same model, with a head that answers in the units of the numbers that `standard` is of, if there are any; its `config.json`
    /// says which mean and deviation they have.
    ///
    /// # Errors
    /// [`Error::Failed`] for a model without a classifier.
    pub(super) fn in_units_of(mut self, standard: Option<&Standard>) -> Result<Self> {
        if let Some(standard) = standard {
            self.standardised = head_values(&self.specs, &self.values)?;
            standard.fold(&self.specs, &mut self.values)?;
            self.change_config(|ours| ours["standard"] = json!(standard.0))?;
        }
        Ok(self)
    }

    /// Changes what `config.json` says under our name.
    fn change_config(&mut self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut config: Value = serde_json::from_str(&self.config).map_err(|error| Error::Failed(error.to_string()))?;
        change(&mut config["helixgrad"]);
        self.config = to_json(&config)?;
        Ok(())
    }

    /// Writes the adapters into a folder of their own in `folder`, where there are any, and adds them to the weights of the model, which is
    /// then one without adapters.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn merged_beside(mut self, folder: &Path) -> Result<Self> {
        let Some(adapted) = self.adapted.take() else { return Ok(self) };
        write_folder_atomic(&folder.join(ADAPTER_FOLDER), |folder| {
            peft::write(folder, &adapted, &self.specs, &self.values)
        })?;
        adapted.lora.merge(&adapted.config, &self.specs, &mut self.values)?;
        self.specs.retain(|spec| !spec.name.contains(".lora_"));
        self.change_config(|ours| {
            if let Some(ours) = ours.as_object_mut() {
                ours.shift_remove("lora");
            }
        })?;
        Ok(self)
    }

    /// The same model with the logits of its classes divided by `temperature`.
    ///
    /// # Errors
    /// [`Error::Failed`] for a model without a classifier.
    pub(super) fn at_temperature(mut self, temperature: f64, classes: usize) -> Result<Self> {
        Standard(vec![(0.0, 1.0 / temperature); classes]).fold(&self.specs, &mut self.values)?;
        Ok(self)
    }

    /// The values of the head as it is trained, where those that are written are others.
    pub(super) fn standardised(&self) -> &[f32] {
        &self.standardised
    }

    /// The memory of the weights, for the next one.
    pub fn into_memory(self) -> Vec<f32> {
        self.values
    }

    /// Writes the tokenizer's files and `config.json` into `folder`, then the weights.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        tokenizer::write(&*self.tokenizer, folder, self.longest)?;
        write_atomic(folder.join(CONFIG_FILE), &self.config)?;
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
    vocabulary: &dyn Tokenizer,
    classification: Option<&Classification>,
) -> Result<()> {
    ModelImage::of(model, vocabulary, classification)?.write(folder)
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Error::Failed(error.to_string()))?;
    text.push('\n');
    Ok(text)
}

pub(crate) fn view<'a>(shape: &[usize], bytes: &'a [u8]) -> Result<TensorView<'a>> {
    TensorView::new(Dtype::F32, shape.to_vec(), bytes).map_err(|error| Error::Failed(error.to_string()))
}

pub(crate) fn save_tensors(path: &Path, tensors: Vec<(&str, TensorView)>) -> Result<()> {
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
