//! `helixgrad embed`: vectors of sequences, k-mers or bases.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use super::Common;
use crate::genome::alias::Aliases;
use crate::genome::twobit::Genome;
use crate::inference::bed::BedReader;
use crate::inference::embed::{Counts, EmbedOptions, Rows, Unit, embed, embed_both_strands};
use crate::inference::encoder::Encoder;
use crate::interop::arrays::{ArrayWriter, Row};
use crate::kmer::sequences::{self, Named};
use crate::report::{Progress, format};
use crate::train::checkpoint;
use crate::{Error, Result};

/// Options of `helixgrad embed`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(group = clap::ArgGroup::new("input").required(true).args(["fasta", "bed", "tsv"]))]
pub struct Args {
    /// The model: a run's folder, a checkpoint, a Hugging Face directory.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Sequences as FASTA records, plain or gzipped.
    #[arg(long, value_name = "FILE")]
    fasta: Option<PathBuf>,
    /// Regions of --genome; those on the minus strand are read on it.
    #[arg(long, value_name = "FILE", requires = "genome")]
    bed: Option<PathBuf>,
    /// The genome of --bed.
    #[arg(long, value_name = "2BIT", requires = "bed")]
    genome: Option<PathBuf>,
    /// Names of --bed that the genome has otherwise: NAME=GENOME_NAME.
    #[arg(long, value_name = "NAME=NAME", requires = "bed")]
    alias: Vec<String>,
    /// A file of such pairs, two columns.
    #[arg(long, value_name = "FILE", requires = "bed")]
    alias_file: Option<PathBuf>,
    /// Sequences of a table with a header, TSV or CSV, in its column `sequence` or the like; a column `name` or `id` names them.
    #[arg(long, value_name = "FILE", visible_alias = "data")]
    tsv: Option<PathBuf>,
    /// The file to write: .npy, .safetensors or .tsv.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// One vector a sequence: the mean over its k-mers (default), or its `[CLS]`.
    #[arg(long, value_enum)]
    pool: Option<Pool>,
    /// One vector a k-mer, or a base (the mean over the k-mers that cover it).
    #[arg(long, value_enum)]
    per: Option<Per>,
    /// Whose output: 0 is the embeddings', 1 the first layer's, -1 the last one's.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "N")]
    layer: i64,
    /// K-mers that the model reads at once (default: as many as it can); longer sequences are cut into such windows.
    #[arg(long, value_name = "K-MERS")]
    window: Option<usize>,
    /// K-mers that neighbouring windows share at least (default: a quarter of a window).
    #[arg(long, value_name = "K-MERS")]
    overlap: Option<usize>,
    /// One vector a sequence that is the mean of its own and that of its reverse complement.
    #[arg(long)]
    rc: bool,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Pool {
    Mean,
    Cls,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Per {
    Token,
    Nucleotide,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, computing and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    if args.pool.is_some() && args.per.is_some() {
        return Err(Error::usage(
            "--pool and --per together",
            "give --pool for one vector a sequence, or --per for one a k-mer or base",
        ));
    }
    let (device, dtype) = common.device()?;
    let encoder = Encoder::new(checkpoint::load(&args.model)?, device, dtype)?;
    let unit = match (args.pool, args.per) {
        (Some(Pool::Cls), _) => Unit::Cls,
        (_, Some(Per::Token)) => Unit::Token,
        (_, Some(Per::Nucleotide)) => Unit::Nucleotide,
        _ => Unit::Mean,
    };
    let options = EmbedOptions::new(&encoder, unit, args.layer, args.window, args.overlap)?;
    let columns = (0..encoder.columns()).map(|column| format!("v{column}")).collect();
    let mut writer = ArrayWriter::create(&args.out, "embeddings", columns)?;
    let mut sink = |rows: Rows| write(&mut writer, &rows, unit);
    let mut progress = Progress::new("embedding", 0, common.quiet).unit("tokens");
    let mut count = |counts: &Counts| progress.update(counts.sequences, counts.tokens, "");
    let started = Instant::now();
    let mut uracils = 0;
    let mut embed = |path: &Path, sequences: &mut dyn Iterator<Item = Result<Named>>| {
        let sequences = sequences.inspect(|sequence| uracils += sequence.as_ref().map_or(0, |of| of.uracils));
        match args.rc {
            true => embed_both_strands(&encoder, path, sequences, &options, &mut sink, &mut count),
            false => embed(&encoder, path, sequences, &options, &mut sink, &mut count),
        }
    };
    let counts = if let Some(path) = &args.fasta {
        embed(path, &mut sequences::fasta(path)?)?
    } else if let (Some(path), Some(genome)) = (&args.bed, &args.genome) {
        let (genome, aliases) = (Genome::open(genome)?, Aliases::parse(&args.alias, args.alias_file.as_deref())?);
        let mut regions = BedReader::open(path, &genome, &aliases)?.map(|region| Ok(region?.read(&genome)));
        let counts = embed(path, &mut regions)?;
        genome.check()?;
        counts
    } else {
        let path = args.tsv.as_deref().unwrap_or(Path::new(""));
        embed(path, &mut sequences::table(path)?)?
    };
    let seconds = started.elapsed().as_secs_f64();
    progress.finish("");
    let rows = writer.commit()?;
    let result = json!({
        "out": args.out.to_string_lossy(),
        "rows": rows,
        "columns": encoder.columns(),
        "unit": unit,
        "layer": options.layer,
        "counts": counts,
        "uracils": uracils,
        "seconds": seconds,
        "tokens_per_second": counts.tokens as f64 / seconds,
        "bases_per_second": counts.bases as f64 / seconds,
    });
    common.print(&result, |_| human(args, &counts, rows, encoder.columns(), seconds))
}

fn write(writer: &mut ArrayWriter, rows: &Rows, unit: Unit) -> Result<()> {
    let Named { name, bases, .. } = rows.sequence;
    if rows.first == 0 {
        writer.begin(name)?;
    }
    let has_places = matches!(unit, Unit::Token | Unit::Nucleotide);
    let columns = writer.columns();
    for (index, values) in rows.values.chunks_exact(columns).enumerate() {
        let covered = has_places.then(|| rows.place(index));
        let text = covered.map(|covered| (covered.start + 1, String::from_utf8_lossy(&bases[covered])));
        let place = text.as_ref().map(|(at, text)| (*at, text.as_ref()));
        writer.row(&Row { name, place }, values)?;
    }
    Ok(())
}

fn human(args: &Args, counts: &Counts, rows: u64, columns: usize, seconds: f64) -> String {
    let mut text = format!(
        "{} sequences, {} bases: {} x {columns} written to {}\n{} tokens/s, {} bases/s",
        format::count(counts.sequences),
        format::count(counts.bases),
        format::count(rows),
        args.out.display(),
        format::count((counts.tokens as f64 / seconds) as u64),
        format::count((counts.bases as f64 / seconds) as u64),
    );
    if counts.windowed > 0 {
        text += &format!("\n{} sequences were longer than a window and were blended", format::count(counts.windowed));
    }
    if counts.unknown_k_mers > 0 {
        text += &format!("\n{} k-mers with N or another code were [UNK]", format::count(counts.unknown_k_mers));
    }
    if counts.all_unknown > 0 {
        let all = format::count(counts.all_unknown);
        text += &format!("\n{all} sequences have no other k-mer: their vectors are those of [UNK]");
    }
    text
}
