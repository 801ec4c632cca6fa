//! Descriptors of operands in shared memory (PTX ISA, "Matrix Descriptor Format", "Strides").

use crate::decode::SHARED_BASE;
use crate::tensor_map::Swizzle;

/// An operand of `wgmma`, as its descriptor says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    start: u32,
    /// Byte offsets "leading dimension" and "stride dimension".
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
    /// The dimension that is not k is the contiguous one.
    mn_major: bool,
}

impl Descriptor {
    pub fn new(bits: u64, mn_major: bool) -> Result<Self, String> {
        let field = |at: u32| ((bits >> at) as u32 & 0x3fff) << 4;
        if bits >> 49 & 7 != 0 {
            return Err(format!("the descriptor {bits:#x} has a base offset, which is not supported"));
        }
        let swizzle = [Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes64, Swizzle::Bytes32][(bits >> 62) as usize];
        Ok(Self { start: field(0), leading: field(16), stride: field(32), swizzle, mn_major })
    }

    /// Where 8 elements of 2 bytes are: K-major those of row `mn` from `k` on, else those of column `k` from `mn` on.
    #[inline]
    pub fn piece(&self, mn: u32, k: u32) -> u32 {
        let span = self.swizzle.span();
        let inside = match (self.mn_major, self.swizzle) {
            (false, Swizzle::None) => mn / 8 * self.stride + k / 8 * self.leading + mn % 8 * 16,
            (false, _) => mn / 8 * self.stride + mn % 8 * span + k * 2,
            (true, Swizzle::None) => mn / 8 * self.stride + k / 8 * self.leading + k % 8 * 16,
            (true, _) => mn / (span / 2) * self.leading + k / 8 * self.stride + k % 8 * span + mn % (span / 2) * 2,
        };
        // The permutation is of absolute addresses.
        self.swizzle.apply(self.start + inside)
    }

    /// All pieces of `size` rows or columns by 16: (first row or column, first k, offset in shared memory).
    pub fn pieces(self, size: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let (outer, inner) = if self.mn_major { (size / 8, 16) } else { (size, 2) };
        (0..outer).flat_map(move |outer| {
            (0..inner).map(move |inner| {
                let (mn, k) = if self.mn_major { (8 * outer, inner) } else { (outer, 8 * inner) };
                (mn, k, self.piece(mn as u32, k as u32) as usize)
            })
        })
    }

    /// Checks that all of it lies in shared memory of `size` bytes.
    pub fn check(self, size: usize, shared: usize) -> Result<(), String> {
        for (mn, k, at) in self.pieces(size) {
            if at < SHARED_BASE as usize || at + 16 > shared {
                return Err(format!(
                    "the operand's element ({mn}, {k}) would be at {at:#x} of {shared:#x} bytes shared"
                ));
            }
        }
        Ok(())
    }

    pub fn is_mn_major(&self) -> bool {
        self.mn_major
    }
}
