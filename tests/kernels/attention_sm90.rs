//! The Hopper attention kernels against the CPU device and against the sm_80 kernels.

use half::bf16;
use helixgrad::device::attention_kernels::PLAN_ROWS;
use helixgrad::device::{DType, Swizzle};

use super::attention::{Case, cpu, kernels, plain_bf16};
use super::harness::*;
use super::machine::runs_sm90;

/// The rows of a packed matrix as attention's tensor maps have them: 128 rows of one head, at most 64 elements wide.
fn head_map(memory: &Memory, rows: usize, columns: usize, head_dim: usize) -> Argument {
    let (width, swizzle) = if head_dim == 32 { (32, Swizzle::Bytes64) } else { (64, Swizzle::Bytes128) };
    memory.map(DType::Bf16, &[columns, rows], &[columns], &[width, 128], swizzle)
}

/// Output and log-sum-exp as the kernels compute them, by `blocks` blocks that share the work, under one schedule.
fn forward(case: &Case, qkv: &[f32], blocks: u32, schedule: u64) -> [Vec<f32>; 2] {
    let Case { heads, head_dim, .. } = *case;
    let (total, sequences, hidden) = (case.lengths.iter().sum::<usize>(), case.lengths.len(), heads * head_dim);
    let capacity = total / PLAN_ROWS + sequences;
    let qkv = Memory::of::<bf16>("qkv", qkv);
    let cu_seqlens = Memory::integers("cu_seqlens", &case.cu_seqlens());
    let plan = Memory::poisoned_integers("plan", 2 * capacity);
    let output = Memory::poisoned::<bf16>("output", total * hidden);
    let log_sum_exp = Memory::poisoned::<f32>("log_sum_exp", total * heads);
    launch!("attention_plan", [1, 1], [256, 1], schedule, [&cu_seqlens, sequences, capacity, &plan]);
    // Queries and output, keys and values in their stages, barriers.
    let stages = if head_dim == 128 { 2 } else { 4 };
    let shared = (2 * PLAN_ROWS + 2 * stages * 128) * head_dim * 2 + 1024;
    let arguments = vec![
        head_map(&qkv, total, 3 * hidden, head_dim),
        (&cu_seqlens).into(),
        (&plan).into(),
        capacity.into(),
        heads.into(),
        (1.0 / (head_dim as f32).sqrt()).into(),
        dropout(case.p, case.seed).0.into(),
        (&output).into(),
        (&log_sum_exp).into(),
    ];
    let name = format!("attention_forward_sm90_bf16_d{head_dim}");
    run_3d(&name, [blocks, 1, 1], [384, 1, 1], shared, schedule, arguments);
    [output.values::<bf16>(), log_sum_exp.values::<f32>()]
}

fn check(case: &Case, blocks: u32) {
    if !runs_sm90() {
        return;
    }
    let (total, hidden) = (case.lengths.iter().sum::<usize>(), case.heads * case.head_dim);
    let qkv = normals::<bf16>(case.seed, total * 3 * hidden, 1.5);
    let d_output = normals::<bf16>(case.seed + 1, total * hidden, 1.0);
    let reference = cpu(case, doubles(&qkv), doubles(&d_output));
    let [plain_output, _] = plain_bf16(case, &qkv, &d_output);
    let [_, plain_log_sum_exp, _] = cpu(case, qkv.clone(), d_output.clone());
    let [output, log_sum_exp] = forward(case, &qkv, blocks, case.seed);
    Tolerance { terms: 1.0 }.check("output", &output, &plain_output, &reference[0]);
    Tolerance { terms: 1.0 }.check("log_sum_exp", &log_sum_exp, &plain_log_sum_exp, &reference[1]);
    let [sm80, _, _] = kernels::<bf16>(case, &qkv, &d_output, case.seed);
    Tolerance { terms: 1.0 }.check("output beside sm_80's", &output, &sm80, &reference[0]);
    let again = forward(case, &qkv, blocks + 1, case.seed + 17);
    assert_eq!([output, log_sum_exp], again, "another schedule and another grid give the same bits");
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

#[test]
fn more_tiles_than_stages() {
    check(&Case::new(&[641], 1, 32, 0.0, 4), 1);
}
