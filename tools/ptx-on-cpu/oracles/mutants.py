#!/usr/bin/env python3
"""How sharp the oracles are: errors are put into the emulator's understanding of the hardware, one at a time, and the oracles must
notice each. An error that lives is something that no oracle pins down; unit tests against the manual must.

    oracles/mutants.py             all: one build, then some seconds for each error
    oracles/mutants.py WORD        those with WORD in their name

A copy of src/ gets both forms of every expression, and the environment chooses; src/ itself is never touched. A patch whose expression is
not there exactly once stops the script: whoever changes such a line brings the patch along.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

crate = pathlib.Path(__file__).resolve().parent.parent

# Name, then (file, expression as it is, expression instead) once or more.
MUTANTS = [
    ("swizzles mix in address bits 8 and up, not 7 and up",
     ("tensor_map.rs", "address >> 7 & rows", "address >> 8 & rows")),
    ("swizzle of 128 bytes mixes in two bits", ("tensor_map.rs", "[0, 1, 3, 7][self as usize]", "[0, 1, 3, 3][self as usize]")),
    ("swizzle of 64 bytes mixes in three bits", ("tensor_map.rs", "[0, 1, 3, 7][self as usize]", "[0, 1, 7, 7][self as usize]")),
    ("swizzle of 32 bytes is none", ("tensor_map.rs", "[0, 1, 3, 7][self as usize]", "[0, 0, 3, 7][self as usize]")),
    ("descriptor: swizzles of 64 and 32 bytes exchanged",
     ("tensor/descriptor.rs", "[Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes64, Swizzle::Bytes32][(bits >> 62) as usize]",
      "[Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes32, Swizzle::Bytes64][(bits >> 62) as usize]")),
    ("descriptor: addresses of 17 bits", ("tensor/descriptor.rs", "(bits >> at) as u32 & 0x3fff", "(bits >> at) as u32 & 0x1fff")),
    ("descriptor: leading and stride offsets exchanged",
     ("tensor/descriptor.rs", "field(16)", "field(32)"), ("tensor/descriptor.rs", "field(32)", "field(16)")),
    ("descriptor: swizzle relative to its start",
     ("tensor/descriptor.rs", "self.swizzle.apply(self.start + inside)", "self.start + self.swizzle.apply(inside)")),
    ("descriptor: K-major groups of 8 rows are dense",
     ("tensor/descriptor.rs", "mn / 8 * self.stride + mn % 8 * span + k * 2", "mn * span + k * 2")),
    ("descriptor: MN-major k goes by 4", ("tensor/descriptor.rs", "k / 8 * self.stride + k % 8 * span", "k / 4 * self.stride + k % 4 * span")),
    ("wgmma: B's transposition ignored",
     ("tensor/wgmma.rs", "Descriptor::new(pending.descriptors[1], wgmma.transpose[1])", "Descriptor::new(pending.descriptors[1], false)")),
    ("wgmma: A's transposition ignored",
     ("tensor/wgmma.rs", "Descriptor::new(pending.descriptors[0], wgmma.transpose[0])", "Descriptor::new(pending.descriptors[0], false)")),
    ("wgmma: registers 1 and 2 of A exchanged",
     ("tensor/product.rs", "(lane / 4 + 8 * (number % 2), 2 * (lane % 4) + 8 * (number / 2))",
      "(lane / 4 + 8 * (number / 2), 2 * (lane % 4) + 8 * (number % 2))")),
    ("wgmma: registers 1 and 2 of D exchanged", ("tensor/product.rs", "places[2 * half + parity]", "places[2 * parity + half]")),
    ("wgmma: warps' rows reversed", ("tensor/product.rs", "row / 16", "3 - row / 16")),
    ("wgmma: the old sums are always kept",
     ("tensor/wgmma.rs", "multiply(registers, operands.accumulators, rows, &b, pending.keep, wgmma.sign)",
      "multiply(registers, operands.accumulators, rows, &b, true, wgmma.sign)")),
    ("mma.sync: registers 1 and 2 of A exchanged",
     ("tensor/mma.rs", "2 * place + 8 * (number / 2)", "2 * place + 8 * (number % 2)"),
     ("tensor/mma.rs", "group + 8 * (number % 2)", "group + 8 * (number / 2)")),
    ("mma.sync: registers 1 and 2 of D exchanged",
     ("tensor/mma.rs", "lane / 4 + 8 * (number / 2)", "lane / 4 + 8 * (number % 2)"),
     ("tensor/mma.rs", "product[row][column + number % 2]", "product[row][column + number / 2]")),
    ("ldmatrix: transposed and not exchanged",
     ("tensor/matrix.rs", "[matrix[pair][group], matrix[pair + 1][group]]", "[matrix[group][pair], matrix[group][pair + 1]]"),
     ("tensor/matrix.rs", "[matrix[group][pair], matrix[group][pair + 1]]", "[matrix[pair][group], matrix[pair + 1][group]]")),
    ("stmatrix: matrices in reverse order",
     ("tensor/matrix.rs", "8 * number + row", "8 * (step.registers.len() - 2 - number) + row")),
    ("mbarrier: parity inverted", ("machine/mbarrier.rs", "mbarrier.phase & 1 != wanted", "mbarrier.phase & 1 == wanted")),
    ("mbarrier: a phase ends without its bytes",
     ("machine/mbarrier.rs", "self.pending == 0 && self.bytes == 0", "self.pending == 0")),
    ("mbarrier: a phase ends without its arrivals",
     ("machine/mbarrier.rs", "self.pending == 0 && self.bytes == 0", "self.bytes == 0 && self.pending < self.count")),
    ("multicast: only the first block gets data",
     ("copies/tensor.rs", "target.copy_from_slice(piece)", "if rank == 0 { target.copy_from_slice(piece) }")),
    ("multicast: only the first block's barrier gets bytes",
     ("copies/tensor.rs", "self.mbarrier_of(rank, copy.barrier)?.receive(bytes, epoch)",
      "if rank == 0 { self.mbarrier_of(rank, copy.barrier)?.receive(bytes, epoch) }")),
    ("tensor copies: no zeros outside", ("copies/tensor.rs", "vec![0; content.bytes()]", "vec![0xff; content.bytes()]")),
    ("tensor copies: bytes outside do not count",
     ("copies/tensor.rs", "content.len() as i64",
      "if let Content::Tile { map, at } = &copy.content { map.rows(at).map(|(.., length)| length as i64).sum() } else { 0 }")),
    ("tensor copies: x and y exchanged",
     ("tensor_map.rs", "i64::from(at[0])", "i64::from(at[at.len().min(2) - 1])"),
     ("tensor_map.rs", "i64::from(at[dim])", "i64::from(at[if dim == 1 { 0 } else { dim }])")),
    ("tensor copies: coordinates without sign",
     ("copies/maps.rs", "warp.registers.lane(*register, lane).cast_signed()", "(warp.registers.lane(*register, lane) & 0xffff).cast_signed()")),
    ("tensor loads: swizzle ignored",
     ("copies/tensor.rs", "swizzle.apply((first + 16 * number) as u32) as usize", "first + 16 * number")),
    ("tensor stores: swizzle ignored", ("copies/bulk.rs", "store.swizzle.apply(at as u32) as usize", "at")),
    ("cp.async: the size that is read is ignored", ("copies/groups.rs", "warp.registers.lane(length, lane)", "bytes")),
    ("cp.async: no zeros behind what is read", ("copies/groups.rs", "[0; 16]", "[0xff; 16]")),
    ("cp.async: wait_group waits for one group fewer",
     ("copies/groups.rs", "warp.copy_groups.len() > pending as usize", "warp.copy_groups.len() > pending as usize + 1")),
    ("bulk stores: wait_group waits for one group fewer",
     ("copies/bulk.rs", "warp.store_groups.len() > pending as usize", "warp.store_groups.len() > pending as usize + 1")),
    ("shfl.up: the first lane is outside", ("machine/exchange.rs", "source >= last", "source > last")),
    ("shfl.bfly: goes down", ("machine/exchange.rs", "lane ^ shift", "(lane + shift) & 31")),
    ("elect: the last lane", ("machine/exchange.rs", "1 << chosen", "1 << (31 - mask.leading_zeros())")),
    ("redux.min: without sign",
     ("decode/synchronization.rs", "(x as i32).min(y as i32) as u32", "x.min(y)")),
    ("mapa: always block 0", ("machine/barriers.rs", "warp.registers.lane(rank, lane)", "0 * warp.registers.lane(rank, lane)")),
    ("div: towards minus infinity", ("decode/integers.rs", "x.wrapping_div(y)", "x.wrapping_div_euclid(y)")),
]

CHOICE = """
/// The error of this run: see oracles/mutants.py.
pub(crate) fn mutant() -> usize {
    static MUTANT: std::sync::LazyLock<usize> =
        std::sync::LazyLock::new(|| std::env::var("PTX_ON_CPU_MUTANT").map_or(0, |number| number.parse().unwrap()));
    *MUTANT
}
"""


def fail(text):
    sys.exit(f"mutants.py: {text}")


def patched(copy):
    """Rewrites the copy; a place that several mutants change gets a chain of choices."""
    places = {}
    for number, (name, *patches) in enumerate(MUTANTS, 1):
        for file, old, new in patches:
            text = (copy / "src" / file).read_text() if (copy / "src" / file).exists() else fail(f"{name}: no file {file}")
            if (count := text.count(old)) != 1:
                fail(f"{name}: {file} has {old!r} {count} times, not once: bring the patch up to date")
            places.setdefault((file, text.index(old), old), []).append((number, new))
    for file in {file for file, _, _ in places}:
        text = (copy / "src" / file).read_text()
        for (_, at, old), choices in sorted(((key, value) for key, value in places.items() if key[0] == file), key=lambda x: -x[0][1]):
            inner = f"{{ {old} }}"
            for number, new in choices:
                inner = f"{{ if crate::mutant() == {number} {{ {new} }} else {inner} }}"
            end = at + len(old)
            if any(at < other < end for f, other, _ in places if f == file):
                fail(f"{file}: patches overlap at {old!r}")
            text = text[:at] + f"({inner})" + text[end:]
        (copy / "src" / file).write_text(text)
    root = copy / "src/lib.rs"
    root.write_text(root.read_text() + CHOICE)


def main():
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", crate.parent.parent / "target")) / "oracle-mutants"
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "ptx-on-cpu"
        shutil.copytree(crate, copy, ignore=shutil.ignore_patterns("build"))
        patched(copy)
        # Outside the workspace, but with the versions that it has locked and its optimization.
        manifest = copy / "Cargo.toml"
        manifest.write_text(manifest.read_text() + "\n[workspace]\n\n[profile.dev]\nopt-level = 2\n")
        shutil.copy(crate.parent.parent / "Cargo.lock", copy / "Cargo.lock")
        build = subprocess.run(["cargo", "test", "--no-run", "--test", "oracles", "--target-dir", target], cwd=copy,
                               capture_output=True, text=True, env={**os.environ, "RUSTFLAGS": "-Awarnings"})
        if build.returncode:
            fail(f"the patched copy does not compile:\n{build.stderr[-4000:]}")
        program = re.search(r"Executable .*\((.*)\)", build.stderr).group(1)

        def run(number):
            try:
                done = subprocess.run([program, "--nocapture"], cwd=copy, capture_output=True, text=True, timeout=600,
                                      env={**os.environ, "PTX_ON_CPU_MUTANT": str(number), "PTX_ON_CPU_SEED": "1"})
            except subprocess.TimeoutExpired:
                return "killed: never ends", []
            failed = sorted(set(re.findall(r"^(\w+), (?:in order|strict|strict and late): ", done.stderr, re.M)))
            return ("lives" if done.returncode == 0 else f"killed by {len(failed)} oracles"), failed

        clean, failed = run(0)
        if clean != "lives":
            fail(f"without any error oracles fail already: {failed}")
        survivors = []
        for number, (name, *_) in enumerate(MUTANTS, 1):
            if word in name:
                result, failed = run(number)
                print(f"{name}: {result}{', one of them ' + failed[0] if failed else ''}", flush=True)
                survivors += [name] if result == "lives" else []
    print(f"{len(survivors)} live: {survivors}")
    sys.exit(1 if set(survivors) - KNOWN else 0)


# Errors that no oracle notices. The README says what does.
KNOWN = {
    "descriptor: K-major groups of 8 rows are dense",
    "tensor copies: coordinates without sign",
    "cp.async: no zeros behind what is read",
}

if __name__ == "__main__":
    main()
