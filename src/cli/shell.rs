//! `helixgrad completions` and `helixgrad man`: what a shell and `man` know of the commands, from the grammar of the command line.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use serde::Serialize;
use serde_json::json;

use super::{Cli, Common, command, may_be_closed};
use crate::output::write_atomic;
use crate::{Error, Result, lossy};

/// Options of `helixgrad completions`.
///
/// Prints what completes commands and options when the tabulator key is pressed. For instance
/// `helixgrad completions bash > ~/.local/share/bash-completion/completions/helixgrad`.
#[derive(clap::Args, Debug)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

/// Options of `helixgrad man`.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Man {
    /// The folder for the pages, helixgrad.1 and one for each command; pages of an earlier version are replaced. With DIR =
    /// ~/.local/share/man/man1 `man helixgrad-embed` finds them.
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "lossy::serialize")]
    out: PathBuf,
}

/// Runs `completions`.
///
/// # Errors
/// [`Error::Io`] if stdout cannot be written.
pub fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), Cli::command().get_name(), &mut script);
    may_be_closed(io::stdout().lock().write_all(&script))
}

/// Runs `man`.
///
/// # Errors
/// [`Error::Io`] if a page cannot be written.
pub fn man(args: &Man, common: &Common) -> Result<()> {
    let mut root = command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    collect(&root, &mut pages)?;
    std::fs::create_dir_all(&args.out).map_err(Error::io("create", &args.out))?;
    for (name, page) in &pages {
        write_atomic(args.out.join(name), page)?;
    }
    let result = json!({ "out": args.out.to_string_lossy(), "pages": pages.len() });
    common.print(&result, |_| format!("{} pages in {}", pages.len(), args.out.display()))
}

/// The page of a command, and of those below it, each with its file's name.
fn collect(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let page = clap_mangen::Man::new(command.clone());
    let (name, mut text) = (page.get_filename(), Vec::new());
    page.render(&mut text).map_err(|error| Error::Failed(format!("the page {name}: {error}")))?;
    pages.push((name, text));
    command.get_subcommands().try_for_each(|command| collect(command, pages))
}
