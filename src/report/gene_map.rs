//! A map of genes as one HTML page that needs nothing else: points on a canvas, search by name, colour by set. The only page with a script, as
//! tens of thousands of points are too many for markup.

use serde::Serialize;

use super::html::STYLE;
use super::markup::escape;

const OWN_STYLE: &str = include_str!("gene_map/map.css");
const SCRIPT: &str = include_str!("gene_map/map.js");
/// Points are placed on a grid of so many steps, finer than any screen.
const STEPS: f64 = 20_000.0;

/// Sets that a map can colour at the same time.
pub const COLOURED_SETS: usize = 8;

/// What a map shows.
pub struct GeneMap<'a> {
    /// The heading.
    pub title: &'a str,
    /// A sentence or two below it.
    pub lead: &'a str,
    /// Names of the genes.
    pub genes: &'a [String],
    /// Where each of them lies, in any unit, the same on both axes.
    pub points: &'a [[f64; 2]],
    /// Sets to colour, [`COLOURED_SETS`] at most: their names and the indices of their genes.
    pub sets: Vec<(&'a str, Vec<usize>)>,
    /// The small print: program, command, settings.
    pub footer: &'a str,
}

#[derive(Serialize)]
struct Data<'a> {
    genes: &'a [String],
    x: Vec<u32>,
    y: Vec<u32>,
    sets: Vec<Set<'a>>,
}

#[derive(Serialize)]
struct Set<'a> {
    name: &'a str,
    genes: &'a [usize],
}

impl GeneMap<'_> {
    /// The whole page.
    pub fn render(&self) -> String {
        let axis = |axis: usize| self.points.iter().map(move |point| point[axis]);
        let ends = |axis: usize| {
            let values = self.points.iter().map(move |point| point[axis]).filter(|value| value.is_finite());
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
        };
        let [(left, right), (bottom, top)] = [ends(0), ends(1)];
        let extent = (right - left).max(top - bottom);
        let steps = |value: f64, from: f64| ((value - from) / extent * STEPS).round().clamp(0.0, STEPS) as u32;
        let sets = self.sets.iter().map(|(name, genes)| Set { name, genes });
        let data = Data {
            genes: self.genes,
            x: axis(0).map(|value| steps(value, left)).collect(),
            // Down the screen.
            y: axis(1).map(|value| steps(top - value, 0.0)).collect(),
            sets: sets.collect(),
        };
        let (title, lead, footer) = (escape(self.title), escape(self.lead), escape(self.footer));
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{title}</title>\n\
             <style>\n{STYLE}{OWN_STYLE}</style>\n</head>\n<body class=\"wide\">\n<header>\n<h1>{title}</h1>\n\
             <p class=\"lead\">{lead}</p>\n</header>\n<main>\n\
             <div class=\"tools\"><label>Find <input id=\"find\" type=\"search\" placeholder=\"gene, or start of a name\" \
             autocomplete=\"off\" spellcheck=\"false\"/></label> <span id=\"found\" role=\"status\"></span> \
             <button id=\"whole\" type=\"button\">Whole map</button></div>\n\
             <div id=\"sets\" class=\"sets\"></div>\n\
             <div class=\"map\"><canvas id=\"map\" role=\"img\" aria-label=\"{title}\"></canvas><div id=\"tip\" hidden></div></div>\n\
             <noscript><p>The map is drawn by a script in this file, which this browser does not run.</p></noscript>\n\
             </main>\n<footer>{footer}</footer>\n\
             <script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
            in_script(&data)
        )
    }
}

/// JSON that cannot end the element that it stands in: `<` occurs in strings alone, and is written as their escape.
fn in_script(data: &Data) -> String {
    // Strings, numbers and lists are always JSON.
    serde_json::to_string(data).unwrap_or_default().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(genes: &[&str], points: &[[f64; 2]]) -> String {
        let genes: Vec<String> = genes.iter().map(|gene| (*gene).to_owned()).collect();
        let sets = vec![("set </script><b>", vec![0])];
        GeneMap { title: "a & b", lead: "<i>", genes: &genes, points, sets, footer: "" }.render()
    }

    fn data(page: &str) -> serde_json::Value {
        let (_, rest) = page.split_once("id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn no_name_can_leave_its_place() {
        let names = ["</script><script>alert(1)</script>", "<!--", "\u{2028}\"'&"];
        let page = page(&names, &[[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]]);
        assert_eq!(page.matches("</script>").count(), 2);
        assert_eq!(page.matches("<script").count(), 2);
        assert!(!page.contains("<!--") && page.contains("a &amp; b") && page.contains("&lt;i&gt;"));
        let data = data(&page);
        assert_eq!(
            data["genes"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>(),
            names
        );
        assert_eq!(data["sets"][0]["name"], "set </script><b>");
        assert!(!page.contains("http:") && !page.contains("https:"), "a page that wants the network");
    }

    #[test]
    fn points_keep_their_shape() {
        let data = data(&page(&["a", "b", "c"], &[[-1.0, 5.0], [3.0, 5.0], [1.0, 4.0]]));
        assert_eq!(data["x"], serde_json::json!([0, 20000, 10000]));
        assert_eq!(data["y"], serde_json::json!([0, 0, 5000]));
        let same = self::data(&page(&["a", "b"], &[[1.0, 1.0], [1.0, 1.0]]));
        assert_eq!(same["x"], serde_json::json!([0, 0]), "points in one place");
    }
}
