//! `helixgrad serve`: a model behind HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::Common;
use super::genes::{self};
use crate::genome::alias::Aliases;
use crate::genome::twobit::Genome;
use crate::inference::encoder::Encoder;
use crate::inference::scan::Positions;
use crate::inference::score::Scorer;
use crate::inference::splice::SpliceScorer;
use crate::inference::variants::Options;
use crate::inference::variants::genes::Genes;
use crate::serve::engine::{Engine, Sites};
use crate::serve::{Limits, Server};
use crate::train::{checkpoint, interrupt};
use crate::{Error, Result, lossy};

/// Options of `helixgrad serve`.
///
/// Answers POST /v1/embeddings, /v1/predict and /v1/variants, and the open inference protocol (KServe, Triton's clients) under /v2, until Ctrl-C
/// or SIGTERM: then what was accepted is answered, and nothing new is taken. docs/serving.md shows requests.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The model: a run's folder, a checkpoint, a Hugging Face directory.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    model: PathBuf,
    /// Where to listen. Who reaches the address can use the server: there is no password. Port 0 is a free one, which is printed.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// What the model is called in requests (default: the folder's name).
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// For /v1/variants: the genome that variants are of, a .2bit file; the model's classes are donor and acceptor then.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    genome: Option<PathBuf>,
    /// Score each gene over a variant, on its strand (default: both strands); GFF3 or GTF.
    #[arg(long, value_name = "FILE", requires = "genome")]
    #[serde(serialize_with = "lossy::serialize")]
    annotation: Option<PathBuf>,
    /// Two names of the same sequence, as NC_000023.10=X; may be repeated.
    #[arg(long, value_name = "ONE=OTHER", requires = "genome")]
    alias: Vec<String>,
    /// A file of such pairs, two columns.
    #[arg(long, value_name = "FILE", requires = "genome")]
    #[serde(serialize_with = "lossy::serialize")]
    alias_file: Option<PathBuf>,
    /// Compare sites within so many bases of a variant.
    #[arg(long, value_name = "BASES", default_value_t = 50, requires = "genome")]
    distance: u32,
    /// Bases of a window around a site, for a model without a window of its own.
    #[arg(long, value_name = "BASES", requires = "genome")]
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    /// Answer with the mean of two answers: to each sequence, and to its reverse complement.
    #[arg(long)]
    rc: bool,
    /// Requests that may wait for the model; further ones get status 429.
    #[arg(long, value_name = "REQUESTS", default_value_t = Limits::default().queue)]
    queue: usize,
    /// Connections at a time; further ones wait.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    connections: usize,
    /// The largest body of a request.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().body)]
    max_body: usize,
    /// The most sequences or variants of a request.
    #[arg(long, value_name = "N", default_value_t = Limits::default().sequences)]
    max_sequences: usize,
    /// The longest sequence.
    #[arg(long, value_name = "BASES", default_value_t = Limits::default().bases)]
    max_bases: usize,
    /// How long a client may take to send the head or the body of a request, or to read some of the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().patience.as_secs())]
    patience: u64,
}

/// Runs the command.
///
/// # Errors
/// Those of reading the model and of listening; [`Error::Interrupted`] at the end, since only a signal ends it.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let limits = limits(args)?;
    let name = name_of(args)?;
    let engine = engine(args, common)?;
    let server = Server::bind(engine, &name, args.listen, limits)?;
    interrupt::finish_first();
    let address = server.address();
    if !address.ip().is_loopback() {
        tracing::warn!("{address} can be reached from other machines, and there is no password");
    }
    let result = json!({ "listening": format!("http://{address}"), "model": name });
    common.print(&result, |_| format!("listening on http://{address} (model {name})"))?;
    let answered = server.run(interrupt::told_to_finish)?;
    Err(Error::Interrupted(format!("; {answered} requests were answered, and all that were accepted")))
}

fn limits(args: &Args) -> Result<Limits> {
    /// tokio's semaphores hold no more, and no machine.
    const MOST: usize = 1 << 30;
    let given = [
        ("--queue", args.queue),
        ("--connections", args.connections),
        ("--max-body", args.max_body),
        ("--max-sequences", args.max_sequences),
        ("--max-bases", args.max_bases),
        ("--patience", args.patience as usize),
    ];
    if let Some((option, value)) = given.into_iter().find(|(_, value)| !(1..=MOST).contains(value)) {
        return Err(Error::usage(format!("{option} {value}"), format!("give 1 to {MOST}")));
    }
    if args.distance > 10_000 {
        return Err(Error::usage(format!("--distance {}", args.distance), "give at most 10,000 bases"));
    }
    Ok(Limits {
        queue: args.queue,
        connections: args.connections,
        body: args.max_body,
        sequences: args.max_sequences,
        bases: args.max_bases,
        patience: std::time::Duration::from_secs(args.patience),
    })
}

fn name_of(args: &Args) -> Result<String> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    // `.` has a name, too.
    let folder = args.model.canonicalize().map_err(Error::io("read", &args.model))?;
    Ok(folder.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned()))
}

fn engine(args: &Args, common: &Common) -> Result<Engine> {
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    if checkpoint.classification.is_none() {
        if args.genome.is_some() {
            return Err(Error::usage(
                "--genome with a model without classes",
                "leave it out, or serve a model of splice sites (helixgrad finetune)",
            ));
        }
        return Ok(Engine::of_encoder(Encoder::new(checkpoint, device, dtype)?, args.rc));
    }
    let scorer = Scorer::new(checkpoint, device, dtype)?;
    let scorer = if args.rc { scorer.on_both_strands()? } else { scorer };
    let Some(genome) = &args.genome else { return Engine::of_scorer(scorer, args.rc) };
    let scorer = SpliceScorer::new(scorer, args.window)?;
    let genome = Genome::open(genome)?;
    let aliases = Aliases::parse(&args.alias, args.alias_file.as_deref())?;
    let genes = args.annotation.as_ref().map(|path| Ok::<_, Error>(Genes::new(&genes::open(path, &genome, &aliases)?)));
    let options = Options {
        distance: args.distance,
        most_bases: 100,
        positions: Positions::GtAg,
        skip_mismatches: false,
        fingerprint: serde_json::Value::Null,
        resume: false,
        shard: None,
        told: None,
        config: None,
        quiet: true,
    };
    Engine::of_sites(Sites { scorer, genome, aliases, genes: genes.transpose()?, options })
}
