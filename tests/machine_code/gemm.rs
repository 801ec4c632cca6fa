//! What `kernels/notes/gemm.md` says of Hopper's products, "Turns" above all.

use crate::listing::{Code, Instruction, kernels};

/// Those that multiply, by name.
fn products() -> Option<Vec<(String, Vec<Instruction>)>> {
    Some(kernels("gemm_sm90", "sm_90a")?.into_iter().filter(|(name, _)| !name.contains("_finish_")).collect())
}

/// The loop over a consumer's pieces: the first to end of those that hold both waits for products, in a step and behind the last. (Waits that go
/// on turning stand behind all loops and jump back into them.)
fn pieces(code: Code<'_>) -> Code<'_> {
    code.loops().into_iter().find(|code| code.count("WARPGROUP.DEPBAR") == 2).unwrap()
}

/// A step of 64 of k is four products of a warpgroup's 64 rows, with GELU and its gradient of twice 64, and nothing but what feeds them: no spills,
/// no fence of a scope, no wait but for the step before.
#[test]
fn a_step_is_its_products() {
    for (name, code) in products().into_iter().flatten() {
        let step = Code(&code).loop_around("HGMMA").unwrap();
        let products = if name.contains("gelu") { 8 } else { 4 };
        assert_eq!((step.count("HGMMA"), step.count("WARPGROUP.DEPBAR")), (products, 1), "{name}");
        assert_eq!((step.count("LDL") + step.count("STL"), step.count("MEMBAR")), (0, 0), "{name}");
    }
}

/// Pieces are counted on. Only a part's share of k takes a division, of gemm_tn.
#[test]
fn no_division_stands_before_a_tile() {
    for (name, code) in products().into_iter().flatten().filter(|(name, _)| !name.contains("gemm_tn")) {
        let pieces = pieces(Code(&code));
        assert_eq!(pieces.count("I2F") + pieces.count("F2I"), 0, "{name}");
    }
}

/// Biases are read before the products of a tile, one or two of its columns a thread.
#[test]
fn a_tile_reads_two_biases_a_thread() {
    for (name, code) in
        products().into_iter().flatten().filter(|(name, _)| name.contains("gemm_nt") || name.contains("gelu"))
    {
        let pieces = pieces(Code(&code));
        assert_eq!(pieces.count("LDG"), 2, "{name}");
        let first = pieces.places("HGMMA")[0];
        assert_eq!(pieces.part(0..first).count("LDG"), 2, "{name}");
    }
}

/// Two of four bands of what C was are in registers, and the copies of the others under way, before the last product has begun.
#[test]
fn what_c_was_is_read_while_products_go_on() {
    for (name, code) in products().into_iter().flatten().filter(|(name, _)| name.contains("_add_")) {
        let step = Code(&code).loop_around("HGMMA").unwrap();
        assert_eq!((step.count("LDSM"), step.count("UTMALDG")), (8, 2), "{name}");
        let pieces = pieces(Code(&code));
        let end = *pieces.places("WARPGROUP.DEPBAR").last().unwrap();
        assert_eq!(pieces.part(end..pieces.0.len()).count("UTMALDG"), 0, "{name}");
    }
}
