//! Bulk copies without a tensor, and the groups of bulk stores (PTX ISA, "cp.async.bulk", "cp.reduce.async.bulk").

use super::Store;
use super::tensor::Content;
use crate::clocks::Range;
use crate::fault::{Finding, InLane};
use crate::instruction::{NONE, Number, Operation, Reduction};
use crate::machine::{Cluster, Flow, Step, Warp, combine, update_global};
use crate::memory::window;
use crate::registers::lanes;
use crate::tensor_map::Swizzle;

/// Addresses and sizes of bulk copies are multiples of 16.
fn check(address: u64, bytes: usize) -> Result<(), Finding> {
    if !bytes.is_multiple_of(16) || bytes == 0 || !address.is_multiple_of(16) {
        return Err(format!("a bulk copy of {bytes} bytes at {address:#x}: both must be multiples of 16").into());
    }
    Ok(())
}

impl Cluster<'_> {
    pub fn bulk_load(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::BulkLoad { shared, global, barrier } = *operation else { return Ok(Flow::Next) };
        let [to, from, bytes, bar, mask] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let (address, bytes) = (warp.address(from, global, lane), warp.registers.lane(bytes, lane) as usize);
            check(address, bytes).in_lane(lane)?;
            let content = Content::Bytes { global: address, bytes };
            let addresses = (warp.address(to, shared, lane), warp.address(bar, barrier, lane));
            let mask = (mask != NONE).then(|| warp.registers.lane(mask, lane));
            self.start_copy(warp, content, addresses, mask, step).in_lane(lane)?;
        }
        Ok(Flow::Next)
    }

    pub fn bulk_store(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::BulkStore { global, shared, reduction } = *operation else { return Ok(Flow::Next) };
        let [to, from, bytes] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let (address, bytes) = (warp.address(to, global, lane), warp.registers.lane(bytes, lane) as usize);
            check(address, bytes).in_lane(lane)?;
            let pieces = vec![(0, address, bytes)];
            let store = Store { rank: 0, pieces, swizzle: Swizzle::None, reduction, statement: step.statement() };
            self.start_store(warp, store, (warp.address(from, shared, lane), bytes, 16), step).in_lane(lane)?;
        }
        Ok(Flow::Next)
    }

    /// From this block's shared memory to another's.
    pub fn bulk_peer(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::BulkPeer { to, from, barrier } = *operation else { return Ok(Flow::Next) };
        let [target, source, bytes, bar] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let (address, bytes) = (warp.address(source, from, lane), warp.registers.lane(bytes, lane) as usize);
            check(address, bytes).in_lane(lane)?;
            let (rank, offset) = self.shared_place(window::to_shared(address), bytes).in_lane(lane)?;
            let content = Content::Shared(Range { block: rank, offset, bytes });
            let addresses = (warp.address(target, to, lane), warp.address(bar, barrier, lane));
            self.start_copy(warp, content, addresses, None, step).in_lane(lane)?;
        }
        Ok(Flow::Next)
    }

    pub fn bulk_commit(&mut self, warp: &mut Warp) -> Flow {
        warp.stores_committed += 1;
        let group = std::mem::take(&mut warp.stores);
        warp.store_groups.push_back(group);
        Flow::Next
    }

    pub fn bulk_wait(&mut self, warp: &mut Warp, pending: u32) -> Result<Flow, Finding> {
        while warp.store_groups.len() > pending as usize {
            for store in warp.store_groups.pop_front().into_iter().flatten() {
                self.carry_out_store(&store)?;
            }
            if let Some(clocks) = &mut self.clocks {
                clocks.bulk_group_done(warp.id);
            }
        }
        Ok(Flow::Next)
    }

    /// Carries out a store to global memory.
    pub fn carry_out_store(&mut self, store: &Store) -> Result<(), Finding> {
        for (offset, address, bytes) in &store.pieces {
            // Pieces between two changes of the permutation.
            let mut done = 0;
            while done < *bytes {
                let at = offset + done;
                let length = (16 - at % 16).min(bytes - done);
                let from = store.swizzle.apply(at as u32) as usize;
                let mut piece = [0; 16];
                piece[..length].copy_from_slice(&self.blocks[store.rank].shared[from..][..length]);
                self.store_piece(store, address + done as u64, &piece[..length])?;
                done += length;
            }
        }
        Ok(())
    }

    fn store_piece(&mut self, store: &Store, address: u64, piece: &[u8]) -> Result<(), Finding> {
        let Reduction::With(operation, number) = store.reduction else {
            return self.write_bytes(address, piece, store.statement);
        };
        let bytes = if matches!(number, Number::Half | Number::Brain) { 2 } else { 4 };
        let region = self.launch.memory.find(address, piece.len() as u64)?;
        let region = &self.launch.memory.regions[region];
        let offset = address - region.base;
        if self.launch.settings.poison && !region.is_written(offset, piece.len() as u64) {
            return Err(format!("reduces into global memory at {address:#x} that nobody wrote").into());
        }
        region.mark_written(offset, piece.len() as u64);
        for (place, element) in piece.chunks_exact(bytes).enumerate() {
            let mut word = [0; 8];
            word[..bytes].copy_from_slice(element);
            let a = u64::from_le_bytes(word);
            // SAFETY: the element lies in the region, aligned as bulk copies are.
            unsafe {
                update_global(region.pointer(offset + (place * bytes) as u64), bytes, |old| {
                    combine(operation, number, bytes, old, a, 0)
                })
            };
        }
        Ok(())
    }
}
