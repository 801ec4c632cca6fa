//! `helixgrad genome pack | info | extract`.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use super::Common;
use crate::genome::alias::Aliases;
use crate::genome::annotation::Strand;
use crate::genome::composition::Composition;
use crate::genome::pack::{PackSummary, pack_fasta};
use crate::genome::region::{Region, Spelling};
use crate::genome::twobit::Genome;
use crate::inference::bed::{BedReader, Interval};
use crate::output::AtomicFile;
use crate::{Error, Result};

/// Options of `helixgrad genome`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    /// Pack FASTA (plain, gzip or bgzip) into a .2bit file.
    Pack(Pack),
    /// Show the sequences of a .2bit file: length, N, masked and GC.
    Info(Info),
    /// Write a region of a .2bit file as FASTA, or the intervals of a BED file.
    Extract(Extract),
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Pack {
    /// The FASTA file; - is stdin.
    #[arg(value_name = "IN.fa[.gz]")]
    input: PathBuf,
    /// The .2bit file to write.
    #[arg(value_name = "OUT.2bit")]
    output: PathBuf,
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    /// The .2bit file.
    #[arg(value_name = "FILE.2bit")]
    file: PathBuf,
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Extract {
    /// The .2bit file.
    #[arg(value_name = "FILE.2bit")]
    file: PathBuf,
    /// NAME, NAME:START or NAME:START-END; positions are 1-based and inclusive, commas in them are skipped.
    #[arg(required_unless_present = "bed", conflicts_with = "bed")]
    region: Option<String>,
    /// Instead of one region the intervals of a BED file, each on its strand (+ where it has none), under the name that
    /// bedtools getfasta -s gives it: chr1:999-2000(-).
    #[arg(long, value_name = "FILE", conflicts_with = "reverse_complement")]
    bed: Option<PathBuf>,
    /// Two names of the same sequence, as NC_000023.10=X; may be repeated.
    #[arg(long, value_name = "ONE=OTHER", requires = "bed")]
    alias: Vec<String>,
    /// A file of such pairs, two columns.
    #[arg(long, value_name = "FILE", requires = "bed")]
    alias_file: Option<PathBuf>,
    /// Write to this file instead of stdout.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write masked bases in upper case, too.
    #[arg(long)]
    upper_case: bool,
    /// Write the other strand.
    #[arg(long)]
    reverse_complement: bool,
}

/// Runs the command.
///
/// # Errors
/// Those of the files and regions it is given.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    match &args.action {
        Action::Pack(args) => pack(args, common),
        Action::Info(args) => info(args, common),
        Action::Extract(args) => extract(args, common),
    }
}

fn pack(args: &Pack, common: &Common) -> Result<()> {
    let started = Instant::now();
    let mut progress = Progress::new(&args.input, common.quiet);
    let packed = pack_fasta(&args.input, &args.output, &mut |bytes| progress.show(bytes));
    progress.bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();

    #[derive(Serialize)]
    struct Packed<'a> {
        output: Cow<'a, str>,
        #[serde(flatten)]
        summary: PackSummary,
        seconds: f64,
        bases_per_second: f64,
    }
    let summary = packed?;
    let result = Packed {
        output: args.output.to_string_lossy(),
        summary,
        seconds,
        bases_per_second: summary.bases as f64 / seconds,
    };
    common.print(&result, |result| {
        let PackSummary { sequences, bases, n, ambiguous, masked } = result.summary;
        let other_codes = match ambiguous {
            0 => String::new(),
            count => format!(" ({} from other ambiguity codes)", grouped(count)),
        };
        format!(
            "{}: {} sequence{}, {} bases, {} N{other_codes}, {} masked; {seconds:.1} s, {:.0} Mbp/s",
            args.output.display(),
            grouped(sequences),
            if sequences == 1 { "" } else { "s" },
            grouped(bases),
            grouped(n),
            grouped(masked),
            result.bases_per_second / 1e6
        )
    })
}

/// A bar on a terminal, a line now and then elsewhere, nothing with `--quiet`.
struct Progress {
    bar: ProgressBar,
    total: Option<u64>,
    /// When the last line was printed; none where no lines are wanted.
    last_line: Option<Instant>,
}

impl Progress {
    const LINE_EVERY: Duration = Duration::from_secs(10);

    fn new(input: &Path, quiet: bool) -> Self {
        let on_terminal = io::stderr().is_terminal();
        // A pipe has no length.
        let total = input.metadata().ok().filter(|file| file.is_file()).map(|file| file.len());
        let bar = match (quiet || !on_terminal, total) {
            (true, _) => ProgressBar::hidden(),
            (false, Some(total)) => ProgressBar::new(total).with_style(
                ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left")
                    .expect("the template is constant"),
            ),
            (false, None) => ProgressBar::new_spinner(),
        };
        Self { bar, total, last_line: (!quiet && !on_terminal).then(Instant::now) }
    }

    fn show(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
        if let Some(last) = &mut self.last_line
            && last.elapsed() >= Self::LINE_EVERY
        {
            *last = Instant::now();
            let total = self.total.map(|total| format!(" of {}", HumanBytes(total))).unwrap_or_default();
            tracing::info!("read {}{total}", HumanBytes(bytes));
        }
    }
}

fn info(args: &Info, common: &Common) -> Result<()> {
    let genome = Genome::open(&args.file)?;
    let rows: Vec<(&str, Composition)> = genome
        .sequences()
        .iter()
        .enumerate()
        .map(|(index, sequence)| (sequence.name.as_str(), Composition::of(&genome, index)))
        .collect();
    genome.check()?;
    let total: Composition = rows.iter().map(|(_, composition)| composition.clone()).sum();
    let file = args.file.to_string_lossy();
    common
        .print(&Described { file: &file, sequences: Rows(&rows), total: Row::of("", &total) }, |_| table(&rows, &total))
}

/// What is printed as JSON, row by row: a genome may have a million sequences.
#[derive(Serialize)]
struct Described<'a> {
    file: &'a str,
    sequences: Rows<'a>,
    total: Row<'a>,
}

struct Rows<'a>(&'a [(&'a str, Composition)]);

impl Serialize for Rows<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(name, composition)| Row::of(name, composition)))
    }
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(flatten)]
    composition: &'a Composition,
    gc_fraction: f64,
}

impl<'a> Row<'a> {
    fn of(name: &'a str, composition: &'a Composition) -> Self {
        Self { name, composition, gc_fraction: composition.gc_fraction() }
    }
}

/// The table that people see.
fn table(rows: &[(&str, Composition)], total: &Composition) -> String {
    let total_name = format!("total ({})", rows.len());
    let names = rows.iter().map(|(name, _)| *name).chain([total_name.as_str()]);
    let width = names.map(|name| name.chars().count()).max().unwrap_or(0).max(8);
    let line = |name: &str, c: &Composition| {
        let (length, n, masked) = (grouped(c.length), grouped(c.n), grouped(c.masked));
        format!("{name:<width$}  {length:>14}  {n:>12}  {masked:>14}  {:.4}\n", c.gc_fraction())
    };
    let mut text = format!("{:<width$}  {:>14}  {:>12}  {:>14}  {}\n", "sequence", "length", "N", "masked", "GC");
    text.extend(rows.iter().map(|(name, composition)| line(name, composition)));
    text + &line(&total_name, total)
}

/// A region on its way into FASTA.
struct Record {
    name: String,
    region: Region,
    spelling: Spelling,
}

fn extract(args: &Extract, common: &Common) -> Result<()> {
    let genome = Genome::open(&args.file)?;
    let aliases = Aliases::parse(&args.alias, args.alias_file.as_deref())?;
    let soft_mask = !args.upper_case;
    match (&args.bed, &args.region) {
        (Some(bed), _) => {
            let record = |interval: Interval| Record {
                name: interval.place(&genome),
                region: Region { index: interval.sequence, range: interval.start..interval.end },
                spelling: Spelling { soft_mask, reverse_complement: interval.strand == Strand::Minus },
            };
            let intervals = BedReader::open(bed, &genome, &aliases)?;
            write_records(&genome, intervals.map(|interval| interval.map(record)), args, common)
        }
        (None, Some(region)) => {
            let region = Region::parse_with(&genome, &aliases, region)?;
            let spelling = Spelling { soft_mask, reverse_complement: args.reverse_complement };
            let record = Record { name: region.label(&genome, spelling), region, spelling };
            write_records(&genome, std::iter::once(Ok(record)), args, common)
        }
        (None, None) => Err(Error::usage("nothing to extract", "name a region, or a BED file with --bed")),
    }
}

fn write_records(
    genome: &Genome,
    mut records: impl Iterator<Item = Result<Record>>,
    args: &Extract,
    common: &Common,
) -> Result<()> {
    let (mut names, mut bases) = (Vec::new(), 0);
    let mut write = |record: &Record, path: &Path, out: &mut dyn Write| {
        names.push(record.name.clone());
        bases += record.region.range.len();
        record.region.write_record(genome, &record.name, record.spelling, out).map_err(Error::io("write", path))
    };
    let stdout = Path::new("stdout");
    if let Some(path) = &args.out {
        let mut file = AtomicFile::create(path)?;
        for record in records {
            write(&record?, path, &mut file)?;
        }
        genome.check()?;
        file.commit()?;
        let result = match &names[..] {
            [name] if args.bed.is_none() => json!({"output": path.to_string_lossy(), "name": name, "bases": bases}),
            _ => json!({"output": path.to_string_lossy(), "records": names.len(), "bases": bases}),
        };
        return common.print(&result, |_| format!("{}: {} bases", path.display(), grouped(bases as u64)));
    }
    if common.json {
        let mut found = Vec::new();
        for record in records {
            let (record, mut text) = (record?, Vec::new());
            write(&record, stdout, &mut text)?;
            let lines = text.split(|&byte| byte == b'\n').skip(1);
            let sequence = String::from_utf8(lines.collect::<Vec<_>>().concat()).expect("bases are ASCII");
            found.push(json!({"name": record.name, "sequence": sequence}));
        }
        genome.check()?;
        let result = if args.bed.is_none() { found.remove(0) } else { json!({ "records": found }) };
        return common.print(&result, |_| String::new());
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = records.try_for_each(|record| write(&record?, stdout, &mut out));
    match written.and_then(|()| out.flush().map_err(Error::io("write", stdout))) {
        // Whoever reads has seen enough, as `| head` does.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.and_then(|()| genome.check()),
    }
}

/// A number with commas between the thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
