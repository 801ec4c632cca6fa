//! One CUDA thread: what the headers see of it, and what the scheduler keeps about it.

use crate::async_copy::Copies;
use crate::block::Block;
use crate::bulk_copy::Stores;
use crate::cluster::Visits;
use crate::fault::{Finding, Site};
use crate::source;
use crate::stack::Stack;
use corosensei::Yielder;
use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_char, c_void};
use std::ptr;

/// `dim3` and `uint3`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dim3 {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

impl Dim3 {
    /// The index with that number, x running fastest.
    pub fn of(number: u32, size: [u32; 3]) -> Dim3 {
        Dim3 { x: number % size[0], y: number / size[0] % size[1], z: number / size[0] / size[1] }
    }

    pub fn array(self) -> [u32; 3] {
        [self.x, self.y, self.z]
    }
}

impl From<[u32; 3]> for Dim3 {
    fn from([x, y, z]: [u32; 3]) -> Dim3 {
        Dim3 { x, y, z }
    }
}

/// `cuda_on_cpu_thread` in core.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Thread {
    pub thread_index: Dim3,
    pub block_index: Dim3,
    pub block_dim: Dim3,
    pub grid_dim: Dim3,
    /// Number in the warp, 0..32.
    pub lane: u32,
    /// Atomics so far; the headers yield now and then by it.
    pub spins: u32,
}

/// A site as C++ passes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawSite {
    pub file: *const c_char,
    pub line: u32,
}

impl RawSite {
    pub const NONE: RawSite = RawSite { file: ptr::null(), line: 0 };

    pub fn new(file: *const c_char, line: i32) -> RawSite {
        RawSite { file, line: line.unsigned_abs() }
    }

    pub fn site(self) -> Option<Site> {
        Site::from_c(self.file, self.line)
    }
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Nothing,
    Barrier { id: u32, whole_block: bool },
    Meeting { mask: u32 },
    Phase { barrier: *const u64, parity: u32 },
    Cluster { wait: u64 },
    Spin,
    Returned,
}

/// A CUDA thread. The part that C++ sees comes first, so that a pointer to it is a pointer to the whole.
#[repr(C)]
pub(crate) struct Lane {
    pub thread: UnsafeCell<Thread>,
    /// Number in the block, x running fastest.
    pub number: u32,
    pub block: Cell<*const Block>,
    pub yielder: Cell<*const Yielder<(), ()>>,
    pub wait: Cell<Wait>,
    pub site: Cell<RawSite>,
    /// What this lane brings to a meeting of its warp; lives on its stack while it waits.
    pub request: Cell<*mut c_void>,
    pub copies: Copies,
    pub stores: Stores,
    pub visits: Visits,
    pub stack: Cell<Option<Stack>>,
}

impl Lane {
    pub fn new(number: u32) -> Lane {
        Lane {
            thread: UnsafeCell::default(),
            number,
            block: Cell::new(ptr::null()),
            yielder: Cell::new(ptr::null()),
            wait: Cell::new(Wait::Nothing),
            site: Cell::new(RawSite::NONE),
            request: Cell::new(ptr::null_mut()),
            copies: Copies::default(),
            stores: Stores::default(),
            visits: Visits::default(),
            stack: Cell::new(None),
        }
    }

    /// The block this thread belongs to.
    pub fn block(&self) -> &Block {
        // SAFETY: set before the thread first runs, to the block that owns this lane and stays where it is.
        unsafe { &*self.block.get() }
    }

    /// Number in the warp.
    pub fn lane(&self) -> u32 {
        self.number % 32
    }

    /// Number of the warp in the block.
    pub fn warp(&self) -> usize {
        (self.number / 32) as usize
    }

    /// The only bit of a warp's masks that is this lane's.
    pub fn bit(&self) -> u32 {
        1 << self.lane()
    }

    /// Gives way to the scheduler until it resumes this thread.
    ///
    /// Nothing that needs dropping may be alive on the caller's stack: the thread may never be resumed.
    ///
    /// Inlined, as the processor mispredicts every return after a switch of stacks: there should be one, not four.
    #[inline(always)]
    pub fn suspend(&self, wait: Wait, site: RawSite) {
        self.wait.set(wait);
        self.site.set(site);
        let warp = &self.block().warps[self.warp()];
        warp.ready.set(warp.ready.get() & !self.bit());
        if matches!(wait, Wait::Phase { .. } | Wait::Cluster { .. } | Wait::Spin) {
            warp.polling.set(warp.polling.get() | self.bit());
        }
        // SAFETY: set when this coroutine began, and valid as long as it runs, which it does.
        unsafe { (*self.yielder.get()).suspend(()) };
        self.wait.set(Wait::Nothing);
    }

    /// Reports a fault and never comes back: the block is over.
    #[cold]
    pub fn fail(&self, finding: Finding, site: RawSite) -> ! {
        let site_found = site.site();
        let callers = source::callers_of(&site_found);
        self.block().report(finding.by(self.number).at(site_found).called_from(callers));
        loop {
            self.suspend(Wait::Returned, site);
        }
    }
}

thread_local! {
    static CURRENT: Cell<*const Lane> = const { Cell::new(ptr::null()) };
}

unsafe extern "C" {
    safe fn cuda_on_cpu_current_slot() -> *mut *const c_void;
}

/// Where this OS thread keeps its running CUDA thread for C++.
pub(crate) fn current_slot() -> *mut *const Lane {
    cuda_on_cpu_current_slot().cast()
}

/// Makes a lane the running one; `slot` is this OS thread's [`current_slot`].
///
/// # Safety
/// The lane must stay in place until another one, or null, is set.
pub(crate) unsafe fn set_current(slot: *mut *const Lane, lane: *const Lane) {
    CURRENT.set(lane);
    // SAFETY: the slot is a live thread-local of this OS thread.
    unsafe { *slot = lane };
}

/// The running CUDA thread.
///
/// Panics, which ends the process, when no kernel runs: then host code called a device function.
pub(crate) fn current<'a>() -> &'a Lane {
    let lane = CURRENT.get();
    assert!(!lane.is_null(), "a CUDA device function was called outside a kernel");
    // SAFETY: the scheduler keeps the lane alive while it is the current one.
    unsafe { &*lane }
}

/// `__nanosleep`, and every now and then an atomic: lets the other threads run.
#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_yield() {
    current().suspend(Wait::Spin, RawSite::NONE);
}
