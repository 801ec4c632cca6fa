//! The folder that a run writes to, from its first step on.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use serde::Serialize;

use super::checkpoint::remove_debris;
use super::events::EventLog;
use super::log::MetricsLog;
use crate::output::write_atomic;
use crate::{Error, Result};

/// A run's folder, locked against other runs for as long as this lives.
pub struct Run {
    log: MetricsLog,
    events: EventLog,
    /// Held, not read.
    _lock: File,
}

impl Run {
    /// Takes the folder: locks it, clears away what killed runs left half-written, writes the resolved options to
    /// `config.toml`, opens the metrics, without the lines after `step`, and starts an event file for TensorBoard.
    ///
    /// # Errors
    /// [`Error::Usage`] if another run is writing there; [`Error::Io`].
    pub fn start(folder: &Path, config: Option<&str>, step: u64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        let path = folder.join(".lock");
        let lock = File::create(&path).map_err(Error::io("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::usage(
                    format!("another run is writing to {}", folder.display()),
                    "wait for it, or name another folder",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
        remove_debris(folder)?;
        if let Some(config) = config {
            write_atomic(folder.join("config.toml"), config)?;
        }
        Ok(Self { log: MetricsLog::open(folder, step)?, events: EventLog::create(folder, step)?, _lock: lock })
    }

    /// Appends a line to the metrics, and its numbers to TensorBoard's curves.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let line = serde_json::to_value(value).map_err(|error| Error::Failed(error.to_string()))?;
        self.log.write(&line)?;
        self.events.write(&line)
    }
}
