//! What a loss amounts to, and losses that stay where they were computed until somebody wants them.

use super::work;
use crate::Result;
use crate::autograd::Tape;
use crate::device::{Buffer, DType, Device, Launch};

/// What a forward pass amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Loss {
    /// Sum over rows of -log(probability of the label), in nats, each times what the row weighs.
    pub sum: f64,
    /// What the rows weigh together: their number, unless classes have weights.
    pub weight: f64,
    /// Rows whose label has the largest logit.
    pub hits: u64,
    /// Number of rows.
    pub rows: u64,
}

impl Loss {
    /// Mean loss of a row by the rows' weights, in nats; 0 without rows.
    pub fn mean(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.sum / self.weight }
    }

    /// Share of rows that were right.
    pub fn accuracy(&self) -> f64 {
        self.hits as f64 / self.rows.max(1) as f64
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
        self.hits += other.hits;
        self.rows += other.rows;
    }
}

/// The losses of several batches, left where they were computed until somebody wants them: a step need not wait.
pub struct Losses {
    /// Those that the host knows, before those that it does not.
    known: Vec<Loss>,
    /// The rows, and their weight, of those that only the device knows.
    pending: Vec<(u64, f64)>,
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
            self.pending.push((0, 0.0));
        }
        Ok(())
    }

    /// Adds the loss of a batch from those of its rows, `[rows]` on the tape's device, which weigh `weight` together, and from its
    /// hits, `[rows]` of i32. A device is not waited for.
    pub(super) fn add_rows(&mut self, device: &Device, losses: &Buffer, hits: &Buffer, weight: f64) -> Result<()> {
        let rows = hits.len();
        if let Device::Cpu = device {
            let hits = hits.slice::<i32>().iter().map(|&hit| hit as u64).sum();
            self.known.push(Loss { sum: losses.to_f64()?.iter().sum(), weight, hits, rows: rows as u64 });
            return Ok(());
        }
        let slot = self.slot()?;
        let Some(totals) = &mut self.totals else { panic!("losses of another device than the batch's") };
        let launch = Launch::new("cross_entropy_total", 1, 256).work(work::loss_total(rows));
        device.launch(&launch.read(losses).read(hits).int(rows).write_at(totals, slot))?;
        self.pending.push((rows as u64, weight));
        Ok(())
    }

    /// The place in the device's memory for one more loss.
    fn slot(&mut self) -> Result<usize> {
        if self.pending.len() == Self::CAPACITY {
            self.fetch()?;
        }
        Ok(2 * self.pending.len())
    }

    /// The loss of one batch, which `add` adds. Waits for it.
    pub(super) fn of_one(tape: &mut Tape, add: impl FnOnce(&mut Tape, &mut Self) -> Result<()>) -> Result<Loss> {
        let mut losses = Self::new(tape.device())?;
        add(tape, &mut losses)?;
        Ok(losses.take()?.pop().unwrap_or_default())
    }

    fn fetch(&mut self) -> Result<()> {
        if let Some(totals) = self.totals.as_ref().filter(|_| !self.pending.is_empty()) {
            let totals = totals.read::<f64>()?;
            let losses = self.pending.drain(..).zip(totals.chunks_exact(2));
            self.known.extend(losses.map(|((rows, weight), total)| match rows {
                0 => Loss::default(),
                _ => Loss { sum: total[0], weight, hits: total[1] as u64, rows },
            }));
        }
        Ok(())
    }
}
