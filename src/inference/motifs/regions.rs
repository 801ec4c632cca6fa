//! Regions of high attention.

use std::ops::Range;

/// The runs of at least `min_length` bases whose attention lies above the sequence's mean and above ten times its minimum
/// (DNABERT's two conditions).
pub fn high_attention(attention: &[f32], min_length: usize) -> Vec<Range<usize>> {
    if attention.is_empty() {
        return Vec::new();
    }
    let mean = attention.iter().map(|&value| f64::from(value)).sum::<f64>() / attention.len() as f64;
    let least = attention.iter().fold(f64::INFINITY, |least, &value| least.min(value.into()));
    let threshold = mean.max(10.0 * least);
    let mut regions = Vec::new();
    let mut start = None;
    for index in 0..=attention.len() {
        let is_high = attention.get(index).is_some_and(|&value| f64::from(value) > threshold);
        match (is_high, start) {
            (true, None) => start = Some(index),
            (false, Some(first)) => {
                if index - first >= min_length {
                    regions.push(first..index);
                }
                start = None;
            }
            _ => {}
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_above_the_mean_and_ten_minima() {
        let attention = [0.0, 0.9, 0.9, 0.9, 0.1, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9];
        assert_eq!(high_attention(&attention, 3), [1..4, 11..14]);
        assert_eq!(high_attention(&attention, 2), [1..4, 5..7, 11..14]);
        // Above the mean, but not ten times the minimum.
        assert!(high_attention(&[0.1, 0.3, 0.3, 0.3, 0.1, 0.1], 2).is_empty());
        assert!(high_attention(&[0.5; 8], 2).is_empty());
        assert!(high_attention(&[], 2).is_empty());
    }
}
