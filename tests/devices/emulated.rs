//! The emulator behind the launch seam: the kernels of `kernels/`, run on the CPU, for the library's own launch code.

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use cuda_on_cpu::{GuardedBuffer, Options, TensorElement, TensorSwizzle, TiledTensor};
use helixgrad::device::attention_kernels::AttentionPath;
use helixgrad::device::gemm_choice::GemmTable;
use helixgrad::device::graphs::{Graph, Task};
use helixgrad::device::{Choices, DType, Device, Driver, Launch, Swizzle, TensorMap, Value};
use helixgrad::{Error, Result};

/// Device memory is host memory between guard pages; launches run one after the other, each with another schedule.
struct Emulator {
    capability: (u32, u32),
    attention: AttentionPath,
    gemm: GemmTable,
    memory: Mutex<HashMap<u64, GuardedBuffer>>,
    launches: AtomicU64,
}

/// A device that runs the kernels in the emulator, of which operations choose those of sm_80.
pub fn device() -> Device {
    chip((8, 0))
}

/// The same, for which operations choose as for a chip of that compute capability.
pub fn chip(capability: (u32, u32)) -> Device {
    choosing(capability, Choices::default())
}

/// The same, with the kernels that a user asks for.
pub fn choosing(capability: (u32, u32), choices: Choices) -> Device {
    let Choices { attention, gemm, .. } = choices;
    let (gemm, memory, launches) = (GemmTable::new(gemm), Mutex::default(), AtomicU64::default());
    Device::Kernels(Arc::new(Emulator { capability, attention, gemm, memory, launches }))
}

/// A tensor map as the emulator reads it.
///
/// # Errors
/// What the emulator refuses.
pub fn encode(map: &TensorMap) -> Result<Value> {
    let element = match map.dtype {
        DType::Bf16 => TensorElement::Bf16,
        _ => TensorElement::F32,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => TensorSwizzle::None,
        Swizzle::Bytes32 => TensorSwizzle::Bytes32,
        Swizzle::Bytes64 => TensorSwizzle::Bytes64,
        Swizzle::Bytes128 => TensorSwizzle::Bytes128,
    };
    let TensorMap { address, dims, strides, tile, .. } = map;
    let encoded =
        cuda_on_cpu::TensorMap::encode(&TiledTensor { address: *address, element, dims, strides, tile, swizzle });
    encoded.map(|map| Value(map.bytes())).map_err(|text| Error::Failed(format!("cannot encode {map:?}: {text}")))
}

/// The sample genome: with the sources, or below the current folder where the tests were carried to another machine.
pub fn sample_genome() -> PathBuf {
    let name = "sample/grch37_X_46M-56M.2bit";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if path.is_file() { path } else { name.into() }
}

/// The device that `HELIXGRAD_TEST_DEVICE` names: `emulator`, `cuda` or `cuda:1`. `None` where it is not set. A GPU is opened once a process:
/// each time takes a context and all kernels, which with the tests that ask for a device again and again would take longer than they do.
pub fn named() -> Option<Device> {
    static GPU: OnceLock<Device> = OnceLock::new();
    let name = std::env::var("HELIXGRAD_TEST_DEVICE").ok()?;
    if name == "emulator" {
        return Some(device());
    }
    let open = || Device::parse(&name).unwrap_or_else(|error| panic!("HELIXGRAD_TEST_DEVICE: {error}"));
    Some(GPU.get_or_init(open).clone())
}

impl Driver for Emulator {
    fn describe(&self) -> String {
        "emulator".into()
    }

    fn multiprocessors(&self) -> u32 {
        2
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    fn attention_path(&self) -> AttentionPath {
        self.attention
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let buffer = GuardedBuffer::poisoned::<u32>("buffer", bytes.div_ceil(4))
            .map_err(|error| Error::Failed(format!("cannot map {bytes} bytes: {error}")))?;
        let address = buffer.as_ptr() as u64;
        self.memory.lock().unwrap().insert(address, buffer);
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        self.memory.lock().unwrap().remove(&address);
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn copy(&self, source: u64, target: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(source as *const u8, target as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(address as *mut u8, byte, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        let name = &launch.kernel;
        let kernel = helixgrad_kernels_emulated::find(name)
            .ok_or_else(|| Error::Failed(format!("the emulator has no kernel {name}")))?;
        let mut values = launch.values(encode)?;
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut value.0).cast()).collect();
        let options = Options { seed: self.launches.fetch_add(1, Ordering::Relaxed), threads: 0 };
        let shared = launch.shared_bytes as usize;
        // SAFETY: the caller's promise; the emulator checks the number of arguments.
        unsafe { cuda_on_cpu::launch(&kernel, launch.grid, launch.block, shared, &mut pointers, &options) }
            .map_err(|fault| Error::Failed(format!("{fault} ({})", launch.shape())))
    }

    fn gemm_table(&self) -> Option<&GemmTable> {
        Some(&self.gemm)
    }

    unsafe fn make_graph(&self, tasks: &[Task]) -> Result<Option<Graph>> {
        let nothing = |task: &Task| matches!(task, Task::Copy { bytes: 0, .. } | Task::Fill { bytes: 0, .. });
        assert!(!tasks.iter().any(nothing), "CUDA takes no node that does nothing");
        Ok(Some(Graph::new(tasks.to_vec())))
    }

    unsafe fn set_task(&self, graph: &mut Graph, index: usize, task: &Task) -> Result<()> {
        let node = &mut graph.inner::<Vec<Task>>()?[index];
        assert_eq!(node.kind(), task.kind(), "a node of a graph stays of its kind");
        *node = task.clone();
        Ok(())
    }

    unsafe fn run_graph(&self, graph: &mut Graph) -> Result<()> {
        graph.inner::<Vec<Task>>()?.iter().try_for_each(|task| match task {
            // SAFETY: the caller's promise.
            Task::Launch(launch) => unsafe { self.launch(launch) },
            // SAFETY: as above.
            &Task::Copy { source, target, bytes } => unsafe { self.copy(source, target, bytes) },
            // SAFETY: as above.
            &Task::Fill { address, byte, bytes } => unsafe { self.fill(address, byte, bytes) },
        })
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
