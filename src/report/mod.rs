//! What a person looks at: progress, tables for the terminal, charts, and one self-contained HTML page.
//!
//! Nothing here computes a result or opens a file: callers bring numbers, get strings, and write them with
//! [`crate::output`]. Only [`progress::Progress`] and [`say`] print, to stderr.

pub mod format;
pub mod gene_map;
pub mod html;
mod markup;
pub mod progress;
pub mod svg;
pub mod table;
pub mod tensorboard;

use std::io::{self, Write};

pub use html::Page;
pub use progress::Progress;
pub use svg::{BarChart, ConfusionChart, HeatMap, LineChart, RooflineChart, SequenceLogo, Svg, TimelineChart};
pub use table::{Best, Cell, Table};

/// Writes a line to stderr. When nobody can hear it, the work goes on all the same; `eprintln!` would panic.
pub fn say(text: &str) {
    // At once: other ranks may write to the same terminal.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}
