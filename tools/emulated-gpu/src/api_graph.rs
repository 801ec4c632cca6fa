//! The functions of libcuda for graphs.

use std::ffi::{c_uint, c_ulonglong};

use cudarc::driver::sys::{
    CUDA_KERNEL_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUcontext, CUgraph, CUgraphEdgeData, CUgraphExec,
    CUgraphNode, CUkernelNodeAttrID, CUkernelNodeAttrValue, CUmemorytype, CUresult, CUstream,
};

use crate::api::{FUNCTION, driver_functions, give, handle, index};
use crate::gpu::{Answer, CONTEXT, Gpu, Task, current};
use crate::graph::{Graph, Node};

const GRAPH: usize = 4 << 40;
const INSTANCE: usize = 5 << 40;
const NODE: usize = 6 << 40;

fn node_handle((graph, node): Node) -> CUgraphNode {
    handle(NODE, graph << 20 | node)
}

fn node(handle: CUgraphNode) -> Answer<Node> {
    index(NODE, handle).map(|number| (number >> 20, number & ((1 << 20) - 1)))
}

driver_functions! {
    /// An empty graph.
    fn cuGraphCreate(graph: *mut CUgraph, flags: c_uint) {
        current(|gpu| {
            if flags != 0 {
                return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
            }
            gpu.graphs.push(Some(Graph::default()));
            give(graph, handle(GRAPH, gpu.graphs.len() - 1))
        })
    }

    /// A launch in a graph.
    fn cuGraphAddKernelNode_v2(
        place: *mut CUgraphNode,
        graph: CUgraph,
        before: *const CUgraphNode,
        count: usize,
        parameters: *const CUDA_KERNEL_NODE_PARAMS,
    ) {
        current(|gpu| {
            let task = launch_task(gpu, &*parameters)?;
            add(gpu, place, graph, before, count, task)
        })
    }

    /// Blocks of a cluster of a launch in a graph, as its kernel was compiled for.
    fn cuGraphKernelNodeSetAttribute(
        place: CUgraphNode,
        attribute: CUkernelNodeAttrID,
        value: *const CUkernelNodeAttrValue,
    ) {
        current(|gpu| {
            if attribute != CUkernelNodeAttrID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION {
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
            let cluster = (*value).clusterDim;
            gpu.set_cluster(node(place)?, [cluster.x, cluster.y, cluster.z])
        })
    }

    /// One edge between nodes that are there; all at once when the first has ended, or early, when its blocks say so.
    fn cuGraphAddDependencies_v2(
        graph: CUgraph,
        from: *const CUgraphNode,
        to: *const CUgraphNode,
        edges: *const CUgraphEdgeData,
        count: usize,
    ) {
        current(|gpu| {
            if count != 1 {
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
            let kind = if edges.is_null() { [0; 3] } else { [(*edges).from_port, (*edges).to_port, (*edges).type_] };
            let early = match kind {
                [0, 0, 0] => false,
                // CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC, and CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC.
                [1, 0, 1] => true,
                _ => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
            };
            gpu.add_edge(index(GRAPH, graph)?, node(*from)?, node(*to)?, early)
        })
    }

    /// A copy in a graph.
    fn cuGraphAddMemcpyNode(
        place: *mut CUgraphNode,
        graph: CUgraph,
        before: *const CUgraphNode,
        count: usize,
        parameters: *const CUDA_MEMCPY3D,
        context: CUcontext,
    ) {
        current(|gpu| {
            let task = copy_task(gpu, &*parameters, context)?;
            add(gpu, place, graph, before, count, task)
        })
    }

    /// A fill in a graph.
    fn cuGraphAddMemsetNode(
        place: *mut CUgraphNode,
        graph: CUgraph,
        before: *const CUgraphNode,
        count: usize,
        parameters: *const CUDA_MEMSET_NODE_PARAMS,
        context: CUcontext,
    ) {
        current(|gpu| {
            let task = fill_task(gpu, &*parameters, context)?;
            add(gpu, place, graph, before, count, task)
        })
    }

    /// Makes it ready to run.
    fn cuGraphInstantiateWithFlags(instance: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong) {
        current(|gpu| {
            if flags != 0 {
                return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
            }
            let made = gpu.instantiate(index(GRAPH, graph)?)?;
            give(instance, handle(INSTANCE, made))
        })
    }

    /// Puts its tasks, as they are now, into the stream.
    fn cuGraphLaunch(instance: CUgraphExec, stream: CUstream) {
        current(|gpu| gpu.run_instance(index(INSTANCE, instance)?, stream as usize))
    }

    /// Its instances stay.
    fn cuGraphDestroy(graph: CUgraph) {
        current(|gpu| take(&mut gpu.graphs, index(GRAPH, graph)?))
    }

    /// The stream keeps what it has of it.
    fn cuGraphExecDestroy(instance: CUgraphExec) {
        current(|gpu| take(&mut gpu.instances, index(INSTANCE, instance)?))
    }

    /// Changes a launch.
    fn cuGraphExecKernelNodeSetParams_v2(
        instance: CUgraphExec,
        place: CUgraphNode,
        parameters: *const CUDA_KERNEL_NODE_PARAMS,
    ) {
        current(|gpu| {
            let task = launch_task(gpu, &*parameters)?;
            gpu.set_node(index(INSTANCE, instance)?, node(place)?, task)
        })
    }

    /// Changes a copy.
    fn cuGraphExecMemcpyNodeSetParams(
        instance: CUgraphExec,
        place: CUgraphNode,
        parameters: *const CUDA_MEMCPY3D,
        context: CUcontext,
    ) {
        current(|gpu| {
            let task = copy_task(gpu, &*parameters, context)?;
            gpu.set_node(index(INSTANCE, instance)?, node(place)?, task)
        })
    }

    /// Changes a fill.
    fn cuGraphExecMemsetNodeSetParams(
        instance: CUgraphExec,
        place: CUgraphNode,
        parameters: *const CUDA_MEMSET_NODE_PARAMS,
        context: CUcontext,
    ) {
        current(|gpu| {
            let task = fill_task(gpu, &*parameters, context)?;
            gpu.set_node(index(INSTANCE, instance)?, node(place)?, task)
        })
    }
}

fn take<T>(table: &mut [Option<T>], index: usize) -> Answer {
    table.get_mut(index).and_then(Option::take).map(|_| ()).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
}

/// # Safety
/// `before` has `count` nodes, `place` is one for a node.
unsafe fn add(
    gpu: &mut Gpu,
    place: *mut CUgraphNode,
    graph: CUgraph,
    before: *const CUgraphNode,
    count: usize,
    task: Task,
) -> Answer {
    // SAFETY: the caller's promise.
    let before = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(before, count) } };
    let before = before.iter().map(|handle| node(*handle)).collect::<Answer<Vec<Node>>>()?;
    let added = gpu.add_node(index(GRAPH, graph)?, &before, task)?;
    // SAFETY: as above.
    unsafe { give(place, node_handle(added)) }
}

/// # Safety
/// As [`Gpu::prepare`].
unsafe fn launch_task(gpu: &Gpu, parameters: &CUDA_KERNEL_NODE_PARAMS) -> Answer<Task> {
    let of = parameters;
    if !of.extra.is_null() || !of.kern.is_null() || !(of.ctx.is_null() || of.ctx as usize == CONTEXT) {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let (grid, block) = ([of.gridDimX, of.gridDimY, of.gridDimZ], [of.blockDimX, of.blockDimY, of.blockDimZ]);
    let function = index(FUNCTION, of.func)?;
    // SAFETY: the caller's promise.
    unsafe { gpu.prepare(function, grid, block, of.sharedMemBytes as usize, of.kernelParams) }.map(Task::Launch)
}

/// One row of bytes inside device memory; other copies are not made here.
fn copy_task(gpu: &Gpu, copy: &CUDA_MEMCPY3D, context: CUcontext) -> Answer<Task> {
    let kinds = [copy.srcMemoryType, copy.dstMemoryType];
    let offsets =
        [copy.srcXInBytes, copy.srcY, copy.srcZ, copy.srcLOD, copy.dstXInBytes, copy.dstY, copy.dstZ, copy.dstLOD];
    let row = copy.Height == 1 && copy.Depth == 1 && copy.WidthInBytes > 0 && offsets.iter().all(|offset| *offset == 0);
    let pitched = copy.srcPitch >= copy.WidthInBytes && copy.dstPitch >= copy.WidthInBytes;
    let reserved = copy.reserved0.is_null() && copy.reserved1.is_null();
    if kinds.iter().any(|kind| *kind != CUmemorytype::CU_MEMORYTYPE_DEVICE) || !row || !pitched || !reserved {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    in_context(context)?;
    let (source, target, bytes) = (copy.srcDevice, copy.dstDevice, copy.WidthInBytes);
    gpu.memory.range(source, bytes)?;
    gpu.memory.range(target, bytes)?;
    Ok(Task::Copy { source, target, bytes })
}

fn fill_task(gpu: &Gpu, fill: &CUDA_MEMSET_NODE_PARAMS, context: CUcontext) -> Answer<Task> {
    let byte = u8::try_from(fill.value).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
    if fill.elementSize != 1 || fill.height != 1 || fill.width == 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    in_context(context)?;
    gpu.memory.range(fill.dst, fill.width)?;
    Ok(Task::Fill { address: fill.dst, byte, bytes: fill.width })
}

fn in_context(context: CUcontext) -> Answer {
    if context as usize == CONTEXT { Ok(()) } else { Err(CUresult::CUDA_ERROR_INVALID_CONTEXT) }
}
