//! Tensor maps. What `cuTensorMapEncodeTiled` writes for a chip is opaque; the form here is that of the crate cuda-on-cpu, so
//! that both engines read the same maps.

/// Marks a map, and not some other 128 bytes.
const MAGIC: u64 = 0x7065_6d61_7020_6f63;
/// The most dimensions that a map has.
pub(crate) const RANK: usize = 5;
/// Bytes of a map.
pub(crate) const BYTES: usize = 128;

/// The permutation of 16-byte pieces that a copy into shared memory applies, over rows of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Swizzle {
    /// Rows as they are.
    #[default]
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::None, Self::Bytes32, Self::Bytes64, Self::Bytes128].get(number as usize).copied()
    }

    /// Bytes of a row, and of its repetition in K-major operands.
    pub(crate) fn span(self) -> u32 {
        [16, 32, 64, 128][self as usize]
    }

    /// Where the byte at `address` of shared memory really is (PTX ISA, "Swizzling modes"): bits 4 up are mixed with bits 7 up.
    #[inline(always)]
    pub(crate) fn apply(self, address: u32) -> u32 {
        let rows = [0, 1, 3, 7][self as usize];
        address ^ (address >> 7 & rows) << 4
    }
}

/// A tiled tensor in global memory: the arguments of `cuTensorMapEncodeTiled`, the innermost dimension first.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TensorMap {
    /// Global address of element 0.
    pub address: u64,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element_bytes: u32,
    /// Elements in each dimension, 1 to 5 of them.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, for every dimension but the innermost, which is dense.
    pub strides: Vec<u64>,
    /// Elements of a copied tile in each dimension.
    pub tile: Vec<u32>,
    /// Permutation in shared memory.
    pub swizzle: Swizzle,
}

/// Offsets of the fields.
pub(crate) mod field {
    pub const ADDRESS: usize = 8;
    pub const DIMS: usize = 16;
    pub const STRIDES: usize = 56;
    pub const TILE: usize = 96;
    pub const RANK: usize = 116;
    pub const SWIZZLE: usize = 117;
}

impl TensorMap {
    /// The 128 bytes of a kernel's parameter.
    ///
    /// # Errors
    /// What the driver would refuse, in words.
    pub fn encode(&self) -> Result<[u8; BYTES], String> {
        self.check()?;
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[field::ADDRESS..][..8].copy_from_slice(&self.address.to_le_bytes());
        for dim in 0..RANK {
            let size = self.dims.get(dim).copied().unwrap_or(1);
            let stride =
                if dim == 0 { u64::from(self.element_bytes) } else { *self.strides.get(dim - 1).unwrap_or(&0) };
            bytes[field::DIMS + 8 * dim..][..8].copy_from_slice(&size.to_le_bytes());
            bytes[field::STRIDES + 8 * dim..][..8].copy_from_slice(&stride.to_le_bytes());
            bytes[field::TILE + 4 * dim..][..4]
                .copy_from_slice(&self.tile.get(dim).copied().unwrap_or(1).to_le_bytes());
        }
        bytes[field::RANK] = self.dims.len() as u8;
        bytes[field::SWIZZLE] = self.swizzle as u8;
        Ok(bytes)
    }

    /// Reads the 128 bytes back.
    ///
    /// # Errors
    /// Bytes that are no map, or one that no driver would have made.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let number = |at: usize, width: usize| {
            let mut word = [0; 8];
            word[..width].copy_from_slice(bytes.get(at..at + width)?);
            Some(u64::from_le_bytes(word))
        };
        let field = |at, width| number(at, width).ok_or_else(|| "a tensor map has 128 bytes".to_owned());
        if field(0, 8)? != MAGIC {
            return Err("what is there is no tensor map".into());
        }
        let rank = field(field::RANK, 1)? as usize;
        let swizzle = Swizzle::from_number(field(field::SWIZZLE, 1)? as u8);
        let (Some(swizzle), 1..=RANK) = (swizzle, rank) else { return Err(format!("a tensor map of rank {rank}")) };
        let mut map = Self {
            address: field(field::ADDRESS, 8)?,
            element_bytes: field(field::STRIDES, 8)? as u32,
            swizzle,
            ..Self::default()
        };
        for dim in 0..rank {
            map.dims.push(field(field::DIMS + 8 * dim, 8)?);
            map.tile.push(field(field::TILE + 4 * dim, 4)? as u32);
            if dim > 0 {
                map.strides.push(field(field::STRIDES + 8 * dim, 8)?);
            }
        }
        map.check()?;
        Ok(map)
    }

    /// The driver's rules (CUDA driver API, `cuTensorMapEncodeTiled`).
    fn check(&self) -> Result<(), String> {
        let rank = self.dims.len();
        if !(1..=RANK).contains(&rank) || self.strides.len() + 1 != rank || self.tile.len() != rank {
            let (strides, tile) = (self.strides.len(), self.tile.len());
            return Err(format!("a tensor map of {rank} dimensions, {strides} strides and a tile of {tile}"));
        }
        if !self.address.is_multiple_of(16) || self.address == 0 {
            return Err(format!("the address {:#x} of a tensor map is not aligned to 16 bytes", self.address));
        }
        if !matches!(self.element_bytes, 1 | 2 | 4 | 8) {
            return Err(format!("a tensor map with elements of {} bytes", self.element_bytes));
        }
        if let Some(dim) = self.dims.iter().find(|dim| !(1..=1 << 32).contains(*dim)) {
            return Err(format!("a dimension of {dim} elements in a tensor map: 1 to 2^32 are allowed"));
        }
        if let Some(stride) = self.strides.iter().find(|stride| !stride.is_multiple_of(16) || **stride >= 1 << 40) {
            return Err(format!("a stride of {stride} bytes in a tensor map: a multiple of 16 below 2^40 is wanted"));
        }
        if let Some(length) = self.tile.iter().find(|length| !(1..=256).contains(*length)) {
            return Err(format!("a tile of {length} elements in one dimension: 1 to 256 are allowed"));
        }
        let row = self.tile[0] * self.element_bytes;
        if !row.is_multiple_of(16) {
            return Err(format!("rows of {row} bytes in a tensor map's tile: they must be multiples of 16"));
        }
        if self.swizzle != Swizzle::None && row > self.swizzle.span() {
            return Err(format!("rows of {row} bytes in a tile with a swizzle of {}", self.swizzle.span()));
        }
        Ok(())
    }

    /// Bytes of a tile in shared memory.
    pub(crate) fn tile_bytes(&self) -> usize {
        self.tile.iter().map(|length| *length as usize).product::<usize>() * self.element_bytes as usize
    }

    /// Each row of the tile that has elements inside the tensor: its offset in the tile, its global address and its length in
    /// bytes. Coordinates are signed, and as many as there are dimensions.
    pub(crate) fn rows(&self, at: &[i32]) -> impl Iterator<Item = (usize, u64, usize)> {
        let size = i64::from(self.element_bytes);
        let x = i64::from(at[0]);
        let (first, end) = (x.max(0), (x + i64::from(self.tile[0])).min(self.dims[0].cast_signed()));
        let row_bytes = self.tile[0] as usize * size as usize;
        let outer: usize = self.tile[1..].iter().map(|length| *length as usize).product();
        (0..if first < end { outer } else { 0 }).filter_map(move |row| {
            let mut rest = row;
            let mut address = self.address.cast_signed().wrapping_add(first * size);
            let inside = (1..self.dims.len()).all(|dim| {
                let index = i64::from(at[dim]) + (rest % self.tile[dim] as usize) as i64;
                rest /= self.tile[dim] as usize;
                // Far outside the product may be anything: it is not used.
                address = address.wrapping_add(index.wrapping_mul(self.strides[dim - 1].cast_signed()));
                (0..self.dims[dim].cast_signed()).contains(&index)
            });
            let offset = row * row_bytes + ((first - x) * size) as usize;
            inside.then_some((offset, address.cast_unsigned(), ((end - first) * size) as usize))
        })
    }
}

/// The marks of a map that a kernel has begun to make.
pub(crate) fn mark(bytes: &mut [u8]) {
    bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMap {
        TensorMap {
            address: 4096,
            element_bytes: 2,
            dims: vec![10, 3],
            strides: vec![32],
            tile: vec![8, 2],
            swizzle: Swizzle::None,
        }
    }

    #[test]
    fn maps_survive_encoding_and_rows_are_clipped() {
        let map = TensorMap::decode(&map().encode().unwrap()).unwrap();
        assert_eq!(map, self::map());
        let rows = |at: [i32; 2]| map.rows(&at).collect::<Vec<_>>();
        assert_eq!(rows([0, 1]), [(0, 4128, 16), (16, 4160, 16)]);
        assert_eq!(rows([8, 2]), [(0, 4096 + 64 + 16, 4)]);
        assert_eq!(rows([-3, -1]), [(16 + 6, 4096, 10)]);
        assert_eq!(rows([10, 0]), []);
    }

    #[test]
    fn what_the_driver_refuses_is_refused() {
        for wrong in [
            TensorMap { address: 8, ..map() },
            TensorMap { strides: vec![24], ..map() },
            TensorMap { tile: vec![4, 2], ..map() },
            TensorMap { tile: vec![8, 257], ..map() },
            TensorMap { dims: vec![0, 3], ..map() },
            TensorMap { strides: vec![], ..map() },
            TensorMap { tile: vec![32, 2], swizzle: Swizzle::Bytes32, ..map() },
        ] {
            assert!(wrong.encode().is_err(), "{wrong:?}");
        }
        assert!(TensorMap::decode(&[0; 128]).is_err());
        assert!(TensorMap::decode(&[]).is_err());
    }

    #[test]
    fn swizzles_of_the_manual() {
        // Row 1 of 128 bytes: pieces change places by pairs; row 2 of 64-byte rows begins the second pattern.
        assert_eq!(Swizzle::Bytes128.apply(128), 128 + 16);
        assert_eq!(Swizzle::Bytes128.apply(7 * 128 + 5 * 16 + 3), 7 * 128 + (5 ^ 7) * 16 + 3);
        assert_eq!(Swizzle::Bytes64.apply(3 * 128), 3 * 128 + 48);
        assert_eq!(Swizzle::Bytes64.apply(4 * 128), 4 * 128);
        assert_eq!(Swizzle::Bytes32.apply(128), 128 + 16);
        assert_eq!(Swizzle::None.apply(128), 128);
    }
}
