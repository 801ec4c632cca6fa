//! Which words are more frequent in one set of sequences than in another.

use std::collections::{BTreeMap, BTreeSet};

/// For each word the number of sequences that contain it.
pub fn count<'a>(words: &BTreeSet<&[u8]>, sequences: impl Iterator<Item = &'a [u8]>) -> Vec<u64> {
    let lengths: BTreeSet<usize> = words.iter().map(|word| word.len()).collect();
    let mut counts: BTreeMap<&[u8], u64> = words.iter().map(|word| (*word, 0)).collect();
    for bases in sequences {
        // A word is counted once in a sequence, however often it is there.
        let mut found: BTreeSet<&[u8]> = BTreeSet::new();
        for &length in &lengths {
            found.extend(bases.windows(length).filter_map(|window| words.get(window).copied()));
        }
        found.into_iter().for_each(|word| *counts.entry(word).or_default() += 1);
    }
    counts.into_values().collect()
}

/// The probability of at least `found` marked ones in a sample of `sample` out of `total`, of which `marked` are marked:
/// the upper tail of the hypergeometric distribution.
pub fn hypergeometric_tail(found: u64, total: u64, sample: u64, marked: u64) -> f64 {
    let least = (sample + marked).saturating_sub(total).max(found);
    let most = sample.min(marked);
    if found <= (sample + marked).saturating_sub(total) {
        return 1.0;
    }
    let log_all = log_choose(total, sample);
    // The largest first: what follows is added to something larger.
    let terms = (least..=most).map(|x| log_choose(marked, x) + log_choose(total - marked, sample - x) - log_all);
    let mut terms: Vec<f64> = terms.map(f64::exp).collect();
    terms.sort_by(f64::total_cmp);
    terms.iter().sum::<f64>().min(1.0)
}

fn log_choose(n: u64, k: u64) -> f64 {
    let log_factorial = |n: u64| libm::lgamma(n as f64 + 1.0);
    log_factorial(n) - log_factorial(k) - log_factorial(n - k)
}

/// P-values adjusted for their number by Benjamini and Hochberg (1995): the smallest false discovery rate at which each
/// passes.
pub fn adjusted(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&one, &other| p_values[one].total_cmp(&p_values[other]));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut least = 1.0_f64;
    for (rank, &index) in order.iter().enumerate().rev() {
        least = least.min(p_values[index] * p_values.len() as f64 / (rank + 1) as f64);
        adjusted[index] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By multiplying out, in exact integers.
    fn exact(found: u64, total: u64, sample: u64, marked: u64) -> f64 {
        let choose = |n: u64, k: u64| -> u128 {
            if k > n { 0 } else { (0..k).fold(1, |product, i| product * u128::from(n - i) / u128::from(i + 1)) }
        };
        let of = |x: u64| if x > sample { 0 } else { choose(marked, x) * choose(total - marked, sample - x) };
        (found..=marked).map(of).sum::<u128>() as f64 / choose(total, sample) as f64
    }

    #[test]
    fn tails_against_exact_sums() {
        for total in 1..14 {
            for sample in 0..=total {
                for marked in 0..=total {
                    for found in 0..=marked.min(sample) {
                        let (tail, exact) =
                            (hypergeometric_tail(found, total, sample, marked), exact(found, total, sample, marked));
                        assert!((tail - exact).abs() < 1e-9, "{found} {total} {sample} {marked}: {tail} {exact}");
                    }
                }
            }
        }
        // Expected are 6 of 60.
        let tail = hypergeometric_tail(30, 1000, 100, 60);
        assert!(tail > 0.0 && tail < 1e-15);
    }

    #[test]
    fn adjusted_as_in_the_paper() {
        // By hand: sorted, times 5 over the rank, the running minimum from the largest.
        let adjusted = adjusted(&[0.01, 0.04, 0.03, 0.5, 0.005]);
        let expected = [0.025, 0.05, 0.05, 0.5, 0.025];
        adjusted.iter().zip(expected).for_each(|(found, expected)| assert!((found - expected).abs() < 1e-12));
        // Whoever passes takes all with smaller p-values along.
        let adjusted = super::adjusted(&[0.02, 0.021, 0.01]);
        assert!(adjusted.iter().all(|found| (found - 0.021).abs() < 1e-12), "{adjusted:?}");
    }

    #[test]
    fn a_sequence_counts_once() {
        let words = BTreeSet::from([b"AAA".as_slice(), b"ACG", b"TTTT"]);
        let sequences: [&[u8]; 3] = [b"AAAAA", b"ACGACG", b"TTAAAC"];
        assert_eq!(count(&words, sequences.into_iter()), [2, 1, 0]);
    }
}
