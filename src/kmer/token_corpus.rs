//! Pretraining windows of a genome for tokenizers whose tokens do not overlap: blocks of six bases and byte-pair encoding.
//!
//! DNABERT-2 and the Nucleotide Transformer learn from pieces of the genome as long as the model reads. A batch is a pure function of its
//! [`BatchKey`]:
//!
//! **Draws.** Window i (from 0) of a batch takes one Philox block `[a, b, c, d]`, number i of the batch for [`Purpose::Corpus`].
//!
//! **Place.** All windows have the same number of bases: as many as blocks for a sequence of full length cover; of byte-pair encoding, whose
//! tokens have no fixed length, 8 for each token, nearly twice as many as they cover on average. A window starts with equal probability at any
//! base from which so many known bases follow, chosen by c and d as in [`super::corpus`]. If strands are mixed and a is odd, its reverse
//! complement is taken.
//!
//! **Filling.** The tokens of a window behind the model's length are dropped, as the families' own programs drop them. Windows are taken in
//! turn until the budget is full; the last one is cut to fit, and where less is left than a token between special tokens, it stays unused.

use std::sync::Arc;

use rayon::prelude::*;

use super::batch::Batch;
use super::corpus::{CorpusOptions, Runs};
use super::key::BatchKey;
use crate::genome::checksum::checksum;
use crate::genome::region::reverse_complement;
use crate::genome::twobit::Genome;
use crate::philox::{Purpose, below_u64};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Bases that are tokenised for each token of a window, where a tokenizer does not say how many its tokens cover.
const BASES_A_TOKEN: usize = 8;

/// Sequences of tokens drawn from a genome.
pub struct TokenCorpus {
    genome: Arc<Genome>,
    tokenizer: Arc<dyn Tokenizer>,
    reverse_complement: bool,
    /// Tokens of the longest sequence, special ones included.
    longest: usize,
    /// Bases of a window.
    width: usize,
    runs: Runs,
}

impl TokenCorpus {
    /// Prepares drawing from `genome`.
    ///
    /// # Errors
    /// [`Error::Usage`] if `max_length` is below 13; [`Error::Input`] if the chosen parts have no run of known bases that is as long as
    /// a window, or at least as one of 13 tokens.
    pub fn new(genome: Arc<Genome>, tokenizer: Arc<dyn Tokenizer>, options: &CorpusOptions) -> Result<Self> {
        const SMALLEST: usize = 13;
        if options.max_length < SMALLEST {
            let found = format!("sequences of at most {} tokens", options.max_length);
            return Err(Error::usage(found, format!("choose a maximum length of {SMALLEST} or more")));
        }
        let frame = tokenizer.specials().frame();
        let bases = |tokens: usize| tokenizer.most_bases(tokens - frame).unwrap_or(BASES_A_TOKEN * (tokens - frame));
        let runs = Runs::new(&genome, &options.parts);
        let needed = bases(SMALLEST);
        if runs.longest() < needed {
            let found = format!(
                "no run of known bases is {needed} long in the chosen parts; the longest of {} has {}",
                runs.list.len(),
                runs.longest()
            );
            return Err(Error::input(genome.path(), "", found, "choose other regions, or a genome with fewer N"));
        }
        let width = bases(options.max_length).min(runs.longest());
        let CorpusOptions { reverse_complement, max_length: longest, .. } = *options;
        Ok(Self { genome, tokenizer, reverse_complement, longest, width, runs })
    }

    /// Tokens of the longest sequence, special ones included.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// What tells these data from others.
    pub(super) fn checksum(&self) -> String {
        let strands = if self.reverse_complement { "both strands" } else { "one strand" };
        let bases = checksum(&self.genome, &self.runs.list);
        format!("{bases:08x}, {} tokens of {} bases, {strands}", self.longest, self.width)
    }

    /// The unmasked batch of `key`: `budget` tokens, or as many less as make no sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] for a budget that holds no sequence, or above what 32 bits count; [`Error::Input`] if the genome's file is no
    /// longer what it was.
    pub fn batch(&self, key: &BatchKey, budget: usize) -> Result<Batch> {
        let specials = self.tokenizer.specials();
        let shortest = specials.frame() + 1;
        if budget < shortest || i32::try_from(budget).is_err() {
            let remedy = format!("give {shortest} to {} tokens a batch, best some thousands", i32::MAX);
            return Err(Error::usage(format!("a budget of {budget} tokens"), remedy));
        }
        let mut batch = Batch::new();
        let mut first = 0;
        while budget - batch.total_tokens() >= shortest {
            // As many as will be needed at least, and then again for what is left.
            let count = (budget - batch.total_tokens()).div_ceil(self.longest) as u32;
            let drawn: Vec<Vec<i32>> =
                (first..first + count).into_par_iter().map(|index| self.window(key, index)).collect();
            first += count;
            for mut tokens in drawn {
                let left = budget - batch.total_tokens();
                if left >= shortest {
                    tokens.truncate(self.longest.min(left) - specials.frame() + 1);
                    tokens.extend(specials.sep);
                    batch.push(&tokens);
                }
            }
        }
        self.genome.check()?;
        Ok(batch)
    }

    /// The first special token of window `index`, and all of its tokens.
    fn window(&self, key: &BatchKey, index: u32) -> Vec<i32> {
        let [strand, _, high, low] = key.draws(Purpose::Corpus).block(index);
        let (sequence, start) = self.runs.place(self.width, |windows| below_u64([high, low], windows));
        let mut bases = Vec::with_capacity(self.width);
        self.genome.decode(sequence, start as u32..(start + self.width) as u32, &mut bases);
        if self.reverse_complement && strand & 1 == 1 {
            reverse_complement(&mut bases);
        }
        let mut tokens = vec![self.tokenizer.specials().cls];
        self.tokenizer.encode(&bases, &mut tokens);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmer::corpus::Parts;
    use crate::kmer::corpus::tests::genome;
    use crate::philox::{Philox, below};
    use crate::tokenizer::blocks::{Blocks, Version};
    use crate::tokenizer::train;

    fn bases(count: u32) -> Vec<u8> {
        let philox = Philox::new(3, 0, 0);
        (0..count).map(|place| b"ACGT"[below(philox.block(u64::from(place))[0], 4) as usize]).collect()
    }

    #[test]
    fn batches_are_pure_functions_of_their_keys_and_full() {
        let folder = tempfile::tempdir().unwrap();
        let mut sequence = bases(6_000);
        sequence.extend(b"NNNN");
        sequence.extend(bases(900));
        let genome = Arc::new(genome(folder.path(), &[("a", &sequence)]));
        let pieces = train::learn(&genome, 60, 10_000).unwrap().tokenizer;
        for (tokenizer, frame) in [(Blocks::new(Version::One).shared(), 1), (pieces.shared(), 2)] {
            let specials = tokenizer.specials();
            let options = CorpusOptions { max_length: 100, reverse_complement: true, parts: Parts::All };
            let corpus = TokenCorpus::new(Arc::clone(&genome), Arc::clone(&tokenizer), &options).unwrap();
            for budget in [frame + 1, 99, 100, 101, 102, 103, 1000, 1234] {
                let key = BatchKey::training(1, 2, 3);
                let batch = corpus.batch(&key, budget).unwrap();
                assert!((budget - frame..=budget).contains(&batch.total_tokens()), "{budget} {}", batch.total_tokens());
                assert_eq!(batch, corpus.batch(&key, budget).unwrap());
                if budget > 99 {
                    assert_ne!(batch.tokens, corpus.batch(&BatchKey::training(1, 2, 4), budget).unwrap().tokens);
                    assert_eq!(batch.max_length(), 100, "windows hold enough for the longest sequence");
                }
                for ends in batch.cu_seqlens.windows(2) {
                    let tokens = &batch.tokens[ends[0] as usize..ends[1] as usize];
                    let inner = &tokens[1..tokens.len() + 1 - frame];
                    assert_eq!(
                        (tokens[0], tokens.last().copied().filter(|_| frame == 2)),
                        (specials.cls, specials.sep)
                    );
                    let text: String = inner.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
                    let mut turned = text.clone().into_bytes();
                    reverse_complement(&mut turned);
                    let all = String::from_utf8(sequence.clone()).unwrap();
                    assert!(all.contains(&text) || all.contains(str::from_utf8(&turned).unwrap()), "{text}");
                }
            }
            assert!(corpus.batch(&BatchKey::training(1, 2, 3), frame).is_err());
        }
    }
}
