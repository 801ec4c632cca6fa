//! Benchmarks of others, as they publish them: folders of labelled sequences, a recipe for each task, and what models came to.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checkpoint::{self, Classification, load_encoder};
use super::evaluation::{Means, evaluate};
use super::finetune::{FinetuneOptions, finetune};
use super::run_state::newest_checkpoint;
use super::scores::Estimate;
use crate::kmer::labelled::{self, LabelledWindow, read_fasta};
use crate::kmer::table::{Answers, read_table};
use crate::model::{Head, Task};
use crate::optim::Warmup;
use crate::output::write_atomic;
use crate::report::progress::Progress;
use crate::small_file;
use crate::{Error, Result};

/// What a finished task left in its folder.
const RESULT_FILE: &str = "result.json";

/// A published collection of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// GUE (Zhou et al., 2023): 28 tasks with train, dev and test tables.
    Gue,
    /// The 18 tasks of Nucleotide Transformer, as first published: train.fna and test.fna.
    Nt,
    /// The 18 revised tasks.
    NtRevised,
}

/// One task of a suite.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SuiteTask {
    /// Its name here.
    pub name: String,
    /// Its folder in the suite's.
    pub folder: String,
    /// Passes over the training windows: of GUE those that its authors made.
    pub epochs: u64,
    /// Updates in which the learning rate rises.
    pub warmup: u64,
    /// Updates at most.
    pub most_steps: Option<u64>,
    /// What was published: a model, and its Matthews correlation times 100.
    pub published: Vec<(String, f64)>,
}

impl Suite {
    /// Its tasks, in the order in which its authors list them.
    ///
    /// # Errors
    /// [`Error::Failed`] if a table of this program is damaged: never.
    pub fn tasks(self) -> Result<Vec<SuiteTask>> {
        let text = match self {
            Self::Gue => include_str!("benchmark/gue.tsv"),
            Self::Nt => include_str!("benchmark/nt.tsv"),
            Self::NtRevised => include_str!("benchmark/nt-revised.tsv"),
        };
        let mut lines = text.lines().skip(1);
        let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
        lines.map(|line| task(&header, line).ok_or_else(|| Error::Failed(format!("{line:?} is no task")))).collect()
    }
}

/// Columns before those of the models.
const COLUMNS: usize = 5;

fn task(header: &[&str], line: &str) -> Option<SuiteTask> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, folder, epochs, warmup, most_steps] = fields.get(..COLUMNS)?.try_into().ok()?;
    let models = header.get(COLUMNS..)?.iter().zip(&fields[COLUMNS..]);
    let published =
        models.map(|(model, value)| Some(((*model).to_owned(), value.parse().ok()?))).collect::<Option<_>>()?;
    let (epochs, warmup) = (epochs.parse().ok()?, warmup.parse().ok()?);
    Some(SuiteTask {
        name: name.to_owned(),
        folder: folder.to_owned(),
        epochs,
        warmup,
        most_steps: most_steps.parse().ok(),
        published,
    })
}

/// What differs from a suite's own recipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Deviations {
    /// Passes over the training windows.
    pub epochs: Option<u64>,
    /// Windows in an update.
    pub batch: Option<usize>,
    /// The highest learning rate.
    pub learning_rate: Option<f64>,
}

/// What a task came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task's name.
    pub task: String,
    /// Windows to train on, to choose the epoch by, and to test on.
    pub windows: [u64; 3],
    /// Bases of a window that the model reads, where that is less than there are.
    pub cropped_to: Option<usize>,
    /// U that were read as T.
    #[serde(default)]
    pub uracils: u64,
    /// Passes made, and the epoch that was kept where dev windows could choose one.
    pub epochs: u64,
    /// See `epochs`.
    pub best_epoch: Option<u64>,
    /// Matthews correlation on the test windows, with its 95 % bootstrap interval.
    pub mcc: Estimate,
    /// Share of test windows that were right.
    pub accuracy: Estimate,
    /// F1, averaged over the classes.
    pub macro_f1: Estimate,
    /// Seconds of training.
    pub seconds: f64,
}

/// The windows of one task: to train on, to choose the epoch by (none in suites without), to test on; and names of classes.
struct Windows {
    train: Vec<LabelledWindow>,
    dev: Vec<LabelledWindow>,
    test: Vec<LabelledWindow>,
    labels: Vec<String>,
    uracils: u64,
}

impl Windows {
    fn read(suite: Suite, folder: &Path) -> Result<Self> {
        let missing = |name: &str| {
            let files = if suite == Suite::Gue { "train.csv, dev.csv and test.csv" } else { "train.fna and test.fna" };
            Error::input(
                folder,
                "",
                format!("no {name} file"),
                format!("unpack the suite as it is published: each task has {files}"),
            )
        };
        // Where classes have names, those of the training file number them in all parts.
        let (mut names, mut uracils) = (Vec::new(), 0);
        let mut read = |name: &str| -> Result<Option<Vec<LabelledWindow>>> {
            if suite != Suite::Gue {
                let path = folder.join(format!("{name}.fna"));
                return path.is_file().then(|| labelled_fasta(&path)).transpose();
            }
            let Some(path) = part(folder, name) else { return Ok(None) };
            let table = read_table(&path, Answers::Class, false, &names)?;
            uracils += table.uracils;
            if names.is_empty() {
                names = table.names;
            }
            Ok(Some(table.windows))
        };
        let train = read("train")?.ok_or_else(|| missing("train"))?;
        let dev = read("dev")?.unwrap_or_default();
        let test = read("test")?.ok_or_else(|| missing("test"))?;
        let classes =
            [&train, &dev, &test].map(|windows| labelled::classes(windows)).into_iter().max().unwrap_or(0).max(2);
        let labels = if names.len() < classes { (0..classes).map(|class| class.to_string()).collect() } else { names };
        Ok(Self { train, dev, test, labels, uracils })
    }

    fn longest(&self) -> usize {
        [&self.train, &self.dev, &self.test].into_iter().flatten().map(|window| window.bases.len()).max().unwrap_or(0)
    }
}

fn part(folder: &Path, name: &str) -> Option<PathBuf> {
    ["csv", "tsv"].map(|extension| folder.join(format!("{name}.{extension}"))).into_iter().find(|path| path.is_file())
}

/// FASTA records whose names end with `|` and the number of a class.
///
/// # Errors
/// Those of reading; [`Error::Input`] for a name without a class.
fn labelled_fasta(path: &Path) -> Result<Vec<LabelledWindow>> {
    let of = |(name, bases): (String, Vec<u8>)| {
        let label = name.rsplit('|').next().and_then(|label| label.trim().parse::<u8>().ok());
        match label.filter(|_| name.contains('|')) {
            Some(label) => Ok(LabelledWindow::new(bases, label.into())),
            None => {
                let remedy = "use the files of the suite, whose records are called NAME|CLASS";
                Err(Error::input(path, format!("record {name:?}"), "no number of a class behind a |", remedy))
            }
        }
    };
    read_fasta(path)?.into_iter().map(of).collect()
}

/// Trains and tests the model in `init` on a task whose windows are in `data`, in `options.out`; what is finished there is taken as it is,
/// and what was begun gone on with.
///
/// # Errors
/// Those of reading and training; [`Error::Input`] where `options.out` holds the task with other windows, models or options.
pub fn run_task(
    suite: Suite,
    task: &SuiteTask,
    data: &Path,
    init: &Path,
    deviations: Deviations,
    options: &FinetuneOptions,
) -> Result<TaskResult> {
    let folder = data.join(&task.folder);
    let windows = Windows::read(suite, &folder)?;
    let plan = json!({
        "suite": suite,
        "task": task.name,
        "init": init.canonicalize().unwrap_or_else(|_| init.to_owned()).to_string_lossy(),
        "train": labelled::checksum(windows.train.iter().map(|window| (window, 0))),
        "test": labelled::checksum(windows.test.iter().map(|window| (window, 0))),
        "deviations": deviations,
        "seed": options.seed,
    });
    let result_file = options.out.join(RESULT_FILE);
    if result_file.is_file() {
        return finished(&result_file, &plan);
    }
    let labels = windows.labels.clone();
    let head = Head::Cls { labels: labels.len() };
    let mut classification = Classification { labels, task: Task::SingleLabel, ..Classification::default() };
    let (model, vocabulary) = load_encoder(init, head, Some(&classification), options.seed)?;
    let tokens = model.config.max_position_embeddings.saturating_sub(vocabulary.specials().frame());
    let most = vocabulary.most_bases(tokens).unwrap_or(usize::MAX);
    classification.window = (windows.longest() > most).then_some(most);
    let batch = deviations.batch.unwrap_or(32);
    let steps_per_epoch = windows.train.len().div_ceil(batch).max(1) as u64;
    let most_epochs = task.most_steps.map_or(u64::MAX, |steps| steps.div_ceil(steps_per_epoch).max(1));
    let epochs = deviations.epochs.unwrap_or_else(|| task.epochs.min(most_epochs));
    let total = steps_per_epoch * epochs;
    let options = FinetuneOptions {
        epochs,
        batch,
        learning_rate: deviations.learning_rate.unwrap_or(3e-5),
        warmup: Warmup::Steps(task.warmup.min(total / 2)),
        patience: (!windows.dev.is_empty()).then_some(epochs),
        ..options.clone()
    };
    let resume = newest_checkpoint(&options.out)?.is_some();
    let (_, summary) = finetune(model, &*vocabulary, &classification, &windows.train, &windows.dev, &options, resume)?;
    let mut trained = checkpoint::load(&options.out)?;
    let mut progress = Progress::new("testing", windows.test.len() as u64, options.quiet).unit("windows");
    let mut count = |done: usize| progress.update(done as u64, done as u64, "");
    let means = Means { device: &options.device, dtype: options.dtype, seed: options.seed, ranks: &options.ranks };
    let found =
        evaluate(&mut trained, &windows.test, None, &means, &mut count).map_err(|error| error.about(&folder))?;
    progress.finish("");
    let result = TaskResult {
        task: task.name.clone(),
        windows: [&windows.train, &windows.dev, &windows.test].map(|windows| windows.len() as u64),
        cropped_to: classification.window,
        uracils: windows.uracils,
        epochs,
        best_epoch: summary.best_epoch,
        mcc: found.scores.mcc,
        accuracy: found.scores.accuracy,
        macro_f1: found.scores.macro_f1,
        seconds: summary.seconds,
    };
    write_atomic(&result_file, format!("{:#}\n", json!({ "plan": plan, "result": result })))?;
    Ok(result)
}

fn finished(path: &Path, plan: &serde_json::Value) -> Result<TaskResult> {
    let wrong = |found: &str| Error::input(path, "", found, "name another folder with --out, or remove this one");
    let known: serde_json::Value =
        serde_json::from_str(&small_file::read(path)?).map_err(|error| wrong(&error.to_string()))?;
    if known["plan"] != *plan {
        return Err(wrong("the task was done with other windows, another model, or other options"));
    }
    serde_json::from_value(known["result"].clone()).map_err(|error| wrong(&error.to_string()))
}

/// The folders of `tasks` that `data` has, and the names of those that it lacks.
pub fn present<'a>(tasks: &'a [SuiteTask], data: &Path) -> (Vec<&'a SuiteTask>, Vec<&'a str>) {
    let (here, missing): (Vec<_>, Vec<_>) =
        tasks.iter().partition(|task| fs::metadata(data.join(&task.folder)).is_ok());
    (here, missing.into_iter().map(|task| task.name.as_str()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_tables_are_whole() {
        let gue = Suite::Gue.tasks().unwrap();
        assert_eq!(gue.len(), 28);
        // The means that the paper prints, of the models in its order.
        for (model, mean) in [("NT-2.5B-multi", 66.93), ("DNABERT-2", 66.80), ("DNABERT-3", 61.62)] {
            let values: Vec<f64> =
                gue.iter().map(|task| task.published.iter().find(|(name, _)| name == model).unwrap().1).collect();
            assert!((values.iter().sum::<f64>() / 28.0 - mean).abs() < 0.02, "{model}");
        }
        for suite in [Suite::Nt, Suite::NtRevised] {
            let tasks = suite.tasks().unwrap();
            assert_eq!(tasks.len(), 18);
            assert!(tasks.iter().all(|task| task.published.len() == 10));
        }
        let mouse = gue.iter().find(|task| task.name == "tf-mouse-0").unwrap();
        assert_eq!((mouse.epochs, mouse.warmup, mouse.most_steps), (5, 30, Some(1000)));
    }
}
