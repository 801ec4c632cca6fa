//! The masked rows, 15 % of all, taken out and their gradients put back.

mod common;

use common::{parameters, run};
use helixgrad::autograd::DeviceBatch;
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::gather;
use helixgrad::philox::Philox;

pub(crate) fn main() {
    run("gather", |bench| {
        let (tokens, hidden) = (bench.shapes.tokens, bench.shapes.hidden);
        let draws = Philox::new(5, 0, 0);
        let mut batch = Batch::new();
        batch.push(&vec![5; tokens]);
        batch.rows = (0..tokens as i32).filter(|&row| draws.uniform(row as u64) < 0.15).collect();
        let batch = DeviceBatch::upload(&bench.device, &batch)?;
        let (parameters, ..) = parameters(bench, &[], &[])?;
        let name = format!("{} of {tokens}x{hidden}", batch.rows.len());
        bench.operation(&name, "gather", &[Forward, Backward], parameters, &[[tokens, hidden]], |tape, _, x| {
            gather(tape, &batch, x[0]).map(Some)
        })
    });
}
