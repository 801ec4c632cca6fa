//! What a trained model is used for.
//!
//! [`score`] is the engine: windows in, class probabilities out, on all threads ([`workers`]). [`bed`] reads the windows
//! that a BED file names, [`splice`] knows which class is a donor and cuts windows around a boundary; [`scan`] and
//! [`variants`] are uses of them.

#![forbid(unsafe_code)]

pub mod attention;
pub mod bed;
pub mod motifs;
pub mod scan;
pub mod score;
pub mod splice;
pub mod variants;
pub mod workers;
