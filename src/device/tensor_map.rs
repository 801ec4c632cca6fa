//! Tensors as Hopper's copy engine (TMA) takes them: where the tile at given indices lies, and how it lands in shared memory.

use super::{Buffer, DType};

/// How the engine permutes the 16-byte chunks of a tile in shared memory, so that the tensor cores read it without bank
/// conflicts: by the length of the tile's rows in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// Rows as they are.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

/// A tensor of one to five dimensions, the innermost first, and the tiles that a kernel copies of it. A driver encodes it as
/// the kernel's `const __grid_constant__ TensorMap` (`kernels/common/sm90.cuh`) and refuses what the engine cannot do: an
/// address or a stride that is no multiple of 16 bytes, a tile of more than 256 elements in one dimension, tile rows that are
/// not as long as the swizzle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of the first element.
    pub address: u64,
    /// Type of the elements: bf16 or f32.
    pub dtype: DType,
    /// Elements in each dimension; what a tile reaches beyond them is zero, and is not written.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, in every dimension but the innermost, which is dense.
    pub strides: Vec<u64>,
    /// Elements of a tile in each dimension.
    pub tile: Vec<u32>,
    /// Permutation in shared memory.
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// The tensor that begins with element `offset` of a buffer; `strides` in elements.
    pub fn new(
        buffer: &Buffer,
        offset: usize,
        dims: &[usize],
        strides: &[usize],
        tile: &[u32],
        swizzle: Swizzle,
    ) -> Self {
        let (dtype, size) = (buffer.dtype(), buffer.dtype().size());
        Self {
            address: buffer.address() + (offset * size) as u64,
            dtype,
            dims: dims.iter().map(|&dim| dim as u64).collect(),
            strides: strides.iter().map(|&stride| (stride * size) as u64).collect(),
            tile: tile.to_vec(),
            swizzle,
        }
    }

    /// Bytes of the innermost dimension, from end to end.
    pub fn row_bytes(&self) -> u64 {
        self.dims[0] * self.dtype.size() as u64
    }

    /// A matrix `[rows, columns]` whose rows are `stride` elements apart, in tiles of `tile_rows` x `tile_columns`.
    pub fn matrix(
        buffer: &Buffer,
        offset: usize,
        [rows, columns]: [usize; 2],
        stride: usize,
        [tile_rows, tile_columns]: [u32; 2],
        swizzle: Swizzle,
    ) -> Self {
        Self::new(buffer, offset, &[columns, rows], &[stride], &[tile_columns, tile_rows], swizzle)
    }
}
