//! `helixgrad genes classify` and `genes predict-pairs`: do two genes interact?

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::vectors;
use crate::cli::Common;
use crate::genes::classification::{OfSplit, run as train_and_test};
use crate::genes::classifier::{Shape, Table, Training};
use crate::genes::classifier_file::{FOLDER, load, save};
use crate::genes::labelled_pairs::{GeneNames, LabelledPair, Split, read};
use crate::kmer::lines::Lines;
use crate::output::AtomicFile;
use crate::report::format::{count, decimal, significant};
use crate::report::{Best, Cell, Table as Printed};
use crate::{Error, Result, lossy};

/// Options.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// Pairs: a table GENEA GENEB 0|1, separated by tabs or blanks; with --labels a file GENEA GENEB.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    train: PathBuf,
    /// The labels of these pairs, 0 or 1, one a line (GGIPNN's two files).
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    labels: Option<PathBuf>,
    /// Pairs to test on, in place of a random share of the others. The split by genes is of all pairs.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    test: Option<PathBuf>,
    /// Their labels.
    #[arg(long, value_name = "FILE", requires = "test")]
    #[serde(serialize_with = "lossy::serialize")]
    test_labels: Option<PathBuf>,
    /// The vectors: a file (word2vec text or binary, Gene2vec's table, .npy), or the folder of `genes train`.
    #[arg(long, value_name = "FILE|DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    vectors: PathBuf,
    /// The folder to write: the classifier of the first split, and the figures of both.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Share of the pairs that the random split tests on.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    test_share: f64,
    /// Share of the genes that the split by genes tests on: the square of it is about the share of the pairs.
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    gene_share: f64,
    /// Sizes of the layers between the vectors and the answer.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_values_t = [100, 100, 10])]
    hidden: Vec<usize>,
    /// Rounds over the pairs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: u32,
    /// Pairs of an update.
    #[arg(long, value_name = "PAIRS", default_value_t = 128)]
    batch: usize,
    /// Adam's learning rate.
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    learning_rate: f64,
    /// Decoupled decay of the weights.
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    weight_decay: f64,
    /// Share of each hidden layer that is dropped.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    dropout: f64,
    /// What biases begin with.
    #[arg(long, value_name = "NUMBER", default_value_t = 0.1, allow_negative_numbers = true)]
    bias: f64,
    /// Genes without a vector get numbers drawn from minus this to this.
    #[arg(long, value_name = "NUMBER", default_value_t = 0.25)]
    missing_range: f64,
    /// Train the vectors, too.
    #[arg(long)]
    tune: bool,
}

#[derive(Serialize)]
struct Summary {
    out: String,
    pairs: u64,
    genes: u64,
    /// Genes of the pairs that have no vector, and got one at random.
    genes_without_vector: u64,
    tuned: bool,
    splits: Vec<OfSplit>,
}

/// Runs `genes classify`.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    on_the_cpu(common)?;
    let training = training(args, common)?;
    FOLDER.check(&args.out)?;
    let mut names = GeneNames::default();
    let pairs = read(&args.train, args.labels.as_deref(), &mut names)?;
    let test = match &args.test {
        Some(path) => Some(read(path, args.test_labels.as_deref(), &mut names)?),
        None => None,
    };
    let vectors = vectors::read(&args.vectors)?;
    let shape = Shape { dimension: vectors.dimension, hidden: args.hidden.clone() };
    let (table, missing) = Table::new(vectors, &names.names, args.missing_range, common.seed);
    if missing == names.names.len() {
        let some: Vec<&str> = names.names.iter().take(3).map(String::as_str).collect();
        let found = format!("none of the {missing} genes ({}, ...) has a vector", some.join(", "));
        return Err(Error::input(&args.train, "", found, "give pairs and vectors with names of one kind"));
    }
    // Pairs have the numbers of their own names; the table has others.
    let numbers: Vec<u32> = names.names.iter().filter_map(|name| table.genes.find(name)).collect();
    let all: Vec<LabelledPair> = pairs.iter().chain(test.iter().flatten()).copied().collect();
    let by_genes = Split::of_genes(&all, names.names.len(), args.gene_share, common.seed);
    let (name, first) = match test {
        Some(test) => ("the given test", Split { train: pairs, test, dropped: 0 }),
        None => ("random pairs", Split::of_pairs(&pairs, args.test_share, common.seed)),
    };
    let in_table = |split: Split| {
        let of = |pairs: Vec<LabelledPair>| -> Vec<LabelledPair> {
            let of_pair =
                |pair: LabelledPair| LabelledPair { genes: pair.genes.map(|gene| numbers[gene as usize]), ..pair };
            pairs.into_iter().map(of_pair).collect()
        };
        Split { train: of(split.train), test: of(split.test), dropped: split.dropped }
    };
    let (first, by_genes) = (in_table(first), in_table(by_genes));
    first.check(name)?;
    by_genes.check("no gene in both parts")?;
    let (classifier, of_first) = train_and_test(name, &first, &table, &shape, &training, common.quiet)?;
    let (_, of_genes) = train_and_test("no gene in both parts", &by_genes, &table, &shape, &training, common.quiet)?;
    let summary = Summary {
        out: args.out.display().to_string(),
        pairs: all.len() as u64,
        genes: names.names.len() as u64,
        genes_without_vector: missing as u64,
        tuned: args.tune,
        splits: vec![of_first, of_genes],
    };
    save(&args.out, &classifier, &table.genes.names, &training, &summary)?;
    common.print(&summary, describe)
}

fn on_the_cpu(common: &Common) -> Result<()> {
    if matches!(common.device.as_str(), "auto" | "cpu") {
        return Ok(());
    }
    let found = format!("--device {} for a classifier of pairs", common.device);
    Err(Error::usage(found, "leave the option out: it is small, and is trained on the CPU alone"))
}

fn training(args: &Args, common: &Common) -> Result<Training> {
    let share = |given: f64| given > 0.0 && given < 1.0;
    let checks = [
        (share(args.test_share), "--test-share", args.test_share, "a share between 0 and 1"),
        (share(args.gene_share), "--gene-share", args.gene_share, "a share between 0 and 1"),
        ((0.0..1.0).contains(&args.dropout), "--dropout", args.dropout, "a share from 0 to below 1"),
        (args.epochs > 0, "--epochs", args.epochs.into(), "1 or more"),
        (args.batch > 0, "--batch", args.batch as f64, "1 or more"),
        (
            args.learning_rate > 0.0 && args.learning_rate < 1.0,
            "--learning-rate",
            args.learning_rate,
            "a rate between 0 and 1",
        ),
        ((0.0..1.0).contains(&args.weight_decay), "--weight-decay", args.weight_decay, "a rate from 0 to below 1"),
        (args.bias.is_finite(), "--bias", args.bias, "a number"),
        ((0.0..1e6).contains(&args.missing_range), "--missing-range", args.missing_range, "a number of 0 or more"),
    ];
    if let Some((_, option, given, needed)) = checks.into_iter().find(|(is_fine, ..)| !is_fine) {
        return Err(Error::usage(format!("{option} {given}"), format!("give {needed}")));
    }
    Ok(Training {
        epochs: args.epochs,
        batch: args.batch,
        learning_rate: args.learning_rate,
        weight_decay: args.weight_decay,
        dropout: args.dropout,
        bias: args.bias,
        missing_range: args.missing_range,
        tune: args.tune,
        seed: common.seed,
    })
}

fn describe(summary: &Summary) -> String {
    let missing = match summary.genes_without_vector {
        0 => String::new(),
        genes => format!(", {} of which have no vector and got one at random", count(genes)),
    };
    let mut text = format!("{} pairs of {} genes{missing}\n", count(summary.pairs), count(summary.genes));
    for split in &summary.splits {
        text += &format!(
            "\n{}: {} pairs to train on, {} to test on ({} interact)",
            split.split,
            count(split.train),
            count(split.test),
            count(split.test_interacting)
        );
        if split.dropped > 0 {
            text += &format!("; {} with a gene in each part dropped", count(split.dropped));
        }
        if split.repeated > 0 {
            text += &format!("; {} of the test are in training, too", count(split.repeated));
        }
        let mut table = Printed::new(["", "AUROC", "average precision", "accuracy", "MCC"]);
        for (name, scores) in [("classifier", &split.scores), ("how often each gene interacts", &split.habit)] {
            let cell =
                |estimate: crate::train::scores::Estimate| Cell::estimate(estimate.value, estimate.interval.into(), 3);
            let some = |estimate: Option<_>| estimate.map_or_else(|| Cell::from("n/a"), cell);
            table.row([
                Cell::from(name),
                some(scores.auroc),
                some(scores.auprc),
                cell(scores.accuracy),
                cell(scores.mcc),
            ]);
        }
        table.mark_best(1, Best::Highest);
        text += &format!("\n{table}mean loss at the end of training: {}\n", decimal(split.loss, 4));
    }
    text + &format!("\nThe classifier of the first split is in {}\n", summary.out)
}

/// Options of `genes predict-pairs`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PredictArgs {
    /// The folder that `genes classify` wrote.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    model: PathBuf,
    /// Pairs: two genes a line, separated by tabs or blanks; what is behind them is passed over.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    pairs: PathBuf,
    /// The table to write: both genes and how likely they interact; NA for a gene that the classifier does not know.
    #[arg(long, value_name = "FILE.tsv")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Predicted {
    out: String,
    pairs: u64,
    /// Pairs with a gene that the classifier does not know.
    unknown: u64,
    /// Pairs with a probability of one half or more.
    interacting: u64,
}

/// Runs `genes predict-pairs`.
pub fn predict(args: &PredictArgs, common: &Common) -> Result<()> {
    on_the_cpu(common)?;
    let (classifier, genes) = load(&args.model)?;
    let mut lines = Lines::open(&args.pairs)?;
    let mut rows: Vec<(String, Option<[u32; 2]>)> = Vec::new();
    while let Some(line) = lines.next_line()? {
        if line.trim().is_empty() {
            continue;
        }
        let line = line.to_owned();
        let mut words = line.split_whitespace();
        let (Some(one), Some(other)) = (words.next(), words.next()) else {
            let place = format!("line {}", lines.number());
            return Err(Error::input(&args.pairs, place, "one gene, where two are needed", "give two genes a line"));
        };
        let known = genes.find(one).zip(genes.find(other)).map(|(one, other)| [one, other]);
        rows.push((format!("{one}\t{other}"), known));
    }
    if rows.is_empty() {
        return Err(Error::input(&args.pairs, "", "no pair of genes", "check the path, or write the file again"));
    }
    let known: Vec<[u32; 2]> = rows.iter().filter_map(|(_, genes)| *genes).collect();
    let likely = classifier.predict(&known)?;
    let interacting = likely.iter().filter(|likely| **likely >= 0.5).count() as u64;
    let mut file = AtomicFile::create(&args.out)?;
    let mut write = |line: &str| writeln!(file, "{line}").map_err(Error::io("write", &args.out));
    write("gene_a\tgene_b\tprobability")?;
    let mut likely = likely.into_iter();
    for (pair, genes) in &rows {
        let answer = genes.and_then(|_| likely.next()).map_or_else(|| "NA".to_owned(), significant);
        write(&format!("{pair}\t{answer}"))?;
    }
    file.commit()?;
    let predicted = Predicted {
        out: args.out.display().to_string(),
        pairs: rows.len() as u64,
        unknown: (rows.len() - known.len()) as u64,
        interacting,
    };
    common.print(&predicted, |predicted| {
        let unknown = match predicted.unknown {
            0 => String::new(),
            pairs => format!("; {} have a gene that the classifier does not know (NA)", count(pairs)),
        };
        let (pairs, interacting) = (count(predicted.pairs), count(predicted.interacting));
        format!("{pairs} pairs in {}: {interacting} with a probability of one half or more{unknown}", predicted.out)
    })
}
