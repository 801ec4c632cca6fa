//! Throughput of a full training step on tokens that nobody needs to load.

use std::time::Instant;

use serde::Serialize;

use super::step::Trainer;
use crate::Result;
use crate::autograd::Pass;
use crate::device::{DType, Device};
use crate::kmer::batch::Batch;
use crate::model::{Config, Head, Model};
use crate::optim::AdamWConfig;
use crate::philox::{Philox, Purpose, below};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The model.
    pub config: Config,
    /// Its head.
    pub head: Head,
    /// Sequences in a step.
    pub batch: usize,
    /// Tokens in a sequence.
    pub length: usize,
    /// Share of tokens that are masked (masked-LM head).
    pub masked: f64,
    /// Steps that are timed; some untimed ones come first.
    pub steps: usize,
}

/// Time spent in one operation and direction.
#[derive(Clone, Debug, Serialize)]
pub struct OpTime {
    /// The operation.
    pub op: &'static str,
    /// Forward, backward or update.
    pub pass: Pass,
    /// Calls in a step.
    pub calls_per_step: f64,
    /// Milliseconds in a step.
    pub milliseconds_per_step: f64,
    /// Share of all measured time.
    pub share: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// CPU threads, where the CPU computed.
    pub threads: usize,
    /// Tokens in a step.
    pub tokens_per_step: usize,
    /// Median seconds of a step.
    pub seconds_per_step: f64,
    /// Tokens a second, by the median.
    pub tokens_per_second: f64,
    /// Sequences a second, by the median.
    pub sequences_per_second: f64,
    /// Matrix arithmetic that the step needs, over the time: GFLOP/s.
    pub gflops: f64,
    /// Activations and scratch in MiB.
    pub activation_mib: f64,
    /// Which attention ran.
    pub attention: String,
    /// Where the time goes, the longest first.
    pub ops: Vec<OpTime>,
}

/// Times full steps (forward, backward, clip, AdamW), dropout on.
///
/// # Errors
/// Those of training.
pub fn train_throughput(workload: &Workload, device: &Device, dtype: DType, seed: u64) -> Result<Throughput> {
    const WARM_UP: usize = 2;
    let model = Model::initialise(workload.config.clone(), workload.head.clone(), DType::F32, seed)?;
    let attention = model.attention_path(device, dtype)?;
    let mut trainer = Trainer::new(model, AdamWConfig::default(), device, dtype, seed)?;
    let batch = random_batch(workload, seed);
    let flops = trainer.model.training_flops(&batch);
    let batches = [batch];
    let mut seconds = Vec::new();
    for step in 0..WARM_UP + workload.steps {
        if step == WARM_UP {
            trainer.tape.start_profile();
        }
        let started = Instant::now();
        trainer.step(&batches, 1e-4)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.drain(..WARM_UP);
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];

    let profile = trainer.tape.take_profile().unwrap_or_default().rows();
    let total: f64 = profile.iter().map(|row| row.3.as_secs_f64()).sum();
    let steps = workload.steps as f64;
    let ops = profile
        .into_iter()
        .map(|(op, pass, calls, time)| OpTime {
            op,
            pass,
            calls_per_step: calls as f64 / steps,
            milliseconds_per_step: time.as_secs_f64() * 1e3 / steps,
            share: time.as_secs_f64() / total,
        })
        .collect();
    let tokens = batches[0].total_tokens();
    Ok(Throughput {
        threads: rayon::current_num_threads(),
        tokens_per_step: tokens,
        seconds_per_step: median,
        tokens_per_second: tokens as f64 / median,
        sequences_per_second: workload.batch as f64 / median,
        gflops: flops / median / 1e9,
        activation_mib: trainer.tape.memory_bytes() as f64 / (1 << 20) as f64,
        attention,
        ops,
    })
}

/// Sequences of random k-mers; every head reads the rows it would read in earnest.
fn random_batch(workload: &Workload, seed: u64) -> Batch {
    let draws = Philox::of(seed, 0, Purpose::Corpus);
    let mut batch = Batch::new();
    for sequence in 0..workload.batch {
        let token = |position: usize| {
            let [word, ..] = draws.block((sequence * workload.length + position) as u64);
            5 + below(word, workload.config.vocab_size as u32 - 5) as i32
        };
        let tokens: Vec<i32> = (0..workload.length).map(token).collect();
        batch.push(&tokens);
    }
    let threshold = (workload.masked * f64::from(u32::MAX)) as u32;
    let masked = |row: &usize| draws.block(*row as u64)[1] < threshold;
    batch.rows = match workload.head {
        Head::MaskedLm => (0..batch.total_tokens()).filter(masked).map(|row| row as i32).collect(),
        Head::Cls { .. } | Head::Encoder { .. } => batch.cu_seqlens[..workload.batch].to_vec(),
        Head::Site { .. } => {
            batch.cu_seqlens[..workload.batch].iter().map(|row| row + workload.length as i32 / 2).collect()
        }
    };
    let classes = workload.head.classes(&workload.config) as i32;
    batch.labels = batch.rows.iter().map(|&row| batch.tokens[row as usize] % classes).collect();
    batch
}
