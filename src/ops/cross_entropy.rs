//! Softmax cross-entropy: the end of the tape. Loss and gradient in one pass; the logits are consumed.

use std::rc::Rc;

use super::{Loss, Losses, for_real, kernel, work};
use crate::autograd::{DeviceBatch, Tape, Tensor};
use crate::device::{DType, Device, Launch, cpu};
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
    all.add_rows(tape.device(), &losses, &hits)?;
    tape.recycle(losses);
    tape.recycle(hits);
    tape.put_gradient(logits, gradient);
    tape.record("cross_entropy", started, |_, _| Ok(()));
    Ok(())
}
