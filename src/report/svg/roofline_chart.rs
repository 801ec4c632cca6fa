//! A roofline (Williams, Waterman, Patterson, CACM 2009): how fast pieces of work run, over how much they compute per byte.

use super::axis::Scale;
use super::{Anchor, Canvas, Svg, WIDTH, colour, escape, shorten, text_width};
use crate::report::format::{percent, quantity, short};

const PLOT_HEIGHT: f64 = 360.0;
/// Named points; the rest have their name as a tooltip.
const LABELS: usize = 10;

/// One point for each piece of work under the roof that bandwidth and arithmetic make, on logarithmic axes. A point's area is
/// its share of the time.
#[derive(Clone, Debug)]
pub struct RooflineChart {
    title: String,
    bytes_per_second: f64,
    memory: String,
    flops_per_second: f64,
    points: Vec<Point>,
}

#[derive(Clone, Debug)]
struct Point {
    name: String,
    /// Which colour it gets.
    group: usize,
    intensity: f64,
    rate: f64,
    share: f64,
}

impl RooflineChart {
    /// An empty chart under the roof of these ceilings, of which `memory` says how the first was measured.
    pub fn new(title: &str, (bytes_per_second, memory): (f64, &str), flops_per_second: f64) -> Self {
        let (title, memory) = (title.into(), memory.into());
        Self { title, bytes_per_second, memory, flops_per_second, points: Vec::new() }
    }

    /// Adds work that needs `bytes` and `flops` and took `seconds`, a `share` of all time; the colour is `group`'s. Work
    /// without bytes or arithmetic has no place on logarithmic axes and is left out.
    pub fn point(mut self, name: &str, group: usize, (bytes, flops, seconds): (f64, f64, f64), share: f64) -> Self {
        let (intensity, rate) = (flops / bytes, flops / seconds);
        if [intensity, rate].iter().all(|figure| figure.is_finite() && *figure > 0.0) {
            self.points.push(Point { name: name.into(), group, intensity, rate, share });
        }
        self
    }

    /// Draws the chart.
    pub fn render(&self) -> Svg {
        let mut canvas = Canvas::default();
        canvas.title(&self.title);
        let (top, bottom, left, right) = (52.0, 52.0 + PLOT_HEIGHT, 56.0, WIDTH - 16.0);
        let ridge = self.flops_per_second / self.bytes_per_second;
        let intensities = self.points.iter().map(|point| point.intensity).chain([ridge / 20.0, ridge * 4.0]);
        // Above the roof there is room for the labels, and for points whose data were in the cache.
        let rates = self.points.iter().map(|point| point.rate).chain([3.0 * self.flops_per_second]);
        let x = decades(intensities, left, right);
        let y = decades(rates, bottom, top);
        for (scale, vertical) in [(&x, true), (&y, false)] {
            for (exponent, at) in scale.ticks() {
                let label = power_of_ten(exponent);
                if vertical {
                    canvas.line((at, top), (at, bottom), "hx-grid");
                    canvas.text((at, bottom + 19.0), Anchor::Middle, "hx-muted", &label);
                } else {
                    canvas.line((left, at), (right, at), "hx-grid");
                    canvas.text((left - 8.0, at + 4.5), Anchor::End, "hx-muted", &label);
                }
            }
        }
        canvas.text((0.0, top - 14.0), Anchor::Start, "hx-muted", "FLOP/s");
        canvas.text(
            ((left + right) / 2.0, bottom + 40.0),
            Anchor::Middle,
            "hx-muted",
            "FLOP per byte that has to be moved",
        );
        let mut labels = Labels { left, right, top, bottom, taken: Vec::new() };
        self.draw_roof(&mut canvas, &x, &y, &mut labels);
        self.draw_points(&mut canvas, &x, &y, &mut labels);
        canvas.finish(bottom + 46.0, &self.title, &self.description())
    }

    fn draw_roof(&self, canvas: &mut Canvas, x: &Decades, y: &Decades, labels: &mut Labels) {
        // Where the slope leaves the plot at the bottom or on the left, where it meets the flat part, and the right end.
        let start = x.low().max(y.low() / self.bytes_per_second);
        let ridge = self.flops_per_second / self.bytes_per_second;
        let corners = [start, ridge, x.high()]
            .map(|intensity| (x.at(intensity), y.at((intensity * self.bytes_per_second).min(self.flops_per_second))));
        let path = corners.map(|(x, y)| format!("{x:.1},{y:.1}")).join(" ");
        canvas.raw(format_args!("<polyline points=\"{path}\" class=\"hx-line\" stroke=\"var(--hx-muted)\"/>"));
        let flat = format!("{}, a large product", quantity(self.flops_per_second, "FLOP/s"));
        let slope = format!("{}, {}", quantity(self.bytes_per_second, "B/s"), self.memory);
        let middle = ((corners[0].0 + corners[1].0) / 2.0 - 8.0, (corners[0].1 + corners[1].1) / 2.0 - 6.0);
        for (text, (end, line)) in [(flat, (corners[2].0, corners[2].1 - 8.0)), (slope, middle)] {
            canvas.text((end, line), Anchor::End, "hx-muted hx-halo", &text);
            labels.taken.push((end - text_width(&text), end, line));
        }
    }

    fn draw_points(&self, canvas: &mut Canvas, x: &Decades, y: &Decades, labels: &mut Labels) {
        let mut order: Vec<&Point> = self.points.iter().collect();
        order.sort_by(|a, b| b.share.total_cmp(&a.share));
        for (rank, point) in order.iter().enumerate() {
            let at = (x.at(point.intensity), y.at(point.rate));
            let radius = 4.0 + 14.0 * point.share.clamp(0.0, 1.0).sqrt();
            let (colour, sentence) = (colour(point.group), escape(&self.sentence(point)));
            canvas.raw(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\" fill=\"{colour}\" fill-opacity=\".6\" \
                 stroke=\"{colour}\"><title>{sentence}</title></circle>",
                at.0, at.1
            ));
            if rank < LABELS {
                let name = shorten(&point.name, 220.0);
                if let Some(place) = labels.place(at, radius, text_width(&name)) {
                    canvas.text(place, Anchor::Start, "hx-halo", &name);
                }
            }
        }
    }

    fn sentence(&self, point: &Point) -> String {
        let roof = (point.intensity * self.bytes_per_second).min(self.flops_per_second);
        format!(
            "{}: {} at {} FLOP/byte, {} of the roof, {} of the time",
            point.name,
            quantity(point.rate, "FLOP/s"),
            short(point.intensity),
            percent(point.rate / roof, 0),
            percent(point.share, 1)
        )
    }

    /// The chart in words.
    fn description(&self) -> String {
        let sentences: Vec<String> = self.points.iter().map(|point| self.sentence(point) + ".").collect();
        format!(
            "Roof: {} and {}. {}",
            quantity(self.bytes_per_second, "B/s"),
            quantity(self.flops_per_second, "FLOP/s"),
            sentences.join(" ")
        )
    }
}

/// Where labels are already, and where they may be.
struct Labels {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// From, to, and the line that the letters stand on.
    taken: Vec<(f64, f64, f64)>,
}

impl Labels {
    const LINE: f64 = 15.0;

    /// A place inside the plot for a label of `width` beside a point, where no label is yet: to its right or left, as near to its height as
    /// can be. None where it is crowded: the point's tooltip has the name, too.
    fn place(&mut self, (x, y): (f64, f64), radius: f64, width: f64) -> Option<(f64, f64)> {
        let sides = [x + radius + 4.0, x - radius - 4.0 - width];
        let heights = (0..14)
            .map(|step| y + 4.5 + Self::LINE * f64::from((step + 1) / 2) * if step % 2 == 0 { 1.0 } else { -1.0 });
        let mut places = heights.flat_map(|line| sides.map(|from| (from, line)));
        let place = places.find(|&(from, line)| self.is_free(from, from + width, line))?;
        self.taken.push((place.0, place.0 + width, place.1));
        Some(place)
    }

    fn is_free(&self, from: f64, to: f64, line: f64) -> bool {
        let inside = from >= self.left && to <= self.right && line - 10.0 >= self.top && line + 3.0 <= self.bottom;
        inside
            && self.taken.iter().all(|&(left, right, at)| right < from || left > to || (line - at).abs() >= Self::LINE)
    }
}

/// A thousand and more with their suffix, less than one with all their digits, until they would be too many.
fn power_of_ten(exponent: i32) -> String {
    match exponent {
        0..=14 => {
            format!("1{}{}", ["", "0", "00"][exponent as usize % 3], ["", "k", "M", "G", "T"][exponent as usize / 3])
        }
        -4..0 => format!("{:.*}", -exponent as usize, 10f64.powi(exponent)),
        _ => format!("1e{exponent}"),
    }
}

/// A logarithmic axis over whole decades.
struct Decades {
    scale: Scale,
    low: i32,
    high: i32,
}

fn decades(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Decades {
    let logs: Vec<f64> = values.into_iter().filter(|value| value.is_finite() && *value > 0.0).map(f64::log10).collect();
    let low = logs.iter().copied().fold(f64::INFINITY, f64::min).clamp(-12.0, 18.0).floor() as i32;
    let high = (logs.iter().copied().fold(f64::NEG_INFINITY, f64::max).clamp(-12.0, 18.0).ceil() as i32).max(low + 1);
    Decades { scale: Scale::spanning([f64::from(low), f64::from(high)], from, to), low, high }
}

impl Decades {
    fn at(&self, value: f64) -> f64 {
        self.scale.at(value.log10())
    }

    fn low(&self) -> f64 {
        10f64.powi(self.low)
    }

    fn high(&self) -> f64 {
        10f64.powi(self.high)
    }

    /// The powers of ten, as (exponent, coordinate).
    fn ticks(&self) -> Vec<(i32, f64)> {
        (self.low..=self.high).map(|exponent| (exponent, self.scale.at(f64::from(exponent)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_on_the_roof_is_drawn_on_it() {
        // 1 FLOP per byte at the full bandwidth.
        let chart = RooflineChart::new("t", (1e11, "a copy"), 1e13).point("copying", 0, (1e11, 1e11, 1.0), 0.5);
        let svg = chart.render();
        assert!(svg.as_str().contains("copying: 100 GFLOP/s at 1.00 FLOP/byte, 100 % of the roof, 50.0 % of the time"));
        let x = decades([1.0, 5.0, 400.0], 56.0, WIDTH - 16.0);
        let y = decades([1e11, 3e13], 52.0 + PLOT_HEIGHT, 52.0);
        assert!(svg.as_str().contains(&format!("cx=\"{:.1}\" cy=\"{:.1}\"", x.at(1.0), y.at(1e11))));
    }

    #[test]
    fn work_without_arithmetic_and_numbers_that_are_none_are_left_out() {
        let chart = RooflineChart::new("t", (1e11, "a copy"), 1e13)
            .point("copy", 0, (1e9, 0.0, 1.0), 0.1)
            .point("unknown", 0, (0.0, 0.0, 1.0), 0.1)
            .point("nan", 0, (1.0, f64::NAN, 1.0), 0.1);
        assert!(!chart.render().as_str().contains("<circle"));
    }

    #[test]
    fn labels_neither_overlap_nor_leave_the_plot() {
        let mut labels =
            Labels { left: 56.0, right: 744.0, top: 52.0, bottom: 412.0, taken: vec![(600.0, 744.0, 80.0)] };
        let points = [(100.0, 100.0); 8].into_iter().chain([(735.0, 78.0), (58.0, 411.0), (640.0, 76.0)]);
        let placed = points.filter(|&at| labels.place(at, 5.0, 80.0).is_some()).count();
        assert_eq!(placed, 11);
        for (index, one) in labels.taken.iter().enumerate() {
            assert!(one.0 >= 56.0 && one.1 <= 744.0 && (62.0..=409.0).contains(&one.2), "{one:?}");
            let apart = |other: &(f64, f64, f64)| other.1 < one.0 || other.0 > one.1 || (other.2 - one.2).abs() >= 15.0;
            assert!(labels.taken[..index].iter().all(apart), "{:?}", labels.taken);
        }
        // A point in a corner that is full has no label.
        labels.taken = (0..30).map(|line| (56.0, 744.0, 52.0 + 12.0 * f64::from(line))).collect();
        assert_eq!(labels.place((100.0, 100.0), 5.0, 80.0), None);
    }

    #[test]
    fn small_powers_keep_their_digits() {
        assert_eq!([-6, -3, -1, 0, 2, 4, 9].map(power_of_ten), ["1e-6", "0.001", "0.1", "1", "100", "10k", "1G"]);
    }
}
