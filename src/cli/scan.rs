//! `helixgrad scan`: splice sites of a genome.

use std::path::PathBuf;

use serde::Serialize;

use super::{Common, config, genes};
use crate::genome::alias::Aliases;
use crate::genome::region::Region;
use crate::genome::splice::MIN_INTRON;
use crate::genome::twobit::Genome;
use crate::inference::journal;
use crate::inference::scan::{self, Format, Options, Positions, Summary, Truth, report};
use crate::inference::score::Scorer;
use crate::inference::splice::{Score, SpliceScorer};
use crate::lossy;
use crate::report::format::{count, short};
use crate::train::checkpoint;
use crate::{Error, Result};

/// Options of `helixgrad scan`.
///
/// Donor and acceptor probabilities of every position on both strands. A call lies on the base with which the intron
/// begins or ends. Written to --out: sites.bed (name donor or acceptor, score 1000 times the probability, strand), a
/// bedGraph and a bigWig file for donors and acceptors of each strand, and scan.json.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The model: a run's folder or a checkpoint, with classes donor and acceptor.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    model: PathBuf,
    /// The genome, a .2bit file.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    genome: PathBuf,
    /// Scan only this part, as chrX:1,000,001-2,000,000 or chrX.
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Which positions: those with the intron's GT or AG, or all (8 times the work).
    #[arg(long, value_enum, default_value_t = Positions::GtAg)]
    positions: Positions,
    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// What to write, separated by commas.
    #[arg(long, value_enum, value_name = "FORMATS", value_delimiter = ',', default_values = ["bed", "bedgraph", "bigwig"])]
    format: Vec<Format>,
    /// The lowest probability in the BED file.
    #[arg(long, value_name = "P", default_value_t = 0.5)]
    min_score: f64,
    /// The lowest probability in bedGraph and bigWig.
    #[arg(long, value_name = "P", default_value_t = 0.01)]
    min_track_score: f64,
    /// Bases of a window, for a model without a window of its own.
    #[arg(long, value_name = "BASES")]
    window: Option<u32>,
    /// Compare with the sites of this annotation, GFF3 or GTF: precision and recall, average precision, top-k accuracy.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    annotation: Option<PathBuf>,
    /// Two names of the same sequence, in --region or --annotation and in the genome, as NC_000023.10=X; may be repeated.
    #[arg(long, value_name = "ONE=OTHER")]
    alias: Vec<String>,
    /// A file of such pairs, two columns.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    alias_file: Option<PathBuf>,
    /// Go on with the interrupted scan in --out, with the options that it was begun with: the same files as without the
    /// interruption.
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, scoring and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let (min_site, min_track) =
        (probability("--min-score", args.min_score)?, probability("--min-track-score", args.min_track_score)?);
    let genome = Genome::open(&args.genome)?;
    let aliases = Aliases::parse(&args.alias, args.alias_file.as_deref())?;
    let region = args.region.as_ref().map(|text| Region::parse_with(&genome, &aliases, text)).transpose()?;
    let truth = args.annotation.as_ref().map(|path| {
        let model = genes::open(path, &genome, &aliases)?;
        Ok::<_, Error>(Truth::new(&model, &genome, MIN_INTRON, &path.display().to_string()))
    });
    let truth = truth.transpose()?;
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    let mut fingerprint = journal::fingerprint(&checkpoint, dtype)?;
    let scorer = SpliceScorer::new(Scorer::new(checkpoint, device, dtype)?, args.window)?;
    fingerprint["window"] = scorer.width().into();
    let options = Options {
        out: args.out.clone(),
        model: args.model.display().to_string(),
        region,
        positions: args.positions,
        min_site,
        min_track,
        formats: args.format.clone(),
        resume: args.resume,
        config: Some(config::resolved(args, common)?),
        quiet: common.quiet,
    };
    let summary = scan::run(&scorer, &genome, truth.as_ref(), &options, &fingerprint)?;
    common.print(&summary, human)
}

fn probability(option: &str, value: f64) -> Result<Score> {
    if !(0.0..=1.0).contains(&value) {
        return Err(Error::usage(format!("{option} {value}"), "give a probability from 0 to 1"));
    }
    Ok(Score::of(value))
}

fn human(summary: &Summary) -> String {
    let mut text = format!(
        "{} bases on both strands, {} windows at {} bases/s: {} sites",
        count(summary.bases),
        count(summary.windows),
        short(summary.bases_per_second),
        count(summary.sites)
    );
    if summary.unscored > 0 {
        text += &format!(
            "\n{} positions have no call: their window leaves the sequence or holds an N",
            count(summary.unscored)
        );
    }
    if !summary.accuracy.is_empty() {
        text += &format!("\n\n{}", report::table(&summary.accuracy));
    }
    text += "\n";
    for file in &summary.files {
        text += &format!("\n{}", file.display());
    }
    text
}
