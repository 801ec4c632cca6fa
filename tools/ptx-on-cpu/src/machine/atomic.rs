//! Atomic operations and reductions, on global and shared memory.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use half::{bf16, f16};

use super::access::{from_bytes, sign_extended};
use super::{Cluster, Flow, Place, Step, Warp};
use crate::clocks::Range;
use crate::fault::{Finding, InLane};
use crate::instruction::{Atomic, NONE, Number, Operation};
use crate::registers::lanes;

impl Cluster<'_> {
    /// Lanes one after another, as unordered as atomics are.
    pub(super) fn atomic(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::Atomic { space, operation, number, bytes, address, releases } = *operation else {
            return Ok(Flow::Next);
        };
        let bytes = bytes as usize;
        let [target, base, a, b] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let operand = |register: u32| match (register, bytes) {
                (NONE, _) => 0,
                (_, 8) => warp.registers.wide_lane(register, lane),
                _ => u64::from(warp.registers.lane(register, lane)),
            };
            let (a, b) = (operand(a), operand(b));
            let at = warp.address(base, address, lane);
            let change = |old: u64| combine(operation, number, bytes, old, a, b);
            let old = match self.place_of(space, at, bytes).in_lane(lane)? {
                Place::Global { region, offset } => {
                    let region = &self.launch.memory.regions[region];
                    if self.launch.settings.poison && !region.is_written(offset, bytes as u64) {
                        return Err(format!("atomic on global memory at {at:#x} that nobody wrote")).in_lane(lane);
                    }
                    region.mark_written(offset, bytes as u64);
                    if let Some(races) = &mut self.races {
                        races.synchronize(at, true, releases);
                    }
                    // SAFETY: place_of checked bounds and alignment.
                    unsafe { update_global(region.pointer(offset), bytes, change) }
                }
                Place::Shared { rank, offset } => {
                    self.visit(warp, rank).in_lane(lane)?;
                    let cell = &mut self.blocks[rank].shared[offset..][..bytes];
                    let old = from_bytes(cell);
                    cell.copy_from_slice(&change(old).to_le_bytes()[..bytes]);
                    if let Some(clocks) = &mut self.clocks {
                        let (range, reads) = (Range { block: rank, offset, bytes }, operation != Atomic::Exchange);
                        let seen = clocks.update(warp.id, range, reads, step.statement());
                        seen.map_err(|conflict| self.conflict(conflict)).in_lane(lane)?;
                    }
                    old
                }
                _ => return Err("atomics work on global and shared memory").in_lane(lane),
            };
            match (target, bytes) {
                (NONE, _) => {}
                (_, 8) => warp.registers.set_wide_lane(target, lane, old),
                _ => warp.registers.row_mut(target)[lane] = old as u32,
            }
        }
        Ok(Flow::Next)
    }
}

/// # Safety
/// `bytes` bytes may be read and written there, aligned to their number.
pub(crate) unsafe fn update_global(at: *mut u8, bytes: usize, change: impl Fn(u64) -> u64) -> u64 {
    macro_rules! update {
        ($atomic:ty, $bits:ty) => {{
            // SAFETY: the caller's.
            let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
            let result =
                cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(change(u64::from(old)) as $bits));
            u64::from(result.unwrap_or_else(|old| old))
        }};
    }
    match bytes {
        2 => update!(AtomicU16, u16),
        4 => update!(AtomicU32, u32),
        _ => update!(AtomicU64, u64),
    }
}

/// What an atomic operation leaves in memory.
pub(crate) fn combine(operation: Atomic, number: Number, bytes: usize, old: u64, a: u64, b: u64) -> u64 {
    let signed = |x: u64| sign_extended(x, bytes) as i64;
    let half = |old: u64, a: u64| {
        let (old, a) = (f16::from_bits(old as u16), f16::from_bits(a as u16));
        u64::from(f16::from_f32(float(operation, old.to_f32().into(), a.to_f32().into()) as f32).to_bits())
    };
    let brain = |old: u64, a: u64| {
        let (old, a) = (bf16::from_bits(old as u16), bf16::from_bits(a as u16));
        u64::from(bf16::from_f32(float(operation, old.to_f32().into(), a.to_f32().into()) as f32).to_bits())
    };
    match (operation, number) {
        (Atomic::Exchange, _) => a,
        (Atomic::CompareAndSwap, _) => {
            if old == a {
                b
            } else {
                old
            }
        }
        (Atomic::And, _) => old & a,
        (Atomic::Or, _) => old | a,
        (Atomic::Xor, _) => old ^ a,
        (_, Number::Float) if bytes == 8 => float(operation, f64::from_bits(old), f64::from_bits(a)).to_bits(),
        (Atomic::Add, Number::Float) => u64::from((f32::from_bits(old as u32) + f32::from_bits(a as u32)).to_bits()),
        (_, Number::Float) => {
            let value = float(operation, f32::from_bits(old as u32).into(), f32::from_bits(a as u32).into());
            u64::from((value as f32).to_bits())
        }
        (_, Number::Half) => half(old, a),
        (_, Number::HalfPair) => half(old & 0xffff, a & 0xffff) | half(old >> 16, a >> 16) << 16,
        (_, Number::Brain) => brain(old, a),
        (_, Number::BrainPair) => brain(old & 0xffff, a & 0xffff) | brain(old >> 16, a >> 16) << 16,
        (Atomic::Add, _) => old.wrapping_add(a),
        (Atomic::Min, Number::Signed) => signed(old).min(signed(a)) as u64,
        (Atomic::Max, Number::Signed) => signed(old).max(signed(a)) as u64,
        (Atomic::Min, _) => old.min(a),
        (Atomic::Max, _) => old.max(a),
        (Atomic::Increment, _) => {
            if old >= a {
                0
            } else {
                old + 1
            }
        }
        (Atomic::Decrement, _) => {
            if old == 0 || old > a {
                a
            } else {
                old - 1
            }
        }
    }
}

fn float(operation: Atomic, old: f64, a: f64) -> f64 {
    match operation {
        Atomic::Min => old.min(a),
        Atomic::Max => old.max(a),
        _ => old + a,
    }
}
