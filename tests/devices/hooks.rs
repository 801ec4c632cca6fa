//! ALiBi and a block-sparse pattern through the library's launch code, against the CPU device.

use std::rc::Rc;

use helixgrad::autograd::{DeviceBatch, Parameters, Tape};
use helixgrad::device::attention_pattern::AttentionPattern;
use helixgrad::device::{DType, Device};
use helixgrad::kmer::batch::Batch;
use helixgrad::ops::{self, AlibiBias, AttentionHooks, SparseBlocks};
use helixgrad::philox::{Philox, Purpose};

use super::device;

const HEADS: usize = 2;
const HIDDEN: usize = 32;
const TOKENS: usize = 205;

/// Output and gradient of the input.
fn attention(device: &Device) -> [Vec<f32>; 2] {
    let mut host = Batch::new();
    host.push(&[1; 5]);
    host.push(&[1; 200]);
    let pattern = AttentionPattern { block: 64, window: 0, global: 0, random: 1, seed: 2 };
    let hooks = AttentionHooks {
        bias: Some(Rc::new(AlibiBias::new(device, &AlibiBias::standard_slopes(HEADS)).unwrap())),
        pattern: Some(Rc::new(SparseBlocks::new(device, &pattern, &host.cu_seqlens).unwrap())),
    };
    let philox = Philox::of(6, 0, Purpose::Init);
    let values = |count: usize| (0..count as u64).map(|index| philox.normal(index) as f32).collect::<Vec<_>>();
    let upload = |tape: &mut Tape, values: &[f32]| {
        let mut buffer = tape.allocate(values.len()).unwrap();
        buffer.write(values).unwrap();
        buffer
    };
    let batch = DeviceBatch::upload(device, &host).unwrap();
    let mut tape = Tape::new(device.clone(), DType::F32);
    tape.start_training(3, 1, 0);
    let buffer = upload(&mut tape, &values(TOKENS * 3 * HIDDEN));
    let x = tape.push(buffer, TOKENS, 3 * HIDDEN);
    let y = ops::attention(&mut tape, &batch, x, HEADS, 0.1, &hooks).unwrap();
    let output = tape.value(y).to_f32().unwrap();
    let gradient = upload(&mut tape, &values(TOKENS * HIDDEN));
    tape.put_gradient(y, gradient);
    tape.backward(&mut Parameters::zeros(Vec::new(), 0, DType::F32)).unwrap();
    [output, tape.take_gradient(x).unwrap().to_f32().unwrap()]
}

#[test]
fn attention_with_hooks_is_that_of_the_cpu() {
    for (found, expected) in attention(&device()).iter().flatten().zip(attention(&Device::Cpu).iter().flatten()) {
        assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{found} {expected}");
    }
}
