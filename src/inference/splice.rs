//! A classifier of splice sites on a genome: which class is which, and the windows around boundaries.

use std::ops::Range;

use super::score::Scorer;
use crate::genome::annotation::Strand;
use crate::genome::region::reverse_complement;
use crate::genome::splice::{Kind, LABEL_NAMES};
use crate::kmer::labelled::LabelledWindow;
use crate::train::baselines::SiteMatrices;
use crate::{Error, Result};

/// Differences of probabilities are told with so many decimals.
pub const DECIMALS: usize = 6;

/// A probability in millionths: what is counted by thresholds, and differences as exact as they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Score(pub u32);

impl Score {
    /// Certainty.
    pub const ONE: u32 = 1_000_000;

    /// Rounds a probability.
    pub fn of(probability: f64) -> Self {
        Self((probability.clamp(0.0, 1.0) * f64::from(Self::ONE)).round() as u32)
    }

    /// The rounded probability.
    pub fn value(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ONE)
    }
}

/// A [`Scorer`] with a class for donors and one for acceptors, and windows of one width.
pub struct SpliceScorer {
    scorer: Scorer,
    classes: [usize; 2],
    width: u32,
    /// What each class' probability is multiplied with before they are made to add up to 1 again.
    weights: Option<Vec<f64>>,
    /// How it reads stretches, where it answers for many places at once.
    tiles: Option<Tiles>,
    baseline: Option<SiteMatrices>,
}

/// How long stretches of a genome are cut for a model that answers for many places of a window: into windows that begin at fixed places of
/// a sequence, whatever part of it is asked for, and overlap by two margins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Bases of a window.
    pub window: u32,
    /// Bases that are read before and behind the places that a window answers for.
    pub margin: u32,
}

impl Tiles {
    /// Bases whose boundaries a window answers for.
    pub fn core(self) -> u32 {
        self.window - 2 * self.margin
    }
}

impl SpliceScorer {
    /// Finds the classes by their names, `donor` and `acceptor`. `width` is the window's in bases, the model's own unless
    /// given.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model without these classes, for one without a window of its own if no width is given, and
    /// for a width that the model cannot read.
    pub fn new(scorer: Scorer, width: Option<u32>) -> Result<Self> {
        let class = |name: &str| scorer.labels().iter().position(|label| label.eq_ignore_ascii_case(name));
        let [Some(donor), Some(acceptor)] = [Kind::Donor, Kind::Acceptor].map(|kind| class(kind.name())) else {
            return Err(Error::usage(
                format!("the model's classes are {}", scorer.labels().join(", ")),
                format!("use a model whose classes are {} (finetune --labels names them)", LABEL_NAMES.join(", ")),
            ));
        };
        let own = scorer.width().and_then(|width| u32::try_from(width).ok());
        let width = match (own, width) {
            (Some(own), Some(other)) if own != other => {
                return Err(Error::usage(
                    format!("a window of {other} bases, but the model was trained on windows of {own}"),
                    "leave out --window",
                ));
            }
            (Some(own), _) => own,
            (None, Some(width)) => width,
            (None, None) => {
                return Err(Error::usage(
                    "a model without a window of its own",
                    "say how many bases it reads: --window 80",
                ));
            }
        };
        let least = scorer.least().max(4);
        if (width as usize) < least || scorer.most().is_some_and(|most| width as usize > most) {
            let most = scorer.most().map_or(String::new(), |most| format!(" and at most {most}"));
            return Err(Error::usage(
                format!("a window of {width} bases"),
                format!("this model reads at least {least}{most}"),
            ));
        }
        let margin = scorer.margin().and_then(|margin| u32::try_from(margin).ok());
        let tiles =
            margin.map(|margin| Tiles { window: width, margin }).filter(|tiles| tiles.window > 2 * tiles.margin);
        Ok(Self { scorer, classes: [donor, acceptor], width, weights: None, tiles, baseline: None })
    }

    /// The same scorer for positions of which a share of `prior` are donors, where they could be, and as many acceptors, whatever the
    /// share was among the windows that the model learnt from. By Bayes' rule each probability is multiplied with the new share over the
    /// one that was learnt (Saerens et al., Neural Comput. 14, 2002).
    ///
    /// # Errors
    /// [`Error::Usage`] for a prior that is none, and for a model that does not say what it learnt from.
    pub fn with_prior(mut self, prior: f64) -> Result<Self> {
        if !(prior > 0.0 && prior < 0.5) {
            return Err(Error::usage(format!("--prior {prior}"), "give a share over 0 and below 0.5"));
        }
        let counts = self.scorer.counts();
        if counts.is_empty() || counts.contains(&0) {
            return Err(Error::usage(
                "--prior with a model that does not say how many windows of each class it learnt from",
                "fine-tune one with this version, with windows of every class",
            ));
        }
        let total: f64 = counts.iter().map(|count| *count as f64).sum();
        let sites = |class: usize| self.classes.contains(&class);
        let learnt: f64 =
            counts.iter().enumerate().filter(|(class, _)| !sites(*class)).map(|(_, count)| *count as f64).sum();
        let weight = |(class, &count): (usize, &u64)| match sites(class) {
            true => prior / (count as f64 / total),
            // The others share what is left as they did.
            false => (1.0 - 2.0 * prior) / (learnt / total),
        };
        self.weights = Some(counts.iter().enumerate().map(weight).collect());
        Ok(self)
    }

    /// The scorer inside.
    pub fn scorer(&self) -> &Scorer {
        &self.scorer
    }

    /// The same scorer with weight matrices that a scan puts beside it.
    pub fn with_baseline(self, baseline: Option<SiteMatrices>) -> Self {
        Self { baseline, ..self }
    }

    /// What a scan is put beside.
    pub fn baseline(&self) -> Option<&SiteMatrices> {
        self.baseline.as_ref()
    }

    /// How it reads stretches; `None`: it reads a window for each place.
    pub fn tiles(&self) -> Option<Tiles> {
        self.tiles
    }

    /// Bases of a window.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Windows to score at a time: many enough for a device, few enough that no interruption loses more than about half a minute of two
    /// cores. The model alone decides, so that work is cut alike wherever it goes on.
    pub fn round_windows(&self) -> usize {
        const FLOPS: f64 = 1e13;
        let window = 2.0 * self.scorer.model().config.weights() as f64 * f64::from(self.width);
        ((FLOPS / window) as usize).clamp(64, 4096)
    }

    /// The bases, in plus-strand coordinates, that are read around a boundary: on its strand, `width / 2` before it and
    /// the rest behind it. `None` where the sequence starts inside them; the end may lie outside.
    pub fn range(&self, boundary: u32, strand: Strand) -> Option<Range<u32>> {
        let (before, after) = (self.width / 2, self.width - self.width / 2);
        let before = if strand == Strand::Plus { before } else { after };
        let start = boundary.checked_sub(before)?;
        Some(start..start.checked_add(self.width)?)
    }

    /// The window around boundary `at` of `bases` on `strand`, or `None` where it leaves them or holds anything but A, C,
    /// G, T. `bases` are a piece of the plus strand, upper case; `at` is relative to it.
    pub fn window(&self, bases: &[u8], at: usize, strand: Strand) -> Option<Vec<u8>> {
        let range = self.range(u32::try_from(at).ok()?, strand)?;
        let mut window = bases.get(range.start as usize..range.end as usize)?.to_vec();
        if !window.iter().all(|base| matches!(base, b'A' | b'C' | b'G' | b'T')) {
            return None;
        }
        if strand == Strand::Minus {
            reverse_complement(&mut window);
        }
        Some(window)
    }

    /// Donor and acceptor probability of each window, in their order; by [`Kind`].
    ///
    /// # Errors
    /// Those of the device.
    pub fn score<W: AsRef<[u8]> + Sync>(&self, windows: &[W]) -> Result<Vec<[f64; 2]>> {
        Ok(self.of_kinds(&self.scorer.score(windows)?))
    }

    /// Donor and acceptor probability of each place of long windows, in their order; by [`Kind`].
    ///
    /// # Errors
    /// Those of the device.
    pub fn score_places(&self, windows: &[LabelledWindow]) -> Result<Vec<[f64; 2]>> {
        Ok(self.of_kinds(&self.scorer.score_places(windows)?))
    }

    fn of_kinds(&self, probabilities: &[Vec<f64>]) -> Vec<[f64; 2]> {
        let of = |row: &Vec<f64>| match &self.weights {
            None => self.classes.map(|class| row[class]),
            Some(weights) => {
                let sum: f64 = row.iter().zip(weights).map(|(probability, weight)| probability * weight).sum();
                self.classes.map(|class| row[class] * weights[class] / sum)
            }
        };
        probabilities.iter().map(of).collect()
    }
}

/// Whether boundary `at` of `bases` (a piece of the plus strand, upper case) could be a site of `kind` on `strand` by the
/// intron's two bases: GT behind a donor, AG before an acceptor.
pub fn is_candidate(bases: &[u8], at: usize, kind: Kind, strand: Strand) -> bool {
    let after = (kind == Kind::Donor) == (strand == Strand::Plus);
    let found = if after { bases.get(at..at + 2) } else { at.checked_sub(2).and_then(|start| bases.get(start..at)) };
    let expected: &[u8; 2] = match (kind, strand) {
        (Kind::Donor, Strand::Plus) => b"GT",
        (Kind::Donor, Strand::Minus) => b"AC",
        (Kind::Acceptor, Strand::Plus) => b"AG",
        (Kind::Acceptor, Strand::Minus) => b"CT",
    };
    found == Some(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_rounded_to_the_nearest_millionth() {
        let scores = [-1.0, 0.0, 4.9e-7, 5.1e-7, 0.123_456_4, 0.123_456_6, 1.0, 2.0].map(|p| Score::of(p).0);
        assert_eq!(scores, [0, 0, 0, 1, 123_456, 123_457, 1_000_000, 1_000_000]);
        assert_eq!(Score(123_457).value(), 0.123_457);
    }
}
