//! Loss and gradient of a regression: one number for every sequence.

mod common;

use common::{run, targets};
use helixgrad::ops::mean_squared_error;

pub(crate) fn main() {
    run("mean_squared_error", |bench| {
        let sequences = (bench.shapes.tokens / 512).max(1);
        targets(bench, "mean_squared_error", [sequences, 1], mean_squared_error)
    });
}
