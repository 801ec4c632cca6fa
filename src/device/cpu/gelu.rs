//! `y = gelu(x + bias)`, in one of its two forms (Hendrycks and Gimpel, arXiv 1606.08415).

use rayon::prelude::*;

use super::{ROWS_PER_TASK, Real, add_assign, real};

/// Which GELU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gelu {
    /// `u Phi(u)`, with the exact error function: BERT's.
    #[default]
    Exact,
    /// `u (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))) / 2`: BigBird's.
    Tanh,
}

/// `u Phi(u)` and its derivative, `Phi(u) + u phi(u)`.
#[inline(always)]
pub(super) fn exact<T: Real>(u: T) -> (T, T) {
    let (cdf, pdf) = u.normal_cdf_pdf();
    (u * cdf, u.mul_add(pdf, cdf))
}

/// The form with a hyperbolic tangent, and its derivative. As `(1 + tanh(v)) / 2` is the logistic function of `2 v`, with
/// `s = sigmoid(2 v)`: `u s` and `s + u s (1 - s) 2 v'`.
#[inline(always)]
fn tanh_form<T: Real>(u: T) -> (T, T) {
    // 2 sqrt(2 / pi), that times 0.044715, and thrice that.
    const TWICE: f64 = 2.0 * 0.797_884_560_802_865_4;
    let cubic = T::of(TWICE * 0.044_715);
    let square = u * u;
    let s = (u * square.mul_add(cubic, T::of(TWICE))).sigmoid();
    let slope = square.mul_add(T::of(3.0) * cubic, T::of(TWICE));
    (u * s, (u * s * (T::ONE - s)).mul_add(slope, s))
}

/// Writes `y` (`[rows, columns]`) from `x` and `bias` (`[columns]`).
pub fn forward<T: Real>(gelu: Gelu, x: &[T], bias: &[T], y: &mut [T]) {
    match gelu {
        Gelu::Exact => forward_by(exact, x, bias, y),
        Gelu::Tanh => forward_by(tanh_form, x, bias, y),
    }
}

fn forward_by<T: Real>(gelu: impl Fn(T) -> (T, T) + Copy + Sync, x: &[T], bias: &[T], y: &mut [T]) {
    let columns = bias.len();
    let chunk = ROWS_PER_TASK * columns;
    x.par_chunks(chunk).zip(y.par_chunks_mut(chunk)).for_each(|(x, y)| {
        real::dispatch(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
                    for ((&x, &bias), y) in x.iter().zip(bias).zip(y) {
                        *y = gelu(x + bias).0;
                    }
                }
            },
        );
    });
}

/// `dx = dy gelu'(x + bias)`, in place in `dy`; adds its column sums to `d_bias`.
pub fn backward<T: Real>(gelu: Gelu, x: &[T], bias: &[T], dy: &mut [T], d_bias: &mut [T]) {
    match gelu {
        Gelu::Exact => backward_by(exact, x, bias, dy, d_bias),
        Gelu::Tanh => backward_by(tanh_form, x, bias, dy, d_bias),
    }
}

fn backward_by<T: Real>(gelu: impl Fn(T) -> (T, T) + Copy + Sync, x: &[T], bias: &[T], dy: &mut [T], d_bias: &mut [T]) {
    let columns = bias.len();
    let chunk = 4 * ROWS_PER_TASK * columns;
    let partials: Vec<Vec<T>> = x
        .par_chunks(chunk)
        .zip(dy.par_chunks_mut(chunk))
        .map(|(x, dy)| {
            let mut sums = vec![T::ZERO; columns];
            real::dispatch(
                #[inline(always)]
                || {
                    for (x, dy) in x.chunks_exact(columns).zip(dy.chunks_exact_mut(columns)) {
                        for (((&x, &bias), dy), sum) in x.iter().zip(bias).zip(dy).zip(&mut sums) {
                            *dy = *dy * gelu(x + bias).1;
                            *sum = *sum + *dy;
                        }
                    }
                },
            );
            sums
        })
        .collect();
    partials.iter().for_each(|sums| add_assign(d_bias, sums));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form that is computed against the formula, in both types, far out as well.
    #[test]
    fn the_tanh_form_is_its_formula() {
        for i in -1300..=1300 {
            let u = f64::from(i) * 0.01;
            let t = ((2.0 / std::f64::consts::PI).sqrt() * (u + 0.044715 * u * u * u)).tanh();
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * u * u);
            let expected = [0.5 * u * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * u * (1.0 - t * t) * inner];
            let (value, slope) = tanh_form(u);
            let (value_f32, slope_f32) = tanh_form(u as f32);
            for (found, expected) in [value, slope].into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-14 * u.abs().max(1.0), "u {u}: {found} {expected}");
            }
            for (found, expected) in [value_f32, slope_f32].into_iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-6 * u.abs().max(1.0), "u {u}: {found} {expected}");
            }
        }
        for (far, expected) in [(-1e4f32, (0.0, 0.0)), (1e4, (1e4, 1.0))] {
            let (value, slope) = tanh_form(far);
            assert!((value - expected.0).abs() < 1e-30 && (slope - expected.1).abs() < 1e-6, "{value} {slope}");
        }
    }
}
