//! Negative examples: places in genes that are no splice site.

use std::collections::HashSet;
use std::ops::Range;

use super::split::Part;
use super::{GeneModel, Kind, Position};
use crate::genome::annotation::Strand;
use crate::genome::twobit::Genome;
use crate::philox::{Philox, Purpose, below_u64};

/// What a negative example looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// Reads GT where a donor does, or AG where an acceptor does.
    Decoy(Kind),
    /// Reads anything.
    Any,
}

/// Gene bodies, strand by strand, from which positions are drawn uniformly.
pub struct Bodies {
    /// Merged spans of transcripts.
    spans: Vec<(usize, Strand, Range<u32>)>,
    /// Length of all spans up to and including each.
    ends: Vec<u64>,
}

impl Bodies {
    /// The bodies of `model`'s transcripts that `keep` accepts by sequence and start.
    pub fn new(model: &GeneModel, keep: impl Fn(usize, u32) -> bool) -> Self {
        let placed = model.transcripts.iter().map(|p| (p.sequence, p.transcript.strand, p.transcript.span()));
        let mut all: Vec<_> = placed.filter(|(sequence, _, range)| keep(*sequence, range.start)).collect();
        all.sort_by_key(|(sequence, strand, range)| (*sequence, *strand, range.start, range.end));
        let mut spans: Vec<(usize, Strand, Range<u32>)> = Vec::new();
        for (sequence, strand, range) in all {
            match spans.last_mut() {
                Some((s, t, last)) if (*s, *t) == (sequence, strand) && range.start <= last.end => {
                    last.end = last.end.max(range.end);
                }
                _ => spans.push((sequence, strand, range)),
            }
        }
        let mut total = 0;
        let length = |(_, _, range): &(usize, Strand, Range<u32>)| {
            total += u64::from(range.end - range.start);
            total
        };
        let ends = spans.iter().map(length).collect();
        Self { spans, ends }
    }

    /// Sequence, strand and plus-strand range of each, sorted; those of a strand do not touch.
    pub fn into_spans(self) -> Vec<(usize, Strand, Range<u32>)> {
        self.spans
    }

    /// Bases in all bodies together; each strand counts.
    pub fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The position number `index` (below [`Bodies::total`]).
    fn position(&self, index: u64) -> Position {
        let at = self.ends.partition_point(|&end| end <= index);
        let (sequence, strand, range) = &self.spans[at];
        Position { sequence: *sequence, boundary: range.end - (self.ends[at] - index) as u32, strand: *strand }
    }
}

/// Draws negatives for one part.
pub struct Sampler<'a> {
    /// The genome.
    pub genome: &'a Genome,
    /// Where to draw from.
    pub bodies: &'a Bodies,
    /// Positions that are splice sites in some transcript, or were drawn before; draws are added.
    pub taken: &'a mut HashSet<Position>,
    /// Window width in bases.
    pub width: u32,
    /// The seed of all draws.
    pub seed: u64,
}

impl Sampler<'_> {
    /// Draws up to `count` different positions of the given likeness whose window is complete, without N and accepted
    /// by `accept`. Fewer come back where the bodies are exhausted (as judged by 500 draws for each that is wanted).
    pub fn draw(
        &mut self,
        count: usize,
        likeness: Likeness,
        part: Part,
        mut accept: impl FnMut(&[u8]) -> bool,
    ) -> Vec<(Position, Vec<u8>)> {
        let stream = match likeness {
            Likeness::Decoy(kind) => kind as u32,
            Likeness::Any => 2,
        };
        let philox = Philox::of(self.seed, 0x100 + 16 * part as u32 + stream, Purpose::Splice);
        let mut drawn = Vec::with_capacity(count);
        if self.bodies.total() == 0 {
            return drawn;
        }
        let mut window = Vec::new();
        for attempt in 0..count as u64 * 500 + 10_000 {
            if drawn.len() == count {
                break;
            }
            let [a, b, ..] = philox.block(attempt);
            let position = self.bodies.position(below_u64([a, b], self.bodies.total()));
            if self.taken.contains(&position) || !position.window(self.genome, self.width, &mut window) {
                continue;
            }
            if looks_like(&window, likeness) && accept(&window) {
                self.taken.insert(position);
                drawn.push((position, window.clone()));
            }
        }
        drawn
    }
}

/// Whether the bases at the middle of `window` fit.
fn looks_like(window: &[u8], likeness: Likeness) -> bool {
    let middle = window.len() / 2;
    match likeness {
        Likeness::Decoy(Kind::Donor) => window[middle..].starts_with(b"GT"),
        Likeness::Decoy(Kind::Acceptor) => window[..middle].ends_with(b"AG"),
        Likeness::Any => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_base_of_the_bodies_has_one_number() {
        let spans = vec![(0, Strand::Plus, 10..13), (0, Strand::Minus, 5..6), (3, Strand::Plus, 0..2)];
        let bodies = Bodies { spans, ends: vec![3, 4, 6] };
        let positions: Vec<_> =
            (0..bodies.total()).map(|i| bodies.position(i)).map(|p| (p.sequence, p.boundary)).collect();
        assert_eq!(positions, [(0, 10), (0, 11), (0, 12), (0, 5), (3, 0), (3, 1)]);
    }

    #[test]
    fn likeness_is_judged_at_the_middle() {
        assert!(looks_like(b"CCGTAA"[..4].into(), Likeness::Decoy(Kind::Donor)));
        assert!(!looks_like(b"GTCC", Likeness::Decoy(Kind::Donor)));
        assert!(looks_like(b"AGCC", Likeness::Decoy(Kind::Acceptor)));
        assert!(!looks_like(b"CAGC", Likeness::Decoy(Kind::Acceptor)));
    }
}
