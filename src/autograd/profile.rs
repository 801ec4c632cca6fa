//! Where the time of a step goes, by operation and direction.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::device::Work;

/// The direction of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// Computing values.
    Forward,
    /// Computing gradients.
    Backward,
    /// Updating weights.
    Update,
}

impl Pass {
    /// Its name, as in a range of a profiler.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Update => "update",
        }
    }
}

/// One call of an operation, by the host's clock. On a device with kernels that is the time to launch, not to compute.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The operation.
    pub op: &'static str,
    /// Its direction.
    pub pass: Pass,
    /// The encoder layer that it belongs to, from 0, if it belongs to one.
    pub layer: Option<usize>,
    /// When it started.
    pub started: Instant,
    /// How long it took.
    pub time: Duration,
    /// What it costs at the least.
    pub work: Work,
}

/// The calls of each (operation, pass) together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    /// How many there were.
    pub calls: u64,
    /// How long they took.
    pub time: Duration,
    /// What they cost at the least.
    pub work: Work,
}

/// All calls, in the order in which they ended.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The calls.
    pub calls: Vec<Call>,
}

impl Profile {
    /// The totals of each (operation, pass), the longest first.
    pub fn totals(&self) -> Vec<(&'static str, Pass, Total)> {
        let mut totals: BTreeMap<(&'static str, Pass), Total> = BTreeMap::new();
        for call in &self.calls {
            let total = totals.entry((call.op, call.pass)).or_default();
            total.calls += 1;
            total.time += call.time;
            total.work += call.work;
        }
        let mut rows: Vec<_> = totals.into_iter().map(|((op, pass), total)| (op, pass, total)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.2.time));
        rows
    }
}
