//! Attention against the formula, row by row in f64; and motifs that were planted.

use std::fs;

use helixgrad::autograd::Tape;
use helixgrad::device::{DType, Device};
use helixgrad::inference::attention::{Heads, Observer, Query, Selection, Unit};
use helixgrad::kmer::labelled::{Head as Rows, classification_batch};
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::model::{Architecture, Config, Head, Model};
use helixgrad::train::checkpoint::{self, Classification};

use super::support::*;

/// A parameter's values by its name.
fn parameter(model: &Model, name: &str) -> Vec<f64> {
    let spec = model.parameters.specs.iter().find(|spec| spec.name == name).unwrap();
    model.parameters.host_values().unwrap()[spec.range()].iter().map(|&value| value.into()).collect()
}

#[test]
fn rows_are_those_of_the_whole_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), &["a", "b"], None);
    let loaded = checkpoint::load(&path).unwrap();
    let (hidden, heads) = (loaded.model.config.hidden_size, loaded.model.config.num_attention_heads);
    let sequences = [bases(1, 30), bases(2, 12), bases(3, 3), bases(4, 45)];
    for (query, rows) in [(Query::Cls, Rows::Cls), (Query::Site, Rows::Site)] {
        let selection = Selection { query, layers: vec![1, 0], heads: Heads::Each, unit: Unit::Token };
        assert_eq!(selection.columns(2), ["layer2_head1", "layer2_head2", "layer1_head1", "layer1_head2"]);
        let observer = Observer::new(checkpoint::load(&path).unwrap(), selection, Device::Cpu, DType::F32).unwrap();
        let profiles = observer.profiles(&sequences).unwrap();
        for (sequence, profile) in sequences.iter().zip(&profiles) {
            assert_eq!(profile.bases, 0..sequence.len());
            let windows = [(sequence.as_slice(), 0)];
            let batch = classification_batch(&windows, &*loaded.vocabulary, None, rows).unwrap();
            let mut tape = Tape::new(Device::Cpu, DType::F32);
            tape.start_inference();
            let uploaded = loaded.model.upload(&mut tape, &batch).unwrap();
            let states = loaded.model.encode(&mut tape, &uploaded).unwrap();
            for (index, layer) in [1, 0].into_iter().enumerate() {
                let input = tape.value(states[layer]).to_f64().unwrap();
                let project = |part: &str, token: usize, head: usize| -> Vec<f64> {
                    let name = format!("bert.encoder.layer.{layer}.attention.self.{part}");
                    let weight = parameter(&loaded.model, &format!("{name}.weight"));
                    let bias = parameter(&loaded.model, &format!("{name}.bias"));
                    let x = &input[token * hidden..][..hidden];
                    let unit =
                        |row: usize| bias[row] + (0..hidden).map(|i| weight[row * hidden + i] * x[i]).sum::<f64>();
                    (head * hidden / heads..(head + 1) * hidden / heads).map(unit).collect()
                };
                for head in 0..heads {
                    let own = project("query", batch.rows[0] as usize, head);
                    let scores: Vec<f64> = (0..batch.total_tokens())
                        .map(|token| {
                            let key = project("key", token, head);
                            let product: f64 = own.iter().zip(&key).map(|(q, k)| q * k).sum();
                            (product / ((hidden / heads) as f64).sqrt()).exp()
                        })
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    let expected = scores[1..scores.len() - 1].iter().map(|score| score / sum);
                    let found = &profile.columns[index * heads + head];
                    assert_eq!(found.len(), sequence.len() - 2);
                    found.iter().zip(expected).for_each(|(&one, other)| assert!((f64::from(one) - other).abs() < 1e-5));
                }
            }
        }
    }
}

#[test]
fn tables_of_tokens_and_bases() {
    let folder = tempfile::tempdir().unwrap();
    let model_path = splice_model(folder.path());
    let (fasta, out) = (folder.path().join("x.fa"), folder.path().join("a.tsv"));
    let sequence = bases(5, 25);
    fs::write(&fasta, format!(">s\n{}\n", String::from_utf8_lossy(&sequence))).unwrap();
    let write = |to: &std::path::Path, extra: &[&str]| {
        let command = ["attention", "--model", text(&model_path), "--fasta", text(&fasta), "--out", text(to)];
        json(&[&command[..], extra].concat())
    };
    let run = |extra: &[&str]| {
        write(&out, extra);
        let text = fs::read_to_string(&out).unwrap();
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect::<Vec<Vec<String>>>()
    };
    let tokens = run(&["--head", "all", "--layer", "all", "--from", "site"]);
    assert_eq!(tokens[0].join(" "), "name position sequence layer1_head1 layer1_head2 layer2_head1 layer2_head2");
    // The middle 20 of 25 bases: from base 3 on, 1-based.
    assert_eq!(tokens.len(), 1 + 18);
    assert_eq!(tokens[1][1], "3");
    assert_eq!(tokens[1][2].as_bytes(), &sequence[2..5]);
    let mean = run(&["--layer", "2", "--from", "site", "--per", "nucleotide"]);
    assert_eq!((mean.len(), mean[0].len(), mean[20][1].as_str()), (1 + 20, 4, "22"));
    let value = |rows: &Vec<Vec<String>>, row: usize, column: usize| rows[row][column].parse::<f64>().unwrap();
    let of_token = |row: usize| (value(&tokens, row, 5) + value(&tokens, row, 6)) / 2.0;
    assert!((value(&mean, 1, 3) - of_token(1)).abs() < 1e-6);
    assert!((value(&mean, 10, 3) - (of_token(8) + of_token(9) + of_token(10)) / 3.0).abs() < 1e-6);

    // The same numbers as tensors, whose index says where in the sequence they begin.
    let tensors = folder.path().join("a.safetensors");
    let result = write(&tensors, &["--head", "all", "--layer", "all", "--from", "site"]);
    assert_eq!((result["rows"].as_u64(), result["columns"][3].as_str()), (Some(18), Some("layer2_head2")));
    let bytes = fs::read(&tensors).unwrap();
    let attention = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let attention = attention.tensor("attention").unwrap();
    assert_eq!(attention.shape(), [18, 4]);
    let values = attention.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    let of_table = tokens[1..].iter().flat_map(|row| row[3..].iter().map(|text| text.parse::<f32>().unwrap()));
    assert!(values.eq(of_table));
    let index = fs::read_to_string(folder.path().join("a.safetensors.index.tsv")).unwrap();
    assert_eq!(index.lines().nth(1), Some("s\t0\t18\t3"));

    let with = |extra: &[&str]| {
        let command = ["attention", "--model", text(&model_path), "--fasta", text(&fasta), "--out", text(&out)];
        refused(&[&command[..], extra].concat())
    };
    assert!(with(&["--layer", "3"]).contains("layers 1 to 2"));
    assert!(with(&["--layer", "0"]).contains("--layer 0"));
    assert!(with(&["--head", "3"]).contains("heads 1 to 2"));
    fs::write(&fasta, ">s\nACGTACGT\n").unwrap();
    assert!(with(&[]).contains("8 bases"));
}

/// A model of one layer whose every token looks at the k-mers of `word`; of longer sequences it reads 60 bases in the middle.
fn looking_at(folder: &std::path::Path, word: &str) -> std::path::PathBuf {
    let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
    let config = Config {
        vocab_size: vocabulary.len(),
        hidden_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        intermediate_size: 8,
        max_position_embeddings: 100,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        initializer_range: 0.02,
        architecture: Architecture::default(),
    };
    let mut model = Model::zeros(config, Head::Cls { labels: 2 }, DType::F32).unwrap();
    let specs = model.parameters.specs.clone();
    let values = model.parameters.values.slice_mut::<f32>();
    let mut set = |name: &str, value: &dyn Fn(usize) -> f32| {
        let spec = specs.iter().find(|spec| spec.name == name).unwrap();
        values[spec.range()].iter_mut().enumerate().for_each(|(index, weight)| *weight = value(index));
    };
    let mut wanted = Vec::new();
    vocabulary.encode(word.as_bytes(), &mut wanted);
    let sign = |index: usize| [1.0, -1.0].get(index % 8).copied().unwrap_or(0.0);
    set("bert.embeddings.word_embeddings.weight", &|index| {
        if wanted.contains(&((index / 8) as i32)) { sign(index) } else { -sign(index) }
    });
    set("bert.embeddings.LayerNorm.weight", &|_| 1.0);
    set("bert.encoder.layer.0.attention.self.query.bias", &|index| 2.0 * sign(index));
    set("bert.encoder.layer.0.attention.self.key.weight", &|index| if index / 8 == index % 8 { 1.0 } else { 0.0 });
    let path = folder.join("looking");
    fs::create_dir_all(&path).unwrap();
    let labels = vec!["plain".to_owned(), "planted".to_owned()];
    let classification = Classification { labels, window: Some(60), ..Classification::default() };
    checkpoint::save_model(&path, &model, &vocabulary, Some(&classification)).unwrap();
    path
}

#[test]
fn a_planted_motif_is_found() {
    const WORD: &str = "TATAATGC";
    let folder = tempfile::tempdir().unwrap();
    let model = looking_at(folder.path(), WORD);
    let mut table = String::from("sequence\tlabel\n");
    for number in 0..80 {
        let mut sequence = bases(100 + number, 60);
        if number % 2 == 1 {
            let at = 15 + number as usize % 30;
            sequence[at..at + 8].copy_from_slice(WORD.as_bytes());
        }
        // Outside the model's window all have the word, and all else that is looked at.
        let flank = format!("{WORD}{}", String::from_utf8_lossy(&bases(500, 400)));
        let sequence = [flank.as_bytes(), &sequence, flank.as_bytes()].concat();
        table += &format!("{}\t{}\n", String::from_utf8_lossy(&sequence), number % 2);
    }
    let (data, out) = (folder.path().join("data.tsv"), folder.path().join("motifs"));
    fs::write(&data, table).unwrap();
    let command =
        ["motifs", "--model", text(&model), "--data", text(&data), "--out", text(&out), "--motif-window", "12"];
    let findings = json(&[&command[..], &["--class", "planted"]].concat());
    let motif = &findings["motifs"][0];
    assert!(motif["name"].as_str().unwrap().contains("TATAATGC"), "{findings}");
    assert!(motif["places"].as_u64().unwrap() >= 20, "{motif}");
    assert_eq!(findings["sequences"], serde_json::json!([40, 40]));

    let meme = fs::read_to_string(out.join("motifs.meme")).unwrap();
    assert!(meme.starts_with("MEME version 4\n\nALPHABET= ACGT\n"));
    let rows: Vec<Vec<f64>> = meme
        .lines()
        .skip_while(|line| !line.starts_with("letter-probability matrix: alength= 4 w= 12 nsites= "))
        .skip(1)
        .take(12)
        .map(|line| line.split_whitespace().map(|share| share.parse().unwrap()).collect())
        .collect();
    let consensus: String = rows
        .iter()
        .map(|row| {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-5);
            row.iter().position(|&share| share > 0.85).map_or('.', |base| char::from(b"ACGT"[base]))
        })
        .collect();
    assert!(consensus.contains("TATAATGC"), "{consensus}");
    assert!(fs::read_to_string(out.join("motif_1.svg")).unwrap().starts_with("<svg"));
    assert!(fs::read_to_string(out.join("motifs.tsv")).unwrap().contains("\nTATAATGC\t40\t0\t"));

    // The other class has nothing of its own, and that is said. (Tables without labels are --tsv: that name works, too.) An
    // earlier folder of the command is replaced, but none that holds more.
    let findings =
        json(&[&command.map(|word| if word == "--data" { "--tsv" } else { word })[..], &["--class", "0"]].concat());
    assert_eq!(findings["motifs"], serde_json::json!([]));
    assert!(findings["nothing"].as_str().unwrap().starts_with("No motif: "), "{findings}");
    let printed = helixgrad(&[&command[..], &["--class", "0", "--quiet"]].concat());
    assert!(String::from_utf8_lossy(&printed.stdout).contains("No motif: "));
    assert!(fs::read_to_string(out.join("motifs.html")).unwrap().contains("<p>No motif: "));
    assert!(refused(&[&command[..], &["--class", "x"]].concat()).contains("plain (0), planted (1)"));
    fs::write(out.join("thesis.txt"), "three years").unwrap();
    assert!(refused(&[&command[..], &["--class", "planted"]].concat()).contains("no folder of motifs"));
    assert_eq!(fs::read_to_string(out.join("thesis.txt")).unwrap(), "three years");
}
