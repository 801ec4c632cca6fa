#!/bin/bash
# Stands in for the programs that tools/gpu_check.sh starts, by the name that it is called by: helixgrad, test-kernels, test-devices, bench-all,
# or a Python with PyTorch. Writes its command line to $CALLS, takes $NAP seconds, and goes wrong where $HANGS, $TRAPS, $FAULTS or $FAILS is a
# part of it.
name=${0##*/}
case "$*" in
# The tables are really made; what else Python is asked is whether it has something.
bench_table.py*) exec python3 "$@" ;;
-c*) exit ${NO_TORCH:-0} ;;
--list)
    [ "$name" != test-devices ] || { printf '%s: test\n' f32_trains_as_the_cpu_does training::a_thousand_steps work::any && exit; }
    printf '%s: test\n' attention_sm90::long attention_sm90::short gemm_sm90::long gemm_sm90::short layernorm::any layernorm::other machine::any norm::any tanh::any
    exit
    ;;
esac
echo "$name $*" >>"$CALLS"
is() { [ -n "$1" ] && [[ "$name $all" == *$1* ]]; }
all="$*"
if is "$HANGS"; then
    echo "test $2 ..."
    # As a process does that waits for a kernel: it does not go when it is asked to.
    trap '' TERM
    while :; do sleep 0.2; done
fi
if is "$TRAPS"; then
    printf "thread 'x' panicked at x.rs:1:\nlayernorm: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)\n" >&2
    exit 101
fi
! is "$FAULTS" || kill -SEGV $$
if is "$FAILS"; then
    printf "thread 'x' panicked at x.rs:1:\n0.5 instead of 0.25\ntest result: FAILED\n" >&2
    exit 101
fi
sleep "${NAP:-0}"
while [ $# -gt 1 ]; do
    [ "$1" != --out ] || { mkdir -p "$2" && touch "$2/model.safetensors" "$2/dev.tsv"; }
    last=$2
    shift
done
ceilings='"memory_bytes_per_second": 4e12, "product_flops_per_second": 8e14'
case "$name $all" in
*doctor) echo "--device cuda is ready" ;;
*" plan "*)
    echo '{"chip": {"name": "H200"}, "tokens_per_step": 65536, "kernels": [
        {"kernel": "gemm_nt", "floor_milliseconds": 40.0, "issue_milliseconds": 44.0}, {"kernel": "fill", "floor_milliseconds": 1.0}]}'
    ;;
*"bench train"*)
    mix=full task=pretrain
    [[ "$all" != *"--task splice"* ]] || task=splice
    [[ "$all" != *"--mix dnabert"* ]] || mix=dnabert
    echo '{"preset": "dnabert-6", "task": "'$task'", "mix": "'$mix'", "length": 512, "batch": 128, "device": "a stand-in", "tokens_per_step": 65536,
        "seconds_per_step": 0.0625, "tokens_per_second": 1048576.0, "mfu": 0.5, "peak": {"flops_per_second": 989e12}, "loss": 8.25,
        "gradient_norm": 1.5, "attention": "sm90", "ops": [],
        "ceilings": {"memory": "a copy", "bytes_per_second": 4e12, "flops_per_second": 8e14, "product_size": 8192, "by_cublaslt": true},
        "kernels": [{"name": "gemm_nt", "pass": "forward", "calls_per_step": 4.0, "milliseconds_per_step": 55.0, "roofline": 0.8},
            {"name": "fill", "pass": null, "calls_per_step": 1.0, "milliseconds_per_step": 2.0, "roofline": null}]}'
    ;;
*"torch_baseline.py ops"*) echo '{"row": "gemm/qkv/forward", "peer": "cuBLASLt through torch", "seconds": 0.0005}' ;;
*torch_baseline.py*)
    compiled=false seconds=0.125
    [[ "$all" != *--compile* ]] || compiled=true seconds=0.1
    echo '{"torch": "2.11", "preset": "dnabert-6", "task": "pretrain", "mix": "full", "length": 512, "batch": 128, "dtype": "bf16",
        "compiled": '$compiled', "step_seconds_median": '$seconds', "tokens_per_second": 524288.0}'
    ;;
"bench-all gemm"*)
    for way in "" ", clusters"; do
        echo '{"row": "gemm/qkv/forward'"$way"'", "seconds": 0.00025, "bytes": 4e8, "flops": 1.6e11, '"$ceilings"'}' >>"$last"
    done
    ;;
esac
