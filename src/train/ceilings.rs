//! What the machine can do at most, measured: the bandwidth of a copy and the rate of a large product. A kernel is judged by these,
//! not by a data sheet: a plain copy reaches about nine tenths of an H100's listed bandwidth.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use crate::autograd::{Matrix, Parameters, Spec, Tape};
use crate::device::{Buffer, DType, Device, Work};
use crate::philox::{Philox, Purpose};
use crate::{Result, ops};

/// Measured ceilings of a device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes a second of a large copy, reads and writes together.
    pub bytes_per_second: f64,
    /// Additions and multiplications a second of a large square product.
    pub flops_per_second: f64,
    /// Rows and columns of that product.
    pub product_size: usize,
}

/// How large the measured pieces are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of the copied buffer: beyond any cache.
    pub copied: usize,
    /// Rows and columns of the product.
    pub product: usize,
    /// How long each of the two is repeated at most.
    pub budget: Duration,
}

impl Sizes {
    /// What suits a device.
    pub fn of(device: &Device) -> Self {
        match device {
            Device::Cpu => Self { copied: 128 << 20, product: 1024, budget: Duration::from_millis(300) },
            Device::Kernels(_) => Self { copied: 1 << 30, product: 8192, budget: Duration::from_millis(500) },
        }
    }
}

impl Ceilings {
    /// Measures both ceilings of `device` in products of type `dtype`: the best of several runs, after one that warms up.
    ///
    /// # Errors
    /// Those of the device, out of memory among them.
    pub fn measure(device: &Device, dtype: DType, sizes: &Sizes) -> Result<Self> {
        let copy = best_of(sizes.budget, &mut copying(device, sizes.copied)?)?;
        let product = best_of(sizes.budget, &mut multiplying(device, dtype, sizes.product)?)?;
        Ok(Self {
            bytes_per_second: 2.0 * sizes.copied as f64 / copy,
            flops_per_second: 2.0 * (sizes.product as f64).powi(3) / product,
            product_size: sizes.product,
        })
    }

    /// The least time that work can take, in seconds.
    pub fn floor(&self, work: Work) -> f64 {
        (work.bytes / self.bytes_per_second).max(work.flops / self.flops_per_second)
    }

    /// Whether the arithmetic, not the memory, sets that time.
    pub fn is_arithmetic(&self, work: Work) -> bool {
        work.flops / self.flops_per_second > work.bytes / self.bytes_per_second
    }
}

/// Seconds of the fastest run within the budget: what the machine can do, whatever else it is busy with.
fn best_of(budget: Duration, run: &mut dyn FnMut() -> Result<f64>) -> Result<f64> {
    const FEWEST: usize = 3;
    run()?;
    let (mut best, mut runs, started) = (f64::INFINITY, 0, Instant::now());
    while runs < FEWEST || started.elapsed() < budget {
        best = best.min(run()?);
        runs += 1;
    }
    Ok(best)
}

/// A run that copies `bytes` and returns its seconds.
fn copying(device: &Device, bytes: usize) -> Result<impl FnMut() -> Result<f64>> {
    let source = Buffer::upload(device, &vec![1.0f32; bytes / 4])?;
    let mut target = Buffer::upload(device, &vec![0.0f32; bytes / 4])?;
    let device = device.clone();
    Ok(move || {
        let before = device.mark()?;
        match &device {
            Device::Cpu => {
                // All cores together: one alone does not fill the memory bus.
                let (source, target) = (source.slice::<f32>(), target.slice_mut::<f32>());
                let chunks = target.par_chunks_mut(1 << 18).zip(source.par_chunks(1 << 18));
                chunks.for_each(|(to, from)| to.copy_from_slice(from));
            }
            device => target.copy_from(device, &source)?,
        }
        device.seconds_between(&before, &device.mark()?)
    })
}

/// A run of a linear layer without bias, the product that training uses, on random numbers; returns its seconds.
fn multiplying(device: &Device, dtype: DType, size: usize) -> Result<impl FnMut() -> Result<f64>> {
    let draws = Philox::of(0, 0, Purpose::Init);
    let values: Vec<f32> = (0..size * size).into_par_iter().map(|i| draws.uniform(i as u64) as f32 - 0.5).collect();
    let spec = Spec { name: "weight".into(), shape: vec![size, size], offset: 0 };
    let mut parameters = Parameters::zeros(vec![spec], size * size, DType::F32);
    parameters.values = Buffer::from_slice(&values).copy_to(device, dtype)?;
    let weight = Matrix { offset: 0, rows: size, columns: size };
    let mut tape = Tape::new(device.clone(), dtype);
    let device = device.clone();
    Ok(move || {
        tape.start_inference();
        let mut x = tape.allocate(size * size)?;
        x.copy_from(&device, &parameters.values)?;
        let x = tape.push(x, size, size);
        let before = device.mark()?;
        ops::linear(&mut tape, &parameters, x, weight, None)?;
        device.seconds_between(&before, &device.mark()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_ceilings_and_floors_follow_the_larger_part() {
        let sizes = Sizes { copied: 1 << 20, product: 64, budget: Duration::ZERO };
        let ceilings = Ceilings::measure(&Device::Cpu, DType::F32, &sizes).unwrap();
        assert!(ceilings.bytes_per_second > 1e8 && ceilings.flops_per_second > 1e7, "{ceilings:?}");
        let round = Ceilings { bytes_per_second: 10.0, flops_per_second: 100.0, product_size: 1 };
        assert_eq!(round.floor(Work { bytes: 20.0, flops: 100.0 }), 2.0);
        assert_eq!(round.floor(Work { bytes: 20.0, flops: 300.0 }), 3.0);
        assert!(round.is_arithmetic(Work { bytes: 20.0, flops: 300.0 }));
        assert!(!round.is_arithmetic(Work { bytes: 20.0, flops: 100.0 }));
    }
}
