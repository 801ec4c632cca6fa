//! Launching a kernel: checks, workers, and clusters of blocks spread over OS threads.

use crate::block::{Block, Routine, finish_thread};
use crate::cluster::{CLUSTER_LIMIT, Cluster};
use crate::fault::{Fault, FaultKind, Finding};
use crate::guarded;
use crate::kernel::Kernel;
use crate::order::Order;
use crate::shared::BLOCK_LIMIT;
use crate::signal::{self, Exit};
use crate::stack::Stacks;
use crate::thread::{Lane, current_slot, set_current};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{io, ptr, thread};

/// Launches with fewer CUDA threads than this stay on one OS thread: starting another costs more than it saves.
const THREADS_WORTH_SPREADING: u64 = 2048;

/// How to run a launch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The order in which warps, lanes, blocks and clusters take turns. 0 is the natural one; every other seed shuffles, and the
    /// same seed shuffles the same way. A test should try a few: a missing barrier shows under some orders only.
    pub seed: u64,
    /// OS threads to spread blocks over; 0 means one for each processor.
    pub threads: usize,
}

/// Runs `kernel` on a grid of `grid` blocks of `block` threads, each block with `shared_bytes` bytes of dynamic shared
/// memory, and returns when all have finished. `arguments` holds a pointer to each of the kernel's arguments, as for
/// `cuLaunchKernel`.
///
/// Returns the fault of the lowest cluster that had one. Threads of that cluster were abandoned where they stood; the
/// process is unharmed.
///
/// # Safety
/// Each pointer in `arguments` must point to a value of the parameter's type. Memory that the kernel reaches through
/// them must be valid for what it does, or lie next to guard pages ([`crate::GuardedBuffer`]), and must not be used by
/// anyone else meanwhile.
pub unsafe fn launch(
    kernel: &Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    arguments: &mut [*mut c_void],
    options: &Options,
) -> Result<(), Fault> {
    let fault = |finding: Finding| finding.into_fault(kernel.name(), None, None);
    check(kernel, grid, block, shared_bytes, arguments).map_err(fault)?;
    signal::install();
    let job = Job {
        kernel,
        grid,
        block,
        shared_bytes,
        arguments: arguments.as_mut_ptr(),
        seed: options.seed,
        next: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        faults: Mutex::new(Vec::new()),
    };
    job.spread(options.threads).map_err(|error| {
        let text = format!("no memory for the threads of a block: {error}");
        fault(Finding::new(FaultKind::Launch, text))
    })?;
    let mut faults = job.faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    faults.sort_by_key(|(number, _)| *number);
    match faults.into_iter().next() {
        Some((_, fault)) => Err(fault),
        // SAFETY: the caller vouches for the arguments.
        None => unsafe { check_buffers(kernel, arguments) }.map_err(fault),
    }
}

/// Refuses what the driver would refuse.
fn check(
    kernel: &Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    arguments: &[*mut c_void],
) -> Result<(), Finding> {
    let refuse = |text: String| Err(Finding::new(FaultKind::Launch, text));
    let limits =
        |size: [u32; 3], limits: [u32; 3]| size.iter().zip(limits).all(|(size, limit)| (1..=limit).contains(size));
    let threads: u64 = block.iter().map(|size| u64::from(*size)).product();
    if !limits(block, [1024, 1024, 64]) || threads > 1024 {
        return refuse(format!(
            "block {block:?}: each size must be at least 1, z at most 64, and all together at most 1024"
        ));
    }
    if !limits(grid, [i32::MAX.cast_unsigned(), 65535, 65535]) {
        return refuse(format!("grid {grid:?}: sizes must be at least 1, x at most 2^31 - 1, y and z at most 65535"));
    }
    let blocks: u64 = grid.iter().map(|size| u64::from(*size)).product();
    if blocks > u64::from(u32::MAX / 2) {
        return refuse(format!("grid {grid:?} has {blocks} blocks; the emulator takes 2^31 - 1"));
    }
    let cluster = kernel.cluster();
    let members: u32 = cluster.iter().product();
    if !(1..=CLUSTER_LIMIT).contains(&members) {
        return refuse(format!("clusters of {cluster:?} blocks: there are 1 to {CLUSTER_LIMIT} in one"));
    }
    if grid.iter().zip(cluster).any(|(size, members)| !size.is_multiple_of(members)) {
        return refuse(format!("grid {grid:?} is not made of whole clusters of {cluster:?} blocks"));
    }
    if shared_bytes > BLOCK_LIMIT {
        return refuse(format!("{shared_bytes} bytes of dynamic shared memory; no chip has more than {BLOCK_LIMIT}"));
    }
    let parameters = kernel.parameter_sizes();
    if parameters.len() != arguments.len() {
        return refuse(format!(
            "the kernel has {} parameters and is given {} arguments",
            parameters.len(),
            arguments.len()
        ));
    }
    if let Some(index) = arguments.iter().position(|argument| argument.is_null()) {
        return refuse(format!("argument {index} is a null pointer: pass a pointer to the argument's value"));
    }
    Ok(())
}

/// Looks at the bytes around every guarded buffer that was passed.
///
/// # Safety
/// As for [`launch`].
unsafe fn check_buffers(kernel: &Kernel, arguments: &[*mut c_void]) -> Result<(), Finding> {
    for (argument, size) in arguments.iter().zip(kernel.parameter_sizes()) {
        if *size as usize == size_of::<usize>() {
            // SAFETY: points to a value of that size; not every such value is aligned or a pointer.
            guarded::check(unsafe { argument.cast::<usize>().read_unaligned() })?;
        }
    }
    Ok(())
}

/// A launch on its way.
struct Job<'a> {
    kernel: &'a Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    arguments: *mut *mut c_void,
    seed: u64,
    next: AtomicU32,
    stop: AtomicBool,
    faults: Mutex<Vec<(u32, Fault)>>,
}

// SAFETY: the argument pointers are only read, and every block reads its own copies of the arguments.
unsafe impl Sync for Job<'_> {}

impl Job<'_> {
    fn cluster_size(&self) -> u32 {
        self.kernel.cluster().iter().product()
    }

    fn clusters(&self) -> u32 {
        self.grid.iter().product::<u32>() / self.cluster_size()
    }

    fn threads_per_block(&self) -> u32 {
        self.block.iter().product()
    }

    fn spread(&self, threads: usize) -> io::Result<()> {
        let available = || thread::available_parallelism().map_or(1, usize::from);
        let wanted = if threads == 0 { available() } else { threads };
        let (size, threads) = (self.cluster_size(), self.threads_per_block());
        let work = u64::from(self.clusters()) * u64::from(size * threads);
        let count = if work < THREADS_WORTH_SPREADING { 1 } else { wanted.min(self.clusters() as usize) };
        let mut workers = (0..count).map(|_| Worker::take(size, threads)).collect::<io::Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let (own, others) = workers.split_at_mut(1);
            for worker in others {
                scope.spawn(|| self.work(worker));
            }
            self.work(&mut own[0]);
        });
        workers.into_iter().for_each(Worker::give_back);
        Ok(())
    }

    /// Runs clusters until there are no more.
    fn work(&self, worker: &mut Worker) {
        let clusters = Order::new(self.seed, u64::MAX).permutation(self.clusters());
        while !self.stop.load(Ordering::Relaxed) {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            if turn >= self.clusters() {
                break;
            }
            let number = clusters.at(turn);
            if let Err(fault) = worker.run(self, number) {
                self.stop.store(true, Ordering::Relaxed);
                self.faults.lock().unwrap_or_else(PoisonError::into_inner).push((number, fault));
            }
        }
    }
}

/// What one OS thread needs to run clusters. Kept for the launches to come.
struct Worker {
    cluster: Box<Cluster>,
    stacks: Stacks,
    routines: Vec<Routine>,
}

// SAFETY: between launches a worker holds no routine and no pointer to its lanes; it moves between OS threads only then.
unsafe impl Send for Worker {}

static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

impl Worker {
    fn take(size: u32, threads: u32) -> io::Result<Worker> {
        let stacks = (size * threads) as usize;
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker { cluster: Box::new(Cluster::new()), stacks: Stacks::new(stacks)?, routines: Vec::new() },
        };
        worker.cluster.resize(size as usize, threads)?;
        if worker.stacks.count() < stacks {
            worker.stacks = Stacks::new(stacks)?;
        }
        Ok(worker)
    }

    fn give_back(self) {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }

    fn run(&mut self, job: &Job, number: u32) -> Result<(), Fault> {
        self.cluster.begin(number, job.block, job.grid, job.kernel, job.shared_bytes);
        for (index, lane) in self.cluster.blocks().iter().flat_map(Block::lanes).enumerate() {
            let stack = self.stacks.stack(index);
            lane.stack.set(Some(stack));
            self.routines.push(routine(stack, lane, *job.kernel, job.arguments));
        }
        let mut order = Order::new(job.seed, u64::from(number));
        let result = self.cluster.run(&mut self.routines, &mut order);
        signal::set_running(None);
        // SAFETY: null is no lane.
        unsafe { set_current(current_slot(), ptr::null()) };
        for mut routine in self.routines.drain(..) {
            // SAFETY: what is left on an abandoned stack is the kernel's C++ frames and frames of this crate that hold
            // nothing to drop: see `Lane::suspend`.
            unsafe { routine.force_reset() };
        }
        result.map_err(|(rank, finding)| {
            let block = &self.cluster.blocks()[rank];
            let thread = finding.thread.map(|number| block.thread_index(number));
            finding.into_fault(job.kernel.name(), Some(block.index()), thread)
        })
    }
}

fn routine(stack: crate::stack::Stack, lane: *const Lane, kernel: Kernel, arguments: *mut *mut c_void) -> Routine {
    Routine::with_stack(stack, move |yielder, ()| {
        // SAFETY: the block outlives its routines.
        let lane = unsafe { &*lane };
        lane.yielder.set(yielder);
        // SAFETY: the caller of `launch` vouches for the arguments.
        unsafe { kernel.run(arguments) };
        finish_thread(lane);
        Exit::Returned
    })
}
