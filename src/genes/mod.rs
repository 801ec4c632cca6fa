//! Vectors of genes from pairs of genes that go together: Gene2vec (Du et al., BMC Genomics 20, 2019), which is skip-gram with
//! negative sampling (Mikolov et al., 2013, arXiv 1310.4546) where a sentence is a pair.

pub mod blocks;
pub mod corpus;
pub mod pairs;
pub mod sampling;
pub mod skip_gram;
pub mod state;
pub mod train;
pub mod vectors;

pub use vectors::GeneVectors;
