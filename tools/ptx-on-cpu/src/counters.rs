//! What a launch did, counted: the numbers a profiler shows, by line.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::Serialize;

use crate::fault::{Fault, source_lines};
use crate::instruction::Code;
use crate::syntax::File;

/// A structure of counters that can be added and listed.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of one line or of a whole launch. Requests, sectors, wavefronts, branches and waits are counted once a warp.
        /// Loops that ask an mbarrier again and again have as many instructions as the schedule lets them have; nothing else
        /// here depends on it.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl Counts {
            /// Names and values, in order.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counts! {
    /// PTX instructions, once a warp; what follows says of which class they are.
    warp_instructions,
    /// PTX instructions, once a thread.
    thread_instructions,
    /// `mma` and `wgmma.mma_async`.
    tensor,
    /// Special functions: `ex2`, `lg2`, `sin`, `cos`, `tanh`, `rcp`, `rsqrt`, `sqrt`, `div` of at most 32 bits.
    special,
    /// Other arithmetic and comparison of floats.
    float,
    /// Integers, logic, selection.
    integer,
    /// `cvt`.
    conversion,
    /// `mov` and its like: most of them are gone in machine code.
    moves,
    /// Of shared memory, `ldmatrix` and `stmatrix` included.
    shared,
    /// Of global memory, with generic addresses and asynchronous copies.
    global,
    /// Of local memory.
    local,
    /// Of parameters and constants.
    parameter,
    /// Between lanes: `shfl`, `vote`, `match`, `redux`, `elect`.
    exchange,
    /// Barriers, fences, groups and mbarriers.
    synchronization,
    /// Branches, calls, ends.
    control,
    /// Accesses of shared memory, the targets of `cp.async` included. What tensor copies and `wgmma` do there is not counted.
    shared_requests,
    /// Wavefronts of these: in each at most one word of 4 bytes a bank, of 32 banks. Lanes of 8 bytes go by half warps, of 16
    /// by quarters, matrices by their 8 rows. Atomics on one word count one after another.
    shared_wavefronts,
    /// Wavefronts beyond what an access without conflicts takes.
    bank_conflicts,
    /// Loads of global memory, the sources of `cp.async` included.
    load_requests,
    /// Sectors of 32 bytes that these touch.
    load_sectors,
    /// As few as would hold the bytes that they read, each once.
    load_sectors_least,
    /// Stores to global memory and atomics.
    store_requests,
    /// Sectors of 32 bytes that these touch.
    store_sectors,
    /// As few as would hold the bytes that they write, each once.
    store_sectors_least,
    /// Bytes between the multiprocessors and L2 if L1 kept nothing: the sectors above, and those of bulk and tensor copies, a
    /// multicast once.
    l2_bytes,
    /// Branches at which lanes of a warp part.
    divergent_branches,
    /// Multiply-accumulates of matrix instructions.
    tensor_multiplications,
    /// Special functions of threads; a pair of halves is two.
    special_operations,
    /// Waits of warps: at barriers of a block or a cluster, and for phases of an mbarrier.
    barrier_waits,
}

/// Kinds of instructions, as their opcodes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum InstructionClass {
    Tensor,
    Special,
    Float,
    #[default]
    Integer,
    Conversion,
    Move,
    Shared,
    Global,
    Local,
    Parameter,
    Exchange,
    Synchronization,
    Control,
}

impl InstructionClass {
    /// The class of an opcode.
    pub fn of(opcode: &str) -> Self {
        let mut parts = opcode.split('.');
        let base = parts.next().unwrap_or("");
        let has = |wanted: &str| opcode.split('.').any(|part| part.starts_with(wanted));
        let kind = opcode.rsplit('.').next().unwrap_or("");
        let is_float = matches!(kind, "f32" | "f64" | "f16" | "bf16" | "f16x2" | "bf16x2");
        match base {
            "mma" | "wmma" => Self::Tensor,
            "wgmma" if has("mma_async") => Self::Tensor,
            "cp" if has("commit_group") || has("wait") || opcode.starts_with("cp.async.mbarrier") => {
                Self::Synchronization
            }
            "wgmma" | "bar" | "barrier" | "mbarrier" | "fence" | "membar" | "griddepcontrol" | "setmaxnreg"
            | "nanosleep" => Self::Synchronization,
            "bra" | "brx" | "ret" | "exit" | "call" | "trap" | "brkpt" => Self::Control,
            "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" => Self::Exchange,
            "mov" | "cvta" | "mapa" => Self::Move,
            "cvt" => Self::Conversion,
            "ldmatrix" | "stmatrix" => Self::Shared,
            "cp" | "prefetch" | "tensormap" => Self::Global,
            "ld" | "ldu" | "st" | "atom" | "red" if has("shared") => Self::Shared,
            "ld" | "ldu" | "st" if has("param") || has("const") => Self::Parameter,
            "ld" | "ldu" | "st" if has("local") => Self::Local,
            "ld" | "ldu" | "st" | "atom" | "red" => Self::Global,
            "ex2" | "lg2" | "sin" | "cos" | "tanh" | "rcp" | "rsqrt" | "sqrt" | "div" if is_float && kind != "f64" => {
                Self::Special
            }
            "selp" | "slct" => Self::Integer,
            _ if is_float => Self::Float,
            _ => Self::Integer,
        }
    }
}

impl Counts {
    fn class(&mut self, class: InstructionClass) -> &mut u64 {
        match class {
            InstructionClass::Tensor => &mut self.tensor,
            InstructionClass::Special => &mut self.special,
            InstructionClass::Float => &mut self.float,
            InstructionClass::Integer => &mut self.integer,
            InstructionClass::Conversion => &mut self.conversion,
            InstructionClass::Move => &mut self.moves,
            InstructionClass::Shared => &mut self.shared,
            InstructionClass::Global => &mut self.global,
            InstructionClass::Local => &mut self.local,
            InstructionClass::Parameter => &mut self.parameter,
            InstructionClass::Exchange => &mut self.exchange,
            InstructionClass::Synchronization => &mut self.synchronization,
            InstructionClass::Control => &mut self.control,
        }
    }
}

/// Counts of a line of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceLine {
    /// As `.loc` has it, from the innermost call; `PTX` where the text does not say, and the line is the text's own.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// What its instructions did.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What was executed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// PTX instructions, once a warp.
    pub warp_instructions: u64,
    /// PTX instructions, once a thread.
    pub thread_instructions: u64,
    /// Multiply-accumulates of matrix instructions.
    pub tensor_multiplications: u64,
    /// By line of the PTX text: instructions of warps and of threads.
    #[serde(skip)]
    pub lines: BTreeMap<u32, [u64; 2]>,
    /// Everything, with [`crate::Settings::counters`] alone, as what follows.
    pub total: Counts,
    /// By line of the PTX text.
    pub by_line: BTreeMap<u32, Counts>,
    /// By line of the source, in the order of files and lines.
    pub by_source: Vec<SourceLine>,
    /// What is no error of the kernel's, and perhaps one of its author's: with [`crate::Settings::hazards`] alone, and once for each
    /// instruction.
    pub warnings: Vec<Fault>,
}

impl Counters {
    /// From executions of each instruction (of warps, of threads), and what else was seen of it, if that was counted.
    pub(crate) fn new(file: &File, code: &Code, executed: &[[u64; 2]], seen: Option<&[Counts]>) -> Self {
        let mut counters = Self::default();
        let mut sources: BTreeMap<(String, u32), Counts> = BTreeMap::new();
        for (number, (instruction, [warps, threads])) in
            code.instructions.iter().zip(executed.iter().copied()).enumerate()
        {
            let (line, location) = code.places[instruction.statement as usize];
            let mut counts = seen.map_or(Counts::default(), |seen| seen[number]);
            if instruction.counts && warps > 0 {
                counters.warp_instructions += warps;
                counters.thread_instructions += threads;
                let sums = counters.lines.entry(line).or_default();
                sums[0] += warps;
                sums[1] += threads;
                counts.warp_instructions = warps;
                counts.thread_instructions = threads;
                *counts.class(instruction.class) += warps;
                counts.special_operations = threads * u64::from(instruction.special);
            }
            if seen.is_none() || counts == Counts::default() {
                continue;
            }
            let place = source_lines(file, location).into_iter().next().unwrap_or_else(|| ("PTX".into(), line));
            counters.total += counts;
            *counters.by_line.entry(line).or_default() += counts;
            *sources.entry(place).or_default() += counts;
        }
        counters.by_source =
            sources.into_iter().map(|((file, line), counts)| SourceLine { file, line, counts }).collect();
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_have_their_class() {
        for (opcode, class) in [
            ("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16", InstructionClass::Tensor),
            ("wgmma.wait_group.sync.aligned", InstructionClass::Synchronization),
            ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", InstructionClass::Tensor),
            ("ex2.approx.ftz.f32", InstructionClass::Special),
            ("rcp.rn.f64", InstructionClass::Float),
            ("div.s32", InstructionClass::Integer),
            ("fma.rn.f32", InstructionClass::Float),
            ("ld.shared.v4.u32", InstructionClass::Shared),
            ("st.shared::cluster.u32", InstructionClass::Shared),
            ("mbarrier.arrive.shared.b64", InstructionClass::Synchronization),
            ("ld.global.nc.v4.f32", InstructionClass::Global),
            ("ld.f32", InstructionClass::Global),
            ("ld.param.u64", InstructionClass::Parameter),
            ("ld.const.f32", InstructionClass::Parameter),
            ("cp.async.cg.shared.global", InstructionClass::Global),
            ("cp.async.bulk.wait_group.read", InstructionClass::Synchronization),
            ("cp.async.mbarrier.arrive.noinc.shared.b64", InstructionClass::Synchronization),
            ("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes", InstructionClass::Global),
            ("cvt.rn.bf16x2.f32", InstructionClass::Conversion),
            ("selp.f32", InstructionClass::Integer),
            ("bra.uni", InstructionClass::Control),
        ] {
            assert_eq!(InstructionClass::of(opcode), class, "{opcode}");
        }
    }
}
