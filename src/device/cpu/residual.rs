//! `z = residual + dropout(x + bias)`: the end of a block that no LayerNorm follows.

use rayon::prelude::*;

use super::layernorm::Summands;
use super::{ROWS_PER_TASK, Real, real};

/// Turns `x` (`[rows, columns]`) into `z` in place.
pub fn forward<T: Real>(x: &mut [T], columns: usize, summands: Summands<T>) {
    let chunk = ROWS_PER_TASK * columns;
    x.par_chunks_mut(chunk).enumerate().for_each(|(task, x)| {
        let first = task * chunk;
        let residual = summands.residual.map(|residual| &residual[first..][..x.len()]);
        let summands = Summands { residual, ..summands };
        real::dispatch(
            #[inline(always)]
            || {
                for (row, z) in x.chunks_exact_mut(columns).enumerate() {
                    summands.add_to(z, row * columns, first as u64);
                }
            },
        );
    });
}
