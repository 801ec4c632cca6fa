use half::bf16;
use helixgrad::device::cpu::embedding::{backward, forward};
use proptest::prelude::*;

use super::harness::*;

fn check_forward<T: Float>(total: usize, hidden: usize, blocks: usize, seed: u64) {
    let entries = [30, 12, 2];
    let tables = [0, 1, 2].map(|i| normals::<T>(seed + i as u64, entries[i] * hidden, 1.0));
    let indices = [0, 1, 2].map(|i| below(seed + 3 + i as u64, total, entries[i]));
    let [word, position, kind] = [0, 1, 2].map(|i| Memory::of::<T>("table", &tables[i]));
    let [tokens, positions, types] = [0, 1, 2].map(|i| Memory::integers("indices", &indices[i]));
    let y = Memory::poisoned::<T>("y", total * hidden);
    launch!(
        "embedding_forward" as T::DTYPE,
        [blocks, 1],
        [256, 1],
        seed,
        [&word, &position, &kind, &tokens, &positions, &types, total, hidden, &y,]
    );
    let mut expected = vec![0.0f32; total * hidden];
    let (tables, indices) = (tables.each_ref().map(|table| Some(&table[..])), indices.each_ref().map(|i| &i[..]));
    forward(tables, indices, None, hidden, &mut expected);
    assert_eq!(y.values::<T>(), rounded::<T>(&expected));
}

struct Case {
    total: usize,
    entries: usize,
    hidden: usize,
    padding: Option<usize>,
    seed: u64,
}

/// The tokens sorted by entry, and where each entry's start, as the four sort kernels leave them.
fn sort(case: &Case, indices: &Memory) -> (Memory, Memory) {
    let Case { total, entries, seed, .. } = *case;
    let tiles = total.div_ceil(256);
    let counts = Memory::integers("counts", &vec![0; entries * tiles]);
    let starts = Memory::poisoned_integers("starts", entries + 1);
    let order = Memory::poisoned_integers("order", total);
    launch!("embedding_sort_count", [tiles, 1], [256, 1], seed, [indices, total, tiles, &counts]);
    launch!("embedding_sort_prefix", [entries.div_ceil(8), 1], [256, 1], seed, [&counts, entries, tiles, &starts]);
    launch!("embedding_sort_starts", [1, 1], [1024, 1], seed, [&starts, entries]);
    launch!("embedding_sort_place", [tiles, 1], [256, 1], seed, [indices, total, tiles, &counts, &starts, &order]);
    (order, starts)
}

fn check_backward<T: Float, G: Float>(case: &Case, indices: &[i32], name: &str) {
    let Case { total, entries, hidden, padding, seed } = *case;
    let index_memory = Memory::integers("indices", indices);
    let (order, starts) = sort(case, &index_memory);
    let mut expected: Vec<i32> = (0..total as i32).collect();
    expected.sort_by_key(|&token| indices[token as usize]);
    assert_eq!(order.to_integers(), expected);

    let dy = normals::<T>(seed, total * hidden, 1.0);
    let before = normals::<G>(seed + 1, entries * hidden, 1.0);
    let (dy_memory, d_table) = (Memory::of::<T>("dy", &dy), Memory::of::<G>("d_table", &before));
    let chunks = total.div_ceil(64);
    let partials = Memory::poisoned::<f32>("partials", chunks * 2 * hidden);
    let padding_argument = padding.map_or(-1, |padding| padding as i32);
    let columns = hidden.div_ceil(256);
    launch!(
        "embedding_backward" as name,
        [columns, chunks.div_ceil(8)],
        [32, 8],
        seed,
        [&dy_memory, &index_memory, &order, &starts, total, hidden, padding_argument, &d_table, &partials,]
    );
    launch!(
        "embedding_finish" as G::DTYPE,
        [columns, chunks],
        [32, 8],
        seed,
        [&partials, &index_memory, &order, &starts, total, hidden, padding_argument, &d_table,]
    );
    let (mut reference, mut plain) = (doubles(&before), before);
    backward(&doubles(&dy), indices, None, padding, hidden, &mut reference);
    backward(&dy, indices, None, padding, hidden, &mut plain);
    Tolerance { terms: total as f64 }.check("d_table", &d_table.values::<G>(), &rounded::<G>(&plain), &reference);
}

fn check_all(case: &Case, indices: &[i32]) {
    check_backward::<f32, f32>(case, indices, "f32");
    check_backward::<bf16, bf16>(case, indices, "bf16");
    check_backward::<bf16, f32>(case, indices, "bf16_f32");
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn sums_of_three_tables(total in 1..40usize, hidden in columns(), blocks in 1..4usize, seed in 0..1000u64) {
        check_forward::<f32>(total, hidden, blocks, seed);
        check_forward::<bf16>(total, hidden, blocks, seed);
    }

    #[test]
    fn gradients_of_a_table(
        total in 1..700usize,
        entries in prop_oneof![1..4usize, 4..40usize, 1000..1100usize],
        hidden in prop_oneof![1..20usize, Just(32), Just(264)],
        padding in prop_oneof![Just(None), Just(Some(0))],
        seed in 0..1000u64,
    ) {
        let case = Case { total, entries, hidden, padding, seed };
        check_all(&case, &below(seed, total, entries));
    }
}

/// Runs that start and end on, before and behind the ends of chunks and tiles.
#[test]
fn runs_that_cross_chunks() {
    for runs in [vec![64, 64, 1], vec![63, 130, 63], vec![1, 300, 200, 64, 64, 1], vec![700], vec![0, 65, 0, 63, 500]] {
        let indices: Vec<i32> = runs.iter().enumerate().flat_map(|(entry, &count)| vec![entry as i32; count]).collect();
        for padding in [None, Some(0), Some(1)] {
            let case = Case { total: indices.len(), entries: runs.len(), hidden: 24, padding, seed: 3 };
            check_all(&case, &indices);
        }
    }
}
