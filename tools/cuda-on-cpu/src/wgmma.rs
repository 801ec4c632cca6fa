//! wgmma: products of a warpgroup that run beside it (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//!
//! Each warp of the group has 16 of the 64 rows. The product is computed when it is issued and its accumulators are
//! poison until the wait that covers it. At the wait the operands in shared memory must still be what they were.

use crate::block::Block;
use crate::descriptor::Descriptor;
use crate::fault::{FaultKind, Finding};
use crate::thread::{RawSite, Wait, current};
use crate::warp::{Gathering, Operation, meet};
use std::cell::{Cell, RefCell};
use std::ffi::c_char;
use std::ptr;

/// Warps of a warpgroup.
const WARPS: usize = 4;
/// What an accumulator holds while a product runs.
const POISON: u32 = u32::MAX;

/// What `wgmma.mma_async` is told besides registers and descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    /// Columns of B.
    pub n: u32,
    /// A comes from registers.
    pub a_in_registers: bool,
    /// A lies M-major in shared memory (`tnspA`).
    pub transposed_a: bool,
    /// B lies N-major in shared memory (`tnspB`).
    pub transposed_b: bool,
    /// D = A B + D instead of A B.
    pub accumulate: bool,
}

/// The bookkeeping instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    Fence,
    Commit,
    Wait { latest: u32 },
    SetRegisters { count: u32, increase: bool },
}

struct Request {
    d: *mut f32,
    a_registers: *const [u32; 4],
    a: u64,
    b: u64,
}

/// A 16-byte chunk of an operand as it was when the product was issued.
struct Chunk {
    place: *const [u16; 8],
    value: [u16; 8],
}

/// The operands of one product that is under way.
struct Operands {
    chunks: Vec<Chunk>,
    group: u64,
    site: RawSite,
}

/// Accumulators with one product, or several, under way.
struct Pending {
    d: [*mut f32; 32],
    columns: usize,
    /// The warp's 16 rows of D.
    sums: Vec<f32>,
    /// The last product's group.
    group: u64,
    site: RawSite,
}

/// What a warp has under way.
#[derive(Default)]
pub(crate) struct State {
    pending: RefCell<Vec<Pending>>,
    operands: RefCell<Vec<Operands>>,
    group: Cell<u64>,
    fenced: Cell<bool>,
    /// Number and fingerprint of the warpgroup instructions so far: those of the four warps must be the same.
    count: Cell<u64>,
    fingerprint: Cell<u64>,
    site: Cell<Option<RawSite>>,
}

impl State {
    pub fn reset(&self) {
        self.pending.borrow_mut().clear();
        self.operands.borrow_mut().clear();
        self.group.set(0);
        self.fenced.set(false);
        self.count.set(0);
        self.fingerprint.set(0);
        self.site.set(None);
    }

    fn note(&self, what: impl std::hash::Hash, site: RawSite) {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.fingerprint.get().hash(&mut hasher);
        what.hash(&mut hasher);
        self.fingerprint.set(hasher.finish());
        self.count.set(self.count.get() + 1);
        self.site.set(Some(site));
    }

    /// A finding when a lane returns before its products are done.
    pub fn forgotten(&self) -> Option<(Finding, RawSite)> {
        let pending = self.pending.borrow();
        let first = pending.first()?;
        let text =
            "returned with wgmma products that it never waited for; the last on the first accumulators began here";
        Some((Finding::new(FaultKind::Async, text), first.site))
    }
}

fn mistake<T>(text: impl Into<String>) -> Result<T, Finding> {
    Err(Finding::new(FaultKind::Async, text))
}

/// The rows of an operand: `lines` x `elements`, in the order of [`Descriptor::chunk`].
fn read(
    block: &Block,
    name: &str,
    bits: u64,
    k_major: bool,
    (first, lines, chunks): (u32, u32, std::ops::Range<u32>),
    operands: &mut Vec<Chunk>,
    mut place: impl FnMut(u32, u32, &[u16; 8]),
) -> Result<(), Finding> {
    let descriptor =
        Descriptor::decode(bits).map_err(|finding| Finding { text: format!("{name}: {}", finding.text), ..finding })?;
    let window = block.shared.window(descriptor.start);
    for line in first..first + lines {
        for chunk in chunks.clone() {
            let address = descriptor.chunk(k_major, line, chunk);
            let Some(start) = window.as_ref().and_then(|window| window.pointer(address, 16)) else {
                let text = format!(
                    "{name}: the matrix descriptor {bits:#018x} leads outside a shared variable, to the shared address \
                     {address:#x} for chunk {chunk} of line {line}"
                );
                return Err(Finding::new(FaultKind::OutOfBounds, text));
            };
            let from = start.cast::<[u16; 8]>().cast_const();
            // SAFETY: sixteen bytes of this block's shared memory; the threads of a block take turns.
            let value = unsafe { from.read_unaligned() };
            operands.push(Chunk { place: from, value });
            place(line, chunk, &value);
        }
    }
    Ok(())
}

fn value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Row and column of register `index` of a lane, as in `mma.m16n8k16`.
fn place_of(lane: usize, index: usize) -> (usize, usize) {
    (lane / 4 + index / 2 % 2 * 8, index / 4 * 8 + 2 * (lane % 4) + index % 2)
}

/// Issues a product for one warp.
pub(crate) fn multiply(form: Form, site: RawSite, gathering: &Gathering) -> Result<(), Finding> {
    gathering.require_all("wgmma.mma_async")?;
    let lane = &gathering.lanes[0];
    let (block, warp) = (lane.block(), lane.warp());
    let state = &block.warps[warp].wgmma;
    check_warpgroup(block, warp)?;
    if !form.n.is_multiple_of(8) || !(8..=256).contains(&form.n) {
        return mistake(format!("wgmma with n = {}: it must be a multiple of 8 and at most 256", form.n));
    }
    if !state.fenced.get() {
        return mistake("wgmma.mma_async without a wgmma.fence since the warp began or last waited");
    }
    // SAFETY: all lanes are here, each with a Request.
    let request = |lane: usize| unsafe { &*gathering.request::<Request>(lane as u32) };
    let (a_bits, b_bits) = (request(0).a, request(0).b);
    if (1..32).any(|lane| (request(lane).a, request(lane).b) != (a_bits, b_bits)) {
        return mistake("lanes of one warp give wgmma.mma_async different matrix descriptors");
    }
    state.note((form, a_bits, b_bits), site);

    let mut chunks = Vec::new();
    let a = if form.a_in_registers {
        a_of_registers(request)
    } else {
        a_of_memory(block, warp, form, a_bits, &mut chunks)?
    };
    let columns = form.n as usize;
    let mut b = vec![0f32; 16 * columns];
    if form.transposed_b {
        read(block, "B", b_bits, false, (0, 16, 0..form.n / 8), &mut chunks, |k, chunk, values| {
            for (i, bits) in values.iter().enumerate() {
                b[k as usize * columns + 8 * chunk as usize + i] = value(*bits);
            }
        })?;
    } else {
        read(block, "B", b_bits, true, (0, form.n, 0..2), &mut chunks, |column, chunk, values| {
            for (i, bits) in values.iter().enumerate() {
                b[(8 * chunk as usize + i) * columns + column as usize] = value(*bits);
            }
        })?;
    }

    let d: [*mut f32; 32] = std::array::from_fn(|lane| request(lane).d);
    let mut pending = state.pending.borrow_mut();
    let index = take_accumulators(&mut pending, d, columns, form.accumulate)?;
    let Pending { sums, group, site: last, .. } = &mut pending[index];
    for (sums, a) in sums.chunks_exact_mut(columns).zip(&a) {
        for (a, b) in a.iter().zip(b.chunks_exact(columns)) {
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    state.operands.borrow_mut().push(Operands { chunks, group: state.group.get(), site });
    *group = state.group.get();
    *last = site;
    Ok(())
}

fn check_warpgroup(block: &Block, warp: usize) -> Result<(), Finding> {
    let first = warp / WARPS * WARPS;
    if block.warps.len() < first + WARPS {
        return mistake(format!(
            "wgmma by warp {warp} of a block of {} warps: it takes a whole warpgroup, warps {first} to {}",
            block.warps.len(),
            first + WARPS - 1
        ));
    }
    Ok(())
}

fn a_of_registers<'a>(request: impl Fn(usize) -> &'a Request) -> [[f32; 16]; 16] {
    let mut a = [[0.0; 16]; 16];
    for lane in 0..32 {
        // SAFETY: the lane waits; its registers are four words on its stack.
        let registers = unsafe { *request(lane).a_registers };
        for (index, register) in registers.into_iter().enumerate() {
            let (row, column) = (lane / 4 + 8 * (index % 2), 2 * (lane % 4) + 8 * (index / 2));
            a[row][column] = value(register as u16);
            a[row][column + 1] = value((register >> 16) as u16);
        }
    }
    a
}

/// The rows of A that are this warp's.
fn a_of_memory(
    block: &Block,
    warp: usize,
    form: Form,
    bits: u64,
    operands: &mut Vec<Chunk>,
) -> Result<[[f32; 16]; 16], Finding> {
    let mut a = [[0.0; 16]; 16];
    let first = (warp % WARPS * 16) as u32;
    if form.transposed_a {
        read(block, "A", bits, false, (0, 16, first / 8..first / 8 + 2), operands, |k, chunk, values| {
            for (i, bits) in values.iter().enumerate() {
                a[(8 * chunk - first) as usize + i][k as usize] = value(*bits);
            }
        })?;
    } else {
        read(block, "A", bits, true, (first, 16, 0..2), operands, |row, chunk, values| {
            for (i, bits) in values.iter().enumerate() {
                a[(row - first) as usize][8 * chunk as usize + i] = value(*bits);
            }
        })?;
    }
    Ok(a)
}

/// Finds the product under way on these accumulators, or begins one: then they become poison.
fn take_accumulators(
    pending: &mut Vec<Pending>,
    d: [*mut f32; 32],
    columns: usize,
    accumulate: bool,
) -> Result<usize, Finding> {
    if let Some(index) = pending.iter().position(|other| other.d == d && other.columns == columns) {
        check_poison(&pending[index])?;
        if !accumulate {
            pending[index].sums.fill(0.0);
        }
        return Ok(index);
    }
    let bytes = |columns: usize| columns / 2 * size_of::<f32>();
    let overlaps = |other: &Pending| {
        let (start, end) = (d[0].addr(), d[0].addr() + bytes(columns));
        start < other.d[0].addr() + bytes(other.columns) && other.d[0].addr() < end
    };
    if pending.iter().any(overlaps) {
        return mistake("wgmma on accumulators of which some belong to a product of another shape under way");
    }
    let mut sums = vec![0f32; 16 * columns];
    for (lane, registers) in d.iter().enumerate() {
        for index in 0..columns / 2 {
            let (row, column) = place_of(lane, index);
            // SAFETY: `d` points to n / 2 registers of the waiting lane.
            unsafe {
                let register = registers.add(index);
                if accumulate {
                    sums[row * columns + column] = *register;
                }
                register.cast::<u32>().write(POISON);
            }
        }
    }
    pending.push(Pending { d, columns, sums, group: 0, site: RawSite::NONE });
    Ok(pending.len() - 1)
}

fn check_poison(pending: &Pending) -> Result<(), Finding> {
    for registers in pending.d {
        for index in 0..pending.columns / 2 {
            // SAFETY: the accumulators of a product live until it is waited for.
            if unsafe { registers.add(index).cast::<u32>().read() } != POISON {
                return mistake("accumulators were written while a wgmma product on them was under way");
            }
        }
    }
    Ok(())
}

/// `wgmma.fence`, `commit_group`, `wait_group` and `setmaxnreg` for one warp.
pub(crate) fn group(operation: Group, site: RawSite, gathering: &Gathering) -> Result<(), Finding> {
    gathering.require_all("an instruction of a warpgroup")?;
    let lane = &gathering.lanes[0];
    let block = lane.block();
    let state = &block.warps[lane.warp()].wgmma;
    check_warpgroup(block, lane.warp())?;
    state.note(operation, site);
    match operation {
        Group::Fence => state.fenced.set(true),
        Group::Commit => state.group.set(state.group.get() + 1),
        Group::Wait { latest } => {
            state.fenced.set(false);
            let end = state.group.get().saturating_sub(u64::from(latest));
            let mut operands = state.operands.borrow_mut();
            operands.iter().filter(|operands| operands.group < end).try_for_each(check_operands)?;
            operands.retain(|operands| operands.group >= end);
            let mut pending = state.pending.borrow_mut();
            for product in pending.iter().filter(|product| product.group < end) {
                finish(product)?;
            }
            pending.retain(|product| product.group >= end);
        }
        Group::SetRegisters { count, .. } if !count.is_multiple_of(8) || !(24..=256).contains(&count) => {
            return mistake(format!("setmaxnreg {count}: it must be a multiple of 8 from 24 to 256"));
        }
        Group::SetRegisters { .. } => {}
    }
    Ok(())
}

/// A finding when an operand is not what it was.
fn check_operands(operands: &Operands) -> Result<(), Finding> {
    // SAFETY: checked to be shared memory of this block when the product was issued.
    let same = |chunk: &Chunk| unsafe { chunk.place.read_unaligned() } == chunk.value;
    if operands.chunks.iter().all(same) {
        return Ok(());
    }
    let place = operands.site.site().map_or_else(String::new, |site| format!(" at {site}"));
    mistake(format!(
        "an operand in shared memory changed while the wgmma product{place} that reads it was under way: a tile was refilled, \
         or written, too early"
    ))
}

/// Hands the sums over.
fn finish(product: &Pending) -> Result<(), Finding> {
    check_poison(product)?;
    for (lane, registers) in product.d.iter().enumerate() {
        for index in 0..product.columns / 2 {
            let (row, column) = place_of(lane, index);
            // SAFETY: as in `check_poison`.
            unsafe { registers.add(index).write(product.sums[row * product.columns + column]) };
        }
    }
    Ok(())
}

/// A finding when the warps of a group did not execute the same instructions.
pub(crate) fn check_agreement(block: &Block) -> Result<(), Finding> {
    for (number, group) in block.warps.chunks(WARPS).enumerate() {
        let first = &group[0].wgmma;
        let same = |state: &State| {
            (state.count.get(), state.fingerprint.get()) == (first.count.get(), first.fingerprint.get())
        };
        if let Some(other) = group.iter().position(|warp| !same(&warp.wgmma)) {
            let other_state = &group[other].wgmma;
            let text = format!(
                "warps {} and {} of one warpgroup executed different warpgroup instructions ({} and {}): all four must execute \
                 the same wgmma and setmaxnreg with the same descriptors",
                number * WARPS,
                number * WARPS + other,
                first.count.get(),
                other_state.count.get()
            );
            let site = other_state.site.get().or(first.site.get()).and_then(RawSite::site);
            return Err(Finding::new(FaultKind::WarpMismatch, text).at(site));
        }
    }
    Ok(())
}

/// flags: 1 transposed A, 2 transposed B, 4 accumulate. `a_registers` is null where A comes from shared memory.
#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_wgmma(
    d: *mut f32,
    n: u32,
    a_registers: *const u32,
    a: u64,
    b: u64,
    flags: u32,
    file: *const c_char,
    line: i32,
) {
    let form = Form {
        n,
        a_in_registers: !a_registers.is_null(),
        transposed_a: flags & 1 != 0,
        transposed_b: flags & 2 != 0,
        accumulate: flags & 4 != 0,
    };
    let mut request = Request { d, a_registers: a_registers.cast(), a, b };
    meet(Operation::Wgmma(form), u32::MAX, &mut request, RawSite::new(file, line));
}

/// operation: 0 fence, 1 commit, 2 wait, 3 setmaxnreg.inc, 4 setmaxnreg.dec.
#[unsafe(no_mangle)]
extern "C" fn cuda_on_cpu_wgmma_group(operation: u32, operand: u32, file: *const c_char, line: i32) {
    let operation = match operation {
        0 => Group::Fence,
        1 => Group::Commit,
        2 => Group::Wait { latest: operand },
        _ => Group::SetRegisters { count: operand, increase: operation == 3 },
    };
    if matches!(operation, Group::Wait { .. }) {
        // Products take time: others get to run, and to overwrite what is still read.
        current().suspend(Wait::Spin, RawSite::new(file, line));
    }
    meet(Operation::WgmmaGroup(operation), u32::MAX, &mut ptr::null::<()>(), RawSite::new(file, line));
}
