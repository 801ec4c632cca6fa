//! What goes wrong in a kernel, and where.

use std::fmt;

use serde::Serialize;

use crate::syntax::{File, Location};

/// A kernel's error: what, and where it was found.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Fault {
    /// Name of the kernel.
    pub kernel: String,
    /// Coordinates of the block in the grid.
    pub block: Option<[u32; 3]>,
    /// Number of the warp in its block.
    pub warp: Option<u32>,
    /// Lane of the warp, where one alone is concerned.
    pub lane: Option<u32>,
    /// Line of the instruction in the PTX text.
    pub line: Option<u32>,
    /// Files and lines of the source, from the innermost call out, if the PTX was made with `-lineinfo`.
    pub source: Vec<(String, u32)>,
    /// What was found.
    pub finding: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "kernel {}", self.kernel)?;
        if let Some([x, y, z]) = self.block {
            write!(f, ", block ({x}, {y}, {z})")?;
        }
        if let Some(warp) = self.warp {
            write!(f, ", warp {warp}")?;
        }
        if let Some(lane) = self.lane {
            write!(f, ", lane {lane}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", PTX line {line}")?;
        }
        for (number, (file, line)) in self.source.iter().enumerate() {
            write!(f, "{} {file}:{line}", if number == 0 { "," } else { " in" })?;
        }
        write!(f, ": {}", self.finding)
    }
}

impl std::error::Error for Fault {}

/// What an instruction found, before it is known where that was.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub text: String,
    pub lane: Option<usize>,
}

impl From<String> for Finding {
    fn from(text: String) -> Self {
        Self { text, lane: None }
    }
}

impl From<&str> for Finding {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Names the lane that something is wrong with.
pub(crate) trait InLane<T> {
    fn in_lane(self, lane: usize) -> Result<T, Finding>;
}

impl<T, E: Into<Finding>> InLane<T> for Result<T, E> {
    fn in_lane(self, lane: usize) -> Result<T, Finding> {
        self.map_err(|why| Finding { lane: Some(lane), ..why.into() })
    }
}

/// The source lines of a location, from the innermost call out.
pub(crate) fn source_lines(file: &File, location: u32) -> Vec<(String, u32)> {
    let mut lines = Vec::new();
    let mut next = Some(location);
    // An inlined call stands before what was inlined; the limit is for files that say otherwise.
    while let (Some(number), true) = (next, lines.len() < 32) {
        let Some(Location { file: source, line, inlined_at }) = file.locations.get(number as usize).copied() else {
            break;
        };
        if let Some(name) = file.sources.get(&source) {
            lines.push((name.clone(), line));
        }
        next = inlined_at.filter(|outer| *outer != number);
    }
    lines
}
