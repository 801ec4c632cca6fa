//! Rotary positions: queries and keys turned in place by angles that grow with their positions, before attention compares them.
//!
//! A bias in the queries and keys is a part of what is turned, so its gradient cannot be left to attention: the layer before is a
//! [`linear`](super::linear()), not a [`qkv`](super::qkv).

use std::rc::Rc;

use super::{deliver, for_real, work};
use crate::autograd::{DeviceBatch, Tape, Tensor};
use crate::device::{Buffer, Device, cpu};
use crate::{Error, Result};

/// `qkv`: `[total_tokens, 3 hidden]`, queries, keys and values, each head by head; it is consumed, and the result has its shape. In each
/// head of `d` elements of a query or key at position p of its sequence, the pair (j, j + d / 2) is turned by `p base^(-2 j / d)`
/// (Su et al., arXiv 2104.09864, the half-split form); values stay.
///
/// # Errors
/// [`Error::Usage`] for heads of an odd number of elements; those of the device.
pub fn rotary(tape: &mut Tape, batch: &Rc<DeviceBatch>, qkv: Tensor, heads: usize, base: f64) -> Result<Tensor> {
    let started = tape.start("rotary");
    let head_dim = qkv.columns / 3 / heads;
    if !head_dim.is_multiple_of(2) {
        return Err(Error::usage(
            format!("rotary positions in heads of {head_dim} elements"),
            "choose a hidden size and a number of heads that leave each head an even number of elements",
        ));
    }
    let mut y = tape.take_value(qkv);
    rotate(tape, batch, &mut y, heads, base, 1.0)?;
    let y = tape.push(y, qkv.rows, qkv.columns);

    let batch = Rc::clone(batch);
    tape.record("rotary", started, move |tape, _| {
        let mut dy = tape.take_gradient(y)?;
        if tape.wants_gradient(qkv) {
            rotate(tape, &batch, &mut dy, heads, base, -1.0)?;
        }
        deliver(tape, qkv, dy)
    });
    Ok(y)
}

fn rotate(tape: &mut Tape, batch: &DeviceBatch, values: &mut Buffer, heads: usize, base: f64, sign: f64) -> Result<()> {
    let rows = batch.positions.len();
    tape.count(work::rotary(rows, values.len() / rows.max(1), tape.dtype().size()));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            cpu::rotary::rotate::<T>(values.slice_mut(), batch.positions.slice(), heads, base, sign);
        }),
        Device::Kernels(_) => return Err(super::not_yet_on_a_gpu("rotary positions")),
    }
    Ok(())
}
