//! The program as a user runs it. A test takes what it needs: `mod program;`.

#![allow(dead_code, reason = "no test needs all of it")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub fn helixgrad(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_helixgrad")).args(arguments).output().unwrap()
}

/// Runs a command that must succeed without a word on stderr, and returns what `--json` printed.
pub fn json(arguments: &[&str]) -> Value {
    let output = helixgrad(&[arguments, &["--json", "--quiet"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    assert!(stderr.is_empty(), "{arguments:?} is quiet, but: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that must fail as bad input does, and returns its message.
pub fn refused(arguments: &[&str]) -> String {
    let output = helixgrad(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// A folder of a test's own, with paths as the command line takes them.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file, with the folders above it, and returns its path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}
