//! Kernels as the compiled C++ hands them over.

use std::ffi::{CStr, c_char, c_void};
use std::fmt;

/// One exported kernel, as `EXPORT_KERNEL` lays it out in C++ (`cuda_on_cpu_entry` in export.h).
#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    name: *const c_char,
    run: unsafe extern "C" fn(*mut *mut c_void),
    parameter_sizes: *const u32,
    parameters: u32,
    cluster: [u32; 3],
}

// SAFETY: an entry is constant data and the functions it names keep no state of their own.
unsafe impl Sync for Entry {}

/// A kernel that can be launched.
#[derive(Clone, Copy)]
pub struct Kernel {
    entry: &'static Entry,
}

impl Kernel {
    /// Wraps an entry that C++ exported.
    ///
    /// # Safety
    /// The entry must come from `EXPORT_KERNEL`, which the code that [`crate::include_kernels`] brings in ensures.
    pub const unsafe fn new(entry: &'static Entry) -> Kernel {
        Kernel { entry }
    }

    /// The name it was exported under.
    pub fn name(&self) -> &'static str {
        // SAFETY: `EXPORT_KERNEL` stores a string literal.
        unsafe { CStr::from_ptr(self.entry.name) }.to_str().unwrap_or("(a name that is not UTF-8)")
    }

    /// The size of each parameter in bytes.
    pub fn parameter_sizes(&self) -> &'static [u32] {
        // SAFETY: `EXPORT_KERNEL` stores a constant array with at least `parameters` elements.
        unsafe { std::slice::from_raw_parts(self.entry.parameter_sizes, self.entry.parameters as usize) }
    }

    /// Blocks of a cluster along x, y and z, as its `__cluster_dims__` says; a kernel without runs block by block.
    pub fn cluster(&self) -> [u32; 3] {
        self.entry.cluster
    }

    /// Runs the kernel's body as the current thread.
    ///
    /// # Safety
    /// `arguments` must hold one valid pointer for each parameter, and the caller must be a coroutine of a block.
    pub(crate) unsafe fn run(&self, arguments: *mut *mut c_void) {
        // SAFETY: passed on to the caller.
        unsafe { (self.entry.run)(arguments) }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("name", &self.name()).field("parameters", &self.parameter_sizes()).finish()
    }
}

/// The kernel of that name in a registry.
pub fn find(registry: &[Kernel], name: &str) -> Option<Kernel> {
    registry.iter().find(|kernel| kernel.name() == name).copied()
}

/// Brings the kernels that `cuda_on_cpu::build` compiled in this crate's build script into a module with one
/// function, `registry() -> &'static [Kernel]`.
#[macro_export]
macro_rules! include_kernels {
    ($module:ident) => {
        /// The kernels that the build script compiled.
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/cuda_on_cpu_kernels.rs"));
        }
    };
}
