//! Which files there are, and compiling only those whose inputs changed.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::nvcc;

/// One compiled file.
pub struct Compiled {
    /// Name without folder and ending, as in `layernorm`.
    pub name: String,
    pub targets: Vec<String>,
    pub fatbin: PathBuf,
    /// What nvcc and ptxas said.
    pub log: String,
}

/// The `.cu` files directly in `folder`, sorted.
pub fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut sources: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "cu"))
        .collect();
    sources.sort();
    Ok(sources)
}

/// Compiles `source` into `folder`, or takes what an earlier build left there for the same inputs.
pub fn compile(
    source: &Path,
    compiler: &nvcc::Compiler,
    targets: Vec<String>,
    folder: &Path,
) -> Result<Compiled, String> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let flags = nvcc::flags(&targets);
    let [fatbin, log_path, key_path] = ["fatbin", "log", "key"].map(|ending| folder.join(format!("{name}.{ending}")));
    let key = key(source, compiler, &flags)?;
    let kept = fs::read_to_string(&key_path).is_ok_and(|kept| kept == key) && fatbin.exists();
    let log = match fs::read_to_string(&log_path) {
        Ok(log) if kept => log,
        _ => {
            // The key goes first and comes back last, so that an interrupted build is not taken for a finished one.
            let _ = fs::remove_file(&key_path);
            let scratch = folder.join(format!("{name}.scratch"));
            let _ = fs::remove_dir_all(&scratch);
            let failed = |what: &str, error: std::io::Error| format!("cannot {what} {}: {error}", scratch.display());
            fs::create_dir_all(&scratch).map_err(|error| failed("create", error))?;
            let log = nvcc::run(compiler, &flags, source, &fatbin, &scratch)?;
            keep_ptx(&scratch, &name, &targets, folder)?;
            fs::remove_dir_all(&scratch).map_err(|error| failed("remove", error))?;
            for (path, text) in [(&log_path, &log), (&key_path, &key)] {
                fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            }
            log
        }
    };
    Ok(Compiled { name, targets, fatbin, log })
}

/// Keeps the PTX that machine code was made of, as `NAME.sm_80.ptx`: `tools/emulated-gpu` executes it in the tests.
fn keep_ptx(scratch: &Path, name: &str, targets: &[String], folder: &Path) -> Result<(), String> {
    // nvcc names the architecture in its files where there are several, and sm_80 and compute_80 are one.
    let architectures: BTreeSet<&str> = targets.iter().filter_map(|target| Some(target.split_once('_')?.1)).collect();
    let has_several = architectures.len() > 1;
    for target in targets {
        let Some(number) = target.strip_prefix("sm_") else { continue };
        let made = if has_several { format!("{name}.compute_{number}.ptx") } else { format!("{name}.ptx") };
        let (made, kept) = (scratch.join(made), folder.join(format!("{name}.{target}.ptx")));
        fs::copy(&made, &kept).map_err(|error| format!("cannot keep {}: {error}", made.display()))?;
    }
    Ok(())
}

/// Everything that the machine code depends on, hashed: compiler, flags, the file and the headers it reaches.
fn key(source: &Path, compiler: &nvcc::Compiler, flags: &[String]) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    ("with PTX", &compiler.path, &compiler.version, flags).hash(&mut hasher);
    let mut seen = BTreeSet::new();
    hash_file(source, &mut seen, &mut hasher)?;
    Ok(format!("{:016x}", hasher.finish()))
}

fn hash_file(path: &Path, seen: &mut BTreeSet<PathBuf>, hasher: &mut DefaultHasher) -> Result<(), String> {
    if !seen.insert(path.to_owned()) {
        return Ok(());
    }
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    text.hash(hasher);
    for included in includes(&text) {
        // As the compiler looks for it: beside the file, then in the -I folders. What is in none of them is CUDA's own.
        let folders = [path.parent().unwrap_or(Path::new("")), Path::new("kernels"), Path::new(nvcc::EMULATOR)];
        let candidates = folders.map(|folder| folder.join(included));
        if let Some(header) = candidates.iter().find(|candidate| candidate.exists()) {
            hash_file(header, seen, hasher)?;
        }
    }
    Ok(())
}

/// The files that `text` includes with quotes.
pub fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let rest =
            line.trim().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start().strip_prefix('"')?;
        rest.split('"').next()
    })
}
