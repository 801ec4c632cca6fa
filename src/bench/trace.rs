//! A recording in the trace event format that Chrome (`chrome://tracing`) and Perfetto (<https://ui.perfetto.dev>) open.

use serde_json::{Value, json};

use super::profile::Recording;

/// The trace as JSON text. Times are in microseconds, as the format wants them; rows are the steps, the pieces of work, and
/// the layers that they belong to.
pub fn render(recording: &Recording, device: &str) -> String {
    const STEPS: u32 = 1;
    const LAYERS: u32 = 2;
    const PIECES: u32 = 3;
    let mut events = vec![named("process_name", 0, device)];
    for (row, name) in [(STEPS, "steps"), (LAYERS, "layers"), (PIECES, "operations")] {
        events.push(named("thread_name", row, name));
    }
    for (number, &(start, end)) in recording.steps.iter().enumerate() {
        events.push(complete(STEPS, &format!("step {number}"), (start, end - start), json!({})));
    }
    for (layer, pass, start, end) in layers(recording) {
        events.push(complete(LAYERS, &format!("layer {layer} {pass}"), (start, end - start), json!({})));
    }
    for span in &recording.spans {
        let arguments = json!({
            "op": span.op,
            "pass": span.pass,
            "layer": span.layer,
            "bytes": span.work.bytes,
            "flops": span.work.flops,
        });
        events.push(complete(PIECES, &span.name, (span.start, span.seconds), arguments));
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
}

fn named(what: &str, row: u32, name: &str) -> Value {
    json!({ "ph": "M", "pid": 1, "tid": row, "name": what, "args": { "name": name } })
}

fn complete(row: u32, name: &str, (start, seconds): (f64, f64), arguments: Value) -> Value {
    json!({ "ph": "X", "pid": 1, "tid": row, "name": name, "ts": start * 1e6, "dur": seconds * 1e6, "args": arguments })
}

/// Neighbours of the same layer and direction, from the first to the last.
fn layers(recording: &Recording) -> Vec<(usize, &'static str, f64, f64)> {
    let mut layers: Vec<(usize, &'static str, f64, f64)> = Vec::new();
    let mut previous = None;
    for span in &recording.spans {
        let place = span.layer.zip(span.pass.map(|pass| pass.name()));
        let end = span.start + span.seconds;
        match (place, layers.last_mut()) {
            (Some(_), Some(last)) if place == previous => last.3 = end,
            (Some((layer, pass)), _) => layers.push((layer, pass, span.start, end)),
            (None, _) => {}
        }
        previous = place;
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Pass;
    use crate::bench::profile::Span;
    use crate::device::Work;

    #[test]
    fn a_trace_has_every_piece_and_joins_layers() {
        let span = |name: &str, layer, start| Span {
            name: name.into(),
            op: Some("linear"),
            pass: Some(Pass::Forward),
            layer,
            start,
            seconds: 0.5,
            work: Work::new(8, 16),
        };
        let spans =
            vec![span("a", None, 0.0), span("b", Some(0), 0.5), span("c", Some(0), 1.0), span("d", Some(1), 2.0)];
        let recording = Recording { spans, calls: Vec::new(), steps: vec![(0.0, 2.5)] };
        let trace: Value = serde_json::from_str(&render(&recording, "cpu")).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |row: u64| -> Vec<(&str, f64, f64)> {
            let mine = events.iter().filter(|event| event["ph"] == "X" && event["tid"] == row);
            let number = |event: &Value, key: &str| event[key].as_f64().unwrap();
            mine.map(|event| (event["name"].as_str().unwrap(), number(event, "ts"), number(event, "dur"))).collect()
        };
        assert_eq!(of(1), [("step 0", 0.0, 2.5e6)]);
        assert_eq!(of(2), [("layer 0 forward", 0.5e6, 1e6), ("layer 1 forward", 2e6, 0.5e6)]);
        assert_eq!(of(3).len(), 4);
        assert_eq!(events.last().unwrap()["args"]["bytes"], 8.0);
    }
}
