"""Triton kernels for oracles: what its compiler makes of them for Ampere and Hopper is run by the emulator.

Each says what it computes; the tests compare with that, written plainly. Types: bf16 in, sums in f32, unless a line says otherwise.
"""

import triton
import triton.language as tl


@triton.jit
def matmul_pointer(a, b, c, m, n, k, stride_am, stride_ak, stride_bk, stride_bn, stride_cm,
                   tile_m: tl.constexpr, tile_n: tl.constexpr, tile_k: tl.constexpr):
    """C[m, n] = A[m, k] B[k, n] in f32 by masked loads: cp.async with zero fill, then ldmatrix and mma.sync, or wgmma on Hopper."""
    rows = tl.program_id(0) * tile_m + tl.arange(0, tile_m)
    columns = tl.program_id(1) * tile_n + tl.arange(0, tile_n)
    depth = tl.arange(0, tile_k)
    a_at = a + rows[:, None] * stride_am + depth[None, :] * stride_ak
    b_at = b + depth[:, None] * stride_bk + columns[None, :] * stride_bn
    total = tl.zeros((tile_m, tile_n), dtype=tl.float32)
    for start in range(0, k, tile_k):
        x = tl.load(a_at, mask=(rows[:, None] < m) & (depth[None, :] + start < k), other=0.0)
        y = tl.load(b_at, mask=(columns[None, :] < n) & (depth[:, None] + start < k), other=0.0)
        total = tl.dot(x, y, total)
        a_at += tile_k * stride_ak
        b_at += tile_k * stride_bk
    tl.store(c + rows[:, None] * stride_cm + columns[None, :], total, mask=(rows[:, None] < m) & (columns[None, :] < n))


@triton.jit
def matmul_descriptor(a, b, c, k, tile_m: tl.constexpr, tile_n: tl.constexpr, tile_k: tl.constexpr,
                      transpose_a: tl.constexpr, transpose_b: tl.constexpr):
    """C = A B in bf16 by copies of boxes. A is [k, m] where transposed, B is [n, k]; boxes may reach outside."""
    row = tl.program_id(0) * tile_m
    column = tl.program_id(1) * tile_n
    total = tl.zeros((tile_m, tile_n), dtype=tl.float32)
    for start in range(0, k, tile_k):
        if transpose_a:
            x = a.load([start, row]).T
        else:
            x = a.load([row, start])
        if transpose_b:
            y = b.load([column, start]).T
        else:
            y = b.load([start, column])
        total = tl.dot(x, y, total)
    c.store([row, column], total.to(tl.bfloat16))


@triton.jit
def matmul_made_descriptor(a, b, c, m, n, k, tile_m: tl.constexpr, tile_n: tl.constexpr, tile_k: tl.constexpr):
    """C[m, n] = A[m, k] B[n, k]^T in bf16, with tensor maps that the kernel makes itself (tensormap.replace)."""
    a_map = tl.make_tensor_descriptor(a, [m, k], [k, 1], [tile_m, tile_k])
    b_map = tl.make_tensor_descriptor(b, [n, k], [k, 1], [tile_n, tile_k])
    c_map = tl.make_tensor_descriptor(c, [m, n], [n, 1], [tile_m, tile_n])
    row = tl.program_id(0) * tile_m
    column = tl.program_id(1) * tile_n
    total = tl.zeros((tile_m, tile_n), dtype=tl.float32)
    for start in range(0, k, tile_k):
        total = tl.dot(a_map.load([row, start]), b_map.load([column, start]).T, total)
    c_map.store([row, column], total.to(tl.bfloat16))


@triton.jit
def matmul_relu(a, b, c, k, tile_m: tl.constexpr, tile_n: tl.constexpr, tile_k: tl.constexpr, transpose_b: tl.constexpr):
    """C = max(A, 0) B in bf16: A goes through registers, and wgmma takes it from there."""
    total = tl.zeros((tile_m, tile_n), dtype=tl.float32)
    for start in range(0, k, tile_k):
        x = tl.maximum(a.load([0, start]), 0.0).to(tl.bfloat16)
        if transpose_b:
            y = b.load([0, start]).T
        else:
            y = b.load([start, 0])
        total = tl.dot(x, y, total)
    c.store([0, 0], total.to(tl.bfloat16))


@triton.jit
def attention_forward(query, key, value, output, log_sum_exp, tokens, scale, head_dim: tl.constexpr,
                      tile_q: tl.constexpr, tile_k: tl.constexpr, causal: tl.constexpr):
    """softmax(scale Q K^T) V a head, all [heads * tokens, head_dim]; scale has log2(e) in it, and log_sum_exp is of base 2."""
    tile = tl.program_id(0)
    head = tl.program_id(1)
    first = head * tokens + tile * tile_q
    q = query.load([first, 0])
    rows = tile * tile_q + tl.arange(0, tile_q)
    top = tl.zeros((tile_q,), tl.float32) - float("inf")
    sums = tl.zeros((tile_q,), tl.float32)
    total = tl.zeros((tile_q, head_dim), tl.float32)
    end = tokens
    if causal:
        end = (tile + 1) * tile_q
    for start in range(0, end, tile_k):
        k = key.load([head * tokens + start, 0])
        scores = tl.dot(q, k.T) * scale
        if causal:
            scores = tl.where(rows[:, None] >= start + tl.arange(0, tile_k)[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        sums = sums * shrink + tl.sum(p, 1)
        total = total * shrink[:, None]
        v = value.load([head * tokens + start, 0])
        total = tl.dot(p.to(tl.bfloat16), v, total)
        top = new_top
    total = total / sums[:, None]
    tl.store(log_sum_exp + head * tokens + rows, top + tl.log2(sums))
    output.store([first, 0], total.to(tl.bfloat16))


@triton.jit
def attention_backward_keys(query, key, value, d_output, log_sum_exp, delta, d_key, d_value, tokens, scale,
                            head_dim: tl.constexpr, tile_q: tl.constexpr, tile_k: tl.constexpr):
    """dV = P^T dO and dK = dS^T Q with dS = P (dO V^T - delta), where the forward pass is attention_forward's; dK lacks the scale."""
    tile = tl.program_id(0)
    head = tl.program_id(1)
    first = head * tokens + tile * tile_k
    k = key.load([first, 0])
    v = value.load([first, 0])
    dk = tl.zeros((tile_k, head_dim), tl.float32)
    dv = tl.zeros((tile_k, head_dim), tl.float32)
    for start in range(0, tokens, tile_q):
        q = query.load([head * tokens + start, 0])
        d_out = d_output.load([head * tokens + start, 0])
        rows = head * tokens + start + tl.arange(0, tile_q)
        p = tl.exp2(tl.dot(k, q.T) * scale - tl.load(log_sum_exp + rows)[None, :])
        dv = tl.dot(p.to(tl.bfloat16), d_out, dv)
        ds = p * (tl.dot(v, d_out.T) - tl.load(delta + rows)[None, :])
        dk = tl.dot(ds.to(tl.bfloat16), q, dk)
    d_value.store([first, 0], dv.to(tl.bfloat16))
    d_key.store([first, 0], dk.to(tl.bfloat16))


@triton.jit
def layernorm(x, gamma, beta, y, mean, inverse, columns, eps, tile: tl.constexpr):
    """One row a block, all f32; inverse is 1 / sqrt(variance + eps)."""
    row = tl.program_id(0)
    at = tl.arange(0, tile)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=0.0)
    mu = tl.sum(v, 0) / columns
    d = tl.where(mask, v - mu, 0.0)
    scale = 1 / tl.sqrt(tl.sum(d * d, 0) / columns + eps)
    tl.store(mean + row, mu)
    tl.store(inverse + row, scale)
    normal = d * scale * tl.load(gamma + at, mask=mask, other=0.0) + tl.load(beta + at, mask=mask, other=0.0)
    tl.store(y + row * columns + at, normal, mask=mask)


@triton.jit
def softmax(x, y, columns, tile: tl.constexpr):
    """One row a block, all f32."""
    row = tl.program_id(0)
    at = tl.arange(0, tile)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=float("-inf"))
    v = tl.exp(v - tl.max(v, 0))
    tl.store(y + row * columns + at, v / tl.sum(v, 0), mask=mask)


@triton.jit
def integers(x, prefix, least, histogram, quotient, remainder, divisor, columns, tile: tl.constexpr):
    """Of every row of x, i32: prefix sums, the least, how often each of 16 low nibbles is there; of all rows together (atomically) the
    histogram; and x * 1e10 divided by divisor in i64, rounded towards zero, with the remainder."""
    row = tl.program_id(0)
    at = tl.arange(0, tile)
    v = tl.load(x + row * columns + at)
    tl.store(prefix + row * columns + at, tl.cumsum(v, 0))
    tl.store(least + row, tl.min(v, 0))
    tl.atomic_add(histogram + tl.arange(0, 16), tl.histogram(v & 15, 16))
    wide = v.to(tl.int64) * 10000000000
    tl.store(quotient + row * columns + at, wide // divisor)
    tl.store(remainder + row * columns + at, wide % divisor)


@triton.jit
def doubles(x, y, total, columns, tile: tl.constexpr):
    """In f64, one row a block: y = sqrt(x^2 + 1) / (x + 3), and the row's sum of y."""
    row = tl.program_id(0)
    at = tl.arange(0, tile)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=0.0)
    v = tl.sqrt(v * v + 1.0) / (v + 3.0)
    tl.store(y + row * columns + at, v, mask=mask)
    tl.store(total + row, tl.sum(tl.where(mask, v, 0.0), 0))


@triton.jit
def philox(bits, seed, tile: tl.constexpr):
    """bits[4, programs * tile]: the four words of Philox 4x32-10 of (seed, counter), counters counted from 0."""
    at = tl.program_id(0) * tile + tl.arange(0, tile)
    a, b, c, d = tl.randint4x(seed, at)
    count = tl.num_programs(0) * tile
    tl.store(bits + at, a)
    tl.store(bits + count + at, b)
    tl.store(bits + 2 * count + at, c)
    tl.store(bits + 3 * count + at, d)
