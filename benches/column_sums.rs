//! The gradient of a bias: the column sums of an output's gradient.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::Backward;
use helixgrad::ops::column_sums;

pub(crate) fn main() {
    run("column_sums", |bench| {
        let (tokens, hidden) = (bench.shapes.tokens, bench.shapes.hidden);
        for columns in [hidden, 3 * hidden] {
            let (parameters, _, vectors) = parameters(bench, &[], &[columns])?;
            let (name, bias) = (format!("{tokens}x{columns}"), vectors[0]);
            bench.operation(&name, "column_sums", &[Backward], parameters, &[[tokens, columns]], |tape, _, x| {
                let x = x[0];
                let started = tape.start("column_sums");
                tape.record("column_sums", started, move |tape, parameters| {
                    let dy = tape.take_gradient(x)?;
                    column_sums(tape, parameters, &dy, [tokens, columns], bias)?;
                    tape.recycle(dy);
                    Ok(())
                });
                Ok(Some(x))
            })?;
        }
        Ok(())
    });
}
