//! Column sums, the gradient of a bias: two stages of fixed order on devices with kernels (`kernels/common/column_tile.cuh`).

use super::{for_real, kernel, work};
use crate::Result;
use crate::autograd::{Parameters, Tape, Vector};
use crate::device::{Buffer, Device, Launch, cpu};

/// Adds the column sums of `x`, `rows` of `vector.len` elements whose starts are `stride` apart, to a vector of the gradients, unless it is frozen.
///
/// # Errors
/// None on the CPU.
pub fn column_sums(
    tape: &mut Tape,
    parameters: &mut Parameters,
    x: &Buffer,
    [rows, stride]: [usize; 2],
    vector: Vector,
) -> Result<()> {
    if !parameters.trains(vector.offset) {
        return Ok(());
    }
    let work = work::column_sums(rows, vector.len, tape.dtype().size());
    tape.count(work);
    if let Device::Cpu = tape.device() {
        for_real!(tape.dtype(), T => {
            cpu::add_column_sums(x.slice::<T>(), &mut parameters.gradients.slice_mut()[vector.range()]);
        });
        return Ok(());
    }
    let (tiles, parts) = tiles(rows, vector.len);
    let mut partials = tape.allocate_scratch(parts * vector.len)?;
    let launch = Launch::new(kernel("column_sums_partial", tape.dtype()), 1, 256).grid(tiles, parts, 1);
    let launch = launch.block(32, 8, 1).read(x).int(rows).int(vector.len).int(stride);
    tape.device().launch(&launch.work(work).write(&mut partials))?;
    add_parts(tape.device(), &partials, parts, &mut parameters.gradients, vector)?;
    tape.recycle(partials);
    Ok(())
}

/// The tiles of 256 columns, and the parts that the rows are cut into. The parts depend on the shape alone, so sums have the same
/// bits on any chip.
pub(super) fn tiles(rows: usize, columns: usize) -> (usize, usize) {
    let tiles = columns.div_ceil(256);
    // Some 1,000 blocks fill any chip; fewer than 16 rows a part are not worth a row of partial sums.
    (tiles, (1024 / tiles).clamp(1, rows.div_ceil(16).max(1)))
}

/// Adds the `parts` rows of `partials` to a vector of the gradients, unless it is frozen.
pub(super) fn add_parts(
    device: &Device,
    partials: &Buffer,
    parts: usize,
    gradients: &mut Buffer,
    vector: Vector,
) -> Result<()> {
    if vector.offset >= gradients.len() {
        return Ok(());
    }
    let work = work::sum_of_parts(parts, vector.len, gradients.dtype().size(), true);
    let launch = Launch::new("column_sums_finish_f32", vector.len.div_ceil(32), 256).block(32, 8, 1).work(work);
    device.launch(&launch.read(partials).int(parts).int(vector.len).write_at(gradients, vector.offset))
}
