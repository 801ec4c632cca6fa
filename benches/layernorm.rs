//! LayerNorm of a residual sum with bias and dropout, alone, and with a sum that others use.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::{Normalisation, Summands, layernorm_and_sum};

pub(crate) fn main() {
    run("layernorm", |bench| {
        let (tokens, hidden) = (bench.shapes.tokens, bench.shapes.hidden);
        for (name, bias, residual, dropout, others) in [
            ("bias residual dropout", true, true, 0.1, false),
            ("residual", false, true, 0.0, false),
            ("alone", false, false, 0.0, false),
            ("bias residual others", true, true, 0.0, true),
        ] {
            let (parameters, _, vectors) = parameters(bench, &[], &[hidden, hidden, hidden])?;
            let bias = bias.then_some(vectors[2]);
            let norm = Normalisation { gamma: vectors[0], beta: Some(vectors[1]), eps: 1e-12 };
            let inputs = vec![[tokens, hidden]; 1 + usize::from(residual)];
            let name = format!("{name} {tokens}x{hidden}");
            bench.operation(&name, "layernorm", &[Forward, Backward], parameters, &inputs, |tape, parameters, x| {
                let summands = Summands { bias, residual: x.get(1).copied(), dropout };
                let (y, z) = layernorm_and_sum(tape, parameters, x[0], summands, norm)?;
                if others {
                    // Any numbers will do.
                    let mut gradient = tape.allocate(tokens * hidden)?;
                    gradient.copy_from(tape.device(), tape.value(y))?;
                    tape.put_gradient(z, gradient);
                }
                Ok(Some(y))
            })?;
        }
        Ok(())
    });
}
