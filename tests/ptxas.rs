//! What every kernel takes of the chip, against the budget in `tests/ptxas_budget.toml`.
//!
//! Registers decide how many warps fit a multiprocessor, and a spill is memory traffic that nobody asked for: both change
//! silently with a harmless-looking edit or another compiler. When a change is meant, run
//!
//! ```text
//! HELIXGRAD_PRINT_BUDGET=1 cargo test --test ptxas -- --nocapture
//! ```
//!
//! and copy the lines that it prints.

use std::collections::BTreeMap;

use helixgrad::device::kernels::{KernelResources, nvcc_version, resources};
use serde::Deserialize;

#[path = "../build/ptxas.rs"]
#[allow(dead_code)]
mod report;

#[path = "../build/nvcc.rs"]
#[allow(dead_code)]
mod nvcc;

/// The most that a kernel may take on any target. Registers come in eights, so the budget is a multiple of eight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    registers: u32,
    #[serde(default)]
    shared: u32,
    #[serde(default)]
    spills: u32,
}

/// The worst of a kernel's targets.
fn worst(resources: &[KernelResources]) -> BTreeMap<String, Budget> {
    let mut worst = BTreeMap::new();
    for kernel in resources {
        let entry: &mut Budget = worst.entry(kernel.kernel.clone()).or_default();
        entry.registers = entry.registers.max(kernel.registers);
        entry.shared = entry.shared.max(kernel.shared);
        entry.spills = entry.spills.max(kernel.spill_stores + kernel.spill_loads);
    }
    worst
}

fn complaints(taken: &BTreeMap<String, Budget>, budget: &BTreeMap<String, Budget>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (kernel, taken) in taken {
        match budget.get(kernel) {
            None => complaints.push(format!("{kernel}: not in the budget")),
            Some(limit) => {
                for (what, taken, limit) in [
                    ("registers", taken.registers, limit.registers),
                    ("bytes of shared memory", taken.shared, limit.shared),
                    ("bytes spilled", taken.spills, limit.spills),
                ] {
                    if taken > limit {
                        complaints.push(format!("{kernel}: {taken} {what}, the budget is {limit}"));
                    }
                }
            }
        }
    }
    let gone = budget.keys().filter(|kernel| !taken.contains_key(*kernel));
    complaints.extend(gone.map(|kernel| format!("{kernel}: in the budget, but no such kernel")));
    complaints
}

#[test]
fn kernels_stay_within_their_budget() {
    let taken = worst(&resources());
    if std::env::var_os("HELIXGRAD_PRINT_BUDGET").is_some() {
        for (kernel, Budget { registers, shared, spills }) in &taken {
            let spills = if *spills > 0 { format!(", spills = {spills}") } else { String::new() };
            let registers = registers.next_multiple_of(8);
            println!("{kernel} = {{ registers = {registers}, shared = {shared}{spills} }}");
        }
    }
    let Some(version) = nvcc_version() else {
        println!("skipped: this build has no nvcc, so there are no kernels to compare with their budget");
        return;
    };
    let budget: BTreeMap<String, Budget> = toml::from_str(include_str!("ptxas_budget.toml")).unwrap();
    let complaints = complaints(&taken, &budget);
    assert!(complaints.is_empty(), "nvcc {version}:\n{}\n(meant so? see the top of this test)", complaints.join("\n"));
}

#[test]
fn a_kernel_over_its_budget_is_named() {
    let budget = |registers, shared, spills| Budget { registers, shared, spills };
    let one = |budget| BTreeMap::from([("norm_finish".to_owned(), budget)]);
    let limit = one(budget(32, 64, 0));
    assert!(complaints(&one(budget(32, 64, 0)), &limit).is_empty());
    assert_eq!(
        complaints(&one(budget(33, 65, 4)), &limit),
        [
            "norm_finish: 33 registers, the budget is 32",
            "norm_finish: 65 bytes of shared memory, the budget is 64",
            "norm_finish: 4 bytes spilled, the budget is 0",
        ]
    );
    assert_eq!(complaints(&BTreeMap::new(), &limit), ["norm_finish: in the budget, but no such kernel"]);
    assert_eq!(complaints(&limit, &BTreeMap::new()), ["norm_finish: not in the budget"]);
}

#[test]
fn the_report_of_ptxas_is_read() {
    let log = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 132 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 7.369 ms
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
    32 bytes stack frame, 20 bytes spill stores, 80 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 32 bytes cumulative stack size
";
    let resources = report::parse("file", log).unwrap();
    let [first, second] = &resources[..] else { panic!("{resources:?}") };
    assert_eq!((first.kernel.as_str(), first.target.as_str()), ("first", "sm_90a"));
    assert_eq!((first.registers, first.shared, first.stack), (128, 0, 32));
    assert_eq!((first.spill_stores, first.spill_loads), (20, 80));
    assert_eq!((second.registers, second.shared, second.spill_loads), (10, 132, 0));

    let read_back: Vec<KernelResources> = serde_json::from_str(&report::to_json(&resources)).unwrap();
    assert_eq!(read_back.len(), 2);
    assert_eq!((read_back[0].registers, read_back[1].shared), (128, 132));
    assert!(report::parse("file", "ptxas info : Compiling entry function").is_err());
}

#[test]
fn targets_are_parsed_and_hopper_files_get_their_own() {
    let targets = |text| nvcc::Targets::parse(text);
    let of = |text, file: &str| targets(text).unwrap().unwrap().of(file.as_ref());
    assert_eq!(of(None, "kernels/tanh.cu"), ["sm_80", "sm_90a", "compute_90"]);
    assert_eq!(of(None, "kernels/gemm_sm90.cu"), ["sm_90a"]);
    assert_eq!(of(Some("80, sm_86,compute_80"), "kernels/tanh.cu"), ["sm_80", "sm_86", "compute_80"]);
    assert!(of(Some("sm_80"), "kernels/gemm_sm90.cu").is_empty());
    assert_eq!(targets(Some("none")), Ok(None));
    for wrong in ["sm_", "hopper", "sm_80,,", "sm_9x"] {
        assert!(targets(Some(wrong)).unwrap_err().contains("HELIXGRAD_CUDA_ARCHS"), "{wrong}");
    }
    assert!(nvcc::flags(&["sm_90a".to_owned()]).contains(&"-gencode=arch=compute_90a,code=sm_90a".to_owned()));
    let text = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\nBuild x";
    assert_eq!(nvcc::version(text).as_deref(), Some("13.0.88"));
    assert_eq!(nvcc::version("clang version 19"), None);
}
