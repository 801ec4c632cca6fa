#!/bin/sh
# Builds what a machine with an NVIDIA GPU but without Rust needs into one archive, gpu-check.tar.xz (ignored by git): the program with its kernels,
# the tests that can run on a GPU, the benches, the sample and gpu_check.sh. Carry it there and unpack it (`tar xf gpu-check.tar.xz`), or lay it
# beside tools/: tools/gpu_check.sh unpacks it.
#
#   tools/gpu_pack.sh
#
# Under 48 MB: the four programs hold the same kernels, and xz looks back far enough to write them once. HELIXGRAD_PACK_PROFILE=dev takes
# the binaries of `cargo test` instead, which may be there already, to rehearse.
set -eu
cd "$(dirname "$0")/.."

profile=${HELIXGRAD_PACK_PROFILE:-release}
[ "$profile" = dev ] || tools/install-nvcc.sh
rm -rf gpu-check gpu-check.tar.xz
mkdir -p gpu-check/sample gpu-check/tests/fixtures

# One call: with other targets cargo would choose other features of what they need, and compile everything again. It names test programs by a hash;
# its own messages say which is which. (Tests have profile `test` where the rest has dev. The program comes with its tests.)
[ "$profile" != dev ] || profile=test
messages=$(cargo test --locked --profile "$profile" --no-run --test kernels --test devices --bench all --message-format=json)
for program in helixgrad=helixgrad kernels=test-kernels devices=test-devices all=bench-all; do
    built=$(printf '%s\n' "$messages" | sed -n 's/.*"name":"'"${program%=*}"'".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
    cp "$built" "gpu-check/${program#*=}"
done
find gpu-check -maxdepth 1 -type f -exec strip {} +
cp sample/*.2bit sample/*.gff3.gz gpu-check/sample/
cp tests/fixtures/golden_* gpu-check/tests/fixtures/
cp tools/gpu_check.sh tools/torch_*.py tools/bench_table.py gpu-check/

# The programs one behind the other, within the 192 MB that xz looks back.
tar -cf - gpu-check/helixgrad gpu-check/test-* gpu-check/bench-all gpu-check/*.sh gpu-check/*.py gpu-check/sample gpu-check/tests |
    xz -6 --lzma2=preset=6,dict=192MiB >gpu-check.tar.xz
bytes=$(stat -c %s gpu-check.tar.xz)
echo "gpu-check.tar.xz: $((bytes / 1000000)) MB, unpacked $(du -sm gpu-check | cut -f1) MB"
if [ "$bytes" -gt 48000000 ]; then
    echo "gpu_pack.sh: gpu-check.tar.xz is over 48 MB" >&2
    exit 1
fi
