//! Matrix instructions: fragments in registers, operands in shared memory, products.

mod descriptor;
mod matrix;
mod mma;
mod product;
pub(crate) mod wgmma;

use half::f16;

use crate::instruction::Element;

/// The two numbers of a 32-bit register.
#[inline(always)]
fn pair(element: Element, word: u32) -> [f32; 2] {
    match element {
        Element::F16 => [f16::from_bits(word as u16).to_f32(), f16::from_bits((word >> 16) as u16).to_f32()],
        _ => [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)],
    }
}

/// A pair of sums in f16.
fn half_pair(low: f32, high: f32) -> u32 {
    u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
}
