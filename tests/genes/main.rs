//! Vectors of genes: `helixgrad genes`.

#[path = "../program/mod.rs"]
mod program;
mod train;
