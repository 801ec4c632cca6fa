//! A driver without a chip: it hands out addresses and counts, and computes nothing. What a training asks of it is what it would
//! ask of a GPU, so the memory and the work of a step are known before there is one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::attention_kernels::AttentionPath;
use super::{Driver, Launch, Work};
use crate::Result;

/// What a chip can do, from its maker's data sheet.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Chip {
    /// Its name.
    pub name: &'static str,
    /// Compute capability, which kernels are chosen by.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes a second of its memory.
    pub bytes_per_second: f64,
    /// Dense bf16 additions and multiplications a second.
    pub flops_per_second: f64,
    /// Bytes of its memory.
    pub memory_bytes: u64,
}

/// Chips that can be planned for: nvidia.com's data sheets of the H100 and A100 in their SXM form with 80 GB.
pub const CHIPS: [Chip; 2] = [
    Chip {
        name: "H100 SXM",
        capability: (9, 0),
        multiprocessors: 132,
        bytes_per_second: 3.35e12,
        flops_per_second: 989e12,
        memory_bytes: 80_000_000_000,
    },
    Chip {
        name: "A100 SXM",
        capability: (8, 0),
        multiprocessors: 108,
        bytes_per_second: 2.039e12,
        flops_per_second: 312e12,
        memory_bytes: 80_000_000_000,
    },
];

#[derive(Default)]
struct State {
    allocations: HashMap<u64, usize>,
    next: u64,
    bytes: usize,
    most: usize,
    launches: Vec<(String, Work)>,
}

/// The driver. Reading its memory gives zeros: losses and norms of nothing, which are finite.
pub struct Planner {
    chip: Chip,
    attention: AttentionPath,
    state: Mutex<State>,
}

impl Planner {
    /// A planner for a chip, and the attention kernels that the user asked for.
    pub fn new(chip: Chip, attention: AttentionPath) -> Self {
        // An address that is no null pointer, and aligned as a driver's are.
        Self { chip, attention, state: Mutex::new(State { next: 1 << 32, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything launched, copied and filled since the last call: its name and what it costs at the least.
    pub fn take_launches(&self) -> Vec<(String, Work)> {
        std::mem::take(&mut self.state().launches)
    }

    /// The most bytes that were allocated at a time.
    pub fn most_bytes(&self) -> usize {
        self.state().most
    }

    fn note(&self, name: &str, work: Work) -> Result<()> {
        self.state().launches.push((name.to_owned(), work));
        Ok(())
    }
}

impl Driver for Planner {
    fn describe(&self) -> String {
        format!("{}, planned", self.chip.name)
    }

    fn multiprocessors(&self) -> u32 {
        self.chip.multiprocessors
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.chip.capability
    }

    fn attention_path(&self) -> AttentionPath {
        self.attention
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut state = self.state();
        let address = state.next;
        state.next += bytes.next_multiple_of(256).max(256) as u64;
        state.bytes += bytes;
        state.most = state.most.max(state.bytes);
        state.allocations.insert(address, bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        let mut state = self.state();
        let bytes = state.allocations.remove(&address).unwrap_or_default();
        state.bytes -= bytes;
    }

    unsafe fn write(&self, _address: u64, bytes: &[u8]) -> Result<()> {
        self.note("copy to device", Work::new(bytes.len(), 0))
    }

    unsafe fn read(&self, _address: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        self.note("copy to host", Work::new(bytes.len(), 0))
    }

    unsafe fn copy(&self, _source: u64, _target: u64, bytes: usize) -> Result<()> {
        self.note("copy", Work::new(2 * bytes, 0))
    }

    unsafe fn fill(&self, _address: u64, _byte: u8, bytes: usize) -> Result<()> {
        self.note("fill", Work::new(bytes, 0))
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.note(&launch.kernel, launch.work)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
