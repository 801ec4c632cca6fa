//! A warp's turn: groups of lanes step through the code.

use super::warp::Group;
use super::{Cluster, State, Warp};
use crate::fault::{Fault, Finding, InLane};
use crate::instruction::{Instruction, NONE, Operation, Unwritten};
use crate::registers::lanes;

/// Instructions of a turn, in order and in a schedule by seed.
const TURN: i64 = 2000;
const RANDOM_TURN: std::ops::Range<i64> = 20..420;

/// An instruction that is being executed.
#[derive(Clone, Copy)]
pub(crate) struct Step<'c> {
    pub instruction: &'c Instruction,
    pub pc: u32,
    /// Places of its registers.
    pub registers: &'c [u32],
    /// Lanes of the group, and those of them whose guard holds.
    pub group: u32,
    pub mask: u32,
}

impl Step<'_> {
    pub fn statement(&self) -> u32 {
        self.instruction.statement
    }
}

/// What comes after an instruction.
pub(crate) enum Flow {
    Next,
    /// These lanes are needed here, and are not: the group waits.
    Gather,
    /// Nothing was done: the same instruction again, in another turn.
    Again,
    /// Done, but others should have their turn.
    Pause,
    /// The warp waits behind this instruction.
    Wait(State),
}

impl Cluster<'_> {
    /// Lets a warp run for a while.
    pub fn turn(&mut self, warp: &mut Warp) -> Result<(), Fault> {
        let is_random = self.launch.settings.seed.is_some();
        let mut budget = if is_random {
            RANDOM_TURN.start + self.random.below((RANDOM_TURN.end - RANDOM_TURN.start) as usize) as i64
        } else {
            TURN
        };
        while budget > 0 {
            if warp.groups.is_empty() {
                warp.state = State::Ended;
                self.progress = true;
                let last = self.launch.code.places.len() as u32 - 1;
                return self.end(warp).map_err(|finding| self.place(warp, last, finding));
            }
            merge(&mut warp.groups);
            let Some(chosen) = self.choose(warp, is_random) else { return Err(self.stuck(warp)) };
            if !self.run_group(warp, chosen, &mut budget)? {
                return Ok(());
            }
        }
        warp.spins += u32::from(warp.groups.len() > 1);
        self.computed = true;
        Ok(())
    }

    /// The group to run: the one that is farthest behind, or any.
    fn choose(&mut self, warp: &mut Warp, is_random: bool) -> Option<usize> {
        if warp.groups.len() == 1 && !warp.groups[0].waits {
            return Some(0);
        }
        let ready: Vec<usize> = (0..warp.groups.len()).filter(|number| !warp.groups[*number].waits).collect();
        // One that spins must not starve the others.
        if ready.len() > 1 && (is_random || warp.spins > 0) {
            warp.spins = 0;
            return Some(ready[self.random.below(ready.len())]);
        }
        ready.first().copied()
    }

    /// Runs a group until it splits, meets another, or waits. Returns whether the turn goes on.
    fn run_group(&mut self, warp: &mut Warp, chosen: usize, budget: &mut i64) -> Result<bool, Fault> {
        let code = self.launch.code;
        let Group { mut pc, mask: group, .. } = warp.groups[chosen];
        let several = warp.groups.len() > 1;
        let uses_wgmma = code.uses_wgmma;
        loop {
            let instruction = &code.instructions[pc as usize];
            let mask = match instruction.guard {
                NONE => group,
                guard => {
                    let bits = warp.registers.word(guard);
                    group & if instruction.negated { !bits } else { bits }
                }
            };
            *budget -= 1;
            let step = Step { instruction, pc, registers: code.registers(instruction), group, mask };
            if mask != 0 && uses_wgmma {
                let flow = self
                    .see_accumulators(warp, &step)
                    .map_err(|finding| self.place(warp, instruction.statement, finding))?;
                if matches!(flow, Flow::Again) {
                    warp.groups[chosen].pc = pc;
                    return Ok(false);
                }
            }
            if instruction.tracked != NONE {
                see_unwritten(warp, &code.unwritten[instruction.tracked as usize], group, mask)
                    .map_err(|finding| self.place(warp, instruction.statement, finding))?;
            }
            match &instruction.operation {
                Operation::Rows(function) => {
                    if mask != 0 {
                        // SAFETY: the registers are places in this file, of the classes that decode checked.
                        unsafe { function(warp.registers.pointer(), step.registers, mask) };
                    }
                    self.count(pc, mask);
                    pc += 1;
                }
                Operation::Branch => {
                    self.count(pc, group);
                    let target = instruction.target;
                    if mask == group {
                        pc = target;
                        if *budget <= 0 {
                            warp.groups[chosen].pc = pc;
                            return Ok(true);
                        }
                    } else if mask == 0 {
                        pc += 1;
                    } else {
                        self.count_divergence(pc);
                        warp.groups[chosen] = Group { pc: target, mask, waits: false };
                        warp.groups.push(Group { pc: pc + 1, mask: group & !mask, waits: false });
                        return Ok(true);
                    }
                }
                Operation::BranchTable(targets) => {
                    self.count(pc, mask);
                    self.branch_table(warp, chosen, pc, targets, &step)
                        .map_err(|finding| self.place(warp, instruction.statement, finding))?;
                    return Ok(true);
                }
                Operation::Exit => {
                    self.count(pc, mask);
                    warp.alive &= !mask;
                    // What others wait for may have become less.
                    warp.groups.iter_mut().for_each(|group| group.waits = false);
                    if mask == group {
                        warp.groups.remove(chosen);
                    } else {
                        warp.groups[chosen] = Group { pc: pc + 1, mask: group & !mask, waits: false };
                    }
                    return Ok(true);
                }
                _ if mask == 0 => pc += 1,
                operation => {
                    let seen = self.counts.is_some().then(|| self.observe(warp, operation, &step));
                    let flow = self
                        .execute(warp, operation, &step)
                        .map_err(|finding| self.place(warp, instruction.statement, finding))?;
                    if let Some(seen) = seen {
                        self.note(&step, seen, &flow);
                    }
                    match flow {
                        Flow::Next => {
                            self.count(pc, mask);
                            pc += 1;
                        }
                        Flow::Gather => {
                            warp.groups[chosen] = Group { pc, mask: group, waits: true };
                            return Ok(true);
                        }
                        Flow::Again => {
                            warp.groups[chosen].pc = pc;
                            return Ok(false);
                        }
                        Flow::Pause => {
                            self.count(pc, mask);
                            warp.groups[chosen].pc = pc + 1;
                            warp.spins += u32::from(several);
                            return Ok(false);
                        }
                        Flow::Wait(state) => {
                            self.count(pc, mask);
                            warp.groups[chosen].pc = pc + 1;
                            warp.state = state;
                            return Ok(false);
                        }
                    }
                }
            }
            let meets = |(number, other): (usize, &Group)| number != chosen && other.pc == pc;
            if several && (*budget <= 0 || warp.groups.iter().enumerate().any(meets)) {
                warp.groups[chosen].pc = pc;
                return Ok(true);
            }
        }
    }

    /// Each lane goes where its index says.
    fn branch_table(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        pc: u32,
        targets: &[u32],
        step: &Step,
    ) -> Result<(), Finding> {
        let mut groups: Vec<Group> = Vec::new();
        let mut add = |pc, bits| match groups.iter_mut().find(|group| group.pc == pc) {
            Some(group) => group.mask |= bits,
            None => groups.push(Group { pc, mask: bits, waits: false }),
        };
        for lane in lanes(step.group) {
            if step.mask >> lane & 1 == 0 {
                add(pc + 1, 1 << lane);
                continue;
            }
            let index = warp.registers.lane(step.registers[0], lane);
            let target = targets.get(index as usize).ok_or_else(|| Finding {
                text: format!("branches to number {index} of {} targets", targets.len()),
                lane: Some(lane),
            })?;
            add(*target, 1 << lane);
        }
        if groups.len() > 1 {
            self.count_divergence(pc);
        }
        warp.groups.remove(chosen);
        warp.groups.extend(groups);
        Ok(())
    }

    #[inline]
    fn count(&mut self, pc: u32, mask: u32) {
        let [warps, threads] = &mut self.executed[pc as usize];
        *warps += u64::from(mask != 0);
        *threads += u64::from(mask.count_ones());
    }

    fn count_divergence(&mut self, pc: u32) {
        if let Some(counts) = &mut self.counts {
            counts[pc as usize].divergent_branches += 1;
        }
    }

    /// What is no arithmetic and no branch.
    fn execute(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        match operation {
            Operation::Load { .. } => self.load(warp, operation, step),
            Operation::Store { .. } => self.store(warp, operation, step),
            Operation::Atomic { .. } => self.atomic(warp, operation, step),
            Operation::Barrier(kind) => self.named_barrier(warp, *kind, step),
            Operation::WarpBarrier => self.warp_barrier(warp, step),
            Operation::Shuffle(mode) => self.shuffle(warp, *mode, step),
            Operation::Vote(mode) => self.vote(warp, *mode, step),
            Operation::Elect => self.elect(warp, step),
            Operation::Match { wide, all } => self.match_lanes(warp, *wide, *all, step),
            Operation::Reduce(function) => self.reduce(warp, *function, step),
            Operation::ActiveMask => {
                warp.registers.put(step.registers[0], &[step.mask; 32], step.mask);
                Ok(Flow::Next)
            }
            Operation::Clock { wide } => {
                // Time goes by with instructions.
                let now = self.executed.iter().map(|count| count[0]).sum::<u64>();
                for lane in lanes(step.mask) {
                    if *wide {
                        warp.registers.set_wide_lane(step.registers[0], lane, now);
                    } else {
                        warp.registers.row_mut(step.registers[0])[lane] = now as u32;
                    }
                }
                Ok(Flow::Next)
            }
            Operation::CopyAsync { .. } => self.copy_async(warp, operation, step),
            Operation::CopyCommit => Ok(self.copy_commit(warp)),
            Operation::CopyWait(pending) => self.copy_wait(warp, *pending),
            Operation::CopyArrive { address, counted } => self.copy_arrive(warp, *address, *counted, step),
            Operation::LoadMatrix { .. } => self.load_matrix(warp, operation, step),
            Operation::StoreMatrix { .. } => self.store_matrix(warp, operation, step),
            Operation::Mma { k, element, half_sums } => Ok(self.mma(warp, *k, *element, *half_sums, step)),
            Operation::WgmmaFence => Ok(self.wgmma_fence(warp, step)),
            Operation::Wgmma(wgmma) => self.wgmma(warp, wgmma, step),
            Operation::WgmmaCommit => Ok(self.wgmma_commit(warp, step)),
            Operation::WgmmaWait(pending) => self.wgmma_wait(warp, *pending, step),
            Operation::MbarrierInit(address) => self.mbarrier_init(warp, *address, step),
            Operation::MbarrierInvalidate(address) => self.mbarrier_invalidate(warp, *address, step),
            Operation::MbarrierArrive { .. } => self.mbarrier_arrive(warp, operation, step),
            Operation::MbarrierExpect(address) => self.mbarrier_expect(warp, *address, step),
            Operation::MbarrierTest { .. } => self.mbarrier_test(warp, operation, step),
            Operation::FenceAsyncProxy => {
                if let Some(clocks) = &mut self.clocks {
                    clocks.tell_proxy(warp.id);
                }
                Ok(Flow::Next)
            }
            Operation::TensorLoad { .. } => self.tensor_load(warp, operation, step),
            Operation::TensorStore { .. } => self.tensor_store(warp, operation, step),
            Operation::BulkCommit => Ok(self.bulk_commit(warp)),
            Operation::BulkWait(pending) => self.bulk_wait(warp, *pending),
            Operation::BulkLoad { .. } => self.bulk_load(warp, operation, step),
            Operation::BulkStore { .. } => self.bulk_store(warp, operation, step),
            Operation::BulkPeer { .. } => self.bulk_peer(warp, operation, step),
            Operation::ClusterArrive { relaxed } => Ok(self.cluster_arrive(warp, *relaxed, step)),
            Operation::ClusterWait => self.cluster_wait(warp, step),
            Operation::MapShared { wide } => self.map_shared(warp, *wide, step),
            Operation::SetMaxRegisters => Ok(self.together(warp, step, u32::MAX).unwrap_or(Flow::Next)),
            Operation::MapReplace { .. } => self.map_replace(warp, operation, step),
            Operation::MapCopy { to, from } => self.map_copy(warp, *to, *from, step),
            Operation::FenceMbarrierInit => {
                self.publish_mbarriers(warp);
                Ok(Flow::Next)
            }
            Operation::Fence { whole } => {
                if let Some(races) = self.races.as_mut().filter(|_| *whole) {
                    races.fence();
                }
                Ok(Flow::Next)
            }
            Operation::Nothing => Ok(Flow::Next),
            Operation::Trap => Err("the kernel called trap".into()),
            Operation::Unknown(text) => Err(text.as_str().into()),
            Operation::Rows(_) | Operation::Branch | Operation::BranchTable(_) | Operation::Exit => Ok(Flow::Next),
        }
    }

    /// `Some` while not all of `members` that live are in this group.
    pub fn together(&self, warp: &Warp, step: &Step, members: u32) -> Option<Flow> {
        let needed = members & warp.alive;
        (step.group & needed != needed).then_some(Flow::Gather)
    }
}

/// Registers that some path reaches without a write: whether this one does.
fn see_unwritten(warp: &mut Warp, accesses: &[Unwritten], group: u32, mask: u32) -> Result<(), Finding> {
    for access in accesses {
        let written = &mut warp.written[access.number as usize];
        if access.is_write {
            *written |= mask;
            continue;
        }
        let missing = if access.is_guard { group } else { mask } & !*written;
        if missing != 0 {
            return Err("reads a register that nobody wrote").in_lane(Warp::first_lane(missing));
        }
    }
    Ok(())
}

/// Groups at the same instruction become one; the one that is farthest behind comes first.
fn merge(groups: &mut Vec<Group>) {
    if groups.len() < 2 {
        return;
    }
    groups.sort_by_key(|group| group.pc);
    groups.dedup_by(|later, earlier| {
        let same = later.pc == earlier.pc;
        if same {
            earlier.mask |= later.mask;
            earlier.waits = false;
        }
        same
    });
}
