//! What a training step will take on a GPU, before there is one: every kernel with the least time that it can take, and the memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::issue;
use super::workload::Workload;
use crate::device::attention_kernels::AttentionPath;
use crate::device::chips::{Chip, Code};
use crate::device::planner::{Piece, Planner};
use crate::device::{DType, Device, Work};
use crate::model::Recompute;
use crate::{Error, Result};

/// What sets the least time of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The memory bus.
    Memory,
    /// The tensor cores.
    Tensor,
    /// Additions and multiplications of f32, without tensor cores.
    Fma,
    /// Its instructions: the slots of the schedulers, or a unit that takes fewer lanes than they offer.
    Issue,
}

impl Bound {
    /// As tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Tensor => "tensor",
            Self::Fma => "fma",
            Self::Issue => "issue",
        }
    }
}

/// The least milliseconds that work takes, by what it needs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Floors {
    /// Its bytes.
    pub memory: f64,
    /// Its arithmetic.
    pub arithmetic: f64,
    /// Its instructions, at the chip's highest clock; nothing where its machine code is not known.
    pub issue: Option<f64>,
}

/// The calls of one kernel in a step.
#[derive(Clone, Debug, Serialize)]
pub struct KernelPlan {
    /// Its name; `copy`, `fill` and the copies between host and device besides.
    pub kernel: String,
    /// Calls.
    pub calls: usize,
    /// Bytes and arithmetic of all of them.
    pub work: Work,
    /// What each of the three needs, over all calls.
    pub floors: Floors,
    /// The least milliseconds that they can take: the sum over the calls of the largest of the three.
    pub floor_milliseconds: f64,
    /// Share of the step's.
    pub share: f64,
    /// What sets it; nothing where the work is not stated.
    pub bound_by: Option<Bound>,
    /// Which unit its instructions keep busiest.
    pub busiest: Option<&'static str>,
}

impl KernelPlan {
    /// Before its first call.
    fn of(piece: &Piece) -> Self {
        Self {
            kernel: piece.name.clone(),
            calls: 0,
            work: Work::default(),
            floors: Floors::default(),
            floor_milliseconds: 0.0,
            share: 0.0,
            bound_by: None,
            busiest: None,
        }
    }
}

/// A step that was counted, not run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The chip, with its figures and where they come from.
    pub chip: Chip,
    /// Which of our kernels run on it.
    pub code: Code,
    /// Type of weights and activations.
    pub dtype: &'static str,
    /// What is computed again on the way back.
    pub recompute: Recompute,
    /// Tokens of the step.
    pub tokens_per_step: usize,
    /// Launches, copies and fills of the step.
    pub launches: usize,
    /// The least milliseconds that the kernels can take one after the other, by the rates that are known to be reached.
    pub floor_milliseconds: f64,
    /// The same by the data sheet's rates, and without instructions.
    pub data_sheet_milliseconds: f64,
    /// Tokens a second if they took no more.
    pub tokens_per_second_at_most: f64,
    /// Model FLOP/s utilisation then: the arithmetic of the products that the model needs, over the data sheet's rate.
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
/// [`Error::Usage`] for numbers that make no step, a chip that no kernel here runs on, and attention kernels that it cannot run.
pub fn plan(workload: &Workload, chip: Chip, attention: AttentionPath, dtype: DType, seed: u64) -> Result<Plan> {
    if chip.code() == Code::Missing {
        let (major, minor) = chip.capability;
        return Err(Error::usage(
            format!(
                "no kernel here runs on a {}: its compute capability is {major}.{minor}, and it knows no bf16",
                chip.title
            ),
            "plan for a chip of compute capability 8.0 or higher (`helixgrad plan --chips` lists them); train there with --device cpu",
        ));
    }
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

    let (products, bound) = match dtype {
        DType::Bf16 => (chip.tensor_flops, Bound::Tensor),
        // No TF32, which would round: our kernels for f32 use no tensor cores.
        _ => (chip.f32_flops, Bound::Fma),
    };
    let mut totals: BTreeMap<&str, KernelPlan> = BTreeMap::new();
    let mut data_sheet = 0.0;
    for piece in &launches {
        let Work { bytes, flops } = piece.work;
        let (memory, arithmetic) = (bytes / chip.bytes_per_second.known(), flops / products.known());
        data_sheet += (bytes / chip.bytes_per_second.data_sheet).max(flops / products.data_sheet);
        let total = totals.entry(&piece.name).or_insert_with(|| KernelPlan::of(piece));
        let issue = issue::seconds(piece, &chip);
        total.calls += 1;
        total.work += piece.work;
        total.floors.memory += memory * 1e3;
        total.floors.arithmetic += arithmetic * 1e3;
        if let Some((seconds, unit)) = issue {
            *total.floors.issue.get_or_insert_default() += seconds * 1e3;
            total.busiest = Some(unit);
        }
        total.floor_milliseconds += memory.max(arithmetic).max(issue.map_or(0.0, |issue| issue.0)) * 1e3;
    }
    let seconds = totals.values().map(|total| total.floor_milliseconds).sum::<f64>() / 1e3;
    let mut kernels: Vec<KernelPlan> = totals.into_values().collect();
    for kernel in &mut kernels {
        kernel.share = kernel.floor_milliseconds / (seconds * 1e3);
        let Floors { memory, arithmetic, issue } = kernel.floors;
        let bounds = [(Bound::Memory, memory), (bound, arithmetic), (Bound::Issue, issue.unwrap_or(0.0))];
        let largest = bounds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        kernel.bound_by = largest.filter(|_| !kernel.work.is_unknown()).map(|(bound, _)| bound);
    }
    kernels.sort_by(|a, b| b.floor_milliseconds.total_cmp(&a.floor_milliseconds));
    let tokens = batches[0].total_tokens();
    Ok(Plan {
        chip,
        code: chip.code(),
        dtype: dtype.name(),
        recompute: workload.recompute,
        tokens_per_step: tokens,
        launches: launches.len(),
        floor_milliseconds: seconds * 1e3,
        data_sheet_milliseconds: data_sheet * 1e3,
        tokens_per_second_at_most: tokens as f64 / seconds,
        mfu_at_most: flops / seconds / products.data_sheet,
        memory_bytes: planner.most_bytes(),
        memory: trainer.memory(),
        kernels,
    })
}
