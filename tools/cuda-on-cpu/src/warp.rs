//! Warp functions: lanes meet, and the last one to come does the work for all of them.

use crate::fault::{FaultKind, Finding};
use crate::tensor::{self, MmaKind};
use crate::thread::{Lane, RawSite, Wait, current};
use crate::{warp_functions, wgmma};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;

/// What a meeting is for. Lanes that meet must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Sync,
    Shuffle(ShuffleMode),
    Reduce(Reduction),
    Match,
    Mma(MmaKind),
    LoadMatrix { matrices: u32, transposed: bool },
    StoreMatrix { matrices: u32, transposed: bool },
    Wgmma(wgmma::Form),
    WgmmaGroup(wgmma::Group),
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Sync => "__syncwarp",
            Operation::Shuffle(ShuffleMode::Index) => "__shfl_sync",
            Operation::Shuffle(ShuffleMode::Up) => "__shfl_up_sync",
            Operation::Shuffle(ShuffleMode::Down) => "__shfl_down_sync",
            Operation::Shuffle(ShuffleMode::Xor) => "__shfl_xor_sync",
            Operation::Reduce(_) => "a vote or __reduce_*_sync",
            Operation::Match => "__match_any_sync",
            Operation::Mma(_) => "mma.sync",
            Operation::LoadMatrix { .. } => "ldmatrix",
            Operation::StoreMatrix { .. } => "stmatrix",
            Operation::Wgmma(_) => "wgmma.mma_async",
            Operation::WgmmaGroup(wgmma::Group::Fence) => "wgmma.fence",
            Operation::WgmmaGroup(wgmma::Group::Commit) => "wgmma.commit_group",
            Operation::WgmmaGroup(wgmma::Group::Wait { .. }) => "wgmma.wait_group",
            Operation::WgmmaGroup(wgmma::Group::SetRegisters { .. }) => "setmaxnreg",
        }
    }
}

/// `ShuffleMode` in warp.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Index,
    Up,
    Down,
    Xor,
}

/// `Reduction` in warp.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Add,
    MinSigned,
    MaxSigned,
    Min,
    Max,
    And,
    Or,
    Xor,
    Ballot,
}

/// Lanes of one warp on their way to the same operation.
struct Meeting {
    mask: u32,
    operation: Operation,
    arrived: u32,
    site: RawSite,
}

/// Up to 32 lanes of a block.
pub(crate) struct Warp {
    /// Number in the block of lane 0.
    pub first: usize,
    /// Lanes that can run.
    pub ready: Cell<u32>,
    /// Lanes that wait for something that others do not wake them for, and that must be looked at again.
    pub polling: Cell<u32>,
    /// Lanes that exist and have not returned.
    pub alive: Cell<u32>,
    pub wgmma: wgmma::State,
    meetings: RefCell<Vec<Meeting>>,
}

impl Warp {
    pub fn new(first: usize) -> Warp {
        Warp {
            first,
            ready: Cell::new(0),
            polling: Cell::new(0),
            alive: Cell::new(0),
            wgmma: wgmma::State::default(),
            meetings: RefCell::default(),
        }
    }

    pub fn reset(&self, lanes: u32) {
        let all = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
        self.ready.set(all);
        self.polling.set(0);
        self.alive.set(all);
        self.meetings.borrow_mut().clear();
        self.wgmma.reset();
    }

    /// Adds a lane to its meeting; gives the meeting back when that was the last one.
    fn join(&self, bit: u32, mask: u32, operation: Operation, site: RawSite) -> Result<Option<Meeting>, Finding> {
        if mask & bit == 0 {
            let text = format!("calls {} with mask {mask:#010x}, which does not name its own lane", operation.name());
            return Err(Finding::new(FaultKind::WarpMismatch, text));
        }
        let mut meetings = self.meetings.borrow_mut();
        let clash = |other: &Meeting| {
            if other.mask == mask {
                other.operation != operation
            } else {
                other.mask & bit != 0 && mask & other.arrived != 0
            }
        };
        if let Some(other) = meetings.iter().find(|other| clash(other)) {
            return Err(mismatch(operation, mask, other));
        }
        let index = match meetings.iter().position(|meeting| meeting.mask == mask) {
            Some(index) => index,
            None => {
                meetings.push(Meeting { mask, operation, arrived: 0, site });
                meetings.len() - 1
            }
        };
        meetings[index].arrived |= bit;
        let complete = meetings[index].arrived == mask & self.alive.get();
        Ok(complete.then(|| meetings.swap_remove(index)))
    }

    /// The meetings that are complete now that a lane has returned.
    fn completed_by_return(&self) -> Option<Meeting> {
        let mut meetings = self.meetings.borrow_mut();
        let index = meetings.iter().position(|meeting| meeting.arrived == meeting.mask & self.alive.get())?;
        Some(meetings.swap_remove(index))
    }
}

fn mismatch(operation: Operation, mask: u32, other: &Meeting) -> Finding {
    let place = other.site.site().map_or_else(String::new, |site| format!(" at {site}"));
    let text = format!(
        "calls {} with mask {mask:#010x}, and lanes {:#010x} of its warp wait in {}{place} with mask {:#010x}: all lanes \
         that a mask names must call the same function with the same mask",
        operation.name(),
        other.arrived,
        other.operation.name(),
        other.mask
    );
    Finding::new(FaultKind::WarpMismatch, text)
}

/// The lanes that take part in an operation, and what each brought.
pub(crate) struct Gathering<'a> {
    pub lanes: &'a [Lane],
    pub arrived: u32,
}

impl Gathering<'_> {
    /// What lane `lane` brought.
    ///
    /// # Safety
    /// The lane must take part, and `T` must be the request of this operation.
    pub unsafe fn request<T>(&self, lane: u32) -> *mut T {
        self.lanes[lane as usize].request.get().cast()
    }

    pub fn members(&self) -> impl Iterator<Item = u32> + use<> {
        let arrived = self.arrived;
        (0..32).filter(move |lane| arrived >> lane & 1 == 1)
    }

    /// An error unless the whole warp is here.
    pub fn require_all(&self, operation: &str) -> Result<(), Finding> {
        if self.arrived == u32::MAX {
            return Ok(());
        }
        let text =
            format!("{operation} needs all 32 lanes of the warp, and only lanes {:#010x} are here", self.arrived);
        Err(Finding::new(FaultKind::InactiveLane, text))
    }
}

/// Brings the running lane to a meeting and returns when the operation is done. Inlined: see [`Lane::suspend`].
#[inline(always)]
pub(crate) fn meet<T>(operation: Operation, mask: u32, request: &mut T, site: RawSite) {
    let lane = current();
    let warp = &lane.block().warps[lane.warp()];
    lane.request.set((request as *mut T).cast::<c_void>());
    match warp.join(lane.bit(), mask, operation, site) {
        Err(finding) => lane.fail(finding, site),
        Ok(None) => lane.suspend(Wait::Meeting { mask }, site),
        Ok(Some(meeting)) => {
            if let Err(finding) = finish(lane, warp, &meeting) {
                lane.fail(finding, site);
            }
            warp.ready.set(warp.ready.get() | lane.bit());
        }
    }
}

/// Finishes the meetings that only waited for a lane which has now returned.
pub(crate) fn lane_returned(lane: &Lane) -> Result<(), Finding> {
    let warp = &lane.block().warps[lane.warp()];
    warp.alive.set(warp.alive.get() & !lane.bit());
    while let Some(meeting) = warp.completed_by_return() {
        let site = meeting.site.site();
        finish(lane, warp, &meeting).map_err(|finding| finding.at(site))?;
    }
    Ok(())
}

#[inline(never)]
fn finish(lane: &Lane, warp: &Warp, meeting: &Meeting) -> Result<(), Finding> {
    let block = lane.block();
    let gathering = Gathering { lanes: block.lanes_from(warp.first), arrived: meeting.arrived };
    perform(meeting, &gathering)?;
    warp.ready.set(warp.ready.get() | meeting.arrived);
    block.note_progress();
    Ok(())
}

fn perform(meeting: &Meeting, gathering: &Gathering) -> Result<(), Finding> {
    match meeting.operation {
        Operation::Sync => Ok(()),
        Operation::Shuffle(mode) => warp_functions::shuffle(mode, gathering),
        Operation::Reduce(reduction) => {
            warp_functions::reduce(reduction, gathering);
            Ok(())
        }
        Operation::Match => {
            warp_functions::match_any(gathering);
            Ok(())
        }
        Operation::Mma(kind) => tensor::multiply(kind, gathering),
        Operation::LoadMatrix { matrices, transposed } => tensor::load(matrices, transposed, gathering),
        Operation::StoreMatrix { matrices, transposed } => tensor::store(matrices, transposed, gathering),
        Operation::Wgmma(form) => wgmma::multiply(form, meeting.site, gathering),
        Operation::WgmmaGroup(operation) => wgmma::group(operation, meeting.site, gathering),
    }
}
