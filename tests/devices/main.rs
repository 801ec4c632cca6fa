//! The whole model on a device with kernels against the CPU device: the same batches, the same dropout, the same losses.

mod attention;
mod emulated;
mod errors;
#[path = "../golden/fixture.rs"]
mod fixture;
mod genes;
mod golden;
mod graphs;
mod operations;
mod profile;
mod sampling;
mod training;
mod watched;
mod work;

use helixgrad::autograd::Tape;
use helixgrad::device::{Choices, DType, Device, GemmChoice};
use helixgrad::kmer::batch::Batch;
use helixgrad::kmer::masking::Masking;
use helixgrad::model::{Architecture, Config, Head, Lora, Model, Target};
use helixgrad::optim::{AdamWConfig, Decay, Schedule};
use helixgrad::parallel::Ranks;
use helixgrad::train::pretrain::PretrainOptions;
use helixgrad::train::step::Trainer;

/// The emulator, or the device that `HELIXGRAD_TEST_DEVICE` names.
fn device() -> Device {
    emulated::named().unwrap_or_else(emulated::device)
}

/// Two heads of 32, 64 or 128 elements.
fn config(head_dim: usize) -> Config {
    Config {
        vocab_size: 69,
        hidden_size: 2 * head_dim,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 96,
        max_position_embeddings: 150,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        initializer_range: 0.05,
        architecture: Architecture::default(),
    }
}

/// A pretraining of a few steps of two micro-batches of 150 tokens.
fn options(device: &Device, dtype: DType) -> PretrainOptions {
    PretrainOptions {
        collected: None,
        device: device.clone(),
        ranks: Ranks::alone(),
        dtype,
        seed: 11,
        steps: 4,
        tokens_per_step: 300,
        micro_batches: 2,
        schedule: Schedule { peak: 1e-3, minimum: 0.0, warmup: 0, decay_steps: 0, decay: Decay::Constant },
        optimizer: AdamWConfig::default(),
        masking: Masking::default(),
        eval_every: 100,
        eval_batches: 1,
        log_every: 2,
        save_every: 2,
        keep: 2,
        out: std::path::PathBuf::new(),
        config: None,
        quiet: true,
        confirm: None,
    }
}

/// Sequences of 140, 7, 1 and 33 tokens: over a block of queries, tails, and one that attends to itself alone.
fn batch(head: &Head) -> Batch {
    let mut batch = Batch::new();
    for (sequence, length) in [140, 7, 1, 33].into_iter().enumerate() {
        let tokens: Vec<i32> = (0..length).map(|i| 5 + (i * i * 7 + i * 3 + sequence as i32 * 11) % 64).collect();
        batch.push(&tokens);
    }
    match head {
        Head::MaskedLm => {
            batch.rows = (0..181).filter(|row| row % 6 == 1).collect();
            batch.labels = batch.rows.iter().map(|&row| batch.tokens[row as usize]).collect();
        }
        _ => {
            batch.rows = batch.cu_seqlens[..4].to_vec();
            batch.labels = vec![0, 1, 2, 1];
        }
    }
    batch
}

/// Losses and gradient norms of `steps` training steps, and the weights after them.
fn train(device: &Device, dtype: DType, head_dim: usize, head: Head, steps: usize) -> (Vec<[f64; 2]>, Vec<f32>) {
    let batch = batch(&head);
    let model = Model::initialise(config(head_dim), head, DType::F32, 3).unwrap();
    let mut trainer = Trainer::new(model, AdamWConfig::default(), device, dtype, 9).unwrap();
    let batches = [batch.clone(), batch];
    let figures = (0..steps)
        .map(|_| {
            let report = trainer.step(&batches, 1e-3).unwrap();
            [report.loss.mean(), report.gradient_norm]
        })
        .collect();
    (figures, trainer.model.parameters.host_values().unwrap())
}

/// What bf16 may deviate: it keeps 8 bits, so a rounding is 2^-9 of a value, and losses and norms gather many of them.
fn close(found: &[[f64; 2]], expected: &[[f64; 2]], tolerance: f64) {
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs() / expected.abs();
            assert!(error <= tolerance, "step {step}: {found} instead of {expected}, {error:e}");
        }
    }
}

#[test]
fn bf16_trains_as_the_cpu_does() {
    let heads = [
        (32, Head::MaskedLm, 3),
        (32, Head::Cls { labels: 3 }, 3),
        (32, Head::Site { labels: 3, hidden: Some(16) }, 3),
        (64, Head::MaskedLm, 1),
        (128, Head::MaskedLm, 1),
    ];
    for (head_dim, head, steps) in heads {
        let (cpu, _) = train(&Device::Cpu, DType::F32, head_dim, head.clone(), steps);
        let (kernels, weights) = train(&device(), DType::Bf16, head_dim, head.clone(), steps);
        close(&kernels, &cpu, 0.02);
        let (again, same_weights) = train(&device(), DType::Bf16, head_dim, head, steps);
        assert_eq!(kernels, again, "the same bits again");
        assert!(weights == same_weights, "the same weights again");
    }
}

/// The device that `HELIXGRAD_TEST_DEVICE` names, told which kernels to take where it has those for Hopper; where none is named, the
/// emulator as for Hopper.
fn hopper(choices: Choices) -> Device {
    match (emulated::named(), std::env::var("HELIXGRAD_TEST_DEVICE")) {
        (Some(device), Ok(name)) if device.runs_sm90() => Device::open(&name, choices).unwrap(),
        (Some(device), _) => device,
        (None, _) => emulated::choosing((9, 0), choices),
    }
}

/// As on a chip of compute capability 9.0, whose operations choose the kernels for it: with blocks by themselves, and again with
/// clusters.
#[test]
fn hopper_kernels_train_as_the_cpu_does() {
    let hopper = |gemm| hopper(Choices { gemm, ..Choices::default() });
    for (head_dim, head, steps) in [(32, Head::Cls { labels: 3 }, 2), (64, Head::MaskedLm, 1), (128, Head::MaskedLm, 1)]
    {
        let (cpu, _) = train(&Device::Cpu, DType::F32, head_dim, head.clone(), steps);
        let (kernels, weights) = train(&hopper(GemmChoice::OwnSingle), DType::Bf16, head_dim, head.clone(), steps);
        close(&kernels, &cpu, 0.02);
        let (again, same_weights) = train(&hopper(GemmChoice::OwnCluster), DType::Bf16, head_dim, head, steps);
        assert_eq!(kernels, again, "the same bits again");
        assert!(weights == same_weights, "the same weights again");
    }
}

/// Products by cuBLASLt, where the device that `HELIXGRAD_TEST_DEVICE` names has it.
#[test]
fn cublaslt_trains_as_the_cpu_does() {
    let name = std::env::var("HELIXGRAD_TEST_DEVICE").unwrap_or_default();
    if !name.starts_with("cuda") {
        return eprintln!("skipped: cuBLASLt wants HELIXGRAD_TEST_DEVICE=cuda");
    }
    let device = match Device::open(&name, Choices { gemm: GemmChoice::CublasLt, ..Choices::default() }) {
        Ok(device) => device,
        Err(error) if error.to_string().contains("cuBLASLt is not on this machine") => {
            return eprintln!("skipped: {error}");
        }
        Err(error) => panic!("{error}"),
    };
    for (head_dim, head, steps) in [(32, Head::Cls { labels: 3 }, 2), (64, Head::MaskedLm, 1)] {
        let (cpu, _) = train(&Device::Cpu, DType::F32, head_dim, head.clone(), steps);
        let (vendor, _) = train(&device, DType::Bf16, head_dim, head, steps);
        close(&vendor, &cpu, 0.02);
    }
}

/// f32 sums in another order than the CPU does, and takes exp from other functions: both are right to a few units of 2^-24 of
/// each value, of which a loss gathers thousands. 2e-5 is what holds with the emulator; a GPU has functions of its own, and may need another.
#[test]
fn f32_trains_as_the_cpu_does() {
    let heads = [(32, Head::MaskedLm, 3), (72, Head::Cls { labels: 3 }, 1)];
    for (head_dim, head, steps) in heads {
        let (cpu, cpu_weights) = train(&Device::Cpu, DType::F32, head_dim, head.clone(), steps);
        let (kernels, weights) = train(&device(), DType::F32, head_dim, head.clone(), steps);
        close(&kernels, &cpu, 2e-5);
        let farthest = weights.iter().zip(&cpu_weights).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // AdamW's first steps are about as long as the learning rate whatever the gradient, so a gradient near zero may turn one.
        assert!(farthest <= 3e-3 * steps as f32, "weights: {farthest}");
        let (again, same_weights) = train(&device(), DType::F32, head_dim, head, steps);
        assert_eq!(kernels, again, "the same bits again");
        assert!(weights == same_weights, "the same weights again");
    }
}

/// Low-rank adapters of every matrix, of a rank that is no multiple of anything; what is frozen keeps its bits.
#[test]
fn adapters_train_as_on_the_cpu() {
    let train = |device: &Device, dtype: DType| {
        let head = Head::Cls { labels: 3 };
        let batch = batch(&head);
        let mut model = Model::initialise(config(32), head, DType::F32, 3).unwrap();
        let targets = vec![Target::Query, Target::Key, Target::Value, Target::Dense];
        model.adapt(&Lora { rank: 3, alpha: 7.5, dropout: 0.1, targets }, 5).unwrap();
        // B begins with zeros, for which A learns nothing.
        for spec in model.parameters.specs.iter().filter(|spec| spec.name.ends_with("lora_B.weight")) {
            let values = &mut model.parameters.values.slice_mut::<f32>()[spec.range()];
            values.iter_mut().enumerate().for_each(|(index, value)| *value = (index % 7) as f32 * 0.03 - 0.09);
        }
        let before = model.parameters.host_values().unwrap();
        let mut trainer = Trainer::new(model, AdamWConfig::default(), device, dtype, 9).unwrap();
        let step = |_| {
            let report = trainer.step(std::slice::from_ref(&batch), 1e-3).unwrap();
            [report.loss.mean(), report.gradient_norm]
        };
        let figures: Vec<[f64; 2]> = (0..2).map(step).collect();
        let after = trainer.model.parameters.host_values().unwrap();
        let trained = trainer.model.parameters.trained();
        assert!(before[trained..] == after[trained..], "what is frozen");
        assert!(before[..trained] != after[..trained]);
        figures
    };
    let cpu = train(&Device::Cpu, DType::F32);
    close(&train(&device(), DType::F32), &cpu, 2e-5);
    close(&train(&device(), DType::Bf16), &cpu, 0.02);
    close(&train(&hopper(Choices::default()), DType::Bf16), &cpu, 0.02);
}

#[test]
fn hidden_states_agree() {
    let (cpu, kernels) = (Device::Cpu, device());
    let encode = |device: &Device, dtype: DType| {
        let mut model = Model::initialise(config(32), Head::MaskedLm, DType::F32, 3).unwrap();
        model.parameters.move_to(device, dtype).unwrap();
        let mut tape = Tape::new(device.clone(), dtype);
        tape.start_inference();
        let batch = model.upload(&mut tape, &batch(&Head::MaskedLm)).unwrap();
        let hidden = model.encode(&mut tape, &batch).unwrap();
        hidden.into_iter().map(|hidden| tape.value(hidden).to_f64().unwrap()).collect::<Vec<_>>()
    };
    for (found, expected) in encode(&kernels, DType::Bf16).iter().zip(encode(&cpu, DType::F32)) {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        assert!(difference <= 0.01 * norm(&mut expected.iter().copied()), "{difference}");
    }
}
