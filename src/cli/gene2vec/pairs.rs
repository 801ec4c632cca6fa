//! `helixgrad genes pairs`: pairs of co-expressed genes from expression.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Common;
use crate::genes::correlation::{Account, Method, Missing, Options, PairFile, correlate};
use crate::genes::expression::{self, Expression, GenesIn, Reading, Repeated};
use crate::report::Progress;
use crate::report::format::count;
use crate::{Error, Result, lossy};

/// Options.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// Expression, a file a study: tables (CSV or TSV, a header with samples, a row a gene) or MatrixMarket with features.tsv and
    /// barcodes.tsv beside it (a file, or 10x' folder); plain or gzipped.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    #[serde(serialize_with = "lossy::serialize")]
    expression: Vec<PathBuf>,
    /// The file of pairs to write, two genes a line.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Which correlation.
    #[arg(long, value_enum, default_value_t)]
    method: Method,
    /// The least correlation that makes a pair.
    #[arg(long, value_name = "R", default_value_t = 0.9, allow_negative_numbers = true)]
    threshold: f64,
    /// Pairs are those below minus the threshold, too.
    #[arg(long)]
    absolute: bool,
    /// Samples that a gene, and a pair of genes, must have at least; smaller studies are passed over.
    #[arg(long, value_name = "N", default_value_t = 10)]
    min_samples: usize,
    /// What becomes of genes with missing values (empty, NA, NaN): correlated over the samples that both of a pair have, or left out.
    #[arg(long, value_enum, default_value_t)]
    missing: Missing,
    /// Correlate over the samples of all files together, and not in each: the genes that all files have.
    #[arg(long)]
    pool: bool,
    /// Which way genes lie in the files.
    #[arg(long, value_enum, default_value_t)]
    genes_in: GenesIn,
    /// What to do with a gene whose name has been there before.
    #[arg(long, value_enum, default_value_t)]
    repeated_genes: Repeated,
    /// MatrixMarket: the names of the genes, one a line (default: features.tsv or genes.tsv beside the matrix).
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    gene_names: Option<PathBuf>,
    /// MatrixMarket: the names of the samples, one a line (default: barcodes.tsv beside the matrix).
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    sample_names: Option<PathBuf>,
    /// MatrixMarket: the column of the genes' names, from 1 (default: the second where there are two, 10x' symbols).
    #[arg(long, value_name = "N")]
    gene_column: Option<usize>,
}

/// What came of one study.
#[derive(Serialize)]
struct Study {
    file: String,
    #[serde(flatten)]
    account: Account,
}

#[derive(Serialize)]
struct Summary {
    out: String,
    method: Method,
    threshold: f64,
    absolute: bool,
    pooled: bool,
    /// Genes that only some of the files have, where they are pooled.
    #[serde(skip_serializing_if = "Option::is_none")]
    genes_of_some: Option<u64>,
    /// Files passed over, as they have fewer samples than asked for.
    too_small: Vec<String>,
    studies: Vec<Study>,
    pairs: u64,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    if !(-1.0..=1.0).contains(&args.threshold) || args.absolute && args.threshold < 0.0 {
        let found = format!("--threshold {}", args.threshold);
        return Err(Error::usage(found, "give a correlation from -1 to 1; with --absolute from 0 to 1"));
    }
    if args.min_samples < 3 {
        let found = format!("--min-samples {}", args.min_samples);
        return Err(Error::usage(found, "give 3 or more: any two samples are correlated with 1 or -1"));
    }
    let is_matrix_of_one = args.expression.len() == 1 || args.gene_names.is_none() && args.sample_names.is_none();
    if !is_matrix_of_one {
        let found = "--gene-names or --sample-names with several files";
        return Err(Error::usage(found, "name one file, or put the names beside each matrix"));
    }
    let reading = Reading {
        genes_in: args.genes_in,
        repeated: args.repeated_genes,
        gene_names: args.gene_names.clone(),
        sample_names: args.sample_names.clone(),
        gene_column: args.gene_column,
    };
    let options = Options {
        method: args.method,
        threshold: args.threshold,
        absolute: args.absolute,
        min_samples: args.min_samples,
        missing: args.missing,
    };
    let mut summary = Summary {
        out: args.out.display().to_string(),
        method: args.method,
        threshold: args.threshold,
        absolute: args.absolute,
        pooled: args.pool,
        genes_of_some: None,
        too_small: Vec::new(),
        studies: Vec::new(),
        pairs: 0,
    };
    let mut out = PairFile::create(&args.out)?;
    let mut correlate_study = |file: String, study: Expression, summary: &mut Summary| -> Result<()> {
        if study.samples < args.min_samples {
            tracing::warn!("{file}: {} samples, fewer than {}: passed over", study.samples, args.min_samples);
            summary.too_small.push(file);
            return Ok(());
        }
        let blocks = study.genes.len().div_ceil(crate::genes::correlation::BLOCK) as u64;
        let mut progress = Progress::new("correlations", blocks, common.quiet).unit("pairs");
        let account = correlate(study, &options, &mut out, &mut progress)?;
        progress.finish("");
        summary.pairs += account.pairs;
        summary.studies.push(Study { file, account });
        Ok(())
    };
    if args.pool {
        let studies = args.expression.iter().map(|path| expression::read(path, &reading));
        let (study, of_some) = Expression::pooled(studies.collect::<Result<_>>()?);
        if study.genes.is_empty() && study.silent.is_empty() {
            let found = format!("--pool of {} files that have no gene in common", args.expression.len());
            return Err(Error::usage(found, "name genes alike in all files, or leave --pool out"));
        }
        summary.genes_of_some = Some(of_some);
        correlate_study(format!("{} files", args.expression.len()), study, &mut summary)?;
    } else {
        for path in &args.expression {
            let study = expression::read(path, &reading)?;
            correlate_study(path.display().to_string(), study, &mut summary)?;
        }
    }
    if summary.studies.is_empty() {
        let found = format!("no file has {} samples", args.min_samples);
        let remedy = "give files with more, --pool to take them together, or a smaller --min-samples; if rows are samples, give --genes-in columns";
        return Err(Error::usage(found, remedy));
    }
    out.commit()?;
    common.print(&summary, describe)
}

fn describe(summary: &Summary) -> String {
    let mut text = String::new();
    for Study { file, account } in &summary.studies {
        let of = |count: u64, what: &str| (count > 0).then(|| format!("{} {what}", self::count(count)));
        let left: Vec<String> = [
            of(account.constant.len() as u64, "that do not vary left out"),
            of(account.repeated, "repeated left out"),
            of(account.left_out, "with too few values left out"),
            of(account.genes_with_missing, "with missing values"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let left = if left.is_empty() { String::new() } else { format!(" ({})", left.join(", ")) };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{file}: {} genes{left}, {} samples; {} pairs of {} that were tested",
            count(account.genes),
            count(account.samples),
            count(account.pairs),
            count(account.tested)
        );
        for (number, what) in
            [(account.too_few_samples, "have too few samples in common"), (account.undefined, "have no correlation")]
        {
            if number > 0 {
                let _ = writeln!(text, "  {} pairs {what}", count(number));
            }
        }
    }
    if let Some(genes) = summary.genes_of_some.filter(|genes| *genes > 0) {
        let _ = writeln!(text, "{} genes are in some of the files only, and left out", count(genes));
    }
    if !summary.too_small.is_empty() {
        let _ = writeln!(text, "{} files passed over: too few samples", summary.too_small.len());
    }
    let _ = writeln!(text, "\n  correlation        pairs");
    let bins = summary.studies.first().map_or(0, |study| study.account.histogram.len());
    for bins in (0..bins).collect::<Vec<_>>().chunks(4) {
        let pairs = bins.iter().flat_map(|bin| summary.studies.iter().map(|study| study.account.histogram[*bin])).sum();
        let from = -1.0 + 0.2 * (bins[0] / 4) as f64;
        let _ = writeln!(text, "{from:5.1} to {:4.1} {:>13}", from + 0.2, count(pairs));
    }
    let _ = writeln!(text, "\n{} pairs in {}", count(summary.pairs), summary.out);
    if summary.pairs == 0 {
        text += "No pair reaches the threshold: the table above says which would (--threshold)\n";
    }
    text
}
