//! The matrix products of linear layers, on any device. On one with kernels a product is ours, or the vendor's library's where that
//! was chosen (`--gemm`).

use std::sync::Arc;
use std::time::Instant;

use super::bias_gelu::{self, Gelu, bias_gelu_backward, bias_gelu_forward};
use super::column_sums::{self, column_sums};
use super::{for_real, gemm_sm90, work};
use crate::Result;
use crate::autograd::{Matrix, Parameters, Tape, Tensor, Vector};
use crate::device::cpu::Real;
use crate::device::cpu::gemm::{Threads, View, Write, gemm, gemm_by_rows};
use crate::device::gemm_plan::{BF16_SHARED_BYTES, GemmPlan, SM90_SUM_ROWS, THREADS, TILE};
use crate::device::product::{Layout, Product};
use crate::device::{Buffer, DType, Device, Launch, Work};

/// `y = x W^T + bias`, with the rows of y `stride` elements apart.
pub(super) fn forward(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    weight: Matrix,
    bias: Option<Vector>,
    (y, stride): (&mut Buffer, usize),
) -> Result<()> {
    let (rows, input, output) = (x.rows, weight.columns, weight.rows);
    assert_eq!(x.columns, input, "linear: input and weight differ in size");
    let element = tape.dtype().size();
    tape.count(work::product([rows, output, input], element, element, false));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let y = y.slice_mut::<T>();
            let write = match bias {
                None => Write::Replace,
                Some(bias) => {
                    let bias = &parameters.values.slice::<T>()[bias.range()];
                    y.chunks_exact_mut(stride).for_each(|row| row[..output].copy_from_slice(bias));
                    Write::Add
                }
            };
            let x = View::new(tape.value(x).slice::<T>(), rows, input);
            let weight = View::new(&parameters.values.slice()[weight.range()], output, input);
            gemm_by_rows(y, stride, write, x, weight.transposed(), Threads::All);
            Ok(())
        }),
        Device::Kernels(_) => {
            let bias = bias.map(|bias| parameters.values.address_of(bias.offset));
            let product = Product { bias, ..forward_product(tape, parameters, x, weight, y, stride) };
            multiply(tape, &product, Epilogue::None)
        }
    }
}

/// `x W^T` into `kept`, and `gelu(x W^T + bias)` into `y`; both `[rows, out]`.
pub(super) fn forward_gelu(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    (weight, bias): (Matrix, Vector),
    gelu: Gelu,
    kept: &mut Buffer,
    y: &mut Buffer,
) -> Result<()> {
    assert_eq!(weight.rows, bias.len, "linear_gelu: weight and bias differ in size");
    match tape.device() {
        Device::Cpu => {
            forward(tape, parameters, x, weight, None, (kept, weight.rows))?;
            bias_gelu_forward(tape, parameters, (kept, bias.len), Some(bias), gelu, y)
        }
        Device::Kernels(_) => {
            let product = forward_product(tape, parameters, x, weight, kept, weight.rows);
            let epilogue = Epilogue::Gelu { gelu, bias: parameters.values.address_of(bias.offset), y: y.address() };
            tape.count(work_of(&product, epilogue));
            multiply(tape, &product, epilogue)
        }
    }
}

fn forward_product(
    tape: &Tape,
    parameters: &Parameters,
    x: Tensor,
    weight: Matrix,
    y: &Buffer,
    stride: usize,
) -> Product {
    Product {
        layout: Layout::Nt,
        sizes: [x.rows, weight.rows, weight.columns],
        strides: [x.columns, weight.columns, stride],
        operands: tape.dtype(),
        output: tape.dtype(),
        scale: 1.0,
        accumulate: false,
        a: tape.value(x).address(),
        b: parameters.values.address_of(weight.offset),
        bias: None,
        c: y.address(),
    }
}

/// A gradient of a linear layer's output, `[rows, out]` with rows `stride` elements apart.
#[derive(Clone, Copy)]
pub(super) struct OutputGradient<'a> {
    pub values: &'a Buffer,
    pub rows: usize,
    pub stride: usize,
}

/// Adds `dy W` to the gradient of the input `x`, if somebody wants it.
pub(super) fn deliver_input_gradient(
    tape: &mut Tape,
    parameters: &Parameters,
    dy: OutputGradient,
    weight: Matrix,
    x: Tensor,
) -> Result<()> {
    if !tape.wants_gradient(x) {
        return Ok(());
    }
    let (mut dx, accumulate) = tape.gradient_slot(x)?;
    input_gradient(tape, parameters, dy, weight, &mut dx, accumulate)?;
    tape.put_gradient(x, dx);
    Ok(())
}

/// `dx (=, +=) dy W`.
fn input_gradient(
    tape: &mut Tape,
    parameters: &Parameters,
    dy: OutputGradient,
    weight: Matrix,
    dx: &mut Buffer,
    accumulate: bool,
) -> Result<()> {
    let element = tape.dtype().size();
    tape.count(work::product([dy.rows, weight.columns, weight.rows], element, element, accumulate));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let dy = View::strided(dy.values.slice::<T>(), dy.rows, weight.rows, dy.stride);
            let values = View::new(&parameters.values.slice::<T>()[weight.range()], weight.rows, weight.columns);
            let write = if accumulate { Write::Add } else { Write::Replace };
            gemm(dx.slice_mut(), weight.columns, write, dy, values, T::ONE, Threads::All);
            Ok(())
        }),
        Device::Kernels(_) => {
            let product = Product { accumulate, ..input_gradient_product(tape, parameters, dy, weight, dx) };
            multiply(tape, &product, Epilogue::None)
        }
    }
}

/// The gradient of what GELU was applied to: `dx = (dy W) gelu'(kept + bias)`, and its column sums are added to the gradient of the
/// bias. `kept` and `dx` are `[rows, in]`.
pub(super) fn input_gradient_gelu(
    tape: &mut Tape,
    parameters: &mut Parameters,
    dy: OutputGradient,
    weight: Matrix,
    (kept, bias, gelu): (Tensor, Vector, Gelu),
    dx: &mut Buffer,
) -> Result<()> {
    match tape.device() {
        Device::Cpu => {
            input_gradient(tape, parameters, dy, weight, dx, false)?;
            bias_gelu_backward(tape, parameters, kept, Some(bias), gelu, dx)
        }
        Device::Kernels(_) => {
            let product = input_gradient_product(tape, parameters, dy, weight, dx);
            let (shift, x) = (parameters.values.address_of(bias.offset), tape.value(kept).address());
            let parts = sum_parts(tape, &product, Epilogue::GeluGradient { gelu, bias: shift, x, partials: 0 });
            let partials = tape.allocate_scratch(parts * bias.len)?;
            let epilogue = Epilogue::GeluGradient { gelu, bias: shift, x, partials: partials.address() };
            tape.count(work_of(&product, epilogue));
            multiply(tape, &product, epilogue)?;
            column_sums::add_parts(tape.device(), &partials, parts, &mut parameters.gradients, bias)?;
            tape.recycle(partials);
            Ok(())
        }
    }
}

fn input_gradient_product(
    tape: &Tape,
    parameters: &Parameters,
    dy: OutputGradient,
    weight: Matrix,
    dx: &Buffer,
) -> Product {
    Product {
        layout: Layout::Nn,
        sizes: [dy.rows, weight.columns, weight.rows],
        strides: [dy.stride, weight.columns, weight.columns],
        operands: tape.dtype(),
        output: tape.dtype(),
        scale: 1.0,
        accumulate: false,
        a: dy.values.address(),
        b: parameters.values.address_of(weight.offset),
        bias: None,
        c: dx.address(),
    }
}

/// `dW += dy^T x` and, where there is a bias, `db += column sums of dy`; nothing of what is frozen.
pub(super) fn parameter_gradients(
    tape: &mut Tape,
    parameters: &mut Parameters,
    dy: OutputGradient,
    x: Tensor,
    weight: Matrix,
    bias: Option<Vector>,
) -> Result<()> {
    if parameters.trains(weight.offset) {
        weight_gradient(tape, parameters, dy, x, weight)?;
    }
    match bias {
        Some(bias) => column_sums(tape, parameters, dy.values, [dy.rows, dy.stride], bias),
        None => Ok(()),
    }
}

fn weight_gradient(
    tape: &mut Tape,
    parameters: &mut Parameters,
    dy: OutputGradient,
    x: Tensor,
    weight: Matrix,
) -> Result<()> {
    let (element, gradient) = (tape.dtype().size(), parameters.gradients.dtype().size());
    tape.count(work::product([weight.rows, weight.columns, dy.rows], element, gradient, true));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let x = View::new(tape.value(x).slice::<T>(), x.rows, weight.columns);
            let view = View::strided(dy.values.slice::<T>(), dy.rows, weight.rows, dy.stride);
            let d_weight = &mut parameters.gradients.slice_mut::<T>()[weight.range()];
            gemm(d_weight, weight.columns, Write::Add, view.transposed(), x, T::ONE, Threads::All);
            Ok(())
        }),
        Device::Kernels(_) => {
            let product = Product {
                layout: Layout::Tn,
                sizes: [weight.rows, weight.columns, dy.rows],
                strides: [dy.stride, weight.columns, weight.columns],
                operands: tape.dtype(),
                output: parameters.gradients.dtype(),
                scale: 1.0,
                accumulate: true,
                a: dy.values.address(),
                b: tape.value(x).address(),
                bias: None,
                c: parameters.gradients.address_of(weight.offset),
            };
            multiply(tape, &product, Epilogue::None)
        }
    }
}

/// A row-major matrix inside a buffer.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub buffer: &'a Buffer,
    /// Its first element.
    pub offset: usize,
    /// Elements from row to row.
    pub stride: usize,
}

/// `C (=, +=) scale op(A) op(B)` with C at an offset of its buffer and its rows a stride apart.
pub(super) fn of_parts(
    tape: &mut Tape,
    layout: Layout,
    [m, n, k]: [usize; 3],
    [a, b]: [Part; 2],
    (c, offset, stride): (&mut Buffer, usize, usize),
    scale: f64,
    accumulate: bool,
) -> Result<()> {
    tape.count(work::product([m, n, k], tape.dtype().size(), c.dtype().size(), accumulate));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let [a_values, b_values] = [a, b].map(|part| &part.buffer.slice::<T>()[part.offset..]);
            let a = |rows, columns| View::strided(a_values, rows, columns, a.stride);
            let b = |rows, columns| View::strided(b_values, rows, columns, b.stride);
            let (a, b) = match layout {
                Layout::Nt => (a(m, k), b(n, k).transposed()),
                Layout::Nn => (a(m, k), b(k, n)),
                Layout::Tn => (a(k, m).transposed(), b(k, n)),
            };
            let write = if accumulate { Write::Add } else { Write::Replace };
            gemm(&mut c.slice_mut::<T>()[offset..], stride, write, a, b, T::of(scale), Threads::All);
            Ok(())
        }),
        Device::Kernels(_) => {
            let product = Product {
                layout,
                sizes: [m, n, k],
                strides: [a.stride, b.stride, stride],
                operands: tape.dtype(),
                output: c.dtype(),
                scale: scale as f32,
                accumulate,
                a: a.buffer.address_of(a.offset),
                b: b.buffer.address_of(b.offset),
                bias: None,
                c: c.address_of(offset),
            };
            multiply(tape, &product, Epilogue::None)
        }
    }
}

/// What follows a product's sums.
#[derive(Clone, Copy)]
pub(super) enum Epilogue {
    /// Nothing but the product's own bias.
    None,
    /// C keeps the sums; `y = gelu(C + bias)`.
    Gelu { gelu: Gelu, bias: u64, y: u64 },
    /// The sums are multiplied with gelu'(x + bias); `partials` gets their column sums, a row for each of [`sum_parts`].
    GeluGradient { gelu: Gelu, bias: u64, x: u64, partials: u64 },
}

impl Epilogue {
    /// In the names of kernels.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gelu { gelu: Gelu::Exact, .. } => "_gelu",
            Self::Gelu { gelu: Gelu::Tanh, .. } => "_gelu_tanh",
            Self::GeluGradient { gelu: Gelu::Exact, .. } => "_gelu_gradient",
            Self::GeluGradient { gelu: Gelu::Tanh, .. } => "_gelu_tanh_gradient",
        }
    }
}

/// Parts that the rows of C are cut into for their column sums.
fn sum_parts(tape: &Tape, product: &Product, epilogue: Epilogue) -> usize {
    let rows = if gemm_sm90::takes(tape.device(), product, epilogue) { SM90_SUM_ROWS } else { TILE };
    product.sizes[0].div_ceil(rows)
}

fn multiply(tape: &mut Tape, product: &Product, epilogue: Epilogue) -> Result<()> {
    if vendor_is_chosen(tape, product, epilogue)? && by_vendor(tape, product, epilogue)? {
        return Ok(());
    }
    by_our_kernels(tape, product, epilogue)
}

/// What a product and what follows its sums cost at the least.
pub(super) fn work_of(product: &Product, epilogue: Epilogue) -> Work {
    let ([m, n, _], output) = (product.sizes, product.output.size());
    match epilogue {
        Epilogue::None => product.work(),
        Epilogue::Gelu { .. } => product.work() + work::gelu_epilogue(m * n, output),
        Epilogue::GeluGradient { .. } => product.work() + work::gelu_gradient_epilogue(m * n, output),
    }
}

/// The kernel's name and type, as in `gemm_nt_gelu_bf16`.
pub(super) fn kernel_name(product: &Product, epilogue: Epilogue) -> String {
    format!("{}{}_{}", product.layout.kernel(), epilogue.name(), product.types())
}

fn by_our_kernels(tape: &mut Tape, product: &Product, epilogue: Epilogue) -> Result<()> {
    if gemm_sm90::takes(tape.device(), product, epilogue) {
        return gemm_sm90::multiply(tape, product, epilogue);
    }
    let ([m, n, k], beta) = (product.sizes, if product.accumulate { 1.0 } else { 0.0 });
    let plan = match epilogue {
        Epilogue::None => GemmPlan::new(m, n, k, product.strides, product.scale, beta)?,
        _ => GemmPlan::with_splits(m, n, k, product.strides, product.scale, beta, 1)?,
    };
    let shared_bytes = if product.operands == DType::Bf16 { BF16_SHARED_BYTES } else { 0 };
    let mut launch = Launch::new(kernel_name(product, epilogue), 1, THREADS).shared(shared_bytes);
    launch.grid = plan.grid;
    let launch = launch.work(work_of(product, epilogue)).value(plan.arguments).value(product.a).value(product.b);
    match epilogue {
        Epilogue::None => {
            let mut partials = tape.allocate_scratch(plan.partials)?;
            let bias = product.bias.unwrap_or(0);
            tape.device().launch(&launch.value(bias).value(product.c).write(&mut partials))?;
            if plan.finish_blocks > 0 {
                let name = format!("gemm_finish_{}", product.types());
                let (parts, output) = (plan.partials / (m * n), product.output.size());
                let launch = Launch::new(name, plan.finish_blocks as usize, THREADS).value(plan.arguments);
                let launch = launch.work(work::sum_of_parts(parts, m * n, output, product.accumulate));
                tape.device().launch(&launch.read(&partials).value(bias).value(product.c))?;
            }
            tape.recycle(partials);
            Ok(())
        }
        Epilogue::Gelu { bias, y, .. } => tape.device().launch(&launch.value(bias).value(y).value(product.c)),
        Epilogue::GeluGradient { bias, x, partials, .. } => {
            tape.device().launch(&launch.value(bias).value(product.c).value(x).value(partials))
        }
    }
}

/// The product by the vendor's library, and what follows it by a kernel of ours. `false` where it does not take the product.
fn by_vendor(tape: &Tape, product: &Product, epilogue: Epilogue) -> Result<bool> {
    let device = tape.device();
    if !device.vendor_product(product)? {
        return Ok(false);
    }
    let ([rows, columns, _], dtype) = (product.sizes, product.output);
    match epilogue {
        Epilogue::None => {}
        Epilogue::Gelu { gelu, bias, y } => {
            device.launch(&bias_gelu::forward_launch(dtype, gelu, [rows, columns], product.c, bias, y))?;
        }
        Epilogue::GeluGradient { gelu, bias, x, partials } => {
            let parts = sum_parts(tape, product, epilogue);
            let addresses = [x, bias, product.c, partials];
            device.launch(&bias_gelu::backward_launch(dtype, gelu, [rows, columns], parts, addresses))?;
        }
    }
    Ok(true)
}

fn vendor_is_chosen(tape: &mut Tape, product: &Product, epilogue: Epilogue) -> Result<bool> {
    let Device::Kernels(driver) = tape.device() else { return Ok(false) };
    let driver = Arc::clone(driver);
    let Some(table) = driver.gemm_table() else { return Ok(false) };
    let name = kernel_name(product, epilogue);
    table.prefers_vendor(&name, product, || measure(tape, product, epilogue))
}

/// Milliseconds of both ways. A product that is added to C is measured on scratch in its place; the others write what is written
/// again afterwards.
fn measure(tape: &mut Tape, product: &Product, epilogue: Epilogue) -> Result<(f64, Option<f64>)> {
    let mut scratch = None;
    if product.accumulate {
        let [m, _, _] = product.sizes;
        let mut zeros = Buffer::on(tape.device(), m * product.strides[2], product.output)?;
        zeros.fill_zero()?;
        scratch = Some(zeros);
    }
    let product = Product { c: scratch.as_ref().map_or(product.c, Buffer::address), ..*product };
    let own = milliseconds(tape, |tape| by_our_kernels(tape, &product, epilogue))?;
    let vendor = match by_vendor(tape, &product, epilogue)? {
        true => Some(milliseconds(tape, |tape| by_vendor(tape, &product, epilogue).map(|_| ()))?),
        false => None,
    };
    Ok((own, vendor))
}

/// The least of three timings of four calls each, after one that warms up, between moments when the device is idle.
fn milliseconds(tape: &mut Tape, mut call: impl FnMut(&mut Tape) -> Result<()>) -> Result<f64> {
    const CALLS: u32 = 4;
    call(tape)?;
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        tape.device().synchronize()?;
        let started = Instant::now();
        for _ in 0..CALLS {
            call(tape)?;
        }
        tape.device().synchronize()?;
        least = least.min(started.elapsed().as_secs_f64() * 1e3 / f64::from(CALLS));
    }
    Ok(least)
}
