//! `helixgrad profile`: where the time and the memory of a training step go.

use std::path::PathBuf;

use serde::Serialize;

use super::Common;
use super::workload::WorkloadArgs;
use crate::bench::profile::{Profile, profile};
use crate::bench::{page, trace};
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
    /// The folder for `profile.html`, `trace.json` (Chrome, Perfetto) and `profile.json`; without it, the table alone is printed.
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
    let workload = args.workload.workload(&device, args.steps)?;
    let title = args.workload.title(&workload);
    let profile = profile(&workload, &device, dtype, common.seed, &Sizes::of(&device))?;
    if let Some(out) = &args.out {
        write(&profile, &title, out)?;
    }
    common.print(&profile, |profile| {
        let text = page::text(profile, &title);
        match &args.out {
            Some(out) => format!("{text}\nopen {}", out.join("profile.html").display()),
            None => text,
        }
    })
}

fn write(profile: &Profile, title: &str, out: &std::path::Path) -> Result<()> {
    let arguments: Vec<_> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let command = format!("helixgrad {}", arguments.join(" "));
    let json = serde_json::to_string_pretty(profile).map_err(|error| Error::Failed(error.to_string()))?;
    FOLDER.write(out, |folder| {
        let files = [
            ("profile.html", page::render(profile, title, &command)),
            ("trace.json", trace::render(&profile.recording, &profile.device)),
            ("profile.json", json),
        ];
        for (name, contents) in files {
            let path = folder.join(name);
            std::fs::write(&path, contents).map_err(Error::io("write", &path))?;
        }
        Ok(())
    })
}
