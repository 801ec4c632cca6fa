//! `helixgrad import`: another program's checkpoint becomes one of ours.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::Common;
use crate::interop::names::DecoderBias;
use crate::kmer::vocabulary::Vocabulary;
use crate::output::write_folder_atomic;
use crate::report::format;
use crate::train::checkpoint;
use crate::{Error, Result};

/// Options of `helixgrad import`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// A Hugging Face directory, or one that DNABERT's program wrote: config.json, vocab.txt, and model.safetensors or
    /// pytorch_model.bin (read without running code).
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// The folder to write, as transformers loads it: config.json, vocab.txt, tokenizer_config.json, model.safetensors.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How often the masked-LM head adds its bias: DNABERT's program did it twice.
    #[arg(long, value_enum, default_value = "auto")]
    decoder_bias: DecoderBias,
}

/// Runs the command.
///
/// # Errors
/// Those of reading and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    if args.out.exists() {
        return Err(Error::usage(
            format!("{} exists already", args.out.display()),
            "name a folder that does not exist yet, or remove it",
        ));
    }
    let (checkpoint, mut notes) = checkpoint::import(&args.from, args.decoder_bias)?;
    notes.extend(checkpoint::unfinished(&args.from)?.map(|note| format!("the model is of {note}")));
    write_folder_atomic(&args.out, |folder| {
        let classification = checkpoint.classification.as_ref();
        checkpoint::save_model(folder, &checkpoint.model, &*checkpoint.vocabulary, classification)
    })?;
    let model = &checkpoint.model;
    let family = model.config.architecture.family;
    let architecture = family.class(&model.head);
    let result = json!({
        "from": args.from.to_string_lossy(),
        "out": args.out.to_string_lossy(),
        "family": family,
        "architecture": architecture,
        "parameters": model.parameter_count(),
        "tokens": checkpoint.vocabulary.describe(),
        "k": checkpoint.vocabulary.k_mers().map(Vocabulary::k),
        "notes": notes,
    });
    common.print(&result, |_| {
        let mut text = String::new();
        for note in &notes {
            text += &format!("- {note}\n");
        }
        text + &format!(
            "{}: {}, {} parameters, {}: written to {}",
            family.name(),
            architecture.unwrap_or("site head with a hidden layer"),
            format::count(model.parameter_count() as u64),
            checkpoint.vocabulary.describe(),
            args.out.display()
        )
    })
}
