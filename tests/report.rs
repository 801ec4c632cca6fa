//! The page and its charts, from outside: well-formed, self-contained, and unimpressed by any number or text.

use std::fmt::Display;

use helixgrad::output::write_atomic;
use helixgrad::philox::{Philox, Purpose};
use helixgrad::report::{BarChart, Best, Cell, ConfusionChart, LineChart, Page, Progress, Table};
use proptest::prelude::*;

/// The one address that is a name: nothing fetches a namespace.
const NAMESPACE: &str = "xmlns=\"http://www.w3.org/2000/svg\"";

/// Checks what a strict XML parser would: balanced tags, quoted attributes, known entities, no stray `<` or `&`.
fn check_well_formed(markup: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = markup.strip_prefix("<!DOCTYPE html>").unwrap_or(markup);
    while let Some(start) = rest.find('<') {
        check_text(&rest[..start])?;
        let end = start + rest[start..].find('>').ok_or("a tag has no end")?;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let opened = open.pop().ok_or(format!("</{name}> closes nothing"))?;
            if opened != name {
                return Err(format!("</{name}> closes <{opened}>"));
            }
            continue;
        }
        let (body, is_empty) = tag.strip_suffix('/').map_or((tag, false), |body| (body, true));
        let name = body.split_whitespace().next().unwrap_or("");
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("<{tag}> has no proper name"));
        }
        check_attributes(&body[name.len()..]).map_err(|found| format!("<{tag}>: {found}"))?;
        if !is_empty {
            open.push(name);
        }
    }
    check_text(rest)?;
    if open.is_empty() { Ok(()) } else { Err(format!("never closed: {open:?}")) }
}

fn check_text(text: &str) -> Result<(), String> {
    if text.contains(['<', '>']) {
        return Err(format!("a stray < or > in {text:?}"));
    }
    if let Some(bad) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(format!("the control character {bad:?}"));
    }
    for after in text.split('&').skip(1) {
        if !["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|entity| after.starts_with(entity)) {
            return Err(format!("a bare & before {after:?}"));
        }
    }
    Ok(())
}

fn check_attributes(mut rest: &str) -> Result<(), String> {
    let mut seen = Vec::new();
    while !rest.trim().is_empty() {
        let (name, after) = rest.trim_start().split_once("=\"").ok_or(format!("{rest:?} is no attribute"))?;
        let (value, after) = after.split_once('"').ok_or(format!("{name} has no closing quote"))?;
        check_text(value)?;
        if seen.contains(&name) || name.contains(char::is_whitespace) {
            return Err(format!("the attribute {name:?} is double or has a space"));
        }
        seen.push(name);
        rest = after;
    }
    Ok(())
}

/// Coordinates that are not numbers are ignored by browsers, and a chart would lose its parts without a word.
fn check_coordinates(svg: &str) -> Result<(), String> {
    for name in ["x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height", "points"] {
        for part in svg.split(&format!(" {name}=\"")).skip(1) {
            let value = part.split('"').next().unwrap_or("");
            for number in value.split([' ', ',']) {
                let number: f64 = number.parse().map_err(|_| format!("{name}=\"{value}\""))?;
                if !number.is_finite() || number.abs() > 5000.0 {
                    return Err(format!("{name}=\"{value}\""));
                }
            }
        }
    }
    Ok(())
}

fn check(markup: &impl Display) {
    let markup = markup.to_string();
    check_well_formed(&markup)
        .and_then(|()| check_coordinates(&markup))
        .unwrap_or_else(|found| panic!("{found}\n{markup}"));
}

fn results_table() -> Table {
    let mut table = Table::new(["method", "accuracy", "F1", "MCC", "3-class MCC"]);
    let mut row = |name: &str, values: [f64; 4], spread: f64| {
        let estimate = |value: f64| Cell::estimate(value, (value - spread, value + 0.9 * spread), 3);
        table.row(std::iter::once(Cell::from(name)).chain(values.map(estimate)));
    };
    row("GT/AG rule", [0.562, 0.720, -0.059, 0.461], 0.021);
    row("position weight matrix", [0.871, 0.875, 0.742, 0.772], 0.016);
    row("DNABERT mini, from scratch", [0.914, 0.917, 0.829, 0.852], 0.012);
    row("DNABERT mini, pretrained", [0.923, 0.925, 0.846, 0.867], 0.012);
    for column in 1..5 {
        table.mark_best(column, Best::Highest);
    }
    table
}

/// A loss curve as pretraining draws it: a fast start, a plateau, a slow descent, noise.
fn loss_curve(points: u32, seed: u64) -> Vec<(f64, f64)> {
    let noise = Philox::of(seed, 0, Purpose::Bootstrap);
    let loss = |step: f64| 1.2 + 1.6 * (-step / 14.0).exp() + 1.4 * (-step / 160.0).exp();
    (1..=points)
        .map(|step| (10.0 * f64::from(step), loss(f64::from(step)) + 0.06 * noise.normal(u64::from(step))))
        .collect()
}

fn example_page() -> Page {
    let held_out = loss_curve(300, 2).into_iter().skip(29).step_by(30).map(|(step, loss)| (step, loss + 0.1));
    let losses = LineChart::new("Pretraining: masked-token loss", "step", "nats a masked token")
        .noisy_series("training, each step", loss_curve(300, 1))
        .series("held-out region", held_out)
        .reference("a guess over all 64 k-mers (4.16)", 64f64.ln())
        .render();
    let confusion = ConfusionChart::new(
        "Test sites: truth against prediction",
        &["donor", "acceptor", "neither"],
        &[[602, 3, 51], [5, 571, 80], [39, 62, 1211]],
    );
    let bars = BarChart::new("3-class MCC on the test region", "MCC, with 95 % bootstrap intervals", 3)
        .bar("DNABERT mini, pretrained", 0.867, Some((0.853, 0.880)))
        .bar("DNABERT mini, from scratch", 0.852, Some((0.836, 0.867)))
        .baseline("position weight matrix", 0.772, Some((0.754, 0.790)))
        .baseline("GT/AG rule", 0.461, Some((0.440, 0.483)))
        .render();
    let mut page = Page::new("From a genome to splice sites");
    page.lead(
        "A DNABERT of 3 layers finds donors and acceptors among GT and AG decoys with an MCC of 0.867, against 0.772 for \
         a position weight matrix trained on the same sites.",
    )
    .facts(&[
        ("genome", "10.0 Mbp"),
        ("pretraining", "3,000 steps"),
        ("speed", "61.2k tokens/s"),
        ("test sites", "2,624"),
        ("time in all", "4 min 12 s"),
    ])
    .section("Results")
    .paragraph(
        "Strict protocol: the decoys are GT and AG positions in gene bodies that no annotation knows, the test region is \
         a contiguous tenth of the sequence, and no locus is in two parts. Brackets are 95 % bootstrap intervals.",
    )
    .table(&results_table())
    .figure(&bars, "The model against what needs no network. Whiskers are the intervals of the table.")
    .figure(&confusion.render(), "Rows are true classes and add up to 100 %. Errors are orange.")
    .section("Pretraining")
    .figure(&losses, "The faint line is every step, the strong one its moving average.")
    .section("How it was made")
    .code("helixgrad demo --seed 42\nhelixgrad evaluate --model runs/demo/model --data runs/demo/splice/test.tsv")
    .footer("helixgrad 0.1.0, seed 42, 2 threads");
    page
}

#[test]
fn the_example_page_is_well_formed_and_needs_no_network() {
    let html = example_page().render();
    check(&html);
    let without_namespace = html.replace(NAMESPACE, "");
    for trace in ["://", "src=", "href", "@import", "url(", "<script", "<link"] {
        assert!(!without_namespace.contains(trace), "{trace} would fetch something");
    }
    // To look at it in a browser: target/tmp/report_example.html.
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("report_example.html");
    write_atomic(&path, &html).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), html);
}

#[test]
fn the_checker_sees_what_is_wrong() {
    for bad in
        ["<p>", "<p></b>", "a & b", "<p a=b></p>", "</p>", "<p a=\"<\"></p>", "a > b", "<p a=\"1\" a=\"2\"/>", "\u{1b}"]
    {
        assert!(check_well_formed(bad).is_err(), "{bad} passed");
    }
    assert!(check_coordinates("<line x1=\"NaN\"/>").is_err());
    check_well_formed("<!DOCTYPE html>\n<p a=\"b\">&amp;<br/></p>").unwrap();
}

#[test]
fn hostile_texts_stay_text() {
    let evil = "</title><script>alert(\"&\")</script>'\u{1b}[2J";
    let mut table = Table::new([evil]);
    table.row([evil]);
    let line = LineChart::new(evil, evil, evil)
        .series(evil, [(0.0, 1.0)])
        .noisy_series(evil, [])
        .reference(evil, 2.0)
        .render();
    let matrix = ConfusionChart::new(evil, &[evil], &[[1]]).render();
    let bars = BarChart::new(evil, evil, 1).bar(evil, 1.0, None).baseline(evil, 2.0, None).render();
    let mut page = Page::new(evil);
    page.lead(evil).footer(evil).section(evil).paragraph(evil).code(evil).facts(&[(evil, evil)]).table(&table);
    page.figure(&line, evil).figure(&matrix, evil).figure(&bars, evil);
    let html = page.render();
    check(&html);
    assert!(!html.contains("<script"));
    assert!(html.contains("&lt;/title&gt;&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;&#39;\u{fffd}[2J"));
}

#[test]
fn nothing_to_draw_is_said() {
    let chart = LineChart::new("t", "x", "y");
    for chart in [chart.clone(), chart.clone().series("s", []), chart.series("s", [(f64::NAN, 1.0)])] {
        let svg = chart.render();
        check(&svg);
        assert!(svg.as_str().contains("no points to draw"));
    }
    check(&BarChart::new("t", "x", 1).render());
    check(&Page::new("").table(&Table::default()).render());
    check(&Page::new("").facts::<&str, &str>(&[]).render());
}

#[test]
fn a_chart_stands_alone() {
    let svg = LineChart::new("t", "x", "y").series("s", [(0.0, 1.0), (1.0, 1.0)]).render();
    assert!(svg.as_str().starts_with("<svg ") && svg.as_str().contains(NAMESPACE));
    for part in ["role=\"img\"", "<title>t</title>", "<desc>y over x. s: 2 points", "prefers-color-scheme:dark"] {
        assert!(svg.as_str().contains(part), "{part} is missing");
    }
}

#[test]
fn the_same_table_prints_in_the_terminal() {
    let text = results_table().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[6]), (7, "* best of its column"));
    assert!(lines[5].starts_with("DNABERT mini, pretrained"));
    assert!(lines[5].contains("0.867* [0.855, 0.878]"), "{text}");
    assert!(lines[3].contains("0.772  [0.756, 0.786]"), "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 130));
}

#[test]
fn quiet_progress_takes_anything() {
    let mut progress = Progress::new("work", 0, true).unit("bases").resume_at(u64::MAX);
    progress.update(0, u64::MAX, "");
    progress.note("checkpoint saved");
    progress.finish("done");
}

proptest! {
    #[test]
    fn any_numbers_make_a_proper_line_chart(
        points in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..40),
        level in any::<f64>(),
        name in any::<String>(),
    ) {
        let svg = LineChart::new(&name, &name, &name)
            .series(&name, points.clone())
            .noisy_series(&name, points)
            .reference(&name, level)
            .render();
        check(&svg);
    }

    #[test]
    fn any_numbers_make_proper_bars(
        bars in proptest::collection::vec((any::<String>(), any::<f64>(), any::<Option<(f64, f64)>>()), 0..6),
        digits in 0usize..6,
    ) {
        let mut chart = BarChart::new("t", "x", digits);
        for (name, value, interval) in &bars {
            chart = chart.bar(name, *value, *interval).baseline(name, *value, *interval);
        }
        check(&chart.render());
    }

    #[test]
    fn any_counts_make_a_proper_matrix(
        classes in proptest::collection::vec(any::<String>(), 0..30),
        counts in proptest::collection::vec(proptest::collection::vec(any::<u64>(), 0..6), 0..6),
    ) {
        check(&ConfusionChart::new("t", &classes, &counts).render());
    }

    #[test]
    fn any_cells_make_a_proper_table(
        headers in proptest::collection::vec(any::<String>(), 0..4),
        rows in proptest::collection::vec(proptest::collection::vec(any::<(f64, f64, f64)>(), 0..6), 0..4),
        digits in 0usize..6,
    ) {
        let mut table = Table::new(headers);
        for row in rows {
            table.row(row.into_iter().map(|(value, low, high)| Cell::estimate(value, (low, high), digits)));
        }
        table.mark_best(0, Best::Highest).mark_best(1, Best::Lowest);
        prop_assert!(table.to_string().lines().count() >= 2);
        check(&Page::new("t").table(&table).render());
    }
}
