//! `helixgrad genes evaluate`: Gene2vec's pathway score, beside what chance and two baselines have.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;

use super::vectors;
use crate::cli::Common;
use crate::genes::pairs;
use crate::genes::pathway::{Evaluation, Figures, NEAR_ZERO, Options, evaluate};
use crate::genes::sets::read_gmt;
use crate::report::format::{count, decimal};
use crate::report::{Cell, Table};
use crate::{Error, Result, lossy};

/// Sets that are told, of the highest and of the lowest cosine.
const TOLD: usize = 5;

/// Options.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The vectors: a file (word2vec text or binary, Gene2vec's table, .npy), or the folder of `genes train`.
    #[arg(long, value_name = "FILE|DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    vectors: PathBuf,
    /// The sets, a .gmt file as MSigDB and Enrichr have it.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    sets: PathBuf,
    /// The pairs that the vectors were trained on, for a baseline: genes are alike that are in as many pairs.
    #[arg(long, value_name = "FILE|DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    pairs: Option<PathBuf>,
    /// Pass over larger sets.
    #[arg(long, value_name = "GENES", default_value_t = 50)]
    max_genes: usize,
    /// Genes drawn for the denominator.
    #[arg(long, value_name = "GENES", default_value_t = 1000)]
    random_genes: usize,
    /// Seed of that draw, which is the one of Python's random.Random(SEED).shuffle; Gene2vec's is 35.
    #[arg(long, value_name = "SEED", default_value_t = 35)]
    random_genes_seed: u32,
    /// How often the genes' names are permuted.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    permutations: u32,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    for (given, option) in [(args.max_genes, "--max-genes"), (args.random_genes, "--random-genes")] {
        if given < 2 {
            return Err(Error::usage(
                format!("{option} {given}"),
                "give 2 or more: a pair is the least that has a cosine",
            ));
        }
    }
    let vectors = vectors::read(&args.vectors)?;
    let sets = read_gmt(&args.sets)?;
    let degrees = args.pairs.as_ref().map(degrees).transpose()?;
    let options = Options {
        max_genes: args.max_genes,
        background: args.random_genes,
        background_seed: args.random_genes_seed,
        permutations: args.permutations,
        seed: common.seed,
    };
    let evaluation = evaluate(&vectors, &sets, degrees.as_ref(), &options).map_err(|error| error.about(&args.sets))?;
    common.print(&evaluation, describe)
}

/// How many pairs each gene is in.
fn degrees(path: &PathBuf) -> Result<HashMap<String, u64>> {
    let mut degrees: HashMap<String, u64> = HashMap::new();
    let mut add = |gene: &str| match degrees.get_mut(gene) {
        Some(degree) => *degree += 1,
        None => drop(degrees.insert(gene.to_owned(), 1)),
    };
    pairs::read(&pairs::files(std::slice::from_ref(path))?, |one, other| {
        add(one);
        add(other);
        Ok(())
    })?;
    Ok(degrees)
}

fn describe(evaluation: &Evaluation) -> String {
    let sets = &evaluation.sets;
    let mut text = format!(
        "{} genes with vectors of {} numbers; {} sets of {} count ({} too large, {} with fewer than two genes here)\n\
         they have {} of these genes, and {} that have no vector\n\n",
        count(evaluation.genes),
        count(evaluation.dimension),
        count(sets.used),
        count(sets.sets),
        count(sets.too_large),
        count(sets.too_few),
        count(sets.genes),
        count(sets.genes_without_vector)
    );
    let mut table = Table::new(["", "within sets", "random genes", "score"]);
    for figures in &evaluation.figures {
        let Figures { method, within_sets, random_genes, score, .. } = figures;
        let score =
            score.map_or_else(|| Cell::from("n/a"), |score| Cell::estimate(score.value, score.interval.into(), 3));
        let within = Cell::estimate(within_sets.value, within_sets.interval.into(), 4);
        table.row([Cell::from(method.as_str()), within, Cell::number(*random_genes, 4), score]);
    }
    text += &table.to_string();
    let [vectors, ..] = &evaluation.figures[..] else { return text };
    if let Some(permuted) = vectors.permuted {
        let what = if vectors.score.is_some() { "score" } else { "mean cosine within sets" };
        let [low, high] = permuted.interval.map(|end| decimal(end, 4));
        text += &format!(
            "\nnames permuted {} times: {what} {low} to {high} in 95 % of them; p = {}\n",
            count(evaluation.permutations),
            decimal(permuted.p, 4)
        );
    }
    if vectors.score.is_none() {
        text += &format!(
            "caution: random genes have a mean cosine of {}, below {NEAR_ZERO}: it is no denominator, and the score ({}) would say \
             nothing; look at the cosines within sets and at p\n",
            decimal(vectors.random_genes, 4),
            decimal(vectors.within_sets.value / vectors.random_genes, 3)
        );
    }
    if evaluation.zero_vectors > 0 {
        text +=
            &format!("{} vectors are zero, and have a cosine of 0 with any other\n", count(evaluation.zero_vectors));
    }
    let each = &evaluation.each_set;
    let told = TOLD.min(each.len());
    let mut table = Table::new(["sets with the highest and the lowest mean cosine", "genes", "cosine"]);
    let lowest = each[told..].iter().skip((each.len() - told).saturating_sub(TOLD));
    for set in each[..told].iter().chain(lowest) {
        table.row([Cell::from(set.name.as_str()), set.genes.into(), Cell::number(set.cosine, 4)]);
    }
    text + "\n" + &table.to_string()
}
