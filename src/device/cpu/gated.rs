//! `u = dropout(act(a) b)`, where a row of the input is `[a, b]`: a gated linear unit (Shazeer, arXiv 2002.05202), between the two
//! products of a feed-forward block.

use rayon::prelude::*;

use super::dropout::Dropout;
use super::{ROWS_PER_TASK, Real, gelu, real};

/// What the gate's half goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `a Phi(a)`, with the exact error function: GEGLU.
    Gelu,
    /// `a / (1 + exp(-a))`: SwiGLU.
    Silu,
}

/// `a s` with `s = sigmoid(a)`, and its derivative, `s (1 + a (1 - s))`.
#[inline(always)]
fn silu<T: Real>(a: T) -> (T, T) {
    let s = a.sigmoid();
    (a * s, s * a.mul_add(T::ONE - s, T::ONE))
}

/// Writes `u` (`[rows, inner]`) from `x` (`[rows, 2 inner]`).
pub fn forward<T: Real>(gate: Gate, x: &[T], inner: usize, dropout: Option<Dropout>, u: &mut [T]) {
    match gate {
        Gate::Gelu => forward_by(gelu::exact, x, inner, dropout, u),
        Gate::Silu => forward_by(silu, x, inner, dropout, u),
    }
}

fn forward_by<T: Real>(
    act: impl Fn(T) -> (T, T) + Copy + Sync,
    x: &[T],
    inner: usize,
    dropout: Option<Dropout>,
    u: &mut [T],
) {
    let chunk = ROWS_PER_TASK * inner;
    x.par_chunks(2 * chunk).zip(u.par_chunks_mut(chunk)).enumerate().for_each(|(task, (x, u))| {
        real::dispatch(
            #[inline(always)]
            || {
                for (x, u) in x.chunks_exact(2 * inner).zip(u.chunks_exact_mut(inner)) {
                    let (a, b) = x.split_at(inner);
                    for ((&a, &b), u) in a.iter().zip(b).zip(u) {
                        *u = act(a).0 * b;
                    }
                }
                if let Some(dropout) = dropout {
                    dropout.apply(u, (task * chunk) as u64);
                }
            },
        );
    });
}

/// `da = du act'(a) b`, `db = du act(a)`, with du through the dropout's mask: `x` becomes `[da, db]`, and `du` that times the mask.
pub fn backward<T: Real>(gate: Gate, x: &mut [T], inner: usize, dropout: Option<Dropout>, du: &mut [T]) {
    match gate {
        Gate::Gelu => backward_by(gelu::exact, x, inner, dropout, du),
        Gate::Silu => backward_by(silu, x, inner, dropout, du),
    }
}

fn backward_by<T: Real>(
    act: impl Fn(T) -> (T, T) + Copy + Sync,
    x: &mut [T],
    inner: usize,
    dropout: Option<Dropout>,
    du: &mut [T],
) {
    let chunk = ROWS_PER_TASK * inner;
    x.par_chunks_mut(2 * chunk).zip(du.par_chunks_mut(chunk)).enumerate().for_each(|(task, (x, du))| {
        real::dispatch(
            #[inline(always)]
            || {
                if let Some(dropout) = dropout {
                    dropout.apply(du, (task * chunk) as u64);
                }
                for (x, du) in x.chunks_exact_mut(2 * inner).zip(du.chunks_exact(inner)) {
                    let (a, b) = x.split_at_mut(inner);
                    for ((a, b), &du) in a.iter_mut().zip(b).zip(du) {
                        let (value, slope) = act(*a);
                        *a = du * *b * slope;
                        *b = du * value;
                    }
                }
            },
        );
    });
}
