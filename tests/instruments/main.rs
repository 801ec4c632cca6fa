//! The instruments, through the binary: throughput, profiles, TensorBoard's curves, ranges for Nsight.

mod benches;
mod events;
mod nvtx;
#[path = "../program/mod.rs"]
mod program;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use program::helixgrad;
use serde_json::Value;

/// Runs a command that must succeed and returns what it printed.
fn printed(arguments: &[&str]) -> String {
    let output = helixgrad(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(&[arguments, &["--json", "--quiet"]].concat())).unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

/// The same but for the last bits.
#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{found} instead of {expected}");
}

/// The roofline of a row is the larger of the shares of both ceilings, and its limit says which.
fn on_the_roofline(row: &Value, ceilings: &Value) {
    let memory = number(row, "gigabytes_per_second") * 1e9 / number(ceilings, "bytes_per_second");
    let arithmetic = number(row, "tflops") * 1e12 / number(ceilings, "flops_per_second");
    close(number(row, "roofline"), memory.max(arithmetic));
    let limit = match (memory, arithmetic) {
        (0.0, 0.0) => Value::Null,
        _ if arithmetic > memory => "arithmetic".into(),
        _ if memory > 1.0 => "cache".into(),
        _ => "memory".into(),
    };
    assert_eq!(row["limit"], limit, "{row}");
}

/// A step of a few hundred tokens.
const SMALL: [&str; 8] = ["--preset", "splice-small", "--batch", "4", "--length", "40", "--device", "cpu"];

/// The whole of DNABERT-6 with 65,536 tokens, counted: its memory is within the goals, every kernel states what it costs, and
/// the least time of a step leaves room for the goal of 60 % MFU.
#[test]
fn a_step_of_dnabert_is_planned_without_a_gpu() {
    let plan = |extra: &[&str]| json(&[&["plan", "--preset", "dnabert-6"], extra].concat());
    let kept = plan(&[]);
    let gigabytes = |plan: &Value| plan["memory_bytes"].as_f64().unwrap() / 1e9;
    assert_eq!(kept["tokens_per_step"], 65_536);
    assert!(gigabytes(&kept) < 40.0, "{}", gigabytes(&kept));
    let again = plan(&["--recompute", "layer"]);
    assert!(gigabytes(&again) < 16.0, "{}", gigabytes(&again));
    // Of twelve layers one computes what is behind its attention for the masked tokens alone, and one is always there.
    let gelu = plan(&["--recompute", "gelu"]);
    let saved = 10.0 * 65_536.0 * 3072.0 * 2.0 / 1e9;
    assert!(gigabytes(&kept) - gigabytes(&gelu) > saved, "{} of {}", gigabytes(&gelu), gigabytes(&kept));
    let work = |plan: &Value, kernel: &str| {
        let rows = plan["kernels"].as_array().unwrap();
        let row = rows.iter().find(|row| row["kernel"] == kernel).cloned().unwrap_or_default();
        (row["calls"].as_u64().unwrap_or(0), row["work"]["bytes"].as_f64().unwrap_or(0.0))
    };
    let (passes, bytes) = work(&gelu, "bias_gelu_forward_bf16");
    assert_eq!((passes, work(&kept, "bias_gelu_forward_bf16").0), (12, 0));
    // About 15 % of the tokens are masked.
    let elements = 11.15 * 65_536.0 * 3072.0;
    assert!((bytes / (4.0 * elements) - 1.0).abs() < 0.001, "{bytes}");
    let owners: f64 = kept["memory"].as_array().unwrap().iter().map(|row| row[1].as_f64().unwrap()).sum();
    assert!((gigabytes(&kept) - owners / 1e9) / gigabytes(&kept) < 0.05, "{owners} of {}", kept["memory_bytes"]);
    let kernels = kept["kernels"].as_array().unwrap();
    // A debug build fills memory that it hands out.
    let fills: f64 =
        kernels.iter().filter(|row| row["kernel"] == "fill").map(|row| row["share"].as_f64().unwrap()).sum();
    let mfu = kept["mfu_at_most"].as_f64().unwrap() / (1.0 - fills);
    // The products alone cannot pass what cuBLAS reaches, 81 % of the data sheet's rate.
    assert!((0.6..0.81).contains(&mfu), "{mfu}");
    assert!(number(&kept, "data_sheet_milliseconds") < number(&kept, "floor_milliseconds"));
    for kernel in kernels {
        let floors = &kernel["floors"];
        let each = ["memory", "arithmetic", "issue"].map(|part| floors[part].as_f64().unwrap_or(0.0));
        let (largest, sum) = (each.into_iter().fold(0.0, f64::max), number(kernel, "floor_milliseconds"));
        // Of calls of several shapes each has its own largest.
        assert!(sum > 0.999 * largest && sum <= each.iter().sum::<f64>(), "{kernel}");
        // Copies have no instructions, and the sort of tokens no hot loop that moves its bytes.
        let known = floors["issue"].is_number() || !kernel["kernel"].as_str().unwrap().contains("bf16");
        assert!(known, "tests/issue_budget.toml lacks {kernel}");
    }
    let bound = |kernel: &str| kernels.iter().find(|row| row["kernel"] == kernel).unwrap()["bound_by"].clone();
    assert_eq!(bound("adamw_update_bf16_f32"), "memory");
    let of = |part: &str| kernels.iter().filter(|row| row["kernel"].as_str().unwrap().contains(part)).count();
    assert!(of("sm90") >= 5, "{kernels:?}");
    // The same products, whatever runs them: 6 FLOP a weight and token, and attention's.
    let flops: f64 = kernels.iter().map(|row| row["work"]["flops"].as_f64().unwrap()).sum();
    assert!(flops > 6.0 * 85e6 * 65_536.0, "{flops}");
    let floor = |plan: &Value| plan["floor_milliseconds"].as_f64();
    assert!(floor(&plan(&["--chip", "a100"])) > floor(&kept));
    // Seven products instead of five for attention's gradients.
    let split = plan(&["--attention", "sm90-split"]);
    assert!(floor(&split) > floor(&kept));
    // Of the biases only the decoder's takes a pass for its gradient; with two kernels for attention's gradients those of its layers do, too.
    let passes = |plan: &Value| -> f64 {
        let rows = plan["kernels"].as_array().unwrap().iter();
        rows.filter(|row| row["kernel"] == "column_sums_partial_bf16").map(|row| number(row, "calls")).sum()
    };
    assert_eq!([&kept, &split].map(passes), [1.0, 13.0]);
}

/// DNABERT-6's 357 MB over eight GPUs and over eight machines of eight, by hand: 2 x 7/8 of them over 360 GB/s; 2 x 56/64 over 45.
#[test]
fn several_gpus_are_planned() {
    let plan = |extra: &[&str]| json(&[&["plan", "--preset", "dnabert-6"], extra].concat());
    let alone = plan(&[]);
    assert!(alone.get("scaling").is_none());
    let eight = plan(&["--gpus", "8"])["scaling"].clone();
    let gradients = number(&eight, "gradient_bytes");
    assert!((gradients - 4.0 * 89.2e6).abs() < 0.02 * gradients, "{gradients}");
    close(number(&eight, "transfer_milliseconds"), 2.0 * gradients * 7.0 / 8.0 / 360e9 * 1e3);
    close(number(&eight, "add_milliseconds"), 3.0 * gradients * 7.0 / 8.0 / 4.3e12 * 1e3);
    let step = number(&alone, "milliseconds_at_least");
    let all = step + number(&eight, "transfer_milliseconds") + number(&eight, "add_milliseconds");
    close(number(&eight, "milliseconds_at_least"), all);
    close(number(&eight, "efficiency"), step / all);
    close(number(&eight, "tokens_per_second_at_most"), 8.0 * 65_536.0 / all * 1e3);
    let many = plan(&["--gpus", "8", "--nodes", "8"])["scaling"].clone();
    close(number(&many, "transfer_milliseconds"), 2.0 * gradients * 56.0 / 64.0 / 45e9 * 1e3);
    let slow = plan(&["--gpus", "8", "--nodes", "8", "--network", "1.25"])["scaling"].clone();
    assert!(number(&slow, "efficiency") < 0.3 && number(&slow, "efficiency") < number(&many, "efficiency"));
    let text = printed(&["plan", "--preset", "dnabert-6", "--gpus", "8", "--network", "1.25", "--nodes", "2"]);
    assert!(text.contains("2 x 8 GPUs") && text.contains("assumed: NVLink 4") && text.contains("as given"), "{text}");
    let refused = helixgrad(&["plan", "--gpus", "0"]);
    assert_eq!(refused.status.code(), Some(2));
}

/// Sizes by their flags, a whole training, a scan, and what it costs to launch kernels that are shorter than a launch.
#[test]
fn trainings_and_scans_of_any_size_are_planned() {
    let plan = |extra: &[&str]| json(&[&["plan", "--preset", "splice-small", "--batch", "8"], extra].concat());
    let small = plan(&[]);
    // splice-small has three layers of 128; the flags are those of `pretrain`.
    let same =
        ["--preset", "mini", "--k", "3", "--layers", "3", "--hidden", "128", "--heads", "4", "--intermediate", "512"];
    let same = json(&[&["plan"], &same[..], &["--length", "80", "--task", "splice", "--batch", "8"]].concat());
    assert_eq!((&same["launches"], &same["floor_milliseconds"]), (&small["launches"], &small["floor_milliseconds"]));
    // Every layer is as many launches.
    let [three, six, nine] = ["3", "6", "9"].map(|layers| number(&plan(&["--layers", layers]), "launches"));
    assert!(
        six - three > 60.0 && nine - six == six - three && number(&small, "launches") == three,
        "{three} {six} {nine}"
    );
    let text = printed(&["plan", "--preset", "splice-small", "--layers", "6", "--batch", "8"]);
    assert!(text.starts_with("splice-small --layers 6, 8 sequences of 80 tokens (bf16) on: "), "{text}");
    assert_eq!(helixgrad(&["plan", "--hidden", "100", "--heads", "3"]).status.code(), Some(2));

    // 640 tokens a step: the host sets the pace, by what a launch is assumed to take.
    let launch = number(&small, "launches") * 3.8e-3;
    close(number(&small, "launch_milliseconds"), launch);
    assert!(launch > number(&small, "floor_milliseconds"), "{small}");
    close(number(&small, "milliseconds_at_least"), launch);
    assert!(small["launch_source"].as_str().unwrap().starts_with("assumed"));
    assert!(text.contains("the host sets the pace") && text.contains("assumed"), "{text}");
    let free = plan(&["--launch-microseconds", "0"]);
    close(number(&free, "milliseconds_at_least"), number(&small, "floor_milliseconds"));
    assert_eq!(free["launch_source"], "as given");
    close(number(&free, "tokens_per_second_at_most"), 640e3 / number(&small, "floor_milliseconds"));
    for wrong in ["-1", "nan", "1e9"] {
        assert_eq!(helixgrad(&["plan", "--launch-microseconds", wrong]).status.code(), Some(2), "{wrong}");
    }

    assert!(small["training"].is_null() && small["scan"].is_null());
    for (asked, steps) in [(["--steps", "1000"], 1000.0), (["--tokens", "6401"], 11.0)] {
        let training = &plan(&asked)["training"];
        close(number(training, "steps"), steps);
        close(number(training, "tokens"), steps * 640.0);
        close(number(training, "seconds_at_least"), steps * launch / 1e3);
    }
    let scan = |extra: &[&str]| plan(&[&["--scan", "1000000"], extra].concat())["scan"].clone();
    let quarter = scan(&[]);
    // 80 tokens of 3-mers are 80 bases; 16,384 bases are computed at a time.
    assert_eq!((&quarter["window"], &quarter["windows_at_a_time"]), (&80.into(), &204.into()));
    close(number(&quarter, "windows"), 250_000.0);
    let batch = number(&quarter, "floor_milliseconds").max(number(&quarter, "launch_milliseconds"));
    close(number(&quarter, "seconds_at_least"), 250_000.0 / 204.0 * batch / 1e3);
    close(number(&quarter, "bases_per_second_at_most") * number(&quarter, "seconds_at_least"), 1e6);
    // Forward alone: 2 FLOP a weight and token and no more than 3 with attention, and nothing is updated.
    let kernels = quarter["kernels"].as_array().unwrap();
    let flops: f64 = kernels.iter().map(|row| row["work"]["flops"].as_f64().unwrap()).sum();
    let weights = 3.0 * 12.0 * 128.0 * 128.0 * 204.0 * 80.0;
    assert!((1.0..3.0).contains(&(flops / weights)), "{}", flops / weights);
    assert!(!kernels.iter().any(|row| row["kernel"].as_str().unwrap().contains("adamw")), "{kernels:?}");
    close(number(&scan(&["--positions", "all"]), "windows"), 2e6);
    assert_eq!(scan(&["--window", "40"])["window"], 40);
    assert_eq!(helixgrad(&["plan", "--scan", "9", "--window", "9999"]).status.code(), Some(2));
    assert_eq!(helixgrad(&["plan", "--positions", "all"]).status.code(), Some(2));
    let text = printed(&["plan", "--preset", "splice-small", "--batch", "8", "--steps", "9", "--scan", "3100000000"]);
    assert!(text.contains("a training of 9 steps, 5,760 tokens: "), "{text}");
    assert!(text.contains("a scan of 3,100,000,000 bases, 775,000,000 windows of 80 bases: "), "{text}");
}

/// One table of chips. What nobody here knows of one is said to be unknown, and one that no kernel runs on is not planned for.
#[test]
fn chips_are_listed_with_what_is_known_of_them() {
    let chips = json(&["plan", "--preset", "mini", "--chips"]);
    let names: Vec<_> = chips.as_array().unwrap().iter().map(|chip| chip["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["h200", "h100", "a100", "b200", "rtx4090", "rtx5090", "t4", "v100"]);
    let listed = printed(&["plan", "--preset", "mini", "--chips"]);
    let row = |name: &str| listed.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
    assert!(row("h200").contains("4.30 (4.80)") && row("h200").contains("798 (989)"), "{listed}");
    assert!(row("b200").contains("unknown (8.00)") && row("b200").contains("PTX"), "{listed}");
    assert!(row("t4").contains("none") && listed.contains("h200, memory: a device-to-device copy, measured elsewhere"));
    let small = |chip: &str| json(&["plan", "--preset", "mini", "--batch", "4", "--chip", chip]);
    for (chip, code, known) in
        [("h100", "hopper", true), ("rtx4090", "ampere", true), ("b200", "ptx", false), ("rtx5090", "ptx", false)]
    {
        let plan = small(chip);
        assert_eq!((&plan["chip"]["name"], &plan["code"]), (&chip.into(), &code.into()));
        let kernels = plan["kernels"].as_array().unwrap();
        assert_eq!(kernels.iter().any(|kernel| kernel["floors"]["issue"].is_number()), known, "{chip}");
    }
    for chip in ["t4", "v100"] {
        let output = helixgrad(&["plan", "--preset", "mini", "--chip", chip]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("no kernel here runs on a") && message.contains("--chips"), "{message}");
    }
    assert_eq!(helixgrad(&["plan", "--preset", "mini", "--chip", "h300"]).status.code(), Some(2));
}

#[test]
fn a_profile_accounts_for_the_step_and_draws_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("profile");
    let out = out.to_str().unwrap();
    let profile = json(&[&["profile"], &SMALL[..], &["--steps", "2", "--out", out]].concat());
    let rows = profile["rows"].as_array().unwrap();
    let share: f64 = rows.iter().map(|row| row["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-9, "{share}");
    let row = |name: &str, pass: &str| rows.iter().find(|row| row["name"] == name && row["pass"] == pass).unwrap();
    // Three layers of two products and the head's one; the feed-forward block is an operation of its own.
    let calls = |name: &str| ["forward", "backward"].map(|pass| row(name, pass)["calls_per_step"].as_f64().unwrap());
    assert_eq!((calls("linear"), calls("feed_forward")), ([7.0; 2], [3.0; 2]));
    // Forward of all: sums over the layers of 2 rows x in x out, exact. 160 tokens, but 4 behind the last attention.
    let layer = |rows: f64, after: f64| 2.0 * 128.0 * (rows * 384.0 + after * 128.0);
    let linear = 2.0 * layer(160.0, 160.0) + layer(160.0, 4.0) + 2.0 * 4.0 * 128.0 * 3.0;
    // Two products with 512 columns between them, and GELU, which counts as 25 operations.
    let feed_forward = (2.0 * 160.0 + 4.0) * 512.0 * (2.0 * 2.0 * 128.0 + 25.0);
    for (name, expected) in [("linear", linear), ("feed_forward", feed_forward)] {
        let flops = row(name, "forward")["flops_per_call"].as_f64().unwrap() * calls(name)[0];
        assert!((flops / expected - 1.0).abs() < 1e-12, "{name}: {flops} {expected}");
    }
    let attention = 4.0 * 128.0 * 4.0 * 1600.0;
    assert_eq!(row("attention", "forward")["flops_per_call"], attention);
    // Of the step all products, forward and twice on the way back; GELU is none.
    let products = 3.0 * (linear + (2.0 * 160.0 + 4.0) * 512.0 * 2.0 * 2.0 * 128.0 + 3.0 * attention);
    close(number(&profile, "flops_per_step"), products);
    let mut milliseconds = 0.0;
    for row in rows.iter().filter(|row| !row["bytes_per_call"].is_null()) {
        let figure = |key: &str| number(row, key);
        let seconds = figure("microseconds_per_call") * 1e-6;
        close(figure("milliseconds_per_step"), figure("calls_per_step") * seconds * 1e3);
        close(figure("gigabytes_per_second"), figure("bytes_per_call") / seconds / 1e9);
        close(figure("tflops"), figure("flops_per_call") / seconds / 1e12);
        on_the_roofline(row, &profile["ceilings"]);
        milliseconds += figure("milliseconds_per_step");
    }
    // Other steps than those of the rows, so not the same; but they are steps.
    let ratio = milliseconds / number(&profile, "milliseconds_per_step");
    assert!((0.1..10.0).contains(&ratio), "{ratio}");
    let memory = &profile["memory"];
    assert_eq!(memory["moments"].as_u64().unwrap(), 2 * memory["weights"].as_u64().unwrap());
    assert!(memory["activations"].as_u64().unwrap() > 0 && memory["master_weights"] == 0);

    let page = fs::read_to_string(Path::new(out).join("profile.html")).unwrap();
    for part in ["<svg", "Roofline", "Timeline", "Memory", "linear", "layer 2", "a call of an operation", " GFLOP/s"] {
        assert!(page.contains(part), "{part} is missing in the page");
    }
    assert!(!page.contains("<script") && !page.contains("http-equiv") && !page.contains("src="), "self-contained");
    let trace: Value = serde_json::from_str(&fs::read_to_string(Path::new(out).join("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let calls: f64 = rows.iter().map(|row| row["calls_per_step"].as_f64().unwrap() * 2.0).sum();
    let pieces = events.iter().filter(|event| event["ph"] == "X" && event["tid"] == 3).count();
    assert_eq!(pieces as f64, calls);
    assert_eq!(events.iter().filter(|event| event["ph"] == "X" && event["tid"] == 1).count(), 2, "two steps");
    printed(&[&["profile"], &SMALL[..], &["--steps", "1", "--out", out]].concat());
}

/// What is computed again is counted where it runs, and once.
#[test]
fn a_profile_of_a_recomputed_step_counts_what_runs() {
    let profile =
        |recompute: &str| json(&[&["profile"], &SMALL[..], &["--steps", "1", "--recompute", recompute]].concat());
    let [kept, gelu, layer] = ["none", "gelu", "layer"].map(profile);
    let names = |profile: &Value| -> BTreeSet<String> {
        profile["rows"].as_array().unwrap().iter().map(|row| row["name"].to_string()).collect()
    };
    assert_eq!((names(&gelu), names(&layer)), (names(&kept), names(&kept)));
    let calls_and_flops = |profile: &Value, name: &str, pass: &str| {
        let rows = profile["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name && row["pass"] == pass).unwrap();
        let calls = number(row, "calls_per_step");
        (calls, calls * number(row, "flops_per_call"))
    };
    let [(calls, flops), (again_calls, again)] =
        [&kept, &gelu].map(|of| calls_and_flops(of, "feed_forward", "backward"));
    // 25 operations for each of 512 columns, and of the last layer four rows.
    assert_eq!((calls, again_calls, again - flops), (3.0, 3.0, 25.0 * (2.0 * 160.0 + 4.0) * 512.0));
    for (name, calls) in [("attention", 3.0), ("feed_forward", 3.0), ("linear", 7.0)] {
        let again = if name == "linear" { calls - 1.0 } else { calls };
        let forward = [&kept, &gelu, &layer].map(|of| calls_and_flops(of, name, "forward").0);
        assert_eq!(forward, [calls, calls, calls + again], "{name}: the head is not computed again");
    }
}

#[test]
fn a_profile_replaces_nothing_but_a_profile() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), "three years").unwrap();
    fs::write(folder.path().join("profile.html"), "somebody else's").unwrap();
    let out = folder.path().to_str().unwrap();
    let output = helixgrad(&[&["profile"], &SMALL[..], &["--out", out]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no folder of a profile"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn throughput_is_compared_with_an_earlier_run() {
    let folder = tempfile::tempdir().unwrap();
    let then = folder.path().join("then.json");
    let then = then.to_str().unwrap();
    let train = [&["bench", "train"], &SMALL[..], &["--steps", "6", "--mix", "dnabert"]].concat();
    let mut report = json(&train);
    assert_eq!(report["tokens_per_step"], 160);
    let figure = |key: &str| number(&report, key);
    let seconds = figure("seconds_per_step");
    close(figure("tokens_per_second") * seconds, 160.0);
    close(figure("sequences_per_second") * seconds, figure("sequences_per_step"));
    close(figure("tflops") * 1e12, figure("mfu") * number(&report["peak"], "flops_per_second"));
    assert!(report["seconds_per_step_range"][0].as_f64() <= Some(seconds), "{report}");
    assert!(report["seconds_per_step_range"][1].as_f64() >= Some(seconds), "{report}");
    // Of six steps the fastest and the slowest.
    assert_eq!(report["seconds_per_step_interval"], report["seconds_per_step_range"]);
    let ops = report["ops"].as_array().unwrap();
    let sum = |key: &str| ops.iter().map(|op| number(op, key)).sum::<f64>();
    close(sum("share"), 1.0);
    let calls =
        |name: &str| -> f64 { ops.iter().filter(|op| op["op"] == name).map(|op| number(op, "calls_per_step")).sum() };
    assert_eq!(["attention", "layernorm", "adamw"].map(calls), [6.0, 14.0, 1.0]);
    for op in ops {
        close(number(op, "share") * sum("milliseconds_per_step"), number(op, "milliseconds_per_step"));
        on_the_roofline(op, &report["ceilings"]);
    }
    assert!((0.1..10.0).contains(&(sum("milliseconds_per_step") * 1e-3 / seconds)), "{report}");
    // The same step as a profile's has the same arithmetic.
    let profile = json(&[&["profile"], &SMALL[..], &["--steps", "1", "--mix", "dnabert"]].concat());
    close(figure("tflops") * 1e12 * seconds, number(&profile, "flops_per_step"));
    assert!(report["mfu"].as_f64().unwrap() > 0.0 && report["ops"].as_array().unwrap().len() > 10);
    assert!(report["peak"]["source"].as_str().unwrap().starts_with("measured"));
    report["tokens_per_second"] = 1e-3.into();
    report["batch"] = 5.into();
    report["seconds_per_step_interval"] = serde_json::json!([1e-9, 1e9]);
    fs::write(then, report.to_string()).unwrap();
    let now = json(&[&train[..], &["--against", then]].concat());
    let ratios = now["against"]["ratios"].as_array().unwrap();
    assert_eq!(ratios[0][0], "tokens/s");
    let ratio = now["tokens_per_second"].as_f64().unwrap() / 1e-3;
    assert!((ratios[0][3].as_f64().unwrap() / ratio - 1.0).abs() < 1e-12, "{ratios:?}");
    assert!(ratios.iter().any(|ratio| ratio[0] == "ms: attention backward"));
    assert_eq!(now["against"]["differences"], serde_json::json!([["batch", "5", "4"]]));
    assert_eq!(now["against"]["verdict"], "within noise");
    let text = printed(&[&train[..], &["--against", then]].concat());
    assert!(text.contains("not the same: batch was 5 and is 4"), "{text}");
    assert!(text.contains("within noise: 95 % intervals of the medians are 0.000 to 1000000000000.000 ms"), "{text}");
    // A report of an older version.
    report.as_object_mut().unwrap().remove("seconds_per_step_interval");
    fs::write(then, report.to_string()).unwrap();
    let now = json(&[&train[..], &["--against", then]].concat());
    assert_eq!(
        (&now["against"]["verdict"], &now["against"]["milliseconds_per_step_intervals"][0]),
        (&"unknown".into(), &Value::Null)
    );
    // A model with another trunk is not set beside published figures.
    assert!(!text.contains("BioNeMo"));
}

#[test]
fn impossible_workloads_are_refused() {
    for wrong in [
        ["--batch", "0"],
        ["--length", "0"],
        ["--masked", "1.5"],
        ["--steps", "0"],
        ["--preset", "huge"],
        ["--mix", "odd"],
    ] {
        for command in [&["bench", "train"][..], &["profile"]] {
            let output = helixgrad(&[command, &["--device", "cpu"], &wrong].concat());
            assert_eq!(output.status.code(), Some(2), "{command:?} {wrong:?}");
            assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
        }
    }
    let output = helixgrad(&["bench", "train", "--against", "/nowhere.json", "--device", "cpu"]);
    assert_eq!(output.status.code(), Some(2));
}
