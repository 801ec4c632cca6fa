//! Helixgrad trains DNABERT, a BERT over overlapping DNA k-mers, from a genome file to a splice-site predictor.
//!
//! The layers, from the bottom (an arrow in `ARCHITECTURE.md` never points up):
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`genes`] | vectors of genes from pairs: Gene2vec |
//! | [`genome`] | files: FASTA, `.2bit`, GFF3/GTF, splice sites; no tensors |
//! | [`kmer`] | integers: vocabulary, masking, packed batches; no tensors |
//! | [`tokenizer`] | bases to integers: k-mers, blocks of six, byte-pair encoding |
//! | [`device`] | buffers and arithmetic on them |
//! | [`ops`] | one file per operation: the forward launch and the backward rule |
//! | [`autograd`] | the tape |
//! | [`model`] | BERT and its heads |
//! | [`interop`] | other programs' checkpoints: safetensors, PyTorch pickles, `config.json` |
//! | [`optim`] | AdamW, schedules, clipping |
//! | [`parallel`] | several processes that train together |
//! | [`train`] | loops, evaluation, metrics, baselines, checkpoints |
//! | [`mod@bench`] | throughput, profiles, and the ceilings to judge them by |
//! | [`inference`] | what a trained model is used for: embeddings, genome scans, variants, motifs |
//! | [`serve`] | a trained model behind HTTP |
//! | [`report`] | progress, tables, the HTML page |
//! | [`cli`] | one file per command; no logic |

pub mod autograd;
pub mod bench;
pub mod cli;
mod crc32;
pub mod device;
pub mod error;
pub mod genes;
pub mod genome;
mod gunzip;
pub mod inference;
pub mod interop;
pub mod kmer;
mod lossy;
pub mod mersenne_twister;
pub mod model;
pub mod ops;
pub mod optim;
pub mod output;
pub mod parallel;
pub mod philox;
pub mod report;
pub mod serve;
mod small_file;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
