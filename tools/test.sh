#!/bin/sh
# Everything that must hold before a change lands: formatting, lints, documentation, all tests. Kernels are compiled for
# every target where NVIDIA's compiler can be had; without it the rest is tested, and the skipped part says so.
set -eu
cd "$(dirname "$0")/.."

nvcc=1
tools/install-nvcc.sh || { nvcc= && echo "test.sh: going on without nvcc: kernels run in the emulator only"; }

tools/install-mpi.sh || echo "test.sh: going on without MPI: tests of several processes use the system's, or are skipped"

cargo fmt --all --check
# Its build script is one more unit, which would compile the kernels a second time.
HELIXGRAD_CUDA_ARCHS=none cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
cargo test --workspace --locked --no-fail-fast
tools/python/test.sh
# The code that talks to the CUDA driver, with the kernels that nvcc compiled, against a libcuda in front of the emulator.
if [ -n "$nvcc" ]; then
    export HELIXGRAD_TEST_DEVICE=cuda
    EMULATED_GPU=9.0 tools/emulated_gpu.sh cargo test --locked --test kernels -- sm90 layernorm norm machine --skip any_product
    EMULATED_GPU=8.0 tools/emulated_gpu.sh cargo test --locked --test devices -- trains_as_the_cpu_does graphs
    EMULATED_GPU=9.0 tools/emulated_gpu.sh cargo test --locked --test ranks -- gpus
    # What nvcc made of the kernels, executed: the same driver code in front of another engine.
    export EMULATED_GPU_ENGINE=ptx
    EMULATED_GPU=9.0 tools/emulated_gpu.sh cargo test --locked --test kernels
    EMULATED_GPU=9.0 tools/emulated_gpu.sh cargo test --locked --test devices
    # One after the other: all launches go into one file.
    EMULATED_GPU_COUNTERS=target/emulated-gpu/counters.jsonl EMULATED_GPU=9.0 tools/emulated_gpu.sh \
        cargo test --locked --test devices -- --test-threads=1 --exact profile::what_kernels_do_is_counted \
        profile::the_work_of_big_birds_blocks_grows_with_the_length
    EMULATED_GPU=8.0 tools/emulated_gpu.sh cargo test --locked --test kernels
    EMULATED_GPU_HAZARDS=1 EMULATED_GPU=9.0 tools/emulated_gpu.sh cargo test --locked --test kernels -- \
        whole_sequences_of_one attention_sm90::every_head an_odd_row a_long_k_goes_round_the_ring
    # Errors put into the synchronization of ours, as they are now: what launches them is written down apart, and must still fit.
    EMULATED_GPU=9.0 PTX_ON_CPU_ORACLE=sm90_bf16 tools/emulated_gpu.sh sh -c \
        'PTX_ON_CPU_OURS=$EMULATED_GPU_PTX exec cargo test --locked --package ptx-on-cpu --test hazards -- --ignored'
fi
