//! Pretraining batches that a device makes for itself, out of a genome in its memory: `kernels/sampling.cu`.
//!
//! The host needs three numbers of a batch, to choose grids and shapes: its sequences, the longest of them, and the rows
//! that the head reads. They are pure functions of the batch's key, so the host draws them as well
//! ([`crate::kmer::corpus::Corpus::shape`]): about a millisecond on one core for 65,536 tokens, while the device is busy with earlier
//! work. Nothing is uploaded, nothing is read back, nobody waits; and no rows are computed only to be thrown away, as they
//! would be if the head had a fixed number of rows with room to spare.

use std::rc::Rc;

use super::work;
use crate::autograd::{DeviceBatch, Tape};
use crate::device::sampling_plan::{
    CorpusArgument, CorpusTables, DrawsArgument, MaskingArgument, THREADS, TILE_ROWS, capacity,
};
use crate::device::{Buffer, DType, Device, Launch};
use crate::kmer::batch::BatchShape;
use crate::kmer::corpus::Corpus;
use crate::kmer::hiding::Plan;
use crate::kmer::key::BatchKey;
use crate::philox::Purpose;
use crate::{Error, Result};

/// A corpus in the memory of a device.
pub struct Sampler {
    corpus: CorpusArgument,
    vocabulary: usize,
    /// What `corpus` points to.
    _tables: [Buffer; 3],
}

impl Sampler {
    /// Copies the packed genome and the table of its runs to a device that has kernels: a quarter of a byte a base.
    ///
    /// # Errors
    /// Those of [`CorpusTables::new`] and of the device, out of memory among them.
    pub fn new(device: &Device, corpus: &Corpus) -> Result<Self> {
        let tables = CorpusTables::new(corpus)?;
        let memory =
            |error: Error| error.needed_for("the packed genome", "use a device with more memory, or a smaller genome");
        let packed = Buffer::upload(device, &tables.packed).map_err(memory)?;
        let words = |values: &[u64]| Buffer::upload(device, bytemuck::cast_slice::<u64, i32>(values)).map_err(memory);
        let (run_first, run_before) = (words(&tables.run_first)?, words(&tables.run_before)?);
        Ok(Self {
            corpus: tables.argument(packed.address(), run_first.address(), run_before.address()),
            vocabulary: corpus.vocabulary().len(),
            _tables: [packed, run_first, run_before],
        })
    }

    /// The masked batch of `key`, whose shape is `shape`: bit for bit that of the CPU. Its memory is of the tape's pool;
    /// [`Tape::recycle_batch`] gives it back.
    ///
    /// # Errors
    /// Those of the device.
    pub fn batch(&self, tape: &mut Tape, key: &BatchKey, shape: &BatchShape, masking: Plan) -> Result<Rc<DeviceBatch>> {
        let budget = shape.tokens;
        let capacity = capacity(budget);
        let (blocks, tiles) = (budget.div_ceil(THREADS as usize), budget.div_ceil(TILE_ROWS));
        let mut integers = |length| tape.allocate_as(length, DType::I32);
        let (mut tokens, mut positions, mut token_types) = (integers(budget)?, integers(budget)?, integers(budget)?);
        // Room for every token, whatever the masks: what the kernel writes can never leave it.
        let (mut rows, mut labels) = (integers(budget)?, integers(budget)?);
        let (mut cu_seqlens, mut counts, mut hidden_counts) = (integers(capacity + 1)?, integers(3)?, integers(tiles)?);
        let mut windows = integers(2 * capacity)?; // 64 bits each
        let mut hidden = tape.allocate_as(budget, DType::U8)?;
        token_types.fill_zero()?;

        let device = tape.device();
        let [of_windows, of_tokens, of_choice, of_count, of_rows] = work::sampling(budget, capacity, shape.rows, tiles);
        let launch = |kernel: &str, blocks: usize, work| Launch::new(kernel, blocks, THREADS).work(work);
        let (corpus_draws, masking_draws) =
            (DrawsArgument::from(key.draws(Purpose::Corpus)), DrawsArgument::from(key.draws(Purpose::Masking)));
        let masking = MaskingArgument::from(masking);
        let windows_launch =
            launch("sample_windows", 1, of_windows).value(self.corpus).value(corpus_draws).int(budget).int(capacity);
        device.launch(&windows_launch.write(&mut cu_seqlens).write(&mut windows).write(&mut counts))?;
        let tokens_launch = launch("sample_tokens", blocks, of_tokens).value(self.corpus).int(budget).read(&cu_seqlens);
        let tokens_launch = tokens_launch.read(&windows).read(&counts).write(&mut tokens).write(&mut positions);
        device.launch(&tokens_launch.write(&mut hidden))?;
        let choose = launch("mask_choose", blocks, of_choice).value(masking).value(masking_draws).int(budget);
        device.launch(&choose.read(&cu_seqlens).read(&counts).write(&mut hidden))?;
        device.launch(&launch("mask_count", tiles, of_count).int(budget).read(&hidden).write(&mut hidden_counts))?;
        let write = launch("mask_write", tiles, of_rows).value(masking).value(masking_draws).int(budget);
        let write = write
            .int(self.vocabulary)
            .read(&hidden)
            .read(&hidden_counts)
            .write(&mut tokens)
            .write(&mut rows)
            .write(&mut labels);
        device.launch(&write.write(&mut counts))?;

        [windows, hidden, counts, hidden_counts].into_iter().for_each(|buffer| tape.recycle(buffer));
        rows.truncate(shape.rows);
        labels.truncate(shape.rows);
        let (host_cu_seqlens, longest, pairs) = (shape.cu_seqlens.clone(), shape.longest, shape.pairs);
        cu_seqlens.truncate(host_cu_seqlens.len());
        Ok(Rc::new(DeviceBatch {
            tokens,
            positions,
            token_types,
            cu_seqlens,
            host_cu_seqlens,
            rows,
            labels,
            longest,
            pairs,
        }))
    }
}
