//! What Python hands over: lists of texts, or a file's path.

use std::path::{Path, PathBuf};

use helixgrad::Error;
use helixgrad::inference::variants::vcf;
use helixgrad::kmer::labelled::LabelledWindow;
use helixgrad::kmer::sequences::Named;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::exception;

/// Sequences, in memory or in a file.
pub enum Source {
    /// One by one; pairs have a second one.
    Listed(Vec<(Named, Option<Vec<u8>>)>),
    /// A FASTA file.
    Fasta(PathBuf),
}

impl Source {
    /// A text or a path names a FASTA file; everything else that can be gone through has sequences, or pairs of them.
    pub fn of(sequences: &Bound<'_, PyAny>, pairs: bool) -> PyResult<Self> {
        if sequences.is_instance_of::<PyString>() || sequences.hasattr("__fspath__")? {
            if pairs {
                return Err(PyTypeError::new_err(
                    "a file, where the model reads pairs: give a list of (first, second)",
                ));
            }
            return Ok(Self::Fasta(sequences.extract()?));
        }
        if sequences.is_instance_of::<PyBytes>() {
            return Err(PyTypeError::new_err("bytes: give a list of texts, or a path"));
        }
        let mut listed = Vec::new();
        for (index, item) in sequences.try_iter()?.enumerate() {
            let item = item?;
            let named = |text: &str| {
                let remedy = |(found, remedy): (String, String)| at(index, found, remedy);
                Named::parse(format!("sequences[{index}]"), text).map_err(remedy)
            };
            listed.push(match pairs {
                false => {
                    (named(&item.cast::<PyString>().map_err(|_| strange(index, &item, "a text"))?.to_cow()?)?, None)
                }
                true => {
                    let pair = item.extract::<(String, String)>();
                    let (first, second) = pair.map_err(|_| strange(index, &item, "a pair of texts"))?;
                    (named(&first)?, Some(named(&second)?.bases))
                }
            });
        }
        Ok(Self::Listed(listed))
    }

    /// What messages call it.
    pub fn path(&self) -> &Path {
        match self {
            Self::Listed(_) => Path::new("sequences"),
            Self::Fasta(path) => path,
        }
    }
}

/// The lines of a VCF file that variants are.
pub fn variants(variants: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u8>>> {
    if variants.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("a text: give a list of variants; `helixgrad variants` reads VCF files"));
    }
    let mut lines = Vec::new();
    for (index, item) in variants.try_iter()?.enumerate() {
        let item = item?;
        let line = match item.cast::<PyString>() {
            Ok(text) => vcf::line_of_text(&text.to_cow()?),
            Err(_) => {
                let parts = item.extract::<(String, u32, String, String)>();
                let (sequence, position, reference, alternates) =
                    parts.map_err(|_| strange(index, &item, "\"X-100-A-G\" or (\"X\", 100, \"A\", \"G\")"))?;
                vcf::line_of(&sequence, position, &reference, &alternates)
            }
        };
        lines.push(line.map_err(|(found, remedy)| at(index, found, remedy))?);
    }
    Ok(lines)
}

/// What is wrong with an item of a list.
pub fn at(index: usize, found: String, remedy: String) -> PyErr {
    exception(Error::usage(format!("item {index}: {found}"), remedy))
}

fn strange(index: usize, item: &Bound<'_, PyAny>, wanted: &str) -> PyErr {
    let kind = item.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("item {index} is of type {kind}: give {wanted}"))
}

/// A window, or a pair.
pub fn window((first, second): (Named, Option<Vec<u8>>)) -> LabelledWindow {
    LabelledWindow { bases: first.bases, second, ..LabelledWindow::default() }
}
