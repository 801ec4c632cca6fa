//! MatrixMarket's coordinate format (Boisvert, Pozo, Remington, NISTIR 5935, 1996), with the names of genes and samples in files beside it: 10x'
//! `matrix.mtx`, `features.tsv` (before version 3 `genes.tsv`) and `barcodes.tsv`.

use std::path::{Path, PathBuf};

use super::{Expression, GenesIn, Names, Reading, value_at};
use crate::device::host_memory;
use crate::kmer::lines::Lines;
use crate::kmer::row::columns;
use crate::{Error, Result};

const MATRIX: &str = "matrix.mtx";

/// The matrix in a folder of 10x'.
pub(super) fn in_folder(folder: &Path) -> Result<PathBuf> {
    let found = [MATRIX.to_owned(), format!("{MATRIX}.gz")].map(|name| folder.join(name)).into_iter();
    found.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        let remedy = "name a file, or a folder with matrix.mtx, features.tsv and barcodes.tsv (plain or .gz)";
        Error::input(folder, "", "a folder without matrix.mtx", remedy)
    })
}

/// A value of a gene in a sample, both from 0.
struct Entry {
    gene: u32,
    sample: u32,
    value: f64,
}

pub(super) fn read(path: &Path, header: &str, mut lines: Lines, reading: &Reading) -> Result<Expression> {
    check_header(path, header)?;
    let gene_path = names_path(path, reading.gene_names.as_deref(), &["features.tsv", "genes.tsv"], "--gene-names")?;
    let sample_path = names_path(path, reading.sample_names.as_deref(), &["barcodes.tsv"], "--sample-names")?;
    let genes = read_names(&gene_path, reading.gene_column, true)?;
    let samples = read_names(&sample_path, Some(1), false)?.len();
    let entries = read_entries(path, &mut lines, (genes.len(), samples), reading.genes_in)?;

    // Which genes are kept, in which row.
    let mut names = Names::new(&gene_path, reading.repeated);
    let mut is_heard = vec![false; genes.len()];
    entries.iter().for_each(|entry| is_heard[entry.gene as usize] = true);
    let mut expression = Expression { samples, ..Expression::default() };
    let mut rows = vec![None; genes.len()];
    for (gene, (line, name)) in genes.into_iter().enumerate() {
        if !names.takes(&name, format!("line {line}"))? {
            continue;
        }
        if is_heard[gene] {
            rows[gene] = Some(expression.genes.len());
            expression.genes.push(name);
        } else {
            expression.silent.push(name);
        }
    }
    expression.repeated = names.repeated;
    let bytes = expression.genes.len() as f64 * samples as f64 * size_of::<f64>() as f64;
    let what = format!("{}: {} genes of {samples} samples", path.display(), expression.genes.len());
    host_memory::require(bytes, &what, "take fewer samples or genes, or sum cells of a kind (pseudo-bulk)")?;
    expression.values = vec![0.0; expression.genes.len() * samples];
    for Entry { gene, sample, value } in entries {
        if let Some(row) = rows[gene as usize] {
            expression.values[row * samples + sample as usize] += value;
        }
    }
    Ok(expression)
}

fn check_header(path: &Path, header: &str) -> Result<()> {
    let words: Vec<String> = header.split_whitespace().skip(1).map(str::to_ascii_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["matrix", "coordinate", "real" | "integer" | "double", "general"] => Ok(()),
        _ => {
            let remedy =
                "write it as `matrix coordinate real general` (scipy.io.mmwrite of a sparse matrix), or as a table";
            Err(Error::input(path, "line 1", format!("MatrixMarket of another kind ({})", words.join(" ")), remedy))
        }
    }
}

/// The file of names: the one that is named, or that beside the matrix, whose name differs in `matrix.mtx` alone.
fn names_path(path: &Path, named: Option<&Path>, kinds: &[&str], option: &str) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let prefix = name.split(MATRIX).next().filter(|prefix| prefix.len() < name.len()).unwrap_or_default();
    let endings = kinds.iter().flat_map(|kind| [format!("{prefix}{kind}"), format!("{prefix}{kind}.gz")]);
    let candidates: Vec<PathBuf> = endings.map(|name| path.with_file_name(name)).collect();
    candidates.iter().find(|candidate| candidate.is_file()).cloned().ok_or_else(|| {
        let found = format!("no {} beside the matrix", kinds.join(" or "));
        Error::input(path, "", found, format!("name the file with {option}"))
    })
}

/// The names in a column (from 1) of a file without a header, with their lines.
fn read_names(path: &Path, column: Option<usize>, tells_columns: bool) -> Result<Vec<(usize, String)>> {
    let mut lines = Lines::open(path)?;
    let mut names = Vec::new();
    while let Some(line) = lines.next_line()? {
        let line = line.to_owned();
        let cells = columns(&line, '\t');
        let at = column.unwrap_or(if cells.len() > 1 { 2 } else { 1 });
        let Some(name) = at.checked_sub(1).and_then(|at| cells.get(at)).map(|name| name.to_string()) else {
            let found = format!("{} columns, where names are in column {at}", cells.len());
            let remedy = if tells_columns { "choose another with --gene-column" } else { "write one name a line" };
            return Err(Error::input(path, format!("line {}", lines.number()), found, remedy));
        };
        names.push((lines.number(), name));
    }
    Ok(names)
}

fn read_entries(
    path: &Path,
    lines: &mut Lines,
    (genes, samples): (usize, usize),
    genes_in: GenesIn,
) -> Result<Vec<Entry>> {
    let mut sizes: Option<[usize; 3]> = None;
    let mut entries = Vec::new();
    while let Some(line) = lines.next_line()? {
        if line.trim().is_empty() || line.starts_with('%') {
            continue;
        }
        let line = line.to_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        let whole = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok());
        let (Some(one), Some(other), 3) = (whole(0), whole(1), words.len()) else {
            let what = if sizes.is_none() { "rows, columns and entries" } else { "row, column and value" };
            let (found, line) = (format!("no {what}: {:?}", shortened(&line)), lines.number());
            return Err(Error::input(
                path,
                format!("line {line}"),
                found,
                "three numbers are needed; write the file again",
            ));
        };
        let Some([rows, columns, _]) = sizes else {
            let found = whole(2);
            let Some(count) = found else {
                let found = format!("{:?} is no number of entries", words[2]);
                return Err(Error::input(path, format!("line {}", lines.number()), found, "write the file again"));
            };
            check_sizes(path, lines.number(), (one, other), (genes, samples), genes_in)?;
            sizes = Some([one, other, count]);
            continue;
        };
        if !(1..=rows).contains(&one) || !(1..=columns).contains(&other) {
            let found = format!("an entry at {one}, {other} of a matrix of {rows} x {columns}");
            return Err(Error::input(path, format!("line {}", lines.number()), found, "write the file again"));
        }
        let value = value_at(path, lines.number(), String::new, words[2])?;
        let (gene, sample) = if genes_in == GenesIn::Rows { (one, other) } else { (other, one) };
        entries.push(Entry { gene: (gene - 1) as u32, sample: (sample - 1) as u32, value });
    }
    match sizes {
        Some([.., count]) if count == entries.len() => Ok(entries),
        Some([.., count]) => {
            let found = format!("{} entries, where {count} are announced", entries.len());
            Err(Error::input(path, "", found, "get the file again: it is cut off, or changed"))
        }
        None => {
            Err(Error::input(path, "", "no line with rows, columns and entries", "get the file again: it is cut off"))
        }
    }
}

fn check_sizes(
    path: &Path,
    line: usize,
    (rows, columns): (usize, usize),
    (genes, samples): (usize, usize),
    genes_in: GenesIn,
) -> Result<()> {
    let (ours, other) = match genes_in {
        GenesIn::Rows => ((genes, samples), "columns"),
        GenesIn::Columns => ((samples, genes), "rows"),
    };
    if (rows, columns) == ours && genes <= u32::MAX as usize && samples <= u32::MAX as usize {
        return Ok(());
    }
    let found = format!("a matrix of {rows} x {columns}, and names of {genes} genes and {samples} samples");
    let remedy = if (columns, rows) == ours {
        format!("give --genes-in {other}")
    } else {
        "name the files that belong to the matrix (--gene-names, --sample-names)".into()
    };
    Err(Error::input(path, format!("line {line}"), found, remedy))
}

fn shortened(line: &str) -> String {
    line.chars().take(40).collect()
}
