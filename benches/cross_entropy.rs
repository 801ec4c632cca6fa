//! Loss and gradient of the logits of all masked tokens, 15 %.

mod common;

use common::{parameters, run};
use helixgrad::autograd::DeviceBatch;
use helixgrad::autograd::Pass::Forward;
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::cross_entropy;

pub(crate) fn main() {
    run("cross_entropy", |bench| {
        let (rows, vocab) = ((bench.shapes.tokens * 3 / 20).max(1), bench.shapes.vocab);
        let mut batch = Batch::new();
        batch.push(&vec![5; rows]);
        batch.rows = (0..rows as i32).collect();
        batch.labels = (0..rows).map(|row| (row * 7919 % vocab) as i32).collect();
        let batch = DeviceBatch::upload(&bench.device, &batch)?;
        let (parameters, ..) = parameters(bench, &[], &[])?;
        let name = format!("{rows}x{vocab}");
        bench.operation(&name, "cross_entropy", &[Forward], parameters, &[[rows, vocab]], |tape, _, logits| {
            cross_entropy(tape, &batch, logits[0], 1.0 / rows as f64)?;
            Ok(None)
        })
    });
}
