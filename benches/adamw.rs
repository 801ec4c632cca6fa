//! The update of all parameters, as a step does it behind the gradient norm (`benches/norm.rs`).

mod common;

use common::{optimizer, run};
use helixgrad::autograd::Pass::Update;

pub(crate) fn main() {
    run("adamw", |bench| {
        let (name, iteration) = optimizer(bench)?;
        bench.iterations(&name, &[("adamw", Update)], iteration)
    });
}
