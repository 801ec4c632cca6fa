//! Metrics as JSON lines, one object a line, appended as training goes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::output::failpoint;
use crate::{Error, Result};

/// The file `metrics.jsonl` of a run.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of the run in `folder`. Lines after `step` are dropped: the run that wrote them is being resumed
    /// from an earlier point.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        let path = folder.join("metrics.jsonl");
        let old = if step > 0 { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let kept: String = old.lines().filter(|line| is_until(line, step)).map(|line| format!("{line}\n")).collect();
        crate::output::write_atomic(&path, kept)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("open", &path))?;
        Ok(Self { path, file })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let mut line = serde_json::to_vec(value).map_err(|error| Error::Failed(error.to_string()))?;
        line.push(b'\n');
        failpoint();
        self.file.write_all(&line).map_err(Error::io("write", &self.path))
    }
}

fn is_until(line: &str, last: u64) -> bool {
    let step = serde_json::from_str::<Value>(line).ok().and_then(|value| value.get("step")?.as_u64());
    step.is_some_and(|step| step <= last)
}
