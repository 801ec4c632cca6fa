// The products of gemm.cu: their tiles, and what happens to a block's sums.
#pragma once

#include "common/activation.cuh"
#include "common/mma.cuh"
#include "common/pack.cuh"

namespace {

// The tiles, one table for both kernels. Of C a block owns TILE_M x TILE_N:
//
//             tile of C   k a stage   stages   shared memory          a warp's part of C   sums a thread
//   bf16      128 x 128   32          4        4 x 16 KB = 64 KB      64 x 32              64
//   f32       128 x 128   16          2        2 x 16.5 KB = 33 KB    8 x 8 a thread       64
//
// 128 x 128: a stage's bytes are used 128 times each, and 65,536 tokens make 512 rows of tiles: 3,072 blocks at n =
// 768, 9,216 at 2304 and 12,288 at 3072, that is 11.6, 34.9 and 46.5 waves of 264 (132 multiprocessors x 2 blocks), so
// the last, partly filled wave costs about 3 % at most. 256 x 128 would copy a quarter less but takes 128 sums a
// thread and leaves a multiprocessor one block. Two blocks: 64 sums, 24 registers of fragments and the addresses fit
// the 128 registers that 2 x 256 threads leave each; 2 x 64 KB fit the 163 KB of sm_80 and the 227 KB of sm_90, and one
// block the 99 KB of sm_86 and sm_89. One block's barrier and epilogue are hidden behind the other's products. 64 x 32
// a warp: six ldmatrix.x4 feed 16 mma; 32 x 32 would need four for eight. 32 of k with four stages rather than 64 with
// two: the same memory holds three stages in flight instead of one.
constexpr int THREADS = 256;
constexpr int TILE_M = 128;
constexpr int TILE_N = 128;

constexpr int TILE_K = 32;
constexpr int STAGES = 4;
constexpr int WARP_M = 64;
constexpr int WARP_N = 32;
constexpr int MMA_M = 16;
constexpr int MMA_N = 8;
constexpr int MMA_K = 16;
constexpr int STAGE_ELEMENTS = (TILE_M + TILE_N) * TILE_K;
static_assert(STAGES * STAGE_ELEMENTS * sizeof(bf16) == TILE_M * TILE_N * sizeof(float), "the sums take the ring's place");

constexpr int F32_TILE_K = 16;
constexpr int F32_STAGES = 2;
// Rows of 132 floats: lanes along k then write to banks four apart, and rows stay aligned to 16 bytes.
constexpr int F32_ROW = TILE_M + 4;
static_assert(TILE_M == TILE_N, "both operands of the f32 kernel have the same rows");

enum class Layout { NT, NN, TN };

__host__ __device__ constexpr bool a_along_k(Layout layout) { return layout != Layout::TN; }
__host__ __device__ constexpr bool b_along_k(Layout layout) { return layout == Layout::NT; }

}  // namespace

// The arguments of a product, passed by value; in Rust a #[repr(C)] struct of the same fields.
struct Gemm {
    int m, n, k;
    int splits;  // gridDim.z
    int64_t lda, ldb, ldc;
    float alpha, beta;
};

namespace {

// The part of C and of k that a block works on.
struct Part {
    int first_m, first_n;
    int first_k, end_k;
};

template <int STEP_K>
__device__ __forceinline__ Part part_of_block(const Gemm& gemm) {
    const int tiles_n = divide_up(gemm.n, TILE_N);
    const int steps = divide_up(divide_up(gemm.k, STEP_K), gemm.splits);
    const int64_t first_k = static_cast<int64_t>(blockIdx.z) * steps * STEP_K;
    const int64_t end_k = first_k + static_cast<int64_t>(steps) * STEP_K;
    return {static_cast<int>(blockIdx.x) / tiles_n * TILE_M, static_cast<int>(blockIdx.x) % tiles_n * TILE_N,
            static_cast<int>(first_k < gemm.k ? first_k : gemm.k), static_cast<int>(end_k < gemm.k ? end_k : gemm.k)};
}

// N neighbours of a row; VECTOR access where `vector` says that all of them exist and are aligned, else the first
// `valid`.
template <int N, typename T>
__device__ __forceinline__ void load_row(const T* from, bool vector, int valid, float (&values)[N]) {
    if (vector) {
        load_group<true>(from, N, values);
    } else {
        load_group<false>(from, valid, values);
    }
}

template <int N, typename T>
__device__ __forceinline__ void store_row(T* to, bool vector, int valid, const float (&values)[N]) {
    if (vector) {
        store_group<true>(to, values, N);
    } else {
        store_group<false>(to, values, valid);
    }
}

template <typename T>
__device__ __forceinline__ bool rows_are_aligned(const T* matrix, int64_t stride) {
    return is_aligned(matrix) && stride % GROUP == 0;
}

// What happens to a block's sums. `write` takes those of N neighbouring columns, of which some or all may lie outside of
// C; `column` is a multiple of N.

// Into C, or where k is split into this split's part of `partials`.
template <typename T, typename OUT>
struct Output {
    static constexpr bool SUMS_COLUMNS = false;
    const Gemm& gemm;
    const T* bias;
    OUT* c;
    float* partials;
    bool aligned;

    __device__ __forceinline__ Output(const Gemm& gemm, const T* bias, OUT* c, float* partials)
        : gemm(gemm), bias(bias), c(c), partials(partials) {
        if (gemm.splits > 1) {
            this->partials += static_cast<int64_t>(blockIdx.z) * gemm.m * gemm.n;
            aligned = rows_are_aligned(this->partials, gemm.n);
        } else {
            aligned = rows_are_aligned(c, gemm.ldc) && is_aligned(bias);
        }
    }

    template <int N>
    __device__ __forceinline__ void write(int row, int column, float (&values)[N]) const {
        const int valid = gemm.n - column;
        if (row >= gemm.m || valid <= 0) return;
        const bool vector = aligned && valid >= N;
        if (gemm.splits > 1)
            store_row(partials + static_cast<int64_t>(row) * gemm.n + column, vector, valid, values);
        else
            write_final(row, column, vector, valid, values);
    }

    template <int N>
    __device__ __forceinline__ void write_final(int row, int column, bool vector, int valid, float (&values)[N]) const {
        OUT* to = c + row * gemm.ldc + column;
        float other[N];
#pragma unroll
        for (int i = 0; i < N; ++i) values[i] *= gemm.alpha;
        if (bias != nullptr) {
            load_row(bias + column, vector, valid, other);
#pragma unroll
            for (int i = 0; i < N; ++i) values[i] += other[i];
        }
        if (gemm.beta != 0.0f) {
            load_row(to, vector, valid, other);
#pragma unroll
            for (int i = 0; i < N; ++i) values[i] = fmaf(gemm.beta, other[i], values[i]);
        }
        store_row(to, vector, valid, values);
    }
};

// The sums into x, and GELU, in one of its FORMs, of what x then holds, with the bias, into C.
template <typename T, template <typename> class FORM>
struct GeluOutput {
    static constexpr bool SUMS_COLUMNS = false;
    const Gemm& gemm;
    const T* bias;
    T* c;
    T* x;
    bool aligned;

    __device__ __forceinline__ GeluOutput(const Gemm& gemm, const T* bias, T* c, T* x)
        : gemm(gemm), bias(bias), c(c), x(x),
          aligned(rows_are_aligned(c, gemm.ldc) && is_aligned(x) && is_aligned(bias)) {}

    template <int N>
    __device__ __forceinline__ void write(int row, int column, float (&values)[N]) const {
        const int valid = gemm.n - column;
        if (row >= gemm.m || valid <= 0) return;
        const bool vector = aligned && valid >= N;
        const int64_t at = row * gemm.ldc + column;
        float shift[N];
        load_row(bias + column, vector, valid, shift);
#pragma unroll
        for (int i = 0; i < N; ++i) values[i] = __fmul_rn(values[i], gemm.alpha);  // not one with the sum below
        store_row(x + at, vector, valid, values);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            values[i] = FORM<T>::value(to_float(from_float<T>(values[i])) + shift[i]);
        }
        store_row(c + at, vector, valid, values);
    }
};

// The sums times GELU's derivative into C. `values` then hold what was written, and zero where nothing was.
template <typename T, template <typename> class FORM>
struct GeluGradientOutput {
    static constexpr bool SUMS_COLUMNS = true;
    const Gemm& gemm;
    const T* bias;
    T* c;
    const T* x;
    float* column_sums;
    bool aligned;

    __device__ __forceinline__ GeluGradientOutput(const Gemm& gemm, const T* bias, T* c, const T* x, float* column_sums)
        : gemm(gemm), bias(bias), c(c), x(x), column_sums(column_sums),
          aligned(rows_are_aligned(c, gemm.ldc) && is_aligned(x) && is_aligned(bias)) {}

    template <int N>
    __device__ __forceinline__ void write(int row, int column, float (&values)[N]) const {
        const int valid = gemm.n - column;
        if (row >= gemm.m || valid <= 0) {
#pragma unroll
            for (int i = 0; i < N; ++i) values[i] = 0.0f;
            return;
        }
        const bool vector = aligned && valid >= N;
        const int64_t at = row * gemm.ldc + column;
        float kept[N], shift[N];
        load_row(x + at, vector, valid, kept);
        load_row(bias + column, vector, valid, shift);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            values[i] *= gemm.alpha * FORM<T>::slope(kept[i] + shift[i]);
        }
        store_row(c + at, vector, valid, values);
    }
};

// The threads of a block that share their columns each have their part of the sums; adds them in the order of the threads
// and writes the tile's row of column_sums. `at` says which column of the tile the thread's sum i is of; `scratch` is
// 8 KB of shared memory that nobody reads any more.
template <typename OUTPUT, typename At>
__device__ __forceinline__ void write_column_sums(const OUTPUT& output, const Part& part, const float (&sums)[GROUP], At at,
                                                  float* scratch) {
    constexpr int ROW_THREADS = THREADS / (TILE_N / GROUP);
    const int row_thread = static_cast<int>(threadIdx.x) / (TILE_N / GROUP);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < GROUP; ++i) scratch[row_thread * TILE_N + at(i)] = sums[i];
    __syncthreads();
    const int column = static_cast<int>(threadIdx.x);
    if (column >= TILE_N || part.first_n + column >= output.gemm.n) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_THREADS; ++i) sum += scratch[i * TILE_N + column];
    output.column_sums[static_cast<int64_t>(part.first_m / TILE_M) * output.gemm.n + part.first_n + column] = sum;
}

}  // namespace
