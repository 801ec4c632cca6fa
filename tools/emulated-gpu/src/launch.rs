//! Kernels and launches of them, held against what a chip can do.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use cuda_on_cpu::Kernel;
use cudarc::driver::sys::CUresult;

use crate::cubin::Resources;
use crate::engine::Engine;
use crate::fatbin::Image;
use crate::gpu::{Answer, Gpu};

/// Registers of a multiprocessor.
const REGISTERS: u32 = 65_536;
/// Registers are given to a warp in pieces of so many.
const REGISTER_UNIT: u32 = 256;

/// A kernel of a module.
pub struct Function {
    pub kernel: Kernel,
    /// Where the PTX runs instead of the emulator.
    pub ptx: Option<Arc<ptx_on_cpu::Module>>,
    /// `None` where the module has PTX only.
    resources: Option<Resources>,
    /// Dynamic shared memory that a launch may ask for.
    allowed: usize,
}

/// A kernel's argument, aligned as the largest of them, a tensor map, wants it.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Value(pub [u8; 128]);

/// A launch with its arguments.
#[derive(Clone)]
pub struct Launch {
    pub function: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: usize,
    pub arguments: Vec<Value>,
}

impl Gpu {
    /// `cuModuleGetFunction`.
    pub fn function(&mut self, module: usize, name: &CStr) -> Answer<usize> {
        let module = self.modules.get(module).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        let name = name.to_str().map_err(|_| CUresult::CUDA_ERROR_NOT_FOUND)?;
        let resources = match module {
            Image::Code(kernels) => {
                let found = kernels.iter().find(|kernel| kernel.name == name).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
                Some(found.clone())
            }
            Image::Ptx | Image::NoBinary => None,
        };
        let kernel = helixgrad_kernels_emulated::find(name).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
        if let Some(resources) = &resources
            && resources.parameters != kernel.parameter_sizes()
        {
            eprintln!(
                "emulated GPU: kernel {name} has parameters of {:?} bytes in machine code, and of {:?} here",
                resources.parameters,
                kernel.parameter_sizes()
            );
            return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
        }
        if let Some(resources) = &resources
            && resources.cluster != kernel.cluster()
        {
            let (there, here) = (resources.cluster, kernel.cluster());
            eprintln!(
                "emulated GPU: kernel {name} has clusters of {there:?} blocks in machine code, and of {here:?} here"
            );
            return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
        }
        let ptx = match &mut self.engine {
            Engine::Cpp => None,
            Engine::Ptx(engine) => Some(engine.module(name).map_err(|why| {
                eprintln!("emulated GPU: {why}");
                CUresult::CUDA_ERROR_NOT_FOUND
            })?),
        };
        let shared = resources.as_ref().map_or(0, |resources| resources.shared);
        self.functions.push(Function { kernel, ptx, resources, allowed: (48 << 10) - shared });
        Ok(self.functions.len() - 1)
    }

    /// Blocks of a cluster that a kernel was compiled for, if any.
    pub fn cluster(&self, function: usize) -> Answer<Option<[u32; 3]>> {
        let function = self.functions.get(function).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        Ok(Some(function.kernel.cluster()).filter(|cluster| *cluster != [1; 3]))
    }

    /// `cuFuncSetAttribute` for dynamic shared memory.
    pub fn allow_shared(&mut self, function: usize, bytes: usize) -> Answer {
        let limit = self.block_shared();
        let function = self.functions.get_mut(function).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        if bytes + function.resources.as_ref().map_or(0, |resources| resources.shared) > limit {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        function.allowed = bytes;
        Ok(())
    }

    /// A launch, if the chip can run it, with a copy of its arguments.
    ///
    /// # Safety
    /// `arguments` holds a pointer to a value for each parameter of the kernel.
    pub unsafe fn prepare(
        &self,
        function: usize,
        grid: [u32; 3],
        block: [u32; 3],
        shared: usize,
        arguments: *mut *mut c_void,
    ) -> Answer<Launch> {
        let known = self.functions.get(function).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        let refuse = |status: CUresult, why: String| {
            eprintln!("emulated GPU: kernel {}, grid {grid:?}, block {block:?}: {why}", known.kernel.name());
            Err(status)
        };
        let threads: u32 = block.iter().product();
        let (most, registers) = known.resources.as_ref().map_or((1024, 0), |known| (known.threads, known.registers));
        if threads == 0 || threads > most {
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("a block has 1 to {most} threads"));
        }
        if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1].max(grid[2]) > 65_535 {
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, "the grid is out of bounds".into());
        }
        let cluster = known.kernel.cluster();
        if grid.iter().zip(cluster).any(|(size, members)| !size.is_multiple_of(members)) {
            let why = format!("the grid is not made of whole clusters of {cluster:?} blocks");
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        if shared > known.allowed {
            let why = format!("{shared} bytes of dynamic shared memory, where {} are allowed", known.allowed);
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        let of_block = (registers * 32).next_multiple_of(REGISTER_UNIT) * threads.div_ceil(32).next_multiple_of(4);
        if of_block > REGISTERS {
            let why = format!("{registers} registers a thread are {of_block} of {REGISTERS}");
            return refuse(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, why);
        }
        let sizes = known.kernel.parameter_sizes();
        if arguments.is_null() && !sizes.is_empty() {
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, "no arguments".into());
        }
        let mut values = Vec::with_capacity(sizes.len());
        for (index, &size) in sizes.iter().enumerate() {
            let mut value = Value([0; 128]);
            // SAFETY: the caller's promise. A null pointer in the list would be a fault in the driver, as it is here.
            unsafe {
                let source = (*arguments.add(index)).cast::<u8>();
                value.0[..size as usize].as_mut_ptr().copy_from_nonoverlapping(source, size as usize);
            }
            values.push(value);
        }
        Ok(Launch { function, grid, block, shared, arguments: values })
    }
}
