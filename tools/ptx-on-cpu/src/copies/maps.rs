//! Tensor maps where kernels find them, and those that kernels make (PTX ISA, "tensormap.replace",
//! "tensormap.cp_fenceproxy").

use crate::clocks::Range;
use crate::fault::{Finding, InLane};
use crate::instruction::{Address, MapField, Operation};
use crate::machine::{Cluster, Flow, Place, Step, Warp};
use crate::memory::window;
use crate::registers::lanes;
use crate::syntax::Space;
use crate::tensor_map::{self, BYTES, RANK, Swizzle, TensorMap, field};

/// Bytes of an element by the number that `tensormap.replace.elemtype` has (PTX ISA, its table).
const ELEMENT_BYTES: [u8; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 4, 8, 2, 4, 4];

impl Cluster<'_> {
    /// The map at an address of a parameter, generic or not, or of global memory: copies take it from nowhere else.
    fn map_at(&mut self, address: u64, statement: u32) -> Result<TensorMap, Finding> {
        let space = if address >> 32 == 0 { Space::Param } else { Space::Generic };
        let mut bytes = [0; BYTES];
        // It is aligned to half its size.
        match self.place_of(space, address, BYTES / 2)? {
            Place::Param(offset) => {
                let Some(found) = self.launch.parameters.get(offset..offset + BYTES) else {
                    return Err(format!("a tensor map at parameter {offset:#x}, where none can be").into());
                };
                bytes.copy_from_slice(found);
            }
            Place::Global { .. } => self.read_bytes(address, &mut bytes, statement)?,
            Place::Shared { .. } | Place::Local(_) => {
                return Err("a copy with a tensor map in shared or local memory: copy it to global memory first".into());
            }
        }
        Ok(TensorMap::decode(&bytes)?)
    }

    /// The map that a lane's copy goes by, and the tile's coordinates: as many as the tensor has dimensions.
    pub fn tile_at(
        &mut self,
        warp: &Warp,
        (base, address): (u32, Address),
        coordinates: &[u32],
        lane: usize,
        step: &Step,
    ) -> Result<(TensorMap, Vec<i32>), Finding> {
        let map = self.map_at(warp.address(base, address, lane), step.statement()).in_lane(lane)?;
        let (rank, dims) = (coordinates.len(), map.dims.len());
        if rank != dims {
            return Err(format!("a copy of {rank} dimensions with the map of a tensor of {dims}")).in_lane(lane);
        }
        let at = coordinates.iter().map(|register| warp.registers.lane(*register, lane).cast_signed()).collect();
        Ok((map, at))
    }

    pub fn map_replace(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::MapReplace { field, index, space, address, wide } = *operation else { return Ok(Flow::Next) };
        let [base, value] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let value = match wide {
                true => warp.registers.wide_lane(value, lane),
                false => u64::from(warp.registers.lane(value, lane)),
            };
            let at = warp.address(base, address, lane);
            // Shared addresses also stand in 64-bit registers.
            let space = if space == Space::Global || at >> 32 != 0 { Space::Generic } else { Space::Shared };
            let mut map = [0; BYTES];
            match self.place_of(space, at, 128).in_lane(lane)? {
                Place::Shared { rank, offset } => {
                    map.copy_from_slice(&self.blocks[rank].shared[offset..][..BYTES]);
                    replace(&mut map, field, index, value).in_lane(lane)?;
                    self.blocks[rank].shared[offset..][..BYTES].copy_from_slice(&map);
                    self.see_write(warp, Range { block: rank, offset, bytes: BYTES }, false, step).in_lane(lane)?;
                }
                Place::Global { .. } => {
                    self.read_bytes(at, &mut map, step.statement()).in_lane(lane)?;
                    replace(&mut map, field, index, value).in_lane(lane)?;
                    self.write_bytes(at, &map, step.statement()).in_lane(lane)?;
                }
                _ => return Err("tensormap.replace works on global and shared memory").in_lane(lane),
            }
        }
        Ok(Flow::Next)
    }

    /// From shared to global memory.
    pub fn map_copy(&mut self, warp: &mut Warp, to: Address, from: Address, step: &Step) -> Result<Flow, Finding> {
        let [target, source] = step.registers[..] else { return Ok(Flow::Next) };
        for lane in lanes(step.mask) {
            let (to, from) = (warp.address(target, to, lane), warp.address(source, from, lane));
            let (rank, offset) = self.shared_place(window::to_shared(from), BYTES).in_lane(lane)?;
            let map = self.blocks[rank].shared[offset..][..BYTES].to_vec();
            self.write_bytes(to, &map, step.statement()).in_lane(lane)?;
        }
        Ok(Flow::Next)
    }
}

/// Sets one field of a map.
fn replace(map: &mut [u8; BYTES], what: MapField, index: u8, value: u64) -> Result<(), String> {
    tensor_map::mark(map);
    let index = index as usize;
    match what {
        MapField::Address => map[field::ADDRESS..][..8].copy_from_slice(&value.to_le_bytes()),
        MapField::Rank if value < RANK as u64 => map[field::RANK] = value as u8 + 1,
        MapField::Box => map[field::TILE + 4 * index..][..4].copy_from_slice(&(value as u32).to_le_bytes()),
        MapField::Dimension => {
            map[field::DIMS + 8 * index..][..8].copy_from_slice(&(value & 0xffff_ffff).to_le_bytes());
        }
        // The innermost stride is the element's size.
        MapField::Stride if index < 4 => {
            map[field::STRIDES + 8 * (index + 1)..][..8].copy_from_slice(&value.to_le_bytes());
        }
        MapField::ElementType => {
            let bytes = ELEMENT_BYTES.get(value as usize).ok_or(format!("element type {value} of a tensor map"))?;
            map[field::STRIDES..][..8].copy_from_slice(&u64::from(*bytes).to_le_bytes());
        }
        MapField::Swizzle => {
            Swizzle::from_number(value as u8).ok_or(format!("swizzle mode {value} of a tensor map"))?;
            map[field::SWIZZLE] = value as u8;
        }
        MapField::ElementStride if value == 1 => {}
        MapField::Interleave | MapField::Fill if value == 0 => {}
        _ => return Err(format!("{what:?} {value} of a tensor map is not supported")),
    }
    Ok(())
}
