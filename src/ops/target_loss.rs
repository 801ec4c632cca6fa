//! What the losses against a number for every logit share: memory, launch, sums, and the way back.

use super::{Losses, kernel, work};
use crate::Result;
use crate::autograd::{Tape, Tensor};
use crate::device::{Buffer, DType, Device, Launch, Work};

/// The buffers of a loss on the CPU.
pub(super) struct TargetLoss<'a> {
    /// `[rows, columns]`, replaced with the gradient.
    pub logits: &'a mut Buffer,
    /// `[rows, columns]` of f32.
    pub targets: &'a Buffer,
    pub scale: f64,
    /// `[rows]`.
    pub losses: &'a mut Buffer,
    /// `[rows]` of i32.
    pub hits: &'a mut Buffer,
}

/// Computes the loss `op` of `logits` against `targets`, of which each weighs `scale`, adds it to `all`, and puts the gradient of the logits on the tape. `more` adds what the
/// kernel takes behind the targets.
pub(super) fn run(
    tape: &mut Tape,
    op: &'static str,
    logits: Tensor,
    (targets, scale): (&Buffer, f64),
    all: &mut Losses,
    more: impl FnOnce(Launch) -> Launch,
    on_cpu: impl FnOnce(TargetLoss),
) -> Result<()> {
    let started = tape.start(op);
    let rows = logits.rows;
    assert_eq!(targets.len(), rows * logits.columns, "{op}: one target a logit");
    // As a softmax' loss and gradient, but for the reading of the targets.
    let work = work::cross_entropy(rows, logits.columns, tape.dtype().size()) + Work::new(4 * targets.len(), 0);
    tape.count(work);
    let mut gradient = tape.take_value(logits);
    let mut losses = tape.allocate_scratch(rows)?;
    let mut hits = tape.allocate_as(rows, DType::I32)?;
    match tape.device() {
        Device::Cpu => {
            let (logits, losses, hits) = (&mut gradient, &mut losses, &mut hits);
            on_cpu(TargetLoss { logits, targets, scale, losses, hits });
        }
        device => {
            let launch = Launch::new(kernel(&format!("{op}_forward"), tape.dtype()), rows.div_ceil(8).max(1), 256);
            let launch = more(launch.write(&mut gradient).read(targets));
            let launch = launch.int(rows).int(logits.columns).int(logits.stride);
            device.launch(&launch.value(scale as f32).work(work).write(&mut losses).write(&mut hits))?;
        }
    }
    all.add_rows(tape.device(), &losses, &hits, rows as f64)?;
    tape.recycle(losses);
    tape.recycle(hits);
    tape.put_gradient(logits, gradient);
    tape.record(op, started, |_, _| Ok(()));
    Ok(())
}
