//! `helixgrad plan`: a training step, a training and a scan on a GPU that is not there.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::workload::WorkloadArgs;
use super::{Common, Precision};
use crate::Error;
use crate::bench::plan::{
    Bound, KernelPlan, LAUNCH_MICROSECONDS, LAUNCH_SOURCE, Plan, ScanPlan, Target, TrainingPlan, plan, plan_scan,
};
use crate::bench::scaling::{Cluster, LINK, LINK_SOURCE, NETWORK, NETWORK_SOURCE, Scaling};
use crate::device::chips::{CHIPS, Chip, Rate};
use crate::device::planner::Planner;
use crate::device::{DType, Device};
use crate::inference::scan::Positions;
use crate::report::{Cell, Table, format};

/// Options of `helixgrad plan`.
///
/// Counts a training step on a GPU without one: every kernel with its bytes, its arithmetic and its instructions, the least time that it
/// can take by each, what it costs to launch them, and the memory by owner; with --steps or --tokens a whole training, with --scan a scan
/// of a genome. Nothing is measured; what was measured elsewhere says so.
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
    /// Plan a whole training of so many updates.
    #[arg(long, value_name = "N", conflicts_with = "tokens", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Plan a whole training on so many tokens.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens: Option<u64>,
    /// Plan a scan of so many bases for splice sites, as `helixgrad scan` does it, with a model of these sizes.
    #[arg(long, value_name = "BASES", value_parser = clap::value_parser!(u64).range(1..))]
    scan: Option<u64>,
    /// Which positions the scan reads: those with the intron's GT or AG, a quarter of a window a base, or all, two windows a base.
    #[arg(long, value_enum, default_value_t = Positions::GtAg, requires = "scan")]
    positions: Positions,
    /// Bases of a window of the scan (default: those that make --length tokens).
    #[arg(long, value_name = "BASES", requires = "scan")]
    window: Option<usize>,
    /// Microseconds from one launch to the next. The default is assumed (a V100's, NVIDIA Technical Blog, 2019); on a GPU
    /// `cargo bench --bench launch` measures it.
    #[arg(long, value_name = "US", default_value_t = LAUNCH_MICROSECONDS)]
    launch_microseconds: f64,
    /// Plan for so many GPUs of a machine, each with a step's tokens: what exchanging gradients costs.
    #[arg(long, value_name = "N")]
    gpus: Option<usize>,
    /// And so many machines.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "gpus")]
    nodes: usize,
    /// GB/s in one direction between two GPUs of a machine. The default is assumed: NVLink 4.
    #[arg(long, value_name = "GB/S", default_value_t = LINK, requires = "gpus")]
    link: f64,
    /// GB/s in one direction of a GPU's network adapter. The default is assumed: 400 Gb/s for each GPU.
    #[arg(long, value_name = "GB/S", default_value_t = NETWORK, requires = "gpus")]
    network: f64,
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
    let launch_microseconds = args.launch_microseconds;
    if !(0.0..1e6).contains(&launch_microseconds) {
        let found = format!("--launch-microseconds {launch_microseconds}");
        return Err(Error::usage(found, "give microseconds from one launch to the next, 0 for none"));
    }
    let target = Target { chip, attention: common.attention, dtype, launch_microseconds };
    let plan = plan(&workload, &target, common.seed)?;
    let steps = args.steps.or(args.tokens.map(|tokens| tokens.div_ceil(plan.tokens_per_step as u64)));
    let training = steps.map(|steps| plan.training(steps));
    let scan = args.scan.map(|bases| {
        let (tokenizer, config) = (args.workload.tokenizer()?, args.workload.config()?);
        let tokens = workload.length.saturating_sub(tokenizer.specials().frame());
        let Some(window) = args.window.or_else(|| tokenizer.most_bases(tokens)) else {
            let found = "a scan by a model whose tokens have no fixed length";
            return Err(Error::usage(found, "give the bases of its windows with --window"));
        };
        plan_scan(&config, &*tokenizer, window, bases, args.positions.windows_per_base(), &target)
    });
    let cluster = args.gpus.map(|gpus| Cluster { gpus, nodes: args.nodes, link: args.link, network: args.network });
    let scaling = cluster.map(|cluster| Scaling::of(&plan, cluster)).transpose()?;
    let report =
        Report { plan, launch_microseconds, launch_source: source(args), scaling, training, scan: scan.transpose()? };
    common.print(&report, |report| text(report, &args.workload.title(&workload)))
}

/// Where the cost of a launch comes from.
fn source(args: &Args) -> &'static str {
    if args.launch_microseconds == LAUNCH_MICROSECONDS { LAUNCH_SOURCE } else { "as given" }
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    plan: Plan,
    /// From one launch to the next, and where that comes from.
    launch_microseconds: f64,
    launch_source: &'static str,
    /// The step of several GPUs, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    scaling: Option<Scaling>,
    /// The whole training, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<TrainingPlan>,
    /// The scan, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    scan: Option<ScanPlan>,
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

fn kernels(plans: &[KernelPlan]) -> Table {
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
    for kernel in plans {
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
    kernels
}

/// Launches and what they cost, beside what runs meanwhile.
fn launches(report: &Report, milliseconds: f64, floor: f64) -> String {
    let pace = match milliseconds > floor {
        true => "longer than the kernels, so that the host sets the pace (--cuda-graphs is for that)",
        false => "hidden behind the kernels",
    };
    format!("{milliseconds:.2} ms at {} us each ({}), {pace}", report.launch_microseconds, report.launch_source)
}

fn time(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format::duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
    }
}

fn scan_text(report: &Report, scan: &ScanPlan) -> String {
    format!(
        "a scan of {} bases, {} windows of {} bases: {} at least, {} bases/s at most (what the host does besides is not counted)\n\
         {} windows at a time: {:.2} ms of kernels at least; {} launches are {}\n\n{}",
        format::count(scan.bases),
        format::count(scan.windows as u64),
        scan.window,
        time(scan.seconds_at_least),
        format::count(scan.bases_per_second_at_most as u64),
        scan.windows_at_a_time,
        scan.floor_milliseconds,
        scan.launches,
        launches(report, scan.launch_milliseconds, scan.floor_milliseconds),
        kernels(&scan.kernels),
    )
}

fn scaling_text(scaling: &Scaling) -> String {
    let Cluster { gpus, nodes, link, network } = scaling.cluster;
    let source =
        |rate: f64, default: f64, source: &str| if rate == default { source.to_owned() } else { "as given".into() };
    let outside = match nodes {
        1 => String::new(),
        _ => format!(", {network} GB/s to other machines ({})", source(network, NETWORK, NETWORK_SOURCE)),
    };
    format!(
        "\n{nodes} x {gpus} GPUs, each with such a step, counted and not measured: {:.1} ms at least, {} tokens/s at most, {} of the GPUs' time in training\n\
         gradients {:.0} MB: {:.2} ms to exchange parts and gather sums, {:.2} ms to add them, nothing hidden behind the way back; \
         {link} GB/s inside a machine ({}){outside}\n",
        scaling.milliseconds_at_least,
        format::count(scaling.tokens_per_second_at_most as u64),
        format::percent(scaling.efficiency, 1),
        scaling.gradient_bytes / 1e6,
        scaling.transfer_milliseconds,
        scaling.add_milliseconds,
        source(link, LINK, LINK_SOURCE),
    )
}

fn text(report: &Report, title: &str) -> String {
    let plan = &report.plan;
    let products = if plan.dtype == DType::F32.name() { plan.chip.f32_flops } else { plan.chip.tensor_flops };
    let mut owners = Table::new(["memory", "GB"]);
    for (owner, bytes) in &plan.memory {
        owners.row([Cell::from(*owner), Cell::number(*bytes as f64 / 1e9, 2)]);
    }
    owners.row([Cell::from("most at a time"), Cell::number(plan.memory_bytes as f64 / 1e9, 2)]);
    let clock = plan.chip.clock.map_or("at an unknown clock".into(), |clock| format!("at {:.2} GHz", clock / 1e9));
    let mut text = format!(
        "{title} ({}) on: {}, counted and not measured: {:.1} ms a step at least, {} tokens/s and {} MFU at most\n\
         {} launches of {} tokens, kernels {}; by the data sheet's rates alone {:.1} ms\n\
         launches {}\n\
         memory {}\nproducts {}\ninstructions {clock} (data sheet; beside products as much slower as these are)\n\n{}\n{owners}",
        plan.dtype,
        plan.chip.title,
        plan.milliseconds_at_least,
        format::count(plan.tokens_per_second_at_most as u64),
        format::percent(plan.mfu_at_most, 1),
        format::count(plan.launches as u64),
        format::count(plan.tokens_per_step as u64),
        plan.code.words(),
        plan.data_sheet_milliseconds,
        launches(report, plan.launch_milliseconds, plan.floor_milliseconds),
        sourced(plan.chip.bytes_per_second, "B/s"),
        sourced(products, "FLOP/s"),
        kernels(&plan.kernels),
    );
    if let Some(scaling) = &report.scaling {
        text += &scaling_text(scaling);
    }
    if let Some(TrainingPlan { steps, tokens, seconds_at_least }) = report.training {
        text += &format!(
            "\na training of {} steps, {} tokens: {} at least (evaluations and checkpoints are not counted)\n",
            format::count(steps),
            format::count(tokens),
            time(seconds_at_least)
        );
    }
    if let Some(scan) = &report.scan {
        text += &format!("\n{}", scan_text(report, scan));
    }
    text
}
