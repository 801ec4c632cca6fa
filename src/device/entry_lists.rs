//! Which blocks the entries of an attention plan stream, as kernels read it; and those of BigBird's layers, made once for each length.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::attention_kernels::PLAN_ROWS;
use super::attention_pattern::{BlockLists, SQUARE, Seen};
use super::big_bird::BigBird;
use crate::Result;

/// The lists of plan entries, one side's: `AttentionHooks` of `kernels/common/attention.cuh` describes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryLists {
    /// Heads that have lists of their own: 1 where all share them.
    pub heads: usize,
    /// Where each entry's list begins in `blocks`, and where the head's last ends, `[heads][entries + 1]`.
    pub starts: Vec<i32>,
    /// Four times the number of a square, from the start of its sequence, and a bit for each half of the entry that sees it; a square that
    /// counts n times is there n times.
    pub blocks: Vec<i32>,
}

impl EntryLists {
    /// Of one sequence: what each row of squares sees, `[heads][rows]`. Each entry has what any of its rows sees.
    pub(super) fn of_sequence<'a>(heads: impl Iterator<Item = &'a [Vec<Seen>]>) -> Self {
        let mut lists = Self { heads: 0, starts: Vec::new(), blocks: Vec::new() };
        for rows in heads {
            lists.heads += 1;
            lists.starts.push(lists.blocks.len() as i32);
            for entry in rows.chunks(PLAN_ROWS / SQUARE) {
                let mut seen = BTreeMap::new();
                for (half, columns) in entry.iter().enumerate() {
                    for &Seen { block, times } in columns {
                        for copy in 0..times {
                            *seen.entry((block, copy)).or_insert(0) |= 1 << half;
                        }
                    }
                }
                lists.blocks.extend(seen.into_iter().map(|((block, _), halves)| block as i32 * 4 + halves));
                lists.starts.push(lists.blocks.len() as i32);
            }
        }
        lists
    }

    /// Of sequences one behind the other, all of as many heads.
    pub(super) fn joined(sequences: &[&Self]) -> Self {
        let heads = sequences.first().map_or(1, |lists| lists.heads);
        let mut joined = Self { heads, starts: Vec::new(), blocks: Vec::new() };
        for head in 0..heads {
            joined.starts.push(joined.blocks.len() as i32);
            for lists in sequences {
                let stride = lists.starts.len() / heads;
                let starts = &lists.starts[head * stride..][..stride];
                let (first, end) = (starts[0], starts[stride - 1]);
                let shift = joined.blocks.len() as i32 - first;
                joined.starts.extend(starts[1..].iter().map(|start| start + shift));
                joined.blocks.extend_from_slice(&lists.blocks[first as usize..end as usize]);
            }
        }
        joined
    }

    /// From the starts of one head to those of the next; 0 where all share them.
    pub fn head_stride(&self) -> usize {
        if self.heads > 1 { self.starts.len() / self.heads } else { 0 }
    }
}

/// A pattern over the sequences of a batch, as kernels read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternLists {
    /// Where rows are queries, and where they are keys: the squares of queries that see them.
    pub sides: [EntryLists; 2],
    /// Pairs of a query's and a key's square that are computed, in all heads that have lists; each as often as it counts.
    pub squares: usize,
}

impl PatternLists {
    fn joined(sequences: &[Rc<Self>]) -> Self {
        let side =
            |side: usize| EntryLists::joined(&sequences.iter().map(|lists| &lists.sides[side]).collect::<Vec<_>>());
        Self { sides: [side(0), side(1)], squares: sequences.iter().map(|lists| lists.squares).sum() }
    }

    /// Pairs of tokens in these squares, a mean over the heads; the last of a sequence counted whole.
    pub fn pairs(&self) -> u64 {
        (self.squares * SQUARE * SQUARE / self.sides[0].heads) as u64
    }
}

/// BigBird's patterns for sequences of all lengths. What a sequence sees depends on layer and length alone, so each of these is worked out
/// once, and a batch's lists are copies end to end: time and memory linear in its tokens.
pub struct BigBirdLists {
    /// That of the first layer.
    pattern: BigBird,
    heads: usize,
    /// By layer and squares in a sequence.
    known: RefCell<HashMap<(u32, usize), Rc<PatternLists>>>,
}

/// Integers that [`BigBirdLists`] keeps before it forgets them all: 64 MB. Those of 12 layers of 12 heads, for every length up to 4,096, are 9 million.
const KEPT: usize = 1 << 24;

impl BigBirdLists {
    /// For `heads` heads of layers with this pattern, but for their number.
    pub fn new(pattern: &BigBird, heads: usize) -> Self {
        Self { pattern: BigBird { layer: 0, ..*pattern }, heads, known: RefCell::default() }
    }

    /// Whether they are those of such layers.
    pub fn are_of(&self, pattern: &BigBird, heads: usize) -> bool {
        (self.pattern, self.heads) == (BigBird { layer: 0, ..*pattern }, heads)
    }

    /// Those of a layer, over the sequences that `cu_seqlens` (`[sequences + 1]`) delimits.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for blocks that kernels cannot follow.
    pub fn layer(&self, layer: u32, cu_seqlens: &[i32]) -> Result<PatternLists> {
        let lengths = cu_seqlens.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        let sequences = lengths.map(|length| self.sequence(layer, length)).collect::<Result<Vec<_>>>()?;
        Ok(PatternLists::joined(&sequences))
    }

    fn sequence(&self, layer: u32, length: usize) -> Result<Rc<PatternLists>> {
        let mut known = self.known.borrow_mut();
        // Blocks are whole squares, so that sequences of as many squares see the same.
        let key = (layer, length.div_ceil(SQUARE));
        if let Some(lists) = known.get(&key) {
            return Ok(Rc::clone(lists));
        }
        let pattern = BigBird { layer, ..self.pattern };
        let lists = Rc::new(BlockLists::big_bird(&pattern, self.heads, &[0, length as i32])?.for_kernels()?);
        let size =
            |lists: &PatternLists| lists.sides.iter().map(|side| side.starts.len() + side.blocks.len()).sum::<usize>();
        if known.values().map(|lists| size(lists)).sum::<usize>() + size(&lists) > KEPT {
            known.clear();
        }
        known.insert(key, Rc::clone(&lists));
        Ok(lists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: BigBird = BigBird { block: 64, random: 3, positions: 4096, layer: 0, training: true };

    #[test]
    fn a_batch_has_the_lists_of_its_sequences_and_heads() {
        let cu_seqlens = [0, 1000, 1000, 5096, 5100, 6070];
        for pattern in [PATTERN, BigBird { training: false, ..PATTERN }, BigBird { block: 128, ..PATTERN }] {
            let lists = BigBirdLists::new(&pattern, 3);
            for layer in [0, 1, 0] {
                let whole = BlockLists::big_bird(&BigBird { layer, ..pattern }, 3, &cu_seqlens).unwrap();
                assert_eq!(lists.layer(layer, &cu_seqlens).unwrap(), whole.for_kernels().unwrap());
            }
        }
        let lists = BigBirdLists::new(&PATTERN, 3).layer(1, &cu_seqlens).unwrap();
        let [queries, keys] = &lists.sides;
        // 8, 0, 32, 1 and 8 entries.
        assert_eq!((queries.heads, queries.starts.len(), queries.head_stride()), (3, 3 * 50, 50));
        assert_eq!(keys.head_stride(), 50);
        assert_ne!(
            queries.blocks[..queries.starts[49] as usize],
            queries.blocks[queries.starts[50] as usize..][..queries.starts[49] as usize]
        );
        let shared = BigBirdLists::new(&BigBird { training: false, ..PATTERN }, 3).layer(1, &cu_seqlens).unwrap();
        assert_eq!((shared.sides[0].starts.len(), shared.sides[0].head_stride()), (50, 0));
    }

    #[test]
    fn lists_grow_with_the_length_and_not_with_its_square() {
        // None of these lengths is one of those whose random blocks come from a table, which reaches further.
        let blocks = |length: i32| {
            let lists = BigBirdLists::new(&PATTERN, 12).layer(3, &[0, length]).unwrap();
            lists.sides[0].blocks.len() as f64
        };
        let [first, second] = [(1280, 2560), (2560, 3840)].map(|(shorter, longer)| blocks(longer) - blocks(shorter));
        // Squares would have added 1.67 times as many the second time.
        assert!((second / first - 1.0).abs() < 0.05, "{first} {second}");
    }
}
