// What the tape needs besides the operations: adding one gradient to another.
//
//   accumulate   sum += term
//
// Shapes: [count]. Floor, 65,536 x 768 bf16: 2 reads + 1 write = 302 MB, 0.10 ms at 3.0 TB/s.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A thread takes eight neighbours.

#include "common/pack.cuh"

namespace {

constexpr int THREADS = 256;

template <bool VECTOR, typename T>
__device__ __forceinline__ void accumulate(T* sum, const T* term, int valid) {
    float left[GROUP], right[GROUP];
    load_group<VECTOR>(sum, valid, left);
    load_group<VECTOR>(term, valid, right);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) left[i] += right[i];
    store_group<VECTOR>(sum, left, valid);
}

}  // namespace

// Any number of blocks of 256 threads; count / 2048 of them make it one pass.
#define ACCUMULATE(T, DTYPE)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) accumulate_##DTYPE(T* sum, const T* term, int64_t count) {     \
        follow_earlier_kernels();                                                                                        \
        const bool aligned = is_aligned(sum) && is_aligned(term);                                                        \
        const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS * GROUP;                                          \
        for (int64_t at = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * GROUP; at < count; at += step) {  \
            const int valid = count - at < GROUP ? static_cast<int>(count - at) : GROUP;                                 \
            if (aligned && valid == GROUP)                                                                               \
                accumulate<true>(sum + at, term + at, valid);                                                            \
            else                                                                                                         \
                accumulate<false>(sum + at, term + at, valid);                                                           \
        }                                                                                                                \
    }                                                                                                                    \
    EXPORT_KERNEL(accumulate_##DTYPE)

ACCUMULATE(float, f32)
ACCUMULATE(bf16, bf16)
