//! A few training steps, piece by piece: what ran when, for how long, and how far that is from the least that it could take.
//!
//! On the CPU a piece is a call of an operation, by the tape's clock. On a device with kernels it is a launch or a copy, by
//! the device's clock ([`Recorder`]), and belongs to the operation during whose call the host handed it over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::workload::Workload;
use crate::Result;
use crate::autograd::{Call, Pass, Tape};
use crate::device::recorder::{Piece, Recorder};
use crate::device::{DType, Device, Work};
use crate::train::ceilings::{Ceilings, Limit, Sizes};
use crate::train::step::Trainer;

/// One piece of work on the timeline.
#[derive(Clone, Debug)]
pub struct Span {
    /// The kernel, or on the CPU the operation.
    pub name: String,
    /// The operation that it belongs to; none for what lies between operations (the batch's copy to the device).
    pub op: Option<&'static str>,
    /// The operation's direction.
    pub pass: Option<Pass>,
    /// The encoder layer, from 0.
    pub layer: Option<usize>,
    /// Seconds from the first piece.
    pub start: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// What it costs at the least.
    pub work: Work,
}

/// What ran during some steps.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// All pieces, in the order of their start.
    pub spans: Vec<Span>,
    /// The operations as the host called them.
    pub calls: Vec<Call>,
    /// Start and end of each step on the same clock, from its first piece to its last.
    pub steps: Vec<(f64, f64)>,
}

/// Records what runs on a device. Nothing is recorded, and nothing slower, until [`Meter::record`].
pub struct Meter {
    recorder: Option<Arc<Recorder>>,
}

impl Meter {
    /// The device to compute on, and the meter of what runs there.
    pub fn new(device: &Device) -> (Device, Self) {
        let (device, recorder) = Recorder::wrap(device);
        (device, Self { recorder })
    }

    /// Whether pieces are launches, timed by the device.
    pub fn times_kernels(&self) -> bool {
        self.recorder.is_some()
    }

    /// Runs `step` `steps` times on a subject with a tape, and records what runs.
    ///
    /// # Errors
    /// Those of `step` and of the device.
    pub fn record<S: AsMut<Tape>>(
        &self,
        subject: &mut S,
        steps: usize,
        mut step: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<Recording> {
        subject.as_mut().start_profile();
        if let Some(recorder) = &self.recorder {
            recorder.start();
        }
        let mut boundaries = vec![Instant::now()];
        for _ in 0..steps {
            step(subject)?;
            boundaries.push(Instant::now());
        }
        let mut calls = subject.as_mut().take_profile().unwrap_or_default().calls;
        calls.sort_by_key(|call| call.started);
        let (spans, starts) = match &self.recorder {
            None => of_calls(&calls),
            Some(recorder) => of_pieces(&recorder.take()?, &calls),
        };
        let steps = boundaries.windows(2).filter_map(|pair| {
            let inside = |&index: &usize| (pair[0]..pair[1]).contains(&starts[index]);
            let mut spans = (0..spans.len()).filter(inside).map(|index| &spans[index]);
            let first = spans.next()?;
            let last = spans.next_back().unwrap_or(first);
            Some((first.start, last.start + last.seconds))
        });
        let steps = steps.collect();
        Ok(Recording { spans, calls, steps })
    }
}

/// The spans of calls, and when the host started each.
fn of_calls(calls: &[Call]) -> (Vec<Span>, Vec<Instant>) {
    let span = |call: &Call| Span {
        name: call.op.to_owned(),
        op: Some(call.op),
        pass: Some(call.pass),
        layer: call.layer,
        start: (call.started - calls[0].started).as_secs_f64(),
        seconds: call.time.as_secs_f64(),
        work: call.work,
    };
    (calls.iter().map(span).collect(), calls.iter().map(|call| call.started).collect())
}

/// The spans of pieces, and when the host handed each over.
fn of_pieces(pieces: &[Piece], calls: &[Call]) -> (Vec<Span>, Vec<Instant>) {
    let span = |piece: &Piece| {
        let call = call_at(calls, piece.launched);
        Span {
            name: piece.name.clone(),
            op: call.map(|call| call.op),
            pass: call.map(|call| call.pass),
            layer: call.and_then(|call| call.layer),
            start: piece.start,
            seconds: piece.seconds,
            work: piece.work,
        }
    };
    (pieces.iter().map(span).collect(), pieces.iter().map(|piece| piece.launched).collect())
}

/// The call that was running at `moment`; calls are in order and do not overlap.
fn call_at(calls: &[Call], moment: Instant) -> Option<&Call> {
    let before = calls.partition_point(|call| call.started <= moment);
    let call = calls[..before].last()?;
    (moment <= call.started + call.time).then_some(call)
}

/// All pieces of one name together.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The kernel, or on the CPU the operation.
    pub name: String,
    /// The operation, if the name is a kernel's.
    pub op: Option<&'static str>,
    /// The direction.
    pub pass: Option<Pass>,
    /// Calls in a step.
    pub calls_per_step: f64,
    /// Milliseconds in a step.
    pub milliseconds_per_step: f64,
    /// Microseconds of a call.
    pub microseconds_per_call: f64,
    /// Share of the time of all pieces.
    pub share: f64,
    /// Bytes that a call has to move; none where the operation does not state its work.
    pub bytes_per_call: Option<f64>,
    /// Operations that a call has to do.
    pub flops_per_call: Option<f64>,
    /// GB/s, by these bytes.
    pub gigabytes_per_second: Option<f64>,
    /// TFLOP/s, by these operations.
    pub tflops: Option<f64>,
    /// The least time over the time: 1 is the roofline.
    pub roofline: Option<f64>,
    /// What sets the least time.
    pub limit: Option<Limit>,
}

/// Time in which nothing of the recording ran, between the first piece and the last.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Gaps {
    /// How many there were in a step.
    pub per_step: f64,
    /// Milliseconds in a step.
    pub milliseconds_per_step: f64,
    /// Share of the whole time.
    pub share: f64,
    /// The longest one, microseconds.
    pub longest_microseconds: f64,
}

/// Memory by owner, bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Weights that operations read.
    pub weights: usize,
    /// Their f32 copies, where they are bf16.
    pub master_weights: usize,
    /// Gradients of the weights.
    pub gradients: usize,
    /// AdamW's two moments.
    pub moments: usize,
    /// The tape's pool: activations, their gradients, statistics and scratch.
    pub activations: usize,
}

impl Memory {
    /// What `trainer` holds.
    pub fn of(trainer: &Trainer) -> Self {
        let parameters = &trainer.model.parameters;
        Self {
            weights: parameters.values.capacity_bytes(),
            master_weights: parameters.master.as_ref().map_or(0, |master| master.capacity_bytes()),
            gradients: parameters.gradients.capacity_bytes(),
            moments: trainer.optimizer.first.capacity_bytes() + trainer.optimizer.second.capacity_bytes(),
            activations: trainer.tape.memory_bytes(),
        }
    }

    /// `(owner, bytes)` of all.
    pub fn owners(&self) -> [(&'static str, usize); 5] {
        [
            ("weights", self.weights),
            ("master weights", self.master_weights),
            ("gradients", self.gradients),
            ("moments", self.moments),
            ("activations and scratch", self.activations),
        ]
    }
}

/// A profile of some steps.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Where it ran.
    pub device: String,
    /// CPU threads.
    pub threads: usize,
    /// Whether the pieces are kernels, timed by the device.
    pub times_kernels: bool,
    /// Recorded steps.
    pub steps: usize,
    /// Tokens in a step.
    pub tokens_per_step: usize,
    /// Median milliseconds of a step that was not recorded, from the host's call to the end of its work.
    pub milliseconds_per_step: f64,
    /// Arithmetic of the products that a step needs.
    pub flops_per_step: f64,
    /// The ceilings, measured in the same run.
    pub ceilings: Ceilings,
    /// The longest first.
    pub rows: Vec<Row>,
    /// Idle time.
    pub gaps: Gaps,
    /// Memory.
    pub memory: Memory,
    /// What ran when.
    #[serde(skip)]
    pub recording: Recording,
}

/// Profiles `workload`.
///
/// # Errors
/// Those of training.
pub fn profile(workload: &Workload, device: &Device, dtype: DType, seed: u64, sizes: &Sizes) -> Result<Profile> {
    let (device, meter) = Meter::new(device);
    let mut trainer = workload.trainer(&device, dtype, seed)?;
    let batches = [workload.batch(seed)];
    let (mut seconds, mut flops_per_step) = (Vec::new(), 0.0);
    for _ in 0..Workload::WARM_UP + workload.steps {
        let started = Instant::now();
        flops_per_step = trainer.step(&batches, 1e-4)?.flops;
        device.synchronize()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    let recording = meter.record(&mut trainer, workload.steps, |trainer| trainer.step(&batches, 1e-4).map(drop))?;
    let ceilings = Ceilings::measure(&device, dtype, sizes)?;
    Ok(Profile {
        device: device.to_string(),
        threads: rayon::current_num_threads(),
        times_kernels: meter.times_kernels(),
        steps: workload.steps,
        tokens_per_step: batches[0].total_tokens(),
        milliseconds_per_step: median(&mut seconds[Workload::WARM_UP..]) * 1e3,
        flops_per_step,
        ceilings,
        rows: rows(&recording.spans, workload.steps, &ceilings),
        gaps: gaps(&recording.spans, workload.steps),
        memory: Memory::of(&trainer),
        recording,
    })
}

/// The middle one of `values`, which it sorts.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The spans of each (name, pass) together, the longest first.
pub fn rows(spans: &[Span], steps: usize, ceilings: &Ceilings) -> Vec<Row> {
    let mut groups: HashMap<(&str, Option<Pass>), Vec<&Span>> = HashMap::new();
    for span in spans {
        groups.entry((&span.name, span.pass)).or_default().push(span);
    }
    let all: f64 = spans.iter().map(|span| span.seconds).sum();
    let mut rows: Vec<Row> =
        groups.into_iter().map(|((name, pass), spans)| row(name, pass, &spans, (steps, all), ceilings)).collect();
    let key = |row: &Row| (row.milliseconds_per_step, row.calls_per_step);
    rows.sort_by(|a, b| key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal).then(a.name.cmp(&b.name)));
    rows
}

fn row(name: &str, pass: Option<Pass>, spans: &[&Span], (steps, all): (usize, f64), ceilings: &Ceilings) -> Row {
    let seconds: f64 = spans.iter().map(|span| span.seconds).sum();
    let mut work = Work::default();
    spans.iter().for_each(|span| work += span.work);
    let (calls, steps) = (spans.len() as f64, steps as f64);
    let stated = |figure: f64| (!work.is_unknown() && seconds > 0.0).then_some(figure);
    Row {
        name: name.to_owned(),
        op: spans[0].op.filter(|op| *op != name),
        pass,
        calls_per_step: calls / steps,
        milliseconds_per_step: seconds * 1e3 / steps,
        microseconds_per_call: seconds * 1e6 / calls,
        share: if all > 0.0 { seconds / all } else { 0.0 },
        bytes_per_call: stated(work.bytes / calls),
        flops_per_call: stated(work.flops / calls),
        gigabytes_per_second: stated(work.bytes / seconds / 1e9),
        tflops: stated(work.flops / seconds / 1e12),
        roofline: stated(ceilings.floor(work) / seconds),
        limit: ceilings.limit(work, seconds),
    }
}

/// The time between spans.
pub fn gaps(spans: &[Span], steps: usize) -> Gaps {
    let (mut gaps, mut number) = (Gaps::default(), 0);
    let mut end = spans.first().map_or(0.0, |span| span.start);
    let whole = spans.last().map_or(0.0, |span| span.start + span.seconds) - end;
    let mut idle = 0.0;
    for span in spans {
        let gap = span.start - end;
        if gap > 0.0 {
            number += 1;
            idle += gap;
            gaps.longest_microseconds = gaps.longest_microseconds.max(gap * 1e6);
        }
        end = end.max(span.start + span.seconds);
    }
    gaps.per_step = f64::from(number) / steps as f64;
    gaps.milliseconds_per_step = idle * 1e3 / steps as f64;
    gaps.share = if whole > 0.0 { idle / whole } else { 0.0 };
    gaps
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CEILINGS: Ceilings = Ceilings {
        bytes_per_second: 1e9,
        memory: "a copy",
        flops_per_second: 1e12,
        by_cublaslt: false,
        product_size: 1,
    };

    fn span(name: &str, start: f64, seconds: f64, work: Work) -> Span {
        Span { name: name.into(), op: None, pass: Some(Pass::Forward), layer: None, start, seconds, work }
    }

    #[test]
    fn rows_add_up_and_know_their_roofline() {
        let work = Work::new(1_000_000, 1_000_000_000);
        let spans =
            [span("a", 0.0, 0.002, work), span("b", 0.002, 0.001, Work::default()), span("a", 0.004, 0.003, work)];
        let rows = rows(&spans, 2, &CEILINGS);
        assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let a = &rows[0];
        assert_eq!((a.calls_per_step, a.bytes_per_call, a.flops_per_call), (1.0, Some(1e6), Some(1e9)));
        // Two calls that need a millisecond each took five.
        approx::assert_relative_eq!(a.roofline.unwrap(), 0.4, epsilon = 1e-12);
        approx::assert_relative_eq!(a.gigabytes_per_second.unwrap(), 0.4, epsilon = 1e-12);
        approx::assert_relative_eq!(a.milliseconds_per_step, 2.5, epsilon = 1e-12);
        approx::assert_relative_eq!(rows.iter().map(|row| row.share).sum::<f64>(), 1.0, epsilon = 1e-12);
        assert_eq!((rows[1].roofline, rows[1].bytes_per_call), (None, None), "unstated work has no roofline");
    }

    #[test]
    fn gaps_are_what_nobody_covers() {
        let none = Work::default();
        let spans = [span("a", 1.0, 0.5, none), span("b", 1.25, 0.5, none), span("c", 2.0, 1.0, none)];
        let gaps = gaps(&spans, 1);
        assert_eq!((gaps.per_step, gaps.milliseconds_per_step, gaps.longest_microseconds), (1.0, 250.0, 250_000.0));
        assert_eq!(gaps.share, 0.125);
        // One that ends inside another begins no gap.
        let spans = [span("a", 0.0, 2.0, none), span("b", 0.5, 0.25, none), span("c", 3.0, 1.0, none)];
        assert_eq!(super::gaps(&spans, 2).milliseconds_per_step, 500.0);
        assert_eq!(super::gaps(&[], 1).share, 0.0);
    }

    #[test]
    fn a_piece_belongs_to_the_call_that_launched_it() {
        let origin = Instant::now();
        let at = |milliseconds| origin + Duration::from_millis(milliseconds);
        let call = |op, from, to: u64| Call {
            op,
            pass: Pass::Forward,
            layer: Some(3),
            started: at(from),
            time: Duration::from_millis(to - from),
            work: Work::default(),
        };
        let calls = [call("linear", 10, 20), call("tanh", 20, 25), call("gather", 30, 40)];
        let op = |milliseconds| call_at(&calls, at(milliseconds)).map(|call| call.op);
        assert_eq!([5, 12, 22, 27, 35, 50].map(op), [None, Some("linear"), Some("tanh"), None, Some("gather"), None]);
    }
}
