//! `y += scale dropout(x) A^T B^T`: what a low-rank adapter (LoRA; Hu et al., 2021, arXiv 2106.09685) adds to a linear layer. `y` is
//! consumed: what is added to takes its memory.
//!
//! The adapters of what one product computes, as query, key and value, share x, its dropout, and one product with their As.

use super::product::{self, OutputGradient, Part};
use super::{deliver, dropout};
use crate::Result;
use crate::autograd::{Matrix, Parameters, Tape, Tensor};
use crate::device::product::Layout;

/// The adapters of one product.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    /// A of all of them, end to end: `[adapters rank, in]`.
    pub a: Matrix,
    /// B of each, `[out, rank]`, and the first of the columns of y that it adds to.
    pub b: Vec<(Matrix, usize)>,
    /// What their product is multiplied with.
    pub scale: f64,
    /// The probability with which elements of x are dropped on their way to the adapters.
    pub dropout: f64,
}

/// `x`: `[rows, in]`; `y`, and the result: `[rows, out]`.
///
/// # Errors
/// Those of the device.
pub fn low_rank(tape: &mut Tape, parameters: &Parameters, y: Tensor, x: Tensor, adapters: &Adapters) -> Result<Tensor> {
    let Adapters { a, ref b, scale, dropout } = *adapters;
    let (rows, width, columns) = (x.rows, a.rows, y.stride);
    let rank = width / b.len();
    assert!(b.iter().all(|(b, first)| b.columns == rank && first + b.rows <= y.columns), "adapters of another layer");
    let x = dropout::dropout(tape, x, dropout)?;
    let started = tape.start("low_rank");
    let mut inner = tape.allocate(rows * width)?;
    product::forward(tape, parameters, x, a, None, (&mut inner, width))?;
    let mut sum = tape.take_value(y);
    for (index, &(b, first)) in b.iter().enumerate() {
        let from = Part { buffer: &inner, offset: index * rank, stride: width };
        let weight = Part { buffer: &parameters.values, offset: b.offset, stride: rank };
        let to = (&mut sum, first, columns);
        product::of_parts(tape, Layout::Nt, [rows, b.rows, rank], [from, weight], to, scale, true)?;
    }
    let inner = tape.push(inner, rows, width);
    let sum = tape.push_strided(sum, rows, y.columns, columns);

    let b = b.clone();
    tape.record("low_rank", started, move |tape, parameters| {
        let d_sum = tape.take_gradient(sum)?;
        let mut d_inner = tape.allocate(rows * width)?;
        let kept = tape.take_value(inner);
        for (index, &(b, first)) in b.iter().enumerate() {
            let dy = Part { buffer: &d_sum, offset: first, stride: columns };
            let weight = Part { buffer: &parameters.values, offset: b.offset, stride: rank };
            let to = (&mut d_inner, index * rank, width);
            product::of_parts(tape, Layout::Nn, [rows, rank, b.rows], [dy, weight], to, scale, false)?;
            let from = Part { buffer: &kept, offset: index * rank, stride: width };
            let to = (&mut parameters.gradients, b.offset, rank);
            product::of_parts(tape, Layout::Tn, [b.rows, rank, rows], [dy, from], to, scale, true)?;
        }
        tape.recycle(kept);
        let d = OutputGradient { values: &d_inner, rows, stride: width };
        product::deliver_input_gradient(tape, parameters, d, a, x)?;
        product::parameter_gradients(tape, parameters, d, x, a, None)?;
        tape.recycle(d_inner);
        deliver(tape, y, d_sum)
    });
    Ok(sum)
}
