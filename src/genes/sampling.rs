//! What is drawn while vectors are trained, bit for bit as gensim draws it: which words are passed over, and the negatives.

use crate::{Error, Result};

/// The linear congruential generator of java.util.Random, of 48 bits, of which the upper 32 are used.
#[derive(Clone, Copy, Debug)]
pub struct Congruential(pub u64);

impl Congruential {
    const MASK: u64 = (1 << 48) - 1;

    /// The next 32 bits.
    #[inline(always)]
    pub fn word(&mut self) -> u32 {
        let word = (self.0 >> 16) as u32;
        self.0 = self.0.wrapping_mul(25_214_903_917).wrapping_add(11) & Self::MASK;
        word
    }
}

/// Genes with a probability that is a power of their count (Mikolov et al., 2013, section 2.2: 0.75).
#[derive(Clone, Debug)]
pub struct NegativeTable {
    /// Of each gene: the share of it and all before it, in units of `1 / END`.
    cumulative: Vec<u32>,
    /// Of each stretch of `1 << shift` units: the first gene that ends in it or behind it.
    guide: Vec<u32>,
    shift: u32,
}

/// The end of the last gene.
const END: u32 = (1 << 31) - 1;

impl NegativeTable {
    /// For genes of these counts.
    pub fn new(counts: &[u64], exponent: f64) -> Self {
        let powers = || counts.iter().map(|&count| (count as f64).powf(exponent));
        let total: f64 = powers().sum();
        let mut sum = 0.0;
        let share = |power: f64| {
            sum += power;
            (sum / total * f64::from(END)).round_ties_even() as u32
        };
        let mut cumulative: Vec<u32> = powers().map(share).collect();
        if let Some(last) = cumulative.last_mut() {
            *last = END;
        }
        // About two stretches a gene: then a draw looks at two entries on average.
        let bits = (2 * counts.len().max(1)).next_power_of_two().ilog2().min(31);
        let shift = 31 - bits;
        let mut gene = 0;
        let first = |stretch: u32| {
            while cumulative[gene as usize] < stretch << shift {
                gene += 1;
            }
            gene
        };
        let guide = (0..1 << bits).map(first).collect();
        Self { cumulative, guide, shift }
    }

    /// Where each gene's share ends.
    pub fn ends(&self) -> &[u32] {
        &self.cumulative
    }

    /// The gene that a random word stands for.
    #[inline(always)]
    pub fn gene(&self, word: u32) -> u32 {
        let at = word % END;
        let mut gene = self.guide[(at >> self.shift) as usize];
        while self.cumulative[gene as usize] < at {
            gene += 1;
        }
        gene
    }
}

/// The threshold below which a random word keeps an occurrence of a gene (as it is written in word2vec's program, which differs from the
/// formula in the paper); empty where `sample` is 0: then nothing is passed over, and nothing drawn. A `sample` of 1 or more is a number
/// of occurrences, else a share of all.
///
/// # Errors
/// [`Error::Usage`] for a sample that is no such number.
pub fn keep_thresholds(counts: &[u64], sample: f64) -> Result<Vec<u32>> {
    if !(sample >= 0.0 && sample.is_finite()) {
        let found = format!("--sample {sample}");
        return Err(Error::usage(found, "give a share such as 1e-3, or 0 to use every occurrence"));
    }
    if sample == 0.0 {
        return Ok(Vec::new());
    }
    let total: f64 = counts.iter().map(|&count| count as f64).sum();
    let threshold = match sample < 1.0 {
        true => sample * total,
        false => (sample * (3.0 + 5f64.sqrt()) / 2.0).trunc(),
    };
    let keep = |&count: &u64| {
        let count = count as f64;
        let probability = ((count / threshold).sqrt() + 1.0) * (threshold / count);
        (probability.min(1.0) * f64::from(u32::MAX)) as u32
    };
    Ok(counts.iter().map(keep).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genes_are_those_of_a_search_in_the_shares() {
        let many: Vec<u64> = (0..5000).map(|index| 1 + 1_000_000 / (index + 1)).collect();
        let rare: Vec<u64> = [&[1 << 40][..], &[1; 3000]].concat();
        for counts in [&many[..], &rare, &[7], &[3, 3]] {
            let table = NegativeTable::new(counts, 0.75);
            let mut random = Congruential(1);
            let edges =
                table.cumulative.iter().flat_map(|&edge| [edge.saturating_sub(1), edge, edge.saturating_add(1)]);
            let words: Vec<u32> = edges.chain((0..10_000).map(|_| random.word())).chain([0, END, u32::MAX]).collect();
            for word in words {
                let expected = table.cumulative.partition_point(|&end| end < word % END);
                assert_eq!(table.gene(word) as usize, expected, "{word} of {}", counts.len());
            }
        }
    }

    #[test]
    fn shares_are_powers_of_counts() {
        let table = NegativeTable::new(&[16, 1], 0.75);
        let mut random = Congruential(42);
        let first = (0..90_000).filter(|_| table.gene(random.word()) == 0).count();
        assert!((79_500..80_500).contains(&first), "8 of 9: {first}");
    }

    #[test]
    fn frequent_genes_are_passed_over() {
        assert!(keep_thresholds(&[1, 2], 0.0).unwrap().is_empty());
        assert!(keep_thresholds(&[1, 2], -1.0).is_err() && keep_thresholds(&[1, 2], f64::NAN).is_err());
        let keep = keep_thresholds(&[10_000, 1], 1e-3).unwrap();
        let expected = (1000.0f64.sqrt() + 1.0) * 1e-3;
        assert!((f64::from(keep[0]) / f64::from(u32::MAX) - expected).abs() < 1e-5, "{keep:?}");
        assert_eq!(keep[1], u32::MAX);
    }
}
