// What the attention kernels share: which rows a block works on, which columns it streams, the bias of ALiBi, and the dropout
// of a fragment. Layouts and dropout are those of src/device/cpu/attention.rs and src/device/cpu/dropout.rs. Tiles in shared
// memory and their products are in attention_bf16.cuh and attention_f32.cuh.
//
// Scores of 16 x 16 elements lie in a warp as in two accumulators of mma.m16n8k16, in f32 kernels as well: with group = lane / 4
// and member = lane % 4, piece[n][2 half + side] is row group + 8 half and column 8 n + 2 member + side.
#pragma once

#include "common/approximate.cuh"
#include "common/attention_dropout.cuh"
#include "common/mma.cuh"

// Rows (queries, or keys in half of the backward pass) of one sequence that a block owns. One number for every kernel, so
// that one plan serves the forward and the backward pass of all layers of a step.
constexpr int ATTENTION_ROWS = 128;
// Side of the squares that a block-sparse pattern is made of; two of them fill the rows of a plan entry.
constexpr int PATTERN_BLOCK = 64;
constexpr float LOG2_E = 1.44269504088896340736f;

// One entry of a plan: rows first_row..first_row + ATTENTION_ROWS of a sequence; sequence -1 where there is no work.
struct AttentionBlock {
    int sequence;
    int first_row;
    int number;  // which entry it would be if sequences were taken in order: AttentionHooks counts like that
};

// Behind the entries of a plan: all sequences, the longest first.
__device__ __forceinline__ int* attention_order(AttentionBlock* plan, int entries) { return reinterpret_cast<int*>(plan + entries); }
__device__ __forceinline__ const int* attention_order(const AttentionBlock* plan, int entries) {
    return reinterpret_cast<const int*>(plan + entries);
}

// One head of one sequence. Row r of queries, keys or values starts at `part + r * stride`.
struct AttentionHead {
    int64_t start;   // first token of the sequence
    int length;      // tokens of the sequence
    int head;
    int heads;
    int hidden;      // heads * head_dim
    uint64_t draws;  // where the dropout draws of this (sequence, head) begin

    __device__ AttentionHead(const int* cu_seqlens, int sequence, int head_, int heads_, int head_dim)
        : start(cu_seqlens[sequence]),
          length(cu_seqlens[sequence + 1] - cu_seqlens[sequence]),
          head(head_),
          heads(heads_),
          hidden(heads_ * head_dim),
          draws(static_cast<uint64_t>(sequence * heads_ + head_) << 32) {}

    // Index of this head's first element of part 0 (queries), 1 (keys) or 2 (values) in packed qkv rows.
    __device__ int64_t part(int which) const {
        return (start * 3 + which) * hidden + static_cast<int64_t>(head) * (hidden / heads);
    }
    // The same in [total_tokens, hidden].
    __device__ int64_t output() const { return start * hidden + static_cast<int64_t>(head) * (hidden / heads); }
};

// What a model may add to attention; all null for none. In Rust a #[repr(C)] struct of three addresses and two numbers.
struct AttentionHooks {
    const float* slopes;  // ALiBi: scores get -slopes[head] * |query - key|; [heads]
    // Block-sparse: the blocks of PATTERN_BLOCK columns that the plan entry with number e streams are blocks[starts[e]..starts[e + 1]], at
    // least one, ascending: four times the block's number, plus 1 if the first PATTERN_BLOCK rows of the entry see it, plus 2 if the
    // other rows do. A block that counts n times is there n times.
    const int* starts;
    const int* blocks;
    // From the starts of one head to those of the next: a plan entry's number is counted on from there. 0 where all heads see the same.
    int head_stride;
    // How many tokens to each side a query sees; 0 for all. Blocks in which it sees no key may be missing from the lists.
    int window;
};

// The tiles of TILE columns that a block streams: all of its sequence, or those of its list. Nothing but the count is kept: in
// the largest kernel there is no register for the start of the list.
template <int TILE>
struct StreamedTiles {
    static constexpr int PER_BLOCK = PATTERN_BLOCK / TILE;
    const AttentionHooks& hooks;
    int entry;
    int count;

    __device__ __forceinline__ StreamedTiles(const AttentionHooks& hooks_, int entry_, int head, int length)
        : hooks(hooks_), entry(entry_ + head * hooks_.head_stride), count(divide_up(length, TILE)) {
        if (hooks.starts == nullptr) return;
        const int last = hooks.starts[entry + 1] - hooks.starts[entry] - 1;
        // Only the last block can be cut by the end of the sequence.
        count = last * PER_BLOCK + divide_up(min(length - block(last) / 4 * PATTERN_BLOCK, PATTERN_BLOCK), TILE);
    }
    __device__ __forceinline__ int first_column(int tile) const {
        if (hooks.starts == nullptr) return tile * TILE;
        return block(tile / PER_BLOCK) / 4 * PATTERN_BLOCK + tile % PER_BLOCK * TILE;
    }
    // Whether the rows of half 0 or 1 of the plan entry see this tile.
    __device__ __forceinline__ bool seen_by(int half, int tile) const {
        return hooks.starts == nullptr || (block(tile / PER_BLOCK) >> half & 1) != 0;
    }

private:
    __device__ __forceinline__ int block(int index) const { return hooks.blocks[hooks.starts[entry] + index]; }
};

// ALiBi on raw scores, which are multiplied with `scale` later, of rows `row` and on and columns `column` and on. The distance
// is the same seen from either side, so rows may be queries or keys. Below 2^24 it is exact in f32. The slope is loaded here
// because a register that held it through the loop would be one too many in the largest kernel.
template <int ROW_TILES, int N>
__device__ __forceinline__ void add_bias(float (&scores)[ROW_TILES][N][4], const AttentionHooks& hooks, int head, float scale,
                                         int row, int column) {
    if (hooks.slopes == nullptr) return;
    const float slope = hooks.slopes[head] / scale;
    const int lane = threadIdx.x % WARP;
    const float distance = static_cast<float>(row + lane / 4 - column - lane % 4 * 2);
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                scores[m][n][i] =
                    fmaf(-slope, fabsf(distance + static_cast<float>(16 * m + i / 2 * 8 - 8 * n - i % 2)), scores[m][n][i]);
}

// The score of a key outside the window of its query. Finite, since a row may see no key of the first tiles: then it is the row's maximum, which
// any key that is seen brings down to a factor of 0. A power of two, so that its product with the scale is exact, and that less itself 0.
constexpr float FAR = -0x1p100f;

// Raw scores of rows `row` and on and columns `column` and on become FAR outside the window; the same seen from either side.
template <int ROW_TILES, int N>
__device__ __forceinline__ void hide_far(float (&scores)[ROW_TILES][N][4], const AttentionHooks& hooks, int row, int column) {
    if (hooks.window == 0) return;
    const int lane = threadIdx.x % WARP;
    const int distance = row + lane / 4 - column - lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (abs(distance + 16 * m + i / 2 * 8 - 8 * n - i % 2) > hooks.window) scores[m][n][i] = FAR;
}

// Two neighbouring fragments of eight columns: 16 x 16 elements.
template <int N>
__device__ __forceinline__ float (&piece(float (&products)[N][4], int part))[2][4] {
    return *reinterpret_cast<float(*)[2][4]>(products + 2 * part);
}

// Elements from row to row of a tile in shared memory. Rows of bf16 are swizzled, rows of floats padded (attention_f32.cuh).
template <typename T, int D>
constexpr int TILE_ROW = sizeof(T) == 2 ? D : D + 4;

// A piece of 16 x 16 probabilities, or gradients of scores, as the left operand of the next product.
template <typename T>
struct Operand;
