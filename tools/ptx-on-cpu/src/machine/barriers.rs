//! Barriers of a block (PTX ISA, "bar, barrier") and of a cluster ("barrier.cluster"), `mapa`, and the end of a warp.

use super::{Cluster, Flow, RANK_SHIFT, State, Step, Warp};
use crate::clocks::Clock;
use crate::fault::{Finding, InLane};
use crate::instruction::{Barrier, NONE};
use crate::registers::lanes;
use crate::rows::LANES;

/// One of a block's sixteen barriers.
#[derive(Default)]
pub(crate) struct NamedBarrier {
    /// Threads, in whole warps.
    pub arrived: u32,
    pub phase: u64,
    /// Threads that the first one asked for, or `None` for all.
    expected: Option<u32>,
    /// Of a reduction: predicates that hold, and threads that brought one.
    count: u32,
    voters: u32,
    /// Those of the phase that is complete.
    result: (u32, u32),
    arriving: Clock,
    complete: Clock,
}

/// The barrier of a cluster.
#[derive(Default)]
pub(crate) struct ClusterBarrier {
    /// Warps.
    pub arrived: u32,
    pub phase: u64,
    arriving: Clock,
    complete: Clock,
}

impl Cluster<'_> {
    pub(super) fn named_barrier(&mut self, warp: &mut Warp, kind: Barrier, step: &Step) -> Result<Flow, Finding> {
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return Ok(flow);
        }
        let [result, id, count, predicate] = step.registers[..] else { return Ok(Flow::Next) };
        let lane = Warp::first_lane(step.mask);
        let id = warp.registers.lane(id, lane) as usize;
        let expected = (count != NONE).then(|| warp.registers.lane(count, lane));
        if id > 15 {
            return Err(format!("barrier {id}: there are 16").into());
        }
        if let Some(count) = expected.filter(|count| *count == 0 || count % 32 != 0) {
            return Err(format!("barrier {id} for {count} threads, which are no whole warps").into());
        }
        let barrier = &mut self.blocks[warp.block].barriers[id];
        if barrier.arrived > 0 && barrier.expected != expected {
            let text = format!("barrier {id} for {expected:?} threads, where others came for {:?}", barrier.expected);
            return Err(text.into());
        }
        barrier.expected = expected;
        barrier.arrived += LANES as u32;
        let (phase, arrived) = (barrier.phase, barrier.arrived);
        if predicate != NONE {
            barrier.count += (warp.registers.word(predicate) & step.mask).count_ones();
            barrier.voters += step.mask.count_ones();
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.release(warp.id, &mut barrier.arriving, true);
        }
        if let Some(expected) = expected.filter(|expected| arrived > *expected) {
            return Err(format!("barrier {id}: {arrived} threads came, for {expected}").into());
        }
        let waits = kind != Barrier::Arrive;
        self.complete_barrier(warp.block, id);
        if !waits {
            return Ok(Flow::Next);
        }
        let result = (result != NONE).then_some((kind, result));
        if self.leaves_barrier(warp, id, phase, result) {
            return Ok(Flow::Next);
        }
        Ok(Flow::Wait(State::Barrier { id, phase, result }))
    }

    /// Ends a barrier's phase if all are there: a barrier for all counts the warps that have not ended.
    fn complete_barrier(&mut self, block: usize, id: usize) {
        let living = self.blocks[block].living;
        let barrier = &mut self.blocks[block].barriers[id];
        let needed = barrier.expected.unwrap_or(LANES as u32 * living);
        if barrier.arrived == 0 || barrier.arrived < needed {
            return;
        }
        barrier.phase += 1;
        (barrier.arrived, barrier.expected) = (0, None);
        barrier.result = (std::mem::take(&mut barrier.count), std::mem::take(&mut barrier.voters));
        barrier.complete = barrier.arriving.clone();
        self.progress = true;
    }

    /// Whether the barrier's phase is over; the result of a reduction is then in its register.
    pub(super) fn leaves_barrier(
        &mut self,
        warp: &mut Warp,
        id: usize,
        phase: u64,
        result: Option<(Barrier, u32)>,
    ) -> bool {
        let barrier = &self.blocks[warp.block].barriers[id];
        if barrier.phase == phase {
            return false;
        }
        if let Some((kind, register)) = result {
            let (count, voters) = barrier.result;
            let holds = match kind {
                Barrier::All => count == voters,
                _ => count > 0,
            };
            if kind == Barrier::Count {
                warp.registers.put(register, &[count; LANES], warp.alive);
            } else {
                warp.registers.put_predicate(register, if holds { u32::MAX } else { 0 }, warp.alive);
            }
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.acquire(warp.id, &barrier.complete);
        }
        warp.state = State::Ready;
        self.progress = true;
        true
    }

    pub(super) fn cluster_arrive(&mut self, warp: &mut Warp, relaxed: bool, step: &Step) -> Flow {
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return flow;
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.release(warp.id, &mut self.barrier.arriving, !relaxed);
        }
        warp.arrived = Some(self.barrier.phase);
        self.barrier.arrived += 1;
        self.complete_cluster_barrier();
        Flow::Next
    }

    fn complete_cluster_barrier(&mut self) {
        let living: u32 = self.blocks.iter().map(|block| block.living).sum();
        if self.barrier.arrived == 0 || self.barrier.arrived < living {
            return;
        }
        self.barrier.arrived = 0;
        self.barrier.phase += 1;
        self.barrier.complete = self.barrier.arriving.clone();
        self.progress = true;
    }

    pub(super) fn cluster_wait(&mut self, warp: &mut Warp, step: &Step) -> Result<Flow, Finding> {
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return Ok(flow);
        }
        let phase = warp.arrived.take().ok_or("barrier.cluster.wait with no arrive before it")?;
        if self.leaves_cluster_barrier(warp, phase) {
            return Ok(Flow::Next);
        }
        Ok(Flow::Wait(State::Cluster { phase }))
    }

    pub(super) fn leaves_cluster_barrier(&mut self, warp: &mut Warp, phase: u64) -> bool {
        if self.barrier.phase == phase {
            return false;
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.acquire(warp.id, &self.barrier.complete);
        }
        warp.state = State::Ready;
        self.progress = true;
        true
    }

    /// `mapa`: the same offset in another block of the cluster.
    pub(super) fn map_shared(&mut self, warp: &mut Warp, wide: bool, step: &Step) -> Result<Flow, Finding> {
        let [target, address, rank] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let rank = warp.registers.lane(rank, lane);
            if rank as usize >= self.blocks.len() {
                let text = format!("mapa to block {rank} of a cluster of {}", self.blocks.len());
                return Err(text).in_lane(lane);
            }
            let kept = (1u64 << RANK_SHIFT) - 1 | !0xffff_ffff;
            if wide {
                let address = warp.registers.wide_lane(address, lane);
                let mapped = address & kept | u64::from(rank) << RANK_SHIFT;
                warp.registers.set_wide_lane(target, lane, mapped);
            } else {
                let address = u64::from(warp.registers.lane(address, lane));
                warp.registers.row_mut(target)[lane] = (address & kept) as u32 | rank << RANK_SHIFT;
            }
        }
        Ok(Flow::Next)
    }

    /// The last lane of a warp has ended.
    pub(super) fn end(&mut self, warp: &mut Warp) -> Result<(), Finding> {
        self.blocks[warp.block].living -= 1;
        if let Some(clocks) = &self.clocks {
            clocks.leave(warp.id, &mut self.blocks[warp.block].end);
        }
        for id in 0..self.blocks[warp.block].barriers.len() {
            self.complete_barrier(warp.block, id);
        }
        self.complete_cluster_barrier();
        let stores = warp.stores.len() + warp.store_groups.iter().map(Vec::len).sum::<usize>();
        if stores > 0 {
            return Err(format!("ends with {stores} bulk stores that may still read shared memory").into());
        }
        if self.hazards() && warp.wgmma.is_busy() {
            return Err("ends with wgmma operations that nobody waited for".into());
        }
        if self.hazards() && !(warp.copies.is_empty() && warp.copy_groups.iter().all(Vec::is_empty)) {
            return Err("ends with cp.async copies that nobody waited for".into());
        }
        if self.blocks[warp.block].living == 0 { self.check_end(warp.block) } else { Ok(()) }
    }

    /// A block's shared memory ends with it: others must have done with it.
    fn check_end(&self, rank: usize) -> Result<(), Finding> {
        let block = &self.blocks[rank];
        let Some(clocks) = &self.clocks else { return Ok(()) };
        let late = block.visitors.iter().find(|(warp, epoch)| !block.end.knows_end(**warp, **epoch));
        if let Some((warp, _)) = late {
            let name = clocks.name(*warp as u32);
            return Err(format!("the block ends while {name} may still touch its shared memory").into());
        }
        let copied = block.mbarriers.iter().find(|(_, mbarrier)| !mbarrier.knows_copies(&block.end));
        if let Some((address, _)) = copied {
            return Err(format!(
                "the block ends with copies that report to the mbarrier {address:#x}, and nobody waited"
            )
            .into());
        }
        Ok(())
    }
}
