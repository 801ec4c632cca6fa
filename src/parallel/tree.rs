//! The sum of a step's gradients: a balanced tree over the numbers of its micro-batches.
//!
//! A tree over n gradients is one over the largest power of two of them below n, plus one over the rest. So each run of 2^m micro-batches
//! that begins at a multiple of 2^m is a subtree: what a rank has to add by itself.

use crate::Result;
use crate::autograd::Tape;
use crate::device::Buffer;
use crate::ops::accumulate;

/// The sums of whole subtrees that wait for their right neighbours, as a binary counter: at most one of each size.
#[derive(Default)]
pub struct GradientTree {
    /// Micro-batches of a subtree, the largest first, and its sum.
    waiting: Vec<(usize, Buffer)>,
    /// Memory of the size of the gradients.
    spare: Vec<Buffer>,
}

impl GradientTree {
    /// Forgets a step that was given up.
    pub fn clear(&mut self) {
        self.spare.extend(self.waiting.drain(..).map(|(_, sum)| sum));
    }

    /// Takes the next micro-batch's `gradients`, and leaves zeros.
    ///
    /// # Errors
    /// Those of the device, out of memory among them.
    pub fn join(&mut self, tape: &mut Tape, gradients: &mut Buffer) -> Result<()> {
        let Some((_, mut sum)) = self.waiting.pop_if(|(size, _)| *size == 1) else {
            // The same in every step, so that its launches are the same ones again.
            let lowest = (0..self.spare.len()).min_by_key(|index| self.spare[*index].place());
            let mut zeros = match lowest {
                Some(index) => self.spare.swap_remove(index),
                None => Buffer::on(tape.device(), gradients.len(), gradients.dtype())
                    .map_err(|error| error.needed_for("the sum of a step's gradients", "lower --micro-batches"))?,
            };
            zeros.fill_zero()?;
            self.waiting.push((1, std::mem::replace(gradients, zeros)));
            return Ok(());
        };
        accumulate(tape, &mut sum, gradients)?;
        gradients.fill_zero()?;
        let mut size = 2;
        while let Some((_, mut left)) = self.waiting.pop_if(|(other, _)| *other == size) {
            accumulate(tape, &mut left, &sum)?;
            self.spare.push(std::mem::replace(&mut sum, left));
            size *= 2;
        }
        self.waiting.push((size, sum));
        Ok(())
    }

    /// Writes the sum of all that joined to `gradients`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn finish(&mut self, tape: &mut Tape, gradients: &mut Buffer) -> Result<()> {
        let Some((_, mut sum)) = self.waiting.pop() else { return Ok(()) };
        while let Some((_, mut left)) = self.waiting.pop() {
            accumulate(tape, &mut left, &sum)?;
            self.spare.push(std::mem::replace(&mut sum, left));
        }
        self.spare.push(std::mem::replace(gradients, sum));
        Ok(())
    }

    /// Bytes that it holds.
    pub fn memory_bytes(&self) -> usize {
        self.waiting.iter().map(|(_, sum)| sum).chain(&self.spare).map(Buffer::capacity_bytes).sum()
    }

    /// Gradients that it holds at most beside those that a step computes into.
    pub fn buffers(micro_batches: usize) -> usize {
        micro_batches.next_power_of_two().ilog2() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DType, Device};

    /// Adds by the definition.
    fn tree(values: &[f32]) -> f32 {
        match values.len() {
            1 => values[0],
            n => {
                let half = n.next_power_of_two() / 2;
                tree(&values[..half]) + tree(&values[half..])
            }
        }
    }

    #[test]
    fn any_number_of_gradients_is_added_in_the_order_of_the_tree() {
        let value = |number: usize| {
            let size = (number as u32).wrapping_mul(2_654_435_761).wrapping_add(12_345) as f32 / 1e6;
            if number.is_multiple_of(3) { -size } else { size }
        };
        let mut differs = 0;
        for count in 1..=33 {
            let values: Vec<f32> = (0..count).map(value).collect();
            let mut tape = Tape::new(Device::Cpu, DType::F32);
            let (mut sums, mut gradients) = (GradientTree::default(), Buffer::zeros(5, DType::F32));
            // Twice: the memory of the first step is what the second one uses.
            for _ in 0..2 {
                for value in &values {
                    assert_eq!(gradients.slice::<f32>(), [0.0; 5]);
                    gradients.slice_mut::<f32>().fill(*value);
                    sums.join(&mut tape, &mut gradients).unwrap();
                }
                sums.finish(&mut tape, &mut gradients).unwrap();
                assert_eq!(gradients.slice::<f32>(), [tree(&values); 5], "{count}");
                gradients.fill_zero().unwrap();
                assert!(sums.memory_bytes() <= 64 * GradientTree::buffers(count).max(1), "{count}");
            }
            differs += usize::from(tree(&values) != values.iter().sum::<f32>());
        }
        assert!(differs > 10, "the order makes a difference");
    }
}
