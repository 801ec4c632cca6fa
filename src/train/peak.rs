//! The rate that a training's arithmetic is compared with: MFU is the share of it that was reached.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ceilings::{Ceilings, Sizes};
use crate::Result;
use crate::device::{DType, Device};

/// What a rate is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Additions and multiplications a second.
    pub flops_per_second: f64,
    /// Who says so.
    pub source: String,
}

impl Peak {
    /// The vendor's figure for bf16 on a GPU that is known, or else the measured one.
    pub fn of(device: &Device, dtype: DType, ceilings: &Ceilings) -> Self {
        match vendor_flops(&device.to_string()) {
            Some(flops_per_second) if dtype == DType::Bf16 => {
                Self { flops_per_second, source: "the vendor's data sheet, dense bf16".into() }
            }
            _ => {
                let size = ceilings.product_size;
                let source = format!("measured: a product of {size} x {size} x {size} in {}", dtype.name());
                Self { flops_per_second: ceilings.flops_per_second, source }
            }
        }
    }

    /// As [`Peak::of`], with a short measurement where one is needed: for the log of a run.
    ///
    /// # Errors
    /// Those of the device.
    pub fn quick(device: &Device, dtype: DType) -> Result<Self> {
        let product = match device {
            Device::Cpu => 512,
            // Enough tiles for every multiprocessor, and no more: an emulated one takes seconds for what a real one does in no time.
            Device::Kernels(_) => (32 * device.multiprocessors()).next_multiple_of(64).min(4096),
        };
        let sizes = Sizes { copied: 1 << 16, product, budget: Duration::from_millis(20) };
        let unknown = Ceilings {
            bytes_per_second: f64::NAN,
            memory: "",
            flops_per_second: f64::NAN,
            by_cublaslt: false,
            product_size: product,
        };
        let peak = Self::of(device, dtype, &unknown);
        if peak.flops_per_second.is_finite() {
            return Ok(peak);
        }
        Ok(Self::of(device, dtype, &Ceilings::measure(device, dtype, &sizes)?))
    }
}

/// The utilisation of a device in the course of a training.
pub struct Utilisation {
    device: Device,
    dtype: DType,
    flops: f64,
}

impl Utilisation {
    /// Of `device`, in products of `dtype`.
    pub fn new(device: &Device, dtype: DType) -> Self {
        Self { device: device.clone(), dtype, flops: 0.0 }
    }

    /// Counts the arithmetic of a step.
    pub fn add(&mut self, flops: f64) {
        self.flops += flops;
    }

    /// The share of `peak` that was reached if what was counted since the last call took `seconds`. Where it is not known yet
    /// it is found out, and measured if that has to be: once a run, so that the shares of a resumed run compare.
    ///
    /// # Errors
    /// Those of the device.
    pub fn take(&mut self, seconds: f64, peak: &mut Option<Peak>) -> Result<f64> {
        let peak = match peak {
            Some(peak) => peak,
            None => peak.insert(Peak::quick(&self.device, self.dtype)?),
        };
        Ok(std::mem::take(&mut self.flops) / seconds / peak.flops_per_second)
    }
}

/// Dense bf16 TFLOP/s with f32 sums, from the vendor's data sheets, by a part of the driver's name for the chip. The first
/// that fits counts.
const BF16_TFLOPS: [(&str, f64); 14] = [
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("A10", 125.0),
    ("RTX 4090", 165.2),
    ("RTX 5090", 209.5),
];

/// The vendor's dense bf16 rate for a chip, in FLOP/s, where it is in the table.
pub fn vendor_flops(device: &str) -> Option<f64> {
    BF16_TFLOPS.iter().find(|(name, _)| device.contains(name)).map(|(_, tflops)| tflops * 1e12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::chips::CHIPS;

    #[test]
    fn chips_are_told_apart() {
        for chip in CHIPS.iter().filter(|chip| chip.capability >= (8, 0)) {
            assert_eq!(vendor_flops(chip.title), Some(chip.tensor_flops.data_sheet), "{}: as `plan` has it", chip.name);
        }
        let tflops = |name| vendor_flops(name).map(|flops| flops / 1e12);
        assert_eq!(tflops("cuda:0 (NVIDIA H100 80GB HBM3)"), Some(989.0));
        assert_eq!(tflops("cuda:1 (NVIDIA H100 PCIe)"), Some(756.0));
        assert_eq!(tflops("cuda:0 (NVIDIA L40S)"), Some(362.0));
        assert_eq!(tflops("cuda:0 (NVIDIA A100-SXM4-80GB)"), Some(312.0));
        assert_eq!(tflops("cpu"), None);
    }
}
