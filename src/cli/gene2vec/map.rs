//! `helixgrad genes map`: a picture of the vectors in two dimensions.

use std::cmp::Reverse;
use std::path::PathBuf;

use serde::Serialize;

use super::vectors;
use crate::cli::Common;
use crate::genes::cosine::UnitVectors;
use crate::genes::map::{Map, Options};
use crate::genes::sets::{GeneSet, read_gmt};
use crate::output::write_atomic;
use crate::report::Progress;
use crate::report::format::{count, decimal};
use crate::report::gene_map::{COLOURED_SETS, GeneMap};
use crate::{Error, Result, lossy};

/// Options.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The vectors: a file (word2vec text or binary, Gene2vec's table, .npy), or the folder of `genes train`.
    #[arg(long, value_name = "FILE|DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    vectors: PathBuf,
    /// The page to write.
    #[arg(long, value_name = "FILE.html")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
    /// Sets to colour, a .gmt file.
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "lossy::serialize")]
    sets: Option<PathBuf>,
    /// A set to colour, by its name in that file; up to eight (default: the eight with the most genes).
    #[arg(long, value_name = "SET", num_args = 1.., requires = "sets")]
    colour: Vec<String>,
    /// About how many neighbours a gene has.
    #[arg(long, value_name = "N", default_value_t = 30.0)]
    perplexity: f64,
    /// Steps of the layout.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    iterations: usize,
}

#[derive(Serialize)]
struct Summary {
    out: String,
    genes: u64,
    zero_vectors: u64,
    perplexity: f64,
    divergence: f64,
    coloured: Vec<Coloured>,
}

#[derive(Serialize)]
struct Coloured {
    set: String,
    genes: u64,
    without_vector: u64,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let vectors = vectors::read(&args.vectors)?;
    let sets = match &args.sets {
        Some(path) => chosen(read_gmt(path)?, &args.colour).map_err(|error| error.about(path))?,
        None => Vec::new(),
    };
    let index = vectors.index();
    let members = |set: &GeneSet| set.genes.iter().filter_map(|gene| index.get(gene.as_str()).copied()).collect();
    let members: Vec<Vec<usize>> = sets.iter().map(members).collect();
    let unit = UnitVectors::of(&vectors);
    let mut progress = Progress::new("layout", args.iterations as u64, common.quiet).unit("steps");
    let options = Options { perplexity: args.perplexity, iterations: args.iterations, seed: common.seed };
    let map = Map::of(&unit, &options, &mut progress)?;
    progress.finish("");
    let name = args.vectors.file_name().unwrap_or(args.vectors.as_os_str()).to_string_lossy();
    let lead = format!(
        "{} genes, near to each other where their vectors of {} numbers point the same way. Distances between far groups mean little.",
        count(vectors.genes.len() as u64),
        vectors.dimension
    );
    let footer = format!(
        "helixgrad {}: t-SNE, perplexity {}, {} steps, seed {}; Kullback-Leibler divergence {}",
        env!("CARGO_PKG_VERSION"),
        decimal(map.perplexity, 1),
        count(args.iterations as u64),
        common.seed,
        decimal(map.divergence, 3)
    );
    let page = GeneMap {
        title: &format!("Gene vectors of {name}"),
        lead: &lead,
        genes: &vectors.genes,
        points: &map.points,
        sets: sets.iter().map(|set| set.name.as_str()).zip(members.iter().cloned()).collect(),
        footer: &footer,
    };
    write_atomic(&args.out, page.render())?;
    let coloured = sets.iter().zip(&members).map(|(set, members)| Coloured {
        set: set.name.clone(),
        genes: members.len() as u64,
        without_vector: (set.genes.len() - members.len()) as u64,
    });
    let summary = Summary {
        out: args.out.display().to_string(),
        genes: vectors.genes.len() as u64,
        zero_vectors: unit.zeros as u64,
        perplexity: map.perplexity,
        divergence: map.divergence,
        coloured: coloured.collect(),
    };
    common.print(&summary, |summary| {
        let sets: String = summary
            .coloured
            .iter()
            .map(|Coloured { set, genes, without_vector }| match without_vector {
                0 => format!("  {set}: {} genes\n", count(*genes)),
                _ => format!("  {set}: {} genes, and {} without a vector\n", count(*genes), count(*without_vector)),
            })
            .collect();
        format!("{} genes in {}\n{sets}", count(summary.genes), summary.out)
    })
}

/// The sets to colour: those that are named, or the largest.
fn chosen(mut sets: Vec<GeneSet>, named: &[String]) -> Result<Vec<GeneSet>> {
    if named.is_empty() {
        sets.sort_by_key(|set| Reverse(set.genes.len()));
        sets.truncate(COLOURED_SETS);
        return Ok(sets);
    }
    if named.len() > COLOURED_SETS {
        return Err(Error::usage(format!("{} sets to colour", named.len()), format!("name {COLOURED_SETS} or fewer")));
    }
    let find = |name: &String| {
        sets.iter().find(|set| set.name == *name).cloned().ok_or_else(|| {
            let mut alike: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
            let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
            alike.sort_by(|one, other| likeness(other).total_cmp(&likeness(one)));
            alike.truncate(3);
            Error::usage(format!("no set is called {name:?}"), format!("did you mean {}?", alike.join(", or ")))
        })
    };
    named.iter().map(find).collect()
}
