//! What a device is: memory to compute on, and kernels to launch.
//!
//! Only this module and the ones below it know what a device is made of. [`cpu`] holds the arithmetic in Rust: it is the
//! reference that every kernel is tested against, and what a machine without a GPU trains on.

pub mod attention_kernels;
pub mod attention_pattern;
pub mod big_bird;
mod buffer;
pub mod chips;
pub mod collective;
pub mod cpu;
pub mod cuda;
#[cfg(feature = "cust")]
pub mod cust;
mod driver;
pub mod entry_lists;
pub mod gemm_choice;
pub mod gemm_plan;
pub mod graphs;
pub mod host_memory;
pub mod kernels;
mod launch_log;
mod mark;
pub mod mpi;
pub mod nvtx;
pub mod planner;
pub mod product;
pub mod recorder;
pub mod sampling_plan;
mod tensor_map;
mod work;

use std::sync::{Arc, OnceLock};

pub use buffer::{Buffer, DType, Element};
pub use driver::{Argument, Driver, Launch, Value};
pub use gemm_choice::GemmChoice;
pub use launch_log::LaunchLog;
pub use mark::Mark;
pub use tensor_map::{Swizzle, TensorMap};
pub use work::Work;

use attention_kernels::{AttentionKernels, AttentionPath};
use graphs::{GraphCounts, Graphs};

use crate::{Error, Result};

/// Which kernels a device is to use where it has several.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// Attention: `--attention`.
    pub attention: AttentionPath,
    /// Matrix products: `--gemm`.
    pub gemm: GemmChoice,
    /// Whether launches are handed over as graphs: `--cuda-graphs`.
    pub graphs: bool,
    /// Whether a kernel's blocks may start while the last of the kernel before it still run: `--dependent-launch`.
    pub dependent_launch: bool,
}

/// A place to compute.
#[derive(Clone)]
pub enum Device {
    /// This machine's cores, through rayon's global pool.
    Cpu,
    /// A machine that runs the kernels of `kernels/`: a GPU, or the emulator in tests.
    Kernels(Arc<dyn Driver>),
}

impl Device {
    /// The device that a `--device` option names: `auto`, `cpu` or `cuda[:N]`. `auto` is the first GPU that can be used,
    /// or else the CPU.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is none of these; [`Error::Failed`] saying why a GPU cannot be used.
    pub fn parse(name: &str) -> Result<Self> {
        Self::open(name, Choices::default())
    }

    /// As [`Device::parse`], with the kernels that `choices` names. The CPU has one way for everything, and refuses to be told.
    ///
    /// # Errors
    /// As [`Device::parse`]; [`Error::Usage`] if the device cannot run what was chosen, or a library is not there.
    pub fn open(name: &str, choices: Choices) -> Result<Self> {
        let Choices { attention, gemm, graphs, dependent_launch } = choices;
        let open = |number| cuda::open(number, choices).map(Self::Kernels);
        let device = match name {
            "cpu" => Self::Cpu,
            "auto" => open(0).unwrap_or(Self::Cpu),
            "cuda" => open(0)?,
            _ => match name.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
                Some(number) => open(number)?,
                None => {
                    return Err(Error::usage(format!("--device {name}: no such device"), "use auto, cpu or cuda[:N]"));
                }
            },
        };
        if matches!(device, Self::Cpu) && gemm == GemmChoice::CublasLt {
            return Err(Error::usage("--gemm cublaslt on the CPU", "leave it out, or use --device cuda"));
        }
        if matches!(gemm, GemmChoice::OwnSingle | GemmChoice::OwnCluster) && !device.runs_sm90() {
            return Err(Error::usage(
                format!("--gemm {} on {device}, whose kernels have no clusters", gemm.name()),
                "leave it out, or choose a GPU of compute capability 9.0 with --device",
            ));
        }
        if matches!(device, Self::Cpu) && graphs {
            return Err(Error::usage("--cuda-graphs on the CPU", "leave it out, or use --device cuda"));
        }
        if dependent_launch && !device.runs_sm90() {
            return Err(Error::usage(
                format!("--dependent-launch on {device}, whose kernels do not wait by themselves for the one before"),
                "leave it out, or choose a GPU of compute capability 9.0 with --device",
            ));
        }
        let families = match &device {
            Self::Cpu => Vec::new(),
            Self::Kernels(driver) => AttentionKernels::families(driver.compute_capability()),
        };
        if attention != AttentionPath::Auto && !families.contains(&attention) {
            let names: Vec<&str> = families.into_iter().map(AttentionPath::name).collect();
            let remedy = match &names[..] {
                [] => "leave --attention out, or choose a GPU with --device".into(),
                names => format!("leave --attention out, or choose what runs there: {}", names.join(", ")),
            };
            return Err(Error::usage(
                format!("--attention {} on {device}, which cannot run these kernels", attention.name()),
                remedy,
            ));
        }
        Ok(if graphs { Graphs::over(device) } else { device })
    }

    /// Which attention kernels heads of `head_dim` elements of type `dtype` get; `None` on the CPU, which has one way. With
    /// `hooks`, kernels that know ALiBi and block-sparse patterns.
    ///
    /// # Errors
    /// As [`AttentionKernels::choose`].
    pub fn attention_kernels(
        &self,
        dtype: DType,
        head_dim: usize,
        hooks: bool,
    ) -> Result<Option<&'static AttentionKernels>> {
        let Self::Kernels(driver) = self else { return Ok(None) };
        let capability = driver.compute_capability();
        AttentionKernels::choose(driver.attention_path(), dtype, head_dim, capability, hooks).map(Some)
    }

    /// Runs a kernel on a device that has kernels. With `HELIXGRAD_CHECK_LAUNCHES=1` in the environment it waits until the
    /// kernel is done, so that a failure is told with the launch that caused it; otherwise that shows at a later call.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the kernel and its launch; [`Error::Usage`] for a launch beyond what a GPU can count.
    ///
    /// # Panics
    /// On the CPU: a fault of the caller, never of input.
    pub fn launch(&self, launch: &Launch) -> Result<()> {
        static CHECK: OnceLock<bool> = OnceLock::new();
        let Self::Kernels(driver) = self else { panic!("a kernel was launched on the CPU device") };
        launch.check()?;
        // SAFETY: a launch is put together by one operation from live buffers of this device; that its arguments are those
        // of the kernel, and its buffers large enough, is what the kernel tests establish, in the emulator with guard pages
        // around every buffer.
        unsafe { driver.launch(launch) }?;
        if *CHECK.get_or_init(|| std::env::var_os("HELIXGRAD_CHECK_LAUNCHES").is_some_and(|value| value != "0")) {
            return driver.synchronize().map_err(|error| Error::Failed(format!("kernel {launch} failed: {error}")));
        }
        Ok(())
    }

    /// The measurements that matrix products were chosen by; none on the CPU, or where the choice is firm.
    pub fn measured_products(&self) -> Vec<gemm_choice::Measured> {
        match self {
            Self::Cpu => Vec::new(),
            Self::Kernels(driver) => driver.gemm_table().map(gemm_choice::GemmTable::measured).unwrap_or_default(),
        }
    }

    /// Computes a matrix product with the vendor's library; `false` where there is none or it does not take this product.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the product's shape.
    pub(crate) fn vendor_product(&self, product: &product::Product) -> Result<bool> {
        let Self::Kernels(driver) = self else { return Ok(false) };
        // SAFETY: a product is put together by one operation from live buffers of this device, as a launch is; the same product
        // goes to our kernels, whose tests have guard pages around every buffer.
        unsafe { driver.vendor_product(product) }
    }

    /// Waits until everything launched is done.
    ///
    /// # Errors
    /// The failure of an earlier launch.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Kernels(driver) => driver.synchronize(),
        }
    }

    /// A step ends: what is held back is to be under way now ([`Driver::submit`]). Waits for nothing.
    ///
    /// # Errors
    /// The failure of an earlier launch.
    pub fn submit(&self) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Kernels(driver) => driver.submit(),
        }
    }

    /// What became of the work so far where it is handed over as graphs; `None` where it is not.
    pub fn graph_counts(&self) -> Option<GraphCounts> {
        match self {
            Self::Cpu => None,
            Self::Kernels(driver) => driver.graph_counts(),
        }
    }

    /// Marks the place behind everything launched so far.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn mark(&self) -> Result<Mark> {
        match self {
            Self::Cpu => Ok(Mark::now()),
            Self::Kernels(driver) => driver.mark(),
        }
    }

    /// Seconds from one mark to a later one, by the device's own clock where it has one.
    ///
    /// # Errors
    /// The failure of an earlier launch.
    pub fn seconds_between(&self, first: &Mark, last: &Mark) -> Result<f64> {
        match self {
            Self::Cpu => Ok(Mark::host_seconds(first, last)),
            Self::Kernels(driver) => driver.seconds_between(first, last),
        }
    }

    /// Whether it runs the kernels of `*_sm90.cu`: a chip of compute capability 9.0.
    pub fn runs_sm90(&self) -> bool {
        matches!(self, Self::Kernels(driver) if driver.compute_capability() == (9, 0))
    }

    /// Who computes matrix products; on the CPU there is no choice.
    pub fn gemm_choice(&self) -> GemmChoice {
        match self {
            Self::Cpu => GemmChoice::Own,
            Self::Kernels(driver) => driver.gemm_table().map_or(GemmChoice::Own, gemm_choice::GemmTable::choice),
        }
    }

    /// Tells a profiler that is attached from outside to start or stop collecting; nothing on the CPU.
    ///
    /// # Errors
    /// The failure of an earlier launch.
    pub fn collect_profile(&self, on: bool) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Kernels(driver) => driver.collect_profile(on),
        }
    }

    /// The number of multiprocessors; 1 for the CPU.
    pub fn multiprocessors(&self) -> usize {
        match self {
            Self::Cpu => 1,
            Self::Kernels(driver) => driver.multiprocessors() as usize,
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Kernels(driver) => f.write_str(&driver.describe()),
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({self})")
    }
}
