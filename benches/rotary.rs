//! Queries and keys turned by their positions, in place, either way.

mod common;

use common::{parameters, run};
use helixgrad::autograd::DeviceBatch;
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::rotary;

pub(crate) fn main() {
    run("rotary", |bench| {
        let (tokens, hidden, heads) = (bench.shapes.tokens, bench.shapes.hidden, bench.shapes.heads);
        let length = 512.min(tokens);
        let mut batch = Batch::new();
        for _ in 0..tokens / length {
            batch.push(&vec![5; length]);
        }
        let batch = DeviceBatch::upload(&bench.device, &batch)?;
        let (parameters, ..) = parameters(bench, &[], &[])?;
        let rows = batch.tokens.len();
        let name = format!("{rows}x{hidden}");
        bench.operation(&name, "rotary", &[Forward, Backward], parameters, &[[rows, 3 * hidden]], |tape, _, x| {
            rotary(tape, &batch, x[0], heads, 1e4).map(Some)
        })
    });
}
