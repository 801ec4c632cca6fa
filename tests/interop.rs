//! Checkpoints of other programs: `tools/hf_fixtures.py` made them with PyTorch and transformers.

mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use helixgrad::autograd::Tape;
use helixgrad::device::{DType, Device};
use helixgrad::interop::names::DecoderBias;
use helixgrad::interop::{ModelConfig, Weights, pickle, zip};
use helixgrad::kmer::batch::Batch;
use helixgrad::model::{Attending, Family, Head, Model, Positions, Task};
use helixgrad::philox::{Philox, Purpose};
use helixgrad::train::checkpoint::{self, import, load_encoder, save_model};
use helixgrad::train::description::describe;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use program::{helixgrad, json, refused};

const FOLDERS: [&str; 9] = ["mlm", "classifier", "token", "regression", "encoder", "zip", "legacy", "bf16", "dnabert"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf")
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f64> {
    let tensor = tensors.tensor(name).unwrap();
    tensor.data().chunks_exact(4).map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()))).collect()
}

/// The two sequences of the fixtures, with the rows that `head` reads.
fn batch(tensors: &SafeTensors, head: &Head) -> Batch {
    let tokens: Vec<i32> = tensors
        .tensor("tokens")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let mut batch = Batch::new();
    for sequence in tokens.chunks(12) {
        batch.push(sequence);
    }
    batch.rows = match head {
        Head::Cls { .. } => vec![0, 12],
        _ => (0..24).collect(),
    };
    batch
}

fn config_of(folder: &str) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(Path::new(folder).join("config.json")).unwrap()).unwrap()
}

#[test]
fn every_layout_computes_what_pytorch_computed() {
    let bytes = fs::read(fixtures().join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    for name in FOLDERS {
        let (loaded, notes) = import(&fixtures().join(name), DecoderBias::Auto).unwrap();
        let mut tape = Tape::new(Device::Cpu, DType::F32);
        tape.start_inference();
        let batch = loaded.model.upload(&mut tape, &batch(&expected, &loaded.model.head)).unwrap();
        let logits = loaded.model.forward(&mut tape, &batch).unwrap();
        let (found, expected) = (tape.value(logits).to_f64().unwrap(), floats(&expected, name));
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0.0f64, |max, value| max.max(value.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5 * largest, "{name}: {found} {expected}");
        }
        let told = notes.join("\n");
        let expected: &[&str] = match name {
            "zip" => &["module."],
            "legacy" => &["gamma and beta"],
            "encoder" => &["lacked bert."],
            "bf16" => &["weights were bf16"],
            "dnabert" => &["sum of both", "left out: bert.pooler.dense.bias, bert.pooler.dense.weight"],
            _ => &[],
        };
        assert!(expected.iter().all(|part| told.contains(part)), "{name}: {told}");
        assert_eq!(notes.len(), expected.len(), "{name}: {told}");
    }
}

#[test]
fn what_a_model_answers_is_read_from_its_config() {
    let answers = |name: &str| checkpoint::load(&fixtures().join(name)).unwrap().classification;
    let splice = answers("classifier").unwrap();
    assert_eq!((splice.labels.join(" "), splice.task), ("donor acceptor neither".into(), Task::SingleLabel));
    assert_eq!(answers("token").unwrap().labels.len(), 3);
    let number = answers("regression").unwrap();
    assert_eq!((number.labels.len(), number.task), (1, Task::Regression));
    assert!(answers("mlm").is_none() && answers("encoder").is_none());
}

/// transformers keeps our word about a model to which it gave another head: what it says itself counts.
#[test]
fn a_head_that_transformers_put_on_our_model_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    copy("classifier", folder.path());
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let ours = r#"{ "helixgrad": { "k": 3, "head": { "kind": "masked-lm" }, "classification": null },"#;
    fs::write(&path, text.replacen('{', ours, 1)).unwrap();
    let loaded = checkpoint::load(folder.path()).unwrap();
    assert_eq!(loaded.model.head, Head::Cls { labels: 3 });
    assert_eq!(loaded.classification.unwrap().labels[0], "donor");
}

fn copy(name: &str, to: &Path) {
    for entry in fs::read_dir(fixtures().join(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The decoder is the word embeddings, and its bias that of the head: a file in which they differ is of another model.
#[test]
fn a_decoder_of_its_own_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    copy("mlm", folder.path());
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let with = |added: &str, of: &str, change: u8| {
        let whole = SafeTensors::deserialize(&bytes).unwrap();
        let copied = whole.tensor(of).unwrap();
        let mut data = copied.data().to_vec();
        *data.iter_mut().nth_back(1).unwrap() ^= change;
        let copied = TensorView::new(copied.dtype(), copied.shape().to_vec(), &data).unwrap();
        let mut tensors = whole.tensors();
        tensors.push((added.to_owned(), copied));
        fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        import(folder.path(), DecoderBias::Once).map(drop)
    };
    for (added, of, found) in [
        (
            "cls.predictions.decoder.weight",
            "bert.embeddings.word_embeddings.weight",
            "differs from the word embeddings",
        ),
        ("cls.predictions.decoder.bias", "cls.predictions.bias", "differs from cls.predictions.bias"),
    ] {
        with(added, of, 0).unwrap();
        let message = with(added, of, 1).unwrap_err().to_string();
        assert!(message.contains(added) && message.contains(found), "{message}");
    }
}

/// What we save has the tensors that transformers saves: names, shapes and bits.
#[test]
fn an_export_has_the_tensors_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["mlm", "classifier", "token", "regression"] {
        let loaded = checkpoint::load(&fixtures().join(name)).unwrap();
        let out = folder.path().join(name);
        fs::create_dir(&out).unwrap();
        save_model(&out, &loaded.model, &*loaded.vocabulary, loaded.classification.as_ref()).unwrap();
        let read = |path: PathBuf| {
            let bytes = fs::read(path.join("model.safetensors")).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let all =
                tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec())));
            all.collect::<BTreeMap<_, _>>()
        };
        assert!(read(out.clone()) == read(fixtures().join(name)), "{name}");
        let config: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
        let theirs: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(fixtures().join(name).join("config.json")).unwrap()).unwrap();
        for key in ["architectures", "vocab_size", "hidden_size", "layer_norm_eps", "model_type", "hidden_act"] {
            assert_eq!(config[key], theirs[key], "{name} {key}");
        }
        let again = checkpoint::load(&out).unwrap();
        assert_eq!(again.model.head, loaded.model.head);
        assert_eq!(again.classification, loaded.classification);
        assert!(again.model.parameters.host_values().unwrap() == loaded.model.parameters.host_values().unwrap());
    }
}

/// What DNABERT's relatives were released as: the family, what their programs compute, what is left out and why; and what we save of it has
/// the names, the bits and the words that the family's programs read.
#[test]
fn every_family_computes_what_its_program_computed() {
    let bytes = fs::read(fixtures().join("expected_families.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: String| -> Vec<i32> {
        let tensor = expected.tensor(&name).unwrap();
        tensor.data().chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
    };
    let contacts = "residues of a protein touch";
    let cases: [(&str, Family, &[&str]); 10] = [
        ("nt_v1", Family::NucleotideTransformer, &[contacts, "numbers from 0 up"]),
        ("nt_v1_classifier", Family::NucleotideTransformer, &["gamma and beta", contacts]),
        ("nt_v2", Family::NucleotideTransformerV2, &[contacts, "makes and never reads", "the size of a head"]),
        ("dnabert2", Family::Dnabert2, &["no pooler in the file"]),
        ("dnabert2_decoder", Family::Dnabert2, &["no pooler in the file"]),
        ("dnabert2_classifier", Family::Dnabert2, &[]),
        ("bigbird", Family::BigBird, &["no use for were left out: bert.pooler.bias, bert.pooler.weight"]),
        ("bigbird_classifier", Family::BigBird, &["no use for were left out: bert.pooler.bias, bert.pooler.weight"]),
        ("modernbert", Family::ModernBert, &[]),
        ("modernbert_classifier", Family::ModernBert, &[]),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, family, told) in cases {
        let (loaded, notes) = import(&fixtures().join(name), DecoderBias::Auto).unwrap();
        assert_eq!(loaded.model.config.architecture.family, family, "{name}");
        assert!(told.iter().all(|part| notes.iter().any(|note| note.contains(part))), "{name}: {notes:?}");
        assert_eq!(notes.len(), told.len(), "{name}: {notes:?}");
        let mut host = Batch::new();
        integers(format!("{name}.tokens")).chunks(12).for_each(|sequence| {
            host.push(sequence);
        });
        host.rows = integers(format!("{name}.rows"));
        let logits = |model: &Model| {
            let mut tape = Tape::new(Device::Cpu, DType::F32);
            tape.start_inference();
            let batch = model.upload(&mut tape, &host).unwrap();
            let logits = model.forward(&mut tape, &batch).unwrap();
            tape.value(logits).to_f64().unwrap()
        };
        let (found, expected) = (logits(&loaded.model), floats(&expected, name));
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0.0f64, |max, value| max.max(value.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5 * largest, "{name}: {found} {expected}");
        }

        let out = folder.path().join(name);
        fs::create_dir(&out).unwrap();
        save_model(&out, &loaded.model, &*loaded.vocabulary, loaded.classification.as_ref()).unwrap();
        let (again, notes) = import(&out, DecoderBias::Auto).unwrap();
        assert!(notes.is_empty(), "{name}: {notes:?}");
        assert!(again.model.parameters.host_values().unwrap() == loaded.model.parameters.host_values().unwrap());
        assert_eq!((&again.model.config, &again.model.head), (&loaded.model.config, &loaded.model.head), "{name}");
        assert_eq!((&again.vocabulary, &again.classification), (&loaded.vocabulary, &loaded.classification), "{name}");
        let [ours, theirs] = [&out, &fixtures().join(name)].map(|path| config_of(path.to_str().unwrap()));
        for key in ["vocab_size", "hidden_size", "layer_norm_eps", "max_position_embeddings", "position_embedding_type"]
        {
            let is_set = theirs
                .get(key)
                .is_some_and(|value| family != Family::Dnabert2 || key != "max_position_embeddings" || value == 512);
            assert!(!is_set || ours[key] == theirs[key], "{name} {key}: {} {}", ours[key], theirs[key]);
        }
        for key in ["cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"] {
            assert!(
                family != Family::ModernBert || ours[key] == theirs[key],
                "{name} {key}: {} {}",
                ours[key],
                theirs[key]
            );
        }
        for key in [
            "token_dropout",
            "tie_word_embeddings",
            "attention_type",
            "block_size",
            "hidden_act",
            "add_bias_fnn",
            "local_attention",
        ] {
            // transformers ties words and decoder where nobody says anything.
            let is_default =
                |value: &serde_json::Value| key == "tie_word_embeddings" && value == true && ours[key].is_null();
            assert!(
                theirs.get(key).is_none_or(|value| ours[key] == *value || is_default(value)),
                "{name} {key}: {} {theirs}",
                ours[key]
            );
        }
    }
}

/// ModernBERT's words before transformers 5 and since, what they leave to defaults, and what is not implemented.
#[test]
fn words_of_modern_bert() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let read = |changes: &[(&str, serde_json::Value)]| {
        let mut json = config_of(fixtures().join("modernbert").to_str().unwrap());
        changes.iter().for_each(|(key, value)| json[*key] = value.clone());
        fs::write(&path, json.to_string()).unwrap();
        ModelConfig::read(&path).map(|read| read.config.architecture)
    };
    let types = |kinds: &[bool]| {
        let kind = |full: &bool| if *full { "full_attention" } else { "sliding_attention" };
        serde_json::json!(kinds.iter().map(kind).collect::<Vec<_>>())
    };
    let window = |reach, full_every| Attending::Window { reach, full_every };
    let plain = read(&[]).unwrap();
    assert_eq!(plain.attending, window(3, 3));
    assert_eq!(plain.positions, Positions::Rotary { base: 160_000.0, window_base: 10_000.0 });
    for (kinds, every) in
        [(&[true, true][..], 1), (&[true, false], 2), (&[true, false, true, false], 2), (&[true, false, false], 3)]
    {
        assert_eq!(read(&[("layer_types", types(kinds))]).unwrap().attending, window(3, every), "{kinds:?}");
    }
    let rope = serde_json::json!({ "full_attention": { "rope_theta": 5e5, "rope_type": "default" } });
    let null = serde_json::Value::Null;
    for (changes, base, window_base) in [
        (vec![("rope_parameters", rope)], 5e5, 10_000.0),
        (vec![("global_rope_theta", 7e4.into()), ("local_rope_theta", null.clone())], 7e4, 7e4),
        (vec![("local_attention", null.clone()), ("global_rope_theta", null)], 160_000.0, 10_000.0),
    ] {
        assert_eq!(read(&changes).unwrap().positions, Positions::Rotary { base, window_base }, "{changes:?}");
    }
    let scaled = serde_json::json!({ "sliding_attention": { "rope_type": "yarn" } });
    for (key, value, found) in [
        ("layer_types", types(&[false, true]), "layer_types"),
        ("layer_types", types(&[true, false, true, true]), "layer_types"),
        ("local_attention", 1.into(), "a window of 0 tokens"),
        ("local_attention", 1.5.into(), "local_attention"),
        ("global_attn_every_n_layers", 0.into(), "in every layer of 0"),
        ("mlp_bias", true.into(), "mlp_bias"),
        ("mlp_dropout", 0.1.into(), "only 0 is implemented"),
        ("hidden_activation", "silu".into(), "hidden_activation"),
        ("rope_parameters", scaled, "yarn"),
        ("global_rope_theta", 0.into(), "base 0"),
        ("pad_token_id", 50_283.into(), "beyond a vocabulary of 40"),
    ] {
        let message = read(&[(key, value)]).unwrap_err().to_string();
        assert!(message.contains(found), "{message}");
    }
    let mean = ("classifier_pooling", "mean".into());
    read(std::slice::from_ref(&mean)).unwrap();
    let classifier = ("architectures", serde_json::json!(["ModernBertForSequenceClassification"]));
    assert!(read(&[mean, classifier]).unwrap_err().to_string().contains("classifier_pooling"));
}

/// A decoder that is written out is the table of words, under whichever of its names that is found; another one is refused.
#[test]
fn a_decoder_of_modern_bert_is_its_table_of_words() {
    let folder = tempfile::tempdir().unwrap();
    copy("modernbert", folder.path());
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (words, decoder) = ("model.embeddings.tok_embeddings.weight", "decoder.weight");
    let before = import(folder.path(), DecoderBias::Auto).unwrap().0;
    let with = |keep: bool, change: u8| {
        let whole = SafeTensors::deserialize(&bytes).unwrap();
        let mut data = whole.tensor(words).unwrap().data().to_vec();
        data[1] ^= change;
        let shape = whole.tensor(words).unwrap().shape().to_vec();
        let mut tensors = whole.tensors();
        tensors.retain(|(name, _)| keep || name != words);
        tensors.push((decoder.to_owned(), TensorView::new(safetensors::Dtype::F32, shape, &data).unwrap()));
        fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        import(folder.path(), DecoderBias::Auto)
    };
    for keep in [true, false] {
        let (after, notes) = with(keep, 0).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        assert!(after.model.parameters.host_values().unwrap() == before.model.parameters.host_values().unwrap());
    }
    let message = with(true, 1).map(drop).unwrap_err().to_string();
    assert!(message.contains(decoder) && message.contains("ModernBertModel"), "{message}");
}

/// Large models are cut into files, with a list of what is where.
#[test]
fn a_checkpoint_may_be_several_files() {
    let folder = tempfile::tempdir().unwrap();
    copy("mlm", folder.path());
    let whole = folder.path().join("model.safetensors");
    let bytes = fs::read(&whole).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = tensors.iter().collect();
    all.sort_by_key(|(name, _)| name.to_string());
    let mut map = serde_json::Map::new();
    let (first, second) = all.split_at(all.len() / 2);
    for (name, part) in [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)] {
        let part: Vec<_> = part.iter().map(|(name, view)| (name.to_string(), view)).collect();
        part.iter().for_each(|(tensor, _)| drop(map.insert(tensor.clone(), name.into())));
        safetensors::serialize_to_file(part, None, &folder.path().join(name)).unwrap();
    }
    let before = checkpoint::load(folder.path()).unwrap();
    fs::remove_file(&whole).unwrap();
    let list = folder.path().join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        fs::write(&list, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    };
    write(&map);
    let after = checkpoint::load(folder.path()).unwrap();
    assert!(after.model.parameters.host_values().unwrap() == before.model.parameters.host_values().unwrap());
    let refused = |map: &serde_json::Map<String, serde_json::Value>| {
        write(map);
        checkpoint::load(folder.path()).err().unwrap().to_string()
    };
    let mut elsewhere = map.clone();
    elsewhere.insert("cls.predictions.bias".into(), "../other.safetensors".into());
    assert!(refused(&elsewhere).contains("no file in its own folder"));
    map.insert("no.such.tensor".into(), "model-00001-of-00002.safetensors".into());
    assert!(refused(&map).contains("none of the files has it"));
}

/// transformers 5 saves no vocab.txt.
#[test]
fn a_vocabulary_may_be_that_of_a_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path();
    copy("mlm", model);
    let before = checkpoint::load(model).unwrap().vocabulary;
    let text = fs::read_to_string(model.join("vocab.txt")).unwrap();
    fs::remove_file(model.join("vocab.txt")).unwrap();
    let mut table: serde_json::Map<_, _> =
        text.lines().enumerate().map(|(id, token)| (token.to_owned(), serde_json::json!(id))).collect();
    let write = |table: &serde_json::Map<String, serde_json::Value>| {
        let json = serde_json::json!({ "version": "1.0", "model": { "type": "WordPiece", "vocab": table } });
        fs::write(model.join("tokenizer.json"), json.to_string()).unwrap();
    };
    write(&table);
    let after = checkpoint::load(model).unwrap().vocabulary;
    assert!(*after == *before);
    for damage in [serde_json::json!(7), serde_json::json!(69), serde_json::json!(-1), serde_json::json!("5")] {
        table.insert("AAA".into(), damage);
        write(&table);
        let message = checkpoint::load(model).err().unwrap().to_string();
        assert!(message.contains("tokenizer.json"), "{message}");
    }
}

#[test]
fn import_and_info_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("imported").to_str().unwrap().to_owned();
    let dnabert = fixtures().join("dnabert").to_str().unwrap().to_owned();
    let result = json(&["import", &dnabert, "--out", &out]);
    assert_eq!(result["architecture"], "BertForMaskedLM");
    assert!(result["notes"][0].as_str().unwrap().contains("sum of both"), "{result}");
    let bias = |path: &str| Weights::read(&Path::new(path).join("model.safetensors")).unwrap();
    let doubled = bias(&out).values("cls.predictions.bias", &[69]).unwrap().unwrap();
    let once = bias(fixtures().join("mlm").to_str().unwrap()).values("cls.predictions.bias", &[69]).unwrap().unwrap();
    assert!(doubled.iter().zip(&once).all(|(doubled, once)| *doubled == 2.0 * once));
    // What transformers needs to know of our vocabulary: its default is to lower-case.
    let tokenizer = fs::read_to_string(Path::new(&out).join("tokenizer_config.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    assert_eq!(
        (&tokenizer["tokenizer_class"], &tokenizer["do_lower_case"], &tokenizer["model_max_length"]),
        (&"BertTokenizer".into(), &false.into(), &config_of(&out)["max_position_embeddings"])
    );
    // Taken over once: nothing is doubled again.
    let again = folder.path().join("again").to_str().unwrap().to_owned();
    assert_eq!(json(&["import", &out, "--out", &again])["notes"], serde_json::json!([]));
    assert!(
        fs::read(format!("{out}/model.safetensors")).unwrap()
            == fs::read(format!("{again}/model.safetensors")).unwrap()
    );
    assert!(refused(&["import", &dnabert, "--out", &out]).contains("exists already"));

    let single = folder.path().join("single").to_str().unwrap().to_owned();
    json(&["import", &dnabert, "--out", &single, "--decoder-bias", "once"]);
    assert_eq!(bias(&single).values("cls.predictions.bias", &[69]).unwrap().unwrap(), once);

    let info = json(&["checkpoint", "info", &dnabert]);
    assert_eq!(info["unused"], serde_json::json!(["bert.pooler.dense.bias", "bert.pooler.dense.weight"]));
    assert_eq!((info["k"].as_u64(), info["missing"].as_array().unwrap().len()), (Some(3), 0));
    assert!(info["format"].as_str().unwrap().contains("before 1.6"));
    for name in FOLDERS {
        let text = helixgrad(&["checkpoint", "info", fixtures().join(name).to_str().unwrap()]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("2 layers of 16, 2 heads") && text.contains("k = 3"), "{text}");
        assert!(!text.contains("missing"), "{text}");
    }
    for (name, told) in [
        ("modernbert", "3 tokens to each side; all in one layer of 3, from the first"),
        ("bigbird", "blocks of 64 tokens, 3 of them at random, in long sequences"),
    ] {
        let text = helixgrad(&["checkpoint", "info", fixtures().join(name).to_str().unwrap()]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains(told) && !text.contains("missing"), "{text}");
    }
    // A model that lacks something is described, too.
    let broken = folder.path().join("broken");
    fs::create_dir(&broken).unwrap();
    copy("encoder", &broken);
    let text = fs::read_to_string(broken.join("config.json")).unwrap();
    fs::write(broken.join("config.json"), text.replace("BertModel", "BertForMaskedLM")).unwrap();
    assert!(describe(&broken).unwrap().missing.contains(&"cls.predictions.bias".to_owned()));
    let message = refused(&["import", broken.to_str().unwrap(), "--out", &again.replace("again", "third")]);
    assert!(message.contains("cls.predictions") && message.contains("missing"), "{message}");
}

#[test]
fn fine_tuning_takes_any_encoder_and_its_pooler() {
    for name in ["mlm", "encoder", "zip", "legacy", "dnabert"] {
        let (model, _) = load_encoder(&fixtures().join(name), Head::Cls { labels: 4 }, None, 7).unwrap();
        let pooler = model.parameters.find("bert.pooler.dense.weight").unwrap().range();
        let has_pooler = ["encoder", "dnabert"].contains(&name);
        // Initial weights are N(0, 0.02), the fixtures' are larger.
        let largest = model.parameters.host_values().unwrap()[pooler].iter().fold(0.0f32, |a, b| a.max(b.abs()));
        assert_eq!(largest > 0.3, has_pooler, "{name}: {largest}");
    }
    // A head for other classes starts anew.
    load_encoder(&fixtures().join("classifier"), Head::Cls { labels: 5 }, None, 7).unwrap();
}

#[test]
fn files_that_cannot_be_understood_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let replace = |file: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            assert!(text.contains(from), "{from}");
            fs::write(folder.join(file), text.replace(from, to)).unwrap();
        }
    };
    let remove = |file: &'static str| move |folder: &Path| fs::remove_file(folder.join(file)).unwrap();
    type Case<'a> = (&'a str, Box<dyn Fn(&Path)>, &'a str);
    let cases: Vec<Case> = vec![
        ("mlm", Box::new(replace("config.json", "\"bert\"", "\"roberta\"")), "model_type"),
        ("mlm", Box::new(replace("config.json", "\"is_decoder\": false", "\"is_decoder\": true")), "is_decoder"),
        (
            "mlm",
            Box::new(replace("config.json", "BertForMaskedLM", "BertForLongSequenceClassification")),
            "architectures",
        ),
        ("mlm", Box::new(replace("config.json", "\"hidden_size\": 16", "\"hidden_size\": 32768")), "shape [69, 16]"),
        ("mlm", Box::new(replace("config.json", "_layers\": 2", "_layers\": 4000000")), "num_hidden_layers is 4000000"),
        ("mlm", Box::new(replace("config.json", "size\": 24", "size\": 1000000")), "intermediate"),
        ("mlm", Box::new(remove("vocab.txt")), "no vocab.txt"),
        (
            "mlm",
            Box::new(|f| {
                fs::rename(f.join("vocab.txt"), f.join("tokenizer.json")).unwrap();
            }),
            "tokenizer.json, model.vocab",
        ),
        ("mlm", Box::new(remove("config.json")), "config.json"),
        ("mlm", Box::new(remove("model.safetensors")), "no model.safetensors"),
        (
            "mlm",
            Box::new(|f| fs::rename(f.join("model.safetensors"), f.join("model.safetensors.index.json")).unwrap()),
            "index.json",
        ),
        (
            "classifier",
            Box::new(replace("config.json", "\"2\": \"neither\"", "\"2\": \"x\", \"3\": \"y\"")),
            "classifier.weight",
        ),
        ("zip", Box::new(|f| fs::write(f.join("pytorch_model.bin"), b"PK\x03\x04").unwrap()), "cut short"),
        ("zip", Box::new(|f| fs::write(f.join("pytorch_model.bin"), b"").unwrap()), "safetensors"),
        ("zip", Box::new(|f| flip_a_weight(&f.join("pytorch_model.bin"))), "checksum"),
    ];
    for (index, (name, harm, expected)) in cases.iter().enumerate() {
        let copied = folder.path().join(index.to_string());
        fs::create_dir(&copied).unwrap();
        copy(name, &copied);
        harm(&copied);
        let out = folder.path().join("out");
        let message = refused(&["import", copied.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        assert!(message.contains(expected), "case {index}: {message}");
        assert!(!out.exists());
        // What is only incomplete is described.
        let info = helixgrad(&["checkpoint", "info", copied.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&[info.stdout, info.stderr].concat()).into_owned();
        assert!(text.contains(expected) && !text.contains("panicked"), "case {index}: {text}");
    }
}

fn flip_a_weight(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let largest = zip::entries(&bytes).unwrap().into_values().max_by_key(|data| data.len()).unwrap();
    bytes[largest.start + largest.len() / 2] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Pickles that want to run something are refused by the name of what they ask for; nothing is run.
#[test]
fn a_pickle_runs_no_code() {
    let folder = tempfile::tempdir().unwrap();
    copy("legacy", folder.path());
    let path = folder.path().join("pytorch_model.bin");
    let original = fs::read(&path).unwrap();
    let canary = folder.path().join("canary");
    let command = format!("touch {}", canary.display());
    let mut by_global = b"cposix\nsystem\nX".to_vec();
    by_global.extend((command.len() as u32).to_le_bytes());
    by_global.extend(command.as_bytes());
    by_global.extend(b"\x85R.");
    let by_stack = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x04exit\x85R.".to_vec();
    let reduce_of_torch = b"\x80\x02ctorch.storage\n_load_from_bytes\n)R.".to_vec();
    let instance = b"\x80\x02(ios\nsystem\n.".to_vec();
    let new_object = b"\x80\x02ccollections\nOrderedDict\n)\x81.".to_vec();
    for (bytes, expected) in [
        (by_global, "posix.system"),
        (by_stack, "builtins.eval"),
        (reduce_of_torch, "torch.storage._load_from_bytes"),
        (instance, "opcode 0x69"),
        (new_object, "opcode 0x81"),
    ] {
        let message = pickle::read(&bytes).unwrap_err();
        assert!(message.contains(expected), "{message}");
        // As the state dict of an old file: magic, protocol and facts stay, then comes this.
        let magic = pickle::read(&original).unwrap().length;
        let version = magic + pickle::read(&original[magic..]).unwrap().length;
        let facts = version + pickle::read(&original[version..]).unwrap().length;
        fs::write(&path, [&original[..facts], &bytes].concat()).unwrap();
        let message = refused(&["checkpoint", "info", folder.path().to_str().unwrap()]);
        assert!(message.contains(expected) && message.contains("safe_serialization"), "{message}");
    }
    assert!(!canary.exists());
}

/// A pickle may be odd, but not expensive: deep nesting, cycles, and doubling by memory stay small.
#[test]
fn odd_pickles_cost_little() {
    let deep: Vec<u8> =
        std::iter::repeat_n(b')', 1).chain(std::iter::repeat_n(0x85, 1_000_000)).chain([b'.']).collect();
    assert!(pickle::read(&deep).is_ok());
    // l = [l, l]; l = [l, l]; ...
    let doubling: Vec<u8> = [b"]".to_vec(), b"q\x00(h\x00h\x00lq\x00".repeat(10_000), b".".to_vec()].concat();
    assert!(pickle::read(&doubling).is_ok());
    let itself = b"]q\x00h\x00a.";
    assert!(pickle::read(itself).is_ok());
    let huge_text = b"X\xff\xff\xff\xff.";
    assert!(pickle::read(huge_text).unwrap_err().contains("cut short"));
    assert!(pickle::read(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.").unwrap_err().contains("cut short"));
    for short in
        [&b""[..], b".", b"u.", b"s.", b"R.", b"a.", b"e.", b"b.", b"\x87.", b"h\x05.", b"(.", b"\x93.", b"Q.", b"(0."]
    {
        assert!(pickle::read(short).is_err(), "{short:?}");
    }
}

/// A pickle of a state dict with the tensor `w`, of floats in the storage `key`, with these strides.
fn state_dict(key: &str, shape: &[u32], strides: &[u32]) -> Vec<u8> {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let tuple = |sizes: &[u32]| {
        let items: Vec<u8> = sizes.iter().flat_map(|size| [&b"J"[..], &size.to_le_bytes()].concat()).collect();
        [&b"("[..], &items, b"t"].concat()
    };
    [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        b"K\x04tQK\x00".to_vec(),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

/// A zip archive of stored entries; one without contents has those of the entry before it.
fn archive(entries: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    let (mut at, mut sum, mut size) = (0, 0, 0);
    for (name, contents) in entries {
        if let Some(contents) = contents {
            let mut crc = flate2::Crc::new();
            crc.update(contents);
            (at, sum, size) = (bytes.len() as u32, crc.sum(), contents.len() as u32);
            bytes.extend(b"PK\x03\x04");
            bytes.extend([0; 22]);
            bytes.extend([name.len() as u8, 0, 0, 0]);
            bytes.extend(name.as_bytes());
            bytes.extend(*contents);
        }
        directory.extend(b"PK\x01\x02");
        directory.extend([0; 12]);
        [sum, size, size].iter().for_each(|word| directory.extend(word.to_le_bytes()));
        directory.extend([name.len() as u8, 0]);
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06");
    bytes.extend([0; 8]);
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// Storages of PyTorch before 1.6 may be views of others, from some element on. Whatever is no number is refused wherever it lies.
#[test]
fn elements_are_those_of_the_view_and_have_to_be_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let whole = state_dict("0", &[2, 2], &[2, 1]);
    let end_of_id = whole.windows(4).position(|bytes| bytes == b"K\x04tQ").unwrap() + 2;
    let view = b"(X\x01\x00\x00\x00vK\x02K\x04t";
    let viewed = [&whole[..end_of_id], view, &whole[end_of_id..]].concat();
    let read = |pickle: &[u8], floats: &[f32]| {
        let floats: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(&path, archive(&[("a/data.pkl", Some(pickle)), ("a/data/0", Some(&floats))])).unwrap();
        Weights::read(&path)?.values("w", &[2, 2]).map(Option::unwrap)
    };
    let floats = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    assert_eq!(read(&whole, &floats).unwrap(), floats[..4]);
    assert_eq!(read(&viewed, &floats).unwrap(), floats[2..]);
    assert!(read(&viewed, &floats[..5]).unwrap_err().to_string().contains("outside its storage"));
    for (at, odd) in [(0, f32::NAN), (3, f32::INFINITY), (2, f32::NEG_INFINITY)] {
        let mut floats = floats;
        floats[at] = odd;
        let message = read(&whole, &floats).unwrap_err().to_string();
        assert!(message.contains("tensor w") && message.contains("not a finite number"), "{message}");
    }
}

/// A small file must not ask for more memory or work than a small multiple of its size.
#[test]
fn pickles_and_archives_of_a_bomb_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let read = |key: &str, shape: &[u32], strides: &[u32]| {
        let pickle = state_dict(key, shape, strides);
        fs::write(&path, archive(&[("a/data.pkl", Some(&pickle)), ("a/data/0", Some(&[0; 16]))])).unwrap();
        Weights::read(&path).map(|weights| weights.values("w", &[2, 2]).unwrap().unwrap())
    };
    assert_eq!(read("0", &[2, 2], &[2, 1]).unwrap(), [0.0; 4]);
    let message = |result: helixgrad::Result<Vec<f32>>| result.unwrap_err().to_string();
    // One element, a million times a million times.
    assert!(message(read("0", &[1 << 20, 1 << 20], &[0, 0])).contains("in a storage of 16 bytes"));
    assert!(message(read("0", &[1; 100_000], &[1; 100_000])).contains("100000 axes"));
    // A name of a megabyte, which each use would copy.
    assert!(message(read(&"0".repeat(1 << 20), &[2, 2], &[2, 1])).contains("describes no storage"));

    // A name that is long is compared with itself each time.
    let once = state_dict("0", &[2, 2], &[2, 1]);
    let twice = [&once[..once.len() - 1], &once[3..]].concat();
    fs::write(&path, archive(&[("a/data.pkl", Some(&twice)), ("a/data/0", Some(&[0; 16]))])).unwrap();
    assert!(Weights::read(&path).unwrap_err().to_string().contains("tensor w is there twice"));

    // Every name is the same megabyte, whose checksum would be computed each time.
    let names: Vec<String> = (0..10_000).map(|number| format!("a/{number}")).collect();
    let mut entries: Vec<(&str, Option<&[u8]>)> = names.iter().map(|name| (name.as_str(), None)).collect();
    let contents = vec![0; 1 << 20];
    entries[0].1 = Some(&contents);
    assert!(zip::entries(&archive(&entries)).unwrap_err().contains("overlap"));
    let twice = archive(&[("a/b", Some(b"1")), ("a/b", Some(b"2"))]);
    assert!(zip::entries(&twice).unwrap_err().contains("two entries"));

    assert!(pickle::read(&vec![b')'; (8 << 20) + 1]).unwrap_err().contains("more than 8388608 bytes"));
    let long = |opcode: &[u8]| pickle::read(&[opcode, &[0x7f; 300][..], b"."].concat()).unwrap_err();
    assert!(long(b"\x8a\xff").contains("integer of 255 bytes"));
    assert!(long(b"\x8b\xff\xff\xff\x7f").contains("opcode 0x8b"));
}

/// Every way to cut or change these files is refused or read, never a panic; what is read is as large as the file.
#[test]
fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let philox = Philox::of(3, 0, Purpose::Shuffle);
    for name in ["zip/pytorch_model.bin", "legacy/pytorch_model.bin", "bf16/pytorch_model.bin", "mlm/model.safetensors"]
    {
        let original = fs::read(fixtures().join(name)).unwrap();
        let mut read = 0;
        let mut try_bytes = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            match Weights::read(&path) {
                Err(error) => assert_eq!(error.exit_code(), 2),
                Ok(weights) => {
                    read += 1;
                    let names: Vec<_> = weights.tensors.iter().map(|(n, t)| (n.clone(), t.shape.clone())).collect();
                    for (name, shape) in names {
                        if shape.iter().product::<usize>() < 1 << 16 {
                            let _ = weights.values(&name, &shape);
                        }
                    }
                }
            }
        };
        for cut in (0..original.len()).step_by(499) {
            try_bytes(&original[..cut]);
        }
        for round in 0..500 {
            let mut bytes = original.clone();
            let words = philox.block(round);
            for change in 0..1 + words[0] % 4 {
                let [place, value, kind, _] = philox.block(round << 8 | u64::from(change) << 32);
                // Half of the changes go to where counts and names are: the first and the last 6 KB.
                let span = 6000.min(bytes.len());
                let at = match kind % 4 {
                    0 => place as usize % span,
                    1 => bytes.len() - 1 - place as usize % span,
                    _ => place as usize % bytes.len(),
                };
                bytes[at] = if kind & 16 == 0 { value as u8 } else { [0, 0xff, 0x7f, 0x80][value as usize % 4] };
            }
            try_bytes(&bytes);
        }
        assert!(read > 0, "{name}: some changes hit only weights, or nothing");
    }
    // Behind the checksum of the archive: the pickle alone.
    let archive = fs::read(fixtures().join("zip/pytorch_model.bin")).unwrap();
    let entries = zip::entries(&archive).unwrap();
    let (_, data) = entries.iter().find(|(name, _)| name.ends_with("data.pkl")).unwrap();
    let original = &archive[data.clone()];
    assert!(pickle::read(original).is_ok());
    for cut in (0..original.len() - 1).step_by(3) {
        assert!(pickle::read(&original[..cut]).is_err());
    }
    for round in 0..5_000 {
        let mut bytes = original.to_vec();
        let [a, b, c, d] = philox.block(1 << 40 | round);
        let length = bytes.len();
        bytes[a as usize % length] = b as u8;
        if c % 2 == 0 {
            bytes[c as usize % length] = d as u8;
        }
        let _ = pickle::read(&bytes);
    }
}
