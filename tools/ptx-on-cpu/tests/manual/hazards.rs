//! Hazards: each kernel is right with its fence or barrier, and found without it.

use ptx_on_cpu::{Asynchronous, Settings};

use crate::{Small, bytes};

/// Findings of a kernel with all checks, under several schedules.
fn findings(small: &Small, input: &[u8], output: usize) -> Vec<String> {
    let mut findings = Vec::new();
    for seed in 0..6 {
        for asynchronous in [Asynchronous::BySeed, Asynchronous::Late] {
            let settings = Settings { asynchronous, ..Settings::strict(seed) };
            let small = Small { settings, text: small.text.clone(), ..*small };
            findings.extend(small.run(input, output).err().map(|fault| fault.finding));
        }
    }
    findings
}

/// Right as it is; without `needed`, every schedule finds this.
fn needs(module: &str, body: &str, threads: u32, needed: &str, finding: &str) {
    let input = bytes(&(0..64).collect::<Vec<u32>>());
    let right = Small::new(module, body).threads(threads);
    assert_eq!(findings(&right, &input, 1024), Vec::<String>::new());
    assert!(body.contains(needed));
    let wrong = Small::new(module, &body.replacen(needed, "", 1)).threads(threads);
    let found = findings(&wrong, &input, 1024);
    assert!(found.len() == 12 && found.iter().all(|text| text.contains(finding)), "{needed}: {found:#?}");
}

const TILE: &str = ".shared .align 128 .b8 tile[512]; .shared .align 8 .b8 bar[8];";

#[test]
fn writes_are_read_behind_a_barrier() {
    let body = "mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r3, r1, r2; st.shared.u32 [r3], r0; bar.sync 0;
        xor.b32 r2, r2, 128; add.u32 r3, r1, r2; ld.shared.u32 d, [r3]; mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;";
    needs(TILE, body, 64, "bar.sync 0;", "nothing orders the two");
}

#[test]
fn what_is_read_is_overwritten_behind_a_barrier() {
    let body = "mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r3, r1, r2; st.shared.u32 [r3], r0; bar.sync 0;
        xor.b32 r4, r2, 128; add.u32 r5, r1, r4; ld.shared.u32 d, [r5]; barrier.sync 0; st.shared.u32 [r3], d;";
    needs(TILE, body, 64, "barrier.sync 0;", "nothing orders the two");
}

#[test]
fn the_asynchronous_proxy_is_told_of_writes() {
    let body = "mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r3, r1, r2; st.shared.u32 [r3], r0; fence.proxy.async; bar.sync 0;
        setp.ne.u32 p, r0, 0; @p bra out; cp.async.bulk.global.shared::cta.bulk_group [w], [r1], 256;
        cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0; out:";
    needs(TILE, body, 64, "fence.proxy.async;", "fence.proxy.async");
    needs(TILE, body, 64, "cp.async.bulk.wait_group.read 0;", "bulk stores");
    // The readers may tell it as well.
    let other = body.replacen("fence.proxy.async; bar.sync 0;", "bar.sync 0; fence.proxy.async;", 1);
    assert_eq!(findings(&Small::new(TILE, &other).threads(64), &[0], 1024), Vec::<String>::new());
}

#[test]
fn copies_are_waited_for() {
    let body = "mov.u32 r1, tile; mov.u32 r2, bar; setp.eq.u32 q, r0, 0; @q mbarrier.init.shared.b64 [r2], 1;
        @q fence.mbarrier_init.release.cluster; bar.sync 0;
        @q mbarrier.arrive.expect_tx.shared.b64 x, [r2], 256;
        @q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [r1], [v], 256, [r2];
        again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
        shl.b32 r3, r0, 2; add.u32 r3, r3, r1; ld.shared.u32 d, [r3]; mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;";
    needs(
        TILE,
        body,
        64,
        "again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;",
        "nothing orders the two",
    );
}
