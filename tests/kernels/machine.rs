//! Where a kernel test runs: in the emulator, with every buffer between guard pages, or on the device that
//! `HELIXGRAD_TEST_DEVICE` names, through the library's own driver.
//!
//! A GPU has no guard pages. There a buffer lies between two zones of known bytes, which are looked at after every launch:
//! a stray write is found and told with kernel and buffer. The zones hold NaN in every dtype, so a stray read that matters
//! shows in the result; for one that does not, there is compute-sanitizer (`tools/gpu_check.sh sanitize`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use bytemuck::Pod;
use cuda_on_cpu::{GuardedBuffer, Options};
use helixgrad::device::{DType, Device, Driver, Launch, Swizzle, TensorMap};

use super::emulated;
use super::harness::{Argument, Float};

/// Bytes of a zone: a row of most kernels' tiles, so that a stray one is seen.
const ZONE_BYTES: usize = 4096;
/// Repeated, these are a NaN as f32, f64 and bf16, and not the NaN that unwritten memory holds.
const ZONE_PATTERN: [u8; 2] = [0xFE, 0x7F];
/// What unwritten memory holds: NaN, or -1.
const POISON: u8 = 0xFF;

type SharedDriver = Arc<dyn Driver>;

thread_local! {
    /// The driver that [`through`] has put in the place of the emulator.
    static CHOSEN: RefCell<Option<SharedDriver>> = const { RefCell::new(None) };
    /// The zoned buffers of this thread's test: name and bytes, by address.
    static ZONED: RefCell<BTreeMap<u64, (String, usize)>> = const { RefCell::new(BTreeMap::new()) };
}

/// The driver that this thread's tests go through; `None` for the emulator and its guard pages.
fn driver() -> Option<SharedDriver> {
    static NAMED: OnceLock<Option<Device>> = OnceLock::new();
    if let Some(driver) = CHOSEN.with_borrow(Clone::clone) {
        return Some(driver);
    }
    match NAMED.get_or_init(emulated::named) {
        Some(Device::Kernels(driver)) => Some(Arc::clone(driver)),
        Some(Device::Cpu) => panic!("HELIXGRAD_TEST_DEVICE: the CPU device has no kernels"),
        None => None,
    }
}

/// Whether the kernels of `*_sm90.cu` run where the tests do; says so where they do not.
pub fn runs_sm90() -> bool {
    let runs = driver().is_none_or(|driver| driver.compute_capability() == (9, 0));
    if !runs {
        eprintln!("skipped: the device is of another compute capability than 9.0");
    }
    runs
}

/// Runs a test's body through `device`, as `HELIXGRAD_TEST_DEVICE` would.
pub fn through(device: &Device, test: impl FnOnce()) {
    let Device::Kernels(driver) = device else { panic!("the CPU device has no kernels") };
    CHOSEN.set(Some(Arc::clone(driver)));
    test();
    CHOSEN.set(None);
}

/// Memory that a kernel reads and writes; outputs start as NaN.
pub struct Memory(Place);

enum Place {
    Guarded(GuardedBuffer),
    Zoned(Zoned),
}

/// Device memory between two zones.
struct Zoned {
    driver: SharedDriver,
    /// Of the first element, behind the first zone.
    address: u64,
    bytes: usize,
}

impl Drop for Zoned {
    fn drop(&mut self) {
        ZONED.with_borrow_mut(|zoned| zoned.remove(&self.address));
        // SAFETY: `allocate` gave this address, less the zone, to this buffer alone.
        unsafe { self.driver.free(self.address - ZONE_BYTES as u64) }
    }
}

impl Zoned {
    fn new(driver: SharedDriver, name: &str, bytes: usize) -> Self {
        let zone = ZONE_PATTERN.repeat(ZONE_BYTES / ZONE_PATTERN.len());
        let start = driver.allocate(bytes + 2 * ZONE_BYTES).unwrap_or_else(|error| panic!("{name}: {error}"));
        let address = start + ZONE_BYTES as u64;
        // SAFETY: the allocation holds the bytes and a zone on either side.
        unsafe { driver.write(start, &zone).and_then(|()| driver.fill(address, POISON, bytes)) }
            // SAFETY: as above.
            .and_then(|()| unsafe { driver.write(address + bytes as u64, &zone) })
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        ZONED.with_borrow_mut(|zoned| zoned.insert(address, (name.into(), bytes)));
        Self { driver, address, bytes }
    }
}

/// Panics if a launch has changed a zone.
fn check_zones(driver: &SharedDriver, launch: &Launch) {
    let zoned = ZONED.with_borrow(Clone::clone);
    for (address, (name, bytes)) in zoned {
        for (side, at) in [("before", address - ZONE_BYTES as u64), ("behind", address + bytes as u64)] {
            let mut zone = vec![0; ZONE_BYTES];
            // SAFETY: the zone belongs to the buffer's allocation.
            unsafe { driver.read(at, &mut zone) }.unwrap_or_else(|error| panic!("{}: {error}", launch.kernel));
            let changed = zone.iter().zip(ZONE_PATTERN.iter().cycle()).position(|(found, expected)| found != expected);
            if let Some(changed) = changed {
                let (kernel, shape) = (&launch.kernel, launch.shape());
                panic!(
                    "{kernel} ({shape}) wrote {side} buffer `{name}` ({bytes} bytes), byte {changed} of the zone there"
                );
            }
        }
    }
}

impl Memory {
    fn copy<E: cuda_on_cpu::Element + Pod>(name: &str, values: &[E]) -> Self {
        let Some(driver) = driver() else {
            return Self(Place::Guarded(GuardedBuffer::from_slice(name, values).unwrap()));
        };
        let zoned = Zoned::new(driver, name, size_of_val(values));
        // SAFETY: the buffer has room for the values.
        unsafe { zoned.driver.write(zoned.address, bytemuck::cast_slice(values)) }.unwrap();
        Self(Place::Zoned(zoned))
    }

    fn poison<E: cuda_on_cpu::Element + Pod>(name: &str, count: usize) -> Self {
        Self(match driver() {
            Some(driver) => Place::Zoned(Zoned::new(driver, name, count * size_of::<E>())),
            None => Place::Guarded(GuardedBuffer::poisoned::<E>(name, count).unwrap()),
        })
    }

    fn read<E: cuda_on_cpu::Element + Pod>(&self) -> Vec<E> {
        match &self.0 {
            Place::Guarded(buffer) => buffer.to_vec(),
            Place::Zoned(Zoned { driver, address, bytes }) => {
                let mut values = vec![E::zeroed(); bytes / size_of::<E>()];
                // SAFETY: the buffer has as many bytes as the values.
                unsafe { driver.read(*address, bytemuck::cast_slice_mut(&mut values)) }.unwrap();
                values
            }
        }
    }

    fn pointer(&self) -> *mut c_void {
        match &self.0 {
            Place::Guarded(buffer) => buffer.as_ptr(),
            Place::Zoned(zoned) => zoned.address as *mut c_void,
        }
    }

    pub fn of<T: Float>(name: &str, values: &[f32]) -> Self {
        let bits: Vec<T::Bits> = values.iter().map(|&value| T::bits(value)).collect();
        Self::copy(name, &bits)
    }
    pub fn integers(name: &str, values: &[i32]) -> Self {
        Self::copy(name, values)
    }
    pub fn raw<E: cuda_on_cpu::Element + Pod>(name: &str, values: &[E]) -> Self {
        Self::copy(name, values)
    }
    pub fn poisoned<T: Float>(name: &str, count: usize) -> Self {
        Self::poison::<T::Bits>(name, count)
    }
    pub fn poisoned_integers(name: &str, count: usize) -> Self {
        Self::poison::<i32>(name, count)
    }
    pub fn poisoned_doubles(name: &str, count: usize) -> Self {
        Self::poison::<f64>(name, count)
    }
    pub fn poisoned_raw<E: cuda_on_cpu::Element + Pod>(name: &str, count: usize) -> Self {
        Self::poison::<E>(name, count)
    }
    /// The address of element `index`.
    pub fn at<T: Float>(&self, index: usize) -> Argument {
        Argument::Pointer(self.pointer().cast::<T::Bits>().wrapping_add(index).cast())
    }
    pub fn address(&self) -> u64 {
        self.pointer() as u64
    }
    /// A tensor of this memory as the copy engine takes it; `strides` in elements, the innermost dimension first.
    pub fn map(&self, dtype: DType, dims: &[usize], strides: &[usize], tile: &[u32], swizzle: Swizzle) -> Argument {
        let map = TensorMap {
            address: self.address(),
            dtype,
            dims: dims.iter().map(|&dim| dim as u64).collect(),
            strides: strides.iter().map(|&stride| (stride * dtype.size()) as u64).collect(),
            tile: tile.to_vec(),
            swizzle,
        };
        let encoded = emulated::encode(&map).unwrap_or_else(|error| panic!("{error}"));
        Argument::TensorMap(map, Box::new(encoded))
    }
    pub fn values<T: Float>(&self) -> Vec<f32> {
        self.read::<T::Bits>().into_iter().map(T::value).collect()
    }
    pub fn to_integers(&self) -> Vec<i32> {
        self.read()
    }
    pub fn to_doubles(&self) -> Vec<f64> {
        self.read()
    }
}

impl From<&Memory> for Argument {
    fn from(memory: &Memory) -> Self {
        Self::Pointer(memory.pointer())
    }
}
impl From<Option<&Memory>> for Argument {
    fn from(memory: Option<&Memory>) -> Self {
        memory.map_or(Self::NULL, Self::from)
    }
}

/// Runs a kernel; `schedule` is the seed of the order in which threads run.
pub fn run(kernel: &str, grid: [usize; 2], block: [u32; 2], schedule: u64, arguments: Vec<Argument>) {
    let grid = [grid[0].max(1) as u32, grid[1].max(1) as u32, 1];
    run_3d(kernel, grid, [block[0], block[1], 1], 0, schedule, arguments);
}

/// As [`run`], in three dimensions and with `shared` bytes of dynamic shared memory.
pub fn run_3d(
    kernel: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared: usize,
    schedule: u64,
    mut arguments: Vec<Argument>,
) {
    if let Some(driver) = driver() {
        let launch = Launch::new(kernel, 1, 1).block(block[0], block[1], block[2]).shared(shared as u32);
        let mut launch = arguments.iter().fold(launch, |launch, argument| argument.add_to(launch));
        launch.grid = grid;
        // SAFETY: the arguments are those of the kernel, and live until the driver has finished.
        unsafe { driver.launch(&launch) }
            .and_then(|()| driver.synchronize())
            .unwrap_or_else(|error| panic!("{kernel} ({}): {error}", launch.shape()));
        return check_zones(&driver, &launch);
    }
    let found = helixgrad_kernels_emulated::find(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
    let mut places: Vec<*mut c_void> = arguments.iter_mut().map(Argument::place).collect();
    let options = Options { seed: schedule, ..Options::default() };
    // SAFETY: the arguments live until the launch returns; their number is checked, their sizes are those of the kernel's
    // parameters, and the buffers lie between guard pages.
    unsafe { cuda_on_cpu::launch(&found, grid, block, shared, &mut places, &options) }
        .unwrap_or_else(|fault| panic!("{fault}"));
}

/// The way to a GPU, taken with the emulator at its end: every argument and every buffer arrives, and one kernel of each
/// kind gives the same bits as with guard pages.
#[test]
fn through_a_driver_kernels_give_the_same_bits() {
    let run = || {
        let values = Memory::of::<half::bf16>("values", &super::harness::normals::<half::bf16>(3, 1000, 1.0));
        let (dropout, _) = super::harness::dropout(0.3, 5);
        run_3d(
            "dropout_apply_bf16",
            [1, 1, 1],
            [256, 1, 1],
            0,
            0,
            vec![(&values).into(), 1000i64.into(), dropout.into()],
        );
        values.values::<half::bf16>()
    };
    let expected = run();
    let mut found = Vec::new();
    through(&emulated::device(), || found = run());
    assert!(found.contains(&0.0) && found.iter().any(|&value| value != 0.0));
    assert_eq!(found, expected);
}

/// A launch that counts one element too many writes into the zone behind the buffer, and one that starts one too early into
/// the zone before it.
#[test]
fn a_stray_write_is_found_between_zones() {
    let found = |offset: isize, count: i64| {
        let stray = std::panic::catch_unwind(|| {
            through(&emulated::device(), || {
                let _other = Memory::poisoned_integers("other", 7);
                let values = Memory::of::<f32>("values", &[1.0; 100]);
                let start = Argument::Pointer(values.pointer().wrapping_byte_offset(4 * offset));
                let (half, _) = super::harness::dropout(0.5, 1);
                run("dropout_apply_f32", [1, 1], [256, 1], 0, vec![start, count.into(), half.into()]);
            });
        });
        CHOSEN.set(None);
        stray.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
    };
    assert_eq!(found(0, 100), None);
    let message = found(0, 108).unwrap();
    assert!(
        message.contains("dropout_apply_f32 (grid [1, 1, 1]") && message.contains("behind buffer `values`"),
        "{message}"
    );
    let message = found(-8, 100).unwrap();
    assert!(message.contains("before buffer `values` (400 bytes)"), "{message}");
}
