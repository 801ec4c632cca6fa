//! The operation in Rust: the CPU's arithmetic, the launch on devices with kernels, and the way back.

use std::time::Instant;

use helixgrad::Result;
use helixgrad::autograd::{Tape, Tensor};
use helixgrad::device::cpu::Real;
use helixgrad::device::{Buffer, DType, Device, Launch};

/// `y = x / (1 + |x|)`.
pub fn forward<T: Real>(x: &[T], y: &mut [T]) {
    x.iter().zip(y).for_each(|(&x, y)| *y = x / (T::ONE + magnitude(x)));
}

/// `dx = dy / (1 + |x|)^2`, in place in `dy`.
pub fn backward<T: Real>(x: &[T], dy: &mut [T]) {
    for (&x, dy) in x.iter().zip(dy) {
        let root = T::ONE / (T::ONE + magnitude(x));
        *dy = *dy * root * root;
    }
}

fn magnitude<T: Real>(x: T) -> T {
    if x < T::ZERO { -x } else { x }
}

/// The result has the shape of `x`.
pub fn softsign(tape: &mut Tape, x: Tensor) -> Result<Tensor> {
    let started = Instant::now();
    let count = x.rows * x.columns;
    let mut y = tape.allocate(count)?;
    match tape.device() {
        Device::Cpu if tape.dtype() == DType::F64 => forward::<f64>(tape.value(x).slice(), y.slice_mut()),
        Device::Cpu => forward::<f32>(tape.value(x).slice(), y.slice_mut()),
        device => {
            let launch = launch("softsign_forward", tape.dtype(), count).read(tape.value(x));
            device.launch(&launch.write(&mut y).long(count))?;
        }
    }
    let y = tape.push(y, x.rows, x.columns);

    tape.record("softsign", started, move |tape, _| {
        let mut dy: Buffer = tape.take_gradient(y)?;
        match tape.device() {
            Device::Cpu if tape.dtype() == DType::F64 => backward::<f64>(tape.value(x).slice(), dy.slice_mut()),
            Device::Cpu => backward::<f32>(tape.value(x).slice(), dy.slice_mut()),
            device => {
                let launch = launch("softsign_backward", tape.dtype(), count).read(tape.value(x));
                device.launch(&launch.write(&mut dy).long(count))?;
            }
        }
        // x has one user here; an operation of the library adds to what other users have delivered.
        tape.put_gradient(x, dy);
        Ok(())
    });
    Ok(y)
}

fn launch(name: &str, dtype: DType, count: usize) -> Launch {
    Launch::new(format!("{name}_{}", dtype.name()), count.div_ceil(256).max(1), 256)
}
