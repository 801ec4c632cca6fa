//! How a matrix product is laid over a GPU: what `kernels/gemm.cu` and `kernels/gemm_sm90.cu` are launched with.
//!
//! Pure functions of the shape, so the order in which parts are added depends on no chip. (Inside one mma.sync the tensor cores of
//! different chips may add in different orders; a f32 product has the same bits everywhere.)

use crate::{Error, Result};

/// Rows and columns of C that a block computes.
pub const TILE: usize = 128;
/// Threads of a block of every GEMM kernel.
pub const THREADS: u32 = 256;
/// Dynamic shared memory of the bf16 kernels in bytes; the f32 kernels take none. It is more than the 48 KB that a launch may
/// ask for by default: raise CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES of each bf16 kernel once.
pub const BF16_SHARED_BYTES: u32 = 64 * 1024;
/// Blocks that a split product aims at: three waves of 132 multiprocessors with two blocks each. In units of one wave a bad fit
/// would idle almost half of the chip (3072 x 768 has 144 tiles, .55 of a wave); in three it idles a tenth, and
/// more splits would write more partial sums.
const SPLIT_BLOCKS: usize = 3 * 2 * 132;
/// The least of k that is worth a part of its own: 1024 multiply-adds for each partial sum that is written and read.
const SPLIT_K: usize = 1024;
/// Columns that a thread of the finishing kernel handles.
const FINISH_COLUMNS: usize = 8;

/// The arguments that every GEMM kernel takes first, by value; mirrors `Gemm` of `kernels/gemm.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GemmArguments {
    /// Rows of C.
    pub m: i32,
    /// Columns of C.
    pub n: i32,
    /// Length of the sums.
    pub k: i32,
    /// Parts that k is cut into; the grid's z.
    pub splits: i32,
    /// Elements from row to row of A.
    pub lda: i64,
    /// Elements from row to row of B.
    pub ldb: i64,
    /// Elements from row to row of C.
    pub ldc: i64,
    /// What the product is multiplied with.
    pub alpha: f32,
    /// What the old C is multiplied with; 0 does not read it.
    pub beta: f32,
}

/// A launch of a GEMM kernel and, where k is split, of the kernel that finishes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmPlan {
    /// For both kernels.
    pub arguments: GemmArguments,
    /// The product's grid; its blocks have [`THREADS`] threads.
    pub grid: [u32; 3],
    /// f32 elements of workspace for the partial sums, `[splits, m, n]`; 0 where k is not split.
    pub partials: usize,
    /// Blocks of `gemm_finish`, of [`THREADS`] threads each; 0 where there is nothing to finish.
    pub finish_blocks: u32,
}

impl GemmPlan {
    /// The product of `m` x `k` and `k` x `n` elements, `[m, n]` of C, with the strides `[lda, ldb, ldc]`:
    /// `C = alpha op(A) op(B) + beta C`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a shape with nothing in it, or with more than the kernels' 32-bit counts can hold.
    pub fn new(m: usize, n: usize, k: usize, strides: [usize; 3], alpha: f32, beta: f32) -> Result<Self> {
        Self::with_splits(m, n, k, strides, alpha, beta, splits(m, n, k))
    }

    /// As [`GemmPlan::new`], with another number of parts of k.
    ///
    /// # Errors
    /// As [`GemmPlan::new`].
    pub fn with_splits(
        m: usize,
        n: usize,
        k: usize,
        [lda, ldb, ldc]: [usize; 3],
        alpha: f32,
        beta: f32,
        splits: usize,
    ) -> Result<Self> {
        // Tiles reach up to one tile beyond a side, and the blocks of a grid are counted in 31 bits.
        let side = |size: usize| i32::try_from(size).ok().filter(|&size| size > 0 && size <= i32::MAX - TILE as i32);
        let blocks = m.div_ceil(TILE).saturating_mul(n.div_ceil(TILE));
        let finish = m.saturating_mul(n.div_ceil(FINISH_COLUMNS)).div_ceil(THREADS as usize);
        let (Some(rows), Some(columns), Some(depth), Ok(_), Ok(_)) =
            (side(m), side(n), side(k), i32::try_from(blocks), i32::try_from(finish))
        else {
            return Err(Error::usage(
                format!("a matrix product of {m} x {k} and {k} x {n}"),
                "choose sizes of at least 1 whose product has fewer than 2^31 tiles of 128 x 128; a smaller batch has fewer rows",
            ));
        };
        let splits = splits.clamp(1, 65_535);
        Ok(Self {
            arguments: GemmArguments {
                m: rows,
                n: columns,
                k: depth,
                splits: splits as i32,
                lda: lda as i64,
                ldb: ldb as i64,
                ldc: ldc as i64,
                alpha,
                beta,
            },
            grid: [blocks as u32, 1, splits as u32],
            partials: if splits > 1 { splits * m * n } else { 0 },
            finish_blocks: if splits > 1 { finish as u32 } else { 0 },
        })
    }
}

/// Parts that k is cut into, so that a product with few tiles fills a GPU.
pub fn splits(m: usize, n: usize, k: usize) -> usize {
    let tiles = m.div_ceil(TILE).saturating_mul(n.div_ceil(TILE)).max(1);
    (SPLIT_BLOCKS / tiles).min(k / SPLIT_K).max(1)
}

/// Rows of C of a tile of `kernels/gemm_sm90.cu`.
const SM90_ROWS: usize = 128;

/// The tiles of C that a kernel of `kernels/gemm_sm90.cu` has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sm90Tiles {
    /// 128 x 256: both of a block's multiplying warpgroups have one together.
    Together,
    /// 128 x 192: each has its own, in turn, so that the long way out of one is behind the products of the other (GELU and its gradient).
    InTurn,
}

impl Sm90Tiles {
    /// Columns of a tile.
    pub fn columns(self) -> usize {
        match self {
            Self::Together => 256,
            Self::InTurn => 192,
        }
    }

    /// Nanoseconds of a step's arithmetic, 2 x 128 x [`columns`](Self::columns) x 64 at 6.045 TFLOP/s a multiprocessor: 798 for the 132 of
    /// an H200, which one is known to reach.
    fn step_ns(self) -> usize {
        2 * SM90_ROWS * self.columns() * SM90_STEP / 6045
    }

    /// Bytes that a block reads from L2 in a step: its tiles of A and B; in a cluster of two a half of B comes from the other block.
    fn step_bytes(self, clusters: bool) -> usize {
        (SM90_ROWS + self.columns() / if clusters { 2 } else { 1 }) * SM90_STEP * 2
    }
}

/// Elements of k in one of its stages.
const SM90_STEP: usize = 64;
/// Rows whose column sums it writes as one.
pub const SM90_SUM_ROWS: usize = 64;
/// Threads of its blocks: a warpgroup that copies, two that multiply.
pub const SM90_THREADS: u32 = 384;
/// Dynamic shared memory of its blocks in bytes: all that a block may have.
pub const SM90_SHARED_BYTES: u32 = 227 << 10;
/// Threads of a block of `gemm_finish_sm90_f32`, and blocks for each tile.
pub const SM90_FINISH: [u32; 2] = [128, 16];
/// Multiprocessors of an H100 and an H200: what a weight's gradient is cut for, and clusters are weighed by, on any chip.
const SM90_BLOCKS: usize = 132;
/// Bytes a nanosecond that L2 gives: what is said of H100s, unmeasured. See `kernels/notes/gemm.md`.
const SM90_L2: usize = 6500;

/// The arguments that every kernel of `kernels/gemm_sm90.cu` takes first, by value; mirrors its `GemmSm90`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Sm90Arguments {
    /// Rows of C.
    pub m: i32,
    /// Columns of C.
    pub n: i32,
    /// Length of the sums.
    pub k: i32,
    /// Parts that k is cut into.
    pub parts: i32,
}

/// A launch of a kernel of `kernels/gemm_sm90.cu`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sm90Plan {
    /// The first argument.
    pub arguments: Sm90Arguments,
    /// Which tiles the kernel has.
    pub shape: Sm90Tiles,
    /// Tiles of C.
    pub tiles: usize,
    /// Pieces of work, each a tile and a part of k.
    pub pieces: usize,
    /// The same for clusters of two blocks, which take two tiles below each other; with an odd number of rows of tiles one is empty.
    pub pairs: usize,
    /// f32 elements of workspace for the parts' sums, where k is cut.
    pub partials: usize,
}

impl Sm90Plan {
    /// The product of `m` x `k` and `k` x `n` elements, with k in `parts` parts (no more than it has steps); `None` for sizes that
    /// its 32-bit counts cannot hold.
    pub fn new(m: usize, n: usize, k: usize, parts: usize, shape: Sm90Tiles) -> Option<Self> {
        let side = |size: usize| i32::try_from(size).ok().filter(|&size| size > 0 && size <= i32::MAX - 256);
        let [rows, columns] = [m.div_ceil(SM90_ROWS), n.div_ceil(shape.columns())];
        let tiles = rows.checked_mul(columns)?;
        let parts = parts.clamp(1, k.div_ceil(SM90_STEP).max(1));
        let pieces = i32::try_from(tiles.checked_mul(parts)?).ok()? as usize;
        let pairs = rows.div_ceil(2) * columns * parts;
        let arguments = Sm90Arguments { m: side(m)?, n: side(n)?, k: side(k)?, parts: parts as i32 };
        Some(Self { arguments, shape, tiles, pieces, pairs, partials: pieces * SM90_ROWS * shape.columns() })
    }

    /// Rows and columns of the tiles that the copy engine brings of B: of B [n, k] half of a tile's columns and a step of k, of B [k, n] a step,
    /// or in a cluster half of one, and 64 columns.
    pub fn tile_of_b(&self, transposed: bool, clusters: bool) -> [u32; 2] {
        match transposed {
            true => [self.shape.columns() as u32 / 2, SM90_STEP as u32],
            false => [SM90_STEP as u32 / if clusters { 2 } else { 1 }, 64],
        }
    }

    /// Blocks of a launch, in clusters of two or each by itself: they stay until all is done, one a multiprocessor.
    pub fn blocks(&self, clusters: bool, multiprocessors: usize) -> usize {
        if clusters { 2 * self.pairs.min(multiprocessors / 2).max(1) } else { self.pieces.min(multiprocessors) }
    }

    /// Whether clusters are predicted to be faster on an H200: where blocks by themselves would wait for L2, unless pairs take that many
    /// rounds more. The bits are the same either way.
    pub fn prefers_clusters(&self) -> bool {
        let time = |blocks: usize, clusters: bool| {
            let at_work = blocks.min(SM90_BLOCKS);
            let copies = at_work * self.shape.step_bytes(clusters) / SM90_L2;
            blocks.div_ceil(SM90_BLOCKS) * copies.max(self.shape.step_ns())
        };
        time(2 * self.pairs, true) < time(self.pieces, false)
    }
}

/// Parts that k of a weight's gradient is cut into on Hopper: with the fewest, the shortest of up to 24, in steps of one block. All
/// blocks wait for the last round; and a tile's part, written and read again, costs an eighth of a step (256 KB at 3 TB/s beside
/// .7 microseconds: a prediction).
pub fn sm90_parts(m: usize, n: usize, k: usize) -> usize {
    let columns = Sm90Tiles::Together.columns();
    let (tiles, steps) = (m.div_ceil(SM90_ROWS) * n.div_ceil(columns), k.div_ceil(SM90_STEP));
    let cost = |parts: &usize| {
        let rounds = (tiles * parts).div_ceil(SM90_BLOCKS);
        8 * rounds * steps.div_ceil(*parts) + tiles * parts
    };
    (1..=steps.clamp(1, 24)).min_by_key(cost).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_gradients_are_split_and_activations_are_not() {
        assert_eq!(splits(768, 768, 65_536), 22);
        assert_eq!(splits(2304, 768, 65_536), 7);
        assert_eq!(splits(3072, 768, 65_536), 5);
        assert_eq!(splits(768, 768, 1024), 1);
        assert_eq!(splits(768, 768, 4096), 4);
        for (n, k) in [(768, 768), (2304, 768), (3072, 768), (768, 3072)] {
            assert_eq!(splits(65_536, n, k), 1, "{n} {k}");
        }
    }

    #[test]
    fn a_plan_covers_c_and_its_workspace() {
        let plan = GemmPlan::new(300, 129, 4100, [4100, 129, 129], 1.0, 0.0).unwrap();
        assert_eq!((plan.grid, plan.arguments.splits), ([6, 1, 4], 4));
        assert_eq!((plan.partials, plan.finish_blocks), (4 * 300 * 129, (300u32 * 17).div_ceil(256)));
        let plan = GemmPlan::new(300, 129, 40, [40, 129, 129], 1.0, 0.0).unwrap();
        assert_eq!((plan.grid, plan.partials, plan.finish_blocks), ([6, 1, 1], 0, 0));
    }

    #[test]
    fn parts_on_hopper_fill_its_rounds() {
        for ([m, n, k], parts) in
            [([3072, 768, 65_536], 7), ([2304, 768, 65_536], 7), ([768, 768, 65_536], 7), ([4101, 768, 9_830], 1)]
        {
            assert_eq!(sm90_parts(m, n, k), parts, "{m} x {n} x {k}");
        }
        assert_eq!((sm90_parts(8, 8, 1), sm90_parts(8, 8, 128)), (1, 2));
        let plan = |m, n, k, parts| Sm90Plan::new(m, n, k, parts, Sm90Tiles::Together).unwrap();
        let in_turn = Sm90Plan::new(129, 385, 130, 1, Sm90Tiles::InTurn).unwrap();
        assert_eq!((in_turn.tiles, in_turn.pieces, in_turn.pairs), (6, 6, 3));
        assert_eq!((in_turn.tile_of_b(true, true), in_turn.tile_of_b(false, true)), ([96, 64], [32, 64]));
        assert_eq!(in_turn.tile_of_b(false, false), [64, 64]);
        let plan = plan(129, 257, 130, 9);
        assert_eq!((plan.arguments.parts, plan.tiles, plan.pieces, plan.partials), (3, 4, 12, 12 * 128 * 256));
        assert_eq!((plan.pairs, plan.blocks(false, 132), plan.blocks(true, 132)), (6, 12, 12));
        assert_eq!((plan.blocks(false, 7), plan.blocks(true, 7), plan.blocks(true, 1)), (7, 6, 2));
        let plan = Sm90Plan::new(300, 256, 64, 1, Sm90Tiles::Together).unwrap();
        assert_eq!((plan.pieces, plan.pairs, plan.blocks(true, 132)), (3, 2, 4));
        for [m, n] in [[i32::MAX as usize, 1], [1 << 30, 1 << 30]] {
            assert_eq!(Sm90Plan::new(m, n, 1, 1, Sm90Tiles::Together), None);
        }
    }

    /// All products of a step of 65,536 tokens; not where L2 is enough for the blocks that there are, nor where half of a cluster would
    /// do nothing.
    #[test]
    fn clusters_are_for_products_that_wait_for_l2() {
        let prefers_in = |shape, m, n, k, parts| Sm90Plan::new(m, n, k, parts, shape).unwrap().prefers_clusters();
        let prefers = |m, n, k, parts| prefers_in(Sm90Tiles::Together, m, n, k, parts);
        assert_eq!((Sm90Tiles::Together.step_ns(), Sm90Tiles::InTurn.step_ns()), (693, 520));
        // 92 blocks of 48 KB in 693 ns are 6.5 TB/s, and so are 83 of 40 KB in 520.
        assert!(prefers(96 * 128, 256, 768, 1) && !prefers(90 * 128, 256, 768, 1));
        assert!(
            prefers_in(Sm90Tiles::InTurn, 88 * 128, 192, 768, 1)
                && !prefers_in(Sm90Tiles::InTurn, 80 * 128, 192, 768, 1)
        );
        assert!(prefers_in(Sm90Tiles::InTurn, 65_536, 3072, 768, 1));
        for (n, k) in [(2304, 768), (768, 768), (3072, 768), (768, 3072), (768, 2304)] {
            assert!(prefers(65_536, n, k, 1), "65,536 x {n} x {k}");
            assert!(prefers(n, k, 65_536, 7), "{n} x {k} x 65,536");
        }
        assert!(prefers(9_830, 4101, 768, 1) && prefers(4101, 768, 9_830, 1));
        assert!(!prefers(2048, 768, 768, 1) && !prefers(256, 256, 65_536, 24));
        assert!(!prefers(128, 65_536, 768, 1));
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for [m, n, k] in [[0, 1, 1], [1, 0, 1], [1, 1, 0], [1 << 31, 1, 1], [i32::MAX as usize; 3]] {
            let error = GemmPlan::new(m, n, k, [k, n, n], 1.0, 0.0).unwrap_err().to_string();
            assert!(error.contains(&format!("{m} x {k}")), "{error}");
        }
    }
}
