//! bf16 on a device against PyTorch in f64: at most twice as far off as PyTorch itself in bf16 (`tools/golden.py`).

use helixgrad::autograd::Tape;
use helixgrad::device::attention_kernels::AttentionPath;
use helixgrad::device::{DType, Device};
use helixgrad::model::Head;
use helixgrad::ops;

use crate::emulated;
use crate::fixture::Golden;

/// The norm of the difference over the norm: what `bf16_errors` has.
fn error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

fn compare(case: &str, head: Head, device: &Device) {
    let golden = Golden::read(case);
    let mut model = golden.model(head, DType::F32);
    model.parameters.move_to(device, DType::Bf16).unwrap();
    let mut tape = Tape::new(device.clone(), DType::Bf16);
    let batch = model.upload(&mut tape, &golden.batch()).unwrap();
    tape.start_training(1, 0, 0);
    let logits = model.forward(&mut tape, &batch).unwrap();
    let found = tape.to_f64(logits).unwrap();
    let loss = ops::cross_entropy(&mut tape, &batch, logits, 1.0 / logits.rows as f64).unwrap();
    tape.backward(&mut model.parameters).unwrap();

    // Few numbers may be close by chance, so a yardstick is no shorter than that of the logits, from which all else follows.
    let pytorch = |name: &str| golden.facts["bf16_errors"][name].as_f64().unwrap();
    let yardstick = |name: &str| pytorch(name).max(pytorch("logits"));
    let mut worst: (f64, String) = (0.0, String::new());
    let mut close = |name: &str, found: f64, yardstick: f64| {
        assert!(
            found <= 2.0 * yardstick,
            "{case} on {device}: {name} is off by {found:.2e}, PyTorch by {yardstick:.2e}"
        );
        if found / yardstick > worst.0 {
            worst = (found / yardstick, name.to_owned());
        }
    };
    close("logits", error(&found, &golden.floats("logits")), yardstick("logits"));
    close("loss", error(&[loss.mean()], &[golden.facts["loss"].as_f64().unwrap()]), yardstick("loss"));
    let gradients = model.parameters.gradients.to_f64().unwrap();
    let zero = golden.facts["zero_gradients"].as_array().unwrap();
    for spec in model.parameters.specs.iter().filter(|spec| !zero.contains(&spec.name.as_str().into())) {
        let (name, expected) = (format!("grad.{}", spec.name), golden.floats(&format!("grad.{}", spec.name)));
        close(&name, error(&gradients[spec.range()], &expected), yardstick(&name));
    }
    println!("{case} on {device}: at most {:.3} times PyTorch's error ({})", worst.0, worst.1);
}

fn every_case(device: &Device) {
    compare("mlm", Head::MaskedLm, device);
    compare("classifier", Head::Cls { labels: 3 }, device);
    compare("token", Head::Site { labels: 3, hidden: None }, device);
    compare("wide", Head::MaskedLm, device);
}

/// BigBird's blocks of 64 tokens, a sequence of 12 of them and one of 11 and a bit: f32 is as close as the CPU's, bf16 as near as PyTorch's.
fn blocks_of_big_bird(device: &Device) {
    compare("bigbird_blocks64_train", Head::MaskedLm, device);
    for case in ["bigbird_blocks64_train", "bigbird_blocks64_eval"] {
        let golden = Golden::read(case);
        for dtype in [DType::F32, DType::Bf16] {
            let bound = |name: &str| match dtype {
                DType::Bf16 => 2.0 * golden.facts["bf16_errors"][name].as_f64().unwrap(),
                _ => 1e-4,
            };
            let mut model = golden.model(Head::MaskedLm, DType::F32);
            model.parameters.move_to(device, dtype).unwrap();
            let mut tape = Tape::new(device.clone(), dtype);
            let batch = model.upload(&mut tape, &golden.batch()).unwrap();
            if case.ends_with("eval") {
                tape.start_inference();
            } else {
                tape.start_training(1, 0, 0);
            }
            let logits = model.forward(&mut tape, &batch).unwrap();
            let found = error(&tape.to_f64(logits).unwrap(), &golden.floats("logits"));
            assert!(found <= bound("logits"), "{case} {dtype:?} on {device}: logits are off by {found:.2e}");
            println!("{case} {dtype:?} on {device}: logits are off by {found:.2e}");
            if case.ends_with("eval") || dtype == DType::Bf16 {
                continue;
            }
            ops::cross_entropy(&mut tape, &batch, logits, 1.0 / logits.rows as f64).unwrap();
            tape.backward(&mut model.parameters).unwrap();
            let gradients = model.parameters.gradients.to_f64().unwrap();
            for spec in model.parameters.specs.iter().filter(|spec| !spec.name.ends_with("key.bias")) {
                let name = format!("grad.{}", spec.name);
                let found = error(&gradients[spec.range()], &golden.floats(&name));
                assert!(found <= 1e-4, "{case} on {device}: {name} is off by {found:.2e}");
            }
        }
    }
}

/// LayerNorms and products without biases, two rotary bases, and windows of 4 and of 20 tokens, the latter in three squares: bf16 is as near as
/// PyTorch's, f32 as close as the CPU's.
#[test]
fn windows_of_modern_bert_are_those_of_pytorch() {
    let device = &crate::device();
    for (case, head) in
        [("modernbert_mlm", Head::MaskedLm), ("modernbert_window", Head::Site { labels: 3, hidden: None })]
    {
        compare(case, head.clone(), device);
        let golden = Golden::read(case);
        let mut model = golden.model(head, DType::F32);
        model.parameters.move_to(device, DType::F32).unwrap();
        let mut tape = Tape::new(device.clone(), DType::F32);
        let batch = model.upload(&mut tape, &golden.batch()).unwrap();
        tape.start_training(1, 0, 0);
        let logits = model.forward(&mut tape, &batch).unwrap();
        let close = |name: &str, found: &[f64]| {
            let found = error(found, &golden.floats(name));
            assert!(found <= 1e-4, "{case} on {device}: {name} is off by {found:.2e}");
        };
        close("logits", &tape.to_f64(logits).unwrap());
        ops::cross_entropy(&mut tape, &batch, logits, 1.0 / logits.rows as f64).unwrap();
        tape.backward(&mut model.parameters).unwrap();
        let gradients = model.parameters.gradients.to_f64().unwrap();
        model.parameters.specs.iter().for_each(|spec| close(&format!("grad.{}", spec.name), &gradients[spec.range()]));
    }
}

#[test]
fn blocks_of_big_bird_are_those_of_pytorch() {
    blocks_of_big_bird(&crate::device());
}

#[test]
fn bf16_is_as_close_to_pytorch_as_pytorch() {
    every_case(&crate::device());
}

/// As on a chip of compute capability 9.0; of its own kernels, the last case takes those of attention and of most products.
#[test]
fn hopper_is_as_close_to_pytorch_as_pytorch() {
    let device = emulated::named().unwrap_or_else(|| emulated::chip((9, 0)));
    if emulated::named().is_none() {
        let kernels = device.attention_kernels(DType::Bf16, 32, false).unwrap().unwrap();
        assert_eq!(kernels.family, AttentionPath::Sm90);
    }
    every_case(&device);
}
