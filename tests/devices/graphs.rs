//! Launches handed over as graphs: the same work in the same order, the same bits of a training.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use helixgrad::autograd::Tape;
use helixgrad::device::graphs::{Graph, GraphCounts, Graphs, Task};
use helixgrad::device::{Choices, DType, Device, Driver, GemmChoice, Launch};
use helixgrad::kmer::corpus::PretrainingData;
use helixgrad::model::{Head, Model};
use helixgrad::optim::AdamWConfig;
use helixgrad::train::feed::Feed;
use helixgrad::train::step::Trainer;
use helixgrad::{Error, Result};
use proptest::prelude::*;

use crate::sampling::{corpus, vocabulary};
use crate::{config, device, emulated, hopper, options};

/// Writes down what it is asked to do, one line for each piece of work, whether in a graph or not.
#[derive(Default)]
struct Journal {
    lines: Mutex<Vec<String>>,
    /// Fails when a graph runs.
    broken: AtomicBool,
    /// Makes no graphs, and counts who asks.
    refuses: AtomicBool,
    asked: AtomicUsize,
}

impl Journal {
    fn note(&self, line: String) -> Result<()> {
        self.lines.lock().unwrap().push(line);
        Ok(())
    }

    fn note_task(&self, task: &Task) -> Result<()> {
        match task {
            Task::Launch(launch) => self.note(format!("{launch} {:?}", launch.arguments)),
            Task::Copy { source, target, bytes } => self.note(format!("copy {source} {target} {bytes}")),
            Task::Fill { address, byte, bytes } => self.note(format!("fill {address} {byte} {bytes}")),
        }
    }
}

impl Driver for Journal {
    fn describe(&self) -> String {
        "journal".into()
    }

    fn multiprocessors(&self) -> u32 {
        1
    }

    fn compute_capability(&self) -> (u32, u32) {
        (8, 0)
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        Ok(bytes as u64)
    }

    unsafe fn free(&self, address: u64) {
        let _ = self.note(format!("free {address}"));
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.note(format!("write {address} {bytes:?}"))
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.note(format!("read {address} {}", bytes.len()))
    }

    unsafe fn copy(&self, source: u64, target: u64, bytes: usize) -> Result<()> {
        self.note_task(&Task::Copy { source, target, bytes })
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.note_task(&Task::Fill { address, byte, bytes })
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.note_task(&Task::Launch(launch.clone()))
    }

    unsafe fn make_graph(&self, tasks: &[Task]) -> Result<Option<Graph>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok((!self.refuses.load(Ordering::Relaxed)).then(|| Graph::new(tasks.to_vec())))
    }

    unsafe fn set_task(&self, graph: &mut Graph, index: usize, task: &Task) -> Result<()> {
        let node = &mut graph.inner::<Vec<Task>>()?[index];
        assert_eq!(node.kind(), task.kind());
        *node = task.clone();
        Ok(())
    }

    unsafe fn run_graph(&self, graph: &mut Graph) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::Failed("a graph that cannot run".into()));
        }
        graph.inner::<Vec<Task>>()?.iter().try_for_each(|task| self.note_task(task))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// What an operation may ask of a driver.
#[derive(Clone, Debug)]
enum Ask {
    Launch { kernel: usize, blocks: usize, argument: u64 },
    Copy(u64),
    Fill(u8),
    Write,
    Read,
    Free,
    Synchronize,
    Submit,
}

fn ask(driver: &dyn Driver, ask: &Ask) -> Result<()> {
    // SAFETY: a journal touches no memory.
    unsafe {
        match *ask {
            Ask::Launch { kernel, blocks, argument } => {
                driver.launch(&Launch::new(["gelu", "tanh"][kernel], blocks, 32).value(argument))
            }
            Ask::Copy(bytes) => driver.copy(1, 2, bytes as usize),
            Ask::Fill(byte) => driver.fill(3, byte, 4),
            Ask::Write => driver.write(5, &[6]),
            Ask::Read => driver.read(7, &mut [8]),
            Ask::Free => {
                driver.free(9);
                Ok(())
            }
            Ask::Synchronize => driver.synchronize(),
            Ask::Submit => driver.submit(),
        }
    }
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let held = prop_oneof![
        6 => (0..2usize, 1..4usize, 0..3u64)
            .prop_map(|(kernel, blocks, argument)| Ask::Launch { kernel, blocks, argument }),
        1 => (1..3u64).prop_map(Ask::Copy),
        1 => (0..2u8).prop_map(Ask::Fill),
    ];
    let ends =
        prop_oneof![Just(Ask::Write), Just(Ask::Read), Just(Ask::Free), Just(Ask::Synchronize), Just(Ask::Submit),];
    let step = (prop::collection::vec(held, 0..20), ends).prop_map(|(mut held, end)| {
        held.push(end);
        held
    });
    // A few steps, and which of them runs when; what changes between two runs of one is in `vary`.
    let steps = prop::collection::vec(step, 1..4);
    (steps, prop::collection::vec((0..3usize, 0..2u64), 1..12)).prop_map(|(steps, runs)| {
        let run = |(step, vary): (usize, u64)| {
            let mut asks = steps[step % steps.len()].clone();
            for ask in asks.iter_mut().step_by(3) {
                if let Ask::Launch { blocks, argument, .. } = ask {
                    *argument += 10 * vary;
                    *blocks += vary as usize;
                }
            }
            asks
        };
        runs.into_iter().flat_map(run).collect()
    })
}

proptest! {
    /// However launches, copies, fills and what waits for them follow each other, a driver gets them in the same order with the
    /// same arguments as without graphs.
    #[test]
    fn order_and_arguments_stay(asks in asks()) {
        let (plain, behind) = (Journal::default(), Arc::new(Journal::default()));
        let Device::Kernels(graphs) = Graphs::over(Device::Kernels(behind.clone())) else { unreachable!() };
        for one in &asks {
            ask(&plain, one).unwrap();
            ask(&*graphs, one).unwrap();
        }
        graphs.submit().unwrap();
        prop_assert_eq!(&*plain.lines.lock().unwrap(), &*behind.lines.lock().unwrap());
    }
}

/// Twenty launches in graphs: made at the second sight, and only what differs is set anew. What fails while memory is freed,
/// where nobody can be told, is told at the next occasion.
#[test]
fn a_graph_is_made_once_and_its_failures_are_told() {
    let behind = Arc::new(Journal::default());
    let Device::Kernels(graphs) = Graphs::over(Device::Kernels(behind.clone())) else { unreachable!() };
    let step = |argument| {
        for index in 0..20 {
            let launch = Ask::Launch { kernel: index % 2, blocks: 1, argument: if index == 7 { argument } else { 0 } };
            ask(&*graphs, &launch).unwrap();
        }
    };
    for argument in [1, 2, 2, 3, 4] {
        step(argument);
        graphs.submit().unwrap();
    }
    let counts = GraphCounts { made: 1, run: 4, tasks: 80, changed: 2, alone: 20 };
    assert_eq!(graphs.graph_counts(), Some(counts));
    behind.broken.store(true, Ordering::Relaxed);
    step(5);
    ask(&*graphs, &Ask::Free).unwrap();
    assert!(graphs.synchronize().unwrap_err().to_string().contains("a graph that cannot run"));
    behind.broken.store(false, Ordering::Relaxed);
    step(6);
    graphs.submit().unwrap();
    assert_eq!(graphs.graph_counts().unwrap().alone, 40, "a graph that failed is not used again");
}

#[test]
fn a_driver_that_makes_no_graph_is_asked_once() {
    let behind = Arc::new(Journal::default());
    behind.refuses.store(true, Ordering::Relaxed);
    let Device::Kernels(graphs) = Graphs::over(Device::Kernels(behind.clone())) else { unreachable!() };
    for argument in 0..5 {
        (0..20).for_each(|_| ask(&*graphs, &Ask::Launch { kernel: 0, blocks: 1, argument }).unwrap());
        graphs.submit().unwrap();
    }
    assert_eq!(behind.asked.load(Ordering::Relaxed), 1);
    assert_eq!(graphs.graph_counts(), Some(GraphCounts { alone: 100, ..GraphCounts::default() }));
}

const STEPS: u64 = 6;

/// Losses, norm and weights of a short training.
fn train(device: &Device, dtype: DType) -> impl PartialEq + use<> {
    let model = Model::initialise(config(32), Head::MaskedLm, DType::F32, 3).unwrap();
    let mut trainer = Trainer::new(model, AdamWConfig::default(), device, dtype, 11).unwrap();
    let (data, vocabulary) = (PretrainingData::Genome(corpus()), vocabulary());
    let options = options(device, dtype);
    let feed = Feed::new(&data, &vocabulary, &options, &trainer).unwrap();
    (0..STEPS).for_each(|step| feed.advance(&mut trainer, step, 1e-3, &mut |_| Ok(())).unwrap());
    let report = trainer.report().unwrap();
    (report.losses, report.gradient_norm, trainer.model.parameters.host_values().unwrap())
}

/// A training whose steps are graphs has the bits of one whose launches are single; numbers of masked tokens vary from step to
/// step, and the sequence of kernels does not. Evaluation in between is a graph of its own.
#[test]
fn steps_as_graphs_change_no_bit() {
    // Hopper's products in clusters as well: a node of a graph is told their size apart.
    let clusters = hopper(Choices { gemm: GemmChoice::OwnCluster, ..Choices::default() });
    let mut chips = emulated::named().map_or_else(|| vec![emulated::device()], |device| vec![device]);
    chips.extend(clusters.runs_sm90().then_some(clusters));
    for chip in chips {
        let expected = train(&chip, DType::Bf16);
        let graphs = Graphs::over(chip);
        assert!(train(&graphs, DType::Bf16) == expected);
        let counts = graphs.graph_counts().unwrap();
        println!("{counts:?}");
        assert!(counts.run >= STEPS - 2, "a graph each step from the second or third on: {counts:?}");
        assert!(counts.made <= 2 && counts.changed * 2 < counts.tasks, "{counts:?}");
    }
}

/// Trains with graphs and without; where the driver refuses `function` there are none, and the launches go one by one. Only a driver has
/// nodes to tell. The emulated one reads its environment when it is called, so `test` runs itself in another process.
fn graphs_or_launches_change_no_bit(test: &str, choices: Choices, function: &str) {
    let name = std::env::var("HELIXGRAD_TEST_DEVICE").unwrap_or_default();
    let Some(device) = emulated::named().filter(|device| name != "emulator" && device.runs_sm90()) else {
        println!("skipped: no CUDA driver, or not of compute capability 9.0");
        return;
    };
    let refused = std::env::var_os("EMULATED_GPU_STATUS").is_some();
    let graphs = Device::open(&name, Choices { graphs: true, ..choices }).unwrap();
    let expected =
        train(&Device::open(&name, Choices { gemm: choices.gemm, ..Choices::default() }).unwrap(), DType::Bf16);
    assert!(train(&graphs, DType::Bf16) == expected);
    assert!(train(&Device::open(&name, choices).unwrap(), DType::Bf16) == expected);
    let counts = graphs.graph_counts().unwrap();
    assert_eq!(counts.run >= STEPS - 2, !refused, "{counts:?}");
    if !refused && device.to_string().contains("emulated GPU") {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", test]);
        let output = again.env("EMULATED_GPU_STATUS", format!("{function}=801")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}

/// Kernels in clusters of two are told so in a graph.
#[test]
fn clusters_stay_clusters_in_a_graph() {
    let choices = Choices { gemm: GemmChoice::OwnCluster, ..Choices::default() };
    let test = "graphs::clusters_stay_clusters_in_a_graph";
    graphs_or_launches_change_no_bit(test, choices, "cuGraphKernelNodeSetAttribute");
}

/// Kernels that may start early do so in a graph by edges of another kind, and by themselves by an attribute of their launch.
#[test]
fn kernels_follow_early_in_a_graph_too() {
    let choices = Choices { dependent_launch: true, ..Choices::default() };
    let test = "graphs::kernels_follow_early_in_a_graph_too";
    graphs_or_launches_change_no_bit(test, choices, "cuGraphAddDependencies_v2");
}

#[test]
fn the_cpu_has_no_graphs() {
    let error = Device::open("cpu", Choices { graphs: true, ..Choices::default() }).unwrap_err();
    assert!(error.to_string().contains("--cuda-graphs on the CPU") && error.exit_code() == 2, "{error}");
    let error = Device::open("cpu", Choices { dependent_launch: true, ..Choices::default() }).unwrap_err();
    assert!(error.to_string().contains("--dependent-launch on") && error.exit_code() == 2, "{error}");
}

/// A tape by itself, without a step's end, gives the values of single launches too: reading hands over what is held.
#[test]
fn reading_sees_what_was_launched() {
    let graphs = Graphs::over(device());
    let batch = crate::batch(&Head::MaskedLm);
    let logits = |device: &Device| {
        let model = Model::initialise(config(32), Head::MaskedLm, DType::F32, 3).unwrap();
        let model = Trainer::new(model, AdamWConfig::default(), device, DType::Bf16, 9).unwrap().model;
        let mut tape = Tape::new(device.clone(), DType::Bf16);
        (0..3)
            .map(|_| {
                tape.start_inference();
                let batch = model.upload(&mut tape, &batch).unwrap();
                let logits = model.forward(&mut tape, &batch).unwrap();
                tape.to_f64(logits).unwrap()
            })
            .collect::<Vec<_>>()
    };
    assert!(logits(&graphs) == logits(&device()));
    assert!(graphs.graph_counts().unwrap().run >= 1);
}
