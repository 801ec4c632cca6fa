//! The residual sum at the end of a block that no LayerNorm follows; on the way back what it leaves to dropout and column sums.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::{Summands, residual};

pub(crate) fn main() {
    run("residual", |bench| {
        let (tokens, hidden) = (bench.shapes.tokens, bench.shapes.hidden);
        for (name, with_bias, dropout) in [("bias dropout", true, 0.1), ("bias", true, 0.0), ("alone", false, 0.0)] {
            let (parameters, _, vectors) = parameters(bench, &[], &[hidden])?;
            let bias = with_bias.then_some(vectors[0]);
            let (name, inputs) = (format!("{name} {tokens}x{hidden}"), [[tokens, hidden]; 2]);
            bench.operation(&name, "residual", &[Forward, Backward], parameters, &inputs, |tape, parameters, x| {
                residual(tape, parameters, x[0], Summands { bias, residual: Some(x[1]), dropout }).map(Some)
            })?;
        }
        Ok(())
    });
}
