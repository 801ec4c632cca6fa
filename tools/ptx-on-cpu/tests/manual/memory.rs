//! Loads, stores and atomics in all state spaces.

use crate::{Small, bytes, narrow, wide, words};

#[test]
fn vectors_and_narrow_elements() {
    let body = "mad.wide.u32 s0, r0, 16, v; mad.wide.u32 s1, r0, 16, w;
                ld.global.v4.u32 {a, b, c, d}, [s0]; st.global.v2.u32 [s1], {d, c}; st.global.u16 [s1+8], b;
                ld.global.s8 r1, [s0]; st.global.u32 [s1+12], r1; st.global.u8 [s1+10], r1; st.global.u8 [s1+11], r1;";
    let input: Vec<u32> = (0..8).map(|word| 0x1111_1180 + word).collect();
    let output = words(&Small::new("", body).threads(2).run(&bytes(&input), 32).unwrap());
    assert_eq!(output[..4], [input[3], input[2], 0x8080_1181, 0xffff_ff80]);
    assert_eq!(output[4..], [input[7], input[6], 0x8484_1185, 0xffff_ff84]);
}

#[test]
fn a_wider_register_holds_what_was_loaded() {
    let body = "mad.wide.u32 s0, r0, 16, v; ld.global.s32 z, [s0];";
    assert_eq!(wide(body, &[[0x1_ffff_fffe, 0]]), [-2i64 as u64]);
    assert_eq!(wide(&body.replace(".s32", ".u32"), &[[0x1_ffff_fffe, 0]]), [0xffff_fffe]);
}

#[test]
fn shared_local_and_constant_memory() {
    let module = ".shared .align 16 .b8 tile[128];\n.const .align 4 .u32 table[4] = {5, 6, 7, 8};\n.global .u32 zero;";
    let body = ".local .align 4 .b8 own[16];
        mov.u32 r1, tile; shl.b32 r2, r0, 2; add.u32 r1, r1, r2; st.shared.u32 [r1], r0; bar.sync 0;
        xor.b32 r2, r2, 4; mov.u32 r3, tile; add.u32 r3, r3, r2; ld.shared.u32 d, [r3];
        mov.u64 s1, own; st.local.u32 [s1+4], d; cvta.local.u64 s2, s1; ld.u32 e, [s2+4];
        and.b32 r4, r0, 3; mov.u64 s3, table; mad.wide.u32 s3, r4, 4, s3; ld.const.u32 r5, [s3];
        ld.global.u32 r6, [zero]; mad.lo.u32 e, r5, 1000, e; add.u32 e, e, r6;
        cvt.u64.u32 s4, r3; cvta.shared.u64 s4, s4; ld.u32 r7, [s4]; mad.lo.u32 e, r7, 100000, e;
        mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], e;";
    let expected: Vec<u32> = (0..32).map(|lane| (lane ^ 1) * 100_001 + 1000 * (5 + lane % 4)).collect();
    assert_eq!(words(&Small::new(module, body).run_all(&[0], 128)), expected);
}

#[test]
fn atomics() {
    // All lanes on one word of global memory; the results are a permutation.
    let body = "atom.global.add.u32 d, [v], 1; mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;";
    let mut order = words(&Small::new("", body).run(&bytes(&[40]), 128).unwrap());
    order.sort_unstable();
    assert_eq!(order, (40..72).collect::<Vec<u32>>());
    let module = ".shared .align 8 .b8 cell[16];";
    let start = "mov.u32 r1, cell; setp.eq.u32 p, r0, 0; @p st.shared.u32 [r1], 7; bar.sync 0;";
    let end = "bar.sync 0; ld.shared.u32 d, [r1]; mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;";
    let sum: u32 = (0..32).sum();
    for (operation, expected) in [
        ("atom.shared.add.u32 e, [r1], r0;", 7 + sum),
        ("sub.s32 r2, 3, r0; atom.shared.max.s32 e, [r1], r2;", 7),
        ("sub.s32 r2, 3, r0; red.shared.min.s32 [r1], r2;", -28i32 as u32),
        ("red.shared.max.u32 [r1], r0;", 31),
        ("shl.b32 r2, 1, r0; red.shared.or.b32 [r1], r2;", u32::MAX),
        ("shl.b32 r2, 1, r0; red.shared.xor.b32 [r1], r2;", !7),
        ("red.shared.inc.u32 [r1], 9;", 9),
        ("setp.eq.u32 p, r0, 9; @p atom.shared.exch.b32 e, [r1], 55;", 55),
        ("atom.shared.cas.b32 e, [r1], 7, 1000;", 1000),
        (
            "mov.b32 r2, 0f3F800000; setp.eq.u32 p, r0, 9; @p st.shared.u32 [r1], 0; bar.sync 0; red.shared.add.f32 [r1], r2;",
            32f32.to_bits(),
        ),
    ] {
        let small = Small::new(module, &format!("{start}{operation}{end}"));
        assert_eq!(words(&small.run_all(&[0], 128)), [expected; 32], "{operation}");
    }
}

#[test]
fn wide_atomics() {
    let body = "cvt.u64.u32 x, r0; atom.global.add.u64 z, [v], x; atom.global.min.s64 z, [v+8], x; atom.global.max.u64 z, [v+16], x;
        atom.global.cas.b64 z, [v+24], 1, x; bar.sync 0;
        setp.ne.u32 p, r0, 0; @p bra done; ld.global.u64 z, [v]; st.global.u64 [w], z; ld.global.u64 z, [v+8]; st.global.u64 [w+8], z;
        ld.global.u64 z, [v+16]; st.global.u64 [w+16], z; done:";
    let input: Vec<u8> = [1u64 << 40, 5, 9, 3].iter().flat_map(|x| x.to_le_bytes()).collect();
    let output = Small::new("", body).run(&input, 24).unwrap();
    let expected: Vec<u8> = [(1u64 << 40) + 496, 0, 31].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(output, expected);
}

#[test]
fn float_atomics() {
    let body = "mov.b32 r1, 0f3F000000; red.global.add.f32 [v], r1; ld.global.u32 d, [v];";
    assert_eq!(narrow(body, &[[0; 3]; 1]), [0.5f32.to_bits()]);
    let pair = half::f16::from_f32(1.0).to_bits();
    let body = format!(
        "mov.b32 r1, {:#x}; atom.global.add.noftz.f16x2 b, [v], r1; ld.global.u32 d, [v];",
        u32::from(pair) * 0x1_0001
    );
    let start = u32::from(half::f16::from_f32(2.0).to_bits());
    assert_eq!(
        narrow(&body, &[[start, 0, 0]]),
        [u32::from(half::f16::from_f32(3.0).to_bits()) | u32::from(pair) << 16]
    );
}
