//! The whole path on the shipped sample: pack, pretrain, fine-tune, evaluate, report.

mod page;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::checkpoint::{self, Checkpoint, Classification};
use super::evaluation::{Evaluation, Means, evaluate};
use super::finetune::{EpochPoint, FinetuneOptions, FinetuneSummary, finetune};
use super::metrics::{Intervals, SpliceMetrics};
use super::pretrain::{PretrainOptions, PretrainSummary, pretrain};
use crate::device::{DType, Device};
use crate::genome::alias::Aliases;
use crate::genome::annotation::Annotation;
use crate::genome::pack::pack_fasta;
use crate::genome::region::{Region, Spelling};
use crate::genome::splice::dataset::{Options as DatasetOptions, SpliceDataset, Window};
use crate::genome::splice::split::Part;
use crate::genome::splice::write::{Description, write_dataset};
use crate::genome::splice::{GeneModel, LABEL_NAMES};
use crate::genome::twobit::Genome;
use crate::kmer::corpus::{Corpus, CorpusOptions, Parts, PretrainingData};
use crate::kmer::labelled::LabelledWindow;
use crate::kmer::masking::Masking;
use crate::kmer::regions::Regions;
use crate::kmer::vocabulary::{BaseOrder, Vocabulary};
use crate::model::{Head, Model, preset};
use crate::optim::{AdamWConfig, Decay, Schedule};
use crate::output::{AtomicFile, write_atomic};
use crate::parallel::Ranks;
use crate::parallel::facts::processor;
use crate::{Error, Result};

const SAMPLE_GENOME: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/grch37_X_46M-56M.2bit"));
const SAMPLE_ANNOTATION: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/grch37_X_46M-56M.gff3.gz"));

/// How the demo trains. The defaults were chosen so that its minutes on two cores are well used.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DemoOptions {
    /// Model size.
    pub preset: &'static str,
    /// Bases of a window; the model reads all of them.
    pub window: usize,
    /// Updates of the pretraining.
    pub pretrain_steps: u64,
    /// Tokens of an update.
    pub tokens_per_step: usize,
    /// Highest learning rate of both trainings.
    pub learning_rate: f64,
    /// Passes over the training windows.
    pub epochs: u64,
    /// Windows in an update.
    pub batch: usize,
    /// Whether this is the run of seconds.
    pub quick: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            preset: "splice-small",
            window: 80,
            pretrain_steps: 1500,
            tokens_per_step: 5120,
            learning_rate: 1e-3,
            epochs: 10,
            batch: 64,
            quick: false,
        }
    }
}

impl DemoOptions {
    /// A few seconds' worth: shows that everything works, not how well.
    pub fn quick() -> Self {
        Self { pretrain_steps: 20, epochs: 1, quick: true, ..Self::default() }
    }
}

/// Where and how the demo runs.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The folder that gets everything.
    pub out: PathBuf,
    /// Where to compute.
    pub device: Device,
    /// The type of weights and activations.
    pub dtype: DType,
    /// Seed of every random choice.
    pub seed: u64,
    /// No progress, no log.
    pub quiet: bool,
}

/// `metrics.json`.
#[derive(Clone, Debug, Serialize)]
pub struct DemoMetrics {
    /// The processor, as it names itself.
    pub machine: String,
    /// CPU threads.
    pub threads: usize,
    /// Seconds from start to end.
    pub seconds: f64,
    /// The pretraining.
    pub pretrain: PretrainSummary,
    /// The results on splice sites.
    pub splice: SpliceResults,
}

/// Results on the test part.
#[derive(Clone, Debug, Serialize)]
pub struct SpliceResults {
    /// How negatives were chosen and the parts divided.
    pub protocol: &'static str,
    /// Donors and acceptors in the test part.
    pub test_sites: u64,
    /// GT and AG positions in the test part that are no sites.
    pub test_decoys: u64,
    /// The pretrained and fine-tuned model.
    #[serde(flatten)]
    pub model: Row,
    /// Its fine-tuning.
    pub finetune: FinetuneSummary,
    /// The same model without pretraining.
    pub from_scratch: Row,
    /// What the model is compared with.
    pub baselines: BaselineRows,
}

/// A row of the results table: the model card's metric in its literal reading, and the 3-class MCC.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Mean of donor and acceptor accuracy.
    pub accuracy: f64,
    /// Mean of donor and acceptor F1.
    pub f1: f64,
    /// Mean of donor and acceptor MCC.
    pub mcc: f64,
    /// Multi-class MCC.
    pub mcc_3class: f64,
    /// 95 % bootstrap intervals.
    pub intervals: Intervals,
}

impl Row {
    fn of(metrics: &SpliceMetrics) -> Self {
        let SpliceMetrics { accuracy, f1, mcc, mcc_3class, intervals, .. } = metrics.clone();
        Self { accuracy, f1, mcc, mcc_3class, intervals }
    }
}

/// The baselines' rows.
#[derive(Clone, Debug, Serialize)]
pub struct BaselineRows {
    /// Donor where the window reads GT at the site, acceptor where it reads AG.
    pub rule: Row,
    /// A position weight matrix trained on the same training part.
    pub pwm: Row,
}

/// Runs the demo and writes `metrics.json`, `report.html`, the models and their data into the folder.
///
/// # Errors
/// [`Error::Usage`] if the folder holds something else; those of every part.
pub fn run(options: &DemoOptions, surroundings: &Surroundings) -> Result<DemoMetrics> {
    let started = Instant::now();
    let out = &surroundings.out;
    clear(out)?;
    let say = |text: &str| tracing::info!("{text}");

    say("1/5 packing the sample genome: 10 million bases of human chromosome X");
    let genome = Arc::new(pack_sample(out)?);
    let dataset = splice_dataset(&genome, out, surroundings.seed)?;

    let preset = preset(options.preset)?;
    let k = preset
        .k()
        .ok_or_else(|| Error::Failed(format!("the demo with {}, whose tokens are no k-mers", preset.name)))?;
    let vocabulary = Vocabulary::new(k, BaseOrder::Atcg)?;
    let config = preset.config(options.window - k + 3);
    say("2/5 pretraining on the bases outside the test region");
    let model = Model::initialise(config.clone(), Head::MaskedLm, DType::F32, surroundings.seed)?;
    let pretrained = pretrain_on(&genome, &dataset, model, &vocabulary, options, surroundings)?;

    let head = Head::Site { labels: LABEL_NAMES.len(), hidden: None };
    say("3/5 fine-tuning on donors, acceptors and decoys");
    let (model, _) = checkpoint::load_encoder(&out.join("pretrain"), head.clone(), None, surroundings.seed)?;
    let (tuned, finetuned) = finetune_on(&dataset, model, &vocabulary, "splice", options, surroundings)?;
    say("4/5 the same without pretraining, to see what it adds");
    let model = Model::initialise(config, head, DType::F32, surroundings.seed)?;
    let (scratch, from_scratch) = finetune_on(&dataset, model, &vocabulary, "from-scratch", options, surroundings)?;

    say("5/5 evaluating on the region that no training saw");
    let evaluated = results(tuned, scratch, &vocabulary, &dataset, options, surroundings)?;
    let [model_row, scratch_row] =
        [&evaluated.model, &evaluated.scratch].map(|evaluation| splice_of(evaluation).map(Row::of));
    let Some(baselines) = &evaluated.model.baselines else {
        return Err(Error::Failed("the baselines could not be trained on the sample".into()));
    };
    let [donors, acceptors, decoys] = dataset.counts(Part::Test);
    let metrics = DemoMetrics {
        machine: processor(),
        threads: rayon::current_num_threads(),
        seconds: started.elapsed().as_secs_f64(),
        pretrain: pretrained.clone(),
        splice: SpliceResults {
            protocol: "strict",
            test_sites: donors + acceptors,
            test_decoys: decoys,
            model: model_row?,
            finetune: finetuned.clone(),
            from_scratch: scratch_row?,
            baselines: BaselineRows { rule: Row::of(&baselines.rule), pwm: Row::of(&baselines.pwm) },
        },
    };
    let json = serde_json::to_string_pretty(&metrics).map_err(|error| Error::Failed(error.to_string()))?;
    write_atomic(out.join("metrics.json"), json + "\n")?;
    let curves = Curves { pretrain: &pretrained, tuned: &finetuned.points, scratch: &from_scratch.points };
    write_atomic(out.join("report.html"), page::render(&metrics, options, &evaluated.model, &curves))?;
    Ok(metrics)
}

impl DemoMetrics {
    /// The results, one row a classifier.
    pub fn table(&self) -> crate::report::Table {
        page::results(self)
    }
}

/// What the report draws.
struct Curves<'a> {
    pretrain: &'a PretrainSummary,
    tuned: &'a [EpochPoint],
    scratch: &'a [EpochPoint],
}

struct Evaluated {
    model: Evaluation,
    scratch: Evaluation,
}

fn splice_of(evaluation: &Evaluation) -> Result<&SpliceMetrics> {
    evaluation.splice.as_ref().ok_or_else(|| Error::Failed("the model does not name the splice classes".into()))
}

/// The file that says that a folder is a demo's.
const MARKER: &str = "helixgrad-demo";

/// Removes what an earlier demo left; refuses a folder that no demo made.
fn clear(out: &Path) -> Result<()> {
    if out.exists() && !out.join(MARKER).is_file() {
        let mut entries = fs::read_dir(out).map_err(Error::io("read the folder", out))?;
        if entries.next().is_some() {
            return Err(Error::usage(
                format!("{} is not empty, and no demo made it", out.display()),
                "name another folder with --out",
            ));
        }
    }
    write_atomic(out.join(MARKER), "This folder belongs to `helixgrad demo`, which replaces its contents.\n")?;
    for entry in fs::read_dir(out).map_err(Error::io("read the folder", out))? {
        let path = entry.map_err(Error::io("read the folder", out))?.path();
        if path.ends_with(MARKER) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Writes the sample as FASTA and packs it, as a user would a genome of their own; the result must be the sample again.
fn pack_sample(out: &Path) -> Result<Genome> {
    let packed = out.join("genome.2bit");
    write_atomic(&packed, SAMPLE_GENOME)?;
    write_atomic(out.join("annotation.gff3.gz"), SAMPLE_ANNOTATION)?;
    let sample = Genome::open(&packed)?;
    // Never committed: it is gone when it has been packed.
    let path = out.join("genome.fa");
    let mut fasta = AtomicFile::create(&path)?;
    for (index, sequence) in sample.sequences().iter().enumerate() {
        let region = Region { index, range: 0..sequence.length };
        let spelling = Spelling { soft_mask: true, reverse_complement: false };
        region.write_fasta(&sample, spelling, &mut fasta).map_err(Error::io("write", &path))?;
    }
    fasta.flush().map_err(Error::io("write", &path))?;
    drop(sample);
    pack_fasta(fasta.staging_path(), &packed, &mut |_| ())?;
    let again = fs::read(&packed).map_err(Error::io("read", &packed))?;
    if again != SAMPLE_GENOME {
        return Err(Error::Failed("packing the sample's own FASTA did not give the sample back".into()));
    }
    Genome::open(&packed)
}

fn splice_dataset(genome: &Genome, out: &Path, seed: u64) -> Result<SpliceDataset> {
    let path = out.join("annotation.gff3.gz");
    let model = GeneModel::new(Annotation::open(&path)?, genome, &Aliases::default())?;
    let dataset = SpliceDataset::build(genome, &model, &DatasetOptions { seed, ..DatasetOptions::default() })?;
    let description = Description::new(&dataset, genome, &path, 3);
    write_dataset(&out.join("dataset"), genome, &dataset, &description)?;
    Ok(dataset)
}

fn pretrain_on(
    genome: &Arc<Genome>,
    dataset: &SpliceDataset,
    model: Model,
    vocabulary: &Vocabulary,
    options: &DemoOptions,
    surroundings: &Surroundings,
) -> Result<PretrainSummary> {
    let held_out = dataset.regions(&[Part::Dev, Part::Test]);
    let regions = Regions::new(held_out.into_iter().map(|region| (region.index, region.range)).collect());
    let corpus = |parts: Parts| {
        let max_length = model.config.max_position_embeddings;
        let options = CorpusOptions { max_length, reverse_complement: true, parts };
        Corpus::new(Arc::clone(genome), vocabulary.clone(), &options).map(PretrainingData::Genome)
    };
    let (data, evaluation) = (corpus(Parts::Except(regions.clone()))?, corpus(Parts::Only(regions))?);
    let warmup = options.pretrain_steps / 15;
    let pretraining = PretrainOptions {
        ranks: Ranks::alone(),
        collected: None,
        device: surroundings.device.clone(),
        dtype: surroundings.dtype,
        seed: surroundings.seed,
        steps: options.pretrain_steps,
        tokens_per_step: options.tokens_per_step,
        micro_batches: 1,
        schedule: Schedule {
            peak: options.learning_rate,
            minimum: 0.0,
            warmup,
            decay_steps: options.pretrain_steps - warmup,
            decay: Decay::Cosine,
        },
        optimizer: AdamWConfig::default(),
        masking: Masking::default(),
        eval_every: (options.pretrain_steps / 10).max(1),
        eval_batches: 4,
        log_every: (options.pretrain_steps / 100).max(1),
        save_every: options.pretrain_steps,
        keep: 1,
        out: surroundings.out.join("pretrain"),
        config: None,
        quiet: surroundings.quiet,
        confirm: None,
    };
    pretrain(model, vocabulary, &data, Some(&evaluation), &pretraining, false)
}

fn labelled(windows: &[Window]) -> Vec<LabelledWindow> {
    let labelled = |window: &Window| LabelledWindow {
        bases: window.bases.clone(),
        label: i32::from(window.label()),
        ..LabelledWindow::default()
    };
    windows.iter().map(labelled).collect()
}

fn classification(options: &DemoOptions) -> Classification {
    Classification {
        labels: LABEL_NAMES.map(str::to_owned).to_vec(),
        window: Some(options.window),
        ..Classification::default()
    }
}

fn finetune_on(
    dataset: &SpliceDataset,
    model: Model,
    vocabulary: &Vocabulary,
    name: &str,
    options: &DemoOptions,
    surroundings: &Surroundings,
) -> Result<(Model, FinetuneSummary)> {
    let finetuning = FinetuneOptions {
        device: surroundings.device.clone(),
        collected: None,
        dtype: surroundings.dtype,
        seed: surroundings.seed,
        epochs: options.epochs,
        batch: options.batch,
        learning_rate: options.learning_rate,
        decay: Decay::Cosine,
        save_every: options.epochs,
        quiet: surroundings.quiet,
        ..FinetuneOptions::new(surroundings.out.join(name))
    };
    let (train, dev) = (labelled(&dataset.train), labelled(&dataset.dev));
    finetune(model, vocabulary, &classification(options), &train, &dev, &finetuning, false)
}

fn results(
    tuned: Model,
    scratch: Model,
    vocabulary: &Vocabulary,
    dataset: &SpliceDataset,
    options: &DemoOptions,
    surroundings: &Surroundings,
) -> Result<Evaluated> {
    let (train, test) = (labelled(&dataset.train), labelled(&dataset.test));
    let evaluate = |model: Model, train: Option<&[LabelledWindow]>| {
        let mut checkpoint = Checkpoint {
            model,
            vocabulary: Arc::new(vocabulary.clone()),
            classification: Some(classification(options)),
        };
        let Surroundings { device, dtype, seed, .. } = surroundings;
        let means = Means { device, dtype: *dtype, seed: *seed, ranks: &Ranks::alone() };
        evaluate(&mut checkpoint, &test, train, &means, &mut |_| ())
    };
    Ok(Evaluated { model: evaluate(tuned, Some(&train))?, scratch: evaluate(scratch, None)? })
}
