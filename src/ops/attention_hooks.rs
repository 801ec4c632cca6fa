//! What other models than DNABERT add to attention: ALiBi's bias and BigBird's block-sparse pattern.

use std::rc::Rc;

use crate::autograd::DeviceBatch;
use crate::device::attention_pattern::{AttentionPattern, BlockLists, SQUARE};
use crate::device::big_bird::BigBird;
use crate::device::{Buffer, Device};
use crate::{Error, Result};

/// What [`attention`](fn@super::attention) adds to the plain formula: nothing by default.
#[derive(Clone, Default)]
pub struct AttentionHooks {
    /// A bias that falls with the distance of query and key.
    pub bias: Option<Rc<AlibiBias>>,
    /// Which pairs of query and key count; the others are not computed.
    pub pattern: Option<Rc<SparseBlocks>>,
}

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

/// A block-sparse pattern over the sequences of one batch, made once for all layers that share it.
pub struct SparseBlocks {
    lists: BlockLists,
    total_tokens: usize,
    sequences: usize,
    on_device: Option<[Buffer; 4]>,
}

impl SparseBlocks {
    /// `pattern` over the sequences that `cu_seqlens` (`[sequences + 1]`, the batch's own) delimits.
    ///
    /// # Errors
    /// [`Error::Usage`] for a pattern that kernels cannot follow; those of the device.
    pub fn new(device: &Device, pattern: &AttentionPattern, cu_seqlens: &[i32]) -> Result<Self> {
        Self::of(device, BlockLists::new(pattern, cu_seqlens)?, cu_seqlens)
    }

    /// BigBird's `pattern` over these sequences, for `heads` heads.
    ///
    /// # Errors
    /// As [`SparseBlocks::new`].
    pub fn big_bird(device: &Device, pattern: &BigBird, heads: usize, cu_seqlens: &[i32]) -> Result<Self> {
        Self::of(device, BlockLists::big_bird(pattern, heads, cu_seqlens)?, cu_seqlens)
    }

    fn of(device: &Device, lists: BlockLists, cu_seqlens: &[i32]) -> Result<Self> {
        if matches!(device, Device::Kernels(_)) && (lists.side() != SQUARE || lists.is_by_head() || lists.is_weighted())
        {
            return Err(Error::usage(
                format!("BigBird's blocks for sequences of over {} tokens on {device}", 11 * SQUARE),
                "use --device cpu, or shorter sequences, which see themselves whole",
            ));
        }
        let on_device = upload(device, |device| {
            let ([query_starts, query_blocks], [key_starts, key_blocks]) = (lists.by_queries(), lists.by_keys());
            let upload = |values: Vec<i32>| Buffer::upload(device, &values);
            Ok([upload(query_starts)?, upload(query_blocks)?, upload(key_starts)?, upload(key_blocks)?])
        })?;
        let total_tokens = cu_seqlens.last().map_or(0, |&end| end as usize);
        Ok(Self { lists, total_tokens, sequences: cu_seqlens.len().saturating_sub(1), on_device })
    }

    /// What each row of squares sees.
    pub fn lists(&self) -> &BlockLists {
        &self.lists
    }
}

/// `struct AttentionHooks` of `kernels/common/attention.cuh`: three addresses, 0 for none.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct HooksArgument {
    slopes: u64,
    starts: u64,
    blocks: u64,
}

impl AttentionHooks {
    /// Whether there is any.
    pub fn are_some(&self) -> bool {
        self.bias.is_some() || self.pattern.is_some()
    }

    pub(super) fn check(&self, batch: &DeviceBatch, total_tokens: usize, heads: usize) -> Result<()> {
        if let Some(bias) = self.bias.as_deref().filter(|bias| bias.slopes.len() != heads) {
            let found = format!("{} slopes of a bias for {heads} heads", bias.slopes.len());
            return Err(Error::usage(found, "give one slope for each head"));
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
    pub(super) fn by_queries(&self) -> HooksArgument {
        self.argument(0)
    }

    /// For kernels whose rows are keys.
    pub(super) fn by_keys(&self) -> HooksArgument {
        self.argument(2)
    }

    fn argument(&self, first_list: usize) -> HooksArgument {
        let slopes = self.bias.as_deref().and_then(|bias| bias.on_device.as_ref());
        let lists = self.pattern.as_deref().and_then(|pattern| pattern.on_device.as_ref());
        HooksArgument {
            slopes: slopes.map_or(0, Buffer::address),
            starts: lists.map_or(0, |lists| lists[first_list].address()),
            blocks: lists.map_or(0, |lists| lists[first_list + 1].address()),
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
