//! `kernels/gemm_sm90.cu` against products in f64, and against its own repetition with another grid and in clusters.

use half::bf16;
use helixgrad::device::cpu::gelu::Gelu;
use helixgrad::device::gemm_plan::{SM90_FINISH, SM90_SHARED_BYTES, SM90_SUM_ROWS, SM90_THREADS, Sm90Plan, Sm90Tiles};
use helixgrad::device::{DType, Swizzle};
use proptest::prelude::*;

use super::gemm::{Case, Layout, Stored, bits, compare_gelu, form, product};
use super::harness::*;
use super::machine::runs_sm90;

fn map(matrix: &Stored<bf16>, [rows, columns]: [usize; 2], tile: [u32; 2]) -> Argument {
    let tile = [tile[1], tile[0]];
    matrix.memory.map(DType::Bf16, &[columns, rows], &[matrix.stride], &tile, Swizzle::Bytes128)
}

/// A and B of a case in memory, and what every kernel takes first.
struct Operands {
    a: Stored<bf16>,
    b: Stored<bf16>,
    bias: Stored<bf16>,
    plan: Sm90Plan,
}

impl Operands {
    fn new(case: &Case, tiles: Sm90Tiles) -> Self {
        let [a, b, _] = case.stored();
        let [lda, ldb, _] = case.strides();
        let values = |offset: u64, count: usize| normals::<bf16>(case.seed * 7 + offset, count, 1.0);
        Self {
            a: Stored::new("a", values(0, a[0] * a[1]), a, lda, 0),
            b: Stored::new("b", values(1, b[0] * b[1]), b, ldb, 0),
            bias: Stored::new("bias", values(3, case.n), [1, case.n], case.n, 0),
            plan: Sm90Plan::new(case.m, case.n, case.k, case.splits, tiles).unwrap(),
        }
    }

    fn arguments(&self, case: &Case, blocks: Blocks) -> Vec<Argument> {
        let [a, b, _] = case.stored();
        let a_tile = if case.layout == Layout::Tn { [64, 64] } else { [128, 64] };
        let b_tile = self.plan.tile_of_b(case.layout == Layout::Nt, matches!(blocks, Blocks::Cluster(_)));
        vec![Argument::of(&self.plan.arguments), map(&self.a, a, a_tile), map(&self.b, b, b_tile)]
    }
}

/// How many blocks compute, each by itself or in clusters of two.
#[derive(Clone, Copy, Debug)]
enum Blocks {
    Single(u32),
    Cluster(u32),
}

/// Runs the kernel of that name, with or without `_cluster` in front of its family.
fn run(name: [&str; 2], blocks: Blocks, schedule: u64, arguments: Vec<Argument>) {
    let [operation, types] = name;
    let (cluster, blocks) = match blocks {
        Blocks::Single(blocks) => ("", blocks),
        Blocks::Cluster(clusters) => ("_cluster", 2 * clusters),
    };
    let name = format!("{operation}{cluster}_sm90_{types}");
    run_3d(&name, [blocks, 1, 1], [SM90_THREADS, 1, 1], SM90_SHARED_BYTES as usize, schedule, arguments);
}

/// Who must come to the same bits as `blocks` single ones.
fn others(blocks: u32) -> [Blocks; 3] {
    [Blocks::Single(blocks + 2), Blocks::Cluster(1), Blocks::Cluster(blocks)]
}

/// C as the kernels leave it: bf16, and f32 for a weight's gradient.
fn compute(case: &Case, blocks: Blocks, schedule: u64) -> Vec<f32> {
    let operands = Operands::new(case, Sm90Tiles::Together);
    let size = [case.m, case.n];
    let ldc = case.strides()[2];
    let mut arguments = operands.arguments(case, blocks);
    if case.layout == Layout::Tn {
        let c = Stored::<f32>::new("c", normals::<f32>(case.seed * 7 + 2, case.m * case.n, 1.0), size, ldc, 0);
        let partials = Memory::poisoned::<f32>("partials", operands.plan.partials);
        arguments.push((&partials).into());
        run(["gemm_tn", "bf16_f32"], blocks, schedule, arguments);
        let [threads, eighths] = SM90_FINISH;
        let arguments =
            vec![Argument::of(&operands.plan.arguments), (&partials).into(), c.argument(), (ldc as i64).into()];
        let grid = [operands.plan.tiles as u32, eighths, 1];
        run_3d("gemm_finish_sm90_f32", grid, [threads, 1, 1], 0, schedule, arguments);
        return c.read();
    }
    let old = match case.beta {
        0.0 => vec![f32::NAN; case.m * case.n],
        _ => normals::<bf16>(case.seed * 7 + 2, case.m * case.n, 1.0),
    };
    let c = Stored::<bf16>::new("c", old, size, ldc, 0);
    arguments.push(map(&c, size, [64, 64]));
    if case.layout == Layout::Nt {
        arguments.push(if case.bias { operands.bias.argument() } else { Argument::NULL });
        run(["gemm_nt", "bf16"], blocks, schedule, arguments);
    } else {
        run([if case.beta == 0.0 { "gemm_nn" } else { "gemm_nn_add" }, "bf16"], blocks, schedule, arguments);
    }
    c.read()
}

fn check(case: &Case, blocks: u32) {
    if !runs_sm90() {
        return;
    }
    let c = compute(case, Blocks::Single(blocks), case.seed);
    let Operands { a, b, bias, .. } = Operands::new(case, Sm90Tiles::Together);
    let weight = case.layout == Layout::Tn;
    let old = match (weight, case.beta) {
        (true, _) => normals::<f32>(case.seed * 7 + 2, case.m * case.n, 1.0),
        (false, 0.0) => Vec::new(),
        _ => normals::<bf16>(case.seed * 7 + 2, case.m * case.n, 1.0),
    };
    let bias = case.bias.then_some(&bias.values[..]);
    let plain: Vec<f32> = product(case, &a.values, &b.values, bias, &old);
    let truth: Vec<f64> = product(case, &a.values, &b.values, bias, &old);
    let plain = if weight { plain } else { rounded::<bf16>(&plain) };
    let what = format!("{case:?} by {blocks} blocks");
    Tolerance { terms: case.k as f64 + 2.0 }.check(&what, &c, &plain, &truth);
    for (turn, others) in others(blocks).into_iter().enumerate() {
        let again = compute(case, others, case.seed + 1 + turn as u64);
        assert_eq!(bits(&c), bits(&again), "{what}: {others:?} and another schedule, other bits");
    }
}

/// C, what is kept for the way back, and column sums.
fn compute_gelu(case: &Case, gelu: Gelu, blocks: Blocks, schedule: u64) -> [Vec<f32>; 3] {
    let operands = Operands::new(case, Sm90Tiles::InTurn);
    let size = [case.m, case.n];
    let ldc = case.strides()[2];
    let backward = case.layout == Layout::Nn;
    let nothing = vec![f32::NAN; case.m * case.n];
    let kept = match backward {
        true => normals::<bf16>(case.seed * 7 + 4, case.m * case.n, 1.0),
        false => nothing.clone(),
    };
    let c = Stored::<bf16>::new("c", nothing, size, ldc, 0);
    let x = Stored::<bf16>::new("x", kept, size, ldc, 0);
    let column_sums = Memory::poisoned::<f32>("column_sums", case.m.div_ceil(SM90_SUM_ROWS) * case.n);
    let mut arguments = operands.arguments(case, blocks);
    arguments.extend([map(&c, size, [64, 64]), map(&x, size, [64, 64]), operands.bias.argument()]);
    if backward {
        arguments.push((&column_sums).into());
        run([&format!("gemm_nn_{}_gradient", form(gelu)), "bf16"], blocks, schedule, arguments);
        return [c.read(), x.read(), column_sums.values::<f32>()];
    }
    run([&format!("gemm_nt_{}", form(gelu)), "bf16"], blocks, schedule, arguments);
    [c.read(), x.read(), Vec::new()]
}

fn check_gelu(case: &Case, blocks: u32) {
    if !runs_sm90() {
        return;
    }
    for gelu in [Gelu::Exact, Gelu::Tanh] {
        let found = compute_gelu(case, gelu, Blocks::Single(blocks), case.seed);
        compare_gelu::<bf16>(case, gelu, SM90_SUM_ROWS, [&found[0], &found[1], &found[2]]);
        let found = found.map(|values| bits(&values));
        for (turn, others) in others(blocks).into_iter().enumerate() {
            let again = compute_gelu(case, gelu, others, case.seed + 1 + turn as u64);
            assert_eq!(found, again.map(|values| bits(&values)), "{case:?} by {blocks} blocks and by {others:?}");
        }
    }
}

/// Sizes around what the kernel cuts by: bands and steps of 64, tiles of 128, 192 and 256. The rows of bf16 matrices are rounded up to
/// multiples of eight elements, and some to more; those of a weight's gradient, in f32, are as odd as they come.
fn case(layout: Layout, sizes: [usize; 3], wide: bool, seed: u64) -> Case {
    let mut case = Case { seed, ..Case::plain(layout, sizes) };
    let stored = case.stored();
    for (gap, [_, columns]) in case.gaps.iter_mut().zip(stored) {
        *gap = columns.next_multiple_of(8) - columns + if wide { 16 } else { 0 };
    }
    if layout == Layout::Tn {
        case.gaps[2] = usize::from(wide);
    }
    case
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1..70usize, Just(64), Just(128), Just(129), Just(192), Just(193), 130..300usize]
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Nt), Just(Layout::Nn), Just(Layout::Tn)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..few() })]

    #[test]
    fn any_product(
        layout in layout(), sizes in [size(), size(), size()], (wide, add, bias) in any::<(bool, bool, bool)>(), parts in 1..4usize,
        blocks in 1..4u32, seed in 0..1000u64,
    ) {
        let weight = layout == Layout::Tn;
        let beta = if weight || add && layout == Layout::Nn { 1.0 } else { 0.0 };
        let (splits, bias) = (if weight { parts } else { 1 }, bias && layout == Layout::Nt);
        check(&Case { beta, splits, bias, ..case(layout, sizes, wide, seed) }, blocks);
    }

    #[test]
    fn any_product_with_gelu(forward: bool, sizes in [size(), size(), size()], wide: bool, blocks in 1..3u32, seed in 0..1000u64) {
        let layout = if forward { Layout::Nt } else { Layout::Nn };
        check_gelu(&case(layout, sizes, wide, seed), blocks);
    }
}

/// Three rows of tiles are two pairs: a block of the second has a tile below C.
#[test]
fn an_odd_row_of_tiles_has_no_partner() {
    check(&Case { bias: true, ..case(Layout::Nt, [264, 300, 70], false, 6) }, 2);
    check(&Case { beta: 1.0, ..case(Layout::Nn, [300, 100, 130], true, 7) }, 1);
    check(&Case { beta: 1.0, splits: 2, ..case(Layout::Tn, [257, 264, 200], false, 8) }, 2);
    check_gelu(&case(Layout::Nt, [380, 130, 64], false, 9), 2);
    check_gelu(&case(Layout::Nn, [270, 264, 130], true, 10), 1);
}

/// Five steps and more go round the ring of four stages, and two tiles of one block follow each other through it.
#[test]
fn a_long_k_goes_round_the_ring() {
    check(&Case { bias: true, ..case(Layout::Nt, [200, 264, 330], false, 1) }, 1);
    check(&Case { beta: 1.0, ..case(Layout::Nn, [136, 320, 600], false, 2) }, 1);
    check(&Case { beta: 1.0, splits: 3, ..case(Layout::Tn, [136, 264, 700], false, 3) }, 2);
    check_gelu(&case(Layout::Nt, [70, 520, 330], false, 4), 1);
    check_gelu(&case(Layout::Nn, [200, 500, 330], false, 5), 1);
}
