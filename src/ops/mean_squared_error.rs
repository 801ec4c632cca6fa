//! Mean squared error: the end of the tape of a regression. Loss and gradient in one pass; the logits are consumed.

use super::target_loss::{self, TargetLoss};
use super::{Loss, Losses, for_real};
use crate::Result;
use crate::autograd::{Tape, Tensor};
use crate::device::{Buffer, cpu};

/// As [`mean_squared_error_into`], for one batch; waits for the loss.
///
/// # Errors
/// As [`mean_squared_error_into`].
pub fn mean_squared_error(tape: &mut Tape, logits: Tensor, targets: &Buffer, scale: f64) -> Result<Loss> {
    Losses::of_one(tape, |tape, losses| mean_squared_error_into(tape, logits, targets, scale, losses))
}

/// Adds the loss of `logits` (`[rows, columns]`) against `targets` (`[rows, columns]` of f32, on the tape's device) to `all`: the mean
/// squared difference of a row, summed over rows. When recording, the gradient of `scale * Loss::sum` goes back from here.
///
/// # Errors
/// Those of the device.
///
/// # Panics
/// If there are not as many targets as logits: a fault of the caller, never of input.
pub fn mean_squared_error_into(
    tape: &mut Tape,
    logits: Tensor,
    targets: &Buffer,
    scale: f64,
    all: &mut Losses,
) -> Result<()> {
    let on_cpu = |TargetLoss { logits, targets, scale, losses, hits }: TargetLoss| {
        for_real!(logits.dtype(), T => {
            let scale = <T as cpu::Real>::of(scale);
            let (losses, hits) = (losses.slice_mut(), hits.slice_mut());
            cpu::mean_squared_error::forward::<T>(logits.slice_mut(), targets.slice(), scale, losses, hits);
        });
    };
    target_loss::run(tape, "mean_squared_error", logits, (targets, scale), all, |launch| launch, on_cpu)
}
