//! Attention through the library's launch code, against the CPU device: ALiBi and a block-sparse pattern; Hopper's kernels for gradients.

use std::rc::Rc;

use half::bf16;
use helixgrad::autograd::{DeviceBatch, Parameters, Spec, Tape, Vector};
use helixgrad::device::attention_kernels::AttentionPath;
use helixgrad::device::attention_pattern::AttentionPattern;
use helixgrad::device::recorder::Recorder;
use helixgrad::device::{Choices, DType, Device};
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::{self, AlibiBias, AttentionHooks, Qkv, SparseBlocks};
use helixgrad::philox::{Philox, Purpose};

use super::{device, hopper};

/// Output, gradient of the input and that of a bias in it, with a dropout of 0.1.
fn attention(device: &Device, dtype: DType, lengths: &[usize], head_dim: usize, pattern: bool) -> [Vec<f32>; 3] {
    const HEADS: usize = 2;
    let mut host = Batch::new();
    for &length in lengths {
        host.push(&vec![1; length]);
    }
    let (tokens, hidden) = (host.tokens.len(), HEADS * head_dim);
    let philox = Philox::of(6, 0, Purpose::Init);
    let upload = |tape: &mut Tape, count: usize| {
        let values: Vec<f32> = (0..count as u64).map(|index| philox.normal(index) as f32).collect();
        let mut buffer = tape.allocate(count).unwrap();
        match dtype {
            DType::Bf16 => buffer.write(&values.into_iter().map(bf16::from_f32).collect::<Vec<_>>()).unwrap(),
            _ => buffer.write(&values).unwrap(),
        }
        buffer
    };
    let batch = DeviceBatch::upload(device, &host).unwrap();
    let mut tape = Tape::new(device.clone(), dtype);
    tape.start_training(3, 1, 0);
    let mut hooks = AttentionHooks::default();
    if pattern {
        let pattern = AttentionPattern { block: 64, window: 0, global: 0, random: 1, seed: 2 };
        hooks.bias = Some(Rc::new(AlibiBias::new(device, &AlibiBias::standard_slopes(HEADS)).unwrap()));
        hooks.pattern = Some(Rc::new(SparseBlocks::new(&mut tape, &batch, &pattern).unwrap()));
    }
    let buffer = upload(&mut tape, tokens * 3 * hidden);
    let x = tape.push(buffer, tokens, 3 * hidden);
    let bias = Spec { name: "bias".into(), shape: vec![3 * hidden], offset: 0 };
    let mut parameters = Parameters::zeros(vec![bias], 0, DType::F32);
    parameters.move_to(device, dtype).unwrap();
    let qkv = Qkv { values: x, bias: Some(Vector { offset: 0, len: 3 * hidden }) };
    let y = ops::attention(&mut tape, &batch, qkv, HEADS, 0.1, &hooks).unwrap();
    let output = tape.value(y).to_f32().unwrap();
    let gradient = upload(&mut tape, tokens * hidden);
    tape.put_gradient(y, gradient);
    tape.backward(&mut parameters).unwrap();
    [output, tape.take_gradient(x).unwrap().to_f32().unwrap(), parameters.gradients.to_f32().unwrap()]
}

#[test]
fn attention_with_hooks_is_that_of_the_cpu() {
    let case = |device: &Device| attention(device, DType::F32, &[5, 200], 16, true);
    for (found, expected) in case(&device()).iter().flatten().zip(case(&Device::Cpu).iter().flatten()) {
        assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{found} {expected}");
    }
}

/// Sequences of at most 512 tokens take the kernel for all gradients unless that is refused, longer ones the two others, and a pass over these
/// gradients for that of the bias.
#[test]
fn hopper_takes_one_kernel_or_two_for_gradients() {
    let whole: &[&str] = &["attention_backward_whole_sm90_bf16_d64"];
    let split: &[&str] = &["attention_backward_queries_sm90_bf16_d64", "attention_backward_keys_sm90_bf16_d64"];
    for (path, lengths, names) in [
        (AttentionPath::Auto, [5, 512], whole),
        (AttentionPath::Sm90, [130, 3], whole),
        (AttentionPath::Auto, [513, 5], split),
        (AttentionPath::Sm90Split, [130, 3], split),
    ] {
        let choices = Choices { attention: path, ..Choices::default() };
        let device = hopper(choices);
        if !device.runs_sm90() {
            return;
        }
        let (device, recorder) = Recorder::wrap(&device);
        let recorder = recorder.unwrap();
        recorder.start();
        let found = attention(&device, DType::Bf16, &lengths, 64, false);
        let pieces = recorder.take().unwrap();
        let launched: Vec<&str> =
            pieces.iter().map(|piece| piece.name.as_str()).filter(|name| name.contains("backward")).collect();
        assert_eq!(launched, names);
        let passes = pieces.iter().filter(|piece| piece.name == "column_sums_partial_bf16").count();
        assert_eq!(passes, usize::from(names == split), "{path:?}, {lengths:?}");
        let expected = attention(&Device::Cpu, DType::F32, &lengths, 64, false);
        for (found, expected) in found.iter().zip(&expected) {
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
            let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
            assert!(difference <= 0.01 * norm(&mut expected.iter().copied()), "{lengths:?}: {difference}");
        }
    }
}
