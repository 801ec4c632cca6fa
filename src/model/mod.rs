//! DNABERT: BERT (Devlin et al., arXiv 1810.04805) over k-mers, as in Ji et al., Bioinformatics 2021; and its relatives, by the choices in
//! `architecture.rs`.

#![forbid(unsafe_code)]

mod architecture;
mod bert;
mod config;
mod freeze;
mod layout;
mod lora;
mod presets;
mod task;

pub use architecture::{Architecture, Attending, EmbeddingEnd, FAMILIES, Family, FeedForward, NormPlace, Positions};
pub use bert::{Model, Recompute, Rows};
pub use config::{Config, Head};
pub use freeze::{Freeze, Trained};
pub use lora::{Adapter, Lora, Target};
pub use presets::{PRESETS, Preset, Tokens, preset};
pub use task::{Classification, Task};
