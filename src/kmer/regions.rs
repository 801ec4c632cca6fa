//! Parts of a genome: what evaluation holds out and training keeps away from.

use std::ops::Range;

use crate::Result;
use crate::genome::alias::Aliases;
use crate::genome::region::Region;
use crate::genome::twobit::Genome;

/// Ranges of a genome's sequences, 0-based and half-open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    /// By sequence index and start, disjoint, not touching, none empty.
    list: Vec<(usize, Range<u32>)>,
}

impl Regions {
    /// The union of `ranges`, each of the sequence with that index. Empty ranges vanish.
    pub fn new(mut ranges: Vec<(usize, Range<u32>)>) -> Self {
        ranges.retain(|(_, range)| !range.is_empty());
        ranges.sort_unstable_by_key(|(sequence, range)| (*sequence, range.start));
        let mut list: Vec<(usize, Range<u32>)> = Vec::with_capacity(ranges.len());
        for (sequence, range) in ranges {
            match list.last_mut() {
                Some((last, before)) if *last == sequence && range.start <= before.end => {
                    before.end = before.end.max(range.end);
                }
                _ => list.push((sequence, range)),
            }
        }
        Self { list }
    }

    /// The regions of `genome` that `texts` name, each as [`Region::parse`] understands it: `NAME`, `NAME:START` or
    /// `NAME:START-END`.
    ///
    /// # Errors
    /// As [`Region::parse`].
    pub fn parse<S: AsRef<str>>(genome: &Genome, texts: &[S]) -> Result<Self> {
        Self::parse_with(genome, &Aliases::default(), texts)
    }

    /// As [`Regions::parse`], of sequences that may be called by other names.
    ///
    /// # Errors
    /// As [`Regions::parse`].
    pub fn parse_with<S: AsRef<str>>(genome: &Genome, aliases: &Aliases, texts: &[S]) -> Result<Self> {
        let parse =
            |text: &S| Region::parse_with(genome, aliases, text.as_ref()).map(|region| (region.index, region.range));
        texts.iter().map(parse).collect::<Result<_>>().map(Self::new)
    }

    /// The ranges: by sequence index and start, disjoint.
    pub fn ranges(&self) -> &[(usize, Range<u32>)] {
        &self.list
    }

    /// Bases in all ranges together.
    pub fn bases(&self) -> u64 {
        self.list.iter().map(|(_, range)| u64::from(range.end - range.start)).sum()
    }

    /// Whether any base of `range` of the sequence `sequence` is inside.
    pub fn touches(&self, sequence: usize, range: &Range<u32>) -> bool {
        self.inside(sequence, range).next().is_some()
    }

    /// The pieces of `range` of the sequence `sequence` that are inside, ascending.
    pub fn inside(&self, sequence: usize, range: &Range<u32>) -> impl Iterator<Item = Range<u32>> {
        let first = self.list.partition_point(|(other, held)| (*other, held.end) <= (sequence, range.start));
        let Range { start, end } = *range;
        self.list[first..]
            .iter()
            .take_while(move |(other, held)| *other == sequence && held.start < end)
            .map(move |(_, held)| held.start.max(start)..held.end.min(end))
            .filter(|piece| !piece.is_empty())
    }

    /// The pieces of `range` of the sequence `sequence` that are outside, ascending.
    pub fn outside(&self, sequence: usize, range: &Range<u32>) -> Vec<Range<u32>> {
        let mut pieces = Vec::new();
        let mut start = range.start;
        for piece in self.inside(sequence, range) {
            pieces.push(start..piece.start);
            start = piece.end;
        }
        pieces.push(start..range.end);
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_sorted_and_joined() {
        let regions = Regions::new(vec![(1, 5..9), (0, 20..30), (0, 3..3), (0, 25..40), (0, 40..41)]);
        assert_eq!(regions.ranges(), [(0, 20..41), (1, 5..9)]);
        assert_eq!(regions.bases(), 25);
    }

    #[test]
    fn pieces_inside_and_outside() {
        let regions = Regions::new(vec![(1, 10..20), (1, 30..40), (2, 0..5)]);
        assert_eq!(regions.inside(1, &(15..35)).collect::<Vec<_>>(), [15..20, 30..35]);
        assert_eq!(regions.outside(1, &(15..45)), [20..30, 40..45]);
        assert_eq!(regions.outside(1, &(0..100)), [0..10, 20..30, 40..100]);
        assert_eq!(regions.outside(0, &(0..100)), vec![0..100; 1]);
        assert!(regions.outside(2, &(1..4)).is_empty());
        assert!(!regions.touches(1, &(20..30)) && regions.touches(1, &(20..31)) && regions.touches(1, &(19..20)));
    }

    #[test]
    fn regions_are_written_as_in_a_genome_browser() {
        let folder = tempfile::tempdir().unwrap();
        let genome = crate::kmer::corpus::tests::genome(folder.path(), &[("chr:1", &[b'A'; 1200]), ("b", b"ACGT")]);
        let parse = |texts: &[&str]| Regions::parse(&genome, texts);
        assert_eq!(parse(&["b", "chr:1:1-1,000"]).unwrap().ranges(), [(0, 0..1000), (1, 0..4)]);
        assert_eq!(parse(&["b:4-4"]).unwrap().ranges(), [(1, 3..4)]);
        let aliases = Aliases::parse(&["x=b".to_owned()], None).unwrap();
        assert_eq!(Regions::parse_with(&genome, &aliases, &["x:4-4"]).unwrap().ranges(), [(1, 3..4)]);
        for wrong in ["c", "b:", "b:0-3", "b:3-2", "b:1-5", "b:x-y", "", ":"] {
            assert_eq!(parse(&[wrong]).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
