//! What runs a launch: the kernels' C++ in the emulator, or the PTX that nvcc made of it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, thread};

use ptx_on_cpu::{Asynchronous, Counters, Launch, Module, Settings};
use serde_json::json;

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
    /// What gets a line of JSON a launch.
    counters: Option<PathBuf>,
    /// Whether the speed of each launch is told.
    speed: bool,
}

impl Engine {
    /// As the environment says, for a chip of this compute capability.
    ///
    /// # Errors
    /// A variable that cannot be read or that this engine does nothing with, or no PTX where it leads to.
    pub fn from_environment(capability: (u32, u32)) -> Result<Self, String> {
        Self::new(capability, |name| env::var_os(name))
    }

    fn new(capability: (u32, u32), variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        // An empty one is as good as none.
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let hazards = variable("EMULATED_GPU_HAZARDS").is_some_and(|value| value != "0");
        let counters = variable("EMULATED_GPU_COUNTERS").map(PathBuf::from);
        let speed = variable("EMULATED_GPU_SPEED").is_some_and(|value| value != "0");
        match variable("EMULATED_GPU_ENGINE").unwrap_or_else(|| "cpp".into()).to_string_lossy().as_ref() {
            "cpp" => {
                let needless = [("HAZARDS", hazards), ("COUNTERS", counters.is_some()), ("SPEED", speed)];
                return match needless.iter().find(|(_, is_set)| *is_set) {
                    Some((name, _)) => Err(format!(
                        "EMULATED_GPU_{name} is set, and the kernels' C++ would run, which it says nothing about: \
                         set EMULATED_GPU_ENGINE=ptx as well, or unset it"
                    )),
                    None => Ok(Self::Cpp),
                };
            }
            "ptx" => (),
            other => return Err(format!("EMULATED_GPU_ENGINE={other}: the engines are cpp and ptx")),
        }
        let folder = variable("EMULATED_GPU_PTX")
            .ok_or("EMULATED_GPU_PTX names no folder of PTX files; tools/emulated_gpu.sh sets it")?;
        let target = match capability.0 {
            9 => "sm_90a",
            _ => "sm_80",
        };
        let ptx = Ptx { speed, ..Ptx::new(Path::new(&folder), target, hazards, counters)? };
        Ok(Self::Ptx(Box::new(ptx)))
    }
}

impl Ptx {
    /// The files `NAME.TARGET.ptx` of a folder.
    fn new(folder: &Path, target: &str, hazards: bool, counters: Option<PathBuf>) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("EMULATED_GPU_PTX={}: {error}", folder.display());
        let mut files: HashMap<String, PathBuf> = HashMap::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.ends_with(&format!(".{target}.ptx")) {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(failed)?;
            for line in text.lines() {
                let Some((_, rest)) = line.split_once(".entry ") else { continue };
                let kernel = rest.trim_end_matches('(').trim();
                if let Some(other) = files.insert(kernel.to_owned(), path.clone()) {
                    return Err(format!(
                        "EMULATED_GPU_PTX={}: {} and {} have both a kernel {kernel}: remove one of them",
                        folder.display(),
                        other.display(),
                        path.display()
                    ));
                }
            }
        }
        match files.is_empty() {
            true => Err(format!("EMULATED_GPU_PTX={}: no kernel for {target} is there", folder.display())),
            false => Ok(Self { files, modules: HashMap::new(), hazards, counters, speed: false }),
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
        let settings = match self.hazards {
            true => Settings::strict(launch),
            false => Settings {
                seed: Some(launch),
                asynchronous: Asynchronous::BySeed,
                threads: thread::available_parallelism().map_or(1, std::num::NonZero::get),
                ..Settings::default()
            },
        };
        Settings { counters: self.counters.is_some(), ..settings }
    }

    /// Says how fast a launch was, where `EMULATED_GPU_SPEED` asks for it.
    pub fn tell_speed(&self, kernel: &str, counters: &Counters, took: Duration) {
        if self.speed {
            let (instructions, products) = (counters.thread_instructions, counters.tensor_multiplications);
            let seconds = took.as_secs_f64();
            eprintln!(
                "emulated GPU: {kernel}: {instructions} instructions of threads, {products} multiply-accumulates, {seconds:.4} s"
            );
        }
    }

    /// Adds a launch to the file of `EMULATED_GPU_COUNTERS`, if there is one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&self, launch: &Launch, counters: &Counters) -> Result<(), String> {
        let Some(path) = &self.counters else { return Ok(()) };
        let Launch { kernel, grid, block, cluster, dynamic_shared, .. } = launch;
        let line = json!({
            "kernel": kernel, "grid": grid, "block": block, "cluster": cluster, "dynamic_shared": dynamic_shared,
            "counters": counters,
        });
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        // One write: other processes may append, too.
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
            .map_err(|error| format!("EMULATED_GPU_COUNTERS={}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str =
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry nothing(\n)\n{ bar.sync 0; ret; }\n";

    fn folder(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("emulated-gpu-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("nothing.sm_80.ptx"), NOTHING).unwrap();
        folder
    }

    /// The engine of these variables, in words where there is none.
    fn engine(variables: &[(&str, &str)]) -> Result<Engine, String> {
        let find = |name: &str| variables.iter().find(|(known, _)| format!("EMULATED_GPU_{known}") == name);
        Engine::new((8, 0), |name| find(name).map(|(_, value)| value.into()))
    }

    #[test]
    fn variables_that_would_do_nothing_are_refused() {
        for variables in [&[][..], &[("ENGINE", "")], &[("HAZARDS", "0")], &[("ENGINE", "cpp"), ("COUNTERS", "")]] {
            assert!(matches!(engine(variables), Ok(Engine::Cpp)), "{variables:?}");
        }
        for (variables, name) in [
            (&[("HAZARDS", "1")][..], "EMULATED_GPU_HAZARDS"),
            (&[("ENGINE", "cpp"), ("COUNTERS", "c.jsonl")], "EMULATED_GPU_COUNTERS"),
        ] {
            let why = engine(variables).err().unwrap();
            assert!(why.contains(name) && why.contains("set EMULATED_GPU_ENGINE=ptx"), "{why}");
        }
        assert!(engine(&[("ENGINE", "cuda")]).err().unwrap().contains("the engines are"));
        assert!(engine(&[("ENGINE", "ptx")]).err().unwrap().contains("EMULATED_GPU_PTX names no folder"));
    }

    #[test]
    fn a_kernel_is_in_one_file() {
        let folder = folder("twice");
        let path = folder.to_str().unwrap();
        let variables = [("ENGINE", "ptx"), ("PTX", path), ("COUNTERS", "")];
        let Ok(Engine::Ptx(ptx)) = engine(&variables) else { panic!("one file is right") };
        let settings = ptx.settings(1);
        assert!(!settings.counters && !settings.hazards && settings.asynchronous == Asynchronous::BySeed);
        fs::write(folder.join("other.sm_80.ptx"), NOTHING).unwrap();
        let why = engine(&variables).err().unwrap();
        assert!(why.contains("nothing.sm_80.ptx") && why.contains("other.sm_80.ptx"), "{why}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn each_launch_is_a_line() {
        let folder = folder("counters");
        let path = folder.join("counters.jsonl");
        let mut engine = Ptx::new(&folder, "sm_80", false, Some(path.clone())).unwrap();
        let module = engine.module("nothing").unwrap();
        for blocks in [1u32, 3] {
            let launch = Launch {
                kernel: "nothing".into(),
                grid: [blocks, 1, 1],
                block: [64, 1, 1],
                cluster: [1; 3],
                dynamic_shared: 0,
                parameters: Vec::new(),
            };
            let settings = engine.settings(1);
            let counters = ptx_on_cpu::run(&module, &launch, &ptx_on_cpu::Memory::new(), &settings).unwrap();
            engine.record(&launch, &counters).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[1]["kernel"], &lines[1]["grid"]), (&"nothing".into(), &json!([3, 1, 1])));
        assert_eq!(lines[1]["counters"]["total"]["barrier_waits"], 6);
        engine.counters = None;
        assert!(!engine.settings(1).counters);
        fs::remove_dir_all(folder).unwrap();
    }
}
