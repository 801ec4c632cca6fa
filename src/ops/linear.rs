//! `y = x W^T + b`: a linear layer with its weight as PyTorch stores it, `[out, in]`.

use super::{add_column_parts, column_tiles, for_real, kernel, kernel_to_f32, work};
use crate::Result;
use crate::autograd::{Matrix, Parameters, Tape, Tensor, Vector};
use crate::device::cpu::gemm::{Threads, View, Write, gemm};
use crate::device::cpu::{self, Real};
use crate::device::gemm_plan::{BF16_SHARED_BYTES, GemmPlan, THREADS};
use crate::device::{Buffer, DType, Device, Launch};

/// `x` (`[rows, in]`) times the transpose of `weight` (`[out, in]`), plus `bias` (`[out]`): `[rows, out]`.
///
/// # Errors
/// Those of the device.
pub fn linear(
    tape: &mut Tape,
    parameters: &Parameters,
    x: Tensor,
    weight: Matrix,
    bias: Option<Vector>,
) -> Result<Tensor> {
    let started = tape.start("linear");
    assert_eq!(x.columns, weight.columns, "linear: input and weight differ in size");
    let (rows, input, output) = (x.rows, weight.columns, weight.rows);
    let mut y = tape.allocate(rows * output)?;
    let element = tape.dtype().size();
    tape.count(work::product([rows, output, input], element, element, false));
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let y = y.slice_mut::<T>();
            let write = match bias {
                None => Write::Replace,
                Some(bias) => {
                    let bias = &parameters.values.slice::<T>()[bias.range()];
                    y.chunks_exact_mut(output).for_each(|row| row.copy_from_slice(bias));
                    Write::Add
                }
            };
            let x = View::new(tape.value(x).slice::<T>(), rows, input);
            let weight = View::new(&parameters.values.slice()[weight.range()], output, input);
            gemm(y, output, write, x, weight.transposed(), T::ONE, Threads::All);
        }),
        Device::Kernels(_) => {
            let product = Product {
                name: kernel("gemm_nt", tape.dtype()),
                finish: kernel("gemm_finish", tape.dtype()),
                sizes: [rows, output, input],
                strides: [input, input, output],
                accumulate: false,
            };
            let weights = (&parameters.values, weight.offset);
            let bias = bias.map(|bias| (&parameters.values, bias.offset));
            multiply(tape, &product, (Operand::Tensor(x), weights), bias, (&mut y, 0))?;
        }
    }
    let y = tape.push(y, rows, output);

    tape.record("linear", started, move |tape, parameters| {
        let dy = tape.take_gradient(y)?;
        let (mut dx, accumulate) = tape.gradient_slot(x)?;
        let gradient = parameters.gradients.dtype().size();
        tape.count(work::product([rows, input, output], element, element, accumulate));
        tape.count(work::product([output, input, rows], element, gradient, true));
        if bias.is_some() {
            tape.count(work::column_sums(rows, output, element));
        }
        match tape.device() {
            Device::Cpu => for_real!(tape.dtype(), T => {
                let x = View::new(tape.value(x).slice::<T>(), rows, input);
                let dy_view = View::new(dy.slice::<T>(), rows, output);
                let values = View::new(&parameters.values.slice::<T>()[weight.range()], output, input);
                let write = if accumulate { Write::Add } else { Write::Replace };
                gemm(dx.slice_mut(), input, write, dy_view, values, T::ONE, Threads::All);
                let d_weight = &mut parameters.gradients.slice_mut::<T>()[weight.range()];
                gemm(d_weight, input, Write::Add, dy_view.transposed(), x, T::ONE, Threads::All);
                if let Some(bias) = bias {
                    cpu::add_column_sums(dy.slice::<T>(), &mut parameters.gradients.slice_mut()[bias.range()]);
                }
            }),
            Device::Kernels(_) => {
                let dtype = tape.dtype();
                let product = Product {
                    name: kernel("gemm_nn", dtype),
                    finish: kernel("gemm_finish", dtype),
                    sizes: [rows, input, output],
                    strides: [output, input, input],
                    accumulate,
                };
                let weights = (&parameters.values, weight.offset);
                multiply(tape, &product, (Operand::Buffer(&dy), weights), None, (&mut dx, 0))?;
                let product = Product {
                    name: kernel_to_f32("gemm_tn", dtype),
                    finish: kernel_to_f32("gemm_finish", dtype),
                    sizes: [output, input, rows],
                    strides: [output, input, input],
                    accumulate: true,
                };
                let d_weight = (&mut parameters.gradients, weight.offset);
                multiply_by_tensor(tape, &product, &dy, x, d_weight)?;
                if let Some(bias) = bias {
                    add_bias_gradient(tape, &dy, rows, parameters, bias)?;
                }
            }
        }
        tape.put_gradient(x, dx);
        tape.recycle(dy);
        Ok(())
    });
    Ok(y)
}

/// A matrix product on a device with kernels.
struct Product {
    name: String,
    /// The kernel that adds up the parts of a split product.
    finish: String,
    /// m, n, k.
    sizes: [usize; 3],
    /// Elements from row to row of A, B and C.
    strides: [usize; 3],
    /// Whether the product is added to C.
    accumulate: bool,
}

/// A left operand.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Tensor(Tensor),
    Buffer(&'a Buffer),
}

type At<'a> = (&'a Buffer, usize);

fn multiply(
    tape: &mut Tape,
    product: &Product,
    (left, right): (Operand, At),
    bias: Option<At>,
    output: (&mut Buffer, usize),
) -> Result<()> {
    let (plan, mut partials) = plan(tape, product)?;
    let left = match left {
        Operand::Tensor(tensor) => tape.value(tensor),
        Operand::Buffer(buffer) => buffer,
    };
    launch(tape, product, &plan, (left, right), bias, output, &mut partials)?;
    tape.recycle(partials);
    Ok(())
}

/// `C += A^T x` for a tensor x on the tape.
fn multiply_by_tensor(
    tape: &mut Tape,
    product: &Product,
    left: &Buffer,
    x: Tensor,
    output: (&mut Buffer, usize),
) -> Result<()> {
    let (plan, mut partials) = plan(tape, product)?;
    launch(tape, product, &plan, (left, (tape.value(x), 0)), None, output, &mut partials)?;
    tape.recycle(partials);
    Ok(())
}

fn plan(tape: &mut Tape, product: &Product) -> Result<(GemmPlan, Buffer)> {
    let [m, n, k] = product.sizes;
    let plan = GemmPlan::new(m, n, k, product.strides, 1.0, if product.accumulate { 1.0 } else { 0.0 })?;
    let partials = tape.allocate_scratch(plan.partials)?;
    Ok((plan, partials))
}

fn launch(
    tape: &Tape,
    product: &Product,
    plan: &GemmPlan,
    (left, right): (&Buffer, At),
    bias: Option<At>,
    (output, offset): (&mut Buffer, usize),
    partials: &mut Buffer,
) -> Result<()> {
    let with_bias = |launch: Launch| match bias {
        Some((buffer, offset)) => launch.read_at(buffer, offset),
        None => launch.null(),
    };
    let shared_bytes = if tape.dtype() == DType::Bf16 { BF16_SHARED_BYTES } else { 0 };
    let mut launch = Launch::new(product.name.as_str(), 1, THREADS).shared(shared_bytes).value(plan.arguments);
    launch.grid = plan.grid;
    let launch = with_bias(launch.read(left).read_at(right.0, right.1)).write_at(output, offset);
    tape.device().launch(&launch.write(partials))?;
    if plan.finish_blocks > 0 {
        let launch = Launch::new(product.finish.as_str(), plan.finish_blocks as usize, THREADS);
        let launch = with_bias(launch.value(plan.arguments).read(partials));
        tape.device().launch(&launch.write_at(output, offset))?;
    }
    Ok(())
}

fn add_bias_gradient(
    tape: &mut Tape,
    dy: &Buffer,
    rows: usize,
    parameters: &mut Parameters,
    bias: Vector,
) -> Result<()> {
    let (tiles, parts) = column_tiles(rows, bias.len);
    let mut partials = tape.allocate_scratch(parts * bias.len)?;
    let launch = Launch::new(kernel("column_sums_partial", tape.dtype()), 1, 256).grid(tiles, parts, 1).block(32, 8, 1);
    tape.device().launch(&launch.read(dy).int(rows).int(bias.len).write(&mut partials))?;
    add_column_parts(tape.device(), &partials, parts, &mut parameters.gradients, bias)?;
    tape.recycle(partials);
    Ok(())
}
