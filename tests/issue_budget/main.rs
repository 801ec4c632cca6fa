//! What every kernel's machine code asks of the schedulers, against `tests/issue_budget.toml`; `helixgrad plan` reckons with that file.
//!
//! Counts change with any edit of a kernel. When a change is meant, write the file anew with
//!
//! ```text
//! HELIXGRAD_WRITE_ISSUE_BUDGET=1 cargo test --test issue_budget
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use helixgrad::bench::issue::{Counts as Budgeted, KernelIssue, Kernels, budget};
use helixgrad::device::kernels::{embedded, nvcc_version};

#[path = "../machine_code/listing.rs"]
#[allow(dead_code)]
mod listing;
mod paths;
mod pipes;

use listing::{Instruction, kernels};
use paths::loops;
use pipes::Counts;

/// The compiler that the file was written with: another one's counts are other counts.
const COMPILER: &str = "13.0.88";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/issue_budget.toml");
const HEAD: &str = "\
# What a warp issues in one round of each kernel's hot loop, and on the way out of it (`out`), by unit: src/bench/issue.rs says what the words
# mean, kernels/notes/issue.md how they are counted and what follows. tests/issue_budget/main.rs compares, and says at its top how to write
# this file anew. nvcc 13.0.88.
";

/// A kernel's hot loop, and the way out of it. Of the loops that do what the kernel is for (products; else what it stores; else what it reads;
/// and random numbers, if it draws any) and hold no other such loop, it is the one that does most in a round, in the fewest instructions.
fn hot(code: &[Instruction]) -> Option<(Counts, Option<Counts>)> {
    let loops = loops(code);
    let drawing = loops.iter().any(|found| found.way.draws > 0);
    let kinds: [fn(&Counts) -> u64; 3] = [|counts| counts.flops, |counts| counts.stored, |counts| counts.bytes];
    let kind = kinds.into_iter().find(|kind| loops.iter().any(|found| kind(&found.way) > 0))?;
    let at_work = || loops.iter().filter(|found| kind(&found.way) > 0 && (found.way.draws > 0 || !drawing));
    let inner = at_work().filter(|outer| !at_work().any(|found| found.inside(outer)));
    let hot = inner.max_by_key(|found| (kind(&found.way), std::cmp::Reverse(found.way.issue)))?;
    // Around it the sums of its products leave, if nothing else is multiplied there.
    let around = loops.iter().filter(|outer| hot.inside(outer) && outer.way.flops == hot.way.flops);
    let out = around.filter(|_| hot.way.sums() > 0).map(|outer| outer.way - hot.way).max_by_key(|out| out.issue);
    Some((hot.way, out))
}

/// Products of f32 have no tensor cores and no hot loop of this kind: what they need is the rate of multiply-adds, which a plan knows.
fn multiplies_f32(name: &str) -> bool {
    let products = ["gemm_nn_", "gemm_nt_", "gemm_tn_", "attention_forward_", "attention_backward_"];
    name.contains("_f32") && !name.contains("_bf16") && products.iter().any(|product| name.starts_with(product))
}

/// As the file has them: what is not zero.
fn text(counts: &Counts) -> String {
    let fields: [(&str, u64); 13] = [
        ("issue", counts.issue.into()),
        ("fma", counts.fma.into()),
        ("imad", counts.imad.into()),
        ("alu", counts.alu.into()),
        ("mufu", counts.mufu.into()),
        ("convert", counts.convert.into()),
        ("passes", counts.passes.into()),
        ("uniform", counts.uniform.into()),
        ("tensor", counts.tensor.into()),
        ("flops", counts.flops),
        ("sums", counts.sums().into()),
        ("draws", counts.draws.into()),
        ("bytes", counts.bytes),
    ];
    let fields: Vec<String> =
        fields.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} = {count}")).collect();
    format!("{{ {} }}", fields.join(", "))
}

fn line(round: &Counts, out: Option<&Counts>) -> String {
    let out = out.map_or(String::new(), |out| format!(", out = {}", text(out)));
    format!("{{ round = {}{out} }}", text(round))
}

/// Every kernel of this build by target, as lines of the file; nothing where there is no machine code, or no tool to list it.
fn counted() -> Option<BTreeMap<String, BTreeMap<String, String>>> {
    let mut counted: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for file in embedded() {
        for &target in file.targets.iter().filter(|target| target.starts_with("sm_")) {
            let of_target = counted.entry(target.to_owned()).or_default();
            for (name, code) in kernels(file.name, target)? {
                if let Some((round, out)) = hot(&code).filter(|_| !multiplies_f32(&name)) {
                    of_target.insert(name, line(&round, out.as_ref()));
                }
            }
        }
    }
    Some(counted).filter(|counted| !counted.is_empty())
}

fn file(counted: &BTreeMap<String, BTreeMap<String, String>>) -> String {
    let mut file = HEAD.to_owned();
    for (target, kernels) in counted {
        let _ = write!(file, "\n[{target}]\n");
        kernels.iter().for_each(|(name, line)| file += &format!("{name} = {line}\n"));
    }
    file
}

fn parsed(line: &str) -> KernelIssue {
    toml::from_str::<BTreeMap<String, KernelIssue>>(&format!("kernel = {line}")).unwrap()["kernel"]
}

/// What differs, kernel by kernel; a build may lack targets of the file.
fn complaints(target: &str, counted: &BTreeMap<String, String>, budget: &Kernels) -> Vec<String> {
    let mut complaints = Vec::new();
    for (kernel, line) in counted {
        let words = |issue: &KernelIssue| {
            let slots = |counts: &Budgeted| {
                format!("{} slots, {} shared passes, {} of mufu", counts.issue, counts.passes, counts.mufu)
            };
            issue.out.map_or_else(|| slots(&issue.round), |out| format!("{}; out {}", slots(&issue.round), slots(&out)))
        };
        match (parsed(line), budget.get(kernel)) {
            (_, None) => complaints.push(format!("{target} {kernel}: not in the budget")),
            (found, Some(limit)) if found != *limit => {
                complaints.push(format!("{target} {kernel}: {}; in the budget {}", words(&found), words(limit)));
            }
            _ => {}
        }
    }
    let gone = budget.keys().filter(|kernel| !counted.contains_key(*kernel));
    complaints.extend(gone.map(|kernel| format!("{target} {kernel}: in the budget, but no such loop")));
    complaints
}

#[test]
fn issue_slots_are_those_of_the_budget() {
    let Some(counted) = counted() else { return };
    if std::env::var_os("HELIXGRAD_WRITE_ISSUE_BUDGET").is_some() {
        std::fs::write(FILE, file(&counted)).unwrap();
        println!("{FILE} is written anew");
        return;
    }
    if nvcc_version() != Some(COMPILER) {
        println!(
            "skipped: the budget is of nvcc {COMPILER}, and this build's is {nvcc_version:?}",
            nvcc_version = nvcc_version()
        );
        return;
    }
    let empty = Kernels::new();
    let complaints: Vec<String> = counted
        .iter()
        .flat_map(|(target, kernels)| complaints(target, kernels, budget().get(target).unwrap_or(&empty)))
        .collect();
    assert!(complaints.is_empty(), "{}\n(meant so? see the top of this test)", complaints.join("\n"));
    let loops: usize = counted.values().map(BTreeMap::len).sum();
    println!("{loops} loops of {} targets", counted.len());
}

/// Code of "ADDRESS TEXT" lines.
fn code(listing: &str) -> Vec<Instruction> {
    let line = |line: &str| {
        let (address, text) = line.trim().split_once(' ').unwrap();
        Instruction { address: u32::from_str_radix(address, 16).unwrap(), text: text.to_owned() }
    };
    listing.lines().filter(|line| !line.trim().is_empty()).map(line).collect()
}

/// Pieces, each with steps of products, a wait, a way out in a branch, and a path for odd addresses.
const PRODUCT: &str = "
00 S2R R0, SR_CTAID.X
10 IMAD.MOV.U32 R4, RZ, RZ, RZ
20 SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R6], R8
30 @!P1 BRA 0x20
40 HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8], R24
50 UIADD3 UR4, UR4, 0x2, URZ
60 @P2 BRA 0x20
70 @P3 BRA 0xc0
80 FFMA R1, R2, R3, R4
90 MUFU.EX2 R1, R1
a0 STSM.16.M88.4 [R9], R12
b0 UTMASTG.2D [UR4], [UR6]
c0 ISETP.GE.AND P0, PT, R0, R1, PT
d0 @!P0 BRA 0x10
e0 EXIT
";

#[test]
fn a_loop_s_products_and_the_way_out_of_it_are_told_apart() {
    let code = code(PRODUCT);
    let (round, out) = hot(&code).unwrap();
    assert_eq!(text(&round), "{ issue = 5, uniform = 1, tensor = 1, flops = 131072, sums = 16384 }");
    let expected = "{ issue = 8, fma = 1, imad = 1, alu = 1, mufu = 1, passes = 4, uniform = 1, sums = 16384 }";
    assert_eq!(text(&out.unwrap()), expected, "with what the branch leaves out, since the sums are stored there");
}

#[test]
fn of_two_ways_the_short_one_counts_unless_it_draws_no_numbers() {
    let loop_of = |slow: &str| {
        code(&format!(
            "00 LDG.E.128 R4, desc[UR4][R2.64]
             10 @P0 BRA 0x40
             20 {slow}
             30 FADD R1, R1, R2
             40 STG.E.128 desc[UR4][R2.64], R4
             50 @P1 BRA 0x0
             60 EXIT"
        ))
    };
    let line = |slow: &str| text(&hot(&loop_of(slow)).unwrap().0);
    assert_eq!(line("FMUL R1, R1, R2"), "{ issue = 4, passes = 8, bytes = 1024 }");
    let drawn = "{ issue = 6, fma = 1, imad = 1, passes = 8, draws = 1, bytes = 1024 }";
    assert_eq!(line("IMAD.WIDE.U32 R2, R2, -0x2daee0ad, RZ"), drawn);
}

#[test]
fn a_kernel_that_changed_is_named() {
    let line = "{ round = { issue = 5, passes = 4, bytes = 512 } }".to_owned();
    let budget = Kernels::from([("one".to_owned(), parsed(&line))]);
    let counted = |line: &str| BTreeMap::from([("one".to_owned(), line.to_owned())]);
    assert!(complaints("sm_80", &counted(&line), &budget).is_empty());
    let more = complaints("sm_80", &counted("{ round = { issue = 6, passes = 4, bytes = 512 } }"), &budget);
    let expected = "sm_80 one: 6 slots, 4 shared passes, 0 of mufu; in the budget 5 slots, 4 shared passes, 0 of mufu";
    assert_eq!(more, [expected]);
    assert_eq!(complaints("sm_80", &BTreeMap::new(), &budget), ["sm_80 one: in the budget, but no such loop"]);
    assert_eq!(complaints("sm_80", &counted(&line), &Kernels::new()), ["sm_80 one: not in the budget"]);
}
