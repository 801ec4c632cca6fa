//! Mean squared error and its gradient in one pass. Small (a few numbers a sequence), so one thread does it.

use super::Real;

/// For each row of `logits` (`[rows, columns]`): `losses[row] = mean((logits - targets)^2)`; a number is not right or
/// wrong, so `hits[row] = 0`. The logits are replaced with the gradient of `scale * sum(losses)`.
pub fn forward<T: Real>(logits: &mut [T], targets: &[f32], scale: T, losses: &mut [T], hits: &mut [i32]) {
    let columns = logits.len() / losses.len().max(1);
    let each = T::ONE / T::of(columns.max(1) as f64);
    let rows = logits.chunks_mut(columns.max(1)).zip(targets.chunks(columns.max(1)));
    for ((logits, targets), (loss, hit)) in rows.zip(losses.iter_mut().zip(hits)) {
        let mut sum = T::ZERO;
        for (logit, &target) in logits.iter_mut().zip(targets) {
            let difference = *logit - T::of(f64::from(target));
            sum = sum + difference * difference;
            *logit = T::of(2.0) * scale * each * difference;
        }
        (*loss, *hit) = (sum * each, 0);
    }
}
