//! The norm of all gradients, and the factor that clips them.

mod common;

use common::{optimizer, run};
use helixgrad::autograd::Pass::Update;

pub(crate) fn main() {
    run("norm", |bench| {
        let (name, iteration) = optimizer(bench)?;
        bench.iterations(&name, &[("gradient_norm", Update)], iteration)
    });
}
