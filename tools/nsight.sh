#!/bin/sh
# Nsight on a few training steps, with the options that make its figures comparable.
#
#   tools/nsight.sh systems [PRESET] [ARGUMENTS...]          nsys: the timeline of steps 4 to 6
#   tools/nsight.sh compute KERNEL [PRESET] [ARGUMENTS...]   ncu: counters of the first launches of KERNEL (a name or regex:...)
#
# PRESET is dnabert-6 unless named; further arguments go to `helixgrad bench train` (--batch 64, --mix dnabert, --cuda-graphs).
# HELIXGRAD names the program (default: target/release/helixgrad). Reports go to nsight/ and open in the two user interfaces.
# Not yet tried on a GPU.
#
# What to look at in the timeline (nsys-ui): the NVTX row has step > forward, backward, update > layer > operation, and projects
# onto the kernels below it. Gaps between kernels inside a step mean that the host is late; the first step after a pause has
# them by nature. `helixgrad profile` prints the same gaps without a profiler.
#
# What to look at in the counters (ncu-ui): "GPU Speed Of Light" (memory and compute throughput in % of the chip's peak; a copy
# reaches about 90 % of the memory's), then "Memory Workload" (L2 hit rate, sectors per request), "Scheduler Statistics" and
# "Source" (the .cu line that stalls: the kernels carry -lineinfo). `--clock-control none` lets the clocks run as in training;
# ncu's default holds them at base, and its times are then no times of a training.
set -eu
cd "$(dirname "$0")/.."
program=${HELIXGRAD:-target/release/helixgrad}
usage() { sed -n '4,5p' "$0" | cut -c3- >&2; exit 2; }
[ $# -ge 1 ] || usage
mode=$1
shift
mkdir -p nsight
case $mode in
systems)
    preset=dnabert-6
    [ $# -eq 0 ] || { preset=$1; shift; }
    exec nsys profile --output "nsight/$preset" --force-overwrite true --trace cuda,nvtx --cuda-graph-trace node --sample none \
        --cpuctxsw none \
        --capture-range cudaProfilerApi --capture-range-end stop --stats true \
        "$program" bench train --preset "$preset" --device cuda --steps 6 --profile-steps 4..6 "$@"
    ;;
compute)
    [ $# -ge 1 ] || usage
    kernel=$1
    shift
    preset=dnabert-6
    [ $# -eq 0 ] || { preset=$1; shift; }
    exec ncu --export "nsight/$(printf %s "$kernel" | tr -c 'A-Za-z0-9_\n' _)" --force-overwrite --set full --import-source yes \
        --clock-control none --profile-from-start off --kernel-name "$kernel" --launch-count 5 \
        "$program" bench train --preset "$preset" --device cuda --steps 2 --profile-steps 3..4 "$@"
    ;;
*) usage ;;
esac
