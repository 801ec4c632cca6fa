//! Pretraining batches from a genome: windows, k-mers, masks. (`kernels/sampling.cu` on devices with kernels.)

mod common;

use std::sync::Arc;
use std::time::Instant;

use common::run;
use helixgrad::autograd::Tape;
use helixgrad::device::{Device, Work};
use helixgrad::genome::pack::{PackedSequence, TwoBitWriter};
use helixgrad::genome::twobit::Genome;
use helixgrad::kmer::corpus::{Corpus, CorpusOptions};
use helixgrad::kmer::key::BatchKey;
use helixgrad::kmer::masking::Masking;
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::ops::{Sampler, work};
use helixgrad::philox::Philox;
use helixgrad::{Error, Result};

const BASES: usize = 10_000_000;

fn genome() -> Result<Genome> {
    let path = std::env::temp_dir().join(format!("helixgrad-bench-{}.2bit", std::process::id()));
    let draws = Philox::new(1, 0, 0);
    let bases: Vec<u8> = (0..BASES / 16)
        .flat_map(|i| {
            let word = draws.block(i as u64)[0];
            (0..16).map(move |j| b"ACGT"[(word >> (2 * j) & 3) as usize])
        })
        .collect();
    let mut writer = TwoBitWriter::create(&path)?;
    writer.add("random", &PackedSequence::from_ascii(&bases).map_err(|error| Error::Failed(format!("{error:?}")))?)?;
    writer.finish()?;
    let genome = Genome::open(&path);
    // The map keeps the file alive.
    let _ = std::fs::remove_file(&path);
    genome
}

pub(crate) fn main() {
    run("sampling", |bench| {
        let tokens = bench.shapes.tokens;
        let vocabulary = Vocabulary::new(6, BaseOrder::Atcg)?;
        let corpus = Corpus::new(Arc::new(genome()?), vocabulary.clone(), &CorpusOptions::default())?;
        let masking = Masking::default();
        // Room for the shortest sequences alone, 15 % of the tokens masked.
        let parts = work::sampling(tokens, tokens / 7 + 1, tokens * 15 / 100, tokens.div_ceil(1024));
        let work = parts.into_iter().fold(Work::default(), |sum, part| sum + part);
        let mut step = 0;
        match bench.device.clone() {
            Device::Cpu => bench.timed(&format!("{tokens} tokens, host"), work, |count| {
                let started = Instant::now();
                for _ in 0..count {
                    step += 1;
                    let key = BatchKey::training(1, step, 0);
                    let mut batch = corpus.batch(&key, tokens)?;
                    masking.apply(&mut batch, &vocabulary, &key, 1000);
                    std::hint::black_box(batch);
                }
                Ok(started.elapsed().as_secs_f64())
            }),
            device => {
                let sampler = Sampler::new(&device, &corpus)?;
                let mut tape = Tape::new(device.clone(), bench.dtype);
                bench.timed(&format!("{tokens} tokens, device"), work, |count| {
                    let before = device.mark()?;
                    for _ in 0..count {
                        step += 1;
                        let key = BatchKey::training(1, step, 0);
                        let plan = masking.plan_of(6, &key, 1000);
                        let shape = corpus.shape(&key, tokens, &plan)?;
                        let batch = sampler.batch(&mut tape, &key, &shape, plan)?;
                        tape.recycle_batch(batch);
                    }
                    device.seconds_between(&before, &device.mark()?)
                })
            }
        }
    });
}
