//! What callers may rely on, and what they may not. One test, since there is one GPU.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH as WIDTH;
use cudarc::driver::sys::{
    CUDA_KERNEL_NODE_PARAMS, CUDA_MEMSET_NODE_PARAMS, CUresult as Status, CUtensorMap, CUtensorMapDataType,
    CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion, CUtensorMapSwizzle,
};

use crate::api::*;
use crate::api_graph::*;

const SUCCESS: Status = Status::CUDA_SUCCESS;

/// A fat binary with an entry for each (kind, version): 1 is PTX, 2 machine code.
fn fat_binary(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut body = Vec::new();
    for &(kind, version) in entries {
        let mut entry = vec![0u8; 64];
        entry[..2].copy_from_slice(&kind.to_le_bytes());
        entry[4] = 64;
        entry[28..32].copy_from_slice(&version.to_le_bytes());
        body.extend(entry);
    }
    let mut bytes = vec![0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0];
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn a_chip_takes_ptx_that_is_not_newer() {
    use crate::fatbin::{Image, choose};
    // SAFETY: the header tells the size.
    let image = |entries: &[(u16, u32)], chip| unsafe { choose(fat_binary(entries).as_ptr(), chip) };
    assert!(matches!(image(&[(1, 90)], (9, 0)), Ok(Image::Ptx)));
    assert!(matches!(image(&[(1, 90)], (8, 6)), Ok(Image::NoBinary)));
    assert!(matches!(image(&[(2, 80)], (9, 0)), Ok(Image::NoBinary)), "machine code of another major version");
    assert!(image(&[(2, 80)], (8, 6)).is_err(), "chosen, and no ELF file");
}

#[test]
fn strict_where_a_driver_may_be_kind() {
    // SAFETY: every pointer is to a live value of its type, or null where that is what is tested.
    unsafe {
        let mut address = 0;
        assert_eq!(cuMemAlloc_v2(&mut address, 64), Status::CUDA_ERROR_NOT_INITIALIZED);
        assert_eq!(cuInit(0), SUCCESS);
        assert_eq!(cuMemAlloc_v2(&mut address, 64), Status::CUDA_ERROR_INVALID_CONTEXT);
        let (mut context, mut stream) = (null_mut(), null_mut());
        assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), SUCCESS);
        assert_eq!(cuCtxSetCurrent(context), SUCCESS);
        assert_eq!(cuStreamCreate(&mut stream, 1), SUCCESS);
        assert_eq!(cuMemAlloc_v2(&mut address, 64), SUCCESS);
        let elsewhere = std::thread::spawn(|| cuProfilerStart()).join().unwrap();
        assert_eq!(elsewhere, Status::CUDA_ERROR_INVALID_CONTEXT, "another thread has no context yet");

        // Copies are made when somebody waits, from what the host had when it asked.
        let (mut source, mut found) = ([7u8; 64], [0u8; 64]);
        assert_eq!(cuMemcpyHtoDAsync_v2(address, source.as_ptr().cast(), 64, stream), SUCCESS);
        source.fill(8);
        assert_eq!(cuMemcpyDtoHAsync_v2(found.as_mut_ptr().cast(), address, 64, stream), SUCCESS);
        assert_eq!(found, [0; 64]);
        assert_eq!(cuStreamSynchronize(stream), SUCCESS);
        assert_eq!(found, [7; 64]);
        assert_eq!(cuMemsetD8Async(address + 1, 0, 64, stream), Status::CUDA_ERROR_INVALID_VALUE, "a byte too far");
        assert_eq!(cuMemAlloc_v2(&mut 0, 1 << 50), Status::CUDA_ERROR_OUT_OF_MEMORY);

        // An event is reached when the stream is.
        let (mut first, mut last, mut milliseconds) = (null_mut(), null_mut(), -1.0);
        for event in [&mut first, &mut last] {
            assert_eq!(cuEventCreate(event, 0), SUCCESS);
        }
        assert_eq!(cuEventElapsedTime(&mut milliseconds, first, last), Status::CUDA_ERROR_INVALID_HANDLE);
        for event in [first, last] {
            assert_eq!(cuEventRecord(event, stream), SUCCESS);
        }
        assert_eq!(cuEventElapsedTime(&mut milliseconds, first, last), Status::CUDA_ERROR_NOT_READY);
        assert_eq!(cuEventSynchronize(last), SUCCESS);
        assert_eq!(cuEventElapsedTime(&mut milliseconds, first, last), SUCCESS);
        assert!(milliseconds >= 0.0);
        assert_eq!([cuEventDestroy_v2(last), cuEventDestroy_v2(last)], [SUCCESS, Status::CUDA_ERROR_INVALID_HANDLE]);

        // A graph that is changed does not change what was started before.
        let fill = |byte: u32, height| CUDA_MEMSET_NODE_PARAMS {
            dst: address,
            pitch: 64,
            value: byte,
            elementSize: 1,
            width: 64,
            height,
        };
        let (mut graph, mut node, mut next, mut instance) = (null_mut(), null_mut(), null_mut(), null_mut());
        assert_eq!(cuGraphCreate(&mut graph, 0), SUCCESS);
        assert_eq!(
            cuGraphAddMemsetNode(&mut node, graph, null(), 0, &fill(1, 2), context),
            Status::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(cuGraphAddMemsetNode(&mut node, graph, null(), 0, &fill(1, 1), context), SUCCESS);
        let apart = cuGraphAddMemsetNode(&mut next, graph, null(), 0, &fill(2, 1), context);
        assert_eq!(apart, Status::CUDA_ERROR_INVALID_VALUE, "two tasks without an order");
        assert_eq!(cuGraphInstantiateWithFlags(&mut instance, graph, 0), SUCCESS);
        let mut bytes_after = |change: u32| {
            assert_eq!(cuGraphLaunch(instance, stream), SUCCESS);
            assert_eq!(cuGraphExecMemsetNodeSetParams(instance, node, &fill(change, 1), context), SUCCESS);
            assert_eq!(cuMemcpyDtoHAsync_v2(found.as_mut_ptr().cast(), address, 64, stream), SUCCESS);
            assert_eq!(cuStreamSynchronize(stream), SUCCESS);
            found[0]
        };
        assert_eq!((bytes_after(3), bytes_after(4)), (1, 3));
        assert_eq!([cuGraphExecDestroy(instance), cuGraphDestroy(graph)], [SUCCESS; 2]);

        // Launches.
        let no_words = cuGetErrorName(4711, &mut null());
        assert_eq!(no_words, Status::CUDA_ERROR_INVALID_VALUE, "a status that nobody knows");
        let (mut module, mut kernel) = (null_mut(), null_mut());
        assert_eq!(
            cuModuleLoadData(&mut module, fat_binary(&[(2, 80)]).as_ptr().cast()),
            Status::CUDA_ERROR_NO_BINARY_FOR_GPU
        );
        assert_eq!(cuModuleLoadData(&mut module, fat_binary(&[(1, 80)]).as_ptr().cast()), SUCCESS);
        assert_eq!(cuModuleGetFunction(&mut kernel, module, c"no_such_kernel".as_ptr()), Status::CUDA_ERROR_NOT_FOUND);
        assert_eq!(cuModuleGetFunction(&mut kernel, module, c"tanh_forward_f32".as_ptr()), SUCCESS);
        let (mut x, mut count) = (address, 16i64);
        let mut arguments: [*mut c_void; 2] = [(&raw mut x).cast(), (&raw mut count).cast()];
        let mut launch = |threads, shared| {
            cuLaunchKernel(kernel, 1, 1, 1, threads, 1, 1, shared, stream, arguments.as_mut_ptr(), null_mut())
        };
        assert_eq!(launch(2048, 0), Status::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(32, 64 << 10), Status::CUDA_ERROR_INVALID_VALUE, "more shared memory than was allowed");
        use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
        assert_eq!(cuFuncSetAttribute(kernel, SHARED, 64 << 10), SUCCESS);
        assert_eq!(launch(32, 64 << 10), SUCCESS);
        assert_eq!(cuFuncSetAttribute(kernel, SHARED, 228 << 10), Status::CUDA_ERROR_INVALID_VALUE);

        let mut pair = null_mut();
        assert_eq!(cuModuleGetFunction(&mut pair, module, c"gemm_nn_cluster_sm90_bf16".as_ptr()), SUCCESS);
        let mut nothing = [null_mut(); 4];
        let half = cuLaunchKernel(pair, 3, 1, 1, 384, 1, 1, 0, stream, nothing.as_mut_ptr(), null_mut());
        assert_eq!(half, Status::CUDA_ERROR_INVALID_VALUE, "half a cluster");

        // A graph's node is told of its kernel's clusters.
        use cudarc::driver::sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION as CLUSTER;
        use cudarc::driver::sys::{CUlaunchAttributeValue, CUlaunchAttributeValue_union__bindgen_ty_1 as Blocks};
        let (mut members, mut values) = (0, [[0u8; 128]; 8]);
        assert_eq!(cuFuncGetAttribute(&mut members, WIDTH, pair), SUCCESS);
        assert_eq!(members, 2);
        let mut pointers = values.each_mut().map(|value| value.as_mut_ptr().cast::<c_void>());
        let mut parameters = std::mem::zeroed::<CUDA_KERNEL_NODE_PARAMS>();
        (parameters.func, parameters.kernelParams) = (pair, pointers.as_mut_ptr());
        (parameters.gridDimX, parameters.gridDimY, parameters.gridDimZ) = (2, 1, 1);
        (parameters.blockDimX, parameters.blockDimY, parameters.blockDimZ) = (384, 1, 1);
        assert_eq!(cuGraphCreate(&mut graph, 0), SUCCESS);
        assert_eq!(cuGraphAddKernelNode_v2(&mut node, graph, null(), 0, &parameters), SUCCESS);
        let mut instantiate = || cuGraphInstantiateWithFlags(&mut instance, graph, 0);
        assert_eq!(instantiate(), Status::CUDA_ERROR_INVALID_CLUSTER_SIZE, "the node was told of no clusters");
        for (x, expected) in [(4, Status::CUDA_ERROR_INVALID_CLUSTER_SIZE), (2, SUCCESS)] {
            let value = CUlaunchAttributeValue { clusterDim: Blocks { x, y: 1, z: 1 } };
            assert_eq!(cuGraphKernelNodeSetAttribute(node, CLUSTER, &value), SUCCESS);
            assert_eq!(instantiate(), expected, "clusters of {x}");
        }

        // A node that does not wait for the one before it is none of a chain; an edge added later makes it one, an early one between launches.
        let mut second = null_mut();
        assert_eq!(cuGraphCreate(&mut graph, 0), SUCCESS);
        (parameters.func, parameters.blockDimX) = (kernel, 32);
        for node in [&mut node, &mut second] {
            assert_eq!(cuGraphAddKernelNode_v2(node, graph, null(), 0, &parameters), SUCCESS);
        }
        let mut instantiate = || cuGraphInstantiateWithFlags(&mut instance, graph, 0);
        assert_eq!(instantiate(), Status::CUDA_ERROR_INVALID_VALUE);
        let edge = |kind| CUgraphEdgeData { from_port: 1, to_port: 0, type_: kind, reserved: [0; 5] };
        let unknown = cuGraphAddDependencies_v2(graph, &node, &second, &edge(7), 1);
        assert_eq!(unknown, Status::CUDA_ERROR_NOT_SUPPORTED);
        assert_eq!(cuGraphAddDependencies_v2(graph, &second, &node, &edge(1), 1), Status::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(cuGraphAddDependencies_v2(graph, &node, &second, &edge(1), 1), SUCCESS);
        assert_eq!(instantiate(), SUCCESS);

        // A tensor of one dimension has no strides to read; the array must be one all the same.
        let encode = |strides: *const u64| {
            let mut map = std::mem::zeroed::<CUtensorMap>();
            cuTensorMapEncodeTiled(
                &mut map,
                CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                1,
                address as *mut c_void,
                &16,
                strides,
                &16,
                &1,
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        let (whole, odd) = (64u64, 4u64);
        for (strides, expected) in [
            (&raw const whole, SUCCESS),
            (&raw const odd, Status::CUDA_ERROR_INVALID_VALUE),
            (std::ptr::dangling(), Status::CUDA_ERROR_INVALID_VALUE),
            (null(), Status::CUDA_ERROR_INVALID_VALUE),
        ] {
            assert_eq!(encode(strides), expected, "strides at {strides:?}");
        }

        // What goes wrong is told by whoever waits, and by everybody after.
        assert_eq!(cuMemFree_v2(address), SUCCESS);
        assert_eq!(launch(32, 0), SUCCESS);
        assert_eq!(cuStreamSynchronize(stream), Status::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(cuMemAlloc_v2(&mut address, 64), Status::CUDA_ERROR_ILLEGAL_ADDRESS);

        // On a bad day: a kernel that traps, and one that never ends. Nobody gets at the GPU any more, so that comes last.
        let is_to = |crashes: Option<&str>, hangs: Option<&str>| {
            crate::gpu::started(|gpu| {
                (gpu.fault, gpu.crashes, gpu.hangs) = (None, crashes.map(Into::into), hangs.map(Into::into));
                Ok(())
            })
        };
        assert_eq!(is_to(None, None), SUCCESS);
        assert_eq!(cuMemAlloc_v2(&mut address, 64), SUCCESS);
        assert_eq!(is_to(Some("tanh"), None), SUCCESS);
        let again = |x: &mut u64| {
            let mut count = 16i64;
            let mut arguments: [*mut c_void; 2] = [(&raw mut *x).cast(), (&raw mut count).cast()];
            cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, arguments.as_mut_ptr(), null_mut())
        };
        assert_eq!(again(&mut address), SUCCESS);
        assert_eq!(cuStreamSynchronize(stream), Status::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(is_to(Some("softsign"), None), SUCCESS);
        assert_eq!(again(&mut address), SUCCESS);
        assert_eq!(cuStreamSynchronize(stream), SUCCESS, "another kernel");
        assert_eq!(is_to(None, Some("tanh_forward")), SUCCESS);
        assert_eq!(again(&mut address), SUCCESS);
        let (context, stream) = (context as usize, stream as usize);
        let waits = std::thread::spawn(move || (cuCtxSetCurrent(context as _), cuStreamSynchronize(stream as _)));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!waits.is_finished());
    }
}
