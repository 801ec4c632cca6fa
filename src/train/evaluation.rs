//! A classifier on labelled windows, with the baselines that could embarrass it.

use serde::{Deserialize, Serialize};

use super::apply::{check_answers, largest, shared_answers};
use super::baselines::Baselines;
use super::calibration::Reliability;
use super::checkpoint::{Checkpoint, Classification};
use super::metrics::{Confusion, SpliceMetrics};
use super::scores::{ClassScores, MultiLabelScores, RegressionScores, multi_label_figures, regression_figures};
use crate::autograd::Tape;
use crate::device::{DType, Device};
use crate::genome::splice::LABEL_NAMES;
use crate::kmer::labelled::LabelledWindow;
use crate::model::Task;
use crate::parallel::Ranks;
use crate::{Error, Result};

/// What an evaluation found.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Windows; places, where windows have a class at many of them.
    pub windows: u64,
    /// Which of the two.
    pub counted: &'static str,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// `confusion[label][prediction]`.
    pub confusion: Vec<Vec<u64>>,
    /// Share of windows classified right.
    pub accuracy: f64,
    /// F1, averaged over classes.
    pub macro_f1: f64,
    /// Multi-class Matthews correlation.
    pub mcc: f64,
    /// Accuracy, macro F1 and MCC with 95 % bootstrap intervals.
    pub scores: ClassScores,
    /// How far the probabilities can be believed.
    pub reliability: Reliability,
    /// The splice metrics, where the classes are donor, acceptor and neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splice: Option<SpliceMetrics>,
    /// The GT/AG rule and a position weight matrix on the same windows, where they can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baselines: Option<Baselines>,
    /// Windows that were not read whole.
    #[serde(flatten)]
    pub cropped: Cropped,
    /// The predicted class of each window.
    #[serde(skip)]
    pub predictions: Vec<u8>,
}

/// Windows of which a model read the middle only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cropped {
    /// Bases that the model reads; none if it reads any number.
    pub window_bases: Option<usize>,
    /// Windows that are longer.
    pub longer_windows: u64,
}

impl Cropped {
    /// Counts the windows that a model with a window of its own does not read whole.
    pub fn of(window: Option<usize>, windows: &[LabelledWindow]) -> Self {
        let is_longer = |of: &&LabelledWindow| {
            let longest = of.bases.len().max(of.second.as_ref().map_or(0, Vec::len));
            window.is_some_and(|window| longest > window)
        };
        Self { window_bases: window, longer_windows: windows.iter().filter(is_longer).count() as u64 }
    }

    /// What it means for the figures of `windows` windows, to be put behind their number; nothing if all were read whole.
    pub fn note(&self, windows: u64) -> String {
        match *self {
            Self { window_bases: Some(bases), longer_windows: longer @ 1.. } => {
                format!(" (of {longer} of {windows} only the middle {bases} bases were read: the model's window)")
            }
            _ => String::new(),
        }
    }
}

/// The place of each of a model's classes in the order donor, acceptor, neither; nothing if it has others.
pub fn splice_order(labels: &[String]) -> Option<[u8; LABEL_NAMES.len()]> {
    let number = |name: &str| labels.iter().position(|label| label.eq_ignore_ascii_case(name));
    let [Some(donor), Some(acceptor), Some(neither)] = LABEL_NAMES.map(number) else { return None };
    let mut order = [0; LABEL_NAMES.len()];
    (labels.len() == order.len()).then(|| {
        [donor, acceptor, neither].iter().zip(0..).for_each(|(&class, place)| order[class] = place);
        order
    })
}

/// What evaluates.
pub struct Means<'a> {
    /// Where to compute.
    pub device: &'a Device,
    /// The type of weights and activations.
    pub dtype: DType,
    /// Seed of what is drawn for intervals.
    pub seed: u64,
    /// The processes that share the windows.
    pub ranks: &'a Ranks,
}

/// Applies a classifier to `test`. With `train`, splice classifiers are put beside baselines trained on it.
///
/// # Errors
/// [`Error::Usage`] for a model that is no classifier, or windows that do not fit it.
pub fn evaluate(
    checkpoint: &mut Checkpoint,
    test: &[LabelledWindow],
    train: Option<&[LabelledWindow]>,
    means: &Means,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    let Some(classification) = &checkpoint.classification else {
        return Err(no_classifier());
    };
    let Means { device, dtype, seed, ranks } = *means;
    checkpoint.model.parameters.move_to(device, dtype)?;
    let model = &checkpoint.model;
    let classes = model.head.classes(&model.config);
    check_answers(test.iter(), model, classification)?;
    if classification.task != Task::SingleLabel {
        return Err(Error::usage("a model without classes to choose from", "use evaluate_targets for its task"));
    }
    let mut tape = Tape::new(device.clone(), dtype);
    let vocabulary = &*checkpoint.vocabulary;
    let probabilities = shared_answers(&mut tape, model, vocabulary, classification, test, ranks, progress)?;
    let predictions: Vec<u8> = probabilities.iter().map(|row| largest(row) as u8).collect();
    let labels = labels_of(test);
    let confusion = Confusion::of(&labels, &predictions, classes)?;

    let order = splice_order(&classification.labels);
    let in_order =
        |classes: &[u8]| order.map(|order| classes.iter().map(|&class| order[usize::from(class)]).collect::<Vec<_>>());
    let splice = match (in_order(&labels), in_order(&predictions)) {
        (Some(labels), Some(predictions)) => Some(SpliceMetrics::of(&labels, &predictions, seed)?),
        _ => None,
    };
    let baselines = match (train, order) {
        (Some(train), Some(order)) => baselines(train, test, order, seed),
        (Some(_), None) => {
            tracing::warn!("no baselines: they need the classes {}", LABEL_NAMES.join(", "));
            None
        }
        _ => None,
    };
    let has_places = test.iter().any(|window| !window.places.is_empty());
    Ok(Evaluation {
        windows: labels.len() as u64,
        counted: if has_places { "places" } else { "windows" },
        labels: classification.labels.clone(),
        confusion: confusion.rows(),
        accuracy: confusion.accuracy(),
        macro_f1: confusion.macro_f1(),
        mcc: confusion.mcc(),
        scores: ClassScores::of(&classification.labels, &labels, &probabilities, seed),
        reliability: Reliability::of(&probabilities, &labels),
        splice,
        baselines,
        cropped: Cropped::of(classification.window, test),
        predictions,
    })
}

/// Figures of a model's answers, whatever its task is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "task")]
pub enum TaskScores {
    /// Of classes.
    SingleLabel(ClassScores),
    /// Of several classes at once.
    MultiLabel(MultiLabelScores),
    /// Of numbers.
    Regression(RegressionScores),
}

impl TaskScores {
    /// Compares answers (`[windows][classes]`, as [`answers`](super::apply::answers) gives them) with what the windows say; intervals come from
    /// resamples under `seed`.
    pub fn of(classification: &Classification, answers: &[Vec<f64>], windows: &[LabelledWindow], seed: u64) -> Self {
        let targets: Vec<&[f32]> = windows.iter().map(|window| window.targets.as_slice()).collect();
        match classification.task {
            Task::SingleLabel => {
                Self::SingleLabel(ClassScores::of(&classification.labels, &labels_of(windows), answers, seed))
            }
            Task::MultiLabel => Self::MultiLabel(MultiLabelScores::of(&classification.labels, answers, &targets, seed)),
            Task::Regression => Self::Regression(RegressionScores::of(&classification.labels, answers, &targets, seed)),
        }
    }

    /// The one figure that stands for all: MCC, macro AUROC or Pearson's correlation.
    pub fn headline_of(classification: &Classification, answers: &[Vec<f64>], windows: &[LabelledWindow]) -> f64 {
        let targets: Vec<&[f32]> = windows.iter().map(|window| window.targets.as_slice()).collect();
        let all: Vec<usize> = (0..windows.len()).collect();
        match classification.task {
            Task::SingleLabel => {
                let mut confusion = Confusion::new(answers.first().map_or(0, Vec::len));
                let labels = windows.iter().flat_map(LabelledWindow::classes);
                labels.zip(answers).for_each(|(label, row)| confusion.add(label as usize, largest(row)));
                confusion.mcc()
            }
            Task::MultiLabel => multi_label_figures(answers, &targets)[0],
            Task::Regression => regression_figures(answers, &targets, &all)[1],
        }
    }
}

/// Figures on the dev windows: those of the task, none without such windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DevScores {
    /// Accuracy of a classifier.
    pub dev_accuracy: Option<f64>,
    /// Multi-class MCC of a classifier.
    pub dev_mcc: Option<f64>,
    /// Pearson's correlation of a regression, averaged over its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_pearson: Option<f64>,
    /// Share of the variance that a regression explains, averaged over its numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev_r2: Option<f64>,
    /// Area under the ROC curve of multi-label data, averaged over the classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_macro_auroc: Option<f64>,
}

impl DevScores {
    /// Compares answers with what the windows say.
    ///
    /// # Errors
    /// [`Error::Usage`] for labels that are no class.
    pub(super) fn of(
        classification: &Classification,
        answers: &[Vec<f64>],
        windows: &[LabelledWindow],
    ) -> Result<Self> {
        let targets: Vec<&[f32]> = windows.iter().map(|window| window.targets.as_slice()).collect();
        let all: Vec<usize> = (0..windows.len()).collect();
        Ok(match classification.task {
            Task::SingleLabel => {
                let predictions: Vec<u8> = answers.iter().map(|row| largest(row) as u8).collect();
                let classes = answers.first().map_or(0, Vec::len);
                let confusion = Confusion::of(&labels_of(windows), &predictions, classes)?;
                let (accuracy, mcc) = (Some(confusion.accuracy()), Some(confusion.mcc()));
                Self { dev_accuracy: accuracy, dev_mcc: mcc, ..Self::default() }
            }
            Task::Regression => {
                let [_, pearson, _, r2] = regression_figures(answers, &targets, &all);
                Self { dev_pearson: Some(pearson), dev_r2: Some(r2), ..Self::default() }
            }
            Task::MultiLabel => {
                let [auroc, ..] = multi_label_figures(answers, &targets);
                Self { dev_macro_auroc: Some(auroc), ..Self::default() }
            }
        })
    }

    /// The figure that decides which epoch is best; larger is better.
    pub fn headline(&self) -> Option<f64> {
        self.dev_mcc.or(self.dev_r2).or(self.dev_macro_auroc)
    }
}

/// What an evaluation of numbers or of several classes at once found.
#[derive(Clone, Debug, Serialize)]
pub struct TargetEvaluation {
    /// Windows.
    pub windows: u64,
    /// Names of the numbers or classes.
    pub labels: Vec<String>,
    /// The figures.
    pub scores: TaskScores,
    /// Windows that were not read whole.
    #[serde(flatten)]
    pub cropped: Cropped,
}

/// Applies a model of numbers or of several classes at once to `test`.
///
/// # Errors
/// [`Error::Usage`] for a model that answers nothing, or windows that do not fit it.
pub fn evaluate_targets(
    checkpoint: &mut Checkpoint,
    test: &[LabelledWindow],
    means: &Means,
    progress: &mut dyn FnMut(usize),
) -> Result<TargetEvaluation> {
    let Some(classification) = &checkpoint.classification else {
        return Err(no_classifier());
    };
    let Means { device, dtype, seed, ranks } = *means;
    let dtype = classification.answers_dtype(dtype);
    checkpoint.model.parameters.move_to(device, dtype)?;
    check_answers(test.iter(), &checkpoint.model, classification)?;
    let mut tape = Tape::new(device.clone(), dtype);
    let (model, vocabulary) = (&checkpoint.model, &*checkpoint.vocabulary);
    let answers = shared_answers(&mut tape, model, vocabulary, classification, test, ranks, progress)?;
    Ok(TargetEvaluation {
        windows: test.len() as u64,
        labels: classification.labels.clone(),
        scores: TaskScores::of(classification, &answers, test, seed),
        cropped: Cropped::of(classification.window, test),
    })
}

/// The error for a model without classes.
pub fn no_classifier() -> Error {
    Error::usage("the model is no classifier", "fine-tune it first: helixgrad finetune --init MODEL --data DIR")
}

/// The baselines of classes whose places are `order`, or a warning where these windows cannot train them.
fn baselines(train: &[LabelledWindow], test: &[LabelledWindow], order: [u8; 3], seed: u64) -> Option<Baselines> {
    let labels_of = |windows: &[LabelledWindow]| -> Vec<u8> {
        labels_of(windows).iter().map(|&class| order.get(usize::from(class)).copied().unwrap_or(class)).collect()
    };
    let upper = |windows: &[LabelledWindow]| -> Vec<Vec<u8>> {
        windows.iter().map(|window| window.bases.to_ascii_uppercase()).collect()
    };
    let (train_bases, test_bases) = (upper(train), upper(test));
    let train_slices: Vec<&[u8]> = train_bases.iter().map(Vec::as_slice).collect();
    let test_slices: Vec<&[u8]> = test_bases.iter().map(Vec::as_slice).collect();
    Baselines::evaluate((&train_slices, &labels_of(train)), (&test_slices, &labels_of(test)), seed)
        .inspect_err(|error| tracing::warn!("no baselines: {error}"))
        .ok()
}

pub(super) fn labels_of(windows: &[LabelledWindow]) -> Vec<u8> {
    windows.iter().flat_map(LabelledWindow::classes).map(|label| label as u8).collect()
}
