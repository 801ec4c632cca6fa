//! `genes classify` and `genes predict-pairs`: what is learnt, on both splits; the saved model; what is refused.

use std::fs;

use helixgrad::philox::{Philox, below};
use serde_json::Value;

use super::program::{Folder, json, refused};

const GENES: u32 = 60;

/// Vectors whose first number says which of two kinds a gene is, and pairs that interact if both are of one kind. A gene has no vector.
fn example(folder: &Folder) -> [String; 4] {
    let sign = |gene: u32| if gene.is_multiple_of(2) { 1.0 } else { -1.0 };
    let row = |gene: u32| {
        let noise = |column: u64| Philox::new(1, gene, 0).normal(column);
        let mut line = format!("G{gene} {}", sign(gene) * (1.0 + 0.2 * noise(0)));
        (1..6).for_each(|column| line += &format!(" {}", 0.5 * noise(column)));
        line + "\n"
    };
    let vectors = format!("{} 6\n{}", GENES - 1, (0..GENES - 1).map(row).collect::<String>());
    let pair = |at: u64| {
        let words = Philox::new(2, 0, 0).block(at);
        [below(words[0], GENES), below(words[1], GENES)]
    };
    let (mut table, mut pairs, mut labels) = (String::new(), String::new(), String::new());
    for [one, other] in (0..3000).map(pair) {
        let label = u8::from(sign(one) == sign(other));
        table += &format!("G{one}\tG{other}\t{label}\n");
        pairs += &format!("G{one} G{other}\n");
        labels += &format!("{label}\n");
    }
    [("vectors.txt", vectors), ("pairs.tsv", table), ("pairs.txt", pairs), ("labels.txt", labels)]
        .map(|(name, text)| folder.write(name, text))
}

const FAST: [&str; 6] = ["--epochs", "12", "--dropout", "0.1", "--learning-rate", "5e-3"];

fn auroc(split: &Value, who: &str) -> f64 {
    let figure = &split[who]["auroc"];
    let [value, low, high] =
        [&figure["value"], &figure["interval"][0], &figure["interval"][1]].map(|of| of.as_f64().unwrap());
    assert!(low <= value && value <= high, "{figure}");
    value
}

#[test]
fn kinds_are_learnt_also_of_genes_that_no_training_saw() {
    let folder = Folder::new();
    let [vectors, table, pairs, labels] = example(&folder);
    let out = folder.path("model");
    let run = |data: &[&str], out: &str, more: &[&str]| {
        json(&[&["genes", "classify", "--vectors", &vectors, "--out", out][..], &FAST, data, more].concat())
    };
    let summary = run(&["--train", &table], &out, &[]);
    assert_eq!(
        (&summary["pairs"], &summary["genes"], &summary["genes_without_vector"]),
        (&3000.into(), &60.into(), &1.into())
    );
    let [random, by_genes] = [0, 1].map(|at| &summary["splits"][at]);
    assert!(auroc(random, "scores") > 0.95, "{random}");
    assert!(auroc(by_genes, "scores") > 0.9, "{by_genes}");
    // What a gene does by itself says nothing here, and nothing at all of genes that were not seen.
    assert!((auroc(random, "habit") - 0.5).abs() < 0.2, "{random}");
    assert!((auroc(by_genes, "habit") - 0.5).abs() < 1e-12, "{by_genes}");
    assert_eq!((&random["train"], &random["test"], &random["dropped"]), (&2700.into(), &300.into(), &0.into()));
    assert!(random["repeated"].as_u64().unwrap() > 0 && by_genes["repeated"] == 0);
    let parts = ["train", "test", "dropped"].map(|part| by_genes[part].as_u64().unwrap());
    assert!(parts.iter().sum::<u64>() == 3000 && parts[2] > 500, "{parts:?}");

    // GGIPNN's two files are the same, and so are any threads; a tuned model is another.
    let files = |out: &str| {
        ["model.safetensors", "genes.txt", "classifier.json"].map(|name| fs::read(format!("{out}/{name}")).unwrap())
    };
    let [two, tuned] = ["two", "tuned"].map(|name| folder.path(name));
    let again = run(&["--train", &pairs, "--labels", &labels], &two, &["--threads", "3"]);
    assert_eq!(again["splits"], summary["splits"]);
    assert_eq!(files(&two), files(&out));
    let tuned_summary = run(&["--train", &table], &tuned, &["--tune"]);
    assert!(auroc(&tuned_summary["splits"][0], "scores") > 0.95);
    assert_ne!(files(&tuned)[0], files(&out)[0]);

    // The saved model says of pairs what they are, whichever is asked first; of an unknown gene nothing.
    let asked = folder.write("asked.tsv", "G2 G4\nG2\tG3\tmore\n\nG3 G5\nG1 UNKNOWN\n");
    let answers = folder.path("answers.tsv");
    let predicted = json(&["genes", "predict-pairs", "--model", &out, "--pairs", &asked, "--out", &answers]);
    assert_eq!(
        (&predicted["pairs"], &predicted["unknown"], &predicted["interacting"]),
        (&4.into(), &1.into(), &2.into())
    );
    let text = fs::read_to_string(&answers).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!((rows[0][2], rows[4][2], &rows[2][..2]), ("probability", "NA", &["G2", "G3"][..]));
    let likely = |row: usize| rows[row][2].parse::<f64>().unwrap();
    assert!(likely(1) > 0.7 && likely(2) < 0.3 && likely(3) > 0.7, "{text}");
}

/// A test that is given takes the place of the random one.
#[test]
fn a_given_test_is_tested_on() {
    let folder = Folder::new();
    let [vectors, table, ..] = example(&folder);
    let text = fs::read_to_string(&table).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let train = folder.write("train.tsv", lines[..2500].join("\n"));
    let test = folder.write("test.tsv", lines[2500..].join("\n"));
    let out = folder.path("model");
    let arguments = ["genes", "classify", "--vectors", &vectors, "--out", &out, "--train", &train, "--test", &test];
    let summary = json(&[&arguments[..], &FAST].concat());
    let [given, by_genes] = [0, 1].map(|at| &summary["splits"][at]);
    assert_eq!(
        (&given["split"], &given["train"], &given["test"]),
        (&"the given test".into(), &2500.into(), &500.into())
    );
    let all = ["train", "test", "dropped"].map(|part| by_genes[part].as_u64().unwrap()).iter().sum::<u64>();
    assert_eq!(all, 3000);
}

#[test]
fn what_cannot_be_classified_is_told() {
    let folder = Folder::new();
    let [vectors, table, pairs, labels] = example(&folder);
    let out = folder.path("model");
    let train =
        |data: &[&str]| refused(&[&["genes", "classify", "--vectors", &vectors, "--out", &out][..], data].concat());
    for (contents, expected) in [
        (&b""[..], "no pair of genes"),
        (b"G1 G2\n", "line 1: 2 columns, where two genes and 0 or 1 are needed"),
        (b"G1 G2 1\nG1 G3 2\n", "line 2: the label \"2\""),
        (b"gene_a\tgene_b\tlabel\n", "line 1: the label \"label\""),
        (b"G1 G2 1\nG1 G3 1\n", "pairs that interact and 0 others"),
        (b"X1 X2 1\nX1 X3 0\n", "none of the 3 genes (X1, X2, X3, ...) has a vector"),
        (b"G1 \xff 1\n", "not UTF-8"),
    ] {
        let message = train(&["--train", &folder.write("bad.tsv", contents)]);
        assert!(message.contains(expected) && message.contains("what to do"), "{expected}: {message}");
    }
    assert!(train(&["--train", &table, "--labels", &labels]).contains("3 columns, where two genes are needed"));
    let few = folder.write("few.txt", "1\n0\n");
    assert!(train(&["--train", &pairs, "--labels", &few]).contains("2 labels, and more pairs in"));
    let many = folder.write("many.txt", fs::read_to_string(&labels).unwrap() + "1\n");
    assert!(train(&["--train", &pairs, "--labels", &many]).contains("line 3001: a label behind the 3000"));
    assert!(train(&["--train", &table, "--device", "cuda"]).contains("trained on the CPU alone"));
    for (option, value) in [
        ("--dropout", "1"),
        ("--test-share", "0"),
        ("--gene-share", "NaN"),
        ("--hidden", "0"),
        ("--batch", "0"),
        ("--epochs", "0"),
    ] {
        let message = train(&["--train", &table, option, value]);
        assert!(message.contains("what to do"), "{option}: {message}");
    }
    assert!(train(&["--train", &table, "--hidden", "4000000000,4000000000"]).contains("of memory or more"));
    assert!(!std::path::Path::new(&out).exists());

    json(&[&["genes", "classify", "--vectors", &vectors, "--out", &out, "--train", &table][..]].concat());
    let answers = folder.path("answers.tsv");
    let predict = |model: &str, pairs: &str| {
        refused(&["genes", "predict-pairs", "--model", model, "--pairs", pairs, "--out", &answers])
    };
    assert!(predict(&out, &folder.write("one.txt", "G1 G2\nG1\n")).contains("line 2: one gene"));
    assert!(predict(&out, &folder.write("none.txt", "\n")).contains("no pair of genes"));
    let empty = folder.write("empty/x", "");
    assert!(predict(empty.trim_end_matches("/x"), &pairs).contains("a folder without classifier.json"));
    let names = fs::read_to_string(format!("{out}/genes.txt")).unwrap();
    folder.write("model/genes.txt", names.replacen("G7\n", "", 1));
    assert!(predict(&out, &pairs).contains("tensor genes"));
    folder.write("model/genes.txt", names.replacen("G7\n", "G8\n", 1));
    assert!(predict(&out, &pairs).contains("a gene that is there twice"));
    folder.write("model/genes.txt", names);
    let described = fs::read_to_string(format!("{out}/classifier.json")).unwrap();
    folder.write("model/classifier.json", described.replace("100,", "99999999999,"));
    assert!(predict(&out, &pairs).contains("tensor layer.0.weight"));
    folder.write("model/classifier.json", "{");
    assert!(predict(&out, &pairs).contains("classifier.json, line 1"));
}
