#!/bin/sh
# Checks a machine with an NVIDIA GPU, with the folder that tools/gpu_pack.sh made: no Rust, no network, ten minutes at most.
#
#   gpu_check.sh                    everything but bench
#   gpu_check.sh PART [NAME]...     one part; NAME says which tests of it, or which preset
#
#   kernels    every kernel on the GPU against the CPU operation, one by one; NAME as in `layernorm` or `gemm::any_product`
#   model      whole training steps on the GPU against the CPU: losses, PyTorch's figures, batches made on the GPU, resuming, errors
#   train      a short pretraining and fine-tuning on the sample, bf16 and f32; the same bits twice
#   sanitize   compute-sanitizer's memcheck and racecheck over kernel tests of small shapes; NAME as in kernels
#   bench      every operation and whole steps, beside what PyTorch does on the same GPU; NAME as in `attention`
#
# Environment: HELIXGRAD_CHECK_DEVICE (cuda, cuda:1; default cuda), HELIXGRAD_CHECK_OUT (default gpu-check-results): summary.txt
# and a log for every line of it. To rehearse on a machine without a GPU: `tools/emulated_gpu.sh tools/gpu_check.sh` runs all of it with
# small sizes through the CUDA driver's code; HELIXGRAD_CHECK_DEVICE=cpu leaves that out. Figures of a rehearsal mean nothing.
set -u
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/helixgrad" ] || here=$here/../gpu-check
cd "$here" || exit 2
program=./helixgrad
if [ ! -x "$program" ]; then
    echo "gpu_check.sh: no gpu-check/helixgrad; make the folder with tools/gpu_pack.sh where there are Rust and nvcc" >&2
    exit 2
fi

device=${HELIXGRAD_CHECK_DEVICE:-cuda}
out=${HELIXGRAD_CHECK_OUT:-gpu-check-results}
mkdir -p "$out" || exit 2
summary=$out/summary.txt
: >"$summary"
failures=0
export HELIXGRAD_TEST_DEVICE="$device"
rehearsal=
[ "$device" = cpu ] && rehearsal=1 && export HELIXGRAD_TEST_DEVICE=emulator
"$program" doctor 2>/dev/null | grep -q 'emulated GPU' && rehearsal=1
patience=1
[ -n "$rehearsal" ] && patience=10

say() {
    echo "$*" | tee -a "$summary"
}

# check NAME SECONDS COMMAND...: runs it for so long at most, keeps its log, and adds a line to the summary.
check() {
    name=$1 limit=$(($2 * patience))
    shift 2
    started=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    seconds=$(($(date +%s) - started))
    case $status in
    0) say "ok      $name (${seconds} s)" ;;
    124) say "FAILED  $name: stopped after $limit s (see $name.log)" ;;
    *) say "FAILED  $name (${seconds} s, see $name.log): $(grep -m 1 -E 'panicked|error|ERROR' "$out/$name.log" || tail -1 "$out/$name.log")" ;;
    esac
    [ $status -eq 0 ] || failures=$((failures + 1))
    return $status
}

# figures NAME PATTERN: the lines of a log that belong into the summary.
figures() {
    grep -h -E "$2" "$out/$1.log" 2>/dev/null | sed 's/^/        /' | tee -a "$summary"
}

machine() {
    say "helixgrad's GPU check, $(date -u '+%Y-%m-%d %H:%M') UTC, device $device"
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index,name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv | tee -a "$summary"
    else
        say "no nvidia-smi"
    fi
    check doctor 30 "$program" doctor
    figures doctor .
}

kernels() {
    # In the emulator the long products would take minutes.
    skip=
    [ -n "$rehearsal" ] && skip="--skip a_long_k --skip any_product --skip aligned_products"
    # shellcheck disable=SC2086
    check kernels 120 ./test-kernels "$@" $skip
    figures kernels '^test result|FAILED'
}

model() {
    # The curve of a thousand steps takes minutes in the emulator.
    all=--include-ignored
    [ -n "$rehearsal" ] && all=
    # shellcheck disable=SC2086
    check model 150 ./test-devices --nocapture $all "$@"
    figures model '^test result|FAILED|is off by|at most'
}

train() {
    rm -rf "$out/runs"
    genome=sample/grch37_X_46M-56M.2bit
    types="bf16 f32" sizes="--steps 60 --tokens-per-step 8192" windows=$out/runs/data test=$out/runs/data/test.tsv
    if [ -n "$rehearsal" ]; then
        sizes="--steps 4 --tokens-per-step 512" windows=$out/runs/few.tsv test=$out/runs/few.tsv
        [ "$device" = cpu ] && types=f32
    fi
    check dataset 60 "$program" splice dataset --genome $genome --annotation sample/grch37_X_46M-56M.gff3.gz --k 3 \
        --window 80 --out "$out/runs/data" || return
    head -41 "$out/runs/data/dev.tsv" >"$out/runs/few.tsv"
    if [ "$device" != cpu ]; then
        # shellcheck disable=SC2086
        check pretrain-stochastic 60 "$program" pretrain --genome $genome --preset splice-small --max-length 256 $sizes \
            --micro-batches 2 --learning-rate 1e-3 --hold-out X_46000001_56000000:9,000,001-10,000,000 --log-every 20 \
            --quiet --device "$device" --dtype bf16 --stochastic-rounding --out "$out/runs/pretrain-stochastic"
        figures pretrain-stochastic 'tokens/s|held out'
    fi
    for type in $types; do
        for run in "pretrain-$type" "again-$type"; do
            # shellcheck disable=SC2086
            check "$run" 60 "$program" pretrain --genome $genome --preset splice-small --max-length 256 $sizes \
                --micro-batches 2 --learning-rate 1e-3 --hold-out X_46000001_56000000:9,000,001-10,000,000 --log-every 20 \
                --quiet --device "$device" --dtype "$type" --out "$out/runs/$run"
        done
        figures "pretrain-$type" 'tokens/s|held out'
        check "repeatable-$type" 10 cmp "$out/runs/pretrain-$type/model.safetensors" "$out/runs/again-$type/model.safetensors"
        check "finetune-$type" 60 "$program" finetune --data "$windows" --init "$out/runs/pretrain-$type" --head site \
            --window 80 --epochs 1 --batch 64 --learning-rate 1e-3 --quiet --device "$device" \
            --dtype "$type" --out "$out/runs/finetune-$type"
        figures "finetune-$type" 'tokens/s|accuracy|MCC'
        check "evaluate-$type" 60 "$program" evaluate --model "$out/runs/finetune-$type" --data "$test" \
            --device "$device" --dtype "$type"
        figures "evaluate-$type" 'windows in|accuracy|^model|^position|^[01][.]'
    done
}

sanitize() {
    if ! command -v compute-sanitizer >/dev/null; then
        say "skipped memcheck, racecheck: no compute-sanitizer on this machine"
        return
    fi
    # One test of small shapes for every kernel that shares memory or has tails; the rest would take longer than it tells.
    small="a_label_that runs_that_cross rows_there both_row_layouts a_norm_that short_sequences single_elements tanh dropout
        accumulate the_tails the_schedule the_device_makes a_factor_that the_plan_has stochastic_rounding"
    [ $# -gt 0 ] && small="$*"
    # shellcheck disable=SC2086
    check memcheck 100 compute-sanitizer --error-exitcode 9 ./test-kernels --test-threads 1 $small
    figures memcheck 'ERROR SUMMARY'
    # shellcheck disable=SC2086
    check racecheck 100 compute-sanitizer --tool racecheck --error-exitcode 9 ./test-kernels --test-threads 1 $small
    figures racecheck 'RACECHECK SUMMARY'
}

# In a folder without benches (packed to rehearse) only whole steps.
bench() {
    if [ -x ./bench-all ]; then
        small=
        [ -n "$rehearsal" ] && small=--small
        # shellcheck disable=SC2086
        check bench 420 ./gpu_bench.sh $small --device "$device" --out "$out/bench" "$@"
        [ ! -f "$out/bench/ratios.txt" ] || tee -a "$summary" <"$out/bench/ratios.txt"
        return
    fi
    sizes="--batch 128 --steps 20"
    [ -n "$rehearsal" ] && sizes="--batch 1 --length 64 --steps 1"
    for preset in mini dnabert-6; do
        # shellcheck disable=SC2086
        check "bench-$preset" 60 "$program" bench train --preset "$preset" --device "$device" $sizes
        figures "bench-$preset" 'tokens/s'
    done
}

if [ $# -eq 0 ]; then
    machine
    for part in kernels model train sanitize; do
        say ""
        say "$part"
        $part
    done
else
    part=$1
    shift
    case $part in
    kernels | model | train | sanitize | bench) machine && $part "$@" ;;
    *)
        echo "gpu_check.sh: no part $part; there are kernels, model, train, sanitize, bench" >&2
        exit 2
        ;;
    esac
fi
say ""
say "$failures failed; the logs are in $(cd "$out" && pwd)"
[ "$failures" -eq 0 ]
