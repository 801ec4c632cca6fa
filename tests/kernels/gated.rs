use half::bf16;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::gated::{Gate, backward, forward};
use proptest::prelude::*;

use super::harness::*;

struct Case {
    gate: Gate,
    rows: usize,
    inner: usize,
    p: f64,
    parts: usize,
    seed: u64,
}

/// u, and the gradient of x, as the CPU device computes them.
fn cpu<R: Real>(case: &Case, x: Vec<R>, mut du: Vec<R>) -> [Vec<R>; 2] {
    let dropout = dropout(case.p, case.seed).1;
    let mut u = vec![R::ZERO; du.len()];
    forward(case.gate, &x, case.inner, dropout, &mut u);
    let mut dx = x;
    backward(case.gate, &mut dx, case.inner, dropout, &mut du);
    [u, dx]
}

fn check<T: Float>(case: &Case) {
    let Case { gate, rows, inner, p, parts, seed } = *case;
    let (x, du) = (normals::<T>(seed, rows * 2 * inner, 2.0), normals::<T>(seed + 1, rows * inner, 1.0));
    let (x_memory, du_memory) = (Memory::of::<T>("x", &x), Memory::of::<T>("du", &du));
    let u = Memory::poisoned::<T>("u", rows * inner);
    let grid = [inner.div_ceil(256), parts];
    let name = |pass| format!("gated_{}_{pass}_{}", if gate == Gate::Gelu { "gelu" } else { "silu" }, T::DTYPE);
    for (pass, from, to) in [("forward", &x_memory, &u), ("backward", &x_memory, &du_memory)] {
        let arguments = vec![from.into(), to.into(), rows.into(), inner.into(), Argument::from(dropout(p, seed).0)];
        run(&name(pass), grid, [32, 8], seed, arguments);
    }
    let (plain, reference) = (cpu(case, x.clone(), du.clone()), cpu(case, doubles(&x), doubles(&du)));
    // A product of an input of up to eight, its gate's slope, and a gradient.
    let tolerance = Tolerance { terms: 8.0 / (1.0 - p) };
    tolerance.check("u", &u.values::<T>(), &rounded::<T>(&plain[0]), &reference[0]);
    tolerance.check("dx", &x_memory.values::<T>(), &rounded::<T>(&plain[1]), &reference[1]);
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn both_gates(
        rows in 1..24usize,
        inner in columns(),
        p in prop_oneof![Just(0.0), Just(0.1), Just(0.5)],
        parts in 1..4usize,
        seed in 0..1000u64,
    ) {
        for gate in [Gate::Gelu, Gate::Silu] {
            let case = Case { gate, rows, inner, p, parts, seed };
            check::<f32>(&case);
            check::<bf16>(&case);
        }
    }
}

/// Far from zero the exponential overflows on one side, and the gate is 0 or its input: nothing is NaN.
#[test]
fn far_from_zero() {
    let far = 2f32.powi(60);
    let a: Vec<f32> = vec![-far, -500.0, -100.0, -20.0, 0.0, 20.0, 100.0, far];
    for gate in ["gelu", "silu"] {
        for (dtype, memory) in
            [("f32", Memory::of::<f32> as fn(&'static str, &[f32]) -> Memory), ("bf16", Memory::of::<bf16>)]
        {
            let x = memory("x", &[a.clone(), vec![1.0; 8]].concat());
            let u = memory("u", &[0.0; 8]);
            let arguments = || vec![(&x).into(), (&u).into(), 1usize.into(), 8usize.into(), dropout(0.0, 0).0.into()];
            run(&format!("gated_{gate}_forward_{dtype}"), [1, 1], [32, 8], 0, arguments());
            let values =
                |memory: &Memory| if dtype == "f32" { memory.values::<f32>() } else { memory.values::<bf16>() };
            for (a, u) in a.iter().zip(values(&u)) {
                assert!((u - a.max(0.0)).abs() <= 1e-2 * a.abs().min(1.0), "{gate} {dtype}: {a} becomes {u}");
            }
            run(&format!("gated_{gate}_backward_{dtype}"), [1, 1], [32, 8], 0, arguments());
            assert!(values(&x).iter().all(|gradient| gradient.is_finite()), "{gate} {dtype}: {:?}", values(&x));
        }
    }
}
