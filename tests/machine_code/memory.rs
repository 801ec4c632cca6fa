//! What the notes say of kernels that memory limits: what is on its way before something is waited for, and how wide an access is.

use crate::listing::{Code, kernels};

/// A row's x and residual, four groups of each, are asked for before the first of them is written over.
#[test]
fn layernorm_has_a_row_in_flight() {
    let Some(kernels) = kernels("layernorm", "sm_90a") else { return };
    let rows = Code(&kernels["layernorm_forward_bf16"]).loops().into_iter();
    // Of the loop over rows for warps, which meets no other warp.
    let rows: Vec<Code> =
        rows.filter(|code| code.count("SHFL") > 0 && code.count("BAR") == 0 && code.count("STG.E.128") > 0).collect();
    let first = rows.iter().map(|code| code.part(0..code.places("STG")[0]).count("LDG.E.128")).max();
    println!("{first:?} loads before the first store");
    assert!(first >= Some(8), "{first:?}");
}

/// Two rows' z and gradients likewise, before the sums of columns are touched: once for both rows, 16 bytes a lane.
#[test]
fn layernorm_sums_two_rows_at_a_time() {
    let Some(kernels) = kernels("layernorm", "sm_90a") else { return };
    let rows = Code(&kernels["layernorm_backward_bf16"]).loops().into_iter();
    let rows: Vec<Code> = rows.filter(|code| code.count("LDS.128") > 0 && code.count("STS.128") > 0).collect();
    let rows = rows.iter().filter(|code| code.count("BAR") == 0).max_by_key(|code| code.count("LDG.E.128"));
    let rows = rows.expect("the loop over rows for warps");
    let touches = rows.places("LDS")[0];
    assert!(rows.part(0..touches).count("LDG.E.128") >= 16, "two rows of four groups, z and gradients");
    // Three sums of four groups of eight floats a lane.
    assert_eq!((rows.count("LDS"), rows.count("STS")), (3 * 4 * 2, 3 * 4 * 2));
    assert_eq!((rows.count("LDS.128"), rows.count("STS.128")), (24, 24));
}

/// A lane has 16 bytes of each buffer of floats, and no second access beside them: a warp's are whole sectors. All loads come first.
#[test]
fn adamw_moves_whole_sectors() {
    let Some(kernels) = kernels("adamw", "sm_90a") else { return };
    for (name, floats) in
        [("adamw_update_f32", 4), ("adamw_update_bf16_f32", 4), ("adamw_update_stochastic_bf16_f32", 3)]
    {
        let code = Code(&kernels[name]);
        let (loads, stores) = (code.places("LDG.E.128"), code.places("STG.E.128"));
        assert_eq!((loads.len(), stores.len()), (floats, floats), "{name}");
        assert!(loads.last() < stores.first(), "{name}");
        assert_eq!(code.part(loads[0]..*loads.last().unwrap()).count("STG"), 0, "{name}");
    }
}
