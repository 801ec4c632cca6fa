//! Softmax cross-entropy and its gradient in one pass over the logits; and what makes rows count unequally.

use rayon::prelude::*;

use super::{Real, real};

/// For each row of `logits` (`[rows, classes]`): `losses[row] = log(sum(exp(logits))) - logits[label]`, and
/// `hits[row] = 1` if the label has the largest logit (the first of equals), else 0. The logits are replaced with the
/// gradient of `scale * sum(losses)`: `scale * (softmax(logits) - onehot(label))`.
pub fn forward<T: Real>(logits: &mut [T], labels: &[i32], scale: T, losses: &mut [T], hits: &mut [i32]) {
    let classes = logits.len() / labels.len().max(1);
    logits.par_chunks_mut(classes.max(1)).zip(labels).zip(losses.par_iter_mut().zip(hits)).with_min_len(4).for_each(
        |((row, &label), (loss, hit))| {
            let label = label as usize;
            real::dispatch(
                #[inline(always)]
                || {
                    let max = real::lane_max(row);
                    let at_label = row[label];
                    *hit = i32::from(row.iter().position(|&logit| logit == max) == Some(label));
                    for logit in row.iter_mut() {
                        *logit = (*logit - max).exp();
                    }
                    let sum = real::lane_sum(row.len(), |i| row[i]);
                    *loss = sum.ln() - (at_label - max);
                    let factor = scale / sum;
                    for value in row.iter_mut() {
                        *value = *value * factor;
                    }
                    row[label] = row[label] - scale;
                },
            );
        },
    );
}

/// What follows [`forward`] where rows count unequally. The loss of a row, `-ln p` with `p` the probability of its label, becomes
/// `w (1 - p)^gamma (-ln p)`, where `w` is the weight of the label (`weights`: `[classes]`): the focal loss of Lin et al., "Focal loss
/// for dense object detection" (ICCV 2017, equation 5), and with a `gamma` of 0 the weighted cross-entropy. Its gradient is that of the
/// cross-entropy, row by row, times `w (1 - p)^gamma (1 + gamma p (-ln p) / (1 - p))`.
pub fn weigh<T: Real>(gradient: &mut [T], labels: &[i32], weights: &[f32], gamma: f64, losses: &mut [T]) {
    let rows = gradient.chunks_mut(weights.len().max(1)).zip(labels).zip(losses);
    for ((row, &label), loss) in rows {
        let (weight, nats) = (f64::from(weights[label as usize]), loss.to_f64());
        let (p, miss) = ((-nats).exp(), -(-nats).exp_m1());
        // -ln p over 1 - p, which is 1 in the limit of p = 1.
        let ratio = if miss > 0.0 { nats / miss } else { 1.0 };
        let focus = weight * miss.powf(gamma);
        *loss = T::of(focus * nats);
        let factor = T::of(focus * (1.0 + gamma * p * ratio));
        row.iter_mut().for_each(|value| *value = *value * factor);
    }
}
