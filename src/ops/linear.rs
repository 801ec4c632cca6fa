//! `y = x W^T + b`: a linear layer with its weight as PyTorch stores it, `[out, in]`.

use super::Qkv;
use super::product::{self, OutputGradient};
use crate::Result;
use crate::autograd::{Matrix, Parameters, Tape, Tensor, Vector};
use crate::device::Device;

/// Elements that a row of logits is rounded up to on devices with kernels: 16 bytes of bf16.
const ROW_GROUP: usize = 8;

/// `x` (`[rows, in]`) times the transpose of `weight` (`[out, in]`), plus `bias` (`[out]`): `[rows, out]`.
///
/// # Errors
/// Those of the device.
pub fn linear(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    weight: Matrix,
    bias: Option<Vector>,
) -> Result<Tensor> {
    layer(tape, parameters, x, weight, Bias { added: bias, learnt: bias }, weight.rows)
}

/// As [`linear`], for [`attention`](super::attention()) and nobody else, as it leaves the gradient of the bias to that.
///
/// # Errors
/// Those of the device.
pub fn qkv(tape: &mut Tape, parameters: &Parameters, x: Tensor, weight: Matrix, bias: Option<Vector>) -> Result<Qkv> {
    let values = layer(tape, parameters, x, weight, Bias { added: bias, learnt: None }, weight.rows)?;
    Ok(Qkv { values, bias })
}

/// As [`linear`], for the end of a model. On devices with kernels the rows of the output start at multiples of 16 bytes, so that
/// the products of a vocabulary of 4101 copy whole groups and can go through a tensor map; what lies between the rows is never read.
///
/// # Errors
/// Those of the device.
pub fn logits(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    weight: Matrix,
    bias: Option<Vector>,
) -> Result<Tensor> {
    let stride = match tape.device() {
        Device::Cpu => weight.rows,
        Device::Kernels(_) => weight.rows.next_multiple_of(ROW_GROUP),
    };
    layer(tape, parameters, x, weight, Bias { added: bias, learnt: bias }, stride)
}

/// What a layer adds on the way forth, and what it adds to the gradient of on the way back.
struct Bias {
    added: Option<Vector>,
    learnt: Option<Vector>,
}

fn layer(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    weight: Matrix,
    bias: Bias,
    stride: usize,
) -> Result<Tensor> {
    let started = tape.start("linear");
    let rows = x.rows;
    let mut y = tape.allocate(rows * stride)?;
    product::forward(tape, parameters, x, weight, bias.added, (&mut y, stride))?;
    let y = tape.push_strided(y, rows, weight.rows, stride);

    tape.record("linear", started, move |tape, parameters| {
        let values = tape.take_gradient(y)?;
        let dy = OutputGradient { values: &values, rows, stride };
        product::deliver_input_gradient(tape, parameters, dy, weight, x)?;
        product::parameter_gradients(tape, parameters, dy, x, weight, bias.learnt)?;
        tape.recycle(values);
        Ok(())
    });
    Ok(y)
}
