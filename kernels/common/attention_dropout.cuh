// Dropout of attention probabilities, the same decisions as AttentionDropout of src/device/cpu/dropout.rs.
//
// A piece of 16 x 16 (query, key) takes sixteen Philox blocks: eight sources of two. The eight words of a source are the bits of 32
// numbers of 0..256, word i bit i of each of them, lowest first; where its number is at least the threshold, an element is kept. So a comparison of
// 32 numbers is eight instructions. With the bits of query and key numbered from 0:
//
//   source   4 query2 + 2 query1 + key2
//   number   16 key1 + 8 query0 + 4 key0 + 2 key3 + query3
//   block    query_tile << 17 | key_tile << 4 | source << 1 | half of the words, below the head's own 32 bits
//
// A warp draws four pieces at once, eight lanes each, whichever four its kernel works on. Then it exchanges bytes, so that each lane gets the
// decisions about its elements: lane and number are made of the same bits, and two steps among four lanes are enough. Where rows are
// keys, numbers change places before that instead of being transposed.
#pragma once

#include "common/dropout.cuh"

// Side of a piece, of an A fragment, and of the pairs of B fragments that one ldmatrix loads.
constexpr int ATTENTION_TILE = 16;
// Pieces that are drawn at once.
constexpr int DRAWN_PIECES = 4;

// The dropout of a layer's probabilities in a step: its threshold is round(p * 256). A kernel takes it by value; in Rust it is a #[repr(C)]
// struct of the same fourteen words.
struct AttentionDropout : Dropout {
    uint32_t clear[8];  // ones where a bit of the threshold is 0, lowest bit first
};

// Ones where bit `bit` of the threshold is 0: a word of the parameters, which an instruction that compares takes as an operand; or, where a
// function takes a plain Dropout, made anew. That costs instructions, but no registers, and the kernels without wgmma have none left.
__device__ __forceinline__ uint32_t clear_bit(const AttentionDropout& dropout, int bit) { return dropout.clear[bit]; }
__device__ __forceinline__ uint32_t clear_bit(const Dropout& dropout, int bit) { return (dropout.threshold >> bit & 1) - 1; }

// Which side a warp's rows are; the other is streamed.
enum class Rows { QUERIES, KEYS };

// Bytes of the eight of high:low, by the selector's half-bytes; those with their highest bit set give the sign of their byte, eight times.
__device__ __forceinline__ unsigned permute_bytes(unsigned low, unsigned high, unsigned selector) {
#ifdef CUDA_ON_CPU
    return __byte_perm(low, high, selector);
#else
    unsigned result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
#endif
}

// The decisions of this lane about four pieces: byte `piece` of the result, ones for what is kept. `tile_of(piece)` says which tile of rows
// and which of columns a piece is. `draws` is the head's.
template <Rows ROWS, typename SomeDropout, typename TileOf>
__device__ __forceinline__ unsigned attention_draw(const SomeDropout& dropout, uint64_t draws, TileOf tile_of) {
    constexpr bool OF_QUERIES = ROWS == Rows::QUERIES;
    const unsigned lane = threadIdx.x % WARP;
    // Row and column of the lane's first element have these bits in a fragment: row 2 1 0, column 2 1. As a source it has those that the
    // number lacks, and the two others say whose piece it draws.
    const unsigned source = OF_QUERIES ? lane >> 2 & 6 | lane >> 1 & 1 : lane << 1 & 6 | lane >> 4;
    const unsigned piece = OF_QUERIES ? (lane & 1) << 1 | lane >> 2 & 1 : lane >> 2 & 3;
    const int2 tile = tile_of(static_cast<int>(piece));
    const unsigned query_tile = OF_QUERIES ? tile.x : tile.y, key_tile = OF_QUERIES ? tile.y : tile.x;
    unsigned keep = 0xffffffffu;
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
        const PhiloxBlock block = philox_block<DROPOUT_ROUNDS>(dropout.philox, draws | query_tile << 17 | key_tile << 4 | source << 1 | half);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            // At the lowest bits so far, `keep` says which numbers are at least the threshold. Of two equal bits it still does; otherwise
            // the number's own bit decides: the majority of three.
            const unsigned word = block.words[i], clear = clear_bit(dropout, 4 * half + i);
            keep = (word & keep) | (word & clear) | (keep & clear);
        }
    }
    if (!OF_QUERIES) {
        // Query 0 and key 0 change places: half-bytes 1 and 2 of each half.
        const unsigned differ = (keep ^ keep >> 4) & 0x00f000f0u;
        keep ^= differ | differ << 4;
    }
    // Bytes by the bits that are the lane's: first the one whose partner is four lanes away, then the other.
    unsigned other = __shfl_xor_sync(FULL_WARP, keep, 4);
    keep = permute_bytes(keep, other, lane & 4 ? 0x3715 : 0x6240);
    constexpr unsigned NEXT = OF_QUERIES ? 1 : 8;
    other = __shfl_xor_sync(FULL_WARP, keep, NEXT);
    return permute_bytes(keep, other, lane & NEXT ? 0x3276 : 0x5410);
}

// Where in a piece's byte the decision about element 2 half + side of fragment n is.
template <Rows ROWS>
__device__ __forceinline__ constexpr int decision_bit(int n, int half, int side) {
    return 4 * side + (ROWS == Rows::QUERIES ? half + 2 * n : n + 2 * half);
}

// Ones in the halves of a packed pair that keep their element: elements 2 half and 2 half + 1 of fragment n of a piece.
template <Rows ROWS>
__device__ __forceinline__ unsigned keep_mask(unsigned keep, int piece, int n, int half) {
    const unsigned low = keep << (7 - decision_bit<ROWS>(n, half, 0)), high = keep << (7 - decision_bit<ROWS>(n, half, 1));
    return permute_bytes(low, high, 0xcc88 + 0x1111 * piece);
}
