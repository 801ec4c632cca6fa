//! The products of DNABERT's linear layers, forward and both gradients.

mod common;

use common::{Bench, parameters, run};
use helixgrad::Result;
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::device::{Choices, GemmChoice};
use helixgrad::ops::linear;

pub(crate) fn main() {
    run("gemm", |bench| {
        let ways = [
            ("no clusters", GemmChoice::OwnSingle),
            ("clusters", GemmChoice::OwnCluster),
            ("cuBLASLt", GemmChoice::CublasLt),
        ];
        let ways = ways.map(|(way, gemm)| (way, Choices { gemm, ..Choices::default() }));
        bench.in_ways(&ways, products)
    });
}

fn products(bench: &mut Bench) -> Result<()> {
    let shapes = bench.shapes.clone();
    let hidden = shapes.hidden;
    // The decoder runs on the masked tokens only, 15 %.
    let cases = [
        ("query, key, value", shapes.tokens, hidden, 3 * hidden),
        ("attention output", shapes.tokens, hidden, hidden),
        ("intermediate", shapes.tokens, hidden, shapes.intermediate),
        ("output", shapes.tokens, shapes.intermediate, hidden),
        ("decoder", (shapes.tokens * 3 / 20).max(1), hidden, shapes.vocab),
    ];
    for (name, rows, input, output) in cases {
        let (parameters, matrices, vectors) = parameters(bench, &[[output, input]], &[output])?;
        let name = format!("{name} {rows}x{input}x{output}");
        bench.operation(
            &name,
            "linear",
            &[Forward, Backward],
            parameters,
            &[[rows, input]],
            |tape, parameters, x| linear(tape, parameters, x[0], matrices[0], Some(vectors[0])).map(Some),
        )?;
    }
    Ok(())
}
