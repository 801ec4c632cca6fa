use half::bf16;
use helixgrad::device::DType;
use helixgrad::device::attention_kernels::{AttentionKernel, AttentionKernels, AttentionPath, PLAN_ROWS};
use helixgrad::device::attention_pattern::{AttentionPattern, BlockLists, SQUARE};
use helixgrad::device::big_bird::BigBird;
use helixgrad::device::cpu::Real;
use helixgrad::device::cpu::attention::{Saved, Shape, backward, forward};
use helixgrad::device::entry_lists::EntryLists;

use super::harness::*;

#[derive(Clone)]
pub struct Case {
    pub lengths: Vec<usize>,
    pub heads: usize,
    pub head_dim: usize,
    pub p: f64,
    pub seed: u64,
    /// ALiBi's slope of the first head; the next have half of the one before. 0 for none.
    pub slope: f64,
    pub pattern: Option<AttentionPattern>,
    pub big_bird: Option<BigBird>,
    /// Tokens to each side that a query sees.
    pub window: Option<usize>,
}

impl Case {
    pub fn new(lengths: &[usize], heads: usize, head_dim: usize, p: f64, seed: u64) -> Self {
        Self {
            lengths: lengths.to_vec(),
            heads,
            head_dim,
            p,
            seed,
            slope: 0.0,
            pattern: None,
            big_bird: None,
            window: None,
        }
    }

    pub fn cu_seqlens(&self) -> Vec<i32> {
        let mut ends = vec![0];
        ends.extend(self.lengths.iter().scan(0, |end, &length| {
            *end += length as i32;
            Some(*end)
        }));
        ends
    }

    pub fn total(&self) -> usize {
        self.lengths.iter().sum()
    }

    pub fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    fn slopes(&self) -> Option<Vec<f64>> {
        (self.slope != 0.0).then(|| (0..self.heads).map(|head| self.slope / (1 << head) as f64).collect())
    }

    fn blocks(&self) -> Option<BlockLists> {
        let cu_seqlens = self.cu_seqlens();
        match self.big_bird {
            Some(pattern) => Some(BlockLists::big_bird(&pattern, self.heads, &cu_seqlens).unwrap()),
            None => self.pattern.map(|pattern| BlockLists::new(&pattern, &cu_seqlens).unwrap()),
        }
    }
}

/// Output, log-sum-exp and d_qkv as the CPU device computes them.
pub fn cpu<R: Real>(case: &Case, qkv: Vec<R>, d_output: Vec<R>) -> [Vec<R>; 3] {
    let (cu_seqlens, slopes, blocks) = (case.cu_seqlens(), case.slopes(), case.blocks());
    let shape = Shape {
        cu_seqlens: &cu_seqlens,
        heads: case.heads,
        head_dim: case.head_dim,
        scale: 1.0 / (case.head_dim as f64).sqrt(),
        dropout: attention_dropout(case.p, case.seed).1,
        slopes: slopes.as_deref(),
        blocks: blocks.as_ref(),
        window: case.window,
    };
    let mut output = vec![R::ZERO; case.total() * case.hidden()];
    let mut log_sum_exp = vec![R::ZERO; case.total() * case.heads];
    let mut d_qkv = vec![R::ZERO; qkv.len()];
    forward(&qkv, shape, &mut output, &mut log_sum_exp);
    let saved = Saved { qkv: &qkv, output: &output, log_sum_exp: &log_sum_exp };
    backward(saved, &d_output, shape, &mut d_qkv);
    [output, log_sum_exp, d_qkv]
}

/// The lists of a pattern in the memory of kernels, and the argument that names them.
struct Hooks {
    slopes: Option<Memory>,
    /// Starts and blocks, for queries and for keys.
    lists: Option<[[Memory; 2]; 2]>,
    head_stride: u64,
    window: u64,
}

impl Hooks {
    fn new(case: &Case) -> Self {
        let slopes = case.slopes().map(|slopes| slopes.iter().map(|&slope| slope as f32).collect::<Vec<_>>());
        let lists = case.blocks().map(|blocks| blocks.for_kernels().unwrap());
        let memory =
            |side: &EntryLists| [Memory::integers("starts", &side.starts), Memory::integers("blocks", &side.blocks)];
        Self {
            slopes: slopes.map(|slopes| Memory::of::<f32>("slopes", &slopes)),
            lists: lists.as_ref().map(|lists| [memory(&lists.sides[0]), memory(&lists.sides[1])]),
            head_stride: lists.map_or(0, |lists| lists.sides[0].head_stride() as u64),
            window: case.window.unwrap_or(0) as u64,
        }
    }

    /// For rows that are queries (0) or keys (1).
    fn argument(&self, side: usize) -> Argument {
        let slopes = self.slopes.as_ref().map_or(0, Memory::address);
        let list = |which: usize| self.lists.as_ref().map_or(0, |lists| lists[side][which].address());
        // The last word is two numbers of 32 bits.
        Argument::Struct(vec![slopes, list(0), list(1), self.head_stride | self.window << 32])
    }
}

/// The rows of the dispatch table for a dtype.
pub trait Attention: Float {
    const TYPE: DType;
}

impl Attention for bf16 {
    const TYPE: DType = DType::Bf16;
}

impl Attention for f32 {
    const TYPE: DType = DType::F32;
}

/// Output, log-sum-exp and d_qkv as the kernels of the sm80 family compute them, under one schedule.
pub fn kernels<T: Attention>(case: &Case, qkv: &[f32], d_output: &[f32], schedule: u64) -> [Vec<f32>; 3] {
    let Case { heads, head_dim, .. } = *case;
    let table = AttentionKernels::choose(AttentionPath::Sm80, T::TYPE, head_dim, (8, 0), true).unwrap();
    let (total, sequences) = (case.total(), case.lengths.len());
    let (capacity, elements) = (total / PLAN_ROWS + sequences, total * heads * head_dim);
    let (site, scale) = (attention_dropout(case.p, case.seed).0, 1.0 / (head_dim as f32).sqrt());
    let hooks = Hooks::new(case);
    let qkv = Memory::of::<T>("qkv", qkv);
    let d_output = Memory::of::<T>("d_output", d_output);
    let cu_seqlens = Memory::integers("cu_seqlens", &case.cu_seqlens());
    let plan = Memory::poisoned_integers("plan", 3 * capacity + sequences);
    let output = Memory::poisoned::<T>("output", elements);
    let log_sum_exp = Memory::poisoned::<f32>("log_sum_exp", total * heads);
    let terms = Memory::poisoned::<f32>("row_terms", 2 * total * heads);
    let d_qkv = Memory::poisoned::<T>("d_qkv", 3 * elements);
    let launch = |kernel: &AttentionKernel, arguments: Vec<Argument>| {
        let grid = [(capacity * PLAN_ROWS / kernel.rows * heads) as u32, 1, 1];
        run_3d(kernel.name, grid, [kernel.threads, 1, 1], kernel.shared_bytes as usize, schedule, arguments);
    };

    run(
        "attention_plan",
        [1, 1],
        [256, 1],
        schedule,
        vec![(&cu_seqlens).into(), sequences.into(), capacity.into(), (&plan).into()],
    );
    launch(
        &table.forward,
        vec![
            (&qkv).into(),
            (&cu_seqlens).into(),
            (&plan).into(),
            heads.into(),
            head_dim.into(),
            scale.into(),
            site.into(),
            hooks.argument(0),
            (&output).into(),
            (&log_sum_exp).into(),
        ],
    );
    run(
        &format!("attention_row_terms_{}", T::DTYPE),
        [total * heads / 32, 1],
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
    for (side, kernel) in [&table.backward_queries, &table.backward_keys].into_iter().enumerate() {
        launch(
            kernel,
            vec![
                (&qkv).into(),
                (&d_output).into(),
                (&terms).into(),
                (&cu_seqlens).into(),
                (&plan).into(),
                heads.into(),
                head_dim.into(),
                total.into(),
                scale.into(),
                site.into(),
                hooks.argument(side),
                (&d_qkv).into(),
            ],
        );
    }
    [output.values::<T>(), log_sum_exp.values::<f32>(), d_qkv.values::<T>()]
}

fn round(value: f64) -> f64 {
    bf16::from_f64(value).to_f64()
}

/// Output and d_qkv by the plain bf16 computation: sums in higher precision, and every tensor of the formula that a bf16
/// program would store (P, the dropped P, dP, dS, O and the gradients) rounded to bf16.
pub fn plain_bf16(case: &Case, qkv: &[f32], d_output: &[f32]) -> [Vec<f32>; 2] {
    let (dim, hidden) = (case.head_dim, case.hidden());
    let scale = 1.0 / (dim as f64).sqrt();
    let (slopes, blocks) = (case.slopes(), case.blocks());
    let mut output = vec![0.0f64; d_output.len()];
    let mut d_qkv = vec![0.0f64; qkv.len()];
    for (sequence, pair) in case.cu_seqlens().windows(2).enumerate() {
        let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
        for head in 0..case.heads {
            let dropout = attention_dropout(case.p, case.seed).1;
            let slope = slopes.as_ref().map_or(0.0, |slopes| slopes[head]);
            let place = |row: usize, part: usize| (start + row) * 3 * hidden + part * hidden + head * dim;
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            let part = |row: usize, part: usize| &qkv[place(row, part)..][..dim];
            for query in 0..length {
                let at = (start + query) * hidden + head * dim;
                // How often it counts.
                let times = |key: usize| {
                    let seen = blocks.as_ref().map(|blocks| blocks.seen(sequence, head, query / SQUARE));
                    let square = (key / SQUARE) as u32;
                    seen.map_or(1, |seen| seen.iter().find(|seen| seen.block == square).map_or(0, |seen| seen.times))
                };
                let is_near = |key: &usize| case.window.is_none_or(|window| query.abs_diff(*key) <= window);
                let keys: Vec<usize> =
                    (0..length).filter(is_near).flat_map(|key| vec![key; times(key) as usize]).collect();
                let score =
                    |&key: &usize| scale * dot(part(query, 0), part(key, 1)) - slope * query.abs_diff(key) as f64;
                let scores: Vec<f64> = keys.iter().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                let d_out = &d_output[at..at + dim];
                let mask = |key: usize| {
                    dropout.map_or(1.0, |dropout| dropout.multiplier(sequence * case.heads + head, query, key))
                };
                let p: Vec<f64> = scores.iter().map(|score| round((score - max).exp() / sum)).collect();
                for i in 0..dim {
                    let terms = keys.iter().zip(&p).map(|(&key, p)| round(p * mask(key)) * f64::from(part(key, 2)[i]));
                    output[at + i] = round(terms.sum());
                }
                let d: f64 = output[at..at + dim].iter().zip(d_out).map(|(&o, &g)| o * f64::from(g)).sum();
                for (&key, p) in keys.iter().zip(&p) {
                    let d_p = round(dot(d_out, part(key, 2)) * mask(key));
                    let d_score = round(p * (d_p - d));
                    for i in 0..dim {
                        d_qkv[place(query, 0) + i] += scale * d_score * f64::from(part(key, 1)[i]);
                        d_qkv[place(key, 1) + i] += scale * d_score * f64::from(part(query, 0)[i]);
                        d_qkv[place(key, 2) + i] += round(p * mask(key)) * f64::from(d_out[i]);
                    }
                }
            }
        }
    }
    [output, d_qkv].map(|values| values.into_iter().map(|value| round(value) as f32).collect())
}

/// The kernels of `T` on normal deviates, against f64, twice under different schedules.
fn check<T: Attention>(case: &Case) {
    let qkv = normals::<T>(case.seed, case.total() * 3 * case.hidden(), 1.5);
    check_values::<T>(case, &qkv);
}

fn check_values<T: Attention>(case: &Case, qkv: &[f32]) {
    let d_output = normals::<T>(case.seed + 1, case.total() * case.hidden(), 1.0);
    let reference = cpu(case, doubles(qkv), doubles(&d_output));
    let [mut plain_output, plain_log_sum_exp, mut plain_d_qkv] = cpu(case, qkv.to_vec(), d_output.clone());
    if T::TYPE == DType::Bf16 {
        [plain_output, plain_d_qkv] = plain_bf16(case, qkv, &d_output);
    }
    let [output, log_sum_exp, d_qkv] = kernels::<T>(case, qkv, &d_output, case.seed);
    // A key that counts n times is added n times.
    let tolerance = Tolerance { terms: 1.0 + case.big_bird.map_or(0, |pattern| pattern.random) as f64 };
    tolerance.check("output", &output, &plain_output, &reference[0]);
    tolerance.check("log_sum_exp", &log_sum_exp, &plain_log_sum_exp, &reference[1]);
    tolerance.check("d_qkv", &d_qkv, &plain_d_qkv, &reference[2]);
    let again = kernels::<T>(case, qkv, &d_output, case.seed + 17);
    assert_eq!([output, log_sum_exp, d_qkv], again, "another schedule gives the same bits");
}

#[test]
fn short_sequences_and_an_empty_one() {
    let case = Case::new(&[1, 15, 16, 17, 0, 100], 2, 64, 0.0, 0);
    check::<bf16>(&case);
    check::<f32>(&case);
}

#[test]
fn several_blocks_with_dropout() {
    let case = Case::new(&[300, 5], 1, 64, 0.1, 1);
    check::<bf16>(&case);
    check::<f32>(&case);
}

#[test]
fn every_head_size() {
    check::<bf16>(&Case::new(&[130, 33], 2, 32, 0.3, 2));
    check::<bf16>(&Case::new(&[70, 129], 1, 128, 0.1, 3));
    check::<f32>(&Case::new(&[130, 33], 2, 32, 0.3, 2));
    check::<f32>(&Case::new(&[70, 129], 1, 128, 0.1, 3));
    check::<f32>(&Case::new(&[40, 129], 1, 256, 0.1, 4));
}

#[test]
fn heads_between_the_sizes_of_the_kernels() {
    check::<bf16>(&Case::new(&[40, 19], 3, 8, 0.1, 5));
    check::<bf16>(&Case::new(&[65], 2, 40, 0.1, 6));
    check::<bf16>(&Case::new(&[65], 2, 120, 0.1, 7));
    check::<f32>(&Case::new(&[40, 19], 3, 24, 0.1, 5));
    check::<f32>(&Case::new(&[65], 2, 72, 0.1, 7));
    check::<f32>(&Case::new(&[35], 2, 136, 0.1, 8));
}

/// Queries that oppose every key: the log-sum-exp is about -128, so that exp of a score of zero is infinite, as that of a key
/// behind the end of the sequence would be.
#[test]
fn keys_behind_the_end_do_not_exist() {
    fn check_opposed<T: Attention>(head_dim: usize) {
        let case = Case::new(&[70, 9], 1, head_dim, 0.1, 9);
        let size = (128.0 / (head_dim as f32).sqrt()).sqrt();
        let noise = normals::<T>(9, case.total() * 3 * head_dim, 0.2);
        let part = |index: usize| [size, -size, 0.0][index / head_dim % 3];
        let qkv: Vec<f32> = noise.iter().enumerate().map(|(index, noise)| T::round(noise + part(index))).collect();
        check_values::<T>(&case, &qkv);
    }
    check_opposed::<bf16>(32);
    check_opposed::<bf16>(64);
    check_opposed::<bf16>(128);
    check_opposed::<f32>(64);
}

#[test]
fn a_bias_that_falls_with_the_distance() {
    let case = Case { slope: 0.25, ..Case::new(&[150, 1, 40], 2, 64, 0.1, 10) };
    check::<bf16>(&case);
    check::<f32>(&case);
}

/// The heads of Nucleotide Transformers (32, 48, 64, 128), DNABERT-2 and BigBird (64), and one of 80: plain, with a bias, with a pattern.
#[test]
fn heads_of_the_families_with_and_without_hooks() {
    let pattern = AttentionPattern { block: 64, window: 0, global: 1, random: 0, seed: 4 };
    for head_dim in [32, 48, 64, 80, 128] {
        let plain = Case::new(&[75, 1, 33], 2, head_dim, 0.1, 20);
        let biased = Case { slope: 0.25, ..plain.clone() };
        let sparse = Case { pattern: Some(pattern), lengths: vec![200], heads: 1, ..biased.clone() };
        let (squares, all) = (sparse.blocks().unwrap().squares(), 16);
        assert!(squares < all, "{squares} of {all}");
        for case in [plain, biased, sparse] {
            check::<bf16>(&case);
            check::<f32>(&case);
        }
    }
}

/// Most rows skip a square that the other half of their plan entry sees, and the last square is short.
#[test]
fn block_sparse_patterns() {
    let pattern = AttentionPattern { block: 64, window: 0, global: 0, random: 1, seed: 4 };
    let case = Case { slope: 0.01, pattern: Some(pattern), ..Case::new(&[330, 70], 1, 32, 0.1, 11) };
    let squares = case.blocks().unwrap().squares();
    assert_eq!(squares, 6 * 2 + 2 * 2);
    check::<bf16>(&case);
    check::<f32>(&case);
    let large = Case { head_dim: 128, lengths: vec![200], ..case.clone() };
    check::<bf16>(&large);
    check::<f32>(&large);
    let global = AttentionPattern { window: 1, global: 1, random: 0, ..pattern };
    check::<bf16>(&Case { pattern: Some(global), head_dim: 64, ..case });
}

/// BigBird's blocks as its models predict with them: the first counts once more for each random one.
#[test]
fn blocks_that_count_more_than_once() {
    let big_bird = Some(BigBird { block: 64, random: 2, positions: 1024, layer: 0, training: false });
    let case = Case { big_bird, ..Case::new(&[600, 40], 1, 32, 0.0, 21) };
    let blocks = case.blocks().unwrap();
    assert!(blocks.is_weighted() && blocks.squares() < 10 * 10);
    check::<bf16>(&case);
    check::<f32>(&Case { slope: 0.01, ..case });
}

/// BigBird's blocks as its models are trained: each head draws its own; a short sequence, which sees itself whole, and another length behind it.
#[test]
fn blocks_of_big_bird_when_training() {
    let big_bird = Some(BigBird { block: 64, random: 1, positions: 1024, layer: 1, training: true });
    let case = Case { big_bird, ..Case::new(&[460, 40, 500], 2, 32, 0.0, 22) };
    let blocks = case.blocks().unwrap();
    let differ = |row: usize| blocks.seen(0, 0, row) != blocks.seen(0, 1, row);
    assert!(blocks.is_by_head() && !blocks.is_weighted() && (1..7).any(differ) && blocks.squares() < 8 * 8 * 2);
    check::<bf16>(&case);
    check::<f32>(&case);
}

/// A window with the squares that it needs and without, with other hooks; tiles in which a row sees nothing come first, in the middle and last. A window of
/// 70 reaches into a third square.
#[test]
fn windows() {
    for (window, head_dim) in [(1, 32), (64, 64), (70, 32)] {
        let case = Case { window: Some(window), ..Case::new(&[330, 70, 1], 1, head_dim, 0.1, 30) };
        let pattern = Some(AttentionPattern::window(window));
        let squares = Case { pattern, ..case.clone() };
        let expected = [16 + 4 + 1, 16 + 4 + 1, 24 + 4 + 1][[1, 64, 70].iter().position(|&w| w == window).unwrap()];
        assert_eq!(squares.blocks().unwrap().squares(), expected);
        let biased = Case { slope: 0.125, lengths: vec![200], ..squares.clone() };
        for case in [case, squares, biased] {
            check::<bf16>(&case);
            check::<f32>(&case);
        }
    }
    let large =
        Case { window: Some(40), pattern: Some(AttentionPattern::window(40)), ..Case::new(&[200], 1, 128, 0.1, 31) };
    check::<bf16>(&large);
    check::<f32>(&large);
    check::<f32>(&Case { head_dim: 256, lengths: vec![100], ..large });
}

/// A square that nobody lists is not even read: NaN in its keys and values reaches none but its own queries.
#[test]
fn squares_outside_the_pattern_are_not_computed() {
    let pattern = AttentionPattern { block: 64, window: 0, global: 0, random: 0, seed: 0 };
    let case = Case { pattern: Some(pattern), ..Case::new(&[200], 1, 32, 0.0, 12) };
    let mut qkv = normals::<bf16>(12, 200 * 96, 1.0);
    let d_output = normals::<bf16>(13, 200 * 32, 1.0);
    qkv[64 * 96..128 * 96].fill(f32::NAN);
    let poisoned = |row: usize| (64..128).contains(&row);
    for [output, _, d_qkv] in [kernels::<bf16>(&case, &qkv, &d_output, 0), kernels::<f32>(&case, &qkv, &d_output, 0)] {
        for row in 0..200 {
            let nan = |values: &[f32]| values.iter().all(|value| value.is_nan() == poisoned(row));
            assert!(nan(&output[row * 32..][..32]) && nan(&d_qkv[row * 96..][..96]), "row {row}");
        }
    }
}

/// The plan's entries, (sequence, first row, number), and the order of sequences.
fn plan(lengths: &[usize]) -> (Vec<[i32; 3]>, Vec<i32>) {
    let case = Case::new(lengths, 1, 8, 0.0, 0);
    let capacity = case.total() / PLAN_ROWS + lengths.len();
    let cu_seqlens = Memory::integers("cu_seqlens", &case.cu_seqlens());
    let plan = Memory::poisoned_integers("plan", 3 * capacity + lengths.len());
    launch!("attention_plan", [1, 1], [256, 1], 3, [&cu_seqlens, lengths.len(), capacity, &plan]);
    let mut entries = plan.to_integers();
    let order = entries.split_off(3 * capacity);
    (entries.chunks_exact(3).map(|entry| entry.try_into().unwrap()).collect(), order)
}

#[test]
fn the_plan_has_the_longest_sequences_first() {
    let drawn: Vec<usize> = below(5, 600, 700).into_iter().map(|length| length as usize).collect();
    for lengths in [&drawn[..], &drawn[..256], &[0, 5, 70_000, 129, 0, 128, 90_000], &[0], &[3]] {
        let mut entries = Vec::new();
        for (sequence, &length) in lengths.iter().enumerate() {
            for first in (0..length).step_by(PLAN_ROWS) {
                let number = entries.len() as i32;
                entries.push((length.div_ceil(SQUARE).min(1023), [sequence as i32, first as i32, number]));
            }
        }
        entries.sort_by_key(|(squares, _)| std::cmp::Reverse(*squares));
        let (found, order) = plan(lengths);
        let mut sequences: Vec<_> = (0..lengths.len() as i32).collect();
        sequences.sort_by_key(|&sequence| std::cmp::Reverse(lengths[sequence as usize].div_ceil(SQUARE).min(1023)));
        assert_eq!(order, sequences);
        let (entries, rest) = (entries.iter().map(|(_, entry)| *entry), &found[entries.len()..]);
        assert!(
            found.iter().copied().eq(entries.chain(rest.iter().map(|_| [-1, 0, 0]))),
            "{} sequences",
            lengths.len()
        );
    }
}

/// How long `blocks` blocks take for pieces of work of these lengths, if each takes the next piece as soon as it is free.
fn greedy(pieces: impl Iterator<Item = usize>, blocks: usize) -> usize {
    let mut busy = std::collections::BinaryHeap::from(vec![std::cmp::Reverse(0); blocks]);
    for piece in pieces {
        let std::cmp::Reverse(free) = busy.pop().unwrap();
        busy.push(std::cmp::Reverse(free + piece));
    }
    busy.into_iter().map(|std::cmp::Reverse(end)| end).max().unwrap()
}

/// Sixty-five thousand tokens of DNABERT's mix, half of the sequences full and half of 5 to 510 k-mers, on an H100's 132
/// multiprocessors: the plan against sequences in order, head by head, as it was. A piece of work is a head of an entry, and takes
/// its tiles of 128 columns and one more, for its own rows on their way in and out.
#[test]
fn pieces_of_the_plan_balance() {
    const HEADS: usize = 12;
    let mut lengths = Vec::new();
    for (long, short) in below(1, 1000, 2).into_iter().zip(below(2, 1000, 506)) {
        let length = if long == 1 { 512 } else { 7 + short as usize };
        lengths.push(length.min((1 << 16) - lengths.iter().sum::<usize>()));
    }
    lengths.retain(|&length| length > 0);
    let time = |entry: &[i32; 3]| lengths[entry[0] as usize].div_ceil(128) + 1;
    let mut in_order: Vec<[i32; 3]> = plan(&lengths).0.into_iter().filter(|entry| entry[0] >= 0).collect();
    let planned: Vec<usize> = in_order.iter().map(time).collect();
    in_order.sort_by_key(|entry| entry[2]);
    let in_order: Vec<usize> = in_order.iter().map(time).collect();
    let planned: Vec<usize> = planned.iter().flat_map(|&time| [time; HEADS]).collect();
    let in_order = in_order.repeat(HEADS);
    // The persistent blocks of the sm90 family take their pieces by number.
    let persistent = |pieces: &[usize], back: bool| {
        let mut sums = vec![0; 132];
        for (round, pieces) in pieces.chunks(132).enumerate() {
            for (place, piece) in pieces.iter().enumerate() {
                sums[if back && round % 2 == 1 { 131 - place } else { place }] += piece;
            }
        }
        sums.into_iter().max().unwrap()
    };
    // Those of the sm80 family come as others end, two on each multiprocessor.
    let least = |blocks: usize| planned.iter().sum::<usize>() as f64 / blocks as f64;
    let figures = [
        ("sm90, in order", persistent(&in_order, false), least(132)),
        ("sm90, planned, always forwards", persistent(&planned, false), least(132)),
        ("sm90, planned", persistent(&planned, true), least(132)),
        ("sm80, in order", greedy(in_order.iter().copied(), 264), least(264)),
        ("sm80, planned", greedy(planned.iter().copied(), 264), least(264)),
    ];
    let over = figures.map(|(name, found, least)| {
        println!("{name}: {found}, {:.1} % over {least:.1}", 100.0 * (found as f64 / least - 1.0));
        found as f64 / least
    });
    assert!(over[2] < 1.015 && over[2] < over[1] && over[1] < over[0], "{over:?}");
    assert!(over[4] < 1.015 && over[4] < over[3], "{over:?}");
}
