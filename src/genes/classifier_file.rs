//! The folder of a classifier: its shape, its weights, and the names of the genes that its vectors are of.

use std::path::Path;

use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

use super::classifier::{Classifier, Shape, Training};
use super::labelled_pairs::GeneNames;
use crate::interop::weights::Weights;
use crate::output::{FolderKind, write_atomic};
use crate::train::model_image::{save_tensors, to_json, view};
use crate::{Error, Result, small_file};

const DESCRIPTION: &str = "classifier.json";
const WEIGHTS: &str = "model.safetensors";
const GENES: &str = "genes.txt";
const METRICS: &str = "metrics.json";

/// What such a folder holds.
pub const FOLDER: FolderKind = FolderKind {
    what: "a classifier of pairs of genes",
    marker: DESCRIPTION,
    holds: |name| matches!(name, WEIGHTS | GENES | METRICS),
};

/// What is told of a classifier beside its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Description {
    /// Its shape.
    pub shape: Shape,
    /// How it was trained.
    pub training: Training,
}

/// Writes a classifier of pairs of `genes`, and what its training came to.
///
/// # Errors
/// [`Error::Usage`] for a folder that holds something else; [`Error::Io`].
pub fn save<M: Serialize>(
    folder: &Path,
    classifier: &Classifier,
    genes: &[String],
    training: &Training,
    metrics: &M,
) -> Result<()> {
    FOLDER.write(folder, |folder| {
        let values = classifier.parameters.host_values()?;
        let specs = &classifier.parameters.specs;
        let tensors: Vec<(&str, TensorView)> = specs
            .iter()
            .map(|spec| Ok((spec.name.as_str(), view(&spec.shape, bytemuck::cast_slice(&values[spec.range()]))?)))
            .collect::<Result<_>>()?;
        let description = Description { shape: classifier.shape.clone(), training: training.clone() };
        write_atomic(folder.join(GENES), genes.iter().map(|gene| format!("{gene}\n")).collect::<String>())?;
        write_atomic(folder.join(METRICS), to_json(metrics)?)?;
        save_tensors(&folder.join(WEIGHTS), tensors)?;
        write_atomic(folder.join(DESCRIPTION), to_json(&description)?)
    })
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// [`Error::Input`] for a folder that holds no classifier, or files that do not belong together; [`Error::Io`].
pub fn load(folder: &Path) -> Result<(Classifier, GeneNames)> {
    let path = folder.join(DESCRIPTION);
    if folder.is_dir() && !path.is_file() {
        let remedy = "name the folder that `genes classify --out` wrote";
        return Err(Error::input(folder, "", "a folder without classifier.json", remedy));
    }
    let remedy = "copy the folder again, or train again";
    let description: Description = serde_json::from_str(&small_file::read(&path)?)
        .map_err(|error| Error::input(&path, format!("line {}", error.line()), error.to_string(), remedy))?;
    let genes_path = folder.join(GENES);
    let text = small_file::read(&genes_path)?;
    let genes: GeneNames = text.lines().map(str::to_owned).collect();
    if genes.names.len() != text.lines().count() {
        return Err(Error::input(&genes_path, "", "a gene that is there twice", remedy));
    }
    let weights_path = folder.join(WEIGHTS);
    let weights = Weights::read(&weights_path)?;
    let dimension = description.shape.dimension;
    // First what the file proves to be there, then memory for it.
    let lacking = |name: &str| Error::input(&weights_path, format!("tensor {name}"), "it is not there", remedy);
    let tensor = |name: &str, shape: &[usize]| weights.values(name, shape)?.ok_or_else(|| lacking(name));
    let table = tensor("genes", &[genes.names.len(), dimension])?;
    if dimension == 0 || table.is_empty() {
        return Err(Error::input(&path, "dimension", "vectors of no numbers", remedy));
    }
    let mut columns = 2 * dimension;
    for (layer, &rows) in description.shape.hidden.iter().chain([&super::classifier::CLASSES]).enumerate() {
        tensor(&format!("layer.{layer}.weight"), &[rows, columns])?;
        columns = rows;
    }
    let mut classifier = Classifier::zeros(description.shape, &table, false)?;
    let specs = classifier.parameters.specs.clone();
    let values = classifier.parameters.values.slice_mut::<f32>();
    for spec in &specs {
        values[spec.range()].copy_from_slice(&tensor(&spec.name, &spec.shape)?);
    }
    Ok((classifier, genes))
}
