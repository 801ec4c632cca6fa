//! PTX that is damaged: it is refused with its line, or decoded with instructions that are not known, and nothing panics.

use ptx_on_cpu::Module;

/// Instructions of every kind, as they should be.
const TEXT: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n.global .align 8 .u64 table[2] = {generic(other), 5};\n.global .u32 other;
.shared .align 128 .b8 tile[1024];\n.func (.param .b32 result) f(.param .b32 value) { .reg .b32 r; ld.param.u32 r, [value]; st.param.b32 [result], r; ret; }
.visible .entry kernel(.param .u64 .ptr .align 16 out, .param .align 64 .b8 map[128])\n.reqntid 128, 1, 1\n{
.reg .pred p, q; .reg .b16 h<4>; .reg .b32 %r<20>; .reg .b64 %d<9>; .local .align 4 .b8 own[8];
.loc 1 5 3, function_name $L__info_string0, inlined_at 1 7 1
ld.param.u64 %d1, [out+0]; mov.u32 %r1, %tid.x; mov.b64 %d2, {%r1, %r1}; mov.b32 {h0, h1}, %r1; mad.wide.u32 %d3, %r1, 4, %d1;
setp.lt.and.u32 p|q, %r1, 5, q; @!p bra out1; selp.f32 %r2, 0f3F800000, %r1, p; slct.u32.s32 %r2, %r1, %r2, %r1; set.lt.u32.f32 %r3, %r1, %r2;
cvt.rn.bf16x2.f32 %r3, %r1, %r2; cvt.rzi.s32.f32 %r4, %r2; cvt.sat.u8.s32 %r4, %r2; bfe.u32 %r5, %r4, 3, 4; prmt.b32 %r5, %r4, %r3, 0x5410;
lop3.b32 %r5, %r4, %r3, %r2, 0xe8; shf.l.wrap.b32 %r5, %r4, %r3, 7; fma.rm.f32 %r5, %r4, %r3, %r2; testp.finite.f32 p, %r5; add.cc.u32 %r5, %r4, %r3;
st.global.v2.u32 [%d3+8], {%r5, %r4}; ld.shared::cta.v4.u32 {%r6, %r7, %r8, %r9}, [tile+16]; atom.global.cas.b32 %r6, [%d3], %r7, %r8; red.shared.add.u32 [tile], 1;
shfl.sync.bfly.b32 %r6|p, %r7, 3, 31, -1; vote.sync.ballot.b32 %r6, p, -1; redux.sync.min.s32 %r6, %r7, -1; elect.sync %r6|p, -1; match.any.sync.b32 %r6, %r7, -1;
bar.sync 0, 128; bar.red.popc.u32 %r6, 0, p; barrier.cluster.arrive.relaxed.aligned; fence.proxy.async.shared::cta; mbarrier.init.shared.b64 [tile], 1;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [tile], 64; again: mbarrier.try_wait.parity.shared.b64 p, [tile], 0; cp.async.cg.shared.global [tile], [%d3], 16, %r6;
cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [tile], [map, {%r6, %r7}], [tile], h0; cp.async.bulk.wait_group.read 0;
cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [map, {%r6, %r7}], [tile]; ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r6, %r7}, [tile];
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8}, {%r9, %r10}, {%r1, %r2, %r3, %r4};
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r1, %r2, %r3, %r4}, %d2, %d3, p, 1, -1, 0, 1; wgmma.wait_group.sync.aligned 0;
tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [tile], 1, %r6; mapa.shared::cluster.u32 %r6, %r7, %r8; setmaxnreg.inc.sync.aligned.u32 240;
{ .param .b32 p0; st.param.b32 [p0], %r1; .param .b32 q0; call.uni (q0), f, (p0); ld.param.b32 %r2, [q0]; }
brx.idx %r2, targets; targets: .branchtargets again, out1; out1: ret; }\n.file 1 \"a.cu\"\n";

#[test]
fn the_whole_is_understood() {
    let module = Module::parse(TEXT).unwrap();
    assert_eq!(module.kernel("kernel").unwrap().unknown(), []);
}

#[test]
fn mutated_files_do_not_panic() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut below = |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % end
    };
    // Pieces that may stand alone: a mutation is of whole words, or of characters.
    let pieces: Vec<&str> = TEXT.split_inclusive(|mark: char| " .,;[]{}()\n".contains(mark)).collect();
    let (mut refused, mut decoded) = (0, 0);
    for _ in 0..2000 {
        let mut text: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        for _ in 0..1 + below(3) {
            let (at, other) = (below(text.len()), below(text.len()));
            match below(5) {
                0 => text[at].clear(),
                1 => text.swap(at, other),
                2 => text[at] = text[other].clone(),
                3 => text.truncate(at + 1),
                _ => {
                    let place = below(text[at].len().max(1));
                    if text[at].is_char_boundary(place) {
                        text[at].insert(place, b"0x.%@!-9{;\"/*_"[below(14)] as char);
                    }
                }
            }
            if text.is_empty() {
                break;
            }
        }
        match Module::parse(&text.concat()) {
            Ok(module) => module.kernels().for_each(|kernel| {
                kernel.unknown();
                decoded += 1;
            }),
            Err(error) => {
                assert!(error.line() >= 1);
                refused += 1;
            }
        }
    }
    assert!(refused > 250 && decoded > 250, "{refused} refused, {decoded} decoded");
}
