//! Bulk copies and warpgroup products against plain Rust, and kernels that use them wrongly.

mod common;
use common::{Launch, buffer, values};
use cuda_on_cpu::{Fault, FaultKind, GuardedBuffer, TensorElement, TensorMap, TensorSwizzle, TiledTensor};
use half::bf16;

fn to_bf16(values: &[f32]) -> (Vec<u16>, Vec<f32>) {
    let rounded = values.iter().map(|value| bf16::from_f32(*value));
    (rounded.clone().map(bf16::to_bits).collect(), rounded.map(bf16::to_f32).collect())
}

fn swizzle(width: u32) -> TensorSwizzle {
    match width {
        64 => TensorSwizzle::Bytes128,
        32 => TensorSwizzle::Bytes64,
        16 => TensorSwizzle::Bytes32,
        _ => TensorSwizzle::None,
    }
}

/// The map of a row-major matrix, in boxes of `width` columns and `rows` rows.
fn matrix(buffer: &GuardedBuffer, [rows, columns]: [usize; 2], width: u32, box_rows: u32) -> TensorMap {
    TensorMap::encode(&TiledTensor {
        address: buffer.as_ptr() as u64,
        element: TensorElement::Bf16,
        dims: &[columns as u64, rows as u64],
        strides: &[2 * columns as u64],
        tile: &[width, box_rows],
        swizzle: swizzle(width),
    })
    .unwrap()
}

/// One kernel of hopper.cu: how wide its tile, which box, which operands are K-major.
struct Gemm {
    kernel: &'static str,
    columns: u32,
    width: u32,
    k_major: [bool; 2],
}

impl Gemm {
    fn of(kernel: &'static str) -> Gemm {
        Gemm { kernel, columns: 64, width: 64, k_major: [true, true] }
    }

    /// What the kernel computes beside what it should.
    fn run(&self, [m, n, k]: [usize; 3], seed: u64) -> Result<Vec<(f32, f64)>, Fault> {
        let ((a_bits, a), (b_bits, b)) = (to_bf16(&values(m * k, 1)), to_bf16(&values(n * k, 2)));
        let (left, right) = (buffer("a", &a_bits), buffer("b", &b_bits));
        let map = |buffer, rows, k_major, tile_rows| {
            if k_major {
                matrix(buffer, [rows, k], self.width, tile_rows)
            } else {
                matrix(buffer, [k, rows], self.width, 64)
            }
        };
        let maps = (map(&left, m, self.k_major[0], 64), map(&right, n, self.k_major[1], self.columns));
        let c = GuardedBuffer::poisoned::<f32>("c", m * n).unwrap();
        let grid = [n.div_ceil(self.columns as usize) as u32, m.div_ceil(64) as u32, 1];
        let shared_bytes = 2 * (64 + self.columns as usize) * 64 * 2;
        let launch = Launch { grid, block: [256, 1, 1], seed, shared_bytes, ..Launch::of(self.kernel) };
        let sizes = [m, n, k].map(|size| size as i32);
        launch.run(&[&maps.0, &maps.1, &c.as_ptr(), &sizes[0], &sizes[1], &sizes[2]])?;
        let entry = |values: &[f32], row: usize, q: usize, rows: usize, k_major: bool| {
            f64::from(values[if k_major { row * k + q } else { q * rows + row }])
        };
        let [a_major, b_major] = self.k_major;
        let dot = |i, j| (0..k).map(|q| entry(&a, i, q, m, a_major) * entry(&b, j, q, n, b_major)).sum::<f64>();
        Ok(c.to_vec::<f32>().into_iter().zip((0..m * n).map(|index| dot(index / n, index % n))).collect())
    }
}

fn close(results: &[(f32, f64)]) -> bool {
    results.iter().all(|(found, expected)| (f64::from(*found) - expected).abs() < 1e-4)
}

#[test]
fn products_in_every_layout() {
    let kernels = [
        ("hopper_128_kk", 64, 64, [true, true]),
        ("hopper_overlapped", 64, 64, [true, true]),
        ("hopper_128_km", 128, 64, [true, false]),
        ("hopper_128_mk", 64, 64, [false, true]),
        ("hopper_128_mm", 64, 64, [false, false]),
        ("hopper_64_kk", 32, 32, [true, true]),
        ("hopper_64_mm", 96, 32, [false, false]),
        ("hopper_32_kk", 64, 16, [true, true]),
        ("hopper_32_mm", 16, 16, [false, false]),
        ("hopper_0_kk", 24, 8, [true, true]),
        ("hopper_0_mm", 8, 8, [false, false]),
    ];
    for (seed, (kernel, columns, width, k_major)) in kernels.into_iter().enumerate() {
        let gemm = Gemm { kernel, columns, width, k_major };
        for shape in [[64, columns as usize, 64], [72, 136, 200]] {
            let results = gemm.run(shape, seed as u64).unwrap_or_else(|fault| panic!("{fault}"));
            assert!(close(&results), "{kernel} {shape:?}: {:?}", &results[..4]);
        }
    }
}

/// What the mistake must lead to, for at least one of the first schedules.
fn caught(kernel: &'static str, expected: impl Fn(&Result<Vec<(f32, f64)>, Fault>) -> bool) {
    let runs: Vec<_> = (0..6).map(|seed| Gemm::of(kernel).run([64, 64, 320], seed)).collect();
    for run in &runs {
        match run {
            Ok(results) => println!("{kernel}: right? {}", close(results)),
            Err(fault) => println!("{fault}"),
        }
    }
    assert!(runs.iter().any(expected), "{kernel} is wrong, and nothing shows it");
}

fn fault(kind: FaultKind, words: &str) -> impl Fn(&Result<Vec<(f32, f64)>, Fault>) -> bool {
    move |run| matches!(run, Err(fault) if fault.kind == kind && fault.to_string().contains(words))
}

#[test]
fn mistakes_are_caught() {
    let wrong = |run: &Result<Vec<(f32, f64)>, Fault>| run.as_ref().is_ok_and(|results| !close(results));
    caught("hopper_no_product_wait", fault(FaultKind::Async, "changed while the wgmma product"));
    caught("hopper_no_empty_wait", fault(FaultKind::Async, "arrives at an mbarrier more often"));
    caught("hopper_wrong_stride", wrong);
    caught("hopper_wrong_swizzle", wrong);
    caught("hopper_wrong_bytes", fault(FaultKind::Deadlock, "wait for an mbarrier's phase"));
    caught("hopper_no_fence", fault(FaultKind::Async, "without a wgmma.fence"));
    caught("hopper_three_warps", fault(FaultKind::WarpMismatch, "warps 0 and 2 of one warpgroup"));
    caught("hopper_no_tile_wait", |run| wrong(run) || fault(FaultKind::Async, "changed while the wgmma product")(run));
    caught("hopper_early_read", |run| run.as_ref().is_ok_and(|results| results[0].0.is_nan()));
}

#[test]
fn a_product_needs_a_warpgroup() {
    let map = matrix(&buffer("x", &[0u16; 4096]), [64, 64], 64, 64);
    let c = GuardedBuffer::poisoned::<f32>("c", 64).unwrap();
    let launch = Launch { block: [96, 1, 1], shared_bytes: 32768, ..Launch::of("hopper_128_kk") };
    let fault = launch.run(&[&map, &map, &c.as_ptr(), &64i32, &64i32, &0i32]).unwrap_err();
    assert!(fault.to_string().contains("it takes a whole warpgroup"), "{fault}");
}

#[test]
fn a_from_registers() {
    let ((a_bits, a), (b_bits, b)) = (to_bf16(&values(64 * 16, 3)), to_bf16(&values(256 * 16, 4)));
    let mut registers = vec![0u32; 128 * 4];
    for (row, k) in (0..64).flat_map(|row| (0..16).map(move |k| (row, k))) {
        let thread = row / 16 * 32 + row % 8 * 4 + k % 8 / 2;
        let register = row % 16 / 8 + 2 * (k / 8);
        registers[thread * 4 + register] |= u32::from(a_bits[row * 16 + k]) << (16 * (k % 2));
    }
    let (registers, right) = (buffer("a", &registers), buffer("b", &b_bits));
    let map = matrix(&right, [256, 16], 16, 256);
    let c = GuardedBuffer::poisoned::<f32>("c", 64 * 256).unwrap();
    let launch = Launch { block: [128, 1, 1], shared_bytes: 8192, seed: 2, ..Launch::of("hopper_registers") };
    launch.run(&[&registers.as_ptr(), &map, &c.as_ptr()]).unwrap_or_else(|fault| panic!("{fault}"));
    for (row, column) in (0..64).flat_map(|row| (0..256).map(move |column| (row, column))) {
        let thread = row / 16 * 32 + row % 8 * 4 + column % 8 / 2;
        let found = c.as_slice::<f32>()[thread * 128 + column / 8 * 4 + row % 16 / 8 * 2 + column % 2];
        let dot: f64 = (0..16).map(|k| f64::from(a[row * 16 + k]) * f64::from(b[column * 16 + k])).sum();
        assert!((f64::from(found) - 2.0 * dot).abs() < 1e-4, "[{row}, {column}]: {found} for {}", 2.0 * dot);
    }
}

/// A tensor of f32 with padded rows, and a tile that sticks out on all sides where `at` says so.
fn copy(rank: usize, at: &[i32], swizzle: TensorSwizzle) {
    let dims = &[11u64, 5, 4, 3, 2][..rank];
    let tile = &[8u32, 3, 2, 2, 2][..rank];
    let pitches: Vec<u64> = (1..rank)
        .scan(12, |pitch, dim| {
            let this = *pitch;
            *pitch *= dims[dim];
            Some(this)
        })
        .collect();
    let length = dims[rank - 1] as usize * pitches.last().map_or(12, |pitch| *pitch as usize);
    let x = values(length, 9);
    let (source, target) = (buffer("x", &x), GuardedBuffer::from_slice("y", &vec![-7f32; length]).unwrap());
    let map = |buffer: &GuardedBuffer| {
        let strides: Vec<u64> = pitches.iter().map(|pitch| 4 * pitch).collect();
        TensorMap::encode(&TiledTensor {
            address: buffer.as_ptr() as u64,
            element: TensorElement::F32,
            dims,
            strides: &strides,
            tile,
            swizzle,
        })
        .unwrap()
    };
    let count: usize = tile.iter().map(|length| *length as usize).product();
    let (coordinates, out) = (buffer("at", at), GuardedBuffer::poisoned::<f32>("tile", count).unwrap());
    let kernel = ["copy_tile_1d", "copy_tile_2d", "copy_tile_3d", "copy_tile_4d", "copy_tile_5d"][rank - 1];
    let launch = Launch { shared_bytes: (4 * count).next_multiple_of(1024), seed: rank as u64, ..Launch::of(kernel) };
    let arguments = (map(&source), map(&target));
    launch
        .run(&[&arguments.0, &arguments.1, &coordinates.as_ptr(), &(4 * count as i32), &out.as_ptr(), &1i32])
        .unwrap_or_else(|fault| panic!("{fault}"));
    let mut expected = vec![-7f32; length];
    for index in 0..count {
        let mut rest = index;
        let place: Option<usize> = (0..rank)
            .map(|dim| {
                let coordinate = i64::from(at[dim]) + (rest % tile[dim] as usize) as i64;
                rest /= tile[dim] as usize;
                let inside = (0..dims[dim] as i64).contains(&coordinate);
                inside.then(|| coordinate as usize * if dim == 0 { 1 } else { pitches[dim - 1] as usize })
            })
            .sum();
        // Rows of 32 bytes: four share a line of 128, in which the second four exchange their chunks.
        let lies = if swizzle == TensorSwizzle::Bytes32 { index ^ (index / 32 % 2) << 2 } else { index };
        assert_eq!(out.as_slice::<f32>()[lies], place.map_or(0.0, |place| x[place]), "rank {rank}, element {index}");
        if let Some(place) = place {
            expected[place] = x[place];
        }
    }
    assert_eq!(target.to_vec::<f32>(), expected, "rank {rank}: what was copied back");
}

#[test]
fn tiles_of_every_rank_come_and_go() {
    for rank in 1..=5 {
        for swizzle in [TensorSwizzle::None, TensorSwizzle::Bytes32] {
            copy(rank, &[2, 1, 1, 1, 0][..rank], swizzle);
            copy(rank, &[-3, -1, 3, 2, 1][..rank], swizzle);
            copy(rank, &[7, 4, -1, -1, -1][..rank], swizzle);
        }
    }
}

#[test]
fn copies_used_against_the_rules() {
    let x = buffer("x", &values(64, 1));
    let y = GuardedBuffer::poisoned::<f32>("y", 64).unwrap();
    let run = |bytes: i32, offset: i32| {
        let launch = Launch { shared_bytes: 1024, ..Launch::of("bulk_copy") };
        launch.run(&[&x.as_ptr(), &y.as_ptr(), &bytes, &offset])
    };
    run(256, 16).unwrap();
    assert_eq!(y.to_vec::<f32>(), x.to_vec::<f32>());
    let expect = |result: Result<(), Fault>, kind, words: &str| {
        let fault = result.unwrap_err();
        assert!(fault.kind == kind && fault.to_string().contains(words), "{fault}");
    };
    expect(run(272, 0), FaultKind::OutOfBounds, "global memory 15 bytes past the end of buffer `x`");
    expect(run(256, 800), FaultKind::OutOfBounds, "its tile is at byte 800 of the dynamic shared memory");
    expect(run(256, 8), FaultKind::Misaligned, "must be aligned to 16 bytes");
    expect(run(24, 0), FaultKind::Misaligned, "both must be multiples of 16");

    let map = |rows: u64| {
        TensorMap::encode(&TiledTensor {
            address: x.as_ptr() as u64,
            element: TensorElement::F32,
            dims: &[8, rows],
            strides: &[32],
            tile: &[8, 8],
            swizzle: TensorSwizzle::Bytes32,
        })
        .unwrap()
    };
    let at = buffer("at", &[0i32, 1]);
    let tile = GuardedBuffer::poisoned::<f32>("tile", 64).unwrap();
    let copy = |map: &TensorMap, bytes: i32, wait: i32, kernel| {
        let launch = Launch { shared_bytes: 1024, ..Launch::of(kernel) };
        launch.run(&[map, map, &at.as_ptr(), &bytes, &tile.as_ptr(), &wait])
    };
    copy(&map(8), 256, 1, "copy_tile_2d").unwrap();
    expect(copy(&map(9), 256, 1, "copy_tile_2d"), FaultKind::OutOfBounds, "past the end of buffer `x`");
    expect(copy(&map(8), 256, 0, "copy_tile_2d"), FaultKind::Async, "1 bulk stores that it never waited for");
    expect(copy(&map(8), 240, 1, "copy_tile_2d"), FaultKind::Deadlock, "an mbarrier's phase");
    expect(
        copy(&map(8), 256, 1, "copy_tile_1d"),
        FaultKind::Async,
        "1-dimensional tile with the map of a 2-dimensional",
    );
}
