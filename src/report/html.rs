//! One HTML page that needs nothing else: no scripts, no fonts, no network.

use std::fmt::Write as _;

use super::markup::escape;
use super::svg::Svg;
use super::table::{Cell, Table};

pub(super) const STYLE: &str = include_str!("page.css");

/// A page in the making. Everything handed in is text and is escaped; charts come as [`Svg`].
///
/// ```
/// use helixgrad::report::{Best, Cell, Page, Table};
/// let mut table = Table::new(["method", "accuracy"]);
/// table.row([Cell::from("GT/AG rule"), Cell::number(0.562, 3)]);
/// table.row([Cell::from("model"), Cell::estimate(0.923, (0.911, 0.934), 3)]);
/// table.mark_best(1, Best::Highest);
/// let mut page = Page::new("Splice sites");
/// page.lead("What a small DNABERT learns in five minutes.").section("Results").table(&table);
/// assert!(page.render().starts_with("<!DOCTYPE html>"));
/// ```
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    lead: String,
    body: String,
    footer: String,
    in_section: bool,
    is_wide: bool,
}

impl Page {
    /// An empty page.
    pub fn new(title: &str) -> Self {
        let (lead, body, footer) = (String::new(), String::new(), String::new());
        Self { title: title.into(), lead, body, footer, in_section: false, is_wide: false }
    }

    /// Sets the sentence or two below the title that say what the page found.
    pub fn lead(&mut self, text: &str) -> &mut Self {
        self.lead = text.into();
        self
    }

    /// Makes the page wide, for tables of many columns.
    pub fn wide(&mut self) -> &mut Self {
        self.is_wide = true;
        self
    }

    /// Sets the small print at the end: program, version, command, date.
    pub fn footer(&mut self, text: &str) -> &mut Self {
        self.footer = text.into();
        self
    }

    /// Begins a section; what follows belongs to it until the next.
    pub fn section(&mut self, title: &str) -> &mut Self {
        self.close_section();
        self.in_section = true;
        self.push(format_args!("<section>\n<h2>{}</h2>", escape(title)))
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) -> &mut Self {
        self.push(format_args!("<p>{}</p>", escape(text)))
    }

    /// Adds a table; the best cells of the columns that it marks stand out.
    pub fn table(&mut self, table: &Table) -> &mut Self {
        let header: String =
            table.headers.iter().enumerate().map(|(column, text)| header(table, column, text)).collect();
        let rows: String = (0..table.rows.len()).map(|row| table_row(table, row)).collect();
        self.push(format_args!(
            "<div class=\"table\"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>"
        ))
    }

    /// Adds a chart with its caption: what to see in it.
    pub fn figure(&mut self, chart: &Svg, caption: &str) -> &mut Self {
        let caption = escape(caption);
        self.push(format_args!("<figure><div>{chart}</div>\n<figcaption>{caption}</figcaption></figure>"))
    }

    /// Adds key figures side by side, as `(name, value)`.
    pub fn facts<N: AsRef<str>, V: AsRef<str>>(&mut self, facts: &[(N, V)]) -> &mut Self {
        let facts: String = facts.iter().map(|(name, value)| fact(name.as_ref(), value.as_ref())).collect();
        self.push(format_args!("<dl>\n{facts}</dl>"))
    }

    /// Adds a command, its output or a file, verbatim.
    pub fn code(&mut self, text: &str) -> &mut Self {
        self.push(format_args!("<pre><code>{}</code></pre>", escape(text.trim_end())))
    }

    /// The whole page.
    pub fn render(&self) -> String {
        let mut page = self.clone();
        page.close_section();
        let title = escape(&page.title);
        let class = if page.is_wide { " class=\"wide\"" } else { "" };
        let lead = wrapped("<p class=\"lead\">", &page.lead, "</p>\n");
        let footer = wrapped("<footer>", &page.footer, "</footer>\n");
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{title}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body{class}>\n<header>\n<h1>{title}</h1>\n{lead}</header>\n<main>\n{}</main>\n\
             {footer}</body>\n</html>\n",
            page.body
        )
    }

    fn push(&mut self, markup: std::fmt::Arguments<'_>) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.body, "{markup}");
        self
    }

    fn close_section(&mut self) {
        if std::mem::take(&mut self.in_section) {
            self.push(format_args!("</section>"));
        }
    }
}

/// An element, or nothing where there is no text.
fn wrapped(open: &str, text: &str, close: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{open}{}{close}", escape(text)) }
}

fn fact(name: &str, value: &str) -> String {
    format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value))
}

fn header(table: &Table, column: usize, text: &str) -> String {
    let class = if table.is_numeric(column) { " class=\"number\"" } else { "" };
    format!("<th scope=\"col\"{class}>{}</th>", escape(text))
}

fn table_row(table: &Table, row: usize) -> String {
    let cells = table.rows[row].iter().enumerate();
    let cells: String = cells.map(|(column, content)| cell(table, (row, column), content)).collect();
    format!("<tr>{cells}</tr>\n")
}

fn cell(table: &Table, (row, column): (usize, usize), content: &Cell) -> String {
    let classes = match (table.is_numeric(column), table.is_best(row, column)) {
        (true, true) => " class=\"number best\"",
        (true, false) => " class=\"number\"",
        (false, true) => " class=\"best\"",
        (false, false) => "",
    };
    let interval = content.interval_text().unwrap_or_default();
    let interval = wrapped(" <span class=\"interval\">", &interval, "</span>");
    format!("<td{classes}>{}{interval}</td>", escape(&content.main_text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Best;

    #[test]
    fn sections_are_closed_and_rendering_twice_is_the_same() {
        let mut page = Page::new("t");
        page.paragraph("before").section("one").section("two").code("x\n\n");
        let html = page.render();
        assert_eq!(html.matches("<section>").count(), 2);
        assert_eq!(html.matches("</section>").count(), 2);
        assert!(html.contains("<code>x</code>"));
        assert_eq!(html, page.render());
        page.section("three");
        assert_eq!(page.render().matches("</section>").count(), 3);
    }

    #[test]
    fn the_best_cell_and_numbers_have_their_class() {
        let mut table = Table::new(["method", "MCC"]);
        table.row([Cell::from("rule"), Cell::number(-0.059, 3)]);
        table.row([Cell::from("model"), Cell::estimate(0.855, (0.83, 0.88), 3)]);
        table.mark_best(1, Best::Highest);
        let html = Page::new("t").table(&table).render();
        assert!(html.contains("<th scope=\"col\" class=\"number\">MCC</th>"));
        assert!(html.contains("<td class=\"number\">-0.059</td>"));
        let best = "<td class=\"number best\">0.855 <span class=\"interval\">[0.830, 0.880]</span></td>";
        assert!(html.contains(best));
    }

    #[test]
    fn lead_and_footer_appear_only_where_given() {
        let bare = Page::new("t").render();
        assert!(!bare.contains("<footer>") && !bare.contains("class=\"lead\""));
        let full = Page::new("t").lead("a & b").footer("helixgrad 0.1").render();
        assert!(full.contains("<p class=\"lead\">a &amp; b</p>") && full.contains("<footer>helixgrad 0.1</footer>"));
    }
}
