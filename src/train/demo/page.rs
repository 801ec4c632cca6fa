//! The demo's `report.html`.

use super::{Curves, DemoMetrics, DemoOptions, Row};
use crate::report::{BarChart, Best, Cell, ConfusionChart, LineChart, Page, Table, format};
use crate::train::calibration::{Calibration, Reliability};
use crate::train::evaluation::Evaluation;
use crate::train::finetune::EpochPoint;

pub(super) fn render(metrics: &DemoMetrics, options: &DemoOptions, evaluation: &Evaluation, curves: &Curves) -> String {
    let (pretrain, splice) = (&metrics.pretrain, &metrics.splice);
    let mut page = Page::new("Helixgrad demo: from a genome to splice sites");
    page.lead(&format!(
        "A small DNABERT, pretrained on ten million bases of human chromosome X and fine-tuned on the splice sites of \
         their genes, in {} on {} threads of {}.",
        format::duration(std::time::Duration::from_secs_f64(metrics.seconds)),
        metrics.threads,
        metrics.machine
    ));
    if options.quick {
        page.paragraph(
            "A quick run: it shows that everything works, not how well. The models were trained for seconds.",
        );
    }
    page.facts(&[
        ("3-class MCC, model", format::decimal(splice.model.mcc_3class, 3)),
        ("3-class MCC, weight matrix", format::decimal(splice.baselines.pwm.mcc_3class, 3)),
        ("pretraining", format!("{} tokens/s", format::short(pretrain.tokens_per_second))),
        ("fine-tuning", format!("{} tokens/s", format::short(splice.finetune.tokens_per_second))),
    ]);

    page.section("Splice sites");
    page.paragraph(&format!(
        "Strict protocol: {} donors and acceptors of a region that no training saw, among {} GT and AG positions of the \
         same genes that are no sites. Accuracy, F1 and MCC are the mean of donor and acceptor, as in BioNeMo's model \
         card (literal reading); 95 % bootstrap intervals.",
        format::count(splice.test_sites),
        format::count(splice.test_decoys)
    ));
    page.table(&results(metrics));
    page.figure(&bars(metrics), "3-class MCC with 95 % intervals. Grey: what needs no network.");
    page.paragraph(&what_pretraining_adds(&splice.model, &splice.from_scratch));
    let confusion = ConfusionChart::new("Confusion matrix", &evaluation.labels, &evaluation.confusion);
    page.figure(&confusion.render(), "Rows are the annotation, columns the fine-tuned model's calls.");

    page.section("Pretraining");
    let training = curves.pretrain.points.iter().map(|point| (point.tokens as f64, point.loss));
    let held_out =
        curves.pretrain.points.iter().filter_map(|point| Some((point.tokens as f64, point.evaluation?.loss)));
    let chart = LineChart::new("Masked-LM loss", "tokens seen", "nats per masked token")
        .noisy_series("training", training)
        .series("held-out region", held_out)
        .render();
    page.figure(&chart, "Loss over the masked k-mers.");
    if let Some(held_out) = pretrain.evaluation {
        page.paragraph(&format!(
            "After {} tokens: loss {} (perplexity {}) and {} of masked k-mers right on the held-out region.",
            format::count(pretrain.tokens),
            format::decimal(held_out.loss, 3),
            format::decimal(held_out.perplexity, 1),
            format::percent(held_out.masked_accuracy, 1)
        ));
    }

    page.section("Fine-tuning");
    let dev = |points: &[EpochPoint]| -> Vec<(f64, f64)> {
        points.iter().filter_map(|point| Some((point.epoch as f64, point.dev.dev_mcc?))).collect()
    };
    let chart = LineChart::new("3-class MCC on the dev part", "epoch", "MCC")
        .series("pretrained", dev(curves.tuned))
        .series("from scratch", dev(curves.scratch))
        .render();
    page.figure(&chart, "The dev part is a region between the training and the test region.");
    if let Some(calibration) = &splice.finetune.calibration {
        reliability(&mut page, calibration);
    }

    page.section("How it was made");
    page.paragraph(&format!(
        "Model {}: windows of {} bases. Pretraining: {} steps of {} tokens. Fine-tuning: {} epochs, {} windows a step, \
         highest learning rate {}. The data are in the folder dataset, the models in pretrain, splice and \
         from-scratch.",
        options.preset,
        options.window,
        format::count(options.pretrain_steps),
        format::count(options.tokens_per_step as u64),
        options.epochs,
        options.batch,
        options.learning_rate
    ));
    page.code(if options.quick { "helixgrad demo --quick" } else { "helixgrad demo" });
    page.footer(&format!("helixgrad {}", env!("CARGO_PKG_VERSION")));
    page.render()
}

/// How far the fine-tuned model's probabilities can be believed, before and after its logits are divided by the temperature.
fn reliability(page: &mut Page, calibration: &Calibration) {
    let Calibration { temperature, windows, before, after } = calibration;
    let points = |of: &Reliability| of.bins.iter().map(|bin| (bin.confidence, bin.accuracy)).collect::<Vec<_>>();
    let tempered = format!("at temperature {}", format::decimal(*temperature, 2));
    let chart = LineChart::new("Reliability on the dev part", "probability of the likeliest class", "share right")
        .shares()
        .series("as trained", points(before))
        .series(&tempered, points(after))
        .series("probabilities that are shares", [(0.0, 0.0), (1.0, 1.0)])
        .render();
    let caption = format!(
        "{} windows in bins of equal width. Expected calibration error {} before and {} after the logits are divided by the temperature.",
        format::count(*windows),
        format::decimal(before.ece, 3),
        format::decimal(after.ece, 3)
    );
    page.figure(&chart, &caption);
    let mut table = Table::new([
        "probability",
        "windows",
        "mean",
        "share right",
        "windows, after",
        "mean, after",
        "share right, after",
    ]);
    let mut bins: Vec<[f64; 2]> = before.bins.iter().chain(&after.bins).map(|bin| bin.range).collect();
    bins.sort_by(|one, other| one[0].total_cmp(&other[0]));
    bins.dedup();
    for range in bins {
        let [low, high] = range.map(|end| format::decimal(end, 2));
        let cells = |of: &Reliability| match of.bins.iter().find(|bin| bin.range == range) {
            Some(bin) => {
                [Cell::number(bin.windows as f64, 0), Cell::number(bin.confidence, 3), Cell::number(bin.accuracy, 3)]
            }
            None => [Cell::number(0.0, 0), Cell::from("-"), Cell::from("-")],
        };
        table.row(std::iter::once(Cell::from(format!("{low} to {high}"))).chain(cells(before)).chain(cells(after)));
    }
    page.table(&table);
}

/// One row a classifier; also printed on the terminal.
pub(super) fn results(metrics: &DemoMetrics) -> Table {
    let mut table = Table::new(["", "accuracy", "F1", "MCC", "3-class MCC"]);
    for (name, row) in rows(metrics) {
        table.row([
            Cell::from(name),
            Cell::estimate(row.accuracy, row.intervals.accuracy.into(), 3),
            Cell::estimate(row.f1, row.intervals.f1.into(), 3),
            Cell::estimate(row.mcc, row.intervals.mcc.into(), 3),
            Cell::estimate(row.mcc_3class, row.intervals.mcc_3class.into(), 3),
        ]);
    }
    (1..=4).for_each(|column| {
        table.mark_best(column, Best::Highest);
    });
    table
}

fn rows(metrics: &DemoMetrics) -> [(&'static str, &Row); 4] {
    let splice = &metrics.splice;
    [
        ("DNABERT, pretrained", &splice.model),
        ("DNABERT, from scratch", &splice.from_scratch),
        ("position weight matrix", &splice.baselines.pwm),
        ("GT/AG rule", &splice.baselines.rule),
    ]
}

fn bars(metrics: &DemoMetrics) -> crate::report::Svg {
    let mut chart = BarChart::new("Splice sites, strict protocol", "3-class MCC", 3);
    for (index, (name, row)) in rows(metrics).into_iter().enumerate() {
        let interval = Some(row.intervals.mcc_3class.into());
        chart = match index {
            0 | 1 => chart.bar(name, row.mcc_3class, interval),
            _ => chart.baseline(name, row.mcc_3class, interval),
        };
    }
    chart.render()
}

fn what_pretraining_adds(tuned: &Row, scratch: &Row) -> String {
    let gain = tuned.mcc_3class - scratch.mcc_3class;
    let [low, high] = scratch.intervals.mcc_3class;
    let verdict = if (low..=high).contains(&tuned.mcc_3class) {
        "within the interval of the model from scratch, so this run alone does not show a difference"
    } else if gain > 0.0 {
        "above the interval of the model from scratch"
    } else {
        "below the interval of the model from scratch"
    };
    format!("What pretraining adds: the 3-class MCC changes by {gain:+.3}, {verdict}.")
}
