//! Hiding tokens, as a pure function of the batch and its key. It is specified here closely enough to be written again
//! for another device, which must give the same bits.
//!
//! **Draws.** `word[j](i)` is word j of Philox block i of the batch for [`Purpose::Masking`] ([`BatchKey`] lays out
//! the counter). The index i is the row of a token in the packed batch, counted over all sequences. A probability p is
//! compared as `word < round(p * 2^32)`, in 64 bits so that p = 1 holds for every word; [`below`] chooses uniformly.
//!
//! **Spans** (DNABERT and RandomMask; [`Plan::Spans`]). A sequence of L tokens starts at row r and is `[CLS]`, L - 2
//! k-mers, `[SEP]`; only its k-mers, rows r + 1 ..= r + L - 2, are ever hidden.
//! 1. Row i of a k-mer is a centre if `word[0](i) < centre_threshold`.
//! 2. A centre at row i has the width `w = narrowest + below(word[3](i), widest - narrowest + 1)`.
//! 3. It hides the rows `i - (w - 1) / 2 ..= i + w / 2` (integer division), cut to the k-mers of its sequence. For
//!    `w = k` these are DNABERT's neighbours: k=3 -1..+1, k=4 -1..+2, k=5 -2..+2, k=6 -2..+3.
//! 4. Each hidden row i is decided by itself, whatever span it belongs to: for `word[1](i) < 0.8` the token becomes
//!    [`MASK`]; else for `word[1](i) < 0.9` it becomes token `below(word[2](i), vocabulary length)`, special
//!    tokens included; else it stays.
//!
//! **Seeds** (BioNeMo; [`Plan::Seeds`]).
//! 1. A sequence of L tokens, `[CLS]` and `[SEP]` included, has `n = L * seed_threshold >> 32` seeds.
//! 2. Seed j (0 <= j < n) of the sequence that starts at row r lies at row `r + below(word[0](r + j), L)`. Two seeds
//!    may coincide.
//! 3. It hides the rows up to `reach` on either side, cut to its sequence, `[CLS]` and `[SEP]` included.
//! 4. Every hidden token becomes [`MASK`].
//!
//! Rows are listed in ascending order and the labels are the tokens that were there. A small batch may come out
//! without any.

use super::batch::Batch;
use super::key::{BatchKey, Draws};
use super::vocabulary::{MASK, Vocabulary};
use crate::philox::{Purpose, below};

/// 2^32, the threshold of a certain event.
pub(super) const CERTAIN: u64 = 1 << 32;

/// What is done in one step, in integers: the arguments of a masking kernel. [`super::hiding`] says what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// DNABERT and RandomMask.
    Spans {
        /// A k-mer is a centre if its word is below this; 0 ..= 2^32.
        centre_threshold: u64,
        /// Smallest width of a span, in tokens; at least 1.
        narrowest: u32,
        /// Largest width of a span, in tokens; at least `narrowest`.
        widest: u32,
    },
    /// BioNeMo.
    Seeds {
        /// Seeds per token, times 2^32.
        seed_threshold: u64,
        /// Tokens that are hidden on either side of a seed.
        reach: u32,
    },
}

impl Plan {
    /// Hides tokens of `batch`: replaces them and fills `rows` and `labels`.
    pub fn apply(&self, batch: &mut Batch, vocabulary: &Vocabulary, key: &BatchKey) {
        let draws = key.draws(Purpose::Masking);
        let mut hidden = Vec::new();
        batch.rows.clear();
        batch.labels.clear();
        for sequence in 0..batch.sequences() {
            let start = batch.cu_seqlens[sequence] as u32;
            let end = batch.cu_seqlens[sequence + 1] as u32;
            hidden.clear();
            hidden.resize((end - start) as usize, false);
            self.choose(&draws, start, &mut hidden);
            for row in (start..end).filter(|row| hidden[(row - start) as usize]) {
                let token = &mut batch.tokens[row as usize];
                batch.rows.push(row as i32);
                batch.labels.push(*token);
                *token = self.replacement(*token, &draws, row, vocabulary.len() as u32);
            }
        }
    }

    /// How many tokens are hidden in a batch of sequences of these lengths.
    pub fn count(&self, lengths: &[usize], key: &BatchKey) -> usize {
        let draws = key.draws(Purpose::Masking);
        let (mut start, mut count, mut hidden) = (0, 0, Vec::new());
        for &length in lengths {
            hidden.clear();
            hidden.resize(length, false);
            self.choose(&draws, start, &mut hidden);
            count += hidden.iter().filter(|&&hidden| hidden).count();
            start += length as u32;
        }
        count
    }

    /// Marks the tokens of the sequence at row `start` that are hidden.
    fn choose(&self, draws: &Draws, start: u32, hidden: &mut [bool]) {
        let length = hidden.len() as u32;
        match *self {
            Self::Spans { centre_threshold, narrowest, widest } => {
                for centre in 1..length.saturating_sub(1) {
                    let [word, .., width_word] = draws.block(start + centre);
                    if u64::from(word) < centre_threshold {
                        let width = narrowest + below(width_word, widest - narrowest + 1);
                        let first = centre.saturating_sub((width - 1) / 2).max(1);
                        let last = (centre + width / 2).min(length - 2);
                        hidden[first as usize..=last as usize].fill(true);
                    }
                }
            }
            Self::Seeds { seed_threshold, reach } => {
                let seeds = ((u64::from(length) * seed_threshold) >> 32) as u32;
                for seed in 0..seeds {
                    let [word, ..] = draws.block(start + seed);
                    let centre = below(word, length);
                    let last = (centre + reach).min(length - 1);
                    hidden[centre.saturating_sub(reach) as usize..=last as usize].fill(true);
                }
            }
        }
    }

    /// What the hidden `token` at `row` becomes.
    fn replacement(&self, token: i32, draws: &Draws, row: u32, vocabulary_length: u32) -> i32 {
        const BECOMES_MASK: u32 = 3_435_973_837; // round(0.8 * 2^32)
        const BECOMES_RANDOM: u32 = 3_865_470_566; // round(0.9 * 2^32)
        if let Self::Seeds { .. } = self {
            return MASK;
        }
        let [_, fate, random, _] = draws.block(row);
        if fate < BECOMES_MASK {
            MASK
        } else if fate < BECOMES_RANDOM {
            below(random, vocabulary_length) as i32
        } else {
            token
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kmer::vocabulary::{BaseOrder, CLS, SEP};

    /// `sequences` sequences of `length` tokens.
    pub(in crate::kmer) fn batch(sequences: usize, length: usize) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..sequences {
            let mut tokens = vec![CLS];
            tokens.extend((0..length as i32 - 2).map(|i| 5 + i % 64));
            tokens.push(SEP);
            batch.push(&tokens);
        }
        batch
    }

    #[test]
    fn the_fates_are_80_10_10() {
        let original = batch(100, 1_000);
        let mut masked = original.clone();
        let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
        let plan = Plan::Spans { centre_threshold: CERTAIN, narrowest: 3, widest: 3 };
        plan.apply(&mut masked, &vocabulary, &BatchKey::training(1, 0, 0));
        assert_eq!(masked.rows.len(), 100 * 998, "every k-mer is hidden, [CLS] and [SEP] are not");
        let count = |condition: &dyn Fn(i32, i32) -> bool| {
            let pairs = masked.rows.iter().zip(&masked.labels);
            pairs.filter(|(row, label)| condition(masked.tokens[**row as usize], **label)).count() as f64 / 99_800.0
        };
        let random = 0.1 / 69.0;
        assert!((count(&|token, _| token == MASK) - 0.8 - random).abs() < 0.005);
        assert!((count(&|token, label| token == label) - 0.1 - random).abs() < 0.004);
        assert!(
            (count(&|token, _| token < MASK) - 4.0 * random).abs() < 0.001,
            "special tokens are among the random ones"
        );
        for (row, label) in masked.rows.iter().zip(&masked.labels) {
            assert_eq!(original.tokens[*row as usize], *label);
        }
    }

    #[test]
    fn seeds_may_hide_cls_and_sep_and_always_masks() {
        let mut batch = batch(500, 20);
        let plan = Plan::Seeds { seed_threshold: CERTAIN / 6, reach: 1 };
        plan.apply(&mut batch, &Vocabulary::new(3, BaseOrder::Atcg).unwrap(), &BatchKey::training(1, 0, 0));
        assert!(batch.labels.contains(&CLS) && batch.labels.contains(&SEP));
        assert!(batch.rows.iter().all(|row| batch.tokens[*row as usize] == MASK));
        assert!(batch.rows.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
