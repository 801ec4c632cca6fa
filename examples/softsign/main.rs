//! A new operation, from its formula to a checked gradient: `cargo run --example softsign`.
//!
//! `op.rs` has the arithmetic, the launch and the way back; `softsign.cu` the kernels, which `tests/kernels/softsign.rs` runs
//! in the emulator. docs/library.md goes through it.

mod op;

use helixgrad::Result;
use helixgrad::autograd::{Parameters, Tape};
use helixgrad::device::{Buffer, DType, Device};

fn main() -> Result<()> {
    let x = [-3.0, -0.5, 0.25, 2.0];
    let mut tape = Tape::new(Device::Cpu, DType::F64);
    let mut sum = |x: &[f64]| -> Result<(f64, Vec<f64>)> {
        tape.start_training(1, 1, 0);
        let input = tape.push(Buffer::from_slice(x), 1, x.len());
        let y = op::softsign(&mut tape, input)?;
        let total = tape.value(y).slice::<f64>().iter().sum();
        // The gradient of the sum is 1 everywhere; backward carries it to x.
        tape.put_gradient(y, Buffer::from_slice(&vec![1.0; x.len()]));
        tape.backward(&mut Parameters::zeros(Vec::new(), 0, DType::F64))?;
        Ok((total, tape.take_gradient(input)?.slice::<f64>().to_vec()))
    };
    let (_, gradient) = sum(&x)?;
    for (index, gradient) in gradient.into_iter().enumerate() {
        let mut side = |step: f64| {
            let mut moved = x;
            moved[index] += step;
            sum(&moved).map(|(total, _)| total)
        };
        let difference = (side(1e-6)? - side(-1e-6)?) / 2e-6;
        println!("x = {:5.2}: gradient {gradient:.9}, by differences {difference:.9}", x[index]);
        assert!((gradient - difference).abs() < 1e-8, "the backward rule is wrong");
    }
    Ok(())
}
