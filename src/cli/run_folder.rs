//! The folder of a run.

use std::fs;
use std::path::Path;

use crate::output::is_staging;
use crate::train::run::BEST_FOLDER;
use crate::train::run_state::{newest_checkpoint, nothing_to_resume};
use crate::{Error, Result};

/// The file that every begun run has, and no folder of a user's own.
const MARKER: &str = "metrics.jsonl";

/// A folder that holds anything is left alone, unless it is a run that is to be resumed, or one that came to an end before its first
/// checkpoint: that one has nothing to lose. Returns whether there is a checkpoint to go on from: `--resume` of a run without one
/// begins it anew.
///
/// # Errors
/// [`Error::Usage`] if something else is there already, or nothing to resume; [`Error::Io`] if the folder cannot be written.
pub fn check(out: &Path, resume: bool) -> Result<bool> {
    let checkpoint = newest_checkpoint(out)?;
    if resume && checkpoint.is_none() && !out.join(MARKER).is_file() {
        return Err(nothing_to_resume(out));
    }
    if !resume && (checkpoint.is_some() || out.join("model.safetensors").exists()) {
        return Err(Error::usage(
            format!("{} already holds a run", out.display()),
            "go on with it (--resume), name another folder, or remove it",
        ));
    }
    if checkpoint.is_none() {
        let is_begun = out.join(MARKER).is_file();
        let belongs = |name: &str, is_folder: bool| match is_folder {
            true => name == BEST_FOLDER,
            false => matches!(name, MARKER | "config.toml") || name.contains("tfevents"),
        };
        check_begun(out, "a run that was just begun", |name, is_folder| is_begun && belongs(name, is_folder))?;
        if resume {
            tracing::info!("{} has no checkpoint yet: beginning anew", out.display());
        }
    }
    // The run writes after its first step; whether it can is found out now.
    let existing = out.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(existing).map_err(Error::io("write to", out))?;
    Ok(checkpoint.is_some())
}

/// Refuses a folder that holds anything but what `belongs` (its name, and whether it is a folder) to what was begun there, a lock, and
/// what is half-written. A missing or an empty one is fine.
///
/// # Errors
/// [`Error::Usage`] that names what was found; [`Error::Io`].
pub fn check_begun(out: &Path, what: &str, belongs: impl Fn(&str, bool) -> bool) -> Result<()> {
    if !out.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(out).map_err(Error::io("read the folder", out))? {
        let entry = entry.map_err(Error::io("read the folder", out))?;
        let is_folder = entry.file_type().map_err(Error::io("read the folder", out))?.is_dir();
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .is_some_and(|name| is_staging(name) || name == ".lock" && !is_folder || belongs(name, is_folder));
        if !is_ours {
            return Err(Error::usage(
                format!("{} holds {:?}, and is no folder of {what}", out.display(), name.to_string_lossy()),
                "name a new folder with --out",
            ));
        }
    }
    Ok(())
}
