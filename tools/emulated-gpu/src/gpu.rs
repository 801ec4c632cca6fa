//! The one GPU: what is loaded, what waits in its queue, and how that is run.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use cuda_on_cpu::{FaultKind, Options};
use cudarc::driver::sys::CUresult;

use crate::engine::Engine;
use crate::fatbin::Image;
use crate::graph::{Graph, Instance};
use crate::launch::{Function, Launch};
use crate::memory::Memory;

/// What a call returns, where it has nothing to say.
pub type Answer<T = ()> = Result<T, CUresult>;

/// The handle of the only context.
pub const CONTEXT: usize = 0xC0DE_0001;
/// The handle of the only stream that is not the default one.
pub const STREAM: usize = 0x57EA_0001;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Makes `context` the calling thread's.
pub fn set_current(context: usize) -> Answer {
    if context != 0 && context != CONTEXT {
        return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
    }
    CURRENT.set(context);
    Ok(())
}

/// A place in the stream; when it was reached, once it was.
#[derive(Default)]
pub struct Event {
    pub recorded: Mutex<bool>,
    pub reached: OnceLock<Instant>,
}

/// A piece of work in the queue.
#[derive(Clone)]
pub enum Task {
    Launch(Launch),
    CopyIn {
        target: u64,
        bytes: Vec<u8>,
    },
    /// Into host memory, whose address this is.
    CopyOut {
        source: u64,
        target: usize,
        bytes: usize,
    },
    Copy {
        source: u64,
        target: u64,
        bytes: usize,
    },
    Fill {
        address: u64,
        byte: u8,
        bytes: usize,
    },
    Reach(Arc<Event>),
    /// Between the GPUs of several processes.
    Group(crate::nccl::Group),
}

pub struct Gpu {
    pub capability: (u32, u32),
    pub memory: Memory,
    pub modules: Vec<Image>,
    pub functions: Vec<Function>,
    pub events: Vec<Option<Arc<Event>>>,
    pub graphs: Vec<Option<Graph>>,
    pub instances: Vec<Option<Instance>>,
    pub engine: Engine,
    queue: VecDeque<Task>,
    /// What ended the context.
    pub fault: Option<CUresult>,
    launches: u64,
    /// Parts of the names of kernels that never end, and of those that trap.
    pub hangs: Option<String>,
    pub crashes: Option<String>,
}

static GPU: Mutex<Option<Gpu>> = Mutex::new(None);

/// `cuInit`.
pub fn start() -> Answer {
    let mut gpu = GPU.lock().unwrap_or_else(PoisonError::into_inner);
    if gpu.is_some() {
        return Ok(());
    }
    let refuse = |name: &str, value: &str| {
        eprintln!("emulated GPU: {name}={value} cannot be read");
        CUresult::CUDA_ERROR_INVALID_VALUE
    };
    let capability = std::env::var("EMULATED_GPU").unwrap_or_else(|_| "9.0".into());
    let (major, minor) = capability.split_once('.').unwrap_or((&capability, "0"));
    let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
        return Err(refuse("EMULATED_GPU", &capability));
    };
    let memory = std::env::var("EMULATED_GPU_MEMORY").unwrap_or_else(|_| (4u64 << 30).to_string());
    let Ok(total) = memory.parse() else { return Err(refuse("EMULATED_GPU_MEMORY", &memory)) };
    let engine = Engine::from_environment((major, minor)).map_err(|why| {
        eprintln!("emulated GPU: {why}");
        CUresult::CUDA_ERROR_INVALID_VALUE
    })?;
    *gpu = Some(Gpu {
        capability: (major, minor),
        memory: Memory::new(total),
        modules: Vec::new(),
        functions: Vec::new(),
        events: Vec::new(),
        graphs: Vec::new(),
        instances: Vec::new(),
        engine,
        queue: VecDeque::new(),
        fault: None,
        launches: 0,
        hangs: std::env::var("EMULATED_GPU_HANGS").ok(),
        crashes: std::env::var("EMULATED_GPU_CRASHES").ok(),
    });
    Ok(())
}

/// Does `work` with the GPU, which must have been started.
pub fn started(work: impl FnOnce(&mut Gpu) -> Answer) -> CUresult {
    let mut gpu = GPU.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(gpu) = gpu.as_mut() else { return CUresult::CUDA_ERROR_NOT_INITIALIZED };
    work(gpu).err().unwrap_or(CUresult::CUDA_SUCCESS)
}

/// Does `work` with the GPU, if the thread has a context and no fault has ended it.
pub fn current(work: impl FnOnce(&mut Gpu) -> Answer) -> CUresult {
    started(|gpu| {
        if CURRENT.get() != CONTEXT {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        gpu.fault.map_or(Ok(()), Err)?;
        work(gpu)
    })
}

impl Gpu {
    /// The most shared memory that a block may be given, static and dynamic.
    pub fn block_shared(&self) -> usize {
        match self.capability {
            (8, 0 | 7) => 163 << 10,
            (8 | 12, _) => 99 << 10,
            (9..=11, _) => 227 << 10,
            _ => 64 << 10,
        }
    }

    /// Adds to the queue of `stream`.
    pub fn enqueue(&mut self, stream: usize, task: Task) -> Answer {
        if stream != 0 && stream != STREAM {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        self.queue.push_back(task);
        Ok(())
    }

    /// Runs everything in the queue.
    pub fn run(&mut self) -> Answer {
        while let Some(task) = self.queue.pop_front() {
            if let Err(status) = self.run_one(task) {
                self.queue.clear();
                self.fault = Some(status);
                return Err(status);
            }
        }
        Ok(())
    }

    fn run_one(&mut self, task: Task) -> Answer {
        // An address that was good when the call was made may be of memory that is gone.
        let range =
            |address, bytes| self.memory.range(address, bytes).map_err(|_| CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        match task {
            Task::Launch(launch) => return self.run_launch(&launch),
            Task::Group(group) => return self.run_group(&group),
            Task::CopyIn { target, bytes } => {
                let target = range(target, bytes.len())?;
                // SAFETY: `range` has checked the length, and nobody else has device memory.
                unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            }
            Task::CopyOut { source, target, bytes } => {
                let source = range(source, bytes)?;
                // SAFETY: as above; whoever asked for the copy keeps host memory until it has waited for it.
                unsafe { (target as *mut u8).copy_from_nonoverlapping(source, bytes) };
            }
            Task::Copy { source, target, bytes } => {
                let (source, target) = (range(source, bytes)?, range(target, bytes)?);
                // SAFETY: as above; the two may overlap.
                unsafe { target.copy_from(source, bytes) };
            }
            Task::Fill { address, byte, bytes } => {
                let target = range(address, bytes)?;
                // SAFETY: as above.
                unsafe { target.write_bytes(byte, bytes) };
            }
            Task::Reach(event) => {
                let _ = event.reached.set(Instant::now());
            }
        }
        Ok(())
    }

    fn run_launch(&mut self, launch: &Launch) -> Answer {
        let kernel = self.functions[launch.function].kernel;
        let named = |part: &Option<String>| part.as_ref().is_some_and(|part| kernel.name().contains(part.as_str()));
        if named(&self.hangs) {
            eprintln!("emulated GPU: kernel {} never ends, as EMULATED_GPU_HANGS says", kernel.name());
            loop {
                std::thread::park();
            }
        }
        if named(&self.crashes) {
            eprintln!("emulated GPU: kernel {} traps, as EMULATED_GPU_CRASHES says", kernel.name());
            return Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
        if let Some(module) = self.functions[launch.function].ptx.clone() {
            return self.run_ptx(launch, &module);
        }
        let mut values = launch.arguments.clone();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut value.0).cast()).collect();
        self.launches += 1;
        let options = Options { seed: self.launches, threads: 0 };
        // SAFETY: `Function::prepare` has copied as many bytes as each parameter has. What their addresses point to is the
        // caller's promise, as on a GPU; device memory lies between guard pages.
        unsafe { cuda_on_cpu::launch(&kernel, launch.grid, launch.block, launch.shared, &mut pointers, &options) }
            .map_err(|fault| {
                eprintln!("emulated GPU: {fault}");
                match fault.kind {
                    FaultKind::OutOfBounds => CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
                    FaultKind::Misaligned => CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
                    FaultKind::Assert => CUresult::CUDA_ERROR_ASSERT,
                    FaultKind::Deadlock => CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
                    _ => CUresult::CUDA_ERROR_LAUNCH_FAILED,
                }
            })
    }

    fn run_ptx(&mut self, launch: &Launch, module: &ptx_on_cpu::Module) -> Answer {
        let Engine::Ptx(engine) = &self.engine else { return Err(CUresult::CUDA_ERROR_INVALID_IMAGE) };
        let kernel = self.functions[launch.function].kernel;
        let failed = |why: &dyn std::fmt::Display| eprintln!("emulated GPU: {why}");
        let values: Vec<&[u8]> = launch
            .arguments
            .iter()
            .zip(kernel.parameter_sizes())
            .map(|(value, size)| &value.0[..*size as usize])
            .collect();
        let parameters = module
            .kernel(kernel.name())
            .ok_or_else(|| "the module has lost its kernel".to_owned())
            .and_then(|kernel| kernel.pack(&values))
            .map_err(|why| {
                failed(&why);
                CUresult::CUDA_ERROR_INVALID_VALUE
            })?;
        self.launches += 1;
        let ptx_launch = ptx_on_cpu::Launch {
            kernel: kernel.name().to_owned(),
            grid: launch.grid,
            block: launch.block,
            cluster: kernel.cluster(),
            dynamic_shared: launch.shared as u32,
            parameters,
        };
        let settings = engine.settings(self.launches);
        let started = Instant::now();
        let counters = ptx_on_cpu::run(module, &ptx_launch, &self.memory.mapped, &settings).map_err(|fault| {
            failed(&format!("{fault} (seed {})", self.launches));
            CUresult::CUDA_ERROR_LAUNCH_FAILED
        })?;
        engine.tell_speed(kernel.name(), &counters, started.elapsed());
        for warning in &counters.warnings {
            failed(&format!("warning: {warning}"));
        }
        engine.record(&ptx_launch, &counters).map_err(|why| {
            failed(&why);
            CUresult::CUDA_ERROR_OPERATING_SYSTEM
        })
    }
}
