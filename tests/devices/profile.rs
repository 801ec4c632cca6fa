//! A profile of a device with kernels: every launch is found, timed, and belongs to an operation.

use std::sync::Arc;
use std::time::Duration;

use helixgrad::bench::plan::{Target, plan};
use helixgrad::bench::profile::profile;
use helixgrad::bench::{Mix, Workload, counted};
use helixgrad::device::attention_kernels::AttentionPath;
use helixgrad::device::chips::Chip;
use helixgrad::device::{DType, Device};
use helixgrad::model::{Config, Head, Recompute};
use helixgrad::train::ceilings::{Ceilings, Sizes};

use crate::emulated;
use crate::fixture::Golden;
use crate::watched::Watched;

fn workload() -> Workload {
    Workload {
        config: super::config(32),
        head: Head::MaskedLm,
        batch: 2,
        length: 40,
        mix: Mix::Full,
        masked: 0.2,
        recompute: Recompute::None,
        steps: 1,
        collected: None,
    }
}

#[test]
fn kernels_are_timed_and_accounted_for() {
    let workload = workload();
    let sizes = Sizes { copied: 1 << 16, product: 64, budget: Duration::ZERO };
    let profile = profile(&workload, &super::device(), DType::Bf16, 1, &sizes).unwrap();
    assert!(profile.times_kernels);
    let calls =
        |name: &str| -> f64 { profile.rows.iter().filter(|row| row.name == name).map(|row| row.calls_per_step).sum() };
    // Compute capability 9.0 has attention kernels of its own.
    let attention =
        ["attention_forward_bf16_d32", "attention_forward_sm90_bf16_d32"].into_iter().find(|name| calls(name) > 0.0);
    let attention = attention.expect("one of the two families ran");
    // One behind the embeddings, two a layer, one in the head.
    assert_eq!((calls("layernorm_forward_bf16"), calls("layernorm_backward_bf16")), (6.0, 6.0));
    assert_eq!((calls(attention), calls("adamw_update_bf16_f32")), (2.0, 1.0));
    let row = |name: &str| profile.rows.iter().find(|row| row.name == name).unwrap();
    let attention = row(attention);
    assert_eq!((attention.op, attention.flops_per_call), (Some("attention"), Some(4.0 * 64.0 * 2.0 * 1600.0)));
    // Kernels belong to operations; what lies between them is the batch on its way.
    for span in &profile.recording.spans {
        assert!(span.op.is_some() || span.name.starts_with("copy") || span.name == "fill", "{}", span.name);
        assert!(span.seconds >= 0.0 && span.start >= 0.0);
    }
    for (row, what) in profile.rows.iter().filter(|row| row.op.is_some()).map(|row| (row, row.name.as_str())) {
        assert!(row.roofline.is_none_or(|roofline| roofline > 0.0), "{what}");
    }
    let layers = profile.recording.spans.iter().filter(|span| span.name.starts_with("attention_forward"));
    assert_eq!(layers.map(|span| span.layer).collect::<Vec<_>>(), [Some(0), Some(1)]);
    assert!(profile.memory.master_weights == 2 * profile.memory.weights);
}

/// Behind the emulated driver that executes PTX and counts: the launches are those that were planned, and so is what they move.
#[test]
fn what_kernels_do_is_counted() {
    if emulated::named().is_none() || std::env::var_os(counted::COUNTERS).is_none() {
        println!("skipped: no emulated driver that counts");
        return;
    }
    let counted = counted::count(&workload(), &super::device(), DType::Bf16, 1).unwrap();
    let kernel = |name: &str| counted.kernels.iter().find(|kernel| kernel.kernel == name).unwrap();
    for name in ["layernorm_forward_bf16", "layernorm_backward_bf16", "adamw_update_bf16_f32", "embedding_forward_bf16"]
    {
        let (kernel, plan) = (kernel(name), kernel(name).plan.as_ref().unwrap());
        assert_eq!(kernel.launches, plan.calls, "{name}");
        // Tables that all rows share are read by each block, where L1 keeps nothing.
        let moved = kernel.counts.get("l2_bytes") as f64 / plan.work.bytes;
        assert!((0.99..3.0).contains(&moved), "{name}: {moved} times the bytes that are stated");
    }
    let row = kernel("layernorm_forward_bf16");
    assert_eq!(
        row.counts.get("store_sectors"),
        row.counts.get("store_sectors_least"),
        "rows are written in whole sectors"
    );
    assert!(
        counted.lines.iter().any(|line| line.file == "kernels/layernorm.cu" && line.counts.get("load_sectors") > 0)
    );
    let page = counted::page(&counted, "a small model", "helixgrad profile --emulate");
    assert!(page.contains("kernels/layernorm.cu:") && page.contains("layernorm_forward_bf16"));
}

/// A layer of BigBird with heads of 8, and one sequence.
fn big_bird(length: usize) -> Workload {
    let config = Config {
        num_hidden_layers: 1,
        max_position_embeddings: 4096,
        ..Golden::read("bigbird_blocks64_train").config()
    };
    Workload { config, batch: 1, length, ..workload() }
}

/// What `count` finds in the three kernels of attention, whose sum doubles with the length, and would be four times as much if all pairs were
/// computed.
fn grows_with_the_length(count: impl Fn(usize) -> Vec<(String, f64)>, length: usize) {
    let sum = |length: usize| {
        let kernels = count(length);
        let own =
            |part: &str| kernels.iter().find(|(name, _)| name.starts_with(part)).expect("a kernel of attention").1;
        own("attention_forward") + own("attention_backward_queries") + own("attention_backward_keys")
    };
    let ratio = sum(2 * length) / sum(length);
    println!("from {length} to {} tokens: {ratio:.2} times as much", 2 * length);
    assert!((1.8..2.3).contains(&ratio), "from {length} to {} tokens: {ratio}", 2 * length);
}

#[test]
fn a_plan_of_big_birds_blocks_grows_with_the_length() {
    let target = Target {
        chip: Chip::named("h200").unwrap(),
        attention: AttentionPath::Auto,
        dtype: DType::Bf16,
        launch_microseconds: 0.0,
    };
    let planned = |length: usize| plan(&big_bird(length), &target, 1).unwrap().kernels;
    grows_with_the_length(
        |length| planned(length).into_iter().map(|kernel| (kernel.kernel, kernel.work.flops)).collect(),
        2048,
    );
    let floors =
        |length: usize| planned(length).into_iter().map(|kernel| (kernel.kernel, kernel.floor_milliseconds)).collect();
    grows_with_the_length(floors, 2048);
}

/// Behind the emulated driver that executes PTX and counts: instructions.
#[test]
fn the_work_of_big_birds_blocks_grows_with_the_length() {
    if emulated::named().is_none() || std::env::var_os(counted::COUNTERS).is_none() {
        println!("skipped: no emulated driver that counts");
        return;
    }
    let instructions = |length: usize| {
        let counted = counted::count(&big_bird(length), &super::device(), DType::Bf16, 1).unwrap();
        let of = |kernel: counted::CountedKernel| (kernel.kernel, kernel.counts.get("warp_instructions") as f64);
        counted.kernels.into_iter().map(of).collect()
    };
    grows_with_the_length(instructions, 1024);
}

/// Kernels are judged by the faster of two products: theirs, and that of cuBLASLt where it can be had.
#[test]
fn the_ceiling_is_that_of_the_faster_product() {
    let sizes = Sizes { copied: 1 << 16, product: 64, budget: Duration::ZERO };
    let measure = |device: &Device| Ceilings::measure(device, DType::Bf16, &sizes).unwrap();
    let own = measure(&emulated::device());
    let vendor = measure(&Device::Kernels(Arc::new(Watched::over(&emulated::device()).with_vendor())));
    assert!(!own.by_cublaslt && vendor.by_cublaslt, "{own:?} {vendor:?}");
    assert!(vendor.flops_per_second > own.flops_per_second, "{own:?} {vendor:?}");
    assert!(vendor.describe().ends_with("by cuBLASLt") && own.describe().ends_with("FLOP/s"));
}
