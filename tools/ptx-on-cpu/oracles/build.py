"""Compiles the oracles and writes fixtures/: the PTX of each, compressed, and manifest.json, which says how each is launched, what it
computes and how near the numbers must be. build.sh calls it, with Triton installed; no GPU is needed.

    build.py FIXTURES            the Triton kernels
    build.py FIXTURES CUTLASS    and the CUTLASS kernels, from the folder where build.sh put their PTX and launches.jsonl

The manifest is a list of objects:

  name, file, kernel, made_by     the fixture and its entry point
  grid, block, cluster, shared    the launch; shared is dynamic shared memory in bytes
  buffers                         name -> type (bf16, f32, f64, i32, i64), shape, role (input, output, scratch)
  parameters                      in order, one of
      {"pointer": buffer}         its address
      {"i32" | "i64" | "f32": x}
      {"map": buffer, "dims", "strides", "box", "swizzle"}   a tensor map, innermost dimension first, strides in bytes, swizzle in bytes
      {"bytes": hex, "places": [...]}    a struct, with the places (at) of pointers and maps in it
  formula, sizes                  what is computed, and its numbers (triton/kernels.py and tests/oracles/reference.rs)
  tolerance                       output -> [of the value, of the magnitude]: |got - expected| <= the first * |expected| + the second *
                                  the sum of the absolute values of what was added up
"""

import gzip
import json
import pathlib
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here / "triton"))
import kernels  # noqa: E402
import roles  # noqa: E402

LOG2_E = 1.4426950408889634
# A value that is rounded to bf16 once: half a unit in the last of 8 bits.
BF16 = 2.0**-8
# Sums of up to a few hundred products in f32, in any order: far above what is seen, far below any mistake.
SUMS = 2.0**-20
# Sums whose terms went through an approximate exponential (2 units of f32) of a score that is itself such a sum.
EXPONENTIALS = 2.0**-16
# Probabilities are rounded to bf16 before they are multiplied.
ATTENTION = {"output": [BF16, BF16 + EXPONENTIALS], "log_sum_exp": [SUMS, EXPONENTIALS]}

manifest = []
folder = pathlib.Path(sys.argv[1])


def write(name, ptx):
    # What is for people and debuggers only costs bytes; line numbers stay.
    ptx = re.sub(r"[ \t]*//.*", "", ptx.split("\t.section\t.debug")[0])
    ptx = re.sub(r"\n\s*\n+", "\n", ptx)
    # Nor does it matter where this machine keeps its files, and what nvcc makes of their paths.
    ptx = re.sub(r'(\.file\s+\d+\s+")/[^"]*/(?=oracles/|site-packages/)', r"\1", ptx)
    ptx = re.sub(r"_INTERNAL_[0-9a-f]{8}_", "_INTERNAL_", ptx)
    (folder / f"{name}.ptx.gz").write_bytes(gzip.compress(ptx.encode(), 9, mtime=0))


class Kernel:
    """One fixture: buffers and parameters are declared in the order of the kernel's arguments."""

    def __init__(self, name, function, capability=90, **options):
        self.name, self.function, self.capability, self.options = name, function, capability, options
        self.signature, self.constants, self.attributes = {}, {}, {}
        self.buffers, self.arguments = {}, []

    def buffer(self, name, kind, shape, role):
        self.buffers[name] = dict(type=kind, shape=list(shape), role=role)

    def pointer(self, name, kind, shape, role="input"):
        self.buffer(name, kind, shape, role)
        self.signature[name] = {"bf16": "*bf16", "f32": "*fp32", "f64": "*fp64", "i32": "*i32", "i64": "*i64"}[kind]
        self.arguments.append(("pointer", name))

    def scalar(self, name, kind, value, multiple_of_16=False):
        if multiple_of_16:
            assert value % 16 == 0
            self.attributes[(len(self.signature),)] = [["tt.divisibility", 16]]
        self.signature[name] = {"f32": "fp32"}.get(kind, kind)
        self.arguments.append((kind, value))

    def descriptor(self, name, shape, tile, role="input", blocks=None):
        """A matrix of bf16 read or written by tiles; in Gluon with how the tile is spread over the cluster's blocks."""
        self.buffer(name, "bf16", shape, role)
        layout = "" if blocks is None else "," + str(
            gl.NVMMASharedLayout.get_default_for(tile, gl.bfloat16, cga_layout=blocks or None))
        self.signature[name] = f"tensordesc<bf16[{tile[0]},{tile[1]}]{layout}>"
        self.arguments.append(("map", name))

    def constant(self, name, value):
        self.signature[name] = "constexpr"
        self.constants[name] = value

    def finish(self, grid, formula, sizes, tolerance, scratch_blocks=0):
        source = GluonASTSource if self.function.is_gluon() else ASTSource
        compiled = triton.compile(source(fn=self.function, signature=self.signature, constexprs=self.constants,
                                         attrs=self.attributes),
                                  target=GPUTarget("cuda", self.capability, 32), options=self.options)
        about, ptx = compiled.metadata, compiled.asm["ptx"]
        write(self.name, ptx)
        boxes = iter(about.tensordesc_meta or [])
        parameters = []
        for kind, value in self.arguments:
            if kind != "map":
                parameters.append({kind: value})
                continue
            rows, columns = self.buffers[value]["shape"]
            box = next(boxes)
            parameters.append(dict(map=value, dims=[columns, rows], strides=[2 * columns], box=box["block_size"][::-1],
                                   swizzle=[0, 32, 64, 128][box["swizzle"]]))
            parameters += [{"i32": rows}, {"i32": columns}, {"i64": columns}, {"i64": 1}]
        # Two pointers end every kernel of Triton's: memory for descriptors that it makes, and for its profiler.
        if about.global_scratch_size:
            blocks = grid[0] * grid[1] * about.num_ctas
            self.buffer("scratch", "i32", [blocks * about.global_scratch_size // 4], "scratch")
            parameters += [{"pointer": "scratch"}, {"i64": 0}]
        else:
            parameters += [{"i64": 0}, {"i64": 0}]
        assert about.profile_scratch_size == 0
        threads = int(re.search(r"\.reqntid (\d+)", ptx).group(1))
        manifest.append(dict(name=self.name, file=f"{self.name}.ptx.gz", kernel=about.name, made_by=f"Triton {triton.__version__}",
                             grid=[grid[0] * about.num_ctas, grid[1], 1], block=[threads, 1, 1], cluster=[about.num_ctas, 1, 1],
                             shared=about.shared, buffers=self.buffers, parameters=parameters, formula=formula, sizes=sizes,
                             tolerance=tolerance))
        print(self.name, len(ptx.splitlines()), "lines", flush=True)


def tiles(size, tile):
    return -(-size // tile)


def matmul_sizes(m, n, k, order, **more):
    return dict(m=m, n=n, k=k, transpose_a=order[0] == "t", transpose_b=order[1] == "t", **more)


def matmul_pointer(name, capability, order, tile, m=144, n=160, k=272, **options):
    tile_m, tile_n, tile_k = tile
    t = Kernel(name, kernels.matmul_pointer, capability, **options)
    t.pointer("a", "bf16", (k, m) if order[0] == "t" else (m, k))
    t.pointer("b", "bf16", (n, k) if order[1] == "t" else (k, n))
    t.pointer("c", "f32", (m, n), "output")
    for size, value in (("m", m), ("n", n), ("k", k)):
        t.scalar(size, "i32", value, multiple_of_16=True)
    # Of two strides of an operand one is 1, and known to the compiler.
    for names, transposed, stride in ((("stride_ak", "stride_am"), order[0] == "t", m if order[0] == "t" else k),
                                      (("stride_bn", "stride_bk"), order[1] == "t", k if order[1] == "t" else n)):
        for stride_name in sorted(names, reverse=names[0] == "stride_ak"):
            if stride_name == names[transposed]:
                t.constant(stride_name, 1)
            else:
                t.scalar(stride_name, "i32", stride, multiple_of_16=True)
    t.scalar("stride_cm", "i32", n, multiple_of_16=True)
    for constant, value in (("tile_m", tile_m), ("tile_n", tile_n), ("tile_k", tile_k)):
        t.constant(constant, value)
    t.finish((tiles(m, tile_m), tiles(n, tile_n)), "matmul", matmul_sizes(m, n, k, order), {"c": [0, SUMS]})


def matmul_descriptor(name, order, tile, m, n, k, **options):
    tile_m, tile_n, tile_k = tile
    t = Kernel(name, kernels.matmul_descriptor, **options)
    a_t, b_t = order[0] == "t", order[1] == "t"
    t.descriptor("a", (k, m) if a_t else (m, k), (tile_k, tile_m) if a_t else (tile_m, tile_k))
    t.descriptor("b", (n, k) if b_t else (k, n), (tile_n, tile_k) if b_t else (tile_k, tile_n))
    t.descriptor("c", (m, n), (tile_m, tile_n), "output")
    t.scalar("k", "i32", k)
    for constant, value in (("tile_m", tile_m), ("tile_n", tile_n), ("tile_k", tile_k), ("transpose_a", a_t), ("transpose_b", b_t)):
        t.constant(constant, value)
    t.finish((tiles(m, tile_m), tiles(n, tile_n)), "matmul", matmul_sizes(m, n, k, order), {"c": [BF16, SUMS]})


def matmul_made_descriptor():
    m, n, k = 136, 168, 280
    t = Kernel("matmul_made_descriptor_sm90", kernels.matmul_made_descriptor, num_warps=4)
    t.pointer("a", "bf16", (m, k))
    t.pointer("b", "bf16", (n, k))
    t.pointer("c", "bf16", (m, n), "output")
    for size, value in (("m", m), ("n", n), ("k", k)):
        t.scalar(size, "i32", value)
    for constant, value in (("tile_m", 128), ("tile_n", 128), ("tile_k", 64)):
        t.constant(constant, value)
    t.finish((2, 2), "matmul", matmul_sizes(m, n, k, "nt"), {"c": [BF16, SUMS]})


def matmul_relu(order, tile_n):
    m, k = 64, 256
    b_t = order[1] == "t"
    t = Kernel(f"matmul_relu_{order}_sm90", kernels.matmul_relu, num_warps=4)
    t.descriptor("a", (m, k), (m, 64))
    t.descriptor("b", (tile_n, k) if b_t else (k, tile_n), (tile_n, 64) if b_t else (64, tile_n))
    t.descriptor("c", (m, tile_n), (m, tile_n), "output")
    t.scalar("k", "i32", k)
    for constant, value in (("tile_m", m), ("tile_n", tile_n), ("tile_k", 64), ("transpose_b", b_t)):
        t.constant(constant, value)
    t.finish((1, 1), "matmul", matmul_sizes(m, tile_n, k, order, relu_a=True), {"c": [BF16, SUMS]})


def attention(name, head_dim, causal):
    heads, tokens, tile_q, tile_k = 2, 256, 128, 64
    rows = heads * tokens
    t = Kernel(name, kernels.attention_forward, num_warps=8, num_stages=3)
    for buffer, tile in (("query", tile_q), ("key", tile_k), ("value", tile_k)):
        t.descriptor(buffer, (rows, head_dim), (tile, head_dim))
    t.descriptor("output", (rows, head_dim), (tile_q, head_dim), "output")
    t.pointer("log_sum_exp", "f32", (rows,), "output")
    t.scalar("tokens", "i32", tokens)
    scale = LOG2_E / head_dim**0.5
    t.scalar("scale", "f32", scale)
    for constant, value in (("head_dim", head_dim), ("tile_q", tile_q), ("tile_k", tile_k), ("causal", causal)):
        t.constant(constant, value)
    t.finish((tokens // tile_q, heads), "attention", dict(heads=heads, tokens=tokens, head_dim=head_dim, scale=scale, causal=causal),
             ATTENTION)


def attention_backward():
    heads, tokens, head_dim, tile = 2, 256, 64, 64
    rows = heads * tokens
    t = Kernel("attention_backward_keys_sm90", kernels.attention_backward_keys, num_warps=4, num_stages=2)
    for buffer in ("query", "key", "value", "d_output"):
        t.descriptor(buffer, (rows, head_dim), (tile, head_dim))
    for buffer in ("log_sum_exp", "delta"):
        t.pointer(buffer, "f32", (rows,))
    for buffer in ("d_key", "d_value"):
        t.descriptor(buffer, (rows, head_dim), (tile, head_dim), "output")
    t.scalar("tokens", "i32", tokens)
    scale = LOG2_E / head_dim**0.5
    t.scalar("scale", "f32", scale)
    for constant, value in (("head_dim", head_dim), ("tile_q", tile), ("tile_k", tile)):
        t.constant(constant, value)
    both = [BF16, BF16 + EXPONENTIALS]
    t.finish((tokens // tile, heads), "attention_backward_keys",
             dict(heads=heads, tokens=tokens, head_dim=head_dim, scale=scale, causal=False), {"d_key": both, "d_value": both})


def rowwise(capability):
    rows, columns = 24, 777
    t = Kernel(f"layernorm_sm{capability}", kernels.layernorm, capability, num_warps=4)
    t.pointer("x", "f32", (rows, columns))
    t.pointer("gamma", "f32", (columns,))
    t.pointer("beta", "f32", (columns,))
    t.pointer("y", "f32", (rows, columns), "output")
    t.pointer("mean", "f32", (rows,), "output")
    t.pointer("inverse", "f32", (rows,), "output")
    t.scalar("columns", "i32", columns)
    t.scalar("eps", "f32", 1e-5)
    t.constant("tile", 1024)
    t.finish((rows, 1), "layernorm", dict(rows=rows, columns=columns, eps=1e-5),
             {"y": [SUMS, SUMS], "mean": [0, SUMS], "inverse": [SUMS, 0]})

    t = Kernel(f"softmax_sm{capability}", kernels.softmax, capability, num_warps=4)
    t.pointer("x", "f32", (rows, columns))
    t.pointer("y", "f32", (rows, columns), "output")
    t.scalar("columns", "i32", columns)
    t.constant("tile", 1024)
    t.finish((rows, 1), "softmax", dict(rows=rows, columns=columns), {"y": [SUMS, 0]})

    t = Kernel(f"integers_sm{capability}", kernels.integers, capability, num_warps=4)
    rows, columns = 5, 1024
    t.pointer("x", "i32", (rows, columns))
    t.pointer("prefix", "i32", (rows, columns), "output")
    t.pointer("least", "i32", (rows,), "output")
    t.pointer("histogram", "i32", (16,), "zeroed output")
    t.pointer("quotient", "i64", (rows, columns), "output")
    t.pointer("remainder", "i64", (rows, columns), "output")
    t.scalar("divisor", "i64", -977)
    t.scalar("columns", "i32", columns)
    t.constant("tile", 1024)
    t.finish((rows, 1), "integers", dict(rows=rows, columns=columns, divisor=-977),
             {buffer: [0, 0] for buffer in ("prefix", "least", "histogram", "quotient", "remainder")})

    t = Kernel(f"doubles_sm{capability}", kernels.doubles, capability, num_warps=4)
    rows, columns = 5, 777
    t.pointer("x", "f64", (rows, columns))
    t.pointer("y", "f64", (rows, columns), "output")
    t.pointer("total", "f64", (rows,), "output")
    t.scalar("columns", "i32", columns)
    t.constant("tile", 1024)
    t.finish((rows, 1), "doubles", dict(rows=rows, columns=columns), {"y": [2.0**-51, 0], "total": [0, 2.0**-48]})

    t = Kernel(f"philox_sm{capability}", kernels.philox, capability, num_warps=4)
    t.pointer("bits", "i32", (4, 4 * 512), "output")
    t.scalar("seed", "i64", 0x1234567890ABCDEF)
    t.constant("tile", 512)
    t.finish((4, 1), "philox", dict(seed=0x1234567890ABCDEF, count=4 * 512), {"bits": [0, 0]})


def gluon():
    m, n, k = 136, 248, 216
    t = Kernel("matmul_roles_sm90", roles.matmul_roles, num_warps=4)
    t.descriptor("a", (m, k), (64, 64), blocks=[])
    t.descriptor("b", (k, n), (64, 128), blocks=[])
    t.descriptor("c", (m, n), (64, 128), "output", blocks=[])
    t.scalar("k", "i32", k)
    t.constant("stages", 3)
    t.constant("warps", 4)
    t.finish((tiles(m, 64), tiles(n, 128)), "matmul", matmul_sizes(m, n, k, "nn"), {"c": [BF16, SUMS]})

    t = Kernel("matmul_multicast_sm90", roles.matmul_multicast, num_warps=4, num_ctas=2)
    t.descriptor("a", (m, k), (128, 64), blocks=[[1, 0]])
    t.descriptor("b", (k, n), (64, 128), blocks=[[0, 0]])
    t.descriptor("c", (m, n), (128, 128), "output", blocks=[[1, 0]])
    t.scalar("k", "i32", k)
    t.finish((tiles(m, 128), tiles(n, 128)), "matmul", matmul_sizes(m, n, k, "nn"), {"c": [BF16, SUMS]})


def triton_kernels():
    for capability in (80, 90):
        for order in ("nn", "nt", "tn", "tt"):
            matmul_pointer(f"matmul_pointer_{order}_sm{capability}", capability, order, (128, 128, 64), num_warps=4, num_stages=3)
        rowwise(capability)
    # Swizzles of 64 and 32 bytes, which here the kernel itself computes for its cp.async: where copies by boxes do it, an emulator
    # might have the same wrong permutation in the copy and in wgmma.
    matmul_pointer("matmul_pointer_nt_k32_sm90", 90, "nt", (64, 64, 32), num_warps=4, num_stages=3)
    matmul_pointer("matmul_pointer_nt_k16_sm90", 90, "nt", (64, 64, 16), num_warps=4, num_stages=3)
    for order in ("nn", "nt", "tn", "tt"):
        matmul_descriptor(f"matmul_descriptor_{order}_sm90", order, (128, 128, 64), 136, 200, 280, num_warps=4, num_stages=3)
    matmul_descriptor("matmul_descriptor_nn_n256_sm90", "nn", (128, 256, 64), 136, 200, 280, num_warps=8, num_stages=3)
    matmul_descriptor("matmul_descriptor_nn_k32_sm90", "nn", (64, 64, 32), 120, 136, 104, num_warps=4, num_stages=3)
    matmul_descriptor("matmul_descriptor_nt_n32_k16_sm90", "nt", (64, 32, 16), 120, 104, 72, num_warps=4, num_stages=3)
    matmul_descriptor("matmul_descriptor_tn_n64_sm90", "tn", (64, 64, 64), 120, 136, 280, num_warps=4, num_stages=3)
    matmul_descriptor("matmul_descriptor_tt_k16_sm90", "tt", (64, 64, 16), 120, 136, 72, num_warps=4, num_stages=3)
    matmul_descriptor("matmul_descriptor_nn_cluster_sm90", "nn", (256, 128, 64), 264, 136, 280, num_warps=4, num_stages=3, num_ctas=2)
    matmul_made_descriptor()
    matmul_relu("nn", 128)
    matmul_relu("nt", 64)
    attention("attention_forward_d64_sm90", 64, False)
    attention("attention_forward_d64_causal_sm90", 64, True)
    attention("attention_forward_d32_sm90", 32, False)
    attention_backward()
    gluon()


def bytes_read(ptx):
    """Places of the first parameter that the kernel loads. CUTLASS's structs are copied with their padding and with members of which
    this kernel has no need: what stood on the stack of the program that made them, and belongs into no manifest."""
    places, offsets = set(), {re.search(r"\.param [^;]*?(\w+)\[", ptx).group(1): 0}
    for opcode, operands in re.findall(r"^\s*(?:@\S+\s+)?(mov\.b64|mov\.u64|add\.s64|ld\.param\S*)\s+([^;]*);", ptx, re.M):
        if opcode.startswith("ld.param"):
            base, offset = re.search(r"\[([%\w]+)(?:\+(-?\d+))?\]$", operands).groups()
            bits, count = re.search(r"\d+$", opcode).group(), re.search(r"\.v(\d)", opcode)
            first = offsets[base] + int(offset or 0)
            places |= set(range(first, first + int(bits) // 8 * (int(count.group(1)) if count else 1)))
        else:
            to, base, *offset = re.split(r",\s*", operands)
            if base in offsets and all(re.fullmatch(r"-?\d+", text) for text in offset):
                offsets[to] = offsets[base] + sum(map(int, offset))
    return places


def only_read(ptx, launch):
    """The struct of a launch with zeros where the kernel reads nothing, and without the pointers there."""
    read = bytes_read(ptx)
    struct = bytes(byte if at in read else 0 for at, byte in enumerate(bytes.fromhex(launch["bytes"])))
    return dict(bytes=struct.hex(), places=[place for place in launch["places"] if "map" in place or place["at"] in read])


def cutlass_kernels(built):
    for line in (built / "launches.jsonl").read_text().splitlines():
        launch = json.loads(line)
        name = launch["name"]
        ptx = (built / f"{name}.ptx").read_text()
        write(f"cutlass_{name}", ptx)
        parameters = [only_read(ptx, launch)]
        tolerance = {"c": [BF16, SUMS]} if launch["formula"] == "matmul" else ATTENTION
        manifest.append(dict(name=f"cutlass_{name}", file=f"cutlass_{name}.ptx.gz", kernel=launch["kernel"], made_by="CUTLASS 4.2.0",
                             grid=launch["grid"], block=launch["block"], cluster=launch["cluster"], shared=launch["shared"],
                             buffers=launch["buffers"], parameters=parameters, formula=launch["formula"], sizes=launch["sizes"],
                             tolerance=tolerance))
        print(f"cutlass_{name}", flush=True)


triton_kernels()
if len(sys.argv) > 2:
    cutlass_kernels(pathlib.Path(sys.argv[2]))
elif (folder / "manifest.json").exists():
    before = json.loads((folder / "manifest.json").read_text())
    manifest += [entry for entry in before if entry["name"].startswith("cutlass_")]
(folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
