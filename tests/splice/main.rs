//! Annotations, splice sites, datasets: coordinates checked by hand, properties, and the figures of real files.

mod accounts;
mod commands;
mod coordinates;
mod datasets;
mod hostile;
mod inputs;
#[path = "../program/mod.rs"]
mod program;
mod real;
mod stretches;
