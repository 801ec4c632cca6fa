//! Softmax cross-entropy: the end of the tape. Loss and gradient in one pass; the logits are consumed. Where rows count unequally a second
//! pass weighs both.

use std::rc::Rc;

use super::{Loss, Losses, Weighting, for_real, kernel, work};
use crate::autograd::{DeviceBatch, Tape, Tensor};
use crate::device::{Buffer, DType, Device, Launch, cpu};
use crate::{Error, Result};

/// As [`cross_entropy_into`], for one batch; waits for the loss.
///
/// # Errors
/// As [`cross_entropy_into`].
pub fn cross_entropy(tape: &mut Tape, batch: &Rc<DeviceBatch>, logits: Tensor, scale: f64) -> Result<Loss> {
    Losses::of_one(tape, |tape, losses| cross_entropy_into(tape, batch, logits, scale, losses))
}

/// Adds the loss of `logits` (`[batch.rows, classes]`) against `batch.labels` to `all`. When recording, the gradient of
/// `scale * Loss::sum` goes back from here.
///
/// # Errors
/// [`Error::Failed`] if a label is no class.
pub fn cross_entropy_into(
    tape: &mut Tape,
    batch: &Rc<DeviceBatch>,
    logits: Tensor,
    scale: f64,
    all: &mut Losses,
) -> Result<()> {
    forward(tape, batch, logits, None, scale, all)
}

/// As [`cross_entropy_into`], of rows that `weighting` weighs by their class and by how far they are from right. `weight` is what their
/// classes weigh together ([`Weighting::of`]): with a `scale` of one over it the loss is the weighted mean of PyTorch's
/// `CrossEntropyLoss(weight=...)`.
///
/// # Errors
/// As [`cross_entropy_into`].
///
/// # Panics
/// If there are not as many weights as classes: a fault of the caller, never of input.
pub fn weighted_cross_entropy_into(
    tape: &mut Tape,
    batch: &Rc<DeviceBatch>,
    logits: Tensor,
    (weighting, weight): (&Weighting, f64),
    scale: f64,
    all: &mut Losses,
) -> Result<()> {
    assert_eq!(weighting.weights.len(), logits.columns, "cross_entropy: one weight a class");
    forward(tape, batch, logits, Some((weighting, weight)), scale, all)
}

fn forward(
    tape: &mut Tape,
    batch: &Rc<DeviceBatch>,
    logits: Tensor,
    weighting: Option<(&Weighting, f64)>,
    scale: f64,
    all: &mut Losses,
) -> Result<()> {
    let started = tape.start("cross_entropy");
    let rows = logits.rows;
    assert_eq!(batch.labels.len(), rows, "cross_entropy: one label a row");
    let mut gradient = tape.take_value(logits);
    let mut losses = tape.allocate_scratch(rows)?;
    let mut hits = tape.allocate_as(rows, DType::I32)?;
    let work = work::cross_entropy(rows, logits.columns, tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let labels = batch.labels.slice::<i32>();
            if let Some(label) = labels.iter().find(|&&label| !(0..logits.columns as i32).contains(&label)) {
                return Err(Error::Failed(format!("label {label} is none of the {} classes", logits.columns)));
            }
            let scale = <T as cpu::Real>::of(scale);
            cpu::cross_entropy::forward::<T>(gradient.slice_mut(), labels, scale, losses.slice_mut(), hits.slice_mut());
        }),
        device => {
            let launch =
                Launch::new(kernel("cross_entropy_forward", tape.dtype()), rows.max(1), 256).write(&mut gradient);
            let launch = launch.read(&batch.labels).int(rows).int(logits.columns).int(logits.stride);
            device.launch(&launch.value(scale as f32).work(work).write(&mut losses).write(&mut hits))?;
        }
    }
    if let Some((weighting, _)) = weighting {
        weigh(tape, batch, logits, weighting, &mut gradient, &mut losses)?;
    }
    let weight = weighting.map_or(rows as f64, |(_, weight)| weight);
    all.add_rows(tape.device(), &losses, &hits, weight)?;
    tape.recycle(losses);
    tape.recycle(hits);
    tape.put_gradient(logits, gradient);
    tape.record("cross_entropy", started, |_, _| Ok(()));
    Ok(())
}

/// Multiplies the gradient and the loss of each row with what the row counts.
fn weigh(
    tape: &mut Tape,
    batch: &DeviceBatch,
    logits: Tensor,
    weighting: &Weighting,
    gradient: &mut Buffer,
    losses: &mut Buffer,
) -> Result<()> {
    let (rows, gamma) = (logits.rows, weighting.gamma);
    let work = work::cross_entropy_weigh(rows, logits.columns, tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let (labels, weights) = (batch.labels.slice(), weighting.weights.slice());
            cpu::cross_entropy::weigh::<T>(gradient.slice_mut(), labels, weights, gamma, losses.slice_mut());
            Ok(())
        }),
        device => {
            let launch = Launch::new(kernel("cross_entropy_weigh", tape.dtype()), rows.div_ceil(8).max(1), 256);
            let launch = launch.write(gradient).read(&batch.labels).read(&weighting.weights).int(rows);
            let launch = launch.int(logits.columns).int(logits.stride).value(gamma as f32);
            device.launch(&launch.work(work).write(losses))
        }
    }
}
