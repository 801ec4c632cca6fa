//! That Hopper's files use what Hopper alone has.

use helixgrad::device::kernels::embedded;

use crate::listing::{Code, Instruction, kernels};

/// What is missing in a kernel, or too much: wgmma's instruction (HGMMA), but in kernels that add up the parts of a product (`*_finish_*`); local
/// memory; in clusters copies for the block alone, and a stage held up by a fence of the whole GPU.
fn complaints(name: &str, code: Code) -> Vec<String> {
    let multicast =
        || code.0.iter().any(|instruction| instruction.is("UTMALDG") && instruction.text.contains("MULTICAST"));
    let cluster = name.contains("_cluster_");
    let found = [
        (code.count("HGMMA") == 0 && !name.contains("_finish_"), "no HGMMA"),
        (code.count("LDL") + code.count("STL") > 0, "local memory"),
        (cluster && !multicast(), "no multicast"),
        (cluster && code.count("MEMBAR.ALL.GPU") > 0, "MEMBAR.ALL.GPU"),
    ];
    found.into_iter().filter(|(wrong, _)| *wrong).map(|(_, what)| format!("{name}: {what}")).collect()
}

#[test]
fn hopper_kernels_are_made_of_hopper_instructions() {
    for file in embedded().iter().filter(|file| file.name.ends_with("_sm90")) {
        let Some(kernels) = kernels(file.name, "sm_90a") else { return };
        let found: Vec<String> = kernels.iter().flat_map(|(name, code)| complaints(name, Code(code))).collect();
        assert_eq!(found, Vec::<String>::new(), "{}", file.name);
        println!("{}: {} kernels", file.name, kernels.len());
    }
}

/// Whether an instruction touches memory that another kernel can touch.
fn is_global(instruction: &Instruction) -> bool {
    let names = [
        "LDG", "STG", "LD", "ST", "RED", "REDG", "ATOM", "ATOMG", "LDGSTS", "UTMALDG", "UTMASTG", "UTMAREDG", "UBLKCP",
        "UBLKRED",
    ];
    names.into_iter().any(|name| instruction.is(name))
}

/// What is wrong with how a kernel follows the one before it: it waits (ACQBULK) ahead of all that touches global memory, and then lets the next
/// one start (PREEXIT).
fn follows(name: &str, code: Code) -> Vec<String> {
    let first = |found: &dyn Fn(&Instruction) -> bool| code.0.iter().position(found).unwrap_or(usize::MAX);
    let wait = first(&|instruction| instruction.opcode() == "ACQBULK" && instruction.text == "ACQBULK");
    let found = [
        (wait == usize::MAX, "does not wait"),
        (first(&is_global) < wait, "touches memory before it waits"),
        (first(&|instruction| instruction.is("PREEXIT")) < wait, "lets others start before it waits"),
        (code.count("PREEXIT") == 0, "lets nobody start early"),
    ];
    found.into_iter().filter(|(wrong, _)| *wrong).map(|(_, what)| format!("{name} {what}")).collect()
}

/// `--dependent-launch` starts a kernel before the one in front of it has ended, and leaves it to the kernel to wait.
#[test]
fn every_kernel_waits_for_the_one_before() {
    let mut number = 0;
    for file in embedded() {
        let Some(kernels) = kernels(file.name, "sm_90a") else { return };
        let found: Vec<String> = kernels.iter().flat_map(|(name, code)| follows(name, Code(code))).collect();
        assert_eq!(found, Vec::<String>::new(), "{}", file.name);
        number += kernels.len();
    }
    println!("{number} kernels");
    assert!(number == 0 || number > 100, "{number}");
}

#[test]
fn a_kernel_that_does_not_wait_is_named() {
    let follows = |texts: &[&str]| {
        let code: Vec<_> = texts.iter().map(|text| Instruction { address: 0, text: (*text).to_owned() }).collect();
        follows("kernel", Code(&code))
    };
    assert!(follows(&["S2R R0", "ACQBULK", "PREEXIT", "@P0 LDG.E R2", "STG.E [R2]"]).is_empty());
    assert_eq!(
        follows(&["LDG.E R2", "PREEXIT"])[..2],
        ["kernel does not wait", "kernel touches memory before it waits"]
    );
    assert_eq!(follows(&["@!P0 UTMALDG.2D [UR8]", "ACQBULK", "PREEXIT"]), ["kernel touches memory before it waits"]);
    assert_eq!(follows(&["PREEXIT", "ACQBULK", "LDG R1"]), ["kernel lets others start before it waits"]);
    assert_eq!(follows(&["@P0 ACQBULK", "PREEXIT"])[0], "kernel does not wait", "nor if only some of it does");
    assert_eq!(follows(&["ACQBULK", "EXIT"]), ["kernel lets nobody start early"]);
}

#[test]
fn a_kernel_without_hopper_code_is_named() {
    let complaints = |name: &str, texts: &[&str]| {
        let code: Vec<_> = texts.iter().map(|text| Instruction { address: 0, text: (*text).to_owned() }).collect();
        complaints(name, Code(&code))
    };
    assert!(complaints("good", &["HGMMA.64x64x16 R24"]).is_empty());
    assert_eq!(complaints("slow", &["HMMA R1", "@P0 LDL R2"]), ["slow: no HGMMA", "slow: local memory"]);
    assert_eq!(complaints("x_finish_f32", &["FADD R1", "STL R2"]), ["x_finish_f32: local memory"]);
    assert!(complaints("a_cluster_b", &["HGMMA R1", "UTMALDG.2D.MULTICAST [UR8]"]).is_empty());
    assert_eq!(
        complaints("c_cluster_d", &["HGMMA R1", "UTMALDG.2D [UR8]", "MEMBAR.ALL.GPU"]),
        ["c_cluster_d: no multicast", "c_cluster_d: MEMBAR.ALL.GPU"]
    );
}
