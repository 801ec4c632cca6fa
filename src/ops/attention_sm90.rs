//! How the attention kernels for Hopper are launched: tensor maps instead of pointers, and blocks that stay. Which tiles they
//! copy is written at the kernels, `kernels/attention_*_sm90.cu`.

use crate::device::attention_kernels::{AttentionKernel, PLAN_ROWS};
use crate::device::cpu::dropout::AttentionDropoutArgument;
use crate::device::{Buffer, Launch, Swizzle, TensorMap};

/// What all these kernels take.
pub(super) struct Hopper<'a> {
    pub qkv: &'a Buffer,
    pub cu_seqlens: &'a Buffer,
    pub plan: &'a Buffer,
    /// Entries of the plan.
    pub entries: usize,
    /// Tokens of the batch.
    pub rows: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub dropout: AttentionDropoutArgument,
    pub multiprocessors: usize,
}

impl Hopper<'_> {
    /// The forward pass, but for its outputs.
    pub fn forward(&self, kernel: &AttentionKernel) -> Launch {
        let launch = self.launch(kernel).tensor_map(self.map(self.qkv, 3, PLAN_ROWS));
        self.work(launch).value(self.scale).value(self.dropout)
    }

    /// The gradient of queries, but for its output.
    pub fn backward_queries(&self, kernel: &AttentionKernel, d_output: &Buffer, terms: &Buffer) -> Launch {
        let streamed = if self.head_dim == 128 { 64 } else { 128 };
        let launch = self.launch(kernel).tensor_map(self.map(self.qkv, 3, PLAN_ROWS));
        let launch = launch.tensor_map(self.map(d_output, 1, PLAN_ROWS)).tensor_map(self.map(self.qkv, 3, streamed));
        self.work(launch.read(terms)).int(self.rows).value(self.scale).value(self.dropout)
    }

    /// The gradients of keys and values, but for their output.
    pub fn backward_keys(&self, kernel: &AttentionKernel, d_output: &Buffer, terms: &Buffer) -> Launch {
        let streamed = if self.head_dim == 128 { 32 } else { 64 };
        let launch = self.launch(kernel).tensor_map(self.map(self.qkv, 3, PLAN_ROWS));
        let launch = launch.tensor_map(self.map(self.qkv, 3, streamed)).tensor_map(self.map(d_output, 1, streamed));
        let launch = launch.tensor_map(self.terms_map(terms, streamed));
        self.work(launch).int(self.rows).value(self.scale).value(self.dropout)
    }

    /// All gradients, but for their output.
    pub fn backward_whole(&self, kernel: &AttentionKernel, d_output: &Buffer, terms: &Buffer) -> Launch {
        const STREAMED: usize = 64;
        let pieces = (self.cu_seqlens.len() - 1) * self.heads;
        let launch = self.blocks(kernel, pieces).tensor_map(self.map(self.qkv, 3, PLAN_ROWS));
        let launch = launch.tensor_map(self.map(self.qkv, 3, STREAMED)).tensor_map(self.map(d_output, 1, STREAMED));
        let launch = launch.tensor_map(self.terms_map(terms, STREAMED)).read(self.cu_seqlens).read(self.plan);
        let launch = launch.int(self.entries).int(pieces).int(self.heads);
        launch.int(self.rows).value(self.scale).value(self.dropout)
    }

    fn launch(&self, kernel: &AttentionKernel) -> Launch {
        self.blocks(kernel, self.entries * self.heads)
    }

    /// A block for each multiprocessor, or for each piece of work where those are fewer.
    fn blocks(&self, kernel: &AttentionKernel, pieces: usize) -> Launch {
        let blocks = self.multiprocessors.min(pieces).max(1);
        Launch::new(kernel.name, blocks, kernel.threads).shared(kernel.shared_bytes)
    }

    fn work(&self, launch: Launch) -> Launch {
        launch.read(self.cu_seqlens).read(self.plan).int(self.entries).int(self.heads)
    }

    /// The row terms, two a query, in tiles of `queries`.
    fn terms_map(&self, terms: &Buffer, queries: usize) -> TensorMap {
        TensorMap::new(terms, 0, &[2 * self.rows * self.heads], &[], &[2 * queries as u32], Swizzle::None)
    }

    /// The matrix `[rows, parts * hidden]` in tiles of `tile_rows` rows of one head, at most 64 elements wide.
    fn map(&self, matrix: &Buffer, parts: usize, tile_rows: usize) -> TensorMap {
        let columns = parts * self.heads * self.head_dim;
        let (width, swizzle) = if self.head_dim == 32 { (32, Swizzle::Bytes64) } else { (64, Swizzle::Bytes128) };
        TensorMap::matrix(matrix, 0, [self.rows, columns], columns, [tile_rows as u32, width], swizzle)
    }
}
