// LayerNorm of a residual sum, forward and backward.
//
//   forward    z = residual + dropout(x + bias)   written over x; bias, dropout and residual may be missing
//              y = gamma (z - mean) rstd + beta   mean and variance over a row, rstd = 1 / sqrt(variance + eps)
//   backward   with h = (z - mean) rstd and g = dy gamma:
//              dz = rstd (g - mean(g) - h mean(g h)) + others     written over dy; others, the gradient of z by its other users, may be missing
//              dx = dropout(dz)                          the same mask as forward; only where there was a dropout
//              d_gamma += sum over rows of dy h,   d_beta += sum over rows of dy,   d_bias += sum over rows of dx
//
// A LayerNorm without a shift reads zeros for one, which cost nothing beside a row, where looking whether there is one costs 9 % of forward's instructions in bf16.
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
//   4. Forward asks for all of a row before it uses any of it. Backward takes two rows of bf16 and adds both before it touches the shares, 16 bytes
//      a lane. What was predicted of both, and what the listing says, is in notes/layernorm.md.

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
// Rows that a warp has in registers at once.
template <typename T>
constexpr int BACKWARD_ROWS = sizeof(T) == 2 ? 2 : 1;
// 32 lanes x 4 groups x 8 elements: a row of 1024 columns is 32 values a lane.
constexpr int MAX_GROUPS = 4;
constexpr int WARP_COLUMNS = MAX_GROUPS * WARP * GROUP;

// z of one group from x, as it will be read back: rounded to T. Bias and residual may be null; `added()` is the residual's group.
template <bool VECTOR, typename T, typename Added>
__device__ __forceinline__ Pack<T, GROUP> sum_group(const Pack<T, GROUP>& x, const T* bias, const T* residual, const Added& added,
                                                    const Dropout& dropout, int64_t first, int column, int valid) {
    float values[GROUP], terms[GROUP];
    unpack(x, values);
    if (bias != nullptr) {
        load_group<VECTOR>(bias + column, valid, terms);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) values[i] += terms[i];
    }
    dropout_apply<VECTOR>(dropout, first, values);
    if (residual != nullptr) {
        unpack(added(), terms);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) values[i] += terms[i];
    }
    return pack_from<T>(values);
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
    float values[GROUP], sum = 0.0f;
    unpack(z, values);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) sum += i < valid ? values[i] : 0.0f;
    return sum;
}

template <typename T>
__device__ __forceinline__ float sum_of_squares(const Pack<T, GROUP>& z, float mean, int valid) {
    float values[GROUP], sum = 0.0f;
    unpack(z, values);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        const float distance = i < valid ? values[i] - mean : 0.0f;
        sum = fmaf(distance, distance, sum);
    }
    return sum;
}

__device__ __forceinline__ void write_statistics(float* statistics, int row, float mean, float rstd) {
    statistics[2 * static_cast<int64_t>(row)] = mean;
    statistics[2 * static_cast<int64_t>(row) + 1] = rstd;
}

template <typename T>
__device__ __forceinline__ void forward_warp_row(T* x, const T* bias, const T* residual, const T* gamma, const T* beta, T* y, float* statistics, int row,
                                 int columns, float eps, const Dropout& dropout) {
    const int lane = threadIdx.x % WARP;
    const int64_t start = static_cast<int64_t>(row) * columns;
    // All loads first, so that a warp has a whole row in flight: no load passes a store, as both could mean the same memory. Two rows of f32 are
    // more than the registers hold.
    constexpr bool AHEAD = sizeof(T) == 2;
    Pack<T, GROUP> z[MAX_GROUPS], ahead[MAX_GROUPS];
#pragma unroll
    for (int group = 0; group < MAX_GROUPS; ++group) {
        const int column = (group * WARP + lane) * GROUP;
        if (column < columns) {
            z[group] = load_pack<true>(x + start + column, GROUP);
            if (AHEAD && residual != nullptr) ahead[group] = load_pack<true>(residual + start + column, GROUP);
        }
    }
    float sum = 0.0f;
#pragma unroll
    for (int group = 0; group < MAX_GROUPS; ++group) {
        const int column = (group * WARP + lane) * GROUP;
        if (column < columns) {
            const auto added = [&] { return AHEAD ? ahead[group] : load_pack<true>(residual + start + column, GROUP); };
            z[group] = sum_group<true>(z[group], bias, residual, added, dropout, start + column, column, GROUP);
            store_pack<true>(x + start + column, z[group], GROUP);
            sum += sum_of(z[group], GROUP);
        }
    }
    const float mean = warp_sum(sum) / columns;
    float squares = 0.0f;
#pragma unroll
    for (int group = 0; group < MAX_GROUPS; ++group) {
        const int column = (group * WARP + lane) * GROUP;
        if (column < columns) squares += sum_of_squares(z[group], mean, GROUP);
    }
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / columns + eps);
#pragma unroll
    for (int group = 0; group < MAX_GROUPS; ++group) {
        const int column = (group * WARP + lane) * GROUP;
        if (column < columns)
            normalise_group<true>(z[group], mean, rstd, gamma, beta, y, start + column, column, GROUP);
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
    for (int column = first; column < columns; column += STEP) {
        const int valid = columns - column;
        const auto added = [&] { return load_pack<VECTOR>(residual + start + column, valid); };
        const Pack<T, GROUP> z = sum_group<VECTOR>(load_pack<VECTOR>(x + start + column, valid), bias, residual, added, dropout,
                                                   start + column, column, valid);
        store_pack<VECTOR>(x + start + column, z, valid);
        sum += sum_of(z, valid);
    }
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

// Grid: at most `rows` blocks of 256 threads, whatever their number; a block takes eight rows at a time, or one where a row is too long for a warp or
// its groups are not whole and aligned.
template <bool VECTOR, typename T>
__device__ __forceinline__ void forward(T* x, const T* bias, const T* residual, const T* gamma, const T* beta, T* y, float* statistics, int rows,
                        int columns, float eps, const Dropout& dropout) {
    __shared__ float scratch[THREADS / WARP];
    if (VECTOR && columns <= WARP_COLUMNS) {
        constexpr int WARPS = THREADS / WARP;
        for (int row = blockIdx.x * WARPS + threadIdx.x / WARP; row < rows; row += gridDim.x * WARPS)
            forward_warp_row(x, bias, residual, gamma, beta, y, statistics, row, columns, eps, dropout);
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

// The sums of nothing. -0 and not 0, because adding to it changes no number, so that the compiler leaves the first addition out.
__device__ __forceinline__ void begin_sums(float (&sums)[GROUP]) {
#pragma unroll
    for (int i = 0; i < GROUP; ++i) sums[i] = -0.0f;
}

// What a row's group adds to the row's sums and to those of its columns; `scale` is gamma.
template <bool VECTOR, typename T>
__device__ __forceinline__ void add_row(const Pack<T, GROUP>& z, const Pack<T, GROUP>& dy, const float (&scale)[GROUP], int valid, float mean,
                                        float rstd, RowSums& sums, float (&d_gamma)[GROUP], float (&d_beta)[GROUP]) {
    float values[GROUP], gradients[GROUP];
    unpack(z, values);
    unpack(dy, gradients);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        if (!VECTOR && i >= valid) continue;
        const float h = (values[i] - mean) * rstd, g = gradients[i] * scale[i];
        sums.g += g;
        sums.gh = fmaf(g, h, sums.gh);
        d_gamma[i] = fmaf(h, gradients[i], d_gamma[i]);
        d_beta[i] += gradients[i];
    }
}

// `values` is gamma, and becomes what was written to dx, or to dz where that is the same.
template <bool VECTOR, typename T>
__device__ __forceinline__ void write_dz(const Pack<T, GROUP>& z, const Pack<T, GROUP>& dy, const T* others, T* dz, T* dx, const Dropout& dropout,
                                         int64_t first, int valid, float mean, float rstd, const RowSums& means,
                                         float (&values)[GROUP]) {
    float normalised[GROUP], gradients[GROUP];
    unpack(z, normalised);
    unpack(dy, gradients);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        const float h = (normalised[i] - mean) * rstd;
        values[i] = (gradients[i] * values[i] - means.g - h * means.gh) * rstd;
    }
    if (others != nullptr) {
        load_group<VECTOR>(others + first, valid, gradients);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) values[i] += gradients[i];
    }
    store_group<VECTOR>(dz + first, values, valid);
    if (dx != nullptr) {
        dropout_apply<VECTOR>(dropout, first, values);
        store_group<VECTOR>(dx + first, values, valid);
    }
}

// What a warp has summed of each column. A lane's halves of its groups of eight lie beside those of its neighbours, so that it reads and writes
// 16 bytes at once and meets no other in a bank; the second halves are turned by four lanes, so that 32 neighbouring columns meet none either.
struct Share {
    float4 halves[MAX_GROUPS][2][WARP];

    __device__ __forceinline__ static int place(int half, int lane) { return lane ^ half * 4; }

    __device__ __forceinline__ void add(int group, const float (&values)[GROUP]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float4& sum = halves[group][half][place(half, threadIdx.x % WARP)];
            const float4 before = sum;
            sum = make_float4(before.x + values[4 * half], before.y + values[4 * half + 1], before.z + values[4 * half + 2],
                              before.w + values[4 * half + 3]);
        }
    }
    __device__ __forceinline__ float of(int column) const {
        const int group = column / (WARP * GROUP), lane = column / GROUP % WARP, half = column / 4 % 2;
        return reinterpret_cast<const float*>(&halves[group][half][place(half, lane)])[column % 4];
    }
};

// The shares of a block's warps in d_gamma, d_beta and d_bias.
struct ColumnSums {
    Share gamma[BACKWARD_WARPS];
    Share beta[BACKWARD_WARPS];
    Share bias[BACKWARD_WARPS];
};
static_assert(sizeof(ColumnSums) <= 48 * 1024, "static shared memory");

// A warp's rows, ROWS at a time: what they add to a column is summed before it goes to the shares.
template <int ROWS, typename T>
__device__ __forceinline__ void backward_warp_rows(const T* z_rows, const float* statistics, const T* gamma, const T* others, T* dz, T* dx,
                                                   int rows, int columns, const Dropout& dropout, bool has_bias,
                                                   float* partials, ColumnSums& sums) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int group = 0; group < MAX_GROUPS; ++group)
        for (int half = 0; half < 2; ++half) {
            const int place = Share::place(half, lane);
            sums.gamma[warp].halves[group][half][place] = sums.beta[warp].halves[group][half][place] =
                sums.bias[warp].halves[group][half][place] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    for (int first = (blockIdx.x * BACKWARD_WARPS + warp) * ROWS; first < rows; first += gridDim.x * BACKWARD_WARPS * ROWS) {
        const int64_t start = static_cast<int64_t>(first) * columns;
        float mean[ROWS], rstd[ROWS];
        RowSums means[ROWS];
        Pack<T, GROUP> z[ROWS][MAX_GROUPS], dy[ROWS][MAX_GROUPS];
        // All loads first: a warp has whole rows in flight. A row behind the last is one of zeros, which adds nothing.
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const bool is_there = row == 0 || first + row < rows;
            mean[row] = is_there ? statistics[2 * static_cast<int64_t>(first + row)] : 0.0f;
            rstd[row] = is_there ? statistics[2 * static_cast<int64_t>(first + row) + 1] : 0.0f;
            means[row] = {0.0f, 0.0f};
#pragma unroll
            for (int group = 0; group < MAX_GROUPS; ++group) {
                const int column = (group * WARP + lane) * GROUP;
                z[row][group] = dy[row][group] = {};
                if (column < columns && is_there) {
                    z[row][group] = load_pack<true>(z_rows + start + row * columns + column, GROUP);
                    dy[row][group] = load_pack<true>(dz + start + row * columns + column, GROUP);
                }
            }
        }
#pragma unroll
        for (int group = 0; group < MAX_GROUPS; ++group) {
            const int column = (group * WARP + lane) * GROUP;
            if (column < columns) {
                float scale[GROUP], d_gamma[GROUP], d_beta[GROUP];
                load_group<true>(gamma + column, GROUP, scale);
                begin_sums(d_gamma);
                begin_sums(d_beta);
#pragma unroll
                for (int row = 0; row < ROWS; ++row)
                    add_row<true>(z[row][group], dy[row][group], scale, GROUP, mean[row], rstd[row], means[row], d_gamma, d_beta);
                sums.gamma[warp].add(group, d_gamma);
                sums.beta[warp].add(group, d_beta);
            }
        }
#pragma unroll
        for (int row = 0; row < ROWS; ++row) means[row] = {warp_sum(means[row].g) / columns, warp_sum(means[row].gh) / columns};
#pragma unroll
        for (int group = 0; group < MAX_GROUPS; ++group) {
            const int column = (group * WARP + lane) * GROUP;
            if (column < columns) {
                const Pack<T, GROUP> scale = load_pack<true>(gamma + column, GROUP);
                float d_bias[GROUP];
                begin_sums(d_bias);
#pragma unroll
                for (int row = 0; row < ROWS; ++row) {
                    if (row > 0 && first + row >= rows) continue;
                    float values[GROUP];
                    unpack(scale, values);
                    write_dz<true>(z[row][group], dy[row][group], others, dz, dx, dropout, start + row * columns + column, GROUP,
                                   mean[row], rstd[row], means[row], values);
#pragma unroll
                    for (int i = 0; i < GROUP; ++i) d_bias[i] += values[i];
                }
                if (has_bias) sums.bias[warp].add(group, d_bias);
            }
        }
    }
    __syncthreads();
    float* part = partials + static_cast<int64_t>(blockIdx.x) * (has_bias ? 3 : 2) * columns;
    for (int column = threadIdx.x; column < columns; column += BACKWARD_THREADS) {
        float d_gamma = 0.0f, d_beta = 0.0f, d_bias = 0.0f;
        for (int other = 0; other < BACKWARD_WARPS; ++other) {
            d_gamma += sums.gamma[other].of(column);
            d_beta += sums.beta[other].of(column);
            d_bias += sums.bias[other].of(column);
        }
        part[column] = d_gamma;
        part[columns + column] = d_beta;
        if (has_bias) part[2 * columns + column] = d_bias;
    }
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void backward_block_rows(const T* z_rows, const float* statistics, const T* gamma, const T* others, T* dz, T* dx,
                                    int rows, int columns, const Dropout& dropout, bool has_bias, float* partials, float* scratch) {
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
            float scale[GROUP], d_gamma[GROUP], d_beta[GROUP];
            begin_sums(d_gamma);
            begin_sums(d_beta);
            load_group<VECTOR>(gamma + column, valid, scale);
            add_row<VECTOR>(z, dy, scale, valid, mean, rstd, means, d_gamma, d_beta);
            // A thread meets the same columns in every row, so it alone writes this part of the block's partial sums.
            for (int i = 0; i < GROUP && i < valid; ++i) {
                part[column + i] += d_gamma[i];
                part[columns + column + i] += d_beta[i];
            }
        }
        means.g = block_sum<BACKWARD_THREADS>(means.g, scratch) / columns;
        means.gh = block_sum<BACKWARD_THREADS>(means.gh, scratch) / columns;
        for (int column = first; column < columns; column += STEP) {
            const int valid = columns - column;
            float values[GROUP];
            load_group<VECTOR>(gamma + column, valid, values);
            write_dz<VECTOR>(load_pack<VECTOR>(z_rows + start + column, valid), load_pack<VECTOR>(dz + start + column, valid), others, dz,
                             dx, dropout, start + column, valid, mean, rstd, means, values);
            if (has_bias)
                for (int i = 0; i < GROUP && i < valid; ++i) part[2 * columns + column + i] += values[i];
        }
    }
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void backward(const T* z, const float* statistics, const T* gamma, const T* others, T* dz, T* dx, int rows, int columns,
                         const Dropout& dropout, bool has_bias, float* partials, ColumnSums& sums) {
    if constexpr (VECTOR)
        if (columns <= WARP_COLUMNS) {
            backward_warp_rows<BACKWARD_ROWS<T>>(z, statistics, gamma, others, dz, dx, rows, columns, dropout, has_bias, partials, sums);
            return;
        }
    // Column sums are in memory then, and this is room for the rows' own sums.
    backward_block_rows<VECTOR>(z, statistics, gamma, others, dz, dx, rows, columns, dropout, has_bias, partials, reinterpret_cast<float*>(&sums));
}

}  // namespace

// layernorm_forward: any number of blocks of 256 threads; rows / 8 of them (columns <= 1024) or rows make it one pass.
//   bias and residual may be null; dropout.threshold 0 is no dropout.
// layernorm_backward: a persistent grid of 128-thread blocks (four a multiprocessor); dz holds dy on entry; others and dx may be null;
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
        const T* z, const float* statistics, const T* gamma, const T* others, T* dz, T* dx, int rows, int columns,        \
        Dropout dropout, int has_bias, float* partials) {                                                                 \
        follow_earlier_kernels();                                                                                         \
        __shared__ ColumnSums sums;                                                                                       \
        if (rows_are_groups(columns) && is_aligned(z) && is_aligned(gamma) && is_aligned(others) && is_aligned(dz) &&     \
            is_aligned(dx))                                                                                               \
            backward<true>(z, statistics, gamma, others, dz, dx, rows, columns, dropout, has_bias != 0, partials, sums);  \
        else                                                                                                              \
            backward<false>(z, statistics, gamma, others, dz, dx, rows, columns, dropout, has_bias != 0, partials, sums); \
    }                                                                                                                     \
    EXPORT_KERNEL(layernorm_forward_##DTYPE)                                                                              \
    EXPORT_KERNEL(layernorm_backward_##DTYPE)

LAYERNORM(float, f32)
LAYERNORM(bf16, bf16)

// layernorm_finish: adds the blocks' partial sums to the gradients; DTYPE is theirs. Without a bias d_bias is null, without a shift d_beta.
//   Grid: columns / 32 blocks of 32 x 8.
#define LAYERNORM_FINISH(G, DTYPE)                                                                      \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS) layernorm_finish_##DTYPE( \
        const float* partials, int parts, int columns, G* d_gamma, G* d_beta, G* d_bias) {              \
        follow_earlier_kernels();                                                                       \
        const int stride = (d_bias != nullptr ? 3 : 2) * columns;                                       \
        add_parts(partials, parts, stride, columns, d_gamma);                                           \
        __syncthreads();                                                                                \
        if (d_beta != nullptr) add_parts(partials + columns, parts, stride, columns, d_beta);           \
        __syncthreads();                                                                                \
        if (d_bias != nullptr) add_parts(partials + 2 * columns, parts, stride, columns, d_bias);       \
    }                                                                                                   \
    EXPORT_KERNEL(layernorm_finish_##DTYPE)

LAYERNORM_FINISH(float, f32)
LAYERNORM_FINISH(bf16, bf16)
