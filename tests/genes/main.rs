//! Vectors of genes: pairs from expression, training, evaluation, maps, and the classifier of pairs.

#[path = "../program/mod.rs"]
mod program;

mod classify;
mod correlation;
mod evaluate;
mod map;
mod train;

use std::fs;

use serde_json::Value;

/// A file of `tests/fixtures/genes/`, which `tools/gene2vec_reference.py` wrote.
fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/genes/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What pandas, gensim and Gene2vec's formula make of them.
fn expected() -> Value {
    serde_json::from_str(&fs::read_to_string(fixture("expected.json")).unwrap()).unwrap()
}
