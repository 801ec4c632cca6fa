//! Class probabilities of windows, on all threads ([`super::workers`]).

use std::ops::Range;
use std::sync::Arc;

use super::batches::Batches;
use super::encoder::Encoder;
use super::workers::Workers;
use crate::device::{DType, Device};
use crate::genome::region::reverse_complement;
use crate::genome::splice::Kind;
use crate::kmer::labelled::{LabelledWindow, middle};
use crate::kmer::table::Limits;
use crate::model::{Head, Model, Task};
use crate::tokenizer::Tokenizer;
use crate::train::apply::{answers, classify};
use crate::train::checkpoint::{Checkpoint, Classification};
use crate::train::evaluation::no_classifier;
use crate::{Error, Result};

/// Bases that a thread of the CPU works on at a time: few enough that the activations of a small model stay in its cache.
const CPU_BASES: usize = 2048;

/// Bases that a GPU works on at a time.
const DEVICE_BASES: usize = 1 << 16;

/// Bases that [`Scorer::stream`] holds at a time, in windows as they are scored.
const ROUND_BASES: usize = 1 << 20;

/// A classifier, ready to score windows.
pub struct Scorer {
    model: Arc<Model>,
    vocabulary: Arc<dyn Tokenizer>,
    classification: Classification,
    device: Device,
    workers: Arc<Workers>,
    both_strands: bool,
}

impl Scorer {
    /// Pairs that are scored together.
    pub const PAIRS: usize = 64;

    /// Moves a classifier to `device`. On the CPU it will work on as many threads as rayon's pool has.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model that is no classifier; those of the device.
    pub fn new(checkpoint: Checkpoint, device: Device, dtype: DType) -> Result<Self> {
        let Checkpoint { mut model, vocabulary, classification } = checkpoint;
        let classification = classification.ok_or_else(no_classifier)?;
        let dtype = classification.answers_dtype(dtype);
        model.parameters.move_to(&device, dtype)?;
        let workers = Arc::new(Workers::new(device.clone(), dtype)?);
        Ok(Self { model: Arc::new(model), vocabulary, classification, device, workers, both_strands: false })
    }

    /// From now on answers are the means of those to a window and to its reverse complement.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model of splice sites: a site is read on its own strand, and turned round it is another place.
    pub fn on_both_strands(mut self) -> Result<Self> {
        let is_site =
            |label: &String| [Kind::Donor, Kind::Acceptor].iter().any(|kind| label.eq_ignore_ascii_case(kind.name()));
        if self.labels().iter().any(is_site) {
            return Err(Error::usage(
                "--rc with a model of splice sites",
                "leave it out: a site is read on its own strand, and its reverse complement is no site",
            ));
        }
        self.both_strands = true;
        Ok(self)
    }

    /// Names of the classes, in the order of the probabilities.
    pub fn labels(&self) -> &[String] {
        &self.classification.labels
    }

    /// Training windows of each class, in the order of the probabilities; none where the model does not say.
    pub fn counts(&self) -> &[u64] {
        &self.classification.counts
    }

    /// What its answers are.
    pub fn task(&self) -> Task {
        self.classification.task
    }

    /// Bases of the window that the model reads, the middle of longer ones; `None`: whatever comes.
    pub fn width(&self) -> Option<usize> {
        self.classification.window
    }

    /// Bases that places had before and behind them in training at least, where it learnt from many of a window.
    pub fn margin(&self) -> Option<usize> {
        self.classification.margin
    }

    /// The fewest bases that can be scored.
    pub fn least(&self) -> usize {
        self.width().unwrap_or(self.vocabulary.shortest())
    }

    /// The most bases that can be scored, unless the model takes the middle of longer windows, or only tokens can be counted.
    pub fn most(&self) -> Option<usize> {
        let positions = self.model.config.max_position_embeddings;
        let bases = self.vocabulary.most_bases(positions.saturating_sub(self.vocabulary.specials().frame()));
        bases.filter(|_| self.width().is_none())
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its tokenizer.
    pub fn vocabulary(&self) -> &dyn Tokenizer {
        &*self.vocabulary
    }

    /// The encoder of the same model, on the same threads: nothing is loaded again.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn encoder(&self) -> Result<Encoder> {
        Encoder::of(Arc::clone(&self.model), Arc::clone(&self.vocabulary), &self.device, Arc::clone(&self.workers))
    }

    /// What the model reads of a row.
    pub fn limits(&self) -> Limits {
        Limits {
            tokenizer: Arc::clone(&self.vocabulary),
            window: self.width(),
            positions: self.model.config.max_position_embeddings,
        }
    }

    /// A sequence can be scored.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(&self, bases: &[u8]) -> Result<(), (String, String)> {
        let found = format!("{} bases", bases.len());
        if bases.len() < self.least() {
            let least = self.least();
            let middle =
                if matches!(self.model.head, Head::Site { .. }) { ", with the site in the middle" } else { "" };
            return Err((found, format!("this model takes windows of {least} bases or more{middle}")));
        }
        match self.most() {
            Some(most) if bases.len() > most => {
                let remedy = format!(
                    "this model takes windows of at most {most} bases: cut the sequences, or take windows of a genome with --bed"
                );
                Err((found, remedy))
            }
            // K-mers are counted by their bases, others not before they are made.
            _ if self.vocabulary.k_mers().is_none() => self.limits().check(bases, None),
            _ => Ok(()),
        }
    }

    /// Class probabilities of windows, `[windows][classes]`, in their order.
    ///
    /// # Errors
    /// [`Error::Usage`] for windows that do not fit the model; those of the device.
    pub fn score<W: AsRef<[u8]> + Sync>(&self, windows: &[W]) -> Result<Vec<Vec<f64>>> {
        let scores = self.score_as_given(windows)?;
        if !self.both_strands {
            return Ok(scores);
        }
        let turned: Vec<Vec<u8>> = windows.iter().map(|window| self.turned(window.as_ref())).collect();
        Ok(means(scores, &self.score_as_given(&turned)?))
    }

    /// The reverse complement of what the model reads of a sequence.
    fn turned(&self, bases: &[u8]) -> Vec<u8> {
        let mut turned = bases[middle(bases.len(), self.width())].to_vec();
        reverse_complement(&mut turned);
        turned
    }

    fn score_as_given<W: AsRef<[u8]> + Sync>(&self, windows: &[W]) -> Result<Vec<Vec<f64>>> {
        let batches = self.batches(windows);
        let scored = self.workers.run(batches.len(), |tape, batch| {
            let windows: Vec<&[u8]> = windows[batches[batch].clone()].iter().map(AsRef::as_ref).collect();
            classify(tape, &self.model, &*self.vocabulary, &self.classification, &windows, &mut |_| ())
        });
        Ok(scored?.into_iter().flatten().collect())
    }

    /// Whether it reads pairs of sequences.
    pub fn reads_pairs(&self) -> bool {
        self.classification.pairs
    }

    /// As [`Scorer::score`], of pairs of sequences.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub fn score_pairs(&self, pairs: &[LabelledWindow]) -> Result<Vec<Vec<f64>>> {
        let scores = self.score_pairs_as_given(pairs)?;
        if !self.both_strands {
            return Ok(scores);
        }
        let turned = |pair: &LabelledWindow| LabelledWindow {
            bases: self.turned(&pair.bases),
            second: pair.second.as_ref().map(|second| self.turned(second)),
            ..LabelledWindow::default()
        };
        let turned: Vec<LabelledWindow> = pairs.iter().map(turned).collect();
        Ok(means(scores, &self.score_pairs_as_given(&turned)?))
    }

    fn score_pairs_as_given(&self, pairs: &[LabelledWindow]) -> Result<Vec<Vec<f64>>> {
        let chunks: Vec<_> = pairs.chunks(Self::PAIRS).collect();
        let scored = self.workers.run(chunks.len(), |tape, chunk| {
            answers(tape, &self.model, &*self.vocabulary, &self.classification, chunks[chunk], &mut |_| ())
        });
        Ok(scored?.into_iter().flatten().collect())
    }

    /// Class probabilities of all places of long windows, one window's after the other's. The windows are read whole.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub fn score_places(&self, windows: &[LabelledWindow]) -> Result<Vec<Vec<f64>>> {
        let batches = self.batches(windows);
        let scored = self.workers.run(batches.len(), |tape, batch| {
            let windows = &windows[batches[batch].clone()];
            answers(tape, &self.model, &*self.vocabulary, &self.classification, windows, &mut |_| ())
        });
        Ok(scored?.into_iter().flatten().collect())
    }

    /// Scores windows as they come, in bounded memory: `sink` gets each window, in order, with its probabilities.
    ///
    /// # Errors
    /// Those of `windows`, of [`Scorer::score`] and of `sink`.
    pub fn stream<W: AsRef<[u8]> + Sync>(
        &self,
        mut windows: impl Iterator<Item = Result<W>>,
        mut sink: impl FnMut(W, &[f64]) -> Result<()>,
    ) -> Result<()> {
        // The window that begins the next round.
        let mut next: Option<W> = None;
        let mut round: Vec<W> = Vec::new();
        loop {
            let (mut bases, mut batches) = (0, self.cut());
            while let Some(window) = next.take().map(Ok).or_else(|| windows.next()) {
                let window = window?;
                let length = self.read_of(window.as_ref());
                // A round ends where a batch does.
                if batches.begins(length) && bases >= ROUND_BASES {
                    next = Some(window);
                    break;
                }
                bases += length;
                round.push(window);
            }
            if round.is_empty() {
                return Ok(());
            }
            let probabilities = self.score(&round)?;
            for (window, probabilities) in round.drain(..).zip(&probabilities) {
                sink(window, probabilities)?;
            }
        }
    }

    /// Bases that are read of a window.
    pub fn read_of(&self, window: &[u8]) -> usize {
        self.width().unwrap_or(window.len())
    }

    /// How windows that come one after the other are cut into batches, by [`Scorer::read_of`].
    pub fn cut(&self) -> Batches {
        Batches::new(self.batch_bases())
    }

    /// Bases of a batch.
    pub fn batch_bases(&self) -> usize {
        if matches!(self.device, Device::Cpu) { CPU_BASES } else { DEVICE_BASES }
    }

    /// Consecutive windows that are scored together.
    fn batches<W: AsRef<[u8]>>(&self, windows: &[W]) -> Vec<Range<usize>> {
        let mut cut = self.cut();
        let begins = |window: &W| cut.begins(self.read_of(window.as_ref()));
        let mut starts: Vec<usize> =
            windows.iter().map(begins).enumerate().filter_map(|(index, begins)| begins.then_some(index)).collect();
        starts.push(windows.len());
        starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }
}

/// Row by row.
fn means(mut rows: Vec<Vec<f64>>, others: &[Vec<f64>]) -> Vec<Vec<f64>> {
    for (one, other) in rows.iter_mut().flatten().zip(others.iter().flatten()) {
        *one = (*one + other) / 2.0;
    }
    rows
}
