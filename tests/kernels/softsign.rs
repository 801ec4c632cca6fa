//! The worked example's kernels. They are no part of the library, so there is nothing of them on a GPU.

use half::bf16;
use proptest::prelude::*;

use super::harness::*;

#[path = "../../examples/softsign/op.rs"]
#[allow(dead_code)]
mod op;

fn check<T: Float>(count: usize, blocks: usize, seed: u64) {
    let (x, dy) = (normals::<T>(seed, count, 2.0), normals::<T>(seed + 1, count, 1.0));
    let (x_memory, dy_memory) = (Memory::of::<T>("x", &x), Memory::of::<T>("dy", &dy));
    let y_memory = Memory::poisoned::<T>("y", count);
    launch!("softsign_forward" as T::DTYPE, [blocks, 1], [256, 1], seed, [&x_memory, &y_memory, count as i64]);
    launch!("softsign_backward" as T::DTYPE, [blocks, 1], [256, 1], seed, [&x_memory, &dy_memory, count as i64]);
    let (mut y, mut y_reference) = (vec![0.0f32; count], vec![0.0f64; count]);
    op::forward(&x, &mut y);
    op::forward(&doubles(&x), &mut y_reference);
    let (mut dx, mut dx_reference) = (dy.clone(), doubles(&dy));
    op::backward(&x, &mut dx);
    op::backward(&doubles(&x), &mut dx_reference);
    Tolerance { terms: 1.0 }.check("y", &y_memory.values::<T>(), &rounded::<T>(&y), &y_reference);
    Tolerance { terms: 1.0 }.check("dx", &dy_memory.values::<T>(), &rounded::<T>(&dx), &dx_reference);
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn forward_and_backward(count in 1..2000usize, blocks in 1..4usize, seed in 0..1000u64) {
        if std::env::var_os("HELIXGRAD_TEST_DEVICE").is_none() {
            check::<f32>(count, blocks, seed);
            check::<bf16>(count, blocks, seed);
        }
    }
}
