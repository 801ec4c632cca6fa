//! An NVIDIA GPU through the CUDA driver. libcuda is opened at run time, so one binary serves machines with and without it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::sys::{self, CUresult};

use super::attention_kernels::AttentionPath;
use super::collective::{Collective, UniqueId};
use super::gemm_choice::{GemmChoice, GemmTable};
use super::graphs::{Graph, Task};
use super::kernels;
use super::product::Product;
use super::{Choices, DType, Driver, Launch, LaunchLog, Mark, Swizzle, TensorMap, Value};
use crate::error::Shortage;
use crate::{Error, Result};

pub mod cublaslt;
mod graph;
mod library;
pub mod nccl;

use cublaslt::CublasLt;
use graph::CudaGraph;
use library::{Failure, describe, driver};

/// What this machine has; for `helixgrad doctor` and for messages.
#[derive(Clone, Debug, serde::Serialize)]
pub struct GpuInfo {
    /// Its number on this machine.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Compute capability, as in "9.0".
    pub compute_capability: String,
    /// Memory in bytes.
    pub memory_bytes: usize,
    /// Number of multiprocessors.
    pub multiprocessors: usize,
}

impl GpuInfo {
    /// The compute capability as numbers.
    pub fn capability(&self) -> (u32, u32) {
        let number = |text: &str| text.parse().unwrap_or(0);
        self.compute_capability.split_once('.').map_or((0, 0), |(major, minor)| (number(major), number(minor)))
    }
}

/// Whether libcuda can be opened.
pub fn library_present() -> bool {
    // SAFETY: opens and closes the library by its name; its initialisers are NVIDIA's.
    unsafe { sys::is_culib_present() }
}

/// The GPUs of this machine.
///
/// # Errors
/// [`Error::Failed`] if there is no driver, or it does not start.
pub fn gpus() -> Result<Vec<GpuInfo>> {
    start()?;
    let mut count = 0;
    // SAFETY: the driver is present, and writes one integer to a live place.
    unsafe { driver::cuDeviceGetCount(&raw mut count) }.map_err(|error| failed("count the GPUs", error))?;
    (0..count as usize).map(|ordinal| info(ordinal).map(|(_, _, info)| info)).collect()
}

/// The CUDA version that the driver supports, as in (13, 0).
///
/// # Errors
/// As [`gpus`].
pub fn driver_version() -> Result<(i32, i32)> {
    start()?;
    let mut version = 0;
    // SAFETY: the driver is present, and writes one integer to a live place.
    unsafe { driver::cuDriverGetVersion(&raw mut version) }
        .map_err(|error| failed("ask the driver's version", error))?;
    Ok((version / 1000, version % 1000 / 10))
}

/// Opens GPU `ordinal` and loads the kernels of this build, and cuBLASLt where `choices` may need it.
///
/// # Errors
/// [`Error::Failed`] if this build has no kernels, the machine no driver or no such GPU, or the kernels no code for it;
/// [`Error::Usage`] if cuBLASLt is asked for and not there.
pub fn open(ordinal: usize, choices: Choices) -> Result<Arc<dyn Driver>> {
    if kernels::embedded().is_empty() {
        return Err(Error::usage(
            "this build has no CUDA kernels: no nvcc was found when it was compiled",
            "run tools/install-nvcc.sh and build again, or use --device cpu; `helixgrad doctor` says more",
        ));
    }
    let mut gpu = Gpu::open(ordinal, choices.attention)?;
    gpu.choose_gemm(choices.gemm)?;
    // Code for other chips does not wait by itself.
    gpu.dependent = choices.dependent_launch && gpu.capability == (9, 0);
    Ok(Arc::new(gpu))
}

fn start() -> Result<()> {
    if !library_present() {
        return Err(Error::usage(
            "there is no NVIDIA driver on this machine (libcuda.so cannot be opened)",
            "install the driver, or use --device cpu",
        ));
    }
    // SAFETY: the driver is present.
    unsafe { driver::cuInit(0) }.map_err(|error| failed("start the CUDA driver", error))
}

fn info(ordinal: usize) -> Result<(sys::CUdevice, (u32, u32), GpuInfo)> {
    let at = |error| failed(&format!("ask about GPU {ordinal}"), error);
    let mut device = 0;
    // SAFETY: the driver was started; it writes one number to a live place.
    unsafe { driver::cuDeviceGet(&raw mut device, ordinal as i32) }.map_err(at)?;
    let attribute = |attribute| {
        let mut value = 0;
        // SAFETY: as above; `device` was returned by the driver.
        unsafe { driver::cuDeviceGetAttribute(&raw mut value, attribute, device) }.map_err(at)?;
        Ok::<i32, Error>(value)
    };
    let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let multiprocessors = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
    let (mut memory_bytes, mut name) = (0, [0u8; 256]);
    // SAFETY: as above.
    unsafe { driver::cuDeviceTotalMem_v2(&raw mut memory_bytes, device) }.map_err(at)?;
    // SAFETY: as above; the driver writes no more than it is told, a zero behind the name.
    unsafe { driver::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), name.len() as i32, device) }.map_err(at)?;
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned();
    let compute_capability = format!("{major}.{minor}");
    Ok((
        device,
        (major as u32, minor as u32),
        GpuInfo { ordinal, name, compute_capability, memory_bytes, multiprocessors },
    ))
}

fn failed(what: &str, error: Failure) -> Error {
    Error::Failed(format!("CUDA cannot {what}: {}", describe(error)))
}

/// One GPU, its context, one stream, and the loaded kernels.
struct Gpu {
    info: GpuInfo,
    capability: (u32, u32),
    attention: AttentionPath,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<(&'static str, sys::CUmodule)>,
    functions: Mutex<HashMap<String, Function>>,
    /// The vendor's matrix products, where they may be wanted.
    /// Opened when it is first asked for: by a choice of products, or by who measures what the GPU can do.
    cublaslt: OnceLock<Option<CublasLt>>,
    gemm: GemmTable,
    /// Whether a kernel may start before the one in front of it has ended; its code then waits by itself.
    dependent: bool,
    log: LaunchLog,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it was last allowed.
    shared_bytes: u32,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs; every method makes it so first.
unsafe impl Send for Gpu {}
// SAFETY: as above; the table of functions is behind a mutex.
unsafe impl Sync for Gpu {}

impl Gpu {
    fn open(ordinal: usize, attention: AttentionPath) -> Result<Self> {
        let gpus = gpus()?;
        if ordinal >= gpus.len() {
            return Err(Error::usage(
                format!("--device cuda:{ordinal}, but this machine has {} GPUs", gpus.len()),
                "choose a smaller number, or use --device cpu",
            ));
        }
        let (device, capability, info) = info(ordinal)?;
        let (mut context, mut stream) = (null_mut(), null_mut());
        // SAFETY: `device` was returned by the driver; the context is kept for the life of the process.
        unsafe { driver::cuDevicePrimaryCtxRetain(&raw mut context, device) }
            .map_err(|error| failed("open the GPU", error))?;
        // SAFETY: the context was just retained.
        unsafe { driver::cuCtxSetCurrent(context) }.map_err(|error| failed("use the GPU", error))?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a context is current; the driver writes one handle.
        unsafe { driver::cuStreamCreate(&raw mut stream, flags) }.map_err(|error| failed("make a stream", error))?;
        let mut modules = Vec::new();
        for file in kernels::embedded() {
            let mut module = null_mut();
            // SAFETY: the image is a complete fat binary that nvcc wrote.
            match unsafe { driver::cuModuleLoadData(&raw mut module, file.fatbin.as_ptr().cast::<c_void>()) } {
                Ok(()) => modules.push((file.name, module)),
                // Files for one architecture only have no code for the others; their kernels are then not found by name.
                Err(error) if error.is(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU) => {}
                Err(error) => {
                    let targets = file.targets.join(", ");
                    let what = format!("load the kernels of {}.cu (built for {targets}) on a {}", file.name, info.name);
                    return Err(failed(&what, error));
                }
            }
        }
        if modules.is_empty() {
            return Err(Error::Failed(format!(
                "no kernel of this build has code for compute capability {} ({}); build with HELIXGRAD_CUDA_ARCHS set for it",
                info.compute_capability, info.name
            )));
        }
        Ok(Self {
            info,
            capability,
            attention,
            context,
            stream,
            modules,
            functions: Mutex::default(),
            cublaslt: OnceLock::new(),
            gemm: GemmTable::new(GemmChoice::Own),
            dependent: false,
            log: LaunchLog::default(),
        })
    }

    /// Opens cuBLASLt where `choice` may need it. Without the library, `auto` means our own kernels.
    fn choose_gemm(&mut self, choice: GemmChoice) -> Result<()> {
        let choice = match (choice, choice.wants_vendor().then(CublasLt::open)) {
            (_, None) => choice,
            (_, Some(Ok(library))) => {
                self.cublaslt = OnceLock::from(Some(library));
                choice
            }
            (GemmChoice::Auto, Some(Err(error))) => {
                tracing::info!("matrix products by our own kernels: {error}");
                GemmChoice::Own
            }
            (_, Some(Err(error))) => return Err(error),
        };
        self.gemm = GemmTable::new(choice);
        Ok(())
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        unsafe { driver::cuCtxSetCurrent(self.context) }.map_err(|error| self.failed("use the GPU", error))
    }

    /// The error of a call. Where it is that of a kernel launched earlier, it names the last launches.
    fn failed(&self, what: &str, error: Failure) -> Error {
        let of_a_kernel = [
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
            CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
            CUresult::CUDA_ERROR_INVALID_PC,
            CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
            CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
            CUresult::CUDA_ERROR_LAUNCH_FAILED,
            CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
            CUresult::CUDA_ERROR_ASSERT,
        ];
        match failed(what, error) {
            Error::Failed(text) if of_a_kernel.into_iter().any(|status| error.is(status)) => {
                Error::Failed(text + &self.log.describe())
            }
            other => other,
        }
    }

    /// The kernel called `name`, allowed to use `shared_bytes` of dynamic shared memory.
    fn function(&self, name: &str, shared_bytes: u32) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = functions.get(name).copied();
        let mut function = match known {
            Some(function) => function,
            None => Function { handle: self.find(name)?, shared_bytes: 48 << 10 },
        };
        if shared_bytes > function.shared_bytes {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is of a module that is never unloaded.
            unsafe { driver::cuFuncSetAttribute(function.handle, attribute, shared_bytes as i32) }
                .map_err(|error| failed(&format!("give kernel {name} {shared_bytes} bytes of shared memory"), error))?;
            function.shared_bytes = shared_bytes;
        }
        functions.insert(name.to_owned(), function);
        Ok(function.handle)
    }

    fn find(&self, name: &str) -> Result<sys::CUfunction> {
        let missing = || Error::Failed(format!("this build has no kernel {name} for a {}", self.info.name));
        let symbol = CString::new(name).map_err(|_| missing())?;
        let mut found = self.modules.iter().filter_map(|(_, module)| {
            let mut function = null_mut();
            // SAFETY: the module is loaded and never unloaded; the name ends with a zero.
            unsafe { driver::cuModuleGetFunction(&raw mut function, *module, symbol.as_ptr()) }.ok().map(|()| function)
        });
        found.next().ok_or_else(missing)
    }
}

/// A tensor map as the chip's copy engine reads it.
fn encode(map: &TensorMap, launch: &Launch) -> Result<Value> {
    let dtype = match map.dtype {
        DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let mut value = Value([0; 128]);
    let element_strides = vec![1u32; map.dims.len()];
    // One more than the driver reads: of a tensor of one dimension it then gets a stride that would do, not the address of nothing.
    let strides: Vec<u64> = map.strides.iter().copied().chain([map.row_bytes().next_multiple_of(16)]).collect();
    // SAFETY: a map of 128 bytes, aligned to 64; every array has an entry for each dimension, and the driver only reads them.
    // Whether the address is mapped is for the kernel that uses it.
    unsafe {
        driver::cuTensorMapEncodeTiled(
            (&raw mut value.0).cast(),
            dtype,
            map.dims.len() as u32,
            map.address as *mut c_void,
            map.dims.as_ptr(),
            strides.as_ptr(),
            map.tile.as_ptr(),
            element_strides.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            // Tiles are read whole, and by several blocks: let the L2 fetch its longest line.
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .map_err(|error| failed(&format!("encode {map:?} for kernel {}", launch.kernel), error))?;
    Ok(value)
}

impl Driver for Gpu {
    fn describe(&self) -> String {
        format!("cuda:{} ({})", self.info.ordinal, self.info.name)
    }

    fn multiprocessors(&self) -> u32 {
        self.info.multiprocessors as u32
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    fn attention_path(&self) -> AttentionPath {
        self.attention
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: the memory is unset; buffers say so, and operations write before they read.
        unsafe { driver::cuMemAlloc_v2(&raw mut address, bytes) }.map(|()| address).map_err(|error| {
            if !error.is(CUresult::CUDA_ERROR_OUT_OF_MEMORY) {
                return self.failed(&format!("allocate {bytes} bytes"), error);
            }
            let (mut free, mut total) = (0, 0);
            // SAFETY: a context is current, and both places live. Where it fails, they stay zero.
            let _ = unsafe { driver::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
            let (device, needed) = (self.describe(), bytes);
            Error::OutOfMemory(Box::new(Shortage { device, needed, free, total, ..Shortage::default() }))
        })
    }

    unsafe fn free(&self, address: u64) {
        if self.enter().is_ok() {
            // SAFETY: the caller's promise; the driver waits for kernels that still use the memory.
            let _ = unsafe { driver::cuMemFree_v2(address) };
        }
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise. The copy from pageable memory has left `bytes` when the call returns.
        unsafe { driver::cuMemcpyHtoDAsync_v2(address, bytes.as_ptr().cast(), bytes.len(), self.stream) }
            .map_err(|error| self.failed("copy to the GPU", error))
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; the stream is waited for before `bytes` is used.
        unsafe { driver::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), address, bytes.len(), self.stream) }
            .map_err(|error| self.failed("copy from the GPU", error))?;
        self.synchronize()
    }

    unsafe fn copy(&self, source: u64, target: u64, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { driver::cuMemcpyDtoDAsync_v2(target, source, bytes, self.stream) }
            .map_err(|error| self.failed("copy inside GPU memory", error))
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { driver::cuMemsetD8Async(address, byte, bytes, self.stream) }
            .map_err(|error| self.failed("fill GPU memory", error))
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.enter()?;
        let function = self.function(&launch.kernel, launch.shared_bytes)?;
        let mut values = launch.values(|map| encode(map, launch))?;
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut value.0).cast()).collect();
        let [grid_x, grid_y, grid_z] = launch.grid;
        let [block_x, block_y, block_z] = launch.block;
        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        value.programmaticStreamSerializationAllowed = 1;
        let id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        let mut attribute = sys::CUlaunchAttribute { id, pad: [0; 4], value };
        let config = sys::CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: block_x,
            blockDimY: block_y,
            blockDimZ: block_z,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.dependent),
        };
        // SAFETY: the caller's promise about the arguments; the driver copies them and the attributes before it returns.
        unsafe { driver::cuLaunchKernelEx(&raw const config, function, pointers.as_mut_ptr(), null_mut()) }
            .map_err(|error| self.failed(&format!("launch kernel {launch}"), error))?;
        self.log.note(launch);
        Ok(())
    }

    fn gemm_table(&self) -> Option<&GemmTable> {
        Some(&self.gemm)
    }

    unsafe fn vendor_product(&self, product: &Product) -> Result<bool> {
        self.enter()?;
        let Some(library) = self.cublaslt.get_or_init(|| CublasLt::open().ok()) else { return Ok(false) };
        // SAFETY: the caller's promise; the stream is of this GPU's context, which is current.
        unsafe { library.multiply(product, self.stream) }
    }

    fn join(&self, id: &UniqueId, rank: usize, size: usize) -> Result<Box<dyn Collective>> {
        self.enter()?;
        // SAFETY: the stream was made in this context by `open`; neither is ever destroyed.
        let joined = unsafe { nccl::Nccl::join(id, rank, size, self.stream, self.context) };
        Ok(Box::new(joined?))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream was made by `open` and is never destroyed.
        unsafe { driver::cuStreamSynchronize(self.stream) }
            .map_err(|error| self.failed("finish the work launched so far", error))
    }

    unsafe fn make_graph(&self, tasks: &[Task]) -> Result<Option<Graph>> {
        // SAFETY: the caller's promise.
        Ok(unsafe { self.chain(tasks) }?.map(Graph::new))
    }

    unsafe fn set_task(&self, graph: &mut Graph, index: usize, task: &Task) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.set_node(graph.inner::<CudaGraph>()?, index, task) }
    }

    unsafe fn run_graph(&self, graph: &mut Graph) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.run_chain(graph.inner::<CudaGraph>()?) }
    }

    fn mark(&self) -> Result<Mark> {
        self.enter()?;
        let at = |error| failed("mark a place in the stream", error);
        let mut event = Event { handle: null_mut(), context: self.context };
        // SAFETY: the context is current; the driver writes one handle.
        unsafe { driver::cuEventCreate(&raw mut event.handle, sys::CUevent_flags::CU_EVENT_DEFAULT as u32) }
            .map_err(at)?;
        // SAFETY: the event was just made in this context, to which the stream belongs.
        unsafe { driver::cuEventRecord(event.handle, self.stream) }.map_err(at)?;
        Ok(Mark::of_event(event))
    }

    fn seconds_between(&self, first: &Mark, last: &Mark) -> Result<f64> {
        let (Some(first), Some(last)) = (first.event::<Event>(), last.event::<Event>()) else {
            return Ok(Mark::host_seconds(first, last));
        };
        self.enter()?;
        let at = |error| failed("measure the time between two places in the stream", error);
        // SAFETY: both events live, and were recorded when they were made.
        unsafe { driver::cuEventSynchronize(last.handle) }.map_err(at)?;
        let mut milliseconds = 0f32;
        // SAFETY: as above; the driver writes one number.
        unsafe { driver::cuEventElapsedTime(&raw mut milliseconds, first.handle, last.handle) }.map_err(at)?;
        Ok(f64::from(milliseconds) * 1e-3)
    }

    fn collect_profile(&self, on: bool) -> Result<()> {
        self.synchronize()?;
        // SAFETY: neither call takes anything; the context is current.
        let done = unsafe { if on { driver::cuProfilerStart() } else { driver::cuProfilerStop() } };
        done.map_err(|error| failed("start or stop the profiler's collection", error))
    }
}

/// An event in a stream.
struct Event {
    handle: sys::CUevent,
    context: sys::CUcontext,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs; every use makes it so first.
unsafe impl Send for Event {}
// SAFETY: as above; nothing changes the handle.
unsafe impl Sync for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the context lives as long as the process, and this is the event's only owner. The driver keeps what a
        // stream still needs of it.
        unsafe {
            if !self.handle.is_null() && driver::cuCtxSetCurrent(self.context).is_ok() {
                let _ = driver::cuEventDestroy_v2(self.handle);
            }
        }
    }
}
