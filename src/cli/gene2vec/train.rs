//! `helixgrad genes train`: vectors of genes from pairs.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::{Common, config, run_folder};
use crate::device::Device;
use crate::genes::corpus::PART_PAIRS;
use crate::genes::pairs;
use crate::genes::skip_gram::Recipe;
use crate::genes::state::State;
use crate::genes::train::{Options, SUMMARY_FILE, Summary, train};
use crate::report::format;
use crate::{Error, Result, lossy};

/// A recipe that is known by a name.
#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Preset {
    /// That of the published vectors: dimension 200, ten rounds, 5 negatives, learning rate 0.025 to 0.0001 in each round.
    Gene2vec,
    /// The authors' program as it stands: the same in dimension 100.
    Program,
}

/// Options of `helixgrad genes train`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// Files of pairs, or folders of such files: two genes a line, plain or gzipped.
    #[arg(long, required = true, num_args = 1.., value_name = "DIR|FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    pairs: Vec<PathBuf>,
    /// The folder of the run: vectors, in four forms, and what they were made of.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Go on from the state in --out, with the options in its config.toml; with more --rounds also behind the last one.
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    /// Where the numbers below come from that are not given.
    #[arg(long, value_enum, default_value = "gene2vec")]
    preset: Preset,
    /// Numbers of a vector.
    #[arg(long, value_name = "N")]
    dimension: Option<usize>,
    /// Genes that occur in fewer pairs have no vector, and their pairs are not learnt from.
    #[arg(long, default_value_t = 1, value_name = "N")]
    min_count: u64,
    /// Times that all pairs are gone through, in a new order each time.
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    #[command(flatten)]
    #[serde(flatten)]
    recipe: Recipe,
    /// Train on all threads at once, each with its own blocks of genes: faster, with the same bits on any number of threads, but not the updates
    /// in the order of gensim, and negatives from a block at a time. Below 1,024 genes there is one block.
    #[arg(long)]
    lock_free: bool,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, training and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    check_folder(args)?;
    // In one order there is nothing for a GPU to do, so that the first one that can be used is not looked for.
    let device = match common.device.as_str() {
        "auto" if !args.lock_free => Device::Cpu,
        _ => common.device()?.0,
    };
    let files = pairs::files(&args.pairs)?;
    let (dimension, rounds) = match args.preset {
        Preset::Gene2vec => (200, 10),
        Preset::Program => (100, 10),
    };
    let options = Options {
        dimension: args.dimension.unwrap_or(dimension),
        min_count: args.min_count,
        rounds: args.rounds.unwrap_or(rounds),
        recipe: args.recipe,
        lock_free: args.lock_free,
        device,
        seed: common.seed,
        out: args.out.clone(),
        resume: args.resume,
        config: Some(config::resolved(args, common)?),
        part_pairs: PART_PAIRS,
        quiet: common.quiet,
    };
    let summary = train(&files, &options)?;
    common.print(&summary, human)
}

/// A folder that holds anything is left alone, unless it is a run that is to be gone on with, or one that was just begun.
fn check_folder(args: &Args) -> Result<()> {
    let out = &args.out;
    let holds_run = State::is_in(out) || out.join(SUMMARY_FILE).exists();
    if holds_run && !args.resume {
        return Err(Error::usage(
            format!("{} already holds a run", out.display()),
            "go on with it (--resume), name another folder, or remove it",
        ));
    }
    if !holds_run {
        run_folder::check_begun(out, "a run that was just begun", |name, is_folder| {
            name == "config.toml" && !is_folder
        })?;
    }
    Ok(())
}

fn human(summary: &Summary) -> String {
    let count = |number: u64| format::count(number);
    let input = &summary.input;
    let mut text = format!(
        "{} genes, {} pairs, {} rounds: {} words, {} words/s on {}; loss {:.4} in the first round, {:.4} in the last\norder of updates: {}",
        count(summary.genes as u64),
        count(input.pairs),
        summary.losses.len(),
        count(summary.words),
        count(summary.words_per_second as u64),
        summary.device,
        summary.losses.first().unwrap_or(&0.0),
        summary.losses.last().unwrap_or(&0.0),
        summary.order,
    );
    if input.with_itself > 0 {
        text += &format!("\n{} pairs of a gene with itself were left out", count(input.with_itself));
    }
    if input.blank_lines > 0 {
        text += &format!("\n{} blank lines", count(input.blank_lines));
    }
    if summary.rare_genes > 0 {
        let (genes, pairs) = (count(summary.rare_genes), count(summary.rare_pairs));
        text += &format!("\n{genes} genes are too rare for a vector, and with them {pairs} pairs were left out");
    }
    if summary.passed_over > 0 {
        let share = 100.0 * summary.passed_over as f64 * 2.0 / summary.words as f64;
        text += &format!("\n{share:.1} % of the pairs were passed over, of frequent genes for the most part");
    }
    text + &format!("\nwritten to {}: {}", summary.out.display(), summary.files.join(", "))
}
