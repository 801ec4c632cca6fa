//! Integer, floating-point, conversion and bit instructions.

use crate::{floats, narrow, wide};

#[test]
fn bit_fields() {
    // bfi: `c` bits of a at position 8 of b.
    assert_eq!(narrow("bfi.b32 d, a, b, 8, 4;", &[[0xffff_ffff, 0, 0], [0x5, 0xffff_ffff, 0]]), [0xf00, 0xffff_f5ff]);
    assert_eq!(narrow("bfi.b32 d, a, b, c, 40;", &[[7, 1, 31], [7, 1, 32]]), [0x8000_0001, 1]);
    assert_eq!(wide("bfi.b64 z, x, y, 60, 8;", &[[0xff, 1]]), [0xf000_0000_0000_0001]);
    assert_eq!(narrow("bfe.u32 d, a, 4, 8;", &[[0x1234_5678, 0, 0]]), [0x67]);
    assert_eq!(narrow("bfe.s32 d, a, 4, 4;", &[[0x80, 0, 0], [0x70, 0, 0]]), [0xffff_fff8, 7]);
    assert_eq!(narrow("bfe.u32 d, a, 28, 32;", &[[0xf123_4567, 0, 0]]), [0xf]);
    assert_eq!(narrow("bfe.s32 d, a, 40, 4;", &[[0x8000_0000, 0, 0]]), [u32::MAX]);
    assert_eq!(narrow("bfe.u32 d, a, 3, 0;", &[[u32::MAX, 0, 0]]), [0]);
    assert_eq!(narrow("popc.b32 d, a;", &[[0xf0f0_0001, 0, 0]]), [9]);
    assert_eq!(narrow("clz.b32 d, a;", &[[1, 0, 0], [0, 0, 0]]), [31, 32]);
    assert_eq!(narrow("brev.b32 d, a;", &[[1, 0, 0]]), [0x8000_0000]);
    assert_eq!(narrow("bfind.u32 d, a;", &[[0x10, 0, 0], [0, 0, 0]]), [4, u32::MAX]);
    assert_eq!(narrow("bfind.s32 d, a;", &[[-17i32 as u32, 0, 0]]), [4]);
    assert_eq!(narrow("lop3.b32 d, a, b, c, 0xe8;", &[[0b1100, 0b1010, 0b0110]]), [0b1110]);
    assert_eq!(narrow("lop3.b32 d, a, b, c, 0x96;", &[[0b1100, 0b1010, 0b0110]]), [0]);
}

#[test]
fn permutations_of_bytes() {
    let ab = [0x3322_1100, 0x7766_5584, 0];
    assert_eq!(narrow("prmt.b32 d, a, b, 0x7531;", &[ab]), [0x7755_3311]);
    assert_eq!(narrow("prmt.b32 d, a, b, 0x4444;", &[ab]), [0x8484_8484]);
    // Bit 3 of a selector: the byte's sign, everywhere.
    assert_eq!(narrow("prmt.b32 d, a, b, 0x08cc;", &[ab]), [0x0000_ffff]);
    assert_eq!(narrow("prmt.b32.f4e d, a, b, 1;", &[ab]), [0x8433_2211]);
    assert_eq!(narrow("prmt.b32.b4e d, a, b, 1;", &[ab]), [0x6677_0011]);
    assert_eq!(narrow("prmt.b32.rc8 d, a, b, 2;", &[ab]), [0x2222_2222]);
    assert_eq!(narrow("prmt.b32.rc16 d, a, b, 1;", &[ab]), [0x3322_3322]);
}

#[test]
fn shifts() {
    assert_eq!(narrow("shl.b32 d, a, b;", &[[1, 31, 0], [1, 32, 0]]), [0x8000_0000, 0]);
    assert_eq!(narrow("shr.s32 d, a, b;", &[[0x8000_0000, 40, 0]]), [u32::MAX]);
    assert_eq!(narrow("shr.u32 d, a, b;", &[[0x8000_0000, 40, 0]]), [0]);
    assert_eq!(wide("shr.s64 z, x, 65;", &[[1 << 63, 0]]), [u64::MAX]);
    assert_eq!(narrow("shf.l.wrap.b32 d, a, b, c;", &[[0x8000_0001, 2, 1], [0x8000_0001, 2, 33]]), [5, 5]);
    assert_eq!(narrow("shf.r.clamp.b32 d, a, b, c;", &[[1, 2, 40]]), [2]);
    assert_eq!(narrow("shf.r.wrap.b32 d, a, b, 4;", &[[0x10, 0xf, 0]]), [0xf000_0001]);
}

#[test]
fn division_of_integers() {
    assert_eq!(narrow("div.s32 d, a, b;", &[[-7i32 as u32, 2, 0], [7, -2i32 as u32, 0]]), [-3i32 as u32; 2]);
    assert_eq!(narrow("rem.s32 d, a, b;", &[[-7i32 as u32, 2, 0], [7, -2i32 as u32, 0]]), [-1i32 as u32, 1]);
    assert_eq!(narrow("div.u32 d, a, b;", &[[-7i32 as u32, 2, 0]]), [0x7fff_fffc]);
    let minus = -1_000_000_000_001i64 as u64;
    assert_eq!(wide("div.s64 z, x, y;", &[[minus, 10]]), [-100_000_000_000i64 as u64]);
    assert_eq!(wide("rem.s64 z, x, y;", &[[minus, 10]]), [-1i64 as u64]);
    assert_eq!(wide("div.u64 z, x, y;", &[[u64::MAX, 3]]), [u64::MAX / 3]);
}

#[test]
fn products() {
    assert_eq!(narrow("mul.hi.u32 d, a, b;", &[[1 << 31, 6, 0]]), [3]);
    assert_eq!(narrow("mul.hi.s32 d, a, b;", &[[-1i32 as u32, 5, 0]]), [u32::MAX]);
    assert_eq!(wide("mul.hi.u64 z, x, y;", &[[1 << 63, 6]]), [3]);
    assert_eq!(wide("mul.hi.s64 z, x, y;", &[[u64::MAX, 5]]), [u64::MAX]);
    assert_eq!(narrow("mad.lo.s32 d, a, b, c;", &[[3, 5, 7]]), [22]);
    assert_eq!(
        narrow(
            "mul.wide.s16 d, h0, h1;".replace("mul", "cvt.u16.u32 h0, a; cvt.u16.u32 h1, b; mul").as_str(),
            &[[0xffff, 3, 0]]
        ),
        [-3i32 as u32]
    );
    assert_eq!(narrow("mul.wide.s32 z, a, b; mov.b64 {r1, d}, z;", &[[-2i32 as u32, 3, 0]]), [u32::MAX]);
    assert_eq!(narrow("mad.wide.u32 z, a, b, 5; cvt.u32.u64 d, z;", &[[2, 3, 0]]), [11]);
    assert_eq!(narrow("sad.s32 d, a, b, c;", &[[-3i32 as u32, 4, 10]]), [17]);
    assert_eq!(narrow("dp4a.s32.s32 d, a, b, c;", &[[0xff01_0203, 0x0201_0101, 10]]), [10 + 3 + 2 + 1 - 2]);
}

#[test]
fn carries_go_from_word_to_word() {
    let add = "add.cc.u32 r1, a, b; addc.u32 d, c, 0;";
    assert_eq!(narrow(add, &[[u32::MAX, 1, 5], [1, 1, 5]]), [6, 5]);
    let subtract = "sub.cc.u32 r1, a, b; subc.u32 d, c, 0;";
    assert_eq!(narrow(subtract, &[[1, 2, 5], [2, 1, 5]]), [4, 5]);
    // The result may be a source.
    assert_eq!(narrow("add.cc.u32 a, a, b; addc.u32 d, a, 0;", &[[u32::MAX, 3, 0]]), [3]);
}

#[test]
fn directions_of_rounding() {
    let tiny = f32::EPSILON / 4.0;
    let cases = [[1.0, 1.0, tiny], [-1.0, 1.0, -tiny], [1.0, 1.0, -tiny], [3.0, 5.0, 1.0]];
    let down = floats("fma.rm.f32 d, a, b, c;", &cases);
    assert_eq!(down, [1.0, (-1f32).next_down(), 1f32.next_down(), 16.0]);
    let up = floats("fma.rp.f32 d, a, b, c;", &cases);
    assert_eq!(up, [1f32.next_up(), -1.0, 1.0, 16.0]);
    let zero = floats("fma.rz.f32 d, a, b, c;", &cases);
    assert_eq!(zero, [1.0, -1.0, 1f32.next_down(), 16.0]);
    // Two ulps of 2^24 are 4: 3 rounds to 4, towards zero to 2.
    let large = (1 << 24) as f32;
    assert_eq!(floats("add.rz.f32 d, a, b;", &[[large, 3.0, 0.0], [-large, -3.0, 0.0]]), [large + 2.0, -large - 2.0]);
    assert_eq!(floats("div.rm.f32 d, a, b;", &[[1.0, 3.0, 0.0]]), [f32::from_bits(0x3eaa_aaaa)]);
    assert_eq!(floats("div.rp.f32 d, a, b;", &[[1.0, 3.0, 0.0]]), [f32::from_bits(0x3eaa_aaab)]);
    assert_eq!(floats("sqrt.rm.f32 d, a;", &[[2.0, 0.0, 0.0]]), [f32::from_bits(0x3fb5_04f3)]);
    assert_eq!(floats("mul.rp.f32 d, a, b;", &[[1f32.next_up(), 1f32.next_up(), 0.0]]), [f32::from_bits(0x3f80_0003)]);
}

#[test]
fn floats_at_their_edges() {
    let subnormal = f32::from_bits(1);
    assert_eq!(floats("add.ftz.f32 d, a, b;", &[[subnormal, 0.0, 0.0]])[0].to_bits(), 0);
    assert_eq!(floats("add.f32 d, a, b;", &[[subnormal, 0.0, 0.0]])[0].to_bits(), 1);
    assert_eq!(
        floats("min.f32 d, a, b;", &[[f32::NAN, 2.0, 0.0], [0.0, -0.0, 0.0]]).map_bits(),
        [2f32, -0.0].map(f32::to_bits)
    );
    assert_eq!(
        floats("max.f32 d, a, b;", &[[2.0, f32::NAN, 0.0], [-0.0, 0.0, 0.0]]).map_bits(),
        [2f32, 0.0].map(f32::to_bits)
    );
    assert!(floats("max.NaN.f32 d, a, b;", &[[2.0, f32::NAN, 0.0]])[0].is_nan());
    assert_eq!(
        floats("add.sat.f32 d, a, b;", &[[2.0, 1.0, 0.0], [f32::NAN, 1.0, 0.0], [-3.0, 1.0, 0.0]]),
        [1.0, 0.0, 0.0]
    );
    assert_eq!(floats("copysign.f32 d, a, b;", &[[-1.0, 3.0, 0.0]]), [-3.0]);
    assert_eq!(floats("abs.f32 d, a;", &[[-1.5, 0.0, 0.0]]), [1.5]);
    assert_eq!(floats("rcp.rn.f32 d, a;", &[[4.0, 0.0, 0.0]]), [0.25]);
    assert_eq!(floats("ex2.approx.ftz.f32 d, a;", &[[3.0, 0.0, 0.0]]), [8.0]);
    assert_eq!(floats("rsqrt.approx.f32 d, a;", &[[16.0, 0.0, 0.0]]), [0.25]);
}

trait Bits {
    fn map_bits(&self) -> Vec<u32>;
}

impl Bits for Vec<f32> {
    fn map_bits(&self) -> Vec<u32> {
        self.iter().map(|x| x.to_bits()).collect()
    }
}

#[test]
fn doubles() {
    let d = |x: f64| x.to_bits();
    assert_eq!(wide("add.f64 z, x, y;", &[[d(0.1), d(0.2)]]), [d(0.1 + 0.2)]);
    assert_eq!(wide("fma.rn.f64 z, x, y, x;", &[[d(3.0), d(5.0)]]), [d(18.0)]);
    assert_eq!(wide("div.rn.f64 z, x, y;", &[[d(1.0), d(3.0)]]), [d(1.0 / 3.0)]);
    assert_eq!(wide("sqrt.rn.f64 z, x;", &[[d(2.0), 0]]), [d(2f64.sqrt())]);
    assert_eq!(wide("min.f64 z, x, y;", &[[d(f64::NAN), d(1.0)]]), [d(1.0)]);
    assert_eq!(wide("cvt.f64.f32 z, 0f3E800000;", &[[0, 0]]), [d(0.25)]);
    assert_eq!(wide("cvt.rn.f32.f64 a, x; cvt.f64.f32 z, a;", &[[d(0.1), 0]]), [d(f64::from(0.1f32))]);
    assert_eq!(wide("cvt.rzi.s64.f64 z, x;", &[[d(-2.9), 0]]), [-2i64 as u64]);
    assert_eq!(wide("setp.gt.f64 p, x, y; selp.b64 z, x, y, p;", &[[d(1.0), d(2.0)]]), [d(2.0)]);
}

#[test]
fn halves() {
    let h = |x: f32| u32::from(half::f16::from_f32(x).to_bits());
    let b = |x: f32| u32::from(half::bf16::from_f32(x).to_bits());
    let pair = |x, y| h(x) | h(y) << 16;
    assert_eq!(narrow("add.f16x2 d, a, b;", &[[pair(1.0, 2.0), pair(0.5, -2.0), 0]]), [pair(1.5, 0.0)]);
    assert_eq!(
        narrow("fma.rn.f16x2 d, a, b, c;", &[[pair(2.0, 3.0), pair(4.0, 5.0), pair(1.0, 1.0)]]),
        [pair(9.0, 16.0)]
    );
    assert_eq!(
        narrow("mul.bf16x2 d, a, b;", &[[b(1.5) | b(2.0) << 16, b(2.0) | b(-0.5) << 16, 0]]),
        [b(3.0) | b(-1.0) << 16]
    );
    let scalar = "mov.b32 {h0, h1}, a; mov.b32 {h2, h3}, b; add.f16 h4, h0, h2; mov.b32 d, {h4, h1};";
    assert_eq!(narrow(scalar, &[[pair(1.0, 7.0), pair(0.25, 0.0), 0]]), [pair(1.25, 7.0)]);
    assert_eq!(
        narrow("cvt.rn.bf16x2.f32 d, a, b;", &[[1f32.to_bits(), (-2f32).to_bits(), 0]]),
        [b(1.0) << 16 | b(-2.0)]
    );
    assert_eq!(
        narrow("cvt.rn.f16x2.f32 d, a, b;", &[[1f32.to_bits(), 65520f32.to_bits(), 0]]),
        [h(1.0) << 16 | 0x7c00]
    );
    // To nearest even, and NaN to 0x7fff.
    let to_bf16 = "cvt.rn.bf16.f32 h0, a; cvt.u32.u16 d, h0;";
    assert_eq!(
        narrow(to_bf16, &[[0x3f80_8000, 0, 0], [0x3f81_8000, 0, 0], [0x7fc0_0000, 0, 0]]),
        [0x3f80, 0x3f82, 0x7fff]
    );
    assert_eq!(narrow("cvt.rna.tf32.f32 d, a;", &[[0x3f80_1000, 0, 0]]), [0x3f80_2000]);
}

#[test]
fn conversions() {
    let f = |x: f32| x.to_bits();
    assert_eq!(narrow("cvt.rni.s32.f32 d, a;", &[[f(2.5), 0, 0], [f(-3.5), 0, 0]]), [2, -4i32 as u32]);
    assert_eq!(
        narrow("cvt.rzi.u32.f32 d, a;", &[[f(-1.0), 0, 0], [f(5e9), 0, 0], [f(f32::NAN), 0, 0]]),
        [0, u32::MAX, 0]
    );
    assert_eq!(narrow("cvt.rmi.f32.f32 d, a;", &[[f(-1.5), 0, 0]]), [f(-2.0)]);
    assert_eq!(narrow("cvt.sat.f32.f32 d, a;", &[[f(-1.5), 0, 0], [f(f32::NAN), 0, 0]]), [0, 0]);
    assert_eq!(narrow("cvt.rn.f32.s32 d, a;", &[[-3i32 as u32, 0, 0], [16_777_217, 0, 0]]), [f(-3.0), f(16_777_216.0)]);
    assert_eq!(narrow("cvt.rp.f32.u32 d, a;", &[[16_777_217, 0, 0]]), [f(16_777_218.0)]);
    assert_eq!(wide("cvt.s64.s32 z, r0;", &[[0, 0]; 2]), [0, 1]);
    assert_eq!(wide("cvt.u32.u64 a, x; cvt.s64.s32 z, a;", &[[0x1_ffff_fffe, 0]]), [-2i64 as u64]);
    // A source in a wider register than its type: the low half is meant.
    assert_eq!(wide("cvt.s64.s32 z, x;", &[[0x1_ffff_fffe, 0]]), [-2i64 as u64]);
    assert_eq!(narrow("cvt.s16.s8 h0, a; cvt.s32.s16 d, h0;", &[[0x80, 0, 0]]), [-128i32 as u32]);
    assert_eq!(narrow("cvt.sat.u8.s32 d, a;", &[[300, 0, 0], [-5i32 as u32, 0, 0]]), [255, 0]);
}

#[test]
fn comparisons() {
    let choose = |compare: &str| format!("setp.{compare} p, a, b; selp.u32 d, 1, 0, p;");
    let nan = [f32::NAN.to_bits(), 0, 0];
    let expect =
        [("lt.f32", 0), ("ltu.f32", 1), ("ne.f32", 0), ("neu.f32", 1), ("equ.f32", 1), ("nan.f32", 1), ("num.f32", 0)];
    for (compare, answer) in expect {
        assert_eq!(narrow(&choose(compare), &[nan]), [answer], "{compare}");
    }
    assert_eq!(narrow(&choose("lt.s32"), &[[u32::MAX, 0, 0]]), [1]);
    assert_eq!(narrow(&choose("lo.u32"), &[[u32::MAX, 0, 0]]), [0]);
    assert_eq!(narrow(&choose("gt.s16"), &[[0x1_7fff, 0x8000, 0]]), [1]);
    // Two results and a third operand: p = (a < b) and t, q = (not (a < b)) and t.
    let both = "setp.ne.u32 t, c, 0; setp.lt.and.u32 p|q, a, b, t; selp.u32 d, 1, 0, p; @q add.u32 d, d, 2;";
    assert_eq!(narrow(both, &[[1, 2, 1], [2, 1, 1], [1, 2, 0]]), [1, 2, 0]);
    let negated = "setp.ne.u32 t, c, 0; setp.lt.or.u32 p, a, b, !t; selp.u32 d, 1, 0, p;";
    assert_eq!(narrow(negated, &[[2, 1, 1], [2, 1, 0]]), [0, 1]);
    assert_eq!(narrow("set.lt.u32.u32 d, a, b;", &[[1, 2, 0], [2, 1, 0]]), [u32::MAX, 0]);
    assert_eq!(narrow("slct.u32.s32 d, a, b, c;", &[[1, 2, 0], [1, 2, u32::MAX]]), [1, 2]);
}
