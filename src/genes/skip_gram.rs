//! Skip-gram with negative sampling (Mikolov et al., 2013) over pairs, in gensim's arithmetic: its random numbers, its table of the logistic
//! function, its order of updates. With the same start, pairs and seed the vectors are gensim's with one worker, but for how sums are rounded.
//!
//! A pair (a, b) makes two updates: the vector of b learns to tell a from negatives, and that of a to tell b. In an update the vector v of
//! the one gene meets the output vectors n of the other (y = 1) and of the negatives (y = 0): with g = (y - sigma(v n)) alpha each n
//! grows by g v, and v by the sum of g n.

use memmap2::MmapMut;

use super::sampling::{Congruential, NegativeTable, keep_thresholds};
use crate::Result;
use crate::device::cpu::prefetch::prefetch;
use crate::device::cpu::real::dispatch;
use crate::mersenne_twister::MersenneTwister;
use crate::philox::{Philox, Purpose};

/// Two genes, by their numbers in the vocabulary; [`RARE`] is one that is not in it.
pub type Pair = [u32; 2];

/// A gene that is too rare to have a vector.
pub const RARE: u32 = u32::MAX;

/// Where the table of the logistic function ends: products beyond it teach nothing.
const REACH: f32 = 6.0;
const TABLE: usize = 1000;
/// Entries a unit. It is gensim's number, where 500 / 6 was divided as integers: what is read is the table at 0.996 of the product.
const TABLE_SCALE: f32 = 83.0;

/// What is drawn and how fast vectors learn.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, clap::Args)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// Genes that each is told apart from, at random, in an update.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub negatives: usize,
    /// They are drawn by this power of their count.
    #[arg(long, default_value_t = 0.75, value_name = "POWER")]
    pub exponent: f64,
    /// Occurrences of genes with more than this share of all are thinned out; 0: none.
    #[arg(long, default_value_t = 1e-3, value_name = "SHARE")]
    pub sample: f64,
    /// The learning rate at the beginning of each round.
    #[arg(long, default_value_t = 0.025, value_name = "RATE")]
    pub alpha: f64,
    /// The learning rate at its end.
    #[arg(long, default_value_t = 1e-4, value_name = "RATE")]
    pub min_alpha: f64,
    /// Words (two a pair) with one learning rate, and with random numbers of their own.
    #[arg(long, default_value_t = 10_000, value_name = "WORDS")]
    pub batch_words: usize,
}

impl Default for Recipe {
    /// Gene2vec's: gensim's defaults.
    fn default() -> Self {
        Self { negatives: 5, exponent: 0.75, sample: 1e-3, alpha: 0.025, min_alpha: 1e-4, batch_words: 10_000 }
    }
}

impl Recipe {
    /// Pairs of a job.
    pub fn job_pairs(&self) -> usize {
        (self.batch_words / 2).max(1)
    }

    /// The learning rate behind `done` of `total` pairs.
    pub fn alpha_at(&self, done: u64, total: u64) -> f32 {
        let progress = done as f64 / total.max(1) as f64;
        self.min_alpha.max(self.alpha - (self.alpha - self.min_alpha) * progress) as f32
    }
}

/// Sixteen numbers: a vector register, or a few.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Lanes([f32; Lanes::COUNT]);

impl Lanes {
    const COUNT: usize = 16;
    const ZERO: Self = Self([0.0; Self::COUNT]);
}

/// Vectors, each in whole [`Lanes`]: what is behind its numbers is 0 and stays so.
pub struct Matrix {
    dimension: usize,
    lanes: Memory,
}

/// Where lanes lie. Vectors are met at random, and in pages of 4 KB each costs a walk through the page tables: large matrices ask for
/// huge pages.
enum Memory {
    Heap(Vec<Lanes>),
    Pages(MmapMut),
}

impl Memory {
    const HUGE_PAGE: usize = 2 << 20;

    fn zeros(count: usize) -> Self {
        let bytes = count * size_of::<Lanes>();
        if bytes >= 2 * Self::HUGE_PAGE
            && let Ok(pages) = MmapMut::map_anon(bytes)
        {
            // Where there are none, small ones do.
            #[cfg(target_os = "linux")]
            let _ = pages.advise(memmap2::Advice::HugePage);
            return Self::Pages(pages);
        }
        Self::Heap(vec![Lanes::ZERO; count])
    }
}

impl std::ops::Deref for Memory {
    type Target = [Lanes];
    fn deref(&self) -> &[Lanes] {
        match self {
            Self::Heap(lanes) => lanes,
            Self::Pages(pages) => bytemuck::cast_slice(pages),
        }
    }
}

impl std::ops::DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [Lanes] {
        match self {
            Self::Heap(lanes) => lanes,
            Self::Pages(pages) => bytemuck::cast_slice_mut(pages),
        }
    }
}

impl Matrix {
    /// `rows` vectors of zeros.
    pub fn zeros(rows: usize, dimension: usize) -> Self {
        Self { dimension, lanes: Memory::zeros(rows * dimension.div_ceil(Lanes::COUNT)) }
    }

    /// From `[rows, dimension]`.
    pub fn of(values: &[f32], dimension: usize) -> Self {
        let mut matrix = Self::zeros(values.len() / dimension, dimension);
        for (row, values) in values.chunks_exact(dimension).enumerate() {
            matrix.row_mut(row)[..dimension].copy_from_slice(values);
        }
        matrix
    }

    /// As `[rows, dimension]`.
    pub fn values(&self) -> Vec<f32> {
        self.lanes
            .chunks_exact(self.stride())
            .flat_map(|row| &bytemuck::cast_slice::<_, f32>(row)[..self.dimension])
            .copied()
            .collect()
    }

    /// As `[rows, padded_dimension]`: with the zeros behind each vector.
    pub fn padded(&self) -> &[f32] {
        bytemuck::cast_slice(&self.lanes)
    }

    /// From what [`Matrix::padded`] gives.
    pub fn of_padded(values: &[f32], dimension: usize) -> Self {
        let mut matrix = Self::zeros(values.len() / dimension.next_multiple_of(Lanes::COUNT), dimension);
        bytemuck::cast_slice_mut(&mut matrix.lanes).copy_from_slice(values);
        matrix
    }

    /// Numbers from vector to vector.
    pub fn padded_dimension(&self) -> usize {
        self.stride() * Lanes::COUNT
    }

    /// Numbers of a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Lanes of a vector.
    fn stride(&self) -> usize {
        self.dimension.div_ceil(Lanes::COUNT)
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let stride = self.stride();
        bytemuck::cast_slice_mut(&mut self.lanes[row * stride..][..stride])
    }

    /// Copies a vector from another matrix of the same dimension.
    pub fn copy_row(&mut self, row: usize, from: &Self, from_row: usize) {
        let stride = self.stride();
        self.lanes[row * stride..][..stride].copy_from_slice(&from.lanes[from_row * stride..][..stride]);
    }
}

/// What is trained: the vectors, and the output vectors that they are told apart by.
pub struct Model {
    /// `[genes, dimension]`: what is written in the end.
    pub input: Matrix,
    /// `[genes, dimension]`.
    pub output: Matrix,
}

impl Model {
    /// Vectors drawn evenly from -1 / dimension to 1 / dimension; output vectors of 0.
    pub fn initialise(genes: usize, dimension: usize, seed: u64) -> Self {
        let philox = Philox::of(seed, 0, Purpose::Init);
        let value = |index: usize| ((philox.uniform(index as u64) * 2.0 - 1.0) / dimension as f64) as f32;
        let values: Vec<f32> = (0..genes * dimension).map(value).collect();
        Self::from_vectors(&values, dimension)
    }

    /// Begins with these vectors, `[genes, dimension]`; output vectors are 0.
    pub fn from_vectors(values: &[f32], dimension: usize) -> Self {
        Self { input: Matrix::of(values, dimension), output: Matrix::zeros(values.len() / dimension, dimension) }
    }

    /// Makes the updates of a job, in order.
    pub fn learn(&mut self, job: &Job) -> Loss {
        learn(&mut self.input, &mut self.output, job.updates())
    }
}

/// How well genes were told from negatives: the sum of -ln sigma(v n) and -ln(1 - sigma(v n)), as the table has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Loss {
    /// The sum.
    pub sum: f64,
    /// Its terms.
    pub terms: u64,
}

impl Loss {
    /// The mean of a term.
    pub fn mean(&self) -> f64 {
        self.sum / self.terms.max(1) as f64
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.terms += other.terms;
    }
}

/// An update: the learning rate, the gene whose vector learns, the gene to tell, and negatives up to the first [`RARE`].
pub type Update<'a> = (f32, u32, &'a [u32]);

/// Makes updates in order.
pub(super) fn learn<'a>(input: &mut Matrix, output: &mut Matrix, updates: impl Iterator<Item = Update<'a>>) -> Loss {
    let table = Logistic::get();
    let stride = input.stride();
    let (input, output) = (&mut input.lanes[..], &mut output.lanes[..]);
    // The numbers of lanes of 50, 100, 128, 200, 256 and 300 dimensions are known to the compiler.
    macro_rules! learn {
        ($($known:literal),+) => {
            match stride {
                $($known => learn_rows(input, output, $known, &mut [Lanes::ZERO; $known], table, updates),)+
                _ => learn_rows(input, output, stride, &mut vec![Lanes::ZERO; stride], table, updates),
            }
        };
    }
    dispatch(
        #[inline(always)]
        || learn!(4, 7, 8, 13, 16, 19),
    )
}

/// `sum` is room for `stride` lanes.
#[inline(always)]
fn learn_rows<'a>(
    input: &mut [Lanes],
    output: &mut [Lanes],
    stride: usize,
    sum: &mut [Lanes],
    table: &Logistic,
    updates: impl Iterator<Item = Update<'a>>,
) -> Loss {
    let mut loss = Loss::default();
    let mut updates = updates.peekable();
    while let Some((alpha, gene, targets)) = updates.next() {
        let vector = &mut input[gene as usize * stride..][..stride];
        sum.fill(Lanes::ZERO);
        for (index, &target) in targets.iter().enumerate() {
            // Rows lie anywhere: those of the next update are on their way while this one is computed, one after the other.
            if let Some(&(_, _, next)) = updates.peek()
                && next[index] != RARE
            {
                prefetch(&output[next[index] as usize * stride..][..stride]);
            }
            if target == RARE {
                break;
            }
            let row = &mut output[target as usize * stride..][..stride];
            let product = dot(vector, row);
            if let Some(step) = table.step(product, index == 0, alpha, &mut loss) {
                add_both(sum, row, vector, step);
            }
        }
        add(vector, sum);
        if let Some(&(_, next, _)) = updates.peek() {
            prefetch(&input[next as usize * stride..][..stride]);
        }
    }
    loss
}

/// The product of two vectors, in four sums of lanes: the same bits with any width of registers.
#[inline(always)]
fn dot(one: &[Lanes], other: &[Lanes]) -> f32 {
    const SUMS: usize = 4;
    let mut sums = [Lanes::ZERO; SUMS];
    for (index, (one, other)) in one.iter().zip(other).enumerate() {
        let sum = &mut sums[index % SUMS];
        for lane in 0..Lanes::COUNT {
            sum.0[lane] = one.0[lane].mul_add(other.0[lane], sum.0[lane]);
        }
    }
    let [mut a, b, c, d] = sums.map(|sum| sum.0);
    for lane in 0..Lanes::COUNT {
        a[lane] = (a[lane] + b[lane]) + (c[lane] + d[lane]);
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            a[lane] += a[lane + width];
        }
    }
    a[0]
}

/// `sum += step * row`, and then `row += step * vector`.
#[inline(always)]
fn add_both(sum: &mut [Lanes], row: &mut [Lanes], vector: &[Lanes], step: f32) {
    for ((sum, row), vector) in sum.iter_mut().zip(row).zip(vector) {
        // Copies: with both written in place the compiler takes the lanes one by one.
        let (mut total, mut grown, vector) = (sum.0, row.0, vector.0);
        for lane in 0..Lanes::COUNT {
            total[lane] = step.mul_add(grown[lane], total[lane]);
        }
        for lane in 0..Lanes::COUNT {
            grown[lane] = step.mul_add(vector[lane], grown[lane]);
        }
        (sum.0, row.0) = (total, grown);
    }
}

#[inline(always)]
fn add(vector: &mut [Lanes], sum: &[Lanes]) {
    for (vector, sum) in vector.iter_mut().zip(sum) {
        for lane in 0..Lanes::COUNT {
            vector.0[lane] += sum.0[lane];
        }
    }
}

/// The logistic function and its negative logarithm at 1,000 places from -6 to 6.
struct Logistic {
    sigma: [f32; TABLE],
    /// -ln sigma(x).
    surprise: [f32; TABLE],
}

impl Logistic {
    fn get() -> &'static Self {
        static TABLES: std::sync::LazyLock<Logistic> = std::sync::LazyLock::new(|| {
            let sigma = std::array::from_fn(|index| {
                let power = ((index as f32 / TABLE as f32 * 2.0 - 1.0) * REACH).exp();
                power / (power + 1.0)
            });
            Logistic { sigma, surprise: sigma.map(|sigma| -sigma.ln()) }
        });
        &TABLES
    }

    /// What output vectors grow by, in units of the vector; `None` where the product lies beyond the table.
    #[inline(always)]
    fn step(&self, product: f32, is_told: bool, alpha: f32, loss: &mut Loss) -> Option<f32> {
        let is_inside = product > -REACH && product < REACH;
        let at = |x: f32| ((x + REACH) * TABLE_SCALE) as usize;
        let signed = if is_told { product } else { -product };
        loss.terms += 1;
        loss.sum += f64::from(self.surprise[at(signed.clamp(-REACH, REACH)).min(TABLE - 1)]);
        if !is_inside {
            return None;
        }
        let label = if is_told { 1.0 } else { 0.0 };
        Some((label - self.sigma[at(product).min(TABLE - 1)]) * alpha)
    }
}

/// The table of the logistic function, and that of its negative logarithm.
pub fn logistic_tables() -> Vec<f32> {
    let table = Logistic::get();
    [table.sigma, table.surprise].concat()
}

/// The updates of some pairs, all that is random in them drawn.
#[derive(Clone, Debug)]
pub struct Job {
    alpha: f32,
    /// Genes of an update that are told apart, one and the negatives.
    targets: usize,
    /// Of each update the gene whose vector learns, and its targets.
    genes: Vec<u32>,
    /// Pairs that it was made from, those among them that were passed over included.
    pub pairs: usize,
}

impl Job {
    fn updates(&self) -> impl Iterator<Item = Update<'_>> {
        self.genes.chunks_exact(self.targets + 1).map(|genes| (self.alpha, genes[0], &genes[1..]))
    }

    /// Updates, at most two a pair.
    pub fn len(&self) -> usize {
        self.genes.len() / (self.targets + 1)
    }

    /// Whether every pair was passed over.
    pub fn is_empty(&self) -> bool {
        self.genes.is_empty()
    }
}

/// Draws what is random in a job.
pub struct Sampler {
    keep: Vec<u32>,
    negatives: NegativeTable,
    count: usize,
}

impl Sampler {
    /// For genes that occur so often.
    ///
    /// # Errors
    /// Those of [`keep_thresholds`].
    pub fn new(counts: &[u64], recipe: &Recipe) -> Result<Self> {
        Ok(Self {
            keep: keep_thresholds(counts, recipe.sample)?,
            negatives: NegativeTable::new(counts, recipe.exponent),
            count: recipe.negatives,
        })
    }

    /// The job of these pairs. `start` is the generator's state.
    pub fn job(&self, pairs: &[Pair], start: u64, alpha: f32) -> Job {
        let mut random = Congruential(start);
        let targets = self.count + 1;
        let kept: Vec<Pair> = pairs.iter().copied().filter(|pair| keeps(&self.keep, *pair, &mut random)).collect();
        let mut genes = Vec::with_capacity(kept.len() * 2 * (targets + 1));
        for [one, other] in kept {
            for [target, gene] in [[one, other], [other, one]] {
                genes.extend([gene, target]);
                draw_negatives(&self.negatives, target, self.count, &mut random, &mut genes);
            }
        }
        Job { alpha, targets, genes, pairs: pairs.len() }
    }
}

/// Whether both genes of a pair are kept; draws a word for each that has a vector.
#[inline(always)]
pub(super) fn keeps(thresholds: &[u32], pair: Pair, random: &mut Congruential) -> bool {
    let mut all = true;
    for gene in pair {
        all &= gene != RARE && (thresholds.is_empty() || thresholds[gene as usize] >= random.word());
    }
    all
}

/// Appends `count` negatives, those that are the target itself left out and [`RARE`] behind the others instead.
#[inline(always)]
pub(super) fn draw_negatives(
    table: &NegativeTable,
    target: u32,
    count: usize,
    random: &mut Congruential,
    genes: &mut Vec<u32>,
) {
    let end = genes.len() + count;
    for _ in 0..count {
        let gene = table.gene(random.word());
        if gene != target {
            genes.push(gene);
        }
    }
    genes.resize(end, RARE);
}

/// The states that generators of jobs start from: those that `RandomState(seed)` gives gensim.
pub struct JobSeeds(MersenneTwister);

impl JobSeeds {
    /// Of the job behind `done` others.
    pub fn new(seed: u64, done: u64) -> Self {
        let mut generator = MersenneTwister::new((seed ^ seed >> 32) as u32);
        for _ in 0..2 * done {
            generator.word();
        }
        Self(generator)
    }

    /// The next one.
    pub fn next_seed(&mut self) -> u64 {
        let mut part = || u64::from(self.0.word()) & ((1 << 24) - 1);
        let high = part();
        (high << 24) + part()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_go_on_behind_those_that_were_used() {
        let mut whole = JobSeeds::new(3, 0);
        let all: Vec<u64> = (0..800).map(|_| whole.next_seed()).collect();
        for done in [0, 1, 311, 312, 700] {
            let mut rest = JobSeeds::new(3, done);
            assert!(all[done as usize..].iter().all(|seed| *seed == rest.next_seed()), "behind {done}");
        }
        // r = numpy.random.RandomState(1); (2**24) * r.randint(0, 2**24) + r.randint(0, 2**24)
        assert_eq!(JobSeeds::new(1, 0).next_seed(), 213_254_341_624_043);
    }

    #[test]
    fn large_matrices_are_as_small_ones() {
        let values: Vec<f32> = (0..70_000 * 20).map(|index| index as f32).collect();
        let matrix = Matrix::of(&values, 20);
        assert!(matches!(matrix.lanes, Memory::Pages(_)));
        assert!(matrix.values() == values);
    }
}
