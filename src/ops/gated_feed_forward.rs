//! `y = dropout(act(x A^T) * (x B^T)) W^T`: the feed-forward block of an encoder layer with a gate (Shazeer, arXiv 2002.05202), but for a
//! last bias, which LayerNorm or the residual adds.
//!
//! A and B are the halves of one matrix, so one product computes both. Its result is kept, and becomes its own gradient on the way back.

use super::product::{self, OutputGradient};
use super::{Gate, gated_backward, gated_forward};
use crate::Result;
use crate::autograd::{Matrix, Parameters, Tape, Tensor};

/// `x`: `[rows, in]`; `up`: `[2 inner, in]`, of which the first half goes through the activation; `down`: `[out, inner]`; the result is
/// `[rows, out]`. `dropout` is the probability with which elements between the gate and `down` are dropped.
///
/// # Errors
/// Those of the device.
pub fn gated_feed_forward(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    up: Matrix,
    down: Matrix,
    gate: Gate,
    dropout: f64,
) -> Result<Tensor> {
    let started = tape.start("gated_feed_forward");
    let (rows, inner, output) = (x.rows, down.columns, down.rows);
    assert_eq!(up.rows, 2 * inner, "gated_feed_forward: the first matrix is not twice as wide as the second takes");
    let dropout = tape.dropout(dropout);
    let mut halves = tape.allocate(rows * 2 * inner)?;
    product::forward(tape, parameters, x, up, None, (&mut halves, 2 * inner))?;
    let mut gated = tape.allocate(rows * inner)?;
    gated_forward(tape, &halves, inner, gate, dropout, &mut gated)?;
    let halves = tape.push(halves, rows, 2 * inner);
    let gated = tape.push(gated, rows, inner);
    let mut y = tape.allocate(rows * output)?;
    product::forward(tape, parameters, gated, down, None, (&mut y, output))?;
    let y = tape.push(y, rows, output);

    tape.record("gated_feed_forward", started, move |tape, parameters| {
        let values = tape.take_gradient(y)?;
        let dy = OutputGradient { values: &values, rows, stride: output };
        product::parameter_gradients(tape, parameters, dy, gated, down, None)?;
        // Nobody reads it any more, and the gradient that comes next is as large.
        let value = tape.take_value(gated);
        tape.recycle(value);
        product::deliver_input_gradient(tape, parameters, dy, down, gated)?;
        tape.recycle(values);
        let (mut d_gated, mut d_halves) = (tape.take_gradient(gated)?, tape.take_value(halves));
        gated_backward(tape, &mut d_halves, inner, gate, dropout, &mut d_gated)?;
        tape.recycle(d_gated);
        let dy = OutputGradient { values: &d_halves, rows, stride: 2 * inner };
        product::deliver_input_gradient(tape, parameters, dy, up, x)?;
        product::parameter_gradients(tape, parameters, dy, x, up, None)?;
        tape.recycle(d_halves);
        Ok(())
    });
    Ok(y)
}
