//! Ranges that Nsight Systems shows on its timeline: step, pass, layer, operation.
//!
//! NVTX has no library to link: a program that was built with its headers loads the tool that `NVTX_INJECTION64_PATH` names
//! (`nsys profile` sets it) and hands it a table of slots, into which the tool writes its functions. This module plays the
//! program's part, as NVTX's `nvtxInit.h`, `nvtxImpl.h` and `nvtxTypes.h` (version 3) describe it, so that neither headers
//! nor a C compiler are needed. Without a tool a range is one test of a flag.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Where tools say who they are: the variable that NVTX's headers look at in a 64-bit process.
const TOOL: &str = "NVTX_INJECTION64_PATH";

/// Numbers of functions in the modules of the table, 0 included; the index is the module (`NvtxCallbackModule`).
const FUNCTIONS: [usize; 7] = [0, CORE, 9, 15, 7, 16, 7];
/// The module of the functions that are called here, and how many it has (`NVTX_CBID_CORE_SIZE`).
const CORE_MODULE: usize = 1;
const CORE: usize = 16;
/// `NVTX_CBID_CORE_RangePushA` and `NVTX_CBID_CORE_RangePop`.
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;

/// Slots that a tool fills with its functions; null where it does not care.
static SLOTS: [[AtomicPtr<c_void>; 16]; 7] = [const { [const { AtomicPtr::new(ptr::null_mut()) }; 16] }; 7];

type GetModuleFunctionTable = unsafe extern "C" fn(c_int, *mut *const *const c_void, *mut c_uint) -> c_int;
type GetExportTable = extern "C" fn(u32) -> *const c_void;
type Initialize = unsafe extern "C" fn(GetExportTable) -> c_int;
type RangePush = unsafe extern "C" fn(*const c_char) -> c_int;
type RangePop = unsafe extern "C" fn() -> c_int;

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    struct_size: usize,
    get_module_function_table: GetModuleFunctionTable,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_injection_version: extern "C" fn(u32),
}

static CALLBACKS: Callbacks =
    Callbacks { struct_size: size_of::<Callbacks>(), get_module_function_table: module_function_table };
static VERSION_INFO: VersionInfo = VersionInfo {
    struct_size: size_of::<VersionInfo>(),
    version: 3,
    reserved: 0,
    set_injection_version: ignore_version,
};

extern "C" fn ignore_version(_: u32) {}

extern "C" fn export_table(table: u32) -> *const c_void {
    match table {
        1 => ptr::from_ref(&CALLBACKS).cast(),
        3 => ptr::from_ref(&VERSION_INFO).cast(),
        _ => ptr::null(),
    }
}

/// Hands out the addresses of a module's slots: an array whose first entry and the one behind its last are null.
unsafe extern "C" fn module_function_table(
    module: c_int,
    table: *mut *const *const c_void,
    size: *mut c_uint,
) -> c_int {
    static TABLES: OnceLock<Vec<Vec<usize>>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        let addresses = |(module, &number): (usize, &usize)| {
            let slot = |index: usize| match index {
                0 => 0,
                index => SLOTS[module][index].as_ptr() as usize,
            };
            (0..number).map(slot).chain([0]).collect()
        };
        FUNCTIONS.iter().enumerate().map(addresses).collect()
    });
    let Some(module) = usize::try_from(module).ok().filter(|module| (1..FUNCTIONS.len()).contains(module)) else {
        return 0;
    };
    // SAFETY: the tool passes places to write to, or null; the table lives as long as the process.
    unsafe {
        if !table.is_null() {
            *table = tables[module].as_ptr().cast();
        }
        if !size.is_null() {
            *size = FUNCTIONS[module] as c_uint;
        }
    }
    1
}

/// The functions of a tool that wants ranges.
struct Tool {
    push: RangePush,
    pop: RangePop,
}

fn tool() -> Option<&'static Tool> {
    static FOUND: OnceLock<Option<Tool>> = OnceLock::new();
    FOUND.get_or_init(load).as_ref()
}

/// Loads the tool that the environment names. One that cannot be loaded is left alone: a profiler must not stop a training.
fn load() -> Option<Tool> {
    let path = std::env::var_os(TOOL)?;
    // SAFETY: the user, or the profiler that they started, asks for this library by name; its initialisers are the tool's.
    let library = match unsafe { libloading::Library::new(&path) } {
        Ok(library) => library,
        Err(error) => {
            tracing::warn!("{TOOL} names {}, which cannot be loaded: {error}", path.display());
            return None;
        }
    };
    // SAFETY: NVTX fixes the type of this function.
    let started = unsafe {
        let initialize = library.get::<Initialize>(b"InitializeInjectionNvtx2\0").ok()?;
        initialize(export_table)
    };
    if started == 0 {
        return None;
    }
    // The functions in the slots must not go away.
    std::mem::forget(library);
    let function = |index: usize| {
        let function = SLOTS[CORE_MODULE][index].load(Ordering::Acquire);
        (!function.is_null()).then_some(function)
    };
    let (push, pop) = (function(RANGE_PUSH)?, function(RANGE_POP)?);
    // SAFETY: NVTX fixes the types of the functions in these two slots.
    Some(unsafe {
        Tool {
            push: std::mem::transmute::<*mut c_void, RangePush>(push),
            pop: std::mem::transmute::<*mut c_void, RangePop>(pop),
        }
    })
}

/// Whether a tool listens.
pub fn is_active() -> bool {
    tool().is_some()
}

/// Opens a range inside the one that is open on this thread.
pub fn push(name: &str) {
    if let Some(tool) = tool()
        && let Ok(name) = CString::new(name)
    {
        // SAFETY: the tool copies the name before it returns, as NVTX demands.
        unsafe { (tool.push)(name.as_ptr()) };
    }
}

/// Closes the range that was opened last on this thread.
pub fn pop() {
    if let Some(tool) = tool() {
        // SAFETY: takes nothing.
        unsafe { (tool.pop)() };
    }
}

/// A range that lasts as long as this.
#[must_use = "a range that is not kept ends at once"]
pub struct Range(());

/// Opens a range; the name is made only if a tool listens.
pub fn range(name: impl FnOnce() -> String) -> Range {
    if is_active() {
        push(&name());
    }
    Range(())
}

impl Drop for Range {
    fn drop(&mut self) {
        pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_those_of_nvtx_3() {
        assert_eq!((size_of::<Callbacks>(), size_of::<VersionInfo>()), (16, 24));
        let (mut table, mut size) = (ptr::null(), 0);
        // SAFETY: both places live.
        assert_eq!(unsafe { module_function_table(1, &raw mut table, &raw mut size) }, 1);
        assert_eq!(size, 16);
        // SAFETY: the table has one entry more than its size says.
        let entries = unsafe { std::slice::from_raw_parts(table, 17) };
        assert!(entries[0].is_null() && entries[16].is_null() && entries[1..16].iter().all(|entry| !entry.is_null()));
        assert_eq!(entries[9], SLOTS[1][9].as_ptr().cast_const().cast());
        for module in [-1, 0, 7, c_int::MAX] {
            // SAFETY: null is allowed.
            assert_eq!(unsafe { module_function_table(module, ptr::null_mut(), ptr::null_mut()) }, 0);
        }
        assert!(export_table(2).is_null() && !export_table(1).is_null() && !export_table(3).is_null());
    }
}
