//! BigBird's block-sparse pattern (Zaheer et al., 2020, arXiv 2007.14062) as released models were trained with it: that of transformers'
//! `BigBirdBlockSparseAttention`, whose random blocks come from numpy's legacy generator with the layer's number as its seed.

use super::attention_pattern::Seen;
use crate::mersenne_twister::MersenneTwister;

/// The pattern of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BigBird {
    /// Tokens in a block.
    pub block: usize,
    /// Random blocks of each row.
    pub random: usize,
    /// Rows of the model's table of positions: what is drawn for sequences of 1,024, 3,072 and 4,096 tokens depends on it.
    pub positions: usize,
    /// The layer, from 0.
    pub layer: u32,
    /// Whether it trains. Else there is nothing at random, and the first block counts once more for each random one.
    pub training: bool,
}

/// Lengths, in whole blocks, whose random blocks are cut from a table for the longest sequence.
const FROM_TABLE: [usize; 3] = [1024, 3072, 4096];
/// Tokens that random blocks of such a table are taken from.
const TABLE_REACH: usize = 1024;

impl BigBird {
    /// Whether a sequence of `length` tokens is long enough for blocks to be left out.
    pub fn is_sparse(&self, length: usize) -> bool {
        length > (5 + 2 * self.random) * self.block
    }

    /// Heads that see different blocks: `heads`, or 1 where all see the same.
    pub fn heads(&self, heads: usize) -> usize {
        if self.training && self.random > 0 { heads } else { 1 }
    }

    /// For each head and each block of queries in a sequence of `length` tokens the blocks of keys that it sees, ascending.
    pub fn seen(&self, length: usize, heads: usize) -> Vec<Vec<Vec<Seen>>> {
        let blocks = length.div_ceil(self.block);
        let heads = self.heads(heads);
        let all: Vec<usize> = (0..blocks).collect();
        if !self.is_sparse(length) {
            return vec![vec![counted(all); blocks]; heads];
        }
        let drawn = match self.training {
            true => self.drawn(blocks, heads),
            false => vec![vec![vec![0; self.random]; blocks - 2]; heads],
        };
        let last = blocks - 1;
        let row = |row: usize, random: &[Vec<usize>]| match row {
            0 => all.clone(),
            _ if row == last => all.clone(),
            1 => [&[0, 1, 2, last], &random[0][..]].concat(),
            _ if row + 1 == last => [&[0, last - 2, last - 1, last], &random[row - 1][..]].concat(),
            _ => [&[0, row - 1, row, row + 1, last], &random[row - 1][..]].concat(),
        };
        drawn.iter().map(|random| (0..blocks).map(|index| counted(row(index, random))).collect()).collect()
    }

    /// The random blocks of rows 1 to `blocks - 2`: `[heads][blocks - 2][random]`.
    pub fn drawn(&self, blocks: usize, heads: usize) -> Vec<Vec<Vec<usize>>> {
        let mut generator = MersenneTwister::new(self.layer);
        let mut drawn = vec![vec![Vec::new(); blocks]; heads];
        if FROM_TABLE.contains(&(blocks * self.block)) {
            let longest = self.positions / self.block;
            for rows in &mut drawn {
                for row in 1..longest.saturating_sub(1) {
                    let chosen = generator.permutation(self.table_candidates(row, longest));
                    if let Some(place) = rows.get_mut(row) {
                        *place = chosen[..self.random.min(chosen.len())].to_vec();
                    }
                }
            }
        } else {
            // All random blocks lie in the first few, whatever the length.
            let reach = 2 * self.random + 5;
            for row in 1..blocks {
                for rows in &mut drawn {
                    let mut chosen = generator.permutation((0..reach).collect());
                    let is_seen = |block: usize| {
                        block == 0
                            || block + 1 == reach
                            || block.abs_diff(row) <= 1
                            || (row == 1 && block + 2 == reach)
                            || (row + 2 == reach && block == 1)
                    };
                    chosen.retain(|&block| !is_seen(block));
                    chosen.truncate(self.random);
                    rows[row] = chosen;
                }
            }
        }
        drawn.into_iter().map(|rows| rows[1..blocks - 1].to_vec()).collect()
    }

    /// What the random blocks of a row of the table for `longest` blocks are chosen from.
    fn table_candidates(&self, row: usize, longest: usize) -> Vec<usize> {
        let middle: Vec<usize> = (1..longest - 1).collect();
        let last = if TABLE_REACH > 2 * self.block { TABLE_REACH / self.block - 1 } else { longest - 1 };
        let upto = |end: usize| &middle[..end.min(middle.len())];
        let between = |start: usize, end: usize| middle.get(start..end.min(middle.len())).unwrap_or(&[]);
        let start = row.saturating_sub(2);
        match row {
            1 => between(2, last).to_vec(),
            2 => between(3, last).to_vec(),
            _ if row + 3 == longest || row + 2 == longest => upto(last).to_vec(),
            _ if start > last => upto(last).to_vec(),
            _ if row + 1 == last => upto(start).to_vec(),
            _ => [upto(start), between(row + 1, last)].concat(),
        }
    }
}

/// Blocks, ascending, each with how often it is in the list.
fn counted(mut blocks: Vec<usize>) -> Vec<Seen> {
    blocks.sort_unstable();
    blocks.chunk_by(|a, b| a == b).map(|same| Seen { block: same[0] as u32, times: same.len() as u32 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: BigBird = BigBird { block: 64, random: 3, positions: 4096, layer: 0, training: true };

    #[test]
    fn tables_are_those_of_transformers() {
        let drawn = BASE.drawn(64, 12);
        assert_eq!(drawn[0][..4], [[9, 14, 7], [9, 6, 7], [10, 5, 14], [6, 8, 12]]);
        assert_eq!(drawn[0][19], [2, 13, 11]);
        assert_eq!(drawn[0][60..], [[6, 2, 7], [6, 12, 5]]);
        assert_eq!(
            BASE.drawn(16, 12)[11][..],
            BASE.drawn(48, 12)[11][..14],
            "a shorter table is the beginning of the longer"
        );
    }

    #[test]
    fn random_blocks_are_among_the_first_and_none_is_seen_twice() {
        for layer in 0..12 {
            let pattern = BigBird { layer, ..BASE };
            for (row, seen) in pattern.seen(2048, 2)[1].iter().enumerate() {
                assert!(seen.iter().all(|seen| seen.times == 1), "{row}: {seen:?}");
                let wanted = match row {
                    0 | 31 => 32,
                    1 | 30 => 4 + 3,
                    _ => 5 + 3,
                };
                assert_eq!(seen.len(), wanted, "layer {layer}, row {row}: {seen:?}");
            }
            assert!(pattern.drawn(32, 2)[0].iter().flatten().all(|&block| block <= 9));
        }
    }

    #[test]
    fn predicting_counts_the_first_block_again() {
        let pattern = BigBird { training: false, ..BASE };
        let seen = pattern.seen(1000, 12);
        assert_eq!((seen.len(), seen[0].len()), (1, 16));
        let blocks = |row: usize| seen[0][row].iter().map(|seen| (seen.block, seen.times)).collect::<Vec<_>>();
        assert_eq!(blocks(1), [(0, 4), (1, 1), (2, 1), (15, 1)]);
        assert_eq!(blocks(5), [(0, 4), (4, 1), (5, 1), (6, 1), (15, 1)]);
        assert_eq!(blocks(14), [(0, 4), (13, 1), (14, 1), (15, 1)]);
        assert_eq!(blocks(0), (0..16).map(|block| (block, 1)).collect::<Vec<_>>());
        assert!(!pattern.is_sparse(704) && pattern.is_sparse(705));
        assert_eq!(pattern.seen(704, 12)[0][3].len(), 11);
    }
}
