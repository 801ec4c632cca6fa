//! Variants against whole haplotypes scored by a plain scorer; and what must not change in a VCF file.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use helixgrad::genome::alias::Aliases;
use helixgrad::genome::annotation::Strand;
use helixgrad::genome::splice::Kind;
use helixgrad::inference::variants::Annotator;
use proptest::prelude::*;
use proptest::sample::Index;

use super::support::*;

const HEADER: &str = "##fileformat=VCFv4.2\n##contig=<ID=x>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n";
const DISTANCE: usize = 50;

/// Score and exon base (0-based) of acceptor gain, acceptor loss, donor gain, donor loss.
type Deltas = [(f64, i64); 4];

/// 0 for a site without its GT or AG, whatever lies around it.
fn probability(plain: &mut Plain, bases: &[u8], b: usize, strand: Strand, kind: Kind, gt_ag: bool) -> Option<f64> {
    let (read, at) = match strand {
        Strand::Plus => (bases.to_vec(), b),
        Strand::Minus => (reverse_complement(bases), bases.len() - b),
    };
    let has_signal = if kind == Kind::Donor { read[at..].starts_with(b"GT") } else { read[..at].ends_with(b"AG") };
    if gt_ag && !has_signal {
        return Some(0.0);
    }
    plain.site(bases, b, strand, gt_ag).map(|scores| scores[kind as usize])
}

/// The same from whole haplotypes. `at` is the first changed base, as the record writes it.
fn expected(
    plain: &mut Plain,
    sequence: &[u8],
    at: usize,
    (replaced, inserted): (usize, &[u8]),
    strand: Strand,
    gt_ag: bool,
) -> Deltas {
    let other = [&sequence[..at], inserted, &sequence[at + replaced..]].concat();
    // Wherever the same haplotype can be written.
    let is_place = |p: &usize| sequence[..*p] == other[..*p] && sequence[p + replaced..] == other[p + inserted.len()..];
    let places: Vec<usize> = (0..=sequence.len() - replaced).filter(is_place).collect();
    let (first, last) = (places[0], places[places.len() - 1]);
    assert!(places.contains(&at));
    // Pairs of one place: before the change, behind it, and one to one inside it where it has the same length.
    let mut pairs: Vec<(usize, usize)> = (0..=last).map(|b| (b, b)).collect();
    pairs.extend((first + replaced..=sequence.len()).map(|b| (b, b - replaced + inserted.len())));
    if replaced == inserted.len() {
        pairs.extend((at..at + replaced).map(|b| (b, b)));
    }
    let mut deltas = [(0.0, 0); 4];
    for kind in KINDS {
        for is_gain in [false, true] {
            let (here, there) = if is_gain { (other.as_slice(), sequence) } else { (sequence, other.as_slice()) };
            let changed = if is_gain { inserted.len() } else { replaced };
            let near = first.saturating_sub(DISTANCE)..=(last + changed + DISTANCE).min(here.len());
            for b in near {
                let Some(own) = probability(plain, here, b, strand, kind, gt_ag) else { continue };
                let mut best = 0.0_f64;
                let partners =
                    pairs.iter().map(|&(r, a)| if is_gain { (a, r) } else { (r, a) }).filter(|pair| pair.0 == b);
                let mut readable = true;
                for (_, partner) in partners {
                    match probability(plain, there, partner, strand, kind, gt_ag) {
                        Some(score) => best = best.max(score),
                        None => readable = false,
                    }
                }
                let delta = own - best;
                let index = match (kind, is_gain) {
                    (Kind::Acceptor, true) => 0,
                    (Kind::Acceptor, false) => 1,
                    (Kind::Donor, true) => 2,
                    (Kind::Donor, false) => 3,
                };
                if readable && delta > deltas[index].0 {
                    // The exon's base, in the reference.
                    let boundary = match is_gain {
                        false => b,
                        true if b <= first => b,
                        true if b >= first + inserted.len() => b - inserted.len() + replaced,
                        true => first + (b - first).min(replaced),
                    };
                    let before =
                        matches!((kind, strand), (Kind::Donor, Strand::Plus) | (Kind::Acceptor, Strand::Minus));
                    deltas[index] = (delta, boundary as i64 - i64::from(before));
                }
            }
        }
    }
    deltas
}

fn annotate(model: &Path, genome: &Path, vcf: &Path, out: &Path, extra: &[&str]) -> serde_json::Value {
    let command =
        ["variants", "--model", text(model), "--genome", text(genome), "--vcf", text(vcf), "--out", text(out)];
    json(&[&command, extra].concat())
}

/// The value of an INFO field in a line.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split('\t').nth(7)?.split(';').find_map(|field| field.trim_end().strip_prefix(name)?.strip_prefix('='))
}

#[test]
fn deltas_are_those_of_whole_haplotypes() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let mut sequence = bases(11, 400);
    sequence[390] = b'N';
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let mut plain = Plain::new(&model);
    // Position (1-based), bases replaced, bases inserted; an anchor is added where VCF needs one.
    let changes: [(usize, usize, &[u8]); 12] = [
        (200, 1, b"A"),
        (200, 1, b"C"),
        (200, 1, b"G"),
        (200, 1, b"T"),
        (151, 3, b""),
        (120, 0, b"GTAAG"),
        (121, 0, b"AG"),
        (90, 4, b"TT"),
        (60, 3, b"CAG"),
        (15, 1, b"A"),
        (5, 7, b""),
        (250, 30, b""),
    ];
    let (vcf, out) = (folder.path().join("in.vcf"), folder.path().join("out.vcf"));
    let mut records = String::from(HEADER);
    let mut asked = Vec::new();
    for (position, replaced, inserted) in changes {
        let at = position - 1;
        let own = &sequence[at..at + replaced];
        let text = |bases: &[u8]| String::from_utf8(bases.to_vec()).unwrap();
        let is_same_start =
            !own.is_empty() && !inserted.is_empty() && (own[0] == inserted[0] || own.last() == inserted.last());
        if own == inserted || is_same_start {
            continue;
        }
        let (position, reference, alternate) = if own.is_empty() || inserted.is_empty() {
            let anchor = sequence[at - 1];
            (position - 1, [&[anchor], own].concat(), [&[anchor], inserted].concat())
        } else {
            (position, own.to_vec(), inserted.to_vec())
        };
        // What a deletion or insertion takes off may have shared its end with the anchor; then it lies elsewhere.
        if reference.len() != alternate.len() && reference.last() == alternate.last() {
            continue;
        }
        records += &format!("x\t{position}\t.\t{}\t{}\t.\t.\t.\n", text(&reference), text(&alternate));
        asked.push((position, at, replaced, inserted));
    }
    fs::write(&vcf, records).unwrap();
    assert!(asked.len() >= 8, "{}", asked.len());
    for (positions, gt_ag) in [("gt-ag", true), ("all", false)] {
        let summary = annotate(&model, &genome, &vcf, &out, &["--positions", positions]);
        assert_eq!(summary["scored"], asked.len());
        let written = fs::read_to_string(&out).unwrap();
        let lines = written.lines().filter(|line| !line.starts_with('#'));
        let (mut changed, mut compared) = (0, 0);
        for (line, (position, at, replaced, inserted)) in lines.zip(&asked) {
            for (value, strand) in field(line, "HELIXGRAD").unwrap().split(',').zip(STRANDS) {
                let columns: Vec<&str> = value.split('|').collect();
                assert_eq!(columns.len(), 12);
                let strongest = (0..4).rev().max_by(|a, b| columns[3 + a].cmp(columns[3 + b])).unwrap();
                let names = ["acceptor_gain", "acceptor_loss", "donor_gain", "donor_loss"];
                let is_none = columns[3..7].iter().all(|score| *score == "0.000000");
                assert_eq!(columns[11], if is_none { "." } else { names[strongest] }, "{value}");
                assert_eq!(columns[2], strand.to_string());
                let deltas = expected(&mut plain, &sequence, *at, (*replaced, inserted), strand, gt_ag);
                for (index, (score, base)) in deltas.into_iter().enumerate() {
                    let found: f64 = columns[3 + index].parse().unwrap();
                    assert!((found - score).abs() < 1e-4, "{line} {strand}: {deltas:?}");
                    compared += 1;
                    if score > 1e-3 {
                        changed += 1;
                        assert_eq!(
                            columns[7 + index],
                            (base + 1 - *position as i64).to_string(),
                            "{line} {strand}: {deltas:?}"
                        );
                    }
                }
            }
        }
        assert_eq!(compared, 8 * asked.len());
        assert!(changed > asked.len(), "{changed} of {compared}");
    }
}

#[test]
fn every_column_but_info_stays_and_what_is_not_scored_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let sequence = bases(12, 300);
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let base = |position: usize| char::from(sequence[position - 1]);
    let other = |position: usize| if base(position) == 'A' { 'C' } else { 'A' };
    let long = "ACGT".repeat(30);
    let ends = ["\n", "\r\n"];
    for end in ends {
        let columns = format!("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta b{end}");
        let records = [
            format!("chrx\t100\trs1\t{}\t{}\t50\tPASS\tDP=3;AF=0.5\tGT:X\t0|1:é", base(100), other(100)),
            format!("chrx\t100\t.\t{}\t{},<DEL>,*\t.\t.\tEND=120\tGT\t0/0", base(100), other(100)),
            format!("chrx\t120\t.\t{}\t<NON_REF>\t.\t.\t.\tGT\t0/0", base(120)),
            format!("chrx\t120\t.\t{}\t{}{long}\t.\t.\t.\tGT\t.", base(120).to_ascii_lowercase(), base(120)),
            format!("chrx\t120\t.\t{}\t.\t.\t.\tDP=1\tGT\t.", base(120)),
            format!("chrx\t120\t.\tN\t{}\t.\t.\tDP=1\tGT\t.", other(120)),
            "chrx\t0\t.\tN\t<DEL>\t.\t.\tDP=1\tGT\t.".to_owned(),
            format!("chrx\t2\t.\t{}\t{}\t.\t.\tDP=1\tGT\t.", base(2), other(2)),
            "unplaced\t5\t.\tG\tA\t.\t.\t.\tGT\t1".to_owned(),
        ];
        let file = format!("##fileformat=VCFv4.3{end}##INFO=<ID=DP>{end}{columns}{}", records.join(end));
        let (vcf, out) = (folder.path().join("in.vcf.gz"), folder.path().join("out.vcf.gz"));
        let mut gzip = GzEncoder::new(fs::File::create(&vcf).unwrap(), flate2::Compression::fast());
        gzip.write_all(file.as_bytes()).unwrap();
        gzip.finish().unwrap();
        let summary = annotate(&model, &genome, &vcf, &out, &["--alias", "chrx=x"]);
        let packed = fs::read(&out).unwrap();
        // bgzip: its extra field, and the empty block at the end.
        assert_eq!(&packed[12..14], b"BC");
        assert_eq!(&packed[packed.len() - 28..packed.len() - 24], [0x1f, 0x8b, 8, 4]);
        let mut written = String::new();
        MultiGzDecoder::new(packed.as_slice()).read_to_string(&mut written).unwrap();
        assert_eq!(without_scores(&written), file);

        let lines: Vec<&str> = written.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(field(lines[0], "HELIXGRAD").unwrap().split(',').count(), 2);
        assert_eq!(field(lines[0], "HELIXGRAD_SKIPPED"), None);
        assert_eq!(field(lines[1], "HELIXGRAD").unwrap().split(',').count(), 2);
        assert_eq!(field(lines[1], "HELIXGRAD_SKIPPED"), Some("<DEL>|symbolic_allele,*|overlapping_deletion"));
        let reason = |line: usize| field(lines[line], "HELIXGRAD_SKIPPED").unwrap().rsplit('|').next().unwrap();
        let reasons = ["any_other_allele", "too_long", "no_alternate_allele", "unknown_bases", "symbolic_allele"];
        assert_eq!([2, 3, 4, 5, 6].map(reason), reasons);
        assert_eq!(reason(8), "sequence_not_in_genome");
        assert_eq!(summary["records"], 9);
        assert_eq!(summary["skipped"]["symbolic_allele"], 2);
    }
}

/// The text without what `variants` added.
fn without_scores(text: &str) -> String {
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        if line.starts_with("##INFO=<ID=HELIXGRAD") || line.starts_with("##helixgrad") {
            continue;
        }
        if line.starts_with('#') {
            kept += line;
            continue;
        }
        let columns: Vec<String> = line
            .split('\t')
            .enumerate()
            .map(|(index, column)| {
                if index != 7 {
                    return column.to_owned();
                }
                let content = column.trim_end_matches(['\r', '\n']);
                let fields: Vec<&str> = content.split(';').filter(|field| !field.starts_with("HELIXGRAD")).collect();
                let fields = if fields.is_empty() { ".".to_owned() } else { fields.join(";") };
                fields + &column[content.len()..]
            })
            .collect();
        kept += &columns.join("\t");
    }
    kept
}

#[test]
fn genes_give_strand_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let sequence = bases(13, 600);
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let gff = folder.path().join("genes.gff3");
    let exon = |gene: &str, strand: char, start: usize, end: usize| {
        format!("x\tt\texon\t{start}\t{end}\t.\t{strand}\t.\tParent={gene}\n")
    };
    let text = exon("plus,1", '+', 101, 150) + &exon("plus,1", '+', 251, 300) + &exon("minus", '-', 281, 400);
    let text = text.replace("plus,1", "plus%2C1").replace("=minus", "=gene:minus");
    // A gene's name; another gene of the same name far away is another gene, and an ID of Ensembl's kind is one of its own.
    let named = |id: &str, start: usize, end: usize| {
        format!("x\tt\tgene\t{start}\t{end}\t.\t+\t.\tID=gene:{id};Name=Twin\n")
            + &exon(&format!("gene:{id}"), '+', start, end)
    };
    let text = text + &named("a", 450, 480) + &named("b", 550, 580);
    fs::write(&gff, format!("##gff-version 3\n{text}")).unwrap();
    let base = |position: usize| char::from(sequence[position - 1]);
    let other = |position: usize| if base(position) == 'A' { 'C' } else { 'A' };
    let record = |position: usize| format!("x\t{position}\t.\t{}\t{}\t.\t.\t.\n", base(position), other(position));
    let (vcf, out) = (folder.path().join("in.vcf"), folder.path().join("out.vcf"));
    let records: String = [100, 101, 290, 400, 460, 515].map(record).concat();
    // A base put in just before a gene, just behind one, and a base farther on.
    let insertion = |position: usize| {
        let new = *b"ACGT"
            .iter()
            .find(|new| [base(position), base(position + 1)].iter().all(|b| *b != char::from(**new)))
            .unwrap();
        format!("x\t{position}\t.\t{}\t{}{}\t.\t.\t.\n", base(position), base(position), char::from(new))
    };
    let records = records + &[100, 480, 481].map(insertion).concat();
    fs::write(&vcf, format!("{HEADER}{records}")).unwrap();
    annotate(&model, &genome, &vcf, &out, &["--annotation", super::support::text(&gff)]);
    let written = fs::read_to_string(&out).unwrap();
    let genes: Vec<Vec<String>> = written
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let values = field(line, "HELIXGRAD").unwrap_or_default().split(',').filter(|value| !value.is_empty());
            values.map(|value| value.split('|').skip(1).take(2).collect::<Vec<_>>().join(" ")).collect()
        })
        .collect();
    let expected: [&[&str]; 9] = [
        &[],
        &["plus%2C1 +"],
        &["plus%2C1 +", "minus -"],
        &["minus -"],
        &["Twin +"],
        &[],
        &["plus%2C1 +"],
        &["Twin +"],
        &[],
    ];
    assert_eq!(genes, expected);
    assert!(written.contains("|no_gene"));
}

#[test]
fn bad_files_are_refused_with_line_and_finding() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let sequence = bases(14, 300);
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let (vcf, out) = (folder.path().join("in.vcf"), folder.path().join("out.vcf"));
    let wrong = if sequence[99] == b'G' { 'T' } else { 'G' };
    let mismatch = format!("{HEADER}x\t100\t.\t{wrong}\tA\t.\t.\t.\n");
    let genome_has = format!("has {} there", char::from(sequence[99]));
    for (contents, findings) in [
        (mismatch.as_str(), ["line 4", genome_has.as_str()]),
        (&format!("{HEADER}x\t299\t.\tACGT\tA\t.\t.\t.\n"), ["line 4", "x has 300 bases"]),
        (&format!("{HEADER}x\t301\t.\tA\tC\t.\t.\t.\n"), ["line 4", "x has 300 bases"]),
        (&format!("{HEADER}x\t10\t.\tA\n"), ["line 4", "4 tab-separated columns"]),
        (&format!("{HEADER}y\t10\t.\tA\tC\t.\t.\t.\n"), ["none of its sequence names", "names here: y"]),
        (&HEADER[..30], ["the file ends before", "#CHROM"]),
        (&HEADER.replace("\tINFO", ""), ["line 3", "the header line is"]),
        ("x\t10\t.\tA\tC\t.\t.\t.\n", ["line 1", "##fileformat=VCF"]),
        ("BCF\u{4}", ["a BCF file of another version", "bcftools view"]),
        (&format!("{HEADER}x\t10\t.\tA\tC\t.\t.\tDP=1;HELIXGRAD=A|1\n"), ["line 4", "INFO field HELIXGRAD already"]),
        (&HEADER.replace("##contig=<ID=x>", "##INFO=<ID=HELIXGRAD,Number=."), ["line 2", "already"]),
    ] {
        fs::write(&vcf, contents).unwrap();
        let command = ["variants", "--model", text(&model), "--genome", text(&genome), "--vcf", text(&vcf)];
        let message = refused(&[&command[..], &["--out", text(&out)]].concat());
        assert!(findings.iter().all(|finding| message.contains(finding)), "{contents:?}: {message}");
        assert!(!out.exists());
    }
    // Passed through where that is asked for; the others are scored as ever.
    let good = format!("x\t150\t.\t{}\tN,<DEL>\t.\t.\t.\n", char::from(sequence[149]));
    fs::write(&vcf, format!("{mismatch}x\t299\t.\tACGT\tA,C\t.\t.\tDP=1\n{good}")).unwrap();
    let summary = annotate(&model, &genome, &vcf, &out, &["--skip-mismatches"]);
    assert_eq!(summary["skipped"]["ref_mismatch"], 3);
    let written = fs::read_to_string(&out).unwrap();
    let lines: Vec<&str> = written.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(field(lines[0], "HELIXGRAD_SKIPPED"), Some("A|ref_mismatch"));
    assert_eq!(field(lines[1], "HELIXGRAD_SKIPPED"), Some("A|ref_mismatch,C|ref_mismatch"));
    assert_eq!(field(lines[2], "HELIXGRAD_SKIPPED"), Some("N|unknown_bases,<DEL>|symbolic_allele"));
}

#[test]
fn saturation_is_every_change_of_a_vcf() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let sequence = bases(15, 300);
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let (table, vcf, out) = (folder.path().join("s.tsv"), folder.path().join("in.vcf"), folder.path().join("out.vcf"));
    let command = ["variants", "--model", text(&model), "--genome", text(&genome), "--saturation", "x:141-160"];
    let summary = json(&[&command[..], &["--out", text(&table)]].concat());
    assert_eq!(summary["changes"], 60);
    let mut records = String::from(HEADER);
    for position in 141..=160 {
        let base = sequence[position - 1];
        for other in b"ACGT".iter().filter(|&&other| other != base) {
            records += &format!("x\t{position}\t.\t{}\t{}\t.\t.\t.\n", char::from(base), char::from(*other));
        }
    }
    fs::write(&vcf, records).unwrap();
    annotate(&model, &genome, &vcf, &out, &[]);
    let written = fs::read_to_string(&out).unwrap();
    let values: Vec<&str> =
        written.lines().filter_map(|line| field(line, "HELIXGRAD")).flat_map(|v| v.split(',')).collect();
    let table_text = fs::read_to_string(&table).unwrap();
    let rows: Vec<Vec<&str>> = table_text.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    assert_eq!((rows.len(), values.len()), (120, 120));
    for (row, value) in rows.iter().zip(values) {
        let columns: Vec<&str> = value.split('|').collect();
        assert_eq!((row[3], row[4]), (columns[0], columns[2]));
        for index in 0..4 {
            let (one, other): (f64, f64) = (row[5 + index].parse().unwrap(), columns[3 + index].parse().unwrap());
            assert!((one - other).abs() < 6e-5);
            if row[9 + index] != "." {
                let relative = row[9 + index].parse::<i64>().unwrap() - row[1].parse::<i64>().unwrap();
                assert_eq!(relative.to_string(), columns[7 + index]);
            }
        }
    }
    let page = fs::read_to_string(folder.path().join("s.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
    assert_eq!((page.matches(">site lost -1<").count(), page.matches(">150<").count()), (2, 2));

    // No window is read twice: those of all haplotypes that have a GT or AG in the middle are all that there can be.
    let mut distinct = HashSet::new();
    for position in 141..=160 {
        for &other in b"ACGT" {
            let mut changed = sequence.clone();
            changed[position - 1] = other;
            for (read, at) in
                [changed.clone(), reverse_complement(&changed)].iter().flat_map(|r| (100..200).map(move |at| (r, at)))
            {
                if read[at..].starts_with(b"GT") || read[..at].ends_with(b"AG") {
                    distinct.insert(read[at - WIDTH / 2..at + WIDTH / 2].to_vec());
                }
            }
        }
    }
    let windows = summary["windows"].as_u64().unwrap() as usize;
    assert!((1..=distinct.len()).contains(&windows), "{windows} {}", distinct.len());

    // With genes, on their strands.
    let gff = folder.path().join("genes.gff3");
    fs::write(&gff, "##gff-version 3\nx\tt\texon\t151\t155\t.\t-\t.\tParent=g\n").unwrap();
    let summary = json(&[&command[..], &["--out", text(&table), "--annotation", text(&gff)]].concat());
    assert_eq!((&summary["changes"], &summary["no_gene"]), (&60.into(), &45.into()));
    let of_gene = fs::read_to_string(&table).unwrap();
    let of_gene: Vec<Vec<&str>> = of_gene.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    let all: Vec<&Vec<&str>> = rows.iter().filter(|row| ("151"..="155").contains(&row[1]) && row[4] == "-").collect();
    assert_eq!((of_gene.len(), all.len()), (15, 15));
    for (row, of_both) in of_gene.iter().zip(all) {
        assert_eq!((&row[..5], row[13]), (&of_both[..5], "g"));
        // Other windows beside a window may change the last bit of its score.
        let number = |text: &str| text.parse::<f64>().unwrap();
        assert!(
            (5..9).all(|column| (number(row[column]) - number(of_both[column])).abs() < 2.1e-6),
            "{row:?} {of_both:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever bytes come, there is no panic; and if the file is taken, all but INFO comes out as it was.
    #[test]
    fn mutated_files_pass_or_are_refused(edits in prop::collection::vec((any::<Index>(), any::<u8>(), 0..3_u8), 0..4)) {
        thread_local! {
            static FIXTURE: (tempfile::TempDir, helixgrad::inference::splice::SpliceScorer, helixgrad::genome::twobit::Genome) = {
                let folder = tempfile::tempdir().unwrap();
                let scorer = splice_scorer(&splice_model(folder.path()));
                let genome = open(&genome(folder.path(), &[("x", &bases(16, 200))]));
                (folder, scorer, genome)
            };
        }
        let sequence = bases(16, 200);
        let letter = |position: usize| char::from(sequence[position - 1]);
        let records = format!(
            "{HEADER}x\t50\t.\t{}\tA,C,<DEL>\t.\tPASS\tDP=1;X\tGT\t0|1\nx\t60\t.\t{}\t{}ACG\t9\t.\t.\r\nx\t70\t.\t{}{}\t{}\t.\t.\tY",
            letter(50), letter(60), letter(60), letter(70), letter(71), letter(70),
        );
        let mut contents = records.into_bytes();
        for (index, byte, how) in edits {
            let at = index.index(contents.len());
            match how {
                0 => contents[at] = byte,
                1 => { contents.remove(at); }
                _ => contents.insert(at, byte),
            }
        }
        FIXTURE.with(|(folder, scorer, genome)| {
            let (vcf, out) = (folder.path().join("in.vcf"), folder.path().join("out.vcf"));
            fs::write(&vcf, &contents).unwrap();
            let options = variant_options();
            let aliases = Aliases::default();
            let annotator = Annotator { scorer, genome, aliases: &aliases, genes: None, options: &options };
            match annotator.annotate(&vcf, &out, &[]) {
                Err(error) => assert_eq!(error.exit_code(), 2, "{error}"),
                Ok(_) => {
                    let written = fs::read(&out).unwrap();
                    let kept = columns_but_info(&written);
                    assert_eq!(kept, columns_but_info(&contents));
                }
            }
        });
    }
}

/// Stops the command with these arguments again and again, as soon as it has saved another state, and lets it go on. Between two
/// sessions `check` gets the arguments. Returns the number of stops.
fn stopped_again_and_again(arguments: &[&str], state: &Path, check: &dyn Fn(&[&str])) -> usize {
    let mut arguments = arguments.to_vec();
    let saved = || fs::read(state).ok();
    for stops in 0.. {
        let before = saved();
        let mut child =
            Command::new(env!("CARGO_BIN_EXE_helixgrad")).args(&arguments).stderr(Stdio::null()).spawn().unwrap();
        let (started, mut is_running) = (Instant::now(), true);
        while started.elapsed() < Duration::from_secs(60) && is_running && saved() == before {
            sleep(Duration::from_millis(2));
            is_running = child.try_wait().unwrap().is_none();
        }
        if is_running {
            // Now and then while it works, now and then while it writes the results.
            sleep(Duration::from_millis(5 * (stops as u64 % 4)));
            let signal = ["-INT", "-KILL", "-TERM"][stops % 3];
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        }
        let status = child.wait().unwrap();
        if status.success() {
            return stops;
        }
        assert_eq!(status.code(), [Some(130), None, Some(130)][stops % 3]);
        if !state.exists() {
            return stops;
        }
        check(&arguments);
        if stops == 0 {
            arguments.push("--resume");
        }
    }
    unreachable!()
}

#[test]
fn killed_scoring_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let genome = open(Path::new(SAMPLE));
    let name = &genome.sequences()[0].name;
    let mut text_of = HEADER.to_owned();
    let mut bases = Vec::new();
    for at in (1_000_000..1_100_000).step_by(4) {
        genome.decode(0, at..at + 1, &mut bases);
        let (reference, alternate) = (char::from(bases[0]), if bases[0] == b'A' { 'G' } else { 'A' });
        text_of += &format!("{name}\t{}\t.\t{reference}\t{alternate}\t.\t.\t.\n", at + 1);
    }
    let vcf = folder.path().join("in.vcf");
    fs::write(&vcf, &text_of).unwrap();
    let region = format!("{name}:1000001-1003000");
    for (what, input, name) in [("--vcf", text(&vcf), "out.vcf.gz"), ("--saturation", &region, "out.tsv")] {
        let [unbroken, broken] = ["unbroken", "broken"].map(|part| folder.path().join(part).join(name));
        let arguments =
            |out| ["variants", "--model", text(&model), "--genome", SAMPLE, what, input, "--out", out, "--quiet"];
        assert!(helixgrad(&arguments(text(&unbroken))).status.success());
        let partial = broken.with_file_name(format!("{name}.partial"));
        let check = |arguments: &[&str]| {
            if arguments.last() != Some(&"--resume") {
                assert!(refused(arguments).contains("holds an interrupted scoring"));
                return;
            }
            let other = [arguments, &["--distance", "10"]].concat();
            assert!(refused(&other).contains("--resume with another distance"));
            if what == "--vcf" {
                fs::write(&vcf, text_of.replacen("\t.\t.\t.\n", "\t9\t.\t.\n", 1)).unwrap();
                assert!(refused(arguments).contains("are not those that were scored"));
                fs::write(&vcf, &text_of).unwrap();
            }
        };
        let stops = stopped_again_and_again(&arguments(text(&broken)), &partial.join("state.json"), &check);
        assert!(stops > 1, "{name}: it was too fast to be stopped");
        let files = |path: &Path| {
            // A kill after everything was in its place may leave this.
            let _ = fs::remove_dir_all(&partial);
            let mut names: Vec<_> =
                fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
                .into_iter()
                .map(|path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap()))
                .collect::<Vec<_>>()
        };
        let (one, other) = (files(&unbroken), files(&broken));
        assert_eq!(
            one.iter().map(|file| &file.0).collect::<Vec<_>>(),
            other.iter().map(|file| &file.0).collect::<Vec<_>>()
        );
        assert!(one == other, "{name} after {stops} stops");
        assert!(
            refused(&[&arguments(text(&broken))[..], &["--resume"]].concat()).contains("nothing that was interrupted")
        );
    }
}

/// All records' columns, as bytes, without the eighth; and the header without our lines.
fn columns_but_info(contents: &[u8]) -> Vec<Vec<u8>> {
    let mut kept = Vec::new();
    for line in contents.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"##INFO=<ID=HELIXGRAD") {
            continue;
        }
        if line.starts_with(b"#") {
            kept.push(line.to_vec());
            continue;
        }
        let columns = line.split(|&byte| byte == b'\t').enumerate();
        kept.extend(columns.filter(|(index, _)| *index != 7).map(|(_, column)| column.to_vec()));
    }
    kept
}

/// An assembly has R at 100, for which VCF 4.3 wants the first base that it stands for, A; the .2bit has N there. That is no mismatch,
/// and nothing that could be scored.
#[test]
fn where_the_assembly_has_a_code_no_reference_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let mut sequence = bases(17, 300);
    sequence[99] = b'R';
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let base = |position: usize| char::from(sequence[position - 1]);
    let other = if base(200) == 'A' { 'C' } else { 'A' };
    let records = format!(
        "x\t100\t.\tA\tG\t.\t.\t.\nx\t98\t.\t{}{}A{}\t{}\t.\t.\t.\nx\t100\t.\tR\tG\t.\t.\t.\nx\t200\t.\t{}\t{other}\t.\t.\t.\n",
        base(98),
        base(99),
        base(101),
        base(98),
        base(200),
    );
    let (vcf, out) = (folder.path().join("in.vcf"), folder.path().join("out.vcf"));
    fs::write(&vcf, format!("{HEADER}{records}")).unwrap();
    let summary = annotate(&model, &genome, &vcf, &out, &[]);
    assert_eq!((&summary["scored"], &summary["skipped"]["unknown_bases"]), (&1.into(), &3.into()));
    // Elsewhere a REF is what the genome has.
    let wrong = if base(101) == 'A' { 'C' } else { 'A' };
    fs::write(&vcf, format!("{HEADER}x\t100\t.\tA{wrong}\tG\t.\t.\t.\n")).unwrap();
    let command = ["variants", "--model", text(&model), "--genome", text(&genome), "--vcf", text(&vcf)];
    assert!(refused(&[&command[..], &["--out", text(&out)]].concat()).contains("line 4"));
}

/// `bcftools +split-vep` takes the names of the columns from our header, and from a pipe come what other programs print.
#[test]
fn other_programs_read_what_is_written_and_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let sequence = bases(18, 300);
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let (base, other) = (char::from(sequence[199]), if sequence[199] == b'A' { 'C' } else { 'A' });
    let (vcf, out, piped) =
        (folder.path().join("in.vcf"), folder.path().join("out.vcf"), folder.path().join("piped.vcf"));
    fs::write(&vcf, format!("{HEADER}x\t200\t.\t{base}\t{other}\t.\t.\t.\n")).unwrap();
    annotate(&model, &genome, &vcf, &out, &[]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
        .args(["variants", "--quiet", "--vcf", "-", "--model", text(&model), "--genome", text(&genome)])
        .args(["--out", text(&piped)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(&vcf).unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(fs::read(&out).unwrap() == fs::read(&piped).unwrap());
    let to_stdout = ["variants", "--model", text(&model), "--genome", text(&genome), "--vcf", text(&vcf), "--out", "-"];
    assert!(refused(&to_stdout).contains("the output -"));

    let Ok(listed) = Command::new("bcftools").args(["+split-vep", "-a", "HELIXGRAD", "-l", text(&out)]).output() else {
        println!("skipped: bcftools is not installed");
        return;
    };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split('\t').nth(1)).collect();
    let expected = "ALLELE GENE STRAND DS_AG DS_AL DS_DG DS_DL DP_AG DP_AL DP_DG DP_DL Consequence";
    assert_eq!(names.join(" "), expected, "{listed}");
    let query = ["+split-vep", "-a", "HELIXGRAD", "-d", "-f", "%ALLELE %STRAND %DS_DL\n", text(&out)];
    let answer = Command::new("bcftools").args(query).output().unwrap();
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert_eq!(answer.lines().count(), 2, "{answer}");
    assert!(answer.starts_with(&format!("{other} + 0.")), "{answer}");
}
