//! The CUDA compiler: where it is, what it compiles for, how it is called.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// nvcc and what it says of itself.
pub struct Compiler {
    pub path: PathBuf,
    pub version: String,
}

/// Looks in `$NVCC`, `$CUDA_HOME`, `$CUDA_PATH`, `.cuda/`, then `$PATH`. A variable that is set and leads to no working
/// compiler is an error: whoever set it should hear about it.
pub fn find() -> Result<Option<Compiler>, String> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = [
        ("NVCC", set("NVCC")),
        ("CUDA_HOME", set("CUDA_HOME").map(|home| home.join("bin/nvcc"))),
        ("CUDA_PATH", set("CUDA_PATH").map(|home| home.join("bin/nvcc"))),
    ];
    if let Some((variable, path)) = named.into_iter().find_map(|(name, path)| Some((name, path?))) {
        return ask(&path).map(Some).map_err(|found| {
            format!("{variable} leads to {}, {found}\n  what to do: correct or unset {variable}", path.display())
        });
    }
    let installed = Path::new(".cuda/nvidia/cu13/bin/nvcc");
    if installed.exists() {
        return ask(installed).map(Some).map_err(|found| {
            format!("{}: {found}\n  what to do: remove .cuda and run tools/install-nvcc.sh", installed.display())
        });
    }
    println!("cargo::rerun-if-env-changed=PATH");
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut on_path = env::split_paths(&folders).map(|folder| folder.join("nvcc")).filter(|path| path.is_file());
    Ok(on_path.find_map(|path| ask(&path).ok()))
}

fn ask(path: &Path) -> Result<Compiler, String> {
    let output =
        Command::new(path).arg("--version").output().map_err(|error| format!("which does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = version(&text).ok_or("which is no nvcc (its --version names no release)")?;
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    Ok(Compiler { path, version })
}

/// "13.0.88" of "Cuda compilation tools, release 13.0, V13.0.88".
pub fn version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains("release"))?;
    Some(line.split_whitespace().last()?.trim_start_matches('V').to_owned())
}

/// What to compile for: `sm_N` is machine code, `compute_N` is PTX that a driver compiles for newer chips.
#[derive(Debug, PartialEq)]
pub struct Targets(Vec<String>);

impl Targets {
    /// sm_80 runs on 8.6 and 8.9 as well; sm_90a unlocks Hopper's own instructions and runs on 9.0 alone; the PTX is for
    /// everything after it. `text` overrides this: a comma-separated list, or `none` for no kernels at all.
    pub fn parse(text: Option<&str>) -> Result<Option<Self>, String> {
        let text = match text.map(str::trim) {
            None | Some("") => "sm_80,sm_90a,compute_90",
            Some("none") => return Ok(None),
            Some(text) => text,
        };
        let targets = text.split(',').map(str::trim).map(|target| {
            let number = target.strip_prefix("sm_").or(target.strip_prefix("compute_")).unwrap_or(target);
            let digits = number.strip_suffix(['a', 'f']).unwrap_or(number);
            if digits.len() < 2 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!(
                    "HELIXGRAD_CUDA_ARCHS={text}: {target:?} is no target\n  what to do: give a list such as sm_80,sm_90a,compute_90, or none"
                ));
            }
            Ok(if target == number { format!("sm_{number}") } else { target.to_owned() })
        });
        Ok(Some(Self(targets.collect::<Result<_, _>>()?)))
    }

    /// The targets of one file: those ending in `_sm90.cu` use instructions that sm_90a alone has.
    pub fn of(&self, source: &Path) -> Vec<String> {
        let hopper_only = source.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_sm90"));
        let fits = |target: &&String| !hopper_only || *target == "sm_90a";
        self.0.iter().filter(fits).cloned().collect()
    }
}

/// Where `cuda_on_cpu.h` is, which kernels include on every compiler.
pub const EMULATOR: &str = "tools/cuda-on-cpu/include";

/// The arguments that decide what comes out. `-lineinfo` lets a profiler show source lines and costs nothing at run time
/// (compressed, a file is a tenth of its size); fast-math is left out because the kernels are compared with the CPU device to the last bits of f32.
pub fn flags(targets: &[String]) -> Vec<String> {
    let mut flags: Vec<String> =
        ["-fatbin", "-O3", "-std=c++17", "-lineinfo", "-Xptxas=-v", "--compress-mode=size", "-Ikernels"]
            .map(str::to_owned)
            .to_vec();
    flags.push(format!("-I{EMULATOR}"));
    for target in targets {
        let number = target.trim_start_matches("sm_").trim_start_matches("compute_");
        flags.push(format!("-gencode=arch=compute_{number},code={target}"));
    }
    flags
}

/// Compiles `source` into `fatbin`, leaving intermediate files in `scratch`, and returns what the compiler and ptxas said.
pub fn run(
    compiler: &Compiler,
    flags: &[String],
    source: &Path,
    fatbin: &Path,
    scratch: &Path,
) -> Result<String, String> {
    let output = Command::new(&compiler.path)
        .args(flags)
        .args(["--keep", "--keep-dir"])
        .arg(scratch)
        .arg("-o")
        .arg(fatbin)
        .arg(source)
        .output()
        .map_err(|error| format!("cannot run {}: {error}", compiler.path.display()))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(said.into_owned());
    }
    let complaint: Vec<&str> = said.lines().filter(|line| !line.starts_with("ptxas info")).collect();
    Err(format!("nvcc cannot compile {}:\n{}", source.display(), complaint.join("\n")))
}
