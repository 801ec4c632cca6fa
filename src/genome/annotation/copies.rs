//! The transcripts of one ID on one sequence: one, or several that their own lines, their distance or the numbers of their exons
//! tell apart. Everything here takes n log n for n lines.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Strand;
use super::assemble::{Place, Segment};

/// Exons of one transcript that lie farther apart without a line that spans both are those of two of one name: gffread's
/// `GFF_MAX_LOCUS`.
const LONGEST_INTRON: u32 = 7_000_000;

/// Several transcripts of one name in one place, as the file does not say which exon is whose.
const UNTOLD: &str = "of_one_name_and_not_told_apart";

/// The pieces of each transcript, sorted by place as those of `group` are. `spans` are the lines of transcripts, in the order of the
/// file, with their numbers among all lines.
///
/// # Errors
/// The reason, where they cannot be told apart.
pub(super) fn copies<'s>(group: &'s [Segment], spans: &[&(u64, Place)]) -> Result<Vec<Vec<&'s Segment>>, &'static str> {
    let mut copies: Vec<Vec<&Segment>> = match spans.len() {
        0 => apart(group),
        1 => vec![group.iter().collect()],
        _ => by_spans(group, spans)?,
    };
    let is_one = copies.len() == 1;
    if is_one {
        copies = numbered_anew(&copies[0]);
    }
    let is_told = |copy: &Vec<&Segment>| !copy.is_empty() && !exons_of(copy).any(|(a, b)| b.start < a.end);
    if (spans.len() > 1 || copies.len() > 1) && !copies.iter().all(is_told) {
        return Err(UNTOLD);
    }
    Ok(copies)
}

/// Neighbours among the exons, or among the parts where there are none.
fn exons_of<'s>(copy: &'s [&Segment]) -> impl Iterator<Item = (&'s Range<u32>, &'s Range<u32>)> {
    let has_exons = copy.iter().any(|segment| segment.is_exon);
    let of = move |segment: &&&Segment| segment.is_exon || !has_exons;
    let ranges = || copy.iter().filter(of).map(|segment| &segment.place.range);
    ranges().zip(ranges().skip(1))
}

/// Cuts where no intron can be so long.
fn apart(group: &[Segment]) -> Vec<Vec<&Segment>> {
    let mut copies: Vec<Vec<&Segment>> = Vec::new();
    let mut end = 0;
    for segment in group {
        let range = &segment.place.range;
        if copies.is_empty() || range.start > LONGEST_INTRON.saturating_add(end) {
            copies.push(Vec::new());
        }
        end = range.end.max(end);
        copies.last_mut().into_iter().for_each(|copy| copy.push(segment));
    }
    copies
}

/// Gives each piece to the line that holds it; where several could, to the one that stands last before it.
fn by_spans<'s>(group: &'s [Segment], spans: &[&(u64, Place)]) -> Result<Vec<Vec<&'s Segment>>, &'static str> {
    let mut by_start: Vec<usize> = (0..spans.len()).collect();
    by_start.sort_by_key(|&index| spans[index].1.range.start);
    let mut begun = by_start.into_iter().peekable();
    // Those that have begun, of any strand and of those that go with one.
    let [mut any, mut plus, mut minus] = [(); 3].map(|()| LastReaching::new(spans.len()));
    let mut copies = vec![Vec::new(); spans.len()];
    for segment in group {
        let range = &segment.place.range;
        while let Some(index) = begun.next_if(|&index| spans[index].1.range.start <= range.start) {
            let span = &spans[index].1;
            any.insert(index, span.range.end);
            for (strand, of_strand) in [(Strand::Plus, &mut plus), (Strand::Minus, &mut minus)] {
                if span.strand.is_none_or(|of| of == strand) {
                    of_strand.insert(index, span.range.end);
                }
            }
        }
        let holding = match segment.place.strand {
            None => &any,
            Some(Strand::Plus) => &plus,
            Some(Strand::Minus) => &minus,
        };
        let last = holding.last(spans.len(), range.end).ok_or(UNTOLD)?;
        let is_only = holding.last(last, range.end).is_none();
        let before = spans.partition_point(|(order, _)| *order < segment.order);
        let chosen = if is_only { Some(last) } else { holding.last(before, range.end) };
        copies[chosen.ok_or(UNTOLD)?].push(segment);
    }
    // A line that only repeats another one is no transcript of its own.
    let place = |index: usize| (spans[index].1.strand, &spans[index].1.range);
    let of_others: HashSet<_> = (0..spans.len()).filter(|&index| !copies[index].is_empty()).map(place).collect();
    let mut index = 0..;
    copies.retain(|copy| {
        let index = index.next().unwrap_or(0);
        !copy.is_empty() || !of_others.contains(&place(index))
    });
    Ok(copies)
}

/// Ends by index, of which the last one below a bound that reaches so far is found in log n: a tree of largest ends.
struct LastReaching {
    /// The root is 1, the children of `i` are `2i` and `2i + 1`, the leaves the upper half; 0 where there is none.
    ends: Vec<u32>,
}

impl LastReaching {
    fn new(count: usize) -> Self {
        Self { ends: vec![0; 2 * count.next_power_of_two()] }
    }

    fn leaves(&self) -> usize {
        self.ends.len() / 2
    }

    /// `end` is over 0.
    fn insert(&mut self, index: usize, end: u32) {
        let mut node = self.leaves() + index;
        while node > 0 {
            self.ends[node] = self.ends[node].max(end);
            node /= 2;
        }
    }

    /// The last index below `bound` whose end is not before `end`.
    fn last(&self, bound: usize, end: u32) -> Option<usize> {
        let mut node = self.leaves() + bound;
        // To the left of the path to the bound lie subtrees, the nearest first; of the first that reaches, the last leaf.
        while node > 1 {
            let left = node - 1;
            if node % 2 == 1 && self.ends[left] >= end {
                return Some(self.last_leaf(left, end));
            }
            node /= 2;
        }
        // Behind all leaves there is no path.
        let is_all = bound == self.leaves() && self.ends[1] >= end;
        is_all.then(|| self.last_leaf(1, end))
    }

    fn last_leaf(&self, mut node: usize, end: u32) -> usize {
        while node < self.leaves() {
            node = 2 * node + usize::from(self.ends[2 * node + 1] >= end);
        }
        node - self.leaves()
    }
}

/// Cuts, in the order of the file, where an exon's number comes again for another exon.
fn numbered_anew<'s>(segments: &[&'s Segment]) -> Vec<Vec<&'s Segment>> {
    let mut in_order = segments.to_vec();
    in_order.sort_by_key(|segment| segment.order);
    let mut copies: Vec<Vec<&Segment>> = vec![Vec::new()];
    let mut seen: HashMap<u32, &Range<u32>> = HashMap::new();
    for segment in in_order {
        if let Some(number) = segment.number {
            let range = &segment.place.range;
            if seen.get(&number).is_some_and(|known| *known != range) {
                copies.push(Vec::new());
                seen.clear();
            }
            seen.insert(number, range);
        }
        copies.last_mut().into_iter().for_each(|copy| copy.push(segment));
    }
    for copy in &mut copies {
        copy.sort_by_key(|segment| (segment.place.range.start, segment.place.range.end, segment.order));
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_reaches_is_found_as_by_looking_at_all() {
        for count in [1usize, 2, 3, 7, 8, 9] {
            let mut tree = LastReaching::new(count);
            let mut ends = vec![0u32; count];
            for step in 0..count {
                let index = (step * 5 + 3) % count;
                let end = 1 + (step as u32 * 7919) % 11;
                ends[index] = ends[index].max(end);
                tree.insert(index, end);
                for bound in 0..=count {
                    for end in 1..13 {
                        let expected = (0..bound).rfind(|&index| ends[index] >= end);
                        assert_eq!(tree.last(bound, end), expected, "{ends:?} {bound} {end}");
                    }
                }
            }
        }
    }
}
