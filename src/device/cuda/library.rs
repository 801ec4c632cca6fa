//! Functions of NVIDIA's libraries, whose statuses are numbers here.
//!
//! cudarc's bindings declare them to return Rust enums. A library newer than the bindings may return a code that they do not list, and
//! an enum of such a value is undefined behaviour before anybody looks at it. So the types are cudarc's, and the functions are declared
//! here. Each is looked up when it is first called: one that an older library lacks is an error that names it.

use std::ffi::CStr;

use cudarc::driver::sys::CUresult;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// What the library returned.
    Status(u32),
    /// The library has no such function.
    Missing(&'static str),
}

impl Failure {
    /// Whether it is this status of the driver.
    pub(super) fn is(self, status: CUresult) -> bool {
        self == Self::Status(status as u32)
    }
}

/// Declares functions of the library that `$library` opens; each returns a status, of which 0 is success. Two things are promised for
/// each here: that its arguments are those of the library's interface, and that the library is present when it is called.
macro_rules! functions {
    ($library:path; $(fn $name:ident($($argument:ident: $type:ty),* $(,)?);)*) => {
        $(
            /// # Safety
            /// As the library's function of this name, which must be present.
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "the interface's names and arguments")]
            pub(in crate::device::cuda) unsafe fn $name($($argument: $type),*) -> Result<(), $crate::device::cuda::library::Failure> {
                use $crate::device::cuda::library::Failure;
                type Function = unsafe extern "C" fn($($type),*) -> u32;
                static FOUND: std::sync::OnceLock<Option<Function>> = std::sync::OnceLock::new();
                let found = FOUND.get_or_init(|| {
                    // SAFETY: the library stays open; the function's type is that of the interface.
                    unsafe { $library().get::<Function>(stringify!($name).as_bytes()) }.ok().map(|function| *function)
                });
                let function = found.ok_or(Failure::Missing(stringify!($name)))?;
                // SAFETY: the caller's promise.
                match unsafe { function($($argument),*) } {
                    0 => Ok(()),
                    status => Err(Failure::Status(status)),
                }
            }
        )*
    };
}

/// libcuda's (docs.nvidia.com/cuda/cuda-driver-api).
pub(super) mod driver {
    use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

    use cudarc::driver::sys::{
        CUDA_KERNEL_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUcontext, CUdevice, CUdevice_attribute,
        CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphNode,
        CUkernelNodeAttrID, CUkernelNodeAttrValue, CUlaunchConfig, CUmodule, CUstream, CUtensorMap,
        CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
        CUtensorMapSwizzle, culib,
    };

    functions! {
        culib;
        fn cuInit(flags: c_uint);
        fn cuDriverGetVersion(version: *mut c_int);
        fn cuGetErrorName(status: u32, text: *mut *const c_char);
        fn cuGetErrorString(status: u32, text: *mut *const c_char);
        fn cuDeviceGetCount(count: *mut c_int);
        fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
        fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice);
        fn cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
        fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
        fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
        fn cuCtxSetCurrent(context: CUcontext);
        fn cuStreamCreate(stream: *mut CUstream, flags: c_uint);
        fn cuStreamSynchronize(stream: CUstream);
        fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
        fn cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
        fn cuFuncGetAttribute(value: *mut c_int, attribute: CUfunction_attribute, function: CUfunction);
        fn cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
        fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
        fn cuMemFree_v2(address: CUdeviceptr);
        fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
        fn cuMemcpyHtoDAsync_v2(target: CUdeviceptr, source: *const c_void, bytes: usize, stream: CUstream);
        fn cuMemcpyDtoHAsync_v2(target: *mut c_void, source: CUdeviceptr, bytes: usize, stream: CUstream);
        fn cuMemcpyDtoDAsync_v2(target: CUdeviceptr, source: CUdeviceptr, bytes: usize, stream: CUstream);
        fn cuMemsetD8Async(address: CUdeviceptr, byte: u8, bytes: usize, stream: CUstream);
        fn cuLaunchKernelEx(
            config: *const CUlaunchConfig,
            function: CUfunction,
            arguments: *mut *mut c_void,
            extra: *mut *mut c_void,
        );
        fn cuEventCreate(event: *mut CUevent, flags: c_uint);
        fn cuEventRecord(event: CUevent, stream: CUstream);
        fn cuEventSynchronize(event: CUevent);
        fn cuEventElapsedTime(milliseconds: *mut f32, first: CUevent, last: CUevent);
        fn cuEventDestroy_v2(event: CUevent);
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
            promotion: CUtensorMapL2promotion,
            fill: CUtensorMapFloatOOBfill,
        );
        fn cuProfilerStart();
        fn cuProfilerStop();
        fn cuGraphCreate(graph: *mut CUgraph, flags: c_uint);
        fn cuGraphAddKernelNode_v2(
            node: *mut CUgraphNode,
            graph: CUgraph,
            before: *const CUgraphNode,
            count: usize,
            parameters: *const CUDA_KERNEL_NODE_PARAMS,
        );
        fn cuGraphKernelNodeSetAttribute(
            node: CUgraphNode,
            attribute: CUkernelNodeAttrID,
            value: *const CUkernelNodeAttrValue,
        );
        fn cuGraphAddDependencies_v2(
            graph: CUgraph,
            from: *const CUgraphNode,
            to: *const CUgraphNode,
            edges: *const CUgraphEdgeData,
            count: usize,
        );
        fn cuGraphAddMemcpyNode(
            node: *mut CUgraphNode,
            graph: CUgraph,
            before: *const CUgraphNode,
            count: usize,
            parameters: *const CUDA_MEMCPY3D,
            context: CUcontext,
        );
        fn cuGraphAddMemsetNode(
            node: *mut CUgraphNode,
            graph: CUgraph,
            before: *const CUgraphNode,
            count: usize,
            parameters: *const CUDA_MEMSET_NODE_PARAMS,
            context: CUcontext,
        );
        fn cuGraphInstantiateWithFlags(instance: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
        fn cuGraphExecKernelNodeSetParams_v2(
            instance: CUgraphExec,
            node: CUgraphNode,
            parameters: *const CUDA_KERNEL_NODE_PARAMS,
        );
        fn cuGraphExecMemcpyNodeSetParams(
            instance: CUgraphExec,
            node: CUgraphNode,
            parameters: *const CUDA_MEMCPY3D,
            context: CUcontext,
        );
        fn cuGraphExecMemsetNodeSetParams(
            instance: CUgraphExec,
            node: CUgraphNode,
            parameters: *const CUDA_MEMSET_NODE_PARAMS,
            context: CUcontext,
        );
        fn cuGraphLaunch(instance: CUgraphExec, stream: CUstream);
        fn cuGraphExecDestroy(instance: CUgraphExec);
        fn cuGraphDestroy(graph: CUgraph);
    }
}

/// cuBLASLt's (docs.nvidia.com/cuda/cublas).
pub(super) mod cublaslt {
    use std::ffi::{c_int, c_void};

    use cudarc::cublaslt::sys::{
        cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
        cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
        cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cudaDataType_t, cudaStream_t, culib,
    };

    functions! {
        culib;
        fn cublasLtCreate(handle: *mut cublasLtHandle_t);
        fn cublasLtMatrixLayoutCreate(
            layout: *mut cublasLtMatrixLayout_t,
            kind: cudaDataType_t,
            rows: u64,
            columns: u64,
            stride: i64,
        );
        fn cublasLtMatmulDescCreate(
            description: *mut cublasLtMatmulDesc_t,
            compute: cublasComputeType_t,
            scale: cudaDataType_t,
        );
        fn cublasLtMatmulDescSetAttribute(
            description: cublasLtMatmulDesc_t,
            attribute: cublasLtMatmulDescAttributes_t,
            value: *const c_void,
            bytes: usize,
        );
        fn cublasLtMatmulPreferenceCreate(preference: *mut cublasLtMatmulPreference_t);
        fn cublasLtMatmulPreferenceSetAttribute(
            preference: cublasLtMatmulPreference_t,
            attribute: cublasLtMatmulPreferenceAttributes_t,
            value: *const c_void,
            bytes: usize,
        );
        fn cublasLtMatmulPreferenceDestroy(preference: cublasLtMatmulPreference_t);
        fn cublasLtMatmulAlgoGetHeuristic(
            handle: cublasLtHandle_t,
            description: cublasLtMatmulDesc_t,
            a: cublasLtMatrixLayout_t,
            b: cublasLtMatrixLayout_t,
            c: cublasLtMatrixLayout_t,
            d: cublasLtMatrixLayout_t,
            preference: cublasLtMatmulPreference_t,
            wanted: c_int,
            results: *mut cublasLtMatmulHeuristicResult_t,
            found: *mut c_int,
        );
        fn cublasLtMatmul(
            handle: cublasLtHandle_t,
            description: cublasLtMatmulDesc_t,
            alpha: *const c_void,
            a: *const c_void,
            a_layout: cublasLtMatrixLayout_t,
            b: *const c_void,
            b_layout: cublasLtMatrixLayout_t,
            beta: *const c_void,
            c: *const c_void,
            c_layout: cublasLtMatrixLayout_t,
            d: *mut c_void,
            d_layout: cublasLtMatrixLayout_t,
            algorithm: *const cublasLtMatmulAlgo_t,
            workspace: *mut c_void,
            workspace_bytes: usize,
            stream: cudaStream_t,
        );
    }
}

/// A status of the driver in its own words, where it has some: it may know codes that these sources do not.
pub(super) fn describe(failure: Failure) -> String {
    let status = match failure {
        Failure::Status(status) => status,
        Failure::Missing(function) => {
            return format!("this driver has no {function}; install a newer one (CUDA 12.8 or later)");
        }
    };
    let words = |ask: unsafe fn(u32, *mut *const std::ffi::c_char) -> Result<(), Failure>| {
        let mut text = std::ptr::null();
        // SAFETY: the driver that returned the status is present; it writes the address of a text that it keeps for good, or nothing.
        unsafe { ask(status, &raw mut text) }.ok().filter(|()| !text.is_null())?;
        // SAFETY: as above.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    match (words(driver::cuGetErrorString), words(driver::cuGetErrorName)) {
        (Some(text), Some(name)) => format!("{text} ({name})"),
        (Some(text), None) | (None, Some(text)) => format!("{text} (status {status})"),
        (None, None) => format!("status {status}, for which the driver has no words"),
    }
}
