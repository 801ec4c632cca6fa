//! What a launch reports when a kernel does something that it must not do.

use std::ffi::{CStr, c_char};
use std::fmt;

/// What kind of mistake a [`Fault`] is about, for tests that expect one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The launch itself is impossible: grid, block, shared bytes or arguments.
    Launch,
    /// Threads of one block wait in `__syncthreads` at different lines, or disagree on a named barrier's count.
    DivergentBarrier,
    /// A thread returned while, or before, others wait in `__syncthreads`.
    BarrierAfterExit,
    /// No thread of the block, or of its cluster, can run any more, or all that run only spin.
    Deadlock,
    /// A block of the cluster that is not there, or has returned; its barrier used against the rules.
    Cluster,
    /// Lanes of one warp call different warp functions, or disagree on the mask.
    WarpMismatch,
    /// A shuffle reads from a lane that does not take part.
    InactiveLane,
    /// An access outside a buffer or a shared variable.
    OutOfBounds,
    /// An access through a pointer that is not aligned for its type.
    Misaligned,
    /// Shared memory: too much of it, or an operation that needs it was given another address.
    SharedMemory,
    /// An asynchronous copy or an mbarrier used against its rules.
    Async,
    /// `assert` failed.
    Assert,
    /// `__trap`, a division of integers by zero, or an illegal instruction.
    Trap,
    /// The thread's stack is used up.
    StackOverflow,
}

/// A line of a kernel's source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// The file as the compiler was given it.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
}

impl Site {
    /// From the file and line that C++ hands over. Null when the caller does not know.
    pub(crate) fn from_c(file: *const c_char, line: u32) -> Option<Site> {
        if file.is_null() {
            return None;
        }
        // SAFETY: the headers only pass string literals.
        let file = unsafe { CStr::from_ptr(file) }.to_string_lossy().into_owned();
        Some(Site { file, line })
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a launch failed: who, where, what was found, and usually what to do about it.
///
/// The block is abandoned where it stood and blocks that have not begun do not run, so outputs are incomplete.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Fault {
    /// The exported name of the kernel.
    pub kernel: String,
    /// `blockIdx`, absent when the launch never began.
    pub block: Option<[u32; 3]>,
    /// `threadIdx`, absent when the fault concerns a whole block.
    pub thread: Option<[u32; 3]>,
    /// The line, where it is known, and behind it the lines that called it, the nearest first: a kernel is mostly wrong
    /// where it calls a helper, not inside it.
    pub lines: Vec<Site>,
    /// What kind of mistake it is.
    pub kind: FaultKind,
    /// What was found, with what to do about it.
    pub finding: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}", self.kernel)?;
        if let Some([x, y, z]) = self.block {
            write!(f, ", block ({x}, {y}, {z})")?;
        }
        if let Some([x, y, z]) = self.thread {
            write!(f, ", thread ({x}, {y}, {z})")?;
        }
        for (index, line) in self.lines.iter().enumerate() {
            write!(f, "{}{line}", if index == 1 { " (called from " } else { ", " })?;
        }
        if self.lines.len() > 1 {
            f.write_str(")")?;
        }
        write!(f, ": {}", self.finding)
    }
}

/// A fault before kernel, block and thread are filled in.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub kind: FaultKind,
    /// The thread's number in its block.
    pub thread: Option<u32>,
    pub site: Option<Site>,
    pub callers: Vec<Site>,
    pub text: String,
}

impl Finding {
    pub fn new(kind: FaultKind, text: impl Into<String>) -> Finding {
        Finding { kind, thread: None, site: None, callers: Vec::new(), text: text.into() }
    }

    pub fn at(self, site: Option<Site>) -> Finding {
        Finding { site: self.site.or(site), ..self }
    }

    pub fn called_from(self, callers: Vec<Site>) -> Finding {
        Finding { callers, ..self }
    }

    pub fn by(self, thread: u32) -> Finding {
        Finding { thread: self.thread.or(Some(thread)), ..self }
    }

    /// With what only the launch knows.
    pub fn into_fault(self, kernel: &str, block: Option<[u32; 3]>, thread: Option<[u32; 3]>) -> Fault {
        let lines = self.site.into_iter().chain(self.callers).collect();
        Fault { kernel: kernel.into(), block, thread, lines, kind: self.kind, finding: self.text }
    }
}
