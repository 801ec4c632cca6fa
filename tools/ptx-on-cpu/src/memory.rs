//! Global memory: buffers of our own, which know what was never written, and host memory at its real addresses.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Generic addresses of the other state spaces: the upper half of the address says which.
pub(crate) mod window {
    pub const SHARED: u64 = 1 << 32;
    pub const PARAM: u64 = 2 << 32;
    pub const LOCAL: u64 = 3 << 32;
    /// No global memory lies below.
    pub const END: u64 = 1 << 40;

    /// An address of shared memory, of one that may be generic. One of another window stays what it is, and leads nowhere there.
    pub fn to_shared(address: u64) -> u64 {
        if address >> 32 == SHARED >> 32 { address ^ SHARED } else { address }
    }
}

/// Buffers are so far apart that no index that is wrong leads from one into another.
const SPACING: u32 = 40;
/// Numbers of buffers whose addresses the host uses for itself, on 64-bit systems: 2^45 to 2^48.
const HOST_NUMBERS: std::ops::Range<u64> = 0x20..0x100;
/// What fresh memory holds: NaN in every float type.
pub(crate) const POISON: u8 = 0xff;

/// Bytes of our own, aligned as the driver's are.
struct Owned {
    pointer: NonNull<u8>,
    layout: Layout,
    /// A bit a byte: written by the host or a kernel.
    written: Box<[AtomicU8]>,
}

impl Owned {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(1), 256).unwrap_or_else(|_| panic!("a buffer of {bytes} bytes"));
        // SAFETY: the size is not 0.
        let pointer = NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        // SAFETY: just allocated with this size.
        unsafe { pointer.write_bytes(POISON, layout.size()) };
        let written = (0..bytes.div_ceil(8)).map(|_| AtomicU8::new(0)).collect();
        Self { pointer, layout, written }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and regions keep their bytes alive.
        unsafe { dealloc(self.pointer.as_ptr(), self.layout) }
    }
}

/// A range of global memory.
pub(crate) struct Region {
    pub base: u64,
    pub bytes: u64,
    pointer: *mut u8,
    owned: Option<Owned>,
}

// SAFETY: kernels' accesses are atomic operations or races of the kernel's own making, as on a GPU; the host's stand behind
// `&self` methods that copy.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub fn pointer(&self, offset: u64) -> *mut u8 {
        self.pointer.wrapping_add(offset as usize)
    }

    /// Remembers that a kernel or the host wrote there.
    #[inline]
    pub fn mark_written(&self, offset: u64, bytes: u64) {
        let Some(owned) = &self.owned else { return };
        for (at, bits) in bit_ranges(offset, bytes) {
            if owned.written[at].load(Ordering::Relaxed) & bits != bits {
                owned.written[at].fetch_or(bits, Ordering::Relaxed);
            }
        }
    }

    /// Whether all of these bytes were written, as far as that is known.
    #[inline]
    pub fn is_written(&self, offset: u64, bytes: u64) -> bool {
        let Some(owned) = &self.owned else { return true };
        bit_ranges(offset, bytes).all(|(at, bits)| owned.written[at].load(Ordering::Relaxed) & bits == bits)
    }
}

fn bit_ranges(offset: u64, bytes: u64) -> impl Iterator<Item = (usize, u8)> {
    let end = offset + bytes;
    (offset / 8..end.div_ceil(8)).map(move |at| {
        let first = offset.max(8 * at) - 8 * at;
        let last = end.min(8 * at + 8) - 8 * at;
        (at as usize, ((1u16 << last) - (1u16 << first)) as u8)
    })
}

/// Global memory of one or more launches.
///
/// Owned buffers lie `number << 40` apart: an index that is wrong by any plausible amount hits nothing, and is a fault.
#[derive(Default)]
pub struct Memory {
    regions: RwLock<Vec<Arc<Region>>>,
    allocated: Mutex<u64>,
    /// Variables of modules, by the module's number.
    globals: Mutex<HashMap<u64, u64>>,
}

impl Memory {
    /// Nothing allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer whose bytes nobody has written yet; a kernel that reads them first is at fault. Returns its address.
    pub fn allocate(&self, bytes: usize) -> u64 {
        let number = {
            let mut allocated = self.allocated.lock().unwrap_or_else(PoisonError::into_inner);
            *allocated += 1;
            if HOST_NUMBERS.contains(&*allocated) {
                *allocated = HOST_NUMBERS.end;
            }
            *allocated
        };
        let owned = Owned::new(bytes);
        let pointer = owned.pointer.as_ptr();
        let base = number << SPACING;
        self.insert(Region { base, bytes: bytes as u64, pointer, owned: Some(owned) });
        base
    }

    /// A buffer with these bytes. Returns its address.
    pub fn upload(&self, bytes: &[u8]) -> u64 {
        let base = self.allocate(bytes.len());
        self.write(base, bytes).unwrap_or_else(|why| unreachable!("{why}"));
        base
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// A range that is not inside one buffer.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), String> {
        let (region, offset) = self.find(address, bytes.len() as u64)?;
        // SAFETY: the range lies inside the region.
        unsafe { region.pointer(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        region.mark_written(offset, bytes.len() as u64);
        Ok(())
    }

    /// Copies bytes out; those that nobody wrote are 0xff.
    ///
    /// # Errors
    /// A range that is not inside one buffer.
    pub fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>, String> {
        let (region, offset) = self.find(address, bytes as u64)?;
        let mut copy = vec![0; bytes];
        // SAFETY: the range lies inside the region.
        unsafe { copy.as_mut_ptr().copy_from_nonoverlapping(region.pointer(offset), bytes) };
        Ok(copy)
    }

    /// How many of these bytes nobody wrote.
    ///
    /// # Errors
    /// A range that is not inside one buffer.
    pub fn unwritten(&self, address: u64, bytes: usize) -> Result<usize, String> {
        let (region, offset) = self.find(address, bytes as u64)?;
        Ok((offset..offset + bytes as u64).filter(|at| !region.is_written(*at, 1)).count())
    }

    /// Makes host memory visible to kernels under its own addresses.
    ///
    /// # Errors
    /// A range that another one overlaps, or that lies where other state spaces have their windows.
    ///
    /// # Safety
    /// Until [`Memory::unmap`] the range may be read and written, and while a launch runs nothing else touches it.
    pub unsafe fn map(&self, base: *mut u8, bytes: usize) -> Result<(), String> {
        let (first, length) = (base.expose_provenance() as u64, bytes as u64);
        if first < window::END || first.checked_add(length).is_none() {
            return Err(format!("{bytes} bytes at {base:p} cannot be mapped"));
        }
        let taken = |region: &Arc<Region>| first < region.base + region.bytes && region.base < first + length;
        if self.regions.read().unwrap_or_else(PoisonError::into_inner).iter().any(taken) {
            return Err(format!("{bytes} bytes at {base:p} overlap other memory"));
        }
        self.insert(Region { base: first, bytes: length, pointer: base, owned: None });
        Ok(())
    }

    /// Forgets a mapped range or frees a buffer, by its first address.
    ///
    /// # Errors
    /// Nothing begins there.
    pub fn unmap(&self, base: u64) -> Result<(), String> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        match regions.binary_search_by_key(&base, |region| region.base) {
            Ok(at) => {
                regions.remove(at);
                Ok(())
            }
            Err(_) => Err(format!("no memory begins at {base:#x}")),
        }
    }

    fn insert(&self, region: Region) {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let at = regions.partition_point(|other| other.base < region.base);
        regions.insert(at, Arc::new(region));
    }

    fn find(&self, address: u64, bytes: u64) -> Result<(Arc<Region>, u64), String> {
        let view = self.view();
        let at = view.find(address, bytes)?;
        Ok((Arc::clone(&view.regions[at]), address - view.regions[at].base))
    }

    /// What there is now, for a launch.
    pub(crate) fn view(&self) -> View {
        View { regions: self.regions.read().unwrap_or_else(PoisonError::into_inner).clone() }
    }

    /// Where the variables of a module are; they are made at its first launch. `pointers` are places of addresses among the
    /// initial bytes.
    pub(crate) fn globals(&self, module: u64, initial: &[u8], pointers: &[usize]) -> u64 {
        let mut globals = self.globals.lock().unwrap_or_else(PoisonError::into_inner);
        *globals.entry(module).or_insert_with(|| {
            if initial.is_empty() {
                return 0;
            }
            let base = self.allocate(initial.len());
            let mut bytes = initial.to_vec();
            for at in pointers {
                if let Some(word) = bytes[*at..].first_chunk_mut::<8>() {
                    *word = (u64::from_le_bytes(*word) + base).to_le_bytes();
                }
            }
            self.write(base, &bytes).unwrap_or_else(|why| unreachable!("{why}"));
            base
        })
    }
}

/// The regions of a memory, ordered by address.
pub(crate) struct View {
    pub regions: Vec<Arc<Region>>,
}

impl View {
    /// The region that holds the whole range.
    pub fn find(&self, address: u64, bytes: u64) -> Result<usize, String> {
        let next = self.regions.partition_point(|region| region.base <= address);
        let Some(region) = next.checked_sub(1).map(|at| &self.regions[at]) else {
            return Err(format!("access of {bytes} bytes at {address:#x}, where no memory is"));
        };
        let offset = address - region.base;
        if offset.checked_add(bytes).is_some_and(|end| end <= region.bytes) {
            return Ok(next - 1);
        }
        if offset > region.bytes + (1 << 32) {
            return Err(format!("access of {bytes} bytes at {address:#x}, where no memory is"));
        }
        let (base, length) = (region.base, region.bytes);
        Err(format!("access of {bytes} bytes at {address:#x}, {offset} bytes into the {length} at {base:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_end_where_they_end_and_know_what_was_written() {
        let memory = Memory::new();
        let first = memory.upload(&[1, 2, 3]);
        let second = memory.allocate(20);
        assert_eq!((first, second), (1 << 40, 2 << 40));
        assert_eq!(memory.read(first, 3).unwrap(), [1, 2, 3]);
        assert!(memory.read(first, 4).unwrap_err().contains("3 at 0x10000000000"));
        assert!(memory.read(first - 1, 1).is_err());
        memory.write(second + 7, &[0; 9]).unwrap();
        assert_eq!(memory.unwritten(second, 20).unwrap(), 11);
        assert_eq!(memory.unwritten(second + 7, 9).unwrap(), 0);
        assert_eq!(memory.read(second, 1).unwrap(), [POISON]);
        memory.unmap(first).unwrap();
        assert!(memory.read(first, 1).is_err());
    }

    #[test]
    fn host_memory_keeps_its_addresses() {
        let memory = Memory::new();
        let mut bytes = vec![7u8; 64];
        let base = bytes.as_mut_ptr();
        // SAFETY: the vector outlives its mapping, and nothing else uses it meanwhile.
        unsafe { memory.map(base, 64).unwrap() };
        assert_eq!(memory.read(base as u64 + 60, 4).unwrap(), [7; 4]);
        // SAFETY: as above.
        assert!(unsafe { memory.map(base.wrapping_add(63), 2) }.is_err());
        memory.unmap(base as u64).unwrap();
        assert!(memory.read(base as u64, 1).is_err());
    }
}
