#!/bin/sh
# Builds what a machine with an NVIDIA GPU but without Rust needs, into gpu-check/ (ignored by git): the program with its
# kernels, the tests that can run on a GPU, the benches, the sample and gpu_check.sh. Carry the folder there and run gpu_check.sh in it.
#
#   tools/gpu_pack.sh
#
# Stripped, under 60 MB together. HELIXGRAD_PACK_PROFILE=dev takes the binaries of `cargo test` instead, without benches, to rehearse.
set -eu
cd "$(dirname "$0")/.."

profile=${HELIXGRAD_PACK_PROFILE:-release}
[ "$profile" = dev ] || tools/install-nvcc.sh
[ "$profile" = dev ] && folder=debug || folder=$profile
rm -rf gpu-check
mkdir -p gpu-check/sample gpu-check/tests/fixtures

cargo build --locked --profile "$profile" --bin helixgrad
cp "${CARGO_TARGET_DIR:-target}/$folder/helixgrad" gpu-check/helixgrad
for test in kernels devices; do
    # cargo names test programs by a hash; its own messages say which is which. (Tests have profile `test` where the rest has dev.)
    [ "$profile" = dev ] && of=test || of=$profile
    built=$(cargo test --locked --profile "$of" --no-run --test $test --message-format=json |
        sed -n 's/.*"name":"'$test'".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
    cp "$built" gpu-check/test-$test
done
if [ "$profile" != dev ]; then
    built=$(cargo bench --locked --no-run --bench all --message-format=json |
        sed -n 's/.*"name":"all".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
    cp "$built" gpu-check/bench-all
fi
find gpu-check -maxdepth 1 -type f -exec strip {} +
cp sample/*.2bit sample/*.gff3.gz gpu-check/sample/
cp tests/fixtures/golden_* gpu-check/tests/fixtures/
cp tools/gpu_check.sh tools/gpu_bench.sh tools/torch_*.py tools/bench_table.py gpu-check/

kilobytes=$(du -sk gpu-check | cut -f1)
echo "gpu-check: $((kilobytes / 1024)) MB"
if [ "$kilobytes" -gt 61440 ]; then
    echo "gpu_pack.sh: gpu-check/ is over 60 MB" >&2
    exit 1
fi
