use half::bf16;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::gelu::{Gelu, backward, forward};
use proptest::prelude::*;

use super::harness::*;

struct Inputs {
    x: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
    d_bias: Vec<f32>,
}

/// y, dx and d_bias as the CPU device computes them.
fn cpu<R: Real>(inputs: &Inputs, cast: impl Fn(&[f32]) -> Vec<R>) -> [Vec<R>; 3] {
    let (x, bias) = (cast(&inputs.x), cast(&inputs.bias));
    let mut y = vec![R::ZERO; x.len()];
    forward(Gelu::Exact, &x, &bias, &mut y);
    let (mut dx, mut d_bias) = (cast(&inputs.dy), cast(&inputs.d_bias));
    backward(Gelu::Exact, &x, &bias, &mut dx, &mut d_bias);
    [y, dx, d_bias]
}

fn check<T: Float, G: Float>(rows: usize, columns: usize, parts: usize, seed: u64) {
    let inputs = Inputs {
        x: normals::<T>(seed, rows * columns, 3.0),
        bias: normals::<T>(seed + 1, columns, 1.0),
        dy: normals::<T>(seed + 2, rows * columns, 1.0),
        d_bias: normals::<G>(seed + 3, columns, 1.0),
    };
    let (x, bias) = (Memory::of::<T>("x", &inputs.x), Memory::of::<T>("bias", &inputs.bias));
    let y = Memory::poisoned::<T>("y", rows * columns);
    let grid = [columns.div_ceil(256), parts];
    launch!("bias_gelu_forward" as T::DTYPE, grid, [32, 8], seed, [&x, &bias, &y, rows, columns]);
    let dy = Memory::of::<T>("dy", &inputs.dy);
    let partials = Memory::poisoned::<f32>("partials", parts * columns);
    launch!("bias_gelu_backward" as T::DTYPE, grid, [32, 8], seed, [&x, &bias, &dy, rows, columns, &partials]);
    let d_bias = Memory::of::<G>("d_bias", &inputs.d_bias);
    let grid = [columns.div_ceil(32), 1];
    launch!("column_sums_finish" as G::DTYPE, grid, [32, 8], seed, [&partials, parts, columns, &d_bias]);

    let reference = cpu(&inputs, doubles);
    let plain = cpu(&inputs, <[f32]>::to_vec);
    Tolerance { terms: 1.0 }.check("y", &y.values::<T>(), &rounded::<T>(&plain[0]), &reference[0]);
    Tolerance { terms: 1.0 }.check("dx", &dy.values::<T>(), &rounded::<T>(&plain[1]), &reference[1]);
    Tolerance { terms: rows as f64 }.check("d_bias", &d_bias.values::<G>(), &rounded::<G>(&plain[2]), &reference[2]);
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn forward_and_backward(rows in 1..40usize, columns in columns(), parts in 1..4usize, seed in 0..1000u64) {
        check::<f32, f32>(rows, columns, parts, seed);
        check::<bf16, bf16>(rows, columns, parts, seed);
        check::<bf16, f32>(rows, columns, parts, seed);
    }
}

/// In the tails Phi is tiny, and the relative error of u Phi(u) is what an error function would spoil.
#[test]
fn the_tails_are_precise() {
    let x: Vec<f32> = (-1000..=1000).map(|i| i as f32 * 0.01).collect();
    let count = x.len();
    let (input, bias) = (Memory::of::<f32>("x", &x), Memory::of::<f32>("bias", &vec![0.0; count]));
    let y = Memory::poisoned::<f32>("y", count);
    launch!("bias_gelu_forward" as "f32", [count.div_ceil(256), 1], [32, 8], 0, [&input, &bias, &y, 1usize, count]);
    let mut reference = vec![0.0; count];
    forward(Gelu::Exact, &doubles(&x), &vec![0.0; count], &mut reference);
    for ((x, y), reference) in x.iter().zip(y.values::<f32>()).zip(reference) {
        let error = (f64::from(y) - reference).abs();
        assert!(error <= 4e-6 * reference.abs(), "gelu({x}) = {y}, should be {reference}");
    }
}
