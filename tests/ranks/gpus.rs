//! Ranks with a GPU each, through NCCL: on the emulated one (`HELIXGRAD_TEST_DEVICE=cuda tools/emulated_gpu.sh cargo test --test ranks -- gpus`),
//! or on a machine with several.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::launch::{assert_same, pretraining, words};
use crate::program::Folder;

/// Whether there are GPUs, emulated or not; says so where there are none.
fn are_there() -> bool {
    let there = std::env::var("HELIXGRAD_TEST_DEVICE").is_ok_and(|device| device == "cuda");
    if !there {
        eprintln!("skipped: no GPUs (HELIXGRAD_TEST_DEVICE=cuda)");
    }
    there
}

/// A pretraining of few tokens: an emulated GPU is slow.
fn tiny(out: &Path, micro_batches: usize, extra: &[&str]) -> Vec<String> {
    let mut arguments = pretraining(out, micro_batches, 4, &[extra, &["--device", "cuda"]].concat());
    let tokens = arguments.iter().position(|word| word == "--tokens-per-step").unwrap();
    arguments[tokens + 1] = "256".into();
    arguments
}

fn program(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_helixgrad"));
    command.args(arguments).args(["--threads", "1"]).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Starts ranks by the variables that a launcher would set.
fn start(ranks: usize, arguments: &[String]) -> Vec<Child> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        let mut command = program(arguments);
        command.env("HELIXGRAD_RANK", rank.to_string()).env("HELIXGRAD_RANKS", ranks.to_string());
        command.env("HELIXGRAD_LOCAL_RANKS", ranks.to_string()).env("HELIXGRAD_ADDRESS", format!("127.0.0.1:{port}"));
        // An emulated GPU is its process' own.
        command.env("CUDA_VISIBLE_DEVICES", rank.to_string()).spawn().unwrap()
    };
    (0..ranks).map(start).collect()
}

fn by(ranks: usize, arguments: &[String]) {
    for child in start(ranks, arguments) {
        succeeds(&child.wait_with_output().unwrap());
    }
}

#[test]
fn ranks_with_a_gpu_each_train_as_one_does() {
    if !are_there() {
        return;
    }
    let folder = Folder::new();
    for (name, micro_batches, ranks, extra) in [
        ("f32", 4, &[2, 4][..], &["--dtype", "f32"][..]),
        ("bf16", 4, &[2], &["--dtype", "bf16"]),
        ("graphs", 4, &[2], &["--dtype", "bf16", "--cuda-graphs"]),
        ("three", 3, &[3], &["--dtype", "bf16"]),
    ] {
        let whole = folder.0.path().join(name);
        succeeds(&program(&tiny(&whole, micro_batches, extra)).output().unwrap());
        for ranks in ranks {
            let out = folder.0.path().join(format!("{name}-{ranks}"));
            by(*ranks, &tiny(&out, micro_batches, extra));
            assert_same(&out, &whole, &format!("{name}: {ranks} ranks"));
        }
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_gpus() {
    if !are_there() {
        return;
    }
    let folder = Folder::new();
    let [whole, out] = ["whole", "stages"].map(|name| folder.0.path().join(name));
    succeeds(&program(&tiny(&whole, 2, &[])).output().unwrap());
    by(2, &tiny(&out, 2, &[]));
    let _ = std::fs::remove_dir_all(out.join("checkpoint-00000004"));
    let resume = words(&["pretrain", "--resume", "--out", out.to_str().unwrap(), "--quiet"]);
    succeeds(&program(&resume).output().unwrap());
    assert_same(&out, &whole, "2, then 1");
}

/// NCCL waits for a rank that is gone for ever: the others end all the same, and say which it was.
#[test]
fn the_others_end_when_a_rank_is_killed() {
    if !are_there() {
        return;
    }
    let folder = Folder::new();
    let out = folder.0.path().join("run");
    let mut arguments = tiny(&out, 3, &[]);
    let steps = arguments.iter().position(|word| word == "--steps").unwrap();
    arguments[steps + 1] = "4000".into();
    let mut children = start(3, &arguments);
    while !out.join("metrics.jsonl").is_file() {
        std::thread::sleep(Duration::from_millis(20));
        assert!(children[1].try_wait().unwrap().is_none());
    }
    children[1].kill().unwrap();
    for (rank, child) in children.into_iter().enumerate().filter(|(rank, _)| *rank != 1) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "rank {rank}: {said}");
        assert!(said.contains("rank 1 (") && said.contains("it was killed, or has crashed"), "rank {rank}: {said}");
    }
}

#[test]
fn two_ranks_with_one_gpu_are_refused() {
    if !are_there() {
        return;
    }
    let folder = Folder::new();
    let arguments = tiny(&folder.0.path().join("run"), 2, &[]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        let mut command = program(&arguments);
        command.env("RANK", rank.to_string()).envs([("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")]);
        command.env("LOCAL_RANK", "0").env("MASTER_PORT", port.to_string()).env("CUDA_VISIBLE_DEVICES", "0");
        command.spawn().unwrap()
    };
    let outputs = [0, 1].map(start).map(|child| child.wait_with_output().unwrap());
    let said = outputs.map(|output| {
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    });
    assert!(said[1].contains("ranks 0 and 1 both have cuda:0") && said[1].contains("as many ranks"), "{said:?}");
}
