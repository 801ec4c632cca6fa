//! Models, genomes, and a scorer that takes one window at a time.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use helixgrad::autograd::Tape;
use helixgrad::device::{DType, Device};
use helixgrad::genome::annotation::Strand;
use helixgrad::genome::pack::pack_fasta;
use helixgrad::genome::splice::Kind;
use helixgrad::genome::twobit::Genome;
use helixgrad::inference::scan::Positions;
use helixgrad::inference::score::Scorer;
use helixgrad::inference::splice::SpliceScorer;
use helixgrad::inference::variants::Options;
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::model::{Architecture, Config, Head, Model};
use helixgrad::train::apply::classify;
use helixgrad::train::checkpoint::{self, Checkpoint, Classification};
use serde_json::Value;

pub use crate::program::{helixgrad, json, refused};

pub const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/grch37_X_46M-56M.2bit");
pub const SAMPLE_GENES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/grch37_X_46M-56M.gff3.gz");

/// Bases of the model's window.
pub const WIDTH: usize = 20;

pub const STRANDS: [Strand; 2] = [Strand::Plus, Strand::Minus];
pub const KINDS: [Kind; 2] = [Kind::Donor, Kind::Acceptor];

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A classifier in `folder/model`.
pub fn model(folder: &Path, labels: &[&str], window: Option<usize>) -> PathBuf {
    model_of_width(folder, labels, window, 16)
}

/// A model of splice sites that takes a second for some thousand windows.
pub fn slow_splice_model(folder: &Path) -> PathBuf {
    model_of_width(folder, &["acceptor", "donor", "neither"], Some(WIDTH), 512)
}

/// A model that answers for many places of a window.
pub fn stretches_model(folder: &Path, window: usize, margin: usize) -> PathBuf {
    let labels = ["acceptor", "donor", "neither"].map(str::to_owned).to_vec();
    let classification =
        Classification { labels, window: Some(window), margin: Some(margin), ..Classification::default() };
    model_that(folder, classification, 16)
}

fn model_of_width(folder: &Path, labels: &[&str], window: Option<usize>, hidden_size: usize) -> PathBuf {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    model_that(folder, Classification { labels, window, ..Classification::default() }, hidden_size)
}

pub fn model_that(folder: &Path, classification: Classification, hidden_size: usize) -> PathBuf {
    let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
    let config = Config {
        vocab_size: vocabulary.len(),
        hidden_size,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 2 * hidden_size,
        max_position_embeddings: 48,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        initializer_range: 0.5,
        architecture: Architecture::default(),
    };
    let labels = classification.labels.len();
    let head = if classification.pairs { Head::Cls { labels } } else { Head::Site { labels, hidden: None } };
    let model = Model::initialise(config, head, DType::F32, 3).unwrap();
    let path = folder.join("model");
    fs::create_dir_all(&path).unwrap();
    checkpoint::save_model(&path, &model, &vocabulary, Some(&classification)).unwrap();
    path
}

pub fn splice_model(folder: &Path) -> PathBuf {
    model(folder, &["acceptor", "donor", "neither"], Some(WIDTH))
}

pub fn splice_scorer(model: &Path) -> SpliceScorer {
    let scorer = Scorer::new(checkpoint::load(model).unwrap(), Device::Cpu, DType::F32).unwrap();
    SpliceScorer::new(scorer, None).unwrap()
}

/// Packs records into `folder/genome.2bit`.
pub fn genome(folder: &Path, records: &[(&str, &[u8])]) -> PathBuf {
    let (fasta, path) = (folder.join("genome.fa"), folder.join("genome.2bit"));
    let text: String =
        records.iter().map(|(name, bases)| format!(">{name}\n{}\n", String::from_utf8_lossy(bases))).collect();
    fs::write(&fasta, text).unwrap();
    pack_fasta(&fasta, &path, &mut |_| {}).unwrap();
    path
}

/// Random bases, the same for the same seed.
pub fn bases(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"ACGT"[(state >> 33) as usize & 3]
    };
    (0..length).map(|_| next()).collect()
}

pub fn reverse_complement(bases: &[u8]) -> Vec<u8> {
    let complement = |base: &u8| b"TGCAN"[b"ACGTN".iter().position(|other| other == base).unwrap()];
    bases.iter().rev().map(complement).collect()
}

/// Scores one window after the other, and remembers.
pub struct Plain {
    checkpoint: Checkpoint,
    tape: Tape,
    known: HashMap<Vec<u8>, Vec<f64>>,
}

impl Plain {
    pub fn new(model: &Path) -> Self {
        let checkpoint = checkpoint::load(model).unwrap();
        Self { checkpoint, tape: Tape::new(Device::Cpu, DType::F32), known: HashMap::new() }
    }

    pub fn score(&mut self, window: &[u8]) -> Vec<f64> {
        let Self { checkpoint, tape, known } = self;
        let classification = checkpoint.classification.as_ref().unwrap();
        let score = || {
            let (model, vocabulary) = (&checkpoint.model, &*checkpoint.vocabulary);
            classify(tape, model, vocabulary, classification, &[window], &mut |_| ()).unwrap().remove(0)
        };
        known.entry(window.to_vec()).or_insert_with(score).clone()
    }

    /// Donor and acceptor probability at a boundary of `sequence`: on the minus strand the sequence is turned round first.
    /// `None` where the window leaves it or holds an N; 0 for a site without its GT or AG, if `gt_ag`.
    pub fn site(&mut self, sequence: &[u8], boundary: usize, strand: Strand, gt_ag: bool) -> Option<[f64; 2]> {
        let (read, at) = match strand {
            Strand::Plus => (sequence.to_vec(), boundary),
            Strand::Minus => (reverse_complement(sequence), sequence.len() - boundary),
        };
        let window = read.get(at.checked_sub(WIDTH / 2)?..at + WIDTH - WIDTH / 2)?;
        if window.contains(&b'N') {
            return None;
        }
        let row = self.score(window);
        let labels = &self.checkpoint.classification.as_ref().unwrap().labels;
        let of = |name: &str| row[labels.iter().position(|label| label == name).unwrap()];
        let is_donor = !gt_ag || read[at..].starts_with(b"GT");
        let is_acceptor = !gt_ag || read[..at].ends_with(b"AG");
        Some([if is_donor { of("donor") } else { 0.0 }, if is_acceptor { of("acceptor") } else { 0.0 }])
    }
}

pub fn open(path: &Path) -> Genome {
    Genome::open(path).unwrap()
}

/// How variants are scored where a test says nothing of it.
pub fn variant_options() -> Options {
    Options {
        distance: 50,
        most_bases: 100,
        positions: Positions::GtAg,
        skip_mismatches: false,
        fingerprint: Value::Null,
        resume: false,
        shard: None,
        told: None,
        config: None,
        quiet: true,
    }
}
