//! What a device is: memory to compute on, and kernels to launch.
//!
//! Only this module and the ones below it know what a device is made of. [`cpu`] holds the arithmetic in Rust: it is the
//! reference that every kernel is tested against, and what a machine without a GPU trains on.

mod buffer;
pub mod cpu;
pub mod cuda;
mod driver;
pub mod gemm_plan;
pub mod kernels;
mod launch_log;
pub mod sampling_plan;
mod tensor_map;

use std::sync::{Arc, OnceLock};

pub use buffer::{Buffer, DType, Element};
pub use driver::{Argument, Driver, Launch, Value};
pub use launch_log::LaunchLog;
pub use tensor_map::{Swizzle, TensorMap};

use crate::{Error, Result};

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
        match name {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(cuda::open(0).map_or(Self::Cpu, Self::Kernels)),
            "cuda" => cuda::open(0).map(Self::Kernels),
            _ => match name.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
                Some(number) => cuda::open(number).map(Self::Kernels),
                None => Err(Error::usage(format!("--device {name}: no such device"), "use auto, cpu or cuda[:N]")),
            },
        }
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

    /// Whether it runs the kernels of `*_sm90.cu`: a chip of compute capability 9.0.
    pub fn runs_sm90(&self) -> bool {
        matches!(self, Self::Kernels(driver) if driver.compute_capability() == (9, 0))
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
