//! The sum of the ranks' gradients: each rank adds a part of them all, in the order of the tree, and everybody gets every part.

use std::ops::Range;

use super::{Ranks, Reduction};
use crate::Result;
use crate::autograd::{Pass, Tape};
use crate::device::Buffer;
use crate::ops::add_within;

/// What profiles call it.
pub const SUM: &str = "gradient_sum";

/// Elements of a part that are exchanged at a time: 4 MB from each rank.
const PIECE: usize = 1 << 20;

/// The parts of `count` elements that `ranks` ranks add: whole cache lines, but for the last one.
fn parts(count: usize, ranks: usize) -> Vec<Range<usize>> {
    let each = count.div_ceil(ranks).next_multiple_of(64);
    (0..ranks).map(|rank| (rank * each).min(count)..((rank + 1) * each).min(count)).collect()
}

impl Ranks {
    /// Replaces `gradients` by the sum of those of all ranks: the same bits on each. Elements a rank: 2 (N - 1) / N of them sent and
    /// received, N read and one written of the part that it adds.
    ///
    /// # Errors
    /// Those of the device and of the library that carries them.
    pub fn sum(&self, tape: &mut Tape, gradients: &mut Buffer) -> Result<()> {
        let Some(group) = &self.0 else { return Ok(()) };
        // Work that is held back goes first: the library does not know of it.
        tape.device().submit()?;
        let mut collective = group.collective.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let started = tape.start(SUM);
        if group.reduction == Reduction::Library {
            collective.all_reduce(gradients)?;
        } else {
            let (rank, size) = (group.place.rank, group.place.size);
            let parts = parts(gradients.len(), size);
            let longest = parts[0].len();
            for first in (0..longest).step_by(PIECE) {
                let piece = |part: &Range<usize>| {
                    (part.start + first).min(part.end)..(part.start + first + PIECE).min(part.end)
                };
                let pieces: Vec<Range<usize>> = parts.iter().map(piece).collect();
                let mine = pieces[rank].clone();
                let mut received = tape.allocate_as(size * mine.len(), gradients.dtype())?;
                collective.exchange(gradients, &pieces, &mut received)?;
                add_in_order(tape, &mut received, size)?;
                gradients.copy_range(tape.device(), mine.start, &received, 0..mine.len())?;
                tape.device().submit()?;
                tape.recycle(received);
            }
            collective.gather(gradients, &parts)?;
        }
        tape.clock(SUM, Pass::Update, started);
        Ok(())
    }
}

/// Adds the rows of `rows`, one from each rank, to its first, in the order of the tree.
fn add_in_order(tape: &mut Tape, rows: &mut Buffer, ranks: usize) -> Result<()> {
    let width = rows.len() / ranks;
    let mut stride = 1;
    while stride < ranks && width > 0 {
        for left in (0..ranks - stride).step_by(2 * stride) {
            add_within(tape, rows, left * width, (left + stride) * width, width)?;
        }
        stride *= 2;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DType, Device};

    #[test]
    fn parts_are_everything_once() {
        for count in [1, 63, 64, 65, 1000, 4096, 100_003] {
            for ranks in 1..20 {
                let parts = parts(count, ranks);
                assert_eq!(parts.len(), ranks);
                assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), count);
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].len() >= pair[1].len()));
            }
        }
    }

    #[test]
    fn ranks_that_each_have_a_subtree_add_the_same_tree() {
        use super::super::tree::GradientTree;
        let value = |number: usize| ((number * 7919 + 13) % 1009) as f32 / 97.0 * 10f32.powi(number as i32 % 7 - 3);
        let mut tape = Tape::new(Device::Cpu, DType::F32);
        let mut sum = |numbers: Range<usize>| {
            let (mut sums, mut gradients) = (GradientTree::default(), Buffer::zeros(1, DType::F32));
            for number in numbers {
                gradients.slice_mut::<f32>()[0] = value(number);
                sums.join(&mut tape, &mut gradients).unwrap();
            }
            sums.finish(&mut tape, &mut gradients).unwrap();
            gradients.slice::<f32>()[0]
        };
        let mut strange = 0;
        for ranks in 1..=12 {
            for each in [1, 2, 4, 8, 3] {
                let whole = sum(0..ranks * each);
                let of_ranks: Vec<f32> = (0..ranks).map(|rank| sum(rank * each..(rank + 1) * each)).collect();
                let mut rows = Buffer::from_slice(&of_ranks);
                let mut tape = Tape::new(Device::Cpu, DType::F32);
                add_in_order(&mut tape, &mut rows, ranks).unwrap();
                if each.is_power_of_two() {
                    assert_eq!(rows.slice::<f32>()[0].to_bits(), whole.to_bits(), "{ranks} x {each}");
                } else {
                    strange += usize::from(rows.slice::<f32>()[0] != whole);
                }
            }
        }
        assert!(strange > 2, "threes are no subtrees");
    }
}
