//! `cp.async` and its groups (PTX ISA, "cp.async").

use super::AsyncCopy;
use crate::clocks::Range;
use crate::fault::{Finding, InLane};
use crate::instruction::{Address, NONE, Operation};
use crate::machine::{Cluster, Flow, Step, Warp};
use crate::memory::window;
use crate::races::Touch;
use crate::registers::lanes;

impl Cluster<'_> {
    pub fn copy_async(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::CopyAsync { bytes, shared, global } = *operation else { return Ok(Flow::Next) };
        let [to, from, length] = step.registers[..] else { return Ok(Flow::Next) };
        let late = self.is_late();
        for lane in lanes(step.mask) {
            let length = if length == NONE { bytes } else { warp.registers.lane(length, lane) };
            if length > bytes {
                return Err(format!("cp.async of {bytes} bytes that reads {length}")).in_lane(lane);
            }
            let copy = AsyncCopy {
                shared: warp.address(to, shared, lane),
                global: warp.address(from, global, lane),
                bytes: bytes as usize,
                length: length as usize,
                statement: step.statement(),
            };
            if late {
                warp.copies.push(copy);
            } else {
                self.carry_out(warp, &copy).in_lane(lane)?;
                // It still counts as one that must be waited for.
                warp.copies.push(AsyncCopy { bytes: 0, ..copy });
            }
        }
        Ok(Flow::Next)
    }

    /// A source of which nothing is read may lie anywhere.
    fn carry_out(&mut self, warp: &Warp, copy: &AsyncCopy) -> Result<(), Finding> {
        if copy.bytes == 0 {
            return Ok(());
        }
        let address = window::to_shared(copy.shared);
        let (rank, offset) = self.shared_place(address, copy.bytes)?;
        if !offset.is_multiple_of(copy.bytes) || copy.length > 0 && !copy.global.is_multiple_of(copy.bytes as u64) {
            let AsyncCopy { bytes, global, .. } = copy;
            return Err(
                format!("cp.async of {bytes} bytes from {global:#x} to {address:#x}, not aligned to {bytes}").into()
            );
        }
        let mut content = [0; 16];
        self.read_bytes(copy.global, &mut content[..copy.length], copy.statement)?;
        self.blocks[rank].shared[offset..][..copy.bytes].copy_from_slice(&content[..copy.bytes]);
        let Some(clocks) = &mut self.clocks else { return Ok(()) };
        let range = Range { block: rank, offset, bytes: copy.bytes };
        clocks.write(warp.id, range, false, copy.statement).map_err(|conflict| self.conflict(conflict))
    }

    pub fn copy_commit(&mut self, warp: &mut Warp) -> Flow {
        let group = std::mem::take(&mut warp.copies);
        warp.copy_groups.push_back(group);
        Flow::Next
    }

    pub fn copy_wait(&mut self, warp: &mut Warp, pending: u32) -> Result<Flow, Finding> {
        while warp.copy_groups.len() > pending as usize {
            for copy in warp.copy_groups.pop_front().into_iter().flatten() {
                self.carry_out(warp, &copy)?;
            }
        }
        Ok(Flow::Next)
    }

    /// `cp.async.mbarrier.arrive`: arrives when the copies so far are done, which is now.
    pub fn copy_arrive(
        &mut self,
        warp: &mut Warp,
        address: Address,
        counted: bool,
        step: &Step,
    ) -> Result<Flow, Finding> {
        let groups = std::mem::take(&mut warp.copy_groups);
        for copy in groups.into_iter().flatten().chain(std::mem::take(&mut warp.copies)) {
            self.carry_out(warp, &copy)?;
        }
        for lane in lanes(step.mask) {
            let at = warp.address(step.registers[0], address, lane);
            // Without `.noinc` the phase first counts one arrival more.
            if counted {
                self.mbarrier_arrival(warp.id, at, -1, 0, (true, false)).in_lane(lane)?;
            }
            self.mbarrier_arrival(warp.id, at, 1, 0, (false, false)).in_lane(lane)?;
        }
        Ok(Flow::Next)
    }

    /// Copies global memory out.
    pub fn read_bytes(&mut self, address: u64, target: &mut [u8], statement: u32) -> Result<(), Finding> {
        if target.is_empty() {
            return Ok(());
        }
        self.touch(address, target.len(), Touch::Read, statement)?;
        let region = self.launch.memory.find(address, target.len() as u64)?;
        let region = &self.launch.memory.regions[region];
        let offset = address - region.base;
        if self.launch.settings.poison && !region.is_written(offset, target.len() as u64) {
            return Err(
                format!("copies {} bytes of global memory at {address:#x} that nobody wrote", target.len()).into()
            );
        }
        // SAFETY: the range lies in the region; a race would be the kernel's.
        unsafe { target.as_mut_ptr().copy_from_nonoverlapping(region.pointer(offset), target.len()) };
        Ok(())
    }

    /// Copies bytes into global memory.
    pub fn write_bytes(&mut self, address: u64, source: &[u8], statement: u32) -> Result<(), Finding> {
        if source.is_empty() {
            return Ok(());
        }
        self.touch(address, source.len(), Touch::Write, statement)?;
        let region = self.launch.memory.find(address, source.len() as u64)?;
        let region = &self.launch.memory.regions[region];
        let offset = address - region.base;
        region.mark_written(offset, source.len() as u64);
        // SAFETY: the range lies in the region; a race would be the kernel's.
        unsafe { region.pointer(offset).copy_from_nonoverlapping(source.as_ptr(), source.len()) };
        Ok(())
    }
}
