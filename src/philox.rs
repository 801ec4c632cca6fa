//! Philox4x32, the counter-based generator behind every random choice.
//!
//! Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A block of four 32-bit words is
//! a pure function of (seed, step, stream, index), so a thread count, a restart or another device changes nothing. It takes ten
//! rounds, as the authors recommend; dropout, which draws far more than anything else, takes seven, the fewest that passed
//! all their tests (table 2).

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// What a stream of random numbers is for. Two uses never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Where pretraining windows lie, how long they are, which strand.
    Corpus = 1,
    /// Which tokens are masked and what replaces them.
    Masking = 2,
    /// Initial weights.
    Init = 3,
    /// The order of fine-tuning examples.
    Shuffle = 4,
    /// Dropout; add the number of the dropout site.
    Dropout = 0x100,
    /// Choosing splice negatives and splits.
    Splice = 6,
    /// Bootstrap resampling.
    Bootstrap = 7,
    /// Random blocks of a block-sparse attention; steps are rows of blocks.
    AttentionPattern = 8,
    /// Which way AdamW rounds bf16 weights that have no f32 copy.
    Rounding = 9,
    /// Which gene has which name, to see what a score is worth.
    GenePermutation = 20,
    /// Directions of vectors that know nothing.
    RandomVectors = 21,
    /// Which part a pair of genes, or a gene, is in.
    PairSplit = 22,
    /// Where the points of a map begin.
    Map = 23,
    /// Which part of a round a pair of genes falls into; steps are rounds.
    PairParts = 10,
    /// The order of pairs in each part; steps are rounds.
    PairOrder = 11,
    /// Which block a gene falls into; steps are rounds.
    GeneBlocks = 12,
    /// Where generators of blocks start; steps are rounds.
    BlockDraws = 13,
}

/// One stream of random blocks, addressed by index.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    /// The key: the seed's low and high halves.
    pub key: [u32; 2],
    /// The training step (counter word 2).
    pub step: u32,
    /// The stream (counter word 3).
    pub stream: u32,
}

impl Philox {
    /// The stream `stream` of `step` under `seed`.
    pub fn new(seed: u64, step: u32, stream: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], step, stream }
    }

    /// The stream for `purpose`.
    pub fn of(seed: u64, step: u32, purpose: Purpose) -> Self {
        Self::new(seed, step, purpose as u32)
    }

    /// The four words at `index`.
    #[inline(always)]
    pub fn block(&self, index: u64) -> [u32; 4] {
        self.rounds::<10>(index)
    }

    /// The four words at `index` after seven rounds: for dropout.
    #[inline(always)]
    pub fn seven_rounds(&self, index: u64) -> [u32; 4] {
        self.rounds::<7>(index)
    }

    #[inline(always)]
    fn rounds<const ROUNDS: usize>(&self, index: u64) -> [u32; 4] {
        rounds::<ROUNDS>([index as u32, (index >> 32) as u32, self.step, self.stream], self.key)
    }

    /// A double in [0, 1) with 53 random bits, at `index`.
    pub fn uniform(&self, index: u64) -> f64 {
        let [a, b, ..] = self.block(index);
        let bits = (u64::from(a) << 21) ^ (u64::from(b) >> 11);
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// A standard normal deviate at `index` (Box and Muller, 1958).
    pub fn normal(&self, index: u64) -> f64 {
        let [a, b, ..] = self.block(index);
        let radius = (f64::from(a) + 0.5) / 4_294_967_296.0;
        let angle = (f64::from(b) + 0.5) / 4_294_967_296.0;
        (-2.0 * radius.ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()
    }
}

/// Maps a random word to 0..bound, by the high half of the product (Lemire, 2019, without rejection: the bias is below
/// bound / 2^32, and a device computes the same value with one instruction).
#[inline(always)]
pub fn below(word: u32, bound: u32) -> u32 {
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}

/// As [`below`] for bounds over 32 bits, from two random words.
#[inline(always)]
pub fn below_u64(words: [u32; 2], bound: u64) -> u64 {
    let word = (u64::from(words[0]) << 32) | u64::from(words[1]);
    ((u128::from(word) * u128::from(bound)) >> 64) as u64
}

/// Shuffles `items` in place (Fisher and Yates), drawing from `philox` at indices 0, 1, 2, ...
pub fn shuffle<T>(items: &mut [T], philox: Philox) {
    shuffle_from(items, philox, 0);
}

/// As [`shuffle`], drawing at indices from `first` on: for lists that share a stream.
pub fn shuffle_from<T>(items: &mut [T], philox: Philox, first: u64) {
    for last in (1..items.len()).rev() {
        let [a, b, ..] = philox.block(first + last as u64);
        items.swap(last, below_u64([a, b], last as u64 + 1) as usize);
    }
}

#[inline(always)]
fn rounds<const ROUNDS: usize>(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let left = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let right = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The known-answer vectors published with the Random123 library.
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let pi_key = [0xa409_3822, 0x299f_31d0];
        assert_eq!(rounds::<10>([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(rounds::<10>([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(rounds::<10>(pi, pi_key), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
        assert_eq!(rounds::<7>([0; 4], [0; 2]), [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]);
        assert_eq!(rounds::<7>([u32::MAX; 4], [u32::MAX; 2]), [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]);
        assert_eq!(rounds::<7>(pi, pi_key), [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a]);
    }

    #[test]
    fn moments_of_uniform_and_normal() {
        let philox = Philox::of(7, 3, Purpose::Init);
        let count = 100_000;
        let mean = (0..count).map(|i| philox.uniform(i)).sum::<f64>() / count as f64;
        assert!((mean - 0.5).abs() < 0.004, "{mean}");
        let square = (0..count).map(|i| philox.normal(i).powi(2)).sum::<f64>() / count as f64;
        assert!((square - 1.0).abs() < 0.02, "{square}");
    }

    #[test]
    fn shuffle_is_a_permutation_that_depends_on_the_seed() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..100).collect();
            shuffle(&mut items, Philox::of(seed, 0, Purpose::Shuffle));
            items
        };
        let mut sorted = shuffled(1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(shuffled(1), shuffled(2));
        assert_eq!(shuffled(1), shuffled(1));
    }
}
