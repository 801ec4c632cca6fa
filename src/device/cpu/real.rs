//! The number type of the CPU operations, and functions of it that vectorise.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::device::buffer::Element;

/// f32 for work, f64 for checking gradients. The elementary functions have no branches, so a loop over them becomes
/// vector code inside [`dispatch`].
pub trait Real:
    Element
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + std::iter::Sum
    + std::fmt::Debug
    + Default
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Minus infinity.
    const NEG_INFINITY: Self;

    /// The nearest value to a double.
    fn of(value: f64) -> Self;
    /// As a double.
    fn to_f64(self) -> f64;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to the power of `self`; f32: relative error below 2e-7, results below 1e-37 are not told from 0.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The standard normal distribution function and its density, (Phi(x), phi(x)).
    fn normal_cdf_pdf(self) -> (Self, Self);

    /// The logistic function, `1 / (1 + exp(-x))`; f32: relative error below 4e-7 where the result is above 1e-37.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }

    /// The larger of two numbers; NaN in `self` stays.
    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        if self < low { low } else { self }
    }
}

/// Runs `work` compiled for the widest vector instructions of this machine. `work` must be `#[inline(always)]`-able:
/// a loop over slices with everything inlined.
#[inline(always)]
pub fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Sum of `term(i)` for i in 0..count, in 16 interleaved partial sums: the same bits with any vector width.
#[inline(always)]
pub fn lane_sum<T: Real>(count: usize, term: impl Fn(usize) -> T) -> T {
    const LANES: usize = 16;
    let mut lanes = [T::ZERO; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum = *sum + term(start + lane);
        }
    }
    for index in whole..count {
        lanes[index - whole] = lanes[index - whole] + term(index);
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] = lanes[lane] + lanes[lane + width];
        }
    }
    lanes[0]
}

/// The largest of `values`.
#[inline(always)]
pub fn lane_max<T: Real>(values: &[T]) -> T {
    const LANES: usize = 16;
    let mut lanes = [T::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let mut max = T::NEG_INFINITY;
    for &value in lanes.iter().chain(rest) {
        max = if value > max { value } else { max };
    }
    max
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f32::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    /// exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln 2 / 2, and Taylor's polynomial of degree 6 in r.
    #[inline(always)]
    fn exp(self) -> Self {
        const LN2_HIGH: f32 = 0.693_359_4; // 12 bits: n * LN2_HIGH is exact
        const LN2_LOW: f32 = -2.121_944_4e-4;
        const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves round(x) in the low mantissa bits
        let x = if self < -87.0 { -87.0 } else { self };
        let x = if x > 88.0 { 88.0 } else { x };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
        let n = shifted - ROUNDER;
        let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
        let mut p = 1.0f32 / 720.0;
        for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = p.mul_add(r, coefficient);
        }
        let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32).wrapping_add(127);
        p * f32::from_bits((exponent as u32) << 23)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        f32::tanh(self)
    }
    /// For y = |x|: Phi(-y) = exp(-y^2/2) t P(t) with t = 1 / (1 + 0.26 y), the form of Abramowitz and Stegun 7.1.26.
    /// P was fitted to degree 8 on 0..13 by reweighted least squares; relative error 3e-7 in f32,
    /// to which the rounding of the exponent adds x^2 / 2 units of 2^-24 in the tails.
    #[inline(always)]
    fn normal_cdf_pdf(self) -> (Self, Self) {
        const P: [f32; 9] = [
            0.031_065_83,
            -0.155_573_33,
            0.257_208_46,
            -0.157_558,
            0.165_575_18,
            0.049_022_454,
            0.103_554_5,
            0.102_941_26,
            0.103_763_64,
        ];
        const INVERSE_SQRT_2PI: f32 = 0.398_942_3;
        let y = self.abs();
        let gauss = Real::exp(-0.5 * self * self);
        let t = 1.0 / 0.26f32.mul_add(y, 1.0);
        let mut p = P[0];
        for coefficient in &P[1..] {
            p = p.mul_add(t, *coefficient);
        }
        let tail = gauss * t * p;
        (if self < 0.0 { tail } else { 1.0 - tail }, gauss * INVERSE_SQRT_2PI)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f64::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn tanh(self) -> Self {
        f64::tanh(self)
    }
    fn normal_cdf_pdf(self) -> (Self, Self) {
        let cdf = 0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2);
        (cdf, (-0.5 * self * self).exp() / (2.0 * std::f64::consts::PI).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -8600..8800 {
            let x = i as f32 * 0.01;
            worst = worst.max((f64::from(Real::exp(x)) / f64::from(x).exp() - 1.0).abs());
        }
        assert!(worst < 2.4e-7, "{worst:e}");
        assert!(Real::exp(f32::NAN).is_nan());
        assert!(Real::exp(-1e30f32) < 1e-37);
        assert_eq!(Real::exp(0.0f32), 1.0);
    }

    #[test]
    fn normal_cdf_is_precise_in_both_tails() {
        for i in -1200..=1200 {
            let x = i as f32 * 0.01;
            let (cdf, pdf) = x.normal_cdf_pdf();
            let (expected_cdf, expected_pdf) = f64::from(x).normal_cdf_pdf();
            // exp(-x^2 / 2) inherits the rounding of its argument: x^2 / 2 units of 2^-24.
            let tolerance = 7e-7 + 6e-8 * f64::from(x * x) / 2.0;
            assert!((f64::from(cdf) / expected_cdf - 1.0).abs() < tolerance, "x {x}: {cdf} {expected_cdf}");
            assert!((f64::from(pdf) / expected_pdf - 1.0).abs() < tolerance, "x {x}: {pdf} {expected_pdf}");
        }
    }

    #[test]
    fn lane_sums_and_maxima_take_every_element() {
        for count in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f64> = (0..count).map(|i| i as f64).collect();
            assert_eq!(lane_sum(count, |i| values[i]), values.iter().sum::<f64>());
            assert_eq!(lane_max(&values), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
    }
}
