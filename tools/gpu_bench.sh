#!/bin/sh
# Benches and their peers in the same run, and one table of ratios. `tools/gpu_check.sh bench` calls it on a GPU machine, in the folder that
# `tools/gpu_pack.sh` made; here it can be rehearsed: `tools/gpu_bench.sh --cpu [OP]` does the same with small shapes on the CPU.
#
#   tools/gpu_bench.sh [--cpu] [--out DIR] [OP]     OP is one bench (layernorm, gemm, attention, ...); without it all, and training steps
#
# Beside the packed programs these are taken, elsewhere cargo builds them. Peers need Python with torch and transformers ($PYTHON, default
# python3); without them our rows are printed alone. HELIXGRAD_CHECK_DEVICE names the device (cuda, cuda:1; default cuda); cpu is --cpu.
set -eu
cd "$(dirname "$0")"
tools=.
[ -x ./helixgrad ] || { cd .. && tools=tools; }
device=${HELIXGRAD_CHECK_DEVICE:-cuda} dtype=bf16 out=gpu-check-results/bench preset=dnabert-6 batch=128 steps=10 compile=--compile runs=20 quick= shapes=
[ "$device" = cpu ] && set -- --cpu "$@"
while [ $# -gt 0 ]; do
    case $1 in
    --cpu)
        device=cpu dtype=f32 preset=mini batch=4 steps=3 compile= runs=3 quick=--quick shapes="--tokens 512 --lengths 128" ;;
    --out) out=$2; shift ;;
    -*) sed -n '5p' "$0" | cut -c3- >&2; exit 2 ;;
    *) break ;;
    esac
    shift
done
op=${1:-}
benches=${op:-"gemm attention layernorm linear_gelu bias_gelu column_sums elementwise cross_entropy binary_cross_entropy
    mean_squared_error dropout embedding gather tanh norm adamw sampling launch"}
if [ -z "$op" ] && [ -x ./helixgrad ]; then
    # Those that were packed.
    benches=$(ls bench-* 2>/dev/null | sed 's/^bench-//; /_table.py$/d')
fi
mkdir -p "$out"
ours=$out/ours.jsonl peers=$out/peers.jsonl
rm -f "$ours" "$peers"
case $ours in /*) json=$ours ;; *) json=$PWD/$ours ;; esac
options="$quick --device $device $shapes --json"

for bench in $benches; do
    echo "bench: $bench" >&2
    if [ -x "./bench-$bench" ]; then
        "./bench-$bench" --bench $options "$json" >"$out/$bench.txt" 2>&1 || { tail -3 "$out/$bench.txt" >&2; exit 1; }
    else
        cargo bench --locked --bench "$bench" -- $options "$json" >"$out/$bench.txt" 2>&1 || { tail -3 "$out/$bench.txt" >&2; exit 1; }
    fi
    sed -n '/roofline %/,$p' "$out/$bench.txt"
done

program=./helixgrad
[ -x $program ] || program=${HELIXGRAD:-target/release/helixgrad}
train=
if [ -z "$op" ]; then
    for mix in full dnabert; do
        echo "train: $preset, $mix" >&2
        "$program" bench train --preset $preset --mix $mix --device "$device" --batch $batch --steps $steps --json \
            >"$out/train-$mix.json"
    done
    if [ "$device" != cpu ]; then
        # Small models, whose kernels are short: single launches, then graphs, and the ratios.
        for small in splice-small mini; do
            echo "train: $small, without and with graphs" >&2
            "$program" bench train --preset $small --device "$device" --steps 30 --json >"$out/train-$small.json"
            "$program" bench train --preset $small --device "$device" --steps 30 --cuda-graphs --against "$out/train-$small.json" |
                tee "$out/train-$small-graphs.txt"
        done
    fi
fi

python=${PYTHON:-python3}
if ! $python -c "import torch, transformers" 2>/dev/null; then
    echo "no torch and transformers in $python: no peers" >&2
    exit 0
fi
$python $tools/torch_baseline.py ops --device "$device" --dtype $dtype --runs $runs $shapes ${op:+--only "$op"} >"$peers"
if [ -z "$op" ]; then
    for mix in full dnabert; do
        $python $tools/torch_baseline.py $preset --mix $mix --device "$device" --dtype $dtype --batch $batch --steps $steps $compile --json \
            >"$out/torch-$mix.json"
        train="$train --train $out/train-$mix.json $out/torch-$mix.json"
    done
fi
$python $tools/bench_table.py "$ours" "$peers" $train | tee "$out/ratios.txt"
