//! What a trained model is used for.
//!
//! [`encoder`] and [`embed`] make vectors of sequences; [`bed`] reads the windows that a BED file names.

#![forbid(unsafe_code)]

pub mod bed;
pub mod embed;
pub mod encoder;
pub mod tiling;
pub mod workers;
