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
    let found = tape.value(logits).to_f64().unwrap();
    let found: Vec<f64> = found.chunks(logits.stride).flat_map(|row| row[..logits.columns].to_vec()).collect();
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
