//! Barriers of blocks and clusters, mbarriers.

use crate::{Small, words};

/// Each thread's `d`.
fn threads(module: &str, body: &str, threads: u32) -> Vec<u32> {
    let body = format!("{body}\nmad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;");
    words(&Small::new(module, &body).threads(threads).run_all(&[0], 4 * threads as usize))
}

#[test]
fn reductions_of_a_block() {
    assert_eq!(threads("", "setp.lt.u32 p, r0, 70; bar.red.popc.u32 d, 0, p;", 128), [70; 128]);
    assert_eq!(threads("", "setp.lt.u32 p, r0, 70; barrier.cta.red.popc.aligned.u32 d, 1, 128, !p;", 128), [58; 128]);
    let flag = |mode: &str, limit: u32| {
        format!("setp.lt.u32 p, r0, {limit}; bar.red.{mode}.pred q, 0, p; selp.u32 d, 1, 0, q;")
    };
    assert_eq!(threads("", &flag("and", 128), 128), [1; 128]);
    assert_eq!(threads("", &flag("and", 127), 128), [0; 128]);
    assert_eq!(threads("", &flag("or", 1), 128), [1; 128]);
    assert_eq!(threads("", &flag("or", 0), 128), [0; 128]);
    // One result after another, in a loop.
    let again = "mov.u32 d, 0; mov.u32 r1, 1; more: setp.lt.u32 p, r0, r1; bar.red.popc.u32 r2, 0, p; add.u32 d, d, r2;
                 add.u32 r1, r1, 1; setp.le.u32 q, r1, 4; @q bra more;";
    assert_eq!(threads("", again, 64), [10; 64]);
}

#[test]
fn producers_arrive_and_consumers_wait() {
    // Warp 0 writes and arrives at barrier 1; warp 1 waits for it, reads, and lets the other write again by barrier 2.
    let module = ".shared .align 4 .b8 cell[4];";
    let body = "mov.u32 r1, cell; mov.u32 d, 0; mov.u32 r2, 0; setp.ge.u32 p, r0, 32; and.b32 r3, r0, 31; setp.eq.u32 t, r3, 0;
        @p bra consumer;
        produce: add.u32 r2, r2, 1; @t st.shared.u32 [r1], r2; bar.arrive 1, 64; bar.sync 2, 64; setp.lt.u32 q, r2, 5; @q bra produce; bra done;
        consumer: bar.sync 1, 64; ld.shared.u32 r4, [r1]; mad.lo.u32 d, d, 10, r4; bar.arrive 2, 64; add.u32 r2, r2, 1;
        setp.lt.u32 q, r2, 5; @q bra consumer;
        done:";
    let expected: Vec<u32> = (0..64).map(|thread| if thread < 32 { 0 } else { 12345 }).collect();
    assert_eq!(threads(module, body, 64), expected);
}

#[test]
fn mbarriers_count_phases() {
    let module = ".shared .align 8 .b8 bar[8]; .shared .align 4 .b8 cell[4];";
    // Two warps; each phase wants both, and the second warp reads what the first wrote.
    let body = "mov.u32 r1, bar; mov.u32 r2, cell; mov.u32 d, 0; setp.eq.u32 p, r0, 0; @p mbarrier.init.shared.b64 [r1], 2; bar.sync 0;
        and.b32 r3, r0, 31; setp.eq.u32 t, r3, 0; setp.lt.u32 q, r0, 32; and.pred p, t, q; @p st.shared.u32 [r2], 77;
        bar.warp.sync -1; @t mbarrier.arrive.shared.b64 x, [r1];
        again: mbarrier.try_wait.parity.shared.b64 p, [r1], 0; @!p bra again;
        ld.shared.u32 d, [r2];
        bar.warp.sync -1; @t mbarrier.arrive.shared.b64 x, [r1];
        more: mbarrier.test_wait.parity.shared.b64 p, [r1], 1; @!p bra more;
        bar.sync 0; setp.eq.u32 p, r0, 0; @p mbarrier.inval.shared.b64 [r1];";
    assert_eq!(threads(module, body, 64), [77; 64]);
}

#[test]
fn mbarriers_by_state() {
    let module = ".shared .align 8 .b8 bar[8];";
    let body = "mov.u32 r1, bar; setp.eq.u32 p, r0, 0; @p mbarrier.init.shared.b64 [r1], 32; bar.sync 0;
        mbarrier.arrive.shared.b64 x, [r1]; again: mbarrier.test_wait.shared.b64 p, [r1], x; @!p bra again;
        setp.eq.u32 q, r0, 5; mov.u32 d, 3; @q mbarrier.arrive_drop.shared.b64 _, [r1]; @!q mbarrier.arrive.shared.b64 x, [r1];
        wait: mbarrier.test_wait.parity.shared.b64 p, [r1], 1; @!p bra wait;";
    assert_eq!(threads(module, body, 32), [3; 32]);
}

#[test]
fn clusters_meet_and_read_each_other() {
    let module = ".shared .align 4 .b8 cell[4];";
    let body = "mov.u32 r1, cell; mov.u32 r2, %cluster_ctarank; add.u32 r3, r2, 40; setp.eq.u32 p, r0, 0; @p st.shared.u32 [r1], r3;
        barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
        add.u32 r4, r2, 1; and.b32 r4, r4, 3; mapa.shared::cluster.u32 r5, r1, r4; ld.shared::cluster.u32 d, [r5];
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
        mad.lo.u32 r6, r2, 32, r0; mad.wide.u32 s0, r6, 4, w; st.global.u32 [s0], d;";
    let small = Small { grid: 4, cluster: 4, ..Small::new(module, body) };
    let expected: Vec<u32> = (0..128).map(|thread| 40 + (thread / 32 + 1) % 4).collect();
    assert_eq!(words(&small.run_all(&[0], 512)), expected);
    // Remote arrivals: the last block lets the others go.
    let module = ".shared .align 8 .b8 bar[8];";
    let body =
        "mov.u32 r1, bar; mov.u32 r2, %cluster_ctarank; setp.eq.u32 p, r0, 0; @p mbarrier.init.shared.b64 [r1], 1;
        fence.mbarrier_init.release.cluster; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
        setp.eq.u32 q, r2, 3; setp.lt.and.u32 p, r0, 4, q; @!p bra wait;
        mapa.shared::cluster.u32 r5, r1, r0; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [r5];
        wait: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [r1], 0; @!p bra wait;
        mad.lo.u32 r6, r2, 32, r0; mad.wide.u32 s0, r6, 4, w; st.global.u32 [s0], r2;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let small = Small { grid: 4, cluster: 4, ..Small::new(module, body) };
    assert_eq!(words(&small.run_all(&[0], 512)), (0..128).map(|thread| thread / 32).collect::<Vec<u32>>());
}

#[test]
fn warps_that_have_ended_are_not_waited_for() {
    let body = "mov.u32 d, 1; setp.ge.u32 p, r0, 32; @p bra out; bar.sync 0; mov.u32 d, 2; out:";
    let expected: Vec<u32> = (0..64).map(|thread| if thread < 32 { 2 } else { 1 }).collect();
    assert_eq!(threads("", body, 64), expected);
}
