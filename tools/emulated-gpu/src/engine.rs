//! What runs a launch: the kernels' C++ in the emulator, or the PTX that nvcc made of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs, thread};

use ptx_on_cpu::{Module, Settings};

/// The engine of `EMULATED_GPU_ENGINE`.
pub enum Engine {
    /// `cpp`: every thread a coroutine, inline instructions as functions.
    Cpp,
    /// `ptx`: what the compiler made, instruction by instruction.
    Ptx(Box<Ptx>),
}

/// The PTX of a folder.
pub struct Ptx {
    /// File of each kernel.
    files: HashMap<String, PathBuf>,
    modules: HashMap<PathBuf, Arc<Module>>,
    hazards: bool,
}

impl Engine {
    /// As the environment says, for a chip of this compute capability.
    ///
    /// # Errors
    /// A variable that cannot be read, or no PTX where it leads to.
    pub fn from_environment(capability: (u32, u32)) -> Result<Self, String> {
        match env::var("EMULATED_GPU_ENGINE").as_deref() {
            Err(_) | Ok("" | "cpp") => return Ok(Self::Cpp),
            Ok("ptx") => (),
            Ok(other) => return Err(format!("EMULATED_GPU_ENGINE={other}: the engines are cpp and ptx")),
        }
        let folder = env::var_os("EMULATED_GPU_PTX")
            .ok_or("EMULATED_GPU_PTX names no folder of PTX files; tools/emulated_gpu.sh sets it")?;
        let hazards = matches!(env::var("EMULATED_GPU_HAZARDS").as_deref(), Ok(value) if !matches!(value, "" | "0"));
        let target = match capability.0 {
            9 => "sm_90a",
            _ => "sm_80",
        };
        Ptx::new(Path::new(&folder), target, hazards).map(|ptx| Self::Ptx(Box::new(ptx)))
    }
}

impl Ptx {
    /// The files `NAME.TARGET.ptx` of a folder.
    fn new(folder: &Path, target: &str, hazards: bool) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("EMULATED_GPU_PTX={}: {error}", folder.display());
        let mut files = HashMap::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.ends_with(&format!(".{target}.ptx")) {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(failed)?;
            for line in text.lines() {
                let Some((_, rest)) = line.split_once(".entry ") else { continue };
                files.insert(rest.trim_end_matches('(').trim().to_owned(), path.clone());
            }
        }
        match files.is_empty() {
            true => Err(format!("EMULATED_GPU_PTX={}: no kernel for {target} is there", folder.display())),
            false => Ok(Self { files, modules: HashMap::new(), hazards }),
        }
    }

    /// The module with this kernel, parsed when it is first asked for.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn module(&mut self, kernel: &str) -> Result<Arc<Module>, String> {
        let path = self.files.get(kernel).ok_or_else(|| format!("no PTX file has a kernel {kernel}"))?;
        if let Some(module) = self.modules.get(path) {
            return Ok(Arc::clone(module));
        }
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let module = Arc::new(Module::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?);
        self.modules.insert(path.clone(), Arc::clone(&module));
        Ok(module)
    }

    /// How the launch of this number is run.
    pub fn settings(&self, launch: u64) -> Settings {
        match self.hazards {
            true => Settings::strict(launch),
            false => Settings {
                seed: Some(launch),
                threads: thread::available_parallelism().map_or(1, std::num::NonZero::get),
                ..Settings::default()
            },
        }
    }
}
