//! What the two protocols promise.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use helixgrad::genome::region::Region;
use helixgrad::genome::splice::dataset::{Options, Origin, Protocol, SpliceDataset};
use helixgrad::genome::splice::split::{Part, Split};
use helixgrad::genome::splice::write::{Description, write_dataset};
use helixgrad::genome::splice::{Kind, Position};

use crate::inputs::{all_rows, made_up, model, options, strict};

#[test]
fn strict_datasets_are_balanced_labelled_and_free_of_leakage() {
    let made_up = made_up(40);
    let genome = &made_up.genome;
    let model = model(genome, &made_up.gff3, &[]).unwrap();
    let sites: HashMap<Position, Kind> =
        model.sites(genome, 30).sites.into_iter().map(|site| (site.position, site.kind)).collect();
    let sequences = |test: usize| Split::Sequences { test: vec![test], dev: vec![1] };
    for split in [Split::Region, sequences(2), sequences(0)] {
        let dataset = SpliceDataset::build(genome, &model, &strict(split.clone())).unwrap();
        assert_eq!(dataset.annotated, [240, 240]);
        // The copied gene has two donors and two acceptors; the N spoils one donor.
        assert_eq!((dataset.dropped.duplicate, dataset.dropped.incomplete, dataset.dropped.conflicting), (4, 1, 0));
        for part in Part::ALL {
            let [donors, _, neither] = dataset.counts(part);
            assert_eq!(donors, neither, "{part:?}");
            // As many decoys with GT as with AG.
            let of = |kind| dataset.part(part).iter().filter(|row| row.origin == Origin::Decoy(kind)).count() as u64;
            let decoys = [of(Kind::Donor), of(Kind::Acceptor)];
            assert_eq!(decoys, [neither.div_ceil(2), neither / 2], "{part:?}");
        }
        for (part, row) in all_rows(&dataset) {
            let mut bases = Vec::new();
            assert!(row.position.window(genome, 80, &mut bases));
            assert_eq!(row.bases, bases);
            match row.origin {
                Origin::Site(kind) => assert_eq!((sites[&row.position], row.label()), (kind, kind as u8)),
                Origin::Decoy(kind) => {
                    assert!(!sites.contains_key(&row.position) && row.label() == 2);
                    let dinucleotide = if kind == Kind::Donor { &bases[40..42] } else { &bases[38..40] };
                    assert_eq!(dinucleotide, if kind == Kind::Donor { b"GT" } else { b"AG" });
                }
                Origin::Random => panic!("no random places in the strict protocol"),
            }
            if let Split::Sequences { test, .. } = &split {
                assert_eq!(part == Part::Test, test.contains(&row.position.sequence));
                assert_eq!(part == Part::Dev, row.position.sequence == 1);
            }
        }
        if split == (Split::Sequences { test: vec![0], dev: vec![1] }) {
            // The copied gene's sites stay in the training part, though s1 comes first in the genome.
            assert_eq!((dataset.counts(Part::Train)[0], dataset.counts(Part::Test)[0]), (80, 77));
        }
        assert!(dataset.leakage.is_clean(), "{:?}", dataset.leakage);
        check_every_pair_of_rows(&dataset);
    }
}

#[test]
fn there_are_as_many_decoys_as_are_asked_for() {
    let made_up = made_up(40);
    let model = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    let of = |decoys| SpliceDataset::build(&made_up.genome, &model, &Options { decoys, ..strict(Split::Region) });
    let (one, four) = (of(1).unwrap(), of(4).unwrap());
    for part in Part::ALL {
        let [[donors, acceptors, few], [same_donors, same_acceptors, many]] = [one.counts(part), four.counts(part)];
        assert_eq!((same_donors, same_acceptors, many), (donors, acceptors, 4 * few), "{part:?}");
        let with_gt = four.part(part).iter().filter(|row| row.origin == Origin::Decoy(Kind::Donor)).count() as u64;
        assert_eq!(with_gt, many / 2);
    }
    assert!(four.leakage.is_clean());
    assert!(of(0).is_err() && of(1001).is_err());
}

/// Leakage looked for the slow way, without the report's code.
fn check_every_pair_of_rows(dataset: &SpliceDataset) {
    let rows: Vec<_> = all_rows(dataset).collect();
    let mut places = HashSet::new();
    for (index, (part, row)) in rows.iter().enumerate() {
        assert!(places.insert(row.position), "one place twice");
        for (other_part, other) in rows[..index].iter().filter(|(other_part, _)| other_part != part) {
            let near = row.position.boundary.abs_diff(other.position.boundary) < 80;
            assert!(!(near && row.position.sequence == other.position.sequence), "{part:?} {other_part:?}");
            assert_ne!(row.bases, other.bases);
        }
    }
}

#[test]
fn the_model_card_protocol_leaks_and_says_so() {
    let made_up = made_up(40);
    let model = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    let dataset = SpliceDataset::build(&made_up.genome, &model, &options(Protocol::ModelCard)).unwrap();
    // 239 donors are complete, so there are 239 of each class; 717 rows are cut at 573.6 and 645.3.
    assert_eq!([dataset.train.len(), dataset.dev.len(), dataset.test.len()], [573, 72, 72]);
    let counts = Part::ALL.map(|part| dataset.counts(part));
    assert_eq!([0, 1, 2].map(|class| counts.iter().map(|count| count[class]).sum::<u64>()), [239; 3]);
    assert!(dataset.leakage.shared_loci.train_test > 0 && dataset.leakage.overlapping_windows.train_test > 0);
    let annotated = model.annotated_positions();
    assert!(all_rows(&dataset).all(|(_, row)| (row.label() != 2) == annotated.contains(&row.position)));
}

#[test]
fn the_same_seed_gives_the_same_rows() {
    let made_up = made_up(20);
    let model = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    for protocol in [Protocol::Strict { split: Split::Region }, Protocol::ModelCard] {
        let build = |seed| {
            let options = Options { seed, max_sites: Some(90), ..options(protocol.clone()) };
            SpliceDataset::build(&made_up.genome, &model, &options).unwrap()
        };
        let (one, again, other) = (build(1), build(1), build(2));
        assert_eq!((&one.train, &one.dev, &one.test), (&again.train, &again.dev, &again.test));
        assert_ne!(one.train, other.train);
        let kept: u64 = Part::ALL.iter().map(|part| one.counts(*part)[1]).sum();
        assert!((86..=90).contains(&kept), "{kept}");
    }
}

#[test]
fn conflicting_windows_are_removed_with_all_their_copies() {
    let made_up = made_up(20);
    // The gap 300..400 becomes an intron on both strands: at its right end an acceptor of one gene and a donor of the
    // other share a window (the N hides its left end).
    let antisense = "s1\th\texon\t211\t300\t.\t-\t.\tParent=anti\ns1\th\texon\t401\t500\t.\t-\t.\tParent=anti\n";
    let dropped = |gff3: &str| {
        let model = model(&made_up.genome, gff3, &[]).unwrap();
        SpliceDataset::build(&made_up.genome, &model, &strict(Split::Region)).unwrap().dropped
    };
    assert_eq!(dropped(&made_up.gff3).conflicting, 0);
    assert_eq!(dropped(&format!("{}{antisense}", made_up.gff3)).conflicting, 2);
}

#[test]
fn sites_of_left_out_biotypes_are_no_decoys() {
    let made_up = made_up(20);
    // Transcripts of another biotype have a donor at nearly every base of every gene: nearly no GT decoy is left.
    let mut gff3 = made_up.gff3.clone();
    for name in ["s1", "s2", "s3"] {
        for start in (0..20).map(|gene| gene * 1000 + 200) {
            let strand = if start % 2000 == 200 { '+' } else { '-' };
            for base in start + 6..start + 494 {
                let exons = match strand {
                    '+' => [(start + 1, base), (start + 500, start + 500)],
                    _ => [(start + 1, start + 1), (base + 1, start + 500)],
                };
                let id = format!("other.{name}.{base}");
                gff3 += &format!("{name}\th\tmRNA\t1\t1\t.\t{strand}\t.\tID={id};biotype=y\n");
                for (first, last) in exons {
                    gff3 += &format!("{name}\th\texon\t{first}\t{last}\t.\t{strand}\t.\tParent={id}\n");
                }
            }
        }
    }
    let model = model(&made_up.genome, &gff3, &[]).unwrap();
    let options = Options { biotypes: vec!["x".into()], ..strict(Split::Region) };
    let dataset = SpliceDataset::build(&made_up.genome, &model, &options).unwrap();
    assert_eq!(dataset.annotated, [120, 120]);
    assert!(dataset.dropped.missing_negatives > 0);
    let annotated = model.annotated_positions();
    let decoys = all_rows(&dataset).filter(|(_, row)| row.label() == 2);
    assert_eq!(decoys.filter(|(_, row)| annotated.contains(&row.position)).count(), 0);
}

#[test]
fn parts_without_sites_and_odd_windows_are_refused() {
    let made_up = made_up(20);
    let model = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    let refuse = |options: Options| SpliceDataset::build(&made_up.genome, &model, &options).unwrap_err().to_string();
    assert!(refuse(Options { window: 81, ..strict(Split::Region) }).contains("even"));
    assert!(refuse(Options { window: 0, ..strict(Split::Region) }).contains("even"));
    assert!(refuse(strict(Split::Sequences { test: vec![0, 1, 2], dev: vec![] })).contains("train part has 0 donors"));
    assert!(refuse(strict(Split::Sequences { test: vec![1], dev: vec![1, 2] })).contains("s2 is to be in"));
    assert!(refuse(Options { window: 40_000, ..strict(Split::Region) }).contains("0 donors"));
    assert!(refuse(Options { window: u32::MAX - 1, ..strict(Split::Region) }).contains("0 donors"));
}

#[test]
fn given_regions_are_held_out_with_the_genes_that_reach_into_them() {
    let made_up = made_up(20);
    let model = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    // Gene i covers 200..700 of its thousand bases.
    let region = |index, range| Region { index, range };
    let split = |test, dev| strict(Split::Regions { test, dev });
    let options = split(vec![region(1, 5_600..9_000)], vec![region(0, 0..4_000), region(2, 12_000..14_000)]);
    let dataset = SpliceDataset::build(&made_up.genome, &model, &options).unwrap();
    let found = |part| dataset.regions(&[part]);
    let test = &found(Part::Test)[0];
    assert!(test.index == 1 && (5_160..5_400).contains(&test.range.start) && test.range.end < 9_000, "{test:?}");
    assert_eq!(found(Part::Dev).iter().map(|region| region.index).collect::<Vec<_>>(), [0, 2]);
    assert!(dataset.leakage.is_clean());
    let both = split(vec![region(1, 5_000..5_300)], vec![region(1, 5_600..6_000)]);
    let message = SpliceDataset::build(&made_up.genome, &model, &both).unwrap_err().to_string();
    assert!(message.contains("s2:5201-5700 reach into the test and the dev part"), "{message}");
}

/// Genes closer to each other than a window is wide are one locus, which no boundary of parts cuts.
#[test]
fn neighbours_within_a_window_are_in_one_part() {
    let made_up = made_up(20);
    // Behind gene 5 of s2, which covers 5200..5700; its window reaches to 5740.
    let neighbour = |gap: usize| {
        let start = 5700 + gap;
        let exon = |from: usize, to: usize| format!("s2\th\texon\t{from}\t{to}\t.\t+\t.\tParent=near;biotype=x\n");
        format!("{}{}{}", made_up.gff3, exon(start + 1, start + 70), exon(start + 170, start + 250))
    };
    let region = |index, range| Region { index, range };
    let split = Split::Regions { test: vec![region(1, 5_000..5_500)], dev: vec![region(0, 0..4_000)] };
    for (gap, part) in [(1, Part::Test), (30, Part::Test), (79, Part::Test), (80, Part::Train)] {
        let model = model(&made_up.genome, &neighbour(gap), &[]).unwrap();
        let dataset = SpliceDataset::build(&made_up.genome, &model, &strict(split.clone())).unwrap();
        let of_neighbour = |row: &&(Part, &helixgrad::genome::splice::dataset::Window)| {
            let position = row.1.position;
            row.1.label() == 0 && position.sequence == 1 && position.boundary == (5770 + gap) as u32
        };
        let parts: Vec<Part> =
            all_rows(&dataset).collect::<Vec<_>>().iter().filter(of_neighbour).map(|row| row.0).collect();
        assert_eq!(parts, [part], "{gap}");
        check_every_pair_of_rows(&dataset);
    }
}

#[test]
fn the_folder_holds_what_the_rows_say() {
    let made_up = made_up(20);
    let model = model(&made_up.genome, &made_up.gff3, &[]).unwrap();
    let dataset = SpliceDataset::build(&made_up.genome, &model, &strict(Split::Region)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("set");
    let describe = |k| Description::new(&dataset, &made_up.genome, Path::new("a.gff3"), k);
    assert!(write_dataset(&out, &made_up.genome, &dataset, &describe(81)).is_err());
    assert!(write_dataset(&out, &made_up.genome, &dataset, &describe(0)).is_err());
    assert!(!out.exists());
    write_dataset(&out, &made_up.genome, &dataset, &describe(6)).unwrap();
    for part in Part::ALL {
        let text = fs::read_to_string(out.join(format!("{}.tsv", part.name()))).unwrap();
        assert_eq!(text.lines().next(), Some("sequence\tlabel\tname"));
        assert_eq!(text.lines().count(), dataset.part(part).len() + 1);
        for (line, row) in text.lines().skip(1).zip(dataset.part(part)) {
            let [kmers, label, name] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let Position { sequence, boundary, strand } = row.position;
            let place = format!("s{}:{}-{}({strand})", sequence + 1, boundary - 40, boundary + 40);
            assert_eq!(name, place);
            let kmers: Vec<_> = kmers.split(' ').collect();
            assert_eq!(kmers.len(), 75);
            assert!(kmers.iter().zip(row.bases.windows(6)).all(|(kmer, bases)| kmer.as_bytes() == bases));
            assert_eq!(label, row.label().to_string());
        }
    }
    let bed = fs::read_to_string(out.join("sites.bed")).unwrap();
    assert_eq!(bed.lines().count(), all_rows(&dataset).count());
    assert_eq!(bed.lines().filter(|line| line.ends_with("\ttest")).count(), dataset.test.len());
    let decoys = all_rows(&dataset).filter(|(_, row)| row.label() == 2).count();
    assert_eq!(bed.lines().filter(|line| line.contains("\tdecoy\t")).count(), decoys);
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("dataset.json")).unwrap()).unwrap();
    assert_eq!(json["label_names"], serde_json::json!(["donor", "acceptor", "neither"]));
    assert_eq!((&json["protocol"]["name"], &json["protocol"]["split"]["by"]), (&"strict".into(), &"region".into()));
    assert_eq!(json["parts"]["test"]["donor"], dataset.counts(Part::Test)[0]);
    assert_eq!(json["parts"]["test"]["sequences"], serde_json::json!(["s3"]));
    // Every row's window lies in its part's regions, and in no other's.
    let regions = |part: &str| -> Vec<Region> {
        let texts = json["parts"][part]["regions"].as_array().unwrap().iter();
        texts.map(|text| Region::parse(&made_up.genome, text.as_str().unwrap()).unwrap()).collect()
    };
    for (part, row) in all_rows(&dataset) {
        let range = row.position.boundary - 40..row.position.boundary + 40;
        let window = Region { index: row.position.sequence, range };
        for other in Part::ALL {
            let touches = regions(other.name()).iter().any(|region| region.touches(&window));
            assert_eq!(touches, part == other, "{part:?} {other:?} {window:?}");
            let holds = |region: &Region| {
                let (of, its) = (&region.range, &window.range);
                region.index == window.index && of.start <= its.start && its.end <= of.end
            };
            assert_eq!(regions(other.name()).iter().any(holds), part == other, "{part:?} {other:?} {window:?}");
        }
    }
    assert_eq!((regions("test").len(), regions("dev").len()), (1, 1));
    assert_eq!(json["leakage"]["shared_loci"]["train_test"], 0);
    assert_eq!((&json["k"], &json["window"], &json["seed"]), (&6.into(), &80.into(), &42.into()));
}
