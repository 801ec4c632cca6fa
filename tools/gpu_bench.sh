#!/bin/sh
# Benches and their peers in the same run, and one table of ratios. `tools/gpu_check.sh bench` calls it on a GPU machine, in the folder that
# `tools/gpu_pack.sh` made; here it can be rehearsed with small shapes: `tools/gpu_bench.sh --device cpu [OP]`, or on an emulated GPU,
# `tools/emulated_gpu.sh tools/gpu_bench.sh --small [OP]`.
#
#   tools/gpu_bench.sh [--device cuda:1|cpu] [--small] [--out DIR] [OP]     OP is one bench (layernorm, gemm, attention, ...); without it all, and training steps
#
# Beside the packed program that is taken, elsewhere cargo builds them. Peers need Python with torch and transformers ($PYTHON, default
# python3); without them our rows are printed alone. Without --device HELIXGRAD_CHECK_DEVICE names the device.
set -eu
cd "$(dirname "$0")"
tools=.
[ -x ./helixgrad ] || { cd .. && tools=tools; }
device=${HELIXGRAD_CHECK_DEVICE:-cuda} dtype=bf16 out=gpu-check-results/bench preset=dnabert-6 batch=128 steps=10 compile=--compile runs=20 quick= shapes= length= small= narrow=
while [ $# -gt 0 ]; do
    case $1 in
    --device) device=$2; shift ;;
    --small) small=1 ;;
    --out) out=$2; shift ;;
    -*) sed -n '6p' "$0" | cut -c3- >&2; exit 2 ;;
    *) break ;;
    esac
    shift
done
[ "$device" = cpu ] && dtype=f32 small=1
if [ -n "$small" ]; then
    preset=mini batch=4 steps=3 compile= runs=3 quick=--quick shapes="--tokens 512 --lengths 128"
    [ "$device" = cpu ] || preset=splice-small batch=1 steps=1 length="--length 64" shapes="--tokens 64 --lengths 64" narrow="--hidden 128 --heads 2"
fi
op=${1:-}
benches=${op:-"gemm attention layernorm linear_gelu bias_gelu column_sums elementwise cross_entropy binary_cross_entropy
    mean_squared_error dropout embedding gather tanh norm adamw sampling launch"}
mkdir -p "$out"
ours=$out/ours.jsonl peers=$out/peers.jsonl
rm -f "$ours" "$peers" "$out/forward.txt"
case $ours in /*) json=$ours ;; *) json=$PWD/$ours ;; esac
options="$quick --device $device $shapes $narrow --json"

python=${PYTHON:-python3}
# cuBLASLt is looked for as libcublasLt.so; where it came with PyTorch it is called libcublasLt.so.13.
if [ "$device" != cpu ] && ! ldconfig -p | grep -q 'libcublasLt\.so$'; then
    library=$($python -c 'import glob, sys
print(*[f for p in sys.path for f in sorted(glob.glob(p + "/nvidia/*/lib/libcublasLt.so.*"))][:1])' 2>/dev/null || true)
    [ -n "$library" ] || library=$(ls /usr/local/cuda*/lib64/libcublasLt.so /usr/local/cuda*/lib64/libcublasLt.so.* 2>/dev/null | head -1)
    if [ -n "$library" ]; then
        mkdir -p "$out/lib"
        ln -sf "$library" "$out/lib/libcublasLt.so"
        LD_LIBRARY_PATH="$(cd "$out/lib" && pwd):$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        export LD_LIBRARY_PATH
        echo "cuBLASLt: $library" >&2
    fi
fi

for bench in $benches; do
    echo "bench: $bench" >&2
    if [ -x ./bench-all ]; then
        ./bench-all "$bench" --bench $options "$json" >"$out/$bench.txt" 2>&1 || { tail -3 "$out/$bench.txt" >&2; exit 1; }
    else
        cargo bench --locked --bench "$bench" -- $options "$json" >"$out/$bench.txt" 2>&1 || { tail -3 "$out/$bench.txt" >&2; exit 1; }
    fi
    sed -n '/roofline %/,$p' "$out/$bench.txt"
done

program=./helixgrad
[ -x $program ] || program=${HELIXGRAD:-target/release/helixgrad}
train=
# Pretraining on both mixes of lengths, and fine-tuning on windows of 400 bases.
cases="full dnabert splice"
of_case() {
    case $1 in
    splice) echo "--task splice ${length:---length 397}" ;;
    *) echo "--mix $1 $length" ;;
    esac
}
if [ -z "$op" ]; then
    for case in $cases; do
        echo "train: $preset, $case" >&2
        # shellcheck disable=SC2046
        "$program" bench train --preset $preset $(of_case "$case") --device $device --batch $batch --steps $steps \
            --json >"$out/train-$case.json"
    done
    if [ "$device" != cpu ]; then
        few="--steps 30"
        [ -z "$small" ] || few="--steps 2 --batch 1 --length 32"
        # Small models, whose kernels are short: single launches, then graphs, and the ratios.
        for small in splice-small mini; do
            echo "train: $small, without and with graphs" >&2
            "$program" bench train --preset $small --device $device $few --json >"$out/train-$small.json"
            "$program" bench train --preset $small --device $device $few --cuda-graphs --against "$out/train-$small.json" |
                tee "$out/train-$small-graphs.txt"
        done
    fi
fi

if ! $python -c "import torch, transformers" 2>/dev/null; then
    echo "no torch and transformers in $python: no peers" >&2
    exit 0
fi
if [ "$device" != cpu ] && ! $python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "torch in $python sees no GPU: no peers" >&2
    exit 0
fi
$python $tools/torch_baseline.py ops --device $device --dtype $dtype --runs $runs $shapes ${op:+--only "$op"} >"$peers"
if [ -z "$op" ]; then
    for case in $cases; do
        # shellcheck disable=SC2046
        $python $tools/torch_baseline.py $preset $(of_case "$case") --device $device --dtype $dtype --batch $batch --steps $steps $compile \
            --json >"$out/torch-$case.json"
        train="$train --train $out/train-$case.json $out/torch-$case.json"
    done
    # Embeddings, from the FASTA file to the .npy file.
    for case in full dnabert; do
        $python $tools/torch_forward.py $preset --mix $case --device $device --rounds 3 --helixgrad $program | tee -a "$out/forward.txt"
    done
fi
$python $tools/bench_table.py "$ours" "$peers" $train | tee "$out/ratios.txt"
