//! The comparison of a scan with an annotation, for people: a table of the curve, and a page.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::accuracy::Intervals;
use super::truth::{Expected, SCOPES};
use super::{Comparison, Figures, TruthCounts};
use crate::genome::splice::Kind;
use crate::report::{Cell, LineChart, Page, Table};

/// Precision and recall at every score that an annotated site has, as TSV.
pub fn curve_table(expected: &Expected, counts: &TruthCounts, comparisons: &[Comparison]) -> String {
    let mut text = format!("# annotation: {}\nscope\tkind\tthreshold\tprecision\trecall\tpredicted\n", expected.source);
    for Comparison { scope, kind, model, .. } in comparisons {
        for point in counts.of(scope_index(scope), *kind).curve(model.accuracy.sites) {
            let kind = kind.name();
            let _ = writeln!(
                text,
                "{scope}\t{kind}\t{:.6}\t{:.6}\t{:.6}\t{}",
                point.threshold, point.precision, point.recall, point.predicted
            );
        }
    }
    text
}

fn scope_index(scope: &str) -> usize {
    SCOPES.iter().position(|name| *name == scope).unwrap_or(0)
}

/// Whose calls a row is of: the model's, and below them the weight matrix's.
fn both(comparison: &Comparison) -> impl Iterator<Item = ([Cell; 3], &Figures)> {
    let of = [("model", Some(&comparison.model)), ("weight matrix", comparison.weight_matrix.as_ref())];
    of.into_iter().filter_map(|(name, figures)| {
        Some(([comparison.scope, comparison.kind.name(), name].map(Cell::from), figures?))
    })
}

/// How well calls agree with the annotation; at a recall: precision.
pub fn table(comparisons: &[Comparison]) -> Table {
    let figures = ["average precision", "top-k", "at recall 0.5", "at recall 0.9"];
    let mut table = Table::new(["scope", "kind", "calls of"].into_iter().chain(figures));
    for (head, Figures { accuracy, intervals }) in comparisons.iter().flat_map(both) {
        let cell = |value: f64, interval: fn(&Intervals) -> [f64; 2]| match intervals {
            Some(all) => Cell::estimate(value, interval(all).into(), 3),
            None => Cell::number(value, 3),
        };
        let at = |value: Option<f64>, interval| value.map_or(Cell::from("-"), |value| cell(value, interval));
        let top = accuracy.top_k.iter().find(|top| top.multiple == 1.0).map_or(0.0, |top| top.accuracy);
        table.row(head.into_iter().chain([
            cell(accuracy.average_precision, |all| all.average_precision),
            cell(top, |all| all.top_k),
            at(accuracy.precision_at_recall_50, |all| all.precision_at_recall_50),
            at(accuracy.precision_at_recall_90, |all| all.precision_at_recall_90),
        ]));
    }
    table
}

/// Annotated sites, how many of them were scored and how many positions in all, and where precision and recall are balanced best.
pub fn balance_table(comparisons: &[Comparison]) -> Table {
    let mut table = Table::new(["scope", "kind", "calls of", "sites", "scored", "positions", "best F1", "at score"]);
    for (head, Figures { accuracy, .. }) in comparisons.iter().flat_map(both) {
        table.row(head.into_iter().chain([
            Cell::number(accuracy.sites as f64, 0),
            Cell::number(accuracy.scored_sites as f64, 0),
            Cell::number(accuracy.scored as f64, 0),
            Cell::number(accuracy.f1, 3),
            Cell::number(accuracy.best_f1.map_or(1.0, |point| point.threshold), 3),
        ]));
    }
    table
}

/// What a scan was of, as its page names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// The model's folder.
    pub model: String,
    /// The genome's file.
    pub genome: String,
    /// The region, or that it was all.
    pub region: String,
    /// The positions that were scored, in words.
    pub positions: String,
}

/// The page, made on the day `date`: a table and the curves.
pub fn page(
    subject: &Subject,
    date: &str,
    expected: &Expected,
    counts: &TruthCounts,
    comparisons: &[Comparison],
) -> String {
    let mut page = Page::new("Splice-site calls beside the annotation");
    let Subject { model, genome, region, positions } = subject;
    page.lead(&format!("Of {model} on {region}, compared with {}.", expected.source));
    let mut of_what = Table::new(["scanned", ""]);
    for (name, value) in
        [("model", &**model), ("genome", genome), ("region", region), ("positions", positions), ("date (UTC)", date)]
    {
        of_what.row([name, value]);
    }
    page.table(&of_what);
    page.section("Figures").table(&table(comparisons)).table(&balance_table(comparisons));
    page.paragraph(
        "Sites that were not scored count as missed. At recall 0.5 and 0.9: precision there. Top-k: of the k calls with the highest scores, k being the number of \
         annotated sites, the share that is annotated (SpliceAI's measure). Genes: calls inside annotated genes, on their \
         strand, with 95 % intervals over resampled genes. A call that is not annotated counts as false, whether or not the cell \
         uses it. The weight matrix is that of the sites that the model learnt from, on the same positions.",
    );
    for (index, scope) in SCOPES.into_iter().enumerate() {
        let mut chart = LineChart::new(&format!("Precision and recall, {scope}"), "recall", "precision").shares();
        for comparison in comparisons.iter().filter(|comparison| comparison.scope == scope) {
            let curve = counts.of(index, comparison.kind).curve(comparison.model.accuracy.sites);
            let name = match comparison.kind {
                Kind::Donor => "donors",
                Kind::Acceptor => "acceptors",
            };
            chart = chart.series(name, curve.iter().map(|point| (point.recall, point.precision)));
        }
        page.figure(&chart.render(), "From the highest threshold (left) to the lowest.");
    }
    page.footer(concat!("helixgrad ", env!("CARGO_PKG_VERSION"), " scan"));
    page.render()
}
