//! A warp: registers, lanes in groups, and what it has under way.

use std::collections::VecDeque;

use super::{Cluster, RANK_SHIFT};
use crate::copies::{AsyncCopy, Store};
use crate::instruction::{Address, Barrier, Constant};
use crate::registers::Registers;
use crate::rows::LANES;
use crate::syntax::Class;

/// Lanes at the same instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub pc: u32,
    pub mask: u32,
    /// It stands before an instruction that needs lanes which are elsewhere.
    pub waits: bool,
}

/// What a warp waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Barrier { id: usize, phase: u64, result: Option<(Barrier, u32)> },
    Cluster { phase: u64 },
    Ended,
}

/// 32 threads.
pub(crate) struct Warp {
    /// In its block.
    pub number: usize,
    /// Rank of the block.
    pub block: usize,
    /// In the cluster.
    pub id: usize,
    pub registers: Registers,
    /// Volta's model: groups run on their own and merge where they meet.
    pub groups: Vec<Group>,
    pub alive: u32,
    pub state: State,
    /// `cp.async` of no group yet, and of committed groups.
    pub copies: Vec<AsyncCopy>,
    pub copy_groups: VecDeque<Vec<AsyncCopy>>,
    /// Bulk stores, in the same way.
    pub stores: Vec<Store>,
    pub store_groups: VecDeque<Vec<Store>>,
    pub stores_committed: u32,
    /// A lane's variables behind another's.
    pub local: Vec<u8>,
    /// Turns since groups were chosen at random last.
    pub spins: u32,
    /// Phase of the cluster's barrier in which this warp arrived.
    pub arrived: Option<u64>,
    pub wgmma: WarpWgmma,
    /// Lanes in which registers that may not be were written.
    pub written: Vec<u32>,
}

/// Matrix operations of a warp's part of the warpgroup.
pub(crate) struct WarpWgmma {
    /// Operations issued, and how many of them each committed group ends with, from group `done` on.
    pub issued: u64,
    pub committed: VecDeque<u64>,
    /// Operations that some group has.
    pub grouped: u64,
    /// Groups committed, and groups known to be complete.
    pub groups: u32,
    pub done: u32,
    /// Fences so far.
    pub fences: u32,
    /// By row of the register file: the group that computes this accumulator.
    pub in_flight: Vec<u32>,
    /// By row: fences when it was written last, by anything but wgmma.
    pub written: Vec<u32>,
}

impl WarpWgmma {
    fn new(words: usize) -> Self {
        let rows = words.div_ceil(LANES);
        Self {
            issued: 0,
            committed: VecDeque::new(),
            grouped: 0,
            groups: 0,
            done: 0,
            fences: 0,
            in_flight: vec![0; rows],
            written: vec![0; rows],
        }
    }

    /// Whether something is being computed that nobody has waited for.
    pub fn is_busy(&self) -> bool {
        self.groups > self.done || self.issued > self.grouped
    }
}

impl Warp {
    pub fn new(cluster: &Cluster, rank: usize, number: usize) -> Self {
        let launch = cluster.launch;
        let code = launch.code;
        let threads = (launch.threads() as usize - LANES * number).min(LANES);
        let alive = if threads == LANES { u32::MAX } else { (1 << threads) - 1 };
        let mut registers = Registers::new(code.file_words);
        for (constant, class, place) in &code.filled {
            for lane in 0..LANES {
                let value = match constant {
                    Constant::Bits(bits) => *bits,
                    Constant::Shared(offset) => (rank as u64) << RANK_SHIFT | u64::from(*offset),
                    Constant::Global(offset) => launch.globals + offset,
                    Constant::Special(name) => special(cluster, rank, number, lane, name),
                };
                match class {
                    Class::Predicate => *registers.word_mut(*place) = value as u32,
                    Class::Narrow => registers.row_mut(*place)[lane] = value as u32,
                    Class::Wide => registers.set_wide_lane(*place, lane, value),
                }
            }
        }
        Self {
            number,
            block: rank,
            id: rank * launch.warps() + number,
            registers,
            groups: vec![Group { pc: 0, mask: alive, waits: false }],
            alive,
            state: State::Ready,
            copies: Vec::new(),
            copy_groups: VecDeque::new(),
            stores: Vec::new(),
            store_groups: VecDeque::new(),
            stores_committed: 0,
            local: vec![0xff; code.local_bytes * LANES],
            spins: 0,
            arrived: None,
            wgmma: WarpWgmma::new(code.file_words),
            written: vec![0; code.tracked],
        }
    }

    /// The address that a lane has in a register.
    #[inline]
    pub fn address(&self, register: u32, address: Address, lane: usize) -> u64 {
        if address.wide {
            self.registers.wide_lane(register, lane).wrapping_add(address.offset as u64)
        } else {
            u64::from(self.registers.lane(register, lane).wrapping_add(address.offset as u32))
        }
    }

    /// The first of the lanes in `mask`.
    pub fn first_lane(mask: u32) -> usize {
        mask.trailing_zeros() as usize % LANES
    }
}

/// Special registers (PTX ISA, "Special Registers").
fn special(cluster: &Cluster, rank: usize, number: usize, lane: usize, name: &str) -> u64 {
    let launch = cluster.launch;
    let [width, height, _] = launch.block;
    let thread = (number * LANES + lane) as u32;
    let thread = [thread % width, thread / width % height, thread / width / height];
    let block = cluster.blocks[rank].id;
    let (base, axis) = match name.split_once('.') {
        Some((base, "x")) => (base, 0),
        Some((base, "y")) => (base, 1),
        Some((base, "z")) => (base, 2),
        _ => (name, 0),
    };
    let size = launch.cluster;
    let value = match base {
        "%tid" => thread[axis],
        "%ntid" => launch.block[axis],
        "%ctaid" => block[axis],
        "%nctaid" => launch.grid[axis],
        "%laneid" => lane as u32,
        "%warpid" => number as u32,
        "%nwarpid" => launch.warps() as u32,
        "%clusterid" => cluster.id[axis],
        "%nclusterid" => launch.grid[axis] / size[axis],
        "%cluster_ctaid" => block[axis] % size[axis],
        "%cluster_nctaid" => size[axis],
        "%cluster_ctarank" => rank as u32,
        "%cluster_nctarank" => size.iter().product(),
        "%is_explicit_cluster" => u32::from(size != [1; 3]),
        "%lanemask_eq" => 1 << lane,
        "%lanemask_lt" => (1 << lane) - 1,
        "%lanemask_le" => ((2u64 << lane) - 1) as u32,
        "%lanemask_gt" => !((2u64 << lane) - 1) as u32,
        "%lanemask_ge" => !((1u64 << lane) - 1) as u32,
        "%dynamic_smem_size" => launch.dynamic_shared,
        "%total_smem_size" => launch.shared_bytes() as u32,
        // Any block may be on any multiprocessor.
        "%smid" => (block[0] + block[1] + block[2]) % 132,
        "%nsmid" => 132,
        _ => 0,
    };
    u64::from(value)
}
