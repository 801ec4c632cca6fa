//! How far a training has come, in the folder `checkpoint` of its run: vectors, output vectors, and what the rest of it follows from.

use std::path::Path;

use flate2::Crc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::skip_gram::{Loss, Matrix, Model};
use crate::crc32;
use crate::interop::weights::Weights;
use crate::output::{write_atomic, write_folder_atomic};
use crate::train::model_image::{save_tensors, view};
use crate::train::run_state::parse_json;
use crate::{Error, Result};

/// Where in a run's folder its state is.
pub const FOLDER: &str = "checkpoint";
const VECTORS: &str = "vectors.safetensors";
const STATE: &str = "state.json";

/// How far a training has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What else its bits follow from, by the names of options.
    pub settings: Value,
    /// Rounds that are finished, by their loss.
    pub losses: Vec<f64>,
    /// Pairs of the next round that were trained on.
    pub pairs: u64,
    /// The loss of these.
    pub loss: Loss,
    /// Jobs in all.
    pub jobs: u64,
    /// Updates in all.
    pub updates: u64,
    /// Seconds spent in training.
    pub seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct Written {
    state: State,
    /// CRC-32 of the vectors' file, and of the state.
    checksums: [u32; 2],
}

impl State {
    /// Before the first update.
    pub fn new(settings: Value) -> Self {
        Self { settings, losses: Vec::new(), pairs: 0, loss: Loss::default(), jobs: 0, updates: 0, seconds: 0.0 }
    }

    /// Whether there is a state in the folder of a run.
    pub fn is_in(out: &Path) -> bool {
        out.join(FOLDER).join(STATE).is_file()
    }

    /// Writes it into the folder of a run, in place of the one before.
    ///
    /// # Errors
    /// [`Error::Failed`] if a vector is no longer a number; [`Error::Io`].
    pub fn save(&self, out: &Path, model: &Model) -> Result<()> {
        let (input, output) = (finite(&model.input)?, finite(&model.output)?);
        write_folder_atomic(&out.join(FOLDER), |folder| {
            let shape = [input.len() / model.input.dimension(), model.input.dimension()];
            let tensors = [("input", &input), ("output", &output)];
            let tensors = tensors.map(|(name, values)| Ok((name, view(&shape, bytemuck::cast_slice(values))?)));
            let path = folder.join(VECTORS);
            save_tensors(&path, tensors.into_iter().collect::<Result<Vec<_>>>()?)?;
            let written = Written { checksums: [crc32::of_file(&path)?, self.checksum()?], state: self.clone() };
            let text = serde_json::to_string_pretty(&written).map_err(|error| Error::Failed(error.to_string()))?;
            write_atomic(folder.join(STATE), text)
        })
    }

    /// Reads it from the folder of a run whose settings are these.
    ///
    /// # Errors
    /// [`Error::Usage`] if its settings are others; [`Error::Input`] if it is damaged; [`Error::Io`].
    pub fn load(out: &Path, settings: &Value, genes: usize, dimension: usize) -> Result<(Self, Model)> {
        let folder = out.join(FOLDER);
        let Written { state, checksums } = parse_json(&folder.join(STATE))?;
        let path = folder.join(VECTORS);
        for (path, found, expected) in
            [(&path, crc32::of_file(&path)?, checksums[0]), (&folder.join(STATE), state.checksum()?, checksums[1])]
        {
            if found != expected {
                let found = "its checksum does not hold: the file is damaged";
                return Err(Error::input(path, "", found, "copy the run's folder again, or begin anew"));
            }
        }
        for (name, value) in settings.as_object().into_iter().flatten() {
            let before = &state.settings[name];
            if before != value {
                let (name, remedy) = match name.contains(' ') {
                    true => (name.clone(), "give the files as they were"),
                    false => (format!("--{name}"), "leave the option out: those of the run are in its config.toml"),
                };
                let found = format!(
                    "--resume with other {name} than the run in {} was begun with: {value}, not {before}",
                    out.display()
                );
                return Err(Error::usage(found, format!("{remedy}; or begin a new run in another folder")));
            }
        }
        let weights = Weights::read(&path)?;
        let matrix = |name: &str| -> Result<Matrix> {
            let values = weights.values(name, &[genes, dimension])?;
            let missing = || Error::input(&path, "", format!("no tensor {name}"), "begin anew");
            Ok(Matrix::of(&values.ok_or_else(missing)?, dimension))
        };
        let model = Model { input: matrix("input")?, output: matrix("output")? };
        Ok((state, model))
    }

    fn checksum(&self) -> Result<u32> {
        let mut crc = Crc::new();
        crc.update(json!(self).to_string().as_bytes());
        Ok(crc.sum())
    }
}

/// The numbers of a matrix, if they are numbers.
///
/// # Errors
/// [`Error::Failed`].
pub fn finite(matrix: &Matrix) -> Result<Vec<f32>> {
    let values = matrix.values();
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(Error::Failed("a vector is no longer a number\n  what to do: lower --alpha".into())),
    }
}
