// Matrix products of a linear layer: C = alpha op(A) op(B) + bias + beta C.
//
//   gemm_nt   y  = x W^T + bias     A [m, k]  B [n, k]     forward
//   gemm_nn   dx = dy W             A [m, k]  B [k, n]     gradient of the input
//   gemm_tn   dW += dy^T x          A [k, m]  B [k, n]     gradient of the weight (k is the number of tokens)
//
// and two with GELU (exact error function, see bias_gelu.cu) behind the sum, so that [m, n] is not read and written once
// more for it:
//
//   gemm_nt_gelu             x = A B^T, kept for the way back;  C = gelu(x + bias), of x as it is kept
//   gemm_nn_gelu_gradient    C = (A B) gelu'(x + bias);  column_sums[tile] = sums of C over the rows of each tile
//
// and the same with GELU by tanh, gemm_nt_gelu_tanh and gemm_nn_gelu_tanh_gradient (common/activation.cuh).
//
// All matrices are row-major, with lda, ldb, ldc elements from row to row; C is [m, n], bias [n] or null. Any m, n, k
// >= 1 and any leading dimension at least as long as a row. With beta = 0 the old C is not read, with beta = 1 the
// product is added to it. Of the two with GELU, x has the leading dimension of C, column_sums is [m / 128, n] f32 (the
// bias's gradient, once column_sums_finish has added its rows), there must be a bias, beta is 0 and k is not split. The kernels are named by operands and output: _bf16 has bf16 for both, _bf16_f32 writes f32,
// _f32 is f32 throughout. bf16 products are exact in f32 and are summed in f32 by the tensor cores; f32 is fmaf in the
// order of k, no TF32. Everything after the sum is in f32 and rounded once, but for GELU, which is of x as it was rounded: so
// bias_gelu.cu, which gets x from memory, computes the same bits once more on the way back.
//
// A weight gradient has few tiles and a long k, so k may be cut: with gridDim.z = splits > 1 each block sums its part
// of k into partials [splits, m, n] (f32, alpha, bias and beta left out), and gemm_finish adds the parts in order. The
// number of splits is a function of the shape alone (src/device/gemm_plan.rs), so the order of the additions depends
// neither on timing nor on the chip.
//
// Grid: x = tiles of C, the tiles of a row of tiles first: they share a panel of A, which is then read from memory
// once, while a layer's weight (at most 4.7 MB) stays in the L2 cache; z = splits. Block: 256 threads. The bf16 kernels
// take 64 KB of dynamic shared memory.
//
// Floor, y = x W^T with 65,536 x 768 x 3072 in bf16: 309 GFLOP, 0.313 ms at 989 TFLOP/s; 508 MB, 0.169 ms at 3.0 TB/s.
// So arithmetic decides, and on Hopper mma.sync cannot issue at that rate: wgmma can (a file of its own, for sm_90a).
//
// Versions. No figure from a GPU has been seen yet.
//   1. A block computes 128 x 128 of C from a ring of tiles in shared memory that cp.async fills ahead; bf16 by ldmatrix
//      and mma.sync from swizzled tiles, f32 by register tiles of 8 x 8. bf16 sums pass through shared memory once more on
//      their way out, so that a warp writes whole rows of 16-byte pieces instead of the fragments' 4-byte pairs.
//   2. GELU and its gradient while the sums are in registers. On 65,536 x 3072 in bf16 that saves the forward pass one
//      read of 403 MB, the backward pass one read and one write: 0.13 and 0.27 ms a layer at 3.0 TB/s.
//   3. GELU of x as it is kept: the same bits when it is computed again.
//   4. GELU by tanh in the same place.

#include "common/gemm.cuh"

namespace {

// ---- bf16 ----

// Copies ROWS x COLUMNS elements, from row first_row and column first_column of a matrix of rows x columns, into a
// swizzled tile; what lies outside of the matrix becomes zero. VECTOR: rows are aligned, and the copy is asynchronous.
template <bool VECTOR, int ROWS, int COLUMNS>
__device__ __forceinline__ void copy_tile(bf16* tile, const bf16* matrix, int64_t stride, int first_row, int rows,
                                          int first_column, int columns) {
    constexpr int ROW_CHUNKS = COLUMNS / GROUP;
#pragma unroll
    for (int i = 0; i < ROWS * ROW_CHUNKS / THREADS; ++i) {
        const int chunk = i * THREADS + static_cast<int>(threadIdx.x);
        const int row = chunk / ROW_CHUNKS;
        const int column = chunk % ROW_CHUNKS * GROUP;
        const int rest = first_row + row < rows ? columns - first_column - column : 0;
        const int valid = rest < 0 ? 0 : rest < GROUP ? rest : GROUP;
        // Where nothing is read the address must still be one of the matrix.
        const bf16* from = valid > 0 ? matrix + (first_row + row) * stride + first_column + column : matrix;
        bf16* to = tile + swizzled<COLUMNS>(row, column);
        if (VECTOR)
            cp_async<16>(to, from, valid * static_cast<int>(sizeof(bf16)));
        else
            store_pack<true>(to, load_pack<false>(from, valid), GROUP);
    }
}

template <Layout LAYOUT, bool VECTOR>
__device__ __forceinline__ void copy_stage(const Gemm& gemm, const Part& part, const bf16* a, const bf16* b, int k,
                                           bf16* stage) {
    bf16* tile_b = stage + TILE_M * TILE_K;
    if (a_along_k(LAYOUT))
        copy_tile<VECTOR, TILE_M, TILE_K>(stage, a, gemm.lda, part.first_m, gemm.m, k, gemm.k);
    else
        copy_tile<VECTOR, TILE_K, TILE_M>(stage, a, gemm.lda, k, gemm.k, part.first_m, gemm.m);
    if (b_along_k(LAYOUT))
        copy_tile<VECTOR, TILE_N, TILE_K>(tile_b, b, gemm.ldb, part.first_n, gemm.n, k, gemm.k);
    else
        copy_tile<VECTOR, TILE_K, TILE_N>(tile_b, b, gemm.ldb, k, gemm.k, part.first_n, gemm.n);
}

// The 16 x 16 of A at (m, k): matrices in the order of a[0]..a[3], rows + 8 first and columns + 8 second.
template <Layout LAYOUT>
__device__ __forceinline__ void load_a(const bf16* tile, int m, int k, int lane, unsigned (&a)[4]) {
    const int matrix = lane / 8, row = lane % 8;
    m += matrix % 2 * 8;
    k += matrix / 2 * 8;
    if (a_along_k(LAYOUT))
        ldmatrix_x4(a, tile + swizzled<TILE_K>(m + row, k));
    else
        ldmatrix_x4_trans(a, tile + swizzled<TILE_M>(k + row, m));
}

// The 16 x 16 of B at (k, n): b[0], b[1] of the columns n..n + 8, then those of n + 8..n + 16.
template <Layout LAYOUT>
__device__ __forceinline__ void load_b(const bf16* tile, int k, int n, int lane, unsigned (&b)[4]) {
    const int matrix = lane / 8, row = lane % 8;
    k += matrix % 2 * 8;
    n += matrix / 2 * 8;
    if (b_along_k(LAYOUT))
        ldmatrix_x4(b, tile + swizzled<TILE_K>(n + row, k));
    else
        ldmatrix_x4_trans(b, tile + swizzled<TILE_N>(k + row, n));
}

constexpr int WARP_TILES_M = WARP_M / MMA_M;
constexpr int WARP_TILES_N = WARP_N / MMA_N;
constexpr int WARPS_N = TILE_N / WARP_N;
static_assert(TILE_M / WARP_M * WARPS_N * WARP == THREADS, "the warps cover the tile");

using Sums = float[WARP_TILES_M][WARP_TILES_N][4];

__device__ __forceinline__ int warp_m() { return static_cast<int>(threadIdx.x) / WARP / WARPS_N * WARP_M; }
__device__ __forceinline__ int warp_n() { return static_cast<int>(threadIdx.x) / WARP % WARPS_N * WARP_N; }

template <Layout LAYOUT>
__device__ __forceinline__ void multiply_stage(const bf16* stage, Sums& sums) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const bf16* tile_b = stage + TILE_M * TILE_K;
#pragma unroll
    for (int k = 0; k < TILE_K; k += MMA_K) {
        unsigned a[WARP_TILES_M][4];
#pragma unroll
        for (int i = 0; i < WARP_TILES_M; ++i) load_a<LAYOUT>(stage, warp_m() + i * MMA_M, k, lane, a[i]);
#pragma unroll
        for (int j = 0; j < WARP_TILES_N; j += 2) {
            unsigned b[4];
            load_b<LAYOUT>(tile_b, k, warp_n() + j * MMA_N, lane, b);
            const unsigned left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
            for (int i = 0; i < WARP_TILES_M; ++i) {
                mma_m16n8k16(sums[i][j], a[i], left);
                mma_m16n8k16(sums[i][j + 1], a[i], right);
            }
        }
    }
}

template <Layout LAYOUT, bool VECTOR>
__device__ __forceinline__ void multiply(const Gemm& gemm, const Part& part, const bf16* a, const bf16* b, bf16* ring,
                                         Sums& sums) {
    const int steps = divide_up(part.end_k - part.first_k, TILE_K);
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps)
            copy_stage<LAYOUT, VECTOR>(gemm, part, a, b, part.first_k + step * TILE_K, ring + step * STAGE_ELEMENTS);
        cp_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        // After this barrier the stage of this step is complete, and everyone is through with that of the step before,
        // which is the one that the next copy overwrites.
        __syncthreads();
        const int next = step + STAGES - 1;
        if (next < steps)
            copy_stage<LAYOUT, VECTOR>(gemm, part, a, b, part.first_k + next * TILE_K, ring + next % STAGES * STAGE_ELEMENTS);
        cp_async_commit();
        multiply_stage<LAYOUT>(ring + step % STAGES * STAGE_ELEMENTS, sums);
    }
}

// Where the sum of (row, column) waits, in floats. The eight rows of a fragment would share their banks; the xor gives
// each its own eight floats of the row. In every second 32 columns the halves of eight neighbours change places: eight lanes that read
// such halves, 16 bytes each, meet all banks once.
__device__ __forceinline__ int waiting(int row, int column) {
    return row * TILE_N + (column ^ row % 8 * GROUP ^ column / 32 % 2 * 4);
}

template <typename OUTPUT>
__device__ __forceinline__ void write_sums(const Part& part, const OUTPUT& output, const Sums& sums, float* tile) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    __syncthreads();  // the last stage has been read
#pragma unroll
    for (int i = 0; i < WARP_TILES_M; ++i)
#pragma unroll
        for (int j = 0; j < WARP_TILES_N; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = warp_m() + i * MMA_M + half * 8 + lane / 4;
                const int column = warp_n() + j * MMA_N + lane % 4 * 2;
                *reinterpret_cast<float2*>(tile + waiting(row, column)) =
                    make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
            }
    __syncthreads();
    constexpr int ROW_GROUPS = TILE_N / GROUP;
    const int column = static_cast<int>(threadIdx.x) % ROW_GROUPS * GROUP;
    float column_sums[GROUP] = {};
#pragma unroll 2
    for (int row = static_cast<int>(threadIdx.x) / ROW_GROUPS; row < TILE_M; row += THREADS / ROW_GROUPS) {
        float values[GROUP];
#pragma unroll
        for (int half = 0; half < GROUP; half += 4) {
            const float4 four = *reinterpret_cast<const float4*>(tile + waiting(row, column + half));
            values[half] = four.x;
            values[half + 1] = four.y;
            values[half + 2] = four.z;
            values[half + 3] = four.w;
        }
        output.write(part.first_m + row, part.first_n + column, values);
        if constexpr (OUTPUT::SUMS_COLUMNS)
#pragma unroll
            for (int i = 0; i < GROUP; ++i) column_sums[i] += values[i];
    }
    if constexpr (OUTPUT::SUMS_COLUMNS)
        write_column_sums(output, part, column_sums, [&](int i) { return column + i; }, tile);
}

// `output` makes the output, after the products: what it keeps would cost them registers.
template <Layout LAYOUT, typename MakeOutput>
__device__ __forceinline__ void gemm_bf16(const Gemm& gemm, const bf16* a, const bf16* b, MakeOutput output,
                                          float* shared) {
    const Part part = part_of_block<TILE_K>(gemm);
    bf16* ring = reinterpret_cast<bf16*>(shared);
    Sums sums = {};
    if (rows_are_aligned(a, gemm.lda) && rows_are_aligned(b, gemm.ldb))
        multiply<LAYOUT, true>(gemm, part, a, b, ring, sums);
    else
        multiply<LAYOUT, false>(gemm, part, a, b, ring, sums);
    write_sums(part, output(), sums, shared);
}

// ---- f32 ----

// A stage holds both operands with k as the row, whatever their layout: copies of four bytes need no alignment and can
// transpose. They are one in 64 of the kernel's multiply-adds.
using StageF32 = float[2][F32_TILE_K][F32_ROW];

template <bool ALONG_K>
__device__ __forceinline__ void copy_tile_f32(float (&tile)[F32_TILE_K][F32_ROW], const float* matrix, int64_t stride,
                                              int first_k, int end_k, int first, int end) {
    // Two at a time: unrolled, the addresses of eight copies spill.
#pragma unroll 2
    for (int i = 0; i < TILE_M * F32_TILE_K / THREADS; ++i) {
        const int element = i * THREADS + static_cast<int>(threadIdx.x);
        // Along k a warp takes eight neighbours (a 32-byte sector) of four rows: 32 banks in rows of F32_ROW.
        const int k = ALONG_K ? element % 8 + element / (8 * TILE_M) * 8 : element / TILE_M;
        const int other = ALONG_K ? element / 8 % TILE_M : element % TILE_M;
        const bool inside = first_k + k < end_k && first + other < end;
        const int64_t row = ALONG_K ? first + other : first_k + k;
        const int column = ALONG_K ? first_k + k : first + other;
        cp_async<4>(&tile[k][other], inside ? matrix + row * stride + column : matrix, inside ? 4 : 0);
    }
}

template <Layout LAYOUT>
__device__ __forceinline__ void copy_stage_f32(const Gemm& gemm, const Part& part, const float* a, const float* b, int k,
                                               StageF32& stage) {
    copy_tile_f32<a_along_k(LAYOUT)>(stage[0], a, gemm.lda, k, gemm.k, part.first_m, gemm.m);
    copy_tile_f32<b_along_k(LAYOUT)>(stage[1], b, gemm.ldb, k, gemm.k, part.first_n, gemm.n);
}

// A thread owns the rows (and columns) 4 t..4 t + 4 and those 64 further: so a warp's loads from shared memory are
// neighbours.
__device__ __forceinline__ int owned(int thread, int i) { return i / 4 * (TILE_M / 2) + thread * 4 + i % 4; }

__device__ __forceinline__ void load_owned(const float (&row)[F32_ROW], int thread, float (&values)[8]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float4 four = *reinterpret_cast<const float4*>(&row[owned(thread, half * 4)]);
        values[half * 4] = four.x;
        values[half * 4 + 1] = four.y;
        values[half * 4 + 2] = four.z;
        values[half * 4 + 3] = four.w;
    }
}

template <Layout LAYOUT, typename MakeOutput>
__device__ __forceinline__ void gemm_f32(const Gemm& gemm, const float* a, const float* b, MakeOutput make_output,
                                         StageF32 (&ring)[F32_STAGES]) {
    const Part part = part_of_block<F32_TILE_K>(gemm);
    const int steps = divide_up(part.end_k - part.first_k, F32_TILE_K);
    const int thread_m = static_cast<int>(threadIdx.x) / 16, thread_n = static_cast<int>(threadIdx.x) % 16;
    float sums[8][8] = {};
    if (steps > 0) copy_stage_f32<LAYOUT>(gemm, part, a, b, part.first_k, ring[0]);
    cp_async_commit();
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<0>();
        __syncthreads();  // as in multiply()
        if (step + 1 < steps)
            copy_stage_f32<LAYOUT>(gemm, part, a, b, part.first_k + (step + 1) * F32_TILE_K, ring[(step + 1) % F32_STAGES]);
        cp_async_commit();
        const StageF32& stage = ring[step % F32_STAGES];
#pragma unroll 8
        for (int k = 0; k < F32_TILE_K; ++k) {
            float left[8], right[8];
            load_owned(stage[0][k], thread_m, left);
            load_owned(stage[1][k], thread_n, right);
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
        }
    }
    const auto output = make_output();
    float column_sums[GROUP] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
            float values[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
            output.write(part.first_m + owned(thread_m, i), part.first_n + owned(thread_n, j), values);
            if constexpr (decltype(output)::SUMS_COLUMNS)
#pragma unroll
                for (int column = 0; column < 4; ++column) column_sums[j + column] += values[column];
        }
    if constexpr (decltype(output)::SUMS_COLUMNS)
        write_column_sums(output, part, column_sums, [&](int j) { return owned(thread_n, j); }, &ring[0][0][0][0]);
}

// ---- the parts of a split k ----

template <typename T, typename OUT>
__device__ __forceinline__ void finish(const Gemm& gemm, const float* partials, const T* bias, OUT* c) {
    const int row_groups = divide_up(gemm.n, GROUP);
    const int64_t group = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int row = static_cast<int>(group / row_groups);
    const int column = static_cast<int>(group % row_groups) * GROUP;
    if (row >= gemm.m) return;
    const int valid = gemm.n - column;
    const bool vector = rows_are_aligned(partials, gemm.n);
    const int64_t stride = static_cast<int64_t>(gemm.m) * gemm.n;
    const float* from = partials + static_cast<int64_t>(row) * gemm.n + column;
    float sums[GROUP] = {};
    for (int split = 0; split < gemm.splits; ++split) {
        float values[GROUP];
        load_row(from + split * stride, vector, valid, values);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) sums[i] += values[i];
    }
    Gemm whole = gemm;
    whole.splits = 1;
    Output<T, OUT>(whole, bias, c, nullptr).write(row, column, sums);
}

}  // namespace

// Two blocks a multiprocessor: see the table. OUTPUT is made of the parameters that follow it.
#define GEMM_BF16(NAME, LAYOUT, OUTPUT, ...)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                     \
        NAME(Gemm gemm, const bf16* a, const bf16* b, const bf16* bias, __VA_ARGS__) {                           \
        follow_earlier_kernels();                                                                                \
        DYNAMIC_SHARED(float, shared);                                                                           \
        gemm_bf16<Layout::LAYOUT>(gemm, a, b, [&] { return OUTPUT; }, shared);                                                 \
    }                                                                                                            \
    EXPORT_KERNEL(NAME)

#define PLAIN(T, OUT) (Output<T, OUT>(gemm, bias, c, partials))
#define GELU(T, FORM) (GeluOutput<T, FORM>(gemm, bias, c, x))
#define GELU_GRADIENT(T, FORM) (GeluGradientOutput<T, FORM>(gemm, bias, c, x, column_sums))

GEMM_BF16(gemm_nt_bf16, NT, PLAIN(bf16, bf16), bf16* c, float* partials)
GEMM_BF16(gemm_nn_bf16, NN, PLAIN(bf16, bf16), bf16* c, float* partials)
GEMM_BF16(gemm_tn_bf16, TN, PLAIN(bf16, bf16), bf16* c, float* partials)
GEMM_BF16(gemm_nt_bf16_f32, NT, PLAIN(bf16, float), float* c, float* partials)
GEMM_BF16(gemm_nn_bf16_f32, NN, PLAIN(bf16, float), float* c, float* partials)
GEMM_BF16(gemm_tn_bf16_f32, TN, PLAIN(bf16, float), float* c, float* partials)
GEMM_BF16(gemm_nt_gelu_bf16, NT, GELU(bf16, GeluExact), bf16* c, bf16* x)
GEMM_BF16(gemm_nn_gelu_gradient_bf16, NN, GELU_GRADIENT(bf16, GeluExact), bf16* c, const bf16* x, float* column_sums)
GEMM_BF16(gemm_nt_gelu_tanh_bf16, NT, GELU(bf16, GeluTanh), bf16* c, bf16* x)
GEMM_BF16(gemm_nn_gelu_tanh_gradient_bf16, NN, GELU_GRADIENT(bf16, GeluTanh), bf16* c, const bf16* x, float* column_sums)

#define GEMM_F32(NAME, LAYOUT, OUTPUT, ...)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                     \
        NAME(Gemm gemm, const float* a, const float* b, const float* bias, __VA_ARGS__) {                        \
        follow_earlier_kernels();                                                                                \
        __shared__ StageF32 ring[F32_STAGES];                                                                    \
        gemm_f32<Layout::LAYOUT>(gemm, a, b, [&] { return OUTPUT; }, ring);                                                    \
    }                                                                                                            \
    EXPORT_KERNEL(NAME)

GEMM_F32(gemm_nt_f32, NT, PLAIN(float, float), float* c, float* partials)
GEMM_F32(gemm_nn_f32, NN, PLAIN(float, float), float* c, float* partials)
GEMM_F32(gemm_tn_f32, TN, PLAIN(float, float), float* c, float* partials)
GEMM_F32(gemm_nt_gelu_f32, NT, GELU(float, GeluExact), float* c, float* x)
GEMM_F32(gemm_nn_gelu_gradient_f32, NN, GELU_GRADIENT(float, GeluExact), float* c, const float* x, float* column_sums)
GEMM_F32(gemm_nt_gelu_tanh_f32, NT, GELU(float, GeluTanh), float* c, float* x)
GEMM_F32(gemm_nn_gelu_tanh_gradient_f32, NN, GELU_GRADIENT(float, GeluTanh), float* c, const float* x, float* column_sums)

// gemm_finish: adds the parts of a split k and does what the product left out. One thread for eight columns of a row.
#define GEMM_FINISH(NAME, T, OUT)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                       \
        NAME(Gemm gemm, const float* partials, const T* bias, OUT* c) {                                         \
        follow_earlier_kernels();                                                                               \
        finish(gemm, partials, bias, c);                                                                        \
    }                                                                                                           \
    EXPORT_KERNEL(NAME)

GEMM_FINISH(gemm_finish_bf16, bf16, bf16)
GEMM_FINISH(gemm_finish_bf16_f32, bf16, float)
GEMM_FINISH(gemm_finish_f32, float, float)
