//! Packed bidirectional attention: `O = dropout(softmax(scale Q K^T)) V` inside each sequence, head by head.
//!
//! Queries are taken in blocks of [`BLOCK`] against all keys of their sequence, so the scores held at a time are
//! `[BLOCK, length]` for each thread, never `[heads, length, length]`. The forward pass keeps the log-sum-exp of each
//! row; the backward pass recomputes the probabilities from it (Dao et al., arXiv 2205.14135, algorithm 4).
//!
//! Three things that a model may add: ALiBi's bias (Press et al., arXiv 2108.12409), which is constant and so has no gradient;
//! a block-sparse pattern, of which only the listed squares are computed; and a window, outside of which keys are not seen.

use rayon::prelude::*;

use super::dropout::{AttentionDropout, TILE};
use super::gemm::{Threads, View, Write, gemm};
use super::{Real, real};
use crate::device::attention_pattern::BlockLists;

/// Query rows that are worked on at a time; a multiple of the dropout tile.
pub const BLOCK: usize = 128;

/// Terms of a softmax below e to this power, 2^-63, beside the largest of their row are 0: no sum is changed by them. As they are they
/// would be subnormal numbers in the products that follow, on which CPUs spend a hundred times as long: with ALiBi that is most
/// keys of a long sequence.
const NEGLIGIBLE: f64 = -44.0;

/// `exp(exponent)`, or 0 where it is negligible.
#[inline(always)]
fn term<T: Real>(exponent: T) -> T {
    let term = exponent.exp();
    if exponent < T::of(NEGLIGIBLE) { T::ZERO } else { term }
}

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
    pub dropout: Option<AttentionDropout>,
    /// ALiBi: scores get `-slopes[head] * |query - key|`, `[heads]`.
    pub slopes: Option<&'a [f64]>,
    /// Which squares of scores are computed; all, if absent.
    pub blocks: Option<&'a BlockLists>,
    /// How far a query sees to each side, in tokens; its own key it sees always.
    pub window: Option<usize>,
}

impl Shape<'_> {
    fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    fn sequences(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.cu_seqlens.windows(2).map(|pair| (pair[0] as usize, pair[1] as usize))
    }

    /// Query rows that are worked on at a time.
    fn block(&self) -> usize {
        self.blocks.map_or(BLOCK, BlockLists::side)
    }

    /// The keys that the block of queries from `first` on sees in a head.
    fn columns(&self, sequence: usize, head: usize, length: usize, first: usize) -> Columns {
        let window = self.window;
        let Some(blocks) = self.blocks else { return Columns::all(length, window) };
        let (mut spans, mut width, side) = (Vec::<Span>::new(), 0, blocks.side());
        for seen in blocks.seen(sequence, head, first / side) {
            let start = seen.block as usize * side;
            let count = side.min(length - start);
            match spans.last_mut() {
                Some(last) if last.first + last.count == start && last.times == seen.times => last.count += count,
                _ => spans.push(Span { first: start, count, at: width, times: seen.times }),
            }
            width += count;
        }
        Columns { spans, width, window }
    }

    /// The same, where the columns of the head before are at hand.
    fn columns_over(&self, before: Columns, sequence: usize, head: usize, length: usize, first: usize) -> Columns {
        match self.blocks.is_some_and(BlockLists::is_by_head) {
            true => self.columns(sequence, head, length, first),
            false => before,
        }
    }

    /// ALiBi in a head of a sequence of `length` tokens.
    fn bias<T: Real>(&self, head: usize, length: usize) -> Option<Bias<T>> {
        self.slopes.map(|slopes| Bias::new(slopes[head], length))
    }

    fn dropout_of(&self, sequence: usize, head: usize) -> Option<(AttentionDropout, usize)> {
        self.dropout.map(|dropout| (dropout, sequence * self.heads + head))
    }
}

/// `slope |distance|` for the distances `1 - length` to `length - 1`: what the keys of any query lose is a piece of it.
struct Bias<T> {
    by_distance: Vec<T>,
    length: usize,
}

impl<T: Real> Bias<T> {
    fn new(slope: f64, length: usize) -> Self {
        let distances = (1..length).rev().chain(0..length);
        Self { by_distance: distances.map(|distance| T::of(slope * distance as f64)).collect(), length }
    }

    /// `[length]`.
    fn of_query(&self, query: usize) -> &[T] {
        &self.by_distance[self.length - 1 - query..][..self.length]
    }
}

/// Neighbouring keys, and where their scores lie in a row.
struct Span {
    first: usize,
    count: usize,
    at: usize,
    /// How often each of the keys counts.
    times: u32,
}

/// The keys that a block of queries sees; its scores are `[rows, width]`.
struct Columns {
    spans: Vec<Span>,
    width: usize,
    /// How far each of the queries sees.
    window: Option<usize>,
}

impl Columns {
    fn all(length: usize, window: Option<usize>) -> Self {
        Self { spans: vec![Span { first: 0, count: length, at: 0, times: 1 }], width: length, window }
    }

    /// Scores of keys outside the window of their query become minus infinity, for the queries from `first` on.
    fn hide_far<T: Real>(&self, scores: &mut [T], first: usize) {
        let Some(window) = self.window else { return };
        for (query, scores) in (first..).zip(scores.chunks_exact_mut(self.width)) {
            for span in &self.spans {
                let place = |key: usize| key.clamp(span.first, span.first + span.count) - span.first;
                let (near, end) = (place(query.saturating_sub(window)), place(query + window + 1));
                let scores = &mut scores[span.at..][..span.count];
                scores[..near].fill(T::of(f64::NEG_INFINITY));
                scores[end..].fill(T::of(f64::NEG_INFINITY));
            }
        }
    }

    /// A key that counts n times has n terms in the sum below the softmax, or one that is n times as large.
    fn add_times<T: Real>(&self, scores: &mut [T]) {
        for span in self.spans.iter().filter(|span| span.times > 1) {
            let more = T::of(f64::from(span.times).ln());
            for scores in scores.chunks_exact_mut(self.width) {
                scores[span.at..span.at + span.count].iter_mut().for_each(|score| *score = *score + more);
            }
        }
    }

    /// `scores -= slope |query - key|`, for the queries from `first` on.
    fn add_bias<T: Real>(&self, scores: &mut [T], first: usize, bias: &Bias<T>) {
        real::dispatch(
            #[inline(always)]
            || {
                for (row, scores) in scores.chunks_exact_mut(self.width).enumerate() {
                    let bias = bias.of_query(first + row);
                    for span in &self.spans {
                        let bias = &bias[span.first..][..span.count];
                        for (score, &bias) in scores[span.at..][..span.count].iter_mut().zip(bias) {
                            *score = *score - bias;
                        }
                    }
                }
            },
        );
    }

    /// `values *= mask` of one head, for the queries from `first` (a multiple of the tile) on.
    fn apply_dropout<T: Real>(&self, values: &mut [T], first: usize, (dropout, head): (AttentionDropout, usize)) {
        debug_assert!(first.is_multiple_of(TILE));
        real::dispatch(
            #[inline(always)]
            || {
                let mut mask = [[T::ZERO; TILE]; TILE];
                for (tile, rows) in values.chunks_mut(TILE * self.width).enumerate() {
                    for span in &self.spans {
                        for key in (0..span.count).step_by(TILE) {
                            dropout.tile(head, first / TILE + tile, (span.first + key) / TILE, &mut mask);
                            let (at, width) = (span.at + key, TILE.min(span.count - key));
                            for (row, mask) in rows.chunks_exact_mut(self.width).zip(&mask) {
                                for (value, &mask) in row[at..at + width].iter_mut().zip(mask) {
                                    *value = *value * mask;
                                }
                            }
                        }
                    }
                }
            },
        );
    }
}

/// The three parts of one head inside packed rows of `[query | key | value]`.
struct Head<'a, T> {
    rows: &'a [T],
    stride: usize,
    dim: usize,
    offsets: [usize; 3],
}

impl<'a, T: Real> Head<'a, T> {
    fn new(qkv: &'a [T], (start, end): (usize, usize), head: usize, shape: &Shape) -> Self {
        let (hidden, dim) = (shape.hidden(), shape.head_dim);
        let rows = &qkv[start * 3 * hidden..end * 3 * hidden];
        let offsets = [0, 1, 2].map(|part| part * hidden + head * dim);
        Self { rows, stride: 3 * hidden, dim, offsets }
    }

    fn part(&self, part: usize, first: usize, rows: usize) -> View<'a, T> {
        View::strided(&self.rows[first * self.stride + self.offsets[part]..], rows, self.dim, self.stride)
    }

    fn queries(&self, first: usize, rows: usize) -> View<'a, T> {
        self.part(0, first, rows)
    }

    fn keys(&self, span: &Span) -> View<'a, T> {
        self.part(1, span.first, span.count)
    }

    fn values(&self, span: &Span) -> View<'a, T> {
        self.part(2, span.first, span.count)
    }

    /// `scores = scale Q K^T + bias` of the `rows` queries from `first` on.
    fn scores(
        &self,
        scores: &mut [T],
        columns: &Columns,
        (first, rows): (usize, usize),
        scale: f64,
        bias: Option<&Bias<T>>,
    ) {
        let queries = self.queries(first, rows);
        for span in &columns.spans {
            let (scores, keys) = (&mut scores[span.at..], self.keys(span).transposed());
            gemm(scores, columns.width, Write::Replace, queries, keys, T::of(scale), Threads::One);
        }
        if let Some(bias) = bias {
            columns.add_bias(scores, first, bias);
        }
        columns.add_times(scores);
        columns.hide_far(scores, first);
    }
}

/// From `qkv` (`[total_tokens, 3 hidden]`: queries, keys and values, each head by head) writes `output`
/// (`[total_tokens, hidden]`) and `log_sum_exp` (`[total_tokens, heads]`).
pub fn forward<T: Real>(qkv: &[T], shape: Shape, output: &mut [T], log_sum_exp: &mut [T]) {
    let hidden = shape.hidden();
    let mut tasks = Vec::new();
    let (mut output, mut log_sum_exp) = (output, log_sum_exp);
    for (sequence, (start, end)) in shape.sequences().enumerate() {
        for first in (0..end - start).step_by(shape.block()) {
            let rows = shape.block().min(end - start - first);
            let (block_output, rest_output) = output.split_at_mut(rows * hidden);
            let (block_lse, rest_lse) = log_sum_exp.split_at_mut(rows * shape.heads);
            (output, log_sum_exp) = (rest_output, rest_lse);
            tasks.push((sequence, (start, end), first, rows, block_output, block_lse));
        }
    }
    tasks.into_par_iter().for_each_init(Vec::new, |scratch, (sequence, range, first, rows, output, log_sum_exp)| {
        let length = range.1 - range.0;
        let mut columns = shape.columns(sequence, 0, length, first);
        for head in 0..shape.heads {
            columns = shape.columns_over(columns, sequence, head, length, first);
            scratch.resize(rows * columns.width, T::ZERO);
            let parts = Head::new(qkv, range, head, &shape);
            parts.scores(scratch, &columns, (first, rows), shape.scale, shape.bias(head, length).as_ref());
            let lse = log_sum_exp[head..].iter_mut().step_by(shape.heads);
            softmax(scratch, columns.width, lse);
            if let Some(dropout) = shape.dropout_of(sequence, head) {
                columns.apply_dropout(scratch, first, dropout);
            }
            let output = &mut output[head * shape.head_dim..];
            for (span, write) in columns.spans.iter().zip(replace_then_add()) {
                let probabilities = View::strided(&scratch[span.at..], rows, span.count, columns.width);
                gemm(output, hidden, write, probabilities, parts.values(span), T::ONE, Threads::One);
            }
        }
    });
}

/// The attention probabilities of some query rows to all keys of their sequence, without dropout: for each of `rows` (indices of tokens, ascending) and
/// each head as many as its sequence has tokens, end to end. Nothing of the size of length times length is made.
pub fn probabilities<T: Real>(qkv: &[T], shape: Shape, rows: &[i32]) -> Vec<T> {
    let (mut probabilities, mut scores) = (Vec::new(), Vec::new());
    let mut rows = rows.iter().map(|&row| row as usize).peekable();
    for (sequence, (start, end)) in shape.sequences().enumerate() {
        let length = end - start;
        while let Some(row) = rows.next_if(|row| (start..end).contains(row)) {
            for head in 0..shape.heads {
                let parts = Head::new(qkv, (start, end), head, &shape);
                let first = probabilities.len();
                probabilities.resize(first + length, T::ZERO);
                let columns = shape.columns(sequence, head, length, row - start);
                scores.resize(columns.width, T::ZERO);
                let bias = shape.bias(head, length);
                parts.scores(&mut scores, &columns, (row - start, 1), shape.scale, bias.as_ref());
                softmax(&mut scores, columns.width, std::iter::once(&mut T::of(0.0)));
                for span in &columns.spans {
                    let seen = &mut probabilities[first + span.first..][..span.count];
                    seen.copy_from_slice(&scores[span.at..][..span.count]);
                }
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
                    *score = term(*score - max);
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

/// The first product of a sum replaces, the others add.
fn replace_then_add() -> impl Iterator<Item = Write> {
    std::iter::once(Write::Replace).chain(std::iter::repeat(Write::Add))
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
    let (bias, dropout) = (shape.bias(head, length), shape.dropout_of(sequence, head));
    let [mut d_queries, mut d_keys, mut d_values] = [(); 3].map(|()| vec![T::ZERO; length * dim]);

    for first in (0..length).step_by(shape.block()) {
        let rows = shape.block().min(length - first);
        let columns = shape.columns(sequence, head, length, first);
        let first_token = range.0 + first;
        let d_output_block = View::strided(&d_output[first_token * hidden + head * dim..], rows, dim, hidden);
        let Scratch { probabilities, d_scores, dropped } = &mut *scratch;
        probabilities.resize(rows * columns.width, T::ZERO);
        d_scores.resize(rows * columns.width, T::ZERO);

        parts.scores(probabilities, &columns, (first, rows), shape.scale, bias.as_ref());
        for (row, scores) in probabilities.chunks_exact_mut(columns.width).enumerate() {
            let lse = saved.log_sum_exp[(first_token + row) * shape.heads + head];
            real::dispatch(
                #[inline(always)]
                || scores.iter_mut().for_each(|score| *score = term(*score - lse)),
            );
        }

        for span in &columns.spans {
            let (d_scores, values) = (&mut d_scores[span.at..], parts.values(span).transposed());
            gemm(d_scores, columns.width, Write::Replace, d_output_block, values, T::ONE, Threads::One);
        }
        let seen = match dropout {
            None => &*probabilities,
            Some(dropout) => {
                dropped.resize(rows * columns.width, T::ZERO);
                dropped.fill(T::ONE);
                columns.apply_dropout(dropped, first, dropout);
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
        for span in &columns.spans {
            let seen = View::strided(&seen[span.at..], rows, span.count, columns.width).transposed();
            let d_values = &mut d_values[span.first * dim..];
            gemm(d_values, dim, Write::Add, seen, d_output_block, T::ONE, Threads::One);
        }

        for (row, (d_scores, p)) in
            d_scores.chunks_exact_mut(columns.width).zip(probabilities.chunks_exact(columns.width)).enumerate()
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
        let queries = parts.queries(first, rows);
        for (span, write) in columns.spans.iter().zip(replace_then_add()) {
            let d_scores = View::strided(&d_scores[span.at..], rows, span.count, columns.width);
            gemm(&mut d_queries[first * dim..], dim, write, d_scores, parts.keys(span), scale, Threads::One);
            let d_keys = &mut d_keys[span.first * dim..];
            gemm(d_keys, dim, Write::Add, d_scores.transposed(), queries, scale, Threads::One);
        }
    }
    [d_queries, d_keys, d_values]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_keys_cost_nothing_and_are_no_subnormal_numbers() {
        const LENGTH: usize = 400;
        let qkv: Vec<f32> = (0..LENGTH * 24).map(|index| (index as f32).sin()).collect();
        let slopes = [1.0];
        let shape = Shape {
            cu_seqlens: &[0, LENGTH as i32],
            heads: 1,
            head_dim: 8,
            scale: 0.5,
            dropout: None,
            slopes: Some(&slopes),
            blocks: None,
            window: None,
        };
        let probabilities = probabilities(&qkv, shape, &[0, 200, 399]);
        assert_eq!(probabilities.len(), 3 * LENGTH);
        assert!(probabilities.iter().all(|&p| p == 0.0 || p > 1e-20), "{probabilities:?}");
        assert!(probabilities[60] == 0.0 && probabilities[20] > 0.0 && probabilities[LENGTH + 180] > 0.0);
        for row in probabilities.chunks(LENGTH) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
        let mut output = vec![0.0; LENGTH * 8];
        let mut log_sum_exp = vec![0.0; LENGTH];
        forward(&qkv, shape, &mut output, &mut log_sum_exp);
        // What a key's gradient gets from queries that do not see it is 0, and neither less nor more.
        let saved = Saved { qkv: &qkv, output: &output, log_sum_exp: &log_sum_exp };
        let mut d_output = vec![0.0; LENGTH * 8];
        d_output[..8].fill(1.0);
        let mut d_qkv = vec![1.0; LENGTH * 24];
        backward(saved, &d_output, shape, &mut d_qkv);
        let values = |token: usize| &d_qkv[token * 24 + 16..][..8];
        assert!(values(20).iter().all(|&d| d > 0.0) && values(60) == [0.0; 8]);
    }
}
