//! A map of genes in two dimensions: t-SNE (van der Maaten, Hinton, 2008) of the vectors' directions, by interpolation (Linderman et al., 2019; of
//! few genes by trees) as the crate `bhtsne` computes it. Neighbours are exact.

use bhtsne::{Neighbor, tSNE};
use rayon::prelude::*;

use super::cosine::UnitVectors;
use crate::philox::{Philox, Purpose};
use crate::report::Progress;
use crate::{Error, Result};

/// Genes from which on repulsion is interpolated; for fewer a tree is as fast, and the grid may grow without bounds.
const INTERPOLATED: usize = 2_000;
/// How coarse the tree may be (van der Maaten, 2014).
const THETA: f32 = 0.5;
/// The fewest genes that have a map.
const FEWEST: usize = 5;

/// How a map is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// About how many neighbours a gene has (Gene2vec's figure: 30).
    pub perplexity: f64,
    /// Steps of the gradient.
    pub iterations: usize,
    /// Seed of where points begin.
    pub seed: u64,
}

/// A map.
#[derive(Clone, Debug)]
pub struct Map {
    /// Where each gene lies.
    pub points: Vec<[f64; 2]>,
    /// The perplexity that was used: less than asked for where there are few genes.
    pub perplexity: f64,
    /// The Kullback-Leibler divergence at the end, in nats: what the map is a loss in.
    pub divergence: f64,
}

impl Map {
    /// Lays the genes out. The same seed gives the same map on any number of threads: neighbours are found on all of them, and the layout, whose
    /// sums would depend on who adds them, is one thread's work.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than five genes, and for a perplexity that is no number of neighbours.
    pub fn of(vectors: &UnitVectors, options: &Options, progress: &mut Progress) -> Result<Self> {
        let genes = vectors.len();
        if genes < FEWEST {
            return Err(Error::usage(
                format!("a map of {genes} genes"),
                format!("give vectors of {FEWEST} genes or more"),
            ));
        }
        if !(options.perplexity >= 1.0 && options.perplexity <= 1000.0) {
            return Err(Error::usage(format!("--perplexity {}", options.perplexity), "give a number from 1 to 1000"));
        }
        // The crate wants three times the perplexity in neighbours.
        let perplexity = options.perplexity.min((genes - 1) as f64 / 3.0);
        let count = ((3.0 * perplexity) as usize).clamp(1, genes - 1);
        let distance =
            |(index, cosine): (usize, f64)| Neighbor { index, distance: (2.0 - 2.0 * cosine).max(0.0).sqrt() as f32 };
        let nearest = vectors.all_nearest(count);
        let neighbours: Vec<Vec<Neighbor<f32>>> =
            nearest.into_par_iter().map(|of_gene| of_gene.into_iter().map(distance).collect()).collect();
        let philox = Philox::of(options.seed, 0, Purpose::Map);
        let start: Vec<f32> = (0..2 * genes).map(|at| (1e-4 * philox.normal(at as u64)) as f32).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
        let rows = vec![(); genes];
        let (sender, steps) = std::sync::mpsc::channel();
        let layout = || {
            let mut tsne: tSNE<'_, f32, (), 2> = tSNE::new(&rows);
            tsne.perplexity(perplexity as f32).epochs(options.iterations).initial_embedding(start);
            // Nobody listening any more is no reason to stop.
            tsne.epoch_callback(move |step, _| {
                let _ = sender.send(step);
            });
            if genes < INTERPOLATED {
                tsne.barnes_hut_with_neighbors(THETA, &neighbours);
            } else {
                tsne.fit_sne_with_neighbors(&neighbours);
            }
            (tsne.embedding(), tsne.kl_divergence().unwrap_or(f32::NAN))
        };
        let (points, divergence) = std::thread::scope(|scope| {
            let running = scope.spawn(|| pool.install(layout));
            for step in steps {
                progress.update(step as u64 + 1, step as u64 + 1, "");
            }
            running.join()
        })
        .map_err(|_| Error::Failed("the layout of the map failed; try another --perplexity or --seed".into()))?;
        let points: Vec<[f64; 2]> = points.chunks_exact(2).map(|at| [at[0].into(), at[1].into()]).collect();
        if points.iter().flatten().any(|at| !at.is_finite()) {
            return Err(Error::Failed(
                "the map has points that are no numbers; try another --perplexity or --seed".into(),
            ));
        }
        Ok(Self { points, perplexity, divergence: divergence.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::genes::vectors::GeneVectors;

    /// So many genes in three groups of one direction each, and noise.
    fn groups(genes: usize) -> UnitVectors {
        let philox = Philox::new(4, 0, 0);
        let value = |at: usize| {
            let (gene, column) = (at / 10, at % 10);
            philox.normal(at as u64) as f32 * 0.2 + if column == gene % 3 { 1.0 } else { 0.0 }
        };
        UnitVectors::of(&GeneVectors {
            genes: (0..genes).map(|gene| format!("G{gene}")).collect(),
            dimension: 10,
            values: (0..genes * 10).map(value).collect(),
        })
    }

    fn map(genes: usize, threads: usize) -> Map {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options = Options { perplexity: 30.0, iterations: 300, seed: 3 };
        pool.install(|| Map::of(&groups(genes), &options, &mut Progress::new("", 0, true)).unwrap())
    }

    #[test]
    fn groups_lie_apart_and_threads_change_nothing() {
        let map_of_one = map(300, 1);
        assert_eq!(map_of_one.points, map(300, 3).points);
        // The nearest point of nearly every gene is of its own group.
        let distance = |one: usize, other: usize| {
            let [a, b] = [map_of_one.points[one], map_of_one.points[other]];
            (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
        };
        let is_right = |&gene: &usize| {
            let others = (0..300).filter(|other| *other != gene);
            let nearest = others.min_by(|&a, &b| distance(gene, a).total_cmp(&distance(gene, b))).unwrap();
            nearest % 3 == gene % 3
        };
        let right = (0..300).filter(is_right).count();
        assert!(right > 290, "{right} of 300");
        assert!(map_of_one.divergence.is_finite() && map_of_one.divergence > 0.0);
    }

    #[test]
    fn few_genes_have_a_map_and_fewer_do_not() {
        assert_eq!(map(FEWEST, 1).points.len(), FEWEST);
        assert!((map(FEWEST, 1).perplexity - 4.0 / 3.0).abs() < 1e-12);
        let options = Options { perplexity: 30.0, iterations: 10, seed: 3 };
        let mut progress = Progress::new("", 0, true);
        assert!(Map::of(&groups(FEWEST - 1), &options, &mut progress).is_err());
        assert!(Map::of(&groups(9), &Options { perplexity: 0.5, ..options }, &mut progress).is_err());
    }
}
