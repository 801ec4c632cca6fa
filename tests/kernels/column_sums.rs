use half::bf16;
use helixgrad::device::cpu::add_column_sums;
use proptest::prelude::*;

use super::harness::*;

/// `before` plus the column sums of `x`, by the two kernels; `gap` elements of NaN follow each row.
fn kernel_sums<T: Float, G: Float>(x: &[f32], gap: usize, before: &[f32], parts: usize, seed: u64) -> Vec<f32> {
    let columns = before.len();
    let (rows, stride) = (x.len() / columns, columns + gap);
    let with_gaps: Vec<f32> = x.chunks(columns).flat_map(|row| [row, &vec![f32::NAN; gap]].concat()).collect();
    let memory = Memory::of::<T>("x", &with_gaps);
    let partials = Memory::poisoned::<f32>("partials", parts * columns);
    let grid = [columns.div_ceil(256), parts];
    launch!("column_sums_partial" as T::DTYPE, grid, [32, 8], seed, [&memory, rows, columns, stride, &partials]);
    let sums = Memory::of::<G>("sums", before);
    let grid = [columns.div_ceil(32), 1];
    launch!("column_sums_finish" as G::DTYPE, grid, [32, 8], seed, [&partials, parts, columns, &sums]);
    sums.values::<G>()
}

fn check<T: Float, G: Float>(rows: usize, columns: usize, parts: usize, seed: u64) {
    let x = normals::<T>(seed, rows * columns, 1.0);
    let before = normals::<G>(seed + 1, columns, 1.0);
    let (gap, to_a_group) = (seed as usize % 4, columns.next_multiple_of(8) - columns);
    let sums = kernel_sums::<T, G>(&x, if gap == 0 { to_a_group } else { gap - 1 }, &before, parts, seed);
    let (mut reference, mut plain) = (doubles(&before), before);
    add_column_sums(&doubles(&x), &mut reference);
    add_column_sums(&x, &mut plain);
    Tolerance { terms: rows as f64 }.check("sums", &sums, &rounded::<G>(&plain), &reference);
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn of_any_shape(rows in 1..300usize, columns in columns(), parts in 1..24usize, seed in 0..1000u64) {
        check::<f32, f32>(rows, columns, parts, seed);
        check::<bf16, bf16>(rows, columns, parts, seed);
        check::<bf16, f32>(rows, columns, parts, seed);
    }
}

#[test]
fn the_schedule_changes_no_bit() {
    let (rows, columns, parts) = (200, 300, 9);
    let (x, before) = (normals::<f32>(1, rows * columns, 1.0), normals::<f32>(2, columns, 1.0));
    let sums = kernel_sums::<f32, f32>(&x, 0, &before, parts, 0);
    for schedule in 1..4 {
        assert_eq!(kernel_sums::<f32, f32>(&x, 0, &before, parts, schedule), sums);
    }
}
