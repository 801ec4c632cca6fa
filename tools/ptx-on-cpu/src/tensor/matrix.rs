//! `ldmatrix` and `stmatrix` (PTX ISA, same names): 8 x 8 matrices of 16-bit elements, a row of 16 bytes a lane's address.

use crate::clocks::Range;
use crate::fault::{Finding, InLane};
use crate::instruction::Operation;
use crate::machine::{Cluster, Flow, Place, Step, Warp};
use crate::rows::LANES;
use crate::syntax::Space;

impl Cluster<'_> {
    /// Where the row of 16 bytes is that a lane's address names.
    fn matrix_row(&mut self, address: u64, lane: usize) -> Result<Range, Finding> {
        let space = if address >> 32 == 0 { Space::Shared } else { Space::Generic };
        match self.place_of(space, address, 16).in_lane(lane)? {
            Place::Shared { rank, offset } => Ok(Range { block: rank, offset, bytes: 16 }),
            _ => Err("a matrix must be in shared memory").in_lane(lane),
        }
    }

    pub fn load_matrix(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::LoadMatrix { transpose, count, address } = *operation else { return Ok(Flow::Next) };
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return Ok(flow);
        }
        let count = count as usize;
        let base = step.registers[count];
        let mut rows = [[0u16; 8]; LANES];
        for (lane, row) in rows.iter_mut().enumerate().take(8 * count) {
            let range = self.matrix_row(warp.address(base, address, lane), lane)?;
            self.see_read(warp, range, step).in_lane(lane)?;
            self.see_other_lane(warp, usize::MAX, range, step);
            let bytes = &self.blocks[range.block].shared[range.offset..][..16];
            for (value, bytes) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = u16::from_le_bytes([bytes[0], bytes[1]]);
            }
        }
        for (number, register) in step.registers[..count].iter().enumerate() {
            let matrix = &rows[8 * number..][..8];
            let target = warp.registers.row_mut(*register);
            for (lane, word) in target.iter_mut().enumerate() {
                let (group, pair) = (lane / 4, 2 * (lane % 4));
                let [low, high] = if transpose {
                    [matrix[pair][group], matrix[pair + 1][group]]
                } else {
                    [matrix[group][pair], matrix[group][pair + 1]]
                };
                *word = u32::from(low) | u32::from(high) << 16;
            }
        }
        Ok(Flow::Next)
    }

    pub fn store_matrix(&mut self, warp: &mut Warp, operation: &Operation, step: &Step) -> Result<Flow, Finding> {
        let Operation::StoreMatrix { transpose, address, .. } = *operation else { return Ok(Flow::Next) };
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return Ok(flow);
        }
        let base = step.registers[0];
        for (number, register) in step.registers[1..].iter().enumerate() {
            let words = *warp.registers.row(*register);
            for row in 0..8 {
                let lane = 8 * number + row;
                let range = self.matrix_row(warp.address(base, address, lane), lane)?;
                let bytes = &mut self.blocks[range.block].shared[range.offset..][..16];
                for (column, bytes) in bytes.chunks_exact_mut(2).enumerate() {
                    let (first, second) = if transpose { (column, row) } else { (row, column) };
                    let word = words[4 * first + second / 2];
                    bytes.copy_from_slice(&((word >> (16 * (second % 2))) as u16).to_le_bytes());
                }
                self.see_write(warp, range, false, step).in_lane(lane)?;
                if self.hazards() {
                    self.lanes.store(warp.id, lane, range, step.statement());
                }
            }
        }
        Ok(Flow::Next)
    }
}
