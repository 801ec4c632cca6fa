//! Cosines between vectors of genes.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::vectors::GeneVectors;
use crate::device::cpu::gemm::{Threads, View, Write, gemm};

/// Genes whose cosines with all others are computed at a time.
const BLOCK: usize = 64;

/// Vectors of length 1, in the order of the genes; those of length 0 stay so, and have a cosine of 0 with any other.
pub struct UnitVectors {
    /// Numbers of a vector.
    dimension: usize,
    /// `[genes, dimension]`.
    values: Vec<f32>,
    /// Genes whose vector has length 0.
    pub zeros: usize,
}

impl UnitVectors {
    /// The directions of `vectors`.
    pub fn of(vectors: &GeneVectors) -> Self {
        let mut values = vectors.values.clone();
        let mut zeros = 0;
        for row in values.chunks_exact_mut(vectors.dimension.max(1)) {
            let norm = norm(row);
            if norm > 0.0 {
                row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
            } else {
                zeros += 1;
            }
        }
        Self { dimension: vectors.dimension, values, zeros }
    }

    /// Number of genes.
    pub fn len(&self) -> usize {
        self.values.len() / self.dimension.max(1)
    }

    /// Whether there is no gene.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn row(&self, gene: usize) -> &[f32] {
        &self.values[gene * self.dimension..(gene + 1) * self.dimension]
    }

    /// The mean cosine over all pairs of `genes`, of which there are two at least. Pairs are not gone through: the sum of their products is half
    /// of what the squared length of the sum of the vectors has more than the sum of their squared lengths.
    pub fn mean_cosine(&self, genes: &[usize]) -> f64 {
        let mut sum = vec![0.0_f64; self.dimension];
        let mut squares = 0.0;
        for &gene in genes {
            for (sum, &value) in sum.iter_mut().zip(self.row(gene)) {
                *sum += f64::from(value);
                squares += f64::from(value).powi(2);
            }
        }
        let square_of_sum: f64 = sum.iter().map(|value| value * value).sum();
        let pairs = genes.len() as f64 * (genes.len() as f64 - 1.0);
        (square_of_sum - squares) / pairs
    }

    /// The `top` genes with the largest cosine with `sum of plus - sum of minus` (of vectors of length 1: 3CosAdd; Mikolov, Yih, Zweig, 2013), none
    /// of which is among them; equals in the order of the genes.
    pub fn nearest(&self, plus: &[usize], minus: &[usize], top: usize) -> Vec<(usize, f64)> {
        let mut query = vec![0.0_f64; self.dimension];
        for (genes, sign) in [(plus, 1.0), (minus, -1.0)] {
            for &gene in genes {
                query.iter_mut().zip(self.row(gene)).for_each(|(sum, &value)| *sum += sign * f64::from(value));
            }
        }
        let length = query.iter().map(|value| value * value).sum::<f64>().sqrt();
        let cosine = |gene: usize| {
            let product: f64 = query.iter().zip(self.row(gene)).map(|(query, &value)| query * f64::from(value)).sum();
            if length > 0.0 { product / length } else { 0.0 }
        };
        let others = (0..self.len()).into_par_iter().filter(|gene| !plus.contains(gene) && !minus.contains(gene));
        best(others.map(|gene| (gene, cosine(gene))).collect(), top)
    }

    /// For each gene the `count` others with the largest cosines, in falling order.
    pub fn all_nearest(&self, count: usize) -> Vec<Vec<(usize, f64)>> {
        let all = self.len();
        let right = View::new(&self.values, all, self.dimension).transposed();
        let blocks = self.values.par_chunks(BLOCK * self.dimension.max(1)).enumerate();
        let of_block = |(block, values): (usize, &[f32])| {
            let rows = values.len() / self.dimension;
            let mut products = vec![0.0_f32; rows * all];
            let left = View::new(values, rows, self.dimension);
            gemm(&mut products, all, Write::Replace, left, right, 1.0, Threads::One);
            let of_row = |(row, products): (usize, &[f32])| {
                let gene = block * BLOCK + row;
                let others = products.iter().enumerate().filter(|(other, _)| *other != gene);
                best(others.map(|(other, &cosine)| (other, f64::from(cosine))).collect(), count)
            };
            products.chunks_exact(all).enumerate().map(of_row).collect::<Vec<_>>()
        };
        let blocks: Vec<Vec<Vec<(usize, f64)>>> = blocks.map(of_block).collect();
        blocks.into_iter().flatten().collect()
    }
}

/// The length of a vector.
pub fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// The `top` with the largest cosines, in falling order.
fn best(mut cosines: Vec<(usize, f64)>, top: usize) -> Vec<(usize, f64)> {
    let falling =
        |one: &(usize, f64), other: &(usize, f64)| -> Ordering { other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)) };
    if top == 0 {
        return Vec::new();
    }
    if top < cosines.len() {
        cosines.select_nth_unstable_by(top - 1, falling);
        cosines.truncate(top);
    }
    cosines.sort_unstable_by(falling);
    cosines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Philox;

    fn vectors(genes: usize, dimension: usize) -> GeneVectors {
        let value = |at: usize| (Philox::new(1, 0, 0).normal(at as u64) + 0.3) as f32;
        GeneVectors {
            genes: (0..genes).map(|gene| format!("G{gene}")).collect(),
            dimension,
            values: (0..genes * dimension).map(value).collect(),
        }
    }

    fn cosine(vectors: &GeneVectors, one: usize, other: usize) -> f64 {
        let (one, other) = (vectors.vector(one), vectors.vector(other));
        let product: f64 = one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum();
        product / (norm(one) * norm(other))
    }

    #[test]
    fn a_mean_of_cosines_is_that_of_all_pairs() {
        let vectors = vectors(40, 7);
        let unit = UnitVectors::of(&vectors);
        let genes: Vec<usize> = (3..31).step_by(2).collect();
        let pairs = genes
            .iter()
            .flat_map(|&one| genes.iter().filter(move |other| **other > one).map(move |&other| (one, other)));
        let cosines: Vec<f64> = pairs.map(|(one, other)| cosine(&vectors, one, other)).collect();
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        assert!((unit.mean_cosine(&genes) - mean).abs() < 1e-7);
    }

    #[test]
    fn nearest_are_those_with_the_largest_cosines() {
        let vectors = vectors(2 * BLOCK + 5, 9);
        let unit = UnitVectors::of(&vectors);
        for gene in [0, BLOCK, 2 * BLOCK + 4] {
            let mut expected: Vec<usize> = (0..vectors.genes.len()).filter(|&other| other != gene).collect();
            expected.sort_by(|&a, &b| cosine(&vectors, gene, b).total_cmp(&cosine(&vectors, gene, a)));
            let found = unit.nearest(&[gene], &[], 6);
            let names = |found: &[(usize, f64)]| found.iter().map(|(gene, _)| *gene).collect::<Vec<_>>();
            assert_eq!(names(&found), expected[..6]);
            assert!((found[0].1 - cosine(&vectors, gene, expected[0])).abs() < 1e-6);
            assert_eq!(names(&unit.all_nearest(6)[gene]), expected[..6]);
        }
    }

    #[test]
    fn a_vector_of_length_zero_is_like_nothing() {
        let mut vectors = vectors(4, 3);
        vectors.values[..3].fill(0.0);
        let unit = UnitVectors::of(&vectors);
        assert_eq!(unit.zeros, 1);
        assert!(unit.nearest(&[0], &[], 9).iter().all(|(_, cosine)| *cosine == 0.0));
        let three = unit.mean_cosine(&[1, 2, 3]) * 3.0;
        assert!((unit.mean_cosine(&[0, 1, 2, 3]) * 6.0 - three).abs() < 1e-6);
    }
}
