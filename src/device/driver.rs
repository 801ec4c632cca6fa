//! The launch seam: what it takes to run kernels by name.
//!
//! Behind [`Driver`] stand the CUDA driver and, in the tests, an emulator that runs the same kernel sources on the CPU. An
//! operation computes grid, block, shared bytes and arguments, and calls [`super::Device::launch`]; it never sees which.

use super::attention_kernels::AttentionPath;
use super::gemm_choice::GemmTable;
use super::product::Product;
use super::{Buffer, TensorMap};
use crate::Result;

/// A machine that runs kernels.
pub trait Driver: Send + Sync {
    /// What it is, for people: "cuda:0 (NVIDIA H100 80GB HBM3)".
    fn describe(&self) -> String;

    /// The number of multiprocessors: persistent kernels launch a few blocks for each.
    fn multiprocessors(&self) -> u32;

    /// Major and minor compute capability: (9, 0) runs the kernels of `*_sm90.cu`, which use instructions of that chip alone.
    fn compute_capability(&self) -> (u32, u32);

    /// The attention kernels that the user asked for.
    fn attention_path(&self) -> AttentionPath {
        AttentionPath::Auto
    }

    /// Allocates device memory, aligned to 256 bytes; returns its address.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] saying how much was asked for and how much is free.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Frees memory.
    ///
    /// # Safety
    /// `address` is from [`Driver::allocate`] of this driver, and nobody uses it any more.
    unsafe fn free(&self, address: u64);

    /// Copies host bytes to the device.
    ///
    /// # Errors
    /// [`crate::Error::Failed`].
    ///
    /// # Safety
    /// The target lies inside an allocation of this driver.
    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Copies device bytes to the host, after all launches before it.
    ///
    /// # Errors
    /// [`crate::Error::Failed`]; the failure of an earlier launch may show here.
    ///
    /// # Safety
    /// The source lies inside an allocation of this driver.
    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()>;

    /// Copies bytes inside the device.
    ///
    /// # Errors
    /// [`crate::Error::Failed`].
    ///
    /// # Safety
    /// Source and target lie inside allocations of this driver and do not overlap.
    unsafe fn copy(&self, source: u64, target: u64, bytes: usize) -> Result<()>;

    /// Sets device bytes.
    ///
    /// # Errors
    /// [`crate::Error::Failed`].
    ///
    /// # Safety
    /// The target lies inside an allocation of this driver.
    unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()>;

    /// Runs a kernel, in order behind everything launched before.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] naming the kernel and its launch.
    ///
    /// # Safety
    /// The arguments are those that the kernel of this name takes, and the memory that they point to is as large as it
    /// reads and writes.
    unsafe fn launch(&self, launch: &Launch) -> Result<()>;

    /// Who computes matrix products, and what has been measured for it; `None` where there is no choice: our kernels.
    fn gemm_table(&self) -> Option<&GemmTable> {
        None
    }

    /// Computes a matrix product with the vendor's library, in order behind everything launched before. `false` where there is
    /// no library, or it does not take this product: then nothing happened.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] naming the product's shape.
    ///
    /// # Safety
    /// The addresses lie inside allocations of this driver that are as large as sizes and strides say.
    unsafe fn vendor_product(&self, _product: &Product) -> Result<bool> {
        Ok(false)
    }

    /// Waits for everything launched.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] with the failure of an earlier launch.
    fn synchronize(&self) -> Result<()>;
}

/// Bytes of one argument, aligned as the most demanding of a kernel's parameters, a tensor map.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Value(pub [u8; 128]);

/// One argument of a launch.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A plain value.
    Value(Value),
    /// A tensor map, which the driver encodes.
    TensorMap(TensorMap),
}

/// One launch: a kernel's name, its shape and its arguments.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The exported name, as in `layernorm_forward_bf16`.
    pub kernel: String,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// The arguments in order.
    pub arguments: Vec<Argument>,
}

impl Launch {
    /// A launch of `blocks` blocks of `threads` threads.
    pub fn new(kernel: impl Into<String>, blocks: usize, threads: u32) -> Self {
        let grid = [blocks as u32, 1, 1];
        Self { kernel: kernel.into(), grid, block: [threads, 1, 1], shared_bytes: 0, arguments: Vec::new() }
    }

    /// Sets the grid in three dimensions.
    pub fn grid(mut self, x: usize, y: usize, z: usize) -> Self {
        self.grid = [x as u32, y as u32, z as u32];
        self
    }

    /// Sets the block in three dimensions.
    pub fn block(mut self, x: u32, y: u32, z: u32) -> Self {
        self.block = [x, y, z];
        self
    }

    /// Sets the dynamic shared memory of a block, in bytes.
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }

    /// Adds a plain value: a number or a `repr(C)` struct of at most 128 bytes.
    pub fn value<T: bytemuck::NoUninit>(mut self, value: T) -> Self {
        let mut argument = Value([0; 128]);
        let bytes = bytemuck::bytes_of(&value);
        argument.0[..bytes.len()].copy_from_slice(bytes);
        self.arguments.push(Argument::Value(argument));
        self
    }

    /// Adds a tensor map, for a kernel's `const __grid_constant__ TensorMap`.
    pub fn tensor_map(mut self, map: TensorMap) -> Self {
        self.arguments.push(Argument::TensorMap(map));
        self
    }

    /// The arguments as bytes, for a driver, which says how it encodes a tensor map.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn values(&self, encode: impl Fn(&TensorMap) -> Result<Value>) -> Result<Vec<Value>> {
        let value = |argument: &Argument| match argument {
            Argument::Value(value) => Ok(*value),
            Argument::TensorMap(map) => encode(map),
        };
        self.arguments.iter().map(value).collect()
    }

    /// Adds a count as the kernel's `int`.
    pub fn int(self, count: usize) -> Self {
        self.value(count as i32)
    }

    /// Adds a count as the kernel's `int64_t`.
    pub fn long(self, count: usize) -> Self {
        self.value(count as i64)
    }

    /// Adds a pointer to memory that the kernel reads.
    pub fn read(self, buffer: &Buffer) -> Self {
        self.read_at(buffer, 0)
    }

    /// Adds a pointer to element `offset` of memory that the kernel reads.
    pub fn read_at(self, buffer: &Buffer, offset: usize) -> Self {
        self.value(buffer.address_of(offset))
    }

    /// Adds a pointer to memory that the kernel writes.
    pub fn write(self, buffer: &mut Buffer) -> Self {
        self.write_at(buffer, 0)
    }

    /// Adds a pointer to element `offset` of memory that the kernel writes.
    pub fn write_at(self, buffer: &mut Buffer, offset: usize) -> Self {
        self.value(buffer.address_of(offset))
    }

    /// Adds a null pointer: an optional input or output that is absent.
    pub fn null(self) -> Self {
        self.value(0u64)
    }

    /// Grid, block and shared bytes, for messages.
    pub fn shape(&self) -> String {
        format!("grid {:?}, block {:?}, {} shared bytes", self.grid, self.block, self.shared_bytes)
    }
}
