//! Tasks as a CUDA graph: a chain of nodes, instantiated once and set anew where a task has changed
//! (docs.nvidia.com/cuda/cuda-driver-api, "Graph Management").

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::{Gpu, encode};
use crate::device::Launch;
use crate::device::graphs::Task;
use crate::{Error, Result};

/// A chain of nodes and what the driver has made of it.
pub(super) struct CudaGraph {
    context: sys::CUcontext,
    graph: sys::CUgraph,
    /// Null until it is instantiated.
    instance: sys::CUgraphExec,
    nodes: Vec<sys::CUgraphNode>,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs; every use makes it so first.
unsafe impl Send for CudaGraph {}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: the context lives as long as the process, and this is the handles' only owner. The driver keeps an instance that
        // is still running until it is done.
        unsafe {
            if result::ctx::set_current(self.context).is_ok() {
                if !self.instance.is_null() {
                    let _ = sys::cuGraphExecDestroy(self.instance);
                }
                let _ = sys::cuGraphDestroy(self.graph);
            }
        }
    }
}

/// Memory copies and fills this long are beyond what a node of one row takes (its pitch is 31 bits).
const LONGEST: usize = i32::MAX as usize;

/// A task as the driver takes it.
enum Parameters {
    Kernel(sys::CUDA_KERNEL_NODE_PARAMS),
    Copy(Box<sys::CUDA_MEMCPY3D>),
    Fill(sys::CUDA_MEMSET_NODE_PARAMS),
}

impl Gpu {
    /// The graph of `tasks`; `None` if one of them does not fit a node.
    ///
    /// # Safety
    /// As [`crate::device::Driver::launch`] and the others, when the graph runs.
    pub(super) unsafe fn chain(&self, tasks: &[Task]) -> Result<Option<CudaGraph>> {
        let fits =
            |task: &Task| !matches!(task, Task::Copy { bytes, .. } | Task::Fill { bytes, .. } if *bytes > LONGEST);
        if !tasks.iter().all(fits) {
            return Ok(None);
        }
        self.enter()?;
        let at = |error| self.failed("make a graph", error);
        let mut graph = null_mut();
        // SAFETY: the driver writes one handle.
        unsafe { sys::cuGraphCreate(&raw mut graph, 0) }.result().map_err(at)?;
        let mut chain = CudaGraph { context: self.context, graph, instance: null_mut(), nodes: Vec::new() };
        for task in tasks {
            let before = chain.nodes.last().map_or(null(), |node| &raw const *node);
            let count = usize::from(!chain.nodes.is_empty());
            let mut node = null_mut();
            self.with_parameters(task, |parameters| {
                // SAFETY: graph and node before are live, the parameters are complete and copied before the call returns.
                unsafe {
                    match parameters {
                        Parameters::Kernel(kernel) => {
                            sys::cuGraphAddKernelNode_v2(&raw mut node, graph, before, count, kernel)
                        }
                        Parameters::Copy(copy) => sys::cuGraphAddMemcpyNode(
                            &raw mut node,
                            graph,
                            before,
                            count,
                            &raw const **copy,
                            self.context,
                        ),
                        Parameters::Fill(fill) => {
                            sys::cuGraphAddMemsetNode(&raw mut node, graph, before, count, fill, self.context)
                        }
                    }
                }
            })?
            .result()
            .map_err(|error| self.task_failed("add to a graph", task, error))?;
            chain.nodes.push(node);
        }
        // SAFETY: the graph is complete; the driver writes one handle.
        unsafe { sys::cuGraphInstantiateWithFlags(&raw mut chain.instance, graph, 0) }.result().map_err(at)?;
        Ok(Some(chain))
    }

    /// Sets task `index`, which stays of its kind. Runs that were started before are not touched by it.
    ///
    /// # Safety
    /// As [`Gpu::chain`].
    pub(super) unsafe fn set_node(&self, chain: &CudaGraph, index: usize, task: &Task) -> Result<()> {
        self.enter()?;
        let (instance, node) = (chain.instance, chain.nodes[index]);
        self.with_parameters(task, |parameters| {
            // SAFETY: the node is of the graph that the instance was made of; the parameters are copied before the call returns.
            unsafe {
                match parameters {
                    Parameters::Kernel(kernel) => sys::cuGraphExecKernelNodeSetParams_v2(instance, node, kernel),
                    Parameters::Copy(copy) => {
                        sys::cuGraphExecMemcpyNodeSetParams(instance, node, &raw const **copy, self.context)
                    }
                    Parameters::Fill(fill) => sys::cuGraphExecMemsetNodeSetParams(instance, node, fill, self.context),
                }
            }
        })?
        .result()
        .map_err(|error| self.task_failed("change in a graph", task, error))
    }

    /// Runs it, in order behind everything launched before.
    ///
    /// # Safety
    /// As [`Gpu::chain`].
    pub(super) unsafe fn run_chain(&self, chain: &CudaGraph) -> Result<()> {
        self.enter()?;
        // SAFETY: the instance is live, and the stream is of its context.
        unsafe { sys::cuGraphLaunch(chain.instance, self.stream) }
            .result()
            .map_err(|error| self.failed(&format!("run a graph of {} tasks", chain.nodes.len()), error))
    }

    fn task_failed(&self, what: &str, task: &Task, error: DriverError) -> Error {
        let task = match task {
            Task::Launch(launch) => format!("kernel {launch}"),
            Task::Copy { bytes, .. } => format!("a copy of {bytes} bytes"),
            Task::Fill { bytes, .. } => format!("a fill of {bytes} bytes"),
        };
        self.failed(&format!("{what} {task}"), error)
    }

    /// Calls `give` with the task's parameters, which point to what lives until it returns.
    fn with_parameters(&self, task: &Task, give: impl FnOnce(&Parameters) -> sys::CUresult) -> Result<sys::CUresult> {
        Ok(match task {
            Task::Launch(launch) => {
                self.log.note(launch);
                let function = self.function(&launch.kernel, launch.shared_bytes)?;
                let mut values = launch.values(|map| encode(map, launch))?;
                let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut value.0).cast()).collect();
                give(&Parameters::Kernel(kernel(launch, function, pointers.as_mut_ptr())))
            }
            &Task::Copy { source, target, bytes } => give(&Parameters::Copy(Box::new(row(source, target, bytes)))),
            &Task::Fill { address, byte, bytes } => give(&Parameters::Fill(sys::CUDA_MEMSET_NODE_PARAMS {
                dst: address,
                pitch: bytes,
                value: byte.into(),
                elementSize: 1,
                width: bytes,
                height: 1,
            })),
        })
    }
}

fn kernel(launch: &Launch, func: sys::CUfunction, arguments: *mut *mut c_void) -> sys::CUDA_KERNEL_NODE_PARAMS {
    let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (launch.grid, launch.block);
    sys::CUDA_KERNEL_NODE_PARAMS {
        func,
        gridDimX: grid_x,
        gridDimY: grid_y,
        gridDimZ: grid_z,
        blockDimX: block_x,
        blockDimY: block_y,
        blockDimZ: block_z,
        sharedMemBytes: launch.shared_bytes,
        kernelParams: arguments,
        extra: null_mut(),
        kern: null_mut(),
        // The current context, which `enter` has set.
        ctx: null_mut(),
    }
}

/// One row of bytes, from device memory to device memory.
fn row(source: u64, target: u64, bytes: usize) -> sys::CUDA_MEMCPY3D {
    sys::CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        srcHost: null(),
        srcDevice: source,
        srcArray: null_mut(),
        reserved0: null_mut(),
        srcPitch: bytes,
        srcHeight: 1,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: null_mut(),
        dstDevice: target,
        dstArray: null_mut(),
        reserved1: null_mut(),
        dstPitch: bytes,
        dstHeight: 1,
        WidthInBytes: bytes,
        Height: 1,
        Depth: 1,
    }
}
