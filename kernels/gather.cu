// The rows that a head reads, and their gradients on the way back.
//
//   forward    y[i] = x[rows[i]]
//   backward   dx[rows[i]] += dy[i]
//
// Shapes: x, dx [total_tokens, columns]; y, dy [count, columns]; rows [count] i32, ascending, in which a row may repeat.
// Floor, 9,830 of 65,536 rows of 768 bf16: forward 1 read + 1 write = 30 MB, 0.010 ms at 3.0 TB/s; backward 2 reads +
// 1 write = 45 MB, 0.015 ms.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A warp a row. Because the rows ascend, equal ones are neighbours: the warp of the first of them adds them all, in
//      order, so no two warps write the same row and nothing is atomic.

#include "common/pack.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;
// Left to itself ptxas aims at six blocks a multiprocessor, 40 registers, and spills; four leave it 64.
constexpr int BLOCKS = 4;

template <bool VECTOR, typename T>
__device__ __forceinline__ void forward(const T* x, const int* rows, int count, int columns, T* y) {
    const int lane = threadIdx.x % WARP;
    for (int i = blockIdx.x * WARPS + threadIdx.x / WARP; i < count; i += gridDim.x * WARPS) {
        const T* from = x + static_cast<int64_t>(rows[i]) * columns;
        T* to = y + static_cast<int64_t>(i) * columns;
        for (int column = lane * GROUP; column < columns; column += WARP * GROUP)
            store_pack<VECTOR>(to + column, load_pack<VECTOR>(from + column, columns - column), columns - column);
    }
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void backward(const T* dy, const int* rows, int count, int columns, T* dx) {
    const int lane = threadIdx.x % WARP;
    for (int i = blockIdx.x * WARPS + threadIdx.x / WARP; i < count; i += gridDim.x * WARPS) {
        const int row = rows[i];
        if (i > 0 && rows[i - 1] == row) continue;
        T* to = dx + static_cast<int64_t>(row) * columns;
        for (int column = lane * GROUP; column < columns; column += WARP * GROUP) {
            float sum[GROUP], term[GROUP];
            load_group<VECTOR>(to + column, columns - column, sum);
            for (int equal = i; equal < count && rows[equal] == row; ++equal) {
                load_group<VECTOR>(dy + static_cast<int64_t>(equal) * columns + column, columns - column, term);
#pragma unroll
                for (int k = 0; k < GROUP; ++k) sum[k] += term[k];
            }
            store_group<VECTOR>(to + column, sum, columns - column);
        }
    }
}

}  // namespace

// Any number of blocks of 256 threads; count / 8 of them make it one pass.
#define GATHER(T, DTYPE)                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                    \
        gather_forward_##DTYPE(const T* x, const int* rows, int count, int columns, T* y) {    \
        follow_earlier_kernels();                                                              \
        if (rows_are_groups(columns) && is_aligned(x) && is_aligned(y))                        \
            forward<true>(x, rows, count, columns, y);                                         \
        else                                                                                   \
            forward<false>(x, rows, count, columns, y);                                        \
    }                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                    \
        gather_backward_##DTYPE(const T* dy, const int* rows, int count, int columns, T* dx) { \
        follow_earlier_kernels();                                                              \
        if (rows_are_groups(columns) && is_aligned(dy) && is_aligned(dx))                      \
            backward<true>(dy, rows, count, columns, dx);                                      \
        else                                                                                   \
            backward<false>(dy, rows, count, columns, dx);                                     \
    }                                                                                          \
    EXPORT_KERNEL(gather_forward_##DTYPE)                                                      \
    EXPORT_KERNEL(gather_backward_##DTYPE)

GATHER(float, f32)
GATHER(bf16, bf16)
