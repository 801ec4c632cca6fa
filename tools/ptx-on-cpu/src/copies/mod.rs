//! Asynchronous copies: `cp.async`, bulk copies, tensor copies, and the maps of the latter.

mod bulk;
mod groups;
mod maps;
pub(crate) mod tensor;

use crate::instruction::Reduction;

/// A `cp.async` that nobody has waited for.
#[derive(Clone, Copy)]
pub(crate) struct AsyncCopy {
    pub shared: u64,
    pub global: u64,
    /// None where it was carried out early.
    pub bytes: usize,
    /// Bytes that are read; zeros follow.
    pub length: usize,
    pub statement: u32,
}

/// A store from shared to global memory that has not been carried out.
pub(crate) struct Store {
    pub rank: usize,
    /// Pieces: offset in shared memory before the permutation, global address, bytes.
    pub pieces: Vec<(usize, u64, usize)>,
    pub swizzle: crate::tensor_map::Swizzle,
    pub reduction: Reduction,
    pub statement: u32,
}
