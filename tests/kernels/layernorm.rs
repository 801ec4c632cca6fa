use half::bf16;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::layernorm::{Affine, Gradients, Summands, backward, forward};
use proptest::prelude::*;

use super::harness::*;

const EPS: f64 = 1e-12;
/// The inputs below make values up to about six, and h up to about eight: what a row's terms, and a column's, come to.
const ROW_TERMS: f64 = 10.0;
const COLUMN_TERMS: f64 = 8.0;

struct Case {
    rows: usize,
    columns: usize,
    bias: bool,
    /// Whether there is a gradient of beta.
    shift: bool,
    residual: bool,
    /// Whether the sum has other users, whose gradient is added on the way back.
    others: bool,
    p: f64,
    blocks: usize,
    seed: u64,
}

struct Inputs {
    x: Vec<f32>,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// z, y and statistics as the CPU device computes them.
fn cpu_forward<R: Real>(case: &Case, inputs: &Inputs, cast: impl Fn(&[f32]) -> Vec<R>) -> [Vec<R>; 3] {
    let mut z = cast(&inputs.x);
    let [bias, residual] = [&inputs.bias, &inputs.residual].map(|part| part.as_deref().map(&cast));
    let (gamma, beta) = (cast(&inputs.gamma), cast(&inputs.beta));
    let mut y = vec![R::ZERO; z.len()];
    let mut statistics = vec![R::ZERO; 2 * case.rows];
    let affine = Affine { gamma: &gamma, beta: Some(&beta), eps: EPS };
    let dropout = dropout(case.p, case.seed).1;
    let summands = Summands { bias: bias.as_deref(), residual: residual.as_deref(), dropout };
    forward(&mut z, summands, affine, &mut y, &mut statistics);
    [z, y, statistics]
}

/// Moves neighbours apart: two columns that were nearly equal would make their variance, and with it every tolerance, a matter
/// of luck.
fn spread<T: Float>(columns: usize, values: Vec<f32>) -> Vec<f32> {
    let sign = |i: usize| if (i % columns).is_multiple_of(2) { 3.0 } else { -3.0 };
    values.iter().enumerate().map(|(i, value)| T::round(value + sign(i))).collect()
}

fn check_forward<T: Float>(case: &Case) {
    let Case { rows, columns, seed, .. } = *case;
    let inputs = Inputs {
        x: spread::<T>(columns, normals::<T>(seed, rows * columns, 1.5)),
        bias: case.bias.then(|| normals::<T>(seed + 4, columns, 0.5)),
        residual: case.residual.then(|| normals::<T>(seed + 1, rows * columns, 1.0)),
        gamma: normals::<T>(seed + 2, columns, 0.5),
        beta: normals::<T>(seed + 3, columns, 0.5),
    };
    let x = Memory::of::<T>("x", &inputs.x);
    let bias = inputs.bias.as_ref().map(|bias| Memory::of::<T>("bias", bias));
    let residual = inputs.residual.as_ref().map(|residual| Memory::of::<T>("residual", residual));
    let (gamma, beta) = (Memory::of::<T>("gamma", &inputs.gamma), Memory::of::<T>("beta", &inputs.beta));
    let y = Memory::poisoned::<T>("y", rows * columns);
    let statistics = Memory::poisoned::<f32>("statistics", 2 * rows);
    launch!(
        "layernorm_forward" as T::DTYPE,
        [case.blocks, 1],
        [256, 1],
        seed,
        [
            &x,
            bias.as_ref(),
            residual.as_ref(),
            &gamma,
            &beta,
            &y,
            &statistics,
            rows,
            columns,
            EPS as f32,
            dropout(case.p, seed).0,
        ]
    );

    let [z_reference, ..] = cpu_forward(case, &inputs, doubles);
    let [z_plain, ..] = cpu_forward(case, &inputs, <[f32]>::to_vec);
    let z = x.values::<T>();
    Tolerance { terms: ROW_TERMS }.check("z", &z, &rounded::<T>(&z_plain), &z_reference);
    // The statistics are those of the z that was stored, so that is what they are compared with.
    let stored = Inputs { x: z, bias: None, residual: None, ..inputs };
    let without_dropout = Case { p: 0.0, ..*case };
    let [_, y_reference, statistics_reference] = cpu_forward(&without_dropout, &stored, doubles);
    let [_, y_plain, statistics_plain] = cpu_forward(&without_dropout, &stored, <[f32]>::to_vec);
    Tolerance { terms: ROW_TERMS }.check("y", &y.values::<T>(), &rounded::<T>(&y_plain), &y_reference);
    for part in 0..2 {
        let pick = |values: &[f32]| values.iter().skip(part).step_by(2).copied().collect::<Vec<_>>();
        let reference: Vec<f64> = statistics_reference.iter().skip(part).step_by(2).copied().collect();
        Tolerance { terms: ROW_TERMS }.check(
            ["mean", "rstd"][part],
            &pick(&statistics.values::<f32>()),
            &pick(&statistics_plain),
            &reference,
        );
    }
}

struct BackwardInputs {
    z: Vec<f32>,
    statistics: Vec<f32>,
    gamma: Vec<f32>,
    dy: Vec<f32>,
    others: Option<Vec<f32>>,
    d_gamma: Vec<f32>,
    d_beta: Vec<f32>,
    d_bias: Vec<f32>,
}

/// dz, dx, d_gamma, d_beta and d_bias as the CPU device computes them.
fn cpu_backward<R: Real>(case: &Case, inputs: &BackwardInputs, cast: impl Fn(&[f32]) -> Vec<R>) -> [Vec<R>; 5] {
    let mut dz = cast(&inputs.dy);
    let mut dx = vec![R::ZERO; dz.len()];
    let [mut d_gamma, mut d_beta, mut d_bias] =
        [&inputs.d_gamma, &inputs.d_beta, &inputs.d_bias].map(|sums| cast(sums));
    let (dropout, others) = (dropout(case.p, case.seed).1, inputs.others.as_deref().map(&cast));
    let gradients = Gradients {
        dz: &mut dz,
        others: others.as_deref(),
        dx: dropout.map(|_| &mut dx[..]),
        d_gamma: &mut d_gamma,
        d_beta: case.shift.then_some(&mut d_beta),
        d_bias: case.bias.then_some(&mut d_bias),
    };
    backward(&cast(&inputs.z), &cast(&inputs.statistics), &cast(&inputs.gamma), dropout, gradients);
    [dz, dx, d_gamma, d_beta, d_bias]
}

fn check_backward<T: Float, G: Float>(case: &Case) {
    let Case { rows, columns, seed, .. } = *case;
    let inputs = BackwardInputs {
        z: normals::<T>(seed, rows * columns, 1.5),
        // Not the statistics of z: the rule takes what it is given, and a wrong one should show.
        statistics: (0..rows).flat_map(|row| [0.1 * row as f32 - 0.3, 0.7 + 0.05 * row as f32]).collect(),
        gamma: normals::<T>(seed + 1, columns, 0.5),
        dy: normals::<T>(seed + 2, rows * columns, 1.0),
        others: case.others.then(|| normals::<T>(seed + 6, rows * columns, 1.0)),
        d_gamma: normals::<G>(seed + 3, columns, 1.0),
        d_beta: normals::<G>(seed + 4, columns, 1.0),
        d_bias: normals::<G>(seed + 5, columns, 1.0),
    };
    let z = Memory::of::<T>("z", &inputs.z);
    let statistics = Memory::of::<f32>("statistics", &inputs.statistics);
    let gamma = Memory::of::<T>("gamma", &inputs.gamma);
    let dz = Memory::of::<T>("dz", &inputs.dy);
    let others = inputs.others.as_ref().map(|others| Memory::of::<T>("others", others));
    let dx = (case.p > 0.0).then(|| Memory::poisoned::<T>("dx", rows * columns));
    let partials = Memory::poisoned::<f32>("partials", case.blocks * (2 + usize::from(case.bias)) * columns);
    launch!(
        "layernorm_backward" as T::DTYPE,
        [case.blocks, 1],
        [128, 1],
        seed,
        [
            &z,
            &statistics,
            &gamma,
            others.as_ref(),
            &dz,
            dx.as_ref(),
            rows,
            columns,
            dropout(case.p, seed).0,
            usize::from(case.bias),
            &partials,
        ]
    );
    let d_gamma = Memory::of::<G>("d_gamma", &inputs.d_gamma);
    let d_beta = case.shift.then(|| Memory::of::<G>("d_beta", &inputs.d_beta));
    let d_bias = case.bias.then(|| Memory::of::<G>("d_bias", &inputs.d_bias));
    launch!(
        "layernorm_finish" as G::DTYPE,
        [columns.div_ceil(32), 1],
        [32, 8],
        seed,
        [&partials, case.blocks, columns, &d_gamma, d_beta.as_ref(), d_bias.as_ref(),]
    );

    let reference = cpu_backward(case, &inputs, doubles);
    let plain = cpu_backward(case, &inputs, <[f32]>::to_vec);
    Tolerance { terms: ROW_TERMS }.check("dz", &dz.values::<T>(), &rounded::<T>(&plain[0]), &reference[0]);
    if let Some(dx) = dx {
        Tolerance { terms: ROW_TERMS }.check("dx", &dx.values::<T>(), &rounded::<T>(&plain[1]), &reference[1]);
    }
    let sums = [("d_gamma", Some(&d_gamma)), ("d_beta", d_beta.as_ref()), ("d_bias", d_bias.as_ref())];
    for ((name, sums), (plain, reference)) in sums.into_iter().zip(plain.iter().zip(&reference).skip(2)) {
        let Some(sums) = sums else { continue };
        Tolerance { terms: COLUMN_TERMS * rows as f64 }.check(
            name,
            &sums.values::<G>(),
            &rounded::<G>(plain),
            reference,
        );
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn forward_and_backward(
        rows in 1..24usize,
        columns in columns(),
        bias: bool,
        shift: bool,
        residual: bool,
        others: bool,
        p in prop_oneof![Just(0.0), Just(0.1), Just(0.5)],
        blocks in 1..4usize,
        seed in 0..1000u64,
    ) {
        let case = Case { rows, columns, bias, shift, residual, others, p, blocks, seed };
        check_forward::<f32>(&case);
        check_forward::<bf16>(&case);
        check_backward::<f32, f32>(&case);
        check_backward::<bf16, bf16>(&case);
        check_backward::<bf16, f32>(&case);
    }
}

/// Every way through the kernels, whatever proptest happens to draw.
#[test]
fn both_row_layouts_aligned_and_not() {
    for columns in [40, 43, 768, 1024, 1032, 2049] {
        for (bias, residual, others, p) in
            [(true, true, false, 0.1), (true, true, true, 0.1), (true, false, true, 0.0), (false, false, false, 0.0)]
        {
            let case = Case { rows: 19, columns, bias, shift: !others, residual, others, p, blocks: 2, seed: 5 };
            check_forward::<f32>(&case);
            check_forward::<bf16>(&case);
            check_backward::<f32, f32>(&case);
            check_backward::<bf16, f32>(&case);
        }
    }
}
