//! `helixgrad demo`: the whole path on the shipped sample.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{Common, config};
use crate::lossy;
use crate::output::write_atomic;
use crate::report::format;
use crate::train::demo::{DemoMetrics, DemoOptions, Surroundings, run as run_demo};
use crate::train::metrics::SpliceMetrics;
use crate::{Error, Result};

/// Options of `helixgrad demo`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The folder that gets the models, metrics.json and report.html; an earlier demo's is replaced.
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Train for seconds only: shows that everything works, not how well.
    #[arg(long)]
    quick: bool,
}

/// Runs the command.
///
/// # Errors
/// Those of every part.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let options = if args.quick { DemoOptions::quick() } else { DemoOptions::default() };
    let (device, dtype) = common.device()?;
    let surroundings = Surroundings { out: args.out.clone(), device, dtype, seed: common.seed, quiet: common.quiet };
    let metrics = run_demo(&options, &surroundings).map_err(|error| match error {
        // Its parts would say how to go on with them.
        Error::Interrupted(_) => Error::Interrupted("; a demo begins anew each time".into()),
        other => other,
    })?;
    write_atomic(args.out.join("config.toml"), config::resolved(args, common)?)?;
    common.print(&metrics, |metrics| human(metrics, args))
}

fn human(metrics: &DemoMetrics, args: &Args) -> String {
    let splice = &metrics.splice;
    format!(
        "\nSplice sites of a region that no training saw: {} donors and acceptors among {} decoys.\n\n{}{}\n\n\
         Pretraining: {} tokens at {} tokens/s; loss {:.3} at first, {:.3} at last.\n\
         Everything took {}. Look at {}",
        format::count(splice.test_sites),
        format::count(splice.test_decoys),
        metrics.table(),
        SpliceMetrics::READING,
        format::count(metrics.pretrain.tokens),
        format::count(metrics.pretrain.tokens_per_second as u64),
        metrics.pretrain.loss_first,
        metrics.pretrain.loss_last,
        format::duration(Duration::from_secs_f64(metrics.seconds)),
        args.out.join("report.html").display(),
    )
}
