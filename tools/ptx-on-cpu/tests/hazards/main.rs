//! How many errors in the synchronization of a kernel are noticed: kernels that are right get one error each, in their PTX
//! (`mutate.rs`), and are run in order, with asynchronous work late under a schedule by seed, and with the hazard checks. Ours
//! need nvcc, the oracles do not.
//!
//! Slow, so that it runs only when asked for:
//!
//! ```text
//! cargo test -p ptx-on-cpu --test hazards -- --ignored --nocapture
//! ```
//!
//! It fails when an error goes unnoticed that `survivors.txt` does not name.

#[path = "../oracles/case.rs"]
mod case;
#[path = "../oracles/engine.rs"]
mod engine;
#[path = "../oracles/manifest.rs"]
mod manifest;
mod mutate;
#[path = "../oracles/reference.rs"]
mod reference;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::Case;
use manifest::Oracle;
use mutate::Mutant;
use ptx_on_cpu::{Asynchronous, Module, Settings};

/// Of every kind of error so many in a kernel.
const PLACES: usize = 3;
/// Oracles between which all kinds of errors can be made, on both targets.
const ORACLES: &[&str] = &[
    "matmul_pointer_nt_sm80",
    "matmul_pointer_nt_sm90",
    "matmul_descriptor_nn_sm90",
    "matmul_descriptor_nn_cluster_sm90",
    "matmul_made_descriptor_sm90",
    "matmul_relu_nt_sm90",
    "attention_forward_d64_sm90",
    "attention_backward_keys_sm90",
    "matmul_roles_sm90",
    "matmul_multicast_sm90",
    "cutlass_",
];

struct Subject {
    case: Case,
    text: String,
}

/// Our kernels with `only` in their name, compiled now, or as they lie in the folder `PTX_ON_CPU_OURS` (`gemm_sm90.sm_90a.ptx`);
/// none without nvcc.
fn ours(only: &str) -> Vec<Subject> {
    let folder = std::env::var_os("PTX_ON_CPU_OURS").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let nvcc = std::env::var_os("NVCC").map_or_else(|| root.join(".cuda/nvidia/cu13/bin/nvcc"), PathBuf::from);
    if folder.is_none() && !nvcc.exists() {
        println!("skipped: our kernels, since there is no nvcc at {} (tools/install-nvcc.sh)", nvcc.display());
        return vec![];
    }
    let mut texts = BTreeMap::new();
    let launches = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hazards/ours.json");
    let oracles = manifest::read_from(&launches).into_iter().filter(|oracle| oracle.name.contains(only));
    oracles
        .map(|oracle| {
            let compile = || {
                if let Some(folder) = &folder {
                    let path = folder.join(Path::new(&oracle.file).with_extension("sm_90a.ptx"));
                    return std::fs::read_to_string(&path)
                        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                }
                // Into a file: nvcc has ptxas read its output again.
                let ptx = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&oracle.file).with_extension("ptx");
                let mut nvcc = Command::new(&nvcc);
                nvcc.args(["-ptx", "-O3", "-std=c++17", "-lineinfo", "-arch=compute_90a", "-o"]).arg(&ptx);
                nvcc.arg(format!("-I{}", root.join("kernels").display()));
                nvcc.arg(format!("-I{}", root.join("tools/cuda-on-cpu/include").display()));
                let done = nvcc.arg(root.join("kernels").join(&oracle.file)).output().expect("nvcc starts");
                assert!(done.status.success(), "{}: {}", oracle.file, String::from_utf8_lossy(&done.stderr));
                std::fs::read_to_string(&ptx).unwrap_or_else(|error| panic!("{}: {error}", ptx.display()))
            };
            let text = texts.entry(oracle.file.clone()).or_insert_with(compile).clone();
            Subject { case: Case::new(oracle), text }
        })
        .collect()
}

fn oracles(only: &str) -> Vec<Subject> {
    let chosen =
        |oracle: &Oracle| oracle.name.contains(only) && ORACLES.iter().any(|name| oracle.name.starts_with(name));
    let oracles = manifest::read().into_iter().filter(chosen);
    oracles.map(|oracle| Subject { text: oracle.ptx(), case: Case::new(oracle) }).collect()
}

/// What a run leaves in the buffers, or what it says went wrong.
type Outcome = Result<BTreeMap<String, Vec<u8>>, String>;

fn outcome(subject: &Subject, text: &str, settings: &Settings) -> Outcome {
    let module = Module::parse(text).map_err(|error| error.to_string())?;
    engine::execute(&subject.case, &module, settings)
}

/// How each way to run a mutant went: whether it was noticed.
fn notices(subject: &Subject, mutant: &Mutant, ways: &[Settings; 3], right: &Outcome) -> [bool; 3] {
    std::array::from_fn(|way| outcome(subject, &mutant.text, &ways[way]) != *right)
}

#[test]
#[ignore = "hundreds of mutants, minutes: cargo test -p ptx-on-cpu --test hazards -- --ignored --nocapture"]
fn errors_in_synchronization_are_noticed() {
    let seed = 1;
    let late = Settings { seed: Some(seed), asynchronous: Asynchronous::Late, ..Settings::default() };
    let ways = [Settings::default(), late, Settings::strict(seed)];
    let only = std::env::var("PTX_ON_CPU_ORACLE").unwrap_or_default();
    let mut subjects = ours(&only);
    let ours = subjects.len();
    subjects.extend(oracles(&only));

    // Without an error nothing is noticed. Numbers do not depend on the schedule, so that bytes can be compared.
    let right: Vec<Outcome> = subjects.iter().map(|subject| outcome(subject, &subject.text, &ways[0])).collect();
    for (subject, right) in subjects.iter().zip(&right) {
        let name = &subject.case.oracle.name;
        assert!(right.is_ok(), "{name}: {right:?}");
        for way in &ways[1..] {
            let again = outcome(subject, &subject.text, way);
            assert!(again == *right, "{name} without an error, {way:?}: {:?}", again.err());
        }
    }

    let mutants: Vec<(usize, Mutant)> = subjects
        .iter()
        .enumerate()
        .flat_map(|(at, subject)| {
            mutate::mutants(&subject.text, &subject.case.oracle.kernel, PLACES).into_iter().map(move |m| (at, m))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![[false; 3]; mutants.len()]);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((at, mutant)) = mutants.get(number) else { return };
            let noticed = notices(&subjects[*at], mutant, &ways, &right[*at]);
            results.lock().unwrap()[number] = noticed;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });

    let results = results.into_inner().unwrap();
    for (title, is_ours) in [("our kernels", true), ("oracles", false)] {
        println!("{title:34} {:>5} {:>9} {:>6} {:>8} {:>5}", "made", "in order", "late", "hazards", "any");
        for kind in mutate::KINDS.iter().map(|kind| kind.name).chain(["all"]) {
            let of_kind: Vec<&[bool; 3]> = mutants
                .iter()
                .zip(&results)
                .filter(|((at, mutant), _)| (*at < ours) == is_ours && (kind == "all" || mutant.kind == kind))
                .map(|(_, noticed)| noticed)
                .collect();
            let count = |by: &dyn Fn(&[bool; 3]) -> bool| of_kind.iter().filter(|noticed| by(noticed)).count();
            let [in_order, late, hazards] = [0, 1, 2].map(|way| count(&|noticed| noticed[way]));
            let any = count(&|noticed| noticed.contains(&true));
            println!("{kind:34} {:>5} {in_order:>9} {late:>6} {hazards:>8} {any:>5}", of_kind.len());
        }
    }

    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hazards/survivors.txt");
    let known = std::fs::read_to_string(&known).unwrap_or_else(|error| panic!("{}: {error}", known.display()));
    let known: Vec<&str> = known.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let mut unknown = vec![];
    for ((at, mutant), noticed) in mutants.iter().zip(&results) {
        if noticed.contains(&true) {
            continue;
        }
        let subject = &subjects[*at];
        let survivor = format!("{}: {}, number {}", subject.case.oracle.name, mutant.kind, mutant.number);
        let line = subject.text.lines().nth(mutant.line - 1).unwrap_or_default().trim();
        println!("survivor: {survivor} (line {}: {line})", mutant.line);
        if !known.contains(&survivor.as_str()) {
            unknown.push(survivor);
        }
    }
    assert!(unknown.is_empty(), "unnoticed, and not in survivors.txt:\n{}", unknown.join("\n"));
}
