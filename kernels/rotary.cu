// Rotary positions (Su et al., arXiv 2104.09864), the half-split form, in place; forward, and with sign = -1 backward.
//
//   with the angle a = sign p base^(-2 j / d) of a token at position p, for each pair (j, j + d / 2) of a head's d elements
//   x[j] := x[j] cos a - x[j + d / 2] sin a,   x[j + d / 2] := x[j + d / 2] cos a + x[j] sin a
//
// Shapes: qkv [total, 3 heads head_dim], of which queries and keys, the first two thirds of a row, are turned; positions [total] i32.
//
// Angles: a product of an f32 position and an f32 frequency is off by 2^-24 of itself, 2e-4 at position 4,096. Here base^(-2 j / d) / pi is a
// power of the host's f64, by squaring, and its product with the position an f64 from which whole turns are taken before it is rounded. What
// is left is that rounding, 2^-25 of half a turn (9.4e-8), and sincospif's, 2 units in the last place: below 2.5e-7 at any position under 2^24.
//
// Floor, 65,536 tokens x 768 bf16: 1 read + 1 write of queries and keys = 403 MB, 0.134 ms at 3.0 TB/s. A token has 32 angles for 24 heads of
// 64 elements: a lane computes one, and all heads share them.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A warp a token. Its angles go to shared memory; a lane takes the eight pairs that are its own in every head, keeps their sines and
//      cosines in registers and walks over the heads: 16-byte accesses. Rejected on paper: a table of all positions, which is a kernel and a
//      read of its own to save 32 sines a token; sines and cosines by each lane that uses them, eight times the arithmetic.

#include "common/pack.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;
// Half of the largest head that attention takes.
constexpr int MAX_HALF = 128;

struct Angles {
    double frequencies[MAX_HALF];  // in half turns a position
    alignas(16) float cosines[WARPS][MAX_HALF];
    alignas(16) float sines[WARPS][MAX_HALF];
};

// step^exponent / pi. The error grows with the exponent, by two roundings of f64 for each of at most seven squarings.
__device__ __forceinline__ double half_turns(double step, int exponent) {
    double power = 0.31830988618379067;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1) power *= step;
        step *= step;
    }
    return power;
}

__device__ __forceinline__ void sine_and_cosine(float half_turns, float& sine, float& cosine) {
#ifdef CUDA_ON_CPU
    // The C library has no such function.
    sine = static_cast<float>(sin(3.14159265358979324 * half_turns));
    cosine = static_cast<float>(cos(3.14159265358979324 * half_turns));
#else
    sincospif(half_turns, &sine, &cosine);
#endif
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void turn_heads(T* row, int heads, int head_dim, const float* cosines, const float* sines) {
    const int half = head_dim / 2, groups = divide_up(half, GROUP), lane = threadIdx.x % WARP;
    // Heads that a warp takes at once; with 3 or 5 groups a head two lanes are left over.
    const int at_once = WARP / groups, first = lane / groups, pair = lane % groups * GROUP, valid = half - pair;
    if (first >= at_once) return;
    float cosine[GROUP], sine[GROUP];
    load_group<VECTOR>(cosines + pair, valid, cosine);
    load_group<VECTOR>(sines + pair, valid, sine);
    for (int head = first; head < 2 * heads; head += at_once) {
        T* at = row + head * head_dim + pair;
        float low[GROUP], high[GROUP];
        load_group<VECTOR>(at, valid, low);
        load_group<VECTOR>(at + half, valid, high);
#pragma unroll
        for (int i = 0; i < GROUP; ++i) {
            const float before = low[i];
            low[i] = fmaf(before, cosine[i], -(high[i] * sine[i]));
            high[i] = fmaf(high[i], cosine[i], before * sine[i]);
        }
        store_group<VECTOR>(at, low, valid);
        store_group<VECTOR>(at + half, high, valid);
    }
}

template <bool VECTOR, typename T>
__device__ __forceinline__ void rotate(T* qkv, const int* positions, int total, int heads, int head_dim, double step, float sign,
                                       Angles& angles) {
    const int half = head_dim / 2, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int pair = threadIdx.x; pair < half; pair += THREADS) angles.frequencies[pair] = half_turns(step, pair);
    __syncthreads();
    for (int token = blockIdx.x * WARPS + warp; token < total; token += gridDim.x * WARPS) {
        const double position = positions[token];
        for (int pair = lane; pair < half; pair += WARP) {
            double angle = position * angles.frequencies[pair];
            angle -= 2.0 * rint(0.5 * angle);
            float sine, cosine;
            sine_and_cosine(static_cast<float>(angle), sine, cosine);
            angles.sines[warp][pair] = sign * sine;
            angles.cosines[warp][pair] = cosine;
        }
        __syncwarp();
        turn_heads<VECTOR>(qkv + static_cast<int64_t>(token) * 3 * heads * head_dim, heads, head_dim, angles.cosines[warp],
                           angles.sines[warp]);
        __syncwarp();
    }
}

}  // namespace

// Any number of blocks of 256 threads; total / 16 of them take two tokens a warp. head_dim even, at most 256; step = base^(-2 / head_dim).
#define ROTARY(T, DTYPE)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                       \
        rotary_##DTYPE(T* qkv, const int* positions, int total, int heads, int head_dim, double step, float sign) { \
        follow_earlier_kernels();                                                                               \
        __shared__ Angles angles;                                                                               \
        if (head_dim % (2 * GROUP) == 0 && is_aligned(qkv))                                                     \
            rotate<true>(qkv, positions, total, heads, head_dim, step, sign, angles);                           \
        else                                                                                                    \
            rotate<false>(qkv, positions, total, heads, head_dim, step, sign, angles);                          \
    }                                                                                                           \
    EXPORT_KERNEL(rotary_##DTYPE)

ROTARY(float, f32)
ROTARY(bf16, bf16)
