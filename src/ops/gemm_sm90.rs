//! Matrix products on Hopper (`kernels/gemm_sm90.cu`): which it takes, and how they are launched.

use super::product::{Epilogue, work_of};
use super::work;
use crate::Result;
use crate::autograd::Tape;
use crate::device::gemm_plan::{SM90_FINISH, SM90_SHARED_BYTES, SM90_THREADS, Sm90Plan, Sm90Tiles, sm90_parts};
use crate::device::product::{Layout, Product};
use crate::device::{DType, Device, Launch, Swizzle, TensorMap};

/// Columns below which most of a tile would be empty: `kernels/gemm.cu` has tiles of 128.
const LEAST_COLUMNS: usize = 64;

/// Whether the kernels for Hopper take `product` on this device: bf16 operands whose addresses and rows are multiples of 16 bytes, as
/// the copy engine wants them, in one of the layouts and epilogues that training has.
pub(super) fn takes(device: &Device, product: &Product, epilogue: Epilogue) -> bool {
    let Product { layout, operands, output, accumulate, bias, .. } = *product;
    let known = match (layout, epilogue) {
        (Layout::Nt, Epilogue::None) => !accumulate && output == DType::Bf16,
        (Layout::Nn, Epilogue::None) => bias.is_none() && output == DType::Bf16,
        (Layout::Tn, Epilogue::None) => accumulate && bias.is_none() && output == DType::F32,
        (Layout::Nt, Epilogue::Gelu { .. }) | (Layout::Nn, Epilogue::GeluGradient { .. }) => true,
        _ => false,
    };
    let [lda, ldb, ldc] = product.strides;
    let (mut addresses, mut strides) = (vec![product.a, product.b], vec![lda, ldb]);
    if output == DType::Bf16 {
        addresses.push(product.c);
        strides.push(ldc);
    }
    match epilogue {
        Epilogue::None => {}
        Epilogue::Gelu { y, .. } => addresses.push(y),
        Epilogue::GeluGradient { x, .. } => addresses.push(x),
    }
    let [m, n, k] = product.sizes;
    known
        && product.scale == 1.0
        && device.runs_sm90()
        && operands == DType::Bf16
        && n >= LEAST_COLUMNS
        && addresses.iter().all(|address| address % 16 == 0)
        && strides.iter().all(|stride| stride % 8 == 0)
        && Sm90Plan::new(m, n, k, 1, tiles(epilogue)).is_some()
}

/// Which tiles the kernel with that epilogue has.
fn tiles(epilogue: Epilogue) -> Sm90Tiles {
    match epilogue {
        Epilogue::None => Sm90Tiles::Together,
        Epilogue::Gelu { .. } | Epilogue::GeluGradient { .. } => Sm90Tiles::InTurn,
    }
}

/// Launches a product that [`takes`] takes.
pub(super) fn multiply(tape: &mut Tape, product: &Product, epilogue: Epilogue) -> Result<()> {
    let ([m, n, k], [lda, ldb, ldc]) = (product.sizes, product.strides);
    let parts = if product.layout == Layout::Tn { sm90_parts(m, n, k) } else { 1 };
    let Some(plan) = Sm90Plan::new(m, n, k, parts, tiles(epilogue)) else {
        unreachable!("`takes` has looked at the sizes")
    };
    let a = match product.layout {
        Layout::Tn => matrix(product.a, [k, m], lda, [64, 64]),
        _ => matrix(product.a, [m, k], lda, [128, 64]),
    };
    let result = |address| matrix(address, [m, n], ldc, [64, 64]);
    let clusters = tape.device().gemm_choice().in_clusters(plan.prefers_clusters());
    let transposed = product.layout == Layout::Nt;
    let size = if transposed { [n, k] } else { [k, n] };
    let b = matrix(product.b, size, ldb, plan.tile_of_b(transposed, clusters));
    let name = |epilogue: &str| {
        let cluster = if clusters { "_cluster" } else { "" };
        format!("{}{epilogue}{cluster}_sm90_{}", product.layout.kernel(), product.types())
    };
    let blocks = plan.blocks(clusters, tape.device().multiprocessors());
    let launch = |name: String| {
        let launch = Launch::new(name, blocks, SM90_THREADS).shared(SM90_SHARED_BYTES).value(plan.arguments);
        let launch = launch.work(work_of(product, epilogue)).sums(m * n * parts);
        launch.tensor_map(a.clone()).tensor_map(b.clone())
    };
    let device = tape.device();
    match (product.layout, epilogue) {
        (_, Epilogue::Gelu { bias, y, .. }) => device
            .launch(&launch(name(epilogue.name())).tensor_map(result(y)).tensor_map(result(product.c)).value(bias)),
        (_, Epilogue::GeluGradient { bias, x, partials, .. }) => {
            let launch = launch(name(epilogue.name())).tensor_map(result(product.c)).tensor_map(result(x));
            device.launch(&launch.value(bias).value(partials))
        }
        (Layout::Nt, Epilogue::None) => {
            device.launch(&launch(name("")).tensor_map(result(product.c)).value(product.bias.unwrap_or(0)))
        }
        (Layout::Nn, Epilogue::None) => {
            let epilogue = if product.accumulate { "_add" } else { "" };
            device.launch(&launch(name(epilogue)).tensor_map(result(product.c)))
        }
        (Layout::Tn, Epilogue::None) => {
            let launch = launch(name(""));
            let mut partials = tape.allocate_scratch(plan.partials)?;
            tape.device().launch(&launch.write(&mut partials))?;
            let [threads, blocks] = SM90_FINISH;
            let launch = Launch::new("gemm_finish_sm90_f32", 1, threads).grid(plan.tiles, blocks as usize, 1);
            let launch = launch.work(work::sum_of_parts(parts, m * n, product.output.size(), true));
            let launch = launch.value(plan.arguments).read(&partials).value(product.c).long(ldc);
            tape.device().launch(&launch)?;
            tape.recycle(partials);
            Ok(())
        }
    }
}

/// A matrix of bf16 in tiles of so many rows and columns, of 128 bytes each.
fn matrix(address: u64, [rows, columns]: [usize; 2], stride: usize, [tile_rows, tile_columns]: [u32; 2]) -> TensorMap {
    TensorMap {
        address,
        dtype: DType::Bf16,
        dims: vec![columns as u64, rows as u64],
        strides: vec![2 * stride as u64],
        tile: vec![tile_columns, tile_rows],
        swizzle: Swizzle::Bytes128,
    }
}
