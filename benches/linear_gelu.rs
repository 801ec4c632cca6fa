//! The first half of the feed-forward layer: a product with bias and GELU behind its sums.

mod common;

use common::{Bench, parameters, run};
use helixgrad::Result;
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::device::{Choices, GemmChoice};
use helixgrad::ops::{Gelu, linear_gelu};

pub(crate) fn main() {
    run("linear_gelu", |bench| {
        let ways = [
            ("no clusters", GemmChoice::OwnSingle),
            ("clusters", GemmChoice::OwnCluster),
            ("cuBLASLt", GemmChoice::CublasLt),
        ];
        let ways = ways.map(|(way, gemm)| (way, Choices { gemm, ..Choices::default() }));
        bench.in_ways(&ways, half)
    });
}

fn half(bench: &mut Bench) -> Result<()> {
    let (tokens, hidden, width) = (bench.shapes.tokens, bench.shapes.hidden, bench.shapes.intermediate);
    for (form, gelu) in [("", Gelu::Exact), ("tanh ", Gelu::Tanh)] {
        let (parameters, matrices, vectors) = parameters(bench, &[[width, hidden]], &[width])?;
        let name = format!("{form}{tokens}x{hidden}x{width}");
        bench.operation(
            &name,
            "linear_gelu",
            &[Forward, Backward],
            parameters,
            &[[tokens, hidden]],
            |tape, parameters, x| linear_gelu(tape, parameters, x[0], matrices[0], Some(vectors[0]), gelu).map(Some),
        )?;
    }
    Ok(())
}
