// Column sums of a tall matrix in two stages of fixed order, shared by every kernel that makes the gradient of a vector.
//
// Stage one: a block is COLUMN_THREADS x ROW_THREADS threads and owns 256 columns; each thread owns eight of them and every
// ROW_THREADS-th row of its block's part. gridDim.x is the number of column tiles, gridDim.y the number of parts, and each
// part writes one row of `partials`. Stage two adds the parts, in order, to the gradient.
#pragma once

#include "common/pack.cuh"

// Why these: a warp reads 256 neighbouring columns (512 bytes of bf16), which divides 768 and 3072 without rest; eight rows
// in flight a block make 256 threads.
constexpr int COLUMN_THREADS = 32;
constexpr int ROW_THREADS = 8;
constexpr int TILE_COLUMNS = COLUMN_THREADS * GROUP;

// Where the sum of a column lies in a row of shared memory: in every second 32 columns the halves of a lane's eight change places, so that eight
// lanes' halves, one access of 16 bytes each, meet all banks once. 32 neighbours stay 32 neighbours.
__device__ __forceinline__ int column_place(int column) { return column ^ column / 32 % 2 * 4; }

// Adds the eight sums of each row thread, in the order of the row threads, and writes them to row blockIdx.y of `partials`
// ([gridDim.y, columns]). All threads of the block must call it.
__device__ __forceinline__ void write_column_sums(const float (&sums)[GROUP], int columns, float* partials) {
    __shared__ alignas(16) float tile[ROW_THREADS][TILE_COLUMNS];
#pragma unroll
    for (int i = 0; i < GROUP; i += 4)
        *reinterpret_cast<float4*>(&tile[threadIdx.y][column_place(threadIdx.x * GROUP + i)]) =
            make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
    __syncthreads();
    const int offset = threadIdx.y * COLUMN_THREADS + threadIdx.x;
    const int column = blockIdx.x * TILE_COLUMNS + offset;
    if (column < columns) {
        float sum = 0.0f;
#pragma unroll
        for (int row = 0; row < ROW_THREADS; ++row) sum += tile[row][column_place(offset)];
        partials[static_cast<int64_t>(blockIdx.y) * columns + column] = sum;
    }
}

// gradient[column] += the sum over parts of partials[part * stride + column]. A block is COLUMN_THREADS x ROW_THREADS
// threads and owns COLUMN_THREADS columns; row thread r adds the parts r, r + ROW_THREADS, ...
template <typename G>
__device__ __forceinline__ void add_parts(const float* partials, int parts, int stride, int columns, G* gradient) {
    __shared__ float tile[ROW_THREADS][COLUMN_THREADS];
    const int column = blockIdx.x * COLUMN_THREADS + threadIdx.x;
    float sum = 0.0f;
    if (column < columns)
        for (int part = threadIdx.y; part < parts; part += ROW_THREADS)
            sum += partials[static_cast<int64_t>(part) * stride + column];
    tile[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        float total = 0.0f;
#pragma unroll
        for (int row = 0; row < ROW_THREADS; ++row) total += tile[row][threadIdx.x];
        gradient[column] = from_float<G>(to_float(gradient[column]) + total);
    }
}
