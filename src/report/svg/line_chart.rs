//! A line chart: loss over steps, accuracy over epochs.

use super::axis::Scale;
use super::{Anchor, Canvas, Svg, WIDTH, colour, dashes, escape, shorten, text_width};
use crate::report::format::{count, decimal};

const PLOT_HEIGHT: f64 = 280.0;
/// Longer lines are thinned to the lowest and highest point of so many pieces.
const PIECES: usize = 500;
/// How far the window of a moving average reaches to either side, as a share of all points.
const REACH_SHARE: f64 = 0.025;
/// And at most this many points.
const LARGEST_REACH: usize = 200;

/// One or several lines over common axes. Points that are not finite break their line; x should ascend.
///
/// ```
/// use helixgrad::report::LineChart;
/// let losses = (1..=300).map(|step| (step as f64, 4.2 / (step as f64).sqrt()));
/// let svg = LineChart::new("Pretraining loss", "step", "nats a masked token").noisy_series("training", losses).render();
/// assert!(svg.as_str().starts_with("<svg"));
/// ```
#[derive(Clone, Debug)]
pub struct LineChart {
    title: String,
    x_label: String,
    y_label: String,
    series: Vec<Series>,
    references: Vec<(String, f64)>,
    are_shares: bool,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    is_noisy: bool,
}

impl LineChart {
    /// An empty chart; the labels name the quantity and its unit.
    pub fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        Self {
            title: title.into(),
            x_label: x_label.into(),
            y_label: y_label.into(),
            series: Vec::new(),
            references: Vec::new(),
            are_shares: false,
        }
    }

    /// Both axes run from 0 to 1, whatever the points are: charts of shares can be compared.
    pub fn shares(mut self) -> Self {
        self.are_shares = true;
        self
    }

    /// Adds a line through `(x, y)` points.
    pub fn series(mut self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series.push(Series { name: name.into(), points: points.into_iter().collect(), is_noisy: false });
        self
    }

    /// Adds a line whose points scatter, such as the loss of each step: drawn faintly, its moving average on top.
    pub fn noisy_series(mut self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.series.push(Series { name: name.into(), points: points.into_iter().collect(), is_noisy: true });
        self
    }

    /// Adds a dashed horizontal line at `y`: what a guess scores, for instance.
    pub fn reference(mut self, name: &str, y: f64) -> Self {
        self.references.push((name.into(), y));
        self
    }

    /// Draws the chart.
    pub fn render(&self) -> Svg {
        let mut canvas = Canvas::default();
        canvas.title(&self.title);
        let top = 56.0 + self.draw_legend(&mut canvas);
        let bottom = top + PLOT_HEIGHT;
        let height = bottom + 44.0;
        let points = self.series.iter().flat_map(|series| series.points.iter().copied().filter(is_finite));
        let y_values = points.clone().map(|point| point.1).chain(self.references.iter().map(|reference| reference.1));
        let ends = if self.are_shares { &[0.0, 1.0][..] } else { &[] };
        let y = Scale::spanning(y_values.chain(ends.iter().copied()), bottom, top).rounded();
        let left = 12.0 + y.ticks().iter().map(|(_, label)| text_width(label)).fold(0.0, f64::max);
        let x_values = points.clone().map(|point| point.0).chain(ends.iter().copied());
        let x = Scale::spanning(x_values, left, WIDTH - 12.0);

        self.draw_axes(&mut canvas, &x, &y, (left, top, bottom));
        if points.count() == 0 {
            let middle = ((left + WIDTH) / 2.0, (top + bottom) / 2.0);
            canvas.text(middle, Anchor::Middle, "hx-muted hx-halo", "no points to draw");
        }
        for (index, series) in self.series.iter().enumerate() {
            draw_series(&mut canvas, series, index, &x, &y);
        }
        for (name, value) in self.references.iter().filter(|reference| reference.1.is_finite()) {
            let at = y.at(*value);
            canvas.line((left, at), (WIDTH - 12.0, at), "hx-reference");
            let name = shorten(name, WIDTH - left - 24.0);
            canvas.text((WIDTH - 16.0, at - 6.0), Anchor::End, "hx-muted hx-halo", &name);
        }
        canvas.finish(height, &self.title, &self.description())
    }

    /// Draws the names of the series, where there are several, and returns the height that they took.
    fn draw_legend(&self, canvas: &mut Canvas) -> f64 {
        if self.series.len() < 2 {
            return 0.0;
        }
        let (mut x, mut row) = (0.0, 1.0);
        for (index, series) in self.series.iter().enumerate() {
            let name = shorten(&series.name, WIDTH - 40.0);
            let width = 28.0 + text_width(&name) + 14.0;
            if x > 0.0 && x + width > WIDTH {
                (x, row) = (0.0, row + 1.0);
            }
            let y = 21.0 + 20.0 * row;
            canvas.raw(format_args!(
                "<line x1=\"{x:.1}\" y1=\"{0:.1}\" x2=\"{1:.1}\" y2=\"{0:.1}\" class=\"hx-line\" stroke=\"{2}\"{3}/>",
                y - 4.5,
                x + 20.0,
                colour(index),
                dashes(index)
            ));
            canvas.text((x + 28.0, y), Anchor::Start, "", &name);
            x += width;
        }
        22.0 * row
    }

    fn draw_axes(&self, canvas: &mut Canvas, x: &Scale, y: &Scale, (left, top, bottom): (f64, f64, f64)) {
        for (value, label) in y.ticks() {
            let at = y.at(value);
            canvas.line((left, at), (WIDTH - 12.0, at), "hx-grid");
            canvas.text((left - 8.0, at + 4.5), Anchor::End, "hx-muted", &label);
        }
        canvas.line((left, bottom), (WIDTH - 12.0, bottom), "hx-axis");
        for (value, label) in x.ticks() {
            let at = x.at(value);
            canvas.line((at, bottom), (at, bottom + 4.0), "hx-axis");
            // A label at the very end of the axis would be cut in half by the edge.
            let half = text_width(&label) / 2.0;
            canvas.text((at.min(WIDTH - half), bottom + 19.0), Anchor::Middle, "hx-muted", &label);
        }
        canvas.text((0.0, top - 16.0), Anchor::Start, "hx-muted", &shorten(&self.y_label, WIDTH));
        let x_label = shorten(&self.x_label, WIDTH - left);
        canvas.text(((left + WIDTH - 12.0) / 2.0, bottom + 38.0), Anchor::Middle, "hx-muted", &x_label);
    }

    /// The chart in words, for those who do not see it.
    fn description(&self) -> String {
        let mut sentences = vec![format!("{} over {}.", self.y_label, self.x_label)];
        for series in &self.series {
            let finite: Vec<_> = series.points.iter().filter(|point| is_finite(point)).collect();
            sentences.push(match (finite.first(), finite.last()) {
                (Some(first), Some(last)) => {
                    let (points, start, end) = (count(finite.len() as u64), decimal(first.1, 3), decimal(last.1, 3));
                    format!("{}: {points} points, from {start} to {end}.", series.name)
                }
                _ => format!("{}: no points.", series.name),
            });
        }
        for (name, value) in &self.references {
            sentences.push(format!("{name}: {}.", decimal(*value, 3)));
        }
        sentences.join(" ")
    }
}

fn is_finite(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}

fn draw_series(canvas: &mut Canvas, series: &Series, index: usize, x: &Scale, y: &Scale) {
    let name = escape(&series.name);
    let (colour, dashes) = (colour(index), dashes(index));
    canvas.raw(format_args!("<g stroke=\"{colour}\" fill=\"{colour}\"><title>{name}</title>"));
    if series.is_noisy {
        draw_line(canvas, &series.points, "hx-line hx-faint", "", x, y);
        draw_line(canvas, &smoothed(&series.points), "hx-line", dashes, x, y);
    } else {
        draw_line(canvas, &series.points, "hx-line", dashes, x, y);
    }
    canvas.raw(format_args!("</g>"));
}

/// One path for each unbroken run of points; a run of one point is a dot.
fn draw_line(canvas: &mut Canvas, points: &[(f64, f64)], class: &str, dashes: &str, x: &Scale, y: &Scale) {
    for run in points.split(|point| !is_finite(point)).filter(|run| !run.is_empty()) {
        if let [(at_x, at_y)] = run {
            canvas.raw(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" stroke=\"none\"/>",
                x.at(*at_x),
                y.at(*at_y)
            ));
            continue;
        }
        let path: Vec<String> =
            thinned(run).iter().map(|point| format!("{:.1},{:.1}", x.at(point.0), y.at(point.1))).collect();
        canvas.raw(format_args!("<polyline points=\"{}\" class=\"{class}\"{dashes}/>", path.join(" ")));
    }
}

/// Long runs keep their ends and the lowest and highest point of each piece, so that no spike disappears.
fn thinned(run: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if run.len() <= 4 * PIECES {
        return run.to_vec();
    }
    let mut kept = vec![run[0]];
    for piece in run.chunks(run.len().div_ceil(PIECES)) {
        let order = |left: &usize, right: &usize| piece[*left].1.total_cmp(&piece[*right].1);
        let lowest = (0..piece.len()).min_by(order).unwrap_or(0);
        let highest = (0..piece.len()).max_by(order).unwrap_or(0);
        kept.push(piece[lowest.min(highest)]);
        kept.push(piece[lowest.max(highest)]);
    }
    kept.push(run[run.len() - 1]);
    kept
}

/// The mean over a window around each point. The window shrinks evenly towards both ends, so that a steep start is not
/// drawn late, as an average of past points only would. Gaps stay gaps and are left out of the means.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = ((REACH_SHARE * points.len() as f64) as usize).min(LARGEST_REACH);
    let average = |(index, point): (usize, &(f64, f64))| {
        let reach = reach.min(index).min(points.len() - 1 - index);
        let window = points[index - reach..=index + reach].iter().filter(|neighbour| is_finite(neighbour));
        let number = window.clone().count() as f64;
        // Divided before they are added: the sum of two finite numbers may not be finite.
        if is_finite(point) { (point.0, window.map(|neighbour| neighbour.1 / number).sum()) } else { *point }
    };
    points.iter().enumerate().map(average).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_is_not_finite_breaks_the_line() {
        let points =
            [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, f64::INFINITY), (5.0, 1.0), (6.0, 0.0)];
        let svg = LineChart::new("t", "x", "y").series("s", points).render();
        assert_eq!(svg.as_str().matches("<polyline").count(), 2);
        assert_eq!(svg.as_str().matches("<circle").count(), 1);
        assert!(svg.as_str().contains("s: 5 points, from 1.000 to 0.000."));
    }

    #[test]
    fn thinning_keeps_ends_and_spikes() {
        let mut run: Vec<(f64, f64)> = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        run[77_777].1 = 50.0;
        run[11_111].1 = -50.0;
        let kept = thinned(&run);
        assert!(kept.len() <= 2 * PIECES + 2);
        for index in [0, 11_111, 77_777, 99_999] {
            assert!(kept.contains(&run[index]), "point {index} was lost");
        }
        assert!(kept.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn smoothing_keeps_a_straight_line_and_its_ends_and_evens_out_noise() {
        let mut line: Vec<_> = (0..200).map(|step| (f64::from(step), 3.0 - 0.01 * f64::from(step))).collect();
        for (smooth, point) in smoothed(&line).iter().zip(&line) {
            approx::assert_abs_diff_eq!(smooth.1, point.1, epsilon = 1e-12);
        }
        for (index, point) in line.iter_mut().enumerate() {
            point.1 = if index % 2 == 0 { 1.0 } else { -1.0 };
        }
        line[50].1 = f64::NAN;
        let smooth = smoothed(&line);
        assert_eq!(smooth[0], line[0]);
        assert!(smooth[50].1.is_nan());
        assert!(smooth[10..190].iter().filter(|p| is_finite(p)).all(|point| point.1.abs() < 0.3));
        assert_eq!(smoothed(&[(0.0, f64::MAX), (1.0, f64::MAX), (2.0, f64::MAX)])[1].1, f64::MAX);
    }

    #[test]
    fn a_legend_appears_for_several_series_and_wraps() {
        let one = LineChart::new("t", "x", "y").series("alone", [(0.0, 1.0), (1.0, 2.0)]).render();
        assert!(!one.as_str().contains(">alone</text>"));
        let mut chart = LineChart::new("t", "x", "y");
        for index in 0..12 {
            chart = chart.series(&format!("a rather long name {index}"), [(0.0, 1.0), (1.0, 2.0)]);
        }
        let svg = chart.render();
        assert!(svg.as_str().contains(">a rather long name 11</text>"));
        assert!(svg.as_str().contains("y=\"81.0\""), "the twelve names take three rows");
        assert!(svg.as_str().contains("stroke-dasharray=\"2 4\""));
    }
}
