//! Dropout that stands alone: after the embeddings.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::dropout;

pub(crate) fn main() {
    run("dropout", |bench| {
        let (tokens, hidden) = (bench.shapes.tokens, bench.shapes.hidden);
        let (parameters, ..) = parameters(bench, &[], &[])?;
        let name = format!("{tokens}x{hidden}");
        bench.operation(&name, "dropout", &[Forward, Backward], parameters, &[[tokens, hidden]], |tape, _, x| {
            dropout(tape, x[0], 0.1).map(Some)
        })
    });
}
