//! Bias and GELU as kernels of their own: behind a product of cuBLASLt, and on the way back from the masked-LM head.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::{Backward, Forward};
use helixgrad::ops::{Gelu, bias_gelu_backward, bias_gelu_forward};

pub(crate) fn main() {
    run("bias_gelu", |bench| {
        let (tokens, width) = (bench.shapes.tokens, bench.shapes.intermediate);
        for (form, gelu) in [("", Gelu::Exact), ("tanh ", Gelu::Tanh)] {
            let (parameters, _, vectors) = parameters(bench, &[], &[width])?;
            let (name, bias) = (format!("{form}{tokens}x{width}"), vectors[0]);
            let passes = [Forward, Backward];
            bench.operation(&name, "bias_gelu", &passes, parameters, &[[tokens, width]], |tape, parameters, x| {
                let kept = tape.take_value(x[0]);
                let started = tape.start("bias_gelu");
                let mut y = tape.allocate(tokens * width)?;
                bias_gelu_forward(tape, parameters, (&kept, bias.len), Some(bias), gelu, &mut y)?;
                let (kept, y) = (tape.push(kept, tokens, width), tape.push(y, tokens, width));
                tape.record("bias_gelu", started, move |tape, parameters| {
                    let mut dy = tape.take_gradient(y)?;
                    bias_gelu_backward(tape, parameters, kept, Some(bias), gelu, &mut dy)?;
                    tape.recycle(dy);
                    Ok(())
                });
                Ok(Some(y))
            })?;
        }
        Ok(())
    });
}
