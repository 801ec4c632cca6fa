//! Integers made of bases: vocabulary, masking, packed batches. No tensors here.
//!
//! A batch is a pure function of its [`key::BatchKey`]: [`corpus`] (or [`text`]) draws the sequences, [`masking`]
//! hides tokens. Only integers decide, and every draw has its own Philox counter, so another device can make the
//! same batch from the same key.

pub mod batch;
pub mod classes;
pub mod corpus;
mod fill;
mod header;
pub mod hiding;
pub mod key;
pub mod labelled;
pub mod lines;
pub mod masking;
pub mod regions;
pub(crate) mod row;
pub mod sequences;
pub mod table;
pub mod text;
pub mod token_corpus;
pub mod vocabulary;
