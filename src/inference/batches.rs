//! Where a stream of windows is cut into what is computed together. A cut depends on the windows since the last group began, and on
//! nothing else: not on the number of threads, nor on where a shard begins.

/// Cuts into batches of at most so much, or of one window.
pub struct Batches {
    most: usize,
    held: usize,
}

impl Batches {
    /// Of at most `most`, in bases or tokens.
    pub fn new(most: usize) -> Self {
        Self { most, held: 0 }
    }

    /// Whether the next window, of this size, begins a batch.
    pub fn begins(&mut self, size: usize) -> bool {
        let begins = self.held == 0 || self.held + size > self.most;
        self.held = if begins { size } else { self.held + size };
        begins
    }

    /// The next window begins a batch, whatever its size.
    pub fn restart(&mut self) {
        self.held = 0;
    }
}

/// Cuts into groups of whole sequences: a group begins a batch, so a shard may begin with it.
pub struct Groups {
    least: usize,
    held: usize,
}

impl Groups {
    /// Of at least so many bases.
    pub fn new(least: usize) -> Self {
        Self { least, held: least }
    }

    /// Whether the next sequence, of so many bases, begins a group.
    pub fn begins(&mut self, bases: usize) -> bool {
        let begins = self.held >= self.least;
        self.held = if begins { bases } else { self.held + bases };
        begins
    }
}
