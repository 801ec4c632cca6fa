//! Loads and stores in every state space.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::{Cluster, Flow, Step, Warp};
use crate::clocks::Range;
use crate::fault::{Finding, InLane};
use crate::instruction::Operation;
use crate::memory::window;
use crate::races::Touch;
use crate::registers::lanes;
use crate::syntax::Space;

/// Where an address leads.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Region and offset.
    Global {
        region: usize,
        offset: u64,
    },
    /// Rank of the block and offset.
    Shared {
        rank: usize,
        offset: usize,
    },
    Param(usize),
    /// In the lane's own.
    Local(usize),
}

/// Reads with the width of the access, as one access: others may write at the same time.
///
/// # Safety
/// `bytes` bytes may be read there, aligned to their number.
pub(crate) unsafe fn read_global(from: *const u8, bytes: usize) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        match bytes {
            1 => u64::from(AtomicU8::from_ptr(from.cast_mut()).load(Ordering::Relaxed)),
            2 => u64::from(AtomicU16::from_ptr(from.cast_mut().cast()).load(Ordering::Relaxed)),
            4 => u64::from(AtomicU32::from_ptr(from.cast_mut().cast()).load(Ordering::Relaxed)),
            _ => AtomicU64::from_ptr(from.cast_mut().cast()).load(Ordering::Relaxed),
        }
    }
}

/// Writes in the same way.
///
/// # Safety
/// `bytes` bytes may be written there, aligned to their number.
pub(crate) unsafe fn write_global(to: *mut u8, bytes: usize, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(to).store(value as u8, Ordering::Relaxed),
            2 => AtomicU16::from_ptr(to.cast()).store(value as u16, Ordering::Relaxed),
            4 => AtomicU32::from_ptr(to.cast()).store(value as u32, Ordering::Relaxed),
            _ => AtomicU64::from_ptr(to.cast()).store(value, Ordering::Relaxed),
        }
    }
}

pub(super) fn from_bytes(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

pub(super) fn sign_extended(value: u64, bytes: usize) -> u64 {
    let unused = 64 - 8 * bytes as u32;
    ((value << unused) as i64 >> unused) as u64
}

impl Cluster<'_> {
    /// Finds an access of `bytes` bytes, which must be aligned to their number.
    #[inline]
    pub fn place_of(&mut self, space: Space, address: u64, bytes: usize) -> Result<Place, Finding> {
        let (space, address) = match (space, address >> 32) {
            (Space::Generic, 1) => (Space::Shared, address ^ window::SHARED),
            (Space::Generic, 2) => (Space::Param, address ^ window::PARAM),
            (Space::Generic, 3) => (Space::Local, address ^ window::LOCAL),
            (Space::Generic, _) => (Space::Global, address),
            // Addresses of the space, or generic ones that were never converted back.
            (Space::Param, 2) => (Space::Param, address ^ window::PARAM),
            other => (other.0, address),
        };
        if bytes.is_power_of_two() && address & (bytes as u64 - 1) != 0 {
            return Err(format!("access of {bytes} bytes at {address:#x}, which is not aligned to {bytes}").into());
        }
        Ok(match space {
            Space::Generic | Space::Global => {
                let regions = &self.launch.memory.regions;
                let inside = |region: &crate::memory::Region| {
                    address >= region.base && address - region.base + bytes as u64 <= region.bytes
                };
                if !regions.get(self.region).is_some_and(|region| inside(region)) {
                    self.region = self.launch.memory.find(address, bytes as u64)?;
                }
                Place::Global { region: self.region, offset: address - regions[self.region].base }
            }
            Space::Shared => {
                let (rank, offset) = self.shared_place(address, bytes)?;
                Place::Shared { rank, offset }
            }
            Space::Param => {
                let size = self.launch.parameters.len();
                if address >= size as u64 || address as usize + bytes > size {
                    return Err(format!("access of {bytes} bytes at parameter {address:#x}, of {size} bytes").into());
                }
                Place::Param(address as usize)
            }
            Space::Local => {
                let size = self.launch.code.local_bytes;
                if address >= size as u64 || address as usize + bytes > size {
                    return Err(format!("access of {bytes} bytes at local {address:#x}, of {size} bytes").into());
                }
                Place::Local(address as usize)
            }
        })
    }

    pub(super) fn load(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::Load { space, strong, bytes, signed, wide, count, address } = *operation else {
            return Ok(Flow::Next);
        };
        let (bytes, count) = (bytes as usize, count as usize);
        let base = step.registers[count];
        let mut values = [0u64; 8];
        for lane in lanes(step.mask) {
            let at = warp.address(base, address, lane);
            let place = self.place_of(space, at, bytes * count).in_lane(lane)?;
            let values = &mut values[..count];
            match place {
                Place::Global { region, offset } => {
                    match &mut self.races {
                        Some(races) if strong => races.synchronize(at, false, false),
                        _ => self.touch(at, bytes * count, Touch::Read, step.statement()).in_lane(lane)?,
                    }
                    let region = &self.launch.memory.regions[region];
                    if self.launch.settings.poison && !region.is_written(offset, (bytes * count) as u64) {
                        let text =
                            format!("reads {} bytes of global memory at {at:#x} that nobody wrote", bytes * count);
                        return Err(text).in_lane(lane);
                    }
                    for (number, value) in values.iter_mut().enumerate() {
                        // SAFETY: place_of checked bounds and alignment; kernels' accesses are atomic.
                        *value = unsafe { read_global(region.pointer(offset + (number * bytes) as u64), bytes) };
                    }
                }
                Place::Shared { rank, offset } => {
                    self.visit(warp, rank).in_lane(lane)?;
                    self.see_read(warp, Range { block: rank, offset, bytes: bytes * count }, step).in_lane(lane)?;
                    let from = &self.blocks[rank].shared[offset..][..bytes * count];
                    values.iter_mut().zip(from.chunks(bytes)).for_each(|(value, bytes)| *value = from_bytes(bytes));
                }
                Place::Param(offset) => {
                    let from = &self.launch.parameters[offset..][..bytes * count];
                    values.iter_mut().zip(from.chunks(bytes)).for_each(|(value, bytes)| *value = from_bytes(bytes));
                }
                Place::Local(offset) => {
                    let from = &warp.local[lane * self.launch.code.local_bytes + offset..][..bytes * count];
                    values.iter_mut().zip(from.chunks(bytes)).for_each(|(value, bytes)| *value = from_bytes(bytes));
                }
            }
            for (value, register) in values.iter().zip(step.registers) {
                let value = if signed { sign_extended(*value, bytes) } else { *value };
                if wide {
                    warp.registers.set_wide_lane(*register, lane, value);
                } else {
                    warp.registers.row_mut(*register)[lane] = value as u32;
                }
            }
        }
        Ok(Flow::Next)
    }

    pub(super) fn store(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::Store { space, strong, releases, bytes, wide, count, address } = *operation else {
            return Ok(Flow::Next);
        };
        let (bytes, count) = (bytes as usize, count as usize);
        let base = step.registers[0];
        let length = bytes * count;
        let mut stored = Vec::new();
        for lane in lanes(step.mask) {
            let at = warp.address(base, address, lane);
            let place = self.place_of(space, at, length).in_lane(lane)?;
            let mut content = [0; 64];
            for (number, register) in step.registers[1..].iter().enumerate() {
                let value = if wide {
                    warp.registers.wide_lane(*register, lane)
                } else {
                    u64::from(warp.registers.lane(*register, lane))
                };
                content[number * bytes..][..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            }
            if self.hazards() && !matches!(place, Place::Local(_)) {
                stored.push((at, lane, content));
            }
            let content = &content[..length];
            match place {
                Place::Global { region, offset } => {
                    let region = &self.launch.memory.regions[region];
                    match &mut self.races {
                        Some(races) if strong => races.synchronize(at, true, releases),
                        Some(_) => {
                            let old = content.chunks(bytes).enumerate().map(|(number, _)| {
                                // SAFETY: place_of checked bounds and alignment.
                                unsafe { read_global(region.pointer(offset + (number * bytes) as u64), bytes) }
                            });
                            let same = old.eq(content.chunks(bytes).map(from_bytes));
                            let touch = if same { Touch::Same } else { Touch::Write };
                            self.touch(at, length, touch, step.statement()).in_lane(lane)?;
                        }
                        None => {}
                    }
                    for (number, element) in content.chunks(bytes).enumerate() {
                        let to = region.pointer(offset + (number * bytes) as u64);
                        // SAFETY: place_of checked bounds and alignment; kernels' accesses are atomic.
                        unsafe { write_global(to, bytes, from_bytes(element)) };
                    }
                    region.mark_written(offset, length as u64);
                }
                Place::Shared { rank, offset } => {
                    self.visit(warp, rank).in_lane(lane)?;
                    let target = &mut self.blocks[rank].shared[offset..][..length];
                    let same = target == content;
                    target.copy_from_slice(content);
                    self.see_write(warp, Range { block: rank, offset, bytes: length }, same, step).in_lane(lane)?;
                }
                Place::Local(offset) => {
                    let start = lane * self.launch.code.local_bytes + offset;
                    warp.local[start..][..length].copy_from_slice(content);
                }
                Place::Param(_) => return Err("writes a parameter of the kernel").in_lane(lane),
            }
        }
        self.see_lanes(warp, stored, step);
        Ok(Flow::Next)
    }

    /// Warns of lanes that store different values in one place: which one stays there is undefined (CUDA C++ Programming Guide,
    /// "SIMT Architecture"). Accesses are aligned to their size, so that two that overlap have one address.
    fn see_lanes(&mut self, warp: &Warp, mut stored: Vec<(u64, usize, [u8; 64])>, step: &Step) {
        stored.sort_by_key(|(at, ..)| *at);
        let differ = stored.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].2 != pair[1].2);
        if let Some([(at, lane, _), (_, other, _)]) = differ
            && !self.warnings.contains_key(&step.statement())
        {
            let text = format!("stores another value at {at:#x} than lane {other}: which one stays is undefined");
            let warning = self.place(warp, step.statement(), Finding { text, lane: Some(*lane) });
            self.warnings.insert(step.statement(), warning);
        }
    }

    /// A plain read of shared memory, for the clocks.
    #[inline]
    pub fn see_read(&mut self, warp: &Warp, range: Range, step: &Step) -> Result<(), Finding> {
        let Some(clocks) = &mut self.clocks else { return Ok(()) };
        let until = clocks.plain_read(warp.id);
        clocks.read(warp.id, range, until, step.statement()).map_err(|conflict| self.conflict(conflict))
    }

    /// A plain write of shared memory, for the clocks; perhaps of what was there already.
    #[inline]
    pub fn see_write(&mut self, warp: &Warp, range: Range, same: bool, step: &Step) -> Result<(), Finding> {
        let Some(clocks) = &mut self.clocks else { return Ok(()) };
        clocks.write(warp.id, range, same, step.statement()).map_err(|conflict| self.conflict(conflict))
    }
}
