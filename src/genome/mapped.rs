//! A file mapped into memory, which another program may cut short or change meanwhile.
//!
//! Reading a page that is no longer in the file ends a process with SIGBUS. Here the signal's handler puts a page of zeros in
//! its place, so that reading goes on, and remembers; whoever has read asks [`MappedFile::check`] before the results go anywhere.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::{Error, Result};

/// A regular file as bytes.
pub struct MappedFile {
    /// Above the map, and so dropped before it: no slot may have a range that is unmapped.
    watch: Option<bus::Watch>,
    map: Mmap,
    file: File,
    path: PathBuf,
    as_opened: (u64, Option<SystemTime>),
}

impl MappedFile {
    /// Maps `path`, which has to be a regular file; `what` says what kind.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened; [`Error::Input`] if it is none.
    pub fn open(path: &Path, what: &str) -> Result<Self> {
        // Looked at before it is opened: opening a named pipe would wait for a writer.
        if !fs::metadata(path).map_err(Error::io("open", path))?.is_file() {
            return Err(Error::input(
                path,
                "",
                format!("not a regular file, which a {what} must be"),
                format!("name a {what} file"),
            ));
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        let as_opened = stamp(&file).map_err(Error::io("look at", path))?;
        // SAFETY: the mapping is private and read-only, and this program never writes such a file in place: outputs are
        // new files renamed over old ones, which leaves a mapped one as it was. Another program may change the file: every byte is
        // a valid value here, and nothing that was validated is read twice. Where it is cut short, the handler below maps a page of
        // zeros. Both are found by `check`.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let watch = bus::Watch::new(&map);
        Ok(Self { watch, map, file, path: path.to_owned(), as_opened })
    }

    /// Whether what was read is what lay in the file when it was opened.
    ///
    /// # Errors
    /// [`Error::Input`] if the file was changed or cut short since; [`Error::Io`].
    pub fn check(&self) -> Result<()> {
        let is_cut = self.watch.as_ref().is_some_and(bus::Watch::has_faulted);
        let now = stamp(&self.file).map_err(Error::io("look at", &self.path))?;
        if !is_cut && now == self.as_opened {
            return Ok(());
        }
        let (before, now) = (self.as_opened.0, now.0);
        let found = if before == now {
            "the file was changed while it was read".to_owned()
        } else {
            format!("the file was changed while it was read: it had {before} bytes and has {now} now")
        };
        Err(Error::input(
            &self.path,
            "",
            found,
            "begin again when nobody writes to the file; replace it by renaming another one",
        ))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// What tells a file from itself after a change: its length and the time of the last one.
fn stamp(file: &File) -> io::Result<(u64, Option<SystemTime>)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}

#[cfg(target_os = "linux")]
mod bus {
    use std::ffi::{c_int, c_void};
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use nix::libc;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    /// Bytes that are mapped from a file.
    struct Slot {
        is_taken: AtomicBool,
        start: AtomicUsize,
        end: AtomicUsize,
        has_faulted: AtomicBool,
    }

    /// A handler may not lock or allocate, so there is room for so many. Files beyond them are not watched.
    static SLOTS: [Slot; 64] = [const {
        Slot {
            is_taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            has_faulted: AtomicBool::new(false),
        }
    }; 64];

    static PAGE: AtomicUsize = AtomicUsize::new(0);

    /// Watches mapped bytes until it is dropped.
    pub(super) struct Watch(&'static Slot);

    impl Watch {
        pub(super) fn new(bytes: &[u8]) -> Option<Self> {
            static INSTALLED: Once = Once::new();
            INSTALLED.call_once(install);
            let take = |slot: &&Slot| !slot.is_taken.swap(true, Ordering::AcqRel);
            let slot = SLOTS.iter().find(take)?;
            let range = bytes.as_ptr_range();
            slot.has_faulted.store(false, Ordering::Release);
            // A free slot ends at 0. The end comes last here and first in the handler, so that nobody sees it with another start.
            slot.start.store(range.start as usize, Ordering::Release);
            slot.end.store(range.end as usize, Ordering::Release);
            Some(Self(slot))
        }

        pub(super) fn has_faulted(&self) -> bool {
            self.0.has_faulted.load(Ordering::Acquire)
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            self.0.end.store(0, Ordering::Release);
            self.0.is_taken.store(false, Ordering::Release);
        }
    }

    fn install() {
        // SAFETY: `sysconf` only looks a number up.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).unwrap_or(0), Ordering::Release);
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
        let action = SigAction::new(SigHandler::SigAction(on_bus_error), flags, SigSet::empty());
        // SAFETY: the handler does nothing but read and write atomics and make system calls, all of which may be done in one.
        let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
    }

    extern "C" fn on_bus_error(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel hands a handler with SA_SIGINFO a valid pointer, and SIGBUS sets the address.
        let address = unsafe { (*info).si_addr() } as usize;
        let page = PAGE.load(Ordering::Acquire);
        let holds = |slot: &&Slot| {
            let end = slot.end.load(Ordering::Acquire);
            (slot.start.load(Ordering::Acquire)..end).contains(&address)
        };
        if let Some(slot) = SLOTS.iter().find(holds).filter(|_| page > 0) {
            slot.has_faulted.store(true, Ordering::Release);
            let start = (address - address % page) as *mut c_void;
            let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // SAFETY: the page lies in a mapping of ours, which stays mapped while its slot has this range, and unmapping that
            // takes this page with it. It could not be read before, so nobody has seen what it takes the place of.
            let mapped = unsafe { libc::mmap(start, page, libc::PROT_READ, how, -1, 0) };
            if mapped != libc::MAP_FAILED {
                return;
            }
        }
        // Somebody else's error: it comes again, and ends the process.
        // SAFETY: restoring the default action may be done in a handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}

#[cfg(not(target_os = "linux"))]
mod bus {
    /// Elsewhere nobody watches.
    pub(super) struct Watch;

    impl Watch {
        pub(super) fn new(_: &[u8]) -> Option<Self> {
            None
        }

        pub(super) fn has_faulted(&self) -> bool {
            false
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn mapped(folder: &Path) -> (PathBuf, MappedFile) {
        let path = folder.join("a");
        fs::write(&path, vec![7; 40_000]).unwrap();
        let file = MappedFile::open(&path, "test").unwrap();
        file.check().unwrap();
        (path, file)
    }

    #[test]
    fn a_file_that_is_cut_short_is_read_as_zeros_and_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = mapped(folder.path());
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5_000).unwrap();
        assert_eq!((file[100], file[39_999], file[20_000]), (7, 0, 0));
        let message = file.check().unwrap_err().to_string();
        assert!(message.contains("had 40000 bytes and has 5000 now"), "{message}");
        // Even if it has its length and its time again.
        fs::write(&path, vec![7; 40_000]).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert!(file.check().is_err());
        drop(file);
        let (_, file) = mapped(folder.path());
        assert_eq!(file[39_999], 7);
    }

    #[test]
    fn a_file_that_is_written_to_is_found_out_and_one_that_is_replaced_is_not_ours() {
        use std::os::unix::fs::FileExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = mapped(folder.path());
        fs::write(folder.path().join("b"), "new").unwrap();
        fs::rename(folder.path().join("b"), &path).unwrap();
        file.check().unwrap();
        let (path, file) = mapped(folder.path());
        std::thread::sleep(std::time::Duration::from_millis(20));
        File::options().write(true).open(&path).unwrap().write_at(b"x", 3).unwrap();
        assert!(file.check().unwrap_err().to_string().contains("was changed"));
    }
}
