//! `genes pairs`: against pandas, over all kinds of files, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use helixgrad::genes::correlation::{Method, Missing, Options, PairFile, correlate};
use helixgrad::genes::expression::{self, Reading};
use helixgrad::report::Progress;
use serde_json::Value;

use super::program::{Folder, helixgrad, json, refused};
use super::{expected, fixture};

/// The fixture's table as text.
fn table() -> String {
    fs::read_to_string(fixture("expression.tsv")).unwrap()
}

fn pairs_of(path: &str) -> BTreeSet<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// The pairs of the fixture that pandas has at or over a threshold.
fn pandas(method: &str, threshold: f64, absolute: bool) -> BTreeSet<String> {
    let all = expected();
    let all = all["correlations"][method].as_array().unwrap().iter();
    let wanted = all.filter(|row| {
        let r = row[2].as_f64().unwrap();
        r >= threshold || absolute && -r >= threshold
    });
    wanted.map(|row| format!("{} {}", row[0].as_str().unwrap(), row[1].as_str().unwrap())).collect()
}

#[test]
fn pairs_are_those_of_pandas() {
    let folder = Folder::new();
    let (table, out) = (fixture("expression.tsv"), folder.path("pairs.txt"));
    for method in ["pearson", "spearman"] {
        for (threshold, absolute) in [("0.9", false), ("0.5", false), ("0.5", true), ("0", false), ("-0.3", false)] {
            let mut arguments = vec!["genes", "pairs", "--expression", &table, "--out", &out, "--method", method];
            arguments.extend(["--threshold", threshold]);
            arguments.extend(absolute.then_some("--absolute"));
            let summary = json(&arguments);
            let wanted = pandas(method, threshold.parse().unwrap(), absolute);
            assert_eq!(pairs_of(&out), wanted, "{method} {threshold} {absolute}");
            assert_eq!(summary["pairs"], wanted.len());
            let study = &summary["studies"][0];
            assert_eq!(study["tested"], expected()["correlations"][method].as_array().unwrap().len());
            assert_eq!(study["constant"], serde_json::json!(["GENE11"]));
            assert_eq!((&study["genes"], &study["samples"]), (&Value::from(26), &Value::from(24)));
            // GENE20 has seven values, of the ten that are asked for.
            assert_eq!((&study["left_out"], &study["genes_with_missing"]), (&Value::from(1), &Value::from(6)));
        }
    }
}

/// Each correlation to nine decimals: a threshold as much below it lets the pair in, and one above it does not.
#[test]
fn correlations_are_those_of_pandas() {
    let study = expression::read(Path::new(&fixture("expression.tsv")), &Reading::default()).unwrap();
    let folder = Folder::new();
    let path = folder.path("pairs.txt");
    for (name, method) in [("pearson", Method::Pearson), ("spearman", Method::Spearman)] {
        for row in expected()["correlations"][name].as_array().unwrap().iter().step_by(9) {
            let r = row[2].as_f64().unwrap();
            let is_in = |threshold: f64| {
                let options =
                    Options { method, threshold, absolute: false, min_samples: 10, missing: Missing::Pairwise };
                let mut out = PairFile::create(Path::new(&path)).unwrap();
                correlate(study.clone(), &options, &mut out, &mut Progress::new("", 0, true)).unwrap();
                out.commit().unwrap();
                pairs_of(&path).contains(&format!("{} {}", row[0].as_str().unwrap(), row[1].as_str().unwrap()))
            };
            assert!(is_in(r - 1e-9) && !is_in(r + 1e-9), "{name} {row}");
        }
    }
}

/// The same numbers in every form that is read give the same pairs.
#[test]
fn forms_of_files_change_nothing() {
    let folder = Folder::new();
    let text = table();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let (genes, samples) = (rows.len() - 1, rows[0].len() - 1);
    let transposed: String =
        (0..=samples).map(|column| rows.iter().map(|row| row[column]).collect::<Vec<_>>().join("\t") + "\n").collect();
    let without_corner = text.strip_prefix('\t').unwrap().to_owned();
    let quoted: String = rows
        .iter()
        .map(|row| row.iter().map(|cell| format!("\"{cell}\"")).collect::<Vec<_>>().join(",") + "\r\n")
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();

    // MatrixMarket leaves zeros out.
    let entries = |by_gene: bool| {
        let mut all = String::new();
        let mut count = 0;
        for (gene, row) in rows[1..].iter().enumerate() {
            for (sample, cell) in row[1..].iter().enumerate().filter(|(_, cell)| cell.parse::<f64>() != Ok(0.0)) {
                let (one, other) = if by_gene { (gene + 1, sample + 1) } else { (sample + 1, gene + 1) };
                let cell = if *cell == "NA" { "nan" } else { cell };
                all += &format!("{one} {other} {cell}\n");
                count += 1;
            }
        }
        let sizes = if by_gene { (genes, samples) } else { (samples, genes) };
        format!("%%MatrixMarket matrix coordinate real general\n% a comment\n{} {} {count}\n{all}", sizes.0, sizes.1)
    };
    let features: String = rows[1..].iter().map(|row| format!("ENSG\t{}\tGene Expression\n", row[0])).collect();
    let names: String = rows[1..].iter().map(|row| format!("{}\n", row[0])).collect();
    let barcodes: String = rows[0][1..].iter().map(|name| format!("{name}\n")).collect();
    folder.write("tenx/matrix.mtx", entries(true));
    folder.write("tenx/features.tsv", &features);
    folder.write("tenx/barcodes.tsv", &barcodes);
    folder.write("scanpy/GSM1_matrix.mtx", entries(false));
    folder.write("scanpy/GSM1_genes.tsv", &names);
    folder.write("scanpy/GSM1_barcodes.tsv", &barcodes);

    let wanted = pandas("spearman", 0.4, false);
    let columns: &[&str] = &["--genes-in", "columns"];
    for (file, more) in [
        (fixture("expression.tsv"), &[][..]),
        (folder.write("transposed.tsv", transposed), columns),
        (folder.write("r.tsv", without_corner), &[]),
        (folder.write("quoted.csv", quoted), &[]),
        (folder.write("some.tsv.gz", gzip.finish().unwrap()), &[]),
        (folder.path("tenx"), &[]),
        (folder.path("tenx/matrix.mtx"), &[]),
        (folder.path("scanpy/GSM1_matrix.mtx"), columns),
    ] {
        let out = folder.path("pairs.txt");
        let arguments = ["genes", "pairs", "--expression", &file, "--out", &out, "--method", "spearman"];
        let summary = json(&[&arguments[..], &["--threshold", "0.4"], more].concat());
        assert_eq!(pairs_of(&out), wanted, "{file}");
        assert_eq!(summary["studies"][0]["constant"], serde_json::json!(["GENE11"]), "{file}");
    }
    // A gene that a sparse file does not mention is constant.
    folder.write("tenx/features.tsv", features + "ENSG\tSILENT\tx\n");
    let matrix = entries(true).replacen(&format!("\n{genes} "), &format!("\n{} ", genes + 1), 1);
    folder.write("tenx/matrix.mtx", matrix);
    let (tenx, out) = (folder.path("tenx"), folder.path("pairs.txt"));
    let summary = json(&["genes", "pairs", "--expression", &tenx, "--out", &out, "--threshold", "0.4"]);
    assert_eq!(summary["studies"][0]["constant"], serde_json::json!(["GENE11", "SILENT"]));
    assert_eq!(pairs_of(&out), pandas("pearson", 0.4, false));
}

/// Two studies: a line a pair and study, or one over all samples; a study that is too small is passed over.
#[test]
fn studies_are_taken_one_by_one_or_together() {
    let folder = Folder::new();
    let text = table();
    let columns = |wanted: &dyn Fn(usize) -> bool, more: &str| {
        let part = |line: &str| {
            let cells = line.split('\t').enumerate().filter(|(at, _)| *at == 0 || wanted(*at)).map(|(_, cell)| cell);
            cells.collect::<Vec<_>>().join("\t") + "\n"
        };
        text.lines().map(part).collect::<String>() + more
    };
    let first = folder.write("first.tsv", columns(&|at| at <= 12, ""));
    let more = format!("ONLY_HERE\t{}\n", ["1"; 12].join("\t"));
    let second = folder.write("second.tsv", columns(&|at| at > 12, &more));
    let small = folder.write("small.tsv", columns(&|at| at <= 4, ""));
    let out = folder.path("pairs.txt");
    let arguments = ["genes", "pairs", "--out", &out, "--threshold", "0.5", "--expression"];

    let alone = |file: &str| {
        json(&[&arguments[..], &[file]].concat());
        fs::read_to_string(&out).unwrap()
    };
    let [one, other] = [alone(&first), alone(&second)];
    let output = helixgrad(&[&arguments[..], &[&first, &small, &second, "--json"]].concat());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("4 samples, fewer than 10: passed over"), "{log}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), one + &other);
    assert_eq!(
        (summary["studies"].as_array().unwrap().len(), &summary["too_small"][0]),
        (2, &Value::from(small.clone()))
    );

    let summary = json(&[&arguments[..], &[&first, &second, "--pool"]].concat());
    assert_eq!(pairs_of(&out), pandas("pearson", 0.5, false));
    assert_eq!((&summary["genes_of_some"], &summary["studies"][0]["samples"]), (&Value::from(1), &Value::from(24)));
    assert!(refused(&[&arguments[..], &[&small]].concat()).contains("no file has 10 samples"));
}

#[test]
fn threads_do_not_change_a_byte() {
    let folder = Folder::new();
    let values = |gene: usize| {
        let value = |sample: usize| {
            helixgrad::philox::Philox::new(1, (gene % 9) as u32, 0).normal(sample as u64)
                + 0.1 * (gene * sample % 7) as f64
        };
        (0..15).map(|sample| format!("\t{}", value(sample))).collect::<String>()
    };
    let rows: String = (0..600).map(|gene| format!("G{gene}{}\n", values(gene))).collect();
    let header: String = (0..15).map(|sample| format!("\ts{sample}")).collect();
    let file = folder.write("x.tsv", format!("{header}\n{rows}"));
    let with = |threads: &str| {
        let out = folder.path("pairs.txt");
        json(&["genes", "pairs", "--expression", &file, "--out", &out, "--threads", threads]);
        fs::read(out).unwrap()
    };
    let one = with("1");
    assert!(one.len() > 1000);
    assert_eq!(one, with("3"));
}

#[test]
fn repeated_genes_are_refused_or_the_first_is_kept() {
    let folder = Folder::new();
    let text = table();
    let again = text.lines().nth(2).unwrap().replace("0.", "7.");
    let file = folder.write("again.tsv", format!("{text}{again}\n"));
    let out = folder.path("pairs.txt");
    let arguments = ["genes", "pairs", "--expression", &file, "--out", &out, "--threshold", "0.5"];
    let message = refused(&arguments);
    assert!(message.contains("line 28: the gene GENE1 is there already, at line 3"), "{message}");
    let summary = json(&[&arguments[..], &["--repeated-genes", "first"]].concat());
    assert_eq!(summary["studies"][0]["repeated"], 1);
    assert_eq!(pairs_of(&out), pandas("pearson", 0.5, false));
}

#[test]
fn missing_values_can_leave_a_gene_out() {
    let folder = Folder::new();
    let (table, out) = (fixture("expression.tsv"), folder.path("pairs.txt"));
    let arguments = ["genes", "pairs", "--expression", &table, "--out", &out, "--threshold", "0.5"];
    let summary = json(&[&arguments[..], &["--missing", "leave-out"]].concat());
    assert_eq!(summary["studies"][0]["left_out"], 6);
    let has_missing = |pair: &String| pair.split(' ').any(|gene| gene[4..].parse::<usize>().unwrap() % 5 == 0);
    let wanted: BTreeSet<String> =
        pandas("pearson", 0.5, false).into_iter().filter(|pair| !has_missing(pair)).collect();
    assert_eq!(pairs_of(&out), wanted);
}

#[test]
fn what_is_no_expression_is_told_with_its_line() {
    let folder = Folder::new();
    let out = folder.path("pairs.txt");
    let refuse = |file: &str| refused(&["genes", "pairs", "--expression", file, "--out", &out, "--min-samples", "3"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, table().as_bytes()).unwrap();
    let cut = &gzip.finish().unwrap()[..900];
    for (name, contents, expected) in [
        ("empty.tsv", &b""[..], "the file is empty"),
        ("header.tsv", b"\ta\tb\tc\n", "0 genes and 0 samples"),
        ("one.tsv", b"gene\nA\n", "a header of one column"),
        ("ragged.tsv", b"\ta\tb\tc\nA\t1\t2\t3\nB\t1\t2\n", "line 3: 3 columns, where 4 are named"),
        ("word.tsv", b"\ta\tb\tc\nA\t1\tx\t3\n", "line 2, column b: \"x\" is no number"),
        ("infinite.csv", b",a,b,c\nA,1,inf,3\n", "line 2, column b: \"inf\" is infinite"),
        ("blank.csv", b",a,b,c\nA B,1,2,3\n", "line 2: the gene name \"A B\" holds a blank"),
        ("nameless.csv", b",a,b,c\n,1,2,3\n", "line 2: a gene without a name"),
        ("bytes.tsv", b"\ta\tb\nA\t\xff\t1\n", "line 2: byte 3 of the line is not UTF-8"),
        ("cut.tsv.gz", cut, "ends too early"),
        ("data.h5ad", b"\x89HDF\r\n\x1a\n\0\0\0", "scipy.io.mmwrite"),
        ("few.tsv", b"\ta\tb\nA\t1\t2\n", "no file has 3 samples"),
    ] {
        let message = refuse(&folder.write(name, contents));
        assert!(message.contains(expected) && message.contains("what to do"), "{name}: {message}");
    }
    assert!(refuse(&folder.path("missing.tsv")).contains("check the path"));
    fs::create_dir(folder.path("folder")).unwrap();
    assert!(refuse(&folder.path("folder")).contains("a folder without matrix.mtx"));

    folder.write("m/genes.tsv", "A\nB\n");
    folder.write("m/barcodes.tsv", "a\nb\nc\n");
    let head = "%%MatrixMarket matrix coordinate integer general\n";
    for (contents, expected) in [
        ("%%MatrixMarket matrix array real general\n2 3\n".to_owned(), "MatrixMarket of another kind"),
        (head.to_owned(), "no line with rows, columns and entries"),
        (format!("{head}3 2 1\n1 1 1\n"), "give --genes-in columns"),
        (format!("{head}2 9 1\n1 1 1\n"), "a matrix of 2 x 9, and names of 2 genes and 3 samples"),
        (format!("{head}2 3 1\n3 1 1\n"), "line 3: an entry at 3, 1 of a matrix of 2 x 3"),
        (format!("{head}2 3 1\n0 1 1\n"), "line 3: an entry at 0, 1"),
        (format!("{head}2 3 2\n1 1 1\n"), "1 entries, where 2 are announced"),
        (format!("{head}2 3 1\n1 1\n"), "line 3: no row, column and value"),
        (format!("{head}2 3 99999999999999999999\n"), "is no number of entries"),
        (format!("{head}2 3 1\n1 1 x\n"), "line 3: \"x\" is no number"),
    ] {
        let message = refuse(&folder.write("m/matrix.mtx", contents));
        assert!(message.contains(expected) && message.contains("what to do"), "{expected}: {message}");
    }
    let alone = folder.write("alone/matrix.mtx", format!("{head}2 3 0\n"));
    assert!(refuse(&alone).contains("no features.tsv or genes.tsv beside the matrix"));
    assert!(!Path::new(&out).exists(), "something was written");

    let fixture = fixture("expression.tsv");
    let asked =
        |more: &[&str]| refused(&[&["genes", "pairs", "--expression", &fixture, "--out", &out][..], more].concat());
    assert!(asked(&["--threshold", "1.5"]).contains("give a correlation from -1 to 1"));
    assert!(asked(&["--threshold", "-0.5", "--absolute"]).contains("with --absolute from 0 to 1"));
    assert!(asked(&["--min-samples", "2"]).contains("3 or more"));
}
