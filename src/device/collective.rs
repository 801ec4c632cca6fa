//! What carries gradients between the devices of several processes: MPI between CPUs, NCCL between GPUs.

use std::ops::Range;

use super::Buffer;
use crate::Result;

/// A library that moves parts of buffers between ranks. It adds nothing, but for [`Collective::all_reduce`]: what is added in a known
/// order, is added by us. All ranks make the same calls in the same order, with buffers of the same length and type.
pub trait Collective: Send {
    /// What it is, for people: "Open MPI 4.1.4".
    fn describe(&self) -> String;

    /// Gives each rank r elements `parts[r]` of `source`, and writes what this one gets to `received`, `[ranks, own part]`.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] with the library's word for it.
    fn exchange(&mut self, source: &Buffer, parts: &[Range<usize>], received: &mut Buffer) -> Result<()>;

    /// Gives everybody this rank's part of `buffer`, elements `parts[rank]`, and writes those of the others to theirs.
    ///
    /// # Errors
    /// As [`Collective::exchange`].
    fn gather(&mut self, buffer: &mut Buffer, parts: &[Range<usize>]) -> Result<()>;

    /// Replaces `buffer` by the sum over all ranks, in whatever order the library adds.
    ///
    /// # Errors
    /// As [`Collective::exchange`].
    fn all_reduce(&mut self, buffer: &mut Buffer) -> Result<()>;

    /// The last call, when all ranks have come to their end.
    fn finish(&mut self) {}
}

/// Bytes of what the ranks of a communicator of GPUs have in common.
pub const UNIQUE_ID_BYTES: usize = 128;

/// What they have in common: NCCL's `ncclUniqueId`.
pub type UniqueId = [u8; UNIQUE_ID_BYTES];

/// Ends this process without what libraries have registered for its end: they may wait for ranks that are gone.
pub fn end_at_once(code: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: takes a number, and does not return.
    unsafe {
        nix::libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::exit(code)
}
