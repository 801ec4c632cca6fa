//! Runs compiled CUDA kernels on the CPU: PTX as nvcc, Triton and CUTLASS write it, unmodified, up to Hopper's `wgmma`, tensor
//! copies, mbarriers and clusters. What goes wrong in a kernel (a race in shared memory, a missing fence, a read of memory that
//! nobody wrote, a deadlock) is a [`Fault`] with its line.
//!
//! ```
//! use ptx_on_cpu::{Launch, Memory, Module, Settings, run};
//!
//! let module = Module::parse(
//!     ".version 8.0
//!      .target sm_80
//!      .address_size 64
//!      .visible .entry double(.param .u64 values) {
//!          .reg .b32 %r<3>;
//!          .reg .b64 %d<3>;
//!          ld.param.u64 %d1, [values];
//!          mov.u32 %r1, %tid.x;
//!          mad.wide.u32 %d2, %r1, 4, %d1;
//!          ld.global.u32 %r2, [%d2];
//!          add.u32 %r2, %r2, %r2;
//!          st.global.u32 [%d2], %r2;
//!          ret;
//!      }",
//! )?;
//! let memory = Memory::new();
//! let values = memory.upload(&[1u32, 2, 3].map(u32::to_le_bytes).concat());
//! let kernel = module.kernel("double").unwrap();
//! let launch = Launch {
//!     kernel: "double".into(),
//!     grid: [1; 3],
//!     block: [3, 1, 1],
//!     cluster: [1; 3],
//!     dynamic_shared: 0,
//!     parameters: kernel.pack(&[values.to_le_bytes()])?,
//! };
//! let counters = run(&module, &launch, &memory, &Settings::strict(1))?;
//! assert_eq!(memory.read(values, 12)?, [2u32, 4, 6].map(u32::to_le_bytes).concat());
//! assert_eq!(counters.thread_instructions, 3 * 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The parts: `lex` and `parse` make a [`Module`] of text; `decode` makes instructions over rows of 32 lanes of it, `allocate`
//! gives registers their rows; `machine` runs clusters of blocks of warps; `tensor` and `copies` are the matrix instructions and
//! the asynchronous copies; `clocks`, `races` and `lanes` find hazards.

#![allow(clippy::precedence, reason = "bits are shifted before they are combined, as in the manual's formulas")]

mod allocate;
mod clocks;
mod copies;
mod counters;
mod decode;
mod error;
mod fault;
mod inline;
mod instruction;
mod lanes;
mod launch;
mod lex;
mod machine;
mod memory;
mod module;
mod parse;
mod races;
mod registers;
mod rows;
mod syntax;
mod tensor;
mod tensor_map;

pub use counters::{Counters, Counts, SourceLine};
pub use error::Error;
pub use fault::Fault;
pub use launch::{Asynchronous, Launch, Settings, run};
pub use memory::Memory;
pub use module::{Kernel, Module, Parameter};
pub use tensor_map::{Swizzle, TensorMap};
