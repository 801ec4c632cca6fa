//! Training loops, evaluation, metrics, baselines and checkpoints.

#![forbid(unsafe_code)]

pub mod baselines;
pub mod bench;
pub mod checkpoint;
pub mod demo;
pub mod description;
pub mod evaluation;
pub mod feed;
pub mod finetune;
pub mod interrupt;
pub mod log;
pub mod metrics;
pub mod pretrain;
pub mod run;
pub mod snapshot;
pub mod step;
