//! `helixgrad serve` as its clients see it: the bits of the commands whatever else is asked at the same time, and no request that hurts it
//! or another.

#[path = "client.rs"]
mod client;
mod hostile;
#[path = "../program/mod.rs"]
mod program;
mod protocol;
#[allow(dead_code, unused_imports, reason = "shared with other tests")]
#[path = "../inference/support.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use helixgrad::device::DType;
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::model::{Architecture, Config, Head, Model, Task};
use helixgrad::train::checkpoint::{self, Classification};
use serde_json::{Value, json};

use client::Serving;
use program::{helixgrad, json as run};
use support::{bases, genome, splice_model, text};

/// A model over 3-mers with any head, in `folder/NAME`.
fn model(
    folder: &Path,
    name: &str,
    head: Head,
    classification: Option<&Classification>,
    hidden_size: usize,
) -> PathBuf {
    let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
    let config = Config {
        vocab_size: vocabulary.len(),
        hidden_size,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 2 * hidden_size,
        max_position_embeddings: 64,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        initializer_range: 0.3,
        architecture: Architecture::default(),
    };
    let model = Model::initialise(config, head, DType::F32, 3).unwrap();
    let path = folder.join(name);
    fs::create_dir_all(&path).unwrap();
    checkpoint::save_model(&path, &model, &vocabulary, classification).unwrap();
    path
}

fn classes(labels: &[&str], task: Task, pairs: bool) -> Classification {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Classification { labels, task, pairs, ..Classification::default() }
}

fn classifier(folder: &Path, name: &str, labels: &[&str], task: Task, pairs: bool, hidden: usize) -> PathBuf {
    model(folder, name, Head::Cls { labels: labels.len() }, Some(&classes(labels, task, pairs)), hidden)
}

/// An encoder that takes seconds for ten thousands of bases.
fn slow(folder: &Path) -> PathBuf {
    model(folder, "slow", Head::Encoder { pooler: false }, None, 256)
}

fn sequence(seed: u64, length: usize) -> String {
    String::from_utf8(bases(seed, length)).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn fasta(path: &Path, sequences: &[String]) {
    let text: String = sequences.iter().enumerate().map(|(index, bases)| format!(">s{index}\n{bases}\n")).collect();
    fs::write(path, text).unwrap();
}

/// The rows that `embed` writes.
fn embedded(model: &Path, fasta: &Path, extra: &[&str]) -> Vec<Vec<f32>> {
    let out = fasta.with_extension("npy");
    let result =
        run(&[&["embed", "--model", text(model), "--fasta", text(fasta), "--out", text(&out)], extra].concat());
    let (bytes, columns) = (fs::read(&out).unwrap(), result["columns"].as_u64().unwrap() as usize);
    fs::remove_file(&out).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values: Vec<f32> = bytes[header..].chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    values.chunks(columns).map(<[f32]>::to_vec).collect()
}

/// Clients that ask for different pieces at the same time, so that batches are made of whatever comes together.
#[test]
fn answers_have_the_bits_of_the_commands_whatever_comes_together() {
    let folder = tempfile::tempdir().unwrap();
    for (hidden, labels) in [(16, &["a", "b", "c"][..]), (192, &["a", "b"])] {
        let model = classifier(folder.path(), &format!("m{hidden}"), labels, Task::SingleLabel, false, hidden);
        let sequences: Vec<String> = (0..48).map(|seed| sequence(seed, 3 + seed as usize * 29 % 60)).collect();
        let path = folder.path().join("s.fa");
        fasta(&path, &sequences);
        let predicted = run(&["predict", "--model", text(&model), "--fasta", text(&path)]);
        let predicted: Vec<Vec<f64>> =
            predicted["windows"].as_array().unwrap().iter().map(|row| numbers(&row["probabilities"])).collect();
        let vectors = embedded(&model, &path, &[]);
        let server = Serving::start(&["--model", text(&model)]);
        thread::scope(|scope| {
            for client in 0..8_usize {
                let (server, sequences, predicted, vectors) = (&server, &sequences, &predicted, &vectors);
                scope.spawn(move || {
                    for round in 0..12_usize {
                        let first = (client * 7 + round * 11) % sequences.len();
                        let some = first..(first + 1 + (client + round) % 5).min(sequences.len());
                        let asked = json!({ "sequences": sequences[some.clone()] });
                        let found = server.post("/v1/predict", &asked).ok();
                        for (row, expected) in
                            found["predictions"].as_array().unwrap().iter().zip(&predicted[some.clone()])
                        {
                            assert_eq!(&numbers(&row["probabilities"]), expected);
                        }
                        let found = server.post("/v1/embeddings", &asked).ok();
                        let rows = found["embeddings"].as_array().unwrap();
                        assert_eq!(rows.len(), some.len());
                        for (row, expected) in rows.iter().zip(&vectors[some]) {
                            // As a client would that knows doubles only, and as one that reads floats.
                            let doubles: Vec<u32> =
                                numbers(&row["embedding"]).iter().map(|v| (*v as f32).to_bits()).collect();
                            let floats: Vec<f32> = serde_json::from_value(row["embedding"].clone()).unwrap();
                            let floats: Vec<u32> = floats.iter().map(|v| v.to_bits()).collect();
                            let expected: Vec<u32> = expected.iter().map(|v| v.to_bits()).collect();
                            assert!(doubles == expected && floats == expected);
                        }
                    }
                });
            }
        });
        let (batches, requests) = (server.metric("batch_requests_count"), server.metric("batch_requests_sum"));
        assert_eq!(requests, 2.0 * 8.0 * 12.0);
        assert!(batches < requests, "no batch was of several requests");
    }
}

/// Every shape of a request, and options of vectors.
#[test]
fn requests_may_be_written_as_people_write_them() {
    let folder = tempfile::tempdir().unwrap();
    let model = classifier(folder.path(), "m", &["no", "yes"], Task::SingleLabel, false, 16);
    let server = Serving::start(&["--model", text(&model), "--name", "splice"]);
    let sequences = [sequence(1, 30), sequence(2, 200)];
    let path = folder.path().join("s.fa");
    fasta(&path, &sequences);
    let texts = server.post("/v1/embeddings", &json!({ "sequences": sequences })).ok();
    assert_eq!((&texts["model"], &texts["pool"], &texts["layer"]), (&json!("splice"), &json!("mean"), &json!(-1)));
    let items: Vec<Value> = sequences.iter().map(|bases| json!({ "id": bases[..4], "sequence": bases })).collect();
    let named = server.post("/v1/embeddings", &json!({ "input": items, "model": "splice" })).ok();
    for (index, row) in named["embeddings"].as_array().unwrap().iter().enumerate() {
        assert_eq!(row["id"], sequences[index][..4]);
        assert_eq!(row["embedding"], texts["embeddings"][index]["embedding"]);
    }
    let cls = server.post("/v1/embeddings", &json!({ "sequences": sequences, "pool": "cls", "layer": 1 })).ok();
    let expected = embedded(&model, &path, &["--pool", "cls", "--layer", "1"]);
    for (row, expected) in cls["embeddings"].as_array().unwrap().iter().zip(expected) {
        assert_eq!(serde_json::from_value::<Vec<f32>>(row["embedding"].clone()).unwrap(), expected);
    }
    // RNA, lower case and k-mers are the same sequence.
    let bases = &sequences[0];
    let k_mers: Vec<&str> = (0..28).map(|at| &bases[at..at + 3]).collect();
    let same = [bases.clone(), bases.replace('T', "U"), bases.to_lowercase(), k_mers.join(" ")];
    let found = server.post("/v1/predict", &json!({ "sequences": same })).ok();
    assert_eq!(found["labels"], json!(["no", "yes"]));
    let rows = found["predictions"].as_array().unwrap();
    assert!(rows.len() == 4 && rows.iter().all(|row| row == &rows[0]), "{found}");
    assert!(["no", "yes"].contains(&rows[0]["prediction"].as_str().unwrap()));
    assert_eq!(server.get("/health").ok(), json!({ "status": "ok", "model": "splice", "queue": 0 }));
}

#[test]
fn every_task_answers_as_predict_does() {
    let folder = tempfile::tempdir().unwrap();
    let labels = ["x", "y"];
    let table = folder.path().join("t.tsv");
    let rows: Vec<[String; 2]> = (0..5).map(|seed| [sequence(seed, 20), sequence(seed + 9, 25)]).collect();
    for (task, pairs) in
        [(Task::Regression, false), (Task::MultiLabel, false), (Task::SingleLabel, true), (Task::Regression, true)]
    {
        let model = classifier(folder.path(), &format!("{task:?}{pairs}"), &labels, task, pairs, 16);
        let columns = if pairs { "sequence1\tsequence2\n" } else { "sequence\n" };
        let line = |row: &[String; 2]| row[..1 + usize::from(pairs)].join("\t") + "\n";
        fs::write(&table, columns.to_owned() + &rows.iter().map(line).collect::<String>()).unwrap();
        let expected = run(&["predict", "--model", text(&model), "--tsv", text(&table)]);
        let server = Serving::start(&["--model", text(&model)]);
        let item = |[first, second]: &[String; 2]| match pairs {
            true => json!({ "sequence": first, "second": second }),
            false => json!(first),
        };
        let asked: Vec<Value> = rows.iter().map(item).collect();
        let found = server.post("/v1/predict", &json!({ "sequences": asked })).ok();
        let without_name = |row: &Value| {
            let mut row = row.clone();
            row.as_object_mut().unwrap().remove("name");
            row
        };
        let expected: Vec<Value> = expected["windows"].as_array().unwrap().iter().map(without_name).collect();
        assert_eq!(found["predictions"], json!(expected));
        let other = if pairs { json!([rows[0][0]]) } else { json!([{ "sequence": rows[0][0], "second": rows[0][1] }]) };
        let message = server.post("/v1/predict", &json!({ "sequences": other })).refused(422);
        assert!(message.starts_with("sequences[0]: a "), "{message}");
    }
    // Both strands.
    let model = classifier(folder.path(), "rc", &labels, Task::SingleLabel, false, 16);
    let path = folder.path().join("rc.fa");
    fasta(&path, &[rows[0][0].clone()]);
    let server = Serving::start(&["--model", text(&model), "--rc"]);
    let asked = json!({ "sequences": [rows[0][0]] });
    let expected = run(&["predict", "--model", text(&model), "--fasta", text(&path), "--rc"]);
    let found = server.post("/v1/predict", &asked).ok();
    assert_eq!(found["predictions"][0]["probabilities"], expected["windows"][0]["probabilities"]);
    let found: Vec<f32> =
        serde_json::from_value(server.post("/v1/embeddings", &asked).ok()["embeddings"][0]["embedding"].clone())
            .unwrap();
    assert_eq!(found, embedded(&model, &path, &["--rc"])[0]);
}

/// What `variants` writes into INFO, from the JSON.
fn info(record: &Value) -> String {
    let (mut scored, mut skipped) = (Vec::new(), Vec::new());
    for allele in record["alleles"].as_array().unwrap() {
        let text = allele["allele"].as_str().unwrap();
        if let Some(reason) = allele["skipped"].as_str() {
            skipped.push(format!("{text}|{reason}"));
            continue;
        }
        for effect in allele["effects"].as_array().unwrap() {
            let kinds = ["acceptor_gain", "acceptor_loss", "donor_gain", "donor_loss"];
            let scores = kinds.map(|kind| format!("{:.6}", effect[kind]["score"].as_f64().unwrap()));
            let places = kinds.map(|kind| effect[kind]["offset"].as_i64().map_or(".".to_owned(), |at| at.to_string()));
            scored.push(format!(
                "{text}|{}|{}|{}|{}|{}",
                effect["gene"].as_str().unwrap_or("."),
                effect["strand"].as_str().unwrap(),
                scores.join("|"),
                places.join("|"),
                effect["consequence"].as_str().unwrap_or(".")
            ));
        }
    }
    let fields = [("HELIXGRAD", scored), ("HELIXGRAD_SKIPPED", skipped)];
    let fields = fields.into_iter().filter(|(_, values)| !values.is_empty());
    fields.map(|(name, values)| format!("{name}={}", values.join(","))).collect::<Vec<_>>().join(";")
}

#[test]
fn variants_have_the_scores_of_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let x = bases(1, 900);
    let genome = genome(folder.path(), &[("x", &x)]);
    let annotation = folder.path().join("genes.gff3");
    fs::write(&annotation, "##gff-version 3\nx\tt\texon\t201\t500\t.\t-\t.\tParent=g\n").unwrap();
    let other = |base: u8| if base == b'A' { 'C' } else { 'A' };
    let variants: Vec<(usize, String, String)> = (60..860)
        .step_by(23)
        .map(|at| {
            let (base, next) = (x[at - 1] as char, x[at] as char);
            match at % 4 {
                0 => (at, format!("{base}{next}"), base.to_string()),
                1 => (at, base.to_string(), format!("{base}GT,{}", other(x[at - 1]))),
                _ => (at, base.to_string(), other(x[at - 1]).to_string()),
            }
        })
        .chain([
            (5, (x[4] as char).to_string(), other(x[4]).to_string()),
            (100, (x[99] as char).to_string(), "<DEL>".into()),
        ])
        .collect();
    let mut vcf = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n".to_owned();
    variants.iter().for_each(|(at, from, to)| vcf += &format!("chrX\t{at}\t.\t{from}\t{to}\t.\t.\t.\n"));
    let (path, out) = (folder.path().join("v.vcf"), folder.path().join("o.vcf"));
    fs::write(&path, vcf).unwrap();
    for genes in [&[][..], &["--annotation", text(&annotation)]] {
        let options = [&["--model", text(&model), "--genome", text(&genome), "--alias", "chrX=x"], genes].concat();
        run(&[&["variants", "--vcf", text(&path), "--out", text(&out)], &options[..]].concat());
        let written = fs::read_to_string(&out).unwrap();
        let expected: Vec<&str> = written
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split('\t').nth(7).unwrap())
            .collect();
        let server = Serving::start(&options);
        let asked = |some: &[(usize, String, String)]| -> Vec<Value> {
            some.iter()
                .enumerate()
                .map(|(index, (at, from, to))| match index % 2 {
                    0 => json!({ "chrom": "chrX", "pos": at, "ref": from, "alt": to, "id": index.to_string() }),
                    _ => json!(format!("chrX-{at}-{from}-{to}")),
                })
                .collect()
        };
        thread::scope(|scope| {
            for size in [1, 3, 4, 50] {
                let (server, variants, expected) = (&server, &variants, &expected);
                scope.spawn(move || {
                    for (some, expected) in variants.chunks(size).zip(expected.chunks(size)) {
                        let found = server.post("/v1/variants", &json!({ "variants": asked(some) })).ok();
                        let found: Vec<String> = found["variants"].as_array().unwrap().iter().map(info).collect();
                        assert_eq!(found, expected);
                    }
                });
            }
        });
        assert!(expected.iter().any(|info| info.contains("donor_gain") || info.contains("acceptor_loss")));
        for (variant, found, status) in [
            (json!({ "chrom": "chrX", "pos": 100, "ref": "ACGTACGTT", "alt": "A" }), "has REF ACGTACGTT", 422),
            (json!({ "chrom": "chrX", "pos": 100_000, "ref": "A", "alt": "C" }), "has 900 bases", 422),
            (json!({ "chrom": "x\t1", "pos": 100, "ref": "A", "alt": "C" }), "\"x\\t1\"", 422),
            (json!({ "chrom": "x", "pos": -1, "ref": "A", "alt": "C" }), "-1", 422),
            (json!("x-100"), "x-100", 422),
            (json!(7), "7", 422),
        ] {
            let message = server.post("/v1/variants", &json!({ "variants": ["chrX-100-A-<DEL>", variant] }));
            let message = message.refused(status);
            assert!(message.contains(found) || message.starts_with("variants[0]"), "{message}");
        }
        // A sequence that the genome lacks is a reason, as in the command.
        let found = server.post("/v1/variants", &json!({ "variants": ["elsewhere-5-A-C"] })).ok();
        assert_eq!(found["variants"][0]["alleles"][0]["skipped"], "sequence_not_in_genome");
    }
}

#[test]
fn what_is_wrong_is_said_before_anything_listens() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = slow(folder.path());
    let sites = splice_model(folder.path());
    let genome = genome(folder.path(), &[("x", &bases(1, 300))]);
    let server = Serving::start(&["--model", text(&encoder)]);
    let taken = server.address.to_string();
    for (line, found) in [
        (vec!["--model", "/nowhere"], "check the path"),
        (vec!["--model", text(&encoder), "--listen", &taken], "cannot listen on"),
        (vec!["--model", text(&encoder), "--listen", "nowhere"], "--listen"),
        (vec!["--model", text(&encoder), "--queue", "0"], "--queue 0"),
        (vec!["--model", text(&encoder), "--name", "a/b"], "--name \"a/b\""),
        (vec!["--model", text(&encoder), "--genome", text(&genome)], "a model without classes"),
        (vec!["--model", text(&sites), "--rc"], "--rc with a model of splice sites"),
        (vec!["--model", text(&sites), "--distance", "10"], "--genome"),
    ] {
        let output = helixgrad(&[&["serve"], &line[..]].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains(found), "{line:?}: {message}");
    }
}
