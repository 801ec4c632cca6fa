//! Folders that appear whole or not at all, take each other's place, and leave nothing behind.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{
    ASIDE_SUFFIX, STAGING_PREFIX, STAGING_SUFFIX, Unfinished, failpoint, is_staging, parent, sync_folder, unfinished,
};
use crate::{Error, Result};

/// Fills a new folder through `fill` and renames it to `path` when that succeeded. A folder already there is replaced: the
/// two exchange their names, and the old one is removed. For names that no user chose; [`FolderKind::write`] is for those
/// that one did.
///
/// # Errors
/// [`Error::Io`], or whatever `fill` returns.
pub fn write_folder_atomic(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::usage(format!("{} is a file", path.display()), "name a folder"));
    }
    let folder = parent(path);
    fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
    put_back(path)?;
    let (staging, staged) = staging_folder(path)?;
    failpoint();
    fill(staging.path()).map_err(|error| error.moved(staging.path(), path))?;
    sync_folder(staging.path());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(staging.path(), mode).map_err(Error::io("set permissions of", path))?;
    }
    if path.exists() {
        {
            let _nobody_stops_here = unfinished();
            exchange(staging.path(), path).map_err(Error::io("put a new folder in the place of", path))?;
        }
        failpoint();
        sync_folder(&folder);
        // The old folder has the staging name now.
        staging.close().map_err(Error::io("remove what was replaced by", path))?;
    } else {
        let _nobody_stops_here = unfinished();
        fs::rename(staging.path(), path).map_err(Error::io("rename into place", path))?;
        let _its_old_name = staging.keep();
    }
    failpoint();
    drop(staged);
    sync_folder(&folder);
    Ok(())
}

/// Exchanges the names of two folders that lie side by side: in one step where the system and the file system know how
/// (Linux, and there ext4, XFS, Btrfs, tmpfs and others), else by [`renames`].
fn exchange(staging: &Path, path: &Path) -> io::Result<()> {
    match exchange_at_once(staging, path) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        other => return other,
    }
    let [first, second, third] = renames(staging, path);
    fs::rename(&first.0, &first.1)?;
    if let Err(error) = fs::rename(&second.0, &second.1) {
        let _ = fs::rename(&first.1, &first.0);
        return Err(error);
    }
    fs::rename(&third.0, &third.1)
}

/// [`io::ErrorKind::Unsupported`] where this cannot be done.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn exchange_at_once(one: &Path, other: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE) {
        // The file system has no such exchange, or the kernel no such call.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
        done => done.map_err(io::Error::from),
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn exchange_at_once(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The renames, in order, that stand in for an exchange. Between the first and the second nothing has the name `path`: a
/// process that is killed there leaves the old folder under a name from which [`put_back`] knows where it belongs.
fn renames(staging: &Path, path: &Path) -> [(PathBuf, PathBuf); 3] {
    let aside = aside(path);
    [(path.to_owned(), aside.clone()), (staging.to_owned(), path.to_owned()), (aside, staging.to_owned())]
}

/// Where the folder `path` is put while another one takes its place.
fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(STAGING_PREFIX);
    name.push(path.file_name().unwrap_or_default());
    name.push(ASIDE_SUFFIX);
    path.with_file_name(name)
}

/// Gives a folder that a killed process had moved aside its name again; removes it if another one has that name.
fn put_back(path: &Path) -> Result<()> {
    let aside = aside(path);
    if !aside.exists() {
        return Ok(());
    }
    if path.exists() {
        return fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside));
    }
    fs::rename(&aside, path).map_err(Error::io("put back", path))
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
    failpoint();
    fs::rename(path, aside.path().join("removed")).map_err(Error::io("move aside", path))?;
    failpoint();
    aside.close().map_err(Error::io("remove", path))
}

/// Removes what killed processes left half-written, half-replaced or half-removed in `folder`. A folder that was moved aside
/// and has no successor is put back.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_debris(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read the folder", folder))? {
        let path = entry.map_err(Error::io("read the folder", folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_staging(name)) else {
            continue;
        };
        let own_name = name.strip_prefix(STAGING_PREFIX).and_then(|name| name.strip_suffix(ASIDE_SUFFIX));
        if let Some(own_name) = own_name.filter(|name| !name.is_empty()) {
            put_back(&folder.join(own_name))?;
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
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
                    "name a new folder with --out",
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::write_atomic;
    use super::*;

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

    /// A folder with one file, and another one with another, for [`exchange`].
    fn two_folders(folder: &Path) -> [PathBuf; 2] {
        let [staging, path] = [".helixgrad-x.tmp", "best"].map(|name| folder.join(name));
        write_atomic(staging.join("x"), "new").unwrap();
        write_atomic(path.join("x"), "old").unwrap();
        [staging, path]
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn a_replaced_folder_is_there_at_every_moment() {
        let folder = tempfile::tempdir().unwrap();
        let [staging, path] = two_folders(folder.path());
        if exchange_at_once(&staging, &path).is_err_and(|error| error.kind() == io::ErrorKind::Unsupported) {
            eprintln!("skipped: {} is on a file system that cannot exchange two names", path.display());
            return;
        }
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(path.exists(), "a kill in this moment leaves nothing under the name");
                }
            });
            for _ in 0..100 {
                write_folder_atomic(&path, |dir| write_atomic(dir.join("x"), "new")).unwrap();
            }
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_process_killed_between_the_renames_loses_nothing() {
        let contents = |path: &Path| fs::read_to_string(path.join("x")).unwrap();
        for killed_after in 0..=3 {
            let expected = if killed_after < 2 { "old" } else { "new" };
            let begin = || {
                let folder = tempfile::tempdir().unwrap();
                let [staging, path] = two_folders(folder.path());
                renames(&staging, &path).iter().take(killed_after).for_each(|(from, to)| fs::rename(from, to).unwrap());
                (folder, path)
            };
            let (folder, path) = begin();
            remove_debris(folder.path()).unwrap();
            assert_eq!(contents(&path), expected, "after {killed_after} renames");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "after {killed_after} renames");
            // Nobody clears a user's own folder: the next one written there does.
            let (_folder, path) = begin();
            let failing = write_folder_atomic(&path, |_| Err(Error::Failed("stop".into())));
            assert!(failing.is_err());
            assert_eq!(contents(&path), expected, "after {killed_after} renames");
            write_folder_atomic(&path, |dir| write_atomic(dir.join("x"), "newer")).unwrap();
            assert_eq!(contents(&path), "newer");
            assert!(!aside(&path).exists());
        }
    }
}
