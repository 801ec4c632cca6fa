//! `mma.sync` of m16n8k4, k8 and k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and the like).

use super::{half_pair, pair};
use crate::instruction::Element;
use crate::machine::{Cluster, Flow, Step, Warp};
use crate::rows::LANES;

impl Cluster<'_> {
    pub fn mma(&mut self, warp: &mut Warp, k: u8, element: Element, half_sums: bool, step: &Step) -> Flow {
        if let Some(flow) = self.together(warp, step, u32::MAX) {
            return flow;
        }
        let depth = k as usize;
        let words = if element == Element::Tf32 { depth / 4 } else { depth / 8 };
        let (d, sources) = step.registers.split_at(step.instruction.results as usize);
        let (a, rest) = sources.split_at(2 * words);
        let (b, c) = rest.split_at(words);
        let (mut left, mut right) = ([[0f32; 16]; 16], [[0f32; 8]; 16]);
        for lane in 0..LANES {
            let (group, place) = (lane / 4, lane % 4);
            for (number, register) in a.iter().enumerate() {
                let (row, word) = (group + 8 * (number % 2), warp.registers.lane(*register, lane));
                if element == Element::Tf32 {
                    left[row][place + 4 * (number / 2)] = f32::from_bits(word & !0x1fff);
                } else {
                    let column = 2 * place + 8 * (number / 2);
                    left[row][column..column + 2].copy_from_slice(&pair(element, word));
                }
            }
            for (number, register) in b.iter().enumerate() {
                let word = warp.registers.lane(*register, lane);
                if element == Element::Tf32 {
                    right[place + 4 * number][group] = f32::from_bits(word & !0x1fff);
                } else {
                    let [low, high] = pair(element, word);
                    right[2 * place + 8 * number][group] = low;
                    right[2 * place + 8 * number + 1][group] = high;
                }
            }
        }
        let mut product = [[0f32; 8]; 16];
        for (sums, left) in product.iter_mut().zip(&left) {
            for (value, right) in left.iter().zip(&right).take(depth) {
                for (sum, right) in sums.iter_mut().zip(right) {
                    // Products of 16-bit elements are exact in f32.
                    *sum += value * right;
                }
            }
        }
        self.multiplications += 16 * 8 * depth as u64;
        for (number, (d, c)) in d.iter().zip(c).enumerate() {
            let old = *warp.registers.row(*c);
            let target = warp.registers.row_mut(*d);
            for (lane, word) in target.iter_mut().enumerate() {
                let row = if half_sums { lane / 4 + 8 * number } else { lane / 4 + 8 * (number / 2) };
                let column = 2 * (lane % 4);
                *word = if half_sums {
                    let [low, high] = pair(Element::F16, old[lane]);
                    half_pair(low + product[row][column], high + product[row][column + 1])
                } else {
                    (f32::from_bits(old[lane]) + product[row][column + number % 2]).to_bits()
                };
            }
        }
        Flow::Next
    }
}
