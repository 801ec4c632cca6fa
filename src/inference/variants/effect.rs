//! What one allele does to the splice sites around it.
//!
//! Two haplotypes are read, the reference and the one with the allele; each boundary of one is paired with its place in
//! the other. What a boundary of the reference loses and what one of the other gains are the differences of
//! probabilities. At the ends of an insertion or deletion a boundary has two places in the other haplotype, and the better
//! one counts: a site that survives at the junction is neither lost nor gained.
//!
//! In a repeat the same haplotype can be written in several ways (`CAA` to `CA` or `AAT` to `AT`). None is the right one, so all
//! count: a boundary has the places that any of them gives it ([`Change`]), and the effect does not depend on the record.

use std::ops::Range;

use crate::genome::annotation::Strand;
use crate::genome::splice::Kind;
use crate::genome::twobit::Genome;
use crate::inference::scan::Positions;
use crate::inference::splice::{Score, SpliceScorer, is_candidate};

/// What an allele changes, in every way in which it can be written: at `first`, the left-most, `replaced` bases give way to
/// `inserted`, and bases of the same number at every place up to `last` make the same haplotype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The left-most place, 0-based.
    pub first: u32,
    /// The right-most place; `first` unless bases are only inserted or only deleted, in a repeat of them.
    pub last: u32,
    /// How many bases give way.
    pub replaced: usize,
    /// What takes their place at `first`.
    pub inserted: Vec<u8>,
}

/// The repeats through which an insertion or deletion is followed, in bases.
pub const LONGEST_REPEAT: u32 = 10_000;

impl Change {
    /// From one way to write it: at base `at`, `replaced` bases give way to `inserted`; the two share no base at either end
    /// ([`trimmed`]). Unknown bases end a repeat. `None` for a repeat of more than [`LONGEST_REPEAT`] bases.
    pub fn new(genome: &Genome, sequence: usize, at: u32, replaced: usize, inserted: &[u8]) -> Option<Self> {
        let mut change = Self { first: at, last: at, replaced, inserted: inserted.to_vec() };
        if (replaced == 0) == inserted.is_empty() {
            return Some(change);
        }
        let from = at.saturating_sub(LONGEST_REPEAT + 1);
        let to = at.saturating_add(replaced as u32).saturating_add(LONGEST_REPEAT + 1);
        let mut bases = Vec::new();
        genome.decode(sequence, from..to.min(genome.sequences()[sequence].length), &mut bases);
        let at = (at - from) as usize;
        let unit = if replaced > 0 { bases[at..at + replaced].to_vec() } else { inserted.to_vec() };
        let period = unit.len();
        // Moved by n bases, the change takes its unit from n bases farther on in the repeat.
        let left = (0..at).take_while(|&n| bases[at - 1 - n] == unit[period - 1 - n % period]).count();
        let behind = &bases[at + replaced..];
        let right = behind.iter().zip(unit.iter().cycle()).take_while(|(base, unit)| base == unit).count();
        if left + right > LONGEST_REPEAT as usize {
            return None;
        }
        change.first -= left as u32;
        change.last += right as u32;
        change.inserted.rotate_right(left % inserted.len().max(1));
        Some(change)
    }

    /// The bases of the sequence of which this may be a change: those replaced, and where some are only inserted the one before
    /// and the one behind, in every way to write it.
    pub fn bases(&self) -> Range<u32> {
        self.first.saturating_sub(u32::from(self.replaced == 0))..self.last.saturating_add(self.replaced.max(1) as u32)
    }
}

/// A changed haplotype beside the reference.
#[derive(Clone, Debug)]
pub struct Haplotypes {
    reference: Vec<u8>,
    alternate: Vec<u8>,
    /// Where `reference` begins in the sequence.
    from: u32,
    /// Where the changed bases begin in both haplotypes, at the left-most and at the right-most.
    first: usize,
    last: usize,
    /// How many bases give way, and to how many.
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
    /// `context` holds the sequence from base `from` on, upper case, with all of `change`.
    pub fn new(context: &[u8], from: u32, change: &Change) -> Self {
        let [first, last] = [change.first, change.last].map(|base| (base - from) as usize);
        let Change { replaced, inserted, .. } = change;
        let alternate = [&context[..first], inserted, &context[first + replaced..]].concat();
        let inserted = inserted.len();
        Self { reference: context.to_vec(), alternate, from, first, last, replaced: *replaced, inserted }
    }

    /// The places in the other haplotype of boundary `b` of the one with `here` changed bases, where the other has
    /// `there`.
    fn places(&self, b: usize, here: usize, there: usize) -> impl Iterator<Item = usize> + use<> {
        let Self { first, last, .. } = *self;
        let before = (b <= last || (b < last + here && here == there)).then_some(b);
        let behind = (b >= first + here).then(|| b - here + there);
        before.into_iter().chain(behind.filter(|behind| before != Some(*behind)))
    }

    /// The exon's base, in the sequence, at boundary `b` of a haplotype with `here` changed bases, as written at the left-most
    /// place; inside an insertion the last base before it.
    fn exon_base(&self, b: usize, here: usize, kind: Kind, strand: Strand) -> u32 {
        let reference = if here == self.replaced || b <= self.first {
            b
        } else if b >= self.first + here {
            b - here + self.replaced
        } else {
            self.first + (b - self.first).min(self.replaced)
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

    /// The boundaries within `distance` of the changed bases, wherever they are written.
    fn near(&self, side: &Side, distance: u32) -> Range<usize> {
        let distance = distance as usize;
        self.first.saturating_sub(distance)..(self.last + side.here + distance).min(side.bases.len()) + 1
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
    fn sites_are_compared_up_to_the_distance_and_no_farther() {
        let near = |first, last, replaced, inserted: &[u8], distance| {
            let change = Change { first, last, replaced, inserted: inserted.to_vec() };
            let haplotypes = Haplotypes::new(b"ACGTACGTAC", 100, &change);
            haplotypes.sides().map(|side| haplotypes.near(&side, distance))
        };
        assert_eq!(near(104, 104, 1, b"T", 3), [1..9, 1..9]);
        assert_eq!(near(104, 104, 0, b"TTT", 2), [2..7, 2..10]);
        assert_eq!(near(104, 106, 2, b"", 1), [3..10, 3..8]);
        assert_eq!(near(104, 104, 1, b"T", 50), [0..11, 0..11]);
    }

    #[test]
    fn an_insertion_has_a_base_on_either_side_and_a_repeat_has_all_its_bases() {
        let bases = |first, last, replaced| Change { first, last, replaced, inserted: Vec::new() }.bases();
        assert_eq!((bases(4, 4, 1), bases(4, 4, 0), bases(0, 0, 0)), (4..5, 3..5, 0..1));
        assert_eq!((bases(4, 6, 2), bases(4, 6, 0)), (4..8, 3..7));
    }

    #[test]
    fn boundaries_and_their_places() {
        let haplotypes = |replaced: usize, inserted: &[u8]| {
            let change = Change { first: 104, last: 104, replaced, inserted: inserted.to_vec() };
            Haplotypes::new(b"ACGTACGTAC", 100, &change)
        };
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
