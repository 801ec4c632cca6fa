//! `helixgrad splice`: the sites of an annotated genome, and datasets of labelled windows.

use std::fmt::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::{Common, genes};
use crate::genome::alias::Aliases;
use crate::genome::annotation::{Fates, Oddities};
use crate::genome::region::Region;
use crate::genome::splice::dataset::{Options, Protocol, SpliceDataset};
use crate::genome::splice::leakage::Pairs;
use crate::genome::splice::split::{Part, Split};
use crate::genome::splice::stretches::{self, Stretches};
use crate::genome::splice::write::{
    Description, FOLDER, StretchesDescription, StretchesPart, write_dataset, write_stretches,
};
use crate::genome::splice::{GeneModel, Kind, write_bed};
use crate::genome::twobit::Genome;
use crate::kmer::vocabulary::{BaseOrder, Vocabulary};
use crate::report::format::count;
use crate::train::baselines::Baselines;
use crate::{Error, Result};

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
    /// Write every distinct donor and acceptor as BED6.
    ///
    /// The interval is the intron's two bases at the site (the GT or AG of most introns), 0-based half-open; the name
    /// is donor or acceptor, the score 0.
    Sites(SitesArgs),
    /// Write labelled windows: train.tsv, dev.tsv and test.tsv in DNABERT's format, sites.bed, dataset.json.
    ///
    /// Labels: 0 donor, 1 acceptor, 2 neither. The boundary lies in the middle of the window, which is read on the
    /// gene's own strand.
    Dataset(DatasetArgs),
    /// Write long windows over whole genes with a class at every place that reads GT or AG: train.tsv, dev.tsv, test.tsv, dataset.json.
    ///
    /// For `finetune --head tokens`: a model that answers for all places of a window in one pass, and scans a genome many times faster.
    /// Columns are sequence, labels (under each base the class of the boundary before it, 0 donor, 1 acceptor, 2 neither, or a point) and
    /// name. Parts are regions or sequences, and no gene is in two of them.
    Stretches(StretchesArgs),
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct SourceArgs {
    /// The genome, a .2bit file (`helixgrad genome pack` makes one).
    #[arg(long, value_name = "FILE")]
    genome: PathBuf,
    /// The annotation, GFF3 or GTF, plain or gzipped.
    #[arg(long, value_name = "FILE")]
    annotation: PathBuf,
    /// Two names of the same sequence, as NC_000023.10=X; may be repeated.
    #[arg(long, value_name = "ONE=OTHER")]
    alias: Vec<String>,
    /// A file of such pairs, two columns.
    #[arg(long, value_name = "FILE")]
    alias_file: Option<PathBuf>,
    /// Use only transcripts of this biotype (protein_coding, say); may be repeated.
    #[arg(long, value_name = "NAME")]
    biotype: Vec<String>,
    /// Shorter gaps between exons, in bases, are no introns.
    #[arg(long, value_name = "BASES", default_value_t = crate::genome::splice::MIN_INTRON)]
    min_intron: u32,
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct SitesArgs {
    #[command(flatten)]
    #[serde(flatten)]
    source: SourceArgs,
    /// The BED file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Which parts of the genome are held out.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PartsArgs {
    /// Strict: the sequences of the test part, separated by commas (default: the last tenth of the genes' length).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    test_sequences: Vec<String>,
    /// Strict: the sequences of the dev part, separated by commas (default: the tenth before the test part).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    dev_sequences: Vec<String>,
    /// Strict: a region of the test part, as chrX:40,000,001-50,000,000; may be repeated. Genes that reach into it are in
    /// it whole. Sequences and regions may be given together.
    #[arg(long, value_name = "REGION")]
    test_region: Vec<String>,
    /// Strict: a region of the dev part; may be repeated.
    #[arg(long, value_name = "REGION")]
    dev_region: Vec<String>,
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct StretchesArgs {
    #[command(flatten)]
    #[serde(flatten)]
    source: SourceArgs,
    /// The folder to write; an earlier dataset that is there is replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    #[serde(flatten)]
    parts: PartsArgs,
    /// Width of a window in bases; [CLS], a token a base and [SEP] are what the model reads.
    #[arg(long, value_name = "BASES", default_value_t = 512)]
    window: u32,
    /// Bases that a labelled place has before and behind it at least: neighbouring windows overlap by twice as many.
    #[arg(long, value_name = "BASES", default_value_t = 64)]
    margin: u32,
    /// Share of the training part's windows without a site that are kept, at random: most of a gene is intron. Dev and test are whole.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    background: f64,
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct DatasetArgs {
    #[command(flatten)]
    #[serde(flatten)]
    source: SourceArgs,
    /// The folder to write; an earlier dataset that is there is replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How negatives are chosen and the parts divided.
    #[arg(long, value_enum, default_value_t = ProtocolName::Strict)]
    protocol: ProtocolName,
    #[command(flatten)]
    #[serde(flatten)]
    parts: PartsArgs,
    /// Width of a window in bases; even.
    #[arg(long, value_name = "BASES", default_value_t = 400)]
    window: u32,
    /// Bases in a k-mer of the TSV files.
    #[arg(long, default_value_t = 6)]
    k: usize,
    /// At most so many donors and so many acceptors, chosen at random (default: all).
    #[arg(long, value_name = "N")]
    max_sites: Option<usize>,
    /// Strict: decoys for each donor, half of them with GT and half with AG, in all parts (1 balances the classes; a genome has hundreds).
    #[arg(long, value_name = "N", default_value_t = 1)]
    decoys: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum ProtocolName {
    /// GT/AG decoys as negatives; parts are regions or sequences and share no locus and no window.
    Strict,
    /// Random gene positions as negatives; rows shuffled, then 80/10/10 (comparable with BioNeMo's DNABERT).
    ModelCard,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, building and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    match &args.command {
        Command::Sites(args) => sites(args, common),
        Command::Dataset(args) => dataset(args, common),
        Command::Stretches(args) => stretches(args, common),
    }
}

struct Source {
    genome: Genome,
    aliases: Aliases,
    model: GeneModel,
}

fn open(args: &SourceArgs) -> Result<Source> {
    let aliases = Aliases::parse(&args.alias, args.alias_file.as_deref())?;
    let genome = Genome::open(&args.genome)?;
    let model = genes::open(&args.annotation, &genome, &aliases)?;
    Ok(Source { genome, aliases, model })
}

#[derive(Serialize)]
struct SitesResult {
    out: String,
    transcripts: Fates,
    feature_lines: Fates,
    oddities: Oddities,
    introns: u64,
    gt_ag_introns: u64,
    gt_ag_share: f64,
    donors: u64,
    acceptors: u64,
}

fn sites(args: &SitesArgs, common: &Common) -> Result<()> {
    let source = open(&args.source)?;
    let model = source.model.with_biotypes(&args.source.biotype)?;
    let table = model.sites(&source.genome, args.source.min_intron);
    source.genome.check()?;
    write_bed(&args.out, &source.genome, &table.sites)?;
    let result = SitesResult {
        out: args.out.display().to_string(),
        transcripts: model.fates.clone(),
        feature_lines: model.lines.clone(),
        oddities: model.oddities,
        introns: table.introns,
        gt_ag_introns: table.gt_ag,
        gt_ag_share: table.gt_ag_share(),
        donors: table.count(Kind::Donor),
        acceptors: table.count(Kind::Acceptor),
    };
    common.print(&result, |r| {
        format!(
            "{} donors and {} acceptors of {} introns in {} transcripts, written to {}\n{:.1} % of the introns read GT..AG\n{}",
            r.donors,
            r.acceptors,
            r.introns,
            r.transcripts.used,
            r.out,
            100.0 * r.gt_ag_share,
            accounts(&r.transcripts, &r.feature_lines)
        )
    })
}

/// What became of transcripts and feature lines, a line each.
fn accounts(transcripts: &Fates, lines: &Fates) -> String {
    let account = |(name, fates): (&str, &Fates)| {
        let notes = fates.notes();
        let rest = if notes.is_empty() { String::new() } else { format!("; left out: {}", notes.join(", ")) };
        format!("{name}: {} of {} used{rest}", count(fates.used), count(fates.all()))
    };
    [("transcripts", transcripts), ("feature lines", lines)].map(account).join("\n")
}

#[derive(Serialize)]
struct DatasetResult {
    out: String,
    #[serde(flatten)]
    description: Description,
    /// Absent where they cannot be trained (windows under 40 bases, say).
    baselines: Option<Baselines>,
}

fn dataset(args: &DatasetArgs, common: &Common) -> Result<()> {
    // Only what a model can read: the vocabulary knows which k there are.
    Vocabulary::new(args.k, BaseOrder::Atcg)?;
    FOLDER.check(&args.out)?;
    let source = open(&args.source)?;
    let options = Options {
        protocol: protocol(args, &source)?,
        window: args.window,
        min_intron: args.source.min_intron,
        biotypes: args.source.biotype.clone(),
        max_sites: args.max_sites,
        decoys: args.decoys,
        seed: common.seed,
    };
    let dataset = SpliceDataset::build(&source.genome, &source.model, &options)?;
    warn_if_small(&dataset);
    let description = Description::new(&dataset, &source.genome, &args.source.annotation, args.k);
    source.genome.check()?;
    write_dataset(&args.out, &source.genome, &dataset, &description)?;
    let baselines = Baselines::of_dataset(&dataset)
        .inspect_err(|error| tracing::warn!("the baselines cannot be trained on this dataset: {error}"))
        .ok();
    let result = DatasetResult { out: args.out.display().to_string(), description, baselines };
    common.print(&result, human)
}

/// Figures from a handful of windows mean nothing.
fn warn_if_small(dataset: &SpliceDataset) {
    const FEW: usize = 100;
    for (name, part) in [("dev", &dataset.dev), ("test", &dataset.test)] {
        if part.len() < FEW {
            tracing::warn!(
                "the {name} part has {} windows: too few to tell models apart; choose sequences with --test-sequences and \
                 --dev-sequences, or use a larger annotation",
                part.len()
            );
        }
    }
}

#[derive(Serialize)]
struct StretchesResult {
    out: String,
    #[serde(flatten)]
    description: StretchesDescription,
}

fn stretches(args: &StretchesArgs, common: &Common) -> Result<()> {
    FOLDER.check(&args.out)?;
    let source = open(&args.source)?;
    let options = stretches::Options {
        split: split(&args.parts, &source)?,
        window: args.window,
        margin: args.margin,
        min_intron: args.source.min_intron,
        biotypes: args.source.biotype.clone(),
        background: args.background,
        seed: common.seed,
    };
    let stretches = Stretches::new(&source.genome, &source.model, &options)?;
    let description = write_stretches(&args.out, &source.genome, &stretches, &args.source.annotation)?;
    let result = StretchesResult { out: args.out.display().to_string(), description };
    common.print(&result, stretches_text)
}

fn stretches_text(result: &StretchesResult) -> String {
    let d = &result.description;
    let stretches::Options { window, margin, .. } = d.options;
    let mut text = format!("{}: windows of {window} bases, margins of {margin}\n\n", result.out);
    let head = ["windows", "donor", "acceptor", "neither", "unlabelled"];
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<8}{:>10}{:>10}{:>10}{:>12}{:>12}  regions",
        "part", head[0], head[1], head[2], head[3], head[4]
    );
    for part in Part::ALL {
        let StretchesPart { counts, regions } = &d.parts[part.name()];
        let stretches::Counts { windows, donor, acceptor, neither, unlabelled_sites, .. } = counts;
        let regions = shortened(regions);
        let _ = writeln!(
            text,
            "{:<8}{windows:>10}{donor:>10}{acceptor:>10}{neither:>12}{unlabelled_sites:>12}  {regions}",
            part.name()
        );
    }
    let left_out = d.parts["train"].counts.windows_left_out;
    if left_out > 0 {
        let _ = writeln!(
            text,
            "\nof the training windows without a site {left_out} were left out (--background {})",
            d.options.background
        );
    }
    let [dev, test] = ["dev", "test"].map(|part| d.parts[part].counts.sites_known_from_training);
    let [donors, acceptors] = d.annotated;
    let _ = writeln!(
        text,
        "\nannotated: {donors} donors, {acceptors} acceptors; sites with the 80 bases of one of the training part: {dev} of the dev part, \
         {test} of the test part"
    );
    text + &accounts(&d.transcripts, &d.feature_lines)
}

fn protocol(args: &DatasetArgs, source: &Source) -> Result<Protocol> {
    if args.protocol == ProtocolName::Strict {
        return Ok(Protocol::Strict { split: split(&args.parts, source)? });
    }
    let PartsArgs { test_sequences, dev_sequences, test_region, dev_region } = &args.parts;
    if args.decoys != 1 {
        return Err(Error::usage(
            "--decoys with --protocol model-card, whose negatives are random places",
            "use --protocol strict, or leave --decoys out",
        ));
    }
    if [test_sequences, dev_sequences, test_region, dev_region].iter().any(|given| !given.is_empty()) {
        return Err(Error::usage(
            "a test or dev part with --protocol model-card, which divides its rows at random",
            "use --protocol strict, or leave --test-* and --dev-* out",
        ));
    }
    Ok(Protocol::ModelCard)
}

fn split(args: &PartsArgs, source: &Source) -> Result<Split> {
    let by_region = !args.test_region.is_empty() || !args.dev_region.is_empty();
    let [has_test, has_dev] = [(&args.test_sequences, &args.test_region), (&args.dev_sequences, &args.dev_region)]
        .map(|(sequences, regions)| !sequences.is_empty() || !regions.is_empty());
    let split = match (has_test, has_dev) {
        (false, false) => Split::Region,
        (true, true) if by_region => Split::Regions {
            test: held_out(&args.test_sequences, &args.test_region, source)?,
            dev: held_out(&args.dev_sequences, &args.dev_region, source)?,
        },
        (true, true) => Split::Sequences {
            test: indices(&args.test_sequences, source)?,
            dev: indices(&args.dev_sequences, source)?,
        },
        (true, false) | (false, true) => {
            let (given, lacking) = if has_test { ("test", "dev") } else { ("dev", "test") };
            return Err(Error::usage(
                format!("a {given} part, but no {lacking} part"),
                format!("give --{lacking}-sequences or --{lacking}-region as well, or neither part"),
            ));
        }
    };
    Ok(split)
}

/// Whole sequences and regions, as regions.
fn held_out(names: &[String], texts: &[String], source: &Source) -> Result<Vec<Region>> {
    let whole = |index: usize| Region { index, range: 0..source.genome.sequences()[index].length };
    Ok(indices(names, source)?.into_iter().map(whole).chain(regions(texts, source)?).collect())
}

fn regions(texts: &[String], source: &Source) -> Result<Vec<Region>> {
    texts.iter().map(|text| Region::parse_with(&source.genome, &source.aliases, text)).collect()
}

fn indices(names: &[String], source: &Source) -> Result<Vec<usize>> {
    let index = |name: &String| {
        source.aliases.resolve(&source.genome, name).ok_or_else(|| {
            let known: Vec<_> = source.genome.sequences().iter().take(30).map(|s| s.name.as_str()).collect();
            Error::usage(format!("the genome has no sequence {name}"), format!("choose from {}", known.join(", ")))
        })
    };
    names.iter().map(index).collect()
}

fn human(result: &DatasetResult) -> String {
    let d = &result.description;
    let mut text = format!("{}: windows of {} bases as {}-mers\n\n", result.out, d.options.window, d.k);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:<8}{:>10}{:>10}{:>10}  regions", "part", "donor", "acceptor", "neither");
    for (name, part) in [("train", &d.parts.train), ("dev", &d.parts.dev), ("test", &d.parts.test)] {
        let where_from = if part.regions.is_empty() { "rows at random".into() } else { shortened(&part.regions) };
        let _ = writeln!(text, "{name:<8}{:>10}{:>10}{:>10}  {where_from}", part.donor, part.acceptor, part.neither);
    }
    let [donors, acceptors] = d.annotated;
    let dropped = d.dropped;
    let _ = writeln!(
        text,
        "\nannotated: {donors} donors, {acceptors} acceptors; left out: {} incomplete or with N, {} duplicate, {} with \
         conflicting classes; negatives not found: {}",
        dropped.incomplete, dropped.duplicate, dropped.conflicting, dropped.missing_negatives
    );
    let _ = writeln!(text, "{}", accounts(&d.transcripts, &d.feature_lines));
    let _ = writeln!(text, "\n{:<28}{:>12}{:>12}{:>12}", "leakage", "train/dev", "train/test", "dev/test");
    let leakage = &d.leakage;
    for (name, pairs) in [
        ("shared loci", leakage.shared_loci),
        ("rows with a shared window", leakage.shared_windows),
        ("rows that overlap a window", leakage.overlapping_windows),
    ] {
        let Pairs { train_dev, train_test, dev_test } = pairs;
        let _ = writeln!(text, "{name:<28}{train_dev:>12}{train_test:>12}{dev_test:>12}");
    }
    if let Some(baselines) = &result.baselines {
        let _ = writeln!(
            text,
            "\n{:<28}{:>10}{:>8}{:>8}{:>14}",
            "baseline, test part", "accuracy", "F1", "MCC", "3-class MCC"
        );
        for (name, m) in [("GT/AG rule", &baselines.rule), ("position weight matrix", &baselines.pwm)] {
            let _ = writeln!(text, "{name:<28}{:>10.3}{:>8.3}{:>8.3}{:>14.3}", m.accuracy, m.f1, m.mcc, m.mcc_3class);
        }
    }
    text
}

/// The first few of many regions; dataset.json has all.
fn shortened(regions: &[String]) -> String {
    const SHOWN: usize = 3;
    let more = regions.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(", and {more} more in dataset.json") } else { String::new() };
    regions[..regions.len() - more].join(", ") + &rest
}
