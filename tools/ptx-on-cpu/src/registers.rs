//! A warp's register file: words, in which registers have the places that `allocate` gave them.

use crate::rows::{LANES, Row};

/// Words that are aligned as vector loads like them.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Line([u32; 32]);

/// The registers of all lanes of a warp.
pub(crate) struct Registers {
    lines: Box<[Line]>,
}

impl Registers {
    /// `words` of poison.
    pub fn new(words: usize) -> Self {
        Self { lines: vec![Line([0xdead_beef; 32]); words.div_ceil(32)].into() }
    }

    pub fn pointer(&mut self) -> *mut u32 {
        self.lines.as_mut_ptr().cast()
    }

    fn words(&self) -> &[u32] {
        // SAFETY: lines are arrays of 32 words, without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), 32 * self.lines.len()) }
    }

    fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 32 * self.lines.len()) }
    }

    #[inline]
    pub fn word(&self, place: u32) -> u32 {
        self.words()[place as usize]
    }

    #[inline]
    pub fn word_mut(&mut self, place: u32) -> &mut u32 {
        &mut self.words_mut()[place as usize]
    }

    /// A 32-bit register.
    #[inline]
    pub fn row(&self, place: u32) -> &Row {
        let words = &self.words()[place as usize..][..LANES];
        words.try_into().unwrap_or_else(|_| unreachable!("{LANES} words"))
    }

    #[inline]
    pub fn row_mut(&mut self, place: u32) -> &mut Row {
        let words = &mut self.words_mut()[place as usize..][..LANES];
        words.try_into().unwrap_or_else(|_| unreachable!("{LANES} words"))
    }

    #[inline]
    pub fn lane(&self, place: u32, lane: usize) -> u32 {
        self.words()[place as usize + lane]
    }

    /// One lane of a 64-bit register.
    #[inline]
    pub fn wide_lane(&self, place: u32, lane: usize) -> u64 {
        let words = &self.words()[place as usize + 2 * lane..][..2];
        u64::from(words[0]) | u64::from(words[1]) << 32
    }

    #[inline]
    pub fn set_wide_lane(&mut self, place: u32, lane: usize, value: u64) {
        let words = &mut self.words_mut()[place as usize + 2 * lane..][..2];
        (words[0], words[1]) = (value as u32, (value >> 32) as u32);
    }

    /// Writes the lanes of `mask` of a 32-bit register.
    #[inline]
    pub fn put(&mut self, place: u32, values: &Row, mask: u32) {
        let target = self.row_mut(place);
        for lane in 0..LANES {
            target[lane] = if mask >> lane & 1 == 1 { values[lane] } else { target[lane] };
        }
    }

    /// Writes the lanes of `mask` of a predicate.
    #[inline]
    pub fn put_predicate(&mut self, place: u32, bits: u32, mask: u32) {
        let word = self.word_mut(place);
        *word = *word & !mask | bits & mask;
    }
}

/// The lanes of a mask, from the lowest.
#[inline]
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        (mask != 0).then(|| {
            mask &= mask - 1;
            lane
        })
    })
}
