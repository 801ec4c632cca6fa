//! What parsing can say.

/// PTX that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {finding}")]
pub struct Error {
    line: u32,
    finding: String,
}

impl Error {
    pub(crate) fn new(line: u32, finding: impl Into<String>) -> Self {
        Self { line, finding: finding.into() }
    }

    /// Line in the PTX text, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }
}
