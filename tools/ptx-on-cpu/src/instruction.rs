//! What the machine executes: operations whose registers are places in a warp's file.

use crate::counters::InstructionClass;
use crate::rows::RowFunction;
use crate::syntax::{Class, Space};

/// A register that is not there: a sink, or an operand left out.
pub(crate) const NONE: u32 = u32::MAX;

/// How an address is made of its register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub wide: bool,
    pub offset: i64,
}

/// Atomic operations (PTX ISA, "atom").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

/// How the operands of an atomic operation are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Unsigned,
    Signed,
    Float,
    Half,
    Brain,
    HalfPair,
    BrainPair,
}

/// `shfl.sync.MODE`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `vote.sync.MODE`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    Ballot,
    All,
    Any,
    Uniform,
}

/// What `bar.red` or a plain barrier does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    Sync,
    Arrive,
    Count,
    All,
    Any,
}

/// Elements of a matrix instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Bf16,
    F16,
    Tf32,
}

/// `wgmma.mma_async` (PTX ISA, "Asynchronous Multiply-and-Accumulate Instruction").
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wgmma {
    pub n: usize,
    pub element: Element,
    /// Sums are kept in f16 pairs, not in f32.
    pub half_sums: bool,
    /// A is in registers.
    pub from_registers: bool,
    pub negate_scale: bool,
    /// Product of the two signs.
    pub sign: f32,
    pub transpose: [bool; 2],
}

/// Fields that `tensormap.replace` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapField {
    Address,
    Rank,
    Box,
    Dimension,
    Stride,
    ElementStride,
    ElementType,
    Interleave,
    Swizzle,
    Fill,
}

/// What a copy between shared and global memory does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Copy,
    With(Atomic, Number),
}

/// Operations; the comments list the registers that go with them, results first.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// As the function has them.
    Rows(RowFunction),
    /// values.., address
    Load {
        space: Space,
        strong: bool,
        bytes: u8,
        signed: bool,
        wide: bool,
        count: u8,
        address: Address,
    },
    /// address, values..
    Store {
        space: Space,
        strong: bool,
        releases: bool,
        bytes: u8,
        wide: bool,
        count: u8,
        address: Address,
    },
    /// old, address, a, b
    Atomic {
        space: Space,
        operation: Atomic,
        number: Number,
        bytes: u8,
        address: Address,
        releases: bool,
    },
    Branch,
    /// index; targets are the code's.
    BranchTable(Box<[u32]>),
    Exit,
    Nothing,
    Trap,
    /// value
    Clock {
        wide: bool,
    },
    /// result, id, count, predicate
    Barrier(Barrier),
    /// members
    WarpBarrier,
    /// value, predicate, a, b, c, members
    Shuffle(Shuffle),
    /// result, predicate, members
    Vote(Vote),
    /// leader, predicate, members
    Elect,
    /// result, value, members: lanes of equal value; `all` answers with all or nothing, and a predicate.
    Match {
        wide: bool,
        all: bool,
    },
    /// result, value, members
    Reduce(fn(u32, u32) -> u32),
    /// result
    ActiveMask,
    /// shared, global, bytes to read
    CopyAsync {
        bytes: u32,
        shared: Address,
        global: Address,
    },
    CopyCommit,
    CopyWait(u32),
    /// mbarrier: completes it when the copies so far are done
    CopyArrive {
        address: Address,
        counted: bool,
    },
    /// results.., address
    LoadMatrix {
        transpose: bool,
        count: u8,
        address: Address,
    },
    /// address, values..
    StoreMatrix {
        transpose: bool,
        address: Address,
    },
    /// d.., a.., b.., c..
    Mma {
        k: u8,
        element: Element,
        half_sums: bool,
    },
    WgmmaFence,
    /// accumulators.., a.., descriptor of A, descriptor of B, scale
    Wgmma(Box<Wgmma>),
    WgmmaCommit,
    WgmmaWait(u32),
    /// barrier, count
    MbarrierInit(Address),
    MbarrierInvalidate(Address),
    /// state, barrier, count, bytes
    MbarrierArrive {
        address: Address,
        relaxed: bool,
        drop: bool,
    },
    /// barrier, bytes
    MbarrierExpect(Address),
    /// done, barrier, parity or state
    MbarrierTest {
        address: Address,
        parity: bool,
        relaxed: bool,
    },
    FenceAsyncProxy,
    FenceMbarrierInit,
    /// Of the whole GPU, or of less.
    Fence {
        whole: bool,
    },
    /// shared, map, barrier, mask, coordinates..
    TensorLoad {
        shared: Address,
        map: Address,
        barrier: Address,
    },
    /// map, shared, coordinates..
    TensorStore {
        map: Address,
        shared: Address,
    },
    BulkCommit,
    BulkWait(u32),
    /// shared, global, bytes, barrier, mask
    BulkLoad {
        shared: Address,
        global: Address,
        barrier: Address,
    },
    /// global, shared, bytes
    BulkStore {
        global: Address,
        shared: Address,
        reduction: Reduction,
    },
    /// remote shared, shared, bytes, barrier
    BulkPeer {
        to: Address,
        from: Address,
        barrier: Address,
    },
    ClusterArrive {
        relaxed: bool,
    },
    ClusterWait,
    /// result, address, rank
    MapShared {
        wide: bool,
    },
    SetMaxRegisters,
    /// map, value
    MapReplace {
        field: MapField,
        index: u8,
        space: Space,
        address: Address,
        wide: bool,
    },
    /// global, shared
    MapCopy {
        to: Address,
        from: Address,
    },
    /// What could not be decoded.
    Unknown(String),
}

/// One step of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub operation: Operation,
    /// Predicate in the file, or [`NONE`].
    pub guard: u32,
    pub negated: bool,
    /// Registers: place of the first in [`Code::registers`], and how many.
    pub first: u32,
    pub count: u16,
    /// How many of them are results; those behind are sources.
    pub results: u16,
    /// Results that are sources as well, as accumulators are.
    pub updates: bool,
    /// A plain move of a register: it may carry an accumulator that is still being computed.
    pub is_move: bool,
    /// The first of the steps that a PTX instruction became: the one that is counted.
    pub counts: bool,
    pub class: InstructionClass,
    /// Special functions that a thread computes with it.
    pub special: u8,
    /// Some of its registers may be read before they were written: number in [`Code::unwritten`], or [`NONE`].
    pub tracked: u32,
    pub target: u32,
    /// Statement in the function, for lines.
    pub statement: u32,
}

/// What a row is filled with before a warp starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    /// `%tid.x` and its like.
    Special(String),
    /// A shared variable, whose address begins with the block's rank.
    Shared(u32),
    /// A variable of the module, from the beginning of those.
    Global(u64),
}

/// An access of a register that may not have been written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unwritten {
    /// Among such registers.
    pub number: u32,
    pub is_write: bool,
    pub is_guard: bool,
}

/// A kernel, decoded.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub name: String,
    pub instructions: Vec<Instruction>,
    /// Before allocation numbers of virtual registers, after it places in the file.
    pub registers: Vec<u32>,
    /// Of virtual registers.
    pub classes: Vec<Class>,
    /// Registers that hold the same from the beginning on.
    pub constants: Vec<(Constant, u32)>,
    /// The same with classes and places in the file.
    pub filled: Vec<(Constant, Class, u32)>,
    pub uses_wgmma: bool,
    /// Words of a warp's register file.
    pub file_words: usize,
    /// Accesses of registers that some path reads before it writes them.
    pub unwritten: Vec<Vec<Unwritten>>,
    /// How many such registers there are.
    pub tracked: usize,
    pub parameter_bytes: usize,
    /// Shared memory ends here without the dynamic part, from [`crate::decode::SHARED_BASE`].
    pub shared_end: usize,
    pub local_bytes: usize,
    /// Line and location of each statement, and of the end.
    pub places: Vec<(u32, u32)>,
}

impl Code {
    pub fn registers(&self, instruction: &Instruction) -> &[u32] {
        &self.registers[instruction.first as usize..][..instruction.count as usize]
    }
}
