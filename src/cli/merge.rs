//! `helixgrad merge`, and the option that makes what it puts together.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::genes::With;
use super::{Common, embed, predict, scan, variants};
use crate::inference::merge::Shards;
use crate::inference::shard::{Report, Shard};
use crate::inference::variants::{annotate, saturation};
use crate::report::format::count;
use crate::{Error, Result};

/// The option that all commands have whose work can be done in parts.
#[derive(clap::Args, Clone, Debug)]
pub struct ShardOption {
    /// Do one of several equal parts of the work, 2/10 for the second of ten; `slurm`: the one that this task of a Slurm array job is. A
    /// part is kept beside --out, in the folder OUT.shard-2-of-10, and `helixgrad merge` puts all of them together.
    #[arg(long, value_name = "I/N", requires = "out")]
    shard: Option<String>,
}

impl ShardOption {
    /// The part that was asked for.
    ///
    /// # Errors
    /// As [`Shard::parse`].
    pub fn parse(&self) -> Result<Option<Shard>> {
        self.shard.as_deref().map(Shard::parse).transpose()
    }
}

/// Options of `helixgrad merge`.
///
/// Puts the parts together that scan, variants, predict or embed have made with --shard: the files and bytes that the command writes
/// without it. Refused by name, before anything is written, are parts that are missing, there twice, unfinished, damaged, or of another model,
/// input, setting or version than the others. The parts stay.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folders of all parts, in any order: OUT.shard-1-of-10 and so on.
    #[arg(required = true, value_name = "FOLDERS")]
    shards: Vec<PathBuf>,
    /// What to write: what --out was for the parts, or another name that ends alike.
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Those of [`Shards::open`], and of writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let shards = Shards::open(&args.shards)?;
    shards.keep(&args.out)?;
    match shards.command() {
        scan::COMMAND => {
            print(common, &shards, &told(scan::merge(&shards, &args.out)?), |with| scan::human(&with.result))
        }
        annotate::COMMAND => {
            print(common, &shards, &told(annotate::merge(&shards, &args.out)?), |with| variants::human(&with.result))
        }
        saturation::COMMAND => {
            let merged = told(saturation::merge(&shards, &args.out)?);
            print(common, &shards, &merged, |with| variants::human_saturation(&with.result))
        }
        predict::COMMAND => print(common, &shards, &predict::merge(&shards, &args.out)?, predict::human),
        embed::COMMAND => print(common, &shards, &embed::merge(&shards, &args.out)?, embed::human),
        other => Err(Error::usage(
            format!("{} is a shard of {other:?}, which this version does not know", args.shards[0].display()),
            "merge with the version that made it",
        )),
    }
}

fn told<T>((result, annotation): (T, Option<Value>)) -> With<T, Value> {
    With { result, annotation }
}

/// What the whole command prints, and of how many parts it came.
fn print<T: Serialize>(common: &Common, shards: &Shards, result: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
    #[derive(Serialize)]
    struct Merged<'a, T> {
        #[serde(flatten)]
        result: &'a T,
        shards: usize,
    }
    let merged = Merged { result, shards: shards.count() };
    common.print(&merged, |merged| format!("{} shards put together\n{}", merged.shards, human(merged.result)))
}

/// Prints that a part is done.
///
/// # Errors
/// As [`Common::print`].
pub fn print_part(common: &Common, report: &Report) -> Result<()> {
    common.print(report, |Report { shard, of, unit, share, all, out }| {
        format!(
            "shard {shard} of {of}: {} of {} {unit}, in {}\n`helixgrad merge` puts all {of} together",
            count(*share),
            count(*all),
            out.display()
        )
    })
}

/// The annotation's account as a shard keeps it.
///
/// # Errors
/// [`Error::Failed`] if it cannot be written as JSON.
pub fn kept<T: Serialize>(account: Option<&T>) -> Result<Option<Value>> {
    account.map(serde_json::to_value).transpose().map_err(|error| Error::Failed(error.to_string()))
}
