//! What no user means to give: paths that are no text, files without an end, a signal in the middle, streams that are full.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::*;

fn command(arguments: &[&OsStr]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_helixgrad"));
    command.args(arguments);
    command
}

/// A path in a line of options.
fn options<'a>(line: &'a str, paths: &'a [(&'a str, PathBuf)]) -> Vec<&'a OsStr> {
    let of = |word: &'a str| {
        paths.iter().find(|(name, _)| *name == word).map_or(OsStr::new(word), |(_, path)| path.as_os_str())
    };
    line.split_whitespace().map(of).collect()
}

#[test]
fn paths_that_are_no_text_are_written_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(OsStr::from_bytes(b"odd\xff"));
    fs::create_dir(&odd).unwrap();
    let model = splice_model(&odd);
    let sequence = bases(5, 2000);
    let genome = genome(&odd, &[("x", &sequence)]);
    let path = |name: &str| odd.join(name);
    fs::write(path("w.fa"), format!(">a\n{}\n", String::from_utf8_lossy(&sequence[..WIDTH]))).unwrap();
    fs::write(path("v.vcf"), "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n").unwrap();
    let mut paths = vec![("MODEL", model), ("GENOME", genome), ("FASTA", path("w.fa")), ("VCF", path("v.vcf"))];
    for name in ["A.2bit", "A.fa", "A.npy", "A.tsv", "A.vcf", "A", "S.tsv", "P.tsv", "SCAN", "RUN"] {
        paths.push((name, path(name)));
    }
    for line in [
        "genome pack FASTA A.2bit",
        "genome info GENOME",
        "genome extract GENOME x:1-50 --out A.fa",
        "import MODEL --out A",
        "checkpoint info MODEL",
        "embed --model MODEL --fasta FASTA --out A.npy",
        "attention --model MODEL --fasta FASTA --out A.tsv",
        "predict --model MODEL --fasta FASTA --out P.tsv",
        "variants --model MODEL --genome GENOME --vcf VCF --out A.vcf",
        "variants --model MODEL --genome GENOME --saturation x:100-102 --out S.tsv",
        "scan --model MODEL --genome GENOME --region x:1-100 --out SCAN",
        "pretrain --genome GENOME --out RUN --k 3 --layers 1 --hidden 8 --heads 1 --intermediate 8 --max-length 20 \
         --tokens-per-step 60 --steps 1",
        "pretrain --resume --out RUN --genome GENOME",
    ] {
        let output = command(&options(line, &paths)).args(["--json", "--quiet"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let shown = ["out", "output", "file", "folder"].iter().find_map(|key| printed.get(key)?.as_str());
        assert!(shown.is_none_or(|path| path.contains("odd\u{fffd}")), "{line}: {printed}");
    }
    // In one word, too.
    let mut out = OsString::from("--out=");
    out.push(path("RUN"));
    let genome = paths.iter().find(|(name, _)| *name == "GENOME").unwrap().1.as_os_str();
    let output = command(&["pretrain", "--resume", "--genome"].map(OsStr::new)).arg(genome).arg(out).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for name in [
        "A.2bit",
        "A.fa",
        "A.npy",
        "A.tsv",
        "A.vcf",
        "S.tsv",
        "P.tsv",
        "A/config.json",
        "SCAN/scan.json",
        "RUN/config.toml",
    ] {
        assert!(path(name).is_file(), "{name}");
    }
}

/// Waits until `done`, for five minutes at most: a machine that does other things as well is no failure.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(300), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal, and returns the exit code and what was printed to stderr.
fn stop(mut child: Child, signal: &str) -> (Option<i32>, String) {
    Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    let asked = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if asked.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!(
                "it does not stop (signals that were ignored when the tests began, as under nohup, are ignored here)"
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_stop_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let record = format!(">a\n{}\n", String::from_utf8_lossy(&bases(1, WIDTH)));
    for (index, line) in [
        "embed --model MODEL --fasta PIPE --out OUT/a.npy",
        "embed --model MODEL --fasta PIPE --out OUT/a.safetensors --per token",
        "attention --model MODEL --fasta PIPE --out OUT/a.tsv",
        "predict --model MODEL --fasta PIPE --out OUT/a.tsv",
        "genome pack PIPE OUT/a.2bit",
    ]
    .into_iter()
    .enumerate()
    {
        let (pipe, out) = (folder.path().join(format!("pipe{index}")), folder.path().join(format!("out{index}")));
        fs::create_dir(&out).unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let line = line.replace("MODEL", text(&model)).replace("PIPE", text(&pipe)).replace("OUT", text(&out));
        let child = command(&options(&line, &[])).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        // The pipe is never closed: the command waits for more.
        let mut pipe = File::options().write(true).open(&pipe).unwrap();
        pipe.write_all(record.as_bytes()).unwrap();
        // Packing makes its file when it has read more.
        wait_for(&line, || index == 4 || !names(&out).is_empty());
        let (code, message) = stop(child, ["-INT", "-TERM"][index % 2]);
        assert_eq!(code, Some(130), "{line}: {message}");
        assert!(message.ends_with("error: interrupted\n"), "{message}");
        assert_eq!(names(&out), [""; 0], "{line}");
    }
}

/// `nohup` must go on when its terminal goes away.
#[test]
fn what_the_caller_ignores_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let (pipe, out) = (folder.path().join("pipe"), folder.path().join("out.tsv"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut child = Command::new("nohup")
        .arg(env!("CARGO_BIN_EXE_helixgrad"))
        .args(["predict", "--quiet", "--model", text(&model), "--fasta", text(&pipe), "--out", text(&out)])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Opened for writing when the command has opened it for reading.
    let mut pipe = File::options().write(true).open(&pipe).unwrap();
    Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap();
    pipe.write_all(format!(">a\n{}\n", String::from_utf8_lossy(&bases(1, WIDTH))).as_bytes()).unwrap();
    drop(pipe);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(out.is_file());
}

/// What was scored is kept; the table appears when it is complete.
#[test]
fn a_saturation_stops_soon() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let genome = genome(folder.path(), &[("x", &bases(2, 200_000))]);
    let out = folder.path().join("out");
    let line = format!(
        "variants --model {} --genome {} --saturation x --out {}/s.tsv --distance 1000",
        text(&model),
        text(&genome),
        text(&out)
    );
    for resume in ["", " --resume"] {
        let child = command(&options(&(line.clone() + resume), &[])).stderr(Stdio::piped()).spawn().unwrap();
        let modified = || fs::metadata(out.join("s.tsv.partial/state.json")).ok()?.modified().ok();
        let before = modified();
        wait_for("it does not save", || modified() > before);
        let started = Instant::now();
        let (code, message) = stop(child, "-INT");
        assert_eq!(code, Some(130), "{message}");
        assert!(message.contains("go on with --resume"), "{message}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(names(&out), ["s.tsv.partial"]);
    }
    // Whatever stays can be gone on with.
    let (line, partial) = (line.replace("/out/", "/early/"), folder.path().join("early/s.tsv.partial"));
    let child = command(&options(&line, &[])).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("it does not begin", || partial.join("config.toml").is_file());
    let (code, message) = stop(child, "-INT");
    assert_eq!(code, Some(130), "{message}");
    assert_eq!(partial.exists(), partial.join("state.json").exists());
}

/// A stop in the first round: there is nothing to go on from yet but the beginning, and that is kept.
#[test]
fn a_stop_before_the_first_state_can_be_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let model = slow_splice_model(folder.path());
    let bases = bases(2, 200_000);
    let genome = genome(folder.path(), &[("x", &bases)]);
    let vcf = folder.path().join("in.vcf");
    let records = (100..20_000).map(|at| {
        let reference = char::from(bases[at]);
        format!("x\t{}\t.\t{reference}\t{}\t.\t.\t.\n", at + 1, if reference == 'A' { 'C' } else { 'A' })
    });
    let header = "##fileformat=VCFv4.2\n##contig=<ID=x>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n";
    fs::write(&vcf, header.to_owned() + &records.collect::<String>()).unwrap();
    let common = format!("--model {} --genome {}", text(&model), text(&genome));
    let out = |name: &str| text(&folder.path().join(name)).to_owned();
    for (line, partial) in [
        (format!("scan {common} --out {}", out("scan")), "scan/.partial"),
        (format!("variants {common} --vcf {} --out {}", text(&vcf), out("v.vcf")), "v.vcf.partial"),
        (format!("variants {common} --saturation x --out {}", out("s.tsv")), "s.tsv.partial"),
    ] {
        let (lock, state) = (out(partial) + "/lock", out(partial) + "/state.json");
        let child = command(&options(&line, &[])).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("it does not begin", || Path::new(&lock).is_file());
        // It is in its first round, which takes longer, or has not begun it.
        std::thread::sleep(Duration::from_millis(100));
        let (code, message) = stop(child, "-INT");
        assert_eq!(code, Some(130), "{line}: {message}");
        assert!(message.contains("go on with --resume"), "{line}: {message}");
        assert!(Path::new(&state).is_file(), "{line}: {message}");
        let child = command(&options(&(line.clone() + " --resume"), &[])).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let (code, message) = stop(child, "-INT");
        assert_eq!(code, Some(130), "{line} --resume: {message}");
    }
}

/// What runs out of space before there is anything to go on from leaves nothing in the way of another try.
#[test]
fn files_over_their_limit_are_errors_that_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let genome = genome(folder.path(), &[("x", &bases(2, 200_000))]);
    let out = folder.path().join("scan");
    let line = format!("scan --model {} --genome {} --quiet --out {}", text(&model), text(&genome), text(&out));
    let limited = format!("ulimit -f 1; exec {} {line}", env!("CARGO_BIN_EXE_helixgrad"));
    let output = Command::new("bash").args(["-c", &limited]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("File too large"), "{message}");
    assert!(
        helixgrad(&options(&line, &[]).iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>()).status.success()
    );
}

#[test]
fn files_without_an_end_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let model = text(&model);
    let out = folder.path().join("out.npy").to_str().unwrap().to_owned();
    let zero = "/dev/zero";
    assert!(refused(&["embed", "--model", model, "--fasta", zero, "--out", &out]).contains("no `>`"));
    assert!(refused(&["embed", "--model", model, "--tsv", zero, "--out", &out]).contains("more than 64 MiB"));
    assert!(refused(&["genome", "info", SAMPLE, "--config", zero]).contains("more than 64 MiB"));
    let aliases =
        ["splice", "sites", "--genome", SAMPLE, "--annotation", SAMPLE_GENES, "--out", &out, "--alias-file", zero];
    assert!(refused(&aliases).contains("more than 64 MiB"));
    for file in ["config.json", "vocab.txt", "model.safetensors"] {
        let copied = folder.path().join(file).join("model");
        fs::create_dir_all(&copied).unwrap();
        names(Path::new(model))
            .iter()
            .for_each(|name| assert!(fs::copy(Path::new(model).join(name), copied.join(name)).is_ok()));
        fs::remove_file(copied.join(file)).unwrap();
        std::os::unix::fs::symlink(zero, copied.join(file)).unwrap();
        let message = refused(&["checkpoint", "info", text(&copied)]);
        assert!(
            message.contains(if file == "model.safetensors" { "no model.safetensors" } else { "more than 64 MiB" }),
            "{message}"
        );
    }
    // A record is as long as memory allows; what is no base ends it at once.
    let fasta = folder.path().join("endless.fa");
    fs::write(&fasta, [b">a\n", &[b'A'; 1 << 20][..], b"\r\n", &[b'C'; 99], b"\0"].concat()).unwrap();
    let message = refused(&["embed", "--model", model, "--fasta", text(&fasta), "--out", &out]);
    assert!(message.contains("record 1: \"a\": '\\0' at base 1048676"), "{message}");
}

#[test]
fn full_streams_are_no_panic() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let run = |line: &str, to_stderr: bool| {
        let mut command = command(&options(line, &[]));
        let command = if to_stderr { command.stderr(full()) } else { command.stdout(full()) };
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run("genome info /nowhere", true).0, Some(2));
    assert_eq!(run("genome extract", true).0, Some(2));
    // Warnings are for nobody, and the work goes on.
    let folder = tempfile::tempdir().unwrap();
    let model = splice_model(folder.path());
    let fasta = folder.path().join("w.fa");
    fs::write(&fasta, format!(">a\n{}\n", "ACGT".repeat(WIDTH))).unwrap();
    assert_eq!(run(&format!("predict --model {} --fasta {}", text(&model), text(&fasta)), true).0, Some(0));
    for line in ["--help", "--version", "scan --help", "doctor"] {
        let (code, message) = run(line, false);
        assert_eq!(code, Some(2), "{line}");
        assert!(message.contains("cannot write stdout: No space left on device"), "{line}: {message}");
    }
}

/// A genome that is cut short or written to under a command ends it with an error: no signal, and no results of two files.
#[test]
fn a_genome_that_changes_meanwhile_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = slow_splice_model(folder.path());
    for what in ["cut", "written to"] {
        let (genome, out) = (folder.path().join("g.2bit"), folder.path().join(what));
        fs::copy(SAMPLE, &genome).unwrap();
        let arguments = ["scan", "--model", text(&model), "--genome", text(&genome), "--out", text(&out), "--quiet"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_helixgrad"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for("no scan begins", || out.join(".partial").exists() || child.try_wait().unwrap().is_some());
        let mut file = File::options().write(true).open(&genome).unwrap();
        if what == "cut" {
            file.set_len(5000).unwrap()
        } else {
            file.write_all(b"\x43\x27\x41\x1a").unwrap()
        }
        wait_for("it does not end", || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{what}: {message}");
        assert!(message.contains("was changed while it was read"), "{message}");
        assert!(!out.join("sites.bed").exists());
    }
}

/// Runs a command in so many MiB of data, for everything that the process needs.
fn within(mebibytes: usize, arguments: &[&str]) -> std::process::Output {
    let limited = format!("ulimit -d {}; exec \"$@\"", mebibytes << 10);
    let program = ["-c", &limited, "bash", env!("CARGO_BIN_EXE_helixgrad"), "--threads", "1", "--quiet"];
    Command::new("bash").args(program).args(arguments).stdout(Stdio::null()).output().unwrap()
}

/// A genome in very many pieces takes at most ten times its file, and a record of very many alleles what its line takes.
#[test]
fn memory_is_bounded_by_the_file() {
    const OURS: usize = 64;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (fasta, packed) = (path("g.fa"), path("g.2bit"));
    let records: String = (0..400_000).map(|number| format!(">contig{number}\nACGTACGT\n")).collect();
    fs::write(&fasta, &records).unwrap();
    let run = |limit: usize, arguments: &[&str]| {
        let output = within(limit, arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} in {limit} MiB: {message}");
    };
    run(OURS + 10 * (records.len() >> 20), &["genome", "pack", &fasta, &packed]);
    let size = fs::metadata(&packed).unwrap().len() as usize >> 20;
    run(OURS + 10 * size, &["genome", "info", &packed]);
    run(OURS + 10 * size, &["genome", "info", "--json", &packed]);

    let model = splice_model(folder.path());
    let sequence = bases(51, 400);
    let genome = genome(folder.path(), &[("x", &sequence)]);
    let (vcf, out) = (path("v.vcf"), path("o.vcf"));
    let record = |alleles: usize| {
        let alternates = vec!["A,C,G,T"; alleles / 4].join(",");
        let reference = String::from_utf8_lossy(&sequence[199..201]);
        format!("x\t200\t.\t{reference}\t{alternates}\t.\t.\t.\n")
    };
    let header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n";
    let text_of = format!("{header}{}{}", record(4000), record(1_000_000));
    fs::write(&vcf, text_of).unwrap();
    let arguments = ["variants", "--model", text(&model), "--genome", text(&genome), "--vcf", &vcf, "--out", &out];
    run(OURS + 100, &arguments);
    let written = fs::read_to_string(&out).unwrap();
    assert!(written.lines().last().unwrap().ends_with("HELIXGRAD_SKIPPED=.|too_many_alleles"));
}

/// A name that stands once in an annotation is in memory once, of however many transcripts it is.
#[test]
fn long_names_are_not_copied_for_each_transcript() {
    const COUNT: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let genome = genome(folder.path(), &[("x", &bases(2, 400))]);
    let (long, line) = ("N".repeat(200_000), |text: String| text + "\n");
    let transcripts = (0..COUNT).map(|number| line(format!("x\th\tmRNA\t1\t300\t.\t+\t.\tID=t{number};Parent=g")));
    let parents = |letter: char| (0..COUNT).map(|number| format!("{letter}{number}")).collect::<Vec<_>>().join(",");
    let text = line(format!("x\th\tgene\t1\t300\t.\t+\t.\tID=g;Name={long};biotype={long}"))
        + &transcripts.collect::<String>()
        + &line(format!("x\th\texon\t1\t300\t.\t+\t.\tParent={}", parents('t')))
        + &line(format!("{long}\th\texon\t1\t300\t.\t+\t.\tParent={}", parents('u')));
    let (annotation, bed) = (folder.path().join("a.gff3"), folder.path().join("s.bed"));
    fs::write(&annotation, &text).unwrap();
    let arguments = [
        "splice",
        "sites",
        "--genome",
        super::support::text(&genome),
        "--annotation",
        super::support::text(&annotation),
        "--out",
    ];
    let output = within(64 + 20 * (text.len() >> 20), &[&arguments[..], &[super::support::text(&bed)]].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}", &message[..message.len().min(2000)]);
}
