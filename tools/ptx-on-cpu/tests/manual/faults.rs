//! What must be found, and how it is told.

use ptx_on_cpu::{Module, Settings};

use crate::{Small, bytes};

/// The fault of a kernel that reads 16 bytes of input.
fn fault(module: &str, body: &str) -> ptx_on_cpu::Fault {
    Small::new(module, body).run(&[1; 16], 16).expect_err(body)
}

#[test]
fn a_fault_says_where_it_is() {
    let body = ".loc 1 30 5\nadd.u32 d, r0, 1;\n.loc 2 7 1, function_name $L__info_string0, inlined_at 1 31 9\n
        setp.eq.u32 p, r0, 3;\n@p ld.global.u32 d, [v+16];";
    let text = format!("{}\n.file 1 \"k/main.cu\"\n.file 2 \"k/load.cuh\"\n", Small::new("", body).text);
    let line = text.lines().position(|line| line.contains("[v+16]")).unwrap() as u32 + 1;
    let small = Small { text, grid: 2, threads: 64, ..Small::new("", "") };
    let fault = small.run(&[0; 16], 16).unwrap_err();
    assert_eq!((fault.block, fault.warp, fault.lane, fault.line), (Some([0, 0, 0]), Some(0), Some(3), Some(line)));
    let told = fault.to_string();
    let expected = format!(
        "kernel kernel, block (0, 0, 0), warp 0, lane 3, PTX line {line}, k/load.cuh:7 in k/main.cu:31: access of 4 bytes at "
    );
    assert!(told.starts_with(&expected), "{told}");
}

#[test]
fn memory_has_bounds_alignment_and_is_not_read_before_it_is_written() {
    for (body, finding) in [
        ("ld.global.u32 d, [v+16];", "16 bytes into the 16"),
        ("ld.global.u64 x, [v+12];", "not aligned"),
        ("st.global.u32 [v-4], d;", "nobody wrote"),
        ("mov.u32 d, 0; st.global.u32 [v-4], d;", "no memory is"),
        ("ld.global.u32 d, [w];", "nobody wrote"),
        ("mov.u64 s1, 0; ld.global.u32 d, [s1];", "no memory is"),
        ("ld.global.u32 d, [v+2];", "not aligned"),
        ("mov.u32 r1, 4096; ld.shared.u32 d, [r1];", "shared memory at 0x1000"),
        ("mov.u32 r1, 0; ld.shared.u32 d, [r1];", "shared memory at 0x0"),
        ("ld.param.u32 d, [in+8];", "of 16 bytes"),
        ("mov.u64 s1, 64; ld.local.u32 d, [s1];", "local 0x40"),
        ("cvta.param.u64 s1, in; mov.u32 d, 0; st.u32 [s1], d;", "writes a parameter"),
    ] {
        let found = fault("", body).finding;
        assert!(found.contains(finding), "{body}: {found}");
    }
}

#[test]
fn registers_are_not_read_before_they_are_written() {
    assert!(fault("", "add.u32 d, a, 1;").finding.contains("register that nobody wrote"));
    assert!(fault("", "@q add.u32 d, r0, 1;").finding.contains("register that nobody wrote"));
    // Written in some lanes only; those that were are right.
    let half = "setp.lt.u32 p, r0, 16; @p mov.u32 a, 1; add.u32 d, a, 1;";
    assert_eq!(fault("", half).lane, Some(16));
    let own = "setp.lt.u32 p, r0, 16; @p mov.u32 a, 1; @p add.u32 d, a, 1; mad.wide.u32 s0, r0, 4, w; @p st.global.u32 [s0], d;";
    Small::new("", own).run(&[0], 64).unwrap();
}

#[test]
fn what_is_not_known_is_a_fault_only_where_it_is_executed() {
    let body = "setp.eq.u32 p, r0, 99; @p tex.2d.v4.f32.f32 {a, b, c, d}, [x, {a, b}];";
    Small::new("", body).run(&[0], 4).unwrap();
    let module = Module::parse(&Small::new("", body).text).unwrap();
    let unknown = module.kernel("kernel").unwrap().unknown();
    assert_eq!(unknown.len(), 1);
    assert!(unknown[0].1.contains("tex.2d"), "{unknown:?}");
    let found = fault("", "frobnicate.u32 a, b;");
    assert!(found.finding.contains("frobnicate.u32 is not known") && found.line.is_some(), "{found}");
    // What these would add is not known here.
    for reduction in [
        "cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.tile.bulk_group [v, {a}], [r1];",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u64 [w], [r1], 64;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.min.s64 [w], [r1], 64;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f64 [w], [r1], 64;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.and.b64 [w], [r1], 64;",
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col::w.mbarrier::complete_tx::bytes [r1], [v, {a, b, c, d}], [r2], {h1, h2};",
    ] {
        let found = fault("", &format!("mov.u32 r1, 0; mov.u32 r2, 0; mov.u32 a, 0; {reduction}"));
        assert!(found.finding.contains("is not known"), "{found}");
    }
    assert!(fault("", "add.u32 d, _, 1;").finding.contains("not understood"));
    assert!(fault("", "trap;").finding.contains("trap"));
}

#[test]
fn deadlocks_name_who_waits_where() {
    let shared = ".shared .align 8 .b8 bar[8];";
    let found = fault(
        shared,
        "mov.u32 r1, bar; mbarrier.init.shared.b64 [r1], 2; again: mbarrier.try_wait.parity.shared.b64 p, [r1], 0; @!p bra again;",
    );
    assert!(found.finding.contains("deadlock") && found.finding.contains("2 of 2 arrivals"), "{found}");
    let found = fault("", "bar.sync 1, 64;");
    assert!(found.finding.contains("barrier 1, where 32 threads have arrived"), "{found}");
    let found = fault("", "setp.lt.u32 p, r0, 5; @p bra one; bar.warp.sync -1; bra out; one: bar.sync 0; out:");
    assert!(found.finding.contains("lanes wait for each other"), "{found}");
    let found = fault("", "barrier.cluster.wait.aligned;");
    assert!(found.finding.contains("no arrive"), "{found}");
}

#[test]
fn barriers_are_used_as_they_may_be() {
    let shared = ".shared .align 8 .b8 bar[16];";
    for (body, finding) in [
        ("bar.sync 16;", "there are 16"),
        ("bar.sync 1, 40;", "no whole warps"),
        ("bar.arrive 1, 32; bar.arrive 1, 32; bar.sync 1, 64;", ""),
        ("mov.u32 r1, bar; mbarrier.arrive.shared.b64 x, [r1];", "no mbarrier was initialised"),
        ("mov.u32 r1, bar; mbarrier.init.shared.b64 [r1], 1; mbarrier.arrive.shared.b64 x, [r1], 2;", "more arrivals"),
        ("mov.u32 r1, bar; mbarrier.init.shared.b64 [r1+4], 1;", "count of 1"),
        ("shfl.sync.idx.b32 d, r0, 3, 31, 0x7; ", "does not name it"),
        ("setp.ne.u32 p, r0, 3; @p shfl.sync.idx.b32 d, r0, 3, 31, -1;", "does not take part"),
        ("mapa.shared::cluster.u32 d, r0, 1;", "block 1 of a cluster of 1"),
    ] {
        let result = Small::new(shared, body).run(&[0], 4);
        let found = result.err().map_or(String::new(), |fault| fault.finding);
        assert!(found.contains(finding), "{body}: {found}");
    }
}

#[test]
fn launches_are_held_against_the_kernel() {
    let small = Small::new("", "");
    let module = Module::parse(&small.text.replace("in) {", "in)\n.reqntid 32, 1, 1\n{")).unwrap();
    let memory = ptx_on_cpu::Memory::new();
    let launch = ptx_on_cpu::Launch {
        kernel: "kernel".into(),
        grid: [1; 3],
        block: [32, 1, 1],
        cluster: [1; 3],
        dynamic_shared: 0,
        parameters: vec![0; 16],
    };
    let run = |launch: ptx_on_cpu::Launch| ptx_on_cpu::run(&module, &launch, &memory, &Settings::default());
    run(launch.clone()).unwrap();
    for wrong in [
        ptx_on_cpu::Launch { kernel: "other".into(), ..launch.clone() },
        ptx_on_cpu::Launch { block: [64, 1, 1], ..launch.clone() },
        ptx_on_cpu::Launch { block: [0, 1, 1], ..launch.clone() },
        ptx_on_cpu::Launch { grid: [0, 1, 1], ..launch.clone() },
        ptx_on_cpu::Launch { cluster: [2, 1, 1], ..launch.clone() },
        ptx_on_cpu::Launch { cluster: [0, 1, 1], ..launch.clone() },
        ptx_on_cpu::Launch { parameters: vec![], ..launch.clone() },
        ptx_on_cpu::Launch { dynamic_shared: 1 << 20, ..launch.clone() },
    ] {
        run(wrong).unwrap_err();
    }
    assert!(module.kernel("kernel").unwrap().pack(&[&bytes(&[1])]).is_err());
}

#[test]
fn maps_lie_where_copies_find_them() {
    // The last bytes of shared memory, where half a map would fit.
    let module = ".shared .align 128 .b8 tile[64];";
    let body = "mov.u32 r1, tile; cvt.u64.u32 s1, r1; cvta.shared.u64 s1, s1; mov.u32 a, 0;
        cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [s1, {a}], [r1];";
    let found = fault(module, body).finding;
    assert!(found.contains("a tensor map in shared or local memory"), "{found}");
    let local = ".local .align 64 .b8 own[128]; mov.u64 s1, own; cvta.local.u64 s1, s1; mov.u32 r1, 0;";
    let shared = "mov.u32 r1, tile; cvt.u64.u32 s1, r1; cvta.shared.u64 s1, s1;";
    let found = fault("", &body.replace("tile;", "0;").replace(&shared.replace("tile;", "0;"), local)).finding;
    assert!(found.contains("a tensor map in shared or local memory"), "{found}");
    // The parameters are two pointers.
    for (at, expected) in [(0, "of 16 bytes"), (128, "of 16 bytes")] {
        let body = body.replace(shared, &format!("mov.u32 r1, 0; mov.u64 s1, {at};"));
        let found = fault("", &body).finding;
        assert!(found.contains(expected), "{found}");
    }
    for rank in [5, 255, 256] {
        let body = format!(
            "mov.u32 r1, tile; cvt.u64.u32 s1, r1; tensormap.replace.tile.rank.shared::cta.b1024.b32 [s1], {rank};"
        );
        let found = fault(".shared .align 128 .b8 tile[128];", &body).finding;
        assert!(found.contains(&format!("Rank {rank} of a tensor map is not supported")), "{found}");
    }
}

#[test]
fn addresses_of_no_space_are_not_cut_to_shared_ones() {
    let module = ".shared .align 128 .b8 tile[128]; .shared .align 8 .b8 bar[8];";
    let start =
        "mov.u32 r1, tile; mov.u32 r2, bar; mbarrier.init.shared.b64 [r2], 1; cvt.u64.u32 s1, r1; cvt.u64.u32 s2, r2;
        mov.u64 s3, 0x500000000; or.b64 s1, s1, s3; or.b64 s2, s2, s3; setp.ne.u32 p, r0, 0; @p bra out;";
    for use_ in [
        "cp.async.ca.shared.global [s1], [v], 4; cp.async.wait_all;",
        "mbarrier.inval.shared.b64 [s2];",
        "mbarrier.arrive.shared.b64 x, [s2];",
        "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [v], [s1], 128;",
    ] {
        let found = fault(module, &format!("{start} {use_} out:")).finding;
        assert!(found.contains("of shared memory at 0x50000"), "{use_}: {found}");
    }
}

#[test]
fn reductions_are_into_memory_that_was_written() {
    let module = ".shared .align 128 .b8 tile[512];";
    let body = "mov.u32 r1, tile; cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [w], [r1], 16;
        cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
    let settings = Settings { hazards: false, ..Settings::strict(1) };
    let found = Small { settings, ..Small::new(module, body) }.run(&[0], 16).unwrap_err().finding;
    assert!(found.contains("that nobody wrote"), "{found}");
}

#[test]
fn operands_that_do_not_fit_are_faults() {
    for (body, finding) in [
        ("ld.global.v2.u32 {a, b, c, d, e, r1, r2, r3, r4}, [v];", "9 elements, where 2"),
        ("st.global.u32 [w], {a, b};", "2 elements, where 1"),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {a, b, c, d, e}, [r1];", "5 matrices"),
        ("set.x d, a, b;", "not known"),
        ("slct d, a, b, c;", ""),
        ("mov.u64 s1, -8; ld.param.u64 x, [s1];", "of 16 bytes"),
        ("cvt d, a;", "not known"),
        ("shl.b32 d, a;", "2 operands, where 3"),
    ] {
        let found = fault("", body).finding;
        assert!(found.contains(finding), "{body}: {found}");
    }
}
