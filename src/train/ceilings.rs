//! What the machine can do at most, measured: the bandwidth of its memory and the rate of a large product. A kernel is judged by these,
//! not by a data sheet: a plain copy reaches about nine tenths of an H100's listed bandwidth.
//!
//! On the CPU a copy alone would flatter: it fetches the lines that it is about to overwrite, and so moves three bytes where two are
//! counted. An update in place, as AdamW does, moves just what is counted and may be half again as fast. The faster of both is the ceiling.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use crate::autograd::{Matrix, Parameters, Spec, Tape};
use crate::device::product::{Layout, Product};
use crate::device::{Buffer, DType, Device, Work};
use crate::philox::{Philox, Purpose};
use crate::report::format::quantity;
use crate::{Result, ops};

/// Measured ceilings of a device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes a second of large arrays, reads and writes together.
    pub bytes_per_second: f64,
    /// What reached that: `a copy` or `an update in place`.
    pub memory: &'static str,
    /// Additions and multiplications a second of a large square product.
    pub flops_per_second: f64,
    /// Whether that was cuBLASLt's, not ours: where it can be had, the faster counts.
    pub by_cublaslt: bool,
    /// Rows and columns of that product.
    pub product_size: usize,
}

/// How large the measured pieces are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of the copied buffer: beyond what the caches hold.
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
            Device::Cpu => {
                // Twice the last cache, where that is known. A server's is shared by more cores than we have.
                let copied = (2 * last_cache().unwrap_or(0)).clamp(128 << 20, 256 << 20).next_multiple_of(1 << 20);
                Self { copied, product: 1024, budget: Duration::from_millis(300) }
            }
            Device::Kernels(driver) => {
                // A gigabyte, and 8192 rows, from 64 multiprocessors on; smaller chips are as busy with less.
                let multiprocessors = driver.multiprocessors().clamp(1, 64) as usize;
                let (copied, product) = (multiprocessors << 24, 128 * multiprocessors);
                Self { copied, product, budget: Duration::from_millis(500) }
            }
        }
    }
}

/// Bytes of the last level of the caches, by what Linux says.
fn last_cache() -> Option<usize> {
    let level = |index: usize| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()
    };
    (0..8).map_while(level).max().map(|kibibytes| kibibytes << 10)
}

/// What sets the least time of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The memory bus.
    Memory,
    /// The rate of products.
    Arithmetic,
    /// Neither: it was faster than the memory is, so it found some of its data in the cache.
    Cache,
}

impl Limit {
    /// As tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Arithmetic => "arithmetic",
            Self::Cache => "in cache",
        }
    }
}

impl Ceilings {
    /// Measures both ceilings of `device` in products of type `dtype`: the best of several runs, after one that warms up.
    ///
    /// # Errors
    /// Those of the device, out of memory among them.
    pub fn measure(device: &Device, dtype: DType, sizes: &Sizes) -> Result<Self> {
        let (mut seconds, mut memory) = (best_of(sizes.budget, &mut copying(device, sizes.copied)?)?, "a copy");
        if let Device::Cpu = device {
            let update = best_of(sizes.budget, &mut updating(sizes.copied))?;
            if update < seconds {
                (seconds, memory) = (update, "an update in place");
            }
        }
        let mut product = best_of(sizes.budget, &mut multiplying(device, dtype, sizes.product)?)?;
        let vendor = by_vendor(device, dtype, sizes)?.filter(|&seconds| seconds < product);
        product = vendor.unwrap_or(product);
        Ok(Self {
            bytes_per_second: 2.0 * sizes.copied as f64 / seconds,
            memory,
            flops_per_second: 2.0 * (sizes.product as f64).powi(3) / product,
            by_cublaslt: vendor.is_some(),
            product_size: sizes.product,
        })
    }

    /// Both in words: "a copy at 2.99 TB/s, a product of 8192 x 8192 x 8192 at 700 TFLOP/s by cuBLASLt".
    pub fn describe(&self) -> String {
        format!(
            "{} at {}, a product of {size} x {size} x {size} at {}{}",
            self.memory,
            quantity(self.bytes_per_second, "B/s"),
            quantity(self.flops_per_second, "FLOP/s"),
            if self.by_cublaslt { " by cuBLASLt" } else { "" },
            size = self.product_size,
        )
    }

    /// The least time that work can take, in seconds.
    pub fn floor(&self, work: Work) -> f64 {
        (work.bytes / self.bytes_per_second).max(work.flops / self.flops_per_second)
    }

    /// What limits work that took `seconds`; none where the work is unknown.
    pub fn limit(&self, work: Work, seconds: f64) -> Option<Limit> {
        if work.is_unknown() {
            return None;
        }
        let (memory, arithmetic) = (work.bytes / self.bytes_per_second, work.flops / self.flops_per_second);
        Some(if arithmetic > memory {
            Limit::Arithmetic
        } else if memory > seconds {
            Limit::Cache
        } else {
            Limit::Memory
        })
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

/// A run that adds to `bytes` on the CPU, all cores together, and returns its seconds.
fn updating(bytes: usize) -> impl FnMut() -> Result<f64> {
    let mut values = vec![1.0f32; bytes / 4];
    move || {
        let started = Instant::now();
        values.par_chunks_mut(1 << 18).for_each(|chunk| chunk.iter_mut().for_each(|value| *value += 1.0));
        Ok(started.elapsed().as_secs_f64())
    }
}

/// A run of a linear layer without bias, the product that training uses, on random numbers; returns its seconds.
fn multiplying(device: &Device, dtype: DType, size: usize) -> Result<impl FnMut() -> Result<f64>> {
    let spec = Spec { name: "weight".into(), shape: vec![size, size], offset: 0 };
    let mut parameters = Parameters::zeros(vec![spec], size * size, DType::F32);
    parameters.values = random(device, dtype, size)?;
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

/// Seconds of the same product by cuBLASLt; none where the device has it not.
fn by_vendor(device: &Device, dtype: DType, sizes: &Sizes) -> Result<Option<f64>> {
    if let Device::Cpu = device {
        return Ok(None);
    }
    let (size, operand) = (sizes.product, random(device, dtype, sizes.product)?);
    let result = Buffer::on(device, size * size, dtype)?;
    let product = Product {
        layout: Layout::Nt,
        sizes: [size; 3],
        strides: [size; 3],
        operands: dtype,
        output: dtype,
        scale: 1.0,
        accumulate: false,
        a: operand.address(),
        b: operand.address(),
        bias: None,
        c: result.address(),
    };
    if !device.vendor_product(&product)? {
        return Ok(None);
    }
    let mut run = || {
        let before = device.mark()?;
        device.vendor_product(&product)?;
        device.seconds_between(&before, &device.mark()?)
    };
    best_of(sizes.budget, &mut run).map(Some)
}

/// A square matrix of random numbers.
fn random(device: &Device, dtype: DType, size: usize) -> Result<Buffer> {
    let draws = Philox::of(0, 0, Purpose::Init);
    let values: Vec<f32> = (0..size * size).into_par_iter().map(|i| draws.uniform(i as u64) as f32 - 0.5).collect();
    Buffer::from_slice(&values).copy_to(device, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_ceilings_and_floors_follow_the_larger_part() {
        let sizes = Sizes { copied: 1 << 20, product: 64, budget: Duration::ZERO };
        let ceilings = Ceilings::measure(&Device::Cpu, DType::F32, &sizes).unwrap();
        assert!(ceilings.bytes_per_second > 1e8 && ceilings.flops_per_second > 1e7, "{ceilings:?}");
        let round = Ceilings {
            bytes_per_second: 10.0,
            memory: "a copy",
            flops_per_second: 100.0,
            by_cublaslt: false,
            product_size: 1,
        };
        assert_eq!(round.floor(Work { bytes: 20.0, flops: 100.0 }), 2.0);
        assert_eq!(round.floor(Work { bytes: 20.0, flops: 300.0 }), 3.0);
        assert_eq!(round.limit(Work { bytes: 20.0, flops: 300.0 }, 3.5), Some(Limit::Arithmetic));
        assert_eq!(round.limit(Work { bytes: 20.0, flops: 100.0 }, 2.5), Some(Limit::Memory));
        assert_eq!(
            round.limit(Work { bytes: 20.0, flops: 100.0 }, 1.5),
            Some(Limit::Cache),
            "faster than the memory is"
        );
        assert_eq!(round.limit(Work::default(), 1.0), None);
    }
}
