//! Dropout that stands alone: after the embeddings and before a classifier. `x` stays: tanh, for one, needs its output to
//! go back.

use super::{deliver, for_real, groups, kernel, work};
use crate::Result;
use crate::autograd::{Tape, Tensor};
use crate::device::cpu::dropout::{Dropout, DropoutArgument};
use crate::device::{Buffer, Device, Launch, cpu};

/// Drops elements of `x` with probability `p` and scales the others; `x` itself when nothing is dropped.
///
/// # Errors
/// None on the CPU.
pub fn dropout(tape: &mut Tape, x: Tensor, p: f64) -> Result<Tensor> {
    let Some(dropout) = tape.dropout(p) else { return Ok(x) };
    let started = tape.start("dropout");
    let mut y = tape.allocate(x.rows * x.columns)?;
    y.copy_from(tape.device(), tape.value(x))?;
    apply(tape, &mut y, dropout)?;
    let y = tape.push(y, x.rows, x.columns);

    tape.record("dropout", started, move |tape, _| {
        let mut dy = tape.take_gradient(y)?;
        if tape.wants_gradient(x) {
            apply(tape, &mut dy, dropout)?;
        }
        deliver(tape, x, dy)
    });
    Ok(y)
}

/// `values *= mask`.
pub(super) fn apply(tape: &mut Tape, values: &mut Buffer, dropout: Dropout) -> Result<()> {
    let work = work::dropout(values.len(), tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => cpu::dropout::apply(values.slice_mut::<T>(), &dropout)),
        device => {
            let count = values.len();
            let launch =
                Launch::new(kernel("dropout_apply", tape.dtype()), groups(count), 256).write(values).long(count);
            device.launch(&launch.work(work).value(DropoutArgument::of(Some(dropout))))?;
        }
    }
    Ok(())
}
