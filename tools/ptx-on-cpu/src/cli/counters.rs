//! Counters as a table: a line of the source in a row, then everything.

use std::fmt::Write;
use std::path::Path;

use ptx_on_cpu::{Counters, Counts};

/// Heading, and how the cell is made.
type Column = (&'static str, fn(&Counts) -> String);

/// Title of a column, and what stands in it.
const COLUMNS: [Column; 12] = [
    ("instructions", |counts| counts.warp_instructions.to_string()),
    ("tensor", |counts| counts.tensor.to_string()),
    ("special", |counts| counts.special.to_string()),
    ("float", |counts| counts.float.to_string()),
    ("integer", |counts| counts.integer.to_string()),
    ("shared", |counts| counts.shared_wavefronts.to_string()),
    ("conflicts", |counts| counts.bank_conflicts.to_string()),
    ("load sectors", |counts| of(counts.load_sectors, counts.load_sectors_least)),
    ("store sectors", |counts| of(counts.store_sectors, counts.store_sectors_least)),
    ("L2 bytes", |counts| counts.l2_bytes.to_string()),
    ("divergent", |counts| counts.divergent_branches.to_string()),
    ("waits", |counts| counts.barrier_waits.to_string()),
];

/// Sectors touched, and as few as possible where that is less.
fn of(touched: u64, least: u64) -> String {
    if touched == least { touched.to_string() } else { format!("{touched} of {least}") }
}

/// Rows of the source in their order, and a list of all totals.
pub fn table(counters: &Counters) -> String {
    let name = |file: &str| Path::new(file).file_name().map_or(file.into(), |name| name.to_string_lossy().into_owned());
    let mut rows: Vec<Vec<String>> =
        vec![std::iter::once("line".to_owned()).chain(COLUMNS.map(|it| it.0.into())).collect()];
    let mut add = |title: String, counts: &Counts| {
        // Zeros would hide the rest.
        let cells =
            COLUMNS.iter().map(|(_, cell)| cell(counts)).map(|cell| if cell == "0" { String::new() } else { cell });
        rows.push(std::iter::once(title).chain(cells).collect());
    };
    for line in &counters.by_source {
        add(format!("{}:{}", name(&line.file), line.line), &line.counts);
    }
    add("all".into(), &counters.total);
    // A column in which nothing stands is left out, with no width.
    let width = |column: usize| match rows[1..].iter().all(|row| row[column].is_empty()) {
        true => 0,
        false => rows.iter().map(|row| row[column].len()).max().unwrap_or(0),
    };
    let widths: Vec<usize> = (0..=COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1).filter(|column| *column.1 > 0) {
            let _ = write!(line, "  {cell:>width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(text);
    for (name, value) in counters.total.fields().filter(|field| field.1 > 0) {
        let _ = writeln!(text, "{value:>16}  {}", name.replace('_', " "));
    }
    text
}
