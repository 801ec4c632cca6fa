//! Instruments for performance engineers: throughput of a training step, a profile of it, and the ceilings to judge both by.

#![forbid(unsafe_code)]

pub mod counted;
pub mod issue;
pub mod noise;
pub mod page;
pub mod plan;
pub mod profile;
pub mod published;
pub mod scaling;
pub mod trace;
pub mod train;
pub mod workload;

pub use workload::{Mix, Workload};
