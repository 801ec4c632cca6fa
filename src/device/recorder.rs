//! A driver that times what another one runs: every launch, copy and fill, by the device's own clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::attention_kernels::AttentionPath;
use super::collective::{Collective, UniqueId};
use super::gemm_choice::GemmTable;
use super::graphs::GraphCounts;
use super::product::Product;
use super::{Device, Driver, Launch, Mark, Work};
use crate::Result;

/// Stands in front of a driver. It hands everything on, and while it is switched on keeps a mark before and behind each
/// piece of work. Marks are work of their own, a microsecond or two each, so what lies between two pieces is
/// longer than without them; the pieces themselves are not.
pub struct Recorder {
    driver: Arc<dyn Driver>,
    on: AtomicBool,
    recorded: Mutex<Vec<Recorded>>,
}

struct Recorded {
    name: String,
    work: Work,
    before: Mark,
    after: Mark,
}

/// One timed piece of work.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The kernel's name, or `copy`, `fill`, `copy to device`, `copy to host`.
    pub name: String,
    /// What its operation stated.
    pub work: Work,
    /// When the host handed it over.
    pub launched: Instant,
    /// When it started on the device, seconds since the first piece.
    pub start: f64,
    /// Seconds it took on the device.
    pub seconds: f64,
}

impl Recorder {
    /// The device with a recorder in front of it, and the recorder; none for the CPU, which launches nothing.
    pub fn wrap(device: &Device) -> (Device, Option<Arc<Self>>) {
        let Device::Kernels(driver) = device else { return (device.clone(), None) };
        let recorder =
            Arc::new(Self { driver: Arc::clone(driver), on: AtomicBool::new(false), recorded: Mutex::default() });
        (Device::Kernels(Arc::clone(&recorder) as Arc<dyn Driver>), Some(recorder))
    }

    /// From now on times every piece of work.
    pub fn start(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    /// What was timed since [`Recorder::start`], in order; timing ends.
    ///
    /// # Errors
    /// The failure of an earlier launch.
    pub fn take(&self) -> Result<Vec<Piece>> {
        self.on.store(false, Ordering::Relaxed);
        let recorded = std::mem::take(&mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(last) = recorded.last() else { return Ok(Vec::new()) };
        let origin = &recorded[0].before;
        self.driver.seconds_between(origin, &last.after)?;
        let piece = |recorded: &Recorded| {
            Ok(Piece {
                name: recorded.name.clone(),
                work: recorded.work,
                launched: recorded.before.host_time(),
                start: self.driver.seconds_between(origin, &recorded.before)?,
                seconds: self.driver.seconds_between(&recorded.before, &recorded.after)?,
            })
        };
        recorded.iter().map(piece).collect()
    }

    fn timed(&self, name: &str, work: Work, run: impl FnOnce() -> Result<()>) -> Result<()> {
        self.timed_if_done(name, work, || run().map(|()| true)).map(drop)
    }

    /// As [`Recorder::timed`], for work that may say that it was not done.
    fn timed_if_done(&self, name: &str, work: Work, run: impl FnOnce() -> Result<bool>) -> Result<bool> {
        if !self.on.load(Ordering::Relaxed) {
            return run();
        }
        let before = self.driver.mark()?;
        let done = run()?;
        if done {
            let after = self.driver.mark()?;
            let recorded = Recorded { name: name.to_owned(), work, before, after };
            self.recorded.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
        }
        Ok(done)
    }
}

impl Driver for Recorder {
    fn describe(&self) -> String {
        self.driver.describe()
    }

    fn multiprocessors(&self) -> u32 {
        self.driver.multiprocessors()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.driver.compute_capability()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.driver.allocate(bytes)
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise, about the driver that stands behind.
        unsafe { self.driver.free(address) }
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let work = Work::new(bytes.len(), 0);
        // SAFETY: as above.
        self.timed("copy to device", work, || unsafe { self.driver.write(address, bytes) })
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let work = Work::new(bytes.len(), 0);
        // SAFETY: as above.
        self.timed("copy to host", work, || unsafe { self.driver.read(address, bytes) })
    }

    unsafe fn copy(&self, source: u64, target: u64, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        self.timed("copy", Work::new(2 * bytes, 0), || unsafe { self.driver.copy(source, target, bytes) })
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        self.timed("fill", Work::new(bytes, 0), || unsafe { self.driver.fill(address, byte, bytes) })
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        // SAFETY: as above.
        self.timed(&launch.kernel, launch.work, || unsafe { self.driver.launch(launch) })
    }

    fn attention_path(&self) -> AttentionPath {
        self.driver.attention_path()
    }

    fn gemm_table(&self) -> Option<&GemmTable> {
        self.driver.gemm_table()
    }

    unsafe fn vendor_product(&self, product: &Product) -> Result<bool> {
        let name = format!("cublaslt_{}_{}", product.layout.kernel(), product.types());
        // SAFETY: as above.
        self.timed_if_done(&name, product.work(), || unsafe { self.driver.vendor_product(product) })
    }

    fn join(&self, id: &UniqueId, rank: usize, size: usize) -> Result<Box<dyn Collective>> {
        self.driver.join(id, rank, size)
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }

    fn submit(&self) -> Result<()> {
        self.driver.submit()
    }

    fn graph_counts(&self) -> Option<GraphCounts> {
        self.driver.graph_counts()
    }

    fn mark(&self) -> Result<Mark> {
        self.driver.mark()
    }

    fn seconds_between(&self, first: &Mark, last: &Mark) -> Result<f64> {
        self.driver.seconds_between(first, last)
    }

    fn collect_profile(&self, on: bool) -> Result<()> {
        self.driver.collect_profile(on)
    }
}
