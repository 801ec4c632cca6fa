//! `genes train`: gensim's arithmetic, the same bits on any number of threads and across a kill, planted groups, what is written and refused.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use helixgrad::genes::GeneVectors;
use helixgrad::genes::skip_gram::{JobSeeds, Model, Pair, Recipe, Sampler};
use serde_json::{Value, json};

use crate::program::{Folder, helixgrad, json, refused};

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn integers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

/// The fixture's vectors come from gensim itself (`tools/gene2vec_fixture.py`). What is left are roundings of sums of products.
#[test]
fn vectors_are_those_of_gensim_with_one_worker() {
    let text = fs::read_to_string("tests/fixtures/gene2vec.json").unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    for case in cases.as_array().unwrap() {
        let real = |name: &str| case[name].as_f64().unwrap();
        let whole = |name: &str| case[name].as_u64().unwrap();
        let recipe = Recipe {
            negatives: whole("negatives") as usize,
            exponent: real("exponent"),
            sample: real("sample"),
            alpha: real("alpha"),
            min_alpha: real("min_alpha"),
            batch_words: whole("batch_words") as usize,
        };
        let start = numbers(&case["start"]);
        let mut model = Model::from_vectors(&start, whole("dimension") as usize);
        let sampler = Sampler::new(&integers(&case["counts"]), &recipe).unwrap();
        let mut seeds = JobSeeds::new(whole("seed"), 0);
        for (number, round) in case["rounds"].as_array().unwrap().iter().enumerate() {
            let genes = integers(&round["pairs"]);
            let pairs: Vec<Pair> = genes.chunks(2).map(|pair| [pair[0] as u32, pair[1] as u32]).collect();
            for (index, job) in pairs.chunks(recipe.job_pairs()).enumerate() {
                let alpha = recipe.alpha_at((index * recipe.job_pairs()) as u64, pairs.len() as u64);
                model.learn(&sampler.job(job, seeds.next_seed(), alpha));
            }
            let name = format!("{} {}", case["name"], number + 1);
            for (what, ours, theirs) in
                [("vectors", &model.input, &round["vectors"]), ("output", &model.output, &round["output"])]
            {
                let theirs = numbers(theirs);
                let largest = theirs.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                let apart = |(ours, theirs): (&f32, &f32)| (ours - theirs).abs();
                let worst = ours.values().iter().zip(&theirs).map(apart).fold(0.0, f32::max);
                eprintln!("{name}, {what}: {worst:e} apart, the largest is {largest}");
                assert!(worst <= 1e-6 * largest.max(1.0), "{name}, {what}: {worst:e} apart, the largest is {largest}");
            }
            let values = model.input.values();
            let moved = values.iter().zip(&start).map(|(now, then)| (now - then).abs()).fold(0.0, f32::max);
            assert!(moved > 1e-4, "{name}: nothing was learnt, {moved:e}");
        }
    }
}

/// A small generator, for test data alone.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Pairs of genes of one group, for the most part.
fn planted(groups: u64, size: u64, count: usize) -> String {
    let mut draw = Draw(1);
    let mut text = String::new();
    for _ in 0..count {
        let group = draw.below(groups);
        let [one, other] = [draw.below(size), draw.below(size)];
        let stranger = if draw.below(20) == 0 { draw.below(groups) } else { group };
        text += &format!("G{group}_{one} G{stranger}_{other}\n");
    }
    text
}

fn train(folder: &Folder, pairs: &str, name: &str, more: &[&str]) -> Value {
    let out = folder.path(name);
    json(&[&["genes", "train", "--pairs", pairs, "--out", &out], more].concat())
}

fn files(folder: &Folder, name: &str) -> HashMap<String, Vec<u8>> {
    let all = fs::read_dir(folder.path(name)).unwrap().map(|entry| entry.unwrap());
    let all = all.filter(|entry| entry.path().is_file() && entry.file_name() != "config.toml");
    all.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// All files but the one with times in it.
fn assert_same(folder: &Folder, one: &str, other: &str) {
    let [mut one, mut other] = [one, other].map(|name| files(folder, name));
    assert!(one.remove("run.json").is_some() && other.remove("run.json").is_some());
    assert_eq!(one.len(), 5, "{:?}", one.keys());
    assert!(one == other, "the vectors are others");
}

/// The mean cosine of pairs of one group, and of pairs of different groups.
fn cosines(path: &Path) -> (f64, f64) {
    let vectors = GeneVectors::read(path).unwrap();
    let cosine = |one: usize, other: usize| {
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let (a, b) = (vectors.vector(one), vectors.vector(other));
        product(a, b) / (product(a, a) * product(b, b)).sqrt()
    };
    let group = |index: usize| vectors.genes[index].split_once('_').unwrap().0;
    let mut sums = [(0.0, 0); 2];
    for one in 0..vectors.genes.len() {
        for other in 0..one {
            let sum = &mut sums[usize::from(group(one) != group(other))];
            *sum = (sum.0 + cosine(one, other), sum.1 + 1);
        }
    }
    (sums[0].0 / f64::from(sums[0].1), sums[1].0 / f64::from(sums[1].1))
}

const ORDERS: [(&str, &[&str]); 2] = [("in one order", &[]), ("lock-free", &["--lock-free"])];

#[test]
fn planted_groups_are_found() {
    let folder = Folder::new();
    // Enough genes for two blocks and more.
    let pairs = folder.write("pairs.txt", planted(60, 30, 60_000));
    for (name, options) in ORDERS {
        let options =
            [options, &["--dimension", "32", "--rounds", "6", "--sample", "0", "--alpha", "0.2"][..]].concat();
        let summary = train(&folder, &pairs, name, &options);
        assert_eq!(summary["genes"], 1800);
        let losses = summary["losses"].as_array().unwrap();
        assert!(losses[5].as_f64() < losses[0].as_f64(), "{name}: {losses:?}");
        let (within, between) = cosines(Path::new(&folder.path(&format!("{name}/vectors.bin"))));
        assert!(within - between > 0.5, "{name}: {within} within a group, {between} between two");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let folder = Folder::new();
    let pairs = folder.write("pairs.txt", planted(60, 30, 30_000));
    for (name, options) in ORDERS {
        for threads in ["1", "2", "3"] {
            let options = [options, &["--dimension", "24", "--rounds", "2", "--threads", threads][..]].concat();
            train(&folder, &pairs, &format!("{name} {threads}"), &options);
        }
        assert_same(&folder, &format!("{name} 1"), &format!("{name} 2"));
        assert_same(&folder, &format!("{name} 1"), &format!("{name} 3"));
        let other_seed = [options, &["--dimension", "24", "--rounds", "2", "--seed", "7"][..]].concat();
        train(&folder, &pairs, &format!("{name} seed"), &other_seed);
        let vectors = |run: &str| fs::read(folder.path(&format!("{run}/vectors.bin"))).unwrap();
        assert_ne!(vectors(&format!("{name} 1")), vectors(&format!("{name} seed")));
    }
}

#[test]
fn every_form_holds_the_same_vectors() {
    let folder = Folder::new();
    let pairs = folder.write("pairs.txt", planted(3, 5, 2000) + "G0_0 G0_0\n\n");
    let summary = train(&folder, &pairs, "run", &["--dimension", "10", "--rounds", "3"]);
    assert!(summary["input"]["with_itself"].as_u64() > Some(0));
    assert_eq!(summary["input"]["blank_lines"], 1);
    assert_eq!(summary["input"]["pairs"].as_u64().unwrap() + summary["input"]["with_itself"].as_u64().unwrap(), 2001);
    let names = ["vectors.txt", "vectors.bin", "gene2vec_dim_10_iter_3.txt", "vectors.npy", "genes.txt", "run.json"];
    assert_eq!(summary["files"], json!(names));
    let read = |name: &str| GeneVectors::read(Path::new(&folder.path(&format!("run/{name}")))).unwrap();
    let text = read(names[0]);
    assert_eq!((text.genes.len(), text.dimension), (15, 10));
    for name in &names[1..4] {
        assert_eq!(read(name), text, "{name}");
    }
    let written: Value = serde_json::from_slice(&fs::read(folder.path("run/run.json")).unwrap()).unwrap();
    assert_eq!(written, summary);
    // Two updates for each pair that was not passed over.
    let words = summary["words"].as_u64().unwrap();
    assert_eq!(words, 2 * 3 * summary["input"]["pairs"].as_u64().unwrap());
    assert_eq!(summary["updates"].as_u64().unwrap() + 2 * summary["passed_over"].as_u64().unwrap(), words);
}

#[test]
fn rare_genes_are_left_out() {
    let folder = Folder::new();
    let pairs = folder.write("pairs.txt", planted(2, 5, 500) + "RARE G0_0\nRARE G0_1\nODD G0_0\n");
    for (name, options) in ORDERS {
        let options =
            [options, &["--dimension", "4", "--rounds", "1", "--min-count", "3", "--sample", "0"][..]].concat();
        let summary = train(&folder, &pairs, name, &options);
        assert_eq!((summary["genes"].as_u64(), summary["rare_genes"].as_u64()), (Some(10), Some(2)));
        assert_eq!((summary["rare_pairs"].as_u64(), summary["passed_over"].as_u64()), (Some(3), Some(3)));
    }
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let folder = Folder::new();
    let pairs = folder.write("pairs.txt", planted(60, 30, 3000));
    for (name, options) in ORDERS {
        let options = [options, &["--dimension", "8", "--rounds", "3"][..]].concat();
        train(&folder, &pairs, name, &options);
        for kill_at in 1.. {
            let run = format!("{name}-{kill_at}");
            let out = folder.path(&run);
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_helixgrad"));
            command.args(["genes", "train", "--quiet", "--pairs", &pairs, "--out", &out]).args(&options);
            if command.env("HELIXGRAD_TEST_KILL_AT", kill_at.to_string()).output().unwrap().status.success() {
                assert!(kill_at > 20, "{kill_at} changes to the file system");
                break;
            }
            let output = helixgrad(&["genes", "train", "--resume", "--quiet", "--out", &out]);
            if !output.status.success() {
                let message = String::from_utf8_lossy(&output.stderr);
                assert!(message.contains("leave --resume out"), "{kill_at}: {message}");
                train(&folder, &pairs, &run, &options);
            }
            assert_same(&folder, name, &run);
            let left: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left.len(), 8, "{kill_at}: {left:?}");
            fs::remove_dir_all(&out).unwrap();
        }
    }
}

#[test]
fn more_rounds_go_on_from_the_last() {
    let folder = Folder::new();
    let pairs = folder.write("pairs.txt", planted(4, 10, 3000));
    train(&folder, &pairs, "whole", &["--dimension", "8", "--rounds", "4"]);
    train(&folder, &pairs, "parts", &["--dimension", "8", "--rounds", "2"]);
    let out = folder.path("parts");
    let summary = json(&["genes", "train", "--resume", "--rounds", "4", "--out", &out]);
    assert_eq!(summary["losses"].as_array().unwrap().len(), 4);
    fs::remove_file(folder.path("parts/gene2vec_dim_8_iter_2.txt")).unwrap();
    assert_same(&folder, "whole", "parts");
    for (options, finding) in [
        (&["--rounds", "3"][..], "--rounds 3, but the run in"),
        (&["--alpha", "0.5"], "--resume with other --alpha than the run"),
        (&["--seed", "5"], "--resume with other --seed than the run"),
        (&["--lock-free"], "--resume with other --lock-free than the run"),
    ] {
        let message = refused(&[&["genes", "train", "--resume", "--out", &out], options].concat());
        assert!(message.contains(finding), "{message}");
    }
    folder.write("pairs.txt", planted(4, 10, 3001));
    let message = refused(&["genes", "train", "--resume", "--out", &out]);
    assert!(message.contains("--resume with other pairs in the files than the run"), "{message}");
    folder.write("pairs.txt", planted(4, 10, 3000));
    for name in ["checkpoint/vectors.safetensors", "checkpoint/state.json"] {
        let path = folder.path(&format!("parts/{name}"));
        let sound = fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        let at = damaged.iter().rposition(|byte| byte.is_ascii_digit()).unwrap();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        let message = refused(&["genes", "train", "--resume", "--rounds", "5", "--out", &out]);
        assert!(message.contains("its checksum does not hold"), "{name}: {message}");
        fs::write(&path, sound).unwrap();
    }
}

#[test]
#[cfg(unix)]
fn a_stopped_run_keeps_what_was_done() {
    use std::io::Read;
    let folder = Folder::new();
    // Several pieces of a round in either order: of 40,000 pairs, and of a million.
    for ((name, options), count, dimension) in [(ORDERS[0], 100_000, "100"), (ORDERS[1], 2_300_000, "4")] {
        let pairs = folder.write("pairs.txt", planted(60, 30, count));
        let options = [options, &["--dimension", dimension, "--rounds", "2", "--pairs", &pairs][..]].concat();
        let whole = folder.path(&format!("{name} whole"));
        json(&[&["genes", "train", "--out", &whole], &options[..]].concat());
        let out = folder.path(name);
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_helixgrad"))
            .args(["genes", "train", "--out", &out])
            .args(&options)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The first line of progress comes with the first piece.
        let mut stderr = child.stderr.take().unwrap();
        let mut text = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&text).contains("training") && stderr.read(&mut byte).unwrap() == 1 {
            text.push(byte[0]);
        }
        let process = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
        assert!(rest.contains("go on with --resume"), "{rest}");
        let state: Value =
            serde_json::from_slice(&fs::read(folder.path(&format!("{name}/checkpoint/state.json"))).unwrap()).unwrap();
        assert!(
            state["state"]["pairs"].as_u64() > Some(0),
            "{name}: it was to be stopped in the middle of a round: {state}"
        );
        assert!(!Path::new(&folder.path(&format!("{name}/vectors.txt"))).exists());
        json(&["genes", "train", "--resume", "--out", &out]);
        assert_same(&folder, &format!("{name} whole"), name);
    }
}

/// A limit on the size of files stands in for a full disk.
#[test]
#[cfg(unix)]
fn a_full_disk_is_told_and_what_was_saved_stays() {
    let folder = Folder::new();
    let pairs = folder.write("pairs.txt", planted(10, 20, 20_000));
    let train_within = |kilobytes: u32, arguments: &[&str]| {
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", 2 * kilobytes);
        let program = env!("CARGO_BIN_EXE_helixgrad");
        let output = std::process::Command::new("sh")
            .args(["-c", &script, "sh", program, "genes", "train", "--quiet"])
            .args(arguments)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        message
    };
    let names = |run: &str| {
        let entries = fs::read_dir(folder.path(run)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    // The pairs, 160 KB of them, have no room.
    let out = folder.path("no room");
    let message = train_within(100, &["--pairs", &pairs, "--out", &out]);
    assert!(message.contains("cannot keep the pairs in a scratch file in") && message.contains("no room"), "{message}");
    assert_eq!(names("no room"), Vec::<String>::new());
    // They have, and the vectors with those that they are told apart by, 320 KB, have not.
    for (name, options) in ORDERS {
        let (out, whole) = (folder.path(name), format!("{name} whole"));
        train(&folder, &pairs, &whole, &[options, &["--rounds", "2"]].concat());
        train(&folder, &pairs, name, &[options, &["--rounds", "1"]].concat());
        let before = names(name);
        let message = train_within(200, &["--resume", "--rounds", "2", "--out", &out]);
        assert!(message.contains("cannot write") && message.contains(&out), "{message}");
        assert_eq!(names(name), before);
        json(&["genes", "train", "--resume", "--rounds", "2", "--out", &out]);
        fs::remove_file(folder.path(&format!("{name}/gene2vec_dim_200_iter_1.txt"))).unwrap();
        assert_same(&folder, &whole, name);
    }
}

#[test]
fn what_cannot_be_trained_is_refused_in_words() {
    let folder = Folder::new();
    let pairs = folder.write("pairs/a.txt", planted(2, 5, 100));
    let out = folder.path("run");
    for (options, finding) in [
        (&["--dimension", "0"][..], "--dimension 0"),
        (&["--rounds", "0"], "--rounds 0"),
        (&["--negatives", "0"], "--negatives 0"),
        (&["--exponent", "9"], "--exponent 9"),
        (&["--sample", "-1"], "--sample -1"),
        (&["--alpha", "0"], "--alpha 0"),
        (&["--alpha", "NaN"], "--alpha NaN"),
        (&["--min-alpha", "1"], "--min-alpha 1"),
        (&["--batch-words", "1"], "--batch-words 1"),
        (&["--min-count", "1000"], "0 genes that occur 1000 times or more"),
    ] {
        let message = refused(&[&["genes", "train", "--pairs", &pairs, "--out", &out], options].concat());
        assert!(message.contains(finding) && message.contains("what to do"), "{options:?}: {message}");
    }
    let bad = folder.write("bad.txt", "A B\nC D E\n");
    let message = refused(&["genes", "train", "--pairs", &pairs, &bad, "--out", &out]);
    assert!(message.contains("bad.txt, line 2: 3 fields"), "{message}");
    // Neither an input nor a folder of something else is written over.
    let inside = folder.path("pairs");
    let message = refused(&["genes", "train", "--pairs", &inside, "--out", &inside]);
    assert!(message.contains("would write over the input"), "{message}");
    folder.write("mine/notes.txt", "mine");
    let mine = folder.path("mine");
    let message = refused(&["genes", "train", "--pairs", &pairs, "--out", &mine]);
    assert!(message.contains("notes.txt") && message.contains("no folder of a run"), "{message}");
    let options = ["--dimension", "4", "--rounds", "1"];
    train(&folder, &pairs, "run", &options);
    let message = refused(&["genes", "train", "--pairs", &pairs, "--out", &out]);
    assert!(message.contains("already holds a run"), "{message}");
}
