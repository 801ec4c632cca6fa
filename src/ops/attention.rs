//! Packed bidirectional multi-head attention with dropout, one node.

use std::rc::Rc;

use super::{deliver, for_real, groups, kernel, work};
use crate::autograd::{DeviceBatch, Tape, Tensor};
use crate::device::cpu::attention::{Saved, Shape};
use crate::device::cpu::dropout::{Dropout, DropoutArgument};
use crate::device::{DType, Device, Launch, cpu};
use crate::{Error, Result};

/// `qkv`: `[total_tokens, 3 hidden]`, queries, keys and values, each head by head; the result is
/// `[total_tokens, hidden]`. Tokens attend to all tokens of their own sequence. Scores are scaled with
/// `1 / sqrt(hidden / heads)`; `dropout` is the probability of dropping an attention probability.
///
/// # Errors
/// None on the CPU.
pub fn attention(tape: &mut Tape, batch: &Rc<DeviceBatch>, qkv: Tensor, heads: usize, dropout: f64) -> Result<Tensor> {
    let started = tape.start("attention");
    let (rows, hidden) = (qkv.rows, qkv.columns / 3);
    let dropout = tape.dropout(dropout);
    let mut output = tape.allocate(rows * hidden)?;
    let mut log_sum_exp = tape.allocate_scratch(rows * heads)?;
    let mut plan = tape.allocate_as(2 * plan_entries(rows, batch), DType::I32)?;
    let work = work::attention_forward(rows, hidden, heads, batch.pairs, tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let shape = shape(batch, hidden, heads, dropout);
            let qkv = tape.value(qkv).slice::<T>();
            cpu::attention::forward(qkv, shape, output.slice_mut(), log_sum_exp.slice_mut());
        }),
        device => {
            let kernels = Kernels::new(tape.dtype(), hidden, heads)?;
            let sequences = batch.cu_seqlens.len() - 1;
            let launch = Launch::new("attention_plan", 1, 256).read(&batch.cu_seqlens).int(sequences);
            device.launch(&launch.int(plan_entries(rows, batch)).write(&mut plan))?;
            let launch = kernels.launch("attention_forward", kernels.forward_shared, plan_entries(rows, batch));
            let launch =
                launch.read(tape.value(qkv)).read(&batch.cu_seqlens).read(&plan).int(heads).value(kernels.scale);
            let launch = launch.value(DropoutArgument::of(dropout)).write(&mut output).write(&mut log_sum_exp);
            device.launch(&launch.work(work))?;
        }
    }
    let output = tape.push(output, rows, hidden);
    let log_sum_exp = tape.push(log_sum_exp, rows, heads);
    let plan = tape.push(plan, plan_entries(rows, batch), 2);

    let batch = Rc::clone(batch);
    tape.record("attention", started, move |tape, _| {
        let d_output = tape.take_gradient(output)?;
        let mut d_qkv = tape.allocate(rows * 3 * hidden)?;
        let mut terms = tape.allocate_scratch(2 * rows * heads)?;
        tape.count(work::attention_backward(rows, hidden, heads, batch.pairs, tape.dtype().size()));
        match tape.device() {
            Device::Cpu => for_real!(tape.dtype(), T => {
                let saved = Saved {
                    qkv: tape.value(qkv).slice::<T>(),
                    output: tape.value(output).slice(),
                    log_sum_exp: tape.value(log_sum_exp).slice(),
                };
                let shape = shape(&batch, hidden, heads, dropout);
                cpu::attention::backward(saved, d_output.slice(), shape, d_qkv.slice_mut());
            }),
            device => {
                let kernels = Kernels::new(tape.dtype(), hidden, heads)?;
                let launch = Launch::new(kernel("attention_row_terms", tape.dtype()), groups(rows * hidden), 256);
                let launch = launch.read(tape.value(output)).read(&d_output).read(tape.value(log_sum_exp));
                device.launch(&launch.int(rows).int(heads).int(hidden / heads).write(&mut terms))?;
                for side in ["attention_backward_queries", "attention_backward_keys"] {
                    let launch = kernels.launch(side, kernels.backward_shared, plan_entries(rows, &batch));
                    let launch = launch.read(tape.value(qkv)).read(&d_output).read(&terms).read(&batch.cu_seqlens);
                    let launch = launch.read(tape.value(plan)).int(heads).int(rows).value(kernels.scale);
                    device.launch(&launch.value(DropoutArgument::of(dropout)).write(&mut d_qkv))?;
                }
            }
        }
        tape.recycle(terms);
        deliver(tape, qkv, d_qkv)?;
        tape.recycle(d_output);
        Ok(())
    });
    Ok(output)
}

fn shape(batch: &DeviceBatch, hidden: usize, heads: usize, dropout: Option<Dropout>) -> Shape<'_> {
    let head_dim = hidden / heads;
    Shape { cu_seqlens: batch.cu_seqlens.slice(), heads, head_dim, scale: 1.0 / (head_dim as f64).sqrt(), dropout }
}

/// Rows of queries or keys that a block of the kernels owns: `ATTENTION_ROWS` of `kernels/common/attention.cuh`.
const ROWS: usize = 128;

/// Entries of a plan that always suffice: a sequence contributes at most one that is not full.
fn plan_entries(rows: usize, batch: &DeviceBatch) -> usize {
    rows / ROWS + batch.cu_seqlens.len() - 1
}

/// The attention kernels for one shape.
struct Kernels {
    dtype: DType,
    heads: usize,
    head_dim: usize,
    scale: f32,
    forward_shared: u32,
    backward_shared: u32,
}

impl Kernels {
    fn new(dtype: DType, hidden: usize, heads: usize) -> Result<Self> {
        let head_dim = hidden / heads;
        if dtype != DType::Bf16 {
            return Err(Error::usage(
                "attention in f32 on a GPU, for which there is no kernel yet",
                "use --dtype bf16, or --device cpu",
            ));
        }
        let [forward_shared, backward_shared] = match head_dim {
            32 => [24 << 10, 33 << 10],
            64 => [48 << 10, 65 << 10],
            128 => [64 << 10, 193 << 9],
            other => {
                return Err(Error::usage(
                    format!("attention heads of {other} elements on a GPU"),
                    "the kernels take 32, 64 or 128: choose --hidden and --heads accordingly, or use --device cpu",
                ));
            }
        };
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        Ok(Self { dtype, heads, head_dim, scale, forward_shared, backward_shared })
    }

    fn launch(&self, name: &str, shared_bytes: u32, entries: usize) -> Launch {
        // The backward kernels of 128 elements have a warp for every 16 rows, the others one for 32.
        let threads = if self.head_dim == 128 && shared_bytes == self.backward_shared { 256 } else { 128 };
        let name = format!("{name}_{}_d{}", self.dtype.name(), self.head_dim);
        Launch::new(name, 1, threads).grid(entries, self.heads, 1).shared(shared_bytes)
    }
}
