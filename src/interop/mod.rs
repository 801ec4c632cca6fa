//! Other programs' files: checkpoints as safetensors or PyTorch pickles, the names in them, `config.json`; arrays out.
//!
//! Nothing here runs code that a file brings along: [`pickle`] knows how tensors are rebuilt and refuses the rest by
//! name. Every count and offset in a file is checked before it is used, and a tensor is only decoded when somebody asks
//! for it in a shape that it has, so no file can make the program allocate more than its own size.

#![forbid(unsafe_code)]

pub mod arrays;
pub mod config;
pub mod family;
pub mod names;
pub mod pickle;
pub mod torch;
pub mod weights;
pub mod zip;

pub use config::ModelConfig;
pub use weights::Weights;
