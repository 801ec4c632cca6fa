//! Numbered pieces of work on all threads, the results in order.
//!
//! A worker takes one piece at a time, on one thread, with a tape of its own: what it works on stays in its core's cache,
//! and no thread waits for another inside an operation. Pieces are cut without a look at the number of threads, so that
//! number changes nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::autograd::Tape;
use crate::device::{DType, Device};
use crate::{Error, Result};

/// Threads that compute on a device: all of rayon's pool on the CPU, one for a device with kernels.
pub struct Workers {
    device: Device,
    dtype: DType,
    /// Each with one thread, so that the operations inside find no other to share with.
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`Error::Failed`] if the system gives none.
    pub fn new(device: Device, dtype: DType) -> Result<Self> {
        let count = if matches!(device, Device::Cpu) { rayon::current_num_threads() } else { 1 };
        let pools = (0..count).map(|_| ThreadPoolBuilder::new().num_threads(1).build()).collect::<Result<_, _>>();
        let pools = pools.map_err(|error| Error::Failed(format!("cannot start threads: {error}")))?;
        Ok(Self { device, dtype, pools })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pools.len()
    }

    /// `work(tape, piece)` for the pieces 0..`pieces`, the results in this order.
    ///
    /// # Errors
    /// The first error of a piece; pieces that nobody has begun are dropped then.
    pub fn run<T: Send>(&self, pieces: usize, work: impl Fn(&mut Tape, usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<Option<Result<T>>>> = Mutex::new((0..pieces).map(|_| None).collect());
        let worker = || {
            let mut tape = Tape::new(self.device.clone(), self.dtype);
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    break;
                }
                let result = work(&mut tape, piece);
                if result.is_err() {
                    next.store(pieces, Ordering::Relaxed);
                }
                done.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[piece] = Some(result);
            }
        };
        match self.pools.len().min(pieces) {
            0 => {}
            1 => self.pools[0].install(worker),
            count => thread::scope(|scope| {
                for pool in &self.pools[..count] {
                    scope.spawn(|| pool.install(worker));
                }
            }),
        }
        // Pieces behind one that failed may be missing; the first failure is told.
        done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_iter().flatten().collect()
    }
}
