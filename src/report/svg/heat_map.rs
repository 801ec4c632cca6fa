//! A heat map: numbers from -1 to 1 as colours, column by column.

use super::{Anchor, Canvas, Svg, WIDTH, shorten, text_width};
use crate::report::format::count;

const CELL_HEIGHT: f64 = 18.0;
/// The left margin, for the names of the rows.
const LEFT: f64 = 28.0;
/// Cells are no wider than this, so that a short map is no poster.
const WIDEST: f64 = 24.0;
/// Narrower cells have no letter below.
const NARROWEST_LETTER: f64 = 6.0;
/// The legend's strip: steps from -1 to 1, each so wide, with their height.
const LEGEND_STEPS: i32 = 20;
const LEGEND_STEP: f64 = 7.0;
const LEGEND_HEIGHT: f64 = 10.0;

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
    first: Option<u64>,
    ends: Option<[String; 2]>,
}

impl HeatMap {
    /// An empty map with these rows, from the top.
    pub fn new(title: &str, rows: &[impl AsRef<str>]) -> Self {
        let rows = rows.iter().map(|row| row.as_ref().to_owned()).collect();
        Self { title: title.into(), rows, columns: Vec::new(), first: None, ends: None }
    }

    /// Numbers the columns from `first`, below both ends and round ones between.
    pub fn numbered(mut self, first: u64) -> Self {
        self.first = Some(first);
        self
    }

    /// Adds a legend of the colours; `low` says what -1 means, `high` what 1 does.
    pub fn legend(mut self, low: &str, high: &str) -> Self {
        self.ends = Some([low, high].map(str::to_owned));
        self
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
        self.draw_legend(&mut canvas);
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
                draw_cell(&mut canvas, (x, y), (width, CELL_HEIGHT), *value);
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
        let Some(first) = self.first else {
            return canvas.finish(bottom + 22.0, &self.title, &self.description());
        };
        let middle = |index: usize| LEFT + width * (index as f64 + 0.5);
        for (index, label) in self.ticks(first, &middle) {
            let x = middle(index);
            canvas.line((x, bottom + 17.0), (x, bottom + 21.0), "hx-axis");
            let half = text_width(&label) / 2.0;
            canvas.text((x.clamp(half, WIDTH - half), bottom + 33.0), Anchor::Middle, "hx-muted", &label);
        }
        canvas.finish(bottom + 40.0, &self.title, &self.description())
    }

    /// The columns that get a number: both ends, so that the shortest map has its place, then round ones where they have room.
    fn ticks(&self, first: u64, middle: &dyn Fn(usize) -> f64) -> Vec<(usize, String)> {
        const GAP: f64 = 10.0;
        let columns = self.columns.len();
        let round = |step: u64| (0..columns).filter(move |index| (first + *index as u64).is_multiple_of(step));
        let candidates = (0..columns.min(1)).chain(columns.checked_sub(1)).chain(round(50)).chain(round(10));
        let mut ticks: Vec<(usize, String)> = Vec::new();
        for index in candidates {
            let label = count(first + index as u64);
            let span = |index: usize, label: &str| {
                let half = text_width(label) / 2.0;
                let x = middle(index).clamp(half, WIDTH - half);
                (x - half, x + half)
            };
            let (left, right) = span(index, &label);
            let is_free = ticks.iter().all(|(other, text)| {
                let (start, end) = span(*other, text);
                right + GAP <= start || end + GAP <= left
            });
            if is_free {
                ticks.push((index, label));
            }
        }
        ticks
    }

    /// At the right of the title: the colours of the values from -1 to 1.
    fn draw_legend(&self, canvas: &mut Canvas) {
        let Some([low, high]) = &self.ends else { return };
        let high = format!("1 {high}");
        let left = WIDTH - text_width(&high) - 6.0 - LEGEND_STEP * f64::from(LEGEND_STEPS + 1);
        canvas.text((left - 6.0, 18.0), Anchor::End, "hx-muted", &format!("{low} -1"));
        for step in 0..=LEGEND_STEPS {
            let value = f64::from(2 * step) / f64::from(LEGEND_STEPS) - 1.0;
            draw_cell(canvas, (left + LEGEND_STEP * f64::from(step), 9.0), (LEGEND_STEP, LEGEND_HEIGHT), value);
        }
        canvas.text((WIDTH, 18.0), Anchor::End, "hx-muted", &high);
    }

    fn description(&self) -> String {
        let values = || self.columns.iter().flat_map(|(_, values)| values.iter().copied().filter(|v| v.is_finite()));
        let (low, high) = values().fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        format!("{} columns, {} rows; values from {low:.3} to {high:.3}", self.columns.len(), self.rows.len())
    }
}

fn draw_cell(canvas: &mut Canvas, (x, y): (f64, f64), (width, height): (f64, f64), value: f64) {
    let colour = if value >= 0.0 { 1 } else { 0 };
    // A cell of 0 is still a cell: the faintest tint sets it apart from what has no number.
    let opacity = 0.06 + 0.94 * value.abs().min(1.0);
    canvas.raw(format_args!(
        "<rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height:.1}\" fill=\"var(--hx-{colour})\" \
         fill-opacity=\"{opacity:.3}\"/>"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_says_where_it_lies() {
        let ticks = |first: u64, columns: usize, width: f64| {
            let mut map = HeatMap::new("x", &["A"]).numbered(first);
            for _ in 0..columns {
                map = map.column("A", &[0.0]);
            }
            let middle = |index: usize| LEFT + width * (index as f64 + 0.5);
            let mut ticks: Vec<u64> =
                map.ticks(first, &middle).iter().map(|(index, _)| first + *index as u64).collect();
            ticks.sort_unstable();
            ticks
        };
        assert_eq!(ticks(11, 1, 24.0), [11]);
        assert_eq!(ticks(41, 6, 24.0), [41, 46]);
        assert_eq!(ticks(1, 40, 18.0), [1, 10, 20, 30, 40]);
        // Numbers of nine digits: those that have room.
        let long = ticks(155_000_001, 120, 6.0);
        assert!(
            long.starts_with(&[155_000_001]) && long.ends_with(&[155_000_120]) && long.contains(&155_000_050),
            "{long:?}"
        );
        assert!(long.windows(2).all(|pair| (pair[1] - pair[0]) as f64 * 6.0 > text_width("155,000,001")), "{long:?}");
    }
}
