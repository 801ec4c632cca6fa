//! Attention at several lengths of sequence, with and without dropout, and DNABERT's mix; as in a model, with the gradient of a bias in its
//! input besides.

mod common;

use std::rc::Rc;

use common::{Bench, parameters, run};
use helixgrad::Result;
use helixgrad::autograd::DeviceBatch;
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::device::Choices;
use helixgrad::device::attention_kernels::AttentionPath;
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::{AttentionHooks, Qkv, attention};

pub(crate) fn main() {
    run("attention", |bench| {
        // Beside what Hopper takes: two kernels for gradients of any length, and the kernels that any GPU takes.
        let other = |attention: AttentionPath| (attention.name(), Choices { attention, ..Choices::default() });
        let ways = [other(AttentionPath::Sm90Split), other(AttentionPath::Sm80)];
        bench.in_ways(if bench.device.runs_sm90() { &ways } else { &[] }, lengths)
    });
}

fn lengths(bench: &mut Bench) -> Result<()> {
    let shapes = bench.shapes.clone();
    let full = |length: usize| (format!("{length}"), vec![length; shapes.tokens.div_ceil(length)]);
    let mut cases: Vec<_> = shapes.lengths.iter().map(|&length| full(length)).collect();
    // Half of full length, half spread evenly: 7, 7 + 72, ...
    let longest = shapes.lengths[0];
    let mix =
        (0..).map(|i: usize| if i.is_multiple_of(2) { longest } else { 7 + i * 36 % longest.saturating_sub(6).max(1) });
    let mut total = 0;
    let mix: Vec<usize> = mix
        .take_while(|length| {
            total += length;
            total <= shapes.tokens
        })
        .collect();
    cases.push((format!("mix to {longest}"), mix));
    for (name, lengths) in cases {
        let mut batch = Batch::new();
        for length in lengths {
            batch.push(&vec![5; length]);
        }
        let batch: Rc<DeviceBatch> = DeviceBatch::upload(&bench.device, &batch)?;
        for (what, dropout, bias) in [("", 0.0, false), (" dropout", 0.1, false), (" dropout bias", 0.1, true)] {
            let (parameters, _, vectors) = parameters(bench, &[], &[3 * shapes.hidden])?;
            let bias = bias.then_some(vectors[0]);
            let name = format!("{name}{what}");
            let inputs = [[batch.tokens.len(), 3 * shapes.hidden]];
            bench.operation(&name, "attention", &[Forward, Backward], parameters, &inputs, |tape, _, x| {
                let qkv = Qkv { values: x[0], bias };
                attention(tape, &batch, qkv, shapes.heads, dropout, &AttentionHooks::default()).map(Some)
            })?;
        }
    }
    Ok(())
}
