//! Runs of the binary on the shipped sample: training, resuming, checkpoints, predictions, bad input.

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use program::{Folder, helixgrad, json, refused};

fn sample() -> String {
    format!("{}/sample/grch37_X_46M-56M.2bit", env!("CARGO_MANIFEST_DIR"))
}

fn annotation() -> String {
    format!("{}/sample/grch37_X_46M-56M.gff3.gz", env!("CARGO_MANIFEST_DIR"))
}

/// A pretraining of seconds, with dropout, micro-batches, evaluation and masking on.
fn pretrain(out: &str, extra: &[&str]) -> Value {
    let genome = sample();
    let tiny = [
        "pretrain",
        "--genome",
        &genome,
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
        "384",
        "--micro-batches",
        "2",
        "--learning-rate",
        "1e-3",
        "--log-every",
        "2",
        "--eval-every",
        "4",
        "--eval-batches",
        "1",
        "--hold-out",
        "X_46000001_56000000:9,000,001-10,000,000",
        "--reverse-complement",
    ];
    json(&[&tiny, extra].concat())
}

fn same_file(one: &str, other: &str) {
    assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{one} and {other} differ");
}

#[test]
fn a_resumed_pretraining_has_the_bits_of_an_unbroken_one_on_any_number_of_threads() {
    let folder = Folder::new();
    let (whole, broken) = (folder.path("whole"), folder.path("broken"));
    let summary = pretrain(&whole, &["--steps", "12", "--save-every", "4", "--threads", "2"]);
    assert_eq!(summary["steps"], 12);
    assert_eq!(summary["tokens"], 12 * 384);
    assert!(summary["evaluation"]["masked_tokens"].as_u64().unwrap() > 0);

    // Nor does what is computed again on the way back change a bit, before and after.
    pretrain(&broken, &["--steps", "12", "--save-every", "4", "--threads", "1", "--recompute", "gelu"]);
    // As after a kill between steps 8 and 12: the last checkpoint and the results are gone.
    fs::remove_dir_all(format!("{broken}/checkpoint-00000012")).unwrap();
    fs::remove_file(format!("{broken}/model.safetensors")).unwrap();
    let resume = ["pretrain", "--resume", "--out", &broken];
    for other in [
        "--tokens-per-step 256",
        "--micro-batches 3",
        "--masking bionemo",
        "--beta2 0.9",
        "--decay constant",
        "--warmup 5",
    ] {
        let message = refused(&[&resume[..], &other.split(' ').collect::<Vec<_>>()].concat());
        let name = other.split(' ').next().unwrap();
        assert!(message.contains(&format!("--resume with other {name}")), "{message}");
    }
    json(&resume);
    same_file(&format!("{whole}/model.safetensors"), &format!("{broken}/model.safetensors"));
    let state = "checkpoint-00000012/training_state.safetensors";
    same_file(&format!("{whole}/{state}"), &format!("{broken}/{state}"));
    let losses = |run: &str| -> Vec<(u64, f64)> {
        let log = fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        log.lines().map(line).map(|point| (point["step"].as_u64().unwrap(), point["loss"].as_f64().unwrap())).collect()
    };
    assert_eq!(losses(&whole), losses(&broken));
    // What the MFU is a share of was measured once, in the first session.
    let peak = |step: &str| {
        let text = fs::read_to_string(format!("{broken}/checkpoint-{step}/state.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["peak"].clone()
    };
    assert!(peak("00000008")["flops_per_second"].is_number());
    assert_eq!(peak("00000008"), peak("00000012"));
    assert_eq!(losses(&whole).len(), 6);
}

/// The state of a run that a version without weighted losses began, whose last checkpoint lies between two points of the log.
#[test]
fn a_run_that_an_earlier_version_began_is_gone_on_with() {
    let folder = Folder::new();
    let run = folder.path("run");
    pretrain(&run, &["--steps", "6", "--save-every", "3"]);
    let (model, log) = (format!("{run}/model.safetensors"), format!("{run}/metrics.jsonl"));
    let losses = || -> Vec<(Value, Value)> {
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let points = fs::read_to_string(&log).unwrap();
        points.lines().map(line).map(|point| (point["loss"].clone(), point["masked_accuracy"].clone())).collect()
    };
    let (weights, before) = (fs::read(&model).unwrap(), losses());
    fs::remove_dir_all(format!("{run}/checkpoint-00000006")).unwrap();
    fs::remove_file(&model).unwrap();
    let path = format!("{run}/checkpoint-00000003/state.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(state["interval"]["rows"].as_u64().unwrap() > 0);
    // As that version wrote it: fewer fields, and a checksum of just those.
    state["interval"].as_object_mut().unwrap().shift_remove("weight").unwrap();
    state["optimizer"].as_object_mut().unwrap().shift_remove("stochastic_rounding").unwrap();
    for later in ["best", "peak"] {
        state.as_object_mut().unwrap().shift_remove(later).unwrap();
    }
    state["checksums"].as_object_mut().unwrap().shift_remove("state.json").unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(state.to_string().as_bytes());
    state["checksums"]["state.json"] = crc.sum().into();
    fs::write(&path, serde_json::to_string_pretty(&state).unwrap()).unwrap();
    json(&["pretrain", "--resume", "--out", &run]);
    assert!(fs::read(&model).unwrap() == weights, "another model");
    assert_eq!(losses(), before);
}

#[test]
fn info_tells_how_far_a_run_came_and_which_models_a_folder_holds() {
    let folder = Folder::new();
    let (run, step) = (folder.path("run"), folder.path("run/checkpoint-00000006"));
    pretrain(&run, &["--steps", "6", "--save-every", "6"]);
    for of_run in [&run, &step] {
        let info = json(&["checkpoint", "info", of_run]);
        assert_eq!((&info["training"]["step"], &info["training"]["total_steps"]), (&6.into(), &6.into()), "{info}");
    }
    let text = helixgrad(&["checkpoint", "info", &run]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("step 6 of 6, 2,304 tokens") && text.contains("; finished\n"), "{text}");
    let message = refused(&["checkpoint", "info", folder.0.path().to_str().unwrap()]);
    assert!(message.contains(&format!("name one of them: {run}")), "{message}");
}

#[test]
fn a_short_run_has_a_curve() {
    let folder = Folder::new();
    let (genome, out) = (sample(), folder.path("run"));
    let size =
        "--k 3 --layers 1 --hidden 16 --heads 1 --intermediate 16 --max-length 40 --tokens-per-step 96 --steps 3";
    let size: Vec<&str> = size.split(' ').collect();
    json(&[&["pretrain", "--genome", &genome, "--out", &out][..], &size].concat());
    assert_eq!(fs::read_to_string(format!("{out}/metrics.jsonl")).unwrap().lines().count(), 3);
}

/// Losses of a point are those since the point before; the batches of an evaluation differ.
#[test]
fn points_and_evaluations_count_each_batch_once() {
    let folder = Folder::new();
    let genome = sample();
    let run = |name: &str, every: &str, batches: &str| -> (Vec<f64>, Value) {
        let out = folder.path(name);
        let held_out = ["--hold-out", "X_46000001_56000000:9,000,001-10,000,000"];
        let words = ["pretrain", "--genome", &genome, "--out", &out, "--log-every", every, "--eval-batches", batches];
        let size = "--k 3 --layers 1 --hidden 16 --heads 1 --intermediate 16 --max-length 40 --tokens-per-step 192 --steps 8 \
                    --learning-rate 2e-2 --warmup 1";
        let summary = json(&[&words[..], &held_out, &size.split_whitespace().collect::<Vec<_>>()].concat());
        let log = fs::read_to_string(format!("{out}/metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
        (log.lines().map(loss).collect(), summary["evaluation"].clone())
    };
    let ((each, one), (pairs, two)) = (run("each", "1", "1"), run("pairs", "2", "2"));
    assert_eq!((each.len(), pairs.len()), (8, 4));
    for (pair, of) in pairs.iter().zip(each.chunks(2)) {
        assert!(of[0].min(of[1]) < *pair && *pair < of[0].max(of[1]), "{pairs:?} {each:?}");
    }
    assert!(one["masked_tokens"].as_u64() < two["masked_tokens"].as_u64() && one["loss"] != two["loss"], "{one} {two}");
}

#[test]
fn another_seed_gives_another_model_and_micro_batches_do_not_change_the_tokens() {
    let folder = Folder::new();
    let (one, other) = (folder.path("one"), folder.path("other"));
    let first = pretrain(&one, &["--steps", "2"]);
    let second = pretrain(&other, &["--steps", "2", "--seed", "7"]);
    assert_ne!(first["loss_first"], second["loss_first"]);
    assert_eq!(first["tokens"], second["tokens"]);
}

#[test]
fn every_masking_recipe_and_text_corpora_train() {
    let folder = Folder::new();
    for recipe in ["bionemo", "random-mask"] {
        let summary = pretrain(&folder.path(recipe), &["--steps", "2", "--masking", recipe]);
        assert!(summary["loss_last"].as_f64().unwrap() > 0.0);
    }
    let text = folder.path("corpus.txt");
    let line = |i: usize| -> String {
        let bases: Vec<u8> = (0..60).map(|j| b"ACGT"[(i * 7 + j * j) % 4]).collect();
        let kmers: Vec<_> = bases.windows(3).map(|kmer| String::from_utf8_lossy(kmer).into_owned()).collect();
        kmers.join(" ") + "\n"
    };
    fs::write(&text, (0..50).map(line).collect::<String>()).unwrap();
    let out = folder.path("text");
    let summary = json(&[
        "pretrain",
        "--text",
        &text,
        "--eval-text",
        &text,
        "--out",
        &out,
        "--k",
        "3",
        "--layers",
        "1",
        "--hidden",
        "16",
        "--heads",
        "2",
        "--intermediate",
        "16",
        "--max-length",
        "64",
        "--tokens-per-step",
        "256",
        "--steps",
        "3",
        "--decay",
        "cosine",
        "--minimum-learning-rate",
        "1e-5",
    ]);
    assert_eq!(summary["tokens"], 3 * 256);
    assert!(summary["evaluation"]["loss"].as_f64().unwrap() > 0.0);
}

#[test]
fn from_annotation_to_predictions() {
    let folder = Folder::new();
    let (data, pretrained) = (folder.path("data"), folder.path("pretrained"));
    let dataset = json(&[
        "splice",
        "dataset",
        "--genome",
        &sample(),
        "--annotation",
        &annotation(),
        "--out",
        &data,
        "--k",
        "3",
        "--window",
        "80",
    ]);
    assert_eq!(dataset["leakage"]["shared_loci"]["train_test"], 0);
    pretrain(&pretrained, &["--steps", "2"]);

    for (head, extra) in [("site", vec![]), ("site", vec!["--head-hidden", "16"]), ("cls", vec!["--window", "40"])] {
        let model = folder.path(&format!("{head}{}", extra.len() + extra.first().map_or(0, |e| e.len())));
        let arguments =
            ["finetune", "--data", &data, "--init", &pretrained, "--head", head, "--epochs", "1", "--out", &model];
        let summary = json(&[&arguments[..], &extra].concat());
        assert!(summary["dev_mcc"].as_f64().unwrap() > -1.0);

        let test = format!("{data}/test.tsv");
        let evaluation = json(&["evaluate", "--model", &model, "--data", &test]);
        assert_eq!(evaluation["labels"], serde_json::json!(["donor", "acceptor", "neither"]));
        assert!(evaluation["baselines"]["pwm"]["mcc_3class"].as_f64().unwrap() > 0.6);
        let counted: u64 = evaluation["confusion"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|n| n.as_u64().unwrap())
            .sum();
        assert_eq!(counted, evaluation["windows"].as_u64().unwrap());
        // Both tables say what they count.
        let told = helixgrad(&["evaluate", "--model", &model, "--data", &test, "--quiet"]).stdout;
        let told = String::from_utf8_lossy(&told).into_owned();
        for expected in ["windows in 3 classes", "share classified right", "model card"] {
            assert!(told.contains(expected), "{told}");
        }

        let fasta = folder.path("windows.fa");
        fs::write(&fasta, format!(">a\n{}\n>b\n{}\n", "ACGTAGGT".repeat(10), "acgtnggt".repeat(12))).unwrap();
        let predictions = json(&["predict", "--model", &model, "--fasta", &fasta]);
        let rows = predictions["windows"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        let sum: f64 = rows[0]["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9);
        let tsv = helixgrad(&["predict", "--model", &model, "--tsv", &test, "--quiet"]);
        let lines = String::from_utf8(tsv.stdout).unwrap().lines().count();
        assert_eq!(lines as u64, 1 + evaluation["windows"].as_u64().unwrap());
    }
}

#[test]
fn a_resumed_fine_tuning_has_the_bits_of_an_unbroken_one() {
    let folder = Folder::new();
    let train = folder.path("train.tsv");
    let row = |i: usize| {
        let bases: String = (0..30).map(|j| "ACGT".as_bytes()[(i * i + j * (i % 3 + 1)) % 4] as char).collect();
        format!("{bases}\t{}\n", i % 3)
    };
    fs::write(&train, "sequence\tlabel\n".to_owned() + &(0..50).map(row).collect::<String>()).unwrap();
    let run = |out: &str| {
        let tiny = ["--layers", "1", "--hidden", "16", "--heads", "2", "--intermediate", "16", "--batch", "8"];
        json(
            &[
                &["finetune", "--data", &train, "--dev", &train, "--epochs", "4", "--keep", "9", "--out", out][..],
                &tiny,
            ]
            .concat(),
        )
    };
    let (whole, broken) = (folder.path("whole"), folder.path("broken"));
    run(&whole);
    run(&broken);
    for step in ["checkpoint-00000028", "checkpoint-00000021"] {
        fs::remove_dir_all(Path::new(&broken).join(step)).unwrap();
    }
    fs::remove_file(Path::new(&broken).join("model.safetensors")).unwrap();
    let resume = ["finetune", "--resume", "--out", &broken];
    for other in ["--batch 16", "--learning-rate 1e-3", "--warmup 0.2", "--weight-decay 0.1", "--seed 7"] {
        let message = refused(&[&resume[..], &other.split(' ').collect::<Vec<_>>()].concat());
        let name = other.split(' ').next().unwrap();
        assert!(message.contains(&format!("--resume with other {name} than")), "{message}");
    }
    let rows = fs::read_to_string(&train).unwrap();
    fs::write(&train, rows.replacen("\t1\n", "\t2\n", 1)).unwrap();
    assert!(refused(&resume).contains("other training windows than"));
    fs::write(&train, rows).unwrap();
    json(&resume);
    same_file(&format!("{whole}/model.safetensors"), &format!("{broken}/model.safetensors"));
    same_file(
        &format!("{whole}/metrics.jsonl").replace("metrics.jsonl", "config.json"),
        &format!("{broken}/config.json"),
    );
}

#[test]
fn options_from_a_file_are_those_of_the_command_line() {
    let folder = Folder::new();
    let (one, two) = (folder.path("one"), folder.path("two"));
    pretrain(&one, &["--steps", "3"]);
    let config = format!("{one}/config.toml");
    json(&["pretrain", "--config", &config, "--out", &two]);
    same_file(&format!("{one}/model.safetensors"), &format!("{two}/model.safetensors"));

    let wrong = folder.path("wrong.toml");
    fs::write(&wrong, "stepz = 3\n").unwrap();
    let message = refused(&["pretrain", "--config", &wrong]);
    assert!(message.contains("stepz") && message.contains("steps"), "{message}");
    fs::write(&wrong, "steps = [[").unwrap();
    assert!(refused(&["pretrain", "--config", &wrong]).contains("TOML"));
}

#[test]
fn bad_input_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let run = folder.path("run");
    pretrain(&run, &["--steps", "1"]);
    let (genome, out) = (sample(), folder.path("out"));
    let cases: &[(&[&str], &str)] = &[
        (&["pretrain", "--genome", "/nowhere.2bit", "--out", &out], "/nowhere.2bit"),
        (&["pretrain", "--genome", &genome, "--out", &run], "already holds a run"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--resume"], "nothing that was interrupted"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--preset", "huge"], "dnabert-6"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--k", "9"], "k"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--heads", "7"], "heads"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--steps", "0"], "at least 1"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--hidden-dropout", "1.5"], "hidden_dropout_prob"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--hold-out", "Y"], "Y"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--device", "tpu"], "tpu"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--learning-rate", "NaN"], "range"),
        (&["pretrain", "--genome", &genome, "--out", "/proc/nope/run"], "/proc/nope"),
        (&["finetune", "--data", "/nowhere", "--out", &out], "/nowhere"),
        (&["evaluate", "--model", "/nowhere", "--data", "x"], "/nowhere"),
        (&["finetune", "--data", &genome, "--out", &out], "2bit"),
        (&["evaluate", "--model", &run, "--data", &genome], "no classifier"),
        (&["predict", "--model", &run, "--fasta", &genome], "no classifier"),
        (&["bench", "train", "--length", "0"], "--length 0"),
        // Numbers beyond any machine, one for each way to ask for memory.
        (&["bench", "train", "--steps", "18446744073709551615"], "1 to 1,000,000 steps"),
        (
            &["bench", "train", "--preset", "dnabert-6", "--batch", "65535", "--length", "32767"],
            "GiB of memory or more",
        ),
        (
            &["pretrain", "--genome", &genome, "--out", &out, "--micro-batches", "1000000000000"],
            "lower --micro-batches",
        ),
        (
            &["pretrain", "--genome", &genome, "--out", &out, "--tokens-per-step", "1000000000000"],
            "GiB of memory or more",
        ),
        (
            &["pretrain", "--genome", &genome, "--out", &out, "--tokens-per-step", "18446744073709551615"],
            "of memory or more",
        ),
        (
            &[
                "pretrain",
                "--genome",
                &genome,
                "--out",
                &out,
                "--micro-batches",
                "1",
                "--tokens-per-step",
                "1000000000",
            ],
            "training this model on 1000000000 tokens at a time takes",
        ),
        (&["pretrain", "--genome", &genome, "--out", &out, "--layers", "16000000"], "1 to 10,000 layers"),
        (&["pretrain", "--genome", &genome, "--out", &out, "--hidden", "98304"], "over 68 billion parameters"),
    ];
    for (arguments, expected) in cases {
        let message = refused(arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
        assert!(!Path::new(&out).exists(), "{arguments:?} left something behind");
    }

    let windows = folder.path("windows.tsv");
    fs::write(&windows, format!("sequence\tlabel\n{}\t0\n{}\t1\n", "A".repeat(90), "C".repeat(90))).unwrap();
    let finetune = ["finetune", "--data", &windows, "--init", &run, "--out", &out];
    assert!(refused(&finetune).contains("windows.tsv, line 2: 90 bases, which make 90 tokens"));
    let with = |extra: &[&str]| refused(&[&finetune[..], extra].concat());
    assert!(with(&["--labels", "a,a"]).contains("two classes called \"a\""));
    assert!(with(&["--window", "91"]).contains("windows.tsv, line 2: a sequence of 90 bases"));
    assert!(with(&["--window", "2"]).contains("give --window 3 or more"));
    let scratch = ["finetune", "--data", &windows, "--out", &out, "--window", "18446744073709551615"];
    assert!(refused(&scratch).contains("windows.tsv, line 2: a sequence of 90 bases"));
    assert!(!Path::new(&out).exists());
}

/// What lies in a folder that is no run's stays there.
#[test]
fn a_run_takes_no_folder_of_somebody_else() {
    let folder = Folder::new();
    let out = folder.path("mine");
    for file in ["best/thesis", "checkpoint-500/adapter.bin"] {
        let path = Path::new(&out).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "three years").unwrap();
    }
    for command in ["pretrain", "finetune"] {
        let message =
            refused(&[command, if command == "pretrain" { "--genome" } else { "--data" }, &sample(), "--out", &out]);
        assert!(message.contains("no folder of a run that was just begun"), "{message}");
    }
    assert!(
        Path::new(&out).join("best/thesis").is_file() && Path::new(&out).join("checkpoint-500/adapter.bin").is_file()
    );
    // A run that was killed before its first checkpoint is begun anew, and clears away what it had half-written.
    let begun = folder.path("begun");
    fs::create_dir_all(format!("{begun}/.helixgrad-abc.tmp")).unwrap();
    [".lock", "config.toml", "metrics.jsonl"]
        .iter()
        .for_each(|name| fs::write(Path::new(&begun).join(name), "").unwrap());
    pretrain(&begun, &["--steps", "1"]);
    // One that was killed after its last step has nothing to make, but something to clear away.
    fs::write(format!("{begun}/.helixgrad-abd.tmp"), "").unwrap();
    json(&["pretrain", "--resume", "--out", &begun]);
    let left: Vec<_> = fs::read_dir(&begun).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn a_training_that_has_diverged_writes_no_model() {
    let folder = Folder::new();
    let out = folder.path("run");
    let genome = sample();
    let line = "--k 3 --layers 1 --hidden 16 --heads 2 --intermediate 16 --max-length 40 --tokens-per-step 100 --steps 3 --warmup 0 \
                --learning-rate 65535";
    let arguments: Vec<&str> =
        ["pretrain", "--genome", &genome, "--out", &out].into_iter().chain(line.split_whitespace()).collect();
    let output = helixgrad(&arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("training has diverged"), "{message}");
    assert!(!Path::new(&out).join("model.safetensors").exists());
}

#[test]
fn damaged_checkpoints_are_refused() {
    let folder = Folder::new();
    let run = folder.path("run");
    pretrain(&run, &["--steps", "1"]);
    let windows = folder.path("windows.tsv");
    fs::write(&windows, "sequence\tlabel\nACGTACGTAC\t0\nCCGTACGTAC\t1\n").unwrap();
    type Harm<'a> = (&'a str, &'a dyn Fn(&Path));
    let damage: &[Harm] = &[
        ("model.safetensors", &|path| fs::write(path, &fs::read(path).unwrap()[..1000]).unwrap()),
        ("model.safetensors", &|path| fs::write(path, b"").unwrap()),
        ("config.json", &|path| fs::write(path, "{\"hidden_size\": 99}").unwrap()),
        ("config.json", &|path| replace(path, "\"hidden_size\": 32", "\"hidden_size\": 64")),
        ("config.json", &|path| replace(path, "\"num_attention_heads\": 2", "\"num_attention_heads\": 0")),
        ("config.json", &|path| replace(path, "\"gelu\"", "\"relu\"")),
        ("vocab.txt", &|path| replace(path, "AAA", "AAZ")),
        ("vocab.txt", &|path| fs::remove_file(path).unwrap()),
    ];
    for (index, (file, harm)) in damage.iter().enumerate() {
        let copy = PathBuf::from(folder.path(&format!("copy{index}")));
        fs::create_dir(&copy).unwrap();
        for name in ["model.safetensors", "config.json", "vocab.txt"] {
            fs::copy(Path::new(&run).join(name), copy.join(name)).unwrap();
        }
        harm(&copy.join(file));
        let message =
            refused(&["finetune", "--data", &windows, "--init", copy.to_str().unwrap(), "--out", &folder.path("out")]);
        assert!(message.contains(copy.to_str().unwrap()), "case {index}: {message}");
    }
}

#[test]
fn a_changed_byte_is_found_when_a_run_goes_on() {
    let folder = Folder::new();
    let run = folder.path("run");
    pretrain(&run, &["--steps", "1"]);
    let resume = ["pretrain", "--resume", "--out", &run, "--steps", "2"];
    for name in ["model.safetensors", "training_state.safetensors"] {
        let path = format!("{run}/checkpoint-00000001/{name}");
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        *bytes.iter_mut().nth_back(8).unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let message = refused(&resume);
        assert!(message.contains(name) && message.contains("checksum"), "{message}");
        fs::write(&path, whole).unwrap();
    }
    // The state itself.
    let state = format!("{run}/checkpoint-00000001/state.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replace("\"tokens\": ", "\"tokens\": 1")).unwrap();
    let message = refused(&resume);
    assert!(message.contains("state.json") && message.contains("checksum"), "{message}");
    // A checkpoint of a version without checksums.
    let mut json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json.as_object_mut().unwrap().remove("checksums").unwrap().as_object().unwrap().len(), 3);
    fs::write(&state, json.to_string()).unwrap();
    self::json(&resume);
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_the_run_goes_on_to_the_same_bits() {
    use std::time::{Duration, Instant};
    let folder = Folder::new();
    let (whole, broken) = (folder.path("whole"), folder.path("broken"));
    let summary = pretrain(&whole, &["--steps", "300"]);
    assert!(
        summary["loss_last"].as_f64().unwrap() < summary["loss_first"].as_f64().unwrap() - 0.1,
        "nothing was learnt"
    );

    let genome = sample();
    let config = format!("{whole}/config.toml");
    let mut child = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
        .args(["pretrain", "--config", &config, "--genome", &genome, "--out", &broken, "--quiet"])
        .spawn()
        .unwrap();
    let log = Path::new(&broken).join("metrics.jsonl");
    let started = Instant::now();
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < 3 {
        assert!(started.elapsed() < Duration::from_secs(60), "the run did not start");
        std::thread::sleep(Duration::from_millis(2));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    // The run may have been faster than the signal; then there is nothing to resume, and the bits are checked alone.
    assert!(matches!(status.code(), Some(130 | 0)), "{status:?}");
    json(&["pretrain", "--resume", "--out", &broken]);
    same_file(&format!("{whole}/model.safetensors"), &format!("{broken}/model.safetensors"));
}

/// An evaluation may take longer than the training. A run that is stopped in one makes up for it when it goes on.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_evaluation() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    let folder = Folder::new();
    let (whole, broken) = (folder.path("whole"), folder.path("broken"));
    pretrain(&whole, &["--steps", "4"]);
    let config = format!("{whole}/config.toml");
    let interrupted = |arguments: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
            .args([&["pretrain", "--out", &broken, "--eval-batches", "4294967295", "--quiet"], arguments].concat())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Step 2 is in the log; the evaluation of step 4 begins soon, and never ends. Or nothing but it is to be done.
        let log = Path::new(&broken).join("metrics.jsonl");
        while fs::read_to_string(&log).unwrap_or_default().is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(300));
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(60), "Ctrl-C is ignored");
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{message}");
        assert!(message.contains("--resume"), "{message}");
    };
    interrupted(&["--config", &config]);
    interrupted(&["--resume"]);
    json(&["pretrain", "--resume", "--out", &broken, "--eval-batches", "1"]);
    for file in ["model.safetensors", "checkpoint-00000004/training_state.safetensors"] {
        same_file(&format!("{whole}/{file}"), &format!("{broken}/{file}"));
    }
    let points = |run: &str| -> Vec<Value> {
        let log = fs::read_to_string(format!("{run}/metrics.jsonl")).unwrap();
        let point = |line: &str| {
            let mut point: Value = serde_json::from_str(line).unwrap();
            ["tokens_per_second", "mfu"]
                .iter()
                .for_each(|key| drop(point.as_object_mut().unwrap().remove(*key).unwrap()));
            point
        };
        log.lines().map(point).collect()
    };
    assert_eq!(points(&whole), points(&broken));
    assert!(points(&whole)[1]["evaluation"]["loss"].is_f64());
    let state = fs::read_to_string(format!("{broken}/checkpoint-00000004/state.json")).unwrap();
    assert!(!state.contains("unevaluated"), "{state}");
}

#[test]
fn a_quick_demo_writes_everything() {
    let folder = Folder::new();
    let out = folder.path("demo");
    let metrics = json(&["demo", "--quick", "--out", &out]);
    let number =
        |pointer: &str| metrics.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer}"));
    for name in ["steps", "tokens", "tokens_per_second", "loss_first", "loss_last"] {
        assert!(number(&format!("/pretrain/{name}")) > 0.0);
    }
    for row in ["", "/from_scratch", "/baselines/rule", "/baselines/pwm"] {
        for name in ["accuracy", "f1", "mcc", "mcc_3class"] {
            number(&format!("/splice{row}/{name}"));
        }
    }
    assert_eq!(metrics["splice"]["protocol"], "strict");
    assert!(number("/splice/test_sites") > 100.0);
    let written: Value = serde_json::from_str(&fs::read_to_string(format!("{out}/metrics.json")).unwrap()).unwrap();
    assert_eq!(written, metrics);
    assert!(fs::read_to_string(format!("{out}/report.html")).unwrap().contains("</html>"));
    assert!(Path::new(&out).join("splice/model.safetensors").is_file());
    assert!(Path::new(&out).join("config.toml").is_file());
    let own = folder.path("own");
    fs::create_dir_all(Path::new(&own).join("splice")).unwrap();
    fs::write(Path::new(&own).join("splice/thesis.doc"), "precious").unwrap();
    assert!(refused(&["demo", "--quick", "--out", &own]).contains("no demo made it"));
    assert!(Path::new(&own).join("splice/thesis.doc").is_file());
}

#[test]
fn bench_train_prints_its_keys() {
    let bench = json(&["bench", "train", "--preset", "splice-small", "--batch", "2", "--steps", "1", "--scaling"]);
    assert!(bench["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(bench["tokens_per_second_one_thread"].as_f64().unwrap() > 0.0);
    assert!(bench["ops"].as_array().unwrap().len() > 10);
}

#[test]
fn doctor_reports_and_does_not_fail() {
    let report = json(&["doctor"]);
    assert_eq!(report["nvcc"].is_null(), report["kernel_files"] == 0);
    assert!(report["advice"].as_array().is_some_and(|advice| !advice.is_empty()));
}
