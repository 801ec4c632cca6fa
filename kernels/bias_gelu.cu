// Bias and GELU (Hendrycks and Gimpel, arXiv 1606.08415), forward and backward.
//
//   forward    u = x + bias,  y = u Phi(u)        the bias may be missing
//   backward   dx = dy (Phi(u) + u phi(u))        written over dy; u is computed again from x
//              d_bias += sum over rows of dx
//   and in the names that say so with u (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))) / 2 (common/activation.cuh) in place of u Phi(u)
//
// Shapes: x, y, dy [rows, columns]; bias, d_bias [columns]. Phi and phi are the standard normal distribution and density.
//
// Floor, 65,536 x 3072 bf16 (402.7 MB a tensor): forward 1 read + 1 write = 805 MB, 0.27 ms at 3.0 TB/s; backward 2 reads
// + 1 write = 1,208 MB, 0.40 ms. About 25 operations an element for Phi: 5 G operations, 0.2 ms of an H100's f32 units,
// so the formula of common/gelu.cuh matters: with erff the arithmetic would be the floor.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A thread owns eight columns, keeps their bias and its share of d_bias in registers, and walks down the rows of its
//      block's part. Two-stage sums, see common/column_tile.cuh.

#include "common/activation.cuh"
#include "common/column_tile.cuh"

namespace {

template <bool VECTOR, typename Gelu, typename T>
__device__ __forceinline__ void forward(const T* x, const T* bias, T* y, int rows, int columns) {
    const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x * GROUP;
    if (column >= columns) return;
    const int valid = columns - column;
    float shift[GROUP];
    load_group_or_zeros<VECTOR>(bias, column, valid, shift);
    for (int row = blockIdx.y * ROW_THREADS + threadIdx.y; row < rows; row += gridDim.y * ROW_THREADS) {
        const int64_t first = static_cast<int64_t>(row) * columns + column;
        float values[GROUP];
        load_group<VECTOR>(x + first, valid, values);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            values[i] = Gelu::value(values[i] + shift[i]);
        }
        store_group<VECTOR>(y + first, values, valid);
    }
}

template <bool VECTOR, typename Gelu, typename T>
__device__ __forceinline__ void backward(const T* x, const T* bias, T* dy, int rows, int columns, float (&sums)[GROUP]) {
    const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x * GROUP;
    if (column >= columns) return;
    const int valid = columns - column;
    float shift[GROUP];
    load_group_or_zeros<VECTOR>(bias, column, valid, shift);
    for (int row = blockIdx.y * ROW_THREADS + threadIdx.y; row < rows; row += gridDim.y * ROW_THREADS) {
        const int64_t first = static_cast<int64_t>(row) * columns + column;
        float values[GROUP], gradient[GROUP];
        load_group<VECTOR>(x + first, valid, values);
        load_group<VECTOR>(dy + first, valid, gradient);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            gradient[i] *= Gelu::slope(values[i] + shift[i]);
            sums[i] += gradient[i];
        }
        store_group<VECTOR>(dy + first, gradient, valid);
    }
}

}  // namespace

// Both: blocks of 32 x 8 threads; gridDim.x = columns / 256, gridDim.y = parts, any number up to 65,535.
// bias_gelu_backward: dy holds dx afterwards; partials [parts, columns] f32, all of it written, for column_sums_finish.
#define BIAS_GELU(GELU, NAME, T, DTYPE)                                                           \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS)                     \
        NAME##_forward_##DTYPE(const T* x, const T* bias, T* y, int rows, int columns) {          \
        follow_earlier_kernels();                                                                 \
        if (rows_are_groups(columns) && is_aligned(x) && is_aligned(bias) && is_aligned(y))       \
            forward<true, GELU<T>>(x, bias, y, rows, columns);                                    \
        else                                                                                      \
            forward<false, GELU<T>>(x, bias, y, rows, columns);                                   \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS)                     \
        NAME##_backward_##DTYPE(const T* x, const T* bias, T* dy, int rows, int columns,          \
                                float* partials) {                                                \
        follow_earlier_kernels();                                                                 \
        float sums[GROUP] = {};                                                                   \
        if (rows_are_groups(columns) && is_aligned(x) && is_aligned(bias) && is_aligned(dy))      \
            backward<true, GELU<T>>(x, bias, dy, rows, columns, sums);                            \
        else                                                                                      \
            backward<false, GELU<T>>(x, bias, dy, rows, columns, sums);                           \
        write_column_sums(sums, columns, partials);                                               \
    }                                                                                             \
    EXPORT_KERNEL(NAME##_forward_##DTYPE)                                                         \
    EXPORT_KERNEL(NAME##_backward_##DTYPE)

BIAS_GELU(GeluExact, bias_gelu, float, f32)
BIAS_GELU(GeluExact, bias_gelu, bf16, bf16)
BIAS_GELU(GeluTanh, bias_gelu_tanh, float, f32)
BIAS_GELU(GeluTanh, bias_gelu_tanh, bf16, bf16)
