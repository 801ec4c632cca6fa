//! Races in global memory between the clusters of a launch.
//!
//! Clusters run one after another here, and on a GPU in any order or at once: what one writes another one may touch only behind
//! a release (a fence and then an atomic operation or strong store, or one of these with `.release`) and an acquire of the same
//! place (PTX ISA, "Memory Consistency Model"). Inside a cluster nothing is checked here.

use std::collections::HashMap;

/// Cells of a page: words of 4 bytes.
const PAGE: usize = 1024;

#[derive(Clone, Copy, Default)]
struct Cell {
    /// Cluster and time of the last write and of the last read; time 0 is never.
    writer: u32,
    reader: u32,
    written: u64,
    read: u64,
    /// Bytes of the last write and of the last read.
    bytes: [u8; 2],
    statements: [u32; 2],
}

/// Of each cluster, up to what time its accesses are known to be over.
type Known = HashMap<u32, u64>;

fn join(into: &mut Known, from: &Known) {
    for (cluster, time) in from {
        let known = into.entry(*cluster).or_default();
        *known = (*known).max(*time);
    }
}

/// The launch's global memory, as far as it was touched.
#[derive(Default)]
pub(crate) struct Races {
    pages: HashMap<u64, Box<[Cell; PAGE]>>,
    /// What was released at a place.
    released: HashMap<u64, Known>,
    /// Of the cluster that runs: its number, what it knows, and when it fenced last.
    cluster: u32,
    known: Known,
    fenced: u64,
    time: u64,
}

/// What an access is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    /// A write of what was there.
    Same,
}

impl Races {
    /// The next cluster begins.
    pub fn begin(&mut self, cluster: u32) {
        (self.cluster, self.fenced) = (cluster, 0);
        self.known.clear();
        self.time += 1;
    }

    /// A fence of the GPU's scope.
    pub fn fence(&mut self) {
        self.time += 1;
        self.fenced = self.time;
    }

    /// An atomic operation or a strong access: what was released there is acquired, and with a fence before it, or `releases`,
    /// what this cluster did is released.
    pub fn synchronize(&mut self, address: u64, writes: bool, releases: bool) {
        if let Some(released) = self.released.get(&address) {
            join(&mut self.known, released);
        }
        if releases {
            self.fence();
        }
        if writes && self.fenced > 0 {
            let place = self.released.entry(address).or_default();
            join(place, &self.known);
            place.insert(self.cluster, self.fenced);
        }
    }

    /// A plain access. Returns what is wrong, and the statement of the other access.
    pub fn touch(&mut self, address: u64, bytes: usize, touch: Touch, statement: u32) -> Result<(), (String, u32)> {
        self.time += 1;
        let end = address + bytes as u64;
        for word in address / 4..end.div_ceil(4) {
            let (first, last) = (address.max(4 * word) - 4 * word, end.min(4 * word + 4) - 4 * word);
            let mask = (1u8 << last) - (1u8 << first);
            let page = self.pages.entry(word / PAGE as u64).or_insert_with(|| Box::new([Cell::default(); PAGE]));
            let cell = &mut page[(word % PAGE as u64) as usize];
            let unknown = |cluster: u32, time: u64| {
                time > 0 && cluster != self.cluster && self.known.get(&cluster).is_none_or(|known| *known < time)
            };
            let conflict = |what: &str, cluster: u32, other: &str| {
                format!(
                    "{what} global memory {:#x}, which cluster {cluster} {other}, and nothing orders the two",
                    4 * word
                )
            };
            let after_write = cell.bytes[0] & mask != 0 && unknown(cell.writer, cell.written);
            let after_read = cell.bytes[1] & mask != 0 && unknown(cell.reader, cell.read);
            match touch {
                Touch::Read if after_write => {
                    return Err((conflict("reads", cell.writer, "wrote"), cell.statements[0]));
                }
                Touch::Write if after_write => {
                    return Err((conflict("writes", cell.writer, "wrote"), cell.statements[0]));
                }
                Touch::Write if after_read => {
                    return Err((conflict("writes", cell.reader, "read"), cell.statements[1]));
                }
                Touch::Same if after_write || after_read => {}
                Touch::Read => {
                    (cell.reader, cell.read, cell.bytes[1], cell.statements[1]) =
                        (self.cluster, self.time, mask, statement);
                }
                Touch::Write | Touch::Same => {
                    (cell.writer, cell.written, cell.bytes[0], cell.statements[0]) =
                        (self.cluster, self.time, mask, statement);
                }
            }
        }
        Ok(())
    }
}
