//! What a trained model is used for: predictions, scans, variants, attention, motifs. The models are small and untrained
//! with large weights, so that their probabilities vary; what is expected comes from a plain scorer written a second time.

mod attention;
mod bcf;
#[cfg(target_os = "linux")]
mod hostile;
mod placements;
mod predict;
#[path = "../program/mod.rs"]
mod program;
mod scan;
mod shards;
mod stretches;
mod support;
mod variants;
