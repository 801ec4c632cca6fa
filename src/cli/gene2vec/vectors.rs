//! The vectors that a command is given.

use std::path::Path;

use crate::Result;
use crate::genes::vectors::GeneVectors;

/// Reads a file of vectors, or those in the folder of a training.
///
/// # Errors
/// Those of [`GeneVectors::read`].
pub fn read(path: &Path) -> Result<GeneVectors> {
    if path.is_dir() { GeneVectors::read(&path.join("vectors.bin")) } else { GeneVectors::read(path) }
}
