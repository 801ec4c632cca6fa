//! Training gene vectors: Gene2vec's rounds over reshuffled pairs, each with the learning rate falling from its height again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::blocks::{self, Blocks, EPISODE_PAIRS, Episode, Split};
use super::corpus::Corpus;
use super::device_blocks::{self, DeviceBlocks};
use super::pairs::PairCounts;
use super::sampling::keep_thresholds;
use super::skip_gram::{Job, JobSeeds, Loss, Model, Pair, Recipe, Sampler};
use super::state::{self, State, finite};
use super::vectors::GeneVectors;
use crate::device::{Device, host_memory};
use crate::output::{remove_debris, write_atomic};
use crate::report::Progress;
use crate::train::interrupt;
use crate::train::run::Lock;
use crate::{Error, Result, lossy};

/// What a run is made of, written last.
pub const SUMMARY_FILE: &str = "run.json";
/// Pairs that are drawn for while those before are trained on, in whole jobs.
const PIECE_PAIRS: usize = 40_000;
/// A long round is saved this often.
const SAVE_INTERVAL: Duration = Duration::from_secs(300);

/// A training.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of a vector.
    pub dimension: usize,
    /// Genes that occur in fewer pairs have no vector.
    pub min_count: u64,
    /// Times that all pairs are gone through.
    pub rounds: u32,
    /// What is drawn and how fast vectors learn.
    pub recipe: Recipe,
    /// The order of updates by blocks (`blocks.rs`), not one after the other.
    pub lock_free: bool,
    /// Where they are made. Kernels take them by blocks alone; the bits are the same.
    pub device: Device,
    /// Seed of all that is random.
    pub seed: u64,
    /// The folder of the run.
    pub out: PathBuf,
    /// Go on from the state in it.
    pub resume: bool,
    /// What is written to `config.toml`.
    pub config: Option<String>,
    /// Pairs that are held in memory: [`super::corpus::PART_PAIRS`].
    pub part_pairs: usize,
    /// No progress.
    pub quiet: bool,
}

impl Options {
    /// Refuses what nothing can be trained with.
    ///
    /// # Errors
    /// [`Error::Usage`].
    fn check(&self) -> Result<()> {
        let Recipe { negatives, exponent, sample, alpha, min_alpha, batch_words } = self.recipe;
        let wrong = |found: String, remedy: &str| Err(Error::usage(found, remedy));
        if !(1..=1 << 16).contains(&self.dimension) {
            return wrong(format!("--dimension {}", self.dimension), "give 1 to 65,536 numbers a gene");
        }
        if self.rounds == 0 {
            return wrong("--rounds 0".into(), "give at least 1");
        }
        if !(1..=1000).contains(&negatives) {
            return wrong(format!("--negatives {negatives}"), "give 1 to 1,000");
        }
        if !(-1.0..=2.0).contains(&exponent) {
            return wrong(format!("--exponent {exponent}"), "give a power from -1 to 2; 0.75 is word2vec's");
        }
        if !(alpha > 0.0 && alpha <= 1.0 && min_alpha >= 0.0 && min_alpha <= alpha) {
            let found = format!("--alpha {alpha} and --min-alpha {min_alpha}");
            return wrong(found, "give rates over 0 and up to 1, and a minimum that is not above the other");
        }
        if !(2..=1_000_000).contains(&batch_words) {
            return wrong(format!("--batch-words {batch_words}"), "give 2 to 1,000,000");
        }
        if let Device::Kernels(_) = self.device {
            if !self.lock_free {
                let remedy = "add --lock-free, or give --device cpu: an update after the other gives a GPU nothing to do at the same time";
                return wrong(format!("{} for updates in one order", self.device), remedy);
            }
            device_blocks::check(self.dimension, negatives)?;
        }
        keep_thresholds(&[1], sample).map(drop)
    }
}

/// What came of a training.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The program's version.
    pub version: &'static str,
    /// The folder of the run.
    #[serde(serialize_with = "lossy::serialize")]
    pub out: PathBuf,
    /// The files of pairs.
    #[serde(serialize_with = "lossy::serialize")]
    pub pair_files: Vec<PathBuf>,
    /// What was in them.
    pub input: PairCounts,
    /// Pairs with a gene that is too rare, which are not learnt from.
    pub rare_pairs: u64,
    /// Genes with a vector.
    pub genes: usize,
    /// Genes that are too rare for one.
    pub rare_genes: u64,
    /// Numbers, by the names of options.
    pub settings: Value,
    /// The order of updates.
    pub order: String,
    /// Where they were made.
    pub device: String,
    /// Threads.
    pub threads: usize,
    /// The mean of -ln sigma over what was told apart, of each round.
    pub losses: Vec<f64>,
    /// Updates of all rounds: two for each pair that was not passed over.
    pub updates: u64,
    /// Pairs of all rounds that were passed over since a gene of theirs is frequent (or too rare).
    pub passed_over: u64,
    /// Two a pair, of all rounds.
    pub words: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Words a second, as gensim counts them.
    pub words_per_second: f64,
    /// What was written.
    pub files: Vec<String>,
}

/// Trains on the pairs in `files` and writes the vectors.
///
/// # Errors
/// Those of reading the files; [`Error::Usage`] for options that cannot be, or are not those of the run to be gone on with;
/// [`Error::Interrupted`] when everything is saved; [`Error::Io`].
pub fn train(files: &[PathBuf], options: &Options) -> Result<Summary> {
    options.check()?;
    let out = &options.out;
    std::fs::create_dir_all(out).map_err(Error::io("create the folder", out))?;
    let _lock = Lock::take(out)?;
    remove_debris(out)?;
    let mut progress = Progress::new("reading pairs", 0, options.quiet).unit("pairs");
    let corpus = Corpus::read(files, out, options.min_count, options.part_pairs, &mut progress)?;
    progress.update(corpus.counts.pairs, corpus.counts.pairs, "");
    progress.finish("");
    let genes = corpus.vocabulary.genes.len();
    // Vectors and output vectors; once more by blocks, or while they are written.
    let bytes = 4.0 * (genes * options.dimension.next_multiple_of(16)) as f64 * 4.0;
    host_memory::require(bytes, &format!("vectors of {genes} genes"), "lower --dimension, or raise --min-count")?;
    let settings = json!({
        "dimension": options.dimension,
        "min-count": options.min_count,
        "negatives": options.recipe.negatives,
        "exponent": options.recipe.exponent,
        "sample": options.recipe.sample,
        "alpha": options.recipe.alpha,
        "min-alpha": options.recipe.min_alpha,
        "batch-words": options.recipe.batch_words,
        "seed": options.seed,
        "lock-free": options.lock_free,
        "pairs in the files": format!("{}, {:08x}", corpus.counts.pairs, corpus.checksum),
        "pairs in memory": options.part_pairs,
    });
    let _saving = interrupt::saving();
    let (state, model) = match options.resume && State::is_in(out) {
        true => State::load(out, &settings, genes, options.dimension)?,
        false => (State::new(settings.clone()), Model::initialise(genes, options.dimension, options.seed)),
    };
    if state.losses.len() > options.rounds as usize {
        return Err(Error::usage(
            format!("--rounds {}, but the run in {} has made {}", options.rounds, out.display(), state.losses.len()),
            "resume with at least as many rounds",
        ));
    }
    // Not before it is known that the run is the one of the folder: its own options stay where others are refused.
    if let Some(config) = &options.config {
        write_atomic(out.join("config.toml"), config)?;
    }
    let mut run = Run::new(&corpus, options, state, model);
    while run.state.losses.len() < options.rounds as usize {
        run.round()?;
    }
    run.progress.finish(&run.state.losses.last().map(|loss| format!("loss {loss:.4}")).unwrap_or_default());
    let Run { state, model, .. } = run;
    let vectors =
        GeneVectors { dimension: options.dimension, values: finite(&model.input)?, genes: corpus.vocabulary.genes };
    let mut written = write(&vectors, out, options.rounds)?;
    written.push(SUMMARY_FILE.into());
    let all_pairs = corpus.counts.pairs * u64::from(options.rounds);
    let summary = Summary {
        version: env!("CARGO_PKG_VERSION"),
        out: out.clone(),
        pair_files: files.to_vec(),
        input: corpus.counts,
        rare_pairs: corpus.rare_pairs,
        genes,
        rare_genes: corpus.vocabulary.rare,
        settings,
        order: match options.lock_free {
            false => "one update after the other, as gensim with one worker".into(),
            true => format!("lock-free, in {0} x {0} blocks of genes", blocks::count(genes)),
        },
        device: options.device.to_string(),
        threads: rayon::current_num_threads(),
        updates: state.updates,
        passed_over: all_pairs - state.updates / 2,
        words: 2 * all_pairs,
        seconds: state.seconds,
        words_per_second: 2.0 * all_pairs as f64 / state.seconds.max(1e-9),
        losses: state.losses,
        files: written,
    };
    let text = serde_json::to_string_pretty(&summary).map_err(|error| Error::Failed(error.to_string()))?;
    write_atomic(out.join(SUMMARY_FILE), text)?;
    Ok(summary)
}

/// Writes all forms of the vectors; Gene2vec's table under the name that its authors' files have.
fn write(vectors: &GeneVectors, out: &Path, rounds: u32) -> Result<Vec<String>> {
    let table = format!("gene2vec_dim_{}_iter_{rounds}.txt", vectors.dimension);
    let names = ["vectors.txt", "vectors.bin", &table, "vectors.npy", super::vectors::NAMES_FILE];
    vectors.write_text(&out.join(names[0]))?;
    vectors.write_binary(&out.join(names[1]))?;
    vectors.write_table(&out.join(names[2]))?;
    vectors.write_npy(&out.join(names[3]))?;
    Ok(names.map(String::from).to_vec())
}

/// Makes updates, and has the model whenever it is asked for.
trait Learner {
    /// Some pairs with what is random in them drawn.
    type Work: Send + Sync;
    fn learn(&mut self, work: &Self::Work) -> Result<Loss>;
    fn model(&mut self) -> Result<&Model>;
}

/// In one order.
struct InOrder<'a>(&'a mut Model);

impl Learner for InOrder<'_> {
    type Work = Vec<Job>;

    fn learn(&mut self, jobs: &Vec<Job>) -> Result<Loss> {
        let mut loss = Loss::default();
        jobs.iter().for_each(|job| loss += self.0.learn(job));
        Ok(loss)
    }

    fn model(&mut self) -> Result<&Model> {
        Ok(self.0)
    }
}

/// By blocks.
struct InBlocks<'a> {
    blocks: &'a Blocks,
    split: Split,
    model: &'a mut Model,
}

impl Learner for InBlocks<'_> {
    type Work = Episode;

    fn learn(&mut self, episode: &Episode) -> Result<Loss> {
        Ok(self.blocks.learn(&mut self.split, episode))
    }

    fn model(&mut self) -> Result<&Model> {
        self.blocks.join(&self.split, self.model);
        Ok(self.model)
    }
}

/// By blocks, on a device with kernels.
struct OnDevice<'a> {
    blocks: DeviceBlocks<'a>,
    model: &'a mut Model,
}

impl Learner for OnDevice<'_> {
    type Work = Episode;

    fn learn(&mut self, episode: &Episode) -> Result<Loss> {
        self.blocks.learn(episode)
    }

    fn model(&mut self) -> Result<&Model> {
        self.blocks.join(self.model)?;
        Ok(self.model)
    }
}

/// What a piece of work adds to the state.
#[derive(Clone, Copy)]
struct Piece {
    pairs: u64,
    jobs: u64,
    updates: u64,
}

struct Run<'a> {
    corpus: &'a Corpus,
    options: &'a Options,
    state: State,
    model: Model,
    progress: Progress,
    /// Pairs that this process has trained on.
    done: u64,
    saved: Instant,
}

impl<'a> Run<'a> {
    fn new(corpus: &'a Corpus, options: &'a Options, state: State, model: Model) -> Self {
        let pairs = corpus.counts.pairs;
        let position = state.losses.len() as u64 * pairs + state.pairs;
        let total = pairs * u64::from(options.rounds);
        let progress = Progress::new("training", total, options.quiet).unit("words").resume_at(position);
        Self { corpus, options, state, model, progress, done: 0, saved: Instant::now() }
    }

    /// Trains on what is left of a round.
    fn round(&mut self) -> Result<()> {
        let (seed, recipe) = (self.options.seed, self.options.recipe);
        let counts = &self.corpus.vocabulary.counts;
        let total = self.corpus.counts.pairs;
        let round = self.state.losses.len() as u32;
        let mut model = std::mem::replace(&mut self.model, Model::from_vectors(&[], 1));
        let finished = if self.options.lock_free {
            let blocks = Blocks::deal(counts, keep_thresholds(counts, recipe.sample)?, recipe, seed, round);
            let plan = |pairs: &[Pair], done: u64| {
                let episode = blocks.plan(pairs, done, total);
                let piece = Piece { pairs: pairs.len() as u64, jobs: 1, updates: episode.updates.len() as u64 };
                (episode, piece)
            };
            match &self.options.device {
                Device::Cpu => {
                    let split = blocks.split(&model);
                    let mut learner = InBlocks { blocks: &blocks, split, model: &mut model };
                    self.pieces(EPISODE_PAIRS, plan, &mut learner)
                }
                device => DeviceBlocks::new(device, &blocks, &model).and_then(|on_device| {
                    let mut learner = OnDevice { blocks: on_device, model: &mut model };
                    self.pieces(EPISODE_PAIRS, plan, &mut learner)
                }),
            }
        } else {
            let sampler = Sampler::new(counts, &recipe)?;
            let mut seeds = JobSeeds::new(seed, self.state.jobs);
            let plan = |pairs: &[Pair], done: u64| {
                let starts = pairs.chunks(recipe.job_pairs()).enumerate().map(|(index, pairs)| {
                    let alpha = recipe.alpha_at(done + (index * recipe.job_pairs()) as u64, total);
                    (pairs, seeds.next_seed(), alpha)
                });
                let starts: Vec<_> = starts.collect();
                let jobs: Vec<Job> =
                    starts.into_par_iter().map(|(pairs, start, alpha)| sampler.job(pairs, start, alpha)).collect();
                let updates = jobs.iter().map(|job| job.len() as u64).sum();
                let piece = Piece { pairs: pairs.len() as u64, jobs: jobs.len() as u64, updates };
                (jobs, piece)
            };
            let size = (PIECE_PAIRS / recipe.job_pairs()).max(1) * recipe.job_pairs();
            self.pieces(size, plan, &mut InOrder(&mut model))
        };
        self.model = model;
        finished?;
        self.state.losses.push(self.state.loss.mean());
        (self.state.pairs, self.state.loss) = (0, Loss::default());
        self.save(None)
    }

    /// Goes through what is left of a round, `size` pairs at a time. What is random in a piece is drawn while the one before is trained on.
    fn pieces<L: Learner + Send>(
        &mut self,
        size: usize,
        mut plan: impl FnMut(&[Pair], u64) -> (L::Work, Piece) + Send,
        learner: &mut L,
    ) -> Result<()> {
        let begun = Instant::now();
        let mut pairs = self.corpus.round(self.options.seed, self.state.losses.len() as u32)?;
        pairs.skip(self.state.pairs)?;
        let mut at = self.state.pairs;
        let mut next = || -> Result<Option<(L::Work, Piece)>> {
            let taken = pairs.take(size)?;
            let planned = (!taken.is_empty()).then(|| plan(&taken, at));
            at += taken.len() as u64;
            Ok(planned)
        };
        let mut seconds = begun.elapsed();
        let mut upcoming = next()?;
        while let Some((work, piece)) = upcoming {
            let begun = Instant::now();
            let (loss, then) = rayon::join(|| learner.learn(&work), &mut next);
            upcoming = then?;
            seconds += begun.elapsed();
            let loss = loss?;
            self.state.loss += loss;
            self.state.pairs += piece.pairs;
            self.state.jobs += piece.jobs;
            self.state.updates += piece.updates;
            self.state.seconds += std::mem::take(&mut seconds).as_secs_f64();
            self.done += piece.pairs;
            self.tell(&loss);
            let is_asked = interrupt::requested();
            if is_asked || self.saved.elapsed() > SAVE_INTERVAL {
                self.save(Some(learner.model()?))?;
            }
            if is_asked {
                let saved = self.options.out.join(state::FOLDER);
                let place = format!(" in round {}", self.state.losses.len() + 1);
                let remedy = format!("{place}; saved {}, go on with --resume", saved.display());
                return Err(Error::Interrupted(remedy));
            }
        }
        learner.model().map(drop)
    }

    fn tell(&mut self, loss: &Loss) {
        let total = self.corpus.counts.pairs;
        let position = self.state.losses.len() as u64 * total + self.state.pairs;
        let message = format!(
            "round {}  alpha {:.4}  loss {:.4}",
            self.state.losses.len() + 1,
            self.options.recipe.alpha_at(self.state.pairs, total),
            loss.mean()
        );
        self.progress.update(position, 2 * self.done, &message);
    }

    /// Saves the state, of the model that a learner has or of the one between rounds.
    fn save(&mut self, model: Option<&Model>) -> Result<()> {
        self.saved = Instant::now();
        self.state.save(&self.options.out, model.unwrap_or(&self.model))
    }
}
