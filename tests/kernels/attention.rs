use half::bf16;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::attention::{Saved, Shape, backward, forward};
use helixgrad::device::cpu::dropout::AttentionDropout;

use super::harness::*;

pub const ROWS: usize = 128;

pub struct Case {
    pub lengths: Vec<usize>,
    pub heads: usize,
    pub head_dim: usize,
    pub p: f64,
    pub seed: u64,
}

impl Case {
    pub fn cu_seqlens(&self) -> Vec<i32> {
        let mut ends = vec![0];
        ends.extend(self.lengths.iter().scan(0, |end, &length| {
            *end += length as i32;
            Some(*end)
        }));
        ends
    }
}

/// Output, log-sum-exp and d_qkv as the CPU device computes them.
pub fn cpu<R: Real>(case: &Case, qkv: Vec<R>, d_output: Vec<R>) -> [Vec<R>; 3] {
    let (hidden, total) = (case.heads * case.head_dim, case.lengths.iter().sum::<usize>());
    let cu_seqlens = case.cu_seqlens();
    let shape = Shape {
        cu_seqlens: &cu_seqlens,
        heads: case.heads,
        head_dim: case.head_dim,
        scale: 1.0 / (case.head_dim as f64).sqrt(),
        dropout: dropout(case.p, case.seed).1,
    };
    let mut output = vec![R::ZERO; total * hidden];
    let mut log_sum_exp = vec![R::ZERO; total * case.heads];
    let mut d_qkv = vec![R::ZERO; qkv.len()];
    forward(&qkv, shape, &mut output, &mut log_sum_exp);
    let saved = Saved { qkv: &qkv, output: &output, log_sum_exp: &log_sum_exp };
    backward(saved, &d_output, shape, &mut d_qkv);
    [output, log_sum_exp, d_qkv]
}

/// Output, log-sum-exp and d_qkv as the bf16 kernels compute them, under one schedule.
pub fn kernels(case: &Case, qkv: &[f32], d_output: &[f32], schedule: u64) -> [Vec<f32>; 3] {
    let Case { heads, head_dim, .. } = *case;
    let (total, sequences) = (case.lengths.iter().sum::<usize>(), case.lengths.len());
    let (capacity, elements) = (total / ROWS + sequences, total * heads * head_dim);
    let (site, scale) = (dropout(case.p, case.seed).0, 1.0 / (head_dim as f32).sqrt());
    let qkv = Memory::of::<bf16>("qkv", qkv);
    let d_output = Memory::of::<bf16>("d_output", d_output);
    let cu_seqlens = Memory::integers("cu_seqlens", &case.cu_seqlens());
    let plan = Memory::poisoned_integers("plan", 2 * capacity);
    let output = Memory::poisoned::<bf16>("output", elements);
    let log_sum_exp = Memory::poisoned::<f32>("log_sum_exp", total * heads);
    let terms = Memory::poisoned::<f32>("row_terms", 2 * total * heads);
    let d_qkv = Memory::poisoned::<bf16>("d_qkv", 3 * elements);
    let grid = [capacity as u32, heads as u32, 1];
    // Rows of one head in shared memory: the block's, and the streamed ones in two stages.
    let (forward_rows, backward_rows, terms_bytes) =
        if head_dim == 128 { (128 + 4 * 32, 256 + 4 * 32, 512) } else { (128 + 4 * 64, 256 + 4 * 64, 1024) };
    let threads = if head_dim == 128 { 256 } else { 128 };

    run(
        "attention_plan",
        [1, 1],
        [256, 1],
        schedule,
        vec![(&cu_seqlens).into(), sequences.into(), capacity.into(), (&plan).into()],
    );
    let name = format!("attention_forward_bf16_d{head_dim}");
    run_3d(
        &name,
        grid,
        [128, 1, 1],
        forward_rows * head_dim * 2,
        schedule,
        vec![
            (&qkv).into(),
            (&cu_seqlens).into(),
            (&plan).into(),
            heads.into(),
            scale.into(),
            site.into(),
            (&output).into(),
            (&log_sum_exp).into(),
        ],
    );
    run(
        "attention_row_terms_bf16",
        [elements / 2048, 1],
        [256, 1],
        schedule,
        vec![
            (&output).into(),
            (&d_output).into(),
            (&log_sum_exp).into(),
            total.into(),
            heads.into(),
            head_dim.into(),
            (&terms).into(),
        ],
    );
    for side in ["queries", "keys"] {
        let name = format!("attention_backward_{side}_bf16_d{head_dim}");
        run_3d(
            &name,
            grid,
            [threads, 1, 1],
            backward_rows * head_dim * 2 + terms_bytes,
            schedule,
            vec![
                (&qkv).into(),
                (&d_output).into(),
                (&terms).into(),
                (&cu_seqlens).into(),
                (&plan).into(),
                heads.into(),
                total.into(),
                scale.into(),
                site.into(),
                (&d_qkv).into(),
            ],
        );
    }
    [output.values::<bf16>(), log_sum_exp.values::<f32>(), d_qkv.values::<bf16>()]
}

fn round(value: f64) -> f64 {
    bf16::from_f64(value).to_f64()
}

/// Output and d_qkv by the plain bf16 computation: sums in higher precision, and every tensor of the formula that a bf16
/// program would store (P, the dropped P, dP, dS, O and the gradients) rounded to bf16.
pub fn plain_bf16(case: &Case, qkv: &[f32], d_output: &[f32]) -> [Vec<f32>; 2] {
    let (dim, hidden) = (case.head_dim, case.heads * case.head_dim);
    let scale = 1.0 / (dim as f64).sqrt();
    let mut output = vec![0.0f64; d_output.len()];
    let mut d_qkv = vec![0.0f64; qkv.len()];
    for (sequence, pair) in case.cu_seqlens().windows(2).enumerate() {
        let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
        for head in 0..case.heads {
            let dropout = dropout(case.p, case.seed).1;
            let dropout = dropout.map(|dropout| AttentionDropout::new(dropout, sequence * case.heads + head));
            let place = |row: usize, part: usize| (start + row) * 3 * hidden + part * hidden + head * dim;
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            let part = |row: usize, part: usize| &qkv[place(row, part)..][..dim];
            for query in 0..length {
                let at = (start + query) * hidden + head * dim;
                let scores: Vec<f64> = (0..length).map(|key| scale * dot(part(query, 0), part(key, 1))).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                let d_out = &d_output[at..at + dim];
                let mask = |key: usize| dropout.map_or(1.0, |dropout| dropout.multiplier(query, key));
                let p: Vec<f64> = scores.iter().map(|score| round((score - max).exp() / sum)).collect();
                for i in 0..dim {
                    let terms = (0..length).map(|key| round(p[key] * mask(key)) * f64::from(part(key, 2)[i]));
                    output[at + i] = round(terms.sum());
                }
                let d: f64 = output[at..at + dim].iter().zip(d_out).map(|(&o, &g)| o * f64::from(g)).sum();
                for key in 0..length {
                    let d_p = round(dot(d_out, part(key, 2)) * mask(key));
                    let d_score = round(p[key] * (d_p - d));
                    for i in 0..dim {
                        d_qkv[place(query, 0) + i] += scale * d_score * f64::from(part(key, 1)[i]);
                        d_qkv[place(key, 1) + i] += scale * d_score * f64::from(part(query, 0)[i]);
                        d_qkv[place(key, 2) + i] += round(p[key] * mask(key)) * f64::from(d_out[i]);
                    }
                }
            }
        }
    }
    [output, d_qkv].map(|values| values.into_iter().map(|value| round(value) as f32).collect())
}

fn check(case: &Case) {
    let (total, hidden) = (case.lengths.iter().sum::<usize>(), case.heads * case.head_dim);
    let qkv = normals::<bf16>(case.seed, total * 3 * hidden, 1.5);
    let d_output = normals::<bf16>(case.seed + 1, total * hidden, 1.0);
    let reference = cpu(case, doubles(&qkv), doubles(&d_output));
    let [plain_output, plain_d_qkv] = plain_bf16(case, &qkv, &d_output);
    let [_, plain_log_sum_exp, _] = cpu(case, qkv.clone(), d_output.clone());
    let [output, log_sum_exp, d_qkv] = kernels(case, &qkv, &d_output, case.seed);
    Tolerance { terms: 1.0 }.check("output", &output, &plain_output, &reference[0]);
    Tolerance { terms: 1.0 }.check("log_sum_exp", &log_sum_exp, &plain_log_sum_exp, &reference[1]);
    Tolerance { terms: 1.0 }.check("d_qkv", &d_qkv, &plain_d_qkv, &reference[2]);
    let again = kernels(case, &qkv, &d_output, case.seed + 17);
    assert_eq!([output, log_sum_exp, d_qkv], again, "another schedule gives the same bits");
}

#[test]
fn short_sequences_and_an_empty_one() {
    check(&Case { lengths: vec![1, 15, 16, 17, 0, 100], heads: 2, head_dim: 64, p: 0.0, seed: 0 });
}

#[test]
fn several_blocks_with_dropout() {
    check(&Case { lengths: vec![300, 5], heads: 1, head_dim: 64, p: 0.1, seed: 1 });
}

#[test]
fn every_head_size() {
    check(&Case { lengths: vec![130, 33], heads: 2, head_dim: 32, p: 0.3, seed: 2 });
    check(&Case { lengths: vec![70, 129], heads: 1, head_dim: 128, p: 0.1, seed: 3 });
}
