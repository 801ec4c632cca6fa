//! Applying a classifier: the answers of a model to windows.

use std::ops::Range;

use super::checkpoint::Classification;
use super::interrupt;
use crate::autograd::Tape;
use crate::kmer::batch::Batch;
use crate::kmer::labelled::{self, LabelledWindow, classification_batch, example_batch};
use crate::model::{Head, Model, Task};
use crate::parallel::Ranks;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Bases that are computed at a time: enough to keep all cores busy, few enough for any memory.
pub const BASES_PER_BATCH: usize = 1 << 14;

/// The rows that the model's head reads.
pub(super) fn rows_of(model: &Model) -> labelled::Head {
    match model.head {
        Head::Site { .. } => labelled::Head::Site,
        Head::Cls { .. } | Head::MaskedLm | Head::Encoder { .. } => labelled::Head::Cls,
    }
}

/// Index of the largest value, the first of equals.
pub fn largest(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, index| if row[index] > row[best] { index } else { best })
}

/// Of several classes at once all that are likelier than not.
pub fn likely<'a>(labels: &'a [String], answers: &[f64]) -> Vec<&'a str> {
    let likely = labels.iter().zip(answers).filter(|(_, probability)| **probability >= 0.5);
    likely.map(|(label, _)| label.as_str()).collect()
}

/// What answers come to: the likeliest class, or of several at once all that are likelier than not, with commas between;
/// nothing of numbers.
pub fn prediction(task: Task, labels: &[String], answers: &[f64]) -> Option<String> {
    match task {
        Task::SingleLabel => Some(labels[largest(answers)].clone()),
        Task::MultiLabel => Some(likely(labels, answers).join(",")),
        Task::Regression => None,
    }
}

/// An answer as a table has it: a probability with six decimals, a number with all the digits that it has.
pub fn answer_text(task: Task, answer: f64) -> String {
    let number = answer as f32;
    match task {
        Task::SingleLabel | Task::MultiLabel => format!("{answer:.6}"),
        Task::Regression if number == 0.0 || (1e-4..1e9).contains(&number.abs()) => number.to_string(),
        Task::Regression => format!("{number:e}"),
    }
}

/// Class probabilities of windows, `[windows][classes]`; numbers, for a regression. `progress` hears the number of windows
/// done.
///
/// # Errors
/// [`Error::Usage`] for windows that do not fit the model, and for a model of pairs.
pub fn classify(
    tape: &mut Tape,
    model: &Model,
    vocabulary: &dyn Tokenizer,
    classification: &Classification,
    windows: &[&[u8]],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f64>>> {
    if classification.pairs {
        return Err(Error::usage("single windows, where the model reads pairs", "use `helixgrad evaluate` with pairs"));
    }
    let length = |index: usize| windows[index].len();
    let batch = |range: Range<usize>| {
        let labelled: Vec<_> = windows[range].iter().map(|&window| (window, 0)).collect();
        classification_batch(&labelled, vocabulary, classification.window, rows_of(model))
    };
    in_batches(tape, model, classification, windows.len(), &length, &batch, &Ranks::alone(), progress)
}

/// As [`classify`], of windows as they were read from a table: pairs too. A window with places has an answer for each of them.
///
/// # Errors
/// [`Error::Usage`] for windows that do not fit the model.
pub fn answers(
    tape: &mut Tape,
    model: &Model,
    vocabulary: &dyn Tokenizer,
    classification: &Classification,
    windows: &[LabelledWindow],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f64>>> {
    shared_answers(tape, model, vocabulary, classification, windows, &Ranks::alone(), progress)
}

/// As [`answers`], by ranks that share the batches: each gets all answers.
///
/// # Errors
/// As [`answers`].
pub fn shared_answers(
    tape: &mut Tape,
    model: &Model,
    vocabulary: &dyn Tokenizer,
    classification: &Classification,
    windows: &[LabelledWindow],
    ranks: &Ranks,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f64>>> {
    let length = |index: usize| windows[index].bases.len() + windows[index].second.as_ref().map_or(0, Vec::len);
    let batch = |range: Range<usize>| {
        let examples: Vec<_> = windows[range].iter().collect();
        example_batch(&examples, vocabulary, classification.window, rows_of(model))
    };
    in_batches(tape, model, classification, windows.len(), &length, &batch, ranks, progress)
}

/// The answers to windows in batches.
#[expect(clippy::too_many_arguments, reason = "two callers, which differ in how windows are read")]
fn in_batches(
    tape: &mut Tape,
    model: &Model,
    classification: &Classification,
    windows: usize,
    length: &dyn Fn(usize) -> usize,
    batch: &dyn Fn(Range<usize>) -> Result<Batch>,
    ranks: &Ranks,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f64>>> {
    let mut answers = Vec::new();
    let (mut first, mut number) = (0, 0);
    while first < windows && !interrupt::requested() {
        let mut bases = 0;
        let fits = (first..windows).take_while(|&index| {
            bases += classification.window.unwrap_or_else(|| length(index));
            bases <= BASES_PER_BATCH
        });
        let count = fits.count().max(1);
        if ranks.deals(number) {
            let batch = batch(first..first + count).map_err(|error| number_windows(error, first))?;
            answers.push(answers_of(tape, model, classification.task, &batch)?);
        }
        first += count;
        number += 1;
        progress(first);
    }
    if ranks.any("answers", interrupt::requested())? {
        return Err(interrupt::stopped());
    }
    let mut of_ranks: Vec<_> = ranks.gather_values("answers", answers)?.into_iter().map(Vec::into_iter).collect();
    // Batches were dealt out in turn.
    Ok((0..number).filter_map(|number| of_ranks[number % ranks.size()].next()).flatten().collect())
}

/// A batch counts its windows from 1; the caller's first one has another number.
fn number_windows(error: Error, first: usize) -> Error {
    match error {
        Error::Usage { found, remedy } if first > 0 => {
            Error::Usage { found: format!("in the batch that starts at window {}: {found}", first + 1), remedy }
        }
        other => other,
    }
}

/// The logits of one batch, read as the task has it: softmax, sigmoid, or as they are.
fn answers_of(tape: &mut Tape, model: &Model, task: Task, batch: &Batch) -> Result<Vec<Vec<f64>>> {
    tape.start_inference();
    let batch = model.upload(tape, batch)?;
    let logits = model.forward(tape, &batch)?;
    tape.recycle_batch(batch);
    let softmax = |row: &[f64]| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = row.iter().map(|logit| (logit - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    };
    let read = |row: &[f64]| match task {
        Task::SingleLabel => softmax(row),
        Task::MultiLabel => row.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        Task::Regression => row.to_vec(),
    };
    let values = tape.to_f64(logits)?;
    require_numbers(values.iter().copied())?;
    Ok(values.chunks_exact(logits.columns).map(read).collect())
}

/// What a model computed are numbers.
///
/// # Errors
/// [`Error::Failed`] if one is not.
pub fn require_numbers(mut values: impl Iterator<Item = f64>) -> Result<()> {
    if values.all(f64::is_finite) {
        return Ok(());
    }
    Err(Error::Failed(
        "the model's output is not a number: its weights are so large that the computation overflows\n  what to do: use an \
         earlier checkpoint of its training, or --dtype f32"
            .into(),
    ))
}

/// Every window has the answers that the task needs, and there is one.
///
/// # Errors
/// [`Error::Usage`] that says which window has not.
pub(super) fn check_answers<'a>(
    windows: impl Iterator<Item = &'a LabelledWindow>,
    model: &Model,
    classification: &Classification,
) -> Result<()> {
    let outputs = model.head.classes(&model.config);
    let mut count = 0;
    for window in windows {
        count += 1;
        let strange = window.classes().find(|label| !(0..outputs as i32).contains(label));
        if let (Task::SingleLabel, Some(label)) = (classification.task, strange) {
            return Err(Error::usage(
                format!("a window has label {label}, but the model has {outputs} classes"),
                "use data with the classes that the model was trained for",
            ));
        }
        if classification.task != Task::SingleLabel && window.targets.len() != outputs {
            return Err(Error::usage(
                format!("window {count} has {} targets, but the model has {outputs} outputs", window.targets.len()),
                "use data with the columns that the model was trained for",
            ));
        }
        if window.second.is_some() != classification.pairs {
            let what = if classification.pairs { "pairs" } else { "single sequences" };
            return Err(Error::usage(
                format!("window {count} is of the other kind: the model reads {what}"),
                "use data of the kind that the model was trained for",
            ));
        }
    }
    if count == 0 {
        return Err(Error::usage("no windows to train on", "give a training file with at least one window"));
    }
    Ok(())
}
