//! Throughput of a full training step on tokens that nobody needs to load.

use std::collections::BTreeMap;

use serde::Serialize;

use super::noise::median_interval;
use super::profile::{Meter, Recording, Row, median, rows};
use super::workload::Workload;
use crate::Result;
use crate::autograd::Pass;
use crate::device::graphs::GraphCounts;
use crate::device::{DType, Device, Work};
use crate::kmer::batch::Batch;
use crate::ops::Loss;
use crate::parallel::Ranks;
use crate::parallel::sum::SUM;
use crate::train::ceilings::{Ceilings, Limit, Sizes};
use crate::train::peak::Peak;
use crate::train::step::Trainer;

/// Time spent in one operation and direction.
#[derive(Clone, Debug, Serialize)]
pub struct OpTime {
    /// The operation; `between operations` for work that belongs to none.
    pub op: &'static str,
    /// Forward, backward or update.
    pub pass: Option<Pass>,
    /// Calls in a step.
    pub calls_per_step: f64,
    /// Milliseconds in a step, by the device's clock.
    pub milliseconds_per_step: f64,
    /// Share of all measured time.
    pub share: f64,
    /// GB/s of what it has to move at the least.
    pub gigabytes_per_second: f64,
    /// TFLOP/s of what it has to compute.
    pub tflops: f64,
    /// The least time by the ceilings, over the time: 1 is the roofline.
    pub roofline: f64,
    /// What sets the least time.
    pub limit: Option<Limit>,
}

/// What several ranks were measured to be worth.
#[derive(Clone, Debug, Serialize)]
pub struct RankScaling {
    /// How many.
    pub ranks: usize,
    /// What carries their gradients.
    pub carrier: String,
    /// Median seconds of a step of this rank by itself, while the others each made theirs: nothing is exchanged.
    pub seconds_per_step_alone: f64,
    /// That over the seconds of a step together: 1 is as many times the tokens a second as there are ranks.
    pub efficiency: f64,
    /// Milliseconds in a step until the sum of all gradients was there, of which waiting for the slowest rank is a part.
    pub sum_milliseconds: f64,
    /// Bytes that a rank sends in a step, and receives.
    pub bytes_sent: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// CPU threads, where the CPU computed.
    pub threads: usize,
    /// Sequences in a step, over all ranks.
    pub sequences_per_step: usize,
    /// Tokens in a step, over all ranks.
    pub tokens_per_step: usize,
    /// Median seconds of a step.
    pub seconds_per_step: f64,
    /// The fastest and the slowest step, seconds.
    pub seconds_per_step_range: (f64, f64),
    /// The 95 % interval of the median, where there are steps enough ([`median_interval`]).
    pub seconds_per_step_interval: Option<(f64, f64)>,
    /// Tokens a second, by the median.
    pub tokens_per_second: f64,
    /// Sequences a second, by the median.
    pub sequences_per_second: f64,
    /// Loss and gradient norm of the last of these steps, the warm-up's among them: whatever computes, roundings apart they are the same.
    pub loss: f64,
    /// See [`Throughput::loss`].
    pub gradient_norm: f64,
    /// Matrix arithmetic that the step needs, over the time: TFLOP/s.
    pub tflops: f64,
    /// That rate over the peak.
    pub mfu: f64,
    /// The peak.
    pub peak: Peak,
    /// Ceilings, measured in the same run.
    pub ceilings: Ceilings,
    /// Activations and scratch in MiB.
    pub activation_mib: f64,
    /// Which attention ran.
    pub attention: String,
    /// What several ranks are worth, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RankScaling>,
    /// What became of all these steps' work, with `--cuda-graphs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graphs: Option<GraphCounts>,
    /// Where the time goes, the longest first.
    pub ops: Vec<OpTime>,
    /// The same by kernel, on the CPU by operation.
    pub kernels: Vec<Row>,
}

/// Times full steps (forward, backward, clip, AdamW), dropout on. Of several ranks each makes one micro-batch of the workload's size; before, each makes
/// steps of its own, to compare with.
///
/// # Errors
/// Those of training.
pub fn train_throughput(
    workload: &Workload,
    device: &Device,
    dtype: DType,
    seed: u64,
    sizes: &Sizes,
    ranks: &Ranks,
) -> Result<Throughput> {
    let (device, meter) = Meter::new(device);
    // It refuses what is no workload.
    let mut trainer = workload.trainer(&device, dtype, seed)?;
    let batches: Vec<Batch> = (0..ranks.size() as u64).map(|rank| workload.batch(seed.wrapping_add(rank))).collect();
    let steps = Workload::WARM_UP + workload.steps;
    let mut alone = None;
    if ranks.size() > 1 {
        let own = &batches[ranks.rank()..=ranks.rank()];
        ranks.gather("steps of its own", Vec::new())?;
        let mut seconds = timed_steps(&mut trainer, &device, own, steps)?;
        alone = Some(median(&mut seconds[Workload::WARM_UP..]));
        ranks.gather("the end of its own steps", Vec::new())?;
        trainer = workload.trainer(&device, dtype, seed)?;
    }
    trainer.ranks = ranks.clone();
    let attention = trainer.model.attention_path(&device, dtype)?;
    let mut seconds = timed_steps(&mut trainer, &device, &batches, steps)?;
    let report = trainer.report()?;
    let flops = report.flops / steps as f64;
    let graphs = device.graph_counts();
    let timed = &mut seconds[Workload::WARM_UP..];
    let median = median(timed);
    let ceilings = Ceilings::measure(&device, dtype, sizes)?;
    let peak = Peak::of(&device, dtype, &ceilings);
    // Recording costs time of its own, so the recorded steps are others than the timed ones.
    let recorded = workload.steps.min(3);
    let recording = meter.record(&mut trainer, recorded, |trainer| trainer.step(&batches, 1e-4).map(drop))?;
    let tokens = batches.iter().map(Batch::total_tokens).sum::<usize>();
    let sequences = batches.iter().map(Batch::sequences).sum::<usize>();
    let tflops = flops / median / 1e12;
    let ops = op_times(&recording, recorded, &ceilings);
    let scaling = alone.map(|alone| {
        let others = (ranks.size() - 1) as f64 / ranks.size() as f64;
        RankScaling {
            ranks: ranks.size(),
            carrier: ranks.describe().unwrap_or_default(),
            seconds_per_step_alone: alone,
            efficiency: alone / median,
            sum_milliseconds: ops.iter().filter(|row| row.op == SUM).map(|row| row.milliseconds_per_step).sum(),
            bytes_sent: 2.0 * others * 4.0 * trainer.model.parameters.trained() as f64,
        }
    });
    Ok(Throughput {
        threads: rayon::current_num_threads(),
        sequences_per_step: sequences,
        tokens_per_step: tokens,
        seconds_per_step: median,
        seconds_per_step_range: (timed[0], timed[timed.len() - 1]),
        seconds_per_step_interval: median_interval(timed),
        tokens_per_second: tokens as f64 / median,
        sequences_per_second: sequences as f64 / median,
        loss: report.losses.last().map_or(f64::NAN, Loss::mean),
        gradient_norm: report.gradient_norm,
        tflops,
        mfu: tflops * 1e12 / peak.flops_per_second / ranks.size() as f64,
        peak,
        activation_mib: trainer.tape.memory_bytes() as f64 / (1 << 20) as f64,
        attention,
        scaling,
        graphs,
        ops,
        kernels: rows(&recording.spans, recorded, &ceilings),
        ceilings,
    })
}

/// Seconds of each of `steps` steps. As in a training, none waits for the one before: the device's own clock says when each ends.
fn timed_steps(trainer: &mut Trainer, device: &Device, batches: &[Batch], steps: usize) -> Result<Vec<f64>> {
    let mut marks = vec![device.mark()?];
    for _ in 0..steps {
        trainer.advance(batches, 1e-4)?;
        marks.push(device.mark()?);
    }
    marks.windows(2).map(|ends| device.seconds_between(&ends[0], &ends[1])).collect()
}

/// The time of each operation and direction: by its calls on the CPU, by its kernels on other devices.
pub fn op_times(recording: &Recording, steps: usize, ceilings: &Ceilings) -> Vec<OpTime> {
    let mut totals: BTreeMap<(&'static str, Option<Pass>), (u64, f64, Work)> = BTreeMap::new();
    for span in &recording.spans {
        totals.entry((span.op.unwrap_or("between operations"), span.pass)).or_default().1 += span.seconds;
    }
    for call in &recording.calls {
        let total = totals.entry((call.op, Some(call.pass))).or_default();
        total.0 += 1;
        total.2 += call.work;
    }
    let all: f64 = totals.values().map(|total| total.1).sum();
    let over = |amount: f64, seconds: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
    let mut times: Vec<OpTime> = totals
        .into_iter()
        .map(|((op, pass), (calls, seconds, work))| OpTime {
            op,
            pass,
            calls_per_step: calls as f64 / steps as f64,
            milliseconds_per_step: seconds * 1e3 / steps as f64,
            share: over(seconds, all),
            gigabytes_per_second: over(work.bytes / 1e9, seconds),
            tflops: over(work.flops / 1e12, seconds),
            roofline: over(ceilings.floor(work), seconds),
            limit: ceilings.limit(work, seconds),
        })
        .collect();
    times.sort_by(|a, b| b.milliseconds_per_step.total_cmp(&a.milliseconds_per_step));
    times
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::autograd::Call;
    use crate::bench::profile::Span;

    #[test]
    fn the_time_and_the_work_of_all_calls_are_shared_among_the_steps() {
        let (pass, started) = (Pass::Forward, Instant::now());
        let call = |op, work| Call { op, pass, layer: None, started, time: Duration::ZERO, work };
        let span = |op: &'static str, seconds| {
            let (name, pass) = (op.to_owned(), Some(pass));
            Span { name, op: Some(op), pass, layer: None, start: 0.0, seconds, work: Work::default() }
        };
        // Two steps: a call of two kernels and one of one, and another operation once.
        let calls = vec![
            call("linear", Work::new(3_000_000, 5_000_000_000)),
            call("linear", Work::new(1_000_000, 1_000_000_000)),
            call("tanh", Work::new(10, 0)),
        ];
        let spans = vec![span("linear", 0.002), span("linear", 0.001), span("linear", 0.005), span("tanh", 0.002)];
        let recording = Recording { spans, calls, steps: Vec::new() };
        let ceilings = Ceilings {
            bytes_per_second: 1e9,
            memory: "a copy",
            flops_per_second: 1e12,
            by_cublaslt: false,
            product_size: 1,
        };
        let times = op_times(&recording, 2, &ceilings);
        let linear = &times[0];
        assert_eq!((linear.op, linear.calls_per_step, times.len()), ("linear", 1.0, 2));
        let close = |found, expected| approx::assert_relative_eq!(found, expected, epsilon = 1e-12);
        close(linear.milliseconds_per_step, 4.0);
        close(linear.share, 0.8);
        close(linear.gigabytes_per_second, 0.5);
        close(linear.tflops, 0.75);
        close(linear.roofline, 0.75);
        assert_eq!(linear.limit, Some(Limit::Arithmetic));
    }
}
