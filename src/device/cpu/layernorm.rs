//! `z = residual + dropout(x + bias)`, `y = gamma (z - mean) rstd + beta` over each row of `columns` elements, where
//! `rstd = 1 / sqrt(variance + eps)` (Ba, Kiros, Hinton, arXiv 1607.06450).

use rayon::prelude::*;

use super::dropout::Dropout;
use super::{ROWS_PER_TASK, Real, add_assign, real};

/// Scale and shift of a LayerNorm, `[columns]` each, and its epsilon.
#[derive(Clone, Copy)]
pub struct Affine<'a, T> {
    /// Scale.
    pub gamma: &'a [T],
    /// Shift, if there is one.
    pub beta: Option<&'a [T]>,
    /// Added to the variance.
    pub eps: f64,
}

/// What is normalised besides x: `residual + dropout(x + bias)`.
#[derive(Clone, Copy)]
pub struct Summands<'a, T> {
    /// `[columns]`.
    pub bias: Option<&'a [T]>,
    /// `[rows, columns]`.
    pub residual: Option<&'a [T]>,
    /// Of x and bias.
    pub dropout: Option<Dropout>,
}

impl<T: Real> Summands<'_, T> {
    /// Turns a row of `x` into one of `z`; it begins `offset` elements behind that of the residual, which is element `first` of the whole.
    #[inline(always)]
    pub(super) fn add_to(&self, z: &mut [T], offset: usize, first: u64) {
        if let Some(bias) = self.bias {
            add_assign(z, bias);
        }
        if let Some(dropout) = self.dropout {
            dropout.apply(z, first + offset as u64);
        }
        if let Some(residual) = self.residual {
            add_assign(z, &residual[offset..][..z.len()]);
        }
    }
}

/// Turns `x` into `z` in place and writes `y` (both `[rows, columns]`) and `statistics` (`[rows, 2]`: mean, rstd).
pub fn forward<T: Real>(x: &mut [T], summands: Summands<T>, affine: Affine<T>, y: &mut [T], statistics: &mut [T]) {
    let columns = affine.gamma.len();
    let chunk = ROWS_PER_TASK * columns;
    x.par_chunks_mut(chunk)
        .zip(y.par_chunks_mut(chunk))
        .zip(statistics.par_chunks_mut(ROWS_PER_TASK * 2))
        .enumerate()
        .for_each(|(task, ((x, y), statistics))| {
            let first = task * chunk;
            let residual = summands.residual.map(|residual| &residual[first..][..x.len()]);
            let summands = Summands { residual, ..summands };
            real::dispatch(
                #[inline(always)]
                || forward_rows(x, summands, affine, y, statistics, first as u64),
            );
        });
}

#[inline(always)]
fn forward_rows<T: Real>(
    x: &mut [T],
    summands: Summands<T>,
    affine: Affine<T>,
    y: &mut [T],
    statistics: &mut [T],
    first: u64,
) {
    let columns = affine.gamma.len();
    let per_column = T::of(1.0 / columns as f64);
    for (row, statistics) in statistics.chunks_exact_mut(2).enumerate() {
        let range = row * columns..(row + 1) * columns;
        let z = &mut x[range.clone()];
        summands.add_to(z, range.start, first);
        let z = &*z;
        let mean = real::lane_sum(columns, |i| z[i]) * per_column;
        let variance = real::lane_sum(columns, |i| (z[i] - mean) * (z[i] - mean)) * per_column;
        let rstd = T::ONE / (variance + T::of(affine.eps)).sqrt();
        let scaled = y[range].iter_mut().zip(z.iter().zip(affine.gamma));
        match affine.beta {
            Some(beta) => {
                scaled.zip(beta).for_each(|((y, (&z, &gamma)), &beta)| *y = ((z - mean) * rstd).mul_add(gamma, beta))
            }
            None => scaled.for_each(|(y, (&z, &gamma))| *y = (z - mean) * rstd * gamma),
        }
        statistics.copy_from_slice(&[mean, rstd]);
    }
}

/// Gradients of a LayerNorm.
pub struct Gradients<'a, T> {
    /// With respect to z, `[rows, columns]`: replaces what `dy` held.
    pub dz: &'a mut [T],
    /// What z's other users have of its gradient, `[rows, columns]`, which is added to dz.
    pub others: Option<&'a [T]>,
    /// With respect to x (dz through the dropout mask), where there is a dropout; written.
    pub dx: Option<&'a mut [T]>,
    /// Added to.
    pub d_gamma: &'a mut [T],
    /// Added to, where there is a shift.
    pub d_beta: Option<&'a mut [T]>,
    /// Added to, where there is a bias.
    pub d_bias: Option<&'a mut [T]>,
}

/// The backward rule, with `h = (z - mean) rstd` and `g = dy gamma`:
/// `dz = rstd (g - mean(g) - h mean(g h)) + others`, `d_gamma += sum over rows of dy h`, `d_beta += sum over rows of dy`,
/// `d_bias += sum over rows of dx`.
/// `gradients.dz` holds `dy` on entry.
pub fn backward<T: Real>(z: &[T], statistics: &[T], gamma: &[T], dropout: Option<Dropout>, gradients: Gradients<T>) {
    let columns = gamma.len();
    // A task has enough rows that its share of the partial sums is small beside them.
    let rows_per_task = 4 * ROWS_PER_TASK;
    let chunk = rows_per_task * columns;
    let Gradients { dz, others, dx, d_gamma, d_beta, d_bias } = gradients;
    let has_bias = d_bias.is_some();
    let mut dx_chunks: Vec<Option<&mut [T]>> = match dx {
        Some(dx) => dx.chunks_mut(chunk).map(Some).collect(),
        None => (0..dz.len().div_ceil(chunk)).map(|_| None).collect(),
    };
    let partials: Vec<Vec<T>> = dz
        .par_chunks_mut(chunk)
        .zip(dx_chunks.par_iter_mut())
        .enumerate()
        .map(|(task, (dz, dx))| {
            let mut sums = vec![T::ZERO; 3 * columns];
            let first = task * chunk;
            let z = &z[first..][..dz.len()];
            let statistics = &statistics[2 * task * rows_per_task..];
            real::dispatch(
                #[inline(always)]
                || {
                    let (sums, bias_sum) = sums.split_at_mut(2 * columns);
                    backward_rows(z, statistics, gamma, dz, sums);
                    if let Some(others) = others {
                        add_assign(dz, &others[first..][..dz.len()]);
                    }
                    let mut dx_or_dz = dz;
                    if let (Some(dx), Some(dropout)) = (dx, dropout) {
                        dx.copy_from_slice(dx_or_dz);
                        dropout.apply(dx, first as u64);
                        dx_or_dz = dx;
                    }
                    if has_bias {
                        dx_or_dz.chunks_exact(columns).for_each(|row| add_assign(bias_sum, row));
                    }
                },
            );
            sums
        })
        .collect();
    for sums in &partials {
        add_assign(d_gamma, &sums[..columns]);
    }
    if let Some(d_beta) = d_beta {
        partials.iter().for_each(|sums| add_assign(d_beta, &sums[columns..2 * columns]));
    }
    if let Some(d_bias) = d_bias {
        partials.iter().for_each(|sums| add_assign(d_bias, &sums[2 * columns..]));
    }
}

#[inline(always)]
fn backward_rows<T: Real>(z: &[T], statistics: &[T], gamma: &[T], dz: &mut [T], sums: &mut [T]) {
    let columns = gamma.len();
    let per_column = T::of(1.0 / columns as f64);
    let (sum_gamma, sum_beta) = sums.split_at_mut(columns);
    for (row, (dz, z)) in dz.chunks_exact_mut(columns).zip(z.chunks_exact(columns)).enumerate() {
        let (mean, rstd) = (statistics[2 * row], statistics[2 * row + 1]);
        for i in 0..columns {
            sum_gamma[i] = ((z[i] - mean) * rstd).mul_add(dz[i], sum_gamma[i]);
            sum_beta[i] = sum_beta[i] + dz[i];
        }
        let dy = &*dz;
        let mean_g = real::lane_sum(columns, |i| dy[i] * gamma[i]) * per_column;
        let mean_gh = real::lane_sum(columns, |i| dy[i] * gamma[i] * (z[i] - mean)) * rstd * per_column;
        for i in 0..columns {
            let h = (z[i] - mean) * rstd;
            dz[i] = (dz[i] * gamma[i] - mean_g - h * mean_gh) * rstd;
        }
    }
}
