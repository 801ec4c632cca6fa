//! What vectors know of pathways: Gene2vec's score (Du et al., 2019), the mean cosine of genes of one set over that of any genes, beside what
//! permuted names and two baselines have.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use super::cosine::{UnitVectors, norm};
use super::sets::GeneSet;
use super::vectors::GeneVectors;
use crate::mersenne_twister::MersenneTwister;
use crate::philox::{Philox, Purpose, shuffle};
use crate::train::metrics::Interval;
use crate::train::scores::{Estimate, estimate};
use crate::{Error, Result};

/// A mean cosine of any genes below this is no denominator: the vectors are all but uncorrelated as a whole, and the score says nothing.
pub const NEAR_ZERO: f64 = 0.02;

/// How vectors are evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Larger sets are passed over.
    pub max_genes: usize,
    /// Genes whose pairs are the denominator.
    pub background: usize,
    /// Seed of the shuffle that they come first in.
    pub background_seed: u32,
    /// How often names are permuted.
    pub permutations: u32,
    /// Seed of permutations, resamples and random vectors.
    pub seed: u64,
}

/// What became of the sets of a file.
#[derive(Clone, Debug, Serialize)]
pub struct SetCounts {
    /// All.
    pub sets: u64,
    /// Passed over as they have more genes than `max_genes`.
    pub too_large: u64,
    /// Passed over as fewer than two of their genes have a vector.
    pub too_few: u64,
    /// Those that count.
    pub used: u64,
    /// Genes of theirs that have a vector, each once.
    pub genes: u64,
    /// Genes of theirs that have none.
    pub genes_without_vector: u64,
}

/// What a permutation of the genes' names does.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Permuted {
    /// Where 95 of 100 scores lie.
    pub interval: Interval,
    /// How often a score is as large as that of the true names, or larger: `(1 + so many) / (1 + permutations)`.
    pub p: f64,
}

/// The figures of one way to say how alike two genes are.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Which way.
    pub method: String,
    /// The mean over the sets of the mean over their pairs, with its bootstrap interval over the sets.
    pub within_sets: Estimate,
    /// The mean over the pairs of genes drawn from all.
    pub random_genes: f64,
    /// The first over the second; nothing where that is near 0.
    pub score: Option<Estimate>,
    /// Scores where names are permuted; means within sets where there is no score.
    pub permuted: Option<Permuted>,
}

/// A set and how alike its genes are.
#[derive(Clone, Debug, Serialize)]
pub struct OfSet {
    /// The set.
    pub name: String,
    /// Its genes that have a vector.
    pub genes: u64,
    /// Their mean cosine.
    pub cosine: f64,
}

/// An evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Genes that have a vector.
    pub genes: u64,
    /// Numbers of a vector.
    pub dimension: u64,
    /// Genes whose vector has length 0.
    pub zero_vectors: u64,
    /// What became of the sets.
    pub sets: SetCounts,
    /// Genes of the denominator.
    pub background: u64,
    /// Permutations of the names.
    pub permutations: u64,
    /// The vectors first, then the baselines.
    pub figures: Vec<Figures>,
    /// Each set, by falling cosine.
    pub each_set: Vec<OfSet>,
}

/// Evaluates `vectors` on `sets`. `degrees` are how many pairs each gene is in, where that is known.
///
/// # Errors
/// [`Error::Usage`] if there are fewer than two genes, or no set has two genes with a vector.
pub fn evaluate(
    vectors: &GeneVectors,
    sets: &[GeneSet],
    degrees: Option<&HashMap<String, u64>>,
    options: &Options,
) -> Result<Evaluation> {
    let genes = vectors.genes.len();
    if genes < 2 {
        return Err(Error::usage(format!("vectors of {genes} genes"), "give vectors of two genes or more"));
    }
    let (named, counts) = members(vectors, sets, options.max_genes)?;
    let (names, members): (Vec<&str>, Vec<Vec<usize>>) = named.into_iter().unzip();
    let background = background(genes, options);
    let measure = Measure { members: &members, background: &background, genes, options };
    let unit = UnitVectors::of(vectors);
    let mut figures = vec![measure.figures("vectors", options.permutations, |genes| unit.mean_cosine(genes))];
    let random = UnitVectors::of(&random_vectors(vectors, options.seed));
    figures.push(measure.figures("random vectors of the same norms", 0, |genes| random.mean_cosine(genes)));
    if let Some(degrees) = degrees {
        let by_degree = Degrees::of(vectors, degrees);
        figures.push(measure.figures("number of pairs alone", 0, |genes| by_degree.mean_likeness(genes)));
    }
    let of_set = |(name, genes): (&str, &Vec<usize>)| OfSet {
        name: name.to_owned(),
        genes: genes.len() as u64,
        cosine: unit.mean_cosine(genes),
    };
    let mut each_set: Vec<OfSet> = names.into_iter().zip(&members).map(of_set).collect();
    each_set.sort_by(|one, other| other.cosine.total_cmp(&one.cosine));
    Ok(Evaluation {
        genes: genes as u64,
        dimension: vectors.dimension as u64,
        zero_vectors: unit.zeros as u64,
        sets: counts,
        background: background.len() as u64,
        permutations: options.permutations.into(),
        figures,
        each_set,
    })
}

/// A set by its name, and where its genes are among the vectors.
type Named<'a> = (&'a str, Vec<usize>);

/// The sets that count.
fn members<'a>(vectors: &GeneVectors, sets: &'a [GeneSet], max_genes: usize) -> Result<(Vec<Named<'a>>, SetCounts)> {
    let index = vectors.index();
    let (mut members, mut without) = (Vec::new(), std::collections::HashSet::new());
    let mut counts =
        SetCounts { sets: sets.len() as u64, too_large: 0, too_few: 0, used: 0, genes: 0, genes_without_vector: 0 };
    let mut is_member = vec![false; vectors.genes.len()];
    for set in sets {
        if set.genes.len() > max_genes {
            counts.too_large += 1;
            continue;
        }
        without.extend(set.genes.iter().filter(|gene| !index.contains_key(gene.as_str())));
        let genes: Vec<usize> = set.genes.iter().filter_map(|gene| index.get(gene.as_str()).copied()).collect();
        if genes.len() < 2 {
            counts.too_few += 1;
            continue;
        }
        genes.iter().for_each(|&gene| is_member[gene] = true);
        members.push((set.name.as_str(), genes));
    }
    counts.used = members.len() as u64;
    counts.genes = is_member.iter().filter(|is| **is).count() as u64;
    counts.genes_without_vector = without.len() as u64;
    if members.is_empty() {
        let shown = |names: Vec<&str>| names.into_iter().take(3).collect::<Vec<_>>().join(", ");
        let theirs = shown(sets.iter().flat_map(|set| &set.genes).map(String::as_str).collect());
        let ours = shown(vectors.genes.iter().map(String::as_str).collect());
        let found = format!(
            "no set has two genes with a vector ({} of {} have over {max_genes} genes; genes of the sets: {theirs}; with vectors: {ours})",
            counts.too_large, counts.sets
        );
        return Err(Error::usage(found, "give sets and vectors with names of one kind, or raise --max-genes"));
    }
    Ok((members, counts))
}

/// The genes of the denominator: the first of all, shuffled as Python's `random.Random(seed).shuffle` does it, so that they are those of
/// Gene2vec's program.
fn background(genes: usize, options: &Options) -> Vec<usize> {
    let mut all: Vec<usize> = (0..genes).collect();
    let mut twister = MersenneTwister::by_array(&[options.background_seed]);
    for last in (1..genes).rev() {
        let bits = usize::BITS - (last + 1).leading_zeros();
        let drawn = std::iter::repeat_with(|| (twister.word() >> (32 - bits)) as usize);
        let other = drawn.into_iter().find(|drawn| *drawn <= last).unwrap_or(last);
        all.swap(last, other);
    }
    all.truncate(options.background.max(2));
    all
}

/// Vectors of random directions, as long as those given.
fn random_vectors(vectors: &GeneVectors, seed: u64) -> GeneVectors {
    let philox = Philox::of(seed, 0, Purpose::RandomVectors);
    let mut random = vectors.clone();
    let dimension = vectors.dimension.max(1);
    for (gene, row) in random.values.chunks_exact_mut(dimension).enumerate() {
        let length = norm(row);
        let at = |column: usize| (gene * dimension + column) as u64;
        let drawn: Vec<f64> = (0..dimension).map(|column| philox.normal(at(column))).collect();
        let own = drawn.iter().map(|value| value * value).sum::<f64>().sqrt();
        row.iter_mut().zip(drawn).for_each(|(value, drawn)| *value = (drawn / own * length) as f32);
    }
    random
}

/// How alike genes are by their numbers of pairs alone: `exp(-(difference of ln(1 + pairs) / s)^2 / 2)`, where s is the standard
/// deviation of that logarithm over all genes; 1 for equal numbers.
struct Degrees(Vec<f64>);

impl Degrees {
    fn of(vectors: &GeneVectors, degrees: &HashMap<String, u64>) -> Self {
        let degree = |gene: &String| (degrees.get(gene).copied().unwrap_or(0) as f64).ln_1p();
        let logarithms: Vec<f64> = vectors.genes.iter().map(degree).collect();
        let count = logarithms.len() as f64;
        let mean = logarithms.iter().sum::<f64>() / count;
        let deviation = (logarithms.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        let deviation = if deviation > 0.0 { deviation } else { 1.0 };
        Self(logarithms.into_iter().map(|value| value / deviation).collect())
    }

    fn mean_likeness(&self, genes: &[usize]) -> f64 {
        let mut sum = 0.0;
        for (place, &one) in genes.iter().enumerate() {
            sum +=
                genes[..place].iter().map(|&other| (-0.5 * (self.0[one] - self.0[other]).powi(2)).exp()).sum::<f64>();
        }
        2.0 * sum / (genes.len() as f64 * (genes.len() as f64 - 1.0))
    }
}

/// What any way of saying how alike genes are is measured on.
struct Measure<'a> {
    members: &'a [Vec<usize>],
    background: &'a [usize],
    genes: usize,
    options: &'a Options,
}

impl Measure<'_> {
    fn figures(&self, method: &str, permutations: u32, mean: impl Fn(&[usize]) -> f64 + Sync) -> Figures {
        let each: Vec<f64> = self.members.par_iter().map(|genes| mean(genes)).collect();
        let average = |indices: &[usize]| indices.iter().map(|&set| each[set]).sum::<f64>() / indices.len() as f64;
        let estimates = estimate(self.members.len(), self.options.seed, |indices| vec![average(indices)]);
        let within = estimates[0];
        let random_genes = mean(self.background);
        let is_denominator = random_genes >= NEAR_ZERO;
        let scale = if is_denominator { 1.0 / random_genes } else { 1.0 };
        let scaled = |estimate: Estimate| Estimate {
            value: estimate.value * scale,
            interval: estimate.interval.map(|end| end * scale),
        };
        let permuted = (permutations > 0).then(|| {
            let means = (0..permutations).into_par_iter().map(|step| self.mean_of_permuted(step, &mean));
            let mut scores: Vec<f64> = means.map(|mean| mean * scale).collect();
            let as_large = scores.iter().filter(|score| **score >= within.value * scale).count();
            scores.sort_by(f64::total_cmp);
            let at = |share: f64| scores[((scores.len() - 1) as f64 * share).round() as usize];
            let p = (1 + as_large) as f64 / (1.0 + f64::from(permutations));
            Permuted { interval: [at(0.025), at(0.975)], p }
        });
        Figures {
            method: method.into(),
            within_sets: within,
            random_genes,
            score: is_denominator.then(|| scaled(within)),
            permuted,
        }
    }

    /// The mean within sets where each name belongs to another gene.
    fn mean_of_permuted(&self, step: u32, mean: &impl Fn(&[usize]) -> f64) -> f64 {
        let mut names: Vec<usize> = (0..self.genes).collect();
        shuffle(&mut names, Philox::of(self.options.seed, step, Purpose::GenePermutation));
        let mut permuted = Vec::new();
        let of_set = |genes: &Vec<usize>| {
            permuted.clear();
            permuted.extend(genes.iter().map(|&gene| names[gene]));
            mean(&permuted)
        };
        self.members.iter().map(of_set).sum::<f64>() / self.members.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options { max_genes: 50, background: 5, background_seed: 35, permutations: 200, seed: 1 };

    #[test]
    fn the_background_is_that_of_python() {
        // import random; genes = list(range(n)); random.Random(35).shuffle(genes)
        let of = |genes, background| super::background(genes, &Options { background, ..OPTIONS });
        assert_eq!(of(20, 20), [2, 3, 1, 16, 11, 7, 13, 5, 12, 8, 0, 9, 14, 6, 15, 19, 18, 4, 10, 17]);
        assert_eq!(of(5000, 5), [899, 2796, 3851, 4390, 3822]);
        assert_eq!(of(2, 1000).len(), 2);
    }

    /// Sixty genes in three groups, whose vectors have something in common with their group and with all.
    fn planted(of_group: f32) -> (GeneVectors, Vec<GeneSet>) {
        let philox = Philox::new(9, 0, 0);
        let value = |at: usize| {
            let (gene, column) = (at / 8, at % 8);
            let group = if column == gene % 3 { of_group } else { 0.0 };
            philox.normal(at as u64) as f32 * 0.5 + group + if column == 7 { 1.0 } else { 0.0 }
        };
        let vectors = GeneVectors {
            genes: (0..60).map(|gene| format!("G{gene}")).collect(),
            dimension: 8,
            values: (0..60 * 8).map(value).collect(),
        };
        let set = |group: usize| GeneSet {
            name: format!("set {group}"),
            genes: (group..60).step_by(3).map(|gene| format!("G{gene}")).chain(["X".into()]).collect(),
        };
        (vectors, (0..3).map(set).collect())
    }

    #[test]
    fn a_score_is_large_where_sets_were_planted_and_not_elsewhere() {
        let options = Options { background: 60, ..OPTIONS };
        let (vectors, mut sets) = planted(2.0);
        sets.push(GeneSet { name: "one".into(), genes: vec!["G1".into(), "Y".into()] });
        sets.push(GeneSet { name: "many".into(), genes: (0..51).map(|gene| format!("G{gene}")).collect() });
        let degrees = (0..60).map(|gene| (format!("G{gene}"), if gene % 3 == 0 { 400 } else { 1 })).collect();
        let evaluation = evaluate(&vectors, &sets, Some(&degrees), &options).unwrap();
        let counts = &evaluation.sets;
        assert_eq!((counts.sets, counts.too_large, counts.too_few, counts.used), (5, 1, 1, 3));
        assert_eq!((counts.genes, counts.genes_without_vector), (60, 2));
        let [ours, random, by_degree] = &evaluation.figures[..] else { panic!("three ways") };
        let score = ours.score.unwrap();
        assert!(score.value > 1.5 && score.interval[0] <= score.value && score.value <= score.interval[1]);
        let permuted = ours.permuted.unwrap();
        assert!((permuted.p - 1.0 / 201.0).abs() < 1e-12, "{permuted:?}");
        assert!(permuted.interval[0] < 1.0 && permuted.interval[1] < score.value && permuted.interval[1] > 0.9);
        assert!(random.score.is_none() && random.within_sets.value.abs() < 0.05, "{random:?}");
        // Set 0 and the others each have one number of pairs: within sets all are alike.
        assert!((by_degree.within_sets.value - 1.0).abs() < 1e-9 && by_degree.random_genes < 0.9, "{by_degree:?}");

        let (vectors, sets) = planted(0.0);
        let nothing = evaluate(&vectors, &sets, None, &options).unwrap();
        assert!(nothing.figures[0].permuted.unwrap().p > 0.05, "{:?}", nothing.figures[0]);
    }

    #[test]
    fn the_score_is_gene2vecs_formula() {
        let (vectors, sets) = planted(1.0);
        let evaluation = evaluate(&vectors, &sets, None, &OPTIONS).unwrap();
        let unit = UnitVectors::of(&vectors);
        let index = vectors.index();
        let pair = |one: usize, other: usize| unit.mean_cosine(&[one, other]);
        let mean = |genes: &[usize]| {
            let pairs =
                genes.iter().enumerate().flat_map(|(at, &one)| genes[..at].iter().map(move |&other| pair(one, other)));
            pairs.sum::<f64>() / (genes.len() * (genes.len() - 1) / 2) as f64
        };
        let of_set = |set: &GeneSet| {
            mean(&set.genes.iter().filter_map(|gene| index.get(gene.as_str()).copied()).collect::<Vec<_>>())
        };
        let numerator = sets.iter().map(of_set).sum::<f64>() / 3.0;
        let denominator = mean(&super::background(60, &OPTIONS));
        let score = evaluation.figures[0].score.unwrap().value;
        assert!((score - numerator / denominator).abs() < 1e-9, "{score} {numerator} {denominator}");
    }

    #[test]
    fn names_of_another_kind_are_told() {
        let (vectors, _) = planted(1.0);
        let sets = [GeneSet { name: "a".into(), genes: vec!["ENSG1".into(), "ENSG2".into()] }];
        let error = evaluate(&vectors, &sets, None, &OPTIONS).unwrap_err().to_string();
        assert!(error.contains("ENSG1") && error.contains("G0"), "{error}");
    }
}
