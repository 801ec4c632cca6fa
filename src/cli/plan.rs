//! `helixgrad plan`: a training step on a GPU that is not there.

use clap::ValueEnum;
use serde::Serialize;

use super::workload::WorkloadArgs;
use super::{Common, Precision};
use crate::Result;
use crate::bench::plan::{Plan, plan};
use crate::device::planner::{CHIPS, Chip, Planner};
use crate::device::{DType, Device};
use crate::report::{Cell, Table, format};
use crate::train::ceilings::Limit;

/// Options of `helixgrad plan`.
///
/// Counts a training step on a GPU without one: every kernel with its bytes, its arithmetic and the least time that it can take
/// by the chip's data sheet, and the memory by owner. Nothing is measured.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    workload: WorkloadArgs,
    /// The chip to plan for.
    #[arg(long, value_enum, default_value = "h100")]
    chip: ChipName,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum ChipName {
    H100,
    A100,
}

impl ChipName {
    fn chip(self) -> Chip {
        match self {
            Self::H100 => CHIPS[0],
            Self::A100 => CHIPS[1],
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Those of numbers that make no step.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let chip = args.chip.chip();
    let dtype = match common.dtype {
        Some(Precision::F32) => DType::F32,
        _ => DType::Bf16,
    };
    // The defaults of a GPU, which `workload` asks for.
    let device = Device::Kernels(std::sync::Arc::new(Planner::new(chip, common.attention)));
    let workload = args.workload.workload(&device, 1)?;
    let plan = plan(&workload, chip, common.attention, dtype, common.seed)?;
    common.print(&plan, |plan| text(plan, &args.workload.title(&workload)))
}

fn text(plan: &Plan, title: &str) -> String {
    let mut kernels = Table::new(["kernel", "calls", "GB", "TFLOP", "ms at least", "share %", "bound by"]);
    for kernel in &plan.kernels {
        kernels.row([
            Cell::from(kernel.kernel.as_str()),
            (kernel.calls as u64).into(),
            Cell::number(kernel.work.bytes / 1e9, 2),
            Cell::number(kernel.work.flops / 1e12, 3),
            Cell::number(kernel.floor_milliseconds, 3),
            Cell::number(kernel.share * 100.0, 1),
            kernel.bound_by.map_or("", Limit::name).into(),
        ]);
    }
    let mut memory = Table::new(["memory", "GB"]);
    for (owner, bytes) in &plan.memory {
        memory.row([Cell::from(*owner), Cell::number(*bytes as f64 / 1e9, 2)]);
    }
    memory.row([Cell::from("most at a time"), Cell::number(plan.memory_bytes as f64 / 1e9, 2)]);
    format!(
        "{title} ({}) on an {}, counted and not measured: {:.1} ms a step at least, {} tokens/s and {} MFU at most\n\
         {} launches of {} tokens; memory {}, products {} (data sheet)\n\n{kernels}\n{memory}",
        plan.dtype,
        plan.chip.name,
        plan.floor_milliseconds,
        format::count(plan.tokens_per_second_at_most as u64),
        format::percent(plan.mfu_at_most, 1),
        format::count(plan.launches as u64),
        format::count(plan.tokens_per_step as u64),
        format::quantity(plan.chip.bytes_per_second, "B/s"),
        format::quantity(plan.chip.flops_per_second, "FLOP/s"),
    )
}
