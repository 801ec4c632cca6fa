//! `y = gelu(x W^T + b)`: a linear layer and its activation.
//!
//! `x W^T` is kept, and `x W^T + b` recomputed on the way back.

use super::product::{self, OutputGradient};
use super::{Gelu, bias_gelu_backward, linear};
use crate::Result;
use crate::autograd::{Matrix, Parameters, Tape, Tensor, Vector};

/// `x`: `[rows, in]`; `weight`: `[out, in]`; `bias`: `[out]`; the result is `[rows, out]`. Without a bias the two are operations of their own.
///
/// # Errors
/// Those of the device.
pub fn linear_gelu(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    weight: Matrix,
    bias: Option<Vector>,
    gelu: Gelu,
) -> Result<Tensor> {
    let Some(bias) = bias else {
        let x = linear(tape, parameters, x, weight, None)?;
        return super::gelu(tape, parameters, x, None, gelu);
    };
    let started = tape.start("linear_gelu");
    let (rows, columns) = (x.rows, weight.rows);
    let mut kept = tape.allocate(rows * columns)?;
    let mut y = tape.allocate(rows * columns)?;
    product::forward_gelu(tape, parameters, x, (weight, bias), gelu, &mut kept, &mut y)?;
    let kept = tape.push(kept, rows, columns);
    let y = tape.push(y, rows, columns);

    tape.record("linear_gelu", started, move |tape, parameters| {
        let mut values = tape.take_gradient(y)?;
        bias_gelu_backward(tape, parameters, kept, Some(bias), gelu, &mut values)?;
        let dy = OutputGradient { values: &values, rows, stride: columns };
        product::deliver_input_gradient(tape, parameters, dy, weight, x)?;
        product::parameter_gradients(tape, parameters, dy, x, weight, None)?;
        tape.recycle(values);
        Ok(())
    });
    Ok(y)
}
