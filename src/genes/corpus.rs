//! The pairs of a training: their vocabulary, and their order in each round, without all of them in memory.
//!
//! The first pass over the files numbers the genes and copies the pairs, eight bytes each, into a file without a name. For a round each pair
//! is dealt at random into one of as many parts as keep a part in memory, files as well, and each part is shuffled when its turn comes: every
//! order of all pairs is equally likely. One part needs no file of its own.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Crc;

use super::pairs::{self, PairCounts};
use super::skip_gram::{Pair, RARE};
use crate::philox::{self, Philox, Purpose};
use crate::report::Progress;
use crate::{Error, Result};

/// Pairs of a part on average: 32 MiB of memory. A part is as large as it comes out by chance, a few thousand more at most.
pub const PART_PAIRS: usize = 1 << 22;
/// The most parts, each of which is an open file with a buffer while pairs are dealt; over two billion pairs make larger parts.
const MOST_PARTS: u64 = 512;
/// Bytes of each such buffer.
const BUFFER: usize = 1 << 16;
const PAIR_BYTES: usize = size_of::<Pair>();

/// Genes with vectors, by falling count, and those of one count by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Names.
    pub genes: Vec<String>,
    /// How often each occurs in pairs.
    pub counts: Vec<u64>,
    /// Genes that occur too seldom.
    pub rare: u64,
}

/// Pairs on the disk.
pub struct Corpus {
    /// Genes with vectors.
    pub vocabulary: Vocabulary,
    /// What was in the files.
    pub counts: PairCounts,
    /// Pairs with a gene that is too rare: nothing is learnt from them.
    pub rare_pairs: u64,
    /// CRC-32 of the names and the pairs.
    pub checksum: u32,
    folder: PathBuf,
    scratch: File,
    part_pairs: usize,
}

impl Corpus {
    /// Reads the pairs in `files` and keeps them in `folder`, in a file that is gone with this object or with the process. Genes that occur
    /// less than `min_count` times have no vector. `part_pairs` is how many pairs are held in memory: [`PART_PAIRS`].
    ///
    /// # Errors
    /// Those of [`pairs::read`]; [`Error::Input`] where there is nothing to learn from; [`Error::Io`], a full disk among the causes.
    pub fn read(
        files: &[PathBuf],
        folder: &Path,
        min_count: u64,
        part_pairs: usize,
        progress: &mut Progress,
    ) -> Result<Self> {
        let mut numbers: HashMap<Box<str>, u32> = HashMap::new();
        let mut counts: Vec<u64> = Vec::new();
        let mut crc = Crc::new();
        let mut scratch = BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(folder).map_err(failed(folder))?);
        let mut number = |name: &str| -> Result<u32> {
            let number = match numbers.get(name) {
                Some(&number) => number,
                None if counts.len() >= RARE as usize => {
                    return Err(Error::usage("more than four billion genes", "give fewer pairs at a time"));
                }
                None => {
                    counts.push(0);
                    numbers.insert(name.into(), counts.len() as u32 - 1);
                    counts.len() as u32 - 1
                }
            };
            counts[number as usize] += 1;
            Ok(number)
        };
        let mut done = 0;
        let found = pairs::read(files, |one, other| {
            let pair = [number(one)?, number(other)?];
            let bytes: &[u8] = bytemuck::cast_slice(&pair);
            crc.update(bytes);
            scratch.write_all(bytes).map_err(failed(folder))?;
            done += 1;
            if done % (1 << 20) == 0 {
                progress.update(done, done, "");
            }
            Ok(())
        })?;
        let scratch = scratch.into_inner().map_err(|error| failed(folder)(error.into_error()))?;
        let mut names: Vec<(String, u32)> = numbers.into_iter().map(|(name, number)| (name.into(), number)).collect();
        names.sort_unstable_by_key(|(_, number)| *number);
        names.iter().for_each(|(name, _)| crc.update(name.as_bytes()));
        names
            .sort_by(|(a, one), (b, other)| counts[*other as usize].cmp(&counts[*one as usize]).then_with(|| a.cmp(b)));
        let total = names.len();
        names.retain(|(_, number)| counts[*number as usize] >= min_count);
        let mut ranks = vec![RARE; total];
        for (rank, (_, number)) in names.iter().enumerate() {
            ranks[*number as usize] = rank as u32;
        }
        let vocabulary = Vocabulary {
            rare: (total - names.len()) as u64,
            counts: names.iter().map(|(_, number)| counts[*number as usize]).collect(),
            genes: names.into_iter().map(|(name, _)| name).collect(),
        };
        if vocabulary.genes.len() < 2 {
            let place = if found.pairs == 0 { String::new() } else { format!("{} pairs", found.pairs) };
            let few = format!("{} genes that occur {min_count} times or more", vocabulary.genes.len());
            let remedy = "give more pairs of different genes, or lower --min-count";
            return Err(Error::input(files.first().cloned().unwrap_or_default(), place, few, remedy));
        }
        let mut corpus = Self {
            vocabulary,
            counts: found,
            rare_pairs: 0,
            checksum: crc.sum(),
            folder: folder.to_owned(),
            scratch,
            part_pairs: part_pairs.max(1),
        };
        corpus.renumber(&ranks)?;
        Ok(corpus)
    }

    /// Replaces the numbers by which genes came first in the file by those of the vocabulary.
    fn renumber(&mut self, ranks: &[u32]) -> Result<()> {
        let mut renumbered =
            BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(&self.folder).map_err(failed(&self.folder))?);
        let mut rare = 0;
        self.each_chunk(|pairs| {
            for pair in &mut *pairs {
                *pair = pair.map(|gene| ranks[gene as usize]);
                rare += u64::from(pair.contains(&RARE));
            }
            renumbered.write_all(bytemuck::cast_slice(pairs)).map_err(failed(&self.folder))
        })?;
        self.rare_pairs = rare;
        self.scratch = renumbered.into_inner().map_err(|error| failed(&self.folder)(error.into_error()))?;
        Ok(())
    }

    /// Hands all pairs over in the order of the files.
    fn each_chunk(&self, mut each: impl FnMut(&mut [Pair]) -> Result<()>) -> Result<()> {
        let mut chunk = vec![[0; 2]; (self.counts.pairs as usize).min(1 << 17)];
        let mut file = &self.scratch;
        file.seek(SeekFrom::Start(0)).map_err(failed(&self.folder))?;
        let mut left = self.counts.pairs as usize;
        while left > 0 {
            let count = left.min(chunk.len());
            file.read_exact(bytemuck::cast_slice_mut(&mut chunk[..count])).map_err(failed(&self.folder))?;
            each(&mut chunk[..count])?;
            left -= count;
        }
        Ok(())
    }

    /// The pairs in the order of this round, from 0, which follows from the seed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn round(&self, seed: u64, round: u32) -> Result<Round<'_>> {
        let count = self.counts.pairs.div_ceil(self.part_pairs as u64).clamp(1, MOST_PARTS);
        let mut parts = Vec::new();
        if count > 1 {
            for _ in 0..count {
                let file = tempfile::tempfile_in(&self.folder).map_err(failed(&self.folder))?;
                parts.push(BufWriter::with_capacity(BUFFER, file));
            }
            let philox = Philox::of(seed, round, Purpose::PairParts);
            let mut index = 0;
            self.each_chunk(|pairs| {
                for pair in &mut *pairs {
                    let part = philox::below(philox.block(index)[0], count as u32) as usize;
                    parts[part].write_all(bytemuck::cast_slice(pair)).map_err(failed(&self.folder))?;
                    index += 1;
                }
                Ok(())
            })?;
        }
        let parts =
            parts.into_iter().map(|part| part.into_inner().map_err(|error| failed(&self.folder)(error.into_error())));
        let parts: Vec<File> = parts.collect::<Result<_>>()?;
        Ok(Round {
            corpus: self,
            philox: Philox::of(seed, round, Purpose::PairOrder),
            parts: parts.into_iter(),
            taken: 0,
            part: Vec::new(),
            at: 0,
            largest: 0,
        })
    }
}

/// The scratch file has no name: what is told is where it lies.
fn failed(folder: &Path) -> impl FnOnce(std::io::Error) -> Error {
    Error::io("keep the pairs in a scratch file in", folder)
}

/// The pairs of a round in its order.
pub struct Round<'a> {
    corpus: &'a Corpus,
    philox: Philox,
    parts: std::vec::IntoIter<File>,
    /// Parts that were begun.
    taken: u64,
    part: Vec<Pair>,
    at: usize,
    largest: usize,
}

impl Round<'_> {
    /// The next `count` pairs; fewer only at the end.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn take(&mut self, count: usize) -> Result<Vec<Pair>> {
        let mut pairs = Vec::with_capacity(count.min(self.corpus.counts.pairs as usize));
        while pairs.len() < count {
            if self.at == self.part.len() && !self.next_part()? {
                break;
            }
            let end = self.part.len().min(self.at + count - pairs.len());
            pairs.extend_from_slice(&self.part[self.at..end]);
            self.at = end;
        }
        Ok(pairs)
    }

    /// Passes over pairs that were trained on before.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            if self.at == self.part.len() && !self.next_part()? {
                break;
            }
            let passed = count.min((self.part.len() - self.at) as u64);
            self.at += passed as usize;
            count -= passed;
        }
        Ok(())
    }

    /// Reads and shuffles the next part, if there is one.
    fn next_part(&mut self) -> Result<bool> {
        let folder = &self.corpus.folder;
        self.part.clear();
        self.at = 0;
        loop {
            let is_only = self.taken == 0 && self.parts.len() == 0;
            if is_only {
                self.corpus.each_chunk(|pairs| {
                    self.part.extend_from_slice(pairs);
                    Ok(())
                })?;
            } else {
                let Some(mut file) = self.parts.next() else { return Ok(false) };
                let count = file.metadata().map_err(failed(folder))?.len() as usize / PAIR_BYTES;
                self.part.resize(count, [0; 2]);
                file.seek(SeekFrom::Start(0)).map_err(failed(folder))?;
                file.read_exact(bytemuck::cast_slice_mut(&mut self.part)).map_err(failed(folder))?;
            }
            philox::shuffle_from(&mut self.part, self.philox, self.taken << 40);
            self.taken += 1;
            self.largest = self.largest.max(self.part.len());
            if !self.part.is_empty() || is_only {
                return Ok(!self.part.is_empty());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corpus of a text, and the folder that it is in.
    fn corpus(text: &str, min_count: u64, part_pairs: usize) -> Result<(Corpus, tempfile::TempDir)> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pairs.txt");
        std::fs::write(&file, text).unwrap();
        let mut silent = Progress::new("pairs", 0, true);
        Ok((Corpus::read(&[file], folder.path(), min_count, part_pairs, &mut silent)?, folder))
    }

    #[test]
    fn genes_are_numbered_by_count_and_name() {
        let (corpus, _folder) = corpus("b a\nc a\nd b\nz a\nz z\n", 1, 100).unwrap();
        assert_eq!(corpus.vocabulary.genes, ["a", "b", "c", "d", "z"]);
        assert_eq!(corpus.vocabulary.counts, [3, 2, 1, 1, 1]);
        let mut all = Vec::new();
        corpus
            .each_chunk(|pairs| {
                all.extend_from_slice(pairs);
                Ok(())
            })
            .unwrap();
        assert_eq!(all, [[1, 0], [2, 0], [3, 1], [4, 0]]);
        assert_eq!(corpus.counts.with_itself, 1);
    }

    #[test]
    fn rare_genes_have_no_vector() {
        let (corpus, _folder) = corpus("b a\nc a\nd b\n", 2, 100).unwrap();
        assert_eq!((&corpus.vocabulary.genes[..], corpus.vocabulary.rare), (&["a".into(), "b".into()][..], 2));
        assert_eq!(corpus.rare_pairs, 2);
        let mut round = corpus.round(1, 0).unwrap();
        let mut pairs = round.take(10).unwrap();
        pairs.sort_unstable();
        assert_eq!(pairs, [[1, 0], [RARE, 0], [RARE, 1]]);
        let error = self::corpus("b a\nc a\n", 2, 100).err().unwrap().to_string();
        assert!(error.contains("1 genes that occur 2 times or more"), "{error}");
        assert!(self::corpus("", 1, 100).is_err());
    }

    #[test]
    fn a_round_has_every_pair_once_with_a_few_in_memory() {
        let text: String = (0..5000).map(|index| format!("a{index} b{}\n", index / 2)).collect();
        let orders = |seed: u64, number: u32, part_pairs: usize| {
            let (corpus, _folder) = corpus(&text, 1, part_pairs).unwrap();
            let mut round = corpus.round(seed, number).unwrap();
            let mut all = Vec::new();
            loop {
                let pairs = round.take(77).unwrap();
                if pairs.is_empty() {
                    break;
                }
                all.extend(pairs);
            }
            (all, round.largest)
        };
        let (small, largest) = orders(1, 0, 100);
        assert!(largest < 150, "{largest} of 5000 were in memory");
        let (whole, _) = orders(1, 0, 10_000);
        let sorted = |mut pairs: Vec<Pair>| {
            pairs.sort_unstable();
            pairs
        };
        let expected = sorted(whole.clone());
        assert_eq!(expected.len(), 5000);
        assert!(expected.windows(2).all(|two| two[0] != two[1]));
        for other in [small.clone(), orders(1, 1, 100).0, orders(2, 0, 100).0, orders(1, 1, 10_000).0] {
            assert_eq!(sorted(other.clone()), expected);
            assert_ne!(other, whole);
        }
        assert_eq!(orders(1, 0, 100).0, small);
        assert_ne!(orders(1, 1, 100).0, small);
        // A pair's place says nothing of where it was in the file.
        let early =
            |pairs: &[Pair]| pairs[..2500].iter().filter(|pair| expected.binary_search(pair).unwrap() < 2500).count();
        assert!((1150..1350).contains(&early(&small)), "{}", early(&small));
        assert!((1150..1350).contains(&early(&whole)), "{}", early(&whole));
    }

    #[test]
    fn skipping_goes_on_where_taking_stopped() {
        let text: String = (0..1000).map(|index| format!("a{index} b\n")).collect();
        let (corpus, _folder) = corpus(&text, 1, 60).unwrap();
        let mut whole = corpus.round(3, 2).unwrap();
        whole.take(437).unwrap();
        let mut skipped = corpus.round(3, 2).unwrap();
        skipped.skip(437).unwrap();
        assert_eq!(whole.take(1000).unwrap(), skipped.take(1000).unwrap());
        assert!(skipped.take(1).unwrap().is_empty());
        skipped.skip(1).unwrap();
    }
}
