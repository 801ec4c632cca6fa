//! Graphs: tasks in an order that their dependencies allow, instantiated, changed and run.

use std::mem::discriminant;

use cudarc::driver::sys::CUresult;

use crate::gpu::{Answer, Gpu, Task};

/// A graph under construction. A node's dependencies are there before it, so the order of adding is one to run in.
#[derive(Default)]
pub struct Graph {
    pub nodes: Vec<Task>,
    /// Blocks of a cluster that each node was told, ones where it was told nothing.
    clusters: Vec<[u32; 3]>,
    /// Whether each node waits for the one before it.
    waits: Vec<bool>,
}

/// A graph that can run.
pub struct Instance {
    graph: usize,
    tasks: Vec<Task>,
    clusters: Vec<[u32; 3]>,
}

/// A node: the number of its graph, and its own.
pub type Node = (usize, usize);

impl Gpu {
    fn graph(&mut self, graph: usize) -> Answer<&mut Graph> {
        self.graphs.get_mut(graph).and_then(Option::as_mut).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    fn instance(&mut self, instance: usize) -> Answer<&mut Instance> {
        self.instances.get_mut(instance).and_then(Option::as_mut).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    /// Adds a node behind `before`.
    pub fn add_node(&mut self, graph: usize, before: &[Node], task: Task) -> Answer<Node> {
        let Graph { nodes, clusters, waits } = self.graph(graph)?;
        if before.iter().any(|(of, node)| *of != graph || *node >= nodes.len()) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        waits.push(nodes.is_empty() || before.contains(&(graph, nodes.len() - 1)));
        nodes.push(task);
        clusters.push([1; 3]);
        Ok((graph, nodes.len() - 1))
    }

    /// `cuGraphAddDependencies_v2` for one edge to the node behind; an early one is between two launches.
    pub fn add_edge(&mut self, graph: usize, from: Node, to: Node, early: bool) -> Answer {
        let Graph { nodes, waits, .. } = self.graph(graph)?;
        let launches = |node: Node| matches!(nodes.get(node.1), Some(Task::Launch(_)));
        let chained = from.0 == graph && to == (graph, from.1 + 1) && to.1 < nodes.len();
        if !chained || early && !(launches(from) && launches(to)) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        waits[to.1] = true;
        Ok(())
    }

    /// `cuGraphKernelNodeSetAttribute` for blocks of a cluster.
    pub fn set_cluster(&mut self, (graph, node): Node, cluster: [u32; 3]) -> Answer {
        let place = self.graph(graph)?.clusters.get_mut(node).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        *place = cluster;
        Ok(())
    }

    /// Refuses a launch whose kernel was compiled for other clusters than its node was told. That the kernel's own would do is what
    /// no document says.
    fn check_cluster(&self, task: &Task, told: [u32; 3]) -> Answer {
        let Task::Launch(launch) = task else { return Ok(()) };
        let compiled = self.cluster(launch.function)?.unwrap_or([1; 3]);
        if compiled != told {
            eprintln!("emulated GPU: a graph's node was told of clusters of {told:?}, and its kernel has {compiled:?}");
            return Err(CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
        }
        Ok(())
    }

    /// `cuGraphInstantiateWithFlags`.
    pub fn instantiate(&mut self, graph: usize) -> Answer<usize> {
        let Graph { nodes, clusters, waits } = self.graph(graph)?;
        // A chain is what is made of them here: without an order between two tasks, a GPU may run them at once.
        if let Some(node) = waits.iter().position(|waits| !waits) {
            eprintln!("emulated GPU: node {node} of a graph does not wait for the node before it");
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let (tasks, clusters) = (nodes.clone(), clusters.clone());
        tasks.iter().zip(&clusters).try_for_each(|(task, &told)| self.check_cluster(task, told))?;
        self.instances.push(Some(Instance { graph, tasks, clusters }));
        Ok(self.instances.len() - 1)
    }

    /// Changes a task of an instance, which stays of its kind. Runs under way are not touched.
    pub fn set_node(&mut self, of: usize, (graph, node): Node, task: Task) -> Answer {
        let instance = self.instance(of)?;
        if instance.graph != graph || node >= instance.tasks.len() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if discriminant(&instance.tasks[node]) != discriminant(&task) {
            return Err(CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        }
        let told = instance.clusters[node];
        self.check_cluster(&task, told)?;
        self.instance(of)?.tasks[node] = task;
        Ok(())
    }

    /// `cuGraphLaunch`.
    pub fn run_instance(&mut self, instance: usize, stream: usize) -> Answer {
        let tasks = self.instance(instance)?.tasks.clone();
        tasks.into_iter().try_for_each(|task| self.enqueue(stream, task))
    }
}
