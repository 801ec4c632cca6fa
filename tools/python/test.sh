#!/bin/sh
# Builds the wheel, installs it into an environment of its own and runs its tests against the program. PYTHON names an interpreter that has maturin,
# numpy and pytest (default: python3); without them it says so and does nothing.
set -eu
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
if ! "$python" -c 'import numpy, pytest' 2>/dev/null || ! "$python" -m maturin --version >/dev/null 2>&1; then
    echo "test.sh: skipped: the Python wheel, as $python has not all of maturin, numpy and pytest"
    exit 0
fi
CARGO_TARGET_DIR=$PWD/target
# Kernels are the program's; a build of its own would compile them a second time.
HELIXGRAD_CUDA_ARCHS=none
export CARGO_TARGET_DIR HELIXGRAD_CUDA_ARCHS
wheels=target/wheels/test
rm -rf "$wheels"
"$python" -m maturin build --profile dev --locked --manifest-path tools/python/Cargo.toml --interpreter "$python" --out "$wheels"
installed=target/python
rm -rf "$installed"
"$python" -m pip install --quiet --no-deps --no-index --target "$installed" "$wheels"/helixgrad-*.whl
[ -x "${HELIXGRAD:-}" ] || HELIXGRAD=$PWD/target/debug/helixgrad
export HELIXGRAD
PYTHONPATH=$installed PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -p no:cacheprovider tools/python/tests "$@"
