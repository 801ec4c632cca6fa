//! LayerNorm of a residual sum with dropout, and alone.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::{Normalisation, layernorm};

fn main() {
    run("layernorm", |bench| {
        let (tokens, hidden) = (bench.shapes.tokens, bench.shapes.hidden);
        for (name, residual, dropout) in
            [("residual dropout", true, 0.1), ("residual", true, 0.0), ("alone", false, 0.0)]
        {
            let (parameters, _, vectors) = parameters(bench, &[], &[hidden, hidden])?;
            let norm = Normalisation { gamma: vectors[0], beta: vectors[1], eps: 1e-12 };
            let inputs = vec![[tokens, hidden]; 1 + usize::from(residual)];
            let name = format!("{name} {tokens}x{hidden}");
            bench.operation(&name, "layernorm", &[Forward, Backward], parameters, &inputs, |tape, parameters, x| {
                layernorm(tape, parameters, x[0], x.get(1).copied(), dropout, norm).map(Some)
            })?;
        }
        Ok(())
    });
}
