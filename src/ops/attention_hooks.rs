//! What other models than DNABERT add to attention: ALiBi's bias, BigBird's block-sparse pattern, and ModernBERT's window.

use std::rc::Rc;

use crate::autograd::{DeviceBatch, Tape, Tensor};
use crate::device::attention_pattern::{AttentionPattern, BlockLists};
use crate::device::big_bird::BigBird;
use crate::device::entry_lists::{BigBirdLists, PatternLists};
use crate::device::{Buffer, DType, Device};
use crate::{Error, Result};

/// What [`attention`](fn@super::attention) adds to the plain formula: nothing by default.
#[derive(Clone, Default)]
pub struct AttentionHooks {
    /// A bias that falls with the distance of query and key.
    pub bias: Option<Rc<AlibiBias>>,
    /// Which pairs of query and key count; the others are not computed.
    pub pattern: Option<Rc<SparseBlocks>>,
    /// How many tokens to each side a query sees, at least 1. What it does not see is computed nevertheless, where no pattern leaves it out.
    pub window: Option<usize>,
}

/// The widest window: a number of 32 bits where kernels read it.
const WIDEST: usize = 1 << 24;

/// ALiBi (Press et al., 2022, arXiv 2108.12409) in both directions, as DNABERT-2 uses it: scores get
/// `-slopes[head] * |query - key|`. The slopes are constants.
pub struct AlibiBias {
    slopes: Vec<f64>,
    on_device: Option<Buffer>,
}

impl AlibiBias {
    /// A bias with these slopes, `[heads]`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(device: &Device, slopes: &[f64]) -> Result<Self> {
        let rounded: Vec<f32> = slopes.iter().map(|&slope| slope as f32).collect();
        let on_device = upload(device, |device| Buffer::upload(device, &rounded))?;
        Ok(Self { slopes: slopes.to_vec(), on_device })
    }

    /// The slopes of the paper, section 3: for a power of two of heads the powers 1 to `heads` of `2^(-8 / heads)`. Other
    /// numbers take those of the power of two below, then every second one of the power of two above.
    pub fn standard_slopes(heads: usize) -> Vec<f64> {
        let powers = |heads: usize| (1..=heads).map(move |head| (-8.0 * head as f64 / heads as f64).exp2());
        if heads == 0 {
            return Vec::new();
        }
        let below = 1 << heads.ilog2();
        powers(below).chain(powers(2 * below).step_by(2)).take(heads).collect()
    }

    /// The slopes, `[heads]`.
    pub fn slopes(&self) -> &[f64] {
        &self.slopes
    }
}

/// A block-sparse pattern over the sequences of one batch.
pub struct SparseBlocks {
    total_tokens: usize,
    sequences: usize,
    pairs: u64,
    lists: Lists,
}

/// What is seen, where it is read.
enum Lists {
    OnHost(BlockLists),
    /// A tensor of integers, with the lists of several layers, and where in it those of rows that are queries, and keys, begin.
    OnDevice {
        integers: Tensor,
        sides: [[usize; 2]; 2],
        head_stride: usize,
    },
}

impl SparseBlocks {
    /// `pattern` over the sequences of `batch`, for this pass.
    ///
    /// # Errors
    /// [`Error::Usage`] for a pattern that kernels cannot follow; those of the device.
    pub fn new(tape: &mut Tape, batch: &Rc<DeviceBatch>, pattern: &AttentionPattern) -> Result<Self> {
        let lists = BlockLists::new(pattern, &batch.host_cu_seqlens)?;
        if matches!(tape.device(), Device::Cpu) {
            return Ok(Self::on_host(lists, &batch.host_cu_seqlens));
        }
        let mut layers = Self::upload(tape, batch, &[lists.for_kernels()?])?;
        Ok(layers.swap_remove(0))
    }

    /// BigBird's patterns over the sequences of `batch` in the first `layers` layers, for `heads` heads and this pass; `pattern` is that of the
    /// first. One upload for all of them.
    ///
    /// # Errors
    /// As [`SparseBlocks::new`].
    pub fn big_bird(
        tape: &mut Tape,
        batch: &Rc<DeviceBatch>,
        pattern: &BigBird,
        heads: usize,
        layers: usize,
    ) -> Result<Vec<Rc<Self>>> {
        let cu_seqlens = &batch.host_cu_seqlens;
        let is_host = matches!(tape.device(), Device::Cpu);
        // Where heads see the same, layers do.
        let different = if pattern.heads(heads) > 1 { layers } else { layers.min(1) };
        let different: Vec<Rc<Self>> = if is_host {
            let lists = |layer| BlockLists::big_bird(&BigBird { layer, ..*pattern }, heads, cu_seqlens);
            (0..different as u32)
                .map(|layer| Ok(Rc::new(Self::on_host(lists(layer)?, cu_seqlens))))
                .collect::<Result<_>>()?
        } else {
            let known = tape
                .once(|known: &BigBirdLists| known.are_of(pattern, heads), |_| Ok(BigBirdLists::new(pattern, heads)))?;
            let lists =
                (0..different as u32).map(|layer| known.layer(layer, cu_seqlens)).collect::<Result<Vec<_>>>()?;
            Self::upload(tape, batch, &lists)?.into_iter().map(Rc::new).collect()
        };
        Ok((0..layers).map(|layer| Rc::clone(&different[layer.min(different.len() - 1)])).collect())
    }

    /// For the CPU: `lists` over the sequences that `cu_seqlens` (`[sequences + 1]`) delimits.
    pub fn on_host(lists: BlockLists, cu_seqlens: &[i32]) -> Self {
        Self::of(cu_seqlens, lists.pairs(), Lists::OnHost(lists))
    }

    fn of(cu_seqlens: &[i32], pairs: u64, lists: Lists) -> Self {
        let total_tokens = cu_seqlens.last().map_or(0, |&end| end as usize);
        Self { total_tokens, sequences: cu_seqlens.len().saturating_sub(1), pairs, lists }
    }

    /// All in one tensor of the pass.
    fn upload(tape: &mut Tape, batch: &Rc<DeviceBatch>, layers: &[PatternLists]) -> Result<Vec<Self>> {
        let parts = layers.iter().flat_map(|layer| &layer.sides).flat_map(|side| [&side.starts, &side.blocks]);
        let parts: Vec<&[i32]> = parts.map(Vec::as_slice).collect();
        let parts = parts.concat();
        let mut buffer = tape.allocate_as(parts.len(), DType::I32)?;
        buffer.write(&parts)?;
        let integers = tape.push(buffer, 1, parts.len());
        tape.keep(integers);
        let mut end = 0;
        let mut next = |part: &[i32]| {
            end += part.len();
            end - part.len()
        };
        let mut layer = |lists: &PatternLists| {
            let sides = [&lists.sides[0], &lists.sides[1]].map(|side| [next(&side.starts), next(&side.blocks)]);
            let head_stride = lists.sides[0].head_stride();
            Self::of(&batch.host_cu_seqlens, lists.pairs(), Lists::OnDevice { integers, sides, head_stride })
        };
        Ok(layers.iter().map(&mut layer).collect())
    }

    /// Pairs of tokens in the squares that are computed, the last of a sequence counted whole: a mean over the heads.
    pub fn pairs(&self) -> u64 {
        self.pairs
    }

    /// What each row of squares sees, for the CPU; nothing on other devices.
    pub fn lists(&self) -> Option<&BlockLists> {
        match &self.lists {
            Lists::OnHost(lists) => Some(lists),
            Lists::OnDevice { .. } => None,
        }
    }
}

/// `struct AttentionHooks` of `kernels/common/attention.cuh`: three addresses, 0 for none, and two numbers.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct HooksArgument {
    slopes: u64,
    starts: u64,
    blocks: u64,
    head_stride: i32,
    /// 0 for none.
    window: i32,
}

impl AttentionHooks {
    /// Whether there is any.
    pub fn are_some(&self) -> bool {
        self.bias.is_some() || self.pattern.is_some() || self.window.is_some()
    }

    pub(super) fn check(&self, batch: &DeviceBatch, total_tokens: usize, heads: usize) -> Result<()> {
        if let Some(bias) = self.bias.as_deref().filter(|bias| bias.slopes.len() != heads) {
            let found = format!("{} slopes of a bias for {heads} heads", bias.slopes.len());
            return Err(Error::usage(found, "give one slope for each head"));
        }
        if let Some(window) = self.window.filter(|window| !(1..=WIDEST).contains(window)) {
            return Err(Error::usage(
                format!("a window of {window} tokens to each side"),
                "give 1 to 16,777,216 tokens",
            ));
        }
        let sequences = batch.cu_seqlens.len() - 1;
        if let Some(pattern) = &self.pattern
            && (pattern.total_tokens, pattern.sequences) != (total_tokens, sequences)
        {
            return Err(Error::usage(
                format!(
                    "a block-sparse pattern over {} sequences of {} tokens, but the batch has {sequences} of {total_tokens}",
                    pattern.sequences, pattern.total_tokens
                ),
                "make the pattern from the batch's own cu_seqlens",
            ));
        }
        Ok(())
    }

    /// For kernels whose rows are queries.
    pub(super) fn by_queries(&self, tape: &Tape) -> HooksArgument {
        self.argument(tape, 0)
    }

    /// For kernels whose rows are keys.
    pub(super) fn by_keys(&self, tape: &Tape) -> HooksArgument {
        self.argument(tape, 1)
    }

    fn argument(&self, tape: &Tape, side: usize) -> HooksArgument {
        let slopes = self.bias.as_deref().and_then(|bias| bias.on_device.as_ref()).map_or(0, Buffer::address);
        let window = self.window.map_or(0, |window| window as i32);
        let argument = HooksArgument { slopes, window, ..HooksArgument::default() };
        match self.pattern.as_deref().map(|pattern| &pattern.lists) {
            Some(Lists::OnDevice { integers, sides, head_stride }) => {
                let lists = tape.value(*integers).address();
                let [starts, blocks] = sides[side].map(|first| lists + (first * size_of::<i32>()) as u64);
                HooksArgument { starts, blocks, head_stride: *head_stride as i32, ..argument }
            }
            Some(Lists::OnHost(_)) | None => argument,
        }
    }
}

/// What kernels need; the CPU device reads the host's copy.
fn upload<T>(device: &Device, upload: impl FnOnce(&Device) -> Result<T>) -> Result<Option<T>> {
    match device {
        Device::Cpu => Ok(None),
        device => upload(device).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        assert_eq!(AlibiBias::standard_slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
        let twelve = AlibiBias::standard_slopes(12);
        assert_eq!(twelve[..8], AlibiBias::standard_slopes(8));
        assert_eq!(twelve[8..], AlibiBias::standard_slopes(16).into_iter().step_by(2).take(4).collect::<Vec<_>>());
        assert!(AlibiBias::standard_slopes(0).is_empty());
    }
}
