//! What a user reads when a device has no memory left, or a kernel fails.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use helixgrad::Result;
use helixgrad::device::{DType, Device};
use helixgrad::kmer::corpus::PretrainingData;
use helixgrad::model::{Head, Model};
use helixgrad::optim::AdamWConfig;
use helixgrad::train::feed::Feed;
use helixgrad::train::step::Trainer;

use crate::sampling::{corpus, vocabulary};
use crate::watched::Watched;
use crate::{config, device, options};

/// One step, genome and all, on a device that is watched.
fn step(watched: Watched) -> Result<()> {
    let device = Device::Kernels(Arc::new(watched));
    let model = Model::initialise(config(32), Head::MaskedLm, DType::F32, 3).unwrap();
    let mut trainer = Trainer::new(model, AdamWConfig::default(), &device, DType::Bf16, 1)?;
    let (data, vocabulary) = (PretrainingData::Genome(corpus()), vocabulary());
    let mut options = options(&device, DType::Bf16);
    (options.tokens_per_step, options.micro_batches) = (96, 1);
    let feed = Feed::new(&data, &vocabulary, &options, &trainer)?;
    feed.advance(&mut trainer, 0, 1e-3)?;
    trainer.report().map(|_| ())
}

#[test]
fn out_of_memory_says_for_what_and_what_to_do() {
    let mut purposes = BTreeSet::new();
    let mut messages = Vec::new();
    for left in (0..14).chain((20..).step_by(12)) {
        let Err(error) = step(Watched::over(&device()).with_allocations(left)) else { break };
        let message = error.to_string();
        assert_eq!(error.exit_code(), 1);
        assert!(message.starts_with("out of memory on watched"), "{message}");
        assert!(
            message.contains("more, and 0.0 KiB of 1.00 GiB are free") && message.contains("what to do: "),
            "{message}"
        );
        let purpose = message.split(": ").nth(1).unwrap().split(" takes ").next().unwrap();
        purposes.insert(purpose.split(" through ").next().unwrap().split(" after ").next().unwrap().to_owned());
        messages.push(message);
    }
    let expected = [
        "the f32 copy of the weights",
        "the first operation",
        "the gradients",
        "the model's weights",
        "the operation",
        "the optimizer's moments",
        "the packed genome",
        "the way back",
    ];
    for purpose in expected {
        assert!(purposes.contains(purpose), "{purpose} is not among {purposes:?}");
    }
    let of_step = messages.iter().find(|message| message.contains("the way back through")).unwrap();
    assert!(of_step.contains("--micro-batches") && of_step.contains("held so far: weights 4"), "{of_step}");
    assert!(
        of_step.contains("gradients 3") && of_step.contains("moments 6") && of_step.contains("activations"),
        "{of_step}"
    );
}

const LATE: &str = "gather_backward_bf16";

#[test]
fn a_kernel_that_fails_late_is_among_the_launches_named() {
    let message = step(Watched::over(&device()).failing(LATE)).unwrap_err().to_string();
    assert!(message.contains("an illegal address") && message.contains("the newest first"), "{message}");
    assert!(message.contains("norm_finish (grid [1, 1, 1], block [256, 1, 1], 0 shared bytes, sizes ["), "{message}");
    assert!(message.contains("HELIXGRAD_CHECK_LAUNCHES=1"), "{message}");
}

/// The variable is read once a process, so the test runs itself in another one.
#[test]
fn with_check_launches_the_one_that_fails_is_named() {
    if std::env::var_os("HELIXGRAD_CHECK_LAUNCHES").is_some() {
        let message = step(Watched::over(&device()).failing(LATE)).unwrap_err().to_string();
        assert!(message.starts_with(&format!("kernel {LATE} (grid [")) && message.contains("sizes ["), "{message}");
        return;
    }
    let name = "errors::with_check_launches_the_one_that_fails_is_named";
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name]).env("HELIXGRAD_CHECK_LAUNCHES", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A driver that is newer than our bindings may return what they do not list. Behind the emulated libcuda, whose one function is told to;
/// the driver reads its environment when it is called, so the test runs itself in another process.
#[test]
fn a_status_that_nobody_knows_is_told_as_a_number() {
    let Some(device) = crate::emulated::named().filter(|device| device.to_string().contains("emulated GPU")) else {
        println!("skipped: not behind tools/emulated_gpu.sh");
        return;
    };
    if std::env::var_os("EMULATED_GPU_STATUS").is_some() {
        let error = helixgrad::device::Buffer::on(&device, 16, DType::F32).err().unwrap().to_string();
        assert!(error.contains("status 4711, for which the driver has no words"), "{error}");
        return;
    }
    let name = "errors::a_status_that_nobody_knows_is_told_as_a_number";
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name]).env("EMULATED_GPU_STATUS", "cuMemAlloc_v2=4711").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
