// The gate of a feed-forward block (Shazeer, arXiv 2002.05202): a row of x is [a, b].
//
//   forward    u = dropout(act(a) b)
//   backward   with du through the dropout's mask: da = du act'(a) b, db = du act(a)     written over x
//
// act is GELU with the exact error function (GEGLU: DNABERT-2) or SiLU (SwiGLU: Nucleotide Transformer v2).
// Shapes: x [rows, 2 inner]; u, du [rows, inner]. The mask is that of the elements of u, see common/dropout.cuh.
//
// Floor, 65,536 x 3072 bf16 (402.7 MB a tensor of u's size): forward 2 reads + 1 write = 1,208 MB, 0.40 ms at 3.0 TB/s; backward 3 reads
// + 2 writes = 2,013 MB, 0.67 ms.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A thread owns eight columns and walks down the rows of its block's part, as in bias_gelu.cu.

#include "common/activation.cuh"
#include "common/column_tile.cuh"
#include "common/dropout.cuh"

namespace {

// Calls `body` with the first element of each group of eight that is this thread's, in x and in u, and how many of it there are.
template <typename Body>
__device__ __forceinline__ void each_group(int rows, int inner, const Body& body) {
    const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x * GROUP;
    if (column >= inner) return;
    for (int row = blockIdx.y * ROW_THREADS + threadIdx.y; row < rows; row += gridDim.y * ROW_THREADS) {
        const int64_t first = static_cast<int64_t>(row) * inner;
        body(2 * first + column, first + column, inner - column);
    }
}

template <bool VECTOR, typename Act, typename T>
__device__ __forceinline__ void forward(const T* x, T* u, int rows, int inner, const Dropout& dropout) {
    each_group(rows, inner, [&](int64_t at, int64_t first, int valid) {
        float a[GROUP], b[GROUP];
        load_group<VECTOR>(x + at, valid, a);
        load_group<VECTOR>(x + at + inner, valid, b);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) a[i] = Act::value(a[i]) * b[i];
        dropout_apply<VECTOR>(dropout, first, a);
        store_group<VECTOR>(u + first, a, valid);
    });
}

template <bool VECTOR, typename Act, typename T>
__device__ __forceinline__ void backward(T* x, const T* du, int rows, int inner, const Dropout& dropout) {
    each_group(rows, inner, [&](int64_t at, int64_t first, int valid) {
        float a[GROUP], b[GROUP], gradient[GROUP];
        load_group<VECTOR>(x + at, valid, a);
        load_group<VECTOR>(x + at + inner, valid, b);
        load_group<VECTOR>(du + first, valid, gradient);
        dropout_apply<VECTOR>(dropout, first, gradient);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const float value = Act::value(a[i]);
            a[i] = gradient[i] * b[i] * Act::slope(a[i]);
            b[i] = gradient[i] * value;
        }
        store_group<VECTOR>(x + at, a, valid);
        store_group<VECTOR>(x + at + inner, b, valid);
    });
}

}  // namespace

// Both: blocks of 32 x 8 threads; gridDim.x = inner / 256, gridDim.y = parts, any number up to 65,535. dropout.threshold 0 is no dropout.
#define GATED(ACT, NAME, T, DTYPE)                                                                                      \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS)                                           \
        gated_##NAME##_forward_##DTYPE(const T* x, T* u, int rows, int inner, Dropout dropout) {                        \
        follow_earlier_kernels();                                                                                       \
        if (rows_are_groups(inner) && is_aligned(x) && is_aligned(u))                                                   \
            forward<true, ACT<T>>(x, u, rows, inner, dropout);                                                          \
        else                                                                                                            \
            forward<false, ACT<T>>(x, u, rows, inner, dropout);                                                         \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS)                                           \
        gated_##NAME##_backward_##DTYPE(T* x, const T* du, int rows, int inner, Dropout dropout) {                      \
        follow_earlier_kernels();                                                                                       \
        if (rows_are_groups(inner) && is_aligned(x) && is_aligned(du))                                                  \
            backward<true, ACT<T>>(x, du, rows, inner, dropout);                                                        \
        else                                                                                                            \
            backward<false, ACT<T>>(x, du, rows, inner, dropout);                                                       \
    }                                                                                                                   \
    EXPORT_KERNEL(gated_##NAME##_forward_##DTYPE)                                                                       \
    EXPORT_KERNEL(gated_##NAME##_backward_##DTYPE)

GATED(GeluExact, gelu, float, f32)
GATED(GeluExact, gelu, bf16, bf16)
GATED(Silu, silu, float, f32)
GATED(Silu, silu, bf16, bf16)
