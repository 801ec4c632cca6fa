//! `z = residual + dropout(x + bias)`, the end of a block that no LayerNorm follows. `x` is consumed.

use super::column_sums::column_sums;
use super::dropout::apply;
use super::{Summands, deliver, for_real, work};
use crate::Result;
use crate::autograd::{Parameters, Tape, Tensor};
use crate::device::{Device, cpu};

/// `x`: `[rows, columns]`; the result has its shape.
///
/// # Errors
/// Those of the device.
pub fn residual(tape: &mut Tape, parameters: &Parameters, x: Tensor, summands: Summands) -> Result<Tensor> {
    let started = tape.start("residual");
    summands.check(x);
    let Summands { bias, residual, dropout } = summands;
    let dropout = tape.dropout(dropout);
    let mut z = tape.take_value(x);
    tape.count(work::residual(x.rows, x.columns, tape.dtype().size(), residual.is_some()));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let bias = bias.map(|bias| &parameters.values.slice::<T>()[bias.range()]);
            let residual = residual.map(|residual| tape.value(residual).slice());
            let summands = cpu::layernorm::Summands { bias, residual, dropout };
            cpu::residual::forward(z.slice_mut(), x.columns, summands);
        }),
        Device::Kernels(_) => return Err(super::not_yet_on_a_gpu("a residual without LayerNorm")),
    }
    let z = tape.push(z, x.rows, x.columns);

    tape.record("residual", started, move |tape, parameters| {
        let mut dx = tape.take_gradient(z)?;
        if let Some(residual) = residual.filter(|&residual| tape.wants_gradient(residual)) {
            let mut dz = tape.allocate(x.rows * x.columns)?;
            dz.copy_from(tape.device(), &dx)?;
            deliver(tape, residual, dz)?;
        }
        if let Some(dropout) = dropout {
            apply(tape, &mut dx, dropout)?;
        }
        if let Some(bias) = bias {
            column_sums(tape, parameters, &dx, [x.rows, x.columns], bias)?;
        }
        deliver(tape, x, dx)
    });
    Ok(z)
}
