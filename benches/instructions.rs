//! Instruction counts of the host's hot paths, for `tools/instructions.sh`: where seconds are noise, a count tells. Not a criterion bench:
//! called with a path's name it runs that path once, under valgrind's callgrind, which counts inside `measured_*` alone.

use std::hint::black_box;
use std::sync::Arc;

use helixgrad::genome::twobit::Genome;
use helixgrad::kmer::corpus::{Corpus, CorpusOptions};
use helixgrad::kmer::key::BatchKey;
use helixgrad::kmer::masking::Masking;
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};

/// Tokens of a batch; bases of the tokenised stretch.
const TOKENS: usize = 65_536;

struct Setting {
    corpus: Corpus,
    vocabulary: Vocabulary,
    key: BatchKey,
}

/// Draws lengths and places of a batch's windows.
#[inline(never)]
fn measured_sample(setting: &Setting) {
    black_box(setting.corpus.windows(&setting.key, TOKENS).expect("a budget of tokens"));
}

/// The same, and reads and lays out their k-mers.
#[inline(never)]
fn measured_pack(setting: &Setting) {
    black_box(setting.corpus.batch(&setting.key, TOKENS).expect("a budget of tokens"));
}

/// Chooses and replaces tokens of a batch.
#[inline(never)]
fn measured_mask(setting: &Setting, batch: &mut helixgrad::kmer::batch::Batch) {
    Masking::default().apply(batch, &setting.vocabulary, &setting.key, 1000);
    black_box(batch);
}

/// Bases, as letters, to k-mers: what fine-tuning and prediction do with every window.
#[inline(never)]
fn measured_tokenise(setting: &Setting, bases: &[u8], k_mers: &mut Vec<i32>) {
    setting.vocabulary.encode(black_box(bases), k_mers);
    black_box(k_mers);
}

fn main() {
    let path = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    // One thread, this one: callgrind counts by thread.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().expect("the first pool");
    pool.install(|| {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/grch37_X_46M-56M.2bit");
        let genome = Arc::new(Genome::open(sample).expect("the sample is part of the repository"));
        let vocabulary = Vocabulary::new(6, BaseOrder::Atcg).expect("k is 6");
        let corpus = Corpus::new(genome, vocabulary.clone(), &CorpusOptions::default()).expect("the sample has bases");
        let setting = Setting { corpus, vocabulary, key: BatchKey::training(1, 2, 0) };
        match path.as_deref() {
            Some("sample") => measured_sample(&setting),
            Some("pack") => measured_pack(&setting),
            Some("mask") => {
                let mut batch = setting.corpus.batch(&setting.key, TOKENS).expect("a budget of tokens");
                measured_mask(&setting, &mut batch);
            }
            Some("tokenise") => {
                let bases: Vec<u8> = (0..TOKENS).map(|place| b"ACGT"[(place * place + place / 7) % 4]).collect();
                measured_tokenise(&setting, &bases, &mut Vec::with_capacity(TOKENS));
            }
            _ => println!("instructions: run through tools/instructions.sh"),
        }
    });
}
