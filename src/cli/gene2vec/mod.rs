//! `helixgrad genes ...`: vectors of genes from pairs that go together, and what they are used for.

mod classify;
mod evaluate;
mod map;
mod neighbours;
mod pairs;
mod train;
mod vectors;

use clap::Subcommand;
use serde::Serialize;

use super::Common;
use crate::Result;

/// Options of `helixgrad genes`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    /// Find pairs of co-expressed genes in tables of expression.
    Pairs(pairs::Args),
    /// Train vectors on pairs of genes: Gene2vec's recipe, skip-gram with negative sampling.
    Train(train::Args),
    /// What vectors know of pathways: Gene2vec's score, beside chance and baselines.
    Evaluate(evaluate::Args),
    /// Genes with like vectors, and analogies.
    Neighbours(neighbours::Args),
    /// A picture of the vectors in two dimensions, as a page with search by name.
    Map(map::Args),
    /// Train a classifier of pairs (do two genes interact?), and test it on two splits.
    Classify(classify::Args),
    /// How likely pairs of genes interact, by such a classifier.
    PredictPairs(classify::PredictArgs),
}

/// Runs the command.
///
/// # Errors
/// Those of the files it is given, of computing and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    match &args.action {
        Action::Pairs(args) => pairs::run(args, common),
        Action::Train(args) => train::run(args, common),
        Action::Evaluate(args) => evaluate::run(args, common),
        Action::Neighbours(args) => neighbours::run(args, common),
        Action::Map(args) => map::run(args, common),
        Action::Classify(args) => classify::run(args, common),
        Action::PredictPairs(args) => classify::predict(args, common),
    }
}
