//! Ranks that do not belong together are refused by name before the first step.

use std::process::Command;

use crate::launch::{launchers, pretraining, program, words};
use crate::program::Folder;

/// Starts two ranks, of which the second has `other` arguments, and returns what they say; nothing must be written.
fn refused(first: &[&str], second: &[&str]) -> Vec<String> {
    let mut said = Vec::new();
    for mpi in launchers() {
        let folder = Folder::new();
        let out = folder.0.path().join("run");
        let programs = [first, second].map(|extra| (1, program(&pretraining(&out, 2, 4, extra))));
        let output = mpi.command(&programs).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !message.contains("panicked"), "{}: {message}", mpi.name);
        assert!(!out.exists(), "{message}");
        said.push(message);
    }
    said
}

#[test]
fn other_options_are_named() {
    for (other, name) in [
        (&["--seed", "7"][..], "--seed"),
        (&["--masking", "bionemo"], "--masking"),
        (&["--reverse-complement"], "--reverse-complement"),
        (&["--reduce", "library"], "--reduce"),
    ] {
        for message in refused(&[], other) {
            assert!(message.contains(&format!("rank 1 has another {name} than rank 0")), "{message}");
            assert!(message.contains("start all ranks alike"), "{message}");
        }
    }
}

#[test]
fn other_data_are_named() {
    // The same name of another file: as on machines that do not share their disks.
    let folder = Folder::new();
    let sequences = |seed: usize| -> String {
        (0..40)
            .map(|line| {
                let words: Vec<String> = (0..20)
                    .map(|word| {
                        let bases: String =
                            (0..3).map(|at| "ACGT".as_bytes()[(line * 5 + word * seed + at) % 4] as char).collect();
                        bases
                    })
                    .collect();
                words.join(" ") + "\n"
            })
            .collect()
    };
    let [here, there] = [3, 5].map(|seed| folder.write(&format!("{seed}/text.txt"), sequences(seed)));
    for mpi in launchers() {
        let out = folder.path("run");
        let run = |text: &str| {
            // In the folder of the text, so that the options are the same.
            let options = [
                "pretrain",
                "--text",
                "text.txt",
                "--out",
                &out,
                "--k",
                "3",
                "--layers",
                "1",
                "--hidden",
                "32",
                "--heads",
                "2",
                "--intermediate",
                "48",
                "--max-length",
                "32",
                "--tokens-per-step",
                "128",
                "--micro-batches",
                "2",
                "--steps",
                "2",
                "--quiet",
            ];
            let parent = std::path::Path::new(text).parent().unwrap().display().to_string();
            words(&["bash", "-c", &format!("cd {parent} && exec {}", program(&words(&options)).join(" "))])
        };
        let output = mpi.command(&[(1, run(&here)), (1, run(&there))]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("rank 1 has another training data than rank 0"), "{}: {message}", mpi.name);
        assert!(!std::path::Path::new(&out).exists());
    }
}

#[test]
fn micro_batches_that_cannot_be_shared_are_refused() {
    let Some(mpi) = launchers().into_iter().next() else { return };
    let folder = Folder::new();
    let out = folder.0.path().join("run");
    for (ranks, micro_batches, says) in [(3, 4, "as 3 or 6"), (2, 6, "as 4 or 8"), (4, 2, "as 4 or 8")] {
        let output = mpi.helixgrad(ranks, &pretraining(&out, micro_batches, 4, &[])).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(says), "{ranks} {micro_batches}: {message}");
    }
    assert!(!out.exists());
}

#[test]
fn doctor_names_the_mpi_that_would_be_opened() {
    for mpi in launchers() {
        let mut command = mpi.command(&[]);
        let library = command.get_envs().find(|(name, _)| *name == "HELIXGRAD_MPI").and_then(|(_, value)| value);
        let Some(library) = library.map(std::ffi::OsStr::to_owned) else { continue };
        command = Command::new(env!("CARGO_BIN_EXE_helixgrad"));
        let output = command.args(["doctor", "--json"]).env("HELIXGRAD_MPI", &library).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = report["mpi"].as_str().unwrap();
        let name = if mpi.name.contains("Open MPI") { "Open MPI v5" } else { "MPICH 5" };
        assert!(found.starts_with(name) && found.contains(library.to_str().unwrap()), "{found}");
    }
}

/// Every process takes itself for alone: the launcher's numbers tell.
#[test]
fn a_launcher_of_another_mpi_is_found_out() {
    if launchers().is_empty() {
        return;
    }
    let folder = Folder::new();
    let out = folder.0.path().join("run");
    let arguments = program(&pretraining(&out, 2, 4, &[]));
    let library = launchers().remove(0).library;
    let mut command = Command::new(&arguments[0]);
    library.iter().for_each(|library| {
        command.env("HELIXGRAD_MPI", library);
    });
    let output = command.args(&arguments[1..]).envs([("RANK", "1"), ("WORLD_SIZE", "2")]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("torchrun says that this is rank 1 of 2"), "{message}");
    assert!(message.contains("rank 0 of 1") && message.contains("HELIXGRAD_MPI"), "{message}");
    // No MPI at all.
    let mut command = Command::new(&arguments[0]);
    command.env("HELIXGRAD_MPI", "/nowhere/libmpi.so").args(&arguments[1..]);
    let output = command.envs([("PMI_RANK", "0"), ("PMI_SIZE", "2")]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("need MPI") && message.contains("/nowhere/libmpi.so"), "{message}");
    assert!(!out.exists());
}
