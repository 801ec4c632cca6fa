use half::bf16;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::cross_entropy::{forward, weigh};
use proptest::prelude::*;

use super::harness::*;

const SCALE: f32 = 0.37;

/// Gradient, losses and hits as the CPU device computes them.
fn cpu<R: Real>(logits: Vec<R>, labels: &[i32]) -> (Vec<R>, Vec<R>, Vec<i32>) {
    let (mut gradient, mut losses, mut hits) = (logits, vec![R::ZERO; labels.len()], vec![0; labels.len()]);
    forward(&mut gradient, labels, R::of(f64::from(SCALE)), &mut losses, &mut hits);
    (gradient, losses, hits)
}

fn check<T: Float>(rows: usize, classes: usize, spread: f64, blocks: usize, seed: u64) {
    let logits = normals::<T>(seed, rows * classes, spread);
    let labels = below(seed, rows, classes);
    // Rows of whole groups, or with some other gap, of NaN.
    let stride = if seed.is_multiple_of(2) { classes.next_multiple_of(8) } else { classes + seed as usize % 5 };
    let gap = vec![f32::NAN; stride - classes];
    let with_gaps: Vec<f32> = logits.chunks(classes).flat_map(|row| [row, &gap].concat()).collect();
    let (memory, label_memory) = (Memory::of::<T>("logits", &with_gaps), Memory::integers("labels", &labels));
    let losses = Memory::poisoned::<f32>("losses", rows);
    let hits = Memory::poisoned_integers("hits", rows);
    launch!(
        "cross_entropy_forward" as T::DTYPE,
        [blocks, 1],
        [256, 1],
        seed,
        [&memory, &label_memory, rows, classes, stride, SCALE, &losses, &hits,]
    );
    let total = Memory::poisoned_doubles("total", 2);
    launch!("cross_entropy_total", [1, 1], [256, 1], seed, [&losses, &hits, rows, &total]);

    let (reference, reference_losses, expected_hits) = cpu(doubles(&logits), &labels);
    let (plain, plain_losses, _) = cpu(logits, &labels);
    let gradient: Vec<f32> = memory.values::<T>().chunks(stride).flat_map(|row| row[..classes].to_vec()).collect();
    assert!(memory.values::<T>().chunks(stride).all(|row| row[classes..].iter().all(|value| value.is_nan())));
    Tolerance { terms: 1.0 }.check("gradient", &gradient, &rounded::<T>(&plain), &reference);
    Tolerance { terms: 1.0 }.check("losses", &losses.values::<f32>(), &plain_losses, &reference_losses);
    assert_eq!(hits.to_integers(), expected_hits);
    let expected_loss: f64 = losses.values::<f32>().iter().map(|&loss| f64::from(loss)).sum();
    let [loss, hit] = total.to_doubles()[..] else { panic!("two totals") };
    assert!((loss - expected_loss).abs() <= 1e-12 * expected_loss.abs(), "{loss} {expected_loss}");
    assert_eq!(hit, f64::from(expected_hits.iter().sum::<i32>()));
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn loss_hit_and_gradient(
        rows in 1..12usize,
        classes in prop_oneof![1..10usize, 10..600usize, Just(4101)],
        spread in prop_oneof![Just(0.1), Just(3.0), Just(40.0)],
        blocks in 1..4usize,
        seed in 0..1000u64,
    ) {
        check::<f32>(rows, classes, spread, blocks, seed);
        check::<bf16>(rows, classes, spread, blocks, seed);
    }

    #[test]
    fn rows_that_weigh(
        rows in 1..30usize,
        classes in prop_oneof![1..5usize, 5..100usize],
        gamma in prop_oneof![Just(0.0f32), Just(0.5), Just(2.0)],
        blocks in 1..4usize,
        seed in 0..1000u64,
    ) {
        check_weigh::<f32>(rows, classes, gamma, blocks, seed);
        check_weigh::<bf16>(rows, classes, gamma, blocks, seed);
    }
}

/// Gradients and losses, as the first kernel leaves them, of rows that weigh.
fn check_weigh<T: Float>(rows: usize, classes: usize, gamma: f32, blocks: usize, seed: u64) {
    let gradient = normals::<T>(seed, rows * classes, 1.0);
    let labels = below(seed, rows, classes);
    // Rows that are right beyond doubt, nearly right, and wrong.
    let losses: Vec<f32> = (0..rows).map(|row| [0.0, 1e-6, 0.02, 0.7, 30.0][(row + seed as usize) % 5]).collect();
    let weights: Vec<f32> = (0..classes).map(|class| 0.1 + 1.7 * class as f32).collect();
    let stride = if seed.is_multiple_of(2) { classes.next_multiple_of(8) } else { classes + seed as usize % 5 };
    let gap = vec![f32::NAN; stride - classes];
    let with_gaps: Vec<f32> = gradient.chunks(classes).flat_map(|row| [row, &gap].concat()).collect();
    let (memory, label_memory) = (Memory::of::<T>("gradient", &with_gaps), Memory::integers("labels", &labels));
    let (weight_memory, loss_memory) = (Memory::of::<f32>("weights", &weights), Memory::of::<f32>("losses", &losses));
    launch!(
        "cross_entropy_weigh" as T::DTYPE,
        [blocks, 1],
        [256, 1],
        seed,
        [&memory, &label_memory, &weight_memory, rows, classes, stride, gamma, &loss_memory,]
    );
    let (mut reference, mut reference_losses) = (doubles(&gradient), doubles(&losses));
    weigh(&mut reference, &labels, &weights, f64::from(gamma), &mut reference_losses);
    let (mut plain, mut plain_losses) = (gradient, losses);
    weigh(&mut plain, &labels, &weights, f64::from(gamma), &mut plain_losses);
    let found: Vec<f32> = memory.values::<T>().chunks(stride).flat_map(|row| row[..classes].to_vec()).collect();
    assert!(memory.values::<T>().chunks(stride).all(|row| row[classes..].iter().all(|value| value.is_nan())));
    let largest = f64::from(weights[classes - 1]) * (1.0 + f64::from(gamma));
    Tolerance { terms: 10.0 * largest }.check("gradient", &found, &rounded::<T>(&plain), &reference);
    Tolerance { terms: 30.0 * largest }.check("losses", &loss_memory.values::<f32>(), &plain_losses, &reference_losses);
}

/// bf16 logits are often equal: the first of the largest is the prediction, whether the same thread meets the others, or
/// another of its warp, or another warp.
#[test]
fn the_first_of_equal_logits_is_the_hit() {
    let classes = 2400;
    let largest = [100, 101, 130, 650, 2200];
    let mut logits = vec![-1.0f32; largest.len() * classes];
    for row in logits.chunks_mut(classes) {
        largest.iter().for_each(|&at| row[at] = 2.0);
    }
    let labels = Memory::integers("labels", &largest.map(|at| at as i32));
    for schedule in 0..3 {
        let memory = Memory::of::<bf16>("logits", &logits);
        let losses = Memory::poisoned::<f32>("losses", largest.len());
        let hits = Memory::poisoned_integers("hits", largest.len());
        launch!("cross_entropy_forward" as "bf16", [3, 1], [256, 1], schedule, [
            &memory, &labels, largest.len(), classes, classes, 0.0f32, &losses, &hits,
        ]);
        assert_eq!(hits.to_integers(), [1, 0, 0, 0, 0]);
    }
}

#[test]
fn a_label_that_is_no_class_makes_the_loss_nan() {
    for label in [-1, 3, i32::MAX] {
        let (memory, labels) = (Memory::of::<f32>("logits", &[1.0, 2.0, 3.0]), Memory::integers("labels", &[label]));
        let (losses, hits) = (Memory::of::<f32>("losses", &[0.0]), Memory::poisoned_integers("hits", 1));
        launch!("cross_entropy_forward" as "f32", [1, 1], [256, 1], 0, [
            &memory, &labels, 1usize, 3usize, 3usize, 1.0f32, &losses, &hits,
        ]);
        assert!(losses.values::<f32>()[0].is_nan());
        assert_eq!(hits.to_integers(), [0]);
    }
}
