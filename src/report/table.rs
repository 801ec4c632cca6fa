//! Tables: built once, printed in the terminal and shown in the page.

use std::fmt;

use super::format::{count, decimal};

/// One cell. Numbers keep their value, so that the best of a column can be found and columns of numbers right-aligned.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A whole number, shown with its thousands separated.
    Count(u64),
    /// A number with so many decimals.
    Number {
        /// The number; not-a-number is shown as `n/a`.
        value: f64,
        /// Decimals shown.
        digits: usize,
    },
    /// A number with its interval (a bootstrap interval, say).
    Estimate {
        /// The number; not-a-number is shown as `n/a`.
        value: f64,
        /// The interval's lower and upper end.
        interval: (f64, f64),
        /// Decimals shown.
        digits: usize,
    },
}

impl Cell {
    /// A number with `digits` decimals.
    pub fn number(value: f64, digits: usize) -> Self {
        Self::Number { value, digits }
    }

    /// A number with its `(low, high)` interval, all with `digits` decimals.
    pub fn estimate(value: f64, interval: (f64, f64), digits: usize) -> Self {
        Self::Estimate { value, interval, digits }
    }

    /// The number that is compared in the search for the best of a column.
    pub(super) fn value(&self) -> Option<f64> {
        match *self {
            Self::Text(_) => None,
            Self::Count(value) => Some(value as f64),
            Self::Number { value, .. } | Self::Estimate { value, .. } => value.is_finite().then_some(value),
        }
    }

    pub(super) fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }

    /// The cell without its interval.
    pub(super) fn main_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(value) => count(*value),
            Self::Number { value, digits } | Self::Estimate { value, digits, .. } => decimal(*value, *digits),
        }
    }

    /// The interval as text, where there is one.
    pub(super) fn interval_text(&self) -> Option<String> {
        match self {
            Self::Estimate { interval: (low, high), digits, .. } => {
                Some(format!("[{}, {}]", decimal(*low, *digits), decimal(*high, *digits)))
            }
            _ => None,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<usize> for Cell {
    fn from(value: usize) -> Self {
        Self::Count(value as u64)
    }
}

/// Which end of a column is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Best {
    /// Accuracy, F1, tokens per second.
    Highest,
    /// Loss, seconds.
    Lowest,
}

/// Headers, rows, and the columns whose best cell is marked. Displays as aligned plain text, the best with a `*`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub(super) headers: Vec<String>,
    pub(super) rows: Vec<Vec<Cell>>,
    marked: Vec<(usize, Best)>,
}

impl Table {
    /// A table without rows.
    pub fn new(headers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { headers: headers.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Adds a row. Cells beyond the headers are dropped, missing ones stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<Cell>>) -> &mut Self {
        let mut row: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        row.resize(self.headers.len(), Cell::Text(String::new()));
        self.rows.push(row);
        self
    }

    /// Marks the best cell of `column` (from 0).
    pub fn mark_best(&mut self, column: usize, best: Best) -> &mut Self {
        self.marked.push((column, best));
        self
    }

    /// Whether the cell shows the best value of its column, as far as the shown decimals tell: equals share the mark.
    pub(super) fn is_best(&self, row: usize, column: usize) -> bool {
        let Some((_, best)) = self.marked.iter().find(|(marked, _)| *marked == column) else {
            return false;
        };
        let values = self.rows.iter().filter_map(|cells| Some((cells[column].value()?, cells[column].main_text())));
        let winner = match best {
            Best::Highest => values.max_by(|left, right| left.0.total_cmp(&right.0)),
            Best::Lowest => values.min_by(|left, right| left.0.total_cmp(&right.0)),
        };
        let cell = &self.rows[row][column];
        cell.value().is_some() && winner.is_some_and(|(_, text)| text == cell.main_text())
    }

    /// Whether a column holds numbers only (missing cells aside) and is therefore right-aligned.
    pub(super) fn is_numeric(&self, column: usize) -> bool {
        let is_missing = |cell: &Cell| matches!(cell, Cell::Text(text) if text.is_empty());
        let mut cells = self.rows.iter().map(|row| &row[column]).filter(|cell| !is_missing(cell)).peekable();
        cells.peek().is_some() && cells.all(Cell::is_number)
    }

    fn plain_text(&self, row: usize, column: usize) -> String {
        let cell = &self.rows[row][column];
        let mut text = cell.main_text();
        if self.marked.iter().any(|(marked, _)| *marked == column) {
            text.push(if self.is_best(row, column) { '*' } else { ' ' });
        }
        if let Some(interval) = cell.interval_text() {
            text = format!("{text} {interval}");
        }
        text
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![self.headers.clone()];
        for row in 0..self.rows.len() {
            lines.push((0..self.headers.len()).map(|column| self.plain_text(row, column)).collect());
        }
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.headers.len()).map(width).collect();
        let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
        lines.insert(1, rule);
        for line in &lines {
            let mut text = String::new();
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                if column > 0 {
                    text.push_str("  ");
                }
                let padding = " ".repeat(width - cell.chars().count());
                let (before, after) = if self.is_numeric(column) { (padding.as_str(), "") } else { ("", &*padding) };
                text.extend([before, cell, after]);
            }
            writeln!(formatter, "{}", text.trim_end())?;
        }
        let is_marked = |row: usize| (0..self.headers.len()).any(|column| self.is_best(row, column));
        if (0..self.rows.len()).any(is_marked) {
            writeln!(formatter, "* best of its column")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_align_right_and_the_best_is_marked() {
        let mut table = Table::new(["method", "sites", "MCC"]);
        table.row([Cell::from("GT/AG rule"), 1200usize.into(), Cell::number(-0.059, 3)]);
        table.row([Cell::from("model"), 90usize.into(), Cell::number(0.855, 3)]);
        table.mark_best(2, Best::Highest);
        let expected = "method      sites      MCC\n\
                        ----------  -----  -------\n\
                        GT/AG rule  1,200  -0.059\n\
                        model          90   0.855*\n\
                        * best of its column\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn a_best_cell_is_a_finite_number_and_ties_share_the_mark() {
        let mut table = Table::new(["loss"]);
        for value in [f64::NAN, 2.0004, 1.9996, 3.0] {
            table.row([Cell::number(value, 2)]);
        }
        table.row(["2.00"]);
        table.mark_best(0, Best::Lowest).mark_best(7, Best::Highest);
        assert_eq!([0, 1, 2, 3, 4].map(|row| table.is_best(row, 0)), [false, true, true, false, false]);
    }

    #[test]
    fn rows_of_any_length_and_intervals_fit() {
        let mut table = Table::new(["a", "b"]);
        table.row(["only one"]);
        table.row([Cell::estimate(0.5, (0.25, 0.75), 2), "x".into(), "dropped".into()]);
        assert_eq!(table.to_string(), "a                  b\n-----------------  -\nonly one\n0.50 [0.25, 0.75]  x\n");
        assert_eq!(Table::default().to_string().trim(), "");
    }
}
