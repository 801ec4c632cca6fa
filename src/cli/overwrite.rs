//! No command writes over a file that it reads: one check over all paths of the command line, before anything is opened. Options
//! that are paths are found by their type, so that a new one is in it by itself; `out` and `output` are written, the others read.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use crate::inference::variants::saturation;
use crate::interop::arrays::index_path;
use crate::{Error, Result};

/// Refuses outputs that are inputs, by whatever name: files that are named, files that a folder is read for, and what a command writes
/// beside its output.
///
/// # Errors
/// [`Error::Usage`].
pub fn check(matches: &ArgMatches) -> Result<()> {
    let (mut inputs, mut outputs, mut resume, mut pictured) = (Vec::new(), Vec::new(), false, false);
    let mut level = Some(matches);
    while let Some(matches) = level {
        for id in matches.ids() {
            let paths = matches.try_get_many::<PathBuf>(id.as_str()).ok().flatten().into_iter().flatten().cloned();
            if matches!(id.as_str(), "out" | "output") {
                outputs.extend(paths)
            } else {
                inputs.extend(paths)
            }
            resume |= id == "resume" && matches.get_flag("resume");
            pictured |= id == "saturation";
        }
        level = matches.subcommand().map(|(_, matches)| matches);
    }
    if inputs.iter().filter(|input| *input == Path::new("-")).count() > 1 {
        return Err(Error::usage(
            "- for two inputs",
            "read one of them from standard input, and the other from a file",
        ));
    }
    if outputs.iter().any(|out| out == Path::new("-")) {
        return Err(Error::usage(
            "the output -, where a file is written",
            "name a file: results go to stdout only where a command prints them, without --out",
        ));
    }
    let mut there = Vec::new();
    for out in &outputs {
        let page = pictured.then(|| out.with_extension("html"));
        let is_array = out.extension().is_some_and(|ending| ending == "npy" || ending == "safetensors");
        let written = [Some(out.clone()), page, is_array.then(|| index_path(out))].into_iter().flatten();
        there.extend(written.filter_map(|written| Some((written.canonicalize().ok()?, written))));
    }
    // What is not there yet is written over nothing, and folders that are read need not be gone through.
    let inputs = inputs.iter().filter(|_| !there.is_empty());
    let read: Vec<(PathBuf, &Path)> = inputs.flat_map(|input| files_of(input)).collect();
    for (real, written) in there {
        let is_read = |file: &Path| *file == real || !resume && real.is_dir() && file.starts_with(&real);
        if let Some((_, input)) = read.iter().find(|(file, _)| is_read(file)) {
            return Err(Error::usage(
                format!("the output {} would write over the input {}", written.display(), input.display()),
                "give the output another name",
            ));
        }
    }
    if pictured {
        outputs.iter().try_for_each(|out| saturation::page_path(out).map(drop))?;
    }
    Ok(())
}

/// What is read for an input: itself, and in a folder everything that a model, a run or a dataset has there, also in folders inside.
fn files_of(input: &Path) -> Vec<(PathBuf, &Path)> {
    const DEEPEST: usize = 2;
    let Ok(real) = input.canonicalize() else { return Vec::new() };
    let mut files = vec![(real.clone(), input)];
    let mut folders = if real.is_dir() { vec![(real, 0)] } else { Vec::new() };
    while let Some((folder, depth)) = folders.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() && depth < DEEPEST {
                folders.push((path, depth + 1));
            } else if may_be_read(&path) {
                files.extend(path.canonicalize().ok().map(|real| (real, input)));
            }
        }
    }
    files
}

/// Whether a file in a folder that is an input may be what it is read for. Predictions and other results of a user's own stay
/// replaceable there.
fn may_be_read(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    matches!(ending, "safetensors" | "bin" | "json" | "jsonl" | "txt" | "toml")
        || matches!(name, "train.tsv" | "dev.tsv" | "test.tsv" | "train.csv" | "dev.csv" | "test.csv" | "sites.bed")
}
