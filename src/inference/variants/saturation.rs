//! Every single-base change of a region: a table and a picture.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::effect::Effect;
use super::{Annotator, deltas};
use crate::genome::annotation::Strand;
use crate::genome::region::Region;
use crate::inference::splice::DECIMALS;
use crate::lossy;
use crate::output::{AtomicFile, write_atomic};
use crate::report::format::count;
use crate::report::{HeatMap, Page, Progress};
use crate::{Error, Result};

/// The longest region, in bases, that a picture shows, and the bases of one of its strips.
const LONGEST_PICTURE: u32 = 4000;
const STRIP: usize = 100;

const BASES: [u8; 4] = *b"ACGT";

/// What was scored.
#[derive(Clone, Debug, Default, Serialize)]
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

impl Annotator<'_> {
    /// Scores every single-base change of `region` on both strands, or with genes on the strands of those over it. Writes `out`, a TSV file, and beside it, for a region
    /// of at most 4,000 bases, a page with the same name and `.html`.
    ///
    /// # Errors
    /// Those of the device and of writing.
    pub fn saturate(&self, region: &Region, out: &Path) -> Result<Summary> {
        /// Bases at a time.
        const ROUND: u32 = 256;
        let name = &self.genome.sequences()[region.index].name;
        let mut file = AtomicFile::create(out)?;
        let genes = if self.genes.is_some() { "\tgenes" } else { "" };
        let header = "sequence\tposition\tref\talt\tstrand\tDS_AG\tDS_AL\tDS_DG\tDS_DL\tP_AG\tP_AL\tP_DG\tP_DL";
        file.write_all(format!("{header}{genes}\n").as_bytes()).map_err(Error::io("write", out))?;
        let length = (region.range.end - region.range.start) as usize;
        let has_picture = length <= LONGEST_PICTURE as usize;
        let empty = || Matrix(vec![vec![f64::NAN; if has_picture { length } else { 0 }]; 4]);
        let mut matrices = [empty(), empty()];
        let mut progress = Progress::new("saturation", 3 * length as u64, self.options.quiet).unit("changes");
        let started = Instant::now();
        let mut summary = Summary { files: vec![out.to_owned()], ..Summary::default() };
        let mut reference = Vec::new();
        for first in region.range.clone().step_by(ROUND as usize) {
            let round = first..region.range.end.min(first + ROUND);
            self.genome.decode(region.index, round.clone(), &mut reference);
            let (mut windows, mut asked) = (Vec::new(), Vec::new());
            for (at, &base) in round.zip(&reference) {
                let strands = self.strands(region.index, at);
                for (row, alternate) in BASES.into_iter().enumerate().filter(|(_, alternate)| *alternate != base) {
                    let haplotypes = self.haplotypes(region.index, at, 1, &[alternate]);
                    let (distance, positions) = (self.options.distance, self.options.positions);
                    let ask = |(strand, genes): &(Strand, Option<String>)| {
                        let questions = haplotypes.questions(self.scorer, *strand, distance, positions, &mut windows);
                        (questions, genes.clone())
                    };
                    asked.push((at, base, row, strands.iter().map(ask).collect::<Vec<_>>()));
                }
            }
            let scores = self.scores(&windows, &mut summary.windows)?;
            let mut text = String::new();
            for (at, base, row, of_strands) in asked {
                summary.changes += 1;
                summary.no_gene += u64::from(of_strands.is_empty());
                let mut is_unreadable = false;
                for (questions, genes) in of_strands {
                    let (strand, effect) = (questions.strand, questions.effect(&scores));
                    if base == b'N' || (effect.unreadable > 0 && effect.largest().0 == 0) {
                        is_unreadable = true;
                        continue;
                    }
                    table_row(&mut text, name, at, (base, BASES[row]), strand, &effect);
                    text += &genes.map_or("\n".into(), |genes| format!("\t{genes}\n"));
                    if has_picture {
                        let column = (at - region.range.start) as usize;
                        matrices[strand as usize].0[row][column] = strongest(&effect);
                    }
                }
                summary.unreadable += u64::from(is_unreadable);
            }
            file.write_all(text.as_bytes()).map_err(Error::io("write", out))?;
            progress.update(summary.changes, summary.changes, "");
        }
        file.commit()?;
        if has_picture {
            let path = out.with_extension("html");
            write_atomic(&path, self.page(region, &matrices))?;
            summary.files.push(path);
        } else {
            tracing::warn!("no picture: it shows at most {LONGEST_PICTURE} bases");
        }
        summary.seconds = started.elapsed().as_secs_f64();
        summary.changes_per_second = summary.changes as f64 / summary.seconds.max(1e-9);
        progress.finish("");
        Ok(summary)
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

    fn page(&self, region: &Region, matrices: &[Matrix; 2]) -> String {
        let place = region.label(self.genome, Default::default());
        let mut page = Page::new(&format!("Every single-base change of {place}"));
        page.lead(
            "Each cell is the strongest change in the probability of a splice site that the base below it, in place of the \
             reference's, makes on this strand: orange for a site gained, blue for one lost. Blank: not scored, because it is the \
             reference's own base, an N is near, or no gene lies there.",
        );
        let mut reference = Vec::new();
        self.genome.decode(region.index, region.range.clone(), &mut reference);
        let rows = BASES.map(|base| char::from(base).to_string());
        for (strand, matrix) in [Strand::Plus, Strand::Minus].into_iter().zip(matrices) {
            page.section(&format!("Strand {strand}"));
            for start in (0..reference.len()).step_by(STRIP) {
                let columns = start..reference.len().min(start + STRIP);
                let first = u64::from(region.range.start) + start as u64 + 1;
                let last = u64::from(region.range.start) + columns.end as u64;
                let title = format!("{} to {}", count(first), count(last));
                let mut map = HeatMap::new(&title, &rows).numbered(first).legend("site lost", "gained");
                for column in columns {
                    let values = [0, 1, 2, 3].map(|row| matrix.0[row][column]);
                    map = map.column(&char::from(reference[column]).to_string(), &values);
                }
                page.figure(&map.render(), "Below: the reference on the plus strand, and positions as in the table.");
            }
        }
        page.footer(concat!("helixgrad ", env!("CARGO_PKG_VERSION"), " variants --saturation"));
        page.render()
    }
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

/// The change furthest from 0: a gain's score, or minus a loss's.
fn strongest(effect: &Effect) -> f64 {
    let largest =
        |deltas: &[super::effect::Delta; 2]| deltas.iter().map(|delta| delta.score.value()).fold(0.0, f64::max);
    let (gain, loss) = (largest(&effect.gain), largest(&effect.loss));
    if gain >= loss { gain } else { -loss }
}
