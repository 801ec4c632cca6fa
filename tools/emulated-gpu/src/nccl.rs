//! A stand-in for NVIDIA's NCCL between the emulated GPUs of several processes: the functions that Helixgrad calls, with their names and types
//! (docs.nvidia.com/deeplearning/nccl). The same shared object under a second name is one library with one state.
//!
//! As strict as the rest. What is sent and received is a task in the stream, done when the stream is waited for, or a moment later: a GPU goes on
//! by itself, and other ranks wait for it. Counts that do not match, another number of ranks or an address that is no device memory are
//! errors; a rank that is gone is waited for in vain, as NCCL does it inside a machine.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{CUresult, CUstream};

use crate::gpu::{Answer, Gpu, Task, current};

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId([u8; 128]);

const SUCCESS: c_int = 0;
const UNHANDLED_CUDA_ERROR: c_int = 1;
const SYSTEM_ERROR: c_int = 2;
const INVALID_ARGUMENT: c_int = 4;
const INVALID_USAGE: c_int = 5;

/// What an id begins with.
const MAGIC: &[u8; 8] = b"emulated";
/// How long a GPU's stream stands still at most when others may wait for it.
const LATE: Duration = Duration::from_millis(20);

/// The ranks of a communicator, with a connection to each other one.
pub struct Comm {
    rank: usize,
    peers: Vec<Option<Mutex<TcpStream>>>,
}

/// One send or receive.
#[derive(Clone, Copy)]
enum Part {
    Send {
        address: u64,
        bytes: usize,
        peer: usize,
    },
    Receive {
        address: u64,
        bytes: usize,
        peer: usize,
    },
    /// Sum of floats in place.
    Reduce {
        address: u64,
        bytes: usize,
    },
}

/// What a group of calls has started.
#[derive(Clone)]
pub struct Group {
    comm: Arc<Comm>,
    parts: Vec<Part>,
}

static ROOT: Mutex<Option<TcpListener>> = Mutex::new(None);
static COMMS: Mutex<Vec<Option<Arc<Comm>>>> = Mutex::new(Vec::new());

thread_local! {
    /// How deep groups are nested, and what they have started.
    static OPEN: RefCell<(usize, Vec<(usize, Part)>)> = const { RefCell::new((0, Vec::new())) };
}

fn comm(handle: *mut c_void) -> Option<Arc<Comm>> {
    let comms = COMMS.lock().unwrap_or_else(PoisonError::into_inner);
    comms.get((handle as usize).checked_sub(1)?)?.clone()
}

fn send_numbers(stream: &mut TcpStream, numbers: &[u64]) -> io::Result<()> {
    stream.write_all(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
}

fn receive_number(stream: &mut TcpStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Connects everybody with everybody: all tell rank 0 where they listen, and it tells all.
fn connect(id: &UniqueId, rank: usize, size: usize) -> io::Result<Comm> {
    let strange = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut peers: Vec<Option<TcpStream>> = (0..size).map(|_| None).collect();
    let root = u16::from_le_bytes([id.0[8], id.0[9]]);
    if rank == 0 {
        let listener = ROOT.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = listener.ok_or_else(|| strange("rank 0 has not made the id"))?;
        let mut ports = vec![0; size];
        for _ in 1..size {
            let (mut stream, _) = listener.accept()?;
            let [other, count, port] =
                [receive_number(&mut stream)?, receive_number(&mut stream)?, receive_number(&mut stream)?];
            if count as usize != size || other as usize >= size || peers[other as usize].is_some() {
                return Err(strange("ranks that contradict each other"));
            }
            ports[other as usize] = port;
            peers[other as usize] = Some(stream);
        }
        for stream in peers.iter_mut().flatten() {
            send_numbers(stream, &ports)?;
        }
    } else {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, root))?;
        send_numbers(&mut stream, &[rank as u64, size as u64, u64::from(listener.local_addr()?.port())])?;
        let ports: Vec<u64> = (0..size).map(|_| receive_number(&mut stream)).collect::<io::Result<_>>()?;
        peers[0] = Some(stream);
        for (other, port) in ports.iter().enumerate().take(rank).skip(1) {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port as u16))?;
            send_numbers(&mut stream, &[rank as u64])?;
            peers[other] = Some(stream);
        }
        for _ in rank + 1..size {
            let (mut stream, _) = listener.accept()?;
            let other = receive_number(&mut stream)? as usize;
            peers[other] = Some(stream);
        }
    }
    for stream in peers.iter().flatten() {
        stream.set_nodelay(true)?;
    }
    Ok(Comm { rank, peers: peers.into_iter().map(|peer| peer.map(Mutex::new)).collect() })
}

impl Comm {
    /// Bytes to a rank, with their number in front.
    fn send(&self, peer: usize, bytes: &[u8]) {
        let Some(stream) = &self.peers[peer] else { return };
        // The stream is cloned, so that nobody who reads from it is waited for.
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
        let sent = stream.and_then(|mut stream| {
            send_numbers(&mut stream, &[bytes.len() as u64])?;
            stream.write_all(bytes)
        });
        sent.unwrap_or_else(|_| wait_in_vain());
    }

    /// As many bytes as are expected.
    fn receive(&self, peer: usize, bytes: usize) -> Answer<Vec<u8>> {
        let stream = self.peers[peer].as_ref().ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
        let mut stream = stream.unwrap_or_else(|_| wait_in_vain());
        let count = receive_number(&mut stream).unwrap_or_else(|_| wait_in_vain());
        if count as usize != bytes {
            eprintln!("emulated NCCL: rank {} receives {bytes} bytes from rank {peer}, which sends {count}", self.rank);
            return Err(CUresult::CUDA_ERROR_LAUNCH_FAILED);
        }
        let mut received = vec![0; bytes];
        stream.read_exact(&mut received).unwrap_or_else(|_| wait_in_vain());
        Ok(received)
    }
}

/// The other rank is gone.
fn wait_in_vain() -> ! {
    loop {
        std::thread::park();
    }
}

impl Gpu {
    /// Does what a group has started.
    pub fn run_group(&self, group: &Group) -> Answer {
        let Group { comm, parts } = group;
        let range =
            |address, bytes| self.memory.range(address, bytes).map_err(|_| CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let read = |address, bytes: usize| {
            // SAFETY: `range` has checked the length, and nobody else has device memory.
            range(address, bytes).map(|from| unsafe { std::slice::from_raw_parts(from, bytes) }.to_vec())
        };
        let write = |address, bytes: &[u8]| {
            // SAFETY: as above.
            range(address, bytes.len()).map(|to| unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) })
        };
        let others = || (0..comm.peers.len()).filter(|peer| *peer != comm.rank);
        let (mut to_others, mut to_itself) = (Vec::new(), VecDeque::new());
        for part in parts {
            match *part {
                Part::Send { address, bytes, peer } if peer == comm.rank => to_itself.push_back(read(address, bytes)?),
                Part::Send { address, bytes, peer } => to_others.push((peer, read(address, bytes)?)),
                Part::Reduce { address, bytes } => {
                    let own = read(address, bytes)?;
                    to_others.extend(others().map(|peer| (peer, own.clone())));
                }
                Part::Receive { .. } => {}
            }
        }
        let sending = Arc::clone(comm);
        let sender = std::thread::spawn(move || to_others.iter().for_each(|(peer, bytes)| sending.send(*peer, bytes)));
        for part in parts {
            match *part {
                Part::Send { .. } => {}
                Part::Receive { address, bytes, peer } if peer == comm.rank => match to_itself.pop_front() {
                    Some(own) if own.len() == bytes => write(address, &own)?,
                    _ => return Err(CUresult::CUDA_ERROR_LAUNCH_FAILED),
                },
                Part::Receive { address, bytes, peer } => write(address, &comm.receive(peer, bytes)?)?,
                Part::Reduce { address, bytes } => {
                    // Rank after rank: another order than a tree's.
                    let floats = |bytes: &[u8]| -> Vec<f32> {
                        bytes.chunks_exact(4).map(|at| f32::from_le_bytes([at[0], at[1], at[2], at[3]])).collect()
                    };
                    let mut sum: Option<Vec<f32>> = None;
                    for rank in 0..comm.peers.len() {
                        let term =
                            floats(&if rank == comm.rank { read(address, bytes)? } else { comm.receive(rank, bytes)? });
                        match &mut sum {
                            None => sum = Some(term),
                            Some(sum) => sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term),
                        }
                    }
                    let sum: Vec<u8> = sum.unwrap_or_default().into_iter().flat_map(f32::to_le_bytes).collect();
                    write(address, &sum)?;
                }
            }
        }
        if !to_itself.is_empty() {
            eprintln!("emulated NCCL: rank {} sends to itself what it does not receive", comm.rank);
            return Err(CUresult::CUDA_ERROR_LAUNCH_FAILED);
        }
        let _ = sender.join();
        Ok(())
    }
}

/// Puts a part into the open group, or makes one of it alone.
fn start(handle: *mut c_void, part: Part, kind: c_int, stream: CUstream) -> c_int {
    let Some(of) = comm(handle) else { return INVALID_ARGUMENT };
    let peer = match part {
        Part::Send { peer, .. } | Part::Receive { peer, .. } => peer,
        Part::Reduce { .. } => of.rank,
    };
    // Floats, of ranks that there are, in the stream that there is.
    if kind != 7 || peer >= of.peers.len() || stream as usize != crate::gpu::STREAM {
        return INVALID_ARGUMENT;
    }
    let alone = OPEN.with_borrow_mut(|(depth, parts)| {
        parts.push((handle as usize, part));
        *depth == 0
    });
    if alone { flush() } else { SUCCESS }
}

/// Hands over what the outermost group has started.
fn flush() -> c_int {
    let parts = OPEN.with_borrow_mut(|(_, parts)| std::mem::take(parts));
    let Some((first, _)) = parts.first().copied() else { return SUCCESS };
    if parts.iter().any(|(handle, _)| *handle != first) {
        return INVALID_USAGE;
    }
    let Some(of) = comm(first as *mut c_void) else { return INVALID_ARGUMENT };
    let parts: Vec<Part> = parts.into_iter().map(|(_, part)| part).collect();
    let status = current(|gpu| {
        for part in &parts {
            let (Part::Send { address, bytes, .. }
            | Part::Receive { address, bytes, .. }
            | Part::Reduce { address, bytes }) = *part;
            gpu.memory.range(address, bytes)?;
        }
        gpu.enqueue(crate::gpu::STREAM, Task::Group(Group { comm: of, parts: parts.clone() }))
    });
    if status != CUresult::CUDA_SUCCESS {
        return UNHANDLED_CUDA_ERROR;
    }
    // A GPU goes on by itself.
    std::thread::spawn(|| {
        std::thread::sleep(LATE);
        let _ = crate::gpu::started(Gpu::run);
    });
    SUCCESS
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { version.write(22_300) };
    SUCCESS
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else { return SYSTEM_ERROR };
    let Ok(address) = listener.local_addr() else { return SYSTEM_ERROR };
    let mut bytes = [0; 128];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&address.port().to_le_bytes());
    *ROOT.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    // SAFETY: the caller's promise.
    unsafe { id.write(UniqueId(bytes)) };
    SUCCESS
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclCommInitRank(place: *mut *mut c_void, size: c_int, id: UniqueId, rank: c_int) -> c_int {
    if id.0[..8] != *MAGIC || rank < 0 || rank >= size || current(|_| Ok(())) != CUresult::CUDA_SUCCESS {
        return INVALID_ARGUMENT;
    }
    match connect(&id, rank as usize, size as usize) {
        Err(error) => {
            eprintln!("emulated NCCL: {error}");
            SYSTEM_ERROR
        }
        Ok(comm) => {
            let mut comms = COMMS.lock().unwrap_or_else(PoisonError::into_inner);
            comms.push(Some(Arc::new(comm)));
            // SAFETY: the caller's promise.
            unsafe { place.write(comms.len() as *mut c_void) };
            SUCCESS
        }
    }
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclCommGetAsyncError(of: *mut c_void, status: *mut c_int) -> c_int {
    if comm(of).is_none() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: the caller's promise.
    unsafe { status.write(SUCCESS) };
    SUCCESS
}

/// Ends it, once everything in the stream is done.
///
/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclCommDestroy(of: *mut c_void) -> c_int {
    if comm(of).is_none() {
        return INVALID_ARGUMENT;
    }
    let status = crate::gpu::started(Gpu::run);
    COMMS.lock().unwrap_or_else(PoisonError::into_inner)[of as usize - 1] = None;
    if status == CUresult::CUDA_SUCCESS { SUCCESS } else { UNHANDLED_CUDA_ERROR }
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclSend(
    from: *const c_void,
    count: usize,
    kind: c_int,
    peer: c_int,
    of: *mut c_void,
    stream: CUstream,
) -> c_int {
    let Ok(peer) = usize::try_from(peer) else { return INVALID_ARGUMENT };
    start(of, Part::Send { address: from as u64, bytes: 4 * count, peer }, kind, stream)
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclRecv(
    to: *mut c_void,
    count: usize,
    kind: c_int,
    peer: c_int,
    of: *mut c_void,
    stream: CUstream,
) -> c_int {
    let Ok(peer) = usize::try_from(peer) else { return INVALID_ARGUMENT };
    start(of, Part::Receive { address: to as u64, bytes: 4 * count, peer }, kind, stream)
}

/// Sums in place alone.
///
/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclAllReduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind: c_int,
    operation: c_int,
    of: *mut c_void,
    stream: CUstream,
) -> c_int {
    if operation != 0 || from != to.cast_const() {
        return INVALID_ARGUMENT;
    }
    start(of, Part::Reduce { address: to as u64, bytes: 4 * count }, kind, stream)
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclGroupStart() -> c_int {
    OPEN.with_borrow_mut(|(depth, _)| *depth += 1);
    SUCCESS
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclGroupEnd() -> c_int {
    let depth = OPEN.with_borrow_mut(|(depth, _)| {
        let before = *depth;
        *depth = before.saturating_sub(1);
        before
    });
    match depth {
        0 => INVALID_USAGE,
        1 => flush(),
        _ => SUCCESS,
    }
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclGetErrorString(status: c_int) -> *const c_char {
    match status {
        SUCCESS => c"no error",
        UNHANDLED_CUDA_ERROR => c"unhandled cuda error",
        SYSTEM_ERROR => c"unhandled system error",
        INVALID_ARGUMENT => c"invalid argument",
        _ => c"invalid usage",
    }
    .as_ptr()
}

/// # Safety
/// As NCCL's function of this name.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the interface's name")]
pub unsafe extern "C" fn ncclGetLastError(_of: *mut c_void) -> *const c_char {
    c"".as_ptr()
}
