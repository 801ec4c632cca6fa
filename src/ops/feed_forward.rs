//! `y = gelu(x U^T + a) W^T`: the feed-forward block of an encoder layer, but for its last bias, which LayerNorm adds.
//!
//! One operation, so that on the way back GELU's derivative is part of the product before it. `x U^T` is kept, and GELU's output, or
//! that is computed again (as in llm.c, `-r 1`): one pass more over a tensor of the inner size, for a quarter of a layer's memory.

use super::product::{self, OutputGradient};
use super::{Gelu, bias_gelu_forward};
use crate::Result;
use crate::autograd::{Matrix, Parameters, Tape, Tensor, Vector};

/// What becomes of GELU's output until the gradient of the weight behind it needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activated {
    /// It stays in memory.
    Kept,
    /// It is computed again, bit for bit, into memory that all layers share.
    Again,
}

/// `x`: `[rows, in]`; `up`: `[inner, in]` and `[inner]`; `down`: `[out, inner]`; the result is `[rows, out]`.
///
/// # Errors
/// Those of the device.
pub fn feed_forward(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    up: (Matrix, Vector),
    down: Matrix,
    gelu: Gelu,
    fate: Activated,
) -> Result<Tensor> {
    let started = tape.start("feed_forward");
    let (rows, inner, output) = (x.rows, up.0.rows, down.rows);
    let mut kept = tape.allocate(rows * inner)?;
    let mut activated = match fate {
        Activated::Kept => tape.allocate(rows * inner)?,
        Activated::Again => tape.allocate_aside(rows * inner)?,
    };
    product::forward_gelu(tape, parameters, x, up, gelu, &mut kept, &mut activated)?;
    let kept = tape.push(kept, rows, inner);
    let activated = tape.push(activated, rows, inner);
    let mut y = tape.allocate(rows * output)?;
    product::forward(tape, parameters, activated, down, None, (&mut y, output))?;
    let y = tape.push(y, rows, output);
    if fate == Activated::Again {
        let value = tape.take_value(activated);
        tape.lay_aside(value);
    }

    tape.record("feed_forward", started, move |tape, parameters| {
        let values = tape.take_gradient(y)?;
        let dy = OutputGradient { values: &values, rows, stride: output };
        if fate == Activated::Again {
            let (x, mut value) = (tape.take_value(kept), tape.allocate_aside(rows * inner)?);
            bias_gelu_forward(tape, parameters, (&x, inner), Some(up.1), gelu, &mut value)?;
            tape.put_value(kept, x);
            tape.put_value(activated, value);
        }
        product::parameter_gradients(tape, parameters, dy, activated, down, None)?;
        // Nobody reads it any more, and the gradient that comes next is as large.
        let value = tape.take_value(activated);
        tape.recycle(value);
        let mut d_kept = tape.allocate(rows * inner)?;
        product::input_gradient_gelu(tape, parameters, dy, down, (kept, up.1, gelu), &mut d_kept)?;
        tape.recycle(values);
        let dy = OutputGradient { values: &d_kept, rows, stride: inner };
        product::deliver_input_gradient(tape, parameters, dy, up.0, x)?;
        product::parameter_gradients(tape, parameters, dy, x, up.0, None)?;
        tape.recycle(d_kept);
        Ok(())
    });
    Ok(y)
}
