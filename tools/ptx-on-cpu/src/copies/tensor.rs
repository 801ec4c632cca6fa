//! Tensor copies (PTX ISA, "cp.async.bulk.tensor").

use super::Store;
use crate::clocks::{Range, Reader};
use crate::fault::{Finding, InLane};
use crate::instruction::{NONE, Operation, Reduction};
use crate::machine::{Cluster, Flow, RANK_SHIFT, Step, Warp};
use crate::memory::window;
use crate::registers::lanes;
use crate::tensor_map::{Swizzle, TensorMap};

/// A load into shared memory that is under way.
pub(crate) struct TensorCopy {
    /// What arrives, as rows of the tile, zeros included.
    content: Content,
    /// Offsets in each block that gets it.
    shared: u64,
    barrier: u64,
    /// Ranks, with the number of the copy among those of the block's barrier.
    targets: Vec<(usize, u32)>,
    pub statement: u32,
}

/// What is copied: a tile of a tensor, or plain bytes.
pub(crate) enum Content {
    Tile {
        map: TensorMap,
        at: Vec<i32>,
    },
    Bytes {
        global: u64,
        bytes: usize,
    },
    /// Of the block that sends it.
    Shared(Range),
}

impl Content {
    fn bytes(&self) -> usize {
        match self {
            Self::Tile { map, .. } => map.tile_bytes(),
            Self::Bytes { bytes, .. } => *bytes,
            Self::Shared(range) => range.bytes,
        }
    }

    fn swizzle(&self) -> Swizzle {
        if let Self::Tile { map, .. } = self { map.swizzle } else { Swizzle::None }
    }
}

impl Cluster<'_> {
    pub fn tensor_load(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::TensorLoad { shared, map, barrier } = *operation else { return Ok(Flow::Next) };
        let [to, base, bar, mask, coordinates @ ..] = step.registers else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let (map, at) = self.tile_at(warp, (*base, map), coordinates, lane, step)?;
            let content = Content::Tile { map, at };
            let addresses = (warp.address(*to, shared, lane), warp.address(*bar, barrier, lane));
            let mask = (*mask != NONE).then(|| warp.registers.lane(*mask, lane));
            self.start_copy(warp, content, addresses, mask, step).in_lane(lane)?;
        }
        Ok(Flow::Next)
    }

    /// Begins a copy into the same place of each block of the mask, or of the block that the address names.
    pub fn start_copy(
        &mut self,
        warp: &Warp,
        content: Content,
        (shared, barrier): (u64, u64),
        mask: Option<u32>,
        step: &Step,
    ) -> Result<(), Finding> {
        let (shared, barrier) = (window::to_shared(shared), window::to_shared(barrier));
        let bytes = content.bytes();
        let alignment = if matches!(content, Content::Tile { .. }) { 128 } else { 16 };
        let (own, offset) = self.shared_place(shared, bytes.max(16))?;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("a bulk copy to shared memory at {shared:#x}, not aligned to {alignment}").into());
        }
        let ranks = match mask {
            Some(mask) => lanes(mask & 0xffff).collect(),
            None => vec![own],
        };
        let mut targets = Vec::new();
        for rank in ranks {
            if rank >= self.blocks.len() {
                return Err(format!("a multicast to block {rank} of a cluster of {}", self.blocks.len()).into());
            }
            // The block knows by its own mbarrier when the copy is over: it is no visit of the warp that began it.
            self.must_live(warp, rank)?;
            let barrier_there = barrier & ((1 << RANK_SHIFT) - 1) | (rank as u64) << RANK_SHIFT;
            self.see_mbarrier(warp.id, barrier_there)?;
            let mbarrier = self.mbarrier_of(rank, barrier)?;
            mbarrier.copies += 1;
            let (agent, epoch) = (mbarrier.agent(), mbarrier.copies);
            targets.push((rank, epoch));
            if let Some(clocks) = &mut self.clocks {
                let range = Range { block: rank, offset, bytes };
                let seen = clocks.write_as((agent, epoch), warp.id, range, false, step.statement());
                seen.map_err(|conflict| self.conflict(conflict))?;
            }
            if let (Some(clocks), Content::Shared(from)) = (&mut self.clocks, &content) {
                // What is sent is read until the target's mbarrier says so, and must be there.
                self.blocks[from.block].visitors.insert(agent as usize, epoch);
                let seen = clocks.read(warp.id, *from, Reader::Copy(agent, epoch), step.statement());
                seen.map_err(|conflict| self.conflict(conflict))?;
            }
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.step(warp.id);
        }
        let copy = TensorCopy { content, shared, barrier, targets, statement: step.statement() };
        if self.is_late() {
            self.copies.push_back(copy);
            return Ok(());
        }
        self.deliver(copy)
    }

    /// Carries out a copy. All bytes of the tile count at the barrier, those outside the tensor too.
    pub fn deliver(&mut self, copy: TensorCopy) -> Result<(), Finding> {
        let content = self.content(&copy.content, copy.statement)?;
        let swizzle = copy.content.swizzle();
        let first = copy.shared as usize & ((1 << RANK_SHIFT) - 1);
        for (rank, epoch) in copy.targets {
            let shared = &mut self.blocks[rank].shared;
            for (number, piece) in content.chunks(16).enumerate() {
                let to = swizzle.apply((first + 16 * number) as u32) as usize;
                let Some(target) = shared.get_mut(to..to + piece.len()) else {
                    return Err(format!("a tile would end at {to:#x}, behind shared memory").into());
                };
                target.copy_from_slice(piece);
            }
            let bytes = content.len() as i64;
            let epoch = if self.hazards() { epoch } else { 0 };
            self.mbarrier_of(rank, copy.barrier)?.receive(bytes, epoch);
        }
        self.progress = true;
        Ok(())
    }

    fn content(&mut self, content: &Content, statement: u32) -> Result<Vec<u8>, Finding> {
        let mut bytes = vec![0; content.bytes()];
        match content {
            Content::Tile { map, at } => {
                for (offset, address, length) in map.rows(at) {
                    self.read_bytes(address, &mut bytes[offset..][..length], statement)?;
                }
            }
            Content::Bytes { global, .. } => self.read_bytes(*global, &mut bytes, statement)?,
            Content::Shared(from) => {
                bytes.copy_from_slice(&self.blocks[from.block].shared[from.offset..][..from.bytes])
            }
        }
        Ok(bytes)
    }

    pub fn tensor_store(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::TensorStore { map, shared } = *operation else { return Ok(Flow::Next) };
        let [base, from, coordinates @ ..] = step.registers else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let (map, at) = self.tile_at(warp, (*base, map), coordinates, lane, step)?;
            let store = Store {
                rank: 0,
                pieces: map.rows(&at).collect(),
                swizzle: map.swizzle,
                reduction: Reduction::Copy,
                statement: step.statement(),
            };
            let address = warp.address(*from, shared, lane);
            self.start_store(warp, store, (address, map.tile_bytes(), 128), step).in_lane(lane)?;
        }
        Ok(Flow::Next)
    }

    /// Begins a store of `bytes` bytes from a shared address of this alignment.
    pub fn start_store(
        &mut self,
        warp: &mut Warp,
        mut store: Store,
        (address, bytes, alignment): (u64, usize, usize),
        step: &Step,
    ) -> Result<(), Finding> {
        let address = window::to_shared(address);
        let (rank, offset) = self.shared_place(address, bytes.max(16))?;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("a bulk copy from shared memory at {address:#x}, not aligned to {alignment}").into());
        }
        store.rank = rank;
        store.pieces.iter_mut().for_each(|piece| piece.0 += offset);
        if let Some(clocks) = &mut self.clocks {
            let until = Reader::Bulk(warp.stores_committed + 1);
            let range = Range { block: rank, offset, bytes };
            clocks.read(warp.id, range, until, step.statement()).map_err(|conflict| self.conflict(conflict))?;
        }
        if self.is_late() {
            warp.stores.push(store);
            return Ok(());
        }
        // It still counts as one that must be waited for.
        self.carry_out_store(&store)?;
        warp.stores.push(Store { pieces: Vec::new(), ..store });
        Ok(())
    }
}
