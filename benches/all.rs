//! Every bench in one program, for a machine without Rust: `tools/gpu_pack.sh` takes it along. The first argument says which.

// Each bench brings its own `common`, as it does where it is a program of its own.
#![allow(clippy::duplicate_mod)]

macro_rules! benches {
    ($($name:ident in $path:literal),+ $(,)?) => {
        $(#[path = $path] mod $name;)+
        const BENCHES: &[(&str, fn())] = &[$((stringify!($name), $name::main)),+];
    };
}

benches! {
    adamw in "adamw.rs",
    attention in "attention.rs",
    bias_gelu in "bias_gelu.rs",
    binary_cross_entropy in "binary_cross_entropy.rs",
    column_sums in "column_sums.rs",
    cross_entropy in "cross_entropy.rs",
    dropout in "dropout.rs",
    elementwise in "elementwise.rs",
    embedding in "embedding.rs",
    gated in "gated.rs",
    gather in "gather.rs",
    gemm in "gemm.rs",
    launch in "launch.rs",
    layernorm in "layernorm.rs",
    linear_gelu in "linear_gelu.rs",
    mean_squared_error in "mean_squared_error.rs",
    norm in "norm.rs",
    residual in "residual.rs",
    rotary in "rotary.rs",
    sampling in "sampling.rs",
    skip_gram in "skip_gram.rs",
    tanh in "tanh.rs",
}

fn main() {
    // Criterion takes the name as its filter, which all rows of that bench pass.
    let name = std::env::args().nth(1).unwrap_or_default();
    match BENCHES.iter().find(|(known, _)| *known == name) {
        Some((_, bench)) => bench(),
        None => {
            let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
            eprintln!("error: no bench {name:?}\n  what to do: name one of {}", names.join(", "));
            std::process::exit(2);
        }
    }
}
