//! Bulk copies (PTX ISA, `cp.async.bulk` and `cp.async.bulk.tensor`): into shared memory, of several blocks of a cluster too,
//! completing on an mbarrier, and from there to global memory, in groups that the thread waits for.

use crate::block::Block;
use crate::descriptor::Swizzle;
use crate::fault::{FaultKind, Finding};
use crate::memory::POISON;
use crate::order::Order;
use crate::tensor_map::{RANK, TensorMap};
use crate::thread::{Lane, RawSite, current};
use crate::{guarded, mbarrier};
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::Arc;

/// A tile in shared memory.
#[derive(Clone, Copy, Debug)]
struct Tile {
    start: *mut u8,
    /// Its shared address, which decides how it is swizzled.
    address: u32,
    bytes: usize,
    swizzle: Swizzle,
}

impl Tile {
    fn at(block: &Block, start: *mut u8, bytes: usize, swizzle: Swizzle, alignment: usize) -> Result<Tile, Finding> {
        let shared = &block.shared;
        if !shared.contains(start.addr(), bytes) {
            let place = shared.describe(start.addr());
            let kind = if place.is_some() { FaultKind::OutOfBounds } else { FaultKind::SharedMemory };
            let place = place.unwrap_or_else(|| "not shared memory".into());
            return Err(Finding::new(kind, format!("a bulk copy of {bytes} bytes: its tile is {place}")));
        }
        if !start.addr().is_multiple_of(alignment) {
            let text = format!("a bulk copy's tile at {start:p} must be aligned to {alignment} bytes");
            return Err(Finding::new(FaultKind::Misaligned, text));
        }
        Ok(Tile { start, address: shared.address(start.addr()), bytes, swizzle })
    }

    /// Where byte `offset` of the unswizzled tile lies; a chunk of 16 bytes stays together.
    fn place(&self, offset: usize) -> *mut u8 {
        let address = self.address + offset as u32;
        let moved = self.swizzle.apply(address, 0);
        self.start.wrapping_add((moved - self.address) as usize)
    }

    /// Calls `visit` for the parts of a run of bytes that stay together.
    fn runs(&self, offset: usize, bytes: usize, mut visit: impl FnMut(*mut u8, usize, usize)) {
        let mut done = 0;
        while done < bytes {
            let length = (16 - (offset + done) % 16).min(bytes - done);
            visit(self.place(offset + done), done, length);
            done += length;
        }
    }
}

/// A copy into shared memory that has not happened.
struct Load {
    tile: Tile,
    content: Arc<[u8]>,
    barrier: *mut u64,
}

/// Copies into shared memory on their way to a block.
#[derive(Default)]
pub(crate) struct Loads {
    pending: RefCell<Vec<Load>>,
}

impl Loads {
    pub fn reset(&self) {
        self.pending.borrow_mut().clear();
    }

    pub fn is_empty(&self) -> bool {
        self.pending.borrow().is_empty()
    }

    /// A finding when all threads have returned before a copy arrived.
    pub fn check_end(&self) -> Result<(), Finding> {
        if self.is_empty() {
            return Ok(());
        }
        let text = "the block ended with bulk copies into its shared memory that no thread waited for";
        Err(Finding::new(FaultKind::Async, text))
    }

    fn start(&self, load: Load) {
        // SAFETY: checked to lie in shared memory of this block.
        unsafe { load.tile.start.write_bytes(POISON, load.tile.bytes) };
        self.pending.borrow_mut().push(load);
    }

    /// Lets some of the copies happen, in any order when shuffling; all of them when nothing else can run.
    pub fn advance(&self, block: &Block, order: &mut Order, all: bool) -> Result<(), Finding> {
        let loads = std::mem::take(&mut *self.pending.borrow_mut());
        let permutation = order.permutation(loads.len() as u32);
        let mut later = Vec::new();
        for index in 0..loads.len() as u32 {
            let number = permutation.at(index) as usize;
            // Nearly half of them take another turn.
            if !all && (order.interrupt() || order.interrupt()) {
                later.push(number);
                continue;
            }
            let Load { tile, content, barrier } = &loads[number];
            tile.runs(0, tile.bytes, |place, from, length| {
                // SAFETY: checked to lie in shared memory of this block when the copy began.
                unsafe { ptr::copy_nonoverlapping(content[from..].as_ptr(), place, length) }
            });
            mbarrier::complete_bytes(block, *barrier, tile.bytes as i64)?;
        }
        later.sort_unstable();
        let kept = loads.into_iter().enumerate().filter(|(number, _)| later.binary_search(number).is_ok());
        self.pending.borrow_mut().extend(kept.map(|(_, load)| load));
        Ok(())
    }
}

/// A copy to global memory that has not happened: rows of (offset in the tile, global address, bytes).
struct Store {
    tile: Tile,
    rows: Vec<(usize, u64, usize)>,
    group: u64,
    site: RawSite,
}

/// Copies to global memory of one thread.
#[derive(Default)]
pub(crate) struct Stores {
    pending: RefCell<Vec<Store>>,
    group: Cell<u64>,
}

impl Stores {
    pub fn reset(&self) {
        self.pending.borrow_mut().clear();
        self.group.set(0);
    }

    /// Performs the copies of all committed groups but the latest `latest`.
    fn wait(&self, latest: u64) {
        let end = self.group.get().saturating_sub(latest);
        self.pending.borrow_mut().retain(|store| {
            if store.group >= end {
                return true;
            }
            for (offset, address, bytes) in &store.rows {
                store.tile.runs(*offset, *bytes, |place, done, length| {
                    let to = ptr::with_exposed_provenance_mut::<u8>(*address as usize + done);
                    // SAFETY: both sides were checked when the copy began: shared memory, and a guarded buffer.
                    unsafe { ptr::copy_nonoverlapping(place, to, length) }
                });
            }
            false
        });
    }

    /// A finding when the thread returns with copies that nobody waited for.
    pub fn forgotten(&self) -> Option<(Finding, RawSite)> {
        let pending = self.pending.borrow();
        let first = pending.first()?;
        let text =
            format!("returned with {} bulk stores that it never waited for; the first began here", pending.len());
        Some((Finding::new(FaultKind::Async, text), first.site))
    }
}

fn decode(map: *const TensorMap) -> Result<TensorMap, Finding> {
    // SAFETY: the headers pass a pointer to a parameter of the kernel, 128 bytes.
    let map = unsafe { map.read_unaligned() };
    if map.is_valid() {
        Ok(map)
    } else {
        Err(Finding::new(FaultKind::Async, "uses a tensor map that TensorMap::encode did not make"))
    }
}

/// What a bulk tensor copy asks of its tile's alignment.
fn tile_alignment(swizzle: Swizzle) -> usize {
    swizzle.period().max(128) as usize
}

fn tensor_tile(block: &Block, map: &TensorMap, tile: *mut u8) -> Result<Tile, Finding> {
    Tile::at(block, tile, map.tile_bytes(), map.swizzle(), tile_alignment(map.swizzle()))
}

/// The rows of the tile that lie in the tensor, all inside one guarded buffer.
fn tensor_rows(map: &TensorMap, rank: u32, coordinates: *const i32) -> Result<Vec<(usize, u64, usize)>, Finding> {
    if rank != u32::from(map.rank) {
        let text = format!("a copy of a {rank}-dimensional tile with the map of a {}-dimensional tensor", map.rank);
        return Err(Finding::new(FaultKind::Async, text));
    }
    let mut at = [0; RANK];
    // SAFETY: the headers pass `rank` coordinates.
    unsafe { coordinates.copy_to(at.as_mut_ptr(), rank as usize) };
    let mut rows = Vec::new();
    map.rows(at, |offset, address, bytes| rows.push((offset, address, bytes)));
    let (first, end) = rows.iter().fold((u64::MAX, 0), |(first, end), (_, address, bytes)| {
        (first.min(*address), end.max(address + *bytes as u64))
    });
    if first < end {
        guarded::check_range(first as usize, (end - first) as usize)?;
    }
    Ok(rows)
}

/// Loads to the same place, and completes on the same barrier, of each block of the cluster that `mask` names.
fn load_tensor(
    block: &Block,
    tile: *mut u8,
    map: *const TensorMap,
    barrier: *mut u64,
    (rank, coordinates): (u32, *const i32),
    mask: u32,
) -> Result<(), Finding> {
    let map = decode(map)?;
    let rows = tensor_rows(&map, rank, coordinates)?;
    let mut content = vec![0; tensor_tile(block, &map, tile)?.bytes];
    for (offset, address, bytes) in rows {
        let from = ptr::with_exposed_provenance::<u8>(address as usize);
        // SAFETY: checked to lie in a guarded buffer.
        unsafe { ptr::copy_nonoverlapping(from, content[offset..].as_mut_ptr(), bytes) };
    }
    let content: Arc<[u8]> = content.into();
    for member in block.cluster().members(mask)? {
        let tile = tensor_tile(member, &map, block.shared.twin(tile.addr(), &member.shared)?)?;
        let barrier = block.shared.twin(barrier.addr(), &member.shared)?.cast();
        mbarrier::check(member, barrier)?;
        member.loads.start(Load { tile, content: Arc::clone(&content), barrier });
    }
    Ok(())
}

fn check_plain(global: *const u8, bytes: usize) -> Result<(), Finding> {
    if !bytes.is_multiple_of(16) || bytes == 0 || !global.addr().is_multiple_of(16) {
        let text = format!("cp.async.bulk of {bytes} bytes at {global:p}: both must be multiples of 16");
        return Err(Finding::new(FaultKind::Misaligned, text));
    }
    guarded::check_range(global.expose_provenance(), bytes)
}

fn load_plain(lane: &Lane, to: *mut u8, global: *const u8, bytes: usize, barrier: *mut u64) -> Result<(), Finding> {
    check_plain(global, bytes)?;
    let tile = Tile::at(lane.block(), to, bytes, Swizzle::None, 16)?;
    mbarrier::check(lane.block(), barrier)?;
    let mut content = vec![0; bytes];
    // SAFETY: checked to lie in a guarded buffer.
    unsafe { ptr::copy_nonoverlapping(global, content.as_mut_ptr(), bytes) };
    lane.block().loads.start(Load { tile, content: content.into(), barrier });
    Ok(())
}

fn store(lane: &Lane, tile: Tile, rows: Vec<(usize, u64, usize)>, site: RawSite) {
    let stores = &lane.stores;
    stores.pending.borrow_mut().push(Store { tile, rows, group: stores.group.get(), site });
}

fn finish(lane: &Lane, result: Result<(), Finding>, file: *const c_char, line: i32) {
    if let Err(finding) = result {
        lane.fail(finding, RawSite::new(file, line));
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_tensor_load(
    tile: *mut c_void,
    map: *const c_void,
    barrier: *mut u64,
    rank: u32,
    coordinates: *const i32,
    file: *const c_char,
    line: i32,
) {
    let lane = current();
    let own = 1 << lane.block().rank();
    finish(lane, load_tensor(lane.block(), tile.cast(), map.cast(), barrier, (rank, coordinates), own), file, line);
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_tensor_multicast(
    tile: *mut c_void,
    map: *const c_void,
    barrier: *mut u64,
    rank: u32,
    coordinates: *const i32,
    mask: u32,
    file: *const c_char,
    line: i32,
) {
    let lane = current();
    finish(lane, load_tensor(lane.block(), tile.cast(), map.cast(), barrier, (rank, coordinates), mask), file, line);
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_tensor_store(
    map: *const c_void,
    tile: *const c_void,
    rank: u32,
    coordinates: *const i32,
    file: *const c_char,
    line: i32,
) {
    let lane = current();
    let result = decode(map.cast()).and_then(|map| {
        let tile = tensor_tile(lane.block(), &map, tile.cast_mut().cast())?;
        store(lane, tile, tensor_rows(&map, rank, coordinates)?, RawSite::new(file, line));
        Ok(())
    });
    finish(lane, result, file, line);
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_bulk_load(
    to: *mut c_void,
    from: *const c_void,
    bytes: u32,
    barrier: *mut u64,
    file: *const c_char,
    line: i32,
) {
    let lane = current();
    finish(lane, load_plain(lane, to.cast(), from.cast(), bytes as usize, barrier), file, line);
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_bulk_store(to: *mut c_void, from: *const c_void, bytes: u32, file: *const c_char, line: i32) {
    let lane = current();
    let result = check_plain(to.cast_const().cast(), bytes as usize).and_then(|()| {
        let tile = Tile::at(lane.block(), from.cast_mut().cast(), bytes as usize, Swizzle::None, 16)?;
        store(lane, tile, vec![(0, to.expose_provenance() as u64, bytes as usize)], RawSite::new(file, line));
        Ok(())
    });
    finish(lane, result, file, line);
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_bulk_commit() {
    let group = &current().stores.group;
    group.set(group.get() + 1);
}

#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_bulk_wait(latest: u32) {
    current().stores.wait(u64::from(latest));
}
