//! Every launch states what it costs: profiles and benches have a rate and a roofline for each of them.

use std::collections::BTreeSet;

use helixgrad::autograd::{Matrix, Parameters, Spec, Tape, Vector};
use helixgrad::device::recorder::{Piece, Recorder};
use helixgrad::device::{Choices, DType, Device, GemmChoice};
use helixgrad::kmer::key::BatchKey;
use helixgrad::model::{Head, Model, Task};
use helixgrad::ops::{self, Sampler, Weighting};
use helixgrad::optim::AdamWConfig;
use helixgrad::train::step::Trainer;

use crate::sampling::corpus;
use crate::{batch, config, emulated, options};

/// Kernels that no operation of the library launches: one that nobody needs yet, and those of the example.
const UNUSED: [&str; 2] = ["softsign_backward", "softsign_forward"];

/// A kernel's name without its types and widths: `attention_forward_sm90_bf16_d64` is `attention_forward_sm90`.
fn family(kernel: &str) -> String {
    let is_variant = |part: &&str| {
        ["f32", "bf16"].contains(part) || part.strip_prefix('d').is_some_and(|width| width.parse::<u32>().is_ok())
    };
    kernel.split('_').filter(|part| !is_variant(part)).collect::<Vec<_>>().join("_")
}

/// Steps of a small model under every head and loss.
fn train(device: &Device, dtype: DType, head_dim: usize, head: Head) {
    let batch = batch(&head);
    let model = Model::initialise(config(head_dim), head.clone(), DType::F32, 3).unwrap();
    let mut trainer = Trainer::new(model, AdamWConfig::default(), device, dtype, 9).unwrap();
    trainer.step(std::slice::from_ref(&batch), 1e-3).unwrap();
    if dtype == DType::Bf16 {
        // Without f32 copies of the weights.
        trainer.model.parameters.master = None;
        trainer.step(std::slice::from_ref(&batch), 1e-3).unwrap();
    }
    if let Head::Cls { labels } = head {
        trainer.weighting = Some(Weighting::new(device, vec![2.0; labels], 2.0).unwrap());
        trainer.step(std::slice::from_ref(&batch), 1e-3).unwrap();
        let parts = [(batch.clone(), vec![0.5; batch.rows.len() * labels])];
        for task in [Task::MultiLabel, Task::Regression] {
            trainer.advance_towards(&parts, task, 1e-3).unwrap();
        }
    }
}

/// What a small model has no use for: rows that are worth a split of the sum over them, GELU behind no product, a second gradient.
fn operations(device: &Device, dtype: DType) {
    const ROWS: usize = 2048;
    let (weight, bias) = (Matrix { offset: 0, rows: 64, columns: 64 }, Vector { offset: 4096, len: 64 });
    let spec = Spec { name: "all".into(), shape: vec![4160], offset: 0 };
    let mut parameters = Parameters::zeros(vec![spec], 4096, DType::F32);
    parameters.move_to(device, dtype).unwrap();
    let mut tape = Tape::new(device.clone(), dtype);
    tape.start_training(1, 0, 0);
    let mut zeros = || {
        let mut zeros = tape.allocate(ROWS * 64).unwrap();
        zeros.fill_zero().unwrap();
        zeros
    };
    let (x, dy, mut sum) = (zeros(), zeros(), zeros());
    ops::accumulate(&mut tape, &mut sum, &x).unwrap();
    ops::bias_gelu_forward(&mut tape, &parameters, (&x, bias.len), Some(bias), ops::Gelu::Exact, &mut sum).unwrap();
    let x = tape.push(x, ROWS, 64);
    let y = ops::linear(&mut tape, &parameters, x, weight, Some(bias)).unwrap();
    tape.put_gradient(y, dy);
    tape.backward(&mut parameters).unwrap();
}

fn sample(device: &Device) {
    let (corpus, options) = (corpus(), options(device, DType::Bf16));
    let sampler = Sampler::new(device, &corpus).unwrap();
    let mut tape = Tape::new(device.clone(), DType::Bf16);
    let key = BatchKey::training(5, 1, 0);
    let plan = options.masking.plan_of(3, &key, options.steps as u32);
    let shape = corpus.shape(&key, 150, &plan).unwrap();
    sampler.batch(&mut tape, &key, &shape, plan).unwrap();
}

#[test]
fn every_kernel_states_its_work() {
    let mut launched = BTreeSet::new();
    for (capability, gemm, dtype, head_dim, head) in [
        ((8, 0), GemmChoice::Own, DType::Bf16, 32, Head::MaskedLm),
        ((8, 0), GemmChoice::Own, DType::F32, 32, Head::Cls { labels: 3 }),
        ((9, 0), GemmChoice::OwnSingle, DType::Bf16, 32, Head::MaskedLm),
        ((9, 0), GemmChoice::OwnCluster, DType::Bf16, 64, Head::MaskedLm),
    ] {
        let (device, recorder) =
            Recorder::wrap(&emulated::choosing(capability, Choices { gemm, ..Choices::default() }));
        let recorder = recorder.unwrap();
        recorder.start();
        train(&device, dtype, head_dim, head);
        operations(&device, dtype);
        for stretch in crate::operations::STRETCHES {
            crate::operations::run(stretch, &device, dtype, true).unwrap();
        }
        sample(&device);
        crate::genes::learn(&device).unwrap();
        let is_kernel = |piece: &Piece| helixgrad_kernels_emulated::find(&piece.name).is_some();
        for piece in recorder.take().unwrap().into_iter().filter(is_kernel) {
            assert!(!piece.work.is_unknown(), "{} states neither bytes nor operations", piece.name);
            assert!(piece.work.bytes > 0.0 && piece.work.bytes.is_finite() && piece.work.flops >= 0.0, "{piece:?}");
            launched.insert(family(&piece.name));
        }
    }
    let all: BTreeSet<String> =
        helixgrad_kernels_emulated::kernels::registry().iter().map(|kernel| family(kernel.name())).collect();
    let missing: Vec<&String> = all.difference(&launched).collect();
    assert_eq!(missing, UNUSED, "kernels that nothing here has launched");
}
