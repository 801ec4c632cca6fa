//! mbarriers (PTX ISA, "mbarrier"): a phase ends when no arrival and no byte is pending.

use super::{Cluster, Flow, RANK_SHIFT, Step, Warp};
use crate::clocks::Clock;
use crate::fault::{Finding, InLane};
use crate::instruction::{Address, NONE, Operation};
use crate::memory::window;
use crate::registers::lanes;

/// An mbarrier that was initialised.
#[derive(Default)]
pub(crate) struct Mbarrier {
    /// Arrivals of a phase.
    count: i64,
    pending: i64,
    /// Bytes of copies that are still to come; for a while it may be negative.
    bytes: i64,
    phase: u64,
    arriving: Clock,
    complete: Clock,
    /// Of the copies that report here.
    agent: u32,
    /// Copies that began.
    pub copies: u32,
    /// The warp that initialised it, and when.
    owner: (usize, u32),
    /// Whether `fence.mbarrier_init` has made that known.
    published: bool,
}

impl Mbarrier {
    /// Ends the phase if nothing is pending.
    fn complete(&mut self) -> bool {
        let complete = self.pending == 0 && self.bytes == 0;
        if complete {
            self.phase += 1;
            self.pending = self.count;
            self.complete = self.arriving.clone();
        }
        complete
    }

    pub fn describe(&self, address: u32) -> String {
        let Self { count, pending, bytes, phase, .. } = self;
        format!("mbarrier {address:#x}: phase {phase}, {pending} of {count} arrivals and {bytes} bytes pending")
    }

    /// Whether all copies that report here are known to be over.
    pub fn knows_copies(&self, clock: &Clock) -> bool {
        clock.knows_end(self.agent as usize, self.copies)
    }

    pub fn agent(&self) -> u32 {
        self.agent
    }

    /// Bytes of a copy have come, which began as the agent's copy number `epoch`.
    pub fn receive(&mut self, bytes: i64, epoch: u32) {
        self.bytes -= bytes;
        if epoch > 0 {
            self.arriving.arrive(self.agent as usize, epoch);
        }
        self.complete();
    }
}

impl Cluster<'_> {
    /// The mbarrier at an address, which may be generic.
    fn mbarrier(&mut self, address: u64) -> Result<&mut Mbarrier, Finding> {
        let address = window::to_shared(address);
        let (rank, offset) = self.shared_place(address, 8)?;
        if offset % 8 != 0 {
            return Err(format!("an mbarrier at {address:#x}, which is not aligned to 8").into());
        }
        let found = self.blocks[rank].mbarriers.get_mut(&(offset as u32));
        found.ok_or_else(|| format!("no mbarrier was initialised at {address:#x}").into())
    }

    /// Checks that the initialisation is ordered before what a warp does with it, or a copy that the warp begins: by a barrier, or
    /// a relaxed one with `fence.mbarrier_init` before it.
    pub fn see_mbarrier(&mut self, warp: usize, address: u64) -> Result<(), Finding> {
        let (owner, published) = {
            let mbarrier = self.mbarrier(address)?;
            (mbarrier.owner, mbarrier.published)
        };
        let Some(clocks) = &self.clocks else { return Ok(()) };
        let (agent, epoch) = owner;
        let ordered = clocks.knows(warp, agent, epoch) || published && clocks.knows_end(warp, agent, epoch);
        if !ordered {
            let name = clocks.name(agent as u32);
            return Err(format!(
                "uses the mbarrier {address:#x}, which {name} initialised, and nothing orders the two"
            )
            .into());
        }
        Ok(())
    }

    /// `fence.mbarrier_init`: what this warp has initialised is known to all that it synchronises with.
    pub(super) fn publish_mbarriers(&mut self, warp: &Warp) {
        let mbarriers = self.blocks.iter_mut().flat_map(|block| block.mbarriers.values_mut());
        mbarriers.filter(|mbarrier| mbarrier.owner.0 == warp.id).for_each(|mbarrier| mbarrier.published = true);
    }

    /// The mbarrier at an offset of a block.
    pub fn mbarrier_of(&mut self, rank: usize, address: u64) -> Result<&mut Mbarrier, Finding> {
        let rank_bits = (rank as u64) << RANK_SHIFT;
        self.mbarrier(address & ((1 << RANK_SHIFT) - 1) | rank_bits)
    }

    pub(super) fn mbarrier_init(&mut self, warp: &mut Warp, address: Address, step: &Step) -> Result<Flow, Finding> {
        let [base, count] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let at = window::to_shared(warp.address(base, address, lane));
            let (rank, offset) = self.shared_place(at, 8).in_lane(lane)?;
            let count = i64::from(warp.registers.lane(count, lane));
            if !(1..1 << 20).contains(&count) || offset % 8 != 0 {
                return Err(format!("mbarrier.init at {at:#x} with a count of {count}")).in_lane(lane);
            }
            let agent = self.clocks.as_mut().map_or(0, |clocks| clocks.new_agent());
            let owner = (warp.id, self.clocks.as_ref().map_or(0, |clocks| clocks.now(warp.id)));
            let mbarrier = Mbarrier { count, pending: count, agent, owner, ..Mbarrier::default() };
            self.blocks[rank].mbarriers.insert(offset as u32, mbarrier);
        }
        Ok(Flow::Next)
    }

    pub(super) fn mbarrier_invalidate(
        &mut self,
        warp: &mut Warp,
        address: Address,
        step: &Step,
    ) -> Result<Flow, Finding> {
        for lane in lanes(step.mask) {
            let at = warp.address(step.registers[0], address, lane);
            self.mbarrier(at).in_lane(lane)?;
            let (rank, offset) = self.shared_place(window::to_shared(at), 8).in_lane(lane)?;
            self.blocks[rank].mbarriers.remove(&(offset as u32));
        }
        Ok(Flow::Next)
    }

    pub(super) fn mbarrier_arrive(
        &mut self,
        warp: &mut Warp,
        operation: &Operation,
        step: &Step,
    ) -> Result<Flow, Finding> {
        let Operation::MbarrierArrive { address, relaxed, drop, .. } = *operation else { return Ok(Flow::Next) };
        let [state, base, count, bytes] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let at = warp.address(base, address, lane);
            let number =
                |register, or| if register == NONE { or } else { i64::from(warp.registers.lane(register, lane)) };
            let (count, bytes) = (number(count, 1), number(bytes, 0));
            let (rank, _) = self.shared_place(window::to_shared(at), 8).in_lane(lane)?;
            self.visit(warp, rank).in_lane(lane)?;
            let old = self.mbarrier_arrival(warp.id, at, count, bytes, (relaxed, drop)).in_lane(lane)?;
            if state != NONE {
                warp.registers.set_wide_lane(state, lane, old);
            }
        }
        self.progress = true;
        Ok(Flow::Next)
    }

    /// Arrives `count` times, with more bytes to come. Returns the state before.
    pub fn mbarrier_arrival(
        &mut self,
        warp: usize,
        address: u64,
        count: i64,
        bytes: i64,
        (relaxed, drop): (bool, bool),
    ) -> Result<u64, Finding> {
        self.see_mbarrier(warp, address)?;
        let mut clocks = self.clocks.take();
        let result = self.mbarrier(address).map(|mbarrier| {
            if let Some(clocks) = &mut clocks {
                clocks.release(warp, &mut mbarrier.arriving, !relaxed);
            }
            let state = mbarrier.phase & 0xffff_ffff | (mbarrier.pending as u64) << 32;
            mbarrier.bytes += bytes;
            mbarrier.pending -= count;
            mbarrier.count -= if drop { count } else { 0 };
            let too_many = mbarrier.pending < 0;
            mbarrier.complete();
            (state, too_many)
        });
        self.clocks = clocks;
        match result? {
            (_, true) => Err(format!("mbarrier {address:#x}: more arrivals than its phase counts").into()),
            (state, false) => Ok(state),
        }
    }

    pub(super) fn mbarrier_expect(&mut self, warp: &mut Warp, address: Address, step: &Step) -> Result<Flow, Finding> {
        let [base, bytes] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let at = warp.address(base, address, lane);
            let bytes = i64::from(warp.registers.lane(bytes, lane));
            self.see_mbarrier(warp.id, at).in_lane(lane)?;
            self.mbarrier(at).in_lane(lane)?.bytes += bytes;
        }
        Ok(Flow::Next)
    }

    /// `try_wait` and `test_wait`: a lane that is told "not yet" lets others run.
    pub(super) fn mbarrier_test(
        &mut self,
        warp: &mut Warp,
        operation: &Operation,
        step: &Step,
    ) -> Result<Flow, Finding> {
        let Operation::MbarrierTest { address, parity, relaxed } = *operation else { return Ok(Flow::Next) };
        let [target, base, phase] = step.registers[..] else { return Ok(Flow::Next) };
        let mut done = 0;
        let mut asked = None;
        for lane in lanes(step.mask) {
            let at = warp.address(base, address, lane);
            let wanted = match parity {
                true => u64::from(warp.registers.lane(phase, lane)) & 1,
                false => warp.registers.wide_lane(phase, lane) & 1,
            };
            // Most often all lanes ask the same.
            let answer = match asked {
                Some((same_at, same_phase, answer)) if (same_at, same_phase) == (at, wanted) => answer,
                _ => {
                    self.see_mbarrier(warp.id, at).in_lane(lane)?;
                    let mbarrier = self.mbarrier(at).in_lane(lane)?;
                    let answer = mbarrier.phase & 1 != wanted;
                    if answer && !relaxed {
                        let complete = mbarrier.complete.clone();
                        if let Some(clocks) = &mut self.clocks {
                            clocks.acquire(warp.id, &complete);
                        }
                    }
                    answer
                }
            };
            asked = Some((at, wanted, answer));
            done |= u32::from(answer) << lane;
        }
        warp.registers.put_predicate(target, done, step.mask);
        Ok(if done == step.mask { Flow::Next } else { Flow::Pause })
    }
}
