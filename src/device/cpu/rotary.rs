//! Rotary positions (Su et al., arXiv 2104.09864) in the half-split form: in each head of `d` elements of a query or key at position p,
//! the pair (j, j + d / 2) is turned by the angle `p base^(-2 j / d)`.

use rayon::prelude::*;

use super::{ROWS_PER_TASK, Real, real};

/// Turns queries and keys of `qkv` (`[total_tokens, 3 hidden]`, each head by head) in place, by `sign` times the angles of their
/// `positions` (`[total_tokens]`): -1 is the way back. Angles, their sines and cosines are those of f64.
pub fn rotate<T: Real>(qkv: &mut [T], positions: &[i32], heads: usize, base: f64, sign: f64) {
    let hidden = qkv.len() / positions.len().max(1) / 3;
    let (head_dim, half) = (hidden / heads, hidden / heads / 2);
    let longest = positions.iter().copied().max().map_or(0, |last| last as usize + 1);
    let frequencies: Vec<f64> = (0..half).map(|pair| base.powf(-2.0 * pair as f64 / head_dim as f64)).collect();
    let turns: Vec<(T, T)> = (0..longest)
        .into_par_iter()
        .flat_map_iter(|position| {
            frequencies.iter().map(move |frequency| {
                let (sine, cosine) = (sign * position as f64 * frequency).sin_cos();
                (T::of(cosine), T::of(sine))
            })
        })
        .collect();
    let chunk = ROWS_PER_TASK * 3 * hidden;
    qkv.par_chunks_mut(chunk).zip(positions.par_chunks(ROWS_PER_TASK)).for_each(|(rows, positions)| {
        real::dispatch(
            #[inline(always)]
            || {
                for (row, &position) in rows.chunks_exact_mut(3 * hidden).zip(positions) {
                    let turns = &turns[position as usize * half..][..half];
                    for head in row[..2 * hidden].chunks_exact_mut(head_dim) {
                        let (low, high) = head.split_at_mut(half);
                        for ((low, high), &(cosine, sine)) in low.iter_mut().zip(high).zip(turns) {
                            (*low, *high) = (*low * cosine - *high * sine, *high * cosine + *low * sine);
                        }
                    }
                }
            },
        );
    });
}
