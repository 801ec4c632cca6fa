//! A profile as a person reads it: the table for the terminal, and the page with the roofline and the timeline.

use super::profile::{Profile, Row};
use crate::autograd::Pass;
use crate::report::{Cell, Page, RooflineChart, Table, TimelineChart, format};
use crate::train::ceilings::Limit;

/// Rows of the timeline; the rest of the names share one.
const LANES: usize = 18;
const OTHERS: &str = "others";
const IN_CACHE: &str = "What is faster than the memory, over the slope and over 100 %, is marked as \"in cache\": another operation had left \
                        some of its data there.";

/// The page: it needs no other file.
pub fn render(profile: &Profile, title: &str, command: &str) -> String {
    let ceilings = &profile.ceilings;
    let rate = profile.flops_per_step / profile.milliseconds_per_step * 1e3;
    let (piece, one) = if profile.times_kernels { ("kernel", "a kernel") } else { ("operation", "an operation") };
    let mut page = Page::new(&format!("Profile: {title}"));
    page.wide().lead(&format!(
        "{} a step of {} tokens on {}: where the time goes, and how far each {piece} is from the least that it could take.",
        milliseconds(profile.milliseconds_per_step),
        format::count(profile.tokens_per_step as u64),
        machine(profile)
    ));
    page.facts(&[
        ("tokens a second", format::short(profile.tokens_per_step as f64 / profile.milliseconds_per_step * 1e3)),
        ("products", format::quantity(rate, "FLOP/s")),
        ("of the measured product", format::percent(rate / ceilings.flops_per_second, 1)),
        ("idle between pieces", format::percent(profile.gaps.share, 1)),
    ]);
    page.section("Timeline");
    let step = middle_step(&profile.recording.steps);
    page.figure(
        &timeline(profile, step),
        &format!(
            "The recorded step of middle length: {}, where one that is not recorded takes {}. A bar is a call of {one}; point at it for \
             its figures.",
            milliseconds((step.1 - step.0) * 1e3),
            milliseconds(profile.milliseconds_per_step)
        ),
    );
    page.section("Roofline");
    page.figure(
        &roofline(profile),
        &format!(
            "The roof is measured in the same run: {} of a large array, and a large product. A point is a kind of work, its area the \
             share of the time. {IN_CACHE}",
            profile.ceilings.memory
        ),
    );
    page.section(if profile.times_kernels { "Kernels" } else { "Operations" });
    page.paragraph(
        &format!(
            "Bytes are those that must cross the memory bus once, operations those that must be done; roofline is the least time by \
             these and the ceilings, over the time that it took. {IN_CACHE}"
        ),
    );
    page.table(&table(profile));
    page.paragraph(&gaps(profile));
    page.section("Memory");
    page.table(&memory(profile));
    page.section("How it was made");
    page.paragraph(&measured(profile));
    page.code(command);
    page.footer(&format!("helixgrad {}", env!("CARGO_PKG_VERSION")));
    page.render()
}

/// The text for the terminal.
pub fn text(profile: &Profile, title: &str) -> String {
    format!(
        "{title} on {}: {} a step of {} tokens\n\n{}\n{}\n{}\n\n{}",
        machine(profile),
        milliseconds(profile.milliseconds_per_step),
        format::count(profile.tokens_per_step as u64),
        table(profile),
        gaps(profile),
        measured(profile),
        memory(profile)
    )
}

/// Where it ran; the CPU with its threads.
fn machine(profile: &Profile) -> String {
    if profile.times_kernels { profile.device.clone() } else { format!("the CPU with {} threads", profile.threads) }
}

fn milliseconds(value: f64) -> String {
    format!("{} ms", format::decimal(value, if value < 100.0 { 2 } else { 0 }))
}

fn table(profile: &Profile) -> Table {
    let what = if profile.times_kernels { "kernel" } else { "operation" };
    let (rate, unit) = if profile.times_kernels { ("TFLOP/s", 1.0) } else { ("GFLOP/s", 1e3) };
    let headers =
        [what, "pass", "calls", "ms", "share %", "µs a call", "MB", "MFLOP", "GB/s", rate, "roofline %", "limit"];
    let mut table = Table::new(headers);
    let optional = |value: Option<f64>, digits: usize| match value {
        Some(value) => Cell::number(value, digits),
        None => Cell::from(""),
    };
    for row in &profile.rows {
        table.row([
            Cell::from(row.name.as_str()),
            row.pass.map_or("", Pass::name).into(),
            Cell::number(row.calls_per_step, 0),
            Cell::number(row.milliseconds_per_step, 3),
            Cell::number(row.share * 100.0, 1),
            Cell::number(row.microseconds_per_call, 1),
            optional(row.bytes_per_call.map(|bytes| bytes / 1e6), 2),
            optional(row.flops_per_call.map(|flops| flops / 1e6), 1),
            optional(row.gigabytes_per_second, 1),
            optional(row.tflops.map(|tflops| tflops * unit), 1),
            optional(row.roofline.map(|roofline| roofline * 100.0), 0),
            row.limit.map_or("", Limit::name).into(),
        ]);
    }
    table
}

fn gaps(profile: &Profile) -> String {
    let gaps = &profile.gaps;
    let marks = if profile.times_kernels {
        " The marks that time kernels lie in these gaps, a microsecond or two each; without a profile they are shorter."
    } else {
        ""
    };
    format!(
        "Idle: {} gaps a step, {} together ({}), the longest {} µs.{marks}",
        format::decimal(gaps.per_step, 0),
        milliseconds(gaps.milliseconds_per_step),
        format::percent(gaps.share, 1),
        format::decimal(gaps.longest_microseconds, 0)
    )
}

fn measured(profile: &Profile) -> String {
    let (ceilings, steps) = (profile.ceilings.describe(), profile.steps);
    format!("Ceilings, measured in this run: {ceilings}. Figures are means of {steps} recorded steps.")
}

fn memory(profile: &Profile) -> Table {
    let mut table = Table::new(["owner", "MiB", "share %"]);
    let owners = profile.memory.owners();
    let all: usize = owners.iter().map(|owner| owner.1).sum();
    for (owner, bytes) in owners.into_iter().filter(|owner| owner.1 > 0).chain([("all", all)]) {
        let share = 100.0 * bytes as f64 / all as f64;
        table.row([Cell::from(owner), Cell::number(bytes as f64 / f64::from(1 << 20), 1), Cell::number(share, 1)]);
    }
    table
}

fn group(pass: Option<Pass>) -> usize {
    match pass {
        Some(Pass::Forward) => 0,
        Some(Pass::Backward) => 1,
        Some(Pass::Update) => 2,
        None => 3,
    }
}

fn roofline(profile: &Profile) -> crate::report::Svg {
    let ceilings = &profile.ceilings;
    let mut chart = RooflineChart::new(
        "Roofline: forward blue, backward orange, update green",
        (ceilings.bytes_per_second, ceilings.memory),
        ceilings.flops_per_second,
    );
    for row in &profile.rows {
        if let (Some(bytes), Some(flops)) = (row.bytes_per_call, row.flops_per_call) {
            let work = (bytes, flops, row.microseconds_per_call * 1e-6);
            chart = chart.point(&label(row, profile.times_kernels), group(row.pass), work, row.share);
        }
    }
    chart.render()
}

/// A kernel's name says its direction; an operation's does not.
fn label(row: &Row, times_kernels: bool) -> String {
    match row.pass {
        Some(pass) if !times_kernels && pass != Pass::Update => format!("{}, {}", row.name, pass.name()),
        _ => row.name.clone(),
    }
}

/// Start and end of the recorded step of middle length.
fn middle_step(steps: &[(f64, f64)]) -> (f64, f64) {
    let mut steps = steps.to_vec();
    steps.sort_by(|a, b| (a.1 - a.0).total_cmp(&(b.1 - b.0)));
    steps.get(steps.len() / 2).copied().unwrap_or_default()
}

fn timeline(profile: &Profile, (start, end): (f64, f64)) -> crate::report::Svg {
    let mut chart = TimelineChart::new("One step", &["forward", "backward", "update", "between operations"]);
    let mut lanes: Vec<&str> = Vec::new();
    for row in &profile.rows {
        if !lanes.contains(&row.name.as_str()) && lanes.len() < LANES {
            lanes.push(&row.name);
        }
    }
    for span in profile.recording.spans.iter().filter(|span| (start..=end).contains(&span.start)) {
        let lane = if lanes.contains(&span.name.as_str()) { span.name.as_str() } else { OTHERS };
        let layer = span.layer.map(|layer| format!(", layer {layer}")).unwrap_or_default();
        let pass = span.pass.map(|pass| format!(", {}", pass.name())).unwrap_or_default();
        let about = format!("{}{pass}{layer}: {} µs", span.name, format::decimal(span.seconds * 1e6, 1));
        chart.bar(lane, group(span.pass), (span.start - start) * 1e3, span.seconds * 1e3, &about);
    }
    chart.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeline_is_of_a_usual_step() {
        assert_eq!(middle_step(&[(0.0, 9.0), (10.0, 11.0), (12.0, 14.0)]), (12.0, 14.0));
        assert_eq!(middle_step(&[]), (0.0, 0.0));
    }
}
