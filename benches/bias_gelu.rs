//! Bias and GELU at the width of the feed-forward layer.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::bias_gelu;

fn main() {
    run("bias_gelu", |bench| {
        let (tokens, width) = (bench.shapes.tokens, bench.shapes.intermediate);
        let (parameters, _, vectors) = parameters(bench, &[], &[width])?;
        let name = format!("{tokens}x{width}");
        bench.operation(
            &name,
            "bias_gelu",
            &[Forward, Backward],
            parameters,
            &[[tokens, width]],
            |tape, parameters, x| bias_gelu(tape, parameters, x[0], vectors[0]).map(Some),
        )
    });
}
