//! One file per operation: what runs on which device, and the backward rule.
//!
//! An operation allocates its outputs from the tape, computes them, and records its way back. Gradients of activations
//! are written with `=`, except where a tensor has several users (the residual stream), whose parts are added in tape
//! order; gradients of parameters are always added to, so micro-batches accumulate.

#![forbid(unsafe_code)]

mod attention;
mod attention_hooks;
mod attention_sm90;
mod bias_gelu;
mod binary_cross_entropy;
mod column_sums;
mod cross_entropy;
mod dropout;
mod embedding;
mod feed_forward;
mod gated;
mod gated_feed_forward;
mod gather;
mod gemm_sm90;
mod layernorm;
mod linear;
mod linear_gelu;
mod losses;
mod low_rank;
mod mean_squared_error;
mod product;
mod relu;
mod residual;
mod rotary;
mod sampling;
mod skip_gram;
mod tanh;
mod target_loss;
mod weighting;
pub mod work;

pub use attention::{Qkv, attention};
pub use attention_hooks::{AlibiBias, AttentionHooks, SparseBlocks};
pub use bias_gelu::{Gelu, bias_gelu_backward, bias_gelu_forward, gelu};
pub use binary_cross_entropy::{binary_cross_entropy, binary_cross_entropy_into};
pub use column_sums::column_sums;
pub use cross_entropy::{cross_entropy, cross_entropy_into, weighted_cross_entropy_into};
pub use dropout::dropout;
pub use embedding::{Embedding, embedding};
pub use feed_forward::{Activated, feed_forward};
pub use gated::{Gate, gated, gated_backward, gated_forward};
pub use gated_feed_forward::gated_feed_forward;
pub use gather::gather;
pub use layernorm::{Normalisation, Summands, layernorm, layernorm_and_sum, layernorm_beside};
pub use linear::{linear, logits, qkv};
pub use linear_gelu::linear_gelu;
pub use losses::{Loss, Losses};
pub use low_rank::{Adapters, low_rank};
pub use mean_squared_error::{mean_squared_error, mean_squared_error_into};
pub use relu::relu;
pub use residual::residual;
pub use rotary::rotary;
pub use sampling::Sampler;
pub use skip_gram::{MOST_DIMENSIONS, MOST_NEGATIVES, Rectangles, SkipGram, Square};
pub use tanh::tanh;
pub use weighting::Weighting;

use crate::Result;
use crate::autograd::{Tape, Tensor};
use crate::device::{Buffer, DType, Device, Launch, cpu};

/// Evaluates an expression with `T` bound to the float type that a [`DType`](crate::device::DType) names.
macro_rules! for_real {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::device::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::device::DType::F64 => {
                type $T = f64;
                $body
            }
            $crate::device::DType::Bf16 | $crate::device::DType::I32 | $crate::device::DType::U8 => {
                unreachable!("the CPU computes in f32 and f64")
            }
        }
    };
}
pub(crate) use for_real;

/// Adds `gradient` to what is known of the gradient of `tensor`, if somebody wants it.
fn deliver(tape: &mut Tape, tensor: Tensor, gradient: Buffer) -> Result<()> {
    if !tape.wants_gradient(tensor) {
        tape.recycle(gradient);
        return Ok(());
    }
    if !tape.has_gradient(tensor) {
        tape.put_gradient(tensor, gradient);
        return Ok(());
    }
    let (mut sum, _) = tape.gradient_slot(tensor)?;
    accumulate(tape, &mut sum, &gradient)?;
    tape.put_gradient(tensor, sum);
    tape.recycle(gradient);
    Ok(())
}

/// `sum += term`, both of the same type: activations, or gradients of parameters.
///
/// # Errors
/// None on the CPU.
pub fn accumulate(tape: &mut Tape, sum: &mut Buffer, term: &Buffer) -> Result<()> {
    let (count, dtype) = (term.len(), term.dtype());
    let work = work::accumulate(count, dtype.size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(dtype, T => cpu::accumulate::<T>(sum.slice_mut(), term.slice())),
        device => {
            let launch = Launch::new(kernel("accumulate", dtype), groups(count), 256);
            device.launch(&launch.work(work).write(sum).read(term).long(count))?;
        }
    }
    Ok(())
}

/// As [`accumulate`], of `count` elements of one buffer: those from `term` on, behind them, are added to those from `sum` on.
///
/// # Errors
/// None on the CPU.
pub fn add_within(tape: &mut Tape, buffer: &mut Buffer, sum: usize, term: usize, count: usize) -> Result<()> {
    let dtype = buffer.dtype();
    let work = work::accumulate(count, dtype.size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(dtype, T => {
            let (sums, terms) = buffer.slice_mut::<T>().split_at_mut(term);
            cpu::accumulate(&mut sums[sum..sum + count], &terms[..count]);
        }),
        device => {
            let launch = Launch::new(kernel("accumulate", dtype), groups(count), 256).work(work);
            device.launch(&launch.write_at(buffer, sum).read_at(buffer, term).long(count))?;
        }
    }
    Ok(())
}

/// The name of a kernel for a dtype, as in `gather_forward_bf16`.
fn kernel(name: &str, dtype: DType) -> String {
    format!("{name}_{}", dtype.name())
}

/// The name of a kernel that reads activations of `dtype` and adds to gradients of parameters, which are f32.
fn kernel_to_f32(name: &str, dtype: DType) -> String {
    match dtype {
        DType::Bf16 => format!("{name}_bf16_f32"),
        _ => kernel(name, dtype),
    }
}

/// Blocks of 256 threads that take eight elements each.
fn groups(elements: usize) -> usize {
    elements.div_ceil(256 * 8).max(1)
}
