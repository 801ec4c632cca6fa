//! What a trained model is used for.
//!
//! [`encoder`] and [`embed`] make vectors of sequences, [`score`] class probabilities of windows, on all threads
//! ([`workers`]). [`bed`] reads the windows that a BED file names, [`splice`] knows which class is a donor and cuts windows
//! around a boundary; [`scan`] and [`variants`] are uses of it. [`attention`] is what a model looks at, [`motifs`] what
//! comes of that. [`shard`] cuts work into parts, [`merge`] puts what came of them together.

#![forbid(unsafe_code)]

pub mod attention;
pub mod batches;
pub mod bed;
pub mod embed;
pub mod encoder;
pub mod journal;
pub mod merge;
pub mod motifs;
mod parts;
pub mod scan;
pub mod score;
pub mod shard;
pub mod splice;
pub mod tiling;
pub mod variants;
pub mod workers;
