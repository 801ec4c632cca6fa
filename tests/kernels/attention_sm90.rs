//! The attention kernels for Hopper against the CPU device and against the sm80 family.

use half::bf16;
use helixgrad::device::attention_kernels::AttentionPath::{Sm90, Sm90Split};
use helixgrad::device::attention_kernels::{AttentionKernel, AttentionKernels, AttentionPath, PLAN_ROWS};
use helixgrad::device::{DType, Swizzle, cpu};

use super::attention::{Case, cpu as attend, kernels, plain_bf16};
use super::harness::*;
use super::machine::runs_sm90;

/// A packed matrix as attention's tensor maps have it: `tile_rows` rows of one head, at most 64 elements wide.
fn head_map(matrix: &Memory, case: &Case, parts: usize, tile_rows: u32) -> Argument {
    let columns = parts * case.hidden();
    let (width, swizzle) = if case.head_dim == 32 { (32, Swizzle::Bytes64) } else { (64, Swizzle::Bytes128) };
    matrix.map(DType::Bf16, &[columns, case.total()], &[columns], &[width, tile_rows], swizzle)
}

/// What the gradient of a bias in queries, keys and values is before something is added to it.
fn earlier_gradient(columns: usize) -> Vec<f32> {
    normals::<f32>(77, columns, 1.0)
}

/// Output, log-sum-exp and d_qkv as the kernels of a family compute them, by `blocks` blocks that share the work, under one schedule; and the
/// gradient of a bias, if there is `bias` and the kernel for whole sequences.
fn hopper(
    family: AttentionPath,
    case: &Case,
    [qkv, d_output]: [&[f32]; 2],
    bias: bool,
    blocks: u32,
    schedule: u64,
) -> [Vec<f32>; 4] {
    let Case { heads, head_dim, .. } = *case;
    let table = AttentionKernels::choose(family, DType::Bf16, head_dim, (9, 0), false).unwrap();
    let (total, sequences) = (case.total(), case.lengths.len());
    let capacity = total / PLAN_ROWS + sequences;
    let (site, scale) = (attention_dropout(case.p, case.seed).0, 1.0 / (head_dim as f32).sqrt());
    let qkv = Memory::of::<bf16>("qkv", qkv);
    let d_output = Memory::of::<bf16>("d_output", d_output);
    let cu_seqlens = Memory::integers("cu_seqlens", &case.cu_seqlens());
    let plan = Memory::poisoned_integers("plan", 3 * capacity + sequences);
    let output = Memory::poisoned::<bf16>("output", total * case.hidden());
    let log_sum_exp = Memory::poisoned::<f32>("log_sum_exp", total * heads);
    let terms = Memory::poisoned::<f32>("row_terms", 2 * total * heads);
    let d_qkv = Memory::poisoned::<bf16>("d_qkv", 3 * total * case.hidden());
    let run = |kernel: &AttentionKernel, parts: [Vec<Argument>; 3]| {
        let arguments = parts.into_iter().flatten().collect();
        run_3d(kernel.name, [blocks, 1, 1], [kernel.threads, 1, 1], kernel.shared_bytes as usize, schedule, arguments);
    };
    let launch = |kernel: &AttentionKernel, [mut inputs, more, outputs]: [Vec<Argument>; 3]| {
        inputs.extend([(&cu_seqlens).into(), (&plan).into(), capacity.into(), heads.into()]);
        run(kernel, [inputs, more.into_iter().chain([scale.into(), site.into()]).collect(), outputs]);
    };
    launch!("attention_plan", [1, 1], [256, 1], schedule, [&cu_seqlens, sequences, capacity, &plan]);
    let outputs = vec![(&output).into(), (&log_sum_exp).into()];
    launch(&table.forward, [vec![head_map(&qkv, case, 3, 128)], vec![], outputs]);
    launch!(
        "attention_row_terms_bf16",
        [total * heads / 32, 1],
        [256, 1],
        schedule,
        [&output, &d_output, &log_sum_exp, total, heads, head_dim, &terms]
    );
    let terms_map = |queries: u32| terms.map(DType::F32, &[2 * total * heads], &[], &[2 * queries], Swizzle::None);
    if let Some(kernel) = table.whole(*case.lengths.iter().max().unwrap()) {
        let maps = [head_map(&qkv, case, 3, 128), head_map(&qkv, case, 3, 64), head_map(&d_output, case, 1, 64)];
        let work = [(&cu_seqlens).into(), (&plan).into(), capacity.into(), (sequences * heads).into()];
        let more = vec![heads.into(), total.into(), scale.into(), site.into()];
        let inputs = maps.into_iter().chain([terms_map(64)]).chain(work).collect();
        let columns = 3 * case.hidden();
        let sums = bias.then(|| Memory::poisoned::<f32>("bias_sums", sequences * columns));
        run(kernel, [inputs, more, vec![(&d_qkv).into(), sums.as_ref().into()]]);
        let d_bias = sums.map_or(Vec::new(), |sums| {
            let d_bias = Memory::of::<f32>("d_bias", &earlier_gradient(columns));
            let grid = [columns.div_ceil(32), 1];
            launch!("column_sums_finish_f32", grid, [32, 8], schedule, [&sums, sequences, columns, &d_bias]);
            d_bias.values::<f32>()
        });
        return [output.values::<bf16>(), log_sum_exp.values::<f32>(), d_qkv.values::<bf16>(), d_bias];
    }
    let columns = if head_dim == 128 { 64 } else { 128 };
    let own = [head_map(&qkv, case, 3, 128), head_map(&d_output, case, 1, 128)];
    let inputs = own.into_iter().chain([head_map(&qkv, case, 3, columns), (&terms).into()]).collect();
    launch(&table.backward_queries, [inputs, vec![total.into()], vec![(&d_qkv).into()]]);
    let columns = if head_dim == 128 { 32 } else { 64 };
    let streamed = [head_map(&qkv, case, 3, columns), head_map(&d_output, case, 1, columns), terms_map(columns)];
    let inputs = [head_map(&qkv, case, 3, 128)].into_iter().chain(streamed).collect();
    launch(&table.backward_keys, [inputs, vec![total.into()], vec![(&d_qkv).into()]]);
    [output.values::<bf16>(), log_sum_exp.values::<f32>(), d_qkv.values::<bf16>(), Vec::new()]
}

/// The gradient of the bias against the column sums of d_qkv in f64, and those of the plain computation in bf16, which are of rounded numbers.
fn check_bias(case: &Case, d_bias: &[f32], plain: &[f32], reference: &[f64]) {
    let (hidden, columns) = (case.hidden(), 3 * case.hidden());
    let earlier = earlier_gradient(columns);
    let mut sums = doubles(&earlier);
    cpu::add_column_sums(reference, &mut sums);
    let mut plain_sums = doubles(&earlier);
    cpu::add_column_sums(&doubles(plain), &mut plain_sums);
    let plain_sums: Vec<f32> = plain_sums.into_iter().map(|sum| sum as f32).collect();
    for (part, name) in ["query.bias", "key.bias", "value.bias"].into_iter().enumerate() {
        let part = part * hidden..(part + 1) * hidden;
        Tolerance { terms: 10.0 }.check(name, &d_bias[part.clone()], &plain_sums[part.clone()], &sums[part]);
    }
    // Nothing is added for keys: a constant in all scores of a query changes no probability.
    assert_eq!(d_bias[hidden..2 * hidden], earlier[hidden..2 * hidden]);
}

fn check(family: AttentionPath, case: &Case, blocks: u32) {
    let qkv = normals::<bf16>(case.seed, case.total() * 3 * case.hidden(), 1.5);
    check_values(family, case, &qkv, blocks);
}

fn check_values(family: AttentionPath, case: &Case, qkv: &[f32], blocks: u32) {
    if !runs_sm90() {
        return;
    }
    let d_output = normals::<bf16>(case.seed + 1, case.total() * case.hidden(), 1.0);
    let reference = attend(case, doubles(qkv), doubles(&d_output));
    let [plain_output, plain_d_qkv] = plain_bf16(case, qkv, &d_output);
    let [_, plain_log_sum_exp, _] = attend(case, qkv.to_vec(), d_output.clone());
    let inputs = [qkv, &d_output[..]];
    let found = hopper(family, case, inputs, true, blocks, case.seed);
    let names = ["output", "log_sum_exp", "d_qkv"];
    let plain = [plain_output, plain_log_sum_exp, plain_d_qkv];
    let (beside, other) = match family {
        AttentionPath::Sm90 => {
            ("sm90-split", hopper(AttentionPath::Sm90Split, case, inputs, false, blocks, case.seed).to_vec())
        }
        _ => ("sm80", kernels::<bf16>(case, qkv, &d_output, case.seed).to_vec()),
    };
    for (i, name) in names.into_iter().enumerate() {
        Tolerance { terms: 1.0 }.check(name, &found[i], &plain[i], &reference[i]);
        Tolerance { terms: 1.0 }.check(&format!("{name} beside {beside}"), &found[i], &other[i], &reference[i]);
    }
    if family == Sm90 {
        check_bias(case, &found[3], &plain[2], &reference[2]);
        let without = hopper(family, case, inputs, false, blocks, case.seed);
        assert_eq!(found[..3], without[..3], "a bias changes nothing else");
    }
    for more in 1..4 {
        let again = hopper(family, case, inputs, true, blocks + more, case.seed + 17 * u64::from(more));
        assert_eq!(found, again, "another schedule and another grid give the same bits");
    }
}

#[test]
fn short_sequences_and_an_empty_one() {
    check(Sm90Split, &Case::new(&[1, 15, 16, 17, 0, 100], 2, 64, 0.0, 0), 3);
}

#[test]
fn several_tiles_with_dropout() {
    check(Sm90Split, &Case::new(&[300, 5], 1, 64, 0.1, 1), 2);
}

#[test]
fn every_head_size() {
    check(Sm90Split, &Case::new(&[130, 33], 2, 32, 0.3, 2), 2);
    check(Sm90Split, &Case::new(&[70, 129], 1, 128, 0.1, 3), 1);
}

/// The producer runs ahead until the ring is full, and goes on as stages are given back.
#[test]
fn more_tiles_than_stages() {
    check(Sm90Split, &Case::new(&[641], 1, 32, 0.0, 4), 1);
    check(Sm90Split, &Case::new(&[270, 140], 1, 128, 0.0, 5), 1);
}

/// As for the sm80 family: exp of the score of a key behind the end would be infinite.
#[test]
fn keys_behind_the_end_do_not_exist() {
    for (family, head_dim) in [(Sm90Split, 32), (Sm90Split, 64), (Sm90Split, 128), (Sm90, 64)] {
        let case = Case::new(&[70, 9], 1, head_dim, 0.1, 9);
        let size = (128.0 / (head_dim as f32).sqrt()).sqrt();
        let noise = normals::<bf16>(9, case.total() * 3 * head_dim, 0.2);
        let part = |index: usize| [size, -size, 0.0][index / head_dim % 3];
        let qkv: Vec<f32> = noise.iter().enumerate().map(|(index, noise)| bf16::round(noise + part(index))).collect();
        check_values(family, &case, &qkv, 2);
    }
}

/// All gradients in one kernel: one block of keys, in each of its halves and at their edges, and an empty sequence.
#[test]
fn whole_sequences_of_one_block_of_keys() {
    check(Sm90, &Case::new(&[1, 7, 63, 64, 0, 65, 127, 128], 2, 64, 0.0, 20), 3);
    check(Sm90, &Case::new(&[100, 33], 2, 64, 0.1, 21), 1);
}

/// Gradients of queries are carried from block to block of keys; with an odd number of tiles the warpgroups change places.
#[test]
fn whole_sequences_of_several_blocks_of_keys() {
    check(Sm90, &Case::new(&[129, 300, 5, 190], 1, 64, 0.0, 22), 2);
    check(Sm90, &Case::new(&[448, 257, 40], 1, 64, 0.3, 23), 1);
}

#[test]
fn whole_sequences_up_to_the_longest() {
    check(Sm90, &Case::new(&[511, 512], 1, 64, 0.1, 24), 1);
    check(Sm90, &Case::new(&[512, 64], 2, 64, 0.0, 25), 2);
}

/// A block goes from one sequence to the next while some of its warps still add up the one before: sequences of a single tile, in which one of
/// the warpgroups has no turn to wait for the other, and empty ones, whose sums are zeros.
#[test]
fn whole_sequences_so_short_that_warps_run_ahead() {
    check(Sm90, &Case::new(&[30, 0, 64, 5, 0, 0, 17, 64, 1], 3, 64, 0.1, 26), 1);
    check(Sm90, &Case::new(&[200, 3, 0, 130, 64, 2], 2, 64, 0.0, 27), 1);
}
