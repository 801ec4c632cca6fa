//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) over flat buffers, in one pass.

use half::bf16;
use rayon::prelude::*;

use super::{Real, real};
use crate::philox::Philox;

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1: corrects the bias of the moments.
    pub step: u64,
    /// Gradients are multiplied with this first (clipping).
    pub gradient_scale: f64,
    /// Elements from this index on are not decayed (biases and LayerNorm).
    pub decayed: usize,
}

/// An update as the kernel takes it: `struct Update` of `kernels/adamw.cu`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct UpdateArgument {
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    keep: f32,
    rate: f32,
    root_correction: f32,
}

impl UpdateArgument {
    /// The argument for `update`; the clipping factor is read from device memory instead.
    pub fn of(update: &Update) -> Self {
        let step = update.step.min(i32::MAX as u64) as i32;
        Self {
            beta1: update.beta1 as f32,
            rest1: (1.0 - update.beta1) as f32,
            beta2: update.beta2 as f32,
            rest2: (1.0 - update.beta2) as f32,
            eps: update.eps as f32,
            keep: (1.0 - update.learning_rate * update.weight_decay) as f32,
            rate: (update.learning_rate / (1.0 - update.beta1.powi(step))) as f32,
            root_correction: (1.0 / (1.0 - update.beta2.powi(step)).sqrt()) as f32,
        }
    }
}

/// Updates `weights` and both moments from `gradients`, which are then zero for the next step; all four have the same
/// length.
pub fn update<T: Real>(weights: &mut [T], gradients: &mut [T], first: &mut [T], second: &mut [T], update: &Update) {
    const CHUNK: usize = 1 << 14;
    weights
        .par_chunks_mut(CHUNK)
        .zip(gradients.par_chunks_mut(CHUNK))
        .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)))
        .enumerate()
        .for_each(|(chunk, ((weights, gradients), (first, second)))| {
            let decayed = update.decayed.saturating_sub(chunk * CHUNK).min(weights.len());
            let (decayed_weights, other_weights) = weights.split_at_mut(decayed);
            let (decayed_gradients, other_gradients) = gradients.split_at_mut(decayed);
            let (decayed_first, other_first) = first.split_at_mut(decayed);
            let (decayed_second, other_second) = second.split_at_mut(decayed);
            let plain = Update { weight_decay: 0.0, ..*update };
            update_chunk(decayed_weights, decayed_gradients, decayed_first, decayed_second, update);
            update_chunk(other_weights, other_gradients, other_first, other_second, &plain);
        });
}

/// As [`update`], for weights that are bf16 and have no f32 copy: the new value is rounded to one of its two neighbours in bf16, up with
/// a probability that is the part that rounding down would drop, so that the mean is the value. Rounding to nearest would lose
/// every update below half a unit of its weight, which most are. Element `e` takes half `e % 8` of block `e / 8` of `rounding`.
/// What the kernel does, for the tests: no training on the CPU has bf16 weights.
pub fn update_stochastically(
    weights: &mut [bf16],
    gradients: &mut [f32],
    moments: [&mut [f32]; 2],
    constants: &Update,
    rounding: &Philox,
) {
    let [first, second] = moments;
    let mut values: Vec<f32> = weights.iter().map(|weight| weight.to_f32()).collect();
    update(&mut values, gradients, first, second, constants);
    for (index, (weight, value)) in weights.iter_mut().zip(values).enumerate() {
        let word = rounding.block(index as u64 / 8)[index % 8 / 2];
        *weight = round_stochastically(value, (word >> (16 * (index % 2))) as u16);
    }
}

/// The random bits carry into the upper half as often as the lower half is large.
fn round_stochastically(value: f32, random: u16) -> bf16 {
    if !value.is_finite() {
        return bf16::from_f32(value);
    }
    bf16::from_bits(((value.to_bits() + u32::from(random)) >> 16) as u16)
}

fn update_chunk<T: Real>(weights: &mut [T], gradients: &mut [T], first: &mut [T], second: &mut [T], update: &Update) {
    let step = update.step.min(i32::MAX as u64) as i32;
    let [beta1, beta2, eps, scale] = [update.beta1, update.beta2, update.eps, update.gradient_scale].map(T::of);
    let [rest1, rest2] = [1.0 - update.beta1, 1.0 - update.beta2].map(T::of);
    let keep = T::of(1.0 - update.learning_rate * update.weight_decay);
    let rate = T::of(update.learning_rate / (1.0 - update.beta1.powi(step)));
    let root_correction = T::of(1.0 / (1.0 - update.beta2.powi(step)).sqrt());
    real::dispatch(
        #[inline(always)]
        || {
            for ((weight, slot), (first, second)) in weights.iter_mut().zip(gradients).zip(first.iter_mut().zip(second))
            {
                let gradient = *slot * scale;
                *slot = T::ZERO;
                *first = first.mul_add(beta1, gradient * rest1);
                *second = second.mul_add(beta2, gradient * gradient * rest2);
                *weight = *weight * keep - rate * *first / second.sqrt().mul_add(root_correction, eps);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_rounded_as_often_up_as_it_lies_above() {
        for value in [1.0f32, 1.001, -1.001, 3.337e-5, -7.77e8, 0.0, 1e-40] {
            let rounded = (0..=u16::MAX).map(|random| f64::from(round_stochastically(value, random).to_f32()));
            let mean = rounded.sum::<f64>() / 65536.0;
            // Every random number once: the mean is the value to the last bit of an f32.
            assert!((mean - f64::from(value)).abs() <= f64::from(value.abs()) * 1e-12, "{value}: {mean}");
        }
        // As a chip writes it: with every low bit set, so that a draw would carry through it.
        assert!(round_stochastically(f32::from_bits(0x7fff_ffff), u16::MAX).is_nan());
        assert_eq!(round_stochastically(f32::NEG_INFINITY, u16::MAX), bf16::NEG_INFINITY);
    }

    /// Updates of a hundredth of a unit: rounded to nearest, a weight of 1 would never move.
    #[test]
    fn small_updates_add_up_on_average() {
        let (count, steps) = (4096, 200);
        let constants = Update {
            learning_rate: 4e-5,
            beta1: 0.0,
            beta2: 0.0,
            eps: 0.0,
            weight_decay: 0.0,
            step: 1,
            gradient_scale: 1.0,
            decayed: 0,
        };
        let mut weights = vec![bf16::ONE; count];
        let [mut first, mut second] = [(); 2].map(|()| vec![0.0; count]);
        for step in 0..steps {
            let rounding = Philox::of(3, step, crate::philox::Purpose::Rounding);
            let gradients = &mut vec![-1.0; count];
            update_stochastically(&mut weights, gradients, [&mut first, &mut second], &constants, &rounding);
        }
        let mean = weights.iter().map(|weight| weight.to_f64()).sum::<f64>() / count as f64;
        // A unit is 2^-7; each step moves up with a probability of 4e-5 of it. Five standard deviations of the mean.
        let (moved, unit) = (4e-5 * f64::from(steps), 2f64.powi(-7));
        let deviation = (moved * unit / count as f64).sqrt();
        assert!((mean - 1.0 - moved).abs() < 5.0 * deviation, "{mean}, not {}", 1.0 + moved);
    }
}
