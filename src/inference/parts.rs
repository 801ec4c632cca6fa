//! Files that grew while work was done, read as wholes when it ends: those of one working folder, or those of all shards end to end.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::output::AtomicFile;
use crate::{Error, Result};

/// Numbered files, each in one or several pieces.
pub struct Parts {
    /// By file: where its pieces lie.
    files: Vec<Vec<PathBuf>>,
    /// The working folder, where results are written before they get their names.
    staging: Option<PathBuf>,
}

impl Parts {
    pub(super) fn new(files: Vec<Vec<PathBuf>>, staging: Option<&Path>) -> Self {
        Self { files, staging: staging.map(Path::to_owned) }
    }

    /// File `index` from its beginning to its end.
    pub fn read(&self, index: usize) -> impl Read + Send + use<> {
        Pieces { left: self.files[index].clone().into_iter(), open: None }
    }

    /// Where the pieces of file `index` lie.
    pub fn pieces(&self, index: usize) -> &[PathBuf] {
        &self.files[index]
    }

    /// Whether there is nothing in file `index`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_empty(&self, index: usize) -> Result<bool> {
        for path in &self.files[index] {
            if fs::metadata(path).map_err(Error::io("read", path))?.len() > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies file `index` to its final name, with `end` behind it. May be done again after a kill.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish(&self, index: usize, to: &Path, end: &[u8]) -> Result<()> {
        self.write(to, self.read(index).chain(end))
    }

    /// Writes another result. May be done again after a kill, which leaves its half in the working folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, to: &Path, mut contents: impl Read) -> Result<()> {
        let mut file = AtomicFile::create_in(to, self.staging.as_deref())?;
        io::copy(&mut contents, &mut file).map_err(Error::io("write", to))?;
        file.commit()
    }
}

/// Pieces of a file, each opened when it is reached: there may be more than a process may have open.
struct Pieces {
    left: std::vec::IntoIter<PathBuf>,
    open: Option<File>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.left.next() else { return Ok(0) };
                let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                self.open = Some(File::open(&path).map_err(told)?);
            }
            if let Some(file) = &mut self.open {
                let read = file.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            self.open = None;
        }
    }
}
