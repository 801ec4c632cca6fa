//! Lanes of one warp against each other: what one lane stores in shared memory another one may read only behind a barrier of both
//! (PTX ISA, "bar.warp.sync": since Volta lanes need not run together, and only barriers order their memory).

use std::collections::HashMap;

use crate::clocks::Range;

/// The last store in a word of 4 bytes.
struct Stored {
    warp: usize,
    lane: usize,
    /// Barriers of the warp before it.
    barriers: u32,
    statement: u32,
}

/// What the lanes of a cluster's warps have stored.
#[derive(Default)]
pub(crate) struct Lanes {
    words: HashMap<(usize, usize), Stored>,
    barriers: HashMap<usize, u32>,
}

impl Lanes {
    /// A barrier of a warp or of more, or a phase of an mbarrier that it saw complete.
    pub fn meet(&mut self, warp: usize) {
        *self.barriers.entry(warp).or_default() += 1;
    }

    /// A lane stores.
    pub fn store(&mut self, warp: usize, lane: usize, range: Range, statement: u32) {
        let barriers = self.barriers.get(&warp).copied().unwrap_or(0);
        for word in range.words() {
            self.words.insert((range.block, word), Stored { warp, lane, barriers, statement });
        }
    }

    /// What is no lane's store writes there: a copy, or an atomic operation.
    pub fn forget(&mut self, range: Range) {
        for word in range.words() {
            self.words.remove(&(range.block, word));
        }
    }

    /// A lane loads: the lane and the statement that stored there, where no barrier stands between.
    pub fn load(&self, warp: usize, lane: usize, range: Range) -> Option<(usize, u32)> {
        let barriers = self.barriers.get(&warp).copied().unwrap_or(0);
        range.words().find_map(|word| {
            let stored = self.words.get(&(range.block, word))?;
            let unordered = stored.warp == warp && stored.lane != lane && stored.barriers == barriers;
            unordered.then_some((stored.lane, stored.statement))
        })
    }
}
