//! The comparison of a scan with an annotation, for people: a table of the curve, and a page.

use std::fmt::Write as _;

use super::truth::SCOPES;
use super::{Comparison, Truth, TruthCounts};
use crate::genome::splice::Kind;
use crate::report::{Cell, LineChart, Page, Table};

/// Precision and recall at every score that an annotated site has, as TSV.
pub fn curve_table(truth: &Truth, counts: &TruthCounts, comparisons: &[Comparison]) -> String {
    let mut text = format!("# annotation: {}\nscope\tkind\tthreshold\tprecision\trecall\tpredicted\n", truth.source());
    for Comparison { scope, kind, accuracy } in comparisons {
        for point in counts.of(scope_index(scope), *kind).curve(accuracy.sites) {
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

/// One row for each scope and kind.
pub fn table(comparisons: &[Comparison]) -> Table {
    let mut table =
        Table::new(["scope", "kind", "sites", "scored", "average precision", "top-k", "best F1", "at score"]);
    for Comparison { scope, kind, accuracy } in comparisons {
        let top = accuracy.top_k.iter().find(|top| top.multiple == 1.0);
        table.row([
            Cell::from(*scope),
            Cell::from(kind.name()),
            Cell::number(accuracy.sites as f64, 0),
            Cell::number(accuracy.scored_sites as f64, 0),
            Cell::number(accuracy.average_precision, 3),
            Cell::number(top.map_or(0.0, |top| top.accuracy), 3),
            Cell::number(accuracy.f1, 3),
            Cell::number(accuracy.best_f1.map_or(1.0, |point| point.threshold), 3),
        ]);
    }
    table
}

/// What a scan was of, as its page names it.
pub struct Subject<'a> {
    /// The model's folder.
    pub model: &'a str,
    /// The genome's file.
    pub genome: String,
    /// The region, or that it was all.
    pub region: String,
    /// The positions that were scored, in words.
    pub positions: &'a str,
    /// The day.
    pub date: String,
}

/// The page: a table and the curves.
pub fn page(subject: &Subject, truth: &Truth, counts: &TruthCounts, comparisons: &[Comparison]) -> String {
    let mut page = Page::new("Splice-site calls beside the annotation");
    let Subject { model, genome, region, positions, date } = subject;
    page.lead(&format!("Of {model} on {region}, compared with {}.", truth.source()));
    let mut of_what = Table::new(["scanned", ""]);
    for (name, value) in
        [("model", *model), ("genome", genome), ("region", region), ("positions", positions), ("date (UTC)", date)]
    {
        of_what.row([name, value]);
    }
    page.table(&of_what);
    page.section("Figures").table(&table(comparisons));
    page.paragraph(
        "Sites that were not scored count as missed. Top-k: of the k calls with the highest scores, k being the number of \
         annotated sites, the share that is annotated (SpliceAI's measure). Genes: calls inside annotated genes, on their \
         strand. A call that is not annotated counts as false, whether or not the cell uses it.",
    );
    for (index, scope) in SCOPES.into_iter().enumerate() {
        let mut chart = LineChart::new(&format!("Precision and recall, {scope}"), "recall", "precision").shares();
        for comparison in comparisons.iter().filter(|comparison| comparison.scope == scope) {
            let curve = counts.of(index, comparison.kind).curve(comparison.accuracy.sites);
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
