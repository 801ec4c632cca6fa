//! `y = LayerNorm(residual + dropout(x))`, one node. `x` is consumed: its memory keeps the sum for the way back.

use super::{deliver, for_real, kernel, work};
use crate::Result;
use crate::autograd::{Parameters, Tape, Tensor, Vector};
use crate::device::cpu::dropout::DropoutArgument;
use crate::device::cpu::layernorm::{Affine, Gradients};
use crate::device::{Device, Launch, cpu};

/// Which parameters a LayerNorm has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Scale, `[columns]`.
    pub gamma: Vector,
    /// Shift, `[columns]`.
    pub beta: Vector,
    /// Added to the variance.
    pub eps: f64,
}

/// `x` and `residual`: `[rows, columns]`; `dropout` is the probability with which elements of `x` are dropped.
///
/// # Errors
/// None on the CPU.
pub fn layernorm(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    residual: Option<Tensor>,
    dropout: f64,
    norm: Normalisation,
) -> Result<Tensor> {
    let started = tape.start("layernorm");
    assert_eq!(x.columns, norm.gamma.len, "layernorm: input and scale differ in size");
    assert!(residual.is_none_or(|residual| (residual.rows, residual.columns) == (x.rows, x.columns)));
    let dropout = tape.dropout(dropout);
    let mut z = tape.take_value(x);
    let mut y = tape.allocate(x.rows * x.columns)?;
    let mut statistics = tape.allocate_scratch(x.rows * 2)?;
    let element = tape.dtype().size();
    let work = work::layernorm_forward(x.rows, x.columns, element, residual.is_some(), dropout.is_some());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let values = parameters.values.slice::<T>();
            let affine = Affine { gamma: &values[norm.gamma.range()], beta: &values[norm.beta.range()], eps: norm.eps };
            let residual = residual.map(|residual| tape.value(residual).slice());
            cpu::layernorm::forward(z.slice_mut(), residual, dropout, affine, y.slice_mut(), statistics.slice_mut());
        }),
        device => {
            let rows_per_block = if x.columns <= 1024 { 8 } else { 1 };
            let blocks = x.rows.div_ceil(rows_per_block).max(1);
            let launch = Launch::new(kernel("layernorm_forward", tape.dtype()), blocks, 256).work(work).write(&mut z);
            let launch = match residual {
                Some(residual) => launch.read(tape.value(residual)),
                None => launch.null(),
            };
            let launch =
                launch.read_at(&parameters.values, norm.gamma.offset).read_at(&parameters.values, norm.beta.offset);
            let launch = launch.write(&mut y).write(&mut statistics).int(x.rows).int(x.columns).value(norm.eps as f32);
            device.launch(&launch.value(DropoutArgument::of(dropout)))?;
        }
    }
    let y = tape.push(y, x.rows, x.columns);
    let z = tape.push(z, x.rows, x.columns);
    let statistics = tape.push(statistics, x.rows, 2);

    tape.record("layernorm", started, move |tape, parameters| {
        let mut dz = tape.take_gradient(y)?;
        let mut dx = dropout.map(|_| tape.allocate(x.rows * x.columns)).transpose()?;
        // The number of partial sums depends on the shape alone, so that they have the same bits on any chip.
        let parts = (x.rows.div_ceil(16)).clamp(1, 528);
        let mut partials = tape.allocate_scratch(parts * 2 * x.columns)?;
        let work = work::layernorm_backward(x.rows, x.columns, element, dropout.is_some());
        tape.count(work);
        match tape.device() {
            Device::Cpu => for_real!(tape.dtype(), T => {
                let gamma = &parameters.values.slice::<T>()[norm.gamma.range()];
                let (d_gamma, d_beta) = two_ranges(parameters.gradients.slice_mut(), norm);
                let dx = dx.as_mut().map(|dx| dx.slice_mut());
                let gradients = Gradients { dz: dz.slice_mut(), dx, d_gamma, d_beta };
                let (z, statistics) = (tape.value(z).slice(), tape.value(statistics).slice());
                cpu::layernorm::backward::<T>(z, statistics, gamma, dropout, gradients);
            }),
            device => {
                let launch = Launch::new(kernel("layernorm_backward", tape.dtype()), parts, 128).read(tape.value(z));
                let launch =
                    launch.read(tape.value(statistics)).read_at(&parameters.values, norm.gamma.offset).write(&mut dz);
                let launch = match &mut dx {
                    Some(dx) => launch.write(dx),
                    None => launch.null(),
                };
                let launch = launch.int(x.rows).int(x.columns).value(DropoutArgument::of(dropout));
                device.launch(&launch.work(work).write(&mut partials))?;
                let launch = Launch::new("layernorm_finish_f32", x.columns.div_ceil(32), 256).block(32, 8, 1);
                let work = work::sum_of_parts(parts, 2 * x.columns, parameters.gradients.dtype().size(), true);
                let launch = launch.work(work).read(&partials).int(parts).int(x.columns);
                let launch = launch.write_at(&mut parameters.gradients, norm.gamma.offset);
                device.launch(&launch.write_at(&mut parameters.gradients, norm.beta.offset))?;
            }
        }
        tape.recycle(partials);
        match (residual, dx) {
            (None, None) => deliver(tape, x, dz)?,
            (None, Some(dx)) => {
                tape.recycle(dz);
                deliver(tape, x, dx)?;
            }
            (Some(residual), Some(dx)) => {
                deliver(tape, residual, dz)?;
                deliver(tape, x, dx)?;
            }
            (Some(residual), None) => {
                let mut dx = tape.allocate(x.rows * x.columns)?;
                dx.copy_from(tape.device(), &dz)?;
                deliver(tape, residual, dz)?;
                deliver(tape, x, dx)?;
            }
        }
        Ok(())
    });
    Ok(y)
}

/// The gradients of scale and shift, which lie apart, scale first.
fn two_ranges<T>(gradients: &mut [T], norm: Normalisation) -> (&mut [T], &mut [T]) {
    let (gamma, beta) = (norm.gamma.range(), norm.beta.range());
    assert!(gamma.end <= beta.start, "layernorm: the scale lies before the shift");
    let (low, high) = gradients.split_at_mut(beta.start);
    (&mut low[gamma], &mut high[..beta.len()])
}
