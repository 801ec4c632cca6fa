//! `helixgrad genes`: vectors of genes from pairs of co-expressed genes, and what they are good for.

mod classify;
mod evaluate;
mod map;
mod neighbours;
mod pairs;
mod vectors;

use serde::Serialize;

use super::Common;
use crate::Result;

/// Options.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Command {
    /// Pairs of co-expressed genes, from expression.
    Pairs(pairs::Args),
    /// What vectors know of pathways: Gene2vec's score, beside chance and baselines.
    Evaluate(evaluate::Args),
    /// Genes with like vectors, and analogies.
    Neighbours(neighbours::Args),
    /// A picture of the vectors in two dimensions, as a page with search by name.
    Map(map::Args),
    /// Train a classifier of pairs, do two genes interact, and test it on two splits.
    Classify(classify::Args),
    /// How likely pairs of genes interact, by such a classifier.
    PredictPairs(classify::PredictArgs),
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    match &args.command {
        Command::Pairs(args) => pairs::run(args, common),
        Command::Evaluate(args) => evaluate::run(args, common),
        Command::Neighbours(args) => neighbours::run(args, common),
        Command::Map(args) => map::run(args, common),
        Command::Classify(args) => classify::run(args, common),
        Command::PredictPairs(args) => classify::predict(args, common),
    }
}
