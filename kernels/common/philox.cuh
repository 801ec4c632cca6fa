// Philox4x32 (Salmon et al., SC 2011), bit for bit as src/philox.rs: four random words are a pure function of
// (seed, step, stream, index), so a backward pass redraws what the forward pass drew and nothing is stored. Ten rounds, as the
// authors recommend; dropout takes seven, the fewest that passed all their tests.
#pragma once

#include "common/device.cuh"

struct Philox {
    uint32_t key[2];  // the seed's low and high halves
    uint32_t step;
    uint32_t stream;
};

struct PhiloxBlock {
    uint32_t words[4];
};

template <int ROUNDS = 10>
__device__ __forceinline__ PhiloxBlock philox_block(const Philox& philox, uint64_t index) {
    uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
    uint32_t c2 = philox.step, c3 = philox.stream;
    uint32_t key0 = philox.key[0], key1 = philox.key[1];
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const uint64_t left = static_cast<uint64_t>(0xD2511F53u) * c0;
        const uint64_t right = static_cast<uint64_t>(0xCD9E8D57u) * c2;
        c0 = static_cast<uint32_t>(right >> 32) ^ c1 ^ key0;
        c1 = static_cast<uint32_t>(right);
        c2 = static_cast<uint32_t>(left >> 32) ^ c3 ^ key1;
        c3 = static_cast<uint32_t>(left);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Maps a random word to 0..bound, as philox::below.
__device__ __forceinline__ uint32_t philox_below(uint32_t word, uint32_t bound) {
    return static_cast<uint32_t>((static_cast<uint64_t>(word) * bound) >> 32);
}
