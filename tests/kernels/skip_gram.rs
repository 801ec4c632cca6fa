//! Updates by blocks of genes: the kernel has the bits of the CPU, whose order of sums it takes over. (What is random in them comes from the same
//! generators, so that nothing here is drawn twice.)

use helixgrad::genes::blocks::{Blocks, Episode};
use helixgrad::genes::skip_gram::{Loss, Matrix, Model, Pair, Recipe, logistic_tables};
use helixgrad::philox::{Philox, Purpose, below};

use super::harness::*;

const GENES: usize = 1600;

/// A few genes have most of the pairs: they are drawn again and again in one update, and as negatives of themselves.
fn counts(is_skewed: bool) -> Vec<u64> {
    (0..GENES as u64).map(|gene| if is_skewed { 1 + 1_000_000 / (gene * gene + 1) } else { 1000 - gene / 2 }).collect()
}

fn pairs(count: usize, seed: u64) -> Vec<Pair> {
    let draws = Philox::of(seed, 0, Purpose::Shuffle);
    let gene = |word: u32| below(word, GENES as u32);
    let pair = |index| {
        let [one, other, frequent, ..] = draws.block(index);
        // One in four with a frequent gene.
        [gene(one), if frequent < 1 << 30 { gene(other) % 7 } else { gene(other) }]
    };
    (0..count as u64).map(pair).filter(|[one, other]| one != other).collect()
}

fn by_blocks(blocks: &Blocks, whole: &Matrix) -> Matrix {
    let mut matrix = Matrix::zeros(GENES, whole.dimension());
    (0..GENES).for_each(|gene| matrix.copy_row(blocks.row(gene), whole, gene));
    matrix
}

fn words(values: &[u32]) -> Vec<i32> {
    values.iter().map(|&value| value as i32).collect()
}

/// The generators of the rectangles.
fn states(blocks: &Blocks, episode: &Episode) -> Vec<u64> {
    (0..blocks.count() * blocks.count()).map(|number| blocks.generator_of(episode, number).0).collect()
}

/// Both matrices and the loss behind an episode by the kernel.
fn kernel(
    name: &str,
    blocks: &Blocks,
    episode: &Episode,
    states: &[u64],
    model: &Model,
    schedule: u64,
) -> ([Vec<f32>; 2], Loss) {
    let count = blocks.count();
    let [input, output] = [&model.input, &model.output].map(|whole| by_blocks(blocks, whole));
    let stride = input.padded_dimension();
    let (input, output) = (Memory::of::<f32>("input", input.padded()), Memory::of::<f32>("output", output.padded()));
    let firsts = Memory::integers("firsts", &words(blocks.firsts()));
    let shares = Memory::integers("shares", &words(&blocks.shares()));
    let logistic = Memory::of::<f32>("logistic", &logistic_tables());
    let updates = Memory::integers("updates", bytemuck::cast_slice(&episode.updates));
    let starts = Memory::integers("starts", &words(&episode.starts));
    let states = Memory::raw("states", states);
    let losses = Memory::poisoned_doubles("losses", 2 * count * count);
    for diagonal in 0..count {
        let arguments: Vec<Argument> = vec![
            (&input).into(),
            (&output).into(),
            (&firsts).into(),
            (&shares).into(),
            (&logistic).into(),
            (&updates).into(),
            (&starts).into(),
            (&states).into(),
            diagonal.into(),
            stride.into(),
            blocks.recipe().negatives.into(),
            (&losses).into(),
        ];
        run(name, [count, 1], [32, 1], schedule + diagonal as u64, arguments);
    }
    let mut loss = Loss::default();
    let losses = losses.to_doubles();
    for diagonal in 0..count {
        for row in 0..count {
            let number = row * count + (row + diagonal) % count;
            loss += Loss { sum: losses[2 * number], terms: losses[2 * number + 1] as u64 };
        }
    }
    ([input.values::<f32>(), output.values::<f32>()], loss)
}

/// Some episodes of one model, on both.
fn check(name: &str, dimension: usize, negatives: usize, is_skewed: bool, count: usize, seed: u64) {
    let recipe = Recipe { negatives, alpha: 0.9, min_alpha: 0.1, ..Recipe::default() };
    let blocks = Blocks::deal(&counts(is_skewed), Vec::new(), recipe, seed, 3);
    assert_eq!(blocks.count(), 3);
    let values: Vec<f32> = normals::<f32>(seed, GENES * dimension, 1.5 / (dimension as f64).sqrt());
    let mut model = Model::from_vectors(&values, dimension);
    model.output = Matrix::of(&normals::<f32>(seed + 1, GENES * dimension, 1.5), dimension);
    let episode = blocks.plan(&pairs(count, seed), 0, 2 * count as u64);
    let (found, loss) = kernel(name, &blocks, &episode, &states(&blocks, &episode), &model, seed);

    let mut split = blocks.split(&model);
    let expected_loss = blocks.learn(&mut split, &episode);
    blocks.join(&split, &mut model);
    for (what, found, expected) in [("vectors", &found[0], &model.input), ("output vectors", &found[1], &model.output)]
    {
        let expected = by_blocks(&blocks, expected);
        let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
        let differs = bits(found).iter().zip(bits(expected.padded())).position(|(found, expected)| *found != expected);
        let place = differs.map(|at| (at / expected.padded_dimension(), at % expected.padded_dimension()));
        assert_eq!(place, None, "{what} of {name}, dimension {dimension}, {negatives} negatives");
    }
    assert_eq!(loss, expected_loss);
    let moved = by_blocks(&blocks, &Model::from_vectors(&values, dimension).input);
    assert!(found[0] != moved.padded(), "no vector has moved");
}

#[test]
fn skip_gram_has_the_bits_of_the_cpu() {
    for (index, (name, dimension, negatives)) in [
        ("skip_gram_f32_d128", 1, 1),
        ("skip_gram_f32_d128", 33, 5),
        ("skip_gram_f32_d128", 128, 7),
        ("skip_gram_f32_d256", 129, 5),
        ("skip_gram_f32_d256", 200, 5),
        ("skip_gram_f32_d256", 256, 32),
        ("skip_gram_f32_d512", 300, 5),
        ("skip_gram_f32_d512", 512, 12),
        // A wide kernel takes narrow vectors, too.
        ("skip_gram_f32_d512", 16, 6),
    ]
    .into_iter()
    .enumerate()
    {
        // Fewer updates than a warp draws for at a time in some rectangles, more in others.
        check(name, dimension, negatives, index % 2 == 0, [40, 400][index % 2], index as u64);
        check(name, dimension, negatives, index % 2 == 1, 150, 100 + index as u64);
    }
}

/// Of a pair, two updates; and nothing at all.
#[test]
fn skip_gram_of_hardly_any_pairs() {
    for count in [0, 1] {
        let blocks = Blocks::deal(&counts(true), Vec::new(), Recipe::default(), 5, 0);
        let model = Model::initialise(GENES, 24, 1);
        let episode = blocks.plan(&[[3, 700]][..count], 0, 1);
        if count == 1 {
            let ([input, _], loss) =
                kernel("skip_gram_f32_d128", &blocks, &episode, &states(&blocks, &episode), &model, 1);
            let start = by_blocks(&blocks, &model.input);
            let moved: Vec<usize> =
                (0..GENES).filter(|row| input[row * 32..][..32] != start.padded()[row * 32..][..32]).collect();
            let mut expected = [3, 700].map(|gene| blocks.row(gene));
            expected.sort_unstable();
            // Output vectors are 0 at first: one of the two updates may find nothing to learn from.
            assert!(moved.iter().all(|row| expected.contains(row)), "{moved:?}");
            assert!((8..=12).contains(&loss.terms), "{loss:?}");
        }
    }
}

/// Words at the very ends of shares, which hardly ever come by chance: the same gene as on the CPU, seen by the one output vector beside the target's
/// that moves.
#[test]
fn skip_gram_at_the_ends_of_shares() {
    const END: u32 = (1 << 31) - 1;
    let recipe = Recipe { negatives: 1, ..Recipe::default() };
    let blocks = Blocks::deal(&counts(false), Vec::new(), recipe, 5, 0);
    let model = Model::from_vectors(&vec![0.5; GENES * 8], 8);
    let episode = blocks.plan(&[[3, 700]], 0, 1);
    let number = episode.starts.iter().position(|&start| start > 0).unwrap() - 1;
    let (row, column) = (number / blocks.count(), number % blocks.count());
    let (first, last) = (blocks.firsts()[column] as usize, blocks.firsts()[column + 1] as usize);
    let shares = &blocks.shares()[first..last];
    let target = episode.updates[0].target as usize;
    for word in [0, 1, shares[40], shares[40] + 1, shares[40] + END, END - 1, END, END + 1, u32::MAX] {
        let expected = shares.partition_point(|&end| end < word % END);
        let mut states = states(&blocks, &episode);
        states[number] = u64::from(word) << 16;
        let ([_, output], _) = kernel("skip_gram_f32_d128", &blocks, &episode, &states, &model, 1);
        let moved = |at: &usize| output[(first + at) * 16..][..8].iter().any(|value| *value != 0.0);
        let moved: Vec<usize> = (0..last - first).filter(moved).collect();
        assert!(
            moved.contains(&target) && moved.contains(&expected),
            "{word}, row {row}: {moved:?} and not {expected}"
        );
    }
}
