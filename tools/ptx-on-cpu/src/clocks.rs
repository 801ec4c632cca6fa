//! Hazards in shared memory, by vector clocks.
//!
//! Agents are the warps of a cluster, and one for each mbarrier: the copies that report to it. An agent knows of every other
//! one how far it has come in three senses: what happened before (`happened`), what of that the asynchronous proxy was told
//! by a fence (`proxied`; PTX ISA, "Async proxy"), and which reads are over (`read`). Each word of shared memory keeps its last
//! write and the reads since. A fence may stand on either side of the barrier: writers may tell the proxy what they wrote, or
//! readers what they learnt of.

/// How far an agent knows each other one to have come.
#[derive(Clone, Default, Debug)]
pub(crate) struct Clock {
    happened: Vec<u32>,
    proxied: Vec<u32>,
    read: Vec<u32>,
}

fn join(into: &mut Vec<u32>, from: &[u32]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    for (into, from) in into.iter_mut().zip(from) {
        *into = (*into).max(*from);
    }
}

fn get(clock: &[u32], agent: usize) -> u32 {
    clock.get(agent).copied().unwrap_or(0)
}

fn raise(clock: &mut Vec<u32>, agent: usize, epoch: u32) {
    if clock.len() <= agent {
        clock.resize(agent + 1, 0);
    }
    clock[agent] = clock[agent].max(epoch);
}

impl Clock {
    /// Learns what `other` knows: of data and of reads, or of reads alone.
    pub fn join(&mut self, other: &Clock, data: bool) {
        if data {
            join(&mut self.happened, &other.happened);
            join(&mut self.proxied, &other.proxied);
        }
        join(&mut self.read, &other.read);
    }

    /// Whether what `agent` did at `epoch` is over.
    pub fn knows_end(&self, agent: usize, epoch: u32) -> bool {
        get(&self.read, agent) >= epoch
    }

    /// A copy of `agent` has arrived here.
    pub fn arrive(&mut self, agent: usize, epoch: u32) {
        raise(&mut self.happened, agent, epoch);
        raise(&mut self.read, agent, epoch);
    }
}

/// When a read is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reader {
    /// At once: it is told with the next release.
    Plain(u32),
    /// With the wgmma group of this number of the reader's warpgroup.
    Wgmma(u32),
    /// With the bulk group of this number of the reader.
    Bulk(u32),
    /// With the copy of this number of an mbarrier's agent.
    Copy(u32, u32),
}

#[derive(Clone, Copy, Debug)]
struct Read {
    agent: u32,
    until: Reader,
    bytes: u8,
    statement: u32,
}

/// A write; one of epoch 0 is none.
#[derive(Clone, Copy, Default, Debug)]
struct Write {
    agent: u32,
    epoch: u32,
    bytes: u8,
    statement: u32,
}

impl Write {
    /// Whether it may still be under way for an agent that knows `clock` and accesses these bytes.
    fn is_open(self, agent: u32, bytes: u8, clock: &[u32]) -> bool {
        self.bytes & bytes != 0 && self.agent != agent && self.epoch > get(clock, self.agent as usize)
    }
}

/// The state of 4 bytes: the last write, and the last atomic operation since.
#[derive(Clone, Default, Debug)]
struct Cell {
    write: Write,
    update: Write,
    reads: Vec<Read>,
}

impl Cell {
    fn is_fresh(&self) -> bool {
        self.write.epoch == 0 && self.update.epoch == 0
    }
}

/// An access of a range of one block's shared memory.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub block: usize,
    pub offset: usize,
    pub bytes: usize,
}

impl Range {
    /// Cells with the bytes of each that are meant.
    fn cells(self) -> impl Iterator<Item = (usize, u8)> {
        let end = self.offset + self.bytes;
        (self.offset / 4..end.div_ceil(4)).map(move |cell| {
            let first = self.offset.max(4 * cell) - 4 * cell;
            let last = end.min(4 * cell + 4) - 4 * cell;
            (cell, ((1u8 << last) - (1u8 << first)))
        })
    }
}

/// A conflict: what to say, and the statement of the other access, if there was one.
pub(crate) struct Conflict {
    pub text: String,
    pub other: Option<u32>,
}

/// The clocks of a cluster.
pub(crate) struct Clocks {
    warps: Vec<Clock>,
    cells: Vec<Vec<Cell>>,
    agents: u32,
    /// Of each warp: epochs at which it knew its wgmma and bulk groups to be complete.
    wgmma_done: Vec<Vec<u32>>,
    bulk_done: Vec<Vec<u32>>,
    warps_of_block: usize,
}

impl Clocks {
    pub fn new(blocks: usize, warps_of_block: usize, shared_bytes: usize) -> Self {
        let warps = blocks * warps_of_block;
        let clock = |warp| {
            let mut clock = Clock { happened: vec![0; warps], proxied: vec![0; warps], read: vec![0; warps] };
            clock.arrive(warp, 1);
            clock
        };
        Self {
            warps: (0..warps).map(clock).collect(),
            cells: vec![vec![Cell::default(); shared_bytes.div_ceil(4) + 1]; blocks],
            agents: warps as u32,
            wgmma_done: vec![vec![0]; warps],
            bulk_done: vec![vec![0]; warps],
            warps_of_block,
        }
    }

    /// The present epoch of a warp.
    pub fn now(&self, warp: usize) -> u32 {
        self.warps[warp].read[warp]
    }

    /// Whether what `agent` did at `epoch` happened before what this warp does now.
    pub fn knows(&self, warp: usize, agent: usize, epoch: u32) -> bool {
        get(&self.warps[warp].happened, agent) >= epoch
    }

    /// Whether it is known to be over, though its data may not be visible.
    pub fn knows_end(&self, warp: usize, agent: usize, epoch: u32) -> bool {
        get(&self.warps[warp].read, agent) >= epoch
    }

    /// What a warp knows when it ends, for the end of its block.
    pub fn leave(&self, warp: usize, end: &mut Clock) {
        end.join(&self.warps[warp], true);
    }

    /// A new agent, for the copies of an mbarrier.
    pub fn new_agent(&mut self) -> u32 {
        self.agents += 1;
        self.agents - 1
    }

    /// Tells `target` what this warp knows; what it does from now on is later.
    pub fn release(&mut self, warp: usize, target: &mut Clock, data: bool) {
        target.join(&self.warps[warp], data);
        self.step(warp);
    }

    /// Begins a new epoch of this warp.
    pub fn step(&mut self, warp: usize) {
        self.warps[warp].happened[warp] += 1;
        self.warps[warp].read[warp] += 1;
    }

    pub fn acquire(&mut self, warp: usize, source: &Clock) {
        self.warps[warp].join(source, true);
    }

    /// `fence.proxy.async`
    pub fn tell_proxy(&mut self, warp: usize) {
        let clock = &mut self.warps[warp];
        join(&mut clock.proxied, &clock.happened);
        self.step(warp);
    }

    pub fn plain_read(&self, warp: usize) -> Reader {
        Reader::Plain(self.warps[warp].read[warp])
    }

    /// This warp knows its next wgmma group to be complete.
    pub fn wgmma_group_done(&mut self, warp: usize) {
        self.wgmma_done[warp].push(self.warps[warp].read[warp]);
        self.step(warp);
    }

    pub fn bulk_group_done(&mut self, warp: usize) {
        self.bulk_done[warp].push(self.warps[warp].read[warp]);
        self.step(warp);
    }

    pub fn name(&self, agent: u32) -> String {
        let agent = agent as usize;
        if agent < self.warps.len() {
            let (block, warp) = (agent / self.warps_of_block, agent % self.warps_of_block);
            format!("warp {warp} of the cluster's block {block}")
        } else {
            "an asynchronous copy".into()
        }
    }

    /// Whether a read is known to be over.
    fn is_over(&self, read: Read, clock: &Clock) -> bool {
        let agent = read.agent as usize;
        match read.until {
            Reader::Plain(epoch) => get(&clock.read, agent) >= epoch,
            Reader::Copy(copies, epoch) => get(&clock.read, copies as usize) >= epoch,
            // One operation of four warps: any of them may have waited for it.
            Reader::Wgmma(group) => {
                let first = agent - agent % self.warps_of_block % 4;
                (first..(first + 4).min(self.warps.len())).any(|warp| {
                    let done = self.wgmma_done[warp].get(group as usize);
                    done.is_some_and(|epoch| get(&clock.read, warp) >= *epoch)
                })
            }
            Reader::Bulk(group) => {
                let done = self.bulk_done[agent].get(group as usize);
                done.is_some_and(|epoch| get(&clock.read, agent) >= *epoch)
            }
        }
    }

    /// A read by `warp`; by the asynchronous proxy unless it is plain.
    pub fn read(&mut self, warp: usize, range: Range, until: Reader, statement: u32) -> Result<(), Conflict> {
        let is_async = !matches!(until, Reader::Plain(_));
        let agent = warp as u32;
        for (at, bytes) in range.cells() {
            let cell = &self.cells[range.block][at];
            if cell.is_fresh() {
                return Err(never_written("reads", range.block, at));
            }
            for write in [cell.write, cell.update] {
                let writer = write.agent as usize;
                let clock = &self.warps[warp];
                let by_warp = writer < self.warps.len();
                let known = if is_async && by_warp { &clock.proxied } else { &clock.happened };
                // What a warp wrote itself the proxy must be told of, too.
                if write.is_open(if is_async { u32::MAX } else { agent }, bytes, known) {
                    let unfenced = is_async && by_warp && write.epoch <= get(&clock.happened, writer);
                    let text = format!(
                        "{} shared memory {:#x} of the cluster's block {}, which {} wrote, {}",
                        if is_async { "reads asynchronously" } else { "reads" },
                        4 * at,
                        range.block,
                        self.name(write.agent),
                        if unfenced { "with no fence.proxy.async between" } else { "and nothing orders the two" },
                    );
                    return Err(Conflict { text, other: Some(write.statement) });
                }
            }
            let read = Read { agent, until, bytes, statement };
            let reads = &mut self.cells[range.block][at].reads;
            match reads.iter_mut().find(|read| read.agent == agent && same_kind(read.until, until)) {
                Some(old) => *old = Read { bytes: old.bytes | bytes, ..read },
                None => reads.push(read),
            }
        }
        Ok(())
    }

    /// A write by `warp` itself. Warps that write the same value do not disturb each other, and compilers let them.
    pub fn write(&mut self, warp: usize, range: Range, same: bool, statement: u32) -> Result<(), Conflict> {
        let epoch = self.warps[warp].happened[warp];
        let result = self.write_as((warp as u32, epoch), warp, range, false, statement);
        if same { Ok(()) } else { result }
    }

    /// An atomic operation by `warp`, which disturbs no other one; of several since the last write the last is remembered.
    pub fn update(&mut self, warp: usize, range: Range, reads: bool, statement: u32) -> Result<(), Conflict> {
        if let Some((at, _)) = range.cells().find(|(at, _)| reads && self.cells[range.block][*at].is_fresh()) {
            return Err(never_written("updates", range.block, at));
        }
        let epoch = self.warps[warp].happened[warp];
        self.write_as((warp as u32, epoch), warp, range, true, statement)
    }

    /// A write by an agent that `warp` set going.
    pub fn write_as(
        &mut self,
        (agent, epoch): (u32, u32),
        warp: usize,
        range: Range,
        atomic: bool,
        statement: u32,
    ) -> Result<(), Conflict> {
        for (at, bytes) in range.cells() {
            let cell = &self.cells[range.block][at];
            let clock = &self.warps[warp];
            let place = || format!("shared memory {:#x} of the cluster's block {}", 4 * at, range.block);
            let before = [cell.write, if atomic { Write::default() } else { cell.update }];
            if let Some(write) = before.iter().find(|write| write.is_open(agent, bytes, &clock.happened)) {
                let text =
                    format!("writes {}, which {} wrote, and nothing orders the two", place(), self.name(write.agent));
                return Err(Conflict { text, other: Some(write.statement) });
            }
            for read in &cell.reads {
                let own = read.agent == agent && matches!(read.until, Reader::Plain(_));
                if !own && read.bytes & bytes != 0 && !self.is_over(*read, clock) {
                    let how = match read.until {
                        Reader::Plain(_) => "reads, and nothing orders the two",
                        Reader::Wgmma(_) => "still reads in a wgmma that nobody waited for",
                        Reader::Bulk(_) => "still reads in a bulk store that nobody waited for",
                        Reader::Copy(..) => "still reads in a copy to another block that nobody waited for",
                    };
                    let text = format!("writes {}, which {} {how}", place(), self.name(read.agent));
                    return Err(Conflict { text, other: Some(read.statement) });
                }
            }
            let cell = &mut self.cells[range.block][at];
            cell.reads.retain_mut(|read| {
                read.bytes &= !bytes;
                read.bytes != 0
            });
            let write = Write { agent, epoch, bytes, statement };
            if atomic {
                cell.update = write;
            } else {
                (cell.write, cell.update) = (write, Write::default());
            }
        }
        Ok(())
    }
}

fn never_written(what: &str, block: usize, cell: usize) -> Conflict {
    let text = format!("{what} shared memory {:#x} of the cluster's block {block}, which nobody wrote", 4 * cell);
    Conflict { text, other: None }
}

/// Whether the end of the later read is that of the earlier one, too.
fn same_kind(one: Reader, other: Reader) -> bool {
    match (one, other) {
        (Reader::Copy(one, _), Reader::Copy(other, _)) => one == other,
        _ => std::mem::discriminant(&one) == std::mem::discriminant(&other),
    }
}
