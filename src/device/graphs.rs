//! Device work handed over as graphs: a driver in front of a driver that holds launches back and gives them on together.
//!
//! A GPU starts the kernels of a graph without being told of each one, so a step of many short kernels no longer runs at the
//! host's pace. No operation knows of it. Work is held until something has to see its outcome, or [`Driver::submit`] says that a
//! step ends. What was held is compared with the graphs known so far: the first time a sequence of kernels comes it runs as
//! ever, the second time it becomes a graph, and from then on the graph runs again after the tasks whose shapes, addresses or
//! numbers have changed (the step number in dropout, the count of masked tokens) have been set anew. So nothing need be static
//! but the sequence itself, and the bits are those of single launches.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::attention_kernels::AttentionPath;
use super::collective::{Collective, UniqueId};
use super::gemm_choice::GemmTable;
use super::product::Product;
use super::{Device, Driver, Launch, Mark};
use crate::{Error, Result};

/// Fewer tasks are not worth a graph.
const FEWEST: usize = 8;
/// More are not held back at once.
const MOST: usize = 4096;
/// Sequences that are remembered; the one that ran longest ago is forgotten first. Training needs one for each micro-batch
/// that differs from the others, and evaluation another.
const REMEMBERED: usize = 16;

/// A piece of device work that a graph can hold.
#[derive(Clone, Debug)]
pub enum Task {
    /// A kernel.
    Launch(Launch),
    /// Bytes copied inside the device.
    Copy {
        /// Address of the first byte to read.
        source: u64,
        /// Address of the first byte to write.
        target: u64,
        /// How many.
        bytes: usize,
    },
    /// Bytes set.
    Fill {
        /// Address of the first.
        address: u64,
        /// To what.
        byte: u8,
        /// How many.
        bytes: usize,
    },
}

impl Task {
    /// What a node of a graph keeps for good: the kernel's name, or the kind of memory operation.
    pub fn kind(&self) -> &str {
        match self {
            Self::Launch(launch) => &launch.kernel,
            Self::Copy { .. } => "copy",
            Self::Fill { .. } => "fill",
        }
    }

    /// Whether it does the same to the same memory.
    fn repeats(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Launch(one), Self::Launch(other)) => one.repeats(other),
            (
                &Self::Copy { source, target, bytes },
                &Self::Copy { source: other_source, target: other_target, bytes: other_bytes },
            ) => (source, target, bytes) == (other_source, other_target, other_bytes),
            (
                &Self::Fill { address, byte, bytes },
                &Self::Fill { address: other_address, byte: other_byte, bytes: other_bytes },
            ) => (address, byte, bytes) == (other_address, other_byte, other_bytes),
            _ => false,
        }
    }
}

/// A driver's own object for tasks that it runs one after the other.
pub struct Graph(Box<dyn Any + Send>);

impl Graph {
    /// Wraps a driver's object.
    pub fn new(inner: impl Any + Send) -> Self {
        Self(Box::new(inner))
    }

    /// The driver's object.
    ///
    /// # Errors
    /// [`Error::Failed`] if it is another driver's.
    pub fn inner<T: Any>(&mut self) -> Result<&mut T> {
        self.0.downcast_mut().ok_or_else(|| Error::Failed("a graph of another driver".into()))
    }
}

/// What became of the work so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GraphCounts {
    /// Graphs made.
    pub made: u64,
    /// Graphs run.
    pub run: u64,
    /// Tasks that ran in graphs.
    pub tasks: u64,
    /// Those of them that had changed since their graph ran before.
    pub changed: u64,
    /// Tasks that ran by themselves.
    pub alone: u64,
}

struct Known {
    /// As they ran last; also those that the graph holds.
    tasks: Vec<Task>,
    as_graph: AsGraph,
}

/// What a sequence of tasks has become.
enum AsGraph {
    /// It came once.
    Seen,
    /// The driver makes none of it, and is not asked again.
    Refused,
    Made(Graph),
}

impl Known {
    fn is_sequence_of(&self, tasks: &[Task]) -> bool {
        let mut pairs = self.tasks.iter().zip(tasks);
        self.tasks.len() == tasks.len() && pairs.all(|(one, other)| one.kind() == other.kind())
    }
}

#[derive(Default)]
struct State {
    held: Vec<Task>,
    /// The one that ran last stands last.
    known: Vec<Known>,
    counts: GraphCounts,
    /// What went wrong where it could not be told.
    late: Option<Error>,
}

/// The driver in front.
pub struct Graphs {
    driver: Arc<dyn Driver>,
    state: Mutex<State>,
}

impl Graphs {
    /// `device` with graphs. The CPU launches nothing and stays as it is.
    pub fn over(device: Device) -> Device {
        match device {
            Device::Cpu => Device::Cpu,
            Device::Kernels(driver) => Device::Kernels(Arc::new(Self { driver, state: Mutex::default() })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, task: Task) -> Result<()> {
        let mut state = self.state();
        state.held.push(task);
        if state.held.len() < MOST { Ok(()) } else { self.hand_over(&mut state) }
    }

    /// The driver behind, once all that is held has been handed to it.
    fn up_to_date(&self) -> Result<&dyn Driver> {
        self.hand_over(&mut self.state())?;
        Ok(&*self.driver)
    }

    fn hand_over(&self, state: &mut State) -> Result<()> {
        if let Some(error) = state.late.take() {
            return Err(error);
        }
        let tasks = std::mem::take(&mut state.held);
        if tasks.len() < FEWEST {
            return self.run_alone(&tasks, &mut state.counts);
        }
        let Some(place) = state.known.iter().position(|known| known.is_sequence_of(&tasks)) else {
            self.run_alone(&tasks, &mut state.counts)?;
            if state.known.len() == REMEMBERED {
                state.known.remove(0);
            }
            state.known.push(Known { tasks, as_graph: AsGraph::Seen });
            return Ok(());
        };
        // Out of the list: a graph that fails halfway is not one to use again.
        let Known { tasks: last, as_graph } = state.known.remove(place);
        let as_graph = match as_graph {
            AsGraph::Made(mut graph) => {
                for (index, (task, _)) in
                    tasks.iter().zip(&last).enumerate().filter(|(_, (new, old))| !new.repeats(old))
                {
                    // SAFETY: the promise that came with the task when it was held.
                    unsafe { self.driver.set_task(&mut graph, index, task) }?;
                    state.counts.changed += 1;
                }
                AsGraph::Made(graph)
            }
            AsGraph::Seen => {
                // SAFETY: the promises that came with the tasks when they were held.
                let graph = unsafe { self.driver.make_graph(&tasks) }?;
                state.counts.made += u64::from(graph.is_some());
                graph.map_or(AsGraph::Refused, AsGraph::Made)
            }
            AsGraph::Refused => AsGraph::Refused,
        };
        let as_graph = match as_graph {
            AsGraph::Made(mut graph) => {
                // SAFETY: all tasks are set to what was held, whose memory is freed no earlier than it has been handed over.
                unsafe { self.driver.run_graph(&mut graph) }?;
                state.counts.run += 1;
                state.counts.tasks += tasks.len() as u64;
                AsGraph::Made(graph)
            }
            alone => {
                self.run_alone(&tasks, &mut state.counts)?;
                alone
            }
        };
        state.known.push(Known { tasks, as_graph });
        Ok(())
    }

    fn run_alone(&self, tasks: &[Task], counts: &mut GraphCounts) -> Result<()> {
        counts.alone += tasks.len() as u64;
        tasks.iter().try_for_each(|task| match task {
            // SAFETY: the promise that came with the task when it was held.
            Task::Launch(launch) => unsafe { self.driver.launch(launch) },
            // SAFETY: as above.
            &Task::Copy { source, target, bytes } => unsafe { self.driver.copy(source, target, bytes) },
            // SAFETY: as above.
            &Task::Fill { address, byte, bytes } => unsafe { self.driver.fill(address, byte, bytes) },
        })
    }
}

impl Driver for Graphs {
    fn describe(&self) -> String {
        self.driver.describe()
    }

    fn multiprocessors(&self) -> u32 {
        self.driver.multiprocessors()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.driver.compute_capability()
    }

    fn attention_path(&self) -> AttentionPath {
        self.driver.attention_path()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        // New memory is touched by nothing that is held.
        self.driver.allocate(bytes)
    }

    unsafe fn free(&self, address: u64) {
        let mut state = self.state();
        if let Err(error) = self.hand_over(&mut state) {
            state.late = Some(error);
        }
        // SAFETY: the caller's promise; what was held back and may use the memory has been handed over.
        unsafe { self.driver.free(address) }
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.up_to_date()?.write(address, bytes) }
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.up_to_date()?.read(address, bytes) }
    }

    unsafe fn copy(&self, source: u64, target: u64, bytes: usize) -> Result<()> {
        self.hold(Task::Copy { source, target, bytes })
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.hold(Task::Fill { address, byte, bytes })
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.hold(Task::Launch(launch.clone()))
    }

    fn gemm_table(&self) -> Option<&GemmTable> {
        self.driver.gemm_table()
    }

    unsafe fn vendor_product(&self, product: &Product) -> Result<bool> {
        // SAFETY: the caller's promise. The library launches by itself: its products stand between two graphs.
        unsafe { self.up_to_date()?.vendor_product(product) }
    }

    fn join(&self, id: &UniqueId, rank: usize, size: usize) -> Result<Box<dyn Collective>> {
        self.up_to_date()?.join(id, rank, size)
    }

    fn synchronize(&self) -> Result<()> {
        self.up_to_date()?.synchronize()
    }

    fn submit(&self) -> Result<()> {
        self.up_to_date()?.submit()
    }

    fn graph_counts(&self) -> Option<GraphCounts> {
        Some(self.state().counts)
    }

    fn mark(&self) -> Result<Mark> {
        self.up_to_date()?.mark()
    }

    fn seconds_between(&self, first: &Mark, last: &Mark) -> Result<f64> {
        self.driver.seconds_between(first, last)
    }

    fn collect_profile(&self, on: bool) -> Result<()> {
        self.up_to_date()?.collect_profile(on)
    }
}
