//! Outputs appear under their final name only when they are complete, and a process that is told to stop leaves no half of
//! one behind.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{TempDir, TempPath};

use crate::{Error, Result};

const STAGING_PREFIX: &str = ".helixgrad-";
const STAGING_SUFFIX: &str = ".tmp";

/// Whether a file or folder of this name is one that this module had not finished writing or removing.
pub fn is_staging(name: &str) -> bool {
    name.starts_with(STAGING_PREFIX) && (name.ends_with(STAGING_SUFFIX) || name.ends_with(".old"))
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
        let mut path = path.as_ref().to_owned();
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
        let create = || builder.tempfile_in(&folder).map_err(Error::io("write beside", &path));
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
        {
            let _nobody_stops_here = unfinished();
            staging.persist(&path).map_err(|error| Error::io("rename into place", &path)(error.error))?;
        }
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

/// Fills a new folder through `fill` and renames it to `path` when that succeeded. A folder already there is replaced:
/// the old one is moved aside first and removed last, so a crash leaves at least one of the two complete. For names that
/// no user chose; [`FolderKind::write`] is for those that one did.
///
/// # Errors
/// [`Error::Io`], or whatever `fill` returns.
pub fn write_folder_atomic(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::usage(format!("{} is a file", path.display()), "name a folder"));
    }
    let folder = parent(path);
    fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
    let (staging, staged) = staging_folder(path)?;
    fill(staging.path()).map_err(|error| error.moved(staging.path(), path))?;
    sync_folder(staging.path());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(staging.path(), mode).map_err(Error::io("set permissions of", path))?;
    }
    let replaces = path.exists();
    let (old, _aside) = Unfinished::new(|| Ok(staging.path().with_extension("old")), PathBuf::clone)?;
    {
        let _nobody_stops_here = unfinished();
        if replaces {
            fs::rename(path, &old).map_err(Error::io("move aside", path))?;
        }
        let renamed = fs::rename(staging.keep(), path);
        if renamed.is_err() && replaces {
            let _ = fs::rename(&old, path);
        }
        renamed.map_err(Error::io("rename into place", path))?;
    }
    drop(staged);
    if replaces {
        fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
    }
    sync_folder(&folder);
    Ok(())
}

/// A folder beside `path` that is gone when it is dropped.
fn staging_folder(path: &Path) -> Result<(TempDir, Unfinished)> {
    let create = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(STAGING_PREFIX).suffix(STAGING_SUFFIX);
        builder.tempdir_in(parent(path)).map_err(Error::io("write beside", path))
    };
    Unfinished::new(create, |folder| folder.path().to_owned())
}

/// Removes a folder under a name that says so: one that is half removed is known as such.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_folder(path: &Path) -> Result<()> {
    let (aside, _unfinished) = staging_folder(path)?;
    fs::rename(path, aside.path().join("removed")).map_err(Error::io("move aside", path))?;
    aside.close().map_err(Error::io("remove", path))
}

/// Removes what killed processes left half-written or half-removed in `folder`.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_debris(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let path = entry.map_err(Error::io("read the folder", folder))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_staging) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// A kind of folder that a command fills, known by the files in it: such a folder is replaced by the next one of its kind,
/// and nothing else ever is.
pub struct FolderKind {
    /// What lies in it, with its article: "a profile".
    pub what: &'static str,
    /// The file that every one of them has, and no folder of a user's own.
    pub marker: &'static str,
    /// Whether a file of this name belongs to it, too.
    pub holds: fn(&str) -> bool,
}

impl FolderKind {
    /// Refuses a folder with anything else in it. A missing or an empty one is fine.
    ///
    /// # Errors
    /// [`Error::Usage`] that names what was found; [`Error::Io`].
    pub fn check(&self, path: &Path) -> Result<()> {
        if !path.is_dir() {
            return Ok(());
        }
        let is_marked = path.join(self.marker).is_file();
        for entry in fs::read_dir(path).map_err(Error::io("read the folder", path))? {
            let entry = entry.map_err(Error::io("read the folder", path))?;
            let name = entry.file_name();
            let is_folder = entry.file_type().map_err(Error::io("read the folder", path))?.is_dir();
            if name.to_str().is_some_and(is_staging) {
                continue;
            }
            let is_ours = name.to_str().is_some_and(|name| name == self.marker || (self.holds)(name));
            if !is_marked || is_folder || !is_ours {
                return Err(Error::usage(
                    format!("{} holds {:?}, and is no folder of {}", path.display(), name.to_string_lossy(), self.what),
                    "name a new folder with --out, or an earlier one of this command, which is replaced",
                ));
            }
        }
        Ok(())
    }

    /// Fills the folder `path` through `fill`, whole or not at all, in place of an earlier one.
    ///
    /// # Errors
    /// As [`FolderKind::check`], [`Error::Io`], or whatever `fill` returns.
    pub fn write(&self, path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.check(path)?;
        write_folder_atomic(path, fill)
    }
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

    #[test]
    fn only_a_folder_of_the_same_kind_is_replaced() {
        let kind = FolderKind { what: "a table", marker: "a.json", holds: |name| name.starts_with("part_") };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table");
        let write = || {
            kind.write(&path, |dir| {
                write_atomic(dir.join("a.json"), "{}")?;
                write_atomic(dir.join("part_1"), "1")
            })
        };
        write().unwrap();
        write().unwrap();
        for foreign in ["notes.txt", "part_2/inner"] {
            let file = path.join(foreign);
            write_atomic(&file, "mine").unwrap();
            assert!(write().unwrap_err().to_string().contains("no folder of a table"));
            assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
            fs::remove_file(&file).unwrap();
            let _ = fs::remove_dir(file.parent().unwrap());
        }
        write().unwrap();
        fs::remove_file(path.join("a.json")).unwrap();
        assert!(write().unwrap_err().to_string().contains("part_1"), "a file of our name alone may be a user's");
        fs::remove_file(path.join("part_1")).unwrap();
        write().unwrap();
    }

    #[test]
    fn a_folder_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let write = |text: &'static str| move |dir: &Path| write_atomic(dir.join("x"), text);
        write_folder_atomic(&path, write("one")).unwrap();
        let failing = write_folder_atomic(&path, |dir| {
            write_atomic(dir.join("x"), "two")?;
            Err(Error::Failed("stop".into()))
        });
        assert!(failing.is_err());
        assert_eq!(fs::read_to_string(path.join("x")).unwrap(), "one");
        write_folder_atomic(&path, write("three")).unwrap();
        assert_eq!(fs::read_to_string(path.join("x")).unwrap(), "three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
