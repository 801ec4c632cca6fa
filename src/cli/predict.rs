//! `helixgrad predict`: class probabilities of windows.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::Common;
use crate::genome::alias::Aliases;
use crate::genome::twobit::Genome;
use crate::inference::bed::BedReader;
use crate::inference::score::Scorer;
use crate::kmer::labelled::LabelledWindow;
use crate::kmer::sequences::{self, Named};
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
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    let scorer = Scorer::new(checkpoint, device, dtype)?;
    let scorer = if args.rc { scorer.on_both_strands()? } else { scorer };
    let mut output = Output::create(args.out.as_deref(), common.json)?;
    output.begin(scorer.labels(), scorer.task())?;
    let mut progress = Progress::new("predicting", 0, common.quiet).unit("windows");
    let (mut count, mut longer, mut uracils) = (0, 0_u64, 0);
    if scorer.reads_pairs() {
        let limits = scorer.limits();
        let rows = args.windows.pairs()?.inspect(|_| {
            count += 1;
            progress.update(count, count, "");
        });
        let Source { fasta, tsv, bed } = &args.windows.source;
        let path = fasta.as_deref().or(tsv.as_deref()).or(bed.as_deref()).unwrap_or(Path::new(""));
        let rows = rows.map(|row| {
            let (first, second) = row?;
            uracils += first.uracils;
            let checked = limits.check(&first.bases, Some(&second));
            checked.map_err(|(found, remedy)| Error::input(path, first.place(), found, remedy))?;
            longer += u64::from(limits.window.is_some_and(|window| first.bases.len().max(second.len()) > window));
            Ok((first, second))
        });
        predict_pairs(&scorer, rows, &mut output)?;
    } else {
        args.windows.each(&mut |path, windows| {
            let windows = windows.map(|window| {
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
                output.row(&window.name, &scorer, probabilities)
            })
        })?;
    }
    progress.finish("");
    if longer > 0 {
        tracing::warn!(
            "{longer} sequences are longer than this model's window: only their middle {} bases were read",
            scorer.least()
        );
    }
    match output.finish(longer, uracils)? {
        Some(path) => {
            let out = path.to_string_lossy();
            let result = json!({ "windows": count, "longer_windows": longer, "uracils": uracils, "out": out });
            common.print(&result, |_| format!("{count} windows, written to {}", path.display()))
        }
        None => Ok(()),
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
    fn finish(mut self, longer: u64, uracils: u64) -> Result<Option<PathBuf>> {
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
