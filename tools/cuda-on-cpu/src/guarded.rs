//! Buffers for a kernel's global memory, with guard pages around them.

use crate::fault::{FaultKind, Finding};
use crate::memory::{CANARY, POISON, Region, page_size, round_up};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{io, slice};

/// Inaccessible bytes on either side of a buffer. More than a page, so that a stray row is still seen and named.
const GUARD_BYTES: usize = 64 * 1024;
/// What kernels may rely on: the largest vector load.
const ALIGNMENT: usize = 16;

/// Plain values: any bytes are one of them, and they have no padding.
///
/// # Safety
/// Implement it only for types of which that is true.
pub unsafe trait Element: Copy + 'static {}

macro_rules! elements {
    ($($type:ty),*) => {
        // SAFETY: primitive numbers take any bytes and have no padding.
        $(unsafe impl Element for $type {})*
    };
}
elements!(u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);

/// Global memory for a kernel: it ends at a guard page and begins, up to the rounding to pages, behind another.
///
/// A launch reports an access behind the end as [`FaultKind::OutOfBounds`], with the buffer's name. Where the size is
/// no multiple of 16 bytes up to 15 bytes lie between the end and the guard page, as the start must be aligned: they
/// are checked after each launch that gets the buffer, so a write into them is found, but a read is not.
#[derive(Debug)]
pub struct GuardedBuffer {
    name: String,
    region: Region,
    offset: usize,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Known {
    name: String,
    bytes: usize,
    /// The region, guards included.
    region: (usize, usize),
}

static KNOWN: Mutex<BTreeMap<usize, Known>> = Mutex::new(BTreeMap::new());

fn known() -> MutexGuard<'static, BTreeMap<usize, Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuardedBuffer {
    /// `length` elements of poison: NaN for floats, -1 or the maximum for integers. The name is for messages.
    ///
    /// Fails when the operating system gives no more memory.
    pub fn poisoned<T: Element>(name: &str, length: usize) -> io::Result<GuardedBuffer> {
        let bytes = length * size_of::<T>();
        let open = round_up(bytes.max(1), page_size());
        let region = Region::reserve(open + 2 * round_up(GUARD_BYTES, page_size()))?;
        let first = round_up(GUARD_BYTES, page_size());
        region.open(first, open)?;
        let offset = first + open - round_up(bytes, ALIGNMENT);
        // SAFETY: the pages were just opened.
        unsafe {
            region.at(first).write_bytes(CANARY, open);
            region.at(offset).write_bytes(POISON, bytes);
        }
        let end = region.start() + 2 * first + open;
        let entry = Known { name: name.into(), bytes, region: (region.start(), end) };
        known().insert(region.at(offset).expose_provenance(), entry);
        Ok(GuardedBuffer { name: name.into(), region, offset, bytes })
    }

    /// A copy of `values`.
    ///
    /// Fails when the operating system gives no more memory.
    pub fn from_slice<T: Element>(name: &str, values: &[T]) -> io::Result<GuardedBuffer> {
        let mut buffer = GuardedBuffer::poisoned::<T>(name, values.len())?;
        buffer.as_mut_slice().copy_from_slice(values);
        Ok(buffer)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address for a kernel's argument, aligned to 16 bytes. Kernels write through it while the buffer is only
    /// borrowed; hold no slice of it during a launch.
    pub fn as_ptr(&self) -> *mut c_void {
        self.region.at(self.offset).cast()
    }

    /// The elements. Panics when the size is no multiple of theirs.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert!(
            self.bytes.is_multiple_of(size_of::<T>()),
            "{} holds {} bytes, no whole elements",
            self.name,
            self.bytes
        );
        // SAFETY: open memory, aligned to 16 bytes, and any bytes are a T.
        unsafe { slice::from_raw_parts(self.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    /// The elements, to be changed. Panics as [`GuardedBuffer::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        let length = self.as_slice::<T>().len();
        // SAFETY: as in `as_slice`, and borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.as_ptr().cast(), length) }
    }

    /// The elements, copied out. Panics as [`GuardedBuffer::as_slice`].
    pub fn to_vec<T: Element>(&self) -> Vec<T> {
        self.as_slice().to_vec()
    }
}

impl Drop for GuardedBuffer {
    fn drop(&mut self) {
        known().remove(&self.as_ptr().addr());
    }
}

/// Where an address lies, if it is in, or in the guards of, a buffer: its place in words.
pub(crate) fn describe(address: usize) -> Option<String> {
    let known = known();
    let (start, buffer) = known.iter().find(|(_, known)| (known.region.0..known.region.1).contains(&address))?;
    let Known { name, bytes, .. } = buffer;
    Some(if address < *start {
        format!("{} bytes before buffer `{name}` ({bytes} bytes)", start - address)
    } else if address >= start + bytes {
        format!("{} bytes past the end of buffer `{name}` ({bytes} bytes)", address - start - bytes)
    } else {
        format!("at byte {} of buffer `{name}` ({bytes} bytes)", address - start)
    })
}

/// A finding unless a range of addresses lies in one buffer. Bulk copies ask, as they reach memory where no signal could
/// be told from one of the emulator's own.
pub(crate) fn check_range(address: usize, bytes: usize) -> Result<(), Finding> {
    let inside =
        known().range(..=address).next_back().is_some_and(|(start, known)| address + bytes <= start + known.bytes);
    if inside {
        return Ok(());
    }
    // The end is what usually leaves the buffer.
    let place = describe(address + bytes - 1).unwrap_or_else(|| format!("at {address:#x}, which belongs to no buffer"));
    Err(Finding::new(FaultKind::OutOfBounds, format!("a bulk copy accesses global memory {place}")))
}

/// A finding when the bytes around the buffer that starts at `start` were written.
pub(crate) fn check(start: usize) -> Result<(), Finding> {
    let Some(Known { name, bytes, region }) = known().get(&start).cloned() else {
        return Ok(());
    };
    let guard = round_up(GUARD_BYTES, page_size());
    let (first, end) = (region.0 + guard, region.1 - guard);
    for (from, to) in [(first, start), (start + bytes, end)] {
        // SAFETY: open pages of a live buffer, which the caller of `launch` keeps alive and lets no one else touch.
        let canary = unsafe { slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u8>(from), to - from) };
        if let Some(offset) = canary.iter().position(|byte| *byte != CANARY) {
            canary.fill(CANARY);
            let place = describe(from + offset).unwrap_or(name);
            return Err(Finding::new(FaultKind::OutOfBounds, format!("the kernel wrote {place}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_ends_at_its_guard_page_and_is_aligned() {
        for length in [1usize, 4, 1000, 1024, 5000] {
            let buffer = GuardedBuffer::poisoned::<f32>("x", length).unwrap();
            let start = buffer.as_ptr().addr();
            assert!(start.is_multiple_of(16));
            assert_eq!(
                round_up(start + 4 * length, page_size()) - (start + 4 * length),
                round_up(4 * length, 16) - 4 * length
            );
            assert!(buffer.as_slice::<f32>().iter().all(|value| value.is_nan()));
        }
    }

    #[test]
    fn addresses_are_described_from_the_buffer() {
        let buffer = GuardedBuffer::from_slice("weights", &[1u32, 2, 3, 4]).unwrap();
        let start = buffer.as_ptr().addr();
        assert_eq!(describe(start + 16).unwrap(), "0 bytes past the end of buffer `weights` (16 bytes)");
        assert_eq!(describe(start - 4).unwrap(), "4 bytes before buffer `weights` (16 bytes)");
        assert_eq!(buffer.to_vec::<u32>(), [1, 2, 3, 4]);
        drop(buffer);
        assert_eq!(describe(start), None);
    }
}
