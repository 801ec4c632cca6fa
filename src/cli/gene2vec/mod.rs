//! `helixgrad genes ...`: vectors of genes from pairs that go together, and what they are used for.

mod train;

use clap::Subcommand;
use serde::Serialize;

use super::Common;
use crate::Result;

/// Options of `helixgrad genes`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    /// Train vectors on pairs of genes: Gene2vec's recipe, skip-gram with negative sampling.
    Train(train::Args),
}

/// Runs the command.
///
/// # Errors
/// Those of the files it is given, of computing and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    match &args.action {
        Action::Train(args) => train::run(args, common),
    }
}
