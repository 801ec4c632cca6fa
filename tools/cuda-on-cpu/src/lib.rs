//! Runs unmodified CUDA C++ kernels on the CPU. The README has the contract for kernel authors, and what this can and
//! cannot see.
//!
//! A crate with kernels compiles them in its build script (feature `build`) and launches them in its tests (feature
//! `runtime`):
//!
//! ```ignore
//! // build.rs
//! cuda_on_cpu::build::compile(&["kernels/scale.cu"], &["kernels/common"], &[]).expect("kernels compile");
//!
//! // the test
//! cuda_on_cpu::include_kernels!(kernels);
//! let kernel = cuda_on_cpu::find(kernels::registry(), "scale").unwrap();
//! unsafe { cuda_on_cpu::launch(&kernel, [4, 1, 1], [256, 1, 1], 0, &mut arguments, &Default::default()) }?;
//! ```

// Tested with the rest, although only build scripts use it.
#[cfg(any(feature = "build", test))]
pub mod build;

#[cfg(feature = "runtime")]
mod async_copy;
#[cfg(feature = "runtime")]
mod barrier;
#[cfg(feature = "runtime")]
mod block;
#[cfg(feature = "runtime")]
mod bulk_copy;
#[cfg(feature = "runtime")]
mod cluster;
#[cfg(feature = "runtime")]
mod descriptor;
#[cfg(feature = "runtime")]
mod fault;
#[cfg(feature = "runtime")]
mod guarded;
#[cfg(feature = "runtime")]
mod kernel;
#[cfg(feature = "runtime")]
mod launch;
#[cfg(feature = "runtime")]
mod mbarrier;
#[cfg(feature = "runtime")]
mod memory;
#[cfg(feature = "runtime")]
mod order;
#[cfg(feature = "runtime")]
mod sanitize;
#[cfg(feature = "runtime")]
mod shared;
#[cfg(feature = "runtime")]
mod signal;
#[cfg(feature = "runtime")]
mod source;
#[cfg(feature = "runtime")]
mod stack;
#[cfg(feature = "runtime")]
mod tensor;
#[cfg(feature = "runtime")]
mod tensor_map;
#[cfg(feature = "runtime")]
mod thread;
#[cfg(feature = "runtime")]
mod warp;
#[cfg(feature = "runtime")]
mod warp_functions;
#[cfg(feature = "runtime")]
mod wgmma;

#[cfg(feature = "runtime")]
pub use {
    fault::{Fault, FaultKind, Site},
    guarded::{Element, GuardedBuffer},
    kernel::{Entry, Kernel, find},
    launch::{Options, launch},
    tensor_map::{TensorElement, TensorMap, TensorSwizzle, TiledTensor},
};
