//! A timeline: what ran when, a row for each kind of work.

use super::axis::Scale;
use super::{Anchor, Canvas, Svg, WIDTH, colour, escape, shorten, text_width};
use crate::report::format::{decimal, percent};

const ROW: f64 = 22.0;
const BAR: f64 = 14.0;

/// Rows of bars over a common time axis in milliseconds; the colours are those of the groups.
#[derive(Clone, Debug)]
pub struct TimelineChart {
    title: String,
    groups: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    bars: Vec<Bar>,
}

#[derive(Clone, Debug)]
struct Bar {
    group: usize,
    start: f64,
    milliseconds: f64,
    about: String,
}

impl TimelineChart {
    /// An empty chart whose bars belong to these groups.
    pub fn new(title: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Self { title: title.into(), groups, rows: Vec::new() }
    }

    /// Adds a bar to the row called `name`, which appears where it is first named: from `start`, for `milliseconds`, with a
    /// few words for the reader who points at it.
    pub fn bar(&mut self, name: &str, group: usize, start: f64, milliseconds: f64, about: &str) {
        let row = match self.rows.iter().position(|row| row.name == name) {
            Some(row) => row,
            None => {
                self.rows.push(Row { name: name.into(), bars: Vec::new() });
                self.rows.len() - 1
            }
        };
        if start.is_finite() && milliseconds.is_finite() {
            self.rows[row].bars.push(Bar { group, start, milliseconds, about: about.into() });
        }
    }

    /// Draws the chart.
    pub fn render(&self) -> Svg {
        let mut canvas = Canvas::default();
        canvas.title(&self.title);
        let names = self.rows.iter().map(|row| text_width(&row.name)).fold(0.0, f64::max).min(230.0);
        let (left, right, top) = (names + 12.0, WIDTH - 8.0, 60.0);
        let bottom = top + ROW * self.rows.len().max(1) as f64;
        let bars = || self.rows.iter().flat_map(|row| &row.bars);
        let ends = bars().flat_map(|bar| [bar.start, bar.start + bar.milliseconds]);
        let x = Scale::spanning(ends.clone(), left, right);
        let mut at = 0.0;
        for (index, group) in self.groups.iter().enumerate() {
            canvas.raw(format_args!(
                "<rect x=\"{at:.1}\" y=\"31\" width=\"12\" height=\"12\" fill=\"{}\"/>",
                colour(index)
            ));
            canvas.text((at + 18.0, 41.5), Anchor::Start, "", group);
            at += 18.0 + text_width(group) + 16.0;
        }
        for (value, label) in x.ticks() {
            canvas.line((x.at(value), top), (x.at(value), bottom), "hx-grid");
            let half = text_width(&label) / 2.0;
            canvas.text((x.at(value).min(WIDTH - half), bottom + 17.0), Anchor::Middle, "hx-muted", &label);
        }
        canvas.text(((left + right) / 2.0, bottom + 36.0), Anchor::Middle, "hx-muted", "milliseconds");
        for (index, row) in self.rows.iter().enumerate() {
            let middle = top + ROW * (index as f64 + 0.5);
            canvas.text((left - 12.0, middle + 4.5), Anchor::End, "", &shorten(&row.name, names));
            for bar in &row.bars {
                draw_bar(&mut canvas, bar, middle, &x);
            }
        }
        canvas.finish(bottom + 42.0, &self.title, &self.description())
    }

    /// The chart in words.
    fn description(&self) -> String {
        let all: f64 = self.rows.iter().flat_map(|row| &row.bars).map(|bar| bar.milliseconds).sum();
        let sentences: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                let time: f64 = row.bars.iter().map(|bar| bar.milliseconds).sum();
                format!("{}: {} bars, {} ms, {}.", row.name, row.bars.len(), decimal(time, 2), percent(time / all, 1))
            })
            .collect();
        sentences.join(" ")
    }
}

fn draw_bar(canvas: &mut Canvas, bar: &Bar, middle: f64, x: &Scale) {
    let (from, to) = (x.at(bar.start), x.at(bar.start + bar.milliseconds));
    // What is too short for a pixel is drawn a little wider, so that it can be seen at all.
    let (width, y, colour, about) = ((to - from).max(0.6), middle - BAR / 2.0, colour(bar.group), escape(&bar.about));
    canvas.raw(format_args!(
        "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"><title>{about}</title></rect>"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_appear_in_the_order_in_which_they_are_named() {
        let mut chart = TimelineChart::new("t", &["forward", "backward"]);
        chart.bar("linear", 0, 0.0, 1.0, "a < b");
        chart.bar("tanh", 0, 1.0, 1e-9, "");
        chart.bar("linear", 1, 2.0, 1.0, "");
        chart.bar("nothing", 1, f64::NAN, 1.0, "");
        let svg = chart.render();
        assert_eq!(svg.as_str().matches("<rect").count(), 3 + 2);
        assert!(svg.as_str().contains("a &lt; b"));
        assert!(svg.as_str().contains("width=\"0.6\""), "the shortest bar can be seen");
        assert!(svg.as_str().contains("linear: 2 bars, 2.00 ms, 100.0 %."));
        let place = |name: &str| svg.as_str().find(&format!(">{name}</text>")).unwrap();
        assert!(place("linear") < place("tanh"));
    }

    #[test]
    fn an_empty_timeline_is_a_chart_too() {
        assert!(TimelineChart::new("t", &[]).render().as_str().starts_with("<svg"));
    }
}
