//! The three look-ups and the sums that flow back into the tables; k-mers as they occur: a few often, most rarely.

mod common;

use common::{parameters, run};
use helixgrad::autograd::DeviceBatch;
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::{Embedding, embedding};
use helixgrad::philox::Philox;

pub(crate) fn main() {
    run("embedding", |bench| {
        let (tokens, hidden, vocab) = (bench.shapes.tokens, bench.shapes.hidden, bench.shapes.vocab);
        let draws = Philox::new(5, 0, 0);
        let length = 512.min(tokens);
        let mut batch = Batch::new();
        for start in (0..tokens - tokens % length).step_by(length) {
            // The square of a uniform number prefers small tokens.
            let token = |i: usize| (draws.uniform(i as u64).powi(2) * vocab as f64) as i32;
            batch.push(&(start..start + length).map(token).collect::<Vec<_>>());
        }
        let batch = DeviceBatch::upload(&bench.device, &batch)?;
        let (parameters, tables, _) = parameters(bench, &[[vocab, hidden], [length, hidden], [2, hidden]], &[])?;
        let name = format!("{}x{hidden} of {vocab}", batch.tokens.len());
        bench.operation(&name, "embedding", &[Forward, Backward], parameters, &[], |tape, parameters, _| {
            let tables = [tables[0], tables[1], tables[2]].map(Some);
            let options = Embedding { padding: Some(0), hidden_by: None };
            embedding(tape, parameters, &batch, tables, options).map(Some)
        })
    });
}
