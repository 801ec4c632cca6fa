//! The CPU device: every operation in plain Rust over slices, vectorised through [`real`], parallel through rayon.
//!
//! Functions take row-major slices and write their outputs; `T` is f32 for work and f64 for checking gradients.
//! Work is split into chunks of a size that does not depend on the number of threads, and partial sums are added in
//! chunk order, so results have the same bits on any number of threads.

pub mod adamw;
pub mod attention;
pub mod binary_cross_entropy;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod gated;
pub mod gather;
pub mod gelu;
pub mod gemm;
pub mod layernorm;
pub mod mean_squared_error;
pub mod norm;
pub mod prefetch;
pub mod real;
pub mod relu;
pub mod residual;
pub mod rotary;
pub mod tanh;

pub use real::Real;

use rayon::prelude::*;

/// Rows per parallel task of a row-wise operation: small enough to balance, large enough to hide the hand-over.
pub(crate) const ROWS_PER_TASK: usize = 32;

/// `sum[i] += term[i]`.
pub(crate) fn add_assign<T: Real>(sum: &mut [T], term: &[T]) {
    real::dispatch(
        #[inline(always)]
        || {
            for (sum, term) in sum.iter_mut().zip(term) {
                *sum = *sum + *term;
            }
        },
    );
}

/// `sum[i] += term[i]` on all cores.
pub fn accumulate<T: Real>(sum: &mut [T], term: &[T]) {
    const CHUNK: usize = 1 << 14;
    sum.par_chunks_mut(CHUNK).zip(term.par_chunks(CHUNK)).for_each(|(sum, term)| add_assign(sum, term));
}

/// Adds the column sums of `x` (`[rows, columns]`) to `sums` (`[columns]`): the gradient of a bias.
pub fn add_column_sums<T: Real>(x: &[T], sums: &mut [T]) {
    let columns = sums.len();
    let rows_per_part = 256;
    let partials: Vec<Vec<T>> = x
        .par_chunks(rows_per_part * columns)
        .map(|rows| {
            let mut partial = vec![T::ZERO; columns];
            rows.chunks_exact(columns).for_each(|row| add_assign(&mut partial, row));
            partial
        })
        .collect();
    partials.iter().for_each(|partial| add_assign(sums, partial));
}
