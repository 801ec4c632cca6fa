//! NCCL, opened at run time: what carries gradients between GPUs.
//!
//! A table of our own, not cudarc's: that one never asks for `libnccl.so.2`, the only name that NVIDIA's packages have, panics where a symbol is
//! missing, and has neither an abort nor the errors of other ranks.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::OnceLock;

use cudarc::driver::sys::{CUcontext, CUstream};
use libloading::Library;

use super::library::driver;
use crate::device::collective::{Collective, UNIQUE_ID_BYTES, UniqueId};
use crate::device::{Buffer, DType};
use crate::{Error, Result};

/// Names that it is looked for by, behind the one that `HELIXGRAD_NCCL` gives.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// `ncclFloat32`.
const FLOAT: c_int = 7;
/// `ncclSum`.
const SUM: c_int = 0;
/// `ncclInProgress`: no error of a communicator that does not block.
const IN_PROGRESS: c_int = 7;

/// `ncclUniqueId`, which NCCL takes by value.
#[derive(Clone, Copy)]
#[repr(C)]
struct Id([u8; UNIQUE_ID_BYTES]);

type Comm = *mut c_void;

/// The functions that are called here, as nccl.h declares them (docs.nvidia.com/deeplearning/nccl).
struct Functions {
    version: unsafe extern "C" fn(*mut c_int) -> c_int,
    unique_id: unsafe extern "C" fn(*mut Id) -> c_int,
    init: unsafe extern "C" fn(*mut Comm, c_int, Id, c_int) -> c_int,
    async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    destroy: unsafe extern "C" fn(Comm) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, CUstream) -> c_int,
    send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, CUstream) -> c_int,
    receive: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, CUstream) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Comm) -> *const c_char,
    /// Where it was found.
    name: String,
    /// Stays open.
    _library: Library,
}

impl Functions {
    /// The library of this machine.
    fn open() -> Result<&'static Self> {
        static FOUND: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let chosen = std::env::var("HELIXGRAD_NCCL").ok().filter(|path| !path.is_empty());
            let names: Vec<&str> = chosen.as_deref().into_iter().chain(NAMES).collect();
            let mut tried = Vec::new();
            for name in names {
                // SAFETY: runs the initialisers of an NCCL that the user has installed or named.
                match unsafe { Library::new(name) } {
                    // SAFETY: each name is that of the function whose type the field has, by nccl.h.
                    Ok(library) => match unsafe { Self::of(library, name) } {
                        Ok(functions) => return Ok(functions),
                        Err(missing) => tried.push(format!("{name} has no {missing}")),
                    },
                    Err(error) => tried.push(format!("{name} ({error})")),
                }
            }
            Err(tried.join(", "))
        });
        found.as_ref().map_err(|tried| {
            Error::usage(
                format!("several GPUs need NCCL, and it cannot be opened: {tried}"),
                "install NVIDIA's NCCL (the wheel nvidia-nccl-cu13 has libnccl.so.2; put its folder into LD_LIBRARY_PATH), or name the file in \
                 HELIXGRAD_NCCL",
            )
        })
    }

    /// # Safety
    /// The library is an NCCL.
    unsafe fn of(library: Library, name: &str) -> std::result::Result<Self, &'static str> {
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the caller's promise; the field has the function's type.
                *unsafe { library.get($name.as_bytes()) }.map_err(|_| $name)?
            };
        }
        Ok(Self {
            version: function!("ncclGetVersion"),
            unique_id: function!("ncclGetUniqueId"),
            init: function!("ncclCommInitRank"),
            async_error: function!("ncclCommGetAsyncError"),
            destroy: function!("ncclCommDestroy"),
            all_reduce: function!("ncclAllReduce"),
            send: function!("ncclSend"),
            receive: function!("ncclRecv"),
            group_start: function!("ncclGroupStart"),
            group_end: function!("ncclGroupEnd"),
            error: function!("ncclGetErrorString"),
            last_error: function!("ncclGetLastError"),
            name: name.to_owned(),
            _library: library,
        })
    }

    /// Its version and its file.
    fn describe(&self) -> String {
        let mut version = 0;
        // SAFETY: one number is written.
        let _ = unsafe { (self.version)(&raw mut version) };
        format!("{}.{}.{} ({})", version / 10_000, version / 100 % 100, version % 100, self.name)
    }

    /// An error if `code` is one.
    fn check(&self, what: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let text = |text: *const c_char| match text.is_null() {
            true => String::new(),
            // SAFETY: NCCL returns text that ends with a zero and lives as long as the library.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        // SAFETY: neither call takes more than a number, or a communicator that may be missing.
        let (words, last) = unsafe { (text((self.error)(code)), text((self.last_error)(null_mut()))) };
        let last = if last.is_empty() { last } else { format!(" ({last})") };
        Err(Error::Failed(format!("NCCL cannot {what}: {words}{last}")))
    }
}

/// Version and file of the library, if it can be opened.
pub fn library() -> Option<String> {
    Functions::open().ok().map(Functions::describe)
}

/// What the ranks of a new communicator all have to know: rank 0 makes it.
///
/// # Errors
/// [`Error::Usage`] if there is no NCCL; [`Error::Failed`] with its word for what went wrong.
pub fn unique_id() -> Result<UniqueId> {
    let functions = Functions::open()?;
    let mut id = Id([0; UNIQUE_ID_BYTES]);
    // SAFETY: it writes one id to a live place.
    functions.check("make an id", unsafe { (functions.unique_id)(&raw mut id) })?;
    Ok(id.0)
}

/// The ranks' GPUs, through NCCL, on this one's stream.
pub(super) struct Nccl {
    functions: &'static Functions,
    comm: Comm,
    stream: CUstream,
    context: CUcontext,
    rank: usize,
    size: usize,
}

// SAFETY: a communicator may be used from any thread, one at a time (it is behind a mutex), whose current context is its GPU's.
unsafe impl Send for Nccl {}

impl Nccl {
    /// Joins, which waits for all others.
    ///
    /// # Safety
    /// `stream` is one of `context`, which is current, and both live as long as the process.
    pub(super) unsafe fn join(
        id: &UniqueId,
        rank: usize,
        size: usize,
        stream: CUstream,
        context: CUcontext,
    ) -> Result<Self> {
        let functions = Functions::open()?;
        let mut comm = null_mut();
        // SAFETY: the id is one that NCCL has made, and it writes one handle to a live place.
        let code = unsafe { (functions.init)(&raw mut comm, size as c_int, Id(*id), rank as c_int) };
        functions.check(&format!("join {size} ranks as number {rank}"), code)?;
        Ok(Self { functions, comm, stream, context, rank, size })
    }

    /// Makes the GPU current, and tells what went wrong on other ranks.
    fn enter(&self, buffers: &[&Buffer]) -> Result<()> {
        if buffers.iter().any(|buffer| buffer.dtype() != DType::F32 || buffer.is_on_host()) {
            return Err(Error::Failed("NCCL carries f32 in a GPU's memory".into()));
        }
        // SAFETY: the context lives as long as the process.
        unsafe { driver::cuCtxSetCurrent(self.context) }
            .map_err(|error| Error::Failed(format!("CUDA cannot use the GPU: {}", super::describe(error))))?;
        let mut status = 0;
        // SAFETY: the communicator lives; one number is written.
        self.functions.check("tell how it is", unsafe { (self.functions.async_error)(self.comm, &raw mut status) })?;
        self.functions.check("go on", if status == IN_PROGRESS { 0 } else { status })
    }

    /// One call for all that `transfers` start.
    fn together(&self, what: &str, transfers: impl FnOnce() -> Result<()>) -> Result<()> {
        // SAFETY: neither takes anything.
        self.functions.check(what, unsafe { (self.functions.group_start)() })?;
        let started = transfers();
        // SAFETY: as above; a group that was started is ended.
        let ended = self.functions.check(what, unsafe { (self.functions.group_end)() });
        started.and(ended)
    }

    /// Sends elements `range` of `buffer` to `rank`, where there are any.
    fn send(&self, buffer: &Buffer, range: &Range<usize>, rank: usize) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        assert!(range.end <= buffer.len());
        let from = buffer.address_of(range.start) as *const c_void;
        // SAFETY: the elements lie inside a live allocation; the stream keeps the order with what wrote them and will use them.
        let code = unsafe { (self.functions.send)(from, range.len(), FLOAT, rank as c_int, self.comm, self.stream) };
        self.functions.check("send gradients", code)
    }

    /// Receives elements `range` of `buffer` from `rank`, where there are any.
    fn receive(&self, buffer: &mut Buffer, range: &Range<usize>, rank: usize) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        assert!(range.end <= buffer.len());
        let to = buffer.address_of(range.start) as *mut c_void;
        // SAFETY: as in `send`.
        let code = unsafe { (self.functions.receive)(to, range.len(), FLOAT, rank as c_int, self.comm, self.stream) };
        self.functions.check("receive gradients", code)
    }
}

impl Collective for Nccl {
    fn describe(&self) -> String {
        format!("NCCL {}", self.functions.describe())
    }

    fn exchange(&mut self, source: &Buffer, parts: &[Range<usize>], received: &mut Buffer) -> Result<()> {
        self.enter(&[source, received])?;
        let own = parts[self.rank].len();
        self.together("exchange gradients", || {
            (0..self.size).try_for_each(|rank| {
                self.send(source, &parts[rank], rank)?;
                self.receive(received, &(rank * own..(rank + 1) * own), rank)
            })
        })
    }

    fn gather(&mut self, buffer: &mut Buffer, parts: &[Range<usize>]) -> Result<()> {
        self.enter(&[buffer])?;
        self.together("gather gradients", || {
            (0..self.size).filter(|rank| *rank != self.rank).try_for_each(|rank| {
                self.send(buffer, &parts[self.rank], rank)?;
                self.receive(buffer, &parts[rank], rank)
            })
        })
    }

    fn all_reduce(&mut self, buffer: &mut Buffer) -> Result<()> {
        self.enter(&[buffer])?;
        let (functions, address) = (self.functions, buffer.address());
        // SAFETY: as in `send`; in place, as NCCL allows.
        let code = unsafe {
            let (from, to) = (address as *const c_void, address as *mut c_void);
            (functions.all_reduce)(from, to, buffer.len(), FLOAT, SUM, self.comm, self.stream)
        };
        functions.check("add gradients", code)
    }

    fn finish(&mut self) {
        // SAFETY: the last call for this communicator: a group of ranks is left once.
        let _ = unsafe { (self.functions.destroy)(self.comm) };
    }
}

/// Keeps NCCL's own all-reduce from adding inside the switch (NVLS), whose sums may differ from call to call; what the user has chosen
/// stays. At the start of a program: where other threads run already, nothing is done.
pub fn prefer_repeatable() {
    let is_alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if is_alone && std::env::var_os("NCCL_ALGO").is_none() {
        // SAFETY: nobody reads the environment at the same time, since there is no other thread.
        unsafe { std::env::set_var("NCCL_ALGO", "^NVLS") };
    }
}
