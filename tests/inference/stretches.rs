//! Scans by a model that answers for many places of a window at once, against one that asks it for a place at a time.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use helixgrad::autograd::Tape;
use helixgrad::device::{DType, Device};
use helixgrad::genome::annotation::Strand;
use helixgrad::genome::splice::Kind;
use helixgrad::kmer::labelled::{LabelledWindow, Place};
use helixgrad::train::apply::answers;
use helixgrad::train::checkpoint;

use super::support::*;

const TILE: usize = 40;
const MARGIN: usize = 8;
const CORE: usize = TILE - 2 * MARGIN;

/// Donor and acceptor probability by kind, strand and boundary.
type Scores = BTreeMap<(&'static str, usize), f64>;

/// Every call of a sequence whose base lies in `range`, each place asked for alone; and how many cannot be had.
fn expected(model: &Path, bases: &[u8], range: Range<usize>) -> (Scores, u64) {
    let checkpoint = checkpoint::load(model).unwrap();
    let classification = checkpoint.classification.as_ref().unwrap();
    let mut tape = Tape::new(Device::Cpu, DType::F32);
    let (mut scores, mut unscored) = (Scores::new(), 0);
    let tracks = ["donor_plus", "donor_minus", "acceptor_plus", "acceptor_minus"];
    let kinds = KINDS.into_iter().flat_map(|kind| STRANDS.map(|strand| (kind, strand)));
    for ((kind, strand), track) in kinds.zip(tracks) {
        for base in range.clone() {
            let behind = matches!((kind, strand), (Kind::Donor, Strand::Plus) | (Kind::Acceptor, Strand::Minus));
            let boundary = if behind { base } else { base + 1 };
            let dinucleotide = if behind { bases.get(base..base + 2) } else { bases.get(base.wrapping_sub(1)..=base) };
            let wanted: &[u8] = match (kind, strand) {
                (Kind::Donor, Strand::Plus) => b"GT",
                (Kind::Donor, Strand::Minus) => b"AC",
                (Kind::Acceptor, Strand::Plus) => b"AG",
                (Kind::Acceptor, Strand::Minus) => b"CT",
            };
            if dinucleotide != Some(wanted) {
                continue;
            }
            let around = boundary.checked_sub(MARGIN).and_then(|start| bases.get(start..boundary + MARGIN));
            if around.is_none_or(|around| around.contains(&b'N')) {
                unscored += 1;
                continue;
            }
            // Windows begin at fixed places, whatever is scanned.
            let first = boundary / CORE * CORE;
            let window = first.saturating_sub(MARGIN)..bases.len().min(first + CORE + MARGIN);
            let (read, at) = match strand {
                Strand::Plus => (bases[window.clone()].to_vec(), boundary - window.start),
                Strand::Minus => (reverse_complement(&bases[window.clone()]), window.end - boundary),
            };
            let places = vec![Place { at: at as u32, class: 0 }];
            let asked = [LabelledWindow { bases: read, places, ..LabelledWindow::default() }];
            let (model, vocabulary) = (&checkpoint.model, &*checkpoint.vocabulary);
            let row = answers(&mut tape, model, vocabulary, classification, &asked, &mut |_| ()).unwrap().remove(0);
            let class = classification.labels.iter().position(|label| label == kind.name()).unwrap();
            scores.insert((track, base), row[class]);
        }
    }
    (scores, unscored)
}

fn found(out: &Path) -> Scores {
    let mut scores = Scores::new();
    for track in ["donor_plus", "donor_minus", "acceptor_plus", "acceptor_minus"] {
        for line in fs::read_to_string(out.join(format!("{track}.bedgraph"))).unwrap().lines() {
            let columns: Vec<&str> = line.split('\t').collect();
            scores.insert((track, columns[1].parse().unwrap()), columns[3].parse().unwrap());
        }
    }
    scores
}

#[test]
fn one_pass_answers_as_asking_for_each_place_does() {
    let folder = tempfile::tempdir().unwrap();
    let model = stretches_model(folder.path(), TILE, MARGIN);
    let mut long = bases(5, 1500);
    long[700] = b'N';
    let genome = genome(folder.path(), &[("z", &long), ("tiny", &bases(7, 15)), ("a", &bases(6, 70))]);
    let scan = |name: &str, extra: &[&str]| {
        let out = folder.path().join(name);
        let common = ["scan", "--model", text(&model), "--genome", text(&genome), "--out", text(&out)];
        (json(&[&common[..], &["--min-track-score", "0"], extra].concat()), found(&out))
    };
    for (name, range) in [("z:1-1500", 0..1500), ("z:101-900", 100..900), ("z:24-24", 23..24), ("a:1-70", 0..70)] {
        let sequence = if name.starts_with('a') { bases(6, 70) } else { long.clone() };
        let (expected, unscored) = expected(&model, &sequence, range);
        let (summary, found) = scan(&name.replace(':', "_"), &["--region", name]);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        for (key, score) in &expected {
            assert!((found[key] - score).abs() < 2e-6, "{key:?}: {} and not {score}", found[key]);
        }
        assert_eq!(summary["unscored"], unscored);
    }
    // A window for each strand of 1500 / 24 cores, not one for each place.
    let (summary, all) = scan("all", &[]);
    let windows = summary["windows"].as_u64().unwrap();
    assert!((100..=136).contains(&windows) && all.len() > 300, "{windows} windows");
}

#[test]
fn margins_that_no_model_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = stretches_model(folder.path(), TILE, MARGIN);
    let genome = genome(folder.path(), &[("a", &bases(6, 70))]);
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    for (margin, is_read) in [("1", false), ("2", true), ("19", true), ("20", true), ("18446744073709551615", false)] {
        let changed = config.replacen("\"margin\": 8", &format!("\"margin\": {margin}"), 1);
        fs::write(model.join("config.json"), changed).unwrap();
        let out = folder.path().join(margin);
        let arguments = ["scan", "--model", text(&model), "--genome", text(&genome), "--out", text(&out)];
        match is_read {
            true => drop(json(&arguments)),
            false => assert!(refused(&arguments).contains(&format!("margins of {margin} bases"))),
        }
    }
}

#[test]
fn a_weight_matrix_in_the_models_folder_is_put_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = stretches_model(folder.path(), TILE, MARGIN);
    let genome = open(Path::new(SAMPLE));
    let region = format!("{}:1000001-1120000", genome.sequences()[0].name);
    let scan = |name: &str| {
        let out = folder.path().join(name);
        let common = ["scan", "--model", text(&model), "--genome", SAMPLE, "--region", &region, "--out", text(&out)];
        json(&[&common, &["--annotation", SAMPLE_GENES][..]].concat())
    };
    assert!(scan("without")["accuracy"][0].get("weight_matrix").is_none());
    // Trained on windows of the sample, the matrix knows sites there; this model has learnt nothing.
    let data = folder.path().join("data");
    let dataset = [
        "splice",
        "dataset",
        "--genome",
        SAMPLE,
        "--annotation",
        SAMPLE_GENES,
        "--window",
        "48",
        "--k",
        "3",
        "--max-sites",
        "300",
    ];
    json(&[&dataset, &["--out", text(&data)][..]].concat());
    let trained = folder.path().join("trained");
    let sizes = ["--layers", "1", "--hidden", "8", "--heads", "1", "--intermediate", "8", "--epochs", "1"];
    json(&[&["finetune", "--data", text(&data), "--out", text(&trained)], &sizes[..]].concat());
    fs::copy(trained.join("weight_matrix.json"), model.join("weight_matrix.json")).unwrap();
    let summary = scan("with");
    for comparison in summary["accuracy"].as_array().unwrap() {
        let (own, matrix) = (comparison, &comparison["weight_matrix"]);
        assert_eq!((&own["sites"], &own["scored"]), (&matrix["sites"], &matrix["scored"]));
        let precision = |of: &serde_json::Value| of["average_precision"].as_f64().unwrap();
        assert!(precision(matrix) > 2.0 * precision(own), "{comparison}");
        for figures in [own, matrix] {
            assert_eq!(figures.get("intervals").is_some(), comparison["scope"] == "genes");
            if let Some(intervals) = figures.get("intervals") {
                let [low, high] = [0, 1].map(|end| intervals["average_precision"][end].as_f64().unwrap());
                assert!(low < high && high - low < 0.5 && low <= 1.2 * precision(figures), "{figures}");
            }
        }
    }
    let broken =
        fs::read_to_string(model.join("weight_matrix.json")).unwrap().replacen("\"before\": 3", "\"before\": 30", 1);
    fs::write(model.join("weight_matrix.json"), broken).unwrap();
    let out = folder.path().join("broken");
    let message = refused(&[
        "scan",
        "--model",
        text(&model),
        "--genome",
        SAMPLE,
        "--annotation",
        SAMPLE_GENES,
        "--out",
        text(&out),
    ]);
    assert!(message.contains("weight_matrix.json") && message.contains("9 columns, 30 of them"), "{message}");
}
