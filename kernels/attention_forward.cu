// Packed bidirectional attention, forward: O = dropout(softmax(scale Q K^T + bias)) V inside each sequence, head by head.
//
//   log_sum_exp = log(sum over keys of exp(scale q k + bias)), natural, before the dropout
//
// Shapes: qkv [total_tokens, 3 hidden] (queries, keys, values, each head by head), cu_seqlens [sequences + 1], output
// [total_tokens, hidden], log_sum_exp [total_tokens, heads] f32. head_dim is a multiple of 8, at most the D in the kernel's name;
// scale is above 0; qkv and output are aligned to 16 bytes; a sequence has 0 to 131,072 tokens (the counter of the dropout
// holds no more). Bias and block-sparse patterns: AttentionHooks in common/attention.cuh.
//
// The grid needs no look at cu_seqlens: attention_plan lists the blocks of ATTENTION_ROWS queries once a step, and as
// sequences contribute at most (length + ROWS - 1) / ROWS each, total_tokens / ROWS + sequences entries always suffice. The
// blocks of the grid that find no entry return at once. Kernels whose blocks own fewer rows split an entry. The longest come first, all
// heads of an entry together, so that what is left for the end of a launch is short.
//
// Floor, 128 sequences of 512, 12 heads of 64: 4 x 100.7 MB of bf16, 0.134 ms at 3.0 TB/s; 103 GFLOP; 403 M exponentials.
// Arithmetic, not memory, is the limit from 150 tokens a sequence on. More in notes/attention.md.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A block has 128 queries, a warp 32 of them, so that each fragment of keys and values that a warp loads from shared
//      memory serves two products. Keys and values come in tiles through two stages of cp.async; one barrier a tile.
//      Probabilities go from the accumulators of the first product straight into the A operand of the second.
//   2. The same function in f32, on multiply-adds; head sizes between the D; ALiBi; block-sparse patterns.

#include "common/attention_bf16.cuh"
#include "common/attention_f32.cuh"
#include "common/reduce.cuh"

namespace {

// A block takes ROWS queries, a warp ROW_TILES x 16 of them. Reasons, and the alternatives, are in notes/attention.md.
template <typename T, int D>
struct ForwardTile;

// Scores of 64 keys are 64 registers beside 32 of output and 16 of queries.
template <>
struct ForwardTile<bf16, 32> {
    static constexpr int ROWS = 128, ROW_TILES = 2, KEYS = 64;
    static constexpr bool QUERIES_IN_REGISTERS = true;
};
// 64 registers of scores, 64 of output, 32 of queries.
template <>
struct ForwardTile<bf16, 64> {
    static constexpr int ROWS = 128, ROW_TILES = 2, KEYS = 64;
    static constexpr bool QUERIES_IN_REGISTERS = true;
};
// The output takes 128 registers; 32 keys leave room for their scores, and the queries stay in shared memory.
template <>
struct ForwardTile<bf16, 128> {
    static constexpr int ROWS = 128, ROW_TILES = 2, KEYS = 32;
    static constexpr bool QUERIES_IN_REGISTERS = false;
};
// In f32 shared memory is what is short: twice the bytes, and 99 KB on compute capability 8.6 and 8.9.
template <>
struct ForwardTile<float, 32> {
    static constexpr int ROWS = 128, ROW_TILES = 2, KEYS = 32;
    static constexpr bool QUERIES_IN_REGISTERS = false;
};
template <>
struct ForwardTile<float, 64> {
    static constexpr int ROWS = 128, ROW_TILES = 2, KEYS = 32;
    static constexpr bool QUERIES_IN_REGISTERS = false;
};
template <>
struct ForwardTile<float, 128> {
    static constexpr int ROWS = 64, ROW_TILES = 1, KEYS = 16;
    static constexpr bool QUERIES_IN_REGISTERS = false;
};
template <>
struct ForwardTile<float, 256> {
    static constexpr int ROWS = 32, ROW_TILES = 1, KEYS = 16;
    static constexpr bool QUERIES_IN_REGISTERS = false;
};

template <typename T, int D>
constexpr int FORWARD_THREADS = ForwardTile<T, D>::ROWS / (16 * ForwardTile<T, D>::ROW_TILES) * WARP;

// Shared memory: the queries, then the two stages of keys and values.
template <typename T, int D>
struct ForwardShared {
    T queries[ForwardTile<T, D>::ROWS * TILE_ROW<T, D>];
    struct {
        T keys[ForwardTile<T, D>::KEYS * TILE_ROW<T, D>];
        T values[ForwardTile<T, D>::KEYS * TILE_ROW<T, D>];
    } stages[2];
};

// The queries of a warp: as fragments in registers where they fit, otherwise loaded each time they are used.
template <typename T, int D, bool IN_REGISTERS>
struct Queries {
    static constexpr int ROW_TILES = ForwardTile<T, D>::ROW_TILES;
    unsigned fragments[D / 16][ROW_TILES][4];

    __device__ __forceinline__ Queries(const bf16* tile, int row) {
#pragma unroll
        for (int step = 0; step < D / 16; ++step)
#pragma unroll
            for (int m = 0; m < ROW_TILES; ++m) load_a<D>(fragments[step][m], tile, row + 16 * m, step);
    }
    template <int KEYS>
    __device__ __forceinline__ void scores(float (&scores)[ROW_TILES][KEYS / 8][4], const bf16* keys) const {
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[m][n][i] = 0.0f;
#pragma unroll
        for (int step = 0; step < D / 16; ++step)
#pragma unroll
            for (int pair = 0; pair < KEYS / 16; ++pair) {
                unsigned b[2][2];
                load_b_transposed<D>(b, keys, 16 * pair, step);
#pragma unroll
                for (int m = 0; m < ROW_TILES; ++m) {
                    mma_m16n8k16(scores[m][2 * pair], fragments[step][m], b[0]);
                    mma_m16n8k16(scores[m][2 * pair + 1], fragments[step][m], b[1]);
                }
            }
    }
};

template <typename T, int D>
struct Queries<T, D, false> {
    static constexpr int ROW_TILES = ForwardTile<T, D>::ROW_TILES;
    const T* tile;
    int row;

    __device__ __forceinline__ Queries(const T* tile_, int row_) : tile(tile_), row(row_) {}
    template <int KEYS>
    __device__ __forceinline__ void scores(float (&scores)[ROW_TILES][KEYS / 8][4], const T* keys) const {
        multiply_rows<D, ROW_TILES, KEYS>(scores, tile, row, keys, 0);
    }
};

// What a warp keeps of its rows from tile to tile. Row `group + 8 half` of row tile m is [m][half].
template <int D, int ROW_TILES>
struct ForwardState {
    float output[ROW_TILES][D / 8][4];
    float max[ROW_TILES][2];  // of the raw scores
    float sum[ROW_TILES][2];  // this lane's part, relative to max
};

// Scores of keys that the sequence does not have become -infinity.
template <int KEYS, int ROW_TILES>
__device__ __forceinline__ void mask_tail(float (&scores)[ROW_TILES][KEYS / 8][4], int valid) {
    const int member = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (8 * n + 2 * member + i % 2 >= valid) scores[m][n][i] = -INFINITY;
}

// Turns the scores into exp(scale (score - max)) and brings sum and output to the new maximum.
template <int D, int KEYS, int ROW_TILES>
__device__ __forceinline__ void online_softmax(ForwardState<D, ROW_TILES>& state, float (&scores)[ROW_TILES][KEYS / 8][4],
                                               float scale_log2) {
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float max = state.max[m][half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
                max = fmaxf(max, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
            // The four lanes of a quad hold one row.
            max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 1));
            max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 2));
            // Every tile has a key, so max is finite; in the first tile the old one is -infinity and the factor 0.
            const float factor = exp2_approximate((state.max[m][half] - max) * scale_log2);
            const float shift = max * scale_log2;
            float sum = state.sum[m][half] * factor;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    scores[m][n][i] = exp2_approximate(fmaf(scores[m][n][i], scale_log2, -shift));
                    sum += scores[m][n][i];
                }
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                state.output[m][n][2 * half] *= factor;
                state.output[m][n][2 * half + 1] *= factor;
            }
            state.max[m][half] = max;
            state.sum[m][half] = sum;
        }
}

// output += dropout(probabilities) values, without the dropout's scale, which is applied once at the end.
template <int D, int KEYS, typename T, int ROW_TILES>
__device__ __forceinline__ void add_values(ForwardState<D, ROW_TILES>& state, float (&probabilities)[ROW_TILES][KEYS / 8][4],
                                           const T* values, const Dropout& dropout, uint64_t draws, int query_tile,
                                           int key_tile) {
    constexpr int COLUMN_TILES = KEYS / 16 < DRAWN_PIECES / ROW_TILES ? KEYS / 16 : DRAWN_PIECES / ROW_TILES;
    unsigned keep = 0;
#pragma unroll
    for (int tile = 0; tile < KEYS / 16; ++tile) {
        if (tile % COLUMN_TILES == 0 && dropout.threshold != 0)
            keep = attention_draw<Rows::QUERIES>(dropout, draws, [&](int piece) {
                return make_int2(query_tile + piece % ROW_TILES, key_tile + tile + piece / ROW_TILES);
            });
        Operand<T> a[ROW_TILES];
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m) {
            const float(&elements)[2][4] = piece(probabilities[m], tile);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                a[m].set(i / 2, i % 2, elements[i / 2][i % 2 * 2], elements[i / 2][i % 2 * 2 + 1]);
            if (dropout.threshold != 0) a[m].template drop<Rows::QUERIES>(keep, tile % COLUMN_TILES * ROW_TILES + m);
        }
        multiply_add<D>(state.output, a, values, 16 * tile);
    }
}

template <typename T, int D>
__device__ __forceinline__ void forward(const T* qkv, const int* cu_seqlens, const AttentionBlock* plan, int heads,
                                        int head_dim, float scale, const Dropout& dropout, const AttentionHooks& hooks,
                                        T* output, float* log_sum_exp, ForwardShared<T, D>& shared) {
    using Tile = ForwardTile<T, D>;
    constexpr int ROWS = Tile::ROWS, ROW_TILES = Tile::ROW_TILES, KEYS = Tile::KEYS, THREADS = FORWARD_THREADS<T, D>;
    constexpr int PARTS = ATTENTION_ROWS / ROWS;
    const int block = static_cast<int>(blockIdx.x) / heads;
    const AttentionBlock work = plan[block / PARTS];
    if (work.sequence < 0) return;
    const AttentionHead head(cu_seqlens, work.sequence, static_cast<int>(blockIdx.x) % heads, heads, head_dim);
    const int first_row = work.first_row + block % PARTS * ROWS;
    if (PARTS > 1 && first_row >= head.length) return;
    const int stride = 3 * head.hidden;
    const T* keys = qkv + head.part(1);
    const T* values = qkv + head.part(2);
    const StreamedTiles<KEYS> tiles(hooks, work.number, head.head, head.length);
    const auto load = [&](auto& stage, int first_key) {
        const int64_t first = static_cast<int64_t>(first_key) * stride;
        load_tile<D, KEYS, THREADS>(stage.keys, keys + first, stride, head.length - first_key, head_dim);
        load_tile<D, KEYS, THREADS>(stage.values, values + first, stride, head.length - first_key, head_dim);
    };

    load_tile<D, ROWS, THREADS>(shared.queries, qkv + head.part(0) + static_cast<int64_t>(first_row) * stride, stride,
                                head.length - first_row, head_dim);
    cp_async_commit();
    load(shared.stages[0], tiles.first_column(0));
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();

    const int lane = threadIdx.x % WARP, group = lane / 4;
    const int warp_row = threadIdx.x / WARP * 16 * ROW_TILES;
    const int row = first_row + warp_row;
    // A warp without queries only copies and waits.
    const bool works = row < head.length;
    const Queries<T, D, Tile::QUERIES_IN_REGISTERS> queries(shared.queries, warp_row);
    const float scale_log2 = scale * LOG2_E;
    ForwardState<D, ROW_TILES> state;
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m) {
        state.max[m][0] = state.max[m][1] = -INFINITY;
        state.sum[m][0] = state.sum[m][1] = 0.0f;
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) state.output[m][n][i] = 0.0f;
    }

    for (int tile = 0; tile < tiles.count; ++tile) {
        cp_async_wait<0>();
        // This tile is there for all; and all are through with the last one, whose stage is overwritten next.
        __syncthreads();
        if (tile + 1 < tiles.count) {
            load(shared.stages[(tile + 1) % 2], tiles.first_column(tile + 1));
            cp_async_commit();
        }
        if (!works || !tiles.seen_by((row - work.first_row) / PATTERN_BLOCK, tile)) continue;
        const int first_key = tiles.first_column(tile);
        const auto& stage = shared.stages[tile % 2];
        float scores[ROW_TILES][KEYS / 8][4];
        queries.template scores<KEYS>(scores, stage.keys);
        add_bias(scores, hooks, head.head, scale, row, first_key);
        hide_far(scores, hooks, row, first_key);
        if (first_key + KEYS > head.length) mask_tail<KEYS>(scores, head.length - first_key);
        online_softmax<D, KEYS>(state, scores, scale_log2);
        add_values<D, KEYS>(state, scores, stage.values, dropout, head.draws, row / 16, first_key / 16);
    }
    if (!works) return;

    float factors[ROW_TILES][2];
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = state.sum[m][half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            factors[m][half] = dropout.scale / sum;
            const int query = row + 16 * m + 8 * half + group;
            if (lane % 4 == 0 && query < head.length)
                log_sum_exp[(head.start + query) * heads + head.head] = fmaf(state.max[m][half], scale, logf(sum));
        }
    store_rows<D>(output + head.output() + row * static_cast<int64_t>(head.hidden), head.hidden, head.length - row, head_dim,
                  shared.queries, warp_row, state.output, factors);
}

}  // namespace

// attention_plan: the blocks of ATTENTION_ROWS rows of every sequence, those of the longest sequences first, then entries without work up
// to `capacity`, which is at least total_tokens / ATTENTION_ROWS + sequences; and behind these the sequences in the same order
// (attention_order). Sequences of as many squares of keys, the grain of the kernels' work, stay in order: a counting sort. Grid: one block of 256
// threads.
constexpr int PLAN_THREADS = 256;
constexpr int PLAN_CLASSES = 1024;  // sequences beyond 65,536 tokens share the last one
extern "C" __global__ void __launch_bounds__(PLAN_THREADS) attention_plan(const int* cu_seqlens, int sequences, int capacity,
                                                                          AttentionBlock* plan) {
    follow_earlier_kernels();
    // The longest first: blocks of a class and its sequences, then where the next of either goes.
    __shared__ int next[2][PLAN_CLASSES];
    __shared__ int2 chunk[PLAN_THREADS];  // class and blocks of the sequences that are being placed
    const int thread = threadIdx.x;
    int* order = attention_order(plan, capacity);
    const auto measure = [&](int sequence) {
        const int length = sequence < sequences ? cu_seqlens[sequence + 1] - cu_seqlens[sequence] : 0;
        return make_int2(max(PLAN_CLASSES - 1 - divide_up(length, PATTERN_BLOCK), 0), divide_up(length, ATTENTION_ROWS));
    };
    for (int i = thread; i < PLAN_CLASSES; i += PLAN_THREADS) next[0][i] = next[1][i] = 0;
    __syncthreads();
    for (int sequence = thread; sequence < sequences; sequence += PLAN_THREADS) {
        const int2 measured = measure(sequence);
        atomicAdd(&next[0][measured.x], measured.y);
        atomicAdd(&next[1][measured.x], 1);
    }
    __syncthreads();
    if (thread < 2 * WARP) {
        // A lane owns neighbouring classes, of blocks or of sequences.
        constexpr int OWN = PLAN_CLASSES / WARP;
        const int lane = thread % WARP;
        int* own = next[thread / WARP] + lane * OWN;
        int sum = 0;
        for (int i = 0; i < OWN; ++i) sum += own[i];
        int before = sum;
#pragma unroll
        for (int offset = 1; offset < WARP; offset *= 2) {
            const int other = __shfl_up_sync(FULL_WARP, before, offset);
            if (lane >= offset) before += other;
        }
        before -= sum;
        for (int i = 0; i < OWN; ++i) {
            const int count = own[i];
            own[i] = before;
            before += count;
        }
    }
    __syncthreads();
    int total = 0;
    for (int first = 0; first < sequences; first += PLAN_THREADS) {
        const int2 own = measure(first + thread);
        chunk[thread] = own;
        __syncthreads();
        int number = total, entry = next[0][own.x], rank = next[1][own.x];
        for (int other = 0; other < PLAN_THREADS; ++other) {
            const int2 measured = chunk[other];
            total += measured.y;
            if (other >= thread) continue;
            number += measured.y;
            if (measured.x != own.x) continue;
            entry += measured.y;
            ++rank;
        }
        for (int block = 0; block < own.y && entry + block < capacity; ++block)
            plan[entry + block] = {first + thread, block * ATTENTION_ROWS, number + block};
        if (first + thread < sequences) order[rank] = first + thread;
        __syncthreads();
        atomicAdd(&next[0][own.x], own.y);
        atomicAdd(&next[1][own.x], 1);
        __syncthreads();
    }
    for (int entry = total + thread; entry < capacity; entry += PLAN_THREADS) plan[entry] = {-1, 0, 0};
}
EXPORT_KERNEL(attention_plan)

// attention_forward_DTYPE_dD, for head_dim up to D. Grid: capacity of the plan times ATTENTION_ROWS / ROWS times heads;
// FORWARD_THREADS threads and sizeof(ForwardShared) bytes of shared memory: src/device/attention_kernels.rs has the numbers.
#define ATTENTION_FORWARD(T, DTYPE, D)                                                                                    \
    extern "C" __global__ void __launch_bounds__(FORWARD_THREADS<T, D>) attention_forward_##DTYPE##_d##D(                 \
        const T* qkv, const int* cu_seqlens, const AttentionBlock* plan, int heads, int head_dim, float scale,            \
        AttentionDropout dropout, AttentionHooks hooks, T* output, float* log_sum_exp) {                                     \
        follow_earlier_kernels();                                                                                         \
        using Shared = ForwardShared<T, D>;                                                                               \
        DYNAMIC_SHARED_ALIGNED(Shared, shared, 128);                                                                      \
        forward<T, D>(qkv, cu_seqlens, plan, heads, head_dim, scale, dropout, hooks, output, log_sum_exp, *shared);       \
    }                                                                                                                     \
    EXPORT_KERNEL(attention_forward_##DTYPE##_d##D)

ATTENTION_FORWARD(bf16, bf16, 32)
ATTENTION_FORWARD(bf16, bf16, 64)
ATTENTION_FORWARD(bf16, bf16, 128)
ATTENTION_FORWARD(float, f32, 32)
ATTENTION_FORWARD(float, f32, 64)
ATTENTION_FORWARD(float, f32, 128)
ATTENTION_FORWARD(float, f32, 256)
