//! `helixgrad doctor`: what this build embeds, what this machine has, and what is missing.

use serde::Serialize;

use super::Common;
use crate::Result;
use crate::device::attention_kernels::{AttentionKernels, AttentionPath};
use crate::device::cuda::cublaslt::{self, Library};
use crate::device::cuda::{self, GpuInfo, nccl};
use crate::device::{Choices, kernels, mpi};

/// Options of `helixgrad doctor`.
#[derive(clap::Args, Debug, Serialize)]
pub struct Args {}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    nvcc: Option<&'static str>,
    kernel_files: usize,
    kernel_targets: Vec<&'static str>,
    spilling_kernels: Vec<String>,
    threads: usize,
    driver: Option<String>,
    cublaslt: Option<Library>,
    /// For several ranks with a GPU each.
    nccl: Option<String>,
    /// For several ranks on CPUs.
    mpi: Option<String>,
    gpus: Vec<GpuInfo>,
    advice: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// [`crate::Error::Io`] if stdout cannot be written; a missing GPU is a finding, not an error.
pub fn run(_: &Args, common: &Common) -> Result<()> {
    common.print(&examine(), human)
}

fn examine() -> Report {
    let embedded = kernels::embedded();
    let mut kernel_targets: Vec<&str> = embedded.iter().flat_map(|file| file.targets).copied().collect();
    kernel_targets.sort_unstable();
    kernel_targets.dedup();
    let spills = |kernel: &kernels::KernelResources| kernel.spill_stores + kernel.spill_loads > 0;
    let named = |kernel: kernels::KernelResources| format!("{} ({})", kernel.kernel, kernel.target);

    let mut advice = Vec::new();
    if embedded.is_empty() {
        advice.push(
            "this build has no CUDA kernels: run tools/install-nvcc.sh, or set NVCC or CUDA_HOME, and build again"
                .into(),
        );
    }
    let gpus = cuda::gpus().unwrap_or_else(|error| {
        advice.push(error.to_string());
        Vec::new()
    });
    let driver = cuda::driver_version().ok().map(|(major, minor)| format!("{major}.{minor}"));
    if !embedded.is_empty() && !gpus.is_empty() {
        match cuda::open(0, Choices::default()) {
            Ok(_) => advice.push("--device cuda is ready".into()),
            Err(error) => advice.push(error.to_string()),
        }
    }
    Report {
        version: env!("CARGO_PKG_VERSION"),
        nvcc: kernels::nvcc_version(),
        kernel_files: embedded.len(),
        kernel_targets,
        spilling_kernels: kernels::resources().into_iter().filter(spills).map(named).collect(),
        threads: rayon::current_num_threads(),
        driver,
        cublaslt: cublaslt::library(),
        nccl: nccl::library(),
        mpi: mpi::library(),
        gpus,
        advice,
    }
}

fn human(report: &Report) -> String {
    let mut lines = vec![format!("helixgrad {}", report.version)];
    match report.nvcc {
        Some(nvcc) => lines.push(format!(
            "kernels: {} files, compiled by nvcc {nvcc} for {}",
            report.kernel_files,
            report.kernel_targets.join(", ")
        )),
        None => lines.push("kernels: none".into()),
    }
    if !report.spilling_kernels.is_empty() {
        lines.push(format!("kernels that spill registers: {}", report.spilling_kernels.join(", ")));
    }
    lines.push(format!("CPU: {} threads", report.threads));
    match &report.driver {
        Some(driver) => lines.push(format!("NVIDIA driver: supports CUDA {driver}")),
        None => lines.push("NVIDIA driver: none".into()),
    }
    lines.push(match &report.cublaslt {
        Some(Library { version, path }) => {
            format!("cuBLASLt: {version}, {}", path.as_deref().unwrap_or("from where the system does not say"))
        }
        None => "cuBLASLt: none (--gemm has our own kernels only)".into(),
    });
    lines.push(match &report.nccl {
        Some(found) => format!("NCCL: {found}"),
        None => "NCCL: none (no ranks with a GPU each)".into(),
    });
    lines.push(match &report.mpi {
        Some(found) => format!("MPI: {found}"),
        None => "MPI: none (no ranks on CPUs)".into(),
    });
    for gpu in &report.gpus {
        lines.push(format!(
            "cuda:{}: {}, compute capability {}, {:.1} GiB, {} multiprocessors, attention kernels: {}",
            gpu.ordinal,
            gpu.name,
            gpu.compute_capability,
            gpu.memory_bytes as f64 / (1u64 << 30) as f64,
            gpu.multiprocessors,
            attention_families(gpu)
        ));
    }
    lines.extend(report.advice.iter().map(|advice| format!("- {advice}")));
    lines.join("\n")
}

/// The families that a GPU can run, the one that `--attention auto` takes first.
fn attention_families(gpu: &GpuInfo) -> String {
    let families = AttentionKernels::families(gpu.capability());
    let names: Vec<&str> = families.into_iter().map(AttentionPath::name).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
