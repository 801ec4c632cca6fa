//! A driver that watches what is asked of another one, and fails on request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use helixgrad::device::product::Product;
use helixgrad::device::{Device, Driver, Launch, LaunchLog};
use helixgrad::error::Shortage;
use helixgrad::{Error, Result};

/// Counts allocations and waits.
pub struct Watched {
    inner: Arc<dyn Driver>,
    /// Allocations so far.
    pub allocations: AtomicU64,
    /// Copies to the host and synchronisations so far: each makes the host wait.
    pub waits: AtomicU64,
    allocations_left: Option<u64>,
    late: Option<&'static str>,
    failed: AtomicBool,
    log: LaunchLog,
    updates: AtomicU64,
    vendor: bool,
    /// When an attached profiler was told to begin and to end, in updates made by then.
    pub collected: Mutex<Vec<(bool, u64)>>,
}

impl Watched {
    /// Watches `device`, which has kernels.
    pub fn over(device: &Device) -> Self {
        let Device::Kernels(inner) = device else { panic!("the CPU device has no driver") };
        Self {
            inner: Arc::clone(inner),
            allocations: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            allocations_left: None,
            late: None,
            failed: AtomicBool::new(false),
            log: LaunchLog::default(),
            updates: AtomicU64::new(0),
            vendor: false,
            collected: Mutex::default(),
        }
    }

    /// After so many allocations there is no memory left.
    pub fn with_allocations(self, left: u64) -> Self {
        Self { allocations_left: Some(left), ..self }
    }

    /// A kernel that fails as on a GPU: its launch succeeds, and the next call that waits returns the error.
    pub fn failing(self, kernel: &'static str) -> Self {
        Self { late: Some(kernel), ..self }
    }

    /// Has a library that takes every product, in no time.
    pub fn with_vendor(self) -> Self {
        Self { vendor: true, ..self }
    }

    fn wait(&self) -> Result<()> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Failed(format!("an illegal address{}", self.log.describe())));
        }
        Ok(())
    }
}

impl Driver for Watched {
    fn describe(&self) -> String {
        format!("watched {}", self.inner.describe())
    }

    fn multiprocessors(&self) -> u32 {
        self.inner.multiprocessors()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.inner.compute_capability()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let before = self.allocations.fetch_add(1, Ordering::Relaxed);
        if self.allocations_left.is_some_and(|left| before >= left) {
            let shortage =
                Shortage { device: self.describe(), needed: bytes, free: 0, total: 1 << 30, ..Shortage::default() };
            return Err(Error::OutOfMemory(Box::new(shortage)));
        }
        self.inner.allocate(bytes)
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.free(address) }
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.write(address, bytes) }
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.wait()?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.read(address, bytes) }
    }

    unsafe fn copy(&self, source: u64, target: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.copy(source, target, bytes) }
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.fill(address, byte, bytes) }
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.log.note(launch);
        if launch.kernel.starts_with("adamw") {
            self.updates.fetch_add(1, Ordering::Relaxed);
        }
        if self.late == Some(launch.kernel.as_str()) {
            self.failed.store(true, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { self.inner.launch(launch) }
    }

    fn synchronize(&self) -> Result<()> {
        self.wait()?;
        self.inner.synchronize()
    }

    unsafe fn vendor_product(&self, _product: &Product) -> Result<bool> {
        Ok(self.vendor)
    }

    fn collect_profile(&self, on: bool) -> Result<()> {
        self.collected.lock().unwrap().push((on, self.updates.load(Ordering::Relaxed)));
        Ok(())
    }
}
