//! Dropout masks from Philox counters, so that the backward pass redraws what the forward pass drew.
//!
//! The scale is one over the share that is really kept, so what is dropped changes no mean.
//!
//! - Element-wise, [`Dropout`]: a decision takes 16 random bits, and p is met to 2^-17. Element `e` of a row-major tensor takes half
//!   `e % 8` of Philox block `e / 8` (half `j` is the low, for even j, or high half of word `j / 2`) and is kept where that is at least
//!   `round(p * 65536)`. A thread that loads eight neighbours draws once; memory is what limits it.
//! - Attention, [`AttentionDropout`]: a decision takes 8 bits, and p is met to 1 / 512 (0.1 is 26 / 256 = 0.1016), as FlashAttention does
//!   it. There arithmetic is the limit, and half of the bits cost half as much (`kernels/notes/attention.md`).

use rayon::prelude::*;

use super::{Real, real};
use crate::philox::Philox;

/// A dropout as the kernels take it: `struct Dropout` of `kernels/common/dropout.cuh`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct DropoutArgument {
    key: [u32; 2],
    step: u32,
    stream: u32,
    threshold: u32,
    scale: f32,
}

impl DropoutArgument {
    /// The argument for `dropout`; with `None`, one that drops nothing.
    pub fn of(dropout: Option<Dropout>) -> Self {
        Self::new(dropout.map(|dropout| (dropout.philox, dropout.threshold.into(), dropout.scale())))
    }

    fn new(dropout: Option<(Philox, u32, f64)>) -> Self {
        let Some((Philox { key, step, stream }, threshold, scale)) = dropout else {
            return Self { scale: 1.0, ..bytemuck::Zeroable::zeroed() };
        };
        Self { key, step, stream, threshold, scale: scale as f32 }
    }
}

/// A dropout as attention's kernels take it: `struct AttentionDropout` of `kernels/common/attention_dropout.cuh`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct AttentionDropoutArgument {
    dropout: DropoutArgument,
    /// Ones where a bit of the threshold is 0, lowest bit first.
    clear: [u32; 8],
}

impl AttentionDropoutArgument {
    /// The argument for `dropout`; with `None`, one that drops nothing.
    pub fn of(dropout: Option<AttentionDropout>) -> Self {
        let whole = dropout.map(|dropout| (dropout.philox, dropout.threshold.into(), dropout.scale()));
        Self { dropout: DropoutArgument::new(whole), clear: clear_bits(dropout.map_or(0, |dropout| dropout.threshold)) }
    }
}

/// Ones where a bit of the threshold is 0, lowest bit first: 32 comparisons at once read it so.
#[inline(always)]
fn clear_bits(threshold: u8) -> [u32; 8] {
    std::array::from_fn(|bit| (u32::from(threshold) >> bit & 1).wrapping_sub(1))
}

/// One element-wise dropout in one step.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    philox: Philox,
    threshold: u16,
}

impl Dropout {
    /// Dropout with probability `p` (0 <= p < 1) drawing from `philox`; `None` when `p` drops nothing.
    pub fn new(p: f64, philox: Philox) -> Option<Self> {
        let threshold = (p * 65536.0).round().clamp(0.0, 65535.0) as u16;
        (threshold > 0).then_some(Self { philox, threshold })
    }

    /// What kept elements are multiplied with.
    #[inline(always)]
    pub fn scale(&self) -> f64 {
        65536.0 / (65536.0 - f64::from(self.threshold))
    }

    /// Multiplies `values` with their mask; `first` is the index of the first of them in the whole tensor.
    /// To be called inside [`real::dispatch`].
    #[inline(always)]
    pub(crate) fn apply<T: Real>(&self, values: &mut [T], first: u64) {
        let scale = T::of(self.scale());
        let mut skip = (first % 8) as usize;
        let mut block = first / 8;
        let mut rest = values;
        while !rest.is_empty() {
            let words = lanes::<LANES>(&self.philox, block);
            let mut halves = [0u16; LANES * 8];
            for lane in 0..LANES {
                for (word, values) in words.iter().enumerate() {
                    halves[lane * 8 + word * 2] = values[lane] as u16;
                    halves[lane * 8 + word * 2 + 1] = (values[lane] >> 16) as u16;
                }
            }
            let count = rest.len().min(halves.len() - skip);
            let (now, later) = rest.split_at_mut(count);
            for (value, &half) in now.iter_mut().zip(&halves[skip..]) {
                *value = if half >= self.threshold { *value * scale } else { T::ZERO };
            }
            rest = later;
            skip = 0;
            block += LANES as u64;
        }
    }
}

/// Philox blocks drawn at once.
const LANES: usize = 16;

/// The words of the blocks `first..first + N`, word by word.
#[inline(always)]
fn lanes<const N: usize>(philox: &Philox, first: u64) -> [[u32; N]; 4] {
    let mut words = [[0u32; N]; 4];
    for lane in 0..N {
        let block = philox.seven_rounds(first + lane as u64);
        for (word, value) in words.iter_mut().zip(block) {
            word[lane] = value;
        }
    }
    words
}

/// `values *= mask` on all cores: forward and backward of a dropout that stands alone.
pub fn apply<T: Real>(values: &mut [T], dropout: &Dropout) {
    const CHUNK: usize = 1 << 13;
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        real::dispatch(
            #[inline(always)]
            || dropout.apply(values, (chunk * CHUNK) as u64),
        );
    });
}

/// Dropout of the attention probabilities of one layer in one step.
///
/// Probabilities come in tiles of 16 x 16 of (query, key), counted from the start of the sequence. A tile takes sixteen Philox blocks,
/// eight sources of two. The eight words of a source are the bits of 32 numbers below 256, lowest bits first; an element is kept
/// where its number is at least `round(p * 256)`. With the bits of query and key numbered from 0, an element takes
///
/// ```text
/// source   4 query2 + 2 query1 + key2
/// number   16 key1 + 8 query0 + 4 key0 + 2 key3 + query3
/// block    query_tile << 17 | key_tile << 4 | source << 1 | (0 for the lower four bits, 1 for the upper)
/// ```
///
/// with `sequence * heads + head` in the upper 32 bits of the block's index; a sequence may have 131,072 tokens. Why so:
/// `kernels/common/attention_dropout.cuh`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDropout {
    philox: Philox,
    threshold: u8,
}

/// Side of a tile.
pub const TILE: usize = 16;

impl AttentionDropout {
    /// Dropout with probability `p` (0 <= p < 1) drawing from `philox`; `None` when `p` is 0. What is above 0 is 1 / 256 at least.
    pub fn new(p: f64, philox: Philox) -> Option<Self> {
        (p > 0.0).then(|| Self { philox, threshold: (p * 256.0).round().clamp(1.0, 255.0) as u8 })
    }

    /// What kept probabilities are multiplied with.
    pub fn scale(&self) -> f64 {
        256.0 / (256.0 - f64::from(self.threshold))
    }

    /// The multiplier (0 or the scale) of one probability of head number `head` (`sequence * heads + head`): the layout above,
    /// element by element.
    pub fn multiplier(&self, head: usize, query: usize, key: usize) -> f64 {
        let bit = |value: usize, bit: usize| value >> bit & 1;
        let source = 4 * bit(query, 2) + 2 * bit(query, 1) + bit(key, 2);
        let number = 16 * bit(key, 1) + 8 * bit(query, 0) + 4 * bit(key, 0) + 2 * bit(key, 3) + bit(query, 3);
        let index = tile_index(head, query / TILE, key / TILE) | (source as u64) << 1;
        let words = [0, 1].map(|half| self.philox.seven_rounds(index | half)).concat();
        let drawn: u32 = words.iter().enumerate().map(|(i, word)| (word >> number & 1) << i).sum();
        if drawn >= u32::from(self.threshold) { self.scale() } else { 0.0 }
    }

    /// Writes the multipliers (0 or the scale) of one tile to `mask`. To be called inside [`real::dispatch`].
    #[inline(always)]
    pub(crate) fn tile<T: Real>(&self, head: usize, query_tile: usize, key_tile: usize, mask: &mut [[T; TILE]; TILE]) {
        let words = lanes::<16>(&self.philox, tile_index(head, query_tile, key_tile));
        let mut keep = [u32::MAX; 8];
        for (bit, clear) in clear_bits(self.threshold).into_iter().enumerate() {
            for (source, keep) in keep.iter_mut().enumerate() {
                let word = words[bit % 4][2 * source + bit / 4];
                // At the lowest bits so far, `keep` says which numbers are at least the threshold. Of two equal bits it still does;
                // otherwise the number's own bit decides.
                *keep = (word & *keep) | (word & clear) | (*keep & clear);
            }
        }
        let scale = T::of(self.scale());
        for (query, row) in mask.iter_mut().enumerate() {
            let sources = &keep[query / 2 % 4 * 2..][..2];
            for (key, value) in row.iter_mut().enumerate() {
                let number = 16 * (key / 2 % 2) + 8 * (query % 2) + 4 * (key % 2) + 2 * (key / 8) + query / 8;
                *value = if sources[key / 4 % 2] >> number & 1 != 0 { scale } else { T::ZERO };
            }
        }
    }
}

/// The first of a tile's sixteen blocks.
#[inline(always)]
fn tile_index(head: usize, query_tile: usize, key_tile: usize) -> u64 {
    (head as u64) << 32 | (query_tile as u64) << 17 | (key_tile as u64) << 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Purpose;

    #[test]
    fn pieces_of_a_tensor_see_the_mask_of_the_whole() {
        let dropout = Dropout::new(0.3, Philox::of(1, 2, Purpose::Dropout)).unwrap();
        let mut whole = vec![1.0f32; 1000];
        dropout.apply(&mut whole, 0);
        for (start, end) in [(0, 5), (5, 300), (300, 777), (777, 1000)] {
            let mut piece = vec![1.0f32; end - start];
            dropout.apply(&mut piece, start as u64);
            assert_eq!(piece, whole[start..end]);
        }
        let block = dropout.philox.seven_rounds(7);
        let kept = (block[2] >> 16) as u16 >= dropout.threshold;
        assert_eq!(whole[7 * 8 + 5] != 0.0, kept);
    }

    #[test]
    fn keeps_the_mean_and_drops_the_share() {
        let dropout = Dropout::new(0.1, Philox::of(1, 2, Purpose::Dropout)).unwrap();
        let mut values = vec![1.0f64; 1 << 18];
        apply(&mut values, &dropout);
        let dropped = values.iter().filter(|&&value| value == 0.0).count() as f64 / values.len() as f64;
        assert!((dropped - 0.1).abs() < 0.003, "{dropped}");
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!((mean - 1.0).abs() < 0.003, "{mean}");
        assert!(Dropout::new(0.0, Philox::of(1, 2, Purpose::Dropout)).is_none());
    }

    #[test]
    fn attention_tiles_follow_the_documented_layout() {
        for p in [0.002, 0.1, 0.5, 0.7] {
            let dropout = AttentionDropout::new(p, Philox::of(9, 1, Purpose::Dropout)).unwrap();
            let mut mask = [[f32::NAN; TILE]; TILE];
            dropout.tile(5, 2, 3, &mut mask);
            for (query, row) in mask.iter().enumerate() {
                for (key, &value) in row.iter().enumerate() {
                    assert_eq!(
                        f64::from(value),
                        f64::from(dropout.multiplier(5, 2 * TILE + query, 3 * TILE + key) as f32)
                    );
                }
            }
        }
    }

    #[test]
    fn attention_rounds_its_probability_to_256ths_and_never_to_none() {
        let of = |p| AttentionDropout::new(p, Philox::of(1, 2, Purpose::Dropout));
        assert!(of(0.0).is_none());
        for (p, threshold) in [(1e-9, 1), (0.1, 26), (0.5, 128), (0.999, 255)] {
            let dropout = of(p).unwrap();
            assert_eq!(dropout.threshold, threshold, "{p}");
            assert_eq!(dropout.scale() * f64::from(256 - u32::from(threshold)), 256.0);
        }
    }

    /// Seven rounds, and the way that numbers are cut out of the words, against the chi-squared distribution: how often elements are
    /// dropped, and how often two of them together, for all that a model could notice: neighbours of any kind.
    #[test]
    fn attention_drops_evenly_and_independently() {
        let (side, heads) = (16 * TILE, 4);
        let masks: Vec<Vec<bool>> = (0..heads * 2)
            .map(|draw| {
                let philox = Philox::new(3, draw as u32 / heads as u32, Purpose::Dropout as u32);
                let dropout = AttentionDropout::new(0.1, philox).unwrap();
                let mut dropped = vec![false; side * side];
                let mut mask = [[0f64; TILE]; TILE];
                for (query_tile, key_tile) in (0..side / TILE).flat_map(|q| (0..side / TILE).map(move |k| (q, k))) {
                    dropout.tile(draw % heads, query_tile, key_tile, &mut mask);
                    for (query, row) in mask.iter().enumerate() {
                        let at = (query_tile * TILE + query) * side + key_tile * TILE;
                        row.iter().zip(&mut dropped[at..]).for_each(|(&value, slot)| *slot = value == 0.0);
                    }
                }
                dropped
            })
            .collect();
        let p = 26.0 / 256.0;
        // Five standard deviations of a count of `trials` with probability `p`: one chance in a million and a half.
        let agrees = |what: &str, found: usize, trials: usize, p: f64| {
            let (expected, deviation) = (trials as f64 * p, (trials as f64 * p * (1.0 - p)).sqrt());
            assert!((found as f64 - expected).abs() < 5.0 * deviation, "{what}: {found} of {trials}, not {expected}");
        };
        let at = |mask: &[bool], query: usize, key: usize| mask[query * side + key];
        let all = || (0..side).flat_map(|query| (0..side).map(move |key| (query, key)));
        agrees("all", masks.iter().flatten().filter(|&&dropped| dropped).count(), masks.len() * side * side, p);
        for place in 0..TILE * TILE {
            let here = |&(query, key): &(usize, usize)| (query % TILE, key % TILE) == (place / TILE, place % TILE);
            let found = all().filter(here).map(|(q, k)| masks.iter().filter(|mask| at(mask, q, k)).count()).sum();
            agrees(&format!("place {place}"), found, masks.len() * side * side / (TILE * TILE), p);
        }
        for (rows, columns) in (0..=17).flat_map(|rows| (0..=17).map(move |columns| (rows, columns))).skip(1) {
            let inside = |&(query, key): &(usize, usize)| query + rows < side && key + columns < side;
            let both = |(q, k)| masks.iter().filter(|mask| at(mask, q, k) && at(mask, q + rows, k + columns)).count();
            let found = all().filter(inside).map(both).sum();
            let trials = masks.len() * (side - rows) * (side - columns);
            agrees(&format!("{rows} queries and {columns} keys apart"), found, trials, p * p);
        }
        for (one, other) in (0..masks.len()).flat_map(|one| (one + 1..masks.len()).map(move |other| (one, other))) {
            let found = masks[one].iter().zip(&masks[other]).filter(|&(&a, &b)| a && b).count();
            agrees(&format!("heads or steps {one} and {other}"), found, side * side, p * p);
        }
        // Of sixteen neighbours, how many are dropped: the binomial distribution, by chi-squared with 7 degrees of freedom.
        let mut counts = [0usize; 8];
        for row in masks.iter().flat_map(|mask| mask.chunks(TILE)) {
            counts[row.iter().filter(|&&dropped| dropped).count().min(7)] += 1;
        }
        let total = counts.iter().sum::<usize>() as f64;
        let mut chances = [0.0; 8];
        let mut chance = (1.0 - p).powi(16);
        for count in 0..=16 {
            chances[count.min(7)] += chance;
            chance *= (16 - count) as f64 / (count + 1) as f64 * p / (1.0 - p);
        }
        let chi_squared: f64 =
            counts.iter().zip(chances).map(|(&n, chance)| (n as f64 - total * chance).powi(2) / (total * chance)).sum();
        // Exceeded once in 1,000 times.
        assert!(chi_squared < 24.3, "{chi_squared}");
    }

    /// Element-wise dropout, likewise.
    #[test]
    fn elements_drop_evenly_and_independently() {
        let count = 1 << 19;
        let dropout = Dropout::new(0.1, Philox::of(5, 2, Purpose::Dropout)).unwrap();
        let mut values = vec![1.0f32; count];
        apply(&mut values, &dropout);
        let dropped: Vec<bool> = values.iter().map(|&value| value == 0.0).collect();
        let p = f64::from(dropout.threshold) / 65536.0;
        for distance in (1..130).chain([512, 768, 1 << 10, 3072, 1 << 16]) {
            let trials = (count - distance) as f64;
            let found = dropped.iter().zip(&dropped[distance..]).filter(|&(&a, &b)| a && b).count() as f64;
            let deviation = (trials * p * p * (1.0 - p * p)).sqrt();
            assert!((found - trials * p * p).abs() < 5.0 * deviation, "{distance} apart: {found}");
        }
        for place in 0..8 {
            let trials = (count / 8) as f64;
            let found = dropped.iter().skip(place).step_by(8).filter(|&&dropped| dropped).count() as f64;
            assert!((found - trials * p).abs() < 5.0 * (trials * p * (1.0 - p)).sqrt(), "place {place}: {found}");
        }
    }
}
