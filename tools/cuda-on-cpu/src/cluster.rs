//! Thread-block clusters: blocks that run together, meet at a barrier and reach each other's shared memory (PTX ISA, "cluster of
//! cooperative thread arrays"). A block of a kernel without `__cluster_dims__` is a cluster of its own.

use crate::block::{Block, Routine};
use crate::fault::{FaultKind, Finding};
use crate::kernel::Kernel;
use crate::order::Order;
use crate::thread::{Dim3, Lane, RawSite, Wait, current, current_slot};
use std::cell::Cell;
use std::ffi::c_char;
use std::{io, ptr};

/// Rounds in which nothing but spinning happens, after which a cluster is called stuck. Each lets every spinning
/// thread do 256 atomics.
const SPIN_ROUNDS: u32 = 20_000;
/// The most blocks that a cluster may have on every chip that has clusters.
pub(crate) const CLUSTER_LIMIT: u32 = 8;

/// The running blocks. Kept by a worker and used for one cluster after the other.
pub(crate) struct Cluster {
    /// As many as the largest cluster so far had.
    blocks: Vec<Block>,
    size: usize,
    /// Barriers that all threads have passed, and threads that have arrived at the next.
    passed: Cell<u64>,
    arrived: Cell<u32>,
}

/// How often a thread has arrived at its cluster's barrier, and how often waited.
#[derive(Default)]
pub(crate) struct Visits {
    arrivals: Cell<u64>,
    waits: Cell<u64>,
}

impl Visits {
    pub fn reset(&self) {
        self.arrivals.set(0);
        self.waits.set(0);
    }
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster { blocks: Vec::new(), size: 0, passed: Cell::new(0), arrived: Cell::new(0) }
    }

    /// Makes it `size` blocks of `threads` threads. Fails when the operating system has no address space left.
    pub fn resize(&mut self, size: usize, threads: u32) -> io::Result<()> {
        while self.blocks.len() < size {
            self.blocks.push(Block::new(threads)?);
        }
        self.blocks.iter_mut().for_each(|block| block.resize(threads));
        self.size = size;
        Ok(())
    }

    /// Prepares for the cluster with that number.
    pub fn begin(&self, number: u32, block: [u32; 3], grid: [u32; 3], kernel: &Kernel, dynamic_bytes: usize) {
        let size = kernel.cluster();
        let clusters = std::array::from_fn(|side| grid[side] / size[side]);
        let first = Dim3::of(number, clusters).array();
        for (rank, member) in self.blocks().iter().enumerate() {
            let offset = Dim3::of(rank as u32, size).array();
            let index: [u32; 3] = std::array::from_fn(|side| first[side] * size[side] + offset[side]);
            member.begin(index.into(), block, grid, dynamic_bytes);
            member.join(ptr::from_ref(self), rank as u32);
        }
        self.passed.set(0);
        self.arrived.set(0);
    }

    pub fn blocks(&self) -> &[Block] {
        &self.blocks[..self.size]
    }

    /// The blocks that a mask names. Fails where one is not there, or not any more.
    pub fn members(&self, mask: u32) -> Result<impl Iterator<Item = &Block>, Finding> {
        let ranks = (0..u32::BITS).filter(move |rank| mask >> rank & 1 == 1);
        ranks.clone().try_for_each(|rank| self.member(rank).map(|_| ()))?;
        Ok(ranks.map(|rank| &self.blocks[rank as usize]))
    }

    /// The block of that rank. Fails where it is not there, or not any more.
    pub fn member(&self, rank: u32) -> Result<&Block, Finding> {
        let Some(block) = self.blocks().get(rank as usize) else {
            let text = format!("reaches into block {rank} of a cluster of {}, which has no such block", self.size);
            return Err(Finding::new(FaultKind::Cluster, text));
        };
        if block.running() == 0 {
            let text = format!(
                "reaches into block {rank} of its cluster, which has returned: its shared memory is gone; end both blocks with \
                 barrier.cluster"
            );
            return Err(Finding::new(FaultKind::Cluster, text));
        }
        Ok(block)
    }

    /// Runs all threads to their end; `routines` are the blocks', one after the other. A finding comes with its block's rank.
    pub fn run(&self, routines: &mut [Routine], order: &mut Order) -> Result<(), (usize, Finding)> {
        let slot = current_slot();
        let blocks = self.blocks();
        let threads = blocks[0].threads() as usize;
        let progress = || blocks.iter().map(Block::progress).sum::<u64>();
        let mut idle_rounds = 0;
        while self.running() > 0 {
            let before = progress();
            let mut ran = false;
            let turns = order.permutation(self.size as u32);
            for rank in (0..self.size as u32).map(|turn| turns.at(turn) as usize) {
                let block = &blocks[rank];
                if block.running() > 0 {
                    let routines = &mut routines[rank * threads..(rank + 1) * threads];
                    ran |= block.round(routines, order, slot).map_err(|finding| (rank, finding))?;
                    if block.running() == 0 {
                        block.end().map_err(|finding| (rank, finding))?;
                    }
                }
            }
            if !ran && blocks.iter().all(|block| block.loads.is_empty()) {
                return Err(self.deadlock(match self.size {
                    1 => "no thread of the block can go on",
                    _ => "no thread of the cluster can go on",
                }));
            }
            for (rank, block) in blocks.iter().enumerate().filter(|(_, block)| block.running() > 0) {
                block.loads.advance(block, order, !ran).map_err(|finding| (rank, finding))?;
            }
            idle_rounds = if progress() == before { idle_rounds + 1 } else { 0 };
            if idle_rounds == SPIN_ROUNDS {
                return Err(self.deadlock("the threads that still run only spin"));
            }
            if idle_rounds % 64 == 63 {
                // What they spin for may be up to another block, and that to another OS thread.
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Threads that have not returned.
    fn running(&self) -> u32 {
        self.blocks().iter().map(Block::running).sum()
    }

    fn deadlock(&self, what: &str) -> (usize, Finding) {
        let blocks = self.blocks();
        let waits: Vec<_> = blocks.iter().map(Block::waits).collect();
        let lists = waits.iter().enumerate().map(|(rank, (list, _))| match self.size {
            1 => list.clone(),
            _ => format!("in block {rank} {list}"),
        });
        let text = format!("deadlock: {what}; {}", lists.collect::<Vec<_>>().join("; "));
        let finding = Finding::new(FaultKind::Deadlock, text);
        match waits.iter().position(|(_, first)| first.is_some()) {
            Some(rank) => (rank, blocks[rank].blame(finding, waits[rank].1)),
            None => (0, finding),
        }
    }

    /// Opens the barrier when all threads that are left have arrived.
    fn settle(&self) {
        if self.arrived.get() > 0 && self.arrived.get() == self.running() {
            self.arrived.set(0);
            self.passed.set(self.passed.get() + 1);
        }
    }

    /// Whether a thread's wait with that number is over.
    pub fn has_passed(&self, wait: u64) -> bool {
        self.passed.get() >= wait
    }

    /// A thread is not waited for any more.
    pub fn lane_returned(&self, lane: &Lane) {
        if lane.visits.arrivals.get() > self.passed.get() {
            self.arrived.set(self.arrived.get() - 1);
        }
        self.settle();
    }
}

fn fail(lane: &Lane, text: &str, site: RawSite) -> ! {
    lane.fail(Finding::new(FaultKind::Cluster, text), site)
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_cluster_rank() -> u32 {
    current().block().rank()
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_cluster_size() -> u32 {
    current().block().cluster().size as u32
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_cluster_arrive(file: *const c_char, line: i32) {
    let lane = current();
    let Visits { arrivals, waits } = &lane.visits;
    if arrivals.get() > waits.get() {
        fail(lane, "arrives at barrier.cluster once more without having waited", RawSite::new(file, line));
    }
    arrivals.set(arrivals.get() + 1);
    let cluster = lane.block().cluster();
    cluster.arrived.set(cluster.arrived.get() + 1);
    cluster.settle();
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_cluster_wait(file: *const c_char, line: i32) {
    let lane = current();
    let site = RawSite::new(file, line);
    let Visits { arrivals, waits } = &lane.visits;
    if arrivals.get() == waits.get() {
        fail(lane, "waits at barrier.cluster without having arrived", site);
    }
    waits.set(waits.get() + 1);
    lane.suspend(Wait::Cluster { wait: waits.get() }, site);
}
