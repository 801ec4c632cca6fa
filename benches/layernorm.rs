//! LayerNorm of a residual sum with bias and dropout, and alone.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::{Normalisation, Summands, layernorm};

pub(crate) fn main() {
    run("layernorm", |bench| {
        let (tokens, hidden) = (bench.shapes.tokens, bench.shapes.hidden);
        for (name, bias, residual, dropout) in
            [("bias residual dropout", true, true, 0.1), ("residual", false, true, 0.0), ("alone", false, false, 0.0)]
        {
            let (parameters, _, vectors) = parameters(bench, &[], &[hidden, hidden, hidden])?;
            let bias = bias.then_some(vectors[2]);
            let norm = Normalisation { gamma: vectors[0], beta: vectors[1], eps: 1e-12 };
            let inputs = vec![[tokens, hidden]; 1 + usize::from(residual)];
            let name = format!("{name} {tokens}x{hidden}");
            bench.operation(&name, "layernorm", &[Forward, Backward], parameters, &inputs, |tape, parameters, x| {
                let summands = Summands { bias, residual: x.get(1).copied(), dropout };
                layernorm(tape, parameters, x[0], summands, norm).map(Some)
            })?;
        }
        Ok(())
    });
}
