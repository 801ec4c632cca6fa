//! A heat map: numbers from -1 to 1 as colours, column by column.

use super::{Anchor, Canvas, Svg, WIDTH, shorten};

const CELL_HEIGHT: f64 = 18.0;
/// The left margin, for the names of the rows.
const LEFT: f64 = 28.0;
/// Cells are no wider than this, so that a short map is no poster.
const WIDEST: f64 = 24.0;
/// Narrower cells have no letter below.
const NARROWEST_LETTER: f64 = 6.0;

/// Rows and columns of cells: orange for positive values, blue for negative ones, the stronger the larger; nothing where
/// there is no number.
///
/// ```
/// use helixgrad::report::HeatMap;
/// let map = HeatMap::new("Changes", &["A", "C"]).column("G", &[0.9, -0.2]).column("A", &[f64::NAN, 0.0]);
/// assert!(map.render().as_str().starts_with("<svg"));
/// ```
#[derive(Clone, Debug)]
pub struct HeatMap {
    title: String,
    rows: Vec<String>,
    columns: Vec<(String, Vec<f64>)>,
}

impl HeatMap {
    /// An empty map with these rows, from the top.
    pub fn new(title: &str, rows: &[impl AsRef<str>]) -> Self {
        let rows = rows.iter().map(|row| row.as_ref().to_owned()).collect();
        Self { title: title.into(), rows, columns: Vec::new() }
    }

    /// Adds a column, one value a row.
    pub fn column(mut self, name: &str, values: &[f64]) -> Self {
        self.columns.push((name.into(), values.to_vec()));
        self
    }

    /// Draws the map.
    pub fn render(&self) -> Svg {
        let mut canvas = Canvas::default();
        canvas.title(&self.title);
        let top = 30.0;
        let width = ((WIDTH - LEFT) / self.columns.len().max(1) as f64).min(WIDEST);
        for (row, name) in self.rows.iter().enumerate() {
            let y = top + CELL_HEIGHT * (row as f64 + 0.72);
            canvas.text((LEFT - 8.0, y), Anchor::End, "hx-muted", &shorten(name, LEFT - 8.0));
        }
        let bottom = top + CELL_HEIGHT * self.rows.len() as f64;
        for (index, (name, values)) in self.columns.iter().enumerate() {
            let x = LEFT + width * index as f64;
            for (row, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
                let y = top + CELL_HEIGHT * row as f64;
                let colour = if *value >= 0.0 { 1 } else { 0 };
                // A cell of 0 is still a cell: the faintest tint sets it apart from what has no number.
                let opacity = 0.06 + 0.94 * value.abs().min(1.0);
                canvas.raw(format_args!(
                    "<rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{CELL_HEIGHT:.1}\" fill=\"var(--hx-{colour})\" \
                     fill-opacity=\"{opacity:.3}\"/>"
                ));
            }
            if width >= NARROWEST_LETTER {
                canvas.text(
                    (x + width / 2.0, bottom + 14.0),
                    Anchor::Middle,
                    "hx-muted hx-small",
                    &shorten(name, width.max(8.0)),
                );
            }
        }
        canvas.finish(bottom + 22.0, &self.title, &self.description())
    }

    fn description(&self) -> String {
        let values = || self.columns.iter().flat_map(|(_, values)| values.iter().copied().filter(|v| v.is_finite()));
        let (low, high) = values().fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        format!("{} columns, {} rows; values from {low:.3} to {high:.3}", self.columns.len(), self.rows.len())
    }
}
