//! k-fold cross-validation: every window is predicted once, by a model that has not seen it.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::apply::{answer_text, answers, prediction};
use super::checkpoint::{Classification, load};
use super::evaluation::TaskScores;
use super::finetune::{FinetuneOptions, finetune, settings};
use super::run_state::newest_checkpoint;
use crate::autograd::Tape;
use crate::kmer::labelled::{LabelledWindow, checksum};
use crate::model::{Model, Task};
use crate::output::{remove_debris, write_atomic};
use crate::philox::{Philox, Purpose, shuffle};
use crate::small_file;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The file that says which folds a folder's models are of: the first that is written.
pub const PLAN_FILE: &str = "folds.json";

/// What a cross-validation found.
#[derive(Clone, Debug, Serialize)]
pub struct CrossValidation {
    /// Folds.
    pub folds: usize,
    /// Windows; each was predicted once.
    pub windows: usize,
    /// Names of the classes or numbers.
    pub labels: Vec<String>,
    /// Figures over all predictions together, with intervals.
    pub pooled: TaskScores,
    /// The headline figure (MCC, Pearson's correlation or macro AUROC) of each fold.
    pub headline: Vec<f64>,
    /// Their mean.
    pub headline_mean: f64,
    /// Their standard deviation (of a sample).
    pub headline_deviation: f64,
}

/// The fold of each window: 0 to `folds` - 1. Equal sequences come into one fold, so that none is both learnt and tested;
/// the classes are spread evenly (over the groups of equal sequences, by the label of the first); the rest is drawn under
/// `seed`.
pub fn folds_of(windows: &[LabelledWindow], folds: usize, seed: u64) -> Vec<usize> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<(Vec<u8>, Option<Vec<u8>>), usize> = HashMap::new();
    for (index, window) in windows.iter().enumerate() {
        let key = (window.bases.to_ascii_uppercase(), window.second.as_ref().map(|second| second.to_ascii_uppercase()));
        let group = *known.entry(key).or_insert(groups.len());
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(index);
    }
    shuffle(&mut groups, Philox::of(seed, u32::MAX, Purpose::Shuffle));
    groups.sort_by_key(|group| windows[group[0]].label);
    let mut fold_of = vec![0; windows.len()];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&index| fold_of[index] = number % folds);
    }
    fold_of
}

/// What a fold is for in the training of one of the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Train,
    /// Early stopping goes by it.
    Stop,
    Test,
}

/// The role of `fold` for the model that is tested on fold `tested`.
fn role_of(fold: usize, tested: usize, folds: usize, stops_early: bool) -> Role {
    if fold == tested {
        Role::Test
    } else if stops_early && fold == (tested + 1) % folds {
        Role::Stop
    } else {
        Role::Train
    }
}

/// The mean, and the standard deviation of a sample.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

/// Refuses to go on with models that were trained on other folds: they would be tested on what they have seen.
fn keep_to_plan(path: &Path, plan: &Value) -> Result<()> {
    if path.exists() {
        let before: Value = serde_json::from_str(&small_file::read(path)?).unwrap_or_default();
        if before["plan"] != *plan {
            let remedy = "give the data and the options that it was begun with, or another folder";
            return Err(Error::input(path, "", "the models here are of other windows, folds or options", remedy));
        }
    }
    write_atomic(path, json!({ "plan": plan }).to_string() + "\n")
}

/// Trains `folds` models, each on all windows but one fold's, in `options.out/fold-N`, and predicts that fold. With early
/// stopping the next fold decides when to stop, and is not trained on either. Folds that are finished there already are
/// taken as they are, and a begun one is gone on with. The figures are left in `options.out/cross_validation.json`, each window's
/// prediction in `predictions.tsv`, where they are called by `names`.
///
/// # Errors
/// [`Error::Input`] if the folder's models are of other folds; [`Error::Usage`] for fewer than two folds, or more than there are different windows; those of [`finetune`].
pub fn cross_validate(
    new_model: &dyn Fn() -> Result<Model>,
    vocabulary: &dyn Tokenizer,
    classification: &Classification,
    windows: &[LabelledWindow],
    names: &[String],
    folds: usize,
    options: &FinetuneOptions,
) -> Result<CrossValidation> {
    let fold_of = folds_of(windows, folds.max(1), options.seed);
    let fewest = if options.patience.is_some() { 3 } else { 2 };
    let used = fold_of.iter().max().map_or(0, |last| last + 1);
    let stopping = if options.patience.is_some() { ", one of them to stop early by" } else { "" };
    if folds < fewest || used < folds {
        return Err(Error::usage(
            match used < folds {
                true => format!("--folds {folds} of {} windows, {used} of them different", windows.len()),
                false => format!("--folds {folds} of {} windows", windows.len()),
            },
            format!("give at least {fewest} folds{stopping}, and no more than there are different sequences"),
        ));
    }
    let plan = json!([
        checksum(windows.iter().zip(fold_of.iter().copied())),
        settings(vocabulary, classification, windows, options),
        options.optimizer,
        options.epochs,
        options.patience,
    ]);
    keep_to_plan(&options.out.join(PLAN_FILE), &plan)?;
    remove_debris(&options.out)?;
    if let Some(config) = &options.config {
        write_atomic(options.out.join("config.toml"), config)?;
    }
    let mut predictions: Vec<Vec<f64>> = vec![Vec::new(); windows.len()];
    let mut headline = Vec::new();
    let of = |tested: usize, role: Role| -> Vec<LabelledWindow> {
        let plays = |of: &(&LabelledWindow, &usize)| role_of(*of.1, tested, folds, options.patience.is_some()) == role;
        windows.iter().zip(&fold_of).filter(plays).map(|(window, _)| window.clone()).collect()
    };
    for fold in 0..folds {
        let out = options.out.join(format!("fold-{}", fold + 1));
        let test = of(fold, Role::Test);
        if !out.join("model.safetensors").is_file() {
            let (train, dev) = (of(fold, Role::Train), of(fold, Role::Stop));
            let options = FinetuneOptions { out: out.clone(), ..options.clone() };
            let resume = newest_checkpoint(&out)?.is_some();
            finetune(new_model()?, vocabulary, classification, &train, &dev, &options, resume)?;
        }
        let (mut model, dtype) = (load(&out)?.model, classification.answers_dtype(options.dtype));
        model.parameters.move_to(&options.device, dtype)?;
        let mut tape = Tape::new(options.device.clone(), dtype);
        let found = answers(&mut tape, &model, vocabulary, classification, &test, &mut |_| ())?;
        headline.push(TaskScores::headline_of(classification, &found, &test));
        tracing::info!("fold {} of {folds}: {:.4} on {} windows", fold + 1, headline[fold], test.len());
        let places = fold_of.iter().enumerate().filter(|(_, of)| **of == fold).map(|(index, _)| index);
        places.zip(found).for_each(|(index, row)| predictions[index] = row);
    }
    let (mean, deviation) = mean_and_deviation(&headline);
    let result = CrossValidation {
        folds,
        windows: windows.len(),
        labels: classification.labels.clone(),
        pooled: TaskScores::of(classification, &predictions, windows, options.seed),
        headline,
        headline_mean: mean,
        headline_deviation: deviation,
    };
    let json = serde_json::to_string_pretty(&result).map_err(|error| Error::Failed(error.to_string()))?;
    let named: Vec<_> = names.iter().zip(windows).collect();
    write_atomic(
        options.out.join("predictions.tsv"),
        predictions_table(classification, &named, &fold_of, &predictions),
    )?;
    write_atomic(options.out.join("cross_validation.json"), json + "\n")?;
    Ok(result)
}

/// A row a window, in the order of the file: its fold, what it is, and what the model that had not seen it says, in the columns of
/// `helixgrad predict`.
fn predictions_table(
    classification: &Classification,
    windows: &[(&String, &LabelledWindow)],
    fold_of: &[usize],
    predictions: &[Vec<f64>],
) -> String {
    let Classification { labels, task, .. } = classification;
    let mut header = vec!["name".to_owned(), "fold".to_owned()];
    match task {
        Task::SingleLabel => header.push("true_class".into()),
        _ => header.extend(labels.iter().map(|label| format!("true_{label}"))),
    }
    header.extend((*task != Task::Regression).then(|| "prediction".to_owned()));
    header.extend(labels.iter().cloned());
    let mut table = header.join("\t") + "\n";
    for ((name, window), (fold, answers)) in windows.iter().zip(fold_of.iter().zip(predictions)) {
        table += &format!("{name}\t{}", fold + 1);
        match task {
            Task::SingleLabel => table += &format!("\t{}", labels[window.label as usize]),
            // A 0 or 1 is written as a number is.
            _ => window.targets.iter().for_each(|target| {
                table += &format!("\t{}", answer_text(Task::Regression, (*target).into()));
            }),
        }
        prediction(*task, labels, answers).iter().for_each(|prediction| table += &format!("\t{prediction}"));
        answers.iter().for_each(|answer| table += &format!("\t{}", answer_text(*task, *answer)));
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_a_training_is_neither_learnt_nor_tested() {
        for tested in 0..4 {
            let roles =
                |stops_early| -> Vec<Role> { (0..4).map(|fold| role_of(fold, tested, 4, stops_early)).collect() };
            let count = |roles: &[Role], role| roles.iter().filter(|of| **of == role).count();
            let (with, without) = (roles(true), roles(false));
            assert_eq!([Role::Test, Role::Stop, Role::Train].map(|role| count(&with, role)), [1, 1, 2]);
            assert_eq!([Role::Test, Role::Stop, Role::Train].map(|role| count(&without, role)), [1, 0, 3]);
            assert_eq!((with[tested], without[tested]), (Role::Test, Role::Test));
        }
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        let (mean, deviation) = mean_and_deviation(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(mean, 2.5);
        assert!((deviation - (5.0f64 / 3.0).sqrt()).abs() < 1e-12, "{deviation}");
    }

    #[test]
    fn equal_sequences_share_a_fold_and_classes_are_spread() {
        let windows: Vec<LabelledWindow> = (0..90usize)
            .map(|i| LabelledWindow {
                bases: format!("ACGT{}", "ACGT".repeat(i % 30)).into_bytes(),
                label: (i % 30 % 3) as i32,
                ..LabelledWindow::default()
            })
            .collect();
        let folds = folds_of(&windows, 5, 7);
        for (i, fold) in folds.iter().enumerate() {
            assert_eq!(*fold, folds[i % 30]);
        }
        for fold in 0..5 {
            let labels: Vec<i32> =
                windows.iter().zip(&folds).filter(|(_, f)| **f == fold).map(|(window, _)| window.label).collect();
            assert_eq!(labels.len(), 18);
            assert!((0..3).all(|label| labels.iter().filter(|l| **l == label).count() == 6), "{labels:?}");
        }
        assert_eq!(folds, folds_of(&windows, 5, 7));
        assert_ne!(folds, folds_of(&windows, 5, 8));
    }
}
