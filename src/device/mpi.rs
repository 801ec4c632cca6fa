//! MPI, opened at run time: whichever library the launcher belongs to.
//!
//! There are three binary interfaces. Open MPI's handles are addresses of its own variables, MPICH's (and Intel's, MVAPICH's,
//! Cray's) are numbers, and those of the MPI 5.0 standard are small numbers that both are to have in the end. All handles fit
//! a machine word, of which a function that takes a C `int` reads the lower half, so one type of function serves all.

use std::ffi::{c_char, c_int, c_void};
use std::ops::Range;
use std::ptr;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::collective::Collective;
use super::{Buffer, DType};
use crate::{Error, Result};

/// Where each interface is found, in the order in which they are tried.
const NAMES: [&str; 4] = ["libmpi.so.40", "libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12"];
/// Bytes that MPI may write as its version.
const VERSION_BYTES: usize = 8192;
/// Elements of one call: counts are C ints.
const LONGEST: usize = 1 << 28;

/// A handle: an address or a number.
type Handle = usize;

/// What an interface calls things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Handles {
    world: Handle,
    byte: Handle,
    float: Handle,
    sum: Handle,
    in_place: isize,
    /// MPI_THREAD_SERIALIZED: calls from several threads, one at a time.
    serialized: c_int,
}

/// MPICH's numbers, from its `mpi.h`.
const MPICH: Handles = Handles {
    world: 0x4400_0000,
    byte: 0x4c00_010d,
    float: 0x4c00_040a,
    sum: 0x5800_0003,
    in_place: -1,
    serialized: 2,
};

/// Those of the standard, MPI 5.0, appendix A.
const STANDARD: Handles = Handles { world: 0x101, byte: 0x247, float: 0x210, sum: 0x21, in_place: 1, serialized: 2048 };

type Init = unsafe extern "C" fn(*mut c_int, *mut c_void, c_int, *mut c_int) -> c_int;
type OfWorld = unsafe extern "C" fn(Handle, *mut c_int) -> c_int;
type Bcast = unsafe extern "C" fn(*mut c_void, c_int, Handle, c_int, Handle) -> c_int;
type AllToAll = unsafe extern "C" fn(
    *const c_void,
    *const c_int,
    *const c_int,
    Handle,
    *mut c_void,
    *const c_int,
    *const c_int,
    Handle,
    Handle,
) -> c_int;
type AllGather = unsafe extern "C" fn(
    *const c_void,
    c_int,
    Handle,
    *mut c_void,
    *const c_int,
    *const c_int,
    Handle,
    Handle,
) -> c_int;
type AllReduce = unsafe extern "C" fn(*const c_void, *mut c_void, c_int, Handle, Handle, Handle) -> c_int;
type Finalize = unsafe extern "C" fn() -> c_int;
type Version = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;

/// MPI, started; this process as one of its ranks.
pub struct Mpi {
    /// The number of this process.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    version: String,
    handles: Handles,
    bcast: Bcast,
    all_to_all: AllToAll,
    all_gather: AllGather,
    all_reduce: AllReduce,
    finalize: Finalize,
    /// Stays open: what it started runs until the process ends.
    _library: std::mem::ManuallyDrop<Library>,
}

impl Mpi {
    /// Opens the library, `HELIXGRAD_MPI` if that is set, or else the first of the usual names, those of `launcher` before others, and
    /// starts it.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is none, saying what was tried; [`Error::Failed`] if it cannot start.
    pub fn start(launcher: &str) -> Result<Self> {
        let (library, name) = open(launcher)?;
        let name = name.as_str();
        let handles = handles(&library, name);
        // SAFETY: each name is that of a function of the MPI standard, whose C prototype the type is; a handle of type `int` is the lower half of
        // a word (above).
        let mpi = unsafe {
            let rank: OfWorld = symbol(&library, name, "MPI_Comm_rank")?;
            let size: OfWorld = symbol(&library, name, "MPI_Comm_size")?;
            let init: Init = symbol(&library, name, "MPI_Init_thread")?;
            let version: Version = symbol(&library, name, "MPI_Get_library_version")?;
            let mut mpi = Self {
                rank: 0,
                size: 0,
                version: String::new(),
                handles,
                bcast: symbol(&library, name, "MPI_Bcast")?,
                all_to_all: symbol(&library, name, "MPI_Alltoallv")?,
                all_gather: symbol(&library, name, "MPI_Allgatherv")?,
                all_reduce: symbol(&library, name, "MPI_Allreduce")?,
                finalize: symbol(&library, name, "MPI_Finalize")?,
                _library: std::mem::ManuallyDrop::new(library),
            };
            let (mut provided, mut number, mut count) = (0, 0, 0);
            check("start", init(ptr::null_mut(), ptr::null_mut(), handles.serialized, &raw mut provided))?;
            check("tell its rank", rank(handles.world, &raw mut number))?;
            check("tell its size", size(handles.world, &raw mut count))?;
            let (mut text, mut length) = (vec![0u8; VERSION_BYTES], 0);
            check("tell its version", version(text.as_mut_ptr().cast(), &raw mut length))?;
            text.truncate(usize::try_from(length).unwrap_or(0));
            (mpi.rank, mpi.size, mpi.version) = (number as usize, count as usize, short(&text));
            mpi
        };
        Ok(mpi)
    }

    /// Rank 0's `bytes`, on every rank; all of them give as many.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        let Handles { world, byte, .. } = self.handles;
        // SAFETY: the memory has as many bytes as told, and MPI is started.
        check("broadcast", unsafe { (self.bcast)(bytes.as_mut_ptr().cast(), bytes.len() as c_int, byte, 0, world) })
    }

    fn counts(parts: &[Range<usize>]) -> Result<[Vec<c_int>; 2]> {
        let number = |number: usize| {
            c_int::try_from(number).map_err(|_| Error::Failed(format!("{number} elements are more than MPI counts to")))
        };
        let counts = parts.iter().map(|part| number(part.len())).collect::<Result<_>>()?;
        let places = parts.iter().map(|part| number(part.start)).collect::<Result<_>>()?;
        Ok([counts, places])
    }
}

/// Opens `HELIXGRAD_MPI` if that is set, or else the first of the usual names, those of `launcher` before others.
fn open(launcher: &str) -> Result<(Library, String)> {
    let chosen = std::env::var("HELIXGRAD_MPI").ok().filter(|path| !path.is_empty());
    let mut names: Vec<&str> = match &chosen {
        Some(path) => vec![path],
        None => NAMES.to_vec(),
    };
    if launcher.starts_with("MPICH") {
        // Its own before Open MPI's, which would take itself for alone.
        names.rotate_left(1);
    }
    let mut tried = Vec::new();
    let library = names.iter().find_map(|name| {
        // SAFETY: runs the library's initialisers, which are those of an MPI that the user has installed or named. Its plugins look
        // for its symbols among the global ones.
        match unsafe { Library::open(Some(*name), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => Some((library, (*name).to_owned())),
            Err(error) => {
                tried.push(format!("{name} ({error})"));
                None
            }
        }
    });
    library.ok_or_else(|| {
        Error::usage(
            format!("several ranks on CPUs need MPI, and it cannot be opened: {}", tried.join(", ")),
            "install Open MPI or MPICH (its library, not only mpirun), or name its libmpi in HELIXGRAD_MPI",
        )
    })
}

/// What is opened where no launcher says otherwise: its version and its file.
pub fn library() -> Option<String> {
    let (library, name) = open("").ok()?;
    let (mut text, mut length) = (vec![0u8; VERSION_BYTES], 0);
    // SAFETY: the function's type is that of the standard, which lets it be called before MPI is started; it writes no more than the standard's
    // longest version.
    let code = unsafe {
        let version: Version = symbol(&library, &name, "MPI_Get_library_version").ok()?;
        version(text.as_mut_ptr().cast(), &raw mut length)
    };
    // What it has started may run on.
    std::mem::forget(library);
    text.truncate(usize::try_from(length).unwrap_or(0));
    (code == 0).then(|| format!("{} ({name})", short(&text)))
}

/// The function `name`.
///
/// # Safety
/// `T` is its type.
unsafe fn symbol<T: Copy>(library: &Library, file: &str, name: &str) -> Result<T> {
    // SAFETY: the caller's promise.
    match unsafe { library.get::<T>(name.as_bytes()) } {
        Ok(found) => Ok(*found),
        Err(error) => Err(Error::usage(
            format!("{file} is no MPI: it has no {name} ({error})"),
            "name the libmpi of Open MPI or MPICH in HELIXGRAD_MPI",
        )),
    }
}

/// Which interface it has.
fn handles(library: &Library, name: &str) -> Handles {
    let address = |name: &str| {
        // SAFETY: only the address of the variable is taken.
        unsafe { library.get::<*const c_void>(name.as_bytes()) }.ok().map(|found| found.as_raw_ptr() as usize)
    };
    let names = ["ompi_mpi_comm_world", "ompi_mpi_byte", "ompi_mpi_float", "ompi_mpi_op_sum"];
    match names.map(address) {
        [Some(world), Some(byte), Some(float), Some(sum)] => {
            Handles { world, byte, float, sum, in_place: 1, serialized: 2 }
        }
        _ if name.contains("mpi_abi") => STANDARD,
        _ => MPICH,
    }
}

/// The first words of a version, which is a page of build options with some.
fn short(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end_matches('\0');
    let line = text.split(['\n', ',']).next().unwrap_or_default();
    line.replace("Version:", "").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn check(what: &str, code: c_int) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Error::Failed(format!("MPI cannot {what}: error {code}"))) }
}

/// f32 in host memory, which MPI sees.
fn host(buffer: &Buffer) -> Result<&[f32]> {
    if buffer.dtype() != DType::F32 || !buffer.is_on_host() {
        return Err(Error::Failed("MPI carries f32 in host memory".into()));
    }
    Ok(buffer.slice())
}

impl Collective for Mpi {
    fn describe(&self) -> String {
        self.version.clone()
    }

    fn exchange(&mut self, source: &Buffer, parts: &[Range<usize>], received: &mut Buffer) -> Result<()> {
        let Handles { world, float, .. } = self.handles;
        let own = parts[self.rank].len();
        let ours: Vec<Range<usize>> = (0..self.size).map(|rank| rank * own..(rank + 1) * own).collect();
        let [sent, from] = Self::counts(parts)?;
        let [counts, to] = Self::counts(&ours)?;
        let elements = host(source)?;
        assert!(parts.iter().all(|part| part.end <= elements.len()) && received.len() == self.size * own);
        host(received)?;
        let target = received.slice_mut::<f32>();
        // SAFETY: counts and places lie inside the two slices (above), which are of floats; MPI is started.
        check("exchange gradients", unsafe {
            (self.all_to_all)(
                elements.as_ptr().cast(),
                sent.as_ptr(),
                from.as_ptr(),
                float,
                target.as_mut_ptr().cast(),
                counts.as_ptr(),
                to.as_ptr(),
                float,
                world,
            )
        })
    }

    fn gather(&mut self, buffer: &mut Buffer, parts: &[Range<usize>]) -> Result<()> {
        let Handles { world, float, in_place, .. } = self.handles;
        let [counts, places] = Self::counts(parts)?;
        host(buffer)?;
        let elements = buffer.slice_mut::<f32>();
        assert!(parts.iter().all(|part| part.end <= elements.len()));
        // SAFETY: as above; what is sent lies where it belongs already, as MPI_IN_PLACE says, and then its count and type do not count.
        check("gather gradients", unsafe {
            (self.all_gather)(
                in_place as *const c_void,
                0,
                float,
                elements.as_mut_ptr().cast(),
                counts.as_ptr(),
                places.as_ptr(),
                float,
                world,
            )
        })
    }

    fn all_reduce(&mut self, buffer: &mut Buffer) -> Result<()> {
        let Handles { world, float, sum, in_place, .. } = self.handles;
        host(buffer)?;
        for piece in buffer.slice_mut::<f32>().chunks_mut(LONGEST) {
            let count = piece.len() as c_int;
            // SAFETY: the memory has as many floats as told; MPI is started.
            check("add gradients", unsafe {
                (self.all_reduce)(in_place as *const c_void, piece.as_mut_ptr().cast(), count, float, sum, world)
            })?;
        }
        Ok(())
    }

    fn finish(&mut self) {
        // SAFETY: the last call of MPI, once: a group of ranks is left once.
        let _ = unsafe { (self.finalize)() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_in_a_few_words() {
        for (long, few) in [
            ("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4\0", "Open MPI v4.1.4"),
            ("MPICH Version:      4.0.2\nMPICH Release date: Thu Apr  7\0", "MPICH 4.0.2"),
            ("", ""),
        ] {
            assert_eq!(short(long.as_bytes()), few);
        }
    }
}
