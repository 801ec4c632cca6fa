//! The chips that a step can be planned for: one table, a row a chip.

use serde::Serialize;

/// A rate: what the maker's data sheet says, and what a kernel is known to have reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// A second, by the data sheet.
    pub data_sheet: f64,
    /// A second, as it was measured; nothing where nobody here knows.
    pub sustained: Option<Sustained>,
}

/// A rate that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sustained {
    /// A second.
    pub rate: f64,
    /// What was measured, and by whom.
    pub source: &'static str,
}

impl Rate {
    /// Known from the data sheet only.
    const fn listed(data_sheet: f64) -> Self {
        Self { data_sheet, sustained: None }
    }

    const fn reaching(data_sheet: f64, rate: f64, source: &'static str) -> Self {
        Self { data_sheet, sustained: Some(Sustained { rate, source }) }
    }

    /// What floors are reckoned with: the sustained rate where it is known.
    pub fn known(&self) -> f64 {
        self.sustained.map_or(self.data_sheet, |sustained| sustained.rate)
    }

    /// Where [`Rate::known`] comes from.
    pub fn source(&self) -> &'static str {
        self.sustained.map_or("data sheet", |sustained| sustained.source)
    }
}

/// Which of our kernels run on a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Code {
    /// Those of Hopper, with wgmma and TMA, and the others as machine code of sm_90a.
    Hopper,
    /// Machine code of sm_80, with mma.sync.
    Ampere,
    /// PTX that the driver compiles, with mma.sync: right, but such kernels do not reach the rate of these tensor cores.
    Ptx,
    /// None: kernels here want bf16 and asynchronous copies, from compute capability 8.0 on.
    Missing,
}

impl Code {
    /// In words, for tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Hopper => "sm_90a (wgmma)",
            Self::Ampere => "sm_80 (mma.sync)",
            Self::Ptx => "PTX (mma.sync)",
            Self::Missing => "none",
        }
    }

    /// The target whose machine code runs, where it is known before the driver has made it.
    pub fn target(self) -> Option<&'static str> {
        match self {
            Self::Hopper => Some("sm_90a"),
            Self::Ampere => Some("sm_80"),
            Self::Ptx | Self::Missing => None,
        }
    }
}

/// A chip. Figures are those of its maker's data sheet or architecture paper, but for rates that say otherwise; what neither has is left
/// out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Chip {
    /// As `--chip` has it.
    pub name: &'static str,
    /// In full, with the form that the figures are of.
    pub title: &'static str,
    /// Compute capability, which kernels are chosen by.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// The highest clock of the multiprocessors ("boost"), Hz.
    pub clock: Option<f64>,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of its memory, read and written.
    pub bytes_per_second: Rate,
    /// Dense additions and multiplications of bf16 (f16 before compute capability 8.0) with sums in f32, by tensor cores.
    pub tensor_flops: Rate,
    /// Additions and multiplications of f32, without tensor cores.
    pub f32_flops: Rate,
    /// Bytes of the last cache.
    pub l2_bytes: Option<u64>,
    /// Bytes of shared memory that the blocks of a multiprocessor can have together.
    pub shared_bytes: u64,
}

impl Chip {
    /// The chip of this name.
    pub fn named(name: &str) -> Option<Self> {
        CHIPS.into_iter().find(|chip| chip.name == name)
    }

    /// Which of our kernels run on it.
    pub fn code(&self) -> Code {
        match self.capability {
            (9, 0) => Code::Hopper,
            (8, _) => Code::Ampere,
            (..8, _) => Code::Missing,
            _ => Code::Ptx,
        }
    }
}

/// A copy of an H200 and its cuBLAS, on a machine that was not ours; of 769 to 798 TFLOP/s the higher.
const H200_COPY: &str = "a device-to-device copy, measured elsewhere";
const H200_CUBLAS: &str = "cuBLAS at 8192^3 on random data, 769 to 798 TFLOP/s measured elsewhere";
const H100_COPY: &str = "a clone, published by Dao-AILab/quack";
const H100_CUBLAS: &str = "cuBLAS at 8192^3, published by pranjalssh/fast.cu";

/// nvidia.com's data sheets of the H200, H100, A100, HGX B200, T4 and V100, and its papers on the architectures of the two RTX.
pub const CHIPS: [Chip; 8] = [
    Chip {
        name: "h200",
        title: "H200 SXM 141 GB",
        capability: (9, 0),
        multiprocessors: 132,
        clock: Some(1.98e9),
        memory_bytes: 141_000_000_000,
        bytes_per_second: Rate::reaching(4.8e12, 4.3e12, H200_COPY),
        tensor_flops: Rate::reaching(989e12, 798e12, H200_CUBLAS),
        f32_flops: Rate::listed(67e12),
        l2_bytes: Some(50 << 20),
        shared_bytes: 228 << 10,
    },
    Chip {
        name: "h100",
        title: "H100 SXM 80 GB",
        capability: (9, 0),
        multiprocessors: 132,
        clock: Some(1.98e9),
        memory_bytes: 80_000_000_000,
        bytes_per_second: Rate::reaching(3.35e12, 3.0e12, H100_COPY),
        tensor_flops: Rate::reaching(989e12, 795e12, H100_CUBLAS),
        f32_flops: Rate::listed(67e12),
        l2_bytes: Some(50 << 20),
        shared_bytes: 228 << 10,
    },
    Chip {
        name: "a100",
        title: "A100 SXM 80 GB",
        capability: (8, 0),
        multiprocessors: 108,
        clock: Some(1.41e9),
        memory_bytes: 80_000_000_000,
        bytes_per_second: Rate::listed(2.039e12),
        tensor_flops: Rate::listed(312e12),
        f32_flops: Rate::listed(19.5e12),
        l2_bytes: Some(40 << 20),
        shared_bytes: 164 << 10,
    },
    Chip {
        name: "b200",
        title: "B200 SXM 180 GB",
        capability: (10, 0),
        multiprocessors: 148,
        clock: None,
        memory_bytes: 180_000_000_000,
        bytes_per_second: Rate::listed(8.0e12),
        tensor_flops: Rate::listed(2250e12),
        f32_flops: Rate::listed(80e12),
        l2_bytes: None,
        shared_bytes: 228 << 10,
    },
    Chip {
        name: "rtx4090",
        title: "GeForce RTX 4090 24 GB",
        capability: (8, 9),
        multiprocessors: 128,
        clock: Some(2.52e9),
        memory_bytes: 24_000_000_000,
        bytes_per_second: Rate::listed(1.008e12),
        tensor_flops: Rate::listed(165.2e12),
        f32_flops: Rate::listed(82.6e12),
        l2_bytes: Some(72 << 20),
        shared_bytes: 100 << 10,
    },
    Chip {
        name: "rtx5090",
        title: "GeForce RTX 5090 32 GB",
        capability: (12, 0),
        multiprocessors: 170,
        clock: Some(2.407e9),
        memory_bytes: 32_000_000_000,
        bytes_per_second: Rate::listed(1.792e12),
        tensor_flops: Rate::listed(209.5e12),
        f32_flops: Rate::listed(104.8e12),
        l2_bytes: Some(96 << 20),
        shared_bytes: 100 << 10,
    },
    Chip {
        name: "t4",
        title: "T4 16 GB",
        capability: (7, 5),
        multiprocessors: 40,
        clock: Some(1.59e9),
        memory_bytes: 16_000_000_000,
        bytes_per_second: Rate::listed(0.32e12),
        tensor_flops: Rate::listed(65e12),
        f32_flops: Rate::listed(8.1e12),
        l2_bytes: Some(4 << 20),
        shared_bytes: 64 << 10,
    },
    Chip {
        name: "v100",
        title: "V100 SXM2 32 GB",
        capability: (7, 0),
        multiprocessors: 80,
        clock: Some(1.53e9),
        memory_bytes: 32_000_000_000,
        bytes_per_second: Rate::listed(0.9e12),
        tensor_flops: Rate::listed(125e12),
        f32_flops: Rate::listed(15.7e12),
        l2_bytes: Some(6 << 20),
        shared_bytes: 96 << 10,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A typing error in one column contradicts the others: multiply-adds are lanes times clock, and tensor cores are no odd multiple.
    #[test]
    fn rows_agree_with_themselves() {
        for chip in CHIPS {
            assert_eq!(Chip::named(chip.name), Some(chip));
            let lanes = if matches!(chip.capability, (7, _) | (8, 0)) { 64.0 } else { 128.0 };
            if let Some(clock) = chip.clock {
                let f32_flops = 2.0 * lanes * f64::from(chip.multiprocessors) * clock;
                let off = chip.f32_flops.data_sheet / f32_flops - 1.0;
                assert!(off.abs() < 0.02, "{}: {f32_flops:e} by lanes and clock", chip.name);
            }
            for rate in [chip.bytes_per_second, chip.tensor_flops, chip.f32_flops] {
                assert!(rate.known() <= rate.data_sheet && rate.known() > 0.6 * rate.data_sheet, "{}", chip.name);
                assert_eq!(rate.source() == "data sheet", rate.sustained.is_none());
            }
            let ratio = chip.tensor_flops.data_sheet / chip.f32_flops.data_sheet;
            assert!((1.9..=30.0).contains(&ratio), "{}: {ratio}", chip.name);
            assert!(chip.shared_bytes <= 228 << 10 && chip.l2_bytes.is_none_or(|bytes| bytes >= 4 << 20));
        }
        assert_eq!(Chip::named("h300"), None);
    }
}
