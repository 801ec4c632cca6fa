//! `helixgrad checkpoint`: what a model's folder holds.

use std::path::PathBuf;

use serde::Serialize;

use super::Common;
use crate::Result;
use crate::model::{Attending, Positions};
use crate::report::format::count;
use crate::train::description::{Description, describe};

/// Options of `helixgrad checkpoint`.
#[derive(clap::Args, Debug, Serialize)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug, Serialize)]
enum Command {
    /// What a model's folder holds: architecture, sizes, names, what is missing, how far its training came.
    Info {
        /// A run's folder, a checkpoint, a Hugging Face directory, or DNABERT's.
        #[arg(value_name = "DIR")]
        model: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// Those of reading.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let Command::Info { model } = &args.command;
    common.print(&describe(model)?, human)
}

fn human(found: &Description) -> String {
    let config = &found.config;
    let mut text = String::new();
    let mut line = |name: &str, value: String| text += &format!("{name:<14}{value}\n");
    line("folder", found.folder.display().to_string());
    line("written by", found.written_by.clone());
    line("family", config.architecture.family.name().into());
    line("architecture", found.architecture.unwrap_or("site head with a hidden layer").into());
    if let Some(classification) = &found.classification {
        line("answers", format!("{} ({})", classification.labels.join(", "), classification.task.problem_type()));
    }
    let positions = match config.architecture.positions {
        Positions::Learned { .. } => format!("{} positions", config.max_position_embeddings),
        Positions::Rotary { .. } => format!("rotary positions up to {}", config.max_position_embeddings),
        Positions::Alibi => "ALiBi in place of positions".into(),
    };
    line(
        "encoder",
        format!(
            "{} layers of {}, {} heads, feed-forward {}, {positions}, LayerNorm eps {:e}",
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.layer_norm_eps
        ),
    );
    match config.architecture.attending {
        Attending::Full => {}
        Attending::BlockSparse { block, random } => {
            line("attention", format!("blocks of {block} tokens, {random} of them at random, in long sequences"));
        }
        Attending::Window { reach, full_every } => {
            line("attention", format!("{reach} tokens to each side; all in one layer of {full_every}, from the first"));
        }
    }
    let tokens = count(config.vocab_size as u64);
    line(
        "vocabulary",
        match found.k.zip(found.base_order) {
            Some((k, order)) => {
                format!("{tokens} tokens, k = {k}, in the order {}", format!("{order:?}").to_uppercase())
            }
            None => format!("{tokens} tokens: {}", found.tokens),
        },
    );
    line("parameters", count(found.parameters as u64));
    let file = found.weights.file_name().unwrap_or_default().to_string_lossy();
    line(
        "weights",
        format!("{file}: {}, {} tensors of {}", found.format, found.tensors, found.element_types.join(", ")),
    );
    if let Some(state) = &found.training {
        let (step, total, tokens) = (count(state.step), count(state.total_steps), count(state.tokens));
        let end = if state.step < state.total_steps { "can be resumed" } else { "finished" };
        line("training", format!("step {step} of {total}, {tokens} tokens, loss {:.4}; {end}", state.loss_last));
    }
    for note in &found.notes {
        line("note", note.clone());
    }
    for (what, names) in [("missing", &found.missing), ("not used", &found.unused)] {
        if !names.is_empty() {
            line(what, names.join(", "));
        }
    }
    text
}
