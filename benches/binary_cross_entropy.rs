//! Loss and gradient of multi-label data: DeepSEA's 919 classes for every sequence.

mod common;

use common::{run, targets};
use helixgrad::ops::binary_cross_entropy;

pub(crate) fn main() {
    run("binary_cross_entropy", |bench| {
        let sequences = (bench.shapes.tokens / 512).max(1);
        targets(bench, "binary_cross_entropy", [sequences, 919], |tape, logits, targets, scale| {
            binary_cross_entropy(tape, logits, targets, None, scale)
        })
    });
}
