//! `helixgrad profile`: where the time and the memory of a training step go, and what its kernels do.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Common;
use super::workload::WorkloadArgs;
use crate::bench::profile::profile;
use crate::bench::{counted, page, trace};
use crate::device::{DType, Device};
use crate::output::FolderKind;
use crate::train::ceilings::Sizes;
use crate::{Error, Result};

/// Options of `helixgrad profile`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    workload: WorkloadArgs,
    /// Steps to record.
    #[arg(long, default_value_t = 3, value_name = "N")]
    steps: usize,
    /// Count a step instead of timing some, without a GPU: instructions, bank conflicts, sectors, bytes through L2, by kernel and by line of
    /// its source, from the compiled kernels (default: one sequence of 64 tokens). Run as `tools/emulated_gpu.sh helixgrad profile --emulate`.
    #[arg(long, conflicts_with = "steps")]
    emulate: bool,
    /// The folder for `profile.html`, `trace.json` (Chrome, Perfetto; not with --emulate) and `profile.json`; without it, the table alone is
    /// printed.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const FOLDER: FolderKind = FolderKind {
    what: "a profile",
    marker: "profile.json",
    holds: |name| matches!(name, "profile.html" | "trace.json"),
};

/// Runs the command.
///
/// # Errors
/// Those of training and of files.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let (device, dtype) = common.device()?;
    if let Some(out) = &args.out {
        FOLDER.check(out)?;
    }
    if args.emulate {
        return emulate(args, common, &device, dtype);
    }
    let workload = args.workload.workload(&device, args.steps)?;
    let title = args.workload.title(&workload);
    let profile = profile(&workload, &device, dtype, common.seed, &Sizes::of(&device))?;
    if let Some(out) = &args.out {
        let trace = ("trace.json", trace::render(&profile.recording, &profile.device));
        write(out, &profile, [("profile.html", page::render(&profile, &title, &command())), trace])?;
    }
    common.print(&profile, |profile| with_page(page::text(profile, &title), args.out.as_deref()))
}

/// The step counted, behind the emulated driver.
fn emulate(args: &Args, common: &Common, device: &Device, dtype: DType) -> Result<()> {
    let workload = args.workload.one_sequence().workload(device, 1)?;
    let title = args.workload.title(&workload);
    let counted = counted::count(&workload, device, dtype, common.seed)?;
    if let Some(out) = &args.out {
        write(out, &counted, [("profile.html", counted::page(&counted, &title, &command()))])?;
    }
    common.print(&counted, |counted| with_page(counted::text(counted, &title), args.out.as_deref()))
}

/// The text, and where the page is if there is one.
fn with_page(text: String, out: Option<&Path>) -> String {
    match out {
        Some(out) => format!("{text}\nopen {}", out.join("profile.html").display()),
        None => text,
    }
}

/// The command line of this process.
fn command() -> String {
    let arguments = std::env::args_os().skip(1).map(|argument| format!(" {}", argument.to_string_lossy()));
    std::iter::once("helixgrad".to_owned()).chain(arguments).collect()
}

/// The folder: the result, and the files beside it.
fn write<const N: usize>(out: &Path, result: &impl Serialize, files: [(&str, String); N]) -> Result<()> {
    let json = serde_json::to_string_pretty(result).map_err(|error| Error::Failed(error.to_string()))?;
    FOLDER.write(out, |folder| {
        for (name, contents) in files.into_iter().chain([("profile.json", json)]) {
            let path = folder.join(name);
            std::fs::write(&path, contents).map_err(Error::io("write", &path))?;
        }
        Ok(())
    })
}
