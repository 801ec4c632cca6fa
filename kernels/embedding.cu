// The sum of word, position and type embeddings, and the deterministic sums that flow back into the tables.
//
//   forward    y[t] = scale[t] word[token[t]] + position[position of t] + type[type of t]; any table may be missing
//   backward   d_table[index[t]] += scale[t] dy[t] for every token t, one table at a time, except into the padding entry
//   scales     ESM's token dropout: 0 where token t is the mask, else 0.88 / (1 - masked / length) of its sequence; without it there are none
//
// Shapes: tables [entries, hidden]; indices [total] i32, each inside its table; scales [total] f32; y, dy [total, hidden].
//
// Backward sorts the tokens by entry (a stable counting sort), cuts the sorted list into chunks of 64 and adds up each chunk
// with one warp per 256 columns, whatever the entries: one that half of all tokens share is as balanced as any other. Runs of
// equal entries inside a chunk go straight into the table; runs that cross a chunk's end leave pieces, which `finish` adds
// in order. Six launches a table:
//
//   sort_count -> sort_prefix -> sort_starts -> sort_place -> backward -> finish
//
// Floor, 65,536 tokens x 768 bf16: forward 1 write of 100.7 MB (the tables stay in the cache), 0.034 ms at 3.0 TB/s; backward 1
// read of 100.7 MB a table plus 12 MB of the table. The sort moves 4 bytes a token and entries * tiles * 4 bytes of counts (4.2 MB
// for 4,101 entries and 65,536 tokens); its cost is its launches.
//
// Versions. No figure from a GPU has been seen yet.
//   1. As above. Rejected on paper: a warp an entry that looks through all tokens reads 1 GB of indices for 4,101 entries, and the
//      two type entries would leave all the work to two warps; float atomics are not repeatable.

#include "common/column_tile.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;
// Tokens of a sort tile: a thread a token. Each compares itself with those before it in the tile, so a larger tile costs more
// comparisons, a smaller one more counts.
constexpr int SORT_TILE = 256;
// 65,536 tokens are 1,024 chunks, which with three column tiles are 23 warps for each multiprocessor of an H100.
constexpr int CHUNK = 64;
constexpr int SCAN_THREADS = 1024;

template <bool VECTOR, typename T>
__device__ __forceinline__ void forward(const T* word, const T* position, const T* type, const int* tokens,
                                        const int* positions, const int* types, const float* scales, int total, int hidden, T* y) {
    for (int token = blockIdx.x * WARPS + threadIdx.x / WARP; token < total; token += gridDim.x * WARPS) {
        const int64_t word_row = static_cast<int64_t>(tokens[token]) * hidden;
        const int64_t position_row = static_cast<int64_t>(positions[token]) * hidden;
        const int64_t type_row = static_cast<int64_t>(types[token]) * hidden;
        const float scale = scales != nullptr ? scales[token] : 1.0f;
        for (int column = threadIdx.x % WARP * GROUP; column < hidden; column += WARP * GROUP) {
            float sum[GROUP] = {}, second[GROUP] = {}, third[GROUP] = {};
            if (word != nullptr) load_group<VECTOR>(word + word_row + column, hidden - column, sum);
            if (position != nullptr) load_group<VECTOR>(position + position_row + column, hidden - column, second);
            if (type != nullptr) load_group<VECTOR>(type + type_row + column, hidden - column, third);
#pragma unroll
            for (int i = 0; i < GROUP; ++i) sum[i] = sum[i] * scale + second[i] + third[i];
            store_group<VECTOR>(y + static_cast<int64_t>(token) * hidden + column, sum, hidden - column);
        }
    }
}

// Where in `partials` ([chunks, 2, hidden]) the piece of a run lies: one that began in an earlier chunk, or one that began here.
__device__ __forceinline__ int64_t piece(int chunk, bool began_before) { return 2 * static_cast<int64_t>(chunk) + !began_before; }

// The end of a run of `entry` inside a chunk: into the table if the whole of it is here, to `partials` otherwise.
template <bool VECTOR, typename G>
__device__ __forceinline__ void flush(const float (&sum)[GROUP], int entry, int chunk, int total, const int* starts,
                                      int hidden, int column, G* d_table, float* partials) {
    const int begin = chunk * CHUNK, end = min(begin + CHUNK, total);
    const bool began_before = starts[entry] < begin;
    if (began_before || starts[entry + 1] > end) {
        store_group<VECTOR>(partials + piece(chunk, began_before) * hidden + column, sum, hidden - column);
        return;
    }
    G* row = d_table + static_cast<int64_t>(entry) * hidden + column;
    float values[GROUP];
    load_group<VECTOR>(row, hidden - column, values);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) values[i] += sum[i];
    store_group<VECTOR>(row, values, hidden - column);
}

template <bool VECTOR, typename T, typename G>
__device__ __forceinline__ void backward(const T* dy, const int* indices, const float* scales, const int* order, const int* starts,
                                         int total, int hidden, int padding, G* d_table, float* partials) {
    const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x * GROUP;
    const int chunk = blockIdx.y * ROW_THREADS + threadIdx.y;
    const int begin = chunk * CHUNK, end = min(begin + CHUNK, total);
    if (column >= hidden || begin >= end) return;
    float sum[GROUP] = {};
    int current = indices[order[begin]];
    for (int at = begin; at < end; ++at) {
        const int token = order[at], entry = indices[token];
        if (entry != current) {
            if (current != padding)
                flush<VECTOR>(sum, current, chunk, total, starts, hidden, column, d_table, partials);
#pragma unroll
            for (int i = 0; i < GROUP; ++i) sum[i] = 0.0f;
            current = entry;
        }
        const float scale = scales != nullptr ? scales[token] : 1.0f;
        float values[GROUP];
        load_group<VECTOR>(dy + static_cast<int64_t>(token) * hidden + column, hidden - column, values);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) sum[i] = fmaf(scale, values[i], sum[i]);
    }
    if (current != padding) flush<VECTOR>(sum, current, chunk, total, starts, hidden, column, d_table, partials);
}

// The block of the chunk in which a crossing run began adds its pieces; row thread r takes the pieces r, r + ROW_THREADS, ...
template <typename G>
__device__ __forceinline__ void finish(const float* partials, const int* indices, const int* order, const int* starts,
                                       int total, int hidden, int padding, G* d_table) {
    __shared__ float tile[ROW_THREADS][TILE_COLUMNS];
    const int chunk = blockIdx.y;
    const int begin = chunk * CHUNK, end = min(begin + CHUNK, total);
    const int entry = indices[order[end - 1]];
    const int run_end = starts[entry + 1];
    // The same for all threads of the block.
    if (entry == padding || starts[entry] < begin || run_end <= end) return;
    const int pieces = (run_end - 1) / CHUNK - chunk + 1;
    for (int i = 0; i < GROUP; ++i) {
        const int offset = i * COLUMN_THREADS + threadIdx.x, column = blockIdx.x * TILE_COLUMNS + offset;
        float sum = 0.0f;
        if (column < hidden)
            for (int k = threadIdx.y; k < pieces; k += ROW_THREADS)
                sum += partials[piece(chunk + k, k > 0) * hidden + column];
        tile[threadIdx.y][offset] = sum;
    }
    __syncthreads();
    const int offset = threadIdx.y * COLUMN_THREADS + threadIdx.x, column = blockIdx.x * TILE_COLUMNS + offset;
    if (column < hidden) {
        G& gradient = d_table[static_cast<int64_t>(entry) * hidden + column];
        float sum = to_float(gradient);
#pragma unroll
        for (int row = 0; row < ROW_THREADS; ++row) sum += tile[row][offset];
        gradient = from_float<G>(sum);
    }
}

// The sum of `value` over the lanes up to and including this one.
__device__ __forceinline__ int warp_running_sum(int value) {
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        const int before = __shfl_up_sync(FULL_WARP, value, offset);
        if (static_cast<int>(threadIdx.x % WARP) >= offset) value += before;
    }
    return value;
}

}  // namespace

// Any number of blocks of 256 threads; total / 8 of them make it one pass. Tables and scales may be null.
#define EMBEDDING_FORWARD(T, DTYPE)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                 \
        embedding_forward_##DTYPE(const T* word, const T* position, const T* type, const int* tokens,                     \
                                  const int* positions, const int* types, const float* scales, int total,                 \
                                  int hidden, T* y) {                                                                     \
        follow_earlier_kernels();                                                                                         \
        if (rows_are_groups(hidden) && is_aligned(word) && is_aligned(position) && is_aligned(type) && is_aligned(y))     \
            forward<true>(word, position, type, tokens, positions, types, scales, total, hidden, y);                      \
        else                                                                                                              \
            forward<false>(word, position, type, tokens, positions, types, scales, total, hidden, y);                     \
    }                                                                                                                     \
    EXPORT_KERNEL(embedding_forward_##DTYPE)

EMBEDDING_FORWARD(float, f32)
EMBEDDING_FORWARD(bf16, bf16)

// scales [total] of tokens and cu_seqlens [sequences + 1]; a block of 256 threads a sequence, or any number of them.
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_token_dropout(const int* tokens, const int* cu_seqlens, int sequences, int mask, float* scales) {
    follow_earlier_kernels();
    for (int sequence = blockIdx.x; sequence < sequences; sequence += gridDim.x) {
        const int begin = cu_seqlens[sequence], end = cu_seqlens[sequence + 1];
        int seen = 0;
        for (int first = begin; first < end; first += THREADS) {
            const int token = first + threadIdx.x;
            seen += __syncthreads_count(token < end && tokens[token] != mask);
        }
        // 1 - 0.15 * 0.8: the share that is not the mask in training. Masks alone have no scale, and want none.
        const float scale = 0.88f * (end - begin) / max(seen, 1);
        for (int token = begin + threadIdx.x; token < end; token += THREADS) scales[token] = tokens[token] == mask ? 0.0f : scale;
    }
}
EXPORT_KERNEL(embedding_token_dropout)

// One block of 256 threads for each of `tiles` = total / 256; counts [entries, tiles] i32, zero on entry.
extern "C" __global__ void __launch_bounds__(SORT_TILE)
    embedding_sort_count(const int* indices, int total, int tiles, int* counts) {
    follow_earlier_kernels();
    const int token = blockIdx.x * SORT_TILE + threadIdx.x;
    // Whole numbers: the order of these additions does not show.
    if (token < total) atomicAdd(&counts[static_cast<int64_t>(indices[token]) * tiles + blockIdx.x], 1);
}
EXPORT_KERNEL(embedding_sort_count)

// Turns each entry's counts into the number of its tokens in earlier tiles, and leaves its total in starts[entry].
// A warp an entry: entries / 8 blocks of 256 threads.
extern "C" __global__ void __launch_bounds__(THREADS)
    embedding_sort_prefix(int* counts, int entries, int tiles, int* starts) {
    follow_earlier_kernels();
    const int entry = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (entry >= entries) return;
    int before = 0;
    for (int first = 0; first < tiles; first += WARP) {
        const int tile = first + lane;
        int* at = counts + static_cast<int64_t>(entry) * tiles + tile;
        const int count = tile < tiles ? *at : 0;
        const int running = warp_running_sum(count);
        if (tile < tiles) *at = before + running - count;
        before += __shfl_sync(FULL_WARP, running, WARP - 1);
    }
    if (lane == 0) starts[entry] = before;
}
EXPORT_KERNEL(embedding_sort_prefix)

// Turns the totals in starts [entries + 1] into where each entry's tokens start in the sorted list. One block of 1024 threads.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS) embedding_sort_starts(int* starts, int entries) {
    follow_earlier_kernels();
    __shared__ int totals[SCAN_THREADS / WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int before = 0;
    for (int first = 0; first < entries; first += SCAN_THREADS) {
        const int entry = first + threadIdx.x;
        const int count = entry < entries ? starts[entry] : 0;
        const int running = warp_running_sum(count);
        if (lane == WARP - 1) totals[warp] = running;
        __syncthreads();
        int earlier_warps = 0, all_warps = 0;
        for (int other = 0; other < SCAN_THREADS / WARP; ++other) {
            if (other < warp) earlier_warps += totals[other];
            all_warps += totals[other];
        }
        __syncthreads();
        if (entry < entries) starts[entry] = before + earlier_warps + running - count;
        before += all_warps;
    }
    if (threadIdx.x == 0) starts[entries] = before;
}
EXPORT_KERNEL(embedding_sort_starts)

// Writes the sorted list: order [total], the tokens of entry e, ascending, at starts[e]. Blocks as for sort_count.
extern "C" __global__ void __launch_bounds__(SORT_TILE)
    embedding_sort_place(const int* indices, int total, int tiles, const int* counts, const int* starts, int* order) {
    follow_earlier_kernels();
    __shared__ int entries[SORT_TILE];
    const int token = blockIdx.x * SORT_TILE + threadIdx.x;
    const int entry = token < total ? indices[token] : -1;
    entries[threadIdx.x] = entry;
    __syncthreads();
    if (token >= total) return;
    int rank = 0;
    for (int earlier = 0; earlier < static_cast<int>(threadIdx.x); ++earlier) rank += entries[earlier] == entry;
    order[starts[entry] + counts[static_cast<int64_t>(entry) * tiles + blockIdx.x] + rank] = token;
}
EXPORT_KERNEL(embedding_sort_place)

// embedding_backward: blocks of 32 x 8 threads; gridDim.x = hidden / 256, gridDim.y = chunks / 8 with chunks = total / 64.
//   partials [chunks, 2, hidden] f32; `padding` is the entry that takes no gradient, or -1.
// embedding_finish: the same blocks; gridDim.x = hidden / 256, gridDim.y = chunks.
//   The first dtype is dy's, the second (where there are two) and that of `finish` the gradient's.
#define EMBEDDING_BACKWARD(T, G, DTYPE)                                                                                  \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS)                                            \
        embedding_backward_##DTYPE(const T* dy, const int* indices, const float* scales, const int* order,               \
                                   const int* starts, int total, int hidden, int padding, G* d_table, float* partials) { \
        follow_earlier_kernels();                                                                                        \
        if (rows_are_groups(hidden) && is_aligned(dy) && is_aligned(d_table) && is_aligned(partials))                    \
            backward<true>(dy, indices, scales, order, starts, total, hidden, padding, d_table, partials);               \
        else                                                                                                             \
            backward<false>(dy, indices, scales, order, starts, total, hidden, padding, d_table, partials);              \
    }                                                                                                                    \
    EXPORT_KERNEL(embedding_backward_##DTYPE)

EMBEDDING_BACKWARD(float, float, f32)
EMBEDDING_BACKWARD(bf16, bf16, bf16)
EMBEDDING_BACKWARD(bf16, float, bf16_f32)

#define EMBEDDING_FINISH(G, DTYPE)                                                                                   \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS* ROW_THREADS)                                        \
        embedding_finish_##DTYPE(const float* partials, const int* indices, const int* order, const int* starts,     \
                                 int total, int hidden, int padding, G* d_table) {                                   \
        follow_earlier_kernels();                                                                                    \
        finish(partials, indices, order, starts, total, hidden, padding, d_table);                                   \
    }                                                                                                                \
    EXPORT_KERNEL(embedding_finish_##DTYPE)

EMBEDDING_FINISH(float, f32)
EMBEDDING_FINISH(bf16, bf16)
