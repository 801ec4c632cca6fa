#!/bin/sh
# Runs a command on a machine without a GPU as if it had one: libcuda is tools/emulated-gpu, which runs the kernels in the
# emulator. For seeing the code run that talks to the driver, and for rehearsing what a GPU machine will be asked to do.
# Slow: 2 GFLOP/s a core. Its times mean nothing.
#
#   tools/emulated_gpu.sh target/debug/helixgrad doctor
#   HELIXGRAD_TEST_DEVICE=cuda tools/emulated_gpu.sh cargo test --test devices
#   tools/emulated_gpu.sh target/debug/helixgrad profile --emulate --out profile
#
# Environment: EMULATED_GPU (compute capability, default 9.0), EMULATED_GPU_MEMORY (bytes, default 4 GiB);
# EMULATED_GPU_ENGINE=ptx runs what nvcc made of the kernels, in tools/ptx-on-cpu, instead of their C++;
# EMULATED_GPU_HAZARDS=1 with races and missing fences looked for, many times slower; EMULATED_GPU_SPEED=1 tells on stderr how fast each
# launch was; EMULATED_GPU_COUNTERS=FILE counts what each launch did and adds it to the file as a line of JSON (all three with the
# engine ptx alone; a command with --emulate gets engine and counters by itself); to rehearse a bad day
# EMULATED_GPU_HANGS and EMULATED_GPU_CRASHES (part of a kernel's name: a launch of it never ends, or traps).
# The command's program must have kernels in it, so nvcc must have been there when it was built.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
# A folder of its own: where cargo puts libraries, it lets programs look for them.
mkdir -p "$target/emulated-gpu"
case " $* " in *" --emulate "*)
    counters="$target/emulated-gpu/counters.jsonl"
    rm -f "$counters"
    export EMULATED_GPU_ENGINE=ptx EMULATED_GPU_COUNTERS="${EMULATED_GPU_COUNTERS:-$counters}"
    ;;
esac
cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --package emulated-gpu
if [ "${EMULATED_GPU_ENGINE:-cpp}" = ptx ] && [ -z "${EMULATED_GPU_PTX:-}" ]; then
    # build.rs keeps the PTX; cargo knows where.
    out=$(cargo build --locked --manifest-path "$root/Cargo.toml" --package helixgrad --lib --message-format=json 2>/dev/null |
        sed -n 's|.*"out_dir":"\([^"]*/build/helixgrad-[0-9a-f]*/out\)".*|\1|p')
    [ -n "$out" ] || { echo "emulated_gpu.sh: helixgrad does not build: run cargo build to see why" >&2; exit 1; }
    export EMULATED_GPU_PTX="$out/kernels"
fi
ln -sf "$target/debug/libemulated_gpu.so" "$target/emulated-gpu/libcuda.so"
# Its stand-in for NCCL is the same object: one library, one state.
ln -sf "$target/debug/libemulated_gpu.so" "$target/emulated-gpu/libnccl.so.2"
LD_LIBRARY_PATH="$target/emulated-gpu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$@"
