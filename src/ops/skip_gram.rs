//! Skip-gram with negative sampling by blocks of genes, on devices with kernels: `kernels/skip_gram.cu`. On the CPU it is [`crate::genes::blocks`]'
//! own, whose bits these are.

use super::work;
use crate::Result;
use crate::device::{Buffer, DType, Device, Launch};

/// The most negatives of an update that the kernel draws.
pub const MOST_NEGATIVES: usize = 32;
/// The most numbers of a vector.
pub const MOST_DIMENSIONS: usize = 512;

/// What does not change while a model is trained by these blocks.
pub struct Square<'a> {
    /// Numbers from row to row of a matrix, a multiple of 16, up to [`MOST_DIMENSIONS`].
    pub stride: usize,
    /// Negatives of an update, up to [`MOST_NEGATIVES`].
    pub negatives: usize,
    /// The first row of each block, and where the last one ends.
    pub firsts: &'a [u32],
    /// Of each row: where its gene's share as a negative ends.
    pub shares: &'a [u32],
    /// The table of the logistic function, and that of its negative logarithm.
    pub logistic: &'a [f32],
}

/// Vectors and output vectors, both `[genes, stride]`, in the memory of a device.
pub struct SkipGram {
    matrices: [Buffer; 2],
    firsts: Buffer,
    shares: Buffer,
    logistic: Buffer,
    blocks: usize,
    stride: usize,
    negatives: usize,
}

/// Updates by rectangles of the square of blocks, row by row.
pub struct Rectangles<'a> {
    /// Three words each: the gene whose vector learns and the gene to tell, by their places in their blocks, and the learning rate, an f32.
    pub updates: &'a [u32],
    /// The first update of each rectangle, and where the last one ends.
    pub starts: &'a [u32],
    /// Of each rectangle the generator of its negatives.
    pub states: &'a [u64],
}

impl SkipGram {
    /// Copies two matrices and what belongs to them to a device.
    ///
    /// # Errors
    /// Those of the device, out of memory among them.
    pub fn new(device: &Device, matrices: [&[f32]; 2], square: &Square) -> Result<Self> {
        let floats = |values: &[f32]| Buffer::upload(device, values);
        let words = |values: &[u32]| Buffer::upload(device, bytemuck::cast_slice::<u32, i32>(values));
        Ok(Self {
            matrices: [floats(matrices[0])?, floats(matrices[1])?],
            firsts: words(square.firsts)?,
            shares: words(square.shares)?,
            logistic: floats(square.logistic)?,
            blocks: square.firsts.len() - 1,
            stride: square.stride,
            negatives: square.negatives,
        })
    }

    /// Makes updates, diagonal after diagonal. Of each rectangle the sum of the losses and the number of its terms.
    ///
    /// # Errors
    /// Those of the device.
    pub fn learn(&mut self, device: &Device, rectangles: &Rectangles) -> Result<Vec<f64>> {
        let Rectangles { updates, starts, states } = rectangles;
        if updates.is_empty() {
            return Ok(vec![0.0; 2 * states.len()]);
        }
        let updates = Buffer::upload(device, bytemuck::cast_slice::<u32, i32>(updates))?;
        let first_updates = Buffer::upload(device, bytemuck::cast_slice::<u32, i32>(starts))?;
        let states = Buffer::upload(device, bytemuck::cast_slice::<u64, i32>(states))?;
        let mut losses = Buffer::on(device, 2 * self.blocks * self.blocks, DType::F64)?;
        let kernel = match self.stride {
            ..=128 => "skip_gram_f32_d128",
            129..=256 => "skip_gram_f32_d256",
            _ => "skip_gram_f32_d512",
        };
        let genes = self.shares.len();
        for diagonal in 0..self.blocks {
            let of = |row: usize| row * self.blocks + (row + diagonal) % self.blocks;
            let count = |rectangle: usize| (starts[rectangle + 1] - starts[rectangle]) as usize;
            let count = (0..self.blocks).map(|row| count(of(row))).sum();
            let [input, output] = &mut self.matrices;
            let launch =
                Launch::new(kernel, self.blocks, 32).work(work::skip_gram(count, self.negatives, genes, self.stride));
            let launch = launch.write(input).write(output).read(&self.firsts).read(&self.shares).read(&self.logistic);
            let launch = launch.read(&updates).read(&first_updates).read(&states);
            device.launch(&launch.int(diagonal).int(self.stride).int(self.negatives).write(&mut losses))?;
        }
        losses.read()
    }

    /// Vectors and output vectors, copied to the host.
    ///
    /// # Errors
    /// Those of the device.
    pub fn matrices(&self) -> Result<[Vec<f32>; 2]> {
        let [input, output] = &self.matrices;
        Ok([input.read()?, output.read()?])
    }
}
