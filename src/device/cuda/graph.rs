//! Tasks as a CUDA graph: a chain of nodes, instantiated once and set anew where a task has changed
//! (docs.nvidia.com/cuda/cuda-driver-api, "Graph Management").

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use cudarc::driver::sys;

use super::library::Failure;
use super::{Gpu, driver, encode};
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
            if driver::cuCtxSetCurrent(self.context).is_ok() {
                if !self.instance.is_null() {
                    let _ = driver::cuGraphExecDestroy(self.instance);
                }
                let _ = driver::cuGraphDestroy(self.graph);
            }
        }
    }
}

/// Memory copies and fills this long are beyond what a node of one row takes (its pitch is 31 bits).
const LONGEST: usize = i32::MAX as usize;

/// What the driver said to a task.
type Given = Result<(), Failure>;

/// A task as the driver takes it.
enum Parameters {
    Kernel(sys::CUDA_KERNEL_NODE_PARAMS),
    Copy(Box<sys::CUDA_MEMCPY3D>),
    Fill(sys::CUDA_MEMSET_NODE_PARAMS),
}

impl Gpu {
    /// The graph of `tasks`; `None` if one of them does not fit a node, or the driver will not have a kernel's clusters in it.
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
        unsafe { driver::cuGraphCreate(&raw mut graph, 0) }.map_err(at)?;
        let mut chain = CudaGraph { context: self.context, graph, instance: null_mut(), nodes: Vec::new() };
        for (index, task) in tasks.iter().enumerate() {
            // An edge of its own kind cannot be given with the node.
            let early = self.dependent
                && index > 0
                && tasks[index - 1..=index].iter().all(|task| matches!(task, Task::Launch(_)));
            let last = chain.nodes.last().filter(|_| !early);
            let (before, count) = (last.map_or(null(), |node| &raw const *node), usize::from(last.is_some()));
            let mut node = null_mut();
            self.with_parameters(task, |parameters| {
                // SAFETY: graph and node before are live, the parameters are complete and copied before the call returns.
                unsafe {
                    match parameters {
                        Parameters::Kernel(kernel) => {
                            driver::cuGraphAddKernelNode_v2(&raw mut node, graph, before, count, kernel)
                        }
                        Parameters::Copy(copy) => driver::cuGraphAddMemcpyNode(
                            &raw mut node,
                            graph,
                            before,
                            count,
                            &raw const **copy,
                            self.context,
                        ),
                        Parameters::Fill(fill) => {
                            driver::cuGraphAddMemsetNode(&raw mut node, graph, before, count, fill, self.context)
                        }
                    }
                }
            })?
            .map_err(|error| self.task_failed("add to a graph", task, error))?;
            chain.nodes.push(node);
            if early && let Err(error) = follow_early(&chain) {
                let why = self.task_failed("let follow early in a graph", task, error);
                tracing::warn!("no graph of these {} tasks: {why}", tasks.len());
                return Ok(None);
            }
            if let Task::Launch(launch) = task
                && let Err(error) = self.set_cluster(launch, node)?
            {
                let why = self.task_failed("set the clusters in a graph of", task, error);
                tracing::warn!("no graph of these {} tasks: {why}", tasks.len());
                return Ok(None);
            }
        }
        // SAFETY: the graph is complete; the driver writes one handle.
        unsafe { driver::cuGraphInstantiateWithFlags(&raw mut chain.instance, graph, 0) }.map_err(at)?;
        Ok(Some(chain))
    }

    /// Tells a node the blocks of a cluster that its kernel was compiled for. They are an attribute of the kernel, read-only and checked
    /// at the launch; but a node's parameters have no place for them, and no document says that it takes them from there. They hold for
    /// all its runs: a node's parameters change later, its kernel never does ([`Task::kind`]).
    fn set_cluster(&self, launch: &Launch, node: sys::CUgraphNode) -> Result<Given> {
        let function = self.function(&launch.kernel, launch.shared_bytes)?;
        let [x, y, z] = self
            .cluster(function)
            .map_err(|error| self.failed(&format!("ask for the clusters of kernel {}", launch.kernel), error))?;
        if x * y * z <= 1 {
            return Ok(Ok(()));
        }
        let mut value = sys::CUlaunchAttributeValue { pad: [0; 64] };
        value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
        let attribute = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        // SAFETY: the node is of a live graph, and the value is copied before the call returns.
        Ok(unsafe { driver::cuGraphKernelNodeSetAttribute(node, attribute, &raw const value) })
    }

    /// Blocks of a cluster in x, y and z that a kernel was compiled for; zeros where it has none, or the chip knows no clusters.
    fn cluster(&self, function: sys::CUfunction) -> Result<[u32; 3], Failure> {
        use sys::CUfunction_attribute as Attribute;
        if self.capability < (9, 0) {
            return Ok([0; 3]);
        }
        let mut sizes = [0; 3];
        let attributes = [
            Attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH,
            Attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT,
            Attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH,
        ];
        for (size, attribute) in sizes.iter_mut().zip(attributes) {
            let mut value = 0;
            // SAFETY: the function is of a module that is never unloaded; the driver writes one number.
            unsafe { driver::cuFuncGetAttribute(&raw mut value, attribute, function) }?;
            *size = value.max(0) as u32;
        }
        Ok(sizes)
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
                    Parameters::Kernel(kernel) => driver::cuGraphExecKernelNodeSetParams_v2(instance, node, kernel),
                    Parameters::Copy(copy) => {
                        driver::cuGraphExecMemcpyNodeSetParams(instance, node, &raw const **copy, self.context)
                    }
                    Parameters::Fill(fill) => {
                        driver::cuGraphExecMemsetNodeSetParams(instance, node, fill, self.context)
                    }
                }
            }
        })?
        .map_err(|error| self.task_failed("change in a graph", task, error))
    }

    /// Runs it, in order behind everything launched before.
    ///
    /// # Safety
    /// As [`Gpu::chain`].
    pub(super) unsafe fn run_chain(&self, chain: &CudaGraph) -> Result<()> {
        self.enter()?;
        // SAFETY: the instance is live, and the stream is of its context.
        unsafe { driver::cuGraphLaunch(chain.instance, self.stream) }
            .map_err(|error| self.failed(&format!("run a graph of {} tasks", chain.nodes.len()), error))
    }

    fn task_failed(&self, what: &str, task: &Task, error: Failure) -> Error {
        let task = match task {
            Task::Launch(launch) => format!("kernel {launch}"),
            Task::Copy { bytes, .. } => format!("a copy of {bytes} bytes"),
            Task::Fill { bytes, .. } => format!("a fill of {bytes} bytes"),
        };
        self.failed(&format!("{what} {task}"), error)
    }

    /// Calls `give` with the task's parameters, which point to what lives until it returns.
    fn with_parameters(&self, task: &Task, give: impl FnOnce(&Parameters) -> Given) -> Result<Given> {
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

/// Lets the last node start when every block of the one before it has called `griddepcontrol.launch_dependents` or ended, not when all is
/// done ("Programmatic Dependent Launch" of the CUDA C++ Programming Guide: edge data).
fn follow_early(chain: &CudaGraph) -> Given {
    let [.., before, node] = &chain.nodes[..] else { return Ok(()) };
    let edge = sys::CUgraphEdgeData {
        from_port: sys::CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC as u8,
        to_port: 0,
        type_: sys::CUgraphDependencyType::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC as u8,
        reserved: [0; 5],
    };
    // SAFETY: both nodes are of this live graph; the driver reads one edge.
    unsafe { driver::cuGraphAddDependencies_v2(chain.graph, before, node, &raw const edge, 1) }
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
