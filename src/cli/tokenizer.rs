//! `helixgrad tokenizer train | encode`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

use super::Common;
use crate::genome::twobit::Genome;
use crate::kmer::sequences;
use crate::output::write_folder_atomic;
use crate::report::format;
use crate::tokenizer::train::{self, Learnt};
use crate::tokenizer::{self, Tokenizer};
use crate::{Error, Result};

/// Options of `helixgrad tokenizer`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    /// Learn a byte-pair encoding from a genome, as DNABERT-2 has one: a tokenizer.json.
    Train(Train),
    /// Show the tokens of a text, or of the sequences of a FASTA file.
    Encode(Encode),
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Train {
    /// The .2bit genome to learn from.
    #[arg(long, value_name = "FILE.2bit")]
    genome: PathBuf,
    /// Entries of the vocabulary, the 5 special tokens and the 4 bases included.
    #[arg(long, default_value_t = 4096, value_name = "N")]
    vocab_size: usize,
    /// Bases to learn from, in pieces of 1,000 taken evenly over the genome. Memory grows with them, by at most 25 bytes each.
    #[arg(long, default_value_t = 64_000_000, value_name = "BASES")]
    sample: u64,
    /// The folder to write tokenizer.json and tokenizer_config.json to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Encode {
    /// A folder with a tokenizer.json or vocab.txt: a model's, or one that `tokenizer train` wrote.
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// The text, as the tokenizer's own program reads it: lower case is not made upper case, special tokens count by their names.
    #[arg(required_unless_present = "fasta", conflicts_with = "fasta")]
    text: Option<String>,
    /// The sequences of this FASTA file instead, as models here read them: in lower case as in upper case.
    #[arg(long, value_name = "FILE")]
    fasta: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Those of the files it is given.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    match &args.action {
        Action::Train(args) => train(args, common),
        Action::Encode(args) => encode(args, common),
    }
}

#[derive(Serialize)]
struct Trained<'a> {
    out: &'a Path,
    vocab_size: usize,
    genome_bases: u64,
    sample_bases: u64,
    sample_tokens: u64,
}

fn train(args: &Train, common: &Common) -> Result<()> {
    if args.out.exists() {
        return Err(Error::usage(
            format!("{} exists already", args.out.display()),
            "name a folder that does not exist yet, or remove it",
        ));
    }
    let Learnt { tokenizer, known, bases, tokens } =
        train::learn(&Genome::open(&args.genome)?, args.vocab_size, args.sample)?;
    write_folder_atomic(&args.out, |folder| tokenizer::write(&tokenizer, folder, None))?;
    let trained = Trained {
        out: &args.out,
        vocab_size: tokenizer.len(),
        genome_bases: known,
        sample_bases: bases,
        sample_tokens: tokens,
    };
    common.print(&trained, |trained| {
        format!(
            "{} entries from {} of {} known bases, {:.2} bases a token: written to {}",
            format::count(trained.vocab_size as u64),
            format::count(trained.sample_bases),
            format::count(trained.genome_bases),
            trained.sample_bases as f64 / trained.sample_tokens as f64,
            trained.out.display()
        )
    })
}

/// The tokens of a text or a sequence, between those that begin and end a sequence.
#[derive(Serialize)]
struct Encoded {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    ids: Vec<i32>,
    tokens: Vec<String>,
}

impl Encoded {
    fn of(tokenizer: &dyn Tokenizer, name: Option<String>, encode: impl FnOnce(&mut Vec<i32>)) -> Self {
        let specials = tokenizer.specials();
        let mut ids = vec![specials.cls];
        encode(&mut ids);
        ids.extend(specials.sep);
        let tokens = ids.iter().filter_map(|&id| tokenizer.token(id)).collect();
        Self { name, ids, tokens }
    }
}

#[derive(Serialize)]
struct AllEncoded {
    tokenizer: String,
    vocab_size: usize,
    sequences: Vec<Encoded>,
}

fn encode(args: &Encode, common: &Common) -> Result<()> {
    let tokenizer = tokenizer::read(&args.tokenizer)?;
    let mut all = AllEncoded { tokenizer: tokenizer.describe(), vocab_size: tokenizer.len(), sequences: Vec::new() };
    if let Some(text) = &args.text {
        all.sequences.push(Encoded::of(&*tokenizer, None, |ids| tokenizer.encode_text(text, ids)));
    }
    for record in
        args.fasta.iter().map(|path| sequences::fasta(path)).collect::<Result<Vec<_>>>()?.into_iter().flatten()
    {
        let record = record?;
        all.sequences.push(Encoded::of(&*tokenizer, Some(record.name), |ids| tokenizer.encode(&record.bases, ids)));
    }
    common.print(&all, |all| {
        let of = |encoded: &Encoded| {
            let name = encoded.name.as_ref().map(|name| format!(">{name}\n")).unwrap_or_default();
            let ids: Vec<String> = encoded.ids.iter().map(i32::to_string).collect();
            format!("{name}{}\n{}\n", encoded.tokens.join(" "), ids.join(" "))
        };
        all.sequences.iter().map(of).collect()
    })
}
