//! Every command of every page in `docs/` runs as it stands there, in a folder that holds the sample.
//!
//! A block of commands has lines that begin with `helixgrad`; a backslash at the end continues a line, `> FILE` takes what
//! is printed, and names with a `*` are those of files. A block whose opening line has a second word, as in "```text regions.bed", is the file of that name. Pages
//! are independent of one another; the commands of a page run one after the other. Lines that begin with `sbatch`, `snakemake` or
//! `nextflow` are run as Slurm would, and by these programs where they are installed. A server, `helixgrad serve ... &`, runs beside them on a
//! free port, and is told to stop at the end of its page; `curl` lines, which a shell runs where curl is, find it there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// One step of a page, and the line where it begins.
#[derive(Debug, PartialEq)]
enum Step {
    File { name: String, contents: String },
    Run { line: usize, arguments: Vec<String>, to: Option<String> },
    Engine { line: usize, words: Vec<String> },
    Serve { line: usize, arguments: Vec<String> },
    Curl { line: usize, command: String },
}

/// Programs that start ours.
const ENGINES: [&str; 3] = ["sbatch", "snakemake", "nextflow"];
/// Where a page's server listens, as the page has it.
const ADDRESS: &str = "127.0.0.1:8000";

fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((_, line)) = lines.next() {
        let Some(opening) = line.strip_prefix("```") else { continue };
        let block: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| !line.starts_with("```")).collect();
        if let Some(name) = opening.split_whitespace().nth(1) {
            let contents = block.iter().map(|(_, line)| format!("{line}\n")).collect();
            steps.push(Step::File { name: name.into(), contents });
            continue;
        }
        let mut command = String::new();
        let mut start = 0;
        for (number, line) in block {
            if command.is_empty() {
                start = number + 1;
            }
            let (text, goes_on) = line.strip_suffix('\\').map_or((line, false), |text| (text, true));
            command += text;
            if goes_on {
                continue;
            }
            if command.starts_with("curl ") {
                steps.push(Step::Curl { line: start, command: std::mem::take(&mut command) });
                continue;
            }
            let words = command.split(" #").next().unwrap_or_default().split_whitespace();
            let mut words: Vec<String> = words.map(str::to_owned).collect();
            command.clear();
            if words.first().is_some_and(|word| ENGINES.contains(&word.as_str())) {
                steps.push(Step::Engine { line: start, words });
                continue;
            }
            if words.first().is_none_or(|word| word != "helixgrad") {
                continue;
            }
            if words.pop_if(|word| word == "&").is_some() {
                steps.push(Step::Serve { line: start, arguments: words.split_off(1) });
                continue;
            }
            let redirected = words.iter().position(|word| word == ">").map(|at| words.split_off(at));
            let to = redirected.map(|words| words[1].clone());
            steps.push(Step::Run { line: start, arguments: words.split_off(1), to });
        }
    }
    steps
}

/// An argument, or the files that it stands for, in the order of their names.
fn expanded(folder: &Path, argument: &str) -> Vec<String> {
    let Some((before, after)) = argument.split_once('*') else { return vec![argument.to_owned()] };
    let (inside, before) = before.rsplit_once('/').unwrap_or(("", before));
    let names =
        fs::read_dir(folder.join(inside)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.starts_with(before) && name.ends_with(after));
    let mut names: Vec<String> = names.map(|name| Path::new(inside).join(name).to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A program that finds ours as `helixgrad`.
fn beside_ours(program: &str, folder: &Path) -> Command {
    let ours = Path::new(env!("CARGO_BIN_EXE_helixgrad")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([ours.to_owned()].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut command = Command::new(program);
    command.env("PATH", path).current_dir(folder);
    command
}

fn succeeds(mut command: Command, place: &str) {
    let output = command.output().unwrap();
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{place}: {command:?}\n{told}");
}

/// As sbatch would start a script: once, or for each task of its array, with the variables that say which it is.
fn submit(script: &str, folder: &Path, place: &str) {
    let text = fs::read_to_string(folder.join(script)).unwrap();
    let option = |name: &str| text.lines().find_map(|line| line.strip_prefix(&format!("#SBATCH --{name}=")));
    let tasks = option("array").map(|array| array.split_once('-').map(|(first, last)| [first, last]).unwrap());
    let [first, last] = tasks.map_or([1, 1], |tasks| tasks.map(|number| number.parse::<u32>().unwrap()));
    // Slurm begins them in any order, and the first is put back into the queue.
    let tasks_and_again = (first..=last).rev().chain(tasks.map(|_| first));
    for task in tasks_and_again {
        let mut command = beside_ours("bash", folder);
        command.arg(script).env("SLURM_CPUS_PER_TASK", option("cpus-per-task").unwrap_or("1"));
        if tasks.is_some() {
            let count = last - first + 1;
            for (name, value) in [("ID", task), ("MIN", first), ("MAX", last), ("STEP", 1), ("COUNT", count)] {
                command.env(format!("SLURM_ARRAY_TASK_{name}"), value.to_string());
            }
        }
        succeeds(command, place);
    }
}

fn run_page(path: &Path) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample");
    for (name, of) in [("sample.2bit", "grch37_X_46M-56M.2bit"), ("sample.gff3.gz", "grch37_X_46M-56M.gff3.gz")] {
        fs::copy(sample.join(of), folder.path().join(name)).unwrap();
    }
    let (mut commands, mut server): (_, Option<(Child, String)>) = (0, None);
    for step in steps(&fs::read_to_string(path).unwrap()) {
        match step {
            Step::File { name, contents } => fs::write(folder.path().join(name), contents).unwrap(),
            Step::Engine { line, words } => {
                let place = format!("{}, line {line}", path.display());
                let [engine, arguments @ ..] = words.as_slice() else { continue };
                if engine == "sbatch" {
                    submit(&arguments[0], folder.path(), &place);
                    if folder.path().join("slurm/calls").is_dir() {
                        assert_same_calls(folder.path(), "slurm");
                    }
                    continue;
                }
                let version = Command::new(engine).arg("-v").current_dir(folder.path()).output();
                if !version.is_ok_and(|output| output.status.success()) {
                    eprintln!("skipped: {place}: {engine} is not installed");
                    continue;
                }
                let mut command = beside_ours(engine, folder.path());
                command.args(arguments);
                succeeds(command, &place);
                assert_same_calls(folder.path(), engine);
            }
            Step::Run { line, arguments, to } => {
                let arguments: Vec<String> =
                    arguments.iter().flat_map(|argument| expanded(folder.path(), argument)).collect();
                let mut command = Command::new(env!("CARGO_BIN_EXE_helixgrad"));
                let output = command.args(&arguments).arg("--quiet").current_dir(folder.path()).output().unwrap();
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{}, line {line}: {arguments:?}\n{stderr}", path.display());
                if let Some(name) = to {
                    fs::write(folder.path().join(name), &output.stdout).unwrap();
                }
                commands += 1;
            }
            Step::Serve { line, mut arguments } => {
                arguments.iter_mut().filter(|word| *word == ADDRESS).for_each(|word| *word = "127.0.0.1:0".into());
                let mut command = Command::new(env!("CARGO_BIN_EXE_helixgrad"));
                let mut child =
                    command.args(&arguments).current_dir(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
                let mut told = String::new();
                BufReader::new(child.stdout.take().unwrap()).read_line(&mut told).unwrap();
                let address = told.split_whitespace().find_map(|word| word.strip_prefix("http://"));
                let address = address.unwrap_or_else(|| panic!("{}, line {line}: {told:?}", path.display()));
                server = Some((child, address.to_owned()));
                commands += 1;
            }
            Step::Curl { line, command } => {
                let Some((_, address)) = &server else { panic!("{}, line {line}: no server", path.display()) };
                if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
                    eprintln!("skipped: {}, line {line}: no curl here", path.display());
                    continue;
                }
                let command =
                    command.replacen("curl ", "curl --fail --silent --show-error ", 1).replace(ADDRESS, address);
                let output = Command::new("sh").args(["-c", &command]).current_dir(folder.path()).output().unwrap();
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{}, line {line}: {command}\n{stderr}", path.display());
                commands += 1;
            }
        }
    }
    if let Some((mut child, _)) = server {
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{}", path.display());
    }
    commands
}

/// What an engine has put together in its folder is what parts by hand make.
fn assert_same_calls(folder: &Path, engine: &str) {
    for name in ["donor_plus.bedgraph", "acceptor_minus.bedgraph", "acceptor_minus.bw"] {
        let [by_hand, by_engine] =
            ["calls", &format!("{engine}/calls")].map(|calls| fs::read(folder.join(calls).join(name)).unwrap());
        assert!(by_hand == by_engine && !by_hand.is_empty(), "{engine}: another {name}");
    }
}

#[test]
fn every_command_of_every_page_runs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages: Vec<PathBuf> = fs::read_dir(docs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    let commands: usize = std::thread::scope(|scope| {
        let running: Vec<_> = pages.iter().map(|page| scope.spawn(|| run_page(page))).collect();
        running.into_iter().map(|page| page.join().unwrap()).sum()
    });
    assert!(commands >= 10, "{commands} commands found in {} pages", pages.len());
}

/// The first two programs of `examples/`, which the page shows as they are. `cargo test` builds them; with `--test guide` alone they may be
/// missing.
#[test]
fn the_programs_of_the_library_page_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/library.md")).unwrap();
    for name in ["embed", "finetune"] {
        let program = fs::read_to_string(root.join(format!("examples/{name}.rs"))).unwrap();
        let shown = &program[program.find("\nuse ").unwrap()..];
        assert!(page.contains(shown), "docs/library.md shows another examples/{name}.rs");
    }
    let program = |name: &str| Path::new(env!("CARGO_BIN_EXE_helixgrad")).with_file_name("examples").join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let is_built = |name: &&str| modified(&program(name)) > modified(&root.join(format!("examples/{name}.rs")));
    if !["embed", "finetune"].iter().all(is_built) {
        eprintln!("skipped: the examples are not built, or before they were changed (cargo build --examples)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = |name: &str, arguments: &[PathBuf]| {
        let output = Command::new(program(name)).args(arguments).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // Is there a TATA box?
    let row = |i: usize| {
        let mut bases: Vec<u8> = (0..40).map(|j| b"ACGT"[(i * i + 7 * j + i * j / 3) % 4]).collect();
        bases[17..23].copy_from_slice(if i.is_multiple_of(2) { b"GCGCGC" } else { b"TATAAA" });
        format!("{}\t{}\n", String::from_utf8(bases).unwrap(), i % 2)
    };
    for (name, rows) in [("train.tsv", 0..200), ("dev.tsv", 200..260)] {
        fs::write(path(name), "sequence\tlabel\n".to_owned() + &rows.map(row).collect::<String>()).unwrap();
    }
    let printed = run("finetune", &["train.tsv", "dev.tsv", "model"].map(path));
    let accuracy: f64 = printed.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(accuracy > 0.9, "{printed}");
    fs::write(path("x.fa"), ">a\nACGTACGTAA\n>b\nTTTTACGTAA\n").unwrap();
    let printed = run("embed", &["model", "x.fa"].map(path));
    assert!(printed.lines().count() == 2 && printed.starts_with("a: 128 numbers, ["), "{printed}");
}

#[test]
fn steps_of_a_page() {
    let page = "# x\n\n```text a.bed\nchr1\t0\t5\n```\nnot a command:\nhelixgrad demo\n\n```sh\nhelixgrad one --a \\\n    b # why\n\
                ls\nhelixgrad two > out.txt\nsbatch a.sh\n```\n```python\nx = 1\n```\n```sh\nhelixgrad serve --x &\ncurl a/b \\\n  -d 'c # d'\n```\n";
    let run = |line, arguments: &[&str], to: Option<&str>| Step::Run {
        line,
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        to: to.map(str::to_owned),
    };
    let file = Step::File { name: "a.bed".into(), contents: "chr1\t0\t5\n".into() };
    let engine = Step::Engine { line: 14, words: vec!["sbatch".into(), "a.sh".into()] };
    let serve = Step::Serve { line: 20, arguments: vec!["serve".into(), "--x".into()] };
    let curl = Step::Curl { line: 21, command: "curl a/b   -d 'c # d'".into() };
    let [one, two] = [run(10, &["one", "--a", "b"], None), run(13, &["two"], Some("out.txt"))];
    assert_eq!(steps(page), [file, one, two, engine, serve, curl]);
}
