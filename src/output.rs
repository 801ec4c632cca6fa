//! Outputs appear under their final name only when they are complete, and a process that is told to stop leaves no half of
//! one behind.

mod folder;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tempfile::TempPath;

pub use self::folder::{FolderKind, remove_debris, remove_folder, write_folder_atomic};
use crate::{Error, Result};

const STAGING_PREFIX: &str = ".helixgrad-";
const STAGING_SUFFIX: &str = ".tmp";
/// Ends the name of a folder that was moved aside; between it and the prefix stands the folder's own name.
const ASIDE_SUFFIX: &str = ".old";

/// Whether a file or folder of this name is one that this module had not finished writing, replacing or removing.
pub fn is_staging(name: &str) -> bool {
    name.starts_with(STAGING_PREFIX) && (name.ends_with(STAGING_SUFFIX) || name.ends_with(ASIDE_SUFFIX))
}

/// Refuses an output that is a file to be read for it.
///
/// # Errors
/// [`Error::Usage`] if they are the same file, by whatever name.
pub fn keep_inputs<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let Ok(real) = output.canonicalize() else { return Ok(()) };
    if !real.is_file() || inputs.into_iter().all(|input| input.canonicalize().map_or(true, |input| input != real)) {
        return Ok(());
    }
    Err(Error::usage(format!("the output {} is the input", output.display()), "give the output another name"))
}

/// What [`abandon`] removes.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes everything that is half-written, for a process that is about to exit. From now on nothing can be begun or
/// committed: whoever tries waits for that exit.
pub fn abandon() {
    let unfinished = unfinished();
    for path in unfinished.iter() {
        // Nobody is left to hear of a failure.
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    std::mem::forget(unfinished);
}

/// A path that is on the list of [`abandon`] for as long as this lives.
pub(crate) struct Unfinished(PathBuf);

impl Unfinished {
    /// Makes a file or folder through `create`, and puts it on the list before anybody can be told to stop.
    pub(crate) fn new<T>(create: impl FnOnce() -> Result<T>, path: impl FnOnce(&T) -> PathBuf) -> Result<(T, Self)> {
        let mut all = unfinished();
        let created = create()?;
        let path = path(&created);
        all.insert(path.clone());
        Ok((created, Self(path)))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
    }
}

/// For tests: where `HELIXGRAD_TEST_KILL_AT` is N, the Nth call ends the process as `kill -9` would. Stands before and behind every
/// change that a command makes to its folder.
pub(crate) fn failpoint() {
    static LEFT: LazyLock<Option<AtomicU64>> =
        LazyLock::new(|| Some(AtomicU64::new(std::env::var("HELIXGRAD_TEST_KILL_AT").ok()?.parse().ok()?)));
    if let Some(left) = &*LEFT
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        #[cfg(unix)]
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        std::process::abort();
    }
}

/// A file written beside its final name, synced and renamed by [`AtomicFile::commit`].
/// Dropped without a commit, it leaves nothing behind.
pub struct AtomicFile {
    path: PathBuf,
    writer: BufWriter<File>,
    staging: TempPath,
    unfinished: Unfinished,
}

impl AtomicFile {
    /// Starts writing `path`; its folder is created where it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be created or written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Self::create_in(path.as_ref(), None)
    }

    /// As [`AtomicFile::create`], but written in the folder `staging`, which exists, where that lies beside the final name: elsewhere may
    /// be another file system.
    pub(crate) fn create_in(path: &Path, staging: Option<&Path>) -> Result<Self> {
        let mut path = path.to_owned();
        if path.is_symlink() {
            // The link stays; what it points to is replaced.
            path = fs::canonicalize(&path).map_err(Error::io("follow the link", &path))?;
        }
        if path.exists() && !path.is_file() && !path.is_dir() {
            return Err(Error::usage(
                format!("the output {} is a device or a pipe", path.display()),
                "name a regular file; results are printed where no output file is asked for",
            ));
        }
        if path.is_dir() {
            return Err(Error::usage(
                format!("the output {} is a folder", path.display()),
                "name a file that does not exist yet or may be replaced",
            ));
        }
        let folder = parent(&path);
        fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(STAGING_PREFIX).suffix(STAGING_SUFFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o644));
        }
        let real = |folder: &Path| fs::canonicalize(folder).ok();
        let staging = staging.filter(|staging| real(&parent(staging)) == real(&folder)).unwrap_or(&folder);
        failpoint();
        let create = || builder.tempfile_in(staging).map_err(Error::io("write beside", &path));
        let (file, unfinished) = Unfinished::new(create, |file| file.path().to_owned())?;
        // What is written to the parts gives errors without the staging file's name, which nobody asked about.
        let (file, staging) = file.into_parts();
        Ok(Self { path, writer: BufWriter::with_capacity(1 << 20, file), staging, unfinished })
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file being written, for a library that wants a path to write to.
    pub fn staging_path(&self) -> &Path {
        &self.staging
    }

    /// Replaces the first bytes of what was written: a header that had to wait for the last row.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn rewrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        let Self { path, writer, .. } = self;
        let rewritten = writer
            .seek(SeekFrom::Start(0))
            .and_then(|_| writer.write_all(bytes))
            .and_then(|()| writer.seek(SeekFrom::End(0)));
        rewritten.map(drop).map_err(Error::io("write", path))
    }

    /// Flushes, syncs and renames the file to its final name.
    ///
    /// # Errors
    /// [`Error::Io`], a full disk among the causes; nothing remains under the final name then.
    pub fn commit(self) -> Result<()> {
        let Self { path, writer, staging, unfinished: staged } = self;
        let file = writer.into_inner().map_err(|error| Error::io("write", &path)(error.into_error()))?;
        file.sync_all().map_err(Error::io("write", &path))?;
        failpoint();
        {
            let _nobody_stops_here = unfinished();
            staging.persist(&path).map_err(|error| Error::io("rename into place", &path)(error.error))?;
        }
        failpoint();
        drop(staged);
        sync_folder(&parent(&path));
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Writes a whole file atomically.
///
/// # Errors
/// As [`AtomicFile`].
pub fn write_atomic(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<()> {
    let path = path.as_ref();
    let mut file = AtomicFile::create(path)?;
    file.write_all(contents.as_ref()).map_err(Error::io("write", path))?;
    file.commit()
}

/// The folder a path lies in; "." for a bare file name.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes a rename durable. Some file systems refuse to sync a folder; the rename is atomic all the same.
fn sync_folder(folder: &Path) {
    if let Ok(handle) = File::open(folder) {
        let _ = handle.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_appears_without_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.txt");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        write_atomic(&path, "whole").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
    }
}
