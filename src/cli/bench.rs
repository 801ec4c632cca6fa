//! `helixgrad bench`: throughput.

use std::fmt::Write;

use serde::Serialize;

use super::Common;
use crate::device::gemm_choice::{self, Measured};
use crate::model::{Head, preset};
use crate::train::bench::{Throughput, Workload, train_throughput};
use crate::{Error, Result};

/// Measure throughput.
#[derive(clap::Args, Debug, Serialize)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug, Serialize)]
enum Command {
    /// A full training step: forward, backward, clipping and AdamW, with dropout.
    Train(TrainArgs),
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct TrainArgs {
    /// Model size.
    #[arg(long, default_value = "mini")]
    preset: String,
    /// Sequences in a step (default: 8; for the 86-89 M presets 2; for splice-small 64).
    #[arg(long)]
    batch: Option<usize>,
    /// Tokens in a sequence (default: 512; for splice-small 80).
    #[arg(long)]
    length: Option<usize>,
    /// Share of tokens that are masked.
    #[arg(long, default_value_t = 0.15)]
    masked: f64,
    /// Steps to time.
    #[arg(long, default_value_t = 6)]
    steps: usize,
    /// Also measure with one thread and print the speed-up of all.
    #[arg(long)]
    scaling: bool,
}

#[derive(Serialize)]
struct Report {
    preset: String,
    device: String,
    batch: usize,
    length: usize,
    #[serde(flatten)]
    throughput: Throughput,
    /// The measurements that matrix products were chosen by, with `--gemm auto` on a GPU.
    products: Vec<Measured>,
    /// Tokens a second with one thread, if that was asked for.
    tokens_per_second_one_thread: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let Command::Train(args) = &args.command;
    let (device, dtype) = common.device()?;
    let preset = preset(&args.preset)?;
    let splice = preset.name == "splice-small";
    let length = args.length.unwrap_or(if splice { 80 } else { 512 });
    let batch = args.batch.unwrap_or(match preset.layers {
        12 => 2,
        _ if splice => 64,
        _ => 8,
    });
    if !(1..=1 << 20).contains(&length)
        || !(1..=1 << 16).contains(&batch)
        || args.steps == 0
        || !(0.0..=1.0).contains(&args.masked)
    {
        return Err(Error::usage(
            format!("--batch {batch} --length {length} --steps {} --masked {}", args.steps, args.masked),
            "give at least one step of at least one sequence of at least one token",
        ));
    }
    let head = if splice { Head::Site { labels: 3, hidden: None } } else { Head::MaskedLm };
    let config = preset.config(length);
    let workload = Workload { config, head, batch, length, masked: args.masked, steps: args.steps };

    let one_thread = if args.scaling {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
        Some(pool.install(|| train_throughput(&workload, &device, dtype, common.seed))?.tokens_per_second)
    } else {
        None
    };
    let throughput = train_throughput(&workload, &device, dtype, common.seed)?;
    let report = Report {
        preset: preset.name.to_owned(),
        device: device.to_string(),
        batch,
        length,
        throughput,
        products: device.measured_products(),
        tokens_per_second_one_thread: one_thread,
    };
    common.print(&report, table)
}

fn table(report: &Report) -> String {
    let throughput = &report.throughput;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} on {} with {} threads: {} sequences of {} tokens a step\n\
         {:.0} tokens/s, {:.2} sequences/s, {:.1} ms a step, {:.0} GFLOP/s, {:.0} MiB of activations, attention: {}\n",
        report.preset,
        report.device,
        throughput.threads,
        report.batch,
        report.length,
        throughput.tokens_per_second,
        throughput.sequences_per_second,
        throughput.seconds_per_step * 1e3,
        throughput.gflops,
        throughput.activation_mib,
        throughput.attention,
    );
    if let Some(one) = report.tokens_per_second_one_thread {
        let _ = writeln!(text, "one thread: {one:.0} tokens/s; speed-up {:.2}\n", throughput.tokens_per_second / one);
    }
    let _ = writeln!(text, "{:<16}{:<10}{:>8}{:>12}{:>9}", "op", "pass", "calls", "ms a step", "share");
    for op in &throughput.ops {
        let pass = format!("{:?}", op.pass).to_lowercase();
        let (calls, time, share) = (op.calls_per_step, op.milliseconds_per_step, op.share * 100.0);
        let _ = writeln!(text, "{:<16}{pass:<10}{calls:>8.0}{time:>12.2}{share:>8.1}%", op.op);
    }
    if !report.products.is_empty() {
        let _ = write!(text, "\n{}", gemm_choice::table(&report.products));
    }
    text
}
