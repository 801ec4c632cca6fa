use half::bf16;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::rotary::rotate;
use proptest::prelude::*;

use super::harness::*;

struct Case {
    positions: Vec<i32>,
    heads: usize,
    head_dim: usize,
    base: f64,
    sign: f64,
    blocks: usize,
    seed: u64,
}

fn check<T: Float>(case: &Case) {
    let Case { heads, head_dim, base, sign, .. } = *case;
    let (total, hidden) = (case.positions.len(), heads * head_dim);
    let before = normals::<T>(case.seed, total * 3 * hidden, 1.0);
    let (qkv, positions) = (Memory::of::<T>("qkv", &before), Memory::integers("positions", &case.positions));
    let step = Argument::of(&base.powf(-2.0 / head_dim as f64));
    let arguments = [&qkv, &positions].map(Argument::from);
    let sizes = [total, heads, head_dim].map(Argument::from);
    let arguments = arguments.into_iter().chain(sizes).chain([step, Argument::from(sign as f32)]).collect();
    run(&format!("rotary_{}", T::DTYPE), [case.blocks, 1], [256, 1], case.seed, arguments);
    let after = qkv.values::<T>();

    fn cpu<R: Real>(case: &Case, mut values: Vec<R>) -> Vec<R> {
        rotate(&mut values, &case.positions, case.heads, case.base, case.sign);
        values
    }
    let (plain, reference) = (cpu(case, before.clone()), cpu(case, doubles(&before)));
    let what = format!("{} heads of {head_dim}, {total} tokens, {}", heads, T::DTYPE);
    Tolerance { terms: 1.0 }.check(&what, &after, &rounded::<T>(&plain), &reference);
    for (token, (after, before)) in after.chunks(3 * hidden).zip(before.chunks(3 * hidden)).enumerate() {
        assert_eq!(after[2 * hidden..], before[2 * hidden..], "{what}: the values of token {token}");
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn turns_what_the_cpu_turns(
        total in 1..40usize,
        heads in 1..5usize,
        half in 1..40usize,
        blocks in 1..4usize,
        backward: bool,
        seed in 0..1000u64,
    ) {
        let (positions, sign) = (below(seed, total, 600), if backward { -1.0 } else { 1.0 });
        let case = Case { positions, heads, head_dim: 2 * half, base: 1e4, sign, blocks, seed };
        check::<f32>(&case);
        check::<bf16>(&case);
    }
}

/// The heads that models have, at positions far from the start, where a product of f32 would be off by 2e-4.
#[test]
fn heads_of_models_at_far_positions() {
    for (heads, head_dim) in [(16, 32), (16, 48), (20, 64), (3, 80), (20, 128), (1, 256)] {
        let positions = vec![0, 1, 127, 4095, 4096, 2047, 100_000];
        let case = Case { positions, heads, head_dim, base: 1e4, sign: 1.0, blocks: 1, seed: 7 };
        check::<f32>(&case);
        check::<bf16>(&case);
    }
}
