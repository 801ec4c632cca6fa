//! The vectors that a command is given.

use std::path::Path;

use crate::genes::vectors::GeneVectors;
use crate::{Error, Result};

/// Reads a file of vectors, or those in the folder of a training.
///
/// # Errors
/// Those of [`GeneVectors::read`]; [`Error::Input`] for a folder without vectors.
pub fn read(path: &Path) -> Result<GeneVectors> {
    if !path.is_dir() {
        return GeneVectors::read(path);
    }
    let inside = path.join("vectors.bin");
    if !inside.is_file() {
        let remedy = "name the folder of a training that is finished, or a file of vectors";
        return Err(Error::input(path, "", "a folder without vectors.bin", remedy));
    }
    GeneVectors::read(&inside)
}
