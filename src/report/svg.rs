//! Charts as SVG: self-contained, no scripts, light and dark by the reader's preference, readable by a screen reader.
//!
//! Every coordinate comes out of `axis::Scale`, which is finite whatever the numbers are.

mod axis;
mod bar_chart;
mod confusion_chart;
mod heat_map;
mod line_chart;
mod logo;
mod roofline_chart;
mod timeline_chart;

use std::fmt::{self, Write as _};

pub use bar_chart::BarChart;
pub use confusion_chart::ConfusionChart;
pub use heat_map::HeatMap;
pub use line_chart::LineChart;
pub use logo::SequenceLogo;
pub use roofline_chart::RooflineChart;
pub use timeline_chart::TimelineChart;

use super::markup::escape;

/// One chart: markup that stands alone as an `.svg` file and inside a page alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svg(String);

impl Svg {
    /// The markup, beginning with `<svg`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Svg {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Colours and type. Every name is prefixed: inside a page, these rules hold for the whole page. The series' colours
/// keep their distance for colour-blind readers, and each is legible (3:1) on its paper.
const STYLE: &str = "\
.hx{--hx-ink:#1f2328;--hx-muted:#59636e;--hx-grid:#e4e7eb;--hx-paper:#fff;--hx-on:#fff;\
--hx-0:#2160c4;--hx-1:#c4540a;--hx-2:#0b7a65;--hx-3:#8a3fc0;--hx-4:#b02a63;\
font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif;font-size:13px;\
font-variant-numeric:tabular-nums}\
@media (prefers-color-scheme:dark){.hx{--hx-ink:#e6e8eb;--hx-muted:#9aa4af;--hx-grid:#2c333b;--hx-paper:#161a1f;\
--hx-on:#0d1117;--hx-0:#78aef7;--hx-1:#f2a065;--hx-2:#56c8ab;--hx-3:#c9a3f0;--hx-4:#f29abb}}\
.hx text{fill:var(--hx-ink)}.hx .hx-muted{fill:var(--hx-muted)}.hx .hx-title{font-weight:600;font-size:14px}\
.hx .hx-bold{font-weight:600;font-size:15px}.hx .hx-small{font-size:9px}.hx .hx-on{fill:var(--hx-on)}\
.hx .hx-halo{paint-order:stroke;stroke:var(--hx-paper);stroke-width:4px;stroke-linejoin:round}\
.hx .hx-grid{stroke:var(--hx-grid)}.hx .hx-axis{stroke:var(--hx-muted)}.hx .hx-whisker{stroke:var(--hx-ink);stroke-width:1.5}\
.hx .hx-whisker-halo{stroke:var(--hx-paper);stroke-width:4.5;stroke-linecap:round}.hx .hx-reference{stroke:var(--hx-muted);stroke-dasharray:5 4}\
.hx .hx-line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}\
.hx .hx-faint{stroke-width:1;opacity:.35}.hx .hx-quiet{fill:var(--hx-muted);opacity:.55}";

/// Drawing width of every chart, in SVG units; the page scales it.
const WIDTH: f64 = 760.0;
/// Colours before they repeat.
const COLOURS: usize = 5;

/// Where a text stands relative to its x.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// The elements of a chart in the making.
#[derive(Default)]
struct Canvas {
    body: String,
}

impl Canvas {
    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let text = escape(text);
        self.raw(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{class}>{text}</text>"));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.raw(format_args!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"));
    }

    /// Appends markup; any text in it is escaped already.
    fn raw(&mut self, markup: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.body, "{markup}");
    }

    /// The heading at the top left, which every chart has.
    fn title(&mut self, title: &str) {
        self.text((0.0, 18.0), Anchor::Start, "hx-title", &shorten(title, WIDTH));
    }

    fn finish(self, height: f64, title: &str, description: &str) -> Svg {
        let (title, description, body) = (escape(title), escape(description), self.body);
        Svg(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"hx\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\" \
             aria-label=\"{title}\">\n<title>{title}</title>\n<desc>{description}</desc>\n<style>{STYLE}</style>\n\
             {body}</svg>\n"
        ))
    }
}

/// About how wide a text is at 13 px. The font is the reader's, so this errs on the wide side.
fn text_width(text: &str) -> f64 {
    7.8 * text.chars().count() as f64
}

/// `text`, cut with an ellipsis where it would be wider than `width`.
fn shorten(text: &str, width: f64) -> String {
    if text_width(text) <= width {
        return text.into();
    }
    let kept = ((width / text_width("x")) as usize).saturating_sub(1).max(1);
    text.chars().take(kept).chain(['…']).collect()
}

/// The CSS colour of a series.
fn colour(index: usize) -> String {
    format!("var(--hx-{})", index % COLOURS)
}

/// Beyond the colours, series differ by their dashes.
fn dashes(index: usize) -> &'static str {
    ["", " stroke-dasharray=\"7 4\"", " stroke-dasharray=\"2 4\""][index / COLOURS % 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(shorten("donor", 100.0), "donor");
        assert_eq!(shorten("a very long class name", 79.0), "a very lo…");
        assert_eq!(shorten("abcdef", 40.0), "abcd…");
        // As wide as DejaVu Sans draws it, the widest of the usual fonts: 95.4 px at 13 px.
        assert!(text_width("gradient_norm") > 95.4);
        assert_eq!(shorten("abc", -5.0), "a…");
    }

    #[test]
    fn texts_are_escaped_and_described() {
        let mut canvas = Canvas::default();
        canvas.title("a < b");
        let svg = canvas.finish(10.0, "t & u", "\"d\"");
        for part in [">a &lt; b</text>", "<title>t &amp; u</title>", "<desc>&quot;d&quot;</desc>", "role=\"img\""] {
            assert!(svg.as_str().contains(part), "{part} is missing in {svg}");
        }
    }
}
