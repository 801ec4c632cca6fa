//! Records in work: what has to be scored for their alleles, and then what came of it.

use super::Annotator;
use super::effect::{Effect, Questions};
use super::genes::Gene;
use super::vcf::Record;
use crate::Result;
use crate::genome::annotation::Strand;

/// Lines, their bytes and their alleles that are worked on at a time, and after which the work can be gone on with. Windows are
/// scored as soon as there are enough of them, in the middle of a line perhaps: memory does not grow with a line's alleles beyond
/// what each allele says.
const LINES: usize = 4096;
const BYTES: usize = 32 << 20;
const ALLELES: usize = 1 << 16;

/// An alternate allele: for each gene or strand what was asked and what was answered, or why it is skipped.
pub(super) type Questioned<T> = Result<Vec<(Option<Gene>, T)>, &'static str>;

/// A line on its way to the output.
pub(super) struct Line {
    /// As it was read.
    pub(super) bytes: Vec<u8>,
    /// What it says; `None` for a line that is no record.
    pub(super) record: Option<Record>,
    /// By alternate allele; behind these the questions that are still open.
    pub(super) effects: Vec<Questioned<(Strand, Effect)>>,
    open: Vec<Questioned<Questions>>,
}

/// Lines that are worked on together.
#[derive(Default)]
pub(super) struct Round {
    pub(super) lines: Vec<Line>,
    /// The first line with open questions.
    first: usize,
    windows: Vec<Vec<u8>>,
    asked: usize,
    size: usize,
    alleles: usize,
}

impl Round {
    /// Whether another line would be too much.
    pub(super) fn is_full(&self, most_windows: usize) -> bool {
        let windows = self.asked + self.windows.len();
        self.lines.len() >= LINES || self.size >= BYTES || self.alleles >= ALLELES || windows >= most_windows
    }

    /// Adds a line.
    pub(super) fn push(&mut self, bytes: Vec<u8>, record: Option<Record>) {
        self.size += bytes.len();
        self.lines.push(Line { bytes, record, effects: Vec::new(), open: Vec::new() });
    }

    /// Adds an allele of the line added last; `ask` adds its windows to those given.
    pub(super) fn allele(&mut self, ask: impl FnOnce(&Record, &mut Vec<Vec<u8>>) -> Questioned<Questions>) {
        let Some(Line { record: Some(record), open, .. }) = self.lines.last_mut() else { return };
        self.alleles += 1;
        open.push(ask(record, &mut self.windows));
    }

    /// Answers what is open, if there are at least `windows` to score.
    pub(super) fn answer(&mut self, annotator: &Annotator<'_>, windows: usize, read: &mut u64) -> Result<()> {
        if self.windows.len() < windows {
            return Ok(());
        }
        let scores = annotator.scores(&self.windows, read)?;
        self.asked += self.windows.len();
        self.windows.clear();
        for line in &mut self.lines[self.first..] {
            let effects = |asked: Vec<(Option<Gene>, Questions)>| {
                let effect = |(gene, asked): (_, Questions)| (gene, (asked.strand, asked.effect(&scores)));
                asked.into_iter().map(effect).collect()
            };
            line.effects.extend(line.open.drain(..).map(|asked| asked.map(effects)));
        }
        self.first = self.lines.len().saturating_sub(1);
        Ok(())
    }
}
