//! Random inputs: drawn by all cores, and once, however many ways to compute are measured on them.

use std::cell::RefCell;
use std::collections::HashMap;

use half::bf16;
use helixgrad::Result;
use helixgrad::device::{Buffer, DType, Device};
use helixgrad::philox::Philox;
use rayon::prelude::*;

/// What has been drawn, by seed and the bits of the deviation. A number depends on its index alone, so a shorter input is the beginning of a
/// longer one.
#[derive(Default)]
pub struct Inputs(RefCell<HashMap<(u64, u64), Vec<f32>>>);

impl Inputs {
    /// `count` numbers around 0 with a deviation of about `deviation`, on `device`, in f32 or bf16.
    ///
    /// # Errors
    /// Those of the device.
    pub fn random(&self, device: &Device, dtype: DType, count: usize, deviation: f64, seed: u64) -> Result<Buffer> {
        let mut drawn = self.0.borrow_mut();
        let values = drawn.entry((seed, deviation.to_bits())).or_default();
        let draws = Philox::new(seed, 0, 0xBE);
        // Uniform, of the same deviation: cheaper than normal, and no time depends on it.
        let value = |index: usize| ((draws.uniform(index as u64) - 0.5) * deviation * 12f64.sqrt()) as f32;
        let missing = values.len()..count.max(values.len());
        values.par_extend(missing.into_par_iter().map(value));
        let values = &values[..count];
        match dtype {
            DType::Bf16 => {
                let values: Vec<bf16> = values.par_iter().map(|&value| bf16::from_f32(value)).collect();
                Buffer::upload(device, &values)
            }
            _ => Buffer::upload(device, values),
        }
    }

    /// How many numbers have been drawn.
    pub fn drawn(&self) -> usize {
        self.0.borrow().values().map(Vec::len).sum()
    }
}
