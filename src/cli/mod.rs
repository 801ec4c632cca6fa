//! The command line: one file per command, which parses, calls the library and prints. No logic here.
//!
//! stdout carries the result (text, or one JSON object with `--json`), stderr the log and the progress bar.

mod attention;
mod bench;
mod benchmark;
mod checkpoint;
pub mod config;
mod demo;
mod doctor;
mod embed;
mod evaluate;
mod finetune;
mod gene2vec;
mod genes;
mod genome;
mod import;
mod lora;
mod merge;
mod model;
mod motifs;
mod overwrite;
mod plan;
mod predict;
mod pretrain;
mod profile;
mod run_folder;
mod scan;
mod serve;
mod shell;
mod splice;
mod tokenizer;
mod variants;
mod workload;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;

use crate::device::attention_kernels::AttentionPath;
use crate::device::{Choices, DType, Device, GemmChoice, cuda};
use crate::parallel::channel::Stops;
use crate::parallel::launcher::{self, Place};
use crate::parallel::{Ranks, Reduction};
use crate::report::say;
use crate::train::interrupt;
use crate::{Error, Result};

/// Trains DNABERT, a BERT over DNA k-mers, from a genome file to a splice-site predictor.
#[derive(Parser)]
#[command(name = "helixgrad", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// A type of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16,
}

/// The heading of what the CPU does not heed, behind all other options.
const ON_A_GPU: &str = "On a GPU";

/// Options of every command.
#[derive(clap::Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Options of every command", next_display_order = 1000)]
#[serde(rename_all = "kebab-case")]
pub struct Common {
    /// Where to compute: auto, cpu, or `cuda[:N]`.
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Type of weights and activations (default: f32 on the CPU, bf16 on a GPU, with f32 sums, moments and master weights).
    #[arg(long, global = true, value_enum, value_name = "TYPE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Precision>,
    /// Attention kernels on a GPU: the best that run there (auto), or those of one family.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FAMILY", help_heading = ON_A_GPU, display_order = 2000)]
    pub attention: AttentionPath,
    /// Who multiplies matrices on a GPU: our kernels (own; on Hopper own-single never in clusters of blocks, own-cluster always),
    /// NVIDIA's library where it is installed (cublaslt), or the faster of the two for each shape (auto: measured at first use, so
    /// two runs may differ in their last bits).
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHO", help_heading = ON_A_GPU, display_order = 2000)]
    pub gemm: GemmChoice,
    /// On a GPU: hand the kernels of a step over as one CUDA graph. The same bits; pays where kernels are short, as in small
    /// models and short sequences.
    #[arg(long, global = true, help_heading = ON_A_GPU, display_order = 2000)]
    pub cuda_graphs: bool,
    /// On Hopper: the blocks of a kernel start while the last of the kernel before it still run (programmatic dependent launch), in
    /// graphs, too. The same bits; hides the start of each kernel.
    #[arg(long, global = true, help_heading = ON_A_GPU, display_order = 2000)]
    pub dependent_launch: bool,
    /// Seed of every random choice; the same seed gives the same bits.
    #[arg(long, global = true, default_value_t = 42)]
    pub seed: u64,
    /// CPU threads (default: all cores).
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Print results only: no progress, no log.
    #[arg(long, short, global = true)]
    #[serde(skip)]
    pub quiet: bool,
    /// Print one JSON object on stdout; the log stays on stderr.
    #[arg(long, global = true)]
    #[serde(skip)]
    pub json: bool,
    /// Another rank prints.
    #[arg(skip)]
    #[serde(skip)]
    pub silent: bool,
    /// The device, where it has been opened to join others: what is computed there and what is carried there is in one order.
    #[arg(skip)]
    #[serde(skip)]
    pub joined: Option<Device>,
    /// A TOML file with any of the command's options (`learning-rate = 1e-4`); options given on the command line win.
    #[arg(long, global = true, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<std::path::PathBuf>,
}

impl Common {
    /// The device and the type of weights and activations on it: bf16 on a GPU, f32 on the CPU, or what `--dtype` says.
    ///
    /// # Errors
    /// [`Error::Usage`] for a device that is not there or a type that it lacks.
    pub fn device(&self) -> Result<(Device, DType)> {
        let choices = Choices {
            attention: self.attention,
            gemm: self.gemm,
            graphs: self.cuda_graphs,
            dependent_launch: self.dependent_launch,
        };
        let device = match &self.joined {
            Some(device) => device.clone(),
            None => Device::open(&self.device, choices)?,
        };
        let on_cpu = matches!(device, Device::Cpu);
        let dtype = match self.dtype {
            None if on_cpu => DType::F32,
            None => DType::Bf16,
            Some(Precision::F32) => DType::F32,
            Some(Precision::Bf16) if on_cpu => {
                return Err(Error::usage("--dtype bf16 on the CPU", "use f32 there, or --device cuda"));
            }
            Some(Precision::Bf16) => DType::Bf16,
        };
        Ok((device, dtype))
    }

    /// Joins the processes that were started with this one by mpirun, srun or the like; or none. The options that come back are those of
    /// this rank: one alone prints, and has progress.
    ///
    /// # Errors
    /// Those of [`Ranks::join_cpus`].
    pub fn join(&self, reduction: Reduction) -> Result<(Ranks, Self)> {
        let stops = Stops { requested: interrupt::requested, request: interrupt::request_from_elsewhere };
        let place = Place::find()?;
        if let Some(Place { rank, size, local_size, .. }) = &place
            && self.device.starts_with("cuda:")
            && *local_size != Some(1)
        {
            return Err(Error::usage(
                format!("--device {} for each of {size} ranks (this is rank {rank})", self.device),
                "give --device cuda: each rank takes the GPU of its number on its machine",
            ));
        }
        let Some(own) = &place else { return Ok((Ranks::alone(), self.clone())) };
        let device = self.on_rank(own.local_rank).device()?.0;
        let silent = own.rank > 0;
        let ranks = match &device {
            Device::Cpu => Ranks::join_cpus(place, reduction, stops)?,
            Device::Kernels(_) => Ranks::join_gpus(place, reduction, stops, &device)?,
        };
        if let Some(ranks) = ranks.describe() {
            tracing::info!("{ranks}");
        }
        Ok((ranks, Self { quiet: self.quiet || silent, silent, joined: Some(device), ..self.clone() }))
    }

    /// These options of the rank of this number on its machine: its GPU, where the process sees several.
    fn on_rank(&self, local_rank: usize) -> Self {
        let several = matches!(self.device.as_str(), "cuda" | "auto") && cuda::gpus().is_ok_and(|gpus| gpus.len() > 1);
        let device = if several { format!("cuda:{local_rank}") } else { self.device.clone() };
        Self { device, ..self.clone() }
    }

    /// Prints `result` as JSON with `--json`, or else as the text that `human` makes of it.
    ///
    /// # Errors
    /// [`Error::Io`] if stdout cannot be written. A closed pipe is a graceful end.
    pub fn print<T: Serialize>(&self, result: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        if self.silent {
            return Ok(());
        }
        if !self.json {
            return print_line(human(result).trim_end());
        }
        let mut out = io::BufWriter::new(io::stdout().lock());
        may_be_closed(match serde_json::to_writer(&mut out, result) {
            Err(error) if !error.is_io() => return Err(Error::Failed(error.to_string())),
            written => written.map_err(io::Error::from).and_then(|()| writeln!(out)).and_then(|()| out.flush()),
        })
    }
}

/// Writes one line (or several) to stdout.
fn print_line(text: &str) -> Result<()> {
    may_be_closed(writeln!(io::stdout().lock(), "{text}"))
}

/// What came of writing to stdout; a closed pipe is a graceful end.
fn may_be_closed(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Error::io("write", "stdout")),
    }
}

/// What a command found, and what it read as something else.
#[derive(serde::Serialize)]
struct Told<T> {
    #[serde(flatten)]
    found: T,
    /// U that were read as T.
    uracils: u64,
}

#[derive(Subcommand)]
enum Command {
    /// The whole path on the shipped sample: pack, pretrain, fine-tune, evaluate, report. Takes minutes on two cores.
    Demo(demo::Args),
    /// Genome files: FASTA to .2bit, what is inside, a piece of it.
    Genome(genome::Args),
    /// Pretrain by masked-language modelling on a genome.
    Pretrain(pretrain::Args),
    /// Splice sites and splice datasets from a genome and its annotation.
    Splice(splice::Args),
    /// Fine-tune a classifier on labelled windows.
    Finetune(finetune::Args),
    /// Evaluate a fine-tuned model on labelled windows.
    Evaluate(evaluate::Args),
    /// Fine-tune and test a model on a published suite of tasks (GUE, Nucleotide Transformer's), beside published figures.
    Benchmark(benchmark::Args),
    /// Class probabilities for windows in a FASTA, TSV or BED file.
    Predict(predict::Args),
    /// Splice sites of a genome: every position on both strands, to BED, bedGraph and bigWig.
    Scan(scan::Args),
    /// What variants do to splice sites: a VCF file with gains and losses, or every single-base change of a region.
    Variants(variants::Args),
    /// What a model looks at: attention from `[CLS]` or from the site, any layer and head.
    Attention(attention::Args),
    /// Motifs of a class from high attention, as MEME and as logos.
    Motifs(motifs::Args),
    /// Vectors of sequences, k-mers or bases: a model's hidden states.
    Embed(embed::Args),
    /// Put the parts of a scan and the like together that --shard has made: the bytes of the whole.
    Merge(merge::Args),
    /// A model behind HTTP: vectors, predictions and variants in JSON, and the open inference protocol.
    Serve(serve::Args),
    /// Vectors of genes: from pairs of co-expressed ones (Gene2vec), and what they are used for.
    Genes(gene2vec::Args),
    /// Take over a model of transformers or of DNABERT's own program.
    Import(import::Args),
    /// Learn a vocabulary of DNA from a genome, or look at the tokens of a sequence.
    Tokenizer(tokenizer::Args),
    /// What a model's folder holds.
    Checkpoint(checkpoint::Args),
    /// Measure throughput.
    Bench(bench::Args),
    /// Profile a training step: every kernel or operation, its roofline, idle gaps, memory; a page and a trace.
    Profile(profile::Args),
    /// Count a training step on a GPU without one: the floor of every kernel, and the memory.
    Plan(plan::Args),
    /// What this build embeds, what this machine has, and what is missing.
    Doctor(doctor::Args),
    /// Print a script by which a shell completes commands and options.
    Completions(shell::Completions),
    /// Write manual pages, one for each command.
    Man(shell::Man),
}

impl Command {
    /// Whether the processes that were started together work together.
    fn joins(&self) -> bool {
        matches!(self, Self::Pretrain(_) | Self::Finetune(_) | Self::Evaluate(_) | Self::Bench(_))
    }
}

/// The grammar of the command line.
pub fn command() -> clap::Command {
    with_negative_numbers(Cli::command())
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // While there is one thread.
    cuda::nccl::prefer_repeatable();
    interrupt::install();
    match run(std::env::args_os().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{}error: {error}", launcher::prefix()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<()> {
    let command = command();
    let config::Merged { arguments, file, inserted } = config::merge(arguments, &command)?;
    let parsed = command.try_get_matches_from(arguments);
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        // What was asked for: help, or the version.
        Err(answer) if !answer.use_stderr() => {
            return may_be_closed(answer.print().and_then(|()| io::stdout().flush()));
        }
        Err(error) => match file.and_then(|path| config::wrong_value(&error, &path, &inserted)) {
            Some(wrong) => return Err(wrong),
            None => error.exit(),
        },
    };
    let common = cli.common;
    start_logging(&common);
    if let Some(threads) = common.threads.filter(|threads| !(1..=1024).contains(threads)) {
        let found = format!("--threads {threads}");
        return Err(Error::usage(found, "give 1 to 1,024 threads, or leave the option out for all cores"));
    }
    // 0 is as many as there are cores. Where nobody asks for the pool here, rayon panics if the system gives no threads.
    let threads = common.threads.or_else(|| launcher::threads().filter(|_| cli.command.joins())).unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| {
        Error::Failed(format!(
            "cannot start threads: {error}\n  what to do: give fewer (--threads), or raise the limits of this process"
        ))
    })?;
    overwrite::check(&matches)?;
    match cli.command {
        Command::Demo(args) => demo::run(&args, &common),
        Command::Genes(args) => gene2vec::run(&args, &common),
        Command::Genome(args) => genome::run(&args, &common),
        Command::Pretrain(args) => pretrain::run(&args, &common),
        Command::Splice(args) => splice::run(&args, &common),
        Command::Finetune(args) => finetune::run(&args, &common),
        Command::Evaluate(args) => evaluate::run(&args, &common),
        Command::Benchmark(args) => benchmark::run(&args, &common),
        Command::Predict(args) => predict::run(&args, &common),
        Command::Scan(args) => scan::run(&args, &common),
        Command::Variants(args) => variants::run(&args, &common),
        Command::Attention(args) => attention::run(&args, &common),
        Command::Motifs(args) => motifs::run(&args, &common),
        Command::Embed(args) => embed::run(&args, &common),
        Command::Merge(args) => merge::run(&args, &common),
        Command::Serve(args) => serve::run(&args, &common),
        Command::Import(args) => import::run(&args, &common),
        Command::Tokenizer(args) => tokenizer::run(&args, &common),
        Command::Checkpoint(args) => checkpoint::run(&args, &common),
        Command::Bench(args) => bench::run(&args, &common),
        Command::Profile(args) => profile::run(&args, &common),
        Command::Plan(args) => plan::run(&args, &common),
        Command::Doctor(args) => doctor::run(&args, &common),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args, &common),
    }
}

/// Takes `-1` behind an option for its value, about which there is more to say than that no option is called so.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| {
        let takes = arg.get_action().takes_values() && !arg.is_positional();
        arg.allow_negative_numbers(takes)
    });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_negative_numbers))
}

/// The log goes to stderr; `HELIXGRAD_LOG` (as tracing's filter, `debug` for instance) sets its level.
fn start_logging(common: &Common) {
    let default = if common.quiet || !launcher::prefix().is_empty() { "error" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HELIXGRAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_target(false)
        // A log that cannot be written is not worth a panic.
        .log_internal_errors(false)
        .without_time()
        .try_init();
}
