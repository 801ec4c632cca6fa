//! The same GPU through the crate `cust` instead of cudarc: a second driver behind the launch seam, to compare what launches and
//! loading cost (`cargo bench --features cust --bench launch`). Nothing else uses it.
//!
//! cust's build script links libcuda and stops where it finds no installed toolkit: on Linux it looks in `/usr/local/cuda`, `/opt/cuda` and
//! `$CUDA_LIBRARY_PATH` (for a `lib64` folder), and not at `CUDA_PATH`. So the feature is off in every default path.
//!
//! Types can be checked without a toolkit, as it is only linked: `mkdir -p /tmp/cuda/lib64`, then
//! `CUDA_LIBRARY_PATH=/tmp/cuda cargo check --features cust --bench launch`.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cust::context::{Context, CurrentContext};
use cust::device::DeviceAttribute;
use cust::error::{CudaError, CudaResult};
use cust::event::{Event, EventFlags};
use cust::function::{BlockSize, Function, GridSize};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::sys;

use super::{Driver, Launch, Mark, kernels};
use crate::{Error, Result};

/// One GPU, its context, one stream, and the loaded kernels.
struct Gpu {
    name: String,
    capability: (u32, u32),
    multiprocessors: u32,
    context: Context,
    stream: Stream,
    /// Never unloaded, so that functions may be kept.
    modules: Vec<&'static Module>,
    functions: Mutex<HashMap<String, Kernel>>,
}

struct Kernel {
    function: Function<'static>,
    /// Dynamic shared memory that it was last allowed.
    shared_bytes: u32,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs; every method makes it so first.
unsafe impl Send for Gpu {}
// SAFETY: as above; the table of functions is behind a mutex.
unsafe impl Sync for Gpu {}

fn failed(what: &str, error: CudaError) -> Error {
    Error::Failed(format!("CUDA, through cust, cannot {what}: {error} ({error:?})"))
}

/// Opens GPU `ordinal` and loads the kernels of this build.
///
/// # Errors
/// [`Error::Failed`] if there is no such GPU, or the kernels have no code for it.
pub fn open(ordinal: u32) -> Result<Arc<dyn Driver>> {
    cust::init(cust::CudaFlags::empty()).map_err(|error| failed("start the driver", error))?;
    let at = |error| failed(&format!("open GPU {ordinal}"), error);
    let device = cust::device::Device::get_device(ordinal).map_err(at)?;
    let context = Context::new(device).map_err(at)?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(at)?;
    let multiprocessors = device.get_attribute(DeviceAttribute::MultiprocessorCount).map_err(at)? as u32;
    let mut modules = Vec::new();
    for file in kernels::embedded() {
        match Module::from_fatbin(file.fatbin, &[]) {
            Ok(module) => modules.push(&*Box::leak(Box::new(module))),
            // A file for one architecture only.
            Err(CudaError::NoBinaryForGpu) => {}
            Err(error) => return Err(failed(&format!("load the kernels of {}.cu", file.name), error)),
        }
    }
    let name = device.name().map_err(at)?;
    let attribute = |attribute| device.get_attribute(attribute).map(|value| value as u32).map_err(at);
    let capability =
        (attribute(DeviceAttribute::ComputeCapabilityMajor)?, attribute(DeviceAttribute::ComputeCapabilityMinor)?);
    Ok(Arc::new(Gpu { name, capability, multiprocessors, context, stream, modules, functions: Mutex::default() }))
}

impl Gpu {
    fn enter(&self) -> Result<()> {
        CurrentContext::set_current(&self.context).map_err(|error| failed("use the GPU", error))
    }

    fn find(&self, name: &str) -> Result<Function<'static>> {
        let found = self.modules.iter().find_map(|module| module.get_function(name).ok());
        found.ok_or_else(|| Error::Failed(format!("this build has no kernel {name} for a {}", self.name)))
    }

    /// Runs a function of the driver that cust has no safe name for.
    fn call(&self, what: &str, call: impl FnOnce() -> sys::CUresult) -> Result<()> {
        self.enter()?;
        match call() {
            sys::CUresult::CUDA_SUCCESS => Ok(()),
            error => Err(Error::Failed(format!("CUDA, through cust, cannot {what}: {error:?}"))),
        }
    }
}

impl Driver for Gpu {
    fn describe(&self) -> String {
        format!("cuda through cust ({})", self.name)
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut address = 0;
        // SAFETY: the driver writes one address to a live place.
        self.call(&format!("allocate {bytes} bytes"), || unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) })?;
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's promise.
        let _ = self.call("free memory", || unsafe { sys::cuMemFree_v2(address) });
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let source = bytes.as_ptr().cast::<c_void>();
        // SAFETY: the caller's promise. The copy from pageable memory has left `bytes` when the call returns.
        self.call("copy to the GPU", || unsafe {
            sys::cuMemcpyHtoDAsync_v2(address, source, bytes.len(), self.stream.as_inner())
        })
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let target = bytes.as_mut_ptr().cast::<c_void>();
        // SAFETY: the caller's promise; the stream is waited for before `bytes` is used.
        self.call("copy from the GPU", || unsafe {
            sys::cuMemcpyDtoHAsync_v2(target, address, bytes.len(), self.stream.as_inner())
        })?;
        self.synchronize()
    }

    unsafe fn copy(&self, source: u64, target: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.call("copy inside GPU memory", || unsafe {
            sys::cuMemcpyDtoDAsync_v2(target, source, bytes, self.stream.as_inner())
        })
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.call("fill GPU memory", || unsafe { sys::cuMemsetD8Async(address, byte, bytes, self.stream.as_inner()) })
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.enter()?;
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if !functions.contains_key(&launch.kernel) {
            let kernel = Kernel { function: self.find(&launch.kernel)?, shared_bytes: 48 << 10 };
            functions.insert(launch.kernel.clone(), kernel);
        }
        let kernel = functions.get_mut(&launch.kernel).expect("just inserted");
        if launch.shared_bytes > kernel.shared_bytes {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a module that is never unloaded.
            let status =
                unsafe { sys::cuFuncSetAttribute(kernel.function.to_raw(), attribute, launch.shared_bytes as i32) };
            if status != sys::CUresult::CUDA_SUCCESS {
                return Err(Error::Failed(format!("{}: shared memory refused: {status:?}", launch.kernel)));
            }
            kernel.shared_bytes = launch.shared_bytes;
        }
        // cust's bindings are of CUDA 11 and know no tensor maps.
        let mut values =
            launch.values(|_| Err(Error::Failed(format!("{}: cust has no tensor maps", launch.kernel))))?;
        let pointers: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut value.0).cast()).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        let (grid, block) = (GridSize::xyz(gx, gy, gz), BlockSize::xyz(bx, by, bz));
        // SAFETY: the caller's promise about the arguments; the driver copies them before it returns.
        unsafe { self.stream.launch(&kernel.function, grid, block, launch.shared_bytes, &pointers) }
            .map_err(|error| failed(&format!("launch kernel {} ({})", launch.kernel, launch.shape()), error))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()?;
        self.stream.synchronize().map_err(|error| failed("finish the work launched so far", error))
    }

    fn mark(&self) -> Result<Mark> {
        self.enter()?;
        let marked = || -> CudaResult<Event> {
            let event = Event::new(EventFlags::DEFAULT)?;
            event.record(&self.stream)?;
            Ok(event)
        };
        marked().map(Mark::of_event).map_err(|error| failed("mark a place in the stream", error))
    }

    fn seconds_between(&self, first: &Mark, last: &Mark) -> Result<f64> {
        let (Some(first), Some(last)) = (first.event::<Event>(), last.event::<Event>()) else {
            return Ok(Mark::host_seconds(first, last));
        };
        self.enter()?;
        let milliseconds = last.synchronize().and_then(|()| last.elapsed_time_f32(first));
        milliseconds.map(|time| f64::from(time) * 1e-3).map_err(|error| failed("measure time in the stream", error))
    }
}
