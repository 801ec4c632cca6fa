//! How far a run has come, and the checkpoints in its folder that it can go on from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::checkpoint::{import_as_trained, missing, weights_file};
use super::peak::Peak;
use super::standardise::head_of;
use super::step::Trainer;
use crate::crc32;
use crate::interop::names::DecoderBias;
use crate::interop::weights::Weights;
use crate::model::Model;
use crate::ops::Loss;
use crate::optim::{AdamW, AdamWConfig};
use crate::small_file;
use crate::{Error, Result};

pub(super) const TRAINING_FILE: &str = "training_state.safetensors";
pub(super) const STATE_FILE: &str = "state.json";
/// The tensor, beside the moments, of a head that is trained on standardised numbers; the model's has their own units.
pub(super) const STANDARDISED_HEAD: &str = "standardised_head";
pub(super) const CHECKPOINT_PREFIX: &str = "checkpoint-";

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
    #[serde(deserialize_with = "interval")]
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
    /// What else the bits of the run depend on, by the names of options where there are such; older checkpoints have none.
    #[serde(default)]
    pub settings: Value,
    /// CRC-32 of the files beside this state, by their names, and of the state without its own; older checkpoints have none.
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
    pub fn new(total_steps: u64, seed: u64, optimizer: AdamWConfig, settings: Value) -> Self {
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
            settings,
            checksums: BTreeMap::new(),
        }
    }

    /// CRC-32 of everything in it but this number.
    pub(super) fn own_checksum(&self) -> Result<u32> {
        Ok(checksum_of_state(serde_json::to_value(self).map_err(|error| Error::Failed(error.to_string()))?))
    }

    /// Tokens a second from start to end, evaluations and checkpoints included, pauses between sessions not.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

/// Losses as any version wrote them: in older ones each row weighed 1, and nothing said so.
fn interval<'a, D: Deserializer<'a>>(written: D) -> std::result::Result<Loss, D::Error> {
    let mut loss = Value::deserialize(written)?;
    if loss.get("weight").is_none() && loss.is_object() {
        loss["weight"] = loss["rows"].clone();
    }
    serde_json::from_value(loss).map_err(D::Error::custom)
}

/// CRC-32 of a state as it was written, by whatever version, but for this number.
fn checksum_of_state(mut state: Value) -> u32 {
    if let Some(checksums) = state["checksums"].as_object_mut() {
        checksums.shift_remove(STATE_FILE);
    }
    crc32::of(state.to_string().as_bytes())
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

/// Loads the newest checkpoint of the run in `out` into the trainer, if it is of the run that `fresh` would begin. Its head may be
/// one that is trained on standardised numbers.
pub(super) fn resume_from(out: &Path, trainer: &mut Trainer, fresh: RunState, standardised: bool) -> Result<RunState> {
    let Some(folder) = newest_checkpoint(out)? else {
        return Err(nothing_to_resume(out));
    };
    let (mut saved, _) = import_as_trained(&folder, DecoderBias::Auto)?;
    let (saved_model, model) = (&saved.model, &trainer.model);
    if saved_model.config != model.config || saved_model.head != model.head || saved_model.lora() != model.lora() {
        return Err(Error::usage(
            format!("--resume, but {} is of another model than the options describe", folder.display()),
            "give the options that the run was started with (they are in its config.toml)",
        ));
    }
    let head = standardised.then_some(&mut saved.model);
    let state = checked_state(&folder)?;
    if state.step > fresh.total_steps {
        return Err(Error::usage(
            format!("{} steps, but the run in {} has made {}", fresh.total_steps, out.display(), state.step),
            "resume with at least as many steps",
        ));
    }
    check_same(out, &fresh, &state)?;
    load_moments(&folder, &mut trainer.optimizer, &state, head)?;
    trainer.replace_model(saved.model)?;
    Ok(RunState { total_steps: fresh.total_steps, settings: fresh.settings, ..state })
}

/// Refuses what would make other batches or updates than the run was begun with.
fn check_same(out: &Path, fresh: &RunState, before: &RunState) -> Result<()> {
    /// They may follow from the number of steps, of which a resumed run may make more.
    const FOLLOWING: [&str; 2] = ["warmup-steps", "decay-steps"];
    let all = |state: &RunState| [json!({ "seed": state.seed }), json!(state.optimizer), state.settings.clone()];
    let is_longer = fresh.total_steps != before.total_steps;
    for (fresh, before) in all(fresh).iter().zip(all(before)) {
        for (name, value) in fresh.as_object().into_iter().flatten() {
            let Some(was) = before.get(name).filter(|was| *was != value) else { continue };
            if is_longer && FOLLOWING.contains(&name.as_str()) {
                continue;
            }
            let (name, remedy) = if name.contains(' ') {
                (
                    name.clone(),
                    "give the data as they were; to train on others, begin a new run with --init and the newest checkpoint",
                )
            } else {
                let remedy = "leave the option out: those of the run are in its config.toml; to go on with another, begin a new run with --init and the newest checkpoint";
                (format!("--{}", name.replace('_', "-")), remedy)
            };
            return Err(Error::usage(
                format!(
                    "--resume with other {name} than the run in {} was begun with: {value}, not {was}",
                    out.display()
                ),
                remedy,
            ));
        }
    }
    Ok(())
}

/// The state of the run that `folder` is, or is a checkpoint of, if it can be resumed from.
pub(super) fn run_state(folder: &Path) -> Result<Option<RunState>> {
    let newest = newest_checkpoint(folder)?.unwrap_or_else(|| folder.to_owned());
    let path = newest.join(STATE_FILE);
    if path.is_file() { parse_json(&path).map(Some) } else { Ok(None) }
}

/// Reads how far the run of a checkpoint had come, once the checksums of its files hold.
///
/// # Errors
/// [`Error::Input`] that names the file and what is wrong in it.
fn checked_state(folder: &Path) -> Result<RunState> {
    let path = folder.join(STATE_FILE);
    let state: RunState = parse_json(&path)?;
    for (name, expected) in &state.checksums {
        let path = folder.join(name);
        let found = if name == STATE_FILE { checksum_of_state(parse_json(&path)?) } else { crc32::of_file(&path)? };
        if found != *expected {
            let remedy = "resume from an older checkpoint: remove this one's folder; or copy it again";
            return Err(Error::input(
                path,
                "",
                "the checksum in state.json does not hold: the file is damaged",
                remedy,
            ));
        }
    }
    Ok(state)
}

/// Reads the optimizer's moments from a checkpoint that `state` is of; for a model that is trained on standardised numbers its head, too.
///
/// # Errors
/// As [`checked_state`].
fn load_moments(
    folder: &Path,
    optimizer: &mut AdamW,
    state: &RunState,
    standardised: Option<&mut Model>,
) -> Result<()> {
    let moments = Weights::read(&folder.join(TRAINING_FILE))?;
    for (name, moment) in [("first_moment", &mut optimizer.first), ("second_moment", &mut optimizer.second)] {
        let values = moments.values(name, &[moment.len()])?;
        moment.write(&values.ok_or_else(|| missing(&moments.path, name))?)?;
    }
    if let Some(model) = standardised {
        let specs = head_of(&model.parameters.specs)?;
        let count = specs.iter().map(|spec| spec.len()).sum();
        let head = moments.values(STANDARDISED_HEAD, &[count])?;
        let head = head.ok_or_else(|| missing(&moments.path, STANDARDISED_HEAD))?;
        let (weight, bias) = head.split_at(specs[0].len());
        for (range, values) in specs.map(|spec| spec.range()).into_iter().zip([weight, bias]) {
            model.parameters.values.slice_mut::<f32>()[range].copy_from_slice(values);
        }
    }
    optimizer.steps = state.step;
    optimizer.config = state.optimizer;
    Ok(())
}

pub(crate) fn parse_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = small_file::read(path)?;
    serde_json::from_str(&text).map_err(|error| {
        Error::input(path, format!("line {}", error.line()), error.to_string(), "copy or make the checkpoint again")
    })
}
