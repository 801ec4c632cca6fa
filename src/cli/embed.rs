//! `helixgrad embed`: vectors of sequences, k-mers or bases.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Common;
use super::merge::{ShardOption, print_part};
use crate::genome::alias::Aliases;
use crate::genome::twobit::Genome;
use crate::inference::bed::BedReader;
use crate::inference::embed::{Counts, EmbedOptions, Rows, Unit, embed, embed_both_strands};
use crate::inference::encoder::Encoder;
use crate::inference::journal;
use crate::inference::merge::Shards;
use crate::inference::shard::{Cut, readable_twice};
use crate::interop::arrays::{ArrayWriter, Row, concatenate_tables, index_path};
use crate::kmer::sequences::{self, Named};
use crate::lossy;
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
    #[command(flatten)]
    #[serde(skip)]
    shard: ShardOption,
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
    let shard = args.shard.parse()?;
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    let mut fingerprint = shard.map_or(Ok(Value::Null), |_| journal::fingerprint(&checkpoint, dtype))?;
    let encoder = Encoder::new(checkpoint, device.clone(), dtype)?;
    let unit = match (args.pool, args.per) {
        (Some(Pool::Cls), _) => Unit::Cls,
        (_, Some(Per::Token)) => Unit::Token,
        (_, Some(Per::Nucleotide)) => Unit::Nucleotide,
        _ => Unit::Mean,
    };
    let options = EmbedOptions::new(&encoder, unit, args.layer, args.window, args.overlap)?;
    let columns = encoder.columns();
    if let Some(shard) = shard {
        let part = part(&args.out)?;
        let cut = args.cut(&encoder)?;
        fingerprint["unit"] = json!(unit);
        fingerprint["layer"] = json!(options.layer);
        fingerprint["window"] = json!([options.tiling.window, options.tiling.overlap]);
        fingerprint["batch"] = json!(encoder.batch_tokens());
        fingerprint["rc"] = json!(args.rc);
        fingerprint["format"] = json!(part);
        fingerprint["input"] = cut.fingerprint();
        shard.sign(COMMAND, &device, &mut fingerprint);
        let ending = Ending { part: part.clone(), columns, unit, layer: options.layer };
        shard.write(&args.out, &fingerprint, &ending, |folder| {
            let part = folder.join(&part);
            let state = args.embed(&encoder, &options, cut.share(shard), &part, common.quiet)?;
            let files = [part.clone(), index_path(&part)].into_iter().filter(|file| file.is_file());
            let names = files.filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()));
            Ok((names.collect(), state))
        })?;
        return print_part(common, &cut.report(shard, &args.out)?);
    }
    let state = args.embed(&encoder, &options, 0..usize::MAX, &args.out, common.quiet)?;
    common.print(&Summary::new(&args.out, columns, unit, options.layer, state), human)
}

/// Puts the shards of embeddings together in the file `out`, and its index beside it.
///
/// # Errors
/// [`Error::Usage`] for a name of another format; those of reading and writing.
pub fn merge(shards: &Shards, out: &Path) -> Result<Summary> {
    let ending: Ending = shards.ending()?;
    if part(out)? != ending.part {
        return Err(Error::usage(
            format!("--out {}, where the shards are {}", out.display(), ending.part),
            "end the output's name as theirs does",
        ));
    }
    let mut all = State::default();
    for state in shards.states::<State>() {
        let state = state?;
        all.rows += state.rows;
        all.counts.add(&state.counts);
        all.uracils += state.uracils;
        all.seconds += state.seconds;
    }
    if out.extension().is_some_and(|end| end == "tsv") {
        concatenate_tables(shards.parts(1)?.pieces(0), out)?;
    } else {
        // The rows and their index.
        let parts = shards.parts(2)?;
        let mut writer = ArrayWriter::create(out, TENSOR, columns(ending.columns))?;
        parts.pieces(0).iter().try_for_each(|part| writer.append(part))?;
        writer.commit()?;
    }
    Ok(Summary::new(out, ending.columns, ending.unit, ending.layer, all))
}

/// What shards of embeddings say that they are of.
pub const COMMAND: &str = "embed";
/// What the rows are called where a format has such names.
const TENSOR: &str = "embeddings";

/// What the last step over all shards has to know.
#[derive(Debug, Serialize, Deserialize)]
struct Ending {
    /// The name of a shard's file.
    part: String,
    columns: usize,
    unit: Unit,
    layer: usize,
}

/// What was embedded.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    rows: u64,
    counts: Counts,
    uracils: u64,
    seconds: f64,
}

/// What is told when all is done.
#[derive(Debug, Serialize)]
pub struct Summary {
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    rows: u64,
    columns: usize,
    unit: Unit,
    layer: usize,
    counts: Counts,
    uracils: u64,
    seconds: f64,
    tokens_per_second: f64,
    bases_per_second: f64,
}

impl Summary {
    fn new(out: &Path, columns: usize, unit: Unit, layer: usize, state: State) -> Self {
        let State { rows, counts, uracils, seconds } = state;
        let a_second = |count: u64| count as f64 / seconds;
        let (tokens_per_second, bases_per_second) = (a_second(counts.tokens), a_second(counts.bases));
        let out = out.to_owned();
        Self { out, rows, columns, unit, layer, counts, uracils, seconds, tokens_per_second, bases_per_second }
    }
}

/// What a shard's file of what becomes `out` is called: its ending is the format.
fn part(out: &Path) -> Result<String> {
    let end = out.extension().and_then(|end| end.to_str()).unwrap_or_default();
    if ["npy", "safetensors", "tsv"].contains(&end) {
        return Ok(format!("part.{end}"));
    }
    let found = format!("{} is neither .npy nor .safetensors nor .tsv", out.display());
    Err(Error::usage(found, "end the file's name with one of them"))
}

fn columns(count: usize) -> Vec<String> {
    (0..count).map(|column| format!("v{column}")).collect()
}

impl Args {
    /// Opens the file and hands its path and its sequences to `work`.
    fn each(&self, work: &mut dyn FnMut(&Path, &mut dyn Iterator<Item = Result<Named>>) -> Result<()>) -> Result<()> {
        if let Some(path) = &self.fasta {
            work(path, &mut sequences::fasta(path)?)
        } else if let (Some(path), Some(genome)) = (&self.bed, &self.genome) {
            let (genome, aliases) = (Genome::open(genome)?, Aliases::parse(&self.alias, self.alias_file.as_deref())?);
            let mut regions = BedReader::open(path, &genome, &aliases)?.map(|region| Ok(region?.read(&genome)));
            work(path, &mut regions)?;
            genome.check()
        } else {
            let path = self.tsv.as_deref().unwrap_or(Path::new(""));
            work(path, &mut sequences::table(path)?)
        }
    }

    /// Reads all sequences to see how many there are, and where groups of them begin.
    fn cut(&self, encoder: &Encoder) -> Result<Cut> {
        let paths = [&self.fasta, &self.bed, &self.tsv];
        paths.into_iter().flatten().try_for_each(|path| readable_twice(path))?;
        let (mut cut, mut groups) = (Cut::default(), encoder.groups());
        self.each(&mut |_, sequences| {
            for sequence in sequences {
                let Named { name, bases, .. } = sequence?;
                cut.add(groups.begins(bases.len()), bases.len(), &name, [&bases, b""]);
            }
            Ok(())
        })?;
        Ok(cut)
    }

    /// Embeds the sequences with these numbers, from 0, to the file `out`.
    fn embed(
        &self,
        encoder: &Encoder,
        options: &EmbedOptions,
        numbers: Range<usize>,
        out: &Path,
        quiet: bool,
    ) -> Result<State> {
        let mut writer = ArrayWriter::create(out, TENSOR, columns(encoder.columns()))?;
        let mut sink = |rows: Rows| write(&mut writer, &rows, options.unit);
        let mut progress = Progress::new("embedding", 0, quiet).unit("tokens");
        let mut count = |counts: &Counts| progress.update(counts.sequences, counts.tokens, "");
        let started = Instant::now();
        let mut state = State::default();
        self.each(&mut |path, sequences| {
            let sequences = sequences.skip(numbers.start).take(numbers.len());
            let sequences = sequences.inspect(|sequence| state.uracils += sequence.as_ref().map_or(0, |of| of.uracils));
            state.counts = match self.rc {
                true => embed_both_strands(encoder, path, sequences, options, &mut sink, &mut count)?,
                false => embed(encoder, path, sequences, options, &mut sink, &mut count)?,
            };
            Ok(())
        })?;
        state.seconds = started.elapsed().as_secs_f64();
        progress.finish("");
        state.rows = writer.commit()?;
        Ok(state)
    }
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

pub(super) fn human(summary: &Summary) -> String {
    let Summary { out, rows, columns, counts, tokens_per_second, bases_per_second, .. } = summary;
    let mut text = format!(
        "{} sequences, {} bases: {} x {columns} written to {}\n{} tokens/s, {} bases/s",
        format::count(counts.sequences),
        format::count(counts.bases),
        format::count(*rows),
        out.display(),
        format::count(*tokens_per_second as u64),
        format::count(*bases_per_second as u64),
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
