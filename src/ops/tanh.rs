//! `y = tanh(x)`, in place: the pooler's activation. `x` is consumed.

use super::{deliver, for_real, kernel, work};
use crate::Result;
use crate::autograd::{Tape, Tensor};
use crate::device::{Device, Launch, cpu};

/// The result has the shape of `x`.
///
/// # Errors
/// None on the CPU.
pub fn tanh(tape: &mut Tape, x: Tensor) -> Result<Tensor> {
    let started = tape.start("tanh");
    let mut y = tape.take_value(x);
    let work = work::tanh_forward(y.len(), tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => cpu::tanh::forward(y.slice_mut::<T>())),
        device => {
            let launch = Launch::new(kernel("tanh_forward", tape.dtype()), y.len().div_ceil(256), 256);
            let count = y.len();
            device.launch(&launch.work(work).write(&mut y).long(count))?;
        }
    }
    let y = tape.push(y, x.rows, x.columns);

    tape.record("tanh", started, move |tape, _| {
        let mut dy = tape.take_gradient(y)?;
        let work = work::tanh_backward(dy.len(), tape.dtype().size());
        tape.count(work);
        match tape.device() {
            Device::Cpu => {
                for_real!(tape.dtype(), T => cpu::tanh::backward::<T>(tape.value(y).slice(), dy.slice_mut()));
            }
            device => {
                let launch = Launch::new(kernel("tanh_backward", tape.dtype()), dy.len().div_ceil(256), 256);
                let count = dy.len();
                device.launch(&launch.work(work).read(tape.value(y)).write(&mut dy).long(count))?;
            }
        }
        deliver(tape, x, dy)
    });
    Ok(y)
}
