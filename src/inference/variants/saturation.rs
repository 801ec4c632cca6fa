//! Every single-base change of a region: a table and a picture.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::effect::{Change, Effect};
use super::{Annotator, deltas};
use crate::genome::annotation::Strand;
use crate::genome::region::Region;
use crate::inference::merge::Shards;
use crate::inference::parts::Parts;
use crate::inference::shard::Outcome;
use crate::inference::splice::DECIMALS;
use crate::lossy;
use crate::report::format::count;
use crate::report::{HeatMap, Page, Progress};
use crate::train::interrupt;
use crate::{Error, Result};

/// The longest region, in bases, that a picture shows, and the bases of one of its strips.
const LONGEST_PICTURE: u32 = 4000;
const STRIP: usize = 100;

/// Bases that are worked on at a time, and after which the work can be gone on with.
const ROUND: u32 = 64;

const BASES: [u8; 4] = *b"ACGT";

const HEADER: &str = "sequence\tposition\tref\talt\tstrand\tDS_AG\tDS_AL\tDS_DG\tDS_DL\tP_AG\tP_AL\tP_DG\tP_DL";

/// What was scored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Single-base changes.
    pub changes: u64,
    /// Those on N, and those whose surroundings cannot be read.
    pub unreadable: u64,
    /// Those that lie in no gene, where genes are given.
    pub no_gene: u64,
    /// Windows that were read.
    pub windows: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Changes a second.
    pub changes_per_second: f64,
    /// Files written.
    #[serde(serialize_with = "lossy::serialize")]
    pub files: Vec<PathBuf>,
}

/// The strongest change of each single-base change on one strand, for the picture: `[base][position]`, positive where a
/// site is gained, negative where one is lost, not a number for the reference's own base.
struct Matrix(Vec<Vec<f64>>);

/// What shards of this work say that they are of.
pub const COMMAND: &str = "variants --saturation";

/// What the last step has to know besides the table.
#[derive(Debug, Serialize, Deserialize)]
struct Picture {
    place: String,
    /// The first base, from 0.
    start: u32,
    /// The region's bases on the plus strand; none where it is too long for a picture.
    reference: String,
    has_genes: bool,
    /// What is told of the annotation beside the summary.
    told: Option<Value>,
}

/// How far a region is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    rounds: usize,
    summary: Summary,
}

/// Where the page of the table `out` lies.
///
/// # Errors
/// [`Error::Usage`] where the table has that name, or another page has it.
pub fn page_path(out: &Path) -> Result<PathBuf> {
    let path = out.with_extension("html");
    let is_other = || fs::read(&path).is_ok_and(|page| !String::from_utf8_lossy(&page).contains(MADE_BY));
    if path == out || (path.is_file() && is_other()) {
        let found = if path == out { "a page for a table" } else { "a page of another kind" };
        return Err(Error::usage(
            format!("{found} has the name {}, which the picture beside the table gets", path.display()),
            "give --out another name, that ends with .tsv",
        ));
    }
    Ok(path)
}

/// What the last line of a page has, after the version.
const MADE_BY: &str = " variants --saturation";

impl Annotator<'_> {
    /// Scores every single-base change of `region` on both strands, or with genes on the strands of those over it. Writes
    /// `out`, a TSV file, and beside it, for a region of at most 4,000 bases, a page with the same name and `.html`. Killed, it
    /// goes on from the last state that was saved, to the same bytes ([`super::Options::resume`]).
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C, with everything saved; those of [`super::super::journal::Journal::open`], of the device and of writing.
    pub fn saturate(&self, region: &Region, out: &Path) -> Result<Outcome<Summary>> {
        let picture = Picture::new(self, region)?;
        let size = self.round_bases();
        let starts: Vec<u32> = region.range.clone().step_by(size as usize).collect();
        let end = |first: u32| region.range.end.min(first.saturating_add(size));
        let work: Vec<u64> = starts.iter().map(|&first| u64::from(end(first) - first)).collect();
        let report = self.options.shard.map(|shard| shard.report(out, "bases", &work)).transpose()?;
        let what = json!({ "saturation": picture.place, "round": size });
        let Some((mut journal, state)) = self.journal::<State>(out, COMMAND, what)? else {
            return report.map(Outcome::Shard).ok_or_else(|| Error::Failed("no journal".into()));
        };
        let mut state = match state {
            Some(state) => state,
            None => {
                let genes = if self.genes.is_some() { "\tgenes" } else { "" };
                if self.writes_header() {
                    journal.append(0, format!("{HEADER}{genes}\n"))?;
                }
                State::default()
            }
        };
        let rounds = self.options.shard.map_or(0..work.len(), |shard| shard.range(&work));
        let total = 3 * work[rounds.clone()].iter().sum::<u64>();
        let (changes_before, seconds_before, started) = (state.summary.changes, state.summary.seconds, Instant::now());
        let progress = Progress::new("saturation", total, self.options.quiet).unit("changes");
        let mut progress = progress.resume_at(changes_before);
        let saving = interrupt::saving();
        for &first in starts[rounds].iter().skip(state.rounds) {
            let before = state.clone();
            let rows = self.round(region.index, first..end(first), &mut state.summary);
            let rows = journal.save_if_interrupted(&before, rows)?;
            journal.append(0, rows)?;
            state.rounds += 1;
            let summary = &mut state.summary;
            summary.seconds = seconds_before + started.elapsed().as_secs_f64();
            progress.update(summary.changes, summary.changes - changes_before, "");
            if interrupt::requested() {
                journal.save(&state)?;
                progress.finish("interrupted");
                let done = state.summary.changes;
                return Err(Error::Interrupted(format!(" after {done} changes; go on with --resume")));
            }
            if journal.is_due() {
                journal.save(&state)?;
            }
        }
        if let Some(report) = report {
            journal.finish(&state, &picture)?;
            progress.finish("");
            return Ok(Outcome::Shard(report));
        }
        journal.save(&state)?;
        drop(saving);
        let summary = picture.publish(&journal.parts(), state.summary, out)?;
        journal.remove()?;
        progress.finish("");
        Ok(Outcome::Whole(summary))
    }

    /// Bases at a time: each has three changes, and each of those reads some windows of its own, about half of the positions near it.
    fn round_bases(&self) -> u32 {
        let windows = 3 * self.options.distance.max(1);
        (self.scorer.round_windows() as u32 / windows).clamp(1, ROUND)
    }

    /// The rows of the table for the bases `round`.
    fn round(&self, sequence: usize, round: Range<u32>, summary: &mut Summary) -> Result<String> {
        let name = &self.genome.sequences()[sequence].name;
        let mut reference = Vec::new();
        self.genome.decode(sequence, round.clone(), &mut reference);
        let (mut windows, mut asked) = (Vec::new(), Vec::new());
        for (at, &base) in round.zip(&reference) {
            let strands = self.strands(sequence, at);
            for alternate in BASES.into_iter().filter(|&alternate| alternate != base) {
                let change = Change { first: at, last: at, replaced: 1, inserted: vec![alternate] };
                let haplotypes = self.haplotypes(sequence, &change);
                let (distance, positions) = (self.options.distance, self.options.positions);
                let ask = |(strand, genes): &(Strand, Option<String>)| {
                    let questions = haplotypes.questions(self.scorer, *strand, distance, positions, &mut windows);
                    (questions, genes.clone())
                };
                asked.push((at, base, alternate, strands.iter().map(ask).collect::<Vec<_>>()));
            }
        }
        let scores = self.scores(&windows, &mut summary.windows)?;
        self.genome.check()?;
        let mut text = String::new();
        for (at, base, alternate, of_strands) in asked {
            summary.changes += 1;
            summary.no_gene += u64::from(of_strands.is_empty());
            let mut is_unreadable = false;
            for (questions, genes) in of_strands {
                let (strand, effect) = (questions.strand, questions.effect(&scores));
                if base == b'N' || (effect.unreadable > 0 && effect.largest().0 == 0) {
                    is_unreadable = true;
                    continue;
                }
                table_row(&mut text, name, at, (base, alternate), strand, &effect);
                text += &genes.map_or("\n".into(), |genes| format!("\t{genes}\n"));
            }
            summary.unreadable += u64::from(is_unreadable);
        }
        Ok(text)
    }

    /// On which strands a change at base `at` is scored, and the genes there where genes are given.
    fn strands(&self, sequence: usize, at: u32) -> Vec<(Strand, Option<String>)> {
        let both = [Strand::Plus, Strand::Minus].into_iter();
        let Some(genes) = self.genes else { return both.map(|strand| (strand, None)).collect() };
        let over = genes.over(sequence, &(at..at + 1));
        let named = |strand| {
            let names: Vec<&str> = over.iter().filter(|gene| gene.strand == strand).map(|gene| &*gene.name).collect();
            (!names.is_empty()).then(|| (strand, Some(names.join(","))))
        };
        both.filter_map(named).collect()
    }
}

impl Picture {
    fn new(annotator: &Annotator<'_>, region: &Region) -> Result<Self> {
        let length = region.range.end - region.range.start;
        let mut reference = Vec::new();
        if length <= LONGEST_PICTURE {
            annotator.genome.decode(region.index, region.range.clone(), &mut reference);
            annotator.genome.check()?;
        }
        Ok(Self {
            place: region.label(annotator.genome, Default::default()),
            start: region.range.start,
            reference: String::from_utf8_lossy(&reference).into_owned(),
            has_genes: annotator.genes.is_some(),
            told: annotator.options.told.clone(),
        })
    }

    /// Gives the table its name, and draws the picture beside it; may be done again after a kill.
    fn publish(&self, parts: &Parts, mut summary: Summary, out: &Path) -> Result<Summary> {
        summary.files = vec![out.to_owned()];
        if self.reference.is_empty() {
            tracing::warn!("no picture: it shows at most {LONGEST_PICTURE} bases");
        } else {
            let path = page_path(out)?;
            parts.write(&path, self.page(&self.matrices(parts)?).as_bytes())?;
            summary.files.push(path);
        }
        parts.publish(0, out, b"")?;
        summary.changes_per_second = summary.changes as f64 / summary.seconds.max(1e-9);
        Ok(summary)
    }

    fn page(&self, matrices: &[Matrix; 2]) -> String {
        let mut page = Page::new(&format!("Every single-base change of {}", self.place));
        page.lead(
            "Each cell is the strongest change in the probability of a splice site that the base below it, in place of the \
             reference's, makes on this strand: orange for a site gained, blue for one lost. Blank: not scored, because it is the \
             reference's own base, an N is near, or no gene lies there.",
        );
        let reference = self.reference.as_bytes();
        let rows = BASES.map(|base| char::from(base).to_string());
        for (strand, matrix) in [Strand::Plus, Strand::Minus].into_iter().zip(matrices) {
            page.section(&format!("Strand {strand}"));
            if matrix.0.iter().flatten().all(|value| value.is_nan()) {
                let why = if self.has_genes { "no gene lies on it here" } else { "an N is near everywhere" };
                page.paragraph(&format!("Nothing was scored on this strand: {why}."));
                continue;
            }
            for start in (0..reference.len()).step_by(STRIP) {
                let columns = start..reference.len().min(start + STRIP);
                let first = u64::from(self.start) + start as u64 + 1;
                let last = u64::from(self.start) + columns.end as u64;
                let title = format!("{} to {}", count(first), count(last));
                let mut map = HeatMap::new(&title, &rows).numbered(first).legend("site lost", "gained");
                for column in columns {
                    let values = [0, 1, 2, 3].map(|row| matrix.0[row][column]);
                    map = map.column(&char::from(reference[column]).to_string(), &values);
                }
                page.figure(&map.render(), "Below: the reference on the plus strand, and positions as in the table.");
            }
        }
        page.footer(&format!("helixgrad {}{MADE_BY}", env!("CARGO_PKG_VERSION")));
        page.render()
    }

    /// What the picture shows of the table: of each row the change furthest from 0, a gain's score or minus a loss's.
    fn matrices(&self, parts: &Parts) -> Result<[Matrix; 2]> {
        let length = self.reference.len();
        let empty = || Matrix(vec![vec![f64::NAN; length]; 4]);
        let mut matrices = [empty(), empty()];
        let table = &parts.pieces(0)[0];
        let mut text = String::new();
        parts.read(0).read_to_string(&mut text).map_err(Error::io("read", table))?;
        for (number, line) in (1..).zip(text.lines()).skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            let place = |columns: &[&str]| {
                let at = columns.get(1)?.parse::<usize>().ok()?.checked_sub(self.start as usize + 1)?;
                let row = BASES.iter().position(|base| columns.get(3).is_some_and(|of| of.as_bytes() == [*base]))?;
                Some((usize::from(*columns.get(4)? == "-"), row, at)).filter(|_| at < length)
            };
            let scores: Vec<f64> = columns.iter().skip(5).take(4).filter_map(|score| score.parse().ok()).collect();
            let (Some((strand, row, at)), &[acceptor_gain, acceptor_loss, donor_gain, donor_loss]) =
                (place(&columns), &scores[..])
            else {
                let found = "no row of ours: the working file is damaged";
                return Err(Error::input(table, format!("line {number}"), found, "remove the folder and begin anew"));
            };
            let (gain, loss) = (acceptor_gain.max(donor_gain), acceptor_loss.max(donor_loss));
            matrices[strand].0[row][at] = if gain >= loss { gain } else { -loss };
        }
        Ok(matrices)
    }
}

/// Puts the shards of a saturation together in the table `out` and the page beside it: the bytes that the whole work would have written.
/// Also returns what is told of the annotation.
///
/// # Errors
/// Those of [`page_path`], of reading and of writing.
pub fn merge(shards: &Shards, out: &Path) -> Result<(Summary, Option<Value>)> {
    let picture: Picture = shards.ending()?;
    let mut all = Summary::default();
    for state in shards.states::<State>() {
        let State { summary, .. } = state?;
        all.changes += summary.changes;
        all.unreadable += summary.unreadable;
        all.no_gene += summary.no_gene;
        all.windows += summary.windows;
        all.seconds += summary.seconds;
    }
    Ok((picture.publish(&shards.parts(1)?, all, out)?, picture.told))
}

fn table_row(text: &mut String, name: &str, at: u32, (base, alternate): (u8, u8), strand: Strand, effect: &Effect) {
    let (base, alternate) = (char::from(base), char::from(alternate));
    let _ = write!(text, "{name}\t{}\t{base}\t{alternate}\t{strand}", at + 1);
    let deltas = deltas(effect);
    deltas.iter().for_each(|delta| {
        let _ = write!(text, "\t{:.DECIMALS$}", delta.score.value());
    });
    deltas.iter().for_each(|delta| {
        let _ = match delta.score.0 {
            0 => write!(text, "\t."),
            _ => write!(text, "\t{}", delta.base + 1),
        };
    });
}
