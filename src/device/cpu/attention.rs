//! Packed bidirectional attention: `O = dropout(softmax(scale Q K^T)) V` inside each sequence, head by head.
//!
//! Queries are taken in blocks of [`BLOCK`] against all keys of their sequence, so the scores held at a time are
//! `[BLOCK, length]` for each thread, never `[heads, length, length]`. The forward pass keeps the log-sum-exp of each
//! row; the backward pass recomputes the probabilities from it (Dao et al., arXiv 2205.14135, algorithm 4).

use rayon::prelude::*;

use super::dropout::{AttentionDropout, Dropout, TILE};
use super::gemm::{Threads, View, Write, gemm};
use super::{Real, real};

/// Query rows that are worked on at a time; a multiple of the dropout tile.
pub const BLOCK: usize = 128;

/// Shapes and constants of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Where each sequence starts, and the end of the last, `[sequences + 1]`.
    pub cu_seqlens: &'a [i32],
    /// Number of heads.
    pub heads: usize,
    /// Elements of one head's query.
    pub head_dim: usize,
    /// What scores are multiplied with, usually `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}

impl Shape<'_> {
    fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    fn sequences(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.cu_seqlens.windows(2).map(|pair| (pair[0] as usize, pair[1] as usize))
    }

    fn dropout_of(&self, sequence: usize, head: usize) -> Option<AttentionDropout> {
        self.dropout.map(|dropout| AttentionDropout::new(dropout, sequence * self.heads + head))
    }
}

/// The three parts of one head inside packed rows of `[query | key | value]`.
struct Head<'a, T> {
    rows: &'a [T],
    length: usize,
    stride: usize,
    dim: usize,
    offsets: [usize; 3],
}

impl<'a, T: Real> Head<'a, T> {
    fn new(qkv: &'a [T], (start, end): (usize, usize), head: usize, shape: &Shape) -> Self {
        let (hidden, dim) = (shape.hidden(), shape.head_dim);
        let rows = &qkv[start * 3 * hidden..end * 3 * hidden];
        let offsets = [0, 1, 2].map(|part| part * hidden + head * dim);
        Self { rows, length: end - start, stride: 3 * hidden, dim, offsets }
    }

    fn part(&self, part: usize, first: usize, rows: usize) -> View<'a, T> {
        View::strided(&self.rows[first * self.stride + self.offsets[part]..], rows, self.dim, self.stride)
    }

    fn queries(&self, first: usize, rows: usize) -> View<'a, T> {
        self.part(0, first, rows)
    }

    fn keys(&self) -> View<'a, T> {
        self.part(1, 0, self.length)
    }

    fn values(&self) -> View<'a, T> {
        self.part(2, 0, self.length)
    }
}

/// From `qkv` (`[total_tokens, 3 hidden]`: queries, keys and values, each head by head) writes `output`
/// (`[total_tokens, hidden]`) and `log_sum_exp` (`[total_tokens, heads]`).
pub fn forward<T: Real>(qkv: &[T], shape: Shape, output: &mut [T], log_sum_exp: &mut [T]) {
    let hidden = shape.hidden();
    let mut tasks = Vec::new();
    let (mut output, mut log_sum_exp) = (output, log_sum_exp);
    for (sequence, (start, end)) in shape.sequences().enumerate() {
        for first in (0..end - start).step_by(BLOCK) {
            let rows = BLOCK.min(end - start - first);
            let (block_output, rest_output) = output.split_at_mut(rows * hidden);
            let (block_lse, rest_lse) = log_sum_exp.split_at_mut(rows * shape.heads);
            (output, log_sum_exp) = (rest_output, rest_lse);
            tasks.push((sequence, (start, end), first, rows, block_output, block_lse));
        }
    }
    tasks.into_par_iter().for_each_init(Vec::new, |scratch, (sequence, range, first, rows, output, log_sum_exp)| {
        let length = range.1 - range.0;
        scratch.resize(rows * length, T::ZERO);
        for head in 0..shape.heads {
            let parts = Head::new(qkv, range, head, &shape);
            let (queries, keys) = (parts.queries(first, rows), parts.keys().transposed());
            gemm(scratch, length, Write::Replace, queries, keys, T::of(shape.scale), Threads::One);
            let lse = log_sum_exp[head..].iter_mut().step_by(shape.heads);
            softmax(scratch, length, lse);
            if let Some(dropout) = shape.dropout_of(sequence, head) {
                apply_dropout(scratch, length, first, dropout);
            }
            let output = &mut output[head * shape.head_dim..];
            let probabilities = View::new(scratch, rows, length);
            gemm(output, hidden, Write::Replace, probabilities, parts.values(), T::ONE, Threads::One);
        }
    });
}

/// The attention probabilities of some query rows, without dropout: for each of `rows` (indices of tokens, ascending) and
/// each head as many as its sequence has tokens, end to end. Nothing of the size of length times length is made.
pub fn probabilities<T: Real>(qkv: &[T], shape: Shape, rows: &[i32]) -> Vec<T> {
    let mut probabilities = Vec::new();
    let mut rows = rows.iter().map(|&row| row as usize).peekable();
    for (start, end) in shape.sequences() {
        let length = end - start;
        while let Some(row) = rows.next_if(|row| (start..end).contains(row)) {
            for head in 0..shape.heads {
                let parts = Head::new(qkv, (start, end), head, &shape);
                let first = probabilities.len();
                probabilities.resize(first + length, T::ZERO);
                let scores = &mut probabilities[first..];
                let (query, keys) = (parts.queries(row - start, 1), parts.keys().transposed());
                gemm(scores, length, Write::Replace, query, keys, T::of(shape.scale), Threads::One);
                softmax(scores, length, std::iter::once(&mut T::of(0.0)));
            }
        }
    }
    probabilities
}

/// Softmax of each row of `scores` (`[rows, length]`), in place; its log-sum-exp goes to `log_sum_exp`.
fn softmax<'a, T: Real>(scores: &mut [T], length: usize, log_sum_exp: impl Iterator<Item = &'a mut T>) {
    for (row, lse) in scores.chunks_exact_mut(length).zip(log_sum_exp) {
        real::dispatch(
            #[inline(always)]
            || {
                let max = real::lane_max(row);
                for score in row.iter_mut() {
                    *score = (*score - max).exp();
                }
                let sum = real::lane_sum(length, |i| row[i]);
                let inverse = T::ONE / sum;
                for score in row.iter_mut() {
                    *score = *score * inverse;
                }
                *lse = max + sum.ln();
            },
        );
    }
}

/// `values *= mask` for rows `first..` (a multiple of the tile) of one head; `values` is `[rows, length]`.
fn apply_dropout<T: Real>(values: &mut [T], length: usize, first: usize, dropout: AttentionDropout) {
    each_masked_row(values, length, first, dropout, |value, mask| *value = *value * mask);
}

#[inline(always)]
fn each_masked_row<T: Real>(
    values: &mut [T],
    length: usize,
    first: usize,
    dropout: AttentionDropout,
    combine: impl Fn(&mut T, T),
) {
    debug_assert!(first.is_multiple_of(TILE));
    real::dispatch(
        #[inline(always)]
        || {
            let mut mask = [[T::ZERO; TILE]; TILE];
            for (tile, rows) in values.chunks_mut(TILE * length).enumerate() {
                for key in (0..length).step_by(TILE) {
                    dropout.tile(first / TILE + tile, key / TILE, &mut mask);
                    let width = TILE.min(length - key);
                    for (row, mask) in rows.chunks_exact_mut(length).zip(&mask) {
                        for (value, &mask) in row[key..key + width].iter_mut().zip(mask) {
                            combine(value, mask);
                        }
                    }
                }
            }
        },
    );
}

/// What the forward pass saw and kept.
#[derive(Clone, Copy)]
pub struct Saved<'a, T> {
    /// `[total_tokens, 3 hidden]`.
    pub qkv: &'a [T],
    /// `[total_tokens, hidden]`.
    pub output: &'a [T],
    /// `[total_tokens, heads]`.
    pub log_sum_exp: &'a [T],
}

/// Gradients of one head's queries, keys and values, `[length, head_dim]` each.
type HeadGradients<T> = [Vec<T>; 3];

/// Writes `d_qkv` (`[total_tokens, 3 hidden]`) from `d_output` (`[total_tokens, hidden]`).
pub fn backward<T: Real>(saved: Saved<T>, d_output: &[T], shape: Shape, d_qkv: &mut [T]) {
    let (hidden, dim, heads) = (shape.hidden(), shape.head_dim, shape.heads);
    let mut rest = d_qkv;
    let mut sequences = Vec::new();
    for (sequence, range) in shape.sequences().enumerate() {
        let (d_rows, later) = rest.split_at_mut((range.1 - range.0) * 3 * hidden);
        rest = later;
        sequences.push((sequence, range, d_rows));
    }
    // Heads are independent, but their columns interleave in memory: each is computed apart, then copied in.
    sequences.into_par_iter().for_each(|(sequence, range, d_rows)| {
        let gradients: Vec<HeadGradients<T>> = (0..heads)
            .into_par_iter()
            .map_init(Scratch::default, |scratch, head| {
                head_backward(saved, d_output, &shape, (sequence, range, head), scratch)
            })
            .collect();
        d_rows.par_chunks_mut(3 * hidden).enumerate().with_min_len(16).for_each(|(row, d_row)| {
            for (head, gradients) in gradients.iter().enumerate() {
                for (part, gradient) in gradients.iter().enumerate() {
                    let column = part * hidden + head * dim;
                    d_row[column..column + dim].copy_from_slice(&gradient[row * dim..][..dim]);
                }
            }
        });
    });
}

/// Scores of one block and their gradient; kept by a thread from head to head.
#[derive(Default)]
struct Scratch<T> {
    probabilities: Vec<T>,
    d_scores: Vec<T>,
    dropped: Vec<T>,
}

/// For each block of queries, with P the probabilities, M the dropout mask and D = rowsum(dO O):
/// `dV += (P M)^T dO`, `dS = P (dO V^T M - D)`, `dQ = scale dS K`, `dK += scale dS^T Q`.
fn head_backward<T: Real>(
    saved: Saved<T>,
    d_output: &[T],
    shape: &Shape,
    (sequence, range, head): (usize, (usize, usize), usize),
    scratch: &mut Scratch<T>,
) -> HeadGradients<T> {
    let (hidden, dim, length) = (shape.hidden(), shape.head_dim, range.1 - range.0);
    let scale = T::of(shape.scale);
    let parts = Head::new(saved.qkv, range, head, shape);
    let dropout = shape.dropout_of(sequence, head);
    let [mut d_queries, mut d_keys, mut d_values] = [(); 3].map(|()| vec![T::ZERO; length * dim]);

    for first in (0..length).step_by(BLOCK) {
        let rows = BLOCK.min(length - first);
        let first_token = range.0 + first;
        let d_output_block = View::strided(&d_output[first_token * hidden + head * dim..], rows, dim, hidden);
        let Scratch { probabilities, d_scores, dropped } = &mut *scratch;
        probabilities.resize(rows * length, T::ZERO);
        d_scores.resize(rows * length, T::ZERO);

        let (queries, keys) = (parts.queries(first, rows), parts.keys());
        gemm(probabilities, length, Write::Replace, queries, keys.transposed(), scale, Threads::One);
        for (row, scores) in probabilities.chunks_exact_mut(length).enumerate() {
            let lse = saved.log_sum_exp[(first_token + row) * shape.heads + head];
            real::dispatch(
                #[inline(always)]
                || scores.iter_mut().for_each(|score| *score = (*score - lse).exp()),
            );
        }

        let values = parts.values().transposed();
        gemm(d_scores, length, Write::Replace, d_output_block, values, T::ONE, Threads::One);
        let seen = match dropout {
            None => &*probabilities,
            Some(dropout) => {
                dropped.resize(rows * length, T::ZERO);
                dropped.fill(T::ONE);
                apply_dropout(dropped, length, first, dropout);
                real::dispatch(
                    #[inline(always)]
                    || {
                        for ((mask, d_score), &p) in dropped.iter_mut().zip(d_scores.iter_mut()).zip(&*probabilities) {
                            *d_score = *d_score * *mask;
                            *mask = *mask * p;
                        }
                    },
                );
                &*dropped
            }
        };
        let seen = View::new(seen, rows, length).transposed();
        gemm(&mut d_values, dim, Write::Add, seen, d_output_block, T::ONE, Threads::One);

        for (row, (d_scores, p)) in
            d_scores.chunks_exact_mut(length).zip(probabilities.chunks_exact(length)).enumerate()
        {
            let at = (first_token + row) * hidden + head * dim;
            let (output, d_output) = (&saved.output[at..at + dim], &d_output[at..at + dim]);
            real::dispatch(
                #[inline(always)]
                || {
                    let d = real::lane_sum(dim, |i| output[i] * d_output[i]);
                    for (d_score, &p) in d_scores.iter_mut().zip(p) {
                        *d_score = p * (*d_score - d);
                    }
                },
            );
        }
        let d_scores = View::new(d_scores, rows, length);
        gemm(&mut d_queries[first * dim..], dim, Write::Replace, d_scores, keys, scale, Threads::One);
        gemm(&mut d_keys, dim, Write::Add, d_scores.transposed(), queries, scale, Threads::One);
    }
    [d_queries, d_keys, d_values]
}
