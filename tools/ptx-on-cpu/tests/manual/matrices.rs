//! `mma.sync` and `ldmatrix` in f16, bf16 and tf32, `wgmma` in f16: against plain products of small integers, which are exact.

use half::{bf16, f16};

use crate::{Small, bytes, words};

/// Small integers of both signs.
fn number(row: usize, column: usize) -> f32 {
    ((row * 7 + column * 3) % 11) as f32 - 5.0
}

/// A(m, k) is `number(m, k)`, B(k, n) `number(n + 1, k)`, C(m, n) `number(m, n + 2)`.
fn expected(depth: usize, m: usize, n: usize) -> f32 {
    (0..depth).map(|k| number(m, k) * number(n + 1, k)).sum::<f32>() + number(m, n + 2)
}

fn pair(kind: &str, low: f32, high: f32) -> u32 {
    let bits = |x: f32| match kind {
        "f16" => u32::from(f16::from_f32(x).to_bits()),
        _ => u32::from(bf16::from_f32(x).to_bits()),
    };
    bits(low) | bits(high) << 16
}

/// Registers of each lane one behind another: A, B, C.
fn fragments(kind: &str, depth: usize, half_sums: bool) -> Vec<u32> {
    let mut input = Vec::new();
    for lane in 0..32 {
        let (group, place) = (lane / 4, lane % 4);
        if kind == "tf32" {
            for number_of in 0..depth / 2 {
                let (row, k) = (group + 8 * (number_of % 2), place + 4 * (number_of / 2));
                input.push(number(row, k).to_bits());
            }
            (0..depth / 4).for_each(|number_of| input.push(number(group + 1, place + 4 * number_of).to_bits()));
        } else {
            for number_of in 0..depth / 4 {
                let (row, k) = (group + 8 * (number_of % 2), 2 * place + 8 * (number_of / 2));
                input.push(pair(kind, number(row, k), number(row, k + 1)));
            }
            for number_of in 0..depth / 8 {
                let k = 2 * place + 8 * number_of;
                input.push(pair(kind, number(group + 1, k), number(group + 1, k + 1)));
            }
        }
        for half in 0..2 {
            let sums = [0, 1].map(|odd| number(group + 8 * half, 2 * place + odd + 2));
            if half_sums {
                input.push(pair("f16", sums[0], sums[1]));
            } else {
                input.extend(sums.map(f32::to_bits));
            }
        }
    }
    input
}

fn mma(kind: &str, depth: usize, half_sums: bool) {
    let a = if kind == "tf32" { depth / 2 } else { depth / 4 };
    let (b, sums) = (a / 2, if half_sums { 2 } else { 4 });
    let count = a + b + sums;
    let list = |first: usize, count: usize| {
        (first..first + count).map(|number| format!("r{}", number + 1)).collect::<Vec<_>>().join(", ")
    };
    let mut body = format!("mad.wide.u32 s0, r0, {}, v; mad.wide.u32 s1, r0, {}, w;\n", 4 * count, 4 * sums);
    (0..count).for_each(|number| body += &format!("ld.global.u32 r{}, [s0+{}];\n", number + 1, 4 * number));
    let of_sums = if half_sums { "f16" } else { "f32" };
    body += &format!(
        "mma.sync.aligned.m16n8k{depth}.row.col.{of_sums}.{kind}.{kind}.{of_sums} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};\n",
        d = list(20, sums),
        a = list(0, a),
        b = list(a, b),
        c = list(a + b, sums)
    );
    (0..sums).for_each(|number| body += &format!("st.global.u32 [s1+{}], r{};\n", 4 * number, 21 + number));
    let output = words(&Small::new("", &body).run_all(&bytes(&fragments(kind, depth, half_sums)), 128 * sums));
    for (lane, sums) in output.chunks(sums).enumerate() {
        for row in [0, 1] {
            let at = |odd: usize| expected(depth, lane / 4 + 8 * row, 2 * (lane % 4) + odd);
            if half_sums {
                assert_eq!(sums[row], pair("f16", at(0), at(1)), "{kind}, k {depth}, lane {lane}");
            } else {
                assert_eq!(sums[2 * row..][..2], [at(0), at(1)].map(f32::to_bits), "{kind}, k {depth}, lane {lane}");
            }
        }
    }
}

#[test]
fn products_of_warps() {
    mma("bf16", 16, false);
    mma("bf16", 8, false);
    mma("f16", 16, false);
    mma("f16", 8, false);
    mma("f16", 16, true);
    mma("tf32", 8, false);
    mma("tf32", 4, false);
}

#[test]
fn matrices_are_loaded_and_stored_in_both_orders() {
    let module = ".shared .align 16 .b8 tile[512]; .shared .align 16 .b8 other[512];";
    let run = |load: &str, store: &str| {
        let body = format!(
            "shl.b32 r1, r0, 4; mov.u32 r2, tile; add.u32 r2, r2, r1; mov.u32 r3, other; add.u32 r3, r3, r1;
             cvt.u64.u32 s1, r1; add.u64 s2, v, s1; add.u64 s3, w, s1;
             ld.global.v4.u32 {{r4, r5, r6, r7}}, [s2]; st.shared.v4.u32 [r2], {{r4, r5, r6, r7}}; bar.sync 0;
             ldmatrix.sync.aligned.m8n8.x4{load}.shared.b16 {{r8, r9, r10, r11}}, [r2];
             stmatrix.sync.aligned.m8n8.x4{store}.shared.b16 [r3], {{r8, r9, r10, r11}}; bar.sync 0;
             ld.shared.v4.u32 {{r4, r5, r6, r7}}, [r3]; st.global.v4.u32 [s3], {{r4, r5, r6, r7}};"
        );
        let input: Vec<u8> = (0..256u16).flat_map(u16::to_le_bytes).collect();
        let output = Small::new(module, &body).run_all(&input, 512);
        output.chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]])).collect::<Vec<_>>()
    };
    let same: Vec<u16> = (0..256).collect();
    assert_eq!(run("", ""), same);
    assert_eq!(run(".trans", ".trans"), same);
    let transposed: Vec<u16> = (0..256).map(|at| at / 64 * 64 + at % 8 * 8 + at / 8 % 8).collect();
    assert_eq!(run(".trans", ""), transposed);
    assert_eq!(run("", ".trans"), transposed);
}

/// `d = a b + d` of 64 x 8 x 16 without swizzle, K-major: pieces of 8 rows of 16 bytes.
fn wgmma(kind: &str, half_sums: bool, scale: i32) {
    let sums = if half_sums { 2 } else { 4 };
    let list = (0..sums).map(|number| format!("r{}", number + 10)).collect::<Vec<_>>().join(", ");
    let of_sums = if half_sums { "f16" } else { "f32" };
    // Offsets: to the next 8 of k 128 bytes ("leading"), to the next 8 rows 256 ("stride"); B lies 2048 bytes behind A.
    let mut body = format!(
        "shl.b32 r1, r0, 4; mov.u32 r2, tile; add.u32 r3, r2, r1; cvt.u64.u32 s1, r1; add.u64 s2, v, s1;
         ld.global.v4.u32 {{r4, r5, r6, r7}}, [s2]; st.shared.v4.u32 [r3], {{r4, r5, r6, r7}};
         setp.lt.u32 p, r0, 16; @p ld.global.v4.u32 {{r4, r5, r6, r7}}, [s2+2048]; @p st.shared.v4.u32 [r3+2048], {{r4, r5, r6, r7}};
         fence.proxy.async.shared::cta; bar.sync 0;
         mad.wide.u32 s3, r0, {0}, v; mad.wide.u32 s4, r0, {0}, w;
         shr.u32 r8, r2, 4; cvt.u64.u32 x, r8; or.b64 x, x, 0x1000080000; add.u64 y, x, 128;\n",
        4 * sums
    );
    (0..sums).for_each(|number| body += &format!("ld.global.u32 r{}, [s3+{}];\n", number + 10, 2304 + 4 * number));
    body += &format!(
        "wgmma.fence.sync.aligned; setp.ne.u32 p, 1, 0;
         wgmma.mma_async.sync.aligned.m64n8k16.{of_sums}.{kind}.{kind} {{{list}}}, x, y, p, {scale}, 1, 0, 0;
         wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n"
    );
    (0..sums).for_each(|number| body += &format!("st.global.u32 [s4+{}], r{};\n", 4 * number, number + 10));
    let mut input = Vec::new();
    for rows in [64, 8] {
        for group in 0..rows / 8 {
            for half in 0..2 {
                for row in 0..8 {
                    for k in (0..8).step_by(2) {
                        let at = |k: usize| number(8 * group + row + usize::from(rows == 8), 8 * half + k);
                        input.push(pair(kind, at(k), at(k + 1)));
                    }
                }
            }
        }
    }
    for thread in 0..128 {
        for half in 0..2 {
            let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * half;
            let at = [0, 1].map(|odd| number(row, 2 * (thread % 4) + odd + 2));
            if half_sums {
                input.push(pair("f16", at[0], at[1]));
            } else {
                input.extend(at.map(f32::to_bits));
            }
        }
    }
    let small = Small::new(".shared .align 128 .b8 tile[2304];", &body).threads(128);
    let output = words(&small.run_all(&bytes(&input), 512 * sums));
    for (thread, sums) in output.chunks(sums).enumerate() {
        for half in [0, 1] {
            let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * half;
            let at = [0, 1].map(|odd| {
                let column = 2 * (thread % 4) + odd;
                let sum = number(row, column + 2);
                (expected(16, row, column) - sum) * scale as f32 + sum
            });
            if half_sums {
                assert_eq!(sums[half], pair("f16", at[0], at[1]), "{kind}, thread {thread}");
            } else {
                assert_eq!(sums[2 * half..][..2], at.map(f32::to_bits), "{kind}, thread {thread}");
            }
        }
    }
}

#[test]
fn products_of_warpgroups() {
    wgmma("bf16", false, 1);
    wgmma("f16", false, -1);
    wgmma("f16", true, 1);
}
