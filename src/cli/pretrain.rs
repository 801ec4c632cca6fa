//! `helixgrad pretrain`: masked-language modelling on a genome or on k-mer text.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::model::ModelArgs;
use super::{Common, Told, config, run_folder};
use crate::device::{DType, host_memory};
use crate::genome::alias::Aliases;
use crate::genome::twobit::Genome;
use crate::kmer::corpus::{Corpus, CorpusOptions, Parts, PretrainingData};
use crate::kmer::masking::{Masking, Recipe};
use crate::kmer::regions::Regions;
use crate::kmer::text::TextCorpus;
use crate::kmer::token_corpus::TokenCorpus;
use crate::lossy;
use crate::model::{Config, Head, Model, Recompute, Trained};
use crate::optim::{AdamWConfig, Decay, Schedule, Warmup};
use crate::parallel::tree::GradientTree;
use crate::parallel::{Ranks, Reduction};
use crate::report::format;
use crate::tokenizer::Tokenizer;
use crate::train::checkpoint;
use crate::train::pretrain::{PretrainOptions, PretrainSummary, pretrain};
use crate::train::step::ProfileSteps;
use crate::{Error, Result};

/// Tokens that are computed at a time if the user does not say otherwise: 5 GB of activations for the 86-89 M presets.
const TOKENS_PER_PART: usize = 8192;

/// Options of `helixgrad pretrain`.
#[derive(clap::Args, Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The genome to draw windows from, a .2bit file.
    #[arg(long, value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    #[serde(serialize_with = "lossy::serialize")]
    genome: Option<PathBuf>,
    /// Or DNABERT's text format: one sequence a line, as k-mers separated by spaces.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    text: Option<PathBuf>,
    /// Text to evaluate on.
    #[arg(long, value_name = "FILE", requires = "text")]
    #[serde(serialize_with = "lossy::serialize")]
    eval_text: Option<PathBuf>,
    /// The folder of the run: checkpoints, metrics, and the finished model.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Go on from the newest checkpoint in --out, with the options in its config.toml.
    #[arg(long)]
    #[serde(skip)]
    resume: bool,
    /// Start from this checkpoint instead of random weights.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    init: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    model: ModelArgs,
    /// Longest sequence in tokens, `[CLS]` and `[SEP]` included.
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    max_length: usize,
    /// Keep a sequence (NAME) or region (NAME:START-END, 1-based) out of training and evaluate on it; may be repeated.
    #[arg(long, value_name = "REGION")]
    hold_out: Vec<String>,
    /// Two names of the same sequence, in --hold-out and in the genome, as NC_000023.10=X; may be repeated.
    #[arg(long, value_name = "ONE=OTHER", requires = "hold_out")]
    alias: Vec<String>,
    /// A file of such pairs, two columns.
    #[arg(long, value_name = "FILE", requires = "hold_out")]
    #[serde(serialize_with = "lossy::serialize", skip_serializing_if = "Option::is_none")]
    alias_file: Option<PathBuf>,
    /// Read half of the windows from the reverse strand.
    #[arg(long)]
    reverse_complement: bool,
    /// What is masked: DNABERT's recipe, BioNeMo's, or RandomMask's widening spans.
    #[arg(long, value_enum, default_value = "dnabert")]
    masking: Recipe,
    /// The recipe's density: probability of a centre (default .15 / k), of a seed, or share of masked tokens.
    #[arg(long, value_name = "P")]
    mask_probability: Option<f64>,
    /// Updates.
    #[arg(long, default_value_t = 200_000)]
    steps: u64,
    /// Tokens of an update.
    #[arg(long, default_value_t = 65_536, value_name = "TOKENS")]
    tokens_per_step: usize,
    /// Compute an update in this many parts, to save memory; several processes share them (default: parts of 8,192 tokens, a power
    /// of two for each process).
    #[arg(long, value_name = "N")]
    micro_batches: Option<usize>,
    /// Who adds up the gradients of several processes (mpirun, srun): exact has the bits of one process, library is MPI's or NCCL's own
    /// all-reduce, whose bits depend on its version and on how many there are.
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    reduce: Reduction,
    /// The highest learning rate.
    #[arg(long, default_value_t = 4e-4, value_name = "RATE")]
    learning_rate: f64,
    /// The learning rate at the end.
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    minimum_learning_rate: f64,
    /// Updates in which the learning rate rises: a number of them, or a share of all as in 0.05 (default: a twentieth, at most 10,000).
    #[arg(long, value_name = "STEPS|SHARE")]
    warmup: Option<Warmup>,
    /// How the learning rate falls afterwards.
    #[arg(long, value_enum, default_value = "linear")]
    decay: Decay,
    /// Updates over which it falls (default: all that follow the warm-up).
    #[arg(long, value_name = "STEPS")]
    decay_steps: Option<u64>,
    /// AdamW's decay of the first moment.
    #[arg(long, default_value_t = 0.9)]
    beta1: f64,
    /// AdamW's decay of the second moment.
    #[arg(long, default_value_t = 0.98)]
    beta2: f64,
    /// AdamW's epsilon.
    #[arg(long, default_value_t = 1e-6)]
    adam_eps: f64,
    /// Decoupled weight decay of matrices.
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    /// On a GPU, keep weights in bf16 alone, without f32 copies, and round each update up or down at random, right on average: 4 bytes a
    /// parameter less memory.
    #[arg(long)]
    stochastic_rounding: bool,
    /// Activations that are computed again on the way back, not kept: none; GELU's output in each layer, a quarter of the memory for a
    /// few percent of the time; or all inside each layer, most of the memory for a third more time. The result has the same bits.
    #[arg(long, value_enum, default_value = "none")]
    recompute: Recompute,
    /// Scale gradients down to this global norm; 0: never.
    #[arg(long, default_value_t = 1.0)]
    max_gradient_norm: f64,
    /// Evaluate every so many steps.
    #[arg(long, default_value_t = 1_000, value_name = "STEPS")]
    eval_every: u64,
    /// Batches of an evaluation.
    #[arg(long, default_value_t = 4, value_name = "N")]
    eval_batches: u32,
    /// Write a line of metrics every so many steps (default: 50, or a twentieth of the steps where that is less).
    #[arg(long, value_name = "STEPS")]
    log_every: Option<u64>,
    /// Write a checkpoint every so many steps.
    #[arg(long, default_value_t = 1_000, value_name = "STEPS")]
    save_every: u64,
    /// Checkpoints to keep.
    #[arg(long, default_value_t = 2, value_name = "N")]
    keep: usize,
    /// On a GPU: have an attached profiler (nsys, ncu) collect these steps, from 1, as in 10..12.
    #[arg(long, value_name = "A..B")]
    #[serde(skip)]
    profile_steps: Option<ProfileSteps>,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, training and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let (ranks, common) = common.join(args.reduce)?;
    let result = run_on(args, &common, &ranks);
    ranks.leave(result)
}

fn run_on(args: &Args, common: &Common, ranks: &Ranks) -> Result<()> {
    let resume = run_folder::check(&args.out, args.resume)?;
    let options = options(args, common, ranks)?;
    let (mut model, vocabulary) = model(args, common, &options)?;
    model.recompute = args.recompute;
    let (data, held_out) = data(args, &vocabulary)?;
    tracing::info!(
        "{} parameters, {} steps of {} tokens on {} (attention: {})",
        format::count(model.parameter_count() as u64),
        format::count(args.steps),
        format::count(args.tokens_per_step as u64),
        options.device,
        model.attention_path(&options.device, options.dtype)?
    );
    let uracils = |data: &PretrainingData| match data {
        PretrainingData::Text(text) => text.uracils(),
        PretrainingData::Genome(_) | PretrainingData::Tokens(_) => 0,
    };
    let uracils = uracils(&data) + held_out.as_ref().map_or(0, uracils);
    let summary = pretrain(model, &*vocabulary, &data, held_out.as_ref(), &options, resume)?;
    common.print(&Told { found: summary, uracils }, |told| human(&told.found, args))
}

fn options(args: &Args, common: &Common, ranks: &Ranks) -> Result<PretrainOptions> {
    let micro_batches = args.micro_batches.unwrap_or_else(|| {
        let parts = args.tokens_per_step.div_ceil(TOKENS_PER_PART).max(1);
        match ranks.size() {
            1 => parts,
            size => size * parts.div_ceil(size).next_power_of_two(),
        }
    });
    ranks.check_micro_batches(micro_batches)?;
    let log_every = args.log_every.unwrap_or((args.steps / 20).clamp(1, 50));
    let batches = u64::from(args.eval_batches);
    let intervals =
        [args.steps, args.eval_every, batches, log_every, args.save_every, micro_batches as u64, args.keep as u64];
    if intervals.contains(&0) || args.steps > u64::from(u32::MAX) {
        return Err(Error::usage(
            "a number of steps, an interval, --micro-batches, --eval-batches or --keep is 0, or there are over 4 billion steps",
            "give at least 1",
        ));
    }
    // All batches of a step are drawn before its first one is computed.
    host_memory::require(12.0 * args.tokens_per_step as f64, "a step of so many tokens", "lower --tokens-per-step")?;
    if micro_batches > args.tokens_per_step {
        let found = format!("{} tokens a step in {micro_batches} micro-batches", args.tokens_per_step);
        return Err(Error::usage(found, "lower --micro-batches: each needs some thousands of tokens"));
    }
    let rates = [args.learning_rate, args.minimum_learning_rate, args.weight_decay, args.max_gradient_norm];
    let betas = [args.beta1, args.beta2];
    if rates.iter().any(|rate| !(rate.is_finite() && *rate >= 0.0))
        || betas.iter().any(|beta| !(0.0..1.0).contains(beta))
        || !(args.adam_eps > 0.0 && args.adam_eps.is_finite())
    {
        return Err(Error::usage(
            "a learning rate, decay, norm, beta or epsilon is out of its range",
            "rates are 0 or more, betas from 0 up to, not including, 1, epsilon is over 0",
        ));
    }
    if args.minimum_learning_rate > args.learning_rate {
        let found = format!(
            "--minimum-learning-rate {} over --learning-rate {}",
            args.minimum_learning_rate, args.learning_rate
        );
        return Err(Error::usage(found, "give a minimum that is not above the highest rate"));
    }
    let masking = Masking::of(args.masking, args.mask_probability);
    masking.check()?;
    if let Some(probability) = args.mask_probability.filter(|p| p * 6.0 * (args.tokens_per_step as f64) < 1.0) {
        return Err(Error::usage(
            format!(
                "--mask-probability {probability} of {} tokens a step: hardly any step would hide one",
                args.tokens_per_step
            ),
            "leave it out for the recipe's own, or give a larger one",
        ));
    }
    let warmup = args.warmup.map_or((args.steps / 20).min(10_000), |warmup| warmup.steps(args.steps));
    let (device, dtype) = common.device()?;
    Ok(PretrainOptions {
        device,
        ranks: ranks.clone(),
        collected: args.profile_steps,
        dtype,
        seed: common.seed,
        steps: args.steps,
        tokens_per_step: args.tokens_per_step,
        micro_batches,
        schedule: Schedule {
            peak: args.learning_rate,
            minimum: args.minimum_learning_rate,
            warmup,
            decay_steps: args.decay_steps.unwrap_or(args.steps.saturating_sub(warmup)),
            decay: args.decay,
        },
        optimizer: AdamWConfig {
            beta1: args.beta1,
            beta2: args.beta2,
            eps: args.adam_eps,
            weight_decay: args.weight_decay,
            max_gradient_norm: args.max_gradient_norm,
            stochastic_rounding: args.stochastic_rounding,
        },
        masking,
        eval_every: args.eval_every,
        eval_batches: args.eval_batches,
        log_every,
        save_every: args.save_every,
        keep: args.keep,
        out: args.out.clone(),
        config: Some(config::resolved(&Args { micro_batches: Some(micro_batches), ..args.clone() }, common)?),
        quiet: common.quiet,
        confirm: (!common.quiet && io::stdin().is_terminal() && io::stderr().is_terminal()).then_some(confirm),
    })
}

/// Asks at the terminal whether a run of months is meant.
fn confirm(_: Duration) -> bool {
    eprint!("go on? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn model(args: &Args, common: &Common, options: &PretrainOptions) -> Result<(Model, Arc<dyn Tokenizer>)> {
    let check = |config: &Config| {
        let tokens = options.tokens_per_step / options.micro_batches;
        let sums = GradientTree::buffers(options.ranks.share(options.micro_batches).len());
        config.check_training(&options.device, tokens, sums, args.recompute, &Trained::Everything)
    };
    if let Some(init) = &args.init {
        args.model.refuse("--init")?;
        let (model, vocabulary) = checkpoint::load_encoder(init, Head::MaskedLm, None, common.seed)?;
        check(&model.config)?;
        return Ok((model, vocabulary));
    }
    let (tokenizer, config) = (args.model.tokenizer("dnabert-6")?, args.model.config("dnabert-6", args.max_length)?);
    check(&config)?;
    Ok((Model::initialise(config, Head::MaskedLm, DType::F32, common.seed)?, tokenizer))
}

fn data(args: &Args, tokenizer: &Arc<dyn Tokenizer>) -> Result<(PretrainingData, Option<PretrainingData>)> {
    if let Some(text) = &args.text {
        let Some(vocabulary) = tokenizer.k_mers() else {
            return Err(Error::usage(
                format!("--text with a model over {}", tokenizer.describe()),
                "give a genome (--genome): the text format is one of k-mers",
            ));
        };
        let open =
            |path: &PathBuf| TextCorpus::open(path, vocabulary.clone(), args.max_length).map(PretrainingData::Text);
        return Ok((open(text)?, args.eval_text.as_ref().map(open).transpose()?));
    }
    let Some(path) = &args.genome else {
        return Err(Error::usage("neither --genome nor --text", "name the data to train on"));
    };
    let genome = Arc::new(Genome::open(path)?);
    let aliases = Aliases::parse(&args.alias, args.alias_file.as_deref())?;
    let regions = Regions::parse_with(&genome, &aliases, &args.hold_out)?;
    let corpus = |parts: Parts| {
        let reverse_complement = args.reverse_complement;
        let options = CorpusOptions { max_length: args.max_length, reverse_complement, parts };
        match tokenizer.k_mers() {
            Some(k_mers) => Corpus::new(Arc::clone(&genome), k_mers.clone(), &options).map(PretrainingData::Genome),
            None => TokenCorpus::new(Arc::clone(&genome), Arc::clone(tokenizer), &options).map(PretrainingData::Tokens),
        }
    };
    if args.hold_out.is_empty() {
        return Ok((corpus(Parts::All)?, None));
    }
    Ok((corpus(Parts::Except(regions.clone()))?, Some(corpus(Parts::Only(regions))?)))
}

fn human(summary: &PretrainSummary, args: &Args) -> String {
    let mut text = format!(
        "{} steps, {} tokens, {} tokens/s over the whole run; loss {:.4} at first, {:.4} at last",
        format::count(summary.steps),
        format::count(summary.tokens),
        format::count(summary.tokens_per_second as u64),
        summary.loss_first,
        summary.loss_last,
    );
    if let Some(evaluation) = summary.evaluation {
        text += &format!(
            "\nheld out: loss {:.4}, perplexity {:.2}, masked accuracy {:.3}",
            evaluation.loss, evaluation.perplexity, evaluation.masked_accuracy
        );
    }
    if let Some(ranks) = &summary.ranks {
        text += &format!("\n{ranks}");
    }
    text + &format!("\nthe model is in {}", args.out.display())
}
