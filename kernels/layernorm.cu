// LayerNorm of a residual sum, forward and backward.
//
//   forward    z = residual + dropout(x + bias)   written over x; bias, dropout and residual may be missing
//              y = gamma (z - mean) rstd + beta   mean and variance over a row, rstd = 1 / sqrt(variance + eps)
//   backward   with h = (z - mean) rstd and g = dy gamma:
//              dz = rstd (g - mean(g) - h mean(g h))     written over dy
//              dx = dropout(dz)                          the same mask as forward; only where there was a dropout
//              d_gamma += sum over rows of dy h,   d_beta += sum over rows of dy,   d_bias += sum over rows of dx
//
// The bias is that of the linear layer before: its gradient would be a pass of its own over dx, which is in registers here.
//
// Shapes: x, residual, y, dy, dx [rows, columns]; gamma, beta, bias [columns]; statistics [rows, 2] f32 (mean, rstd).
// z is rounded to T first and its statistics taken after that, so that the backward pass, which reads the rounded z, sees
// a row that these statistics normalise exactly. Activations are written with =, parameter gradients with +=.
//
// Floor, 65,536 x 768 bf16 (100.7 MB a tensor): forward 2 reads + 2 writes = 403 MB, 0.134 ms at 3.0 TB/s; backward with
// dropout 2 reads + 2 writes = 403 MB, 0.134 ms. About 15 operations an element, far below the arithmetic limit.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A warp a row while a row fits a warp's registers (columns <= 1024): one read of everything, no block barrier on the
//      way. A block a row above that: z goes to memory and comes back from the cache. The backward grid is persistent: a
//      warp keeps its share of d_gamma and d_beta over all its rows, a block adds its warps in order, and a second kernel
//      adds the blocks in order.
//   2. Backward keeps those shares in shared memory: in registers (version 1) they took 64 of a thread's 208 and left a
//      multiprocessor one block of eight warps, too few to hide the latency of memory.
//   3. The bias: 48 KB of shares instead of 32, which leaves an H100 the four blocks that registers allow, and an A100 three.
//      Prediction: 144 accesses of shared memory a row and warp instead of 96 are 0.041 ms of a multiprocessor's time, behind
//      0.134 ms of memory; the pass over dx that is saved takes 0.034 ms.

#include "common/column_tile.cuh"
#include "common/dropout.cuh"
#include "common/reduce.cuh"

namespace {

// Forward: eight warps, eight rows a block; no warp waits for another, so the number only sets the grain. Three blocks a
// multiprocessor are what registers allow, and said in __launch_bounds__, as else ptxas spills a word.
constexpr int THREADS = 256;
// Backward: four warps, so that their shares of the column sums (12 KB each at 1024 columns) fit the 48 KB of static
// shared memory and several blocks fit a multiprocessor.
constexpr int BACKWARD_THREADS = 128;
constexpr int BACKWARD_WARPS = BACKWARD_THREADS / WARP;
// 32 lanes x 4 groups x 8 elements: a row of 1024 columns is 32 values a lane.
constexpr int MAX_GROUPS = 4;
constexpr int WARP_COLUMNS = MAX_GROUPS * WARP * GROUP;

// values += terms, where there are any.
template <bool VECTOR, typename T, typename Index>
__device__ __forceinline__ void add_group(const T* terms, Index first, int valid, float (&values)[GROUP]) {
    if (terms == nullptr) return;
    float other[GROUP];
    load_group<VECTOR>(terms + first, valid, other);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) values[i] += other[i];
}

// z of one group, as it will be read back: rounded to T.
template <bool VECTOR, typename T>
__device__ __forceinline__ Pack<T, GROUP> sum_group(T* x, const T* bias, const T* residual, const Dropout& dropout, int64_t first,
                                                    int column, int valid) {
    float values[GROUP];
    load_group<VECTOR>(x + first, valid, values);
    add_group<VECTOR>(bias, column, valid, values);
    dropout_apply<VECTOR>(dropout, first, values);
    add_group<VECTOR>(residual, first, valid, values);
    const Pack<T, GROUP> z = pack_from<T>(values);
    store_pack<VECTOR>(x + first, z, valid);
    return z;
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void normalise_group(const Pack<T, GROUP>& z, float mean, float rstd, const T* gamma, const T* beta, T* y,
                                int64_t first, int column, int valid) {
    float values[GROUP], scale[GROUP], shift[GROUP];
    unpack(z, values);
    load_group<VECTOR>(gamma + column, valid, scale);
    load_group<VECTOR>(beta + column, valid, shift);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) values[i] = fmaf((values[i] - mean) * rstd, scale[i], shift[i]);
    store_group<VECTOR>(y + first, values, valid);
}

// The parts of a group that a row of `columns` really has; a group past its end has none.
template <typename T>
__device__ __forceinline__ float sum_of(const Pack<T, GROUP>& z, int valid) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < GROUP; ++i) sum += i < valid ? to_float(z.values[i]) : 0.0f;
    return sum;
}

template <typename T>
__device__ __forceinline__ float sum_of_squares(const Pack<T, GROUP>& z, float mean, int valid) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        const float distance = i < valid ? to_float(z.values[i]) - mean : 0.0f;
        sum = fmaf(distance, distance, sum);
    }
    return sum;
}

__device__ __forceinline__ void write_statistics(float* statistics, int row, float mean, float rstd) {
    statistics[2 * static_cast<int64_t>(row)] = mean;
    statistics[2 * static_cast<int64_t>(row) + 1] = rstd;
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void forward_warp_row(T* x, const T* bias, const T* residual, const T* gamma, const T* beta, T* y, float* statistics, int row,
                                 int columns, float eps, const Dropout& dropout) {
    const int lane = threadIdx.x % WARP;
    const int64_t start = static_cast<int64_t>(row) * columns;
    Pack<T, GROUP> z[MAX_GROUPS];
    float sum = 0.0f;
#pragma unroll
    for (int group = 0; group < MAX_GROUPS; ++group) {
        const int column = (group * WARP + lane) * GROUP;
        if (column < columns) {
            z[group] = sum_group<VECTOR>(x, bias, residual, dropout, start + column, column, columns - column);
            sum += sum_of(z[group], columns - column);
        }
    }
    const float mean = warp_sum(sum) / columns;
    float squares = 0.0f;
#pragma unroll
    for (int group = 0; group < MAX_GROUPS; ++group) {
        const int column = (group * WARP + lane) * GROUP;
        if (column < columns) squares += sum_of_squares(z[group], mean, columns - column);
    }
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / columns + eps);
#pragma unroll
    for (int group = 0; group < MAX_GROUPS; ++group) {
        const int column = (group * WARP + lane) * GROUP;
        if (column < columns)
            normalise_group<VECTOR>(z[group], mean, rstd, gamma, beta, y, start + column, column, columns - column);
    }
    if (lane == 0) write_statistics(statistics, row, mean, rstd);
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void forward_block_row(T* x, const T* bias, const T* residual, const T* gamma, const T* beta, T* y, float* statistics, int row,
                                  int columns, float eps, const Dropout& dropout, float* scratch) {
    const int64_t start = static_cast<int64_t>(row) * columns;
    constexpr int STEP = THREADS * GROUP;
    const int first = threadIdx.x * GROUP;
    float sum = 0.0f;
    for (int column = first; column < columns; column += STEP)
        sum += sum_of(sum_group<VECTOR>(x, bias, residual, dropout, start + column, column, columns - column), columns - column);
    const float mean = block_sum<THREADS>(sum, scratch) / columns;
    // Each thread reads back only what it wrote itself, so memory needs no fence.
    float squares = 0.0f;
    for (int column = first; column < columns; column += STEP)
        squares += sum_of_squares(load_pack<VECTOR>(x + start + column, columns - column), mean, columns - column);
    const float rstd = 1.0f / sqrtf(block_sum<THREADS>(squares, scratch) / columns + eps);
    for (int column = first; column < columns; column += STEP)
        normalise_group<VECTOR>(load_pack<VECTOR>(x + start + column, columns - column), mean, rstd, gamma, beta, y,
                                start + column, column, columns - column);
    if (threadIdx.x == 0) write_statistics(statistics, row, mean, rstd);
}

// Grid: at most `rows` blocks of 256 threads, whatever their number; a block takes eight rows at a time, or one.
template <bool VECTOR, typename T>
__device__ __forceinline__ void forward(T* x, const T* bias, const T* residual, const T* gamma, const T* beta, T* y, float* statistics, int rows,
                        int columns, float eps, const Dropout& dropout) {
    __shared__ float scratch[THREADS / WARP];
    if (columns <= WARP_COLUMNS) {
        constexpr int WARPS = THREADS / WARP;
        for (int row = blockIdx.x * WARPS + threadIdx.x / WARP; row < rows; row += gridDim.x * WARPS)
            forward_warp_row<VECTOR>(x, bias, residual, gamma, beta, y, statistics, row, columns, eps, dropout);
    } else {
        for (int row = blockIdx.x; row < rows; row += gridDim.x)
            forward_block_row<VECTOR>(x, bias, residual, gamma, beta, y, statistics, row, columns, eps, dropout, scratch);
    }
}

// What one group adds to the two row sums: g and g h.
struct RowSums {
    float g;
    float gh;
};

template <bool VECTOR, typename T>
__device__ __forceinline__ void add_row_sums(const Pack<T, GROUP>& z, const Pack<T, GROUP>& dy, const T* gamma, int column, int valid,
                             float mean, float rstd, RowSums& sums) {
    float scale[GROUP];
    load_group<VECTOR>(gamma + column, valid, scale);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        if (!VECTOR && i >= valid) continue;
        const float g = to_float(dy.values[i]) * scale[i];
        sums.g += g;
        sums.gh = fmaf(g, (to_float(z.values[i]) - mean) * rstd, sums.gh);
    }
}

// `values` is what was written to dx, or to dz where that is the same.
template <bool VECTOR, typename T>
__device__ __forceinline__ void write_dz(const Pack<T, GROUP>& z, const Pack<T, GROUP>& dy, const T* gamma, T* dz, T* dx,
                         const Dropout& dropout, int64_t first, int column, int valid, float mean, float rstd,
                         const RowSums& means, float (&values)[GROUP]) {
    load_group<VECTOR>(gamma + column, valid, values);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        const float h = (to_float(z.values[i]) - mean) * rstd;
        values[i] = (to_float(dy.values[i]) * values[i] - means.g - h * means.gh) * rstd;
    }
    store_group<VECTOR>(dz + first, values, valid);
    if (dx != nullptr) {
        dropout_apply<VECTOR>(dropout, first, values);
        store_group<VECTOR>(dx + first, values, valid);
    }
}

// The shares of d_gamma, d_beta and d_bias of a block's warps. Element i of a lane's group lies 32 floats from element i + 1, so
// that the lanes of a warp meet 32 different banks.
struct ColumnSums {
    float gamma[BACKWARD_WARPS][MAX_GROUPS][GROUP][WARP];
    float beta[BACKWARD_WARPS][MAX_GROUPS][GROUP][WARP];
    float bias[BACKWARD_WARPS][MAX_GROUPS][GROUP][WARP];
};
static_assert(sizeof(ColumnSums) <= 48 * 1024, "static shared memory");

template <bool VECTOR, typename T>
__device__ __forceinline__ void backward_warp_rows(const T* z_rows, const float* statistics, const T* gamma, T* dz, T* dx,
                                                   int rows, int columns, const Dropout& dropout, bool has_bias,
                                                   float* partials, ColumnSums& sums) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int group = 0; group < MAX_GROUPS; ++group)
        for (int i = 0; i < GROUP; ++i)
            sums.gamma[warp][group][i][lane] = sums.beta[warp][group][i][lane] = sums.bias[warp][group][i][lane] = 0.0f;
    for (int row = blockIdx.x * BACKWARD_WARPS + warp; row < rows; row += gridDim.x * BACKWARD_WARPS) {
        const int64_t start = static_cast<int64_t>(row) * columns;
        const float mean = statistics[2 * static_cast<int64_t>(row)];
        const float rstd = statistics[2 * static_cast<int64_t>(row) + 1];
        Pack<T, GROUP> z[MAX_GROUPS], dy[MAX_GROUPS];
        // All loads first: a warp has a whole row in flight.
#pragma unroll
        for (int group = 0; group < MAX_GROUPS; ++group) {
            const int column = (group * WARP + lane) * GROUP;
            if (column < columns) {
                z[group] = load_pack<VECTOR>(z_rows + start + column, columns - column);
                dy[group] = load_pack<VECTOR>(dz + start + column, columns - column);
            }
        }
        RowSums means = {0.0f, 0.0f};
#pragma unroll
        for (int group = 0; group < MAX_GROUPS; ++group) {
            const int column = (group * WARP + lane) * GROUP;
            if (column < columns) {
                add_row_sums<VECTOR>(z[group], dy[group], gamma, column, columns - column, mean, rstd, means);
#pragma unroll
                for (int i = 0; i < GROUP; ++i) {
                    const float gradient = to_float(dy[group].values[i]);
                    sums.gamma[warp][group][i][lane] += (to_float(z[group].values[i]) - mean) * rstd * gradient;
                    sums.beta[warp][group][i][lane] += gradient;
                }
            }
        }
        means = {warp_sum(means.g) / columns, warp_sum(means.gh) / columns};
#pragma unroll
        for (int group = 0; group < MAX_GROUPS; ++group) {
            const int column = (group * WARP + lane) * GROUP;
            if (column < columns) {
                float values[GROUP];
                write_dz<VECTOR>(z[group], dy[group], gamma, dz, dx, dropout, start + column, column, columns - column,
                                 mean, rstd, means, values);
                if (has_bias)
#pragma unroll
                    for (int i = 0; i < GROUP; ++i) sums.bias[warp][group][i][lane] += values[i];
            }
        }
    }
    __syncthreads();
    float* part = partials + static_cast<int64_t>(blockIdx.x) * (has_bias ? 3 : 2) * columns;
    for (int column = threadIdx.x; column < columns; column += BACKWARD_THREADS) {
        const int group = column / (WARP * GROUP), owner = column / GROUP % WARP, i = column % GROUP;
        float d_gamma = 0.0f, d_beta = 0.0f, d_bias = 0.0f;
        for (int other = 0; other < BACKWARD_WARPS; ++other) {
            d_gamma += sums.gamma[other][group][i][owner];
            d_beta += sums.beta[other][group][i][owner];
            d_bias += sums.bias[other][group][i][owner];
        }
        part[column] = d_gamma;
        part[columns + column] = d_beta;
        if (has_bias) part[2 * columns + column] = d_bias;
    }
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void backward_block_rows(const T* z_rows, const float* statistics, const T* gamma, T* dz, T* dx, int rows,
                                    int columns, const Dropout& dropout, bool has_bias, float* partials, float* scratch) {
    constexpr int STEP = BACKWARD_THREADS * GROUP;
    const int count = has_bias ? 3 : 2;
    float* part = partials + static_cast<int64_t>(blockIdx.x) * count * columns;
    const int first = threadIdx.x * GROUP;
    for (int column = first; column < columns; column += STEP)
        for (int i = 0; i < GROUP && i < columns - column; ++i)
            for (int sum = 0; sum < count; ++sum) part[sum * columns + column + i] = 0.0f;
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const int64_t start = static_cast<int64_t>(row) * columns;
        const float mean = statistics[2 * static_cast<int64_t>(row)];
        const float rstd = statistics[2 * static_cast<int64_t>(row) + 1];
        RowSums means = {0.0f, 0.0f};
        for (int column = first; column < columns; column += STEP) {
            const int valid = columns - column;
            const Pack<T, GROUP> z = load_pack<VECTOR>(z_rows + start + column, valid);
            const Pack<T, GROUP> dy = load_pack<VECTOR>(dz + start + column, valid);
            add_row_sums<VECTOR>(z, dy, gamma, column, valid, mean, rstd, means);
            // A thread meets the same columns in every row, so it alone writes this part of the block's partial sums.
            for (int i = 0; i < GROUP && i < valid; ++i) {
                const float gradient = to_float(dy.values[i]);
                part[column + i] += (to_float(z.values[i]) - mean) * rstd * gradient;
                part[columns + column + i] += gradient;
            }
        }
        means.g = block_sum<BACKWARD_THREADS>(means.g, scratch) / columns;
        means.gh = block_sum<BACKWARD_THREADS>(means.gh, scratch) / columns;
        for (int column = first; column < columns; column += STEP) {
            const int valid = columns - column;
            float values[GROUP];
            write_dz<VECTOR>(load_pack<VECTOR>(z_rows + start + column, valid),
                             load_pack<VECTOR>(dz + start + column, valid), gamma, dz, dx, dropout, start + column, column,
                             valid, mean, rstd, means, values);
            if (has_bias)
                for (int i = 0; i < GROUP && i < valid; ++i) part[2 * columns + column + i] += values[i];
        }
    }
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void backward(const T* z, const float* statistics, const T* gamma, T* dz, T* dx, int rows, int columns,
                         const Dropout& dropout, bool has_bias, float* partials, ColumnSums& sums) {
    if (columns <= WARP_COLUMNS)
        backward_warp_rows<VECTOR>(z, statistics, gamma, dz, dx, rows, columns, dropout, has_bias, partials, sums);
    else  // Column sums are in memory then, and this is room for the rows' own sums.
        backward_block_rows<VECTOR>(z, statistics, gamma, dz, dx, rows, columns, dropout, has_bias, partials, sums.gamma[0][0][0]);
}

}  // namespace

// layernorm_forward: any number of blocks of 256 threads; rows / 8 of them (columns <= 1024) or rows make it one pass.
//   bias and residual may be null; dropout.threshold 0 is no dropout.
// layernorm_backward: a persistent grid of 128-thread blocks (four a multiprocessor); dz holds dy on entry; dx may be null;
//   partials [blocks, 3 (has_bias) or 2, columns] f32, all of it written: gamma, beta, bias.
#define LAYERNORM(T, DTYPE)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) layernorm_forward_##DTYPE(                                      \
        T* x, const T* bias, const T* residual, const T* gamma, const T* beta, T* y, float* statistics, int rows,          \
        int columns,                                                                                                      \
        float eps, Dropout dropout) {                                                                                     \
        follow_earlier_kernels();                                                                                         \
        if (rows_are_groups(columns) && is_aligned(x) && is_aligned(bias) && is_aligned(residual) && is_aligned(gamma) && \
            is_aligned(beta) && is_aligned(y))                                                                                                \
            forward<true>(x, bias, residual, gamma, beta, y, statistics, rows, columns, eps, dropout);                          \
        else                                                                                                              \
            forward<false>(x, bias, residual, gamma, beta, y, statistics, rows, columns, eps, dropout);                         \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS, 4) layernorm_backward_##DTYPE(                                     \
        const T* z, const float* statistics, const T* gamma, T* dz, T* dx, int rows, int columns, Dropout dropout,        \
        int has_bias, float* partials) {                                                                                  \
        follow_earlier_kernels();                                                                                         \
        __shared__ ColumnSums sums;                                                                                       \
        if (rows_are_groups(columns) && is_aligned(z) && is_aligned(gamma) && is_aligned(dz) && is_aligned(dx))           \
            backward<true>(z, statistics, gamma, dz, dx, rows, columns, dropout, has_bias != 0, partials, sums);          \
        else                                                                                                              \
            backward<false>(z, statistics, gamma, dz, dx, rows, columns, dropout, has_bias != 0, partials, sums);         \
    }                                                                                                                     \
    EXPORT_KERNEL(layernorm_forward_##DTYPE)                                                                              \
    EXPORT_KERNEL(layernorm_backward_##DTYPE)

LAYERNORM(float, f32)
LAYERNORM(bf16, bf16)

// layernorm_finish: adds the blocks' partial sums to the gradients; DTYPE is theirs. Without a bias d_bias is null.
//   Grid: columns / 32 blocks of 32 x 8.
#define LAYERNORM_FINISH(G, DTYPE)                                                                      \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS) layernorm_finish_##DTYPE( \
        const float* partials, int parts, int columns, G* d_gamma, G* d_beta, G* d_bias) {              \
        follow_earlier_kernels();                                                                       \
        const int stride = (d_bias != nullptr ? 3 : 2) * columns;                                       \
        add_parts(partials, parts, stride, columns, d_gamma);                                           \
        __syncthreads();                                                                                \
        add_parts(partials + columns, parts, stride, columns, d_beta);                                  \
        __syncthreads();                                                                                \
        if (d_bias != nullptr) add_parts(partials + 2 * columns, parts, stride, columns, d_bias);       \
    }                                                                                                   \
    EXPORT_KERNEL(layernorm_finish_##DTYPE)

LAYERNORM_FINISH(float, f32)
LAYERNORM_FINISH(bf16, bf16)
