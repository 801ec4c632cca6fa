//! The gradient norm (`kernels/norm.cu`) and the update of all parameters, as a step does them: DNABERT's 89 M on a GPU, a tenth on
//! the CPU.

mod common;

use common::{parameters, run};
use helixgrad::autograd::Pass::Update;
use helixgrad::optim::{AdamW, AdamWConfig};

fn main() {
    run("adamw", |bench| {
        let count = if bench.is_cpu() { 8_900_000 } else { 89_200_000 };
        let (mut parameters, ..) = parameters(bench, &[[count / 768, 768]], &[768])?;
        let mut optimizer = AdamW::new(AdamWConfig::default(), &parameters, &bench.device)?;
        let name = format!("{:.1} M parameters", parameters.len() as f64 / 1e6);
        // The update leaves zero gradients: the next round adds nothing to the weights, and takes as long.
        bench.iterations(&name, &[("gradient_norm", Update), ("adamw", Update)], |tape| {
            tape.start_training(0, 0, 0);
            optimizer.update(tape, &mut parameters, 1e-4).map(drop)
        })
    });
}
