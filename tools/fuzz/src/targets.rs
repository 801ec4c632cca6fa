//! One function for each kind of file: reads it as the commands do, and goes on with what came of it.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use flate2::Crc;
use helixgrad::Error;
use helixgrad::cli;
use helixgrad::genes::expression::{self, GenesIn, Reading, Repeated};
use helixgrad::genes::labelled_pairs::{self, GeneNames};
use helixgrad::genes::sets::read_gmt;
use helixgrad::genes::{GeneVectors, pairs};
use helixgrad::genome::alias::Aliases;
use helixgrad::genome::annotation::Annotation;
use helixgrad::genome::pack::pack_fasta;
use helixgrad::genome::splice::GeneModel;
use helixgrad::genome::splice::dataset::{Options as DatasetOptions, Protocol, SpliceDataset};
use helixgrad::genome::splice::split::Split;
use helixgrad::genome::twobit::Genome;
use helixgrad::inference::bed::BedReader;
use helixgrad::inference::scan::Positions;
use helixgrad::inference::variants::genes::Genes;
use helixgrad::inference::variants::{Annotator, Options};
use helixgrad::interop::{ModelConfig, Weights};
use helixgrad::kmer::sequences;
use helixgrad::kmer::table::{Answers, Limits, read_table};
use helixgrad::kmer::text::TextCorpus;
use helixgrad::kmer::vocabulary::{BaseOrder, Vocabulary};
use helixgrad::tokenizer::Tokenizer;
use helixgrad::tokenizer::blocks::Blocks;
use helixgrad::tokenizer::bpe::Bpe;
use helixgrad::train::run_state::RunState;
use serde_json::{Value, json};

use crate::support::{ALIASES, FOLDER, GENOME, SCORER, file};

/// The targets by name; each has a folder of seeds of that name.
pub const ALL: [(&str, fn(&[u8])); 26] = [
    ("fasta", fasta),
    ("twobit", twobit),
    ("gff3", annotation),
    ("gtf", annotation),
    ("vcf", variants),
    ("bcf", variants),
    ("bed", bed),
    ("tsv", table),
    ("csv", table),
    ("text", text),
    ("vocabulary", vocabulary),
    ("tokenizer", tokenizer),
    ("alias", alias),
    ("toml", options),
    ("model-config", model_config),
    ("safetensors", weights),
    ("torch-zip", weights),
    ("torch-legacy", weights),
    ("run-state", run_state),
    ("journal", journal),
    ("expression", expression_table),
    ("matrix-market", matrix_market),
    ("gmt", gene_sets),
    ("gene-pairs", gene_pairs),
    ("labelled-pairs", labelled),
    ("gene-vectors", gene_vectors),
];

/// What may come of a file: something, or an error that can be shown.
fn outcome<T>(outcome: Result<T, Error>) -> Option<T> {
    outcome.inspect_err(|error| assert!(!error.to_string().is_empty())).ok()
}

fn fasta(input: &[u8]) {
    let path = file("in.fa", input);
    if let Some(records) = outcome(sequences::fasta(&path)) {
        let _ = records.map_while(outcome).count();
    }
    let packed = FOLDER.join("packed.2bit");
    let _ = fs::remove_file(&packed);
    if let Some(summary) = outcome(pack_fasta(&path, &packed, &mut |_| {})) {
        let genome = Genome::open(&packed).expect("what was packed can be read");
        assert_eq!(genome.sequences().len() as u64, summary.sequences);
        assert_eq!(decoded(&genome), summary.bases);
    }
}

fn twobit(input: &[u8]) {
    if let Some(genome) = outcome(Genome::open(file("in.2bit", input))) {
        decoded(&genome);
        let _ = genome.check();
    }
}

/// Decodes all of a genome in every way; its bases.
fn decoded(genome: &Genome) -> u64 {
    let mut bases = Vec::new();
    let decode = |(index, sequence): (usize, &helixgrad::genome::twobit::Sequence)| {
        bases.clear();
        genome.decode(index, 0..sequence.length, &mut bases);
        assert_eq!(bases.len(), sequence.length as usize);
        let known: u32 = genome.acgt_runs(index).iter().map(|run| run.end - run.start).sum();
        assert_eq!(known as usize, bases.iter().filter(|base| **base != b'N').count());
        bases.clear();
        genome.decode_soft_masked(index, 0..sequence.length, &mut bases);
        bases.len() as u64
    };
    genome.sequences().iter().enumerate().map(decode).sum()
}

fn annotation(input: &[u8]) {
    let Some(annotation) = outcome(Annotation::read(Path::new("in.gff"), input)) else { return };
    for transcript in &annotation.transcripts {
        assert!(transcript.exons.iter().all(|exon| exon.start < exon.end));
        assert!(transcript.exons.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
    let used = annotation.transcripts.len() as u64;
    assert_eq!(annotation.fates.used, used);
    let Some(model) = outcome(GeneModel::new(annotation, &GENOME, &ALIASES)) else { return };
    for protocol in [Protocol::ModelCard, Protocol::Strict { split: Split::Region }] {
        let options = DatasetOptions { protocol, window: 8, min_intron: 0, ..DatasetOptions::default() };
        outcome(SpliceDataset::build(&GENOME, &model, &options));
    }
}

fn bed(input: &[u8]) {
    let path = file("in.bed", input);
    let intervals = outcome(BedReader::open(&path, &GENOME, &ALIASES));
    for interval in intervals.into_iter().flatten().map_while(outcome) {
        let bases = interval.read(&GENOME).bases.len();
        assert_eq!(bases, (interval.end - interval.start) as usize);
    }
}

fn table(input: &[u8]) {
    let path = file("in.table", input);
    for answers in [Answers::Class, Answers::Numbers, Answers::Flags] {
        for pairs in [false, true] {
            if let Some(table) = outcome(read_table(&path, answers, pairs, &[])) {
                assert_eq!((table.windows.len(), table.rows.len()), (table.lines.len(), table.lines.len()));
                let tokenizer = Vocabulary::new(3, BaseOrder::Atcg).expect("a vocabulary").shared();
                outcome(table.check_lengths(&path, &Limits { tokenizer, window: Some(8), positions: 48 }));
            }
        }
    }
    if let Some(rows) = outcome(sequences::table(&path)) {
        let _ = rows.map_while(outcome).count();
    }
    if let Some(rows) = outcome(sequences::pairs(&path)) {
        let _ = rows.map_while(outcome).count();
    }
}

fn text(input: &[u8]) {
    let path = file("in.txt", input);
    let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).expect("a vocabulary");
    outcome(TextCorpus::open(path, vocabulary, 16));
}

fn vocabulary(input: &[u8]) {
    if let Some(vocabulary) = outcome(Vocabulary::read(file("vocab.txt", input))) {
        assert_eq!(vocabulary.len(), 5 + (1 << (2 * vocabulary.k())));
    }
    outcome(Blocks::read(&file("vocab.txt", input)));
}

fn tokenizer(input: &[u8]) {
    let path = file("tokenizer.json", input);
    outcome(Vocabulary::read_tokenizer(&path));
    if let Some(pieces) = outcome(Bpe::read(&path)) {
        let (mut ids, mut spans) = (Vec::new(), Vec::new());
        let bases = b"ACGTACGTNNNNNNNNNNNNACGRYacgtAAAAAAAAAAAAAAA".repeat(9);
        pieces.encode_with_spans(&bases, &mut ids, &mut spans);
        assert_eq!(spans.last().map(|span| span.end as usize), Some(bases.len()));
        assert!(ids.iter().all(|&id| pieces.token(id).is_some()));
        pieces.encode_text(&String::from_utf8_lossy(input), &mut ids);
    }
}

fn alias(input: &[u8]) {
    if let Some(aliases) = outcome(Aliases::parse(&[], Some(&file("alias.txt", input)))) {
        let _ = aliases.resolve(&GENOME, "1");
    }
}

/// A file of options, for a command with most of them.
fn options(input: &[u8]) {
    static COMMAND: LazyLock<clap::Command> = LazyLock::new(cli::command);
    let path = file("in.toml", input);
    for name in ["pretrain", "scan"] {
        let arguments = ["helixgrad", name, "--config"].map(Into::into).into_iter().chain([path.clone().into()]);
        let Some(merged) = outcome(cli::config::merge(arguments.collect(), &COMMAND)) else { continue };
        if let Err(error) = COMMAND.clone().try_get_matches_from(merged.arguments) {
            let _ = cli::config::wrong_value(&error, &path, &merged.inserted);
        }
    }
}

fn model_config(input: &[u8]) {
    if let Some(config) = outcome(ModelConfig::read(&file("config.json", input))) {
        config.config.validate().expect("what was read was looked at");
        let _ = config.config.weights();
    }
}

fn weights(input: &[u8]) {
    let Some(weights) = outcome(Weights::read(&file("weights", input))) else { return };
    for (name, stored) in &weights.tensors {
        if let Some(values) = outcome(weights.values(name, &stored.shape)) {
            assert_eq!(values.expect("it is there").len(), stored.len());
        }
    }
}

fn run_state(input: &[u8]) {
    if let Ok(state) = serde_json::from_slice::<RunState>(input) {
        let again = serde_json::to_vec(&state).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<RunState>(&again).expect("what was written can be read"), state);
        let _ = state.tokens_per_second();
    }
}

/// A VCF or BCF file, scored from its first line to its last.
fn variants(input: &[u8]) {
    let (path, out) = (file("in.vcf", input), FOLDER.join("out.vcf"));
    let working = FOLDER.join("out.vcf.partial");
    let _ = fs::remove_dir_all(&working);
    if annotated(&path, &out, false) {
        assert!(fs::read(&out).expect("the result").starts_with(b"##fileformat=VCF"));
    }
}

/// Scores the variants of `path`; whether it came to its end.
fn annotated(path: &Path, out: &Path, resume: bool) -> bool {
    static GENES: LazyLock<Genes> = LazyLock::new(|| {
        let text = "c1\th\texon\t11\t20\t.\t+\t.\tParent=a\nc1\th\texon\t61\t90\t.\t+\t.\tParent=a\n\
                    c1\th\texon\t81\t120\t.\t-\t.\tParent=b\nc1\th\texon\t161\t175\t.\t-\t.\tParent=b\n";
        let annotation = Annotation::read(Path::new("genes"), text.as_bytes()).expect("genes");
        Genes::new(&GeneModel::new(annotation, &GENOME, &ALIASES).expect("genes"))
    });
    let options = Options {
        distance: 10,
        most_bases: 20,
        positions: Positions::GtAg,
        skip_mismatches: true,
        fingerprint: Value::Null,
        resume,
        shard: None,
        told: None,
        config: None,
        quiet: true,
    };
    let annotator =
        Annotator { scorer: &SCORER, genome: &GENOME, aliases: &ALIASES, genes: Some(&GENES), options: &options };
    outcome(annotator.annotate(path, out, &[])).is_some()
}

/// The state of an interrupted scoring as it came; and as what is kept in such a state, of which everything else holds.
fn journal(input: &[u8]) {
    let out = FOLDER.join("resumed.vcf");
    let folder = FOLDER.join("resumed.vcf.partial");
    let vcf = file("resumed-in.vcf", format!("{VCF_HEADER}c1\t18\t.\tC\tA\t.\t.\t.\n").as_bytes());
    static FINGERPRINT: LazyLock<Value> = LazyLock::new(fingerprint);
    let lines = b"abc";
    let head = json!({ "fingerprint": *FINGERPRINT, "lengths": [lines.len()], "checksums": [crc(lines)] }).to_string();
    let content = [head.trim_end_matches('}').as_bytes(), b",\"state\":", input, b"}"].concat();
    let sealed = [format!("{{\"checksum\":\"{:08x}\",\"content\":", crc(&content)).as_bytes(), &content, b"}"].concat();
    for state in [sealed.as_slice(), input] {
        fs::create_dir_all(&folder).expect("a working folder");
        fs::write(folder.join("state.json"), state).expect("a state");
        fs::write(folder.join("lines"), lines).expect("lines");
        annotated(&vcf, &out, true);
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

const VCF_HEADER: &str = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n";

/// What the state of a scoring says of its model, genome and options: an error after some rounds leaves one.
fn fingerprint() -> Value {
    let mut bases = Vec::new();
    GENOME.decode(0, 0..200, &mut bases);
    let record = |at: usize| {
        let reference = char::from(bases[at]);
        format!("c1\t{}\t.\t{reference}\t{}\t.\t.\t.\n", at + 1, if reference == 'A' { 'C' } else { 'A' })
    };
    let records: String = (0..20_000).map(|number| record(number % bases.len())).collect();
    let path = file("many.vcf", format!("{VCF_HEADER}{records}no record\n").as_bytes());
    let out = FOLDER.join("many.vcf.out");
    assert!(!annotated(&path, &out, false));
    let state = fs::read(FOLDER.join("many.vcf.out.partial/state.json")).expect("the state of an interrupted scoring");
    let state: Value = serde_json::from_slice(&state).expect("a state");
    state["content"]["fingerprint"].clone()
}

/// What correlation counts on.
fn expression_of(path: &Path, readings: &[Reading]) {
    for reading in readings {
        let Some(study) = outcome(expression::read(path, reading)) else { continue };
        assert_eq!(study.values.len(), study.genes.len() * study.samples);
        assert!(study.values.iter().all(|value| !value.is_infinite()));
        let names: std::collections::HashSet<&String> = study.genes.iter().chain(&study.silent).collect();
        assert_eq!(names.len(), study.genes.len() + study.silent.len());
    }
}

fn expression_table(input: &[u8]) {
    let readings = [(GenesIn::Rows, Repeated::Error), (GenesIn::Columns, Repeated::First)]
        .map(|(genes_in, repeated)| Reading { genes_in, repeated, ..Reading::default() });
    expression_of(&file("expression.tsv", input), &readings);
}

/// The matrix, its genes and its samples, with a line of dashes between them.
fn matrix_market(input: &[u8]) {
    const BETWEEN: &[u8] = b"\n---\n";
    let mut parts = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        parts.push(&rest[..=at]);
        rest = &rest[at + BETWEEN.len()..];
    }
    parts.push(rest);
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    let path = file("matrix.mtx", part(0));
    file("features.tsv", part(1));
    file("barcodes.tsv", part(2));
    expression_of(&path, &[Reading::default(), Reading { repeated: Repeated::First, ..Reading::default() }]);
}

fn gene_sets(input: &[u8]) {
    for set in outcome(read_gmt(&file("sets.gmt", input))).into_iter().flatten() {
        assert!(set.genes.iter().all(|gene| !gene.is_empty()));
    }
}

fn gene_pairs(input: &[u8]) {
    let mut count = 0;
    let counts = pairs::read(&[file("pairs.txt", input)], |one, other| {
        assert!(one != other && !one.is_empty() && !other.is_empty());
        count += 1;
        Ok(())
    });
    if let Some(counts) = outcome(counts) {
        assert_eq!(counts.pairs, count);
    }
}

fn labelled(input: &[u8]) {
    let path = file("labelled.tsv", input);
    for labels in [None, Some(path.as_path())] {
        let mut names = GeneNames::default();
        for pair in outcome(labelled_pairs::read(&path, labels, &mut names)).into_iter().flatten() {
            assert!(pair.label <= 1 && pair.genes.iter().all(|&gene| (gene as usize) < names.names.len()));
        }
    }
}

fn gene_vectors(input: &[u8]) {
    let path = file("vectors.txt", input);
    file("genes.txt", b"A\nB\nC\n");
    if let Some(vectors) = outcome(GeneVectors::read(&path)) {
        assert_eq!(vectors.values.len(), vectors.genes.len() * vectors.dimension);
    }
}
