//! What a person looks at: progress, tables for the terminal, charts, and one self-contained HTML page.
//!
//! Nothing here computes a result or opens a file: callers bring numbers, get strings, and write them with
//! [`crate::output`]. [`progress::Progress`] alone prints, to stderr.

pub mod format;
pub mod html;
mod markup;
pub mod progress;
pub mod svg;
pub mod table;
pub mod tensorboard;

pub use html::Page;
pub use progress::Progress;
pub use svg::{BarChart, ConfusionChart, HeatMap, LineChart, RooflineChart, SequenceLogo, Svg, TimelineChart};
pub use table::{Best, Cell, Table};
