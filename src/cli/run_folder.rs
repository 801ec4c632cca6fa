//! The folder of a run.

use std::path::Path;

use crate::output::FolderKind;
use crate::train::run_state::{newest_checkpoint, nothing_to_resume};
use crate::{Error, Result};

/// A run that came to an end before its first checkpoint: it has nothing to lose.
const BEGUN: FolderKind = FolderKind {
    what: "a run that was just begun",
    marker: "metrics.jsonl",
    holds: |name| matches!(name, ".lock" | "config.toml") || name.contains("tfevents"),
};

/// A folder that holds anything is left alone, unless it is a run that is to be resumed or [`BEGUN`].
///
/// # Errors
/// [`Error::Usage`] if something else is there already, or nothing to resume; [`Error::Io`] if the folder cannot be written.
pub fn check(out: &Path, resume: bool) -> Result<()> {
    let checkpoint = newest_checkpoint(out)?;
    if resume && checkpoint.is_none() {
        return Err(nothing_to_resume(out));
    }
    if !resume && (checkpoint.is_some() || out.join("model.safetensors").exists()) {
        return Err(Error::usage(
            format!("{} already holds a run", out.display()),
            "go on with it (--resume), name another folder, or remove it",
        ));
    }
    if !resume {
        BEGUN.check(out)?;
    }
    // The run writes after its first step; whether it can is found out now.
    let existing = out.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(existing).map_err(Error::io("write to", out))?;
    Ok(())
}
