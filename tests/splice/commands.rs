//! The command line: what it prints, what it refuses.

use std::fs;

use crate::inputs::{helixgrad, made_up};

#[test]
fn the_commands_write_what_they_print() {
    let made_up = made_up(20);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("a.gff3"), &made_up.gff3).unwrap();
    let (genome, annotation, bed, set) = (made_up.path.to_str().unwrap(), path("a.gff3"), path("x.bed"), path("set"));
    let source = ["--genome", genome, "--annotation", &annotation];
    let run = |command: &[&str], rest: &[&str]| {
        let output = helixgrad(&[command, &source, rest].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let json = run(&["splice", "sites", "--json"], &["--out", &bed]);
    assert_eq!((&json["donors"], &json["introns"]), (&120.into(), &120.into()));
    assert_eq!(fs::read_to_string(&bed).unwrap().lines().count(), 240);
    let held_out = ["--test-sequences", "s3", "--dev-sequences", "s2"];
    let options = [["--out", &set], ["--window", "80"], ["--k", "3"]].concat();
    let json = run(&["splice", "dataset", "--json"], &[options, held_out.to_vec()].concat());
    assert_eq!(json["leakage"]["overlapping_windows"]["train_test"], 0);
    assert!(json["baselines"]["pwm"]["mcc_3class"].is_number() && json["baselines"]["rule"]["f1"].is_number());
    // Sequences and regions mix.
    let mixed = path("mixed");
    let options = ["--out", &mixed, "--window", "80", "--k", "3", "--test-sequences", "s3", "--dev-region", "s2"];
    run(&["splice", "dataset", "--json"], &options);
    for part in ["train.tsv", "dev.tsv", "test.tsv"] {
        let [one, other] = [&set, &mixed].map(|folder| fs::read(format!("{folder}/{part}")).unwrap());
        assert!(one == other, "{part}");
    }
    let rows = fs::read_to_string(folder.path().join("set/test.tsv")).unwrap().lines().count() - 1;
    assert_eq!(rows as u64, json["baselines"]["rule"]["examples"].as_u64().unwrap());
    let told =
        helixgrad(&[&["splice", "dataset", "--quiet"][..], &source, &["--out", &set, "--window", "80"]].concat());
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.lines().any(|line| line.starts_with("test ") && line.contains("  s3:")), "{told}");
}

#[test]
fn bad_usage_and_bad_input_exit_with_2_and_write_nothing() {
    let made_up = made_up(20);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("a.gff3"), &made_up.gff3).unwrap();
    fs::write(path("other.gff3"), made_up.gff3.replace("\ns", "\nchr")).unwrap();
    fs::write(path("no-exons.gff3"), made_up.gff3.replace("\texon\t", "\tmatch\t")).unwrap();
    fs::write(path("empty.gff3"), "").unwrap();
    fs::copy(&made_up.path, path("binary.gff3")).unwrap();
    let genome = made_up.path.to_str().unwrap();
    let cases: [(&str, &[&str], &str); 13] = [
        ("a.gff3", &["--window", "81"], "even"),
        ("a.gff3", &["--k", "500", "--window", "80"], "500"),
        ("a.gff3", &["--biotype", "y", "--window", "80"], "x (60)"),
        ("a.gff3", &["--test-sequences", "s9", "--dev-sequences", "s2"], "no sequence s9"),
        ("a.gff3", &["--protocol", "model-card", "--test-sequences", "s1", "--dev-sequences", "s2"], "model-card"),
        ("a.gff3", &["--test-sequences", "s1"], "--dev-sequences"),
        ("a.gff3", &["--test-region", "s1:5-4", "--dev-region", "s2"], "ends before it starts"),
        ("a.gff3", &["--protocol", "model-card", "--test-region", "s1", "--dev-region", "s2"], "model-card"),
        ("other.gff3", &[], "chr1"),
        ("no-exons.gff3", &[], "180 match"),
        ("empty.gff3", &[], "empty"),
        ("absent.gff3", &[], "absent.gff3"),
        ("binary.gff3", &[], "binary.gff3, line 1"),
    ];
    let before = fs::read_dir(folder.path()).unwrap().count();
    for (annotation, rest, expected) in cases {
        let (annotation, out) = (path(annotation), path("out"));
        let fixed = ["splice", "dataset", "--genome", genome, "--annotation", &annotation, "--out", &out];
        let output = helixgrad(&[&fixed, rest].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{rest:?} {text}");
        assert!(text.contains(expected), "{text}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "{rest:?}");
    }
}
