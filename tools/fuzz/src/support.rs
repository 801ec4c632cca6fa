//! What the targets share: a folder in memory, a small genome, and a model that scores its splice sites.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use flate2::read::MultiGzDecoder;
use helixgrad::device::{DType, Device};
use helixgrad::genome::alias::Aliases;
use helixgrad::genome::pack::{PackedSequence, TwoBitWriter};
use helixgrad::genome::twobit::Genome;
use helixgrad::inference::score::Scorer;
use helixgrad::inference::splice::SpliceScorer;
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::model::{Classification, Architecture, Config, Head, Model};
use helixgrad::train::checkpoint::Checkpoint;

/// Where the inputs lie as files: a folder in memory, if the script found one.
pub static FOLDER: LazyLock<PathBuf> = LazyLock::new(std::env::temp_dir);

/// The input as a file; the same one each time.
pub fn file(name: &str, input: &[u8]) -> PathBuf {
    let path = FOLDER.join(name);
    fs::write(&path, input).expect("the input's file");
    path
}

/// Bytes of the input, or of what is packed in it.
pub fn unpacked_size(input: &[u8]) -> usize {
    let is_packed = input.starts_with(b"\x1f\x8b");
    let mut counter = Counter(0);
    if is_packed {
        // An error ends it: what came out before is what a reader sees.
        let _ = io::copy(&mut MultiGzDecoder::new(input), &mut counter);
    }
    input.len().max(counter.0)
}

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// 400 bases of `c1` with all four kinds of sites and an N, and a short `c2`.
pub static GENOME: LazyLock<Genome> = LazyLock::new(|| {
    let mut bases: Vec<u8> =
        (0..400u32).map(|at| b"ACGT"[(at.wrapping_mul(2_654_435_761) >> 29) as usize & 3]).collect();
    for (at, text) in [(16, b"TCAGGTAA"), (56, b"TTAGCCAT"), (116, b"AACCCTAG"), (156, b"TCACCTGC")] {
        bases[at..at + 8].copy_from_slice(text);
    }
    bases[300] = b'N';
    let path = FOLDER.join("genome.2bit");
    let mut writer = TwoBitWriter::create(&path).expect("a genome");
    for (name, bases) in [("c1", bases.as_slice()), ("c2", b"ACGTACGTAG")] {
        writer.add(name, &PackedSequence::from_ascii(bases).expect("bases")).expect("a sequence");
    }
    writer.finish().expect("a genome");
    Genome::open(path).expect("a genome")
});

/// `1` is `c1`.
pub static ALIASES: LazyLock<Aliases> = LazyLock::new(|| Aliases::parse(&["1=c1".to_owned()], None).expect("aliases"));

/// A model of splice sites as small as one can be.
pub static SCORER: LazyLock<SpliceScorer> = LazyLock::new(|| {
    let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).expect("a vocabulary");
    let config = Config {
        vocab_size: vocabulary.len(),
        hidden_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        intermediate_size: 8,
        max_position_embeddings: 16,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        initializer_range: 0.5,
        architecture: Architecture::default(),
    };
    let labels = ["acceptor", "donor", "neither"].map(str::to_owned).to_vec();
    let head = Head::Site { labels: labels.len(), hidden: None };
    let model = Model::initialise(config, head, DType::F32, 3).expect("a model");
    let classification = Some(Classification { labels, window: Some(8), ..Classification::default() });
    let scorer = Scorer::new(Checkpoint { model, vocabulary: Arc::new(vocabulary), classification }, Device::Cpu, DType::F32);
    SpliceScorer::new(scorer.expect("a scorer"), None).expect("a scorer of splice sites")
});
