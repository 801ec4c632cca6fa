//! The command. Exit code 1 is a kernel's fault, 2 bad usage or a file that cannot be read or written.

mod argument;
mod counters;
mod npy;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use ptx_on_cpu::{Asynchronous, Launch, Memory, Module, Settings};

use argument::Argument;

/// Runs compiled CUDA kernels (PTX) on the CPU.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say what kernels a PTX file has: parameters, shared memory, instructions that are not known.
    List { file: PathBuf },
    /// Run a kernel.
    Run(Run),
}

/// Sizes of one to three axes.
fn sizes(text: &str) -> Result<[u32; 3], String> {
    let mut sizes = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("at most three numbers: X,Y,Z".into());
    }
    for (size, part) in sizes.iter_mut().zip(parts) {
        *size = part.trim().parse().map_err(|why| format!("{part}: {why}"))?;
    }
    Ok(sizes)
}

#[derive(Args)]
struct Run {
    file: PathBuf,
    kernel: String,
    /// Blocks: X,Y,Z
    #[arg(long, value_parser = sizes)]
    grid: [u32; 3],
    /// Threads of a block: X,Y,Z
    #[arg(long, value_parser = sizes)]
    block: [u32; 3],
    /// Blocks of a cluster: X,Y,Z
    #[arg(long, value_parser = sizes, default_value = "1,1,1")]
    cluster: [u32; 3],
    /// Bytes of dynamic shared memory
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// Run warps in an order drawn from this number, and asynchronous work early or late by it
    #[arg(long)]
    seed: Option<u64>,
    /// Carry out asynchronous work as late as it may be
    #[arg(long)]
    late: bool,
    /// Look for races and missing fences
    #[arg(long)]
    hazards: bool,
    /// Let kernels read memory that nobody wrote
    #[arg(long)]
    no_poison: bool,
    /// Threads of this machine for the blocks
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// A pointer to a buffer: TYPE:FILE.npy (values rounded to the type), TYPE:COUNT:OUT.npy (a new one, written afterwards),
    /// TYPE:IN.npy:OUT.npy
    #[arg(long)]
    buffer: Vec<String>,
    /// A number: TYPE:VALUE
    #[arg(long, allow_hyphen_values = true)]
    scalar: Vec<String>,
    /// A map of a tensor: TYPE:FILE.npy:TILE[:SWIZZLE], or TYPE:SHAPE:TILE:SWIZZLE:OUT.npy; shapes as 128x64, swizzles 0, 32, 64
    /// or 128
    #[arg(long)]
    tensormap: Vec<String>,
    /// Print how often each line was executed
    #[arg(long)]
    lines: bool,
    /// Count memory, branches and barriers, and print them by line of the source
    #[arg(long)]
    counters: bool,
    /// Print one JSON object of the counters instead
    #[arg(long)]
    json: bool,
}

/// What ends the command.
enum Failure {
    /// Of the kernel.
    Fault(String),
    /// Of the user or a file.
    Usage(String),
    /// Whoever reads the output has heard enough.
    Closed,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Usage(text)
    }
}

impl From<std::io::Error> for Failure {
    fn from(why: std::io::Error) -> Self {
        match why.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Usage(format!("standard output: {why}")),
        }
    }
}

pub fn main() -> ExitCode {
    let matches = <Command as clap::CommandFactory>::command().get_matches();
    let command = Command::from_arg_matches(&matches).unwrap_or_else(|why| why.exit());
    let result = match &command.action {
        Action::List { file } => list(file),
        Action::Run(run) => match matches.subcommand() {
            Some((_, matches)) => execute(run, matches),
            None => Ok(()),
        },
    };
    match result {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Fault(text)) => {
            tell(&format!("fault: {text}"));
            ExitCode::from(1)
        }
        Err(Failure::Usage(text)) => {
            tell(&format!("error: {text}"));
            ExitCode::from(2)
        }
    }
}

/// Says something on stderr, if anybody listens.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn load(file: &Path) -> Result<Module, Failure> {
    let text = std::fs::read_to_string(file).map_err(|why| format!("{}: {why}", file.display()))?;
    Module::parse(&text).map_err(|why| Failure::Usage(format!("{}: {why}", file.display())))
}

/// `1x2x3` without the ones at the end.
fn axes([x, y, z]: [u32; 3]) -> String {
    match (y, z) {
        (1, 1) => x.to_string(),
        (_, 1) => format!("{x},{y}"),
        _ => format!("{x},{y},{z}"),
    }
}

fn list(file: &Path) -> Result<(), Failure> {
    let module = load(file)?;
    let mut output = std::io::stdout().lock();
    for kernel in module.kernels() {
        writeln!(output, "{}", kernel.name())?;
        let parameters = kernel.parameters();
        for (number, parameter) in parameters.iter().enumerate() {
            let what = match (parameter.kind.as_str(), parameter.size) {
                ("b8", 128) if parameter.align >= 64 => "128 bytes, perhaps a tensor map".to_owned(),
                ("b8", size) => format!("{size} bytes"),
                (kind, _) => kind.to_owned(),
            };
            writeln!(output, "  parameter {number}: {what}, at {}", parameter.offset)?;
        }
        writeln!(output, "  shared memory: {} bytes and what a launch adds", kernel.shared_bytes())?;
        for (what, sizes) in [
            ("threads of a block", kernel.required_block()),
            ("threads of a block at most", kernel.max_block()),
            ("blocks of a cluster", kernel.required_cluster()),
        ] {
            if let Some(sizes) = sizes {
                writeln!(output, "  {what}: {}", axes(sizes))?;
            }
        }
        let unknown = kernel.unknown();
        writeln!(output, "  instructions: {}, {} of them not known", kernel.instructions(), unknown.len())?;
        for (line, why) in unknown {
            writeln!(output, "    line {line}: {why}")?;
        }
    }
    Ok(())
}

/// The parameters in the order in which they stand in the command.
fn arguments(run: &Run, matches: &ArgMatches) -> Result<Vec<Argument>, String> {
    let mut found = Vec::new();
    for (name, texts) in [("buffer", &run.buffer), ("scalar", &run.scalar), ("tensormap", &run.tensormap)] {
        let places = matches.indices_of(name).into_iter().flatten();
        found.extend(places.zip(texts).map(|(place, text)| (place, name, text)));
    }
    found.sort_by_key(|argument| argument.0);
    found
        .into_iter()
        .map(|(_, name, text)| Argument::parse(name, text).map_err(|why| format!("--{name} {text}: {why}")))
        .collect()
}

fn execute(run: &Run, matches: &ArgMatches) -> Result<(), Failure> {
    let module = load(&run.file)?;
    let kernel = module
        .kernel(&run.kernel)
        .ok_or_else(|| format!("{}: there is no kernel {}; `list` names them", run.file.display(), run.kernel))?;
    let memory = Memory::new();
    let arguments = arguments(run, matches)?;
    let placed = arguments.iter().map(|argument| argument.place(&memory)).collect::<Result<Vec<_>, _>>()?;
    let values: Vec<&[u8]> = placed.iter().map(|placed| placed.value.as_slice()).collect();
    let launch = Launch {
        kernel: run.kernel.clone(),
        grid: run.grid,
        block: run.block,
        cluster: run.cluster,
        dynamic_shared: run.shared,
        parameters: kernel.pack(&values)?,
    };
    let asynchronous = match (run.late, run.seed) {
        (true, _) => Asynchronous::Late,
        (false, Some(_)) => Asynchronous::BySeed,
        (false, None) => Asynchronous::Early,
    };
    let settings = Settings {
        seed: run.seed,
        asynchronous,
        hazards: run.hazards,
        poison: !run.no_poison,
        threads: run.threads,
        counters: run.counters || run.json,
    };
    let started = Instant::now();
    let counters =
        ptx_on_cpu::run(&module, &launch, &memory, &settings).map_err(|fault| Failure::Fault(fault.to_string()))?;
    let seconds = started.elapsed().as_secs_f64();
    for warning in &counters.warnings {
        tell(&format!("warning: {warning}"));
    }
    for (argument, placed) in arguments.iter().zip(&placed) {
        argument.save(&memory, placed)?;
    }
    let mut output = std::io::stdout().lock();
    if run.json {
        writeln!(output, "{}", serde_json::to_string(&counters).map_err(|why| why.to_string())?)?;
        return Ok(());
    }
    let (warps, threads) = (counters.warp_instructions, counters.thread_instructions);
    writeln!(output, "{warps} instructions of warps, {threads} of threads")?;
    let [threads, products] = [threads, counters.tensor_multiplications].map(|count| count as f64 / seconds / 1e6);
    writeln!(
        output,
        "{seconds:.3} s: {threads:.0} million instructions of threads and {products:.0} million multiply-accumulates of tensor cores \
         a second"
    )?;
    if run.lines {
        for (line, [warps, threads]) in &counters.lines {
            writeln!(output, "line {line}: {warps} of warps, {threads} of threads")?;
        }
    }
    if run.counters {
        write!(output, "{}", counters::table(&counters))?;
    }
    Ok(())
}
