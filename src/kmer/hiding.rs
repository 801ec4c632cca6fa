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
//!    the mask; else for `word[1](i) < 0.9` it becomes token `below(word[2](i), vocabulary length)`, special
//!    tokens included; else it stays.
//!
//! **Seeds** (BioNeMo; [`Plan::Seeds`]).
//! 1. A sequence of L tokens, `[CLS]` and `[SEP]` included, has `n = L * seed_threshold >> 32` seeds.
//! 2. Seed j (0 <= j < n) of the sequence that starts at row r lies at row `r + below(word[0](r + j), L)`. Two seeds
//!    may coincide.
//! 3. It hides the rows up to `reach` on either side, cut to its sequence, `[CLS]` and `[SEP]` included.
//! 4. Every hidden token becomes the mask.
//!
//! A tokenizer without `[SEP]` has tokens up to the last row; one whose tokens do not overlap has k = 1, so that with DNABERT's recipe
//! each token is hidden by itself, as the other families do it. An unknown token that such a tokenizer makes is never hidden, as no
//! special token is.
//!
//! Rows are listed in ascending order and the labels are the tokens that were there. A small batch may come out
//! without any.

use super::batch::Batch;
use super::key::{BatchKey, Draws};
use crate::philox::{Purpose, below};
use crate::tokenizer::{Specials, Tokenizer};

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
    pub fn apply(&self, batch: &mut Batch, tokenizer: &dyn Tokenizer, key: &BatchKey) {
        let specials = tokenizer.specials();
        let is_overlapping = tokenizer.k_mers().is_some();
        let draws = key.draws(Purpose::Masking);
        let mut hidden = Vec::new();
        batch.rows.clear();
        batch.labels.clear();
        for sequence in 0..batch.sequences() {
            let start = batch.cu_seqlens[sequence] as u32;
            let end = batch.cu_seqlens[sequence + 1] as u32;
            hidden.clear();
            hidden.resize((end - start) as usize, false);
            self.choose(&draws, start, specials.frame() - 1, &mut hidden);
            for row in (start..end).filter(|row| hidden[(row - start) as usize]) {
                let token = &mut batch.tokens[row as usize];
                if *token == specials.unk && !is_overlapping {
                    continue;
                }
                batch.rows.push(row as i32);
                batch.labels.push(*token);
                *token = self.replacement(*token, &draws, row, specials, tokenizer.len() as u32);
            }
        }
    }

    /// How many tokens are hidden in a batch of sequences of k-mers of these lengths.
    pub fn count(&self, lengths: &[usize], key: &BatchKey) -> usize {
        let draws = key.draws(Purpose::Masking);
        let (mut start, mut count, mut hidden) = (0, 0, Vec::new());
        for &length in lengths {
            hidden.clear();
            hidden.resize(length, false);
            self.choose(&draws, start, 1, &mut hidden);
            count += hidden.iter().filter(|&&hidden| hidden).count();
            start += length as u32;
        }
        count
    }

    /// Marks the tokens of the sequence at row `start` that are hidden; `ends` special tokens end it.
    fn choose(&self, draws: &Draws, start: u32, ends: usize, hidden: &mut [bool]) {
        let (length, ends) = (hidden.len() as u32, ends as u32);
        match *self {
            Self::Spans { centre_threshold, narrowest, widest } => {
                for centre in 1..length.saturating_sub(ends) {
                    let [word, .., width_word] = draws.block(start + centre);
                    if u64::from(word) < centre_threshold {
                        let width = narrowest + below(width_word, widest - narrowest + 1);
                        let first = centre.saturating_sub((width - 1) / 2).max(1);
                        let last = (centre + width / 2).min(length - 1 - ends);
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
    fn replacement(&self, token: i32, draws: &Draws, row: u32, specials: Specials, vocabulary_length: u32) -> i32 {
        const BECOMES_MASK: u32 = 3_435_973_837; // round(0.8 * 2^32)
        const BECOMES_RANDOM: u32 = 3_865_470_566; // round(0.9 * 2^32)
        if let Self::Seeds { .. } = self {
            return specials.mask;
        }
        let [_, fate, random, _] = draws.block(row);
        if fate < BECOMES_MASK {
            specials.mask
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
    use crate::kmer::vocabulary::{BaseOrder, CLS, MASK, SEP, Vocabulary};
    use crate::tokenizer::blocks::{Blocks, Version};

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
    fn tokens_that_do_not_overlap_are_hidden_one_by_one() {
        let blocks = Blocks::new(Version::Two);
        let mut batch = Batch::new();
        for _ in 0..200 {
            let mut tokens = vec![3];
            tokens.extend((0..500).map(|i| if i % 10 == 0 { 0 } else { 6 + i }));
            batch.push(&tokens);
        }
        let original = batch.clone();
        crate::kmer::masking::Masking::default().apply(&mut batch, &blocks, &BatchKey::training(1, 0, 0), 100);
        let share = batch.rows.len() as f64 / (200.0 * 450.0);
        assert!((share - 0.15).abs() < 0.004, "{share}");
        assert!(batch.labels.iter().all(|&label| label >= 6), "neither <cls> nor <unk>");
        assert!(batch.rows.iter().any(|row| row % 501 == 500), "the last token as well");
        let masked = batch.rows.iter().filter(|&&row| batch.tokens[row as usize] == 2).count();
        assert!((masked as f64 / batch.rows.len() as f64 - 0.8).abs() < 0.01);
        let changed = (0..original.tokens.len()).filter(|&row| original.tokens[row] != batch.tokens[row]).count();
        assert!((changed as f64 / batch.rows.len() as f64 - 0.9).abs() < 0.01);
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
