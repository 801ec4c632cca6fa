//! The model, and the one thread that computes with it: what requests ask for at the same time is one batch.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::metrics::Metrics;
use super::refusal::Refusal;
use crate::genome::alias::Aliases;
use crate::genome::twobit::Genome;
use crate::inference::embed::{EmbedOptions, Rows, embed, embed_both_strands};
use crate::inference::encoder::Encoder;
use crate::inference::score::Scorer;
use crate::inference::splice::SpliceScorer;
use crate::inference::variants::annotate::AlleleChanges;
use crate::inference::variants::genes::Genes;
use crate::inference::variants::{Annotator, Options};
use crate::kmer::labelled::LabelledWindow;
use crate::kmer::sequences::Named;
use crate::{Error, Result};

/// A model and what it can be asked for.
pub struct Engine {
    encoder: Encoder,
    classifier: Option<Classifier>,
    /// Whether answers are means of those to a sequence and to its reverse complement.
    both_strands: bool,
}

enum Classifier {
    Windows(Scorer),
    Sites(Box<Sites>),
}

/// A model of splice sites and the genome whose variants it is asked about.
pub struct Sites {
    /// The model.
    pub scorer: SpliceScorer,
    /// The reference.
    pub genome: Genome,
    /// Other names of its sequences.
    pub aliases: Aliases,
    /// Genes to score variants for, instead of strands.
    pub genes: Option<Genes>,
    /// How.
    pub options: Options,
}

impl Engine {
    /// A model without classes.
    pub fn of_encoder(encoder: Encoder, both_strands: bool) -> Self {
        Self { encoder, classifier: None, both_strands }
    }

    /// A classifier; `both_strands` is for its vectors, as answers are what the scorer says.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn of_scorer(scorer: Scorer, both_strands: bool) -> Result<Self> {
        Ok(Self { encoder: scorer.encoder()?, classifier: Some(Classifier::Windows(scorer)), both_strands })
    }

    /// A model of splice sites with its genome.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn of_sites(sites: Sites) -> Result<Self> {
        let encoder = sites.scorer.scorer().encoder()?;
        Ok(Self { encoder, classifier: Some(Classifier::Sites(Box::new(sites))), both_strands: false })
    }

    /// Its encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Its classifier.
    pub fn scorer(&self) -> Option<&Scorer> {
        match self.classifier.as_ref()? {
            Classifier::Windows(scorer) => Some(scorer),
            Classifier::Sites(sites) => Some(sites.scorer.scorer()),
        }
    }

    /// Its model of splice sites with a genome.
    pub fn sites(&self) -> Option<&Sites> {
        match self.classifier.as_ref()? {
            Classifier::Windows(_) => None,
            Classifier::Sites(sites) => Some(sites),
        }
    }

    /// Computes what several requests of one kind ask for, and hands each its part.
    fn compute(&self, works: &[&Work], metrics: &Metrics) -> Result<Vec<Answer>> {
        match works.first() {
            Some(Work::Embed { options, .. }) => self.embed(works, options, metrics),
            Some(Work::Predict { .. }) => self.predict(works, metrics),
            Some(Work::Variants { .. }) => self.variants(works, metrics),
            None => Ok(Vec::new()),
        }
    }

    fn embed(&self, works: &[&Work], options: &EmbedOptions, metrics: &Metrics) -> Result<Vec<Answer>> {
        let sequences = works.iter().flat_map(|work| match work {
            Work::Embed { sequences, .. } => sequences.as_slice(),
            _ => &[],
        });
        let mut sequences = sequences.cloned().map(Ok);
        let mut vectors = Vec::new();
        let mut sink = |rows: Rows| {
            vectors.push(rows.values.to_vec());
            Ok(())
        };
        let path = Path::new("request");
        let counts = match self.both_strands {
            true => embed_both_strands(&self.encoder, path, &mut sequences, options, &mut sink, &mut |_| ())?,
            false => embed(&self.encoder, path, &mut sequences, options, &mut sink, &mut |_| ())?,
        };
        metrics.tokens.inc_by(counts.tokens);
        Ok(parts(works, vectors).map(Answer::Vectors).collect())
    }

    fn predict(&self, works: &[&Work], metrics: &Metrics) -> Result<Vec<Answer>> {
        let scorer = self.scorer().ok_or_else(|| Error::Failed("no classifier".into()))?;
        let windows = || {
            works.iter().flat_map(|work| match work {
                Work::Predict { windows, .. } => windows.as_slice(),
                _ => &[],
            })
        };
        let answers = match scorer.reads_pairs() {
            true => scorer.score_pairs(&windows().cloned().collect::<Vec<_>>())?,
            false => scorer.score(&windows().collect::<Vec<_>>())?,
        };
        let tokens = works.iter().map(|work| if let Work::Predict { tokens, .. } = work { *tokens } else { 0 });
        metrics.tokens.inc_by(tokens.sum());
        Ok(parts(works, answers).map(Answer::Classes).collect())
    }

    fn variants(&self, works: &[&Work], metrics: &Metrics) -> Result<Vec<Answer>> {
        let sites = self.sites().ok_or_else(|| Error::Failed("no genome".into()))?;
        let Sites { scorer, genome, aliases, genes, options } = sites;
        let annotator = Annotator { scorer, genome, aliases, genes: genes.as_ref(), options };
        let lines = works.iter().flat_map(|work| match work {
            Work::Variants { lines } => lines.as_slice(),
            _ => &[],
        });
        let mut windows = 0;
        let effects = annotator.effects(&lines.cloned().collect::<Vec<_>>(), &mut windows)?;
        // Every window is of the same bases, which make the same number of tokens where tokens are k-mers.
        if let Some(k_mers) = self.encoder.vocabulary().k_mers() {
            let frame = self.encoder.vocabulary().specials().frame();
            metrics.tokens.inc_by(windows * (scorer.width() as usize + 1 - k_mers.k() + frame) as u64);
        }
        Ok(parts(works, effects).map(Answer::Variants).collect())
    }
}

/// Cuts what was computed for all into what each asked for.
fn parts<T>(works: &[&Work], all: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let counts: Vec<usize> = works.iter().map(|work| work.count()).collect();
    let mut all = all.into_iter();
    counts.into_iter().map(move |count| all.by_ref().take(count).collect())
}

/// What a request asks for.
pub(super) enum Work {
    /// A vector for each sequence.
    Embed { sequences: Vec<Named>, options: EmbedOptions },
    /// An answer for each window, or pair; with the tokens that they are.
    Predict { windows: Vec<LabelledWindow>, tokens: u64 },
    /// The effects of each record, a line of a VCF file.
    Variants { lines: Vec<Vec<u8>> },
}

impl Work {
    /// Sequences, pairs or records.
    fn count(&self) -> usize {
        match self {
            Self::Embed { sequences, .. } => sequences.len(),
            Self::Predict { windows, .. } => windows.len(),
            Self::Variants { lines } => lines.len(),
        }
    }

    /// Bases to read, by which work that waits is cut into batches.
    fn bases(&self) -> usize {
        /// About what is read around a variant.
        const VARIANT: usize = 4096;
        match self {
            Self::Embed { sequences, .. } => sequences.iter().map(|sequence| sequence.bases.len()).sum(),
            Self::Predict { windows, .. } => {
                windows.iter().map(|window| window.bases.len() + window.second.as_ref().map_or(0, Vec::len)).sum()
            }
            Self::Variants { lines } => lines.len() * VARIANT,
        }
    }

    /// Whether both can be computed as one.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Embed { options: one, .. }, Self::Embed { options: other, .. }) => {
                (one.unit, one.layer) == (other.unit, other.layer)
            }
            (Self::Predict { .. }, Self::Predict { .. }) | (Self::Variants { .. }, Self::Variants { .. }) => true,
            _ => false,
        }
    }
}

/// What was computed for one request.
pub(super) enum Answer {
    /// `[sequences][columns]`.
    Vectors(Vec<Vec<f32>>),
    /// `[windows][classes]`.
    Classes(Vec<Vec<f64>>),
    /// For each record its alleles, or what is wrong with it.
    Variants(Vec<std::result::Result<Vec<AlleleChanges>, (String, String)>>),
}

struct Job {
    work: Work,
    reply: oneshot::Sender<std::result::Result<Answer, Refusal>>,
}

/// The requests that wait: so many at most.
pub(super) struct Queue {
    jobs: SyncSender<Job>,
    worker: JoinHandle<()>,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// Starts the thread that computes; it ends when the queue is dropped, and everything in it is answered.
    pub(super) fn start(engine: Arc<Engine>, metrics: Arc<Metrics>, most: usize) -> Result<Self> {
        let (jobs, waiting) = sync_channel(most);
        let of_worker = Arc::clone(&metrics);
        let worker = std::thread::Builder::new().name("serve-worker".into());
        let worker = worker.spawn(move || work(&engine, &waiting, &of_worker));
        let worker = worker.map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { jobs, worker, metrics })
    }

    /// Whether somebody computes.
    pub(super) fn is_alive(&self) -> bool {
        !self.worker.is_finished()
    }

    /// Waits for the answer. Whoever stops waiting is not computed for, unless that has begun.
    ///
    /// # Errors
    /// A refusal where the queue is full, and what computing ends with.
    pub(super) async fn ask(&self, work: Work) -> std::result::Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        // Before the thread can take it out.
        self.metrics.queue_depth.inc();
        if let Err(error) = self.jobs.try_send(Job { work, reply }) {
            self.metrics.queue_depth.dec();
            return Err(match error {
                TrySendError::Full(_) => Refusal::busy(),
                TrySendError::Disconnected(_) => Refusal::broken(),
            });
        }
        answer.await.unwrap_or_else(|_| Err(Refusal::broken()))
    }
}

fn work(engine: &Engine, waiting: &Receiver<Job>, metrics: &Metrics) {
    let most = engine.encoder.round_tokens();
    let mut next = None;
    loop {
        let Some(first) = next.take().or_else(|| waiting.recv().ok()) else { return };
        let mut bases = first.work.bases();
        let mut jobs = vec![first];
        while bases < most
            && let Ok(job) = waiting.try_recv()
        {
            bases += job.work.bases();
            if bases > most {
                next = Some(job);
                break;
            }
            jobs.push(job);
        }
        metrics.queue_depth.sub(jobs.len() as i64);
        jobs.retain(|job| {
            let is_wanted = !job.reply.is_closed();
            metrics.abandoned.inc_by(u64::from(!is_wanted));
            is_wanted
        });
        while !jobs.is_empty() {
            let (mut group, mut rest): (Vec<Job>, Vec<Job>) = (Vec::new(), Vec::new());
            for job in jobs {
                let is_like = group.first().is_none_or(|first| first.work.is_like(&job.work));
                if is_like { group.push(job) } else { rest.push(job) }
            }
            jobs = rest;
            answer(engine, group, metrics);
        }
    }
}

/// Computes jobs of one kind together; where that fails each alone, so that no request suffers from another.
fn answer(engine: &Engine, jobs: Vec<Job>, metrics: &Metrics) {
    let works: Vec<&Work> = jobs.iter().map(|job| &job.work).collect();
    metrics.batch_requests.observe(jobs.len() as f64);
    metrics.batch_sequences.observe(works.iter().map(|work| work.count()).sum::<usize>() as f64);
    let answers: Vec<std::result::Result<Answer, Refusal>> = match engine.compute(&works, metrics) {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error) if works.len() == 1 => vec![Err(Refusal::of(error))],
        Err(_) => works
            .iter()
            .map(|work| match engine.compute(&[work], metrics) {
                Ok(mut answers) => answers.pop().ok_or_else(Refusal::broken),
                Err(error) => Err(Refusal::of(error)),
            })
            .collect(),
    };
    for (job, answer) in jobs.into_iter().zip(answers) {
        // Nobody may be waiting any more.
        let _ = job.reply.send(answer);
    }
}
