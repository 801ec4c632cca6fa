//! Genome files from end to end: what goes in comes out, and no bytes whatever make the program panic.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use helixgrad::genome::composition::Composition;
use helixgrad::genome::pack::pack_fasta;
use helixgrad::genome::region::reverse_complement;
use helixgrad::genome::twobit::Genome;
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/grch37_X_46M-56M.2bit");
const SAMPLE_GENES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample/grch37_X_46M-56M.gff3.gz");

/// A name and its bases.
type Record = (String, Vec<u8>);

/// What a `.2bit` keeps of FASTA bases: T for U, N for ambiguity codes, and the case.
fn kept(bases: &[u8]) -> Vec<u8> {
    let keep = |base: &u8| match base {
        b'A' | b'C' | b'G' | b'T' | b'a' | b'c' | b'g' | b't' => *base,
        b'U' => b'T',
        b'u' => b't',
        _ if base.is_ascii_lowercase() => b'n',
        _ => b'N',
    };
    bases.iter().map(keep).collect()
}

/// Asserts that a genome holds exactly `records`.
fn assert_holds(genome: &Genome, records: &[Record]) {
    assert_eq!(genome.sequences().len(), records.len());
    let (mut bases, mut masked) = (Vec::new(), Vec::new());
    for (name, expected) in records {
        let index = genome.find(name).unwrap();
        let length = genome.sequences()[index].length;
        genome.decode(index, 0..length, &mut bases);
        genome.decode_soft_masked(index, 0..length, &mut masked);
        assert_eq!(masked, kept(expected));
        assert_eq!(bases, kept(expected).to_ascii_uppercase());
    }
}

/// Reads everything that a genome can be asked for, and asserts that the answers agree.
fn read_everything(genome: &Genome) {
    let mut bases = Vec::new();
    for (index, sequence) in genome.sequences().iter().enumerate() {
        let composition = Composition::of(genome, index);
        let known: u64 = genome.acgt_runs(index).iter().map(|run| run.len() as u64).sum();
        assert_eq!(known + composition.n, composition.length);
        assert_eq!(genome.packed(index).len(), sequence.length.div_ceil(4) as usize);
        genome.decode_soft_masked(index, 0..sequence.length, &mut bases);
        let count = |wanted: fn(&u8) -> bool| bases.iter().filter(|base| wanted(base)).count() as u64;
        assert_eq!(count(|base| base.eq_ignore_ascii_case(&b'N')), composition.n);
        assert_eq!(count(u8::is_ascii_lowercase), composition.masked);
        assert_eq!(count(|base| b"GCgc".contains(base)), composition.gc);
        assert_eq!(genome.find(&sequence.name), Some(index));
    }
}

/// FASTA text of some line length and line end.
fn fasta(records: &[Record], width: usize, line_end: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, bases) in records {
        write!(text, ">{name} a description{line_end}").unwrap();
        for line in bases.chunks(width) {
            text.extend(line);
            text.extend(line_end.as_bytes());
        }
    }
    text
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Starts and sizes of the runs of wanted bases.
fn runs(bases: &[u8], wanted: fn(u8) -> bool) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for (position, _) in bases.iter().enumerate().filter(|(_, base)| wanted(**base)) {
        match runs.last_mut() {
            Some((start, size)) if *start + *size == position as u32 => *size += 1,
            _ => runs.push((position as u32, 1)),
        }
    }
    runs
}

/// Writes a `.2bit` the way the format's description says, independently of the program's own writer.
fn two_bit(records: &[Record], big_endian: bool, version: u32) -> Vec<u8> {
    let word = |value: u32| {
        if big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    };
    let body = |bases: &[u8]| {
        let bases = kept(bases);
        let mut body = word(bases.len() as u32).to_vec();
        for runs in [runs(&bases, |base| base | 32 == b'n'), runs(&bases, |base| base & 32 != 0)] {
            body.extend(word(runs.len() as u32));
            runs.iter().for_each(|(start, _)| body.extend(word(*start)));
            runs.iter().for_each(|(_, size)| body.extend(word(*size)));
        }
        body.extend(word(0));
        let code = |base: &u8| b"TCAG".iter().position(|letter| *letter == base & !32).unwrap_or(0);
        for four in bases.chunks(4) {
            body.push((0..4).fold(0, |byte, at| byte << 2 | four.get(at).map_or(0, code)) as u8);
        }
        body
    };
    let bodies: Vec<_> = records.iter().map(|(_, bases)| body(bases)).collect();
    let offset_bytes = if version == 1 { 8 } else { 4 };
    let header = [0x1A41_2743, version, records.len() as u32, 0];
    let mut file: Vec<u8> = header.iter().flat_map(|value| word(*value)).collect();
    let mut offset = 16 + records.iter().map(|(name, _)| 1 + name.len() + offset_bytes).sum::<usize>();
    for ((name, _), body) in records.iter().zip(&bodies) {
        file.push(name.len() as u8);
        file.extend(name.as_bytes());
        match (version, big_endian) {
            (1, true) => file.extend((offset as u64).to_be_bytes()),
            (1, false) => file.extend((offset as u64).to_le_bytes()),
            _ => file.extend(word(offset as u32)),
        }
        offset += body.len();
    }
    file.extend(bodies.concat());
    file
}

fn file(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Runs of known, masked, unknown and ambiguous bases.
fn bases() -> impl Strategy<Value = Vec<u8>> {
    let run = prop_oneof![
        4 => "[ACGT]{1,40}",
        2 => "[acgtn]{1,20}",
        1 => "N{1,30}",
        1 => "[RYSWKMBDHVryswkmbdhvUu]{1,5}",
    ];
    prop::collection::vec(run, 1..8).prop_map(|runs| runs.concat().into_bytes())
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    prop::collection::btree_map("[!-~]{1,20}", bases(), 1..5).prop_map(|map| map.into_iter().collect())
}

/// A change to a file: where, of what kind, and a value for it.
type Mutation = (Index, u8, u32);

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let word = prop_oneof![Just(0), Just(1), Just(u32::MAX), Just(1 << 31), 0..200_u32, any::<u32>()];
    prop::collection::vec((any::<Index>(), 0..5_u8, word), 1..6)
}

/// Overwrites bytes and words, cuts and inserts.
fn mutate(bytes: &mut Vec<u8>, mutations: &[Mutation]) {
    for (at, kind, word) in mutations {
        if bytes.is_empty() {
            return;
        }
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + 4);
        match kind {
            0 => bytes[at] = *word as u8,
            1 => bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]),
            2 => bytes[at..end].copy_from_slice(&word.to_be_bytes()[..end - at]),
            3 => bytes.truncate(at),
            _ => bytes.insert(at, *word as u8),
        }
    }
}

/// Packs `input`, alone in its folder: a genome that results can be read, and after an error nothing is left.
fn pack_or_error(folder: &TempDir, input: &Path) {
    let output = folder.path().join("out.2bit");
    match pack_fasta(input, &output, &mut |_| {}) {
        Ok(summary) => {
            let genome = Genome::open(&output).unwrap();
            assert_eq!(genome.sequences().len() as u64, summary.sequences);
            read_everything(&genome);
        }
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "left behind after: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fasta_comes_back_from_a_two_bit(
        records in records(), width in 1..90_usize, crlf: bool, compressed: bool, cut in any::<Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut text = fasta(&records, width, if crlf { "\r\n" } else { "\n" });
        if compressed {
            let (first, second) = text.split_at(cut.index(text.len()));
            text = [gzip(first), gzip(second)].concat();
        }
        let output = folder.path().join("g.2bit");
        let summary = pack_fasta(&file(&folder, "in", &text), &output, &mut |_| {}).unwrap();
        let genome = Genome::open(&output).unwrap();
        assert_holds(&genome, &records);
        read_everything(&genome);
        prop_assert_eq!(summary.bases, records.iter().map(|(_, bases)| bases.len() as u64).sum::<u64>());
        prop_assert_eq!(fs::read(&output).unwrap(), two_bit(&records, false, 0));
    }

    #[test]
    fn both_byte_orders_and_versions_are_read(records in records(), big_endian: bool, version in 0..2_u32) {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "g.2bit", two_bit(&records, big_endian, version));
        assert_holds(&Genome::open(&path).unwrap(), &records);
    }

    #[test]
    fn windows_are_pieces_of_the_whole(records in records(), ends in any::<[Index; 2]>()) {
        let folder = tempfile::tempdir().unwrap();
        let genome = Genome::open(file(&folder, "g.2bit", two_bit(&records, false, 0))).unwrap();
        let whole = kept(&records[0].1);
        let mut ends = ends.map(|end| end.index(whole.len() + 1));
        ends.sort();
        let mut window = Vec::new();
        genome.decode_soft_masked(genome.find(&records[0].0).unwrap(), ends[0] as u32..ends[1] as u32, &mut window);
        prop_assert_eq!(&window, &whole[ends[0]..ends[1]]);
    }

    #[test]
    fn a_mutated_two_bit_is_read_or_refused(
        records in records(), big_endian: bool, version in 0..2_u32, mutations in mutations(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = two_bit(&records, big_endian, version);
        mutate(&mut bytes, &mutations);
        match Genome::open(file(&folder, "g.2bit", bytes)) {
            Ok(genome) => read_everything(&genome),
            Err(error) => prop_assert_eq!(error.exit_code(), 2),
        }
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), signed: bool) {
        let folder = tempfile::tempdir().unwrap();
        let start: &[u8] = if signed { &[0x43, 0x27, 0x41, 0x1A, 0, 0, 0, 0] } else { &[] };
        if let Ok(genome) = Genome::open(file(&folder, "in", [start, &bytes].concat())) {
            read_everything(&genome);
        }
        let start: &[u8] = if signed { b">a\nACGT" } else { &[] };
        pack_or_error(&folder, &file(&folder, "in", [start, &bytes].concat()));
    }

    #[test]
    fn mutated_fasta_is_packed_or_refused(
        records in records(), crlf: bool, compressed: bool, mutations in mutations(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut text = fasta(&records, 30, if crlf { "\r\n" } else { "\n" });
        if compressed {
            text = gzip(&text);
        }
        mutate(&mut text, &mutations);
        pack_or_error(&folder, &file(&folder, "in", text));
    }
}

#[test]
fn the_sample_is_what_its_page_says() {
    let genome = Genome::open(SAMPLE).unwrap();
    assert_eq!(genome.sequences().len(), 1);
    assert_eq!(genome.sequences()[0].name, "X_46000001_56000000");
    let expected = Composition { length: 10_000_000, n: 150_000, masked: 0, gc: 4_190_853 };
    assert_eq!(Composition::of(&genome, 0), expected);
}

/// Introns are nearly all GT..AG, which no wrong shift of the positions would leave so.
#[test]
fn the_samples_genes_fit_its_bases() {
    let genome = Genome::open(SAMPLE).unwrap();
    let mut text = String::new();
    MultiGzDecoder::new(fs::File::open(SAMPLE_GENES).unwrap()).read_to_string(&mut text).unwrap();
    let (mut introns, mut canonical) = (0, 0);
    let mut previous: Option<(&str, u32, u32)> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split('\t').collect();
        let (start, end): (u32, u32) = (columns[3].parse().unwrap(), columns[4].parse().unwrap());
        assert_eq!(genome.find(columns[0]), Some(0));
        assert!(1 <= start && start <= end && end <= 10_000_000, "{line}");
        if columns[2] != "exon" {
            continue;
        }
        let parent = columns[8].split(';').find(|attribute| attribute.starts_with("Parent=")).unwrap();
        if let Some((same, other_start, other_end)) = previous
            && same == parent
        {
            let mut intron = Vec::new();
            genome.decode(0, other_end.min(end)..other_start.max(start) - 1, &mut intron);
            if columns[6] == "-" {
                reverse_complement(&mut intron);
            }
            introns += 1;
            canonical += i32::from(intron.starts_with(b"GT") && intron.ends_with(b"AG"));
        }
        previous = Some((parent, start, end));
    }
    assert!(introns > 4000, "{introns} introns");
    assert!(f64::from(canonical) > 0.95 * f64::from(introns), "{canonical} of {introns} introns are GT..AG");
}

#[test]
fn the_sample_is_a_piece_of_the_whole_chromosome() {
    let shared = std::env::var("HELIXGRAD_SHARED").unwrap_or_else(|_| "../shared".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(shared).join("data/grch37_chrX_70M/hs37chrXtrunc.fa.gz");
    if !source.exists() {
        eprintln!("skipped: no {}", source.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.2bit");
    let summary = pack_fasta(&source, &path, &mut |_| {}).unwrap();
    assert_eq!((summary.sequences, summary.bases, summary.n), (1, 69_999_930, 3_760_000));
    let (chromosome, sample) = (Genome::open(&path).unwrap(), Genome::open(SAMPLE).unwrap());
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    chromosome.decode(chromosome.find("X").unwrap(), 46_000_000..56_000_000, &mut expected);
    sample.decode(0, 0..10_000_000, &mut found);
    assert!(found == expected);
}

fn helixgrad(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_helixgrad")).arg("genome").args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pack_info_and_extract_work_together() {
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "g.fa", ">chr1 first\nACGTNNacgtRG\n>chr2\nTTTTGC\n");
    let output = folder.path().join("new folder/g.2bit");
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());

    let packed = helixgrad(&["pack", input, output, "--json"]);
    assert!(packed.status.success(), "{}", stderr(&packed));
    let json: serde_json::Value = serde_json::from_slice(&packed.stdout).unwrap();
    for (key, value) in [("sequences", 2), ("bases", 18), ("n", 3), ("ambiguous", 1), ("masked", 4)] {
        assert_eq!(json[key], value, "{key}");
    }

    let info: serde_json::Value = serde_json::from_slice(&helixgrad(&["info", output, "--json"]).stdout).unwrap();
    assert_eq!(info["sequences"][0]["name"], "chr1");
    assert_eq!(info["sequences"][1]["gc_fraction"], 2.0 / 6.0);
    assert_eq!(info["total"]["length"], 18);
    let table = String::from_utf8(helixgrad(&["info", output]).stdout).unwrap();
    assert!(table.contains("total (2)") && table.lines().count() == 4, "{table}");

    let extract = |arguments: &[&str]| helixgrad(&[&["extract", output], arguments].concat());
    assert_eq!(extract(&["chr1:5-9"]).stdout, b">chr1:5-9\nNNacg\n");
    assert_eq!(extract(&["chr1:5-9", "--upper-case"]).stdout, b">chr1:5-9\nNNACG\n");
    assert_eq!(extract(&["chr1:5-9", "--reverse-complement"]).stdout, b">chr1:5-9/rc\ncgtNN\n");
    assert_eq!(extract(&["chr2"]).stdout, b">chr2\nTTTTGC\n");
    let json: serde_json::Value = serde_json::from_slice(&extract(&["chr2:5", "--json"]).stdout).unwrap();
    assert_eq!((&json["name"], &json["sequence"]), (&"chr2:5-6".into(), &"GC".into()));
    let out = folder.path().join("x.fa");
    assert!(extract(&["chr2", "--out", out.to_str().unwrap()]).status.success());
    assert_eq!(fs::read(out).unwrap(), b">chr2\nTTTTGC\n");

    // As `bedtools getfasta -s` names and turns them.
    let bed = file(&folder, "r.bed", "track x\nchr1\t4\t9\tname\t0\t-\nOTHER\t0\t2\nchr2\t4\t6\t.\t.\t+\n");
    let of_bed = ["--bed", bed.to_str().unwrap(), "--alias", "OTHER=chr2"];
    let expected = ">chr1:4-9(-)\ncgtNN\n>chr2:0-2(+)\nTT\n>chr2:4-6(+)\nGC\n";
    assert_eq!(String::from_utf8_lossy(&extract(&of_bed).stdout), expected);
    let out = folder.path().join("y.fa");
    assert!(extract(&[&of_bed[..], &["--out", out.to_str().unwrap()]].concat()).status.success());
    assert_eq!(fs::read_to_string(out).unwrap(), expected);
    let json: serde_json::Value =
        serde_json::from_slice(&extract(&[&of_bed[..], &["--json"]].concat()).stdout).unwrap();
    assert_eq!((&json["records"][1]["name"], &json["records"][1]["sequence"]), (&"chr2:0-2(+)".into(), &"TT".into()));
    let refused = extract(&of_bed[..2]);
    assert!(refused.status.code() == Some(2) && stderr(&refused).contains("r.bed, line 3"), "{}", stderr(&refused));
    assert_eq!(extract(&[]).status.code(), Some(2));
}

#[test]
fn pack_reads_stdin() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("g.2bit");
    let mut child = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
        .args(["genome", "pack", "-"])
        .arg(&output)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&gzip(b">a\nGATTACA\n")).unwrap();
    assert!(child.wait().unwrap().success());
    assert_holds(&Genome::open(&output).unwrap(), &[("a".into(), b"GATTACA".to_vec())]);
}

#[test]
fn a_closed_pipe_ends_extract_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
        .args(["genome", "extract", SAMPLE, "X_46000001_56000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn bad_input_ends_with_code_2_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let whole = gzip(b">a\nACGT\n");
    let late = [&b">a\n"[..], &b"ACGT\n".repeat(100_000), b"?\n"].concat();
    let cases: [(&str, &[u8], &str); 8] = [
        ("empty.fa", b"", "no record"),
        ("protein.fa", b">p\nMKVLE\n", "record \"p\", line 2: 'L' in column 4 is no base"),
        ("twice.fa", b">a\nA\n>a\nC\n", "a second record named \"a\""),
        ("cut.fa.gz", &whole[..whole.len() - 3], "ends too early"),
        ("text.fa", b"hello\n", "where the first record should begin"),
        ("reads.fq", b"@r\nA\n+\n!\n", "FASTQ"),
        ("packed.2bit", &two_bit(&[("a".into(), b"A".to_vec())], false, 0), "a .2bit file"),
        ("late.fa", &late, "line 100002: '?'"),
    ];
    for (name, bytes, expected) in cases {
        let input = file(&folder, name, bytes);
        let output = folder.path().join("out.2bit");
        let result = helixgrad(&["pack", input.to_str().unwrap(), output.to_str().unwrap()]);
        assert_eq!(result.status.code(), Some(2), "{name}");
        let message = stderr(&result);
        assert!(message.contains(expected) && message.contains("what to do") && message.contains(name), "{message}");
        fs::remove_file(input).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn what_cannot_be_read_or_written_ends_with_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let input = file(&folder, "g.fa", ">a\nACGT\n");
    let (input, inside) = (input.to_str().unwrap(), folder.path().join("g.fa/out.2bit"));
    let bad = file(&folder, "bad.2bit", &fs::read(SAMPLE).unwrap()[..1000]);
    let (bad, here) = (bad.to_str().unwrap(), folder.path().to_str().unwrap());
    for arguments in [
        &["pack", "none.fa", "out.2bit"][..],
        &["pack", input, input],
        &["pack", input, inside.to_str().unwrap()],
        &["pack", input, here],
        &["pack", here, "out.2bit"],
        &["pack", input, "-"],
        &["info", input],
        &["info", "none.2bit"],
        &["info", bad],
        &["extract", SAMPLE, "X_46000001_56000000:1-10000001"],
        &["extract", SAMPLE, "chrX:1-10"],
        &["extract", SAMPLE, ""],
        &["extract", SAMPLE, "X_46000001_56000000:1-5", "--out", inside.to_str().unwrap()],
    ] {
        let result = helixgrad(arguments);
        assert_eq!(result.status.code(), Some(2), "{arguments:?}: {}", stderr(&result));
        assert!(stderr(&result).starts_with("error: "), "{arguments:?}: {}", stderr(&result));
    }
    assert_eq!(fs::read(input).unwrap(), b">a\nACGT\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A limit on the size of files stands in for a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let output = output.to_str().unwrap();
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    for arguments in [&["extract", SAMPLE, "X_46000001_56000000", "--out", output][..], &["pack", "-", output]] {
        let mut child = Command::new("sh")
            .args(["-c", script, "sh", env!("CARGO_BIN_EXE_helixgrad"), "genome"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = [&b">a\n"[..], &b"ACGTACGT\n".repeat(1_000_000)].concat();
        // The command may have given up before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(&text);
        let result = child.wait_with_output().unwrap();
        assert_eq!(result.status.code(), Some(2), "{}", stderr(&result));
        assert!(stderr(&result).contains("cannot write"), "{}", stderr(&result));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
