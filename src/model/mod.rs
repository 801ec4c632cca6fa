//! DNABERT: BERT (Devlin et al., arXiv 1810.04805) over k-mers, as in Ji et al., Bioinformatics 2021.

#![forbid(unsafe_code)]

mod bert;
mod config;
mod freeze;
mod layout;
mod presets;
mod task;

pub use bert::{Model, Recompute, Rows};
pub use config::{Config, Head};
pub use freeze::Freeze;
pub use presets::{PRESETS, Preset, preset};
pub use task::{Classification, Task};
