//! The folders of runs: at whatever moment a run is killed, it can be gone on with or begun anew, and ends with the same bits.

#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs a command, killed (as `kill -9` does) at its `kill_at`th change to the file system.
fn helixgrad(arguments: &[&str], kill_at: Option<u64>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_helixgrad"));
    command.args(arguments).args(["--quiet", "--threads", "1"]);
    kill_at.into_iter().for_each(|number| {
        command.env("HELIXGRAD_TEST_KILL_AT", number.to_string());
    });
    command.output().unwrap()
}

fn succeeds(arguments: &[&str]) {
    let output = helixgrad(arguments, None);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn copy(from: &Path, to: &Path) {
    if !from.exists() {
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let to = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            fs::copy(&entry, &to).unwrap();
        }
    }
}

/// Kills `begin` at every change, then goes on with one copy of what is left, and begins another one anew. What is written is a folder, or
/// the file `out` in one. `results` are the files that must be those of a run that nobody killed. Returns how often it was killed.
fn killed_everywhere(begin: &[&str], resume: &[&str], out: Option<&str>, results: &[&str], is_log: bool) -> u64 {
    let file = out;
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let at = |arguments: &[&str], out: &Path| -> Vec<String> {
        let out = match file {
            Some(file) => {
                fs::create_dir_all(out).unwrap();
                out.join(file)
            }
            None => out.to_owned(),
        };
        arguments.iter().map(|word| word.to_string()).chain(["--out".into(), out.to_str().unwrap().into()]).collect()
    };
    let run = |arguments: &[&str], out: &Path, kill_at| {
        let arguments = at(arguments, out);
        helixgrad(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), kill_at)
    };
    assert!(run(begin, &whole, None).status.success());
    for kill_at in 1.. {
        let [killed, resumed] = ["killed", "resumed"].map(|name| folder.path().join(format!("{name}-{kill_at}")));
        let output = run(begin, &killed, Some(kill_at));
        if output.status.success() {
            return kill_at - 1;
        }
        assert_eq!(output.status.signal(), Some(9), "{kill_at}: {}", String::from_utf8_lossy(&output.stderr));
        copy(&killed, &resumed);
        let mut done = 0;
        for (arguments, out, may_say) in
            [(resume, &resumed, "leave --resume out"), (begin, &killed, "go on with it (--resume)")]
        {
            let output = run(arguments, out, None);
            let message = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() {
                assert!(
                    output.status.code() == Some(2) && (message.contains(may_say) || message.contains("already holds")),
                    "killed at {kill_at}, then {arguments:?}: {message}"
                );
                continue;
            }
            done += 1;
            for result in results {
                let [expected, found] = [&whole, out].map(|run| fs::read(run.join(result)).unwrap());
                assert!(expected == found, "killed at {kill_at}, then {arguments:?}: another {result}");
            }
            if is_log {
                let steps = |run: &Path| -> Vec<u64> {
                    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
                    log.lines()
                        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
                        .collect()
                };
                assert_eq!(steps(out), steps(&whole), "killed at {kill_at}");
            }
            let names = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let debris: Vec<_> = names.filter(|name| name.starts_with('.') || name.ends_with(".partial")).collect();
            assert!(debris.is_empty(), "killed at {kill_at}, then {arguments:?}: {debris:?}");
        }
        let is_finished = results.iter().all(|result| killed.join(result).is_file());
        assert!(done > 0 || is_finished, "killed at {kill_at}: neither --resume nor a new start takes the folder");
    }
    unreachable!()
}

/// A table of 16 windows of two classes.
fn table(folder: &Path) -> String {
    let row = |index: usize| {
        let bases: String = (0..30).map(|at| b"ACGT"[(index * index + at * (index % 2 + 1)) % 4] as char).collect();
        format!("{bases},{}\n", index % 2)
    };
    let path = folder.join("x.csv");
    fs::write(&path, format!("sequence,label\n{}", (0..16).map(row).collect::<String>())).unwrap();
    path.to_str().unwrap().to_owned()
}

const TINY: [&str; 12] =
    ["--layers", "1", "--hidden", "8", "--heads", "2", "--intermediate", "8", "--k", "3", "--batch", "8"];

#[test]
fn a_fine_tuning_that_is_killed_anywhere_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let data = table(folder.path());
    let begin =
        [&["finetune", "--data", &data, "--dev", &data, "--epochs", "2", "--early-stop", "2"][..], &TINY].concat();
    let kills = killed_everywhere(&begin, &["finetune", "--resume"], None, &["model.safetensors", "config.json"], true);
    assert!(kills > 60, "{kills}");
}

#[test]
fn a_training_of_adapters_that_is_killed_anywhere_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let data = table(folder.path());
    let init = folder.path().join("init").to_str().unwrap().to_owned();
    succeeds(&[&["finetune", "--data", &data, "--out", &init, "--epochs", "1"][..], &TINY].concat());
    let begin = ["finetune", "--data", &data, "--init", &init, "--lora", "2", "--epochs", "2", "--batch", "8"];
    let written =
        ["model.safetensors", "config.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"];
    let kills = killed_everywhere(&begin, &["finetune", "--resume"], None, &written, true);
    assert!(kills > 50, "{kills}");
}

#[test]
fn a_cross_validation_that_is_killed_anywhere_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let data = table(folder.path());
    let begin = [&["finetune", "--data", &data, "--folds", "2", "--epochs", "1"][..], &TINY].concat();
    let kills = killed_everywhere(
        &begin,
        &["finetune", "--resume"],
        None,
        &["predictions.tsv", "cross_validation.json"],
        false,
    );
    assert!(kills > 60, "{kills}");
}

#[test]
fn a_pretraining_that_is_killed_anywhere_is_not_lost() {
    let genome = format!("{}/sample/grch37_X_46M-56M.2bit", env!("CARGO_MANIFEST_DIR"));
    let sizes = "--k 3 --layers 1 --hidden 8 --heads 2 --intermediate 8 --max-length 24 --tokens-per-step 48 --steps 2 --save-every 1 \
                 --keep 1 --log-every 1 --warmup 1";
    let begin = [&["pretrain", "--genome", &genome][..], &sizes.split_whitespace().collect::<Vec<_>>()].concat();
    let kills = killed_everywhere(&begin, &["pretrain", "--resume"], None, &["model.safetensors"], true);
    assert!(kills > 40, "{kills}");
}

/// A model of donors and acceptors, and a genome of 630 bases.
fn model_and_genome(folder: &Path) -> [String; 2] {
    let text = fs::read_to_string(table(folder)).unwrap().replace(",0\n", ",donor\n").replace(",1\n", ",acceptor\n");
    let [data, model, fasta, genome] =
        ["n.csv", "model", "g.fa", "g.2bit"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    fs::write(&data, text).unwrap();
    succeeds(&[&["finetune", "--data", &data, "--out", &model, "--epochs", "1"][..], &TINY].concat());
    fs::write(&fasta, format!(">c\n{}\n", "ACGGTAAGTCCATTGACAGGT".repeat(30))).unwrap();
    succeeds(&["genome", "pack", &fasta, &genome]);
    [model, genome]
}

#[test]
fn a_scan_that_is_killed_anywhere_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let [model, genome] = model_and_genome(folder.path());
    let begin = ["scan", "--model", &model, "--genome", &genome, "--min-score", "0", "--min-track-score", "0"];
    let results = ["sites.bed", "donor_plus.bedgraph"];
    let kills = killed_everywhere(&begin, &["scan", "--resume"], None, &results, false);
    assert!(kills > 20, "{kills}");
}

#[test]
fn a_scoring_that_is_killed_anywhere_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let [model, genome] = model_and_genome(folder.path());
    let vcf = folder.path().join("in.vcf").to_str().unwrap().to_owned();
    let sequence = "ACGGTAAGTCCATTGACAGGT".repeat(30);
    let changes: String = (200..260)
        .map(|at| {
            let reference = &sequence[at - 1..at];
            format!("c\t{at}\t.\t{reference}\t{}\t.\t.\t.\n", if reference == "A" { "C" } else { "A" })
        })
        .collect();
    let header = "##fileformat=VCFv4.2\n##contig=<ID=c>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n";
    fs::write(&vcf, header.to_owned() + &changes).unwrap();
    let common = ["variants", "--model", &model, "--genome", &genome];
    for (input, out, results) in [
        (["--vcf", &vcf], "out.vcf", &["out.vcf"][..]),
        (["--saturation", "c:200-230"], "out.tsv", &["out.tsv", "out.html"]),
    ] {
        let begin = [&common[..], &input].concat();
        let kills = killed_everywhere(&begin, &["variants", "--resume"], Some(out), results, false);
        assert!(kills > 10, "{out}: {kills}");
    }
}

/// What an interrupted session has seen of an epoch counts in the epoch's figures.
#[test]
fn an_epoch_that_was_interrupted_has_the_figures_of_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..4000).map(|i| format!("{},{}\n", "ACGTTGCATC".repeat(3 + i % 3), i % 2)).collect();
    let [data, whole, broken] =
        ["x.csv", "whole", "broken"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    fs::write(&data, format!("sequence,label\n{rows}")).unwrap();
    let begin = |out: &str| -> Vec<String> {
        let words = ["finetune", "--data", &data, "--epochs", "3", "--threads", "1", "--quiet", "--out", out];
        words.iter().chain(&TINY).map(|word| word.to_string()).collect()
    };
    let run = |arguments: &[String]| {
        Command::new(env!("CARGO_BIN_EXE_helixgrad")).args(arguments).stdout(Stdio::null()).spawn().unwrap()
    };
    let started = Instant::now();
    assert!(run(&begin(&whole)).wait().unwrap().success());
    let epoch = started.elapsed() / 3;
    let mut child = run(&begin(&broken));
    let log = Path::new(&broken).join("metrics.jsonl");
    let deadline = Instant::now() + Duration::from_secs(120);
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < 1 {
        assert!(Instant::now() < deadline, "the run did not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(epoch / 3);
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(matches!(child.wait().unwrap().code(), Some(130 | 0)));
    succeeds(&["finetune", "--resume", "--out", &broken]);
    let figures = |run: &str| -> Vec<Value> {
        let log = fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap();
        let keep = |line: &str| {
            let mut point: Value = serde_json::from_str(line).unwrap();
            ["tokens_per_second", "mfu"].iter().for_each(|key| drop(point.as_object_mut().unwrap().remove(*key)));
            point
        };
        log.lines().map(keep).collect()
    };
    assert_eq!(figures(&whole), figures(&broken));
}

/// A run of months says so when its first part is done, and Ctrl-C ends a step that would take minutes.
#[test]
fn a_step_of_minutes_tells_its_parts_and_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let genome = format!("{}/sample/grch37_X_46M-56M.2bit", env!("CARGO_MANIFEST_DIR"));
    let sizes = "--preset splice-small --tokens-per-step 16777216 --micro-batches 4096 --steps 1000000 --max-length 128 --threads 1";
    let mut child = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
        .args(["pretrain", "--genome", &genome, "--out", out.to_str().unwrap()])
        .args(sizes.split_whitespace())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let warning = lines.by_ref().find(|line| line.contains("the whole run will take about")).unwrap();
    assert!(warning.contains("lower --steps or --tokens-per-step"), "{warning}");
    let part = lines.by_ref().find(|line| line.contains(" done")).unwrap();
    assert!(part.contains("step 1: part ") && part.contains("of 4096"), "{part}");
    std::thread::sleep(Duration::from_secs(2));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let asked = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if asked.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("a request to stop is not heeded inside a step");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let rest: String = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("before the first one of this session was done"), "{rest}");
    assert!(!out.exists(), "nothing was written");
}

/// What is out of range, or no file that can be read again and again, is told as everything else is.
#[test]
fn slips_get_the_usual_message() {
    let folder = tempfile::tempdir().unwrap();
    let genome = format!("{}/sample/grch37_X_46M-56M.2bit", env!("CARGO_MANIFEST_DIR"));
    let [out, config, fifo] =
        ["run", "c.toml", "fifo"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let refused = |arguments: &[&str]| {
        let output = helixgrad(&[&["pretrain", "--genome", &genome, "--out", &out][..], arguments].concat(), None);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        message
    };
    for (text, place, found) in [
        ("steps = \"many\"\n", "c.toml, key \"steps\": \"many\" is no value", "what to do: invalid digit"),
        ("masking = \"some\"\n", "c.toml, key \"masking\": \"some\" is no value", "what to do: choose from dnabert"),
        ("steps = -3\n", "c.toml, key \"steps\": \"-3\" is no value", "what to do:"),
    ] {
        fs::write(&config, text).unwrap();
        let message = refused(&["--config", &config]);
        assert!(message.contains(place) && message.contains(found), "{message}");
    }
    let message = refused(&["--learning-rate", "-1"]);
    assert!(message.contains("rates are 0 or more"), "{message}");
    assert!(refused(&["--steps", "-1"]).contains("invalid value '-1' for '--steps"), "{message}");
    assert!(refused(&["--mask-probability", "1e-12"]).contains("hardly any step would hide one"));
    assert!(refused(&["--eval-batches", "0"]).contains("--eval-batches"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let output = helixgrad(&["pretrain", "--text", &fifo, "--out", &out, "--preset", "splice-small"], None);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(2) && message.contains("a pipe or a device") && message.contains("what to do"),
        "{message}"
    );
    assert!(!Path::new(&out).exists());
}
