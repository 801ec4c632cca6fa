//! Tables as people have them: columns in any order, classes by names or numbers, rows that a model cannot read whole or not at all.

mod program;

use std::fs;

use serde_json::Value;

use program::{Folder, helixgrad, refused};

/// On one thread: these models are smaller than what a second one costs.
fn json(arguments: &[&str]) -> Value {
    program::json(&[arguments, &["--threads", "1"]].concat())
}

/// What a command that succeeds says on stderr.
fn told(arguments: &[&str]) -> String {
    let output = helixgrad(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
    message
}

const TINY: [&str; 14] = [
    "--layers",
    "1",
    "--hidden",
    "16",
    "--heads",
    "2",
    "--intermediate",
    "16",
    "--k",
    "3",
    "--batch",
    "8",
    "--epochs",
    "1",
];
/// What learns the classes of [`bases`] in a second.
const LEARNS: [&str; 18] = [
    "--layers",
    "1",
    "--hidden",
    "32",
    "--heads",
    "2",
    "--intermediate",
    "64",
    "--k",
    "3",
    "--batch",
    "8",
    "--epochs",
    "12",
    "--learning-rate",
    "5e-3",
    "--hidden-dropout",
    "0",
];

/// A sequence whose composition says its class, of three.
fn bases(index: usize, class: usize, length: usize) -> String {
    let of = |at: usize| {
        let draw = (index * 31 + at * 17 + at * at * index % 7) % 10;
        if draw < 7 { [b"AT", b"CG", b"AC"][class][(draw + at) % 2] } else { b"ACGT"[(draw + index) % 4] }
    };
    (0..length).map(|at| char::from(of(at))).collect()
}

/// 24 rows of two classes under a header, each as `row` writes it from its number, sequence and class.
fn rows(header: &str, row: impl Fn(usize, &str, usize) -> String) -> String {
    let lines: String = (0..24).map(|index| row(index, &bases(index, index % 2, 60), index % 2) + "\n").collect();
    format!("{header}\n{lines}")
}

#[test]
fn columns_are_taken_by_their_names() {
    let folder = Folder::new();
    let plain = rows("sequence,label", |_, bases, class| format!("{bases},{class}"));
    let expected = {
        let data = folder.write("plain.csv", &plain);
        json(&[&["finetune", "--data", &data, "--out", &folder.path("plain")][..], &TINY].concat());
        fs::read(folder.path("plain/model.safetensors")).unwrap()
    };
    let tables = [
        ("label_first.csv", rows("label,sequence", |_, bases, class| format!("{class},{bases}"))),
        ("pandas.csv", rows(",sequence,label", |index, bases, class| format!("{index},{bases},{class}"))),
        (
            "split.csv",
            rows("sequence,split,label", |i, bases, class| format!("{bases},{},{class}", ["train", "dev"][i / 12])),
        ),
        ("length.tsv", rows("length\tDNA sequence\tClass", |_, bases, class| format!("60\t{bases}\t{class}"))),
        ("blanks.csv", rows("sequence, label", |_, bases, class| format!("{bases} , {class} "))),
        ("mark.csv", format!("\u{feff}{plain}")),
        ("quoted.csv", rows("\"sequence\",\"label\"", |_, bases, class| format!("\"{bases}\",\"{class}\"\r"))),
        ("trailing.csv", rows("sequence,label,", |_, bases, class| format!("{bases},{class},"))),
        ("rna.csv", rows("rna,label", |_, bases, class| format!("{},{class}", bases.replace('T', "U")))),
    ];
    for (name, text) in tables {
        let (data, out) = (folder.write(name, text), folder.path(&format!("run-{name}")));
        let summary = json(&[&["finetune", "--data", &data, "--out", &out][..], &TINY].concat());
        assert_eq!(summary["steps"], 3, "{name}");
        assert!(fs::read(format!("{out}/model.safetensors")).unwrap() == expected, "{name}: other windows or classes");
        assert_eq!(json(&["evaluate", "--model", &out, "--data", &data])["windows"], 24, "{name}");
        assert_eq!(
            json(&["predict", "--model", &out, "--tsv", &data])["windows"].as_array().unwrap().len(),
            24,
            "{name}"
        );
    }
    let us = (0..24).map(|index| bases(index, index % 2, 60).matches('T').count()).sum::<usize>();
    let message = told(&["predict", "--model", &folder.path("plain"), "--tsv", &folder.path("rna.csv")]);
    assert!(message.contains(&format!("{us} U were read as T")), "{message}");
    let fasta = folder.write("rna.fa", ">a\nACGUACGUACGUACGUACGUACGUACGUACGUACGUACGUACGUACGUACGUACGUACGUACGU\n");
    let message = told(&["predict", "--model", &folder.path("plain"), "--fasta", &fasta]);
    assert!(message.contains("16 U were read as T"), "{message}");
}

#[test]
fn a_guess_among_columns_is_refused() {
    let folder = Folder::new();
    let out = folder.path("run");
    let begun = |name: &str, text: String| {
        let data = folder.write(name, text);
        refused(&[&["finetune", "--data", &data, "--out", &out][..], &TINY].concat())
    };
    let two = rows("sequence,split,length", |_, bases, class| format!("{bases},{class},60"));
    let message = begun("two.csv", two);
    assert!(message.contains("two.csv, line 1: several columns that could be the class: split, length"), "{message}");
    let alleles = rows("ref,alt,label", |_, bases, class| format!("{bases},{bases},{class}"));
    assert!(begun("alleles.csv", alleles).contains("could be the sequence: ref, alt"));
    for (name, header) in [("none.csv", "ACGTACGTAC,0"), ("short.csv", "TCCCCCT,neg")] {
        let text = rows(header, |_, bases, class| format!("{bases},{class}"));
        assert!(begun(name, text).contains("line 1: a row where the header should be"), "{name}");
    }
    assert!(
        begun("semicolons.csv", rows("sequence;label", |_, bases, class| format!("{bases};{class}")))
            .contains("line 1")
    );
    assert!(!fs::exists(&out).unwrap());
}

/// A model that knows classes in one order, on tables that number them in another.
#[test]
fn classes_go_by_their_names() {
    let folder = Folder::new();
    let names = ["acceptor", "neither", "donor"];
    // The model: acceptor, neither, donor. The table: donor, acceptor, neither.
    let table = |of: &dyn Fn(usize) -> String| -> String {
        let row = |index: usize| format!("{}\t{}\n", bases(index, index % 3, 60), of(index % 3));
        format!("sequence\tlabel\n{}", (0..60).map(row).collect::<String>())
    };
    let own = folder.write("own/train.tsv", table(&|class| class.to_string()));
    let model = folder.path("model");
    json(&[&["finetune", "--data", &own, "--labels", "acceptor,neither,donor", "--out", &model][..], &LEARNS].concat());
    let here = json(&["evaluate", "--model", &model, "--data", &own]);
    assert!(here["mcc"].as_f64().unwrap() > 0.4, "{here}");

    let turned = table(&|class| ((class + 1) % 3).to_string());
    let data = folder.write("turned/test.tsv", &turned);
    folder.write("turned/train.tsv", &turned);
    folder.write("turned/dataset.json", r#"{"label_names": ["donor", "acceptor", "neither"]}"#);
    let there = json(&["evaluate", "--model", &model, "--data", &data]);
    for figure in ["accuracy", "macro_f1", "mcc", "confusion"] {
        assert_eq!(here[figure], there[figure], "{figure}");
    }
    // The splice figures, and baselines from the train.tsv beside it, whatever the order.
    assert_eq!(there["splice"]["accuracy_3class"], there["accuracy"]);
    assert_eq!(there["splice"]["confusion"][0][0], there["confusion"][2][2], "donors come first there");
    assert!(there["baselines"]["pwm"]["examples"].is_u64(), "{there}");
    // By option, where nothing beside the table says it; and it says so where numbers meet names.
    let alone = folder.write("alone/test.tsv", &turned);
    let given = ["evaluate", "--model", &model, "--data", &alone, "--labels", "donor,acceptor,neither"];
    assert_eq!(json(&given)["mcc"], here["mcc"]);
    assert!(json(&["evaluate", "--model", &model, "--data", &alone])["mcc"].as_f64().unwrap() < 0.0);
    let message = told(&["evaluate", "--model", &model, "--data", &alone]);
    assert!(message.contains("classes have numbers there, and names in the model: 0 acceptor"), "{message}");
    let wrong = refused(&["evaluate", "--model", &model, "--data", &alone, "--labels", "a,b,c"]);
    assert!(wrong.contains("line 2: class 1 (b), which is none of acceptor, neither, donor"), "{wrong}");
    // The sequences of the class that is asked for.
    let motifs = |data: &str, out: &str| {
        let out = folder.path(out);
        json(&["motifs", "--model", &model, "--data", data, "--class", "donor", "--out", &out]);
        fs::read_to_string(format!("{out}/motifs.tsv")).unwrap()
    };
    assert_eq!(motifs(&own, "m1"), motifs(&data, "m2"));
    // A dev part whose folder orders them otherwise.
    let summary =
        json(
            &[
                &[
                    "finetune",
                    "--data",
                    &own,
                    "--labels",
                    &names.join(","),
                    "--dev",
                    &data,
                    "--out",
                    &folder.path("dev"),
                ][..],
                &LEARNS,
            ]
            .concat(),
        );
    assert_eq!(summary["dev_mcc"], here["mcc"]);
}

#[test]
fn windows_that_are_not_read_whole_are_counted() {
    let folder = Folder::new();
    let short = folder.write("short.csv", rows("sequence,label", |_, bases, class| format!("{bases},{class}")));
    let mixed = rows("sequence,label", |index, bases, class| {
        format!("{}{bases},{class}", if index % 4 == 0 { "ACGTTGCA" } else { "" })
    });
    let (mixed, model) = (folder.write("mixed.csv", mixed), folder.path("model"));
    json(&[&["finetune", "--data", &short, "--out", &model][..], &TINY].concat());
    let found = json(&["evaluate", "--model", &model, "--data", &mixed]);
    assert_eq!((&found["window_bases"], &found["longer_windows"]), (&60.into(), &6.into()));
    assert_eq!(json(&["evaluate", "--model", &model, "--data", &short])["longer_windows"], 0);
    let predicted = folder.path("predicted.tsv");
    let predict = |data: &str| json(&["predict", "--model", &model, "--tsv", data, "--out", &predicted]);
    assert_eq!([&mixed, &short].map(|data| predict(data)["longer_windows"].clone()), [6, 0]);
    let text = helixgrad(&["evaluate", "--model", &model, "--data", &mixed, "--quiet"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("of 6 of 24 only the middle 60 bases were read"), "{text}");
}

#[test]
fn rows_that_cannot_be_read_are_found_before_training() {
    let folder = Folder::new();
    let out = folder.path("run");
    // The blank line counts: it is line 27 of the file.
    let text = rows("sequence,label", |_, bases, class| format!("{bases},{class}")) + "\nAC,0\n";
    let data = folder.write("x.csv", text);
    let message = refused(&[&["finetune", "--data", &data, "--out", &out][..], &TINY].concat());
    assert!(
        message.contains("x.csv, line 27: a sequence of 2 bases") && message.contains("3 bases or more"),
        "{message}"
    );
    let message = refused(&[&["finetune", "--data", &data, "--window", "40", "--out", &out][..], &TINY].concat());
    assert!(message.contains("line 27: a sequence of 2 bases") && message.contains("40 bases or more"), "{message}");
    let good = folder.write("good.csv", rows("sequence,label", |_, bases, class| format!("{bases},{class}")));
    let message = refused(&[&["finetune", "--data", &good, "--dev", &data, "--out", &out][..], &TINY].concat());
    assert!(message.contains("x.csv, line 27"), "{message}");
    assert!(!fs::exists(&out).unwrap());
    json(&[&["finetune", "--data", &good, "--out", &out][..], &TINY].concat());
    for command in [["evaluate", "--data"], ["predict", "--tsv"]] {
        let message = refused(&[command[0], "--model", &out, command[1], &data]);
        assert!(message.contains("line 27"), "{message}");
    }
    let pairs = rows("seq1,seq2,label", |_, bases, class| format!("{bases},{bases},{class}"));
    let (pairs, model) = (folder.write("pairs.csv", pairs), folder.path("pairs"));
    json(&[&["finetune", "--pairs", "--data", &pairs, "--out", &model][..], &TINY].concat());
    let bad = folder.write("bad.csv", "seq1,seq2,label\nACGT,ACGT,0\nACGT,AC,0\n");
    for command in [["evaluate", "--data"], ["predict", "--tsv"]] {
        let message = refused(&[command[0], "--model", &model, command[1], &bad]);
        assert!(message.contains("line 3") && message.contains("2 bases"), "{message}");
    }
}

#[test]
fn every_column_has_its_figures() {
    let folder = Folder::new();
    let numbers = rows("sequence,one,two", |i, bases, class| format!("{bases},{class}.5,{}", i % 5));
    let (data, model) = (folder.write("numbers.csv", numbers), folder.path("numbers"));
    json(&[&["finetune", "--task", "regression", "--data", &data, "--out", &model][..], &TINY].concat());
    let found = json(&["evaluate", "--model", &model, "--data", &data]);
    let each = found["scores"]["numbers"].as_array().unwrap();
    assert_eq!((each.len(), &each[0]["label"], &each[1]["label"]), (2, &"one".into(), &"two".into()));
    let mean = each.iter().map(|of| of["mse"]["value"].as_f64().unwrap()).sum::<f64>() / 2.0;
    assert!((mean - found["scores"]["mse"]["value"].as_f64().unwrap()).abs() < 1e-9, "{found}");

    let flags = rows("sequence,a,b,never", |i, bases, class| format!("{bases},{class},{},0", i % 3 % 2));
    let (data, model) = (folder.write("flags.csv", flags), folder.path("flags"));
    json(&[&["finetune", "--task", "multi-label", "--data", &data, "--out", &model][..], &TINY].concat());
    let found = json(&["evaluate", "--model", &model, "--data", &data]);
    let each = found["scores"]["classes"].as_array().unwrap();
    assert_eq!((each.len(), &each[1]["label"], &each[1]["examples"]), (3, &"b".into(), &8.into()));
    assert!(each[0]["auroc"]["value"].is_f64() && each[0]["auprc"]["interval"][0].is_f64(), "{found}");
    assert!(each[2]["auroc"].is_null() && each[2]["auprc"].is_null(), "{found}");
    let text = String::from_utf8(helixgrad(&["evaluate", "-q", "--model", &model, "--data", &data]).stdout).unwrap();
    assert!(text.contains("AUROC") && text.lines().any(|line| line.starts_with("never")), "{text}");

    let classes = folder.write("classes.csv", rows("sequence,label", |_, bases, class| format!("{bases},{class}")));
    let model = folder.path("classes");
    json(&[&["finetune", "--data", &classes, "--out", &model][..], &LEARNS].concat());
    let found = json(&["evaluate", "--model", &model, "--data", &classes]);
    let each = found["scores"]["classes"].as_array().unwrap();
    assert_eq!((each.len(), &each[0]["examples"]), (2, &12.into()));
    // Of two classes one is the other turned round.
    assert_eq!(each[0]["auroc"], each[1]["auroc"]);
    // A test part with one class only, all right: nothing to take away from 1.
    let one = rows("sequence,label", |_, bases, class| if class == 0 { format!("{bases},0") } else { String::new() });
    let found = json(&["evaluate", "--model", &model, "--data", &folder.write("one.csv", one)]);
    assert_eq!(found["macro_f1"], found["scores"]["macro_f1"]["interval"][1], "{found}");
}

/// Equal figures on the dev windows: the first epoch that had them is the best one.
#[test]
fn an_equal_epoch_does_not_replace_the_best() {
    let folder = Folder::new();
    let data = folder.write("x.csv", rows("sequence,label", |_, bases, class| format!("{bases},{class}")));
    let still = ["--dev", &data, "--learning-rate", "0", "--early-stop", "3", "--epochs", "3", "--out"];
    let out = folder.path("run");
    let summary = json(&[&["finetune", "--data", &data][..], &TINY[..12], &still, &[&out]].concat());
    assert_eq!(summary["best_epoch"], 1, "{summary}");
}

/// Whoever takes the model of a run that has not come to its end is told how far it is.
#[test]
fn an_unfinished_run_says_so() {
    let folder = Folder::new();
    let text = rows("sequence,label", |_, bases, class| format!("{bases},{}", ["donor", "acceptor"][class]));
    let (data, run) = (folder.write("x.csv", text), folder.path("run"));
    json(&[&["finetune", "--data", &data, "--keep", "9", "--out", &run][..], &TINY[..12], &["--epochs", "2"]].concat());
    let fasta = folder.write("x.fa", format!(">a\n{}\n", bases(1, 1, 60)));
    folder.write("g.fa", format!(">c\n{}\n", bases(3, 0, 400)));
    let genome = folder.path("g.2bit");
    json(&["genome", "pack", &folder.path("g.fa"), &genome]);
    let commands = |number: usize| {
        let out = |name: &str| folder.path(&format!("{number}-{name}"));
        let all = [
            vec!["evaluate".to_owned(), "--model".into(), run.clone(), "--data".into(), data.clone()],
            vec!["predict".into(), "--model".into(), run.clone(), "--fasta".into(), fasta.clone()],
            vec![
                "embed".into(),
                "--model".into(),
                run.clone(),
                "--fasta".into(),
                fasta.clone(),
                "--out".into(),
                out("x.npy"),
            ],
            vec![
                "scan".into(),
                "--model".into(),
                run.clone(),
                "--genome".into(),
                genome.clone(),
                "--out".into(),
                out("scan"),
            ],
            vec!["import".into(), run.clone(), "--out".into(), out("model")],
            [
                &["finetune", "--init", &run, "--data", &data, "--batch", "8", "--epochs", "1", "--out"]
                    .map(str::to_owned)[..],
                &[out("next")],
            ]
            .concat(),
        ];
        let run = |arguments: &Vec<String>| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = helixgrad(&arguments);
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{arguments:?}: {text}");
            (arguments[0].to_owned(), text)
        };
        all.iter().map(run).collect::<Vec<_>>()
    };
    for (command, text) in commands(1) {
        assert!(!text.contains("unfinished"), "{command}: {text}");
    }
    fs::remove_dir_all(format!("{run}/checkpoint-00000006")).unwrap();
    fs::remove_file(format!("{run}/model.safetensors")).unwrap();
    for (command, text) in commands(2) {
        assert!(text.contains("unfinished run: step 3 of 6"), "{command}: {text}");
    }
}

/// Probabilities under another share of sites are those of Bayes' rule: the old ones times new share over learnt share, made to add up
/// to 1; under the learnt share they stay what they were. Suggested thresholds stay with the model, for scans under the same prior.
#[test]
fn a_prior_weighs_probabilities_anew() {
    let folder = Folder::new();
    let names = ["neither", "donor", "acceptor"];
    let row = |index: usize| format!("{},{}\n", bases(index, index % 3, 20), names[index % 3]);
    let data = folder.write("x.csv", format!("sequence,label\n{}", (0..24).map(row).collect::<String>()));
    let model = folder.path("model");
    json(&[&["finetune", "--data", &data, "--out", &model][..], &LEARNS].concat());
    let sequence = bases(5, 1, 300);
    let genome = folder.path("g.2bit");
    json(&["genome", "pack", &folder.write("g.fa", format!(">c\n{sequence}\n")), &genome]);
    let scan = |name: &str, rest: &[&str]| -> Vec<(usize, f64)> {
        let out = folder.path(name);
        let scan = [
            "scan",
            "--model",
            &model,
            "--genome",
            &genome,
            "--out",
            &out,
            "--positions",
            "all",
            "--min-track-score",
            "0",
        ];
        json(&[&scan[..], rest].concat());
        let track = fs::read_to_string(format!("{out}/donor_plus.bedgraph")).unwrap();
        let call = |line: &str| {
            let columns: Vec<&str> = line.split('\t').collect();
            (columns[1].parse().unwrap(), columns[3].parse().unwrap())
        };
        track.lines().map(call).collect()
    };
    let plain = scan("plain", &[]);
    let third = scan("third", &["--prior", "0.3333333333333333"]);
    assert!(plain.iter().zip(&third).all(|(one, other)| one.0 == other.0 && (one.1 - other.1).abs() < 2e-6));
    let rare = scan("rare", &["--prior", "0.01"]);
    let windows: String =
        plain.iter().map(|(base, _)| format!(">{base}\n{}\n", &sequence[base - 10..base + 10])).collect();
    let predicted = json(&["predict", "--model", &model, "--fasta", &folder.write("w.fa", windows)]);
    let labels: Vec<&str> =
        predicted["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
    let mut changed = 0.0_f64;
    for (((_, before), (base, found)), window) in plain.iter().zip(&rare).zip(predicted["windows"].as_array().unwrap())
    {
        let weighted: Vec<f64> = labels
            .iter()
            .zip(window["probabilities"].as_array().unwrap())
            .map(|(label, probability)| probability.as_f64().unwrap() * if *label == "neither" { 0.98 } else { 0.01 })
            .collect();
        let donor = labels.iter().position(|label| *label == "donor").unwrap();
        let expected = weighted[donor] / weighted.iter().sum::<f64>();
        assert!((expected - found).abs() < 2e-6, "base {base}: {expected} {found}");
        changed = changed.max(before - found);
    }
    assert!(plain.len() > 250 && changed > 0.1, "{changed}");
    for wrong in ["0", "0.5", "-1", "nan"] {
        let out = folder.path("wrong");
        let message = refused(&["scan", "--model", &model, "--genome", &genome, "--out", &out, "--prior", wrong]);
        assert!(message.contains("give a share over 0 and below 0.5"), "{message}");
    }
    // As a scan with --keep-thresholds leaves them.
    let point = |threshold: f64| {
        format!("{{\"threshold\": {threshold}, \"precision\": 0.5, \"recall\": 0.5, \"predicted\": 2}}")
    };
    let kind =
        |threshold| format!("{{\"precision_50\": {}, \"precision_80\": null, \"recall_90\": null}}", point(threshold));
    let kept = format!("{{\"prior\": 0.01, \"donor\": {}, \"acceptor\": {}}}", kind(0.015), kind(0.0125));
    fs::write(format!("{model}/scan_thresholds.json"), kept).unwrap();
    let of = |name: &str, rest: &[&str]| {
        told(&[&["scan", "--model", &model, "--genome", &genome, "--out", &folder.path(name)][..], rest].concat())
    };
    assert!(of("kept", &["--prior", "0.01"]).contains("--min-score 0.015, at which half of the calls were annotated"));
    assert!(of("other", &["--prior", "0.02"]).contains("thresholds under another --prior; --min-score is 0.5"));
    assert!(!of("given", &["--prior", "0.01", "--min-score", "0.3"]).contains("--min-score 0.015"));
}
