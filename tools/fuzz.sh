#!/bin/sh
# Fuzzes what reads files, guided by coverage, in one process: tools/fuzz.sh [TARGET [SECONDS]]; without a target all, one after
# the other, and without seconds a minute each. `tools/fuzz.sh list` names the targets. Stable Rust and a C++ compiler are enough.
#
# A finding is written to target/fuzz/findings/TARGET/, and is run again by tools/fuzz.sh TARGET FILE. What was learnt stays in
# target/fuzz/corpus/TARGET/ for the next time; tools/fuzz/seeds/TARGET/ is where it begins.
set -eu
cd "$(dirname "$0")/.."

target=${1:-all}
what=${2:-60}
targets=$(sed -n 's/^    ("\([a-z0-9-]*\)", [a-z_]*),$/\1/p' tools/fuzz/src/targets.rs)
if [ "$target" = list ]; then
    echo "$targets"
    exit 0
fi
[ "$target" = all ] || targets=$target

# What cargo-fuzz does with a nightly compiler for AddressSanitizer needs none for coverage alone.
triple=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
HELIXGRAD_CUDA_ARCHS=none RUSTFLAGS="$coverage --cfg fuzzing" cargo build --release --locked --manifest-path tools/fuzz/Cargo.toml \
    --target "$triple" --target-dir target/fuzz/build
program=target/fuzz/build/$triple/release/helixgrad-fuzz

# The inputs are files; in memory where the system has a folder for it.
memory=/dev/shm
[ -w "$memory" ] || memory=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d "$memory/helixgrad-fuzz.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

status=0
for target in $targets; do
    corpus=target/fuzz/corpus/$target findings=target/fuzz/findings/$target
    mkdir -p "$corpus" "$findings"
    # Ten seconds for a file, and a limit to memory behind the one that the program keeps itself (tools/fuzz/src/main.rs).
    limits="-timeout=10 -rss_limit_mb=2048 -max_len=65536"
    if [ -f "$what" ]; then
        FUZZ_TARGET=$target "$program" $limits "$what" || status=1
        continue
    fi
    log=target/fuzz/$target.log
    FUZZ_TARGET=$target "$program" $limits -max_total_time="$what" -print_final_stats=1 -artifact_prefix="$findings/" \
        "$corpus" "tools/fuzz/seeds/$target" >"$log" 2>&1 || { status=1; echo "$target: a finding, see $log"; }
    awk -v target="$target" '
        / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") covered = $(i + 1) }
        /^stat::number_of_executed_units/ { runs = $2 }
        /^stat::average_exec_per_sec/ { rate = $2 }
        /^stat::peak_rss_mb/ { memory = $2 }
        END { printf "%-14s %12d files, %8d a second, %6d places covered, %5d MiB\n", target, runs, rate, covered, memory }' "$log"
done
exit $status
