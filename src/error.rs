//! The library's error: what was found, where, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// A result with this library's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, told so that a user can act on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or one of its records is not what it should be.
    #[error("{}{}{place}: {found}\n  what to do: {remedy}", path.display(), if place.is_empty() { "" } else { ", " })]
    Input {
        /// The file that was read.
        path: PathBuf,
        /// Line, record or byte offset inside the file; empty when the whole file is meant.
        place: String,
        /// What was found there.
        found: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// Options that do not fit together, or a value outside its range.
    #[error("{found}\n  what to do: {remedy}")]
    Usage {
        /// What was asked for.
        found: String,
        /// What to ask for instead.
        remedy: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy_for(source))]
    Io {
        /// The attempted operation, as a verb: "read", "create", "rename".
        action: &'static str,
        /// The file it was attempted on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A device has not as much memory as was asked for.
    #[error("{0}")]
    OutOfMemory(Box<Shortage>),
    /// The computation itself failed (a loss that is not a number, say).
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C; whatever could be saved has been saved.
    #[error("interrupted{0}")]
    Interrupted(String),
}

/// What is known of a device that has not enough memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// The device.
    pub device: String,
    /// Bytes that were asked for.
    pub needed: usize,
    /// Bytes that are free.
    pub free: usize,
    /// Bytes that the device has.
    pub total: usize,
    /// What the bytes were for; empty where nobody has said.
    pub purpose: String,
    /// What holds memory already, and how many bytes.
    pub held: Vec<(&'static str, usize)>,
    /// What the user can do about it.
    pub remedy: &'static str,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let purpose = if self.purpose.is_empty() { "the next step" } else { &self.purpose };
        let (needed, free, total) = (size(self.needed), size(self.free), size(self.total));
        write!(f, "out of memory on {}: {purpose} takes {needed} more, and {free} of {total} are free", self.device)?;
        let held: Vec<String> = self.held.iter().map(|(what, bytes)| format!("{what} {}", size(*bytes))).collect();
        if !held.is_empty() {
            write!(f, "\n  held so far: {}", held.join(", "))?;
        }
        let remedy = if self.remedy.is_empty() { "use a device with more memory" } else { self.remedy };
        write!(f, "\n  what to do: {remedy}")
    }
}

/// What to do about an answer of the system that does not say it itself.
fn remedy_for(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "\n  what to do: check the path",
        io::ErrorKind::IsADirectory => "\n  what to do: this is a folder; name a file, perhaps one in it",
        io::ErrorKind::AlreadyExists => "\n  what to do: a file is in the way; name another place",
        io::ErrorKind::NotADirectory => "\n  what to do: a part of the path is a file; check the path",
        io::ErrorKind::PermissionDenied => "\n  what to do: change its permissions, or name another place",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "\n  what to do: make room, or name another place",
        io::ErrorKind::ReadOnlyFilesystem => "\n  what to do: name another place",
        // EMFILE and ENFILE, which have no kind of their own.
        _ if matches!(source.raw_os_error(), Some(23 | 24)) => {
            "\n  what to do: raise the limit of open files (ulimit -n), or close other programs"
        }
        _ => "",
    }
}

/// A number of bytes for people.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

impl Error {
    /// Says of an [`Error::OutOfMemory`] what the memory was for, and what to do; leaves other errors as they are.
    #[must_use]
    pub fn needed_for(mut self, purpose: impl Into<String>, remedy: &'static str) -> Self {
        if let Self::OutOfMemory(shortage) = &mut self {
            shortage.purpose = purpose.into();
            shortage.remedy = remedy;
        }
        self
    }

    /// Says of an [`Error::OutOfMemory`] what holds memory already; leaves other errors as they are.
    #[must_use]
    pub fn beside(mut self, held: impl FnOnce() -> Vec<(&'static str, usize)>) -> Self {
        if let Self::OutOfMemory(shortage) = &mut self {
            shortage.held = held();
        }
        self
    }

    /// An [`Error::Input`] at `place` in `path`.
    pub fn input(
        path: impl AsRef<Path>,
        place: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Input { path: path.as_ref().to_owned(), place: place.into(), found: found.into(), remedy: remedy.into() }
    }

    /// An [`Error::Usage`].
    pub fn usage(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { found: found.into(), remedy: remedy.into() }
    }

    /// Turns an [`io::Error`] into an [`Error::Io`] that names the file: `.map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Says of an [`Error::Usage`] that it is about what a file holds; leaves other errors as they are.
    #[must_use]
    pub fn about(self, path: &Path) -> Self {
        match self {
            Self::Usage { found, remedy } => Self::input(path, "", found, remedy),
            other => other,
        }
    }

    /// Tells an error about a file in the folder `from` as one about the same file in `to`, which `from` was to become.
    #[must_use]
    pub fn moved(mut self, from: &Path, to: &Path) -> Self {
        if let Self::Input { path, .. } | Self::Io { path, .. } = &mut self
            && let Ok(inside) = path.strip_prefix(from)
        {
            *path = to.join(inside);
        }
        self
    }

    /// The process exit code: 2 for bad usage, bad input and files that cannot be read or written, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input { .. } | Self::Usage { .. } | Self::Io { .. } => 2,
            Self::Failed(_) | Self::OutOfMemory(_) => 1,
            Self::Interrupted(_) => 130,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_have_a_remedy() {
        let error = Error::io("open", "x.2bit")(io::Error::from_raw_os_error(24));
        assert!(error.to_string().contains("what to do: raise the limit of open files (ulimit -n)"), "{error}");
    }
}
