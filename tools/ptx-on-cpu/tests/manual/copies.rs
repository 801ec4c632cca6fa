//! Asynchronous copies that no oracle makes: tensors of 1 to 5 dimensions, plain bulk copies, reductions, copies between blocks.

use ptx_on_cpu::{Launch, Memory, Module, Settings, Swizzle, TensorMap};

use crate::{Small, bytes, words};

/// Loads a tile of a tensor of rank `dims.len()` at `at`, and stores it as it is at `to` of another tensor of the same sizes.
fn through_shared(dims: &[u64], tile: &[u32], at: &[i32], to: &[i32]) -> (Vec<f32>, Vec<f32>) {
    let rank = dims.len();
    let list = |at: &[i32]| at.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    let size: usize = tile.iter().product::<u32>() as usize;
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.shared .align 128 .b8 tile[{tile_bytes}]; .shared .align 8 .b8 bar[8];
         .visible .entry kernel(.param .align 64 .b8 from[128], .param .align 64 .b8 to[128], .param .u64 out) {{
         .reg .pred p; .reg .b32 r<8>, c<8>; .reg .b64 s<8>;
         mov.u32 r0, %tid.x; mov.u32 r1, tile; mov.u32 r2, bar; setp.ne.u32 p, r0, 0; @p bra wait;
         mbarrier.init.shared.b64 [r2], 1; fence.mbarrier_init.release.cluster; fence.proxy.async;
         mbarrier.arrive.expect_tx.shared.b64 s0, [r2], {tile_bytes};
         mov.b64 s1, from; cvta.param.u64 s1, s1;
         {coordinates}
         cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [r1], [s1, {{{names}}}], [r2];
         again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
         cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group [to, {{{to}}}], [r1];
         cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;
         wait: bar.sync 0; ld.param.u64 s2, [out];
         shl.b32 r3, r0, 2; more: setp.ge.u32 p, r3, {tile_bytes}; @p bra end; add.u32 r4, r1, r3; ld.shared.u32 r5, [r4]; cvt.u64.u32 s3, r3; add.u64 s4, s2, s3;
         st.global.u32 [s4], r5; add.u32 r3, r3, 128; bra more;
         end: ret; }}",
        tile_bytes = 4 * size,
        coordinates = at.iter().enumerate().map(|(axis, at)| format!("mov.u32 c{axis}, {at};")).collect::<String>(),
        names = (0..rank).map(|axis| format!("c{axis}")).collect::<Vec<_>>().join(", "),
        to = list(to),
    );
    let module = Module::parse(&text).unwrap();
    let count: u64 = dims.iter().product();
    let mut runs = Vec::new();
    for settings in [Settings::default(), Settings::strict(1), Settings::strict(2)] {
        let memory = Memory::new();
        let from = memory.upload(&(0..count).flat_map(|at| (at as f32 + 1.0).to_le_bytes()).collect::<Vec<_>>());
        let target = memory.upload(&vec![0; 4 * count as usize]);
        let out = memory.allocate(4 * size);
        let map = |address| {
            let mut strides = vec![];
            let mut stride = 4;
            for dim in &dims[..rank - 1] {
                stride *= dim;
                strides.push(stride);
            }
            let tensor = TensorMap {
                address,
                element_bytes: 4,
                dims: dims.to_vec(),
                strides,
                tile: tile.to_vec(),
                swizzle: Swizzle::None,
            };
            tensor.encode().unwrap().to_vec()
        };
        let values = [map(from), map(target), out.to_le_bytes().to_vec()];
        let launch = Launch {
            kernel: "kernel".into(),
            grid: [1; 3],
            block: [32, 1, 1],
            cluster: [1; 3],
            dynamic_shared: 0,
            parameters: module.kernel("kernel").unwrap().pack(&values).unwrap(),
        };
        ptx_on_cpu::run(&module, &launch, &memory, &settings).unwrap_or_else(|fault| panic!("{fault}"));
        let floats = |address, count| {
            words(&memory.read(address, 4 * count).unwrap()).into_iter().map(f32::from_bits).collect::<Vec<f32>>()
        };
        runs.push((floats(out, size), floats(target, count as usize)));
    }
    assert!(runs[1] == runs[0] && runs[2] == runs[0]);
    runs.swap_remove(0)
}

/// What the tile and the target must be: each coordinate of the tile in turn, the innermost first.
fn check(dims: &[u64], tile: &[u32], at: &[i32], to: &[i32]) {
    let (loaded, stored) = through_shared(dims, tile, at, to);
    let mut expected = vec![0f32; dims.iter().product::<u64>() as usize];
    for (place, value) in loaded.iter().enumerate() {
        let (mut rest, mut from, mut target) = (place as u64, Some(0u64), Some(0u64));
        let mut stride = 1;
        for axis in 0..dims.len() {
            let index = (rest % u64::from(tile[axis])) as i64;
            rest /= u64::from(tile[axis]);
            let add = |sum: Option<u64>, at: i32| {
                let index = u64::try_from(index + i64::from(at)).ok().filter(|index| *index < dims[axis])?;
                Some(sum? + index * stride)
            };
            (from, target) = (add(from, at[axis]), add(target, to[axis]));
            stride *= dims[axis];
        }
        assert_eq!(*value, from.map_or(0.0, |at| at as f32 + 1.0), "element {place} of {dims:?} at {at:?}");
        if let Some(target) = target {
            expected[target as usize] = *value;
        }
    }
    assert_eq!(stored, expected, "{dims:?} at {to:?}");
}

#[test]
fn tensors_of_every_rank() {
    check(&[40], &[16], &[8], &[0]);
    check(&[40], &[16], &[32], &[-4]);
    check(&[20, 5], &[8, 4], &[16, 3], &[-4, -1]);
    check(&[8, 5, 4], &[8, 2, 3], &[-1, 4, 2], &[4, 1, 3]);
    check(&[8, 3, 2, 4], &[4, 2, 2, 2], &[4, -1, 1, 3], &[0, 2, 0, 0]);
    check(&[8, 3, 2, 2, 3], &[4, 2, 1, 2, 2], &[2, 1, 1, 0, 2], &[0, 0, 0, 1, -1]);
}

const BULK: &str = ".shared .align 128 .b8 tile[128]; .shared .align 8 .b8 bar[8];";

#[test]
fn bulk_copies_and_reductions() {
    let body = "mov.u32 r1, tile; mov.u32 r2, bar; setp.ne.u32 p, r0, 0; @p bra wait;
        mbarrier.init.shared.b64 [r2], 1; fence.proxy.async; mbarrier.arrive.expect_tx.shared.b64 x, [r2], 128;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [r1], [v], 128, [r2];
        again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
        cp.async.bulk.global.shared::cta.bulk_group [w], [r1], 128; cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0;
        cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [w], [r1], 64; cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0;
        wait:";
    let input: Vec<u32> = (0..32).map(|word| word * word).collect();
    let output = words(&Small::new(BULK, body).run_all(&bytes(&input), 128));
    let expected: Vec<u32> = (0..32).map(|word| word * word * if word < 16 { 2 } else { 1 }).collect();
    assert_eq!(output, expected);
    // Elements of 2 bytes, and signed ones.
    let half = |x: f32| u32::from(half::f16::from_f32(x).to_bits()) * 0x1_0001;
    let reduced = |kind: &str, word: u32| {
        words(&Small::new(BULK, &body.replace("add.u32", kind)).run_all(&bytes(&[word; 32]), 128))[0]
    };
    assert_eq!(reduced("add.noftz.f16", half(1.5)), half(3.0));
    assert_eq!(reduced("add.f32", 1.25f32.to_bits()), 2.5f32.to_bits());
    assert_eq!(reduced("inc.u32", 7), 0);
    assert_eq!(reduced("xor.b32", 7), 0);
}

#[test]
fn blocks_send_each_other_bytes() {
    let body = "mov.u32 r1, tile; mov.u32 r2, bar; mov.u32 r3, %cluster_ctarank; mad.lo.u32 r4, r3, 100, r0;
        setp.eq.u32 p, r0, 0; @p mbarrier.init.shared.b64 [r2], 1; @p mbarrier.arrive.expect_tx.shared.b64 x, [r2], 64;
        shl.b32 r5, r0, 2; add.u32 r5, r5, r1; setp.lt.u32 q, r0, 16; @q st.shared.u32 [r5], r4; fence.proxy.async;
        barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
        xor.b32 r6, r3, 1; mapa.shared::cluster.u32 r7, r1, r6; mapa.shared::cluster.u32 r8, r2, r6;
        @p cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [r7+64], [r1], 64, [r8];
        again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
        add.u32 r9, r5, 64; mad.lo.u32 r10, r3, 16, r0; mad.wide.u32 s1, r10, 4, w;
        @q ld.shared.u32 d, [r9]; @q st.global.u32 [s1], d;
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    let small = Small { grid: 2, cluster: 2, ..Small::new(BULK, body) };
    let expected: Vec<u32> = (100..116).chain(0..16).collect();
    assert_eq!(words(&small.run_all(&[0], 128)), expected);
}

#[test]
fn small_copies_and_their_barrier() {
    let body = "mov.u32 r1, tile; mov.u32 r2, bar; setp.eq.u32 p, r0, 0; @p mbarrier.init.shared.b64 [r2], 32; bar.sync 0;
        shl.b32 r3, r0, 2; add.u32 r4, r1, r3; cvt.u64.u32 s1, r3; add.u64 s2, v, s1; setp.ge.u32 q, r0, 8; selp.u32 r5, 0, 4, q;
        cp.async.ca.shared.global [r4], [s2], 4, r5; cp.async.mbarrier.arrive.noinc.shared.b64 [r2];
        again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
        xor.b32 r4, r4, 4; ld.shared.u32 d, [r4]; mad.wide.u32 s0, r0, 4, w; st.global.u32 [s0], d;";
    // Only 8 words are there: the others are zeros, and nothing is read for them.
    let output = words(&Small::new(BULK, body).run_all(&bytes(&[1, 2, 3, 4, 5, 6, 7, 8]), 128));
    let expected: Vec<u32> = [2, 1, 4, 3, 6, 5, 8, 7].into_iter().chain([0; 24]).collect();
    assert_eq!(output, expected);
}
