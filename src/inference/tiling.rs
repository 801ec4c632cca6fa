//! Sequences of any length in windows that a model can read: overlapping, evenly spaced, blended.

use std::ops::Range;

/// How long sequences are cut, in k-mers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// K-mers in a window, at most.
    pub window: usize,
    /// K-mers that neighbouring windows share, at least; less than `window`.
    pub overlap: usize,
}

impl Tiling {
    /// How many windows a sequence of `k_mers` is cut into: one, if it fits; else as few as leave the overlap.
    pub fn count(self, k_mers: usize) -> usize {
        let stride = self.window.saturating_sub(self.overlap).max(1);
        k_mers.saturating_sub(self.window).div_ceil(stride) + 1
    }

    /// Window `index` of such a sequence. All are of full size, at even distances from the first k-mer to the last.
    pub fn window(self, k_mers: usize, index: usize) -> Range<usize> {
        let beyond = k_mers.saturating_sub(self.window);
        let steps = (self.count(k_mers) - 1).max(1);
        let start = (beyond as u128 * index as u128 / steps as u128) as usize;
        start..start + k_mers.min(self.window)
    }
}

/// Joins the rows of overlapping windows. Where several windows know a k-mer, its row is their mean, each weighted with
/// the distance to its nearer end, because a k-mer in the middle has been seen in context on both sides.
pub struct Blend {
    columns: usize,
    /// The k-mer of the first row that is held.
    first: usize,
    sums: Vec<f64>,
    weights: Vec<f64>,
}

impl Blend {
    /// Joins rows of `columns` values.
    pub fn new(columns: usize) -> Self {
        Self { columns, first: 0, sums: Vec::new(), weights: Vec::new() }
    }

    /// Starts with another sequence.
    pub fn restart(&mut self) {
        self.first = 0;
        self.sums.clear();
        self.weights.clear();
    }

    /// Adds a window's rows (`[window.len(), columns]`) and appends those that no later window will touch to `out`: all
    /// up to k-mer `next`, the start of the next window, or the end of the sequence.
    pub fn add(&mut self, window: Range<usize>, rows: &[f32], next: usize, out: &mut Vec<f32>) {
        let held = (window.end - self.first).max(self.weights.len());
        self.sums.resize(held * self.columns, 0.0);
        self.weights.resize(held, 0.0);
        let length = window.len();
        for (place, row) in rows.chunks_exact(self.columns).enumerate() {
            let weight = (place + 1).min(length - place) as f64;
            let at = window.start - self.first + place;
            self.weights[at] += weight;
            let sums = &mut self.sums[at * self.columns..(at + 1) * self.columns];
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += weight * f64::from(value));
        }
        let ready = next - self.first;
        for (sums, weight) in self.sums.chunks_exact(self.columns).zip(&self.weights).take(ready) {
            out.extend(sums.iter().map(|sum| (sum / weight) as f32));
        }
        self.sums.drain(..ready * self.columns);
        self.weights.drain(..ready);
        self.first = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_everything_with_the_overlap_asked_for() {
        for (window, overlap) in [(10, 3), (10, 0), (7, 6), (1, 0), (510, 127)] {
            let tiling = Tiling { window, overlap };
            for k_mers in (1..80).chain([509, 510, 511, 1020, 5000]) {
                let windows: Vec<_> = (0..tiling.count(k_mers)).map(|index| tiling.window(k_mers, index)).collect();
                assert_eq!((windows[0].start, windows[windows.len() - 1].end), (0, k_mers));
                assert!(windows.iter().all(|w| w.len() == k_mers.min(window)));
                for pair in windows.windows(2) {
                    assert!(pair[0].start < pair[1].start && pair[1].start + overlap <= pair[0].end, "{pair:?}");
                }
                // One fewer would leave less.
                let steps = windows.len() - 1;
                assert!(
                    steps == 0 || k_mers - window > (steps - 1) * (window - overlap),
                    "{window} {overlap} {k_mers}"
                );
            }
        }
    }

    #[test]
    fn blended_rows_are_weighted_means() {
        let tiling = Tiling { window: 5, overlap: 3 };
        let k_mers = 12;
        let (mut sums, mut weights) = (vec![0.0; k_mers], vec![0.0; k_mers]);
        let (mut blend, mut out) = (Blend::new(2), Vec::new());
        for round in 0..2 {
            out.clear();
            blend.restart();
            let windows: Vec<_> = (0..tiling.count(k_mers)).map(|index| tiling.window(k_mers, index)).collect();
            for (index, window) in windows.iter().enumerate() {
                let value = |place: usize| (index * 100 + place * place) as f32;
                let rows: Vec<f32> = (0..5).flat_map(|place| [value(place), -value(place)]).collect();
                let next = windows.get(index + 1).map_or(k_mers, |next| next.start);
                blend.add(window.clone(), &rows, next, &mut out);
                assert_eq!(out.len(), 2 * next, "what no later window touches is out at once");
                for place in 0..5 {
                    let weight = [1.0, 2.0, 3.0, 2.0, 1.0][place];
                    sums[window.start + place] += weight * f64::from(value(place)) * f64::from(1 - round);
                    weights[window.start + place] += weight * f64::from(1 - round);
                }
            }
            for (row, (sum, weight)) in out.chunks(2).zip(sums.iter().zip(&weights)) {
                assert!((f64::from(row[0]) - sum / weight).abs() < 1e-4 && row[0] == -row[1]);
            }
        }
    }
}
