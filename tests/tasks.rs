//! Fine-tuning and evaluation on tables of every kind: classes, numbers, several labels, pairs; early stopping,
//! cross-validation, resuming; GUE's and DNABERT's own files.

mod program;

use std::fs;
use std::path::{Path, PathBuf};

use helixgrad::kmer::labelled::{Head, example_batch};
use helixgrad::kmer::table::{Answers, read_table};
use helixgrad::kmer::vocabulary::{BaseOrder, CLS, SEP, Vocabulary};
use serde_json::Value;

use program::{Folder, helixgrad, json, refused};

const TINY: [&str; 10] = ["--k", "3", "--layers", "1", "--hidden", "32", "--heads", "2", "--intermediate", "48"];
const FAST: [&str; 8] = ["--epochs", "16", "--batch", "16", "--learning-rate", "4e-3", "--warmup", "0.05"];

/// Bases in which the share of G and C says the answer.
fn bases(index: usize, share: usize) -> String {
    (0..40)
        .map(|place| {
            let word = helixgrad::philox::Philox::new(5, 0, 0).block((index * 64 + place) as u64);
            let letters = if word[0] as usize % 10 < share { "GC" } else { "AT" };
            char::from(letters.as_bytes()[word[1] as usize % 2])
        })
        .collect()
}

/// Writes a table of 160 rows, and returns its path.
fn table(folder: &Folder, name: &str, header: &str, row: impl Fn(usize) -> String) -> String {
    let rows: String = (0..160).map(|index| row(index) + "\n").collect();
    folder.write(name, format!("{header}\n{rows}"))
}

/// Leaves a finished run as a kill after this checkpoint would have left it.
fn cut_back(run: &str, checkpoint: &str) {
    for entry in fs::read_dir(run).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("checkpoint-") && name != checkpoint {
            fs::remove_dir_all(path).unwrap();
        }
    }
    fs::remove_file(format!("{run}/model.safetensors")).unwrap();
}

fn train(data: &str, out: &str, extra: &[&str]) -> Value {
    json(&[&["finetune", "--data", data, "--out", out][..], &TINY, &FAST, extra].concat())
}

/// As [`train`], with nothing but the sizes given.
fn tune(data: &str, out: &str, extra: &[&str]) -> Value {
    json(&[&["finetune", "--data", data, "--out", out][..], &TINY, extra].concat())
}

fn figure(evaluation: &Value, name: &str) -> f64 {
    let figure = &evaluation["scores"][name];
    let (value, low, high) = (figure["value"].as_f64(), figure["interval"][0].as_f64(), figure["interval"][1].as_f64());
    assert!(low <= value && value <= high, "{name}: {figure}");
    value.unwrap()
}

#[test]
fn numbers_are_learnt() {
    let folder = Folder::new();
    let data = table(&folder, "x.tsv", "sequence\tshare\tnegative", |i| {
        let share = i * 7 % 11;
        format!("{}\t{}\t{}", bases(i, share), share as f64 / 10.0, -(share as f64) / 5.0)
    });
    let model = folder.path("model");
    let summary = train(&data, &model, &["--task", "regression", "--dev", &data]);
    assert!(summary["dev_pearson"].as_f64().unwrap() > 0.7, "{summary}");
    let found = json(&["evaluate", "--model", &model, "--data", &data]);
    assert_eq!(found["labels"], serde_json::json!(["share", "negative"]));
    assert!(
        figure(&found, "pearson") > 0.7 && figure(&found, "spearman") > 0.7 && figure(&found, "mse") < 0.2,
        "{found}"
    );
    let config: Value = serde_json::from_str(&fs::read_to_string(format!("{model}/config.json")).unwrap()).unwrap();
    assert_eq!(config["problem_type"], "regression");
    let text = helixgrad(&["evaluate", "--model", &model, "--data", &data, "--quiet"]);
    assert!(String::from_utf8(text.stdout).unwrap().contains("Spearman"));
    // Data of another kind.
    let classes = table(&folder, "classes.tsv", "sequence\tlabel", |i| format!("{}\t{}", bases(i, 5), i % 2));
    assert!(
        refused(&["evaluate", "--model", &model, "--data", &classes])
            .contains("columns label, where the model has share")
    );
    let swapped = table(&folder, "swapped.tsv", "sequence\tnegative\tshare", |i| format!("{}\t1\t2", bases(i, 5)));
    assert!(refused(&["evaluate", "--model", &model, "--data", &swapped]).contains("the model has share, negative"));
    let predicted = json(&["predict", "--model", &model, "--tsv", &data]);
    assert_eq!(predicted["windows"][0]["values"].as_array().unwrap().len(), 2);
    let text = String::from_utf8(helixgrad(&["predict", "--model", &model, "--tsv", &data]).stdout).unwrap();
    assert!(text.starts_with("name\tshare\tnegative\nwindow_1\t"), "{text}");
    let words = table(&folder, "words.tsv", "sequence\ta\tb", |i| format!("{}\tx\ty", bases(i, 5)));
    assert!(refused(&["evaluate", "--model", &model, "--data", &words]).contains("line 2: \"x\""));
}

/// Numbers far from 0, one large and one small, are learnt as fast as others: training standardises them, and what it writes
/// answers in their units, checkpoints and a resumed run included.
#[test]
fn numbers_of_any_size_are_learnt() {
    let folder = Folder::new();
    let data = table(&folder, "x.tsv", "sequence\tcelsius\tmolar", |i| {
        let share = (i * 7 % 11) as f64;
        format!("{}\t{}\t{}", bases(i, share as usize), 900.0 + 40.0 * share, 1e-6 * (share - 20.0))
    });
    let (whole, broken) = (folder.path("whole"), folder.path("broken"));
    let extra = ["--task", "regression", "--dev", &data, "--early-stop", "16", "--keep", "20"];
    let summary = train(&data, &whole, &extra);
    let loss = summary["loss_last"].as_f64().unwrap();
    assert!(summary["dev_pearson"].as_f64().unwrap() > 0.7 && loss < 0.7, "{summary}");
    // Deviations are 126 and 3.2e-6: the squared error of the mean alone would be 16,000 and 1e-11.
    let predicted = |model: &str| -> Vec<[f64; 2]> {
        let predicted = json(&["predict", "--model", model, "--tsv", &data]);
        let windows = predicted["windows"].as_array().unwrap();
        windows.iter().map(|window| [0, 1].map(|column| window["values"][column].as_f64().unwrap())).collect()
    };
    let error = |model: &str| -> [f64; 2] {
        let of = |(i, numbers): (usize, &[f64; 2])| {
            let share = (i * 7 % 11) as f64;
            [(numbers[0] - 900.0 - 40.0 * share) / 126.5, (numbers[1] - 1e-6 * (share - 20.0)) / 3.16e-6]
        };
        let of_all: Vec<[f64; 2]> = predicted(model).iter().enumerate().map(of).collect();
        [0, 1].map(|column| of_all.iter().map(|error| error[column].powi(2)).sum::<f64>() / of_all.len() as f64)
    };
    assert!(error(&whole).iter().all(|error| *error < 0.6), "{:?}", error(&whole));
    let found = json(&["evaluate", "--model", &whole, "--data", &data]);
    assert!(figure(&found, "pearson") > 0.7, "{found}");

    // As after a kill after the twelfth epoch, whose checkpoint is a model of its own.
    train(&data, &broken, &extra);
    cut_back(&broken, "checkpoint-00000120");
    assert!(error(&broken).iter().all(|error| *error < 0.8), "a checkpoint: {:?}", error(&broken));
    let resumed = json(&["finetune", "--resume", "--out", &broken]);
    assert_eq!((&resumed["best_epoch"], &resumed["loss_last"]), (&summary["best_epoch"], &summary["loss_last"]));
    let read = |out: &str| fs::read(format!("{out}/model.safetensors")).unwrap();
    assert!(read(&whole) == read(&broken));

    // A trained head goes on from where it was, on the same numbers or on such of another size; for other numbers it begins anew.
    let begun = |data: &str, out: &str| {
        let slow = ["--task", "regression", "--init", &whole, "--epochs", "1", "--learning-rate", "1e-9"];
        json(&[&["finetune", "--data", data, "--out", &folder.path(out)][..], &slow].concat())["loss_last"]
            .as_f64()
            .unwrap()
    };
    assert!(begun(&data, "on") < 0.7);
    let distance =
        predicted(&whole).into_iter().zip(predicted(&folder.path("on"))).map(|(one, other)| (one[0] - other[0]).abs());
    assert!(distance.fold(0.0, f64::max) < 1.0);
    let share = |i: usize| (i * 7 % 11) as f64;
    let scaled = table(&folder, "scaled.tsv", "sequence\tmolar\tcelsius", |i| {
        format!("{}\t{}\t{}", bases(i, share(i) as usize), 5e8 * share(i), 1e-9 * share(i))
    });
    assert!(begun(&scaled, "scaled") < 0.7, "by name, in another order and size");
    let renamed = table(&folder, "renamed.tsv", "sequence\tx\ty", |i| {
        format!("{}\t{}\t{}", bases(i, share(i) as usize), share(i), share(i))
    });
    let says = |data: &str, out: &str| {
        let out = folder.path(out);
        let command =
            ["finetune", "--task", "regression", "--init", &whole, "--epochs", "1", "--data", data, "--out", &out];
        String::from_utf8(helixgrad(&command).stderr).unwrap()
    };
    assert!(says(&scaled, "kept").contains("is for these classes, too"));
    assert!(says(&renamed, "renamed").contains("for another task or other classes; a new one is trained"));

    // What f32 cannot tell apart.
    let close = table(&folder, "close.tsv", "sequence\tplace", |i| format!("{}\t{}", bases(i, 5), 200_000_000 + i));
    let message = refused(&["finetune", "--task", "regression", "--data", &close, "--out", &folder.path("close")]);
    assert!(message.contains("column place: numbers from 200000000 to 200000159"), "{message}");
}

/// Classes by name: the model has the names, in the order of the alphabet, and other tables may name or number them.
#[test]
fn classes_by_name() {
    let folder = Folder::new();
    let name = |i: usize| ["silencer", "enhancer", "promoter"][i % 3];
    let named = table(&folder, "x.csv", "sequence,kind", |i| format!("{},{}", bases(i, 1 + i % 3 * 4), name(i)));
    let number = |i: usize| [2, 0, 1][i % 3];
    let numbered = table(&folder, "n.csv", "sequence,kind", |i| format!("{},{}", bases(i, 1 + i % 3 * 4), number(i)));
    let (one, other) = (folder.path("one"), folder.path("other"));
    train(&named, &one, &["--dev", &named, "--no-calibration"]);
    train(&numbered, &other, &["--labels", "enhancer,promoter,silencer"]);
    let read = |out: &str, file: &str| fs::read(format!("{out}/{file}")).unwrap();
    assert!(read(&one, "model.safetensors") == read(&other, "model.safetensors"));
    assert!(read(&one, "config.json") == read(&other, "config.json"));
    let found = json(&["evaluate", "--model", &one, "--data", &named]);
    assert_eq!(found["labels"], serde_json::json!(["enhancer", "promoter", "silencer"]));
    assert!(figure(&found, "accuracy") > 0.7, "{found}");
    assert_eq!(json(&["evaluate", "--model", &one, "--data", &numbered]), found);
    // Another order of the same classes, for which the head is turned; other classes have a new one.
    let (turned, other_classes) = (folder.path("turned"), folder.path("others"));
    let on = |out: &str, labels: &str, data: &str| {
        let slow = ["--init", &one, "--epochs", "1", "--learning-rate", "1e-9", "--labels", labels];
        json(&[&["finetune", "--data", data, "--out", out][..], &slow].concat());
        figure(&json(&["evaluate", "--model", out, "--data", &named]), "accuracy")
    };
    let before = figure(&found, "accuracy");
    assert!((on(&turned, "silencer,enhancer,promoter", &named) - before).abs() < 0.02);
    assert!(read(&turned, "model.safetensors") != read(&one, "model.safetensors"));
    let renamed = table(&folder, "r.csv", "sequence,kind", |i| format!("{},{}", bases(i, 1 + i % 3 * 4), i % 3));
    json(&[
        "finetune",
        "--data",
        &renamed,
        "--init",
        &one,
        "--epochs",
        "1",
        "--learning-rate",
        "1e-9",
        "--out",
        &other_classes,
    ]);
    assert!(figure(&json(&["evaluate", "--model", &other_classes, "--data", &renamed]), "accuracy") < 0.5);

    let mixed = folder.path("mixed");
    let begun = |data: &str, extra: &[&str]| {
        refused(&[&["finetune", "--data", data, "--out", &mixed][..], &TINY, extra].concat())
    };
    assert!(begun(&named, &["--dev", &numbered]).contains("names of classes in one"));
    assert!(
        begun(&named, &["--labels", " enhancer, promoter"])
            .contains("\"silencer\", which is none of enhancer, promoter")
    );
    assert!(begun(&numbered, &["--labels", "2,1,0"]).contains("class 0 of the file called \"2\""));
    fs::create_dir(folder.path("data")).unwrap();
    fs::copy(&named, folder.path("data/train.csv")).unwrap();
    for (text, finding) in [("{\"label_names\": [1]}", "label_names: invalid type"), ("{\"lab", "no JSON")] {
        fs::write(folder.path("data/dataset.json"), text).unwrap();
        let message = begun(&folder.path("data"), &[]);
        assert!(message.contains("dataset.json") && message.contains(finding), "{message}");
    }
    let alike = table(&folder, "a.csv", "sequence,kind", |i| format!("{},intron", bases(i, 5)));
    assert!(begun(&alike, &[]).contains("every window is of the class intron"));
    assert!(refused(&["evaluate", "--model", &one, "--data", &alike]).contains("none of enhancer, promoter, silencer"));
}

#[test]
fn several_labels_are_learnt() {
    let folder = Folder::new();
    let data = table(&folder, "x.csv", "sequence,rich,poor,even", |i| {
        let share = i * 7 % 11;
        format!("{},{},{},{}", bases(i, share), u8::from(share > 5), u8::from(share < 5), i % 2)
    });
    let model = folder.path("model");
    let summary = train(&data, &model, &["--task", "multi-label", "--dev", &data]);
    assert!(summary["dev_macro_auroc"].as_f64().unwrap() > 0.7, "{summary}");
    let found = json(&["evaluate", "--model", &model, "--data", &data]);
    assert_eq!(found["labels"], serde_json::json!(["rich", "poor", "even"]));
    assert!(figure(&found, "macro_auroc") > 0.7 && figure(&found, "macro_auprc") > 0.6, "{found}");
    let config: Value = serde_json::from_str(&fs::read_to_string(format!("{model}/config.json")).unwrap()).unwrap();
    assert_eq!(config["problem_type"], "multi_label_classification");
    let predicted = json(&["predict", "--model", &model, "--tsv", &data]);
    let mut counts = [0; 4];
    for window in predicted["windows"].as_array().unwrap() {
        let labels = ["rich", "poor", "even"].iter().zip(window["probabilities"].as_array().unwrap());
        let likely: Vec<_> = labels.filter(|(_, p)| p.as_f64().unwrap() >= 0.5).map(|(label, _)| *label).collect();
        assert_eq!(window["prediction"], serde_json::json!(likely));
        counts[likely.len()] += 1;
    }
    assert!(counts.iter().filter(|count| **count > 0).count() > 1, "{counts:?}");
}

/// Equal or not: nothing but both sequences together says it.
#[test]
fn pairs_are_learnt() {
    let folder = Folder::new();
    let row = |i: usize| {
        let (one, other) = (if i.is_multiple_of(2) { 9 } else { 1 }, if (i / 2).is_multiple_of(2) { 9 } else { 1 });
        format!("{}\t{}\t{}", &bases(i, one)[..12], &bases(i + 1000, other)[..12], u8::from(one == other))
    };
    let data = table(&folder, "pairs.tsv", "first\tsecond\tlabel", row);
    let model = folder.path("model");
    let summary =
        train(&data, &model, &["--pairs", "--dev", &data, "--hidden-dropout", "0", "--attention-dropout", "0"]);
    assert!(summary["dev_mcc"].as_f64().unwrap() > 0.5, "{summary}");
    let found = json(&["evaluate", "--model", &model, "--data", &data]);
    assert!(figure(&found, "accuracy") > 0.7, "{found}");
    let predicted = json(&["predict", "--model", &model, "--tsv", &data]);
    let windows = predicted["windows"].as_array().unwrap();
    let rows = fs::read_to_string(&data).unwrap();
    let hits = windows
        .iter()
        .zip(rows.lines().skip(1))
        .filter(|(window, line)| window["prediction"].as_str().unwrap() == line.rsplit('\t').next().unwrap());
    assert_eq!((windows.len(), hits.count() as f64 / 160.0), (160, figure(&found, "accuracy")));
    fs::write(folder.path("x.fa"), ">a\nACGTACGTACGT\n").unwrap();
    assert!(refused(&["predict", "--model", &model, "--fasta", &folder.path("x.fa")]).contains("two sequences a line"));
    fs::write(folder.path("one.tsv"), "first\nACGTACGTACGT\n").unwrap();
    assert!(
        refused(&["predict", "--model", &model, "--tsv", &folder.path("one.tsv")])
            .contains("line 1: a header of 1 columns")
    );
    let message = refused(
        &[&["finetune", "--data", &data, "--pairs", "--head", "site", "--out", &folder.path("site")][..], &TINY]
            .concat(),
    );
    assert!(message.contains("--head cls"), "{message}");
}

#[test]
fn a_pair_is_laid_out_as_bert_reads_it() {
    let folder = Folder::new();
    let path = folder.path("p.tsv");
    fs::write(&path, "a\tb\tlabel\nACGTA\tTTTT\t1\nACG\tCCCCC\t0\n").unwrap();
    let table = read_table(Path::new(&path), Answers::Class, true, &[]).unwrap();
    let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
    let batch = example_batch(&table.windows.iter().collect::<Vec<_>>(), &vocabulary, None, Head::Cls).unwrap();
    let id = |k_mer: &str| vocabulary.id(k_mer);
    let expected = [
        CLS,
        id("ACG"),
        id("CGT"),
        id("GTA"),
        SEP,
        id("TTT"),
        id("TTT"),
        SEP,
        CLS,
        id("ACG"),
        SEP,
        id("CCC"),
        id("CCC"),
        id("CCC"),
        SEP,
    ];
    assert_eq!(batch.tokens, expected);
    assert_eq!(batch.token_types, [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!((batch.rows, batch.labels, batch.cu_seqlens), (vec![0, 8], vec![1, 0], vec![0, 8, 15]));
}

#[test]
fn early_stopping_keeps_the_best_epoch_and_resumes_to_the_same_bits() {
    let folder = Folder::new();
    let row = |i: usize| format!("{}\t{}", bases(i, 3 + i % 2 * 2), i % 2);
    let data = table(&folder, "x.tsv", "sequence\tlabel", row);
    // Dev windows without a pattern: no epoch goes on being better for long.
    let dev = table(&folder, "dev.tsv", "sequence\tlabel", |i| format!("{}\t{}", bases(i + 500, 5), i / 3 % 2));
    let run = |out: &str| {
        let extra = ["--dev", &dev, "--early-stop", "2", "--keep", "20", "--epochs", "12", "--batch", "16"];
        json(&[&["finetune", "--data", &data, "--out", out][..], &TINY, &extra].concat())
    };
    let (whole, broken) = (folder.path("whole"), folder.path("broken"));
    let summary = run(&whole);
    let best = summary["best_epoch"].as_u64().unwrap();
    let made = summary["steps"].as_u64().unwrap() / 10;
    assert!(made == best + 2 || made == 12, "{summary}");
    let epochs: Vec<Value> = fs::read_to_string(format!("{whole}/metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mcc = |epoch: u64| epochs[epoch as usize - 1]["dev_mcc"].as_f64().unwrap();
    assert!((1..=made).all(|epoch| mcc(epoch) <= mcc(best)));
    assert_eq!(summary["dev_mcc"].as_f64().unwrap(), mcc(best));
    let evaluated = json(&["evaluate", "--model", &whole, "--data", &dev]);
    assert!((evaluated["mcc"].as_f64().unwrap() - mcc(best)).abs() < 1e-12);

    // As after a kill in the second epoch.
    run(&broken);
    cut_back(&broken, "checkpoint-00000010");
    let resumed = json(&["finetune", "--resume", "--out", &broken]);
    assert_eq!(resumed["best_epoch"], summary["best_epoch"]);
    let read = |out: &str| fs::read(format!("{out}/model.safetensors")).unwrap();
    assert!(read(&whole) == read(&broken));
    let message = refused(
        &[&["finetune", "--data", &data, "--early-stop", "2", "--out", &folder.path("no")][..], &TINY].concat(),
    );
    assert!(message.contains("without dev windows"), "{message}");
}

/// Bases that say nothing of the class, of which one window of eight has the rare one: what the model answers is what it takes for the
/// classes' frequencies.
#[test]
fn classes_count_what_their_weights_say() {
    let folder = Folder::new();
    let rare = |i: usize| i.is_multiple_of(8);
    let row = |i: usize| format!("{}\t{}", bases(i, 5), if rare(i) { "rare" } else { "common" });
    let data = table(&folder, "x.tsv", "sequence\tlabel", row);
    let run = |name: &str, extra: &[&str]| {
        let summary = tune(
            &data,
            &folder.path(name),
            &[&["--epochs", "6", "--batch", "16", "--learning-rate", "4e-3"][..], extra].concat(),
        );
        let predictions = json(&["predict", "--model", &folder.path(name), "--tsv", &data]);
        let windows = predictions["windows"].as_array().unwrap();
        let mean = windows.iter().map(|window| window["probabilities"][1].as_f64().unwrap()).sum::<f64>() / 160.0;
        (summary, mean)
    };
    let counts = |name: &str| {
        let config: Value =
            serde_json::from_str(&fs::read_to_string(folder.path(name) + "/config.json").unwrap()).unwrap();
        config["helixgrad"]["classification"]["counts"].clone()
    };
    let (plain, learnt) = run("plain", &[]);
    assert!((learnt - 0.125).abs() < 0.1, "{learnt}");
    assert!(plain.get("class_weights").is_none());
    assert_eq!(counts("plain"), serde_json::json!([140, 20]));
    let (balanced, learnt) = run("balanced", &["--class-weights", "balanced"]);
    assert!((learnt - 0.5).abs() < 0.15, "{learnt}");
    assert_eq!(balanced["class_weights"], serde_json::json!({ "common": 160.0 / 280.0, "rare": 4.0 }));
    assert_eq!(counts("balanced"), serde_json::json!([80000, 80000]), "what the model takes for their frequencies");
    // A number by name is the same as what makes it.
    let (_, named) = run("named", &["--class-weights", "rare=7"]);
    assert!((named - learnt).abs() < 0.05, "{named} {learnt}");
    let (focal, focused) = run("focal", &["--focal-loss", "2"]);
    assert!(focused > 0.15, "the rare ones are far from right, and count more: {focused}");
    assert!(focal["loss_last"].as_f64().unwrap() < 0.6 * plain["loss_last"].as_f64().unwrap());

    // It goes on to the same bits, and with no other weights.
    let extra =
        ["--class-weights", "balanced", "--focal-loss", "1.5", "--keep", "20", "--epochs", "4", "--batch", "16"];
    let [whole, broken] = ["whole", "broken"].map(|name| folder.path(name));
    for out in [&whole, &broken] {
        tune(&data, out, &extra);
    }
    cut_back(&broken, "checkpoint-00000020");
    let other = refused(&["finetune", "--resume", "--out", &broken, "--class-weights", "rare=2"]);
    assert!(other.contains("--resume with other --class-weights"), "{other}");
    let other = refused(&["finetune", "--resume", "--out", &broken, "--focal-loss", "1"]);
    assert!(other.contains("--resume with other --focal-loss"), "{other}");
    json(&["finetune", "--resume", "--out", &broken]);
    let read = |out: &str| fs::read(format!("{out}/model.safetensors")).unwrap();
    assert!(read(&whole) == read(&broken));

    let out = folder.path("no");
    let refused = |extra: &[&str]| refused(&[&["finetune", "--data", &data, "--out", &out][..], &TINY, extra].concat());
    assert!(refused(&["--class-weights", "exon=2"]).contains("\"exon\", which is no class"));
    assert!(refused(&["--class-weights", "rare=0"]).contains("numbers above 0"));
    assert!(refused(&["--focal-loss", "0"]).contains("--focal-loss 0"));
    let numbers = table(&folder, "n.tsv", "sequence\tshare", |i| format!("{}\t0.{i}", bases(i, 5)));
    let of_numbers = ["--task", "regression", "--data", &numbers, "--out", &out];
    let message = program::refused(&[&["finetune"][..], &of_numbers, &TINY, &["--class-weights", "balanced"]].concat());
    assert!(message.contains("--class-weights for numbers"), "{message}");
    let message = program::refused(&[&["finetune"][..], &of_numbers, &TINY, &["--focal-loss", "2"]].concat());
    assert!(message.contains("one class of several"), "{message}");
}

/// Of several labels at once the weight is that of a class where it holds.
#[test]
fn rare_labels_count_more_where_they_hold() {
    let folder = Folder::new();
    let flag = |i: usize, every: usize| u8::from(i.is_multiple_of(every));
    let row = |i: usize| format!("{}\t{}\t{}", bases(i, 5), flag(i, 8), flag(i, 2));
    let data = table(&folder, "x.tsv", "sequence\trare\teven", row);
    let mean = |name: &str, extra: &[&str]| {
        let extra =
            [&["--task", "multi-label", "--epochs", "6", "--batch", "16", "--learning-rate", "4e-3"], extra].concat();
        let summary = tune(&data, &folder.path(name), &extra);
        let predictions = json(&["predict", "--model", &folder.path(name), "--tsv", &data]);
        let windows = predictions["windows"].as_array().unwrap();
        let mean = |class: usize| {
            windows.iter().map(|window| window["probabilities"][class].as_f64().unwrap()).sum::<f64>() / 160.0
        };
        (summary, [mean(0), mean(1)])
    };
    let (_, [rare, even]) = mean("plain", &[]);
    assert!((rare - 0.125).abs() < 0.1 && (even - 0.5).abs() < 0.1, "{rare} {even}");
    let (summary, [rare, even]) = mean("balanced", &["--class-weights", "balanced"]);
    assert!((rare - 0.5).abs() < 0.15 && (even - 0.5).abs() < 0.1, "{rare} {even}");
    assert_eq!(summary["class_weights"], serde_json::json!({ "rare": 7.0, "even": 1.0 }));
}

/// Tensors of a safetensors file, by name.
fn tensors(run: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(format!("{run}/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())).collect();
    all.sort();
    all
}

/// What is frozen is bit for bit what --init had; everything else has moved, and the run goes on to the same bits.
#[test]
fn what_is_frozen_stays_and_the_rest_learns() {
    let folder = Folder::new();
    let row = |i: usize| format!("{}\t{}", bases(i, 3 + i % 2 * 4), i % 2);
    let data = table(&folder, "x.tsv", "sequence\tlabel", row);
    let sizes = ["--k", "3", "--layers", "2", "--hidden", "32", "--heads", "2", "--intermediate", "48"];
    let init = folder.path("init");
    let begin = ["finetune", "--data", &data, "--out", &init, "--epochs", "1", "--no-calibration"];
    json(&[&begin[..], &sizes].concat());
    let before = tensors(&init);
    let run = |out: &str, extra: &[&str]| {
        let fixed =
            ["finetune", "--data", &data, "--init", &init, "--out", out, "--batch", "16", "--learning-rate", "1e-3"];
        json(&[&fixed[..], &["--weight-decay", "0.1", "--keep", "20"], extra].concat())
    };
    let layer =
        |name: &str| name.split('.').nth(3).filter(|_| name.starts_with("bert.encoder")).map(|n| n.parse().unwrap());
    let trained = |freeze: &str| {
        let out = folder.path(&format!("frozen-{freeze}"));
        let summary = run(&out, &["--freeze", freeze, "--epochs", "2"]);
        let lowest: usize = match freeze {
            "embeddings" => 0,
            "1" => 1,
            _ => 2,
        };
        for ((name, before), (same, after)) in before.iter().zip(tensors(&out)) {
            assert_eq!(*name, same);
            let is_frozen =
                name.starts_with("bert.embeddings") || layer(name).is_some_and(|layer: usize| layer < lowest);
            assert_eq!(*before == after, is_frozen, "{name} with --freeze {freeze}");
        }
        summary["trained_parameters"].as_u64().unwrap()
    };
    let count = |all: &[(String, Vec<u8>)], of: &dyn Fn(&str) -> bool| {
        all.iter().filter(|(name, _)| of(name)).map(|(_, bytes)| bytes.len() as u64 / 4).sum::<u64>()
    };
    assert_eq!(trained("embeddings"), count(&before, &|name| !name.starts_with("bert.embeddings")));
    let second = |name: &str| !name.starts_with("bert.embeddings") && layer(name) != Some(0);
    assert_eq!(trained("1"), count(&before, &second));
    let head = |name: &str| !name.starts_with("bert.e");
    assert_eq!(trained("encoder"), count(&before, &head));
    // The whole encoder, by its number.
    let out = folder.path("two");
    run(&out, &["--freeze", "2", "--epochs", "2"]);
    assert!(tensors(&out) == tensors(&folder.path("frozen-encoder")));

    // The moments are of what is trained, and no more; so is what a run goes on from.
    let moments =
        |run: &str| fs::metadata(format!("{run}/checkpoint-00000020/training_state.safetensors")).unwrap().len();
    assert!(moments(&out) < 8 * (count(&before, &head) + 256) + 1024);
    let broken = folder.path("broken");
    run(&broken, &["--freeze", "2", "--epochs", "2"]);
    cut_back(&broken, "checkpoint-00000010");
    let message = refused(&["finetune", "--resume", "--out", &broken, "--freeze", "1"]);
    assert!(message.contains("--resume with other --freeze"), "{message}");
    json(&["finetune", "--resume", "--out", &broken]);
    assert!(tensors(&broken) == tensors(&out));

    let no = folder.path("no");
    let message = refused(&["finetune", "--data", &data, "--init", &init, "--out", &no, "--freeze", "3"]);
    assert!(message.contains("3 frozen layers, but the model has 2"), "{message}");
    let message = refused(&[&["finetune", "--data", &data, "--out", &no, "--freeze", "encoder"][..], &sizes].concat());
    assert!(message.contains("--init"), "{message}");
    assert!(refused(&["finetune", "--data", &data, "--init", &init, "--out", &no, "--freeze", "0"]).contains("from 1"));
}

/// Low-rank adapters learn what a motif decides. The finished model has them in its weights, beside the head, and in peft's layout; all else
/// has the bits of --init. A run that was cut back goes on to the same bits, and its checkpoints answer with their adapters.
#[test]
fn adapters_learn_and_are_merged() {
    let folder = Folder::new();
    let row = |i: usize| format!("{}\t{}", bases(i, 3 + i % 2 * 4), i % 2);
    let data = table(&folder, "x.tsv", "sequence\tlabel", row);
    let sizes = ["--k", "3", "--layers", "2", "--hidden", "32", "--heads", "2", "--intermediate", "48"];
    let init = folder.path("init");
    let begin = ["finetune", "--data", &data, "--out", &init, "--epochs", "1", "--no-calibration"];
    json(&[&begin[..], &sizes, &["--learning-rate", "1e-4"]].concat());
    let before = tensors(&init);
    let run = |out: &str, extra: &[&str]| {
        let fixed = ["finetune", "--data", &data, "--dev", &data, "--init", &init, "--out", out, "--batch", "16"];
        json(&[&fixed[..], &["--learning-rate", "1e-2", "--keep", "20"], extra].concat())
    };
    let out = folder.path("adapted");
    let options = ["--lora", "4", "--lora-dropout", "0", "--lora-targets", "value,query", "--epochs", "6"];
    let summary = run(&out, &options);
    assert!(summary["dev_accuracy"].as_f64().unwrap() > 0.9, "{summary}");
    let expected = serde_json::json!({ "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": ["query", "value"] });
    assert_eq!(summary["lora"], expected);
    let head: u64 =
        before.iter().filter(|(name, _)| !name.starts_with("bert.e")).map(|(_, of)| of.len() as u64 / 4).sum();
    assert_eq!(summary["trained_parameters"], 2 * 2 * 4 * 64 + head);
    for ((name, before), (same, after)) in before.iter().zip(tensors(&out)) {
        assert_eq!(*name, same);
        let is_adapted = name.ends_with("query.weight") || name.ends_with("value.weight");
        assert_eq!(*before != after, is_adapted || !name.starts_with("bert.e"), "{name}");
    }
    assert_eq!(json(&["checkpoint", "info", &out])["unused"], serde_json::json!([]));
    let config = fs::read_to_string(format!("{out}/adapter/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["target_modules"], serde_json::json!(["attention.self.query", "attention.self.value"]));

    // Only what is trained has moments. The weights lie in a checkpoint as they were, with the adapters beside them, and every command adds
    // these up: but for the temperature the last one is the finished model.
    let last = format!("{out}/checkpoint-00000060");
    let moments = fs::metadata(format!("{last}/training_state.safetensors")).unwrap().len();
    assert!(moments < 8 * (2 * 2 * 4 * 64 + head + 1024) + 1024, "{moments}");
    let info = json(&["checkpoint", "info", &last]);
    assert_eq!((&info["missing"], &info["unused"]), (&serde_json::json!([]), &serde_json::json!([])));
    let in_checkpoint = tensors(&last);
    for (name, before) in before.iter().filter(|(name, _)| name.starts_with("bert.e")) {
        assert!(in_checkpoint.iter().any(|(same, of)| same == name && of == before), "{name}");
    }
    let classes = |model: &str| {
        let predicted = json(&["predict", "--model", model, "--tsv", &data]);
        let windows = predicted["windows"].as_array().unwrap().iter();
        windows.map(|window| window["probabilities"][1].as_f64().unwrap() > 0.5).collect::<Vec<_>>()
    };
    assert_eq!(classes(&last), classes(&out));
    assert_ne!(classes(&out), classes(&init));

    let broken = folder.path("broken");
    run(&broken, &options);
    cut_back(&broken, "checkpoint-00000030");
    let message = refused(&["finetune", "--resume", "--out", &broken, "--lora", "2"]);
    assert!(message.contains("another model than the options describe"), "{message}");
    json(&["finetune", "--resume", "--out", &broken]);
    assert!(tensors(&broken) == tensors(&out));
    let adapter = |run: &str| fs::read(format!("{run}/adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter(&broken) == adapter(&out));

    // The best epoch's, from the folder where it was kept.
    let best = folder.path("best");
    let options = ["--lora", "4", "--lora-targets", "query,key,value,dense", "--epochs", "3", "--early-stop", "1"];
    run(&best, &options);
    assert!(fs::metadata(format!("{best}/adapter/adapter_model.safetensors")).unwrap().len() > 0);
    assert!(tensors(&best).iter().all(|(name, _)| !name.contains("lora")));
    // An adapted checkpoint may be what another training begins with.
    let next = folder.path("next");
    json(&["finetune", "--data", &data, "--init", &last, "--out", &next, "--epochs", "1", "--learning-rate", "0"]);
    let merged = tensors(&next);
    assert!(merged.iter().zip(tensors(&out)).all(|(one, other)| *one == other || !one.0.starts_with("bert.e")));

    let no = folder.path("no");
    let refuse =
        |extra: &[&str]| refused(&[&["finetune", "--data", &data, "--init", &init, "--out", &no][..], extra].concat());
    assert!(refuse(&["--lora", "0"]).contains("give a rank from 1 to 32"));
    assert!(refuse(&["--lora", "33"]).contains("give a rank from 1 to 32"));
    assert!(refuse(&["--lora", "4", "--lora-targets", "queries"]).contains("query, key, value, dense"));
    assert!(refuse(&["--lora", "4", "--lora-alpha", "0"]).contains("number over 0"));
    assert!(refuse(&["--lora", "4", "--lora-dropout", "1"]).contains("--lora-dropout 1"));
    assert!(refuse(&["--lora", "4", "--freeze", "encoder"]).contains("leave --freeze out"));
    assert!(refuse(&["--lora-alpha", "4"]).contains("--lora"));
    assert!(
        refused(&[&["finetune", "--data", &data, "--out", &no, "--lora", "4"][..], &sizes].concat()).contains("--init")
    );
}

/// What was read as something else, or has no effect, is said: in the log, and where it is a number, in what `--json` prints.
#[test]
fn what_was_read_otherwise_is_said() {
    let folder = Folder::new();
    let rna = |i: usize| bases(i, 5).replace('T', "U");
    let count = (0..160).map(|i| rna(i).matches('U').count()).sum::<usize>();
    let data = table(&folder, "x.tsv", "sequence\tlabel", |i| format!("{}\t{}", rna(i), ["one", "two"][i % 2]));
    let out = folder.path("model");
    assert_eq!(tune(&data, &out, &["--dev", &data, "--epochs", "1"])["uracils"], 2 * count);
    assert_eq!(json(&["evaluate", "--model", &out, "--data", &data])["uracils"], count);
    let predicted = folder.path("predicted.tsv");
    assert_eq!(json(&["predict", "--model", &out, "--tsv", &data, "--out", &predicted])["uracils"], count);
    assert_eq!(json(&["predict", "--model", &out, "--tsv", &data])["uracils"], count);
    let fasta: String = (0..160).map(|i| format!(">{i}\n{}\n", rna(i))).collect();
    let fasta = folder.write("x.fa", fasta);
    for extra in [&[][..], &["--rc"]] {
        let embed = ["embed", "--model", &out, "--fasta", &fasta, "--out", &folder.path("x.npy")];
        assert_eq!(json(&[&embed[..], extra].concat())["uracils"], count);
    }
    for source in [["--fasta", &fasta], ["--tsv", &data]] {
        let attention = ["attention", "--model", &out, "--out", &folder.path("attention.tsv")];
        assert_eq!(json(&[&attention[..], &source].concat())["uracils"], count);
    }
    let motifs = ["motifs", "--model", &out, "--data", &data, "--class", "one", "--out", &folder.path("motifs")];
    assert_eq!(json(&motifs)["uracils"], count);
    let text = folder.write("x.txt", "ACU CUG UGA GAC ACC CCU\n".repeat(20));
    let pretrain = "--max-length 24 --tokens-per-step 48 --steps 1 --warmup 1";
    let pre = folder.path("pre");
    let pretrain = [&["pretrain", "--text", &text, "--out", &pre][..], &TINY, &pretrain.split(' ').collect::<Vec<_>>()];
    assert_eq!(json(&pretrain.concat())["uracils"], 20 * 4);

    let told = |arguments: &[&str]| String::from_utf8(helixgrad(arguments).stderr).unwrap();
    let evaluate = ["evaluate", "--model", &out, "--data", &data];
    assert!(!told(&evaluate).contains("no effect"));
    let message = told(&[&evaluate[..], &["--labels", "two,one"]].concat());
    assert!(message.contains("--labels has no effect"), "{message}");
    let begin = ["finetune", "--data", &data, "--epochs", "2", "--batch", "160"];
    let message = told(&[&begin[..], &TINY, &["--warmup", "3", "--out", &folder.path("long")]].concat());
    assert!(message.contains("3 updates of warm-up, but 2 in all"), "{message}");
    let message = told(&[&begin[..], &TINY, &["--warmup", "2", "--out", &folder.path("short")]].concat());
    assert!(!message.contains("warm-up"), "{message}");
}

#[test]
fn cross_validation_predicts_every_window_once() {
    let folder = Folder::new();
    let row = |i: usize| format!("{},{}", bases(i, 1 + i % 3 * 4), i % 3);
    let data = table(&folder, "x.csv", "sequence,label", row);
    let out = folder.path("folds");
    let arguments = [&["finetune", "--data", &data, "--folds", "4", "--out", &out][..], &TINY, &FAST].concat();
    let result = json(&arguments);
    assert_eq!((result["folds"].as_u64(), result["windows"].as_u64()), (Some(4), Some(160)));
    assert!(result["pooled"]["mcc"]["value"].as_f64().unwrap() > 0.5, "{result}");
    let headline: Vec<f64> = result["headline"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(headline.len(), 4);
    let mean = headline.iter().sum::<f64>() / 4.0;
    assert!((result["headline_mean"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert!((1..=4).all(|fold| Path::new(&format!("{out}/fold-{fold}/model.safetensors")).is_file()));
    assert!(Path::new(&format!("{out}/cross_validation.json")).is_file());
    let table = fs::read_to_string(format!("{out}/predictions.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0], ["name", "fold", "true_class", "prediction", "0", "1", "2"]);
    let right = rows[1..].iter().filter(|row| row[2] == row[3]).count();
    assert_eq!((rows.len(), rows[1][0], rows[160][2]), (161, "window_1", "0"));
    assert_eq!(right as f64 / 160.0, result["pooled"]["accuracy"]["value"].as_f64().unwrap());
    // The model of a fold says the same of its windows.
    let predicted = json(&["predict", "--model", &format!("{out}/fold-2"), "--tsv", &data]);
    let mut of_fold = 0;
    for (row, window) in rows[1..].iter().zip(predicted["windows"].as_array().unwrap()).filter(|(row, _)| row[1] == "2")
    {
        of_fold += 1;
        let probabilities = window["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap());
        assert!(row[4..].iter().zip(probabilities).all(|(text, p)| (text.parse::<f64>().unwrap() - p).abs() < 1e-5));
    }
    assert_eq!(of_fold, rows[1..].iter().filter(|row| row[1] == "2").count());
    assert!(of_fold >= 39);
    assert!(refused(&arguments).contains("already holds a cross-validation"));
    // A fold that is missing is trained again, to the same figures.
    fs::remove_dir_all(format!("{out}/fold-3")).unwrap();
    assert_eq!(json(&["finetune", "--resume", "--out", &out]), result);
    // With other folds its models would be tested on what they have seen.
    for other in [["--folds", "3"], ["--seed", "7"], ["--batch", "5"], ["--epochs", "9"]] {
        let message = refused(&[&["finetune", "--resume", "--out", &out][..], &other].concat());
        assert!(message.contains("other windows, folds or options"), "{message}");
    }
    let message =
        refused(&[&["finetune", "--data", &data, "--folds", "1", "--out", &folder.path("one")][..], &TINY].concat());
    assert!(message.contains("at least 2"), "{message}");
    let stopped = folder.path("stopped");
    let stop = ["--folds", "3", "--early-stop", "1", "--epochs", "4", "--batch", "16"];
    json(&[&["finetune", "--data", &data, "--out", &stopped][..], &TINY, &stop].concat());
}

fn shared(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(file);
    if !path.is_file() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// GUE's splice data (400 bases, three classes) and DNABERT's sample (6-mers, two classes), as they come.
#[test]
fn the_files_of_gue_and_dnabert() {
    let folder = Folder::new();
    for (file, rows, classes, width) in
        [("gue_splice_dev/dev.csv", 4562, 3, 400), ("dnabert_vocab/dev.tsv", 1000, 2, 101)]
    {
        let Some(path) = shared(file) else { continue };
        let table = read_table(&path, Answers::Class, false, &[]).unwrap();
        assert_eq!(table.windows.len(), rows, "{file}");
        assert!(table.windows.iter().all(|window| window.bases.len() == width), "{file}");
        assert_eq!(helixgrad::kmer::labelled::classes(&table.windows), classes, "{file}");
        // A few hundred rows train and are evaluated.
        let text = fs::read_to_string(&path).unwrap();
        let part = folder.path(path.file_name().unwrap().to_str().unwrap());
        let lines: Vec<&str> = text.lines().collect();
        let chosen: Vec<&str> = lines[1..].iter().step_by(lines.len() / 200).copied().collect();
        fs::write(&part, format!("{}\n{}\n", lines[0], chosen.join("\n"))).unwrap();
        let model = folder.path(&format!("model{classes}"));
        let extra = ["--window", "60", "--epochs", "1", "--batch", "32"];
        json(&[&["finetune", "--data", &part, "--out", &model][..], &TINY, &extra].concat());
        let found = json(&["evaluate", "--model", &model, "--data", &part]);
        assert_eq!(found["confusion"].as_array().unwrap().len(), classes);
        figure(&found, "mcc");
    }
}

/// Tables cut and changed at random are read or refused, never more than that.
/// A suite in miniature, as GUE and Nucleotide Transformer's authors lay theirs out: every task is trained, tested, kept, and shown beside
/// what was published.
#[test]
fn a_suite_of_tasks() {
    let folder = Folder::new();
    let csv = |name: &str, rows: std::ops::Range<usize>| {
        let rows: String = rows.map(|i| format!("{},{}\n", bases(i, if i % 2 == 0 { 2 } else { 8 }), i % 2)).collect();
        let path = Path::new(&folder.path("gue")).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("sequence,label\n{rows}")).unwrap();
    };
    for task in ["tf/0", "tf/1"] {
        csv(&format!("{task}/train.csv"), 0..120);
        csv(&format!("{task}/dev.csv"), 120..160);
        csv(&format!("{task}/test.csv"), 160..240);
    }
    let start = table(&folder, "start.tsv", "sequence\tlabel", |i| format!("{}\t{}", bases(i, 5), i % 2));
    let [init, out] = ["init", "out"].map(|name| folder.path(name));
    tune(&start, &init, &["--epochs", "1"]);
    let gue = folder.path("gue");
    let run = |extra: &[&str]| {
        let all = [
            "benchmark",
            &gue,
            "--suite",
            "gue",
            "--init",
            &init,
            "--out",
            &out,
            "--learning-rate",
            "4e-3",
            "--epochs",
            "6",
        ];
        json(&[&all[..], extra].concat())
    };
    let first = run(&["--tasks", "tf-human-0"]);
    assert_eq!(first["tasks"].as_array().unwrap().len(), 1);
    let result = &first["tasks"][0]["result"];
    assert!(result["mcc"]["value"].as_f64().unwrap() > 0.8, "{result}");
    assert_eq!(result["windows"], serde_json::json!([120, 40, 80]));
    assert_eq!(first["tasks"][0]["published"]["DNABERT-2"], 71.99);
    let model = Path::new(&out).join("tf-human-0/model.safetensors");
    let before = fs::metadata(&model).unwrap().modified().unwrap();
    // Begun again with all that the folder has: the finished task is kept, 26 are not there.
    let both = run(&[]);
    assert_eq!((both["tasks"].as_array().unwrap().len(), both["missing"].as_array().unwrap().len()), (2, 26));
    assert_eq!(both["tasks"][0]["result"], *result);
    assert_eq!(fs::metadata(&model).unwrap().modified().unwrap(), before);
    let told = fs::read_to_string(Path::new(&out).join("benchmark.tsv")).unwrap();
    let rows: Vec<&str> = told.lines().collect();
    assert!(
        rows.len() == 3 && rows[1].starts_with("tf-human-0\t80\t") && rows[0].ends_with("further pretrained"),
        "{told}"
    );

    // Classes by name, of which the test file has one only: its number is the training file's.
    let named = Path::new(&gue).join("tf/2");
    fs::create_dir_all(&named).unwrap();
    let row = |i: usize, share, class: &str| format!("{},{class}\n", bases(i, share));
    let rows = |range: std::ops::Range<usize>| -> String {
        range.map(|i| if i % 2 == 0 { row(i, 2, "at") } else { row(i, 8, "gc") }).collect()
    };
    let test: String = (160..200).map(|i| row(i, 8, "gc")).collect();
    for (name, text) in [("train", rows(0..120)), ("dev", rows(120..160)), ("test", test.replacen(['A', 'T'], "U", 1))]
    {
        fs::write(named.join(format!("{name}.csv")), format!("sequence,label\n{text}")).unwrap();
    }
    let result = run(&["--tasks", "tf-human-2"])["tasks"][0]["result"].clone();
    assert!(result["accuracy"]["value"].as_f64().unwrap() > 0.8, "{result}");
    assert_eq!(result["uracils"], 1);

    let refusal = |extra: &[&str]| {
        refused(&[&["benchmark", &gue, "--suite", "gue", "--init", &init, "--out", &out][..], extra].concat())
    };
    assert!(refusal(&["--epochs", "7"]).contains("other options"));
    assert!(refusal(&["--tasks", "humans"]).contains("emp-h3"));
    let nt = folder.path("nt");
    let fasta = |name: &str, rows: std::ops::Range<usize>, label: &dyn Fn(usize) -> String| {
        let rows: String =
            rows.map(|i| format!(">s{i}{}\n{}\n", label(i), bases(i, if i % 2 == 0 { 2 } else { 8 }))).collect();
        let path = Path::new(&nt).join("promoter_tata").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, rows).unwrap();
    };
    let class = |i: usize| format!("|{}", i % 2);
    fasta("train.fna", 0..120, &class);
    fasta("test.fna", 160..240, &class);
    let out = folder.path("nt-out");
    let arguments =
        ["benchmark", &nt, "--suite", "nt", "--init", &init, "--out", &out, "--learning-rate", "4e-3", "--epochs", "6"];
    let found = json(&arguments);
    let result = &found["tasks"][0]["result"];
    assert!(result["mcc"]["value"].as_f64().unwrap() > 0.8, "{result}");
    assert_eq!(result["windows"], serde_json::json!([120, 0, 80]));
    fasta("train.fna", 0..3, &|_| String::new());
    assert!(refused(&arguments).contains("\"s0\""));
}

#[test]
fn damaged_tables_never_panic() {
    let folder = Folder::new();
    let text = "sequence\tother\ta\tb\nACG CGT\tTTT\t1\t0\nACGT\tACN\t0\t1\n\"ACG\"\tAC\t1\t1\n";
    let philox = helixgrad::philox::Philox::new(9, 0, 0);
    let path = PathBuf::from(folder.path("x"));
    let (mut read, mut errors) = (0, 0);
    for round in 0..3000u64 {
        let mut bytes = text.as_bytes().to_vec();
        let [a, b, c, d] = philox.block(round);
        let length = bytes.len();
        bytes[a as usize % length] = b"\t,\n\r\"ACGT01 x\xff\0-"[b as usize % 16];
        if d.is_multiple_of(2) {
            bytes.truncate(c as usize % length);
        }
        fs::write(&path, &bytes).unwrap();
        for answers in [Answers::Class, Answers::Numbers, Answers::Flags] {
            for pairs in [false, true] {
                match read_table(&path, answers, pairs, &[]) {
                    Ok(table) => read += table.windows.len(),
                    Err(error) => {
                        errors += 1;
                        assert_eq!(error.exit_code(), 2);
                    }
                }
            }
        }
    }
    assert!(read > 100 && errors > 100);
}

/// A long window in which TATA stands at random places, each of class 1, and every other T with an A behind it is of class 0.
fn planted(index: usize) -> String {
    let word = |place: usize| helixgrad::philox::Philox::new(6, 0, 0).block((index * 128 + place) as u64)[0] as usize;
    let mut bases: Vec<u8> = (0..64).map(|place| b"ACGT"[word(place) % 4]).collect();
    let at = 6 + word(64) % 50;
    bases[at..at + 4].copy_from_slice(b"TATA");
    let label = |place: usize| match &bases[place..] {
        _ if !(4..60).contains(&place) => '.',
        [b'T', b'A', b'T', b'A', ..] => '1',
        [b'T', b'A', ..] => '0',
        _ => '.',
    };
    let labels: String = (0..64).map(label).collect();
    format!("{}\t{labels}", String::from_utf8(bases).unwrap())
}

#[test]
fn classes_at_many_places_of_a_window_are_learnt_in_one_pass() {
    let folder = Folder::new();
    let train = table(&folder, "data/train.tsv", "sequence\tlabels", planted);
    let test = table(&folder, "data/test.tsv", "sequence\tlabels", |index| planted(index + 1000));
    folder.write("data/dataset.json", r#"{"label_names": ["other", "box"]}"#);
    let out = folder.path("run");
    let model = ["--preset", "splice-tokens", "--k", "4", "--layers", "1", "--hidden", "32", "--heads", "2"];
    let options = [
        "--intermediate",
        "32",
        "--head",
        "tokens",
        "--learning-rate",
        "5e-3",
        "--batch",
        "16",
        "--hidden-dropout",
        "0",
    ];
    let arguments = |out: &str, epochs: &str| {
        let all = [&["finetune", "--data", &train, "--out", out, "--epochs", epochs][..], &model, &options].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |arguments: Vec<String>| json(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    run(arguments(&out, "8"));
    let config: Value = serde_json::from_str(&fs::read_to_string(format!("{out}/config.json")).unwrap()).unwrap();
    let classification = &config["helixgrad"]["classification"];
    assert_eq!((classification["window"].as_u64(), classification["margin"].as_u64()), (Some(64), Some(4)));
    assert_eq!(config["architectures"][0], "EsmForTokenClassification");
    let evaluation = json(&["evaluate", "--model", &out, "--data", &test]);
    let asked = fs::read_to_string(&test).unwrap();
    let places = asked.lines().skip(1).flat_map(|line| line.split('\t').nth(1).unwrap().bytes());
    let count = |class: u8| places.clone().filter(|label| *label == class).count() as u64;
    let confusion =
        |label: usize| evaluation["confusion"][label].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
    assert_eq!([confusion(0).sum::<u64>(), confusion(1).sum::<u64>()], [count(b'0'), count(b'1')]);
    assert_eq!(
        (evaluation["windows"].as_u64(), evaluation["labels"][1].as_str()),
        (Some(count(b'0') + count(b'1')), Some("box"))
    );
    assert!(figure(&evaluation, "mcc") > 0.95, "{evaluation}");
    // The same bytes after a stop between two epochs, and other labels are other data.
    let whole = fs::read(format!("{out}/model.safetensors")).unwrap();
    let other = folder.path("stopped");
    let mut kept = arguments(&other, "8");
    kept.extend(["--keep", "9"].map(str::to_owned));
    run(kept);
    cut_back(&other, "checkpoint-00000030");
    json(&["finetune", "--data", &train, "--out", &other, "--resume"]);
    assert_eq!(fs::read(format!("{other}/model.safetensors")).unwrap(), whole);
    cut_back(&other, "checkpoint-00000030");
    let text = fs::read_to_string(&train).unwrap().replacen(".0", ".1", 1);
    fs::write(&train, text).unwrap();
    assert!(refused(&["finetune", "--data", &train, "--out", &other, "--resume"]).contains("training windows"));
    for (option, value) in
        [("--pairs", None), ("--folds", Some("2")), ("--window", Some("32")), ("--task", Some("regression"))]
    {
        let given = arguments(&folder.path("none"), "1");
        let given = given.iter().map(String::as_str).chain([option]).chain(value).collect::<Vec<_>>();
        assert!(refused(&given).contains(&format!("--head tokens with {option}")), "{option}");
    }
    let message = refused(&["finetune", "--data", &test, "--out", &folder.path("none"), "--k", "3"]);
    assert!(message.contains("line 2: a class for each of many places"), "{message}");
}
