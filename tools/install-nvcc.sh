#!/usr/bin/env bash
# Installs NVIDIA's CUDA compiler, and the tools that list its machine code, into .cuda/ beside this repository's Cargo.toml, where
# build.rs and tests/machine_code look for them.
#
#   tools/install-nvcc.sh          install, or check what is already there (a second or two)
#
# It comes from NVIDIA's own wheels on PyPI, so it needs Python with pip, a C++ compiler, 400 MB of disk and no GPU.
# The versions are pinned to CUDA 13.0, the toolkit of the 580 driver: a newer one emits PTX that such a driver refuses.
# The listing tools have no wheels of 13.0; those of 13.2 read its files.
# To use another CUDA toolkit, set NVCC or CUDA_HOME instead; build.rs prefers both to .cuda/.
set -euo pipefail

wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
    nvidia-cuda-cuobjdump==13.2.51
    nvidia-cuda-nvdisasm==13.2.51
)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cuda=$root/.cuda
bin=$cuda/nvidia/cu13/bin
nvcc=$bin/nvcc

fail() {
    printf 'install-nvcc: %s\n  what to do: %s\n' "$1" "$2" >&2
    exit 1
}

# What is installed is what this script would install, it compiles for the newest target, and the machine code can be listed.
works() {
    [[ -x $nvcc && $(cat "$cuda/wheels.txt" 2>/dev/null) == "${wheels[*]}" ]] || return 1
    local scratch status=0
    scratch=$(mktemp -d)
    printf '#include <cuda_bf16.h>\n__global__ void probe(__nv_bfloat16* x) { x[threadIdx.x] = 1.0f; }\n' >"$scratch/probe.cu"
    "$nvcc" -gencode=arch=compute_90a,code=sm_90a -cubin -o "$scratch/probe.cubin" "$scratch/probe.cu" \
        >"$cuda/probe.log" 2>&1 || status=1
    # cuobjdump calls nvdisasm, and finds it beside itself.
    [[ $status == 0 ]] && { "$bin/cuobjdump" --dump-sass "$scratch/probe.cubin" >>"$cuda/probe.log" 2>&1 || status=1; }
    rm -rf "$scratch"
    return $status
}

if ! works; then
    [[ $(uname -s) == Linux ]] || fail "this is $(uname -s)" "NVIDIA's compiler runs on Linux (or in WSL) only"
    command -v c++ >/dev/null || command -v g++ >/dev/null || fail "no C++ compiler found" "install g++: nvcc calls it"
    python=$(command -v python3) || fail "python3 not found" "install Python 3 with pip, or set NVCC to an nvcc you have"
    "$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip" "install pip (Debian: apt install python3-pip)"

    # Beside the final place, so that an interrupted download is never taken for an installation.
    incoming=$cuda.incoming
    rm -rf "$incoming"
    trap 'rm -rf "$incoming"' EXIT
    "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
        --target "$incoming" "${wheels[@]}" ||
        fail "pip could not install ${wheels[*]}" "check the network or the package index, then run this again"
    printf '%s' "${wheels[*]}" >"$incoming/wheels.txt"
    rm -rf "$cuda"
    mv "$incoming" "$cuda"
    trap - EXIT
    touch "$root/build.rs" # so that cargo looks for a compiler again
    works || fail "the installed compiler does not work: $(cat "$cuda/probe.log" 2>/dev/null)" \
        "read the message above; a C++ compiler newer than this nvcc knows is the usual cause"
fi
printf '%s\n  %s\n' "$nvcc" "$("$nvcc" --version | grep release)"
