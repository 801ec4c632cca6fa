//! JSON of our own: vectors, predictions and variants, with the names of the commands.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::engine::{Answer, Work};
use super::http::{Answered, Shared, body, json_of, parse};
use super::refusal::Refusal;
use crate::inference::embed::{EmbedOptions, Unit};
use crate::inference::variants::vcf;
use crate::kmer::labelled::LabelledWindow;
use crate::kmer::sequences::Named;
use crate::model::Task;
use crate::train::apply::{largest, likely};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Embeddings {
    #[serde(alias = "input")]
    sequences: Vec<Value>,
    #[serde(default)]
    pool: Pool,
    #[serde(default = "last")]
    layer: i64,
    /// Other programs send it; it may be ours or absent.
    model: Option<String>,
}

fn last() -> i64 {
    -1
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Pool {
    #[default]
    Mean,
    Cls,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Predict {
    #[serde(alias = "input")]
    sequences: Vec<Value>,
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variants {
    variants: Vec<Value>,
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    #[serde(alias = "name")]
    id: Option<String>,
    #[serde(alias = "seq")]
    sequence: String,
    second: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    id: Option<String>,
    #[serde(alias = "chr", alias = "chromosome")]
    chrom: String,
    #[serde(alias = "position")]
    pos: u32,
    #[serde(rename = "ref", alias = "reference")]
    reference: String,
    #[serde(alias = "alternate")]
    alt: String,
}

/// A sequence of a request, or two.
struct Sequence {
    id: Option<String>,
    first: Named,
    second: Option<Vec<u8>>,
}

/// `POST /v1/embeddings`.
pub(super) async fn embeddings(State(shared): State<Arc<Shared>>, request: Request) -> Answered {
    let asked: Embeddings = parse(&body(&shared, request).await?)?;
    check_name(&shared, asked.model.as_deref())?;
    let sequences = sequences(&shared, &asked.sequences)?;
    if let Some(index) = sequences.iter().position(|sequence| sequence.second.is_some()) {
        return Err(Refusal::unprocessable(format!("sequences[{index}] is a pair"), "embed its sequences one by one"));
    }
    let ids: Vec<Option<String>> = sequences.iter().map(|sequence| sequence.id.clone()).collect();
    let unit = match asked.pool {
        Pool::Mean => Unit::Mean,
        Pool::Cls => Unit::Cls,
    };
    let vectors =
        embed(&shared, sequences.into_iter().map(|sequence| sequence.first).collect(), unit, asked.layer).await?;
    let row = |(id, vector): (Option<String>, Vec<f32>)| {
        let vector: Vec<f64> = vector.into_iter().map(f64::from).collect();
        with_id(id, "embedding", json!(vector))
    };
    let rows: Vec<Value> = ids.into_iter().zip(vectors).map(row).collect();
    let result = json!({ "model": shared.name, "pool": asked.pool, "layer": asked.layer, "embeddings": rows });
    Ok(json_of(StatusCode::OK, &result))
}

/// A vector for each sequence.
pub(super) async fn embed(
    shared: &Shared,
    sequences: Vec<Named>,
    unit: Unit,
    layer: i64,
) -> Result<Vec<Vec<f32>>, Refusal> {
    let encoder = shared.engine.encoder();
    let options = EmbedOptions::new(encoder, unit, layer, None, None).map_err(Refusal::of)?;
    let shortest = encoder.vocabulary().shortest();
    if let Some(index) = sequences.iter().position(|sequence| sequence.bases.len() < shortest) {
        let found = format!("sequences[{index}]: {} bases", sequences[index].bases.len());
        return Err(Refusal::unprocessable(found, format!("this model reads {shortest} bases or more")));
    }
    match shared.queue.ask(Work::Embed { sequences, options }).await? {
        Answer::Vectors(vectors) => Ok(vectors),
        _ => Err(Refusal::broken()),
    }
}

/// `POST /v1/predict`.
pub(super) async fn predict(State(shared): State<Arc<Shared>>, request: Request) -> Answered {
    let asked: Predict = parse(&body(&shared, request).await?)?;
    check_name(&shared, asked.model.as_deref())?;
    let sequences = sequences(&shared, &asked.sequences)?;
    let ids: Vec<Option<String>> = sequences.iter().map(|sequence| sequence.id.clone()).collect();
    let windows = sequences.into_iter().map(|sequence| window(sequence.first, sequence.second)).collect();
    let answers = classify(&shared, windows).await?;
    let Some(scorer) = shared.engine.scorer() else { return Err(Refusal::broken()) };
    let (labels, task) = (scorer.labels(), scorer.task());
    let row = |(id, answers): (Option<String>, Vec<f64>)| match task {
        Task::SingleLabel => {
            with_id(id, "prediction", json!(labels[largest(&answers)])).and("probabilities", json!(answers))
        }
        Task::MultiLabel => {
            with_id(id, "prediction", json!(likely(labels, &answers))).and("probabilities", json!(answers))
        }
        Task::Regression => with_id(id, "values", json!(answers)),
    };
    let rows: Vec<Value> = ids.into_iter().zip(answers).map(row).collect();
    Ok(json_of(StatusCode::OK, &json!({ "model": shared.name, "labels": labels, "predictions": rows })))
}

pub(super) fn window(first: Named, second: Option<Vec<u8>>) -> LabelledWindow {
    LabelledWindow { bases: first.bases, second, ..LabelledWindow::default() }
}

/// The answers of a classifier.
pub(super) async fn classify(shared: &Shared, windows: Vec<LabelledWindow>) -> Result<Vec<Vec<f64>>, Refusal> {
    let Some(scorer) = shared.engine.scorer() else {
        let remedy = "ask it for embeddings, or serve a fine-tuned model (helixgrad finetune)";
        return Err(Refusal::unprocessable("the model has no classes", remedy));
    };
    let limits = scorer.limits();
    let mut tokens = 0;
    for (index, window) in windows.iter().enumerate() {
        let at = |(found, remedy)| Refusal::unprocessable(format!("sequences[{index}]: {found}"), remedy);
        match (&window.second, scorer.reads_pairs()) {
            (Some(second), true) => limits.check(&window.bases, Some(second)),
            (None, false) => scorer.check(&window.bases),
            (None, true) => {
                Err(("a single sequence".into(), "the model reads pairs: give the other one as `second`".into()))
            }
            (Some(_), false) => Err(("a pair".into(), "the model reads single sequences: leave out `second`".into())),
        }
        .map_err(at)?;
        let frame = scorer.vocabulary().specials().frame();
        tokens +=
            limits.tokens(&window.bases) + frame + window.second.as_ref().map_or(0, |second| limits.tokens(second) + 1);
    }
    match shared.queue.ask(Work::Predict { windows, tokens: tokens as u64 }).await? {
        Answer::Classes(answers) => Ok(answers),
        _ => Err(Refusal::broken()),
    }
}

/// `POST /v1/variants`.
pub(super) async fn variants(State(shared): State<Arc<Shared>>, request: Request) -> Answered {
    let asked: Variants = parse(&body(&shared, request).await?)?;
    check_name(&shared, asked.model.as_deref())?;
    if shared.engine.sites().is_none() {
        let remedy = "start the server with --genome, and with a model whose classes are donor and acceptor";
        return Err(Refusal::unprocessable("the server has no genome and no model of splice sites", remedy));
    }
    shared.check_count(asked.variants.len(), "variants")?;
    let mut ids = Vec::with_capacity(asked.variants.len());
    let mut lines = Vec::with_capacity(asked.variants.len());
    for (index, variant) in asked.variants.into_iter().enumerate() {
        let (id, line) = record(variant)
            .map_err(|(found, remedy)| Refusal::unprocessable(format!("variants[{index}]: {found}"), remedy))?;
        ids.push(id);
        lines.push(line);
    }
    let Answer::Variants(records) = shared.queue.ask(Work::Variants { lines }).await? else {
        return Err(Refusal::broken());
    };
    let mut rows = Vec::with_capacity(records.len());
    for (index, (record, id)) in records.into_iter().zip(ids).enumerate() {
        let alleles = record.map_err(|(found, _)| {
            let remedy = "give variants as the genome of the server has them; positions count from 1";
            Refusal::unprocessable(format!("variants[{index}]: {found}"), remedy)
        })?;
        let alleles: Vec<Value> = alleles
            .into_iter()
            .map(|(allele, changes)| match changes {
                Ok(changes) => json!({ "allele": allele, "effects": changes }),
                Err(reason) => json!({ "allele": allele, "skipped": reason }),
            })
            .collect();
        rows.push(with_id(id, "alleles", json!(alleles)));
    }
    Ok(json_of(StatusCode::OK, &json!({ "model": shared.name, "variants": rows })))
}

/// The line of a VCF file that a variant is: an object, or a text.
fn record(variant: Value) -> Result<(Option<String>, Vec<u8>), (String, String)> {
    if let Value::String(text) = variant {
        return Ok((None, vcf::line_of_text(&text)?));
    }
    let Variant { id, chrom, pos, reference, alt } = serde_json::from_value(variant).map_err(|error| {
        let remedy = "give {\"chrom\": \"X\", \"pos\": 100, \"ref\": \"A\", \"alt\": \"G\"}, or the text X-100-A-G";
        (error.to_string(), remedy.to_owned())
    })?;
    Ok((id, vcf::line_of(&chrom, pos, &reference, &alt)?))
}

/// The sequences of a request: texts, or objects with an id each.
fn sequences(shared: &Shared, items: &[Value]) -> Result<Vec<Sequence>, Refusal> {
    shared.check_count(items.len(), "sequences")?;
    let each = items.iter().enumerate().map(|(index, item)| {
        let wrong =
            |(found, remedy): (String, String)| Refusal::unprocessable(format!("sequences[{index}]: {found}"), remedy);
        let item = match item {
            Value::String(text) => Item { id: None, sequence: text.clone(), second: None },
            other => Item::deserialize(other).map_err(|error| {
                wrong((error.to_string(), "give a text of bases, or {\"id\": \"a\", \"sequence\": \"ACGT\"}".into()))
            })?,
        };
        let first = named(shared, &item.sequence).map_err(wrong)?;
        let second = item.second.map(|second| named(shared, &second)).transpose().map_err(wrong)?;
        Ok(Sequence { id: item.id, first, second: second.map(|second| second.bases) })
    });
    each.collect()
}

/// Bases, not too many of them.
pub(super) fn named(shared: &Shared, text: &str) -> Result<Named, (String, String)> {
    let most = shared.limits.bases;
    let named = Named::parse(String::new(), text)?;
    if named.bases.len() > most {
        let remedy = format!("give at most {most}, or cut it (serve --max-bases takes more)");
        return Err((format!("{} bases", named.bases.len()), remedy));
    }
    Ok(named)
}

/// The model that is asked for is the one that is served.
pub(super) fn check_name(shared: &Shared, name: Option<&str>) -> Result<(), Refusal> {
    match name {
        Some(name) if name != shared.name => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("no model {:?}", excerpt(name)),
            format!("ask for {:?}, the one that is served", shared.name),
        )),
        _ => Ok(()),
    }
}

/// The beginning of a text, for a message.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => text[..at].to_owned() + "...",
        None => text.to_owned(),
    }
}

/// An object with a field, behind the id where the request gave one.
fn with_id(id: Option<String>, field: &str, value: Value) -> Value {
    match id {
        Some(id) => json!({ "id": id, field: value }),
        None => json!({ field: value }),
    }
}

/// Another field of an object.
trait And {
    fn and(self, field: &str, value: Value) -> Value;
}

impl And for Value {
    fn and(mut self, field: &str, value: Value) -> Value {
        self[field] = value;
        self
    }
}
