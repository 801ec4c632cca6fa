//! Graphs: tasks in an order that their dependencies allow, instantiated, changed and run.

use std::mem::discriminant;

use cudarc::driver::sys::CUresult;

use crate::gpu::{Answer, Gpu, Task};

/// A graph under construction. A node's dependencies are there before it, so the order of adding is one to run in.
#[derive(Default)]
pub struct Graph {
    pub nodes: Vec<Task>,
}

/// A graph that can run.
pub struct Instance {
    graph: usize,
    tasks: Vec<Task>,
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

    /// Adds a node behind `before`. A chain is what is made of them here: without an order between two tasks, a GPU may
    /// run them at once, so a node that does not wait for the one before it is refused.
    pub fn add_node(&mut self, graph: usize, before: &[Node], task: Task) -> Answer<Node> {
        let nodes = &mut self.graph(graph)?.nodes;
        let last = nodes.len().checked_sub(1).map(|last| (graph, last));
        if last.is_some_and(|last| !before.contains(&last)) || before.iter().any(|node| *node >= (graph, nodes.len())) {
            eprintln!("emulated GPU: node {} of a graph does not wait for the node before it", nodes.len());
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        nodes.push(task);
        Ok((graph, nodes.len() - 1))
    }

    /// `cuGraphInstantiateWithFlags`.
    pub fn instantiate(&mut self, graph: usize) -> Answer<usize> {
        let tasks = self.graph(graph)?.nodes.clone();
        self.instances.push(Some(Instance { graph, tasks }));
        Ok(self.instances.len() - 1)
    }

    /// Changes a task of an instance, which stays of its kind. Runs under way are not touched.
    pub fn set_node(&mut self, instance: usize, (graph, node): Node, task: Task) -> Answer {
        let instance = self.instance(instance)?;
        if instance.graph != graph || node >= instance.tasks.len() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if discriminant(&instance.tasks[node]) != discriminant(&task) {
            return Err(CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        }
        instance.tasks[node] = task;
        Ok(())
    }

    /// `cuGraphLaunch`.
    pub fn run_instance(&mut self, instance: usize, stream: usize) -> Answer {
        let tasks = self.instance(instance)?.tasks.clone();
        tasks.into_iter().try_for_each(|task| self.enqueue(stream, task))
    }
}
