//! Hazards: each kernel is right with its fence or barrier, and found without it.

use ptx_on_cpu::{Asynchronous, Settings};

use crate::{Small, bytes, words};

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

/// Right as it is; without `needed`, every schedule finds one of these.
fn needs(module: &str, body: &str, threads: u32, needed: &str, expected: &[&str]) {
    let input = bytes(&(0..64).collect::<Vec<u32>>());
    let right = Small::new(module, body).threads(threads);
    assert_eq!(findings(&right, &input, 1024), Vec::<String>::new());
    assert!(body.contains(needed));
    let wrong = Small::new(module, &body.replacen(needed, "", 1)).threads(threads);
    let found = findings(&wrong, &input, 1024);
    let told = |text: &String| expected.iter().any(|finding| text.contains(finding));
    assert!(found.len() == 12 && found.iter().all(told), "{needed}: {found:#?}");
}

const TILE: &str = ".shared .align 128 .b8 tile[512]; .shared .align 8 .b8 bar[8];";

#[test]
fn writes_are_read_behind_a_barrier() {
    let body = "mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r3, r1, r2; st.shared.u32 [r3], r0; bar.sync 0;
        xor.b32 r2, r2, 128; add.u32 r3, r1, r2; ld.shared.u32 d, [r3]; mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;";
    needs(TILE, body, 64, "bar.sync 0;", &["nothing orders the two", "nobody wrote"]);
}

#[test]
fn what_is_read_is_overwritten_behind_a_barrier() {
    let body = "mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r3, r1, r2; st.shared.u32 [r3], r0; bar.sync 0;
        xor.b32 r4, r2, 128; add.u32 r5, r1, r4; ld.shared.u32 d, [r5]; barrier.sync 0; st.shared.u32 [r3], d;";
    needs(TILE, body, 64, "barrier.sync 0;", &["nothing orders the two", "nobody wrote"]);
}

#[test]
fn the_asynchronous_proxy_is_told_of_writes() {
    let body = "mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r3, r1, r2; st.shared.u32 [r3], r0; fence.proxy.async; bar.sync 0;
        setp.ne.u32 p, r0, 0; @p bra out; cp.async.bulk.global.shared::cta.bulk_group [w], [r1], 256;
        cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0; out:";
    needs(TILE, body, 64, "fence.proxy.async;", &["fence.proxy.async"]);
    needs(TILE, body, 64, "cp.async.bulk.wait_group.read 0;", &["bulk stores"]);
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
        &["nothing orders the two", "nobody wrote"],
    );
}

#[test]
fn initialised_mbarriers_are_made_known() {
    let body = "mov.u32 r1, tile; mov.u32 r2, bar; mov.u32 r4, %cluster_ctarank; setp.eq.u32 q, r0, 0; @q mbarrier.init.shared.b64 [r2], 1;
        @q fence.mbarrier_init.release.cluster; barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.acquire.aligned;
        xor.b32 r3, r4, 1; mapa.shared::cluster.u32 r5, r2, r3; @q mbarrier.arrive.release.cluster.shared::cluster.b64 _, [r5];
        again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let right = Small { grid: 2, cluster: 2, ..Small::new(TILE, body) };
    assert_eq!(findings(&right, &[0], 4), Vec::<String>::new());
    let wrong = body.replace("@q fence.mbarrier_init.release.cluster;", "");
    let found = findings(&Small { grid: 2, cluster: 2, ..Small::new(TILE, &wrong) }, &[0], 4);
    assert!(found.len() == 12 && found.iter().all(|text| text.contains("nothing orders the two")), "{found:#?}");
    // A barrier that is not relaxed does it as well.
    let plain = wrong.replace("arrive.relaxed", "arrive");
    assert_eq!(findings(&Small { grid: 2, cluster: 2, ..Small::new(TILE, &plain) }, &[0], 4), Vec::<String>::new());
}

/// Two blocks that read each other's memory.
#[test]
fn a_block_stays_while_others_read_it() {
    let body = "mov.u32 r1, tile; mov.u32 r2, %cluster_ctarank; setp.eq.u32 q, r0, 0; @q st.shared.u32 [r1], r2;
        barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
        xor.b32 r3, r2, 1; mapa.shared::cluster.u32 r4, r1, r3; ld.shared::cluster.u32 d, [r4];
        barrier.cluster.arrive.release.aligned; barrier.cluster.wait.aligned;";
    let right = Small { grid: 2, cluster: 2, ..Small::new(TILE, body) };
    assert_eq!(findings(&right, &[0], 4), Vec::<String>::new());
    let wrong = body.replace("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.aligned;", "");
    let found = findings(&Small { grid: 2, cluster: 2, ..Small::new(TILE, &wrong) }, &[0], 4);
    let told = |text: &String| text.contains("may still touch") || text.contains("has ended");
    assert!(found.len() == 12 && found.iter().all(told), "{found:#?}");
}

/// A copy into another block is over when that block's mbarrier says so, whatever the warp does that began it.
#[test]
fn a_multicast_is_no_visit_of_its_warp() {
    let body = "mov.u32 r1, tile; mov.u32 r2, bar; mov.u32 r3, %cluster_ctarank; setp.eq.u32 q, r0, 0; @q mbarrier.init.shared.b64 [r2], 1;
        @q mbarrier.arrive.expect_tx.shared.b64 x, [r2], 256; barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
        setp.eq.and.u32 p, r3, 0, q; mov.u16 h0, 3;
        @p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [r1], [v], 256, [r2], h0;
        again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
        mad.lo.u32 r4, r3, 32, r0; mad.wide.u32 s0, r4, 4, w; shl.b32 r5, r0, 2; add.u32 r5, r1, r5; ld.shared.u32 d, [r5]; st.global.u32 [s0], d;";
    let input: Vec<u32> = (0..64).collect();
    let right = Small { grid: 2, cluster: 2, ..Small::new(TILE, body) };
    assert_eq!(words(&right.run_all(&bytes(&input), 256)), (0..32).chain(0..32).collect::<Vec<u32>>());
    // Who does not wait for it ends too early.
    let start = body.find("again:").unwrap();
    let found = findings(&Small { grid: 2, cluster: 2, ..Small::new(TILE, &body[..start]) }, &bytes(&input), 256);
    let told = |text: &String| text.contains("the block ends with copies") || text.contains("has ended");
    assert!(found.len() == 12 && found.iter().all(told), "{found:#?}");
}

/// A copy to another block reads what this one must not change, and must keep, until the other one says that it came.
#[test]
fn what_is_sent_to_another_block_stays() {
    let body = "mov.u32 r1, tile; mov.u32 r2, bar; mov.u32 r3, %cluster_ctarank; setp.eq.u32 p, r0, 0; @p mbarrier.init.shared.b64 [r2], 1;
        @p mbarrier.arrive.expect_tx.shared.b64 x, [r2], 64; shl.b32 r5, r0, 2; add.u32 r5, r5, r1; setp.lt.u32 q, r0, 16;
        @q st.shared.u32 [r5], r0; fence.proxy.async; barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
        xor.b32 r6, r3, 1; mapa.shared::cluster.u32 r7, r1, r6; mapa.shared::cluster.u32 r8, r2, r6;
        @p cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [r7+64], [r1], 64, [r8];
        again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; @q st.shared.u32 [r5], r3;";
    let small = |body: &str| Small { grid: 2, cluster: 2, ..Small::new(TILE, body) };
    assert_eq!(findings(&small(body), &[0], 4), Vec::<String>::new());
    let end = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    for (from, to, expected) in [
        ("fence.proxy.async;", "", &["with no fence.proxy.async between"][..]),
        (end, "", &["still reads in a copy to another block"]),
        (&body[body.find(end).unwrap()..], "", &["may still touch its shared memory", "has ended"]),
    ] {
        let found = findings(&small(&body.replacen(from, to, 1)), &[0], 4);
        let told = |text: &String| expected.iter().any(|finding| text.contains(finding));
        assert!(found.len() == 12 && found.iter().all(told), "{from}: {found:#?}");
    }
}

#[test]
fn atomics_disturb_no_atomics() {
    let body = "mov.u32 r1, tile; setp.eq.u32 p, r0, 0; mov.u32 r2, 0; @p st.shared.u32 [r1], r2; barrier.sync 0;
        red.shared.add.u32 [r1], 1; bar.sync 0; ld.shared.u32 d, [r1]; mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;";
    needs(TILE, body, 64, "barrier.sync 0;", &["nothing orders the two", "nobody wrote"]);
    needs(TILE, body, 64, "bar.sync 0;", &["nothing orders the two"]);
    needs(TILE, body, 64, "@p st.shared.u32 [r1], r2;", &["updates shared memory"]);
    // Who exchanges asks for nothing.
    let exchange = body.replace("@p st.shared.u32 [r1], r2;", "@p atom.shared.exch.b32 r3, [r1], r2;");
    assert_eq!(findings(&Small::new(TILE, &exchange).threads(64), &[0], 256), Vec::<String>::new());
}

/// Two lanes that store different values in one place, with one instruction, are told of, and no fault.
#[test]
fn lanes_that_store_in_one_place_agree() {
    let warnings = |store: &str| {
        let body = format!(
            "mov.u32 r1, tile; shr.u32 r2, r0, 1; shl.b32 r3, r2, 2; add.u32 r3, r1, r3; mul.wide.u32 s0, r2, 4; add.u64 s0, s0, w; {store}"
        );
        let small = Small { settings: Settings::strict(1), ..Small::new(TILE, &body) };
        let (_, counters) = small.counted(&[0], 128).unwrap();
        counters.warnings.iter().map(|warning| warning.to_string()).collect::<Vec<_>>()
    };
    for store in ["st.shared.u32 [r3], r0;", "st.global.u32 [s0], r0;", "st.global.v2.u16 [s0], {r2, r0};"] {
        let told = warnings(&format!("{store} {store}"));
        assert_eq!(told.len(), 2, "{store}: {told:#?}");
        assert!(told[0].contains("lane 0, ") && told[0].contains("than lane 1: which one stays"), "{told:#?}");
    }
    for store in ["st.shared.u32 [r3], r2;", "and.b32 r4, r0, 1; setp.eq.u32 p, r4, 0; @p st.global.u32 [s0], r0;"] {
        assert_eq!(warnings(store), Vec::<String>::new(), "{store}");
    }
}

/// What one lane stores another one of its warp loads behind a barrier of both, or is warned.
#[test]
fn lanes_that_read_each_other_meet() {
    let warnings = |body: &str, threads: u32| {
        let settings = Settings::strict(1);
        let small = Small { settings, ..Small::new(TILE, body).threads(threads) };
        let (_, counters) = small.counted(&[0; 4], 4).unwrap();
        counters.warnings.iter().map(|warning| warning.to_string()).collect::<Vec<_>>()
    };
    let body = "mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r3, r1, r2; xor.b32 r2, r2, 4; add.u32 r4, r1, r2;
        st.shared.u32 [r3], r0; bar.warp.sync -1; ld.shared.u32 d, [r4];";
    assert_eq!(warnings(body, 32), Vec::<String>::new());
    assert_eq!(warnings(&body.replace("bar.warp.sync -1", "bar.sync 0"), 32), Vec::<String>::new());
    for wrong in ["", "shfl.sync.idx.b32 d, r0, 3, 31, -1;"] {
        let told = warnings(&body.replace("bar.warp.sync -1;", wrong), 32);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(
            told[0].contains("lane 0, ") && told[0].contains("which lane 1 of the warp stored at PTX line"),
            "{told:#?}"
        );
    }
    // Its own it may load at once, and what an mbarrier says is known.
    assert_eq!(
        warnings(&body.replace("bar.warp.sync -1; ld.shared.u32 d, [r4]", "ld.shared.u32 d, [r3]"), 32),
        Vec::<String>::new()
    );
    let told = "mov.u32 r5, bar; setp.eq.u32 p, r0, 0; @p mbarrier.init.shared.b64 [r5], 32; bar.warp.sync -1;";
    let known =
        "mbarrier.arrive.shared.b64 x, [r5]; again: mbarrier.try_wait.parity.shared.b64 p, [r5], 0; @!p bra again;";
    assert_eq!(warnings(&format!("{told} {}", body.replace("bar.warp.sync -1;", known)), 32), Vec::<String>::new());
    // A matrix is of all lanes that gave a row.
    let matrix = "mov.u32 r1, tile; shl.b32 r2, r0, 4; add.u32 r3, r1, r2; st.shared.v4.u32 [r3], {r0, r0, r0, r0}; bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {d}, [r3];";
    assert_eq!(warnings(matrix, 32), Vec::<String>::new());
    assert_eq!(warnings(&matrix.replace("bar.warp.sync -1;", ""), 32).len(), 1);
}

#[test]
fn a_warp_ends_when_its_work_is_done() {
    let copy = "mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r1, r1, r2; cvt.u64.u32 s1, r2; add.u64 s1, v, s1;
        cp.async.ca.shared.global [r1], [s1], 4; cp.async.commit_group; cp.async.wait_group 0;";
    needs(TILE, copy, 32, "cp.async.wait_group 0;", &["ends with cp.async copies"]);
    needs(TILE, copy, 32, "cp.async.commit_group; cp.async.wait_group 0;", &["ends with cp.async copies"]);
}

#[test]
fn registers_of_wgmma_are_fenced() {
    let body = "mov.u32 r1, tile; shl.b32 r2, r0, 4; mov.u32 r3, 0; mov.u32 r4, 0; add.u32 r3, r1, r2; st.shared.v4.u32 [r3], {r4, r4, r4, r4};
        setp.lt.u32 p, r0, 16; @p st.shared.v4.u32 [r3+2048], {r4, r4, r4, r4}; fence.proxy.async; bar.sync 0;
        shr.u32 r5, r1, 4; cvt.u64.u32 x, r5; or.b64 x, x, 0x1000080000; add.u64 y, x, 128; setp.ne.u32 p, r1, 0;
        mov.u32 r6, 0; mov.u32 r7, 0; mov.u32 r8, 0; add.u32 r9, r0, 1; wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {r6, r7, r8, r9}, x, y, p, 1, 1, 0, 0;
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
        mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], r9;";
    let module = ".shared .align 128 .b8 tile[2304];";
    needs(module, body, 128, "wgmma.fence.sync.aligned;", &["wgmma.fence"]);
    needs(module, body, 128, "wgmma.wait_group.sync.aligned 0;", &["accumulator of wgmma group 1"]);
    // Nobody looks at the sums, and nobody waits for a group that was never committed.
    let unread = &body[..body.find("mad.wide.u32 s0").unwrap()];
    let rest = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;";
    needs(module, unread, 128, rest, &["ends with wgmma operations"]);
    needs(module, body, 128, "fence.proxy.async;", &["fence.proxy.async"]);
    // Written behind the fence: a value, a constant, and one that the product does not keep.
    let value = "add.u32 r9, r0, 1; wgmma.fence.sync.aligned;";
    let anew = body.replace("setp.ne.u32 p, r1, 0;", "setp.ne.u32 p, 0, 0;");
    for (body, late) in [
        (body, "wgmma.fence.sync.aligned; add.u32 r9, r0, 1;"),
        (body, "wgmma.fence.sync.aligned; mov.u32 r9, 0;"),
        (&anew, "wgmma.fence.sync.aligned; add.u32 r9, r0, 1;"),
    ] {
        let found = findings(&Small::new(module, &body.replace(value, late)).threads(128), &bytes(&[0; 64]), 1024);
        assert!(
            found.len() == 12 && found.iter().all(|text| text.contains("since the last wgmma.fence")),
            "{found:#?}"
        );
    }
    assert_eq!(findings(&Small::new(module, &anew).threads(128), &bytes(&[0; 64]), 1024), Vec::<String>::new());
}

#[test]
fn blocks_share_global_memory_behind_a_release_and_an_acquire() {
    // The last block to come adds up what all have written.
    let body = "mov.u32 r1, %ctaid.x; mad.wide.u32 s0, r1, 4, w; setp.ne.u32 p, r0, 0; @p bra out; add.u32 r2, r1, 10; st.global.u32 [s0+64], r2;
        fence.acq_rel.gpu; atom.global.add.u32 r3, [v], 1; setp.ne.u32 p, r3, 3; @p bra out; membar.gl;
        ld.global.v4.u32 {r4, r5, r6, r7}, [w+64]; add.u32 d, r4, r5; add.u32 d, d, r6; add.u32 d, d, r7; st.global.u32 [w], d; out:";
    let right = Small { grid: 4, ..Small::new("", body) };
    assert_eq!(findings(&right, &[0; 4], 128), Vec::<String>::new());
    assert_eq!(words(&right.run(&[0; 4], 128).unwrap())[0], 46);
    for (from, to) in [("fence.acq_rel.gpu;", ""), ("fence.acq_rel.gpu;", "fence.acq_rel.cta;")] {
        let found = findings(&Small { grid: 4, ..Small::new("", &body.replace(from, to)) }, &[0; 4], 128);
        assert!(found.len() == 12 && found.iter().all(|text| text.contains("which cluster 0 wrote")), "{found:#?}");
    }
    // Two blocks write one word; the same value does no harm.
    let writes = "mov.u32 r1, %ctaid.x; st.global.u32 [w], r1;";
    let found = findings(&Small { grid: 2, ..Small::new("", writes) }, &[0], 4);
    assert!(found.len() == 12 && found.iter().all(|text| text.contains("writes global memory")), "{found:#?}");
    let same = writes.replace("r1, %ctaid.x", "r1, 7");
    assert_eq!(findings(&Small { grid: 2, ..Small::new("", &same) }, &[0], 4), Vec::<String>::new());
    // Neighbours in one word do not meet.
    let halves = "mov.u32 r1, %ctaid.x; mad.wide.u32 s0, r1, 2, w; st.global.u16 [s0], r1;";
    assert_eq!(findings(&Small { grid: 2, ..Small::new("", halves) }, &[0], 4), Vec::<String>::new());
    // What one reads another one must not write.
    let read = "mov.u32 r1, %ctaid.x; setp.eq.u32 p, r1, 0; @p ld.global.u32 d, [v]; @!p st.global.u32 [v], r1;";
    let found = findings(&Small { grid: 2, ..Small::new("", read) }, &[0; 4], 4);
    assert!(found.len() == 12 && found.iter().all(|text| text.contains("which cluster 0 read")), "{found:#?}");
}
