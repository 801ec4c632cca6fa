//! `kernels/sampling.cu` against the batches of the CPU, bit for bit.

use std::path::Path;
use std::sync::Arc;

use helixgrad::device::sampling_plan::{CorpusTables, DrawsArgument, MaskingArgument, THREADS, TILE_ROWS, capacity};
use helixgrad::genome::pack::{PackedSequence, TwoBitWriter};
use helixgrad::genome::twobit::Genome;
use helixgrad::kmer::batch::Batch;
use helixgrad::kmer::corpus::{Corpus, CorpusOptions, Parts};
use helixgrad::kmer::hiding::Plan;
use helixgrad::kmer::key::BatchKey;
use helixgrad::kmer::masking::{Masking, Recipe};
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::philox::{Philox, Purpose};
use proptest::prelude::*;

use super::harness::*;

/// Bases with N in between, so that there are runs of several lengths.
fn bases(seed: u64, runs: &[usize]) -> Vec<u8> {
    let philox = Philox::of(seed, 0, Purpose::Shuffle);
    let mut bases = Vec::new();
    for &length in runs {
        let first = bases.len() as u64;
        bases.extend((first..first + length as u64).map(|i| b"ACGT"[philox.block(i)[0] as usize % 4]));
        bases.push(b'N');
    }
    bases
}

fn corpus(folder: &Path, sequences: &[Vec<u8>], vocabulary: Vocabulary, options: &CorpusOptions) -> Corpus {
    let path = folder.join("genome.2bit");
    let mut writer = TwoBitWriter::create(&path).unwrap();
    for (index, bases) in sequences.iter().enumerate() {
        writer.add(&format!("s{index}"), &PackedSequence::from_ascii(bases).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    Corpus::new(Arc::new(Genome::open(&path).unwrap()), vocabulary, options).unwrap()
}

/// The batch as the device makes it.
fn device_batch(corpus: &Corpus, key: &BatchKey, plan: Plan, budget: usize, schedule: u64) -> Batch {
    let tables = CorpusTables::new(corpus).unwrap();
    let packed = Memory::raw("packed", &tables.packed);
    let run_first = Memory::raw("run_first", &tables.run_first);
    let run_before = Memory::raw("run_before", &tables.run_before);
    let argument = tables.argument(packed.address(), run_first.address(), run_before.address());
    let capacity = capacity(budget);
    let integers = Memory::poisoned_integers;
    let (cu_seqlens, counts) = (integers("cu_seqlens", capacity + 1), integers("counts", 3));
    let windows = Memory::poisoned_raw::<u64>("windows", capacity);
    let (tokens, positions) = (integers("tokens", budget), integers("positions", budget));
    let (rows, labels) = (integers("rows", budget), integers("labels", budget));
    let hidden = Memory::poisoned_raw::<u8>("hidden", budget);
    let tiles = budget.div_ceil(TILE_ROWS);
    let hidden_counts = integers("hidden_counts", tiles);

    let run = |kernel: &str, blocks: usize, arguments: Vec<Argument>| {
        run_3d(kernel, [blocks as u32, 1, 1], [THREADS, 1, 1], 0, schedule, arguments);
    };
    let corpus_argument = || Argument::of(&argument);
    let draws = |purpose| Argument::of(&DrawsArgument::from(key.draws(purpose)));
    let masking = || Argument::of(&MaskingArgument::from(plan));
    let token_blocks = budget.div_ceil(THREADS as usize);
    run(
        "sample_windows",
        1,
        vec![
            corpus_argument(),
            draws(Purpose::Corpus),
            budget.into(),
            capacity.into(),
            (&cu_seqlens).into(),
            (&windows).into(),
            (&counts).into(),
        ],
    );
    run(
        "sample_tokens",
        token_blocks,
        vec![
            corpus_argument(),
            budget.into(),
            (&cu_seqlens).into(),
            (&windows).into(),
            (&counts).into(),
            (&tokens).into(),
            (&positions).into(),
            (&hidden).into(),
        ],
    );
    run(
        "mask_choose",
        token_blocks,
        vec![
            masking(),
            draws(Purpose::Masking),
            budget.into(),
            (&cu_seqlens).into(),
            (&counts).into(),
            (&hidden).into(),
        ],
    );
    run("mask_count", tiles, vec![budget.into(), (&hidden).into(), (&hidden_counts).into()]);
    run(
        "mask_write",
        tiles,
        vec![
            masking(),
            draws(Purpose::Masking),
            budget.into(),
            corpus.vocabulary().len().into(),
            (&hidden).into(),
            (&hidden_counts).into(),
            (&tokens).into(),
            (&rows).into(),
            (&labels).into(),
            (&counts).into(),
        ],
    );

    let [sequences, hidden, longest] = counts.to_integers()[..] else { panic!("three counts") };
    let cu_seqlens = cu_seqlens.to_integers();
    let (cu_seqlens, rest) = cu_seqlens.split_at(sequences as usize + 1);
    assert!(rest.iter().all(|&end| end as usize == budget), "past the last sequence: {rest:?}");
    let batch = Batch {
        tokens: tokens.to_integers(),
        positions: positions.to_integers(),
        token_types: vec![0; budget],
        cu_seqlens: cu_seqlens.to_vec(),
        rows: rows.to_integers()[..hidden as usize].to_vec(),
        labels: labels.to_integers()[..hidden as usize].to_vec(),
    };
    assert_eq!(batch.max_length(), longest as usize);
    batch
}

fn host_batch(corpus: &Corpus, key: &BatchKey, plan: Plan, budget: usize) -> Batch {
    let mut batch = corpus.batch(key, budget).unwrap();
    plan.apply(&mut batch, corpus.vocabulary(), key);
    batch
}

fn plan() -> impl Strategy<Value = Plan> {
    let recipe = prop_oneof![Just(Recipe::Dnabert), Just(Recipe::Bionemo), Just(Recipe::RandomMask)];
    prop_oneof![
        (recipe, 3..7usize, 0..100u32).prop_map(|(recipe, k, step)| Masking::of(recipe, None).plan(k, step, 100)),
        // Everything, nothing, and spans wider than a sequence.
        Just(Plan::Spans { centre_threshold: 1 << 32, narrowest: 1, widest: 1 }),
        Just(Plan::Spans { centre_threshold: 0, narrowest: 3, widest: 3 }),
        Just(Plan::Spans { centre_threshold: 1 << 28, narrowest: 1, widest: 500 }),
        Just(Plan::Seeds { seed_threshold: 1 << 32, reach: 0 }),
        Just(Plan::Seeds { seed_threshold: 1 << 28, reach: 300 }),
    ]
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn the_device_makes_the_batches_of_the_cpu(
        runs in prop::collection::vec(prop::collection::vec(1..400usize, 1..6), 1..4),
        long_run in 30..700usize,
        k in 3..7usize,
        order in prop_oneof![Just(BaseOrder::Atcg), Just(BaseOrder::Acgt)],
        max_length in prop_oneof![13..40usize, Just(512)],
        reverse_complement: bool,
        budget in prop_oneof![7..60usize, 60..3000usize],
        plan in plan(),
        seed: u64,
        step: u32,
        micro_batch: u32,
        evaluation: bool,
    ) {
        let mut sequences: Vec<Vec<u8>> = runs.iter().map(|runs| bases(seed, runs)).collect();
        sequences.push(bases(seed ^ 1, &[long_run]));
        let folder = tempfile::tempdir().unwrap();
        let options = CorpusOptions { max_length, reverse_complement, parts: Parts::All };
        let corpus = corpus(folder.path(), &sequences, Vocabulary::new(k, order).unwrap(), &options);
        let key = if evaluation { BatchKey::evaluation(seed, step) } else { BatchKey::training(seed, step, micro_batch) };
        let expected = host_batch(&corpus, &key, plan, budget);
        prop_assert_eq!(device_batch(&corpus, &key, plan, budget, seed), expected);
    }
}

/// Every way in which the last sequences of a batch can come out, and more sequences than a block has threads.
#[test]
fn every_budget_is_filled_alike() {
    let folder = tempfile::tempdir().unwrap();
    let long = || (2500..2503).chain(9000..9002);
    for (max_length, budgets) in [(13, (7..60).chain(long())), (20, (7..90).chain(long()))] {
        let options = CorpusOptions { max_length, ..CorpusOptions::default() };
        let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
        let corpus = corpus(folder.path(), &[bases(3, &[200, 50])], vocabulary, &options);
        let plan = Masking::default().plan(3, 0, 1);
        for budget in budgets {
            for step in 0..3 {
                let key = BatchKey::training(9, step, 1);
                let expected = host_batch(&corpus, &key, plan, budget);
                assert_eq!(device_batch(&corpus, &key, plan, budget, step.into()), expected, "{budget}");
            }
        }
    }
}

/// Real bases, N and sizes: a step's batch of the sample genome, by each recipe.
#[test]
fn batches_of_the_sample_genome() {
    let path = crate::emulated::sample_genome();
    let options = CorpusOptions { reverse_complement: true, ..CorpusOptions::default() };
    let vocabulary = Vocabulary::new(6, BaseOrder::Atcg).unwrap();
    let corpus = Corpus::new(Arc::new(Genome::open(path).unwrap()), vocabulary, &options).unwrap();
    for (step, recipe) in (0..).zip([Recipe::Dnabert, Recipe::Bionemo, Recipe::RandomMask]) {
        let key = BatchKey::training(42, 70 + step, 1);
        let plan = Masking::of(recipe, None).plan(6, key.step, 100);
        let expected = host_batch(&corpus, &key, plan, 20_000);
        assert_eq!(device_batch(&corpus, &key, plan, 20_000, step.into()), expected, "{recipe:?}");
    }
}
