#!/bin/bash
# The first minutes on a machine with an NVIDIA GPU: does the driver take us, is each kernel right, do training steps agree, how long is a step,
# how long is PyTorch's, how long is each kernel. No Rust, no network. Each answer is printed and written as it comes; at 470 seconds it ends
# by itself, and what found no room is named as cut.
#
#   gpu_check.sh                  the first call: driver hopper kernels steps time torch benches
#   gpu_check.sh more             the second: what the first one cut, then agree train mixes lengths operations sanitize
#   gpu_check.sh STAGE...         these stages alone, and like the first call anew
#   gpu_check.sh --rehearse ...   small shapes, ten times the patience: on a machine without a GPU, by itself (kernels in the emulator) or as
#                                 `tools/emulated_gpu.sh tools/gpu_check.sh --rehearse` (through the CUDA driver's code). Its figures mean nothing.
#
# It runs in the folder that tools/gpu_pack.sh made, or unpacks its archive where that lies above tools/.
# A command that outlives its limit is killed and called HANG, one that a signal or the GPU ended CRASH; all that follows still runs. Behind the first
# hang of a family of Hopper's kernels nothing of that family is started again.
#
# Environment: HELIXGRAD_CHECK_DEVICE (cuda, cuda:1; default cuda), HELIXGRAD_CHECK_OUT (default gpu-check-results), HELIXGRAD_CHECK_SECONDS
# (default 470), HELIXGRAD_CHECK_LIMIT (seconds, for commands whose own limit is longer), PYTHON (default python3; PyTorch's rows need torch and
# transformers in it). Results: summary.txt, answers.tsv, table.md, table.json, and
# logs.tar.gz with what every command printed.
set -u

usage() {
    sed -n '6,12p' "$0" | cut -c3- >&2
    exit 2
}

# --- What is asked for, and where ---

rehearse=
[ "${1:-}" != --rehearse ] || { rehearse=1 && shift; }
first=(driver hopper kernels steps time torch benches)
second=(agree train mixes lengths operations sanitize)
case "${1:-first}" in
first) stages=("${first[@]}") && [ $# -le 1 ] || usage ;;
more) stages=("${first[@]}" "${second[@]}") && [ $# -eq 1 ] || usage ;;
*) stages=("$@") ;;
esac
for stage in "${stages[@]}"; do
    [[ " ${first[*]} ${second[*]} " == *" $stage "* ]] || usage
done

out=${HELIXGRAD_CHECK_OUT:-gpu-check-results}
mkdir -p "$out/logs" && out=$(cd "$out" && pwd) || exit 2
cd "$(dirname "$0")" || exit 2
if [ ! -x helixgrad ]; then
    cd .. || exit 2
    if [ gpu-check.tar.xz -nt gpu-check/helixgrad ]; then
        # Python reads xz where tar has no help for it.
        tar -xmf gpu-check.tar.xz 2>/dev/null || ${PYTHON:-python3} -m tarfile -e gpu-check.tar.xz || exit 2
        touch gpu-check/helixgrad
    fi
    cd gpu-check 2>/dev/null && [ -x helixgrad ] || {
        echo "gpu_check.sh: no gpu-check/helixgrad and no gpu-check.tar.xz; make them with tools/gpu_pack.sh where there are Rust and nvcc" >&2
        exit 2
    }
fi

summary=$out/summary.txt answers=$out/answers.tsv logs=$out/logs
if [ "${1:-}" != more ]; then
    rm -rf "$summary" "$answers" "${out:?}"/{table.md,table.json,logs.tar.gz,logs,runs}
    mkdir "$logs"
fi
[ "${1:-}" != more ] || [ -s "$answers" ] || stages=(driver "${second[@]}")
touch "$answers"

device=${HELIXGRAD_CHECK_DEVICE:-cuda} dtype=bf16 python=${PYTHON:-python3} patience=1
peer_device=$device peer_dtype=bf16
workload=(--preset dnabert-6 --batch 128) steps=10 peer=(dnabert-6 --batch 128) long= quick=(--quick) shapes=() runs=20
if [ -n "$rehearse" ]; then
    patience=10 peer_device=cpu peer_dtype=f32 steps=1 runs=2
    ./helixgrad doctor 2>/dev/null | grep -q 'emulated GPU' || { device=cpu && dtype=f32; }
    workload=(--preset splice-small --task pretrain --batch 2 --length 64) peer=(splice-small --task pretrain --batch 2 --length 64)
    # In the emulator the long products take minutes.
    long='a_long_k|any_product|aligned_products|up_to_the_longest'
    shapes=(--tokens 64 --hidden 128 --intermediate 256 --heads 2)
fi
export HELIXGRAD_TEST_DEVICE=$device
[ "$device" != cpu ] || export HELIXGRAD_TEST_DEVICE=emulator
budget=$((${HELIXGRAD_CHECK_SECONDS:-470} * patience))

# --- Running commands ---

say() {
    printf '%s\n' "$*" | tee -a "$summary"
}

show() {
    sed 's/^/        /' | tee -a "$summary"
}

# answer NAME ENDED SECONDS NOTE: a line of the summary.
answer() {
    ended=$2
    printf '%s\t%s\t%s\t%s\n' "$@" >>"$answers"
    say "$(printf '%-8s %d:%02d  %s' "$2" $((SECONDS / 60)) $((SECONDS % 60)) "$1")${3:+ ($3 s)}${4:+: $4}"
}

# known NAME: whether this or the call before has answered it.
known() {
    grep -q -P "^\Q$1\E\t(?!cut|short)" "$answers"
}

# Why a command failed, in a line: what a test's panic says, an error, or the last words.
reason() {
    { grep -a -m 1 -A 1 "panicked at" "$1" || grep -a -m 1 -i "error" "$1" || tail -n 1 "$1"; } | tail -n 1 | cut -c1-200
}

# The test that a log ends in.
last_test() {
    sed -n 's/^test \([^ ]*\) \.\.\..*/\1/p' "$1" | tail -n 1
}

GPU_FAULT='CUDA_ERROR_(ILLEGAL|LAUNCH_FAILED|LAUNCH_TIMEOUT|MISALIGNED|ASSERT|INVALID_PC|INVALID_ADDRESS|HARDWARE|UNKNOWN)'

# run NAME LEAST LIMIT COMMAND...: runs COMMAND for LIMIT seconds at most, if LEAST are left, and says how it ended: ok, FAILED (it says no),
# CRASH, HANG, cut (not started) or short (stopped before its limit, as the time was up). `$to` takes its stdout where that is data.
run() {
    local name=$1 least=$(($2 * patience)) limit=$(($3 * patience)) log="$logs/$1.log" left started job status note=
    shift 3
    [ $limit -le "${HELIXGRAD_CHECK_LIMIT:-$limit}" ] || limit=$HELIXGRAD_CHECK_LIMIT
    known "$name" && { ended=known && return 1; }
    # Less the time to kill it in.
    left=$((ends - SECONDS - 4))
    [ $left -ge "$least" ] || { answer "$name" cut "" "$((left > 0 ? left : 0)) s are left" && return 1; }
    [ $limit -le $left ] || { limit=$left && note="stopped after $left s, as the time was up"; }
    started=$SECONDS
    if [ -n "${to:-}" ]; then
        timeout -k 3 $limit "$@" >"$to" 2>"$log" &
    else
        timeout -k 3 $limit "$@" >"$log" 2>&1 &
    fi
    job=$!
    # A process that the driver does not let go cannot be killed, and timeout waits for it: nobody else shall.
    sleep $((limit + 6)) &
    wait -n $job $! 2>/dev/null
    status=$?
    kill $! 2>/dev/null && wait $! 2>/dev/null
    local seconds=$((SECONDS - started))
    if [ $status -eq 0 ] && kill -0 $job 2>/dev/null; then
        answer "$name" HANG $seconds "cannot be killed"
    elif [ $seconds -ge $limit ] && { [ $status -eq 124 ] || [ $status -eq 137 ]; }; then
        if [ -n "$note" ]; then answer "$name" short $seconds "$note"; else answer "$name" HANG $seconds "$(last_test "$log")"; fi
    elif [ $status -gt 128 ]; then
        answer "$name" CRASH $seconds "signal $((status - 128)) $(last_test "$log")"
    elif [ $status -ne 0 ] && grep -q -a -E "$GPU_FAULT" "$log"; then
        answer "$name" CRASH $seconds "$(grep -a -m 1 -E "$GPU_FAULT" "$log" | cut -c1-200)"
    elif [ $status -ne 0 ]; then
        answer "$name" FAILED $seconds "$(reason "$log")"
    else
        answer "$name" ok $seconds "$(grep -a -m 1 -o 'skipped: .*' "$log")"
    fi
    [ "$ended" = ok ]
}

# forget NAME: asks anew what a call before has answered.
forget() {
    sed -i "/^$1\t/d" "$answers"
}

# left_out NAME WHY: what makes no sense any more.
left_out() {
    known "$1" || answer "$1" "left out" "" "$2"
}

# hangs PATTERN: the first test of that name that hung, in this call or the one before.
hangs() {
    grep -m 1 -E "^($1).*"$'\t'HANG "$answers" | cut -f1
}

# After a hang: whether the GPU still answers.
after_hang() {
    [ "$ended" != HANG ] || [ "$device" = cpu ] || run "driver after $1" 2 20 ./helixgrad doctor
}

# --- The first call ---

driver() {
    if command -v nvidia-smi >/dev/null; then
        timeout -k 3 20 nvidia-smi --query-gpu=index,name,driver_version,memory.total,clocks.max.sm,power.limit,persistence_mode --format=csv 2>&1 | show
    else
        say "        no nvidia-smi"
    fi
    [ "$device" != cpu ] || { ./helixgrad doctor 2>&1 | show && return; }
    forget driver
    run driver 5 40 bash -c './helixgrad doctor | tee /dev/stderr | grep -q "device cuda is ready"'
    show <"$logs/driver.log"
    [ "$ended" = ok ] || { say "        the driver does not take us: nothing else can be asked" && finish; }
}

# tests_of PROGRAM [MODULE]: names of its tests, or of a module's.
tests_of() {
    "$1" --list 2>/dev/null | sed -n 's/^\(.*\): test$/\1/p' | grep -E "^${2:+($2)::}"
}

# A process a test: what hangs or traps takes nobody along.
hopper() {
    local family test
    [ -n "$(tests_of ./test-kernels)" ] || answer test-kernels FAILED "" "$(./test-kernels --list 2>&1 | tail -n 1)"
    # Products first: all else needs them.
    for family in $(tests_of ./test-kernels '.*_sm90' | cut -d: -f1 | sort -ru); do
        for test in $(tests_of ./test-kernels "$family"); do
            [[ -z "$rehearse" || ! $test =~ $long ]] || { left_out "$test" "takes minutes in the emulator" && continue; }
            [ -z "$(hangs "$family::")" ] || { left_out "$test" "$(hangs "$family::") hangs" && continue; }
            run "$test" 4 12 ./test-kernels --exact "$test" --test-threads 1 --nocapture
            after_hang "$test"
        done
    done
}

# The f32 kernels and those of any GPU, a process a file. (Tests are named in full: `norm::` alone would be layernorm's as well.)
kernels() {
    local module names
    # `machine` is about the emulator alone.
    for module in $(tests_of ./test-kernels | cut -d: -f1 | grep -v -E '_sm90$|^(machine|harness|emulated)$' | sort -u); do
        mapfile -t names < <(tests_of ./test-kernels "$module" | grep -v -E "${long:-^$}")
        run "$module" 4 20 ./test-kernels --exact "${names[@]}" --test-threads 1 --nocapture
        after_hang "$module"
    done
}

steps() {
    local test
    for test in golden::bf16_is_as_close_to_pytorch_as_pytorch hopper_kernels_train_as_the_cpu_does cublaslt_trains_as_the_cpu_does \
        graphs::steps_as_graphs_change_no_bit attention::hopper_takes_one_kernel_or_two_for_gradients bf16_trains_as_the_cpu_does \
        f32_trains_as_the_cpu_does; do
        [ $test = f32_trains_as_the_cpu_does ] || [ -z "$(hangs '.*_sm90::')" ] || { left_out $test "$(hangs '.*_sm90::') hangs" && continue; }
        run $test 4 25 ./test-devices --exact $test --test-threads 1 --nocapture
        grep -h -a -E 'at most|is off by' "$logs/$test.log" 2>/dev/null | show
    done
}

# step NAME OPTIONS...: times training steps; their table is that of bench_table.py.
step() {
    local name=$1
    shift
    to=$logs/$name.json run "$name" 12 45 ./helixgrad bench train "${workload[@]}" --steps $steps --device "$device" --dtype $dtype --json "$@" &&
        $python bench_table.py step "$logs/$name.json" | show
}

time_() {
    local no_gemm no_attention safe=()
    no_gemm=$(hangs gemm_sm90::) no_attention=$(hangs attention_sm90::)
    [ -z "$no_attention" ] || safe=(--attention sm80)
    if [ -z "$no_gemm" ]; then
        step step "${safe[@]}" --mix full
        [ "$device" != cpu ] || return
        step step-own-single "${safe[@]}" --mix full --gemm own-single
    else
        left_out step "$no_gemm hangs"
        left_out step-own-single "$no_gemm hangs"
    fi
    if grep -q 'cuBLASLt: none' "$logs/driver.log" 2>/dev/null; then
        left_out step-cublaslt "no cuBLASLt on this machine"
    else
        step step-cublaslt "${safe[@]}" --mix full --gemm cublaslt
    fi
    [ -z "$no_gemm" ] || safe=(--gemm cublaslt)
    if [ -z "$no_attention" ]; then
        step step-sm90-split "${safe[@]}" --mix full --attention sm90-split
    else
        left_out step-sm90-split "$no_attention hangs"
    fi
    forget "steps are the same"
    run "steps are the same" 1 20 $python bench_table.py same "$logs"/step{,-own-single,-cublaslt,-sm90-split}.json
    show <"$logs/steps are the same.log"
}

# torch_run NAME LEAST LIMIT ARGUMENTS...: tools/torch_baseline.py, if Python has PyTorch and that sees the GPU; its first import reads gigabytes.
torch_run() {
    local name=$1 least=$2 limit=$3
    shift 3
    local sees='import sys, torch, transformers; sys.exit(sys.argv[1] != "cpu" and not torch.cuda.is_available())'
    run "PyTorch is here" 3 40 $python -c "$sees" "$peer_device"
    ! latest | grep -q -P '^PyTorch is here\t(FAILED|HANG|CRASH)' || { left_out "$name" "no PyTorch" && return 1; }
    run "$name" "$least" "$limit" $python torch_baseline.py "$@" --device "$peer_device" --dtype $peer_dtype
}

# torch_step NAME LEAST LIMIT OPTIONS...: PyTorch's training steps.
torch_step() {
    local name=$1 least=$2 limit=$3
    shift 3
    to=$logs/$name.json torch_run "$name" "$least" "$limit" "${peer[@]}" --steps 8 --json "$@" && $python bench_table.py step "$logs/$name.json" | show
}

torch() {
    torch_step torch 15 70 --mix full
    torch_step torch-compiled 30 130 --mix full --compile
}

# bench NAME LEAST LIMIT OP OPTIONS...: rows of a bench, for the table.
bench() {
    local name=$1 least=$2 limit=$3 op=$4 family
    shift 4
    # The products' kernels are those of linear_gelu as well.
    family=${op/linear_gelu/gemm}_sm90::
    [ -z "$(hangs "$family")" ] || { left_out "$name" "$(hangs "$family") hangs" && return; }
    run "$name" "$least" "$limit" ./bench-all "$op" --bench "${quick[@]}" --device "$device" "${shapes[@]}" "$@" --json "$logs/ours.jsonl"
}

# peers NAME LEAST LIMIT OPERATIONS OPTIONS...: what PyTorch takes for the same rows.
peers() {
    local name=$1 least=$2 limit=$3 operations=$4 tokens=()
    shift 4
    [ -z "$rehearse" ] || tokens=(--tokens 64)
    to=$logs/$name.jsonl torch_run "$name" "$least" "$limit" ops --runs $runs --only "$operations" "${tokens[@]}" "$@"
}

benches() {
    local lengths=512
    [ -z "$rehearse" ] || lengths=64
    bench bench-gemm 15 60 gemm
    peers peers-gemm 12 40 gemm
    bench bench-attention 15 60 attention --lengths $lengths
    peers peers-attention 12 40 attention --lengths $lengths
    bench bench-linear_gelu 12 40 linear_gelu
}

# --- The second call ---

# What `steps` has not asked of whole steps, a thousand of them among it. Those of `work` are about the emulator alone.
agree() {
    local test
    for test in $(tests_of ./test-devices | grep -v '^work::'); do
        [[ -z "$rehearse" || ! $test =~ thousand ]] || { left_out "$test" "takes minutes in the emulator" && continue; }
        case $test in
        *thousand*) run "$test" 30 120 ./test-devices --exact "$test" --include-ignored --nocapture ;;
        *) run "$test" 4 25 ./test-devices --exact "$test" --test-threads 1 --nocapture ;;
        esac
    done
}

# A short pretraining and fine-tuning on the sample, bf16 and f32; the same bits twice.
train() {
    local genome=sample/grch37_X_46M-56M.2bit type run types=(bf16 f32) sizes=(--steps 60 --tokens-per-step 8192)
    local windows=$out/runs/data test=$out/runs/data/test.tsv
    if [ -n "$rehearse" ]; then
        sizes=(--steps 4 --tokens-per-step 512) windows=$out/runs/few.tsv test=$out/runs/few.tsv
        [ "$device" != cpu ] || types=(f32)
    fi
    if ! known dataset; then
        rm -rf "$out/runs"
        run dataset 5 60 ./helixgrad splice dataset --genome $genome --annotation sample/grch37_X_46M-56M.gff3.gz --k 3 --window 80 \
            --out "$out/runs/data" || return
    fi
    [ -z "$rehearse" ] || head -41 "$out/runs/data/dev.tsv" >"$windows"
    pretrain() {
        local name=$1
        shift
        run "$name" 5 60 ./helixgrad pretrain --genome $genome --preset splice-small --max-length 256 "${sizes[@]}" --micro-batches 2 \
            --learning-rate 1e-3 --hold-out X_46000001_56000000:9,000,001-10,000,000 --log-every 20 --quiet --device "$device" "$@" \
            --out "$out/runs/$name"
        grep -h -E 'tokens/s|held out' "$logs/$name.log" 2>/dev/null | show
    }
    for type in "${types[@]}"; do
        pretrain "pretrain-$type" --dtype "$type"
        pretrain "again-$type" --dtype "$type"
        run "repeatable-$type" 1 10 cmp "$out/runs/pretrain-$type/model.safetensors" "$out/runs/again-$type/model.safetensors"
        run "finetune-$type" 5 60 ./helixgrad finetune --data "$windows" --init "$out/runs/pretrain-$type" --head site --window 80 --epochs 1 \
            --batch 64 --learning-rate 1e-3 --quiet --device "$device" --dtype "$type" --out "$out/runs/finetune-$type"
        run "evaluate-$type" 5 60 ./helixgrad evaluate --model "$out/runs/finetune-$type" --data "$test" --device "$device" --dtype "$type"
        grep -h -E 'accuracy|^model|^position' "$logs/evaluate-$type.log" 2>/dev/null | show
    done
    [ "$device" = cpu ] || pretrain pretrain-stochastic --dtype bf16 --stochastic-rounding
}

# DNABERT's mix of lengths, fine-tuning on windows of 400 bases, small models with and without graphs, kernels that start early, embeddings.
mixes() {
    local small mix few=(--steps 30) splice=(--task splice --length 397)
    [ -z "$rehearse" ] || few=(--steps 2 --batch 1 --length 32) splice=(--task splice)
    step step-dnabert --mix dnabert
    torch_step torch-dnabert 15 70 --mix dnabert
    step step-splice "${splice[@]}"
    torch_step torch-splice 15 70 "${splice[@]}"
    [ "$device" = cpu ] && return
    step step-dependent --mix full --dependent-launch
    for small in splice-small mini; do
        to=$logs/small-$small.json run "small-$small" 8 30 ./helixgrad bench train --preset $small --device "$device" "${few[@]}" --json
        run "small-$small-graphs" 8 30 ./helixgrad bench train --preset $small --device "$device" "${few[@]}" --cuda-graphs \
            --against "$logs/small-$small.json" && sed -n '/tokens\/s/p; /^against/,$p' "$logs/small-$small-graphs.log" | show
        run "small-$small-dependent" 8 30 ./helixgrad bench train --preset $small --device "$device" "${few[@]}" --cuda-graphs \
            --dependent-launch --against "$logs/small-$small.json" &&
            sed -n '/tokens\/s/p; /^against/,$p' "$logs/small-$small-dependent.log" | show
    done
    [ -z "$rehearse" ] || return
    for mix in full dnabert; do
        run "embeddings-$mix" 20 90 $python torch_forward.py dnabert-6 --mix $mix --device "$peer_device" --rounds 3 --helixgrad ./helixgrad
        show <"$logs/embeddings-$mix.log" 2>/dev/null
    done
}

lengths() {
    local lengths=2048,16384
    [ -z "$rehearse" ] || lengths=128
    bench bench-attention-long 20 120 attention --lengths $lengths
    peers peers-attention-long 15 60 attention --lengths $lengths
}

# Every other operation, with criterion's whole patience.
operations() {
    local op
    [ -n "$rehearse" ] || quick=()
    for op in layernorm adamw cross_entropy bias_gelu elementwise embedding gather column_sums dropout norm tanh binary_cross_entropy \
        mean_squared_error sampling skip_gram launch; do
        bench "bench-$op" 8 30 $op
    done
    peers peers-operations 40 150 layernorm,linear_gelu,cross_entropy,bias_gelu,adamw,norm,copy
}

# Small shapes of every kernel that shares memory or has tails. Whether racecheck follows memory that the copy engine writes nobody has seen: what it
# says of *_sm90 alone may be no fault.
sanitize() {
    local small=(a_label_that runs_that_cross rows_there both_row_layouts a_norm_that short_sequences single_elements tanh dropout accumulate
        the_tails the_schedule hardly_any the_device_makes a_factor_that the_plan_has stochastic_rounding)
    command -v compute-sanitizer >/dev/null || { left_out memcheck "no compute-sanitizer on this machine" && return; }
    run memcheck 30 100 compute-sanitizer --error-exitcode 9 ./test-kernels --test-threads 1 --skip sm90 "${small[@]}"
    run racecheck 30 100 compute-sanitizer --tool racecheck --error-exitcode 9 ./test-kernels --test-threads 1 --skip sm90 "${small[@]}"
    run memcheck-sm90 20 60 compute-sanitizer --error-exitcode 9 ./test-kernels --test-threads 1 sm90::short_sequences sm90::whole_sequences_of_one
    run racecheck-sm90 20 60 compute-sanitizer --tool racecheck --error-exitcode 9 ./test-kernels --test-threads 1 sm90::short_sequences
}

# --- All of it ---

# cuBLASLt is looked for as libcublasLt.so; where it came with PyTorch it is called libcublasLt.so.13.
find_cublaslt() {
    [ "$device" != cpu ] && ! ldconfig -p | grep -q 'libcublasLt\.so$' || return
    local library
    library=$($python -c 'import glob, sys
print(*[f for p in sys.path for f in sorted(glob.glob(p + "/nvidia/*/lib/libcublasLt.so.*"))][:1])' 2>/dev/null)
    [ -n "$library" ] || library=$(ls /usr/local/cuda*/lib64/libcublasLt.so /usr/local/cuda*/lib64/libcublasLt.so.* 2>/dev/null | head -1)
    [ -n "$library" ] || { say "        no cuBLASLt found" && return; }
    say "        cuBLASLt: $library"
    # An emulated GPU has nothing for it.
    [ -z "$rehearse" ] || return
    mkdir -p "$out/lib"
    ln -sf "$library" "$out/lib/libcublasLt.so"
    export LD_LIBRARY_PATH="$out/lib:$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

finish() {
    local ended count
    say ""
    for ended in FAILED CRASH HANG short cut "left out"; do
        count=$(latest | grep -c -P "^[^\t]*\t$ended\t")
        [ "$count" -eq 0 ] || say "$ended: $count: $(latest | grep -P "^[^\t]*\t$ended\t" | cut -f1 | paste -sd ' ')"
    done
    say "ok: $(latest | grep -c -P '\tok\t'); $SECONDS s; all of it in $out"
    say ""
    wait "$plan" 2>/dev/null
    [ -z "$watch" ] || { kill -KILL "$watch" && wait "$watch"; } 2>/dev/null
    timeout -k 3 20 $python bench_table.py table "$logs" 2>&1 | tee -a "$summary"
    mv "$logs"/table.{md,json} "$out" 2>/dev/null
    tar -C "$out" -czf "$out/logs.tar.gz" logs
    ! latest | grep -q -P '^[^\t]*\t(FAILED|CRASH|HANG)\t'
    exit
}

# The last answer to each question.
latest() {
    tac "$answers" | awk -F '\t' '!seen[$1]++' | tac
}

say "helixgrad's GPU check, $(date -u '+%Y-%m-%d %H:%M') UTC, device $device${rehearse:+, a rehearsal: its figures mean nothing}: ${stages[*]}"
find_cublaslt
# Clocks, power and heat of all that follows; and while somebody looks at the GPU, the driver need not set it up anew for each process.
watch=
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,index,clocks.sm,clocks.mem,power.draw,temperature.gpu,utilization.gpu,memory.used --format=csv -l 2 \
        >>"$logs/gpu.csv" 2>&1 &
    watch=$!
fi
# What the table predicts is counted on the host meanwhile.
timeout -k 3 $((120 * patience)) ./helixgrad plan "${workload[@]}" --json --quiet >"$logs/plan.json" 2>"$logs/plan.log" &
plan=$!
for stage in "${stages[@]}"; do
    # The most that a stage may take: a bad day of one leaves room for the next.
    case $stage in
    driver) limit_of_stage=60 ;;
    hopper) limit_of_stage=110 ;;
    kernels) limit_of_stage=90 ;;
    steps) limit_of_stage=70 ;;
    time) limit_of_stage=130 ;;
    agree) limit_of_stage=150 ;;
    *) limit_of_stage=300 ;;
    esac
    ends=$((SECONDS + limit_of_stage * patience))
    [ $ends -le $((budget - 6)) ] || ends=$((budget - 6))
    say ""
    say "$stage"
    [ "$stage" = time ] && stage=time_
    $stage
done
finish
