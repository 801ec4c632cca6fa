//! mbarrier objects: 64 bits of shared memory that count arrivals and bytes, phase after phase (PTX ISA, "mbarrier").

use crate::block::Block;
use crate::fault::{FaultKind, Finding};
use crate::thread::{RawSite, Wait, current};
use std::ffi::c_char;

/// The largest count that PTX allows.
const MAX_COUNT: i64 = (1 << 20) - 1;
const TX_BIAS: i64 = 1 << 20;

/// An mbarrier, unpacked. In memory: pending 0..20, expected 20..40, tx + 2^20 40..61, zero 61..63, phase 63. Poison has
/// ones where zeros must be, and zeroed memory an expected count of 0, so neither passes for an initialised object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    pending: i64,
    expected: i64,
    tx: i64,
    phase: u32,
}

impl State {
    fn unpack(bits: u64) -> Option<State> {
        let field = |shift: u32, width: u32| (bits >> shift & ((1 << width) - 1)).cast_signed();
        let state = State {
            pending: field(0, 20),
            expected: field(20, 20),
            tx: field(40, 21) - TX_BIAS,
            phase: (bits >> 63) as u32,
        };
        (field(61, 2) == 0 && state.expected > 0).then_some(state)
    }

    fn pack(self) -> u64 {
        let tx = (self.tx + TX_BIAS).cast_unsigned();
        self.pending.cast_unsigned() | self.expected.cast_unsigned() << 20 | tx << 40 | u64::from(self.phase) << 63
    }

    fn arrive(self, expected_bytes: i64) -> Result<State, Finding> {
        if self.pending == 0 {
            let text = format!("arrives at an mbarrier more often than its count of {} in one phase", self.expected);
            return Err(Finding::new(FaultKind::Async, text));
        }
        State { pending: self.pending - 1, ..self }.add_bytes(expected_bytes)
    }

    fn add_bytes(self, bytes: i64) -> Result<State, Finding> {
        let tx = self.tx + bytes;
        if tx.abs() > MAX_COUNT {
            let text = format!("an mbarrier's byte count becomes {tx}, beyond 2^20 - 1");
            return Err(Finding::new(FaultKind::Async, text));
        }
        Ok(State { tx, ..self })
    }

    /// Whether the phase of that parity has completed; the block takes note.
    fn completed(self, block: &Block, barrier: *const u64, parity: u32) -> bool {
        let completed = self.phase != parity & 1;
        if completed && self.pending == self.expected {
            block.awaited(barrier);
        }
        completed
    }

    /// Begins the next phase when this one has all arrivals and bytes.
    fn settle(self) -> State {
        if self.pending == 0 && self.tx == 0 {
            State { pending: self.expected, phase: self.phase ^ 1, ..self }
        } else {
            self
        }
    }
}

/// Whether the phase of that parity has completed, for a thread of the block that waits for it.
///
/// # Safety
/// The address must be readable and aligned.
pub(crate) unsafe fn completed(block: &Block, barrier: *const u64, parity: u32) -> bool {
    // SAFETY: passed on to the caller.
    State::unpack(unsafe { barrier.read() }).is_some_and(|state| state.completed(block, barrier, parity))
}

/// The state at an address that may hold an mbarrier; the inner error is that it does not.
fn read(block: &Block, barrier: *const u64) -> Result<Result<State, Finding>, Finding> {
    if !barrier.addr().is_multiple_of(8) || !block.shared.contains(barrier.addr(), 8) {
        let text = format!("an mbarrier at {barrier:p}: it must be 8 aligned bytes of shared memory");
        return Err(Finding::new(FaultKind::SharedMemory, text));
    }
    // SAFETY: checked above; the threads of a block take turns.
    let bits = unsafe { barrier.read() };
    Ok(State::unpack(bits).ok_or_else(|| {
        Finding::new(
            FaultKind::Async,
            "uses an mbarrier that is not initialised (a barrier missing after mbarrier.init?)",
        )
    }))
}

/// An error unless an initialised mbarrier is there.
pub(crate) fn check(block: &Block, barrier: *const u64) -> Result<(), Finding> {
    read(block, barrier)?.map(|_| ())
}

/// What a bulk copy of that many bytes does when it is done.
pub(crate) fn complete_bytes(block: &Block, barrier: *mut u64, bytes: i64) -> Result<(), Finding> {
    let next = read(block, barrier)??.add_bytes(-bytes)?.settle();
    // SAFETY: `read` found an mbarrier there.
    unsafe { barrier.write(next.pack()) };
    block.note_progress();
    Ok(())
}

/// Arrives at the mbarrier that has the same place in another block of the cluster.
fn arrive_in(block: &Block, barrier: *mut u64, rank: u32) -> Result<u64, Finding> {
    let other = block.cluster().member(rank)?;
    let twin = block.shared.twin(barrier.addr(), &other.shared)?;
    if other.rank() != block.rank() {
        other.reached(twin.cast());
    }
    apply(other, twin.cast(), 2, 0)
}

fn apply(block: &Block, barrier: *mut u64, operation: u32, operand: i64) -> Result<u64, Finding> {
    let current = read(block, barrier)?;
    let next = match operation {
        0 if (1..=MAX_COUNT).contains(&operand) => State { pending: operand, expected: operand, tx: 0, phase: 0 },
        0 => {
            let text = format!("initialises an mbarrier with count {operand}: it must be 1 to {MAX_COUNT}");
            return Err(Finding::new(FaultKind::Async, text));
        }
        1 => {
            current?;
            // SAFETY: as above.
            unsafe { barrier.write(u64::MAX) };
            return Ok(0);
        }
        2 => current?.arrive(operand)?.settle(),
        3 => current?.add_bytes(operand)?,
        4 => current?.add_bytes(-operand)?.settle(),
        _ => return Ok(u64::from(current?.completed(block, barrier, operand as u32))),
    };
    // SAFETY: as above.
    unsafe { barrier.write(next.pack()) };
    block.note_progress();
    Ok(0)
}

/// Operations: 0 init, 1 inval, 2 arrive (and expect bytes), 3 expect bytes, 4 complete bytes, 5 wait, 6 test, 7 arrive in
/// the block of that rank.
#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_mbarrier(
    barrier: *mut u64,
    operation: u32,
    operand: i64,
    file: *const c_char,
    line: i32,
) -> u64 {
    let lane = current();
    let site = RawSite::new(file, line);
    let result = match operation {
        7 => arrive_in(lane.block(), barrier, operand as u32),
        _ => apply(lane.block(), barrier, operation, operand),
    };
    match result {
        Err(finding) => lane.fail(finding, site),
        Ok(0) if operation == 5 => {
            lane.suspend(Wait::Phase { barrier, parity: operand as u32 }, site);
            1
        }
        Ok(0) if operation == 6 => {
            lane.suspend(Wait::Spin, site);
            0
        }
        Ok(done) => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_packing() {
        for state in [
            State { pending: 1, expected: 1, tx: 0, phase: 0 },
            State { pending: 0, expected: MAX_COUNT, tx: -MAX_COUNT, phase: 1 },
            State { pending: 77, expected: 128, tx: MAX_COUNT, phase: 1 },
        ] {
            assert_eq!(State::unpack(state.pack()), Some(state));
        }
    }

    #[test]
    fn poison_and_zero_are_no_barriers() {
        assert_eq!(State::unpack(u64::MAX), None);
        assert_eq!(State::unpack(0), None);
    }

    #[test]
    fn a_phase_needs_all_arrivals_and_all_bytes() {
        let start = State { pending: 2, expected: 2, tx: 0, phase: 0 };
        let one = start.arrive(64).unwrap().settle();
        let two = one.arrive(0).unwrap().settle();
        assert_eq!((two.phase, two.tx), (0, 64));
        let done = two.add_bytes(-64).unwrap().settle();
        assert_eq!(done, State { pending: 2, expected: 2, tx: 0, phase: 1 });
        assert!(two.arrive(0).is_err());
    }
}
