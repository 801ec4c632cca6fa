use half::bf16;
use helixgrad::device::cpu::layernorm::Summands;
use helixgrad::device::cpu::residual::forward;
use proptest::prelude::*;

use super::harness::*;

struct Case {
    rows: usize,
    columns: usize,
    bias: bool,
    residual: bool,
    p: f64,
    parts: usize,
    seed: u64,
}

fn check<T: Float>(case: &Case) {
    let Case { rows, columns, seed, .. } = *case;
    let x = normals::<T>(seed, rows * columns, 1.0);
    let bias = case.bias.then(|| normals::<T>(seed + 1, columns, 1.0));
    let residual = case.residual.then(|| normals::<T>(seed + 2, rows * columns, 1.0));
    let [bias_memory, residual_memory] =
        [("bias", &bias), ("residual", &residual)].map(|(name, values)| Some(Memory::of::<T>(name, values.as_ref()?)));
    let memory = Memory::of::<T>("x", &x);
    let (argument, dropout) = dropout(case.p, seed);
    let grid = [columns.div_ceil(256), case.parts];
    launch!(
        "residual_forward" as T::DTYPE,
        grid,
        [32, 8],
        seed,
        [&memory, bias_memory.as_ref(), residual_memory.as_ref(), rows, columns, argument]
    );
    let cpu = |z: &mut [f32]| {
        let summands = Summands { bias: bias.as_deref(), residual: residual.as_deref(), dropout };
        forward(z, columns, summands);
    };
    let mut plain = x.clone();
    cpu(&mut plain);
    let [bias, residual] = [&bias, &residual].map(|values| values.as_deref().map(doubles));
    let mut reference: Vec<f64> = doubles(&x);
    forward::<f64>(&mut reference, columns, Summands { bias: bias.as_deref(), residual: residual.as_deref(), dropout });
    Tolerance { terms: 3.0 / (1.0 - case.p) }.check("z", &memory.values::<T>(), &rounded::<T>(&plain), &reference);
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn adds_what_the_cpu_adds(
        rows in 1..40usize,
        columns in columns(),
        bias: bool,
        residual: bool,
        p in prop_oneof![Just(0.0), Just(0.1), Just(0.5)],
        parts in 1..4usize,
        seed in 0..1000u64,
    ) {
        let case = Case { rows, columns, bias, residual, p, parts, seed };
        check::<f32>(&case);
        check::<bf16>(&case);
    }
}
