//! The launch seam: what it takes to run kernels by name.
//!
//! Behind [`Driver`] stand the CUDA driver and, in the tests, an emulator that runs the same kernel sources on the CPU. An
//! operation computes grid, block, shared bytes and arguments, and calls [`super::Device::launch`]; it never sees which.

use super::attention_kernels::AttentionPath;
use super::collective::{Collective, UniqueId};
use super::gemm_choice::GemmTable;
use super::graphs::{Graph, GraphCounts, Task};
use super::product::Product;
use super::{Buffer, Mark, TensorMap, Work};
use crate::{Error, Result};

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
    /// [`crate::Error::OutOfMemory`] saying how much was asked for and how much is free.
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

    /// Joins the devices of other processes, as rank `rank` of `size`, by what rank 0 has made for them
    /// ([`super::cuda::nccl::unique_id`]). What it carries is in order with what is launched; a driver in front of this one is to
    /// have handed everything over ([`Driver::submit`]).
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if there is no library for it; [`crate::Error::Failed`].
    fn join(&self, _id: &UniqueId, _rank: usize, _size: usize) -> Result<Box<dyn Collective>> {
        Err(Error::Failed(format!("{} cannot be joined with others", self.describe())))
    }

    /// Waits for everything launched.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] with the failure of an earlier launch.
    fn synchronize(&self) -> Result<()>;

    /// A step ends: what a driver holds back is to be under way now. Waits for nothing.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] with the failure of an earlier launch.
    fn submit(&self) -> Result<()> {
        Ok(())
    }

    /// What became of the work so far, from a driver that makes graphs of it ([`super::graphs`]).
    fn graph_counts(&self) -> Option<GraphCounts> {
        None
    }

    /// Makes a graph of tasks that run one after the other, without running it; `None` where there are no graphs, or not of
    /// these tasks.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] naming the task.
    ///
    /// # Safety
    /// Those of [`Driver::launch`], [`Driver::copy`] and [`Driver::fill`], for every task, whenever the graph runs.
    unsafe fn make_graph(&self, _tasks: &[Task]) -> Result<Option<Graph>> {
        Ok(None)
    }

    /// Changes task `index` of a graph to another one of its kind, for the runs that are yet to be started.
    ///
    /// # Errors
    /// As [`Driver::make_graph`].
    ///
    /// # Safety
    /// As [`Driver::make_graph`]; the graph is of this driver.
    unsafe fn set_task(&self, _graph: &mut Graph, _index: usize, _task: &Task) -> Result<()> {
        Err(Error::Failed("this device has no graphs".into()))
    }

    /// Runs a graph, in order behind everything launched before.
    ///
    /// # Errors
    /// [`crate::Error::Failed`].
    ///
    /// # Safety
    /// As [`Driver::make_graph`]; the graph is of this driver.
    unsafe fn run_graph(&self, _graph: &mut Graph) -> Result<()> {
        Err(Error::Failed("this device has no graphs".into()))
    }

    /// Marks the place behind everything launched so far, without waiting for it where the device can time itself.
    ///
    /// # Errors
    /// [`crate::Error::Failed`].
    fn mark(&self) -> Result<Mark> {
        self.synchronize()?;
        Ok(Mark::now())
    }

    /// Seconds from one mark to a later one; waits until the later one is reached.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] with the failure of an earlier launch.
    fn seconds_between(&self, first: &Mark, last: &Mark) -> Result<f64> {
        Ok(Mark::host_seconds(first, last))
    }

    /// Tells a profiler that is attached from outside (Nsight) to start or stop collecting.
    ///
    /// # Errors
    /// [`crate::Error::Failed`].
    fn collect_profile(&self, _on: bool) -> Result<()> {
        Ok(())
    }
}

/// Bytes of one argument, aligned as the most demanding of a kernel's parameters, a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Value(pub [u8; 128]);

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// What it costs at the least, for profiles; nothing depends on it.
    pub work: Work,
    /// Sums that a product's kernel takes out of its registers: elements of the result, for each part of k. For plans, as `work`.
    pub sums: usize,
    /// The counts among the arguments, for messages: they tell the shapes.
    sizes: Vec<usize>,
    /// A count that the kernel's type for it cannot hold.
    oversized: Option<usize>,
}

impl Launch {
    /// A launch of `blocks` blocks of `threads` threads.
    pub fn new(kernel: impl Into<String>, blocks: usize, threads: u32) -> Self {
        Self {
            kernel: kernel.into(),
            grid: [dimension(blocks), 1, 1],
            block: [threads, 1, 1],
            shared_bytes: 0,
            arguments: Vec::new(),
            work: Work::default(),
            sums: 0,
            sizes: Vec::new(),
            oversized: None,
        }
    }

    /// States what the launch costs at the least.
    pub fn work(mut self, work: Work) -> Self {
        self.work = work;
        self
    }

    /// States how many sums a product's kernel takes out of its registers: its way out costs as much again as its loop where k is short.
    pub fn sums(mut self, sums: usize) -> Self {
        self.sums = sums;
        self
    }

    /// Sets the grid in three dimensions.
    pub fn grid(mut self, x: usize, y: usize, z: usize) -> Self {
        self.grid = [x, y, z].map(dimension);
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

    /// Whether it is the same kernel on the same grid with the same arguments.
    pub fn repeats(&self, other: &Self) -> bool {
        let shape = |launch: &Self| (launch.grid, launch.block, launch.shared_bytes);
        self.kernel == other.kernel && shape(self) == shape(other) && self.arguments == other.arguments
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
    pub fn int(mut self, count: usize) -> Self {
        self.sizes.push(count);
        if i32::try_from(count).is_err() {
            self.oversized = Some(count);
        }
        self.value(count as i32)
    }

    /// Adds a count as the kernel's `int64_t`.
    pub fn long(mut self, count: usize) -> Self {
        self.sizes.push(count);
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

    /// Grid, block, shared bytes and counts, for messages.
    pub fn shape(&self) -> String {
        let Self { grid, block, shared_bytes, sizes, .. } = self;
        format!("grid {grid:?}, block {block:?}, {shared_bytes} shared bytes, sizes {sizes:?}")
    }

    /// Refuses what no GPU can run: counts over 31 bits, and grids and blocks beyond CUDA's limits.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the kernel, the number and its limit.
    pub fn check(&self) -> Result<()> {
        let [x, y, z] = self.grid;
        let threads: u64 = self.block.iter().map(|&threads| u64::from(threads)).product();
        let found = if let Some(count) = self.oversized {
            format!("a count of {count}, and the kernel counts to 2^31 - 1")
        } else if x > i32::MAX as u32 || y > 65_535 || z > 65_535 {
            format!("a grid of {x} x {y} x {z} blocks, where a GPU takes 2^31 - 1 x 65,535 x 65,535")
        } else if self.grid.contains(&0) {
            "a grid without blocks".into()
        } else if !(1..=1024).contains(&threads) {
            format!("blocks of {threads} threads, where a GPU takes 1 to 1,024")
        } else {
            return Ok(());
        };
        Err(Error::usage(
            format!("kernel {self}: {found}"),
            "compute less at a time: raise --micro-batches, or lower --tokens-per-step or --batch",
        ))
    }
}

impl std::fmt::Display for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.kernel, self.shape())
    }
}

/// A number of blocks; one that 32 bits cannot hold becomes one that [`Launch::check`] refuses.
fn dimension(blocks: usize) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_gpu_can_run_is_refused_by_name() {
        let refused = |launch: Launch| launch.check().err().map(|error| error.to_string()).unwrap_or_default();
        let launch = |blocks| Launch::new("gather_forward_f32", blocks, 256);
        assert_eq!(refused(launch(i32::MAX as usize).int(i32::MAX as usize).long(1 << 40).grid(1, 65_535, 65_535)), "");
        let text = refused(launch(1).int(1 << 31));
        assert!(
            text.contains("gather_forward_f32 (grid [1, 1, 1]") && text.contains("a count of 2147483648"),
            "{text}"
        );
        assert!(text.contains("--micro-batches"), "{text}");
        for beyond in [launch(1 << 31), launch(1 << 40), launch(1).grid(1, 65_536, 1), launch(1).grid(1, 1, 1 << 33)] {
            assert!(refused(beyond).contains("a grid of"));
        }
        assert!(refused(launch(0)).contains("without blocks"));
        assert!(refused(launch(1).block(32, 33, 1)).contains("blocks of 1056 threads"));
    }
}
