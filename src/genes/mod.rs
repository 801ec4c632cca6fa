//! Vectors of genes from pairs of genes that go together: Gene2vec (Du et al., BMC Genomics 20, 2019), which is skip-gram with
//! negative sampling (Mikolov et al., 2013, arXiv 1310.4546) where a sentence is a pair.

pub mod blocks;
pub mod classification;
pub mod classifier;
pub mod classifier_file;
pub mod corpus;
pub mod correlation;
pub mod cosine;
pub mod device_blocks;
pub mod expression;
pub mod labelled_pairs;
pub mod map;
pub mod names;
pub mod pairs;
pub mod pathway;
pub mod sampling;
pub mod sets;
pub mod skip_gram;
pub mod state;
pub mod train;
pub mod vectors;

pub use vectors::GeneVectors;
