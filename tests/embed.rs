//! `helixgrad embed`: against the model applied to whole sequences, second implementations of pooling and blending, and
//! hidden states that PyTorch computed.

mod program;

use std::fs;
use std::path::{Path, PathBuf};

use helixgrad::autograd::Tape;
use helixgrad::device::{DType, Device};
use helixgrad::inference::encoder::Encoder;
use helixgrad::inference::score::Scorer;
use helixgrad::kmer::batch::Batch;
use helixgrad::kmer::vocabulary::{CLS, SEP, UNK};
use helixgrad::train::checkpoint::{self, Checkpoint};
use safetensors::SafeTensors;

use program::{json, refused};

const COLUMNS: usize = 16;
const K: usize = 3;
/// The fixture has 24 positions.
const LONGEST: usize = 22;

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/hf/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The rows of an `.npy` file as NumPy reads it.
fn npy(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
    assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (") && header.ends_with('\n'));
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let (rows, columns) = shape.split_once(", ").unwrap();
    let data = floats(&bytes[10 + length..]);
    let columns: usize = columns.parse().unwrap();
    assert_eq!(data.len(), rows.parse::<usize>().unwrap() * columns);
    data.chunks(columns).map(<[f32]>::to_vec).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// Hidden states of one window by the model itself: `[CLS]`, k-mers, `[SEP]`.
fn hidden(loaded: &Checkpoint, bases: &[u8], layer: usize) -> Vec<Vec<f64>> {
    let mut tokens = vec![CLS];
    loaded.vocabulary.encode(bases, &mut tokens);
    tokens.push(SEP);
    let mut batch = Batch::new();
    batch.push(&tokens);
    let mut tape = Tape::new(Device::Cpu, DType::F32);
    tape.start_inference();
    let batch = loaded.model.upload(&mut tape, &batch).unwrap();
    let states = loaded.model.encode(&mut tape, &batch).unwrap();
    tape.value(states[layer]).to_f64().unwrap().chunks(COLUMNS).map(<[f64]>::to_vec).collect()
}

fn mean<'a>(rows: impl IntoIterator<Item = &'a Vec<f64>>) -> Vec<f64> {
    let (mut sum, mut count) = (vec![0.0; COLUMNS], 0.0);
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        count += 1.0;
    }
    sum.into_iter().map(|sum| sum / count).collect()
}

fn close(found: &[Vec<f32>], expected: &[Vec<f64>]) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 2e-5, "row {row}: {found} {expected}");
        }
    }
}

/// The rows of all k-mers by a plain second implementation: every window, then weighted means.
fn k_mers(
    loaded: &Checkpoint,
    bases: &[u8],
    layer: usize,
    window: usize,
    overlap: usize,
) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let total = bases.len() - K + 1;
    let count = if total <= window { 1 } else { (total - window).div_ceil(window - overlap) + 1 };
    let mut sums = vec![(vec![0.0; COLUMNS], 0.0); total];
    let mut cls = Vec::new();
    for index in 0..count {
        let start = if count == 1 { 0 } else { (total - window) * index / (count - 1) };
        let length = window.min(total);
        let states = hidden(loaded, &bases[start..start + length + K - 1], layer);
        cls.push(states[0].clone());
        for place in 0..length {
            let weight = (place + 1).min(length - place) as f64;
            let (sum, weights) = &mut sums[start + place];
            sum.iter_mut().zip(&states[place + 1]).for_each(|(sum, value)| *sum += weight * value);
            *weights += weight;
        }
    }
    let rows = sums.into_iter().map(|(sum, weight)| sum.into_iter().map(|sum| sum / weight).collect()).collect();
    (rows, cls)
}

fn is_known(bases: &[u8], k_mer: usize) -> bool {
    bases[k_mer..k_mer + K].iter().all(|base| b"ACGTacgt".contains(base))
}

/// Lengths around one and several windows, N at both ends and inside, one sequence of nothing else.
fn sequences() -> Vec<(String, Vec<u8>)> {
    let bases = |length: usize, salt: usize| -> Vec<u8> {
        (0..length).map(|i| b"ACGTacgt"[(i * i + salt * i + i / 3) % 8]).collect()
    };
    let mut all: Vec<_> = [3, 4, 7, 23, 24, 25, 26, 60, 133]
        .into_iter()
        .enumerate()
        .map(|(i, n)| (format!("s{i}"), bases(n, i)))
        .collect();
    for (name, place) in [("start", 0..2), ("inside", 20..29), ("end", 57..60)] {
        let mut with_n = bases(60, 5);
        with_n[place].fill(b'N');
        all.push((name.into(), with_n));
    }
    let mut iupac = bases(30, 2);
    iupac[11] = b'R';
    all.push(("iupac".into(), iupac));
    all.push(("nothing".into(), b"NNNNNNN".to_vec()));
    all
}

fn write_fasta(path: &Path, sequences: &[(String, Vec<u8>)]) {
    let record = |(name, bases): &(String, Vec<u8>)| {
        let lines: Vec<_> = bases.chunks(17).map(String::from_utf8_lossy).collect();
        format!(">{name} and more\n{}\n", lines.join("\n"))
    };
    fs::write(path, sequences.iter().map(record).collect::<String>()).unwrap();
}

#[test]
fn every_unit_layer_and_cut_is_what_the_model_says() {
    let folder = tempfile::tempdir().unwrap();
    let (fasta, out) = (folder.path().join("x.fa"), folder.path().join("x.npy"));
    let sequences = sequences();
    write_fasta(&fasta, &sequences);
    let model = fixture("mlm");
    let loaded = checkpoint::load(Path::new(&model)).unwrap();
    let run = |extra: &[&str]| {
        let common = ["embed", "--model", &model, "--fasta", fasta.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let result = json(&[&common[..], extra].concat());
        (npy(&out), result)
    };
    for (layer, window, overlap) in [(2, LONGEST, 5), (1, 9, 4), (0, 6, 0), (2, 7, 6)] {
        let number = if layer == 2 { "-1".to_owned() } else { layer.to_string() };
        let (window_text, overlap_text) = (window.to_string(), overlap.to_string());
        let mut how = vec!["--layer", &number, "--window", &window_text, "--overlap", &overlap_text];
        if window == LONGEST {
            how.truncate(2);
        }
        let expected: Vec<_> =
            sequences.iter().map(|(_, bases)| k_mers(&loaded, bases, layer, window, overlap)).collect();

        let (tokens, result) = run(&[&how[..], &["--per", "token"]].concat());
        let all: Vec<Vec<f64>> = expected.iter().flat_map(|(rows, _)| rows.clone()).collect();
        close(&tokens, &all);
        let unknown =
            sequences.iter().map(|(_, b)| (0..b.len() - K + 1).filter(|&at| !is_known(b, at)).count()).sum::<usize>();
        assert_eq!(result["counts"]["unknown_k_mers"], unknown);
        assert_eq!(result["counts"]["all_unknown"], 1);

        let (pooled, _) = run(&[&how[..], &["--pool", "mean"]].concat());
        let means: Vec<Vec<f64>> = expected
            .iter()
            .zip(&sequences)
            .map(|((rows, _), (_, bases))| {
                let known: Vec<_> = (0..rows.len()).filter(|&at| is_known(bases, at)).map(|at| &rows[at]).collect();
                if known.is_empty() { mean(rows) } else { mean(known) }
            })
            .collect();
        close(&pooled, &means);

        let (cls, _) = run(&[&how[..], &["--pool", "cls"]].concat());
        close(&cls, &expected.iter().map(|(_, cls)| mean(cls)).collect::<Vec<_>>());

        let (bases, _) = run(&[&how[..], &["--per", "nucleotide"]].concat());
        let mut all = Vec::new();
        for ((rows, _), (_, bases)) in expected.iter().zip(&sequences) {
            for base in 0..bases.len() {
                let cover = base.saturating_sub(K - 1)..(base + 1).min(rows.len());
                let known: Vec<_> = cover.clone().filter(|&at| is_known(bases, at)).map(|at| &rows[at]).collect();
                all.push(if known.is_empty() { mean(&rows[cover]) } else { mean(known) });
            }
        }
        close(&bases, &all);
    }
}

/// The whole path, from bases to a file, against the hidden states that transformers computed for the same tokens.
#[test]
fn hidden_states_are_those_of_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(fixture("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let hidden: Vec<f64> = floats(expected.tensor("encoder").unwrap().data()).into_iter().map(f64::from).collect();
    let loaded = checkpoint::load(Path::new(&fixture("encoder"))).unwrap();
    let tokens: Vec<i32> = expected
        .tensor("tokens")
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    // The tokens of the fixture are any k-mers, so no sequence has them; the model is asked directly.
    let mut batch = Batch::new();
    tokens.chunks(12).for_each(|sequence| {
        batch.push(sequence);
    });
    let mut tape = Tape::new(Device::Cpu, DType::F32);
    tape.start_inference();
    let uploaded = loaded.model.upload(&mut tape, &batch).unwrap();
    let last = loaded.model.hidden(&mut tape, &uploaded, 2, helixgrad::model::Rows::All).unwrap();
    let largest = hidden.iter().fold(0.0f64, |max, value| max.max(value.abs()));
    for (found, expected) in tape.value(last).to_f64().unwrap().iter().zip(&hidden) {
        assert!((found - expected).abs() < 1e-5 * largest);
    }
    assert!(tokens.iter().all(|&token| token != UNK));
    drop(folder);
}

#[test]
fn all_files_and_all_sources_hold_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = fixture("encoder");
    // A genome of two sequences and the regions of it, one on the other strand.
    let chromosome: Vec<u8> = (0..300usize).map(|i| b"ACGT"[(i * i / 3 + i) % 4]).collect();
    let genome = vec![("chr1".to_owned(), chromosome.clone()), ("chr2".to_owned(), b"ACGTTGCA".to_vec())];
    write_fasta(Path::new(&path("g.fa")), &genome);
    json(&["genome", "pack", &path("g.fa"), &path("g.2bit")]);
    fs::write(path("r.bed"), "chr1\t10\t90\tone\nchr1\t20\t60\ttwo\t0\t-\n1\t0\t8\tthree\n").unwrap();
    let mut reverse = chromosome[20..60].to_vec();
    helixgrad::genome::region::reverse_complement(&mut reverse);
    let regions = vec![
        ("one".to_owned(), chromosome[10..90].to_vec()),
        ("two".to_owned(), reverse),
        ("three".to_owned(), chromosome[..8].to_vec()),
    ];
    write_fasta(Path::new(&path("r.fa")), &regions);
    let table: String = regions.iter().map(|(_, bases)| format!("{}\n", String::from_utf8_lossy(bases))).collect();
    fs::write(path("r.tsv"), format!("sequence\n{table}")).unwrap();

    for per in [&["--per", "token"][..], &["--per", "nucleotide"], &["--pool", "cls"], &[]] {
        let run =
            |source: &[&str], out: &str| json(&[&["embed", "--model", &model, "--out", out], source, per].concat());
        let result = run(&["--fasta", &path("r.fa")], &path("f.npy"));
        let rows = npy(Path::new(&path("f.npy")));
        assert_eq!((result["rows"].as_u64(), result["columns"].as_u64()), (Some(rows.len() as u64), Some(16)));
        run(&["--bed", &path("r.bed"), "--genome", &path("g.2bit"), "--alias", "1=chr1"], &path("b.npy"));
        run(&["--tsv", &path("r.tsv")], &path("t.npy"));
        run(&["--fasta", &path("r.fa"), "--threads", "1"], &path("one_thread.npy"));
        for other in ["b.npy", "t.npy", "one_thread.npy"] {
            assert!(fs::read(path("f.npy")).unwrap() == fs::read(path(other)).unwrap(), "{other} {per:?}");
        }
        assert_eq!(fs::read(path("f.npy.index.tsv")).unwrap(), fs::read(path("b.npy.index.tsv")).unwrap());
        let index = fs::read_to_string(path("f.npy.index.tsv")).unwrap();

        run(&["--fasta", &path("r.fa")], &path("f.safetensors"));
        let bytes = fs::read(path("f.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("embeddings").unwrap().shape(), [rows.len(), 16]);
        assert!(floats(tensors.tensor("embeddings").unwrap().data()) == rows.concat());
        let offsets: Vec<i64> = tensors
            .tensor("offsets")
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let first_position = if per.contains(&"--per") { "1" } else { "." };
        let mut expected = "name\tfirst_row\trows\tfirst_position\n".to_owned();
        for ((name, _), pair) in regions.iter().zip(offsets.windows(2)) {
            expected += &format!("{name}\t{}\t{}\t{first_position}\n", pair[0], pair[1] - pair[0]);
        }
        assert_eq!(index, expected);
        assert_eq!(*offsets.last().unwrap() as usize, rows.len());

        run(&["--fasta", &path("r.fa")], &path("f.tsv"));
        let text = fs::read_to_string(path("f.tsv")).unwrap();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("name\t") && text.lines().count() == rows.len() + 1);
        for (line, row) in lines.zip(&rows) {
            let values: Vec<f32> = line.split('\t').rev().take(16).map(|value| value.parse().unwrap()).collect();
            assert!(values.iter().rev().eq(row), "a float in text has the same bits");
        }
        if per.contains(&"token") {
            let second = text.lines().nth(2).unwrap();
            assert!(
                second.starts_with(&format!("one\t2\t{}\t", String::from_utf8_lossy(&chromosome[11..14]))),
                "{second}"
            );
        }
    }
}

#[test]
fn vectors_may_be_means_of_both_strands() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = fixture("encoder");
    let all = sequences();
    let turned = |(name, bases): &(String, Vec<u8>)| {
        let mut bases = bases.clone();
        helixgrad::genome::region::reverse_complement(&mut bases);
        (name.clone(), bases)
    };
    write_fasta(Path::new(&path("a.fa")), &all);
    write_fasta(Path::new(&path("b.fa")), &all.iter().map(turned).collect::<Vec<_>>());
    for pool in ["mean", "cls"] {
        let run = |fasta: &str, extra: &[&str]| {
            let command =
                ["embed", "--model", &model, "--fasta", &path(fasta), "--pool", pool, "--out", &path("x.npy")];
            let result = json(&[&command[..], extra].concat());
            assert_eq!(result["counts"]["sequences"], all.len());
            npy(Path::new(&path("x.npy")))
        };
        let (one, other, both) = (run("a.fa", &[]), run("b.fa", &[]), run("a.fa", &["--rc"]));
        for ((one, other), both) in one.iter().zip(&other).zip(&both) {
            let expected = one.iter().zip(other).map(|(a, b)| (a + b) / 2.0);
            assert!(expected.zip(both).all(|(expected, found)| (expected - found).abs() < 1e-6));
        }
        assert!(one.iter().zip(&both).any(|(one, both)| one != both));
    }
    let per = ["embed", "--model", &model, "--fasta", &path("a.fa"), "--per", "token", "--rc", "--out", &path("y.npy")];
    assert!(refused(&per).contains("--rc with vectors of k-mers"));
}

#[test]
fn bad_input_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = fixture("mlm");
    fs::write(path("short.fa"), format!(">long\n{}\n>tiny\nAC\n", "ACGTA".repeat(2000))).unwrap();
    fs::write(path("foreign.fa"), ">a\nACGT\n>b\nAC!T\n").unwrap();
    fs::write(path("empty.fa"), "").unwrap();
    fs::write(path("good.fa"), ">a\nACGT\n").unwrap();
    fs::write(path("r.bed"), "chr1\t0\t5\n").unwrap();
    let before = fs::read_dir(folder.path()).unwrap().count();
    let (good, out) = (path("good.fa"), path("x.npy"));
    let with = |extra: &[&str]| refused(&[&["embed", "--model", &model], extra].concat());
    let message = with(&["--fasta", &path("short.fa"), "--out", &out]);
    assert!(message.contains("\"tiny\": 2 bases") && message.contains("3-mers"), "{message}");
    let cases: &[(&[&str], &str)] = &[
        (&["--fasta", &path("foreign.fa"), "--out", &out], "'!' at base 3"),
        (&["--fasta", &path("empty.fa"), "--out", &out], "no FASTA records"),
        (&["--fasta", &path("no.fa"), "--out", &out], "no.fa"),
        (&["--fasta", &good, "--out", &path("x.csv")], ".safetensors"),
        (&["--fasta", &good, "--out", &out, "--layer", "3"], "--layer 3"),
        (&["--fasta", &good, "--out", &out, "--layer", "-4"], "--layer -4"),
        (&["--fasta", &good, "--out", &out, "--window", "23"], "1 to 22"),
        (&["--fasta", &good, "--out", &out, "--window", "0"], "--window 0"),
        (&["--fasta", &good, "--out", &out, "--window", "5", "--overlap", "5"], "--overlap 5"),
        (&["--fasta", &good, "--out", &out, "--pool", "cls", "--per", "token"], "--pool for one vector a sequence"),
        (&["--out", &out], "required"),
        (&["--fasta", &good, "--tsv", &good, "--out", &out], "cannot be used with"),
        (&["--bed", &path("r.bed"), "--out", &out], "--genome"),
        (&["--bed", &path("r.bed"), "--genome", &good, "--out", &out], "good.fa"),
    ];
    for (arguments, expected) in cases {
        let message = with(arguments);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
    assert!(!PathBuf::from(&out).exists());
}

/// The products of few rows go other ways than those of many, and a batch has as many as happen to come together.
#[test]
fn what_stands_beside_a_sequence_changes_nothing() {
    let families =
        ["mlm", "classifier", "dnabert2", "nt_v1", "nt_v2", "bigbird", "modernbert", "modernbert_classifier"];
    for name in families {
        let encoder = Encoder::load(fixture(name)).unwrap();
        let (shortest, most) = (encoder.vocabulary().shortest(), encoder.longest());
        let windows: Vec<Vec<u8>> = (0..40_usize)
            .map(|seed| (0..shortest + seed * 7 % most).map(|at| b"ACGT"[(at * at + seed * at + seed) % 4]).collect())
            .collect();
        for cls in [true, false] {
            let bits = |windows: &[Vec<u8>]| -> Vec<Vec<u32>> {
                let rows = encoder.hidden(windows, encoder.layer(-1).unwrap(), cls).unwrap();
                rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
            };
            let all = bits(&windows);
            for size in [1, 2, 7] {
                for (some, expected) in windows.chunks(size).zip(all.chunks(size)) {
                    assert!(bits(some) == expected, "{name}, {size} at a time");
                }
            }
        }
    }
    for name in ["classifier", "regression", "token", "dnabert2_classifier", "nt_v1_classifier", "bigbird_classifier"] {
        let scorer =
            Scorer::new(checkpoint::load(Path::new(&fixture(name))).unwrap(), Device::Cpu, DType::F32).unwrap();
        let windows: Vec<Vec<u8>> = (0..40_usize)
            .map(|seed| {
                (0..scorer.least() + 6 + seed % 5).map(|at| b"ACGT"[(at * at + seed * at + seed) % 4]).collect()
            })
            .collect();
        let all = scorer.score(&windows).unwrap();
        for size in [1, 2, 7] {
            let some: Vec<Vec<f64>> = windows.chunks(size).flat_map(|some| scorer.score(some).unwrap()).collect();
            assert!(some == all, "{name}, {size} at a time");
        }
    }
}
