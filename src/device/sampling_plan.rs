//! What `kernels/sampling.cu` is given: a corpus as tables for device memory, and the arguments of one batch.

use crate::kmer::corpus::{Corpus, SHORTEST_SEQUENCE};
use crate::kmer::hiding::Plan;
use crate::kmer::key::Draws;
use crate::{Error, Result};

/// Threads of a block of every sampling kernel; `sample_windows` is one block.
pub const THREADS: u32 = 256;
/// Tokens that a block of `mask_count` and `mask_write` handles.
pub const TILE_ROWS: usize = 1024;

/// The most sequences that a batch of `budget` tokens can have: the length of `windows`, and of `cu_seqlens` less one.
pub fn capacity(budget: usize) -> usize {
    budget / (SHORTEST_SEQUENCE + 2) + 1
}

/// A corpus for device memory.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusTables {
    /// Four bases a byte, `[bytes]`; the sequences that have runs, each from a byte of its own.
    pub packed: Vec<u8>,
    /// The first base of each run of known bases, counted from the start of `packed`, `[runs]`; the longest run first.
    pub run_first: Vec<u64>,
    /// The bases of the runs before each run together, and of all, `[runs + 1]`.
    pub run_before: Vec<u64>,
    k: i32,
    longest: i32,
    reverse_complement: bool,
    digits: u32,
}

impl CorpusTables {
    /// Collects the tables; copies the packed genome once.
    ///
    /// # Errors
    /// [`Error::Usage`] for sequences or runs that 31 bits cannot count; [`Error::Input`] for a genome that was changed meanwhile.
    pub fn new(corpus: &Corpus) -> Result<Self> {
        let too_many =
            |what: &str| Error::usage(what.to_owned(), "choose a maximum length, or parts of the genome, below 2^31");
        let longest = i32::try_from(corpus.longest()).ok().filter(|&longest| longest < i32::MAX - 2);
        let longest = longest.ok_or_else(|| too_many("sequences of 2^31 tokens"))?;
        i32::try_from(corpus.runs().len()).map_err(|_| too_many("2^31 runs of known bases"))?;
        let mut packed = Vec::new();
        let genome = corpus.genome();
        let mut first_bytes = vec![None; genome.sequences().len()];
        let (mut run_first, mut run_before) = (Vec::new(), vec![0]);
        let mut bases = 0;
        for (sequence, run) in corpus.runs() {
            let first_byte = *first_bytes[*sequence].get_or_insert_with(|| {
                let first_byte = packed.len() as u64;
                packed.extend_from_slice(genome.packed(*sequence));
                first_byte
            });
            run_first.push(4 * first_byte + u64::from(run.start));
            bases += u64::from(run.end - run.start);
            run_before.push(bases);
        }
        genome.check()?;
        Ok(Self {
            packed,
            run_first,
            run_before,
            k: corpus.vocabulary().k() as i32,
            longest,
            reverse_complement: corpus.reverse_complement(),
            digits: u32::from_le_bytes(corpus.vocabulary().digits_of_codes()),
        })
    }

    /// The kernels' argument, with the device addresses of the three tables.
    pub fn argument(&self, packed: u64, run_first: u64, run_before: u64) -> CorpusArgument {
        CorpusArgument {
            packed,
            run_first,
            run_before,
            runs: self.run_first.len() as i32,
            k: self.k,
            longest: self.longest,
            reverse_complement: self.reverse_complement.into(),
            digits: self.digits,
            unused: 0,
        }
    }
}

/// Mirrors `Corpus` of `kernels/sampling.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CorpusArgument {
    packed: u64,
    run_first: u64,
    run_before: u64,
    runs: i32,
    k: i32,
    longest: i32,
    reverse_complement: i32,
    digits: u32,
    unused: u32,
}

/// Mirrors `Draws` of `kernels/sampling.cu`: all that a batch depends on.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DrawsArgument {
    key: [u32; 2],
    step: u32,
    stream: u32,
    micro_batch: u32,
}

impl From<Draws> for DrawsArgument {
    fn from(draws: Draws) -> Self {
        let philox = draws.philox();
        Self { key: philox.key, step: philox.step, stream: philox.stream, micro_batch: draws.micro_batch() }
    }
}

/// Mirrors `Masking` of `kernels/sampling.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct MaskingArgument {
    threshold: u64,
    narrowest: u32,
    widest: u32,
    reach: u32,
    seeds: u32,
}

impl From<Plan> for MaskingArgument {
    fn from(plan: Plan) -> Self {
        match plan {
            Plan::Spans { centre_threshold, narrowest, widest } => {
                Self { threshold: centre_threshold, narrowest, widest, reach: 0, seeds: 0 }
            }
            Plan::Seeds { seed_threshold, reach } => {
                Self { threshold: seed_threshold, narrowest: 0, widest: 0, reach, seeds: 1 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_have_the_sizes_that_the_kernels_expect() {
        assert_eq!(size_of::<CorpusArgument>(), 48);
        assert_eq!(size_of::<DrawsArgument>(), 20);
        assert_eq!(size_of::<MaskingArgument>(), 24);
    }

    #[test]
    fn a_batch_of_shortest_sequences_fits_its_capacity() {
        for budget in 7..100 {
            assert!(capacity(budget) * 7 >= budget, "{budget}");
        }
    }
}
