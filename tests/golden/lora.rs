//! Low-rank adapters against peft: logits, loss and gradients of A, B and head, in the families; and its files.

use std::collections::BTreeMap;
use std::fs;

use helixgrad::autograd::Tape;
use helixgrad::device::{DType, Device};
use helixgrad::model::{Head, Lora, Model, Target};
use helixgrad::ops;
use helixgrad::train::peft::save_adapters;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::fixture::Golden;
use super::{CLS, TOKEN, relative_error};

const ALL: &[Target] = &[Target::Query, Target::Key, Target::Value, Target::Dense];
const CASES: [(&str, Head, &[Target]); 5] = [
    ("classifier", CLS, &[Target::Query, Target::Value]),
    ("nt_v1_classifier", CLS, ALL),
    ("nt_v2_token", TOKEN, ALL),
    ("dnabert2_classifier", CLS, &[Target::Query, Target::Value, Target::Dense]),
    ("bigbird_classifier", CLS, &[Target::Key, Target::Dense]),
];

/// What transformers' BERT calls it, from which the fixture's DNABERT-2 is made.
fn name_in_bert(name: &str) -> String {
    let name = name.replace(".Wqkv.", ".").replace(".mlp.gated_layers.", ".intermediate.gated_layers.");
    format!("base_model.model.{}", name.replace(".mlp.wo.", ".output.dense."))
}

/// The model with the fixture's adapters and head.
fn adapted(case: &str, head: Head, targets: &[Target], dtype: DType) -> (Model, Golden, Golden) {
    let (base, golden) = (Golden::read(case), Golden::read(&format!("lora_{case}")));
    let mut model = base.model(head, dtype);
    let config = &golden.facts["adapter_config"];
    let lora = Lora {
        rank: config["r"].as_u64().unwrap() as usize,
        alpha: config["lora_alpha"].as_f64().unwrap(),
        dropout: 0.0,
        targets: targets.to_vec(),
    };
    model.adapt(&lora, 7).unwrap();
    let trained = model.parameters.trained();
    for spec in model.parameters.specs.clone().iter().filter(|spec| spec.offset < trained) {
        let values = golden.floats(&format!("peft.{}", name_in_bert(&spec.name)));
        match dtype {
            DType::F32 => {
                let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
                model.parameters.values.slice_mut::<f32>()[spec.range()].copy_from_slice(&values);
            }
            _ => model.parameters.values.slice_mut::<f64>()[spec.range()].copy_from_slice(&values),
        }
    }
    (model, base, golden)
}

fn logits(model: &Model, base: &Golden, dtype: DType) -> Vec<f64> {
    let mut tape = Tape::new(Device::Cpu, dtype);
    let batch = model.upload(&mut tape, &base.batch()).unwrap();
    tape.start_inference();
    let logits = model.forward(&mut tape, &batch).unwrap();
    tape.to_f64(logits).unwrap()
}

#[test]
fn adapters_are_those_of_peft() {
    for (case, head, targets) in CASES {
        for (dtype, tolerance) in [(DType::F64, 1e-6), (DType::F32, 1e-4)] {
            let (mut model, base, golden) = adapted(case, head.clone(), targets, dtype);
            let close = |what: &str, found: &[f64], expected: &[f64]| {
                let error = relative_error(found, expected);
                assert!(error <= tolerance, "{case} {dtype:?} {what}: relative error {error:e}");
            };
            close("logits", &logits(&model, &base, dtype), &golden.floats("logits"));
            let mut tape = Tape::new(Device::Cpu, dtype);
            let batch = model.upload(&mut tape, &base.batch()).unwrap();
            tape.start_training(1, 0, 0);
            let logits = model.forward(&mut tape, &batch).unwrap();
            let loss = ops::cross_entropy(&mut tape, &batch, logits, 1.0 / batch.rows.len() as f64).unwrap();
            tape.backward(&mut model.parameters).unwrap();
            close("loss", &[loss.mean()], &[golden.facts["loss"].as_f64().unwrap()]);
            let gradients = model.parameters.gradients.to_f64().unwrap();
            let trained = model.parameters.specs.iter().filter(|spec| spec.offset < gradients.len());
            let mut compared = 0;
            for spec in trained {
                let expected = golden.floats(&format!("grad.{}", name_in_bert(&spec.name)));
                close(&format!("gradient of {}", spec.name), &gradients[spec.range()], &expected);
                compared += 1;
            }
            let theirs = golden.names().iter().filter(|name| name.starts_with("grad.")).count();
            assert_eq!(compared, theirs, "{case}: peft trains the same parameters, and no others");
        }
    }
}

#[test]
fn a_merged_model_answers_as_the_one_with_adapters() {
    for (case, head, targets) in CASES {
        let (mut model, base, golden) = adapted(case, head, targets, DType::F32);
        model.merge().unwrap();
        assert!(model.lora().is_none() && model.parameters.specs.iter().all(|spec| !spec.name.contains("lora")));
        let error = relative_error(&logits(&model, &base, DType::F32), &golden.floats("logits"));
        assert!(error <= 1e-4, "{case}: relative error {error:e}");
    }
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

fn saved(model: &Model) -> (Tensors, Value) {
    let folder = tempfile::tempdir().unwrap();
    save_adapters(folder.path(), model).unwrap();
    let bytes = fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
    let floats = |bytes: &[u8]| {
        bytes.chunks_exact(4).map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()))).collect()
    };
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.tensors().into_iter();
    let tensors = tensors.map(|(name, tensor)| (name, (tensor.shape().to_vec(), floats(tensor.data())))).collect();
    let config = fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    (tensors, serde_json::from_str(&config).unwrap())
}

/// The names and values that peft has in its own file, and what it reads in `adapter_config.json`. DNABERT-2 has another file, since
/// transformers knows it under other names.
#[test]
fn files_are_those_of_peft() {
    for (case, head, targets) in CASES {
        let (model, base, golden) = adapted(case, head, targets, DType::F32);
        let (tensors, config) = saved(&model);
        let theirs = &golden.facts["adapter_config"];
        for key in ["peft_type", "task_type", "r", "lora_alpha", "bias", "fan_in_fan_out", "inference_mode"] {
            assert_eq!(config[key], theirs[key], "{case} {key}");
        }
        for (key, value) in config.as_object().unwrap() {
            assert!(theirs.get(key).is_some(), "{case}: peft knows no {key}: {value}");
        }
        if case == "dnabert2_classifier" {
            query_key_and_value_in_one(&tensors, &config, &golden, base.config().hidden_size);
            continue;
        }
        let mut modules: Vec<&str> =
            config["target_modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        modules.sort_unstable();
        assert_eq!(json!(modules), theirs["target_modules"], "{case}");
        for module in config["modules_to_save"].as_array().unwrap() {
            assert!(theirs["modules_to_save"].as_array().unwrap().contains(module), "{case} {module}");
        }
        let names: Vec<String> =
            golden.names().iter().filter_map(|name| name.strip_prefix("peft.").map(str::to_owned)).collect();
        assert_eq!(names.len(), tensors.len(), "{case}");
        for name in names {
            assert_eq!(tensors[&name].1, golden.floats(&format!("peft.{name}")), "{case} {name}");
        }
    }
}

/// One adapter of the rank of both, with the same scale, whose product has that of each in its rows, and zeros in the keys'.
fn query_key_and_value_in_one(tensors: &Tensors, config: &Value, golden: &Golden, hidden: usize) {
    let name = "base_model.model.bert.encoder.layer.0.attention.self";
    let [(shape_a, a), (shape_b, b)] =
        ["A", "B"].map(|part| tensors[&format!("{name}.Wqkv.lora_{part}.weight")].clone());
    assert_eq!((shape_a, shape_b), (vec![4, hidden], vec![3 * hidden, 4]));
    assert_eq!(
        (&config["rank_pattern"], &config["alpha_pattern"]),
        (&json!({ "attention.self.Wqkv": 4 }), &json!({ "attention.self.Wqkv": 8.0 }))
    );
    for (index, part) in ["query", "key", "value"].into_iter().enumerate() {
        for (row, column) in (0..hidden).flat_map(|row| (0..hidden).map(move |column| (row, column))) {
            let found: f64 = (0..4).map(|r| b[(index * hidden + row) * 4 + r] * a[r * hidden + column]).sum();
            let expected = if part == "key" {
                0.0
            } else {
                let [a, b] = ["A", "B"].map(|side| golden.floats(&format!("peft.{name}.{part}.lora_{side}.weight")));
                (0..2).map(|r| b[row * 2 + r] * a[r * hidden + column]).sum()
            };
            assert_eq!(found, expected, "{part} [{row}, {column}]");
        }
    }
    let modules = json!(["attention.self.Wqkv", "attention.output.dense", "mlp.gated_layers", "mlp.wo"]);
    assert_eq!(config["target_modules"], modules);
}

/// A starts as peft's does, B with zeros: the model is what it was. What is frozen has neither gradient nor room for one.
#[test]
fn a_model_with_new_adapters_is_what_it_was() {
    for (case, head, targets) in CASES {
        let base = Golden::read(case);
        let mut model = base.model(head, DType::F64);
        let (before, all) = (logits(&model, &base, DType::F64), model.parameters.len());
        let lora = Lora { rank: 3, alpha: 6.0, dropout: 0.1, targets: targets.to_vec() };
        model.adapt(&lora, 7).unwrap();
        assert_eq!(logits(&model, &base, DType::F64), before, "{case}");
        let values = model.parameters.values.slice::<f64>();
        let mut adapters = 0;
        for spec in model.parameters.specs.iter().filter(|spec| spec.name.contains(".lora_")) {
            let (values, is_a) = (&values[spec.range()], spec.name.ends_with("lora_A.weight"));
            let bound = if is_a { 1.0 / (spec.shape[1] as f64).sqrt() } else { 0.0 };
            let largest = values.iter().fold(0.0f64, |most, value| most.max(value.abs()));
            assert!(largest <= bound && largest >= 0.8 * bound, "{}: {largest} of {bound}", spec.name);
            adapters += spec.len();
        }
        let head: usize = model
            .parameters
            .specs
            .iter()
            .filter(|spec| !spec.name.contains("encoder") && !spec.name.contains("embeddings"))
            .map(|spec| spec.len())
            .sum();
        assert_eq!(model.trained_count(), adapters + head, "{case}");
        let room = model.parameters.gradients.len();
        assert!(room < adapters + head + 64 * model.parameters.specs.len() && room < all, "{case}: {room}");
    }
}
