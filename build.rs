//! Compiles `kernels/*.cu` with nvcc, where there is one, and hands the machine code to `src/device/kernels.rs`.
//!
//! Without nvcc the crate builds all the same, with a warning and no kernels. Nothing here uses the network:
//! `tools/install-nvcc.sh` fetches the compiler. `ARCHITECTURE.md` says how the parts fit.
//!
//! | output in `OUT_DIR` | what |
//! | --- | --- |
//! | `kernels.rs` | the table of embedded fatbins and the compiler's version |
//! | `ptxas.json` | registers, shared memory and spills of every kernel on every target |
//! | `kernels/` | one fatbin, compiler log, key, and PTX per target (`layernorm.sm_80.ptx`) per file: compiled again only when its key changes |

#[path = "build/cache.rs"]
mod cache;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/ptxas.rs"]
mod ptxas;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

fn main() -> ExitCode {
    for path in ["build.rs", "build", "kernels", nvcc::EMULATOR] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "HELIXGRAD_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // One directive a line: cargo shows each.
            message.lines().for_each(|line| println!("cargo::error={line}"));
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let targets = nvcc::Targets::parse(env::var("HELIXGRAD_CUDA_ARCHS").ok().as_deref())?;
    let compiler = match targets {
        Some(_) => nvcc::find()?,
        None => None,
    };
    let (Some(targets), Some(compiler)) = (targets, compiler) else {
        println!(
            "cargo::warning=no CUDA kernels in this build (no nvcc found, or HELIXGRAD_CUDA_ARCHS=none): the program computes on the CPU only. To embed them, run tools/install-nvcc.sh, or set NVCC or CUDA_HOME"
        );
        return write_outputs(&out, None, &[]);
    };
    let sources = cache::sources(Path::new("kernels"))?;
    let compiled = compile_all(&sources, &compiler, &targets, &out.join("kernels"))?;
    write_outputs(&out, Some(&compiler.version), &compiled)
}

/// Compiles on as many threads as cargo allows; the order of the results is that of the sources.
fn compile_all(
    sources: &[PathBuf],
    compiler: &nvcc::Compiler,
    targets: &nvcc::Targets,
    folder: &Path,
) -> Result<Vec<cache::Compiled>, String> {
    fs::create_dir_all(folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let sources: Vec<&PathBuf> = sources.iter().filter(|source| !targets.of(source).is_empty()).collect();
    let results: Vec<Mutex<Option<Result<cache::Compiled, String>>>> =
        sources.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let threads = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(sources.len()) {
            scope.spawn(|| {
                while let Some((source, result)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    sources.get(index).zip(results.get(index))
                } {
                    let compiled = cache::compile(source, compiler, targets.of(source), folder);
                    *result.lock().expect("no thread panics while it holds the lock") = Some(compiled);
                }
            });
        }
    });
    results.into_iter().map(|result| result.into_inner().expect("as above").expect("every source was taken")).collect()
}

fn write_outputs(out: &Path, version: Option<&str>, compiled: &[cache::Compiled]) -> Result<(), String> {
    let mut table = format!("const NVCC_VERSION: Option<&str> = {version:?};\nstatic EMBEDDED: &[Embedded] = &[\n");
    let mut resources = Vec::new();
    for file in compiled {
        writeln!(
            table,
            "    Embedded {{ name: {:?}, targets: &{:?}, fatbin: include_bytes!({:?}) }},",
            file.name, file.targets, file.fatbin
        )
        .expect("writing to a string");
        resources.extend(ptxas::parse(&file.name, &file.log)?);
    }
    table.push_str("];\n");
    for (name, text) in [("kernels.rs", table), ("ptxas.json", ptxas::to_json(&resources))] {
        let path = out.join(name);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}
