// AdamW (Loshchilov and Hutter, arXiv 1711.05101) over the flat buffers, in one pass.
//
//   g = factor * gradient,  gradient := 0
//   first  = beta1 first + (1 - beta1) g
//   second = beta2 second + (1 - beta2) g^2
//   master = keep master - rate first / (sqrt(second) root_correction + eps),  weight = round(master)
//
// or, without a master, weight = the same of the weight, rounded stochastically: up with a probability that is the part that rounding down
// would drop. Most updates are far smaller than half a unit of a bf16 weight, and rounding to nearest would lose them all; so the weight
// keeps them on average. Element e takes half e % 8 of Philox block e / 8, as in src/device/cpu/adamw.rs.
//
// with rate = learning rate / (1 - beta1^t), root_correction = 1 / sqrt(1 - beta2^t), and keep = 1 - learning rate * decay
// for elements before `decayed`, 1 for the others (biases and LayerNorm).
//
// Shapes: everything [count]. f32 weights are their own master. `clip` points to the factor that norm_finish left in device
// memory; where it is NaN (the norm was not finite) nothing is changed.
//
// Floor, 89.2 M parameters: bf16 with f32 gradients, reads of 16 bytes and writes of 18 a parameter, 3.0 GB, 1.01 ms at
// 3.0 TB/s; with bf16 gradients 14 + 16 bytes, 2.7 GB, 0.89 ms; without a master 14 + 14, 2.5 GB, 0.83 ms. About 12 operations an
// element, one root and one division; stochastic rounding has a Philox block of 60 for eight more.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A thread takes eight neighbours of every buffer with 16-byte accesses.

#include "common/pack.cuh"
#include "common/philox.cuh"

// The numbers of one update, computed on the host in f64; in Rust a #[repr(C)] struct of the same eight floats.
struct Update {
    float beta1, rest1;  // beta, 1 - beta
    float beta2, rest2;
    float eps, keep, rate, root_correction;
};

namespace {

constexpr int THREADS = 256;

__device__ __forceinline__ float step(float master, float gradient, float& first, float& second, float keep,
                                      const Update& update) {
    first = fmaf(first, update.beta1, gradient * update.rest1);
    second = fmaf(second, update.beta2, gradient * gradient * update.rest2);
    return master * keep - update.rate * first / fmaf(sqrtf(second), update.root_correction, update.eps);
}

// Rounds to one of the two bf16 neighbours, from 16 random bits; they carry into the upper half as often as the lower half is large. What is
// not finite stays.
__device__ __forceinline__ float round_stochastically(float value, uint32_t random) {
    if (!(fabsf(value) < INFINITY)) return value;
    return __uint_as_float((__float_as_uint(value) + random) & 0xffff0000u);
}

// `weights` is null where the master is the weight: in f32, or in bf16 with `rounding`.
template <bool VECTOR, typename W, typename M, typename G>
__device__ __forceinline__ void update_group(W* weights, M* master, G* gradients, float* first, float* second, int64_t at,
                                             int valid, int64_t decayed, float factor, const Update& update,
                                             const Philox* rounding) {
    float value[GROUP], gradient[GROUP], m[GROUP], v[GROUP];
    load_group<VECTOR>(gradients + at, valid, gradient);
    load_group<VECTOR>(first + at, valid, m);
    load_group<VECTOR>(second + at, valid, v);
    load_group<VECTOR>(master + at, valid, value);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) {
        const float keep = at + i < decayed ? update.keep : 1.0f;
        value[i] = step(value[i], gradient[i] * factor, m[i], v[i], keep, update);
        gradient[i] = 0.0f;
    }
    if constexpr (sizeof(M) == 2) {
        const PhiloxBlock block = philox_block(*rounding, at / GROUP);
#pragma unroll
        for (int i = 0; i < GROUP; ++i)
            value[i] = round_stochastically(value[i], block.words[i / 2] >> 16 * (i % 2) & 0xffffu);
    }
    store_group<VECTOR>(gradients + at, gradient, valid);
    store_group<VECTOR>(first + at, m, valid);
    store_group<VECTOR>(second + at, v, valid);
    store_group<VECTOR>(master + at, value, valid);
    if (weights != nullptr) store_group<VECTOR>(weights + at, value, valid);
}

template <typename W, typename M, typename G>
__device__ __forceinline__ void update_all(W* weights, M* master, G* gradients, float* first, float* second, int64_t count,
                                           int64_t decayed, const float* clip, const Update& update,
                                           const Philox* rounding = nullptr) {
    const float factor = *clip;
    if (factor != factor) return;  // NaN
    const bool aligned = is_aligned(weights) && is_aligned(master) && is_aligned(gradients) && is_aligned(first) &&
                         is_aligned(second);
    const int64_t stride = static_cast<int64_t>(gridDim.x) * THREADS * GROUP;
    for (int64_t at = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * GROUP; at < count; at += stride) {
        const int valid = count - at < GROUP ? static_cast<int>(count - at) : GROUP;
        if (aligned && valid == GROUP)
            update_group<true>(weights, master, gradients, first, second, at, valid, decayed, factor, update, rounding);
        else
            update_group<false>(weights, master, gradients, first, second, at, valid, decayed, factor, update, rounding);
    }
}

}  // namespace

// Any number of blocks of 256 threads; count / 2048 of them make it one pass.
//   adamw_update_f32        weights f32, gradients f32
//   adamw_update_bf16       weights bf16 with an f32 master, gradients bf16
//   adamw_update_bf16_f32   weights bf16 with an f32 master, gradients f32
//   adamw_update_stochastic_bf16_f32   weights bf16 without a master, rounded stochastically, gradients f32
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw_update_f32(float* weights, float* gradients, float* first, float* second, int64_t count, int64_t decayed,
                     const float* clip, Update update) {
    follow_earlier_kernels();
    update_all<float>(nullptr, weights, gradients, first, second, count, decayed, clip, update);
}
EXPORT_KERNEL(adamw_update_f32)

#define ADAMW_BF16(G, DTYPE)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                 \
        adamw_update_##DTYPE(bf16* weights, float* master, G* gradients, float* first, float* second,     \
                             int64_t count, int64_t decayed, const float* clip, Update update) {          \
        follow_earlier_kernels();                                                                         \
        update_all(weights, master, gradients, first, second, count, decayed, clip, update);              \
    }                                                                                                     \
    EXPORT_KERNEL(adamw_update_##DTYPE)

ADAMW_BF16(bf16, bf16)
ADAMW_BF16(float, bf16_f32)

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw_update_stochastic_bf16_f32(bf16* weights, float* gradients, float* first, float* second, int64_t count, int64_t decayed,
                                     const float* clip, Update update, Philox rounding) {
    follow_earlier_kernels();
    update_all<bf16>(nullptr, weights, gradients, first, second, count, decayed, clip, update, &rounding);
}
EXPORT_KERNEL(adamw_update_stochastic_bf16_f32)
