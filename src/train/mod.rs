//! Training loops, evaluation, metrics, baselines and checkpoints.

#![forbid(unsafe_code)]

pub mod apply;
pub mod baselines;
pub mod benchmark;
pub mod calibration;
pub mod ceilings;
pub mod checkpoint;
pub mod class_weights;
pub mod cross_validation;
pub mod demo;
pub mod description;
pub mod evaluation;
pub mod events;
pub mod feed;
pub mod finetune;
pub mod interrupt;
pub mod log;
pub mod metrics;
pub mod model_image;
pub mod peak;
pub mod peft;
pub mod pretrain;
pub mod run;
pub mod run_state;
pub mod scores;
pub mod snapshot;
mod standardise;
pub mod step;
