//! `helixgrad genes neighbours`: genes with like vectors, and analogies.

use std::path::PathBuf;

use serde::Serialize;

use super::vectors;
use crate::cli::Common;
use crate::genes::cosine::UnitVectors;
use crate::genes::names::find;
use crate::report::{Cell, Table};
use crate::{Error, Result, lossy};

/// Options.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// Genes; each gets a table of its own.
    #[arg(value_name = "GENE")]
    genes: Vec<String>,
    /// The vectors: a file (word2vec text or binary, Gene2vec's table, .npy), or the folder of `genes train`.
    #[arg(long, value_name = "FILE|DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    vectors: PathBuf,
    /// How many neighbours.
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Genes whose vectors are added up, in place of a gene: A is to C as which is to B, with `--plus A B --minus C`.
    #[arg(long, value_name = "GENE", num_args = 1.., conflicts_with = "genes")]
    plus: Vec<String>,
    /// Genes whose vectors are taken away.
    #[arg(long, value_name = "GENE", num_args = 1.., conflicts_with = "genes")]
    minus: Vec<String>,
}

#[derive(Serialize)]
struct Neighbours {
    plus: Vec<String>,
    minus: Vec<String>,
    neighbours: Vec<Neighbour>,
}

#[derive(Serialize)]
struct Neighbour {
    gene: String,
    cosine: f64,
}

/// Runs the command.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    if args.genes.is_empty() && args.plus.is_empty() && args.minus.is_empty() {
        return Err(Error::usage("no gene", "name one, or several, or an analogy: --plus A B --minus C"));
    }
    if args.top == 0 {
        return Err(Error::usage("--top 0", "give the number of neighbours, 1 or more"));
    }
    let vectors = vectors::read(&args.vectors)?;
    let unit = UnitVectors::of(&vectors);
    let mut questions: Vec<[Vec<String>; 2]> = args.genes.iter().map(|gene| [vec![gene.clone()], Vec::new()]).collect();
    if args.genes.is_empty() {
        questions.push([args.plus.clone(), args.minus.clone()]);
    }
    let answer = |[plus, minus]: [Vec<String>; 2]| {
        let nearest = unit.nearest(&find(&vectors.genes, &plus)?, &find(&vectors.genes, &minus)?, args.top);
        let named = |(gene, cosine): (usize, f64)| Neighbour { gene: vectors.genes[gene].clone(), cosine };
        Ok(Neighbours { neighbours: nearest.into_iter().map(named).collect(), plus, minus })
    };
    let answers: Vec<Neighbours> = questions.into_iter().map(answer).collect::<Result<_>>()?;
    common.print(&answers, |answers| answers.iter().map(describe).collect::<Vec<_>>().join("\n"))
}

fn describe(answer: &Neighbours) -> String {
    let minus: String = answer.minus.iter().map(|gene| format!(" - {gene}")).collect();
    let mut table = Table::new([format!("{}{minus}", answer.plus.join(" + ")), "cosine".into()]);
    for Neighbour { gene, cosine } in &answer.neighbours {
        table.row([Cell::from(gene.as_str()), Cell::number(*cosine, 4)]);
    }
    table.to_string()
}
