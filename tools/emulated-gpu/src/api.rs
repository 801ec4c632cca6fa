//! The functions of libcuda that Helixgrad calls, with their names and types
//! (docs.nvidia.com/cuda/cuda-driver-api). What is not here is not found, and the program that needs it says so.
//!
//! Every function is `unsafe` as the interface is: pointers for results point to places of their types.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use cuda_on_cpu::{TensorElement, TensorMap, TensorSwizzle, TiledTensor};
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute,
    CUlaunchAttributeID, CUlaunchConfig, CUmodule, CUresult, CUstream, CUtensorMap, CUtensorMapDataType,
    CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion, CUtensorMapSwizzle,
};

use crate::fatbin::{self, Image};
use crate::gpu::{self, Answer, CONTEXT, Event, Gpu, STREAM, Task, current, started};

/// What the handles of a kind begin with, so that one kind is not taken for another.
const MODULE: usize = 1 << 40;
pub const FUNCTION: usize = 2 << 40;
const EVENT: usize = 3 << 40;

pub fn handle<T>(kind: usize, index: usize) -> *mut T {
    (kind | (index + 1)) as *mut T
}

pub fn index<T>(kind: usize, handle: *mut T) -> Answer<usize> {
    let number = handle as usize;
    let index = (number & ((1 << 40) - 1)).checked_sub(1).filter(|_| number & !((1 << 40) - 1) == kind);
    index.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
}

/// Puts a result in its place.
///
/// # Safety
/// `place` is null or a place of its type.
pub unsafe fn give<T>(place: *mut T, value: T) -> Answer {
    if place.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(value) };
    Ok(())
}

/// What a function returns: a number, as the interface has it. A driver may be newer than the codes that its callers know, and
/// `EMULATED_GPU_STATUS` makes this one return such a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub u32);

impl From<CUresult> for Status {
    fn from(status: CUresult) -> Self {
        Self(status as u32)
    }
}

impl PartialEq<CUresult> for Status {
    fn eq(&self, other: &CUresult) -> bool {
        self.0 == *other as u32
    }
}

/// The status that `EMULATED_GPU_STATUS` ("cuMemAlloc_v2=4711") says for a function.
pub fn told(function: &str) -> Option<Status> {
    let told = std::env::var("EMULATED_GPU_STATUS").ok()?;
    let (name, status) = told.split_once('=')?;
    status.parse().ok().filter(|_| name == function).map(Status)
}

/// Exports functions under the names of the interface.
macro_rules! driver_functions {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// As the driver's function of this name.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "the interface's names and arguments")]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> $crate::api::Status {
                if let Some(status) = $crate::api::told(stringify!($name)) {
                    return status;
                }
                // SAFETY: the caller's promise holds for everything in the body.
                #[allow(unused_unsafe, reason = "not every function has pointers")]
                let work = || -> CUresult { unsafe { $body } };
                work().into()
            }
        )*
    };
}

pub(crate) use driver_functions;

driver_functions! {
    /// Starts the GPU.
    fn cuInit(flags: c_uint) {
        match flags {
            0 => gpu::start().err().unwrap_or(CUresult::CUDA_SUCCESS),
            _ => CUresult::CUDA_ERROR_INVALID_VALUE,
        }
    }

    /// CUDA 13.0, whose interface this is.
    fn cuDriverGetVersion(version: *mut c_int) {
        give(version, 13_000).err().unwrap_or(CUresult::CUDA_SUCCESS)
    }

    /// A status in words.
    fn cuGetErrorString(error: u32, text: *mut *const c_char) {
        describe(error).map_or(Err(CUresult::CUDA_ERROR_INVALID_VALUE), |(_, words)| give(text, words.as_ptr()))
            .err()
            .unwrap_or(CUresult::CUDA_SUCCESS)
    }

    /// The name of a status.
    fn cuGetErrorName(error: u32, text: *mut *const c_char) {
        describe(error).map_or(Err(CUresult::CUDA_ERROR_INVALID_VALUE), |(name, _)| give(text, name.as_ptr()))
            .err()
            .unwrap_or(CUresult::CUDA_SUCCESS)
    }

    /// One.
    fn cuDeviceGetCount(count: *mut c_int) {
        started(|_| give(count, 1))
    }

    /// The only device.
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) {
        started(|_| if ordinal == 0 { give(device, 0) } else { Err(CUresult::CUDA_ERROR_INVALID_DEVICE) })
    }

    /// A name that nobody takes for a GPU's.
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice) {
        started(|gpu| {
            let (major, minor) = gpu.capability;
            let text = format!("emulated GPU of compute capability {major}.{minor}\0");
            if device != 0 || (length as usize) < text.len() {
                return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
            }
            name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
            Ok(())
        })
    }

    /// Compute capability and multiprocessors.
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice) {
        use CUdevice_attribute as Attribute;
        started(|gpu| {
            if device != 0 {
                return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
            }
            give(value, match attribute {
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => gpu.capability.0 as c_int,
                Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => gpu.capability.1 as c_int,
                // Two, so that persistent kernels take more than one piece of work each.
                Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => 2,
                _ => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
            })
        })
    }

    /// What `EMULATED_GPU_MEMORY` says.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) {
        started(|gpu| if device == 0 { give(bytes, gpu.memory.total()) } else { Err(CUresult::CUDA_ERROR_INVALID_DEVICE) })
    }

    /// The only context.
    fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) {
        started(|_| if device == 0 { give(context, CONTEXT as CUcontext) } else { Err(CUresult::CUDA_ERROR_INVALID_DEVICE) })
    }

    /// Of the calling thread.
    fn cuCtxSetCurrent(context: CUcontext) {
        started(|_| gpu::set_current(context as usize))
    }

    /// The only stream.
    fn cuStreamCreate(stream: *mut CUstream, flags: c_uint) {
        current(|_| if flags <= 1 { give(stream, STREAM as CUstream) } else { Err(CUresult::CUDA_ERROR_INVALID_VALUE) })
    }

    /// Runs what waits.
    fn cuStreamSynchronize(stream: CUstream) {
        current(|gpu| match stream as usize {
            0 | STREAM => gpu.run(),
            _ => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
        })
    }

    /// A fat binary.
    fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) {
        current(|gpu| {
            let image = fatbin::choose(image.cast(), gpu.capability).map_err(|why| {
                eprintln!("emulated GPU: cuModuleLoadData: {why}");
                CUresult::CUDA_ERROR_INVALID_IMAGE
            })?;
            if matches!(image, Image::NoBinary) {
                return Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
            }
            gpu.modules.push(image);
            give(module, handle(MODULE, gpu.modules.len() - 1))
        })
    }

    /// A kernel that the image has and the emulator, too.
    fn cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char) {
        current(|gpu| {
            let found = gpu.function(index(MODULE, module)?, CStr::from_ptr(name))?;
            give(function, handle(FUNCTION, found))
        })
    }

    /// Blocks of a cluster, where the kernel was compiled for clusters.
    fn cuFuncGetAttribute(value: *mut c_int, attribute: CUfunction_attribute, function: CUfunction) {
        current(|gpu| {
            let cluster = gpu.cluster(index(FUNCTION, function)?)?.unwrap_or_default();
            give(value, match attribute {
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH => cluster[0] as c_int,
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT => cluster[1] as c_int,
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH => cluster[2] as c_int,
                _ => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
            })
        })
    }

    /// Dynamic shared memory.
    fn cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int) {
        current(|gpu| match (attribute, usize::try_from(value)) {
            (CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, Ok(bytes)) => {
                gpu.allow_shared(index(FUNCTION, function)?, bytes)
            }
            _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        })
    }

    /// Device memory, filled with bytes that are NaN.
    fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) {
        current(|gpu| give(address, gpu.memory.allocate(bytes)?))
    }

    /// Waits for everything, as a driver does, and gives the memory back: its pages are gone.
    fn cuMemFree_v2(address: CUdeviceptr) {
        current(|gpu| {
            gpu.run()?;
            gpu.memory.free(address)
        })
    }

    /// Free and total.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        current(|gpu| {
            give(free, gpu.memory.free_bytes())?;
            give(total, gpu.memory.total())
        })
    }

    /// From host memory, which is read before this returns, as for pageable memory.
    fn cuMemcpyHtoDAsync_v2(target: CUdeviceptr, source: *const c_void, bytes: usize, stream: CUstream) {
        current(|gpu| {
            gpu.memory.range(target, bytes)?;
            let bytes = if bytes == 0 { &[] } else { std::slice::from_raw_parts(source.cast::<u8>(), bytes) };
            gpu.enqueue(stream as usize, Task::CopyIn { target, bytes: bytes.to_vec() })
        })
    }

    /// To host memory, which is written when somebody waits.
    fn cuMemcpyDtoHAsync_v2(target: *mut c_void, source: CUdeviceptr, bytes: usize, stream: CUstream) {
        current(|gpu| {
            gpu.memory.range(source, bytes)?;
            gpu.enqueue(stream as usize, Task::CopyOut { source, target: target as usize, bytes })
        })
    }

    /// Inside device memory.
    fn cuMemcpyDtoDAsync_v2(target: CUdeviceptr, source: CUdeviceptr, bytes: usize, stream: CUstream) {
        current(|gpu| {
            gpu.memory.range(source, bytes)?;
            gpu.memory.range(target, bytes)?;
            gpu.enqueue(stream as usize, Task::Copy { source, target, bytes })
        })
    }

    /// Bytes.
    fn cuMemsetD8Async(address: CUdeviceptr, byte: u8, bytes: usize, stream: CUstream) {
        current(|gpu| {
            gpu.memory.range(address, bytes)?;
            gpu.enqueue(stream as usize, Task::Fill { address, byte, bytes })
        })
    }

    /// A kernel; its arguments are copied before this returns.
    fn cuLaunchKernel(
        function: CUfunction,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: CUstream,
        arguments: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        current(|gpu| {
            let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
            if !extra.is_null() {
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
            let launch = gpu.prepare(index(FUNCTION, function)?, grid, block, shared as usize, arguments)?;
            gpu.enqueue(stream as usize, Task::Launch(launch))
        })
    }

    /// The same, with attributes.
    fn cuLaunchKernelEx(
        config: *const CUlaunchConfig,
        function: CUfunction,
        arguments: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        current(|gpu| {
            let of = &*config;
            let (grid, block) = ([of.gridDimX, of.gridDimY, of.gridDimZ], [of.blockDimX, of.blockDimY, of.blockDimZ]);
            // A launch that may follow early starts behind the one before all the same: that kernels wait by themselves is held by a
            // test on their machine code.
            let early = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            let known = (0..of.numAttrs as usize).all(|index| (*of.attrs.add(index)).id == early);
            if !extra.is_null() || !known {
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
            let launch = gpu.prepare(index(FUNCTION, function)?, grid, block, of.sharedMemBytes as usize, arguments)?;
            gpu.enqueue(of.hStream as usize, Task::Launch(launch))
        })
    }

    /// An event that nobody has recorded.
    fn cuEventCreate(event: *mut CUevent, _flags: c_uint) {
        current(|gpu| {
            gpu.events.push(Some(Arc::default()));
            give(event, handle(EVENT, gpu.events.len() - 1))
        })
    }

    /// Puts it into the stream. Only once: what a second time means is for whoever needs it.
    fn cuEventRecord(event: CUevent, stream: CUstream) {
        current(|gpu| {
            let event = gpu.event(event)?;
            if std::mem::replace(&mut *event.recorded.lock().expect("no holder panics"), true) {
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
            gpu.enqueue(stream as usize, Task::Reach(event))
        })
    }

    /// Runs what waits.
    fn cuEventSynchronize(event: CUevent) {
        current(|gpu| {
            gpu.event(event)?;
            gpu.run()
        })
    }

    /// Between two events that were reached.
    fn cuEventElapsedTime(milliseconds: *mut f32, first: CUevent, last: CUevent) {
        current(|gpu| {
            let (first, last) = (gpu.event(first)?, gpu.event(last)?);
            for event in [&first, &last] {
                if !*event.recorded.lock().expect("no holder panics") {
                    return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
                }
            }
            let (Some(first), Some(last)) = (first.reached.get(), last.reached.get()) else {
                return Err(CUresult::CUDA_ERROR_NOT_READY);
            };
            give(milliseconds, last.duration_since(*first).as_secs_f32() * 1e3)
        })
    }

    /// The stream keeps what it needs of it.
    fn cuEventDestroy_v2(event: CUevent) {
        current(|gpu| {
            gpu.event(event)?;
            gpu.events[index(EVENT, event)?] = None;
            Ok(())
        })
    }

    /// Makes the map that the emulator's copies read.
    fn cuTensorMapEncodeTiled(
        map: *mut CUtensorMap,
        element: CUtensorMapDataType,
        rank: c_uint,
        address: *mut c_void,
        dims: *const u64,
        strides: *const u64,
        tile: *const c_uint,
        element_strides: *const c_uint,
        interleave: CUtensorMapInterleave,
        swizzle: CUtensorMapSwizzle,
        _promotion: CUtensorMapL2promotion,
        fill: CUtensorMapFloatOOBfill,
    ) {
        let element = match element {
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 => TensorElement::Bf16,
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32 => TensorElement::F32,
            _ => return CUresult::CUDA_ERROR_NOT_SUPPORTED,
        };
        let swizzle = match swizzle {
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE => TensorSwizzle::None,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B => TensorSwizzle::Bytes32,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B => TensorSwizzle::Bytes64,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B => TensorSwizzle::Bytes128,
            _ => return CUresult::CUDA_ERROR_NOT_SUPPORTED,
        };
        let rank = rank as usize;
        let dense = interleave == CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE
            && fill == CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
        if !(1..=5).contains(&rank) || !dense || !map.is_aligned() || !(map as usize).is_multiple_of(64) {
            return CUresult::CUDA_ERROR_INVALID_VALUE;
        }
        // Of one dimension no stride is read, and a driver may look all the same: it must be there, and one that a map could have.
        let lone = rank == 1 && ((strides as usize) < 4096 || !strides.is_aligned() || !(*strides).is_multiple_of(16));
        if lone || strides.is_null() {
            eprintln!("emulated GPU: cuTensorMapEncodeTiled: the strides of {rank} dimensions are no array of strides");
            return CUresult::CUDA_ERROR_INVALID_VALUE;
        }
        if std::slice::from_raw_parts(element_strides, rank).iter().any(|stride| *stride != 1) {
            return CUresult::CUDA_ERROR_NOT_SUPPORTED;
        }
        let tensor = TiledTensor {
            address: address as u64,
            element,
            dims: std::slice::from_raw_parts(dims, rank),
            strides: std::slice::from_raw_parts(strides, rank - 1),
            tile: std::slice::from_raw_parts(tile, rank),
            swizzle,
        };
        match TensorMap::encode(&tensor) {
            Ok(encoded) => give(map.cast(), encoded.bytes()).err().unwrap_or(CUresult::CUDA_SUCCESS),
            Err(why) => {
                eprintln!("emulated GPU: cuTensorMapEncodeTiled: {why}");
                CUresult::CUDA_ERROR_INVALID_VALUE
            }
        }
    }

    /// Nothing.
    fn cuProfilerStart() {
        current(|_| Ok(()))
    }

    /// Nothing.
    fn cuProfilerStop() {
        current(|_| Ok(()))
    }
}

impl Gpu {
    fn event(&self, event: CUevent) -> Answer<Arc<Event>> {
        let event = self.events.get(index(EVENT, event)?).and_then(Option::as_ref);
        event.map(Arc::clone).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }
}

/// The name of a status, and what it means; nothing for one that this driver does not know.
fn describe(status: u32) -> Option<(&'static CStr, &'static CStr)> {
    macro_rules! known {
        ($($name:ident => $words:literal,)*) => {
            $(if status == CUresult::$name as u32 {
                // SAFETY: the text ends with its only zero.
                let name = unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) };
                return Some((name, $words));
            })*
        };
    }
    known! {
        CUDA_SUCCESS => c"no error",
        CUDA_ERROR_INVALID_VALUE => c"invalid argument",
        CUDA_ERROR_OUT_OF_MEMORY => c"out of memory",
        CUDA_ERROR_NOT_INITIALIZED => c"initialization error",
        CUDA_ERROR_INVALID_DEVICE => c"invalid device ordinal",
        CUDA_ERROR_INVALID_IMAGE => c"device kernel image is invalid",
        CUDA_ERROR_INVALID_CONTEXT => c"invalid device context",
        CUDA_ERROR_NO_BINARY_FOR_GPU => c"no kernel image is available for execution on the device",
        CUDA_ERROR_INVALID_HANDLE => c"invalid resource handle",
        CUDA_ERROR_NOT_FOUND => c"named symbol not found",
        CUDA_ERROR_NOT_READY => c"device not ready",
        CUDA_ERROR_ILLEGAL_ADDRESS => c"an illegal memory access was encountered",
        CUDA_ERROR_MISALIGNED_ADDRESS => c"misaligned address",
        CUDA_ERROR_ASSERT => c"device-side assert triggered",
        CUDA_ERROR_LAUNCH_TIMEOUT => c"the launch timed out and was terminated",
        CUDA_ERROR_LAUNCH_FAILED => c"unspecified launch failure",
        CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => c"too many resources requested for launch",
        CUDA_ERROR_NOT_PERMITTED => c"operation not permitted",
        CUDA_ERROR_NOT_SUPPORTED => c"operation not supported by the emulated GPU",
    }
    None
}
