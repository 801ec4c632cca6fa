//! Products on fragments. Operands are spread so that lanes of a warp stand side by side: a register of accumulators is one
//! vector of 32 sums, and every step of k is one multiplication of vectors.

use super::{half_pair, pair};
use crate::instruction::Element;
use crate::registers::Registers;
use crate::rows::LANES;

/// Steps of k in an instruction over 16-bit elements.
pub(super) const K: usize = 16;

/// 16 rows of A as a warp's lanes need them: of each step of k two rows of 32, for the upper and the lower 8 rows.
pub(super) type RowsOfA = [[[f32; LANES]; 2]; K];

/// One element of A to the four lanes that use it.
#[inline(always)]
fn spread(rows: &mut RowsOfA, row: usize, k: usize, value: f32) {
    let lanes = &mut rows[k][row / 8][4 * (row % 8)..][..4];
    lanes.fill(value);
}

/// A from shared memory: 8 elements of row `mn` from `k` on, or of column `k` from `mn` on. `rows` are those of four warps.
pub(super) fn place_a(rows: &mut [RowsOfA; 4], mn_major: bool, mn: usize, k: usize, piece: &[f32; 8]) {
    for (number, value) in piece.iter().enumerate() {
        let (row, k) = if mn_major { (mn + number, k) } else { (mn, k + number) };
        spread(&mut rows[row / 16], row % 16, k, *value);
    }
}

/// A from registers (PTX ISA, "Register Fragments": register i of lane 4g + t has rows g + 8 (i % 2), columns 2t + 8 (i / 2)).
pub(super) fn place_fragment(rows: &mut RowsOfA, registers: &Registers, places: &[u32], element: Element) {
    for (number, place) in places.iter().enumerate() {
        for (lane, word) in registers.row(*place).iter().enumerate() {
            let (row, k) = (lane / 4 + 8 * (number % 2), 2 * (lane % 4) + 8 * (number / 2));
            let [low, high] = pair(element, *word);
            spread(rows, row, k, low);
            spread(rows, row, k + 1, high);
        }
    }
}

/// B in the order of its use: of each 8 columns, of each step of k, the even and the odd columns, each four twice over.
pub(super) fn place_b(b: &mut [f32], mn_major: bool, mn: usize, k: usize, piece: &[f32; 8]) {
    for (number, value) in piece.iter().enumerate() {
        let (column, k) = if mn_major { (mn + number, k) } else { (mn, k + number) };
        let at = (column / 8 * K + k) * 16 + column % 2 * 8 + column % 8 / 2;
        b[at] = *value;
        b[at + 4] = *value;
    }
}

/// Two registers of sums, even and odd columns of one tile of 8, in rows `half`.
fn sums(rows: &RowsOfA, half: usize, b: &[f32]) -> [[f32; LANES]; 2] {
    let mut sums = [[0f32; LANES]; 2];
    for (rows, b) in rows.iter().zip(b.chunks_exact(16)) {
        for (sums, b) in sums.iter_mut().zip(b.chunks_exact(8)) {
            for lane in 0..LANES {
                sums[lane] = rows[half][lane].mul_add(b[lane % 8], sums[lane]);
            }
        }
    }
    sums
}

/// The same with the eight vectors of sums in registers, which the compiler does not find by itself.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn sums_fast(rows: &RowsOfA, half: usize, b: &[f32]) -> [[f32; LANES]; 2] {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    let mut even = [_mm256_setzero_ps(); 4];
    let mut odd = even;
    for (rows, b) in rows.iter().zip(b.chunks_exact(16)) {
        let a = rows[half].as_ptr();
        // SAFETY: pieces of 8 of 16 and of 32 numbers.
        unsafe {
            let (b_even, b_odd) = (_mm256_loadu_ps(b.as_ptr()), _mm256_loadu_ps(b.as_ptr().add(8)));
            for piece in 0..4 {
                let a = _mm256_loadu_ps(a.add(8 * piece));
                even[piece] = _mm256_fmadd_ps(a, b_even, even[piece]);
                odd[piece] = _mm256_fmadd_ps(a, b_odd, odd[piece]);
            }
        }
    }
    let mut sums = [[0f32; LANES]; 2];
    for piece in 0..4 {
        // SAFETY: pieces of 8 of 32 numbers.
        unsafe {
            _mm256_storeu_ps(sums[0].as_mut_ptr().add(8 * piece), even[piece]);
            _mm256_storeu_ps(sums[1].as_mut_ptr().add(8 * piece), odd[piece]);
        }
    }
    sums
}

/// The sums of a tile, however they are computed.
trait Sums: Fn(&RowsOfA, usize, &[f32]) -> [[f32; LANES]; 2] {}
impl<F: Fn(&RowsOfA, usize, &[f32]) -> [[f32; LANES]; 2]> Sums for F {}

#[inline(always)]
fn accumulate_with(
    registers: &mut Registers,
    places: &[u32],
    (rows, b): (&RowsOfA, &[f32]),
    keep: bool,
    sign: f32,
    sums: impl Sums,
) {
    for (places, b) in places.chunks_exact(4).zip(b.chunks_exact(16 * K)) {
        for half in 0..2 {
            let sums = sums(rows, half, b);
            for (parity, sums) in sums.iter().enumerate() {
                let target = registers.row_mut(places[2 * half + parity]);
                for lane in 0..LANES {
                    let old = if keep { f32::from_bits(target[lane]) } else { 0.0 };
                    target[lane] = sums[lane].mul_add(sign, old).to_bits();
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn accumulate_fast(registers: &mut Registers, places: &[u32], rows: &RowsOfA, b: &[f32], keep: bool, sign: f32) {
    accumulate_with(registers, places, (rows, b), keep, sign, |rows, half, b| sums_fast(rows, half, b));
}

/// `d = a b + d` for a warp's 16 rows, d in f32: register 4 i + 2 h + p has rows g + 8 h and columns 8 i + 2 t + p.
pub(super) fn accumulate(registers: &mut Registers, places: &[u32], rows: &RowsOfA, b: &[f32], keep: bool, sign: f32) {
    #[cfg(target_arch = "x86_64")]
    if crate::rows::has_fast_lanes() {
        // SAFETY: the machine has these instructions.
        return unsafe { accumulate_fast(registers, places, rows, b, keep, sign) };
    }
    accumulate_with(registers, places, (rows, b), keep, sign, sums);
}

/// The same with d in pairs of f16: register 2 i + h has rows g + 8 h and columns 8 i + 2 t, 8 i + 2 t + 1.
pub(super) fn accumulate_half(
    registers: &mut Registers,
    places: &[u32],
    rows: &RowsOfA,
    b: &[f32],
    keep: bool,
    sign: f32,
) {
    for (places, b) in places.chunks_exact(2).zip(b.chunks_exact(16 * K)) {
        for (half, place) in places.iter().enumerate() {
            let [even, odd] = sums(rows, half, b);
            let target = registers.row_mut(*place);
            for lane in 0..LANES {
                let old = if keep { pair(Element::F16, target[lane]) } else { [0.0; 2] };
                target[lane] = half_pair(even[lane].mul_add(sign, old[0]), odd[lane].mul_add(sign, old[1]));
            }
        }
    }
}
