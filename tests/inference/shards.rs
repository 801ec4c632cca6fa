//! Work in parts: put together, the parts are the bytes of the whole, however many there are and however often they were killed; and
//! what are not the parts of one work is refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use helixgrad::train::checkpoint::Classification;
use serde_json::Value;

use super::support::*;

/// A folder that commands run in, so that outputs have the same names everywhere.
struct Place<'a> {
    folder: PathBuf,
    /// The command without --out.
    command: &'a [&'a str],
    out: &'a str,
}

impl<'a> Place<'a> {
    fn new(folder: &Path, name: &str, command: &'a [&'a str], out: &'a str) -> Self {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        Self { folder, command, out }
    }

    fn program(&self, arguments: &[&str], threads: usize, kill_at: Option<usize>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_helixgrad"));
        command.args(arguments).args(["--quiet", "--json"]).current_dir(&self.folder);
        // Not as an option: that would stand in the configuration.
        command.env("RAYON_NUM_THREADS", threads.to_string()).env_remove("SLURM_ARRAY_TASK_ID");
        kill_at.into_iter().for_each(|number| {
            command.env("HELIXGRAD_TEST_KILL_AT", number.to_string());
        });
        command.output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str], threads: usize) -> Value {
        let output = self.program(arguments, threads, None);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.program(arguments, 1, None);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains("what to do") && !message.contains("panicked"), "{message}");
        message
    }

    fn whole(&self) -> Value {
        self.succeeds(&[self.command, &["--out", self.out]].concat(), 2)
    }

    fn shard_command(&self, shard: &'a str) -> Vec<&'a str> {
        [self.command, &["--out", self.out, "--shard", shard]].concat()
    }

    /// The folders of so many shards, the last one first.
    fn folders(&self, of: usize) -> Vec<String> {
        (1..=of).rev().map(|number| format!("{}.shard-{number}-of-{of}", self.out)).collect()
    }

    fn shards(&self, of: usize) {
        for number in 1..=of {
            let shard = format!("{number}/{of}");
            let told = self.succeeds(&[self.command, &["--out", self.out, "--shard", &shard]].concat(), 1 + number % 3);
            assert_eq!((&told["shard"], &told["of"]), (&number.into(), &of.into()));
            assert_eq!(told["out"], format!("{}.shard-{number}-of-{of}", self.out));
        }
    }

    fn merge(&self, of: usize) -> Value {
        let folders = self.folders(of);
        let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
        self.succeeds(&[&["merge"], &folders[..], &["--out", self.out]].concat(), 2)
    }

    /// All files but those of shards, by their path.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                match path.is_dir() {
                    true if path.to_str().unwrap().contains(".shard-") => {}
                    true => folders.push(path),
                    false => drop(files.insert(
                        path.strip_prefix(&self.folder).unwrap().to_owned(),
                        without_times(&path, fs::read(&path).unwrap()),
                    )),
                }
            }
        }
        files
    }
}

/// The fields that say how long something took.
const TIMES: [&str; 6] =
    ["seconds", "bases_per_second", "tokens_per_second", "alleles_per_second", "changes_per_second", "shards"];

fn timeless(mut value: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    TIMES.iter().for_each(|name| drop(object.shift_remove(*name)));
    value
}

/// The bytes of a file, those of a scan's summary without its times.
fn without_times(path: &Path, bytes: Vec<u8>) -> Vec<u8> {
    if !path.ends_with("scan.json") {
        return bytes;
    }
    let text = String::from_utf8(bytes).unwrap();
    let is_time = |line: &&str| TIMES.iter().any(|name| line.trim_start().starts_with(&format!("\"{name}\":")));
    assert_eq!(text.lines().filter(is_time).count(), 2);
    text.lines().filter(|line| !is_time(line)).collect::<Vec<_>>().join("\n").into_bytes()
}

fn assert_same_files(found: &Place, whole: &Place, what: &str) {
    let (found, whole) = (found.files(), whole.files());
    assert_eq!(found.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in &whole {
        assert!(bytes == &found[name], "{what}: another {}", name.display());
    }
}

/// The command's work in all these numbers of parts, each on one to three threads, is that of the whole on two.
fn parts_are_the_whole(folder: &Path, command: &[&str], out: &str, numbers: &[usize]) -> Value {
    let whole = Place::new(folder, &format!("{out}-whole"), command, out);
    let expected = whole.whole();
    for &of in numbers {
        let what = format!("{out} in {of}");
        let place = Place::new(folder, &format!("{out}-{of}"), command, out);
        place.shards(of);
        let told = place.merge(of);
        assert_eq!(told["shards"], of, "{what}");
        assert_eq!(timeless(told).to_string(), timeless(expected.clone()).to_string(), "{what}");
        assert_same_files(&place, &whole, &what);
    }
    expected
}

/// Three sequences, not in the order of their names, one of them shorter than any window: six pieces of a scan.
fn three_sequences(folder: &Path) -> PathBuf {
    let mut long = bases(5, 40_000);
    long[17_000..17_100].fill(b'N');
    genome(folder, &[("z", &long), ("tiny", &bases(7, WIDTH - 1)), ("a", &bases(6, 20_000))])
}

#[test]
fn a_scan_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let genome = three_sequences(folder.path());
    let command = ["scan", "--model", text(&model), "--genome", text(&genome), "--min-track-score", "0"];
    let told = parts_are_the_whole(folder.path(), &command, "calls", &[1, 2, 3, 7]);
    assert!(told["sites"].as_u64().unwrap() > 100 && told["unscored"].as_u64().unwrap() > 10, "{told}");
    // No part of this has a call, and bigWig files are not written.
    let none = [&command[..5], &["--min-track-score", "1", "--min-score", "1", "--format", "bigwig,bed"]].concat();
    parts_are_the_whole(folder.path(), &none, "none", &[3]);
    let part = [&command[..], &["--region", "z:1001-30000", "--positions", "all", "--format", "bedgraph"]].concat();
    parts_are_the_whole(folder.path(), &part, "part", &[4]);
}

#[test]
fn a_scan_beside_an_annotation_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    // A matrix that is put beside the model.
    let (data, trained) = (folder.path().join("data"), folder.path().join("trained"));
    let of = ["--genome", SAMPLE, "--annotation", SAMPLE_GENES];
    let sizes = ["--window", "48", "--k", "3", "--max-sites", "300", "--out", text(&data)];
    json(&[&["splice", "dataset"], &of[..], &sizes].concat());
    let sizes = ["--layers", "1", "--hidden", "8", "--heads", "1", "--intermediate", "8", "--epochs", "1"];
    json(&[&["finetune", "--data", text(&data), "--out", text(&trained)], &sizes[..]].concat());
    fs::copy(trained.join("weight_matrix.json"), model.join("weight_matrix.json")).unwrap();
    let region = format!("{}:1000001-1120000", open(Path::new(SAMPLE)).sequences()[0].name);
    let command = [&["scan", "--model", text(&model), "--region", &region], &of[..]].concat();
    let told = parts_are_the_whole(folder.path(), &command, "calls", &[1, 3, 11]);
    assert!(told["accuracy"][3]["weight_matrix"]["intervals"].is_object() && told["annotation"].is_object());
    let place = Place::new(folder.path(), "kept", &command, "calls");
    let keep = [&place.shard_command("1/2")[..], &["--keep-thresholds"]].concat();
    assert!(place.refused(&keep).contains("--keep-thresholds with --shard"));
}

#[test]
fn a_scan_by_a_model_over_whole_genes_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let model = stretches_model(folder.path(), 40, 10);
    let genome = three_sequences(folder.path());
    let command = ["scan", "--model", text(&model), "--genome", text(&genome), "--region", "z"];
    parts_are_the_whole(folder.path(), &command, "calls", &[3]);
}

/// Records on x, every other base, and behind them some whose sequence the genome lacks.
fn records(bases: &[u8], count: usize, strange: usize) -> String {
    let mut text = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n".to_owned();
    for number in 0..count {
        let at = 100 + 2 * number;
        let (reference, other) = (char::from(bases[at]), if bases[at] == b'A' { "G,AT" } else { "A" });
        text += &format!("x\t{}\t.\t{reference}\t{other}\t.\t.\t.\n", at + 1);
    }
    text + &(0..strange).map(|at| format!("strange\t{}\t.\tA\tC\t.\t.\t.\n", at + 1)).collect::<String>()
}

#[test]
fn variants_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let x = bases(8, 4000);
    let genome = genome(folder.path(), &[("x", &x)]);
    let (vcf, gff) = (folder.path().join("in.vcf"), folder.path().join("genes.gff3"));
    fs::write(&vcf, records(&x, 700, 600)).unwrap();
    fs::write(
        &gff,
        "##gff-version 3\nx\tt\texon\t51\t900\t.\t+\t.\tParent=g\nx\tt\texon\t1500\t1800\t.\t-\t.\tParent=h\n",
    )
    .unwrap();
    let command = ["variants", "--model", text(&model), "--genome", text(&genome), "--vcf", text(&vcf)];
    let told = parts_are_the_whole(folder.path(), &command, "out.vcf.gz", &[1, 2, 3, 7, 12]);
    assert!(told["scored"].as_u64().unwrap() > 700 && told["skipped"]["sequence_not_in_genome"] == 600);
    let with_genes = [&command[..], &["--annotation", text(&gff)]].concat();
    let told = parts_are_the_whole(folder.path(), &with_genes, "out.vcf", &[3]);
    assert!(told["annotation"].is_object());

    // What is wrong only with the whole is told when it is put together.
    fs::write(&vcf, records(&x, 0, 600)).unwrap();
    let place = Place::new(folder.path(), "strange", &command, "s.vcf");
    place.shards(2);
    let merge = ["merge", "s.vcf.shard-1-of-2", "s.vcf.shard-2-of-2", "--out", "s.vcf"];
    let message = place.refused(&merge);
    assert!(message.contains("none of its sequences is in") && message.contains("strange"), "{message}");
    fs::write(&vcf, records(&x, 0, 0)).unwrap();
    parts_are_the_whole(folder.path(), &command, "empty.vcf", &[2]);
    fs::write(&vcf, records(&x, 300, 0)).unwrap();
    let place = Place::new(folder.path(), "names", &command, "s.vcf");
    place.shards(2);
    for (out, found) in [("s.vcf.gz", "without .gz"), ("s.bcf", "where VCF is written")] {
        let message = place.refused(&[&merge[..4], &[out]].concat());
        assert!(message.contains(found), "{message}");
    }
}

#[test]
fn a_saturation_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let genome = genome(folder.path(), &[("x", &bases(8, 6000))]);
    let command = |region| ["variants", "--model", text(&model), "--genome", text(&genome), "--saturation", region];
    let told = parts_are_the_whole(folder.path(), &command("x:31-270"), "out.tsv", &[1, 2, 3, 7, 20]);
    assert_eq!((told["changes"].as_u64().unwrap(), told["files"].as_array().unwrap().len()), (720, 2));
    // Too long for a picture.
    let few = [&command("x:1-4100")[..], &["--distance", "2"]].concat();
    let told = parts_are_the_whole(folder.path(), &few, "long.tsv", &[3]);
    assert_eq!(told["files"].as_array().unwrap().len(), 1);
}

fn fasta(path: &Path, records: impl Iterator<Item = (usize, usize)>) {
    let record = |(number, length): (usize, usize)| {
        format!(">r{number}\n{}\n", String::from_utf8(bases(number as u64 + 1, length)).unwrap())
    };
    fs::write(path, records.map(record).collect::<String>()).unwrap();
}

#[test]
fn predictions_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let windows = folder.path().join("w.fa");
    fasta(&windows, (0..900).map(|number| (number, WIDTH + number % 4)));
    let model_path = model(folder.path(), &["active", "silent"], Some(WIDTH));
    let command = ["predict", "--model", text(&model_path), "--fasta", text(&windows)];
    let told = parts_are_the_whole(folder.path(), &command, "p.tsv", &[1, 2, 3, 7, 12]);
    assert_eq!((&told["windows"], &told["longer_windows"]), (&900.into(), &675.into()));
    let both = [&command[..], &["--rc"]].concat();
    parts_are_the_whole(folder.path(), &both, "rc.tsv", &[3]);

    // Of any length, and pairs.
    let free = folder.path().join("free");
    let free_model = model(&free, &["active", "silent"], None);
    fasta(&windows, (0..400).map(|number| (number, 5 + number % 40)));
    let command = ["predict", "--model", text(&free_model), "--fasta", text(&windows)];
    parts_are_the_whole(folder.path(), &command, "free.tsv", &[3]);
    let labels = ["active", "silent"].map(str::to_owned).to_vec();
    let pairs =
        model_that(&folder.path().join("pairs"), Classification { labels, pairs: true, ..Default::default() }, 16);
    let table = folder.path().join("pairs.tsv");
    let text_of = |seed: usize| String::from_utf8(bases(seed as u64 + 1, 12 + seed % 9)).unwrap();
    let row = |number: usize| format!("n{number}\t{}\t{}\n", text_of(number), text_of(number + 7));
    fs::write(&table, "name\tsequence1\tsequence2\n".to_owned() + &(0..300).map(row).collect::<String>()).unwrap();
    let command = ["predict", "--model", text(&pairs), "--tsv", text(&table)];
    parts_are_the_whole(folder.path(), &command, "pairs.out.tsv", &[1, 3, 7]);

    let place = Place::new(folder.path(), "bad", &command, "p.tsv");
    let stdin = ["predict", "--model", text(&pairs), "--tsv", "-", "--out", "p.tsv", "--shard", "1/2"];
    assert!(place.refused(&stdin).contains("can be read only once"));
    let message =
        place.program(&["predict", "--model", text(&pairs), "--tsv", text(&table), "--shard", "1/2"], 1, None);
    assert!(String::from_utf8_lossy(&message.stderr).contains("--out"));
}

#[test]
fn embeddings_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let model_path = model(folder.path(), &["active", "silent"], None);
    let sequences = folder.path().join("s.fa");
    // Groups have some 65,000 bases; one sequence has more by itself.
    let length = |number: usize| if number == 60 { 70_000 } else { 700 + 31 * (number % 37) };
    fasta(&sequences, (0..80).map(|number| (number, length(number))));
    let command = ["embed", "--model", text(&model_path), "--fasta", text(&sequences), "--layer", "1"];
    let told = parts_are_the_whole(folder.path(), &command, "e.npy", &[1, 2, 3, 7]);
    assert_eq!(told["rows"], 80);
    let with = |extra: &[&'static str]| -> Vec<&str> { [&command[..], extra].concat() };
    for (out, extra) in [
        ("e.tsv", vec!["--rc"]),
        ("cls.safetensors", vec!["--pool", "cls", "--rc"]),
        ("b.safetensors", vec!["--per", "nucleotide"]),
        ("k.npy", vec!["--per", "token"]),
    ] {
        parts_are_the_whole(folder.path(), &with(&extra), out, &[3]);
    }
    // More parts than groups: the first has none, and a table's header comes from another.
    fasta(&sequences, (0..20).map(|number| (number, 300)));
    let command = ["embed", "--model", text(&model_path), "--fasta", text(&sequences), "--per", "token"];
    parts_are_the_whole(folder.path(), &command, "few.tsv", &[3]);
    let place = Place::new(folder.path(), "name", &command, "e.npy");
    place.shards(2);
    let message = place.refused(&["merge", "e.npy.shard-1-of-2", "e.npy.shard-2-of-2", "--out", "e.tsv"]);
    assert!(message.contains("where the shards are part.npy"), "{message}");
}

/// A part that is killed at any change to the file system, and goes on, is the part; so is one that is killed while it goes on.
#[test]
fn killed_parts_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let genome_path = three_sequences(folder.path());
    let vcf = folder.path().join("in.vcf");
    let mut z = Vec::new();
    let genome = open(&genome_path);
    genome.decode(0, 0..4000, &mut z);
    fs::write(&vcf, records(&z, 300, 0).replace("\nx\t", "\nz\t")).unwrap();
    let windows = folder.path().join("w.fa");
    fasta(&windows, (0..300).map(|number| (number, WIDTH)));
    let common = ["--model", text(&model), "--genome", text(&genome_path)];
    let scan = [&["scan"], &common[..], &["--region", "z:1001-5200", "--positions", "all"]].concat();
    let variants = [&["variants"], &common[..], &["--vcf", text(&vcf)]].concat();
    let saturation = [&["variants"], &common[..], &["--saturation", "z:1001-1060"]].concat();
    let predict = ["predict", "--model", text(&model), "--fasta", text(&windows)];
    for (command, out, resumes) in [
        (&scan[..], "calls", true),
        (&variants, "v.vcf.gz", true),
        (&saturation, "s.tsv", true),
        (&predict, "p.tsv", false),
    ] {
        let whole = Place::new(folder.path(), &format!("{out}-whole"), command, out);
        let (first, second) = (format!("{out}.shard-1-of-2"), format!("{out}.shard-2-of-2"));
        whole.succeeds(&whole.shard_command("1/2"), 1);
        whole.whole();
        let merge = ["merge", &first, &second, "--out", out];
        let mut kills = 0;
        for kill_at in 1.. {
            let place = Place::new(folder.path(), &format!("{out}-{kill_at}"), command, out);
            let resume: &[&str] = if resumes { &["--resume"] } else { &[] };
            let again = [&place.shard_command("2/2")[..], resume].concat();
            let killed = place.program(&place.shard_command("2/2"), 1, Some(kill_at));
            if killed.status.success() {
                break;
            }
            assert_eq!(killed.status.signal(), Some(9), "{}", String::from_utf8_lossy(&killed.stderr));
            kills += 1;
            copy_folder(&whole.folder.join(&first), &place.folder.join(&first));
            let folder = place.folder.join(&second);
            if !place.program(&merge, 1, None).status.success() {
                let message = place.refused(&merge);
                assert!(message.contains("not finished") || message.contains("no shard"), "{message}");
                assert!(!place.folder.join(out).exists());
                if resumes && folder.join("state.json").exists() {
                    let message = place.refused(&place.shard_command("2/2"));
                    assert!(message.contains("already holds an unfinished shard 2/2"), "{message}");
                    // Killed once more on its way.
                    place.program(&again, 1, Some(3));
                }
                place.succeeds(&again, 2);
            } else if resumes {
                fs::remove_dir_all(place.folder.join(out))
                    .or_else(|_| fs::remove_file(place.folder.join(out)))
                    .unwrap();
            }
            if resumes {
                // Done is done.
                let before = fs::metadata(folder.join("state.json")).unwrap().modified().unwrap();
                place.succeeds(&again, 1);
                assert_eq!(fs::metadata(folder.join("state.json")).unwrap().modified().unwrap(), before);
            }
            place.merge(2);
            let debris = fs::read_dir(&place.folder).unwrap().map(|entry| entry.unwrap().file_name());
            for debris in debris.filter(|name| name.to_str().unwrap().starts_with('.')) {
                // Nobody clears the folder that a user's outputs lie in.
                fs::remove_dir_all(place.folder.join(debris)).unwrap();
            }
            assert_same_files(&place, &whole, &format!("{out} killed at {kill_at}"));
            fs::remove_dir_all(&place.folder).unwrap();
        }
        assert!(kills > 3, "{out}: killed {kills} times");
        // A merge that is killed is done again.
        let place = Place::new(folder.path(), &format!("{out}-merge"), command, out);
        place.shards(2);
        for kill_at in 1.. {
            let killed = place.program(&merge, 1, Some(kill_at));
            if killed.status.success() {
                break;
            }
            assert_eq!(killed.status.signal(), Some(9));
            // A scan's folder is there whole or not at all, and is not written over.
            if !(place.folder.join(out).is_dir() && kill_at > 1) {
                place.merge(2);
            }
            for path in fs::read_dir(&place.folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.file_name().unwrap().to_str().unwrap().starts_with('.') {
                    fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
                }
            }
            assert_same_files(&place, &whole, &format!("{out}, merge killed at {kill_at}"));
            if place.folder.join(out).is_dir() {
                fs::remove_dir_all(place.folder.join(out)).unwrap();
            }
        }
    }
}

/// Writes a state with something else in it, and the checksum that it then has.
fn edit_state(folder: &Path, from: &str, to: &str) {
    let path = folder.join("state.json");
    let state = fs::read_to_string(&path).unwrap();
    let content = state.split_once("\"content\":").unwrap().1.strip_suffix('}').unwrap().replacen(from, to, 1);
    let mut crc = flate2::Crc::new();
    crc.update(content.as_bytes());
    fs::write(path, format!("{{\"checksum\":\"{:08x}\",\"content\":{content}}}", crc.sum())).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn what_are_not_the_parts_of_one_work_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let genome_path = three_sequences(folder.path());
    let command = ["scan", "--model", text(&model), "--genome", text(&genome_path)];
    let place = Place::new(folder.path(), "place", &command, "calls");
    place.shards(3);
    let [one, two, three] = [1, 2, 3].map(|number| format!("calls.shard-{number}-of-3"));
    let [one, two, three] = [one.as_str(), two.as_str(), three.as_str()];
    let path = |name: &str| place.folder.join(name);
    let refused = |shards: &[&str]| {
        let message = place.refused(&[&["merge"], shards, &["--out", "calls"]].concat());
        assert!(!path("calls").exists(), "{message}");
        message
    };
    let says = |shards: &[&str], words: &[&str]| {
        let message = refused(shards);
        words.iter().for_each(|word| assert!(message.contains(word), "{word:?} in {message}"));
    };
    // Missing, twice (by another name, too), none at all, no shard.
    says(&[one, three], &["1 of 3 shards are missing: 2", "--shard NUMBER/OF"]);
    says(&[two], &["2 of 3 shards are missing: 1, 3"]);
    symlink(path(one), path("link")).unwrap();
    says(&[one, two, three, "link"], &["shard 1/3 is there twice", "link", one]);
    says(&[one, two, "nowhere"], &["there is no shard nowhere"]);
    fs::create_dir(path("empty")).unwrap();
    says(&[one, two, "empty"], &["empty is no folder of a shard"]);
    says(&[one, two, &format!("{three}/sites.bed")], &["sites.bed is no folder of a shard"]);

    // Foreign: cut otherwise, or of another genome, threshold, model, command or version.
    let other = |name: &str, command: &[&str], shard: &str, out: &str| {
        let other = Place::new(folder.path(), name, command, out);
        other.succeeds(&[command, &["--out", out, "--shard", shard]].concat(), 1);
        other.folder.join(format!("{out}.shard-{}", shard.replace('/', "-of-"))).to_str().unwrap().to_owned()
    };
    let of_four = other("four", &command, "3/4", "calls");
    says(&[one, two, &of_four], &["is shard 3/4", "is shard 1/3"]);
    let changed = folder.path().join("changed.2bit");
    let mut bytes = fs::read(&genome_path).unwrap();
    let last = bytes.len() - 9;
    bytes[last] ^= 3;
    fs::write(&changed, bytes).unwrap();
    let mut of_changed = command;
    of_changed[4] = text(&changed);
    says(&[one, two, &other("changed", &of_changed, "3/3", "calls")], &["another genome", "changed"]);
    let strict = [&command[..], &["--min-score", "0.7"]].concat();
    says(&[one, two, &other("strict", &strict, "3/3", "calls")], &["another min-score", "0.7", "0.5"]);
    let second = folder.path().join("second");
    fs::create_dir(&second).unwrap();
    let labels = &["acceptor", "donor", "neither"];
    let model_of_other = model_with_other_weights(&second, labels);
    let mut of_other = command;
    of_other[2] = text(&model_of_other);
    says(&[one, two, &other("model", &of_other, "3/3", "calls")], &["another model"]);
    let windows = folder.path().join("w.fa");
    fasta(&windows, (0..10).map(|number| (number, WIDTH)));
    let predict = ["predict", "--model", text(&model), "--fasta", text(&windows)];
    says(&[one, two, &other("predict", &predict, "3/3", "p.tsv")], &["is a shard of other work", "another "]);
    copy_folder(&path(three), &path("newer"));
    edit_state(&path("newer"), &format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION")), "\"version\":\"99.0.0\"");
    says(&[one, two, "newer"], &["another version", "99.0.0"]);

    // Unfinished, damaged.
    copy_folder(&path(three), &path("unfinished"));
    edit_state(&path("unfinished"), "\"ending\":{", "\"ending\":null,\"was\":{");
    says(&[one, two, "unfinished"], &["unfinished is a shard, 3/3, that is not finished", "--resume"]);
    fs::remove_file(path("unfinished/state.json")).unwrap();
    says(&[one, two, "unfinished"], &["unfinished is a shard that is not finished"]);
    type Damage<'a> = &'a dyn Fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage, &str); 4] = [
        ("sites.bed", &|bytes| bytes[..bytes.len() - 1].to_vec(), "sites.bed: "),
        ("donor_plus.bedgraph", &|bytes| bytes.iter().map(|byte| byte ^ u8::from(*byte == b'7')).collect(), "checksum"),
        ("acceptor_minus.bedgraph", &|_| Vec::new(), "0 bytes, where it had"),
        ("state.json", &|bytes| bytes[..bytes.len() / 2].to_vec(), "state.json: damaged"),
    ];
    for (name, damage, found) in damages {
        let copy = format!("damaged-{name}");
        copy_folder(&path(three), &path(&copy));
        let file = path(&copy).join(name);
        fs::write(&file, damage(fs::read(&file).unwrap())).unwrap();
        says(&[one, two, &copy], &[found, name, "compute it again"]);
    }
    copy_folder(&path(three), &path("lost"));
    fs::remove_file(path("lost/sites.bed")).unwrap();
    says(&[one, two, "lost"], &["lost/sites.bed: missing"]);
    copy_folder(&path(three), &path("fewer"));
    edit_state(&path("fewer"), ",\"sites.bed\"]", "]");
    says(&[one, two, "fewer"], &["fewer/state.json: damaged: it names 4 files"]);

    // Outputs that are shards, or folders with something in them.
    for out in [one, "link", &format!("{two}/calls"), "empty/../link/x"] {
        let message = place.refused(&["merge", one, two, three, "--out", out]);
        assert!(message.contains("would write into the shard") || message.contains("would write over"), "{message}");
    }
    fs::write(path("empty/mine.txt"), "mine").unwrap();
    assert!(place.refused(&["merge", one, two, three, "--out", "empty"]).contains("holds \"mine.txt\""));
    let whole = [&command[..], &["--out", one]].concat();
    assert!(place.refused(&whole).contains("is no folder of a scan"));
    fs::create_dir(path("other.shard-1-of-2")).unwrap();
    fs::write(path("other.shard-1-of-2/mine.txt"), "mine").unwrap();
    let into = [&command[..], &["--out", "other", "--shard", "1/2"]].concat();
    assert!(place.refused(&into).contains("holds \"mine.txt\", and is no folder of a shard"));
    assert!(place.refused(&place.shard_command("1/3")).contains("already holds shard 1/3"));
    let resumed = [&place.shard_command("1/3")[..], &["--resume", "--min-score", "0.9"]].concat();
    assert!(place.refused(&resumed).contains("--resume with another min-score"));
    place.merge(3);
    assert!(place.refused(&["merge", one, two, three, "--out", "calls"]).contains("already holds a scan"));
}

/// As [`splice_model`], wider.
fn model_with_other_weights(folder: &Path, labels: &[&str]) -> PathBuf {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    model_that(folder, Classification { labels, window: Some(WIDTH), ..Classification::default() }, 24)
}

#[test]
fn parts_are_named_as_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let genome = genome(folder.path(), &[("x", &bases(1, 300))]);
    let command = ["scan", "--model", text(&model), "--genome", text(&genome)];
    let place = Place::new(folder.path(), "place", &command, "calls");
    for shard in ["0/3", "5/3", "x", "1/0", "2", "1/3/3", "SLURM"] {
        let message = place.refused(&place.shard_command(shard));
        assert!(message.contains(&format!("--shard {shard}")) && message.contains("1/10"), "{message}");
    }
    assert!(place.refused(&place.shard_command("slurm")).contains("SLURM_ARRAY_TASK_ID is not set"));
    assert!(place.refused(&[&command[..], &["--out", "nowhere/..", "--shard", "1/2"]].concat()).contains("a name"));
    assert!(fs::read_dir(&place.folder).unwrap().next().is_none());
    let task = |id: &str, resume: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_helixgrad"));
        program.args(place.shard_command("slurm")).args(resume).arg("--quiet").current_dir(&place.folder);
        for (name, value) in [("ID", id), ("MIN", "5"), ("MAX", "7"), ("STEP", "1"), ("COUNT", "3")] {
            program.env(format!("SLURM_ARRAY_TASK_{name}"), value);
        }
        program.output().unwrap()
    };
    for id in ["5", "6", "7"] {
        // With --resume a part that was not begun is begun.
        let output = task(id, &["--resume"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let expected = format!("shard {} of 3", id.parse::<u32>().unwrap() - 4);
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(&expected));
    }
    assert_eq!(task("8", &[]).status.code(), Some(2));
    place.merge(3);
}
