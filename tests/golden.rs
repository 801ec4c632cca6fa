//! The whole model against PyTorch and transformers: hidden states, logits, loss, every gradient, and the weights after
//! three AdamW steps. `tools/golden.py` wrote the fixtures, in float64.

#[path = "golden/fixture.rs"]
mod fixture;
#[path = "golden/lora.rs"]
mod lora;

use fixture::Golden;
use helixgrad::autograd::Tape;
use helixgrad::device::big_bird::BigBird;
use helixgrad::device::{DType, Device};
use helixgrad::model::Head;
use helixgrad::ops;
use helixgrad::optim::{AdamW, AdamWConfig};

/// The largest difference, relative to the largest expected element.
fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |max, value| max.max(value.abs()));
    let difference = found.iter().zip(expected).fold(0.0f64, |max, (a, b)| max.max((a - b).abs()));
    assert!(difference.is_finite());
    if largest < 1e-9 { difference } else { difference / largest }
}

fn compare(case: &str, head: Head, dtype: DType, tolerance: f64) {
    let golden = Golden::read(case);
    let mut model = golden.model(head, dtype);
    let mut tape = Tape::new(Device::Cpu, dtype);
    let batch = model.upload(&mut tape, &golden.batch()).unwrap();
    let close = |what: &str, found: &[f64], expected: &[f64]| {
        let error = relative_error(found, expected);
        assert!(error <= tolerance, "{case} {dtype:?} {what}: relative error {error:e}");
    };

    tape.start_inference();
    for (layer, hidden) in model.encode(&mut tape, &batch).unwrap().into_iter().enumerate() {
        let name = format!("hidden.{layer}");
        close(&name, &tape.value(hidden).to_f64().unwrap(), &golden.floats(&name));
    }
    tape.start_inference();
    let logits = model.forward(&mut tape, &batch).unwrap();
    close("logits", &tape.value(logits).to_f64().unwrap(), &golden.floats("logits"));

    let mut optimizer = AdamW::new(AdamWConfig::default(), &model.parameters, &Device::Cpu).unwrap();
    for step in 0..3 {
        tape.start_training(1, step as u32, 0);
        let logits = model.forward(&mut tape, &batch).unwrap();
        let rows = batch.rows.len() as f64;
        let loss = ops::cross_entropy(&mut tape, &batch, logits, 1.0 / rows).unwrap();
        tape.backward(&mut model.parameters).unwrap();
        close("loss", &[loss.mean()], &[golden.facts["losses"][step].as_f64().unwrap()]);
        if step == 0 {
            let zero: Vec<&str> =
                golden.facts["zero_gradients"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            let gradients = model.parameters.gradients.to_f64().unwrap();
            for spec in &model.parameters.specs {
                let (found, expected) = (&gradients[spec.range()], golden.floats(&format!("grad.{}", spec.name)));
                if zero.contains(&spec.name.as_str()) {
                    assert!(found.iter().all(|value| value.abs() < 1e-5), "{case} {dtype:?} gradient of {}", spec.name);
                } else {
                    close(&format!("gradient of {}", spec.name), found, &expected);
                }
            }
        }
        optimizer.update(&mut tape, &mut model.parameters, 1e-3).unwrap();
        let norm = optimizer.norm().unwrap();
        close("gradient norm", &[norm], &[golden.facts["gradient_norms"][step].as_f64().unwrap()]);
        assert!(model.parameters.gradients.to_f64().unwrap().iter().all(|&gradient| gradient == 0.0));
    }
    let weights = model.parameters.values.to_f64().unwrap();
    // Small ones leave them out; the losses of three steps are compared in any case.
    let has_last = golden.names().iter().any(|name| name.starts_with("step3."));
    let specs = if has_last { &model.parameters.specs[..] } else { &[] };
    for spec in specs {
        let expected = golden.floats(&format!("step3.{}", spec.name));
        close(&format!("{} after three steps", spec.name), &weights[spec.range()], &expected);
    }
}

#[test]
fn masked_lm() {
    compare("mlm", Head::MaskedLm, DType::F64, 1e-6);
    compare("mlm", Head::MaskedLm, DType::F32, 1e-4);
}

#[test]
fn sequence_classification() {
    compare("classifier", Head::Cls { labels: 3 }, DType::F64, 1e-6);
    compare("classifier", Head::Cls { labels: 3 }, DType::F32, 1e-4);
}

#[test]
fn token_classification() {
    compare("token", Head::Site { labels: 3, hidden: None }, DType::F64, 1e-6);
    compare("token", Head::Site { labels: 3, hidden: None }, DType::F32, 1e-4);
}

const MASKED: Head = Head::MaskedLm;
const CLS: Head = Head::Cls { labels: 3 };
const TOKEN: Head = Head::Site { labels: 3, hidden: None };

/// DNABERT's relatives, under the names of their released files.
#[test]
fn relatives_in_f64() {
    for (case, head) in RELATIVES {
        compare(case, head, DType::F64, 1e-6);
    }
}

#[test]
fn relatives_in_f32() {
    for (case, head) in RELATIVES {
        compare(case, head, DType::F32, 1e-4);
    }
}

const RELATIVES: [(&str, Head); 12] = [
    ("nt_v1_mlm", MASKED),
    ("nt_v1_classifier", CLS),
    ("nt_v2_mlm", MASKED),
    ("nt_v2_token", TOKEN),
    ("dnabert2_mlm", MASKED),
    ("dnabert2_wide", TOKEN),
    ("dnabert2_classifier", CLS),
    ("bigbird_mlm", MASKED),
    ("bigbird_classifier", CLS),
    ("modernbert_mlm", MASKED),
    ("modernbert_classifier", CLS),
    ("modernbert_window", TOKEN),
];

/// BigBird's blocks, each sequence seen alone: when predicting, and with the random blocks of training.
fn compare_blocks(case: &str, dtype: DType, tolerance: f64) {
    let golden = Golden::read(case);
    let mut model = golden.model(MASKED, dtype);
    let host = golden.batch();
    let mut tape = Tape::new(Device::Cpu, dtype);
    let batch = model.upload(&mut tape, &host).unwrap();
    let training = case.ends_with("train");
    let close = |what: &str, found: &[f64], expected: &[f64]| {
        let error = relative_error(found, expected);
        assert!(error <= tolerance, "{case} {dtype:?} {what}: relative error {error:e}");
    };
    if training {
        let (heads, random) = (model.config.num_attention_heads, golden.integers("random"));
        let block = golden.facts["config"]["block_size"].as_u64().unwrap() as usize;
        let blocks = (host.cu_seqlens[1] as usize).div_ceil(block);
        for layer in 0..model.config.num_hidden_layers {
            let drawn = model.big_bird(layer, true).unwrap().drawn(blocks, heads);
            let drawn: Vec<i32> = drawn.iter().flatten().flatten().map(|&block| block as i32).collect();
            assert_eq!(drawn, random[layer * drawn.len()..][..drawn.len()], "random blocks of layer {layer}");
        }
    } else {
        tape.start_inference();
        let logits = model.forward(&mut tape, &batch).unwrap();
        close("logits", &tape.value(logits).to_f64().unwrap(), &golden.floats("logits"));
        return;
    }
    tape.start_training(1, 0, 0);
    let logits = model.forward(&mut tape, &batch).unwrap();
    close("logits", &tape.value(logits).to_f64().unwrap(), &golden.floats("logits"));
    let loss = ops::cross_entropy(&mut tape, &batch, logits, 1.0 / batch.rows.len() as f64).unwrap();
    tape.backward(&mut model.parameters).unwrap();
    close("loss", &[loss.mean()], &[golden.facts["loss"].as_f64().unwrap()]);
    let gradients = model.parameters.gradients.to_f64().unwrap();
    for spec in &model.parameters.specs {
        let (found, expected) = (&gradients[spec.range()], golden.floats(&format!("grad.{}", spec.name)));
        if !spec.name.ends_with("key.bias") {
            close(&format!("gradient of {}", spec.name), found, &expected);
        }
    }
}

#[test]
fn blocks_of_big_bird() {
    for case in ["bigbird_sparse_eval", "bigbird_sparse_train", "bigbird_blocks64_eval", "bigbird_blocks64_train"] {
        compare_blocks(case, DType::F64, 1e-6);
        compare_blocks(case, DType::F32, 1e-4);
    }
}

/// Blocks of 64, and lengths whose random blocks are cut from a table: [2 layers, 3 heads, blocks - 2, 3] of each length.
#[test]
fn random_blocks_are_those_of_transformers() {
    let golden = Golden::read("bigbird_blocks");
    for length in [768, 1024, 2048, 3072, 4096] {
        let drawn: Vec<i32> = (0..2)
            .flat_map(|layer| {
                BigBird { block: 64, random: 3, positions: 4096, layer, training: true }.drawn(length / 64, 3)
            })
            .flatten()
            .flatten()
            .map(|block| block as i32)
            .collect();
        assert_eq!(drawn, golden.integers(&format!("random.{length}")), "{length} tokens");
    }
}
