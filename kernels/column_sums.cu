// Column sums: the gradient of a bias, `sums[column] += sum over rows of x[row, column]`.
//
// Shapes: x [rows, columns] with `stride` elements from row to row; sums [columns], of the gradients' type.
// Floor, 65,536 x 768 bf16: one read of 100.7 MB, 0.034 ms at 3.0 TB/s; one addition an element.
//
// Versions. No figure from a GPU has been seen yet.
//   1. Two stages of fixed order, see common/column_tile.cuh. The second stage also ends the backward pass of bias_gelu.

#include "common/column_tile.cuh"

namespace {

template <bool VECTOR, typename T>
__device__ __forceinline__ void add_rows(const T* x, int rows, int columns, int stride, float (&sums)[GROUP]) {
    const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x * GROUP;
    if (column >= columns) return;
    for (int row = blockIdx.y * ROW_THREADS + threadIdx.y; row < rows; row += gridDim.y * ROW_THREADS) {
        float values[GROUP];
        load_group<VECTOR>(x + static_cast<int64_t>(row) * stride + column, columns - column, values);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) sums[i] += values[i];
    }
}

}  // namespace

// column_sums_partial: blocks of 32 x 8 threads; gridDim.x = columns / 256, gridDim.y = parts;
//   partials [parts, columns] f32, all of it written. Where the stride is whole groups, the last group of a row may reach into
//   what lies between the rows: its sums are of columns that do not exist.
#define COLUMN_SUMS_PARTIAL(T, DTYPE)                                                     \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS)             \
        column_sums_partial_##DTYPE(const T* x, int rows, int columns, int stride, float* partials) { \
        follow_earlier_kernels();                                                                     \
        float sums[GROUP] = {};                                                           \
        if (rows_are_groups(stride) && is_aligned(x))                                     \
            add_rows<true>(x, rows, columns, stride, sums);                               \
        else                                                                              \
            add_rows<false>(x, rows, columns, stride, sums);                              \
        write_column_sums(sums, columns, partials);                                       \
    }                                                                                     \
    EXPORT_KERNEL(column_sums_partial_##DTYPE)

COLUMN_SUMS_PARTIAL(float, f32)
COLUMN_SUMS_PARTIAL(bf16, bf16)

// column_sums_finish: adds the parts to the gradient; DTYPE is the gradient's. Grid: columns / 32 blocks of 32 x 8 threads.
#define COLUMN_SUMS_FINISH(G, DTYPE)                                                                \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS)                       \
        column_sums_finish_##DTYPE(const float* partials, int parts, int columns, G* sums) {        \
        follow_earlier_kernels();                                                                   \
        add_parts(partials, parts, columns, columns, sums);                                         \
    }                                                                                               \
    EXPORT_KERNEL(column_sums_finish_##DTYPE)

COLUMN_SUMS_FINISH(float, f32)
COLUMN_SUMS_FINISH(bf16, bf16)
