//! Block-sparse attention: which blocks of keys each block of queries sees, as lists that the kernels walk.
//!
//! Pure functions of pattern and lengths, computed on the host: a sequence of n blocks has a few entries for each, and the
//! blocks that are not listed are neither loaded nor computed.

use super::big_bird::BigBird;
use super::cpu::dropout::TILE;
use super::entry_lists::{EntryLists, PatternLists};
use crate::philox::{Philox, Purpose, below};
use crate::{Error, Result};

/// Side of the squares in which attention is skipped, in tokens: `PATTERN_BLOCK` of `kernels/common/attention.cuh`.
pub const SQUARE: usize = 64;

/// A pattern in the way of BigBird's (Zaheer et al., 2020, arXiv 2007.14062, section 2; released models have that of
/// [`BigBird`]): a block of queries sees the blocks around it, some
/// global ones, and some drawn at random; the global blocks see all. Blocks are counted from the start of each sequence, the
/// last may be short. A sequence of few blocks sees itself whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionPattern {
    /// Tokens in a block: a multiple of [`SQUARE`].
    pub block: usize,
    /// Blocks before and after its own that a block sees.
    pub window: usize,
    /// So many blocks at the start of a sequence, and as many at its end, see all and are seen by all.
    pub global: usize,
    /// Further blocks that each block sees, drawn anew for each, the same in every head and every sequence.
    pub random: usize,
    /// Seed of the draws: give each layer its own.
    pub seed: u64,
}

impl AttentionPattern {
    /// The squares in which a query sees a key that is at most `reach` tokens away.
    pub fn window(reach: usize) -> Self {
        Self { block: SQUARE, window: reach.div_ceil(SQUARE), global: 0, random: 0, seed: 0 }
    }

    /// The blocks of keys that each block of queries sees in a sequence of `blocks` blocks, ascending.
    pub fn blocks(&self, blocks: usize) -> Vec<Vec<usize>> {
        let is_global = |block: usize| block < self.global || block + self.global >= blocks;
        let sees =
            |row: usize, column: usize| is_global(row) || is_global(column) || row.abs_diff(column) <= self.window;
        (0..blocks)
            .map(|row| {
                let (mut seen, mut others): (Vec<usize>, Vec<usize>) =
                    (0..blocks).partition(|&column| sees(row, column));
                let draws = Philox::new(self.seed, row as u32, Purpose::AttentionPattern as u32);
                for draw in 0..self.random.min(others.len()) {
                    let chosen = below(draws.block(draw as u64)[0], others.len() as u32);
                    seen.push(others.swap_remove(chosen as usize));
                }
                seen.sort_unstable();
                seen
            })
            .collect()
    }
}

/// A block, or a square, of keys that some queries see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number, from the start of the sequence.
    pub block: u32,
    /// How often its keys count: more than once in BigBird, where a random block may be one that is seen anyway.
    pub times: u32,
}

/// A pattern over the sequences of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLists {
    side: usize,
    /// Where each sequence's rows of squares begin in a head's `rows`, and their end.
    sequences: Vec<usize>,
    /// For each head, or for all at once, and each row of squares, sequence by sequence, the squares that it sees, ascending.
    rows: Vec<Vec<Vec<Seen>>>,
}

impl BlockLists {
    /// `pattern` over the sequences that `cu_seqlens` (`[sequences + 1]`) delimits.
    ///
    /// # Errors
    /// [`Error::Usage`] for a block that is no multiple of [`SQUARE`].
    pub fn new(pattern: &AttentionPattern, cu_seqlens: &[i32]) -> Result<Self> {
        if pattern.block == 0 || !pattern.block.is_multiple_of(SQUARE) {
            return Err(Error::usage(
                format!("a block-sparse pattern in blocks of {} tokens", pattern.block),
                format!("choose a multiple of {SQUARE}"),
            ));
        }
        let once = |block: &usize| Seen { block: *block as u32, times: 1 };
        Ok(Self::of(pattern.block, SQUARE, cu_seqlens, |length| {
            let blocks = pattern.blocks(length.div_ceil(pattern.block));
            vec![blocks.iter().map(|row| row.iter().map(once).collect()).collect()]
        }))
    }

    /// BigBird's pattern over these sequences, for `heads` heads. On the CPU its blocks may be of any multiple of 16 tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] for other blocks.
    pub fn big_bird(pattern: &BigBird, heads: usize, cu_seqlens: &[i32]) -> Result<Self> {
        if pattern.block == 0 || !pattern.block.is_multiple_of(TILE) {
            return Err(Error::usage(
                format!("block_size is {}", pattern.block),
                format!("choose a multiple of {TILE}; BigBird was released with 64"),
            ));
        }
        let side = if pattern.block.is_multiple_of(SQUARE) { SQUARE } else { pattern.block };
        Ok(Self::of(pattern.block, side, cu_seqlens, |length| pattern.seen(length, heads)))
    }

    /// From what the blocks of a sequence of some length see, for each head or for all at once.
    fn of(block: usize, side: usize, cu_seqlens: &[i32], seen: impl Fn(usize) -> Vec<Vec<Vec<Seen>>>) -> Self {
        let (mut sequences, mut rows) = (vec![0], Vec::<Vec<Vec<Seen>>>::new());
        for pair in cu_seqlens.windows(2) {
            let length = (pair[1] - pair[0]) as usize;
            let (squares, in_block) = (length.div_ceil(side), block / side);
            for (head, blocks) in seen(length).iter().enumerate() {
                if rows.len() <= head {
                    rows.push(Vec::new());
                }
                for (row, seen) in blocks.iter().enumerate() {
                    let columns = seen.iter().flat_map(|&Seen { block, times }| {
                        let first = block as usize * in_block;
                        (first..first + in_block).map(move |square| Seen { block: square as u32, times })
                    });
                    let columns: Vec<Seen> = columns.filter(|square| (square.block as usize) < squares).collect();
                    let height = in_block.min(squares - row * in_block);
                    rows[head].extend(std::iter::repeat_n(columns, height));
                }
            }
            sequences.push(rows.first().map_or(0, Vec::len));
        }
        Self { side, sequences, rows }
    }

    /// Side of a square, in tokens: [`SQUARE`], where kernels are to follow it.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Whether each head sees something else.
    pub fn is_by_head(&self) -> bool {
        self.rows.len() > 1
    }

    /// Whether there are keys that count more than once.
    pub fn is_weighted(&self) -> bool {
        self.rows.iter().flatten().flatten().any(|seen| seen.times > 1)
    }

    /// The squares that row `row` of sequence `sequence` sees in head `head`, ascending; at least its own.
    pub fn seen(&self, sequence: usize, head: usize, row: usize) -> &[Seen] {
        &self.rows[head.min(self.rows.len() - 1)][self.sequences[sequence] + row]
    }

    /// Pairs of a query's and a key's square that are computed: a mean over the heads.
    pub fn squares(&self) -> usize {
        self.rows.iter().flatten().map(Vec::len).sum::<usize>() / self.rows.len().max(1)
    }

    /// Pairs of tokens in the squares that are computed, the last of a sequence counted whole.
    pub fn pairs(&self) -> u64 {
        (self.squares() * self.side * self.side) as u64
    }

    /// As kernels read them.
    ///
    /// # Errors
    /// [`Error::Usage`] for squares of another side than [`SQUARE`].
    pub fn for_kernels(&self) -> Result<PatternLists> {
        if self.side != SQUARE {
            return Err(Error::usage(
                format!("attention in blocks of {} tokens on a GPU", self.side),
                format!("use --device cpu, or a model with blocks of a multiple of {SQUARE} tokens"),
            ));
        }
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        for place in self.sequences.windows(2) {
            let heads: Vec<_> = self.rows.iter().map(|rows| &rows[place[0]..place[1]]).collect();
            queries.push(EntryLists::of_sequence(heads.iter().copied()));
            let transposed: Vec<_> = heads.into_iter().map(transposed).collect();
            keys.push(EntryLists::of_sequence(transposed.iter().map(Vec::as_slice)));
        }
        let joined = |sequences: &[EntryLists]| EntryLists::joined(&sequences.iter().collect::<Vec<_>>());
        let squares = self.rows.iter().flatten().flatten().map(|seen| seen.times as usize).sum();
        Ok(PatternLists { sides: [joined(&queries), joined(&keys)], squares })
    }
}

/// For each column of squares the rows that see it.
fn transposed(rows: &[Vec<Seen>]) -> Vec<Vec<Seen>> {
    let mut columns = vec![Vec::new(); rows.len()];
    for (row, seen) in (0..).zip(rows) {
        seen.iter().for_each(|seen| columns[seen.block as usize].push(Seen { block: row, ..*seen }));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::attention_kernels::PLAN_ROWS;

    const PATTERN: AttentionPattern = AttentionPattern { block: 128, window: 1, global: 1, random: 2, seed: 5 };

    #[test]
    fn a_row_sees_window_globals_and_random_blocks() {
        let rows = PATTERN.blocks(20);
        assert_eq!(rows[0], (0..20).collect::<Vec<_>>());
        assert_eq!(rows[19], rows[0]);
        for (row, seen) in rows.iter().enumerate().skip(1).take(18) {
            assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
            for fixed in [0, row - 1, row, row + 1, 19] {
                assert!(seen.contains(&fixed), "{row}: {seen:?}");
            }
            let fixed = if row == 1 || row == 18 { 4 } else { 5 };
            assert_eq!(seen.len(), fixed + 2, "{row}: {seen:?}");
        }
        let drawn = |row: usize| {
            let random = |&&block: &&usize| block != 0 && block != 19 && block.abs_diff(row) > 1;
            rows[row].iter().filter(random).copied().collect::<Vec<_>>()
        };
        assert!((5..15).any(|row| drawn(row) != drawn(4)), "each row draws its own");
        assert_eq!(PATTERN.blocks(20), rows);
        assert_ne!(AttentionPattern { seed: 6, ..PATTERN }.blocks(20), rows);
        // Too short for a choice, and nothing at all.
        assert!(PATTERN.blocks(4).iter().all(|seen| seen.len() == 4));
        assert!(PATTERN.blocks(0).is_empty());
    }

    #[test]
    fn lists_of_entries_say_who_sees_what() {
        let lengths = [1000, 0, 64, 1, 4000];
        let mut cu_seqlens = vec![0];
        lengths.iter().for_each(|length| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length));
        let lists = BlockLists::new(&AttentionPattern { block: 64, ..PATTERN }, &cu_seqlens).unwrap();
        let [by_queries, by_keys] = lists.for_kernels().unwrap().sides.map(|side| [side.starts, side.blocks]);
        let mut entry = 0;
        let (mut pairs, mut transposed) = (Vec::new(), Vec::new());
        for (sequence, length) in lengths.iter().enumerate() {
            for first in 0..(*length as usize).div_ceil(PLAN_ROWS) {
                for ([starts, blocks], pairs) in [(&by_queries, &mut pairs), (&by_keys, &mut transposed)] {
                    let blocks = &blocks[starts[entry] as usize..starts[entry + 1] as usize];
                    assert!(!blocks.is_empty() && blocks.is_sorted());
                    for block in blocks {
                        let rows =
                            [0, 1].into_iter().filter(|half| block >> half & 1 != 0).map(|half| 2 * first + half);
                        pairs.extend(rows.map(|row| (sequence, row, (block / 4) as usize)));
                    }
                }
                entry += 1;
            }
        }
        assert_eq!(by_queries[0].len(), entry + 1);
        assert_eq!(pairs.len(), lists.squares());
        for &(sequence, row, column) in &pairs {
            assert!(lists.seen(sequence, 0, row).contains(&Seen { block: column as u32, times: 1 }));
        }
        let mut flipped: Vec<_> = transposed.iter().map(|&(sequence, row, column)| (sequence, column, row)).collect();
        flipped.sort_unstable();
        pairs.sort_unstable();
        assert_eq!(flipped, pairs);
    }

    #[test]
    fn large_blocks_are_made_of_squares() {
        let lists = BlockLists::new(&PATTERN, &[0, 2000]).unwrap();
        let blocks = PATTERN.blocks(16);
        for row in 0..32 {
            let squares: Vec<u32> =
                (0..32).filter(|square| blocks[row / 2].contains(&(square / 2))).map(|s| s as u32).collect();
            let seen: Vec<u32> = lists.seen(0, 0, row).iter().map(|seen| seen.block).collect();
            assert_eq!(seen, squares);
        }
        let error = BlockLists::new(&AttentionPattern { block: 96, ..PATTERN }, &[0, 5]).unwrap_err().to_string();
        assert!(error.contains("96") && error.contains("64"), "{error}");
    }

    #[test]
    fn a_window_has_the_squares_that_it_reaches_into() {
        let squares = |reach: usize, length: i32| {
            let lists = BlockLists::new(&AttentionPattern::window(reach), &[0, length]).unwrap();
            for (row, column) in (0..length / 64).flat_map(|row| (0..length / 64).map(move |column| (row, column))) {
                let nearest = if row == column { 0 } else { (row - column).unsigned_abs() as usize * 64 - 63 };
                let is_seen = lists.seen(0, 0, row as usize).iter().any(|seen| seen.block == column as u32);
                assert_eq!(is_seen, nearest <= reach, "{reach}: {row} {column}");
            }
            lists.squares()
        };
        for reach in [1, 63, 64, 65, 128, 129, 1000] {
            squares(reach, 640);
        }
        assert_eq!((squares(64, 2048), squares(64, 4096)), (3 * 32 - 2, 3 * 64 - 2));
    }

    #[test]
    fn work_of_big_bird_grows_with_the_length() {
        let pairs = |length: i32| {
            let pattern = BigBird { block: 64, random: 3, positions: 4096, layer: 0, training: true };
            BlockLists::big_bird(&pattern, 12, &[0, length]).unwrap().pairs()
        };
        // Two rows see all, two see 7 blocks, the others 8.
        assert_eq!(pairs(2048), (2 * 32 + 2 * 7 + 28 * 8) * 64 * 64);
        assert_eq!(pairs(704), 704 * 704);
        assert_eq!(pairs(4096), (2 * 64 + 2 * 7 + 60 * 8) * 64 * 64);
        let odd = BigBird { block: 100, random: 3, positions: 4096, layer: 0, training: false };
        assert!(BlockLists::big_bird(&odd, 12, &[0, 8000]).unwrap_err().to_string().contains("block_size is 100"));
    }
}
