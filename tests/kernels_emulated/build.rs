//! Compiles every kernel file.

use std::path::PathBuf;

fn main() {
    let mut sources: Vec<PathBuf> = std::fs::read_dir("../../kernels")
        .expect("the kernels lie beside this crate's parent")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "cu"))
        .collect();
    sources.sort();
    cuda_on_cpu::build::compile(&sources, &["../../kernels"], &[]).expect("the kernels compile");
}
