//! Tokenizers against Hugging Face's programs, whose answers `tools/tokenizer_fixtures.py` wrote.

mod program;

use std::collections::HashMap;
use std::path::Path;

use helixgrad::autograd::Tape;
use helixgrad::device::{DType, Device};
use helixgrad::genome::pack::{PackedSequence, TwoBitWriter};
use helixgrad::kmer::batch::Batch;
use helixgrad::tokenizer::blocks::{Blocks, Version};
use helixgrad::tokenizer::bpe::Bpe;
use helixgrad::tokenizer::{self, Tokenizer};
use helixgrad::train::checkpoint;

use program::{Folder, json, refused};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer");

fn bpe(name: &str) -> Bpe {
    Bpe::read(&Path::new(FIXTURES).join(name)).unwrap()
}

#[test]
fn texts_become_what_other_programs_make_of_them() {
    let expected = std::fs::read_to_string(Path::new(FIXTURES).join("expected.json")).unwrap();
    let expected: HashMap<String, Vec<(String, Vec<i32>)>> = serde_json::from_str(&expected).unwrap();
    let tokenizers: [(&str, Box<dyn Tokenizer>); 4] = [
        ("nt-v1", Box::new(Blocks::new(Version::One))),
        ("nt-v2", Box::new(Blocks::new(Version::Two))),
        ("dnabert2", Box::new(bpe("dnabert2.json"))),
        ("gena", Box::new(bpe("gena.json"))),
    ];
    for (name, tokenizer) in tokenizers {
        let specials = tokenizer.specials();
        assert!(expected[name].len() > 70);
        for (text, wanted) in &expected[name] {
            let mut ids = vec![specials.cls];
            tokenizer.encode_text(text, &mut ids);
            ids.extend(specials.sep);
            assert_eq!(ids, *wanted, "{name}: {text:?}");
            // A sequence is its upper case, without what no sequence has in it.
            let bases: String = text.chars().filter(char::is_ascii_alphabetic).collect();
            let (mut of_upper, mut of_bases, mut spans) = (Vec::new(), Vec::new(), Vec::new());
            tokenizer.encode_text(&bases.to_ascii_uppercase(), &mut of_upper);
            tokenizer.encode_with_spans(bases.as_bytes(), &mut of_bases, &mut spans);
            assert_eq!(of_bases, of_upper, "{name}: {bases:?}");
            let ends: Vec<u32> = spans.iter().map(|span| span.end).collect();
            let starts: Vec<u32> = [0].into_iter().chain(ends.iter().copied()).collect();
            assert!(
                spans.iter().zip(&starts).all(|(span, &start)| span.start == start && span.end > start),
                "{spans:?}"
            );
            assert_eq!(starts.last(), Some(&(bases.len() as u32)));
            for (&id, span) in of_bases.iter().zip(spans) {
                let token = tokenizer.token(id).unwrap();
                let covered = &bases[span.start as usize..span.end as usize];
                let is_gap =
                    token == "-" && covered.len() >= 10 && covered.bytes().all(|base| base.eq_ignore_ascii_case(&b'N'));
                assert!(id == specials.unk || is_gap || token.eq_ignore_ascii_case(covered), "{token} {covered}");
            }
        }
    }
}

/// The released files are not here; `HELIXGRAD_TOKENIZERS` may name a folder that has them as dnabert2.json and gena.json.
#[test]
fn released_tokenizers_say_what_they_say_in_python() {
    let Some(folder) = std::env::var_os("HELIXGRAD_TOKENIZERS") else {
        println!("skipped: HELIXGRAD_TOKENIZERS names no folder with dnabert2.json and gena.json");
        return;
    };
    let golden = |file: &str, cases: &[(&str, &[i32])]| {
        let tokenizer = Bpe::read(&Path::new(&folder).join(file)).unwrap();
        for (text, expected) in cases {
            let mut ids = vec![1];
            tokenizer.encode_text(text, &mut ids);
            ids.push(2);
            assert_eq!(ids, *expected, "{text}");
        }
    };
    golden(
        "dnabert2.json",
        &[
            (
                "ACGTAGCATCGGATCTATCTATCGACACTTGGTTATCGATCTACGAGCATCTCGTTAGC",
                &[1, 5, 194, 32, 757, 1239, 2092, 294, 24, 359, 88, 93, 32, 75, 77, 19, 2],
            ),
            ("ACGTNACGT", &[1, 5, 6, 1049, 0, 5, 6, 1049, 2]),
            (&"A".repeat(33), &[1, 1169, 248, 750, 2]),
            ("ACGT[MASK]ACGT", &[1, 5, 6, 1049, 4, 5, 6, 1049, 2]),
            ("acgtagc", &[1, 0, 0, 0, 0, 0, 0, 0, 2]),
            ("", &[1, 2]),
        ],
    );
    golden(
        "gena.json",
        &[
            ("ACGTAGCATCGGATCTATCTATCGACACTTGG", &[1, 16127, 1564, 36, 1188, 9, 12126, 2]),
            ("ACGTNNNNNNNNNNNNACGT", &[1, 120, 15, 5, 120, 15, 2]),
            ("ACGTNNNNNACGT", &[1, 120, 5428, 11642, 11642, 120, 15, 2]),
        ],
    );
}

#[test]
fn a_tokenizer_json_is_written_as_it_was_read() {
    for name in ["dnabert2.json", "gena.json"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vocab.txt"), "left by another model").unwrap();
        let read = bpe(name);
        tokenizer::write(&read, folder.path(), Some(512)).unwrap();
        let bytes = |path: &Path| std::fs::read(path).unwrap();
        assert_eq!(bytes(&folder.path().join("tokenizer.json")), bytes(&Path::new(FIXTURES).join(name)));
        assert!(*tokenizer::read(folder.path()).unwrap() == *read.shared());
    }
}

#[test]
fn settings_that_no_model_has_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(Path::new(FIXTURES).join("gena.json")).unwrap();
    for (from, to, wanted) in [
        ("\"dropout\":null", "\"dropout\":0.1", "model.dropout: 0.1"),
        ("\"fuse_unk\":false", "\"fuse_unk\":true", "model.fuse_unk: true"),
        ("\"single_word\":false", "\"single_word\":true", "added_tokens: \"[UNK]\" with single_word"),
        ("N{10,}", "N+", "normalizer: "),
        ("\"Isolated\"", "\"Removed\"", "pre_tokenizer: "),
        ("[\"[CLS]\",1]", "[\"[CLS]\",0]", "post_processor: sequences that are not"),
        ("[\"A\",\"A\"]", "[\"A\",\"AA\"]", "which is no token yet"),
        ("\"[MASK]\":4", "\"[MASK]\":5", "model.vocab: ids that are not 0, 1, 2"),
        ("\"[MASK]\":4", "\"[MUSK]\":4", "model.vocab: no token [MASK]"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        std::fs::write(&path, changed).unwrap();
        let message = tokenizer::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains(wanted), "{from}: {message}");
    }
}

/// Bases that look random, and are the same everywhere.
fn bases(count: usize, salt: u64) -> String {
    let mut state = salt + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b"ACGT"[(state >> 60) as usize & 3])
    };
    (0..count).map(|_| next()).collect()
}

/// A genome with repeats, N and lower case, in `folder`.
fn genome(folder: &Folder) -> String {
    let path = folder.path("genome.2bit");
    let repeat = bases(40, 99);
    let long: String = (0..300).map(|i| bases(30 + i % 50, i as u64) + &repeat).collect();
    let mut writer = TwoBitWriter::create(&path).unwrap();
    let text = format!("{long}{}{}{}", "N".repeat(50), bases(4000, 7).to_lowercase(), "AC".repeat(300));
    writer.add("one", &PackedSequence::from_ascii(text.as_bytes()).unwrap()).unwrap();
    writer.add("two", &PackedSequence::from_ascii(bases(5000, 8).as_bytes()).unwrap()).unwrap();
    writer.finish().unwrap();
    path
}

#[test]
fn a_vocabulary_is_learnt_and_shown() {
    let folder = Folder::new();
    let genome = genome(&folder);
    let out = folder.path("learnt");
    let trained = json(&["tokenizer", "train", "--genome", &genome, "--vocab-size", "300", "--out", &out]);
    assert_eq!((&trained["vocab_size"], &trained["sample_bases"]), (&300.into(), &trained["genome_bases"]));
    let again = folder.path("again");
    json(&["tokenizer", "train", "--genome", &genome, "--vocab-size", "300", "--out", &again]);
    let file = |folder: &str| std::fs::read(Path::new(folder).join("tokenizer.json")).unwrap();
    assert_eq!(file(&out), file(&again));
    let sampled = folder.path("sampled");
    let trained =
        json(&["tokenizer", "train", "--genome", &genome, "--vocab-size", "50", "--sample", "9000", "--out", &sampled]);
    assert!((8_000..=9_000).contains(&trained["sample_bases"].as_u64().unwrap()), "{trained}");
    assert!(refused(&["tokenizer", "train", "--genome", &genome, "--out", &out]).contains("exists already"));
    let few = folder.path("few");
    let error = refused(&["tokenizer", "train", "--genome", &genome, "--vocab-size", "9", "--out", &few]);
    assert!(error.contains("choose 10 to"), "{error}");

    let shown = json(&["tokenizer", "encode", "--tokenizer", &out, "ACGTNacgt[MASK]"]);
    let tokens: Vec<&str> =
        shown["sequences"][0]["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!((tokens[0], tokens[tokens.len() - 1]), ("[CLS]", "[SEP]"));
    assert_eq!(tokens.iter().filter(|token| **token == "[UNK]").count(), 5);
    assert_eq!(tokens[tokens.len() - 2], "[MASK]");
    let fasta = folder.write("two.fa", ">a\nACGTAC\nGTAC\n>b\nacgtacgtac\n");
    let shown = json(&["tokenizer", "encode", "--tokenizer", &out, "--fasta", &fasta]);
    assert_eq!(shown["sequences"][0]["ids"], shown["sequences"][1]["ids"]);
    assert_eq!(shown["sequences"][1]["name"], "b");
}

/// What is learnt is what the `tokenizers` library learns from the same pieces, and it reads what is written.
#[test]
fn python_learns_and_reads_the_same() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/check_tokenizer.py");
    let python = std::env::var("HELIXGRAD_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = std::process::Command::new(&python).args(["-c", "import tokenizers"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no package tokenizers");
        return;
    }
    let folder = Folder::new();
    let genome = genome(&folder);
    let (out, fasta) = (folder.path("learnt"), folder.path("genome.fa"));
    json(&["tokenizer", "train", "--genome", &genome, "--vocab-size", "400", "--out", &out]);
    let text: String = ["one", "two"]
        .iter()
        .map(|name| {
            let output = program::helixgrad(&["genome", "extract", &genome, name, "--upper-case"]);
            String::from_utf8(output.stdout).unwrap()
        })
        .collect();
    std::fs::write(&fasta, text).unwrap();
    let output = std::process::Command::new(python).args([script, &out, &fasta]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A family: its preset, what it needs beside it, the file of its tokenizer, and whether pairs can be read.
fn families() -> Vec<(&'static str, Option<&'static str>, &'static str, bool)> {
    vec![
        ("nt-500m", None, "vocab.txt", false),
        ("nt-v2-50m", None, "vocab.txt", false),
        ("dnabert2-117m", Some("dnabert2.json"), "tokenizer.json", true),
        ("bigbird-dna-4096", Some("gena.json"), "tokenizer.json", true),
        ("moderngena-base", Some("gena.json"), "tokenizer.json", true),
    ]
}

const SIZES: [&str; 8] = ["--layers", "2", "--hidden", "16", "--heads", "2", "--intermediate", "32"];

#[test]
fn every_family_goes_from_a_genome_to_answers() {
    for (preset, source, file, reads_pairs) in families() {
        let folder = Folder::new();
        let genome = genome(&folder);
        let mut tokenizer = Vec::new();
        let from = folder.path("tokenizer");
        if let Some(source) = source {
            let text = std::fs::read(Path::new(FIXTURES).join(source)).unwrap();
            folder.write("tokenizer/tokenizer.json", text);
            tokenizer = vec!["--tokenizer", &from];
        }
        let run = folder.path("run");
        let base = ["pretrain", "--genome", &genome, "--preset", preset, "--out", &run, "--hold-out", "two"];
        let steps = ["--steps", "4", "--tokens-per-step", "300", "--max-length", "60", "--eval-batches", "1"];
        let summary = json(&[&base[..], &steps, &SIZES, &tokenizer].concat());
        let loss = summary["loss_first"].as_f64().unwrap();
        assert!(loss.is_finite() && loss > 1.0, "{summary}");
        let written = std::fs::read(Path::new(&run).join(file)).unwrap();
        if let Some(source) = source {
            assert_eq!(written, std::fs::read(Path::new(FIXTURES).join(source)).unwrap());
        }
        let loaded = checkpoint::load(Path::new(&run)).unwrap();
        let tokens = Box::new(loaded.vocabulary.clone());

        // Windows with lower case, N and another code; two classes.
        let window = |salt: u64| {
            format!("{}n{}Ry{}", bases(30, salt), bases(25, salt + 50).to_lowercase(), bases(21, salt + 90))
        };
        let windows: Vec<String> = (0..12).map(window).collect();
        let rows: String = windows.iter().enumerate().map(|(i, window)| format!("{window}\t{}\n", i % 2)).collect();
        let table = folder.write("table.tsv", format!("sequence\tlabel\n{rows}"));
        for head in ["cls", "site"] {
            let out = folder.path(head);
            let tune = ["finetune", "--data", &table, "--init", &run, "--out", &out, "--head", head, "--epochs", "1"];
            json(&[&tune[..], &["--batch", "4"]].concat());
            let predicted = json(&["predict", "--model", &out, "--tsv", &table]);
            assert_eq!(predicted["windows"].as_array().unwrap().len(), 12, "{preset} {head}");
            json(&["evaluate", "--model", &out, "--data", &table]);
        }
        let pairs: String =
            windows.iter().map(|window| format!("{window}\tACGTACGT\t1\n{window}\tTTTT\t0\n")).collect();
        let pairs = folder.write("pairs.tsv", format!("sequence1\tsequence2\tlabel\n{pairs}"));
        let out = folder.path("pairs");
        let tune = ["finetune", "--pairs", "--data", &pairs, "--init", &run, "--out", &out, "--epochs", "1"];
        if reads_pairs {
            json(&tune);
        } else {
            assert!(refused(&tune).contains("nothing to put between"));
        }

        // Embeddings: rows, and their values by the model itself.
        let fasta = folder.write("some.fa", format!(">a\n{}\n>b\nACG\n", windows[0]));
        let rows = |per: &str| {
            let path = folder.path(&format!("{per}.npy"));
            let told = json(&["embed", "--model", &run, "--fasta", &fasta, "--out", &path, "--per", per]);
            (told["rows"].as_u64().unwrap() as usize, std::fs::read(path).unwrap())
        };
        let mut all = Vec::new();
        let mut expected: Vec<[Vec<f32>; 2]> = Vec::new();
        for sequence in [windows[0].as_str(), "ACG"] {
            let (mut ids, mut spans) = (Vec::new(), Vec::new());
            tokens.encode_with_spans(sequence.as_bytes(), &mut ids, &mut spans);
            let mut framed = Vec::new();
            tokens.encode_framed(sequence.as_bytes(), &mut framed);
            assert_eq!(framed[1..=ids.len()], ids);
            let mut batch = Batch::new();
            batch.push(&framed);
            let mut tape = Tape::new(Device::Cpu, DType::F32);
            tape.start_inference();
            let uploaded = loaded.model.upload(&mut tape, &batch).unwrap();
            let states = loaded.model.encode(&mut tape, &uploaded).unwrap();
            let values = tape.value(states[2]).to_f64().unwrap();
            let row =
                |token: usize| values[(token + 1) * 16..(token + 2) * 16].iter().map(|&v| v as f32).collect::<Vec<_>>();
            let per_token: Vec<f32> = (0..ids.len()).flat_map(row).collect();
            let per_base =
                spans.iter().enumerate().flat_map(|(token, span)| span.clone().flat_map(move |_| row(token))).collect();
            expected.push([per_token, per_base]);
            all.extend(spans);
        }
        for (per, which, count) in [("token", 0, all.len()), ("nucleotide", 1, windows[0].len() + 3)] {
            let (rows, file) = rows(per);
            assert_eq!(rows, count, "{preset} {per}");
            let values: Vec<f32> = file[file.len() - rows * 64..]
                .chunks_exact(4)
                .map(|v| f32::from_le_bytes(v.try_into().unwrap()))
                .collect();
            let expected: Vec<f32> = expected.iter().flat_map(|of| of[which].clone()).collect();
            let worst = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(values.len() == expected.len() && worst < 2e-5, "{preset} {per}: {worst}");
        }
        let told =
            program::helixgrad(&["embed", "--model", &run, "--fasta", &fasta, "--out", &folder.path("told.npy")]);
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        let lower = windows[0].bytes().filter(u8::is_ascii_lowercase).count();
        assert!(told.contains(&format!("{lower} bases in lower case (soft-masked) were read as upper case")), "{told}");
        // A sequence of several windows.
        let long = folder.write("long.fa", format!(">long\n{}\n", bases(900, 3)));
        let path = folder.path("long.npy");
        let told = json(&[
            "embed",
            "--model",
            &run,
            "--fasta",
            &long,
            "--out",
            &path,
            "--per",
            "nucleotide",
            "--window",
            "30",
        ]);
        assert_eq!((told["rows"].as_u64(), told["counts"]["windowed"].as_u64()), (Some(900), Some(1)), "{preset}");

        let path = folder.path("attention.tsv");
        for per in ["token", "nucleotide"] {
            json(&["attention", "--model", &run, "--fasta", &fasta, "--per", per, "--out", &path]);
        }
        let told = json(&["checkpoint", "info", &run]);
        assert!(told["k"].is_null() && told["tokens"].as_str().unwrap().len() > 10, "{told}");
        // What is too long is told by its name, with its bases or the number of its tokens.
        if preset != "dnabert2-117m" {
            let message = refused(&["attention", "--model", &run, "--fasta", &long, "--out", &path]);
            assert!(message.contains("long") && message.contains("900 bases"), "{message}");
        }
    }
}

#[test]
fn options_that_do_not_fit_a_family_are_refused() {
    let folder = Folder::new();
    let genome = genome(&folder);
    let run = folder.path("run");
    let of = |options: &[&str]| {
        refused(&[&["pretrain", "--genome", &genome, "--out", &run, "--steps", "1"], options].concat())
    };
    assert!(of(&["--preset", "dnabert2-117m"]).contains("without --tokenizer"));
    assert!(of(&["--preset", "nt-500m", "--tokenizer", FIXTURES]).contains("a vocabulary of its own"));
    assert!(of(&["--preset", "nt-500m", "--k", "6"]).contains("whose tokens are no k-mers"));
    assert!(of(&["--preset", "nt-500m", "--base-order", "acgt"]).contains("only vocabularies of k-mers"));
    let text = folder.write("text.txt", "AAA AAC ACG CGT GTA\n");
    let message = refused(&["pretrain", "--text", &text, "--preset", "nt-v2-50m", "--out", &run, "--layers", "1"]);
    assert!(message.contains("the text format is one of k-mers"), "{message}");
}
