//! `helixgrad evaluate`: a classifier on labelled windows, beside baselines.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::finetune::named_columns;
use super::{Common, Told, config};
use crate::kmer::classes::{are_names, read_for};
use crate::kmer::table::{Answers, Table as LabelledTable, has_places, read_table};
use crate::model::Task;
use crate::parallel::{Ranks, Reduction, facts};
use crate::report::{Cell, Progress, Table};
use crate::train::checkpoint::{self, Classification};
use crate::train::evaluation::{
    Evaluation, Means, TaskScores, evaluate, evaluate_targets, no_classifier, splice_order,
};
use crate::train::metrics::SpliceMetrics;
use crate::train::scores::{ClassFigures, ClassScores, Estimate, MultiLabelScores, NumberFigures, RegressionScores};
use crate::{Error, Result};

/// Options of `helixgrad evaluate`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The model: a run's folder or a checkpoint.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Labelled windows, TSV or CSV, or a folder with a test.tsv or test.csv. Columns as in training.
    #[arg(long, value_name = "FILE|DIR")]
    data: PathBuf,
    /// The windows that the baselines learn from (default: train.tsv or train.csv beside --data, if it is there).
    #[arg(long, value_name = "FILE")]
    train: Option<PathBuf>,
    /// Names of the table's classes 0, 1, ..., separated by commas (default: those in the dataset.json beside it, or the model's).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    labels: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Those of reading and evaluating.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let (ranks, common) = common.join(Reduction::Exact)?;
    let result = run_on(args, &common, &ranks);
    ranks.leave(result)
}

fn run_on(args: &Args, common: &Common, ranks: &Ranks) -> Result<()> {
    let (device, dtype) = common.device()?;
    let means = Means { device: &device, dtype, seed: common.seed, ranks };
    let options = facts::options(&config::resolved(args, common)?);
    ranks.agree(&[facts::build()?, facts::chip(&device), options].concat())?;
    let mut checkpoint = checkpoint::load(&args.model)?;
    let data = part_of(&args.data, "test");
    let classification = checkpoint.classification.clone().ok_or_else(no_classifier)?;
    let progress_of = |windows: usize| Progress::new("evaluating", windows as u64, common.quiet).unit("windows");
    if classification.task != Task::SingleLabel {
        let test = targets(&data, &classification, &args.labels)?;
        test.check_lengths(&data, &checkpoint.limits())?;
        let mut progress = progress_of(test.windows.len());
        let mut count = |done: usize| progress.update(done as u64, done as u64, "");
        let found = evaluate_targets(&mut checkpoint, &test.windows, &means, &mut count);
        let found = found.map_err(|error| error.about(&data))?;
        progress.finish("");
        return common.print(&Told { found, uracils: test.uracils }, |Told { found, .. }| {
            let note = found.cropped.note(found.windows);
            format!("{} windows{note}\n{}", found.windows, scores_text(&found.scores))
        });
    }
    // A model of many places reads single windows, too.
    let answers = match classification.margin {
        Some(_) if has_places(&data)? => Answers::Places,
        _ => Answers::Class,
    };
    let (test, labels) = read_for(&data, answers, classification.pairs, &classification.labels, &args.labels)?;
    test.check_lengths(&data, &checkpoint.limits())?;
    let beside = data.with_file_name(format!("train.{}", data.extension().unwrap_or_default().to_string_lossy()));
    // Only splice sites have baselines.
    let has_baselines = splice_order(&labels).is_some() && answers == Answers::Class;
    let train_path =
        args.train.clone().or_else(|| (has_baselines && beside.is_file() && beside != data).then_some(beside));
    let train = train_path
        .map(|path| read_for(&path, answers, classification.pairs, &labels, &args.labels))
        .transpose()?
        .map(|(table, _)| table.windows);
    if let Some(classification) = &mut checkpoint.classification {
        classification.labels = labels;
    }
    let (uracils, test, train) = (test.uracils, &test.windows, train.as_deref());
    let mut progress = progress_of(test.len());
    let mut count = |done: usize| progress.update(done as u64, done as u64, "");
    let evaluation = evaluate(&mut checkpoint, test, train, &means, &mut count);
    let evaluation = evaluation.map_err(|error| error.about(&data))?;
    progress.finish("");
    common.print(&Told { found: evaluation, uracils }, |told| human(&told.found))
}

/// Reads a table of numbers or of several classes at once; its columns are the model's, or those that `given` calls so.
fn targets(data: &Path, classification: &Classification, given: &[String]) -> Result<LabelledTable> {
    let table = read_table(data, answers_of(classification.task), classification.pairs, &[])?;
    let names = named_columns(given, &table.names)?;
    if are_names(&classification.labels) && *names != classification.labels {
        let found = format!("columns {}, where the model has {}", names.join(", "), classification.labels.join(", "));
        return Err(Error::input(data, "line 1", found, "use a table with the model's columns, in its order"));
    }
    Ok(table)
}

/// The file of a dataset's folder that holds one of its parts: `train`, `dev` or `test`, as TSV or CSV.
pub(super) fn part(folder: &Path, name: &str) -> PathBuf {
    let csv = folder.join(format!("{name}.csv"));
    if csv.is_file() { csv } else { folder.join(format!("{name}.tsv")) }
}

/// The file that a `--data FILE|DIR` means.
pub(super) fn part_of(data: &Path, name: &str) -> PathBuf {
    if data.is_dir() { part(data, name) } else { data.to_owned() }
}

/// What stands behind the sequences in tables for a task.
pub(super) fn answers_of(task: Task) -> Answers {
    match task {
        Task::SingleLabel => Answers::Class,
        Task::MultiLabel => Answers::Flags,
        Task::Regression => Answers::Numbers,
    }
}

/// The figures of a task with their intervals, of all columns together and of each.
pub(super) fn scores_text(scores: &TaskScores) -> String {
    const SHOWN: usize = 30;
    let optional = |estimate: &Option<Estimate>| match estimate {
        Some(Estimate { value, interval: [low, high] }) => Cell::estimate(*value, (*low, *high), 3),
        None => Cell::from("-"),
    };
    let (each, count) = match scores {
        TaskScores::SingleLabel(ClassScores { classes, .. })
        | TaskScores::MultiLabel(MultiLabelScores { classes, .. }) => {
            let mut table = Table::new(["class", "windows", "F1", "AUROC", "AUPRC"]);
            for ClassFigures { label, examples, f1, auroc, auprc } in classes.iter().take(SHOWN) {
                let counted = Cell::number(*examples as f64, 0);
                table.row([Cell::from(label.as_str()), counted, optional(f1), optional(auroc), optional(auprc)]);
            }
            (table, classes.len())
        }
        TaskScores::Regression(RegressionScores { numbers, .. }) => {
            let mut table = Table::new(["number", "MSE", "Pearson", "Spearman", "R²"]);
            for NumberFigures { label, mse, pearson, spearman, r2 } in numbers.iter().take(SHOWN) {
                let Estimate { value, interval: [low, high] } = mse;
                let mse = Cell::from(format!("{value:.2e} [{low:.2e}, {high:.2e}]"));
                table.row([Cell::from(label.as_str()), mse, optional(pearson), optional(spearman), optional(r2)]);
            }
            (table, numbers.len())
        }
    };
    let rest =
        if count > SHOWN { format!("and {} more columns, which --json has\n", count - SHOWN) } else { String::new() };
    // One number alone has said everything.
    let each = if count > 1 { format!("\n{each}{rest}") } else { String::new() };
    format!("{}{each}", scores_table(scores))
}

/// The figures of a task with their intervals.
fn scores_table(scores: &TaskScores) -> Table {
    let figures: Vec<(&str, Estimate)> = match scores {
        TaskScores::SingleLabel(of) => vec![("accuracy", of.accuracy), ("macro F1", of.macro_f1), ("MCC", of.mcc)],
        TaskScores::MultiLabel(of) => {
            vec![("macro AUROC", of.macro_auroc), ("macro AUPRC", of.macro_auprc), ("macro F1", of.macro_f1)]
        }
        TaskScores::Regression(of) => {
            vec![("MSE", of.mse), ("Pearson", of.pearson), ("Spearman", of.spearman), ("R²", of.r2)]
        }
    };
    let mut table = Table::new(figures.iter().map(|(name, _)| *name));
    table.row(figures.iter().map(|(name, Estimate { value, interval: [low, high] })| match *name {
        // In the square of the numbers' own units, whatever their size.
        "MSE" => Cell::from(format!("{value:.2e} [{low:.2e}, {high:.2e}]")),
        _ => Cell::estimate(*value, (*low, *high), 3),
    }));
    table
}

fn human(evaluation: &Evaluation) -> String {
    let scores = scores_text(&TaskScores::SingleLabel(evaluation.scores.clone()));
    let mut text = format!(
        "{} {} in {} classes{}: share classified right, F1 averaged over the classes that occur, MCC of all classes at once\n{scores}\n",
        evaluation.windows,
        evaluation.counted,
        evaluation.labels.len(),
        evaluation.cropped.note(evaluation.windows)
    );
    let mut confusion =
        Table::new(std::iter::once("label \\ predicted").chain(evaluation.labels.iter().map(String::as_str)));
    for (name, row) in evaluation.labels.iter().zip(&evaluation.confusion) {
        let counts = row.iter().map(|&count| Cell::number(count as f64, 0));
        confusion.row(std::iter::once(Cell::from(name.as_str())).chain(counts));
    }
    text += &confusion.to_string();
    text += &format!(
        "\nProbabilities: expected calibration error {:.3}, {:.3} nats a {}\n",
        evaluation.reliability.ece,
        evaluation.reliability.nll,
        evaluation.counted.trim_end_matches('s')
    );
    if let Some(splice) = &evaluation.splice {
        text += &format!("\nSplice sites\n{}{}", splice_table(splice, evaluation), SpliceMetrics::READING);
    }
    text
}

/// The model's row and the baselines'.
fn splice_table(splice: &SpliceMetrics, evaluation: &Evaluation) -> Table {
    let mut table = Table::new(["", "accuracy", "F1", "MCC", "3-class MCC"]);
    let mut add = |name: &str, metrics: &SpliceMetrics| {
        let SpliceMetrics { accuracy, f1, mcc, mcc_3class, intervals, .. } = metrics;
        table.row([
            Cell::from(name),
            Cell::estimate(*accuracy, intervals.accuracy.into(), 3),
            Cell::estimate(*f1, intervals.f1.into(), 3),
            Cell::estimate(*mcc, intervals.mcc.into(), 3),
            Cell::estimate(*mcc_3class, intervals.mcc_3class.into(), 3),
        ]);
    };
    add("model", splice);
    if let Some(baselines) = &evaluation.baselines {
        add("position weight matrix", &baselines.pwm);
        add("GT/AG rule", &baselines.rule);
    }
    table
}
