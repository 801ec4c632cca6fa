#!/bin/sh
# Builds what a machine with an NVIDIA GPU but without Rust needs for tools/gpu_check.sh, into gpu-check/ (ignored by git):
# the program with its kernels, the tests that can run on a GPU, and the benches. Stripped.
set -eu
cd "$(dirname "$0")/.."

tools/install-nvcc.sh
cargo build --release --locked
rm -rf gpu-check
mkdir gpu-check
cp target/release/helixgrad gpu-check/helixgrad
# cargo names test programs by a hash; its own messages say which is which.
tests=$(cargo test --release --locked --no-run --test devices --message-format=json |
    sed -n 's/.*"name":"devices".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
cp "$tests" gpu-check/test-devices
strip gpu-check/helixgrad gpu-check/test-devices
cargo bench --locked --no-run --message-format=json |
    sed -n 's/.*"kind":\["bench"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
    while read -r name bench; do
        cp "$bench" "gpu-check/bench-$name"
        strip "gpu-check/bench-$name"
    done
du -sh gpu-check
