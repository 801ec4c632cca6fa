//! A driver without a chip: it hands out addresses and counts, and computes nothing. What a training asks of it is what it would
//! ask of a GPU, so the memory and the work of a step are known before there is one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::attention_kernels::AttentionPath;
use super::chips::Chip;
use super::{Driver, Launch, Work};
use crate::Result;

/// A piece of a planned step: what it costs at the least.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The kernel's name; `copy`, `fill` and the copies between host and device besides.
    pub name: String,
    /// Bytes and arithmetic.
    pub work: Work,
    /// Sums that a product's kernel takes out of its registers ([`Launch::sums`]).
    pub sums: usize,
}

#[derive(Default)]
struct State {
    allocations: HashMap<u64, usize>,
    next: u64,
    bytes: usize,
    most: usize,
    launches: Vec<Piece>,
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

    /// Everything launched, copied and filled since the last call.
    pub fn take_launches(&self) -> Vec<Piece> {
        std::mem::take(&mut self.state().launches)
    }

    /// The most bytes that were allocated at a time.
    pub fn most_bytes(&self) -> usize {
        self.state().most
    }

    fn note(&self, name: &str, work: Work, sums: usize) -> Result<()> {
        self.state().launches.push(Piece { name: name.to_owned(), work, sums });
        Ok(())
    }
}

impl Driver for Planner {
    fn describe(&self) -> String {
        format!("{}, planned", self.chip.title)
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
        self.note("copy to device", Work::new(bytes.len(), 0), 0)
    }

    unsafe fn read(&self, _address: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        self.note("copy to host", Work::new(bytes.len(), 0), 0)
    }

    unsafe fn copy(&self, _source: u64, _target: u64, bytes: usize) -> Result<()> {
        self.note("copy", Work::new(2 * bytes, 0), 0)
    }

    unsafe fn fill(&self, _address: u64, _byte: u8, bytes: usize) -> Result<()> {
        self.note("fill", Work::new(bytes, 0), 0)
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.note(&launch.kernel, launch.work, launch.sums)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
