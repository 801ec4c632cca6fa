// Sums and maxima over a warp and a block. The order of the additions is fixed, so results repeat bit for bit.
#pragma once

#include "common/device.cuh"

// Every lane gets the result, and the same bits: each step adds the same two numbers in both lanes of a pair.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(FULL_WARP, value, offset);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, offset));
    return value;
}

// The sum over a block of THREADS threads (a multiple of 32), for every thread. `scratch` is in shared memory, [THREADS / 32];
// it may be used again at once, because the block is through reading it when this returns.
template <int THREADS, typename T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
    static_assert(THREADS % WARP == 0, "whole warps");
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    T sum = scratch[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / WARP; ++warp) sum += scratch[warp];
    __syncthreads();
    return sum;
}

// Of the first 2 COUNT sums the lower half goes to the lower one of two lanes, `distance` apart, and the upper half to the upper one: half of
// the shuffles and additions that all sums in all lanes would take. A lane's are then the first COUNT.
template <int COUNT, int N>
__device__ __forceinline__ void share_sums(float (&sums)[N], int distance) {
    const bool upper = threadIdx.x & distance;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const float other = __shfl_xor_sync(FULL_WARP, upper ? sums[i] : sums[i + COUNT], distance);
        sums[i] = (upper ? sums[i + COUNT] : sums[i]) + other;
    }
}

// Adds what the lanes of a warp have of 64 columns. A lane has columns 8 i + 2 (lane % 4) and the next, as in the accumulators of a
// product; sums[0] and sums[1] become the sums of column warp_sum_column() and the next.
__device__ __forceinline__ void warp_column_sums(float (&sums)[16]) {
    share_sums<8>(sums, WARP / 2);
    share_sums<4>(sums, WARP / 4);
    share_sums<2>(sums, WARP / 8);
}
// The same of 16 columns, in the registers of four sums; sums[0] becomes the sum of column warp_sum_column_of_16(), in the lanes of both rows that it
// may be asked of.
__device__ __forceinline__ void warp_column_sums(float (&sums)[4]) {
    share_sums<2>(sums, WARP / 2);
    share_sums<1>(sums, WARP / 4);
    sums[0] += __shfl_xor_sync(FULL_WARP, sums[0], WARP / 8);
}
__device__ __forceinline__ int warp_sum_column_of_16() {
    const int lane = threadIdx.x % WARP;
    return lane / 16 * 8 + lane % 4 * 2 + lane / 8 % 2;
}
__device__ __forceinline__ int warp_sum_column() {
    const int lane = threadIdx.x % WARP;
    // Of the eights of columns, the one that the lane's bits above the second say.
    return (lane / 16 * 4 + lane / 8 % 2 * 2 + lane / 4 % 2) * 8 + lane % 4 * 2;
}
