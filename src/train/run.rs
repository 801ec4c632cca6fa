//! The folder that a run writes to, from its first step on.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use flate2::Crc;
use serde::Serialize;
use serde_json::{Value, json};

use super::events::EventLog;
use super::log::MetricsLog;
use crate::output::{Unfinished, failpoint, remove_debris, remove_folder, write_atomic};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Where in a run's folder the best epoch's model is kept.
pub const BEST_FOLDER: &str = "best";

/// A run's folder, locked against other runs for as long as this lives.
pub struct Run(Option<Folder>);

/// What is written there as training goes on.
struct Folder {
    log: MetricsLog,
    events: EventLog,
    _lock: Lock,
}

/// Keeps other runs out of a folder. Removed when the run ends, however it ends.
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
    _unfinished: Unfinished,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// [`Error::Usage`] if another run has it; [`Error::Io`].
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        let create = || {
            let file = File::create(&path).map_err(Error::io("create", &path))?;
            match file.try_lock() {
                Ok(()) => Ok(file),
                Err(TryLockError::WouldBlock) => Err(Error::usage(
                    format!("another run is writing to {}", folder.display()),
                    "wait for it, or name another folder",
                )),
                Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
            }
        };
        let (file, unfinished) = Unfinished::new(create, |_| path.clone())?;
        Ok(Self { path, _file: file, _unfinished: unfinished })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An empty file that stays is no harm.
        let _ = fs::remove_file(&self.path);
    }
}

impl Run {
    /// Takes the folder: locks it, clears away what killed runs left half-written, writes the resolved options to
    /// `config.toml`, opens the metrics, without the lines after `step`, and starts an event file for TensorBoard.
    ///
    /// # Errors
    /// [`Error::Usage`] if another run is writing there; [`Error::Io`].
    pub fn start(folder: &Path, config: Option<&str>, step: u64) -> Result<Self> {
        failpoint();
        fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        failpoint();
        let lock = Lock::take(folder)?;
        failpoint();
        remove_debris(folder)?;
        // The first file that stays: it tells a folder that was begun from one of a user's own.
        let log = MetricsLog::open(folder, step)?;
        let best = folder.join(BEST_FOLDER);
        if step == 0 && best.is_dir() {
            remove_folder(&best)?;
        }
        if let Some(config) = config {
            write_atomic(folder.join("config.toml"), config)?;
        }
        Ok(Self(Some(Folder { log, events: EventLog::create(folder, step)?, _lock: lock })))
    }

    /// A run whose folder another rank has taken: nothing is written here.
    pub fn elsewhere() -> Self {
        Self(None)
    }

    /// Appends a line to the metrics, and its numbers to TensorBoard's curves.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let Some(folder) = &mut self.0 else { return Ok(()) };
        let line = serde_json::to_value(value).map_err(|error| Error::Failed(error.to_string()))?;
        folder.log.write(&line)?;
        folder.events.write(&line)
    }
}

/// Adds to the settings of a run what its tokens are.
pub(super) fn add_tokens(settings: &mut Value, tokenizer: &dyn Tokenizer) {
    match tokenizer.k_mers() {
        Some(k_mers) => {
            settings["k"] = json!(k_mers.k());
            settings["base-order"] = json!(k_mers.order());
        }
        None => {
            let mut crc = Crc::new();
            tokenizer.files(None).iter().for_each(|(_, contents)| crc.update(contents));
            settings["tokenizer"] = json!(format!("{}, {:08x}", tokenizer.describe(), crc.sum()));
        }
    }
}
