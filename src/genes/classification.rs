//! A classifier of pairs of genes, trained and tested on two splits of them.

use serde::Serialize;

use super::classifier::{Classifier, Habit, Shape, Table, Training};
use super::labelled_pairs::{LabelledPair, Split};
use crate::Result;
use crate::report::Progress;
use crate::train::scores::{ClassScores, Estimate};

/// What a classifier, or a baseline, reaches on a test.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// Area under the ROC curve, with the 95 % bootstrap interval over pairs.
    pub auroc: Option<Estimate>,
    /// Average precision.
    pub auprc: Option<Estimate>,
    /// Share of pairs that are right at a probability of one half.
    pub accuracy: Estimate,
    /// Matthews correlation at a probability of one half.
    pub mcc: Estimate,
}

impl Scores {
    fn of(pairs: &[LabelledPair], likely: &[f64], seed: u64) -> Self {
        let names = ["0", "1"].map(str::to_owned);
        let labels: Vec<u8> = pairs.iter().map(|pair| pair.label).collect();
        let probabilities: Vec<Vec<f64>> = likely.iter().map(|likely| vec![1.0 - likely, *likely]).collect();
        let ClassScores { accuracy, mcc, mut classes, .. } = ClassScores::of(&names, &labels, &probabilities, seed);
        let interacting = classes.pop();
        Self {
            auroc: interacting.as_ref().and_then(|class| class.auroc),
            auprc: interacting.and_then(|class| class.auprc),
            accuracy,
            mcc,
        }
    }
}

/// A split, and what was reached on it.
#[derive(Clone, Debug, Serialize)]
pub struct OfSplit {
    /// How pairs were divided.
    pub split: String,
    /// Pairs that were trained on.
    pub train: u64,
    /// Pairs that were tested on.
    pub test: u64,
    /// Those of them that interact.
    pub test_interacting: u64,
    /// Pairs in neither part, as each part has one of their genes.
    pub dropped: u64,
    /// Pairs of the test that are in training, too, whichever gene comes first.
    pub repeated: u64,
    /// The mean loss of the last round of training, in nats.
    pub loss: f64,
    /// What the classifier reaches.
    pub scores: Scores,
    /// What is reached by how often the genes of a pair interact in training, each taken alone.
    pub habit: Scores,
}

/// Trains on a split, and tests.
///
/// # Errors
/// [`crate::Error::Usage`] for a part without pairs of both labels; those of the training.
pub fn run(
    name: &str,
    split: &Split,
    table: &Table,
    shape: &Shape,
    training: &Training,
    quiet: bool,
) -> Result<(Classifier, OfSplit)> {
    split.check(name)?;
    let mut classifier = Classifier::initialise(shape.clone(), &table.values, training)?;
    let steps = u64::from(training.epochs) * split.train.len().div_ceil(training.batch) as u64;
    let mut progress = Progress::new(name, steps, quiet).unit("pairs");
    let loss = classifier.train(&split.train, training, &mut progress)?;
    progress.finish("");
    let genes: Vec<[u32; 2]> = split.test.iter().map(|pair| pair.genes).collect();
    let likely = classifier.predict(&genes)?;
    let habit = Habit::of(&split.train, table.genes.names.len());
    let of_habit: Vec<f64> = genes.iter().map(|&genes| habit.predict(genes)).collect();
    let of_split = OfSplit {
        split: name.to_owned(),
        train: split.train.len() as u64,
        test: split.test.len() as u64,
        test_interacting: split.test.iter().filter(|pair| pair.label == 1).count() as u64,
        dropped: split.dropped,
        repeated: split.repeated(),
        loss,
        scores: Scores::of(&split.test, &likely, training.seed),
        habit: Scores::of(&split.test, &of_habit, training.seed),
    };
    Ok((classifier, of_split))
}
