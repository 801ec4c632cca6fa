//! Updates by blocks on a device with kernels, with the bits of [`Blocks::learn`].

use super::blocks::{Blocks, Episode};
use super::skip_gram::{Loss, Matrix, Model, logistic_tables};
use crate::device::Device;
use crate::ops::{MOST_DIMENSIONS, MOST_NEGATIVES, Rectangles, SkipGram, Square};
use crate::{Error, Result};

/// A model by blocks, in the memory of a device.
pub struct DeviceBlocks<'a> {
    device: Device,
    blocks: &'a Blocks,
    matrices: SkipGram,
}

/// Refuses what the kernel has no room for.
///
/// # Errors
/// [`Error::Usage`].
pub fn check(dimension: usize, negatives: usize) -> Result<()> {
    for (given, most, option) in
        [(dimension, MOST_DIMENSIONS, "--dimension"), (negatives, MOST_NEGATIVES, "--negatives")]
    {
        if given > most {
            return Err(Error::usage(
                format!("{option} {given} on a GPU, whose kernel takes up to {most}"),
                "give --device cpu: the result is the same",
            ));
        }
    }
    Ok(())
}

impl<'a> DeviceBlocks<'a> {
    /// Copies a model to a device. It fits where [`check`] says so.
    ///
    /// # Errors
    /// Those of the device, out of memory among them.
    pub fn new(device: &Device, blocks: &'a Blocks, model: &Model) -> Result<Self> {
        let by_blocks = |whole: &Matrix| {
            let mut matrix = Matrix::zeros(blocks.genes(), whole.dimension());
            (0..blocks.genes()).for_each(|gene| matrix.copy_row(blocks.row(gene), whole, gene));
            matrix
        };
        let [input, output] = [&model.input, &model.output].map(by_blocks);
        let square = Square {
            stride: input.padded_dimension(),
            negatives: blocks.recipe().negatives,
            firsts: blocks.firsts(),
            shares: &blocks.shares(),
            logistic: &logistic_tables(),
        };
        let matrices = SkipGram::new(device, [input.padded(), output.padded()], &square)
            .map_err(|error| error.needed_for("gene vectors", "lower --dimension, or raise --min-count"))?;
        Ok(Self { device: device.clone(), blocks, matrices })
    }

    /// Makes the updates of an episode.
    ///
    /// # Errors
    /// Those of the device.
    pub fn learn(&mut self, episode: &Episode) -> Result<Loss> {
        let count = self.blocks.count();
        let states: Vec<u64> =
            (0..count * count).map(|rectangle| self.blocks.generator_of(episode, rectangle).0).collect();
        let updates = bytemuck::cast_slice(&episode.updates);
        let rectangles = Rectangles { updates, starts: &episode.starts, states: &states };
        let losses = self.matrices.learn(&self.device, &rectangles)?;
        // In the order of the CPU.
        let mut loss = Loss::default();
        for diagonal in 0..count {
            for row in 0..count {
                let rectangle = row * count + (row + diagonal) % count;
                loss += Loss { sum: losses[2 * rectangle], terms: losses[2 * rectangle + 1] as u64 };
            }
        }
        Ok(loss)
    }

    /// Copies the vectors back.
    ///
    /// # Errors
    /// Those of the device; the failure of an earlier launch may show here.
    pub fn join(&self, model: &mut Model) -> Result<()> {
        for (whole, values) in [&mut model.input, &mut model.output].into_iter().zip(self.matrices.matrices()?) {
            let by_blocks = Matrix::of_padded(&values, whole.dimension());
            (0..self.blocks.genes()).for_each(|gene| whole.copy_row(gene, &by_blocks, self.blocks.row(gene)));
        }
        Ok(())
    }
}
