//! What a training step, a whole training and a scan will take on a GPU, before there is one: every kernel with the least time that it
//! can take, the memory, and what it costs the host to launch them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::issue;
use super::workload::Workload;
use crate::autograd::Tape;
use crate::device::attention_kernels::AttentionPath;
use crate::device::chips::{Chip, Code, Rate};
use crate::device::planner::{Piece, Planner};
use crate::device::{DType, Device, Work};
use crate::genome::splice::LABEL_NAMES;
use crate::model::{Classification, Config, Head, Model, Recompute};
use crate::tokenizer::Tokenizer;
use crate::train::apply::{BASES_PER_BATCH, classify};
use crate::{Error, Result};

/// Microseconds from one launch to the next, where nobody says otherwise: an assumption. Launches that did not wait for each other came
/// 3.8 microseconds apart, kernels of 2.9 among them, on a V100 (A. Gray, Getting Started with CUDA Graphs, NVIDIA Technical Blog,
/// 2019); `cargo bench --bench launch` measures it on a GPU.
pub const LAUNCH_MICROSECONDS: f64 = 3.8;

/// Where that comes from, in a few words.
pub const LAUNCH_SOURCE: &str = "assumed: a V100's, NVIDIA Technical Blog, 2019; --launch-microseconds for another";

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
    /// Milliseconds that it takes the host to launch them one after the other, which it does while kernels run.
    pub launch_milliseconds: f64,
    /// The least milliseconds that the kernels can take one after the other, by the rates that are known to be reached.
    pub floor_milliseconds: f64,
    /// The same by the data sheet's rates, and without instructions.
    pub data_sheet_milliseconds: f64,
    /// The longer of the two: a step cannot take less than its kernels, nor than its launches.
    pub milliseconds_at_least: f64,
    /// Tokens a second if it took no more.
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

/// All steps of a training.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TrainingPlan {
    /// Updates.
    pub steps: u64,
    /// Tokens of all of them.
    pub tokens: u64,
    /// The least seconds, without evaluations and checkpoints.
    pub seconds_at_least: f64,
}

impl Plan {
    /// A training of `steps` such steps.
    pub fn training(&self, steps: u64) -> TrainingPlan {
        let tokens = steps.saturating_mul(self.tokens_per_step as u64);
        TrainingPlan { steps, tokens, seconds_at_least: steps as f64 * self.milliseconds_at_least / 1e3 }
    }
}

/// A scan of a genome, counted.
#[derive(Clone, Debug, Serialize)]
pub struct ScanPlan {
    /// Bases to scan.
    pub bases: u64,
    /// Bases of a window.
    pub window: usize,
    /// Windows of all of them, on both strands.
    pub windows: f64,
    /// Windows that the device takes at a time.
    pub windows_at_a_time: usize,
    /// Launches, copies and fills for these.
    pub launches: usize,
    /// Milliseconds that it takes to launch them.
    pub launch_milliseconds: f64,
    /// The least milliseconds that they can take.
    pub floor_milliseconds: f64,
    /// The least seconds of the scan, without what the host does besides.
    pub seconds_at_least: f64,
    /// Its bases over them.
    pub bases_per_second_at_most: f64,
    /// The kernels for the windows taken at a time, the longest first.
    pub kernels: Vec<KernelPlan>,
}

/// Where to plan for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The chip.
    pub chip: Chip,
    /// Which attention kernels are to run.
    pub attention: AttentionPath,
    /// Type of weights and activations.
    pub dtype: DType,
    /// Microseconds from one launch to the next.
    pub launch_microseconds: f64,
}

impl Target {
    fn planner(&self) -> Result<Arc<Planner>> {
        let chip = self.chip;
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
        Ok(Arc::new(Planner::new(chip, self.attention)))
    }

    /// What the arithmetic of kernels is limited by.
    fn products(&self) -> (Rate, Bound) {
        match self.dtype {
            DType::Bf16 => (self.chip.tensor_flops, Bound::Tensor),
            // No TF32, which would round: our kernels for f32 use no tensor cores.
            _ => (self.chip.f32_flops, Bound::Fma),
        }
    }

    fn launch_milliseconds(&self, launches: usize) -> f64 {
        launches as f64 * self.launch_microseconds / 1e3
    }

    /// The kernels of some launches, the longest first, with the least milliseconds of all of them, and those by the data sheet's rates.
    fn kernels(&self, launches: &[Piece]) -> (Vec<KernelPlan>, f64, f64) {
        let (chip, (products, bound)) = (&self.chip, self.products());
        let mut totals: BTreeMap<&str, KernelPlan> = BTreeMap::new();
        let mut data_sheet = 0.0;
        for piece in launches {
            let Work { bytes, flops } = piece.work;
            let (memory, arithmetic) = (bytes / chip.bytes_per_second.known(), flops / products.known());
            data_sheet += (bytes / chip.bytes_per_second.data_sheet).max(flops / products.data_sheet);
            let total = totals.entry(&piece.name).or_insert_with(|| KernelPlan::of(piece));
            let issue = issue::seconds(piece, chip);
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
        let floor = totals.values().map(|total| total.floor_milliseconds).sum::<f64>();
        let mut kernels: Vec<KernelPlan> = totals.into_values().collect();
        for kernel in &mut kernels {
            kernel.share = kernel.floor_milliseconds / floor;
            let Floors { memory, arithmetic, issue } = kernel.floors;
            let bounds = [(Bound::Memory, memory), (bound, arithmetic), (Bound::Issue, issue.unwrap_or(0.0))];
            let largest = bounds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
            kernel.bound_by = largest.filter(|_| !kernel.work.is_unknown()).map(|(bound, _)| bound);
        }
        kernels.sort_by(|a, b| b.floor_milliseconds.total_cmp(&a.floor_milliseconds));
        (kernels, floor, data_sheet * 1e3)
    }
}

/// Counts the second step of a training; in the first one the tape's pool fills.
///
/// # Errors
/// [`Error::Usage`] for numbers that make no step, a chip that no kernel here runs on, and attention kernels that it cannot run.
pub fn plan(workload: &Workload, target: &Target, seed: u64) -> Result<Plan> {
    let planner = target.planner()?;
    let device = Device::Kernels(planner.clone());
    let mut trainer = workload.trainer(&device, target.dtype, seed)?;
    let batches = [workload.batch(seed)];
    trainer.advance(&batches, 1e-4)?;
    trainer.report()?;
    planner.take_launches();
    trainer.advance(&batches, 1e-4)?;
    let launches = planner.take_launches();
    let flops = trainer.report()?.flops;
    let (kernels, floor_milliseconds, data_sheet_milliseconds) = target.kernels(&launches);
    let launch_milliseconds = target.launch_milliseconds(launches.len());
    let milliseconds_at_least = floor_milliseconds.max(launch_milliseconds);
    let (tokens, seconds) = (batches[0].total_tokens(), milliseconds_at_least / 1e3);
    Ok(Plan {
        chip: target.chip,
        code: target.chip.code(),
        dtype: target.dtype.name(),
        recompute: workload.recompute,
        tokens_per_step: tokens,
        launches: launches.len(),
        launch_milliseconds,
        floor_milliseconds,
        data_sheet_milliseconds,
        milliseconds_at_least,
        tokens_per_second_at_most: tokens as f64 / seconds,
        mfu_at_most: flops / seconds / target.products().0.data_sheet,
        memory_bytes: planner.most_bytes(),
        memory: trainer.memory(),
        kernels,
    })
}

/// Counts the windows that a device takes at a time in a scan for splice sites: those of `bases` are `windows_per_base` times as many.
///
/// # Errors
/// As [`plan`]; [`Error::Usage`] for a window that is too short or too long for the model.
pub fn plan_scan(
    config: &Config,
    vocabulary: &dyn Tokenizer,
    window: usize,
    bases: u64,
    windows_per_base: f64,
    target: &Target,
) -> Result<ScanPlan> {
    let tokens = config.max_position_embeddings.saturating_sub(vocabulary.specials().frame());
    let (least, most) = (vocabulary.shortest(), vocabulary.most_bases(tokens).unwrap_or(usize::MAX));
    if !(least..=most).contains(&window) {
        return Err(Error::usage(
            format!("windows of {window} bases"),
            format!("give {least} to {most} bases; --length sets the model's longest sequence, in tokens"),
        ));
    }
    let planner = target.planner()?;
    let device = Device::Kernels(planner.clone());
    let labels = LABEL_NAMES.map(str::to_owned).to_vec();
    let head = Head::Site { labels: labels.len(), hidden: None };
    let mut model = Model::initialise(config.clone(), head, DType::F32, 0)?;
    model.parameters.move_to(&device, target.dtype)?;
    let classification = Classification { labels, window: Some(window), ..Classification::default() };
    let one = vec![b'A'; window];
    let windows = vec![one.as_slice(); 2 * BASES_PER_BATCH.div_ceil(window) + 2];
    planner.take_launches();
    let mut batches = Vec::new();
    let mut done = |windows| batches.push((windows, planner.take_launches()));
    classify(&mut Tape::new(device, target.dtype), &model, vocabulary, &classification, &windows, &mut done)?;
    // In the first the tape's pool fills; all but the last are full.
    let (windows_at_a_time, launches) = (batches[0].0, &batches[1].1);
    let (kernels, floor_milliseconds, _) = target.kernels(launches);
    let launch_milliseconds = target.launch_milliseconds(launches.len());
    let windows = bases as f64 * windows_per_base;
    let seconds_at_least = windows / windows_at_a_time as f64 * floor_milliseconds.max(launch_milliseconds) / 1e3;
    Ok(ScanPlan {
        bases,
        window,
        windows,
        windows_at_a_time,
        launches: launches.len(),
        launch_milliseconds,
        floor_milliseconds,
        seconds_at_least,
        bases_per_second_at_most: bases as f64 / seconds_at_least,
        kernels,
    })
}
