//! What a training step will take on a GPU, before there is one: every kernel with the least time that it can take, and the memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::workload::Workload;
use crate::Result;
use crate::device::attention_kernels::AttentionPath;
use crate::device::planner::{Chip, Planner};
use crate::device::{DType, Device, Work};
use crate::model::Recompute;
use crate::train::ceilings::{Ceilings, Limit};

/// The calls of one kernel in a step.
#[derive(Clone, Debug, Serialize)]
pub struct KernelPlan {
    /// Its name; `copy`, `fill` and the copies between host and device besides.
    pub kernel: String,
    /// Calls.
    pub calls: usize,
    /// Bytes and arithmetic of all of them.
    pub work: Work,
    /// The least milliseconds that they can take: the sum over the calls of the larger of memory's and arithmetic's.
    pub floor_milliseconds: f64,
    /// Share of the step's.
    pub share: f64,
    /// What sets it; nothing where the work is not stated.
    pub bound_by: Option<Limit>,
}

/// A step that was counted, not run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The chip, with its data sheet's figures.
    pub chip: Chip,
    /// Type of weights and activations.
    pub dtype: &'static str,
    /// What is computed again on the way back.
    pub recompute: Recompute,
    /// Tokens of the step.
    pub tokens_per_step: usize,
    /// Launches, copies and fills of the step.
    pub launches: usize,
    /// The least milliseconds that the kernels can take one after the other.
    pub floor_milliseconds: f64,
    /// Tokens a second if they took no more.
    pub tokens_per_second_at_most: f64,
    /// Model FLOP/s utilisation then: the arithmetic of the products that the model needs, over the chip's rate.
    pub mfu_at_most: f64,
    /// Bytes of the chip's memory: the most at a time, the copies of initialising among them.
    pub memory_bytes: usize,
    /// Who they belong to after the step.
    pub memory: Vec<(&'static str, usize)>,
    /// The kernels, the longest first.
    pub kernels: Vec<KernelPlan>,
}

/// Counts the second step of a training; in the first one the tape's pool fills.
///
/// # Errors
/// [`crate::Error::Usage`] for numbers that make no step, and attention kernels that the chip cannot run.
pub fn plan(workload: &Workload, chip: Chip, attention: AttentionPath, dtype: DType, seed: u64) -> Result<Plan> {
    let planner = Arc::new(Planner::new(chip, attention));
    let device = Device::Kernels(planner.clone());
    let mut trainer = workload.trainer(&device, dtype, seed)?;
    let batches = [workload.batch(seed)];
    trainer.advance(&batches, 1e-4)?;
    trainer.report()?;
    planner.take_launches();
    trainer.advance(&batches, 1e-4)?;
    let launches = planner.take_launches();
    let flops = trainer.report()?.flops;

    // The data sheets' rate for products of f32 is that of TF32, half of bf16's; our kernels, which round nothing, reach less.
    let flops_per_second = if dtype == DType::Bf16 { chip.flops_per_second } else { chip.flops_per_second / 2.0 };
    let bytes_per_second = chip.bytes_per_second;
    let ceilings =
        Ceilings { bytes_per_second, memory: "data sheet", flops_per_second, product_size: 0, by_cublaslt: false };
    let mut totals: BTreeMap<&str, (usize, Work, f64)> = BTreeMap::new();
    for (name, work) in &launches {
        let total = totals.entry(name).or_default();
        total.0 += 1;
        total.1 += *work;
        total.2 += ceilings.floor(*work);
    }
    let seconds: f64 = totals.values().map(|total| total.2).sum();
    let mut kernels: Vec<KernelPlan> = totals
        .into_iter()
        .map(|(kernel, (calls, work, floor))| KernelPlan {
            kernel: kernel.to_owned(),
            calls,
            work,
            floor_milliseconds: floor * 1e3,
            share: floor / seconds,
            bound_by: ceilings.limit(work, f64::INFINITY),
        })
        .collect();
    kernels.sort_by(|a, b| b.floor_milliseconds.total_cmp(&a.floor_milliseconds));
    let tokens = batches[0].total_tokens();
    Ok(Plan {
        chip,
        dtype: dtype.name(),
        recompute: workload.recompute,
        tokens_per_step: tokens,
        launches: launches.len(),
        floor_milliseconds: seconds * 1e3,
        tokens_per_second_at_most: tokens as f64 / seconds,
        mfu_at_most: flops / seconds / flops_per_second,
        memory_bytes: planner.most_bytes(),
        memory: trainer.memory(),
        kernels,
    })
}
