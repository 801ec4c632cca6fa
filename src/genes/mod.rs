//! Vectors of genes from pairs of co-expressed genes (Gene2vec: Du et al., BMC Genomics 20, 82, 2019): pairs from expression, skip-gram with
//! negative sampling, and what the vectors are good for.

#![forbid(unsafe_code)]

pub mod classification;
pub mod classifier;
pub mod classifier_file;
pub mod correlation;
pub mod cosine;
pub mod expression;
pub mod labelled_pairs;
pub mod map;
pub mod names;
pub mod pairs;
pub mod pathway;
pub mod sets;
pub mod vectors;
