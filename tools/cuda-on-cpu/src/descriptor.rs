//! Where the elements of a wgmma operand lie in shared memory: the matrix descriptor of the PTX ISA ("Matrix Descriptor
//! Format", "Asynchronous Warpgroup Level Canonical Layouts"), for elements of 16 bits.

use crate::fault::{FaultKind, Finding};

/// How the 16-byte chunks of a tile are permuted: by xor of address bits 4 and up with bits 7 and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swizzle {
    None,
    Bytes32,
    Bytes64,
    Bytes128,
}

impl Swizzle {
    /// Length of a row that the pattern permutes; 16, a chunk, without one.
    pub fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }

    /// The bits that are xor-ed, shifted to the lowest place.
    fn mask(self) -> u32 {
        self.span() / 16 - 1
    }

    /// After how many bytes the pattern repeats, and so what a tile must be aligned to.
    pub fn period(self) -> u32 {
        match self {
            Swizzle::None => 16,
            swizzle => 8 * swizzle.span(),
        }
    }

    /// The address that the hardware accesses for `address`; the pattern begins `phase` lines of 128 bytes late.
    pub fn apply(self, address: u32, phase: u32) -> u32 {
        address ^ ((address >> 7).wrapping_sub(phase) & self.mask()) << 4
    }
}

/// A matrix descriptor, decoded; offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Address of the first element, 18 bits.
    pub start: u32,
    leading: u32,
    stride: u32,
    base_offset: u32,
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// Refuses descriptors whose tile does not begin where the pattern of its swizzle does.
    pub fn decode(bits: u64) -> Result<Descriptor, Finding> {
        let field = |first: u32, width: u32| (bits >> first & ((1 << width) - 1)) as u32;
        let swizzle = [Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes64, Swizzle::Bytes32][field(62, 2) as usize];
        let descriptor = Descriptor {
            start: field(0, 14) << 4,
            leading: field(16, 14) << 4,
            stride: field(32, 14) << 4,
            base_offset: field(49, 3),
            swizzle,
        };
        let refuse = |text: String| Err(Finding::new(FaultKind::Async, text));
        if field(14, 2) | field(30, 2) | field(46, 3) | field(52, 10) != 0 {
            return refuse(format!("the matrix descriptor {bits:#018x} has bits set that must be zero"));
        }
        let line = descriptor.start >> 7 & swizzle.mask();
        if swizzle != Swizzle::None && line != descriptor.base_offset & swizzle.mask() {
            return refuse(format!(
                "the matrix descriptor {bits:#018x} begins in line {line} of the {}-byte swizzle, whose base offset is {}: \
                 align the tile to {} bytes",
                swizzle.span(),
                descriptor.base_offset,
                swizzle.period()
            ));
        }
        Ok(descriptor)
    }

    /// Address of the 16-byte chunk with elements 8 `chunk`..8 `chunk` + 8 of line `line`. Lines run along K in the
    /// K-major layout (a line is a row of A or a column of B) and along M or N in the other (a line is one k).
    pub fn chunk(&self, k_major: bool, line: u32, chunk: u32) -> u32 {
        let (span, inner, outer) = (self.swizzle.span(), line % 8, line / 8);
        let offset = match (self.swizzle, k_major) {
            (Swizzle::None, true) => inner * 16 + outer * self.stride + chunk * self.leading,
            (Swizzle::None, false) => inner * 16 + outer * self.leading + chunk * self.stride,
            (_, true) => inner * span + outer * self.stride + chunk * 16,
            (_, false) => {
                let chunks = span / 16;
                inner * span + outer * self.stride + chunk / chunks * self.leading + chunk % chunks * 16
            }
        };
        self.swizzle.apply(self.start + offset, self.base_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(start: u64, leading: u64, stride: u64, swizzle: u64) -> u64 {
        start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | swizzle << 62
    }

    #[test]
    fn swizzles_permute_the_chunks_of_a_line() {
        let swizzle = |kind: Swizzle, row: u32| {
            (0..kind.span() / 16).map(move |i| kind.apply(row * kind.span() + 16 * i, 0) / 16)
        };
        assert_eq!(swizzle(Swizzle::Bytes128, 3).collect::<Vec<_>>(), [27, 26, 25, 24, 31, 30, 29, 28]);
        // Two rows of 64 bytes share a line of 128: they are permuted alike.
        assert_eq!(swizzle(Swizzle::Bytes64, 2).collect::<Vec<_>>(), [9, 8, 11, 10]);
        assert_eq!(swizzle(Swizzle::Bytes64, 3).collect::<Vec<_>>(), [13, 12, 15, 14]);
        assert_eq!(swizzle(Swizzle::Bytes32, 4).collect::<Vec<_>>(), [9, 8]);
        assert_eq!(swizzle(Swizzle::None, 9).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn chunks_of_the_canonical_layouts() {
        let plain = Descriptor::decode(bits(1024, 512, 128, 0)).unwrap();
        assert_eq!(plain.chunk(true, 9, 1), 1024 + 16 + 128 + 512);
        assert_eq!(plain.chunk(false, 9, 1), 1024 + 16 + 512 + 128);
        let wide = Descriptor::decode(bits(1024, 16384, 1024, 1)).unwrap();
        assert_eq!(wide.chunk(true, 10, 1), 1024 + 1024 + 2 * 128 + (16 ^ 2 << 4));
        assert_eq!(wide.chunk(false, 10, 9), 1024 + 1024 + 2 * 128 + 16384 + (16 ^ 2 << 4));
        // A step of 16 elements along K inside the pattern is a step of the start.
        let next = Descriptor::decode(bits(1024 + 32, 0, 1024, 1)).unwrap();
        assert_eq!(next.chunk(true, 2, 0), wide.chunk(true, 2, 2));
    }

    #[test]
    fn tiles_off_the_pattern_are_refused() {
        assert!(Descriptor::decode(bits(1024 + 128, 0, 1024, 1)).is_err());
        assert!(Descriptor::decode(bits(1024 + 128, 0, 1024, 0)).is_ok());
        assert!(Descriptor::decode(1 << 52).is_err());
        assert!(Descriptor::decode(bits(1024 + 128, 0, 1024, 1) | 1 << 49).is_ok());
    }
}
