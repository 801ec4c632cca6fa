//! Softmax cross-entropy: the end of the tape. Loss and gradient in one pass; the logits are consumed.

use std::rc::Rc;
use std::time::Instant;

use super::{for_real, kernel};
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

/// The loss of `logits` (`[batch.rows, classes]`) against `batch.labels`. When recording, the gradient of
/// `scale * Loss::sum` goes back from here.
///
/// # Errors
/// [`Error::Failed`] if a label is no class.
pub fn cross_entropy(tape: &mut Tape, batch: &Rc<DeviceBatch>, logits: Tensor, scale: f64) -> Result<Loss> {
    let started = Instant::now();
    let rows = logits.rows;
    assert_eq!(batch.labels.len(), rows, "cross_entropy: one label a row");
    let mut gradient = tape.take_value(logits);
    let mut losses = tape.allocate_scratch(rows)?;
    let mut hits = tape.allocate_as(rows, DType::I32)?;
    let loss = match tape.device() {
        Device::Cpu => for_real!(tape.dtype(), T => {
            let labels = batch.labels.slice::<i32>();
            if let Some(label) = labels.iter().find(|&&label| !(0..logits.columns as i32).contains(&label)) {
                return Err(Error::Failed(format!("label {label} is none of the {} classes", logits.columns)));
            }
            let scale = <T as cpu::Real>::of(scale);
            cpu::cross_entropy::forward::<T>(gradient.slice_mut(), labels, scale, losses.slice_mut(), hits.slice_mut());
            Loss {
                sum: losses.to_f64()?.iter().sum(),
                hits: hits.slice::<i32>().iter().map(|&hit| hit as u64).sum(),
                rows: rows as u64,
            }
        }),
        device => {
            let launch =
                Launch::new(kernel("cross_entropy_forward", tape.dtype()), rows.max(1), 256).write(&mut gradient);
            let launch = launch.read(&batch.labels).int(rows).int(logits.columns).int(logits.stride);
            device.launch(&launch.value(scale as f32).write(&mut losses).write(&mut hits))?;
            let mut total = Buffer::on(device, 2, DType::F64)?;
            let launch = Launch::new("cross_entropy_total", 1, 256).read(&losses).read(&hits).int(rows);
            device.launch(&launch.write(&mut total))?;
            let total = total.read::<f64>()?;
            Loss { sum: total[0], hits: total[1] as u64, rows: rows as u64 }
        }
    };
    tape.recycle(losses);
    tape.recycle(hits);
    tape.put_gradient(logits, gradient);
    tape.record("cross_entropy", started, |_, _| Ok(()));
    Ok(loss)
}
