//! Binary cross-entropy of logits, a class at a time, and its gradient in one pass. Small (a row a sequence), so one thread
//! does it.

use super::Real;

/// For each row of `logits` (`[rows, columns]`): `losses[row]` is the mean over columns of
/// `(1 - t) x + (1 + (w - 1) t) (max(-x, 0) + log(1 + exp(-|x|)))`, where `w` is the weight of a class that holds (`positive`:
/// `[columns]`, or all 1), as PyTorch's `pos_weight`; and `hits[row] = 1` if every class is on its side (`x > 0` where `t > 1/2` and
/// nowhere else). The logits are replaced with the gradient of `scale * sum(losses)`:
/// `scale ((1 - t) sigmoid(x) - w t (1 - sigmoid(x))) / columns`.
pub fn forward<T: Real>(
    logits: &mut [T],
    targets: &[f32],
    positive: Option<&[f32]>,
    scale: T,
    losses: &mut [T],
    hits: &mut [i32],
) {
    let columns = logits.len() / losses.len().max(1);
    let each = T::ONE / T::of(columns.max(1) as f64);
    let rows = logits.chunks_mut(columns.max(1)).zip(targets.chunks(columns.max(1)));
    for ((logits, targets), (loss, hit)) in rows.zip(losses.iter_mut().zip(hits)) {
        let (mut sum, mut all) = (T::ZERO, true);
        for (column, (logit, &target)) in logits.iter_mut().zip(targets).enumerate() {
            let (x, target) = (*logit, T::of(f64::from(target)));
            let small = (if x < T::ZERO { x } else { -x }).exp();
            let sigmoid = (if x < T::ZERO { small } else { T::ONE }) / (T::ONE + small);
            let rest = (if x < T::ZERO { T::ONE } else { small }) / (T::ONE + small);
            let logarithm = (T::ONE + small).ln();
            // What the class counts for over and above 1.
            let extra = T::of(positive.map_or(0.0, |weights| f64::from(weights[column]) - 1.0)) * target;
            sum = sum + x.at_least(T::ZERO) - x * target + logarithm + extra * ((-x).at_least(T::ZERO) + logarithm);
            all &= (x > T::ZERO) == (target > T::of(0.5));
            *logit = scale * each * (sigmoid - target - extra * rest);
        }
        (*loss, *hit) = (sum * each, i32::from(all));
    }
}
