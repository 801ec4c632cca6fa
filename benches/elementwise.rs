//! One gradient added to another, where a tensor has two users: the residual stream.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::Backward;
use helixgrad::ops::accumulate;

pub(crate) fn main() {
    run("elementwise", |bench| {
        let (tokens, hidden) = (bench.shapes.tokens, bench.shapes.hidden);
        let (parameters, ..) = parameters(bench, &[], &[])?;
        let name = format!("accumulate {tokens}x{hidden}");
        bench.operation(&name, "accumulate", &[Backward], parameters, &[[tokens, hidden]], |tape, _, x| {
            let x = x[0];
            let started = tape.start("accumulate");
            tape.record("accumulate", started, move |tape, _| {
                let (mut sum, term) = (tape.take_value(x), tape.take_gradient(x)?);
                accumulate(tape, &mut sum, &term)?;
                tape.recycle(sum);
                tape.recycle(term);
                Ok(())
            });
            Ok(Some(x))
        })
    });
}
