//! Every position of a genome on both strands: donor and acceptor probabilities as BED, bedGraph and bigWig.
//!
//! A position is a base of the plus strand. It stands for the intron that begins or ends with it: a donor's call lies on
//! the intron's first base, an acceptor's on its last, on either strand.

pub mod accuracy;
pub mod bigwig;
mod publish;
pub mod report;
mod truth;

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::accuracy::{Accuracy, Intervals};
use self::publish::{Ending, kept_config};
pub use self::truth::{Truth, TruthCounts};
use super::journal::{Journal, is_interrupted};
use super::merge::{Shards, config_of};
use super::shard::{Outcome, Shard};
use super::splice::{Score, SpliceScorer, Tiles, is_candidate};
use crate::crc32;
use crate::genome::annotation::Strand;
use crate::genome::checksum::checksum;
use crate::genome::region::Region;
use crate::genome::splice::stretches::Unknown;
use crate::genome::splice::{Kind, Position, Site, reverse_complement};
use crate::genome::twobit::Genome;
use crate::kmer::labelled::{self, LabelledWindow};
use crate::lossy;
use crate::output::{is_staging, remove_debris, write_atomic, write_folder_atomic};
use crate::report::Progress;
use crate::report::format::significant;
use crate::train::baselines::SiteMatrices;
use crate::train::interrupt;
use crate::{Error, Result};

/// The four kinds of calls; each has a track.
pub const TRACKS: [(Kind, Strand, &str); 4] = [
    (Kind::Donor, Strand::Plus, "donor_plus"),
    (Kind::Donor, Strand::Minus, "donor_minus"),
    (Kind::Acceptor, Strand::Plus, "acceptor_plus"),
    (Kind::Acceptor, Strand::Minus, "acceptor_minus"),
];

/// What shards of a scan say that they are of.
pub const COMMAND: &str = "scan";

/// The working folder, inside the output folder.
pub const WORKING_FOLDER: &str = ".partial";

const BED: &str = "sites.bed";
const SUMMARY: &str = "scan.json";
const CONFIG: &str = "config.toml";
const CURVE: &str = "precision_recall.tsv";
const REPORT: &str = "report.html";

/// Which positions are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Donors where the intron would begin with GT, acceptors where it would end with AG.
    #[default]
    GtAg,
    /// All.
    All,
}

impl Positions {
    /// Windows for each base of a random sequence, on both strands.
    pub fn windows_per_base(self) -> f64 {
        match self {
            Self::GtAg => 0.25,
            Self::All => 2.0,
        }
    }

    /// Bases that about so many windows are over.
    fn piece(self, windows: usize) -> u32 {
        (windows as f64 / self.windows_per_base()) as u32
    }
}

/// An output format of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `sites.bed`: the calls above the threshold of sites, donors and acceptors of both strands.
    Bed,
    /// A file for each kind of site and strand, with the calls above the threshold of tracks.
    #[value(name = "bedgraph")]
    BedGraph,
    /// The same as bigWig.
    #[value(name = "bigwig")]
    BigWig,
}

/// What to scan and what to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder to write.
    pub out: PathBuf,
    /// What the page calls the model.
    pub model: String,
    /// The part to scan; `None`: everything.
    pub region: Option<Region>,
    /// Which positions.
    pub positions: Positions,
    /// The lowest score in the BED file.
    pub min_site: Score,
    /// The lowest score in the tracks.
    pub min_track: Score,
    /// What is written.
    pub formats: Vec<Format>,
    /// Whether an interrupted scan goes on.
    pub resume: bool,
    /// The part to scan of the work; `None`: all of it.
    pub shard: Option<Shard>,
    /// What is told of the annotation beside the summary; kept with a shard.
    pub told: Option<Value>,
    /// The resolved options as TOML, written to `config.toml` when the scan begins.
    pub config: Option<String>,
    /// Seed of the intervals.
    pub seed: u64,
    /// No progress.
    pub quiet: bool,
}

/// What a scan found.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Bases scanned, both strands of each.
    pub bases: u64,
    /// Windows scored.
    pub windows: u64,
    /// Positions without a call, because their window leaves the sequence or holds an N.
    pub unscored: u64,
    /// Donors and acceptors in the BED file.
    pub sites: u64,
    /// The least probability of those.
    pub min_score: f64,
    /// Seconds that this scan took, interruptions excluded.
    pub seconds: f64,
    /// Bases a second.
    pub bases_per_second: f64,
    /// Files written.
    #[serde(serialize_with = "lossy::serialize")]
    pub files: Vec<PathBuf>,
    /// The comparison with an annotation, by scope and kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accuracy: Vec<Comparison>,
}

/// Calls of one kind in one scope beside an annotation.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// `everything`, or `genes`: the bodies of annotated genes on their strand, as SpliceAI is evaluated.
    pub scope: &'static str,
    /// Donors or acceptors.
    pub kind: Kind,
    /// The model's figures.
    #[serde(flatten)]
    pub model: Figures,
    /// Those of the weight matrix on the same positions, where the model's folder has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_matrix: Option<Figures>,
}

/// How well calls agree with an annotation.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The figures.
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Their intervals over genes, of calls inside genes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intervals: Option<Intervals>,
}

/// How far a scan is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    pieces: u64,
    bases: u64,
    windows: u64,
    unscored: u64,
    sites: u64,
    seconds: f64,
    counts: TruthCounts,
    /// Of the weight matrix.
    baseline: TruthCounts,
}

/// What the model says of a base. Thresholds and counts go by the score, files have the probability.
struct Call {
    base: u32,
    site: Site,
    score: Score,
    probability: f64,
    /// The weight matrix's.
    baseline: Score,
}

impl State {
    /// Adds what the next shard has found.
    fn add(&mut self, next: &Self) {
        self.pieces += next.pieces;
        self.bases += next.bases;
        self.windows += next.windows;
        self.unscored += next.unscored;
        self.sites += next.sites;
        self.seconds += next.seconds;
        self.counts.add(&next.counts);
        self.baseline.add(&next.baseline);
    }
}

/// Scans `genome`, compares with `truth` where there is one, and writes everything into `options.out`; a shard is kept beside it.
/// `fingerprint` holds whatever else the results depend on (the model): a scan is not resumed with another one.
///
/// # Errors
/// [`Error::Usage`] for a folder that holds another scan, or nothing to resume; [`Error::Interrupted`] after Ctrl-C, with
/// everything saved; those of the device and of writing.
pub fn run(
    scorer: &SpliceScorer,
    genome: &Genome,
    truth: Option<&Truth>,
    options: &Options,
    fingerprint: &Value,
) -> Result<Outcome<Summary>> {
    let names: Vec<String> = TRACKS.iter().map(|track| format!("{}.bedgraph", track.2)).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push(BED);
    let mut print = scan_fingerprint(scorer, genome, truth, options, fingerprint);
    let ending = Ending::new(genome, truth, options, scorer.baseline().is_some());
    let pieces: Vec<Region> = pieces(scorer, genome, options).collect();
    if let Some(shard) = options.shard {
        sign(shard, scorer, truth, options, &mut print)?;
        let work: Vec<u64> = pieces.iter().map(bases_of).collect();
        let report = shard.report(&options.out, "bases", &work)?;
        let opened = shard.journal::<State>("scan", &options.out, &names, print, options.resume)?;
        if let Some((mut journal, state)) = opened {
            check_folder(&options.out, false)?;
            let state = scan_pieces(&mut journal, state, &pieces[shard.range(&work)], scorer, genome, truth, options)?;
            journal.finish(&state, &ending)?;
        }
        return Ok(Outcome::Shard(report));
    }
    check_folder(&options.out, options.resume)?;
    let folder = options.out.join(WORKING_FOLDER);
    let (mut journal, state) = Journal::open::<State>("scan", &folder, &names, print, options.resume)?;
    // What a kill left behind while results were being put into their places.
    remove_debris(&options.out)?;
    let state = scan_pieces(&mut journal, state, &pieces, scorer, genome, truth, options)?;
    let config = kept_config(&folder)?;
    let summary = ending.publish(&journal.parts(), &state, config.as_deref(), &options.out, &options.out)?;
    journal.remove()?;
    Ok(Outcome::Whole(summary))
}

/// Puts the shards of a scan together in the new folder `out`: the files that the whole scan would have written. Also returns what is
/// told of the annotation.
///
/// # Errors
/// [`Error::Usage`] for a folder that holds something; those of reading and writing.
pub fn merge(shards: &Shards, out: &Path) -> Result<(Summary, Option<Value>)> {
    check_folder(out, false)?;
    let ending: Ending = shards.ending()?;
    let mut state = State::default();
    for next in shards.states() {
        state.add(&next?);
    }
    let config = kept_config(shards.first())?.map(|config| config_of(&config, out));
    let parts = shards.parts(TRACKS.len() + 1)?;
    let mut summary = None;
    write_folder_atomic(out, |folder| {
        summary = Some(ending.publish(&parts, &state, config.as_deref(), folder, out)?);
        Ok(())
    })?;
    let summary = summary.ok_or_else(|| Error::Failed("no scan was written".into()))?;
    Ok((summary, ending.told))
}

/// Scans pieces that follow one another, from where `state` stands.
fn scan_pieces(
    journal: &mut Journal,
    state: Option<State>,
    pieces: &[Region],
    scorer: &SpliceScorer,
    genome: &Genome,
    truth: Option<&Truth>,
    options: &Options,
) -> Result<State> {
    let mut state = state.unwrap_or_default();
    // Before there is a state, and gone with the folder if none comes.
    let config = journal.folder().join(CONFIG);
    if let (false, Some(text)) = (options.resume && config.is_file(), &options.config) {
        write_atomic(config, text)?;
    }
    let saving = interrupt::saving();
    let total = pieces.iter().map(bases_of).sum();
    let mut progress = Progress::new("scanning", total, options.quiet).unit("bases").resume_at(state.bases);
    let (bases_before, seconds_before, started) = (state.bases, state.seconds, Instant::now());

    for (number, piece) in (0..).zip(pieces).skip(state.pieces as usize) {
        let calls = score_piece(scorer, genome, piece, options.positions, &mut state);
        let calls = journal.save_if_interrupted(&state, calls)?;
        write_calls(journal, genome, &calls, options, &mut state)?;
        if let Some(truth) = truth {
            calls.iter().for_each(|call| truth.count(&mut state.counts, &call.site, call.score));
            if scorer.baseline().is_some() {
                calls.iter().for_each(|call| truth.count(&mut state.baseline, &call.site, call.baseline));
            }
        }
        state.pieces = number + 1;
        state.bases += bases_of(piece);
        state.seconds = seconds_before + started.elapsed().as_secs_f64();
        let found = format!("{} sites", state.sites);
        progress.update(state.bases, state.bases - bases_before, &found);
        if interrupt::requested() {
            journal.save(&state)?;
            progress.finish("interrupted");
            return Err(Error::Interrupted(format!(" after {} bases; go on with --resume", state.bases)));
        }
        if journal.is_due() {
            journal.save(&state)?;
        }
    }
    journal.save(&state)?;
    drop(saving);
    progress.finish(&format!("{} sites", state.sites));
    Ok(state)
}

fn bases_of(piece: &Region) -> u64 {
    u64::from(piece.range.end - piece.range.start)
}

/// Adds to a shard's fingerprint what its last step depends on besides.
fn sign(
    shard: Shard,
    scorer: &SpliceScorer,
    truth: Option<&Truth>,
    options: &Options,
    print: &mut Value,
) -> Result<()> {
    shard.sign(COMMAND, scorer.scorer().device(), print);
    print["format"] = json!(options.formats);
    if let Some(truth) = truth {
        print["seed"] = options.seed.into();
        print["sites"] = format!("{:08x}", truth.checksum()).into();
        let matrices = scorer.baseline().map(serde_json::to_vec).transpose();
        let matrices = matrices.map_err(|error| Error::Failed(error.to_string()))?;
        print["weight-matrix"] = matrices.map(|text| format!("{:08x}", crc32::of(&text))).into();
    }
    Ok(())
}

/// A folder that holds a scan is left alone, unless it is an interrupted one that is to go on.
fn check_folder(out: &Path, resume: bool) -> Result<()> {
    let is_finished = out.join(SUMMARY).exists() && !is_interrupted(&out.join(WORKING_FOLDER));
    if resume && !is_finished {
        return Ok(());
    }
    let (found, remedy) = if is_interrupted(&out.join(WORKING_FOLDER)) {
        ("holds an interrupted scan", "go on with it (--resume), name another folder, or remove it")
    } else if out.join(SUMMARY).exists() {
        ("already holds a scan", "name another folder, or remove it")
    } else {
        return refuse_foreign(out);
    };
    Err(Error::usage(format!("{} {found}", out.display()), remedy))
}

/// The tracks go beside nothing else, which they might overwrite: only a scan that ended before its first state is begun anew.
fn refuse_foreign(out: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(out) else { return Ok(()) };
    for entry in entries {
        let name = entry.map_err(Error::io("read the folder", out))?.file_name();
        let name = name.to_string_lossy();
        if !(name == WORKING_FOLDER || is_staging(&name)) {
            let found = format!("{} holds {name:?}, and is no folder of a scan", out.display());
            return Err(Error::usage(found, "name a new folder with --out"));
        }
    }
    Ok(())
}

fn regions(genome: &Genome, options: &Options) -> Vec<Region> {
    let all =
        |(index, sequence): (usize, &crate::genome::twobit::Sequence)| Region { index, range: 0..sequence.length };
    match &options.region {
        Some(region) => vec![region.clone()],
        None => genome.sequences().iter().enumerate().map(all).collect(),
    }
}

/// The regions in pieces of a size that the model decides, so that a resumed scan cuts its batches where an unbroken one does.
fn pieces(scorer: &SpliceScorer, genome: &Genome, options: &Options) -> impl Iterator<Item = Region> {
    let size = piece_size(scorer, options.positions);
    regions(genome, options).into_iter().flat_map(move |Region { index, range }| {
        let starts = (range.start..range.end).step_by(size as usize);
        starts.map(move |start| Region { index, range: start..range.end.min(start.saturating_add(size)) })
    })
}

/// Bases that are scored at a time, and after which a scan can be resumed: what the model's round of windows covers.
fn piece_size(scorer: &SpliceScorer, positions: Positions) -> u32 {
    match scorer.tiles() {
        // A window on each strand; whole tiles, where the region begins with one.
        Some(tiles) => tiles.core() * (scorer.round_windows() as u32 / 2).max(1),
        None => positions.piece(scorer.round_windows()),
    }
}

/// What the results depend on. The number of threads is not among it.
fn scan_fingerprint(
    scorer: &SpliceScorer,
    genome: &Genome,
    truth: Option<&Truth>,
    options: &Options,
    model: &Value,
) -> Value {
    // Windows around the first and the last base reach beyond them.
    let read = |Region { index, range }: Region| {
        let length = genome.sequences()[index].length;
        let end = length.min(range.end.saturating_add(scorer.width()));
        (index, range.start.saturating_sub(scorer.width())..end)
    };
    let read: Vec<_> = regions(genome, options).into_iter().map(read).collect();
    let region = options.region.as_ref().map(|region| region.label(genome, Default::default()));
    let mut print = json!({
        "genome": format!("{:08x}", checksum(genome, &read)),
        "region": region,
        "positions": options.positions,
        "round": piece_size(scorer, options.positions),
        "min-score": options.min_site.value(),
        "min-track-score": options.min_track.value(),
        "annotation": truth.map(Truth::fingerprint),
    });
    if let (Some(print), Some(model)) = (print.as_object_mut(), model.as_object()) {
        print.extend(model.clone());
    }
    print
}

/// What is to be asked of a piece: windows or stretches, and the places that they answer for, in order.
#[derive(Default)]
struct Wanted {
    windows: Vec<Vec<u8>>,
    stretches: Vec<LabelledWindow>,
    places: Vec<Place>,
    /// Calls that cannot be had.
    unscored: u64,
}

/// A boundary on a strand, and the base of the donor's and of the acceptor's call at it, where that is wanted.
struct Place {
    boundary: u32,
    strand: Strand,
    bases: [Option<u32>; 2],
    /// The weight matrix's probabilities.
    baseline: [f64; 2],
}

impl Place {
    /// `None` where no call is wanted. `bases` are a piece of the plus strand around the boundary, `at` the boundary in it.
    fn of(
        bases: &[u8],
        at: usize,
        boundary: u32,
        strand: Strand,
        piece: &Region,
        positions: Positions,
    ) -> Option<Self> {
        let bases = [Kind::Donor, Kind::Acceptor].map(|kind| {
            let base = base_of(boundary, kind, strand).filter(|base| piece.range.contains(base))?;
            let is_wanted = positions == Positions::All || is_candidate(bases, at, kind, strand);
            is_wanted.then_some(base)
        });
        bases.iter().any(Option::is_some).then_some(Self { boundary, strand, bases, baseline: [0.0; 2] })
    }

    fn calls(&self) -> u64 {
        self.bases.iter().flatten().count() as u64
    }
}

/// The weight matrix's probabilities at boundary `at` of a piece of the plus strand, where there is a matrix; 0 at the ends.
fn baseline(scorer: &SpliceScorer, bases: &[u8], at: usize, strand: Strand) -> [f64; 2] {
    const REACH: usize = SiteMatrices::REACH;
    let around = at.checked_sub(REACH).and_then(|start| bases.get(start..at + REACH));
    match (scorer.baseline(), around, strand) {
        (Some(matrices), Some(around), Strand::Plus) => matrices.probabilities(around),
        (Some(matrices), Some(around), Strand::Minus) => {
            let mut around = around.to_vec();
            reverse_complement(&mut around);
            matrices.probabilities(&around)
        }
        _ => [0.0; 2],
    }
}

/// A window for each place.
fn in_windows(scorer: &SpliceScorer, genome: &Genome, piece: &Region, positions: Positions) -> Wanted {
    let length = genome.sequences()[piece.index].length;
    let Range { start, end } = piece.range;
    let from = start.saturating_sub(scorer.width());
    let mut bases = Vec::new();
    genome.decode(piece.index, from..length.min(end.saturating_add(scorer.width())), &mut bases);
    let mut wanted = Wanted::default();
    // Boundary b lies before base b; the calls at it lie on base b or on the one before.
    for boundary in start..=end {
        let at = (boundary - from) as usize;
        for strand in [Strand::Plus, Strand::Minus] {
            let Some(mut place) = Place::of(&bases, at, boundary, strand, piece, positions) else { continue };
            match scorer.window(&bases, at, strand) {
                Some(window) => {
                    place.baseline = baseline(scorer, &bases, at, strand);
                    wanted.windows.push(window);
                    wanted.places.push(place);
                }
                None => wanted.unscored += place.calls(),
            }
        }
    }
    wanted
}

/// Windows over the whole piece, and a margin beyond, on both strands.
fn in_tiles(scorer: &SpliceScorer, tiles: Tiles, genome: &Genome, piece: &Region, positions: Positions) -> Wanted {
    let length = genome.sequences()[piece.index].length;
    let Range { start, end } = piece.range;
    let core = tiles.core();
    // The weight matrix may read farther than a margin.
    let reach = tiles.margin.max(SiteMatrices::REACH as u32);
    let mut wanted = Wanted::default();
    let mut around = Vec::new();
    for tile in start / core..=end / core {
        let first = tile * core;
        let from = first.saturating_sub(tiles.margin);
        let to = length.min(first.saturating_add(core + tiles.margin));
        let before = first.saturating_sub(reach);
        genome.decode(piece.index, before..length.min(first.saturating_add(core + reach)), &mut around);
        let bases = &around[(from - before) as usize..(to - before) as usize];
        let unknown = Unknown::of(bases, tiles.margin as usize);
        let boundaries = start.max(first)..=end.min(first.saturating_add(core - 1));
        for strand in [Strand::Plus, Strand::Minus] {
            let mut stretch = LabelledWindow::default();
            let mut places = Vec::new();
            for boundary in boundaries.clone() {
                let at = (boundary - from) as usize;
                let Some(mut place) = Place::of(bases, at, boundary, strand, piece, positions) else { continue };
                if !unknown.is_clear(at) {
                    wanted.unscored += place.calls();
                    continue;
                }
                place.baseline = baseline(scorer, &around, (boundary - before) as usize, strand);
                let at = if strand == Strand::Plus { at } else { bases.len() - at };
                stretch.places.push(labelled::Place { at: at as u32, class: 0 });
                places.push(place);
            }
            if places.is_empty() {
                continue;
            }
            stretch.bases = bases.to_vec();
            if strand == Strand::Minus {
                reverse_complement(&mut stretch.bases);
                stretch.places.reverse();
                places.reverse();
            }
            wanted.stretches.push(stretch);
            wanted.places.append(&mut places);
        }
    }
    wanted
}

/// The calls of a piece: those whose base lies in it, sorted by base, then kind and strand. An error leaves `state` as it is.
fn score_piece(
    scorer: &SpliceScorer,
    genome: &Genome,
    piece: &Region,
    positions: Positions,
    state: &mut State,
) -> Result<Vec<Call>> {
    let wanted = match scorer.tiles() {
        Some(tiles) => in_tiles(scorer, tiles, genome, piece, positions),
        None => in_windows(scorer, genome, piece, positions),
    };
    let scores = match scorer.tiles() {
        Some(_) => scorer.score_places(&wanted.stretches)?,
        None => scorer.score(&wanted.windows)?,
    };
    genome.check()?;
    let windows = (wanted.windows.len() + wanted.stretches.len()) as u64;
    (state.windows, state.unscored) = (state.windows + windows, state.unscored + wanted.unscored);
    let mut calls = Vec::with_capacity(scores.len());
    for (Place { boundary, strand, bases, baseline }, scores) in wanted.places.into_iter().zip(scores) {
        for (kind, base) in [Kind::Donor, Kind::Acceptor].into_iter().zip(bases) {
            let Some(base) = base else { continue };
            let site = Site { position: Position { sequence: piece.index, boundary, strand }, kind };
            let probability = scores[kind as usize];
            let baseline = Score::of(baseline[kind as usize]);
            calls.push(Call { base, site, score: Score::of(probability), probability, baseline });
        }
    }
    calls.sort_by_key(|call| (call.base, call.site.kind, call.site.position.strand));
    Ok(calls)
}

/// The intron's base at a boundary: behind it for a donor of the plus strand, before it for an acceptor.
fn base_of(boundary: u32, kind: Kind, strand: Strand) -> Option<u32> {
    let after = (kind == Kind::Donor) == (strand == Strand::Plus);
    if after { Some(boundary) } else { boundary.checked_sub(1) }
}

fn write_calls(
    journal: &mut Journal,
    genome: &Genome,
    calls: &[Call],
    options: &Options,
    state: &mut State,
) -> Result<()> {
    let Some(first) = calls.first() else { return Ok(()) };
    let name = &genome.sequences()[first.site.position.sequence].name;
    for (index, (kind, strand, _)) in TRACKS.into_iter().enumerate() {
        let mut text = String::new();
        let of_track = |call: &&Call| call.site.kind == kind && call.site.position.strand == strand;
        for Call { base, probability, .. } in
            calls.iter().filter(of_track).filter(|call| call.score >= options.min_track)
        {
            let _ = writeln!(text, "{name}\t{base}\t{}\t{}", base + 1, significant(*probability));
        }
        journal.append(index, text)?;
    }
    let mut rows = Vec::new();
    for Call { site, score, probability, .. } in calls.iter().filter(|call| call.score >= options.min_site) {
        if let Some(range) = site.position.dinucleotide(site.kind) {
            rows.push((range.start, range.end, site.kind, site.position.strand, *score, *probability));
        }
    }
    rows.sort_by_key(|&(start, end, kind, strand, score, _)| (start, end, kind, strand, score));
    state.sites += rows.len() as u64;
    let mut text = String::new();
    for (start, end, kind, strand, _, probability) in rows {
        let _ = writeln!(text, "{name}\t{start}\t{end}\t{}\t{:.0}\t{strand}", kind.name(), 1000.0 * probability);
    }
    journal.append(TRACKS.len(), text)
}
