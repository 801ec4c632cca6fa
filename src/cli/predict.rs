//! `helixgrad predict`: class probabilities of windows.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Common;
use super::merge::{ShardOption, print_part};
use crate::genome::alias::Aliases;
use crate::genome::twobit::Genome;
use crate::inference::bed::BedReader;
use crate::inference::journal;
use crate::inference::merge::Shards;
use crate::inference::score::Scorer;
use crate::inference::shard::{Cut, readable_twice};
use crate::interop::arrays::concatenate_tables;
use crate::kmer::labelled::LabelledWindow;
use crate::kmer::sequences::{self, Named};
use crate::lossy;
use crate::model::Task;
use crate::output::AtomicFile;
use crate::report::Progress;
use crate::train::apply::{answer_text, largest, likely, prediction};
use crate::train::checkpoint;
use crate::{Error, Result};

/// Options of `helixgrad predict`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The model: a run's folder or a checkpoint.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    #[serde(flatten)]
    windows: Windows,
    /// Write a TSV file: name, predicted class (of several labels all that are likelier than not; of numbers none), one probability a class or
    /// one number a target (default: print it).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Answer with the mean of two answers: to each window, and to its reverse complement.
    #[arg(long)]
    rc: bool,
    #[command(flatten)]
    #[serde(skip)]
    shard: ShardOption,
}

/// Where windows come from.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Windows {
    #[command(flatten)]
    #[serde(flatten)]
    source: Source,
    /// The genome of --bed, a .2bit file.
    #[arg(long, value_name = "FILE", requires = "bed")]
    genome: Option<PathBuf>,
    /// Two names of the same sequence in --bed and --genome, as NC_000023.10=X; may be repeated.
    #[arg(long, value_name = "ONE=OTHER", requires = "bed")]
    alias: Vec<String>,
    /// A file of such pairs, two columns.
    #[arg(long, value_name = "FILE", requires = "bed")]
    alias_file: Option<PathBuf>,
}

#[derive(clap::Args, Debug, Serialize)]
#[group(required = true, multiple = false)]
#[serde(rename_all = "kebab-case")]
struct Source {
    /// Windows as FASTA records, plain or gzipped.
    #[arg(long, value_name = "FILE")]
    fasta: Option<PathBuf>,
    /// Windows as a table, TSV or CSV with a header, whose column `sequence` or the like is read (for a model of pairs two of them); a column `name`
    /// or `id` names them, labels are not looked at.
    #[arg(long, value_name = "FILE", visible_alias = "data")]
    tsv: Option<PathBuf>,
    /// Windows as intervals of --genome; those on the minus strand are read from it.
    #[arg(long, value_name = "FILE", requires = "genome")]
    bed: Option<PathBuf>,
}

/// The windows of a file, one after the other.
type Stream<'a> = &'a mut dyn Iterator<Item = Result<Named>>;

impl Windows {
    /// The file that they are in.
    fn path(&self) -> &Path {
        let Source { fasta, tsv, bed } = &self.source;
        fasta.as_deref().or(tsv.as_deref()).or(bed.as_deref()).unwrap_or(Path::new(""))
    }

    /// Opens a table of pairs.
    fn pairs(&self) -> Result<impl Iterator<Item = Result<(Named, Vec<u8>)>> + use<>> {
        match &self.source.tsv {
            Some(path) => sequences::pairs(path),
            None => Err(Error::usage(
                "single windows, where the model reads pairs",
                "give a table with two sequences a line (--tsv)",
            )),
        }
    }

    /// Opens the file and hands its path and its windows to `work`.
    pub(super) fn each(&self, work: &mut dyn FnMut(&Path, Stream) -> Result<()>) -> Result<()> {
        let genome = self.genome.as_ref().map(Genome::open).transpose()?;
        let aliases = Aliases::parse(&self.alias, self.alias_file.as_deref())?;
        match (&self.source, &genome) {
            (Source { fasta: Some(path), .. }, _) => work(path, &mut sequences::fasta(path)?),
            (Source { tsv: Some(path), .. }, _) => work(path, &mut sequences::table(path)?),
            (Source { bed: Some(path), .. }, Some(genome)) => {
                let intervals = BedReader::open(path, genome, &aliases)?;
                work(path, &mut intervals.map(|interval| Ok(interval?.read(genome))))?;
                genome.check()
            }
            _ => Err(Error::usage("no windows", "name a file with --fasta, --tsv, or --bed and --genome")),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Those of reading, predicting and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let shard = args.shard.parse()?;
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    let mut fingerprint = shard.map_or(Ok(Value::Null), |_| journal::fingerprint(&checkpoint, dtype))?;
    let scorer = Scorer::new(checkpoint, device, dtype)?;
    let scorer = if args.rc { scorer.on_both_strands()? } else { scorer };
    if let (Some(shard), Some(out)) = (shard, &args.out) {
        let cut = args.cut(&scorer)?;
        fingerprint["labels"] = json!(scorer.labels());
        fingerprint["window"] = json!(scorer.width());
        fingerprint["batch"] = json!(scorer.batch_bases());
        fingerprint["rc"] = json!(args.rc);
        fingerprint["input"] = cut.fingerprint();
        shard.sign(COMMAND, scorer.device(), &mut fingerprint);
        shard.write(out, &fingerprint, &Ending { least: scorer.least() }, |folder| {
            let mut output = Output::create(Some(&folder.join(PART)), false)?;
            let counts = args.predict(&scorer, cut.share(shard), &mut output, common.quiet)?;
            output.finish(&counts)?;
            Ok((vec![PART.into()], counts))
        })?;
        return print_part(common, &cut.report(shard, out)?);
    }
    let mut output = Output::create(args.out.as_deref(), common.json)?;
    let mut counts = args.predict(&scorer, 0..usize::MAX, &mut output, common.quiet)?;
    counts.warn(scorer.least());
    counts.out = output.finish(&counts)?;
    match &counts.out {
        Some(_) => common.print(&counts, human),
        None => Ok(()),
    }
}

/// Puts the shards of predictions together in the table `out`.
///
/// # Errors
/// Those of reading and writing.
pub fn merge(shards: &Shards, out: &Path) -> Result<Counts> {
    let Ending { least } = shards.ending()?;
    let mut all = Counts::default();
    for counts in shards.states::<Counts>() {
        let counts = counts?;
        all.windows += counts.windows;
        all.longer_windows += counts.longer_windows;
        all.uracils += counts.uracils;
    }
    all.warn(least);
    concatenate_tables(shards.parts(1)?.pieces(0), out)?;
    all.out = Some(out.to_owned());
    Ok(all)
}

/// What shards of predictions say that they are of.
pub const COMMAND: &str = "predict";
/// A shard's table.
const PART: &str = "part.tsv";

/// What the last step over all shards has to know.
#[derive(Debug, Serialize, Deserialize)]
struct Ending {
    /// Bases that the model reads.
    least: usize,
}

/// What was predicted.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    windows: u64,
    /// Windows that were not read whole.
    longer_windows: u64,
    /// U that were read as T.
    uracils: u64,
    /// The table, where one was asked for.
    #[serde(serialize_with = "lossy::serialize")]
    out: Option<PathBuf>,
}

impl Counts {
    fn warn(&self, least: usize) {
        let longer = self.longer_windows;
        if longer > 0 {
            tracing::warn!(
                "{longer} sequences are longer than this model's window: only their middle {least} bases were read"
            );
        }
    }
}

pub(super) fn human(counts: &Counts) -> String {
    let out = counts.out.as_deref().unwrap_or(Path::new("-"));
    format!("{} windows, written to {}", counts.windows, out.display())
}

impl Args {
    /// Reads all windows to see how many there are, and where they are cut into batches.
    fn cut(&self, scorer: &Scorer) -> Result<Cut> {
        readable_twice(self.windows.path())?;
        let mut cut = Cut::default();
        if scorer.reads_pairs() {
            for (count, pair) in self.windows.pairs()?.enumerate() {
                let (first, second) = pair?;
                let bases = scorer.read_of(&first.bases) + scorer.read_of(&second);
                cut.add(count.is_multiple_of(Scorer::PAIRS), bases, &first.name, [&first.bases, &second]);
            }
            return Ok(cut);
        }
        let mut batches = scorer.cut();
        self.windows.each(&mut |_, windows| {
            for window in windows {
                let Named { name, bases, .. } = window?;
                let read = scorer.read_of(&bases);
                cut.add(batches.begins(read), read, &name, [&bases, b""]);
            }
            Ok(())
        })?;
        Ok(cut)
    }

    /// Predicts the windows with these numbers, from 0.
    fn predict(&self, scorer: &Scorer, numbers: Range<usize>, output: &mut Output, quiet: bool) -> Result<Counts> {
        output.begin(scorer.labels(), scorer.task())?;
        let mut progress = Progress::new("predicting", 0, quiet).unit("windows");
        let (mut count, mut longer, mut uracils) = (0, 0_u64, 0);
        if scorer.reads_pairs() {
            let rows = self.windows.pairs()?.skip(numbers.start).take(numbers.len()).inspect(|_| {
                count += 1;
                progress.update(count, count, "");
            });
            let (path, limits) = (self.windows.path(), scorer.limits());
            let rows = rows.map(|row| {
                let (first, second) = row?;
                uracils += first.uracils;
                let checked = limits.check(&first.bases, Some(&second));
                checked.map_err(|(found, remedy)| Error::input(path, first.place(), found, remedy))?;
                longer += u64::from(limits.window.is_some_and(|window| first.bases.len().max(second.len()) > window));
                Ok((first, second))
            });
            predict_pairs(scorer, rows, output)?;
        } else {
            self.windows.each(&mut |path, windows| {
                let windows = windows.skip(numbers.start).take(numbers.len()).map(|window| {
                    let window = window?;
                    let checked = scorer.check(&window.bases);
                    checked.map_err(|(found, remedy)| Error::input(path, window.place(), found, remedy))?;
                    uracils += window.uracils;
                    longer += u64::from(scorer.width().is_some_and(|width| window.bases.len() > width));
                    Ok(window)
                });
                scorer.stream(windows, |window, probabilities| {
                    count += 1;
                    progress.update(count, count, "");
                    output.row(&window.name, scorer, probabilities)
                })
            })?;
        }
        progress.finish("");
        Ok(Counts { windows: count, longer_windows: longer, uracils, out: None })
    }
}

/// Pairs as they come, some at a time.
fn predict_pairs(
    scorer: &Scorer,
    mut pairs: impl Iterator<Item = Result<(Named, Vec<u8>)>>,
    output: &mut Output,
) -> Result<()> {
    const ROUND: usize = 4096;
    loop {
        let (mut names, mut windows) = (Vec::new(), Vec::new());
        for pair in pairs.by_ref().take(ROUND) {
            let (Named { name, bases, .. }, second) = pair?;
            names.push(name);
            windows.push(LabelledWindow { bases, second: Some(second), ..LabelledWindow::default() });
        }
        if names.is_empty() {
            return Ok(());
        }
        for (name, answers) in names.iter().zip(scorer.score_pairs(&windows)?) {
            output.row(name, scorer, &answers)?;
        }
    }
}

/// Where the rows go: to a file, or first to an unnamed one and then, when all is well, to stdout.
enum Output {
    Table(AtomicFile),
    Stdout { spool: BufWriter<File>, json: bool, rows: u64 },
}

impl Output {
    fn create(path: Option<&Path>, json: bool) -> Result<Self> {
        match path {
            Some(path) => Ok(Self::Table(AtomicFile::create(path)?)),
            None => {
                let spool = tempfile::tempfile().map_err(Error::io("write to", std::env::temp_dir()))?;
                Ok(Self::Stdout { spool: BufWriter::new(spool), json, rows: 0 })
            }
        }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        match self {
            Self::Table(file) => {
                let path = file.path().to_owned();
                file.write_all(text.as_bytes()).map_err(Error::io("write", path))
            }
            Self::Stdout { spool, .. } => {
                spool.write_all(text.as_bytes()).map_err(Error::io("write to", std::env::temp_dir()))
            }
        }
    }

    fn begin(&mut self, labels: &[String], task: Task) -> Result<()> {
        let prediction = if task == Task::Regression { "" } else { "prediction\t" };
        match self {
            Self::Stdout { json: true, .. } => self.write(&format!("{{\"labels\":{},\"windows\":[", json!(labels))),
            _ => self.write(&format!("name\t{prediction}{}\n", labels.join("\t"))),
        }
    }

    fn row(&mut self, name: &str, scorer: &Scorer, answers: &[f64]) -> Result<()> {
        let labels = scorer.labels();
        if let Self::Stdout { json: true, rows, .. } = self {
            *rows += 1;
            let comma = if *rows > 1 { "," } else { "" };
            let row = match scorer.task() {
                Task::SingleLabel => {
                    json!({ "name": name, "prediction": labels[largest(answers)], "probabilities": answers })
                }
                Task::MultiLabel => {
                    json!({ "name": name, "prediction": likely(labels, answers), "probabilities": answers })
                }
                Task::Regression => json!({ "name": name, "values": answers }),
            };
            return self.write(&format!("{comma}{row}"));
        }
        let mut line = name.to_owned();
        prediction(scorer.task(), labels, answers).iter().for_each(|prediction| line += &format!("\t{prediction}"));
        answers.iter().for_each(|answer| line += &format!("\t{}", answer_text(scorer.task(), *answer)));
        line.push('\n');
        self.write(&line)
    }

    /// Puts the file in its place and returns its path, or prints everything, with the number of windows that were not read whole, and of U
    /// that were read as T.
    fn finish(mut self, counts: &Counts) -> Result<Option<PathBuf>> {
        let Counts { longer_windows: longer, uracils, .. } = counts;
        if let Self::Stdout { json: true, .. } = self {
            self.write(&format!("],\"longer_windows\":{longer},\"uracils\":{uracils}}}\n"))?;
        }
        match self {
            Self::Table(file) => {
                let path = file.path().to_owned();
                file.commit()?;
                Ok(Some(path))
            }
            Self::Stdout { spool, .. } => {
                let failed = |error| Error::io("read back", std::env::temp_dir())(error);
                let mut spool = spool.into_inner().map_err(|error| failed(error.into_error()))?;
                spool.rewind().map_err(failed)?;
                match io::copy(&mut spool, &mut io::stdout().lock()) {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
                    other => other.map(|_| None).map_err(Error::io("write", "stdout")),
                }
            }
        }
    }
}
