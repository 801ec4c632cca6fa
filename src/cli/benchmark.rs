//! `helixgrad benchmark`: the tasks of a published suite, beside what others came to.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::Common;
use crate::lossy;
use crate::output::write_atomic;
use crate::report::{Cell, Table};
use crate::train::benchmark::{Deviations, Suite, SuiteTask, TaskResult, present, run_task};
use crate::train::finetune::FinetuneOptions;
use crate::{Error, Result};

/// Published models that are shown beside a result; `--json` and the files have all.
const SHOWN: [&str; 4] = ["DNABERT-6", "NT-2.5B-multi", "NT-v2-500M", "DNABERT-2"];

/// Options of `helixgrad benchmark`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The suite's folder, unpacked as its authors publish it: GUE's has EMP, prom, tf, mouse, virus and splice with train.csv, dev.csv and
    /// test.csv in each task's folder; Nucleotide Transformer's a folder a task with train.fna and test.fna.
    #[arg(value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    data: PathBuf,
    /// Which suite it is.
    #[arg(long, value_enum)]
    suite: Suite,
    /// The model to fine-tune for each task: a checkpoint of any family.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    init: PathBuf,
    /// The folder for results: a run for each task, benchmark.tsv and benchmark.json. Begun again, it goes on: finished tasks are kept.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Tasks, separated by commas: those whose names begin so (splice, emp, tf-human; default: all that the folder has).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Passes over the training windows (default: for GUE those of its authors for each task; for the others 3).
    #[arg(long)]
    epochs: Option<u64>,
    /// Windows in an update (default 32).
    #[arg(long, value_name = "WINDOWS")]
    batch: Option<usize>,
    /// The highest learning rate (default 3e-5).
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, training and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    if args.epochs == Some(0) || args.batch == Some(0) {
        return Err(Error::usage("--epochs or --batch is 0", "give at least 1"));
    }
    if args.learning_rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(Error::usage("--learning-rate is no positive number", "give a rate such as 3e-5"));
    }
    let tasks = chosen(args)?;
    let (tasks, missing) = present(&tasks, &args.data);
    if tasks.is_empty() {
        let found = format!("none of the tasks' folders: {}", missing.join(", "));
        return Err(Error::input(
            &args.data,
            "",
            found,
            "name the folder that the suite was unpacked to, and the suite with --suite",
        ));
    }
    if !missing.is_empty() {
        tracing::warn!("{} has no folder for {}: left out", args.data.display(), missing.join(", "));
    }
    let deviations = Deviations { epochs: args.epochs, batch: args.batch, learning_rate: args.learning_rate };
    let (device, dtype) = common.device()?;
    let mut results: Vec<(&SuiteTask, TaskResult)> = Vec::new();
    for (number, task) in tasks.iter().enumerate() {
        tracing::info!("task {} of {}: {}", number + 1, tasks.len(), task.name);
        let options = FinetuneOptions {
            device: device.clone(),
            dtype,
            seed: common.seed,
            calibrate: false,
            quiet: common.quiet,
            ..FinetuneOptions::new(args.out.join(&task.name))
        };
        results.push((task, run_task(args.suite, task, &args.data, &args.init, deviations, &options)?));
        // After each, so that what is there can be looked at.
        write_atomic(args.out.join("benchmark.tsv"), lines(&results))?;
    }
    let all: Vec<_> = results
        .iter()
        .map(|(task, result)| {
            let published: serde_json::Map<_, _> =
                task.published.iter().map(|(model, value)| (model.clone(), json!(value))).collect();
            json!({ "result": result, "published": published })
        })
        .collect();
    let told = json!({ "suite": args.suite, "tasks": all, "missing": missing, "deviations": deviations });
    write_atomic(args.out.join("benchmark.json"), format!("{told:#}\n"))?;
    common.print(&told, |_| human(&results, args))
}

fn chosen(args: &Args) -> Result<Vec<SuiteTask>> {
    let mut tasks = args.suite.tasks()?;
    let names: Vec<String> = tasks.iter().map(|task| task.name.clone()).collect();
    let unknown = |wanted: &&String| !names.iter().any(|name| name.starts_with(wanted.as_str()));
    if let Some(unknown) = args.tasks.iter().find(unknown) {
        return Err(Error::usage(format!("no task is called {unknown:?}"), format!("choose of {}", names.join(", "))));
    }
    tasks.retain(|task| args.tasks.is_empty() || args.tasks.iter().any(|wanted| task.name.starts_with(wanted)));
    Ok(tasks)
}

/// Every task with all published rows, as a table of columns.
fn lines(results: &[(&SuiteTask, TaskResult)]) -> String {
    let mut text = String::from("task\ttest_windows\tmcc\tmcc_low\tmcc_high\tmacro_f1\taccuracy");
    let models = results.first().map_or(&[][..], |(task, _)| &task.published[..]);
    models.iter().for_each(|(model, _)| text += &format!("\tpublished {model}"));
    text.push('\n');
    for (task, TaskResult { windows, mcc, accuracy, macro_f1, .. }) in results {
        let [low, high] = mcc.interval.map(|value| 100.0 * value);
        let (mcc, f1, accuracy) = (100.0 * mcc.value, 100.0 * macro_f1.value, 100.0 * accuracy.value);
        text += &format!("{}\t{}\t{mcc:.2}\t{low:.2}\t{high:.2}\t{f1:.2}\t{accuracy:.2}", task.name, windows[2]);
        task.published.iter().for_each(|(_, value)| text += &format!("\t{value}"));
        text.push('\n');
    }
    text
}

fn human(results: &[(&SuiteTask, TaskResult)], args: &Args) -> String {
    let shown: Vec<&str> = match results.first() {
        Some((task, _)) => {
            let has = |name: &&str| task.published.iter().any(|(model, _)| model == name);
            SHOWN.into_iter().filter(has).collect()
        }
        None => Vec::new(),
    };
    let mut table = Table::new(["task", "test windows", "MCC x 100"].into_iter().chain(shown.iter().copied()));
    let percent = |value: f64| 100.0 * value;
    for (task, result) in results {
        let [low, high] = result.mcc.interval.map(percent);
        let mut row = vec![
            Cell::from(task.name.as_str()),
            Cell::Count(result.windows[2]),
            Cell::estimate(percent(result.mcc.value), (low, high), 1),
        ];
        for name in &shown {
            let value = task.published.iter().find(|(model, _)| model == name).map_or(f64::NAN, |(_, value)| *value);
            row.push(Cell::number(value, 1));
        }
        table.row(row);
    }
    let cropped: Vec<String> =
        results.iter().filter_map(|(task, result)| Some(format!("{} to {}", task.name, result.cropped_to?))).collect();
    let cropped = match cropped.is_empty() {
        true => String::new(),
        false => format!("\nwindows cut to the middle bases that the model can read: {}", cropped.join(", ")),
    };
    let mean = results.iter().map(|(_, result)| percent(result.mcc.value)).sum::<f64>() / results.len().max(1) as f64;
    format!(
        "{table}\nmean {mean:.1} over {} tasks; published figures are of other programs and other training{cropped}\nall columns are in {out}/benchmark.tsv and benchmark.json",
        results.len(),
        out = args.out.display()
    )
}
