use half::bf16;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::binary_cross_entropy::forward;
use proptest::prelude::*;

use super::harness::*;

const SCALE: f32 = 0.37;

/// Gradient, losses and hits as the CPU device computes them.
fn cpu<R: Real>(logits: Vec<R>, targets: &[f32], positive: Option<&[f32]>, rows: usize) -> (Vec<R>, Vec<R>, Vec<i32>) {
    let (mut gradient, mut losses, mut hits) = (logits, vec![R::ZERO; rows], vec![7; rows]);
    forward(&mut gradient, targets, positive, R::of(f64::from(SCALE)), &mut losses, &mut hits);
    (gradient, losses, hits)
}

fn check<T: Float>(rows: usize, columns: usize, spread: f64, blocks: usize, seed: u64) {
    let logits = normals::<T>(seed, rows * columns, spread);
    // Most rows are right, so that hits are of both kinds.
    let flips = below(seed, rows * columns, 4 * columns);
    let target = |(logit, flip): (&f32, &i32)| {
        let certain = f32::from(u8::from((*logit > 0.0) != (*flip == 0)));
        // A third is not certain: what counts as a hit is on which side of a half it is.
        if flip % 3 == 1 { 0.25 + 0.5 * certain } else { certain }
    };
    let targets: Vec<f32> = logits.iter().zip(&flips).map(target).collect();
    // Rows of whole groups, or with some other gap, of NaN; the targets have none.
    let stride = if seed.is_multiple_of(2) { columns.next_multiple_of(8) } else { columns + seed as usize % 5 };
    let gap = vec![f32::NAN; stride - columns];
    let with_gaps: Vec<f32> = logits.chunks(columns).flat_map(|row| [row, &gap].concat()).collect();
    let (memory, target_memory) = (Memory::of::<T>("logits", &with_gaps), Memory::of::<f32>("targets", &targets));
    let weights: Vec<f32> = (0..columns).map(|column| [1.0, 0.2, 3.5][column % 3]).collect();
    let (weight_memory, positive) =
        (Memory::of::<f32>("positive", &weights), (!seed.is_multiple_of(3)).then_some(&*weights));
    let losses = Memory::poisoned::<f32>("losses", rows);
    let hits = Memory::poisoned_integers("hits", rows);
    if positive.is_some() {
        launch!(
            "binary_cross_entropy_forward" as T::DTYPE,
            [blocks, 1],
            [256, 1],
            seed,
            [&memory, &target_memory, &weight_memory, rows, columns, stride, SCALE, &losses, &hits,]
        );
    } else {
        launch!(
            "binary_cross_entropy_forward" as T::DTYPE,
            [blocks, 1],
            [256, 1],
            seed,
            [&memory, &target_memory, 0i64, rows, columns, stride, SCALE, &losses, &hits,]
        );
    }
    let (reference, reference_losses, expected_hits) = cpu(doubles(&logits), &targets, positive, rows);
    let (plain, plain_losses, _) = cpu(logits, &targets, positive, rows);
    // Logits are up to four spreads large, and so are the terms that cancel.
    Tolerance { terms: 4.0 * spread }.check("losses", &losses.values::<f32>(), &plain_losses, &reference_losses);
    let gradient: Vec<f32> = memory.values::<T>().chunks(stride).flat_map(|row| row[..columns].to_vec()).collect();
    assert!(memory.values::<T>().chunks(stride).all(|row| row[columns..].iter().all(|value| value.is_nan())));
    Tolerance { terms: 1.0 }.check("gradient", &gradient, &rounded::<T>(&plain), &reference);
    assert_eq!(hits.to_integers(), expected_hits);
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn loss_hit_and_gradient(
        rows in 1..30usize,
        columns in prop_oneof![1..5usize, 5..200usize],
        spread in prop_oneof![Just(0.1), Just(3.0), Just(60.0)],
        blocks in 1..4usize,
        seed in 0..1000u64,
    ) {
        check::<f32>(rows, columns, spread, blocks, seed);
        check::<bf16>(rows, columns, spread, blocks, seed);
    }
}
