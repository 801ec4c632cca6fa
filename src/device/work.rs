//! What a piece of work costs at the least.

/// The bytes that have to cross the memory bus once, and the arithmetic that has to be done: the two numbers behind a
/// roofline. `ops/work.rs` states them for every operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Work {
    /// Bytes read and written, each once.
    pub bytes: f64,
    /// Floating-point additions and multiplications; a function such as exp counts as the operations that it takes.
    pub flops: f64,
}

impl Work {
    /// Work of `bytes` and `flops`.
    pub fn new(bytes: usize, flops: usize) -> Self {
        Self { bytes: bytes as f64, flops: flops as f64 }
    }

    /// Whether nothing was stated.
    pub fn is_unknown(&self) -> bool {
        self.bytes == 0.0 && self.flops == 0.0
    }
}

impl std::ops::Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, flops: self.flops + other.flops }
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
