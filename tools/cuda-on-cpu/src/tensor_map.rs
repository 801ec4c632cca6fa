//! Tensor maps: what `cuTensorMapEncodeTiled` writes for a chip is opaque, this is the emulator's own.

use crate::descriptor::Swizzle;

/// Marks a map of this crate; a chip's would be refused.
const MAGIC: u64 = 0x7065_6d61_7020_6f63;
/// The most dimensions that a map has.
pub(crate) const RANK: usize = 5;

/// Type of the elements of a mapped tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorElement {
    /// 16 bits.
    Bf16,
    /// 32 bits.
    F32,
}

/// The permutation of 16-byte chunks that a copy into shared memory applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorSwizzle {
    /// Rows as they are.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl From<TensorSwizzle> for Swizzle {
    fn from(swizzle: TensorSwizzle) -> Swizzle {
        match swizzle {
            TensorSwizzle::None => Swizzle::None,
            TensorSwizzle::Bytes32 => Swizzle::Bytes32,
            TensorSwizzle::Bytes64 => Swizzle::Bytes64,
            TensorSwizzle::Bytes128 => Swizzle::Bytes128,
        }
    }
}

/// What a map is made from: the arguments of `cuTensorMapEncodeTiled`, the innermost dimension first.
#[derive(Clone, Copy, Debug)]
pub struct TiledTensor<'a> {
    /// Global address of element 0.
    pub address: u64,
    /// Type of the elements.
    pub element: TensorElement,
    /// Elements in each dimension.
    pub dims: &'a [u64],
    /// Bytes from one index to the next, for every dimension but the innermost, which is dense.
    pub strides: &'a [u64],
    /// Elements of a copied tile in each dimension.
    pub tile: &'a [u32],
    /// Permutation in shared memory.
    pub swizzle: TensorSwizzle,
}

/// A map as kernels of this crate take it: a `__grid_constant__` parameter of 128 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct TensorMap {
    magic: u64,
    pub(crate) address: u64,
    pub(crate) dims: [u64; RANK],
    /// Bytes; that of the innermost dimension is the element's size.
    pub(crate) strides: [u64; RANK],
    pub(crate) tile: [u32; RANK],
    pub(crate) rank: u8,
    swizzle: u8,
    reserved: [u8; 10],
}

const _: () = assert!(size_of::<TensorMap>() == 128);

impl TensorMap {
    /// Checks the arguments as the driver does, and encodes them.
    ///
    /// Returns what is wrong, in words. A swizzled row must fill its span exactly: how a chip lays out narrower ones is not
    /// known here.
    pub fn encode(tensor: &TiledTensor) -> Result<TensorMap, String> {
        let TiledTensor { address, element, dims, strides, tile, swizzle } = *tensor;
        let rank = dims.len();
        if !(1..=RANK).contains(&rank) || strides.len() + 1 != rank || tile.len() != rank {
            return Err(format!("{rank} dimensions, {} strides and a tile of {}", strides.len(), tile.len()));
        }
        if !address.is_multiple_of(16) || address == 0 {
            return Err(format!("the address {address:#x} is not aligned to 16 bytes"));
        }
        if let Some(dim) = dims.iter().find(|dim| !(1..=1 << 32).contains(*dim)) {
            return Err(format!("a dimension of {dim} elements: 1 to 2^32 are allowed"));
        }
        if let Some(stride) = strides.iter().find(|stride| !stride.is_multiple_of(16) || **stride >= 1 << 40) {
            return Err(format!("a stride of {stride} bytes: it must be a multiple of 16 below 2^40"));
        }
        if let Some(length) = tile.iter().find(|length| !(1..=256).contains(*length)) {
            return Err(format!("a tile of {length} elements in one dimension: 1 to 256 are allowed"));
        }
        let size = match element {
            TensorElement::Bf16 => 2,
            TensorElement::F32 => 4,
        };
        let row = u64::from(tile[0]) * size;
        if !row.is_multiple_of(16) {
            return Err(format!("rows of {row} bytes in the tile: they must be multiples of 16"));
        }
        let span = u64::from(Swizzle::from(swizzle).span());
        if swizzle != TensorSwizzle::None && row != span {
            return Err(format!("rows of {row} bytes in the tile, with a swizzle of {span} bytes: they must agree"));
        }
        let mut map = TensorMap {
            magic: MAGIC,
            address,
            dims: [1; RANK],
            strides: [0; RANK],
            tile: [1; RANK],
            rank: rank as u8,
            swizzle: swizzle as u8,
            reserved: [0; 10],
        };
        map.dims[..rank].copy_from_slice(dims);
        map.strides[0] = size;
        map.strides[1..rank].copy_from_slice(strides);
        map.tile[..rank].copy_from_slice(tile);
        Ok(map)
    }

    /// The bytes of the kernel's parameter.
    pub fn bytes(&self) -> [u8; 128] {
        // SAFETY: 128 bytes of integers without padding.
        unsafe { std::mem::transmute(*self) }
    }

    /// Whether this was made by [`TensorMap::encode`].
    pub(crate) fn is_valid(&self) -> bool {
        self.magic == MAGIC && (1..=RANK).contains(&(self.rank as usize)) && self.swizzle <= 3
    }

    pub(crate) fn swizzle(&self) -> Swizzle {
        [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128][self.swizzle as usize % 4]
    }

    /// Bytes of a tile in shared memory.
    pub(crate) fn tile_bytes(&self) -> usize {
        self.tile.iter().map(|length| *length as usize).product::<usize>() * self.strides[0] as usize
    }

    /// Calls `visit` for each row of the tile at `coordinates` that has elements inside the tensor: its offset in the tile,
    /// its global address and its length in bytes.
    pub(crate) fn rows(&self, coordinates: [i32; RANK], mut visit: impl FnMut(usize, u64, usize)) {
        let size = self.strides[0] as i64;
        let [x, ..] = coordinates.map(i64::from);
        let (first, end) = (x.max(0), (x + i64::from(self.tile[0])).min(self.dims[0].cast_signed()));
        if first >= end {
            return;
        }
        let row_bytes = self.tile[0] as usize * size as usize;
        let outer: usize = self.tile[1..].iter().map(|length| *length as usize).product();
        for row in 0..outer {
            let mut rest = row;
            let mut address = self.address.cast_signed() + first * size;
            let inside = (1..RANK).all(|dim| {
                let index = i64::from(coordinates[dim]) + (rest % self.tile[dim] as usize) as i64;
                rest /= self.tile[dim] as usize;
                address += index * self.strides[dim].cast_signed();
                (0..self.dims[dim].cast_signed()).contains(&index)
            });
            if inside {
                let offset = row * row_bytes + ((first - x) * size) as usize;
                visit(offset, address.cast_unsigned(), ((end - first) * size) as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor() -> TiledTensor<'static> {
        TiledTensor {
            address: 4096,
            element: TensorElement::Bf16,
            dims: &[10, 3],
            strides: &[32],
            tile: &[8, 2],
            swizzle: TensorSwizzle::None,
        }
    }

    #[test]
    fn rows_are_clipped_in_every_dimension() {
        let map = TensorMap::encode(&tensor()).unwrap();
        let rows = |coordinates| {
            let mut rows = Vec::new();
            map.rows(coordinates, |offset, address, bytes| rows.push((offset, address, bytes)));
            rows
        };
        assert_eq!(map.tile_bytes(), 32);
        assert_eq!(rows([0, 1, 0, 0, 0]), [(0, 4128, 16), (16, 4160, 16)]);
        assert_eq!(rows([8, 2, 0, 0, 0]), [(0, 4096 + 64 + 16, 4)]);
        assert_eq!(rows([-3, -1, 0, 0, 0]), [(16 + 6, 4096, 10)]);
        assert_eq!(rows([10, 0, 0, 0, 0]), []);
    }

    #[test]
    fn what_the_driver_refuses_is_refused() {
        let refused = [
            TiledTensor { address: 8, ..tensor() },
            TiledTensor { strides: &[24], ..tensor() },
            TiledTensor { tile: &[4, 2], ..tensor() },
            TiledTensor { tile: &[8, 257], ..tensor() },
            TiledTensor { dims: &[0, 3], ..tensor() },
            TiledTensor { strides: &[], ..tensor() },
            TiledTensor { swizzle: TensorSwizzle::Bytes32, ..tensor() },
        ];
        for tensor in refused {
            assert!(TensorMap::encode(&tensor).is_err(), "{tensor:?}");
        }
    }
}
