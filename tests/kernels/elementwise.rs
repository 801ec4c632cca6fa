use half::bf16;
use proptest::prelude::*;

use super::harness::*;

fn check_accumulate<T: Float>(count: usize, blocks: usize, seed: u64) {
    let (sum, term) = (normals::<T>(seed, count, 1.0), normals::<T>(seed + 1, count, 1.0));
    let (sum_memory, term_memory) = (Memory::of::<T>("sum", &sum), Memory::of::<T>("term", &term));
    launch!("accumulate" as T::DTYPE, [blocks, 1], [256, 1], seed, [&sum_memory, &term_memory, count as i64]);
    let expected: Vec<f32> = sum.iter().zip(term).map(|(sum, term)| T::round(sum + term)).collect();
    assert_eq!(sum_memory.values::<T>(), expected);
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn accumulate(count in 1..5000usize, blocks in 1..4usize, seed in 0..1000u64) {
        check_accumulate::<f32>(count, blocks, seed);
        check_accumulate::<bf16>(count, blocks, seed);
    }
}
