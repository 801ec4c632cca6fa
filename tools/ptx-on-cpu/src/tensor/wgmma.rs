//! `wgmma` (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions"): one operation of four warps,
//! which is over for all of them or for none.

use std::collections::VecDeque;

use super::descriptor::Descriptor;
use super::pair;
use super::product::{K, RowsOfA, accumulate, accumulate_half, place_a, place_b, place_fragment};
use crate::clocks::{Range, Reader};
use crate::fault::Finding;
use crate::instruction::{Operation, Wgmma};
use crate::machine::{Cluster, Flow, Step, Warp};
use crate::rows::LANES;

/// An operation that has been issued by some of the four warps, and not been carried out.
struct Pending {
    /// Where it is among the instructions.
    pc: u32,
    descriptors: [u64; 2],
    keep: bool,
    /// A bit a warp.
    issued: u8,
    late: bool,
}

/// What the four warps have issued together.
#[derive(Default)]
pub(crate) struct Warpgroup {
    /// Operations carried out so far: the number of the first one that pends.
    executed: u64,
    pending: VecDeque<Pending>,
    a: Vec<RowsOfA>,
    b: Vec<f32>,
}

/// Registers of a `wgmma`: accumulators, A, the two descriptors, and the predicate.
struct Operands<'r> {
    accumulators: &'r [u32],
    a: &'r [u32],
    descriptors: [u32; 2],
    scale: u32,
}

fn operands<'r>(registers: &'r [u32], results: usize) -> Option<Operands<'r>> {
    let (accumulators, rest) = registers.split_at(results);
    let [a @ .., first, second, scale] = rest else { return None };
    Some(Operands { accumulators, a, descriptors: [*first, *second], scale: *scale })
}

impl Cluster<'_> {
    fn warpgroup(&mut self, warp: &Warp) -> &mut Warpgroup {
        let of_block = self.launch.warps().div_ceil(4);
        &mut self.warpgroups[warp.block * of_block + warp.number / 4]
    }

    pub fn wgmma_fence(&mut self, warp: &mut Warp, step: &Step) -> Flow {
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return flow;
        }
        warp.wgmma.fences += 1;
        Flow::Next
    }

    pub fn wgmma(&mut self, warp: &mut Warp, wgmma: &Wgmma, step: &Step) -> Result<Flow, Finding> {
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return Ok(flow);
        }
        let whole = warp.number / 4 * 4 + 4;
        if whole > self.launch.warps() {
            return Err("wgmma by a warpgroup of fewer than four warps".into());
        }
        let Some(operands) = operands(step.registers, step.instruction.results as usize) else { return Ok(Flow::Next) };
        let lane = Warp::first_lane(step.mask);
        let descriptor =
            |register: u32| if register == u32::MAX { 0 } else { warp.registers.wide_lane(register, lane) };
        let descriptors = operands.descriptors.map(descriptor);
        let keep = (warp.registers.word(operands.scale) >> lane & 1 == 1) != wgmma.negate_scale;
        self.check_wgmma(warp, wgmma, &operands, descriptors, step)?;
        for place in operands.accumulators {
            warp.wgmma.in_flight[*place as usize / LANES] = warp.wgmma.groups + 1;
        }
        let late = self.is_late();
        let (number, bit) = (warp.wgmma.issued, 1u8 << (warp.number % 4));
        warp.wgmma.issued += 1;
        let group = self.warpgroup(warp);
        let place = (number - group.executed) as usize;
        match group.pending.get_mut(place) {
            None => {
                group.pending.push_back(Pending { pc: step.pc, descriptors, keep, issued: bit, late });
            }
            Some(pending) => {
                if (pending.pc, pending.descriptors, pending.keep) != (step.pc, descriptors, keep) {
                    return Err(format!(
                        "the four warps of a warpgroup do not issue the same wgmma: descriptors {descriptors:x?} here, \
                         {:x?} in another warp",
                        pending.descriptors
                    )
                    .into());
                }
                pending.issued |= bit;
                if pending.issued == 0xf && !pending.late {
                    self.execute_wgmma(warp, number + 1)?;
                }
            }
        }
        Ok(Flow::Next)
    }

    pub fn wgmma_commit(&mut self, warp: &mut Warp, step: &Step) -> Flow {
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return flow;
        }
        warp.wgmma.groups += 1;
        warp.wgmma.committed.push_back(warp.wgmma.issued);
        warp.wgmma.grouped = warp.wgmma.issued;
        self.progress = true;
        Flow::Next
    }

    pub fn wgmma_wait(&mut self, warp: &mut Warp, pending: u32, step: &Step) -> Result<Flow, Finding> {
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return Ok(flow);
        }
        let target = warp.wgmma.groups.saturating_sub(pending);
        if target <= warp.wgmma.done {
            return Ok(Flow::Next);
        }
        let end = warp.wgmma.committed[(target - warp.wgmma.done) as usize - 1];
        if !self.is_issued(warp, end) {
            return Ok(Flow::Again);
        }
        self.execute_wgmma(warp, end)?;
        while warp.wgmma.done < target {
            warp.wgmma.done += 1;
            warp.wgmma.committed.pop_front();
            if let Some(clocks) = &mut self.clocks {
                clocks.wgmma_group_done(warp.id);
            }
        }
        self.progress = true;
        Ok(Flow::Next)
    }

    /// Whether all four warps have issued the operations before number `end`.
    fn is_issued(&mut self, warp: &Warp, end: u64) -> bool {
        let group = self.warpgroup(warp);
        let waiting = end.saturating_sub(group.executed) as usize;
        group.pending.len() >= waiting && group.pending.iter().take(waiting).all(|pending| pending.issued == 0xf)
    }

    /// Carries out what pends before number `end`, for all four warps.
    fn execute_wgmma(&mut self, warp: &mut Warp, end: u64) -> Result<(), Finding> {
        loop {
            let launch = self.launch;
            let group = self.warpgroup(warp);
            if group.executed >= end {
                return Ok(());
            }
            let Some(pending) = group.pending.pop_front() else { return Ok(()) };
            group.executed += 1;
            let (mut a, mut b) = (std::mem::take(&mut group.a), std::mem::take(&mut group.b));
            let instruction = &launch.code.instructions[pending.pc as usize];
            let Operation::Wgmma(wgmma) = &instruction.operation else { continue };
            let registers = launch.code.registers(instruction);
            let Some(operands) = operands(registers, instruction.results as usize) else { continue };
            a.resize(4, [[[0.0; LANES]; 2]; K]);
            b.resize(16 * K * wgmma.n / 8, 0.0);
            self.multiplications += 64 * (wgmma.n * K) as u64;
            self.load_operands(warp, wgmma, &pending, &mut a, &mut b)?;
            let first = warp.id - warp.number % 4;
            for (member, rows) in a.iter_mut().enumerate() {
                let registers = if first + member == warp.id {
                    &mut warp.registers
                } else {
                    match &mut self.warps[first + member] {
                        Some(other) => &mut other.registers,
                        None => continue,
                    }
                };
                if wgmma.from_registers {
                    place_fragment(rows, registers, operands.a, wgmma.element);
                }
                let multiply = if wgmma.half_sums { accumulate_half } else { accumulate };
                multiply(registers, operands.accumulators, rows, &b, pending.keep, wgmma.sign);
            }
            let group = self.warpgroup(warp);
            (group.a, group.b) = (a, b);
        }
    }

    /// Operands in shared memory, decoded once for the four warps.
    fn load_operands(
        &mut self,
        warp: &Warp,
        wgmma: &Wgmma,
        pending: &Pending,
        a: &mut [RowsOfA],
        b: &mut [f32],
    ) -> Result<(), Finding> {
        let shared = &self.blocks[warp.block].shared;
        let piece = |at: usize| {
            let bytes = &shared[at..at + 16];
            let mut piece = [0f32; 8];
            for (target, word) in piece.chunks_exact_mut(2).zip(bytes.chunks_exact(4)) {
                let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                target.copy_from_slice(&pair(wgmma.element, word));
            }
            piece
        };
        if let (false, Ok(rows)) = (wgmma.from_registers, <&mut [RowsOfA; 4]>::try_from(a)) {
            let descriptor = Descriptor::new(pending.descriptors[0], wgmma.transpose[0])?;
            descriptor.check(64, shared.len())?;
            for (mn, k, at) in descriptor.pieces(64) {
                place_a(rows, descriptor.is_mn_major(), mn, k, &piece(at));
            }
        }
        let descriptor = Descriptor::new(pending.descriptors[1], wgmma.transpose[1])?;
        descriptor.check(wgmma.n, shared.len())?;
        for (mn, k, at) in descriptor.pieces(wgmma.n) {
            place_b(b, descriptor.is_mn_major(), mn, k, &piece(at));
        }
        Ok(())
    }

    /// What the clocks say of the operands, and the fence of the registers.
    fn check_wgmma(
        &mut self,
        warp: &Warp,
        wgmma: &Wgmma,
        operands: &Operands,
        descriptors: [u64; 2],
        step: &Step,
    ) -> Result<(), Finding> {
        if !self.hazards() {
            return Ok(());
        }
        if warp.wgmma.fences == 0 {
            return Err("wgmma with no wgmma.fence before it".into());
        }
        let state = &warp.wgmma;
        for place in operands.a {
            if state.in_flight[*place as usize / LANES] > state.done {
                return Err("takes A from an accumulator that nobody waited for".into());
            }
        }
        // The order of wgmma and other writers of its registers is the fence's to keep, even of sums that are begun anew.
        for place in operands.a.iter().chain(operands.accumulators) {
            if state.written[*place as usize / LANES] > state.fences {
                return Err("wgmma on registers that were written since the last wgmma.fence".into());
            }
        }
        let until = Reader::Wgmma(state.groups + 1);
        let shared = self.blocks[warp.block].shared.len();
        for (number, size) in [64, wgmma.n].into_iter().enumerate() {
            if number == 0 && wgmma.from_registers {
                continue;
            }
            let descriptor = Descriptor::new(descriptors[number], wgmma.transpose[number])?;
            descriptor.check(size, shared)?;
            for (_, _, offset) in descriptor.pieces(size) {
                let range = Range { block: warp.block, offset, bytes: 16 };
                let Some(clocks) = &mut self.clocks else { return Ok(()) };
                clocks.read(warp.id, range, until, step.statement()).map_err(|conflict| self.conflict(conflict))?;
            }
        }
        Ok(())
    }

    /// Other instructions on accumulators that are being computed. A move from register to register is none: the compiler that
    /// makes machine code gives both names one register.
    pub fn see_accumulators(&mut self, warp: &mut Warp, step: &Step) -> Result<Flow, Finding> {
        let (results, sources) = step.registers.split_at(step.instruction.results as usize);
        if matches!(step.instruction.operation, Operation::Wgmma(_)) {
            return Ok(Flow::Next);
        }
        let busy = warp.wgmma.is_busy();
        let row = |place: u32| place as usize / LANES;
        if let (true, &[target], &[source]) = (step.instruction.is_move, results, sources) {
            let group = warp.wgmma.in_flight[row(source)];
            if busy && group > warp.wgmma.done {
                let number = (group - warp.wgmma.done) as usize - 1;
                let end = warp.wgmma.committed.get(number).copied().unwrap_or(warp.wgmma.issued);
                if !self.is_issued(warp, end) {
                    return Ok(Flow::Again);
                }
                self.execute_wgmma(warp, end)?;
            }
            warp.wgmma.in_flight[row(target)] = group;
            warp.wgmma.written[row(target)] = warp.wgmma.written[row(source)];
            return Ok(Flow::Next);
        }
        if !self.hazards() {
            return Ok(Flow::Next);
        }
        let state = &mut warp.wgmma;
        for (places, what) in [(sources, "reads"), (results, "writes")] {
            let flying = places
                .iter()
                .filter(|place| **place != u32::MAX)
                .find(|place| busy && state.in_flight[row(**place)] > state.done);
            if let Some(place) = flying {
                let group = state.in_flight[row(*place)];
                let text =
                    format!("{what} an accumulator of wgmma group {group}, and only {} were waited for", state.done);
                return Err(text.into());
            }
        }
        for place in results.iter().filter(|place| **place != u32::MAX) {
            state.written[row(*place)] = state.fences + 1;
            state.in_flight[row(*place)] = 0;
        }
        Ok(Flow::Next)
    }
}
