//! Compiles every kernel file, and the one of the worked example.

use std::path::PathBuf;

fn main() {
    let mut sources: Vec<PathBuf> = std::fs::read_dir("../../kernels")
        .expect("the kernels lie beside this crate's parent")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "cu"))
        .collect();
    // The folder, because a file that is new there is none of those that were watched.
    println!("cargo::rerun-if-changed=../../kernels");
    // The worked example's, too.
    sources.push("../../examples/softsign/softsign.cu".into());
    sources.sort();
    cuda_on_cpu::build::compile(&sources, &["../../kernels"], &[]).expect("the kernels compile");
}
