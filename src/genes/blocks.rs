//! The order of updates in which threads need no locks: genes are dealt into blocks, and at each moment every thread has a block of vectors and
//! a block of output vectors to itself (Zhu et al., GraphVite, WWW 2019; Gemulla et al., KDD 2011, for matrices).
//!
//! The updates of an episode are sorted into a square of rectangles, a row for the block of the gene whose vector learns, a column for that of
//! the gene to tell. Rectangles on one diagonal share no row and no column: they are worked on at the same time, diagonal after diagonal. A
//! negative comes from the column's own block, with the same power of its count; blocks are dealt anew in each round, each with genes of all
//! counts, so that over the rounds every gene meets every other. What differs from [`super::skip_gram::Model::learn`] is the order of
//! updates and where negatives come from, not the arithmetic of an update. The number of blocks follows from the vocabulary: any
//! number of threads makes the same bits.

use rayon::prelude::*;

use super::sampling::{Congruential, NegativeTable};
use super::skip_gram::{Loss, Matrix, Model, Pair, Recipe, Update, draw_negatives, keeps, learn};
use crate::philox::{self, Philox, Purpose};

/// Genes of a block at least: with fewer, negatives would be the same few all round long.
const LEAST_GENES: usize = 512;
const MOST_BLOCKS: usize = 128;
/// Pairs of an episode at most.
pub const EPISODE_PAIRS: usize = 1 << 20;
/// Pairs that are thinned out and sorted at a time, with a generator of their own.
const CHUNK: usize = 1 << 14;
/// Updates whose negatives are drawn at a time, and whose losses make one sum: the lanes of a warp in `kernels/skip_gram.cu`.
const DRAWN_TOGETHER: usize = 32;

/// How many blocks a vocabulary of so many genes has; 1 is no gain.
pub fn count(genes: usize) -> usize {
    (genes / LEAST_GENES).clamp(1, MOST_BLOCKS)
}

/// An update whose negatives are not yet drawn. Genes are by their places in their blocks.
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Planned {
    /// The gene whose vector learns.
    pub gene: u32,
    /// The gene to tell.
    pub target: u32,
    /// The learning rate.
    pub alpha: f32,
}

/// The updates of an episode, sorted by rectangles.
pub struct Episode {
    /// Those of a rectangle in the order of their pairs.
    pub updates: Vec<Planned>,
    /// Where each rectangle begins, and where the last one ends.
    pub starts: Vec<u32>,
    number: u64,
}

impl Episode {
    /// Puts parts together, each of which has its updates sorted by rectangles and where these begin.
    fn of(chunks: &[(Vec<Planned>, Vec<u32>)], rectangles: usize, number: u64) -> Self {
        let range = |starts: &[u32], rectangle: usize| starts[rectangle] as usize..starts[rectangle + 1] as usize;
        let whole =
            |rectangle: usize| chunks.iter().flat_map(move |(updates, starts)| &updates[range(starts, rectangle)]);
        let updates = (0..rectangles).into_par_iter().flat_map_iter(whole).copied().collect();
        let starts = (0..=rectangles).map(|rectangle| chunks.iter().map(|(_, starts)| starts[rectangle]).sum());
        Self { updates, starts: starts.collect(), number }
    }

    /// Those of a rectangle.
    fn rectangle(&self, number: usize) -> &[Planned] {
        &self.updates[self.starts[number] as usize..self.starts[number + 1] as usize]
    }
}

/// Where genes are in a round.
pub struct Blocks {
    count: usize,
    /// Of each gene its block and its place there.
    places: Vec<(u32, u32)>,
    /// Genes in the blocks before each, and in all.
    firsts: Vec<u32>,
    negatives: Vec<NegativeTable>,
    keep: Vec<u32>,
    recipe: Recipe,
    philox: Philox,
}

impl Blocks {
    /// Deals the genes of these counts, which fall, for a round. `keep` are the thresholds of [`super::sampling::keep_thresholds`].
    pub fn deal(counts: &[u64], keep: Vec<u32>, recipe: Recipe, seed: u64, round: u32) -> Self {
        let count = count(counts.len());
        let philox = Philox::of(seed, round, Purpose::GeneBlocks);
        let mut places = Vec::with_capacity(counts.len());
        let mut members: Vec<Vec<u64>> = vec![Vec::new(); count];
        let mut order: Vec<u32> = (0..count as u32).collect();
        // Genes of like counts go to different blocks.
        for (turn, counts) in counts.chunks(count).enumerate() {
            philox::shuffle_from(&mut order, philox, (turn * count) as u64);
            for (&count, &block) in counts.iter().zip(&order) {
                let members = &mut members[block as usize];
                places.push((block, members.len() as u32));
                members.push(count);
            }
        }
        let negatives = members.iter().map(|counts| NegativeTable::new(counts, recipe.exponent)).collect();
        let mut firsts = vec![0];
        members.iter().for_each(|counts| firsts.push(firsts[firsts.len() - 1] + counts.len() as u32));
        Self { count, places, firsts, negatives, keep, recipe, philox: Philox::of(seed, round, Purpose::BlockDraws) }
    }

    /// Plans the updates of pairs, the first of which comes behind `done` of the round's `total`.
    pub fn plan(&self, pairs: &[Pair], done: u64, total: u64) -> Episode {
        // An episode is told from others by the pair that it begins with, and so are its generators: rectangles have the lower numbers.
        let number = done / EPISODE_PAIRS as u64;
        let chunk = |(index, pairs): (usize, &[Pair])| {
            let mut random = self.generator(number << 32 | 1 << 31 | index as u64);
            let mut starts = vec![0u32; self.count * self.count + 1];
            let mut planned = Vec::with_capacity(2 * pairs.len());
            for (at, pair) in (done + (index * CHUNK) as u64..).zip(pairs) {
                if !keeps(&self.keep, *pair, &mut random) {
                    continue;
                }
                let [one, other] = pair.map(|gene| self.places[gene as usize]);
                let alpha = self.recipe.alpha_at(at, total);
                for (target, gene) in [(one, other), (other, one)] {
                    let rectangle = gene.0 as usize * self.count + target.0 as usize;
                    starts[rectangle + 1] += 1;
                    planned.push((rectangle, Planned { gene: gene.1, target: target.1, alpha }));
                }
            }
            for rectangle in 1..starts.len() {
                starts[rectangle] += starts[rectangle - 1];
            }
            let mut next = starts.clone();
            let mut updates = vec![Planned::default(); planned.len()];
            for (rectangle, update) in planned {
                updates[next[rectangle] as usize] = update;
                next[rectangle] += 1;
            }
            (updates, starts)
        };
        let chunks: Vec<_> = pairs.par_chunks(CHUNK).enumerate().map(chunk).collect();
        Episode::of(&chunks, self.count * self.count, number)
    }

    /// Genes in all blocks.
    pub fn genes(&self) -> usize {
        self.places.len()
    }

    /// Where a gene is when all blocks follow each other.
    pub fn row(&self, gene: usize) -> usize {
        let (block, place) = self.places[gene];
        (self.firsts[block as usize] + place) as usize
    }

    /// Where each block begins then, and where the last one ends.
    pub fn firsts(&self) -> &[u32] {
        &self.firsts
    }

    /// Where each gene's share as a negative ends, in that order.
    pub fn shares(&self) -> Vec<u32> {
        self.negatives.iter().flat_map(NegativeTable::ends).copied().collect()
    }

    /// What they were dealt for.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The generator of the negatives in a rectangle.
    pub fn generator_of(&self, episode: &Episode, rectangle: usize) -> Congruential {
        self.generator(episode.number << 32 | rectangle as u64)
    }

    fn generator(&self, index: u64) -> Congruential {
        let [low, high, ..] = self.philox.block(index);
        Congruential((u64::from(high) << 32 | u64::from(low)) >> 16)
    }

    /// Makes the updates of an episode.
    pub fn learn(&self, split: &mut Split, episode: &Episode) -> Loss {
        let mut loss = Loss::default();
        for _diagonal in 0..self.count {
            let pairs = split.inputs.par_iter_mut().zip(&mut split.outputs).enumerate();
            let losses: Vec<Loss> = pairs
                .map(|(row, (input, (column, output)))| {
                    let rectangle = row * self.count + *column;
                    let random = self.generator_of(episode, rectangle);
                    self.learn_rectangle(input, output, *column, episode.rectangle(rectangle), random)
                })
                .collect();
            losses.into_iter().for_each(|part| loss += part);
            split.outputs.rotate_left(1);
        }
        loss
    }

    fn learn_rectangle(
        &self,
        input: &mut Matrix,
        output: &mut Matrix,
        column: usize,
        updates: &[Planned],
        mut random: Congruential,
    ) -> Loss {
        let mut loss = Loss::default();
        let count = self.recipe.negatives;
        let mut targets = Vec::with_capacity(DRAWN_TOGETHER * (count + 1));
        for updates in updates.chunks(DRAWN_TOGETHER) {
            targets.clear();
            for update in updates {
                targets.push(update.target);
                draw_negatives(&self.negatives[column], update.target, count, &mut random, &mut targets);
            }
            let drawn = updates.iter().zip(targets.chunks_exact(count + 1));
            let drawn = drawn.map(|(update, targets)| -> Update { (update.alpha, update.gene, targets) });
            loss += learn(input, output, drawn);
        }
        loss
    }

    /// The vectors, by blocks.
    pub fn split(&self, model: &Model) -> Split {
        let blocks = |whole: &Matrix| -> Vec<Matrix> {
            let sizes = self.firsts.windows(2).map(|ends| (ends[1] - ends[0]) as usize);
            let mut blocks: Vec<Matrix> = sizes.map(|genes| Matrix::zeros(genes, whole.dimension())).collect();
            for (gene, &(block, place)) in self.places.iter().enumerate() {
                blocks[block as usize].copy_row(place as usize, whole, gene);
            }
            blocks
        };
        Split { inputs: blocks(&model.input), outputs: blocks(&model.output).into_iter().enumerate().collect() }
    }

    /// Puts them together again.
    pub fn join(&self, split: &Split, model: &mut Model) {
        for (gene, &(block, place)) in self.places.iter().enumerate() {
            model.input.copy_row(gene, &split.inputs[block as usize], place as usize);
            // Between episodes every block is where it began.
            model.output.copy_row(gene, &split.outputs[block as usize].1, place as usize);
        }
    }
}

/// A model by blocks.
pub struct Split {
    inputs: Vec<Matrix>,
    /// Each with the number of its block.
    outputs: Vec<(usize, Matrix)>,
}

#[cfg(test)]
mod tests {
    use super::super::sampling::keep_thresholds;
    use super::*;

    const GENES: usize = 3 * LEAST_GENES + 7;

    fn blocks(round: u32) -> Blocks {
        let counts: Vec<u64> = (0..GENES as u64).map(|gene| 10_000 / (gene + 10) + 2).collect();
        let recipe = Recipe { alpha: 0.5, ..Recipe::default() };
        Blocks::deal(&counts, keep_thresholds(&counts, 0.0).unwrap(), recipe, 7, round)
    }

    #[test]
    fn blocks_are_alike_and_dealt_anew_in_each_round() {
        let (first, second) = (blocks(0), blocks(1));
        assert_eq!((first.count(), count(100), count(1023), count(1024), count(1 << 20)), (3, 1, 1, 2, MOST_BLOCKS));
        let sizes: Vec<usize> =
            (0..3).map(|block| first.places.iter().filter(|place| place.0 == block).count()).collect();
        assert!(sizes.iter().all(|size| size.abs_diff(GENES / 3) <= 1), "{sizes:?}");
        let same = first.places.iter().zip(&second.places).filter(|(one, other)| one.0 == other.0).count();
        assert!((GENES / 4..GENES / 2).contains(&same), "{same} of {GENES} genes kept their block");
    }

    #[test]
    fn splitting_and_joining_change_nothing() {
        let blocks = blocks(3);
        let model = Model::initialise(GENES, 5, 1);
        let mut joined = Model::from_vectors(&vec![0.0; GENES * 5], 5);
        blocks.join(&blocks.split(&model), &mut joined);
        assert!(joined.input.values() == model.input.values());
    }

    #[test]
    fn every_pair_moves_both_of_its_genes() {
        let blocks = blocks(0);
        let mut model = Model::initialise(GENES, 8, 1);
        let start = model.input.values();
        // Every gene is in two pairs, whatever the blocks of the two are.
        let pairs: Vec<Pair> = (0..GENES as u32).map(|gene| [gene, (gene * 5 + 1) % GENES as u32]).collect();
        let mut split = blocks.split(&model);
        for episode in 0..3 {
            let episode = blocks.plan(&pairs, episode * EPISODE_PAIRS as u64, u64::MAX);
            assert_eq!(episode.updates.len(), 2 * pairs.len());
            let loss = blocks.learn(&mut split, &episode);
            let terms = 6 * episode.updates.len() as u64;
            assert!((terms - terms / 100..=terms).contains(&loss.terms), "{} of {terms}", loss.terms);
        }
        blocks.join(&split, &mut model);
        let (now, output) = (model.input.values(), model.output.values());
        for gene in 0..GENES {
            let row = gene * 8..(gene + 1) * 8;
            assert!(now[row.clone()] != start[row.clone()], "the vector of {gene} has not moved");
            assert!(output[row].iter().any(|value| *value != 0.0), "the output vector of {gene} has not moved");
        }
    }
}
