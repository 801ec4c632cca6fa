// Attention in f32 without tensor cores: the functions of attention_bf16.cuh over tiles of floats. A lane owns the same
// elements of a 16 x 16 piece as there, so that softmax, dropout, masks and bias are shared.
//
// What bounds it: the multiply-adds. A warp instruction of 32 of them takes a quarter of a clock of a multiprocessor, a conflict-free
// load from shared memory one clock. For four elements of depth a row tile of 16 queries and 32 keys takes 10 loads for 64
// multiply-adds (10 clocks beside 16), two row tiles 12 for 128.
//
// Rows have four floats of padding. Eight neighbouring rows then start at eight different groups of four banks, and so do the
// four rows of the same parity that a quad reads: loads of 16 bytes a lane have no conflicts.
#pragma once

#include "common/attention.cuh"

// Starts to copy rows 0..ROWS of `from` into a tile; rows from `valid` on, and columns from `columns` on, become zero.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(float* tile, const float* from, int stride, int valid, int columns) {
    constexpr int CHUNKS = D / 4, STEP = THREADS / CHUNKS, LENGTH = TILE_ROW<float, D>;
    static_assert(ROWS % STEP == 0, "every thread copies as many chunks");
    const int row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS * 4;
    float* to = tile + row * LENGTH + column;
    from += row * stride + column;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; ++i)
        cp_async<16>(to + i * STEP * LENGTH, from + i * STEP * stride,
                     row + i * STEP < valid && column < columns ? 16 : 0);
}

// products = rows row.. of `left` times rows column.. of `right`, transposed.
template <int D, int ROW_TILES, int COLUMNS>
__device__ __forceinline__ void multiply_rows(float (&products)[ROW_TILES][COLUMNS / 8][4], const float* left, int row,
                                              const float* right, int column) {
    constexpr int LENGTH = TILE_ROW<float, D>;
    const int lane = threadIdx.x % WARP;
    left += (row + lane / 4) * LENGTH;
    right += (column + lane % 4 * 2) * LENGTH;
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) products[m][n][i] = 0.0f;
#pragma unroll 2
    for (int depth = 0; depth < D; depth += 4) {
        float4 a[ROW_TILES][2];
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                a[m][half] = *reinterpret_cast<const float4*>(left + (16 * m + 8 * half) * LENGTH + depth);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                const float4 b = *reinterpret_cast<const float4*>(right + (8 * n + side) * LENGTH + depth);
#pragma unroll
                for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        float& product = products[m][n][2 * half + side];
                        product = fmaf(a[m][half].x, b.x, product);
                        product = fmaf(a[m][half].y, b.y, product);
                        product = fmaf(a[m][half].z, b.z, product);
                        product = fmaf(a[m][half].w, b.w, product);
                    }
            }
    }
}

// The elements of the piece as the lane has them; products get the others from the lanes of the same rows.
template <>
struct Operand<float> {
    float values[2][4];

    // Elements 2 half and 2 half + 1 of fragment n.
    __device__ __forceinline__ void set(int n, int half, float low, float high) {
        values[n][2 * half] = low;
        values[n][2 * half + 1] = high;
    }
    // Leaves the elements that are kept.
    template <Rows ROWS>
    __device__ __forceinline__ void drop(unsigned keep, int piece) {
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if ((keep >> (8 * piece + decision_bit<ROWS>(n, i / 2, i % 2)) & 1) == 0) values[n][i] = 0.0f;
    }
};

// accumulators (16 x 8 N) += a (16 x 16) times 8 N columns of rows row..row + 16 of the tile. Row `group + 8 half` of row tile m is
// [m][n][2 half + side], column 16 (n / 2) + 4 member + 2 (n % 2) + side: four neighbours, one load of 16 bytes.
template <int D, int ROW_TILES, int N>
__device__ __forceinline__ void multiply_add(float (&accumulators)[ROW_TILES][N][4], const Operand<float> (&a)[ROW_TILES],
                                             const float* tile, int row) {
    constexpr int LENGTH = TILE_ROW<float, D>;
    const int lane = threadIdx.x % WARP;
    tile += row * LENGTH + lane % 4 * 4;
#pragma unroll
    for (int k = 0; k < 16; ++k) {
        // The lane of the same rows that holds column k of the operand.
        const int source = lane / 4 * 4 + k % 8 / 2;
        float left[ROW_TILES][2];
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                left[m][half] = __shfl_sync(FULL_WARP, a[m].values[k / 8][2 * half + k % 2], source);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            const float4 right = *reinterpret_cast<const float4*>(tile + k * LENGTH + 8 * n);
#pragma unroll
            for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float* low = accumulators[m][n] + 2 * half;
                    float* high = accumulators[m][n + 1] + 2 * half;
                    low[0] = fmaf(left[m][half], right.x, low[0]);
                    low[1] = fmaf(left[m][half], right.y, low[1]);
                    high[0] = fmaf(left[m][half], right.z, high[0]);
                    high[1] = fmaf(left[m][half], right.w, high[1]);
                }
        }
    }
}

// Writes a warp's accumulators times `factors` (one for each of the thread's rows) to global memory, 16 bytes a lane. The tile
// that the bf16 kernels go through is not needed.
template <int D, int ROW_TILES, int N>
__device__ __forceinline__ void store_rows(float* to, int stride, int valid, int columns, float*, int,
                                           const float (&accumulators)[ROW_TILES][N][4],
                                           const float (&factors)[ROW_TILES][2]) {
    const int lane = threadIdx.x % WARP, group = lane / 4, member = lane % 4;
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                const int row = 16 * m + 8 * half + group, column = 8 * n + 4 * member;
                const float factor = factors[m][half];
                const float* low = accumulators[m][n] + 2 * half;
                const float* high = accumulators[m][n + 1] + 2 * half;
                if (row < valid && column < columns)
                    *reinterpret_cast<float4*>(to + static_cast<int64_t>(row) * stride + column) =
                        make_float4(low[0] * factor, low[1] * factor, high[0] * factor, high[1] * factor);
            }
}
