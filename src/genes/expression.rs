//! Expression of genes over samples: tables (CSV, TSV) and MatrixMarket with names of genes and samples beside it, as 10x and scanpy write them.

mod matrix_market;
mod table;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::kmer::lines::Lines;
use crate::{Error, Result};

/// How HDF5 files begin, `.h5ad` among them.
const HDF5_MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Expression of genes over samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expression {
    /// Names of the genes, each once.
    pub genes: Vec<String>,
    /// Number of samples.
    pub samples: usize,
    /// `[genes, samples]`; NaN where a value is missing.
    pub values: Vec<f64>,
    /// Genes that have the same value (0) in all samples, known as such already by a sparse file, and not among `genes`.
    pub silent: Vec<String>,
    /// Genes left out because their name had been there before.
    pub repeated: u64,
}

impl Expression {
    /// The values of a gene, `[samples]`.
    pub fn row(&self, gene: usize) -> &[f64] {
        &self.values[gene * self.samples..(gene + 1) * self.samples]
    }

    /// Samples of several studies side by side, of the genes that all of them have, in the order of the first. Genes that only some have are
    /// counted. A gene that is silent in one study and not in another has zeros there.
    pub fn pooled(studies: Vec<Self>) -> (Self, u64) {
        let rows: Vec<HashMap<&str, Option<usize>>> = studies
            .iter()
            .map(|study| {
                let read = study.genes.iter().enumerate().map(|(row, gene)| (gene.as_str(), Some(row)));
                read.chain(study.silent.iter().map(|gene| (gene.as_str(), None))).collect()
            })
            .collect();
        let mut names = HashSet::new();
        let in_order = studies.iter().flat_map(|study| study.genes.iter().chain(&study.silent));
        let all: Vec<&str> = in_order.map(String::as_str).filter(|gene| names.insert(*gene)).collect();
        let mut pooled = Self {
            samples: studies.iter().map(|study| study.samples).sum(),
            repeated: studies.iter().map(|study| study.repeated).sum(),
            ..Self::default()
        };
        let mut partial = 0;
        for gene in all {
            let Some(places) = rows.iter().map(|rows| rows.get(gene).copied()).collect::<Option<Vec<_>>>() else {
                partial += 1;
                continue;
            };
            if places.iter().all(Option::is_none) {
                pooled.silent.push(gene.to_owned());
                continue;
            }
            pooled.genes.push(gene.to_owned());
            for (study, place) in studies.iter().zip(places) {
                match place {
                    Some(row) => pooled.values.extend_from_slice(study.row(row)),
                    None => pooled.values.resize(pooled.values.len() + study.samples, 0.0),
                }
            }
        }
        (pooled, partial)
    }
}

/// Which way genes lie in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GenesIn {
    /// A row is a gene, a column a sample.
    #[default]
    Rows,
    /// A row is a sample, a column a gene.
    Columns,
}

/// What to do with a gene whose name has been there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Repeated {
    /// Refuse the file.
    #[default]
    Error,
    /// Keep the first, and count the others.
    First,
}

/// How a file is to be read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Which way genes lie.
    pub genes_in: GenesIn,
    /// What to do with repeated names.
    pub repeated: Repeated,
    /// MatrixMarket: the file of the genes' names; by default the one that lies beside the matrix.
    pub gene_names: Option<PathBuf>,
    /// MatrixMarket: the file of the samples' names; by default the one that lies beside the matrix.
    pub sample_names: Option<PathBuf>,
    /// MatrixMarket: the column of the genes' names, from 1; by default the second where there are two, as in 10x' files (symbols), else the
    /// first.
    pub gene_column: Option<usize>,
}

/// Reads a table, a MatrixMarket file or a folder with one, plain or gzipped.
///
/// # Errors
/// [`Error::Input`] with the line for what is no such file: rows of different lengths, cells that are no numbers, infinite values, names that
/// are repeated, empty or hold blanks; [`Error::Io`].
pub fn read(path: &Path, reading: &Reading) -> Result<Expression> {
    let inside = path.is_dir().then(|| matrix_market::in_folder(path)).transpose()?;
    let path = inside.as_deref().unwrap_or(path);
    refuse_hdf5(path)?;
    let mut lines = Lines::open(path)?;
    let Some(first) = lines.next_line()?.map(str::to_owned) else {
        return Err(Error::input(path, "", "the file is empty", "check the path, or write the file again"));
    };
    let is_matrix_market = first.get(..14).is_some_and(|start| start.eq_ignore_ascii_case("%%MatrixMarket"));
    let expression = match is_matrix_market {
        true => matrix_market::read(path, &first, lines, reading)?,
        false => table::read(path, &first, lines, reading)?,
    };
    if expression.genes.is_empty() && expression.silent.is_empty() || expression.samples == 0 {
        let found = format!("{} genes and {} samples", expression.genes.len(), expression.samples);
        return Err(Error::input(path, "", found, "give a file with at least one gene and one sample"));
    }
    Ok(expression)
}

fn refuse_hdf5(path: &Path) -> Result<()> {
    if path == Path::new("-") {
        return Ok(());
    }
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.take(HDF5_MAGIC.len() as u64).read_to_end(&mut start).map_err(Error::io("read", path))?;
    if start != HDF5_MAGIC {
        return Ok(());
    }
    let remedy = "write it as MatrixMarket from Python: scipy.io.mmwrite(\"matrix.mtx\", adata.X.T), and the names beside it, \
                  open(\"genes.tsv\", \"w\").write(\"\\n\".join(adata.var_names)) and the same of adata.obs_names to barcodes.tsv; or as a table: \
                  adata.to_df().T.to_csv(\"expression.tsv\", sep=\"\\t\")";
    Err(Error::input(path, "", "an HDF5 file (.h5ad, .h5, .loom), which is not read here", remedy))
}

/// The genes of a file, as they come.
struct Names {
    path: PathBuf,
    rule: Repeated,
    /// The place of each name.
    known: HashMap<String, String>,
    repeated: u64,
}

impl Names {
    fn new(path: &Path, rule: Repeated) -> Self {
        Self { path: path.to_owned(), rule, known: HashMap::new(), repeated: 0 }
    }

    /// Whether a gene of this name is taken: the first is, and others are an error or counted.
    fn takes(&mut self, name: &str, place: String) -> Result<bool> {
        let refuse = |found: String, remedy: &str| Err(Error::input(&self.path, &place, found, remedy));
        if name.is_empty() {
            return refuse("a gene without a name".into(), "name the gene, or take it out of the file");
        }
        if name.contains(char::is_whitespace) {
            let remedy = "a blank separates the two genes of a pair: give each gene a name without one";
            return refuse(format!("the gene name {name:?} holds a blank"), remedy);
        }
        if let Some(before) = self.known.get(name) {
            self.repeated += 1;
            let remedy = "name genes apart, or give --repeated-genes first to keep the first of each name";
            return match self.rule {
                Repeated::First => Ok(false),
                Repeated::Error => refuse(format!("the gene {name} is there already, at {before}"), remedy),
            };
        }
        self.known.insert(name.to_owned(), place);
        Ok(true)
    }
}

/// A value as tables have it; NaN where it is missing, nothing where it is no number.
fn value(text: &str) -> Option<f64> {
    const MISSING: [&str; 7] = ["", "NA", "N/A", "#N/A", "NaN", "null", "None"];
    match text.parse::<f64>() {
        Ok(value) => Some(value),
        Err(_) => MISSING.iter().any(|missing| text.eq_ignore_ascii_case(missing)).then_some(f64::NAN),
    }
}

/// As [`value`], with an error for what is none.
fn value_at(path: &Path, line: usize, column: impl FnOnce() -> String, text: &str) -> Result<f64> {
    match value(text) {
        Some(value) if !value.is_infinite() => Ok(value),
        found => {
            let what = if found.is_some() { "is infinite" } else { "is no number" };
            let remedy = "write expression as numbers, and missing values as NA or as nothing";
            Err(Error::input(path, format!("line {line}{}", column()), format!("{text:?} {what}"), remedy))
        }
    }
}
