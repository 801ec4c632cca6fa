//! `kernels/gemm.cu` against products in f64, and against its own repetition.

use half::bf16;
use helixgrad::device::cpu;
use helixgrad::device::cpu::gelu::Gelu;
use helixgrad::device::gemm_plan::{BF16_SHARED_BYTES, GemmPlan, THREADS};
use proptest::prelude::*;

use super::harness::*;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    Nt,
    Nn,
    Tn,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::Nt => "gemm_nt",
            Self::Nn => "gemm_nn",
            Self::Tn => "gemm_tn",
        }
    }
}

/// A product to try.
#[derive(Clone, Debug)]
pub struct Case {
    pub layout: Layout,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Elements between the end of a row and the start of the next, of A, B and C.
    pub gaps: [usize; 3],
    /// Elements by which A, B, C and the bias start late: one is enough for no 16-byte access to fit.
    pub shifts: [usize; 4],
    pub splits: usize,
    pub alpha: f32,
    pub beta: f32,
    pub bias: bool,
    pub seed: u64,
}

impl Case {
    pub fn plain(layout: Layout, [m, n, k]: [usize; 3]) -> Self {
        Self { layout, m, n, k, gaps: [0; 3], shifts: [0; 4], splits: 1, alpha: 1.0, beta: 0.0, bias: false, seed: 1 }
    }

    /// Rows and columns of A, B and C as they are stored.
    pub fn stored(&self) -> [[usize; 2]; 3] {
        let Self { m, n, k, .. } = *self;
        match self.layout {
            Layout::Nt => [[m, k], [n, k], [m, n]],
            Layout::Nn => [[m, k], [k, n], [m, n]],
            Layout::Tn => [[k, m], [k, n], [m, n]],
        }
    }

    pub fn strides(&self) -> [usize; 3] {
        let stored = self.stored();
        [0, 1, 2].map(|matrix| stored[matrix][1] + self.gaps[matrix])
    }

    fn plan(&self) -> GemmPlan {
        GemmPlan::with_splits(self.m, self.n, self.k, self.strides(), self.alpha, self.beta, self.splits).unwrap()
    }
}

/// A matrix in memory, its gaps and what lies before it filled with NaN, so that reading them shows.
pub struct Stored<T: Float> {
    pub values: Vec<f32>,
    pub memory: Memory,
    rows: usize,
    columns: usize,
    pub stride: usize,
    shift: usize,
    dtype: std::marker::PhantomData<T>,
}

impl<T: Float> Stored<T> {
    pub fn new(name: &str, values: Vec<f32>, [rows, columns]: [usize; 2], stride: usize, shift: usize) -> Self {
        let mut all = vec![f32::NAN; shift + (rows - 1) * stride + columns];
        for row in 0..rows {
            all[shift + row * stride..][..columns].copy_from_slice(&values[row * columns..][..columns]);
        }
        let memory = Memory::of::<T>(name, &all);
        Self { values, memory, rows, columns, stride, shift, dtype: std::marker::PhantomData }
    }

    pub fn argument(&self) -> Argument {
        self.memory.at::<T>(self.shift)
    }

    /// What it holds now; the gaps must still be NaN.
    pub fn read(&self) -> Vec<f32> {
        let all = self.memory.values::<T>();
        let inside = |at: &usize| *at >= self.shift && (at - self.shift) % self.stride < self.columns;
        assert!((0..all.len()).filter(|at| !inside(at)).all(|at| all[at].is_nan()), "a gap was written");
        (0..self.rows).flat_map(|row| all[self.shift + row * self.stride..][..self.columns].to_vec()).collect()
    }
}

/// The plain formula, from row-major matrices without gaps, in the precision of its arguments.
pub fn product<R: Real>(case: &Case, a: &[f32], b: &[f32], bias: Option<&[f32]>, c: &[f32]) -> Vec<R> {
    let Case { layout, m, n, k, .. } = *case;
    let mut result = Vec::with_capacity(m * n);
    for row in 0..m {
        for column in 0..n {
            let left = |i: usize| {
                if layout == Layout::Tn { a[i * m + row] } else { a[row * k + i] }
            };
            let right = |i: usize| {
                if layout == Layout::Nt { b[column * k + i] } else { b[i * n + column] }
            };
            let sum = (0..k).fold(R::from(0.0), |sum, i| sum + R::from(left(i)) * R::from(right(i)));
            let mut value = R::from(case.alpha) * sum;
            if let Some(bias) = bias {
                value = value + R::from(bias[column]);
            }
            if case.beta != 0.0 {
                value = value + R::from(case.beta) * R::from(c[row * n + column]);
            }
            result.push(value);
        }
    }
    result
}

/// What [`product`] computes in.
pub trait Real: Copy + From<f32> + std::ops::Add<Output = Self> + std::ops::Mul<Output = Self> {}
impl Real for f32 {}
impl Real for f64 {}

/// What a kernel made of a case, and what it should be.
struct Outcome {
    c: Vec<f32>,
    /// The formula in f32, not yet rounded to the output's dtype.
    plain: Vec<f32>,
    truth: Vec<f64>,
}

/// Runs the kernel with operands of dtype T and an output of dtype O.
fn compute<T: Float, O: Float>(case: &Case, schedule: u64) -> Outcome {
    let [[a_rows, a_columns], [b_rows, b_columns], c_size] = case.stored();
    let [lda, ldb, ldc] = case.strides();
    let [a_shift, b_shift, c_shift, bias_shift] = case.shifts;
    let values = |offset: u64, count: usize| normals::<T>(case.seed * 7 + offset, count, 1.0);
    let a = Stored::<T>::new("a", values(0, a_rows * a_columns), [a_rows, a_columns], lda, a_shift);
    let b = Stored::<T>::new("b", values(1, b_rows * b_columns), [b_rows, b_columns], ldb, b_shift);
    // With beta = 0 the old C is NaN: it must not be read.
    let old = match case.beta {
        0.0 => vec![f32::NAN; case.m * case.n],
        _ => normals::<O>(case.seed * 7 + 2, case.m * case.n, 1.0),
    };
    let c = Stored::<O>::new("c", old, c_size, ldc, c_shift);
    let bias = case.bias.then(|| Stored::<T>::new("bias", values(3, case.n), [1, case.n], case.n, bias_shift));
    let bias_argument = || bias.as_ref().map_or(Argument::NULL, Stored::argument);
    let plan = case.plan();
    let partials = Memory::poisoned::<f32>("partials", plan.partials);
    let dtype = if T::DTYPE == O::DTYPE { T::DTYPE.to_owned() } else { format!("{}_{}", T::DTYPE, O::DTYPE) };
    let shared = if T::DTYPE == "bf16" { BF16_SHARED_BYTES as usize } else { 0 };
    run_3d(
        &format!("{}_{dtype}", case.layout.name()),
        plan.grid,
        [THREADS, 1, 1],
        shared,
        schedule,
        vec![
            Argument::of(&plan.arguments),
            a.argument(),
            b.argument(),
            bias_argument(),
            c.argument(),
            (&partials).into(),
        ],
    );
    if plan.finish_blocks > 0 {
        run_3d(
            &format!("gemm_finish_{dtype}"),
            [plan.finish_blocks, 1, 1],
            [THREADS, 1, 1],
            0,
            schedule,
            vec![Argument::of(&plan.arguments), (&partials).into(), bias_argument(), c.argument()],
        );
    }
    let bias = bias.as_ref().map(|bias| &bias.values[..]);
    Outcome {
        c: c.read(),
        plain: product(case, &a.values, &b.values, bias, &c.values),
        truth: product(case, &a.values, &b.values, bias, &c.values),
    }
}

/// gelu(x + bias), from what is kept for the way back and the output; and the gradient and its column sums.
fn compute_gelu<T: Float>(case: &Case, gelu: Gelu, schedule: u64) -> [Vec<f32>; 3] {
    let [m, n] = [case.m, case.n];
    let [[a_rows, a_columns], [b_rows, b_columns], c_size] = case.stored();
    let [lda, ldb, ldc] = case.strides();
    let [a_shift, b_shift, c_shift, bias_shift] = case.shifts;
    let values = |offset: u64, count: usize| normals::<T>(case.seed * 7 + offset, count, 1.0);
    let a = Stored::<T>::new("a", values(0, a_rows * a_columns), [a_rows, a_columns], lda, a_shift);
    let b = Stored::<T>::new("b", values(1, b_rows * b_columns), [b_rows, b_columns], ldb, b_shift);
    let c = Stored::<T>::new("c", vec![f32::NAN; m * n], c_size, ldc, c_shift);
    let bias = Stored::<T>::new("bias", values(3, n), [1, n], n, bias_shift);
    let backward = case.layout == Layout::Nn;
    let kept = if backward { values(4, m * n) } else { vec![f32::NAN; m * n] };
    let x = Stored::<T>::new("x", kept, c_size, ldc, c_shift);
    let tiles = m.div_ceil(128);
    let column_sums = Memory::poisoned::<f32>("column_sums", tiles * n);
    let plan = case.plan();
    let mut arguments =
        vec![Argument::of(&plan.arguments), a.argument(), b.argument(), bias.argument(), c.argument(), x.argument()];
    if backward {
        arguments.push((&column_sums).into());
    }
    let shared = if T::DTYPE == "bf16" { BF16_SHARED_BYTES as usize } else { 0 };
    let pass = if backward { "_gradient" } else { "" };
    let name = format!("{}_{}{pass}_{}", case.layout.name(), form(gelu), T::DTYPE);
    run_3d(&name, plan.grid, [THREADS, 1, 1], shared, schedule, arguments);
    let sums = if backward { column_sums.values::<f32>() } else { Vec::new() };
    [c.read(), x.read(), sums]
}

/// The sums are those of the plain product; GELU and its derivative, of what is kept, those of the CPU device; the column sums, of
/// what was written before it was rounded.
fn check_gelu<T: Float>(case: &Case) {
    for gelu in [Gelu::Exact, Gelu::Tanh] {
        let [found, kept, sums] = compute_gelu::<T>(case, gelu, case.seed);
        let what = format!("{case:?} {} with {}", T::DTYPE, form(gelu));
        let again = compute_gelu::<T>(case, gelu, case.seed + 1).map(|values| bits(&values));
        assert_eq!([bits(&found), bits(&kept), bits(&sums)], again, "{what}: another schedule");
        compare_gelu::<T>(case, gelu, 128, [&found, &kept, &sums]);
    }
}

/// In the names of kernels.
pub fn form(gelu: Gelu) -> &'static str {
    match gelu {
        Gelu::Exact => "gelu",
        Gelu::Tanh => "gelu_tanh",
    }
}

/// C, what is kept for the way back, and the column sums of every `sum_rows` rows against the truth.
pub fn compare_gelu<T: Float>(case: &Case, gelu: Gelu, sum_rows: usize, [found, kept, sums]: [&[f32]; 3]) {
    let Case { layout, m, n, .. } = *case;
    let what = format!("{case:?} {} with {}", T::DTYPE, form(gelu));
    let [[a_rows, a_columns], [b_rows, b_columns], _] = case.stored();
    let values = |offset: u64, count: usize| normals::<T>(case.seed * 7 + offset, count, 1.0);
    let (a, b, bias) = (values(0, a_rows * a_columns), values(1, b_rows * b_columns), values(3, n));
    let plain: Vec<f32> = product(case, &a, &b, None, &[]);
    let truth: Vec<f64> = product(case, &a, &b, None, &[]);
    let terms = f64::from(case.alpha.abs()) * case.k as f64 + 2.0;
    if layout == Layout::Nt {
        Tolerance { terms }.check(&what, kept, &rounded::<T>(&plain), &truth);
        let (mut plain_y, mut true_y) = (plain, truth);
        cpu::gelu::forward(gelu, kept, &bias, &mut plain_y);
        cpu::gelu::forward(gelu, &doubles(kept), &doubles(&bias), &mut true_y);
        Tolerance { terms: 1.0 }.check(&what, found, &rounded::<T>(&plain_y), &true_y);
        assert_eq!(bits(found), bits(&gelu_again::<T>(gelu, kept, &bias, m)), "{what}: what is computed again");
        return;
    }
    let (mut plain_dx, mut true_dx) = (plain, truth);
    let mut ignored = (vec![0.0f32; n], vec![0.0f64; n]);
    cpu::gelu::backward(gelu, kept, &bias, &mut plain_dx, &mut ignored.0);
    cpu::gelu::backward(gelu, &doubles(kept), &doubles(&bias), &mut true_dx, &mut ignored.1);
    Tolerance { terms }.check(&what, found, &rounded::<T>(&plain_dx), &true_dx);
    for (tile, sums) in sums.chunks(n).enumerate() {
        let rows = tile * sum_rows * n..((tile + 1) * sum_rows).min(m) * n;
        let (mut plain_sums, mut true_sums) = (vec![0.0; n], vec![0.0; n]);
        cpu::add_column_sums(&plain_dx[rows.clone()], &mut plain_sums);
        cpu::add_column_sums(&true_dx[rows], &mut true_sums);
        Tolerance { terms: 128.0 * terms }.check(&format!("{what}: column sums"), sums, &plain_sums, &true_sums);
    }
}

/// gelu(x + bias) by the kernel that has x from memory.
fn gelu_again<T: Float>(gelu: Gelu, x: &[f32], bias: &[f32], rows: usize) -> Vec<f32> {
    let (x, bias, y) = (Memory::of::<T>("x", x), Memory::of::<T>("bias", bias), Memory::poisoned::<T>("y", x.len()));
    let columns = bias.values::<T>().len();
    let grid = [columns.div_ceil(256), 2];
    let name = format!("bias_{}_forward_{}", form(gelu), T::DTYPE);
    let arguments = vec![(&x).into(), (&bias).into(), (&y).into(), rows.into(), columns.into()];
    run(&name, grid, [32, 8], 0, arguments);
    y.values::<T>()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Checks against the truth, and that another schedule gives the same bits.
fn check<T: Float, O: Float>(case: &Case) {
    let Outcome { c, plain, truth } = compute::<T, O>(case, case.seed);
    let what = format!("{case:?} {} {}", T::DTYPE, O::DTYPE);
    // Products of two normal deviates, about one each, and the bias and the old C.
    let terms = f64::from(case.alpha.abs()) * case.k as f64 + 2.0;
    Tolerance { terms }.check(&what, &c, &rounded::<O>(&plain), &truth);
    let again = compute::<T, O>(case, case.seed + 1).c;
    assert_eq!(bits(&c), bits(&again), "{what}: another schedule, other bits");
}

fn check_all(case: &Case) {
    check::<f32, f32>(case);
    check::<bf16, bf16>(case);
    check::<bf16, f32>(case);
}

/// Sizes around what the kernels cut by: groups of 8, fragments of 16, stages of 16 and 32, warps' 32 and 64, tiles of 128.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1..20usize, 20..150usize, Just(64), Just(127), Just(128), Just(129), Just(136), Just(200)]
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Nt), Just(Layout::Nn), Just(Layout::Tn)]
}

fn case() -> impl Strategy<Value = Case> {
    let gap = || prop_oneof![Just(0usize), Just(8), 1..17usize];
    let shift = || prop_oneof![3 => Just(0usize), 1 => 1..8usize];
    (
        (layout(), size(), size(), size()),
        [gap(), gap(), gap()],
        [shift(), shift(), shift(), shift()],
        prop_oneof![2 => Just(1usize), 1 => 2..5usize],
        prop_oneof![Just(1.0f32), Just(0.125), Just(-3.0)],
        prop_oneof![Just(0.0f32), Just(1.0), Just(0.5)],
        (any::<bool>(), 0..1000u64),
    )
        .prop_map(|((layout, m, n, k), gaps, shifts, splits, alpha, beta, (bias, seed))| Case {
            layout,
            m,
            n,
            k,
            gaps,
            shifts,
            splits,
            alpha,
            beta,
            bias,
            seed,
        })
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn any_product(case in case()) {
        check_all(&case);
    }

    #[test]
    fn any_product_with_gelu(case in case()) {
        let layout = if case.layout == Layout::Nt { Layout::Nt } else { Layout::Nn };
        let case = Case { layout, splits: 1, beta: 0.0, ..case };
        check_gelu::<f32>(&case);
        check_gelu::<bf16>(&case);
    }

    /// Sizes and strides for which every copy is of 16 bytes: the fast path, with tails of whole groups.
    #[test]
    fn aligned_products(layout in layout(), m in 1..24usize, n in 1..24usize, k in 1..24usize, bias: bool, seed in 0..1000u64) {
        check_all(&Case { bias, seed, ..Case::plain(layout, [8 * m, 8 * n, 8 * k]) });
    }
}

#[test]
fn a_long_k_goes_round_the_ring_and_is_split() {
    for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
        for splits in [1, 3, 7] {
            check_all(&Case { splits, beta: 1.0, ..Case::plain(layout, [136, 72, 520]) });
        }
    }
}

#[test]
fn parts_without_any_k_add_nothing() {
    // Two steps of 32 (five of 16) for nine splits.
    check_all(&Case { splits: 9, ..Case::plain(Layout::Tn, [40, 24, 64]) });
    check_all(&Case { splits: 9, bias: true, ..Case::plain(Layout::Nt, [1, 1, 1]) });
}

/// One of A, B, C and the bias at a time, so that each one's alignment is looked at for itself.
#[test]
fn each_operand_may_be_misaligned_alone() {
    for operand in 0..4 {
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            let mut case = Case { bias: true, ..Case::plain(layout, [16, 24, 40]) };
            case.shifts[operand] = 1;
            check_all(&case);
            if operand < 3 {
                case.shifts[operand] = 0;
                case.gaps[operand] = 1;
                check_all(&case);
            }
        }
    }
}

#[test]
fn single_elements_and_single_rows() {
    for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
        for shape in [[1, 1, 1], [1, 256, 8], [256, 1, 8], [1, 1, 300]] {
            check_all(&Case { bias: true, ..Case::plain(layout, shape) });
        }
    }
}

#[test]
fn f32_products_are_sums_of_fused_multiply_adds_in_order() {
    let case = Case { seed: 5, ..Case::plain(Layout::Nt, [9, 10, 77]) };
    let c = compute::<f32, f32>(&case, 0).c;
    let (a, b) = (normals::<f32>(35, 9 * 77, 1.0), normals::<f32>(36, 10 * 77, 1.0));
    for row in 0..9 {
        for column in 0..10 {
            let sum = (0..77).fold(0.0f32, |sum, i| a[row * 77 + i].mul_add(b[column * 77 + i], sum));
            assert_eq!(c[row * 10 + column].to_bits(), sum.to_bits());
        }
    }
}
