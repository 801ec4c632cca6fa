//! Launches: what a kernel is run with, and how.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::{Counters, Counts};
use crate::fault::Fault;
use crate::machine::{Cluster, MAX_SHARED, Prepared};
use crate::memory::Memory;
use crate::module::Module;
use crate::races::Races;

/// Local memory that a thread may have (CUDA C++ Programming Guide, technical specifications).
const MAX_LOCAL: usize = 512 << 10;

/// A launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Name of the kernel in the module.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Bytes of shared memory behind what the kernel declares.
    pub dynamic_shared: u32,
    /// The parameter block as the driver packs it: each parameter at its alignment ([`crate::Kernel::pack`]).
    pub parameters: Vec<u8>,
}

/// When asynchronous work (copies, matrix instructions) is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Asynchronous {
    /// When it is issued.
    #[default]
    Early,
    /// When somebody has waited for it, or nothing else can go on.
    Late,
    /// Each piece in one way or the other, by the seed.
    BySeed,
}

/// How a launch is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Order of warps and of diverged lanes: `None` is round robin, with the lanes that are behind first.
    pub seed: Option<u64>,
    /// When asynchronous work is carried out.
    pub asynchronous: Asynchronous,
    /// Whether races and missing fences are looked for. Slower, and on one thread.
    pub hazards: bool,
    /// Whether reading global memory that nobody wrote is a fault.
    pub poison: bool,
    /// Host threads for the blocks of a grid. Blocks that wait for each other need as many as there are of them, or one
    /// cluster.
    pub threads: usize,
    /// Whether memory, branches and barriers are counted: [`Counters::total`] and what follows it. Slower.
    pub counters: bool,
}

impl Default for Settings {
    /// Fast: no hazards, no schedule, one thread; memory that nobody wrote must not be read.
    fn default() -> Self {
        Self {
            seed: None,
            asynchronous: Asynchronous::Early,
            hazards: false,
            poison: true,
            threads: 1,
            counters: false,
        }
    }
}

impl Settings {
    /// The strictest way: all checks, a schedule by seed, and asynchronous work as late as it may be or not.
    pub fn strict(seed: u64) -> Self {
        Self {
            seed: Some(seed),
            asynchronous: Asynchronous::BySeed,
            hazards: true,
            poison: true,
            threads: 1,
            counters: false,
        }
    }
}

/// Runs a launch to its end.
///
/// # Errors
/// What is wrong with the launch, or what went wrong in the kernel, and where.
pub fn run(module: &Module, launch: &Launch, memory: &Memory, settings: &Settings) -> Result<Counters, Fault> {
    let refuse = |finding: String| Fault { kernel: launch.kernel.clone(), finding, ..Fault::default() };
    let kernel = module.kernel(&launch.kernel).ok_or_else(|| refuse("the module has no such kernel".into()))?;
    let code = kernel.code();
    let Launch { grid, block, cluster, dynamic_shared, .. } = *launch;
    let product = |sizes: [u32; 3]| sizes.iter().map(|size| u128::from(*size)).product::<u128>();
    if !(1..=1024).contains(&product(block)) {
        return Err(refuse(format!("blocks of {block:?} threads: 1 to 1024 are allowed")));
    }
    if product(grid) == 0 || product(grid) > 1 << 40 {
        return Err(refuse(format!("a grid of {grid:?} blocks")));
    }
    if !(1..=16).contains(&product(cluster)) || (0..3).any(|axis| grid[axis] % cluster[axis] != 0) {
        return Err(refuse(format!("a grid of {grid:?} blocks is not made of clusters of {cluster:?}")));
    }
    if let Some(required) = kernel.required_block().filter(|required| *required != block) {
        return Err(refuse(format!("blocks of {block:?} threads, where the kernel demands {required:?}")));
    }
    if let Some(most) = kernel.max_block().filter(|most| product(*most) < product(block)) {
        return Err(refuse(format!("blocks of {block:?} threads, where the kernel allows {most:?}")));
    }
    if let Some(required) = kernel.required_cluster().filter(|required| *required != cluster) {
        return Err(refuse(format!("clusters of {cluster:?} blocks, where the kernel demands {required:?}")));
    }
    if launch.parameters.len() != code.parameter_bytes {
        let (given, wanted) = (launch.parameters.len(), code.parameter_bytes);
        return Err(refuse(format!("a parameter block of {given} bytes, where the kernel has {wanted}")));
    }
    let globals = memory.globals(module.number, &module.globals.initial, &module.globals.pointers);
    let prepared = Prepared {
        file: &module.file,
        code,
        grid,
        block,
        cluster,
        dynamic_shared,
        parameters: &launch.parameters,
        settings,
        memory: memory.view(),
        globals,
    };
    if dynamic_shared as usize > MAX_SHARED || prepared.shared_bytes() > MAX_SHARED {
        return Err(refuse(format!("{} bytes of shared memory, of {MAX_SHARED}", prepared.shared_bytes())));
    }
    if code.local_bytes > MAX_LOCAL {
        return Err(refuse(format!("{} bytes of local memory a thread, of {MAX_LOCAL}", code.local_bytes)));
    }
    execute(&prepared)
}

/// All clusters of the grid.
fn execute(launch: &Prepared) -> Result<Counters, Fault> {
    let clusters = [0, 1, 2].map(|axis| u64::from(launch.grid[axis] / launch.cluster[axis]));
    let total: u64 = clusters.iter().product();
    let next = AtomicU64::new(0);
    let instructions = launch.code.instructions.len();
    let none = || launch.settings.counters.then(|| vec![Counts::default(); instructions]);
    let executed = Mutex::new((vec![[0u64; 2]; instructions], 0u64));
    let warnings = Mutex::new(BTreeMap::new());
    let seen = Mutex::new(none());
    let work = || -> Result<(), Fault> {
        let mut races = launch.settings.hazards.then(Races::default);
        let mut counts = none();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                let mut sums = seen.lock().unwrap_or_else(PoisonError::into_inner);
                for (sum, counts) in sums.iter_mut().flatten().zip(counts.into_iter().flatten()) {
                    *sum += counts;
                }
                return Ok(());
            }
            let [width, height, _] = clusters;
            let id = [number % width, number / width % height, number / width / height].map(|at| at as u32);
            let mut cluster = Cluster::new(launch, id, number, races.take());
            cluster.counts = counts.take();
            let result = cluster.run();
            races = cluster.races.take();
            counts = cluster.counts.take();
            let mut sums = executed.lock().unwrap_or_else(PoisonError::into_inner);
            for (sum, [warps, threads]) in sums.0.iter_mut().zip(&cluster.executed) {
                sum[0] += warps;
                sum[1] += threads;
            }
            sums.1 += cluster.multiplications;
            for (statement, warning) in std::mem::take(&mut cluster.warnings) {
                warnings.lock().unwrap_or_else(PoisonError::into_inner).entry(statement).or_insert(warning);
            }
            result.inspect_err(|_| next.store(total, Ordering::Relaxed))?;
        }
    };
    let threads = if launch.settings.hazards { 1 } else { launch.settings.threads.max(1).min(total as usize) };
    if threads == 1 {
        work()?;
    } else {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            results.into_iter().try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
    }
    let (executed, tensor_multiplications) = executed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    let counters = Counters::new(launch.file, launch.code, &executed, seen.as_deref());
    let warnings = warnings.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect();
    Ok(Counters { tensor_multiplications, warnings, ..counters })
}
