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
fn cpu<R: Real>(gelu: Gelu, inputs: &Inputs, cast: impl Fn(&[f32]) -> Vec<R>) -> [Vec<R>; 3] {
    let (x, bias) = (cast(&inputs.x), cast(&inputs.bias));
    let mut y = vec![R::ZERO; x.len()];
    forward(gelu, &x, &bias, &mut y);
    let (mut dx, mut d_bias) = (cast(&inputs.dy), cast(&inputs.d_bias));
    backward(gelu, &x, &bias, &mut dx, &mut d_bias);
    [y, dx, d_bias]
}

/// The pass's kernel, in that form.
fn name(gelu: Gelu, pass: &str, dtype: &str) -> String {
    format!("bias_gelu{}_{pass}_{dtype}", if gelu == Gelu::Tanh { "_tanh" } else { "" })
}

fn check<T: Float, G: Float>(gelu: Gelu, has_bias: bool, rows: usize, columns: usize, parts: usize, seed: u64) {
    let inputs = Inputs {
        x: normals::<T>(seed, rows * columns, 3.0),
        bias: normals::<T>(seed + 1, columns, if has_bias { 1.0 } else { 0.0 }),
        dy: normals::<T>(seed + 2, rows * columns, 1.0),
        d_bias: normals::<G>(seed + 3, columns, 1.0),
    };
    let x = Memory::of::<T>("x", &inputs.x);
    // Without one it is null, which counts as zeros.
    let bias = has_bias.then(|| Memory::of::<T>("bias", &inputs.bias));
    let y = Memory::poisoned::<T>("y", rows * columns);
    let grid = [columns.div_ceil(256), parts];
    let arguments = |y: &Memory| vec![(&x).into(), bias.as_ref().into(), y.into(), rows.into(), columns.into()];
    run(&name(gelu, "forward", T::DTYPE), grid, [32, 8], seed, arguments(&y));
    let dy = Memory::of::<T>("dy", &inputs.dy);
    let partials = Memory::poisoned::<f32>("partials", parts * columns);
    let mut arguments: Vec<Argument> = arguments(&dy);
    arguments.push((&partials).into());
    run(&name(gelu, "backward", T::DTYPE), grid, [32, 8], seed, arguments);
    let d_bias = Memory::of::<G>("d_bias", &inputs.d_bias);
    let grid = [columns.div_ceil(32), 1];
    launch!("column_sums_finish" as G::DTYPE, grid, [32, 8], seed, [&partials, parts, columns, &d_bias]);

    let reference = cpu(gelu, &inputs, doubles);
    let plain = cpu(gelu, &inputs, <[f32]>::to_vec);
    Tolerance { terms: 1.0 }.check("y", &y.values::<T>(), &rounded::<T>(&plain[0]), &reference[0]);
    Tolerance { terms: 1.0 }.check("dx", &dy.values::<T>(), &rounded::<T>(&plain[1]), &reference[1]);
    Tolerance { terms: rows as f64 }.check("d_bias", &d_bias.values::<G>(), &rounded::<G>(&plain[2]), &reference[2]);
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn forward_and_backward(bias: bool, rows in 1..40usize, columns in columns(), parts in 1..4usize, seed in 0..1000u64) {
        for gelu in [Gelu::Exact, Gelu::Tanh] {
            check::<f32, f32>(gelu, bias, rows, columns, parts, seed);
            check::<bf16, bf16>(gelu, bias, rows, columns, parts, seed);
            check::<bf16, f32>(gelu, bias, rows, columns, parts, seed);
        }
    }
}

/// In the tails what u is multiplied with is tiny, and its relative error is what an error function, or 1 + tanh, would spoil.
#[test]
fn the_tails_are_precise() {
    let x: Vec<f32> = (-1000..=1000).map(|i| i as f32 * 0.01).collect();
    let count = x.len();
    let (input, bias) = (Memory::of::<f32>("x", &x), Memory::of::<f32>("bias", &vec![0.0; count]));
    // The other form's exponent is a cubic: five roundings, those of its two factors among them, of 2^-24 of up to 67, which it is at -9.
    for (gelu, allowed, end) in [(Gelu::Exact, 4e-6, 10.0), (Gelu::Tanh, 2e-5, 9.0)] {
        let y = Memory::poisoned::<f32>("y", count);
        let arguments = vec![(&input).into(), (&bias).into(), (&y).into(), 1usize.into(), count.into()];
        run(&name(gelu, "forward", "f32"), [count.div_ceil(256), 1], [32, 8], 0, arguments);
        let mut reference = vec![0.0; count];
        forward(gelu, &doubles(&x), &vec![0.0; count], &mut reference);
        for ((x, y), reference) in x.iter().zip(y.values::<f32>()).zip(reference).filter(|((x, _), _)| x.abs() <= end) {
            let error = (f64::from(y) - reference).abs();
            assert!(error <= allowed * reference.abs(), "{gelu:?}({x}) = {y}, should be {reference}");
        }
    }
}
