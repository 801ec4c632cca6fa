//! `helixgrad variants`: what variants do to splice sites.

use std::path::PathBuf;

use serde::Serialize;

use super::genes::{self, Account, With};
use super::merge::{ShardOption, kept, print_part};
use super::{Common, config};
use crate::genome::alias::Aliases;
use crate::genome::region::Region;
use crate::genome::twobit::Genome;
use crate::inference::journal;
use crate::inference::scan::Positions;
use crate::inference::score::Scorer;
use crate::inference::shard::Outcome;
use crate::inference::splice::SpliceScorer;
use crate::inference::variants::genes::Genes;
use crate::inference::variants::{Annotator, Options, Summary, check_name, saturation};
use crate::lossy;
use crate::report::format::{count, short};
use crate::train::checkpoint;
use crate::{Error, Result};

/// Options of `helixgrad variants`.
///
/// For each alternate allele: the largest gain and the largest loss in donor and acceptor probability near it, and where.
/// The output is the input with two more INFO fields, HELIXGRAD and HELIXGRAD_SKIPPED; its header says what they mean.
#[derive(clap::Args, Debug, Serialize)]
#[command(group(clap::ArgGroup::new("changes").required(true).args(["vcf", "saturation"])))]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The model: a run's folder or a checkpoint, with classes donor and acceptor.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    model: PathBuf,
    /// The genome that the variants were called on, a .2bit file.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    genome: PathBuf,
    /// The variants: VCF, plain or gzipped, or BCF.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    vcf: Option<PathBuf>,
    /// Instead of a file's variants, every single-base change of a region, as chrX:1,000,001-1,000,300; --out is a TSV file,
    /// and a page with a picture of the changes lies beside it.
    #[arg(long, value_name = "REGION")]
    saturation: Option<String>,
    /// The file to write, VCF (of BCF, too): the lines as they came; with a name that ends with .gz it is bgzip, which tabix can index.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Score each gene over a variant, on its strand (default: both strands); GFF3 or GTF.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    annotation: Option<PathBuf>,
    /// Two names of the same sequence, as NC_000023.10=X; may be repeated.
    #[arg(long, value_name = "ONE=OTHER")]
    alias: Vec<String>,
    /// A file of such pairs, two columns.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    alias_file: Option<PathBuf>,
    /// Compare sites within so many bases of the change.
    #[arg(long, value_name = "BASES", default_value_t = 50)]
    distance: u32,
    /// Alleles that replace or insert more bases are passed through.
    #[arg(long, value_name = "BASES", default_value_t = 100)]
    max_bases: usize,
    /// Pass records through whose REF is not what the genome has, marked ref_mismatch; without it they end the work.
    #[arg(long, conflicts_with = "saturation")]
    skip_mismatches: bool,
    /// Which positions can be sites: those with the intron's GT or AG, or all.
    #[arg(long, value_enum, default_value_t = Positions::GtAg)]
    positions: Positions,
    /// Bases of a window, for a model without a window of its own.
    #[arg(long, value_name = "BASES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    /// Go on with the interrupted work on --out, with the options in OUT.partial/config.toml: the same bytes as without the
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
    if args.distance > 10_000 || args.max_bases > 10_000 {
        let found = format!("--distance {} and --max-bases {}", args.distance, args.max_bases);
        return Err(Error::usage(found, "give at most 10,000 bases for each"));
    }
    if args.vcf.is_some() {
        check_name(&args.out)?;
    }
    let genome = Genome::open(&args.genome)?;
    let aliases = Aliases::parse(&args.alias, args.alias_file.as_deref())?;
    let region = args.saturation.as_ref().map(|text| Region::parse_with(&genome, &aliases, text)).transpose()?;
    let genes = args.annotation.as_ref().map(|path| {
        let model = genes::open(path, &genome, &aliases)?;
        Ok::<_, Error>((Genes::new(&model), Account::of(&model)))
    });
    let (genes, annotation) = genes.transpose()?.unzip();
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    let mut fingerprint = journal::fingerprint(&checkpoint, dtype)?;
    let scorer = SpliceScorer::new(Scorer::new(checkpoint, device, dtype)?, args.window)?;
    fingerprint["window"] = scorer.width().into();
    let options = Options {
        distance: args.distance,
        most_bases: args.max_bases,
        positions: args.positions,
        skip_mismatches: args.skip_mismatches,
        fingerprint,
        resume: args.resume,
        shard: args.shard.parse()?,
        told: kept(annotation.as_ref())?,
        config: Some(config::resolved(args, common)?),
        quiet: common.quiet,
    };
    let annotator =
        Annotator { scorer: &scorer, genome: &genome, aliases: &aliases, genes: genes.as_ref(), options: &options };
    match (&args.vcf, &region) {
        (_, Some(region)) => match annotator.saturate(region, &args.out)? {
            Outcome::Whole(result) => common.print(&With { result, annotation }, |with| human_saturation(&with.result)),
            Outcome::Shard(report) => print_part(common, &report),
        },
        (Some(vcf), None) => {
            let source = format!(
                "##helixgrad_variants=<Version={},Model=\"{}\",Genome=\"{}\">",
                env!("CARGO_PKG_VERSION"),
                quoted(&args.model.display().to_string()),
                quoted(&args.genome.display().to_string())
            );
            match annotator.annotate(vcf, &args.out, &[source])? {
                Outcome::Whole(result) => common.print(&With { result, annotation }, |with| human(&with.result)),
                Outcome::Shard(report) => print_part(common, &report),
            }
        }
        (None, None) => Err(Error::usage("no variants", "name a file with --vcf, or a region with --saturation")),
    }
}

/// A text inside the quotes of a meta line.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ")
}

pub(super) fn human(summary: &Summary) -> String {
    let mut text = format!(
        "{} records, {} alleles scored ({} with a change of 0.5 or more) at {} a second, written to {}",
        count(summary.records),
        count(summary.scored),
        count(summary.strong),
        short(summary.alleles_per_second),
        summary.out.display()
    );
    for (reason, number) in &summary.skipped {
        text += &format!("\n{} not scored: {}", count(*number), reason.replace('_', " "));
    }
    text
}

pub(super) fn human_saturation(summary: &saturation::Summary) -> String {
    let mut text = format!("{} changes at {} a second", count(summary.changes), short(summary.changes_per_second));
    if summary.unreadable > 0 {
        text += &format!(
            ", {} of them without a score: their windows leave the sequence or hold an N",
            count(summary.unreadable)
        );
    }
    if summary.no_gene > 0 {
        text += &format!("\n{} not scored: no gene", count(summary.no_gene));
    }
    summary.files.iter().for_each(|file| text += &format!("\n{}", file.display()));
    text
}
