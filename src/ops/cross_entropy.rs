//! Softmax cross-entropy: the end of the tape. Loss and gradient in one pass; the logits are consumed.

use std::rc::Rc;

use super::{for_real, kernel, work};
use crate::autograd::{DeviceBatch, Tape, Tensor};
use crate::device::{Buffer, DType, Device, Launch, cpu};
use crate::{Error, Result};

/// What a forward pass amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Loss {
    /// Sum over rows of -log(probability of the label), in nats.
    pub sum: f64,
    /// Rows whose label has the largest logit.
    pub hits: u64,
    /// Number of rows.
    pub rows: u64,
}

impl Loss {
    /// Mean loss of a row, in nats; 0 without rows.
    pub fn mean(&self) -> f64 {
        self.sum / self.rows.max(1) as f64
    }

    /// Share of rows that were right.
    pub fn accuracy(&self) -> f64 {
        self.hits as f64 / self.rows.max(1) as f64
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.hits += other.hits;
        self.rows += other.rows;
    }
}

/// The losses of several batches, left where they were computed until somebody wants them: a step need not wait.
pub struct Losses {
    /// Those that the host knows, before those that it does not.
    known: Vec<Loss>,
    /// The rows of those that only the device knows.
    pending: Vec<u64>,
    /// (sum, hits) of each of them in its memory, `[CAPACITY, 2]`; none on the CPU.
    totals: Option<Buffer>,
}

impl Losses {
    /// Losses that can be left on the device before one more has to wait for them.
    const CAPACITY: usize = 512;

    /// Room for losses on `device`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(device: &Device) -> Result<Self> {
        let totals = match device {
            Device::Cpu => None,
            Device::Kernels(_) => Some(Buffer::on(device, 2 * Self::CAPACITY, DType::F64)?),
        };
        Ok(Self { known: Vec::new(), pending: Vec::new(), totals })
    }

    /// The losses since the last call, in order. Waits for the device.
    ///
    /// # Errors
    /// Those of the device; the failure of an earlier launch may show here.
    pub fn take(&mut self) -> Result<Vec<Loss>> {
        self.fetch()?;
        Ok(std::mem::take(&mut self.known))
    }

    /// The loss that was added last, if the host knows it.
    pub fn last_known(&self) -> Option<Loss> {
        if self.pending.is_empty() { self.known.last().copied() } else { None }
    }

    /// Adds the loss of a batch without rows.
    ///
    /// # Errors
    /// As [`Losses::take`].
    pub fn add_nothing(&mut self) -> Result<()> {
        if self.totals.is_none() {
            self.known.push(Loss::default());
        } else {
            self.slot()?;
            self.pending.push(0);
        }
        Ok(())
    }

    /// Adds a loss that the host has computed or waited for.
    ///
    /// # Errors
    /// As [`Losses::take`].
    pub fn add(&mut self, loss: Loss) -> Result<()> {
        self.fetch()?;
        self.known.push(loss);
        Ok(())
    }

    /// The place in the device's memory for one more loss.
    fn slot(&mut self) -> Result<usize> {
        if self.pending.len() == Self::CAPACITY {
            self.fetch()?;
        }
        Ok(2 * self.pending.len())
    }

    fn fetch(&mut self) -> Result<()> {
        if let Some(totals) = self.totals.as_ref().filter(|_| !self.pending.is_empty()) {
            let totals = totals.read::<f64>()?;
            let losses = self.pending.drain(..).zip(totals.chunks_exact(2));
            self.known.extend(losses.map(|(rows, total)| match rows {
                0 => Loss::default(),
                _ => Loss { sum: total[0], hits: total[1] as u64, rows },
            }));
        }
        Ok(())
    }
}

/// As [`cross_entropy_into`], for one batch; waits for the loss.
///
/// # Errors
/// As [`cross_entropy_into`].
pub fn cross_entropy(tape: &mut Tape, batch: &Rc<DeviceBatch>, logits: Tensor, scale: f64) -> Result<Loss> {
    let mut losses = Losses::new(tape.device())?;
    cross_entropy_into(tape, batch, logits, scale, &mut losses)?;
    Ok(losses.take()?.into_iter().fold(Loss::default(), |mut sum, loss| {
        sum += loss;
        sum
    }))
}

/// Adds the loss of `logits` (`[batch.rows, classes]`) against `batch.labels` to `all`. When recording, the gradient of
/// `scale * Loss::sum` goes back from here.
///
/// # Errors
/// [`Error::Failed`] if a label is no class.
pub fn cross_entropy_into(
    tape: &mut Tape,
    batch: &Rc<DeviceBatch>,
    logits: Tensor,
    scale: f64,
    all: &mut Losses,
) -> Result<()> {
    let started = tape.start("cross_entropy");
    let rows = logits.rows;
    assert_eq!(batch.labels.len(), rows, "cross_entropy: one label a row");
    let mut gradient = tape.take_value(logits);
    let mut losses = tape.allocate_scratch(rows)?;
    let mut hits = tape.allocate_as(rows, DType::I32)?;
    let work = work::cross_entropy(rows, logits.columns, tape.dtype().size());
    tape.count(work);
    match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let labels = batch.labels.slice::<i32>();
            if let Some(label) = labels.iter().find(|&&label| !(0..logits.columns as i32).contains(&label)) {
                return Err(Error::Failed(format!("label {label} is none of the {} classes", logits.columns)));
            }
            let scale = <T as cpu::Real>::of(scale);
            cpu::cross_entropy::forward::<T>(gradient.slice_mut(), labels, scale, losses.slice_mut(), hits.slice_mut());
            all.known.push(Loss {
                sum: losses.to_f64()?.iter().sum(),
                hits: hits.slice::<i32>().iter().map(|&hit| hit as u64).sum(),
                rows: rows as u64,
            });
        }),
        device => {
            let launch =
                Launch::new(kernel("cross_entropy_forward", tape.dtype()), rows.max(1), 256).write(&mut gradient);
            let launch = launch.read(&batch.labels).int(rows).int(logits.columns).int(logits.stride);
            device.launch(&launch.value(scale as f32).work(work).write(&mut losses).write(&mut hits))?;
            let slot = all.slot()?;
            let Some(totals) = &mut all.totals else { panic!("losses of another device than the batch's") };
            let launch = Launch::new("cross_entropy_total", 1, 256).work(work::loss_total(rows));
            let launch = launch.read(&losses).read(&hits).int(rows);
            device.launch(&launch.write_at(totals, slot))?;
            all.pending.push(rows as u64);
        }
    }
    tape.recycle(losses);
    tape.recycle(hits);
    tape.put_gradient(logits, gradient);
    tape.record("cross_entropy", started, |_, _| Ok(()));
    Ok(())
}
