//! The working folder of long work: files that grow, and a state that says how much of them counts. Work that was killed
//! goes on from the last state; what was written after it is cut off. Checksums tell what was damaged in between.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::{Crc, CrcReader};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::parts::Parts;
use crate::crc32;
use crate::device::DType;
use crate::output::{AtomicFile, Unfinished, failpoint, write_atomic};
use crate::train::checkpoint::Checkpoint;
use crate::{Error, Result};

/// The file that says how much of the others counts.
pub const STATE: &str = "state.json";
/// The file that whoever is at work holds locked.
pub const LOCK: &str = "lock";

/// The first state is saved as soon as there is anything to keep; the others no more often than this, and they take no
/// more than a twentieth of the time.
const INTERVAL: Duration = Duration::from_secs(1);
const LARGEST_SHARE: u32 = 20;

/// The growing files of the work and its state.
pub struct Journal {
    folder: PathBuf,
    files: Vec<Growing>,
    fingerprint: Value,
    /// Until there is a state to go on from: nothing of the folder is to stay.
    begun: Option<Unfinished>,
    saved: Instant,
    interval: Duration,
    /// Held, not read.
    _lock: File,
}

/// A file and the CRC-32 of all that it holds.
struct Growing {
    path: PathBuf,
    file: BufWriter<File>,
    crc: Crc,
}

/// Whether the working folder is one of work that was begun and not finished.
pub fn is_interrupted(folder: &Path) -> bool {
    folder.join(STATE).is_file()
}

/// What tells a model from another: a CRC-32 of its weights, and the type that they are computed with.
///
/// # Errors
/// Those of the device.
pub fn fingerprint(checkpoint: &Checkpoint, dtype: DType) -> Result<Value> {
    let crc = crc32::of(bytemuck::cast_slice(&checkpoint.model.parameters.host_values()?));
    Ok(json!({ "model": format!("{crc:08x}"), "dtype": dtype.name() }))
}

impl Journal {
    /// Begins work in `folder`, with empty files of these names, or goes on with it: then also returns its last state.
    /// Messages call it `what`; `fingerprint` holds everything that its results depend on.
    ///
    /// # Errors
    /// [`Error::Usage`] if another process is at work there, if what is to go on had another fingerprint, or if there is
    /// nothing to go on with; [`Error::Input`] for damaged files; [`Error::Io`].
    pub fn open<S: DeserializeOwned>(
        what: &str,
        folder: &Path,
        names: &[&str],
        fingerprint: Value,
        resume: bool,
    ) -> Result<(Self, Option<S>)> {
        if resume && !folder.is_dir() {
            return Err(Error::usage(
                format!("--resume, but there is no interrupted {what} in {}", folder.display()),
                "leave --resume out to begin one",
            ));
        }
        // What was killed before it had saved anything goes on from its beginning.
        let resume = resume && is_interrupted(folder);
        let folder = folder.to_owned();
        let take = || {
            failpoint();
            fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
            lock(what, &folder)
        };
        let (lock, begun) = match resume {
            true => (take()?, None),
            false => Unfinished::new(take, |_| folder.clone()).map(|(lock, begun)| (lock, Some(begun)))?,
        };
        let saved = if resume { Some(read_state(what, &folder, &fingerprint)?) } else { None };
        let state = folder.join(STATE);
        if !resume && state.exists() {
            fs::remove_file(&state).map_err(Error::io("remove", &state))?;
        }
        failpoint();
        let mut files = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let path = folder.join(name);
            let number = |of: &str| saved.as_ref().map_or(Some(0), |state| state[of][index].as_u64());
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(Error::io("open", &path))?;
            let present = file.metadata().map_err(Error::io("read", &path))?.len();
            let length = number("lengths").filter(|&length| length <= present);
            let length = length.ok_or_else(|| damaged(what, &path, "it is cut short"))?;
            file.set_len(length).map_err(Error::io("write", &path))?;
            let mut crc = Crc::new();
            let mut reader = CrcReader::new(&mut file);
            io::copy(&mut reader, &mut io::sink()).map_err(Error::io("read", &path))?;
            crc.combine(reader.crc());
            if number("checksums") != Some(crc.sum().into()) {
                return Err(damaged(what, &path, "its checksum is another"));
            }
            files.push(Growing { path, file: BufWriter::new(file), crc });
        }
        let state = match saved {
            Some(mut state) => {
                let state = serde_json::from_value(state["state"].take());
                Some(state.map_err(|error| damaged(what, &folder.join(STATE), &error.to_string()))?)
            }
            None => None,
        };
        let saved = Instant::now();
        Ok((Self { folder, files, fingerprint, begun, saved, interval: Duration::ZERO, _lock: lock }, state))
    }

    /// Appends to file `index`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, index: usize, bytes: impl AsRef<[u8]>) -> Result<()> {
        let Growing { path, file, crc } = &mut self.files[index];
        crc.update(bytes.as_ref());
        file.write_all(bytes.as_ref()).map_err(Error::io("write", &*path))
    }

    /// Whether the last state is old enough for another one.
    pub fn is_due(&self) -> bool {
        self.saved.elapsed() >= self.interval
    }

    /// Makes everything appended so far, and `state` with it, what is gone on from.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save<S: Serialize>(&mut self, state: &S) -> Result<()> {
        self.save_with(state, &None::<()>)
    }

    /// Saves the last state of work whose folder is its result (a shard's). `ending` is what the last step over all shards has to know
    /// besides.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish<S: Serialize, E: Serialize>(&mut self, state: &S, ending: &E) -> Result<()> {
        self.save_with(state, &Some(ending))
    }

    fn save_with<S: Serialize, E: Serialize>(&mut self, state: &S, ending: &Option<E>) -> Result<()> {
        let started = Instant::now();
        let mut files = Vec::with_capacity(self.files.len());
        for Growing { path, file, crc } in &mut self.files {
            let length = file.flush().and_then(|()| {
                file.get_ref().sync_data()?;
                file.get_mut().stream_position()
            });
            files.push((path.as_path(), length.map_err(Error::io("write", &*path))?, crc.sum()));
        }
        write_state(&self.folder, &files, &self.fingerprint, state, ending)?;
        (self.begun, self.saved) = (None, Instant::now());
        self.interval = INTERVAL.max(LARGEST_SHARE * started.elapsed());
        Ok(())
    }

    /// Hands on what came of work that may be asked to stop. If it was, `before`, what stood before that work, is saved first:
    /// what the error says of going on is true.
    ///
    /// # Errors
    /// That of the work, and those of [`Journal::save`].
    pub fn save_if_interrupted<S: Serialize, T>(&mut self, before: &S, outcome: Result<T>) -> Result<T> {
        if let Err(Error::Interrupted(_)) = &outcome {
            self.save(before)?;
        }
        outcome
    }

    /// The working folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files, for reading once everything is saved.
    pub fn parts(&self) -> Parts {
        let files = self.files.iter().map(|file| vec![file.path.clone()]).collect();
        Parts::new(files, Some(&self.folder))
    }

    /// Whether a file can be called `to`.
    ///
    /// # Errors
    /// [`Error::Usage`] if it cannot; [`Error::Io`].
    pub fn check(&self, to: &Path) -> Result<()> {
        AtomicFile::create_in(to, Some(&self.folder)).map(drop)
    }

    /// Removes the working folder: the results are in their places.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        // The state goes first: without it, what a kill leaves behind is no interrupted work.
        let state = self.folder.join(STATE);
        failpoint();
        fs::remove_file(&state).map_err(Error::io("remove", &state))?;
        failpoint();
        fs::remove_dir_all(&self.folder).map_err(Error::io("remove", &self.folder))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.begun.is_some() {
            // Nobody can go on with it, and an error is told by whoever has had one.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn lock(what: &str, folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let lock = File::create(&path).map_err(Error::io("create", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::usage(
            format!("another {what} is writing to {}", folder.display()),
            "wait for it, or name another folder",
        )),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

fn damaged(what: &str, path: &Path, how: &str) -> Error {
    let found = format!("the working file of an interrupted {what} is damaged: {how}");
    Error::input(path, "", found, "remove the folder and begin anew")
}

/// What stands before the content of a state: its checksum.
fn heading(content: &str) -> String {
    format!("{{\"checksum\":\"{:08x}\",\"content\":", crc32::of(content.as_bytes()))
}

fn write_state<S: Serialize, E: Serialize>(
    folder: &Path,
    files: &[(&Path, u64, u32)],
    fingerprint: &Value,
    state: &S,
    ending: &Option<E>,
) -> Result<()> {
    let names: Vec<_> = files.iter().map(|file| file.0.file_name().unwrap_or_default().to_string_lossy()).collect();
    let lengths: Vec<u64> = files.iter().map(|file| file.1).collect();
    let checksums: Vec<u32> = files.iter().map(|file| file.2).collect();
    let content = json!({
        "fingerprint": fingerprint, "files": names, "lengths": lengths, "checksums": checksums, "state": state, "ending": ending,
    });
    let content = content.to_string();
    write_atomic(folder.join(STATE), format!("{}{content}}}", heading(&content)))
}

/// What a state's content is, or what is wrong with the file. A state has counts of all scores: no limit is right for it.
fn content<T: DeserializeOwned>(path: &Path) -> Result<Result<T, String>> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let content = text.get(heading("").len()..).and_then(|content| content.strip_suffix('}')).unwrap_or_default();
    if !text.starts_with(&heading(content)) {
        return Ok(Err("its checksum is another".into()));
    }
    Ok(serde_json::from_str(content).map_err(|error| error.to_string()))
}

fn read_state(what: &str, folder: &Path, fingerprint: &Value) -> Result<Value> {
    let path = folder.join(STATE);
    let state: Value = content(&path)?.map_err(|how| damaged(what, &path, &how))?;
    let before = state["fingerprint"].as_object().ok_or_else(|| damaged(what, &path, "no fingerprint"))?;
    let differing = fingerprint.as_object().into_iter().flatten().find(|(key, value)| before.get(*key) != Some(value));
    match differing {
        None => Ok(state),
        Some((key, value)) => {
            let was = before.get(key).unwrap_or(&Value::Null);
            Err(Error::usage(
                format!("--resume with another {key} than the interrupted {what}: {value}, and then it was {was}"),
                format!("give the options of the interrupted {what}, or another --out"),
            ))
        }
    }
}

/// Refuses a folder of work with another fingerprint.
///
/// # Errors
/// As [`Journal::open`].
pub(super) fn check_fingerprint(what: &str, folder: &Path, fingerprint: &Value) -> Result<()> {
    read_state(what, folder, fingerprint).map(drop)
}

/// Says of files that lie whole in `folder` what [`Journal::finish`] says of files that grew.
///
/// # Errors
/// [`Error::Io`].
pub fn seal<S: Serialize, E: Serialize>(
    folder: &Path,
    names: &[String],
    fingerprint: &Value,
    state: &S,
    ending: &E,
) -> Result<()> {
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    let mut files = Vec::with_capacity(paths.len());
    for path in &paths {
        let (length, crc) = length_and_crc(path)?;
        files.push((path.as_path(), length, crc));
    }
    write_state(folder, &files, fingerprint, state, &Some(ending))
}

/// Bytes of a file, and their CRC-32.
fn length_and_crc(path: &Path) -> Result<(u64, u32)> {
    let mut reader = CrcReader::new(File::open(path).map_err(Error::io("open", path))?);
    let length = io::copy(&mut reader, &mut io::sink()).map_err(Error::io("read", path))?;
    Ok((length, reader.crc().sum()))
}

/// What lies in the folder of a shard, with its counts as `S`.
#[derive(Debug, Deserialize)]
pub(super) struct Folder<S = IgnoredAny> {
    pub(super) fingerprint: Map<String, Value>,
    #[serde(default)]
    files: Vec<String>,
    lengths: Vec<u64>,
    checksums: Vec<u32>,
    pub(super) state: S,
    /// None while there is work left.
    #[serde(default)]
    pub(super) ending: Option<Value>,
}

impl<S: DeserializeOwned> Folder<S> {
    /// Reads what the folder says of its files; they are left for [`Folder::verified`].
    ///
    /// # Errors
    /// [`Error::Input`] for a damaged state; [`Error::Io`].
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        content(&path)?
            .map_err(|how| Error::input(&path, "", format!("damaged: {how}"), "remove the folder and compute it again"))
    }

    /// The paths of its files.
    ///
    /// # Errors
    /// [`Error::Input`] with the file whose length or checksum is not what it was when the work ended; [`Error::Io`].
    pub(super) fn verified(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::with_capacity(self.files.len());
        for ((name, &length), &checksum) in self.files.iter().zip(&self.lengths).zip(&self.checksums) {
            let path = folder.join(name);
            let found = match fs::metadata(&path) {
                Err(_) => Some("missing".to_owned()),
                Ok(data) if data.len() != length => Some(format!("{} bytes, where it had {length}", data.len())),
                Ok(_) => (length_and_crc(&path)?.1 != checksum).then(|| "damaged: its checksum is another".into()),
            };
            if let Some(found) = found {
                return Err(Error::input(&path, "", found, "copy the folder again, or remove it and compute it again"));
            }
            paths.push(path);
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_saved_is_cut_off() {
        let out = tempfile::tempdir().unwrap();
        let print = || json!({ "model": "a" });
        let folder = out.path().join("partial");
        let open = |resume| Journal::open::<u64>("scan", &folder, &["one", "two"], print(), resume);
        assert!(open(true).err().unwrap().to_string().contains("no interrupted scan"));
        drop(open(false).unwrap());
        assert!(!folder.exists(), "nothing to go on with");
        let (mut journal, state) = open(false).unwrap();
        assert!(state.is_none() && !is_interrupted(&folder));
        assert!(open(false).err().unwrap().to_string().contains("another scan is writing"));
        journal.append(0, "kept ").unwrap();
        journal.save(&7_u64).unwrap();
        journal.append(0, "lost").unwrap();
        journal.append(1, "lost").unwrap();
        drop(journal);
        assert!(is_interrupted(&folder));
        let other = Journal::open::<u64>("scan", &folder, &["one", "two"], json!({ "model": "b" }), true);
        assert!(other.err().unwrap().to_string().contains("another model"));
        let (mut journal, state) = open(true).unwrap();
        assert_eq!(state, Some(7));
        journal.append(0, "again").unwrap();
        journal.save(&8_u64).unwrap();
        assert_eq!(fs::read_to_string(folder.join("one")).unwrap(), "kept again");
        assert_eq!(fs::read_to_string(folder.join("two")).unwrap(), "");
        journal.parts().publish(0, &out.path().join("final"), b"!").unwrap();
        assert_eq!(fs::read_to_string(out.path().join("final")).unwrap(), "kept again!");
        let (cut, other) = ("cut", "kept ogain");
        for damage in [cut, other] {
            fs::write(folder.join("one"), damage).unwrap();
            drop(journal);
            let message = open(true).err().unwrap().to_string();
            assert!(message.contains("one: the working file of an interrupted scan is damaged"), "{message}");
            fs::write(folder.join("one"), "kept again and what came later").unwrap();
            journal = open(true).unwrap().0;
        }
        drop(journal);
        let path = folder.join("state.json");
        let text = fs::read_to_string(&path).unwrap();
        for damage in
            [text.replace("\"state\":8", "\"state\":9"), text.replace('}', ""), String::new(), text[1..].to_owned()]
        {
            fs::write(&path, damage).unwrap();
            assert!(open(true).err().unwrap().to_string().contains("state.json: the working file"));
        }
        let (journal, state) = open(false).unwrap();
        assert!(state.is_none());
        drop(journal);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("state.json"), "{").unwrap();
        assert!(open(true).err().unwrap().to_string().contains("damaged"));
    }

    /// Counts of all scores of a genome's scan are more than a hundred megabytes.
    #[test]
    fn a_large_state_is_gone_on_from() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("partial");
        let open = |resume| Journal::open::<String>("scan", &folder, &[], json!({}), resume).unwrap();
        let state = "x".repeat(65 << 20);
        open(false).0.save(&state).unwrap();
        assert!(open(true).1 == Some(state));
    }
}
