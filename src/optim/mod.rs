//! AdamW, learning-rate schedules and gradient clipping.

#![forbid(unsafe_code)]

mod adamw;
mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use schedule::{Decay, Schedule, Warmup};
