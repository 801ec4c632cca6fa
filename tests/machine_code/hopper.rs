//! That Hopper's files use what Hopper alone has.

use helixgrad::device::kernels::embedded;

use crate::listing::{Code, kernels};

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

#[test]
fn a_kernel_without_hopper_code_is_named() {
    use crate::listing::Instruction;
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
