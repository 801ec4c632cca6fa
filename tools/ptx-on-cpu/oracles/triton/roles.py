"""Kernels in Gluon, Triton's lower language, for what its compiler does not do by itself: warps with roles (one copies, a warpgroup
multiplies; setmaxnreg, named barriers), and a cluster of two blocks that share the copies of B (multicast)."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import cluster, fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait


@gluon.jit
def copy(a, b, a_ring, b_ring, full, empty, row, column, k, stages: gl.constexpr):
    depth: gl.constexpr = a.block_type.shape[1]
    for step in range(gl.cdiv(k, depth)):
        slot = step % stages
        mbarrier.wait(empty.index(slot), (step // stages & 1) ^ 1)
        mbarrier.expect(full.index(slot), a.nbytes_per_cta + b.nbytes_per_cta)
        tma.async_load(a, [row, step * depth], full.index(slot), a_ring.index(slot))
        tma.async_load(b, [step * depth, column], full.index(slot), b_ring.index(slot))


@gluon.jit
def multiply(c, a_ring, b_ring, full, empty, out, row, column, k, depth: gl.constexpr, stages: gl.constexpr, warps: gl.constexpr):
    tile_m: gl.constexpr = c.block_type.shape[0]
    tile_n: gl.constexpr = c.block_type.shape[1]
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[warps, 1], instr_shape=[16, tile_n, 16])
    total = gl.zeros([tile_m, tile_n], gl.float32, layout)
    for step in range(gl.cdiv(k, depth)):
        slot = step % stages
        mbarrier.wait(full.index(slot), step // stages & 1)
        token = warpgroup_mma(a_ring.index(slot), b_ring.index(slot), total, is_async=True)
        total = warpgroup_mma_wait(0, deps=[token])
        mbarrier.arrive(empty.index(slot), count=1)
    out.store(total.to(gl.bfloat16))
    fence_async_shared()
    tma.async_store(c, [row, column], out)
    tma.store_wait(0)


@gluon.jit
def matmul_roles(a, b, c, k, stages: gl.constexpr, warps: gl.constexpr):
    """C[m, n] = A[m, k] B[k, n] in bf16."""
    depth: gl.constexpr = a.block_type.shape[1]
    row = gl.program_id(0) * c.block_type.shape[0]
    column = gl.program_id(1) * c.block_type.shape[1]
    a_ring = gl.allocate_shared_memory(a.dtype, [stages] + a.block_type.shape, a.layout)
    b_ring = gl.allocate_shared_memory(b.dtype, [stages] + b.block_type.shape, b.layout)
    out = gl.allocate_shared_memory(c.dtype, c.block_type.shape, c.layout)
    full = mbarrier.allocate_mbarrier(batch=stages)
    empty = mbarrier.allocate_mbarrier(batch=stages)
    for slot in gl.static_range(stages):
        mbarrier.init(full.index(slot), count=1)
        mbarrier.init(empty.index(slot), count=1)
    gl.warp_specialize([
        (multiply, (c, a_ring, b_ring, full, empty, out, row, column, k, depth, stages, warps)),
        (copy, (a, b, a_ring, b_ring, full, empty, row, column, k, stages)),
    ], [1], [24])


@gluon.jit
def matmul_multicast(a, b, c, k):
    """C[m, n] = A[m, k] B[k, n] in bf16; each of two blocks computes half of the tile's rows and copies half of B for both."""
    depth: gl.constexpr = a.block_type.shape[1]
    tile_m: gl.constexpr = c.block_type.shape[0]
    tile_n: gl.constexpr = c.block_type.shape[1]
    row = gl.program_id(0) * tile_m
    column = gl.program_id(1) * tile_n
    a_tile = gl.allocate_shared_memory(a.dtype, a.block_type.shape, a.layout)
    b_tile = gl.allocate_shared_memory(b.dtype, b.block_type.shape, b.layout)
    out = gl.allocate_shared_memory(c.dtype, c.block_type.shape, c.layout)
    full = mbarrier.allocate_mbarrier()
    mbarrier.init(full, count=1)
    cluster.barrier()
    layout: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, tile_n, 16],
                                                     cga_layout=[[1, 0]])
    total = gl.zeros([tile_m, tile_n], gl.float32, layout)
    for step in range(gl.cdiv(k, depth)):
        mbarrier.expect(full, a.nbytes_per_cta + b.nbytes_per_cta)
        tma.async_load(a, [row, step * depth], full, a_tile)
        tma.async_load(b, [step * depth, column], full, b_tile, multicast=True)
        mbarrier.wait(full, step & 1)
        token = warpgroup_mma(a_tile, b_tile, total, is_async=True)
        total = warpgroup_mma_wait(0, deps=[token])
        cluster.barrier()
    out.store(total.to(gl.bfloat16))
    fence_async_shared()
    tma.async_store(c, [row, column], out)
    tma.store_wait(0)
