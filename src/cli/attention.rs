//! `helixgrad attention`: what a model looks at.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::Common;
use super::predict::Windows;
use crate::inference::attention::{Heads, Observer, Profile, Query, Selection, Unit};
use crate::interop::arrays::{ArrayWriter, Row};
use crate::kmer::sequences::Named;
use crate::report::Progress;
use crate::train::checkpoint;
use crate::{Error, Result};

/// Options of `helixgrad attention`.
///
/// The attention from one token of each sequence to its k-mers or bases: one row each, one column a layer and head. A table
/// has the name, the position (1-based) and the k-mer or base before them.
#[derive(clap::Args, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The model: a run's folder or a checkpoint; a classifier or not.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    #[serde(flatten)]
    windows: Windows,
    /// The token that looks: `[CLS]`, or the k-mer at the site in the middle.
    #[arg(long, value_enum, default_value_t = Query::Cls)]
    from: Query,
    /// A layer from 1, `last` or `all`.
    #[arg(long, default_value = "last", value_name = "LAYER")]
    layer: String,
    /// A head from 1, `mean` of all, or `all` one by one.
    #[arg(long, default_value = "mean", value_name = "HEAD")]
    head: String,
    /// Attention to k-mers, or to bases (the mean of the k-mers over each).
    #[arg(long, value_enum, default_value_t = Unit::Token)]
    per: Unit,
    /// The file to write: .tsv, .npy or .safetensors.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Those of reading, computing and writing.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let (device, dtype) = common.device()?;
    let checkpoint = checkpoint::load(&args.model)?;
    let layers = layers(&args.layer, checkpoint.model.config.num_hidden_layers)?;
    let selection = Selection { query: args.from, layers, heads: heads(&args.head)?, unit: args.per };
    let observer = Observer::new(checkpoint, selection, device, dtype)?;
    let columns = observer.selection().columns(observer.heads());
    let mut writer = ArrayWriter::create(&args.out, "attention", columns.clone())?;
    let mut progress = Progress::new("attention", 0, common.quiet).unit("sequences");
    let (mut count, mut uracils) = (0, 0);
    args.windows.each(&mut |path, windows| {
        let mut windows = windows.peekable();
        while windows.peek().is_some() {
            let round = next_round(&observer, path, &mut windows)?;
            for (window, profile) in round.iter().zip(observer.profiles(&round)?) {
                write(&mut writer, window, &profile)?;
            }
            count += round.len() as u64;
            uracils += round.iter().map(|window| window.uracils).sum::<u64>();
            progress.update(count, count, "");
        }
        Ok(())
    })?;
    progress.finish("");
    let rows = writer.commit()?;
    let out = args.out.to_string_lossy();
    let result = json!({ "sequences": count, "uracils": uracils, "rows": rows, "columns": columns, "out": out });
    common.print(&result, |_| format!("{count} sequences, written to {}", args.out.display()))
}

/// Sequences that are held together.
fn next_round(
    observer: &Observer,
    path: &Path,
    windows: &mut dyn Iterator<Item = Result<Named>>,
) -> Result<Vec<Named>> {
    /// Bases in them.
    const BASES: usize = 1 << 18;
    let (mut round, mut bases) = (Vec::new(), 0);
    while bases < BASES
        && let Some(window) = windows.next()
    {
        let window = window?;
        check(observer, path, &window)?;
        bases += window.bases.len();
        round.push(window);
    }
    Ok(round)
}

/// Refuses sequences that are too short or too long for the model, by their names.
pub(super) fn check(observer: &Observer, path: &Path, window: &Named) -> Result<()> {
    let length = window.bases.len();
    let (least, most) = observer.lengths();
    if length >= least && most.is_none_or(|most| length <= most) {
        let limits = observer.limits();
        // K-mers are counted by their bases, others not before they are made.
        if limits.tokenizer.k_mers().is_none() {
            let checked = limits.check(&window.bases, None);
            checked.map_err(|(found, remedy)| Error::input(path, window.name.as_str(), found, remedy))?;
        }
        return Ok(());
    }
    let most = most.map_or(String::new(), |most| format!(", and at most {most}"));
    let remedy = format!("this model reads sequences of at least {least} bases{most}");
    Err(Error::input(path, window.name.as_str(), format!("{length} bases"), remedy))
}

/// The layers, from 0, that an option means.
pub(super) fn layers(text: &str, count: usize) -> Result<Vec<usize>> {
    match text {
        "last" => Ok(vec![count - 1]),
        "all" => Ok((0..count).collect()),
        _ => number("--layer", text).map(|layer| vec![layer]),
    }
}

/// The heads that an option means.
pub(super) fn heads(text: &str) -> Result<Heads> {
    match text {
        "mean" => Ok(Heads::Mean),
        "all" => Ok(Heads::Each),
        _ => number("--head", text).map(Heads::One),
    }
}

/// A number from 1, as one from 0.
fn number(option: &str, text: &str) -> Result<usize> {
    let number = text.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    number.ok_or_else(|| {
        Error::usage(format!("{option} {text}"), "give a number from 1, or one of the words that --help names")
    })
}

fn write(writer: &mut ArrayWriter, window: &Named, profile: &Profile) -> Result<()> {
    writer.begin(&window.name)?;
    for (unit, bases) in profile.units.iter().enumerate() {
        let (start, text) = (bases.start, String::from_utf8_lossy(&window.bases[bases.clone()]));
        let values: Vec<f32> = profile.columns.iter().map(|column| column[unit]).collect();
        writer.row(&Row { name: &window.name, place: Some((start + 1, &text)) }, &values)?;
    }
    Ok(())
}
