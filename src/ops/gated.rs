//! The gate between the two products of a feed-forward block: `u = dropout(act(a) b)`, where a row of the input is `[a, b]`.

use super::column_sums::tiles;
use super::{deliver, for_real, kernel, work};
use crate::Result;
use crate::autograd::{Tape, Tensor};
use crate::device::cpu::dropout::{Dropout, DropoutArgument};
use crate::device::{Buffer, DType, Device, Launch, cpu};

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
    let work = work::gated_forward(u.len(), tape.dtype().size(), gate);
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            cpu::gated::forward::<T>(gate, x.slice(), inner, dropout, u.slice_mut());
        }),
        device => {
            let rows = u.len() / inner;
            let launch = launch(gate, "forward", tape.dtype(), rows, inner).work(work).read(x).write(u);
            device.launch(&launch.int(rows).int(inner).value(DropoutArgument::of(dropout)))?;
        }
    }
    Ok(())
}

/// The gradient of `x` (`[rows, 2 inner]`) in its place, from that of `u` (`[rows, inner]`), which is of no use afterwards.
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
    let work = work::gated_backward(du.len(), tape.dtype().size(), gate);
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            cpu::gated::backward::<T>(gate, x.slice_mut(), inner, dropout, du.slice_mut());
        }),
        device => {
            let rows = du.len() / inner;
            let launch = launch(gate, "backward", tape.dtype(), rows, inner).work(work).write(x).read(du);
            device.launch(&launch.int(rows).int(inner).value(DropoutArgument::of(dropout)))?;
        }
    }
    Ok(())
}

fn launch(gate: Gate, pass: &str, dtype: DType, rows: usize, inner: usize) -> Launch {
    let gate = match gate {
        Gate::Gelu => "gelu",
        Gate::Silu => "silu",
    };
    let (tiles, parts) = tiles(rows, inner);
    Launch::new(kernel(&format!("gated_{gate}_{pass}"), dtype), 1, 256).grid(tiles, parts, 1).block(32, 8, 1)
}
