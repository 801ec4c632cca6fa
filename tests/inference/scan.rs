//! Scans against a plain scorer, their files against each other, and kills.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bigtools::BigWigRead;
use helixgrad::device::{DType, Device};
use helixgrad::genome::annotation::Strand;
use helixgrad::genome::splice::Kind;
use helixgrad::inference::score::Scorer;
use helixgrad::inference::splice::SpliceScorer;
use helixgrad::train::checkpoint;

use super::support::*;

const TRACKS: [&str; 4] = ["donor_plus", "donor_minus", "acceptor_plus", "acceptor_minus"];

/// Score by track, sequence and base.
type Calls = BTreeMap<(String, String, usize), f64>;

fn read_bedgraphs(out: &Path) -> Calls {
    let mut calls = Calls::new();
    for track in TRACKS {
        let text = fs::read_to_string(out.join(format!("{track}.bedgraph"))).unwrap();
        let mut before = (String::new(), 0);
        for line in text.lines() {
            let columns: Vec<&str> = line.split('\t').collect();
            let (start, end): (usize, usize) = (columns[1].parse().unwrap(), columns[2].parse().unwrap());
            assert_eq!(end, start + 1);
            assert!(columns[0] != before.0 || start >= before.1, "{track} is not sorted at {line}");
            before = (columns[0].to_owned(), end);
            calls.insert((track.to_owned(), columns[0].to_owned(), start), columns[3].parse().unwrap());
        }
    }
    calls
}

/// What a scan of these sequences has to find, and how many positions it cannot score.
fn expected(plain: &mut Plain, sequences: &[(&str, &[u8])], gt_ag: bool) -> (Calls, u64) {
    let (mut calls, mut unscored) = (Calls::new(), 0);
    for (name, bases) in sequences {
        for base in 0..bases.len() {
            for (index, (kind, strand)) in
                KINDS.into_iter().flat_map(|kind| STRANDS.map(|strand| (kind, strand))).enumerate()
            {
                // The intron's outermost base: what the boundary is before or behind.
                let behind = matches!((kind, strand), (Kind::Donor, Strand::Plus) | (Kind::Acceptor, Strand::Minus));
                let boundary = if behind { base } else { base + 1 };
                let intron = match (kind, strand) {
                    (Kind::Donor, Strand::Plus) => bases[boundary..].starts_with(b"GT"),
                    (Kind::Donor, Strand::Minus) => bases[..boundary].ends_with(b"AC"),
                    (Kind::Acceptor, Strand::Plus) => bases[..boundary].ends_with(b"AG"),
                    (Kind::Acceptor, Strand::Minus) => bases[boundary..].starts_with(b"CT"),
                };
                if gt_ag && !intron {
                    continue;
                }
                match plain.site(bases, boundary, strand, false) {
                    Some(scores) => {
                        calls.insert((TRACKS[index].to_owned(), (*name).to_owned(), base), scores[kind as usize]);
                    }
                    None => unscored += 1,
                }
            }
        }
    }
    (calls, unscored)
}

fn scan(model: &Path, genome: &Path, out: &Path, extra: &[&str]) -> serde_json::Value {
    json(&[&["scan", "--model", text(model), "--genome", text(genome), "--out", text(out)], extra].concat())
}

fn assert_same(found: &Calls, expected: &Calls) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, score) in expected {
        assert!((found[key] - score).abs() < 2e-6, "{key:?}: {} and not {score}", found[key]);
    }
}

#[test]
fn calls_are_those_of_a_plain_scorer_and_the_files_agree() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    // Longer than a piece; with an N; one too short for any window; not in the order of their names.
    let (mut long, short, tiny) = (bases(5, 2500), bases(6, 120), bases(7, WIDTH - 1));
    long[700] = b'N';
    let sequences: [(&str, &[u8]); 3] = [("z", &long), ("tiny", &tiny), ("a", &short)];
    let genome = genome(folder.path(), &sequences);
    let mut plain = Plain::new(&model);
    for (positions, gt_ag) in [("all", false), ("gt-ag", true)] {
        let out = folder.path().join(positions);
        let summary =
            scan(&model, &genome, &out, &["--positions", positions, "--min-track-score", "0", "--min-score", "0.4"]);
        let (calls, unscored) = expected(&mut plain, &sequences, gt_ag);
        assert!(calls.len() > 500);
        let found = read_bedgraphs(&out);
        assert_same(&found, &calls);
        assert_eq!(summary["unscored"], unscored);
        assert_eq!(summary["bases"], 2500 + 120 + WIDTH - 1);

        // BigWig: the same values in the same places.
        for track in TRACKS {
            let mut reader = BigWigRead::open_file(out.join(format!("{track}.bw"))).unwrap();
            let mut count = 0;
            for (name, bases) in [("z", 2500), ("a", 120)] {
                for value in reader.get_interval(name, 0, bases).unwrap() {
                    let value = value.unwrap();
                    let key = (track.to_owned(), name.to_owned(), value.start as usize);
                    // Neighbours with one value may be joined.
                    for base in value.start..value.end {
                        let key = (key.0.clone(), key.1.clone(), base as usize);
                        assert!((f64::from(value.value) - found[&key]).abs() < 1e-6);
                        count += 1;
                    }
                }
            }
            assert_eq!(count, found.keys().filter(|key| key.0 == track).count());
        }

        // BED: the calls from 0.4 on, two bases each, sorted.
        let bed = fs::read_to_string(out.join("sites.bed")).unwrap();
        let rows: Vec<Vec<&str>> = bed.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(rows.len(), found.values().filter(|score| **score >= 0.4).count());
        assert_eq!(summary["sites"], rows.len());
        for pair in rows.windows(2).filter(|pair| pair[0][0] == pair[1][0]) {
            assert!(pair[0][1].parse::<usize>().unwrap() <= pair[1][1].parse::<usize>().unwrap());
        }
        for row in &rows {
            let start: usize = row[1].parse().unwrap();
            assert_eq!(row[2].parse::<usize>().unwrap(), start + 2);
            let strand = if row[5] == "+" { "plus" } else { "minus" };
            // The intron's outermost base is the first of the two or the second.
            let first = matches!((row[3], row[5]), ("donor", "+") | ("acceptor", "-"));
            let score = found[&(format!("{}_{strand}", row[3]), row[0].to_owned(), start + usize::from(!first))];
            assert_eq!(row[4], format!("{:.0}", 1000.0 * score));
        }
    }

    // A part has the calls of the whole in it, whatever the number of threads.
    let whole = read_bedgraphs(&folder.path().join("all"));
    let out = folder.path().join("part");
    scan(
        &model,
        &genome,
        &out,
        &["--positions", "all", "--min-track-score", "0", "--region", "z:101-230", "--threads", "1"],
    );
    let part = whole.into_iter().filter(|((_, name, base), _)| name == "z" && (100..230).contains(base)).collect();
    assert_same(&read_bedgraphs(&out), &part);
}

/// The final files of a scan and their bytes, but for those with its time and its folder in them.
fn files(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let kept = entries.filter(|path| !["scan.json", "config.toml"].iter().any(|name| path.ends_with(name)));
    kept.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap_or_default())).collect()
}

#[test]
fn a_killed_scan_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let (unbroken, broken) = (folder.path().join("unbroken"), folder.path().join("broken"));
    let region = region_of_sample();
    let arguments = |out: &Path| -> Vec<String> {
        ["scan", "--genome", SAMPLE, "--region", &region, "--annotation", SAMPLE_GENES]
            .into_iter()
            .chain(["--model", text(&model), "--quiet", "--out", text(out)])
            .map(str::to_owned)
            .collect()
    };
    let run = |arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = helixgrad(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&arguments(&unbroken));

    let mut resumed = arguments(&broken);
    let mut kills = 0;
    while kills < 4 {
        let mut child =
            Command::new(env!("CARGO_BIN_EXE_helixgrad")).args(&resumed).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        let state = broken.join(".partial/state.json");
        let before = fs::metadata(&state).ok().and_then(|data| data.modified().ok());
        // Until another state is saved, and then a bit.
        while started.elapsed() < Duration::from_secs(60)
            && child.try_wait().unwrap().is_none()
            && fs::metadata(&state).ok().and_then(|data| data.modified().ok()) == before
        {
            sleep(Duration::from_millis(5));
        }
        sleep(Duration::from_millis(37 * kills));
        let _ = child.kill();
        let _ = child.wait();
        kills += 1;
        if broken.join("scan.json").exists() && !state.exists() {
            break;
        }
        if state.exists() && resumed.last().unwrap() != "--resume" {
            let refusal: Vec<&str> = resumed.iter().map(String::as_str).collect();
            assert!(refused(&refusal).contains("holds an interrupted scan"));
            resumed.push("--resume".into());
            let mut other: Vec<&str> = resumed.iter().map(String::as_str).collect();
            other.extend(["--positions", "all"]);
            let message = refused(&other);
            assert!(message.contains("--resume with another positions"), "{message}");
            // One base of the region is another one.
            let changed = folder.path().join("changed.2bit");
            let mut bytes = fs::read(SAMPLE).unwrap();
            bytes[300_000] ^= 3;
            fs::write(&changed, bytes).unwrap();
            let genome =
                |argument: &String| if argument == SAMPLE { text(&changed).to_owned() } else { argument.clone() };
            let other: Vec<String> = resumed.iter().map(genome).collect();
            let other: Vec<&str> = other.iter().map(String::as_str).collect();
            assert!(refused(&other).contains("--resume with another genome"));
        }
    }
    if !broken.join("scan.json").exists() || broken.join(".partial/state.json").exists() {
        // Its options are in its folder.
        run(&["scan", "--resume", "--quiet", "--out", text(&broken)].map(str::to_owned));
    }
    let (one, other) = (files(&unbroken), files(&broken));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    assert_eq!(one.len(), 11);
    for (name, bytes) in &one {
        assert!(bytes == &other[name], "{} differs after {kills} kills", name.display());
    }
    let again = arguments(&broken);
    assert!(refused(&again.iter().map(String::as_str).collect::<Vec<_>>()).contains("already holds a scan"));
}

/// The sample's only sequence, a part of 400 kb.
fn region_of_sample() -> String {
    format!("{}:1000001-1400000", open(Path::new(SAMPLE)).sequences()[0].name)
}

#[test]
fn sites_of_the_annotation_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let (out, bed) = (folder.path().join("scan"), folder.path().join("sites.bed"));
    let region = region_of_sample();
    let annotated = ["--annotation", SAMPLE_GENES, "--region", &region, "--keep-thresholds"];
    let summary = scan(&model, Path::new(SAMPLE), &out, &annotated);
    // The thresholds that stay with the model are those in the bodies of genes.
    let kept: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(model.join("scan_thresholds.json")).unwrap()).unwrap();
    for kind in ["donor", "acceptor"] {
        let of = |scope: &str| {
            let mut found = summary["accuracy"].as_array().unwrap().iter();
            found.find(|of| of["scope"] == scope && of["kind"] == kind).unwrap()["suggested"].clone()
        };
        assert_eq!(kept[kind], of("genes"));
        assert_ne!(kept[kind], of("everything"));
    }
    json(&["splice", "sites", "--genome", SAMPLE, "--annotation", SAMPLE_GENES, "--out", text(&bed)]);
    let bed = fs::read_to_string(bed).unwrap();
    for comparison in summary["accuracy"].as_array().unwrap() {
        let kind = comparison["kind"].as_str().unwrap();
        let in_region = |line: &&str| {
            let columns: Vec<&str> = line.split('\t').collect();
            let start: usize = columns[1].parse().unwrap();
            columns[3] == kind && (1_000_000..1_400_000).contains(&start)
        };
        let sites = bed.lines().filter(in_region).count();
        assert!(sites > 50);
        assert_eq!(comparison["sites"], sites);
        // Nearly all introns are GT..AG, and those are scored.
        assert!(comparison["scored_sites"].as_u64().unwrap() as f64 > 0.95 * sites as f64);
        assert!(comparison["average_precision"].as_f64().unwrap() < 0.5, "an untrained model");
    }
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("acceptors"));
    // What was scanned, and when; and axes that can be compared.
    for fact in [text(&model), SAMPLE, &region, "GT or AG", ">20"] {
        assert!(page.contains(fact), "{fact}");
    }
    assert_eq!((page.matches(">0.0</text>").count(), page.matches(">1.0</text>").count()), (4, 4));
    let curve = fs::read_to_string(out.join("precision_recall.tsv")).unwrap();
    assert!(curve.lines().count() > 100);
}

#[test]
fn bad_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let splice = splice_model(folder.path());
    let genome = genome(folder.path(), &[("x", &bases(1, 300))]);
    let out = folder.path().join("out");
    let with = |model: &Path, extra: &[&str]| {
        refused(&[&["scan", "--model", text(model), "--genome", text(&genome), "--out", text(&out)], extra].concat())
    };
    assert!(with(&splice, &["--region", "y"]).contains("no sequence \"y\""));
    assert!(with(&splice, &["--min-score", "1.5"]).contains("--min-score 1.5"));
    assert!(with(&splice, &["--window", "30"]).contains("trained on windows of 20"));
    assert!(with(&splice, &["--resume"]).contains("--resume, but"));
    let other = folder.path().join("other");
    let promoter = model(&other, &["no", "promoter"], Some(WIDTH));
    assert!(with(&promoter, &[]).contains("the model's classes are no, promoter"));
    let whole = model(&folder.path().join("whole"), &["donor", "acceptor", "neither"], None);
    assert!(with(&whole, &[]).contains("--window 80"));
    assert!(with(&whole, &["--window", "80"]).contains("at most 48"));
    assert!(!out.join("sites.bed").exists());
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("config.toml"), "mine").unwrap();
    assert!(with(&whole, &["--window", "24"]).contains("no folder of a scan"));
    assert_eq!(fs::read_to_string(out.join("config.toml")).unwrap(), "mine");
    // A scan that was killed before it had saved anything is begun anew.
    fs::create_dir(out.join(".partial")).unwrap();
    fs::rename(out.join("config.toml"), out.join(".partial/config.toml")).unwrap();
    scan(&whole, &genome, &out, &["--window", "24"]);
    assert!(out.join("sites.bed").exists());
}

/// A window of odd width has its extra base behind the boundary, on the strand that it is read on.
#[test]
fn odd_windows_are_alike_on_both_strands() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), &["donor", "acceptor", "neither"], None);
    let scorer = Scorer::new(checkpoint::load(&path).unwrap(), Device::Cpu, DType::F32).unwrap();
    let scorer = SpliceScorer::new(scorer, Some(21)).unwrap();
    let sequence = bases(41, 60);
    let turned = reverse_complement(&sequence);
    for at in 0..=sequence.len() {
        let (plus, minus) =
            (scorer.window(&sequence, at, Strand::Plus), scorer.window(&turned, sequence.len() - at, Strand::Minus));
        assert_eq!(plus, minus, "{at}");
        let expected = at.checked_sub(10).and_then(|start| sequence.get(start..at + 11));
        assert_eq!(plus.as_deref(), expected, "{at}");
    }
}
