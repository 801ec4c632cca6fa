//! The attention kernels for Hopper against the CPU device and against the sm80 family.

use half::bf16;
use helixgrad::device::attention_kernels::{AttentionKernel, AttentionKernels, AttentionPath, PLAN_ROWS};
use helixgrad::device::{DType, Swizzle};

use super::attention::{Case, cpu, kernels, plain_bf16};
use super::harness::*;
use super::machine::runs_sm90;

/// A packed matrix as attention's tensor maps have it: `tile_rows` rows of one head, at most 64 elements wide.
fn head_map(matrix: &Memory, case: &Case, parts: usize, tile_rows: u32) -> Argument {
    let columns = parts * case.hidden();
    let (width, swizzle) = if case.head_dim == 32 { (32, Swizzle::Bytes64) } else { (64, Swizzle::Bytes128) };
    matrix.map(DType::Bf16, &[columns, case.total()], &[columns], &[width, tile_rows], swizzle)
}

/// Output, log-sum-exp and d_qkv as the kernels compute them, by `blocks` blocks that share the work, under one schedule.
fn hopper(case: &Case, qkv: &[f32], d_output: &[f32], blocks: u32, schedule: u64) -> [Vec<f32>; 3] {
    let Case { heads, head_dim, .. } = *case;
    let table = AttentionKernels::choose(AttentionPath::Sm90, DType::Bf16, head_dim, (9, 0), false).unwrap();
    let (total, sequences) = (case.total(), case.lengths.len());
    let capacity = total / PLAN_ROWS + sequences;
    let (site, scale) = (attention_dropout(case.p, case.seed).0, 1.0 / (head_dim as f32).sqrt());
    let qkv = Memory::of::<bf16>("qkv", qkv);
    let d_output = Memory::of::<bf16>("d_output", d_output);
    let cu_seqlens = Memory::integers("cu_seqlens", &case.cu_seqlens());
    let plan = Memory::poisoned_integers("plan", 3 * capacity);
    let output = Memory::poisoned::<bf16>("output", total * case.hidden());
    let log_sum_exp = Memory::poisoned::<f32>("log_sum_exp", total * heads);
    let terms = Memory::poisoned::<f32>("row_terms", 2 * total * heads);
    let d_qkv = Memory::poisoned::<bf16>("d_qkv", 3 * total * case.hidden());
    let launch = |kernel: &AttentionKernel, [inputs, more, outputs]: [Vec<Argument>; 3]| {
        let work = vec![(&cu_seqlens).into(), (&plan).into(), capacity.into(), heads.into()];
        let arguments = [inputs, work, more, vec![scale.into(), site.into()], outputs].into_iter().flatten().collect();
        run_3d(kernel.name, [blocks, 1, 1], [kernel.threads, 1, 1], kernel.shared_bytes as usize, schedule, arguments);
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
    let columns = if head_dim == 128 { 64 } else { 128 };
    let own = [head_map(&qkv, case, 3, 128), head_map(&d_output, case, 1, 128)];
    let inputs = own.into_iter().chain([head_map(&qkv, case, 3, columns), (&terms).into()]).collect();
    launch(&table.backward_queries, [inputs, vec![total.into()], vec![(&d_qkv).into()]]);
    let columns = if head_dim == 128 { 32 } else { 64 };
    let inputs = vec![
        head_map(&qkv, case, 3, 128),
        head_map(&qkv, case, 3, columns),
        head_map(&d_output, case, 1, columns),
        terms.map(DType::F32, &[2 * total * heads], &[], &[2 * columns], Swizzle::None),
    ];
    launch(&table.backward_keys, [inputs, vec![total.into()], vec![(&d_qkv).into()]]);
    [output.values::<bf16>(), log_sum_exp.values::<f32>(), d_qkv.values::<bf16>()]
}

fn check(case: &Case, blocks: u32) {
    let qkv = normals::<bf16>(case.seed, case.total() * 3 * case.hidden(), 1.5);
    check_values(case, &qkv, blocks);
}

fn check_values(case: &Case, qkv: &[f32], blocks: u32) {
    if !runs_sm90() {
        return;
    }
    let d_output = normals::<bf16>(case.seed + 1, case.total() * case.hidden(), 1.0);
    let reference = cpu(case, doubles(qkv), doubles(&d_output));
    let [plain_output, plain_d_qkv] = plain_bf16(case, qkv, &d_output);
    let [_, plain_log_sum_exp, _] = cpu(case, qkv.to_vec(), d_output.clone());
    let found = hopper(case, qkv, &d_output, blocks, case.seed);
    let names = ["output", "log_sum_exp", "d_qkv"];
    let plain = [plain_output, plain_log_sum_exp, plain_d_qkv];
    let sm80 = kernels::<bf16>(case, qkv, &d_output, case.seed);
    for (i, name) in names.into_iter().enumerate() {
        Tolerance { terms: 1.0 }.check(name, &found[i], &plain[i], &reference[i]);
        Tolerance { terms: 1.0 }.check(&format!("{name} beside sm80"), &found[i], &sm80[i], &reference[i]);
    }
    for more in 1..4 {
        let again = hopper(case, qkv, &d_output, blocks + more, case.seed + 17 * u64::from(more));
        assert_eq!(found, again, "another schedule and another grid give the same bits");
    }
}

#[test]
fn short_sequences_and_an_empty_one() {
    check(&Case::new(&[1, 15, 16, 17, 0, 100], 2, 64, 0.0, 0), 3);
}

#[test]
fn several_tiles_with_dropout() {
    check(&Case::new(&[300, 5], 1, 64, 0.1, 1), 2);
}

#[test]
fn every_head_size() {
    check(&Case::new(&[130, 33], 2, 32, 0.3, 2), 2);
    check(&Case::new(&[70, 129], 1, 128, 0.1, 3), 1);
}

/// The producer runs ahead until the ring is full, and goes on as stages are given back.
#[test]
fn more_tiles_than_stages() {
    check(&Case::new(&[641], 1, 32, 0.0, 4), 1);
    check(&Case::new(&[270, 140], 1, 128, 0.0, 5), 1);
}

/// As for the sm80 family: exp of the score of a key behind the end would be infinite.
#[test]
fn keys_behind_the_end_do_not_exist() {
    for head_dim in [32, 64, 128] {
        let case = Case::new(&[70, 9], 1, head_dim, 0.1, 9);
        let size = (128.0 / (head_dim as f32).sqrt()).sqrt();
        let noise = normals::<bf16>(9, case.total() * 3 * head_dim, 0.2);
        let part = |index: usize| [size, -size, 0.0][index / head_dim % 3];
        let qkv: Vec<f32> = noise.iter().enumerate().map(|(index, noise)| bf16::round(noise + part(index))).collect();
        check_values(&case, &qkv, 2);
    }
}
