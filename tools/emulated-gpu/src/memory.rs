//! Device memory: host memory between guard pages.

use std::collections::BTreeMap;

use cuda_on_cpu::GuardedBuffer;
use cudarc::driver::sys::CUresult;

/// Everything allocated.
#[derive(Default)]
pub struct Memory {
    buffers: BTreeMap<u64, GuardedBuffer>,
    used: usize,
    total: usize,
    /// The same bytes, as the engine for PTX sees them.
    pub mapped: ptx_on_cpu::Memory,
}

impl Memory {
    pub fn new(total: usize) -> Self {
        Self { total, ..Self::default() }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn free_bytes(&self) -> usize {
        self.total - self.used
    }

    pub fn allocate(&mut self, bytes: usize) -> Result<u64, CUresult> {
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if bytes > self.free_bytes() {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let buffer =
            GuardedBuffer::poisoned::<u8>("device memory", bytes).map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        // SAFETY: the buffer stays until `free` unmaps it, and while a launch runs the GPU's lock is held.
        let mapped = unsafe { self.mapped.map(buffer.as_ptr().cast(), bytes) };
        mapped.map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        let address = buffer.as_ptr() as u64;
        self.used += bytes;
        self.buffers.insert(address, buffer);
        Ok(address)
    }

    pub fn free(&mut self, address: u64) -> Result<(), CUresult> {
        let buffer = self.buffers.remove(&address).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        self.mapped.unmap(address).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        self.used -= buffer.bytes();
        Ok(())
    }

    /// The bytes at `address`, if all of them lie in one allocation.
    pub fn range(&self, address: u64, bytes: usize) -> Result<*mut u8, CUresult> {
        let (start, buffer) = self.buffers.range(..=address).next_back().ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let offset = (address - start) as usize;
        if offset > buffer.bytes() || bytes > buffer.bytes() - offset {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        Ok(buffer.as_ptr().cast::<u8>().wrapping_add(offset))
    }
}
