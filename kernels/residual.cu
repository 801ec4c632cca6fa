// z = residual + dropout(x + bias), written over x: the end of a block that no LayerNorm follows. Each of the three may be missing.
// Backward has no kernel of its own: z's gradient is the residual's, and through dropout_apply x's, whose column_sums are the bias's.
//
// Shapes: x, residual [rows, columns]; bias [columns]. The mask is that of the elements of x, see common/dropout.cuh.
// Floor, 65,536 x 768 bf16: 2 reads + 1 write = 302 MB, 0.10 ms at 3.0 TB/s.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A thread owns eight columns, keeps their bias in registers and walks down the rows of its block's part, as in bias_gelu.cu.

#include "common/column_tile.cuh"
#include "common/dropout.cuh"

namespace {

template <bool VECTOR, typename T>
__device__ __forceinline__ void forward(T* x, const T* bias, const T* residual, int rows, int columns, const Dropout& dropout) {
    const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x * GROUP;
    if (column >= columns) return;
    const int valid = columns - column;
    float shift[GROUP] = {};
    if (bias != nullptr) load_group<VECTOR>(bias + column, valid, shift);
    for (int row = blockIdx.y * ROW_THREADS + threadIdx.y; row < rows; row += gridDim.y * ROW_THREADS) {
        const int64_t first = static_cast<int64_t>(row) * columns + column;
        float values[GROUP], terms[GROUP] = {};
        load_group<VECTOR>(x + first, valid, values);
        if (residual != nullptr) load_group<VECTOR>(residual + first, valid, terms);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) values[i] += shift[i];
        dropout_apply<VECTOR>(dropout, first, values);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) values[i] += terms[i];
        store_group<VECTOR>(x + first, values, valid);
    }
}

}  // namespace

// Blocks of 32 x 8 threads; gridDim.x = columns / 256, gridDim.y = parts, any number up to 65,535. dropout.threshold 0 is no dropout.
#define RESIDUAL(T, DTYPE)                                                                                            \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS) residual_forward_##DTYPE(               \
        T* x, const T* bias, const T* residual, int rows, int columns, Dropout dropout) {                             \
        follow_earlier_kernels();                                                                                     \
        if (rows_are_groups(columns) && is_aligned(x) && is_aligned(bias) && is_aligned(residual))                    \
            forward<true>(x, bias, residual, rows, columns, dropout);                                                 \
        else                                                                                                          \
            forward<false>(x, bias, residual, rows, columns, dropout);                                                \
    }                                                                                                                 \
    EXPORT_KERNEL(residual_forward_##DTYPE)

RESIDUAL(float, f32)
RESIDUAL(bf16, bf16)
