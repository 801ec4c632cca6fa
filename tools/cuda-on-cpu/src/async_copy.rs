//! cp.async: copies that happen when the thread waits for them, and not before.

use crate::fault::{FaultKind, Finding};
use crate::memory::POISON;
use crate::thread::{Lane, RawSite, current};
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_void};

/// One copy on its way.
#[derive(Clone, Copy, Debug)]
struct Copy {
    shared: *mut u8,
    global: *const u8,
    bytes: usize,
    source_bytes: usize,
    group: u64,
    site: RawSite,
}

/// The copies of one thread that have not happened.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    pending: RefCell<Vec<Copy>>,
    /// The group that the next copies belong to.
    group: Cell<u64>,
}

impl Copies {
    pub fn reset(&self) {
        self.pending.borrow_mut().clear();
        self.group.set(0);
    }

    fn start(&self, copy: Copy) {
        // SAFETY: checked to lie in shared memory.
        unsafe { copy.shared.write_bytes(POISON, copy.bytes) };
        self.pending.borrow_mut().push(Copy { group: self.group.get(), ..copy });
    }

    /// Performs the copies of all committed groups but the latest `latest`.
    fn wait(&self, latest: u64) {
        let end = self.group.get().saturating_sub(latest);
        self.pending.borrow_mut().retain(|copy| {
            if copy.group >= end {
                return true;
            }
            // SAFETY: the destination was checked to be shared memory when the copy began, and the header read the
            // first and the last byte of the source then.
            unsafe {
                copy.global.copy_to(copy.shared, copy.source_bytes);
                copy.shared.add(copy.source_bytes).write_bytes(0, copy.bytes - copy.source_bytes);
            }
            false
        });
    }

    /// A finding when the thread returns with copies that nobody waited for.
    pub fn forgotten(&self) -> Option<(Finding, RawSite)> {
        let pending = self.pending.borrow();
        let first = pending.first()?;
        let text =
            format!("returned with {} cp.async copies that it never waited for; the first began here", pending.len());
        Some((Finding::new(FaultKind::Async, text), first.site))
    }
}

fn check(lane: &Lane, copy: &Copy) -> Result<(), Finding> {
    let Copy { shared, global, bytes, source_bytes, .. } = *copy;
    if source_bytes > bytes {
        let text = format!("cp.async of {bytes} bytes is given {source_bytes} source bytes");
        return Err(Finding::new(FaultKind::Async, text));
    }
    for (address, side) in [(shared.addr(), "destination"), (global.addr(), "source")] {
        if !address.is_multiple_of(bytes) {
            let text = format!("cp.async of {bytes} bytes: its {side} {address:#x} is not aligned to them");
            return Err(Finding::new(FaultKind::Misaligned, text));
        }
    }
    if !lane.block().shared.contains(shared.addr(), bytes) {
        let place = lane.block().shared.describe(shared.addr());
        let (kind, place) = match place {
            Some(place) => (FaultKind::OutOfBounds, place),
            None => (FaultKind::SharedMemory, "not shared memory".into()),
        };
        return Err(Finding::new(kind, format!("cp.async of {bytes} bytes: its destination is {place}")));
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_copy_async(
    shared: *mut c_void,
    global: *const c_void,
    bytes: u32,
    source_bytes: u32,
    file: *const c_char,
    line: i32,
) {
    let lane = current();
    let site = RawSite::new(file, line);
    let (bytes, source_bytes) = (bytes as usize, source_bytes as usize);
    let copy = Copy { shared: shared.cast(), global: global.cast(), bytes, source_bytes, group: 0, site };
    match check(lane, &copy) {
        Ok(()) => lane.copies.start(copy),
        Err(finding) => lane.fail(finding, site),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_copy_commit() {
    let group = &current().copies.group;
    group.set(group.get() + 1);
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_copy_wait(latest: u32) {
    current().copies.wait(u64::from(latest));
}
