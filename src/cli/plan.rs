//! `helixgrad plan`: a training step on a GPU that is not there.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::workload::WorkloadArgs;
use super::{Common, Precision};
use crate::bench::plan::{Bound, Plan, plan};
use crate::device::chips::{CHIPS, Chip, Rate};
use crate::device::planner::Planner;
use crate::device::{DType, Device};
use crate::report::{Cell, Table, format};

/// Options of `helixgrad plan`.
///
/// Counts a training step on a GPU without one: every kernel with its bytes, its arithmetic and its instructions, the least time that it
/// can take by each, and the memory by owner. Nothing is measured; what was measured elsewhere says so.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    workload: WorkloadArgs,
    /// The chip to plan for.
    #[arg(long, default_value = CHIPS[0].name, value_parser = names())]
    #[serde(serialize_with = "name")]
    chip: Chip,
    /// List the chips with their figures, and plan nothing.
    #[arg(long)]
    chips: bool,
}

fn names() -> impl TypedValueParser<Value = Chip> {
    let known = PossibleValuesParser::new(CHIPS.map(|chip| chip.name));
    known.map(|name| Chip::named(&name).unwrap_or(CHIPS[0]))
}

fn name<S: serde::Serializer>(chip: &Chip, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(chip.name)
}

/// Runs the command.
///
/// # Errors
/// Those of numbers that make no step.
pub fn run(args: &Args, common: &Common) -> crate::Result<()> {
    if args.chips {
        return common.print(&CHIPS, |chips| listed(chips));
    }
    let chip = args.chip;
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

/// "4.30 (4.80)": what is known to be reached, and in brackets the data sheet's.
fn rate(rate: Rate) -> Cell {
    let number = |rate: f64| format!("{:.*}", if rate < 1e14 { 2 } else { 0 }, rate / 1e12);
    let known = rate.sustained.map_or("unknown".into(), |sustained| number(sustained.rate));
    Cell::from(format!("{known} ({})", number(rate.data_sheet)))
}

fn listed(chips: &[Chip]) -> String {
    let mut table = Table::new([
        "--chip",
        "chip",
        "kernels",
        "SMs",
        "GHz",
        "memory GB",
        "TB/s",
        "bf16 TFLOP/s",
        "f32 TFLOP/s",
        "L2 MiB",
        "shared KiB an SM",
    ]);
    let unknown = || Cell::from("unknown");
    for chip in chips {
        table.row([
            chip.name.into(),
            chip.title.into(),
            chip.code().words().into(),
            u64::from(chip.multiprocessors).into(),
            chip.clock.map_or_else(unknown, |clock| Cell::number(clock / 1e9, 2)),
            Cell::number(chip.memory_bytes as f64 / 1e9, 0),
            rate(chip.bytes_per_second),
            rate(chip.tensor_flops),
            Cell::number(chip.f32_flops.data_sheet / 1e12, 1),
            chip.l2_bytes.map_or_else(unknown, |bytes| (bytes >> 20).into()),
            (chip.shared_bytes >> 10).into(),
        ]);
    }
    let rates = chips.iter().flat_map(|chip| {
        let rates = [("memory", chip.bytes_per_second), ("products", chip.tensor_flops)];
        rates
            .into_iter()
            .filter(|(_, rate)| rate.sustained.is_some())
            .map(|(what, rate)| format!("{}, {what}: {}", chip.name, rate.source()))
    });
    let rates: Vec<String> = rates.collect();
    format!(
        "{table}\nRates are what is known to be reached, in brackets the data sheet's, dense, with sums in f32 (f16 where there is no bf16); the rest \
         is the data sheet's, GHz the highest clock.\n{}",
        rates.join("\n")
    )
}

/// A rate in words, with where it comes from.
fn sourced(rate: Rate, unit: &str) -> String {
    let data_sheet = format::quantity(rate.data_sheet, unit);
    match rate.sustained {
        Some(sustained) => {
            format!("{} ({}; data sheet {data_sheet})", format::quantity(sustained.rate, unit), sustained.source)
        }
        None => format!("{data_sheet} (data sheet; what is reached is unknown)"),
    }
}

fn text(plan: &Plan, title: &str) -> String {
    let products = if plan.dtype == DType::F32.name() { plan.chip.f32_flops } else { plan.chip.tensor_flops };
    let mut kernels = Table::new([
        "kernel",
        "calls",
        "GB",
        "TFLOP",
        "memory ms",
        "arithmetic ms",
        "issue ms",
        "ms at least",
        "share %",
        "bound by",
    ]);
    for kernel in &plan.kernels {
        let bound = match (kernel.bound_by, kernel.busiest) {
            (Some(Bound::Issue), Some(unit)) if unit != "issue" => format!("issue ({unit})"),
            (bound, _) => bound.map_or("", Bound::name).to_owned(),
        };
        kernels.row([
            Cell::from(kernel.kernel.as_str()),
            (kernel.calls as u64).into(),
            Cell::number(kernel.work.bytes / 1e9, 2),
            Cell::number(kernel.work.flops / 1e12, 3),
            Cell::number(kernel.floors.memory, 3),
            Cell::number(kernel.floors.arithmetic, 3),
            kernel.floors.issue.map_or_else(|| "unknown".into(), |issue| Cell::number(issue, 3)),
            Cell::number(kernel.floor_milliseconds, 3),
            Cell::number(kernel.share * 100.0, 1),
            bound.into(),
        ]);
    }
    let mut owners = Table::new(["memory", "GB"]);
    for (owner, bytes) in &plan.memory {
        owners.row([Cell::from(*owner), Cell::number(*bytes as f64 / 1e9, 2)]);
    }
    owners.row([Cell::from("most at a time"), Cell::number(plan.memory_bytes as f64 / 1e9, 2)]);
    let clock = plan.chip.clock.map_or("at an unknown clock".into(), |clock| format!("at {:.2} GHz", clock / 1e9));
    format!(
        "{title} ({}) on: {}, counted and not measured: {:.1} ms a step at least, {} tokens/s and {} MFU at most\n\
         {} launches of {} tokens, kernels {}; by the data sheet's rates alone {:.1} ms\n\
         memory {}\nproducts {}\ninstructions {clock} (data sheet; beside products as much slower as these are)\n\n{kernels}\n{owners}",
        plan.dtype,
        plan.chip.title,
        plan.floor_milliseconds,
        format::count(plan.tokens_per_second_at_most as u64),
        format::percent(plan.mfu_at_most, 1),
        format::count(plan.launches as u64),
        format::count(plan.tokens_per_step as u64),
        plan.code.words(),
        plan.data_sheet_milliseconds,
        sourced(plan.chip.bytes_per_second, "B/s"),
        sourced(products, "FLOP/s"),
    )
}
