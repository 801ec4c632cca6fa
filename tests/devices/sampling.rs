//! Batches that a device makes for itself are those that the CPU makes, and training on them has the same bits.

use std::sync::Arc;

use helixgrad::autograd::Tape;
use helixgrad::device::{DType, Device};
use helixgrad::genome::twobit::Genome;
use helixgrad::kmer::batch::Batch;
use helixgrad::kmer::corpus::{Corpus, CorpusOptions, Parts, PretrainingData};
use helixgrad::kmer::key::BatchKey;
use helixgrad::kmer::masking::{Masking, Recipe};
use helixgrad::kmer::regions::Regions;
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::model::{Head, Model};
use helixgrad::ops::{self, Loss, Sampler};
use helixgrad::optim::AdamWConfig;
use helixgrad::train::checkpoint;
use helixgrad::train::feed::Feed;
use helixgrad::train::pretrain::{PretrainOptions, pretrain};
use helixgrad::train::step::Trainer;

use crate::emulated::sample_genome;
use crate::{config, device, options};

pub fn vocabulary() -> Vocabulary {
    Vocabulary::new(3, BaseOrder::Atcg).unwrap()
}

/// Windows of at most 64 tokens of the sample genome, on either strand.
pub fn corpus() -> Corpus {
    let corpus = CorpusOptions { max_length: 64, reverse_complement: true, ..CorpusOptions::default() };
    Corpus::new(Arc::new(Genome::open(sample_genome()).unwrap()), vocabulary(), &corpus).unwrap()
}

/// The masked micro-batch of `key`, as the CPU makes it.
pub fn host_batch(corpus: &Corpus, key: &BatchKey, options: &PretrainOptions) -> Batch {
    let mut batch = corpus.batch(key, options.tokens_per_step / options.micro_batches).unwrap();
    options.masking.apply(&mut batch, corpus.vocabulary(), key, options.steps as u32);
    batch
}

#[test]
fn batches_are_those_of_the_cpu() {
    let (device, corpus) = (device(), corpus());
    let sampler = Sampler::new(&device, &corpus).unwrap();
    let mut tape = Tape::new(device.clone(), DType::Bf16);
    for (step, recipe) in (0..).zip([Recipe::Dnabert, Recipe::Bionemo, Recipe::RandomMask]) {
        let options = PretrainOptions { masking: Masking::of(recipe, None), ..options(&device, DType::Bf16) };
        for key in [BatchKey::training(5, step, 1), BatchKey::evaluation(5, step)] {
            let expected = host_batch(&corpus, &key, &options);
            let plan = options.masking.plan_of(3, &key, options.steps as u32);
            let shape = corpus.shape(&key, expected.total_tokens(), &plan).unwrap();
            let batch = sampler.batch(&mut tape, &key, &shape, plan).unwrap();
            let found = Batch {
                tokens: batch.tokens.read().unwrap(),
                positions: batch.positions.read().unwrap(),
                token_types: batch.token_types.read().unwrap(),
                cu_seqlens: batch.cu_seqlens.read().unwrap(),
                rows: batch.rows.read().unwrap(),
                labels: batch.labels.read().unwrap(),
            };
            assert!(found == expected, "{recipe:?}, {key:?}: {found:?} instead of {expected:?}");
            assert_eq!(batch.longest, expected.max_length());
            tape.recycle_batch(batch);
        }
    }
}

/// Losses and norms of a training whose batches the host sends, and of one whose batches the device makes.
#[test]
fn training_has_the_same_bits_whoever_makes_the_batches() {
    let (device, corpus) = (device(), corpus());
    let options = options(&device, DType::Bf16);
    let trainer = || {
        let model = Model::initialise(config(32), Head::MaskedLm, DType::F32, 3).unwrap();
        Trainer::new(model, AdamWConfig::default(), &device, DType::Bf16, options.seed).unwrap()
    };
    let mut host = trainer();
    let expected: Vec<_> = (0..3)
        .map(|step| {
            let key = |micro_batch| BatchKey::training(options.seed, step, micro_batch);
            let batches: Vec<_> = (0..2).map(|i| host_batch(&corpus, &key(i), &options)).collect();
            let report = host.step(&batches, 1e-3).unwrap();
            (report.loss, report.gradient_norm)
        })
        .collect();

    let (data, vocabulary) = (PretrainingData::Genome(corpus), vocabulary());
    let mut trainer = trainer();
    let feed = Feed::new(&data, &vocabulary, &options, &trainer).unwrap();
    for (step, expected) in (0..).zip(expected) {
        feed.advance(&mut trainer, step, 1e-3, &mut |_| Ok(())).unwrap();
        let report = trainer.report().unwrap();
        assert_eq!((report.losses[0], report.gradient_norm), expected, "step {step}");
    }
    let weights = |trainer: &Trainer| trainer.model.parameters.host_values().unwrap();
    assert!(weights(&trainer) == weights(&host));
}

/// So has an evaluation.
#[test]
fn an_evaluation_has_the_same_bits_whoever_makes_the_batches() {
    let (device, folder) = (device(), tempfile::tempdir().unwrap());
    let out = folder.path().join("run");
    let masking = Masking::of(Recipe::RandomMask, None);
    let options = PretrainOptions { steps: 2, eval_batches: 2, masking, out, ..options(&device, DType::Bf16) };
    let model = Model::initialise(config(32), Head::MaskedLm, DType::F32, 3).unwrap();
    let held_out = || {
        let genome = Arc::new(Genome::open(sample_genome()).unwrap());
        let parts = Parts::Only(Regions::parse(&genome, &["X_46000001_56000000:9,000,001-9,100,000"]).unwrap());
        Corpus::new(genome, vocabulary(), &CorpusOptions { max_length: 64, parts, ..CorpusOptions::default() }).unwrap()
    };
    let (data, others) = (PretrainingData::Genome(corpus()), PretrainingData::Genome(held_out()));
    let found = pretrain(model, &vocabulary(), &data, Some(&others), &options, false).unwrap().evaluation.unwrap();

    let mut model = checkpoint::load(&options.out).unwrap().model;
    model.parameters.move_to(&device, DType::Bf16).unwrap();
    let mut tape = Tape::new(device, DType::Bf16);
    let mut expected = Loss::default();
    for number in 0..options.eval_batches {
        let batch = host_batch(&held_out(), &BatchKey::evaluation(options.seed, number), &options);
        tape.start_inference();
        let batch = model.upload(&mut tape, &batch).unwrap();
        let logits = model.forward(&mut tape, &batch).unwrap();
        expected += ops::cross_entropy(&mut tape, &batch, logits, 1.0).unwrap();
    }
    let accuracy = expected.accuracy();
    assert_eq!((found.loss, found.masked_accuracy, found.masked_tokens), (expected.mean(), accuracy, expected.rows));
}

/// What does not fit the model is refused before the first step.
#[test]
fn sequences_longer_than_the_model_are_refused() {
    let device = device();
    let corpus_options = CorpusOptions { max_length: 200, ..CorpusOptions::default() };
    let corpus = Corpus::new(Arc::new(Genome::open(sample_genome()).unwrap()), vocabulary(), &corpus_options).unwrap();
    let model = Model::initialise(config(32), Head::MaskedLm, DType::F32, 3).unwrap();
    let trainer = Trainer::new(model, AdamWConfig::default(), &device, DType::Bf16, 1).unwrap();
    let (data, options, vocabulary) = (PretrainingData::Genome(corpus), options(&device, DType::Bf16), vocabulary());
    let error = Feed::new(&data, &vocabulary, &options, &trainer).err().unwrap().to_string();
    assert!(error.contains("200 tokens") && error.contains("150 positions"), "{error}");
    assert!(matches!(device, Device::Kernels(_)));
}
