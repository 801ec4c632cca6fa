"""What a PyTorch user would take instead of our kernels, operation by operation: the rows of `cargo bench`, by the same names.

Used through `tools/torch_baseline.py ops`. On a GPU the clock is CUDA events, the L2 cache is flushed before every run and two sets of random
inputs take turns; on the CPU it is the wall clock. Each figure is the median of some runs after a few that warm up.
"""

import itertools
import json
import statistics
import time
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

WARMUP_RUNS = 3


class Shapes(NamedTuple):
    tokens: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    lengths: tuple
    parameters: int


def shapes_for(device, arguments):
    """The defaults of `benches/common/mod.rs`."""
    on_gpu = device == "cuda"
    lengths = arguments.lengths or ("512,2048,16384" if on_gpu else "128,512")
    return Shapes(
        tokens=arguments.tokens or (65_536 if on_gpu else 4096),
        hidden=768,
        intermediate=3072,
        vocabulary=4101,
        heads=12,
        lengths=tuple(int(length) for length in lengths.split(",")),
        parameters=89_200_000 if on_gpu else 8_900_000,
    )


class Bench:
    def __init__(self, device, dtype, runs, only):
        self.device, self.dtype, self.runs = device, dtype, runs
        self.only = only and only.split(",")
        # Twice the largest L2 of a GPU of today; 1 MB on the CPU, where flushing would take longer than the operations.
        self.scratch = torch.empty((256 if device == "cuda" else 1) << 20, dtype=torch.uint8, device=device)
        self.rows = []

    def random(self, *shape, gradient=False):
        return torch.randn(*shape, device=self.device, dtype=self.dtype).requires_grad_(gradient)

    def wanted(self, row):
        return not self.only or row.split("/")[0] in self.only

    def seconds(self, prepare, run):
        """The median time of `run(prepare())`, of which only `run` counts."""
        times = []
        for _ in range(WARMUP_RUNS + self.runs):
            inputs = prepare()
            self.scratch.zero_()
            if self.device == "cuda":
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                run(inputs)
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) * 1e-3)
            else:
                start = time.perf_counter()
                run(inputs)
                times.append(time.perf_counter() - start)
        return statistics.median(times[WARMUP_RUNS:])

    def add(self, row, peer, prepare, run):
        """One row; a peer that this machine does not have is said to be missing, and stops nothing."""
        if not self.wanted(row):
            return
        try:
            seconds = self.seconds(prepare, run)
        except Exception as error:  # a backend may lack the shape, the chip or its compiler
            self.rows.append({"row": row, "peer": peer, "missing": f"{type(error).__name__}: {error}".splitlines()[0]})
            return
        self.rows.append({"row": row, "peer": peer, "seconds": seconds})

    def both_ways(self, row, peer, inputs, forward):
        """Forward and backward of `forward(*inputs)`; `inputs` makes a fresh set, whose gradients start empty."""
        sets = itertools.cycle([inputs(), inputs()])

        def fresh():
            chosen = next(sets)
            for tensor in chosen:
                tensor.grad = None
            return chosen

        def through():
            output = forward(*fresh())
            return output, torch.randn_like(output)

        self.add(f"{row}/forward", peer, fresh, lambda tensors: forward(*tensors))
        self.add(f"{row}/backward", peer, through, lambda pair: pair[0].backward(pair[1]))


def compiled(function):
    return torch.compile(function, dynamic=False)


def attention(bench, shapes):
    backends = [("SDPA", None)]
    if bench.device == "cuda":
        backends = [("SDPA flash", SDPBackend.FLASH_ATTENTION), ("SDPA cuDNN", SDPBackend.CUDNN_ATTENTION)]
    for length in shapes.lengths:
        batch, width = -(-shapes.tokens // length), shapes.hidden // shapes.heads
        for dropout, (peer, backend) in itertools.product([0.0, 0.1], backends):

            def forward(query, key, value, dropout=dropout, backend=backend):
                with nullcontext() if backend is None else sdpa_kernel(backend):
                    return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)

            def inputs(batch=batch, length=length):
                return [bench.random(batch, shapes.heads, length, width, gradient=True) for _ in range(3)]

            bench.both_ways(f"attention/{length}{' dropout' if dropout else ''}", peer, inputs, forward)


def layernorm(bench, shapes):
    tokens, hidden = shapes.tokens, shapes.hidden
    rows = [("bias residual dropout", True, True, 0.1), ("residual", False, True, 0.0), ("alone", False, False, 0.0)]
    for name, bias, residual, dropout in rows:

        def forward(gamma, beta, shift, x, *residuals, bias=bias, dropout=dropout):
            total = x + shift if bias else x
            total = functional.dropout(total, dropout) if dropout else total
            for residual in residuals:
                total = total + residual
            return functional.layer_norm(total, (hidden,), gamma, beta, 1e-12)

        def inputs(residual=residual):
            tensors = [bench.random(tokens, hidden, gradient=True) for _ in range(2 if residual else 1)]
            return [*(bench.random(hidden, gradient=True) for _ in range(3)), *tensors]

        bench.both_ways(f"layernorm/{name} {tokens}x{hidden}", "torch.compile", inputs, compiled(forward))


def linear_gelu(bench, shapes):
    tokens, hidden, width = shapes.tokens, shapes.hidden, shapes.intermediate
    sizes = [(tokens, hidden), (width, hidden), (width,)]
    inputs = lambda: [bench.random(*size, gradient=True) for size in sizes]
    forward = compiled(lambda x, weight, bias: functional.gelu(functional.linear(x, weight, bias)))
    bench.both_ways(f"linear_gelu/{tokens}x{hidden}x{width}", "torch.compile", inputs, forward)


def cross_entropy(bench, shapes):
    rows, classes = max(1, shapes.tokens * 3 // 20), shapes.vocabulary
    labels = torch.arange(rows, device=bench.device) * 7919 % classes
    forward = compiled(lambda logits: functional.cross_entropy(logits.float(), labels))
    # Ours makes loss and gradient in one pass, so that is what is timed here, too.
    prepare = lambda: bench.random(rows, classes, gradient=True)
    bench.add(f"cross_entropy/{rows}x{classes}/forward", "torch.compile", prepare, lambda logits: forward(logits).backward())


def gemm(bench, shapes):
    hidden, tokens = shapes.hidden, shapes.tokens
    cases = [
        ("query, key, value", tokens, hidden, 3 * hidden),
        ("attention output", tokens, hidden, hidden),
        ("intermediate", tokens, hidden, shapes.intermediate),
        ("output", tokens, shapes.intermediate, hidden),
        ("decoder", max(1, tokens * 3 // 20), hidden, shapes.vocabulary),
    ]
    peer = "cuBLASLt through torch" if bench.device == "cuda" else "torch"
    for name, rows, inner, outer in cases:

        def inputs(rows=rows, inner=inner, outer=outer):
            sizes = [(rows, inner), (outer, inner), (outer,)]
            return [bench.random(*size, gradient=True) for size in sizes]

        bench.both_ways(f"gemm/{name} {rows}x{inner}x{outer}", peer, inputs, functional.linear)


def bias_gelu(bench, shapes):
    tokens, width = shapes.tokens, shapes.intermediate
    inputs = lambda: [bench.random(tokens, width, gradient=True), bench.random(width, gradient=True)]
    forward = compiled(lambda x, bias: functional.gelu(x + bias))
    bench.both_ways(f"bias_gelu/{tokens}x{width}", "torch.compile", inputs, forward)


def adamw(bench, shapes):
    if not (bench.wanted("adamw") or bench.wanted("norm")):
        return
    count = shapes.parameters // 768 * 768 + 768
    name = f"{count / 1e6:.1f} M parameters/update"
    # f32, as the master weights, gradients and moments of both programs are.
    weights = torch.nn.Parameter(torch.randn(count, device=bench.device) * 0.05)
    weights.grad = torch.randn_like(weights) * 0.01
    optimizer = torch.optim.AdamW([weights], lr=1e-4, weight_decay=0.01, fused=True)
    bench.add(f"adamw/{name}", "fused AdamW", lambda: None, lambda _: optimizer.step())
    clip = lambda _: torch.nn.utils.clip_grad_norm_([weights], 1.0)
    bench.add(f"norm/{name}", "clip_grad_norm_", lambda: None, clip)


def copy(bench, shapes):
    count = (1 << 29 if bench.device == "cuda" else 1 << 26) // 2
    source, target = (torch.randn(count, device=bench.device).to(torch.bfloat16) for _ in range(2))
    bench.add("copy", "torch copy_", lambda: None, lambda _: target.copy_(source))
    if bench.rows and "seconds" in bench.rows[-1] and bench.rows[-1]["row"] == "copy":
        bench.rows[-1]["gigabytes_per_second"] = 4 * count / bench.rows[-1]["seconds"] / 1e9


OPERATIONS = [copy, gemm, attention, layernorm, linear_gelu, bias_gelu, cross_entropy, adamw]


def main(arguments):
    dtype = torch.bfloat16 if arguments.dtype == "bf16" else torch.float32
    torch.manual_seed(0)
    bench = Bench(arguments.device, dtype, arguments.runs, arguments.only)
    shapes = shapes_for(arguments.device, arguments)
    for operation in OPERATIONS:
        operation(bench, shapes)
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    for row in bench.rows:
        print(json.dumps({**row, "device": machine, "dtype": arguments.dtype, "torch": torch.__version__}), flush=True)
