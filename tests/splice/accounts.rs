//! Every transcript and every feature line of an annotation is used, as gffread uses it, or left out and counted.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::MultiGzDecoder;
use helixgrad::genome::annotation::{Annotation, Fates};
use helixgrad::genome::splice::dataset::SpliceDataset;
use helixgrad::genome::splice::split::Split;

use crate::inputs::{all_rows, helixgrad, made_up, model, pack, strict};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/grch37_X_46M-56M.gff3.gz");

fn read(text: &str) -> Annotation {
    let annotation = Annotation::read(Path::new("a.gff"), text.as_bytes()).unwrap();
    let features = text.lines().take_while(|line| !line.starts_with("##FASTA") && !line.starts_with('>'));
    let features = features.filter(|line| !line.starts_with('#') && !line.trim().is_empty()).count();
    assert_eq!(annotation.lines.all(), features as u64, "{:?}", annotation.lines);
    assert_eq!(annotation.fates.used, annotation.transcripts.len() as u64);
    annotation
}

/// `ID START..END,START..END` of each transcript, 1-based as the file writes them.
fn exons(annotation: &Annotation) -> Vec<String> {
    let of = |exon: &std::ops::Range<u32>| format!("{}..{}", exon.start + 1, exon.end);
    let all = annotation.transcripts.iter();
    all.map(|t| format!("{} {}", t.id, t.exons.iter().map(of).collect::<Vec<_>>().join(","))).collect()
}

fn left_out(fates: &Fates) -> Vec<(&str, u64)> {
    fates.left_out.iter().map(|(reason, left)| (*reason, left.count)).collect()
}

/// GTF lines from `FEATURE START END [NUMBER]`, all of transcript T1.
fn gtf(lines: &[&str]) -> String {
    let line = |text: &&str| {
        let columns: Vec<&str> = text.split(' ').collect();
        let number = columns.get(3).map_or(String::new(), |number| format!(" exon_number \"{number}\";"));
        let [feature, start, end] = columns[..3] else { panic!("{text}") };
        format!("s\tx\t{feature}\t{start}\t{end}\t.\t+\t.\tgene_id \"G1\"; transcript_id \"T1\";{number}\n")
    };
    lines.iter().map(line).collect()
}

/// GFF3 lines from `FEATURE START END ATTRIBUTES`, on the plus strand.
fn gff3(lines: &[&str]) -> String {
    let line = |text: &&str| {
        let columns: Vec<&str> = text.splitn(4, ' ').collect();
        format!("s\tx\t{}\t{}\t{}\t.\t+\t.\t{}\n", columns[0], columns[1], columns[2], columns[3])
    };
    "##gff-version 3\n".to_owned() + &lines.iter().map(line).collect::<String>()
}

#[test]
fn one_name_at_two_places_makes_two_transcripts() {
    let expected = ["T1 1001..1200,1501..1700", "T1 11001..11200,11501..11700"];
    let with_lines = gtf(&[
        "transcript 1001 1700",
        "exon 1001 1200",
        "exon 1501 1700",
        "transcript 11001 11700",
        "exon 11001 11200",
        "exon 11501 11700",
    ]);
    let numbered = gtf(&["exon 1001 1200 1", "exon 1501 1700 2", "exon 11001 11200 1", "exon 11501 11700 2"]);
    let distant = gtf(&["exon 1001 1200", "exon 1501 1700", "exon 9011001 9011200", "exon 9011501 9011700"]);
    let in_gff3 = gff3(&[
        "mRNA 11001 11700 ID=T1",
        "mRNA 1001 1700 ID=T1",
        "exon 1001 1200 Parent=T1",
        "exon 11001 11200 Parent=T1",
        "exon 1501 1700 Parent=T1",
        "exon 11501 11700 Parent=T1",
    ]);
    for text in [with_lines, numbered, distant.replace("9011", "0011"), in_gff3] {
        let annotation = read(&text);
        let mut found = exons(&annotation);
        found.sort();
        if text.contains("0011") {
            // Ten thousand bases may be an intron, nine million may not.
            assert_eq!(found.len(), 1);
            found = exons(&read(&distant)).into_iter().map(|text| text.replace("9011", "11")).collect();
        }
        assert_eq!(found, expected, "{text}");
        assert_eq!(left_out(&annotation.fates), []);
    }
}

#[test]
fn copies_at_one_place_are_told_apart_by_their_order_or_left_out() {
    let grouped = gtf(&[
        "transcript 1001 2200",
        "exon 1001 2200",
        "transcript 1001 2200",
        "exon 1001 1200",
        "exon 1501 1700",
        "exon 2001 2200",
    ]);
    assert_eq!(exons(&read(&grouped)), ["T1 1001..2200", "T1 1001..1200,1501..1700,2001..2200"]);
    let sorted = gtf(&[
        "transcript 1001 2200",
        "transcript 1001 2200",
        "exon 1001 1200",
        "exon 1001 2200",
        "exon 1501 1700",
        "exon 2001 2200",
    ]);
    let with_another = sorted + &gtf(&["exon 5001 5100"]).replace("T1", "T2");
    let annotation = read(&with_another);
    assert_eq!(exons(&annotation), ["T2 5001..5100"]);
    assert_eq!(left_out(&annotation.fates), [("of_one_name_and_not_told_apart", 1)]);
    assert_eq!(annotation.fates.left_out["of_one_name_and_not_told_apart"].first, ["T1"]);
    assert_eq!(left_out(&annotation.lines), [("of_transcripts_left_out", 6)]);
    // Lines that are there twice say nothing twice.
    let line_twice = gtf(&["transcript 1001 1700", "transcript 1001 1700", "exon 1001 1200", "exon 1501 1700"]);
    assert_eq!(exons(&read(&line_twice)), ["T1 1001..1200,1501..1700"]);
    let whole = gtf(&["transcript 1001 1700", "exon 1001 1200", "exon 1501 1700"]);
    assert_eq!(exons(&read(&(whole.clone() + &whole))), ["T1 1001..1200,1501..1700"; 2]);
    let twice = gtf(&["exon 1001 1200 1", "exon 1001 1200 1", "exon 1501 1700 2"]);
    assert_eq!(exons(&read(&twice)), ["T1 1001..1200,1501..1700"]);
}

#[test]
fn transcripts_of_coding_parts_have_their_introns() {
    let annotation = read(&gff3(&[
        "gene 1001 3200 ID=A",
        "mRNA 1001 3200 ID=t1;Parent=A",
        "exon 1001 1200 Parent=t1",
        "CDS 1051 1200 ID=c1;Parent=t1",
        "exon 3001 3200 Parent=t1",
        "CDS 3001 3100 ID=c1;Parent=t1",
        "mRNA 1001 3200 ID=t2;Parent=A",
        "five_prime_UTR 1001 1050 Parent=t2",
        "CDS 1051 1200 ID=c2;Parent=t2",
        "CDS 2101 2300 ID=c2;Parent=t2",
        "three_prime_UTR 2301 2310 Parent=t2",
        "gene 6001 6700 ID=B",
        "CDS 6001 6200 Parent=B",
        "CDS 6501 6700 Parent=B",
        "CDS 6501 6700 Parent=A",
        "polypeptide 1 9 ID=p",
        "CDS 7001 7002 Parent=p",
        "mRNA 8001 8100 ID=t3",
    ]));
    assert_eq!(exons(&annotation), ["t1 1001..1200,3001..3200", "t2 1001..1200,2101..2310", "B 6001..6200,6501..6700"]);
    assert_eq!(annotation.oddities.transcripts_of_coding_parts, 2);
    assert_eq!(left_out(&annotation.fates), [("without_exons", 1)]);
    let lines =
        [("inside_exons", 2), ("of_no_transcript", 2), ("of_other_features", 1), ("of_transcripts_left_out", 1)];
    assert_eq!(left_out(&annotation.lines), lines);
    // A part where there is no exon line.
    let annotation = read(&gff3(&["exon 101 200 Parent=t", "CDS 101 150 Parent=t", "CDS 301 350 Parent=t"]));
    assert_eq!((exons(&annotation), annotation.oddities.parts_outside_exons), (vec!["t 101..200,301..350".into()], 1));
}

/// A line, the exons that come of it, and the reasons that are counted.
type Case = (&'static str, &'static str, &'static [(&'static str, u64)]);

/// A part may lie in the exons, reach out of them, touch them, or lie elsewhere: each is counted as what it is, and none of them takes
/// an intron away.
#[test]
fn parts_that_reach_out_of_their_exons_are_told() {
    let cases: [Case; 12] = [
        ("CDS 101 200", "101..200,301..400", &[("inside_exons", 1)]),
        ("CDS 150 160", "101..200,301..400", &[("inside_exons", 1)]),
        ("CDS 101 400", "101..200,301..400", &[("partly_outside_exons", 1)]),
        ("CDS 151 250", "101..200,301..400", &[("partly_outside_exons", 1)]),
        ("CDS 251 310", "101..200,301..400", &[("partly_outside_exons", 1)]),
        ("CDS 1 500", "101..200,301..400", &[("partly_outside_exons", 1)]),
        // An intron of no bases is none.
        ("CDS 201 250", "101..200,301..400", &[("partly_outside_exons", 1)]),
        ("CDS 251 300", "101..200,301..400", &[("partly_outside_exons", 1)]),
        ("CDS 202 299", "101..200,202..299,301..400", &[]),
        ("CDS 402 450", "101..200,301..400,402..450", &[]),
        // Two exons without an intron between them.
        ("exon 201 220;CDS 150 210", "101..200,201..220,301..400", &[("inside_exons", 1)]),
        // Coding and untranslated parts of an exon that has no line.
        ("five_prime_UTR 501 550;CDS 551 600;CDS 590 620", "101..200,301..400,501..620", &[]),
    ];
    for (parts, expected, lines) in cases {
        let parts: Vec<String> = parts.split(';').map(|part| format!("{part} Parent=t")).collect();
        let exon_lines = ["exon 101 200 Parent=t", "exon 301 400 Parent=t"];
        let text: Vec<&str> = exon_lines.into_iter().chain(parts.iter().map(String::as_str)).collect();
        let annotation = read(&gff3(&text));
        assert_eq!(exons(&annotation), [format!("t {expected}")], "{parts:?}");
        assert_eq!(left_out(&annotation.lines), lines, "{parts:?}");
        let more = expected.split(',').count() as u64 - 2 - u64::from(parts[0].starts_with("exon"));
        assert_eq!(annotation.oddities.parts_outside_exons > 0, more > 0, "{parts:?}");
    }
}

/// Seconds that this thread has computed, where the system counts them: others may be busy, too.
fn computed() -> f64 {
    static STARTED: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    let counted = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = counted.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| STARTED.elapsed().as_secs_f64(), |nanoseconds| nanoseconds / 1e9)
}

/// A hundred thousand lines of one ID are read about as fast as those of many: nothing looks at each line for each of them.
#[test]
fn very_many_lines_of_one_id_take_no_time() {
    const COUNT: u32 = 100_000;
    let line = |feature: &str, sequence: u32, start: u32, attribute: &str| {
        format!("s{sequence}\tx\t{feature}\t{start}\t{}\t.\t+\t.\t{attribute}=t\n", start + 9)
    };
    let all = |of: &dyn Fn(u32) -> String| (0..COUNT).map(of).collect::<String>();
    let at_places = all(&|n| line("mRNA", 0, 1 + 20 * n, "ID") + &line("exon", 0, 1 + 20 * n, "Parent"));
    let at_one = all(&|_| line("mRNA", 0, 1, "ID")) + &all(&|_| line("exon", 0, 1, "Parent"));
    let repeated = all(&|_| line("mRNA", 0, 1, "ID")) + &line("exon", 0, 1, "Parent");
    let on_sequences = all(&|n| line("mRNA", n, 1, "ID") + &line("exon", n, 1, "Parent"));
    let parts = line("exon", 0, 1, "Parent") + &all(&|n| line("CDS", 0, 20 * (COUNT - n), "Parent"));
    let count = u64::from(COUNT);
    for (what, text, used, left) in [
        ("at as many places", at_places, count, 0),
        ("at one place", at_one, 0, 1),
        ("of a line that is repeated", repeated, 1, 0),
        ("on as many sequences", on_sequences, count, 0),
        ("of parts outside its exon", parts, 1, 0),
    ] {
        let before = computed();
        let annotation = read(&text);
        assert_eq!((annotation.fates.used, annotation.fates.all()), (used, used + left), "{what}");
        // A look at each line for each of them takes tens of seconds.
        let seconds = computed() - before;
        assert!(seconds < 2.0, "{what}: {seconds} s");
    }
}

#[test]
fn joined_transcripts_are_left_out_and_their_ends_are_no_decoys() {
    let spliced = "exception=trans-splicing";
    for text in [
        gff3(&[
            "gene 1 900 ID=g;exception=trans-splicing",
            "mRNA 1 900 ID=t;Parent=g",
            "exon 1 90 Parent=t",
            "exon 500 900 Parent=t",
        ]),
        gff3(&[&format!("mRNA 1 900 ID=t;{spliced}"), "exon 1 90 Parent=t", "exon 500 900 Parent=t"]),
        gff3(&[&format!("exon 1 90 Parent=t;{spliced}"), "exon 500 900 Parent=t"]),
        gtf(&["exon 1 90", "exon 500 900"]).replace("T1\";", "T1\"; exception \"trans-splicing\";"),
    ] {
        let more = if text.starts_with('#') {
            "s\tx\texon\t1\t2\t.\t+\t.\tParent=u\n"
        } else {
            "s\tx\texon\t1\t2\t.\t+\t.\tgene_id \"u\"; transcript_id \"u\";\n"
        };
        let annotation = read(&(text.clone() + more));
        assert_eq!(left_out(&annotation.fates), [("trans_spliced", 1)], "{text}");
        assert_eq!((annotation.transcripts.len(), annotation.doubtful.len()), (1, 2));
    }
    // Their numbers say that they are joined in another order.
    let turned = gtf(&["exon 1 90 2", "exon 500 600 1", "exon 800 900 3"]) + &gtf(&["exon 1 2"]).replace("T1", "T2");
    assert_eq!(left_out(&read(&turned).fates), [("exons_not_in_order", 1)]);
    for numbers in [["1", "2", "3"], ["3", "2", "1"]] {
        let lines = [("1 90", numbers[0]), ("500 600", numbers[1]), ("800 900", numbers[2])];
        let lines: Vec<String> = lines.iter().map(|(place, number)| format!("exon {place} {number}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(left_out(&read(&gtf(&lines)).fates), []);
    }

    // A transcript that is left out has an end at nearly every base: no GT decoy remains.
    let made_up = made_up(20);
    let mut text = made_up.gff3.clone();
    for name in ["s1", "s2", "s3"] {
        for start in (0..20).map(|gene| gene * 1000 + 200) {
            let strand = if start % 2000 == 200 { '+' } else { '-' };
            for base in (start + 2..start + 498).step_by(2) {
                text += &format!(
                    "{name}\th\texon\t{base}\t{base}\t.\t{strand}\t.\tParent=joined;exception=trans-splicing\n"
                );
            }
        }
    }
    let model = model(&made_up.genome, &text, &[]).unwrap();
    let dataset = SpliceDataset::build(&made_up.genome, &model, &strict(Split::Region)).unwrap();
    assert_eq!(dataset.transcripts.left_out["trans_spliced"].count, 3);
    assert!(dataset.dropped.missing_negatives > 0);
    let inside = |boundary: u32| (2..496).contains(&((boundary + 800) % 1000));
    assert!(all_rows(&dataset).all(|(_, row)| row.label() != 2 || !inside(row.position.boundary)));
}

#[test]
fn attributes_and_kinds_are_read_as_they_are_meant() {
    for (what, text) in [
        (
            "`;` inside a note",
            gff3(&[
                "mRNA 1 90 ID=t;Note=a; b",
                "exon 1 20 Note=first; second part;Parent=t",
                "exon 60 90 Note=a; b;Parent=t",
            ]),
        ),
        ("pseudogenic", gff3(&["mRNA 1 90 ID=t", "pseudogenic_exon 1 20 Parent=t", "pseudogenic_exon 60 90 Parent=t"])),
        ("upper case", gff3(&["EXON 1 20 Parent=t", "Exon 60 90 Parent=t"])),
        ("blanks", gff3(&["exon 1 20 Note=x; Parent=t", "exon 60 90 Note=x; Parent = t"])),
        ("directive", gff3(&["exon 1 20 Parent=t", "exon 60 90 Parent=t"]) + "##FASTA \n>s\nACGT\n"),
        (
            "`;` in a quotation",
            gtf(&["exon 1 20", "exon 60 90"]).replace("gene_id", "note \"a; \"b\" c\"; gene_id").replace("T1", "t"),
        ),
    ] {
        assert_eq!(exons(&read(&text)), ["t 1..20,60..90"], "{what}");
    }
    let biotype = read(&gff3(&[
        "gene 1 90 ID=g;Note=kinase; membrane bound;biotype=protein_coding",
        "mRNA 1 90 ID=t;Note=kinase; membrane bound;Parent=g",
        "exon 1 90 Parent=t",
    ]));
    assert_eq!(biotype.transcripts[0].biotype.as_deref(), Some("protein_coding"));
    let escaped = gff3(&["exon 1 90 Parent=t%2C1", "exon 1 90 Parent=t%2C2"]).replace("s\t", "gi%7C1\t");
    let escaped = read(&escaped);
    assert_eq!(
        (exons(&escaped), &*escaped.transcripts[0].sequence),
        (vec!["t,1 1..90".into(), "t,2 1..90".into()], "gi|1")
    );
}

#[test]
fn circles_are_no_other_assembly() {
    let folder = tempfile::tempdir().unwrap();
    let genome = pack(&folder.path().join("g.2bit"), &[("s", vec![b'A'; 1000]), ("MT", vec![b'C'; 300])]);
    let text = gff3(&["exon 101 120 Parent=t1", "exon 151 170 Parent=t1"])
        + "MT\tx\tregion\t1\t300\t.\t+\t.\tID=MT:1..300;Is_circular=true\nMT\tx\texon\t281\t315\t.\t+\t.\tParent=t2\n";
    let placed = model(&genome, &text, &[]).unwrap();
    assert_eq!(left_out(&placed.fates), [("past_the_end_of_a_circular_sequence", 1)]);
    assert_eq!((placed.transcripts.len(), placed.fates.all()), (1, 2));
    // No decoys at the ends of its exon, behind the end of the circle neither.
    let places = placed.annotated_positions();
    let on_circle: BTreeSet<u32> =
        places.iter().filter(|place| place.sequence == 1).map(|place| place.boundary).collect();
    assert_eq!(on_circle, BTreeSet::from([15, 280]));
    let message = model(&genome, &text.replace(";Is_circular=true", ""), &[]).unwrap_err().to_string();
    assert!(message.contains("t2") && message.contains("Is_circular"), "{message}");
}

#[test]
fn commands_and_dataset_json_tell_the_accounts() {
    let made_up = made_up(20);
    let folder = tempfile::tempdir().unwrap();
    let (gff3, out) = (folder.path().join("a.gff3"), folder.path().join("set"));
    let more = "s1\th\tmRNA\t1\t90\t.\t+\t.\tID=bare;biotype=x\nelsewhere\th\texon\t1\t90\t.\t+\t.\tParent=far\n\
        s2\th\tregion\t1\t90\t.\t+\t.\tID=region\ns1\th\texon\t1\t90\t.\t+\t.\tParent=other\n";
    fs::write(&gff3, made_up.gff3.clone() + more).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (genome, gff3_text, out_text) = (text(&made_up.path), text(&gff3), text(&out));
    let source = ["--genome", &genome, "--annotation", &gff3_text, "--biotype", "x"];
    let command = ["splice", "dataset", "--k", "3", "--window", "80", "--out", &out_text];
    let output = helixgrad(&[&command[..], &source].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("dataset.json")).unwrap()).unwrap();
    let expected = serde_json::json!({ "all": 63, "used": 60, "left_out": {
        "of_other_biotypes": { "count": 1, "first": ["other"] },
        "on_sequences_that_the_genome_lacks": { "count": 1, "first": ["far"] },
        "without_exons": { "count": 1, "first": ["bare"] },
    }});
    assert_eq!(json["transcripts"], expected);
    let lines = serde_json::json!({ "all": 244, "used": 242, "left_out": {
        "of_other_features": { "count": 1 }, "of_transcripts_left_out": { "count": 1 },
    }});
    assert_eq!(json["feature_lines"], lines);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        stdout.contains("transcripts: 60 of 63 used; left out: 1 of other biotypes (other), 1 on sequences"),
        "{stdout}"
    );
    assert!(stderr.contains("without exons (bare)"), "{stderr}");
    let bed = text(&folder.path().join("s.bed"));
    let output = helixgrad(&[&["splice", "sites", "--out", &bed], &source[..]].concat());
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("feature lines: 242 of 244 used; left out: 1 of other features"), "{stdout}");
}

type Introns = BTreeSet<(String, u32, u32, char)>;

fn introns(annotation: &Annotation) -> Introns {
    let of = |t: &helixgrad::genome::annotation::Transcript| {
        let (sequence, strand) = (t.sequence.to_string(), t.strand.symbol());
        t.introns(1).map(move |gap| (sequence.clone(), gap.start, gap.end, strand)).collect::<Vec<_>>()
    };
    annotation.transcripts.iter().flat_map(of).collect()
}

/// The introns that gffread finds in a file; `None` where it is not installed.
fn introns_of_gffread(path: &Path) -> Option<Introns> {
    let output = Command::new("gffread").arg(path).args(["-T", "-o-"]).output().ok()?;
    let text = String::from_utf8(output.stdout).unwrap();
    let (mut introns, mut before) = (Introns::new(), (String::new(), 0, String::new()));
    // CDS lines are the exons of a transcript without others.
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let id = |line: &[&str]| line[8].split("transcript_id \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let with_exons: BTreeSet<String> = lines.iter().filter(|line| line[2] == "exon").map(|line| id(line)).collect();
    for line in &lines {
        if line[2] == "exon" || (line[2] == "CDS" && !with_exons.contains(&id(line))) {
            let (start, end): (u32, u32) = (line[3].parse().unwrap(), line[4].parse().unwrap());
            if before.0 == id(line) && before.2 == line[0] && start - 1 > before.1 {
                introns.insert((line[0].to_owned(), before.1, start - 1, line[6].chars().next().unwrap()));
            }
            before = (id(line), end, line[0].to_owned());
        }
    }
    Some(introns)
}

fn plain(path: &Path) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

/// The exon lines of every third transcript turned into lines of another kind.
fn thinned(text: &str, kind: &str) -> String {
    let parent = |line: &str| line.split("Parent=").nth(1).map(|rest| rest.split(';').next().unwrap().to_owned());
    let of_third = |line: &str| parent(line).is_some_and(|id| id.bytes().map(u32::from).sum::<u32>() % 3 == 0);
    let keep = |line: &&str| kind != "CDS" || !(of_third(line) && (line.contains("\tCDS\t") || line.contains("UTR\t")));
    let turned = |line: &str| {
        if of_third(line) { line.replace("\texon\t", &format!("\t{kind}\t")) } else { line.to_owned() }
    };
    text.lines().filter(keep).map(|line| turned(line) + "\n").collect()
}

#[test]
fn real_annotations_have_the_introns_that_gffread_finds() {
    let shared = std::env::var("HELIXGRAD_SHARED").unwrap_or_else(|_| "../shared".into());
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join(shared).join("data");
    let files = [
        PathBuf::from(SAMPLE),
        shared.join("grch37_chrX_70M/GRCh37.chrX_1-69999930.gff3.gz"),
        shared.join("grch38_chr9_1M/chr9_1_1000000.gtf.gz"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for path in files {
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            continue;
        }
        let whole = plain(&path);
        let mut whole_introns = None;
        for kind in ["exon", "CDS", "pseudogenic_exon"] {
            let text = if kind == "exon" { whole.clone() } else { thinned(&whole, kind) };
            let file = folder.path().join(if whole.starts_with("##gff") { "a.gff3" } else { "a.gtf" });
            fs::write(&file, &text).unwrap();
            let annotation = read(&text);
            let ours = introns(&annotation);
            let whole_introns = whole_introns.get_or_insert_with(|| ours.clone());
            assert_eq!(&ours, whole_introns, "{kind}: an intron is one, whatever its exons are called");
            match introns_of_gffread(&file) {
                None => println!("skipped: gffread is not installed"),
                Some(theirs) => {
                    let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
                    assert!(ours.len() > 100 && differ.is_empty(), "{} {kind}: {differ:?}", path.display());
                    println!("{} as {kind}: {} introns, as gffread has them", path.display(), ours.len());
                }
            }
        }
    }
}

/// The cases in `shared/cases`, with the files as they are there.
#[test]
fn public_cases_come_out_as_expected() {
    let shared = std::env::var("HELIXGRAD_SHARED").unwrap_or_else(|_| "../shared".into());
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join(shared).join("cases");
    if !cases.exists() {
        println!("skipped: {} is not there", cases.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let sites = |case: &str, file: &str| {
        let (genome, bed) = (text(&folder.path().join(format!("{case}.2bit"))), text(&folder.path().join("s.bed")));
        let fasta = text(&cases.join(case).join("g.fa"));
        assert!(helixgrad(&["genome", "pack", &fasta, &genome]).status.success());
        let annotation = text(&cases.join(case).join(file));
        let output = helixgrad(&["splice", "sites", "--genome", &genome, "--annotation", &annotation, "--out", &bed]);
        let sites = fs::read_to_string(&bed).map_or(0, |text| text.lines().count());
        let _ = fs::remove_file(&bed);
        (output.status.code().unwrap(), sites)
    };
    assert_eq!(sites("01-duplicate-transcript-id", "two_loci.gtf"), (0, 8));
    assert_eq!(sites("01-duplicate-transcript-id", "overlapping.gtf"), (0, 4));
    assert_eq!(sites("02-cds-only-among-exon-transcripts", "mixed.gff3"), (0, 8));
    assert_eq!(sites("04-circular-past-the-end", "circular.gff3"), (0, 2));
    for entry in fs::read_dir(cases.join("19-gff3-escapes-and-types")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".gff3") else { continue };
        let expected = match stem {
            "strand_question_mark" | "strand_as_number" | "trailing_tab" | "ten_columns" => (2, 0),
            "escaped_comma_in_id" | "pseudogenic_exon" | "unescaped_semicolon_and_biotype" => (0, 4),
            _ => (0, 2),
        };
        assert_eq!(sites("19-gff3-escapes-and-types", &name), expected, "{name}");
    }
}
