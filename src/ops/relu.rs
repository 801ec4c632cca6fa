//! `y = max(x, 0)`, in place: the activation of the classifier of pairs of genes, which is trained on the CPU. `x` is consumed.

use super::{deliver, for_real, work};
use crate::autograd::{Tape, Tensor};
use crate::device::{Device, cpu};
use crate::{Error, Result};

/// The result has the shape of `x`. Where `x` is 0 its gradient is 0.
///
/// # Errors
/// [`Error::Usage`] on a device other than the CPU: there is no kernel.
pub fn relu(tape: &mut Tape, x: Tensor) -> Result<Tensor> {
    let started = tape.start("relu");
    if !matches!(tape.device(), Device::Cpu) {
        return Err(Error::usage(format!("relu on {}", tape.device()), "use --device cpu: it has no kernel"));
    }
    let mut y = tape.take_value(x);
    let work = work::relu_forward(y.len(), tape.dtype().size());
    tape.count(work);
    for_real!(tape.dtype(), T => cpu::relu::forward(y.slice_mut::<T>()));
    let y = tape.push(y, x.rows, x.columns);

    tape.record("relu", started, move |tape, _| {
        let mut dy = tape.take_gradient(y)?;
        let work = work::relu_backward(dy.len(), tape.dtype().size());
        tape.count(work);
        for_real!(tape.dtype(), T => cpu::relu::backward::<T>(tape.value(y).slice(), dy.slice_mut()));
        deliver(tape, x, dy)
    });
    Ok(y)
}
