//! The gate between the two products of a feed-forward block: `u = dropout(act(a) b)`, where a row of the input is `[a, b]`.

use super::{for_real, work};
use crate::Result;
use crate::autograd::Tape;
use crate::device::cpu::dropout::Dropout;
use crate::device::{Buffer, Device, cpu};

pub use crate::device::cpu::gated::Gate;

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
