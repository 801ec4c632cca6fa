//! A cluster of blocks: its warps, what they share, and whose turn it is.

mod access;
mod atomic;
mod barriers;
mod deadlock;
mod exchange;
mod mbarrier;
mod observe;
mod step;
mod warp;

use std::collections::{BTreeMap, VecDeque};

pub(crate) use access::Place;
pub(crate) use atomic::{combine, update_global};
pub(crate) use barriers::{ClusterBarrier, NamedBarrier};
pub(crate) use mbarrier::Mbarrier;
pub(crate) use step::{Flow, Step};
pub(crate) use warp::{State, Warp};

use crate::clocks::{Clock, Clocks, Conflict};
use crate::copies::tensor::TensorCopy;
use crate::counters::Counts;
use crate::decode::SHARED_BASE;
use crate::fault::{Fault, Finding, source_lines};
use crate::instruction::Code;
use crate::launch::{Asynchronous, Settings};
use crate::memory::{POISON, View};
use crate::races::{Races, Touch};
use crate::syntax::File;
use crate::tensor::wgmma::Warpgroup;

/// Shared memory that a block may have (CUDA C++ Programming Guide, technical specifications of compute capability 9.0).
pub(crate) const MAX_SHARED: usize = 228 * 1024;
/// Shared addresses have the block's rank in its cluster above this bit.
pub(crate) const RANK_SHIFT: u32 = 24;
/// So many rounds in which every warp waits are a deadlock.
const IDLE_ROUNDS: u32 = 200;
/// So many in which warps compute, and nobody comes to a barrier, a copy or the end, are a loop without an end.
const BUSY_ROUNDS: u32 = 1_000_000;

/// A launch, ready to run.
pub(crate) struct Prepared<'a> {
    pub file: &'a File,
    pub code: &'a Code,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub dynamic_shared: u32,
    pub parameters: &'a [u8],
    pub settings: &'a Settings,
    pub memory: View,
    /// Where the module's variables are.
    pub globals: u64,
}

impl Prepared<'_> {
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    pub fn warps(&self) -> usize {
        self.threads().div_ceil(32) as usize
    }

    pub fn shared_bytes(&self) -> usize {
        (self.code.shared_end + self.dynamic_shared as usize).next_multiple_of(16)
    }

    /// A fault at a statement.
    pub fn fault(&self, statement: Option<u32>, finding: impl Into<String>) -> Fault {
        let place = statement.and_then(|statement| self.code.places.get(statement as usize));
        Fault {
            kernel: self.code.name.clone(),
            line: place.map(|place| place.0),
            source: place.map_or(Vec::new(), |place| source_lines(self.file, place.1)),
            finding: finding.into(),
            ..Fault::default()
        }
    }

    /// A statement, in words for another fault.
    pub fn describe(&self, statement: u32) -> String {
        let Some((line, location)) = self.code.places.get(statement as usize) else { return "an unknown line".into() };
        let source = source_lines(self.file, *location);
        let place = source.first().map(|(file, line)| format!(" ({file}:{line})")).unwrap_or_default();
        format!("PTX line {line}{place}")
    }
}

/// xorshift64*: schedules are a function of their seed.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        let mixed = (seed ^ seed >> 31).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(mixed ^ mixed >> 29 | 1)
    }

    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (u64::from(self.next()) * end as u64 >> 32) as usize
    }
}

/// What a block's warps share.
pub(crate) struct Block {
    /// Coordinates in the grid.
    pub id: [u32; 3],
    /// From address 0: what lies below [`SHARED_BASE`] is nobody's.
    pub shared: Vec<u8>,
    pub mbarriers: BTreeMap<u32, Mbarrier>,
    pub barriers: [NamedBarrier; 16],
    /// Warps that have not ended.
    pub living: u32,
    /// Warps of other blocks that were here, and when last, and copies to other blocks.
    pub visitors: BTreeMap<usize, u32>,
    /// What the warps knew that have ended.
    pub end: Clock,
}

/// The machine for one cluster.
pub(crate) struct Cluster<'a> {
    pub launch: &'a Prepared<'a>,
    /// Coordinates among the clusters.
    pub id: [u32; 3],
    pub blocks: Vec<Block>,
    /// All warps of all blocks; the one whose turn it is has been taken out.
    pub warps: Vec<Option<Box<Warp>>>,
    pub warpgroups: Vec<Warpgroup>,
    pub barrier: ClusterBarrier,
    /// Tensor loads under way.
    pub copies: VecDeque<TensorCopy>,
    pub random: Random,
    pub clocks: Option<Clocks>,
    /// Races with other clusters, if they are looked for.
    pub races: Option<Races>,
    /// What is worth saying and no fault, by statement.
    pub warnings: BTreeMap<u32, Fault>,
    /// Executions of each instruction: of warps, and of threads.
    pub executed: Vec<[u64; 2]>,
    /// What else each of them did, if that is counted.
    pub counts: Option<Vec<Counts>>,
    /// Multiply-accumulates of matrix instructions.
    pub multiplications: u64,
    /// Whether anything was done in this round that others may wait for.
    pub progress: bool,
    /// Whether a warp computed until its turn was over.
    pub computed: bool,
    /// The region that was found last.
    pub region: usize,
}

impl<'a> Cluster<'a> {
    pub fn new(launch: &'a Prepared<'a>, id: [u32; 3], number: u64, mut races: Option<Races>) -> Self {
        if let Some(races) = &mut races {
            races.begin(number as u32);
        }
        let [width, height, depth] = launch.cluster;
        let count = (width * height * depth) as usize;
        let warps = launch.warps();
        let block = |rank: u32| {
            let place = [rank % width, rank / width % height, rank / width / height];
            Block {
                id: [0, 1, 2].map(|axis| id[axis] * launch.cluster[axis] + place[axis]),
                shared: vec![POISON; launch.shared_bytes()],
                mbarriers: Default::default(),
                barriers: Default::default(),
                living: warps as u32,
                visitors: Default::default(),
                end: Clock::default(),
            }
        };
        let hazards = launch.settings.hazards;
        let mut cluster = Self {
            launch,
            id,
            blocks: (0..count as u32).map(block).collect(),
            warps: Vec::new(),
            warpgroups: Vec::new(),
            barrier: ClusterBarrier::default(),
            copies: VecDeque::new(),
            random: Random::new(launch.settings.seed.unwrap_or(1) ^ number.wrapping_mul(0x9e37_79b9)),
            clocks: hazards.then(|| Clocks::new(count, warps, launch.shared_bytes())),
            races,
            warnings: BTreeMap::new(),
            executed: vec![[0; 2]; launch.code.instructions.len()],
            counts: None,
            multiplications: 0,
            progress: false,
            computed: false,
            region: 0,
        };
        for rank in 0..count {
            for number in 0..warps {
                let warp = Warp::new(&cluster, rank, number);
                cluster.warps.push(Some(Box::new(warp)));
            }
            cluster.warpgroups.extend((0..warps.div_ceil(4)).map(|_| Warpgroup::default()));
        }
        cluster
    }

    pub fn hazards(&self) -> bool {
        self.clocks.is_some()
    }

    /// Whether an asynchronous operation that begins now is carried out at once, or as late as it may be.
    pub fn is_late(&mut self) -> bool {
        match self.launch.settings.asynchronous {
            Asynchronous::Early => false,
            Asynchronous::Late => true,
            Asynchronous::BySeed => self.random.next() & 1 == 0,
        }
    }

    /// Runs all warps to their end.
    pub fn run(&mut self) -> Result<(), Fault> {
        let (mut idle, mut busy) = (0, 0);
        let is_random = self.launch.settings.seed.is_some();
        let count = self.warps.len();
        loop {
            (self.progress, self.computed) = (false, false);
            let mut living = false;
            let first = if is_random { self.random.below(count) } else { 0 };
            for number in (0..count).map(|number| (number + first) % count) {
                let Some(mut warp) = self.warps[number].take() else { continue };
                let ended = matches!(warp.state, State::Ended);
                // Some wait a round though they could go on.
                let skipped = is_random && self.random.next() & 3 == 0;
                let result = if ended || skipped || !self.wakes(&mut warp) { Ok(()) } else { self.turn(&mut warp) };
                living |= !ended;
                self.warps[number] = Some(warp);
                result?;
            }
            if !self.copies.is_empty() && (self.random.below(3) == 0 || !self.progress) {
                let chosen = self.random.below(self.copies.len());
                if let Some(copy) = self.copies.remove(chosen) {
                    let statement = copy.statement;
                    self.deliver(copy).map_err(|why| self.launch.fault(Some(statement), why.text))?;
                    self.progress = true;
                }
            }
            if !living {
                return Ok(());
            }
            busy = if self.progress { 0 } else { busy + 1 };
            idle = if self.progress || self.computed { 0 } else { idle + 1 };
            if idle > IDLE_ROUNDS {
                return Err(self.deadlock("deadlock: every warp waits"));
            }
            if busy > BUSY_ROUNDS {
                return Err(
                    self.deadlock("a loop without an end: for a long time no warp came to a barrier or to its end")
                );
            }
        }
    }

    /// Whether a warp that waits may go on.
    fn wakes(&mut self, warp: &mut Warp) -> bool {
        match warp.state {
            State::Ready => true,
            State::Ended => false,
            State::Barrier { id, phase, result } => self.leaves_barrier(warp, id, phase, result),
            State::Cluster { phase } => self.leaves_cluster_barrier(warp, phase),
        }
    }

    /// Completes a finding with its place.
    pub fn place(&self, warp: &Warp, statement: u32, finding: Finding) -> Fault {
        Fault {
            block: Some(self.blocks[warp.block].id),
            warp: Some(warp.number as u32),
            lane: finding.lane.map(|lane| lane as u32),
            ..self.launch.fault(Some(statement), finding.text)
        }
    }

    /// A conflict in words.
    pub fn conflict(&self, conflict: Conflict) -> Finding {
        let Some(other) = conflict.other else { return conflict.text.into() };
        format!("{}; the other access is at {}", conflict.text, self.launch.describe(other)).into()
    }

    /// Notes a plain access of global memory, for races between clusters.
    #[inline]
    pub fn touch(&mut self, address: u64, bytes: usize, touch: Touch, statement: u32) -> Result<(), Finding> {
        let Some(races) = &mut self.races else { return Ok(()) };
        races
            .touch(address, bytes, touch, statement)
            .map_err(|(text, other)| self.conflict(Conflict { text, other: Some(other) }))
    }

    /// Checks that a block is there whose shared memory a warp, or a copy that it begins, touches.
    pub fn must_live(&self, warp: &Warp, rank: usize) -> Result<(), Finding> {
        if rank != warp.block && self.blocks[rank].living == 0 {
            return Err(format!("touches shared memory of the cluster's block {rank}, which has ended").into());
        }
        Ok(())
    }

    /// Notes that a warp itself touches another block's shared memory, which must be there, and must stay.
    pub fn visit(&mut self, warp: &Warp, rank: usize) -> Result<(), Finding> {
        self.must_live(warp, rank)?;
        if let Some(clocks) = self.clocks.as_ref().filter(|_| rank != warp.block) {
            self.blocks[rank].visitors.insert(warp.id, clocks.now(warp.id));
        }
        Ok(())
    }

    /// Rank and offset of a shared address.
    pub fn shared_place(&self, address: u64, bytes: usize) -> Result<(usize, usize), Finding> {
        let (rank, offset) = ((address >> RANK_SHIFT) as usize, address as usize & ((1 << RANK_SHIFT) - 1));
        let size = self.launch.shared_bytes();
        if address >> 32 != 0 || rank >= self.blocks.len() || offset + bytes > size || offset < SHARED_BASE as usize {
            let (used, base) = (size - SHARED_BASE as usize, SHARED_BASE);
            return Err(format!(
                "access of {bytes} bytes of shared memory at {address:#x}: the block has {used} bytes from {base:#x}"
            )
            .into());
        }
        Ok((rank, offset))
    }
}
