//! Tables: a header and a row a gene, or a row a sample; separated by tabs or commas.

use std::path::Path;

use super::{Expression, GenesIn, Names, Reading, value_at};
use crate::kmer::lines::Lines;
use crate::kmer::row::columns;
use crate::{Error, Result};

pub(super) fn read(path: &Path, header: &str, mut lines: Lines, reading: &Reading) -> Result<Expression> {
    let separator = if header.contains('\t') { '\t' } else { ',' };
    let header: Vec<String> = columns(header, separator).into_iter().map(|name| name.into_owned()).collect();
    let mut names = Names::new(path, reading.repeated);
    let mut expression = Expression::default();
    // Of the header: which columns hold values, known with the first row, as R leaves out the name of the first column.
    let mut heading: Option<&[String]> = None;
    // Where a column is a gene: the columns that are kept.
    let mut kept: Vec<usize> = Vec::new();
    let mut row = Vec::new();
    let mut rows = 0;
    while let Some(line) = lines.next_line()? {
        if line.trim().is_empty() {
            continue;
        }
        // `lines` lends the line.
        let line = line.to_owned();
        let number = lines.number();
        let cells = columns(&line, separator);
        let heading = match heading {
            Some(heading) => heading,
            None => {
                let found = heading_of(path, &header, cells.len())?;
                if reading.genes_in == GenesIn::Columns {
                    kept = genes_of_header(&mut names, found, &mut expression.genes)?;
                } else {
                    expression.samples = found.len();
                }
                heading.insert(found)
            }
        };
        if cells.len() != heading.len() + 1 {
            let found = format!("{} columns, where {} are named", cells.len(), heading.len() + 1);
            let remedy = format!("give every row a name and {} values", heading.len());
            return Err(Error::input(path, format!("line {number}"), found, remedy));
        }
        row.clear();
        for (name, cell) in heading.iter().zip(&cells[1..]) {
            row.push(value_at(path, number, || format!(", column {name}"), cell)?);
        }
        match reading.genes_in {
            GenesIn::Rows if names.takes(&cells[0], format!("line {number}"))? => {
                expression.genes.push(cells[0].to_string());
                expression.values.extend_from_slice(&row);
            }
            GenesIn::Rows => {}
            GenesIn::Columns => expression.values.extend(kept.iter().map(|&column| row[column])),
        }
        rows += 1;
    }
    if reading.genes_in == GenesIn::Columns {
        expression.samples = rows;
        expression.values = transposed(&expression.values, rows);
    }
    expression.repeated = names.repeated;
    Ok(expression)
}

/// The names of the columns that hold values, by the number of cells in the first row.
fn heading_of<'a>(path: &Path, header: &'a [String], cells: usize) -> Result<&'a [String]> {
    // A first column without a name is left out by R.
    let heading = if cells == header.len() + 1 { header } else { &header[1..] };
    if heading.is_empty() {
        let found = format!("a header of one column ({:?})", header[0]);
        let remedy = "separate columns by tabs or commas; the first holds names, the others values";
        return Err(Error::input(path, "line 1", found, remedy));
    }
    Ok(heading)
}

fn genes_of_header(names: &mut Names, heading: &[String], genes: &mut Vec<String>) -> Result<Vec<usize>> {
    let mut kept = Vec::new();
    for (column, name) in heading.iter().enumerate() {
        if names.takes(name, format!("line 1, column {}", column + 2))? {
            kept.push(column);
            genes.push(name.clone());
        }
    }
    Ok(kept)
}

/// `values` (`[rows, columns]`) with rows and columns exchanged.
fn transposed(values: &[f64], rows: usize) -> Vec<f64> {
    let columns = values.len().checked_div(rows).unwrap_or(0);
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
