//! `helixgrad motifs`: what a classifier looks at in the sequences of a class.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::attention::layers;
use super::evaluate::part_of;
use super::{Common, Told};
use crate::inference::attention::{Heads, Observer, Query, Selection, Unit};
use crate::inference::motifs::{Findings, Options, find, meme};
use crate::kmer::classes::read_for;
use crate::kmer::table::Answers;
use crate::output::{FolderKind, write_atomic};
use crate::report::format::count;
use crate::report::{Cell, Page, Progress, SequenceLogo, Table};
use crate::train::checkpoint;
use crate::train::evaluation::Cropped;
use crate::{Error, Result};

/// Options of `helixgrad motifs`.
///
/// Regions of high attention in the sequences of one class that are more frequent there than in the other sequences, merged
/// where they are alike (DNABERT's method). Written to --out: motifs.meme, motifs.tsv (the words and their p-values),
/// motifs.html, and a logo of each motif as SVG.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The model: a classifier's folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Labelled windows, TSV or CSV, or a folder with a test.tsv or test.csv.
    #[arg(long, value_name = "FILE|DIR", visible_alias = "tsv")]
    data: PathBuf,
    /// The class, by its name or number; the windows of the others are what it is compared with.
    #[arg(long, value_name = "CLASS")]
    class: String,
    /// Names of the table's classes 0, 1, ..., separated by commas (default: those in the dataset.json beside it, or the model's).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    labels: Vec<String>,
    /// The token whose attention is read: `[CLS]`, or the k-mer at the site in the middle (default: what the head reads).
    #[arg(long, value_enum)]
    from: Option<Query>,
    /// A layer from 1, `last`, or `all`: the one with the most significant motif (default: the last; where it finds nothing, all).
    #[arg(long, value_name = "LAYER")]
    layer: Option<String>,
    /// The shortest region of high attention, in bases.
    #[arg(long, value_name = "BASES", default_value_t = Options::DNABERT.min_length)]
    min_length: usize,
    /// Bases of the window around each place of a motif.
    #[arg(long, value_name = "BASES", default_value_t = Options::DNABERT.window)]
    motif_window: usize,
    /// The largest false discovery rate of a word.
    #[arg(long, value_name = "RATE", default_value_t = Options::DNABERT.max_fdr)]
    max_fdr: f64,
    /// The fewest places of a motif.
    #[arg(long, value_name = "N", default_value_t = Options::DNABERT.min_places)]
    min_places: usize,
    /// The folder to write; an earlier one of this command is replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

const FOLDER: FolderKind = FolderKind {
    what: "motifs",
    marker: "motifs.meme",
    holds: |name| {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let logo = name.strip_prefix("motif_").and_then(|rest| rest.strip_suffix(".svg"));
        matches!(name, "motifs.tsv" | "motifs.html") || logo.is_some_and(is_number)
    },
};

/// Runs the command.
///
/// # Errors
/// Those of reading, computing and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let options = Options {
        min_length: args.min_length,
        window: args.motif_window,
        max_fdr: args.max_fdr,
        min_places: args.min_places,
    };
    options.check()?;
    FOLDER.check(&args.out)?;
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    let Some(classification) = &checkpoint.classification else {
        return Err(crate::train::evaluation::no_classifier());
    };
    let (labels, limits) = (classification.labels.clone(), checkpoint.limits());
    let class = class(&args.class, &labels)?;
    let from = args.from.unwrap_or(match checkpoint.model.head {
        crate::model::Head::Site { .. } => Query::Site,
        _ => Query::Cls,
    });
    let count_of_layers = checkpoint.model.config.num_hidden_layers;
    let layers = |text: &str| layers(text, count_of_layers);
    let first = layers(args.layer.as_deref().unwrap_or("last"))?;
    let selection = Selection { query: from, layers: first, heads: Heads::Mean, unit: Unit::Nucleotide };
    let mut observer = Observer::new(checkpoint, selection, device, dtype)?;

    let data = part_of(&args.data, "test");
    let (table, _) = read_for(&data, Answers::Class, false, &labels, &args.labels)?;
    table.check_lengths(&data, &limits)?;
    let windows = table.windows;
    let cropped = Cropped::of(limits.window, &windows);
    let (mut of_class, mut others) = (Vec::new(), Vec::new());
    for window in &windows {
        // What lies outside the model's window counts for neither side.
        let bases = window.bases[observer.read(window.bases.len())].to_ascii_uppercase();
        if window.label == class as i32 { of_class.push(bases) } else { others.push(bases) }
    }
    let mut found = in_layers(&observer, [&of_class, &others], &options, args.layer.is_none(), common)?;
    // The others are looked at only where the last one says nothing.
    if args.layer.is_none() && count_of_layers > 1 && found[0].motifs.is_empty() {
        observer = observer.in_layers((0..count_of_layers - 1).collect())?;
        found.extend(in_layers(&observer, [&of_class, &others], &options, true, common)?);
    }
    let asked = found.len();
    let least = |findings: &Findings| findings.motifs.iter().map(|motif| motif.fdr).fold(f64::INFINITY, f64::min);
    let best = (0..asked).min_by(|&one, &other| least(&found[one]).total_cmp(&least(&found[other]))).unwrap_or(0);
    let findings = found.swap_remove(best);
    if args.layer.is_none() && asked > 1 {
        let last = count_of_layers;
        match findings.motifs.is_empty() {
            true => tracing::warn!("no motif in any of {last} layers"),
            false => tracing::warn!("no motif in layer {last}, the last; these are of layer {}", findings.layer),
        }
    }
    FOLDER.write(&args.out, |folder| write(folder, args, &findings, &[&of_class, &others]))?;
    common.print(&Told { found: Found { findings, cropped }, uracils: table.uracils }, |Told { found, .. }| {
        let number = windows.len() as u64;
        format!("{} windows{}\n{}", count(number), found.cropped.note(number), human(&found.findings, &args.out))
    })
}

/// What each of the observer's layers finds in the sequences of the class, the last layer first; where `stops`, none behind the first that
/// finds a motif.
fn in_layers(
    observer: &Observer,
    [of_class, others]: [&[Vec<u8>]; 2],
    options: &Options,
    stops: bool,
    common: &Common,
) -> Result<Vec<Findings>> {
    let layers = &observer.selection().layers;
    let mut progress = Progress::new("attention", of_class.len() as u64, common.quiet).unit("sequences");
    let mut columns: Vec<Vec<Vec<f32>>> = vec![Vec::with_capacity(of_class.len()); layers.len()];
    for round in of_class.chunks(1024) {
        for profile in observer.profiles(round)? {
            columns.iter_mut().zip(profile.columns).for_each(|(column, attention)| column.push(attention));
        }
        progress.update(columns[0].len() as u64, columns[0].len() as u64, "");
    }
    progress.finish("");
    let mut found = Vec::with_capacity(layers.len());
    for (layer, column) in layers.iter().zip(columns).rev() {
        let looked_at: Vec<_> = of_class.iter().cloned().zip(column).collect();
        let findings = Findings { layer: layer + 1, ..find(&looked_at, others, options)? };
        let is_enough = stops && !findings.motifs.is_empty();
        found.push(findings);
        if is_enough {
            break;
        }
    }
    Ok(found)
}

/// What was found, and whether all of the windows was looked at.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    findings: Findings,
    #[serde(flatten)]
    cropped: Cropped,
}

/// The number of a class, by its name or number.
fn class(text: &str, labels: &[String]) -> Result<usize> {
    let by_name = labels.iter().position(|label| label == text);
    let by_number = || text.parse().ok().filter(|number| *number < labels.len());
    by_name.or_else(by_number).ok_or_else(|| {
        let names: Vec<String> =
            labels.iter().enumerate().map(|(number, label)| format!("{label} ({number})")).collect();
        Error::usage(format!("--class {text}"), format!("this model's classes are {}", names.join(", ")))
    })
}

fn write(folder: &Path, args: &Args, findings: &Findings, sequences: &[&[Vec<u8>]; 2]) -> Result<()> {
    write_atomic(folder.join("motifs.meme"), meme::format(&findings.motifs, background(sequences)))?;
    let mut text = String::from("word\tin_class\tin_others\tp_value\tfdr\n");
    for word in &findings.words {
        let (bases, in_class, in_others) = (&word.bases, word.in_class, word.in_others);
        let _ = writeln!(text, "{bases}\t{in_class}\t{in_others}\t{:.3e}\t{:.3e}", word.p_value, word.fdr);
    }
    write_atomic(folder.join("motifs.tsv"), text)?;
    let mut page = Page::new(&format!("Motifs of {}", args.class));
    let [class, others] = findings.sequences.map(count);
    page.lead(&format!(
        "Layer {}: {} regions of high attention in {class} sequences; of {} words {} are more frequent there than in {others} others, \
         and make {} motifs.",
        findings.layer,
        count(findings.regions),
        count(findings.tested),
        count(findings.words.len() as u64),
        findings.motifs.len()
    ));
    page.section("Motifs");
    match &findings.nothing {
        Some(nothing) => page.paragraph(nothing),
        None => page.table(&table(findings)),
    };
    for (number, motif) in (1..).zip(&findings.motifs) {
        let logo = SequenceLogo::new(&format!("{number}: {}", motif.name), &motif.counts).render();
        write_atomic(folder.join(format!("motif_{number}.svg")), logo.as_str())?;
        page.figure(&logo, &format!("{} places; words {}", count(motif.places), motif.words.join(", ")));
    }
    page.footer(concat!("helixgrad ", env!("CARGO_PKG_VERSION"), " motifs"));
    write_atomic(folder.join("motifs.html"), page.render())
}

/// Shares of A, C, G and T.
fn background(sequences: &[&[Vec<u8>]; 2]) -> [f64; 4] {
    let mut counts = [0_u64; 4];
    for base in sequences.iter().flat_map(|part| part.iter().flatten()) {
        if let Some(index) = b"ACGT".iter().position(|known| known == base) {
            counts[index] += 1;
        }
    }
    let total: u64 = counts.iter().sum();
    counts.map(|count| count as f64 / total.max(1) as f64)
}

fn table(findings: &Findings) -> Table {
    let mut table = Table::new(["motif", "words", "places", "FDR"]);
    for motif in &findings.motifs {
        table.row([
            Cell::from(motif.name.as_str()),
            Cell::number(motif.words.len() as f64, 0),
            Cell::number(motif.places as f64, 0),
            Cell::from(format!("{:.1e}", motif.fdr).as_str()),
        ]);
    }
    table
}

fn human(findings: &Findings, out: &Path) -> String {
    let found = findings.nothing.clone().unwrap_or_else(|| table(findings).to_string());
    format!(
        "layer {}: {} regions of high attention, {} words tested, {} passed\n\n{found}\nwritten to {}",
        findings.layer,
        count(findings.regions),
        count(findings.tested),
        count(findings.words.len() as u64),
        out.display()
    )
}
