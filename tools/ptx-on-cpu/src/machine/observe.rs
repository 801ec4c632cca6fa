//! What an instruction asks of memory and of barriers, for the counters: addresses are looked at before it is carried out, and
//! counted when it was.

use super::{Cluster, Flow, Step, Warp};
use crate::counters::{Counts, InstructionClass};
use crate::instruction::{Address, Barrier, Element, NONE, Operation};
use crate::memory::window;
use crate::registers::lanes;
use crate::rows::LANES;

const BANKS: usize = 32;
const WORD: u64 = 4;
const SECTOR: u64 = 32;

/// A piece of global memory: address and bytes.
type Piece = (u64, u64);

impl Cluster<'_> {
    /// What this instruction is about to do, apart from how often it is executed.
    #[cold]
    pub(super) fn observe(&mut self, warp: &Warp, operation: &Operation, step: &Step) -> Counts {
        let mut counts = Counts::default();
        let at = |register: u32, address: Address| {
            lanes(step.mask).map(move |lane| (lane, warp.address(register, address, lane)))
        };
        match *operation {
            Operation::Load { bytes, count, address, .. } => {
                let accesses = at(step.registers[count as usize], address);
                access(&mut counts, step, accesses, u64::from(bytes) * u64::from(count), Kind::Load);
            }
            Operation::Store { bytes, count, address, .. } => {
                let accesses = at(step.registers[0], address);
                access(&mut counts, step, accesses, u64::from(bytes) * u64::from(count), Kind::Store);
            }
            Operation::Atomic { bytes, address, .. } => {
                access(&mut counts, step, at(step.registers[1], address), u64::from(bytes), Kind::Atomic);
            }
            Operation::LoadMatrix { count, address, .. } => {
                matrices(&mut counts, warp, step.registers[count as usize], address, count as usize);
            }
            Operation::StoreMatrix { address, .. } => {
                matrices(&mut counts, warp, step.registers[0], address, step.registers.len() - 1);
            }
            Operation::CopyAsync { bytes, shared, global } => {
                let [to, from, length] = step.registers[..] else { return counts };
                let targets: Vec<_> = at(to, shared).collect();
                add_shared(&mut counts, &targets, u64::from(bytes), false);
                let length = |lane| if length == NONE { bytes } else { warp.registers.lane(length, lane) };
                let pieces = at(from, global).map(|(lane, at)| (at, u64::from(length(lane)))).collect();
                add_global(&mut counts, pieces, Kind::Load);
            }
            Operation::Mma { k, .. } => counts.tensor_multiplications = 16 * 8 * u64::from(k),
            // A warp's quarter of the 64 rows.
            Operation::Wgmma(ref wgmma) => {
                let k = if wgmma.element == Element::Tf32 { 8 } else { 16 };
                counts.tensor_multiplications = 16 * wgmma.n as u64 * k;
            }
            Operation::Barrier(kind) => counts.barrier_waits = u64::from(kind != Barrier::Arrive),
            Operation::ClusterWait | Operation::MbarrierTest { .. } => counts.barrier_waits = 1,
            Operation::BulkLoad { global, .. } => {
                let bytes = step.registers[2];
                let pieces = at(step.registers[1], global);
                add_bulk(&mut counts, pieces.map(|(lane, at)| (at, u64::from(warp.registers.lane(bytes, lane)))));
            }
            Operation::BulkStore { global, .. } => {
                let bytes = step.registers[2];
                let pieces = at(step.registers[0], global);
                add_bulk(&mut counts, pieces.map(|(lane, at)| (at, u64::from(warp.registers.lane(bytes, lane)))));
            }
            Operation::TensorLoad { map, .. } => {
                let [_, base, _, _, coordinates @ ..] = step.registers else { return counts };
                self.add_tiles(&mut counts, warp, (*base, map), coordinates, step);
            }
            Operation::TensorStore { map, .. } => {
                let [base, _, coordinates @ ..] = step.registers else { return counts };
                self.add_tiles(&mut counts, warp, (*base, map), coordinates, step);
            }
            _ => {}
        }
        counts
    }

    /// Counts what was observed, if the instruction was carried out.
    #[cold]
    pub(super) fn note(&mut self, step: &Step, mut seen: Counts, flow: &Flow) {
        match flow {
            Flow::Gather | Flow::Again => return,
            // An mbarrier that was not ready.
            Flow::Pause => seen.barrier_waits = 0,
            Flow::Next | Flow::Wait(_) => {}
        }
        if let Some(counts) = &mut self.counts {
            counts[step.pc as usize] += seen;
        }
    }

    /// Rows of a tile inside the tensor. What is wrong with the map is told when the copy begins.
    fn add_tiles(&mut self, counts: &mut Counts, warp: &Warp, map: (u32, Address), coordinates: &[u32], step: &Step) {
        for lane in lanes(step.mask) {
            let Ok((map, at)) = self.tile_at(warp, map, coordinates, lane, step) else { return };
            add_bulk(counts, map.rows(&at).map(|(_, address, length)| (address, length as u64)));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Load,
    Store,
    Atomic,
}

/// An access of `bytes` bytes a lane, in the spaces where addresses lead.
fn access(counts: &mut Counts, step: &Step, lanes: impl Iterator<Item = (usize, u64)>, bytes: u64, kind: Kind) {
    let (mut shared, mut global) = (Vec::new(), Vec::new());
    for (lane, at) in lanes {
        match (step.instruction.class, at >> 32) {
            (InstructionClass::Shared, _) => shared.push((lane, at)),
            (InstructionClass::Global, 1) => shared.push((lane, at ^ window::SHARED)),
            (InstructionClass::Global, 2 | 3) => {}
            (InstructionClass::Global, _) => global.push((at, bytes)),
            _ => {}
        }
    }
    add_shared(counts, &shared, bytes, kind == Kind::Atomic);
    add_global(counts, global, kind);
}

/// Bank conflicts: accesses of more than 4 bytes a lane go by half or quarter warps (CUDA C++ Programming Guide, "Shared
/// Memory" of compute capability 5.x, whose banks later ones have).
fn add_shared(counts: &mut Counts, accesses: &[(usize, u64)], bytes: u64, is_atomic: bool) {
    if accesses.is_empty() {
        return;
    }
    counts.shared_requests += 1;
    let together = (LANES as u64 * WORD / bytes.max(WORD)).max(1) as usize;
    for part in accesses.chunk_by(|one, other| one.0 / together == other.0 / together) {
        let mut words: Vec<u64> =
            part.iter().flat_map(|(_, at)| at / WORD..at.saturating_add(bytes).div_ceil(WORD)).collect();
        if !is_atomic {
            words.sort_unstable();
            words.dedup();
        }
        add_wavefronts(counts, &words);
    }
}

/// One part of an access, which would take one wavefront without conflicts.
fn add_wavefronts(counts: &mut Counts, words: &[u64]) {
    let mut banks = [0u64; BANKS];
    for word in words {
        banks[*word as usize % BANKS] += 1;
    }
    let wavefronts = banks.into_iter().max().unwrap_or(0);
    counts.shared_wavefronts += wavefronts;
    counts.bank_conflicts += wavefronts.saturating_sub(1);
}

/// `ldmatrix` and `stmatrix`: 8 rows of 16 bytes a matrix.
fn matrices(counts: &mut Counts, warp: &Warp, base: u32, address: Address, count: usize) {
    counts.shared_requests += 1;
    for matrix in 0..count {
        let rows = (8 * matrix..8 * matrix + 8).map(|lane| warp.address(base, address, lane % LANES));
        let mut words: Vec<u64> = rows.flat_map(|at| at / WORD..at / WORD + 4).collect();
        words.sort_unstable();
        words.dedup();
        add_wavefronts(counts, &words);
    }
}

/// Sectors that pieces touch, and as few as would hold their bytes, each once.
fn sectors(mut pieces: Vec<Piece>) -> (u64, u64) {
    pieces.sort_unstable();
    let (mut touched, mut bytes) = (0, 0);
    // Ends of what was counted.
    let (mut next_sector, mut next_byte) = (0, 0);
    for (at, length) in pieces {
        let end = at.saturating_add(length);
        bytes += end.saturating_sub(at.max(next_byte));
        touched += end.div_ceil(SECTOR).saturating_sub((at / SECTOR).max(next_sector));
        next_byte = next_byte.max(end);
        next_sector = next_sector.max(end.div_ceil(SECTOR));
    }
    (touched, bytes.div_ceil(SECTOR))
}

fn add_global(counts: &mut Counts, mut pieces: Vec<Piece>, kind: Kind) {
    pieces.retain(|piece| piece.1 > 0);
    if pieces.is_empty() {
        return;
    }
    let (touched, least) = sectors(pieces);
    counts.l2_bytes += SECTOR * touched;
    if kind == Kind::Load {
        counts.load_requests += 1;
        counts.load_sectors += touched;
        counts.load_sectors_least += least;
    } else {
        counts.store_requests += 1;
        counts.store_sectors += touched;
        counts.store_sectors_least += least;
    }
}

/// Copies without lanes: only their bytes count.
fn add_bulk(counts: &mut Counts, pieces: impl Iterator<Item = Piece>) {
    counts.l2_bytes += SECTOR * sectors(pieces.filter(|piece| piece.1 > 0).collect()).0;
}
