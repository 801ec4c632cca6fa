//! The run's curves for TensorBoard, appended as training goes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::output::failpoint;
use crate::report::tensorboard;
use crate::{Error, Result};

/// An event file of a run. Each session of a run writes one of its own, as TensorBoard wants it: a record torn by a crash is then
/// the last of its file, and the next file says from which step on it counts.
pub struct EventLog {
    path: PathBuf,
    file: File,
}

impl EventLog {
    /// Starts an event file in `folder` for a session that goes on after `step`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let session = names.filter(|name| name.to_string_lossy().contains("tfevents")).count();
        let now = wall_time();
        // Readers take the files in the order of their names, and know them by the word in the middle.
        let path = folder.join(format!("events.out.tfevents.{:010}.helixgrad.{session:04}", now as u64));
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(Error::io("create", &path))?;
        let mut log = Self { path, file };
        log.append(&tensorboard::file_version(now))?;
        // Begun anew in the folder of a run that was killed before its first checkpoint: what that one wrote counts no more.
        if step > 0 || session > 0 {
            log.append(&tensorboard::session_start(now, step + 1))?;
        }
        Ok(log)
    }

    /// Appends every number of a line of the metrics as a point of the curve of its name; those of an object inside it as
    /// `object/name`. `step` counts the points, and is no curve itself.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, line: &Value) -> Result<()> {
        let Some(step) = line.get("step").and_then(Value::as_u64) else { return Ok(()) };
        let mut curves = Vec::new();
        collect(line, "", &mut curves);
        let points = curves.iter().map(|(name, value)| (name.as_str(), *value as f32));
        self.append(&tensorboard::scalars(wall_time(), step, points))
    }

    /// One call of the system a record: a crash leaves whole records, and at most one torn one behind them.
    fn append(&mut self, record: &[u8]) -> Result<()> {
        failpoint();
        self.file.write_all(record).map_err(Error::io("write", &self.path))
    }
}

fn collect(value: &Value, prefix: &str, curves: &mut Vec<(String, f64)>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some(number) = value.as_f64().filter(|_| name != "step") {
            curves.push((format!("{prefix}{name}"), number));
        }
        collect(value, &format!("{prefix}{name}/"), curves);
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
