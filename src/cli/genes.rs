//! The genes of an annotation, for every command that takes one.

use std::path::Path;

use serde::Serialize;

use crate::Result;
use crate::genome::alias::Aliases;
use crate::genome::annotation::{Annotation, Fates, Oddities};
use crate::genome::splice::GeneModel;
use crate::genome::twobit::Genome;

/// A result, with what became of the annotation that it was made with.
#[derive(Serialize)]
pub struct With<T, A = Account> {
    #[serde(flatten)]
    pub result: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation: Option<A>,
}

/// What became of an annotation's transcripts.
#[derive(Clone, Serialize)]
pub struct Account {
    transcripts: Fates,
    oddities: Oddities,
}

impl Account {
    pub fn of(model: &GeneModel) -> Self {
        Self { transcripts: model.fates.clone(), oddities: model.oddities }
    }
}

/// Reads an annotation and places it; what was unusual in it goes to the log.
///
/// # Errors
/// Those of [`Annotation::open`] and [`GeneModel::new`].
pub fn open(path: &Path, genome: &Genome, aliases: &Aliases) -> Result<GeneModel> {
    let annotation = Annotation::open(path)?;
    let oddities = annotation.oddities.notes();
    let model = GeneModel::new(annotation, genome, aliases)?;
    oddities.iter().for_each(|note| tracing::warn!("{}: {note}", path.display()));
    let notes = model.fates.notes();
    if !notes.is_empty() {
        tracing::warn!("{}: transcripts left out: {}", path.display(), notes.join(", "));
    }
    if !model.unplaced.is_empty() {
        const SHOWN: usize = 5;
        let names: Vec<_> = model.unplaced.keys().take(SHOWN).map(String::as_str).collect();
        let more = if model.unplaced.len() > SHOWN { ", ..." } else { "" };
        tracing::warn!("{} sequences are not in the genome: {}{more}", model.unplaced.len(), names.join(", "));
    }
    Ok(model)
}
