//! Binary cross-entropy of logits: the end of the tape for multi-label data. Loss and gradient in one pass; the logits are
//! consumed.

use super::target_loss::{self, TargetLoss};
use super::{Loss, Losses, for_real};
use crate::Result;
use crate::autograd::{Tape, Tensor};
use crate::device::{Buffer, Launch, cpu};

/// As [`binary_cross_entropy_into`], for one batch; waits for the loss.
///
/// # Errors
/// As [`binary_cross_entropy_into`].
pub fn binary_cross_entropy(
    tape: &mut Tape,
    logits: Tensor,
    targets: &Buffer,
    positive: Option<&Buffer>,
    scale: f64,
) -> Result<Loss> {
    Losses::of_one(tape, |tape, losses| binary_cross_entropy_into(tape, logits, targets, positive, scale, losses))
}

/// Adds the loss of `logits` (`[rows, classes]`) against `targets` (`[rows, classes]` of f32 from 0 to 1, on the tape's device) to `all`:
/// the mean over classes of -log(probability of the target), in nats, summed over rows; rows whose classes are all on
/// their side count as hits. Where a class holds, its term counts as often as `positive` (`[classes]` of f32) says, as `pos_weight` in
/// PyTorch's `BCEWithLogitsLoss`. When recording, the gradient of `scale * Loss::sum` goes back from here.
///
/// # Errors
/// Those of the device.
///
/// # Panics
/// If there are not as many targets as logits, or weights as classes: a fault of the caller, never of input.
pub fn binary_cross_entropy_into(
    tape: &mut Tape,
    logits: Tensor,
    targets: &Buffer,
    positive: Option<&Buffer>,
    scale: f64,
    all: &mut Losses,
) -> Result<()> {
    assert!(positive.is_none_or(|weights| weights.len() == logits.columns), "binary_cross_entropy: one weight a class");
    let more = |launch: Launch| match positive {
        Some(weights) => launch.read(weights),
        None => launch.null(),
    };
    let on_cpu = |TargetLoss { logits, targets, scale, losses, hits }: TargetLoss| {
        for_real!(logits.dtype(), T => {
            let scale = <T as cpu::Real>::of(scale);
            let (losses, hits) = (losses.slice_mut(), hits.slice_mut());
            let (targets, positive) = (targets.slice(), positive.map(Buffer::slice));
            cpu::binary_cross_entropy::forward::<T>(logits.slice_mut(), targets, positive, scale, losses, hits);
        });
    };
    target_loss::run(tape, "binary_cross_entropy", logits, (targets, scale), all, more, on_cpu)
}
