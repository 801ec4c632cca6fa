//! DNABERT's pretraining corpus, drawn on the fly from a packed genome.
//!
//! Ji et al. 2021 cut the genome into sequences of which half have full length and half a random one; windows with N
//! are left out here, where DNABERT has no rule for them. A batch is a pure function of its [`BatchKey`]:
//!
//! **Draws.** Sequence i (from 0) of a batch takes one Philox block `[a, b, c, d]`, number i of the batch for
//! [`Purpose::Corpus`]; [`BatchKey`] lays out the counter.
//!
//! **Length.** With `a < 2^31` the sequence has full length, `longest` k-mers; otherwise it has
//! `5 + below(b, longest - 4)`. `longest` is `max_length - 2`, or the k-mers of the genome's longest run of known bases
//! where that is less. `[CLS]` and `[SEP]` add two tokens.
//!
//! **Filling.** Sequences are taken in turn until the budget is full to the last token. One that would leave 1 to 6
//! tokens (the shortest sequence has 7) takes them as well if it stays within `longest + 2` tokens, or else is
//! shortened so that 7 remain. The last one is cut to fit.
//!
//! **Place.** A sequence of w bases (its k-mers plus k - 1) starts with equal probability at any base from which w
//! known bases of the corpus' parts of the genome follow. Let the runs of such bases be sorted by descending length
//! (equal ones by their place in the genome), and let `before(j)` be the windows in the first j runs: their bases
//! together, minus `j * (w - 1)`. With m runs of at least w bases and `u = below_u64([c, d], before(m))`, the window
//! lies in the last run j < m (from 0) with `before(j) <= u` and starts at base `u - before(j)` of that run. Nothing is
//! rejected and drawn again, so one block is enough.
//!
//! **Strand.** If the corpus mixes strands and a is odd, the k-mers of the reverse complement are taken.

use std::ops::Range;
use std::sync::Arc;

use super::batch::{Batch, BatchShape};
use super::fill::{self, Filling};
use super::hiding::Plan;
use super::key::BatchKey;
use super::regions::Regions;
use super::text::TextCorpus;
use super::token_corpus::TokenCorpus;
use super::vocabulary::Vocabulary;
use crate::genome::checksum::checksum;
use crate::genome::twobit::Genome;
use crate::philox::{Purpose, below, below_u64};
use crate::{Error, Result};

/// k-mers in the shortest sequence.
pub const SHORTEST_SEQUENCE: usize = 5;

/// `[CLS]` and `[SEP]`.
pub(super) const SPECIALS_PER_SEQUENCE: usize = 2;

/// A sequence of this many tokens can always be shortened and still leave the shortest one.
const SMALLEST_MAX_LENGTH: usize = 2 * (SHORTEST_SEQUENCE + SPECIALS_PER_SEQUENCE) - 1;

/// Which parts of a genome a corpus draws from. A window lies wholly inside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Parts {
    /// Everything.
    #[default]
    All,
    /// These regions only (evaluation).
    Only(Regions),
    /// Everything else (training).
    Except(Regions),
}

/// How sequences are drawn from a genome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    /// Tokens of the longest sequence, `[CLS]` and `[SEP]` included; DNABERT's is 512.
    pub max_length: usize,
    /// Whether half of the sequences come from the reverse strand. DNABERT's do not.
    pub reverse_complement: bool,
    /// Where windows may lie.
    pub parts: Parts,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self { max_length: 512, reverse_complement: false, parts: Parts::All }
    }
}

/// Where the tokens of the pretraining come from.
pub enum PretrainingData {
    /// Windows of a genome.
    Genome(Corpus),
    /// DNABERT's text format.
    Text(TextCorpus),
    /// Windows of a genome in tokens that do not overlap.
    Tokens(TokenCorpus),
}

impl PretrainingData {
    /// What tells these data from others: of what, and how, sequences are drawn.
    pub fn checksum(&self) -> String {
        match self {
            Self::Genome(corpus) => {
                let bases = checksum(&corpus.genome, &corpus.runs.list);
                let strands = if corpus.reverse_complement { "both strands" } else { "one strand" };
                format!("{bases:08x}, {} k-mers, {strands}", corpus.longest)
            }
            Self::Text(corpus) => format!("{:08x}, {} sequences", corpus.checksum(), corpus.sequences()),
            Self::Tokens(corpus) => corpus.checksum(),
        }
    }

    /// The unmasked batch of `key`, with exactly `budget` tokens; of a [`TokenCorpus`] perhaps a few less.
    ///
    /// # Errors
    /// As [`Corpus::batch`], [`TextCorpus::batch`] and [`TokenCorpus::batch`].
    pub fn batch(&self, key: &BatchKey, budget: usize) -> Result<Batch> {
        match self {
            Self::Genome(corpus) => corpus.batch(key, budget),
            Self::Text(corpus) => corpus.batch(key, budget),
            Self::Tokens(corpus) => corpus.batch(key, budget),
        }
    }
}

/// Where a sequence of a batch lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Index of the genome's sequence.
    pub sequence: usize,
    /// Its bases, 0-based and half-open: as many as k-mers, plus k - 1.
    pub bases: Range<usize>,
    /// Whether the other strand is read.
    pub reverse_complement: bool,
}

/// Sequences of k-mers drawn from a genome.
pub struct Corpus {
    genome: Arc<Genome>,
    vocabulary: Vocabulary,
    reverse_complement: bool,
    /// k-mers in a sequence of full length.
    longest: usize,
    runs: Runs,
}

impl Corpus {
    /// Prepares drawing from `genome`.
    ///
    /// # Errors
    /// [`Error::Usage`] if `max_length` is below 13; [`Error::Input`] if no run of known bases in the chosen parts
    /// is as long as a sequence of 13 tokens.
    pub fn new(genome: Arc<Genome>, vocabulary: Vocabulary, options: &CorpusOptions) -> Result<Self> {
        if options.max_length < SMALLEST_MAX_LENGTH {
            let found = format!("sequences of at most {} tokens", options.max_length);
            return Err(Error::usage(found, format!("choose a maximum length of {SMALLEST_MAX_LENGTH} or more")));
        }
        let runs = Runs::new(&genome, &options.parts);
        let needed = SMALLEST_MAX_LENGTH - SPECIALS_PER_SEQUENCE + vocabulary.k() - 1;
        if runs.longest() < needed {
            let found = format!(
                "no run of known bases is {needed} long in the chosen parts; the longest of {} has {}",
                runs.list.len(),
                runs.longest()
            );
            return Err(Error::input(genome.path(), "", found, "choose other regions, or a genome with fewer N"));
        }
        let longest = (options.max_length - SPECIALS_PER_SEQUENCE).min(runs.longest() - (vocabulary.k() - 1));
        Ok(Self { genome, vocabulary, reverse_complement: options.reverse_complement, longest, runs })
    }

    /// Known bases that windows may cover.
    pub fn bases(&self) -> u64 {
        self.runs.total()
    }

    /// The vocabulary of the tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The genome that windows are drawn from.
    pub fn genome(&self) -> &Genome {
        &self.genome
    }

    /// Whether half of the sequences come from the reverse strand.
    pub fn reverse_complement(&self) -> bool {
        self.reverse_complement
    }

    /// k-mers in a sequence of full length.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The runs of known bases, as the index of a sequence and a range of it, in the order that places are counted in.
    pub fn runs(&self) -> &[(usize, Range<u32>)] {
        &self.runs.list
    }

    /// The unmasked batch of `key`: [`Corpus::windows`] as tokens, exactly `budget` of them.
    ///
    /// # Errors
    /// As [`Corpus::windows`]; [`crate::Error::Input`] if the genome's file is no longer what it was.
    pub fn batch(&self, key: &BatchKey, budget: usize) -> Result<Batch> {
        let windows = self.windows(key, budget)?;
        let tokens = |window: &Window| window.bases.len() - (self.vocabulary.k() - 1) + SPECIALS_PER_SEQUENCE;
        let lengths: Vec<usize> = windows.iter().map(tokens).collect();
        let batch = fill::pack(&lengths, |i, k_mers| {
            let Window { sequence, bases, reverse_complement } = windows[i as usize].clone();
            self.vocabulary.encode_packed(self.genome.packed(sequence), bases, reverse_complement, k_mers);
            Ok(())
        })?;
        self.genome.check()?;
        Ok(batch)
    }

    /// The windows of the batch of `key`, which fill exactly `budget` tokens, in the order of the batch.
    ///
    /// # Errors
    /// [`Error::Usage`] for a budget below 7 tokens or above what 32 bits count.
    pub fn windows(&self, key: &BatchKey, budget: usize) -> Result<Vec<Window>> {
        let draws = key.draws(Purpose::Corpus);
        let window = |(i, length)| self.window(draws.block(i), length - SPECIALS_PER_SEQUENCE);
        Ok((0..).zip(self.lengths(key, budget)?).map(window).collect())
    }

    /// The tokens of each sequence of the batch of `key`, `budget` together.
    fn lengths(&self, key: &BatchKey, budget: usize) -> Result<Vec<usize>> {
        let filling = Filling {
            shortest: SHORTEST_SEQUENCE + SPECIALS_PER_SEQUENCE,
            may_grow_to: Some(self.longest + SPECIALS_PER_SEQUENCE),
        };
        filling.check(budget)?;
        let draws = key.draws(Purpose::Corpus);
        Ok(filling.lengths(budget, |i| self.drawn_length(draws.block(i)) + SPECIALS_PER_SEQUENCE))
    }

    /// How large the batch of `key` is when `masking` has hidden its tokens: its draws are made, but not the batch.
    ///
    /// # Errors
    /// As [`Corpus::windows`].
    pub fn shape(&self, key: &BatchKey, budget: usize, masking: &Plan) -> Result<BatchShape> {
        let lengths = self.lengths(key, budget)?;
        let ends = lengths.iter().scan(0, |end, &length| {
            *end += length as i32;
            Some(*end)
        });
        Ok(BatchShape {
            tokens: budget,
            cu_seqlens: std::iter::once(0).chain(ends).collect(),
            longest: lengths.iter().copied().max().unwrap_or(0),
            pairs: lengths.iter().map(|&length| (length as u64).pow(2)).sum(),
            rows: masking.count(&lengths, key),
        })
    }

    /// k-mers that the sequence with this block has before the filling.
    fn drawn_length(&self, [kind, length, ..]: [u32; 4]) -> usize {
        if kind < 1 << 31 {
            return self.longest;
        }
        let choices = (self.longest - SHORTEST_SEQUENCE + 1) as u32;
        SHORTEST_SEQUENCE + below(length, choices) as usize
    }

    /// Where `k_mers` k-mers with this block lie.
    fn window(&self, [kind, _, high, low]: [u32; 4], k_mers: usize) -> Window {
        let width = k_mers + self.vocabulary.k() - 1;
        let (sequence, start) = self.runs.place(width, |windows| below_u64([high, low], windows));
        Window { sequence, bases: start..start + width, reverse_complement: self.reverse_complement && kind & 1 == 1 }
    }
}

/// Runs of known bases, the longest first.
pub(super) struct Runs {
    pub(super) list: Vec<(usize, Range<u32>)>,
    /// `before[j]` is the bases of the first j runs together; one more than there are runs.
    before: Vec<u64>,
}

impl Runs {
    pub(super) fn new(genome: &Genome, parts: &Parts) -> Self {
        let mut list = Vec::new();
        for sequence in 0..genome.sequences().len() {
            for run in genome.acgt_runs(sequence) {
                match parts {
                    Parts::All => list.push((sequence, run)),
                    Parts::Only(regions) => list.extend(regions.inside(sequence, &run).map(|piece| (sequence, piece))),
                    Parts::Except(regions) => {
                        list.extend(regions.outside(sequence, &run).into_iter().map(|piece| (sequence, piece)));
                    }
                }
            }
        }
        list.sort_by_key(|(sequence, run)| (u32::MAX - (run.end - run.start), *sequence, run.start));
        let mut before = vec![0];
        let mut sum = 0;
        for (_, run) in &list {
            sum += u64::from(run.end - run.start);
            before.push(sum);
        }
        Self { list, before }
    }

    pub(super) fn longest(&self) -> usize {
        self.list.first().map_or(0, |(_, run)| (run.end - run.start) as usize)
    }

    fn total(&self) -> u64 {
        self.before.last().copied().unwrap_or(0)
    }

    /// The sequence and start of one of the windows of `width` bases, `choose(n)` picking one of n. There is one.
    pub(super) fn place(&self, width: usize, choose: impl FnOnce(u64) -> u64) -> (usize, usize) {
        let lost = width as u64 - 1;
        let holding = self.list.partition_point(|(_, run)| (run.end - run.start) as usize >= width);
        let windows_before = |run: usize| self.before[run] - run as u64 * lost;
        let chosen = choose(windows_before(holding));
        let run = partition(holding, |run| windows_before(run) <= chosen) - 1;
        let (sequence, bases) = &self.list[run];
        (*sequence, bases.start as usize + (chosen - windows_before(run)) as usize)
    }
}

/// The number of leading integers below `end` that satisfy the monotone `condition`.
fn partition(end: usize, condition: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low.midpoint(high);
        if condition(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;
    use crate::genome::pack::{PackedSequence, TwoBitWriter};
    use crate::kmer::vocabulary::BaseOrder;

    /// A genome of the given sequences, in `folder`.
    pub(in crate::kmer) fn genome(folder: &Path, sequences: &[(&str, &[u8])]) -> Genome {
        let path = folder.join("genome.2bit");
        let mut writer = TwoBitWriter::create(&path).unwrap();
        for (name, bases) in sequences {
            writer.add(name, &PackedSequence::from_ascii(bases).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        Genome::open(&path).unwrap()
    }

    fn runs(lengths: &[u32]) -> Runs {
        let folder = tempfile::tempdir().unwrap();
        let mut bases = Vec::new();
        for &length in lengths {
            bases.extend((0..length).map(|i| b"ACGT"[i as usize % 4]));
            bases.push(b'N');
        }
        Runs::new(&genome(folder.path(), &[("a", &bases)]), &Parts::All)
    }

    #[test]
    fn every_window_is_placed_once() {
        let runs = runs(&[3, 7, 5, 5, 1, 9]);
        for width in 1..=9 {
            let mut seen = HashMap::new();
            let mut count = 1;
            let mut number = 0;
            while number < count {
                let place = runs.place(width, |windows| {
                    count = windows;
                    number
                });
                *seen.entry(place).or_insert(0) += 1;
                number += 1;
            }
            let expected: usize = [3, 7, 5, 5, 1, 9].iter().map(|length| (length + 1usize).saturating_sub(width)).sum();
            assert_eq!((count as usize, seen.len()), (expected, expected), "width {width}");
            for (_, start) in seen.into_keys() {
                let inside =
                    |(_, run): &(usize, Range<u32>)| run.start as usize <= start && start + width <= run.end as usize;
                assert!(runs.list.iter().any(inside));
            }
        }
    }

    #[test]
    fn what_is_too_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let genome = Arc::new(genome(folder.path(), &[("a", b"ACGTACGTACGTANACGTACGTACGT"), ("b", b"NNN")]));
        let vocabulary = Vocabulary::new(4, BaseOrder::Atcg).unwrap();
        let new = |options: &CorpusOptions| Corpus::new(genome.clone(), vocabulary.clone(), options);
        let error = new(&CorpusOptions::default()).err().unwrap().to_string();
        assert!(error.contains("genome.2bit") && error.contains("is 14 long") && error.contains("has 13"), "{error}");
        let vocabulary = Vocabulary::new(3, BaseOrder::Atcg).unwrap();
        let corpus = Corpus::new(genome.clone(), vocabulary.clone(), &CorpusOptions::default()).unwrap();
        assert_eq!((corpus.longest, corpus.bases()), (11, 25));
        assert!(corpus.batch(&BatchKey::training(0, 0, 0), 6).is_err());
        assert_eq!(corpus.batch(&BatchKey::training(0, 0, 0), 7).unwrap().total_tokens(), 7);
        let short = CorpusOptions { max_length: 12, ..CorpusOptions::default() };
        assert!(Corpus::new(genome.clone(), vocabulary.clone(), &short).is_err());
        let nothing = CorpusOptions { parts: Parts::Only(Regions::default()), ..CorpusOptions::default() };
        assert!(Corpus::new(genome.clone(), vocabulary, &nothing).is_err());
    }
}
