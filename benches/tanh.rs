//! The pooler's activation: one row a sequence.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::tanh;

pub(crate) fn main() {
    run("tanh", |bench| {
        let (sequences, hidden) = ((bench.shapes.tokens / 512).max(1), bench.shapes.hidden);
        let (parameters, ..) = parameters(bench, &[], &[])?;
        let name = format!("{sequences}x{hidden}");
        bench.operation(&name, "tanh", &[Forward, Backward], parameters, &[[sequences, hidden]], |tape, _, x| {
            tanh(tape, x[0]).map(Some)
        })
    });
}
