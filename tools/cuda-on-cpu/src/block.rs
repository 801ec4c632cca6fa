//! The threads of one block, which take turns; its cluster runs it until all have returned or none can go on.

use crate::barrier::{BARRIERS, Barrier, returned_before};
use crate::bulk_copy::Loads;
use crate::cluster::Cluster;
use crate::fault::{FaultKind, Finding};
use crate::order::Order;
use crate::shared::Shared;
use crate::signal::{self, Exit, Signal};
use crate::source;
use crate::stack::Stack;
use crate::thread::{Dim3, Lane, Thread, Wait, set_current};
use crate::warp::{self, Warp};
use crate::{guarded, mbarrier, wgmma};
use corosensei::{Coroutine, CoroutineResult};
use std::cell::{Cell, RefCell};
use std::{io, ptr};

/// A thread of the block as something that can be resumed.
pub(crate) type Routine = Coroutine<(), (), Exit, Stack>;

/// One block: its threads and what they share. Kept by a worker and used for one block after the other.
pub(crate) struct Block {
    lanes: Vec<Lane>,
    pub warps: Vec<Warp>,
    pub barriers: [Barrier; BARRIERS],
    pub shared: Shared,
    /// Bulk copies into shared memory.
    pub loads: Loads,
    /// Addresses of mbarriers at which other blocks have arrived, until a thread of this one has waited for that.
    unawaited: RefCell<Vec<usize>>,
    /// Where it runs, and its number there.
    cluster: Cell<*const Cluster>,
    rank: Cell<u32>,
    /// Lanes that have not returned.
    running: Cell<u32>,
    /// Counts what happened, to tell waiting from spinning.
    progress: Cell<u64>,
    /// Whether there is a finding: looked at after every turn.
    failed: Cell<bool>,
    finding: RefCell<Option<Finding>>,
}

impl Block {
    /// Fails when the operating system has no address space left.
    pub fn new(threads: u32) -> io::Result<Block> {
        Ok(Block {
            lanes: (0..threads).map(Lane::new).collect(),
            warps: (0..threads.div_ceil(32)).map(|warp| Warp::new(32 * warp as usize)).collect(),
            barriers: std::array::from_fn(|_| Barrier::new()),
            shared: Shared::new()?,
            loads: Loads::default(),
            unawaited: RefCell::default(),
            cluster: Cell::new(ptr::null()),
            rank: Cell::new(0),
            running: Cell::new(0),
            progress: Cell::new(0),
            failed: Cell::new(false),
            finding: RefCell::new(None),
        })
    }

    /// Gives the block another number of threads.
    pub fn resize(&mut self, threads: u32) {
        if self.threads() != threads {
            self.lanes = (0..threads).map(Lane::new).collect();
            self.warps = (0..threads.div_ceil(32)).map(|warp| Warp::new(32 * warp as usize)).collect();
        }
    }

    /// Prepares for the block with that index.
    pub fn begin(&self, index: Dim3, block: [u32; 3], grid: [u32; 3], dynamic_bytes: usize) {
        for lane in &self.lanes {
            let thread_index = Dim3::of(lane.number, block);
            let thread = Thread {
                thread_index,
                block_index: index,
                block_dim: block.into(),
                grid_dim: grid.into(),
                lane: lane.lane(),
                spins: 0,
            };
            // SAFETY: no kernel runs on this block yet.
            unsafe { *lane.thread.get() = thread };
            lane.block.set(ptr::from_ref(self));
            lane.wait.set(Wait::Nothing);
            lane.copies.reset();
            lane.stores.reset();
            lane.visits.reset();
        }
        for warp in &self.warps {
            warp.reset((self.threads() - warp.first as u32).min(32));
        }
        for barrier in &self.barriers {
            barrier.reset();
        }
        self.loads.reset();
        self.unawaited.borrow_mut().clear();
        self.shared.begin_block(dynamic_bytes);
        self.running.set(self.threads());
        self.failed.set(false);
        self.finding.replace(None);
    }

    /// Makes it a member of a cluster, which must stay where it is until the block has ended.
    pub fn join(&self, cluster: *const Cluster, rank: u32) {
        self.cluster.set(cluster);
        self.rank.set(rank);
    }

    pub fn cluster(&self) -> &Cluster {
        // SAFETY: set before the block runs, to the cluster that owns it and stays where it is.
        unsafe { &*self.cluster.get() }
    }

    /// Its number in the cluster.
    pub fn rank(&self) -> u32 {
        self.rank.get()
    }

    /// The number of threads.
    pub fn threads(&self) -> u32 {
        self.lanes.len() as u32
    }

    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// The lanes from number `first` on.
    pub fn lanes_from(&self, first: usize) -> &[Lane] {
        &self.lanes[first..]
    }

    /// `threadIdx` of a thread.
    pub fn thread_index(&self, number: u32) -> [u32; 3] {
        // SAFETY: the scheduler writes it only before the block runs, and the headers only read it.
        unsafe { (*self.lanes[number as usize].thread.get()).thread_index.array() }
    }

    /// `blockIdx`.
    pub fn index(&self) -> [u32; 3] {
        // SAFETY: as in `thread_index`.
        unsafe { (*self.lanes[0].thread.get()).block_index.array() }
    }

    /// The number of threads that have not returned.
    pub fn running(&self) -> u32 {
        self.running.get()
    }

    /// Whether all threads are still there.
    pub fn complete(&self) -> bool {
        self.running.get() == self.threads()
    }

    /// How much has happened.
    pub fn progress(&self) -> u64 {
        self.progress.get()
    }

    /// Keeps the first fault of the block.
    pub fn report(&self, finding: Finding) {
        self.failed.set(true);
        self.finding.borrow_mut().get_or_insert(finding);
    }

    /// Something happened that another thread may have waited for.
    pub fn note_progress(&self) {
        self.progress.set(self.progress.get() + 1);
    }

    /// Another block has arrived at an mbarrier of this one.
    pub fn reached(&self, barrier: *const u64) {
        self.unawaited.borrow_mut().push(barrier.addr());
    }

    /// A thread has found a phase of that mbarrier complete, and nobody has arrived for the next.
    pub fn awaited(&self, barrier: *const u64) {
        self.unawaited.borrow_mut().retain(|&address| address != barrier.addr());
    }

    /// What must be true when all threads have returned.
    pub fn end(&self) -> Result<(), Finding> {
        self.loads.check_end()?;
        if !self.unawaited.borrow().is_empty() {
            let text = "the block ended without having waited for the phase of an mbarrier at which another block arrived: the arrival \
                        may still be on its way when the shared memory is gone";
            return Err(Finding::new(FaultKind::Cluster, text));
        }
        wgmma::check_agreement(self)?;
        self.shared.end_block()
    }

    /// Lets each warp run until it waits; says whether anything ran.
    pub fn round(&self, routines: &mut [Routine], order: &mut Order, slot: *mut *const Lane) -> Result<bool, Finding> {
        let mut ran = false;
        let warps = order.permutation(self.warps.len() as u32);
        for warp in (0..self.warps.len() as u32).map(|index| &self.warps[warps.at(index) as usize]) {
            self.poll(warp);
            while warp.ready.get() != 0 {
                ran = true;
                let lanes = order.permutation(32);
                for lane in (0..32).map(|index| lanes.at(index)) {
                    if warp.ready.get() >> lane & 1 == 1 {
                        let number = warp.first + lane as usize;
                        self.resume(&self.lanes[number], &mut routines[number], slot)?;
                    }
                }
                if order.interrupt() {
                    break;
                }
            }
        }
        Ok(ran)
    }

    /// Makes those ready that may go on by themselves.
    fn poll(&self, warp: &Warp) {
        let mut left = warp.polling.get();
        while left != 0 {
            let lane = left.trailing_zeros();
            left &= left - 1;
            let go = match self.lanes[warp.first + lane as usize].wait.get() {
                // SAFETY: checked to be shared memory when the wait began.
                Wait::Phase { barrier, parity } => unsafe { mbarrier::completed(self, barrier, parity) },
                Wait::Cluster { wait } => self.cluster().has_passed(wait),
                _ => true,
            };
            if go {
                warp.polling.set(warp.polling.get() & !(1 << lane));
                warp.ready.set(warp.ready.get() | 1 << lane);
            }
        }
    }

    fn resume(&self, lane: &Lane, routine: &mut Routine, slot: *mut *const Lane) -> Result<(), Finding> {
        signal::set_running(Some(routine.trap_handler()));
        // SAFETY: the lane belongs to this block, which stays until the launch ends.
        unsafe { set_current(slot, lane) };
        match routine.resume(()) {
            CoroutineResult::Yield(()) => {
                if !matches!(lane.wait.get(), Wait::Spin) {
                    self.note_progress();
                }
            }
            CoroutineResult::Return(exit) => {
                self.note_progress();
                if exit == Exit::Signalled {
                    return Err(self.signalled(lane));
                }
                self.returned(lane)?;
            }
        }
        match self.failed.get().then(|| self.finding.take()).flatten() {
            Some(finding) => Err(finding),
            None => Ok(()),
        }
    }

    fn returned(&self, lane: &Lane) -> Result<(), Finding> {
        lane.wait.set(Wait::Returned);
        let warp = &self.warps[lane.warp()];
        warp.ready.set(warp.ready.get() & !lane.bit());
        self.running.set(self.running.get() - 1);
        self.cluster().lane_returned(lane);
        if let Some(finding) = returned_before(self, lane.number) {
            return Err(finding);
        }
        warp::lane_returned(lane)
    }

    fn signalled(&self, lane: &Lane) -> Finding {
        let Some(signal) = signal::take() else {
            return Finding::new(FaultKind::Trap, "the thread ended by a signal that left no trace").by(lane.number);
        };
        let (kind, text) = self.explain(signal);
        let mut lines = source::lines_of(signal.instruction).into_iter();
        Finding::new(kind, text).by(lane.number).at(lines.next()).called_from(lines.collect())
    }

    fn explain(&self, signal: Signal) -> (FaultKind, String) {
        let Signal { number, code, address, write, .. } = signal;
        let verb = match write {
            Some(true) => "writes",
            Some(false) => "reads",
            None => "accesses memory",
        };
        /// The processor's general protection fault: Linux gives it no address.
        const SI_KERNEL: i32 = 0x80;
        match number {
            libc::SIGFPE => (FaultKind::Trap, "divides an integer by zero".into()),
            libc::SIGILL | libc::SIGTRAP => (FaultKind::Trap, "reaches a trap or an illegal instruction".into()),
            libc::SIGBUS if code == libc::BUS_ADRALN => {
                (FaultKind::Misaligned, format!("{verb} at {address:#x}, misaligned"))
            }
            libc::SIGSEGV if code == SI_KERNEL => {
                (FaultKind::Misaligned, "accesses a misaligned vector, or an address that no program can have".into())
            }
            _ => {
                if self.lanes.iter().any(|lane| lane.stack.get().is_some_and(|stack| stack.guards(address))) {
                    return (FaultKind::StackOverflow, "uses more stack than the 128 KiB that a thread has".into());
                }
                let place = self.shared.describe(address).or_else(|| guarded::describe(address));
                let place = place.unwrap_or_else(|| {
                    let null = if address < 65536 { ", a null pointer with an offset" } else { "" };
                    format!("at {address:#x}, which belongs to no buffer{null}")
                });
                (FaultKind::OutOfBounds, format!("{verb} {place}"))
            }
        }
    }

    /// Who waits for what, and the first that does.
    pub fn waits(&self) -> (String, Option<u32>) {
        let mut groups: Vec<(String, u32, u32)> = Vec::new();
        for lane in &self.lanes {
            let waits = match lane.wait.get() {
                Wait::Returned => continue,
                Wait::Nothing => "do not wait".to_string(),
                Wait::Barrier { whole_block: true, .. } => "wait in __syncthreads".into(),
                Wait::Barrier { id, .. } => format!("wait in barrier {id}"),
                Wait::Meeting { mask } => format!("wait for the lanes {mask:#010x} of their warp"),
                Wait::Phase { parity, .. } => format!("wait for an mbarrier's phase of parity {parity}"),
                Wait::Cluster { .. } => "wait in barrier.cluster".into(),
                Wait::Spin => "spin".into(),
            };
            let place = lane.site.get().site().map_or_else(String::new, |site| format!(" at {site}"));
            let waits = format!("{waits}{place}");
            match groups.iter_mut().find(|(text, ..)| *text == waits) {
                Some((_, count, _)) => *count += 1,
                None => groups.push((waits, 1, lane.number)),
            }
        }
        let first = groups.first().map(|(_, _, number)| *number);
        let mut list: Vec<String> = groups
            .iter()
            .take(6)
            .map(|(text, count, number)| {
                format!("{count} {text} (the first is thread {:?})", self.thread_index(*number))
            })
            .collect();
        list.push(format!("{} have returned", self.threads() - self.running.get()));
        (list.join("; "), first)
    }

    /// The finding as that of a thread, where it waits.
    pub fn blame(&self, finding: Finding, thread: Option<u32>) -> Finding {
        match thread {
            Some(number) => finding.by(number).at(self.lanes[number as usize].site.get().site()),
            None => finding,
        }
    }
}

/// What a thread does last, called on its coroutine when the kernel has returned: ends the block when it leaves something
/// behind that it never waited for.
pub(crate) fn finish_thread(lane: &Lane) {
    let block = lane.block();
    let forgotten = lane.copies.forgotten().or_else(|| lane.stores.forgotten());
    if let Some((finding, site)) = forgotten.or_else(|| block.warps[lane.warp()].wgmma.forgotten()) {
        lane.fail(finding, site);
    }
}
