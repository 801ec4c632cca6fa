//! `import helixgrad`: trained models from Python. `helixgrad.pyi` has the types, the docstrings here say the rest.

#![forbid(unsafe_code)]

mod compute;
mod input;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use helixgrad::device::{DType, Device};
use helixgrad::genome::alias::Aliases;
use helixgrad::genome::annotation::Annotation;
use helixgrad::genome::splice::GeneModel;
use helixgrad::genome::twobit::Genome;
use helixgrad::inference::embed::{EmbedOptions, Unit};
use helixgrad::inference::encoder::Encoder;
use helixgrad::inference::scan::Positions;
use helixgrad::inference::score::Scorer;
use helixgrad::inference::splice::SpliceScorer;
use helixgrad::inference::variants::Options;
use helixgrad::inference::variants::genes::Genes;
use helixgrad::model::Task;
use helixgrad::serve::engine::{Engine, Sites};
use helixgrad::train::checkpoint;
use helixgrad::{Error, Result};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// DNABERT and its relatives, trained by Helixgrad or Hugging Face: vectors, predictions and variants.
#[pymodule(name = "helixgrad")]
mod module {
    #[pymodule_export]
    use super::{Model, load};

    #[pymodule_init]
    fn init(module: &super::Bound<'_, super::PyModule>) -> super::PyResult<()> {
        super::PyModuleMethods::add(module, "__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// The exception that an error is in Python.
fn exception(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Usage { .. } | Error::Input { .. } => PyValueError::new_err(text),
        Error::Io { .. } => PyOSError::new_err(text),
        Error::OutOfMemory(_) => PyMemoryError::new_err(text),
        Error::Failed(_) | Error::Interrupted(_) => PyRuntimeError::new_err(text),
    }
}

/// A model in memory; `load` makes it. Threads may share it.
#[pyclass(frozen, module = "helixgrad")]
struct Model {
    engine: Engine,
    both_strands: bool,
}

/// Reads a model: a run's folder, a checkpoint, a Hugging Face directory.
///
/// `genome`, a .2bit file, is for `variants`; with an `annotation` (GFF3 or GTF) they are scored for each gene, on its strand; `distance` is how many bases
/// from a variant sites are compared, `window` the bases around a site for a model without a window of its own. With `rc` answers are means of those to a
/// sequence and to its reverse complement. `threads` compute (default: as many as there are cores).
#[pyfunction]
#[pyo3(signature = (path, *, genome=None, annotation=None, distance=50, window=None, rc=false, threads=None))]
#[allow(clippy::too_many_arguments, reason = "keywords in Python")]
fn load(
    py: Python<'_>,
    path: PathBuf,
    genome: Option<PathBuf>,
    annotation: Option<PathBuf>,
    distance: u32,
    window: Option<u32>,
    rc: bool,
    threads: Option<usize>,
) -> PyResult<Model> {
    let open = move |_: &AtomicBool| -> Result<Model> {
        if let Some(threads) = threads.filter(|threads| !(1..=1024).contains(threads)) {
            return Err(Error::usage(format!("threads={threads}"), "give 1 to 1024, or None"));
        }
        if annotation.is_some() && genome.is_none() {
            return Err(Error::usage("annotation without genome", "give the genome, a .2bit file, too"));
        }
        if distance > 10_000 {
            return Err(Error::usage(format!("distance={distance}"), "give at most 10000 bases"));
        }
        // Its only thread asks how many there are, and is gone.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build();
        let pool = pool.map_err(|error| Error::Failed(format!("cannot start threads: {error}")))?;
        pool.install(|| {
            let checkpoint = checkpoint::load(&path)?;
            if checkpoint.classification.is_none() {
                if genome.is_some() {
                    return Err(Error::usage("a genome with a model without classes", "leave it out"));
                }
                let encoder = Encoder::new(checkpoint, Device::Cpu, DType::F32)?;
                return Ok(Model { engine: Engine::of_encoder(encoder, rc), both_strands: rc });
            }
            let scorer = Scorer::new(checkpoint, Device::Cpu, DType::F32)?;
            let scorer = if rc { scorer.on_both_strands()? } else { scorer };
            let Some(genome) = genome else {
                return Ok(Model { engine: Engine::of_scorer(scorer, rc)?, both_strands: rc });
            };
            let scorer = SpliceScorer::new(scorer, window)?;
            let (genome, aliases) = (Genome::open(&genome)?, Aliases::default());
            let gene_model =
                annotation.map(|path| GeneModel::new(Annotation::open(&path)?, &genome, &aliases)).transpose()?;
            let genes = gene_model.as_ref().map(Genes::new);
            let options = Options {
                distance,
                most_bases: 100,
                positions: Positions::GtAg,
                skip_mismatches: false,
                fingerprint: Default::default(),
                resume: false,
                config: None,
                quiet: true,
            };
            let engine = Engine::of_sites(Sites { scorer, genome, aliases, genes, options })?;
            Ok(Model { engine, both_strands: false })
        })
    };
    compute::interruptible(py, open)
}

impl Model {
    fn scorer(&self) -> PyResult<&Scorer> {
        let none =
            || PyValueError::new_err("the model has no classes\n  what to do: embed, or load a fine-tuned model");
        self.engine.scorer().ok_or_else(none)
    }
}

#[pymethods]
impl Model {
    /// Names of the classes, or of the numbers of a regression; none of a model without a classifier.
    #[getter]
    fn labels(&self) -> Vec<String> {
        self.engine.scorer().map(|scorer| scorer.labels().to_vec()).unwrap_or_default()
    }

    /// What `predict` answers with: "single-label", "multi-label" or "regression"; None of a model without a classifier.
    #[getter]
    fn task(&self) -> Option<&'static str> {
        self.engine.scorer().map(|scorer| match scorer.task() {
            Task::SingleLabel => "single-label",
            Task::MultiLabel => "multi-label",
            Task::Regression => "regression",
        })
    }

    /// Width of a vector.
    #[getter]
    fn columns(&self) -> usize {
        self.engine.encoder().columns()
    }

    /// Layers of the encoder.
    #[getter]
    fn layers(&self) -> usize {
        self.engine.encoder().model().config.num_hidden_layers
    }

    fn __repr__(&self) -> String {
        let labels = self.labels();
        let classes = if labels.is_empty() { String::new() } else { format!(", labels={labels:?}") };
        format!("<helixgrad.Model columns={}, layers={}{classes}>", self.columns(), self.layers())
    }

    /// A vector for each sequence: float32, `[sequences, columns]`.
    ///
    /// `sequences` is a list of texts, or a FASTA file's path. `pool` is "mean", over a sequence's tokens, or "cls"; `layer` is 0 for the embeddings'
    /// output, 1 for the first layer's, -1 for the last one's. Sequences that are longer than the model reads are cut into windows that overlap.
    #[pyo3(signature = (sequences, *, pool="mean", layer=-1))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        sequences: &Bound<'py, PyAny>,
        pool: &str,
        layer: i64,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let unit = match pool {
            "mean" => Unit::Mean,
            "cls" => Unit::Cls,
            other => {
                return Err(PyValueError::new_err(format!("pool={other:?}\n  what to do: give \"mean\" or \"cls\"")));
            }
        };
        let encoder = self.engine.encoder();
        let options = EmbedOptions::new(encoder, unit, layer, None, None).map_err(exception)?;
        let source = input::Source::of(sequences, false)?;
        let both_strands = self.both_strands;
        let values = compute::interruptible(py, |stop| compute::embed(encoder, source, &options, both_strands, stop))?;
        rows(py, values, encoder.columns())
    }

    /// Class probabilities, or numbers, of each sequence: float64, `[sequences, labels]`.
    ///
    /// `sequences` is a list of texts, of pairs of texts for a model of pairs, or a FASTA file's path.
    fn predict<'py>(&self, py: Python<'py>, sequences: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let scorer = self.scorer()?;
        let source = input::Source::of(sequences, scorer.reads_pairs())?;
        let values = compute::interruptible(py, |stop| compute::predict(scorer, source, stop))?;
        rows(py, values, scorer.labels().len())
    }

    /// What variants do to splice sites.
    ///
    /// `variants` is a list of texts, "X-100-A-G", or of tuples ("X", 100, "A", "G"); positions count from 1. Returns a dict, a row for each allele and strand
    /// (or gene, with an annotation): `variant`, its number in the list; `allele`; `gene`; `strand`; `scores`, `[rows, 4]`: the largest acceptor gain, acceptor
    /// loss, donor gain and donor loss in probability; `offsets`, `[rows, 4]`: where, relative to the position, nan where nothing changes. `skipped` lists
    /// alleles without scores: variant, allele, reason.
    fn variants<'py>(&self, py: Python<'py>, variants: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let Some(sites) = self.engine.sites() else {
            let text =
                "a model without a genome\n  what to do: load a model of splice sites with genome=, a .2bit file";
            return Err(PyValueError::new_err(text));
        };
        let lines = input::variants(variants)?;
        let found = compute::interruptible(py, |stop| compute::variants(sites, &lines, stop))?;
        let (mut numbers, mut alleles, mut genes, mut strands) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut scores, mut offsets, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for (number, of_variant) in found.into_iter().enumerate() {
            for (allele, changes) in of_variant {
                let changes = match changes {
                    Ok(changes) => changes,
                    Err(reason) => {
                        skipped.push((number, allele, reason));
                        continue;
                    }
                };
                for change in changes {
                    numbers.push(number as i64);
                    alleles.push(allele.clone());
                    genes.push(change.gene);
                    strands.push(change.strand);
                    for kind in ["acceptor_gain", "acceptor_loss", "donor_gain", "donor_loss"] {
                        let largest = change.by_kind[kind];
                        scores.push(largest.score);
                        offsets.push(largest.offset.map_or(f64::NAN, |offset| offset as f64));
                    }
                }
            }
        }
        let result = PyDict::new(py);
        result.set_item("variant", PyArray1::from_vec(py, numbers))?;
        result.set_item("allele", alleles)?;
        result.set_item("gene", genes)?;
        result.set_item("strand", strands)?;
        result.set_item("scores", rows(py, scores, 4)?)?;
        result.set_item("offsets", rows(py, offsets, 4)?)?;
        result.set_item("skipped", PyList::new(py, skipped)?)?;
        Ok(result)
    }
}

/// `[rows, columns]`.
fn rows<T: numpy::Element>(py: Python<'_>, values: Vec<T>, columns: usize) -> PyResult<Bound<'_, PyArray2<T>>> {
    let rows = values.len().checked_div(columns).unwrap_or_default();
    values.into_pyarray(py).reshape([rows, columns])
}
