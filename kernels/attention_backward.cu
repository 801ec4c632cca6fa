// Packed bidirectional attention, backward. With P the probabilities recomputed from log_sum_exp, M the dropout mask
// (0 or its scale) and D = rowsum(dO o O), inside each sequence and head:
//
//   dV = (P o M)^T dO     dS = P o (M o (dO V^T) - D)     dQ = scale dS K     dK = scale dS^T Q
//
// A bias has no gradient: ALiBi's slopes are constants. Shapes and head sizes: as in attention_forward.cu; d_output [total_tokens, hidden], d_qkv [total_tokens, 3 hidden], written with =;
// row_terms [heads, total_tokens, 2] f32: log_sum_exp in base 2, and D, so that a tile of queries finds them side by side.
// All tensors are aligned to 16 bytes. The grid comes from the same plan as forward.
//
// Three launches: attention_row_terms, then attention_backward_queries (dQ) and attention_backward_keys (dK, dV) in any
// order. No two blocks write the same element, so nothing is added atomically and results repeat bit for bit. The price: both
// kernels compute the scores and dO V^T, 7 products where 5 would do.
//
// Both are one function. A block owns 128 rows and streams the columns: rows are queries and columns keys for dQ, and the
// other way round for dK and dV, where everything is the transposed, so that P^T and dS^T leave the accumulators of one
// product as the A operand of the next, without a way through shared memory.
//
// Floor, 128 sequences of 512, 12 heads of 64: qkv, d_output and output read, d_qkv written, 805 MB, 0.27 ms at 3.0 TB/s;
// 258 GFLOP (361 in this form); 403 M exponentials (805 M in this form). More in notes/attention.md.
//
// Versions. No figure from a GPU has been seen yet.
//   1. As above.
//   2. The same function in f32, on multiply-adds; head sizes between the D; ALiBi; block-sparse patterns.

#include "common/attention_bf16.cuh"
#include "common/attention_f32.cuh"
#include "common/pack.cuh"

namespace {

// COLUMNS of the streamed side are loaded at a time, in two stages, and worked on CHUNK at a time. A block owns ROWS, a warp
// ROW_TILES x 16 of them; SPLIT warps share their rows and sum 1 / SPLIT of D each. Reasons, and the alternatives, are in
// notes/attention.md.
template <typename T, int D>
struct BackwardTile;

template <>
struct BackwardTile<bf16, 32> {
    static constexpr int ROWS = 128, ROW_TILES = 2, SPLIT = 1, COLUMNS = 64, CHUNK = 32;
};
// Two accumulators of 64 registers, and 2 x 32 of scores and their gradients.
template <>
struct BackwardTile<bf16, 64> {
    static constexpr int ROWS = 128, ROW_TILES = 2, SPLIT = 1, COLUMNS = 64, CHUNK = 32;
};
// One tile of rows a warp, as the accumulators take 2 x 64 registers for each.
template <>
struct BackwardTile<bf16, 128> {
    static constexpr int ROWS = 128, ROW_TILES = 1, SPLIT = 1, COLUMNS = 32, CHUNK = 32;
};
// In f32 shared memory is what is short, as in forward.
template <>
struct BackwardTile<float, 32> {
    static constexpr int ROWS = 64, ROW_TILES = 1, SPLIT = 1, COLUMNS = 32, CHUNK = 32;
};
template <>
struct BackwardTile<float, 64> {
    static constexpr int ROWS = 64, ROW_TILES = 1, SPLIT = 1, COLUMNS = 32, CHUNK = 32;
};
template <>
struct BackwardTile<float, 128> {
    static constexpr int ROWS = 32, ROW_TILES = 1, SPLIT = 1, COLUMNS = 16, CHUNK = 16;
};
// Two accumulators of 128 registers are too many: both warps compute the scores, and each sums half of the columns.
template <>
struct BackwardTile<float, 256> {
    static constexpr int ROWS = 16, ROW_TILES = 1, SPLIT = 2, COLUMNS = 16, CHUNK = 16;
};

template <typename T, int D>
constexpr int BACKWARD_THREADS =
    BackwardTile<T, D>::ROWS / (16 * BackwardTile<T, D>::ROW_TILES) * BackwardTile<T, D>::SPLIT * WARP;

// Blocks of a multiprocessor that registers must suffice for. Unasked (0), nvcc 13.0 aims at three of the f32 kernels' blocks and
// spills to reach it.
template <typename T>
constexpr int BACKWARD_BLOCKS = sizeof(T) == 4 ? 1 : 0;

// Log-sum-exp in base 2, and rowsum(dO o O), of one query.
using RowTerms = float2;

// `first` is queries or keys (what scores are made of), `second` gradients of the output or values.
template <typename T, int D>
struct BackwardShared {
    T first[BackwardTile<T, D>::ROWS * TILE_ROW<T, D>];
    T second[BackwardTile<T, D>::ROWS * TILE_ROW<T, D>];
    struct {
        T first[BackwardTile<T, D>::COLUMNS * TILE_ROW<T, D>];
        T second[BackwardTile<T, D>::COLUMNS * TILE_ROW<T, D>];
        RowTerms terms[BackwardTile<T, D>::COLUMNS];  // only where columns are queries
    } stages[2];
};

// A [length, D] matrix in global memory.
template <typename T>
struct Matrix {
    const T* rows;
    int stride;

    __device__ __forceinline__ const T* from(int row) const { return rows + static_cast<int64_t>(row) * stride; }
};

// Starts to copy COLUMNS rows of the streamed side, from number `from` on.
template <int D, Rows ROWS, typename T, typename Stage>
__device__ __forceinline__ void load_stage(Stage& stage, const Matrix<T>& first, const Matrix<T>& second,
                                           const RowTerms* terms, int from, int length, int head_dim) {
    constexpr int COLUMNS = BackwardTile<T, D>::COLUMNS, THREADS = BACKWARD_THREADS<T, D>;
    static_assert(COLUMNS <= THREADS, "a thread copies one query's terms");
    load_tile<D, COLUMNS, THREADS>(stage.first, first.from(from), first.stride, length - from, head_dim);
    load_tile<D, COLUMNS, THREADS>(stage.second, second.from(from), second.stride, length - from, head_dim);
    if (ROWS == Rows::KEYS && threadIdx.x < COLUMNS) {
        const int query = from + static_cast<int>(threadIdx.x);
        const bool exists = query < length;
        cp_async<8>(stage.terms + threadIdx.x, terms + (exists ? query : 0), exists ? 8 : 0);
    }
}

// Scores of one 16 x 16 piece become probabilities; the sequence has `valid` more columns.
template <Rows ROWS>
__device__ __forceinline__ void exponentiate(float (&scores)[2][4], const RowTerms (&row_terms)[2], const RowTerms* column_terms,
                                             int valid, float scale_log2) {
    const int member = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int column = 8 * n + 2 * member + i % 2;
            const float log_sum_exp = ROWS == Rows::QUERIES ? row_terms[i / 2].x : column_terms[column].x;
            scores[n][i] = exp2_approximate(fmaf(scores[n][i], scale_log2, -log_sum_exp));
            // Not by a product with zero: exp2 of a score that is not there may be infinite.
            if (column >= valid) scores[n][i] = 0.0f;
        }
}

// dS of one 16 x 16 piece, of which `keep` has the decisions, and its probabilities for dV, as operands.
template <Rows ROWS, typename T>
__device__ __forceinline__ void differentiate(Operand<T>& d_scores, Operand<T>& kept_probabilities,
                                              const float (&probabilities)[2][4], const float (&d_probabilities)[2][4],
                                              const RowTerms (&row_terms)[2], const RowTerms* column_terms, unsigned keep,
                                              float dropout_scale) {
    const int member = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int n = i / 2, half = i % 2;
        float ds[2];
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const int column = 8 * n + 2 * member + side;
            const float row_sum = ROWS == Rows::QUERIES ? row_terms[half].y : column_terms[column].y;
            const bool kept = keep >> decision_bit<ROWS>(n, half, side) & 1;
            const float probability = probabilities[n][2 * half + side];
            const float d_probability = d_probabilities[n][2 * half + side];
            const float d_kept = fmaf(d_probability, dropout_scale, -row_sum);
            ds[side] = probability * (kept ? d_kept : -row_sum);
        }
        d_scores.set(n, half, ds[0], ds[1]);
        kept_probabilities.set(n, half, probabilities[n][2 * half], probabilities[n][2 * half + 1]);
    }
}

template <int ROW_TILES, int N>
__device__ __forceinline__ void clear(float (&accumulators)[ROW_TILES][N][4]) {
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) accumulators[m][n][i] = 0.0f;
}

template <int ROW_TILES>
__device__ __forceinline__ void fill(float (&factors)[ROW_TILES][2], float value) {
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m) factors[m][0] = factors[m][1] = value;
}

template <typename T, int D, Rows ROWS>
__device__ __forceinline__ void backward(const T* qkv, const T* d_output, const float* row_terms, const int* cu_seqlens,
                                         const AttentionBlock* plan, int heads, int head_dim, int total_tokens, float scale,
                                         const Dropout& dropout, const AttentionHooks& hooks, T* d_qkv,
                                         BackwardShared<T, D>& shared) {
    using Tile = BackwardTile<T, D>;
    constexpr int ROW_TILES = Tile::ROW_TILES, COLUMNS = Tile::COLUMNS, CHUNK = Tile::CHUNK;
    constexpr int THREADS = BACKWARD_THREADS<T, D>, PARTS = ATTENTION_ROWS / Tile::ROWS, SUM = D / Tile::SPLIT;
    const int block = static_cast<int>(blockIdx.x) / heads;
    const AttentionBlock work = plan[block / PARTS];
    if (work.sequence < 0) return;
    const AttentionHead head(cu_seqlens, work.sequence, static_cast<int>(blockIdx.x) % heads, heads, head_dim);
    const int first_row = work.first_row + block % PARTS * Tile::ROWS;
    if (PARTS > 1 && first_row >= head.length) return;
    const int qkv_stride = 3 * head.hidden;
    const Matrix<T> queries = {qkv + head.part(0), qkv_stride}, keys = {qkv + head.part(1), qkv_stride};
    const Matrix<T> values = {qkv + head.part(2), qkv_stride}, d_outputs = {d_output + head.output(), head.hidden};
    const RowTerms* terms =
        reinterpret_cast<const RowTerms*>(row_terms) + head.head * static_cast<int64_t>(total_tokens) + head.start;
    constexpr bool OF_QUERIES = ROWS == Rows::QUERIES;
    const Matrix<T> first = OF_QUERIES ? queries : keys, second = OF_QUERIES ? d_outputs : values;
    const Matrix<T> streamed_first = OF_QUERIES ? keys : queries, streamed_second = OF_QUERIES ? values : d_outputs;
    const StreamedTiles<COLUMNS> tiles(hooks, work.number, head.head, head.length);

    const int rows_here = head.length - first_row;
    load_tile<D, Tile::ROWS, THREADS>(shared.first, first.from(first_row), first.stride, rows_here, head_dim);
    load_tile<D, Tile::ROWS, THREADS>(shared.second, second.from(first_row), second.stride, rows_here, head_dim);
    load_stage<D, ROWS>(shared.stages[0], streamed_first, streamed_second, terms, tiles.first_column(0), head.length,
                        head_dim);
    cp_async_commit();

    const int warp = threadIdx.x / WARP;
    const int warp_row = warp / Tile::SPLIT * 16 * ROW_TILES;
    const int warp_sum = warp % Tile::SPLIT * SUM;  // the first of the columns of dQ, or dK and dV, that this warp sums
    const int row = first_row + warp_row;
    // A warp without rows only copies and waits.
    const bool works = row < head.length;
    RowTerms own_terms[ROW_TILES][2];
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = row + 16 * m + 8 * half + static_cast<int>(threadIdx.x % WARP) / 4;
            own_terms[m][half] = OF_QUERIES && query < head.length ? terms[query] : make_float2(0.0f, 0.0f);
        }
    const float scale_log2 = scale * LOG2_E;
    float d_first[ROW_TILES][SUM / 8][4];                    // dQ or dK, without the scale
    float d_second[OF_QUERIES ? 1 : ROW_TILES][SUM / 8][4];  // dV
    clear(d_first);
    if constexpr (!OF_QUERIES) clear(d_second);

    for (int tile = 0; tile < tiles.count; ++tile) {
        cp_async_wait<0>();
        // This tile is there for all; and all are through with the last one, whose stage is overwritten next.
        __syncthreads();
        if (tile + 1 < tiles.count) {
            load_stage<D, ROWS>(shared.stages[(tile + 1) % 2], streamed_first, streamed_second, terms,
                                tiles.first_column(tile + 1), head.length, head_dim);
            cp_async_commit();
        }
        if (!works || !tiles.seen_by((row - work.first_row) / PATTERN_BLOCK, tile)) continue;
        const int first_column = tiles.first_column(tile);
        const auto& stage = shared.stages[tile % 2];
        const int columns = min(COLUMNS, head.length - first_column);
#pragma unroll 1
        for (int chunk = 0; chunk < columns; chunk += CHUNK) {
            float scores[ROW_TILES][CHUNK / 8][4], d_probabilities[ROW_TILES][CHUNK / 8][4];
            multiply_rows<D, ROW_TILES, CHUNK>(scores, shared.first, warp_row, stage.first, chunk);
            add_bias(scores, hooks, head.head, scale, row, first_column + chunk);
            hide_far(scores, hooks, row, first_column + chunk);
            // Drawn while the registers of the second product are free.
            static_assert(ROW_TILES * (CHUNK / 16) <= DRAWN_PIECES, "a chunk is drawn at once");
            unsigned keep = 0xffffffffu;
            if (dropout.threshold != 0)
                keep = attention_draw<ROWS>(dropout, head.draws, [&](int piece) {
                    return make_int2(row / 16 + piece % ROW_TILES, (first_column + chunk) / 16 + piece / ROW_TILES);
                });
#pragma unroll
            for (int part = 0; part < CHUNK / 16; ++part)
#pragma unroll
                for (int m = 0; m < ROW_TILES; ++m)
                    exponentiate<ROWS>(piece(scores[m], part), own_terms[m], stage.terms + chunk + 16 * part,
                                       head.length - first_column - chunk - 16 * part, scale_log2);
            multiply_rows<D, ROW_TILES, CHUNK>(d_probabilities, shared.second, warp_row, stage.second, chunk);
#pragma unroll
            for (int part = 0; part < CHUNK / 16; ++part) {
                const int column = chunk + 16 * part;
                Operand<T> d_scores[ROW_TILES], kept_probabilities[ROW_TILES];
#pragma unroll
                for (int m = 0; m < ROW_TILES; ++m) {
                    const int drawn = part * ROW_TILES + m;
                    differentiate<ROWS>(d_scores[m], kept_probabilities[m], piece(scores[m], part),
                                        piece(d_probabilities[m], part), own_terms[m], stage.terms + column, keep >> 8 * drawn,
                                        dropout.scale);
                    // Without the dropout's scale.
                    if (!OF_QUERIES && dropout.threshold != 0) kept_probabilities[m].template drop<ROWS>(keep, drawn);
                }
                if constexpr (!OF_QUERIES) multiply_add<D>(d_second, kept_probabilities, stage.second + warp_sum, column);
                multiply_add<D>(d_first, d_scores, stage.first + warp_sum, column);
            }
        }
    }
    if (!works) return;

    float factors[ROW_TILES][2];
    fill<ROW_TILES>(factors, scale);
    const int64_t first_element = static_cast<int64_t>(row) * qkv_stride + warp_sum;
    store_rows<D>(d_qkv + head.part(OF_QUERIES ? 0 : 1) + first_element, qkv_stride, head.length - row, head_dim - warp_sum,
                  shared.first, warp_row, d_first, factors);
    if constexpr (!OF_QUERIES) {
        fill<ROW_TILES>(factors, dropout.scale);
        store_rows<D>(d_qkv + head.part(2) + first_element, qkv_stride, head.length - row, head_dim - warp_sum, shared.second,
                      warp_row, d_second, factors);
    }
}

// Eight lanes share a head's row.
template <typename T>
__device__ __forceinline__ void row_terms(const T* output, const T* d_output, const float* log_sum_exp, int total_tokens,
                                          int heads, int head_dim, float* terms) {
    constexpr int LANES = 8;
    const int64_t rows = static_cast<int64_t>(total_tokens) * heads;
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    // Whole warps go on together, as all their lanes take part in the shuffles.
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x; first < rows * LANES; first += step) {
        const int64_t row = (first + threadIdx.x) / LANES;  // token * heads + head
        const int lane = threadIdx.x % LANES;
        float sum = 0.0f;
        if (row < rows)
            for (int column = lane * GROUP; column < head_dim; column += LANES * GROUP) {
                float left[GROUP], right[GROUP];
                load_group<true>(output + row * head_dim + column, GROUP, left);
                load_group<true>(d_output + row * head_dim + column, GROUP, right);
#pragma unroll
                for (int i = 0; i < GROUP; ++i) sum = fmaf(left[i], right[i], sum);
            }
#pragma unroll
        for (int offset = LANES / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, offset);
        if (row < rows && lane == 0) {
            const int64_t token = row / heads, head = row % heads;
            reinterpret_cast<float2*>(terms)[head * total_tokens + token] = make_float2(log_sum_exp[row] * LOG2_E, sum);
        }
    }
}

}  // namespace

// attention_row_terms_DTYPE. Grid: any number of blocks of 256 threads; total_tokens * heads / 32 of them make it one pass.
#define ATTENTION_ROW_TERMS(T, DTYPE)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) attention_row_terms_##DTYPE(                                     \
        const T* output, const T* d_output, const float* log_sum_exp, int total_tokens, int heads, int head_dim,       \
        float* terms) {                                                                                                \
        follow_earlier_kernels();                                                                                      \
        row_terms(output, d_output, log_sum_exp, total_tokens, heads, head_dim, terms);                                \
    }                                                                                                                  \
    EXPORT_KERNEL(attention_row_terms_##DTYPE)

ATTENTION_ROW_TERMS(float, f32)
ATTENTION_ROW_TERMS(bf16, bf16)

// attention_backward_queries_DTYPE_dD writes the queries' part of d_qkv, attention_backward_keys_DTYPE_dD the keys' and the
// values', for head_dim up to D. Grid: capacity of the plan times ATTENTION_ROWS / ROWS times heads; BACKWARD_THREADS threads and
// sizeof(BackwardShared) bytes of shared memory: src/device/attention_kernels.rs has the numbers.
#define ATTENTION_BACKWARD(T, DTYPE, D, SIDE, ROWS)                                                                      \
    extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS<T, D>, BACKWARD_BLOCKS<T>) attention_backward_##SIDE##_##DTYPE##_d##D(     \
        const T* qkv, const T* d_output, const float* terms, const int* cu_seqlens, const AttentionBlock* plan,          \
        int heads, int head_dim, int total_tokens, float scale, AttentionDropout dropout, AttentionHooks hooks, T* d_qkv) { \
        follow_earlier_kernels();                                                                                        \
        using Shared = BackwardShared<T, D>;                                                                             \
        DYNAMIC_SHARED_ALIGNED(Shared, shared, 128);                                                                     \
        backward<T, D, ROWS>(qkv, d_output, terms, cu_seqlens, plan, heads, head_dim, total_tokens, scale, dropout,      \
                             hooks, d_qkv, *shared);                                                                     \
    }                                                                                                                    \
    EXPORT_KERNEL(attention_backward_##SIDE##_##DTYPE##_d##D)

#define ATTENTION_BACKWARD_BOTH(T, DTYPE, D)                    \
    ATTENTION_BACKWARD(T, DTYPE, D, queries, Rows::QUERIES)     \
    ATTENTION_BACKWARD(T, DTYPE, D, keys, Rows::KEYS)

ATTENTION_BACKWARD_BOTH(bf16, bf16, 32)
ATTENTION_BACKWARD_BOTH(bf16, bf16, 64)
ATTENTION_BACKWARD_BOTH(bf16, bf16, 128)
ATTENTION_BACKWARD_BOTH(float, f32, 32)
ATTENTION_BACKWARD_BOTH(float, f32, 64)
ATTENTION_BACKWARD_BOTH(float, f32, 128)
ATTENTION_BACKWARD_BOTH(float, f32, 256)
