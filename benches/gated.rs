//! The gate between the two products of a feed-forward block, with GELU and with SiLU, with and without dropout.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::{Gate, gated_backward, gated_forward};

pub(crate) fn main() {
    run("gated", |bench| {
        let (tokens, inner) = (bench.shapes.tokens, bench.shapes.intermediate);
        for (name, gate, p) in [("gelu dropout", Gate::Gelu, 0.1), ("gelu", Gate::Gelu, 0.0), ("silu", Gate::Silu, 0.0)]
        {
            let (parameters, ..) = parameters(bench, &[], &[])?;
            let (name, inputs) = (format!("{name} {tokens}x{inner}"), [[tokens, 2 * inner]]);
            bench.operation(&name, "gated", &[Forward, Backward], parameters, &inputs, |tape, _, x| {
                let mut halves = tape.take_value(x[0]);
                let started = tape.start("gated");
                let dropout = tape.dropout(p);
                let mut u = tape.allocate(tokens * inner)?;
                gated_forward(tape, &halves, inner, gate, dropout, &mut u)?;
                let u = tape.push(u, tokens, inner);
                tape.record("gated", started, move |tape, _| {
                    let mut du = tape.take_gradient(u)?;
                    gated_backward(tape, &mut halves, inner, gate, dropout, &mut du)?;
                    tape.recycle(halves);
                    tape.recycle(du);
                    Ok(())
                });
                Ok(Some(u))
            })?;
        }
        Ok(())
    });
}
