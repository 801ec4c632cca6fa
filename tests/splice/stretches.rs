//! Long windows: every place of every gene once, with the class that the annotation says, counted a second time without windows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;

use helixgrad::genome::annotation::Strand;
use helixgrad::genome::splice::split::{Part, Split};
use helixgrad::genome::splice::stretches::{Counts, Options, Stretch, Stretches};
use helixgrad::genome::splice::{Kind, reverse_complement};
use helixgrad::genome::twobit::Genome;

use crate::inputs::{MadeUp, helixgrad, made_up, model};

const WINDOW: u32 = 240;
const MARGIN: u32 = 40;

fn options(split: Split) -> Options {
    Options { split, window: WINDOW, margin: MARGIN, min_intron: 30, biotypes: Vec::new(), background: 1.0, seed: 1 }
}

fn by_sequence() -> Split {
    Split::Sequences { test: vec![2], dev: vec![1] }
}

/// Sequence, strand and boundary of every labelled place of the windows, with its label.
type Labels = BTreeMap<(usize, Strand, u32), u8>;

/// The labels of a part's windows; every window is what the genome has there, and no place is labelled twice.
fn labels_of(stretches: &Stretches, genome: &Genome, part: Part, known: &mut HashSet<Box<[u8]>>) -> (Labels, Counts) {
    let mut labels = Labels::new();
    let mut check = |stretch: &Stretch, sequence: usize, strand: Strand| {
        let mut bases = Vec::new();
        genome.decode(sequence, stretch.start..stretch.start + WINDOW, &mut bases);
        if strand == Strand::Minus {
            reverse_complement(&mut bases);
        }
        assert_eq!((&stretch.bases, stretch.labels.len()), (&bases, bases.len()));
        for (at, label) in (0_u32..).zip(&stretch.labels).filter(|(_, label)| **label != b'.') {
            let from_start = if strand == Strand::Plus { at } else { WINDOW - at };
            let before = labels.insert((sequence, strand, stretch.start + from_start), *label);
            assert_eq!(before, None, "a place in two windows");
            assert!((MARGIN..=WINDOW - MARGIN).contains(&at));
        }
        Ok(())
    };
    let counts = stretches.of_part(part, known, &mut check).unwrap();
    (labels, counts)
}

/// What the annotation says of the genes on `sequence`: each boundary between two bases of a gene's body.
fn expected(made_up: &MadeUp, sequence: usize) -> (Labels, u64) {
    let genome = &made_up.genome;
    let genes = model(genome, &made_up.gff3, &[]).unwrap();
    let sites: HashMap<_, _> =
        genes.sites(genome, 30).sites.into_iter().map(|site| (site.position, site.kind)).collect();
    let length = genome.sequences()[sequence].length;
    let mut plus = Vec::new();
    genome.decode(sequence, 0..length, &mut plus);
    let (mut labels, mut unlabelled) = (Labels::new(), 0);
    for placed in genes.transcripts.iter().filter(|placed| placed.sequence == sequence) {
        let (strand, span) = (placed.transcript.strand, placed.transcript.span());
        for boundary in span.start + 1..span.end {
            let kind = sites.iter().find(|(p, _)| (p.sequence, p.strand, p.boundary) == (sequence, strand, boundary));
            let around = boundary.checked_sub(MARGIN).zip(Some(boundary + MARGIN).filter(|end| *end <= length));
            let is_known = around.is_some_and(|(start, end)| !plus[start as usize..end as usize].contains(&b'N'));
            let [before, after] = [&plus[boundary as usize - 2..boundary as usize], &plus[boundary as usize..][..2]];
            let (is_donor, is_acceptor) = match strand {
                Strand::Plus => (after == b"GT", before == b"AG"),
                Strand::Minus => (before == b"AC", after == b"CT"),
            };
            let label = match kind {
                _ if !is_known => None,
                Some((_, Kind::Donor)) => is_donor.then_some(b'0'),
                Some((_, Kind::Acceptor)) => is_acceptor.then_some(b'1'),
                None => (is_donor || is_acceptor).then_some(b'2'),
            };
            match label {
                Some(label) => drop(labels.insert((sequence, strand, boundary), label)),
                None => unlabelled += u64::from(kind.is_some()),
            }
        }
    }
    (labels, unlabelled)
}

#[test]
fn every_place_of_every_gene_is_labelled_once_as_the_annotation_says() {
    let made_up = made_up(6);
    let genes = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    let stretches = Stretches::new(&made_up.genome, &genes, &options(by_sequence())).unwrap();
    let mut known = HashSet::new();
    for (part, sequence) in Part::ALL.into_iter().zip(0..) {
        let (labels, counts) = labels_of(&stretches, &made_up.genome, part, &mut known);
        let (expected, unlabelled) = expected(&made_up, sequence);
        assert_eq!(labels, expected, "{part:?}");
        let count = |label: u8| expected.values().filter(|found| **found == label).count() as u64;
        assert_eq!([counts.donor, counts.acceptor, counts.neither], [b'0', b'1', b'2'].map(count));
        // The N behind the first donor of s1.
        assert_eq!((counts.unlabelled_sites, unlabelled), (u64::from(part == Part::Train), unlabelled));
        assert_eq!(unlabelled, u64::from(part == Part::Train));
        // Gene 1 of s3 is a copy of gene 1 of s1: its two introns' four sites.
        assert_eq!(counts.sites_known_from_training, if part == Part::Test { 4 } else { 0 });
        assert_eq!(stretches.regions(part).len(), 1);
    }
    assert_eq!(stretches.annotated, [36, 36]);
}

/// Ends of exons of transcripts that were not asked for are no decoys, and no sites either.
#[test]
fn what_another_transcript_has_as_a_site_is_not_asked_for() {
    let made_up = made_up(6);
    let options = Options { biotypes: vec!["x".into()], ..options(by_sequence()) };
    let labels = |gff3: &str| {
        let genes = model(&made_up.genome, gff3, &[]).unwrap();
        let stretches = Stretches::new(&made_up.genome, &genes, &options).unwrap();
        labels_of(&stretches, &made_up.genome, Part::Train, &mut HashSet::new()).0
    };
    let before = labels(&made_up.gff3);
    // A GT in the first gene, which is on the plus strand, becomes the donor of an intron of 40 bases.
    let is_decoy = |((sequence, strand, boundary), label): &(&(usize, Strand, u32), &u8)| {
        let mut bases = Vec::new();
        made_up.genome.decode(*sequence, *boundary..boundary + 2, &mut bases);
        **label == b'2' && *strand == Strand::Plus && bases == b"GT" && (320..600).contains(boundary)
    };
    let place = *before.iter().find(is_decoy).unwrap().0;
    let mut gff3 = made_up.gff3.clone();
    let exons = [(place.2 - 30, place.2), (place.2 + 40, place.2 + 80)];
    gff3 += &format!("s1\th\tmRNA\t{}\t{}\t.\t+\t.\tID=other;biotype=y\n", exons[0].0 + 1, exons[1].1);
    exons
        .iter()
        .for_each(|(start, end)| gff3 += &format!("s1\th\texon\t{}\t{end}\t.\t+\t.\tParent=other\n", start + 1));
    let after = labels(&gff3);
    assert_eq!((before[&place], after.get(&place)), (b'2', None));
    let lost: Vec<u32> = before.keys().filter(|place| !after.contains_key(place)).map(|place| place.2).collect();
    assert!(lost.iter().all(|boundary| [place.2, place.2 + 40].contains(boundary)), "{lost:?}");
    assert!(after.iter().all(|(place, label)| before.get(place) == Some(label)));
}

/// Nothing is lost without a word where no window fits: 12 donors and 12 acceptors on each sequence.
#[test]
fn sites_of_sequences_shorter_than_a_window_are_counted() {
    let made_up = made_up(6);
    let genes = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    let options = Options { window: 7000, ..options(by_sequence()) };
    let stretches = Stretches::new(&made_up.genome, &genes, &options).unwrap();
    for part in Part::ALL {
        let counts = stretches.of_part(part, &mut HashSet::new(), &mut |_, _, _| panic!("a window")).unwrap();
        assert_eq!((counts.windows, counts.unlabelled_sites), (0, 24), "{part:?}");
    }
}

#[test]
fn of_the_training_windows_without_a_site_a_share_is_kept() {
    let made_up = made_up(40);
    let genes = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    let of = |background: f64, seed: u64| {
        let options = Options { background, seed, window: 100, margin: 20, ..options(by_sequence()) };
        let stretches = Stretches::new(&made_up.genome, &genes, &options).unwrap();
        let (mut rows, mut known) = (Vec::new(), HashSet::new());
        let mut keep = |stretch: &Stretch, _, _| {
            rows.push(stretch.clone());
            Ok(())
        };
        let train = stretches.of_part(Part::Train, &mut known, &mut keep).unwrap();
        let dev = stretches.of_part(Part::Dev, &mut known, &mut |_, _, _| Ok(())).unwrap();
        (rows, train, dev)
    };
    let (all, train, dev) = of(1.0, 1);
    assert_eq!((train.windows_left_out, all.len() as u64), (0, train.windows));
    let (some, part, same_dev) = of(0.3, 1);
    assert_eq!((part.windows + part.windows_left_out, dev), (train.windows, same_dev));
    assert_eq!((part.donor, part.acceptor), (train.donor, train.acceptor), "no site is lost");
    let has_site = |stretch: &&Stretch| stretch.labels.iter().any(|label| matches!(label, b'0' | b'1'));
    let [before, after] = [&all, &some].map(|rows| rows.iter().filter(|row| !has_site(row)).count() as f64);
    assert!(before > 60.0 && (after - 0.3 * before).abs() < 4.0 * (0.21 * before).sqrt(), "{after} of {before}");
    assert_eq!(of(0.3, 1).0, some);
    assert_ne!(of(0.3, 2).0, some);
}

#[test]
fn the_command_writes_what_finetune_reads() {
    let made_up = made_up(40);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("a.gff3"), &made_up.gff3).unwrap();
    let run = |extra: &[&str]| {
        let (genome, annotation, out) = (made_up.path.to_str().unwrap(), path("a.gff3"), path("out"));
        let all = ["splice", "stretches", "--genome", genome, "--annotation", &annotation, "--out", &out, "--json"];
        helixgrad(&[&all, extra].concat())
    };
    let output = run(&["--window", "200", "--margin", "30", "--background", "0.5"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(path("out/dataset.json")).unwrap()).unwrap();
    assert_eq!(
        (&told["parts"], &kept["label_names"]),
        (&kept["parts"], &serde_json::json!(["donor", "acceptor", "neither"]))
    );
    for part in ["train", "dev", "test"] {
        let table = fs::read_to_string(path(&format!("out/{part}.tsv"))).unwrap();
        assert_eq!(table.lines().count() as u64, 1 + kept["parts"][part]["windows"].as_u64().unwrap());
        for line in table.lines().skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            assert_eq!((columns.len(), columns[0].len(), columns[1].len()), (3, 200, 200));
        }
    }
    for (extra, expected) in [
        (["--margin", "10"], "margins of 10"),
        (["--margin", "129"], "at most a quarter"),
        (["--background", "1.5"], "--background 1.5"),
        (["--biotype", "y"], "no transcript has the biotype y"),
        (["--test-region", "s3"], "a test part, but no dev part"),
        (["--window", "5000"], "has no genes"),
    ] {
        let output = run(&extra);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains(expected), "{extra:?}: {message}");
    }
}
