//! N ranks with M micro-batches each have the bits of one rank with N x M.

use crate::launch::{Mpi, alone, assert_same, launchers, pretraining, words};
use crate::program::Folder;

/// What one process makes of a pretraining in so many micro-batches.
fn one(folder: &Folder, micro_batches: usize) -> std::path::PathBuf {
    let out = folder.0.path().join(format!("one-{micro_batches}"));
    alone(&pretraining(&out, micro_batches, 6, &[]));
    out
}

#[test]
fn any_number_of_ranks_over_any_mpi_trains_as_one_does() {
    let launchers = launchers();
    if launchers.is_empty() {
        return;
    }
    let folder = Folder::new();
    let (eight, six) = (one(&folder, 8), one(&folder, 6));
    // One of each kind of interface, and of the others two ranks.
    for (index, mpi) in launchers.iter().enumerate() {
        let all = [(2, 8), (4, 8), (3, 6), (8, 8), (6, 6)];
        for &(ranks, micro_batches) in &all[..if index == 0 { all.len() } else { 1 }] {
            let out = folder.0.path().join(format!("{index}-{ranks}"));
            mpi.succeeds(ranks, &pretraining(&out, micro_batches, 6, &[]));
            let whole = if micro_batches == 8 { &eight } else { &six };
            assert_same(&out, whole, &format!("{ranks} ranks over {}", mpi.name));
        }
    }
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let Some(mpi) = launchers().into_iter().next() else { return };
    let folder = Folder::new();
    let whole = one(&folder, 4);
    let out = folder.0.path().join("stages");
    // What was trained by one goes on with four, then with two: each time from where a run of fewer steps' checkpoints end.
    let resume = words(&["pretrain", "--resume", "--out", out.to_str().unwrap(), "--quiet"]);
    let only = |step: usize| {
        for later in (step + 2..=6).step_by(2) {
            let _ = std::fs::remove_dir_all(out.join(format!("checkpoint-{later:08}")));
        }
    };
    alone(&pretraining(&out, 4, 6, &[]));
    only(2);
    mpi.succeeds(4, &resume);
    assert_same(&out, &whole, "1, then 4");
    only(4);
    mpi.succeeds(2, &resume);
    assert_same(&out, &whole, "1, then 4, then 2");
}

/// A table of windows whose class, numbers and labels follow from their bases.
fn tables(folder: &Folder) -> [String; 3] {
    let (mut classes, mut numbers, mut labels) =
        ("sequence\tlabel\n".to_owned(), "sequence\ta\tb\n".to_owned(), "sequence\tx\ty\n".to_owned());
    for window in 0..37usize {
        let bases: String =
            (0..24 + window % 5).map(|at| "ACGT".as_bytes()[(window * 7 + at * at + at / 3) % 4] as char).collect();
        let count = |base: char| bases.chars().filter(|other| *other == base).count();
        classes += &format!("{bases}\t{}\n", count('A') % 3);
        numbers += &format!("{bases}\t{}\t{}\n", count('C'), count('G') as f64 / 3.0);
        labels += &format!("{bases}\t{}\t{}\n", usize::from(count('A') > 6), usize::from(count('T') > 5));
    }
    [("classes.tsv", classes), ("numbers.tsv", numbers), ("labels.tsv", labels)]
        .map(|(name, text)| folder.write(name, text))
}

#[test]
fn fine_tuning_and_evaluating_are_those_of_one_process() {
    let Some(mpi) = launchers().into_iter().next() else { return };
    let folder = Folder::new();
    let [classes, numbers, labels] = tables(&folder);
    let tasks: [(&str, &str, &[&str]); 3] = [
        ("classes", &classes, &["--class-weights", "balanced", "--focal-loss", "2", "--early-stop", "3"]),
        ("numbers", &numbers, &["--task", "regression"]),
        ("labels", &labels, &["--task", "multi-label"]),
    ];
    for (name, data, extra) in tasks {
        let tune = |out: &str| {
            let options = [
                "finetune",
                "--data",
                data,
                "--dev",
                data,
                "--out",
                out,
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
                "--epochs",
                "2",
                "--batch",
                "10",
                "--micro-batches",
                "4",
                "--quiet",
            ];
            words(&[&options[..], extra].concat())
        };
        let [whole, shared] = ["whole", "shared"].map(|out| folder.path(&format!("{name}-{out}")));
        alone(&tune(&whole));
        mpi.succeeds(4, &tune(&shared));
        // 37 windows are three updates of ten and one of seven, in parts of two and one.
        assert_same(std::path::Path::new(&shared), std::path::Path::new(&whole), name);
        let evaluate = words(&["evaluate", "--model", &whole, "--data", data, "--json", "--quiet"]);
        let one = alone(&evaluate).stdout;
        let three = mpi.succeeds(3, &evaluate).stdout;
        assert_eq!(String::from_utf8(three).unwrap(), String::from_utf8(one).unwrap(), "{name}");
    }
}

#[test]
fn the_librarys_own_sum_trains_too() {
    for mpi in launchers() {
        let folder = Folder::new();
        let out = folder.0.path().join("run");
        let arguments = pretraining(&out, 4, 4, &["--reduce", "library", "--json"]);
        let summary: serde_json::Value = serde_json::from_slice(&mpi.succeeds(2, &arguments).stdout).unwrap();
        let ranks = summary["ranks"].as_str().unwrap();
        assert!(ranks.starts_with("2 ranks over ") && ranks.ends_with("whose own sums they are"), "{ranks}");
        let losses = |run: &std::path::Path| -> Vec<f64> {
            crate::launch::log(run).iter().map(|line| line["loss"].as_f64().unwrap()).collect()
        };
        let whole = folder.0.path().join("whole");
        alone(&pretraining(&whole, 4, 4, &[]));
        for (one, other) in losses(&out).iter().zip(losses(&whole)) {
            assert!((one - other).abs() < 1e-4 * other, "{}: {one} {other}", mpi.name);
        }
    }
}

/// The rest of the ranks' sum is one addition of two: then every library has our bits.
#[test]
fn two_ranks_are_one_addition() {
    let Some(mpi): Option<Mpi> = launchers().into_iter().next() else { return };
    let folder = Folder::new();
    let [own, library] = ["own", "library"].map(|name| folder.0.path().join(name));
    mpi.succeeds(2, &pretraining(&own, 2, 4, &[]));
    mpi.succeeds(2, &pretraining(&library, 2, 4, &["--reduce", "library"]));
    assert_same(&own, &library, "one addition");
}

/// Two processes with a thread each beside one with two threads: the figures are printed, and how they fit together is held.
#[test]
fn bench_tells_what_ranks_are_worth() {
    let Some(mpi) = launchers().into_iter().next() else { return };
    let arguments = words(&[
        "bench",
        "train",
        "--preset",
        "splice-small",
        "--batch",
        "4",
        "--length",
        "40",
        "--steps",
        "6",
        "--json",
        "--quiet",
    ]);
    let parse = |output: std::process::Output| -> serde_json::Value { serde_json::from_slice(&output.stdout).unwrap() };
    let (one, two) = (parse(alone(&arguments)), parse(mpi.succeeds(2, &arguments)));
    let number = |value: &serde_json::Value, key: &str| value[key].as_f64().unwrap();
    assert!(one.get("scaling").is_none());
    let scaling = &two["scaling"];
    assert_eq!(scaling["ranks"], 2);
    assert_eq!(number(&two, "tokens_per_step"), 2.0 * number(&one, "tokens_per_step"));
    let efficiency = number(scaling, "seconds_per_step_alone") / number(&two, "seconds_per_step");
    assert!((number(scaling, "efficiency") - efficiency).abs() < 1e-9);
    let sum = two["ops"].as_array().unwrap().iter().find(|row| row["op"] == "gradient_sum").unwrap();
    assert_eq!(sum["milliseconds_per_step"], scaling["sum_milliseconds"]);
    // Of two ranks each sends half its gradients, and half of the sums.
    let plan = parse(alone(&words(&[
        "plan",
        "--preset",
        "splice-small",
        "--batch",
        "4",
        "--length",
        "40",
        "--json",
        "--quiet",
    ])));
    let gradients =
        plan["memory"].as_array().unwrap().iter().find(|row| row[0] == "gradients").unwrap()[1].as_f64().unwrap();
    let sent = number(scaling, "bytes_sent");
    assert!((sent - gradients).abs() < 1024.0, "{sent} of {gradients}");
    println!(
        "one process: {} tokens/s; two: {}, of which {efficiency:.2} is training",
        one["tokens_per_second"], two["tokens_per_second"]
    );
}
