// Dropout decisions, the same as in src/device/cpu/dropout.rs: element e of a row-major tensor takes half e % 8 of Philox
// block e / 8 (half j is the low, for even j, or high half of word j / 2) and is kept where that is at least `threshold`.
// Attention has its own: attention_dropout.cuh.
#pragma once

#include "common/philox.cuh"

constexpr int DROPOUT_ROUNDS = 7;

// One dropout site of one step. A kernel takes it by value; in Rust it is a #[repr(C)] struct of the same six words.
struct Dropout {
    Philox philox;
    uint32_t threshold;  // round(p * 65536), in attention round(p * 256); 0 drops nothing, and draws nothing
    float scale;         // what kept elements are multiplied with: one over the share that is kept, 1 where nothing is dropped
};

// The eight decisions of the elements first..first + 8, as one block. ALIGNED: `first` is known to be a multiple of eight;
// otherwise they straddle two blocks, whose sixteen halves are shifted into place, two words, one word and a half at a time,
// so that the indices of the register array stay constant.
template <bool ALIGNED>
__device__ __forceinline__ PhiloxBlock dropout_block(const Philox& philox, uint64_t first) {
    const PhiloxBlock low = philox_block<DROPOUT_ROUNDS>(philox, first / 8);
    if (ALIGNED) return low;
    const PhiloxBlock high = philox_block<DROPOUT_ROUNDS>(philox, first / 8 + 1);
    const uint32_t skip = static_cast<uint32_t>(first % 8);
    uint32_t words[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        words[i] = low.words[i];
        words[4 + i] = high.words[i];
    }
#pragma unroll
    for (int i = 0; i < 6; ++i) words[i] = skip & 4 ? words[i + 2] : words[i];
#pragma unroll
    for (int i = 0; i < 5; ++i) words[i] = skip & 2 ? words[i + 1] : words[i];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = skip & 1 ? words[i] >> 16 | words[i + 1] << 16 : words[i];
    return {{words[0], words[1], words[2], words[3]}};
}

// Drops some of the neighbours first..first + 8 of a tensor, and scales the others.
template <bool ALIGNED>
__device__ __forceinline__ void dropout_apply(const Dropout& dropout, uint64_t first, float (&values)[GROUP]) {
    if (dropout.threshold == 0) return;
    const PhiloxBlock block = dropout_block<ALIGNED>(dropout.philox, first);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        const uint32_t half = block.words[i / 2] >> (16 * (i % 2)) & 0xffffu;
        values[i] = half >= dropout.threshold ? values[i] * dropout.scale : 0.0f;
    }
}
