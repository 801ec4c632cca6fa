#!/usr/bin/env bash
# Makes fixtures/ anew: the PTX of every oracle, and manifest.json. Committed, so that only who changes an oracle runs this.
#
#   oracles/build.sh               everything: Triton's kernels in half a minute, CUTLASS's seven in a quarter of an hour
#   oracles/build.sh --triton      Triton's kernels only; the manifest's entries of CUTLASS's are kept
#
# Needs Python 3.11 with pip (Triton and CUTLASS come as pinned wheels into build/, ignored by git) and, for CUTLASS, nvcc:
# tools/install-nvcc.sh, or NVCC. No GPU, no driver.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
work=$here/build
nvcc=${NVCC:-$root/.cuda/nvidia/cu13/bin/nvcc}
# One nvcc at a time takes 3 GB; NICE may hold a command that waits for its turn on a shared machine.
read -ra run <<<"${NICE:-nice}"

mkdir -p "$work" "$here/fixtures"
[[ -x $work/venv/bin/python ]] || python3 -m venv "$work/venv"
"$work/venv/bin/python" -c 'import triton, sys; sys.exit(triton.__version__ != "3.9.0")' 2>/dev/null ||
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps triton==3.9.0
export TRITON_CACHE_DIR=$work/triton-cache TRITON_DEFAULT_FP_FUSION=1
build=("$work/venv/bin/python" "$here/build.py" "$here/fixtures")

if [[ ${1-} == --triton ]]; then
    "${build[@]}"
    exit
fi
[[ -x $nvcc ]] || {
    echo "build.sh: no nvcc at $nvcc: run tools/install-nvcc.sh, set NVCC, or give --triton" >&2
    exit 1
}
if [[ ! -d $work/cutlass/cutlass_library/source ]]; then
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$work/cutlass.incoming" nvidia-cutlass==4.2.0.0
    mv "$work/cutlass.incoming" "$work/cutlass"
fi
source=$work/cutlass/cutlass_library/source
flags=(-std=c++17 --expt-relaxed-constexpr -O3 -DNDEBUG -w -arch=compute_90a
    "-I$source/include" "-I$source/tools/util/include" "-I$source/examples/88_hopper_fmha")
out=$work/ptx
mkdir -p "$out"
# compile WHERE ARGUMENT...: keeps what is newer than its sources.
compile() {
    [[ -n $(find "$1" -newer "$2" 2>/dev/null) && -n $(find "$1" -newer "$here/cutlass/gemm.h" 2>/dev/null) ]] && return
    echo "$(basename "$1")"
    "${run[@]}" "$nvcc" "${flags[@]}" -o "$1.part" "${@:2}"
    mv "$1.part" "$1"
}
host=(-DCUTLASS_ENABLE_DIRECT_CUDA_DRIVER_CALL=1 "-L$(dirname "$nvcc")/../lib")
compile "$out/gemm_launches" "$here/cutlass/gemm_launches.cu" "${host[@]}"
compile "$out/attention_launches" "$here/cutlass/attention.cu" -DLAUNCHES "${host[@]}"
"$out/gemm_launches" >"$out/launches.jsonl"
"$out/attention_launches" >>"$out/launches.jsonl"
variant=0
for name in gemm_nt_cooperative_2x1 gemm_nn_pingpong_1x1 gemm_tn_cooperative_1x2 gemm_tt_cooperative_2x1 gemm_nt_pingpong_2x2; do
    compile "$out/$name.ptx" "$here/cutlass/gemm.cu" -ptx "-DVARIANT=$variant"
    variant=$((variant + 1))
done
variant=0
for name in attention_d128_cooperative attention_d64_causal_pingpong; do
    compile "$out/$name.ptx" "$here/cutlass/attention.cu" -ptx --use_fast_math "-DVARIANT=$variant"
    variant=$((variant + 1))
done
"${build[@]}" "$out"
