//! A stand-in for NVIDIA's libcuda: the part of the driver interface that Helixgrad calls, with the emulator
//! ([`cuda_on_cpu`]) in the place of a GPU. `tools/emulated_gpu.sh COMMAND` puts it where libcuda is looked for.
//!
//! It is there to see the code that talks to the driver run. So it is as strict as the interface allows an implementation
//! to be, where a real driver is often kind:
//!
//! - Work is done as late as may be: when something waits for it. Whoever reads without waiting reads what was there before;
//!   whoever frees host memory that a copy still needs, or changes a graph's task and expects a run that was started
//!   before to notice, is wrong here.
//! - Calls need a current context on their thread, device addresses must lie inside an allocation, and launches are
//!   held against what the machine code in the fat binary says of the kernel: the number and size of its parameters, the
//!   most threads of a block, its registers and its shared memory.
//! - A kernel's fault ends the context as on a GPU: every later call returns it. What was found is written to stderr.
//!
//! Under the name libnccl.so.2 it is NCCL as well, between processes of one machine (`nccl.rs`).
//!
//! What it cannot see stands in the emulator's README. Times are those of a CPU and mean nothing.
//!
//! A launch runs in one of two engines: the kernels' C++ in the emulator, or the PTX that nvcc made of it in [`ptx_on_cpu`].
//!
//! Environment: `EMULATED_GPU` (compute capability, "9.0" where not set), `EMULATED_GPU_MEMORY` (bytes, 4 GiB),
//! `EMULATED_GPU_ENGINE` (`cpp` where not set, or `ptx`), `EMULATED_GPU_PTX` (the folder of PTX files),
//! `EMULATED_GPU_HAZARDS` (1: the PTX with all checks, slowly), `EMULATED_GPU_SPEED` (1: how fast each launch was, on stderr),
//! `EMULATED_GPU_COUNTERS` (a file that gets a line of JSON for each launch of PTX: kernel, grid, block, counters), all three with the
//! engine `ptx` alone; to rehearse a bad day,
//! `EMULATED_GPU_HANGS` and `EMULATED_GPU_CRASHES` (part of a kernel's name: a launch of it never ends, or traps), and
//! `EMULATED_GPU_STATUS` ("cuMemAlloc_v2=4711": what that function returns, without doing anything).

mod api;
mod api_graph;
mod cubin;
mod engine;
mod fatbin;
mod gpu;
mod graph;
mod launch;
mod memory;
mod nccl;
#[cfg(test)]
mod tests;
