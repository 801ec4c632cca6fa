//! The working folder of a scan, `.partial` inside its output folder: files that grow, and a state that says how much of
//! them counts. A killed scan goes on from the last state; what was written after it is cut off.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::output::{remove_debris, write_atomic};
use crate::small_file;
use crate::{Error, Result};

/// The working folder, inside the output folder.
pub const FOLDER: &str = ".partial";
const STATE: &str = "state.json";
const LOCK: &str = "lock";

/// A state is saved no more often than this, and takes no more than a twentieth of the time.
const INTERVAL: Duration = Duration::from_secs(1);
const LARGEST_SHARE: u32 = 20;

/// The growing files of a scan and its state.
pub struct Journal {
    folder: PathBuf,
    files: Vec<(PathBuf, BufWriter<File>)>,
    fingerprint: Value,
    saved: Instant,
    interval: Duration,
    /// Held, not read.
    _lock: File,
}

/// Whether `out` holds a scan that was begun and not finished.
pub fn is_interrupted(out: &Path) -> bool {
    out.join(FOLDER).join(STATE).is_file()
}

impl Journal {
    /// Begins a scan with empty files of these names, or goes on with one: then also returns its last state.
    /// `fingerprint` holds everything that the results depend on.
    ///
    /// # Errors
    /// [`Error::Usage`] if another scan is writing there, if the one to go on with had another fingerprint, or if there is
    /// none; [`Error::Input`] for damaged files; [`Error::Io`].
    pub fn open<S: DeserializeOwned>(
        out: &Path,
        names: &[&str],
        fingerprint: Value,
        resume: bool,
    ) -> Result<(Self, Option<S>)> {
        if resume && !is_interrupted(out) {
            return Err(Error::usage(
                format!("--resume, but {} has no interrupted scan", out.display()),
                "leave --resume out to begin one",
            ));
        }
        let folder = out.join(FOLDER);
        fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
        let lock = lock(&folder)?;
        // What a kill left behind while results were being put into their places.
        remove_debris(out)?;
        let saved = if resume { Some(read_state(&folder, &fingerprint)?) } else { None };
        let state = folder.join(STATE);
        if !resume && state.exists() {
            fs::remove_file(&state).map_err(Error::io("remove", &state))?;
        }
        let mut files = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let path = folder.join(name);
            let length = saved.as_ref().map_or(Some(0), |state| state["lengths"][index].as_u64());
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(Error::io("open", &path))?;
            let present = file.metadata().map_err(Error::io("read", &path))?.len();
            let length = length.filter(|&length| length <= present).ok_or_else(|| damaged(&path, "it is cut short"))?;
            file.set_len(length).map_err(Error::io("write", &path))?;
            file.seek(SeekFrom::End(0)).map_err(Error::io("write", &path))?;
            files.push((path, BufWriter::new(file)));
        }
        let state = match saved {
            Some(mut state) => {
                let state = serde_json::from_value(state["state"].take());
                Some(state.map_err(|error| damaged(&folder.join(STATE), &error.to_string()))?)
            }
            None => None,
        };
        Ok((Self { folder, files, fingerprint, saved: Instant::now(), interval: INTERVAL, _lock: lock }, state))
    }

    /// Appends to file `index`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, index: usize, text: &str) -> Result<()> {
        let (path, file) = &mut self.files[index];
        file.write_all(text.as_bytes()).map_err(Error::io("write", &*path))
    }

    /// Whether the last state is old enough for another one.
    pub fn is_due(&self) -> bool {
        self.saved.elapsed() >= self.interval
    }

    /// Makes everything appended so far, and `state` with it, what a resumed scan goes on from.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save<S: Serialize>(&mut self, state: &S) -> Result<()> {
        let started = Instant::now();
        let mut lengths = Vec::with_capacity(self.files.len());
        for (path, file) in &mut self.files {
            let length = file.flush().and_then(|()| {
                file.get_ref().sync_data()?;
                file.get_mut().stream_position()
            });
            lengths.push(length.map_err(Error::io("write", &*path))?);
        }
        let state = json!({ "fingerprint": self.fingerprint, "lengths": lengths, "state": state });
        write_atomic(self.folder.join(STATE), state.to_string())?;
        self.saved = Instant::now();
        self.interval = INTERVAL.max(LARGEST_SHARE * started.elapsed());
        Ok(())
    }

    /// The path of file `index`, for reading once everything is saved.
    pub fn path(&self, index: usize) -> &Path {
        &self.files[index].0
    }

    /// Removes the working folder: the results are in their places.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        // The state goes first: without it, what a kill leaves behind is no interrupted scan.
        let state = self.folder.join(STATE);
        fs::remove_file(&state).map_err(Error::io("remove", &state))?;
        fs::remove_dir_all(&self.folder).map_err(Error::io("remove", &self.folder))
    }
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let lock = File::create(&path).map_err(Error::io("create", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::usage(
            format!("another scan is writing to {}", folder.display()),
            "wait for it, or name another folder",
        )),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::input(
        path,
        "",
        format!("the working file of an interrupted scan is damaged: {what}"),
        "remove the folder and scan anew",
    )
}

fn read_state(folder: &Path, fingerprint: &Value) -> Result<Value> {
    let path = folder.join(STATE);
    let text = small_file::read(&path)?;
    let state: Value = serde_json::from_str(&text).map_err(|error| damaged(&path, &error.to_string()))?;
    let before = state["fingerprint"].as_object().ok_or_else(|| damaged(&path, "no fingerprint"))?;
    let differing = fingerprint.as_object().into_iter().flatten().find(|(key, value)| before.get(*key) != Some(value));
    match differing {
        None => Ok(state),
        Some((key, value)) => {
            let was = before.get(key).unwrap_or(&Value::Null);
            Err(Error::usage(
                format!("--resume with another {key} than the interrupted scan: {value}, and then it was {was}"),
                "give the options of the interrupted scan, or another folder",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_saved_is_cut_off() {
        let out = tempfile::tempdir().unwrap();
        let print = || json!({ "model": "a" });
        let open = |resume| Journal::open::<u64>(out.path(), &["one", "two"], print(), resume);
        assert!(open(true).err().unwrap().to_string().contains("no interrupted scan"));
        let (mut journal, state) = open(false).unwrap();
        assert!(state.is_none() && !is_interrupted(out.path()));
        assert!(open(false).err().unwrap().to_string().contains("another scan is writing"));
        journal.append(0, "kept ").unwrap();
        journal.save(&7_u64).unwrap();
        journal.append(0, "lost").unwrap();
        journal.append(1, "lost").unwrap();
        drop(journal);
        assert!(is_interrupted(out.path()));
        let other = Journal::open::<u64>(out.path(), &["one", "two"], json!({ "model": "b" }), true);
        assert!(other.err().unwrap().to_string().contains("another model"));
        let (mut journal, state) = open(true).unwrap();
        assert_eq!(state, Some(7));
        journal.append(0, "again").unwrap();
        journal.save(&8_u64).unwrap();
        assert_eq!(fs::read_to_string(journal.path(0)).unwrap(), "kept again");
        assert_eq!(fs::read_to_string(journal.path(1)).unwrap(), "");
        fs::write(journal.path(0), "cut").unwrap();
        drop(journal);
        assert!(open(true).err().unwrap().to_string().contains("damaged"));
        let (journal, state) = open(false).unwrap();
        assert!(state.is_none());
        drop(journal);
        fs::write(out.path().join(".partial/state.json"), "{").unwrap();
        assert!(open(true).err().unwrap().to_string().contains("damaged"));
    }
}
