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

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets in bytes; the start is that of a row of every swizzle.
    fn descriptor(swizzle: u64, leading: u64, stride: u64, mn_major: bool) -> Descriptor {
        Descriptor::new(0x400 >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | swizzle << 62, mn_major).unwrap()
    }

    /// "Strides" of the manual, K-major: the stride offset leads from 8 rows to the next 8, which need not follow at once; the
    /// leading one, used without a swizzle only, from 8 columns of 2 bytes to the next 8.
    #[test]
    fn groups_of_rows_of_k_major_operands_have_a_stride() {
        for (swizzle, span) in [(1, 128), (2, 64), (3, 32)] {
            let of = descriptor(swizzle, 16, 16 * span, false);
            assert_eq!(of.piece(7, 0) & !0x7f, 0x400 + 7 * span as u32 & !0x7f, "rows of {span} bytes are dense");
            assert_eq!(of.piece(8, 0), 0x400 + 16 * span as u32, "rows of {span} bytes");
            assert_eq!(of.piece(16, 0), 0x400 + 32 * span as u32, "rows of {span} bytes");
        }
        // The second row of 128 bytes of the second group: its pieces change places by pairs.
        assert_eq!(descriptor(1, 16, 2048, false).piece(9, 8), 0x400 + 2048 + 128);
        let plain = descriptor(0, 4096, 512, false);
        assert_eq!(
            [(1, 0), (8, 0), (0, 8), (9, 8)].map(|(row, k)| plain.piece(row, k)),
            [0x410, 0x600, 0x1400, 0x1610]
        );
    }

    /// The same, MN-major: the stride offset leads from 8 columns of k to the next 8, the leading one from what a row of the
    /// swizzle holds to what the next one does; without a swizzle, the other way round, and rows of 8 elements.
    #[test]
    fn groups_of_columns_of_mn_major_operands_have_a_stride() {
        for (swizzle, span) in [(1, 128), (2, 64), (3, 32)] {
            let of = descriptor(swizzle, 8192, 16 * span, true);
            assert_eq!(of.piece(0, 8), 0x400 + 16 * span as u32, "rows of {span} bytes");
            assert_eq!(of.piece(span as u32 / 2, 0), 0x400 + 8192, "rows of {span} bytes");
        }
        let plain = descriptor(0, 4096, 512, true);
        assert_eq!([(0, 1), (8, 0), (0, 8)].map(|(mn, k)| plain.piece(mn, k)), [0x410, 0x600, 0x1400]);
    }
}
