//! The tape: calling an operation runs it and records how to go back.

#![forbid(unsafe_code)]

mod parameters;
mod profile;
mod tape;

pub use parameters::{Matrix, Parameters, SMALLER_MODEL, Spec, Vector};
pub use profile::{Call, Pass, Profile, Total};
pub use tape::{DeviceBatch, Tape, Tensor};
