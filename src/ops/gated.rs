//! The gate between the two products of a feed-forward block: `u = dropout(act(a) b)`, where a row of the input is `[a, b]`.

use super::{deliver, for_real, work};
use crate::Result;
use crate::autograd::{Tape, Tensor};
use crate::device::cpu::dropout::Dropout;
use crate::device::{Buffer, Device, cpu};

pub use crate::device::cpu::gated::Gate;

/// `dropout(act(a) b)`, `[rows, inner]`, of `[a, b]`, `[rows, 2 inner]`, where something stands between `x` and the product before it. `x` is
/// consumed: its memory becomes its gradient on the way back.
///
/// # Errors
/// Those of the device.
pub fn gated(tape: &mut Tape, x: Tensor, gate: Gate, dropout: f64) -> Result<Tensor> {
    let started = tape.start("gated");
    let (rows, inner) = (x.rows, x.columns / 2);
    let dropout = tape.dropout(dropout);
    let halves = tape.take_value(x);
    let mut u = tape.allocate(rows * inner)?;
    gated_forward(tape, &halves, inner, gate, dropout, &mut u)?;
    let halves = tape.push(halves, rows, 2 * inner);
    let u = tape.push(u, rows, inner);

    tape.record("gated", started, move |tape, _| {
        let (mut du, mut dx) = (tape.take_gradient(u)?, tape.take_value(halves));
        gated_backward(tape, &mut dx, inner, gate, dropout, &mut du)?;
        tape.recycle(du);
        deliver(tape, x, dx)
    });
    Ok(u)
}

/// Writes `u` (`[rows, inner]`) from `x` (`[rows, 2 inner]`).
///
/// # Errors
/// Those of the device.
pub fn gated_forward(
    tape: &mut Tape,
    x: &Buffer,
    inner: usize,
    gate: Gate,
    dropout: Option<Dropout>,
    u: &mut Buffer,
) -> Result<()> {
    tape.count(work::gated_forward(u.len(), tape.dtype().size(), gate));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            cpu::gated::forward::<T>(gate, x.slice(), inner, dropout, u.slice_mut());
        }),
        Device::Kernels(_) => return Err(super::not_yet_on_a_gpu("a gated feed-forward block")),
    }
    Ok(())
}

/// The gradient of `x` (`[rows, 2 inner]`) in its place, from that of `u` (`[rows, inner]`), which is changed.
///
/// # Errors
/// Those of the device.
pub fn gated_backward(
    tape: &mut Tape,
    x: &mut Buffer,
    inner: usize,
    gate: Gate,
    dropout: Option<Dropout>,
    du: &mut Buffer,
) -> Result<()> {
    tape.count(work::gated_backward(du.len(), tape.dtype().size(), gate));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            cpu::gated::backward::<T>(gate, x.slice_mut(), inner, dropout, du.slice_mut());
        }),
        Device::Kernels(_) => return Err(super::not_yet_on_a_gpu("a gated feed-forward block")),
    }
    Ok(())
}
