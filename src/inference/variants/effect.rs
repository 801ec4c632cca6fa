//! What one allele does to the splice sites around it.
//!
//! Two haplotypes are read, the reference and the one with the allele; each boundary of one is paired with its place in
//! the other. What a boundary of the reference loses and what one of the other gains are the differences of
//! probabilities. At the ends of an insertion or deletion a boundary has two places in the other haplotype, and the better
//! one counts: a site that survives at the junction is neither lost nor gained.

use std::ops::Range;

use crate::genome::annotation::Strand;
use crate::genome::splice::Kind;
use crate::inference::scan::Positions;
use crate::inference::splice::{Score, SpliceScorer, is_candidate};

/// An allele with the bases that it shares with the reference taken off, and the reference around it.
#[derive(Clone, Debug)]
pub struct Haplotypes {
    reference: Vec<u8>,
    alternate: Vec<u8>,
    /// Where `reference` begins in the sequence.
    from: u32,
    /// Where the changed bases begin in both haplotypes.
    at: usize,
    /// How many bases the allele replaces, and by how many.
    replaced: usize,
    inserted: usize,
}

/// The largest gain or loss of one kind of site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The difference of the probabilities.
    pub score: Score,
    /// The exon's base at the site in the reference, 0-based: a donor's exon ends on it, an acceptor's begins.
    pub base: u32,
}

/// What an allele does on one strand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Gains by kind; a score of 0 where there is none.
    pub gain: [Delta; 2],
    /// Losses by kind.
    pub loss: [Delta; 2],
    /// Positions that could not be scored: their window leaves the sequence or holds an N.
    pub unreadable: usize,
}

impl Effect {
    /// The largest of the four scores.
    pub fn largest(&self) -> Score {
        self.gain.iter().chain(&self.loss).map(|delta| delta.score).max().unwrap_or_default()
    }
}

/// Bases around a variant that scoring within `distance` can need on either side.
pub fn flank(scorer: &SpliceScorer, distance: u32) -> u32 {
    distance + scorer.width() + 2
}

/// The bases that `reference` and `alternate` share at the end and then at the beginning, taken off; returns how many at
/// the beginning.
pub fn trimmed<'a>(mut reference: &'a [u8], mut alternate: &'a [u8]) -> (usize, &'a [u8], &'a [u8]) {
    while let ([left @ .., a], [right @ .., b]) = (reference, alternate)
        && a == b
    {
        (reference, alternate) = (left, right);
    }
    let shared = reference.iter().zip(alternate).take_while(|(a, b)| a == b).count();
    (shared, &reference[shared..], &alternate[shared..])
}

impl Haplotypes {
    /// `context` holds the sequence from base `from` on, upper case; from `at` (in the sequence) on `replaced` bases give
    /// way to `inserted`.
    pub fn new(context: &[u8], from: u32, at: u32, replaced: usize, inserted: &[u8]) -> Self {
        let at = (at - from) as usize;
        let alternate = [&context[..at], inserted, &context[at + replaced..]].concat();
        Self { reference: context.to_vec(), alternate, from, at, replaced, inserted: inserted.len() }
    }

    /// The places in the other haplotype of boundary `b` of the one with `here` changed bases, where the other has
    /// `there`.
    fn places(&self, b: usize, here: usize, there: usize) -> impl Iterator<Item = usize> + use<> {
        let (start, end) = (self.at, self.at + here);
        let first = (b <= start || (b < end && here == there)).then_some(b);
        let second = (b >= end).then(|| b - here + there);
        first.into_iter().chain(second.filter(|second| first != Some(*second)))
    }

    /// The exon's base, in the sequence, at boundary `b` of a haplotype with `here` changed bases; inside an insertion
    /// the last base before it.
    fn exon_base(&self, b: usize, here: usize, kind: Kind, strand: Strand) -> u32 {
        let reference = if b <= self.at {
            b
        } else if b >= self.at + here {
            b - here + self.replaced
        } else {
            self.at + (b - self.at).min(self.replaced)
        };
        let before = (kind == Kind::Donor) == (strand == Strand::Plus);
        (self.from + reference as u32).saturating_sub(u32::from(before))
    }

    fn sides(&self) -> [Side<'_>; 2] {
        [
            Side { bases: &self.reference, here: self.replaced, other: &self.alternate, there: self.inserted },
            Side { bases: &self.alternate, here: self.inserted, other: &self.reference, there: self.replaced },
        ]
    }

    /// The boundaries within `distance` of the changed bases.
    fn near(&self, side: &Side, distance: u32) -> Range<usize> {
        let distance = distance as usize;
        self.at.saturating_sub(distance)..(self.at + side.here + distance).min(side.bases.len()) + 1
    }

    /// Collects what has to be scored on `strand`: pairs of a site of one haplotype and its places in the other. `windows`
    /// gets their windows.
    pub fn questions(
        &self,
        scorer: &SpliceScorer,
        strand: Strand,
        distance: u32,
        positions: Positions,
        windows: &mut Vec<Vec<u8>>,
    ) -> Questions {
        let mut questions = Questions { strand, asked: Vec::new(), unreadable: 0 };
        for (index, side) in self.sides().iter().enumerate() {
            for b in self.near(side, distance) {
                for kind in [Kind::Donor, Kind::Acceptor] {
                    let counts = |bases: &[u8], b| positions == Positions::All || is_candidate(bases, b, kind, strand);
                    if !counts(side.bases, b) {
                        continue;
                    }
                    // A place without its GT or AG has no site: probability 0, and nothing to score.
                    let places: Vec<usize> =
                        self.places(b, side.here, side.there).filter(|&place| counts(side.other, place)).collect();
                    let window = scorer.window(side.bases, b, strand);
                    let others: Option<Vec<Vec<u8>>> =
                        places.iter().map(|&place| scorer.window(side.other, place, strand)).collect();
                    let (Some(window), Some(others)) = (window, others) else {
                        questions.unreadable += 1;
                        continue;
                    };
                    if others.contains(&window) {
                        continue;
                    }
                    let base = self.exon_base(b, side.here, kind, strand);
                    questions.asked.push(Question {
                        is_gain: index == 1,
                        kind,
                        base,
                        first: windows.len(),
                        others: others.len(),
                    });
                    windows.push(window);
                    windows.extend(others);
                }
            }
        }
        questions
    }
}

/// One haplotype beside the other.
struct Side<'a> {
    bases: &'a [u8],
    here: usize,
    other: &'a [u8],
    there: usize,
}

/// What has to be scored for one allele on one strand.
#[derive(Clone, Debug)]
pub struct Questions {
    /// The strand.
    pub strand: Strand,
    asked: Vec<Question>,
    unreadable: usize,
}

/// A site, its window (number `first`), and those of its places in the other haplotype behind it.
#[derive(Clone, Copy, Debug)]
struct Question {
    is_gain: bool,
    kind: Kind,
    base: u32,
    first: usize,
    others: usize,
}

impl Questions {
    /// The effect, from the donor and acceptor probabilities of all windows.
    pub fn effect(&self, scores: &[[f64; 2]]) -> Effect {
        let mut effect = Effect { unreadable: self.unreadable, ..Effect::default() };
        for &Question { is_gain, kind, base, first, others } in &self.asked {
            let probability = |index: usize| scores[index][kind as usize];
            let other = (first + 1..=first + others).map(probability).fold(0.0, f64::max);
            let score = Score::of(probability(first) - other);
            let sides = if is_gain { &mut effect.gain } else { &mut effect.loss };
            if score > sides[kind as usize].score {
                sides[kind as usize] = Delta { score, base };
            }
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_bases_are_taken_off() {
        assert_eq!(trimmed(b"A", b"C"), (0, b"A".as_slice(), b"C".as_slice()));
        assert_eq!(trimmed(b"AT", b"A"), (1, b"T".as_slice(), b"".as_slice()));
        assert_eq!(trimmed(b"A", b"ATT"), (1, b"".as_slice(), b"TT".as_slice()));
        assert_eq!(trimmed(b"CAG", b"CTG"), (1, b"A".as_slice(), b"T".as_slice()));
        assert_eq!(trimmed(b"AA", b"AAA"), (0, b"".as_slice(), b"A".as_slice()));
    }

    #[test]
    fn boundaries_and_their_places() {
        let haplotypes =
            |replaced: usize, inserted: &[u8]| Haplotypes::new(b"ACGTACGTAC", 100, 104, replaced, inserted);
        let places = |h: &Haplotypes, b: usize, alternate: bool| {
            let (here, there) = if alternate { (h.inserted, h.replaced) } else { (h.replaced, h.inserted) };
            h.places(b, here, there).collect::<Vec<_>>()
        };
        let snv = haplotypes(1, b"T");
        assert_eq!(snv.alternate, b"ACGTTCGTAC");
        assert!((0..=10).all(|b| places(&snv, b, false) == [b] && places(&snv, b, true) == [b]));

        let deletion = haplotypes(3, b"");
        assert_eq!(deletion.alternate, b"ACGTTAC");
        let expected: [&[usize]; 11] = [&[0], &[1], &[2], &[3], &[4], &[], &[], &[4], &[5], &[6], &[7]];
        (0..=10).for_each(|b| assert_eq!(places(&deletion, b, false), expected[b]));
        assert_eq!(places(&deletion, 4, true), [4, 7]);
        assert_eq!(places(&deletion, 5, true), [8]);

        let insertion = haplotypes(0, b"GG");
        assert_eq!(insertion.alternate, b"ACGTGGACGTAC");
        assert_eq!(places(&insertion, 4, false), [4, 6]);
        assert!(places(&insertion, 5, true).is_empty());
        assert_eq!((places(&insertion, 4, true), places(&insertion, 6, true)), (vec![4], vec![4]));
        assert_eq!(insertion.exon_base(5, 2, Kind::Acceptor, Strand::Plus), 104);
        assert_eq!(insertion.exon_base(7, 2, Kind::Donor, Strand::Plus), 104);
        assert_eq!(insertion.exon_base(7, 2, Kind::Donor, Strand::Minus), 105);

        let both = haplotypes(2, b"GGG");
        assert_eq!(places(&both, 4, false), [4]);
        assert!(places(&both, 5, false).is_empty());
        assert_eq!(places(&both, 6, false), [7]);
    }
}
