//! `helixgrad scan`: splice sites of a genome.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::genes::{self, Account, With};
use super::merge::{ShardOption, kept, print_part};
use super::{Common, config};
use crate::genome::alias::Aliases;
use crate::genome::region::Region;
use crate::genome::splice::{Kind, MIN_INTRON};
use crate::genome::twobit::Genome;
use crate::inference::journal;
use crate::inference::scan::accuracy::{Point, Suggested};
use crate::inference::scan::{self, Comparison, Format, Options, Positions, Summary, Truth, report};
pub use crate::inference::scan::{COMMAND, merge};
use crate::inference::score::Scorer;
use crate::inference::shard::Outcome;
use crate::inference::splice::{Score, SpliceScorer};
use crate::lossy;
use crate::output::write_atomic;
use crate::report::format::{count, short};
use crate::small_file;
use crate::train::baselines::SiteMatrices;
use crate::train::checkpoint;
use crate::{Error, Result};

/// In the model's folder: the thresholds that a scan of a dev region has suggested.
const THRESHOLDS: &str = "scan_thresholds.json";
const DEFAULT_MIN_SCORE: f64 = 0.5;

/// Options of `helixgrad scan`.
///
/// Donor and acceptor probabilities of every position on both strands. A call lies on the base with which the intron
/// begins or ends. Written to --out: sites.bed (name donor or acceptor, score 1000 times the probability, strand), a
/// bedGraph and a bigWig file for donors and acceptors of each strand, and scan.json.
#[derive(Clone, clap::Args, Debug, Serialize)]
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
    /// The lowest probability in the BED file (default: the one at which half of the calls are annotated, where --keep-thresholds has
    /// left it with the model; else 0.5).
    #[arg(long, value_name = "P")]
    #[serde(skip_serializing_if = "Option::is_none")]
    min_score: Option<f64>,
    /// Leave the thresholds that --annotation suggests (for a precision of 0.5 and 0.8, and a recall of 0.9) in the model's folder: scan a
    /// dev region so, and later scans with the same --prior take the first of them.
    #[arg(long, requires = "annotation")]
    keep_thresholds: bool,
    /// The lowest probability in bedGraph and bigWig.
    #[arg(long, value_name = "P", default_value_t = 0.01)]
    min_track_score: f64,
    /// The share of scanned positions that are donors (of those with GT), and acceptors (of those with AG): probabilities are those under
    /// this share, not under that of the windows that the model learnt from. Some 0.005 in a human genome.
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    prior: Option<f64>,
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
    /// interruption. With --shard: go on, begin, or do nothing, as far as the part is.
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    #[command(flatten)]
    #[serde(skip)]
    shard: ShardOption,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, scoring and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let min_score = match args.min_score {
        Some(given) => given,
        // What this scan keeps takes the place of what an earlier one kept.
        None if args.keep_thresholds => DEFAULT_MIN_SCORE,
        None => kept_threshold(args)?.unwrap_or(DEFAULT_MIN_SCORE),
    };
    // Resuming goes on with it, whatever is kept by then.
    let args = &Args { min_score: Some(min_score), ..args.clone() };
    let (min_site, min_track) =
        (probability("--min-score", min_score)?, probability("--min-track-score", args.min_track_score)?);
    let shard = args.shard.parse()?;
    if shard.is_some() && args.keep_thresholds {
        return Err(Error::usage(
            "--keep-thresholds with --shard, which compares only its part",
            "scan a dev region without --shard to keep thresholds; they serve scans in parts, too",
        ));
    }
    let genome = Genome::open(&args.genome)?;
    let aliases = Aliases::parse(&args.alias, args.alias_file.as_deref())?;
    let region = args.region.as_ref().map(|text| Region::parse_with(&genome, &aliases, text)).transpose()?;
    let truth = args.annotation.as_ref().map(|path| {
        let model = genes::open(path, &genome, &aliases)?;
        Ok::<_, Error>((Truth::new(&model, &genome, MIN_INTRON, &path.display().to_string()), Account::of(&model)))
    });
    let (truth, annotation) = truth.transpose()?.unzip();
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    let mut fingerprint = journal::fingerprint(&checkpoint, dtype)?;
    let scorer = SpliceScorer::new(Scorer::new(checkpoint, device, dtype)?, args.window)?;
    let scorer = scorer.with_baseline(if truth.is_some() { weight_matrix(&args.model)? } else { None });
    fingerprint["window"] = scorer.width().into();
    let scorer = match args.prior {
        Some(prior) => {
            fingerprint["prior"] = prior.into();
            scorer.with_prior(prior)?
        }
        None => scorer,
    };
    let options = Options {
        out: args.out.clone(),
        model: args.model.display().to_string(),
        region,
        positions: args.positions,
        min_site,
        min_track,
        formats: args.format.clone(),
        resume: args.resume,
        shard,
        told: kept(annotation.as_ref())?,
        config: Some(config::resolved(args, common)?),
        seed: common.seed,
        quiet: common.quiet,
    };
    let summary = match scan::run(&scorer, &genome, truth.as_ref(), &options, &fingerprint)? {
        Outcome::Whole(summary) => summary,
        Outcome::Shard(report) => return print_part(common, &report),
    };
    let told = With { result: summary, annotation };
    common.print(&told, |told| human(&told.result))?;
    if args.keep_thresholds {
        keep_thresholds(args, &told.result)?;
    }
    Ok(())
}

/// The weight matrices of the sites that a model of ours learnt from; none in other folders.
fn weight_matrix(model: &Path) -> Result<Option<SiteMatrices>> {
    let path = model.join(SiteMatrices::FILE);
    if !path.is_file() {
        tracing::info!("no {} to compare with: fine-tune with this version", path.display());
        return Ok(None);
    }
    SiteMatrices::read(&path).map(Some)
}

/// The thresholds that a scan with an annotation left with the model.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The prior that the probabilities were under.
    prior: Option<f64>,
    donor: Suggested,
    acceptor: Suggested,
}

/// Writes what the comparison in genes suggests into the model's folder.
fn keep_thresholds(args: &Args, summary: &Summary) -> Result<()> {
    let of = |kind: Kind| {
        let mut found = summary.accuracy.iter().filter(|comparison| comparison.kind == kind);
        // The bodies of genes come last.
        found.next_back().map(|comparison| comparison.model.accuracy.suggested).unwrap_or_default()
    };
    let kept = Kept { prior: args.prior, donor: of(Kind::Donor), acceptor: of(Kind::Acceptor) };
    let text = serde_json::to_string_pretty(&kept).map_err(|error| Error::Failed(error.to_string()))?;
    write_atomic(args.model.join(THRESHOLDS), text + "\n")
}

/// The threshold for a precision of one half that is kept with the model, the higher one of donors and acceptors; none if there is none
/// for this prior.
fn kept_threshold(args: &Args) -> Result<Option<f64>> {
    let path = args.model.join(THRESHOLDS);
    if !path.is_file() {
        return Ok(None);
    }
    let kept: Kept = serde_json::from_str(&small_file::read(&path)?).map_err(|error| {
        Error::input(
            &path,
            format!("line {}", error.line()),
            error.to_string(),
            "remove the file, or scan with --keep-thresholds again",
        )
    })?;
    let [Some(donor), Some(acceptor)] = [kept.donor.precision_50, kept.acceptor.precision_50] else {
        tracing::info!("{}: half of the calls were right nowhere; --min-score is {DEFAULT_MIN_SCORE}", path.display());
        return Ok(None);
    };
    if kept.prior != args.prior {
        tracing::info!("{}: thresholds under another --prior; --min-score is {DEFAULT_MIN_SCORE}", path.display());
        return Ok(None);
    }
    let threshold = donor.threshold.max(acceptor.threshold);
    tracing::info!("--min-score {threshold}, at which half of the calls were annotated ({})", path.display());
    Ok(Some(threshold))
}

fn probability(option: &str, value: f64) -> Result<Score> {
    if !(0.0..=1.0).contains(&value) {
        return Err(Error::usage(format!("{option} {value}"), "give a probability from 0 to 1"));
    }
    Ok(Score::of(value))
}

pub(super) fn human(summary: &Summary) -> String {
    let mut text = format!(
        "{} bases on both strands, {} windows at {} bases/s: {} sites from {} on",
        count(summary.bases),
        count(summary.windows),
        short(summary.bases_per_second),
        count(summary.sites),
        summary.min_score
    );
    if summary.unscored > 0 {
        text += &format!(
            "\n{} positions have no call: their window leaves the sequence or holds an N",
            count(summary.unscored)
        );
    }
    if !summary.accuracy.is_empty() {
        text += &format!(
            "\n\n{}at recall 0.5 and 0.9: precision there\n\n{}",
            report::table(&summary.accuracy),
            report::balance_table(&summary.accuracy)
        );
    }
    for Comparison { scope, kind, model, .. } in &summary.accuracy {
        let Suggested { precision_50, precision_80, recall_90 } = model.accuracy.suggested;
        let told = [("precision 0.5", precision_50), ("precision 0.8", precision_80), ("recall 0.9", recall_90)];
        let told: Vec<String> = told
            .iter()
            .map(|(wish, point)| match point {
                Some(Point { threshold, precision, recall, .. }) => {
                    format!("{wish} from {threshold} (precision {precision:.3}, recall {recall:.3})")
                }
                None => format!("{wish} nowhere"),
            })
            .collect();
        text += &format!("\n{scope}, {}: {}", kind.name(), told.join("; "));
    }
    text += "\n";
    for file in &summary.files {
        text += &format!("\n{}", file.display());
    }
    text
}
