//! Trainings of many steps: they agree with the CPU, allocate nothing once they run, wait only when asked, and resume.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use half::bf16;
use helixgrad::device::{Choices, DType, Device};
use helixgrad::kmer::corpus::PretrainingData;
use helixgrad::kmer::labelled::LabelledWindow;
use helixgrad::model::{Config, Head, Model, Recompute, Task};
use helixgrad::ops::{Loss, Weighting};
use helixgrad::optim::AdamWConfig;
use helixgrad::parallel::Ranks;
use helixgrad::train::checkpoint::{Classification, load};
use helixgrad::train::evaluation::{Means, TaskScores, evaluate_targets};
use helixgrad::train::feed::Feed;
use helixgrad::train::finetune::{FinetuneOptions, finetune};
use helixgrad::train::pretrain::{PretrainOptions, pretrain};
use helixgrad::train::step::Trainer;

use crate::sampling::{corpus, vocabulary};
use crate::watched::Watched;
use crate::{batch, config, device, hopper, options};

const STEPS: u64 = 50;

fn tiny() -> Config {
    Config { num_hidden_layers: 1, intermediate_size: 64, ..config(32) }
}

/// One micro-batch of 64 tokens a step.
fn tiny_options(device: &Device, dtype: DType) -> PretrainOptions {
    PretrainOptions { tokens_per_step: 64, micro_batches: 1, steps: STEPS, ..options(device, dtype) }
}

/// The losses of fifty steps; `after` sees the trainer after each of them.
fn losses(device: &Device, dtype: DType, after: impl FnMut(&mut Trainer)) -> Vec<Loss> {
    losses_with(AdamWConfig::default(), 1e-3, device, dtype, after)
}

fn losses_with(
    optimizer: AdamWConfig,
    learning_rate: f64,
    device: &Device,
    dtype: DType,
    after: impl FnMut(&mut Trainer),
) -> Vec<Loss> {
    train(&PretrainOptions { optimizer, ..tiny_options(device, dtype) }, learning_rate, after)
}

fn train(options: &PretrainOptions, learning_rate: f64, mut after: impl FnMut(&mut Trainer)) -> Vec<Loss> {
    let model = Model::initialise(tiny(), Head::MaskedLm, DType::F32, 3).unwrap();
    let mut trainer = Trainer::new(model, options.optimizer, &options.device, options.dtype, 11).unwrap();
    let (data, vocabulary) = (PretrainingData::Genome(corpus()), vocabulary());
    let feed = Feed::new(&data, &vocabulary, options, &trainer).unwrap();
    after(&mut trainer);
    for step in 0..options.steps {
        feed.advance(&mut trainer, step, learning_rate, &mut |_| Ok(())).unwrap();
        after(&mut trainer);
    }
    trainer.report().unwrap().losses
}

fn largest_difference(found: &[Loss], expected: &[Loss]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a.mean() - b.mean()).abs()).fold(0.0, f64::max)
}

/// The CPU in f32 and a device in bf16, from one seed: the same batches and masks, and losses that stay together.
///
/// How close they have to be is measured, not chosen: a third training, on the CPU in f32, has its weights rounded to bf16
/// at the start and after every step, and is otherwise the first. It loses a part of every update; a device keeps f32 copies
/// of its weights, and rounds activations besides. It has to stay closer to the CPU than that.
///
/// Seen with the emulator, whose products add in f32. Tensor cores add their own way, with fewer bits, and fifty steps make much of little: if
/// this fails on a GPU where `golden` and the kernels' own tests pass, the two differences that it prints are the first thing to look at, not a kernel.
#[test]
fn fifty_steps_stay_with_the_cpu() {
    let cpu = losses(&Device::Cpu, DType::F32, |_| ());
    let rounded = losses(&Device::Cpu, DType::F32, |trainer| {
        let weights = trainer.model.parameters.values.slice_mut::<f32>();
        weights.iter_mut().for_each(|weight| *weight = bf16::from_f32(*weight).to_f32());
    });
    let found = losses(&device(), DType::Bf16, |_| ());
    for (found, expected) in found.iter().zip(&cpu) {
        assert_eq!(found.rows, expected.rows, "the same masks");
    }
    let (difference, yardstick) = (largest_difference(&found, &cpu), largest_difference(&rounded, &cpu));
    println!("bf16 is off by {difference:.2e}, f32 with rounded weights by {yardstick:.2e}");
    assert!(difference <= yardstick, "{difference} against {yardstick}");
    assert!(cpu[49].mean() < cpu[0].mean() - 0.3, "it learns");
}

/// Weights in bf16 alone take 4 bytes a parameter less, and learn although an update is less than half a unit of most of them: where
/// they are rounded to the nearest instead, such updates are lost.
#[test]
fn weights_without_an_f32_copy_learn_by_stochastic_rounding() {
    let stochastic = AdamWConfig { stochastic_rounding: true, ..AdamWConfig::default() };
    let slowly = |optimizer, device: &Device, dtype, after: &mut dyn FnMut(&mut Trainer)| {
        losses_with(optimizer, 1e-4, device, dtype, after)
    };
    let cpu = slowly(AdamWConfig::default(), &Device::Cpu, DType::F32, &mut |_| ());
    let rounded = slowly(AdamWConfig::default(), &Device::Cpu, DType::F32, &mut |trainer| {
        let weights = trainer.model.parameters.values.slice_mut::<f32>();
        weights.iter_mut().for_each(|weight| *weight = bf16::from_f32(*weight).to_f32());
    });
    let (mut elements, mut bytes) = (0, 0);
    let found = slowly(stochastic, &device(), DType::Bf16, &mut |trainer| {
        (elements, bytes) = (trainer.model.parameters.len(), trainer.model.parameters.memory_bytes()[0]);
    });
    assert!(bytes < 2 * elements + 1000, "{bytes} bytes of {elements} weights");
    let (difference, yardstick) = (largest_difference(&found, &cpu), largest_difference(&rounded, &cpu));
    println!("stochastic rounding is off by {difference:.2e}, rounding to the nearest by {yardstick:.2e}");
    assert!(difference * 2.0 <= yardstick, "{difference} against {yardstick}");

    let model = Model::initialise(tiny(), Head::MaskedLm, DType::F32, 3).unwrap();
    let refused = Trainer::new(model, stochastic, &Device::Cpu, DType::F32, 11).err().unwrap();
    assert!(refused.exit_code() == 2 && refused.to_string().contains("--stochastic-rounding"), "{refused}");
}

/// The loss curve of a thousand steps on the sample genome, in bf16 as in f32: batches, masks and dropout are the same, so the curves must
/// be, too. The band: no mean of 50 steps is off by more than 0.1 %, and all 1,000 together by no more than 0.02 %. It was found with the
/// emulator; how tensor cores round may be past it without a fault, as above.
///
/// Minutes in the emulator, so run by hand: `cargo test --test devices thousand -- --ignored --nocapture`. The outcome is in
/// `kernels/notes/bf16.md`.
#[test]
#[ignore = "minutes in the emulator"]
fn a_thousand_steps_stay_with_f32() {
    let curve = |device: &Device, dtype| {
        let options = PretrainOptions { tokens_per_step: 128, steps: 1000, ..tiny_options(device, dtype) };
        train(&options, 1e-3, |_| ())
    };
    let cpu = curve(&Device::Cpu, DType::F32);
    let found = curve(&device(), DType::Bf16);
    let mean = |losses: &[Loss]| losses.iter().map(Loss::mean).sum::<f64>() / losses.len() as f64;
    println!("{:>10} {:>8} {:>8} {:>8}", "steps", "f32", "bf16", "off");
    for (block, (expected, found)) in cpu.chunks(50).zip(found.chunks(50)).enumerate() {
        let (expected, found) = (mean(expected), mean(found));
        let off = found / expected - 1.0;
        println!(
            "{:>10} {expected:>8.4} {found:>8.4} {:>7.3}%",
            format!("{}..{}", 50 * block, 50 * block + 50),
            100.0 * off
        );
        assert!(off.abs() <= 0.001, "{found} instead of {expected}");
    }
    let off = mean(&found) / mean(&cpu) - 1.0;
    println!("bf16 is off by {:.3} % of f32's loss over all", 100.0 * off);
    assert!(off.abs() <= 0.0002);
    assert!(mean(&cpu[900..]) < mean(&cpu[..50]) - 0.3, "it learns");
}

/// What is computed again has the same bits, and so has everything that comes of it; and the less is kept, the less memory is taken.
#[test]
fn what_is_recomputed_changes_no_bit() {
    // Enough layers that what they keep is more than what products need to add up their parts.
    let config = Config { num_hidden_layers: 4, intermediate_size: 128, ..config(32) };
    let train = |device: &Device, dtype, recompute| {
        let start = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let mut model = Model::initialise(config.clone(), Head::MaskedLm, start, 3).unwrap();
        model.recompute = recompute;
        let mut trainer = Trainer::new(model, AdamWConfig::default(), device, dtype, 11).unwrap();
        let (data, vocabulary) = (PretrainingData::Genome(corpus()), vocabulary());
        let options = options(device, dtype);
        let feed = Feed::new(&data, &vocabulary, &options, &trainer).unwrap();
        feed.advance(&mut trainer, 0, 1e-3, &mut |_| Ok(())).unwrap();
        let report = trainer.report().unwrap();
        let weights = trainer.model.parameters.host_values().unwrap();
        ((report.losses, report.gradient_norm), weights, trainer.tape.memory_bytes())
    };
    let (cpu, hopper) = (Device::Cpu, hopper(Choices::default()));
    let mut pairs = vec![(cpu.clone(), DType::F32), (cpu, DType::F64)];
    pairs.extend([DType::F32, DType::Bf16].map(|dtype| (device(), dtype)));
    pairs.extend([DType::F32, DType::Bf16].map(|dtype| (hopper.clone(), dtype)));
    for (device, dtype) in pairs {
        let (figures, weights, kept) = train(&device, dtype, Recompute::None);
        // A micro-batch has 150 tokens. The last layer computes GELU for those alone that are masked, and of the three others' outputs
        // there is always one.
        let outputs = 2 * 150 * config.intermediate_size * dtype.size();
        for (recompute, saved) in [(Recompute::Gelu, outputs), (Recompute::Layer, kept / 10)] {
            if recompute == Recompute::Layer && dtype == DType::F32 && !matches!(device, Device::Cpu) {
                continue; // to save time
            }
            let what = format!("{recompute:?} on {device} in {}", dtype.name());
            let (found, found_weights, less) = train(&device, dtype, recompute);
            assert_eq!(found, figures, "{what}");
            assert!(found_weights == weights, "{what}");
            assert!(less + saved <= kept, "{what}: {less} bytes instead of {kept}");
        }
    }
}

/// A step like the one before allocates nothing, and waits for nothing. Where the number of masked tokens varies, allocations
/// end when it has been seen to vary.
#[test]
fn later_steps_allocate_nothing_and_wait_for_nothing() {
    let watched = Arc::new(Watched::over(&device()));
    let count = || (watched.allocations.load(Ordering::Relaxed), watched.waits.load(Ordering::Relaxed));
    let model = Model::initialise(tiny(), Head::MaskedLm, DType::F32, 3).unwrap();
    let device = Device::Kernels(watched.clone());
    let mut trainer = Trainer::new(model, AdamWConfig::default(), &device, DType::Bf16, 11).unwrap();
    let mut step = |rows: usize| {
        let mut batch = batch(&Head::MaskedLm);
        batch.rows = (0..rows as i32).map(|row| 3 * row).collect();
        batch.labels = vec![7; rows];
        let before = count();
        trainer.advance(&[batch.clone(), batch], 1e-3).unwrap();
        (count().0 - before.0, count().1 - before.1)
    };
    assert!(step(40).0 > 20, "the first step allocates");
    assert_eq!([step(40), step(40)], [(0, 0); 2], "(allocations, waits)");
    let varying = [44, 36, 48].map(&mut step);
    assert!(varying.iter().all(|(_, waits)| *waits == 0), "{varying:?}");
    assert_eq!([45, 38, 48, 40, 52].map(step), [(0, 0); 5], "(allocations, waits)");
}

/// Nor does a step towards numbers; its loss is told later, for the step that it belongs to.
#[test]
fn steps_towards_targets_wait_for_nothing_either() {
    let head = Head::Cls { labels: 3 };
    let batch = batch(&head);
    for task in [Task::Regression, Task::MultiLabel] {
        let watched = Arc::new(Watched::over(&device()));
        let count = || (watched.allocations.load(Ordering::Relaxed), watched.waits.load(Ordering::Relaxed));
        let trainer = |device: &Device| {
            let model = Model::initialise(tiny(), head.clone(), DType::F32, 3).unwrap();
            Trainer::new(model, AdamWConfig::default(), device, DType::F32, 11).unwrap()
        };
        let [mut cpu, mut trainer] = [&Device::Cpu, &Device::Kernels(watched.clone())].map(trainer);
        for trainer in [&mut cpu, &mut trainer] {
            let weighting = Weighting::new(trainer.tape.device(), vec![0.2, 5.0, 1.0], 0.0).unwrap();
            trainer.weighting = Some(weighting).filter(|_| task == Task::MultiLabel);
        }
        for step in 0..3 {
            let targets: Vec<f32> = (0..12).map(|index| ((index + step) % 2) as f32).collect();
            let parts = [(batch.clone(), targets)];
            cpu.advance_towards(&parts, task, 1e-3).unwrap();
            let before = count();
            trainer.advance_towards(&parts, task, 1e-3).unwrap();
            let (allocations, waits) = (count().0 - before.0, count().1 - before.1);
            assert!(
                waits == 0 && (step == 0 || allocations == 0),
                "{task:?}: {allocations} allocations, {waits} waits"
            );
        }
        let (found, expected) = (trainer.report().unwrap().losses, cpu.report().unwrap().losses);
        assert_eq!((found.len(), expected.len()), (3, 3));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!((found.rows, found.hits), (4, expected.hits), "{task:?}");
            assert!((found.mean() / expected.mean() - 1.0).abs() < 2e-5, "{task:?}: {found:?} instead of {expected:?}");
        }
    }
}

/// Nor do weights of classes and the focal loss make a step wait; micro-batches add up to the mean by weight, as on the CPU.
#[test]
fn weighted_steps_are_those_of_the_cpu() {
    let head = Head::Cls { labels: 3 };
    let batches = [batch(&head), batch(&head)];
    let watched = Arc::new(Watched::over(&device()));
    let waits = || watched.waits.load(Ordering::Relaxed);
    let trainer = |device: &Device| {
        let model = Model::initialise(tiny(), head.clone(), DType::F32, 3).unwrap();
        let mut trainer = Trainer::new(model, AdamWConfig::default(), device, DType::F32, 11).unwrap();
        trainer.weighting = Some(Weighting::new(device, vec![0.2, 5.0, 1.0], 2.0).unwrap());
        trainer
    };
    let [mut cpu, mut trainer] = [&Device::Cpu, &Device::Kernels(watched.clone())].map(trainer);
    for _ in 0..3 {
        cpu.advance(&batches, 1e-3).unwrap();
        let before = waits();
        trainer.advance(&batches, 1e-3).unwrap();
        assert_eq!(waits(), before);
    }
    let (found, expected) = (trainer.report().unwrap().losses, cpu.report().unwrap().losses);
    assert_eq!((found.len(), expected.len()), (3, 3));
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!((found.rows, found.hits, found.weight), (expected.rows, expected.hits, expected.weight));
        assert!(found.weight != found.rows as f64);
        assert!((found.mean() / expected.mean() - 1.0).abs() < 2e-5, "{found:?} instead of {expected:?}");
    }
}

/// A run on a device that goes on from a checkpoint has the bits of one that was never interrupted.
#[test]
fn a_resumed_run_has_the_bits_of_an_unbroken_one() {
    let (device, folder) = (device(), tempfile::tempdir().unwrap());
    let (data, vocabulary) = (PretrainingData::Genome(corpus()), vocabulary());
    let run = |out: &Path, resume: bool| {
        let model = Model::initialise(tiny(), Head::MaskedLm, DType::F32, 3).unwrap();
        let mut options = tiny_options(&device, DType::Bf16);
        (options.steps, options.log_every, options.save_every, options.out) = (6, 4, 3, out.to_owned());
        pretrain(model, &vocabulary, &data, None, &options, resume).unwrap()
    };
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let expected = run(&whole, false);
    assert_eq!(expected.points.iter().map(|point| point.step).collect::<Vec<_>>(), [4, 6]);
    let copy = broken.join("checkpoint-00000003");
    std::fs::create_dir_all(&copy).unwrap();
    for file in std::fs::read_dir(whole.join("checkpoint-00000003")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let found = run(&broken, true);
    let bits = |run: &Path, file: &str| std::fs::read(run.join(file)).unwrap();
    for file in ["model.safetensors", "checkpoint-00000006/training_state.safetensors"] {
        assert!(bits(&whole, file) == bits(&broken, file), "{file}");
    }
    assert_eq!((found.loss_first, found.loss_last), (expected.loss_first, expected.loss_last));
    for (found, expected) in found.points.iter().zip(&expected.points) {
        assert_eq!((found.loss, found.gradient_norm), (expected.loss, expected.gradient_norm));
    }
}

/// A loss that is no number is told at the next report, and the weights are those of before.
#[test]
fn a_training_that_diverges_is_told_and_changes_no_weight() {
    let model = Model::initialise(tiny(), Head::MaskedLm, DType::F32, 3).unwrap();
    let device = device();
    let mut trainer = Trainer::new(model, AdamWConfig::default(), &device, DType::Bf16, 11).unwrap();
    let (data, vocabulary) = (PretrainingData::Genome(corpus()), vocabulary());
    let options = tiny_options(&device, DType::Bf16);
    let feed = Feed::new(&data, &vocabulary, &options, &trainer).unwrap();
    feed.advance(&mut trainer, 0, 1e-3, &mut |_| Ok(())).unwrap();
    trainer.report().unwrap();
    let before = trainer.model.parameters.host_values().unwrap();
    let mut gradients = trainer.model.parameters.gradients.to_f32().unwrap();
    gradients[5] = f32::INFINITY;
    trainer.model.parameters.gradients.write(&gradients).unwrap();
    for step in 1..4 {
        feed.advance(&mut trainer, step, 1e-3, &mut |_| Ok(())).unwrap();
    }
    let error = trainer.report().unwrap_err().to_string();
    assert!(error.contains("the gradient norm is") && error.contains("lower the learning rate"), "{error}");
    assert!(trainer.model.parameters.host_values().unwrap() == before);
}

/// `--profile-steps 2..3`: an attached profiler begins before the second step and ends behind the third, of a pretraining and of a
/// fine-tuning.
#[test]
fn an_attached_profiler_collects_the_steps_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let collected = "2..3".parse().ok();
    let model = |head| Model::initialise(tiny(), head, DType::F32, 3).unwrap();
    let pretraining = Arc::new(Watched::over(&device()));
    let device_of = |watched: &Arc<Watched>| Device::Kernels(watched.clone());
    let options = PretrainOptions {
        steps: 4,
        out: folder.path().join("pretrained"),
        collected,
        ..tiny_options(&device_of(&pretraining), DType::Bf16)
    };
    let (data, vocabulary) = (PretrainingData::Genome(corpus()), vocabulary());
    pretrain(model(Head::MaskedLm), &vocabulary, &data, None, &options, false).unwrap();

    let finetuning = Arc::new(Watched::over(&device()));
    let window = |label: i32| LabelledWindow {
        bases: if label == 0 { *b"ACGTACGTACGT" } else { *b"TTTTGGGGACCA" }.to_vec(),
        label,
        ..LabelledWindow::default()
    };
    let windows: Vec<_> = (0..8).map(|index| window(index % 2)).collect();
    let classification = Classification {
        labels: vec!["no".into(), "yes".into()],
        task: Task::SingleLabel,
        ..Classification::default()
    };
    let options = FinetuneOptions {
        device: device_of(&finetuning),
        dtype: DType::Bf16,
        epochs: 2,
        batch: 4,
        quiet: true,
        collected,
        ..FinetuneOptions::new(folder.path().join("finetuned"))
    };
    finetune(model(Head::Cls { labels: 2 }), &vocabulary, &classification, &windows, &[], &options, false).unwrap();
    for watched in [pretraining, finetuning] {
        assert_eq!(*watched.collected.lock().unwrap(), [(true, 1), (false, 3)], "(on or off, updates by then)");
    }
}

/// Numbers of which bf16 has three digits, and training needs more: they are standardised there, and answered in f32.
#[test]
fn large_numbers_keep_their_digits_in_bf16() {
    let (device, folder) = (device(), tempfile::tempdir().unwrap());
    let window = |index: usize| LabelledWindow {
        bases: [*b"ACGTACGTACGT", *b"TTTTGGGGACCA"][index % 2].to_vec(),
        targets: vec![[9_995.0, 10_005.0][index % 2]],
        ..LabelledWindow::default()
    };
    let windows: Vec<_> = (0..8).map(window).collect();
    let classification =
        Classification { labels: vec!["count".into()], task: Task::Regression, ..Classification::default() };
    let options = FinetuneOptions {
        device: device.clone(),
        dtype: DType::Bf16,
        epochs: 15,
        batch: 4,
        learning_rate: 4e-3,
        quiet: true,
        ..FinetuneOptions::new(folder.path().join("run"))
    };
    let model = Model::initialise(tiny(), Head::Cls { labels: 1 }, DType::F32, 3).unwrap();
    let (_, summary) = finetune(model, &vocabulary(), &classification, &windows, &windows, &options, false).unwrap();
    assert!(summary.dev.dev_pearson.unwrap() > 0.9, "{summary:?}");
    let mut checkpoint = load(&options.out).unwrap();
    let means = Means { device: &device, dtype: DType::Bf16, seed: 1, ranks: &Ranks::alone() };
    let found = evaluate_targets(&mut checkpoint, &windows, &means, &mut |_| ()).unwrap();
    let TaskScores::Regression(scores) = found.scores else { panic!("{found:?}") };
    // The mean alone has 25, and numbers rounded to bf16 hundreds.
    assert!(scores.mse.value < 12.0, "{scores:?}");
}
