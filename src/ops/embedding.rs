//! The sum of word, position and type embeddings, and the deterministic sums that flow back into the tables.

use std::rc::Rc;

use super::{for_real, kernel, kernel_to_f32, work};
use crate::Result;
use crate::autograd::{DeviceBatch, Matrix, Parameters, Tape, Tensor};
use crate::device::{Buffer, DType, Device, Launch, cpu};

/// What a look-up does beside adding rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Embedding {
    /// The row of the word table that learns nothing from being looked up, as PyTorch's `padding_idx`.
    pub padding: Option<usize>,
    /// The id of `<mask>`, where words have ESM's token dropout: a masked token has none, and those of the others are multiplied with
    /// `0.88 / (1 - masked / length)` of their sequence, when predicting as well. Positions and types are added as they are.
    pub hidden_by: Option<i32>,
}

/// `tables` are the word, position and type embeddings, those that there are, `[entries, hidden]` each; the result is
/// `[total_tokens, hidden]`.
///
/// # Errors
/// None on the CPU.
///
/// # Panics
/// If there is no table: a fault of the caller, never of input.
pub fn embedding(
    tape: &mut Tape,
    parameters: &Parameters,
    batch: &Rc<DeviceBatch>,
    tables: [Option<Matrix>; 3],
    options: Embedding,
) -> Result<Tensor> {
    let started = tape.start("embedding");
    let largest = tables.iter().flatten().max_by_key(|table| table.rows).expect("an embedding has a table");
    let (rows, hidden, entries) = (batch.tokens.len(), largest.columns, largest.rows);
    let scales = options.hidden_by.map(|mask| token_dropout(tape, batch, mask)).transpose()?;
    let mut y = tape.allocate(rows * hidden)?;
    let work = work::embedding_forward(rows, hidden, entries, tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let tables = tables.map(|table| Some(&parameters.values.slice::<T>()[table?.range()]));
            let scales = scales.map(|scales| tape.value(scales).slice());
            cpu::embedding::forward(tables, indices(batch).map(Buffer::slice), scales, hidden, y.slice_mut());
        }),
        device => {
            let mut launch = Launch::new(kernel("embedding_forward", tape.dtype()), rows.div_ceil(8).max(1), 256);
            for table in tables {
                let Some(table) = table else { return Err(super::not_yet_on_a_gpu("an embedding of fewer tables")) };
                launch = launch.read_at(&parameters.values, table.offset);
            }
            for indices in indices(batch) {
                launch = launch.read(indices);
            }
            device.launch(&launch.work(work).int(rows).int(hidden).write(&mut y))?;
        }
    }
    let y = tape.push(y, rows, hidden);

    let batch = Rc::clone(batch);
    tape.record("embedding", started, move |tape, parameters| {
        let dy = tape.take_gradient(y)?;
        // What belongs to words alone.
        let details = [(scales, options.padding), (None, None), (None, None)];
        for ((table, indices), (scales, padding)) in tables.into_iter().zip(indices(&batch)).zip(details) {
            let Some(table) = table else { continue };
            let (element, gradient) = (tape.dtype().size(), parameters.gradients.dtype().size());
            tape.count(work::embedding_backward(rows, hidden, table.rows, element, gradient));
            match tape.device() {
                Device::Cpu => for_real!(tape.dtype(), T => {
                    let d_table = &mut parameters.gradients.slice_mut::<T>()[table.range()];
                    let scales = scales.map(|scales| tape.value(scales).slice());
                    cpu::embedding::backward::<T>(dy.slice(), indices.slice(), scales, padding, hidden, d_table);
                }),
                Device::Kernels(_) => add_to_table(tape, &dy, indices, table, padding, &mut parameters.gradients)?,
            }
        }
        tape.recycle(dy);
        Ok(())
    });
    Ok(y)
}

/// What each token's word is multiplied with, `[total_tokens, 1]`.
fn token_dropout(tape: &mut Tape, batch: &DeviceBatch, mask: i32) -> Result<Tensor> {
    let rows = batch.tokens.len();
    let mut scales = tape.allocate_scratch(rows)?;
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let (tokens, cu_seqlens) = (batch.tokens.slice(), batch.cu_seqlens.slice());
            cpu::embedding::token_dropout::<T>(tokens, cu_seqlens, mask, scales.slice_mut());
        }),
        Device::Kernels(_) => return Err(super::not_yet_on_a_gpu("token dropout")),
    }
    Ok(tape.push(scales, rows, 1))
}

fn indices(batch: &DeviceBatch) -> [&Buffer; 3] {
    [&batch.tokens, &batch.positions, &batch.token_types]
}

/// `d_table[indices[t]] += dy[t]`: a stable counting sort of the tokens by entry, then sums over the sorted list.
fn add_to_table(
    tape: &mut Tape,
    dy: &Buffer,
    indices: &Buffer,
    table: Matrix,
    padding: Option<usize>,
    gradients: &mut Buffer,
) -> Result<()> {
    let (total, entries, hidden) = (indices.len(), table.rows, table.columns);
    let (tiles, chunks, columns) = (total.div_ceil(256), total.div_ceil(64), hidden.div_ceil(256));
    let mut counts = tape.allocate_as(entries * tiles, DType::I32)?;
    let mut starts = tape.allocate_as(entries + 1, DType::I32)?;
    let mut order = tape.allocate_as(total, DType::I32)?;
    let mut partials = tape.allocate_scratch(chunks * 2 * hidden)?;
    counts.fill_zero()?;

    let device = tape.device();
    let [count, prefix, start, place] = work::embedding_sort(total, entries, tiles);
    let launch = Launch::new("embedding_sort_count", tiles, 256).work(count).read(indices).int(total).int(tiles);
    device.launch(&launch.write(&mut counts))?;
    let launch = Launch::new("embedding_sort_prefix", entries.div_ceil(8), 256).work(prefix).write(&mut counts);
    device.launch(&launch.int(entries).int(tiles).write(&mut starts))?;
    let launch = Launch::new("embedding_sort_starts", 1, 1024).work(start);
    device.launch(&launch.write(&mut starts).int(entries))?;
    let launch = Launch::new("embedding_sort_place", tiles, 256).work(place).read(indices).int(total).int(tiles);
    device.launch(&launch.read(&counts).read(&starts).write(&mut order))?;

    let sorted = |launch: Launch| launch.read(indices).read(&order).read(&starts).int(total).int(hidden);
    let padding = padding.map_or(-1, |entry| entry as i32);
    let name = kernel_to_f32("embedding_backward", tape.dtype());
    let launch = Launch::new(name, 1, 256).grid(columns, chunks.div_ceil(8), 1).block(32, 8, 1).read(dy);
    let work = work::embedding_backward(total, hidden, entries, tape.dtype().size(), gradients.dtype().size());
    let launch = sorted(launch.work(work)).value(padding).write_at(gradients, table.offset);
    device.launch(&launch.write(&mut partials))?;
    let launch = Launch::new("embedding_finish_f32", 1, 256).grid(columns, chunks, 1).block(32, 8, 1).read(&partials);
    let launch = launch.work(work::embedding_finish(chunks, hidden));
    device.launch(&sorted(launch).value(padding).write_at(gradients, table.offset))?;
    [counts, starts, order, partials].into_iter().for_each(|buffer| tape.recycle(buffer));
    Ok(())
}
