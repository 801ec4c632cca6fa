//! `y[i] = x[batch.rows[i]]`: a head computes only the rows it reads.

use std::rc::Rc;

use super::{for_real, kernel, work};
use crate::Result;
use crate::autograd::{DeviceBatch, Tape, Tensor};
use crate::device::{Device, Launch, cpu};

/// `x`: `[total_tokens, columns]`; the result is `[batch.rows, columns]`.
///
/// # Errors
/// None on the CPU.
pub fn gather(tape: &mut Tape, batch: &Rc<DeviceBatch>, x: Tensor) -> Result<Tensor> {
    let started = tape.start("gather");
    let (rows, columns) = (batch.rows.len(), x.columns);
    let mut y = tape.allocate(rows * columns)?;
    let work = work::gather_forward(rows, columns, tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            cpu::gather::forward::<T>(tape.value(x).slice(), batch.rows.slice(), columns, y.slice_mut());
        }),
        device => {
            let launch = Launch::new(kernel("gather_forward", tape.dtype()), rows.div_ceil(8).max(1), 256);
            let launch = launch.read(tape.value(x)).read(&batch.rows).int(rows).int(columns);
            device.launch(&launch.work(work).write(&mut y))?;
        }
    }
    let y = tape.push(y, rows, columns);

    let batch = Rc::clone(batch);
    tape.record("gather", started, move |tape, _| {
        let dy = tape.take_gradient(y)?;
        if !tape.wants_gradient(x) {
            tape.recycle(dy);
            return Ok(());
        }
        let (mut dx, accumulate) = tape.gradient_slot(x)?;
        if !accumulate {
            dx.fill_zero()?;
        }
        let zeroed = if accumulate { 0 } else { dx.len() };
        tape.count(work::gather_backward(rows, columns, zeroed, tape.dtype().size()));
        let work = work::gather_backward(rows, columns, 0, tape.dtype().size());
        match tape.device() {
            Device::Cpu => for_real!(tape.dtype(), T => {
                cpu::gather::backward::<T>(dy.slice(), batch.rows.slice(), columns, dx.slice_mut());
            }),
            device => {
                let launch = Launch::new(kernel("gather_backward", tape.dtype()), rows.div_ceil(8).max(1), 256);
                let launch = launch.read(&dy).read(&batch.rows).int(rows).int(columns);
                device.launch(&launch.work(work).write(&mut dx))?;
            }
        }
        tape.put_gradient(x, dx);
        tape.recycle(dy);
        Ok(())
    });
    Ok(y)
}
