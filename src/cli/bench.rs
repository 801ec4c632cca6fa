//! `helixgrad bench`: throughput.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::workload::{Task, WorkloadArgs};
use super::{Common, config};
use crate::autograd::Pass;
use crate::bench::noise::Verdict;
use crate::bench::published::{PUBLISHED, Published};
use crate::bench::train::{Throughput, train_throughput};
use crate::bench::{Mix, Workload};
use crate::device::gemm_choice::{self, Measured};
use crate::device::graphs::GraphCounts;
use crate::model::{Config, Recompute};
use crate::parallel::{Ranks, Reduction, facts};
use crate::report::{Cell, Table, format};
use crate::small_file;
use crate::train::ceilings::{Limit, Sizes};
use crate::train::step::ProfileSteps;
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
    #[command(flatten)]
    #[serde(flatten)]
    workload: WorkloadArgs,
    /// Steps to time; six are the fewest that say how noisy they were.
    #[arg(long, default_value_t = 6, value_name = "N")]
    steps: usize,
    /// Also measure with one thread and print the speed-up of all.
    #[arg(long)]
    scaling: bool,
    /// On a GPU: have an attached profiler (nsys, ncu) collect these steps, from 1, the two of the warm-up included, as in 4..6.
    #[arg(long, value_name = "A..B")]
    profile_steps: Option<ProfileSteps>,
    /// Compare with what an earlier run printed with --json, and say whether the difference is within the noise of the steps.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    preset: String,
    task: Task,
    device: String,
    dtype: &'static str,
    batch: usize,
    length: usize,
    mix: Mix,
    masked: f64,
    recompute: Recompute,
    #[serde(flatten)]
    throughput: Throughput,
    /// The measurements that matrix products were chosen by, with `--gemm auto` on a GPU.
    products: Vec<Measured>,
    /// Tokens a second with one thread, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second_one_thread: Option<f64>,
    /// Figures that others published for the same trunk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    published: Vec<Published>,
    /// The comparison, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Comparison>,
}

/// This run over an earlier one.
#[derive(Serialize)]
struct Comparison {
    file: PathBuf,
    /// Where the runs differ in what they measured: (what, then, now).
    differences: Vec<(&'static str, String, String)>,
    /// (what, then, now, now / then).
    ratios: Vec<(String, f64, f64, f64)>,
    /// The 95 % intervals of the median milliseconds a step, then and now: null in a file of an older version, and with fewer than
    /// six steps.
    milliseconds_per_step_intervals: [Option<(f64, f64)>; 2],
    /// What they say.
    verdict: Verdict,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let Command::Train(args) = &args.command;
    let (ranks, common) = common.join(Reduction::Exact)?;
    let result = train(args, &common, &ranks);
    ranks.leave(result)
}

fn train(args: &TrainArgs, common: &Common, ranks: &Ranks) -> Result<()> {
    let earlier = args.against.as_deref().map(read_earlier).transpose()?;
    let (device, dtype) = common.device()?;
    let options = facts::options(&config::resolved(args, common)?);
    ranks.agree(&[facts::build()?, options].concat())?;
    let mut workload = args.workload.workload(&device, args.steps)?;
    workload.collected = args.profile_steps;
    let sizes = Sizes::of(&device);
    let one_thread = if args.scaling {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
        Some(
            pool.install(|| train_throughput(&workload, &device, dtype, common.seed, &sizes, &Ranks::alone()))?
                .tokens_per_second,
        )
    } else {
        None
    };
    let throughput = train_throughput(&workload, &device, dtype, common.seed, &sizes, ranks)?;
    let task = args.workload.task();
    let mut report = Report {
        preset: args.workload.name(),
        task,
        device: device.to_string(),
        dtype: dtype.name(),
        batch: workload.batch,
        length: workload.length,
        mix: workload.mix,
        masked: workload.masked,
        recompute: workload.recompute,
        throughput,
        products: device.measured_products(),
        tokens_per_second_one_thread: one_thread,
        published: published(&workload.config, task),
        against: None,
    };
    if let (Some(earlier), Some(file)) = (earlier, &args.against) {
        report.against = Some(compare(&earlier, &report, file)?);
    }
    common.print(&report, |report| text(report, &args.workload.title(&workload), &workload))
}

/// The published figures are for the pretraining of a trunk of 12 layers of 768: beside another one they would say nothing.
fn published(config: &Config, task: Task) -> Vec<Published> {
    let same = (config.num_hidden_layers, config.hidden_size, task) == (12, 768, Task::Pretrain);
    if same { PUBLISHED.to_vec() } else { Vec::new() }
}

fn read_earlier(path: &Path) -> Result<Value> {
    let text = small_file::read(path)?;
    let remedy = "name a file that `helixgrad bench train --json > FILE` wrote";
    let value: Value =
        serde_json::from_str(&text).map_err(|error| Error::input(path, "", error.to_string(), remedy))?;
    match value.get("tokens_per_second").and_then(Value::as_f64) {
        Some(_) => Ok(value),
        None => Err(Error::input(path, "", "no tokens_per_second in it", remedy)),
    }
}

fn compare(earlier: &Value, report: &Report, file: &Path) -> Result<Comparison> {
    let now = serde_json::to_value(report).map_err(|error| Error::Failed(error.to_string()))?;
    let conditions = [
        "preset",
        "task",
        "device",
        "dtype",
        "batch",
        "length",
        "mix",
        "masked",
        "recompute",
        "threads",
        "tokens_per_step",
    ];
    let differences = conditions
        .into_iter()
        .filter(|what| earlier[*what] != now[*what])
        .map(|what| (what, earlier[what].to_string(), now[what].to_string()))
        .collect();
    let mut ratios = Vec::new();
    let mut ratio = |what: String, then: Option<f64>, now: Option<f64>| {
        if let (Some(then), Some(now)) = (then, now)
            && then > 0.0
        {
            ratios.push((what, then, now, now / then));
        }
    };
    let figures =
        [("tokens/s", "tokens_per_second"), ("ms a step", "seconds_per_step"), ("TFLOP/s", "tflops"), ("MFU", "mfu")];
    for (name, key) in figures {
        let scale = if key == "seconds_per_step" { 1e3 } else { 1.0 };
        let figure = |value: &Value| value[key].as_f64().map(|figure| figure * scale);
        ratio(name.to_owned(), figure(earlier), figure(&now));
    }
    let milliseconds = |value: &Value, op: &Value, pass: &Value| {
        let ops = value["ops"].as_array()?;
        ops.iter().find(|row| row["op"] == *op && row["pass"] == *pass)?["milliseconds_per_step"].as_f64()
    };
    for row in now["ops"].as_array().into_iter().flatten() {
        let (op, pass) = (&row["op"], &row["pass"]);
        let name = format!("ms: {} {}", op.as_str().unwrap_or_default(), pass.as_str().unwrap_or_default());
        ratio(name.trim_end().to_owned(), milliseconds(earlier, op, pass), milliseconds(&now, op, pass));
    }
    let [then, now] = [earlier, &now].map(|value| interval_of(&value["seconds_per_step_interval"]));
    Ok(Comparison {
        file: file.to_owned(),
        differences,
        ratios,
        milliseconds_per_step_intervals: [then, now],
        verdict: Verdict::of(then, now),
    })
}

/// Milliseconds, from the two seconds of a report.
fn interval_of(value: &Value) -> Option<(f64, f64)> {
    Some((value[0].as_f64()? * 1e3, value[1].as_f64()? * 1e3))
}

fn text(report: &Report, title: &str, workload: &Workload) -> String {
    let throughput = &report.throughput;
    let tokens = format::count(throughput.tokens_per_second as u64);
    let mut parts = vec![format!(
        "{title} ({}), on {} with {} threads; attention: {}\n\
         {tokens} tokens/s, {} sequences/s; {:.1} ms a step ({:.1} to {:.1} in {} steps, loss {:.6} in the last), {:.0} MiB of activations\n\
         {} of products, MFU {} of {} ({})\n\
         ceilings of this run: {}",
        report.dtype,
        report.device,
        throughput.threads,
        throughput.attention,
        format::short(throughput.sequences_per_second),
        throughput.seconds_per_step * 1e3,
        throughput.seconds_per_step_range.0 * 1e3,
        throughput.seconds_per_step_range.1 * 1e3,
        workload.steps,
        throughput.loss,
        throughput.activation_mib,
        format::quantity(throughput.tflops * 1e12, "FLOP/s"),
        format::percent(throughput.mfu, 1),
        format::quantity(throughput.peak.flops_per_second, "FLOP/s"),
        throughput.peak.source,
        throughput.ceilings.describe(),
    )];
    if let Some(GraphCounts { made, run, tasks, changed, alone }) = throughput.graphs {
        parts.push(format!(
            "{run} runs of {made} graphs, warm-up included: {tasks} launches, {changed} of them set anew; {alone} by themselves"
        ));
    }
    if let Some(one) = report.tokens_per_second_one_thread {
        let speed_up = throughput.tokens_per_second / one;
        parts.push(format!("one thread: {} tokens/s; speed-up {speed_up:.2}", format::count(one as u64)));
    }
    if let Some(scaling) = &throughput.scaling {
        parts.push(format!(
            "{}: {:.1} ms a step by itself, so {} of the time is training; the sum of gradients takes {:.1} ms, the slowest rank's delay among them, and \
             {} to send and to receive",
            scaling.carrier,
            scaling.seconds_per_step_alone * 1e3,
            format::percent(scaling.efficiency, 1),
            scaling.sum_milliseconds,
            format::quantity(scaling.bytes_sent, "B"),
        ));
    }
    parts.push(ops(throughput).to_string());
    if !report.products.is_empty() {
        parts.push(gemm_choice::table(&report.products));
    }
    if !report.published.is_empty() {
        parts.push(beside(report));
    }
    if let Some(comparison) = &report.against {
        parts.push(comparison_text(comparison));
    }
    parts.join("\n\n")
}

fn ops(throughput: &Throughput) -> Table {
    let mut table =
        Table::new(["op", "pass", "calls", "ms a step", "share %", "GB/s", "GFLOP/s", "roofline %", "limit"]);
    for op in &throughput.ops {
        table.row([
            Cell::from(op.op),
            op.pass.map_or("", Pass::name).into(),
            Cell::number(op.calls_per_step, 0),
            Cell::number(op.milliseconds_per_step, 2),
            Cell::number(op.share * 100.0, 1),
            Cell::number(op.gigabytes_per_second, 1),
            Cell::number(op.tflops * 1e3, 1),
            Cell::number(op.roofline * 100.0, 0),
            op.limit.map_or("", Limit::name).into(),
        ]);
    }
    table
}

fn beside(report: &Report) -> String {
    let mut table = Table::new(["published, on other hardware", "hardware", "tokens/s", "this run over it"]);
    for figure in &report.published {
        table.row([
            Cell::from(figure.system),
            figure.hardware.into(),
            Cell::from(figure.tokens_per_second as u64),
            Cell::number(report.throughput.tokens_per_second / figure.tokens_per_second, 3),
        ]);
    }
    let mut sources: Vec<&str> = report.published.iter().map(|figure| figure.source).collect();
    sources.dedup();
    format!("{table}sources: {}", sources.join("; "))
}

fn comparison_text(comparison: &Comparison) -> String {
    let file = comparison.file.display();
    let mut table = Table::new([&format!("against {file}"), "then", "now", "now / then"]);
    for (what, then, now, ratio) in &comparison.ratios {
        let digits = if *now >= 1000.0 { 0 } else { 3 };
        table.row([
            Cell::from(what.as_str()),
            Cell::number(*then, digits),
            Cell::number(*now, digits),
            Cell::number(*ratio, 3),
        ]);
    }
    let mut text = table.to_string();
    text += &match comparison.milliseconds_per_step_intervals {
        [Some(then), Some(now)] => format!(
            "{}: 95 % intervals of the medians are {:.3} to {:.3} ms a step then and {:.3} to {:.3} now\n",
            comparison.verdict.name(),
            then.0,
            then.1,
            now.0,
            now.1
        ),
        [None, _] => format!("noise unknown: {file} has no interval (an older version, or fewer than 6 steps)\n"),
        [_, None] => "noise unknown: this run has no interval (--steps 6 is the fewest)\n".to_owned(),
    };
    for (what, then, now) in &comparison.differences {
        text += &format!("not the same: {what} was {then} and is {now}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_that_is_no_report_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("then.json");
        assert!(read_earlier(&path).unwrap_err().to_string().contains("then.json"));
        for contents in ["", "{", "[]", "{\"tokens_per_second\": \"fast\"}", "17"] {
            std::fs::write(&path, contents).unwrap();
            let error = read_earlier(&path).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("then.json"), "{error}");
        }
        std::fs::write(&path, "{\"tokens_per_second\": 3.5}").unwrap();
        assert!(read_earlier(&path).is_ok());
    }

    /// A comparison of a report with a file, by their intervals of seconds a step.
    fn compared(then: &Value, interval: (f64, f64)) -> String {
        let ratios = vec![("ms a step".to_owned(), 10.0, 11.0, 1.1)];
        let intervals = [then, &json!([interval.0, interval.1])].map(interval_of);
        let (file, differences) = ("then.json".into(), Vec::new());
        let verdict = Verdict::of(intervals[0], intervals[1]);
        comparison_text(&Comparison { file, differences, ratios, milliseconds_per_step_intervals: intervals, verdict })
    }

    #[test]
    fn a_difference_within_the_noise_is_called_so() {
        let text = compared(&json!([0.009, 0.0105]), (0.0101, 0.012));
        assert!(text.contains("within noise: 95 % intervals of the medians are 9.000 to 10.500 ms"), "{text}");
        assert!(compared(&json!([0.009, 0.0105]), (0.011, 0.012)).contains("\nslower: "));
        assert!(compared(&json!([0.012, 0.013]), (0.011, 0.0119)).contains("\nfaster: "));
        // Of a version without intervals, or of few steps.
        for old in [Value::Null, json!(null), json!("x"), json!([0.1])] {
            let text = compared(&old, (0.011, 0.012));
            assert!(text.contains("noise unknown: then.json has no interval"), "{text}");
        }
    }
}
