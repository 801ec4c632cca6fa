//! `genes evaluate` and `genes neighbours`: against gensim and Gene2vec's formula, and what is refused.

use std::fs;

use serde_json::Value;

use super::program::{Folder, helixgrad, json, refused};
use super::{expected, fixture};

fn near(found: &Value, wanted: &Value) -> bool {
    (found.as_f64().unwrap() - wanted.as_f64().unwrap()).abs() < 1e-6
}

#[test]
fn the_pathway_score_is_that_of_the_formula() {
    let (vectors, sets) = (fixture("vectors.txt"), fixture("sets.gmt"));
    let arguments = ["genes", "evaluate", "--vectors", &vectors, "--sets", &sets, "--random-genes", "20"];
    let found = json(&[&arguments[..], &["--permutations", "200"]].concat());
    let wanted = &expected()["pathways"];
    let [ours, random] = [0, 1].map(|row| &found["figures"][row]);
    assert!(near(&ours["within_sets"]["value"], &wanted["within_sets"]), "{ours} {wanted}");
    assert!(near(&ours["random_genes"], &wanted["random_genes"]), "{ours} {wanted}");
    assert!(near(&ours["score"]["value"], &wanted["score"]), "{ours} {wanted}");
    let sets_found = &found["sets"];
    let counts =
        ["sets", "used", "too_large", "too_few", "genes_without_vector"].map(|name| sets_found[name].as_u64().unwrap());
    assert_eq!(counts, [6, 4, 1, 1, 4]);
    // The vectors have three groups, which are three of the sets.
    assert!(ours["permuted"]["p"].as_f64().unwrap() < 0.01, "{ours}");
    assert!(random["score"].is_null() && random["within_sets"]["value"].as_f64().unwrap().abs() < 0.1);
    assert_eq!(found["each_set"].as_array().unwrap().len(), 4);
    assert_eq!(json(&[&arguments[..], &["--permutations", "200"]].concat()), found, "the same seed");
    let printed = String::from_utf8(helixgrad(&[&arguments[..], &["--quiet"]].concat()).stdout).unwrap();
    for part in ["4 sets of 6 count", "random vectors of the same norms", "names permuted 1,000 times", "mixed"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}

/// Vectors without anything in common have no denominator.
#[test]
fn a_denominator_near_zero_is_told() {
    let folder = Folder::new();
    let row = |gene: usize| {
        let value = |column: u64| helixgrad::philox::Philox::new(8, gene as u32, 0).normal(column);
        let mut line = format!("GENE{gene}");
        (0..12).for_each(|column| line += &format!(" {}", value(column)));
        line + "\n"
    };
    let vectors = folder.write("vectors.txt", format!("60 12\n{}", (0..60).map(row).collect::<String>()));
    let arguments = ["genes", "evaluate", "--vectors", &vectors, "--sets", &fixture("sets.gmt")];
    let found = json(&arguments);
    assert!(found["figures"][0]["score"].is_null());
    assert!(found["figures"][0]["permuted"]["p"].as_f64().unwrap() > 0.01);
    let printed = String::from_utf8(helixgrad(&arguments).stdout).unwrap();
    assert!(printed.contains("caution: random genes have a mean cosine of"), "{printed}");
}

/// Pairs in which the genes of one set are often, and those of two others never.
#[test]
fn numbers_of_pairs_alone_are_a_baseline() {
    let folder = Folder::new();
    let mut lines = String::new();
    for gene in (0..60).step_by(3) {
        (0..40).for_each(|partner| lines += &format!("GENE{gene} P{partner}\n"));
    }
    let pairs = folder.write("pairs.txt", lines);
    let (vectors, sets) = (fixture("vectors.txt"), fixture("sets.gmt"));
    let found = json(&["genes", "evaluate", "--vectors", &vectors, "--sets", &sets, "--pairs", &pairs]);
    let figures = &found["figures"][2];
    assert_eq!(figures["method"], "number of pairs alone");
    // Three sets of one number of pairs, and one of both: 4 of 10 genes have 40.
    let likeness = |share: f64| 1.0 - share * (1.0 - (-0.5 / (2.0_f64 / 9.0)).exp());
    let within = (3.0 + likeness(4.0 * 6.0 / 45.0)) / 4.0;
    assert!((figures["within_sets"]["value"].as_f64().unwrap() - within).abs() < 1e-9, "{figures} {within}");
    let random = likeness(20.0 * 40.0 / (60.0 * 59.0 / 2.0));
    assert!((figures["random_genes"].as_f64().unwrap() - random).abs() < 1e-9, "{figures} {random}");
}

#[test]
fn neighbours_and_analogies_are_those_of_gensim() {
    let vectors = fixture("vectors.txt");
    let top = |arguments: &[&str]| {
        let found = json(&[&["genes", "neighbours", "--vectors", &vectors, "--top", "8"][..], arguments].concat());
        found[0]["neighbours"].as_array().unwrap().clone()
    };
    let same = |found: Vec<Value>, wanted: &Value| {
        let wanted = wanted.as_array().unwrap();
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(found["gene"] == wanted[0] && near(&found["cosine"], &wanted[1]), "{found} {wanted}");
        }
    };
    same(top(&["GENE7"]), &expected()["neighbours"]);
    same(top(&["--plus", "GENE1", "GENE5", "--minus", "GENE9"]), &expected()["analogy"]);
    let two = json(&["genes", "neighbours", "GENE7", "GENE8", "--vectors", &vectors]);
    assert_eq!((two.as_array().unwrap().len(), two[1]["plus"][0].as_str()), (2, Some("GENE8")));
    let printed =
        helixgrad(&["genes", "neighbours", "--vectors", &vectors, "--plus", "GENE1", "--minus", "GENE9", "--top", "1"]);
    assert!(String::from_utf8(printed.stdout).unwrap().starts_with("GENE1 - GENE9"));
}

#[test]
fn what_cannot_be_evaluated_is_told() {
    let folder = Folder::new();
    let (vectors, sets) = (fixture("vectors.txt"), fixture("sets.gmt"));
    let near = |arguments: &[&str]| refused(&[&["genes", "neighbours", "--vectors", &vectors][..], arguments].concat());
    let message = near(&["gene12"]);
    assert!(message.contains("the gene gene12 has no vector") && message.contains("did you mean GENE12"), "{message}");
    assert!(near(&["--plus", "GENE1", "--minus", "NOT"]).contains("the gene NOT has no vector"));
    assert!(near(&[]).contains("no gene"));
    assert!(near(&["GENE1", "--top", "0"]).contains("--top 0"));

    let evaluate = |vectors: &str, sets: &str| refused(&["genes", "evaluate", "--vectors", vectors, "--sets", sets]);
    let other = folder.write("other.gmt", "a\tx\tENSG1\tENSG2\n");
    let message = evaluate(&vectors, &other);
    assert!(message.contains("no set has two genes with a vector") && message.contains("ENSG1"), "{message}");
    for (contents, expected) in [("", "no set of genes"), ("a b c\n", "line 1: 1 columns"), ("\x01\u{2}", "line 1")] {
        let message = evaluate(&vectors, &folder.write("bad.gmt", contents));
        assert!(message.contains(expected), "{message}");
    }
    assert!(evaluate(&vectors, &folder.write("bytes.gmt", b"a\tb\t\xff\xfe\n")).contains("not UTF-8"));
    let one = folder.write("one.txt", "1 2\nGENE1 0.5 0.25\n");
    assert!(evaluate(&one, &sets).contains("vectors of 1 genes"));
    assert!(evaluate(&folder.path("none.txt"), &sets).contains("check the path"));
    let asked =
        |more: &[&str]| refused(&[&["genes", "evaluate", "--vectors", &vectors, "--sets", &sets][..], more].concat());
    assert!(asked(&["--max-genes", "1"]).contains("--max-genes 1"));
    assert!(asked(&["--random-genes", "0"]).contains("--random-genes 0"));
    assert!(fs::metadata(&vectors).is_ok());
}
