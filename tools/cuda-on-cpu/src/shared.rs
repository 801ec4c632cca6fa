//! A block's shared memory. Each variable ends at a guard page, so that an access behind it faults at once; the bytes
//! before it, and the few behind it that alignment leaves, hold a canary that is looked at when the block ends.

use crate::fault::{FaultKind, Finding, Site};
use crate::memory::{CANARY, POISON, Region, page_size, round_up};
use crate::thread::{RawSite, current};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::{io, ptr, slice};

/// Address space per worker. Only what is touched costs memory.
const ARENA_BYTES: usize = 1 << 30;
/// The most static shared memory a block can have: nvcc refuses more.
const STATIC_LIMIT: usize = 48 * 1024;
/// The most shared memory a block can have on any chip so far (sm_90, sm_100): 227 KiB.
pub(crate) const BLOCK_LIMIT: usize = 227 * 1024;
/// Where shared addresses begin: a chip keeps as much for itself, and no address may be zero.
const FIRST_ADDRESS: u32 = 1024;
/// What the shared address of a variable agrees with its pointer in: the longest period of a swizzle.
const ADDRESS_PERIOD: usize = 1024;
/// How many canary bytes before a variable are looked at.
const CANARY_BYTES: usize = 64;

/// `cuda_on_cpu_shared_variable` in block.h: one `__shared__` declaration.
#[repr(C)]
pub(crate) struct Declaration {
    name: *const c_char,
    bytes: usize,
    alignment: usize,
    file: *const c_char,
    line: i32,
}

/// The place of one variable, kept from block to block.
#[derive(Debug)]
struct Slot {
    /// The declaration's address; none for the dynamic shared memory.
    declaration: Option<usize>,
    name: String,
    site: Option<Site>,
    start: usize,
    bytes: usize,
    /// Where the pages begin and end that hold it.
    pages: (usize, usize),
    /// Its shared address in the running block.
    address: Cell<u32>,
}

impl Slot {
    fn end(&self) -> usize {
        self.start + self.bytes
    }

    /// The bytes around the variable that no one may write.
    fn canaries(&self) -> [(usize, usize); 2] {
        let before = self.start.saturating_sub(CANARY_BYTES).max(self.pages.0);
        [(before, self.start - before), (self.end(), self.pages.1 - self.end())]
    }
}

/// Shared memory of the block that a worker runs.
#[derive(Debug)]
pub(crate) struct Shared {
    region: Region,
    used: Cell<usize>,
    slots: RefCell<Vec<Slot>>,
    /// Slots that the running block has touched.
    active: RefCell<Vec<usize>>,
    static_bytes: Cell<usize>,
    dynamic_bytes: Cell<usize>,
    /// The first shared address behind all variables so far.
    next_address: Cell<u32>,
}

/// One variable of the running block, seen from shared addresses.
pub(crate) struct Window {
    start: usize,
    bytes: usize,
    address: u32,
}

impl Window {
    /// The pointer to `bytes` bytes at a shared address, if they lie in the variable.
    pub fn pointer(&self, address: u32, bytes: usize) -> Option<*mut u8> {
        let offset = address.checked_sub(self.address)? as usize;
        (offset + bytes <= self.bytes).then(|| ptr::with_exposed_provenance_mut(self.start + offset))
    }
}

impl Shared {
    /// Fails when the operating system has no address space left.
    pub fn new() -> io::Result<Shared> {
        Ok(Shared {
            region: Region::reserve(ARENA_BYTES)?,
            used: Cell::new(page_size()),
            slots: RefCell::default(),
            active: RefCell::default(),
            static_bytes: Cell::new(0),
            dynamic_bytes: Cell::new(0),
            next_address: Cell::new(FIRST_ADDRESS),
        })
    }

    /// Forgets what the block before had; its memory is poisoned on first touch.
    pub fn begin_block(&self, dynamic_bytes: usize) {
        self.active.borrow_mut().clear();
        self.static_bytes.set(0);
        self.dynamic_bytes.set(dynamic_bytes);
        self.next_address.set(FIRST_ADDRESS);
        if self.used.get() > ARENA_BYTES / 2 {
            self.slots.borrow_mut().clear();
            self.used.set(page_size());
        }
    }

    /// A finding when someone wrote around a variable of this block.
    pub fn end_block(&self) -> Result<(), Finding> {
        let slots = self.slots.borrow();
        for slot in self.active.borrow().iter().map(|index| &slots[*index]) {
            for (start, length) in slot.canaries() {
                // SAFETY: canaries lie in the slot's own pages, and no thread of the block runs.
                let canary =
                    unsafe { slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut::<u8>(start), length) };
                if let Some(offset) = canary.iter().position(|byte| *byte != CANARY) {
                    canary.fill(CANARY);
                    let text = format!("the block wrote {}", place(slot, start + offset));
                    return Err(Finding::new(FaultKind::OutOfBounds, text).at(slot.site.clone()));
                }
            }
        }
        Ok(())
    }

    fn variable(&self, declaration: &Declaration) -> Result<*mut u8, Finding> {
        let key = ptr::from_ref(declaration).expose_provenance();
        if let Some(start) = self.touched(Some(key)) {
            return Ok(start);
        }
        let total = self.static_bytes.get() + declaration.bytes;
        self.static_bytes.set(total);
        if total > STATIC_LIMIT {
            let text = format!("the block declares {total} bytes of static shared memory; nvcc takes 49152");
            return Err(Finding::new(FaultKind::SharedMemory, text));
        }
        // SAFETY: the declaration's strings are literals.
        let name = unsafe { CStr::from_ptr(declaration.name) }.to_string_lossy();
        let site = RawSite::new(declaration.file, declaration.line).site();
        let describe = || (format!("shared variable `{name}`"), site);
        Ok(self.touch(Some(key), declaration.bytes, declaration.alignment, describe))
    }

    fn dynamic(&self, alignment: usize) -> Result<*mut u8, Finding> {
        let bytes = self.dynamic_bytes.get();
        if bytes == 0 {
            let text = "uses dynamic shared memory, and the launch gives it 0 bytes";
            return Err(Finding::new(FaultKind::SharedMemory, text));
        }
        let start = match self.touched(None) {
            Some(start) => start,
            None => self.touch(None, bytes, 16, || ("the dynamic shared memory".into(), None)),
        };
        if !start.addr().is_multiple_of(alignment) {
            let text = format!(
                "asks for dynamic shared memory aligned to {alignment} bytes, and the launch gives it {bytes}: make that a \
                 multiple of the alignment"
            );
            return Err(Finding::new(FaultKind::SharedMemory, text));
        }
        Ok(start)
    }

    /// The variable, if this block has touched it before.
    fn touched(&self, key: Option<usize>) -> Option<*mut u8> {
        let slots = self.slots.borrow();
        let active = self.active.borrow();
        let slot = active.iter().map(|index| &slots[*index]).find(|slot| slot.declaration == key)?;
        Some(ptr::with_exposed_provenance_mut(slot.start))
    }

    /// First touch in this block: finds or makes the place, and fills it with poison.
    fn touch(
        &self,
        key: Option<usize>,
        bytes: usize,
        alignment: usize,
        describe: impl FnOnce() -> (String, Option<Site>),
    ) -> *mut u8 {
        let mut slots = self.slots.borrow_mut();
        let known = slots.iter().position(|slot| slot.declaration == key && slot.bytes == bytes);
        let index = known.unwrap_or_else(|| {
            slots.push(self.place(key, bytes, alignment, describe()));
            slots.len() - 1
        });
        self.active.borrow_mut().push(index);
        let slot = &slots[index];
        let address = round_up(self.next_address.get() as usize, ADDRESS_PERIOD) + slot.start % ADDRESS_PERIOD;
        slot.address.set(address as u32);
        self.next_address.set((address + slot.bytes) as u32);
        let start = ptr::with_exposed_provenance_mut::<u8>(slots[index].start);
        // SAFETY: the slot's own bytes, which no thread of this block has been given yet.
        unsafe { start.write_bytes(POISON, bytes) };
        start
    }

    fn place(
        &self,
        declaration: Option<usize>,
        bytes: usize,
        alignment: usize,
        (name, site): (String, Option<Site>),
    ) -> Slot {
        let page = page_size();
        let padded = round_up(bytes, alignment.max(1));
        let first = self.used.get();
        let length = round_up(padded, page);
        self.used.set(first + length + page);
        self.region.open(first, length).expect("opening pages of an own mapping, within its bounds");
        let pages = self.region.at(first);
        // SAFETY: the pages were just opened.
        unsafe { pages.write_bytes(CANARY, length) };
        let begin = pages.expose_provenance();
        Slot {
            declaration,
            name,
            site,
            start: begin + length - padded,
            bytes,
            pages: (begin, begin + length),
            address: Cell::new(0),
        }
    }

    /// The same place in the shared memory of another block of the cluster, for a pointer to a variable of this one.
    pub fn twin(&self, pointer: usize, other: &Shared) -> Result<*mut u8, Finding> {
        if ptr::eq(self, other) {
            return Ok(ptr::with_exposed_provenance_mut(pointer));
        }
        let slots = self.slots.borrow();
        let active = self.active.borrow();
        let slot = active.iter().map(|index| &slots[*index]).find(|slot| (slot.start..slot.end()).contains(&pointer));
        let Some(slot) = slot else {
            let text = format!("{pointer:#x} is not shared memory: no other block of the cluster has the same place");
            return Err(Finding::new(FaultKind::SharedMemory, text));
        };
        let start = match slot.declaration {
            // SAFETY: the build step made it a constant.
            Some(key) => other.variable(unsafe { &*ptr::with_exposed_provenance(key) })?,
            None => other.dynamic(1)?,
        };
        Ok(start.wrapping_add(pointer - slot.start))
    }

    /// Whether `bytes` bytes from an address lie within one variable of the running block.
    pub fn contains(&self, address: usize, bytes: usize) -> bool {
        let slots = self.slots.borrow();
        self.active
            .borrow()
            .iter()
            .any(|index| slots[*index].start <= address && address + bytes <= slots[*index].end())
    }

    /// The variable that holds a shared address.
    pub fn window(&self, address: u32) -> Option<Window> {
        let slots = self.slots.borrow();
        let active = self.active.borrow();
        let holds = |slot: &&Slot| slot.address.get() <= address && address < slot.address.get() + slot.bytes as u32;
        let slot = active.iter().map(|index| &slots[*index]).find(holds)?;
        Some(Window { start: slot.start, bytes: slot.bytes, address: slot.address.get() })
    }

    /// The 32-bit address that PTX would see; 0 for a pointer that is not to shared memory.
    pub fn address(&self, pointer: usize) -> u32 {
        let slots = self.slots.borrow();
        let active = self.active.borrow();
        let slot = active.iter().map(|index| &slots[*index]).find(|slot| (slot.start..slot.end()).contains(&pointer));
        slot.map_or(0, |slot| slot.address.get() + (pointer - slot.start) as u32)
    }

    /// Where an address in the arena lies, seen from the nearest variable of the running block.
    pub fn describe(&self, address: usize) -> Option<String> {
        let begin = self.region.start();
        if !(begin..begin + ARENA_BYTES).contains(&address) {
            return None;
        }
        let slots = self.slots.borrow();
        let active = self.active.borrow();
        let distance = |slot: &&Slot| slot.start.abs_diff(address).min(slot.end().abs_diff(address));
        let slot = active.iter().map(|index| &slots[*index]).min_by_key(distance)?;
        Some(place(slot, address))
    }
}

fn place(slot: &Slot, address: usize) -> String {
    let Slot { name, bytes, .. } = slot;
    if address < slot.start {
        format!("{} bytes before {name} ({bytes} bytes)", slot.start - address)
    } else if address >= slot.end() {
        format!("{} bytes past the end of {name} ({bytes} bytes)", address - slot.end())
    } else {
        format!("at byte {} of {name} ({bytes} bytes)", address - slot.start)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_shared(declaration: *const Declaration) -> *mut c_void {
    let lane = current();
    // SAFETY: the build step passes a constant.
    let declaration = unsafe { &*declaration };
    match lane.block().shared.variable(declaration) {
        Ok(start) => start.cast(),
        Err(finding) => lane.fail(finding, RawSite::new(declaration.file, declaration.line)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_dynamic_shared(alignment: usize, file: *const c_char, line: i32) -> *mut c_void {
    let lane = current();
    match lane.block().shared.dynamic(alignment) {
        Ok(start) => start.cast(),
        Err(finding) => lane.fail(finding, RawSite::new(file, line)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_shared_address(pointer: *const c_void) -> u32 {
    current().block().shared.address(pointer.addr())
}

/// The pointer behind a shared address; one that no variable has leads to the closed first page.
#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_shared_pointer(address: u32) -> *mut c_void {
    let shared = &current().block().shared;
    let pointer = shared.window(address).and_then(|window| window.pointer(address, 1));
    pointer.unwrap_or_else(|| shared.region.at(0)).cast()
}
