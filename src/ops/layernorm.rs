//! `y = LayerNorm(z)` of the sum `z = residual + dropout(x + bias)`, one node. `x` is consumed: its memory keeps the sum for the way back, and
//! for others, who may have that sum as well.

use std::rc::Rc;

use super::{deliver, for_real, kernel, work};
use crate::Result;
use crate::autograd::{Parameters, Tape, Tensor, Vector};
use crate::device::cpu::dropout::DropoutArgument;
use crate::device::cpu::layernorm::{self, Affine, Gradients};
use crate::device::{Buffer, Device, Launch};

/// Which parameters a LayerNorm has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Scale, `[columns]`.
    pub gamma: Vector,
    /// Shift, `[columns]`, if there is one.
    pub beta: Option<Vector>,
    /// Added to the variance.
    pub eps: f64,
}

/// What kernels read where there is no shift.
struct Zeros(Buffer);

impl Zeros {
    fn of(tape: &mut Tape, columns: usize) -> Result<Rc<Self>> {
        let dtype = tape.dtype();
        let fits = |known: &Self| (known.0.len(), known.0.dtype()) == (columns, dtype);
        tape.once(fits, |device| {
            let mut zeros = Buffer::on(device, columns, dtype)?;
            zeros.fill_zero()?;
            Ok(Self(zeros))
        })
    }
}

/// What is normalised besides `x`: `residual + dropout(x + bias)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summands {
    /// `[columns]`. The bias of a linear layer costs nothing here, and on the way back there a pass over the gradient.
    pub bias: Option<Vector>,
    /// `[rows, columns]`.
    pub residual: Option<Tensor>,
    /// The probability with which elements of `x + bias` are dropped.
    pub dropout: f64,
}

impl Summands {
    /// That they fit `x`.
    pub(super) fn check(&self, x: Tensor) {
        assert!(self.bias.is_none_or(|bias| bias.len == x.columns), "an input and its bias differ in size");
        let fits = |residual: Tensor| (residual.rows, residual.columns) == (x.rows, x.columns);
        assert!(self.residual.is_none_or(fits), "an input and its residual differ in size");
    }
}

/// `x`: `[rows, columns]`; the result has its shape.
///
/// # Errors
/// None on the CPU.
pub fn layernorm(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    summands: Summands,
    norm: Normalisation,
) -> Result<Tensor> {
    Ok(layernorm_and_sum(tape, parameters, x, summands, norm)?.0)
}

/// As [`layernorm()`]; the second tensor is what was normalised, which others may read but not consume: the residual stream of a layer with
/// LayerNorm before its blocks (Xiong et al., arXiv 2002.04745).
///
/// # Errors
/// None on the CPU.
pub fn layernorm_and_sum(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    summands: Summands,
    norm: Normalisation,
) -> Result<(Tensor, Tensor)> {
    normalise(tape, parameters, x, false, summands, norm)
}

/// `LayerNorm(x)` where others read `x` as well: it is not consumed.
///
/// # Errors
/// None on the CPU.
pub fn layernorm_beside(tape: &mut Tape, parameters: &Parameters, x: Tensor, norm: Normalisation) -> Result<Tensor> {
    Ok(normalise(tape, parameters, x, true, Summands::default(), norm)?.0)
}

/// With `beside`, and without summands, `x` is itself what is normalised, and stays where it is.
fn normalise(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    beside: bool,
    summands: Summands,
    norm: Normalisation,
) -> Result<(Tensor, Tensor)> {
    let started = tape.start("layernorm");
    assert_eq!(x.columns, norm.gamma.len, "layernorm: input and scale differ in size");
    summands.check(x);
    let Summands { bias, residual, dropout } = summands;
    let dropout = tape.dropout(dropout);
    let mut z = tape.take_value(x);
    let mut y = tape.allocate(x.rows * x.columns)?;
    let mut statistics = tape.allocate_scratch(x.rows * 2)?;
    let element = tape.dtype().size();
    let zeros = match (tape.device(), norm.beta) {
        (Device::Kernels(_), None) => Some(Zeros::of(tape, x.columns)?),
        _ => None,
    };
    let work =
        work::layernorm_forward(x.rows, x.columns, element, residual.is_some(), bias.is_some() || dropout.is_some());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let values = parameters.values.slice::<T>();
            let beta = norm.beta.map(|beta| &values[beta.range()]);
            let affine = Affine { gamma: &values[norm.gamma.range()], beta, eps: norm.eps };
            let bias = bias.map(|bias| &values[bias.range()]);
            let residual = residual.map(|residual| tape.value(residual).slice());
            let summands = layernorm::Summands { bias, residual, dropout };
            layernorm::forward(z.slice_mut(), summands, affine, y.slice_mut(), statistics.slice_mut());
        }),
        device => {
            let rows_per_block = if x.columns <= 1024 { 8 } else { 1 };
            let blocks = x.rows.div_ceil(rows_per_block).max(1);
            let launch = Launch::new(kernel("layernorm_forward", tape.dtype()), blocks, 256).work(work).write(&mut z);
            let launch = match bias {
                Some(bias) => launch.read_at(&parameters.values, bias.offset),
                None => launch.null(),
            };
            let launch = match residual {
                Some(residual) => launch.read(tape.value(residual)),
                None => launch.null(),
            };
            let launch = launch.read_at(&parameters.values, norm.gamma.offset);
            let launch = match (norm.beta, &zeros) {
                (Some(beta), _) => launch.read_at(&parameters.values, beta.offset),
                (None, Some(zeros)) => launch.read(&zeros.0),
                (None, None) => launch.null(),
            };
            let launch = launch.write(&mut y).write(&mut statistics).int(x.rows).int(x.columns).value(norm.eps as f32);
            device.launch(&launch.value(DropoutArgument::of(dropout)))?;
        }
    }
    let y = tape.push(y, x.rows, x.columns);
    let z = if beside {
        tape.put_value(x, z);
        x
    } else {
        tape.push(z, x.rows, x.columns)
    };
    let statistics = tape.push(statistics, x.rows, 2);

    tape.record("layernorm", started, move |tape, parameters| {
        let mut dz = tape.take_gradient(y)?;
        let others = if !beside && tape.has_gradient(z) { Some(tape.take_gradient(z)?) } else { None };
        let mut dx = dropout.map(|_| tape.allocate(x.rows * x.columns)).transpose()?;
        // The number of partial sums depends on the shape alone, so that they have the same bits on any chip.
        let parts = (x.rows.div_ceil(16)).clamp(1, 528);
        let sums = if bias.is_some() { 3 } else { 2 };
        let mut partials = tape.allocate_scratch(parts * sums * x.columns)?;
        let is_trained = parameters.trains(norm.gamma.offset);
        assert!(
            bias.is_none_or(|bias| parameters.trains(bias.offset) == is_trained),
            "a LayerNorm and the bias before it are frozen together"
        );
        let work = work::layernorm_backward(x.rows, x.columns, element, dropout.is_some(), others.is_some());
        tape.count(work);
        match tape.device() {
            Device::Cpu => for_real!(tape.dtype(), T => {
                let gamma = &parameters.values.slice::<T>()[norm.gamma.range()];
                let mut of_frozen = Vec::new();
                let (ranges, gradients) = if is_trained {
                    let range = |vector: Option<Vector>| vector.map_or(0..0, |vector| vector.range());
                    ([norm.gamma.range(), range(norm.beta), range(bias)], parameters.gradients.slice_mut())
                } else {
                    of_frozen.resize(3 * x.columns, 0.0);
                    ([0, 1, 2].map(|part| part * x.columns..(part + 1) * x.columns), &mut of_frozen[..])
                };
                let vectors = gradients.get_disjoint_mut(ranges);
                let [d_gamma, d_beta, d_bias] = vectors.expect("parameters do not overlap");
                let (dx, d_beta, d_bias) =
                    (dx.as_mut().map(|dx| dx.slice_mut()), norm.beta.map(|_| d_beta), bias.map(|_| d_bias));
                let gradients = Gradients { dz: dz.slice_mut(), others: others.as_ref().map(Buffer::slice), dx, d_gamma, d_beta, d_bias };
                let (z, statistics) = (tape.value(z).slice(), tape.value(statistics).slice());
                layernorm::backward::<T>(z, statistics, gamma, dropout, gradients);
            }),
            device => {
                let launch = Launch::new(kernel("layernorm_backward", tape.dtype()), parts, 128).read(tape.value(z));
                let launch = launch.read(tape.value(statistics)).read_at(&parameters.values, norm.gamma.offset);
                let launch = match &others {
                    Some(others) => launch.read(others),
                    None => launch.null(),
                };
                let launch = launch.write(&mut dz);
                let launch = match &mut dx {
                    Some(dx) => launch.write(dx),
                    None => launch.null(),
                };
                let launch = launch.int(x.rows).int(x.columns).value(DropoutArgument::of(dropout));
                let launch = launch.int(usize::from(bias.is_some()));
                device.launch(&launch.work(work).write(&mut partials))?;
                if is_trained {
                let launch = Launch::new("layernorm_finish_f32", x.columns.div_ceil(32), 256).block(32, 8, 1);
                let work = work::sum_of_parts(parts, sums * x.columns, parameters.gradients.dtype().size(), true);
                let launch = launch.work(work).read(&partials).int(parts).int(x.columns);
                let launch = launch.write_at(&mut parameters.gradients, norm.gamma.offset);
                let launch = match norm.beta {
                    Some(beta) => launch.write_at(&mut parameters.gradients, beta.offset),
                    None => launch.null(),
                };
                device.launch(&match bias {
                    Some(bias) => launch.write_at(&mut parameters.gradients, bias.offset),
                    None => launch.null(),
                })?;
                }
            }
        }
        tape.recycle(partials);
        others.into_iter().for_each(|gradient| tape.recycle(gradient));
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
    Ok((y, z))
}
