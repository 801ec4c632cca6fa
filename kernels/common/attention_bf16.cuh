// Attention on tensor cores: swizzled tiles of bf16 in shared memory, their fragments and products. attention_f32.cuh has the
// same functions for f32.
#pragma once

#include "common/attention.cuh"

// Starts to copy rows 0..ROWS of `from` into a tile; rows from `valid` on, and columns from `columns` on, become zero.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* from, int stride, int valid, int columns) {
    constexpr int CHUNKS = D / GROUP, STEP = THREADS / CHUNKS;
    static_assert(ROWS % STEP == 0, "every thread copies as many chunks");
    static_assert(STEP % 8 == 0, "a thread's chunks lie in rows of one swizzle");
    const int row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS * GROUP;
    bf16* to = tile + swizzled<D>(row, column);
    from += row * stride + column;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; ++i)
        cp_async<16>(to + i * STEP * D, from + i * STEP * stride, row + i * STEP < valid && column < columns ? 16 : 0);
}

// In the next three, `row` is a multiple of 16, so that a lane's swizzle does not depend on it; and the column of a step only
// flips bits that the lane's column leaves zero, so that one address a lane serves all steps.

// The A fragment of rows row..row + 16 and columns 16 step..16 step + 16.
template <int D>
__device__ __forceinline__ void load_a(unsigned (&a)[4], const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % WARP;
    ldmatrix_x4(a, tile + row * D + (swizzled<D>(lane % 16, lane / 16 * 8) ^ 16 * step));
}

// Two B fragments of the transposed tile: n is rows row..row + 8 and row + 8..row + 16, k is columns 16 step and on.
template <int D>
__device__ __forceinline__ void load_b_transposed(unsigned (&b)[2][2], const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % WARP;
    unsigned registers[4];
    ldmatrix_x4(registers, tile + row * D + (swizzled<D>(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8) ^ 16 * step));
    b[0][0] = registers[0], b[0][1] = registers[1], b[1][0] = registers[2], b[1][1] = registers[3];
}

// Two B fragments of the tile as it lies: k is rows row..row + 16, n is columns 16 pair..16 pair + 8 and the eight after.
template <int D>
__device__ __forceinline__ void load_b(unsigned (&b)[2][2], const bf16* tile, int row, int pair) {
    const int lane = threadIdx.x % WARP;
    unsigned registers[4];
    ldmatrix_x4_trans(registers, tile + row * D + (swizzled<D>(lane % 16, lane / 16 * 8) ^ 16 * pair));
    b[0][0] = registers[0], b[0][1] = registers[1], b[1][0] = registers[2], b[1][1] = registers[3];
}

// products = rows row.. of `left` times rows column.. of `right`, transposed.
template <int D, int ROW_TILES, int COLUMNS>
__device__ __forceinline__ void multiply_rows(float (&products)[ROW_TILES][COLUMNS / 8][4], const bf16* left, int row,
                                              const bf16* right, int column) {
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) products[m][n][i] = 0.0f;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
        unsigned a[ROW_TILES][4];
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m) load_a<D>(a[m], left, row + 16 * m, step);
#pragma unroll
        for (int pair = 0; pair < COLUMNS / 16; ++pair) {
            unsigned b[2][2];
            load_b_transposed<D>(b, right, column + 16 * pair, step);
#pragma unroll
            for (int m = 0; m < ROW_TILES; ++m) {
                mma_m16n8k16(products[m][2 * pair], a[m], b[0]);
                mma_m16n8k16(products[m][2 * pair + 1], a[m], b[1]);
            }
        }
    }
}

// The A fragment of the piece.
template <>
struct Operand<bf16> {
    unsigned registers[4];

    // Elements 2 half and 2 half + 1 of fragment n.
    __device__ __forceinline__ void set(int n, int half, float low, float high) {
        registers[2 * n + half] = pack_bf16(low, high);
    }
    // Leaves the elements that are kept.
    template <Rows ROWS>
    __device__ __forceinline__ void drop(unsigned keep, int piece) {
#pragma unroll
        for (int i = 0; i < 4; ++i) registers[i] &= keep_mask<ROWS>(keep, piece, i / 2, i % 2);
    }
};

// accumulators (16 x D) += a (16 x 16) times rows row..row + 16 of the tile. Row `group + 8 half` of row tile m is
// [m][n][2 half + side], column 8 n + 2 member + side.
template <int D, int ROW_TILES, int N>
__device__ __forceinline__ void multiply_add(float (&accumulators)[ROW_TILES][N][4], const Operand<bf16> (&a)[ROW_TILES],
                                             const bf16* tile, int row) {
    static_assert(N == D / 8, "whole rows");
#pragma unroll
    for (int pair = 0; pair < N / 2; ++pair) {
        unsigned b[2][2];
        load_b<D>(b, tile, row, pair);
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m) {
            mma_m16n8k16(accumulators[m][2 * pair], a[m].registers, b[0]);
            mma_m16n8k16(accumulators[m][2 * pair + 1], a[m].registers, b[1]);
        }
    }
}

// Rounds a warp's accumulators times `factors` (one for each of the thread's rows) and writes them to global memory, 16
// bytes a lane, through its own rows of a tile in shared memory that no other warp uses any more.
template <int D, int ROW_TILES, int N>
__device__ __forceinline__ void store_rows(bf16* to, int stride, int valid, int columns, bf16* tile, int tile_row,
                                           const float (&accumulators)[ROW_TILES][N][4],
                                           const float (&factors)[ROW_TILES][2]) {
    const int lane = threadIdx.x % WARP, group = lane / 4, member = lane % 4;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = tile_row + 16 * m + 8 * half + group;
                const float* pair = accumulators[m][n] + 2 * half;
                *reinterpret_cast<unsigned*>(tile + swizzled<D>(row, n * 8) + 2 * member) =
                    pack_bf16(pair[0] * factors[m][half], pair[1] * factors[m][half]);
            }
    __syncwarp();
    constexpr int CHUNKS = D / GROUP;
#pragma unroll
    for (int index = lane; index < 16 * ROW_TILES * CHUNKS; index += WARP) {
        const int row = index / CHUNKS, chunk = index % CHUNKS;
        if (row < valid && chunk * GROUP < columns)
            *reinterpret_cast<uint4*>(to + row * stride + chunk * GROUP) =
                *reinterpret_cast<const uint4*>(tile + swizzled<D>(tile_row + row, chunk * GROUP));
    }
}
