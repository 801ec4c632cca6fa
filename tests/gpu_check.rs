//! `tools/gpu_check.sh` with stand-ins for the programs that it starts: its order, its clock, and what it makes of programs that hang, trap or
//! are wrong. What it does with the real ones is seen by `tools/emulated_gpu.sh tools/gpu_check.sh --rehearse`.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

struct Check {
    folder: TempDir,
    settings: Vec<(&'static str, &'static str)>,
}

impl Check {
    /// The folder that tools/gpu_pack.sh would make, of stand-ins; none where there is no Python to make tables with.
    fn new(settings: &[(&'static str, &'static str)]) -> Option<Self> {
        if Command::new("python3").arg("--version").output().is_err() {
            eprintln!("skipped: tools/gpu_check.sh wants python3");
            return None;
        }
        let (folder, root) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")));
        for script in ["gpu_check.sh", "bench_table.py"] {
            fs::copy(root.join("tools").join(script), folder.path().join(script)).unwrap();
        }
        for program in ["helixgrad", "test-kernels", "test-devices", "bench-all", "python"] {
            symlink(root.join("tests/gpu_check/stand_in.sh"), folder.path().join(program)).unwrap();
        }
        Some(Self { folder, settings: settings.to_vec() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs it: whether all was right, and what it printed.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(self.path("gpu_check.sh"));
        command.args(arguments).current_dir(self.folder.path());
        command.env("CALLS", self.path("calls")).env("PYTHON", self.path("python")).env("HELIXGRAD_CHECK_OUT", "out");
        command.envs(self.settings.iter().copied());
        let output = command.output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.stderr.is_empty(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
        (output.status.success(), printed)
    }

    /// `(name, how it ended)` of each answer, in order.
    fn answers(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.path("out/answers.tsv")).unwrap();
        let field = |line: &str, index| line.split('\t').nth(index).unwrap().to_owned();
        text.lines().map(|line| (field(line, 0), field(line, 1))).collect()
    }

    /// How a question was answered last.
    fn ended(&self, name: &str) -> String {
        let answers = self.answers();
        answers.iter().rfind(|answer| answer.0 == name).unwrap_or_else(|| panic!("no {name} in {answers:?}")).1.clone()
    }
}

#[test]
fn everything_is_answered_in_its_order() {
    let Some(check) = Check::new(&[]) else { return };
    let (right, printed) = check.run(&[]);
    assert!(right, "{printed}");
    let answers = check.answers();
    assert!(answers.iter().all(|(_, ended)| ended == "ok"), "{answers:?}");
    let place = |name: &str| answers.iter().position(|answer| answer.0 == name).unwrap_or_else(|| panic!("no {name}"));
    // Hopper's products first, a process a test; then a process a file; then whole steps, their time, PyTorch's, and benches.
    let order = [
        "driver",
        "gemm_sm90::long",
        "gemm_sm90::short",
        "attention_sm90::long",
        "layernorm",
        "golden::bf16_is_as_close_to_pytorch_as_pytorch",
        "hopper_kernels_train_as_the_cpu_does",
        "step",
        "step-own-single",
        "step-cublaslt",
        "step-sm90-split",
        "steps are the same",
        "torch",
        "torch-compiled",
        "bench-gemm",
    ];
    assert!(order.is_sorted_by_key(|name| place(name)), "{answers:?}");
    assert!(!answers.iter().any(|answer| answer.0 == "machine"), "what is about the emulator alone");
    let calls = fs::read_to_string(check.path("calls")).unwrap();
    for tests in ["layernorm::any layernorm::other", "norm::any"] {
        assert!(calls.contains(&format!("test-kernels --exact {tests} --test-threads 1")), "{tests} in {calls}");
    }

    // The table: 40 and 1 ms planned, of which an instruction bound makes 44 and 1; PyTorch's best of 125 and 100 ms.
    let table = fs::read_to_string(check.path("out/table.md")).unwrap();
    let cells = |name: &str| -> Vec<String> {
        let line =
            table.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap_or_else(|| panic!("{table}"));
        line.split('|').skip(2).map(|cell| cell.trim().to_owned()).collect()
    };
    let step = "step, dnabert-6, full beside PyTorch compiled";
    assert_eq!(cells(step)[1..7], ["45.000", "62.500", "1.39", "44.000", "100.000", "1.60"]);
    assert_eq!(cells("gemm_nt")[..5], ["4", "44.000", "55.000", "1.25", "44.000"]);
    assert_eq!(cells("gemm/qkv/forward beside cuBLASLt through torch")[2..7], ["0.250", "", "0.200", "0.500", "2.00"]);
    cells("gemm/qkv/forward, clusters");
    assert!(printed.trim_end().ends_with("1 more rows in table.md: other ways to compute the same"), "{printed}");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(check.path("out/table.json")).unwrap()).unwrap();
    assert_eq!((&json["predicted_for"], &json["rows"][0]["ratio"]), (&"H200".into(), &1.6.into()));
    assert!(check.path("out/logs.tar.gz").is_file());

    // The second call starts nothing of it again.
    fs::remove_file(check.path("calls")).unwrap();
    assert!(check.run(&["more"]).0);
    let calls = fs::read_to_string(check.path("calls")).unwrap();
    let again = ["sm90::", "layernorm::", "f32_trains", "work::", "--gemm", "--compile", "bench-all gemm"];
    assert!(!again.iter().any(|call| calls.contains(call)), "{calls}");
    for call in [
        "a_thousand_steps --include-ignored",
        "finetune",
        "--mix dnabert",
        "--lengths 2048,16384",
        "bench-all adamw",
        "ops",
    ] {
        assert!(calls.contains(call), "{call} in {calls}");
    }
}

#[test]
fn what_hangs_traps_or_is_wrong_takes_nobody_along() {
    let Some(check) = Check::new(&[
        ("HELIXGRAD_CHECK_LIMIT", "5"),
        ("HANGS", "gemm_sm90::long"),
        ("TRAPS", "attention_sm90::short"),
        ("FAULTS", "tanh::"),
        ("FAILS", "layernorm::"),
    ]) else {
        return;
    };
    let (right, printed) = check.run(&[]);
    assert!(!right);
    let found =
        ["gemm_sm90::long", "gemm_sm90::short", "attention_sm90::short", "attention_sm90::long", "tanh", "layernorm"]
            .map(|name| check.ended(name));
    assert_eq!(found, ["HANG", "left out", "CRASH", "ok", "CRASH", "FAILED"], "{printed}");
    for line in [
        "attention_sm90::short (0 s): layernorm: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)",
        "layernorm (0 s): 0.5 instead of 0.25",
        "HANG: 1: gemm_sm90::long\n",
        "CRASH: 2: attention_sm90::short tanh\n",
    ] {
        assert!(printed.contains(line), "{line} in {printed}");
    }
    assert!(!printed.contains("cannot be killed"), "{printed}");
    // Products of Hopper's kernels are timed no more; what does without them is.
    let found = ["step", "step-cublaslt", "step-sm90-split", "bench-gemm", "bench-attention", "torch-compiled"]
        .map(|name| check.ended(name));
    assert_eq!(found, ["left out", "ok", "ok", "left out", "ok", "ok"], "{printed}");
    let calls = fs::read_to_string(check.path("calls")).unwrap();
    assert!(calls.lines().all(|call| !call.contains("sm90-split") || call.contains("--gemm cublaslt")), "{calls}");
}

/// Whatever finds no room in the time is named, nothing outlives it, and the second call goes on there.
#[test]
fn what_finds_no_room_is_named_and_done_by_the_second_call() {
    let Some(mut check) = Check::new(&[("NAP", "1.2"), ("HELIXGRAD_CHECK_SECONDS", "27")]) else { return };
    let started = Instant::now();
    let (right, printed) = check.run(&["hopper", "time", "torch", "benches"]);
    assert!(started.elapsed() < Duration::from_secs(27), "{:?}", started.elapsed());
    assert!(right, "{printed}");
    let found = ["gemm_sm90::long", "step-sm90-split", "torch", "bench-gemm"].map(|name| check.ended(name));
    assert_eq!(found, ["ok", "cut", "cut", "cut"], "{printed}");
    assert!(printed.contains("torch torch-compiled bench-gemm"), "the cut are named: {printed}");
    check.settings = vec![("HELIXGRAD_CHECK_SECONDS", "60")];
    assert!(check.run(&["more"]).0);
    for name in ["step-sm90-split", "torch", "bench-gemm", "layernorm", "pretrain-bf16"] {
        assert_eq!(check.ended(name), "ok", "{name}");
    }
}

#[test]
fn steps_that_differ_are_told() {
    let Some(check) = Check::new(&[]) else { return };
    let report = |name: &str, norm: f64| {
        let text = format!("{{\"loss\": 8.25, \"gradient_norm\": {norm}}}");
        fs::write(check.path(name), text).unwrap();
    };
    let same = |names: &[&str]| {
        let mut command = Command::new("python3");
        command.args(["bench_table.py", "same"]).args(names).current_dir(check.folder.path()).output().unwrap()
    };
    for (name, norm) in [("a", 1.5), ("b", 1.501), ("c", 1.6)] {
        report(name, norm);
    }
    assert!(same(&["a", "b"]).status.success());
    let output = same(&["a", "b", "c"]);
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("farther apart"),
        "{output:?}"
    );
}

#[test]
fn what_is_no_stage_is_refused_with_the_stages() {
    let Some(check) = Check::new(&[]) else { return };
    let output = Command::new(check.path("gpu_check.sh")).arg("kernel").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("gpu_check.sh more"));
}
