//! Files of genomes and annotations. No tensors here.
//!
//! Coordinates inside the program are 0-based and half-open; each reader and writer converts at its own edge.

pub mod alias;
pub mod annotation;
pub mod checksum;
pub mod composition;
pub mod fasta;
mod mapped;
pub mod pack;
pub mod region;
mod source;
pub mod splice;
pub mod twobit;
