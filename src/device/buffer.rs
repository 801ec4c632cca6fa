//! Memory of a device: a length, an element type, and aligned storage.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::{Device, Driver};
use crate::Result;

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 64-bit float: the precision in which backward rules are checked, on the CPU only.
    F64,
    /// The upper half of a 32-bit float: weights and activations on a GPU.
    Bf16,
    /// 32-bit integer: tokens, rows, labels.
    I32,
    /// Byte: a packed genome, flags.
    U8,
}

impl DType {
    /// Size of one element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 => 8,
        }
    }

    /// The name in kernels' names and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::I32 => "i32",
            Self::U8 => "u8",
        }
    }
}

/// A type that a [`Buffer`] can hold.
pub trait Element: Pod + Send + Sync {
    /// Its [`DType`].
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}

/// One cache line: the unit of allocation, so that every buffer is aligned for the widest vector load.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Where the bytes are.
enum Storage {
    Host(Vec<Line>),
    Device(Allocation),
}

/// Memory of a driver, freed when dropped.
struct Allocation {
    driver: Arc<dyn Driver>,
    address: u64,
    bytes: usize,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `allocate` of the same driver returned the address, and this is its only owner.
        unsafe { self.driver.free(self.address) }
    }
}

/// A typed piece of memory. Its capacity may exceed its length, so that a step with fewer tokens reuses it.
pub struct Buffer {
    storage: Storage,
    length: usize,
    dtype: DType,
}

impl Buffer {
    /// `length` zeros of type `dtype` in host memory.
    pub fn zeros(length: usize, dtype: DType) -> Self {
        let lines = vec![Line::zeroed(); (length * dtype.size()).div_ceil(64)];
        Self { storage: Storage::Host(lines), length, dtype }
    }

    /// `length` elements of type `dtype` on a device, with unspecified contents.
    ///
    /// # Errors
    /// Out of memory.
    pub fn on(device: &Device, length: usize, dtype: DType) -> Result<Self> {
        let Device::Kernels(driver) = device else { return Ok(Self::zeros(length, dtype)) };
        let bytes = (length * dtype.size()).next_multiple_of(256).max(256);
        let allocation = Allocation { driver: Arc::clone(driver), address: driver.allocate(bytes)?, bytes };
        Ok(Self { storage: Storage::Device(allocation), length, dtype })
    }

    /// A copy of `values` in host memory.
    pub fn from_slice<T: Element>(values: &[T]) -> Self {
        let mut buffer = Self::zeros(values.len(), T::DTYPE);
        buffer.slice_mut::<T>().copy_from_slice(values);
        buffer
    }

    /// A copy of `values` on a device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upload<T: Element>(device: &Device, values: &[T]) -> Result<Self> {
        let mut buffer = Self::on(device, values.len(), T::DTYPE)?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// Replaces the elements with `values`, wherever they are.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If type or length differ: a fault of the caller, never of input.
    pub fn write<T: Element>(&mut self, values: &[T]) -> Result<()> {
        assert_eq!((self.dtype, self.length), (T::DTYPE, values.len()), "buffer written with other contents");
        match &mut self.storage {
            Storage::Host(_) => {
                self.slice_mut::<T>().copy_from_slice(values);
                Ok(())
            }
            // SAFETY: the allocation holds at least `length` elements, as many as `values` has.
            Storage::Device(memory) => unsafe { memory.driver.write(memory.address, bytemuck::cast_slice(values)) },
        }
    }

    /// The elements, copied to the host.
    ///
    /// # Errors
    /// Those of the device; the failure of an earlier launch may show here.
    ///
    /// # Panics
    /// If they are not of type `T`: a fault of the caller, never of input.
    pub fn read<T: Element>(&self) -> Result<Vec<T>> {
        self.read_over(Vec::new())
    }

    /// As [`Buffer::read`], over what `values` holds, if that are as many: memory that was written before costs no page faults.
    fn read_over<T: Element>(&self, mut values: Vec<T>) -> Result<Vec<T>> {
        assert_eq!(self.dtype, T::DTYPE, "buffer read as another type");
        if values.len() != self.length {
            values = vec![T::zeroed(); self.length];
        }
        match &self.storage {
            Storage::Host(_) => values.copy_from_slice(self.slice()),
            // SAFETY: the allocation holds at least `length` elements, as many as `values` has.
            Storage::Device(memory) => unsafe {
                memory.driver.read(memory.address, bytemuck::cast_slice_mut(&mut values))?;
            },
        }
        Ok(values)
    }

    /// Copies the elements of `source`, which has the same type and length and lies on the same device.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If type or length differ: a fault of the caller, never of input.
    pub fn copy_from(&mut self, device: &Device, source: &Self) -> Result<()> {
        assert_eq!((self.dtype, self.length), (source.dtype, source.length), "buffer copied from another kind");
        let bytes = self.length * self.dtype.size();
        match (device, &mut self.storage, &source.storage) {
            // A graph takes no task that does nothing.
            (Device::Kernels(_), Storage::Device(_), Storage::Device(_)) if bytes == 0 => Ok(()),
            (Device::Kernels(driver), Storage::Device(target), Storage::Device(source)) => {
                // SAFETY: both allocations hold at least `bytes`.
                unsafe { driver.copy(source.address, target.address, bytes) }
            }
            (Device::Cpu, Storage::Host(target), Storage::Host(source)) => {
                bytemuck::cast_slice_mut::<Line, u8>(target)[..bytes]
                    .copy_from_slice(&bytemuck::cast_slice::<Line, u8>(source)[..bytes]);
                Ok(())
            }
            _ => panic!("buffer copied from another device"),
        }
    }

    /// Copies elements `range` of `source`, of the same type and on the same device, over those from `at` on.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If the types differ or there are not as many: a fault of the caller, never of input.
    pub fn copy_range(&mut self, device: &Device, at: usize, source: &Self, range: Range<usize>) -> Result<()> {
        let is_inside = at + range.len() <= self.length && range.end <= source.length;
        assert!(self.dtype == source.dtype && is_inside, "a range copied that is not there");
        let size = self.dtype.size();
        match (device, &mut self.storage, &source.storage) {
            _ if range.is_empty() => Ok(()),
            (Device::Kernels(driver), Storage::Device(target), Storage::Device(from)) => {
                let (from, to) = (from.address + (range.start * size) as u64, target.address + (at * size) as u64);
                // SAFETY: both ranges lie inside their allocations, which are two.
                unsafe { driver.copy(from, to, range.len() * size) }
            }
            (Device::Cpu, Storage::Host(target), Storage::Host(from)) => {
                let (target, from) =
                    (bytemuck::cast_slice_mut::<Line, u8>(target), bytemuck::cast_slice::<Line, u8>(from));
                let to = at * size..(at + range.len()) * size;
                target[to].copy_from_slice(&from[range.start * size..range.end * size]);
                Ok(())
            }
            _ => panic!("buffer copied from another device"),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Size of the allocation in bytes.
    pub fn capacity_bytes(&self) -> usize {
        match &self.storage {
            Storage::Host(lines) => lines.len() * 64,
            Storage::Device(memory) => memory.bytes,
        }
    }

    /// Whether the elements lie in host memory.
    pub fn is_on_host(&self) -> bool {
        matches!(self.storage, Storage::Host(_))
    }

    /// The address on the device, as kernels take it.
    ///
    /// # Panics
    /// For host memory: a fault of the caller, never of input.
    pub fn address(&self) -> u64 {
        match &self.storage {
            Storage::Device(memory) => memory.address,
            Storage::Host(_) => panic!("host memory was handed to a kernel"),
        }
    }

    /// Where it lies, on the device or on the host: tells two buffers apart, and orders them.
    pub(crate) fn place(&self) -> usize {
        match &self.storage {
            Storage::Device(memory) => memory.address as usize,
            Storage::Host(lines) => lines.as_ptr().addr(),
        }
    }

    /// The address of element `index`.
    ///
    /// # Panics
    /// As [`Buffer::address`].
    pub fn address_of(&self, index: usize) -> u64 {
        self.address() + (index * self.dtype.size()) as u64
    }

    /// Gives the allocation a new length and type; the contents are unspecified afterwards.
    ///
    /// # Panics
    /// If the allocation is too small.
    pub(crate) fn reshape(&mut self, length: usize, dtype: DType) {
        assert!(length * dtype.size() <= self.capacity_bytes(), "reshape beyond the allocation");
        self.length = length;
        self.dtype = dtype;
    }

    /// Shortens the buffer to its first `length` elements; the allocation stays.
    ///
    /// # Panics
    /// If it has fewer: a fault of the caller, never of input.
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.length, "a buffer was truncated to more than it has");
        self.length = length;
    }

    /// The elements of a buffer in host memory.
    ///
    /// # Panics
    /// If they are not of type `T` or not on the host: a fault of the caller, never of input.
    pub fn slice<T: Element>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "buffer read as another type");
        match &self.storage {
            Storage::Host(lines) => &bytemuck::cast_slice(lines)[..self.length],
            Storage::Device(_) => panic!("device memory was read like host memory"),
        }
    }

    /// The elements of a buffer in host memory, to write.
    ///
    /// # Panics
    /// As [`Buffer::slice`].
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "buffer written as another type");
        match &mut self.storage {
            Storage::Host(lines) => &mut bytemuck::cast_slice_mut(lines)[..self.length],
            Storage::Device(_) => panic!("device memory was written like host memory"),
        }
    }

    /// Sets every byte of the elements to zero.
    ///
    /// # Errors
    /// Those of the device.
    pub fn fill_zero(&mut self) -> Result<()> {
        self.fill_bytes(0)
    }

    /// Sets every byte to 0xFF: floats are NaN and integers -1, so that reading what was never written shows.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn poison(&mut self) -> Result<()> {
        self.fill_bytes(0xFF)
    }

    fn fill_bytes(&mut self, byte: u8) -> Result<()> {
        let bytes = self.length * self.dtype.size();
        match &mut self.storage {
            Storage::Host(lines) => {
                bytemuck::cast_slice_mut::<Line, u8>(lines)[..bytes].fill(byte);
                Ok(())
            }
            Storage::Device(_) if bytes == 0 => Ok(()), // as in `copy_from`
            // SAFETY: the allocation holds at least `length` elements.
            Storage::Device(memory) => unsafe { memory.driver.fill(memory.address, byte, bytes) },
        }
    }

    /// The elements as doubles, whatever type they are and wherever they lie.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        Ok(match self.dtype {
            DType::F32 => self.read::<f32>()?.into_iter().map(f64::from).collect(),
            DType::F64 => self.read::<f64>()?,
            DType::Bf16 => self.read::<bf16>()?.into_iter().map(f64::from).collect(),
            DType::I32 => self.read::<i32>()?.into_iter().map(f64::from).collect(),
            DType::U8 => self.read::<u8>()?.into_iter().map(f64::from).collect(),
        })
    }

    /// The elements as 32-bit floats on the host, rounded where they are f64.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.to_f32_over(Vec::new())
    }

    /// As [`Buffer::to_f32`], in the memory of `old` where it has the right size: what is copied again and again.
    ///
    /// # Errors
    /// Those of the device.
    pub fn to_f32_over(&self, old: Vec<f32>) -> Result<Vec<f32>> {
        match self.dtype {
            DType::F32 => self.read_over(old),
            _ => Ok(self.to_f64()?.into_iter().map(|value| value as f32).collect()),
        }
    }

    /// A copy on `device` in type `dtype`, rounded to nearest even where that is narrower.
    ///
    /// # Errors
    /// Those of the device.
    pub fn copy_to(&self, device: &Device, dtype: DType) -> Result<Self> {
        match dtype {
            DType::F32 => Self::upload(device, &self.to_f32()?),
            DType::F64 => Self::upload(device, &self.to_f64()?),
            DType::Bf16 => {
                let values: Vec<bf16> = self.to_f32()?.into_iter().map(bf16::from_f32).collect();
                Self::upload(device, &values)
            }
            DType::I32 => Self::upload(device, &self.read::<i32>()?),
            DType::U8 => Self::upload(device, &self.read::<u8>()?),
        }
    }
}
