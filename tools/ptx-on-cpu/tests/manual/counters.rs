//! Counters against kernels whose counts are known: what a profiler would show of them.

use ptx_on_cpu::{Counters, Counts, Launch, Memory, Module, Settings, Swizzle, TensorMap, run};

use crate::Small;

/// Counts of a kernel with 64 KiB of input, in order and under a schedule: both must agree.
fn counters(module: &str, body: &str, grid: u32, threads: u32) -> Counters {
    let [first, second] = [Settings { threads: 2, ..Settings::default() }, Settings::strict(3)].map(|settings| {
        let settings = Settings { counters: true, ..settings };
        let small = Small { settings, grid, ..Small::new(module, body).threads(threads) };
        let (_, counters) = small.counted(&[0; 1 << 16], 1 << 16).unwrap_or_else(|fault| panic!("{body}: {fault}"));
        // Lanes that store in one place are told of by the checks alone.
        Counters { warnings: vec![], ..counters }
    });
    assert_eq!(first, second, "{body}");
    first
}

fn total(module: &str, body: &str) -> Counts {
    counters(module, body, 1, 32).total
}

const TILE: &str = ".shared .align 128 .b8 tile[32768];";

/// 32 x 32 numbers through shared memory, with rows of so many numbers.
fn transpose(pitch: u32) -> Counts {
    let body = format!(
        "mov.u32 r1, tile; mad.lo.u32 r2, r0, 4, r1; mad.lo.u32 r3, r0, {row}, r1; mad.wide.u32 s0, r0, 4, v;
         mad.wide.u32 s1, r0, 4, w; mov.u32 r4, 0;
         in: ld.global.u32 r5, [s0]; st.shared.u32 [r2], r5; add.u64 s0, s0, 128; add.u32 r2, r2, {row};
         add.u32 r4, r4, 1; setp.lt.u32 p, r4, 32; @p bra in;
         bar.sync 0; mov.u32 r4, 0;
         out: ld.shared.u32 r5, [r3]; st.global.u32 [s1], r5; add.u64 s1, s1, 128; add.u32 r3, r3, 4;
         add.u32 r4, r4, 1; setp.lt.u32 p, r4, 32; @p bra out;",
        row = 4 * pitch
    );
    total(TILE, &body)
}

#[test]
fn a_transpose_conflicts_without_padding_only() {
    let (plain, padded) = (transpose(32), transpose(33));
    assert_eq!((plain.shared_requests, plain.shared_wavefronts, plain.bank_conflicts), (64, 32 + 32 * 32, 32 * 31));
    assert_eq!((padded.shared_requests, padded.shared_wavefronts, padded.bank_conflicts), (64, 64, 0));
    for counts in [plain, padded] {
        assert_eq!((counts.load_requests, counts.load_sectors, counts.load_sectors_least), (32, 128, 128));
        assert_eq!((counts.store_requests, counts.store_sectors, counts.store_sectors_least), (32, 128, 128));
        assert_eq!((counts.l2_bytes, counts.divergent_branches, counts.barrier_waits), (2 * 4096, 0, 1));
        assert_eq!((counts.shared, counts.global, counts.control, counts.synchronization), (64, 64, 65, 1));
    }
}

#[test]
fn strided_copies_touch_more_sectors() {
    for (stride, shift, sectors) in [(1, 0, 4), (1, 4, 5), (2, 0, 8), (4, 0, 16), (8, 0, 32), (16, 0, 32), (0, 0, 1)] {
        let body = format!(
            "mad.wide.u32 s0, r0, {bytes}, v; mad.wide.u32 s1, r0, {bytes}, w;
             ld.global.u32 a, [s0+{shift}]; st.global.u32 [s1+{shift}], r0;",
            bytes = 4 * stride
        );
        let counts = total("", &body);
        let least = if stride == 0 { 1 } else { 4 };
        assert_eq!((counts.load_sectors, counts.load_sectors_least), (sectors, least), "stride {stride}");
        assert_eq!((counts.store_sectors, counts.store_sectors_least), (sectors, least), "stride {stride}");
        assert_eq!(counts.l2_bytes, 64 * sectors, "stride {stride}");
    }
    let wide = total("", "mad.wide.u32 s0, r0, 16, v; ld.global.v4.u32 {a, b, c, d}, [s0];");
    assert_eq!((wide.load_requests, wide.load_sectors, wide.load_sectors_least), (1, 16, 16));
    let guarded = total("", "mad.wide.u32 s0, r0, 4, v; setp.lt.u32 p, r0, 8; @p ld.global.u32 a, [s0];");
    assert_eq!((guarded.load_sectors, guarded.load_sectors_least), (1, 1));
    let generic = total("", "mad.wide.u32 s0, r0, 4, v; ld.u32 a, [s0];");
    assert_eq!((generic.load_sectors, generic.shared_requests), (4, 0));
    let atomic = total("", "mad.wide.u32 s0, r0, 64, v; red.global.add.u32 [s0], 1;");
    assert_eq!((atomic.store_requests, atomic.store_sectors), (1, 32));
}

#[test]
fn generic_addresses_lead_to_shared_memory() {
    let counts = total(TILE, "mov.u64 s1, tile; cvta.shared.u64 s1, s1; mad.wide.u32 s0, r0, 8, s1; st.u32 [s0], r0;");
    assert_eq!((counts.shared_wavefronts, counts.bank_conflicts, counts.store_requests, counts.l2_bytes), (2, 1, 0, 0));
}

/// Wavefronts and conflicts of one store at `r1`, from the lane in `r0`.
fn shared(address: &str, store: &str) -> (u64, u64) {
    let counts = total(TILE, &format!("mov.u32 r2, tile; {address} add.u32 r1, r1, r2; {store}"));
    assert_eq!((counts.shared_requests, counts.l2_bytes), (1, 0), "{address} {store}");
    (counts.shared_wavefronts, counts.bank_conflicts)
}

#[test]
fn wide_accesses_go_by_parts_of_a_warp() {
    let times = |bytes: u32| format!("mul.lo.u32 r1, r0, {bytes};");
    let (two, four) = ("st.shared.v2.u32 [r1], {r0, r0};", "st.shared.v4.u32 [r1], {r0, r0, r0, r0};");
    for (address, store, expected) in [
        // Rows of four floats, one after another; rows of 128 bytes, which all begin in bank 0; of 144 bytes.
        (times(16), four, (4, 0)),
        (times(128), four, (32, 28)),
        (times(144), four, (4, 0)),
        (times(8), two, (2, 0)),
        (times(16), two, (4, 2)),
        (times(256), two, (32, 30)),
        (times(1), "st.shared.u8 [r1], r0;", (1, 0)),
        (times(2), "st.shared.u16 [r1], r0;", (1, 0)),
        (times(8), "st.shared.u32 [r1], r0;", (2, 1)),
        (times(128), "setp.lt.u32 p, r0, 3; @p st.shared.u32 [r1], r0;", (3, 2)),
        // Lanes that write one word.
        (times(0), "st.shared.u32 [r1], 0;", (1, 0)),
    ] {
        assert_eq!(shared(&address, store), expected, "{address} {store}");
    }
}

#[test]
fn broadcasts_are_no_conflict() {
    let read = |address: &str, load: &str| {
        let fill = "mov.u32 r2, tile; mov.u32 r1, r2; st.shared.u32 [r2], 0; st.shared.u32 [r2+128], 0;";
        let counts = total(TILE, &format!("{fill} {address} {load}"));
        (counts.shared_wavefronts - 2, counts.bank_conflicts)
    };
    assert_eq!(read("", "ld.shared.u32 a, [r1];"), (1, 0));
    // Two words of one bank.
    assert_eq!(read("and.b32 r3, r0, 1; mad.lo.u32 r1, r3, 128, r2;", "ld.shared.u32 a, [r1];"), (2, 1));
    assert_eq!(read("and.b32 r3, r0, 3; add.u32 r1, r3, r2;", "ld.shared.u8 a, [r1];"), (1, 0));
    // Atomics come one after another.
    assert_eq!(read("", "atom.shared.add.u32 a, [r1], 1;"), (32, 31));
}

#[test]
fn matrices_conflict_without_swizzle_only() {
    // Row l % 16 of 128 bytes, columns of 8 by l / 16, as a fragment of A is loaded.
    let rows = "and.b32 r3, r0, 15; shr.u32 r4, r0, 4; mad.lo.u32 r1, r3, 128, r2;";
    let plain = "mad.lo.u32 r1, r4, 16, r1;";
    let swizzled = "and.b32 r5, r3, 7; xor.b32 r4, r4, r5; mad.lo.u32 r1, r4, 16, r1;";
    for (column, expected) in [(plain, (32, 28)), (swizzled, (4, 0))] {
        let store = "stmatrix.sync.aligned.m8n8.x4.shared.b16 [r1], {r0, r0, r0, r0};";
        let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {a, b, c, d}, [r1];";
        let stored = total(TILE, &format!("mov.u32 r2, tile; {rows} {column} {store}"));
        assert_eq!((stored.shared_wavefronts, stored.bank_conflicts), expected, "{column}");
        let both = total(TILE, &format!("mov.u32 r2, tile; {rows} {column} {store} bar.warp.sync -1; {load}"));
        assert_eq!((both.shared_wavefronts, both.bank_conflicts), (2 * expected.0, 2 * expected.1), "{column}");
        assert_eq!((both.shared, both.shared_requests), (2, 2));
    }
}

#[test]
fn lanes_that_part_are_counted() {
    let branch = |condition: &str| {
        let body = format!("{condition} @p bra other; add.u32 a, r0, 1; bra done; other: add.u32 a, r0, 2; done:");
        counters("", &body, 3, 64)
    };
    // In one of two warps, in both, in none.
    for (condition, expected) in
        [("setp.lt.u32 p, r0, 20;", 1), ("and.b32 a, r0, 1; setp.eq.u32 p, a, 0;", 2), ("setp.lt.u32 p, r0, 32;", 0)]
    {
        let counters = branch(condition);
        assert_eq!(counters.total.divergent_branches, 3 * expected, "{condition}");
        let lines: Vec<u32> =
            counters.by_line.iter().filter(|line| line.1.divergent_branches > 0).map(|it| *it.0).collect();
        assert_eq!(lines.len(), usize::from(expected > 0), "{condition}");
    }
}

#[test]
fn units_and_barriers() {
    let body = "mov.u32 a, 0; mov.u32 b, 0; ex2.approx.f32 a, a; tanh.approx.bf16x2 b, b; div.full.f32 a, a, a;
                mov.u32 r1, 0; mov.u32 r2, 0; mov.u32 r3, 0; mov.u32 r4, 0;
                mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {r1, r2, r3, r4}, {a, a, a, a}, {a, a}, {r1, r2, r3, r4};
                bar.sync 0; bar.sync 1, 64; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
                fma.rn.f32 a, a, a, a; cvt.rn.bf16.f32 h0, a; shfl.sync.bfly.b32 a, a, 1, 31, -1;";
    let counters = counters("", body, 2, 64);
    let counts = counters.total;
    assert_eq!(counts.tensor_multiplications, 4 * 16 * 8 * 16);
    assert_eq!(counts.tensor_multiplications, counters.tensor_multiplications);
    assert_eq!((counts.special, counts.special_operations), (4 * 3, 128 * 4));
    assert_eq!((counts.barrier_waits, counts.tensor), (4 * 3, 4));
    assert_eq!((counts.float, counts.conversion, counts.exchange, counts.parameter), (4, 4, 4, 8));
    let classes: u64 = counts.fields().skip(2).take(13).map(|field| field.1).sum();
    assert_eq!(classes, counts.warp_instructions);
    assert_eq!(counts.warp_instructions, counters.warp_instructions);
}

#[test]
fn copies_without_registers() {
    let copy = "mov.u32 r1, tile; mad.lo.u32 r2, r0, 16, r1; mad.wide.u32 s0, r0, 32, v;
                cp.async.cg.shared.global [r2], [s0], 16; cp.async.commit_group; cp.async.wait_group 0;";
    let counts = total(TILE, copy);
    assert_eq!((counts.load_requests, counts.load_sectors, counts.load_sectors_least), (1, 32, 16));
    assert_eq!((counts.shared_wavefronts, counts.bank_conflicts, counts.l2_bytes), (4, 0, 1024));
    assert_eq!((counts.global, counts.synchronization), (1, 2));
}

/// A tile of 8 x 4 floats of a tensor of 16 x 8, two of whose rows lie inside, each with halves of two sectors.
#[test]
fn tiles_count_what_lies_inside() {
    let text =
        ".version 8.6\n.target sm_90a\n.address_size 64\n.shared .align 128 .b8 tile[128]; .shared .align 8 .b8 bar[8];
         .visible .entry kernel(.param .align 64 .b8 map[128]) {
         .reg .pred p; .reg .b32 r<8>; .reg .b64 s<4>;
         mov.u32 r0, %tid.x; mov.u32 r1, tile; mov.u32 r2, bar; setp.ne.u32 p, r0, 0; @p bra wait;
         mbarrier.init.shared.b64 [r2], 1; fence.mbarrier_init.release.cluster; fence.proxy.async;
         mbarrier.arrive.expect_tx.shared.b64 s0, [r2], 128;
         mov.b64 s1, map; cvta.param.u64 s1, s1; mov.u32 r3, 4; mov.u32 r4, 6;
         cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [r1], [s1, {r3, r4}], [r2];
         wait: bar.sync 0;
         again: mbarrier.try_wait.parity.shared.b64 p, [r2], 0; @!p bra again;
         ret; }";
    let module = Module::parse(text).unwrap();
    let memory = Memory::new();
    let map = TensorMap {
        address: memory.upload(&[0; 4 * 16 * 8]),
        element_bytes: 4,
        dims: vec![16, 8],
        strides: vec![64],
        tile: vec![8, 4],
        swizzle: Swizzle::None,
    };
    let launch = Launch {
        kernel: "kernel".into(),
        grid: [1; 3],
        block: [32, 1, 1],
        cluster: [1; 3],
        dynamic_shared: 0,
        parameters: map.encode().unwrap().to_vec(),
    };
    for late in [ptx_on_cpu::Asynchronous::Early, ptx_on_cpu::Asynchronous::Late] {
        let settings = Settings { counters: true, asynchronous: late, ..Settings::default() };
        let counts = run(&module, &launch, &memory, &settings).unwrap().total;
        assert_eq!((counts.l2_bytes, counts.load_requests), (4 * 32, 0), "{late:?}");
        // The barrier, and the phase once, however often it was asked for.
        assert_eq!((counts.barrier_waits, counts.divergent_branches), (2, 1), "{late:?}");
    }
}

#[test]
fn lines_of_the_source_are_the_innermost() {
    let module = ".file 1 \"/src/kernel.cu\"\n.file 2 \"/src/inner.h\"";
    let body = ".loc 1 10 0\nmad.wide.u32 s0, r0, 8, v;\n.loc 2 7 0, function_name $name, inlined_at 1 10 0\nld.global.u32 a, [s0];\n\
                .loc 1 11 0\nld.global.u32 b, [s0];";
    let counters = counters(module, body, 1, 32);
    let found: Vec<_> =
        counters.by_source.iter().map(|line| (line.file.as_str(), line.line, line.counts.load_sectors)).collect();
    assert_eq!(found[..3], [("/src/inner.h", 7, 8), ("/src/kernel.cu", 10, 0), ("/src/kernel.cu", 11, 8)]);
    let mut sum = Counts::default();
    counters.by_source.iter().for_each(|line| sum += line.counts);
    assert_eq!(sum, counters.total);
    let mut sum = Counts::default();
    counters.by_line.values().for_each(|counts| sum += *counts);
    assert_eq!(sum, counters.total);
}

#[test]
fn a_plain_run_counts_instructions_only() {
    let (_, counters) =
        Small::new("", "mad.wide.u32 s0, r0, 4, v; ld.global.u32 a, [s0];").counted(&[0; 128], 4).unwrap();
    assert_eq!((counters.total, counters.by_source.len(), counters.by_line.len()), (Counts::default(), 0, 0));
    assert_eq!(counters.warp_instructions, 6);
}
