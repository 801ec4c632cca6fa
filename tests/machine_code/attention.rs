//! What `kernels/notes/attention.md` says of the order in Hopper's attention kernels: the loops over tiles, whose products run while the same
//! warps compute something else.

use crate::listing::{Code, kernels};

/// The waits for products in a loop: where, and how many groups of them may be unfinished behind each.
fn waits(code: &Code) -> Vec<(usize, u32)> {
    let pending = |place: usize| code.0[place].text.rsplit_once("0x").and_then(|(_, number)| number.parse().ok());
    let waits = code.places("WARPGROUP.DEPBAR.LE");
    waits.into_iter().map(|place| (place, pending(place).expect("WARPGROUP.DEPBAR.LE gsb0, 0x1"))).collect()
}

/// `claim(name, loop over tiles, head size)` for each kernel of the file whose name begins so. Heads of 32, 64 and 128 have one each, or one has all.
fn each_loop(file: &str, prefix: &str, count: usize, claim: impl Fn(&str, Code, usize)) {
    let Some(kernels) = kernels(file, "sm_90a") else { return };
    let mut found = 0;
    for (name, code) in kernels.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let head_dim = name.rsplit_once("_d").unwrap().1.parse().unwrap();
        let code = Code(code).loop_around("HGMMA").expect("a loop over tiles");
        claim(name, code, head_dim);
        found += 1;
    }
    assert_eq!(found, count, "{prefix}");
}

/// Scores of 64 x 128 are 64 exponentials a thread, and 2 more for the factors of its rows. All but a few that ptxas moves down stand
/// between the wait for them and that for the last tile's output.
#[test]
fn the_softmax_runs_beside_the_last_tiles_output() {
    each_loop("attention_forward_sm90", "attention_forward_sm90", 3, |name, code, head_dim| {
        let [(scores, 1), (output, 0)] = waits(&code)[..] else { panic!("{name}: {:?}", waits(&code)) };
        let (all, beside) = (code.count("MUFU.EX2"), code.part(scores..output).count("MUFU.EX2"));
        println!("{name}: {beside} of {all} exponentials before the second wait");
        assert!(all == 66 && beside >= 48, "{name}: {beside} of {all} exponentials before the second wait");
        // Both products are on their way by then, and dropout's draws (four exchanges) stand between them and the first wait.
        let issued = *code.places("HGMMA").last().unwrap();
        assert_eq!(code.count("HGMMA"), head_dim / 16 + 128 / 16, "{name}");
        assert!(issued < scores, "{name}");
        assert_eq!(code.part(issued..scores).count("SHFL"), 4, "{name}: exchanges of draws");
    });
}

/// A warpgroup takes its turn, issues its products and nothing else that takes long, and passes the turn on.
#[test]
fn products_of_the_forward_pass_stand_between_the_turns() {
    each_loop("attention_forward_sm90", "attention_forward_sm90", 3, |name, code, _| {
        let (taken, passed) = (code.places("BAR.SYNC"), code.places("BAR.ARV"));
        let ([taken], [passed]) = (&taken[..], &passed[..]) else { panic!("{name}: {taken:?}, {passed:?}") };
        let turn = code.part(*taken..*passed);
        assert_eq!(turn.count("HGMMA"), code.count("HGMMA"), "{name}");
        assert_eq!(turn.count("MUFU.EX2") + turn.count("SHFL"), 0, "{name}");
    });
}

/// Exponentials beside dP; dQ beside the next tile's scores, so nobody waits for it in its own tile.
#[test]
fn gradients_of_queries_overlap() {
    each_loop("attention_backward_sm90", "attention_backward_queries", 3, |name, code, head_dim| {
        let columns = if head_dim == 128 { 64 } else { 128 };
        let [(scores, 1), (gradients, 0)] = waits(&code)[..] else { panic!("{name}: {:?}", waits(&code)) };
        let beside = code.part(scores..gradients).count("MUFU.EX2");
        println!("{name}: {beside} of {} exponentials beside dP", code.count("MUFU.EX2"));
        assert_eq!((code.count("MUFU.EX2"), beside), (columns / 2, columns / 2), "{name}");
        assert_eq!(code.part(0..scores).count("HGMMA"), 2 * head_dim / 16, "{name}: scores and dP");
        assert_eq!(code.part(scores..gradients).count("HGMMA"), 0, "{name}");
        assert_eq!(code.part(gradients..code.0.len()).count("HGMMA"), columns / 16, "{name}: dQ, behind the last wait");
    });
}

/// Exponentials beside dP^T, dS beside dV, dK beside the next tile's scores.
#[test]
fn gradients_of_keys_overlap() {
    each_loop("attention_backward_sm90", "attention_backward_keys", 3, |name, code, head_dim| {
        let columns = if head_dim == 128 { 32 } else { 64 };
        let [(scores, 1), (gradients, 1)] = waits(&code)[..] else { panic!("{name}: {:?}", waits(&code)) };
        let products = code.places("HGMMA");
        assert_eq!(products.len(), 2 * head_dim / 16 + 2 * columns / 16, "{name}");
        let values = products[2 * head_dim / 16];
        assert!(products[2 * head_dim / 16 - 1] < scores && scores < values, "{name}");
        let beside = code.part(scores..values).count("MUFU.EX2");
        println!("{name}: {beside} of {} exponentials beside dP^T", code.count("MUFU.EX2"));
        assert_eq!((code.count("MUFU.EX2"), beside), (columns / 2, columns / 2), "{name}");
        // dV is issued before the wait that lets it run on, and dS, one factor for each of the thread's probabilities, comes behind.
        let keys = products[2 * head_dim / 16 + columns / 16];
        assert!(keys > gradients && products[2 * head_dim / 16 + columns / 16 - 1] < gradients, "{name}");
        assert!(code.part(gradients..keys).count("FMUL") >= columns / 2, "{name}: dS beside dV");
    });
}

/// As for keys; a warpgroup that has its turn has its exponentials beside dQ of the tile before.
#[test]
fn gradients_of_whole_sequences_overlap() {
    each_loop("attention_backward_whole_sm90", "attention_backward_whole", 1, |name, code, _| {
        let [(scores, 1), (queries, 0), (gradients, 1)] = waits(&code)[..] else {
            panic!("{name}: {:?}", waits(&code))
        };
        let beside = code.part(scores..queries).count("MUFU.EX2");
        println!("{name}: {beside} of {} exponentials beside dQ or dP^T", code.count("MUFU.EX2"));
        assert_eq!((code.count("MUFU.EX2"), beside), (32, 32), "{name}");
        assert!(code.part(gradients..code.0.len()).count("FMUL") >= 32, "{name}: dS beside dV");
        assert_eq!(code.part(gradients..code.0.len()).count("HGMMA"), 4, "{name}: dK, behind the last wait");
    });
}
