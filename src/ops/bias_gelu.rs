//! `y = gelu(x + bias)` with the exact error function. `x` is kept, and `x + bias` recomputed on the way back.

use super::{add_column_parts, column_tiles, deliver, for_real, kernel, work};
use crate::Result;
use crate::autograd::{Parameters, Tape, Tensor, Vector};
use crate::device::{Device, Launch, cpu};

/// `x`: `[rows, columns]`; `bias`: `[columns]`; the result has the shape of `x`.
///
/// # Errors
/// None on the CPU.
pub fn bias_gelu(tape: &mut Tape, parameters: &Parameters, x: Tensor, bias: Vector) -> Result<Tensor> {
    let started = tape.start("bias_gelu");
    assert_eq!(x.columns, bias.len, "bias_gelu: input and bias differ in size");
    let mut y = tape.allocate(x.rows * x.columns)?;
    let work = work::bias_gelu_forward(y.len(), tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let bias = &parameters.values.slice::<T>()[bias.range()];
            cpu::gelu::forward(tape.value(x).slice(), bias, y.slice_mut());
        }),
        device => {
            let (tiles, parts) = column_tiles(x.rows, x.columns);
            let launch =
                Launch::new(kernel("bias_gelu_forward", tape.dtype()), 1, 256).grid(tiles, parts, 1).block(32, 8, 1);
            let launch = launch.read(tape.value(x)).read_at(&parameters.values, bias.offset).write(&mut y);
            device.launch(&launch.work(work).int(x.rows).int(x.columns))?;
        }
    }
    let y = tape.push(y, x.rows, x.columns);

    tape.record("bias_gelu", started, move |tape, parameters| {
        let mut dy = tape.take_gradient(y)?;
        let work = work::bias_gelu_backward(dy.len(), tape.dtype().size());
        tape.count(work);
        let (tiles, parts) = column_tiles(x.rows, x.columns);
        let mut partials = tape.allocate_scratch(parts * x.columns)?;
        match tape.device() {
            Device::Cpu => for_real!(tape.dtype(), T => {
                let values = &parameters.values.slice::<T>()[bias.range()];
                let d_bias = &mut parameters.gradients.slice_mut()[bias.range()];
                cpu::gelu::backward(tape.value(x).slice(), values, dy.slice_mut(), d_bias);
            }),
            device => {
                let launch = Launch::new(kernel("bias_gelu_backward", tape.dtype()), 1, 256).grid(tiles, parts, 1);
                let launch = launch.block(32, 8, 1).read(tape.value(x)).read_at(&parameters.values, bias.offset);
                device.launch(&launch.work(work).write(&mut dy).int(x.rows).int(x.columns).write(&mut partials))?;
                add_column_parts(device, &partials, parts, &mut parameters.gradients, bias)?;
            }
        }
        tape.recycle(partials);
        deliver(tape, x, dy)
    });
    Ok(y)
}
